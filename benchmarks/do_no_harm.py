"""Programs that train without a region: does `"auto"` train them as well?

Each has a slope of its own, and a jump that the program takes back (a wrapped angle, a periodic box, the whole part of
a coordinate) or a comparison that makes no jump (a leaky unit, a Huber loss).

Ten starts of 150 Adam steps, plain and in a region of each forward mode:

    python benchmarks/do_no_harm.py
"""

from __future__ import annotations

import argparse
import math
from collections.abc import Callable

import torch
from rich.console import Console
from rich.table import Table
from torch import Tensor

import sll

STARTS, STEPS, RATE = 10, 150, 0.02
PI = math.pi

Loss = Callable[[Tensor], Tensor]
"""Of parameters (starts, n): a number for each start."""
Task = Callable[[torch.Generator], "tuple[Tensor, Loss]"]
TASKS: dict[str, Task] = {}


def task(make: Task) -> Task:
    TASKS[make.__name__.replace("_", " ")] = make
    return make


def _lennard_jones(image: Callable[[Tensor, float], Tensor]) -> Task:
    def make(seed: torch.Generator) -> tuple[Tensor, Loss]:
        box = 3.6
        lattice = torch.cartesian_prod(*[torch.arange(3.0)] * 2, torch.arange(2.0))[:12] * 1.1  # type: ignore[no-untyped-call]
        start = lattice + 0.15 * torch.randn(STARTS, 12, 3, generator=seed)
        i, j = torch.triu_indices(12, 12, 1)

        def loss(x: Tensor) -> Tensor:
            x = x.view(STARTS, 12, 3)
            r2 = image(x[:, i] - x[:, j], box).square().sum(-1).clamp_min(0.25)
            return (4 * (r2**-6 - r2**-3)).sum(1) / 12

        return start.reshape(STARTS, -1), loss

    return make


TASKS["Lennard-Jones, d - L * round(d / L)"] = _lennard_jones(lambda d, box: d - box * torch.round(d / box))
TASKS["Lennard-Jones, d - L * floor(d / L + .5)"] = _lennard_jones(lambda d, box: d - box * torch.floor(d / box + 0.5))


def _in_place(d: Tensor, box: float) -> Tensor:
    d -= torch.round(d / box) * box
    return d


TASKS["Lennard-Jones, d -= round(d / L) * L"] = _lennard_jones(_in_place)


def _cutoff(d: Tensor, box: float) -> Tensor:
    return d - box * (d > box / 2).to(d) + box * (d < -box / 2).to(d)


TASKS["Lennard-Jones, d - L * (d > L / 2)"] = _lennard_jones(_cutoff)


def _angles(wrap: Callable[[Tensor], Tensor], size: Callable[[Tensor], Tensor]) -> Task:
    """Circular regression: angles as a line of one input, with a wrapped residual."""

    def make(seed: torch.Generator) -> tuple[Tensor, Loss]:
        x = torch.rand(64, generator=seed) * 2 - 1
        y = torch.remainder(1.5 * x + 2.5 + 0.3 * torch.randn(64, generator=seed), 2 * PI)
        start = torch.stack(
            (torch.randn(STARTS, generator=seed), 2.5 + 1.5 * torch.randn(STARTS, generator=seed)), dim=1
        )
        return start, lambda p: size(wrap(p[:, :1] * x + p[:, 1:] - y)).mean(1)

    return make


TASKS["angles, remainder(d + pi, 2 pi) - pi"] = _angles(lambda d: torch.remainder(d + PI, 2 * PI) - PI, torch.square)
TASKS["angles, (d + pi) % (2 pi) - pi, abs"] = _angles(lambda d: (d + PI) % (2 * PI) - PI, torch.abs)
TASKS["angles, d - 2 pi round(d / 2 pi), abs"] = _angles(lambda d: d - 2 * PI * torch.round(d / (2 * PI)), torch.abs)
TASKS["angles, fmod(d + 9 pi, 2 pi) - pi"] = _angles(lambda d: torch.fmod(d + 9 * PI, 2 * PI) - PI, torch.square)
TASKS["angles, d + where(d > pi, -2 pi, 0) ..."] = _angles(
    lambda d: torch.where(d > PI, d - 2 * PI, torch.where(d < -PI, d + 2 * PI, d)), torch.square
)


def _registration(whole: Callable[[Tensor], tuple[Tensor, Tensor]]) -> Task:
    """A shift of a smooth image, found by bilinear interpolation."""

    def make(seed: torch.Generator) -> tuple[Tensor, Loss]:
        n = 32
        at = torch.arange(float(n))
        bump = torch.exp(-(((at[:, None] - 15) / 6) ** 2 + ((at - 17) / 5) ** 2)) + 0.02 * torch.randn(
            n, n, generator=seed
        )
        shift = torch.rand(STARTS, 2, generator=seed) * 5 - 2.5
        grid = torch.stack(torch.meshgrid(at[6:26], at[6:26], indexing="ij"), -1)

        def sample(p: Tensor) -> Tensor:
            xy = grid + p[:, None, None, :]
            i, f = whole(xy)
            a, b, u, v = i[..., 0].clamp(0, n - 2), i[..., 1].clamp(0, n - 2), f[..., 0], f[..., 1]
            top = bump[a, b] * (1 - v) + bump[a, b + 1] * v
            return top * (1 - u) + (bump[a + 1, b] * (1 - v) + bump[a + 1, b + 1] * v) * u

        return shift, lambda p: (sample(p) - bump[6:26, 6:26]).square().mean((1, 2)) * 100

    return make


@task
def time_warp_by_searchsorted(seed: torch.Generator) -> tuple[Tensor, Loss]:
    """Delay and pace of a signal that was sampled at uneven times, interpolated as `numpy.interp` does."""
    times = torch.rand(64, generator=seed).sort().values * 10
    signal = torch.sin(times) + 0.5 * torch.cos(2.3 * times)
    at = torch.linspace(2, 8, 50)

    def sampled(t: Tensor) -> Tensor:
        i = torch.searchsorted(times, t).clamp(1, len(times) - 1)
        share = (t - times[i - 1]) / (times[i] - times[i - 1])
        return signal[i - 1] + share * (signal[i] - signal[i - 1])

    start = torch.stack((torch.randn(STARTS, generator=seed) * 0.4, 1 + 0.05 * torch.randn(STARTS, generator=seed)), 1)
    wanted = sampled(at)
    return start, lambda p: 100 * (sampled((p[:, :1] + p[:, 1:] * at).contiguous()) - wanted).square().mean(1)


def _floor(x: Tensor) -> tuple[Tensor, Tensor]:
    low = torch.floor(x)
    return low.long(), x - low


def _long(x: Tensor) -> tuple[Tensor, Tensor]:
    return (i := x.long()), x - i


TASKS["registration, floor, long and lookups"] = _registration(_floor)
TASKS["registration, i = x.long(), x - i"] = _registration(_long)
TASKS["registration, x % 1"] = _registration(lambda x: ((x - x % 1).long(), x % 1))


@task
def unwrapped_phase_by_remainder(seed: torch.Generator) -> tuple[Tensor, Loss]:
    """A chirp in three numbers; its wrapped phase is unwrapped as `numpy.unwrap` does."""
    return _phase(seed, lambda d: torch.remainder(d + PI, 2 * PI) - PI - d)


@task
def unwrapped_phase_by_round(seed: torch.Generator) -> tuple[Tensor, Loss]:
    return _phase(seed, lambda d: -2 * PI * torch.round(d / (2 * PI)))


def _phase(seed: torch.Generator, correct: Callable[[Tensor], Tensor]) -> tuple[Tensor, Loss]:
    t = torch.linspace(0, 1, 50)
    powers = torch.stack((torch.ones_like(t), t, t**2))
    true = torch.tensor([0.3, 20.0, 9.0]) @ powers
    start = torch.tensor([0.3, 20.0, 9.0]) + torch.randn(STARTS, 3, generator=seed)

    def loss(p: Tensor) -> Tensor:
        phase = p @ powers
        wrapped = phase - (2 * PI * torch.floor(phase / (2 * PI))).detach()
        steps = torch.diff(wrapped, dim=1)
        back = wrapped + torch.cat((torch.zeros(STARTS, 1), correct(steps).cumsum(1)), 1)
        return (back - back[:, :1].detach() + phase[:, :1].detach() - true).square().mean(1)

    return start, loss


@task
def hue_wheel(seed: torch.Generator) -> tuple[Tensor, Loss]:
    """Hues that show colours: sectors of the wheel, and how far into one."""
    target = torch.rand(24, 3, generator=seed)

    def loss(h: Tensor) -> Tensor:
        h = h % 1.0 * 6
        sector = torch.floor(h)
        f = h - sector
        p, q, t, v = torch.zeros_like(f), 1 - f, f, torch.ones_like(f)
        k = sector.long() % 6
        stacked = torch.stack(
            (torch.stack((v, q, p, p, t, v)), torch.stack((t, v, v, q, p, p)), torch.stack((p, p, t, v, v, q)))
        )
        rgb = stacked.gather(1, k.expand(3, 1, *k.shape)).squeeze(1)
        return (rgb.permute(1, 2, 0) - target).square().mean((1, 2))

    return torch.rand(STARTS, 24, generator=seed), loss


@task
def points_on_a_torus(seed: torch.Generator) -> tuple[Tensor, Loss]:
    """Points that repel each other, kept in the unit square by `% 1`."""
    i, j = torch.triu_indices(10, 10, 1)

    def loss(x: Tensor) -> Tensor:
        x = x.view(STARTS, 10, 2) % 1.0
        d = x[:, i] - x[:, j]
        d = d - d.round()
        return torch.exp(-d.square().sum(-1) / 0.05).mean(1)

    return torch.rand(STARTS, 20, generator=seed), loss


@task
def triangular_wave(seed: torch.Generator) -> tuple[Tensor, Loss]:
    x = torch.linspace(-2, 2, 80)
    true = (torch.remainder(1.3 * x + 0.4, 2) - 1).abs()
    start = torch.tensor([1.3, 0.4]) + 0.2 * torch.randn(STARTS, 2, generator=seed)
    return start, lambda p: ((torch.remainder(p[:, :1] * x + p[:, 1:], 2) - 1).abs() - true).square().mean(1)


@task
def positions_by_remainder(seed: torch.Generator) -> tuple[Tensor, Loss]:
    """Periods of a signal, from features that are positions in them."""
    t = torch.arange(60.0)
    true = torch.sin(2 * PI * (t % 12.5) / 12.5) + 0.5 * torch.cos(2 * PI * (t % 7.0) / 7.0)

    def loss(p: Tensor) -> Tensor:
        a, b = p[:, :1] * 12, p[:, 1:2] * 7
        waves = torch.sin(2 * PI * (t * 12 / a % 12.0) / 12), torch.cos(2 * PI * (t * 7 / b % 7.0) / 7)
        return (p[:, 2:3] * waves[0] + p[:, 3:] * waves[1] - true).square().mean(1)

    return torch.tensor([1.0, 1.0, 0.5, 0.5]) + 0.03 * torch.randn(STARTS, 4, generator=seed), loss


@task
def texture_by_frac(seed: torch.Generator) -> tuple[Tensor, Loss]:
    """A pattern that repeats: the phase and the scale of its coordinates."""
    x = torch.linspace(0, 3, 90)
    true = (torch.frac(1.1 * x + 2.3) - 0.5).square()
    start = torch.tensor([1.1, 2.3]) + 0.1 * torch.randn(STARTS, 2, generator=seed)
    return start, lambda p: ((torch.frac(p[:, :1] * x + p[:, 1:]) - 0.5).square() - true).square().mean(1) * 100


@task
def whole_numbers_wanted(seed: torch.Generator) -> tuple[Tensor, Loss]:
    """A regularizer that draws weights to whole numbers, `(w - round(w)) ** 2`, beside a smooth loss."""
    a = torch.randn(30, 8, generator=seed)
    b = a @ torch.randint(-3, 4, (8,), generator=seed).float()
    return 2 * torch.randn(
        STARTS, 8, generator=seed
    ), lambda w: 0.02 * (w @ a.T - b).square().mean(1) + (w - w.round()).square().mean(1)


@task
def forces_with_a_cutoff(seed: torch.Generator) -> tuple[Tensor, Loss]:
    """Only a guard: `where(r < cutoff, f(r), 0)`, where `f` goes to zero smoothly."""
    i, j = torch.triu_indices(12, 12, 1)

    def loss(x: Tensor) -> Tensor:
        x = x.view(STARTS, 12, 3)
        r = (x[:, i] - x[:, j]).square().sum(-1).add(1e-6).sqrt().clamp_min(0.7)
        pair = 4 * (r**-12 - r**-6) * (1 - (r / 2) ** 2) ** 2
        return torch.where(r < 2.0, pair, 0.0).sum(1) / 12 + 0.01 * x.square().sum((1, 2))

    return torch.randn(STARTS, 36, generator=seed) * 1.2, loss


# --- both sides of a comparison meet at its boundary ---


def _network(activation: Callable[[Tensor], Tensor]) -> Task:
    """One hidden layer of 16 learns a sine."""

    def make(seed: torch.Generator) -> tuple[Tensor, Loss]:
        x = torch.linspace(-3, 3, 100)

        def loss(p: Tensor) -> Tensor:
            first, shift, last = p.view(STARTS, 3, 16, 1).unbind(1)
            hidden = activation(first * x + shift)
            return ((last * hidden).sum(1) / 4 - torch.sin(2 * x)).square().mean(1)

        return torch.randn(STARTS, 48, generator=seed), loss

    return make


TASKS["a network, where(x > 0, x, 0.1 * x)"] = _network(lambda x: torch.where(x > 0, x, 0.1 * x))
TASKS["a network, x * (x > 0)"] = _network(lambda x: x * (x > 0))
TASKS["a network, x.masked_fill(x < 0, 0)"] = _network(lambda x: x.masked_fill(x < 0, 0.0))


@task
def robust_regression(seed: torch.Generator) -> tuple[Tensor, Loss]:
    """A Huber loss, by `where`; a tenth of the data are far out."""
    features = torch.randn(200, 5, generator=seed)
    wanted = features @ torch.tensor([1.0, -2.0, 0.5, 0.0, 3.0]) + 0.1 * torch.randn(200, generator=seed)
    wanted[:20] += 10

    def loss(p: Tensor) -> Tensor:
        r = (features @ p.unsqueeze(-1)).squeeze(-1) - wanted
        return torch.where(r.abs() < 0.5, r.square() / 2, 0.5 * (r.abs() - 0.25)).mean(1)

    return torch.randn(STARTS, 5, generator=seed), loss


def train(start: Tensor, loss: Loss, region: sll.linearize | None) -> Tensor:
    p = start.clone().requires_grad_()
    optimizer = torch.optim.Adam([p], RATE)
    for _ in range(STEPS):
        optimizer.zero_grad()
        if region is None:
            loss(p).sum().backward()  # type: ignore[no-untyped-call]
        else:
            with region:
                total = loss(p).sum()
            total.backward()  # type: ignore[no-untyped-call]
        optimizer.step()
    with torch.no_grad():
        return loss(p)


def main() -> None:
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--only", default="", help="tasks whose name has this in it")
    parser.add_argument("--forward", nargs="+", default=["straight-through", "hard", "linear"])
    options = parser.parse_args()
    table = Table(
        "program", "plain", *(f'"auto", {mode}' for mode in options.forward), title="Value reached, less is better"
    )
    for name, make in TASKS.items():
        if options.only not in name:
            continue
        torch.manual_seed(0)
        start, loss = make(torch.Generator().manual_seed(1))
        plain = train(start, loss, None)
        row = [f"{plain.mean():.4f}"]
        for mode in options.forward:
            try:
                found = train(start, loss, sll.linearize("auto", forward=mode, on_lost="ignore"))
            except Exception as error:  # it is to be seen in the table
                row.append(type(error).__name__)
                continue
            difference = found - plain
            spread = float(difference.std() / math.sqrt(STARTS))
            worse = float(difference.mean()) > 2 * spread + 1e-4 * abs(float(plain.mean()))
            row.append(f"{found.mean():.4f} ({difference.mean():+.4f} ± {spread:.4f}){' WORSE' if worse else ''}")
        table.add_row(name, *row)
    Console(width=170).print(table)


if __name__ == "__main__":
    main()
