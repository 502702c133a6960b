"""Whatever else there is: the function runs again in each flip, all flips at once where `torch.vmap` can."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor

from ..interface import Carried
from ..writes import called, same, writes_unsaid
from .entries import Block, Decision, Flips, Layout, carry, flips_of, held_by, mark
from .identity import batched
from .mapped import Func, plain_of
from .moving import carriers, leaves, replaced
from .primitives import take
from .uses import REMEDIES, op_name, unwrapped

__all__ = ["Ragged", "count", "differing", "flip_by_flip", "ragged"]

MAX_ELEMENTS = 2**24
"""What is computed for all flips together."""
MAX_CALLS = 256
"""Calls for one flip each, where they cannot be computed together."""


class Ragged(Carried):
    """What a result is in each flip, where its shape depends on the decision: what a mask selects."""

    def __init__(self, flips: AllFlips, values: list[Tensor]) -> None:
        self.flips = flips
        self.values = values


def ragged(x: Any) -> Ragged | None:
    return held_by(x, Ragged)


def flip_by_flip(region: Any, func: Func, args: tuple[Any, ...], kwargs: dict[str, Any]) -> Any:
    """Any function: it runs again in each flip. If only floats carry any, they meet in it."""
    found = carriers(args, kwargs)
    loose = {id(x): r for x in leaves((args, kwargs)) if (r := ragged(x)) is not None}
    name, writes = op_name(func), writes_unsaid(func)
    if not loose and all(x.is_floating_point() for x, _ in found):
        return _watched(region, func, args, kwargs, found) if writes else func(*args, **kwargs)
    flips = AllFlips(found, list(loose.values()))
    declared = name[-1:] == "_" and name[-2:] != "__"
    again, fails = (None, 0) if declared else _in_flips(func, args, kwargs, found, loose, flips, writes)
    if again is None:
        region.lose(name, _carried(args, kwargs), REMEDIES.get(name, _TOO_MANY))
        return func(*args, **kwargs)
    if fails:
        region.lose(name, _carried(args, kwargs), REMEDIES.get(name, _FAILS))
    if writes:
        floats = [pair for pair in found if pair[0].is_floating_point()]
        out = _watched(region, func, args, kwargs, floats)
    else:
        out = func(*replaced(args, plain_of), **replaced(kwargs, plain_of))
    parts = list(leaves(out))
    for (x, _), values in zip(found, again[len(parts) :]):  # they may have been written to
        if not x.is_floating_point():
            carry(region, x, *_entries(region, name, x, values, flips, False))
    if not parts:
        region.lose(name, _carried(args, kwargs), REMEDIES.get(name, _NO_TENSOR))
        return out
    region.selects = region.selects or any(isinstance(values, list) for values in again)
    for part, values in zip(parts, again):
        if isinstance(values, list):
            mark(region, part, Ragged(flips, values))
            continue
        carried = carry(region, part, *_entries(region, name, part, values, flips, bool(loose)))
        if carried is not part:
            out = replaced(out, lambda x: carried if x is part else x)  # noqa: B023
    return out


_TOO_MANY = "too many decisions are open, or it writes. Take a smaller eps."
_NO_TENSOR = "its result is no tensor."
_FAILS = "with the decision the other way the program fails here, or returns more or fewer tensors."


def count(region: Any, func: Func, args: tuple[Any, ...], kwargs: dict[str, Any]) -> Any:
    """How many elements there are: lost, if flips select more or fewer."""
    loose = [x for x in leaves((args, kwargs)) if ragged(x) is not None]
    if loose:
        region.lose(op_name(func), loose, _COUNTED)
    return func(*args, **kwargs)


_COUNTED = "how many elements a mask selects has no derivative here. Use sum or mean of the selection."


def _entries(
    region: Any, name: str, part: Tensor, values: Tensor, flips: AllFlips, reduced: bool
) -> tuple[Layout, Tensor]:
    """The entries of a result, of which all flips are known. What a selection is reduced to has no infinite ones."""
    hard = part.detach().reshape(1, -1)
    other = (values != hard) & ~((values != values) & (hard != hard))
    other = torch.ones(other.shape, dtype=torch.bool, device=other.device) if batched(other) else other
    if reduced and part.is_floating_point():
        infinite = other & ~values.isfinite() & hard.isfinite()
        region.count_infinite(name, int(infinite.sum()))
        other = other & ~infinite
    flip, at = other.nonzero(as_tuple=True)
    return flips.layout(flip, at), values[flip, at]


def _watched(region: Any, func: Func, args: Any, kwargs: Any, found: list[tuple[Tensor, Flips]]) -> Any:
    """A call that may write to floats that carry flips."""
    out, written = called(func, args, kwargs, [x for x, _ in found])
    changed = [(old, flips) for old, (_, flips) in zip(written, found) if old is not None]
    if changed:
        open_ = lambda: any(differing(x, flips) for x, flips in changed)
        region.lose(op_name(func), [], "it writes to what it is given. Clone that first.", undecided=open_)
    return out


class AllFlips:
    """The flips of several operands, numbered: those of one decision after those of another."""

    def __init__(self, found: list[tuple[Tensor, Flips]], loose: list[Ragged]) -> None:
        flips_of: dict[Decision, list[Tensor]] = {}
        for _, carried in found:
            for block in carried.layout.blocks:
                flips_of.setdefault(block.decision, []).append(block.flips())
        for ragged in loose:
            for decision, flips in ragged.flips.of.items():
                flips_of.setdefault(decision, []).append(flips)
        self.of: dict[Decision, Tensor] = {d: torch.unique(torch.cat(flips)) for d, flips in flips_of.items()}
        self.size = sum(flips.numel() for flips in self.of.values())

    def number(self, other: AllFlips) -> dict[int, int]:
        """Which of these each of the others is."""
        mine = {(id(d), flip): i for i, (d, flip) in enumerate(self._each())}
        return {mine[id(d), flip]: i for i, (d, flip) in enumerate(other._each())}

    def _each(self) -> list[tuple[Decision, int]]:
        return [(decision, flip) for decision, flips in self.of.items() for flip in flips.tolist()]

    def numbers(self, layout: Layout) -> Tensor:
        """Of the entries of a layout."""
        starts, start = {}, 0
        for decision, flips in self.of.items():
            starts[decision] = start
            start += flips.numel()
        parts = [torch.searchsorted(self.of[b.decision], b.flips()) + starts[b.decision] for b in layout.blocks]
        return torch.cat(parts)

    def layout(self, flip: Tensor, at: Tensor) -> Layout:
        """Entries with these (sorted) numbers."""
        ends = torch.tensor([flips.numel() for flips in self.of.values()], device=flip.device).cumsum(0)
        stops = torch.searchsorted(flip, ends).tolist()
        blocks, begin, start = [], 0, 0
        for (decision, flips), stop in zip(self.of.items(), stops):
            blocks.append(Block(decision, flips[flip[begin:stop] - start], at[begin:stop], False))
            begin, start = stop, start + flips.numel()
        return Layout(tuple(blocks))


def _in_flips(
    func: Func, args: Any, kwargs: Any, found: Any, loose: dict[int, Ragged], flips: AllFlips, writes: bool
) -> tuple[list[Any] | None, int]:
    """Each result in all flips, (flips, elements), or a list where the shapes differ; None if there are too many. If
    the function `writes`, then the operands that carry flips after it, too. And in how many flips the call fails.
    """
    most = max(x.numel() for x in leaves((args, kwargs)))
    if flips.size * most > MAX_ELEMENTS:
        return None, 0
    changed: dict[int, Any] = {}
    for x, carried in found:
        rows = x.detach().reshape(1, -1).repeat(flips.size, 1)
        rows = rows.index_put((flips.numbers(carried.layout), carried.layout.at), carried.values.to(x.dtype))
        changed[id(x)] = rows.reshape(flips.size, *x.shape)

    def call(given: Any, also: dict[int, Tensor]) -> tuple[Tensor, ...]:
        by = dict(zip(changed, given)) | also
        as_it_is: Callable[[Tensor], Tensor] = lambda x: x.detach().clone() if writes else x.detach()
        put: Callable[[Tensor], Tensor] = lambda x: by[id(x)] if id(x) in by else as_it_is(x)
        parts = tuple(leaves(func(*replaced(args, put), **replaced(kwargs, put))))
        return (*parts, *given) if writes else parts

    with torch.no_grad():
        if not flips.size:
            return [part.reshape(1, -1)[:0] for part in call([x.detach().clone() for x, _ in found], {})], 0
        others = [x for x in leaves((args, kwargs)) if id(x) not in changed] if writes else []
        together = None if loose else _all_at_once(call, list(changed.values()), others, writes)
        if together is not None:
            return [x.reshape(flips.size, -1) for x in together], 0
        if flips.size > MAX_CALLS:
            return None, 0
        return _one_by_one(call, [x for x, _ in found], list(changed.values()), loose, flips)


def _all_at_once(
    call: Callable[..., tuple[Tensor, ...]], changed: list[Tensor], others: list[Tensor], writes: bool
) -> tuple[Tensor, ...] | None:
    """By `torch.vmap`, if it can, and nothing was written to."""
    copies = {id(x): x.detach().clone() for x in others}
    given = [x.clone() for x in changed] if writes else changed
    try:
        found = torch.vmap(lambda *x: call(x, copies))(*given)
    except (RuntimeError, ValueError):
        return None
    if writes and not all(map(same, (*given, *copies.values()), (*changed, *others))):
        return None
    return found


def _one_by_one(
    call: Callable[..., tuple[Tensor, ...]],
    operands: list[Tensor],
    changed: list[Tensor],
    loose: dict[int, Ragged],
    flips: AllFlips,
) -> tuple[list[Any], int]:
    numbers = {key: flips.number(r.flips) for key, r in loose.items()}
    hard = call([x.detach().clone() for x in operands], {})
    rows, fails = [], 0
    for i in range(flips.size):
        also = {key: loose[key].values[number[i]].clone() for key, number in numbers.items() if i in number}
        try:
            row = call([x[i].clone() for x in changed], also)
        except (RuntimeError, IndexError, ValueError):  # the program would have failed there
            row = ()
        fails += len(row) != len(hard)
        rows.append(row if len(row) == len(hard) else hard)
    return [_together(part, [row[i] for row in rows]) for i, part in enumerate(hard)], fails


def _together(hard: Tensor, values: list[Tensor]) -> Any:
    if any(value.shape != hard.shape for value in values):
        return values
    return torch.stack(values).reshape(len(values), -1)


def _carried(args: Any, kwargs: Any) -> list[Tensor]:
    return [x for x in leaves((args, kwargs)) if flips_of(x) is not None or ragged(x) is not None]


def differing(x: Tensor, flips: Flips) -> int:
    """How many elements of `x` are something else in some flip."""
    other, at = unwrapped(flips.values != take(x, flips.layout.at)), unwrapped(flips.layout.at)
    return int(torch.unique(at[other]).numel()) if other.shape == at.shape else int(other.sum())
