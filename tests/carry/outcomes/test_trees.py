"""Decisions on decisions."""

from __future__ import annotations

import pytest
import torch

import sll
from sll._ops import fused

NESTED = {
    "a decision that ties with itself on one side": lambda x, y, z: (
        (torch.where(x > 0, y, z) >= y).double() * z <= 0.5
    ).double(),
    "and further decisions": lambda x, y, z: (
        (x > 0).double()
        - (((torch.where(x > 0, y, z) >= y).double() * z <= 0.5) ^ (torch.where(x > 0, y, z) > 0)).double() * x
    ),
    "and": lambda x, y, z: ((x >= 0) & (y > 0)).double(),
    "or, chosen": lambda x, y, z: torch.where((x > 0) | (y > 0), z, y),
    "three values": lambda x, y, z: (torch.sign(x).long() * (y > 0).long()).double() * z,
    "three values, summed": lambda x, y, z: (torch.sign(x).long() * (y > 0).long()).sum() * z,
    "three values, compared": lambda x, y, z: torch.where(torch.sign(x).long() + (y > 0).long() > 0, z, y),
    "three values, filled": lambda x, y, z: z.masked_fill(torch.sign(x).long() + (y > 0).long() > 0, 0.25),
}


@pytest.mark.usefixtures("loops_everywhere")
@pytest.mark.parametrize("forward", ["linear", "hard", "straight-through"])
@pytest.mark.parametrize("f", NESTED.values(), ids=NESTED)
def test_large_tensors_have_what_small_ones_have(f, forward, monkeypatch):
    """Ties of outer and inner decisions included."""
    grid = torch.tensor([-0.7, -0.063, 0.0, 0.1, 0.249, 0.5], dtype=torch.float64)
    found = []
    for least in (1, 1 << 60):
        monkeypatch.setattr(fused, "LEAST", least)
        x, y, z = (t.flatten().clone().requires_grad_() for t in torch.meshgrid(grid, grid, grid, indexing="ij"))
        with sll.linearize(0.4, forward=forward):
            out = f(x, y, z)
        gradients = torch.autograd.grad(out.sum(), (x, y, z), allow_unused=True)
        found.append([out.detach(), *(torch.zeros(x.shape) if g is None else g for g in gradients)])
    for large, small in zip(*found):
        torch.testing.assert_close(large, small, check_dtype=False)


@pytest.mark.usefixtures("loops_everywhere")
def test_the_order_of_two_decisions_does_not_matter_at_ties():
    """A decision that ties takes its hard side, whether it stands first or last; the other one is blended as ever."""
    x, y = torch.zeros(3, requires_grad=True), torch.full((3,), 0.05, requires_grad=True)
    for f in (lambda a, b: a & b, lambda a, b: b & a):
        with sll.linearize(0.2):
            at_tie, not_taken = f(x >= 0, y > 0), f(x > 0, y > 0)
            found = (
                at_tie.float(),
                torch.where(at_tie, 8.0, 0.0) / 8,
                not_taken.float(),
                torch.where(not_taken, 1.0, 0.0),
            )
        for value, want in zip(found, (0.625, 0.625, 0.0, 0.0)):
            torch.testing.assert_close(value.detach(), torch.full((3,), want))
