"""Where a decision was made: the operands, as they were, for whoever asks for distances.

Most masks are never asked for their distances, and a step whose value is all that is wanted computes it in one pass
(`ramp`).
"""

from __future__ import annotations

import math
from typing import Any

import torch
from torch import Tensor

from ..._ops.bits import pick, suits
from ..._ops.dtypes import wide
from ..._ops.env import compiling
from ..._ops.ramp import Jump, ramp
from ..._ops.samples import sample
from ..._rules.widths import Watched, Width, half_width
from .writes_seen import Kept, over_soon, recorded

__all__ = ["Site"]


def _own(x: Any) -> Any:
    """A copy where writes are not seen: in compiled code, which drops it if there is none, and in memory that NumPy or
    somebody else has, too.
    """
    if not isinstance(x, Tensor):
        return x
    return x.clone() if compiling() or not x.untyped_storage().resizable() else x


class Site:
    """`x` and the boundaries it was compared with: `threshold`, or, if that is None, the numbers ``n + shift``.

    `x` may be the number and `threshold` the tensor.
    """

    def __init__(self, x: Any, threshold: Any, eps: float | Width, shift: float = 0.0) -> None:
        soon = not compiling() and over_soon(x, threshold)
        self.operands = Kept(x, threshold) if soon else Kept(_own(x), _own(threshold))
        self.eps = eps
        self.shift = shift
        self._at_integers = threshold is None
        self._dtype: torch.dtype = x.dtype if isinstance(x, Tensor) else threshold.dtype
        self._half: float | Tensor | None = None
        self._known: tuple[Tensor, Tensor | None] | None = None
        if soon:
            self.distance()

    def _found(self) -> tuple[Tensor, Tensor | None]:
        if self._known is None:
            self._known = recorded(self._distance, *self.operands())
        return self._known

    def _distance(self, x: Any, threshold: Any) -> tuple[Tensor, Tensor | None]:
        """Signed, and the n of the nearest ``n + shift``, without gradient."""
        if threshold is not None:
            a, b = wide(x, threshold)
            distance = a - b
            if isinstance(a, Tensor) and isinstance(b, Tensor) and not compiling():
                # Equal infinities tie. (Compiled, `ramp` sees to it, and a policy's width does without: it is slow.)
                distance = pick((a == b) & (distance != distance), distance.new_zeros(()), distance)
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

    def width(self, limit: float = math.inf) -> float | Tensor | Width:
        """The half-width, asked of a policy once. (With a trace it is asked where the distances are known.)"""
        if not isinstance(self.eps, Width) or self.eps.watch is not None or compiling():
            return self.eps
        if self._half is None:
            self._half = half_width(self.eps, self.distance(), limit)
        return self._half

    def ramp(self, jump: Jump, forward: str = "linear", hard: Tensor | None = None) -> Tensor | None:
        """The step that jumps so at this site, in the dtype of its distances, in one pass; None if it takes more.
        (`hard`: see `ramp`.)
        """
        found = self.operands.found()
        if found is None:
            return None
        x, level = found
        swapped = not isinstance(x, Tensor) or isinstance(level, Tensor) and x.dim() < level.dim()
        if swapped:
            x, level = level, x
            jump = jump._replace(below=jump.above, above=jump.below)
        if not suits(x, level) or not x.is_floating_point() or isinstance(self.eps, Watched):
            return None
        one = not isinstance(level, Tensor) or level.dim() == 0 and level.device == x.device
        if not compiling() and not (one and (not isinstance(level, Tensor) or level.is_floating_point())):
            if jump.at_tie != jump.at_nan:
                return None  # inf - inf is NaN, and a tie
            a, b = self.distance(), 0.0  # of that
            jump = jump._replace(below=jump.above, above=jump.below) if swapped else jump
        else:
            a, b = wide(x, level) if level is not None else (*wide(x), 0.0)
            if isinstance(b, Tensor) and b.dim():
                a, b = torch.broadcast_tensors(a, b)  # type: ignore[no-untyped-call]
        half = self._number(a, b, jump.limit)
        return None if half is None else ramp(a, jump, half, forward, b, hard)

    def _number(self, a: Tensor, b: Any, limit: float) -> float | None:
        """The half-width, if it is a number."""
        if not isinstance(self.eps, Width):
            return min(self.eps, limit)
        if self.eps.watch is not None:
            return None
        if self._half is None:
            self._half = self.eps.at(lambda: self._sample(a, b), limit) if a.numel() else min(1.0, limit)
        return None if isinstance(self._half, Tensor) else self._half

    def _sample(self, a: Tensor, b: Any) -> Tensor:
        """Distances to the boundaries, of some elements."""
        found = sample(a)
        if not self._at_integers:
            return found - (b.detach() if isinstance(b, Tensor) else b)
        return found - (found.round() if self.shift == 0.0 else found.floor()) - self.shift
