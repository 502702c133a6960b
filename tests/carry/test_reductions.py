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


@pytest.mark.parametrize("forward", ["straight-through", "hard", "linear"])
@pytest.mark.parametrize("program", [
    lambda m: m.diff(), lambda m: m.diff(n=2), lambda m: m.diff(dim=0), lambda m: m.diff(prepend=m[:, :1] & False),
])  # fmt: skip
def test_neighbours_of_masks_differ_or_not(program, forward):
    x = torch.tensor([[0.02, 0.3, -0.4], [0.5, 0.6, 0.7]], dtype=torch.float64, requires_grad=True)
    above, below = (program(x.detach() + shift > 0).double() for shift in (0.1, -0.1))
    weights = torch.arange(1.0, above.numel() + 1).reshape(above.shape)
    with sll.linearize(0.1, forward=forward, on_lost="error"):
        mask = program(x > 0)
        assert mask.dtype == torch.bool
        (mask.double() * weights).sum().backward()
    assert x.grad[0, 0] == pytest.approx(((above - below) * weights).sum().item() / 0.2)


@pytest.mark.parametrize("forward", ["straight-through", "hard", "linear"])
def test_the_outer_product_of_masks_is_a_mask(forward):
    x = torch.tensor([0.3, 0.02, -0.4], dtype=torch.float64, requires_grad=True)
    weights = torch.arange(9.0).reshape(3, 3)
    with sll.linearize(0.1, forward=forward, on_lost="error"):
        both = torch.outer(x > 0, x > -1) & ~torch.eye(3, dtype=torch.bool)
        assert both.dtype == torch.bool
        (torch.where(both, weights, 0) + weights.masked_fill(both, 1.0)).sum().backward()
    assert x.grad.tolist() == pytest.approx([0, (3 + 5 + 1 - 3 + 1 - 5) / 0.2, 0])
