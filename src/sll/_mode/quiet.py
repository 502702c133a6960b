"""Calls in a function that may run again which no rule need see: they write to nothing, and decide nothing."""

from __future__ import annotations

from typing import Any

from torch import Tensor

from .._ops.band import closed
from .._ops.env import unusual
from .._ops.surrogates import ordinary
from .._rules.index import OPERATORS, spellings
from .threads import IDLE

__all__ = ["decides_nothing"]

_COMPARED = {func: op for op in ("gt", "ge", "lt", "le") for func in spellings(op)}


def decides_nothing(region: Any, func: Any, args: tuple[Any, ...]) -> bool:
    """Of a function that writes to nothing."""
    op = _COMPARED.get(func)
    if op is not None:
        return region.linear is not None and _shut(region.eps_for(op), args)
    engine = region.engine
    idle = IDLE.rerun is region and type(func) not in OPERATORS
    return idle and func not in engine.always and func not in engine.quick


def _shut(eps: Any, args: tuple[Any, ...]) -> bool:
    """Whether two numbers are certainly further apart than `eps`: most questions of most programs are."""
    if type(eps) is not float or len(args) != 2 or unusual():
        return False
    numbers = []
    for x in args:
        if isinstance(x, Tensor):
            if x.numel() != 1 or not x.is_cpu or not ordinary(x) or getattr(x, "_sll", None) is not None:
                return False
            x = x.item()
        if type(x) is not float and type(x) is not int:
            return False
        numbers.append(x)
    a, b = numbers
    return closed(a, b, eps)
