"""What a region asks of any engine: results keep nothing alive, and feedback costs as many steps as it has."""

from __future__ import annotations

import gc
import time
import weakref

import pytest
import torch

import sll


@pytest.mark.usefixtures("loops_everywhere")
@pytest.mark.parametrize("forward", ["linear", "hard", "straight-through"])
@pytest.mark.parametrize(
    "f",
    [
        torch.sign,
        torch.round,
        torch.trunc,
        lambda x: x > 0,
        lambda x: (x > 0).float(),
        lambda x: torch.where((x > 0) & (x < 1), x, 0.0),
        lambda x: torch.where(torch.sign(x) > 0, x, 0.0),
        lambda x: torch.round(x).long(),
        lambda x: x.long().float(),
    ],
)
def test_no_cycles_keep_memory(f, forward):
    gc.disable()
    try:
        with sll.linearize(0.1, forward=forward):
            x = torch.randn(50, requires_grad=True) * 2
            y = f(x)
            made = weakref.ref(x.untyped_storage()), weakref.ref(x)
            del x, y
        assert made[1]() is None
    finally:
        gc.enable()


@pytest.mark.parametrize("forward", ["linear", "hard", "straight-through"])
def test_feedback_costs_as_many_steps_as_it_has(forward):
    """A hysteresis decides on what it decided before; 24 steps once took hours, 12 took eight seconds."""
    low = torch.tensor(2.0, requires_grad=True)
    noise = torch.randn(24, 16, generator=torch.Generator().manual_seed(0))
    start = time.perf_counter()
    with sll.linearize(0.3, forward=forward, on_lost="ignore"):
        x, on, cost = torch.full((16,), 2.0), torch.zeros(16, dtype=torch.bool), torch.zeros(16)
        for kick in noise:
            on = (on | (x < low)) & ~(x > low + 2)
            x = x + 0.1 * (kick - x) + 0.8 * on
            cost = cost + on
        cost.mean().backward()
    assert low.grad.isfinite() and low.grad != 0
    assert time.perf_counter() - start < 30


@pytest.mark.parametrize("forward", ["linear", "hard", "straight-through"])
def test_feedback_keeps_nothing_alive(forward):
    """Without the cyclic garbage collector, which knows nothing of GPU memory."""

    def alive():
        return sum(type(x) is torch.Tensor and x.shape == (1013,) for x in gc.get_objects())

    def run():
        low = torch.tensor(2.0, requires_grad=True)
        with sll.linearize(0.3, forward=forward, on_lost="ignore"):
            x, on = torch.full((1013,), 2.0), torch.zeros(1013, dtype=torch.bool)
            for step in range(4):
                on = (on | (x < low)) & ~(x > low + 2)
                x = x + 0.1 * (step - x) + 0.8 * on
            x.mean().backward()

    run()
    gc.collect()
    gc.disable()
    try:
        before = alive()
        for _ in range(5):
            run()
        assert alive() <= before + 2
    finally:
        gc.enable()
