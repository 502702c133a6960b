"""Decisions among several: an argmax flips to the runners-up, an order flips neighbouring places."""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any, NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor

from .entries import Block, Decision, Layout, carry
from .every import flip_by_flip
from .identity import again, batched, held
from .mapped import Func, elementwise
from .primitives import slope
from .uses import capped_simplex, compute_dtype, in_units, lead, leads, op_name, pairs, tracked
from .watched import arrives, counted, entered, gaps_beside

__all__ = ["best", "carry_order", "extremum", "kth", "order", "reorderings", "scores", "unique"]

MOST = 32
"""So many contenders share a choice whose width a policy found."""


def scores(x: Tensor, dim: int | None, largest: bool) -> tuple[Tensor, Tensor]:
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
    z, numbers = scores(x, dim, largest)
    width = region.eps_for(op)
    z, eps = in_units(z, width, leads, lead)
    top = z.amax(-1, keepdim=True)
    most = MOST if batched(z) else int((top - z < eps).sum(-1).max()) if z.numel() else 1
    most = min(z.shape[-1], most if isinstance(width, float) else min(most, MOST))
    near, index = z.topk(most, -1)
    u = (near - top) / eps
    inside = (1 + torch.arange(1, most + 1, device=z.device) * u > u.cumsum(-1)) & top.isfinite()
    members = inside.sum(-1, keepdim=True).to(z.dtype)
    other = inside & (index != hard.detach().reshape(-1, 1))
    if batched(z):
        row = torch.arange(z.shape[0], device=z.device).repeat_interleave(most)
        column = torch.arange(most, device=z.device).repeat(z.shape[0])
    else:
        row, column = other.nonzero(as_tuple=True)
    alone = (torch.arange(most, device=z.device) == column.unsqueeze(-1)).to(z.dtype)
    by = torch.where(
        inside[row] & other[row, column].unsqueeze(-1), (alone - 1 / members[row]) * (1 if largest else -1) / eps, 0
    )
    flip = torch.arange(row.shape[0], device=z.device).repeat_interleave(most)
    at = numbers[row.unsqueeze(-1), index[row]].reshape(-1)
    (followed,) = entered(width, (x,))
    weight = slope(followed, at, by.reshape(-1).to(z.dtype), flip=flip)
    counted(width, lambda: other.any(-1))
    block = Block(Decision(arrives(width, weight)), None, row, True)
    values = index[row, column]
    if not batched(z):
        key = "choice", numbers.shape, numbers.stride(), largest, held(width)
        block = again(x, key, block, (row, values))
    return carry(region, hard, Layout((block,)), values)


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


class Reordered(NamedTuple):
    """For each flip: the row, at which place what is reordered begins, and which element of it comes where."""

    decision: Decision
    row: Tensor
    start: Tensor
    order: Tensor


def reorderings(
    region: Any,
    op: str,
    x: Tensor,
    given: tuple[Tensor, Tensor],
    places: Tensor,
    largest: bool,
    shown: Callable[[Tensor, Tensor], Tensor] = lambda z, gaps: gaps,
) -> Reordered:
    """How rows that are ordered by `places` may be reordered. Neighbours change places; where several are in one band,
    one moves past others, too. The weights add up to the projection on the capped simplex for each boundary between
    two places (see `order`): of boundary b (from 1 on), element t has the derivative ``share[b, t]``. `shown`: of
    the scores and the gap beside each place, how far the decisions that the result shows are from their boundaries.
    """
    numbers, width = given[1], region.eps_for(op)
    gaps = gaps_beside(places, shown)
    z, eps = in_units(given[0], width, pairs, gaps)
    ordered = z.gather(-1, places)
    counted(width, lambda: gaps(z) < eps)
    row, start, many = _runs(ordered, eps)
    size = int(many.max()) if many.numel() else 2
    window = start.unsqueeze(-1) + torch.arange(size, device=z.device)
    there = window - start.unsqueeze(-1) < many.unsqueeze(-1)
    window = window.clamp(max=places.shape[-1] - 1)
    near = torch.where(there, ordered[row.unsqueeze(-1), window], -math.inf)
    by, orders = _moves(_shares(near, eps), size)
    at = numbers[row.unsqueeze(-1), places[row.unsqueeze(-1), window]]
    sign = 1 if largest else -1
    if batched(z):
        run = torch.arange(row.shape[0], device=z.device).repeat_interleave(len(orders))
        kind = torch.arange(len(orders), device=z.device).repeat(row.shape[0])
    else:
        run, kind = (by != 0).any(-1).nonzero(as_tuple=True)
    flip = torch.arange(run.shape[0], device=z.device).repeat_interleave(size)
    (followed,) = entered(width, (x,))
    weight = slope(followed, at[run].reshape(-1), sign * by[run, kind].reshape(-1), flip=flip)
    found = Reordered(
        Decision(arrives(width, weight)), row[run], start[run], torch.tensor(orders, device=z.device)[kind]
    )
    if batched(z):
        return found
    key = "order", numbers.shape, numbers.stride(), largest, held(width)
    return found._replace(decision=again(x, key, found.decision, (*found[1:], places)))


def _runs(ordered: Tensor, eps: float) -> tuple[Tensor, Tensor, Tensor]:
    """Runs of neighbours in each other's band: row, first place, and how many places (at most `LONGEST`)."""
    gap = ordered[:, :-1] - ordered[:, 1:]
    if batched(ordered) and ordered.shape[1] <= LONGEST:
        row = torch.arange(gap.shape[0], device=gap.device)
        return row, torch.zeros_like(row), torch.full_like(row, ordered.shape[1])
    if batched(ordered):
        row = torch.arange(gap.shape[0], device=gap.device).repeat_interleave(gap.shape[1])
        start = torch.arange(gap.shape[1], device=gap.device).repeat(gap.shape[0])
        return row, start, torch.full_like(row, 2)
    open_ = (gap < eps) & ordered[:, 1:].isfinite() & ordered[:, :-1].isfinite()
    before, after = F.pad(open_, (1, 0))[:, :-1], F.pad(open_, (0, 1))[:, 1:]
    row, start = (open_ & ~before).nonzero(as_tuple=True)
    end = (open_ & ~after).nonzero(as_tuple=True)[1]
    many = end - start + 2
    parts = (many - 2) // (LONGEST - 1) + 1  # a longer run is cut
    which = torch.arange(int(parts.sum()), device=row.device) - (parts.cumsum(0) - parts).repeat_interleave(parts)
    row, start, many = (t.repeat_interleave(parts) for t in (row, start, many))
    return row, start + which * (LONGEST - 1), (many - which * (LONGEST - 1)).clamp(max=LONGEST)


def _shares(near: Tensor, eps: float) -> Tensor:
    """(runs, boundaries, elements, elements): the derivative of an element's share in what is before a boundary, with
    respect to each. The first and the last boundary have nothing to share.
    """
    size = near.shape[-1]
    none = torch.zeros(near.shape[0], size, size, dtype=near.dtype, device=near.device)
    found = [none]
    for k in range(1, size):
        share = capped_simplex(near, k, eps)
        inside = ((share > 0) & (share < 1) & near.isfinite()).to(near.dtype)
        mean = inside / inside.sum(-1, keepdim=True).clamp(min=1)
        found.append((torch.diag_embed(inside) - inside.unsqueeze(-1) * mean.unsqueeze(-2)) / eps)
    return torch.stack([*found, none], 1)


def _moves(share: Tensor, size: int) -> tuple[Tensor, list[list[int]]]:
    """Weights (runs, reorderings, elements) that make each boundary change as `share` says, and the reorderings."""
    by, orders, places = [], [], list(range(size))
    for t in range(1, size):
        # Neighbours, with what the moves past several leave.
        rest = share[:, t, t] - share[:, t - 1, t] + share[:, t + 1, t - 1]
        by.append(rest + share[:, t, : max(t - 1, 0)].sum(1))
        orders.append([*places[: t - 1], t, t - 1, *places[t + 1 :]])
        for s in range(t - 1):
            by.append(share[:, s + 1, t] - share[:, s, t])
            orders.append([*places[:s], t, *places[s:t], *places[t + 1 :]])
            by.append(share[:, t + 1, s] - share[:, t, s])
            orders.append([*places[:s], *places[s + 1 : t + 1], s, *places[t + 1 :]])
    return torch.stack(by, 1), orders


def carry_order(region: Any, hard: Tensor, found: Reordered, at: Tensor, values: Tensor, ranks: bool = False) -> None:
    """`hard` shows `values` (rows, places) at `at`, its flat positions (-1: not at all). `ranks`: an element takes the
    value of its new place along.
    """
    size = found.order.shape[-1]
    row = found.row.unsqueeze(-1)
    old = (found.start.unsqueeze(-1) + torch.arange(size, device=row.device)).clamp(max=values.shape[-1] - 1)
    new = (found.start.unsqueeze(-1) + found.order).clamp(max=values.shape[-1] - 1)
    to, of = (new, old) if ranks else (old, new)
    where, what = at[row, to], values[row, of]
    flip = torch.arange(row.shape[0], device=row.device).unsqueeze(-1).expand(-1, size)
    if batched(where) or batched(what):
        slot = (where >= 0).to(torch.int8).argmax(-1, keepdim=True)  # what is not shown repeats what is
        where, what = (torch.where(where >= 0, t, t.gather(-1, slot)) for t in (where, what))
        where, what, flip = (t.reshape(-1) for t in (where, what, flip))
    else:
        shown = (where >= 0) & (new != old)
        where, what, flip = where[shown], what[shown], flip[shown]
    carry(region, hard, Layout((Block(found.decision, flip, where, False),)), what.to(hard.dtype))


LONGEST = 6
"""So many elements in each other's band are reordered together."""


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
        z, numbers = scores(x, dim, largest)
        back = _back(hard, dim)
        places = hard.movedim(dim, -1).reshape(z.shape[0], -1)
        if op == "topk" and places.shape[1]:
            inner = z.gather(-1, places).argsort(dim=-1, descending=True, stable=True)
            places, back = places.gather(-1, inner), back.gather(-1, inner)
            more = min(z.shape[1] - places.shape[1], LONGEST)
            rest = z.scatter(-1, places, -math.inf).topk(more, -1).indices
            places = torch.cat([places, rest], -1)
            back = F.pad(back, (0, more), value=-1)
        if places.shape[1] > 1:
            many = hard.shape[dim]
            found = reorderings(region, op, x, (z, numbers), places, largest, lambda z, gaps: gaps[:, :many])
            carry_order(region, hard, found, back, places)
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
        z, numbers = scores(x, dim, False)
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
            beside = lambda z, gaps: gaps.gather(-1, place)
            found = reorderings(region, op, x, (z, numbers), places, False, beside)
            carry_order(region, out.indices, found, torch.where(here, at, -1), places)
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
        z, numbers = scores(x, None, False)
        places = z.argsort(dim=-1, descending=True, stable=True)
        found = reorderings(region, "unique", x, (z, numbers), places, False)
        carry_order(region, out[1], found, places, out[1].reshape(1, -1).gather(-1, places), ranks=True)
    return out
