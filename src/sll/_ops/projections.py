"""A hard choice of `k` among `n`, with the gradient of the projection that linearizes it.

On the set of the *contenders*, those with a share strictly between 0 and 1, the Euclidean projection on the (capped)
simplex is ``(x - mean(x)) / eps`` and a constant (see `order`). So its gradient is ``(g - mean(g)) / eps`` there, and
0 elsewhere: no more than the set and the width have to be known, and that not before backward.

Few numbers are looked at with NumPy, where it is installed: its calls take a fraction of the time of torch's. The
functions are written once, with what arrays and tensors have in common.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, TypeAlias

import torch
from torch import Tensor

from .band import hard_forward
from .order import first_k, traced

try:
    import numpy as np
except ImportError:  # it is optional, as it is for torch
    np = None  # type: ignore[assignment]

__all__ = ["Half", "Projection", "chosen_anywhere", "contenders", "decided", "rows_of"]

FEW, SMALL = 1024, 2**15
"""Numbers, up to which NumPy computes, and up to which sorting takes less time than several rounds of calls."""

Half: TypeAlias = "float | Tensor | Callable[[Tensor], float]"
"""A half-width, or what finds it for rows of scores."""


def rows_of(x: Tensor, dim: int | None, largest: bool, ordered: bool = False) -> Tensor:
    """The scores in the dtype of distances, the dimension last, what is chosen the largest.

    `ordered`: NaN is the largest number, in whatever direction.
    """
    if dim is None or x.dim() == 0:
        x = x.reshape(-1)
    elif dim not in (-1, x.dim() - 1):
        x = x.movedim(dim, -1)
    x = x if x.dtype in (torch.float32, torch.float64) else x.float()
    x = x.nan_to_num(torch.inf, torch.inf, -torch.inf) if ordered else x
    return x if largest else -x


class Projection:
    """The first `k` of the rows of scores; see `rows_of`. Rows with NaN have no contenders, if it is not `ordered`."""

    __slots__ = ("dim", "half", "k", "largest", "ordered")

    def __init__(self, k: int, dim: int | None, largest: bool, half: Half, ordered: bool = False) -> None:
        self.k, self.dim, self.largest, self.half, self.ordered = k, dim, largest, half, ordered

    def along(self, at: int, scores: Tensor, g: Tensor, *more: Tensor) -> Tensor:
        """The same for `g` of shares, times a factor, that have their dimension elsewhere."""
        for factor in more:
            g = g * factor
        return self.gradient(scores, g.movedim(at, -1))

    def rows_read(self, scores: Tensor, g: Tensor, entries: Tensor) -> Tensor:
        """For `g` of the rows of a table that were chosen; `entries` is the table with its rows as columns."""
        return self.gradient(scores, g.reshape(-1, entries.shape[0]).to(entries.dtype) @ entries)

    def gradient(self, scores: Tensor, g: Tensor) -> Tensor:
        """Of the scores, for `g` of the shares, which have the dimension last."""
        rows = rows_of(scores, self.dim, self.largest, self.ordered)
        half = self.half(rows) if callable(self.half) else self.half
        g = g.reshape(rows.shape)
        g = g if g.dtype is rows.dtype else g.to(rows.dtype)
        if np is None or rows.device.type != "cpu" or rows.numel() > FEW or isinstance(half, Tensor):
            found = _centred(g, _contenders(rows, self.k, half), half)
        else:
            with np.errstate(all="ignore"):
                inside = _contenders(rows.numpy(), self.k, half)
                if torch.is_grad_enabled() or traced(g):
                    found = _centred(g, torch.from_numpy(inside), half)
                else:
                    found = torch.from_numpy(_centred(g.numpy(), inside, half))
        found = found if self.largest else -found
        if self.dim is None or scores.dim() < 2:
            found = found.reshape(scores.shape)
        elif self.dim not in (-1, scores.dim() - 1):
            found = found.movedim(-1, self.dim)
        return found if found.dtype is scores.dtype else found.to(scores.dtype)


class _Chosen(torch.autograd.Function):
    """``make()``, or what `out` is, decided among scores."""

    @staticmethod
    def forward(ctx: Any, scores: Tensor, out: Tensor | None, make: Any, back: Any, *more: Tensor) -> Tensor:
        ctx.save_for_backward(scores, *more)
        ctx.back = back
        return make() if out is None else out.clone()

    @staticmethod
    def backward(ctx: Any, g: Tensor) -> Any:
        scores, *more = ctx.saved_tensors
        own = g if ctx.needs_input_grad[1] else None
        return ctx.back(scores.detach(), g, *more), own, None, None, *(None for _ in more)


_apply = super(torch.autograd.Function, _Chosen).apply  # without the detour through `inspect`, see `apply.run`


def decided(
    back: Callable[..., Tensor],
    scores: Tensor,
    make: Callable[[], Tensor] | None,
    *more: Tensor,
    out: Tensor | None = None,
) -> Tensor:
    """``make()``, a tensor that nobody else has, or `out` with its own gradient: decided among the scores, which get
    the gradient ``back(scores, g, *more)``. Nobody may write to them, or to `more`. Only where plain autograd is all
    there is.
    """
    return _apply(scores, out, make, back, *more)  # type: ignore[no-any-return]


# --- contenders: in arrays of NumPy or in tensors ---


def _centred(g: Any, inside: Any, half: Any) -> Any:
    """Less its mean over the rows of `inside`, in units of `half`; zero elsewhere."""
    g = g * inside
    many = inside.sum(-1, keepdims=True)
    return (g - inside * (g.sum(-1, keepdims=True) / (many + (many == 0)))) / half


def _contenders(rows: Any, k: int, half: Any) -> Any:
    """Ones for what has a share strictly between 0 and 1. Nothing is nearer than `half` to infinity or NaN."""
    if k == 1 and (type(rows) is not Tensor or rows.numel() <= SMALL):
        return _above_threshold(rows, half)
    return _by_rounds(rows, half) if k == 1 else _around_last(rows, k, half)


def _ones(mask: Any, like: Any) -> Any:
    return mask.to(like.dtype) if type(mask) is Tensor else mask.astype(like.dtype)


def _above_threshold(rows: Any, half: Any) -> Any:
    """The support of ``sparsemax(rows / half)``: what is above the threshold `tau` at which ``sum relu(rows - tau)`` is
    `half`. With the first `j` alone that is their mean less ``half / j``; the largest of these is `tau`.
    """
    n = rows.shape[-1]
    if type(rows) is Tensor:
        ordered = rows.sort(-1, descending=True).values
        total = (ordered - ordered[..., :1]).cumsum(-1).sub_(half)
        total /= torch.arange(1, n + 1, dtype=rows.dtype, device=rows.device)
        tau = total.amax(-1, keepdim=True)
    else:
        ordered = np.sort(rows)[..., ::-1]
        total = ((ordered - ordered[..., :1]).cumsum(-1) - half) / np.arange(1, n + 1, dtype=rows.dtype)
        tau = total.max(-1, keepdims=True)
    return _ones(rows - ordered[..., :1] > tau, rows)


def _by_rounds(rows: Tensor, half: Any) -> Tensor:
    """The same by Newton's method from below: ``sum relu`` is convex, so that the support only shrinks, and is found
    when its size stays (Michelot's algorithm). Each round is a handful of kernels, and there are few.
    """
    best = rows.amax(-1, keepdim=True)
    z = (rows - best).div_(half)
    if not bool(best.isfinite().all()):
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


def _around_last(rows: Any, k: int, half: Any) -> Any:
    """The contenders of the projection of ``rows / half`` on ``{0 <= m <= 1, sum m = k}``.

    In units of `half` from the last that is in, the threshold at which ``sum clamp(z - tau, 0, 1)`` is `k` lies between
    -1 and the first that is out: Newton's method, kept between bounds.
    """
    if k >= rows.shape[-1]:
        return rows * 0
    choose = torch.where if type(rows) is Tensor else np.where
    last, first = _last_and_first(rows, k)
    z, low, high = (rows - last) / half, last * 0 - 1, (first - last) / half
    near = high > low
    if not bool(near.all()):  # rows in which nobody is near, NaN and infinity
        z, low = choose(near, z, choose(z < 0, -2.0, 2.0)), choose(near, low, -1.0)
        high = choose(near, high, 0.0)
    tau = (low + high) / 2
    slack = 8 * k * (torch if type(rows) is Tensor else np).finfo(rows.dtype).eps
    for _ in range(50):
        share = (z - tau).clip(0, 1)
        inside = _ones((share > 0) & (share < 1), rows)
        excess = share.sum(-1, keepdims=True) - k
        if bool(((abs(excess) <= slack) | ~near).all()):
            break
        low, high = choose(excess > 0, tau, low), choose(excess > 0, high, tau)
        many = inside.sum(-1, keepdims=True)
        step = tau + excess / (many + (many == 0))
        tau = choose((step >= low) & (step <= high), step, (low + high) / 2)
    return inside * near


def _last_and_first(rows: Any, k: int) -> tuple[Any, Any]:
    """The last that is in, and the first that is out."""
    if type(rows) is Tensor:
        values = rows.topk(k + 1, -1).values
        return values[..., k - 1 : k], values[..., k:]
    ordered = np.sort(rows)
    return ordered[..., -k : ordered.shape[-1] - k + 1], ordered[..., -k - 1 : -k]


def contenders(rows: Tensor, k: int, half: float | Tensor) -> Tensor:
    """Mask of the entries that may be among the first `k`, and may not."""
    if not 0 < k < rows.shape[-1]:
        return torch.zeros_like(rows, dtype=torch.bool)
    rows, width = (rows / half, 1.0) if isinstance(half, Tensor) else (rows, half)
    weights = first_k(torch.where(rows.isnan(), torch.inf, rows), k, width)[0]
    return (weights > 0) & (weights < 1)


def chosen_anywhere(rows: Tensor, index: Tensor, half: float | Tensor) -> Tensor:
    """k-hot (…, n) at `index` (…, k), in what every transform and compiler knows."""
    hot = torch.zeros_like(rows).scatter(-1, index, 1.0)
    inside = contenders(rows.detach(), index.shape[-1], half)
    return hard_forward(hot, _centred(torch.where(inside, rows, 0), inside.to(rows.dtype), half))
