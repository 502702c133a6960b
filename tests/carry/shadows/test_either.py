"""Floats that are one of two numbers: deciding on them asks which, whatever the question is called."""

from __future__ import annotations

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

import sll
from sll._carry.shadows.shadow import Either, carried

ASKED = {
    "bool": lambda m: m.bool(),
    "to(bool)": lambda m: m.to(torch.bool),
    "!= 0": lambda m: m != 0,
    "== 0": lambda m: ~(m == 0),
    "== 1": lambda m: m == 1,
    "logical_not": lambda m: ~torch.logical_not(m),
    "> 0": lambda m: m > 0,
    ">= 1": lambda m: m >= 1,
    "< 1": lambda m: ~(m < 1),
    "1 > 1 - m": lambda m: 1 > 1 - m,
    "long, bool": lambda m: m.long().bool(),
    "int == 1": lambda m: m.int() == 1,
    "byte": lambda m: m.byte() > 0,
    "round": lambda m: torch.round(m) > 0,
    "sign": lambda m: torch.sign(m) == 1,
    "exp": lambda m: m.exp() > 2,
    "float32": lambda m: m.float() > 0.5,
    "isinf": lambda m: torch.isinf(1 / m.clamp(0, 1).sub(1)),
}
MADE = {
    "topk": lambda x: torch.zeros_like(x).scatter(-1, x.topk(2, -1).indices, 1.0),
    "topk, in place": lambda x: torch.zeros_like(x).scatter_(-1, x.topk(2, -1).indices, 1.0),
    "topk, ones": lambda x: torch.zeros_like(x).scatter(-1, x.topk(2, -1).indices, torch.ones(3, 2).double()),
    "argmax": lambda x: written(torch.zeros_like(x), (torch.arange(len(x)), x.argmax(-1)), 1.0),
    "all but the last": lambda x: torch.ones_like(x).scatter(-1, x.argsort(-1, descending=True)[:, 2:], 0.0),
    "moved": lambda x: MADE["topk"](x).t().reshape(2, -1).flip(0).reshape(4, 3).t(),
    "index_fill": lambda x: torch.zeros(4).double().index_fill(0, x[0].topk(2).indices, 1.0).expand(3, 4),
}  # fmt: skip
WEIGHTS = torch.arange(1.0, 13).double().reshape(3, 4)
AT = torch.tensor([[0.0, 0.02, -0.5, 0.5], [1.0, 0.3, 0.32, 0.9], [2.0, 1.99, 1.98, 0.0]]).double()


def written(x, index, value):
    x[index] = value
    return x


def gradient(program, at, forward, eps=0.1):
    x = at.clone().requires_grad_()
    with sll.linearize(eps, forward=forward, on_lost="error"):
        y = program(x)
        (found,) = torch.autograd.grad(y.sum(), x)
    return y.detach(), found


@pytest.mark.parametrize("forward", ["straight-through", "hard", "linear"])
@pytest.mark.parametrize("asked", ASKED)
@pytest.mark.parametrize("made", MADE)
def test_a_question_about_it_is_one_about_the_choice(made, asked, forward):
    make, ask = MADE[made], ASKED[asked]
    value, found = gradient(lambda x: torch.where(ask(make(x)), WEIGHTS, 0), AT, forward)
    _, want = gradient(lambda x: make(x) * WEIGHTS, AT, forward)
    torch.testing.assert_close(found, want)
    assert want.any()
    if forward != "linear":
        assert torch.equal(value, torch.where(ask(make(AT)), WEIGHTS, 0))


@settings(max_examples=40, deadline=None)
@given(
    st.integers(1, 5), st.integers(2, 6), st.integers(0, 100), st.sampled_from([(0.0, 1.0), (1.0, 0.0), (-2.0, 0.5)])
)
def test_any_shape_and_numbers(rows, columns, seed, numbers):
    old, new = numbers
    x = torch.rand(rows, columns, dtype=torch.float64, generator=torch.Generator().manual_seed(seed))
    k, weights = min(2, columns), torch.arange(1.0, columns + 1).double()
    make = lambda x: torch.full_like(x, old).scatter(-1, x.topk(k, -1).indices, new)
    for forward in ("straight-through", "hard", "linear"):
        _, found = gradient(lambda x: torch.where(make(x) == new, weights, 0.0), x, forward, 0.3)
        _, want = gradient(lambda x: (make(x) - old) / (new - old) * weights, x, forward, 0.3)
        torch.testing.assert_close(found, want)


def test_what_was_pruned_is_known():
    x = AT.clone().requires_grad_()
    with sll.linearize(0.1, forward="straight-through"):
        left = (x * 0 + 5).scatter(-1, x.argsort(-1)[:, :2], 0.0)
        kept = left != 0
        (found,) = torch.autograd.grad((kept * WEIGHTS).sum(), x)
    _, want = gradient(
        lambda x: torch.ones_like(x).scatter(-1, x.argsort(-1)[:, :2], 0.0) * WEIGHTS, AT, "straight-through"
    )
    torch.testing.assert_close(found, want)  # not what the numbers that were left move by


def test_infinite_numbers():
    make = lambda x: torch.full_like(x, -torch.inf).scatter(-1, x.topk(2, -1).indices, 0.0)
    for ask in (lambda m: m == 0, lambda m: ~m.isinf(), lambda m: m > -1):
        _, found = gradient(lambda x, ask=ask: ask(make(x)) * WEIGHTS, AT, "straight-through")
        _, want = gradient(lambda x: MADE["topk"](x) * WEIGHTS, AT, "straight-through")
        torch.testing.assert_close(found, want)


def test_it_is_an_ordinary_float_to_everything_else():
    x = AT.clone().requires_grad_()
    with sll.linearize(0.1, forward="straight-through"):
        mask = MADE["topk"](x)
        assert type(carried(mask)) is Either
        for other in (mask * x, mask + mask.flip(0), mask @ mask.t(), mask.softmax(-1)):
            assert carried(other) is None
        with torch.no_grad():
            assert carried(mask > 0) is None
        before = mask > 0
        mask.mul_(0.0)
        (found,) = torch.autograd.grad((before * WEIGHTS).sum(), x)
    assert found.any()
    assert carried(mask) is None
