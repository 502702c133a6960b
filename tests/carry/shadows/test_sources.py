"""Floats in, a decision out: slopes worked out by hand."""

from __future__ import annotations

import numpy as np
import pytest
import torch
import torch.nn.functional as F

import sll
from local_slopes import worked_out

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
