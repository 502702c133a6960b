"""A hard choice of `k` among `n`, with the gradient of the projection that linearizes it.

On the set of the *contenders*, those with a share strictly between 0 and 1, the Euclidean projection on the (capped)
simplex is ``(x - mean(x)) / eps`` and a constant (see `order`). So its gradient is ``(g - mean(g)) / eps`` there, and
0 elsewhere: no more than the set has to be known, and that not before backward.
"""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from .apply import run
from .band import hard_forward
from .order import first_k

__all__ = ["chosen", "chosen_anywhere"]


class _Chosen(torch.autograd.Function):
    """Ones at `index`, with the gradient of the projection on ``{0 <= m <= 1, sum m = k}``."""

    @staticmethod
    def forward(ctx: Any, rows: Tensor, index: Tensor, half: float | Tensor) -> Tensor:
        ctx.save_for_backward(rows)
        ctx.half, ctx.k = half, index.shape[-1]
        return rows.new_zeros(rows.shape).scatter_(-1, index, 1.0)

    @staticmethod
    def backward(ctx: Any, g: Tensor) -> Any:
        (rows,) = ctx.saved_tensors
        inside = _best_contenders(rows, ctx.half) if ctx.k == 1 else _contenders(rows, ctx.k, ctx.half)
        if inside is None:
            return (g - g.mean(-1, keepdim=True)).div_(ctx.half), None, None
        return _centred(g, inside) / ctx.half, None, None


def _centred(g: Tensor, inside: Tensor) -> Tensor:
    """Less its mean over the rows of the mask; zero outside."""
    g = torch.where(inside, g, 0)
    return torch.where(inside, g - g.sum(-1, keepdim=True) / inside.sum(-1, keepdim=True).clamp_(min=1), 0)


def _best_contenders(rows: Tensor, half: float | Tensor) -> Tensor | None:
    """Support of ``sparsemax(rows / half)``; None if it is everything.

    Michelot's algorithm: entries below the threshold that a set has are not in the support; begin with those less than
    `half` from the best, and repeat. Each round is a handful of kernels, and there are few. (Nothing is nearer than
    `half` to infinity or NaN: such rows have no contenders.)
    """
    z = rows - rows.amax(-1, keepdim=True)
    spread = (z.mean(-1, keepdim=True) - z.amin(-1, keepdim=True)) * rows.shape[-1]
    if bool((spread < half).all()):
        return None
    z = z / half
    inside = z > -1
    while True:
        tau = (torch.where(inside, z, 0).sum(-1, keepdim=True) - 1) / inside.sum(-1, keepdim=True)
        fewer = inside & (z > tau)
        if torch.equal(fewer, inside):
            return inside
        inside = fewer


def _contenders(rows: Tensor, k: int, half: float | Tensor) -> Tensor:
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
    return hard_forward(hot, _centred(rows, _contenders(rows.detach(), index.shape[-1], half)) / half)
