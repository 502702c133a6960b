"""Custom operators in a region: seen into where they are made of others, and reported where not."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor, library

import sll
from oracles import leaf

MODES = ["linear", "hard", "straight-through"]
_LIBRARY = library.Library("sll_operators", "DEF")
_LIBRARY.define("quantized(Tensor x, Tensor m, int by=2) -> Tensor")


def quantized(x: Tensor, m: Tensor, by: int = 2) -> Tensor:
    return torch.where(m, torch.round(x * by).to(torch.int8), 3)


library.impl(_LIBRARY, "quantized", "CompositeImplicitAutograd")(quantized)


@library.custom_op("sll_operators::opaque", mutates_args=())
def opaque(x: Tensor) -> Tensor:
    return torch.round(x).long()


AT = (0.249, 0.012, -0.004, 2.3)


@pytest.mark.parametrize("forward", MODES)
@pytest.mark.parametrize("by", [2, 4])
def test_what_is_made_of_others_is_seen_into(forward, by):
    """As if its functions stood in the program. Named and default arguments come along."""
    options = {} if by == 2 else {"by": by}
    found = []
    for f in (torch.ops.sll_operators.quantized, torch.ops.sll_operators.quantized.default, quantized):
        x = leaf(*AT)
        with sll.linearize(0.01, forward=forward) as region:
            y = f(x, m=x > 0, **options)
        assert y.dtype == torch.int8
        with sll.linearize(0.01, forward=forward):
            z = f(x, m=x > 0, **options).float() @ torch.arange(1.0, 5.0)
        found.append(torch.autograd.grad(z, x)[0])
        assert not region.report().lost
    assert torch.equal(found[0], found[2]) and torch.equal(found[1], found[2]) and found[0].count_nonzero() == 4 / by


@pytest.mark.parametrize("forward", MODES)
def test_integers_that_another_one_makes_of_floats_are_reported(forward):
    x = leaf(*AT)
    warns = pytest.warns(sll.LostGradientWarning, match="does not see into this operator")
    with warns, sll.linearize(0.01, forward=forward) as region:
        opaque(x) * x
    ((site, calls),) = region.report().lost.items()
    assert (site.op, calls) == ("opaque.default", 1) and site.file == __file__


@pytest.mark.parametrize("through", [False, True])
def test_without_gradients_it_is_a_row_or_is_seen_through(through):
    """torchao quantizes under `torch.no_grad`."""
    x = leaf(*AT)
    with sll.linearize(0.01, see_through=through) as region:
        with torch.no_grad():
            q = torch.ops.sll_operators.quantized(x, x > 0)
        y = q.float().sum()
    assert y.requires_grad == through
    assert through == (not region.report().cut)


def test_a_function_with_its_own_derivative_is_a_row():
    """A line integral would not see that it is another one."""

    class Own(torch.autograd.Function):
        @staticmethod
        def forward(ctx, x):
            return torch.round(x)

        @staticmethod
        def backward(ctx, g):
            return g

    x = leaf(*AT)
    with sll.linearize(0.01) as region:
        y = Own.apply(x)
    assert torch.autograd.grad(y.sum(), x)[0].tolist() == [1.0] * 4
    ((site, calls),) = region.report().cut.items()
    assert (site.op, calls) == ("Own", 1) and "own derivative" in str(region.report())
