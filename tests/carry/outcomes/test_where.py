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


ZERO = {
    "where": lambda n: 1 / torch.where(n == 0, 1, n),
    "where, not": lambda n: 1 / torch.where(n != 0, n, 1),
    "masked_fill": lambda n: 1 / n.masked_fill(n == 0, 1),
    "another": lambda n: torch.where(n == 0, 7, n).double(),
}


@pytest.mark.parametrize("name", ZERO)
def test_a_count_that_is_taken_where_it_is_not_zero(name):
    """The integral of the gradient is what the program changes by, also across the edge of a band at 0."""
    program = lambda x: ZERO[name]((x > 0).sum())
    start, end = torch.tensor([-0.7, -0.9, -0.3]).double(), torch.tensor([0.8, 0.5, 1.2]).double()
    total, many = 0.0, 600
    for step in range(many):
        x = (start + (end - start) * (step + 0.5) / many).requires_grad_()
        with sll.linearize(0.05, forward="linear"):
            y = program(x)
        total += float(torch.autograd.grad(y, x)[0] @ (end - start)) / many
    assert total == pytest.approx(float(program(end) - program(start)), abs=0.02)


@pytest.mark.parametrize("less", [1, 2])
def test_a_difference_of_counts_may_be_less_than_zero(less):
    x = torch.tensor([0.5, -0.02]).double().requires_grad_()
    with sll.linearize(0.1, forward="linear"):
        n = (x > 0).sum() - less
        y = torch.where(n == 0, 5, n).double()
    assert torch.autograd.grad(y, x)[0].tolist() == pytest.approx([0, 5 * (1 - 5 if less == 1 else 5 + 1)])
