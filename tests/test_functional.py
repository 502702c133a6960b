"""The explicit functions against the formulas of their docstrings, torch.func, and dense references."""

from __future__ import annotations

import hypothesis.strategies as st
import pytest
import torch
from hypothesis import given, settings
from torch.func import grad, hessian, jacfwd, jacrev, jvp, vmap

import sll

ELEMENTWISE = {
    "heaviside": (sll.heaviside, lambda x: torch.heaviside(x, x.new_tensor(0.5))),
    "sign": (sll.sign, torch.sign),
    "round": (sll.round, torch.round),
    "floor": (sll.floor, torch.floor),
    "ceil": (sll.ceil, torch.ceil),
    "trunc": (sll.trunc, torch.trunc),
    "threshold": (lambda x, eps, **k: sll.threshold(x, 0.3, eps, **k), lambda x: (x > 0.3).to(x.dtype)),
}


def window_average(hard, x, eps, n=20_001):
    """``1/(2 eps) * integral of hard(x + u)``, by the midpoint rule: where the ramps come from."""
    u = (torch.arange(n, dtype=torch.float64) + 0.5) / n * 2 * eps - eps
    return hard(x[:, None] + u).mean(1)


@pytest.mark.parametrize("name", ELEMENTWISE)
def test_linear_is_the_window_average(name):
    f, hard = ELEMENTWISE[name]
    x = torch.linspace(-2.2, 2.2, 397, dtype=torch.float64) + 1e-5
    torch.testing.assert_close(f(x, 0.2), window_average(hard, x, 0.2), atol=2e-4, rtol=0)


@pytest.mark.parametrize("name", ELEMENTWISE)
@pytest.mark.parametrize("dtype", [torch.float64, torch.float32, torch.float16, torch.bfloat16], ids=str)
def test_forward_hard_and_outside(name, dtype):
    f, hard = ELEMENTWISE[name]
    x = torch.linspace(-2.21, 2.2, 100, dtype=torch.float64).to(dtype)
    assert torch.equal(f(x, 0.05, forward="hard"), hard(x)) and f(x, 0.05).dtype == dtype
    assert torch.equal(f(x, 1e-6), hard(x))
    assert f(x[:0], 0.1).shape == (0,) and f(x[0], 0.1).shape == ()


@pytest.mark.parametrize("name", ELEMENTWISE)
def test_derivatives(name):
    f, _ = ELEMENTWISE[name]
    x = (torch.rand(57, generator=torch.Generator().manual_seed(0), dtype=torch.float64) * 4.4 - 2.2).requires_grad_()
    assert torch.autograd.gradcheck(lambda x: f(x, 0.1), x, check_forward_ad=True, check_batched_grad=True)
    assert torch.autograd.gradgradcheck(lambda x: f(x, 0.1) * x, x)
    d = x.detach()
    rows = vmap(grad(lambda v: f(v, 0.1)))(d)
    torch.testing.assert_close(jacrev(lambda v: f(v, 0.1))(d).diag(), rows)
    torch.testing.assert_close(jacfwd(lambda v: f(v, 0.1))(d).diag(), rows)
    torch.testing.assert_close(jvp(lambda v: f(v, 0.1), (d,), (torch.ones_like(d),))[1], rows)
    assert not hessian(lambda v: f(v, 0.1).sum())(d).any()
    hard = jacrev(lambda v: f(v, 0.1, forward="hard"))(d).diag()
    torch.testing.assert_close(hard, rows)


def test_ties_of_the_explicit_functions():
    z = torch.zeros(1)
    assert sll.heaviside(z).item() == 0.5 and sll.sign(z).item() == 0
    assert sll.round(torch.tensor([0.5, 1.5, 2.5])).tolist() == [0, 2, 2]
    assert sll.floor(torch.tensor([3.0])).item() == 3 and sll.ceil(torch.tensor([3.0])).item() == 3


@pytest.mark.parametrize("decimals", [-1, 0, 1, 2])
def test_round_decimals(decimals):
    step = 10.0**-decimals
    x = torch.linspace(-3 * step, 3 * step, 301, dtype=torch.float64, requires_grad=True)
    for eps in (0.1 * step, step):
        y = sll.round(x, eps, decimals=decimals)
        (g,) = torch.autograd.grad(y.sum(), x)
        width = min(eps, step / 2)
        distance = (x / step - x.detach().div(step).floor() - 0.5).abs() * step
        want = (distance <= width).double() * step / (2 * width)
        clear = (distance - width).abs() > 1e-9 * step
        torch.testing.assert_close(g[clear], want[clear])


def test_threshold_that_is_learned():
    x = torch.randn(50, dtype=torch.float64, requires_grad=True)
    t = torch.randn(3, 1, dtype=torch.float64, requires_grad=True)
    assert sll.threshold(x, t, 0.3).shape == (3, 50)
    assert torch.autograd.gradcheck(lambda x, t: sll.threshold(x, t, 0.3), (x, t))


def sparsemax_by_bisection(z, dim):
    low, high = z.amax(dim, keepdim=True) - 1, z.amax(dim, keepdim=True)
    for _ in range(80):
        middle = (low + high) / 2
        over = (z - middle).clamp(min=0).sum(dim, keepdim=True) > 1
        low, high = torch.where(over, middle, low), torch.where(over, high, middle)
    return (z - high).clamp(min=0)


@settings(max_examples=60, deadline=None)
@given(
    shape=st.lists(st.integers(1, 5), min_size=1, max_size=3),
    seed=st.integers(0, 999),
    eps=st.sampled_from([1e-2, 0.3, 5.0]),
    data=st.data(),
)
def test_argmax_is_sparsemax(shape, seed, eps, data):
    x = torch.randn(shape, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)
    x = torch.round(x, decimals=data.draw(st.sampled_from([0, 1, 5])))  # ties
    dim = data.draw(st.integers(-len(shape), len(shape) - 1))
    p = sll.argmax(x, dim, eps)
    torch.testing.assert_close(p, sparsemax_by_bisection(x / eps, dim), atol=1e-9, rtol=0)
    torch.testing.assert_close(sll.argmin(x, dim, eps), sll.argmax(-x, dim, eps))
    hard = torch.zeros_like(x).scatter(dim, x.argmax(dim, keepdim=True), 1)
    assert torch.equal(sll.argmax(x, dim, eps, forward="hard"), hard)


def test_argmax_derivatives_and_two_classes():
    x = torch.tensor([[0.3, 0.35, -1.0], [0.1, 0.11, 0.13]], dtype=torch.float64, requires_grad=True)
    assert torch.autograd.gradcheck(lambda x: sll.argmax(x, 1, 0.1), x, check_forward_ad=True)
    assert torch.autograd.gradgradcheck(lambda x: sll.argmax(x, 1, 0.1), x)
    assert torch.autograd.gradcheck(lambda x: sll.argmin(x, 0, 0.5), x)
    a, b = torch.tensor([0.3, 0.9, 0.5]), torch.tensor([0.32, 0.1, 0.5])
    torch.testing.assert_close(sll.argmax(torch.stack([a, b]), 0, 0.1)[0], sll.heaviside(a - b, 0.1))
    rows = vmap(lambda r: sll.argmax(r, 0, 0.1))(x.detach())
    torch.testing.assert_close(rows, sll.argmax(x.detach(), 1, 0.1))


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16, torch.float32])
def test_argmax_in_low_precision_and_with_infinities(dtype):
    x = torch.tensor(
        [[1e4, 9e3, -float("inf")], [float("inf"), 1.0, 2.0], [float("nan"), 1.0, 2.0]], dtype=dtype, requires_grad=True
    )
    p = sll.argmax(x, 1, 1e-3)
    assert p.tolist() == [[1, 0, 0], [1, 0, 0], [1, 0, 0]] and p.dtype == dtype
    assert not torch.autograd.grad((p * torch.arange(3)).sum(), x)[0].any()
    q = sll.argmax(torch.full((2, 3), -float("inf"), dtype=dtype))
    assert q.sum(1).tolist() == [1, 1]


def test_no_state_is_touched():
    from sll._mode.threads import THREAD as _THREAD

    x = torch.zeros(2, requires_grad=True)
    with sll.linearize(0.5):
        y = sll.sign(x, 0.25)
        assert torch.autograd.grad(y.sum(), x)[0].tolist() == [4, 4]
    assert not vars(y) and not _THREAD.entered


@pytest.mark.parametrize("forward", ["linear", "hard"])
@pytest.mark.parametrize("dtype", [torch.float64, torch.float32, torch.bfloat16])
def test_a_number_at_its_threshold_is_halfway(dtype, forward):
    """As the formula says, and `sll.heaviside` at 0."""
    t = torch.tensor([0.25, -3.0, 0.0], dtype=dtype)
    for threshold in (t, t.clone().requires_grad_()):
        y = sll.threshold(t, threshold, 0.1, forward=forward)
        assert y.dtype == dtype and y.tolist() == [0.5] * 3
    assert sll.threshold(t, 0.25, 0.1, forward=forward)[0] == 0.5 == sll.heaviside(t - t, 0.1, forward=forward)[0]
