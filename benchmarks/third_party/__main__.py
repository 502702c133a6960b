"""Third-party code in a region, held to the line integral: ``python benchmarks/third_party [--only NAME] [--quick]``.

Each case is code of a library as it is, a function of one tensor. Along a straight path, whose ends lie outside all
bands, the gradient of a region has to integrate to the difference of the hard program at the ends. Where it does not,
the region has to say so, by line.
"""

from __future__ import annotations

import argparse
import functools
import heapq
import json
import statistics
import time
import warnings
from collections import Counter
from collections.abc import Callable
from contextlib import AbstractContextManager, nullcontext, suppress
from dataclasses import dataclass, replace
from pathlib import Path

import torch
from rich.console import Console
from rich.table import Table
from torch import Tensor

import sll
from sll._ops.callsite import CallSite

warnings.filterwarnings("ignore")
import metrics  # noqa: E402, F401
import others  # noqa: E402, F401
import quantized  # noqa: E402, F401
import spiking  # noqa: E402, F401
import vision  # noqa: E402, F401
from cases import CASES, Case, seeded  # noqa: E402
from table import written  # noqa: E402

MODES = ("linear", "hard", "straight-through")
TOLERANCE = {"linear": 0.01, "hard": 0.03}
NARROW, NARROWEST = 1e-4, 1e-8
console = Console(width=150)


@dataclass
class Found:
    """What a mode does to a case."""

    kind: str
    """exact, reported, wrong, raises; of straight-through: gradient, flat, reported, silent."""
    ratio: float = float("nan")
    note: str = ""
    time: float = float("nan")
    """Of an evaluation, relative to plain code."""


def region(case: Case, forward: str) -> sll.linearize:
    """Differences of hard values are off by about a band, so theirs is narrow, near the width that is the default."""
    eps = case.eps / 10 if forward == "hard" else case.eps
    return sll.linearize(eps, forward=forward, on_lost="ignore", see_through=case.see_through)


def in_the_band(inside: sll.linearize) -> Counter[CallSite]:
    """Will count what is lost by line, where an element is in its band. (A report counts the other calls as well.)"""
    found: Counter[CallSite] = Counter()
    counts = inside._lost.add

    def add(op: str, undecided: Callable[[], bool], *rest: object) -> None:
        before = Counter(inside._lost.calls)
        counts(op, undecided, *rest)
        found.update({site: bool(undecided()) for site in inside._lost.calls - before})

    inside._lost.add = add
    return found


def sample(case: Case, forward: str, a: Tensor, b: Tensor, said: Counter[str], t: float) -> tuple[float, float]:
    """Value and slope along the path."""
    x = (a + (b - a) * t).requires_grad_()
    with region(case, forward) as inside:
        lost = in_the_band(inside)
        y = case.f(x)
    g = torch.autograd.grad(y, x, allow_unused=True)[0] if y.requires_grad else None
    report = inside.report()
    for rows in (+lost, report.cut, report.approximate, report.infinite_jumps):
        said.update({f"{site.op} ({site.file.rpartition('/')[2]}:{site.line})": n for site, n in rows.items()})
    return float(y), 0.0 if g is None else float((g * (b - a)).sum())


def connected(case: Case, a: Tensor, b: Tensor) -> bool:
    """Whether the gradient of local slopes comes to the input, be it 0."""
    x = ((a + b) / 2).requires_grad_()
    with region(case, "straight-through"):
        y = case.f(x)
    return bool(y.requires_grad) and torch.autograd.grad(y, x, allow_unused=True)[0] is not None


def ends(case: Case) -> tuple[Tensor, Tensor, float]:
    """A path on which the hard program changes, with no decision in its band at either end. A few numbers move.

    Of eight such ends the one with the largest change, or errors would be compared with next to nothing.
    """
    g = seeded(0)
    first, start = None, 0.0
    found: list[tuple[Tensor, float]] = []
    for _ in range(600):
        x = case.draw(g)
        if first is not None:
            moved = torch.randperm(x.numel(), generator=g)[: max(4, x.numel() // 6)]
            x = first.flatten().index_copy(0, moved, x.flatten()[moved]).view_as(x)
        value = float(case.f(x))
        with region(case, "linear"):
            outside = abs(float(case.f(x.clone().requires_grad_())) - value) <= 1e-9 * max(1.0, abs(value))
        if not outside or value != value:
            continue
        if first is None:
            first, start = x, value
        elif abs(value - start) > 0.02 * max(1.0, abs(value)):
            found.append((x, value - start))
            if len(found) == 8:
                break
    if first is None or not found:
        raise NoPath(f"no path found for {case.name}")
    return first, *max(found, key=lambda end: abs(end[1]))


def with_a_path(case: Case) -> tuple[Case, tuple[Tensor, Tensor, float]]:
    """In narrower bands, where so many elements decide that one always is in its band."""
    for eps in (case.eps, case.eps / 10):
        try:
            return replace(case, eps=eps), ends(replace(case, eps=eps))
        except NoPath as error:
            no_path = error
    raise no_path


class NoPath(RuntimeError):
    """All ends are in a band, or nothing changes between them."""


def integral(slope: Callable[[float], tuple[float, float]], points: int, most: int, follow_values: bool) -> float:
    """Of the slope over [0, 1]: trapezoids, the most doubtful halved first, until a thousandth is in doubt."""
    known = {i / points: slope(i / points) for i in range(points + 1)}
    at = sorted(known)
    change = abs(known[1.0][0] - known[0.0][0])

    def piece(a: float, b: float) -> tuple[float, float, float, float]:
        (y0, g0), (y1, g1) = known[a], known[b]
        area = (g0 + g1) / 2 * (b - a)
        if b - a < NARROWEST:
            return 0.0, a, b, area
        if follow_values:
            return -abs(y1 - y0 - area), a, b, area
        jump = abs(y1 - y0) if b - a > NARROW else 0.0  # (of the hard program: there is a band around it)
        return -(abs(g1 - g0) * (b - a) / 2 + jump), a, b, area

    pieces = [piece(a, b) for a, b in zip(at[:-1], at[1:])]
    heapq.heapify(pieces)
    doubt = -sum(p[0] for p in pieces)
    while len(known) < most and doubt > (1e-3 if follow_values else 0.02) * change:
        worst, a, b, _ = heapq.heappop(pieces)
        middle = (a + b) / 2
        known[middle] = slope(middle)
        doubt += worst
        for half in (piece(a, middle), piece(middle, b)):
            heapq.heappush(pieces, half)
            doubt -= half[0]
    return sum(p[3] for p in pieces)


def judge(case: Case, forward: str, a: Tensor, b: Tensor, want: float, quick: bool) -> Found:
    said: Counter[str] = Counter()
    local = forward == "straight-through"
    points = 40 if local or quick else 240
    try:
        slope = functools.partial(sample, case, forward, a, b, said)
        got = integral(slope, points, 10 * points, forward == "linear")
    except Exception as error:  # (what a region does to a program that runs without one is what is looked for)
        return Found("raises", note=f"{type(error).__name__}: {error}"[:110])
    ratio, note = got / want, ", ".join(said)[:110]
    if local:
        none = "reported" if said else "flat" if connected(case, a, b) else "silent"
        return Found("gradient" if got else none, ratio, note)
    if abs(ratio - 1) <= TOLERANCE[forward]:
        return Found("exact", ratio, note)
    return Found("reported" if said else "wrong", ratio, note)


def slowdown(case: Case, forward: str, a: Tensor, b: Tensor) -> float:
    """Forward and backward in a region, relative to the plain program; median of pairs."""
    entered = region(case, forward)

    def run(inside: AbstractContextManager[object]) -> float:
        x = (a + (b - a) * 0.5).requires_grad_()
        start = time.perf_counter()
        with inside:
            y = case.f(x)
        with suppress(RuntimeError):  # (what PyTorch has no derivative of)
            if y.requires_grad:
                torch.autograd.grad(y, x, allow_unused=True)
        return time.perf_counter() - start

    pairs = [(run(nullcontext()), run(entered)) for _ in range(9)]
    return statistics.median(inside / plain for plain, inside in pairs)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--only", default="", help="cases of which the name contains this")
    parser.add_argument("--modes", nargs="*", default=MODES, choices=MODES)
    parser.add_argument("--quick", action="store_true", help="fewer points, for a first look")
    parser.add_argument("--bad", action="store_true", help="show only what is not exact")
    parser.add_argument("--part", default="0/1", help="i/n: each n-th case, for several processes")
    parser.add_argument("--out", type=Path, help="a file for the results, one line of JSON for each case")
    parser.add_argument("--table", action="store_true", help="write the page of what was found")
    options = parser.parse_args()
    if options.table:
        print(written())
        return
    part, parts = map(int, options.part.split("/"))
    table = Table("case", *options.modes, "time", "what the report says")
    counts: dict[str, Counter[str]] = {mode: Counter() for mode in options.modes}
    times = []
    for key, case in list(CASES.items())[part::parts]:
        if options.only not in key:
            continue
        try:
            case, (a, b, want) = with_a_path(case)
        except Exception as error:
            console.print(f"{key}: {type(error).__name__}: {error}"[:200])
            continue
        found = {mode: judge(case, mode, a, b, want, options.quick) for mode in options.modes}
        for mode, one in found.items():
            counts[mode][one.kind] += 1
        for mode, one in found.items():
            one.time = float("nan") if one.kind == "raises" else slowdown(case, mode, a, b)
        times += [one.time for one in found.values()]
        if options.out:
            line = {"case": key, "eps": case.eps, **{mode: vars(one) for mode, one in found.items()}}
            with options.out.open("a") as file:
                file.write(json.dumps(line) + "\n")
        note = next((one.note for one in found.values() if one.note), "")
        if not options.bad or any(one.kind in ("wrong", "raises", "silent", "reported") for one in found.values()):
            cells = [f"{one.kind} {one.ratio:.3f}" if one.ratio == one.ratio else one.kind for one in found.values()]
            table.add_row(key, *cells, f"{found[options.modes[0]].time:.1f}", note)
    console.print(table)
    for mode, kinds in counts.items():
        console.print(f"{mode}: {dict(kinds)} of {sum(kinds.values())}")
    known = [time for time in times if time == time]
    if known:
        console.print(f"time relative to plain code: median {statistics.median(known):.1f}, most {max(known):.1f}")


if __name__ == "__main__":
    main()
