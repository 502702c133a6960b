"""Whatever else there is: the function runs again in each flip, all flips at once where `torch.vmap` can."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor

from ..._ops.env import unwrapped
from ..._rules.index import REMEDIES, op_name
from ..interface import Carried, Func, attach, held, tensors
from ..writes import called, same, writes_unsaid
from .calls import carriers, once_more, plain_of, replaced
from .entries import Decision, Flips, Numbers, carry, flips_of, opened
from .primitives import take

MAX_ELEMENTS = 2**24
"""What is computed for all flips together."""
MAX_OF_FLOATS = 2**18
"""The same, of functions of floats alone, which have a gradient in any case."""
MAX_CALLS = 256
"""Calls for one flip each, where they cannot be computed together."""


class Ragged(Carried):
    """What a result is in each flip, where its shape depends on the decision: what a mask selects."""

    def __init__(self, of: dict[tuple[Decision, int], Tensor]) -> None:
        self.of = of


def ragged(x: Any) -> Ragged | None:
    return held(x, Ragged)


def flip_by_flip(
    region: Any, func: Func, args: tuple[Any, ...], kwargs: dict[str, Any], writes: bool | None = None
) -> Any:
    """Any function: it runs again in each flip. `writes`: whether it may write to its operands without saying so. Flips
    of floats alone go on if they are few and `torch.vmap` can run it, or else they meet in it.
    """
    if all(getattr(x, "_sll", None) is None for x in tensors(args, kwargs)):
        return func(*args, **kwargs)
    name, writes = op_name(func), writes_unsaid(func) if writes is None else writes
    rows = _Rows(func, args, kwargs, writes)
    floats = [x for x in rows.operands if x.is_floating_point()]
    of_floats = not rows.loose and len(floats) == len(rows.operands)
    if of_floats and (writes or not rows.size):
        return _watched(region, func, args, kwargs, floats)

    def lost(why: str) -> None:
        region.lose(name, [*rows.operands, *rows.selected], REMEDIES.get(name, why))

    in_place = name[-1:] == "_" and name[-2:] != "__" or kwargs.get("inplace") or kwargs.get("out") is not None
    results = None if in_place else rows.results(of_floats)
    if results is None and of_floats:
        if in_place or all(x.is_floating_point() for x in tensors(func(*args, **kwargs))):
            region.approximate(name, rows.size, "flips")
            return func(*args, **kwargs)
        results = rows.results(False)  # (nothing else has a gradient)
    if results is None:
        lost("too many decisions are open (take a narrow eps, such as 0.01), it writes, or its result is sparse.")
        return func(*args, **kwargs)
    if rows.fails:
        lost("with the decision the other way the program fails here, or returns more or fewer tensors.")
    out = _watched(region, func, args, kwargs, floats) if writes else once_more(func, args, kwargs)
    parts = tensors(out)
    carried: dict[int, Tensor] = {}
    for x, values in zip((*parts, *rows.operands), results):  # (operands may have been written to)
        if isinstance(values, list):
            region.select()
            attach(region, x, Ragged(dict(zip(rows.flips(), values))))
        elif id(x) not in carried and all(x is not y for y in floats):
            carried[id(x)] = carry(region, x, *_entries(region, name, x, values, rows))
    if not parts and not of_floats:
        lost("its result is no tensor.")
    return replaced(out, lambda x: carried.get(id(x), x))


def decided_again(region: Any, rule: Any, func: Func, args: tuple[Any, ...], kwargs: dict[str, Any]) -> Any:
    """What decides on what a mask selected has flips of its own beside those of the mask."""
    bare: Callable[[Tensor], Tensor] = lambda x: x if ragged(x) is None else x.view_as(x)
    others = tensors(flip_by_flip(region, func, args, kwargs))
    out = rule(region, func, replaced(args, bare), replaced(kwargs, bare))
    other_of = {id(x): y for x, y in zip(tensors(out), others)}

    def both(x: Tensor) -> Tensor:
        y = other_of[id(x)]
        if x.is_floating_point() and flips_of(x) is None and ragged(y) is None:
            return y  # the values of `max`, say, where nothing else is decided: their flips have a gradient already
        return attach(region, plain_of(x), Ragged(_rows_of(y) | _rows_of(x)))

    return replaced(out, both)


def _rows_of(x: Tensor) -> dict[tuple[Decision, int], Tensor]:
    """What a result is in each flip."""
    found, loose = flips_of(x), ragged(x)
    rows: dict[tuple[Decision, int], Tensor] = {}
    if loose is not None or found is None:
        return {} if loose is None else loose.of
    flips = [(block.decision, flip) for block in found.layout.blocks for flip in block.flips().tolist()]
    for flip, at, value in zip(flips, found.layout.at.tolist(), found.values.detach()):
        rows.setdefault(flip, x.detach().clone().reshape(-1))[at] = value
    return {flip: row.reshape(x.shape) for flip, row in rows.items()}


def _entries(region: Any, name: str, part: Tensor, values: Tensor, rows: _Rows) -> Any:
    """The entries of a result, of which all flips are known. What a selection is reduced to has no infinite ones."""
    hard = part.detach().reshape(1, -1)
    other = (values != hard) & ~((values != values) & (hard != hard))
    if rows.loose and part.is_floating_point():
        infinite = other & ~values.isfinite() & hard.isfinite()
        region.count_infinite(name, int(infinite.sum()))
        other = other & ~infinite
    row, at = opened(other)
    return rows.all.layout(rows.number[row], at), values[row, at]


def _watched(region: Any, func: Func, args: Any, kwargs: Any, floats: list[Tensor]) -> Any:
    """A call that may write to floats that carry flips."""
    found = [flips_of(x) for x in floats]
    out, written = called(func, args, kwargs, floats)
    changed = [(old, flips) for old, flips in zip(written, found) if old is not None and flips is not None]
    if changed:
        open_ = lambda: any(differing(x, flips) for x, flips in changed)
        region.lose(op_name(func), [], "it writes to what it is given. Clone that first.", undecided=open_)
    return out


class _Rows:
    """A call in each flip that its operands carry: one row for each flip."""

    def __init__(self, func: Func, args: Any, kwargs: Any, writes: bool) -> None:
        self.func, self.args, self.kwargs, self.writes = func, args, kwargs, writes
        self.found = carriers(args, kwargs)
        self.operands = [x for x, _ in self.found]
        self.selected = [x for x in tensors(args, kwargs) if ragged(x) is not None]
        self.loose = {id(x): r for x in self.selected if (r := ragged(x)) is not None}
        known = [key for r in self.loose.values() for key in r.of]
        layouts = [flips.layout for _, flips in self.found]
        self.all = Numbers([*(b.decision for of in layouts for b in of.blocks), *(decision for decision, _ in known)])
        given = [self.all.numbers(layout) for layout in layouts]
        more = torch.tensor([self.all.start[decision] + flip for decision, flip in known], dtype=torch.int64)
        self.number = torch.unique(torch.cat([*given, more.to(given[0].device) if given else more]))
        self.size = self.number.shape[0]
        self.numbers = given
        self.fails = 0
        """In so many flips the call fails."""

    def flips(self) -> list[tuple[Decision, int]]:
        flips = self.all.layout(self.number, self.number)
        return [(block.decision, flip) for block in flips.blocks for flip in block.flips().tolist()]

    def results(self, of_floats: bool) -> list[Any] | None:
        """Each result in all flips, (flips, elements), or a list where the shapes differ; None if there are too many,
        or of sparse results. If the function writes, then the operands that carry flips after it, too. `of_floats`:
        only if that is quick.
        """
        largest = max(x.numel() for x in tensors(self.args, self.kwargs))
        if self.size * largest > (MAX_OF_FLOATS if of_floats else MAX_ELEMENTS):
            return None
        if of_floats and torch._C._are_functorch_transforms_active():
            return None
        with torch.no_grad():
            if not self.size:
                return [part.reshape(1, -1)[:0] for part in self.call([x.detach().clone() for x in self.operands], {})]
            changed = self.changed()
            together = None if self.loose else self.all_at_once(changed)
            if together is not None:
                return [x.reshape(self.size, -1) for x in together]
            return None if of_floats or self.size > MAX_CALLS else self.one_by_one(changed)

    def changed(self) -> list[Tensor]:
        """The operands in all flips, one after the other."""
        found = []
        for (x, flips), numbers in zip(self.found, self.numbers):
            rows = x.detach().reshape(1, -1).repeat(self.size, 1)
            at = torch.searchsorted(self.number, numbers), flips.layout.at
            found.append(rows.index_put(at, flips.values.to(x.dtype)).reshape(self.size, *x.shape))
        return found

    def call(self, given: Any, also: dict[int, Tensor]) -> tuple[Tensor, ...]:
        """With these in the place of the operands that carry flips, and others."""
        by = {id(x): row for x, row in zip(self.operands, given)} | also
        as_it_is: Callable[[Tensor], Tensor] = lambda x: x.detach().clone() if self.writes else x.detach()
        put: Callable[[Tensor], Tensor] = lambda x: by[id(x)] if id(x) in by else as_it_is(x)
        parts = tuple(tensors(once_more(self.func, self.args, self.kwargs, put)))
        return (*parts, *given) if self.writes else parts

    def all_at_once(self, changed: list[Tensor]) -> tuple[Tensor, ...] | None:
        """By `torch.vmap`, if it can, and nothing was written to."""
        others = tensors(self.args, self.kwargs) if self.writes else []
        others = [x for x in others if all(x is not y for y in self.operands)]
        copies = {id(x): x.detach().clone() for x in others}
        given = [x.clone() for x in changed] if self.writes else changed
        try:
            found = torch.vmap(lambda *x: self.call(x, copies))(*given)
        except Exception:  # what is wrong with the call itself the call will say
            return None
        if self.writes and not all(map(same, (*given, *copies.values()), (*changed, *others))):
            return None
        return found

    def one_by_one(self, changed: list[Tensor]) -> list[Any] | None:
        hard = self.call([x.detach().clone() for x in self.operands], {})
        if any(part.layout is not torch.strided for part in hard):
            return None
        rows = []
        for i, flip in enumerate(self.flips()):
            also = {key: r.of[flip].clone() for key, r in self.loose.items() if flip in r.of}
            try:
                row = self.call([x[i].clone() for x in changed], also)
            except (RuntimeError, IndexError, ValueError):  # the program would have failed there
                row = ()
            self.fails += len(row) != len(hard)
            rows.append(row if len(row) == len(hard) else hard)
        results: list[Any] = []
        for part, *values in zip(hard, *rows):
            one = all(value.shape == part.shape for value in values)
            results.append(torch.stack(values).reshape(self.size, -1) if one else values)
        return results


def differing(x: Tensor, flips: Flips) -> int:
    """How many elements of `x` are something else in some flip."""
    other, at = unwrapped(flips.values != take(x, flips.layout.at)), unwrapped(flips.layout.at)
    return int(torch.unique(at[other]).numel()) if other.shape == at.shape else int(other.sum())
