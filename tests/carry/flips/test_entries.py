"""What is carried, and the cap on it."""

from __future__ import annotations

import torch

import sll


def test_too_many_flips_are_counted():
    """The oldest are met with their local gradient, and the report says so; values stay the program's."""
    x = torch.linspace(-1, 1, 300, dtype=torch.float64).requires_grad_()

    def f(x):
        y = x
        for i in range(80):
            y = y + 0.01 * (y > 0.01 * i)
        return y.sum()

    with sll.linearize(5.0, forward="hard") as region:
        y = f(x)
    assert torch.equal(y.detach(), f(x.detach()))
    assert torch.autograd.grad(y, x)[0].isfinite().all()
    report = region.report()
    assert sum(report.approximate.values()) > 0 and "approximate" in str(report)
