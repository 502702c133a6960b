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
