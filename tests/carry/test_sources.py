"""Where decisions are made, in every engine."""

from __future__ import annotations

import pytest
import torch

import sll
from oracles import grads, plain


def test_a_remainder_of_a_remainder():
    """Four sources in a row on one decision: the box oracle."""

    def f(x):
        half = torch.round(torch.floor(x + 0.9) * 2.6)
        return (torch.floor(x + 0.9) + half % 1.9).long().to(x.dtype)

    x = torch.tensor([0.1 + 0.012], dtype=torch.float64, requires_grad=True)
    want = (plain(f, x.detach() + 0.02) - plain(f, x.detach() - 0.02)) / 0.04
    for forward in ("linear", "hard"):
        with sll.linearize(0.02, forward=forward):
            y = f(x)
        assert want.item() != 0 and grads(y, x) == pytest.approx(want.tolist())


STEPPED = {  # a function, and how much it changes where its argument changes by one, in steps that are whole bands
    "round": (torch.round, 1.0),
    "round to a tenth": (lambda x: torch.round(x, decimals=1), 1.0),
    "floor": (torch.floor, 1.0),
    "ceil": (torch.ceil, 1.0),
    "trunc": (torch.trunc, 1.0),
    "frac": (torch.frac, 0.0),
    "remainder": (lambda x: torch.remainder(x, 100.0), 0.0),
    "remainder of a tensor": (lambda x: torch.remainder(x, torch.full_like(x, 0.1)), 0.0),
    "fmod": (lambda x: torch.fmod(x, 1.0), 0.0),
    "floor_divide": (lambda x: torch.floor_divide(x, 0.5), 2.0),
    "div, floor": (lambda x: torch.div(x, 2.0, rounding_mode="floor"), 0.5),
    "div, trunc": (lambda x: torch.div(x, 0.1, rounding_mode="trunc"), 10.0),
}


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64, torch.bfloat16])
@pytest.mark.parametrize("forward", ["linear", "straight-through"])
@pytest.mark.parametrize("name", STEPPED)
def test_jumps_are_known_where_floats_are_steps_apart(name, forward, dtype):
    """There a difference of two neighbours says nothing: 7e7 - 1 is 7e7."""
    f, slope = STEPPED[name]
    large = 8 / torch.finfo(torch.promote_types(dtype, torch.float32)).eps
    x = torch.tensor([large, -3 * large, 5.3 * large, 1e20], dtype=dtype, requires_grad=True)
    with sll.linearize(1e3, forward=forward):
        y = f(x)
    (found,) = torch.autograd.grad(y.float().sum(), x)
    assert found.tolist() == pytest.approx([slope] * 4, abs=0.01), f(x)


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16, torch.float16])
@pytest.mark.parametrize("forward", ["linear", "straight-through"])
def test_casts_are_known_where_floats_are_steps_apart(forward, dtype):
    large = min(8 / torch.finfo(torch.float32).eps, torch.finfo(dtype).max)
    x = torch.tensor([large, -large / 3, large / 7, 200.0], dtype=dtype, requires_grad=True)
    with sll.linearize(0.5, forward=forward):
        total = x.long().double().sum()
    assert torch.autograd.grad(total, x)[0].tolist() == [1.0] * 4
