"""Distances to boundaries that move."""

from __future__ import annotations

import torch

import sll
from oracles import leaf


def test_the_width_of_a_band_moves_with_the_divisor():
    for f in (lambda x, m: x % m, lambda x, m: x // m, torch.fmod):
        x, m = leaf(0.9, 1.3, dtype=torch.float64), leaf(0.6, 0.7, dtype=torch.float64)
        with sll.linearize(0.5):
            assert torch.autograd.gradcheck(f, (x, m))
