"""Which elements are open, and what a decision shows."""

from __future__ import annotations

import math

import pytest
import torch

import sll
from oracles import hard_gradient


@pytest.mark.usefixtures("loops_everywhere")
def test_infinite_thresholds_after_a_write():
    x = torch.tensor([math.inf, -math.inf, 1.0, math.nan]).requires_grad_()
    for t in (math.inf, -math.inf, torch.tensor(math.inf), torch.tensor([math.inf, -math.inf, 1.0, 1.0])):
        for compare in (torch.ge, torch.le, torch.gt, torch.lt):
            with sll.linearize(0.5, forward="hard"):
                v = x.clone()
                m = compare(v, t)
                v.mul_(2)
                assert torch.equal(m.float(), compare(x.detach(), t).float())
                assert torch.equal((~m).float(), 1 - compare(x.detach(), t).float())


@pytest.mark.usefixtures("loops_everywhere")
def test_masks_of_equal_decisions_that_show_different_things():
    x = torch.tensor([0.0, math.nan, 1.0], requires_grad=True)
    with sll.linearize(0.1, forward="hard"):
        for m in ((x >= 0) & (x > 0), (x > 0) | (x >= 0), (x > 0) | ~(x <= 0), (x < 0) | (x <= 0), (0 < x) | (x >= 0)):
            assert torch.equal(m.float(), m.detach().float())


@pytest.mark.usefixtures("loops_everywhere")
def test_zero_of_either_sign():
    x = torch.zeros(5, requires_grad=True)
    for values in (0.0, -0.0, 0.0):
        with sll.linearize(0.1, forward="hard"):
            y = torch.heaviside(x, torch.tensor(values))
        assert torch.equal(torch.signbit(y), torch.full((5,), math.copysign(1, values) < 0))


def test_a_decision_outside_its_band_makes_nothing():
    assert not hard_gradient(lambda x: (x > 0).double().sum() * 3, torch.tensor([0.5, -0.5])).any()


JOINT = {
    "depends": (lambda x: (x - 0.3 * (x > 0) > -0.3).double(), 0.005),
    "equal numbers": (lambda x: (x.expand(3, 1) > 0).all(0).double(), 0.005),
    "alone": (lambda x: (x + 0.3 * (x > 0) > 0.6).double() + (x > 0).double(), 0.005),
    "far": (lambda x: (x.expand(3, 1) > 0).all(0).double(), 0.5),
}


@pytest.mark.parametrize("name", JOINT)
def test_decisions_that_are_open_together_are_a_row(name):
    """Each counts by itself, where the program sees both."""
    f, at = JOINT[name]
    x = torch.tensor([at], dtype=torch.float64, requires_grad=True)
    with sll.linearize(0.02, forward="hard") as region:
        f(x)
    report = region.report()
    assert [*report.why.values()] == (["joint"] if name in ("depends", "equal numbers") else [])
    assert ("each counts by itself" in str(report)) == bool(report.approximate)
