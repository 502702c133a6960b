"""Jumps between constants in one pass, against the offset and the blend of which everything else is made."""

from __future__ import annotations

import pytest
import torch

import sll
from oracles import ulps
from sll._ops import band, blend, fused, ramp
from steps import HARD, JUMPS, edges

pytestmark = pytest.mark.usefixtures("loops_everywhere")


@pytest.mark.parametrize("loops", [True, False])
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
@pytest.mark.parametrize("eps", [1e-3, 0.1, 0.5])
@pytest.mark.parametrize("jump", JUMPS, ids=str)
def test_one_pass_is_the_blend_of_two_outcomes(jump, eps, dtype, loops, monkeypatch):
    """`ramp` against `band_offset` and `blend`, which everything else is made of."""
    monkeypatch.setattr(fused, "available", lambda: loops)
    x = edges(dtype, eps).requires_grad_()
    g = torch.randn(x.shape, dtype=dtype, generator=torch.Generator().manual_seed(1))
    threshold = 0.5 if jump.kind == "boundary" else 0.0
    if jump.kind == "boundary":
        d = x - threshold
        below, above = (torch.full_like(x, side).detach() for side in (jump.below, jump.above))
        hard = torch.where(d > 0, above, torch.where(d < 0, below, torch.where(d == 0, jump.at_tie, jump.at_nan)))
    else:
        n = x.detach().floor() if jump.kind == "round" else x.detach().round()
        d = (x - n) - (0.5 if jump.kind == "round" else 0.0)
        hard = HARD[jump.kind](x.detach())
        low = {"round": n, "floor": n - 1, "ceil": n, "trunc": n - (n > 0).to(dtype)}[jump.kind]
        below, above = low, low + 1
        if jump.kind == "trunc":
            above = torch.where(n == 0, below, above)
    for forward in ("linear", "hard"):
        soft = blend.blend(band.band_offset(d, eps), below, above, hard.to(dtype).detach())
        want = soft if forward == "linear" else band.hard_forward(hard.to(dtype).detach(), soft)
        got = ramp.ramp(x, jump, eps, forward, threshold)
        zero_at_tie = jump.kind == "trunc"  # where nothing jumps the hard value keeps its sign
        distance = ulps(got.detach(), want.detach())
        near = torch.finfo(dtype).eps * 2 * (1 + want.detach().abs())
        assert ((distance <= 1) | ((got - want).abs() <= near)).all(), (x[distance > 1], got[distance > 1])
        assert zero_at_tie or torch.equal(got.isnan(), want.isnan())
        (dx,) = torch.autograd.grad(got, x, g)
        (dw,) = torch.autograd.grad(want, x, g)
        # One rounding error beside a band the two may differ in which element is in it; nowhere else.
        edge = (d.detach().abs() - eps).abs() <= 4 * torch.finfo(dtype).eps * (1 + x.detach().abs())
        torch.testing.assert_close(dx[~edge], dw[~edge], rtol=1e-5 if dtype == torch.float32 else 1e-14, atol=0)


def test_saves_a_mask_and_nothing_else():
    saved = []
    x = torch.randn(5000, requires_grad=True)
    t = torch.tensor(0.5, requires_grad=True)
    with torch.autograd.graph.saved_tensors_hooks(lambda t: saved.append((t.dtype, t.numel())) or t, lambda t: t):
        for f in (torch.sign, torch.round, lambda x: (x > 0.2).float(), lambda x: (~(t >= x)).double()):
            with sll.linearize(0.1):
                f(x)
    assert saved == [(torch.bool, 5000)] * 4


@pytest.mark.parametrize("loops", [True, False])
def test_derivatives_of_derivatives_and_batches(loops, monkeypatch):
    monkeypatch.setattr(fused, "available", lambda: loops)
    x = torch.linspace(-1.93, 2.01, 40, dtype=torch.float64).requires_grad_()
    t = torch.tensor(0.3, dtype=torch.float64, requires_grad=True)
    for f in (lambda x, t: sll.threshold(x, t, 0.2) * x, lambda x, t: sll.round(x, 0.2) * x * t):
        assert torch.autograd.gradcheck(f, (x, t), check_batched_grad=True)
        assert torch.autograd.gradgradcheck(f, (x, t), check_batched_grad=True)


def test_gradient_of_a_learned_threshold_has_its_shape():
    x = torch.randn(100, requires_grad=True)
    for shape in ((), (1,), (1, 1), (100,), (3, 1)):
        t = torch.zeros(shape, requires_grad=True)
        with sll.linearize(0.5):
            y = (x > t).float()
        dx, dt = torch.autograd.grad(y.sum(), (x, t))
        assert dt.shape == t.shape
        torch.testing.assert_close(dt.sum(), -dx.sum())


def test_saved_masks_of_any_layout():
    hooks = torch.autograd.graph.saved_tensors_hooks
    x = torch.randn(5000, requires_grad=True)
    gradients = []
    for context in (
        hooks(lambda t: torch.stack([t, torch.zeros_like(t)], -1), lambda p: p[..., 0]),
        hooks(lambda t: t, lambda t: t),
    ):
        with sll.linearize(0.5), context:
            y = torch.sign(x)
        gradients.append(torch.autograd.grad(y.sum(), x)[0])
    assert torch.equal(*gradients)
