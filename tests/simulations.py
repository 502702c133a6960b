"""Simulations with feedback, of one path through their inputs: what the line integral of ``forward="hard"`` is
measured on, in tests and in ``benchmarks/acceptance.py``.
"""

from __future__ import annotations

import sys
from collections.abc import Callable
from pathlib import Path

import torch
from torch import Tensor

import sll
from layers import leaky_integrate_and_fire, random_path

__all__ = ["SIMULATIONS", "measured"]


def thermostat(seed: int, eps: float) -> tuple[Callable[[Tensor], Tensor], Tensor, Tensor]:
    """That of the evidence, as it stands, along a path of what it learns: limits, price and setback."""
    sys.path.insert(0, str(Path(__file__).parent.parent / "benchmarks"))
    from evidence.tasks import Thermostat, days

    data = days(seed % 2)[0]
    weather, house = (t[seed : seed + 1].double() for t in (data.x, data.y))
    g = torch.Generator().manual_seed(seed)

    def cost(p: Tensor) -> Tensor:
        model = Thermostat()
        for name in list(model._parameters):
            del model._parameters[name]
        columns = p.T.unsqueeze(-1)
        model.low, model.high, model.price, model.setback = columns[:2], columns[2:4], columns[4], columns[5]
        was = torch.get_default_dtype()
        torch.set_default_dtype(torch.float64)
        try:
            return model(weather.expand(len(p), -1, -1), house.expand(len(p), -1))
        finally:
            torch.set_default_dtype(was)

    def end() -> Tensor:
        """Outside of all bands."""
        while True:
            p = torch.tensor([2.0, 4.0, 4.0, 6.0, 3.0, 0.5], dtype=torch.float64)
            p = p + torch.randn(6, generator=g, dtype=torch.float64) * torch.tensor([0.5, 0.5, 0.5, 0.5, 0.5, 0.2])
            with sll.linearize(2 * eps, forward="hard", trace=True) as region:
                cost(p[None].requires_grad_())
            if not sum(row.in_band for row in region.report().rows):
                return p.detach()

    return cost, end(), end()


def spiking(reset: str) -> Callable[[int, float], tuple[Callable[[Tensor], Tensor], Tensor, Tensor]]:
    def case(seed: int, eps: float) -> tuple[Callable[[Tensor], Tensor], Tensor, Tensor]:
        layer = leaky_integrate_and_fire(reset, seed=seed)
        return layer, *random_path(layer, seed, eps)

    return case


SIMULATIONS = {
    "thermostat": thermostat,
    "spiking, reset by subtraction": spiking("subtract"),
    "spiking, reset to zero": spiking("zero"),
}


def measured(name: str, seed: int, eps: float, samples: int) -> tuple[float, float, float]:
    """What the integral of the gradient is, its standard error, and what the program says."""
    f, a, b = SIMULATIONS[name](seed, eps)
    g = torch.Generator().manual_seed(seed)
    t = (torch.arange(samples, dtype=torch.float64) + torch.rand(samples, generator=g, dtype=torch.float64)) / samples
    x = (a + (b - a) * t[:, None]).requires_grad_()
    with sll.linearize(eps, forward="hard"):
        y = f(x)
    slopes = (torch.autograd.grad(y.sum(), x)[0] * (b - a)).sum(1)
    want = float((f(b[None]) - f(a[None])).sum())
    return float(slopes.mean()), float(slopes.std()) / samples**0.5, want
