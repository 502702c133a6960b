"""What an order, its inverse, or some of its places read and write: linear in the shares (see `ladder`).

So its gradient is found in backward, in O(n log n), and no share of an element is worked out. Only where plain autograd
is all there is.
"""

from __future__ import annotations

import functools
from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor

from ..._ops.apply import finite
from ..._ops.dtypes import FULL
from ..._ops.env import dispatched
from ..._ops.ladder import Sorting
from ..._ops.projections import Half, decided, rows_of
from ..._ops.samples import pairs
from ..._rules.widths import Width
from .shadow import as_float


def positions(n: int, device: torch.device) -> Tensor:
    return torch.arange(n, device=device) if dispatched() else _positions_once(n, device)


@functools.lru_cache(maxsize=128)
def _positions_once(n: int, device: torch.device) -> Tensor:
    return torch.arange(n, device=device)


def half_in_backward(eps: float | Width, sample: Callable[[], Tensor]) -> Half:
    """The half-width; of ``"auto"``, what finds it when it is needed."""
    if not isinstance(eps, Width):
        return eps
    width = eps
    if not width.late:
        return width.at(sample)
    found: list[float | Tensor] = []

    def half(sample: Callable[[], Any]) -> float | Tensor:
        if not found:
            d = sample()
            d = d if isinstance(d, Tensor) else torch.as_tensor(d, dtype=torch.float64, device="cpu")
            found.append(width.at(lambda: d))
        return found[0]

    return half


def linear(
    scores: Tensor, index: Tensor, dim: int, largest: bool, eps: float | Width, first: Tensor | None = None,
    distances: Callable[[Tensor], Tensor] = pairs,
) -> Linear:  # fmt: skip
    """Of an order; or of its places from the `first` on, of each row, in which the index stands. `distances` is what a
    policy is shown.
    """

    @functools.cache
    def sorting() -> Sorting:
        sample = lambda: distances(rows_of(scores.detach(), dim, largest, True))
        return Sorting(dim, largest, half_in_backward(eps, sample), sample, first)

    return Linear(scores, index, dim, sorting)


class Linear:
    """`index` says which elements of the scores, along `dim`, stand at the places that `sorting` knows; or it is the
    `inverse` of that, `flip`: from the last element on. `sorting` is asked, and with it a policy, when it is needed.
    """

    def __init__(
        self, scores: Tensor, index: Tensor, dim: int, sorting: Callable[[], Sorting], inverse: bool = False,
        flip: bool = False,
    ) -> None:  # fmt: skip
        self.scores, self.index, self.dim, self.sorting = scores, index, dim, sorting
        self.inverse, self.flip = inverse, flip
        self.dtype = scores.dtype if scores.dtype in FULL else torch.float32

    def along(self) -> int:
        return self.dim % max(self.index.dim(), 1)

    def labels(self) -> Tensor:
        """The numbers that may be in the index, along its dimension."""
        n, behind = self.scores.shape[self.dim], self.index.dim() - self.along() - 1
        return positions(n, self.index.device).reshape(*(1,) * self.along(), n, *(1,) * behind)

    def permutes(self, x: Tensor) -> bool:
        """Whether the elements of `x` that may be written to are those of the order."""
        shape, along = self.scores.shape, self.along()
        return all(n == m or d == along and n >= m for d, (n, m) in enumerate(zip(x.shape, shape)))

    def whole(self) -> bool:
        """Whether it has all places."""
        return self.index.shape == self.scores.shape

    def soft(
        self, values: Tensor, reads: bool, out: Tensor | None = None, make: Callable[[], Tensor] | None = None
    ) -> Tensor:
        """What has the gradient of the index where it reads among `values`, one for each label, or writes its own ones,
        see `decided`.
        """
        back = functools.partial(self.sorting().mixed, reads == self.inverse, self.flip)
        return decided(back, self.scores, make, self.index, values, out=out)

    def read(self, of: Callable[[Tensor], Any], make: Callable[[], Tensor] | None = None) -> Tensor:
        """`make`, or zeros, with the gradient of the index where what is read is a function `of` its numbers."""
        values = finite(as_float(of(self.labels()).detach()))
        shape = *self.index.shape, *values.shape[self.index.dim() :]
        return self.soft(values, True, None, make or (lambda: values.new_zeros(shape)))

    def ranks(self, hard: Tensor) -> Tensor:
        return decided(functools.partial(self.sorting().ranks, self.flip), self.scores, lambda: hard, self.index)

    def shares(self) -> Tensor:
        """Of all elements, (…, k, n), in the places of the index: ones for those that stand there."""
        k, dim = self.index.shape[self.dim], self.along()
        each = torch.eye(k, dtype=self.dtype, device=self.index.device).reshape(
            k, *(1,) * (self.index.dim() - dim - 1), k
        )
        each, at = each.expand(*self.index.shape, k), self.index.unsqueeze(-1).expand(*self.index.shape, k)
        nothing = torch.zeros(*self.scores.shape, k, dtype=self.dtype, device=at.device)
        return self.soft(each, False, None, lambda: nothing.scatter_(dim, at, each)).movedim(dim, -1)
