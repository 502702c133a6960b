"""Floats in, a decision out: slopes worked out by hand."""

from __future__ import annotations

import numpy as np
import pytest
import torch
import torch.nn.functional as F

import sll
from local_slopes import worked_out
from sll._ops.openness import open_elements

RULES = [
    ("sign", torch.sign, 0.1, 4),
    ("outside", torch.sign, 0.3, 0),
    ("closed band", lambda x: x.gt(0).double(), 0.25, 2),
    ("floor", torch.floor, 1.1, 2),
    ("half a step at most", lambda x: torch.round(x * 4, decimals=0) + torch.round(x, decimals=1), 0.1875, 9),
    ("frac", torch.frac, 1.1, 1 - 2),
    ("remainder", lambda x: x % 0.5, 0.6, 1 - 1),
    ("fmod at 0", lambda x: torch.fmod(x, 0.5), 0.1, 1),
    ("floor_divide", lambda x: x // 0.5, 0.6, 2),
    ("hardshrink", lambda x: F.hardshrink(x, 0.5), 0.6, 1 + 0.6 * 2),
    ("threshold, not taken", lambda x: F.threshold(x, 0.5, 3.0), 0.4, (0.4 - 3) * 2),
    ("copysign", lambda x: torch.copysign(torch.tensor(3.0).double(), x), 0.1, 12),
    ("trunc does not jump at 0", torch.trunc, 0.1, 0),
    ("less", lambda x: (x < 0).double(), 0.1, -2),
    ("reflected", lambda x: (0.2 >= x).double(), 0.1, -2),
    ("isclose, leaving", lambda x: torch.isclose(x, x.new_tensor(0.0), rtol=0, atol=0.1).double(), 0.2, -2),
    ("signbit", lambda x: torch.signbit(x).double(), 0.1, -2),
    ("float equality", lambda x: (x == 0.1).double() + (x != 0.1).double() * x.detach(), 0.1, 0),
    ("a rounded float is compared as it is", lambda x: (torch.round(x) > 1).double(), 1.4, 4),
    ("equality of a rounded float", lambda x: (torch.round(x) == 1).double(), 1.4, -2),
    ("equality of a sign", lambda x: (torch.sign(x) == 1).double(), 0.1, 2),
    ("truth of a rounded float", lambda x: torch.round(x).bool().double(), 0.4, 2),
    ("cast", lambda x: x.long().double(), 1.1, 2),
    ("cast far from a boundary", lambda x: x.long().double(), 1.5, 0),
    ("cast at 0", lambda x: x.int().double(), 0.1, 0),
    ("cast of a whole number", lambda x: (x.long() * 3).sum().double(), 2.0, 3),
    ("cast of a rounded one", lambda x: torch.round(x).long().double(), 1.4, 2),
    ("both sides of a comparison", lambda x, y: (x > y).double(), (0.1, 0.2), (2, -2)),
    ("divisor", lambda x, y: x // y, (2.7, 1.3), (2, -4)),
    ("remainder of a divisor", lambda x, y: x % y, (2.7, 1.3), (1 - 2 * 1.3, -2 + 2 * 2 * 1.3)),
]


@pytest.mark.parametrize(("f", "values", "wanted"), [row[1:] for row in RULES], ids=[row[0] for row in RULES])
def test_rule(f, values, wanted):
    worked_out(f, values, wanted)


def test_numbers_that_numpy_owns_are_compared_again_and_again():
    """A lazy clone of them would fail the second time, or take the memory away from NumPy at the next write."""
    numbers = np.array([0.05, -0.2, 0.3], dtype=np.float32)
    x = torch.nn.Parameter(torch.from_numpy(numbers))
    for _ in range(3):
        x.grad = None
        with sll.linearize(0.1, forward="straight-through"):
            (x > 0).float().sum().backward()
        assert x.grad.tolist() == [5.0, 0.0, 0.0]
    with torch.no_grad():
        x.add_(1)
    assert numbers.tolist() == x.tolist()


@pytest.mark.parametrize("numbers", [[-5.2, 3.3], [torch.inf, 3.3], [torch.nan, 3.3]])
def test_a_whole_step_is_open_where_numbers_are_finite_and_told_from_what_comes_before(numbers):
    """Of finite numbers it is a copy, else a window; the sign is decided far outside of its band."""
    x = torch.tensor(numbers, requires_grad=True)
    with sll.linearize({"default": 1e-3, "round": 0.5}, forward="straight-through"):
        y = (x * torch.sign(x).abs()).round()
    assert torch.equal(y, x.round()) or x.isnan().any()
    assert open_elements(y) == int(x.isfinite().sum())
    (found,) = torch.autograd.grad(y.sum(), x)
    assert torch.equal(found, x.isfinite().float())


@pytest.mark.parametrize("at", [1e40, -1e40, 2**24 + 1, 2**60 + 1, 0.1, torch.nan, -0.0])
@pytest.mark.parametrize("op", [torch.gt, torch.le])
def test_a_number_that_is_compared_is_rounded_as_torch_does(op, at):
    x = torch.tensor([0.1, float(torch.tensor(0.1)), 2.0**24, 2.0**60, 0.0, torch.inf], requires_grad=True)
    with sll.linearize(0.5, forward="straight-through"):
        mask = op(x, at)
        shown = mask.float()
    assert torch.equal(mask, op(x.detach(), at)) and torch.equal(shown, mask.float())
    assert torch.autograd.grad(shown.sum(), x)[0].isfinite().all()
