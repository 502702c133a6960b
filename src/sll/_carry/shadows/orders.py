"""Orders: `sort`, `argsort` and their inverse, one place of an order, and the inverse of distinct numbers.

An order carries the places of all elements of a row. What it reads and writes gets its gradient in backward, by running
sums (see `ladder`); weights, in windows around each place (see `order`), are worked out only for other functions.
"""

from __future__ import annotations

import math
from typing import Any

import torch
from torch import Tensor

from ..._ops.openness import marked
from ..._ops.openness import scores as entering
from ..._ops.order import Order as Places
from ..._ops.order import close, most_neighbours
from ..._ops.order import rank as ranks
from ..._ops.projections import rows_of
from ..._ops.samples import at_each, beside, neighbours, pairs
from ..._ops.surrogates import alias, follow, kept, lazy_clone, simple
from ..._rules.index import op_name
from ..._rules.widths import Width, in_units, watch_of, watched
from ..found import middle
from ..interface import Func, Region
from .either import left
from .linear import Linear, linear, positions
from .picked import (
    _DISCRETE,
    MAX_SHARES,
    as_weights,
    back,
    decides,
    quickly_decides,
    row_numbers,
    with_indices,
)
from .shadow import Weights, mark, shadow


def _places(x: Tensor, dim: int, largest: bool, eps: float | Width, index: Tensor | None, gaps: Any = None) -> Places:
    """The order of the rows; `index` (…, n) says which element torch has put at each place."""
    rows, half = in_units(rows_of(x, dim, largest, True), eps, pairs, gaps or neighbours)
    if index is None:
        index = torch.argsort(rows.detach(), dim=-1, descending=True, stable=True)
    rows = rows.gather(-1, index)
    return Places(rows, index, half, close(rows, half, most_neighbours(rows)))


class Order(Weights):
    """Which element stands at each place of a whole row: it can be inverted."""

    def __init__(self, index: Tensor, x: Tensor, dim: int, largest: bool, eps: float | Width) -> None:
        plain, scores = simple(x) and watch_of(eps) is None, kept(x)

        # It does not hold the order itself: nobody would free it.
        def places() -> Places:
            return _places(marked(scores), dim, largest, eps, index.movedim(dim, -1))

        n, whole = index.shape[dim], linear(scores, index, dim, largest, eps)
        known = positions(n, index.device) if plain and index.numel() * n <= MAX_SHARES else None

        def weigh() -> tuple[Tensor, Tensor]:
            if known is not None:
                return back(whole.shares(), dim), known
            order = places()
            rows = watched(eps, order.rows)
            weights, labels = as_weights(order.elements(), rows, index.movedim(dim, -1), order.reach)
            return back(weights, dim), back(labels, dim)

        super().__init__(weigh, known, known is not None, owner=lambda: row_numbers(index, dim))

        self.order = whole if plain else None
        self.places = places
        self.index, self.scores, self.dim, self.largest, self.eps = index, scores, dim, largest, eps


def quick_order(x: Any) -> Linear | None:
    """The order that an index is, or is the inverse of, where plain autograd is all there is."""
    pair = getattr(x, "_sll", None)
    if pair is None or type(x) is not Tensor or pair[1] != x._version or pair[0].within is not None:
        return None
    return getattr(pair[0], "order", None)


def sort(region: Region, func: Func, args: tuple[Any, ...], kwargs: dict[str, Any]) -> Any:
    args = left(region, "sort", args)
    named = dict(zip(("input", "dim", "descending"), args), **kwargs)
    x, dim, largest = named["input"], int(named.get("dim", -1)), bool(named.get("descending", False))
    out, own = func(*args, **kwargs), shadow(x)
    index = out if isinstance(out, Tensor) else out.indices
    if isinstance(own, Order) and own.dim % x.dim() == dim % x.dim():
        return with_indices(region, func, out, inverse(own, largest, alias(index)))
    if not decides(region, func, "sort", x, dim):
        return out
    return with_indices(region, func, out, Order(alias(index), x, dim, largest, region.eps_for("sort")))


def quick_argsort(region: Region, func: Func, args: tuple[Any, ...]) -> Any:
    x, dim = args[0], args[1] if len(args) > 1 else -1
    if type(x) is Tensor and x.dtype == torch.int64:
        own = x._sll[0] if quick_order(x) is not None else None  # type: ignore[attr-defined]
        if type(own) is not Order or own.dim != dim or len(args) > 2:
            return NotImplemented
        out = func(*args)
        return mark(region, out, inverse(own, False, lazy_clone(out)))
    if type(x) is Tensor and not x.requires_grad and getattr(x, "_sll", None) is None:
        return func(*args)  # nothing is decided
    if len(args) > 3 or type(dim) is not int or not quickly_decides(region, "sort", x):
        return NotImplemented
    if x.shape[dim] < 2 or not x.numel():
        return NotImplemented
    out = func(*args)
    return mark(region, out, Order(lazy_clone(out), x, dim, len(args) == 3 and bool(args[2]), region.eps_for("sort")))


def inverse(own: Order, descending: bool, ranked: Tensor) -> Weights:
    """``argsort(argsort(x))``, `ranked`: the place of each element."""
    dim, n = own.dim, ranked.shape[own.dim]

    def weigh() -> tuple[Tensor, Tensor]:
        if own.positions:  # the same, read the other way
            weights = own.weights().movedim(dim % ranked.dim(), -2).transpose(-1, -2)
            weights, labels = back(weights, dim), own.labels
            return (weights.flip(dim % ranked.dim()), labels) if descending else (weights, labels)
        order, index = own.places(), own.index.movedim(dim, -1)
        columns = watched(own.eps, order.columns())
        labels = order.neighbours().expand(columns.shape)
        hard = positions(n, index.device).expand(index.shape)
        home = index.unsqueeze(-1).expand(columns.shape)  # from sorted order to where the elements are
        found = [torch.zeros_like(t).scatter(-2, home, t) for t in as_weights(labels, columns, hard, order.reach)]
        weights, labels = (back(t, dim) for t in found)
        return (weights.flip(dim % ranked.dim()), labels.flip(dim % ranked.dim())) if descending else (weights, labels)

    order = own.order
    back_again = order and Linear(order.scores, own.index, dim, order.sorting, True, descending)

    def value() -> Tensor:
        """As a number: `sll.rank`, over pairs."""
        rows = rows_of(marked(own.scores), dim, True)
        if back_again is not None:
            return back_again.ranks(ranked.to(rows.dtype))
        rows, half = in_units(rows, own.eps, pairs)
        soft, watch = ranks(rows, half), watch_of(own.eps)
        if watch is not None:
            watch.count(at_each(neighbours(rows.detach())) < half)
            watch.arrives(soft)
        soft = soft.movedim(-1, dim)
        soft = n - 1 - soft if own.largest else soft
        soft = soft.flip(dim) if descending else soft
        return follow(soft, lambda: ranked.to(soft.dtype))

    return Weights(weigh, value=value, owner=lambda: row_numbers(ranked, dim), order=back_again)


def _placed(region: Region, func: Func, op: str, x: Tensor, out: Any, dim: int, place: Tensor) -> Any:
    """``kthvalue``, ``median``: one place of the ascending order, for each row."""
    if not decides(region, func, op, x, dim):
        return out
    eps, then = region.eps_for(op), alias(out.indices)
    plain, n = simple(x) and watch_of(eps) is None, x.shape[dim]
    known = positions(n, x.device) if plain and then.numel() * n <= MAX_SHARES else None
    scores = kept(x) if known is not None else entering(x)
    at = place.expand(x.movedim(dim, -1).shape[:-1]).unsqueeze(-1)
    index = then if then.dim() == x.dim() else then.unsqueeze(dim)
    part = (linear(scores, index, dim, False, eps, at), None, lambda t: t.reshape(then.shape)) if plain else None

    def weigh() -> tuple[Tensor, Tensor]:
        if known is not None and part is not None:
            return part[0].shares().reshape(*then.shape, n), known
        order = _places(scores, dim, False, eps, None, lambda z: beside(z, at))
        row = at.unsqueeze(-1).expand(*at.shape, order.rows.shape[-1])
        labels, weights = (t.gather(-2, row).squeeze(-2) for t in (order.elements(), order.rows))
        weights, labels = as_weights(labels, watched(eps, weights), then.reshape(labels.shape[:-1]), order.reach)
        return weights.reshape(*then.shape, -1), labels.reshape(*then.shape, labels.shape[-1])

    found = Weights(weigh, known, known is not None)
    found.part = part
    return with_indices(region, func, out, found)


def kthvalue(region: Region, func: Func, args: tuple[Any, ...], kwargs: dict[str, Any]) -> Any:
    args = left(region, "kthvalue", args)
    named = dict(zip(("input", "k", "dim", "keepdim"), args), **kwargs)
    x, out = named["input"], func(*args, **kwargs)
    place = torch.tensor(int(named["k"]) - 1, device=x.device)
    return _placed(region, func, "kthvalue", x, out, int(named.get("dim", -1)), place)


def median(region: Region, func: Func, args: tuple[Any, ...], kwargs: dict[str, Any]) -> Any:
    named = dict(zip(("input", "dim", "keepdim"), args), **kwargs)
    x, out = named["input"], func(*args, **kwargs)
    if named.get("dim") is None or not x.is_floating_point() or x.dim() == 0:
        if shadow(x) is not None:
            region.lose(op_name(func), [x], _DISCRETE)
        return out  # (of floats the value alone is continuous)
    dim = int(named["dim"])
    place = torch.as_tensor(middle(op_name(func), x, dim), device=x.device)
    return _placed(region, func, "median", x, out, dim, place)


def unique(region: Region, func: Func, args: tuple[Any, ...], kwargs: dict[str, Any]) -> Any:
    """The inverse of distinct numbers is their rank. Whether numbers are equal has no derivative."""
    named = dict(zip(("input", "sorted", "return_inverse", "return_counts", "dim"), args), **kwargs)
    x, out = named["input"], func(*args, **kwargs)
    asked = named.get("return_inverse") and named.get("dim") is None and simple(x)
    if not decides(region, func, "unique", x, None) or not asked:
        return out
    if out[0].numel() < x.numel() or math.isnan(x.detach().amax()):  # (in a fraction of the time of `any`)
        region.lose(
            "unique", [], "some of the numbers are equal, and equal numbers have no places of their own; use sll.rank.",
            undecided=lambda: True,
        )  # fmt: skip
        return out
    then, flat = alias(out[1]), x if x.dim() == 1 else x.reshape(-1)
    order = Order(flat.detach().argsort(), flat, 0, False, region.eps_for("unique"))
    found = inverse(order, False, then if x.dim() == 1 else then.reshape(-1))
    if x.dim() == 1:
        with_indices(region, func, out[1], found)
        return out

    def weigh() -> tuple[Tensor, Tensor]:
        return tuple(t.reshape(*then.shape, -1) for t in (found.weights(), found.labels))  # type: ignore[return-value]

    with_indices(region, func, out[1], Weights(weigh, value=lambda: found.value().reshape(then.shape)))
    return out
