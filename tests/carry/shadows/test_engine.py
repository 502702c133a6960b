"""``forward="straight-through"``: values of the plain program; what it takes gets the gradient it gets without a
region, and decisions have their slopes on top.
"""

from __future__ import annotations

import pytest
import torch
import torch.nn.functional as F

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


LOOKUPS = {
    "index": lambda table, i: table[i],
    "embedding": lambda table, i: F.embedding(i, table),
    "index_select": lambda table, i: table.index_select(0, i),
    "one_hot": lambda table, i: F.one_hot(i, table.shape[0]).to(table.dtype) @ table,
    "gather": lambda table, i: table.gather(0, i.unsqueeze(1).expand(-1, table.shape[1])),
}


@pytest.mark.parametrize("name", LOOKUPS)
def test_lookups_train_the_row_they_take(name):
    generator = torch.Generator().manual_seed(0)
    z = torch.randn(20, 4, generator=generator, dtype=torch.float64)
    words = torch.randn(6, 4, generator=generator, dtype=torch.float64)
    table = torch.randn(6, 3, generator=generator, dtype=torch.float64, requires_grad=True)
    scores = (-torch.cdist(z, words)).requires_grad_()
    up = torch.randn(20, 3, generator=generator, dtype=torch.float64)

    def program(scores):
        return (LOOKUPS[name](table, scores.argmax(1)) * up).sum()

    (want,) = torch.autograd.grad(program(scores), table)
    gradients = {}
    for forward in ("hard", "straight-through"):
        with region(forward, 3.0):
            gradients[forward] = torch.autograd.grad(program(scores), (table, scores))
    for forward in ("hard", "straight-through"):
        torch.testing.assert_close(gradients[forward][0], want, rtol=1e-12, atol=1e-12)
    torch.testing.assert_close(gradients["straight-through"][1], gradients["hard"][1], rtol=1e-12, atol=1e-12)
    assert gradients["hard"][1].abs().sum() > 0


def test_decided_choices_equal_the_plain_gradient():
    table = torch.randn(5, 3, requires_grad=True)
    scores = torch.eye(5).mul(10.0).requires_grad_()
    with region():
        table[scores.argmax(1)].square().sum().backward()
    torch.testing.assert_close(table.grad, 2 * table.detach())
    assert scores.grad is None or scores.grad.eq(0).all()


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


@pytest.mark.parametrize("op", [torch.round, torch.floor, torch.ceil, torch.trunc])
def test_ties_take_what_they_show(op):
    """Whole and half numbers lie on boundaries, and are common."""
    x = torch.tensor([0.0, 0.5, 1.0, 1.5, 2.0, 2.5, 3.0], requires_grad=True)
    table = torch.zeros(5, requires_grad=True)
    for lookup in (lambda: table[op(x).long()], lambda: F.one_hot(op(x).long(), 5).float() @ table):
        (want,) = torch.autograd.grad(lookup().sum(), table)
        with region():
            (got,) = torch.autograd.grad(lookup().sum(), table)
        assert torch.equal(got, want)


@pytest.mark.parametrize("name", LOOKUPS)
def test_rows_of_zeros(name):
    scores = torch.tensor([[1.0, 1.1, 1.05]], requires_grad=True)
    table = torch.zeros(3, 2, requires_grad=True)
    with sll.linearize("auto"):
        LOOKUPS[name](table, scores.argmax(1)).sum().backward()
    assert table.grad.tolist() == [[0, 0], [1, 1], [0, 0]]


def test_more_equals_than_contenders():
    scores, table = torch.zeros(1, 100, requires_grad=True), torch.arange(1.0, 101).requires_grad_()
    with sll.linearize("auto"):
        y = table[scores.argmax(1)]
        y.sum().backward()
    assert y.item() == 1 and table.grad.nonzero().flatten().tolist() == [0]
