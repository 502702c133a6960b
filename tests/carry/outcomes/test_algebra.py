"""More decisions than are kept jointly. The other engines have no such limit: they are asked the same."""

from __future__ import annotations

import pytest
import torch

import sll
from oracles import jittered_integral

OF_MANY = {
    "times": lambda n, x, y: n * 2.0,
    "float": lambda n, x, y: n.double(),
    "compared": lambda n, x, y: (n > 1).double(),
    "plus": lambda n, x, y: (n + 1).double(),
    "looked up": lambda n, x, y: torch.arange(20.0, dtype=torch.float64)[n] ** 2,
    "condition": lambda n, x, y: torch.where(n > 1, 1.0, 0.0).double(),
    "squared": lambda n, x, y: (n * n).double(),
    "with another": lambda n, x, y: (n * (x > 0).long()).double(),
    "with a third": lambda n, x, y: ((n + (y > 0.01).long()) > 2).double(),
}


@pytest.mark.parametrize("forward", ["linear", "hard"])
@pytest.mark.parametrize("name", OF_MANY)
def test_integers_of_more_decisions_than_are_kept(name, forward):
    """A float of several decisions that is made an integer has a decision for each of its outcomes. Most functions of
    such integers had no gradient, without a word.
    """

    def f(points):
        x, y, z = points.unbind(-1)
        u = ((x > 0).double() * 0.7 + (y > 0).double() * 1.4) * 1.0 + z * 0.9
        return OF_MANY[name](u.long(), x, y)

    a = torch.tensor([-0.5, -0.4, 0.3], dtype=torch.float64)
    b = torch.tensor([0.45, 0.7, 1.7], dtype=torch.float64)
    want = float(f(b) - f(a))
    assert abs(want) >= 1
    assert jittered_integral(f, a, b, 0.01, forward, n=20_000) == pytest.approx(want, rel=0.01)
    for t in (0.36, 0.52, 0.6):  # numbers of no dimension take other paths
        x = (a + (b - a) * t).requires_grad_()
        with sll.linearize(0.02, forward=forward):
            alone, together = torch.autograd.grad(f(x), x)[0], torch.autograd.grad(f(x[None]).sum(), x)[0]
        torch.testing.assert_close(alone, together)


@pytest.mark.parametrize("forward", ["linear", "hard", "straight-through"])
@pytest.mark.parametrize("clamps", [False, True])
def test_rounded_after_many_decisions(clamps, forward):
    """Clamped before it became an integer, in "linear" it had no gradient, without a word."""
    a, b, c = v = [torch.tensor(t, dtype=torch.float64, requires_grad=True) for t in (1.0, 0.095, 2.0)]
    with sll.linearize(0.04, forward=forward):
        m = torch.where(a > 0, b, c)
        n = torch.where(b > m * 0.5 + 0.47, b * 1.3, m)
        q = torch.round(n * 2 + 0.3)
        y = (q.clamp(-3, 3) if clamps else q).long().double()
    found = torch.autograd.grad(y, v, allow_unused=True)
    assert found[1].item() == pytest.approx(25)  # 2 n + 0.3 is 0.01 from 1/2, one step is 1 high and 0.08 wide


@pytest.mark.parametrize("shift", [-1e-4, 0.1, 0.5])
def test_what_a_count_may_be_adds_up_to_one(shift):
    x = torch.full((5,), shift, dtype=torch.float64, requires_grad=True)
    with sll.linearize(1.0):
        count = (x > 0).sum()
        equal = torch.stack([(count == k).double() for k in range(6)])
        least = torch.stack([(count >= k).double() for k in range(7)])
        more = torch.stack([(count > k).double() for k in range(6)])
    assert float(equal.sum()) == pytest.approx(1) and torch.equal(more, least[1:])
    assert (least.diff() <= 0).all() and least[0] == 1 and least[-1] == 0
    assert torch.allclose(least[:-1] - least[1:], equal)


def test_a_count_is_continuous_where_many_are_open_at_once():
    values = []
    for shift in (-1e-4, 1e-4):
        with sll.linearize(1.0):
            count = (torch.full((5,), shift, dtype=torch.float64, requires_grad=True) > 0).sum()
            values.append(torch.stack([(count == 5).double(), (count >= 4).double(), (count > 2).double()]))
    assert torch.allclose(*values, atol=1e-2)
