"""How an autograd function is called, and what a compiler is given to keep for backward."""

from __future__ import annotations

import math
from typing import Any

import torch
from torch import Tensor

from .env import compiling

__all__ = ["as_numbers", "finite", "is_finite", "is_number", "packed", "run"]


def run(function: Any, *args: Any) -> Tensor:
    """``function.apply(*args)``. Where no transform is active, without the detour through `inspect` that it takes for
    every function with a ``setup_context`` (to fill in defaults, and there are none): tens of microseconds.
    """
    if compiling() or torch._C._are_functorch_transforms_active():
        return function.apply(*args)  # type: ignore[no-any-return]
    args = torch._functorch.utils.unwrap_dead_wrappers(args)
    return super(torch.autograd.Function, function).apply(*args)  # type: ignore[no-any-return]


def packed(mask: Tensor) -> Tensor:
    """A mask to keep for backward. Inductor writes and reads bools one element at a time on the CPU, 10 ns for each;
    bytes made from floats it writes by the vector.
    """
    return mask.to(torch.float32).to(torch.int8) if compiling() else mask


def _unpacked(kept: Tensor, g: Tensor) -> Tensor:
    """The mask again. It asks for the gradient, or the compiler would do this in forward and keep bools after all."""
    return kept.to(torch.float32) > 0.5 * (g == g) if kept.dtype == torch.int8 else kept


def as_numbers(x: Tensor, dtype: torch.dtype) -> Tensor:
    """``x.to(dtype)``, of which a compiler keeps no bool for backward."""
    return packed(x).to(dtype) if x.dtype == torch.bool else x.to(dtype)


# Inductor asks the elements of a vector one by one whether they are NaN. And of what compares two tensors the compiler
# keeps the mask for backward; compared with a number, they are compared again there, which costs next to nothing.


def is_number(x: Tensor) -> Tensor:
    """Mask of the elements that are not NaN, for a compiler."""
    return x.abs() >= 0


def is_finite(x: Tensor) -> Tensor:
    return x.abs() < math.inf if compiling() else x.isfinite()


def finite(x: Tensor) -> Tensor:
    """`x`, and 0 where it is not finite."""
    return torch.where(is_finite(x), x, 0) if compiling() else x.nan_to_num(0.0, 0.0, 0.0)
