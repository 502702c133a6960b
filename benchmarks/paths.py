"""Python control flow, `linearize(..., paths=N)`: what its gradients are worth, and what it costs.

    python benchmarks/paths.py                     # all; about half an hour on one core
    python benchmarks/paths.py integrals sample    # some of: integrals, sample, models, overhead

`integrals`  the line integral of each program in `tests/path_programs.py`, in every forward mode
`sample`     2,000 draws with ``paths=3`` against all flips
`models`     a traffic grid, an epidemic, a hotel: this gradient, finite differences and REINFORCE at equal runs
`overhead`   a program of one millisecond that asks, with nothing in its band
"""

from __future__ import annotations

import statistics
import sys
import time
from collections.abc import Callable
from pathlib import Path

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


def sample(draws: int = 2000) -> None:
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


# --- models ----------------------------------------------------------------------------------------------------------


class Model:
    """A simulation that decides in Python: written anew, from the description of its kind."""

    start: tuple[float, ...]
    eps: float
    rate: float

    def __call__(self, theta: Tensor, generator: torch.Generator) -> Tensor:
        raise NotImplementedError


class Traffic(Model):
    """Crossings in a row, each with a light of its own offset; cars wait at red. The cost is the time that is lost."""

    start, eps, rate = (1.0, 2.5, 4.0), 0.3, 0.05

    def __call__(self, theta: Tensor, generator: torch.Generator) -> Tensor:
        lost = theta.new_zeros(())
        for _ in range(3):
            now = theta.new_tensor(float(torch.rand((), generator=generator)) * 6)
            for offset in theta:
                now = now + 1.0
                phase = torch.remainder(now - offset, 6.0)
                if phase > 3.0:
                    wait = 6.0 - phase
                    lost, now = lost + wait, now + wait
        return lost / 3


class Epidemic(Model):
    """People meet; who is near enough is infected. Masks and closures cost, so do infections."""

    start, eps, rate = (0.2, 0.3), 0.1, 0.02

    def __call__(self, theta: Tensor, generator: torch.Generator) -> Tensor:
        ill = [True] + [False] * 9
        for _ in range(4):
            for person in range(10):
                other = int(torch.randint(10, (), generator=generator))
                luck = float(torch.rand((), generator=generator))
                if ill[other] and not ill[person] and 0.9 - theta[0] - 0.5 * theta[1] > luck:
                    ill[person] = True
        return theta.new_tensor(float(sum(ill))) + 6 * theta[0] ** 2 + 3 * theta[1] ** 2


class Hotel(Model):
    """Guests book if the price is below what they would pay, while rooms are free. The cost is what is not earned."""

    start, eps, rate = (0.2, 0.9), 0.1, 0.01

    def __call__(self, theta: Tensor, generator: torch.Generator) -> Tensor:
        free, earned = 4, theta.new_zeros(())
        for guest in range(10):
            early = guest < 5
            limit = float(torch.rand((), generator=generator)) * (0.8 if early else 1.3)
            price = theta[0] if early else theta[1]
            if free > 0 and price < limit:
                free, earned = free - 1, earned + price
        return -earned


def models(runs: int = 600, seeds: int = 4) -> None:
    """Figure 3: the cost, mean of 200 fresh seeds, after so many runs of the model. Mean and spread over seeds."""
    for model in (Traffic(), Epidemic(), Hotel()):
        print(f"{type(model).__name__:10} at the start {_cost(model, torch.tensor(model.start)):.3f}", flush=True)
        for method in (by_paths, by_differences, by_reinforce):
            found = [_cost(model, method(model, runs, seed)) for seed in range(seeds)]
            print(f"    {method.__name__:16} {statistics.mean(found):.3f} ± {statistics.stdev(found):.3f}", flush=True)


def _cost(model: Model, theta: Tensor) -> float:
    return statistics.mean(float(model(theta, torch.Generator().manual_seed(10_000 + i))) for i in range(200))


def _descend(
    model: Model, runs: int, gradient: Callable[[Tensor, torch.Generator], tuple[Tensor, int]], seed: int
) -> Tensor:
    theta = torch.tensor(model.start, requires_grad=True)
    optimizer, generator, used = torch.optim.Adam([theta], model.rate), torch.Generator().manual_seed(seed), 0
    while used < runs:
        theta.grad, many = gradient(theta, generator)
        used += many
        optimizer.step()
    return theta.detach()


def by_paths(model: Model, runs: int, seed: int) -> Tensor:
    """Ours: ``forward="hard"``, four runs for a gradient at most."""
    region = sll.linearize(model.eps, forward="hard", paths=4, on_lost="ignore")
    run = region(model.__call__)

    def gradient(theta: Tensor, generator: torch.Generator) -> tuple[Tensor, int]:
        before = sum(each.run for each in region.report().flips.values())
        cost = run(theta, generator)
        (found,) = torch.autograd.grad(cost, theta) if cost.requires_grad else (torch.zeros_like(theta),)
        return found, 1 + sum(each.run for each in region.report().flips.values()) - before

    return _descend(model, runs, gradient, seed)


def by_differences(model: Model, runs: int, seed: int) -> Tensor:
    """Central differences of the same width, with common random numbers."""

    def gradient(theta: Tensor, generator: torch.Generator) -> tuple[Tensor, int]:
        with torch.no_grad():
            state, found = generator.get_state(), torch.zeros_like(theta)
            for i in range(theta.numel()):
                ends = []
                for side in (-model.eps, model.eps):
                    generator.set_state(state)
                    moved = theta.clone()
                    moved[i] += side
                    ends.append(model(moved, generator))
                found[i] = (ends[1] - ends[0]) / (2 * model.eps)
        return found, 2 * theta.numel()

    return _descend(model, runs, gradient, seed)


def by_reinforce(model: Model, runs: int, seed: int) -> Tensor:
    """The score function of a normal of the same width around the parameters, against the mean of four runs."""

    def gradient(theta: Tensor, generator: torch.Generator) -> tuple[Tensor, int]:
        with torch.no_grad():
            noise = torch.randn(4, theta.numel(), generator=generator)
            costs = torch.stack([model(theta + model.eps * each, generator) for each in noise])
            return ((costs - costs.mean()).unsqueeze(1) * noise).sum(0) / (3 * model.eps), 4

    return _descend(model, runs, gradient, seed)


if __name__ == "__main__":
    for name in sys.argv[1:] or ("integrals", "sample", "models", "overhead"):
        print(f"== {name}: {globals()[name].__doc__}", flush=True)
        globals()[name]()
