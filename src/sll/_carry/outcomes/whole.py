"""Counts that became floats: what is asked of the float is asked of the count, whose steps are known."""

from __future__ import annotations

from typing import Any, TypeAlias

import torch
from torch import Tensor

from ..._ops.env import readable
from ..._rules.index import names_of, row_of, spellings
from ..interface import Func, Region, attach, held
from .carriers import Blend

Integers: TypeAlias = tuple[Tensor | None, Tensor | None]
"""Of a float of integers, these and its support."""

SIGNS = {"gt": 1, "ge": 1, "lt": -1, "le": -1, "eq": 1, "ne": -1}
COMPARES = {func: name for name in SIGNS for spelled in (row_of(name).names.split()) for func in spellings(spelled)}

_CASTS = {func for name in (*names_of("floats"), "to", "type", "type_as") for func in spellings(name)}
_TIMES = {func for name in ("mul", "__rmul__") for func in spellings(name)}
_LESS = {func for name in ("sub", "__rsub__", "rsub", "neg") for func in spellings(name)}
_MORE = ("add", "__radd__", "sum", "__getitem__", "select", "diag", "diagonal", "reshape", "view")
_OF_WHOLES = {*_TIMES, *_LESS, *(func for name in _MORE for func in spellings(name))}
"""Of whole numbers they make whole numbers: what confusion matrices go through before somebody divides."""
_ROUNDS = {func for name in ("round", "floor", "ceil", "trunc", "fix") for func in spellings(name)}
_TO_INTEGERS = {func for name in ("long", "int") for func in spellings(name)}
_REMAINDERS = {
    func for name in ("remainder", "__mod__", "fmod", "floor_divide", "__floordiv__") for func in spellings(name)
}
_ASKED = {*COMPARES, *_ROUNDS, *_TO_INTEGERS, *_REMAINDERS}


def of_the_count(region: Region, func: Func, args: tuple[Any, ...], kwargs: dict[str, Any]) -> Any:
    """What is asked of the count. NotImplemented if it is something else."""
    if func not in _ASKED or kwargs:
        return NotImplemented
    zero = func in COMPARES and COMPARES[func] in ("eq", "ne") and any(type(x) in (int, float) and x == 0 for x in args)
    whole = [_whole(x, zero) for x in args]
    if whole[0] is None and (func not in COMPARES or len(whole) < 2 or whole[1] is None):
        return NotImplemented
    if func in _ROUNDS:
        return attach(region, args[0].clone(), held(args[0], Blend))
    if func in _REMAINDERS:
        by = args[1]
        if isinstance(by, Tensor) or by != int(by):
            return NotImplemented
        if abs(by) == 1 and "div" not in func.__name__:
            return torch.zeros_like(args[0])
        return region.call(Tensor.to, region.call(func, whole[0], int(by)), args[0].dtype)
    return region.call(func, *(x if n is None else n for x, n in zip(args, whole)))


def _whole(x: Any, zero: bool = False) -> Tensor | None:
    """`zero`: the question is whether it is 0."""
    found = held(x, Blend)
    if found is None:
        return None
    return found.support if zero and found.support is not None else found.whole


def whole_of(region: Region, func: Func, args: tuple[Any, ...], kwargs: dict[str, Any]) -> Integers:
    """The integers of which the result of `func` is the float, if its operands are floats of integers; and its support
    (see `Blend`), if there is one.
    """
    if func in _CASTS:
        return args[0], args[0]
    if func not in _OF_WHOLES or kwargs:
        return None, None
    parts: list[Any] = []
    for x in args:  # (most floats are known not to be whole by the first operand, before numbers are read)
        parts.append(_as_integers(x))
        if parts[-1] is NotImplemented:
            return None, None
    out = region.call(func, *parts)
    if not isinstance(out, Tensor) or out.is_floating_point():
        return None, None
    support = [_support(x) if isinstance(x, Tensor) else n for x, n in zip(args, parts)]
    if func in _TIMES:
        factors = [x for x in parts if not isinstance(x, Tensor)]
        return out, next((x for x in support if isinstance(x, Tensor)), None) if len(factors) == 1 and factors[
            0
        ] else None
    if func in _LESS or any(x is None and y is not None for x, y in zip(support, args)):
        return out, None
    return out, region.call(func, *support)


def _support(x: Tensor) -> Tensor | None:
    """Counts that are 0 where `x` is, and not negative: then a sum of some is 0 where each is."""
    found = x if not x.is_floating_point() else getattr(held(x, Blend), "support", None)
    known = None if found is None else readable(found)
    return found if known is not None and bool((known >= 0).all()) else None


def _as_integers(x: Any) -> Any:
    """`x` without a fraction; NotImplemented if it has one, or that is not known."""
    if isinstance(x, float):
        return int(x) if x.is_integer() else NotImplemented
    if not isinstance(x, Tensor):
        return x if not isinstance(x, complex) else NotImplemented  # (an index, a dimension)
    if not x.is_floating_point():
        return x if not x.is_complex() else NotImplemented
    if (found := _whole(x)) is not None:
        return found
    known = readable(x) if not x.requires_grad and x.device.type == "cpu" else None
    return NotImplemented if known is None or not bool((known == known.round()).all()) else known.long()
