"""The two autograd functions of flips.

`slope`  the weights of flips, with the slope of the ramp as their gradient; nobody reads their value
`meet`   a float with the gradient of its flips: weight times difference
"""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from ..._ops.band import hard_forward
from ..._ops.dtypes import compute_dtype


def take(x: Tensor, at: Tensor) -> Tensor:
    """Elements of a tensor, without gradient."""
    return torch.take(x.detach(), at)


def _transformed() -> bool:
    """Whether plain autograd is not all: then stock ops compute the same, with derivatives of any kind."""
    return torch._C._are_functorch_transforms_active() or torch.autograd.forward_ad._current_level >= 0


class _Slope(torch.autograd.Function):
    """Nothing is freed with the graph: the same decision may be asked for again after backward."""

    @staticmethod
    def forward(ctx: Any, x: Tensor, at: Tensor, by: Tensor, flip: Tensor | None, many: int) -> Tensor:
        ctx.rest = x.shape, x.dtype, at, by, flip
        return by.new_zeros(many)

    @staticmethod
    def backward(ctx: Any, g: Tensor) -> Any:
        shape, dtype, at, by, flip = ctx.rest
        g = g if flip is None else g.index_select(0, flip)
        found = by.new_zeros(shape.numel()).index_add(0, at, g * by)  # (not in place: `g` may be a batch of gradients)
        return found.reshape(shape).to(dtype), None, None, None, None


def slope(x: Tensor, at: Tensor, by: Tensor, flip: Tensor | None = None) -> Tensor:
    """The weights of flips, whose gradient goes to the elements `at` of `x`, times `by`. `flip`: the flip that each of
    `at` belongs to, if one opens with several elements.
    """
    many = by.shape[0] if flip is None else int(flip[-1]) + 1 if flip.numel() else 0
    if not _transformed():
        return _slope(x, at, by, flip, many)  # type: ignore[no-any-return]
    weight = x.reshape(-1).index_select(0, at).to(by.dtype) * by
    return weight if flip is None else weight.new_zeros(many).index_add(0, flip, weight)


class _Meet(torch.autograd.Function):
    """The value, with the gradient of the flips: to each weight the gradient at its element, times the difference."""

    @staticmethod
    def forward(ctx: Any, x: Tensor, weight: Tensor, rest: tuple[Tensor, Tensor, Tensor]) -> Tensor:
        ctx.rest, ctx.wide = rest, weight.dtype
        return x.detach()

    @staticmethod
    def backward(ctx: Any, g: Tensor) -> Any:
        if not ctx.needs_input_grad[1]:
            return g, None, None
        at, values, shown = ctx.rest
        difference = _difference(values, shown, ctx.wide)
        here = torch.take(g, at)
        at_weight = (here * difference.conj()).real if here.is_complex() else here * difference
        return g, torch.where(difference != 0, at_weight, 0).to(ctx.wide), None


def _difference(values: Tensor, shown: Tensor, wide: torch.dtype) -> Tensor:
    """What flips change. No finite difference is none."""
    wide = values.dtype if values.is_complex() else compute_dtype(values.dtype, wide)
    return torch.nan_to_num(values.to(wide) - shown.to(wide), nan=0.0, posinf=0.0, neginf=0.0)


def meet(x: Tensor, weight: Tensor, at: Tensor, values: Tensor, shown: Tensor | None = None) -> Tensor:
    """`x` with the gradient of flips in which its elements `at` are `values`, and not `shown` (or what they are)."""
    if shown is None:
        shown = torch.take(x.detach(), at) if at.shape[0] else values
    if not _transformed():
        return _meet(x, weight, (at, values, shown))  # type: ignore[no-any-return]
    difference = _difference(values, shown, weight.dtype)
    change = torch.where(difference != 0, weight * difference, 0).to(x.dtype)
    return hard_forward(x, x + torch.zeros_like(x).reshape(-1).index_add(0, at, change).reshape(x.shape))


# ``function.apply`` where no transform is active, without looking for its wrappers: that takes longer than it.
_slope: Any = super(torch.autograd.Function, _Slope).apply
_meet: Any = super(torch.autograd.Function, _Meet).apply
