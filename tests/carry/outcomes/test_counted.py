"""Integers that one decision changes by one, and others."""

from __future__ import annotations

import torch

import sll


def test_which_values_a_weighted_sum_takes_is_not_guessed():
    x = torch.full((5,), 0.1, requires_grad=True)
    with sll.linearize(1.0, on_lost="ignore") as region:
        code = ((x > 0).long() * 2 ** torch.arange(5)).sum(-1)
        equal, looked_up, next_one = code == 3, torch.arange(32.0)[code], (code + 1).float()
    assert not equal and looked_up == 31 and next_one.requires_grad
    assert {site.op for site in region.report().lost} == {"eq", "getitem"}
