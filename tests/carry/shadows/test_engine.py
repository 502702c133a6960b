"""``forward="straight-through"``: values of the plain program; what it takes gets the gradient it gets without a
region, and decisions have their slopes on top.
"""

from __future__ import annotations

import gc
import time

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


WHERE = {
    "where": lambda m, a, b: torch.where(m, a, b),
    "masked_fill": lambda m, a, b: a.masked_fill(~m, 0.0) + b.masked_fill(m, 0.0),
    "products": lambda m, a, b: m.to(a.dtype) * a + (~m).to(a.dtype) * b,
    "product with a bool": lambda m, a, b: m * a + ~m * b,
}


@pytest.mark.parametrize("name", WHERE)
def test_branches_have_the_plain_gradient_and_the_boundary_has_the_slope(name):
    x = torch.tensor([-1.0, -0.1, 0.05, 0.15, 1.0], dtype=torch.float64, requires_grad=True)
    a, b = (torch.linspace(v, v + 2, 5, dtype=torch.float64).requires_grad_() for v in (1.0, -3.0))
    up = torch.arange(1.0, 6.0, dtype=torch.float64)
    want = torch.autograd.grad((WHERE[name](x > 0, a, b) * up).sum(), (a, b))
    with region():
        got = torch.autograd.grad((WHERE[name](x > 0, a, b) * up).sum(), (a, b, x))
    assert all(torch.equal(u, v) for u, v in zip(got, want))
    inside = x.detach().abs() <= EPS
    torch.testing.assert_close(got[2], torch.where(inside, up * (a - b).detach() / (2 * EPS), 0.0))


def test_what_is_taken_gets_the_gradient():
    x, a = torch.tensor([0.1], requires_grad=True), torch.tensor([3.0], requires_grad=True)
    share = {}
    for forward in ("hard", "straight-through"):
        with region(forward):
            share[forward] = torch.autograd.grad(torch.where(x > 0, a, 0.0).sum(), a)[0].item()
    assert share == {"hard": 1.0, "straight-through": 1.0}


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


def test_is_the_default_of_auto_only():
    assert sll.linearize("auto").forward == "straight-through"
    assert sll.linearize("auto", forward="linear").forward == "linear"
    assert sll.linearize(0.1).forward == sll.linearize(sll.Coverage(0.5)).forward == "linear"
    assert sll.linearize({"default": "auto", "round": 0.5}).forward == "straight-through"
    assert sll.linearize({"default": 0.1, "round": "auto"}).forward == "straight-through"


@pytest.mark.parametrize("forward", ["linear", "hard", "straight-through"])
def test_feedback_costs_as_many_steps_as_it_has(forward):
    """A hysteresis decides on what it decided before; 24 steps once took hours, 12 took eight seconds."""
    low = torch.tensor(2.0, requires_grad=True)
    noise = torch.randn(24, 16, generator=torch.Generator().manual_seed(0))
    start = time.perf_counter()
    with region(forward, 0.3):
        x, on, cost = torch.full((16,), 2.0), torch.zeros(16, dtype=torch.bool), torch.zeros(16)
        for kick in noise:
            on = (on | (x < low)) & ~(x > low + 2)
            x = x + 0.1 * (kick - x) + 0.8 * on
            cost = cost + on
        cost.mean().backward()
    assert low.grad.isfinite() and low.grad != 0
    assert time.perf_counter() - start < 30


TAKEN = {
    "one-hot mask": lambda s, a, b: torch.where(F.one_hot(s.argmax(1), 4).bool(), a, b),
    "index is a label": lambda s, a, b: torch.where(s.argmax(1)[:, None] == torch.arange(4), a, b),
    "index below": lambda s, a, b: torch.where((s.argmax(1) < 2)[:, None], a, b),
    "ranks below": lambda s, a, b: torch.where(s.argsort(1).argsort(1) < 2, a, b),
    "masked_fill by index": lambda s, a, b: a.masked_fill(s.argmax(1)[:, None] == 1, 0.0) + b,
    "threshold of the row": lambda s, a, b: torch.where(s >= s.topk(2, 1).values[:, -1:], a, b),
    "a count": lambda s, a, b: torch.where((s > 0.5).sum(0) > 3, a, b),
    "all": lambda s, a, b: torch.where((s > 0.2).all(0), a, b),
    "any": lambda s, a, b: torch.where((s > 0.9).any(1, keepdim=True), a, b),
    "five decisions": lambda s, a, b: torch.where(
        (s > 0.1) & (s.flip(0) > 0.05) & (s.flip(1) > 0.1) & (s.roll(1, 0) > 0) & (s.roll(1, 1) > 0), a, b
    ),
    "table of bools": lambda s, a, b: torch.where(torch.tensor([True, False, True, False])[s.argmax(1)][:, None], a, b),
    "count of bools as index": lambda s, a, b: torch.stack([a, b])[(s > 0.5).long(), torch.arange(6)[:, None], 0],
    "a decision on a decision": lambda s, a, b: torch.where(torch.where(s > 0.5, s, s - 0.3) > 0.45, a, b),
    "shapes": lambda s, a, b: torch.where((s > 0.5).T.reshape(4, 6).T.flip(1), a, b),
}


@pytest.mark.parametrize("eps", [0.05, 0.4, "auto"])
@pytest.mark.parametrize("equal", [False, True])
@pytest.mark.parametrize("name", TAKEN)
def test_who_is_taken_does_not_depend_on_who_is_likely(name, equal, eps):
    """Index masks are rarely likely, and equal branches (a table of zeros) cannot tell by their values."""
    generator = torch.Generator().manual_seed(1)
    s = torch.rand(6, 4, generator=generator, dtype=torch.float64, requires_grad=True)
    a, b = ((torch.zeros if equal else torch.rand)(6, 4, dtype=torch.float64).requires_grad_() for _ in range(2))
    up = torch.rand(6, 4, generator=generator, dtype=torch.float64)
    want = torch.autograd.grad((TAKEN[name](s, a, b) * up).sum(), (a, b), allow_unused=True)
    with region(eps=eps):
        got = torch.autograd.grad((TAKEN[name](s, a, b) * up).sum(), (a, b), allow_unused=True)
    for u, v in zip(got, want):
        torch.testing.assert_close(u, v, rtol=1e-12, atol=1e-12)


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


@pytest.mark.parametrize("forward", ["linear", "hard", "straight-through"])
def test_feedback_keeps_nothing_alive(forward):
    """Without the cyclic garbage collector, which knows nothing of GPU memory."""

    def alive():
        return sum(type(x) is torch.Tensor and x.shape == (1013,) for x in gc.get_objects())

    def run():
        low = torch.tensor(2.0, requires_grad=True)
        with region(forward, 0.3):
            x, on = torch.full((1013,), 2.0), torch.zeros(1013, dtype=torch.bool)
            for step in range(4):
                on = (on | (x < low)) & ~(x > low + 2)
                x = x + 0.1 * (step - x) + 0.8 * on
            x.mean().backward()

    run()
    gc.collect()
    gc.disable()
    try:
        before = alive()
        for _ in range(5):
            run()
        assert alive() <= before + 2
    finally:
        gc.enable()


@pytest.mark.parametrize("kind", ["elementwise", "matmul", "float matmul", "einsum"])
def test_each_factor_of_a_product_sees_the_other_as_the_program_takes_it(kind):
    product = {
        "elementwise": lambda a, b: (a.int() * b.int()).double(),
        "matmul": lambda a, b: (a.int()[None] @ b.int()[:, None]).double(),
        "float matmul": lambda a, b: a[None] @ b[:, None],
        "einsum": lambda a, b: torch.einsum("i,i->", a.long(), b.long()).double(),
    }[kind]
    a = torch.tensor([0.6], dtype=torch.float64, requires_grad=True)
    b = torch.tensor([1.3], dtype=torch.float64, requires_grad=True)
    with sll.linearize("auto"):
        out = product(torch.round(a), torch.round(b)).sum()
    assert out == 1 and torch.autograd.grad(out, (a, b)) == (pytest.approx(1), pytest.approx(1))


def test_a_float_factor_sees_the_integer_that_the_program_takes():
    a = torch.tensor([0.6, 1.8], dtype=torch.float64, requires_grad=True)
    scale = torch.tensor(3.0, dtype=torch.float64, requires_grad=True)
    with sll.linearize("auto"):
        out = torch.round(a).int().sum() * scale
    assert out == 9 and torch.autograd.grad(out, (scale, a))[0] == 3
