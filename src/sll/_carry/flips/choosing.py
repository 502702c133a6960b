"""Decisions among several: an argmax flips to the runners-up, an order flips neighbouring places."""

from __future__ import annotations

import math
from typing import Any, NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor

from .deciding import batched, sides_of
from .entries import Block, Decision, Layout, carry, flips_of
from .mapped import Func, elementwise
from .every import flip_by_flip
from .primitives import slope, take
from .uses import (
    capped_simplex,
    close,
    compute_dtype,
    half_width,
    in_units,
    leads,
    op_name,
    pairs,
    tracked,
    wide,
)

__all__ = ["best", "extremum", "kth", "order", "passed", "unique"]

MOST = 32
"""So many contenders share a choice whose width a policy found."""


def _scores(x: Tensor, dim: int | None, largest: bool) -> tuple[Tensor, Tensor]:
    """± x without gradient, one row for each choice, NaN the largest number; and the flat positions."""
    numbers = torch.arange(x.numel(), device=x.device).reshape(x.shape)
    rows = x.detach().to(compute_dtype(x.dtype))
    if dim is None or x.dim() == 0:
        rows, numbers = rows.reshape(1, -1), numbers.reshape(1, -1)
    else:
        rows, numbers = (t.movedim(dim, -1).reshape(-1, x.shape[dim]) for t in (rows, numbers))
    rows = torch.where(rows.isnan(), math.inf, rows)
    return (rows if largest else -rows), numbers


def _contest(region: Any, op: str, x: Tensor, hard: Tensor, dim: int | None, largest: bool) -> Tensor:
    """`hard`, the index of the largest or smallest: flips to those that share sparsemax."""
    z, numbers = _scores(x, dim, largest)
    width = region.eps_for(op)
    z, eps = in_units(z, width, leads)
    top = z.amax(-1, keepdim=True)
    most = MOST if batched(z) else int((top - z < eps).sum(-1).max()) if z.numel() else 1
    most = min(z.shape[-1], most if isinstance(width, float) else min(most, MOST))
    near, index = z.topk(most, -1)
    u = (near - top) / eps
    inside = (1 + torch.arange(1, most + 1, device=z.device) * u > u.cumsum(-1)) & top.isfinite()
    members = inside.sum(-1, keepdim=True)
    other = inside & (index != hard.detach().reshape(-1, 1))
    if batched(z):
        row = torch.arange(z.shape[0], device=z.device).repeat_interleave(most)
        column = torch.arange(most, device=z.device).repeat(z.shape[0])
    else:
        row, column = other.nonzero(as_tuple=True)
    alone = (torch.arange(most, device=z.device) == column.unsqueeze(-1)).to(z.dtype)
    by = torch.where(inside[row] & other[row, column].unsqueeze(-1), (alone - 1 / members[row]) * (1 if largest else -1) / eps, 0)
    flip = torch.arange(row.shape[0], device=z.device).repeat_interleave(most)
    weight = slope(x, numbers[row.unsqueeze(-1), index[row]].reshape(-1), by.reshape(-1).to(z.dtype), flip=flip)
    return carry(region, hard, Layout((Block(Decision(weight), None, row, True),)), index[row, column])


def best(op: str) -> Any:
    def rule(region: Any, func: Func, args: tuple[Any, ...], kwargs: dict[str, Any]) -> Any:
        x = args[0]
        if not tracked(x) or not region.linearizes(op) or x.numel() < 2:
            return flip_by_flip(region, func, args, kwargs)
        named = dict(zip(("dim", "keepdim"), args[1:]), **kwargs)
        return _contest(region, op, x, func(*args, **kwargs), named.get("dim"), op == "argmax")

    return rule


def extremum(op: str) -> Any:
    """``max(a, b)`` is `maximum`, ``max(a)`` is continuous, ``max(a, dim)`` chooses."""

    def rule(region: Any, func: Func, args: tuple[Any, ...], kwargs: dict[str, Any]) -> Any:
        named = dict(zip(("dim", "keepdim"), args[1:]), **kwargs)
        x, dim = args[0], named.get("dim")
        if isinstance(dim, Tensor) or "other" in named:
            return elementwise(region, func, args, kwargs)
        if not isinstance(dim, int) or not tracked(x) or not region.linearizes(op) or x.dim() == 0:
            return flip_by_flip(region, func, args, kwargs)
        out = func(*args, **kwargs)
        _contest(region, op, x, out.indices, dim, op == "argmax")
        return out

    return rule


class _Exchanges(NamedTuple):
    """For each flip, the row and the two places of it that are exchanged."""

    decision: Decision
    row: Tensor
    first: Tensor
    second: Tensor


def _exchanges(
    region: Any, op: str, x: Tensor, scores: tuple[Tensor, Tensor], places: Tensor, largest: bool
) -> _Exchanges:
    """What may change places in rows that are ordered by `places`. An element that is among the first k changes places
    with one that is not; their weights add up to the projection on the capped simplex (see `order`).
    """
    numbers = scores[1]
    z, eps = in_units(scores[0], region.eps_for(op), pairs)
    ordered = z.gather(-1, places)
    reach = 1 if batched(z) else close(ordered, eps, REACH)
    padded = F.pad(F.pad(ordered, (reach, 0), value=math.inf), (0, reach), value=-math.inf)
    windows = padded.unfold(-1, 2 * reach, 1)[:, 1:-1]  # around each boundary between two places
    share = capped_simplex(windows, reach, eps)
    inside = (share > 0) & (share < 1) & windows.isfinite()
    leaving, coming = inside[..., :reach], inside[..., reach:]
    pair = leaving.unsqueeze(-1) & coming.unsqueeze(-2)
    if batched(z):
        row, boundary, i, j = (t.reshape(-1) for t in torch.ones(pair.shape, device=z.device).nonzero(as_tuple=True))
    else:
        row, boundary, i, j = pair.nonzero(as_tuple=True)
    many = torch.arange(2 * reach, device=z.device)
    p, q = (t[row, boundary].sum(-1, keepdim=True).clamp(min=1) for t in (leaving, coming))
    mean = 1 / (p + q)
    goes, comes = (many == i.unsqueeze(-1)).to(z.dtype), (many == j.unsqueeze(-1) + reach).to(z.dtype)
    by = (comes - mean) / p - (goes - mean) / q - ((many >= reach).to(z.dtype) - q * mean) / (p * q)
    by = torch.where(inside[row, boundary] & pair[row, boundary, i, j].unsqueeze(-1), by / eps, 0)
    start = boundary + 1 - reach
    window = (start.unsqueeze(-1) + many).clamp(0, places.shape[-1] - 1)
    at = numbers[row.unsqueeze(-1), places[row.unsqueeze(-1), window]]
    flip = torch.arange(row.shape[0], device=z.device).repeat_interleave(2 * reach)
    by = by.to(z.dtype).reshape(-1) * (1 if largest else -1)
    return _Exchanges(Decision(slope(x, at.reshape(-1), by, flip=flip)), row, start + i, start + j + reach)


def _carry_exchanges(
    region: Any, hard: Tensor, found: _Exchanges, back: Tensor, values: Tensor
) -> None:
    """`hard` shows `values` (rows, places) at `back`, its flat positions (-1: not at all)."""
    row, first, second = found.row, found.first, found.second
    at = torch.cat([back[row, first], back[row, second]])
    new = torch.cat([values[row, second], values[row, first]])
    flip = torch.arange(row.shape[0], device=row.device).repeat(2)
    if not batched(back) and not batched(new):
        shown = (at >= 0).nonzero().squeeze(1)
        at, new, flip = at[shown], new[shown], flip[shown]
    carry(region, hard, Layout((Block(found.decision, flip, at, False),)), new.to(hard.dtype))


REACH = 8
"""So many places apart elements may be that change places."""


def _back(hard: Tensor, dim: int) -> Tensor:
    numbers = torch.arange(hard.numel(), device=hard.device).reshape(hard.shape)
    return numbers.movedim(dim, -1).reshape(-1, hard.shape[dim]) if hard.dim() else numbers.reshape(1, 1)


def order(op: str) -> Any:
    """``sort``, ``argsort`` and ``topk``."""

    def rule(region: Any, func: Func, args: tuple[Any, ...], kwargs: dict[str, Any]) -> Any:
        x = args[0]
        if not tracked(x) or not region.linearizes(op) or x.dim() == 0 or x.numel() < 2:
            return flip_by_flip(region, func, args, kwargs)
        out = func(*args, **kwargs)
        hard = out if isinstance(out, Tensor) else out.indices
        if op == "topk":
            named = dict(zip(("k", "dim", "largest", "sorted"), args[1:]), **kwargs)
            dim, largest = named.get("dim", -1), named.get("largest", True)
        else:
            named = dict(zip(("dim", "descending"), args[1:]), **kwargs)
            dim, largest = named.get("dim", -1), named.get("descending", False)
        z, numbers = _scores(x, dim, largest)
        back = _back(hard, dim)
        places = hard.movedim(dim, -1).reshape(z.shape[0], -1)
        if op == "topk" and places.shape[1]:
            inner = z.gather(-1, places).argsort(dim=-1, descending=True, stable=True)
            places, back = places.gather(-1, inner), back.gather(-1, inner)
            more = min(z.shape[1] - places.shape[1], REACH)
            rest = z.scatter(-1, places, -math.inf).topk(more, -1).indices
            places = torch.cat([places, rest], -1)
            back = F.pad(back, (0, more), value=-1)
        if places.shape[1] > 1:
            found = _exchanges(region, op, x, (z, numbers), places, largest)
            _carry_exchanges(region, hard, found, back, places)
        return out

    return rule


def kth(op: str) -> Any:
    """``kthvalue`` and ``median``: one place of the ascending order."""

    def rule(region: Any, func: Func, args: tuple[Any, ...], kwargs: dict[str, Any]) -> Any:
        x = args[0]
        out = func(*args, **kwargs)
        named = dict(zip(("k", "dim", "keepdim") if op == "kthvalue" else ("dim", "keepdim"), args[1:]), **kwargs)
        if isinstance(out, Tensor) or not tracked(x) or not region.linearizes(op) or x.dim() == 0:
            return out
        dim = named.get("dim", -1)
        z, numbers = _scores(x, dim, False)
        places = z.argsort(dim=-1, descending=True, stable=True)
        many = x.shape[dim]
        count = (~x.detach().isnan()).movedim(dim, -1).reshape(-1, many).sum(-1, keepdim=True)
        if op == "kthvalue":
            place = torch.full_like(count, named["k"] - 1)
        elif op_name(func) == "nanmedian":
            place = (count - 1).clamp(min=0) // 2
        else:
            place = torch.full_like(count, (many - 1) // 2)
        here = torch.arange(many, device=x.device) == place
        chosen = out.indices.reshape(-1, 1)
        places = torch.where(places == chosen, places.gather(-1, place), places)  # of equals, the one that is shown
        places = torch.where(here, chosen, places)
        at = torch.arange(z.shape[0], device=x.device).unsqueeze(-1)
        if many > 1:
            found = _exchanges(region, op, x, (z, numbers), places, False)
            _carry_exchanges(region, out.indices, found, torch.where(here, at, -1), places)
        return out

    return rule


def unique(region: Any, func: Func, args: tuple[Any, ...], kwargs: dict[str, Any]) -> Any:
    """The inverse of distinct numbers is their rank."""
    x = args[0]
    out = func(*args, **kwargs)
    named = dict(zip(("sorted", "return_inverse", "return_counts", "dim"), args[1:]), **kwargs)
    if not tracked(x) or not region.linearizes("unique") or x.numel() < 2 or named.get("dim") is not None:
        return out
    if named.get("return_inverse"):
        z, numbers = _scores(x, None, False)
        places = z.argsort(dim=-1, descending=True, stable=True)
        found = _exchanges(region, "unique", x, (z, numbers), places, False)
        _carry_exchanges(region, out[1], found, places, out[1].reshape(1, -1).gather(-1, places))
    return out


def passed(
    region: Any, func: Func, args: tuple[Any, ...], kwargs: dict[str, Any], op: str = "searchsorted"
) -> Any:
    """``searchsorted`` and ``bucketize``: one decision, at the nearest boundary."""
    by_value = op_name(func) == "bucketize"
    names = ("input", "boundaries") if by_value else ("sorted_sequence", "input")
    named = dict(zip(names, args), **kwargs)
    x, table = named.pop("input", named.pop("self", None)), named[names[1] if by_value else names[0]]
    followed = tracked(x) or tracked(table)
    if not followed or not region.linearizes(op) or named.get("sorter") is not None or not table.numel():
        return flip_by_flip(region, func, args, kwargs)
    hard = func(*args, **kwargs)
    given = torch.as_tensor(x, dtype=table.dtype, device=table.device)
    full = table.detach().expand(*hard.shape[:-1], table.shape[-1]) if table.dim() > 1 else table.detach()
    last = table.shape[-1] - 1
    v, t = wide(given.detach(), full)
    look = (lambda i: t.gather(-1, i)) if table.dim() > 1 else (lambda i: t[i])
    low, high = (hard.long() - 1).clamp(0, last), hard.long().clamp(0, last)
    nearest = torch.where((v - look(low)).abs() <= (look(high) - v).abs(), low, high)
    middle = look(nearest)
    gaps = [(look((nearest + by).clamp(0, last)) - middle).abs() for by in (-1, 1)]
    limit = torch.minimum(*(torch.where(gap == 0, math.inf, gap) for gap in gaps)) / 2
    distance = v - middle
    half = limit.clamp(max=half_width(region.eps_for(op), distance))
    at, above, by = sides_of(distance / half, 1.0)
    by = by / half.reshape(-1)[at]
    where = nearest.reshape(-1)[at]
    shown = take(hard, at)
    wrong = (shown == where + above.to(shown.dtype)) & (take(distance, at) != 0)
    above, by = above ^ wrong, torch.where(wrong, -by, by)  # (rounding: the other side is where the program is not)
    value = where + above.to(hard.dtype)
    if table.dim() > 1:
        where = where + at // hard.shape[-1] * (last + 1)
    if tracked(given) and tracked(table):
        weight = slope(given, at, by, table, where, -by)
    else:
        weight = slope(given, at, by) if tracked(given) else slope(table, where, -by)
    return carry(region, hard, Layout((Block(Decision(weight), None, at, True),)), value.to(hard.dtype))


def histogram(region: Any, func: Func, args: tuple[Any, ...], kwargs: dict[str, Any]) -> Any:
    """``histc``: which bin an element is in is decided at the edges."""
    named = dict(zip(("bins", "min", "max"), args[1:]), **kwargs)
    x, hard = args[0], func(*args, **kwargs)
    if not tracked(x) or not region.linearizes("histc"):
        return hard
    bins, low, high = int(named.get("bins", 100)), float(named.get("min", 0)), float(named.get("max", 0))
    if low == high:
        low, high = (float(t) for t in x.detach().aminmax())
    edges = torch.linspace(low, high, bins + 1, dtype=x.dtype, device=x.device)
    index = passed(region, torch.bucketize, (x.reshape(-1), edges), {"right": True}, "histc")
    last = region.call(torch.eq, x.reshape(-1).detach(), high)
    index = region.call(torch.where, last, bins, index)
    found = region.call(torch.eq, region.call(torch.unsqueeze, index, -1), torch.arange(1, bins + 1, device=x.device))
    counts = flips_of(region.call(torch.sum, found, 0))
    return hard if counts is None else carry(region, hard.detach(), counts.layout, counts.values.to(hard.dtype))
