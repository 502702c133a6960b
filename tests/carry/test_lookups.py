"""Lookups at an index that was decided, in every engine: whatever the function is called, and of several decisions."""

from __future__ import annotations

import pytest
import torch

import sll
from lookups import INDICES, LOOKUPS, TABLE


@pytest.mark.parametrize("forward", ["linear", "hard"])
def test_bits_make_a_code_that_is_looked_up(forward):
    """The bits' joint outcomes are kept through a short sum; the window of one decision is the box oracle's."""
    table = torch.tensor([0.0, 3, 1, 4, 1, 5, 9, 2], dtype=torch.float64)
    x = torch.tensor([[2.0, -3.0, 0.1], [-2.0, 0.3, 5.0]], dtype=torch.float64, requires_grad=True)
    with sll.linearize(1.0, forward=forward) as region:
        code = ((x > 0).long() * 2 ** torch.arange(3)).sum(-1)
        looked_up = table[code]
        by_equality = (table * (code.unsqueeze(-1) == torch.arange(8))).sum(-1)
    assert region.report().lost == {}
    assert code.dtype == torch.int64 and code.tolist() == [5, 6]
    if forward == "linear":  # codes 1 or 5; 4 or 6
        assert looked_up.tolist() == [pytest.approx(0.45 * 3 + 0.55 * 5), pytest.approx(0.35 * 1 + 0.65 * 9)]
    gradient = torch.autograd.grad(looked_up.sum(), x, retain_graph=True)[0]
    assert gradient.tolist() == [[0, 0, pytest.approx((5 - 3) / 2)], [0, pytest.approx((9 - 1) / 2), 0]]
    assert torch.allclose(gradient, torch.autograd.grad(by_equality.sum(), x)[0])


@pytest.mark.parametrize("forward", ["hard", "straight-through"])
def test_codes_of_many_bits_are_looked_up(forward):
    """A code is no count: each open bit leads to another entry."""
    eps, table = 0.01, torch.randn(64, dtype=torch.float64, generator=torch.Generator().manual_seed(0))
    x = torch.full((6, 6), 0.5, dtype=torch.float64) - torch.eye(6, dtype=torch.float64) * 0.503
    x.requires_grad_()
    with sll.linearize(eps, forward=forward) as region:
        code = sum((bits > 0).long() * 2**i for i, bits in enumerate(x))
        (got,) = torch.autograd.grad(table[code].sum(), x)
    assert not region.report().lost
    change = [table[63] - table[63 - 2**i] for i in range(6)]
    torch.testing.assert_close(got, torch.diag(torch.stack(change)) / (2 * eps))


CARRIED = [("linear", index) for index in INDICES if index != "count"] + [("hard", index) for index in INDICES]
"""What is looked up in "linear" is no count (it says so). Local gradients have tests of their own, in `shadows`."""


@pytest.mark.parametrize("forward, index", CARRIED)
@pytest.mark.parametrize("name", LOOKUPS)
def test_all_lookups_are_one(name, forward, index):
    at = torch.tensor([0.45, 1.1, 3.6, 2.0, 0.9], dtype=torch.float64)
    found = []
    for look in (LOOKUPS["getitem"], LOOKUPS[name]):
        x = at.clone().requires_grad_()
        with sll.linearize(0.2, forward=forward, on_lost="error"):
            y = look(TABLE, INDICES[index](x)) * torch.arange(1.0, 6)
        found.append((y.detach(), torch.autograd.grad(y.sum(), x)[0]))
    assert found[0][1].any()
    torch.testing.assert_close(found[1], found[0])
    if forward == "hard":
        assert torch.equal(found[0][0], LOOKUPS["getitem"](TABLE, INDICES[index](at)) * torch.arange(1.0, 6))
