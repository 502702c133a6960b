"""Comparisons with an element of the row itself: the integral of the gradient is what the program changes by."""

from __future__ import annotations

import pytest
import torch

import sll
from sll._ops.own_thresholds import apart

MODES = ("straight-through", "hard", "linear")
W = torch.tensor([1.0, 3.0, 7.0, 2.0], dtype=torch.float64)
ROWS = W.view(2, 2)
PROGRAMS = {
    "the best, with room": lambda x: (x >= x.max() - 1e-6) * W,
    "a copy": lambda x: (x.clone() >= x.topk(2).values[..., -1:]) * W,
    "above": lambda x: (x > x.topk(2).values[1] + 1e-6) * W,
    "median": lambda x: (x > x.quantile(0.5)) * W,
    "a quantile that is an element": lambda x: (x > x.quantile(1 / 3)) * W,
    "computed alike": lambda x: (x.abs() >= x.abs().topk(2).values.min() - 1e-6) * W,
    "threshold first": lambda x: (x.sort().values[2] + 1e-6 >= x) * W,
    "a share of it": lambda x: (x.exp() >= x.exp().max() * 0.9) * W,
    "rows": lambda x: (x.view(2, 2) >= x.view(2, 2).amax(1, keepdim=True) - 1e-6) * ROWS,
    "columns": lambda x: (x.view(2, 2) > x.view(2, 2).min(0).values + 1e-6) * ROWS,
}


@pytest.mark.parametrize("forward", MODES)
@pytest.mark.parametrize("name", PROGRAMS)
def test_line_integral(name, forward):
    program, region = PROGRAMS[name], sll.linearize(0.1, forward=forward)
    start = torch.tensor([0.3, -1.1, 1.4, 0.8], dtype=torch.float64)
    end = torch.tensor([1.2, 0.4, -0.7, -0.3], dtype=torch.float64)
    total, many = 0.0, 240
    for step in range(many):
        x = (start + (end - start) * (step + 0.5) / many).requires_grad_()
        with region:
            y = program(x).sum()
        if y.requires_grad:
            total += float(torch.autograd.grad(y, x)[0] @ (end - start)) / many
    assert total == pytest.approx(float((program(end) - program(start)).sum()), abs=0.35)


@pytest.mark.parametrize("dtype", [torch.float64, torch.float32, torch.bfloat16])
@pytest.mark.parametrize("forward", ["straight-through", "hard"])
def test_values_are_the_programs(forward, dtype):
    x = torch.randn(5, 8, generator=torch.Generator().manual_seed(0)).to(dtype).requires_grad_()
    for program in (
        lambda x: x >= x.amax(1, keepdim=True) * 0.7 - 1e-3,
        lambda x: x < x.median(0).values + 0.1,
        lambda x: x.kthvalue(1, keepdim=True).values >= x,
    ):
        with sll.linearize(0.1, forward=forward):
            found = program(x)
        assert torch.equal(found, program(x))


def test_the_one_at_the_threshold_leaves_when_the_next_one_passes():
    at = torch.tensor([0.02, 0.05, 0.12], dtype=torch.float64)
    for forward in MODES:
        for room in (0.0, 1e-9):
            x = at.clone().requires_grad_()
            with sll.linearize(0.1, forward=forward):
                y = ((x >= x.max() - room) * torch.arange(3.0)).sum()
            assert torch.autograd.grad(y, x)[0].tolist() == pytest.approx([0, -5, 5])


@pytest.mark.parametrize("threshold", [
    lambda x: x.detach().max(), lambda x: x.mean(), lambda x: x.max() + x.min(), lambda x: (2 * x).max(),
    lambda x: -x.max(), lambda x: x.roll(1).max(), lambda x: x.max() + x.sum() * 0.1, lambda x: x.quantile(0.5),
    lambda x: x.max().expand(2, 1),
])  # fmt: skip
def test_other_thresholds_are_as_they_are(threshold):
    x = torch.tensor([0.3, 0.1, 0.7, 0.2], requires_grad=True)
    t = threshold(x)
    at = x.expand(2, 4) if t.dim() > 1 else x
    assert apart("ge", at, t, at >= t)[1] is t
