"""Sources that choose and order: argmax, topk, sort and their kin. Values keep torch's own gradient; *indices* carry a
`Choice` of positions, with the weights of `sll.order`.

`searchsorted` and `bucketize` count the boundaries passed: one decision, at the nearest boundary.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor

from ..._mode.checkpoint import saved_as_then, saving
from ..._ops.kernels import band_offset, compute_dtype, hard_forward
from ..._ops.order import Order, capped_simplex, close, traced
from ...eps import Width, beside, from_last, half_width, in_units, lead, leads, neighbours, pairs, watch_of
from .elementwise import elementwise
from .linearization import (
    Choice,
    Outcomes,
    Sorted,
    attach,
    carrier,
    decided_at,
    discrete_carrier,
    equal_keys,
    exact_dtype,
    original,
    resolved,
    run_on_choices,
    run_on_outcomes,
    sorted_places,
    tells,
    unchanged,
    version_of,
)
from .reductions import bins_of
from .registry import SOURCES, op_name, register, tracked

if TYPE_CHECKING:
    from ...region import linearize as Region

Func = Callable[..., Any]

MAX_ELEMENTS = 2**21
"""An order keeps as many neighbours on either side of a place as its band holds, up to this many in all."""


def chooses(*names: str, op: str, boundaries: str) -> Callable[[Callable[..., Any]], Callable[..., Any]]:
    """Register a function that chooses positions along one dimension of its first operand.

    The decorated function is called as ``rule(region, func, args, kwargs, x)`` when `x` is a float that autograd
    follows; otherwise the original runs, and a discrete operand that carries a linearization is lost.
    """

    def decorate(rule: Callable[..., Any]) -> Callable[..., Any]:
        def handler(region: Region, func: Func, args: tuple[Any, ...], kwargs: dict[str, Any]) -> Any:
            x: Any = args[0] if args else kwargs.get("input")
            if discrete_carrier(x):
                found = inverse(region, func, args, kwargs, x) if names[0] == "sort" else None
                if found is not None:
                    return found
                region.lose(op_name(func), [x], _DISCRETE)
            if not tracked(x) or not region.linearizes(op):
                return func(*args, **kwargs)
            return rule(region, func, args, kwargs, x)

        SOURCES[op] = boundaries
        register(handler, *names, in_place=False, source=True)
        return rule

    return decorate


_STALE = (
    "its input was modified in place before the index was used. Use the index first, or write y = y + 1, not y += 1."
)
_DISCRETE = "of integers, which one is largest has no derivative here. Choose among floats."


def _with_indices(region: Region, func: Func, out: Any, found: Choice) -> Any:
    """`out`, a ``torch.return_types``, with what its indices carry."""
    if not torch.compiler.is_compiling():
        attach(region, out.indices, found)
        return out
    # Dynamo does not set attributes on the parts of a result, but on views of them.
    indices = attach(region, out.indices.view_as(out.indices), found)
    return getattr(torch.return_types, func.__name__)((out.values.view_as(out.values), indices))


def _scores(x: Tensor, dim: int, largest: bool) -> Tensor:
    """``± x`` in the dtype of distances, the dimension last. NaN is the largest number, as in `torch.sort`."""
    rows = (x.reshape(1) if x.dim() == 0 else x.movedim(dim, -1)).to(compute_dtype(x.dtype))
    rows = torch.where(rows.isnan(), float("inf"), rows)
    return rows if largest else -rows


def _watched(width: float | Width, weights: Tensor) -> Tensor:
    watch = watch_of(width)
    return weights if watch is None else watch.weights(weights)


def _limit(z: Tensor) -> int:
    return max(1, MAX_ELEMENTS // max(z.numel(), 1))


class _Later:
    """A choice that is worked out when somebody asks: most indices are never asked for."""

    def __init__(
        self, region: Region, op: str, key: tuple[Any, ...], x: Tensor, hard: Tensor, make: Callable[[], Choice]
    ):
        self.key = key
        self._recipe: Any = (region, op, x, version_of(x), hard, make, saving())

    def __getattr__(self, name: str) -> Any:
        if name not in _WORKED_OUT or "_recipe" not in self.__dict__:
            raise AttributeError(name)
        region, op, x, version, hard, make, then = self.__dict__.pop("_recipe")
        if unchanged(x, version):
            with torch.enable_grad(), torch._C.DisableTorchFunction():  # outside the rules, whoever asks
                made = saved_as_then(then, make)
            vars(self).update((part, x) for part, x in vars(made).items() if part in _WORKED_OUT)
        else:
            region.lose(
                op,
                [],
                _STALE,
                undecided=lambda: True,
            )
            ones = torch.ones((*hard.shape, 1), device=hard.device)
            vars(self).update(values=hard.unsqueeze(-1), weights=ones, ties=ones < 1)
        return self.__dict__[name]


_WORKED_OUT = ("values", "weights", "ties", "order")


class LaterChoice(_Later, Choice):
    pass


# --- one position ------------------------------------------------------------------------------------------------


def _best(region: Region, x: Tensor, hard: Tensor, dim: int | None, keepdim: bool, op: str) -> Choice | None:
    """`hard` is the position of the largest (op "argmax") or smallest entry: sparsemax weights."""
    n = x.numel() if dim is None or x.dim() == 0 else x.shape[dim]
    if n < 2:
        return None
    eps = region.eps_for(op)
    key = ("choice", op, x, version_of(x), None if dim is None else dim % x.dim(), eps, keepdim)
    largest = op == "argmax"
    # Policies may let everybody share. Where no value shows it, those with less than 3 % may be left out.
    most = CONTENDERS if isinstance(eps, Width) and not region.linear else n
    if traced(x):
        return _weigh_best(key, x, hard, dim, largest, eps, most)
    return LaterChoice(region, op, key, x, hard, lambda: _weigh_best(key, x, hard, dim, largest, eps, most))


CONTENDERS = 32
"""How many entries may share a choice whose width a policy found, or whose number is not known while tracing: a lookup
costs that many rows of its table."""


def _weigh_best(
    key: tuple[Any, ...],
    x: Tensor,
    hard: Tensor,
    dim: int | None,
    largest: bool,
    width: float | Width,
    limit: int,
) -> Choice:
    rows = x.reshape(-1) if dim is None else x.movedim(dim, -1)
    z, eps = in_units(_scores(rows, -1, largest), width, leads, lead)
    n = z.shape[-1]
    scores = z.detach()
    best = scores.amax(-1, keepdim=True)
    if traced(z):
        many = min(n, limit, CONTENDERS)
    else:
        most = int((best - scores < eps).sum(-1).max()) if scores.numel() else 1
        many = min(n, limit, max(2, min(most, 2 * _limit(z[..., 0]))))
    index = scores.topk(many, -1).indices
    place = hard.reshape(z.shape[:-1]).unsqueeze(-1)
    if many < n:  # of more equal entries than are looked at, torch may take another
        last = torch.where((index == place).any(-1, keepdim=True), index[..., -1:], place)
        index = torch.cat([index[..., :-1], last], -1)
    finite = best.isfinite() & ~rows.isnan().any(-1, keepdim=True)
    apart = torch.arange(0, -many, -1, device=z.device) * (2 * eps)
    top = torch.where(finite, z.gather(-1, index), apart.to(z.dtype))
    weights = _watched(width, capped_simplex(top, 1, eps))
    # Without a finite best there is no distance: the hard position, decided.
    values = torch.where(finite, index, place)
    ties = top.detach()[..., 0] == top.detach()[..., 1]
    shape = (*hard.shape, many)
    return Choice(key, values.reshape(shape), weights.reshape(shape), ties.reshape(*hard.shape, 1))


def _position(op: str) -> Callable[..., Any]:
    def rule(region: Region, func: Func, args: tuple[Any, ...], kwargs: dict[str, Any], x: Tensor) -> Any:
        named = dict(zip(("input", "dim", "keepdim"), args), **kwargs)
        hard = original(func, *args, **kwargs)
        return attach(region, hard, _best(region, x, hard, named.get("dim"), bool(named.get("keepdim")), op))

    return rule


chooses("argmax", op="argmax", boundaries="the best entry leads the next by 0")(_position("argmax"))
chooses("argmin", op="argmin", boundaries="the best entry leads the next by 0")(_position("argmin"))


def extremum(region: Region, func: Func, args: tuple[Any, ...], kwargs: dict[str, Any]) -> Any:
    """``torch.max(a, b)`` is `maximum`; ``max(a, dim)`` has values and indices; ``max(a)`` is continuous."""
    named = dict(zip(("input", "dim", "keepdim"), args), **kwargs)
    x, dim = named["input"], named.get("dim")
    if isinstance(dim, Tensor) or "other" in named:
        return elementwise(region, func, args, kwargs)
    if discrete_carrier(x):
        region.lose(op_name(func), [x], _DISCRETE)
    op = "arg" + op_name(func)
    out = func(*args, **kwargs)
    if not tracked(x) or not region.linearizes(op):
        return out
    if dim is None:
        return _extreme(region, out, x, op == "argmax")
    found = _best(region, x, out.indices, dim, bool(named.get("keepdim")), op)
    out = out if found is None else _with_indices(region, func, out, found)
    return _mark(region, out, x, dim, op == "argmax", 0)


def _extreme(region: Region, out: Tensor, x: Tensor, largest: bool) -> Any:
    """The largest or smallest of all; of sorted values, ``x.topk(k).values.min()``, the first or last of those."""
    values = sorted_places(x)
    if values is None or x.dim() != 1:
        return _mark(region, out, x, None, largest, 0)
    first = values.largest == largest
    return attach(region, out, values.moved(lambda: values.places().amin() if first else values.places().amax()))


def best_value(region: Region, func: Func, args: tuple[Any, ...], kwargs: dict[str, Any]) -> Any:
    """``amax``, ``amin``: continuous. The value is remembered as the first in order."""
    named = dict(zip(("input", "dim", "keepdim"), args), **kwargs)
    x, dim = named["input"], named.get("dim")
    out = func(*args, **kwargs)
    if isinstance(dim, (tuple, list)):
        if 1 < len(dim) < x.dim():
            return out
        dim = dim[0] if len(dim) == 1 else None
    if not tracked(x):
        return out
    if dim is None or x.dim() == 1 and out.dim() == 0:
        return _extreme(region, out, x, op_name(func) == "amax")
    return _mark(region, out, x, dim, op_name(func) == "amax", 0)


register(extremum, "max", "min", in_place=False, source=True)
register(best_value, "amax", "amin", in_place=False, marks=True)


# --- orders ------------------------------------------------------------------------------------------------------


def _ordered(width: float | Width, x: Tensor, dim: int, largest: bool, indices: Tensor) -> Order:
    """The order whose sorted positions along the last dimension are `indices`."""
    z, eps = in_units(_scores(x, dim, largest).gather(-1, indices), width, pairs, neighbours)
    order = Order(z, indices, eps, close(z, eps, _limit(z)))
    _watched(width, order.rows)
    return order


def _key(width: float | Width, x: Tensor, dim: int, largest: bool) -> tuple[Any, ...]:
    return ("places", x, version_of(x), dim % max(x.dim(), 1), largest, width)


def _rows(order: Order, key: tuple[Any, ...], hard: Tensor, places: Tensor | None = None) -> Choice:
    """Which elements may stand at the places (..., k). `hard`: which one does."""
    parts = [order.elements(), order.rows, order.ties]
    if places is not None:
        parts = [t.gather(-2, places.unsqueeze(-1).expand(*places.shape, t.shape[-1])) for t in parts]
    return _decide(order, key, hard, *parts)


def _decide(order: Order, key: tuple[Any, ...], hard: Tensor, values: Tensor, weights: Tensor, ties: Tensor) -> Choice:
    """Among equals that have no distance (infinite ones) it may be another than we sorted there."""
    middle = torch.arange(weights.shape[-1], device=weights.device) == order.reach
    values = torch.where((weights.detach() == 1) & middle, hard.unsqueeze(-1), values)
    return Choice(key, values, weights, ties)


def _back(dim: int) -> Callable[[Tensor], Tensor]:
    """Moves the last dimension but one to where `dim` was (there is one dimension more, at the end)."""
    return lambda t: t.movedim(-2, dim if dim >= 0 else dim - 1)


@chooses("sort", "argsort", op="sort", boundaries="neighbours in sorted order change places")
def sort(region: Region, func: Func, args: tuple[Any, ...], kwargs: dict[str, Any], x: Tensor) -> Any:
    named = dict(zip(("input", "dim", "descending"), args), **kwargs)
    both = func.__name__ == "sort"
    out = func(*args, **kwargs) if both else original(func, *args, **kwargs)
    indices = out.indices if both else out
    dim, largest = int(named.get("dim", -1)), bool(named.get("descending", False))
    if x.dim() == 0 or x.numel() == 0 or x.shape[dim] < 2:
        return out
    last = indices.movedim(dim, -1)
    width = region.eps_for("sort")
    key = _key(width, x, dim, largest)
    found: Ordered
    if traced(x):
        found = _weigh_order(width, key, x, dim, largest, last)
    else:
        found = LaterOrdered(region, "sort", key, x, indices, lambda: _weigh_order(width, key, x, dim, largest, last))
        found.dim = dim
    if not both:
        return attach(region, indices, found)
    out = _with_indices(region, func, out, found)
    return _mark(region, out, x, dim, largest)


def _weigh_order(
    width: float | Width, key: tuple[Any, ...], x: Tensor, dim: int, largest: bool, last: Tensor
) -> Ordered:
    order = _ordered(width, x, dim, largest, last)
    rows = _rows(order, key, last)
    return Ordered(rows.map(rows.key, _back(dim)), order, dim)


def _mark(region: Region, out: Any, x: Tensor, dim: int | None, largest: bool, place: int | None = None) -> Any:
    """`out` (or its values) are found in `x`: all of a row in order, the first few, or the one at `place`."""
    values: Tensor = out if isinstance(out, Tensor) else out.values
    if carrier(values) is not None or x.numel() == 0:
        return out

    def places() -> Tensor:
        if dim is None or x.dim() == 0:
            return torch.full(values.shape, place or 0, device=x.device)
        rows = x.numel() // x.shape[dim]
        if place is not None:
            return (torch.arange(rows, device=x.device) * x.shape[dim] + place).reshape(values.shape)
        shape = values.movedim(dim, -1).shape
        number = torch.arange(rows, device=x.device)[:, None] * x.shape[dim] + torch.arange(shape[-1], device=x.device)
        return number.reshape(shape).movedim(-1, dim)

    attach(region, values, Sorted(x, None if x.dim() == 0 else dim, largest, places))
    return out


class Ordered(Choice):
    """A whole permutation: which element stands at each place. It can be inverted."""

    def __init__(self, rows: Choice, order: Order, dim: int) -> None:
        super().__init__(rows.key, rows.values, rows.weights, rows.ties)
        self.order = order
        self.dim = dim

    def known(self) -> bool:
        """Whether the order is known; not if its input was modified before anybody asked."""
        return True


class LaterOrdered(_Later, Ordered):
    def known(self) -> bool:
        return self.values is not None and "order" in vars(self)


def inverse(region: Region, func: Func, args: tuple[Any, ...], kwargs: dict[str, Any], x: Tensor) -> Any:
    """``argsort(argsort(x))``: the place of each element. None if `x` is not a permutation that a sort made."""
    found = resolved(x)
    named = dict(zip(("input", "dim", "descending"), args), **kwargs)
    if not isinstance(found, Ordered) or int(named.get("dim", -1)) % x.dim() != found.dim % x.dim():
        return None
    if not found.known():
        return None
    at = positions(found.order, found.dim, found.key[1:], x)
    if named.get("descending"):  # the same, last element first
        at = at.map(("flipped", at.key), lambda t: t.flip(found.dim % x.dim()))
    if func.__name__ == "argsort":
        return attach(region, original(func, *args, **kwargs), at)
    return _with_indices(region, func, original(func, *args, **kwargs), at)


def positions(order: Order, dim: int, key: tuple[Any, ...], index: Tensor) -> Choice:
    """The place of each element; `index` says which element stands at each place. Columns of the order's matrix."""
    columns = order.columns()
    places = order.neighbours().expand(columns.shape)
    hard = torch.arange(order.n, device=index.device).expand(columns.shape[:-1])
    found = _decide(order, ("positions", *key), hard, places, columns, order.ties)
    # All is known in sorted order; move it to where the elements are.
    back = index.movedim(dim, -1).unsqueeze(-1)
    return found.map(found.key, lambda t: _back(dim)(torch.zeros_like(t).scatter(-2, back.expand(t.shape), t)))


@chooses("topk", op="topk", boundaries="neighbours in sorted order change places")
def topk(region: Region, func: Func, args: tuple[Any, ...], kwargs: dict[str, Any], x: Tensor) -> Any:
    named = dict(zip(("input", "k", "dim", "largest", "sorted"), args), **kwargs)
    k, dim, largest = int(named["k"]), int(named.get("dim", -1)), bool(named.get("largest", True))
    out = func(*args, **kwargs)
    if x.dim() == 0 or k == 0 or x.numel() == 0 or x.shape[dim] < 2:
        return out
    in_order = bool(named.get("sorted", True))
    width = region.eps_for("topk")
    key = (*_key(width, x, dim, largest), k, in_order)
    first = (width, key, x, k, dim, largest, out.indices, in_order)
    if traced(x):
        found = _weigh_first(*first)
    else:
        found = LaterChoice(region, "topk", key, x, out.indices, lambda: _weigh_first(*first))
    out = _with_indices(region, func, out, found)
    return _mark(region, out, x, dim, largest) if in_order else out


def _weigh_first(
    width: float | Width, key: tuple[Any, ...], x: Tensor, k: int, dim: int, largest: bool, hard: Tensor, in_order: bool
) -> Choice:
    z = _scores(x, dim, largest)
    distances = lambda z: from_last(z, k) if k < z.shape[-1] else pairs(z)
    z, eps = in_units(z, width, distances, lambda z: neighbours(z, k))
    scores = z.detach()
    n = z.shape[-1]
    # The first k, sorted, and whatever comes close to the last of them.
    last = scores.topk(k, -1).values.amin(-1, keepdim=True)
    many = n if traced(z) else min(n, max(k + 1, int((last - scores < eps).sum(-1).max())))
    indices = scores.topk(many, -1).indices
    top = z.gather(-1, indices)
    order = Order(top, indices, eps, close(top, eps, _limit(top), k), k)
    _watched(width, order.rows)
    chosen = hard.movedim(dim, -1)
    if in_order:
        places = torch.arange(k, device=x.device).expand(chosen.shape)
    else:
        places = (indices.unsqueeze(-2) == chosen.unsqueeze(-1)).to(torch.int8).argmax(-1)
    rows = _rows(order, key, chosen, places)
    return rows.map(key, _back(dim))


def _row_of(region: Region, func: Func, op: str, x: Tensor, out: Any, dim: int, place: Tensor) -> Any:
    """``kthvalue``, ``median``: one place of the ascending order, for each row."""
    if x.dim() == 0 or x.numel() == 0 or x.shape[dim] < 2:
        return out
    width = region.eps_for(op)
    scores = _scores(x, dim, False)
    places = place.expand(scores.shape[:-1]).unsqueeze(-1)
    z, eps = in_units(scores, width, pairs, lambda z: beside(z, places))
    indices = z.detach().argsort(dim=-1, descending=True, stable=True)
    top = z.gather(-1, indices)
    order = Order(top, indices, eps, close(top, eps, _limit(top)))
    hard = out.indices.reshape(*z.shape[:-1], 1)
    key = (*_key(width, x, dim, False), func.__name__, out.indices.dim(), places)
    rows = _rows(order, key, hard, places)
    _watched(width, rows.weights)
    found = rows.map(rows.key, lambda t: t.reshape(*out.indices.shape, t.shape[-1]))
    return _with_indices(region, func, out, found)


@chooses("kthvalue", op="kthvalue", boundaries="the k-th smallest changes places with a neighbour")
def kthvalue(region: Region, func: Func, args: tuple[Any, ...], kwargs: dict[str, Any], x: Tensor) -> Any:
    named = dict(zip(("input", "k", "dim", "keepdim"), args), **kwargs)
    dim, place = int(named.get("dim", -1)), int(named["k"]) - 1
    out = _row_of(region, func, "kthvalue", x, func(*args, **kwargs), dim, torch.tensor(place, device=x.device))
    return _mark(region, out, x, dim, False, place)


@chooses("median", "nanmedian", op="median", boundaries="the median changes places with a neighbour")
def median(region: Region, func: Func, args: tuple[Any, ...], kwargs: dict[str, Any], x: Tensor) -> Any:
    named = dict(zip(("input", "dim", "keepdim"), args), **kwargs)
    out = func(*args, **kwargs)
    # While compiling the mark only says that eager mode has to compare; under vmap nobody can look for NaN.
    nan = bool(x.detach().isnan().any()) if not traced(x) else not torch.compiler.is_compiling()
    if named.get("dim") is None:  # the value alone is continuous
        return out if nan else _mark(region, out, x, None, False, (x.numel() - 1) // 2)
    dim = int(named["dim"])
    if x.dim() == 0 or x.numel() == 0:
        return out
    n = x.shape[dim]
    valid = n - x.detach().isnan().movedim(dim, -1).sum(-1)
    place = ((valid - 1) // 2).clamp(min=0)
    if func.__name__ == "median":  # NaN if there is one: the last in order
        place = torch.where(valid < n, n - 1, place)
    out = _row_of(region, func, "median", x, out, dim, place)
    return out if nan else _mark(region, out, x, dim, False, (n - 1) // 2)


@chooses("unique", op="unique", boundaries="with `return_inverse`: neighbours in sorted order change places")
def unique(region: Region, func: Func, args: tuple[Any, ...], kwargs: dict[str, Any], x: Tensor) -> Any:
    """The inverse of distinct numbers is their rank. Equal numbers have no rank of their own, and whether numbers are
    equal has no derivative.
    """
    out = func(*args, **kwargs)
    named = dict(zip(("input", "sorted", "return_inverse", "return_counts", "dim"), args), **kwargs)
    if not named.get("return_inverse") or named.get("dim") is not None or traced(x) or x.numel() < 2:
        return out
    flat = x.reshape(-1)
    index = flat.detach().argsort()

    width = region.eps_for("unique")

    def work_out() -> Order:
        return _ordered(width, flat, -1, False, index)

    if out[0].numel() < x.numel() or bool(flat.detach().isnan().any()):
        region.lose(
            "unique",
            [],
            "some of the numbers are equal, and equal numbers have no places of their own; use sll.rank.",
            undecided=lambda: bool((work_out().rows.amax(-1) < 1).any()),
        )
        return out
    found = positions(work_out(), -1, _key(width, x, -1, False)[1:], index)
    attach(region, out[1], found.map(found.key, lambda t: t.reshape(*x.shape, t.shape[-1])))
    return out


# --- boundaries passed -------------------------------------------------------------------------------------------


def _passed(region: Region, call: Callable[[Any], Tensor], boundaries: Tensor, x: Any) -> Tensor:
    """``call(x)`` counts the sorted `boundaries` that `x` has passed; the decision is at the nearest."""
    hard: Tensor = original(call, x)
    if boundaries.shape[-1] == 0 or hard.numel() == 0:
        return hard
    offset, below, above = nearest_boundary(region, hard, boundaries, x)
    decision = tells(decided_at(offset), hard, above)
    return attach(region, hard, Outcomes(decision, below.to(hard.dtype), above.to(hard.dtype)))


def nearest_boundary(region: Region, hard: Tensor, boundaries: Tensor, x: Any) -> tuple[Tensor, Tensor, Tensor]:
    """Where `x` is in the band of the boundary next to it, and how many are passed below and above that. (`hard`: how
    many are.)
    """
    many = boundaries.shape[-1]
    dtype = compute_dtype(boundaries.dtype, x.dtype if isinstance(x, Tensor) else boundaries.dtype)
    edges = boundaries.to(dtype)
    value = x.to(dtype) if isinstance(x, Tensor) else torch.tensor(float(x), dtype=dtype, device=edges.device)

    def edge(i: Tensor) -> Tensor:
        i = i.clamp(0, many - 1)
        return edges[i] if edges.dim() == 1 else edges.gather(-1, i)

    count = hard.long()
    with torch.no_grad():
        lower = (value - edge(count - 1)).abs() <= (edge(count) - value).abs()
        nearest = torch.where((count > 0) & (lower | (count == many)), count - 1, count)
        at = edge(nearest).contiguous()
        fixed = edges.contiguous()
        below, above = torch.searchsorted(fixed, at), torch.searchsorted(fixed, at, right=True)
    # Bands of neighbouring boundaries do not overlap: half the distance to the next one at most.
    target = edge(nearest)
    gaps = torch.minimum(
        torch.where(below > 0, target - edge(below - 1), float("inf")),
        torch.where(above < many, edge(above) - target, float("inf")),
    )
    distance = value - target
    width = region.eps_for("searchsorted")
    half = (gaps * 0.5).clamp(max=half_width(width, distance))
    offset = band_offset(distance / (2 * half), 0.5, 0.5)
    watch = watch_of(width)
    if watch is not None:
        watch.offset(distance, offset, half, gaps * 0.5)
    return offset, below, above


def _own_ranks(boundaries: Tensor, x: Any) -> bool:
    """Whether the boundaries are the sorted rows of `x` itself."""
    found = sorted_places(boundaries)
    if found is None or found.largest or not found.found_in(x) or boundaries.shape != x.shape or not x.numel():
        return False
    return x.dim() > 0 and found.dim is not None and found.dim % x.dim() == x.dim() - 1


_LEARNED = (
    "the boundaries get no gradient where what passes them was chosen. Use (x.unsqueeze(-1) > boundaries).sum(-1)."
)


def _count_passed(
    region: Region,
    func: Func,
    call: Callable[[Any], Tensor],
    boundaries: Tensor,
    x: Any,
    right: bool,
    through: tuple[tuple[Any, ...], dict[str, Any]] | None,
    direct: Callable[[], Any],
) -> Any:
    if carrier(x) is not None and boundaries.dim() == 1 and carrier(boundaries) is None:
        learned = tracked(boundaries) and region.linearizes("searchsorted")
        out = run_on_choices(region, call, (x,), {})
        if out is not None and learned:
            region.lose(op_name(func), [x], _LEARNED)
        if out is None and learned and through is not None:  # on either side, the boundaries decide
            out = run_on_outcomes(region, func, *through, conditional=True)
        elif out is None:
            out = run_on_outcomes(region, call, (x,), {})
        if out is not None:
            return out
    if _own_ranks(boundaries, x) and region.linearizes("searchsorted"):
        index = x.detach().argsort()  # among its own values: a rank
        width = region.eps_for("searchsorted")
        order = _ordered(width, x, -1, False, index)
        hard = original(call, x)
        found = positions(order, -1, _key(width, x, -1, False)[1:], index)
        return attach(region, hard, found.of((found.values + right).to(hard.dtype)))
    lost = [t for t in (boundaries, x) if discrete_carrier(t)]
    if lost:
        region.lose(
            op_name(func),
            lost,
            "the boundaries that a count passes are not known. Use (x.unsqueeze(-1) > boundaries).sum(-1).",
        )
    if not (tracked(x) or tracked(boundaries)) or not region.linearizes("searchsorted"):
        return direct()
    return _passed(region, call, boundaries, x)


def searchsorted(region: Region, func: Func, args: tuple[Any, ...], kwargs: dict[str, Any]) -> Any:
    named = dict(zip(("sorted_sequence", "input"), args), **kwargs)
    table, x = named.pop("sorted_sequence"), named.pop("input", named.pop("self", None))
    sorter = named.get("sorter")
    boundaries = table if sorter is None else table.gather(-1, sorter)
    chosen = resolved(sorter)
    if isinstance(chosen, Ordered) and equal_keys(chosen.key, _key(region.eps_for("sort"), table, -1, False)):
        _mark(region, boundaries, table, -1, False)  # table.gather(-1, table.argsort())
    right = bool(named.get("right")) or named.get("side") == "right"
    direct = lambda: func(*args, **kwargs)
    through = (args, kwargs) if sorter is None else None
    return _count_passed(region, func, lambda v: func(table, v, **named), boundaries, x, right, through, direct)


def bucketize(region: Region, func: Func, args: tuple[Any, ...], kwargs: dict[str, Any]) -> Any:
    named = dict(zip(("input", "boundaries"), args), **kwargs)
    x, boundaries = named.pop("input", named.pop("self", None)), named.pop("boundaries")
    right = bool(named.get("right"))
    direct = lambda: func(*args, **kwargs)
    call = lambda v: func(v, boundaries, **named)
    return _count_passed(region, func, call, boundaries, x, right, (args, kwargs), direct)


SOURCES["searchsorted"] = "each boundary, half-width at most half the distance to the next"
register(searchsorted, "searchsorted", in_place=False, source=True)
register(bucketize, "bucketize", in_place=False, source=True)


@chooses("histc", op="histc", boundaries="the edges of the bins")
def histc(region: Region, func: Func, args: tuple[Any, ...], kwargs: dict[str, Any], x: Tensor) -> Any:
    named = dict(zip(("input", "bins", "min", "max"), args), **kwargs)
    bins, low, high = int(named.get("bins", 100)), float(named.get("min", 0)), float(named.get("max", 0))
    hard = original(func, *args, **kwargs)
    whole = low == high  # the range of the data: the outermost edges move with it, and nothing crosses them
    if whole and x.numel():
        low, high = float(x.detach().min()), float(x.detach().max())
    if low == high:
        low, high = low - 1, high + 1
    flat = x.reshape(-1)
    edges = torch.linspace(low, high, bins + 1, dtype=compute_dtype(x.dtype), device=x.device)
    place = _passed(region, lambda v: torch.searchsorted(edges, v.to(edges.dtype), right=True), edges, flat)
    if whole:
        place = region.call(torch.clamp, place, 1, bins)
    total = bins_of(place, bins + 2, exact_dtype(place))
    if total is None:
        return hard
    total = total[1:-1]
    if not region.linear:
        return hard_forward(hard, total)
    certain = (total.detach() - hard).abs() < 1e-6
    return torch.where(certain, hard_forward(hard, total), total.to(hard.dtype))
