"""The two autograd primitives of flips, and what gathers elements.

`slope`  the weights of flips: zero, with the slope of the ramp as their gradient
`meet`   a float with the gradient of its flips: weight times difference
"""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from ..._ops.dtypes import compute_dtype

__all__ = ["meet", "slope", "take"]


def take(x: Tensor, at: Tensor) -> Tensor:
    """Elements of a tensor, without gradient."""
    return torch.take(x.detach(), at)


class _Slope(torch.autograd.Function):
    """Zeros; the gradient of operand i goes, times `by`, to the elements `at`. (Nothing is freed with the graph: the
    same decision may be asked for again after backward.)
    """

    generate_vmap_rule = True

    @staticmethod
    def forward(a: Tensor, b: Tensor | None, at: Any, at_b: Any, by: Tensor, by_b: Tensor | None, flip: Any) -> Tensor:
        return torch.zeros_like(by) if flip is None else by.new_zeros(int(flip[-1]) + 1 if flip.numel() else 0)

    @staticmethod
    def setup_context(ctx: Any, inputs: tuple[Any, ...], output: Tensor) -> None:
        a, b, *ctx.rest = inputs
        ctx.like = (a.shape, a.dtype), None if b is None else (b.shape, b.dtype)

    @staticmethod
    def backward(ctx: Any, g: Tensor) -> Any:
        at, at_b, by, by_b, flip = ctx.rest
        g = g if flip is None else g.index_select(0, flip)
        found: list[Tensor | None] = [None, None]
        for i, (like, where, slope) in enumerate(zip(ctx.like, (at, at_b), (by, by_b))):
            if ctx.needs_input_grad[i]:
                zeros = torch.zeros(like[0].numel(), dtype=by.dtype, device=by.device)
                found[i] = zeros.index_add(0, where, g * slope).reshape(like[0]).to(like[1])
        return *found, None, None, None, None, None

    @staticmethod
    def jvp(ctx: Any, t_a: Any, t_b: Any, *_: Any) -> Tensor:
        at, at_b, by, by_b, flip = ctx.rest
        out = torch.zeros_like(by)
        for t, where, slope in ((t_a, at, by), (t_b, at_b, by_b)):
            if t is not None:
                out = out + t.reshape(-1).index_select(0, where).to(by.dtype) * slope
        return out if flip is None else out.new_zeros(int(flip[-1]) + 1 if flip.numel() else 0).index_add(0, flip, out)


class _Meet(torch.autograd.Function):
    """The value, with the gradient of the flips: to each weight the gradient at its element, times the difference."""

    generate_vmap_rule = True

    @staticmethod
    def forward(x: Tensor, weight: Tensor, at: Tensor, values: Tensor, shown: Tensor) -> Tensor:
        return x.detach()

    @staticmethod
    def setup_context(ctx: Any, inputs: tuple[Any, ...], output: Tensor) -> None:
        x, weight, ctx.at, ctx.values, ctx.shown = inputs
        ctx.shape, ctx.wide = x.shape, weight.dtype

    @staticmethod
    def _difference(ctx: Any) -> Tensor:
        """What the flips change. No finite difference is none."""
        values, shown = ctx.values, ctx.shown
        wide = values.dtype if values.is_complex() else compute_dtype(values.dtype, ctx.wide)
        return torch.nan_to_num(values.to(wide) - shown.to(wide), nan=0.0, posinf=0.0, neginf=0.0)

    @staticmethod
    def backward(ctx: Any, g: Tensor) -> Any:
        if not ctx.needs_input_grad[1]:
            return g, None, None, None, None
        difference = _Meet._difference(ctx)
        here = torch.take(g, ctx.at)
        at_weight = (here * difference.conj()).real if here.is_complex() else here * difference
        return g, torch.where(difference != 0, at_weight, 0).to(ctx.wide), None, None, None

    @staticmethod
    def jvp(ctx: Any, t_x: Any, t_weight: Any, *_: Any) -> Tensor:
        dtype, device = ctx.values.dtype, ctx.at.device
        out = torch.zeros(ctx.shape, dtype=dtype, device=device) if t_x is None else t_x.clone()
        if t_weight is None:
            return out
        change = (t_weight * _Meet._difference(ctx)).to(dtype)
        return out.reshape(-1).index_add(0, ctx.at, change).reshape(ctx.shape)


class _MeetNow(torch.autograd.Function):
    """`_Meet` where no transform is active: in one call."""

    @staticmethod
    def forward(ctx: Any, x: Tensor, weight: Tensor, rest: tuple[Tensor, Tensor, Tensor]) -> Tensor:
        ctx.at, ctx.values, ctx.shown = rest
        ctx.shape, ctx.wide = x.shape, weight.dtype
        return x.detach()

    @staticmethod
    def backward(ctx: Any, g: Tensor) -> Any:
        return _Meet.backward(ctx, g)[:3]

    @staticmethod
    def jvp(ctx: Any, t_x: Any, t_weight: Any, *_: Any) -> Tensor:
        return _Meet.jvp(ctx, t_x, t_weight)


def slope(
    a: Tensor,
    at: Tensor,
    by: Tensor,
    b: Tensor | None = None,
    at_b: Tensor | None = None,
    by_b: Tensor | None = None,
    flip: Tensor | None = None,
) -> Tensor:
    """The weights of flips, whose gradient goes to the elements `at` of `a`, times `by` (and to those of `b`). `flip`:
    the flip that each of `at` belongs to, if one opens with several elements.
    """
    if torch._C._are_functorch_transforms_active():
        return _Slope.apply(a, b, at, at_b, by, by_b, flip)  # type: ignore[no-any-return, no-untyped-call]
    return apply_now(_Slope, a, b, at, at_b, by, by_b, flip)


def meet(x: Tensor, weight: Tensor, at: Tensor, values: Tensor) -> Tensor:
    """`x` with the gradient of flips in which its elements `at` are `values`."""
    shown = torch.take(x.detach(), at) if at.shape[0] else values
    if torch._C._are_functorch_transforms_active():
        return _Meet.apply(x, weight, at, values, shown)  # type: ignore[no-any-return, no-untyped-call]
    return apply_now(_MeetNow, x, weight, (at, values, shown))


def apply_now(function: Any, *args: Any) -> Tensor:
    """``function.apply`` where no transform is active, without looking for its wrappers: that takes longer than it."""
    return super(torch.autograd.Function, function).apply(*args)  # type: ignore[no-any-return]
