"""Which of its candidates torch picked: the indices of the first `k` of each row, and what all rules of choices share.

The values that torch finds keep its own gradient. An index carries `Weights`: 1 for what was picked, with the gradient
of the Euclidean projection that `sll.argmax` and `sll.topk_mask` are (see `projections`), worked out in backward.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor

from ..._ops.blend import TAKEN
from ..._ops.dtypes import FULL
from ..._ops.env import tracked
from ..._ops.openness import just_decided, marked
from ..._ops.order import Order as Places
from ..._ops.order import close, most_neighbours
from ..._ops.projections import Projection, chosen_anywhere, contenders, decided, distances_of, rows_of
from ..._ops.samples import lead, neighbours
from ..._ops.saving import saving
from ..._ops.surrogates import alias, follow, kept, lazy_clone, number, ordinary, simple
from ..._rules.index import op_name
from ..._rules.widths import Scale, in_units, is_soft, watch_of, watched
from ..interface import Func, Region
from .linear import Linear, half_in_backward, linear, positions
from .shadow import Weights, carry, shadow

_UNIT = Scale(1.0)
_DISCRETE = (
    "of integers, which is largest, or equal to others, has no derivative here. Choose among the scores, or use "
    'forward="hard".'
)


def with_indices(region: Region, func: Func, out: Any, found: Weights) -> Any:
    """`out`, an index or a ``torch.return_types``, with what its indices carry."""
    if isinstance(out, Tensor):
        return carry(region, out, found)
    carry(region, out.indices, found)
    return out


def decides(region: Region, func: Func, op: str, x: Tensor, dim: int | None) -> bool:
    """Whether there is something to decide: two floats at least that autograd follows."""
    if not x.is_floating_point() and shadow(x) is not None:
        region.lose(op_name(func), [x], _DISCRETE)
    if not tracked(x) or not region.linearizes(op):
        return False
    n = x.numel() if dim is None else x.shape[dim] if x.dim() else 1
    return n > 1 and x.numel() > 0


def quickly_decides(region: Region, op: str, x: Any) -> bool:
    """Whether they are ordinary floats that autograd follows."""
    if not ordinary(x) or not x.requires_grad or x.dim() == 0 or not region.linearizes(op):
        return False
    if getattr(x, "_sll", None) is not None or type(x.grad_fn) is TAKEN:  # (see `either.left`)
        return False
    return not just_decided(x)  # (see `either.tied`)


# --- weights -----------------------------------------------------------------------------------------------------


def as_weights(labels: Tensor, weights: Tensor, index: Tensor, reach: int) -> tuple[Tensor, Tensor]:
    """Windows of an order as weights whose values are the program's: 1 for what `index` says.

    Among equals that have no distance (infinite ones) it may be another than we sorted there.
    """
    index = index.unsqueeze(-1)
    middle = positions(weights.shape[-1], weights.device) == reach
    labels = torch.where((weights.detach() == 1) & middle, index, labels)
    hot = labels == index
    hot = hot & (hot.cumsum(-1) == 1)  # (at the ends of a row a window has some of them more than once)
    return follow(weights, lambda: hot.to(weights.dtype)), labels


def back(t: Tensor, dim: int) -> Tensor:
    """The last dimension but one to where `dim` was (there is one dimension more, at the end)."""
    return t.movedim(-2, dim if dim >= 0 else dim - 1)


def row_numbers(index: Tensor, dim: int) -> Tensor:
    """Which row each place belongs to."""
    shape = [1 if d == dim % index.dim() else n for d, n in enumerate(index.shape)]
    numbers = positions(index.numel() // max(index.shape[dim], 1), index.device)
    return numbers.reshape(shape).expand(index.shape)


MAX_SHARES = 2**22
"""Shares of all elements in all places: beyond so many they are worked out in windows around each place."""


# --- the first few of each row ------------------------------------------------------------------------------------


class Picked(Weights):
    """The `k` of each row that torch chose: which they are, and together which set."""

    make, exact, number = None, None, None  # type: ignore[assignment]
    _value, _other, _weights, _labels, _numbered = None, None, None, None, False
    ordered, in_order, positions = True, True, False

    def __init__(
        self, region: Region, op: str, x: Tensor, index: Tensor, dim: int | None, k: int, largest: bool,
        quick: bool = False,
    ) -> None:  # fmt: skip
        common = quick or simple(x)
        eps = region.eps_for(op)
        if type(eps) is Scale and x.dtype in FULL:  # the copy is in units of it
            self.scores, eps = x * number(1 / eps, x.dtype), _UNIT
        else:
            self.scores = kept(x)
        self.k, self.dim, self.largest, self.eps = k, dim, largest, eps
        self.index = lazy_clone(index) if common else alias(index)
        self.plain = quick or common and watch_of(self.eps) is None
        if self.ordered and self.plain and index.numel() * x.shape[dim] <= MAX_SHARES:  # type: ignore[index]
            self._labels, self.positions = positions(x.shape[dim], x.device), True  # type: ignore[index]
        self._saving = None if quick else saving()
        self._by: Projection | None = None
        self._order: Linear | None = None

    @property
    def dtype(self) -> torch.dtype:
        """Of the shares."""
        return self.scores.dtype if self.scores.dtype == torch.float64 else torch.float32

    def lies(self, along: int | None, like: Tensor) -> bool:
        """Whether a tensor like this, written to at the index along that dimension, has the places of the scores."""
        dims = self.scores.dim()
        return (
            self.dim is not None
            and self.index.dim() == dims
            and along == self.dim % dims
            and (like.shape == self.scores.shape)
        )

    def rows(self) -> Tensor:
        return rows_of(marked(self.scores), self.dim, self.largest, self.ordered)

    def distances(self, rows: Tensor) -> Tensor:
        return distances_of(rows, self.k, self.ordered)

    def gaps(self, rows: Tensor) -> Tensor:
        return neighbours(rows, self.k) if self.ordered else lead(rows)

    def by(self) -> Projection:
        if self._by is None:
            half = half_in_backward(self.eps, lambda: self.distances(self.rows().detach()))
            self._by = Projection(self.k, self.dim, self.largest, half, self.ordered, is_soft(self.eps))
        return self._by

    @property
    def order(self) -> Linear | None:
        """The first places of an order, if the index has them in order."""
        if self._order is None and self.plain and self.ordered and self.in_order:
            self._order = self._linear(self.index)
        return self._order

    def _linear(self, index: Tensor) -> Linear:
        first, k = index.new_zeros(1), self.k  # (no `self` in the function: what it returns is kept on `self`)
        distances = lambda rows: distances_of(rows, k, True)
        return linear(self.scores, index, self.dim or 0, self.largest, self.eps, first, distances)

    def follow(self, make: Callable[[], Tensor]) -> Tensor:
        """``make()``, the shares as a float that nobody else has, the dimension last. Only where it is `plain`."""
        return decided(self.by().gradient, self.scores, make)

    def hot(self) -> Tensor:
        """Ones for what was chosen, the dimension last."""
        rows = self.rows()
        dim = self.dim if self.ordered else None
        places = self.index.reshape(*rows.shape[:-1], 1) if dim is None else self.index.movedim(dim, -1)
        if self.plain:
            return self.follow(lambda: torch.zeros_like(rows).scatter_(-1, places, 1.0))
        rows, half = in_units(rows, self.eps, self.distances, self.gaps)
        hot, watch = chosen_anywhere(rows, places, half, is_soft(self.eps)), watch_of(self.eps)
        if watch is not None:
            watch.count(contenders(rows.detach(), self.k, half).gather(-1, places))
            watch.arrives(hot)
        return hot

    def _weigh(self) -> tuple[Tensor, Tensor]:
        k, dim = self.k, self.dim
        assert dim is not None
        at = self.index.movedim(dim, -1)
        if self.positions:
            if self.in_order:
                return back(self._linear(self.index).shares(), dim), self.labels
            sort = self.scores.detach().movedim(dim, -1).gather(-1, at).argsort(-1, descending=self.largest)
            found = self._linear(at.gather(-1, sort).movedim(-1, dim)).shares()
            return back(found.gather(-2, sort.argsort(-1).unsqueeze(-1).expand(found.shape)), dim), self.labels
        rows, half = in_units(self.rows(), self.eps, self.distances, self.gaps)
        index = _first(rows.detach(), k, half)
        rows = rows.gather(-1, index)
        order = Places(rows, index, half, close(rows, half, most_neighbours(rows), k), k)
        labels, weights = order.elements(), watched(self.eps, order.rows)
        if not self.in_order:
            place = (index.unsqueeze(-2) == at.unsqueeze(-1)).to(torch.int8).argmax(-1).clamp(max=k - 1)
            place = place.unsqueeze(-1).expand(labels.shape)
            labels, weights = labels.gather(-2, place), weights.gather(-2, place)
        weights, labels = as_weights(labels, weights, at, order.reach)
        return back(weights, dim), back(labels, dim)

    def owner(self) -> Tensor:
        return row_numbers(self.index, self.dim or 0)


class Best(Picked):
    """The largest, or the smallest, of each row."""

    ordered = False
    positions = True

    @property
    def size(self) -> int:
        return self.scores.numel() if self.dim is None or not self.scores.dim() else self.scores.shape[self.dim]

    @property
    def labels(self) -> Tensor:
        return positions(self.size, self.index.device)

    def follow(self, make: Callable[[], Tensor]) -> Tensor:
        if self.eps is _UNIT and self.scores.is_cpu:
            soft, hard = rows_of(self.scores, self.dim, self.largest).softmax(-1), make()
            if soft.shape == hard.shape and math.isfinite(soft.detach().sum()):  # (torch's own kernels, and no Python)
                return follow(soft, lambda: hard)
            return super().follow(lambda: hard)
        return super().follow(make)

    def _weigh(self) -> tuple[Tensor, Tensor]:
        return self.hot().reshape(*self.index.shape, self.size), self.labels

    def owner(self) -> Tensor:
        return positions(self.index.numel(), self.index.device).view(self.index.shape)


def quick_choice(x: Any) -> Picked | None:
    """What an index that was chosen carries, where plain autograd is all there is, if nobody has written to it."""
    pair = getattr(x, "_sll", None)
    if pair is None or type(x) is not Tensor or pair[1] != x._version:
        return None
    found = pair[0]
    return found if isinstance(found, Picked) and found.plain and found.within is None else None


def _first(scores: Tensor, k: int, half: float) -> Tensor:
    """Indices of the first `k`, sorted, and of whatever comes close to the last of them."""
    n = scores.shape[-1]
    if not simple(scores):
        return scores.topk(n, -1).indices
    last = scores.topk(k, -1).values.amin(-1, keepdim=True)
    return scores.topk(min(n, max(k + 1, int((last - scores < half).sum(-1).max()))), -1).indices
