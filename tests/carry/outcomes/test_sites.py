"""Distances that are worked out late are those of the decision."""

from __future__ import annotations

import pytest
import torch

import sll


@pytest.mark.usefixtures("loops_everywhere")
def test_a_float_made_of_a_mask_after_a_write_is_that_of_the_mask():
    x = torch.linspace(-1, 1, 5001).requires_grad_()
    with sll.linearize(0.5):
        v = x.clone()
        m = v > 0.1
        v.add_(10)
        y = m.float()
    (dx,) = torch.autograd.grad(y.sum(), x)
    with sll.linearize(0.5):
        want = (x > 0.1).float()
    torch.testing.assert_close(y, want)
    torch.testing.assert_close(dx, torch.autograd.grad(want.sum(), x)[0])


@pytest.mark.usefixtures("loops_everywhere")
def test_a_decision_asked_for_without_gradients_still_has_one():
    x = torch.linspace(-1, 1, 9).requires_grad_()
    with sll.linearize(0.5, on_lost="ignore"):
        m = x > 0
        with torch.no_grad():
            m.nonzero()
        with sll.hard():
            m.nonzero()
        y = torch.where(m, 3.0, -1.0)
    assert torch.autograd.grad(y.sum(), x)[0].any()
