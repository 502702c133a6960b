"""A stretch of a straight line through the arguments: what the hard program changes along it, and what the region says.

With ``phi(t) = 1 - (t / w)**2`` from ``-w`` to ``w``, and ``f(t)`` the hard program at ``x + t v``,

    integral of  phi(t) df(t)  =  2 / w**2  integral of  t f(t)
                               =  mean over  0 < s < w  with weight 2 s / w  of  f(s) - f(-s)

This is a finite difference of the hard program, averaged over all widths up to `w`; jumps count in full. With it the
integral of ``phi(t) grad(x + t v) . v`` is compared. The region's gradient has each jump spread over its band. As `phi`
is nearly straight over a band, and 0 at the ends, both agree up to ``(band / w)**2 / 3`` if that gradient is right.
"""

from __future__ import annotations

import heapq
import math
from collections.abc import Callable
from dataclasses import dataclass
from typing import NamedTuple

import torch
from torch import Tensor

from ..region import linearize
from .runs import Decided, Runs, finite

MOST = 12
"""Of places where something is decided, and the program does not jump."""
FINER = 6
"""So many values of the hard program are taken for one gradient."""
USUAL = 12
"""With so many points of a stretch, half a band has one."""
FOUND = 32
"""Where a jump is, is known to this part of a band."""
ENOUGH = 4
"""Decisions that change along half of a stretch, where there are so many."""
BANDS = 6.0
"""A stretch is so many bands long to either side: what ends inside a band is a small part of it then."""


@dataclass
class Line:
    """The points ``x + t v`` of one argument, or of several."""

    runs: Runs
    direction: dict[str, Tensor]
    seed: int

    def at(self, t: float) -> dict[str, Tensor]:
        return {name: self.runs.base[name] + t * v for name, v in self.direction.items()}

    def hard(self, t: float) -> float:
        return self.runs.hard(self.at(t), self.seed)

    def slope(self, region: linearize, t: float) -> float:
        """Of the region's gradient."""
        _, grads = self.runs.inside(region, self.at(t), self.seed)
        found = sum(float((grads[name].double() * v.double()).sum()) for name, v in self.direction.items())
        return finite(found, "the gradient in the region")

    @property
    def rounding(self) -> float:
        """Relative, of the numbers that are moved."""
        return max(torch.finfo(v.dtype).eps for v in self.direction.values())

    @property
    def size(self) -> float:
        """Of the numbers that are moved: their root mean square, or 1."""
        moved = [self.runs.base[name][v != 0].double() for name, v in self.direction.items()]
        return float(torch.cat([x.flatten() for x in moved]).square().mean().sqrt()) or 1.0


# --- how far to go ---------------------------------------------------------------------------------------------------


class Reach(NamedTuple):
    """Of the decisions that a step along the line moves. Lengths are steps."""

    at: Tensor
    """Where they change, if they go on as they do here."""
    near: float
    """So far, enough of them are decided the other way."""
    narrow: float
    wide: float
    """The narrowest and the widest bands of those that are near, outliers aside."""


def reach(line: Line, see: Callable[[float], list[Decided]]) -> Reach | None:
    """None if nothing that is decided moves. `see` runs the program at a step, and says what it decides."""
    step = line.size * max(math.sqrt(line.rounding) * 1e-1, 1e-7)
    here, there = see(0.0), see(step)
    crossing, bands = [], []
    for a, b in zip(here, there):
        if a.site != b.site or a.distance.shape != b.distance.shape:
            break  # from here on the program went another way
        speed = (b.distance - a.distance).abs() / step
        moves = (speed * step > 16 * line.rounding * a.distance.abs()) & speed.isfinite()
        crossing.append((-a.distance * step / (b.distance - a.distance))[moves])
        bands.append((a.half / speed)[moves])
    at, half = (torch.cat(x) if x else torch.zeros(0) for x in (crossing, bands))
    if not len(at):
        return None
    times = at.abs()
    near = 1.5 * float(times.sort().values[min(ENOUGH, len(times)) - 1])
    known = half[times <= torch.maximum(half, torch.tensor(near))].double()
    known = known if len(known) else half.double()
    narrow, wide = (float(known.quantile(share)) for share in (0.1, 0.9))
    return Reach(at, near, narrow, wide)


# --- one stretch -----------------------------------------------------------------------------------------------------


@dataclass
class Measured:
    """One stretch. `hard` and `region` are changes: slope times half its length."""

    line: Line
    half: float
    hard: float
    region: float
    noise: float
    """Standard error of `region`, from how its samples scatter."""
    shot: float
    """What `hard` would scatter by if its jumps fell elsewhere."""
    rounding: float
    swing: float
    """How much the hard program goes up and down, all together."""
    region_swing: float
    """The same by the region's gradient."""
    spike: float
    """What its largest sample has of that."""
    jumps: Tensor
    """Where the program jumps."""
    reached: bool
    """Whether anything that is decided moves."""
    again: Callable[[linearize, float, int], Measured]
    """The same stretch with another region, whose narrowest bands are so many times as wide, at other points."""
    twin: Measured | None = None
    """The same, at other points: what of it is chance."""


def measure(
    line: Line,
    region: linearize,
    middle: float,
    half: float,
    far: Reach | None,
    points: int,
    *,
    flat: bool = False,
    sample: int = 0,
) -> Measured:
    """`points`: how many samples of the gradient there are where nothing jumps. `flat`: all counts alike (a path).
    `sample`: another number, other points.
    """
    narrow = half if far is None else far.narrow
    grid = torch.linspace(middle - half, middle + half, FINER * points + 1, dtype=torch.float64)
    nodes, values = _with_jumps(line, grid, narrow)
    jumps = _jumps(nodes, values, narrow)
    if len(jumps) > points and far is not None and half > 2 * BANDS * far.wide and not flat:
        return measure(line, region, middle / 2, half / 2, far, points)
    change = values.diff()
    weighted = change * _phi((nodes[1:] + nodes[:-1]) / 2, middle, half, flat)
    cells = _cells(jumps if far is None else _and_others(jumps, far, middle, half), grid, narrow)
    at = _within(cells, line.seed + sample)
    slopes, length = torch.tensor([line.slope(region, t) for t in at.tolist()], dtype=torch.float64), cells.diff()
    phi = _phi(at, middle, half, flat)
    return Measured(
        line=line,
        half=half,
        hard=float(weighted.sum()),
        region=float((length * slopes * phi).sum()),
        noise=math.hypot(_noise(slopes * phi, length), _missed(weighted, cells, narrow, jumps, grid)),
        shot=float(weighted.norm()),
        rounding=float(values.abs().max()) * min(line.rounding, 2**-23),
        swing=float(change.abs().sum()),
        region_swing=float((length * slopes).abs().sum()),
        spike=float((length * slopes).abs().max()),
        jumps=jumps,
        reached=far is not None,
        again=lambda of, by, more: measure(
            line, of, middle, half, far and far._replace(narrow=by * narrow), points, flat=flat, sample=sample + more
        ),
    )


def _within(cells: Tensor, seed: int) -> Tensor:
    """A point of each cell."""
    share = torch.rand(len(cells) - 1, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)
    return cells[:-1] + cells.diff() * share


def _phi(t: Tensor, middle: float, half: float, flat: bool) -> Tensor:
    return torch.ones_like(t) if flat else 1 - ((t - middle) / half) ** 2


def _with_jumps(line: Line, grid: Tensor, narrow: float) -> tuple[Tensor, Tensor]:
    """Points of the line, and the program's values there. The largest changes are halved until it is known where they
    are: a jump keeps its height, anything else becomes small.
    """
    known = {t: line.hard(t) for t in grid.tolist()}
    at = list(known)
    todo = [(-abs(known[b] - known[a]), a, b) for a, b in zip(at, at[1:])]
    heapq.heapify(todo)
    small = 0.01 * sum(-height for height, _, _ in todo)
    for _ in range(2 * len(grid)):
        height, a, b = todo[0]
        if -height <= small:
            break
        t = (a + b) / 2
        known[t] = line.hard(t)
        heapq.heappop(todo)
        for left, right in ((a, t), (t, b)):
            if right - left > max(narrow / FOUND, 1e-12 * abs(t)):
                heapq.heappush(todo, (-abs(known[right] - known[left]), left, right))
        if not todo:
            break
    nodes = sorted(known)
    return torch.tensor(nodes, dtype=torch.float64), torch.tensor([known[t] for t in nodes], dtype=torch.float64)


def _jumps(nodes: Tensor, values: Tensor, narrow: float) -> Tensor:
    change = values.diff().abs()
    found = (nodes.diff() <= 1.01 * narrow / FOUND) & (change > 0.01 * change.sum())
    return ((nodes[1:] + nodes[:-1]) / 2)[found]


def _and_others(jumps: Tensor, far: Reach, middle: float, half: float) -> Tensor:
    """With what is decided where the program does not jump, if that is not too much."""
    at = far.at.double()[(far.at - middle).abs() < half].unique()  # type: ignore[no-untyped-call]
    if len(at) > 1000:
        return jumps
    others = at[((at[:, None] - jumps).abs() > far.narrow).all(1)]
    others = others[others.diff(prepend=others.new_tensor([-math.inf])) > far.narrow]
    return torch.cat([jumps, others]) if len(jumps) + len(others) <= MOST else jumps


def _cells(jumps: Tensor, grid: Tensor, narrow: float) -> Tensor:
    """Ends of the cells that have a sample each: those of the grid, and ever narrower ones towards the jumps. Bands
    have more of them where there are more points.
    """
    if _many(jumps, grid):
        return grid
    spacing = FINER * float(grid[1] - grid[0])
    inside, width = narrow * (1 - 1 / FOUND), narrow * (1 + 1 / FOUND)
    each = max(1, len(grid) // (FINER * USUAL))
    around = torch.linspace(-inside, inside, 2 * each + 1).tolist() if inside < spacing else [0.0]
    while width < spacing:
        around += [-width, width]
        width *= 3
    near: Tensor = (jumps[:, None] + torch.tensor(around, dtype=torch.float64)).flatten()
    near = near[(near > grid[0]) & (near < grid[-1])]
    return torch.cat([grid[::FINER], near]).unique()  # type: ignore[no-any-return, no-untyped-call]


def _missed(weighted: Tensor, cells: Tensor, narrow: float, jumps: Tensor, grid: Tensor) -> float:
    """The chance that a point lies in a band, where there are too many jumps to take a point in each of their bands."""
    if not _many(jumps, grid):
        return 0.0
    return float(weighted.norm()) * math.sqrt(max(0.0, float(cells.diff().max()) / (2 * narrow) - 1))


def _many(jumps: Tensor, grid: Tensor) -> bool:
    """Whether many bands are open anywhere."""
    return len(jumps) > len(grid) // FINER


def _noise(y: Tensor, length: Tensor) -> float:
    """From how far each sample is off its neighbours: at the edge of a band it is off one of them."""
    if len(y) < 3:
        return float((y * length).abs().sum())
    off = (y.diff()).abs()
    off = torch.minimum(torch.cat([off[:1], off]), torch.cat([off, off[-1:]]))
    return 0.6 * float((length * off).square().sum().sqrt())
