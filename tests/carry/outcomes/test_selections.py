"""Selections by a mask: what is left out is not seen."""

from __future__ import annotations

import pytest
import torch

import sll


def test_a_selection_whose_count_is_certain_does_not_fail_for_what_it_leaves():
    x = torch.tensor([-1.0, 0.04, 0.05, 2.0], requires_grad=True)
    k = torch.tensor([2, 0, 3, 4])
    with sll.linearize(0.1) as region, pytest.warns(sll.LostGradientWarning, match="not selected"):
        out = 12 // k[x > 0.045]
    assert out.tolist() == [4, 3] and len(region.report().lost) == 1
    with sll.linearize(0.1), pytest.raises(RuntimeError, match="ZeroDivisionError"):
        12 // (k * 0)[x > 0.045]
