"""Python control flow, `linearize(..., paths=N)`: what its gradients are worth, and what it costs.

    python benchmarks/paths.py                     # all; about a quarter of an hour on one idle core
    python benchmarks/paths.py integrals unbiased  # some of them

`integrals`  the line integral of each program in `tests/path_programs.py`, in every forward mode
`unbiased`   2,000 draws with ``paths=3`` against all flips
`examples`   traffic grids, an epidemic, a hotel: this gradient, finite differences and REINFORCE at equal runs
`effects`    the tests of what a run changes besides its result, with what each says
`overhead`   programs of a millisecond that ask, with nothing in their bands
"""

from __future__ import annotations

import statistics
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path
from random import Random as Luck

import torch
from torch import Tensor, nn

import sll

sys.path.insert(0, str(Path(__file__).parent.parent / "tests"))
from path_programs import PROGRAMS, integral

EPS = {"linear": 0.01, "hard": 0.004, "straight-through": 0.004}


def integrals() -> None:
    """Figure 1: at most 0.5 % with "linear", 1 % with the others."""
    for name, program in PROGRAMS.items():
        errors = []
        for forward, eps in EPS.items():
            region = sll.linearize(eps, forward=forward, paths=512, on_lost="error")  # type: ignore[arg-type]
            got, want = integral(region, program)
            errors.append(f"{forward} {100 * (got - want) / abs(want):+.3f} %")
        print(f"{name:18} {want:9.4f}   {', '.join(errors)}", flush=True)


def many_ifs(x: Tensor) -> Tensor:
    y = x.sum()
    for i in range(6):
        if x[i % 2] > 0.3 - 0.002 * i:
            y = y * 1.3 + i * x[1]
    return y


def unbiased(draws: int = 2000) -> None:
    """Figure 2: the mean of the draws, less that of all flips, in standard errors."""
    x = torch.tensor([0.305, 0.301], dtype=torch.float64, requires_grad=True)

    def gradient(run: Callable[[Tensor], Tensor]) -> Tensor:
        return torch.autograd.grad(run(x), x)[0]

    for forward in ("hard", "straight-through"):
        exact = gradient(sll.linearize(0.02, forward=forward, paths=64)(many_ifs))  # type: ignore[arg-type]
        generator = torch.Generator().manual_seed(0)
        few = sll.linearize(0.02, forward=forward, paths=3, generator=generator)(many_ifs)  # type: ignore[arg-type]
        found = torch.stack([gradient(few) for _ in range(draws)])
        off = (found.mean(0) - exact) / (found.std(0) / draws**0.5)
        print(
            f"{forward:17} all {exact.tolist()}, mean {found.mean(0).tolist()}, off by {off.tolist()} errors",
            flush=True,
        )


def of_numbers() -> Callable[[Tensor], Tensor]:
    """A loop over single numbers, which asks 60 times."""

    def program(x: Tensor) -> Tensor:
        v, n = x * 1.0, 0
        for _ in range(60):
            v = v * 0.99 + 0.01 * torch.sin(v)
            if v > 5:
                v, n = v * 0.5, n + 1
        return v + n * x

    return program


def of_a_network() -> Callable[[Tensor], Tensor]:
    """Layers with buffers and random numbers, and two questions about what comes out."""
    torch.manual_seed(0)
    layers = [(nn.Linear(96, 96), nn.BatchNorm1d(96), nn.Tanh(), nn.Dropout(0.1)) for _ in range(3)]
    net = nn.Sequential(*(layer for each in layers for layer in each))
    data = torch.randn(128, 96)

    def program(x: Tensor) -> Tensor:
        s = net(data * x).sum()
        if s > 1e6:
            return s * 2
        for _ in range(int(3.4 + 0 * x)):
            s = s + x
        return s

    return program


def overhead(times: int = 400) -> None:
    """Figure 5: forward and backward, in turn; medians in microseconds, and of what paths=16 adds to paths=1."""
    x = torch.tensor(0.3, requires_grad=True)

    def took(run: Callable[[Tensor], Tensor]) -> float:
        start = time.thread_time()
        run(x).backward()
        return 1e6 * (time.thread_time() - start)

    for make in (of_numbers, of_a_network):
        for forward in EPS:
            program = make()
            runs = [program] + [
                sll.linearize(1e-3, forward=forward, paths=n, on_lost="ignore")(program) for n in (1, 16)
            ]  # type: ignore[arg-type]
            found = torch.tensor([[took(run) for run in runs] for _ in range(times)], dtype=torch.float64)
            plain, one, many = found.median(0).values.tolist()
            added = 100 * float(((found[:, 2] - found[:, 1]) / plain).median())
            print(
                f"{make.__name__:13} {forward:17} plain {plain:.0f}, paths=1 {one:.0f}, paths=16 {many:.0f}: "
                f"{added:+.1f} % of the program",
                flush=True,
            )


# --- models: of the kinds that DiscoGrad's paper has (arXiv 2310.03585), written anew ---------------------------------


class Model:
    """A simulation that decides in Python. `rates`: what the optimizers may choose from."""

    start: tuple[float, ...]
    eps: float
    rates: tuple[float, ...]

    def __call__(self, theta: Tensor, luck: Luck) -> Tensor:
        raise NotImplementedError


class Traffic(Model):
    """Crossings with lights in a grid, each light with an offset of its own. Cars drive straight on, and one that is
    close behind another waits for it. The cost is the time that a car stands still.
    """

    eps, rates = 0.2, (0.02, 0.05, 0.15)

    def __init__(self, side: int) -> None:
        luck = Luck(0)
        self.side, self.start = side, tuple(4 * luck.random() for _ in range(side**2))

    def __call__(self, theta: Tensor, luck: Luck) -> Tensor:
        lost, left = theta.new_zeros(()), {}
        for _ in range(10):
            east, lane = luck.random() > 0.5, luck.randrange(self.side)
            now = theta.new_tensor(4 * luck.random())
            for block in range(self.side):
                place = self.side * lane + block if east else self.side * block + lane
                now = arrived = now + 1.3
                before = left.get((place, east))
                if before is not None and now < before + 0.2:
                    now = before + 0.2
                phase = torch.remainder(now - theta[place], 4.0)
                if east and phase > 2:
                    now = now + 4 - phase
                elif not east and phase < 2:
                    now = now + 2 - phase
                left[place, east] = now
                lost = lost + now - arrived
        return lost / 10


class Epidemic(Model):
    """Thirty people in eight places; some are ill, and others fall ill, by a rate of the place. The cost is how far the
    numbers of the ill are from those of an epidemic with other rates.
    """

    start, eps, rates = (0.3,) * 8, 0.1, (0.005, 0.02, 0.05)
    rate_that_was = (0.05, 0.5, 0.1, 0.4, 0.15, 0.6, 0.05, 0.3)

    def __init__(self) -> None:
        that = [self.counts(torch.tensor(self.rate_that_was), Luck(i)) for i in range(200)]
        self.seen = torch.tensor(that, dtype=torch.float32).mean(0)

    def __call__(self, theta: Tensor, luck: Luck) -> Tensor:
        found = torch.tensor(self.counts(theta, luck), dtype=torch.float32)
        return (found - self.seen).square().mean()

    def counts(self, rate: Tensor, luck: Luck) -> list[list[int]]:
        """Of each day, the people in each place that have been ill."""
        ill = [person % 4 == 0 for person in range(32)]
        found = []
        for _ in range(4):
            at = [person // 4 if luck.random() < 0.7 else luck.randrange(8) for person in range(32)]
            carriers = [sum(ill[p] for p in range(32) if at[p] == place) for place in range(8)]
            for person in range(32):
                draw, place = luck.random(), at[person]
                if carriers[place] and not ill[person] and 1 - (1 - rate[place]) ** carriers[place] > draw:
                    ill[person] = True
            found.append([sum(ill[4 * place : 4 * place + 4]) for place in range(8)])
        return found


class Hotel(Model):
    """Stays of one to four of five nights, each kind with a price and a limit to how many are sold. Guests ask, for
    long stays first, and stay if their kind is not sold out and rooms are free. The cost is what is not earned.
    """

    stays = tuple((first, first + nights) for nights in range(1, 5) for first in range(6 - nights))
    start, eps, rates = (4.5,) * len(stays), 0.5, (0.05, 0.15, 0.4)

    def __call__(self, theta: Tensor, luck: Luck) -> Tensor:
        free, sold, earned = [15] * 5, [0] * len(self.stays), 0.0
        for guest in range(150):
            draws = luck.randrange(len(self.stays)), luck.randrange(len(self.stays))
            kind = max(draws) if guest < 75 else min(draws)
            first, last = self.stays[kind]
            if min(free[first:last]) > 0 and theta[kind] > sold[kind]:
                sold[kind] += 1
                earned += 0.6 + 0.4 * (last - first)
                for night in range(first, last):
                    free[night] -= 1
        return theta.new_tensor(-earned)


def examples(runs: int = 600, seeds: int = 4) -> None:
    """Figure 3: the cost on 300 fresh seeds after so many runs of the model; mean ± standard error over optimizations.

    Each method takes the best of three learning rates, chosen on another seed.
    """
    begin = time.perf_counter()
    for model in (Traffic(3), Traffic(4), Epidemic(), Hotel()):
        many = len(model.start)
        print(f"{type(model).__name__}, {many} parameters: {_cost(model, torch.tensor(model.start)):.3f} at the start")
        for method in (by_paths, by_differences, by_reinforce, by_autograd):
            tried = {rate: _cost(model, method(model, runs, rate, 100)) for rate in model.rates}
            rate = min(tried, key=tried.__getitem__)
            found = [_cost(model, method(model, runs, rate, seed)) for seed in range(seeds)]
            error = statistics.stdev(found) / seeds**0.5
            print(f"    {method.__name__:16} {statistics.mean(found):.3f} ± {error:.3f}   rate {rate}", flush=True)
    print(f"{time.perf_counter() - begin:.0f} seconds")


@torch.no_grad()
def _cost(model: Model, theta: Tensor) -> float:
    return statistics.mean(float(model(theta, Luck(10_000 + i))) for i in range(300))


Gradient = Callable[[Tensor, Luck], tuple[Tensor, int]]


def _descend(model: Model, runs: int, rate: float, gradient: Gradient, seed: int) -> Tensor:
    """Adam; the learning rate falls to nothing."""
    theta = torch.tensor(model.start, requires_grad=True)
    optimizer, luck, used = torch.optim.Adam([theta], rate), Luck(seed), 0
    while used < runs:
        optimizer.param_groups[0]["lr"] = rate * (1 - used / runs)
        theta.grad, many = gradient(theta, luck)
        used += many
        optimizer.step()
    return theta.detach()


def by_paths(model: Model, runs: int, rate: float, seed: int) -> Tensor:
    """Ours: ``forward="hard"``, eight runs for a gradient at most."""
    region = sll.linearize(model.eps, forward="hard", paths=8, on_lost="ignore")
    run = region(model.__call__)

    def gradient(theta: Tensor, luck: Luck) -> tuple[Tensor, int]:
        before = sum(each.run for each in region.report().flips.values())
        cost = run(theta, luck)
        (found,) = torch.autograd.grad(cost, theta) if cost.requires_grad else (torch.zeros_like(theta),)
        return found, 1 + sum(each.run for each in region.report().flips.values()) - before

    return _descend(model, runs, rate, gradient, seed)


def by_autograd(model: Model, runs: int, rate: float, seed: int) -> Tensor:
    """PyTorch's own gradient, one run each."""

    def gradient(theta: Tensor, luck: Luck) -> tuple[Tensor, int]:
        cost = model(theta, luck)
        (found,) = torch.autograd.grad(cost, theta) if cost.requires_grad else (torch.zeros_like(theta),)
        return found, 1

    return _descend(model, runs, rate, gradient, seed)


def by_differences(model: Model, runs: int, rate: float, seed: int) -> Tensor:
    """Central differences of the same width, with common random numbers."""

    def gradient(theta: Tensor, luck: Luck) -> tuple[Tensor, int]:
        with torch.no_grad():
            state, found = luck.getstate(), torch.zeros_like(theta)
            for i in range(theta.numel()):
                ends = []
                for side in (-model.eps, model.eps):
                    luck.setstate(state)
                    moved = theta.clone()
                    moved[i] += side
                    ends.append(model(moved, luck))
                found[i] = (ends[1] - ends[0]) / (2 * model.eps)
        return found, 2 * theta.numel()

    return _descend(model, runs, rate, gradient, seed)


def by_reinforce(model: Model, runs: int, rate: float, seed: int) -> Tensor:
    """The score function of a normal of the same width around the parameters, against the mean of eight runs."""

    def gradient(theta: Tensor, luck: Luck) -> tuple[Tensor, int]:
        with torch.no_grad():
            noise = torch.tensor([[luck.gauss(0, 1) for _ in theta] for _ in range(8)])
            costs = torch.stack([model(theta + model.eps * each, luck) for each in noise])
            return ((costs - costs.mean()).unsqueeze(1) * noise).sum(0) / (7 * model.eps), 8

    return _descend(model, runs, rate, gradient, seed)


def effects() -> None:
    """Figure 4: one run's changes stay, of every kind."""
    tests = Path(__file__).parent.parent / "tests" / "test_paths.py"
    kinds = "random or numpy or modules or arguments or first_saw or buffers or optimizers or undone or inner"
    subprocess.run([sys.executable, "-m", "pytest", "-p", "no:cacheprovider", "-v", tests, "-k", kinds], check=True)


if __name__ == "__main__":
    for name in sys.argv[1:] or ("integrals", "unbiased", "examples", "effects", "overhead"):
        print(f"== {name}: {globals()[name].__doc__}", flush=True)
        globals()[name]()
