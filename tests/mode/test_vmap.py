"""What no mode carries out of a transform of `torch.func` is reported where it is used."""

from __future__ import annotations

import pytest
import torch
from torch.func import grad, vmap

import sll

X = torch.tensor([[0.03, -0.5, 0.02], [-0.04, 0.9, 0.6]], dtype=torch.float64)
positive = lambda a: a > 0
PROGRAMS = {
    "out 0": (lambda x: vmap(positive)(x).double(), "double"),
    "out 1": (lambda x: vmap(positive, out_dims=1)(x).double(), "double"),
    "nested": (lambda x: vmap(vmap(positive), out_dims=1)(x).double(), "double"),
    "used between": (lambda x: vmap(lambda a: vmap(positive, out_dims=1)(a).double())(x[..., None]), "double"),
    "chunks": (lambda x: vmap(positive, out_dims=1, chunk_size=1)(x).double(), "cat"),
    "aux of grad": (lambda x: grad(lambda a: (a.sum(), a > 0), has_aux=True)(x)[1].double(), "double"),
    "in grad": (lambda x: grad(lambda a: vmap(positive, out_dims=1)(a).double().sum() + a.sum())(x), "double"),
    "an index": (lambda x: x[0][vmap(lambda a: a.argsort(), out_dims=1)(x)], "getitem"),
    "goes in": (lambda x: vmap(lambda m: m.double(), in_dims=1)(x > 0), "double"),
}


@pytest.mark.parametrize("forward", ["hard", "linear"])
@pytest.mark.parametrize("name", PROGRAMS)
def test_reported(name, forward):
    program, op = PROGRAMS[name]
    x = X.clone().requires_grad_()
    with pytest.warns(sll.LostGradientWarning, match="vmap"), sll.linearize(0.1, forward=forward) as region:
        program(x)
    assert [site.op for site in region.report().lost] == [op]


@pytest.mark.parametrize("forward", ["hard", "linear", "straight-through"])
def test_floats_come_out_with_their_gradient(forward):
    x = X.clone().requires_grad_()
    with sll.linearize(0.1, forward=forward, on_lost="error"):
        y = vmap(lambda a: (a > 0).double(), out_dims=1)(x)
    assert torch.autograd.grad(y.sum(), x)[0].equal(torch.where(X.abs() <= 0.1, 5.0, 0.0).double())
