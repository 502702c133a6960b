"""``forward="hard"`` against an oracle that runs the hard program again with one decision the other way."""

from __future__ import annotations

import hypothesis.strategies as st
import pytest
import torch
from hypothesis import given, settings

import sll
from simulations import SIMULATIONS, measured

# --- the oracle: a program that asks `decide` for its decisions, which can be told to answer one of them otherwise ---


class Asked:
    """Answers ``x > threshold``; decision `flip`, element by element, the other way. Notes distances."""

    def __init__(self, eps, flip=None):
        self.eps, self.flip = eps, flip
        self.slopes = []

    def __call__(self, x, threshold=0.0):
        mask = (x > threshold).detach()
        number = len(self.slopes)
        self.slopes.append(x - threshold)
        return ~mask if self.flip == number else mask


def brute_force(program, x, eps):
    """Of an elementwise program: its value, and slope times difference, summed over all open decisions."""
    leaf = x.clone().requires_grad_()
    asked = Asked(eps)
    value = program(leaf, asked)
    total = torch.zeros_like(x)
    if value.requires_grad:
        total += torch.autograd.grad(value.sum(), leaf, retain_graph=True, allow_unused=True)[0]
    for number, distance in enumerate(asked.slopes):
        other = program(x, Asked(eps, number))
        if not distance.requires_grad:
            continue
        open_ = distance.detach().abs() <= eps
        up = torch.where(distance.detach() <= 0, 1.0, -1.0)
        weight = torch.where(open_, up * (other - value.detach()) / (2 * eps), 0)
        total += torch.autograd.grad((weight * distance).sum(), leaf, retain_graph=True)[0]
    return value.detach(), total


def in_region(program, x, eps):
    leaf = x.clone().requires_grad_()
    with sll.linearize(eps, forward="hard", on_lost="error"):
        value = program(leaf, lambda v, threshold=0.0: v > threshold)
        (g,) = torch.autograd.grad(value.sum(), leaf, allow_unused=True)
    return value.detach(), torch.zeros_like(x) if g is None else g


def hysteresis(x, decide):
    on = torch.zeros(x.shape, dtype=torch.bool)
    inside, total = x, torch.zeros_like(x)
    for step in range(6):
        on = (on | ~decide(inside, 0.1)) & ~decide(inside, 0.6)
        inside = inside + 0.3 * (step * 0.1 - inside) + 0.5 * on
        total = total + on * inside
    return total


def integrate_and_fire(x, decide):
    membrane, total = torch.zeros_like(x), torch.zeros_like(x)
    for _ in range(8):
        membrane = 0.9 * membrane + x
        spike = decide(membrane, 0.7).to(x.dtype)
        membrane = membrane - spike
        total = total + spike * membrane.square()
    return total


PROGRAMS = {
    "one": lambda x, decide: decide(x).to(x.dtype),
    "shared": lambda x, decide: (lambda m: (m & ~m).to(x.dtype) + (m | ~m) + torch.where(m, x, 2 * x))(decide(x)),
    "nested": lambda x, decide: decide(decide(x, 0.3).to(x.dtype) * 0.4 + x, 0.2).to(x.dtype) * 3,
    "nested twice": lambda x, decide: decide(decide(decide(x) * 0.5 + x, 0.4) * 0.3 + x, 0.1).to(x.dtype).exp(),
    "five decisions": lambda x, decide: sum(2.0**i * decide(x, 0.05 * i).to(x.dtype) for i in range(5)),
    "product": lambda x, decide: (1 + decide(x)) * (2 + decide(x, 0.1)) * x,
    "hysteresis": hysteresis,
    "integrate and fire": integrate_and_fire,
    "in place": lambda x, decide: (lambda y: y.mul_(3).add_(x).masked_fill_(decide(x, 0.2), 4.0))(
        decide(x).to(x.dtype)
    ),
    "where": lambda x, decide: torch.where(decide(x), torch.where(decide(x, 0.2), x, -x), torch.sin(x)),
    "turned round": lambda x, decide: (lambda m: m.flip(0).flip(0) ^ m)(decide(x)).to(x.dtype) + decide(x, 0.1),
}


@pytest.mark.parametrize("eps", [0.01, 0.1, 1.0])
@pytest.mark.parametrize("name", PROGRAMS)
def test_brute_force(name, eps):
    x = torch.linspace(-0.9, 1.1, 401, dtype=torch.float64) + 1e-4
    want, slope = brute_force(PROGRAMS[name], x, eps)
    value, got = in_region(PROGRAMS[name], x, eps)
    assert torch.equal(value, want)
    torch.testing.assert_close(got, slope, rtol=1e-9, atol=1e-9 / eps)


@st.composite
def layouts(draw):
    shape = draw(st.lists(st.integers(0, 4), min_size=1, max_size=3))
    dtype = draw(st.sampled_from([torch.float64, torch.float32]))
    x = torch.rand(shape, generator=torch.manual_seed(draw(st.integers(0, 99))), dtype=dtype) * 2 - 1
    kind = draw(st.sampled_from(["plain", "transposed", "strided", "expanded"]))
    if kind == "transposed":
        x = x.transpose(0, -1)
    elif kind == "strided":
        x = torch.stack([x, x], -1)[..., 0]
    return x.unsqueeze(0).expand(2, *x.shape) if kind == "expanded" else x


@pytest.mark.parametrize("name", PROGRAMS)
@settings(max_examples=15, deadline=None)
@given(x=layouts(), eps=st.sampled_from([0.01, 0.3, 2.0]))
def test_shapes_strides_dtypes(name, x, eps):
    want, slope = brute_force(PROGRAMS[name], x, eps)
    value, got = in_region(PROGRAMS[name], x, eps)
    assert torch.equal(value, want) and value.dtype == x.dtype
    torch.testing.assert_close(got, slope, rtol=2e-4, atol=1e-4 / eps)


# --- feedback: the integral of the gradient is the difference of the hard program ---


def heater(weather):
    inside = torch.full(weather.shape[:1], 2.5, dtype=weather.dtype)
    on, total = torch.zeros(weather.shape[0], dtype=torch.bool), torch.zeros_like(inside)
    for outdoors in weather.unbind(1):
        on = (on | (inside < 2)) & ~(inside > 4)
        inside = inside + 0.1 * (outdoors - inside) + 4 * on
        total = total + on
    return total


@pytest.mark.parametrize("eps", [0.01, 0.003])
def test_hysteresis(eps):
    g = torch.Generator().manual_seed(0)
    a, b = (torch.randn(24, generator=g, dtype=torch.float64) * 3 - 6 for _ in range(2))
    want = float(heater(b[None]) - heater(a[None]))
    assert want == -1
    n = 40_000
    t = (torch.arange(n, dtype=torch.float64) + torch.rand(n, generator=g, dtype=torch.float64)) / n
    x = (a + (b - a) * t[:, None]).requires_grad_()
    with sll.linearize(eps, forward="hard"):
        y = heater(x)
    slopes = (torch.autograd.grad(y.sum(), x)[0] * (b - a)).sum(1)
    assert abs(float(slopes.mean()) - want) < 3 * float(slopes.std()) / n**0.5


@pytest.mark.slow
@pytest.mark.parametrize("eps", [0.01, 0.003])
@pytest.mark.parametrize("name", SIMULATIONS)
def test_simulations_with_feedback(name, eps):
    """Four paths together: where two decisions are open at once, one path may be off by what they do to each other."""
    found = torch.tensor([measured(name, seed, eps, 20_000) for seed in range(4)], dtype=torch.float64)
    got, error, want = found.T
    assert (want != 0).all()
    assert abs(float((got - want).sum())) < 3 * float(error.square().sum().sqrt())
    assert ((got - want).abs() < 3 * error).sum() >= 3


@pytest.mark.parametrize("then", [lambda m: m & True, lambda m: m.double(), lambda m: m.sum()])
def test_a_rule_that_is_asked_at_once_knows_of_writes_that_nobody_saw(then):
    x = torch.tensor([0.001, 1.0], dtype=torch.float64, requires_grad=True)
    with sll.linearize(0.01, forward="hard", on_lost="ignore") as region:
        mask = x > 0
        with torch._C.DisableTorchFunction():
            mask.logical_not_()
        found = then(mask)
    assert torch.equal(found, then(torch.tensor([False, False]))) and not found.requires_grad
    assert sum(region.report().lost.values()) == 1
