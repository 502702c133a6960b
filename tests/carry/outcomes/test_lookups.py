"""Lookups in an engine that works outcomes out late."""

from __future__ import annotations

import pytest
import torch

import sll
from oracles import grads, leaf


def test_an_index_may_change_after_the_lookup():
    x, k, row = leaf(0.1, 0.2, 0.3), torch.tensor(0), [0]
    with sll.linearize(0.5):
        m = x > 0
        out = []
        for i in range(3):
            out.append(m[k].float())
            out.append(m[row].float())
            if i < 2:
                k += 1
                row[0] += 1
    for i, y in enumerate(out):
        assert [g != 0 for g in grads(y, x)] == [j == i // 2 for j in range(3)]


LOOKUPS = {
    "[]": lambda table, i: table[i],
    "index_select": lambda table, i: table.index_select(0, i),
    "gather": lambda table, i: table.gather(0, i),
    "take_along_dim": lambda table, i: table.take_along_dim(i, 0),
    "take": lambda table, i: table.take(i),
}


@pytest.mark.parametrize("index", ["chosen", "rounded"])
@pytest.mark.parametrize("name", LOOKUPS)
def test_a_table_that_carries_decisions_is_looked_up_by_every_function(name, index):
    """At an index that carries others: the mask goes on, and is no more than its values there and here."""
    x = torch.tensor([0.29, 0.31, -0.35], dtype=torch.float64)
    y = torch.tensor([-0.02, 0.04, 0.5], dtype=torch.float64)

    def results(look):
        a, b = (t.clone().requires_grad_() for t in (x, y))
        with sll.linearize(0.1, forward="linear"):
            i = a.argmax().reshape(1) if index == "chosen" else torch.round(a * 5).long().clamp(0, 2)
            out = (look(b > 0, i).double() * torch.tensor([1.0, 10.0, 100.0])[: len(i)]).sum()
        return out.detach(), *torch.autograd.grad(out, (a, b))

    def spelled_out(table, i):
        return (i.unsqueeze(-1) == torch.arange(3)).double() @ table.double()

    for got, want in zip(results(LOOKUPS[name]), results(spelled_out)):
        torch.testing.assert_close(got, want, check_dtype=False)


def test_a_looked_up_number_that_is_open_is_compared_with_what_it_may_be():
    """3 or 0 with equal weights is more than 0 with a weight of 1/2; its expectation, a count, would be surely."""
    y = torch.tensor([0.0, 1.0], dtype=torch.float64, requires_grad=True)
    scores = torch.tensor([1.0, 0.0], dtype=torch.float64, requires_grad=True)
    with sll.linearize(0.1, forward="linear"):
        table = (y > -0.05).long() * 3
        more = (table[scores.argmax()] > 0).double()
    torch.testing.assert_close(more.detach(), torch.tensor(0.75, dtype=torch.float64))
    torch.testing.assert_close(torch.autograd.grad(more, y)[0], torch.tensor([5.0, 0.0], dtype=torch.float64))
