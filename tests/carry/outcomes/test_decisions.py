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
