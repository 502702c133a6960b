"""Mixed precision: autocast, half inputs and `GradScaler`. The distance to a boundary is computed in float32."""

from __future__ import annotations

import pytest
import torch
from torch import nn

import sll
from compatibility import row
from programs import PROGRAMS

AREA = "mixed precision"
HALF = [torch.bfloat16, torch.float16]
MODES = ["linear", "hard", "straight-through"]


class Quantized(nn.Module):
    """Decisions before, between and after the matrix products that autocast runs in half precision."""

    def __init__(self):
        super().__init__()
        self.first, self.last = nn.Linear(6, 16), nn.Linear(16, 3)

    def forward(self, x):
        h = torch.round(self.first(torch.sign(x) * 0.5 + x) * 4) / 4
        h = torch.where(h > 0.25, h, 0.1 * h)
        y = self.last(h)
        return torch.where(y.argmax(1, keepdim=True) == 1, y * 2, y)


@row(AREA, "`torch.autocast`, bfloat16 and float16", "works")
@pytest.mark.parametrize("mode", MODES)
@pytest.mark.parametrize("dtype", HALF)
def test_autocast_shows_the_plain_values(dtype, mode):
    torch.manual_seed(0)
    net, x = Quantized(), torch.randn(32, 6)
    with torch.no_grad(), torch.autocast("cpu", dtype):
        plain = net(x)
    for around in (True, False):  # the region around autocast, or inside
        outer, inner = sll.linearize(0.2, forward=mode), torch.autocast("cpu", dtype)
        outer, inner = (outer, inner) if around else (inner, outer)
        with outer, inner:
            y = net(x)
        assert y.dtype == plain.dtype == dtype
        if mode != "linear":
            assert torch.equal(y, plain)
        y.float().square().mean().backward()
        assert all(p.grad.isfinite().all() and p.grad.dtype == torch.float32 for p in net.parameters())
        assert net.first.weight.grad.any()
        net.zero_grad()


@pytest.mark.parametrize("dtype", HALF)
def test_autocast_is_near_full_precision(dtype):
    """The same gradients up to the rounding of half precision: elements whose decision that rounding turns aside."""
    torch.manual_seed(0)
    net, x = Quantized(), torch.randn(256, 6)

    def gradient(enabled):
        net.zero_grad()
        with torch.autocast("cpu", dtype, enabled=enabled), sll.linearize(0.125, forward="hard"):
            loss = net(x).float().square().mean()
        loss.backward()
        return torch.cat([p.grad.flatten() for p in net.parameters()])

    full, half = gradient(False), gradient(True)
    assert torch.cosine_similarity(full, half, dim=0) > 0.99
    assert 0.95 < half.norm() / full.norm() < 1.05


@row(AREA, "inputs in half precision: distance and weight in float32", "works")
@pytest.mark.parametrize("dtype", HALF)
def test_the_distance_has_float32(dtype):
    """At 100.3 neighbours of bfloat16 are 1/2 apart. The distance between two such numbers is exact in float32."""
    x = torch.tensor([100.5, 101.0, 99.5], dtype=dtype).requires_grad_()
    with sll.linearize(1.0):
        y = torch.sigmoid(((x > 100.0) * 1.0).double())
        (g,) = torch.autograd.grad(y.sum(), x)
    weight = (0.5 + (x.detach().double() - 100.0) / 2).clamp(0, 1)
    torch.testing.assert_close(y, weight.sigmoid())
    s = weight.sigmoid()
    assert g.dtype == dtype
    torch.testing.assert_close(g.double(), s * (1 - s) * 0.5, rtol=torch.finfo(dtype).eps, atol=0)


@pytest.mark.parametrize("mode", ["hard", "straight-through"])
@pytest.mark.parametrize("dtype", HALF)
@pytest.mark.parametrize("name", list(PROGRAMS)[::5])
def test_programs_in_half_precision(name, dtype, mode):
    """Hard values are the plain program's; the gradient is that of the float32 program at the same numbers, if the
    program itself does not round: the bands here are 64 times as wide as its steps are fine."""
    f = PROGRAMS[name]
    x = (torch.randint(-16, 17, (64,), generator=torch.Generator().manual_seed(0)) / 8).to(dtype)
    with torch.no_grad():
        plain = f(x)
    y = x.clone().requires_grad_()
    with sll.linearize(0.1, forward=mode, on_lost="ignore"):
        out = f(y)
    assert out.dtype == plain.dtype and torch.equal(out, plain)
    if out.requires_grad:
        (g,) = torch.autograd.grad(out.sum(), y)
        assert g.dtype == dtype and g.isfinite().all()


@row(AREA, "`GradScaler`: scaled losses, overflows skipped", "works")
def test_grad_scaler():
    torch.manual_seed(0)
    net, x = Quantized(), torch.randn(64, 6)
    target = torch.randint(3, (64,))
    scaler = torch.amp.GradScaler("cpu", init_scale=2.0**15, growth_interval=5)
    optimizer = torch.optim.Adam(net.parameters(), 0.01)
    losses = []
    for _ in range(60):
        optimizer.zero_grad()
        with torch.autocast("cpu", torch.float16), sll.linearize("auto"):
            loss = nn.functional.cross_entropy(net(x).float(), target)
        scaler.scale(loss).backward()
        scaler.step(optimizer)
        scaler.update()
        losses.append(loss.item())
    assert scaler.get_scale() > 0 and all(p.isfinite().all() for p in net.parameters())
    assert sum(losses[-10:]) < 0.8 * sum(losses[:10])

    before = [p.clone() for p in net.parameters()]
    with torch.autocast("cpu", torch.float16), sll.linearize(100.0):  # everything is in the band
        loss = torch.sign(net(x)).float().sum()
    optimizer.zero_grad()
    scaler.scale(loss * 1e38).backward()
    scale = scaler.get_scale()
    scaler.step(optimizer)
    scaler.update()
    assert scaler.get_scale() < scale
    assert all(torch.equal(p, q) for p, q in zip(net.parameters(), before))
