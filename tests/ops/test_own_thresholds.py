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
    assert apart("ge", at, t, lambda: at >= t)[1] is t


def difference_and_integral(f, start, end, forward, many=1500):
    start, end, total = torch.tensor(start, dtype=torch.float64), torch.tensor(end, dtype=torch.float64), 0.0
    for k in range(many):
        x = (start + (k + 0.5) / many * (end - start)).requires_grad_()
        with sll.linearize(0.05, forward=forward):
            y = f(x)
        if y.requires_grad:
            total += float(torch.autograd.grad(y, x)[0] @ (end - start)) / many
    return float(f(end) - f(start)), total


V = torch.tensor([1.0, 2.0, 4.0, -3.0], dtype=torch.float64)
SCALED = {
    "twice": (lambda x: ((x > 2 * x.max() - 2.1) * V).sum(), [0.3, 0.4, 0.5, 2.2], [0.3, 0.4, 0.5, 1.9]),
    "half": (lambda x: ((x > 0.5 * x.max()) * V).sum(), [-0.9, -0.8, -0.7, -0.3], [-0.9, -0.8, -0.7, 0.3]),
    "median": (lambda x: ((x > 2 * x.median()) * V).sum(), [-0.9, -0.3, 0.9, 1.7], [-0.9, 0.3, 0.9, 1.7]),
    "squared": (lambda x: ((x >= x.max() ** 2) * V).sum(), [0.3, 0.1, 0.2, 0.8], [0.3, 0.1, 0.2, 1.2]),
    "moved": (lambda x: ((x >= x.max() / 2 + 0.3) * V).sum(), [-0.3, -0.1, -0.2, 0.1], [-0.3, -0.1, -0.2, 0.9]),
}


@pytest.mark.slow
@pytest.mark.parametrize("forward", ["hard", "linear"])
@pytest.mark.parametrize("name", SCALED)
def test_a_threshold_of_another_scale_has_a_boundary_of_its_own(name, forward):
    right, found = difference_and_integral(*SCALED[name], forward)
    assert right != 0 and found == pytest.approx(right, rel=0.02)


@pytest.mark.parametrize("forward", MODES)
def test_another_row_of_the_same_numbers_is_another_row(forward):
    """What differs is a number that was added: autograd keeps none of it."""
    weights, first, second = torch.tensor([0, 0, 0, -3.0]), torch.zeros(4), torch.tensor([-0.6, -2.0, 0.05, -2.0])
    found = []
    for other in (lambda s: s + second, lambda s: torch.sub(s, -second)):
        s = torch.tensor([0.9, 0.1, 0.5, 0.49], requires_grad=True)
        with sll.linearize(0.2, forward=forward):
            y = ((s + first >= other(s).max()) * weights).sum()
        found.append(torch.autograd.grad(y, s)[0].tolist())
    assert found[0] == found[1] == pytest.approx([0, 0, 7.5, -7.5])


@pytest.mark.parametrize("forward", MODES)
def test_nothing_of_the_program_is_called_before_its_backward(forward):
    x, seen = torch.randn(3, 5, generator=torch.Generator().manual_seed(0)).requires_grad_(), []
    with sll.linearize(0.1, forward=forward):
        best = x.max(1, keepdim=True).values
        best.register_hook(seen.append)
        best.retain_grad()
        _ = x >= best - 0.05
    assert not seen and best.grad is None


@pytest.mark.parametrize("forward", MODES)
def test_a_graph_that_is_gone_or_written_to_is_no_error(forward):
    x = torch.randn(3, 5, generator=torch.Generator().manual_seed(0)).requires_grad_()
    best = x.max(1, keepdim=True).values
    best.sum().backward()
    times = torch.ones(1, 1, requires_grad=True)
    with sll.linearize(0.1, forward=forward):
        assert torch.equal(x >= best, x.detach() >= best.detach())
        scaled = x.max(1, keepdim=True).values * times
        with torch.no_grad():
            times.add_(0.1)
        assert torch.equal(x >= scaled, x.detach() >= scaled.detach())
