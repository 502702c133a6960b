"""Surrogate gradients: a value that the program has anyway, with a gradient that it has not.

`ramp`    the value of a discrete op, and the slope of its ramp where the distance to the boundary is in the band
`follow`  a value, and the gradient of another tensor that stands for it

The gradient is that of ordinary functions: a tensor is computed that has it, and then given the value (``.data =``). So
forward and backward are torch's own, without Python in between. What they save is a lazy clone, so that no write of the
program meets it.
"""

from __future__ import annotations

import functools
import math
import struct
from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor
from torch.nn import Parameter

from .apply import finite
from .band import hard_forward
from .env import eager


def ordinary(x: Any) -> bool:
    """Whether `x` is a dense tensor of no class of its own."""
    return (type(x) is Tensor or type(x) is Parameter) and x.layout is torch.strided


def simple(x: Tensor) -> bool:
    """Whether `x` is an ordinary tensor, in eager mode."""
    return ordinary(x) and eager()


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


def _has_zero(x: Tensor) -> bool:
    return x.item() <= 0 if x.numel() == 1 else bool((x.detach() <= 0).any())


def finite_gradient(x: Tensor) -> Tensor:
    """`x`, to whose elements what is not finite is no gradient. The mean of what is counted, or is put into a bin, is
    0 / 0 where that is nothing, and so is its derivative by the number.
    """
    if x.requires_grad and eager():
        x.register_hook(finite)  # type: ignore[no-untyped-call]
    return x


def finite_gradient_at_zero(x: Tensor) -> Tensor:
    """The same of a count, whose functions have infinite derivatives at 0, and none below. A hook costs time."""
    none = x.requires_grad and eager() and x.device.type == "cpu" and not _has_zero(x)
    return x if none else finite_gradient(x)


def ramp(
    x: Tensor, distance: Tensor, half: float | Tensor, slope: float | Tensor, make: Callable[[], Tensor]
) -> Tensor:
    """``make()``, which nobody else has, with the gradient of `x` times `slope` where ``|distance| <= half``.

    `distance` is data: its gradient is not asked for. NaN is at no distance. Nothing that the program can write to is
    saved.
    """
    if eager():
        return windowed(x, distance, half, slope, make)
    value = make()
    soft = torch.where(distance.abs() <= half, x, 0)
    soft = soft if type(slope) is float and slope == 1 else soft * slope
    return hard_forward(value, soft.expand(value.shape))


def windowed(
    x: Tensor, distance: Tensor, half: float | Tensor, slope: float | Tensor, make: Callable[[], Tensor]
) -> Tensor:
    """`ramp`, where plain autograd is all there is."""
    shown = within(x, distance, half, slope)
    value = make()
    if value.dtype != shown.dtype:
        shown = shown.to(value.dtype)
    shown.data = value
    return shown


def whole(x: Tensor, fixed: Tensor, value: Tensor, but_zero: bool = False) -> Tensor:
    """`value`, which nobody else has, with the gradient of `x` where that is finite: `windowed` over whole steps.
    `but_zero`: what is nearer to 0 than to another integer has none.
    """
    if but_zero:
        shown = _outside(x, finite(fixed), 0.5)
    elif fixed.is_cpu and fixed.numel() > 1 and _all_finite(fixed, value):
        shown = torch.alias_copy(x)  # (no program makes such a node: it tells `openness` that something is decided)
    else:
        shown = window(x, _no_nan(fixed), -_INF, _INF)
    shown.data = value
    return shown


_INF = math.inf
_FEW = 256


def _all_finite(x: Tensor, value: Tensor) -> bool:
    """Whether `x`, rounded to `value`, is. (A sum takes three times as long as to compare few numbers.)"""
    return torch.equal(d := x - value, d) if x.numel() <= 16 * _FEW else math.isfinite(x.sum().item())


def _no_nan(x: Tensor) -> Tensor:
    """A copy with inf for NaN. (Of few numbers `fmin` takes half the time, of many several times as long.)"""
    return torch.fmin(x, number(_INF, x.dtype)) if x.numel() <= _FEW else x.nan_to_num(_INF, _INF, -_INF)


def within(x: Tensor, distance: Tensor, half: float | Tensor, slope: float | Tensor) -> Tensor:
    """A tensor with the gradient of `windowed`, and some value."""
    if isinstance(half, Tensor):
        distance, half = torch.where(distance.abs() <= half, 0.0, math.inf), 1.0
    edge = just_above(half, x.dtype)
    found = window(x, _no_nan(distance), -edge, edge)
    if isinstance(slope, Tensor):
        return found * slope
    return found if slope == 1 else found * number(slope, x.dtype)


window: Callable[[Tensor, Tensor, float, float], Tensor] = torch.ops.aten.hardtanh_backward.default._op
"""``window(g, x, low, high)``: 0 where ``x <= low`` or ``x >= high``, else `g`. One kernel, which saves `x`. It is its
own derivative by `g`.
"""


_outside: Callable[[Tensor, Tensor, float], Tensor] = torch.ops.aten.hardshrink_backward.default._op
"""``_outside(g, x, at)``: 0 where ``abs(x) <= at``, else `g`; the same of it."""


@functools.lru_cache(maxsize=1024)
def number(value: float, dtype: torch.dtype, device: torch.device | str = "cpu") -> Tensor:
    """A number as a tensor. With that, small tensors are multiplied in half the time, forward and backward. One on the
    CPU goes with those of any device, where a function has two operands.
    """
    return torch.scalar_tensor(value, dtype=torch.float64).to(device, dtype)  # (inf beyond its range)


def constant(value: float, dtype: torch.dtype, device: torch.device | str = "cpu") -> Tensor:
    """`number`; another one where calls are traced."""
    return number(value, dtype, device) if eager() else torch.full((), value, dtype=dtype, device=device)


@functools.lru_cache(maxsize=1024)
def just_above(half: float, dtype: torch.dtype) -> float:
    """The number after `half` in `dtype`: what is below that is in the closed band."""
    if dtype == torch.float64 or half == math.inf:
        return math.nextafter(half, math.inf)
    single = struct.unpack("<I", struct.pack("<f", min(half, _LARGEST)))[0]
    return struct.unpack("<f", struct.pack("<I", single + 1))[0]  # type: ignore[no-any-return]


_LARGEST = torch.finfo(torch.float32).max
