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


def line_integral(program, a, b, eps, forward, n=300):
    """By stratified sampling, with every lost gradient an error; and what it should be."""
    total, jitter = 0.0, torch.rand(n, generator=torch.Generator().manual_seed(0)).tolist()
    for i in range(n):
        x = torch.lerp(a, b, (i + jitter[i]) / n).requires_grad_()
        with sll.linearize(eps, forward=forward, on_lost="error"):
            y = program(x)
        if y.requires_grad:
            (g,) = torch.autograd.grad(y, x)
            total += float((g * (b - a)).sum()) / n
    return total, float(program(b) - program(a))


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
