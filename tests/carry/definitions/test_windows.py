"""Where a window has its maximum."""

from __future__ import annotations

import pytest
import torch
import torch.nn.functional as F

import sll
from defined import MODES, clear_path, gradient, hold_the_line_integral, path, same_as_without, weighed
from sll._carry.definitions import windows

PROGRAMS = {
    "cummax": (lambda x: weighed(x.cummax(1).indices), (3, 4)),
    "cummin": (lambda x: weighed(torch.cummin(x, 0).indices), (3, 4)),
    "pool of one dimension": (lambda x: weighed(F.max_pool1d(x, 3, 2, 1, return_indices=True)[1]), (1, 2, 6)),
    "pool, padded": (
        lambda x: weighed(F.max_pool2d(x, (2, 3), 2, 1, ceil_mode=True, return_indices=True)[1]), (1, 3, 4),
    ),
    "pool of three": (lambda x: weighed(F.max_pool3d(x, 2, 1, return_indices=True)[1]), (1, 2, 3, 2)),
    "adaptive": (lambda x: weighed(F.adaptive_max_pool2d(x, (2, 3), return_indices=True)[1]), (1, 3, 4)),
    "unpool": (lambda x: weighed(F.max_unpool2d(*F.max_pool2d(x, 2, return_indices=True), 2)), (1, 1, 4, 4)),
    "mode": (lambda x: weighed(x.mode(-1).indices) + weighed(x.mode(0).values), (3, 4)),
}  # fmt: skip


@pytest.mark.parametrize("name", PROGRAMS)
def test_line_integral(name):
    hold_the_line_integral(*PROGRAMS[name])


@pytest.mark.parametrize("name", list(PROGRAMS)[:-2])  # (the others have values, too)
def test_one_open_decision_has_its_difference(name):
    """In every mode, just before the first jump."""
    program, shape = PROGRAMS[name]
    a, b = clear_path(program, shape, 0.02)
    low, high = 0.0, 1.0
    start = program(a)
    for _ in range(40):
        middle = (low + high) / 2
        changed = (program(torch.lerp(a, b, middle)) - start).abs() > 1e-3
        low, high = (low, middle) if changed else (middle, high)
    at = torch.lerp(a, b, low)
    found = {forward: gradient(program, at, 0.02, forward) for forward in MODES}
    assert all(lost == [] for _, lost in found.values())
    assert all(g.abs().max() > 1 for g, _ in found.values())


TIED = torch.randn(1, 2, 6, 7, generator=torch.Generator().manual_seed(0)).round()


@pytest.mark.parametrize("func", [
    lambda x: x.cummax(2), lambda x: x.cummin(-1), lambda x: F.max_pool2d(x, 3, 2, 1, return_indices=True),
    lambda x: F.max_pool2d(x, 2, 2, dilation=2, return_indices=True), lambda x: x.flatten(1).mode(-1),
    lambda x: F.adaptive_max_pool2d(x, (4, 3), return_indices=True), lambda x: x.relu().cummax(1),
])  # fmt: skip
def test_of_equals_the_one_that_torch_takes(func):
    assert same_as_without(func, TIED.clone().requires_grad_())


def test_windows_that_are_too_many_carry_nothing(monkeypatch):
    monkeypatch.setattr(windows, "MAX_ELEMENTS", 8)
    x = path(3, 4)[0]
    with sll.linearize(0.1, on_lost="error"):
        y = x.clone().requires_grad_().cummax(1)
    assert torch.equal(y.indices, x.cummax(1).indices)
