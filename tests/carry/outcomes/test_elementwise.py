"""Functions of both outcomes, element by element."""

from __future__ import annotations

import pytest
import torch
import torch.nn.functional as F

import sll
from oracles import grads, leaf


def test_integer_division_by_the_outcome_not_taken():
    x = leaf(0.9, 2.3)
    with sll.linearize(0.01):
        y = 7 // torch.round(x).int() + torch.tensor([7, 7]) % torch.round(x).int()
    assert y.tolist() == [7, 4]


def test_inplace_flags_and_binary_max():
    def slope(f):
        x = leaf(0.01)
        with sll.linearize(0.1):
            y = f(torch.sign(x) * 10)
        return grads(y, x)[0]

    assert slope(lambda s: torch.round(F.relu(s + 10, inplace=True))) == pytest.approx(100)
    assert slope(lambda s: torch.round(torch.max(s, torch.tensor(-20.0)))) == pytest.approx(100)
    x = leaf(0.35)
    with sll.linearize(0.5):
        h = x * 1
        out = F.threshold(h, 0.1, 20.0, inplace=True)
    assert out is h and h.item() == pytest.approx(20 + 0.75 * (0.35 - 20))
