"""Sources that order: sort, topk, kthvalue, median, unique."""

from __future__ import annotations

import functools
from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor

from ..._ops.env import dispatched
from ..._ops.order import Order, close, first_k, most_neighbours, traced
from ..._ops.order import constant as every
from ..._ops.samples import around, beside, from_last, neighbours, pairs, sample
from ..._rules.index import op_name
from ..._rules.widths import Width, in_units, watch_of, watched
from ..found import Sorted, mark, middle, place_in_rows, sorted_places
from ..interface import Region, attach, version_of
from ..rules import Call
from .carriers import Choice, bool_outcomes, resolved
from .choosing import _scores, _with_indices, chooses, chosen
from .decisions import decided_at
from .trees import original


def _ordered(width: float | Width, x: Tensor, dim: int, largest: bool, indices: Tensor) -> Order:
    """The order whose sorted positions along the last dimension are `indices`."""
    z, eps = in_units(_scores(x, dim, largest).gather(-1, indices), width, pairs, neighbours)
    order = Order(z, indices, eps, close(z, eps, most_neighbours(z)))
    watched(width, order.rows)
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


def inverse(
    region: Region, call: Call, x: Tensor, dim: int = -1, descending: bool = False, *, stable: bool = False
) -> Any:
    """``argsort(argsort(x))``: the place of each element. None if `x` is not a permutation that a sort made."""
    found = resolved(x)
    if not isinstance(found, Choice) or found.order is None or dim % x.dim() != found.dim % x.dim():
        return None
    at = positions(found.order, found.dim, found.key[1:], x)
    if descending:  # the same, last element first
        at = at.map(("flipped", at.key), lambda t: t.flip(found.dim % x.dim()))
    out = original(call)
    return attach(region, out, at) if isinstance(out, Tensor) else _with_indices(region, out, at)


@chooses("sort", of_integers=inverse)
def sort(
    region: Region, call: Call, x: Tensor, dim: int = -1, descending: bool = False, *, stable: bool = False
) -> Any:
    both = call.func.__name__ == "sort"
    out = call() if both else original(call)
    indices, largest = out.indices if both else out, descending
    if x.dim() == 0 or x.numel() == 0 or x.shape[dim] < 2:
        return out
    width = region.eps_for("sort")
    key = _key(width, x, dim, largest)
    found = chosen(x, indices, lambda x, hard: _weigh_order(width, key, x, dim, largest, hard.movedim(dim, -1)))
    if not both:
        return attach(region, indices, found)
    out = _with_indices(region, out, found)
    return mark(region, out, x, dim, largest)


def _weigh_order(
    width: float | Width, key: tuple[Any, ...], x: Tensor, dim: int, largest: bool, last: Tensor
) -> Choice:
    order = _ordered(width, x, dim, largest, last)
    rows = _rows(order, key, last)
    found = rows.map(rows.key, _back(dim))
    found.order, found.dim = order, dim
    return found


def positions(order: Order, dim: int, key: tuple[Any, ...], index: Tensor) -> Choice:
    """The place of each element; `index` says which element stands at each place. Columns of the order's matrix."""
    columns = order.columns()
    places = order.neighbours().expand(columns.shape)
    hard = torch.arange(order.n, device=index.device).expand(columns.shape[:-1])
    found = _decide(order, ("positions", *key), hard, places, columns, order.ties)
    # All is known in sorted order; move it to where the elements are.
    back = index.movedim(dim, -1).unsqueeze(-1)
    return found.map(found.key, lambda t: _back(dim)(torch.zeros_like(t).scatter(-2, back.expand(t.shape), t)))


@chooses("topk")
def topk(
    region: Region, call: Call, x: Tensor, k: int, dim: int = -1, largest: bool = True, sorted: bool = True
) -> Any:
    k, out = int(k), call()
    if x.dim() == 0 or k == 0 or x.numel() == 0 or x.shape[dim] < 2:
        return out
    width = region.eps_for("topk")
    key = (*_key(width, x, dim, largest), k, sorted)
    found = chosen(x, out.indices, lambda x, hard: _weigh_first(width, key, x, k, dim, largest, hard, sorted))
    out = _with_indices(region, out, found)
    return mark(region, out, x, dim, largest, in_order=sorted)


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
    order = Order(top, indices, eps, close(top, eps, most_neighbours(top), k), k)
    watched(width, order.rows)
    chosen = hard.movedim(dim, -1)
    if in_order:
        places = torch.arange(k, device=x.device).expand(chosen.shape)
    else:
        places = (indices.unsqueeze(-2) == chosen.unsqueeze(-1)).to(torch.int8).argmax(-1)
    rows = _rows(order, key, chosen, places)
    return rows.map(key, _back(dim))


def _row_of(region: Region, name: str, op: str, x: Tensor, out: Any, dim: int, place: Any) -> Any:
    """``kthvalue``, ``median``: one place of the ascending order, for each row."""
    if x.dim() == 0 or x.numel() == 0 or x.shape[dim] < 2:
        return out
    width = region.eps_for(op)
    scores = _scores(x, dim, False)
    places = torch.as_tensor(place, device=x.device).expand(scores.shape[:-1]).unsqueeze(-1)
    z, eps = in_units(scores, width, pairs, lambda z: beside(z, places))
    indices = z.detach().argsort(dim=-1, descending=True, stable=True)
    top = z.gather(-1, indices)
    order = Order(top, indices, eps, close(top, eps, most_neighbours(top)))
    hard = out.indices.reshape(*z.shape[:-1], 1)
    key = (*_key(width, x, dim, False), name, out.indices.dim(), places)
    rows = _rows(order, key, hard, places)
    watched(width, rows.weights)
    found = rows.map(rows.key, lambda t: t.reshape(*out.indices.shape, t.shape[-1]))
    return _with_indices(region, out, found)


@chooses("kthvalue")
def kthvalue(region: Region, call: Call, x: Tensor, k: int, dim: int = -1, keepdim: bool = False) -> Any:
    out = _row_of(region, "kthvalue", "kthvalue", x, call(), dim, int(k) - 1)
    return mark(region, out, x, dim, False, int(k) - 1)


@chooses("median")
def median(region: Region, call: Call, x: Tensor, dim: int | None = None, keepdim: bool = False) -> Any:
    out, name = call(), call.func.__name__
    place = middle(name, x, dim)
    if dim is not None:  # (of all, the value alone is continuous)
        out = _row_of(region, name, "median", x, out, dim, place)
    return mark(region, out, x, dim, False, place) if dispatched() or not traced(x) else out


@chooses("unique")
def unique(
    region: Region, call: Call, x: Tensor, sorted: bool = True, return_inverse: bool = False,
    return_counts: bool = False, dim: int | None = None,
) -> Any:  # fmt: skip
    """The inverse of distinct numbers is their rank. Equal numbers have no rank of their own, and whether numbers are
    equal has no derivative.
    """
    out = call()
    if not return_inverse or dim is not None or traced(x) or x.numel() < 2:
        return out
    flat = x.reshape(-1)
    index = flat.detach().argsort()

    width = region.eps_for("unique")
    work_out = functools.partial(_ordered, width, flat, -1, False, index)
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


# --- comparisons with values that were found by sorting ------------------------------------------------------------


def compared_with_sorted(region: Region, op: str, func: Callable[..., Any], args: tuple[Any, ...]) -> Tensor | None:
    """A comparison with values that were found by sorting; None if it is an ordinary one.

    Sorted values of one row with each other: no decision. The elements of `x` with one value of each row, ``x >=
    x.topk(k).values[..., -1:]``: that asks which are the first `k`, and has the weights of `sll.topk_mask`. (The plain
    rule would see an element that always ties with itself.)
    """
    if len(args) != 2:
        return None
    a, b = (sorted_places(x) for x in args)
    if a is not None and b is not None:
        if a.source is not b.source or a.version != b.version or a.dim != b.dim:
            return None
        known = bool((a.places() // a.n == b.places() // b.n).all())
        return original(func, *args) if known else None
    value, x, threshold = (a, args[1], args[0]) if a is not None else (b, args[0], args[1])
    if value is None or not value.found_in(x):
        return None
    places = place_in_rows(value, x, threshold)
    if places is None or not bool((places == places[0]).all()):
        return None
    place = int(places[0])
    if a is not None:  # threshold < x is x > threshold
        op = {"gt": "lt", "ge": "le", "lt": "gt", "le": "ge"}[op]
    strict, inclusive = ("gt", "ge") if value.largest else ("lt", "le")
    # The first `place` are strictly beyond the threshold, with the threshold itself it is one more.
    among_first = op in (strict, inclusive)
    k = place + (op == inclusive or op == {"gt": "lt", "lt": "gt"}[strict])
    hard = original(func, *args)
    offset = _first_so_many(value, x, threshold, k, region.eps_for("topk", op_name(func)))
    return attach(region, hard, bool_outcomes(decided_at(offset), hard, 1 if among_first else -1))


def _first_so_many(value: Sorted, x: Tensor, threshold: Tensor, k: int, eps: float | Width) -> Tensor:
    """Offsets of being among the first `k`: the weights of `sll.topk_mask`, minus 1/2."""
    dim = None if value.source.dim() == 1 else value.dim
    rows = _scores(x.reshape(-1) if dim is None else x, -1 if dim is None else dim, value.largest)
    rows, half = in_units(rows, eps, lambda _: sample(x - threshold), lambda z: around(z, k))
    weights = first_k(rows, k, half)[0] if 0 < k < value.n else every(float(k > 0), rows)
    watch = watch_of(eps)
    if watch is not None:
        watch.weights(weights, each=True)
    offset = (weights.reshape(x.shape) if dim is None else weights.movedim(-1, dim)) - 0.5
    # Equals of the threshold show what they show.
    equal = x == threshold
    several = equal.sum() > 1 if dim is None else equal.sum(dim, keepdim=True) > 1
    return torch.where(equal & several, offset - offset.detach(), offset)
