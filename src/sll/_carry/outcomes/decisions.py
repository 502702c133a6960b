"""A decision: which side of a boundary, per element, and an identity.

`Decision` is the weight of the outcome above the boundary, with an identity: two results of the same decision move
together, results of different decisions are independent.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from typing import Any

import torch
from torch import Tensor

from ..._ops.band import band_offset
from ..._ops.bits import pick
from ..._ops.env import compiling
from ..._rules.widths import Width, half_width, watch_of
from .sites import Site
from .writes_seen import Kept, Later

__all__ = ["Decision"]


class Decision:
    """Which side of a boundary, per element, and an identity.

    `offset` is the position in the band, from -1/2 (below) to 1/2 (above); `weight` is the weight of the side above,
    ``offset + 1/2``.
    `key` identifies the decision: equal keys (tensors compared by identity) are the same decision. The offset is a
    thunk because many masks are never asked for it. `site` is where it was made, if that is known.
    """

    def __init__(self, key: tuple[Any, ...], offset: Callable[[], Tensor], site: Site | None = None) -> None:
        self.key = key
        self.site = site
        self._offset = Later(offset)
        self.side: Callable[[Decision], Tensor] | None = None
        """Where known, the mask of the elements at which the hard program is above. (It is given the decision: holding
        it would be a cycle, and keep tensors alive.)
        """

    def offset(self) -> Tensor:
        found: Tensor = self._offset()
        return found

    def weight(self) -> Tensor:
        return self.offset() + 0.5

    def taken(self) -> Tensor:
        """Mask of the elements at which the hard program is above. The offset alone does not tell: where it is a
        probability, the program may well have taken the less likely side.
        """
        return self.offset() > 0 if self.side is None else self.side(self)

    def same(self, other: Decision) -> int:
        """1: the same decision, -1: the same with the sides swapped, 0: another decision."""
        a, b = self.key, other.key
        if self is other:
            return 1
        if a[0] != b[0]:  # the kind, a string
            return 0
        if a[0] == "placed":
            return int(a[1].same(b[1])) if equal_keys(a[2:], b[2:]) else 0
        # Asked thousands of times where decisions feed back, and nearly always about other tensors.
        if a[0] != "boundary":
            return 0 if _differ(a[1], b[1]) else int(equal_keys(a, b))
        if not _differ(a[1], b[1]) and not _differ(a[3], b[3]) and equal_keys(a, b):
            return 1
        if _differ(a[1], b[3]) or _differ(a[3], b[1]):
            return 0
        return -int(equal_keys((a[1], a[2], a[5]), (b[3], b[4], b[5])) and equal_keys(a[3:5], b[1:3]))

    def undecided(self) -> Tensor:
        """Mask of the elements strictly inside the band."""
        return self.offset().abs() < 0.5


def _differ(a: Any, b: Any) -> bool:
    """Whether one is a tensor that the other is not."""
    return a is not b and (isinstance(a, Tensor) or isinstance(b, Tensor))


def equal_keys(a: Any, b: Any) -> bool:
    if isinstance(a, (tuple, list)):
        if not isinstance(b, (tuple, list)) or len(a) != len(b):
            return False
        for x, y in zip(a, b):  # noqa: SIM110 (asked thousands of times where decisions feed back: no generators)
            if not equal_keys(x, y):
                return False
        return True
    if isinstance(a, Tensor) or callable(a):
        return a is b
    if isinstance(a, (int, float)) and isinstance(b, (int, float)):  # x > 0 and x > 0.0 are the same decision
        return a == b
    if isinstance(a, Width):
        return isinstance(b, Width) and a.same(b)
    if isinstance(a, (str, slice, torch.dtype, type(None), type(Ellipsis))):
        return type(a) is type(b) and bool(a == b)
    return not compiling() and a is b  # (Dynamo cannot ask)


def offset_at(
    distance: Tensor,
    eps: float | Tensor | Width,
    limit: float = math.inf,
    nan: float = -0.5,
    true_distance: Callable[[], Tensor] | None = None,
) -> Tensor:
    """Where in a band of half-width `eps`, at most `limit` (a tensor is known to be); see `band_offset`.
    (`true_distance` is for traces.)
    """
    half = eps if isinstance(eps, Tensor) else half_width(eps, distance, limit)
    offset = band_offset(distance, half, nan)
    watch = watch_of(eps)
    if watch is not None:
        watch.offset(distance, offset, half, limit, None if true_distance is None else true_distance())
    return offset


def decided_by(weight: Tensor) -> Decision:
    """A decision like no other, with a given weight."""
    return decided_at(weight - 0.5)


def decided_at(offset: Tensor) -> Decision:
    """A decision like no other, with a given offset."""
    return Decision(("offset", offset), lambda: offset)


def placed(
    decision: Decision, shape: Sequence[int], how: tuple[Any, ...], move: Callable[[Tensor], Tensor]
) -> Decision:
    """`decision` after its tensor of shape `shape` went through the shape op `move`, identified by `how`."""
    moved = Decision(("placed", decision, tuple(shape), how), lambda: move(decision.offset().expand(shape)))
    if decision.side is not None:  # or only the hard value knows what is at a tie, also after the move
        moved.side = lambda _: move(torch.where(decision.taken(), 0.5, -0.5).expand(shape)) > 0
    return moved


def shows(x: Tensor, above: Any, at_ties: bool = False) -> Callable[[Decision], Tensor]:
    """Where `x`, as it is now, is `above` (or what that returns). `at_ties`: asked there only, for the offset tells."""
    kept = Kept(x.detach())  # an alias, because `x` will hold on to the decision

    def side(decision: Decision) -> Tensor:
        found, by_offset = kept.found(), decision.offset() > 0
        if found is None:
            return by_offset
        shown: Tensor = found[0] == (above() if callable(above) else above)
        return pick(decision.offset() == 0, shown, by_offset) if at_ties else shown

    return side


_UNKNOWN = -1


def version_of(x: Any) -> int:
    """Counts the writes into a tensor. While compiling there is no counter: there the in-place rules alone keep
    carriers fresh.
    """
    if not isinstance(x, Tensor):
        return 0
    return _UNKNOWN if compiling() else x._version


def unchanged(x: Any, version: int) -> bool:
    """Whether `x` is as it was at `version`, as far as that is known."""
    now = version_of(x)
    return now in (version, _UNKNOWN) or version == _UNKNOWN
