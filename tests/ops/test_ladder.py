"""The derivatives of choices and orders by intervals are those of the projections, whoever computes them."""

from __future__ import annotations

import math

import pytest
import torch

import sll
from sll._ops import ladder, projections
from sll._ops.ladder import Ladder
from sll._ops.order import Order, first_k, rank
from sll._ops.projections import Projection

HALVES = [0.01, 0.3, 2.1, 100.0]
SHAPES = [(1,), (2,), (5,), (33,), (4, 17), (2, 3, 6)]


@pytest.fixture(params=["NumPy", "torch"])
def few(request, monkeypatch):
    for module in (ladder, projections):
        monkeypatch.setattr(module, "FEW", 4096 if request.param == "NumPy" else 0)


def rows(shape, seed=0):
    generator = torch.Generator().manual_seed(seed)
    return [torch.randn(2, *shape, generator=generator, dtype=torch.float64) for _ in range(3)]


@pytest.mark.parametrize("half", HALVES)
@pytest.mark.parametrize("shape", SHAPES[1:])
def test_what_is_linear_in_an_order(few, shape, half):
    costs, at_place, of_element = rows(shape)
    scores = (-costs[0]).requires_grad_()
    n, index = shape[-1], costs[0].argsort(-1)
    order = Order(scores.gather(-1, index), index, half, max(1, n - 1))
    around = order.neighbours().expand(order.rows.shape)
    elements = of_element.unsqueeze(-2).expand(2, *shape[:-1], n, n).gather(-1, around.expand(2, *around.shape))
    (want,) = torch.autograd.grad((order.rows * elements * at_place.unsqueeze(-1)).sum(), scores)
    found = Ladder(costs[0], index, half).mixed(at_place, of_element)
    torch.testing.assert_close(-found, want, rtol=1e-9, atol=1e-9)


@pytest.mark.parametrize("half", HALVES)
@pytest.mark.parametrize("shape", SHAPES)
def test_ranks(few, shape, half):
    (costs, _), (g, _), _ = rows(shape)
    costs = (4 * costs).round() / 4
    x = costs.clone().requires_grad_()
    (want,) = torch.autograd.grad(rank(x, half), x, g)
    torch.testing.assert_close(Ladder(costs, costs.argsort(-1), half).ranks(g), want, rtol=1e-9, atol=1e-9)


@pytest.mark.parametrize("largest", [True, False])
@pytest.mark.parametrize("k", [1, 2, 4])
@pytest.mark.parametrize("half", HALVES)
@pytest.mark.parametrize("shape", SHAPES[2:])
def test_the_first_few(few, shape, half, k, largest):
    (x, _), (g, _), _ = rows(shape)
    x = x.requires_grad_()
    mask = first_k(x if largest else -x, k, half)[0]
    (want,) = torch.autograd.grad(mask, x, g)
    found = Projection(k, -1, largest, half, ordered=True).gradient(x.detach(), g)
    torch.testing.assert_close(found, want, rtol=1e-9, atol=1e-9)
    other = Projection(k, 0, largest, half, ordered=True).gradient(x.detach().movedim(-1, 0), g)
    torch.testing.assert_close(other.movedim(0, -1), want, rtol=1e-9, atol=1e-9)


@pytest.mark.parametrize("special", [math.nan, math.inf, -math.inf])
def test_what_has_no_distance_has_no_gradient(few, special):
    x = torch.tensor([0.1, special, 0.3, special, 0.25], dtype=torch.float64)
    costs = x.nan_to_num(math.inf, math.inf, -math.inf)
    g = torch.tensor([1.0, 2, 4, 8, 16], dtype=torch.float64)
    found = Ladder(costs, costs.argsort(), 0.2).mixed(g[None], g.flip(0)[None])
    near = Projection(2, -1, False, 0.2, ordered=True).gradient(x, g)
    assert found.isfinite().all() and near.isfinite().all()
    assert not found[[1, 3]].any() and not near[[1, 3]].any() and found.any()


@pytest.mark.parametrize("special", [math.nan, math.inf])
def test_gradients_that_are_not_finite_stay_in_their_bands(few, special):
    costs = torch.tensor([0.0, 0.1, 5.0, 5.1, 9.0], dtype=torch.float64)
    g = torch.tensor([1.0, special, 2.0, 3.0, 4.0], dtype=torch.float64)
    steps, index = Ladder(costs, torch.arange(5), 0.5), torch.arange(5.0, dtype=torch.float64)
    for found in (steps.ranks(g), steps.mixed(g[None], index[None]), steps.mixed(index[None], g[None])):
        assert found[:2].isnan().all() and found[2:].isfinite().all() and found[2:].any()


def test_they_are_linear_in_what_comes_back():
    """Second derivatives, and many at once."""
    costs, (g, _), _ = rows((6,))
    steps = Ladder(costs[0], costs[0].argsort(), 1.0)
    choice = Projection(1, -1, True, 1.0)
    for backward in (steps.ranks, lambda g: choice.gradient(costs[0], g), lambda g: steps.mixed(g[None], costs[1:])):
        matrix = torch.autograd.functional.jacobian(backward, g)
        torch.testing.assert_close(matrix @ g, backward(g))
        torch.testing.assert_close(torch.func.vmap(backward)(torch.eye(6, dtype=g.dtype)), matrix.mT)


def test_halves_that_numpy_does_not_have():
    x = torch.tensor([0.5, -1.0, 0.25, 2.0], dtype=torch.bfloat16, requires_grad=True)
    with sll.linearize(1.0, forward="straight-through"):
        torch.gather(2 * x, 0, x.sort(0).indices).square().sum().backward()
    assert x.grad.isfinite().all() and x.grad.dtype == torch.bfloat16


@pytest.mark.parametrize("half", [0.01, 0.3, 10.0])
@pytest.mark.parametrize("k", [1, 3, 40])
def test_shares_of_few_places_are_those_of_all(k, half):
    """Who is far from these places is left out, and has no share."""
    torch.manual_seed(0)
    x, table = torch.randn(3, 90, dtype=torch.float64), torch.randn(90, dtype=torch.float64)
    x = torch.cat([(4 * x[:1]).round() / 4, x[1:]]).requires_grad_()
    with sll.linearize(half, forward="straight-through"):
        found = table[x.topk(k).indices]
    first = [sll.topk_mask(x, i, -1, eps=half) if i else torch.zeros_like(x) for i in range(k + 1)]
    right = torch.stack([(b - a) @ table for a, b in zip(first, first[1:])], -1)
    weights = torch.linspace(0.5, 2, k, dtype=torch.float64)
    found, right = (torch.autograd.grad((weights * y).sum(), x)[0] for y in (found, right))
    torch.testing.assert_close(found, right)
