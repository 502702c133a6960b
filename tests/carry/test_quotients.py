"""Division by what is decided: a side that is not taken may be zero."""

from __future__ import annotations

import pytest
import torch

import sll
from oracles import grads, leaf


@pytest.mark.parametrize("forward", ["linear", "hard"])
def test_division_by_the_outcome_not_taken(forward):
    x, b = leaf(0.8), leaf(2.0)
    with sll.linearize(0.01, forward=forward):
        y = b / torch.round(x).int()
        z = torch.log((x > 0).float() * b + 0 * b) + b / (x > 0)
    assert y.item() == 2 and grads(y, b) == [1]
    assert torch.tensor(grads(z, b, x)).isfinite().all()


GUARDED = {
    "masked_fill": lambda v, m: (v * m).sum() / m.sum().masked_fill(m.sum() == 0, 1),
    "plus": lambda v, m: (v * m).sum() / (m.sum() + (m.sum() == 0)),
    "where": lambda v, m: (v * m).sum() / torch.where(m.sum() == 0, 1, m.sum()),
    "where afterwards": lambda v, m: torch.where(m.any(), (v * m).sum() / m.sum(), 0.0),
    "clamp": lambda v, m: (v * m).sum() / m.sum().clamp(min=1),
}


@pytest.mark.parametrize("eps, forward", [("auto", None), (0.01, "straight-through"), (0.01, "hard"), (0.01, "linear")])
@pytest.mark.parametrize("name", GUARDED)
def test_division_by_a_count_that_the_program_guards(name, eps, forward):
    """The count is zero, and the program divides by something else: the gradient was NaN."""
    x = leaf(-0.005, -1.0)
    with sll.linearize(eps, forward=forward):
        y = GUARDED[name](torch.tensor([2.0, 5.0]), x > 0)
    (g,) = torch.autograd.grad(y, x)
    assert y.isfinite() and g.isfinite().all()
    if name != "where afterwards":  # 0 / 0 is no outcome: the decision has no gradient there
        assert g[0] > 0


@pytest.mark.parametrize("forward", ["linear", "hard", "straight-through"])
def test_integer_division_by_a_count_that_the_program_guards(forward):
    """The side that is not taken raised."""
    x = leaf(-1.0, -2.0)
    with sll.linearize(3.0, forward=forward, on_lost="ignore"):
        n = (x > 0).sum()
        safe = torch.where(n == 0, 1, n)
        found = [6 // safe, 6 % safe, torch.div(6, safe, rounding_mode="floor")]
    assert [t.item() for t in found] == [6, 0, 6]
