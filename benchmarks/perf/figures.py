"""What is measured, and what it is held against: one `Figure` for each cell of a table."""

from __future__ import annotations

import os
import platform
import shutil
from collections.abc import Sequence
from dataclasses import dataclass, field
from importlib import metadata
from pathlib import Path
from typing import Any

import torch
from timing import spread

import sll


@dataclass(frozen=True)
class Target:
    text: str
    limit: float
    at_least: bool = False

    def reached(self, value: float) -> bool:
        return value >= self.limit if self.at_least else value <= self.limit

    def __str__(self) -> str:
        return f"{'≥' if self.at_least else '≤'} {self.limit:g}"


EAGER = Target("eager elementwise op, relative to the straight-through idiom", 1.0)
COMPILED = Target("compiled elementwise op, relative to the compiled clipped straight-through Function", 1.1)
SOFT = {
    "sign": Target("SoftTorch's sign, relative to sll", 5.0, at_least=True),
    "round": Target("SoftTorch's round, relative to sll", 50.0, at_least=True),
}
OLD = {
    "sign": Target("published 0.1.5, sign, relative to sll", 4.0, at_least=True),
    "round": Target("published 0.1.5, round, relative to sll", 10.0, at_least=True),
}
SAVED = Target("bytes per element saved for backward beyond the inputs and the hard op", 1.0)
CALL = Target("µs more for a call that is not discrete than in an empty mode", 0.5)
STEP = Target("% more for a training step of a network without decisions", 2.0)
STEP_IN_A_MODE = Target("% more for such a step than in an empty mode", 2.0)
PIPELINE = Target("pipeline, relative to its hand-written straight-through version", 1.5)
COMPILE_TIME = Target("time of compiling a program, relative to its straight-through version by hand", 1.5)
COMPILED_RUN = Target("compiled program, relative to the fastest version by hand with the same derivative", 1.2)


@dataclass(frozen=True)
class Figure:
    table: str
    row: str
    column: str
    unit: str
    """``"x"`` (a ratio), ``"us"``, ``"%"`` or ``"B"`` (bytes per element)."""
    samples: tuple[float, ...]
    target: Target | None = None
    seconds: tuple[float, ...] = ()
    """The times behind the ratios."""
    base: str = ""
    """What the ratios are to, where that differs within a table."""

    @property
    def median(self) -> float:
        return spread(self.samples)[0]

    @property
    def reached(self) -> bool | None:
        return None if self.target is None else self.target.reached(self.median)

    @property
    def close(self) -> bool:
        """Whether the limit lies within the quartiles: another run may say otherwise."""
        _, low, high = spread(self.samples)
        return self.target is not None and low < self.target.limit < high

    def __str__(self) -> str:
        middle, low, high = spread(self.samples)
        return number(middle) if low == high else f"{number(middle)} ({number(low)} … {number(high)})"

    def to_dict(self) -> dict[str, Any]:
        middle, low, high = spread(self.samples)
        return {
            "table": self.table, "row": self.row, "column": self.column, "unit": self.unit,
            "median": middle, "quartiles": [low, high], "samples": list(self.samples), "seconds": list(self.seconds),
            "base": self.base,
            "target": None if self.target is None else {"text": self.target.text, "limit": str(self.target)},
            "reached": self.reached, "limit within the quartiles": self.close,
        }  # fmt: skip


def number(value: float) -> str:
    if abs(value) >= 100:
        return f"{value:.0f}"
    return f"{value:.1f}" if abs(value) >= 10 else f"{value:.2f}".replace("-0.00", "0.00")


@dataclass
class Results:
    figures: list[Figure] = field(default_factory=list)
    captions: dict[str, str] = field(default_factory=dict)
    """Of each table: what is measured, and relative to what."""
    notes: list[str] = field(default_factory=list)
    listed: list[str] = field(default_factory=list)
    """Tables with one figure a line, the worst first."""

    def note(self, text: str) -> None:
        if text not in self.notes:
            self.notes.append(text)

    def tables(self) -> list[str]:
        return list(dict.fromkeys(figure.table for figure in self.figures))

    def of(self, table: str) -> list[Figure]:
        return [figure for figure in self.figures if figure.table == table]

    def worst_first(self, table: str) -> list[Figure]:
        """Relative to their limits; those that have none at the end."""
        figures = self.of(table)
        held = [figure for figure in figures if figure.target is not None]
        held.sort(key=lambda figure: figure.median / figure.target.limit, reverse=True)
        free = sorted((f for f in figures if f.target is None), key=lambda figure: figure.median, reverse=True)
        return held + free

    def verdict(self) -> str:
        """One line for all figures that have a limit."""
        reached = [figure.reached for figure in self.figures if figure.target is not None]
        return f"{sum(reached)} of {len(reached)} figures are within their limits."

    def verdicts(self) -> list[tuple[Target, list[Figure]]]:
        targets = dict.fromkeys(figure.target for figure in self.figures if figure.target is not None)
        return [(target, [f for f in self.figures if f.target == target]) for target in targets]


def cpu() -> str:
    try:
        for line in Path("/proc/cpuinfo").read_text().splitlines():
            if line.startswith("model name"):
                return line.split(":", 1)[1].strip()
    except OSError:
        pass
    return platform.processor() or platform.machine()


def version_of(package: str) -> str | None:
    try:
        return metadata.version(package)
    except metadata.PackageNotFoundError:
        return None


def facts(device: str, threads: Sequence[int], rounds: int, quick: bool) -> dict[str, Any]:
    """What the figures depend on."""
    compiler = next((name for name in ("g++", "clang++") if shutil.which(name)), None)
    load = os.getloadavg()[0] if hasattr(os, "getloadavg") else None
    return {
        "sll": sll.__version__, "torch": torch.__version__, "python": platform.python_version(),
        "softtorch": version_of("softtorch"), "system": f"{platform.system()} {platform.machine()}", "cpu": cpu(),
        "cores": os.cpu_count(), "gpu": torch.cuda.get_device_name() if device == "cuda" else None, "device": device,
        "threads": list(threads), "c++ compiler": compiler, "rounds": rounds, "quick": quick,
        "load average before": None if load is None else round(load, 1),
    }  # fmt: skip
