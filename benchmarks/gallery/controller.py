"""Tune the rules of a controller by gradient, through the unmodified simulator: a thermostat with a daily schedule.

A thermostat switches the heating by a rule: on below the target of the hour, off above it, with a gap between the two
so that the relay does not chatter. You have a simulator, and 25 numbers to set (24 targets, one gap). The rule is a
comparison, so the simulator's derivative is zero, and people search: random search, CMA-ES. In a region of sll the same
simulator has a gradient, which says for all 25 numbers at once where to go.

    python benchmarks/gallery/controller.py [--quick] [--figure out/controller.png]

With 24 simulations, of 16 days at once, the gradient is far ahead of the searches. CMA-ES is still behind it with ten
times as many. The table has the clock, too. A straight-through estimator is as good as sll, after the simulator has
been rewritten.
"""

from __future__ import annotations

import math
import statistics
import time
from collections.abc import Callable
from contextlib import AbstractContextManager, nullcontext
from pathlib import Path
from typing import NamedTuple

import torch
from _common import draw_curves, run, save, show, spread
from matplotlib.figure import Figure
from torch import Tensor

import sll
import sll.plot

SIMULATIONS = 24


class Days(NamedTuple):
    """(days, 24): temperature outside in degrees, price of an hour's heating."""

    outside: Tensor
    price: Tensor


# --- 1. The simulator as it is ---


def wanted(hour: int) -> float:
    return 20.0 if 7 <= hour < 9 or 17 <= hour < 23 else 15.0


def simulate(rules: Tensor, days: Days) -> tuple[Tensor, Tensor]:
    """Cost of each day (heating, cold people, wear of the relay), and the room temperature after each hour."""
    target, gap = rules[:24], rules[24]
    room, on = torch.full((len(days.price),), 18.0), torch.zeros(len(days.price), dtype=torch.bool)
    cost, rooms = torch.zeros(len(days.price)), []
    for hour in range(24):
        before = on
        on = room < target[hour] + torch.where(on, gap / 2, -gap / 2)
        room = room + 0.1 * (days.outside[:, hour] - room) + 3.0 * on
        cold = torch.relu(wanted(hour) - room)
        cost = cost + days.price[:, hour] * on + 0.2 * cold.square() + 0.1 * (on != before)
        rooms.append(room)
    return cost, torch.stack(rooms, 1)


# --- 2. The simulator rewritten by hand: decisions are floats, hard values, the slope of a window |degrees| <= 1 ---


def simulate_by_hand(rules: Tensor, days: Days) -> tuple[Tensor, Tensor]:
    target, gap = rules[:24], rules[24]
    room, on = torch.full((len(days.price),), 18.0), torch.zeros(len(days.price))
    cost, rooms = torch.zeros(len(days.price)), []
    for hour in range(24):
        before = on
        below = target[hour] + (on - 0.5) * gap - room
        ramp = (0.5 + below / 2).clamp(0, 1)
        on = ramp + ((below > 0).float() - ramp).detach()
        room = room + 0.1 * (days.outside[:, hour] - room) + 3.0 * on
        cold = torch.relu(wanted(hour) - room)
        cost = cost + days.price[:, hour] * on + 0.2 * cold.square() + 0.1 * (on - before).square()
        rooms.append(room)
    return cost, torch.stack(rooms, 1)


# --- 3. Winter days, generated: 16 to tune the rules, 16 to choose learning rates, 48 to test ---


def winter(seed: int) -> list[Days]:
    noise = torch.Generator().manual_seed(seed)
    count, hour = 16 + 16 + 48, torch.arange(24.0)
    mean, swing = 2 + 4 * torch.randn(count, 1, generator=noise), 2 + 3 * torch.rand(count, 1, generator=noise)
    gusts = 0.4 * torch.randn(count, 24, generator=noise).cumsum(1)
    peaks = torch.exp(-((hour - 8) ** 2) / 4) + torch.exp(-((hour - 18) ** 2) / 6)
    price = 0.6 + 0.9 * peaks * (0.7 + 0.6 * torch.rand(count, 1, generator=noise))
    outside = mean - swing * torch.cos((hour - 3) * math.pi / 12) + gusts
    return [Days(outside[days], price[days]) for days in torch.arange(count).split([16, 16, 48])]


START = torch.tensor([20.0] * 24 + [1.0])  # 20 degrees all day, a gap of one degree

Cost = Callable[[Tensor], Tensor]
Track = Callable[[Tensor], None]

# --- 4. Optimizers: each gets a cost, a number of simulations, a step size, and reports the rules it would deploy ---


def by_gradient(make: Callable[[], AbstractContextManager[object]]) -> Callable[..., None]:
    def adam(cost: Cost, simulations: int, step: float, track: Track) -> None:
        rules, region = START.clone().requires_grad_(), make()
        optimizer = torch.optim.Adam([rules], step)
        for _ in range(simulations):
            with region:
                loss = cost(rules)
            optimizer.zero_grad()
            if loss.requires_grad:  # of the plain simulator it does not: no path leads from the cost to the rules
                loss.backward()
            optimizer.step()
            track(rules.detach().clone())

    return adam


@torch.no_grad()
def random_search(cost: Cost, simulations: int, step: float, track: Track) -> None:
    best, least = START, cost(START)
    for _ in range(simulations):
        trial = best + step * torch.randn(25)
        if (found := cost(trial)) < least:
            best, least = trial, found
        track(best)


@torch.no_grad()
def cma_es(cost: Cost, simulations: int, step: float, track: Track) -> None:
    """The algorithm of Hansen's tutorial (2016), with its default settings."""
    n = len(START)
    many = 4 + int(3 * math.log(n))
    weights = math.log((many + 1) / 2) - torch.arange(1, many // 2 + 1).log()
    weights = weights / weights.sum()
    mass = float(1 / weights.square().sum())
    c_c, c_s = (4 + mass / n) / (n + 4 + 2 * mass / n), (mass + 2) / (n + mass + 5)
    c_1 = 2 / ((n + 1.3) ** 2 + mass)
    c_mu = min(1 - c_1, 2 * (mass - 2 + 1 / mass) / ((n + 2) ** 2 + mass))
    damping = 1 + 2 * max(0.0, math.sqrt((mass - 1) / (n + 1)) - 1) + c_s
    length = math.sqrt(n) * (1 - 1 / (4 * n) + 1 / (21 * n * n))
    mean, covariance, path_c, path_s = START, torch.eye(n), torch.zeros(n), torch.zeros(n)
    for done in range(0, simulations, many):
        scale, basis = torch.linalg.eigh(covariance)
        scale = scale.clamp(min=1e-12).sqrt()
        moves = (torch.randn(many, n) * scale) @ basis.T
        order = torch.stack([cost(mean + step * move) for move in moves]).argsort()
        moves = moves[order[: len(weights)]]
        move = weights @ moves
        mean = mean + step * move
        path_s = (1 - c_s) * path_s + math.sqrt(c_s * (2 - c_s) * mass) * (basis @ ((basis.T @ move) / scale))
        path_c = (1 - c_c) * path_c + math.sqrt(c_c * (2 - c_c) * mass) * move
        update = c_1 * torch.outer(path_c, path_c) + c_mu * (moves.T * weights) @ moves
        covariance = (1 - c_1 - c_mu) * covariance + update
        step *= math.exp(c_s / damping * (float(path_s.norm()) / length - 1))
        for _ in range(min(many, simulations - done)):
            track(mean)


# --- 5. Methods. Each chose among STEPS by its mean validation cost over seeds 10 to 12: see `--tune`. ---

STEPS = (0.1, 0.3, 1.0, 3.0)


class Method(NamedTuple):
    optimize: Callable[..., None]
    step: float
    color: str
    rewritten: str
    simulator: Callable[[Tensor, Days], tuple[Tensor, Tensor]] = simulate
    times: int = 1  # how many times SIMULATIONS


METHODS = {
    "plain gradient": Method(by_gradient(nullcontext), 0.3, "plain", "nothing"),
    "random search": Method(random_search, 1.0, "other", "nothing"),
    "CMA-ES": Method(cma_es, 0.3, "sigmoid", "nothing"),
    "CMA-ES, 10 times": Method(cma_es, 1.0, "sigmoid", "nothing", times=10),
    "straight-through": Method(by_gradient(nullcontext), 0.3, "straight_through", "the simulator", simulate_by_hand),
    "sll": Method(by_gradient(lambda: sll.linearize("auto")), 0.3, "auto", "nothing"),
}


class Run(NamedTuple):
    curve: list[float]  # mean cost of a validation day under the plain simulator, after each simulation
    test: float
    rules: Tensor
    seconds: float


@torch.no_grad()
def cost_of(rules: Tensor, days: Days) -> float:
    return simulate(rules, days)[0].mean().item()


def train(method: Method, step: float, seed: int, simulations: int) -> Run:
    days, validation, test = winter(seed)
    torch.manual_seed(seed)
    seen = [START]
    begin = time.perf_counter()
    method.optimize(lambda r: method.simulator(r, days)[0].mean(), method.times * simulations, step, seen.append)
    seconds = time.perf_counter() - begin
    curve = [cost_of(rules, validation) for rules in seen[:: method.times]]
    return Run(curve, cost_of(seen[-1], test), seen[-1], seconds)


def tune() -> None:
    """Print the mean validation cost of each method and step size. METHODS has the best."""
    for name, method in METHODS.items():
        runs = {step: [train(method, step, seed, SIMULATIONS).curve[-1] for seed in range(10, 13)] for step in STEPS}
        print(name, {step: round(statistics.mean(costs), 2) for step, costs in runs.items()})


# --- 6. What came out ---


def draw(runs: dict[str, list[Run]], path: Path) -> None:
    """Cost during the search; and one winter day under the first guess and under the rules that sll found."""
    with sll.plot.style():
        figure = Figure(figsize=(9, 3.6), dpi=110)
        left, right = figure.subplots(1, 2)
        shown = {name: method.color for name, method in METHODS.items() if method.times == 1}
        draw_curves(left, {name: torch.tensor([of.curve for of in runs[name]]) for name in shown}, shown)
        left.set(xlabel="simulations", ylabel="deployed validation cost of a day")
        left.set_ylim(bottom=11)
        left.legend(loc="lower left", ncols=2)
        test = winter(0)[2]
        hours = torch.arange(1, 25)
        need = [wanted(hour) for hour in range(24)]
        right.step(range(25), [need[0], *need], color="#666666", linestyle="--", label="wanted at least")
        for name, rules, color in (("first guess", START, "plain"), ("sll", runs["sll"][0].rules, "auto")):
            with torch.no_grad():
                cost, rooms = simulate(rules, test)
            label = f"{name}: cost {cost[0]:.1f}"
            right.plot(hours, rooms[0], color=sll.plot.COLORS[color], linestyle=sll.plot.LINES[color], label=label)
        right.set(
            xlabel="hour", ylabel="room temperature (°C)", xticks=range(0, 25, 4), title="a day of the test split"
        )
        prices = right.twinx()
        prices.fill_between(
            range(24), test.price[0], step="post", color=sll.plot.COLORS["other"], alpha=0.3, linewidth=0
        )
        prices.set(ylabel="price of an hour (shaded)", ylim=(0, 6))
        prices.grid(False)
        right.legend(loc="upper left")
        right.set_ylim(12, 26)
        save(figure, path)


def main(quick: bool = False, figure: Path = Path("out/controller.png")) -> dict[str, list[float]]:
    """Mean cost of a test day under the plain simulator, lower is better: one per seed, for each method."""
    seeds, simulations = (range(2), 8) if quick else (range(3), SIMULATIONS)
    runs = {name: [train(method, method.step, seed, simulations) for seed in seeds] for name, method in METHODS.items()}
    rows = {}
    for name, method in METHODS.items():
        seconds = statistics.mean(of.seconds for of in runs[name])
        cost = spread([of.test for of in runs[name]], 2)
        rows[name] = cost, str(method.times * simulations), f"{seconds:.2f}", method.rewritten
    columns = "cost of a day", "simulations", "seconds", "rewritten"
    console = show(f"Test, mean ± std of {len(seeds)} seeds", columns, rows)
    draw(runs, figure)
    found = sll.explain(lambda rules: simulate(rules, winter(0)[0])[0].mean(), START, eps="auto")
    console.print("Where the gradients come from, at the first guess:", found, sep="\n")
    return {name: [run.test for run in runs[name]] for name in METHODS}


if __name__ == "__main__":
    run(__file__, __doc__, main, "two seeds, 8 simulations", tune)
