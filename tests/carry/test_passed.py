"""`searchsorted` and `bucketize` count the boundaries passed, in every engine."""

from __future__ import annotations

import pytest
import torch

import sll


@pytest.mark.parametrize("forward", ["linear", "hard", "straight-through"])
def test_learned_boundaries_that_a_decided_value_passes(forward):
    """They had no gradient, without a word: like the comparisons written out."""
    v = torch.tensor([0.7, 1.05, 2.02, 3.0], dtype=torch.float64, requires_grad=True)
    cuts = torch.tensor([-0.95, 1.9, 2.97], dtype=torch.float64, requires_grad=True)
    weights = torch.tensor([1.0, 2.0, 3.0, 4.0], dtype=torch.float64)
    found = []
    for f in (
        lambda s: torch.bucketize(s, cuts),
        lambda s: torch.bucketize(s * 1.0, cuts),
        lambda s: torch.searchsorted(cuts, s),
        lambda s: (s[:, None] > cuts).sum(1),
    ):
        with sll.linearize(0.2, forward=forward):
            score = (v > 2).int() * 2 + (v > 1).int()
            found.append(torch.autograd.grad((f(score.double()) * weights).sum(), [v, cuts], allow_unused=True))
    for got in found[:3]:
        assert got[1] is not None and got[1].any()
        if forward == "linear":
            torch.testing.assert_close(got, found[3])
