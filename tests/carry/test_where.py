"""What a mask chooses, in every engine."""

from __future__ import annotations

import pytest
import torch

import sll
from sll._ops import fused


@pytest.mark.usefixtures("loops_everywhere")
@pytest.mark.parametrize("n", [8, 5000])
@pytest.mark.parametrize("forward", ["linear", "hard"])
def test_equal_branches_share_by_weight(n, forward, monkeypatch):
    monkeypatch.setattr(fused, "LEAST", 4096)
    x = torch.full((n,), 0.05, requires_grad=True)
    a, b = (torch.zeros(n, requires_grad=True) for _ in range(2))
    with sll.linearize(0.1, forward=forward):
        y = torch.where(x > 0, a, b)
    da, db = torch.autograd.grad(y.sum(), (a, b))
    want = (0.75, 0.25) if forward == "linear" else (1.0, 0.0)  # values as the program takes them
    torch.testing.assert_close((da[0], db[0]), tuple(map(torch.tensor, want)))


@pytest.mark.usefixtures("loops_everywhere")
@pytest.mark.parametrize("least", [1, 1 << 60])
@pytest.mark.parametrize("forward", ["linear", "hard"])
def test_ties_of_compound_masks(least, forward, monkeypatch):
    """The hard value, and the gradient of the ramp: a decision that is made changes neither."""
    monkeypatch.setattr(fused, "LEAST", least)
    for decided in (lambda x, y: x > 0, lambda x, y: (x > 0) & (y > -5), lambda x, y: (x > 0) | (y > 5)):
        x = torch.zeros(3, requires_grad=True)
        y = torch.full((3,), 0.05, requires_grad=True)
        a, b = torch.full((3,), 3.0, requires_grad=True), torch.ones(3, requires_grad=True)
        with sll.linearize(0.1, forward=forward):
            z = torch.where(decided(x, y), a, b)
        assert z.tolist() == [1.0] * 3
        da, db, dx = torch.autograd.grad(z.sum(), (a, b, x))
        want = (0.5, 0.5, 10.0) if forward == "linear" else (0.0, 1.0, 10.0)
        torch.testing.assert_close((da[0], db[0], dx[0]), tuple(map(torch.tensor, want)))


@pytest.mark.usefixtures("loops_everywhere")
@pytest.mark.parametrize("least", [1, 1 << 60])
@pytest.mark.parametrize("forward", ["linear", "hard"])
def test_two_open_decisions(least, forward, monkeypatch):
    """ "hard": each alone, the other as the program takes it. "linear": the derivative of the product of two ramps."""
    monkeypatch.setattr(fused, "LEAST", least)
    x, y = (torch.tensor([0.05, -0.03], dtype=torch.float64, requires_grad=True) for _ in range(2))
    with sll.linearize(0.1, forward=forward):
        z = torch.where((x > 0) & (y > 0.01), 5.0, torch.ones(2, dtype=torch.float64))
    got = torch.stack(torch.autograd.grad(z.sum(), (x, y)))
    if forward == "hard":
        other = torch.stack([y > 0.01, x > 0]).double()
    else:
        other = torch.stack([y.detach() - 0.01, x.detach()]) / 0.2 + 0.5
    torch.testing.assert_close(got, 4 / 0.2 * other)
    assert got.any()
