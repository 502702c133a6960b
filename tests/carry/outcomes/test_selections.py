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
    torch.testing.assert_close(out, torch.tensor([4, 3]))  # (what is only asserted is not missed)
    assert len(region.report().lost) == 1
    with sll.linearize(0.1), pytest.raises(RuntimeError, match="ZeroDivisionError"):
        12 // (k * 0)[x > 0.045]


@pytest.mark.parametrize(
    "f",
    [
        lambda s: s.float(),
        lambda s: s.double(),
        lambda s: s.bfloat16(),
        lambda s: s.unsqueeze(-1).squeeze(-1),
        lambda s: (s.unsqueeze(-1) * 1.0).squeeze_(-1),
    ],
)
def test_a_selection_in_another_dtype_or_shape_is_one(f):
    """As ``x[mask]`` itself: the sum is continuous where an element enters."""
    x = torch.tensor([0.05, -0.5, 0.6, -0.04, 0.9], dtype=torch.float64, requires_grad=True)

    def sum_of(f):
        with sll.linearize(0.1, on_lost="error", forward="linear"):
            y = f((x * 2)[x > 0]).double().sum()
        return y, torch.autograd.grad(y, x)[0]

    (y, slope), (known, wanted) = sum_of(f), sum_of(lambda s: s)
    assert torch.allclose(y, known, rtol=0.01) and torch.allclose(slope, wanted, rtol=0.01, atol=0.01)
    assert wanted[3] != 0
