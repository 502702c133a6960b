"""What every section measures with."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from types import ModuleType

import torch
from competitors import Op
from figures import Figure, Results, Target
from timing import Clock, ratios
from torch import Tensor


@dataclass
class Bench:
    clock: Clock
    threads: int
    sizes: Sequence[int]
    ops: Sequence[Op]
    quick: bool
    brief: bool
    turn: int
    """0 for the first number of threads."""
    results: Results
    softtorch: ModuleType | None
    published: ModuleType | None
    say: Callable[[str], None]

    @property
    def device(self) -> str:
        return self.clock.device

    @property
    def where(self) -> str:
        return "CUDA" if self.device == "cuda" else f"{self.threads} thread{'s' * (self.threads > 1)}"

    def add(
        self,
        table: str,
        column: str,
        samples: Mapping[str, Sequence[float]],
        base: str,
        targets: Mapping[str, Target] | None = None,
    ) -> None:
        """A column of ratios to `base`."""
        for row, seconds in samples.items():
            target = (targets or {}).get(row)
            values = ratios(seconds, samples[base])
            self.results.figures.append(Figure(table, row, column, "x", tuple(values), target, tuple(seconds)))


def both_ways(
    call: Callable[..., Tensor], inputs: Sequence[Tensor], g: Tensor, wrt: Sequence[Tensor] | None = None
) -> Callable[[], object]:
    """An input that gets no gradient is an error: that would be too fast."""
    wrt = inputs if wrt is None else wrt
    return lambda: torch.autograd.grad(call(*inputs), wrt, g)


def count(n: int) -> str:
    exponent = len(str(n)) - 1
    return f"n = 1e{exponent}" if n == 10**exponent else f"n = {n}"


def working(bench: Bench, calls: Mapping[str, Callable[[], object]], what: str) -> dict[str, Callable[[], object]]:
    """Those that run. What does not is part of the result."""
    found = {}
    for name, call in calls.items():
        try:
            call()
        except Exception as error:
            bench.results.note(f"{what}, {name}: {type(error).__name__}: {str(error).splitlines()[0][:200]}")
        else:
            found[name] = call
    return found
