"""Writes into tensors, in an engine that carries both outcomes of what is written."""

from __future__ import annotations

import pytest
import torch

import sll
from oracles import grads, leaf


def test_writes_of_floats_into_integers_are_casts():
    x = leaf(1.1, 0.7)
    with sll.linearize(0.5):
        a, b = torch.zeros(2, dtype=torch.long), torch.zeros(2, dtype=torch.long)
        a.copy_(x)
        b[:] = x
        y = (a + b).float()
    assert a.tolist() == b.tolist() == [1, 0]
    assert grads(y, x) == [2, 2]


def test_rows_written_at_a_mask():
    x, rows, row = leaf(5.0, 5.0, -5.0, 5.0, -5.0), torch.arange(9.0).reshape(3, 3), torch.tensor([1.0, 2.0, 3.0])
    want = torch.zeros(5, 3)
    want[x.detach() > 0] = row
    for value in (row, row[None], row.expand(3, 3)):
        with sll.linearize(0.5):
            y = torch.zeros(5, 3)
            y[x > 0] = value
        assert torch.equal(y, want)
    with sll.linearize(0.5):
        y = torch.zeros(5, 3)
        y[x > 0] = rows
    assert torch.equal(y[[0, 1, 3]], rows)


WRONG = {
    "bool_plus_float": lambda m: m.__iadd__(1.5),
    "int_times_float": lambda m: m.int().mul_(leaf(1.5)),
    "mask_shape": lambda m: torch.zeros(3).__setitem__(m, 1.0),
    "row_count": lambda m: torch.zeros(2).__setitem__(m, torch.zeros(7)),
}


@pytest.mark.parametrize("name", WRONG)
def test_what_raises_outside_raises_inside(name):
    with pytest.raises((RuntimeError, IndexError)) as outside:
        WRONG[name](torch.tensor([True, True]))
    with pytest.raises(outside.type), sll.linearize(0.5, on_lost="ignore"):
        WRONG[name](leaf(1.0, 2.0) > 0)


def test_a_mask_copied_to_itself():
    x = leaf(0.02, 1.0)
    with sll.linearize(0.05):
        mask = x > 0
        assert mask.copy_(mask) is mask
        y = mask.float()
    assert grads(y, x) == [10, 0]


def test_a_source_that_is_longer_than_its_index_is_scattered_in_part():
    y = torch.tensor([[0.02, -0.03], [5.0, 5.0]], dtype=torch.float64, requires_grad=True)
    with sll.linearize(0.1, forward="linear"):
        out = torch.zeros(1, 2, dtype=torch.long).scatter_add(1, torch.tensor([[1, 0]]), (y > 0).long()).double()
    torch.testing.assert_close(out.detach(), torch.tensor([[0.35, 0.6]], dtype=torch.float64))
    grad = torch.autograd.grad(out.sum(), y)[0]
    torch.testing.assert_close(grad, torch.tensor([[5.0, 5.0], [0.0, 0.0]], dtype=torch.float64))
