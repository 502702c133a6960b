"""What choices and orders carry, and where that is lost."""

from __future__ import annotations

import pytest
import torch
from torch.func import grad, vmap

import sll
from inputs import START, V
from sll._carry.outcomes.carriers import carrier
from sll._carry.outcomes.engine import ENGINE

EPS = 0.01


def test_a_detached_alias_is_not_the_source():
    x = torch.tensor([0.5, 0.55, 0.0], dtype=torch.float64, requires_grad=True)
    for alias in (x.detach(), x.data, x.detach().clone()):
        with sll.linearize(0.1):
            y = (alias >= x.max()).double() @ V
            z = (alias >= x.max() + 0).double() @ V
        torch.testing.assert_close(*(torch.autograd.grad(t, x)[0] for t in (y, z)))


@pytest.mark.parametrize(
    "f",
    [
        lambda x: V.gather(0, x.argmax(0, keepdim=True)).sum(),
        lambda x: (V[x.argsort()] * V).sum(),
        lambda x: (x.topk(2).indices == 1).any() * x.sum(),
        lambda x: ((x >= x.max()) * V).sum(),
        lambda x: (x.argsort().argsort() * V).sum(),
    ],
)
def test_vmap_of_grad(f):
    x = torch.stack([START, torch.tensor([0.525, 0.53, 0.0], dtype=torch.float64)])
    with sll.linearize(EPS):
        rows = torch.stack([grad(f)(row) for row in x])
        torch.testing.assert_close(vmap(grad(f))(x), rows)
    assert rows[1].any()


@pytest.mark.parametrize(
    "f",
    [
        lambda x, i: V[:i], lambda x, i: V[i:], lambda x, i: V.narrow(0, i, 1),
        lambda x, i: V.select(0, i), lambda x, i: V.split([i, 3 - i]),
    ],
)  # fmt: skip
def test_bounds_and_offsets_are_reported(f):
    x = torch.tensor([0.525, 0.53, 0.0], requires_grad=True)
    with sll.linearize(EPS) as region, pytest.warns(sll.LostGradientWarning):
        f(x, x.argmax())
    assert sum(region.report().lost.values()) >= 1


def test_types_and_what_is_left():
    x = torch.randn(4, 5, requires_grad=True)
    with sll.linearize(0.5):
        results = [x.sort(1), x.topk(2, 1), x.max(1), x.min(0), x.kthvalue(2, 1), x.median(1)]
        others = [x.argmax(1), x.argsort(0), x[x > 0], (x > 0).nonzero(), x >= x.amax(1, keepdim=True), x.amax(1)]
        assert all(hasattr(t, "_sll") for t in others)
    for result, f in zip(results, ("sort", "topk", "max", "min", "kthvalue", "median")):
        assert type(result) is getattr(torch.return_types, f)
        assert type(result.indices) is torch.Tensor and result.indices.dtype == torch.int64
        others.extend(result)
    assert not any(vars(t) for t in others)


def test_switched_off():
    x = torch.tensor([0.525, 0.53, 0.0], requires_grad=True)
    with sll.linearize(EPS, exclude=("argmax", "sort", "topk", "searchsorted")):
        for index in (x.argmax(), x.argsort(), x.topk(2).indices, torch.bucketize(x, torch.tensor([0.53]))):
            assert not vars(index)
    with sll.linearize(EPS), torch.no_grad():
        assert not ENGINE.carried(x.argmax()) and not ENGINE.carried(x.sort().values)
    with sll.linearize({"default": EPS, "argmax": 1.0}):
        assert carrier(x.argmax()).weights.max() < 0.6


EPS = 0.01


@pytest.mark.parametrize("choose", [lambda y: y.argmax(), lambda y: y.topk(1).indices, lambda y: y.argsort()])
def test_input_modified_before_the_index_is_used(choose):
    """The weights are worked out when they are asked for, of the input as it was."""
    x = torch.tensor([0.525, 0.53, 0.0], requires_grad=True)
    with sll.linearize(EPS) as region:
        expected = torch.autograd.grad(V[choose(x)].reshape(-1)[-1], x)[0]
        y = x * 1
        index = choose(y)
        y.mul_(-1)
        out = V[index]
    assert expected.any() and torch.equal(torch.autograd.grad(out.reshape(-1)[-1], x)[0], expected)
    assert not region.report().lost
