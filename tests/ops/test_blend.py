"""Two outcomes and an offset: derivatives, and large tensors in one pass."""

from __future__ import annotations

import pytest
import torch

import sll
from sll._ops import blend, fused

pytestmark = pytest.mark.usefixtures("loops_everywhere")


def test_second_derivatives_of_where(monkeypatch):
    found = []
    for least in (1, 1 << 60):
        monkeypatch.setattr(fused, "LEAST", least)
        x = torch.full((8,), 0.05, dtype=torch.float64, requires_grad=True)
        a = torch.full((8,), 3.0, dtype=torch.float64, requires_grad=True)
        for mask in (lambda x: (x > 0) & (x > 0.02), lambda x: x > 0):
            with sll.linearize(0.1):
                y = torch.where(mask(x), a * x, a * a)
            (g,) = torch.autograd.grad(y.sum(), x, create_graph=True)
            found.append(torch.stack(torch.autograd.grad(g.sum(), (x, a))))
    torch.testing.assert_close(found[:2], found[2:])


def _feedback(compare):
    def program(x, threshold):
        membrane = torch.zeros_like(x[0])
        total = torch.zeros_like(x[0])
        for now in x.unbind():
            membrane = 0.9 * membrane + now
            spike = compare(membrane, threshold)
            membrane = torch.where(spike, membrane - 0.7, membrane + 0.1 * spike.to(x.dtype))
            total = total + spike.to(x.dtype) * now
        return total

    return program


@pytest.mark.parametrize("n", [7, 5000])
@pytest.mark.parametrize("forward", ["linear", "hard", "straight-through"])
@pytest.mark.parametrize("compare", [torch.gt, torch.le, lambda a, b: ~(a > b), lambda a, b: b >= a])
def test_feedback_in_one_pass_is_feedback(compare, forward, n, monkeypatch):
    generator = torch.Generator().manual_seed(3)
    x = torch.randn(8, n, generator=generator, dtype=torch.float64).mul_(2).round_().div_(2)  # (with ties)
    x = torch.cat([x, torch.randn(6, n, generator=generator, dtype=torch.float64)]).requires_grad_()
    threshold = torch.tensor(0.5, dtype=torch.float64, requires_grad=True)
    found = []
    for loops in (True, False):
        if not loops:
            monkeypatch.setattr(blend.fused, "suits", lambda *_: False)
        with sll.linearize(0.3, forward=forward):
            y = _feedback(compare)(x, threshold)
        found.append([y.detach(), *torch.autograd.grad(y.sum(), (x, threshold))])
    if forward != "linear":  # (only there outcomes are blended: the others show what the program shows)
        assert torch.equal(found[0][0], _feedback(compare)(x.detach(), threshold.detach()))
    assert found[0][1].abs().sum() > 0
    for one, other in zip(*found):
        torch.testing.assert_close(one, other, atol=1e-9, rtol=1e-9)
