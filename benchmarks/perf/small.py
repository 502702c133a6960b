"""Small programs that decide, in a region and by hand, in the same rounds: ``python benchmarks/perf --only small``."""

from __future__ import annotations

import sys
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from statistics import geometric_mean, median
from typing import TYPE_CHECKING, Any

import torch
from bench import Bench, both_ways, working
from by_hand import FUNCTION, IDIOM, ONE_HOTS, RANKS, RECOMPUTED, STEPS, TOP_KS, clipped, identity
from competitors import WIDTH, in_region
from figures import Figure, Target
from small_programs import CONTROLLER, Limits, Small, layers, programs_of, simulators
from timing import FEW, Clock, ratios

if TYPE_CHECKING:
    from rewritten import Ops

SIZES = (64, 4096)
LEAST, MOST = 0.004, 6.0
"""Seconds: a short call is repeated for so long in its turn; all rounds of a program take no longer than that, but for
the first `timing.FEW`."""
AUTO, FIXED, HARD = '"auto"', "fixed eps", f'"hard", {WIDTH:g}'
TABLE = "Small programs, forward and backward, one figure a line"
EVIDENCE = "The eight evidence programs, one training step"
EVIDENCE_MEAN = Target("geometric mean of the evidence programs, relative to straight-through by hand", 2.0)

MEASURED = 12
"""Steps before the first that counts: a training loop is past those in which `"auto"` measures."""
Call = Callable[[], object]


@dataclass(frozen=True)
class Contest:
    """One program: what is timed, by name."""

    name: str
    by_hand: Mapping[str, Call]
    regions: Mapping[str, Call]
    others: Mapping[str, Call]


def both(program: Callable[..., torch.Tensor], inputs: Sequence[torch.Tensor]) -> Call:
    with torch.no_grad():
        shape = program(*inputs).shape
    g = torch.randn(shape, generator=torch.Generator().manual_seed(3))
    return both_ways(program, inputs, g, [x for x in inputs if x.requires_grad])


def contest(small: Small, name: str) -> Contest:
    inputs = small.inputs()
    regions = {AUTO: ("auto", None), FIXED: (small.eps, "straight-through")}
    if small.limits.hard is not None:
        regions[HARD] = (WIDTH, "hard")
    return Contest(
        name,
        {way: both(call, inputs) for way, call in small.by_hand.items()},
        {row: both(in_region(small.plain, *options), inputs) for row, options in regions.items()},
        {row: both(call, inputs) for row, call in small.others.items()},
    )


# --- the evidence programs ---


def ways() -> dict[str, Ops]:
    """The decisions of the evidence programs by hand. Ranks may start at 0: only their deviations are used."""
    from rewritten import Ops

    signs, rounds = clipped(torch.sign, 1.0), list(identity(torch.round).values())
    choices, subsets, ranks = (list(calls.values()) for calls in (ONE_HOTS, TOP_KS, RANKS))
    return {
        way: Ops(STEPS[way], signs[way], rounds[turn], choices[turn], subsets[turn], ranks[turn])
        for way, turn in ((IDIOM, 0), (FUNCTION, 1), (RECOMPUTED, 1))
    }


EVIDENCE_FOLDER = str(Path(__file__).parent.parent / "evidence")
EVIDENCE_EPS = {"sign": 1.0, "vq": 1.0, "rank": 0.1}
"""Half-widths that need no scale by hand; 1/2 for all others."""


def evidence_losses(name: str) -> dict[str, tuple[Callable[[], torch.Tensor], list[torch.Tensor]]]:
    """The loss of the first batch, and the parameters: of the plain program (``""``), and by hand."""
    import rewritten
    from tasks import TASKS

    task = TASKS[name]
    train = task.data(0).train
    batch = train.rows(torch.arange(min(task.batch, len(train.y))))
    torch.manual_seed(0)
    start = task.program.model().state_dict()
    programs = {"": task.program} | {way: rewritten.program(name, ops) for way, ops in ways().items()}
    found = {}
    for way, program in programs.items():
        model = program.model()
        model.load_state_dict(start)
        found[way] = (lambda program=program, model=model: program.loss(model, batch), list(model.parameters()))
    return found


def evidence_contest(name: str, title: str, hard: bool) -> Contest:
    def step(loss: Callable[[], torch.Tensor], parameters: list[torch.Tensor]) -> Call:
        return lambda: torch.autograd.grad(loss(), parameters)

    losses = evidence_losses(name)
    loss, parameters = losses.pop("")
    options: dict[str, tuple[Any, str | None]] = {
        AUTO: ("auto", None), FIXED: (EVIDENCE_EPS.get(name, 0.5), "straight-through")
    }  # fmt: skip
    if hard:
        options[HARD] = (WIDTH, "hard")
    regions = {row: step(in_region(loss, *option), parameters) for row, option in options.items()}
    return Contest(title, {way: step(*found) for way, found in losses.items()}, regions, {})


# --- the figures ---


def hold(bench: Bench, clock: Clock, table: str, contest: Contest, limits: Limits | None) -> list[Figure]:
    """Figures of a contest, relative to the fastest that is written by hand. One without limits is of no family."""
    bench.say(f"{table}: {contest.name}")
    regions = working(bench, contest.regions, contest.name)
    for call in regions.values():  # "auto" measures its widths in the first steps, and keeps them
        for _ in range(MEASURED):
            call()
    by_hand = fast(clock, contest.by_hand)
    samples = clock.interleaved({**by_hand, **regions, **contest.others}, most=MOST)
    base = min(by_hand, key=lambda way: median(samples[way]))
    found = []
    for row in (*regions, *contest.others):
        target = None if limits is None else target_of(limits, row)
        values = tuple(ratios(samples[row], samples[base]))
        found.append(Figure(table, contest.name, row, "x", values, target, tuple(samples[row]), base))
    return found


def fast(clock: Clock, calls: Mapping[str, Call]) -> dict[str, Call]:
    """Those within twice the fastest. One that fills the memory or the caches would make the fast ones slow."""
    seconds = {way: min(times) for way, times in clock.interleaved(calls, rounds=FEW).items()}
    return {way: call for way, call in calls.items() if seconds[way] <= 2 * min(seconds.values())}


def target_of(limits: Limits, row: str) -> Target | None:
    limit = {AUTO: limits.auto, FIXED: limits.fixed, HARD: limits.hard}.get(row)
    return None if limit is None else Target(f"{limits.family}, {row}, relative to straight-through by hand", limit)


def mean_of(table: str, name: str, figures: Sequence[Figure], target: Target | None = None) -> list[Figure]:
    """The geometric mean of the medians, for each width."""
    return [
        Figure(table, name, row, "x", (geometric_mean(medians),), target)
        for row in (AUTO, FIXED)
        if (medians := [figure.median for figure in figures if figure.column == row])
    ]


def small(bench: Bench) -> None:
    results = bench.results
    if bench.device != "cpu":
        results.note("The small programs were not measured: they, and their limits, are for the CPU.")
        return
    clock = replace(bench.clock.alone(bench.threads), rounds=2 * bench.clock.rounds + 1, least=LEAST)
    results.listed += [TABLE, EVIDENCE]
    results.captions[TABLE] = (
        "The unedited program in a region, relative to the fastest version by hand in the same run, which has a "
        f"derivative of the same window. {bench.where}. {AUTO} has its default forward mode, the fixed width "
        f'"straight-through". {AUTO} has measured its widths in {MEASURED} steps before. What is furthest beyond its '
        "limit comes first. A reset is detached (cut), or kept in the "
        "graph."
    )
    results.captions[EVIDENCE] = (
        f"`benchmarks/evidence`, relative to its rewritten version, straight-through with a window. {bench.where}."
    )
    evidence = evidence_figures(bench, clock)
    for n in SIZES:
        found = [
            figure
            for program in programs_of(n)
            for figure in hold(bench, clock, TABLE, contest(program, f"{program.name}, {n}"), program.limits)
        ]
        results.figures += found + mean_of(TABLE, f"geometric mean of 22, {n}", found)
    for program in (*layers(), *simulators()):
        results.figures += hold(bench, clock, TABLE, contest(program, program.name), program.limits)
    results.figures += evidence


def evidence_figures(bench: Bench, clock: Clock) -> list[Figure]:
    if EVIDENCE_FOLDER not in sys.path:
        sys.path.append(EVIDENCE_FOLDER)
    try:
        from tasks import TASKS
    except ImportError as error:
        bench.results.note(f"The evidence programs, the thermostat among them, were not measured: {error}.")
        return []
    found, thermostat = [], []
    for name, task in TASKS.items():
        controls = name == "controller"
        figures = hold(bench, clock, EVIDENCE, evidence_contest(name, task.title, controls), None)
        found += [figure for figure in figures if figure.column != HARD]
        if controls:
            thermostat = [replace(f, table=TABLE, target=target_of(CONTROLLER, f.column)) for f in figures]
    return thermostat + found + mean_of(EVIDENCE, "geometric mean of the eight", found, EVIDENCE_MEAN)
