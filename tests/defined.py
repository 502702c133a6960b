"""Checks of functions that `_carry/definitions` writes down: what a region shows, and its gradients."""

from __future__ import annotations

import warnings

import torch

import sll
from oracles import same_bits

MODES = ("straight-through", "hard", "linear")


def path(*shape, seed=0, low=-1.9, high=1.9):
    """Two ends, of which no decision is in a narrow band."""
    g = torch.Generator().manual_seed(seed)
    a, b = torch.rand(2, *shape, generator=g, dtype=torch.float64) * (high - low) + low
    return a, b


def weighed(y):
    """A number of which all elements are a part."""
    return (y.double() * torch.cos(torch.arange(1.0, y.numel() + 1, dtype=torch.float64)).reshape(y.shape)).sum()


def clear_path(program, shape, eps, **options):
    """Ends that no band of the program reaches."""
    for seed in range(200):
        ends = path(*shape, seed=seed, **options)
        if all(float(shown(program, x, eps)) == float(program(x)) for x in ends):
            return ends
    raise AssertionError("no path is clear")


def shown(program, x, eps):
    with sll.linearize(eps, forward="linear"):
        return program(x.clone().requires_grad_())


def exact_integral(program, a, b, eps, steps=24, depth=14):
    """With ``forward="linear"``, refined where the slopes do not say how the value changes; and what it should be."""

    def at(t):
        x = torch.lerp(a, b, t).requires_grad_()
        with sll.linearize(eps, forward="linear", on_lost="error"):
            y = program(x)
        if not y.requires_grad:
            return float(y), 0.0
        (g,) = torch.autograd.grad(y, x)
        return float(y), float((g * (b - a)).sum())

    def between(t0, p0, t1, p1, left):
        area = (t1 - t0) * (p0[1] + p1[1]) / 2
        if left == 0 or abs(area - (p1[0] - p0[0])) < 1e-4 * (t1 - t0) + 1e-9:
            return area
        middle = (t0 + t1) / 2
        p = at(middle)
        return between(t0, p0, middle, p, left - 1) + between(middle, p, t1, p1, left - 1)

    times = [i / steps for i in range(steps + 1)]
    points = [at(t) for t in times]
    ends = zip(times, points, times[1:], points[1:])
    return sum(between(*end, depth) for end in ends), float(program(b) - program(a))


def hold_the_line_integral(program, shape, wide=None):
    """Along a clear path; and in a `wide` band, at its start, the program has a gradient, and loses none."""
    a, b = clear_path(program, shape, 0.02)
    got, want = exact_integral(program, a, b, 0.02)
    assert want != 0 and abs(got - want) <= 2e-3, (got, want)
    if wide is not None:
        g, lost = gradient(program, a, wide)
        assert g.any() and lost == [], (g, lost)


def same_as_without(func, *args):
    """Whether a function returns in regions with hard values what it returns without, bit for bit."""
    plain = func(*(x.detach() if isinstance(x, torch.Tensor) else x for x in args))
    for forward in ("straight-through", "hard"):
        with sll.linearize(0.05, forward=forward):
            found = func(*args)
        if isinstance(plain, tuple):
            assert type(found) is type(plain)
        assert same_bits(found, plain), forward
    return True


def gradient(program, at, eps, forward="straight-through"):
    """Of what a program returns, and the operations at which something was lost."""
    x = at.detach().clone().requires_grad_()
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", sll.LostGradientWarning)
        with sll.linearize(eps, forward=forward) as region:
            y = program(x)
    found = torch.autograd.grad(y, x, allow_unused=True)[0] if y.requires_grad else None
    return torch.zeros_like(x) if found is None else found, [site.op for site in region.report().lost]
