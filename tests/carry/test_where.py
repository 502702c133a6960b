"""What a mask chooses, in every engine."""

from __future__ import annotations

import pytest
import torch

import sll
from oracles import band_crossings, gauss_between, grads, jittered_integral, leaf, line_integral
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


@pytest.mark.parametrize("forward", ["linear", "hard"])
def test_masked_scatter_outside_the_band(forward):
    x, s = leaf(5.0, -5.0, 5.0), leaf(10.0, 20.0, 30.0)
    with sll.linearize(0.5, forward=forward):
        y = torch.zeros(3).masked_scatter(x > 0, s)
        z = torch.zeros(3)
        z[x > 0] = s[:2]
    assert y.tolist() == z.tolist() == [10, 0, 20]
    assert grads(y, s) == grads(z, s) == [1, 1, 0]


@pytest.mark.parametrize("forward", ["linear", "hard"])
def test_masked_scatter_shifts_what_follows(forward):
    """Line integral: a mask element that flips moves every source element behind it."""
    source = torch.tensor([1.0, 4.0, -2.0, 8.0, 3.0], dtype=torch.float64)
    weights = torch.tensor([1.0, -2.0, 0.5, 3.0, 1.5], dtype=torch.float64)

    def f(x):
        return torch.zeros(5, dtype=x.dtype).masked_scatter(x > 0, source) @ weights

    a = torch.tensor([-1.0, 1.0, -0.7, 1.0, -0.9], dtype=torch.float64)
    b = torch.tensor([1.0, -0.5, 0.8, 0.9, 0.3], dtype=torch.float64)  # no two bands are crossed at once
    times, share = gauss_between(band_crossings(a, b, 0.0, 0.02))
    assert line_integral(f, a, b, times, share, 0.02, forward) == pytest.approx(float(f(b) - f(a)), rel=0.02)


@pytest.mark.parametrize("forward, rounds", [("linear", 2), ("linear", 3), ("linear", 5), ("hard", 2)])
def test_a_question_asked_again_of_what_was_left_alone_is_the_same(forward, rounds):
    """The answers were taken for independent, and the gradient at the boundary was 2, 3 … times too large."""

    def f(v, rounds):
        for _ in range(rounds):
            v = torch.where(v > 0.3, v * 0.6 - 0.1, v)
        return v

    x = torch.linspace(0.2, 0.36, 33, dtype=torch.float64).requires_grad_()  # what was lowered once is below 0.12
    found = []
    for n in (1, rounds):
        with sll.linearize(0.02, forward=forward):
            found.append(torch.autograd.grad(f(x, n).sum(), x)[0])
    assert found[0].abs().max() > 1
    if forward == "linear":  # in "hard" each answer is a flip of its own; the integral is right all the same
        torch.testing.assert_close(found[1], found[0])
    a, b = torch.tensor([0.1], dtype=torch.float64), torch.tensor([1.5], dtype=torch.float64)
    want = float(f(b, rounds) - f(a, rounds))
    got = jittered_integral(lambda x: f(x, rounds).sum(-1), a, b, 0.02, forward)
    # (a flip counts where it is open: the jump changes with x, and its mean over half a band is not that over all)
    assert got == pytest.approx(want, abs=1e-3 if forward == "linear" else 5e-3)
