"""Asking a policy how wide the band is, at one call."""

from __future__ import annotations

import math
import sys
from collections.abc import Callable
from numbers import Real
from typing import Any, Protocol

import torch
from torch import Tensor

from .._ops.callsite import call_site
from .._ops.env import dispatched, free_to_read
from .._ops.samples import sample
from ..policies import Call, Kind, Policy

_LOOKS, _AGAIN = 12, 16
"""Of a line of the program that has not taken a jump back in so many calls every 16th is looked at."""
TINY = 1e-30
"""No band is narrower: its slope has to be a float32."""


class Watch(Protocol):
    """A trace's eye on one decision."""

    def measure(self, distance: Tensor, half: Any, limit: Any) -> None:
        """Decisions are at these distances from their boundaries."""

    def enters(self, x: Tensor) -> Tensor:
        """An input of the decision; returns the input to go on with."""
        ...

    def arrives(self, x: Tensor) -> None:
        """Gradients arrive at the decision where they arrive at `x`."""

    def count(self, undecided: Tensor) -> None:
        """A mask with an element for each decision: those in the band."""

    def keeps_slope(self, elements: int, why: str) -> None:
        """So many more decisions have no ramp, for the program has a slope of its own there."""

    def scores(self, z: Tensor, distances: Tensor, half: float | Tensor) -> Tensor:
        """A choice is made among the scores `z`, whose gaps are `distances`."""
        ...

    def weights(self, weights: Tensor, each: bool = False) -> Tensor:
        """The weights of a choice, or of `each` element by itself."""
        ...

    def offset(
        self, distance: Tensor, offset: Tensor, half: Any, limit: Any, true_distance: Tensor | None = None
    ) -> Any:
        """A decision at `distance` from its boundary has this `offset`."""


class Width:
    """A policy at work at one call of an op. Part of the identity of decisions, in the place of a float.

    `record` is told the half-width once it is known; `watch` is the trace's, see `trace`; `place` is where the program
    decides, as `Call` has it.
    """

    def __init__(
        self,
        policy: Policy,
        kind: Kind,
        record: Callable[[float | Tensor], None] | None = None,
        watch: Watch | None = None,
        place: tuple[str, int, str, int] | None = None,
    ) -> None:
        self.policy = policy
        self.kind: Kind = kind
        self.record = record
        self.watch = watch
        self.place = place
        self.whole: bool = kind == "step" and getattr(policy, "WHOLE", False)
        """Whether the answer is the whole step, wherever steps end."""
        self.saw: bool = kind == "remainder" and getattr(policy, "WHOLE", False)
        """Whether a sawtooth keeps its own slope, and nothing else."""
        self.looks = _LOOKS if self.whole or self.saw else 0
        """How many more calls are looked at: does the program take their jump back?"""
        self.soft: bool = kind == "choice" and getattr(policy, "SOFT", False)
        """Whether the answer is the scale of a softmax, where gradients are local."""
        self.learned = 0
        """How many numbers are learned of the boundary, see `numbers_learned`."""
        self.joined = False
        """Whether it is that of a comparison whose sides meet: see `Joined`."""
        self._found: float | Tensor | None = None
        """Of a place: asked again, it is the same decision."""
        self.late: bool = getattr(policy, "WHOLE", False)
        """Whether it may be asked in backward: its answers do not change with time."""

    def skips(self) -> bool:
        """Whether nobody looks at this call. (A graph is made once: that is looked at.)"""
        if self.looks > 0 or dispatched():
            return False
        self.looks -= 1
        if self.looks % _AGAIN:
            return True
        self.looks = 1
        return False

    def subtracted(self, why: str) -> None:
        """It does: look at each call."""
        self.looks = sys.maxsize
        if self.watch is not None:
            self.watch.keeps_slope(0, why)

    def same(self, other: Width) -> bool:
        """Whether both give the same answer to the same distances."""
        return self.policy is other.policy and self.kind == other.kind

    def at(self, make: Callable[[], Tensor], limit: float = math.inf) -> float | Tensor:
        """The half-width for a call whose distances (any sample of them) `make` computes, at most `limit`."""
        found = self._found
        if found is None:
            found = self.policy.half_width(Call(self.kind, limit, make, self.place, self.learned))
            if self.place is not None:
                self._found = found
        if isinstance(found, Tensor):
            found = found.detach()
            if found.dim():
                raise ValueError(
                    f"{call_site(self.kind)}: {type(self.policy).__name__}.half_width must return one number, got "
                    f"shape {tuple(found.shape)} for a {self.kind}; reduce it, for example with .median()"
                )
            if free_to_read(found):
                found = float(found)
        if isinstance(found, Tensor):
            found = found.clamp(min=TINY, max=limit)
            if dispatched():
                # A reduction is computed once; the number itself, a dozen operations on a handful of other numbers,
                # the compiler would compute anew for every vector of elements.
                found = found.expand(16).amax()
        else:
            if not (type(found) is float and 0 < min(found, limit) < math.inf) and (
                isinstance(found, bool) or not isinstance(found, Real) or not 0 < min(found, limit) < math.inf
            ):
                raise ValueError(
                    f"{call_site(self.kind)}: {type(self.policy).__name__}.half_width must return a positive "
                    f"half-width, finite unless call.limit is, got {found!r} for a {self.kind}; distances of inf are "
                    "ties, and there may be none that are finite: leave them out, and return 1.0 then"
                )
            found = max(TINY, min(found, limit))
        if self.record is not None:
            self.record(found)
        return found


class Scale(float):
    """What a `Width` that is `soft` has found."""

    soft = True


class Joined(float):
    """The width of a comparison whose sides meet at the boundary: it needs no ramp."""

    joined = True


class Watched(float):
    """A fixed half-width, and who is told what is done with it."""

    watch: Watch


FAR_MORE = 8
"""So many times as many data as numbers that are learned."""
_PLAIN = (
    "Sub Rsub Add Mul Div Neg Exp Expand Select Unbind View Unsqueeze Squeeze Slice Alias Clone LazyClone Where".split()
)


def numbers_learned(*operands: Any) -> int:
    """How many numbers are learned of the boundary that far more data meet there. 0 where it is not that: what a layer
    or an earlier decision has made may meet one, too.
    """
    follows = [x for x in operands if isinstance(x, Tensor) and x.requires_grad]
    many = sum(x.numel() for x in follows if x.grad_fn is None)
    met = math.prod(torch.broadcast_shapes(*(x.shape for x in operands if isinstance(x, Tensor))))  # type: ignore[no-untyped-call]
    nodes: list[Any] = [x.grad_fn for x in follows if x.grad_fn is not None]
    seen: set[Any] = set()
    for node in nodes:
        if node in seen:
            continue
        seen.add(node)
        if hasattr(node, "variable"):
            many += node.variable.numel()
        elif type(node).__name__.rstrip("0123456789").removesuffix("Backward") in _PLAIN and len(nodes) < 16:
            nodes += [before for before, _ in node.next_functions if before is not None]
        else:
            return 0
    return many if FAR_MORE * many <= met else 0


def is_soft(eps: Any) -> bool:
    return type(eps) is not float and getattr(eps, "soft", False)


def watch_of(eps: Any) -> Watch | None:
    return None if type(eps) is float else getattr(eps, "watch", None)


def watched(width: float | Width, weights: Tensor) -> Tensor:
    """The weights of a choice, of which a trace is told."""
    watch = watch_of(width)
    return weights if watch is None else watch.weights(weights)


def half_width(eps: float | Width, distance: Tensor, limit: float = math.inf) -> float | Tensor:
    """The half-width of the bands around boundaries at these distances."""
    if isinstance(eps, Width):
        return eps.at(lambda: sample(distance), limit) if distance.numel() else min(1.0, limit)
    return min(eps, limit)


def in_units(
    z: Tensor,
    eps: float | Width,
    distances: Callable[[Tensor], Tensor],
    gaps: Callable[[Tensor], Tensor] | None = None,
) -> tuple[Tensor, float]:
    """Scores and half-width, in units in which the width is a number: what is computed with both depends on ``z / eps``
    only. `distances` is what a policy is shown of the scores (a sample); `gaps`, what a trace is: how far all decisions
    are from being open.
    """
    half = eps.at(lambda: distances(z)) if isinstance(eps, Width) else eps
    watch = watch_of(eps)
    if watch is not None:
        z = watch.scores(z, (gaps or distances)(z.detach()), half)
    return (z / half, 1.0) if isinstance(half, Tensor) else (z, half)
