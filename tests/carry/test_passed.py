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


@pytest.mark.parametrize("forward", ["linear", "hard", "straight-through"])
@pytest.mark.parametrize("limits", [(4, -2.0, 2.0), (4,)])
def test_the_width_of_histc_is_its_own(forward, limits):
    """It was that of `searchsorted`, in two modes."""
    x = torch.tensor([-1.95, -1.2, 0.1, 0.93, 1.97], requires_grad=True)
    found = []
    for eps in ({"default": 1e-6, "histc": 0.2}, {"default": 0.2}, {"default": 0.2, "histc": 1e-6}):
        with sll.linearize(eps, forward=forward, trace=True) as region:
            counts = torch.histc(x, *limits)
        (row,) = region.report().rows
        assert row.site.op == "histc" and row.eps[1] == pytest.approx(eps.get("histc", 0.2))
        found.append(torch.autograd.grad((counts * torch.tensor([1.0, 3.0, 4.0, 9.0])).sum(), x)[0])
    assert found[0].any() and found[0].equal(found[1]) and not found[2].any()
    if len(limits) == 1:  # the least and the largest are at edges that move with them
        assert found[0][0] == found[0][-1] == 0
