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
from typing import Any

import torch
from torch import Tensor

from .apply import finite
from .fused import batched
from .order import _bands, traced
from .projections import FEW, Half, np, rows_of
from .samples import pairs

__all__ = ["Ladder", "Sorting"]


class _Tensors:
    """What is done along the last dimension, of tensors."""

    @staticmethod
    def search(rows: Tensor, values: Tensor, right: bool = False) -> Tensor:
        values = values.expand(*rows.shape[:-1], values.shape[-1]).contiguous()
        return torch.searchsorted(rows.contiguous(), values, right=right)

    @staticmethod
    def take(rows: Tensor, at: Tensor) -> Tensor:
        return rows.gather(-1, at.expand(*rows.shape[:-1], at.shape[-1]))

    @staticmethod
    def totals(rows: Tensor) -> Tensor:
        """The sum of all before each place, and of all."""
        return torch.nn.functional.pad(rows.cumsum(-1), (1, 0))

    @staticmethod
    def places(rows: Tensor) -> Tensor:
        return torch.arange(rows.shape[-1], device=rows.device)


class _Arrays:
    """The same of NumPy's arrays, with one sorted row."""

    @staticmethod
    def search(rows: Any, values: Any, right: bool = False) -> Any:
        return rows.searchsorted(values, "right" if right else "left")

    @staticmethod
    def take(rows: Any, at: Any) -> Any:
        return rows[..., at]

    @staticmethod
    def totals(rows: Any) -> Any:
        found = np.zeros((*rows.shape[:-1], rows.shape[-1] + 1))
        np.add.accumulate(rows, -1, out=found[..., 1:])
        return found

    @staticmethod
    def places(rows: Any) -> Any:
        return np.arange(rows.shape[-1])


def _axis(costs: Any, half: float) -> Any:
    """Where the elements of a sorted row are, in units of `half`, with gaps that no band crosses cut short."""
    return _Arrays.totals(np.minimum((costs[1:] - costs[:-1]) / half, 2.0))


class Ladder:
    """The intervals of rows of `costs`, (…, n), which `index` sorts: least first."""

    _of: Any
    _near: Tensor | None
    bands: tuple[Any, Any]
    """The places of those within `half`, for each element."""

    def __init__(self, costs: Tensor, index: Tensor, half: float | Tensor) -> None:
        self.index, self.half, self._near = index, half, None
        if costs.dim() == 1 and costs.numel() <= FEW and np is not None and costs.is_cpu:
            row = costs.numpy()[index.numpy()].astype(np.float64)
            if math.isfinite(row[0]) and math.isfinite(row[-1]):
                u = _axis(row, float(half))
                self._of, self._parts = _Arrays, [u]
                self.bands = self._bands = u.searchsorted(u - 1), u.searchsorted(u + 1, "right")
                return
        ordered = costs.gather(-1, index).to(torch.float32 if costs.device.type == "mps" else torch.float64)
        low, high, u = _bands(ordered, half)  # type: ignore[arg-type]
        self._of, self._parts = _Tensors, [u.floor(), u - u.floor()]  # both keep their digits in long sums
        self._bands = low, high
        finite = ordered.isfinite()  # what is infinite has no gradient
        self._near = finite[..., 1:] & finite[..., :-1]
        place = _Tensors.places(u)
        self.bands = torch.where(finite, low, place), torch.where(finite, high, place + 1)

    @functools.cached_property
    def intervals(self) -> tuple[Any, Any]:
        """Of each boundary."""
        of, (low, high) = self._of, self._bands
        place = of.places(low)
        shares, left = low, high
        for part in self._parts:
            total = of.totals(part)
            here = total[..., :-1]
            shares = shares + (part * (place - low) - (here - of.take(total, low)))
            left = left - ((of.take(total, high) - here) - part * (high - place))
        boundary = place[1:]
        a, b = of.search(left, boundary, True), of.search(shares, boundary)
        if self._near is not None:
            a, b = torch.where(self._near, a, boundary), torch.where(self._near, b, boundary)
        return a, b

    @functools.cached_property
    def steps(self) -> tuple[Any, Any, Any, Any]:
        """The interval of each boundary, and the boundaries whose intervals an element is in."""
        of, (a, b) = self._of, self.intervals
        place = of.places(self._bands[0])
        return a, b, of.search(b, place, True), of.search(a, place, True)

    def ranks(self, g: Tensor) -> Tensor:
        """The gradient of the costs, (…, n), for that of the ranks of the elements."""
        return self._along(_of_ranks, self.bands, g.gather(-1, self.index))

    def mixed(self, a: Tensor, b: Tensor) -> Tensor:
        """The gradient of the costs for coefficients ``a[place] b[element at the place]`` of `P`; both are
        (d, …, n), and the products are summed over the first dimension.
        """
        return self._along(_of_places, self.steps, a, b)

    def share(self, g: Tensor, place: Tensor, boundary: Tensor) -> Tensor:
        """What `g`, (…, k, n), of the shares of the first so many `boundary`, (…, k), passes to elements that stand at
        a `place`: without the mean over those whose share is open.
        """
        first, last = (torch.as_tensor(t, device=g.device) for t in self.intervals)
        inner = (boundary > 0) & (boundary <= first.shape[-1])
        at = (boundary - 1).clamp(0, first.shape[-1] - 1).expand(*first.shape[:-1], boundary.shape[-1])
        low, high = first.gather(-1, at), last.gather(-1, at)
        low, many = low.unsqueeze(-1), torch.where(inner, high - low, 0).unsqueeze(-1)
        open_ = (place >= low) & (place < low + many)
        g = torch.where(open_, g, 0)
        return torch.where(open_, g - g.sum(-1, keepdim=True) / many, 0)

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
                    placed = np.empty_like(found)
                    placed[self.index.numpy()] = found
                    return torch.from_numpy(placed)
                known = tuple(map(torch.from_numpy, known))
        given = tuple(t.to(torch.float32 if t.device.type == "mps" else torch.float64) for t in given)
        found = compute(_Tensors, *known, *map(finite, given)) / self.half
        bad = [(~t.isfinite()).to(t.dtype) for t in given]
        unread = any(map(batched, bad))  # (of a batch of gradients nobody can ask)
        if unread or not traced(bad[0]) and any(bool(t.any()) for t in bad):  # what is not finite stays in its bands
            found = torch.where(_REACH[compute](_Tensors, *known, *bad) > 0, torch.nan, found)
        return torch.zeros_like(found).scatter(-1, self.index.expand(found.shape), found)


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
    """How the rows of scores were sorted, along `dim`: what is known in backward, see `projections.decided`."""

    __slots__ = ("dim", "half", "ladder", "largest")

    def __init__(self, dim: int, largest: bool, half: Half) -> None:
        self.dim, self.largest, self.half = dim, largest, half
        self.ladder: Ladder | None = None

    def _of(self, scores: Tensor, index: Tensor) -> Ladder:
        if self.ladder is None:
            rows = rows_of(scores, self.dim, not self.largest, True)
            half = self.half(lambda: pairs(rows)) if callable(self.half) else self.half
            self.ladder = Ladder(rows, _last(index, self.dim), half)
        return self.ladder

    def _back(self, costs: Tensor, scores: Tensor) -> Tensor:
        found = -costs if self.largest else costs
        return _last(found if found.dtype is scores.dtype else found.to(scores.dtype), self.dim, back=True)

    def ranks(self, flip: bool, scores: Tensor, g: Tensor, index: Tensor) -> Tensor:
        """`flip`: the ranks are those of the elements from the last to the first."""
        g = _last(g.flip(self.dim) if flip else g, self.dim)
        return self._back(self._of(scores, index).ranks(g), scores)

    def mixed(
        self, reads: bool, inverse: bool, flip: bool, scores: Tensor, g: Tensor, index: Tensor, values: Tensor
    ) -> Tensor:
        """For `g` of what an index read (then `values` is what it read) or wrote (what it wrote). The index is that of
        the elements in order; or the `inverse`, of the places of the elements, from the last to the first if `flip`.
        """
        lines = [_lined(t, index.dim(), self.dim) for t in (values, g)]
        at = _last(index, self.dim)
        n = at.shape[-1]
        if flip:  # what belongs to elements
            lines = [t.flip(-1) if reads or t is lines[0] else t for t in lines]

        def to_place(t: Tensor) -> Tensor:
            return t.index_select(-1, at) if at.dim() == 1 else t.gather(-1, at.expand(*t.shape[:-1], n))

        values, g = lines
        if reads:
            a, b = (to_place(values), to_place(g)) if inverse else (g, values)
        else:
            a, b = (g[..., :n], to_place(values)) if inverse else (values, to_place(g))
        return self._back(self._of(scores, index).mixed(a, b), scores)

    def shares(self, scores: Tensor, g: Tensor, first: Tensor) -> Tensor:
        """For `g` of the shares, (…, k, n), that all elements have of `k` places from the `first` on, (…, 1)."""
        rows = rows_of(scores, self.dim, not self.largest, True)
        half = self.half(lambda: pairs(rows)) if callable(self.half) else self.half
        k = g.shape[-2]
        index = _nearest(rows, int(first.max()) + k - 1, half)
        place = _Tensors.places(index)
        ladder = Ladder(rows.gather(-1, index), place.expand(index.shape), half)
        g = g.gather(-1, index.unsqueeze(-2).expand(*g.shape[:-1], index.shape[-1]))
        pad = torch.nn.functional.pad
        g = pad(g, (0, 0, 0, 1)) - pad(g, (0, 0, 1, 0))  # (a place is what one boundary lets in, and the last did not)
        found = ladder.share(g, place, first + torch.arange(k + 1, device=rows.device)).sum(-2) / half
        return self._back(torch.zeros_like(rows, dtype=found.dtype).scatter(-1, index, found), scores)


def _nearest(rows: Tensor, last: int, half: float | Tensor) -> Tensor:
    """The elements of rows, least first, that can have a share of the places up to the `last`: who shares a boundary
    with the next behind it is within `half` of that.
    """
    n = rows.shape[-1]
    if 4 * last + 8 > n:
        return rows.argsort(-1)
    behind = rows.topk(last + 2, largest=False).values[..., -1:]
    many = int((rows <= behind + half).sum(-1).max()) if rows.numel() else n
    return rows.argsort(-1) if 2 * many > n else rows.topk(many, largest=False).indices


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
