"""The autograd functions of local gradients: a value that the program has anyway, with a gradient that it has not.

`ramp`    the value of a discrete op, and the slope of its ramp where the distance to the boundary is in the band
`follow`  a value, and the gradient of another tensor that stands for it

Both take the function that makes the value: an autograd function must return a tensor of its own, which the program is
free to write to. What backward needs is kept as a copy, so such writes never meet a saved tensor.
"""

from __future__ import annotations

import functools
import math
from array import array
from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor

from .band import band_offset, hard_forward
from .env import compiling

__all__ = ["alias", "eager", "follow", "kept", "lazy_clone", "open_elements", "ramp", "simple", "whole_step"]

_hardtanh_backward = torch.ops.aten.hardtanh_backward.default


def eager() -> bool:
    """Whether plain autograd is all there is: nobody compiles, transforms, traces or differentiates forward."""
    if compiling() or torch._C._are_functorch_transforms_active():
        return False
    return torch.autograd.forward_ad._current_level < 0 and not torch._C._len_torch_dispatch_stack()


def simple(x: Tensor) -> bool:
    """Whether `x` is an ordinary tensor, in eager mode."""
    return (type(x) is Tensor or type(x) is torch.nn.Parameter) and x.layout == torch.strided and eager()


lazy_clone: Callable[[Tensor], Tensor] = getattr(torch, "_lazy_clone", torch.clone)


def kept(x: Tensor) -> Tensor:
    """`x` as it is now, whatever is written to it later; autograd follows it to `x`.

    A lazy clone shares memory until somebody writes. A leaf is copied: who shares its memory (NumPy, another process)
    would be cut off by that write.
    """
    return x.clone() if x.is_leaf or not simple(x) else lazy_clone(x)


def alias(x: Tensor) -> Tensor:
    """`x`, which a call in the region has just made, as it is now; without gradient."""
    return lazy_clone(x.detach()) if simple(x) else x.detach().clone()


@functools.lru_cache(maxsize=256)
def edge(half: float, dtype: torch.dtype) -> float:
    """The first number beyond the closed band."""
    if dtype == torch.float64 or not 1e-36 < half < 3e38:
        return math.nextafter(half, math.inf) if math.isfinite(half) else half
    return float(array("f", [half])[0]) * (1 + 1.01 * 2.0**-24)


class _Ramp(torch.autograd.Function):
    """``make()``, with the gradient ``slope * g`` to `x` where ``|x - at| <= half``.

    `at` is a number, or a function from `x` to the distance. NaN has no distance, and gets no gradient; with an
    infinite `half`, all other finite numbers do.
    """

    @staticmethod
    def forward(ctx: Any, x: Tensor, at: Any, half: float | Tensor, slope: float | Tensor, make: Any) -> Tensor:
        distance = at(x) if callable(at) else x - at if at else x
        if isinstance(half, Tensor):  # a number on another device, which nobody reads
            distance, half = distance / half, 1.0
        ctx.save_for_backward(distance.nan_to_num(math.inf, math.inf, -math.inf))
        ctx.edge, ctx.slope, ctx.dtype = edge(half, distance.dtype), slope, distance.dtype
        return make()  # type: ignore[no-any-return]

    @staticmethod
    def backward(ctx: Any, g: Tensor) -> Any:
        (distance,) = ctx.saved_tensors
        g = g if g.dtype is ctx.dtype else g.to(ctx.dtype)
        g = _hardtanh_backward(g, distance, -ctx.edge, ctx.edge)
        slope = ctx.slope
        if type(slope) is float:
            return g if slope == 1.0 else g * slope, None, None, None, None
        return g * slope, None, None, None, None


class _Follow(torch.autograd.Function):
    """``make()``, with the gradient of `soft`."""

    @staticmethod
    def forward(ctx: Any, soft: Tensor, make: Any) -> Tensor:
        ctx.dtype = soft.dtype
        return make()  # type: ignore[no-any-return]

    @staticmethod
    def backward(ctx: Any, g: Tensor) -> Any:
        return g.to(ctx.dtype), None


def ramp(x: Tensor, at: Any, half: float | Tensor, height: float, make: Callable[[], Tensor]) -> Tensor:
    """``make()``, a step of `height` at the boundary ``x == at``, with the gradient of its ramp over ``± half``.

    `at` may be a function from `x` to the signed distance to the nearest boundary instead.
    """
    if eager():
        return _apply_ramp(x, at, half, height * 0.5 / half, make)
    distance = at(x) if callable(at) else x - at
    value = make()
    return hard_forward(value, band_offset(distance, half).expand(value.shape) * height)


def whole_step(x: Tensor, make: Callable[[], Tensor]) -> Tensor:
    """``make()`` with the gradient of `x`, where that is a finite number (in eager mode)."""
    return _apply_ramp(x, 0.0, math.inf, 1.0, make)  # type: ignore[no-any-return]


def follow(soft: Tensor, make: Callable[[], Tensor]) -> Tensor:
    """``make()``, a float tensor of the shape of `soft`, with the gradient of `soft`."""
    return _apply_follow(soft, make) if eager() else hard_forward(make(), soft)


# `Function.apply` looks at its class each time: what it looks for is not there.
_apply_ramp = super(torch.autograd.Function, _Ramp).apply
_apply_follow = super(torch.autograd.Function, _Follow).apply


def open_elements(value: Tensor) -> int:
    """How many elements of a shadow depend on a decision in its band: those on which some input has an effect."""
    if not value.requires_grad or torch._C._functorch.is_functorch_wrapped_tensor(value):
        return 0
    edges = _inputs_of_bands(value)
    if not edges:
        return 0
    # The effect of all inputs at once, each moved by another number: the derivative by `v` of the gradient along `v`.
    v = torch.ones_like(value, requires_grad=True)
    try:
        with torch.enable_grad():
            found = torch.autograd.grad(value, edges, v, create_graph=True, allow_unused=True)
            moved = sum((g * torch.rand_like(g)).sum() for g in found if g is not None)
            (effect,) = torch.autograd.grad(moved, v)  # type: ignore[arg-type]
    except RuntimeError:  # backward has freed the graph, or hooks have it: it cannot be told
        return value.numel()
    return int((effect != 0).sum())


_BANDS = ("_RampBackward", "_BandOffsetBackward", "_BandOffsetJvpBackward", "_ChosenBackward")


def _inputs_of_bands(value: Tensor) -> list[Any]:
    """The edges of the graph at which the floats come in on which `value` decides."""
    edges: dict[Any, Any] = {}
    todo, seen = [value.grad_fn], set()
    while todo and len(seen) < 10_000:
        node = todo.pop()
        if node is None or node in seen:
            continue
        seen.add(node)
        if type(node).__name__ in _BANDS or type(node).__name__ == "AccumulateGrad":
            for parent, number in node.next_functions:
                if parent is not None:
                    edges[parent, number] = torch.autograd.graph.GradientEdge(parent, number)
        else:
            todo.extend(parent for parent, _ in node.next_functions)
    return list(edges.values())
