"""Calls in a function that may run again which no rule need see: they write to nothing, and decide nothing."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from torch import Tensor

from .._ops.band import closed
from .._ops.env import eager
from .._ops.surrogates import ordinary
from .._rules.index import OPERATORS, spellings
from .threads import IDLE

__all__ = ["decides_nothing"]

_BOUNDARY: dict[str, Callable[..., float]] = {
    **dict.fromkeys(("gt", "ge", "lt", "le"), lambda x, at: at),
    "frac": round,
    "remainder": lambda x, by: by * round(x / by),
}
"""Of the operands of an op, the boundary that is nearest to the first one. (What is rounded lies on boundaries of what
follows, ``int()`` for one. So that it was rounded has to be known.)
"""
_DECIDES = {func: op for op in _BOUNDARY for func in spellings(op)}


def decides_nothing(region: Any, func: Any, args: tuple[Any, ...]) -> bool:
    """Of a function that writes to nothing."""
    op = _DECIDES.get(func)
    if op is not None:
        return region.linear is not None and region.trace is None and _shut(op, region.fixed.get(op), args)
    engine = region.engine
    idle = IDLE.rerun is region and type(func) not in OPERATORS
    return idle and func not in engine.always and func not in engine.quick


def _shut(op: str, eps: float | None, args: tuple[Any, ...]) -> bool:
    """Whether a number is certainly further than `eps` from where it is decided: most are, in most programs. (A policy
    that is asked here would count a decision that the rule counts again.)
    """
    if eps is None or not eager():
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
    try:
        return closed(numbers[0], _BOUNDARY[op](*numbers), eps)
    except (ArithmeticError, TypeError, ValueError):  # no number, infinite, divided by 0, other arguments
        return False
