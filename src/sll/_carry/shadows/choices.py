"""Choices and orders: the index of the best, the first `k`, all in order. Values keep torch's own gradient.

An index carries `Weights`: 1 for the candidate that torch chose, with the gradient of the Euclidean projection that
`sll.argmax` and `sll.topk_mask` are (see `projections`, and `order` for places), worked out when somebody asks.
"""

from __future__ import annotations

import functools
import math
from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor

from ..._ops.env import compiling, tracked
from ..._ops.ladder import Sorting
from ..._ops.openness import scores as entering
from ..._ops.order import Order as Places
from ..._ops.order import close
from ..._ops.order import rank as ranks
from ..._ops.projections import Half, Projection, chosen_anywhere, contenders, decided, distances_of, rows_of
from ..._ops.samples import at_each, beside, lead, neighbours, numpy_is_there, pairs
from ..._ops.saving import saving
from ..._ops.surrogates import alias, follow, lazy_clone, simple
from ..._rules.index import op_name
from ..._rules.widths import Width, in_units, watch_of
from ..interface import Func, Quick, Region
from ..outcomes.choosing import _limit, _watched
from .elementwise import elementwise
from .reductions import best_value
from .shadow import Shadow, Weights, carry, mark, shadow

_DISCRETE = "of integers, which one is largest has no derivative here. Choose among floats."


def _positions(n: int, device: torch.device) -> Tensor:
    return torch.arange(n, device=device) if compiling() else _positions_once(n, device)


@functools.lru_cache(maxsize=128)
def _positions_once(n: int, device: torch.device) -> Tensor:
    return torch.arange(n, device=device)


def _with_indices(region: Region, func: Func, out: Any, found: Weights) -> Any:
    """`out`, an index or a ``torch.return_types``, with what its indices carry."""
    if isinstance(out, Tensor):
        return carry(region, out, found)
    if not compiling():
        carry(region, out.indices, found)
        return out
    # Dynamo does not set attributes on the parts of a result, but on views of them.
    indices = carry(region, out.indices.view_as(out.indices), found)
    return getattr(torch.return_types, func.__name__)((out.values.view_as(out.values), indices))


def _decides(region: Region, func: Func, op: str, x: Tensor, dim: int | None) -> bool:
    """Whether there is something to decide: two floats at least that autograd follows."""
    if not x.is_floating_point() and shadow(x) is not None:
        region.lose(op_name(func), [x], _DISCRETE)
    if not tracked(x) or not region.linearizes(op):
        return False
    n = x.numel() if dim is None else x.shape[dim] if x.dim() else 1
    return n > 1 and x.numel() > 0


# --- one position, and the set of the first few --------------------------------------------------------------------


class Picked(Weights):
    """The `k` of each row that torch chose: which they are, and together which set."""

    make, exact, number, order = None, None, None, None  # type: ignore[assignment]
    _value, _other, _weights, _labels, _numbered = None, None, None, None, False
    ordered, in_order, positions = True, True, False

    def __init__(
        self, region: Region, op: str, x: Tensor, index: Tensor, dim: int | None, k: int, largest: bool,
        quick: bool = False,
    ) -> None:  # fmt: skip
        common = quick or simple(x)
        self.k, self.dim, self.largest, self.eps = k, dim, largest, region.eps_for(op)
        self.scores, self.index = entering(x), lazy_clone(index) if common else alias(index)
        self.plain = quick or common and watch_of(self.eps) is None
        self._saving = None if quick else saving()
        self._by: Projection | None = None

    @property
    def dtype(self) -> torch.dtype:
        """Of the shares."""
        return self.scores.dtype if self.scores.dtype == torch.float64 else torch.float32

    def lies(self, along: int | None, like: Tensor) -> bool:
        """Whether a tensor like this, written to at the index along that dimension, has the places of the scores."""
        dims = self.scores.dim()
        return self.dim is not None and self.index.dim() == dims and along == self.dim % dims and (
            like.shape == self.scores.shape
        )

    def rows(self) -> Tensor:
        return rows_of(self.scores, self.dim, self.largest, self.ordered)

    def distances(self, rows: Tensor) -> Tensor:
        return distances_of(rows, self.k, self.ordered)

    def gaps(self, rows: Tensor) -> Tensor:
        return neighbours(rows, self.k) if self.ordered else lead(rows)

    def by(self) -> Projection:
        if self._by is None:
            half = half_in_backward(self.eps, lambda: self.distances(self.rows().detach()))
            self._by = Projection(self.k, self.dim, self.largest, half, self.ordered)
        return self._by

    def follow(self, make: Callable[[], Tensor]) -> Tensor:
        """``make()``, the shares as a float that nobody else has, the dimension last. Only where it is `plain`."""
        return decided(self.by().gradient, self.scores, make)

    def hot(self) -> Tensor:
        """Ones for what was chosen, the dimension last."""
        rows = self.rows()
        places = self.index.movedim(self.dim, -1) if self.ordered else self.index.reshape(*rows.shape[:-1], 1)
        if self.plain:
            return self.follow(lambda: torch.zeros_like(rows).scatter_(-1, places, 1.0))
        rows, half = in_units(rows, self.eps, self.distances, self.gaps)
        hot, watch = chosen_anywhere(rows, places, half), watch_of(self.eps)
        if watch is not None:
            watch.count(contenders(rows.detach(), self.k, half).gather(-1, places))
            watch.arrives(hot)
        return hot

    def _weigh(self) -> tuple[Tensor, Tensor]:
        k, dim, at = self.k, self.dim, self.index.movedim(self.dim, -1)
        rows, half = in_units(self.rows(), self.eps, self.distances, self.gaps)
        index = _first(rows.detach(), k, half)
        rows = rows.gather(-1, index)
        order = Places(rows, index, half, close(rows, half, _limit(rows), k), k)
        labels, weights = order.elements(), _watched(self.eps, order.rows)
        if not self.in_order:
            place = (index.unsqueeze(-2) == at.unsqueeze(-1)).to(torch.int8).argmax(-1).clamp(max=k - 1)
            place = place.unsqueeze(-1).expand(labels.shape)
            labels, weights = labels.gather(-2, place), weights.gather(-2, place)
        weights, labels = _as_weights(labels, weights, at, order.reach)
        return _back(weights, dim), _back(labels, dim)

    def owner(self) -> Tensor:
        return _row_numbers(self.index, self.dim)


class Best(Picked):
    """The largest, or the smallest, of each row."""

    ordered = False
    positions = True

    @property
    def size(self) -> int:
        return self.scores.numel() if self.dim is None or not self.scores.dim() else self.scores.shape[self.dim]

    @property
    def labels(self) -> Tensor:
        return _positions(self.size, self.index.device)

    def _weigh(self) -> tuple[Tensor, Tensor]:
        return self.hot().reshape(*self.index.shape, self.size), self.labels

    def owner(self) -> Tensor:
        return _positions(self.index.numel(), self.index.device).view(self.index.shape)


def quick_choice(x: Any) -> Picked | None:
    """What an index that was chosen carries, where plain autograd is all there is, if nobody has written to it."""
    pair = getattr(x, "_sll", None)
    if pair is None or type(x) is not Tensor or pair[1] != x._version:
        return None
    found = pair[0]
    return found if isinstance(found, Picked) and found.plain and found.within is None else None


def _scores(region: Region, op: str, x: Any) -> bool:
    """Whether they are ordinary floats that autograd follows."""
    ordinary = (type(x) is Tensor or type(x) is torch.nn.Parameter) and x.requires_grad and x.dim() > 0
    return ordinary and x.layout is torch.strided and region.linearizes(op)


def half_in_backward(eps: float | Width, sample: Callable[[], Tensor]) -> Half:
    """The half-width; of a policy that NumPy can ask, what finds it when it is needed."""
    if not isinstance(eps, Width):
        return eps
    at_once = getattr(eps.policy, "at_once", None)
    if at_once is None or not numpy_is_there():
        return eps.at(sample)
    width, found = eps, []

    def half(sample: Callable[[], Any]) -> float | Tensor:
        if not found:
            d = sample()
            on_cpu = not isinstance(d, Tensor) or d.device.type == "cpu"
            known = at_once(width.kind, math.inf, lambda: d.numpy() if isinstance(d, Tensor) else d) if on_cpu else None
            if known is None:
                known = width.at(lambda: torch.as_tensor(d))
            elif width.record is not None:
                width.record(known)
            found.append(known)
        return found[0]  # type: ignore[no-any-return]

    return half


def quick_position(op: str) -> Quick:
    """`argmax` or `argmin`."""

    def rule(region: Region, func: Func, args: tuple[Any, ...]) -> Any:
        x, dim = args[0], args[1] if len(args) > 1 else None
        if not _scores(region, op, x):
            return NotImplemented
        out = func(*args)
        found = Best(region, op, x, out, dim, 1, op == "argmax", True)
        return mark(region, out, found) if found.size > 1 and out.numel() else out

    return rule


def position(op: str) -> Callable[..., Any]:
    def rule(region: Region, func: Func, args: tuple[Any, ...], kwargs: dict[str, Any]) -> Any:
        named = dict(zip(("input", "dim", "keepdim"), args), **kwargs)
        x, dim = named["input"], named.get("dim")
        out = func(*args, **kwargs)
        if not _decides(region, func, op, x, dim):
            return out
        return _with_indices(region, func, out, Best(region, op, x, out, dim, 1, op == "argmax"))

    return rule


def extremum(region: Region, func: Func, args: tuple[Any, ...], kwargs: dict[str, Any]) -> Any:
    """``torch.max(a, b)`` is `maximum`; ``max(a, dim)`` has values and indices; ``max(a)`` is continuous."""
    named = dict(zip(("input", "dim", "keepdim"), args), **kwargs)
    x, dim = named["input"], named.get("dim")
    if isinstance(dim, Tensor) or "other" in named:
        return elementwise(region, func, args, kwargs)
    if dim is None:
        best = torch.amax if op_name(func) == "max" else torch.amin
        return best_value(region, best, (x,), {}) if shadow(x) is not None else func(*args, **kwargs)
    out, op, own = func(*args, **kwargs), "arg" + op_name(func), shadow(x)
    if own is not None and not compiling():
        shape, index = out.values.shape, alias(out.indices)
        index = index if index.dim() == x.dim() else index.unsqueeze(dim)
        carry(region, out.values, Shadow(lambda: torch.take_along_dim(own.value(), index, dim).reshape(shape)))
    if not _decides(region, func, op, x, dim):
        return out
    return _with_indices(region, func, out, Best(region, op, x, out.indices, dim, 1, op == "argmax"))


# --- places of an order ------------------------------------------------------------------------------------------


def _places(x: Tensor, dim: int, largest: bool, eps: float | Width, index: Tensor | None, gaps: Any = None) -> Places:
    """The order of the rows; `index` (…, n) says which element torch has put at each place."""
    rows, half = in_units(rows_of(x, dim, largest, True), eps, pairs, gaps or neighbours)
    if index is None:
        index = torch.argsort(rows.detach(), dim=-1, descending=True, stable=True)
    rows = rows.gather(-1, index)
    return Places(rows, index, half, close(rows, half, _limit(rows)))


def _as_weights(labels: Tensor, weights: Tensor, index: Tensor, reach: int) -> tuple[Tensor, Tensor]:
    """Windows of an order as weights whose values are the program's: 1 for what `index` says.

    Among equals that have no distance (infinite ones) it may be another than we sorted there.
    """
    index = index.unsqueeze(-1)
    middle = _positions(weights.shape[-1], weights.device) == reach
    labels = torch.where((weights.detach() == 1) & middle, index, labels)
    hot = labels == index
    hot = hot & (hot.cumsum(-1) == 1)  # (at the ends of a row a window has some of them more than once)
    return follow(weights, lambda: hot.to(weights.dtype)), labels


def _back(t: Tensor, dim: int) -> Tensor:
    """The last dimension but one to where `dim` was (there is one dimension more, at the end)."""
    return t.movedim(-2, dim if dim >= 0 else dim - 1)


def _row_numbers(index: Tensor, dim: int) -> Tensor:
    """Which row each place belongs to."""
    shape = [1 if d == dim % index.dim() else n for d, n in enumerate(index.shape)]
    numbers = _positions(index.numel() // max(index.shape[dim], 1), index.device)
    return numbers.reshape(shape).expand(index.shape)


class Linear:
    """What an order, or its inverse, reads and writes: linear in its weights. See `ladder`."""

    def __init__(self, scores: Tensor, index: Tensor, sorting: Sorting, plain: bool, inverse: bool, flip: bool) -> None:
        self.scores, self.index, self.sorting, self.plain = scores, index, sorting, plain
        self.inverse, self.flip = inverse, flip

    def along(self) -> int:
        return self.sorting.dim % max(self.index.dim(), 1)

    def permutes(self, x: Tensor) -> bool:
        """Whether the elements of `x` that may be written to are those of the order."""
        shape, along = self.index.shape, self.along()
        return all(n == m or d == along and n >= m for d, (n, m) in enumerate(zip(x.shape, shape)))

    def soft(self, values: Tensor, reads: bool, out: Tensor | None = None, shape: Any = None) -> Tensor:
        """What has the gradient of the order where it has read (or written) these values; and that of `out`, which it
        is then.
        """
        back = functools.partial(self.sorting.mixed, reads, self.inverse, self.flip)
        make = lambda: values.new_zeros(values.shape if shape is None else shape)
        return decided(back, self.scores, make, self.index, values, out=out)

    def ranks(self, hard: Tensor) -> Tensor:
        return decided(functools.partial(self.sorting.ranks, self.flip), self.scores, lambda: hard, self.index)


def quick_argsort(region: Region, func: Func, args: tuple[Any, ...]) -> Any:
    x, dim = args[0], args[1] if len(args) > 1 else -1
    if type(x) is Tensor and x.dtype == torch.int64:
        pair = getattr(x, "_sll", None)
        own = pair[0] if pair is not None and pair[1] == x._version else None
        if type(own) is not Order or own.order is None or own.within is not None or own.dim != dim or len(args) > 2:
            return NotImplemented
        out = func(*args)
        return mark(region, out, inverse(own, False, lazy_clone(out)))
    if len(args) > 3 or type(dim) is not int or not _scores(region, "sort", x) or x.shape[dim] < 2 or not x.numel():
        return NotImplemented
    out = func(*args)
    return mark(region, out, Order(lazy_clone(out), x, dim, len(args) == 3 and bool(args[2]), region.eps_for("sort")))


class Order(Weights):
    """Which element stands at each place of a whole row: it can be inverted."""

    def __init__(self, index: Tensor, x: Tensor, dim: int, largest: bool, eps: float | Width) -> None:
        plain, scores = simple(x) and watch_of(eps) is None, entering(x)

        # It does not hold the order itself: nobody would free it.
        def places() -> Places:
            return _places(scores, dim, largest, eps, index.movedim(dim, -1))

        def weigh() -> tuple[Tensor, Tensor]:
            order = places()
            rows = _watched(eps, order.rows)
            weights, labels = _as_weights(order.elements(), rows, index.movedim(dim, -1), order.reach)
            return _back(weights, dim), _back(labels, dim)

        super().__init__(weigh, owner=lambda: _row_numbers(index, dim))
        if plain:
            half = half_in_backward(eps, lambda: pairs(rows_of(scores.detach(), dim, largest, True)))
            self.order = Linear(scores, index, Sorting(dim, largest, half), True, False, False)
        self.places = places
        self.index, self.scores, self.dim, self.largest, self.eps = index, scores, dim, largest, eps


def sort(region: Region, func: Func, args: tuple[Any, ...], kwargs: dict[str, Any]) -> Any:
    named = dict(zip(("input", "dim", "descending"), args), **kwargs)
    x, dim, largest = named["input"], int(named.get("dim", -1)), bool(named.get("descending", False))
    out, own = func(*args, **kwargs), shadow(x)
    index = out if isinstance(out, Tensor) else out.indices
    if isinstance(own, Order) and own.dim % x.dim() == dim % x.dim():
        return _with_indices(region, func, out, inverse(own, largest, alias(index)))
    if not _decides(region, func, "sort", x, dim):
        return out
    return _with_indices(region, func, out, Order(alias(index), x, dim, largest, region.eps_for("sort")))


def inverse(own: Order, descending: bool, ranked: Tensor) -> Weights:
    """``argsort(argsort(x))``, `ranked`: the place of each element."""
    dim, n = own.dim, ranked.shape[own.dim]

    def weigh() -> tuple[Tensor, Tensor]:
        order, index = own.places(), own.index.movedim(dim, -1)
        columns = _watched(own.eps, order.columns())
        labels = order.neighbours().expand(columns.shape)
        hard = _positions(n, index.device).expand(index.shape)
        back = index.unsqueeze(-1).expand(columns.shape)  # from sorted order to where the elements are
        found = [torch.zeros_like(t).scatter(-2, back, t) for t in _as_weights(labels, columns, hard, order.reach)]
        weights, labels = (_back(t, dim) for t in found)
        return (weights.flip(dim % ranked.dim()), labels.flip(dim % ranked.dim())) if descending else (weights, labels)

    linear = own.order and Linear(own.scores, own.index, own.order.sorting, True, True, descending)

    def value() -> Tensor:
        """As a number: `sll.rank`, over pairs."""
        rows = rows_of(own.scores, dim, True)
        if linear is not None:
            return linear.ranks(ranked.to(rows.dtype))
        rows, half = in_units(rows, own.eps, pairs)
        soft, watch = ranks(rows, half), watch_of(own.eps)
        if watch is not None:
            watch.count(at_each(neighbours(rows.detach())) < half)
            watch.arrives(soft)
        soft = soft.movedim(-1, dim)
        soft = n - 1 - soft if own.largest else soft
        soft = soft.flip(dim) if descending else soft
        return follow(soft, lambda: ranked.to(soft.dtype))

    return Weights(weigh, value=value, owner=lambda: _row_numbers(ranked, dim), order=linear)


def quick_topk(region: Region, func: Func, args: tuple[Any, ...]) -> Any:
    if len(args) not in (2, 3) or not _scores(region, "topk", args[0]) or not 0 < args[1]:
        return NotImplemented
    out, dim = func(*args), args[2] if len(args) == 3 else -1
    if args[0].shape[dim] < 2 or not out.indices.numel():
        return out
    mark(region, out.indices, Picked(region, "topk", args[0], out.indices, dim, args[1], True, True))
    return out


def topk(region: Region, func: Func, args: tuple[Any, ...], kwargs: dict[str, Any]) -> Any:
    named = dict(zip(("input", "k", "dim", "largest", "sorted"), args), **kwargs)
    x, k, dim = named["input"], int(named["k"]), int(named.get("dim", -1))
    out = func(*args, **kwargs)
    if not _decides(region, func, "topk", x, dim) or k == 0:
        return out
    found = Picked(region, "topk", x, out.indices, dim, k, bool(named.get("largest", True)))
    found.in_order = bool(named.get("sorted", True))
    return _with_indices(region, func, out, found)


def _first(scores: Tensor, k: int, half: float) -> Tensor:
    """Indices of the first `k`, sorted, and of whatever comes close to the last of them."""
    n = scores.shape[-1]
    if not simple(scores):
        return scores.topk(n, -1).indices
    last = scores.topk(k, -1).values.amin(-1, keepdim=True)
    return scores.topk(min(n, max(k + 1, int((last - scores < half).sum(-1).max()))), -1).indices


def _placed(region: Region, func: Func, op: str, x: Tensor, out: Any, dim: int, place: Tensor) -> Any:
    """``kthvalue``, ``median``: one place of the ascending order, for each row."""
    if not _decides(region, func, op, x, dim):
        return out
    eps, scores, then = region.eps_for(op), entering(x), alias(out.indices)

    def weigh() -> tuple[Tensor, Tensor]:
        at = place.expand(scores.movedim(dim, -1).shape[:-1]).unsqueeze(-1)
        order = _places(scores, dim, False, eps, None, lambda z: beside(z, at))
        row = at.unsqueeze(-1).expand(*at.shape, order.rows.shape[-1])
        labels, weights = (t.gather(-2, row).squeeze(-2) for t in (order.elements(), order.rows))
        weights, labels = _as_weights(labels, _watched(eps, weights), then.reshape(labels.shape[:-1]), order.reach)
        return weights.reshape(*then.shape, -1), labels.reshape(*then.shape, labels.shape[-1])

    return _with_indices(region, func, out, Weights(weigh))


def kthvalue(region: Region, func: Func, args: tuple[Any, ...], kwargs: dict[str, Any]) -> Any:
    named = dict(zip(("input", "k", "dim", "keepdim"), args), **kwargs)
    x, out = named["input"], func(*args, **kwargs)
    place = torch.tensor(int(named["k"]) - 1, device=x.device)
    return _placed(region, func, "kthvalue", x, out, int(named.get("dim", -1)), place)


def median(region: Region, func: Func, args: tuple[Any, ...], kwargs: dict[str, Any]) -> Any:
    named = dict(zip(("input", "dim", "keepdim"), args), **kwargs)
    x, out = named["input"], func(*args, **kwargs)
    if named.get("dim") is None or not x.is_floating_point() or x.dim() == 0:
        return out  # the value alone is continuous
    dim = int(named["dim"])
    n = x.shape[dim]
    valid = n - x.detach().isnan().movedim(dim, -1).sum(-1)
    place = ((valid - 1) // 2).clamp(min=0)
    if op_name(func) == "median":  # NaN if there is one: the last in order
        place = torch.where(valid < n, n - 1, place)
    return _placed(region, func, "median", x, out, dim, place)


def unique(region: Region, func: Func, args: tuple[Any, ...], kwargs: dict[str, Any]) -> Any:
    """The inverse of distinct numbers is their rank. Whether numbers are equal has no derivative."""
    named = dict(zip(("input", "sorted", "return_inverse", "return_counts", "dim"), args), **kwargs)
    x, out = named["input"], func(*args, **kwargs)
    asked = named.get("return_inverse") and named.get("dim") is None and simple(x)
    if not _decides(region, func, "unique", x, None) or not asked:
        return out
    if out[0].numel() < x.numel() or bool(x.detach().isnan().any()):
        region.lose(
            "unique", [], "some of the numbers are equal, and equal numbers have no places of their own; use sll.rank.",
            undecided=lambda: True,
        )  # fmt: skip
        return out
    index, then = x.detach().reshape(-1).argsort(), alias(out[1])
    found = inverse(Order(index, x.reshape(-1), 0, False, region.eps_for("unique")), False, then.reshape(-1))
    if x.dim() == 1:
        _with_indices(region, func, out[1], found)
        return out

    def weigh() -> tuple[Tensor, Tensor]:
        return tuple(t.reshape(*then.shape, -1) for t in (found.weights(), found.labels))  # type: ignore[return-value]

    _with_indices(region, func, out[1], Weights(weigh, value=lambda: found.value().reshape(then.shape)))
    return out
