"""Masks and indices that go into transforms of `torch.func` and come out of them, against the program without."""

from __future__ import annotations

import pytest
import torch
from torch.func import grad, jacfwd, jacrev, vmap

import sll

X = torch.tensor([[0.03, -0.5, 0.02], [-0.04, 0.9, 0.6]], dtype=torch.float64)
W = torch.arange(1.0, 7, dtype=torch.float64).view(2, 3)
BITS = torch.tensor([1, 2, 2])
positive = lambda a: a > 0
with_aux = lambda a: ((a * a).sum(), a > 0)


def _written(a):
    mask = a > 0
    mask.logical_not_()
    return mask


MASK = lambda x: (x > 0).double() * W
BATCHES = {  # name: with vmap, without
    "out 0": (lambda x: vmap(positive)(x).double() * W, MASK),
    "out 1": (lambda x: vmap(positive, out_dims=1)(x).t().double() * W, MASK),
    "out -1": (lambda x: torch.where(vmap(positive, out_dims=-1)(x), W.t(), x.t()), lambda x: torch.where(x > 0, W, x)),
    "in 1": (lambda x: vmap(positive, in_dims=1)(x).t().double() * W, MASK),
    "in 1, out 1": (lambda x: vmap(positive, in_dims=1, out_dims=1)(x).double() * W, MASK),
    "dict": (lambda x: vmap(lambda a: {"m": a > 0, "n": (a,)}, out_dims={"m": 1, "n": (0,)})(x)["m"].t() * W, MASK),
    "keywords": (lambda x: vmap(lambda a, b: b > a, out_dims=1)(torch.zeros_like(x), b=x)[:, 0].double() * W, MASK),
    "chunks": (lambda x: vmap(positive, out_dims=1, chunk_size=1)(x).t().double() * W, MASK),
    "nested": (lambda x: vmap(vmap(positive), out_dims=1)(x).t().double() * W, MASK),
    "used between": (lambda x: vmap(lambda a: vmap(positive, out_dims=1)(a).double().sum(0))(x[..., None]) * W, MASK),
    "moved inside": (lambda x: vmap(lambda a: (a > 0).view(1, 3).t(), out_dims=2)(x)[:, 0].t().double() * W, MASK),
    "written": (lambda x: (~vmap(_written, out_dims=1)(x)).t().double() * W, MASK),
    "goes in": (lambda x: vmap(lambda m, w: m.double() * w, in_dims=1, out_dims=1)(x > 0, W), MASK),
    "aux of grad": (lambda x: grad(with_aux, has_aux=True)(x)[1].double() * W, MASK),
    "both": (lambda x: vmap(grad(with_aux, has_aux=True), out_dims=1)(x)[1].t().double() * W, MASK),
    "a count": (lambda x: vmap(lambda a: (a > 0).sum())(x) ** 2, lambda x: (x > 0).sum(1) ** 2),
    "a code": (lambda x: W.view(-1)[vmap(lambda a: ((a > 0) * BITS).sum())(x)],
               lambda x: W.view(-1)[((x > 0) * BITS).sum(1)]),
    "integers": (lambda x: vmap(lambda a: torch.round(a * 10).long(), out_dims=1)(x) ** 2,
                 lambda x: torch.round(x * 10).long().t() ** 2),
    "an index": (lambda x: W[0][vmap(lambda a: a.argmax())(x)], lambda x: W[0][x.argmax(1)]),
    "an order": (lambda x: W[0][vmap(lambda a: a.argsort(), out_dims=1)(x)].t() * W,
                 lambda x: W[0][x.argsort(1)] * W),
    "an index goes in": (lambda x: vmap(lambda i: W[0][i])(x.argmax(1)), lambda x: W[0][x.argmax(1)]),
}  # fmt: skip


def derived(program, forward="straight-through", on_lost="error"):
    x = X.clone().requires_grad_()
    with sll.linearize(0.1, forward=forward, on_lost=on_lost) as region:
        y = program(x).sum().double()
    g = torch.autograd.grad(y, x)[0] if y.requires_grad else None
    return y.detach(), g, region.report().lost


@pytest.mark.parametrize("name", BATCHES)
def test_what_comes_out_keeps_its_gradient(name):
    (y, g, _), (y0, g0, _) = map(derived, BATCHES[name])
    assert torch.equal(y, y0)
    assert g0.any()
    assert torch.equal(g, g0)


SLOPE = torch.where(X.abs() <= 0.1, W * 5, 0.0)
GRADIENTS = {
    "jacrev": lambda x: jacrev(lambda a: (vmap(positive, out_dims=1)(a).t().double() * W).sum())(x),
    "jacfwd": lambda x: jacfwd(lambda a: (vmap(positive, out_dims=1)(a).t().double() * W).sum())(x),
    "grad": lambda x: grad(lambda a: (vmap(vmap(positive), out_dims=1)(a).t().double() * W).sum())(x),
    "aux": lambda x: grad(lambda a: (grad(lambda b: (b.sum(), a > 0), has_aux=True)(a)[1].double() * W).sum())(x),
    "per sample": lambda x: vmap(grad(lambda a, w: (vmap(positive, out_dims=1)(a[None])[:, 0] * w).sum()))(x, W),
}  # fmt: skip


@pytest.mark.parametrize("name", GRADIENTS)
def test_the_gradient_of_the_transform_around_it(name):
    with sll.linearize(0.1, forward="straight-through", on_lost="error"):
        assert torch.equal(GRADIENTS[name](X), SLOPE)


def test_candidates_are_not_worked_out_for_large_indices(monkeypatch):
    monkeypatch.setattr("sll._carry.shadows.transformed.MAX_ELEMENTS", 1)
    _, g, lost = derived(BATCHES["an index"][0], on_lost="ignore")
    assert g is None
    assert [site.op for site in lost] == ["getitem"]


def test_a_view_that_is_not_used_costs_the_region_nothing_later():
    from sll._mode.threads import THREAD

    with sll.linearize(0.1, forward="straight-through"):
        x = X.clone().requires_grad_()
        vmap(positive, out_dims=1)(x)
        assert not THREAD.alone
        (x + 1).sum()
        assert THREAD.alone
