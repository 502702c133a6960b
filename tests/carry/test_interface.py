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


CONSTANTS = {
    "where": lambda x, m, n, c: torch.where(m, c["floats"], c["one"]),
    "masked_fill": lambda x, m, n, c: c["floats"].masked_fill(m, 1.0),
    "lookup": lambda x, m, n, c: c["floats"][n],
    "rows of a table": lambda x, m, n, c: c["table"][n],
    "one row of a table": lambda x, m, n, c: c["table"][x.argmax()],
    "gather": lambda x, m, n, c: c["floats"].gather(0, n),
    "selection": lambda x, m, n, c: c["floats"][m].sum(),
    "integers": lambda x, m, n, c: torch.cat([n + c["places"], n.clamp(max=c["places"])]),
    "integers compared": lambda x, m, n, c: n > c["places"],
    "logic": lambda x, m, n, c: m & c["flags"],
    "comparison": lambda x, m, n, c: (x > c["floats"]) | (c["one"] > x),
    "maximum": lambda x, m, n, c: torch.where(x > c["floats"], x, c["floats"]),
    "searchsorted": lambda x, m, n, c: torch.searchsorted(c["sorted"], x),
    "remainder": lambda x, m, n, c: torch.remainder(x, c["one"]),
    "division": lambda x, m, n, c: torch.floor_divide(x, c["one"]),
    "choices": lambda x, m, n, c: x.argsort()[c["places"]],
    "written there": lambda x, m, n, c: torch.zeros(5, dtype=torch.long).add_(n).add_(c["places"]),
}


@pytest.mark.parametrize("eps", [1.0, "auto"])
@pytest.mark.parametrize("forward", ["linear", "hard", "straight-through"])
@pytest.mark.parametrize("name", CONSTANTS)
def test_tensors_of_inference_mode_are_constants_like_others(name, forward, eps):
    """They count no writes."""

    def made():
        floats = torch.tensor([0.3, -0.7, 1.1, -0.2, 0.6])
        table = torch.arange(15.0).view(5, 3).sin()
        found = {"floats": floats, "table": table, "places": torch.arange(5), "flags": floats > 0}
        return {**found, "sorted": floats.sort().values, "one": torch.tensor(1.0)}

    def run(constants):
        x = torch.tensor([0.4, -0.5, 0.9, 0.1, -1.3], requires_grad=True)
        with sll.linearize(eps, forward=forward, on_lost="ignore"):
            y = CONSTANTS[name](x, x > 0, (x > 0.2).long(), constants)
            total = (y.float() * 2.0).sum()
        return y, torch.autograd.grad(total, x, allow_unused=True)[0] if total.requires_grad else None

    with torch.inference_mode():
        constants = made()
    (value, gradient), (wanted, slope) = run(constants), run(made())
    assert torch.equal(value, wanted)
    assert gradient is slope is None or torch.equal(gradient, slope)
