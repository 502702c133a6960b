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
from .apply import run
from .dtypes import compute_dtype
from .fused import pick
from .ramp import suits
from .surrogates import window


class _Blend(torch.autograd.Function):
    """``(below + above) / 2 + offset (above - below)`` inside the band, ``hard`` outside, at an exact tie, and where
    the two outcomes do not differ by a finite amount."""

    generate_vmap_rule = True

    @staticmethod
    def forward(offset: Tensor, below: Tensor, above: Tensor, hard: Tensor) -> Tensor:
        wide = compute_dtype(offset.dtype, hard.dtype)
        difference = above.to(wide) - below.to(wide)
        value = below.to(wide) * 0.5 + above.to(wide) * 0.5 + offset * difference
        undecided = (offset.abs() < 0.5) & (offset != 0) & difference.isfinite()
        return pick(undecided, value.to(hard.dtype), hard)

    @staticmethod
    def setup_context(ctx: Any, inputs: tuple[Any, ...], output: Tensor) -> None:
        ctx.save_for_backward(*inputs)
        ctx.save_for_forward(*inputs)

    @staticmethod
    def backward(ctx: Any, g: Tensor) -> Any:
        offset, below, above, hard = ctx.saved_tensors  # (a checkpoint allows to ask once)
        return *_gradients(g, offset, _shown(offset, above, hard), below, above, ctx.needs_input_grad[1:]), None

    @staticmethod
    def jvp(ctx: Any, t_offset: Any, t_below: Any, t_above: Any, *_: Any) -> Tensor:
        offset, below, above, hard = ctx.saved_tensors
        share, difference = _parts(offset, _shown(offset, above, hard), below, above, hard.dtype)
        out = torch.zeros_like(hard)
        if t_offset is not None:
            out = out + torch.where(difference != 0, t_offset * difference, torch.zeros_like(difference)).to(hard.dtype)
        if t_below is not None:
            out = out + torch.where(share < 1, (t_below * (1 - share)).to(hard.dtype), torch.zeros_like(hard))
        if t_above is not None:
            out = out + torch.where(share > 0, (t_above * share).to(hard.dtype), torch.zeros_like(hard))
        return out


def _shown(offset: Tensor, above: Tensor, hard: Tensor) -> Tensor:
    """Where what is shown is what is above."""
    return pick(offset == 0, hard == above, offset > 0)


def _parts(
    offset: Tensor, taken: Tensor, below: Tensor, above: Tensor, dtype: torch.dtype, finite: bool = False
) -> tuple[Tensor, Tensor]:
    """The share of what is above in a gradient, and the derivative by the offset."""
    wide = compute_dtype(offset.dtype, dtype)
    share, jump = offset + 0.5, above.to(wide) - below.to(wide)
    if finite:
        return share, jump
    # No finite difference: the hard outcome alone gets the gradient, the decision gets none.
    known = jump.isfinite()
    return pick(known, share, taken.to(share.dtype)), pick(known, jump, torch.zeros_like(jump))


def _gradients(
    g: Tensor, offset: Tensor, taken: Tensor, below: Tensor, above: Tensor, wanted: Any, finite: bool = False
) -> tuple[Tensor, Tensor | None, Tensor | None]:
    """Of the offset, and if they are `wanted` of what is below and of what is above."""
    eager = not torch.is_grad_enabled() and fused.suits(g)
    one = offset.dtype == below.dtype == above.dtype == g.dtype
    if eager and one and all(map(fused.dense, (offset, taken, below, above))):
        return fused.blend_by_mask_backward(g, offset, taken, below, above, wanted[:2])
    share, jump = _parts(offset, taken, below, above, g.dtype, finite)
    zero = torch.zeros_like(g)
    g_offset = pick(jump != 0, g * jump, torch.zeros_like(jump)).to(share.dtype)
    g_below = pick(share < 1, (g * (1 - share)).to(g.dtype), zero) if wanted[0] else None
    g_above = pick(share > 0, (g * share).to(g.dtype), zero) if wanted[1] else None
    return g_offset, g_below, g_above


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
        ctx.save_for_backward(offset, taken if shared else None, below, above)
        offset = offset if shown is None else shown
        if fused.suits(offset) and all(map(fused.dense, (taken, below, above))):
            return fused.blend_by_mask(offset, taken, below, above, ties)
        hard = pick(taken, above, below)
        jump = above - below
        undecided = offset.abs() < 0.5
        undecided = undecided if finite else undecided & jump.isfinite()
        undecided = undecided if ties else undecided & (offset != 0)
        return pick(undecided, below * 0.5 + above * 0.5 + offset * jump, hard)

    @staticmethod
    def backward(ctx: Any, g: Tensor) -> Any:
        offset, taken, below, above = ctx.saved_tensors
        taken = offset > 0 if taken is None else taken
        wanted = ctx.needs_input_grad[2:]
        g_offset, g_below, g_above = _gradients(g, offset, taken, below, above, wanted, ctx.finite)
        g_below = None if g_below is None else g_below.sum_to_size(below.shape)
        g_above = None if g_above is None else g_above.sum_to_size(above.shape)
        return g_offset, None, g_below, g_above, None, None, None


class _Taken(torch.autograd.Function):
    """See `taken`."""

    @staticmethod
    def forward(ctx: Any, take: Any, numbers: Tensor, weight: Tensor, jump: Tensor, a: Any, b: Any) -> Tensor:
        ctx.save_for_backward(numbers, jump)
        return take(a, b)  # type: ignore[no-any-return]

    @staticmethod
    def backward(ctx: Any, g: Tensor) -> Any:
        numbers, jump = ctx.saved_tensors
        if numbers.dtype != g.dtype:
            numbers = numbers.to(g.dtype)
        _, _, of_weight, _, of_a, of_b = ctx.needs_input_grad
        # (`window` of 0 and 1 is `where`, in a fraction of the time. Of `jump` only a second derivative is wanted.
        # Autograd adds up what was broadcast.)
        g_weight = g * jump.nan_to_num(0.0, 0.0, 0.0) if of_weight else None
        g_a = window(g, numbers, 0.5, math.inf) if of_a else None
        g_b = window(g, numbers, -math.inf, 0.5) if of_b else None
        return None, None, g_weight, None, g_a, g_b


TAKEN: Any = _Taken._backward_cls
"""A node of the graph that it makes."""


def taken(take: Callable[[Any, Any], Tensor], numbers: Tensor, weight: Tensor, a: Any, b: Any) -> Tensor:
    """``take(a, b)``, which is `where` with a mask, in eager mode. `numbers`, 0 and 1, are the mask as a float that
    nobody writes to; the gradient is that of ``weight * a + (1 - weight) * b``.
    """
    jump = a - b
    if not isinstance(jump, Tensor):
        jump = numbers.new_full((), jump)
    return super(torch.autograd.Function, _Taken).apply(take, numbers, weight, jump, a, b)  # type: ignore[no-any-return, no-untyped-call]


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
    return run(_Blend, offset.expand(shape), *sides, hard.detach())


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
    if not taken.is_contiguous():
        return None
    sides = [_side(side, offset, taken) for side in (below, above)]
    if sides[0] is None or sides[1] is None:
        return None
    if not any(isinstance(side, Tensor) and side.shape == taken.shape for side in (below, above)):
        return None  # what dtype numbers and 0-dim tensors make is for torch to say
    return run(_BlendByMask, offset, taken, *sides, ties, finite, shown)


def _side(side: Any, offset: Tensor, taken: Tensor) -> Tensor | None:
    """A branch as `_BlendByMask` takes it; None if it takes `blend`."""
    if not isinstance(side, (int, float, Tensor)):
        return None
    if isinstance(side, Tensor):
        if side.dtype != offset.dtype or side.device != offset.device or not suits(side):
            return None
        if fused.batched(side):
            return None
        if side.shape != taken.shape and (side.numel() != 1 or side.dim() > taken.dim()):
            return None
        if side.numel() != 1 and not side.is_contiguous():
            return None  # what strides the result has is for torch to say, too
    one = side if isinstance(side, Tensor) else torch.full((), side, dtype=offset.dtype, device=offset.device)
    if one.numel() == 1 and not math.isfinite(one.detach()):
        return None  # a report counts the elements at which the jump is infinite
    return one
