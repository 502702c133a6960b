"""Surrogate gradients: a value that the program has anyway, with a gradient that it has not.

`ramp`    the value of a discrete op, and the slope of its ramp where the distance to the boundary is in the band
`follow`  a value, and the gradient of another tensor that stands for it

The gradient is that of ordinary functions: a tensor is computed that has it, and then given the value (``.data =``). So
forward and backward are torch's own, without Python in between. What they save is a lazy clone, so that no write of the
program meets it.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor

from .band import band_offset, hard_forward
from .env import compiling, unusual

__all__ = ["alias", "eager", "follow", "fresh", "kept", "lazy_clone", "ramp", "simple", "whole_step"]


def eager() -> bool:
    """Whether plain autograd is all there is."""
    return not compiling() and not unusual()


def simple(x: Tensor) -> bool:
    """Whether `x` is an ordinary tensor, in eager mode."""
    return (type(x) is Tensor or type(x) is torch.nn.Parameter) and x.layout == torch.strided and eager()


lazy_clone: Callable[[Tensor], Tensor] = getattr(torch, "_lazy_clone", torch.clone)


def kept(x: Tensor) -> Tensor:
    """`x` as it is now, whatever is written to it later; autograd follows it to `x`."""
    return x.clone()


def alias(x: Tensor) -> Tensor:
    """`x`, which a call in the region has just made, as it is now; without gradient.

    A lazy clone shares memory until somebody writes. That is only for tensors which nobody else has seen: who has the
    memory already (NumPy, DLPack) is cut off by that write, and reads what is freed.
    """
    return lazy_clone(x.detach()) if simple(x) else x.detach().clone()


def fresh(value: Tensor) -> Tensor:
    """Another tensor of the numbers of one that only we have; autograd follows."""
    return lazy_clone(value) if eager() else value.clone()


def follow(soft: Tensor, make: Callable[[], Tensor]) -> Tensor:
    """``make()``, a float tensor of the shape of `soft` that nobody else has, with the gradient of `soft`."""
    if not eager():
        return hard_forward(make(), soft)
    shown = lazy_clone(soft)
    shown.data = make()
    return shown


def ramp(
    x: Tensor, at: Any, half: float | Tensor, height: float, make: Callable[[], Tensor], own: bool = False
) -> Tensor:
    """``make()``, a step of `height` at the boundary ``x == at``, with the gradient of its ramp over ``± half``.

    `at` may be a function from `x` to the signed distance to the nearest boundary instead. `own`: nobody else has `x`.
    The slope of a clamp is 1 in
    the closed interval, and 0 for NaN; so it is the ramp's but for a factor. It saves a tensor that nobody writes to.
    """
    if not eager():
        distance, value = at(x) if callable(at) else x - at, make()
        return hard_forward(value, band_offset(distance, half).expand(value.shape) * height)
    if callable(at):
        distance = at(x)
    elif at:
        distance = x - at
    else:
        distance = x if own else x.clone()
    slope = height * 0.5 / half
    shown: Tensor = distance.clamp(-half, half)
    if isinstance(slope, Tensor) or slope != 1:
        shown = shown * slope
    value = make()
    if value.dtype != shown.dtype:
        shown = shown.to(value.dtype)
    shown.data = value
    return shown


def whole_step(x: Tensor, make: Callable[[], Tensor]) -> Tensor:
    """``make()`` with the gradient of `x`, where that is a finite number (in eager mode)."""
    shown = kept(x).clamp(-torch.finfo(x.dtype).max, torch.finfo(x.dtype).max)
    shown.data = make()
    return shown
