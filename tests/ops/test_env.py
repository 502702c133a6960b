"""What can be read where: memory that does not hold the numbers it stands for."""

from __future__ import annotations

import pytest
import torch

import sll


@pytest.mark.parametrize("forward", ["hard", "straight-through"])
@pytest.mark.parametrize("one", [False, True], ids=["all", "one number"])
def test_the_negative_bit(one, forward):
    """The kernels read memory, where the numbers of such a view have the other sign."""
    n = 2 * sll._ops.fused.LEAST
    x = torch.linspace(-1, 1, n).requires_grad_()
    w = torch._neg_view(torch.linspace(0.3, 0.4, 1 if one else n))[0 if one else slice(None)]
    assert w.is_neg()
    a = torch.ones(n, requires_grad=True)
    for f in (
        lambda w: torch.where(x > 0, w, a * x),
        lambda w: torch.where(x > w, a * x, w),
        lambda w: torch.where((x > 0) & (x < 0.5), w, a * x),
        lambda w: (a * x).masked_fill(x > 0, w) if one else torch.where(x > w, 1.0, a),
    ):
        with sll.linearize(0.1, forward=forward):
            got, want = f(w), f(w.resolve_neg())
        assert torch.equal(got, f(w)) and torch.equal(got, want)
        assert all(map(torch.equal, torch.autograd.grad(got.sum(), [x, a]), torch.autograd.grad(want.sum(), [x, a])))
    with sll.linearize(0.1, forward=forward):
        y = torch.sign(x)
    (got,) = torch.autograd.grad(y, x, torch._neg_view(torch.ones(n)))
    assert (got <= 0).all() and got.any()
