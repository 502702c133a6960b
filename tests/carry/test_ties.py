"""Numbers that something has cut off exactly at a boundary."""

from __future__ import annotations

import pytest
import torch
from torch.nn import functional as F

import sll

CUT_OFF = {
    "relu": lambda x: F.relu(x) > 0,
    "clamp": lambda x: x.clamp(max=0.0) >= 0,
    "turned round": lambda x: torch.zeros(()) < x.clamp(min=0.0) * 2,
}


@pytest.mark.parametrize("forward", ["linear", "hard"])
@pytest.mark.parametrize("name", CUT_OFF)
def test_half_of_the_jump_is_missed_and_reported(name, forward):
    x = torch.linspace(-1, 1, 200, dtype=torch.float64).requires_grad_()
    with sll.linearize(0.1, forward=forward) as region:
        y = CUT_OFF[name](x).double().sum()
    jump = torch.autograd.grad(y, x)[0].sum() * (x[1] - x[0]).detach()
    assert jump.item() == pytest.approx(0.5, abs=0.01)
    ((site, many),) = region.report().approximate.items()
    assert (region.report().why[site], many) == ("ties", 100) and "exactly at the boundary" in str(region.report())


@pytest.mark.parametrize("forward", ["linear", "hard"])
def test_what_is_given_or_decided_ties_without_a_word(forward):
    """A leaf at the boundary is a coincidence, and of whole numbers the steps are known."""
    x = torch.tensor([0.0, 1.0, 2.2], requires_grad=True)
    with sll.linearize(0.1, forward=forward) as region:
        y = (torch.round(x) >= 1).float() + (x > 0).float() + (x * 1.01 > 0.5).float()
    assert y.requires_grad and not region.report().approximate


@pytest.mark.parametrize("forward", ["straight-through", "linear"])
@pytest.mark.parametrize(
    "add",
    [
        lambda masks: (masks.to(torch.int8) * 60).sum(dtype=torch.int8),
        lambda masks: masks.to(torch.int8) @ torch.full((3,), 60, dtype=torch.int8),
    ],
)
def test_sums_that_wrap_around_are_approximate(add, forward):
    for at, why in (([0.02, 0.5, 0.6], ["wraps"]), ([0.02, 0.5, -0.6], [])):
        x = torch.tensor(at, requires_grad=True)
        with sll.linearize(0.1, forward=forward, on_lost="error") as region:
            found = add(x > 0)
            found.float()
        assert sorted(region.report().why.values()) == why
        assert found == add(x.detach() > 0)
