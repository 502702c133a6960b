"""Histograms with their edges, exponents, and equal integers."""

from __future__ import annotations

import pytest
import torch

import sll
from defined import MODES, gradient, hold_the_line_integral, path, same_as_without, weighed

EDGES = torch.tensor([-1.0, -0.2, 0.5, 1.0], dtype=torch.float64)
WEIGHT = torch.tensor([1.0, 2.0, 0.5, 3.0, 1.5], dtype=torch.float64)


def whole(x):
    return torch.round(x + 3).long()


PROGRAMS = {
    "histogram": (lambda x: weighed(torch.histogram(x, 4, range=(-2.0, 2.0)).hist), (5,)),
    "histogram, weighted": (lambda x: weighed(torch.histogram(x, EDGES, weight=WEIGHT).hist), (5,)),
    "histogramdd": (lambda x: weighed(torch.histogramdd(x.view(3, 2), [3, 2], range=[-2.0, 2.0, -2.0, 2.0])[0]), (6,)),
    "exponent": (lambda x: weighed(torch.frexp(x + 2.5).exponent), (5,)),
    "mantissa": (lambda x: weighed(torch.frexp(x + 2.5).mantissa), (5,)),
    "unique": (lambda x: weighed(torch.unique(whole(x), return_inverse=True)[1]), (5,)),
    "unique_consecutive": (lambda x: weighed(torch.unique_consecutive(whole(x), return_inverse=True)[1]), (5,)),
}


@pytest.mark.parametrize("name", PROGRAMS)
def test_line_integral(name):
    hold_the_line_integral(*PROGRAMS[name], wide=0.3)


@pytest.mark.parametrize("func", [
    lambda x: torch.histogram(x.flatten(), 5), lambda x: torch.histogram(x.flatten(), EDGES, density=True),
    lambda x: torch.frexp(x), lambda x: torch.unique(whole(x), return_inverse=True, return_counts=True),
    lambda x: torch.unique_consecutive(x.argmax(1), return_inverse=True, return_counts=True),
    lambda x: torch.histogramdd(x, [3, 2, 4]), lambda x: torch.frexp(x.float() * 1e-42),
    lambda x: torch.unique(whole(x), return_counts=True),
])  # fmt: skip
def test_values_are_those_of_torch(func):
    assert same_as_without(func, path(7, 3)[0].requires_grad_())


def test_powers_of_two_have_their_exponent():
    x = torch.cat([torch.exp2(torch.arange(-1070.0, 1020.0).double()), torch.tensor([0.0, -4.0, 4 - 1e-15]).double()])
    assert same_as_without(torch.frexp, x.requires_grad_())


@pytest.mark.parametrize("forward", MODES)
def test_counts_of_labels(forward):
    """How many labels occur is open in the first case, which is said; in both the counts have their differences."""
    counts = lambda x: weighed(torch.unique(x.argmax(1), return_counts=True)[1])
    alone = torch.tensor([[0.0, 0.01, -9.0], [-9.0, -9.0, 1.0], [0.5, -9.0, -9.0]], dtype=torch.float64)
    assert gradient(counts, alone, 0.1, forward)[1]
    shared = torch.cat([alone, torch.tensor([[-9.0, 1.0, -9.0], [1.0, -9.0, -9.0]]).double()])
    change = float(torch.cos(torch.tensor(2.0)) - torch.cos(torch.tensor(1.0)))
    found = gradient(counts, shared, 0.1, forward)[0]
    assert found[0].tolist() == pytest.approx([-change / 0.2, change / 0.2, 0])


@pytest.mark.parametrize("forward", MODES)
def test_positions_repeated_are_reported(forward):
    program = lambda x: torch.repeat_interleave((x > 0).long() + 1).sum()
    assert gradient(program, torch.tensor([0.01, 0.5]).double(), 0.1, forward)[1] == ["repeat_interleave"]


@pytest.mark.parametrize("forward", MODES)
def test_weights_that_are_decided(forward):
    program = lambda x: weighed(torch.bincount(torch.tensor([0, 1, 0]), (x > 0).long()))
    g, lost = gradient(program, torch.tensor([0.01, 0.5, -0.02]).double(), 0.1, forward)
    once = 5 * float(torch.cos(torch.tensor(1.0)))
    assert lost == [] and g.tolist() == pytest.approx([once, 0, once])


@pytest.mark.parametrize("mode", ["straight-through", "hard", "linear"])
def test_many_numbers_in_many_bins_take_no_table_of_both(mode):
    """(A table of 1e5 by 1e5 has 80 GB.)"""
    x = (torch.arange(100_000) - 50_000.25).requires_grad_()
    with sll.linearize(1e-3, forward=mode):
        counts = torch.bincount((x > 0).cumsum(0), minlength=100_001)
    assert counts.sum() == 100_000 and counts[0] == 50_001


@pytest.mark.parametrize("mode", ["straight-through", "hard", "linear"])
def test_who_may_leave_the_last_bin_leaves_it(mode):
    x = torch.tensor([0.2, 1.45, 2.45, 2.48], dtype=torch.float64, requires_grad=True)
    with sll.linearize(0.1, forward=mode):
        counts = torch.bincount(x.round().long()).double()
    found = torch.stack([torch.autograd.grad(n, x, retain_graph=True)[0] for n in counts])
    torch.testing.assert_close(found, torch.tensor([[0, 0, 0, 0], [0, -5, 0, 0], [0, 5, -5, -5]]).double())
