"""Choices and orders: an argmax flips to those that share sparsemax with it, places of an order to neighbours.

Values found by sorting remember which element of what they are: ``x >= x.topk(k).values[-1]`` asks for places.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any, TypeAlias

import torch
import torch.nn.functional as F
from torch import Tensor

from ..._ops.dtypes import compute_dtype
from ..._ops.env import tracked
from ..._ops.order import capped_simplex
from ..._ops.samples import around, at_each, lead, leads, pairs
from ..._rules.index import op_name
from ..._rules.widths import in_units, watch_of
from ..found import mark, middle, place_in_rows, sorted_places
from ..interface import Func, tensors
from .calls import plain_of, replaced
from .deciding import again, decision, held
from .entries import Block, Layout, batched, carry, flips_of, opened
from .every import flip_by_flip
from .moving import beside

Answer: TypeAlias = "Callable[[Any, str, Tensor, Any, dict[str, Any]], None]"
"""Lets the indices of a result carry flips: of the region, the op, its operand, the result, and other arguments."""


# --- the first ---

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


def _contest(region: Any, op: str, x: Tensor, hard: Tensor, dim: int | None) -> None:
    """`hard`, the index of the largest or smallest: flips to those that share sparsemax."""
    largest, width = op == "argmax", region.eps_for(op)
    z, numbers = scores(x, dim, largest)
    z, eps = in_units(z, width, leads, lead)
    top = z.amax(-1, keepdim=True)
    most = MOST if batched(z) else int((top - z < eps).sum(-1).max()) if z.numel() else 1
    most = min(z.shape[-1], most if isinstance(width, float) else min(most, MOST))
    near, index = z.topk(most, -1)
    u = (near - top) / eps
    inside = (1 + torch.arange(1, most + 1, device=z.device) * u > u.cumsum(-1)) & top.isfinite()
    members = inside.sum(-1, keepdim=True).to(z.dtype)
    other = inside & (index != hard.detach().reshape(-1, 1))
    row, column = opened(other)
    alone = (torch.arange(most, device=z.device) == column.unsqueeze(-1)).to(z.dtype)
    share = (alone - 1 / members[row]) * (1 if largest else -1) / eps
    by = torch.where(inside[row] & other[row, column].unsqueeze(-1), share, 0).reshape(-1)
    flip = torch.arange(row.shape[0], device=z.device).repeat_interleave(most)
    at = numbers[row.unsqueeze(-1), index[row]].reshape(-1)
    watch = watch_of(width)
    if watch is not None:
        watch.count(other.any(-1))
    found, values = decision(width, x, at, by, flip), index[row, column]
    if not batched(z):
        found = again(x, ("choice", numbers.shape, numbers.stride(), largest, held(width)), found, (row, values))
    carry(region, hard, Layout((Block(found, None, row),)), values)


# --- all in order ---

LONGEST = 6
"""So many elements in each other's band are reordered together."""


class Order:
    """The rows of `x` in order: `places` has which element stands where."""

    def __init__(self, x: Tensor, dim: int | None, largest: bool) -> None:
        self.x, self.largest = x, largest
        self.z, self.numbers = scores(x, dim, largest)
        self.places = self.z.argsort(dim=-1, descending=True, stable=True)

    def flips(self, region: Any, op: str, shown: Callable[..., Any] = lambda z, gaps: gaps, called: str = "") -> None:
        """How they may be reordered: for each flip the row, at which place what is reordered begins, and which element
        of it comes where. The weights add up to the projection on the capped simplex for each boundary between two
        places (see `_ops/order.py`): of boundary b (from 1 on), element t has the derivative ``share[b, t]``.
        `shown`: of the scores and the gap beside each place, how far what the result shows is from its boundaries.
        """
        width, places = region.eps_for(op, called), self.places
        gaps: Callable[[Tensor], Tensor] = lambda z: shown(z, at_each(-torch.diff(z.gather(-1, places))))
        z, eps = in_units(self.z, width, pairs, gaps)
        ordered = z.gather(-1, places)
        watch = watch_of(width)
        if watch is not None:
            watch.count(gaps(z) < eps)
        row, start, many = _runs(ordered, eps)
        size = int(many.max()) if many.numel() else 2
        window = start.unsqueeze(-1) + torch.arange(size, device=z.device)
        there = window - start.unsqueeze(-1) < many.unsqueeze(-1)
        window = window.clamp(max=places.shape[-1] - 1)
        near = torch.where(there, ordered[row.unsqueeze(-1), window], -math.inf)
        by, orders = _moves(_shares(near, eps), size)
        at = self.numbers[row.unsqueeze(-1), places[row.unsqueeze(-1), window]]
        run, kind = opened((by != 0).any(-1))
        flip = torch.arange(run.shape[0], device=z.device).repeat_interleave(size)
        by = (1 if self.largest else -1) * by[run, kind].reshape(-1)
        self.decision = decision(width, self.x, at[run].reshape(-1), by, flip)
        self.row, self.start = row[run], start[run]
        self.order = torch.tensor(orders, device=z.device)[kind]
        if not batched(z):
            key = "order", self.numbers.shape, self.numbers.stride(), self.largest, held(width)
            self.decision = again(self.x, key, self.decision, (self.row, self.start, self.order, places))

    def carry(self, region: Any, hard: Tensor, at: Tensor, values: Tensor, ranks: bool = False) -> None:
        """`hard` shows `values` (rows, places) at `at`, its flat positions (-1: not at all). `ranks`: an element takes
        the value of its new place along.
        """
        size, row, last = self.order.shape[-1], self.row.unsqueeze(-1), values.shape[-1] - 1
        old = (self.start.unsqueeze(-1) + torch.arange(size, device=row.device)).clamp(max=last)
        new = (self.start.unsqueeze(-1) + self.order).clamp(max=last)
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
        carry(region, hard, Layout((Block(self.decision, flip, where),)), what.to(hard.dtype))

    def carry_by_element(self, region: Any, hard: Tensor) -> None:
        """`hard` has for each element what follows from its place."""
        at = self.numbers.gather(-1, self.places)
        self.carry(region, hard, at, torch.take(hard, at), ranks=True)


def _runs(ordered: Tensor, eps: float) -> tuple[Tensor, Tensor, Tensor]:
    """Runs of neighbours in each other's band: row, first place, and how many places (at most `LONGEST`)."""
    gap = ordered[:, :-1] - ordered[:, 1:]
    if batched(ordered):
        whole = ordered.shape[1] <= LONGEST  # (or neighbours alone)
        row, start = opened(gap[:, :1] if whole else gap)
        return row, start, torch.full_like(row, ordered.shape[1] if whole else 2)
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


# --- rules ---


def asks(answer: Answer, op: str, names: tuple[str, ...] = ("dim",)) -> Any:
    """The rule of a function that asks for an order: `answer` lets the indices of its result carry flips. `names`: of
    its arguments. The values that it finds are remembered.
    """

    def rule(region: Any, func: Func, args: tuple[Any, ...], kwargs: dict[str, Any]) -> Any:
        x, named = args[0], dict(zip(names, args[1:]), **kwargs)
        if not tracked(x) or x.numel() < 2:
            return flip_by_flip(region, func, args, kwargs)
        out = func(*args, **kwargs)
        _remember(region, func, op, x, out, named)
        if region.linearizes(op) and x.dim():
            answer(region, op, x, out, named)
        return out

    return chosen_again(rule)


def chosen_again(rule: Any) -> Any:
    """Of floats that were decided: `rule` sees them as they are, and the function runs again in each of their flips."""

    def again(region: Any, func: Func, args: tuple[Any, ...], kwargs: dict[str, Any]) -> Any:
        if all(plain_of(x) is x for x in tensors(args, kwargs)):
            return rule(region, func, args, kwargs)
        decided = flip_by_flip(region, func, args, kwargs)
        return _merged(region, rule(region, func, replaced(args, plain_of), replaced(kwargs, plain_of)), decided)

    return again


def _merged(region: Any, out: Any, decided: Any) -> Any:
    """`out` has the flips of a choice, and `decided` those of what it chose from, in which it chose again."""
    for part, other in zip(tensors(out), tensors(decided)):
        given = [(flips.layout, flips.values) for flips in (flips_of(part), flips_of(other)) if flips is not None]
        if len(given) == 2:
            carry(region, other, *beside(other, *given))
        elif given and flips_of(other) is None:
            carry(region, other, *given[0])
    return decided


def _remember(region: Any, func: Func, op: str, x: Tensor, out: Any, named: dict[str, Any]) -> None:
    """Which places the values have that were found."""
    dim, place = named.get("dim", -1), None
    if op == "unique" or isinstance(out, Tensor) and op != "median":
        return
    if op == "median":
        dim = None if isinstance(out, Tensor) else dim
        place = middle(op_name(func), x, dim)
    elif op != "sort" and op != "topk":
        place = named["k"] - 1 if op == "kthvalue" else 0
    largest = bool(named.get("largest", named.get("descending", op in ("topk", "argmax"))))
    mark(region, out, x, dim, largest, place, named.get("sorted", True))


def best(region: Any, op: str, x: Tensor, out: Any, named: dict[str, Any]) -> None:
    """``argmax(x)``, ``max(x, dim)``"""
    _contest(region, op, x, out if isinstance(out, Tensor) else out.indices, named.get("dim"))


def order(region: Any, op: str, x: Tensor, out: Any, named: dict[str, Any]) -> None:
    """``sort``, ``argsort`` and ``topk``."""
    dim, hard = named.get("dim", -1), out if isinstance(out, Tensor) else out.indices
    found, many = Order(x, dim, named.get("descending", named.get("largest", op == "topk"))), hard.shape[dim]
    z, n = found.z, found.z.shape[1]
    if not many or n < 2:
        return
    at = torch.arange(hard.numel(), device=hard.device).reshape(hard.shape)
    places, at = (t.movedim(dim, -1).reshape(-1, many) for t in (hard, at))
    if op == "topk":  # they may be shown in any order, and what comes next is near
        inner = z.gather(-1, places).argsort(dim=-1, descending=True, stable=True)
        rest = z.scatter(-1, places, -math.inf).topk(min(n - many, LONGEST), -1).indices
        places, at = torch.cat([places.gather(-1, inner), rest], -1), at.gather(-1, inner)
    found.places = places
    found.flips(region, op, lambda z, gaps: gaps[:, :many])
    found.carry(region, hard, F.pad(at, (0, places.shape[1] - many), value=-1), places)


def kth(region: Any, op: str, x: Tensor, out: Any, named: dict[str, Any]) -> None:
    """``kthvalue`` and ``median``: one place of the ascending order."""
    if isinstance(out, Tensor):  # the median of all is continuous
        return
    dim = named.get("dim", -1)
    found = Order(x, dim, False)
    place = named["k"] - 1 if op == "kthvalue" else middle(type(out).__name__, x, dim)
    place = torch.as_tensor(place, device=x.device).reshape(-1, 1).expand(found.places.shape[0], 1)
    here, chosen = torch.arange(x.shape[dim], device=x.device) == place, out.indices.reshape(-1, 1)
    places = torch.where(found.places == chosen, found.places.gather(-1, place), found.places)
    found.places = torch.where(here, chosen, places)  # of equals, the one that is shown
    if x.shape[dim] > 1:
        found.flips(region, op, lambda z, gaps: gaps.gather(-1, place))
        at = torch.arange(place.shape[0], device=x.device).unsqueeze(-1)
        found.carry(region, out.indices, torch.where(here, at, -1), found.places)


def unique(region: Any, op: str, x: Tensor, out: Any, named: dict[str, Any]) -> None:
    """The inverse of distinct numbers is their rank."""
    if named.get("return_inverse") and named.get("dim") is None:
        found = Order(x, None, False)
        found.flips(region, op)
        found.carry_by_element(region, out[1])


def compared(region: Any, func: Func, a: Any, b: Any) -> Tensor | None:
    """A comparison with what was found by sorting; None if it is an ordinary one."""
    one, other = sorted_places(a), sorted_places(b)
    if one is not None and other is not None:  # in sorted order they are
        return func(a, b) if one.found_in(other.source) else None
    known, x, threshold = (other, a, b) if one is None else (one, b, a)
    if known is None or not known.found_in(x) or not x.numel() or place_in_rows(known, x, threshold) is None:
        return None
    found = Order(x, None if known.source.dim() == 1 else known.dim, True)
    hard = func(a, b)
    shown = torch.take(hard, found.numbers.gather(-1, found.places))[0]
    first = int((shown == shown[0]).sum())
    found.flips(region, "topk", lambda z, _: around(z, first), op_name(func))
    found.carry_by_element(region, hard)
    return hard  # type: ignore[no-any-return]
