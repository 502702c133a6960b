"""Counts that became floats: what is asked of the float is asked of the count, whose steps are known."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from ..._ops.env import compiling
from ..._rules.index import spellings
from ..interface import Func, Region
from .algebra import COMPARES
from .carriers import attach, blend_of

__all__ = ["of_the_count"]

_ROUNDS = {func for name in ("round", "floor", "ceil", "trunc", "fix") for func in spellings(name)}
_TO_INTEGERS = {func for name in ("long", "int") for func in spellings(name)}
_REMAINDERS = {
    func for name in ("remainder", "__mod__", "fmod", "floor_divide", "__floordiv__") for func in spellings(name)
}
_ASKED = {*COMPARES, *_ROUNDS, *_TO_INTEGERS, *_REMAINDERS}


def of_the_count(region: Region, func: Func, args: tuple[Any, ...], kwargs: dict[str, Any]) -> Any:
    """What is asked of the count. NotImplemented if it is something else."""
    if func not in _ASKED or kwargs or compiling():
        return NotImplemented
    whole = [_whole(x) for x in args]
    if whole[0] is None and (func not in COMPARES or len(whole) < 2 or whole[1] is None):
        return NotImplemented
    if func in _ROUNDS:
        return attach(region, args[0].clone(), blend_of(args[0]))
    if func in _REMAINDERS:
        by = args[1]
        if isinstance(by, Tensor) or by != int(by):
            return NotImplemented
        if abs(by) == 1 and "div" not in func.__name__:
            return torch.zeros_like(args[0])
        return region.call(Tensor.to, region.call(func, whole[0], int(by)), args[0].dtype)
    return region.call(func, *(x if n is None else n for x, n in zip(args, whole)))


def _whole(x: Any) -> Tensor | None:
    found = blend_of(x) if isinstance(x, Tensor) else None
    return None if found is None else found.whole
