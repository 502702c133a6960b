"""Samples of distances: none is in step with what it samples."""

from __future__ import annotations

import math

import pytest
import torch
import torch._dynamo.testing

from sll._ops.samples import SAMPLE, sample


@pytest.mark.parametrize("columns", [2, 3, 10, 30, 64, 128])
def test_the_sample_is_not_in_step_with_the_columns(columns):
    """One column in `columns` is near its boundary, all others are far; every sample has to see it."""
    x = torch.full((100_000 // columns, columns), 100.0)
    x[:, 0] = 1.0
    near = (sample(x) == 1).float().mean().item()
    assert near == pytest.approx(1 / columns, abs=3 / math.sqrt(SAMPLE * columns))
