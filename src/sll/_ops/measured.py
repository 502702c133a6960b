"""What is known of the distances at a line of the program, and which of its decisions share a width."""

from __future__ import annotations

import math
from dataclasses import astuple, dataclass, field
from typing import Any, NamedTuple

__all__ = ["Distances", "Line", "Pool"]

WINDOW, LEAST, MOST = 1.0, 0.02, 0.75
"""The classic window ``|d| <= 1``, where it holds such a share of the distances."""
SCALE = 2.0
"""Half-widths are so many root mean squares of the distances."""
GROWS = 2.0
"""Root mean squares that differ by this factor are of another scale."""
FEW, SOME = 64, 8
"""Distances that say little about their scale, and next to nothing."""


class Distances(NamedTuple):
    """Of one call, those that are finite and not 0."""

    many: int
    squares: float = 0.0
    smallest: float = math.inf
    largest: float = 0.0
    near: int = 0
    """Those in the window."""


@dataclass
class Pool:
    """Decisions of one scale: the steps of a loop, the layers of a network that share a line and are alike."""

    first: int
    """The decision that a step of the pool begins with."""
    steps: int = 0
    many: int = 0
    squares: float = 0.0
    smallest: float = math.inf
    largest: float = 0.0
    step_many: int = 0
    step_squares: float = 0.0
    near: int = 0
    step_near: int = 0
    latest: int = -1
    kept: float | None = None

    def fits(self, found: Distances) -> bool:
        if min(found.many, self.many + self.step_many) < FEW:
            return True
        ratio = found.squares / found.many / max(self._mean(), math.ulp(0.0))
        return 1 / GROWS**2 <= ratio <= GROWS**2

    def _mean(self) -> float:
        return (self.squares + self.step_squares) / (self.many + self.step_many)

    def step(self) -> None:
        """A step is over. If its distances have grown, those before have not shown their scale: forget them."""
        many, squares = self.step_many, self.step_squares
        if min(many, self.many) >= SOME and squares * self.many > GROWS**2 * self.squares * many:
            self.steps = self.many = self.near = 0
            self.squares = 0.0
        self.steps += 1
        self.many, self.squares, self.near = self.many + many, self.squares + squares, self.near + self.step_near
        self.step_many, self.step_squares, self.step_near = 0, 0.0, 0

    def add(self, found: Distances) -> None:
        self.step_many += found.many
        self.step_squares += found.squares
        self.step_near += found.near
        self.smallest, self.largest = min(self.smallest, found.smallest), max(self.largest, found.largest)

    def told(self, steps: int) -> bool:
        """Whether that is enough to keep: equal distances say nothing of a scale."""
        measured = self.steps + (self.step_many > 0)
        return self.kept is not None or (measured >= steps and self.largest > self.smallest * (1 + 1e-3))

    @property
    def half(self) -> float:
        if self.kept is not None:
            return self.kept
        if LEAST <= (self.near + self.step_near) / (self.many + self.step_many) <= MOST:
            return WINDOW
        half = SCALE * math.sqrt(self._mean())
        return max(half, self.smallest) if half < math.inf else self.largest  # (squares may be no numbers)


@dataclass
class Line:
    """The decisions of a line, numbered as they come in a step."""

    pools: list[Pool] = field(default_factory=list)
    of: dict[int, int] = field(default_factory=dict)
    """Which pool a decision is in."""
    last: dict[int, Distances] = field(default_factory=dict)

    def add(self, nth: int, found: Distances, steps: int) -> Pool | None:
        """The pool of the decision, which has now these distances; None if there were never any."""
        at = self.of.get(nth)
        if not found.many:
            return None if at is None else self.pools[at]
        if at is None:
            at = self.of[nth] = self._pool_for(nth, found)
        pool = self.pools[at]
        if pool.kept is not None:
            return pool
        again = self.last.get(nth) == found  # (a checkpoint that runs twice, data that stay)
        self.last[nth] = found
        # (Or the same decision twice: of a step without end the last ones have one number.)
        if (nth == pool.first or (nth == pool.latest and not again)) and pool.many + pool.step_many:
            pool.step()
            if pool.told(steps):
                pool.kept = pool.half
                return pool
        pool.latest = nth
        if not again:
            pool.add(found)
        return pool

    def _pool_for(self, nth: int, found: Distances) -> int:
        for at in reversed(range(len(self.pools))):
            if self.pools[at].fits(found):
                return at
        self.pools.append(Pool(nth))
        return len(self.pools) - 1

    def state(self) -> tuple[Any, ...]:
        """Numbers, and tuples and dicts of them."""
        return tuple(map(astuple, self.pools)), dict(self.of), {nth: tuple(d) for nth, d in self.last.items()}

    @classmethod
    def load(cls, state: tuple[Any, ...]) -> Line:
        pools, of, last = state
        return cls([Pool(*numbers) for numbers in pools], dict(of), {nth: Distances(*d) for nth, d in last.items()})
