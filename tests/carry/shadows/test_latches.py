"""Masks that change together: with decisions that depend on no other the chain rule is right, as flips are."""

import pytest
import torch
from torch.utils.checkpoint import checkpoint

import sll

SIGNAL = torch.randn(24, 30, generator=torch.Generator().manual_seed(0), dtype=torch.float64).cumsum(1) * 0.3


def latch(on, low, high):
    return (on | low) & ~high


def chosen(on, low, high):
    return torch.where(on, ~high, low)


def kept_by_and(on, low, high):
    return (on & ~high) | (low & ~high)


STATES = {"latch": latch, "where": chosen, "and": kept_by_and}
COUNTS = {
    "!=": lambda on, before: on != before,
    "^": lambda on, before: on ^ before,
    "the other way round": lambda on, before: before ^ on,
    "==": lambda on, before: on == before,
    "& ~": lambda on, before: on & ~before,
    "~ &": lambda on, before: ~on & before,
    "&": lambda on, before: on & before,
    "|": lambda on, before: on | before,
    "logical_xor of opposites": lambda on, before: torch.logical_xor(~on, ~before),
}


def simulated(limits, state, count):
    on, cost = torch.zeros(len(SIGNAL), dtype=torch.bool), torch.zeros(len(SIGNAL), dtype=limits.dtype)
    for now in SIGNAL.to(limits.dtype).unbind(1):
        before = on
        on = state(on, now < limits[0], now > limits[1])
        cost = cost + 0.7 * count(on, before) + 0.1 * now * on
    return cost.mean()


def gradient(program, forward, dtype=torch.float64):
    limits = torch.tensor([-0.3, 0.4], dtype=dtype, requires_grad=True)
    with sll.linearize(0.05, forward=forward):
        program(limits).backward()
    return limits.grad


@pytest.mark.parametrize("count", COUNTS)
@pytest.mark.parametrize("state", STATES)
def test_a_change_that_lasts_is_counted_once(state, count):
    program = lambda limits: simulated(limits, STATES[state], COUNTS[count])
    torch.testing.assert_close(gradient(program, "straight-through"), gradient(program, "hard"))


def test_masks_that_share_nothing_have_the_product_rule():
    x = torch.tensor([0.02, -0.03, 0.04], requires_grad=True)
    with sll.linearize(0.1, forward="straight-through"):
        ((x > 0) != (x.flip(0) > 0)).float().sum().backward()
    slope, m = 1 / 0.2, (x > 0).float()
    wanted = slope * (1 - 2 * m.flip(0)) * 2
    torch.testing.assert_close(x.grad, wanted)


def test_in_a_checkpoint():
    program = lambda limits: simulated(limits, latch, COUNTS["!="])
    again = lambda limits: checkpoint(program, limits, use_reentrant=False)
    torch.testing.assert_close(gradient(again, "straight-through"), gradient(program, "straight-through"))


@pytest.mark.slow
def test_compiled():
    program = lambda limits: simulated(limits, latch, COUNTS["!="])
    wanted = gradient(program, "straight-through", torch.float32)
    torch.testing.assert_close(
        gradient(torch.compile(program, backend="aot_eager"), "straight-through", torch.float32), wanted
    )


def test_vmapped():
    program = lambda limits: simulated(limits, latch, COUNTS["!="])
    limits = torch.tensor([[-0.3, 0.4], [-0.1, 0.2]], dtype=torch.float64)
    with sll.linearize(0.05, forward="straight-through"):
        found = torch.func.vmap(torch.func.grad(program))(limits)
        each = torch.stack([torch.func.grad(program)(row) for row in limits])
    torch.testing.assert_close(found, each)
    torch.testing.assert_close(each[0], gradient(program, "straight-through"))
