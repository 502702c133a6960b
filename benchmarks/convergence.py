"""Does the minimiser go to the discrete one as eps goes to 0? ``python benchmarks/convergence.py [--figure PATH]``.

Three problems whose discrete optimum is known by enumeration, five instances each: a knapsack of 12 items, integer
least squares in 6 variables, and a rule with two thresholds on the wine data. They are plain hard programs,
linearized by nothing but ``with sll.linearize(eps):``. About a minute on one core; all seeds are fixed.

Theory
------
Write ``f`` for the hard program and ``f_eps`` for what the region computes. At every ``x`` off the decision boundaries
``f_eps(x) = f(x)`` as soon as eps is less than the distance to the nearest one. That is convergence *at each point*.
It says nothing about minima, because a minimiser may move with eps and stay inside the bands. Put ``F(w)`` for the
program as a function of the weights ``w`` in [0, 1] of its decisions, ``f_eps(x) = F(w(x / eps))``. On a bounded domain
minima converge to the minimum of the Gamma-limit of ``f_eps``, and at a point of the boundary that is the minimum of
``F`` over all weights that can be *reached* there, not the smallest of the hard values next to it. So:

1. *Multilinear.* If ``F`` is affine in each weight (counts, error rates, bool logic of independent decisions, products
   of different decisions), ``f_eps`` is the average of ``f`` over a window. An average is not below the minimum, so
   ``min f_eps >= min f``, with equality for every eps up to the margin of an optimum (half the width of the widest box
   on which ``f`` is optimal). Then ``f`` is optimal almost everywhere in the window of a minimiser of ``f_eps``, and a
   minimiser off the boundaries deploys to an optimum. Equality is reached, not approached. Concave in each weight is
   enough for the values (the minimum over weights is at a vertex); so is a ratio of two such functions, as F1.
2. *One variable per decision, and decisions that meet in a convex function* (a squared residual, a hinge on a total
   weight). Means go into the function, so by Jensen ``f_eps`` is below the average. Every ``w`` is reachable in every
   band, however narrow, so ``min f_eps = min F``, the continuous relaxation, *for every eps*. Its minimiser lies inside
   the bands and deploys to a rounded relaxation. The claim of the first line is false here, and annealing cannot help
   the minimiser (it may help the optimiser, see below). A hard ``where(weight <= capacity, value, 0)`` has the
   same limit: the comparison reads the mean weight, and its own band closes with eps.
3. *The remedy is a term that the hard program does not feel.* ``w - w * w`` is 0 for a decision that is made. In a
   region it is the variance of the decision, and adding it with the curvature of ``F`` (for a kink: with the jump of
   its slope) makes ``F`` concave in each weight, which is case 1. For squares it restores the window average exactly.
   Single runs need it brought in slowly at a fixed width, from 0 to 1: at once, it locks every decision where it is.
4. *Shared variables.* A threshold decides for many data. Once eps is below the gaps between them at most one value per
   threshold is in its band, so case 1 needs to hold for one weight per threshold only.

What is not guaranteed: that a local method finds the minimiser (concave functions of weights have many local minima);
that a minimiser is unique (outside the bands ``f_eps`` is flat, so every optimal cell is full of them: what converges
are the decisions, not ``x``); and anything at exact ties, where the forward value is the hard one by definition.

The minima of the rules are exact. Those of the other two are the lowest found, that is upper bounds: from about two
thousand starts and from the solution of the relaxation, which proves the minima below the discrete optimum.
"""

from __future__ import annotations

import argparse
import itertools
import math
import time
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import NamedTuple

import torch
from matplotlib.figure import Figure  # without pyplot: draws with Agg, and needs no display
from matplotlib.patches import Patch
from rich.console import Console
from rich.table import Table
from sklearn.datasets import load_wine
from torch import Tensor

import sll

torch.set_default_dtype(torch.float64)
console = Console(width=120)

INSTANCES, SEEDS = 5, 20
STARTS, STEPS = 2048, 50  # of the search for the minimum, per instance and eps
RUN_STEPS, RATES = 300, (0.03, 0.1, 0.3)  # of the single runs; each schedule gets its best rate, chosen on other seeds


# --- 1. The programs. `x` has the shape (..., instances, variables); the result has one number per instance. ---


class Knapsack(NamedTuple):
    """Take an item where x > 0. Total weight beyond the capacity costs `penalty` per unit."""

    values: Tensor
    weights: Tensor
    capacity: Tensor
    penalty: Tensor

    def hinge(self, x: Tensor) -> Tensor:
        take = x > 0
        excess = (take * self.weights).sum(-1) - self.capacity
        return self.penalty * torch.relu(excess) - (take * self.values).sum(-1)

    def where(self, x: Tensor) -> Tensor:
        take = x > 0
        weight, value = (take * self.weights).sum(-1), (take * self.values).sum(-1)
        return torch.where(weight <= self.capacity, -value, 0.0)

    def hinge_and_variance(self, x: Tensor) -> Tensor:
        take = (x > 0).double()
        undecided = take - take * take  # 0 in the hard program
        jump = self.penalty[:, None] * self.weights  # of the slope, where the hinge has its kink
        return self.hinge(x) + (jump * undecided).sum(-1)


class LeastSquares(NamedTuple):
    """``|A k - b|**2`` for integer k = round(x)."""

    matrix: Tensor
    target: Tensor

    def residual(self, x: Tensor) -> Tensor:
        product = torch.einsum("imn,...in->...im", self.matrix, torch.round(x))
        return (product - self.target).square().sum(-1)

    def residual_and_variance(self, x: Tensor) -> Tensor:
        k = torch.round(x)
        # The integer is squared in both outcomes, the float as it is: the difference is w - w * w, and hard it is 0.
        # The sums come first, since a difference of the two would be taken in both outcomes, too, and always be 0.
        curvature = self.matrix.square().sum(-2)
        return self.residual(x) + (curvature * k.long() ** 2).sum(-1) - (curvature * k**2).sum(-1)


class Rule(NamedTuple):
    """Positive where both features exceed their thresholds; shapes (instances, data, 2) and (instances, data)."""

    features: Tensor
    positive: Tensor

    def compare(self, x: Tensor) -> Tensor:
        return self.features > x[..., None, :]

    def predict(self, x: Tensor) -> Tensor:
        above = self.compare(x)
        return above[..., 0] & above[..., 1]

    def error(self, x: Tensor) -> Tensor:
        return (self.predict(x) ^ self.positive).double().mean(-1)

    def one_minus_f1(self, x: Tensor) -> Tensor:
        predicted = self.predict(x)
        both = (predicted & self.positive).sum(-1)
        return 1 - 2 * both / (predicted.sum(-1) + self.positive.sum(-1))


# --- 2. The problems: a program, its discrete optimum by enumeration, and where to look for minima of f_eps ---


Program = Callable[[Tensor], Tensor]


class Minimum(NamedTuple):
    """Per instance: the point, the value of f_eps there, and the share of starts that came as low (nan: no starts)."""

    x: Tensor
    value: Tensor
    reached: Tensor


@dataclass
class Problem:
    group: str
    name: str
    variables: int
    program: Program
    decide: Callable[[Tensor], Tensor]
    """All decisions, as floats: in a region their means."""
    answer: Callable[[Tensor], Tensor]
    """What the decisions amount to, for the Hamming distance."""
    optimum: Tensor
    answers: list[Tensor]
    """Per instance all optimal answers."""
    scale: Tensor
    """One unit of the tables, in units of the objective."""
    low: Tensor
    high: Tensor
    widths: tuple[float, ...]
    minimise: Callable[[Problem, float], Minimum]
    wide: float
    narrow: float
    without_term: Program | None = None
    limit: Tensor | None = None
    """What `min f_eps` is bound to go to where that is not the optimum: the relaxation, solved without sll."""
    average: Callable[[Problem, Tensor, float], Tensor] | None = None
    notes: list[str] = field(default_factory=list)


def descend(steps: list[tuple[Program, float]], x: Tensor, rate, low, high) -> Tensor:
    """Projected Adam with a cosine schedule; every row of `x` is a run of its own. A step is a program and an eps."""
    mean = square = torch.zeros_like(x)
    for step, (program, eps) in enumerate(steps):
        x = x.detach().requires_grad_()
        with sll.linearize(eps):
            (gradient,) = torch.autograd.grad(program(x).sum(), x)
        mean, square = 0.9 * mean + 0.1 * gradient, 0.99 * square + 0.01 * gradient**2
        direction = (mean / (1 - 0.9 ** (step + 1))) / ((square / (1 - 0.99 ** (step + 1))).sqrt() + 1e-12)
        decay = 0.5 + 0.5 * math.cos(math.pi * step / len(steps))
        x = torch.clamp(x.detach() - rate * decay * direction, low, high)
    return x


def linearized(function, x: Tensor, eps: float) -> Tensor:
    """Value in a region. It needs an input that requires grad: otherwise the hard program is what runs."""
    with sll.linearize(eps, on_lost="ignore"):
        return function(x.clone().requires_grad_()).detach()


def multistart(problem: Problem, eps: float, centre: Tensor, weight: Tensor, relaxed: Tensor) -> Minimum:
    """Descend from every ``centre + eps (2 weight - 1)`` within the band around `centre`, and keep the lowest.

    Outside the bands f_eps is flat and equal to f, so nothing is lost by staying inside. The claim is about the
    minimiser, not about this search, so one more candidate is a point where the continuous relaxation is `relaxed`.
    """
    low, high = torch.maximum(centre - eps, problem.low), torch.minimum(centre + eps, problem.high)
    start = torch.clamp(centre + eps * (2 * weight - 1), low, high)
    x = descend(STEPS * [(problem.program, eps)], start, 0.2 * eps, low, high)
    x = torch.cat([x, torch.clamp(relaxed, problem.low, problem.high)[None]])
    value = linearized(problem.program, x, eps)
    lowest, index = value.min(0)
    reached = (value[:-1] <= lowest + 0.1 * problem.scale).double().mean(0)
    return Minimum(x[index, torch.arange(INSTANCES)], lowest, reached)


def knapsacks() -> list[Problem]:
    generator = torch.Generator().manual_seed(0)
    weights = torch.randint(3, 17, (INSTANCES, 12), generator=generator) / 16.0  # sums of these are exact
    values = weights * (0.7 + 0.6 * torch.rand(INSTANCES, 12, generator=generator))
    capacity = torch.floor(8 * weights.sum(-1)) / 16

    assignments = torch.tensor(list(itertools.product((0.0, 1.0), repeat=12)))[:, None, :]
    value, excess = (assignments * values).sum(-1), (assignments * weights).sum(-1) - capacity
    optimum = torch.where(excess <= 0, value, 0.0).max(0).values
    # A quarter more than what the hard program needs (and, for the relaxation, than the best value per weight).
    needed = torch.where(excess > 0, (value - optimum) / excess, 0.0).amax(0)
    penalty = 1.25 * torch.maximum(needed, (values / weights).amax(-1))
    knapsack = Knapsack(values, weights, capacity, penalty)

    def dantzig(capacity: Tensor) -> Tensor:
        """The continuous optimum: fill up by value per weight, and take of one item a part."""
        order = (values / weights).argsort(-1, descending=True)
        ordered = weights.gather(1, order)
        room = (capacity[:, None] - ordered.cumsum(-1) + ordered).clamp(min=0)
        return torch.zeros_like(weights).scatter(1, order, (room / ordered).clamp(max=1))

    def minimise(problem: Problem, eps: float) -> Minimum:
        """From the best assignments, with means of 0.2 and 0.8."""
        best = problem.program(2 * assignments - 1).argsort(0)[:STARTS]
        # The comparison in `where` has a band, too: below it the mean weight certainly fits.
        taken = dantzig((capacity - eps).clamp(min=0) if problem.name == "hard where" else capacity)
        return multistart(problem, eps, torch.zeros(1), 0.2 + 0.6 * assignments[:, 0][best], eps * (2 * taken - 1))

    def average(problem: Problem, x: Tensor, eps: float) -> Tensor:
        """Every item is taken in the share w of its window."""
        w = torch.clamp(0.5 + x / (2 * eps), 0, 1)
        chance = (assignments * w + (1 - assignments) * (1 - w)).prod(-1)
        return (chance * problem.program(2 * assignments - 1)).sum(0)

    relaxation = -(values * dantzig(capacity)).sum(-1)

    problems = []
    for name, program, limit in (
        ("hinge", knapsack.hinge, relaxation),
        ("hard where", knapsack.where, relaxation),
        ("hinge + variance", knapsack.hinge_and_variance, None),
    ):
        hard = program(2 * assignments - 1)
        assert torch.allclose(hard.amin(0), -optimum)
        problems.append(
            Problem(
                group="knapsack",
                name=name,
                variables=12,
                program=program,
                decide=lambda x: (x > 0).double(),
                answer=lambda x: (x > 0).double(),
                optimum=-optimum,
                answers=[assignments[:, 0][hard[:, i] < 1e-9 - optimum[i]] for i in range(INSTANCES)],
                scale=optimum / 100,
                low=torch.tensor(-1.0),
                high=torch.tensor(1.0),
                widths=(4, 2, 1, 0.5, 0.2, 0.1, 0.03, 0.01),
                minimise=minimise,
                wide=1.0,
                narrow=0.01,
                without_term=knapsack.hinge if limit is None else None,
                limit=limit,
                average=average,
            )
        )
    return problems


def least_squares() -> list[Problem]:
    generator = torch.Generator().manual_seed(1)
    matrix = torch.randn(INSTANCES, 7, 6, generator=generator)
    truth = 3 * torch.rand(INSTANCES, 6, 1, generator=generator) - 1.5
    target = (matrix @ truth).squeeze(-1) + 0.3 * torch.randn(INSTANCES, 7, generator=generator)
    squares = LeastSquares(matrix, target)

    integers = torch.tensor(list(itertools.product((-2.0, -1.0, 0.0, 1.0, 2.0), repeat=6)))[:, None, :]
    cubes = torch.tensor(list(itertools.product((-1.5, -0.5, 0.5, 1.5), repeat=6)))[:, None, :]
    optimum = squares.residual(integers).amin(0)

    def minimise(problem: Problem, eps: float) -> Minimum:
        """From within the cubes between neighbouring integer points, those with the lowest residual at their centre."""
        centre_residual = (torch.einsum("imn,sin->sim", matrix, cubes) - target).square().sum(-1)
        best = cubes[:, 0][centre_residual.argsort(0)[:STARTS]]
        weight = torch.rand(best.shape, generator=torch.Generator().manual_seed(2))
        cube = torch.floor(real) + 0.5
        return multistart(problem, eps, best, weight, cube + 2 * eps * (real - cube))

    corners = torch.tensor(list(itertools.product((0.0, 1.0), repeat=6)))[:, None, :]

    def average(problem: Problem, x: Tensor, eps: float) -> Tensor:
        """Half-width at most 1/2: at most one boundary per window, above which lies the share w."""
        below = torch.round(x - eps)
        w = torch.clamp((x + eps - below - 0.5) / (2 * eps), 0, 1)
        chance = (corners * w + (1 - corners) * (1 - w)).prod(-1)
        return (chance * problem.program(below + corners)).sum(0)

    real = torch.linalg.lstsq(matrix, target[..., None]).solution.squeeze(-1)
    assert bool((real.abs() <= 2).all())
    relaxation = ((matrix @ real[..., None]).squeeze(-1) - target).square().sum(-1)

    problems = []
    for name, program, limit in (
        ("residual", squares.residual, relaxation),
        ("residual + variance", squares.residual_and_variance, None),
    ):
        hard = program(integers)
        assert torch.allclose(hard.amin(0), optimum)
        problems.append(
            Problem(
                group="integer least squares",
                name=name,
                variables=6,
                program=program,
                decide=torch.round,
                answer=torch.round,
                optimum=optimum,
                answers=[integers[:, 0][hard[:, i] < optimum[i] + 1e-9] for i in range(INSTANCES)],
                scale=optimum / 100,
                low=torch.tensor(-2.0),
                high=torch.tensor(2.0),
                widths=(0.5, 0.4, 0.3, 0.2, 0.1, 0.03, 0.01, 0.001),
                minimise=minimise,
                wide=0.5,
                narrow=0.005,
                without_term=squares.residual if limit is None else None,
                limit=limit,
                average=average,
            )
        )
    return problems


def rules() -> list[Problem]:
    """Wines of the first grower: much proline and many flavanoids. Instances: the data without one of five folds."""
    bunch = load_wine()
    columns = [bunch.feature_names.index(name) for name in ("proline", "flavanoids")]
    data = torch.tensor(bunch.data[:, columns])
    data = (data - data.mean(0)) / data.std(0)
    fold = torch.randperm(len(data), generator=torch.Generator().manual_seed(3)) % INSTANCES
    size = min(int((fold != i).sum()) for i in range(INSTANCES))
    chosen = torch.stack([(fold != i).nonzero().squeeze(-1)[:size] for i in range(INSTANCES)])
    rule = Rule(data[chosen], torch.tensor(bunch.target == 0)[chosen])

    def on_grid(name: str, instance: int, first: Tensor, second: Tensor) -> Tensor:
        """The objective at all pairs of thresholds, from the means of the two comparisons (case 1: they multiply)."""
        positive = rule.positive[instance].double()
        both = first * positive @ second.T
        predicted = first @ second.T
        if name == "error rate":
            return (positive.sum() + predicted - 2 * both) / size
        return 1 - 2 * both / (predicted + positive.sum())

    def compare(instance: int, axis: int, thresholds: Tensor) -> Tensor:
        return (rule.features[instance, :, axis] > thresholds[:, None]).double()

    def all_cuts(name: str) -> tuple[Tensor, list[Tensor], Tensor]:
        """The optimum, the optimal predictions, and the margin: half the width of the widest optimal cell."""
        optimum, answers, margins = [], [], []
        for i in range(INSTANCES):
            values = [rule.features[i, :, axis].unique() for axis in (0, 1)]
            edges = [torch.cat([v[:1] - 10, v, v[-1:] + 10]) for v in values]
            cuts = [(e[1:] + e[:-1]) / 2 for e in edges]
            grid = on_grid(name, i, *(compare(i, axis, cuts[axis]) for axis in (0, 1)))
            where = (grid <= grid.min() + 1e-12).nonzero()
            predictions = [compare(i, axis, cuts[axis][where[:, axis]]) for axis in (0, 1)]
            widths = torch.stack([e.diff()[where[:, axis]] for axis, e in enumerate(edges)])
            optimum.append(grid.min())
            answers.append((predictions[0] * predictions[1]).unique(dim=0))
            margins.append(widths.amin(0).max() / 2)
        return torch.stack(optimum), answers, torch.stack(margins)

    def minimise(problem: Problem, eps: float) -> Minimum:
        """Exhaustively. Between the knots ``value ± eps`` f_eps is monotone in each threshold: its minimum is at knots.

        The means of the comparisons are those of the region, and so is the value at the minimum; the program itself
        runs on 200 random pairs of knots, to see that it is the product of the means everywhere.
        """
        points = []
        generator = torch.Generator().manual_seed(4)
        for i in range(INSTANCES):
            knots = [torch.cat([rule.features[i, :, a] - eps, rule.features[i, :, a] + eps]).unique() for a in (0, 1)]
            means = [linearized(lambda t, i=i, axis=axis: compare(i, axis, t), knots[axis], eps) for axis in (0, 1)]
            grid = on_grid(problem.name, i, *means)
            index = [torch.randint(len(k), (200,), generator=generator) for k in knots]
            some = torch.stack([knots[0][index[0]], knots[1][index[1]]], -1)[:, None].expand(-1, INSTANCES, -1)
            assert torch.allclose(linearized(problem.program, some, eps)[:, i], grid[index[0], index[1]])
            row, column = divmod(int(grid.argmin()), grid.shape[1])
            points.append(torch.stack([knots[0][row], knots[1][column]]))
        x = torch.stack(points)
        return Minimum(x, linearized(problem.program, x, eps), torch.full((INSTANCES,), torch.nan))

    def average(problem: Problem, x: Tensor, eps: float) -> Tensor:
        """Over the pieces into which the data cut the window."""
        result = torch.empty(INSTANCES)
        for i in range(INSTANCES):
            lengths, means = [], []
            for axis in (0, 1):
                ends = torch.stack([x[i, axis] - eps, x[i, axis] + eps])
                inside = torch.clamp(rule.features[i, :, axis], ends[0], ends[1])
                edges = torch.cat([ends, inside]).sort().values
                lengths.append(edges.diff() / (2 * eps))
                means.append(compare(i, axis, (edges[1:] + edges[:-1]) / 2))
            result[i] = lengths[0] @ on_grid(problem.name, i, *means) @ lengths[1]
        return result

    problems = []
    for name, program in (("error rate", rule.error), ("1 - F1", rule.one_minus_f1)):
        optimum, answers, margin = all_cuts(name)
        note = f"an optimal cell leaves a margin of {margin.min():.3f} to {margin.max():.3f} (five instances)"
        problems.append(
            Problem(
                group="rule",
                name=name,
                variables=2,
                program=program,
                decide=lambda x: rule.compare(x).double().flatten(-2),
                answer=lambda x: rule.predict(x).double(),
                optimum=optimum,
                answers=answers,
                scale=torch.full((INSTANCES,), 0.01),
                low=data.amin(0),
                high=data.amax(0),
                widths=(1, 0.5, 0.2, 0.1, 0.05, 0.02, 0.005, 0.002),
                minimise=minimise,
                wide=1.0,
                narrow=0.01,
                average=average,
                notes=[note],
            )
        )
    return problems


# --- 3. The minimum of f_eps for a decreasing sequence of eps ---


class Row(NamedTuple):
    """One number per instance; gaps in the unit of the problem."""

    eps: float
    minimum: Tensor
    deployed: Tensor
    hamming: Tensor
    undecided: Tensor
    reached: Tensor


def trace(problem: Problem) -> list[Row]:
    rows = []
    for eps in problem.widths:
        x, value, reached = problem.minimise(problem, eps)
        answer = problem.answer(x)
        hard, mean = problem.decide(x), linearized(problem.decide, x, eps)
        rows.append(
            Row(
                eps,
                (value - problem.optimum) / problem.scale,
                (problem.program(x) - problem.optimum) / problem.scale,
                torch.stack([(a != answer[i]).sum(-1).min().double() for i, a in enumerate(problem.answers)]),
                ((hard - mean).abs() > 1e-3).double().mean(-1),
                reached,
            )
        )
    return rows


def distance_to_average(problem: Problem, eps: float) -> tuple[float, float]:
    """Largest |f_eps - average| and f_eps - average, at 40 random points per instance, in units of the tables."""
    generator = torch.Generator().manual_seed(5)
    worst = above = 0.0
    for _ in range(40):
        x = problem.low + (problem.high - problem.low) * torch.rand(INSTANCES, problem.variables, generator=generator)
        difference = (linearized(problem.program, x, eps) - problem.average(problem, x, eps)) / problem.scale
        worst, above = max(worst, float(difference.abs().max())), max(above, float(difference.max()))
    return worst, above


# --- 4. Single runs from random starts: which schedule of eps gets to the discrete optimum? ---


ANNEALED, WIDE, NARROW, HOMOTOPY = "annealed", "fixed, wide", "fixed, narrow", "wide, term 0 to 1"


def schedules(problem: Problem) -> dict[str, list[tuple[Program, float]]]:
    """Per step the program and eps. With a variance term there is one more: bring in the term, and leave eps alone."""
    ratio, time = problem.narrow / problem.wide, [step / (RUN_STEPS - 1) for step in range(RUN_STEPS)]
    found = {
        ANNEALED: [(problem.program, problem.wide * ratio**t) for t in time],
        WIDE: RUN_STEPS * [(problem.program, problem.wide)],
        NARROW: RUN_STEPS * [(problem.program, problem.narrow)],
    }
    if (base := problem.without_term) is not None:
        found[HOMOTOPY] = [
            (lambda x, t=t: (1 - t) * base(x) + t * problem.program(x), problem.wide) for t in time
        ]  # fmt: skip
    return found


def single_runs(problem: Problem) -> dict[str, tuple[float, Tensor, Tensor]]:
    """Per schedule: the rate chosen, and per instance the share of seeds that hit the optimum and the mean gap."""
    generator = torch.Generator().manual_seed(6)
    start = problem.low + (problem.high - problem.low) * torch.rand(
        2 * SEEDS, INSTANCES, problem.variables, generator=generator
    )
    rate = torch.tensor(RATES)[:, None, None, None]
    found = {}
    for name, steps in schedules(problem).items():
        x = descend(steps, start.expand(len(RATES), -1, -1, -1), rate, problem.low, problem.high)
        gap = (problem.program(x) - problem.optimum) / problem.scale
        tuning, testing = gap[:, :SEEDS], gap[:, SEEDS:]
        hits = (tuning < 1e-6).double().mean((1, 2)) - 1e-6 * tuning.mean((1, 2))  # among equals the smaller gap
        best = int(hits.argmax())
        found[name] = (RATES[best], (testing[best] < 1e-6).double().mean(0), testing[best].mean(0))
    return found


# --- 5. What came out ---

UNITS = {
    "knapsack": "% of the optimal value",
    "integer least squares": "% of the optimal residual",
    "rule": "percentage points",
}


def spread(x: Tensor, digits: int = 2) -> str:
    """Mean and range over the instances. Rounding errors of the search and of float64 are no gaps: ±0 reads 0."""
    mean, low, high = (f"{float(v) + 0.0:.{digits}f}" for v in (x.mean(), x.min(), x.max()))
    mean, low, high = (s[1:] if s.startswith("-") and not s.strip("-0.") else s for s in (mean, low, high))
    return mean if low == high else f"{mean} [{low}, {high}]"


def show(problem: Problem, rows: list[Row]) -> None:
    title = f"{problem.group}, {problem.name}: gaps to the discrete optimum, {UNITS[problem.group]}"
    table = Table(title=f"{title}\nmean and range of {INSTANCES} instances", title_justify="left")
    for name in ("eps", "min f_eps", "deployed", "Hamming", "undecided, %", "starts that get there, %"):
        table.add_column(name, justify="right", no_wrap=name != "starts that get there, %")
    for row in rows:
        table.add_row(
            f"{row.eps:g}", spread(row.minimum), spread(row.deployed), spread(row.hamming, 1),
            spread(100 * row.undecided, 0), "all knots" if row.reached.isnan().any() else spread(100 * row.reached, 0),
        )  # fmt: skip
    console.print(table)
    if problem.limit is not None:
        gap = (problem.limit - problem.optimum) / problem.scale
        console.print(f"the relaxation, solved without sll: {spread(gap)}")
    for note in problem.notes:
        console.print(note)
    console.print()


def show_averages(problems: list[Problem]) -> None:
    title = "Is f_eps the average of f over a window? At 40 random points per instance, in the units above"
    table = Table("program", "eps", "largest |f_eps - average|", "largest f_eps - average", title=title)
    for problem in problems:
        worst, above = distance_to_average(problem, problem.wide)
        table.add_row(f"{problem.group}, {problem.name}", f"{problem.wide:g}", f"{worst:.1e}", f"{above:.1e}")
    console.print(table)


Runs = dict[str, tuple[float, Tensor, Tensor]]


def show_runs(results: list[tuple[Problem, Runs]]) -> None:
    title = f"Single runs from random starts, {RUN_STEPS} steps of Adam, {SEEDS} seeds x {INSTANCES} instances"
    table = Table("program", "eps", "rate", "optimum deployed, %", "mean gap deployed", title=title)
    for problem, runs in results:
        widths = {ANNEALED: f"{problem.wide:g} to {problem.narrow:g}", NARROW: f"{problem.narrow:g}"}
        for name, (rate, hits, gap) in runs.items():
            eps = f"{name}: {widths.get(name, f'{problem.wide:g}')}"
            program = f"{problem.group}, {problem.name}"
            table.add_row(program, eps, f"{rate:g}", spread(100 * hits, 0), spread(gap, 1))
        table.add_section()
    console.print(table)


# Colours of Okabe and Ito, which the colour-blind can tell apart.
COLORS = ("#D55E00", "#CC79A7", "#009E73")
SCHEDULE_COLORS = {ANNEALED: "#0072B2", WIDE: "#E69F00", NARROW: "#000000", HOMOTOPY: "#56B4E9"}


def draw(traces: list[tuple[Problem, list[Row]]], results: list[tuple[Problem, Runs]], path: Path) -> None:
    """Above, the gap of min f_eps and of what it deploys; below, how often a single run gets to the optimum."""
    groups = list(UNITS)
    figure = Figure(figsize=(8.2, 7))
    panels = figure.subplots(2, len(groups), height_ratios=(3, 2))
    for column, group in enumerate(groups):
        panel, bars = panels[:, column]
        members = [(problem, rows) for problem, rows in traces if problem.group == group]
        # Where a program is the exact one it is green, also where there is no other.
        colors = COLORS if len(members) == 3 else (COLORS[0], COLORS[2]) if group != "rule" else ("#009E73", "#0072B2")
        for (problem, rows), color in zip(members, colors):
            eps = [row.eps for row in rows]
            minimum, deployed = (torch.stack([getattr(r, key) for r in rows]) for key in ("minimum", "deployed"))
            panel.fill_between(
                eps, minimum.amin(1).tolist(), minimum.amax(1).tolist(), color=color, alpha=0.15, linewidth=0
            )
            panel.plot(eps, minimum.mean(1).tolist(), color=color, marker="o", markersize=4, label=problem.name)
            panel.plot(eps, deployed.mean(1).tolist(), color=color, linestyle=":", linewidth=2)
        panel.axhline(0, color="#000000", linewidth=0.8)
        panel.set_xscale("log")
        panel.invert_xaxis()
        panel.set_yscale("symlog", linthresh=1)
        panel.set_title(group)
        panel.set_xlabel("eps, from wide to narrow")
        panel.set_ylabel(f"gap to the discrete optimum\n({UNITS[group]})")
        panel.grid(alpha=0.3)
        panel.set_ylim(top=30 if group == "rule" else 3000)
        panel.legend(loc="upper right", frameon=False)

        runs = [(problem, found) for problem, found in results if problem.group == group]
        for k, (name, color) in enumerate(SCHEDULE_COLORS.items()):
            hits = [(i, 100 * found[name][1]) for i, (_, found) in enumerate(runs) if name in found]
            position = [i + 0.2 * (k - 1) for i, _ in hits]
            mean = [float(h.mean()) for _, h in hits]
            ends = [[float(h.mean() - h.min()) for _, h in hits], [float(h.max() - h.mean()) for _, h in hits]]
            bars.bar(position, mean, 0.18, yerr=ends if hits else None, color=color, ecolor="#777777", capsize=2)
        bars.set_xticks(range(len(runs)), [problem.name.replace(" ", "\n", 1) for problem, _ in runs])
        bars.set_ylabel("single runs that deploy\nthe optimum (%)")
        bars.set_ylim(-1, 102)
        bars.set_yticks(range(0, 101, 25))
        bars.grid(alpha=0.3, axis="y")
    swatches = [Patch(color=color, label=name) for name, color in SCHEDULE_COLORS.items()]
    figure.legend(handles=swatches, title="eps of the single runs", loc="outside lower center", ncols=4, frameon=False)
    figure.suptitle(
        "Above: the minimum of the linearized objective (line: mean of five instances, band: range)\n"
        "and what its minimiser deploys (dotted). Below: single runs from random starts (bar: mean, whisker: range)",
        fontsize=9,
    )
    path.parent.mkdir(parents=True, exist_ok=True)
    figure.savefig(path)


def main() -> None:
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--figure", type=Path, default=Path("docs/img/convergence.png"), help="where the figure goes")
    path = parser.parse_args().figure
    start = time.perf_counter()
    problems = [*knapsacks(), *least_squares(), *rules()]
    traces = [(problem, trace(problem)) for problem in problems]
    for problem, rows in traces:
        show(problem, rows)
    show_averages(problems)
    results = [(problem, single_runs(problem)) for problem in problems]
    show_runs(results)
    with sll.plot.style():
        draw(traces, results, path)
    console.print(f"Figure: [bold]{path}[/bold] ({time.perf_counter() - start:.0f} s in all)")


if __name__ == "__main__":
    torch.set_num_threads(1)  # tensors this small gain little from a second thread
    main()
