"""`searchsorted` and `bucketize`: slopes worked out by hand."""

from __future__ import annotations

from unittest import mock

import pytest
import torch

import sll
from local_slopes import T, worked_out
from sll._carry.shadows import boundaries

RULES = [
    ("bucketize", lambda x: T[torch.bucketize(x, torch.tensor([0.0, 1, 3]).double())], 0.9, 2 * (4 - 1)),
    ("bins no wider than half", lambda x: torch.bucketize(x, torch.tensor([0, 0.2]).double()).double(), 0.05, 5),
    ("learned edges", lambda x, y: T[torch.searchsorted(torch.stack([y, y + 2]), x)], (0.1, 0.0), (-8, 8)),
]


@pytest.mark.parametrize(("f", "values", "wanted"), [row[1:] for row in RULES], ids=[row[0] for row in RULES])
def test_rule(f, values, wanted):
    worked_out(f, values, wanted)


def test_what_is_worked_out_late_is_of_the_numbers_as_they_were():
    def f(x, edges, writes):
        y, edges = x.clone(), edges.clone()
        i = torch.searchsorted(edges, y)
        if writes:
            y.zero_(), edges.zero_()
        return T[i]

    x, edges = torch.tensor([0.1, 0.9, 2.9]).double().requires_grad_(), torch.tensor([0.0, 1, 3]).double()
    found = []
    for writes in (False, True):
        with sll.linearize(0.4, forward="straight-through"):
            y = f(x, edges, writes)
        found.append(torch.autograd.grad(y.sum(), x)[0])
    assert torch.equal(*found) and found[0].all()


@pytest.mark.parametrize("edges", [[0.0, 1, 3], [0.0, 1, 1, 3], [1.0], [0.0, 0, 0]])
def test_equal_edges_are_one_boundary(edges):
    """(Edges that differ need no search for their like.)"""
    edges, x = torch.tensor(edges).double(), torch.linspace(-1, 4, 41).double().requires_grad_()
    with sll.linearize(0.3, forward="straight-through"):
        y = torch.searchsorted(edges, x).double()
    places = edges.unique()
    away = (x.detach().unsqueeze(-1) - places).abs()
    half = torch.full_like(places, 0.3)
    for i, gap in enumerate(places.diff() / 2):
        half[i], half[i + 1] = min(half[i], gap), min(half[i + 1], gap)
    many = (edges.unsqueeze(-1) == places).sum(0)
    wanted = (many / (2 * half))[away.argmin(-1)] * (away.amin(-1) <= half[away.argmin(-1)])
    torch.testing.assert_close(torch.autograd.grad(y.sum(), x)[0], wanted)


def test_an_index_that_nobody_uses_asks_for_no_distances():
    x = torch.randn(1000).requires_grad_()
    with sll.linearize("auto") as region, mock.patch.object(boundaries, "nearest_boundary") as asked:
        torch.bucketize(x, torch.linspace(-2, 2, 9))
    assert not asked.called and not region.report().lost


BATCHED = {
    "searchsorted": lambda x: T[torch.searchsorted(torch.tensor([0.0, 1, 3]).double(), x)] * x,
    "histc": lambda x: x.histc(4, -2, 2).square(),
    "count": lambda x: ((x > 0).sum() > 2).double() * x,
    "topk": lambda x: T[x.topk(2).indices],
    "ranks": lambda x: (x.argsort().argsort() > 2).double(),
    "kthvalue": lambda x: T[x.kthvalue(2).indices],
}


@pytest.mark.parametrize("name", BATCHED)
@pytest.mark.parametrize("eps", ["auto", 0.5])
def test_many_gradients_at_once(name, eps):
    x = torch.tensor([0.3, -0.2, 1.4, 0.1, 0.35], dtype=torch.float64)

    def jacobian(vectorize):
        with sll.linearize(eps, forward="straight-through", on_lost="ignore"):
            return torch.autograd.functional.jacobian(BATCHED[name], x, vectorize=vectorize)

    torch.testing.assert_close(jacobian(True), jacobian(False))
