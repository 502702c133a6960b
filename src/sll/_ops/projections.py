"""A hard choice of `k` among `n`, with the gradient of the projection that linearizes it.

On the set of the *contenders*, those with a share strictly between 0 and 1, the Euclidean projection on the (capped)
simplex is ``(x - mean(x)) / eps`` and a constant (see `order`). So its gradient is ``(g - mean(g)) / eps`` there, and
0 elsewhere: no more than the set and the width have to be known, and that not before backward.

What computes this in the least time depends on how many there are: a few numbers are looked at in plain Python (the
first call of each of torch's functions in a backward takes longer than that), some thousands with NumPy, where it is
installed.
"""

from __future__ import annotations

import functools
import math
from collections.abc import Callable
from typing import Any, TypeAlias

import torch
from torch import Tensor

from .band import hard_forward
from .dtypes import FULL
from .fused import batched, project
from .order import first_k
from .samples import from_last, leads, pairs

try:
    import numpy
except ImportError:  # it is optional, as it is for torch
    np: Any = None
else:
    np = numpy

SHORT, FEW = 128, 4096
"""Numbers, up to which Python computes, and NumPy (subsets of so many numba)."""

Half: TypeAlias = "float | Tensor | Callable[[Callable[[], Any]], float | Tensor]"
"""A half-width, or what finds it, given a function that computes a sample of distances."""


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
    """The first `k` of the rows of scores; see `rows_of`. Rows with NaN have no contenders, if it is not `ordered`.

    `soft`: the best of each row, with the gradient of ``softmax(scores / half)`` instead.
    """

    __slots__ = ("dim", "half", "k", "largest", "ordered", "soft")

    def __init__(
        self, k: int, dim: int | None, largest: bool, half: Half, ordered: bool = False, soft: bool = False
    ) -> None:
        self.k, self.dim, self.largest, self.half, self.ordered = k, dim, largest, half, ordered
        self.soft = soft

    def along(self, at: int, scores: Tensor, g: Tensor, factor: Tensor) -> Tensor:
        """The same for `g` of shares, times a factor, that have their dimension elsewhere."""
        g = g * factor
        return self.gradient(scores, g if at in (-1, g.dim() - 1) else g.movedim(at, -1))

    def rows_read(self, scores: Tensor, g: Tensor, table: Tensor) -> Tensor:
        """For `g` of the rows of a table that were chosen."""
        n = table.shape[0]
        if table.dim() != 2:
            table = table.reshape(n, -1)
        return self.gradient(scores, g.reshape(-1, table.shape[1]).to(table.dtype) @ table.t())

    def gradient(self, scores: Tensor, g: Tensor) -> Tensor:
        """Of the scores, for `g` of the shares, which have the dimension last."""
        if self._short(scores, g) and (short := self._of_lists(scores, g)) is not None:
            return short
        rows = rows_of(scores, self.dim, self.largest, self.ordered)
        g = g if g.shape == rows.shape else g.reshape(rows.shape)
        g = g if g.dtype is rows.dtype else g.to(rows.dtype)
        found = None
        if (
            rows.numel() < FEW
            and self.k < rows.shape[-1]
            and not self.soft
            and np is not None
            and rows.device.type == "cpu"
        ):
            found = self._of_few(rows, g)
        if found is None:
            half = self.width(lambda: distances_of(rows, self.k, self.ordered))
            found = self._of_many(rows, g, half, half if self.largest else -half)
        if self.dim is None or scores.dim() < 2:
            found = found.reshape(scores.shape)
        elif self.dim not in (-1, scores.dim() - 1):
            found = found.movedim(-1, self.dim)
        return found if found.dtype is scores.dtype else found.to(scores.dtype)

    def _of_many(self, rows: Tensor, g: Tensor, half: float | Tensor, scale: float | Tensor) -> Tensor:
        if self.soft:
            shares = (rows / half).softmax(-1).nan_to_num_(0.0)  # (NaN where a row has nothing finite to compare)
            return torch._softmax_backward_data(g, shares, -1, rows.dtype) / scale
        found = project(rows, g, self.k, half, scale) if self.k < rows.shape[-1] else None
        return _centred(g, _contenders(rows, self.k, half), scale) if found is None else found

    def _short(self, scores: Tensor, g: Tensor) -> bool:
        """Whether the rows are few and as they are, and nobody differentiates `g`, or has many of them at once."""
        if scores.numel() > SHORT or scores.dtype not in FULL or np is None or not scores.is_cpu:
            return False
        if self.soft or g.requires_grad or batched(g):
            return False
        last = scores.dim() < 2 if self.dim is None else self.dim in (-1, scores.dim() - 1)
        return last and self.k < scores.shape[-1]

    def width(self, sample: Callable[[], Any]) -> float | Tensor:
        return self.half(sample) if callable(self.half) else self.half

    def _of_few(self, rows: Tensor, g: Tensor) -> Tensor | None:
        """With NumPy; None if somebody differentiates `g`, or has many of them at once."""
        try:
            given = g.numpy()
        except RuntimeError:
            return None
        with np.errstate(all="ignore"):
            k, n = self.k, rows.shape[-1]
            costs = -rows.numpy().reshape(-1, n)
            ordered = costs.copy()
            ordered.sort()
            half = self.width(lambda: distances_of(rows, k, self.ordered))
            if isinstance(half, Tensor):
                return None
            inside = _cheapest(costs, ordered, half) if k == 1 else _around_last(costs, k, half, ordered)
            ones, inside = _ones(n, costs.dtype), inside.astype(costs.dtype, copy=False)
            found = given.reshape(-1, n) * inside
            found -= inside * ((found @ ones) / np.maximum(inside @ ones, 1))[:, None]
            found /= half if self.largest else -half
        return torch.from_numpy(found.reshape(given.shape))

    def _of_lists(self, scores: Tensor, g: Tensor) -> Tensor | None:
        """In plain Python; None if a score is not finite."""
        k, rows, found = self.k, _lists(scores), torch.zeros_like(scores)
        if not math.isfinite(sum(map(sum, rows))):
            return None
        if not self.largest:
            rows = [[-score for score in row] for row in rows]
        lines = [sorted(row, reverse=True) for row in rows]
        half = self.width(lambda: distances_of(rows_of(scores, self.dim, self.largest), k, self.ordered))
        if isinstance(half, Tensor):
            return None
        scale, outs = half if self.largest else -half, found.numpy().reshape(len(rows), -1)
        for row, line, given, out in zip(rows, lines, _lists(g), outs):
            a, b = (0, _support(line, half)) if k == 1 else _interval(line, k, half)
            if b - a > 1:
                most, least = line[a], line[b - 1]
                inside = [i for i, score in enumerate(row) if least <= score <= most]
                mean = sum([given[i] for i in inside]) / len(inside)
                for i in inside:
                    out[i] = (given[i] - mean) / scale
        return found


def _lists(x: Tensor) -> list[list[float]]:
    """Its rows."""
    return (x if x.dim() == 2 else x.reshape(-1, x.shape[-1])).tolist()


@functools.lru_cache(maxsize=64)
def _ones(n: int, dtype: Any) -> Any:
    return np.ones(n, dtype)


def distances_of(rows: Tensor, k: int, subset: bool) -> Tensor:
    """What a policy is shown: how far choices of one, or of a `subset`, are from another."""
    if not subset:
        return leads(rows)
    return from_last(rows, k) if k < rows.shape[-1] else pairs(rows)


class _Chosen(torch.autograd.Function):
    """``make()``, or `out` if that is None, decided among scores."""

    @staticmethod
    def forward(ctx: Any, scores: Tensor, out: Tensor | None, make: Any, back: Any, *more: Tensor) -> Tensor:
        ctx.save_for_backward(scores, *more)
        ctx.back = back
        return out.clone() if make is None else make()  # type: ignore[union-attr]

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
    """``make()``, or the value of `out`, which gets the gradient too; nobody else has either. It was decided among the
    scores, which get the gradient ``back(scores, g, *more)``. Nobody may write to them, or to `more`. Only where plain
    autograd is all there is.
    """
    if make is None and out is not None and not out.requires_grad and not out._is_view():
        hard, out = out, None
        make = lambda: hard
    return _apply(scores, out, make, back, *more)  # type: ignore[no-any-return, no-untyped-call]


# --- contenders: of few numbers, in arrays of costs, the least of which is chosen ---


def _cheapest(costs: Any, ordered: Any, half: float) -> Any:
    """Mask of the support of ``sparsemax(-costs / half)``: what is below the threshold at which ``sum relu(tau -
    costs)`` is `half`. With the first `j` alone that is their mean plus ``half / j``; the least of these is it.
    """
    first = ordered[:, :1]
    total = np.add.accumulate(np.minimum(ordered - first, 1e30), -1) + half
    means = total / np.arange(1, costs.shape[-1] + 1, dtype=costs.dtype)
    return costs - first < np.minimum.reduce(means.T)[:, None]


def _support(scores: list[float], half: float) -> int:
    """How many of sorted scores, largest first, have a share in ``sparsemax(scores / half)``: those at which all that
    are larger rise by less than `half` in sum.
    """
    total, best = 0.0, scores[0]
    for many, score in enumerate(scores):
        score -= best  # (what is far from 0 is not rounded to more than `half`)
        if total - many * score >= half:
            return many
        total += score
    return len(scores)


def _interval(scores: list[float], k: int, half: float) -> tuple[int, int]:
    """Which of sorted scores, largest first, have a share strictly between 0 and 1 at the threshold at which all
    shares, ``clamp((score - tau) / half, 0, 1)``, add up to `k`. It is sought from the score of the first that is out.
    """
    scores = [score - scores[k] for score in scores]  # (as in `_support`)
    tau, n, a, b = 0.0, len(scores), 0, k
    while scores[a] >= tau + half:
        a += 1
    missing = (k - a) * half - sum(scores[a:k])
    while missing > 0:
        full, begins = scores[a] - half if a < b else -math.inf, scores[b] if b < n else -math.inf
        corner = begins if begins > full else full
        room = (b - a) * (tau - corner)
        if missing <= room:
            while missing == room and a < b and scores[a] - half >= corner:
                a += 1  # its share is 1 there
            break
        missing, tau = missing - room, corner
        a, b = (a, b + 1) if begins >= full else (a + 1, b)
    return a, b


# --- of many ---


def _centred(g: Tensor, inside: Tensor, half: Any) -> Tensor:
    """Less its mean over the rows of `inside` (ones there), in units of `half`; zero elsewhere."""
    g = g * inside
    mean = g.sum(-1, keepdim=True) / inside.sum(-1, keepdim=True).clamp_(min=1)
    return torch.addcmul(g, inside, mean, value=-1).div_(half)


def _contenders(rows: Tensor, k: int, half: Any) -> Tensor:
    """Ones for what has a share strictly between 0 and 1. Nothing is nearer than `half` to infinity or NaN."""
    return _around_last(-rows, k, half) if k > 1 else _by_rounds(rows, half)


def _by_rounds(rows: Tensor, half: Any) -> Tensor:
    """As `_cheapest`, by Newton's method from below: ``sum relu`` is convex, so that the support only shrinks, and is
    found when its size stays (Michelot's algorithm). Each round is a handful of kernels, and there are few.
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


def _around_last(costs: Any, k: int, half: Any, ordered: Any = None) -> Any:
    """Ones for the contenders of the projection of ``-costs / half`` on ``{0 <= m <= 1, sum m = k}``, in an array or in
    a tensor.

    In units of `half` from the last that is in, the threshold at which ``sum clamp(z - tau, 0, 1)`` is `k` lies between
    -1 and the first that is out: Newton's method, kept between bounds.
    """
    numbers: Any = torch if type(costs) is Tensor else np
    if k >= costs.shape[-1]:
        return numbers.zeros_like(costs)
    ordered = costs.topk(k + 1, -1, largest=False).values if ordered is None else ordered
    last, first = ordered[..., k - 1 : k], ordered[..., k : k + 1]
    z, high = (last - costs) / half, ((last - first) / half)[..., 0]
    open_, low = high > -1, high * 0 - 1
    if not bool(open_.all()):  # rows in which nobody is near, NaN and infinity
        z = numbers.where(open_[..., None], z, numbers.where(z < 0, -2.0, 2.0))
        low, high = numbers.where(open_, low, -1.0), numbers.where(open_, high, 0.0)
    tau, ones = (low + high) / 2, numbers.ones_like(z.reshape(-1, z.shape[-1])[0])
    slack = 8 * k * numbers.finfo(costs.dtype).eps
    share, whole = numbers.empty_like(z), numbers.empty_like(z)  # (memory asked for anew costs more than a step)
    for _ in range(50):
        numbers.subtract(z, tau[..., None], out=share)
        excess = numbers.clip(share, 0, 1, out=share) @ ones - k
        numbers.floor(share, out=whole)
        inside = numbers.subtract(numbers.sign(share, out=share), whole, out=share)
        if bool(((abs(excess) <= slack) | ~open_).all()):
            break
        higher = excess > 0
        low, high = numbers.where(higher, tau, low), numbers.where(higher, high, tau)
        step = tau + excess / (inside @ ones)
        tau = numbers.where((step >= low) & (step <= high), step, (low + high) / 2)
    return inside * open_[..., None]


def contenders(rows: Tensor, k: int, half: float | Tensor) -> Tensor:
    """Mask of the entries that may be among the first `k`, and may not."""
    if not 0 < k < rows.shape[-1]:
        return torch.zeros_like(rows, dtype=torch.bool)
    rows, width = (rows / half, 1.0) if isinstance(half, Tensor) else (rows, half)
    weights = first_k(torch.where(rows.isnan(), torch.inf, rows), k, width)[0]
    return (weights > 0) & (weights < 1)


def chosen_anywhere(rows: Tensor, index: Tensor, half: float | Tensor, soft: bool = False) -> Tensor:
    """k-hot (…, n) at `index` (…, k), in what every transform and compiler knows. `soft` as in `Projection`."""
    hot = torch.zeros_like(rows).scatter(-1, index, 1.0)
    if soft:
        compared = rows.detach().amax(-1, keepdim=True).isfinite()
        return hard_forward(hot, (torch.where(compared, rows, 0) / half).softmax(-1))
    inside = contenders(rows.detach(), index.shape[-1], half)
    return hard_forward(hot, _centred(torch.where(inside, rows, 0), inside.to(rows.dtype), half))
