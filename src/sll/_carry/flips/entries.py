"""What a result carries: *entries*, sparse.

A *flip* is one open element of a decision, the other way. An *entry* is the value that one element of a result has in
one flip; elements without an entry do not change in it. So a result with k open decisions knows k + 1 outcomes of each
element, stored in one vector, whatever the band leaves closed.

`Decision`  what one call decided: for each flip a weight, whose gradient is the slope of the ramp
`Block`     the entries that belong to one decision: which flip, and where in the result
`Layout`    blocks one after the other: the order of a vector of values
`Flips`     a layout and the values: the carrier

Blocks are compared by identity: two results with the same block depend on the same flips at the same places. Where
that fails, flips are matched by their numbers.
"""

from __future__ import annotations

import itertools
import weakref
from collections.abc import Callable
from typing import Any, TypeAlias, TypeVar

import torch
from torch import Tensor

from ..interface import Carried
from .primitives import meet, take

__all__ = [
    "MOST",
    "MOST_PER_ELEMENT",
    "Block",
    "Decision",
    "Flips",
    "Layout",
    "carry",
    "flips_of",
    "held_by",
    "join",
    "mark",
    "positions",
    "spread",
    "values_on",
]

K = TypeVar("K", bound=Carried)
Key: TypeAlias = "tuple[Any, ...] | None"


class Decision:
    """The flips of one call: a weight for each, of value zero, whose gradient is the slope."""

    __slots__ = ("__weakref__", "block", "weight", "what")

    def __init__(self, weight: Tensor) -> None:
        self.weight = weight
        self.block: weakref.ref[Block] | None = None


class Block:
    """Entries of one decision: `flip` (None: flip i is entry i) and `at`, the flat position in the result.

    `single`: no flip has two entries.
    """

    __slots__ = ("__weakref__", "at", "decision", "flip", "moved", "single", "size")

    def __init__(self, decision: Decision, flip: Tensor | None, at: Tensor, single: bool) -> None:
        self.decision = decision
        self.flip = flip
        self.at = at
        self.single = single
        self.size = at.shape[0]
        self.moved: dict[Any, Block] = {}
        """By what moved it: moved again, it is the same block."""

    def weight(self) -> Tensor:
        whole = self.decision.weight
        return whole if self.flip is None else whole.index_select(0, self.flip)

    def flips(self) -> Tensor:
        return torch.arange(self.size, device=self.at.device) if self.flip is None else self.flip


_Place: TypeAlias = "Tensor | int | None"
"""Where the entries of a layout are in a larger one: everywhere (None), the first so many, or at these places."""


class Layout:
    """Blocks in order. `base` is the layout of the first of them, of which positions and weights are known."""

    def __init__(self, blocks: tuple[Block, ...], base: Layout | None = None) -> None:
        self.blocks = blocks
        self.base = base
        self.size = sum(block.size for block in blocks)
        self.known = frozenset(blocks)
        self._at: Tensor | None = None
        self._weight: Tensor | None = None
        self._places: dict[Any, Tensor] = {}
        self.joined: dict[int, tuple[weakref.ref[Layout], weakref.ref[Layout], _Place, _Place]] = {}
        self.moves: dict[Any, tuple[Layout, Tensor]] = {}

    def _together(self, of: Callable[[Any], Tensor]) -> Tensor:
        base = self.base
        if not self.blocks:
            return torch.zeros(0, dtype=torch.int64)
        if base is None:
            parts = [of(block) for block in self.blocks]
        else:
            parts = [of(base), *(of(block) for block in self.blocks[len(base.blocks) :])]
        return parts[0] if len(parts) == 1 else torch.cat(parts)

    @property
    def at(self) -> Tensor:
        """The flat positions of all entries."""
        if self._at is None:
            self._at = self._together(lambda part: part.at)
            self._forget()
        return self._at

    @property
    def weight(self) -> Tensor:
        """The weights of all entries."""
        if self._weight is None:
            self._weight = self._together(lambda part: part.weight if isinstance(part, Layout) else part.weight())
            self._forget()
        return self._weight

    def _forget(self) -> None:
        """What all is known of needs no base: a loop is not to keep the layouts of all its steps."""
        if self._at is not None and self._weight is not None:
            self.base = None

    def at_of(self, shape: torch.Size, operand: torch.Size) -> Tensor:
        """Positions in an operand that broadcasts to the result's `shape`."""
        if operand == shape:
            return self.at
        key = shape, operand
        found = self._places.get(key)
        if found is None:
            found = positions(self.at, shape, operand)
            self._places[key] = found
        return found

    def plus(self, block: Block) -> Layout:
        return Layout((*self.blocks, block), self)


class Flips(Carried):
    """The carrier of a result: values of the entries of a layout. `plain`: a float without the gradient of flips."""

    __slots__ = ("layout", "plain", "values", "within")

    def __init__(self, layout: Layout, values: Tensor, plain: Tensor | None = None) -> None:
        self.layout = layout
        self.values = values
        self.plain = plain
        self.within = None


def flips_of(x: Any) -> Flips | None:
    """What a tensor carries; after a write nothing."""
    return held_by(x, Flips)


def carry(region: Any, hard: Tensor, layout: Layout, values: Tensor) -> Tensor:
    """`hard`, which has these values in flips. A float gets their gradient at once, as if it went no further."""
    if hard.is_floating_point() or hard.is_complex():
        out = meet(hard, layout.weight, layout.at, values)
        if layout.size > MOST and layout.size > MOST_PER_ELEMENT * hard.numel():
            hard, layout, values = _newest(region, hard, layout, values)
        found = Flips(layout, values, hard)
    else:
        out, found = hard, Flips(layout, values)
    return mark(region, out, found)


MOST_PER_ELEMENT = 32
"""A float keeps so many flips for each element on average, and at least"""
MOST = 4096
"""in all. The oldest are met before: what follows sees their local gradient."""


def _newest(region: Any, hard: Tensor, layout: Layout, values: Tensor) -> tuple[Tensor, Layout, Tensor]:
    keep, first, limit = 0, len(layout.blocks), max(MOST, MOST_PER_ELEMENT * hard.numel()) // 2
    while first and keep + layout.blocks[first - 1].size <= limit:
        first -= 1
        keep += layout.blocks[first].size
    cut = layout.size - keep
    old = Layout(layout.blocks[:first])
    region.approximate("flips", cut)
    return meet(hard, old.weight, layout.at[:cut], values[:cut]), Layout(layout.blocks[first:]), values[cut:]


def mark(region: Any, x: Tensor, found: Carried) -> Tensor:
    """Let `x` carry something until the region ends."""
    x._sll = found, x._version  # type: ignore[attr-defined]
    if not region.keep(x):
        found.within = region.outermost()
    return x


def held_by(x: Any, kind: type[K]) -> K | None:
    """What a tensor carries, if it is of that kind; after a write, or the region, nothing."""
    pair = getattr(x, "_sll", None)
    if pair is None or type(pair[0]) is not kind or pair[1] != x._version:
        return None
    found: K = pair[0]
    return None if found.within is not None and found.over() else found


def positions(at: Tensor, shape: torch.Size, operand: torch.Size) -> Tensor:
    """Flat positions in a result, as those in an operand that broadcasts to its `shape`."""
    if operand == shape:
        return at
    rest, found, stride = at, torch.zeros_like(at), 1
    for d in range(-1, -len(shape) - 1, -1):
        size = operand[d] if -d <= len(operand) else 1
        if size != 1:
            found = found + rest % shape[d] * stride
        stride, rest = stride * size, rest // shape[d]
    return found


# --- several operands ---


def join(a: Layout, b: Layout) -> tuple[Layout, _Place, _Place]:
    """A layout with the entries of both, and where they are in it."""
    if a is b:
        return a, None, None
    known = a.joined.get(id(b))
    if known is not None and known[0]() is b and (whole := known[1]()) is not None:
        return whole, known[2], known[3]
    found: tuple[Layout, _Place, _Place]
    if a.known >= b.known:
        found = a, None, _places_in(a, b)
    elif b.known >= a.known:
        found = b, _places_in(b, a), None
    else:
        found = _joined(a, b)
    a.joined[id(b)] = weakref.ref(b), weakref.ref(found[0]), *found[1:]
    return found


def _places_in(whole: Layout, part: Layout) -> _Place:
    """`whole` has all blocks of `part`."""
    if whole.blocks[: len(part.blocks)] == part.blocks:
        return part.size
    starts = _starts(whole)
    return _places([(starts[block], block.size) for block in part.blocks], part.at.device)


def _starts(layout: Layout) -> dict[Block, int]:
    """Where each block begins."""
    starts, start = {}, 0
    for block in layout.blocks:
        starts[block] = start
        start += block.size
    return starts


def _places(ranges: list[Any], device: torch.device) -> Tensor:
    """Places that are given as ranges (start, size), neighbours together, or as tensors."""
    joined: list[Any] = []
    for part in ranges:
        if joined and isinstance(part, tuple) and isinstance(joined[-1], tuple) and sum(joined[-1]) == part[0]:
            joined[-1] = joined[-1][0], joined[-1][1] + part[1]
        else:
            joined.append(part)
    found = [x if isinstance(x, Tensor) else torch.arange(x[0], sum(x), device=device) for x in joined]
    return found[0] if len(found) == 1 else torch.cat(found)


def _joined(a: Layout, b: Layout) -> tuple[Layout, _Place, _Place]:
    decided = {block.decision for block in a.blocks}
    blocks, end, starts = list(a.blocks), a.size, _starts(a)
    places: list[Any] = []
    for block in b.blocks:
        rest: Block | None = block
        if block in a.known:
            places.append((starts[block], block.size))
            continue
        if block.decision in decided:
            place, rest = _matched(a, starts, block, end)
            places.append(place)
        else:
            places.append((end, block.size))
        if rest is not None:
            blocks.append(rest)
            end += rest.size
    whole = Layout(tuple(blocks), a) if len(blocks) > len(a.blocks) else a
    return whole, a.size, _places(places, b.at.device)


def _matched(a: Layout, starts: dict[Block, int], block: Block, end: int) -> tuple[Tensor, Block | None]:
    """Where in `a` the entries of another block of one of its decisions are, and those that are not, which go to the
    end.
    """
    same = [other for other in a.blocks if other.decision is block.decision]
    most = 1 + max([int(x.at.max()) for x in (*same, block) if x.size], default=0)
    keys = torch.cat([other.flips() * most + other.at for other in same])
    places = torch.cat([torch.arange(starts[x], starts[x] + x.size, device=x.at.device) for x in same])
    wanted = block.flips() * most + block.at
    if not keys.numel():
        return torch.arange(end, end + block.size, device=block.at.device), block
    ordered, order = keys.sort()
    near = torch.searchsorted(ordered, wanted).clamp(max=ordered.numel() - 1)
    there = ordered[near] == wanted
    found = places[order[near]]
    new = (~there).nonzero().squeeze(1)
    if not new.numel():
        return found, None
    found[new] = torch.arange(end, end + new.numel(), device=new.device)
    return found, Block(block.decision, block.flips()[new], block.at[new], block.single)


def values_on(x: Any, shape: torch.Size, layout: Layout, found: Flips | None = None, place: _Place = None) -> Any:
    """An operand of an elementwise function with a result of `shape`, at the entries of `layout`."""
    if found is not None:
        if place is None or isinstance(place, int) and place == layout.size:
            return found.values
        if isinstance(place, int):
            return torch.cat([found.values, take(x, layout.at_of(shape, x.shape)[place:])])
        return take(x, layout.at_of(shape, x.shape)).index_copy(0, place, found.values)
    if not isinstance(x, Tensor) or x.dim() == 0:
        return x.detach() if isinstance(x, Tensor) else x
    if x.numel() == 1:
        return x.detach().reshape(1)
    return take(x, layout.at_of(shape, x.shape))


# --- moves ---


def spread(layout: Layout, key: Key, source: Callable[[], Tensor]) -> tuple[Layout, Tensor]:
    """The layout of a result whose element j is element ``source()[j]`` of the operand (or none of it), and which
    entry each entry comes from.
    """
    if key is not None and key in layout.moves:
        return layout.moves[key]
    ordered, order = source().reshape(-1).sort(stable=True)
    first = torch.searchsorted(ordered, layout.at)
    counts = torch.searchsorted(ordered, layout.at, right=True) - first
    entry = torch.arange(layout.size, device=layout.at.device).repeat_interleave(counts)
    total = counts.cumsum(0)
    at = order[first[entry] + torch.arange(entry.numel(), device=entry.device) - (total - counts)[entry]]
    single = not counts.numel() or int(counts.max()) < 2
    ends = list(itertools.accumulate(block.size for block in layout.blocks))
    stops = torch.nn.functional.pad(total, (1, 0))[torch.tensor(ends, device=total.device)].tolist()
    blocks, begin = [], 0
    for block, end, stop in zip(layout.blocks, ends, stops):
        found = block.moved.get(key) if key is not None else None
        if found is None:
            flip = block.flips()[entry[begin:stop] - (end - block.size)]
            found = Block(block.decision, flip, at[begin:stop], block.single and single)
            if key is not None:
                block.moved[key] = found
        blocks.append(found)
        begin = stop
    result = Layout(tuple(blocks)), entry
    if key is not None:
        layout.moves[key] = result
    return result
