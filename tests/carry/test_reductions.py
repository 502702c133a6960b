"""Counts of masks, in every engine."""

from __future__ import annotations

import pytest
import torch

import sll


def _added(masks):
    n = 0
    for mask in masks:
        n = n + mask.int()
    return n


def _chosen(masks):
    n = torch.zeros(masks[0].shape, dtype=torch.long)
    for mask in masks:
        n = torch.where(mask, n + 1, n)
    return n


def _in_place(masks):
    n = torch.zeros(masks[0].shape, dtype=torch.long)
    for mask in masks:
        n += mask
    return n


CHAINS = {
    "sum": lambda masks: sum(m.int() for m in masks),
    "n + mask": _added,
    "where": _chosen,
    "n += mask": _in_place,
}


@pytest.mark.parametrize("forward", ["linear", "hard", "straight-through"])
@pytest.mark.parametrize("many", [4, 5, 6, 8, 11])
@pytest.mark.parametrize("count", CHAINS.values(), ids=CHAINS)
def test_masks_that_are_counted_one_by_one(count, many, forward):
    """From five on, "hard" and "straight-through" kept one decision of those that were open, without a word."""
    x = torch.linspace(-0.4, 0.6, 3 * many, dtype=torch.float64).reshape(many, 3)[torch.randperm(many)]
    x.requires_grad_()
    found, compared = [], []
    for counted in (count, lambda masks: torch.stack(masks).sum(0)):
        with sll.linearize(1.0, forward=forward) as region:
            n = counted([row > 0 for row in x])
            found.append(torch.autograd.grad(n.double().sum(), x, retain_graph=True)[0])
            compared.append(torch.autograd.grad((n >= (many + 1) // 2).double().sum(), x)[0])
        assert not region.report().lost
    torch.testing.assert_close(found[0], torch.full_like(x, 0.5))
    torch.testing.assert_close(found[0], found[1])
    if forward == "linear":
        if many > 8:
            assert compared[0].any(0).all()
    else:  # no single flip changes a vote that is not close
        lead = n - (many + 1) // 2
        assert torch.equal(compared[0].any(0), (lead == 0) | (lead == -1))
