"""The expectation of an integer is what the program sees of it in the band."""

from __future__ import annotations

import pytest
import torch

import sll

COUNTED = {
    "cast": lambda x, b, n: (n * ~b).double(),
    "times a float mask": lambda x, b, n: n * (~b).double(),
    "where": lambda x, b, n: torch.where(b, 2, n).double(),
    "where of floats": lambda x, b, n: torch.where(b, x, n),
    "plus": lambda x, b, n: (n + b).double(),
    "times a float": lambda x, b, n: torch.where(b, 0, n) * x,
    "divided": lambda x, b, n: n / (1 + b.long()),
    "mean": lambda x, b, n: (n * ~b).double().mean(1, keepdim=True),
    "masked_fill": lambda x, b, n: n.expand_as(b).clone().masked_fill(b, 2).double(),
    "exp": lambda x, b, n: torch.exp(n * ~b * 0.3),
    "joined": lambda x, b, n: torch.cat([n * ~b, n * ~b], 1).double(),
    "maximum": lambda x, b, n: torch.maximum(n * ~b, b.long()).double(),
    "cumsum": lambda x, b, n: (b.cumsum(1) * ~b).double(),
}


@pytest.mark.parametrize("name", COUNTED)
def test_counts_in_one_outcome_of_a_mask_show_their_expectation(name):
    """Outside the band of the mask the hard count was shown: values jumped at the edges of the band. (Joined, the
    gradient of the count was lost, too.)
    """
    at = torch.linspace(0, 1, 4001, dtype=torch.float64)[:, None]
    x = torch.tensor([-0.12, -0.172, -0.4], dtype=torch.float64) + at * torch.tensor([0.0, 0.0, 0.4])
    x.requires_grad_()
    with sll.linearize(0.04):
        b = x > -0.188
        y = COUNTED[name](x, b, b.sum(1, keepdim=True)).double()
    (g,) = torch.autograd.grad(y.sum(), x)
    assert (y[1:] - y[:-1]).abs().max() < 0.02  # the steepest of these ramps rise by 0.0025 from one to the next
    rise = (y[-1] - y[0]).sum().detach()
    torch.testing.assert_close(g[:, 2].sum() * 1e-4, rise, atol=5e-3, rtol=0.0)
    assert g[:, 1].any()


def test_which_values_a_weighted_sum_takes_is_not_guessed():
    x = torch.full((5,), 0.1, requires_grad=True)
    with sll.linearize(1.0, on_lost="ignore") as region:
        code = ((x > 0).long() * 2 ** torch.arange(5)).sum(-1)
        equal, looked_up, next_one = code == 3, torch.arange(32.0)[code], (code + 1).float()
    assert not equal and looked_up == 31 and next_one.requires_grad
    assert {site.op for site in region.report().lost} == {"eq", "getitem"}
