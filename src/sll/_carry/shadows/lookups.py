"""Lookups with an index that was decided: ``table[i]``, `gather`, `embedding`, `one_hot` …

The row that the program takes gets the table's gradient. The index gets what it makes to be elsewhere, read from the
table as it is at the call: for each decision that it is made of, its share times the difference between the entry there
and this one. What lies beyond the end of the table counts as the end.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor

from ..._ops.apply import finite
from ..._ops.dtypes import FULL
from ..._ops.projections import decided
from ..._ops.surrogates import alias, follow, lazy_clone, number, ordinary
from ..interface import Func, Region
from ..rows import note
from .differences import neighbours, total
from .orders import quick_order
from .picked import Best, Picked, quick_choice, row_numbers
from .selections import by_places, every, of_all, quick_select, select, selected
from .shadow import Shadow, Weights, as_float, carry, mark, opposite, quick_shadow, shadow
from .shape import move
from .terms import DEEPEST, Found, all_of, as_count, depth_of, parts_of, together, with_parts
from .wraps import read_at

# --- where a decided index looks ---------------------------------------------------------------------------------


@dataclass
class Spot:
    """A decided index of a lookup: ``read(table, index)``, which a write at that index looks up, too."""

    index: Tensor
    read: Callable[[Any, Tensor], Tensor]
    size: int
    """Of the dimension that it is an index into."""
    behind: int = 0
    """How many dimensions the result has after those of the index."""
    rows: bool = False
    """Whether each index takes one row of the table, and all of it."""
    along: int | None = None
    """The dimension, if the result has the index's dimensions and the table's, and is looked up along one of them."""
    own: Shadow = None  # type: ignore[assignment]
    """The shadow of the index, if it was decided. (What a mask selected need not be.)"""

    def __post_init__(self) -> None:
        self.own = self.own or shadow(self.index)  # type: ignore[assignment]

    def align(self, t: Tensor) -> Tensor:
        """From the shape of the index, and one dimension more, to one that broadcasts with the result and that."""
        return t.reshape(*t.shape[:-1], *(1,) * self.behind, t.shape[-1]) if self.behind else t

    def parts(self, ramp: bool = False) -> tuple[Tensor, Tensor]:
        """The decisions that the index is made of, and what they change of it (see `as_count`)."""
        return self.own.parts(self.index) or as_count(self.own.value(), self.index, ramp)

    def every(self, table: Any) -> Tensor:
        """What is read at all places that a mask may select."""
        if self.along is not None and self.index.dim() > 1:  # (each row of the index reads its own row of the table)
            raise ValueError
        return self.read(table, every(self.index, self.size))

    def entry(self, table: Any) -> Tensor:
        """What is read."""
        return self.read(table, _inside(self.index, self.index, self.size))

    def entries(self, table: Any, change: Tensor) -> Tensor:
        """What is read where the index is changed so, in one dimension more. What lies beyond the end of the table is
        its end.
        """
        index = self.index.long().unsqueeze(-1)
        at = _inside(index + change, index, self.size)
        if not self.rows:
            return torch.stack([self.read(table, i) for i in at.unbind(-1)], -1)
        return _rows_at(self.read, table, at).movedim(at.dim() - 1, -1)

    def all_rows(self) -> bool:
        """Whether the weights are those of all rows of the table, in order."""
        own = self.own
        return self.rows and isinstance(own, Weights) and own.positions and own.labels.shape[-1] == self.size

    def picked(self) -> Picked | None:
        """What all places of the index hold together, where plain autograd is all there is."""
        return self.own if isinstance(self.own, Picked) and self.own.plain else None

    def of_number(self, table: Tensor) -> Callable[[Tensor], Tensor] | None:
        """What is read, as a function of the numbers that may be in an index which belongs to an order."""
        part = self.own.reading() if isinstance(self.own, Weights) else None
        if part is None or part[1] is not None and bool((self.index < 0).any()):
            return None
        order, _, one = part
        if self.rows and (one is None or table.dim() == 1):
            return lambda i: _rows_at(self.read, table, _inside(i, i, self.size))
        along, shape = order.along(), order.scores.shape
        if self.along != along or self.index.dim() != len(shape) or table.dim() != len(shape):
            return None
        if one is not None:  # (no element may have left its row)
            if any(m < n and d != along for d, (m, n) in enumerate(zip(table.shape, shape))):
                return None
            if not torch.equal(one(row_numbers(order.index, along)), row_numbers(self.index, along)):
                return None
        return lambda i: self.read(table, _inside(i, i, self.size).expand(shape))

    def beside(self, table: Tensor) -> Tensor | None:
        """All entries that each place may read, in a last dimension, if its weights are of all of them, in order."""
        own, along = self.own, self.along
        if along is None or not isinstance(own, Weights) or not own.positions or own.labels.shape[-1] != self.size:
            return None
        others = [t.shape[:along] + t.shape[along + 1 :] for t in (self.index, table)]
        fits = self.index.dim() == table.dim() and others[0] == others[1]
        return table.movedim(along, -1).unsqueeze(along) if fits else None

    def soft(self, table: Any, flag: bool = False) -> Tensor:
        """A float tensor that has the gradient of the index; it broadcasts to the shape of the result."""
        fixed = as_float(table.detach()) if isinstance(table, Tensor) else None
        if fixed is not None and (of := self.of_number(fixed)) is not None:
            return self.own.read(of)  # type: ignore[attr-defined, no-any-return]
        if fixed is not None and self.all_rows():
            return torch.tensordot(self.own.weights().to(fixed.dtype), finite(fixed), 1)  # type: ignore[attr-defined, no-any-return]
        if fixed is not None and (entries := self.beside(fixed)) is not None:
            return (self.own.weights() * finite(entries)).sum(-1)  # type: ignore[attr-defined, no-any-return]
        share, change = self.parts(flag)
        there, now = (t.to(share.dtype) for t in (self.entries(fixed, change), self.entry(fixed)))
        return (self.align(share) * finite(there - now.unsqueeze(-1))).sum(-1)


def _rows_at(read: Callable[[Any, Tensor], Tensor], table: Tensor, i: Tensor) -> Tensor:
    """``read(table, i)`` of a function that takes one row, and all of it, for each index."""
    found = read(table, i.reshape(-1))
    return found.reshape(*i.shape, *found.shape[1:])


def _inside(i: Tensor, index: Tensor, size: int, zero: Any = 0) -> Tensor:
    return torch.where(index < zero, i + size, i).clamp(0, size - 1)


def _rows_read(picked: Picked, out: Tensor, table: Tensor) -> Tensor:
    """`out` are the rows of a table that were picked."""
    return decided(picked.by().rows_read, picked.scores, None, finite(table.detach()), out=out)


def quick_getitem(region: Region, func: Func, args: tuple[Any, ...]) -> Any:
    """``table[index]``, one row for each index, or by an order; and ``x[mask]``."""
    table, index = args
    if type(index) is Tensor and index.dtype is torch.bool:
        return quick_select(region, func, args)
    if type(index) is slice:
        return move(region, func, args, {})
    picked = quick_choice(index)
    if not isinstance(picked, Best):
        order = quick_order(index)
        if order is not None:
            labels = order.labels()
            if not ordinary(table) or table.dtype not in FULL or table.shape[0] < labels.numel():
                return NotImplemented
            at = table[: labels.numel()] if labels.dim() == 1 else table[labels]
            return order.soft(finite(at.detach()), True, func(table, index))
        own = quick_shadow(index)
        return NotImplemented if own is None or index.dtype == torch.uint8 else _quick_rows(region, table, index, own)
    if not ordinary(table) or table.dtype not in FULL or picked.size != table.shape[0]:
        return NotImplemented
    out = _rows_read(picked, func(table, index), table)
    if not index.dim():
        note(region, out, table, index)
    return out


def _quick_rows(region: Region, table: Any, index: Tensor, own: Shadow) -> Any:
    """Rows of a table at an integer: what they would be on the other side."""
    if not ordinary(table) or table.dtype is not own.exact or not index.dim():
        return NotImplemented
    out, rows, size, rest = table[index], table.detach(), table.shape[0], (1,) * (table.dim() - 1)
    zero, known = number(0, torch.int64, index.device), own.ends is not None and 0 <= own.ends[0] and own.ends[1] < size

    def read(i: Tensor) -> Tensor:
        i = i if known else _inside(i, index, size, zero)
        return rows.index_select(0, i) if i.dim() == 1 else rows[i]  # type: ignore[no-any-return]  # (in a third of the time)

    root = own if own.root is None or own.root[0].numbers is None else own.root[0]
    now = index if root.numbers is None else root.numbers
    there = root.other(now)
    high = there if root is own else own.other(index)
    if high is None or there is None:
        low, high = neighbours(index)
        change, step, root = read(high) - read(low), high - low, own
    else:  # (nobody need know what was made of the decision since)
        change, step = read(high) - out.detach(), there - now
    step, value = step.type(own.exact), root.value()
    if rest:
        step, value = step.reshape(*step.shape, *rest), value.reshape(*value.shape, *rest)
    return read_at(region, [own], table, out, value * change.div_(step).nan_to_num_(0.0, 0.0, 0.0))


def looked_up(region: Region, out: Tensor, table: Any, spots: list[Spot], read: Callable[[Any], Tensor]) -> Tensor:
    """`out` is ``read(table)``, the lookup at the indices of the program."""
    held = shadow(table)
    if out.is_floating_point():
        picked = spots[0].picked() if len(spots) == 1 and spots[0].all_rows() else None
        if isinstance(picked, Best):
            return _rows_read(picked, out, table)
        soft = total([spot.soft(table) for spot in spots])
        soft = soft.reshape(out.shape) if soft.dim() > out.dim() else soft
        return read_at(region, [spot.own for spot in spots], table, out, soft)
    if out.is_complex():
        return out
    alone = spots[0] if len(spots) == 1 and held is None else None
    if alone is not None and isinstance(alone.own, Weights):
        return carry(region, out, _candidates(alone, alone.own, table, out))
    soft = total([spot.soft(table, out.dtype == torch.bool) for spot in spots])
    soft = soft if held is None else soft + read(held.value())
    numbers = alias(out)
    value = follow(soft.expand(out.shape), lambda: numbers.to(soft.dtype))
    if out.dtype == torch.bool:
        return carry(region, out, Shadow(value))
    found = None if alone is None else alone.own.parts(alone.index)
    if alone is None or found is None:
        return carry(region, out, _of_several(region, spots, table, read, value, out))
    entry = alone.entries(table, found[1]).squeeze(-1)
    return carry(region, out, Shadow(value, lambda _: entry))


def _candidates(spot: Spot, own: Weights, table: Tensor, out: Tensor) -> Weights:
    """The same choice among entries of a table of bools or integers."""
    if (of := spot.of_number(then := table.detach().clone())) is not None:
        return own.through(of, out)
    if spot.all_rows() and table.dim() == 1:
        return own.of_labels(then)
    return own.of_labels(spot.entries(table, own.changes(spot.index)), spot.align)


def _of_several(
    region: Region, spots: list[Spot], table: Any, read: Callable[[Any], Tensor], value: Tensor, out: Tensor
) -> Shadow:
    """What `out` carries, an entry at several decided indices or among decided entries."""
    operands = [own for own in (*(spot.own for spot in spots), shadow(table)) if own is not None]
    parts = _changed(spots, table, read, out) if depth_of(operands) <= DEEPEST else None
    return with_parts(region, out, lambda: parts, value, operands)


def _changed(spots: list[Spot], table: Any, read: Callable[[Any], Tensor], out: Tensor) -> Found:
    """What each decision changes of it. (At once: somebody may write to the table.)"""
    made = all_of([parts_of(spot.index, spot.own) for spot in spots], out.numel())
    held = parts_of(table)() if shadow(table) is not None else ()
    if made is None or held is None:
        return None
    now = out.long().unsqueeze(-1)
    found = [(spot.align(share), spot.entries(table, by).long() - now) for spot, (share, by) in zip(spots, made)]
    if held:
        wide = (t.expand(*table.shape, t.shape[-1]).unbind(-1) for t in held)
        found.append(tuple(torch.stack([read(t) for t in each], -1) for each in wide))  # type: ignore[arg-type]
    return together(found, out.shape)


# --- x[...] ------------------------------------------------------------------------------------------------------


def spots_of(x: Tensor, items: tuple[Any, ...], of: Callable[[Any], Any] = shadow) -> list[Spot]:
    """The decided ones among the items of an index; or those that a mask selected (`of`), each of which reads at all.

    A number takes a dimension away, a slice keeps one. The dimensions of tensors stand together where all tensors
    stand side by side, else in front.
    """
    used = sum(_dims(item) for item in items)
    dim = kept = 0
    found: list[tuple[int, int, Any]] = []  # an item, the dimension of the table, that of what slices and numbers leave
    for k, item in enumerate(items):
        many = x.dim() - used if item is Ellipsis else _dims(item)
        number = isinstance(item, int) or isinstance(item, Tensor) and item.dim() == 0
        if isinstance(item, (Tensor, list)):
            found.append((k, dim, kept))
        dim, kept = dim + many, kept + (1 if item is None else 0 if number else many)
    arrays = [(k, at) for k, _, at in found if not (isinstance(items[k], Tensor) and items[k].dim() == 0)]
    taken = sum(_dims(items[k]) for k, _ in arrays)
    first = arrays[0][1] if arrays else 0
    together = bool(arrays) and arrays[-1][1] + _dims(items[arrays[-1][0]]) - first == taken
    behind = kept + x.dim() - dim - taken - (first if together else 0)
    chosen = {k: every(items[k], x.shape[d]) for k, d, _ in found if of is selected and of(items[k]) is not None}
    others = tuple(chosen.get(k, item) for k, item in enumerate(items))

    def spot(k: int, d: int) -> Spot:
        index, alone = items[k], len(items) == 1
        read = lambda t, i: t[(*others[:k], i, *others[k + 1 :])]
        along = 0 if alone and x.dim() == index.dim() == 1 else None
        return Spot(index, read, x.shape[d], behind if index.dim() else 0, rows=alone, along=along)

    return [spot(k, d) for k, d, _ in found if of(items[k]) is not None]


def _dims(item: Any) -> int:
    """How many dimensions of the table an item of an index takes."""
    if item is None or isinstance(item, bool) or item is Ellipsis:
        return 0
    return item.dim() if isinstance(item, Tensor) and item.dtype == torch.bool else 1


def getitem(region: Region, func: Func, args: tuple[Any, ...], kwargs: dict[str, Any]) -> Any:
    x, index = args
    items = index if isinstance(index, tuple) else (index,)
    if isinstance(index, list) and any(shadow(item) or selected(item) for item in index):
        items = tuple(index)
    items = by_places(region, items) if len(items) > 1 else items
    decided = [item for item in items if shadow(item) is not None]
    if any(item.dtype == torch.bool for item in decided):
        if len(items) == 1 and selected(items[0]) is None:
            return select(region, func, x, items[0])
        region.lose("getitem", decided, FLAG)
        return func(x, index)
    if not decided:
        out = move(region, func, (x, items), kwargs)
    else:
        out = func(x, items)
        out = out if any(item.dim() for item in decided) else out.clone()  # (at numbers it is a view)
        out = looked_up(region, out, x, spots_of(x, items), lambda t: t[items])
    if not region.selecting():
        return out
    return of_all(region, func, x, items, out, lambda: spots_of(x, items, selected))


FLAG = "a single flag among other indices, and one of what a mask selected, are not followed. Use torch.where."


# --- functions ---------------------------------------------------------------------------------------------------


def spot_along(x: Tensor, dim: int, index: Tensor) -> Spot:
    """`gather`, and where `scatter` writes."""
    at = dim % max(x.dim(), 1)
    return Spot(index, lambda t, i: t.gather(at, i), x.shape[at] if x.dim() else 1, along=at if x.dim() else None)


def spot_of_rows(x: Tensor, dim: int, index: Tensor) -> Spot:
    """`index_select`, and where `index_add`, `index_fill` and `index_copy` write."""
    at = dim % max(x.dim(), 1)
    along = 0 if x.dim() == index.dim() == 1 else None
    rows = at == 0 and index.dim() == 1
    size = x.shape[at] if x.dim() else 1
    return Spot(index, lambda t, i: t.index_select(at, i), size, max(x.dim() - at - 1, 0), rows=rows, along=along)


def lookup(names: str, spot: Callable[..., Spot]) -> Callable[..., Any]:
    """The rule of a function with these arguments; `spot` makes a `Spot` of their values."""
    spelled = tuple(names.split())

    def rule(region: Region, func: Func, args: tuple[Any, ...], kwargs: dict[str, Any]) -> Any:
        named = dict(zip(spelled, args), **kwargs)
        given = [named.get(name) for name in spelled]
        x, index = named["input"], named["index"]
        found = spot(*given)
        if found.own is None:
            out = move(region, func, tuple(given[: len(named)]), {})
        else:
            out = looked_up(region, func(*args, **kwargs), x, [found], lambda t: found.read(t, index))
        return of_all(region, func, x, [index], out, lambda: [found]) if region.selecting() else out

    return rule


gather = lookup("input dim index", spot_along)
index_select = lookup("input dim index", spot_of_rows)


def embedding(region: Region, func: Func, args: tuple[Any, ...], kwargs: dict[str, Any]) -> Any:
    named = dict(zip(("input", "weight") if func is F.embedding else ("weight", "input"), args), **kwargs)
    index, table = named["input" if "input" in named else "indices"], named["weight"]
    out, spot = func(*args, **kwargs), Spot(index, lambda t, i: t[i], table.shape[0], 1, rows=True)
    out = out if spot.own is None else looked_up(region, out, table, [spot], lambda t: t)
    return of_all(region, func, table, [index], out, lambda: [spot]) if region.selecting() else out


def one_hot_of(x: Tensor, own: Shadow, classes: int) -> Tensor:
    """The shadow of ``one_hot(x, classes)``."""
    if isinstance(own, Weights):
        weights, labels = own.weights(), own.labels.long()
        if own.positions and labels.shape[-1] == classes:
            return weights
        full = weights.expand(*x.shape, labels.shape[-1])
        at = labels.clamp(0, classes - 1).expand(full.shape)
        return full.new_zeros(*x.shape, classes).scatter_add(-1, at, full)
    soft = Spot(x, lambda _, i: F.one_hot(i.long(), classes), classes, 1, own=own).soft(None)
    return follow(soft, lambda: F.one_hot(x.long(), classes).to(soft.dtype))


def quick_one_hot(region: Region, func: Func, args: tuple[Any, ...]) -> Any:
    picked = quick_choice(args[0])
    if not isinstance(picked, Best) or len(args) != 2 or args[1] != picked.size or not args[0].numel():
        return NotImplemented
    out = func(*args)
    hot, exact = lazy_clone(out), picked.dtype
    return mark(region, out, Shadow(lambda: picked.follow(lambda: hot.type(exact)), opposite, exact))


def one_hot(region: Region, func: Func, args: tuple[Any, ...], kwargs: dict[str, Any]) -> Any:
    out = func(*args, **kwargs)
    x = args[0] if args else kwargs["tensor"]
    own = shadow(x)
    if own is None or not out.numel():
        return out
    numbers, classes = x.detach().clone(), out.shape[-1]
    return carry(region, out, Shadow(lambda: one_hot_of(numbers, own, classes), opposite))
