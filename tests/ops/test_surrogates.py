"""Ramps of stock ops: what is no number has no gradient, and nothing that the program writes to is kept."""

from __future__ import annotations

import math

import pytest
import torch

import sll

HALF = 0.25
DECIDE = {
    # op: of x, and the distance of x from its boundary
    "sign": (torch.sign, lambda x: x),
    "gt": (lambda x: (x > 0).to(x.dtype), lambda x: x),
    "gt .3": (lambda x: (x > 0.3).to(x.dtype), lambda x: x - torch.tensor(0.3, dtype=x.dtype)),
    "heaviside": (lambda x: torch.heaviside(x, torch.tensor(0.5, dtype=x.dtype)), lambda x: x),
    "round": (torch.round, lambda x: x - x.floor() - 0.5),
    "whole round": (torch.round, torch.zeros_like),
    "whole floor": (torch.floor, torch.zeros_like),
}
SIZES = (0, 1, 64, 4096, 4097, 65_536)
"""On both sides of where another kernel looks for NaN, and where one pass takes over."""


def region_of(name: str) -> sll.linearize:
    return sll.linearize(0.5 if name.startswith("whole") else HALF, forward="straight-through")


def numbers(n: int, dtype: torch.dtype, at: dict[int, float]) -> torch.Tensor:
    x = 2 * torch.randn(n, generator=torch.Generator().manual_seed(n), dtype=dtype)
    for i, value in at.items():
        x[i : i + 1] = value
    return x.requires_grad_()


@pytest.mark.parametrize("at", [{}, {0: math.nan}, {0: math.inf}, {-1: -math.inf}, {0: math.inf, 1: math.nan}], ids=str)
@pytest.mark.parametrize("n", SIZES)
@pytest.mark.parametrize("name", DECIDE)
def test_what_is_no_number_has_no_gradient(name, n, at):
    decide, distance = DECIDE[name]
    for dtype in (torch.float32, torch.float64):
        x = numbers(n, dtype, at)
        with region_of(name):
            y = decide(x)
        assert torch.equal(y.detach(), decide(x.detach())) or bool(x.isnan().any())
        g = torch.randn(n, generator=torch.Generator().manual_seed(1), dtype=dtype)
        (found,) = torch.autograd.grad(y, x, g)
        d = distance(x.detach())
        inside = (d.abs() <= HALF) & x.detach().isfinite()
        jump = 2 if name == "sign" else 1
        slope = 1.0 if name.startswith("whole") else jump * 0.5 / HALF
        assert torch.equal(found, torch.where(inside, g * slope, 0))


@pytest.mark.parametrize("n", SIZES)
@pytest.mark.parametrize("name", DECIDE)
def test_what_is_written_afterwards_changes_nothing(name, n):
    decide, _ = DECIDE[name]
    leaf = numbers(n, torch.float32, {})

    def gradient(write: bool) -> torch.Tensor:
        x = leaf * 1
        with region_of(name):
            y = decide(x)
            if write:
                x.add_(100)
        if write:
            x.mul_(3)
        (found,) = torch.autograd.grad(y.sum(), leaf)
        return found

    assert torch.equal(gradient(True), gradient(False))


@pytest.mark.parametrize("n", (64, 65_536))
def test_a_mask_that_is_used_later_is_that_of_its_operand_then(n):
    leaf = numbers(n, torch.float32, {0: math.nan})
    for at in (0.0, 0.3):
        x = leaf * 1
        with region_of("gt"):
            mask = x > at
            x.add_(100)
            y = torch.where(mask, 2.0, 1.0)
        (found,) = torch.autograd.grad(y.sum(), leaf)
        inside = (leaf.detach() - torch.tensor(at)).abs() <= HALF
        assert torch.equal(found, torch.where(inside, 0.5 / HALF, 0.0))
