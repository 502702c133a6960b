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

from ..._ops.band import closed
from ..._ops.dtypes import wide
from ..._ops.fused import pick
from ..._ops.ramp import Jump, ramp, suits
from ..._ops.surrogates import alias
from ..._rules.widths import Watched, Width, half_width, numbers_learned
from .later import Later, as_now, over_soon, recorded


class Site:
    """`x` and the boundaries it was compared with: `threshold`, or, if that is None, the numbers ``n + shift``.

    `x` may be the number and `threshold` the tensor.
    """

    def __init__(self, x: Any, threshold: Any, eps: float | Width, shift: float = 0.0) -> None:
        self.operands = as_now(x), as_now(threshold)
        self.eps = eps
        if isinstance(eps, Width) and threshold is not None:
            eps.learned = numbers_learned(x, threshold)
        self.shift = shift
        self._at_integers = threshold is None
        self._dtype: torch.dtype = x.dtype if isinstance(x, Tensor) else threshold.dtype
        self._half: float | Tensor | None = None
        self._known: tuple[Tensor, Tensor | None] | None = None
        if over_soon(x, threshold):
            self.distance()

    def _found(self) -> tuple[Tensor, Tensor | None]:
        if self._known is None:
            self._known = recorded(self._distance, *self.operands)
        return self._known

    def _distance(self, x: Any, threshold: Any) -> tuple[Tensor, Tensor | None]:
        """Signed, and the n of the nearest ``n + shift``, without gradient."""
        if threshold is not None:
            a, b = wide(x, threshold)
            distance = a - b
            if isinstance(a, Tensor) and isinstance(b, Tensor):
                # Equal infinities tie.
                distance = torch.where((a == b) & (distance != distance), 0.0, distance)
            return distance, None
        (x,) = wide(x)
        n = x.detach().round() if self.shift == 0.0 else x.detach().floor()
        # In this order it is exact for large numbers.
        return (x - n) - self.shift, n

    def dtype(self) -> torch.dtype:
        """Of the tensor at the site."""
        return self._dtype

    def distance(self) -> Tensor:
        return self._found()[0]

    def nearest(self) -> Tensor:
        """The n, without gradient."""
        found = self._found()[1]
        assert found is not None
        return found

    def outside(self) -> float | None:
        """How far one number is from its boundary, if that is certainly out of the band. (Quicker than `distance`.)"""
        if self._at_integers or type(self.eps) is not float:
            return None
        if any(isinstance(x, Tensor) and x.numel() != 1 for x in self.operands):
            return None
        a, b = (x.item() if isinstance(x, Tensor) else x for x in self.operands)
        return a - b if closed(a, b, self.eps) else None

    def width(self, limit: float = math.inf) -> float | Tensor | Width:
        """The half-width, asked of a policy once. (With a trace it is asked where the distances are known.)"""
        if not isinstance(self.eps, Width) or self.eps.watch is not None:
            return self.eps
        if self._half is None:
            self._half = half_width(self.eps, self.distance(), limit)
        return self._half

    def ramp(self, jump: Jump, forward: str = "linear") -> Tensor | None:
        """The step that jumps so at this site, in the dtype of its distances, in one pass; None if it takes more."""
        x, level = self.operands
        swapped = not isinstance(x, Tensor) or isinstance(level, Tensor) and x.dim() < level.dim()
        if swapped:
            x, level = level, x
            jump = jump._replace(below=jump.above, above=jump.below)
        if not suits(x, level) or not x.is_floating_point() or isinstance(self.eps, Watched):
            return None
        one = not isinstance(level, Tensor) or level.dim() == 0 and level.device == x.device
        if not (one and (not isinstance(level, Tensor) or level.is_floating_point())):
            if jump.at_tie != jump.at_nan:
                return None  # inf - inf is NaN, and a tie
            a, b = self.distance(), 0.0  # of that
            jump = jump._replace(below=jump.above, above=jump.below) if swapped else jump
        else:
            a, b = wide(x, level) if level is not None else (*wide(x), 0.0)
            if isinstance(b, Tensor) and b.dim():
                a, b = torch.broadcast_tensors(a, b)  # type: ignore[no-untyped-call]
        half = self._number(jump.limit)
        return None if half is None else ramp(a, jump, half, forward, b)

    def _number(self, limit: float) -> float | None:
        """The half-width, if it is a number."""
        if not isinstance(self.eps, Width):
            return min(self.eps, limit)
        half = None if self.eps.watch is not None else self.width(limit)
        return half if isinstance(half, float) else None


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
        self.zero: tuple[Tensor, int] | None = None
        """The count of which it says above that it is 0."""
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
        if a[0] == b[0] == "placed":
            return a[1].same(b[1]) if equal_keys(a[2:], b[2:]) else 0
        if a[0] != b[0] or equal_keys(a, b):
            return int(a[0] == b[0])
        swapped = (*b[:1], *b[3:5], *b[1:3], *b[5:]) if a[0] == "boundary" else ()
        return -int(equal_keys(a, swapped))

    def undecided(self) -> Tensor:
        """Mask of the elements strictly inside the band."""
        return self.offset().abs() < 0.5


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
    return a is b


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
    now = alias(x)  # because `x` will hold on to the decision
    shown = Later(lambda: now == (above() if callable(above) else above))

    def side(decision: Decision) -> Tensor:
        found: Tensor = shown()
        return pick(decision.offset() == 0, found, decision.offset() > 0) if at_ties else found

    return side
