"""Two outcomes and an offset -> one value.

All can be differentiated twice (a ramp has no curvature, so the second derivative is zero inside and outside the
band). `blend` also works under ``torch.func`` (``grad``, ``jvp``, ``vmap``).
"""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor

from . import fused
from .apply import _unpacked, finite, is_finite, packed, run
from .bits import pick, suits
from .dtypes import compute_dtype
from .env import compiling
from .surrogates import window

__all__ = ["blend", "blend_by_mask", "choose", "product", "taken"]


class _Blend(torch.autograd.Function):
    """``(below + above) / 2 + offset (above - below)`` inside the band, ``hard`` outside, at an exact tie, and where
    the two outcomes do not differ by a finite amount."""

    generate_vmap_rule = True

    @staticmethod
    def forward(offset: Tensor, below: Tensor, above: Tensor, hard: Tensor) -> Tensor:
        wide = compute_dtype(offset.dtype, hard.dtype)
        difference = above.to(wide) - below.to(wide)
        value = below.to(wide) * 0.5 + above.to(wide) * 0.5 + offset * difference
        undecided = (offset.abs() < 0.5) & (offset != 0) & is_finite(difference)
        return pick(undecided, value.to(hard.dtype), hard)

    @staticmethod
    def setup_context(ctx: Any, inputs: tuple[Any, ...], output: Tensor) -> None:
        ctx.save_for_backward(*inputs)
        ctx.save_for_forward(*inputs)

    @staticmethod
    def _parts(ctx: Any, g: Tensor, saved: tuple[Any, ...]) -> tuple[Tensor, Tensor]:
        offset, below, above, hard = saved
        wide = compute_dtype(offset.dtype, hard.dtype)
        difference = above.to(wide) - below.to(wide)
        finite = is_finite(difference)
        # No finite difference: the hard outcome alone gets the gradient, the decision gets none.
        shown = _unpacked(packed(hard == above), g)
        share = pick(finite, offset + 0.5, pick(offset == 0, shown, offset > 0).to(offset.dtype))
        return share, pick(finite, difference, torch.zeros_like(difference))

    @staticmethod
    def _at_once(ctx: Any, g: Tensor, saved: tuple[Any, ...]) -> tuple[Tensor | None, ...] | None:
        """The gradients of the offset and of both outcomes in one pass; None where it takes more."""
        if compiling() or torch.is_grad_enabled():
            return None
        offset, below, above, hard = saved
        for x in (g, offset, below, above, hard):
            if x.dtype != g.dtype or not fused.dense(x):
                return None
        if not fused.suits(g):
            return None
        taken = pick(offset == 0, hard == above, offset > 0)
        wanted = ctx.needs_input_grad[1], ctx.needs_input_grad[2]
        return fused.blend_by_mask_backward(g, offset, taken, below, above, wanted)

    @staticmethod
    def backward(ctx: Any, g: Tensor) -> Any:
        saved = ctx.saved_tensors  # (a checkpoint allows to ask once)
        at_once = _Blend._at_once(ctx, g, saved)
        if at_once is not None:
            return *at_once, None
        share, difference = _Blend._parts(ctx, g, saved)
        zero = torch.zeros_like(g)
        g_offset = g_below = g_above = None
        if ctx.needs_input_grad[0]:
            g_offset = pick(difference != 0, g * difference, torch.zeros_like(difference)).to(share.dtype)
        if ctx.needs_input_grad[1]:
            g_below = pick(share < 1, (g * (1 - share)).to(g.dtype), zero)
        if ctx.needs_input_grad[2]:
            g_above = pick(share > 0, (g * share).to(g.dtype), zero)
        return g_offset, g_below, g_above, None


class _BlendByMask(torch.autograd.Function):
    """`_Blend` where the mask of what is taken is known, in one pass (see `fused`)."""

    @staticmethod
    def forward(
        ctx: Any,
        offset: Tensor,
        taken: Tensor,
        below: Tensor,
        above: Tensor,
        ties: bool,
        finite: bool,
        shown: Tensor | None,
    ) -> Tensor:
        ctx.finite = finite
        # The gradient of the offset needs no mask, which the program may write to.
        shared = ctx.needs_input_grad[2] or ctx.needs_input_grad[3]
        ctx.save_for_backward(offset, packed(taken) if shared else None, below, above)
        offset = offset if shown is None else shown
        if not compiling() and fused.suits(offset) and all(map(fused.dense, (taken, below, above))):
            return fused.blend_by_mask(offset, taken, below, above, ties)
        hard = pick(taken, above, below)
        jump = above - below
        undecided = offset.abs() < 0.5
        undecided = undecided if finite else undecided & is_finite(jump)
        undecided = undecided if ties else undecided & (offset != 0)
        return pick(undecided, below * 0.5 + above * 0.5 + offset * jump, hard)

    @staticmethod
    def backward(ctx: Any, g: Tensor) -> Any:
        offset, taken, below, above = ctx.saved_tensors
        taken = offset > 0 if taken is None else _unpacked(taken, g)
        slow = compiling() or torch.is_grad_enabled() or not fused.suits(g)
        if slow or not all(map(fused.dense, (offset, taken, below, above))):
            jump = above - below
            share = offset + 0.5
            if not ctx.finite:
                finite = is_finite(jump)
                share, jump = torch.where(finite, share, taken.to(g.dtype)), torch.where(finite, jump, 0)
            g_offset = torch.where(jump != 0, g * jump, 0)
            g_below: Tensor | None = torch.where(share < 1, g * (1 - share), 0)
            g_above: Tensor | None = torch.where(share > 0, g * share, 0)
        else:
            wanted = ctx.needs_input_grad[2], ctx.needs_input_grad[3]
            g_offset, g_below, g_above = fused.blend_by_mask_backward(g, offset, taken, below, above, wanted)
        g_below = None if g_below is None else g_below.sum_to_size(below.shape)
        g_above = None if g_above is None else g_above.sum_to_size(above.shape)
        return g_offset, None, g_below, g_above, None, None, None


class _Choose(torch.autograd.Function):
    """See `choose`."""

    @staticmethod
    def forward(ctx: Any, mask: Tensor, weight: Tensor, a: Tensor, b: Tensor) -> Tensor:
        ctx.save_for_backward(weight, a, b)
        return torch.where(mask, a, b)

    @staticmethod
    def backward(ctx: Any, g: Tensor) -> Any:
        weight, a, b = ctx.saved_tensors
        taken = weight > 0.5 * (g == g)  # (see `_unpacked`)
        found = g * finite(a - b), torch.where(taken, g, 0), torch.where(taken, 0, g)
        return None, *(x.sum_to_size(of.shape).to(of.dtype) for x, of in zip(found, (weight, a, b)))


def choose(mask: Tensor, weight: Tensor, a: Any, b: Any) -> Tensor:
    """``torch.where(mask, a, b)`` for a compiler, which keeps no bool of it. `weight`, 0 or 1, is `mask` as a float;
    the gradient is that of ``weight * a + (1 - weight) * b``.
    """
    dtype = torch.where(mask, a, b).dtype
    sides = (x.to(dtype) if isinstance(x, Tensor) else torch.tensor(x, dtype=dtype, device=mask.device) for x in (a, b))
    return run(_Choose, mask, weight, *sides)


class _Taken(torch.autograd.Function):
    """See `taken`."""

    @staticmethod
    def forward(ctx: Any, take: Any, numbers: Tensor, weight: Tensor, jump: Tensor, a: Any, b: Any) -> Tensor:
        ctx.save_for_backward(numbers, jump)
        out: Tensor = take(a, b)
        ctx.like = [x.shape if isinstance(x, Tensor) and x.shape != out.shape else None for x in (weight, a, b)]
        return out

    @staticmethod
    def backward(ctx: Any, g: Tensor) -> Any:
        numbers, jump = ctx.saved_tensors
        if numbers.dtype != g.dtype:
            numbers = numbers.to(g.dtype)
        _, _, of_weight, _, of_a, of_b = ctx.needs_input_grad
        # (`window` of 0 and 1 is `where`, in a fraction of the time. Of `jump` only a second derivative is wanted.)
        g_weight = g * jump.nan_to_num(0.0, 0.0, 0.0) if of_weight else None
        g_a = window(g, numbers, 0.5, math.inf) if of_a else None
        g_b = window(g, numbers, -math.inf, 0.5) if of_b else None
        found = zip((g_weight, g_a, g_b), ctx.like)
        g_weight, g_a, g_b = (x if x is None or like is None else x.sum_to_size(like) for x, like in found)
        return None, None, g_weight, None, g_a, g_b


def taken(take: Callable[[Any, Any], Tensor], numbers: Tensor, weight: Tensor, a: Any, b: Any) -> Tensor:
    """``take(a, b)``, which is `where` with a mask, in eager mode. `numbers`, 0 and 1, are the mask as a float that
    nobody writes to; the gradient is that of ``weight * a + (1 - weight) * b``.
    """
    jump = a - b
    if not isinstance(jump, Tensor):
        jump = numbers.new_full((), jump)
    return super(torch.autograd.Function, _Taken).apply(take, numbers, weight, jump, a, b)  # type: ignore[no-any-return, no-untyped-call]


class _Product(torch.autograd.Function):
    """See `product`."""

    @staticmethod
    def forward(ctx: Any, a: Tensor, b: Tensor, shown: Tensor | None) -> Tensor:
        ctx.save_for_backward(a, b)
        return (a if shown is None else shown) * b

    @staticmethod
    def backward(ctx: Any, g: Tensor) -> Any:
        a, b = ctx.saved_tensors
        return torch.where(b != 0, g * b, 0), torch.where(a != 0, g * a, 0), None


class _BlendJvp(_Blend):
    @staticmethod
    def jvp(ctx: Any, t_offset: Any, t_below: Any, t_above: Any, *_: Any) -> Tensor:
        saved = ctx.saved_tensors
        hard = saved[3]
        share, difference = _Blend._parts(ctx, hard, saved)
        out = torch.zeros_like(hard)
        if t_offset is not None:
            out = out + torch.where(difference != 0, t_offset * difference, torch.zeros_like(difference)).to(hard.dtype)
        if t_below is not None:
            out = out + torch.where(share < 1, (t_below * (1 - share)).to(hard.dtype), torch.zeros_like(hard))
        if t_above is not None:
            out = out + torch.where(share > 0, (t_above * share).to(hard.dtype), torch.zeros_like(hard))
        return out


def blend(offset: Tensor, below: Tensor, above: Tensor, hard: Tensor) -> Tensor:
    """One value from two outcomes: ``(below + above) / 2 + offset (above - below)`` in the band, `hard` elsewhere.

    The outcomes share the gradient by weight. `offset`, `below` and `above` broadcast to the shape of `hard`, whose
    dtype the result has.
    """
    if hard.is_complex():
        sides = below.to(hard.dtype), above.to(hard.dtype)
        return torch.complex(
            blend(offset, sides[0].real, sides[1].real, hard.real),
            blend(offset, sides[0].imag, sides[1].imag, hard.imag),
        )
    # Expanding here lets autograd sum the gradients of broadcast operands.
    shape = hard.shape
    sides = below.to(hard.dtype).expand(shape), above.to(hard.dtype).expand(shape)
    return run(_Blend if compiling() else _BlendJvp, offset.expand(shape), *sides, hard.detach())


def blend_by_mask(
    offset: Tensor,
    taken: Tensor,
    below: Any,
    above: Any,
    *,
    ties: bool = False,
    finite: bool = False,
    shown: Tensor | None = None,
) -> Tensor | None:
    """``torch.where(taken, above, below)`` of floats as a blend, in one pass; None where it takes `blend`.

    `taken` is the mask of the elements at which the program is above, also at exact ties; with `ties` these are blended
    like others. `below` and `above` are tensors of the shape of `taken` or with one element, or numbers. `finite`: they
    are known to be. `shown`: another offset, without gradient, that the value has.
    """
    if offset.shape != taken.shape or not suits(offset, taken):
        return None
    if not compiling() and not taken.is_contiguous():
        return None
    sides = [_side(side, offset, taken) for side in (below, above)]
    if sides[0] is None or sides[1] is None:
        return None
    if not any(isinstance(side, Tensor) and side.shape == taken.shape for side in (below, above)):
        return None  # what dtype numbers and 0-dim tensors make is for torch to say
    return run(_BlendByMask, offset, taken, *sides, ties, finite, shown)


def _side(side: Any, offset: Tensor, taken: Tensor) -> Tensor | None:
    """A branch as `_BlendByMask` takes it; None if it takes `blend`."""
    traced = compiling()
    if not isinstance(side, (int, float, Tensor)):
        return None
    if isinstance(side, Tensor):
        if side.dtype != offset.dtype or side.device != offset.device or not suits(side):
            return None
        if not traced and fused.batched(side):
            return None
        if side.shape != taken.shape and (side.numel() != 1 or side.dim() > taken.dim()):
            return None
        if not traced and side.numel() != 1 and not side.is_contiguous():
            return None  # what strides the result has is for torch to say, too
    one = side if isinstance(side, Tensor) else torch.full((), side, dtype=offset.dtype, device=offset.device)
    if not traced and one.numel() == 1 and not math.isfinite(one.detach()):
        return None  # a report counts the elements at which the jump is infinite
    return one


def product(a: Tensor, b: Tensor, shown: Tensor | None = None) -> Tensor:
    """The product of two probabilities of one shape: that both are true. Where one is 0, an infinite gradient is no NaN
    to the other. `shown`: the value of `a`, without its gradient.
    """
    return run(_Product, a, b, shown)
