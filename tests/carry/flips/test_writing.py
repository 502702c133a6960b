"""Writes at a mask, and to what carries flips."""

from __future__ import annotations

import torch
from torch import library

import sll
from oracles import hard_gradient, leaf


def test_a_number_written_at_a_mask_keeps_its_digits():
    with sll.linearize(0.1, forward="hard"):
        y = torch.zeros(2, dtype=torch.float64)
        y[leaf(1.0, -1.0) > 0] = 0.7
    assert y.tolist() == [0.7, 0.0]


def test_integer_buffers_are_not_rounded():
    t = torch.tensor([16777217, 7])
    with sll.linearize(0.5, forward="hard"):
        t[leaf(-5.0, 5.0) > 0] = 2.5
    assert t.tolist() == [16777217, 2]


X = torch.tensor([-0.05, 0.02, 0.5, -0.7], dtype=torch.float64)


@library.custom_op("sll_test_flips::triple", mutates_args=())
def triple(x: torch.Tensor) -> None:
    """Writes to its operand, and does not say so."""
    x.detach().mul_(3)


def test_undeclared_writes_after_a_decision():
    def f(x, write):
        y = x * 1
        mask = y > 0
        if write:
            triple(y.detach())
        return (mask * X).sum()

    torch.testing.assert_close(hard_gradient(lambda x: f(x, True), X), hard_gradient(lambda x: f(x, False), X))


@torch.jit.script
def scripted(x: torch.Tensor) -> torch.Tensor:
    return x.mul_(2)


def test_scripted_writes_after_a_decision():
    def f(x, write):
        y = (x * 1).detach().requires_grad_(False) + x
        mask = y > 0
        z = y.clone()
        if write:
            scripted(z)
        return (mask * X).sum() + ((z > 0) * X).sum()

    torch.testing.assert_close(hard_gradient(lambda x: f(x, True), X, eps=0.3)[2:], torch.zeros(2, dtype=torch.float64))


def test_writes_to_what_carries():
    def f(x):
        m = x > 0
        y = m.double()
        y[2] = 5.0
        y += m
        y[0] *= 3
        return (y * y).sum()

    def of(m):
        y = m.double()
        y[2] = 5.0
        y = y + m
        y[0] = y[0] * 3
        return (y * y).sum()

    want = [float(of(torch.tensor([True, True, True, False])) - of(X > 0)) / 0.2]
    torch.testing.assert_close(hard_gradient(f, X)[:1], torch.tensor(want, dtype=torch.float64))


def test_what_is_written_to_a_view_at_a_number_is_written_there():
    """``y[i].add_(v)``, ``y[i] += v``: of one number it is a view, and in each flip of another place."""

    def program(x):
        y = torch.zeros(4, dtype=x.dtype)
        y[x.argmax()].add_(2.0)
        y[x.argmax()] += 1
        row = y[x.argmax()]
        row *= 2
        return (y * torch.arange(1.0, 5)).sum()

    x = torch.tensor([0.1, 0.5, 0.495, 0.0], dtype=torch.float64, requires_grad=True)
    with sll.linearize(0.1, forward="hard"):
        y = program(x)
        y.backward()
    assert y == program(x.detach()) == 12
    torch.testing.assert_close(x.grad, 6 / 0.2 * torch.tensor([0.0, -1, 1, 0], dtype=torch.float64))
