"""Times, taken in turns: A B C B C A …, so that all see the same machine, and ratios of one round at a time."""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from statistics import median, quantiles

import torch

SLOW = 1.0
"""Seconds: what takes longer than this in one call is measured in the first `FEW` rounds only."""
FEW = 3


@dataclass(frozen=True)
class Clock:
    device: str
    rounds: int
    least: float
    """Seconds: a short call is repeated for this long in its turn."""
    timer: Callable[[], float] = time.perf_counter

    def once(self, call: Callable[[], object], times: int = 1) -> float:
        """Seconds per call."""
        if self.device == "cuda":
            torch.cuda.synchronize()
        start = self.timer()
        for _ in range(times):
            call()
        if self.device == "cuda":
            torch.cuda.synchronize()
        return (self.timer() - start) / times

    def alone(self, threads: int) -> Clock:
        """The same for what runs on one thread: processor time, which others on the machine disturb less."""
        one = self.device == "cpu" and threads == 1
        return replace(self, timer=time.process_time) if one else self

    def interleaved(
        self,
        calls: Mapping[str, Callable[[], object]],
        rounds: int | None = None,
        most: float | None = None,
        fewest: int = FEW,
    ) -> dict[str, list[float]]:
        """Seconds per call, a list of rounds for each. Two calls before the first round warm up (and compile).

        Where all rounds would take longer than `most` seconds there are fewer, but not under `fewest`.
        """
        rounds = self.rounds if rounds is None else rounds
        seconds = {}
        for name, call in calls.items():
            call()
            seconds[name] = self.once(call)
        if most is not None:
            rounds = min(rounds, max(fewest, int(most / sum(max(self.least, t) for t in seconds.values()))))
        inner = {name: max(1, int(self.least / max(t, 1e-7))) for name, t in seconds.items()}
        samples: dict[str, list[float]] = {name: [] for name in calls}
        order = list(calls)
        for turn in range(rounds):
            for name in order:
                if turn < FEW or seconds[name] < SLOW:
                    samples[name].append(self.once(calls[name], inner[name]))
            order.append(order.pop(0))  # what comes after another finds its caches: nobody always comes after the same
        return samples


def ratios(samples: Sequence[float], base: Sequence[float]) -> list[float]:
    """Round by round."""
    return [a / b for a, b in zip(samples, base)]


def spread(samples: Sequence[float]) -> tuple[float, float, float]:
    """Median, and the quartiles around it."""
    if len(samples) < 2:
        return samples[0], samples[0], samples[0]
    low, _, high = quantiles(samples, n=4, method="inclusive")
    return median(samples), low, high
