"""Lookups in an engine that works outcomes out late."""

from __future__ import annotations

import torch

import sll
from oracles import grads, leaf


def test_an_index_may_change_after_the_lookup():
    x, k, row = leaf(0.1, 0.2, 0.3), torch.tensor(0), [0]
    with sll.linearize(0.5):
        m = x > 0
        out = []
        for i in range(3):
            out.append(m[k].float())
            out.append(m[row].float())
            if i < 2:
                k += 1
                row[0] += 1
    for i, y in enumerate(out):
        assert [g != 0 for g in grads(y, x)] == [j == i // 2 for j in range(3)]
