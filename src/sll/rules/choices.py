"""Sources that choose and order: argmax, topk, sort and their kin. Values keep torch's own gradient; *indices* carry a
`Choice` of positions, with the weights of `sll.order`.

`searchsorted` and `bucketize` count the boundaries passed: one decision, at the nearest boundary.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor

from ..kernels import band_offset, compute_dtype, hard_forward
from ..linearization import (
    Choice,
    Outcomes,
    Sorted,
    attach,
    carrier,
    decided_at,
    discrete_carrier,
    exact_dtype,
    original,
    resolved,
    run_on_choices,
    run_on_outcomes,
    version_of,
)
from ..order import Order, capped_simplex, close, scaled, traced
from .elementwise import elementwise
from .reductions import bins_of
from .registry import SOURCES, op_name, register, tracked

if TYPE_CHECKING:
    from ..region import linearize as Region

Func = Callable[..., Any]

MAX_ELEMENTS = 2**22
"""An order keeps as many candidates per place as its band holds, up to this many in all (and at least 2 x 8 + 1)."""


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
        register(handler, *names, in_place=False)
        return rule

    return decorate


_DISCRETE = "of integers, which one is largest has no derivative here. Choose among floats."


def _with_indices(region: Region, func: Func, out: Any, found: Choice) -> Any:
    """`out`, a ``torch.return_types``, with what its indices carry."""
    if not torch.compiler.is_compiling():
        attach(region, out.indices, found)
        return out
    # Dynamo does not set attributes on the parts of a result.
    indices = attach(region, out.indices.view_as(out.indices), found)
    return getattr(torch.return_types, func.__name__)((out.values, indices))


def _scores(x: Tensor, dim: int, eps: float, largest: bool) -> Tensor:
    """``± x / eps``, the dimension last."""
    rows = scaled(x.reshape(1) if x.dim() == 0 else x.movedim(dim, -1), eps)
    return rows if largest else -rows


def _limit(z: Tensor) -> int:
    return max(8, MAX_ELEMENTS // max(z.numel(), 1))


# --- one position ------------------------------------------------------------------------------------------------


def _best(region: Region, x: Tensor, hard: Tensor, dim: int | None, keepdim: bool, op: str) -> Choice | None:
    """`hard` is the position of the largest (op "argmax") or smallest entry: sparsemax weights."""
    flat = dim is None
    eps = region.eps_for(op)
    z = _scores(x.reshape(-1) if flat else x, -1 if flat else dim or 0, eps, op == "argmax")
    n = z.shape[-1]
    if n < 2:
        return None
    scores = z.detach()
    best = scores.amax(-1, keepdim=True)
    if traced(z):
        many = min(n, 8)
    else:
        most = int((scores > best - 1).sum(-1).max()) if scores.numel() else 1
        many = min(n, max(2, min(most, 2 * _limit(z[..., 0]))))
    index = scores.topk(many, -1).indices
    finite = best.isfinite()
    top = torch.where(finite, z.gather(-1, index), torch.arange(0, -many, -1, device=z.device).to(z.dtype))
    weights = capped_simplex(top, 1)
    # Without a finite best there is no distance: the hard position, decided.
    place = hard.reshape(()) if flat else hard.reshape(z.shape[:-1])
    values = torch.where(finite, index, place.unsqueeze(-1))
    ties = top.detach()[..., 0] == top.detach()[..., 1]
    shape = (*hard.shape, many)
    key = ("choice", op, x, version_of(x), None if flat else (dim or 0) % max(x.dim(), 1), eps, keepdim)
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
    if dim is None or not tracked(x) or not region.linearizes(op):
        return out
    found = _best(region, x, out.indices, dim, bool(named.get("keepdim")), op)
    return out if found is None else _with_indices(region, func, out, found)


register(extremum, "max", "min", in_place=False)


# --- orders ------------------------------------------------------------------------------------------------------


def _ordered(region: Region, op: str, x: Tensor, dim: int, largest: bool, indices: Tensor) -> Order:
    """The order whose sorted positions along the last dimension are `indices`."""
    z = _scores(x, dim, region.eps_for(op), largest).gather(-1, indices)
    return Order(z, indices, close(z, _limit(z)))


def _key(region: Region, op: str, x: Tensor, dim: int, largest: bool) -> tuple[Any, ...]:
    return ("places", x, version_of(x), dim % max(x.dim(), 1), largest, region.eps_for(op))


def _rows(order: Order, key: tuple[Any, ...], hard: Tensor, places: Tensor | None = None) -> Choice:
    """Which elements may stand at the places (..., k). `hard`: which one does."""
    parts = [order.elements(), order.rows, order.ties]
    if places is not None:
        parts = [t.gather(-2, places.unsqueeze(-1).expand(*places.shape, t.shape[-1])) for t in parts]
    return _decide(order, key, hard, *parts)


def _decide(order: Order, key: tuple[Any, ...], hard: Tensor, values: Tensor, weights: Tensor, ties: Tensor) -> Choice:
    """Rows with NaN or infinity have no distances: the hard value, no gradient."""
    finite = order.finite.all(-1)[..., None, None]
    alone = torch.zeros(weights.shape[-1], dtype=weights.dtype, device=weights.device)
    alone[order.reach] = 1
    values, weights = torch.where(finite, values, hard.unsqueeze(-1)), torch.where(finite, weights, alone)
    return Choice(key, values, weights, ties & finite)


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
    order = _ordered(region, "sort", x, dim, largest, last)
    rows = _rows(order, _key(region, "sort", x, dim, largest), last)
    found = Ordered(rows.map(rows.key, _back(dim)), order, dim)
    if not both:
        return attach(region, indices, found)
    out = _with_indices(region, func, out, found)
    if not torch.compiler.is_compiling():
        shape = last.shape
        number = lambda: torch.arange(last.numel(), device=x.device).reshape(shape).movedim(-1, dim)
        attach(region, out.values, Sorted(out.values, order.n, number))
    return out


class Ordered(Choice):
    """A whole permutation: which element stands at each place. It can be inverted."""

    def __init__(self, rows: Choice, order: Order, dim: int) -> None:
        super().__init__(rows.key, rows.values, rows.weights, rows.ties)
        self.order = order
        self.dim = dim


def inverse(region: Region, func: Func, args: tuple[Any, ...], kwargs: dict[str, Any], x: Tensor) -> Any:
    """``argsort(argsort(x))``: the place of each element. None if `x` is not a permutation that a sort made."""
    found = resolved(x)
    named = dict(zip(("input", "dim", "descending"), args), **kwargs)
    if not isinstance(found, Ordered) or func.__name__ != "argsort" or named.get("descending"):
        return None
    if int(named.get("dim", -1)) % x.dim() != found.dim % x.dim():
        return None
    out = original(func, *args, **kwargs)
    return attach(region, out, positions(found.order, found.dim, found.key[1:], x))


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
    z = _scores(x, dim, region.eps_for("topk"), largest)
    scores = z.detach()
    n = z.shape[-1]
    # The first k, sorted, and whatever comes close to the last of them.
    last = scores.topk(k, -1).values.amin(-1, keepdim=True)
    many = n if traced(z) else min(n, max(k + 1, int((scores > last - 1).sum(-1).max())))
    indices = scores.topk(many, -1).indices
    top = z.gather(-1, indices)
    order = Order(top, indices, close(top, _limit(top), k), k)
    chosen = out.indices.movedim(dim, -1)
    if named.get("sorted", True):
        places = torch.arange(k, device=x.device).expand(chosen.shape)
    else:
        places = (indices.unsqueeze(-2) == chosen.unsqueeze(-1)).to(torch.int8).argmax(-1)
    key = (*_key(region, "topk", x, dim, largest), k, bool(named.get("sorted", True)))
    rows = _rows(order, key, chosen, places)
    return _with_indices(region, func, out, rows.map(key, _back(dim)))


def _row_of(region: Region, func: Func, op: str, x: Tensor, out: Any, dim: int, place: Tensor | int) -> Any:
    """``kthvalue``, ``median``: one place of the ascending order."""
    if x.dim() == 0 or x.numel() == 0 or x.shape[dim] < 2:
        return out
    z = _scores(x, dim, region.eps_for(op), False)
    indices = z.detach().argsort(dim=-1, descending=True, stable=True)
    top = z.gather(-1, indices)
    order = Order(top, indices, close(top, _limit(top)))
    hard = out.indices.reshape(*z.shape[:-1], 1)
    places = torch.as_tensor(place, device=x.device).expand(z.shape[:-1]).unsqueeze(-1)
    rows = _rows(order, (*_key(region, op, x, dim, False), place, out.indices.dim()), hard, places)
    found = rows.map(rows.key, lambda t: t.reshape(*out.indices.shape, t.shape[-1]))
    return _with_indices(region, func, out, found)


@chooses("kthvalue", op="kthvalue", boundaries="the k-th smallest changes places with a neighbour")
def kthvalue(region: Region, func: Func, args: tuple[Any, ...], kwargs: dict[str, Any], x: Tensor) -> Any:
    named = dict(zip(("input", "k", "dim", "keepdim"), args), **kwargs)
    return _row_of(region, func, "kthvalue", x, func(*args, **kwargs), int(named.get("dim", -1)), int(named["k"]) - 1)


@chooses("median", "nanmedian", op="median", boundaries="the median changes places with a neighbour")
def median(region: Region, func: Func, args: tuple[Any, ...], kwargs: dict[str, Any], x: Tensor) -> Any:
    named = dict(zip(("input", "dim", "keepdim"), args), **kwargs)
    out = func(*args, **kwargs)
    if named.get("dim") is None:
        return out  # the value alone is continuous
    return _row_of(
        region, func, "median", x, out, int(named["dim"]), (x.shape[named["dim"]] - 1) // 2 if x.dim() else 0
    )


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
    order = _ordered(region, "unique", flat, -1, False, index)
    if out[0].numel() < x.numel() or not bool(order.finite.all()):
        region.lose(
            "unique",
            [],
            "some of the numbers are equal, and equal numbers have no places of their own; use sll.rank.",
            undecided=lambda: bool((order.rows.amax(-1) < 1).any()),
        )
        return out
    found = positions(order, -1, _key(region, "unique", x, -1, False)[1:], index)
    attach(region, out[1], found.map(found.key, lambda t: t.reshape(*x.shape, t.shape[-1])))
    return out


# --- boundaries passed -------------------------------------------------------------------------------------------


def _passed(region: Region, func: Func, call: Callable[[Any], Tensor], boundaries: Tensor, x: Any) -> Tensor:
    """``call(x)`` counts the sorted `boundaries` that `x` has passed; the decision is at the nearest."""
    hard: Tensor = original(call, x)
    many = boundaries.shape[-1]
    if many == 0 or hard.numel() == 0:
        return hard
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
    half = (gaps * 0.5).clamp(max=region.eps_for("searchsorted"))
    offset = band_offset((value - target) / (2 * half), 0.5, 0.5)
    return attach(region, hard, Outcomes(decided_at(offset), below.to(hard.dtype), above.to(hard.dtype)))


def _count_passed(
    region: Region, func: Func, call: Callable[[Any], Tensor], boundaries: Tensor, x: Any, direct: Callable[[], Any]
) -> Any:
    if carrier(x) is not None and boundaries.dim() == 1 and carrier(boundaries) is None:
        out = run_on_choices(region, call, (x,), {})
        out = run_on_outcomes(region, call, (x,), {}) if out is None else out
        if out is not None:
            return out
    lost = [t for t in (boundaries, x) if discrete_carrier(t)]
    if lost:
        region.lose(op_name(func), lost, "the boundaries that a count passes are not known.")
    if not (tracked(x) or tracked(boundaries)) or not region.linearizes("searchsorted"):
        return direct()
    return _passed(region, func, call, boundaries, x)


def searchsorted(region: Region, func: Func, args: tuple[Any, ...], kwargs: dict[str, Any]) -> Any:
    named = dict(zip(("sorted_sequence", "input"), args), **kwargs)
    table, x = named.pop("sorted_sequence"), named.pop("input", named.pop("self", None))
    sorter = named.get("sorter")
    boundaries = table if sorter is None else table.gather(-1, sorter)
    return _count_passed(region, func, lambda v: func(table, v, **named), boundaries, x, lambda: func(*args, **kwargs))


def bucketize(region: Region, func: Func, args: tuple[Any, ...], kwargs: dict[str, Any]) -> Any:
    named = dict(zip(("input", "boundaries"), args), **kwargs)
    x, boundaries = named.pop("input", named.pop("self", None)), named.pop("boundaries")
    return _count_passed(
        region, func, lambda v: func(v, boundaries, **named), boundaries, x, lambda: func(*args, **kwargs)
    )


SOURCES["searchsorted"] = "each boundary, half-width at most half the distance to the next"
register(searchsorted, "searchsorted", in_place=False)
register(bucketize, "bucketize", in_place=False)


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
    place = _passed(region, func, lambda v: torch.searchsorted(edges, v.to(edges.dtype), right=True), edges, flat)
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
