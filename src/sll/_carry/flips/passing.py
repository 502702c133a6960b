"""How many boundaries a number passes: decided at the nearest of them."""

from __future__ import annotations

import math
from typing import Any

import torch
from torch import Tensor

from .choosing import carry_order, reorderings, scores
from .deciding import sides_of
from .entries import Block, Decision, Layout, carry, flips_of
from .every import flip_by_flip
from .mapped import Func
from .moving import found_in, mark_found
from .primitives import slope, take
from .uses import compute_dtype, half_width, op_name, tracked, wide
from .watched import arrives, watched

__all__ = ["histogram", "passed"]


def passed(region: Any, func: Func, args: tuple[Any, ...], kwargs: dict[str, Any], op: str = "searchsorted") -> Any:
    """``searchsorted`` and ``bucketize``: one decision, at the nearest boundary."""
    by_value = op_name(func) == "bucketize"
    names = ("input", "boundaries") if by_value else ("sorted_sequence", "input")
    named = dict(zip(names, args), **kwargs)
    x, table = named.pop("input", named.pop("self", None)), named[names[1] if by_value else names[0]]
    if (sorter := named.get("sorter")) is not None:
        table = _in_order(region, op, table, sorter)
    followed = tracked(x) or tracked(table)
    if not followed or not region.linearizes(op) or not table.numel():
        return flip_by_flip(region, func, args, kwargs)
    hard = func(*args, **kwargs)
    known = found_in(table)
    if known is not None and known.found_among(x) and table.shape == x.shape and known.dim in (None, x.dim() - 1):
        _ranks(region, op, x, hard)
        return hard
    given = torch.as_tensor(x, dtype=table.dtype, device=table.device)
    distance, limit, nearest = _to_nearest(given.detach(), table.detach(), hard)
    width = region.eps_for(op)
    half = limit.clamp(max=half_width(width, distance))
    at, above, by = sides_of(distance / half, 1.0)
    by = by / half.reshape(-1)[at]
    where = nearest.reshape(-1)[at]
    wrong = (take(hard, at) == where + above.to(hard.dtype)) & (take(distance, at) != 0)
    above, by = above ^ wrong, torch.where(wrong, -by, by)  # (rounding: the other side is where the program is not)
    value = where + above.to(hard.dtype)
    if table.dim() > 1:
        where = where + at // hard.shape[-1] * table.shape[-1]
    x, table = watched(width, (given, table), distance, half, limit)
    weight = _weight(x, table, at, where, by)
    return carry(region, hard, Layout((Block(Decision(arrives(width, weight)), None, at, True),)), value.to(hard.dtype))


def _weight(x: Any, table: Any, at: Tensor, where: Tensor, by: Tensor) -> Tensor:
    if tracked(x) and tracked(table):
        return slope(x, at, by, table, where, -by)
    return slope(x, at, by) if tracked(x) else slope(table, where, -by)


def _to_nearest(given: Tensor, table: Tensor, hard: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    """The distance to the nearest boundary, half the way from there to the next, and its number."""
    full = table.expand(*hard.shape[:-1], table.shape[-1]) if table.dim() > 1 else table
    last = table.shape[-1] - 1
    v, t = wide(given, full)

    def look(i: Tensor) -> Tensor:
        return t.gather(-1, i) if table.dim() > 1 else t[i]  # type: ignore[no-any-return]

    low, high = (hard.long() - 1).clamp(0, last), hard.long().clamp(0, last)
    nearest = torch.where((v - look(low)).abs() <= (look(high) - v).abs(), low, high)
    middle = look(nearest)
    gaps = [(look((nearest + by).clamp(0, last)) - middle).abs() for by in (-1, 1)]
    limit = torch.minimum(*(torch.where(gap == 0, math.inf, gap) for gap in gaps)) / 2
    return v - middle, limit, nearest


def _ranks(region: Any, op: str, x: Tensor, hard: Tensor) -> None:
    """How many of its own sorted values each element passes."""
    z, numbers = scores(x, -1, False)
    places = z.argsort(dim=-1, descending=True, stable=True)
    rank = torch.arange(z.shape[-1], device=x.device).expand(z.shape) + (hard.reshape(z.shape).amin(-1, True) > 0)
    order_of = reorderings(region, op, x, (z, numbers), places, False)
    carry_order(region, hard, order_of, numbers.gather(-1, places), rank, ranks=True)


def _in_order(region: Any, op: str, table: Tensor, sorter: Tensor) -> Tensor:
    """What `sorter` sorts. Of `table`'s own order it is known; what flips with another one is not followed."""
    found = flips_of(sorter)
    ordered = table.gather(-1, sorter.detach())
    if found is None:
        return ordered
    places = sorter.detach().reshape(-1, sorter.shape[-1])
    own = reorderings(region, op, table, scores(table, -1, False), places, False).decision
    if any(block.decision is not own for block in found.layout.blocks):
        region.lose("searchsorted", [sorter], "the sorter is not the order of what it sorts.")
        return ordered
    mark_found(region, ordered, table, sorter.detach(), table.dim() - 1)
    return ordered


def histogram(region: Any, func: Func, args: tuple[Any, ...], kwargs: dict[str, Any]) -> Any:
    """``histc``: which bin an element is in is decided at the edges."""
    named = dict(zip(("bins", "min", "max"), args[1:]), **kwargs)
    x, hard = args[0], func(*args, **kwargs)
    if not tracked(x) or not region.linearizes("histc"):
        return hard
    bins, low, high = int(named.get("bins", 100)), float(named.get("min", 0)), float(named.get("max", 0))
    if low == high:
        low, high = (float(t) for t in x.detach().aminmax())
    edges = torch.linspace(low, high, bins + 1, dtype=compute_dtype(x.dtype), device=x.device)
    flat = x.reshape(-1).to(edges.dtype)
    index = passed(region, torch.bucketize, (flat, edges), {"right": True}, "histc")
    last = region.call(torch.eq, flat.detach(), high)
    index = region.call(torch.where, last, bins, index)
    found = region.call(torch.eq, region.call(torch.unsqueeze, index, -1), torch.arange(1, bins + 1, device=x.device))
    own = region.call(torch.sum, found, 0)
    counts = flips_of(own)
    if counts is None:
        return hard
    change = counts.values - take(own, counts.layout.at)  # (`histc` may round an element into another bin)
    shown = take(hard, counts.layout.at)
    return carry(region, hard.detach(), counts.layout, shown + change.to(hard.dtype))
