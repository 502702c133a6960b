"""Comparisons whose sides meet at the boundary. Independent: the plain program's gradient, which is right there."""

from __future__ import annotations

import hypothesis.strategies as st
import pytest
import torch
from hypothesis import given, settings
from torch.utils.checkpoint import checkpoint

import sll
from sll._ops.measured import ENOUGH, Sides

MANY = 400


def numbers(seed, *shape, dtype=torch.float64):
    x = torch.randn(shape or (MANY,), generator=torch.Generator().manual_seed(seed), dtype=torch.float64)
    return x.to(dtype).requires_grad_()


def weighted(y, seed):
    return (y * numbers(1000 + seed, *y.shape).detach().to(y.dtype)).sum()


def gradient(f, x, seed, region=None):
    x = x.detach().clone().requires_grad_()
    if region is None:
        y = f(x)
    else:
        with region:
            y = f(x)
    if region is None and not y.requires_grad:
        return y, torch.zeros_like(x)
    return y.detach(), torch.autograd.grad(weighted(y, seed), x)[0]


def trained(f, steps=12, dtype=torch.float64, region=None, scale=1.0):
    """The region after so many steps, and what it and the plain program have in the last."""
    region = region or sll.linearize("auto", on_lost="ignore")
    for seed in range(steps):
        x = (scale * numbers(seed, dtype=dtype)).detach()
        inside = gradient(f, x, seed, region)
    return region, inside, gradient(f, x, seed)


def huber(r):
    return torch.where(r.abs() < 0.5, r.square() / 2, 0.5 * (r.abs() - 0.25))


def guarded(r):
    """Smooth to zero at the cutoff."""
    return torch.where(r < 1.0, (1.0 - r).square() * torch.exp(r), 0.0)


def both_ways(left):
    """What is missing, and what is left: of one mask."""
    none = left < 0
    return torch.where(none, -3 * left, 0.0) + torch.where(none, 0.0, left)


def cancelled(x):
    """Each of the two jumps; their sum does not."""
    above = x > 0
    return torch.where(above, 1.0 + x, 0.0) + torch.where(above, -1.0, 0.0)


KINKS = {
    "leaky": lambda x: torch.where(x > 0, x, 0.1 * x),
    "below": lambda x: torch.where(0 >= x, 0.1 * x, x),
    "mask times": lambda x: x * (x > 0),
    "float mask times": lambda x: (x > 0).to(x.dtype) * x,
    "filled": lambda x: x.masked_fill(x < 0, 0.0),
    "absolute": lambda x: torch.where(x < 0, -x, x),
    "maximum": lambda x: torch.where(x > x.roll(1), x, x.roll(1)),
    "not": lambda x: torch.where(~(x > 0.25), 0.25, x),
    "huber": huber,
    "guarded": guarded,
    "both ways": both_ways,
    "cancelled": cancelled,
    "where method": lambda x: x.where(x > -0.3, -0.3),
    "absolute by sign": lambda x: x * torch.sign(x),
    "relu by sign": lambda x: x * (torch.sign(x) + 1) / 2,
    "passed": lambda x: x * (torch.bucketize(x, torch.zeros(1, dtype=x.dtype)) > 0),
    "logic": lambda x: torch.where((x > 0) & (x.detach() < 9), x, 0.0),
}
JUMPS = {
    "count": lambda x: (x > 0).to(x.dtype),
    "sign": torch.sign,
    "passed": lambda x: torch.bucketize(x, torch.zeros(1, dtype=x.dtype)).to(x.dtype),
    "a step and a slope": lambda x: torch.where(x > 0, 1.0 + x, 0.0),
    "a small step and a slope": lambda x: torch.where(x > 0, 0.3 + x, 0.0),
    "another slope, not here": lambda x: torch.where(x > 0.5, x, 0.1 * x),
    "a kink and a count": lambda x: (above := x > 0) * x + above,
    "chosen": lambda x: torch.where(x > 0, x.roll(1), x.roll(2)),
    "sign of another": lambda x: x.roll(1) * (x > 0),
}


@pytest.mark.parametrize("name", KINKS)
@pytest.mark.parametrize("steps", [1, 2, 12])
def test_a_kink_has_the_gradient_of_the_program(name, steps):
    """From the first step on, if there are numbers enough."""
    _, inside, plain = trained(KINKS[name], steps)
    assert torch.equal(inside[0], plain[0])
    torch.testing.assert_close(inside[1], plain[1], rtol=1e-12, atol=1e-12)


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16, torch.float16])
def test_types(dtype):
    for f in (KINKS["leaky"], KINKS["mask times"], KINKS["filled"]):
        _, inside, plain = trained(f, dtype=dtype)
        assert torch.equal(inside[1], plain[1])
    _, inside, plain = trained(JUMPS["count"], 12, dtype, sll.linearize("auto"))
    assert inside[1].count_nonzero() > MANY / 2


@pytest.mark.parametrize("name", JUMPS)
def test_a_jump_keeps_its_ramp(name):
    region, inside, _ = trained(JUMPS[name])
    (half,) = region.policies()[0].kept.values()
    x = numbers(11).detach()
    fixed = gradient(JUMPS[name], x, 11, sll.linearize(half, forward="straight-through"))
    torch.testing.assert_close(inside[1], fixed[1])


@given(st.floats(-9, 9), st.sampled_from(sorted(KINKS)), st.sampled_from(sorted(JUMPS)))
@settings(max_examples=25, deadline=None)
def test_units_do_not_matter(power, kink, jump):
    """Of programs that are the same in any unit: a kink stays one, and a jump of a share of the scale a jump."""
    scale = 10.0**power
    for f, smooth in ((KINKS[kink], True), (JUMPS[jump], False)):
        region, *_ = trained(lambda x, f=f: f(x / scale), 11, scale=scale)
        assert bool(region.policies()[0].meeting) is smooth


def step(x):
    return (x > 0).to(x.dtype)


def test_a_function_that_several_call_keeps_its_ramp_if_one_of_them_needs_it():
    """Nine of ten are kinks: by the mean of the line alone the tenth would lose its gradient."""
    region = sll.linearize("auto")
    for seed in range(12):
        xs = [numbers(100 * seed + i).detach().requires_grad_() for i in range(10)]
        with region:
            kinks = sum(weighted(x * step(x), seed) for x in xs[1:])
            total = weighted(step(xs[0]), seed) + kinks
        found, *_ = torch.autograd.grad(total, xs)
    assert found.count_nonzero() > MANY / 2 and not region.policies()[0].meeting


def test_few_numbers_tell_nothing():
    region = sll.linearize("auto")
    for seed in range(12):
        x = numbers(seed, ENOUGH).detach()
        _, inside = gradient(KINKS["leaky"], x, seed, region)
    assert not region.policies()[0].meeting
    assert not torch.equal(inside, gradient(KINKS["leaky"], x, seed)[1])


def test_a_boundary_that_is_learned_keeps_its_ramp():
    """At 0 ``where(|w| > t, w, 0)`` is continuous, and t is to find that it need not be."""
    region, threshold = sll.linearize("auto"), torch.zeros((), dtype=torch.float64, requires_grad=True)
    for seed in range(12):
        w = numbers(seed)
        with region:
            pruned = torch.where(w.abs() > threshold, w, 0.0)
        (found,) = torch.autograd.grad((pruned * w.detach()).sum(), threshold)
    assert found != 0 and not region.policies()[0].meeting


@pytest.mark.parametrize("forward", ["linear", "hard", "straight-through"])
def test_a_width_of_ones_own_means_what_it_says(forward):
    region = sll.linearize(0.5, forward=forward)
    _, inside, plain = trained(KINKS["leaky"], 12, region=region)
    assert not torch.allclose(inside[1], plain[1])


def test_loops_and_checkpoints():
    def stock(left):
        for t in range(5):
            left = left + 0.3 * t - 0.5
            left = torch.where(left < 0, 0.0, left)
        return left

    _, inside, plain = trained(stock)
    torch.testing.assert_close(inside[1], plain[1])
    _, inside, plain = trained(lambda x: checkpoint(stock, x, use_reentrant=False))
    torch.testing.assert_close(inside[1], plain[1])


def test_a_memory_that_was_saved_knows(tmp_path):
    region, *_ = trained(KINKS["leaky"])
    first, later = region.policies()[0], sll.Auto()
    assert len(first.meeting) == 1
    torch.save(first.state_dict(), tmp_path / "auto.pt")
    later.load_state_dict(torch.load(tmp_path / "auto.pt", weights_only=True))
    assert later.meeting == first.meeting
    _, inside, plain = trained(KINKS["leaky"], 1, region=sll.linearize(later))
    assert torch.equal(inside[1], plain[1])
    old = {name: first.state_dict()[name] for name in ("kept", "measured")}  # of a version that did not look
    later.load_state_dict(old)
    assert not later.meeting
    first.reset()
    assert not first.meeting and not first._sides


@pytest.mark.slow
@pytest.mark.parametrize("name", ["leaky", "mask times", "filled", "absolute by sign", "huber"])
def test_compiled_code_knows_what_was_measured(name):
    f = sll.compile(KINKS[name], "auto", backend="aot_eager")
    for seed in range(13):
        x = numbers(seed).detach()
        inside, plain = gradient(f, x, seed), gradient(KINKS[name], x, seed)
    assert torch.equal(inside[0], plain[0])
    torch.testing.assert_close(inside[1], plain[1], rtol=1e-12, atol=1e-12)


@pytest.mark.parametrize("many", [1, 3, 12])
@pytest.mark.parametrize("name", ["leaky", "mask times", "filled", "absolute by sign", "huber"])
def test_in_transforms(name, many):
    """Measured there, or (`many` steps) in eager mode before."""
    f, region = KINKS[name], sll.linearize("auto", on_lost="ignore")
    trained(f, many, region=region)
    for seed in range(many, 13):
        x, weights = numbers(seed).detach(), numbers(1000 + seed).detach()
        rows = x.clone().view(4, -1).requires_grad_()
        with region:
            y = torch.vmap(f)(rows).view(-1)
            found = torch.func.grad(lambda x, weights=weights: (f(x) * weights).sum())(x)
        batched = torch.autograd.grad(weighted(y, seed), rows)[0].view(-1)
    plain = gradient(f, x, seed)[1]
    torch.testing.assert_close(batched, plain, rtol=1e-12, atol=1e-12)
    torch.testing.assert_close(found, plain, rtol=1e-12, atol=1e-12)


def test_a_trace_says_so():
    auto = sll.Auto()
    trained(KINKS["leaky"], region=sll.linearize(auto))
    with sll.linearize(auto, trace=True) as traced:
        x = numbers(50)
        weighted(KINKS["leaky"](x), 50).backward()
    (row,) = [row for row in traced.report().rows if row.site.op == "gt"]
    assert "meets at the boundary" in row.why
    assert torch.equal(x.grad, gradient(KINKS["leaky"], x, 50)[1])


def test_the_same_data_again_are_no_more_data():
    sides = Sides()
    d = torch.linspace(0.01, 1.0, 40, dtype=torch.float64)
    for _ in range(50):
        sides.add(0, d.clone(), d, 1.0)
    assert sides.of[0][1] > 100 and not sides.meet
    many = Sides()
    d = torch.linspace(0.001, 1.0, 400, dtype=torch.float64)
    many.add(0, d.clone(), d, 1.0)
    assert many.meet
    jump = Sides()
    jump.add(0, 0.2 + d, d, 1.0)
    assert not jump.meet
