"""Counts that became floats, in "linear"."""

from __future__ import annotations

import pytest
import torch

import sll

AT = torch.tensor([0.01, -0.3, 0.5, 0.7, -0.6], dtype=torch.float64)
ASKED = {
    "gt": lambda n: n > 2.5,
    "turned round": lambda n: 2.5 < n,
    "tensor": lambda n: n >= torch.tensor(3.0),
    "eq": lambda n: n == 3,
    "floor": lambda n: torch.floor(n),
    "long": lambda n: n.long(),
}


@pytest.mark.parametrize("name", ASKED)
@pytest.mark.parametrize("cast", [lambda n: n.double(), lambda n: n.to(torch.float64)])
def test_a_count_as_a_float_is_asked_like_the_count(name, cast):
    """It was silent: a ramp around 2.5 has no element of 3 in its band."""
    x = AT.clone().requires_grad_()
    with sll.linearize(0.02, forward="linear") as region:
        y = ASKED[name](cast((x > 0).sum())).double()
    shown = {"floor": 2.75, "long": 2.75}.get(name, 0.75)
    assert y.item() == pytest.approx(shown) and torch.autograd.grad(y, x)[0].tolist() == [25.0, 0, 0, 0, 0]
    assert not region.report().lost and not region.report().approximate


def test_whole_numbers_are_valid_counts():
    """`torch.distributions` asks ``value % 1 == 0``."""
    x = AT.clone().requires_grad_()
    with sll.linearize(0.02, forward="linear"):
        assert ((x > 0).sum().double() % 1 == 0).item()
        y = torch.distributions.Binomial(5, torch.tensor(0.4).double()).log_prob((x > 0).sum().double())
    assert torch.autograd.grad(y, x)[0][0] != 0


def test_what_is_computed_from_a_count_is_approximate_where_it_decides():
    for at in (0.01, 1.0):
        x = torch.tensor([at, 0.5, -1.0], dtype=torch.float64, requires_grad=True)
        with sll.linearize(0.02, forward="linear") as region:
            above = (x > 0).sum() / 3 > 0.5
        assert above and bool(region.report().approximate) == (at == 0.01)


def _confusion(x, y):
    mask = x > 0
    return ((mask & (y == 1)).sum(), (mask & (y == 0)).sum(), (~mask & (y == 1)).sum())


def test_a_guard_against_division_by_zero_is_no_decision_where_nobody_comes_near():
    """As in every F1 score: ``2 * tp + fn + fp != 0`` is asked of counts that change by ones."""
    x = torch.linspace(-1, 1, 20, dtype=torch.float64).add(0.003).requires_grad_()
    y = torch.arange(20) % 2
    with sll.linearize(0.1, forward="linear") as region:
        tp, fp, fn = _confusion(x, y)
        below = 2.0 * tp + 1.0 * fn + fp
        score = torch.where(below != 0, 2.0 * tp / below, 0.0)
    assert not region.report().lost
    assert torch.autograd.grad(score, x)[0].abs().sum() > 0


@pytest.mark.parametrize("weight", [1.0, 2.0, 5.0, -3.0])
def test_a_weighted_count_leaves_zero_with_its_first_decision(weight):
    """The integral over a path on which the only positive number comes in."""
    total, steps, start, end = 0.0, 400, -0.3, 0.3
    for k in range(steps):
        x = torch.tensor([-2.0, start + (k + 0.5) / steps * (end - start)], dtype=torch.float64, requires_grad=True)
        with sll.linearize(0.05, forward="linear") as region:
            out = ((weight * (x > 0).sum()) != 0).double() * 7
        total += torch.autograd.grad(out, x)[0][1].item() * (end - start) / steps if out.requires_grad else 0.0
        assert not region.report().lost
    assert total == pytest.approx(7.0, rel=1e-2)


def test_differences_of_counts_are_asked_as_they_are():
    """``2 * a - b`` can be 0 where neither is: that it is weighted is said."""
    x = torch.tensor([0.01, 0.5, -1.0], dtype=torch.float64, requires_grad=True)
    with sll.linearize(0.1, forward="linear", on_lost="ignore") as region:
        _ = (2.0 * (x > 0).sum() - 1.0 * (x > -2).sum()) == 0
    assert region.report().lost


def test_a_quotient_decides_nothing_unless_it_rounds():
    x = torch.tensor([0.01, 0.5, -1.0], dtype=torch.float64, requires_grad=True)
    for rounding, row in ((None, False), ("floor", True)):
        with sll.linearize(0.1, forward="linear") as region:
            share = torch.div((x > 0).sum().double() * 2.5, 3.3, rounding_mode=rounding)
        assert share.requires_grad and bool(region.report().approximate) == row


@pytest.mark.parametrize(
    "f",
    [
        lambda n: n + 1.0,
        lambda n: 1.0 + n,
        lambda n: torch.add(n, 2.0),
        lambda n: n.float() + 1.0,
        lambda n: 2 - n - 1.0,
    ],
)
def test_a_count_and_a_whole_float(f):
    x = torch.tensor([-1.0, 0.04, 2.0], dtype=torch.float64, requires_grad=True)
    with sll.linearize(0.1):
        y = f((x > 0).sum())
    sign = torch.autograd.grad(y, x)[0] / 5
    assert float(y) == pytest.approx(float(f(torch.tensor(1.7)))) and sign.abs().tolist() == pytest.approx([0, 1, 0])
