"""What is known of the distances at a line of the program, and which of its decisions share a width."""

from __future__ import annotations

import math
import sys
from dataclasses import astuple, dataclass, field
from typing import Any, NamedTuple, TypeAlias

GROWS = 2.0
"""Medians that differ by this factor are of another scale."""
STARTS = 10.0
"""Distances that grow by this factor have begun near zero, as those of a head that starts there."""
FEW, SOME = 64, 8
"""Distances that say little about their scale, and next to nothing."""
CALLS = 64
"""Medians of so many calls of a step stand for all: of longer loops every second, every fourth …"""


class Distances(NamedTuple):
    """Of one call, those that are finite and not 0."""

    many: int
    median: float = 0.0
    smallest: float = math.inf
    largest: float = 0.0


def middle(medians: list[tuple[float, int]]) -> float:
    """The median of medians, each of so many numbers."""
    left = _many(medians) / 2
    for median, many in sorted(medians):
        left -= many
        if left <= 0:
            return median
    return 0.0


ALIKE = 1 + 1e-3
"""Distances that are no further apart say nothing of a scale."""


@dataclass
class Pool:
    """Decisions of one scale: the steps of a loop, the layers of a network that share a line and are alike."""

    first: int
    """The decision that a step of the pool begins with."""
    medians: float
    """The half-width is so many of them: whatever the units, and whatever lies far out."""
    steps: int = 0
    past: list[tuple[float, int]] = field(default_factory=list)
    """The medians of calls, and how many numbers each is of; `now`: in this step."""
    now: list[tuple[float, int]] = field(default_factory=list)
    calls: int = 0
    every: int = 1
    smallest: float = math.inf
    largest: float = 0.0
    latest: int = -1
    kept: float | None = None
    learned: int = 0
    """So many numbers are learned of the boundary that data meet there, `most` of them in one step."""
    most: int = 0

    def fits(self, found: Distances) -> bool:
        known = self.past + self.now
        if min(found.many, _many(known)) < FEW:
            return True
        return 1 / GROWS <= found.median / middle(known) <= GROWS

    def step(self) -> None:
        """A step is over. If its distances are far larger, those before have not shown their scale: forget them.
        (Scores that grow while a program learns are to leave the band.)
        """
        if min(_many(self.now), _many(self.past)) >= SOME and middle(self.now) > STARTS * middle(self.past):
            self.steps, self.past = 0, []
        self.steps, self.most = self.steps + 1, max(self.most, _many(self.now))
        self.past = self.past + self.now
        self.now, self.calls, self.every = [], 0, 1

    def add(self, found: Distances) -> None:
        if self.calls % self.every == 0:
            self.now.append((found.median, found.many))
            if len(self.now) > CALLS:
                self.now, self.every = self.now[::2], 2 * self.every
        self.calls += 1
        self.smallest, self.largest = min(self.smallest, found.smallest), max(self.largest, found.largest)

    def told(self, steps: int) -> bool:
        """Whether that is enough to keep: equal distances say nothing of a scale."""
        measured = self.steps + bool(self.now)
        return self.kept is not None or (measured >= steps and self.largest > self.smallest * ALIKE)

    @property
    def half(self) -> float:
        if self.kept is not None:
            return self.kept
        # A boundary that many data tell of is known by those nearby.
        each = max(self.most, _many(self.now)) / self.learned if self.learned else 1.0
        times = self.medians / math.sqrt(math.sqrt(max(each, 1.0)))
        return min(times * middle(self.past + self.now), sys.float_info.max)


def _many(medians: list[tuple[float, int]]) -> int:
    return sum(many for _, many in medians)


@dataclass
class Line:
    """The decisions of a line, numbered as they come in a step."""

    medians: float
    pools: list[Pool] = field(default_factory=list)
    of: dict[int, int] = field(default_factory=dict)
    """Which pool a decision is in."""
    last: dict[int, Distances] = field(default_factory=dict)

    def add(self, nth: int, found: Distances, steps: int, learned: int = 0) -> Pool | None:
        """The pool of the decision, which has now these distances; None if there were never any."""
        at = self.of.get(nth)
        if not found.many:
            return None if at is None else self.pools[at]
        if at is None:
            at = self.of[nth] = self._pool_for(nth, found, learned)
            if found.largest > found.smallest * ALIKE:  # (the steps of a loop share it: what was decided comes later)
                self.pools[at].learned = min(self.pools[at].learned, learned)
        pool = self.pools[at]
        if pool.kept is not None:
            return pool
        again = self.last.get(nth) == found  # (a checkpoint that runs twice, data that stay)
        self.last[nth] = found
        # (Or the same decision twice: of a step without end the last ones have one number.)
        if (nth == pool.first or (nth == pool.latest and not again)) and (pool.past or pool.now):
            pool.step()
            if pool.told(steps):
                pool.kept = pool.half
                return pool
        pool.latest = nth
        if not again:
            pool.add(found)
        return pool

    def _pool_for(self, nth: int, found: Distances, learned: int) -> int:
        for at in reversed(range(len(self.pools))):
            if self.pools[at].fits(found):
                return at
        self.pools.append(Pool(nth, self.medians, learned=learned))
        return len(self.pools) - 1

    def state(self) -> tuple[Any, ...]:
        """Numbers, and tuples and dicts of them."""
        last = {nth: tuple(d) for nth, d in self.last.items()}
        return self.medians, tuple(map(astuple, self.pools)), dict(self.of), last

    @classmethod
    def load(cls, state: tuple[Any, ...]) -> Line:
        medians, pools, of, last = state
        known = {nth: Distances(*d) for nth, d in last.items()}
        return cls(medians, [Pool(*numbers) for numbers in pools], dict(of), known)


ENOUGH = 12
"""Gradients near the boundary that tell something: of a line in a step, for data that stay are no more data."""
VANISHES, STAYS = 0.13, 0.4
"""Near the boundary a jump has the gradients that it has elsewhere in the band; a kink has a twentieth of those."""


Tally: TypeAlias = "tuple[float, int, float, int, int]"
"""The sums near the boundary and far from it, each with how many there are; and calls."""


@dataclass
class Sides:
    """Whether what a comparison decides between meets at its boundary: ``where(x > 0, x, 0.1 * x)``, ``x * (x > 0)``.

    Then nothing jumps there, and the difference of the sides vanishes with the distance ``d`` to the boundary. It is
    what arrives in backward: the mean logarithm of its size over ``|d| < h / 8``, and over ``h / 2 <= |d| <= h``.
    """

    of: dict[int, Tally] = field(default_factory=dict)
    """By decision of the line; what is below follows from it, and is asked at each gradient."""
    line: Tally = (0.0, 0, 0.0, 0, 0)
    steps: int = 0
    jumping: set[int] = field(default_factory=set)
    """The decisions that say that they jump: one suffices, where several call a function."""

    def add(self, nth: int, gradient: Any, distance: Any, half: float) -> None:
        """Of one call: tensors. Where nothing arrives nothing is known."""
        size, d = gradient.abs(), distance.abs()
        arrives = (size > 0) & (size < math.inf) & (d > 0)
        near, far = size[arrives & (d < half / 8)], size[arrives & (d >= half / 2) & (d <= half)]
        self._note(nth, (float(near.log().sum()), len(near), float(far.log().sum()), len(far), 1))

    def _note(self, nth: int, found: Tally) -> None:
        known = self.of[nth] = _both(self.of.get(nth, (0.0, 0, 0.0, 0, 0)), found)
        self.line, self.steps = _both(self.line, found), max(self.steps, known[4])
        if min(known[1], known[3]) >= ENOUGH and not _below(STAYS, known):
            self.jumping.add(nth)
        else:
            self.jumping.discard(nth)

    @property
    def meet(self) -> bool:
        enough = min(self.line[1], self.line[3]) >= ENOUGH * max(self.steps, 1)
        return enough and not self.jumping and _below(VANISHES, self.line)

    @classmethod
    def load(cls, of: dict[int, Tally]) -> Sides:
        found = cls()
        for nth, known in of.items():
            found._note(nth, known)
        return found


def _both(a: Tally, b: Tally) -> Tally:
    return a[0] + b[0], a[1] + b[1], a[2] + b[2], a[3] + b[3], a[4] + b[4]


def _below(share: float, known: Tally) -> bool:
    near, many_near, far, many_far, _ = known
    return near / many_near < math.log(share) + far / many_far
