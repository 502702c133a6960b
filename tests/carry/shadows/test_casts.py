"""Casts of floats to integers: a ramp at each integer but 0, and the identity where the float is an integer already."""

from __future__ import annotations

import math

import pytest
import torch

import sll

CASTS = {
    "long": lambda x: x.long(),
    "int": lambda x: x.int(),
    "to": lambda x: x.to(torch.int16),
    "type": lambda x: x.type(torch.int64),
}
X = [-2.3, -1.1, -1.0, -0.6, -0.5, -0.3, -0.0, 0.0, 0.3, 0.5, 0.9, 1.0, 1.2, 1.5, 7.04]


def slope(x, half):
    n = round(x)  # (of two that are as near the even one, as torch does)
    return 1.0 if x == n else 0.5 / half if n != 0 and abs(x - n) <= half else 0.0


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
@pytest.mark.parametrize("half", [0.05, 0.2, 0.5])
@pytest.mark.parametrize("cast", CASTS)
def test_slopes_by_hand(cast, half, dtype):
    x = torch.tensor(X, dtype=dtype, requires_grad=True)
    with sll.linearize(half, forward="straight-through"):
        n = CASTS[cast](x)
        y = n.to(dtype)
    assert n.dtype == CASTS[cast](x).dtype and torch.equal(n, CASTS[cast](x)) and torch.equal(y, n.to(dtype))
    (g,) = torch.autograd.grad(y.sum(), x)
    torch.testing.assert_close(g, torch.tensor([slope(v, half) for v in x.tolist()], dtype=dtype))


@pytest.mark.parametrize("value", [math.nan, math.inf, -math.inf, 1e-40, -1e-40, 1e-310])
def test_no_slope_where_there_is_no_boundary(value):
    x = torch.tensor([value, 1.0], dtype=torch.float64, requires_grad=True)
    with sll.linearize(0.5, forward="straight-through"):
        y = x.long().to(torch.float64)
    (g,) = torch.autograd.grad(y.sum(), x)
    assert g.tolist() == [0.0, 1.0]


def test_a_mask_as_an_integer_has_the_other_side():
    """1 becomes 0, not 2: what is compared with it, or looked up, differs by one decision."""
    x = torch.tensor([-0.1, 0.2, 3.0], requires_grad=True)
    table = torch.tensor([10.0, 13.0, 50.0])
    with sll.linearize(0.25, forward="straight-through"):
        n = (x > 0).long()
        y = table[n] + (n == 1) + 2 * (n * 3)
    assert torch.equal(y, table[(x > 0).long()] + ((x > 0).long() == 1) + 6 * (x > 0).long())
    (g,) = torch.autograd.grad(y.sum(), x)
    assert g.tolist() == pytest.approx([2 * (3 + 1 + 6), 2 * (3 + 1 + 6), 0])


def test_what_is_written_to_later_is_as_it_was():
    x = torch.tensor([0.9, 1.6], requires_grad=True)
    with sll.linearize(0.25, forward="straight-through"):
        z = x * 1
        n = z.long()
        z.zero_()
        y = n.to(x.dtype)
        n.fill_(9)
    assert y.tolist() == [0, 1] and n.tolist() == [9, 9]
    (g,) = torch.autograd.grad(y.sum(), x)
    assert g.tolist() == [2, 0]


@pytest.mark.parametrize("ends", [(-200, 200), (-128, 127), (-127, 127), (-3, 127)])
def test_a_clamp_tells_that_small_integers_do_not_wrap_only_if_they_hold_its_ends(ends):
    """What the clamp is told by name is looked at, and has the same gradient."""

    def gradient(clamp):
        x = torch.tensor([126.4, 126.8, 127.3, 127.6, 128.4, 3.2, -127.6, -128.7], requires_grad=True)
        with sll.linearize(0.5, forward="straight-through"):
            n = clamp(x.round()).to(torch.int8)
            return torch.autograd.grad((n.float() * torch.arange(1.0, 9)).sum(), x)[0]

    low, high = ends
    found = gradient(lambda q: q.clamp(low, high))
    assert torch.equal(found, gradient(lambda q: q.clamp(min=low, max=high)))
    assert (found < 0).any() == (ends == (-200, 200))
