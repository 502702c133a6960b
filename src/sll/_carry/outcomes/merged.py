"""One decision per element, where a tree of them has become too deep."""

from __future__ import annotations

import functools
import weakref
from collections.abc import Callable
from typing import TypeAlias

import torch
from torch import Tensor
from torch.compiler import is_compiling

from ..._ops import merged
from ..._ops.bits import pick
from .carriers import Outcomes, known_constant, outcomes
from .decisions import Decision, shows
from .expectations import probability

_Part: TypeAlias = tuple[Callable[[], Tensor], Decision]
"""Where a merged decision is which one. Hardly any mask is asked for, except the root's."""


class _Merged(Decision):
    """One decision per element, taken from a tree: at each element the one that is undecided there."""

    def __init__(self, offset: Tensor, parts: list[_Part]) -> None:
        super().__init__(("merged", offset), lambda: offset)
        self.parts = parts
        # Merged decisions are merged again, step after step: without a memory the search walks every path. It holds
        # on to no decision, because decisions hold on to each other, and cycles would keep tensors alive.
        self._found: dict[int, tuple[weakref.ref[Decision], tuple[Tensor, int] | None]] = {}

    def covers(self, other: Decision) -> tuple[Tensor, int] | None:
        if is_compiling():
            return self._search(other)
        if not self.bits & other.bit:
            return None
        known = self._found.get(id(other))
        if known is None or known[0]() is not other:
            known = self._found[id(other)] = (weakref.ref(other), self._search(other))
        return known[1]

    @functools.cached_property
    def bits(self) -> int:
        """Of all decisions that it may stand for."""
        found = 0
        for _, part in self.parts:
            found |= part.bit | (part.bits if isinstance(part, _Merged) else 0)
        return found

    def _search(self, other: Decision) -> tuple[Tensor, int] | None:
        for mask, part in self.parts:
            sign = part.same(other)
            if sign:
                return mask(), sign
            inner = part.covers(other)
            if inner is not None:
                return mask() & inner[0], inner[1]
        return None


def merge(x: Tensor) -> tuple[Outcomes, list[_Part]]:
    """The tree of `x` with one decision per *element*: exact wherever at most one is undecided.

    A program that decides again and again on what it decided before (a spike resets the membrane that makes the next
    spike) has a tree that doubles at every step, but at any one element hardly ever are two decisions undecided at
    once. So at each element keep the decision that is, with its two outcomes. Where two are (a share of order `eps`),
    a bool falls back to the probability of True and a number to the outer decision. The error vanishes with `eps`,
    but the result is not the derivative of one continuous function; `forward="linear"` therefore never uses this.
    """
    tree = outcomes(x)
    assert tree is not None
    at_once = _merged_at_once(x, tree)
    if at_once is not None:
        return at_once
    offset = tree.decision.offset().expand(x.shape)
    undecided = offset.abs() < 0.5
    side = offset > 0
    sides: list[tuple[Tensor, Tensor, Tensor, Tensor, list[_Part]]] = []
    for outcome in (tree.below, tree.above):
        if outcomes(outcome) is None:
            below = torch.full((), -0.5, dtype=offset.dtype, device=offset.device)
            sides.append((outcome, outcome, below, below > 0, []))
        else:
            inner, parts = merge(outcome)
            sides.append((inner.below, inner.above, inner.decision.offset(), inner.decision.undecided(), parts))
    (b0, a0, d0, u0, p0), (b1, a1, d1, u1, p1) = sides
    below = _either(undecided, tree.below, _either(side, b1, b0))
    above = _either(undecided, tree.above, _either(side, a1, a0))
    merged = pick(undecided, offset, pick(side, d1, d0))
    if x.dtype == torch.bool:
        both = undecided & (u0 | u1)
        below, above = below & ~both, above | both
        merged = pick(both, probability(x) - 0.5, merged)
        undecided = undecided & ~both
    masks: dict[int, tuple[Tensor, Decision]] = {id(tree.decision): (undecided, tree.decision)}
    for here, inner_parts in ((~undecided & ~side, p0), (~undecided & side, p1)):
        for of, decision in inner_parts:  # both sides may know the same decision
            mask = here & of()
            before = masks.get(id(decision))
            masks[id(decision)] = (mask if before is None else before[0] | mask, decision)
    parts = [(_known(mask), decision) for mask, decision in masks.values()]
    decision = _Merged(merged, parts)
    decision.side = shows(x, above)
    return Outcomes(decision, below, above), parts


def _known(mask: Tensor) -> Callable[[], Tensor]:
    return lambda: mask


def _merged_at_once(x: Tensor, tree: Outcomes) -> tuple[Outcomes, list[_Part]] | None:
    """`merge` of a mask with a mask on each side, of which each rises or falls with one decision or has none."""
    if x.dtype != torch.bool or is_compiling() or tree.polarity:
        return None
    inner = [outcomes(side) for side in (tree.below, tree.above)]
    if any(side is not None and not side.polarity for side in inner):
        return None
    if inner[0] is not None and inner[1] is not None and inner[0].decision is inner[1].decision:
        return None
    low, high = (None if side is None else side.decision.offset().expand(x.shape) for side in inner)
    root = tree.decision.offset().expand(x.shape)
    signs = [0 if side is None else side.polarity for side in inner]
    found = merged.merge(root, low, high, tree.below, tree.above, x, *signs)
    if found is None:
        return None
    parts: list[_Part] = [(_known(found.root), tree.decision)]
    for side, above in zip(inner, (False, True)):
        if side is not None:
            parts.append((_on_side(found.root, root.detach(), side.decision, above), side.decision))
    decision = _Merged(found.offset, parts)
    decision.side = lambda _: found.taken
    return Outcomes(decision, found.below, found.above), parts


def _on_side(root: Tensor, offset: Tensor, decision: Decision, above: bool) -> Callable[[], Tensor]:
    """Where the root is not what counts, and `decision`, on that side of it, is undecided."""
    return lambda: ~root & (offset > 0 if above else offset <= 0) & decision.undecided()


def _either(mask: Tensor, a: Tensor, b: Tensor) -> Tensor:
    """``pick(mask, a, b)``, where constants are often known: half of the outcomes of a mask are."""
    x, y = known_constant(a), known_constant(b)
    if x is None and y is None or is_compiling():
        return pick(mask, a, b)
    if x is not None and x == y:
        return a
    if x is None:
        return a | mask.logical_not() if y else a & mask
    if y is None:
        return b | mask if x else b & mask.logical_not()
    return mask.clone() if x else mask.logical_not()
