"""Where decisions are made, one source at a time."""

from __future__ import annotations

import pytest
import torch
import torch.nn.functional as F
from torch import library

import sll
from oracles import grads, leaf, like_a_trace, plain
from sll._carry.outcomes.boundaries import boundary_at
from sll._carry.outcomes.sources import Step, source


@pytest.mark.usefixtures("loops_everywhere")
@pytest.mark.parametrize(
    "f",
    [
        lambda p: (torch.arange(8) > p).float(),
        lambda p: (p < torch.arange(8)).double(),
        lambda p: torch.where(torch.arange(8) > p, 1.0, torch.zeros(8)),
        lambda p: torch.arange(8.0)[None] * (torch.arange(8)[None] <= p[..., None]),
        lambda p: (torch.arange(8) > p).sum() * 1.0,
        lambda p: torch.arange(8.0).masked_fill((torch.arange(8) > p) & (torch.arange(8) < p + 3), 2.0),
    ],
)
def test_integers_compared_with_a_learned_number(f):
    like_a_trace(f, torch.tensor(3.2))


@pytest.mark.parametrize(
    "f",
    [
        lambda x: F.hardshrink(F.threshold(x, 0.1, 7.0), 0.5),
        lambda x: torch.round(F.threshold(x, 0.1, 7.0)),
        lambda x: F.threshold(x, 0.1, 7.0) % 2.0,
        lambda x: torch.fmod(x, 0.7) % 0.3,
        lambda x: torch.frac(x % 0.7 * 5),
    ],
)
def test_nested_steps_are_bit_identical_outside_the_band(f):
    x = torch.cat([torch.randn(2000, generator=torch.Generator().manual_seed(0)), torch.tensor([float("nan"), -0.0])])
    with sll.linearize(1e-7):
        y = f(x.clone().requires_grad_())
    want = plain(f, x)
    assert torch.equal(y.isnan(), want.isnan())
    assert (y.detach() != want)[~want.isnan()].sum() <= 1  # one element may really lie within 1e-7 of a boundary


def test_large_numbers_are_no_ties():
    x = leaf(2.0**23, 2.0**23 + 2)
    with sll.linearize(0.01):
        y = torch.round(x)
    assert grads(y, x) == grads(sll.round(x, 0.01), x) == [0, 0]


def test_sparse_passes_through():
    x = torch.eye(2).to_sparse().requires_grad_()
    with sll.linearize(0.5):
        assert torch.equal(torch.sign(x).to_dense(), torch.eye(2))


@pytest.mark.parametrize("name", ["gt", "ge", "lt", "le"])
def test_python_asks_a_parameter_first(name):
    compare = {"gt": lambda a, b: a > b, "ge": lambda a, b: a >= b, "lt": lambda a, b: a < b, "le": lambda a, b: a <= b}
    x, threshold = torch.tensor([0.1]), torch.nn.Parameter(torch.zeros(1))
    for options in ({"eps": 0.5, "only": [name]}, {"eps": {"default": 1e-6, name: 0.5}}):
        with sll.linearize(**options):
            (slope,) = torch.autograd.grad(compare[name](x, threshold).float(), threshold)
        assert slope.abs().tolist() == [1]
    with sll.linearize(0.5, exclude=[name]):
        assert not compare[name](x, threshold).float().requires_grad
    both = {"default": 1e-6, "gt": 0.5, "lt": 0.25}
    with sll.linearize(both):
        y = torch.zeros(1, requires_grad=True)
        assert torch.autograd.grad((y < 0.1).float(), y)[0] == -2 and torch.autograd.grad((y > 0.1).float(), y)[0] == 1


def half_steps(eps, input):
    return Step(boundary_at(input, 0.5, eps), -7.0, 7.0)


def test_a_source_of_the_users_twice(rules_as_they_were):
    name = "::".join(("sll_test", "twice"))
    op = library.custom_op(name, lambda x: x.sign(), mutates_args=(), schema="(Tensor x) -> Tensor")
    overload = torch.ops.sll_test.twice.default
    source("twice", overload, boundaries="0")(half_steps)
    before = rules_as_they_were()
    for again in ("twice", "two times"):
        with pytest.raises(ValueError, match="already"):
            source(again, overload, boundaries="0")(lambda eps, x: None)
    assert rules_as_they_were() == before
    assert op(torch.ones(1)) == 1
