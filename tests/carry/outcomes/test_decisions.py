"""The identity of a decision: the same question is answered once."""

from __future__ import annotations

import pytest
import torch

import sll
from oracles import grads, leaf

SAME_PLACE = {
    "reshape": lambda m: m.reshape(m.shape),
    "view": lambda m: m.view(m.shape),
    "slice": lambda m: m[:],
    "ellipsis": lambda m: m[...],
    "flatten": lambda m: m.flatten(),
    "contiguous": lambda m: m.contiguous(),
    "clone": lambda m: m.clone(),
    "expand": lambda m: m.expand(m.shape),
    "to": lambda m: m.to(torch.bool),
    "squeeze": lambda m: m.squeeze(),
}


@pytest.mark.parametrize("name", SAME_PLACE)
def test_the_same_decision_is_recognised_after(name):
    x = leaf(0.1, -0.2)
    with sll.linearize(0.5):
        m = x > 0
        y = (m & ~SAME_PLACE[name](m)).float()
    assert not y.any() and not any(grads(y, x))


def test_zero_is_zero():
    x = leaf(0.1)
    with sll.linearize(0.5):
        y = ((x > 0) & (x <= 0.0)).float()
    assert y.item() == 0 and grads(y, x) == [0]


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
