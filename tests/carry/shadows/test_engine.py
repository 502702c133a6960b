"""``forward="straight-through"``: values of the plain program; what it takes gets the gradient it gets without a
region, and decisions have their slopes on top.
"""

from __future__ import annotations

import pytest
import torch

import sll
from oracles import same_bits
from programs import PROGRAMS

EPS = 0.2


def region(forward="straight-through", eps=EPS):
    return sll.linearize(eps, forward=forward, on_lost="ignore")


@pytest.mark.parametrize("dtype", [torch.float64, torch.float16])
@pytest.mark.parametrize("name", PROGRAMS)
def test_values_are_the_plain_programs(name, dtype):
    f = PROGRAMS[name]
    x = torch.linspace(-2.4, 2.4, 97, dtype=dtype)
    with region():
        got = f(x.clone().requires_grad_())
    assert same_bits(got, f(x))


@pytest.mark.skipif(torch.__version__ < (2, 10), reason="older Dynamo does not trace these modes")
@pytest.mark.parametrize("name", ["and_where", "masked_fill_both", "rule_system", "one_hot", "floor_long_table"])
def test_compiled(name):
    torch._dynamo.reset()
    f = PROGRAMS[name]
    compiled = torch.compile(lambda x: f(x), fullgraph=True, backend="aot_eager")
    x = torch.linspace(-2.4, 2.4, 97, dtype=torch.float64, requires_grad=True)
    with region():
        a, b = compiled(x), f(x)
        torch.testing.assert_close(a, b, rtol=0, atol=0)
        torch.testing.assert_close(
            torch.autograd.grad(a.sum(), x), torch.autograd.grad(b.sum(), x), rtol=1e-9, atol=1e-9
        )


def test_transforms_and_second_derivatives():
    a = torch.tensor([2.0, 3.0], dtype=torch.float64)
    x = torch.tensor([0.1, -0.05], dtype=torch.float64)

    def f(x, a):
        return torch.where(x > 0, a**2, -a).sum()

    with region():
        gx, ga = torch.func.grad(f, (0, 1))(x, a)
        _, tangent = torch.func.jvp(f, (x, a), (torch.ones(2).double(), torch.ones(2).double()))
        curvature = torch.func.hessian(f, 1)(x, a)
    torch.testing.assert_close(ga, torch.tensor([4.0, -1.0]).double())
    torch.testing.assert_close(gx, (a**2 + a) / (2 * EPS))
    torch.testing.assert_close(tangent, (gx + ga).sum())
    torch.testing.assert_close(curvature, torch.diag(torch.tensor([2.0, 0.0])).double())
