"""Slopes with local gradients: of lookups and of writes at an index, and rules one at a time, worked out by hand."""

from __future__ import annotations

import pytest
import torch

import sll
from local_reference import gradient

EPS = 0.2


def region(eps=EPS, **more):
    return sll.linearize(eps, forward="straight-through", on_lost="error", **more)


def slope(f, x, eps=EPS):
    with region(eps):
        y = f(x)
    return torch.autograd.grad(y, x, torch.ones_like(y))[0]


# --- rules one at a time -------------------------------------------------------------------------------------------

QUARTER = 0.25
T = torch.tensor([5.0, 1.0, 4.0, 2.0, 9.0], dtype=torch.float64)


def count(x, y):
    return (x > 0).long() + (y > 0).long()


def scores(x):
    return torch.stack([x, x * 0, x * 0 - 5])


def worked_out(f, values, wanted):
    """Both the region and the reference have the gradients that were worked out by hand, for numbers as operands. Bands
    are 1/4 to either side: slopes are 2 for a mask or a step, 4 for a sign.
    """
    values, wanted = (x if isinstance(x, tuple) else (x,) for x in (values, wanted))
    leaves = [torch.tensor(v, dtype=torch.float64, requires_grad=True) for v in values]
    with sll.linearize(QUARTER, forward="straight-through", on_lost="ignore"):
        y = f(*leaves)
    assert torch.equal(y, f(*(x.detach() for x in leaves)))
    found = [0.0] * len(values)
    if y.requires_grad:
        found = [g.item() for g in torch.autograd.grad(y, leaves, allow_unused=True, materialize_grads=True)]
    reference = [g.item() for g in gradient(f, [x.detach() for x in leaves], QUARTER)[1]]
    assert reference == pytest.approx(list(wanted)), "the reference"
    assert found == pytest.approx(list(wanted)), "the region"
