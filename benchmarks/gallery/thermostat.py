"""Tune a simulator written in plain Python by gradient: a thermostat with `while`, `if` and a bool, and not edited.

A heating is switched on when the room is colder than the target of the hour, less half a gap, and off when it is that
much warmer. You have 25 numbers to set and a simulator, in which they decide `if`s and nothing else: all that follows
is numbers of Python, and PyTorch has no gradient at all. With `paths=` the function runs again for each answer that was
close, and the difference is the gradient: one run says for all 25 numbers where to go.

    python benchmarks/gallery/thermostat.py [--quick] [--figure out/thermostat.png]

All runs are counted, those too. Nelder-Mead (scipy) and CMA-ES (cma) have as many, and average the same eight days each
time to see anything. A simulator that works on tensors needs no second run: see examples/controller.py.
"""

from __future__ import annotations

import math
import statistics
from collections.abc import Callable
from pathlib import Path
from random import Random

import cma
import torch
from _common import look, run, save, show, spread
from matplotlib.figure import Figure
from scipy.optimize import minimize
from torch import Tensor

import sll
import sll.plot

# --- 1. The simulator as it is ---


def house(rules: Tensor, luck: Random) -> Tensor:
    """What a winter day costs: heating, by the price of the hour, people who are cold, and wear of the relay. `rules`:
    24 targets and the gap, in degrees.
    """
    outside, swing, peak = luck.gauss(2, 4), luck.uniform(2, 5), luck.uniform(0.7, 1.3)
    room, on, cost, hour = 18.0, False, 0.0, 0.0
    while hour < 24:
        target, gap, before = rules[int(hour)], rules[24], on
        if on:
            if room > target + gap / 2:
                on = False
        elif room < target - gap / 2:
            on = True
        cold = outside - swing * math.cos((hour - 3) * math.pi / 12)
        room += 0.05 * (cold - room) + (1.5 if on else 0.0)
        wanted = 20 if 7 <= hour < 9 or 17 <= hour < 23 else 15
        price = 1.5 * peak if 7 <= hour < 9 or 17 <= hour < 20 else 0.6
        cost += 0.5 * price * on + 0.1 * max(wanted - room, 0) ** 2 + 0.1 * (on != before)
        hour += 0.5
    return rules.new_tensor(cost)


# --- 2. Methods: each has so many runs of the simulator, and tells which rules it would take after how many ---

START = torch.tensor([20.0] * 24 + [1.0])
RUNS, DAYS, WIDTH, STEP = 600, 8, 1.0, 0.5
Track = Callable[[int, Tensor], None]


def by_gradient(paths: int) -> Callable[[int, int, Track], None]:
    """Adam, a day a step; of open answers at most `paths` - 1 are run the other way."""

    def adam(runs: int, seed: int, track: Track) -> None:
        rules, luck, used = START.clone().requires_grad_(), Random(seed), 0
        optimizer = torch.optim.Adam([rules], STEP)
        region = sll.linearize(WIDTH, forward="hard", paths=paths, on_lost="ignore")
        day = region(house)
        while used < runs:
            optimizer.param_groups[0]["lr"] = STEP * (1 - used / runs)
            optimizer.zero_grad()
            before = sum(flips.run for flips in region.report().flips.values())
            cost = day(rules, luck)
            if cost.requires_grad:  # it does not where nothing was close
                cost.backward()
                optimizer.step()
            used += 1 + sum(flips.run for flips in region.report().flips.values()) - before
            track(used, rules.detach().clone())

    return adam


def mean_of_days(seed: int, track: Track) -> Callable[[object], float]:
    """What searches see: the mean of the same days each time. They take the best they have seen."""
    best, used = float("inf"), 0

    @torch.no_grad()
    def mean(rules: object) -> float:
        nonlocal best, used
        found = torch.as_tensor(rules, dtype=torch.float32)
        value = cost_of(found, range(1000 * seed, 1000 * seed + DAYS))
        best, used = min(best, value), used + DAYS
        if value == best:
            track(used, found.clone())
        return value

    return mean


def nelder_mead(runs: int, seed: int, track: Track) -> None:
    simplex = torch.cat([START[None], START + 2 * torch.eye(25)]).numpy()
    options = {"maxfev": runs // DAYS, "initial_simplex": simplex, "adaptive": True}
    minimize(mean_of_days(seed, track), START.numpy(), method="Nelder-Mead", options=options)


def cma_es(runs: int, seed: int, track: Track) -> None:
    options = {"maxfevals": runs // DAYS, "seed": seed + 1, "verbose": -9}
    cma.fmin(mean_of_days(seed, track), START.numpy(), 1.0, options)


METHODS = {
    "at the start": (lambda runs, seed, track: None, "plain"),
    "Nelder-Mead": (nelder_mead, "other"),
    "CMA-ES": (cma_es, "straight_through"),
    "sll, paths=4": (by_gradient(4), "auto"),
}

# --- 3. What came out ---


@torch.no_grad()
def cost_of(rules: Tensor, seeds: range) -> float:
    return statistics.mean(float(house(rules, Random(seed))) for seed in seeds)


def main(quick: bool = False, figure: Path = Path("out/thermostat.png")) -> dict[str, list[float]]:
    """Mean cost of days that no method has seen, lower is better: one per seed, for each method."""
    seeds, runs, days = (2, RUNS // 2, 100) if quick else (4, RUNS, 400)
    scores: dict[str, list[float]] = {name: [] for name in METHODS}
    steps: dict[str, list[tuple[int, Tensor]]] = {}
    for name, (method, _) in METHODS.items():
        for seed in range(seeds):
            steps[name] = [(0, START)]
            method(runs, seed, lambda used, rules, of=steps[name]: of.append((used, rules)))  # type: ignore[misc]
            scores[name].append(cost_of(steps[name][-1][1], range(10**6, 10**6 + days)))
    rows = {name: (spread(of, 2),) for name, of in scores.items()}
    console = show(f"{runs} runs, mean ± std of {seeds} seeds", ("cost of a day",), rows)
    found = sll.explain(house, START, Random(0), eps=WIDTH, forward="hard", paths=8)
    console.print("What Python asked in the first day:", found, sep="\n")
    with sll.plot.style():
        drawn = Figure(figsize=(9, 3.6), dpi=110)
        left, right = drawn.subplots(1, 2)
        for name, (_, color) in METHODS.items():
            at = [steps[name][0], *steps[name][1 :: max(1, len(steps[name]) // 12)], steps[name][-1]]
            left.plot(
                [used for used, _ in at],
                [cost_of(rules, range(10**6, 10**6 + 50)) for _, rules in at],
                label=name,
                **look(color),
            )
            right.plot(range(24), at[-1][1][:24], label=name, **look(color))
        left.set(xlabel="runs of the simulator (last seed)", ylabel="cost of a day")
        right.set(xlabel="hour", ylabel="target in degrees")
        right.legend()
        save(drawn, figure)
    return scores


if __name__ == "__main__":
    run(__file__, __doc__, main, "two seeds, half of the runs")
