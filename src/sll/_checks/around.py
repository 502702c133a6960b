"""Stretches of lines through the arguments: which directions, how far, and which line of the program is to blame."""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor

from .._ops.callsite import CallSite
from .._reports.report import Report
from ..region import linearize
from .runs import Decided, Narrowed, Runs, Spent, Unusable, seeing
from .verdicts import EXPLODES
from .windows import BANDS, Line, Measured, Reach, measure, reach

WIDE = 0.2
"""A band that holds such a share of the decisions may be too wide."""
NARROWER, CLOSED = (1 / 8, 1 / 64), 1e-9
"""What it is multiplied by then, to see whether its width is to blame; and to see whether the line feeds back."""
CLOSE = 4.0
"""Where bands are wider than what the program decides, a stretch of this part of a band tells more of the program."""
HALVINGS = 12
"""A stretch that the program cannot run along is made shorter, so many times."""


class Around:
    """What was measured around the arguments."""

    def __init__(self, runs: Runs, options: dict[str, Any], points: int, seed: int) -> None:
        self.runs, self.options, self.points, self.seed = runs, options, points, seed
        self.region = linearize(**options, on_lost="ignore")
        self.seeing, self.decided = seeing(**options)
        self.watched, _ = seeing(**options)
        self.wide: dict[str, list[Measured]] = {}
        self.close: dict[str, list[Measured]] = {}
        self.failed: dict[str, str] = {}

    def see(self, line: Line, t: float) -> list[Decided]:
        self.decided.clear()
        line.slope(self.seeing, t)
        return list(self.decided)

    # --- all directions of an argument ---

    def measure(self, name: str, directions: int, again: int = 0) -> None:
        """`again`: how often this was done before. Then more points are taken."""
        seed, points = self.seed + 1000 * again, self.points * 2**again
        generator = torch.Generator().manual_seed(seed)
        wide, close = self.wide.setdefault(name, []), self.close.setdefault(name, [])
        for k, v in enumerate(self._directions(name, directions, generator, not again)):
            line = Line(self.runs, {name: v}, seed + k)
            shift = 0.5 * float(torch.rand((), generator=generator)) - 0.25
            try:
                far = reach(line, lambda t, line=line: self.see(line, t))  # type: ignore[misc]
                wide.append(self._stretch(line, far, shift, points))
                if far is not None and far.near < min(far.wide, wide[-1].half / BANDS):
                    half = max(far.near, far.wide / CLOSE)
                    close.append(measure(line, self.region, shift * half, half, far, points // 2))
            except Unusable as error:
                self.failed[name] = str(error)
                if isinstance(error, Spent):
                    break

    def _directions(self, name: str, many: int, generator: torch.Generator, uphill: bool) -> list[Tensor]:
        """That of the gradient, then in turn random signs and single elements."""
        x = self.runs.base[name]
        if x.numel() == 1:
            return [torch.ones_like(x)] * many
        _, grads = self.runs.inside(self.region, {}, self.seed)
        found = [grads[name].sign()] if uphill and bool(grads[name].any()) else []
        while len(found) < many:
            signs = 2 * torch.randint(2, x.shape, generator=generator) - 1
            if len(found) % 2:
                found.append(signs.to(x))
            else:
                one = torch.zeros(x.numel(), dtype=x.dtype, device=x.device)
                one[int(torch.randint(x.numel(), (), generator=generator))] = 1
                found.append(one.reshape(x.shape))
        return found[:many]

    def _stretch(self, line: Line, far: Reach | None, shift: float, points: int) -> Measured:
        half = 0.5 * line.size if far is None else max(far.near, BANDS * far.wide)
        half = max(half, 64 * line.rounding * line.size)
        return _shorter(lambda half: measure(line, self.region, shift * half, half, far, points), half)

    def repeat(self, name: str) -> None:
        """What was measured, at other points."""
        try:
            for m in (*self.wide[name], *self.close.get(name, [])):
                m.twin = m.twin or m.again(self.region, 1.0, 17)
        except Unusable as error:
            self.failed[name] = str(error)

    # --- along a path ---

    def path(self, ends: dict[str, Tensor], times: int) -> list[Measured]:
        """The whole stretch between the arguments and `ends`, so many times."""
        direction = {name: end - self.runs.base[name] for name, end in ends.items()}
        found = []
        for k in range(times):
            line = Line(self.runs, direction, self.seed)
            far = reach(line, lambda t, line=line: self.see(line, t))  # type: ignore[misc]
            found.append(measure(line, self.region, 0.5, 0.5, far, 4 * self.points, flat=True, sample=k))
        return found

    # --- lines of the program ---

    def report(self) -> Report:
        """Of a region that watched some of the samples: those at the arguments, and those nearest to jumps."""
        for measured in self.wide.values():
            for m in measured[:4]:
                for t in [0.0, *m.jumps[:2].tolist()]:
                    m.line.slope(self.watched, t)
        return self.watched.report()


def _shorter(run: Callable[[float], Measured], half: float) -> Measured:
    for _ in range(HALVINGS):
        try:
            return run(half)
        except Spent:
            raise
        except Exception as error:
            failed = error if isinstance(error, Unusable) else Unusable(f"fn raises {type(error).__name__}: {error}")
            half /= 2
    raise failed


def to_blame(around: Around, measured: list[Measured], report: Report) -> list[CallSite]:
    """The lines at which the gradient goes wrong: where it ends, or whose band makes it wrong."""
    lost = [row.site for row in report.rows if row.status == "LOST here" or (row.kind == "cut" and row.lost)]
    if lost:
        return lost
    deciding = [row for row in report.rows if row.kind == "decides" and row.in_band]
    lines = list(dict.fromkeys((row.site.file, row.site.line) for row in deciding))
    if len(lines) > 1:
        explodes = any(m.region_swing > EXPLODES * m.swing for m in measured)
        worst = sorted(measured, key=lambda m: -abs(m.region - m.hard))[:3]
        most = math.hypot(*(m.region - m.hard for m in worst))
        off = {}
        for line in lines:
            wide = any(row.share > WIDE for row in deciding if (row.site.file, row.site.line) == line)
            times = (*(NARROWER if wide else ()), *((CLOSED,) if explodes else ()))
            off[line] = min((_off(around, worst, line, each) for each in times), default=most)
        lines = [line for line in lines if off[line] == min(off.values()) < 0.7 * most]
    return [row.site for row in deciding if (row.site.file, row.site.line) in lines]


def _off(around: Around, measured: list[Measured], line: tuple[str, int], times: float) -> float:
    """How far off the gradient is with another band at that line."""
    region = Narrowed(line, times, **around.options)
    try:
        again = [m.again(region, max(times, NARROWER[-1]), 0) for m in measured]
        return math.hypot(*(m.region - m.hard for m in again))
    except Unusable:
        return math.inf
