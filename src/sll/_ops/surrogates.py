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

__all__ = ["alias", "eager", "follow", "fresh", "kept", "lazy_clone", "open_elements", "ramp", "simple", "whole_step"]


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


_BANDS = (
    "ClampBackward0",
    "ClampBackward1",
    "_RampBackward",
    "_BandOffsetBackward",
    "_BandOffsetJvpBackward",
    "_ChosenBackward",
)


def _inputs_of_bands(value: Tensor) -> list[Any]:
    """The edges of the graph at which the floats come in on which `value` decides."""
    edges: dict[Any, Any] = {}
    todo: list[Any] = [value.grad_fn]
    seen: set[Any] = set()
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
