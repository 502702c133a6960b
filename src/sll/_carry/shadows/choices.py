"""Choices and orders: the index of the best, the first `k`, all in order. Values keep torch's own gradient.

An index carries `Weights`: 1 for the candidate that torch chose, with the gradient of the Euclidean projection that
`sll.argmax` and `sll.topk_mask` are (see `order`). The gradient of a projection on the (capped) simplex is that of a mean:
among the contenders, each gets its own ``g`` less the mean of all. It is worked out in backward.
"""

from __future__ import annotations

import functools
from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor

from ..._ops.apply import run
from ..._ops.band import hard_forward
from ..._ops.order import first_k
from ..._ops.order import rank as ranks
from ..._ops.samples import from_last, leads, pairs
from ..._ops.surrogates import alias, follow, kept, simple
from ..._rules.widths import Width, in_units
from ..interface import Func, Region
from ..outcomes import orders
from ..outcomes.passed import nearest_boundary
from ..outcomes.registry import op_name, tracked
from .elementwise import elementwise
from .reductions import best_value
from .shadow import Shadow, Weights, carry, shadow

_DISCRETE = "of integers, which one is largest has no derivative here. Choose among floats."


@functools.lru_cache(maxsize=128)
def _positions(n: int, device: torch.device) -> Tensor:
    return torch.arange(n, device=device)


def _rows(x: Tensor, dim: int | None, largest: bool) -> Tensor:
    """The scores in the dtype of distances, the dimension last, what is chosen the largest; NaN is the largest number."""
    rows = x.reshape(-1) if dim is None or x.dim() == 0 else x.movedim(dim, -1)
    rows = rows if rows.dtype in (torch.float32, torch.float64) else rows.float()
    return rows if largest else -rows


# --- contenders --------------------------------------------------------------------------------------------------


class _Chosen(torch.autograd.Function):
    """One where `index` is, with the gradient of the projection on ``{0 <= m <= 1, sum m = k}``."""

    @staticmethod
    def forward(ctx: Any, rows: Tensor, index: Tensor, half: float | Tensor) -> Tensor:
        ctx.save_for_backward(rows.clone())
        ctx.half, ctx.k = half, index.shape[-1]
        return torch.zeros_like(rows).scatter_(-1, index, 1.0)

    @staticmethod
    def backward(ctx: Any, g: Tensor) -> Any:
        (rows,) = ctx.saved_tensors
        inside = contenders(rows, ctx.k, ctx.half)
        many = inside.sum(-1, keepdim=True).clamp_(min=1)
        g = torch.where(inside, g, 0)
        return torch.where(inside, (g - g.sum(-1, keepdim=True) / many) / ctx.half, 0), None, None


def contenders(rows: Tensor, k: int, half: float | Tensor) -> Tensor:
    """Mask of the entries whose share is not fixed: those that may be among the first `k`, and may not."""
    if k == 1:
        best, order = rows.sort(-1, descending=True)
        gap = (best - best[..., :1]) / half
        count = _positions(rows.shape[-1], rows.device) + 1
        sharing = count * gap > gap.cumsum(-1) - 1
        sharing[..., 0] = best[..., 0].isfinite() & ~best[..., -1].isnan()
        sharing = sharing & sharing[..., :1] & (sharing.sum(-1, keepdim=True) > 1)
        return torch.zeros_like(sharing).scatter_(-1, order, sharing)
    rows, width = (rows / half, 1.0) if isinstance(half, Tensor) else (rows, half)
    weights = first_k(torch.where(rows.isnan(), torch.inf, rows), k, width)[0]
    return (weights > 0) & (weights < 1)


def chosen(rows: Tensor, index: Tensor, half: float | Tensor) -> Tensor:
    """k-hot (…, n) at `index` (…, k), with the gradient of the projection."""
    if simple(rows):
        return run(_Chosen, rows, index, half)
    hot = torch.zeros_like(rows).scatter(-1, index, 1.0)
    inside = contenders(rows.detach(), index.shape[-1], half)
    many = inside.sum(-1, keepdim=True).clamp(min=1)
    part = torch.where(inside, rows, 0)
    soft = torch.where(inside, (part - part.sum(-1, keepdim=True) / many) / half, 0)
    return hard_forward(hot, soft)


def _half(eps: float | Width, rows: Tensor, distances: Callable[[Tensor], Tensor]) -> float | Tensor:
    return eps.at(lambda: distances(rows.detach())) if isinstance(eps, Width) else eps


# --- one position ------------------------------------------------------------------------------------------------


def _best(region: Region, x: Tensor, index: Tensor, dim: int | None, op: str) -> Weights | None:
    n = x.numel() if dim is None or x.dim() == 0 else x.shape[dim]
    if n < 2 or not index.numel():
        return None
    eps, then, scores = region.eps_for(op), alias(index), kept(x)
    labels = _positions(n, x.device)

    def weigh() -> tuple[Tensor, Tensor]:
        rows = _rows(scores, dim, op == "argmax")
        at = then.reshape(*rows.shape[:-1], 1)
        if region.trace is not None:
            rows, half = in_units(rows, eps, leads)
        else:
            half = _half(eps, rows, leads)
        return chosen(rows, at, half).reshape(*then.shape, n), labels

    return Weights(weigh, labels, positions=True)


def position(op: str) -> Callable[..., Any]:
    def rule(region: Region, func: Func, args: tuple[Any, ...], kwargs: dict[str, Any]) -> Any:
        named = dict(zip(("input", "dim", "keepdim"), args), **kwargs)
        x = named["input"]
        if shadow(x) is not None:
            region.lose(op_name(func), [x], _DISCRETE)
        out = func(*args, **kwargs)
        if not tracked(x) or not region.linearizes(op):
            return out
        found = _best(region, x, out, named.get("dim"), op)
        return out if found is None else carry(region, out, found)

    return rule


def extremum(region: Region, func: Func, args: tuple[Any, ...], kwargs: dict[str, Any]) -> Any:
    """``torch.max(a, b)`` is `maximum`; ``max(a, dim)`` has values and indices; ``max(a)`` is continuous."""
    named = dict(zip(("input", "dim", "keepdim"), args), **kwargs)
    x, dim = named["input"], named.get("dim")
    if isinstance(dim, Tensor) or "other" in named:
        return elementwise(region, func, args, kwargs)
    if shadow(x) is not None:
        if dim is None:
            return best_value(region, torch.amax if op_name(func) == "max" else torch.amin, (x,), {})
        region.lose(op_name(func), [x], _DISCRETE)
    out, op = func(*args, **kwargs), "arg" + op_name(func)
    if dim is None or not tracked(x) or not region.linearizes(op):
        return out
    found = _best(region, x, out.indices, dim, op)
    return out if found is None else _with_indices(region, func, out, found)


def _with_indices(region: Region, func: Func, out: Any, found: Weights) -> Any:
    """`out`, a ``torch.return_types``, with what its indices carry."""
    if not torch.compiler.is_compiling():
        carry(region, out.indices, found)
        return out
    # Dynamo does not set attributes on the parts of a result, but on views of them.
    indices = carry(region, out.indices.view_as(out.indices), found)
    return getattr(torch.return_types, func.__name__)((out.values.view_as(out.values), indices))


# --- orders ------------------------------------------------------------------------------------------------------


class Order(Weights):
    """Which element stands at each place of a whole row: it can be inverted."""

    def __init__(self, weigh: Any, scores: Tensor, dim: int, largest: bool, eps: float | Width) -> None:
        super().__init__(weigh)
        self.scores, self.dim, self.largest, self.eps = scores, dim, largest, eps


def _as_weights(found: Any, index: Tensor) -> tuple[Tensor, Tensor]:
    """A choice as `order` weighs it, in weights whose values are the program's: 1 for what it has chosen."""
    labels = found.values
    return follow(found.weights, lambda: (labels == index.unsqueeze(-1)).to(found.weights.dtype)), labels


def sort(region: Region, func: Func, args: tuple[Any, ...], kwargs: dict[str, Any]) -> Any:
    named = dict(zip(("input", "dim", "descending"), args), **kwargs)
    x, dim, largest = named["input"], int(named.get("dim", -1)), bool(named.get("descending", False))
    out = func(*args, **kwargs)
    index = out if isinstance(out, Tensor) else out.indices
    own = shadow(x)
    if own is not None:
        found = _inverse(own, x, dim, largest, index)
        if found is None:
            region.lose(op_name(func), [x], _DISCRETE)
            return out
        return carry(region, out, found) if out is index else _with_indices(region, func, out, found)
    if not tracked(x) or not region.linearizes("sort") or x.dim() == 0 or x.numel() == 0 or x.shape[dim] < 2:
        return out
    eps, scores, then = region.eps_for("sort"), kept(x), alias(index)
    weigh = lambda: _as_weights(orders._weigh_order(eps, ("sort",), scores, dim, largest, then.movedim(dim, -1)), then)
    order = Order(weigh, scores, dim, largest, eps)
    return carry(region, out, order) if out is index else _with_indices(region, func, out, order)


def _inverse(own: Shadow, x: Tensor, dim: int, descending: bool, index: Tensor) -> Weights | None:
    """``argsort(argsort(x))``: the place of each element."""
    if not isinstance(own, Order) or own.dim % x.dim() != dim % x.dim():
        return None
    places, ranked = alias(x), alias(index)
    n = x.shape[dim]

    def weigh() -> tuple[Tensor, Tensor]:
        order = orders._ordered(own.eps, own.scores, dim, own.largest, places.movedim(dim, -1))
        found = orders.positions(order, dim, ("ranks",), places)
        if descending:
            found = found.map(found.key, lambda t: t.flip(dim % x.dim()))
        return _as_weights(found, ranked)

    def value() -> Tensor:
        rows, half = in_units(_rows(own.scores, dim, True), own.eps, pairs)
        soft = ranks(rows, half).movedim(-1, dim)
        soft = n - 1 - soft if own.largest != descending else soft
        return follow(soft, lambda: ranked.to(soft.dtype))

    return Weights(weigh, value=value)


def topk(region: Region, func: Func, args: tuple[Any, ...], kwargs: dict[str, Any]) -> Any:
    named = dict(zip(("input", "k", "dim", "largest", "sorted"), args), **kwargs)
    x, k, dim = named["input"], int(named["k"]), int(named.get("dim", -1))
    largest, in_order = bool(named.get("largest", True)), bool(named.get("sorted", True))
    if shadow(x) is not None:
        region.lose(op_name(func), [x], _DISCRETE)
    out = func(*args, **kwargs)
    if not tracked(x) or not region.linearizes("topk") or x.dim() == 0 or k == 0 or x.numel() == 0 or x.shape[dim] < 2:
        return out
    eps, scores, then = region.eps_for("topk"), kept(x), alias(out.indices)
    weigh = lambda: _as_weights(orders._weigh_first(eps, ("topk",), scores, k, dim, largest, then, in_order), then)

    def subset() -> Tensor:
        rows = _rows(scores, dim, largest)
        distances = (lambda z: from_last(z, k)) if k < rows.shape[-1] else pairs
        rows, half = in_units(rows, eps, distances)
        return chosen(rows, then.movedim(dim, -1), half).movedim(-1, dim)

    return _with_indices(region, func, out, Weights(weigh, subset=subset))


def _placed(region: Region, func: Func, op: str, x: Tensor, out: Any, dim: int, place: Tensor) -> Any:
    """``kthvalue``, ``median``: one place of the ascending order, for each row."""
    if not tracked(x) or not region.linearizes(op) or x.dim() == 0 or x.numel() == 0 or x.shape[dim] < 2:
        return out
    eps, scores, then = region.eps_for(op), kept(x), alias(out.indices)

    def weigh() -> tuple[Tensor, Tensor]:
        order = scores.detach().movedim(dim, -1).argsort(-1, stable=True)
        found = orders._ordered(eps, scores, dim, False, order)
        at = place.expand(found.rows.shape[:-2]).unsqueeze(-1)
        rows = orders._rows(found, ("place",), then.reshape(at.shape), at)
        return _as_weights(rows.map(rows.key, lambda t: t.reshape(*then.shape, t.shape[-1])), then)

    return _with_indices(region, func, out, Weights(weigh))


def kthvalue(region: Region, func: Func, args: tuple[Any, ...], kwargs: dict[str, Any]) -> Any:
    named = dict(zip(("input", "k", "dim", "keepdim"), args), **kwargs)
    x = named["input"]
    place = torch.tensor(int(named["k"]) - 1, device=x.device)
    return _placed(region, func, "kthvalue", x, func(*args, **kwargs), int(named.get("dim", -1)), place)


def median(region: Region, func: Func, args: tuple[Any, ...], kwargs: dict[str, Any]) -> Any:
    named = dict(zip(("input", "dim", "keepdim"), args), **kwargs)
    x, out = named["input"], func(*args, **kwargs)
    if named.get("dim") is None or not x.is_floating_point() or x.dim() == 0:
        return out  # the value alone is continuous
    dim = int(named["dim"])
    n = x.shape[dim]
    valid = n - x.detach().isnan().movedim(dim, -1).sum(-1)
    place = ((valid - 1) // 2).clamp(min=0)
    if func.__name__ == "median":  # NaN if there is one: the last in order
        place = torch.where(valid < n, n - 1, place)
    return _placed(region, func, "median", x, out, dim, place)


def unique(region: Region, func: Func, args: tuple[Any, ...], kwargs: dict[str, Any]) -> Any:
    """The inverse of distinct numbers is their rank. Whether numbers are equal has no derivative."""
    named = dict(zip(("input", "sorted", "return_inverse", "return_counts", "dim"), args), **kwargs)
    x, out = named["input"], func(*args, **kwargs)
    wanted = named.get("return_inverse") and named.get("dim") is None and x.numel() > 1
    if shadow(x) is not None:
        region.lose("unique", [x], _DISCRETE)
    if not wanted or not tracked(x) or not region.linearizes("unique") or not simple(x):
        return out
    if out[0].numel() < x.numel() or bool(x.detach().isnan().any()):
        region.lose(
            "unique", [], "some of the numbers are equal, and equal numbers have no places of their own; use sll.rank.",
            undecided=lambda: True,
        )  # fmt: skip
        return out
    eps, scores, then = region.eps_for("unique"), kept(x), alias(out[1])
    index = x.detach().reshape(-1).argsort()
    own = Order(lambda: (index, index), scores.reshape(-1), -1, False, eps)
    found = _inverse(own, index, -1, False, then.reshape(-1))
    assert found is not None
    weigh = lambda: tuple(t.reshape(*then.shape, -1) for t in (found.weights(), found.labels))
    carry(region, out[1], Weights(weigh, value=lambda: found.value().reshape(then.shape)))  # type: ignore[arg-type]
    return out


# --- boundaries passed -------------------------------------------------------------------------------------------


def _passed(region: Region, call: Callable[[Any], Tensor], boundaries: Tensor, x: Any) -> Tensor:
    """``call(x)`` counts the sorted `boundaries` that `x` has passed; the decision is at the nearest."""
    hard: Tensor = call(x)
    if boundaries.shape[-1] == 0 or hard.numel() == 0:
        return hard
    offset, below, above = nearest_boundary(region, hard, boundaries, x)
    jump = (above - below).to(offset.dtype)
    numbers = alias(hard)
    value = hard_forward(numbers.to(offset.dtype), offset * jump)
    return carry(region, hard, Shadow.of(value, lambda n: (below + above).to(n.dtype) - n))


def _count_passed(region: Region, func: Func, call: Any, boundaries: Tensor, x: Any) -> Any:
    decided = [t for t in (boundaries, x) if shadow(t) is not None]
    if decided:
        if shadow(boundaries) is None and not tracked(boundaries):
            return elementwise(region, call, (x,), {})
        region.lose(op_name(func), decided, "the boundaries get no gradient where what passes them was chosen. "
                    "Use (x.unsqueeze(-1) > boundaries).sum(-1).")  # fmt: skip
        return call(x)
    if not (tracked(x) or tracked(boundaries)) or not region.linearizes("searchsorted"):
        return call(x)
    return _passed(region, call, boundaries, x)


def searchsorted(region: Region, func: Func, args: tuple[Any, ...], kwargs: dict[str, Any]) -> Any:
    named = dict(zip(("sorted_sequence", "input"), args), **kwargs)
    table, x = named.pop("sorted_sequence"), named.pop("input", named.pop("self", None))
    sorter = named.get("sorter")
    boundaries = table if sorter is None else table.gather(-1, sorter)

    def call(v: Any) -> Any:
        return func(table, v, **named)

    return _count_passed(region, func, call, boundaries, x)


def bucketize(region: Region, func: Func, args: tuple[Any, ...], kwargs: dict[str, Any]) -> Any:
    named = dict(zip(("input", "boundaries"), args), **kwargs)
    x, boundaries = named.pop("input", named.pop("self", None)), named.pop("boundaries")

    def call(v: Any) -> Any:
        return func(v, boundaries, **named)

    return _count_passed(region, func, call, boundaries, x)


def histc(region: Region, func: Func, args: tuple[Any, ...], kwargs: dict[str, Any]) -> Any:
    named = dict(zip(("input", "bins", "min", "max"), args), **kwargs)
    x = named["input"]
    if not tracked(x) or not region.linearizes("histc"):
        return func(*args, **kwargs)
    bins, low, high = int(named.get("bins", 100)), float(named.get("min", 0)), float(named.get("max", 0))
    whole = low == high  # the range of the data: the outermost edges move with it, and nothing crosses them
    if whole and x.numel():
        low, high = float(x.detach().min()), float(x.detach().max())
    if low == high:
        low, high = low - 1, high + 1
    flat = x.reshape(-1)
    floats = torch.float64 if x.dtype == torch.float64 else torch.float32
    edges = torch.linspace(low, high, bins + 1, dtype=floats, device=x.device)
    place = _passed(region, lambda v: torch.searchsorted(edges, v.detach().to(floats), right=True), edges, flat)
    place = region.call(torch.clamp, place, 1, bins) if whole else place
    total = region.call(torch.bincount, place, minlength=bins + 2)
    own = shadow(total)
    return (
        func(*args, **kwargs)
        if own is None
        else follow(own.value()[1 : bins + 1].to(x.dtype), lambda: func(*args, **kwargs).detach())
    )
