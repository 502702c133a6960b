"""Floats that were made of counts and masks are asked as these are."""

from __future__ import annotations

import pytest
import torch

import sll

X = torch.tensor([[0.3, -0.2, 1.4, -2.0, 0.1, 0.4], [-0.1, -0.3, 0.2, -1.0, -0.4, 0.05]], dtype=torch.float64)

MADE = {  # the float of a mask; the count that it was made of, and the number that it has for each
    "count.double()": (lambda m: m.sum(1).double(), 1.0),
    "a sum of floats": (lambda m: m.double().sum(1), 1.0),
    "mean": (lambda m: m.double().mean(1), 1 / 6),
    "mean of all dimensions": (lambda m: m.double().mean((-1,)), 1 / 6),
    "count / 6": (lambda m: m.sum(1) / 6.0, 1 / 6),
    "count * 0.5": (lambda m: 0.5 * m.sum(1), 0.5),
    "-2 * count": (lambda m: -(2.0 * m.double().sum(1)), -2.0),
    "weighted alike": (lambda m: (m * 0.25).sum(1), 0.25),
    "moved": (lambda m: m.double().sum(1).reshape(2, 1).flatten().clone(), 1.0),
    "through integers": (lambda m: m.long().double().sum(1), 1.0),
}
ASKED = {
    "==": lambda n, k: n == k,
    "!=": lambda n, k: n != k,
    "ne": lambda n, k: torch.ne(n, k * torch.ones(2, dtype=n.dtype)),
    ">": lambda n, k: n > k,
    ">=": lambda n, k: n >= k,
    "<": lambda n, k: k > n,
    "<=": lambda n, k: torch.le(n, k),
}


def gradients(f, eps=0.5, **options):
    x = X.clone().requires_grad_()
    with sll.linearize(eps, forward="straight-through", **options) as region:
        y = f(x)
    (g,) = torch.autograd.grad((y * torch.tensor([1.0, 10.0])).sum(), x, allow_unused=True)
    return y.detach(), torch.zeros_like(x) if g is None else g, region


def by_hand(asked, step, k, eps):
    """``m.sum(1)``, asked: what the answer is for one more less what it is for one less, and the slope of each mask."""
    n = (X > 0).sum(1)
    answer = lambda n: asked(n.double(), float(k) if step > 0 else float(-k))
    sign = 1 if step > 0 else -1
    change = answer(sign * (n + 1)).double() - answer(sign * torch.where(n == 0, n, n - 1)).double()
    slopes = (X.abs() <= eps).double() / (2 * eps)
    return answer(sign * n).double(), slopes * (change * torch.tensor([1.0, 10.0])).unsqueeze(1)


@pytest.mark.parametrize("k", [0, 1, 2, 3, 4, 5])
@pytest.mark.parametrize("ask", ASKED)
@pytest.mark.parametrize("name", MADE)
def test_a_question_about_a_float_is_one_about_its_count(name, ask, k):
    """A comparison is that of what was an integer a moment ago, and else has the ramp of its band."""
    make, step = MADE[name]
    if ask not in ("==", "!=", "ne") and name != "count.double()":
        pytest.skip("ordinary floats")
    found, g, _ = gradients(lambda x: ASKED[ask](make(x > 0.0), k * step).double(), abs(step) / 2)
    want, slopes = by_hand(ASKED[ask], step, k, abs(step) / 2)
    assert torch.equal(found, want) and torch.allclose(g, slopes), (g, slopes)


@pytest.mark.parametrize("name", MADE)
def test_of_a_wide_band_a_comparison_keeps_its_ramp(name):
    make, step = MADE[name]
    eps = 2.5 * abs(step)
    _, g, _ = gradients(lambda x: (make(x > 0.0) > 2 * step).double(), eps)
    off = ((X > 0).sum(1) - 2).abs() * abs(step) <= eps
    want = (X.abs() <= eps).double() / (2 * eps) * step / (2 * eps) * (off * torch.tensor([1.0, 10.0])).unsqueeze(1)
    assert torch.allclose(g, want), (g, want)


@pytest.mark.parametrize("f", [lambda m: 2 * m.double() - 1 == 1, lambda m: m.long().double() / 3 + m.double() == 1])
def test_where_the_step_is_not_known_it_is_reported(f):
    x = X.clone().requires_grad_()
    with sll.linearize(0.5, forward="straight-through", on_lost="ignore") as region:
        f((x > 0) & (x < 3))
    (site,) = region.report().lost
    assert site.op == "eq" and site.line
    with sll.linearize(0.01, forward="straight-through", on_lost="error"):  # nothing is open
        f((x > 0) & (x < 3))


def test_a_number_of_one_decision_is_asked_as_its_integer():
    x = torch.tensor([0.9, 1.1, 2.2], dtype=torch.float64)
    for f in (lambda n: n == 1, lambda n: n.clone() != 1, lambda n: n >= 1, lambda n: n >= 2.0, lambda n: n.bool()):
        grads = []
        for floats in (lambda n: n.double(), lambda n: n):
            y = x.clone().requires_grad_()
            with sll.linearize(0.25, forward="straight-through"):
                out = (f(floats(y.long())).double() * torch.tensor([1.0, 3.0, 5.0])).sum()
            grads.append(torch.autograd.grad(out, y)[0])
        assert torch.allclose(*grads) and grads[0].any()


@pytest.mark.parametrize("f", [torch.sqrt, lambda n: n**0.5, lambda n: n ** torch.tensor(0.25)])
def test_where_a_function_of_a_count_has_no_derivative_it_has_a_difference(f):
    x = torch.tensor([[-0.1, -0.9, -0.8], [0.1, -0.1, -0.9], [-2.0, -3.0, -4.0]], requires_grad=True)
    with sll.linearize(0.25, forward="straight-through"):
        y = f((x > 0).sum(1))
    (g,) = torch.autograd.grad(y.sum(), x)
    (slope,) = torch.autograd.grad(f(n := torch.tensor(1.0, requires_grad=True)), n)
    assert torch.allclose(g, torch.tensor([[2.0, 0, 0], [2.0 * slope, 2.0 * slope, 0], [0, 0, 0]]))


@pytest.mark.parametrize("f", [lambda m: m**2, lambda m: torch.nan_to_num(m) * m])
def test_a_mean_of_nothing_spoils_no_gradient_that_the_program_does_not(f):
    x, other = torch.tensor([-0.1, -0.2, -2.0], requires_grad=True), torch.tensor(2.0, requires_grad=True)
    with sll.linearize(0.25, forward="straight-through"):
        y = f(x[x > 0].mean()) + x.sum() * other
    g, by_other = torch.autograd.grad(y, [x, other])
    assert y.isnan() and torch.equal(g, torch.full((3,), 2.0)) and by_other.isfinite()


@pytest.mark.parametrize("mode", ["straight-through", "hard", "linear"])
@pytest.mark.parametrize("f", [torch.cummax, torch.cummin])
def test_running_extremes_of_none_and_of_many(mode, f):
    for shape in ((0,), (0, 3), (3, 0), (100_000,)):
        x = torch.randn(shape, requires_grad=True)
        with sll.linearize(0.25, forward=mode, on_lost="ignore"):
            found = f(x, 0)
        assert all(map(torch.equal, found, f(x.detach(), 0)))


ROUNDED = {  # a float that was rounded, and asked
    "sign == 1": lambda x: x.sign() == 1,
    "-sign == -1": lambda x: -x.sign() == -1,
    "round == 4": lambda x: (x + 3.5).round() == 4,
    "a sum": lambda x: torch.stack([x, 0 * x + 0.6]).sign().sum(0) == 2,
    "a mean": lambda x: torch.stack([x + 0.5, 0 * x - 0.3]).round().mean(0) == 0.5,
}


@pytest.mark.parametrize("name", ROUNDED)
def test_what_was_rounded_is_asked_as_one_number_of_others(name):
    """A sum may have others on both sides: there the next one is as likely as the one before."""
    x = torch.tensor([0.05, -0.05, 0.2, -0.2], dtype=torch.float64, requires_grad=True)
    with sll.linearize(0.1, forward="straight-through"):
        y = ROUNDED[name](x).double()
    (g,) = torch.autograd.grad(y.sum(), x)
    above = 0.0 if name.startswith("a ") else 5.0
    want = torch.tensor([above, 5.0 if not above else above, 0, 0], dtype=g.dtype)
    assert torch.equal(y, (x > 0).double()) and torch.allclose(g, want), g


def test_a_guard_that_no_decision_changes_is_not_reported():
    x = X.clone().requires_grad_()
    with sll.linearize(0.5, forward="straight-through", on_lost="error"):
        n, k = (x > 0).double().sum(), (x > 0.1).double().sum()
        y = torch.where(5 * n + 2 * k + 20 != 0, x.sum(), 0.0)
    assert torch.equal(torch.autograd.grad(y, x)[0], torch.ones_like(x))


OTHERS = (
    lambda n, y: n == y.numpy(),
    lambda n, y: n == (y > 1).numpy(),
    lambda n, y: n.eq(y > 1),
    lambda n, y: (y > 1) != n,
    lambda n, y: torch.eq(input=n, other=1),
    lambda n, y: n.to(dtype=torch.bool, device="cpu"),
    lambda n, y: n.to(torch.bool, memory_format=torch.preserve_format),
    lambda n, y: n.bool(memory_format=torch.preserve_format),
)


@pytest.mark.parametrize("ask", OTHERS)
@pytest.mark.parametrize(
    "make", [lambda x: (x > 0).float(), lambda x: torch.round(x), lambda x: (x > 0).float().sum(0)]
)
def test_who_is_asked_what(ask, make):
    """Arrays, bools and keywords."""
    x, y = torch.tensor([[-0.04, 0.03, 2.0], [0.5, 0.02, -1.0]], requires_grad=True), torch.tensor([0.0, 1.0, 2.0])
    with sll.linearize(0.1, forward="straight-through"):
        out = ask(make(x), y)
    assert torch.equal(out, ask(make(x.detach()), y))


def test_a_product_of_counts_has_no_step():
    """It can be 25, 36 and 49, and not 42."""
    x = torch.linspace(-0.05, 1, 8).requires_grad_()
    with sll.linearize(0.1, forward="straight-through", on_lost="ignore"):
        c = (x > 0).float().sum()
        y = (c * c == 42).float()
    assert not y.requires_grad or not torch.autograd.grad(y, x)[0].any()
