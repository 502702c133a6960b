"""What an order passes back: the derivatives of `order.Order` and of ranks, by running sums along the sorted rows.

Between the places ``k - 1`` and `k` of a row is *boundary* `k`: ``m_k``, the share that each element has of the first
`k`, is strictly between 0 and 1 for those of an interval ``[a_k, b_k)`` of sorted places, and there its derivative
takes the mean away and divides by `eps` (see `projections`). With ``P = m_{k+1} - m_k``, whatever is linear in `P` with
coefficients ``A[place] B[element]`` has coefficients ``(A[k - 1] - A[k]) B[element]`` in ``m_k``; so its gradient is
made of sums over intervals of places, and over the boundaries whose interval an element is in. O(n log n) in all.

With ``F(c)``, the sum of the shares at the threshold `c`, an element at `u` has a share of ``m_k`` if ``F(u) < k``, and
is in for good if ``F(u + 1) <= k``: all intervals are found by two searches.
"""

from __future__ import annotations

import functools
import math
from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor

from .apply import finite
from .dtypes import FULL, exact_dtype
from .fused import batched
from .order import _bands, traced
from .projections import FEW, Half, Projection, np, rows_of


class _Tensors:
    """What is done along the last dimension, of tensors."""

    @staticmethod
    def up_to(values: Tensor, n: int) -> Tensor:
        """How many whole values are at most 0, 1, …, n - 1. (In a fraction of the time of so many searches.)"""
        found = torch.zeros(*values.shape[:-1], n + 1, dtype=torch.int64, device=values.device)
        one = torch.ones((), dtype=torch.int64, device=values.device)
        found.scatter_add_(-1, values.long().clamp_(0, n), one.expand(values.shape))
        return found.cumsum(-1)[..., :n]

    @staticmethod
    def take(rows: Tensor, at: Tensor) -> Tensor:
        return rows.gather(-1, at.expand(*rows.shape[:-1], at.shape[-1]))

    @staticmethod
    def totals(rows: Tensor) -> Tensor:
        """The sum of all before each place, and of all."""
        return torch.nn.functional.pad(rows.cumsum(-1), (1, 0))

    @staticmethod
    def places(n: int, rows: Tensor) -> Tensor:
        return torch.arange(n, device=rows.device)


class _Arrays:
    """The same of NumPy's arrays, with one sorted row."""

    @staticmethod
    def up_to(values: Any, n: int) -> Any:
        return np.bincount(values.astype(np.int64).clip(0, n), minlength=n + 1).cumsum()[:n]

    @staticmethod
    def take(rows: Any, at: Any) -> Any:
        return rows[..., at]

    @staticmethod
    def totals(rows: Any) -> Any:
        found = np.zeros((*rows.shape[:-1], rows.shape[-1] + 1))
        np.add.accumulate(rows, -1, out=found[..., 1:])
        return found

    @staticmethod
    def places(n: int, rows: Any) -> Any:
        return np.arange(n)


def _axis(costs: Any, half: float) -> Any:
    """Where the elements of a sorted row are, in units of `half`, with gaps that no band crosses cut short."""
    return _Arrays.totals(np.minimum((costs[1:] - costs[:-1]) / half, 2.0))


class Ladder:
    """The intervals of rows of `costs`, (…, n), which `index`, (…, m), sorts: least first."""

    _of: Any
    _near: Tensor | None
    bands: tuple[Any, Any]
    """The places of those within `half`, for each element."""

    def __init__(self, costs: Tensor, index: Tensor, half: float | Tensor) -> None:
        self.index, self.half, self.size, self._near = index, half, costs.shape[-1], None
        if costs.dim() == 1 and index.numel() <= FEW and np is not None and costs.is_cpu:
            row = costs.numpy()[index.numpy()].astype(np.float64)
            if math.isfinite(row[0]) and math.isfinite(row[-1]):
                u = _axis(row, float(half))
                self._of, self._parts = _Arrays, [u]
                self.bands = self._bands = u.searchsorted(u - 1), u.searchsorted(u + 1, "right")
                return
        ordered = costs.gather(-1, index).to(exact_dtype(costs))
        low, high, u = _bands(ordered, half)  # type: ignore[arg-type]
        self._of, self._parts = _Tensors, [u.floor(), u - u.floor()]  # both keep their digits in long sums
        self._bands = low, high
        finite = ordered.isfinite()  # what is infinite has no gradient
        self._near = finite[..., 1:] & finite[..., :-1]
        place = _Tensors.places(u.shape[-1], u)
        self.bands = torch.where(finite, low, place), torch.where(finite, high, place + 1)

    @functools.cached_property
    def intervals(self) -> tuple[Any, Any]:
        """Of each boundary."""
        of, (low, high) = self._of, self._bands
        place = of.places(low.shape[-1], low)
        shares, left = low, high
        for part in self._parts:
            total = of.totals(part)
            here = total[..., :-1]
            shares = shares + (part * (place - low) - (here - of.take(total, low)))
            left = left - ((of.take(total, high) - here) - part * (high - place))
        n = place.shape[0]
        a, b = of.up_to(-(-left // 1), n)[..., 1:], of.up_to(shares // 1, n)[..., :-1]
        if self._near is not None:
            a, b = torch.where(self._near, a, place[1:]), torch.where(self._near, b, place[1:])
        return a, b

    @functools.cached_property
    def steps(self) -> tuple[Any, Any, Any, Any]:
        """The interval of each boundary, and the boundaries whose intervals an element is in."""
        of, (a, b) = self._of, self.intervals
        n = self._bands[0].shape[-1]
        return a, b, of.up_to(b, n), of.up_to(a, n)

    def ranks(self, g: Tensor) -> Tensor:
        """The gradient of the costs, (…, n), for that of the ranks of the elements."""
        return self._along(_of_ranks, self.bands, g.gather(-1, self.index))

    def mixed(self, a: Tensor, b: Tensor) -> Tensor:
        """The gradient of the costs for coefficients ``a[place] b[element at the place]`` of `P`; both are
        (d, …, n), and the products are summed over the first dimension.
        """
        return self._along(_of_places, self.steps, a, b)

    def _along(self, compute: Any, known: tuple[Any, ...], *given: Tensor) -> Tensor:
        if type(known[0]) is not Tensor:
            try:
                arrays = [t.numpy() for t in given]
            except (RuntimeError, TypeError):  # differentiated, or many at once; or bfloat16, which NumPy lacks
                known = tuple(map(torch.from_numpy, known))
            else:
                with np.errstate(all="ignore"):
                    found = compute(_Arrays, *known, *arrays) / self.half
                if math.isfinite(found.sum()):
                    placed = np.zeros(self.size)
                    placed[self.index.numpy()] = found
                    return torch.from_numpy(placed)
                known = tuple(map(torch.from_numpy, known))
        given = tuple(t.to(exact_dtype(t)) for t in given)
        found = compute(_Tensors, *known, *map(finite, given)) / self.half
        bad = [(~t.isfinite()).to(t.dtype) for t in given]
        unread = any(map(batched, bad))  # (of a batch of gradients nobody can ask)
        if unread or not traced(bad[0]) and any(bool(t.any()) for t in bad):  # what is not finite stays in its bands
            found = torch.where(_REACH[compute](_Tensors, *known, *bad) > 0, torch.nan, found)
        nothing: Tensor = found.new_zeros(*found.shape[:-1], self.size)
        return nothing.scatter(-1, self.index.expand(found.shape), found)


def _of_ranks(of: Any, low: Any, high: Any, g: Any) -> Any:
    """The pairs in a band: ``sum of (g_i - g_j) / 2``."""
    total = of.totals(g)
    return (g * (high - low) - (of.take(total, high) - of.take(total, low))) * 0.5


def _of_places(of: Any, a: Any, b: Any, first: Any, last: Any, at_place: Any, of_element: Any) -> Any:
    change, total = at_place[..., 1:] - at_place[..., :-1], of.totals(of_element)
    many = b - a
    mean = (of.take(total, b) - of.take(total, a)) / (many + (many == 0))
    changes, means = of.totals(change), of.totals(change * mean)
    sums = of_element * (of.take(changes, last) - of.take(changes, first))
    return (sums - (of.take(means, last) - of.take(means, first))).sum(0)


def _reached_by_ranks(of: Any, low: Any, high: Any, bad: Any) -> Any:
    total = of.totals(bad)
    return of.take(total, high) - of.take(total, low)


def _reached_by_places(of: Any, a: Any, b: Any, first: Any, last: Any, at_place: Any, of_element: Any) -> Any:
    total = of.totals(of_element)
    boundaries = at_place[..., 1:] + at_place[..., :-1] + of.take(total, b) - of.take(total, a)
    found = of.totals(boundaries * (b - a > 1))
    return (of.take(found, last) - of.take(found, first)).sum(0)


_REACH: dict[Any, Any] = {_of_ranks: _reached_by_ranks, _of_places: _reached_by_places}


class Sorting:
    """How the rows of scores were sorted, along `dim`: what is known in backward, see `projections.decided`.

    `sample` is what a policy is shown; `first`: which place of its row an index begins with that has some of the
    elements only.
    """

    __slots__ = ("dim", "first", "half", "ladder", "largest", "left_out", "sample")

    def __init__(
        self, dim: int, largest: bool, half: Half, sample: Callable[[], Tensor], first: Tensor | None = None
    ) -> None:
        self.dim, self.largest, self.half, self.sample, self.first = dim, largest, half, sample, first
        self.ladder: Ladder | None = None
        self.left_out: Tensor | int = 0

    def _of(self, scores: Tensor, index: Tensor) -> Ladder:
        if self.ladder is None:
            rows, at = rows_of(scores, self.dim, not self.largest, True), _last(index, self.dim)
            half = self.half(self.sample) if callable(self.half) else self.half
            if self.first is not None:
                at, self.left_out = _near(rows, at, self.first, half)
            self.ladder = Ladder(rows, at, half)
        return self.ladder

    def _back(self, costs: Tensor, scores: Tensor) -> Tensor:
        found = -costs if self.largest else costs
        return _last(found if found.dtype is scores.dtype else found.to(scores.dtype), self.dim, back=True)

    def ranks(self, flip: bool, scores: Tensor, g: Tensor, index: Tensor) -> Tensor:
        """`flip`: the ranks are those of the elements from the last to the first."""
        g = _last(g.flip(self.dim) if flip else g, self.dim)
        return self._back(self._of(scores, index).ranks(g), scores)

    def mixed(self, by_place: bool, flip: bool, scores: Tensor, g: Tensor, index: Tensor, values: Tensor) -> Tensor:
        """For what is linear in the shares: `values` of the places, and `g` of the elements, or the other way round.
        `flip`: what belongs to the elements begins with the last.
        """
        values, g = (_lined(t, index.dim(), self.dim) for t in (values, g))
        if not by_place and g.shape[-1] == 1 and (found := self._one(scores, g, values)) is not None:
            return found
        ladder = self._of(scores, index)
        a, b = (values, g) if by_place else (g, values)
        b, at = b.flip(-1) if flip else b, ladder.index
        if at.dim() == 1:
            b = b.index_select(-1, at)
        else:
            a, b = (t.expand(-1, *at.shape[:-1], -1) for t in (a, b))
            b = b.gather(-1, at.expand(b.shape[0], *at.shape))
        a = a if a.shape[-1] <= at.shape[-1] else a[..., : at.shape[-1]]
        if self.first is not None:
            place = (self.first - self.left_out + _Tensors.places(a.shape[-1], a)).expand(a.shape)
            a = a.new_zeros(*a.shape[:-1], at.shape[-1]).scatter(-1, place, a)
        return self._back(ladder.mixed(a, b), scores)

    def _one(self, scores: Tensor, g: Tensor, values: Tensor) -> Tensor | None:
        """Of one place that is read: what the first so many and one more have, less the first so many."""
        if (first := self.first) is None or not first.numel() or bool((first != (k := int(first.min()))).any()):
            return None
        wide = scores if scores.dtype in FULL else scores.float()
        g = (g.to(wide.dtype) * values.to(wide.dtype)).sum(0)
        found, half = torch.zeros_like(wide), self.half
        known = (lambda _: half(self.sample)) if callable(half) else half
        for many, sign in ((k + 1, 1), (k, -1)):
            if 0 < many < g.shape[-1]:
                part = Projection(many, self.dim, self.largest, known, True).gradient(wide, g)
                found = found.add(part, alpha=sign)
        return found.to(scores.dtype)


def _near(rows: Tensor, own: Tensor, first: Tensor, half: float | Tensor) -> tuple[Tensor, Tensor | int]:
    """The elements of rows, least first, that can have a share of the places at which its `own` stand, from the `first`
    on; and how many others come before them. Who shares a boundary with the next is within `half` of that.
    """
    n, last = rows.shape[-1], int(first.max()) + own.shape[-1] if rows.numel() else 0
    many = 4 * last + 60
    while 4 * many < n and rows.numel():
        best, index = rows.topk(many, largest=False)
        shares = ((best[..., -1:] - best) / half).clamp_(max=1).sum(-1)  # of all places, if those behind have none
        if bool((shares >= last).all()):
            return index, 0
        many *= 8
    if rows.numel() != n or n <= _SHORT_ROW:
        return rows.argsort(-1), 0
    row = rows.reshape(-1)
    low, high = row[own.reshape(-1)[0]] - half, row[own.reshape(-1)[-1]] + half
    far = torch.full_like(low, math.inf)
    low, high = low.nextafter(-far), high.nextafter(far)  # (they were rounded)
    near = ((row >= low) & (row <= high)).nonzero().squeeze(-1)
    return near[row[near].argsort()].expand(*rows.shape[:-1], -1), (row < low).sum()


_SHORT_ROW = 256
"""So many numbers are sorted in no more time than it takes to look who is near."""


def _last(t: Tensor, dim: int, back: bool = False) -> Tensor:
    """With the dimension `dim` last, or `back` where it was."""
    if dim in (-1, t.dim() - 1):
        return t
    return t.movedim(-1, dim) if back else t.movedim(dim, -1)


def _lined(t: Tensor, dims: int, dim: int) -> Tensor:
    """With the dimension `dim` last, and what comes after the first `dims` in front."""
    if t.dim() == 1:
        return t.unsqueeze(0)
    return t.reshape(*t.shape[:dims], -1).movedim(-1, 0).movedim(dim % dims + 1, -1)
