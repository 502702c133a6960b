"""How an autograd function is called, and numbers without infinities."""

from __future__ import annotations

import math
from typing import Any

import torch
from torch import Tensor

from .env import dispatched


def run(function: Any, *args: Any) -> Tensor:
    """``function.apply(*args)``. Where no transform is active, without the detour through `inspect` that it takes for
    every function with a ``setup_context`` (to fill in defaults, and there are none): tens of microseconds.
    """
    if torch._C._are_functorch_transforms_active():
        return function.apply(*args)  # type: ignore[no-any-return]
    args = torch._functorch.utils.unwrap_dead_wrappers(args)
    return super(torch.autograd.Function, function).apply(*args)  # type: ignore[no-any-return]


def finite(x: Tensor) -> Tensor:
    """`x`, and 0 where it is not finite. (Inductor asks one number after the other whether it is NaN.)"""
    return torch.where(x.abs() < math.inf, x, 0) if dispatched() else x.nan_to_num(0.0, 0.0, 0.0)
