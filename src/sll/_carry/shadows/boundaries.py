"""`searchsorted`, `bucketize` and `histc` count the boundaries passed: one decision, at the nearest. `bincount`."""

from __future__ import annotations

import functools
from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor

from ..._ops.band import hard_forward
from ..._ops.dtypes import compute_dtype
from ..._ops.env import eager, tracked
from ..._ops.surrogates import alias, finite_gradient, follow, kept, simple
from ..._rules.index import op_name
from ..._rules.widths import Width, watch_of
from ..boundaries import edges_of, nearest_boundary, passing
from ..interface import Func, Region, Rule
from .elementwise import elementwise
from .kinks import joined, looked_at
from .shadow import Shadow, Weights, carry, shadow
from .wraps import Index, line_for

_DECIDED = (
    "the boundaries get no gradient where what passes them was chosen. Use (x.unsqueeze(-1) > boundaries).sum(-1)."
)


def _passed(region: Region, op: str, call: Callable[[Any], Tensor], boundaries: Tensor, x: Any) -> Tensor:
    """``call(x)`` counts the sorted `boundaries` that `x` has passed; the decision is at the nearest."""
    hard: Tensor = call(x)
    if boundaries.shape[-1] == 0 or hard.numel() == 0:
        return hard
    eps = region.eps_for(op)
    if joined(eps, hard):
        return hard
    line = line_for(region, eps, "searchsorted", (x,))
    plain = watch_of(eps) is None and simple(hard) and simple(boundaries) and (not isinstance(x, Tensor) or simple(x))
    numbers, edges, x = alias(hard), kept(boundaries), kept(x) if isinstance(x, Tensor) else x
    found = functools.cache(lambda: _nearest(eps, numbers, edges, x))

    def make() -> Tensor:
        offset, below, above = found()
        return hard_forward(numbers.to(offset.dtype), offset * (above - below).to(offset.dtype))

    def other(n: Tensor) -> Tensor:
        _, below, above = found()
        return (below + above).to(n.dtype) - n

    value = make if plain else make().clone
    exact = compute_dtype(boundaries.dtype, getattr(x, "dtype", boundaries.dtype)) if plain else None
    if line is None:
        return carry(region, hard, Shadow(value, other, exact))
    line.root.edges = boundaries
    return carry(region, hard, Index(value, other, exact, False, line))


def _nearest(eps: float | Width, passed: Tensor, edges: Tensor, x: Any) -> tuple[Tensor, Tensor, Tensor]:
    """Where `x` is in the band of the nearest boundary, and how many are passed below and above that."""
    with torch.enable_grad():
        offset, below, above = nearest_boundary(eps, passed, edges, x)
    looked_at(eps, offset, 2 * offset.detach(), 1.0)
    return offset, below, above


def passed(region: Region, func: Func, args: tuple[Any, ...], kwargs: dict[str, Any]) -> Any:
    """`searchsorted` and `bucketize`."""
    call, x, table, sorter, _ = passing(func, args, kwargs)
    boundaries = table if sorter is None else table.gather(-1, sorter)
    decided = [t for t in (boundaries, x) if shadow(t) is not None]
    if decided and shadow(boundaries) is None and not tracked(boundaries):
        return elementwise(region, call, (x,), {})
    if decided:
        region.lose(op_name(func), decided, _DECIDED)
        return call(x)
    if not (tracked(x) or tracked(boundaries)) or not region.linearizes("searchsorted"):
        return call(x)
    return _passed(region, "searchsorted", call, boundaries, x)


def histc(region: Region, func: Func, args: tuple[Any, ...], kwargs: dict[str, Any]) -> Any:
    x, hard = args[0] if args else kwargs["input"], func(*args, **kwargs)
    if not tracked(x) or not region.linearizes("histc") or not x.numel():
        return hard
    eps, flat, (edges, whole) = region.eps_for("histc"), x.reshape(-1), edges_of(*args, **kwargs)
    if joined(eps, hard):
        return hard
    passed, bins = torch.searchsorted(edges, flat.detach().to(edges.dtype), right=True), edges.numel() - 1
    offset, below, above = _nearest(eps, passed, edges, flat)
    place = torch.cat([above, below])
    if whole:  # the outermost edges move with the data, and nothing crosses them
        place = place.clamp(1, bins)
    total = offset.new_zeros(bins + 2).index_add(0, place, torch.cat([offset, -offset]))
    return follow(finite_gradient(total[1:-1].to(x.dtype)), hard.detach().clone)


def bincount(defined: Rule) -> Rule:
    """Of integers whose decisions are known, each of which moves them to another bin; else what it is `defined` as."""

    def rule(region: Region, func: Func, args: tuple[Any, ...], kwargs: dict[str, Any]) -> Any:
        own = shadow(args[0]) if len(args) == 1 and kwargs.keys() <= {"minlength"} else None
        parts = None if own is None or isinstance(own, Weights) else own.parts(args[0])
        if parts is None:
            return defined(region, func, args, kwargs)
        out, (share, change) = func(*args, **kwargs), parts
        numbers, n = alias(out), args[0].long().unsqueeze(-1)
        place = torch.cat([n + change, n.expand_as(change)]).add_(1).clamp_(0, len(out) + 1)  # (who may leave its ends)
        moved = torch.cat([share, -share]).expand_as(place).reshape(-1)
        soft = moved.new_zeros(len(out) + 2).index_add(0, place.reshape(-1), moved)[1:-1]
        exact = soft.dtype if eager() and n.numel() < 2**24 else None
        value = follow(finite_gradient(soft), lambda: numbers.to(soft.dtype))  # (of a bin with nothing in it, a mean)
        return carry(region, out, Shadow(value, None, exact))

    return rule
