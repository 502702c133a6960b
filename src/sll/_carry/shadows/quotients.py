"""Division by what is decided: it may be zero, where a guard of the program drops the result."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from ..._ops.env import free_to_read, recorded
from ..interface import Func

QUOTIENTS = {"true_divide", "__truediv__", "div", "divide", "__div__"}
_REMAINDERS = {"floor_divide", "__floordiv__", "remainder", "__mod__", "fmod", *QUOTIENTS}


def but_by_zero(x: Any, n: Tensor) -> Any:
    """`x`, without gradient where it is divided by zero: 0 * inf would be NaN."""
    if recorded(x) is None:
        return x
    zero = n == 0
    return x if free_to_read(zero) and not zero.any() else torch.where(zero, x.detach(), x)


def divides(func: Func) -> bool:
    """Whether its last operand is a divisor."""
    return func.__name__ in _REMAINDERS


def not_zero(func: Func, other: Tensor, n: Tensor) -> Tensor:
    """The `other` side of a divisor `n`, and `n` itself where integers would raise."""
    if other.is_floating_point() or not divides(func):
        return other
    return torch.where(other == 0, n, other)
