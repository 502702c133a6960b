"""Where a decision was made: what is remembered of a call until somebody asks for its distances.

Most masks are never asked for their distances, and a step whose value is all that is wanted computes it in one pass
(`ramp`). So a source remembers its operands, and works out distances later (`Late`), at the latest before
one of the operands is written to: the region says so at every write it sees (`settle`). A promise of outcomes keeps its
operands as they were (`Kept`).
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
from .writes_seen import Late, can_wait

__all__ = ["Site"]


def _distance(x: Any, threshold: Any, shift: float) -> tuple[Tensor, Tensor | None]:
    """Signed, and the n of the nearest ``n + shift``, without gradient."""
    if threshold is not None:
        a, b = wide(x, threshold)
        distance = a - b
        if isinstance(a, Tensor) and isinstance(b, Tensor) and not compiling():
            # Equal infinities tie. (Compiled, `ramp` sees to it, and a policy's width does without: it would be slow.)
            distance = pick((a == b) & (distance != distance), distance.new_zeros(()), distance)
        return distance, None
    (x,) = wide(x)
    n = x.detach().round() if shift == 0.0 else x.detach().floor()
    # In this order it is exact for large numbers.
    return (x - n) - shift, n


class Site:
    """`x` and the boundaries it was compared with: `threshold`, or, if that is None, the numbers ``n + shift``.

    `x` may be the number and `threshold` the tensor.
    """

    def __init__(self, x: Any, threshold: Any, eps: float | Width, shift: float = 0.0) -> None:
        self._copies = compiling()
        if self._copies:  # which cost nothing where nobody writes to the operands: the compiler drops them
            x, threshold = (value.clone() if isinstance(value, Tensor) else value for value in (x, threshold))
        self.x = x
        self.threshold = threshold
        self.eps = eps
        self.shift = shift
        self._half: float | Tensor | None = None
        self._late: Late | None = None
        self._known: tuple[Tensor, Tensor | None] | None = None
        if can_wait(x, threshold):
            self._late = Late(lambda: _distance(x, threshold, shift), x, threshold)
        elif not self._copies:
            self._known = _distance(x, threshold, shift)

    def _found(self) -> tuple[Tensor, Tensor | None]:
        if self._late is not None:
            found: tuple[Tensor, Tensor | None] = self._late()
            return found
        if self._known is None:
            self._known = _distance(self.x, self.threshold, self.shift)
        return self._known

    def fresh(self) -> bool:
        """Whether the operands are known to be what they were."""
        return self._copies if self._late is None else self._late.fresh()

    def dtype(self) -> torch.dtype:
        """Of the tensor at the site."""
        x: Tensor = self.x if isinstance(self.x, Tensor) else self.threshold
        return x.dtype

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

    def ramp(
        self, jump: Jump, forward: str = "linear", later: bool = False, hard: Tensor | None = None
    ) -> Tensor | None:
        """The step that jumps so at this site, in the dtype of its distances, in one pass; None if it takes more.

        `later`: the operands may have been written to since. (`hard`: see `ramp`.)
        """
        x, level = self.x, self.threshold
        if not isinstance(x, Tensor) or isinstance(level, Tensor) and x.dim() < level.dim():
            x, level = level, x
            jump = jump._replace(below=jump.above, above=jump.below)
        if not suits(x, level) or not x.is_floating_point() or isinstance(self.eps, Watched):
            return None
        apart = later and not self.fresh()
        if isinstance(level, Tensor):
            one = level.dim() == 0 and level.device == x.device and level.is_floating_point()
            apart = apart or not one and not self._copies
        if apart and jump.kind != "boundary":
            return None
        if apart:  # of the distance, not of the operands
            if jump.at_tie != jump.at_nan and not (isinstance(level, (float, int)) and math.isfinite(level)):
                return None  # inf - inf is NaN, and a tie
            a, b = self.distance(), 0.0
            jump = jump if x is self.x else jump._replace(below=jump.above, above=jump.below)
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
        if self.threshold is not None:
            return found - (b.detach() if isinstance(b, Tensor) else b)
        return found - (found.round() if self.shift == 0.0 else found.floor()) - self.shift
