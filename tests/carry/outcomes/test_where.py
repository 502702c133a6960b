"""What a mask chooses between: outcomes, infinities, complex numbers."""

from __future__ import annotations

import pytest
import torch

import sll
from oracles import grads, leaf


@pytest.mark.usefixtures("loops_everywhere")
def test_masked_fill_refuses_what_torch_refuses():
    x = torch.randn(5000, requires_grad=True)
    with sll.linearize(0.1), pytest.raises(RuntimeError, match="0-dimensional"):
        x.masked_fill(x > 0, torch.tensor([1.0]))


def test_complex_results_keep_autograd():
    x, a = leaf(0.05, -5.0), torch.tensor([1j, 2j], requires_grad=True)
    with sll.linearize(0.1):
        y = torch.where(x > 0, a, a * 2)
        z = (x > 0) * a
        n = (x > 0).sum() * a
    for out in (y, z, n):
        assert out.requires_grad and out.dtype == a.dtype
    assert torch.autograd.grad(y.imag.sum(), x, retain_graph=True)[0].tolist() == [-5.0, 0.0]
    torch.testing.assert_close(y.imag, torch.tensor([0.75 + 0.25 * 2, 4.0]))


def test_infinite_outcomes_take_the_right_side():
    x, z = leaf(5.0, -5.0), leaf(1.0, 2.0)
    a, b = leaf(float("nan")), leaf(1.0)
    p, q = leaf(float("inf")), leaf(float("inf"))
    with sll.linearize(0.5):
        y = z.masked_fill(x > 0, float("nan"))
        u = torch.where(leaf(5.0) > 0, a, b)
        v = torch.where(leaf(-5.0) > 0, p, q)
    assert grads(y, z) == [0, 1]
    assert grads(u, a, b) == [[1], [0]]
    assert grads(v, p, q) == [[0], [1]]
