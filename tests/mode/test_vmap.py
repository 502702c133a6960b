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


def closed_over(made):
    """`vmap` is given a function that returns what it did not make: nobody is told."""

    def program(x):
        m = (x > 0)[0]
        return vmap(lambda a: made(m, x[0]))(torch.ones(3))

    return program


CLOSED_OVER = {
    "a mask": (closed_over(lambda m, x: m), lambda y: y.double()),
    "another mask": (closed_over(lambda m, x: ~m), lambda y: torch.where(y, 2.0, 1.0).double()),
    "one of two": (closed_over(lambda m, x: (x, m)), lambda y: y[1].double()),
    "a count": (closed_over(lambda m, x: m.sum()), lambda y: y.double()),
    "a place": (closed_over(lambda m, x: x.argmax()), lambda y: torch.arange(3.0).double()[y]),
}


@pytest.mark.parametrize("forward", ["hard", "linear", "straight-through"])
@pytest.mark.parametrize("name", CLOSED_OVER)
def test_closed_over_and_returned(name, forward):
    """It was silent, in every mode."""
    program, used = CLOSED_OVER[name]
    x = torch.tensor([[0.03, 0.01, 0.02]], dtype=torch.float64).requires_grad_()
    with sll.linearize(0.1, forward=forward, on_lost="ignore") as region:
        y = used(program(x))
    if forward == "straight-through":
        assert torch.autograd.grad((y * torch.tensor([[1.0], [2.0], [4.0]])).sum(), x)[0].any()
    else:
        assert len(region.report().lost) == 1


@pytest.mark.filterwarnings("error")
@pytest.mark.parametrize("forward", ["hard", "linear", "straight-through"])
def test_expanded_by_the_program(forward):
    x = X.clone().requires_grad_()
    with sll.linearize(0.1, forward=forward):
        y = (x > 0).expand(3, 2, 3).double()
    assert torch.autograd.grad(y.sum(), x)[0].equal(torch.where(X.abs() <= 0.1, 15.0, 0.0).double())
