"""What a result carries: *entries*, sparse.

A *flip* is one open element of a decision, the other way. An *entry* is the value that one element of a result has in
one flip; elements without an entry do not change in it. So a result with k open decisions knows k + 1 outcomes of each
element, stored in one vector, whatever the band leaves closed.

`Decision`  what one call decided: for each flip a weight, whose gradient is the slope of the ramp
`Block`     the entries that belong to one decision: which flip, and where in the result
`Layout`    blocks one after the other: the order of a vector of values
`Flips`     a layout and the values: the carrier
`Numbers`   the flips of all decisions of some layouts, numbered
"""

from __future__ import annotations

import itertools
import weakref
from collections.abc import Callable, Iterable
from typing import Any, TypeAlias

import torch
from torch import Tensor

from ..interface import Carried, attach
from .primitives import meet, take


class Decision:
    """The flips of one call: a weight for each, whose gradient is the slope. The rest is for `again`."""

    __slots__ = ("__weakref__", "distance", "of", "weight", "what")

    def __init__(self, weight: Tensor, distance: Tensor | None = None) -> None:
        self.weight = weight
        self.distance = distance if distance is not None and distance.numel() == 1 else None
        self.of: list[weakref.ref[Tensor]] = []
        self.what: tuple[Tensor, ...] = ()


class Block:
    """Entries of one decision: `flip` (None: flip i is entry i) and `at`, the flat position in the result.

    Compared by identity: results with the same block depend on the same flips at the same places.
    """

    __slots__ = ("at", "decision", "flip", "size")

    def __init__(self, decision: Decision, flip: Tensor | None, at: Tensor) -> None:
        self.decision = decision
        self.flip = flip
        self.at = at
        self.size = at.shape[0]

    @property
    def weight(self) -> Tensor:
        whole = self.decision.weight
        return whole if self.flip is None else whole.index_select(0, self.flip)

    def flips(self) -> Tensor:
        return torch.arange(self.size, device=self.at.device) if self.flip is None else self.flip


_Place: TypeAlias = "Tensor | int | None"
"""Where the entries of a layout are in a larger one: everywhere (None), the first so many, or at these places."""


class Layout:
    """Blocks in order. `base` is the layout of the first of them, as long as it may know what this one does not."""

    def __init__(self, blocks: tuple[Block, ...], base: Layout | None = None) -> None:
        self.blocks = blocks
        self.base = base
        self.size: int = sum([part.size for part in self._parts()])
        self._at: Tensor | None = None
        self._weight: Tensor | None = None
        self.joined: dict[int, tuple[weakref.ref[Layout], weakref.ref[Layout], _Place, _Place]] = {}
        self.moves: dict[Any, tuple[Layout, Tensor]] = {}

    def _parts(self) -> Iterable[Any]:
        if not self.blocks:
            return [Block(Decision(torch.zeros(0)), None, torch.zeros(0, dtype=torch.int64))]
        return self.blocks if self.base is None else (self.base, *self.blocks[len(self.base.blocks) :])

    @property
    def at(self) -> Tensor:
        """The flat positions of all entries."""
        if self._at is None:
            self._at = _cat([part.at for part in self._parts()])
            if self._weight is not None:  # a loop is not to keep the layouts of all its steps
                self.base = None
        return self._at

    @property
    def weight(self) -> Tensor:
        """The weights of all entries."""
        if self._weight is None:
            self._weight = _cat([part.weight for part in self._parts()])
            if self._at is not None:
                self.base = None
        return self._weight

    def plus(self, block: Block) -> Layout:
        return Layout((*self.blocks, block), self)


def _cat(parts: list[Tensor]) -> Tensor:
    return parts[0] if len(parts) == 1 else torch.cat(parts)


class Flips(Carried):
    """The carrier of a result: values of the entries of a layout. `plain`: a float without the gradient of flips. `of`:
    the tensor, its version and the index that it is a view of to the program: what is written to it is written there.
    """

    def __init__(self, layout: Layout, values: Tensor, plain: Tensor | None = None) -> None:
        self.layout = layout
        self.values = values
        self.plain = plain


def flips_of(x: Any) -> Flips | None:
    """`held`, asked most often."""
    pair = getattr(x, "_sll", None)
    if pair is None or type(pair[0]) is not Flips or pair[1] != x._version:
        return None
    found: Flips = pair[0]
    return None if found.within is not None and found.over() else found


def carry(region: Any, hard: Tensor, layout: Layout, values: Tensor) -> Tensor:
    """`hard`, which has these values in flips. A float gets their gradient at once, as if it went no further."""
    if not (hard.is_floating_point() or hard.is_complex()):
        return attach(region, hard, Flips(layout, values))
    out = meet(hard, layout.weight, layout.at, values)
    if layout.size > MOST and layout.size > MOST_PER_ELEMENT * hard.numel():
        hard, layout, values = _newest(region, hard, layout, values)
    return attach(region, out, Flips(layout, values, hard))


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
    region.approximate("flips", cut, "flips")
    return meet(hard, old.weight, layout.at[:cut], values[:cut]), Layout(layout.blocks[first:]), values[cut:]


def batched(x: Tensor) -> bool:
    """Whether which elements are open cannot be read: under `torch.vmap`."""
    if not torch._C._are_functorch_transforms_active():
        return False
    functorch = torch._C._functorch
    while functorch.is_functorch_wrapped_tensor(x):
        if functorch.is_batchedtensor(x):
            return True
        x = functorch.get_unwrapped(x)
    return False


def opened(mask: Tensor) -> tuple[Tensor, ...]:
    """Where a mask is true; where that cannot be read, everywhere. (The slope of what is not open is 0 then.)"""
    return (torch.ones(mask.shape, dtype=torch.bool) if batched(mask) else mask).nonzero(as_tuple=True)


# --- several layouts ---


class Numbers:
    """The flips of decisions, numbered: those of one after those of another."""

    def __init__(self, decisions: Iterable[Decision]) -> None:
        self.start: dict[Decision, int] = {}
        self.size = 0
        for decision in decisions:
            if decision not in self.start:
                self.start[decision] = self.size
                self.size += decision.weight.shape[0]

    @classmethod
    def of(cls, *layouts: Layout) -> Numbers:
        return cls(block.decision for layout in layouts for block in layout.blocks)

    def numbers(self, layout: Layout) -> Tensor:
        """Of the flips of all entries."""
        if not layout.blocks:
            return torch.zeros(0, dtype=torch.int64)
        starts = [[self.start[block.decision], block.size] for block in layout.blocks]
        start, size = torch.tensor(starts, device=layout.at.device).unbind(1)
        return _cat([block.flips() for block in layout.blocks]) + start.repeat_interleave(size)

    def layout(self, number: Tensor, at: Tensor) -> Layout:
        """Entries of flips with these numbers, which rise."""
        start = torch.tensor([*self.start.values(), self.size], device=number.device)
        size = torch.searchsorted(number, start).diff()
        flips, sizes = number - start[:-1].repeat_interleave(size), size.tolist()
        return Layout(tuple(map(Block, self.start, flips.split(sizes), at.split(sizes))))  # type: ignore[no-untyped-call]

    def grouped(self, number: Tensor, at: Tensor) -> tuple[Layout, Tensor]:
        """Entries, each flip once at each place, and which of them each of the given ones is."""
        many = int(at.max()) + 1 if at.numel() else 1
        keys, entry = torch.unique(number * many + at, return_inverse=True)
        return self.layout(keys // many, keys % many), entry


def join(a: Layout, b: Layout) -> tuple[Layout, _Place, _Place]:
    """A layout with the entries of both, and where they are in it."""
    if a is b:
        return a, None, None
    known = a.joined.get(id(b))
    if known is not None and known[0]() is b and (whole := known[1]()) is not None:
        return whole, known[2], known[3]
    found: tuple[Layout, _Place, _Place]
    if a.blocks[: len(b.blocks)] == b.blocks:
        found = a, None, b.size
    elif b.blocks[: len(a.blocks)] == a.blocks:
        found = b, a.size, None
    else:
        found = _joined(a, b)
    whole, refs = found[0], (weakref.ref(b), weakref.ref(found[0]))
    a.joined[id(b)] = *refs, *found[1:]
    if whole is not a and whole is not b:
        whole.joined[id(a)] = weakref.ref(a), refs[1], None, found[1]
        whole.joined[id(b)] = *refs, None, found[2]
    return found


def _joined(a: Layout, b: Layout) -> tuple[Layout, _Place, _Place]:
    """Blocks of `b` that `a` has not come after those of `a`."""
    ends = list(itertools.accumulate([block.size for block in a.blocks], initial=0))
    starts, end, blocks = dict(zip(a.blocks, ends)), a.size, list(a.blocks)
    ranges: list[Any] = []
    for block in b.blocks:
        start = starts.get(block)
        if start is not None:
            ranges.append((start, start + block.size))
            continue
        same = [other for other in a.blocks if other.decision is block.decision]
        if same:
            place, block = _matched(same, [(starts[x], starts[x] + x.size) for x in same], block, end)
            ranges.append(place)
            if not block.size:
                continue
        else:
            ranges.append((end, end + block.size))
        blocks.append(block)
        end += block.size
    return Layout(tuple(blocks), a) if len(blocks) > len(a.blocks) else a, a.size, _ranges(ranges, b.at.device)


def _matched(same: list[Block], ranges: list[Any], block: Block, end: int) -> tuple[Tensor, Block]:
    """Where the entries of another block of one decision are, in a layout with these blocks in these places, and those
    that are not, which go to the end.
    """
    at = torch.cat([*(other.at for other in same), block.at])
    keys = torch.cat([*(other.flips() for other in same), block.flips()])
    keys = keys * (int(at.max()) + 1 if at.shape[0] else 1) + at
    known, wanted = keys.split([at.shape[0] - block.size, block.size])  # type: ignore[no-untyped-call]
    ordered, order = known.sort()
    near = torch.searchsorted(ordered, wanted)
    there = torch.cat([ordered, keys.new_full((1,), -1)])[near] == wanted
    new = (~there).nonzero().squeeze(1)
    found = torch.cat([_ranges(ranges, at.device)[order], keys.new_zeros(1)])[near]
    found[new] = torch.arange(end, end + new.shape[0], device=at.device)
    return found, Block(block.decision, block.flips()[new], block.at[new])


def _ranges(ranges: list[Any], device: torch.device) -> Tensor:
    """Places that are given as ranges (first, end), neighbours together, or as tensors."""
    joined: list[Any] = []
    for part in ranges:
        if joined and not isinstance(part, Tensor) and not isinstance(joined[-1], Tensor) and joined[-1][1] == part[0]:
            joined[-1] = joined[-1][0], part[1]
        else:
            joined.append(part)
    found = [x if isinstance(x, Tensor) else torch.arange(*x, device=device) for x in joined]
    return _cat(found) if found else torch.zeros(0, dtype=torch.int64, device=device)


def values_on(x: Any, found: Flips | None, shape: torch.Size, layout: Layout) -> Any:
    """An operand of an elementwise function with a result of `shape`, at the entries of `layout`."""
    if not isinstance(x, Tensor):
        return x
    if found is None and x.numel() == 1:
        return x.detach().reshape(x.shape[:1])
    x = x if x.shape == shape else x.expand(shape)
    if found is None:
        return take(x, layout.at)
    place = join(layout, found.layout)[2]
    if place is None or isinstance(place, int) and place == layout.size:
        return found.values
    if isinstance(place, int):
        return torch.cat([found.values, take(x, layout.at[place:])])
    return take(x, layout.at).index_copy(0, place, found.values)


def spread(layout: Layout, key: Any, source: Callable[[], Tensor]) -> tuple[Layout, Tensor]:
    """The layout of a result whose element j is element ``source()[j]`` of the operand (or none of it), and which
    entry each entry comes from. `key` says how they move, if it can be said: moved again, they are the same blocks.
    """
    if not layout.blocks:
        return layout, layout.at
    if key is not None and key in layout.moves:
        return layout.moves[key]
    ordered, order = source().reshape(-1).sort(stable=True)
    first = torch.searchsorted(ordered, layout.at)
    counts = torch.searchsorted(ordered, layout.at, right=True) - first
    total = counts.cumsum(0)
    entry = torch.arange(layout.size, device=layout.at.device).repeat_interleave(counts)
    at = order[(first + counts - total)[entry] + torch.arange(entry.shape[0], device=entry.device)]
    ends = torch.tensor(list(itertools.accumulate([block.size for block in layout.blocks])), device=total.device)
    sizes = torch.diff(torch.cat([total.new_zeros(1), total])[ends], prepend=total.new_zeros(1)).tolist()
    flips = _cat([block.flips() for block in layout.blocks])[entry]
    decisions = [block.decision for block in layout.blocks]
    found = Layout(tuple(map(Block, decisions, flips.split(sizes), at.split(sizes)))), entry  # type: ignore[no-untyped-call]
    if key is not None:
        layout.moves[key] = found
    return found
