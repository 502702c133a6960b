"""Writes at a mask, and to what carries flips."""

from __future__ import annotations

import torch

import sll
from oracles import leaf


def test_a_number_written_at_a_mask_keeps_its_digits():
    with sll.linearize(0.1, forward="hard"):
        y = torch.zeros(2, dtype=torch.float64)
        y[leaf(1.0, -1.0) > 0] = 0.7
    assert y.tolist() == [0.7, 0.0]


def test_integer_buffers_are_not_rounded():
    t = torch.tensor([16777217, 7])
    with sll.linearize(0.5, forward="hard"):
        t[leaf(-5.0, 5.0) > 0] = 2.5
    assert t.tolist() == [16777217, 2]
