"""A hard choice of `k` among `n`, with the gradient of the projection that linearizes it.

On the set of the *contenders*, those with a share strictly between 0 and 1, the Euclidean projection on the (capped)
simplex is ``(x - mean(x)) / eps`` and a constant (see `order`). So its gradient is ``(g - mean(g)) / eps`` there, and
0 elsewhere: no more than the set has to be known, and that not before backward.
"""

from __future__ import annotations

import math
from typing import Any

import torch
from torch import Tensor

from .apply import run
from .band import hard_forward
from .order import first_k

__all__ = ["chosen", "chosen_anywhere", "contenders"]


class _Chosen(torch.autograd.Function):
    """Ones at `index`, with the gradient of the projection on ``{0 <= m <= 1, sum m = k}``."""

    @staticmethod
    def forward(ctx: Any, rows: Tensor, index: Tensor, half: float | Tensor) -> Tensor:
        ctx.save_for_backward(rows, index)
        ctx.half = half
        return rows.new_zeros(rows.shape).scatter_(-1, index, 1.0)

    @staticmethod
    def backward(ctx: Any, g: Tensor) -> Any:
        rows, index = ctx.saved_tensors
        rows = rows.detach()
        one = index.shape[-1] == 1
        inside = _best_contenders(rows, ctx.half) if one else _set_contenders(rows, index, ctx.half)
        if inside is None:
            return (g - g.mean(-1, keepdim=True)).div_(ctx.half), None, None
        return _centred(g, inside).div_(ctx.half), None, None


def _centred(g: Tensor, inside: Tensor) -> Tensor:
    """Less its mean over the rows of `inside`, which is 1 for contenders and 0 for all others; zero there."""
    g = g * inside
    return torch.addcmul(g, inside, g.sum(-1, keepdim=True) / inside.sum(-1, keepdim=True).clamp_(min=1), value=-1)


def _best_contenders(rows: Tensor, half: float | Tensor) -> Tensor | None:
    """Ones in the support of ``sparsemax(rows / half)``; None if it is everything.

    The threshold `tau` at which ``sum relu(z - tau)`` is 1, by Newton's method from below: the sum is convex, so that
    the support only shrinks, and is found when its size stays (Michelot's algorithm). Each round is a handful of
    kernels, and there are few. Nothing is nearer than `half` to infinity or NaN: such rows have no contenders.
    """
    best = rows.amax(-1, keepdim=True)
    z = rows - best
    spread = (z.mean(-1, keepdim=True) - z.amin(-1, keepdim=True)) * rows.shape[-1]
    if bool((spread < half).all()):
        return None
    z.div_(half)
    if z.numel() <= SMALL:
        return (z > _threshold(z)).to(z.dtype)
    if not math.isfinite(best.sum().item()):
        z = torch.where(best.isfinite(), z, -torch.inf)
    tau: Tensor = torch.full_like(best, -1)
    known = torch.zeros_like(best)
    above = torch.empty_like(z)  # (memory that is asked for anew at each step costs more than the step)
    for _ in range(100):  # (rounding may put one back that has left)
        excess = torch.sub(z, tau, out=above).relu_().sum(-1, keepdim=True) - 1
        size = above.sign_().sum(-1, keepdim=True)
        if torch.equal(size, known):
            break
        tau, known = tau + excess / size.clamp(min=1), size
    return above


SMALL = 4096
"""Up to so many numbers sorting takes less time than the calls of several rounds."""


def _threshold(z: Tensor) -> Tensor:
    """The same by sorting."""
    best = z.sort(-1, descending=True).values
    total = best.cumsum(-1) - 1
    count = torch.arange(1, z.shape[-1] + 1, device=z.device)
    size = (best * count > total).sum(-1, keepdim=True).clamp_(min=1)
    return total.gather(-1, size - 1) / size


def _set_contenders(rows: Tensor, index: Tensor, half: float | Tensor) -> Tensor:
    """Ones where the projection of ``rows / half`` on ``{0 <= m <= 1, sum m = k}`` is strictly between 0 and 1. The
    first `k` are at `index`.

    In units of `half` from the last that is in, the threshold at which ``sum clamp(z - tau, 0, 1)`` is `k` lies between
    -1 and the first that is out: Newton's method, kept between bounds.
    """
    k = index.shape[-1]
    if k == rows.shape[-1]:
        return torch.zeros_like(rows)
    last = rows.gather(-1, index).amin(-1, keepdim=True)
    high = (rows.scatter(-1, index, -torch.inf).amax(-1, keepdim=True) - last) / half
    z, low = (rows - last).div_(half), torch.full_like(last, -1)
    open_ = high > low
    if not bool(open_.all()):  # rows in which nobody is near, NaN and infinity
        z, high = torch.where(open_, z, torch.where(z < 0, -2.0, 2.0)), torch.where(open_, high, 0)
    tau = (low + high) / 2
    slack = 8 * k * torch.finfo(rows.dtype).eps
    share, whole = torch.empty_like(z), torch.empty_like(z)
    for _ in range(50):
        excess = torch.sub(z, tau, out=share).clamp_(0, 1).sum(-1, keepdim=True) - k
        torch.floor(share, out=whole)
        inside = share.sign_().sub_(whole)
        if bool((excess.abs() <= slack).logical_or_(~open_).all()):
            break
        low, high = torch.where(excess > 0, tau, low), torch.where(excess > 0, high, tau)
        step = tau + excess / inside.sum(-1, keepdim=True)
        tau = torch.where((step >= low) & (step <= high), step, (low + high) / 2)
    return inside * open_


def contenders(rows: Tensor, k: int, half: float | Tensor) -> Tensor:
    """Mask of the entries that may be among the first `k`, and may not."""
    if not 0 < k < rows.shape[-1]:
        return torch.zeros_like(rows, dtype=torch.bool)
    rows, width = (rows / half, 1.0) if isinstance(half, Tensor) else (rows, half)
    weights = first_k(torch.where(rows.isnan(), torch.inf, rows), k, width)[0]
    return (weights > 0) & (weights < 1)


def chosen(rows: Tensor, index: Tensor, half: float | Tensor) -> Tensor:
    """k-hot (…, n) at `index` (…, k). Nobody may write to `rows` before backward."""
    return run(_Chosen, rows, index, half)


def chosen_anywhere(rows: Tensor, index: Tensor, half: float | Tensor) -> Tensor:
    """The same in what every transform and compiler knows."""
    hot = torch.zeros_like(rows).scatter(-1, index, 1.0)
    inside = contenders(rows.detach(), index.shape[-1], half)
    return hard_forward(hot, _centred(torch.where(inside, rows, 0), inside.to(rows.dtype)) / half)
