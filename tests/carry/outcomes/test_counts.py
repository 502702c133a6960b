"""Counts are compared halfway between integers."""

from __future__ import annotations

import pytest
import torch

import sll


@pytest.mark.parametrize("shift", [-1e-4, 0.1, 0.5])
def test_what_a_count_may_be_adds_up_to_one(shift):
    x = torch.full((5,), shift, dtype=torch.float64, requires_grad=True)
    with sll.linearize(1.0):
        count = (x > 0).sum()
        equal = torch.stack([(count == k).double() for k in range(6)])
        least = torch.stack([(count >= k).double() for k in range(7)])
        more = torch.stack([(count > k).double() for k in range(6)])
    assert float(equal.sum()) == pytest.approx(1) and torch.equal(more, least[1:])
    assert (least.diff() <= 0).all() and least[0] == 1 and least[-1] == 0
    assert torch.allclose(least[:-1] - least[1:], equal)


def test_a_count_is_continuous_where_many_are_open_at_once():
    values = []
    for shift in (-1e-4, 1e-4):
        with sll.linearize(1.0):
            count = (torch.full((5,), shift, dtype=torch.float64, requires_grad=True) > 0).sum()
            values.append(torch.stack([(count == 5).double(), (count >= 4).double(), (count > 2).double()]))
    assert torch.allclose(*values, atol=1e-2)
