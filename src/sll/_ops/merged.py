"""One decision made of several, in one pass."""

from __future__ import annotations

from typing import Any, NamedTuple

import torch
from torch import Tensor

from . import fused
from .apply import run
from .bits import suits

__all__ = ["Merged", "merge"]


class _Merge(torch.autograd.Function):
    """See `merge`."""

    @staticmethod
    def forward(
        ctx: Any,
        offset: Tensor,
        low: Tensor | None,
        high: Tensor | None,
        below: Tensor,
        above: Tensor,
        hard: Tensor,
        signs: tuple[int, int],
    ) -> tuple[Tensor, ...]:
        merged, *masks = fused.merge(offset, low, high, (below, above, hard), signs)
        ctx.save_for_backward(offset, low, high, below, above)
        ctx.signs = signs
        ctx.mark_non_differentiable(*masks)
        return merged, *masks

    @staticmethod
    def backward(ctx: Any, g: Tensor, *_: Any) -> Any:
        offset, low, high, below, above = ctx.saved_tensors
        if not torch.is_grad_enabled() and fused.suits(g, least=1):
            return *fused.merge_backward(g, offset, low, high, (below, above), ctx.signs), None, None, None, None
        undecided, side = offset.abs() < 0.5, offset > 0
        open_ = [torch.zeros_like(side) if at is None else at.abs() < 0.5 for at in (low, high)]
        both = undecided & (open_[0] | open_[1])
        shares = [
            mask.to(g.dtype) if at is None else 0.5 + sign * at
            for at, mask, sign in zip((low, high), (below, above), ctx.signs)
        ]
        jump = shares[1] - shares[0]
        at_root = torch.where(both, torch.where(jump != 0, g * jump, 0), torch.where(undecided, g, 0))
        found: list[Tensor | None] = [at_root]
        for share, sign, here in zip((0.5 - offset, 0.5 + offset), ctx.signs, (open_[0] & ~side, open_[1] & side)):
            alone = torch.where(here & ~undecided, g, 0)
            found.append(torch.where(both, g * share * sign, alone) if sign else None)
        return *found, None, None, None, None


class Merged(NamedTuple):
    """One decision made of several: its offset, the masks below and above its boundary, where the program is above,
    and where it is the decision at the root.
    """

    offset: Tensor
    below: Tensor
    above: Tensor
    taken: Tensor
    root: Tensor


def merge(
    offset: Tensor, low: Tensor | None, high: Tensor | None, below: Tensor, above: Tensor, hard: Tensor, *signs: int
) -> Merged | None:
    """One decision per element, of the one at `offset` and those at `low` and `high` on its sides, in one pass; None
    where that takes numba, or tensors of one shape and dtype.

    The masks `below` and `above` are what a decision on that side makes of it: at a sign of 1 they rise with their
    offset, at -1 they fall, at 0 there is no offset. `hard` is what the program shows. What is merged how is in
    `linearization.merge`, the reference.
    """
    for x in (offset, low, high):
        if x is not None and (x.shape != hard.shape or x.dtype != offset.dtype or not suits(x) or not fused.dense(x)):
            return None
    masks = [x.expand(hard.shape).contiguous() for x in (below, above, hard)]
    if not all(map(fused.dense, masks)) or not fused.suits(offset, least=1):
        return None
    offsets = (None if x is None else x.contiguous() for x in (offset, low, high))
    return Merged(*run(_Merge, *offsets, *masks, signs))
