"""Rules come with the in-place forms and ``out=``."""

from __future__ import annotations

import torch

import sll
from oracles import grads, leaf


def test_cat_with_out_carries():
    x = leaf(0.001, 1.0)
    with sll.linearize(0.01):
        both = torch.cat([x > 0, x > 5], out=torch.empty(4, dtype=torch.bool))
        y = both.float()
    assert grads(y, x) == [50, 0]
