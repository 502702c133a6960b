"""Outcomes that are the same everywhere."""

from __future__ import annotations

import pytest
import torch

import sll


@pytest.mark.usefixtures("loops_everywhere")
def test_a_constant_that_was_chosen_makes_no_decision():
    for n in (8, 5000):
        x = torch.full((n,), -5.0, requires_grad=True)
        a = torch.full((n,), 9.0, requires_grad=True)
        with sll.linearize(0.2):
            assert (torch.where(x > 0, a, 0.0) > -0.06).float()[0] == 1
            assert torch.where(x > 0, a, 0.45).round()[0] == 0
            assert (a.masked_fill(~(x > 0), 0.0) > -0.06).float()[0] == 1
