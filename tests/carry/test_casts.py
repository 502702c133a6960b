"""Quantizers in every engine: rounded, clamped, cast to integers, and back."""

from __future__ import annotations

import math

import pytest
import torch

import sll
from oracles import ulps
from sll._ops import fused

INF, NAN = math.inf, math.nan

INT8 = torch.int8


@pytest.mark.usefixtures("loops_everywhere")
@pytest.mark.parametrize("loops", [True, False])
@pytest.mark.parametrize("eps", [0.1, 0.5, "auto"])
@pytest.mark.parametrize("forward", ["linear", "hard", "straight-through"])
@pytest.mark.parametrize(
    "f",
    [
        lambda z: z.round().clamp(-7, 7).to(INT8).to(z.dtype),
        lambda z: torch.clip(torch.round(z), min=-3, max=2).char().float() * 2 + z,
        lambda z: z.round().clamp_min(0).clamp_max(4).byte().double(),
        lambda z: (z.round().clamp(-7, 7).to(INT8) * 3).to(torch.float32),
        lambda z: z.round().clamp(-7, 7).to(INT8)[3:].float(),
        lambda z: torch.where(z.round().clamp(-7, 7).to(INT8) == 2, 5.0, z),
        lambda z: torch.tensor([1.0, 4.0, -2.0, 0.5])[z.round().clamp(0, 3).long()],
        lambda z: (z.round().clamp(-7, 7).to(INT8).float() > 1.5).float(),
        lambda z: z.round().clamp(-7, 7.5).to(INT8).float(),
        lambda z: z.round().clamp(-7, 300).to(torch.int16).to(torch.float32),
        lambda z: z.round().clamp(-7, 7).to(INT8).sum().float(),
        lambda z: (z.round().clamp(-7, 7) + 1).to(INT8).float(),
    ],
)
def test_quantizers_are_what_the_outcomes_say(f, forward, eps, loops, monkeypatch):
    """A trace asks for outcomes everywhere: it takes none of the short cuts."""
    monkeypatch.setattr(fused, "available", lambda: loops)
    some = torch.randn(300, generator=torch.Generator().manual_seed(0)) * 4
    start = torch.cat([some, torch.tensor([3.5, 7.5, -7.5, -7.4, 7.45, 7.2, 2.5, -0.2, 0.0, 100.0, -100.0])])
    results = []
    for trace in (False, True):
        z = start.clone().requires_grad_()
        with sll.linearize(eps, forward=forward, trace=trace, on_lost="ignore"):
            y = f(z)
        g = torch.randn(y.shape, dtype=y.dtype, generator=torch.Generator().manual_seed(1))
        results.append((y.detach(), torch.autograd.grad(y, z, g)[0]))
    (y, dz), (want, dw) = results
    assert torch.equal(y, want) if forward != "linear" else ulps(y, want).max() <= 1
    torch.testing.assert_close(dz, dw, rtol=1e-6, atol=1e-6)
    assert forward == "linear" or torch.equal(y, f(start))


@pytest.mark.usefixtures("loops_everywhere")
@pytest.mark.parametrize("dtype", [torch.int8, torch.uint8, torch.int32, torch.int64])
@pytest.mark.parametrize("forward", ["linear", "hard", "straight-through"])
@pytest.mark.parametrize("reach", [3.0, 100.0, 300.0, INF, NAN])
def test_a_quantizer_that_clamps_first(forward, dtype, reach):
    """Rounded numbers that all fit into the integers are a step as well; others take the general path."""
    start = torch.randn(5000, generator=torch.Generator().manual_seed(0)).clamp(-3, 3)
    start[:2] = torch.tensor([reach, 2.5])
    results = []
    for trace in (False, True):
        x = start.clone().requires_grad_()
        with sll.linearize(0.1, forward=forward, trace=trace, on_lost="ignore"):
            q = torch.round(x.abs() if dtype == torch.uint8 else x).to(dtype)
            y = q.float() * 0.5 + (q == 1).float() + (q + 1 > 2).float()
        assert q.dtype == dtype
        results.append((q, y.detach(), torch.autograd.grad(y.sum(), x)[0]))
    (q, y, dx), (p, w, dw) = results
    some = slice(0 if math.isfinite(reach) and reach < 127 else 1, None)  # what becomes of others is for C to say
    assert torch.equal(q[some], p[some])
    torch.testing.assert_close(y[some], w[some])
    torch.testing.assert_close(dx[some], dw[some])


NARROW = {  # name: a program of one decision, and where that is
    "int8": (lambda x: x.to(torch.int8).double(), 128.0),
    "char": (lambda x: x.char().double(), -129.0),
    "uint8": (lambda x: x.byte().double(), 256.0),
    "uint8, below 0": (lambda x: x.to(torch.uint8).double(), -1.0),
    "int16": (lambda x: x.short().double(), 32768.0),
    "rounded": (lambda x: torch.round(x).to(torch.int8).double(), 127.5),
    "not at the end": (lambda x: x.to(torch.int8).double(), 127.0),
    "wrapped long before": (lambda x: x.to(torch.int8).double(), 131.0),
    "difference": (lambda x: ((x > 0).to(torch.uint8) - 1).double(), 0.0),
    "negative": (lambda x: (-(x > 0).byte()).double(), 0.0),
    "sum": (lambda x: (lambda m: m + m)((x > 0).to(torch.int8) * 100).double(), 0.0),
    "product": (lambda x: ((x > 0).to(torch.int8) * 100 * 2).double(), 0.0),
    "sum of two in int64": (lambda x: (((x + torch.tensor([0.0, 9.0])) > 0).char() * 100).sum().double(), 0.0),
}


@pytest.mark.parametrize("forward", ["straight-through", "hard", "linear"])
@pytest.mark.parametrize("name", NARROW)
def test_integers_that_wrap_around(name, forward):
    program, boundary = NARROW[name]
    for off in (-0.003, 0.004):
        x = torch.tensor(boundary + off, dtype=torch.float64, requires_grad=True)
        with sll.linearize(0.01, forward=forward, on_lost="error"):
            y = program(x)
        there, here = (program(x.detach() + side) for side in (0.01, -0.01))
        assert torch.autograd.grad(y, x)[0] == pytest.approx(float(there - here) / 0.02)
