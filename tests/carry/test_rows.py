"""Writes to what is read at a decided index of no dimensions: a view to the program."""

from __future__ import annotations

import pytest
import torch

import sll

MODES = ("straight-through", "hard", "linear")
V, W = torch.tensor(2.0, dtype=torch.float64), torch.tensor([1.0, 2.0, 4.0], dtype=torch.float64)


def _in_steps(row):
    row += 1
    row[0] = 5.0


def _twice(row):
    row += 1
    row += 1


WRITES = {  # name: what is done to y[i], and y[i] then
    "add_": (lambda row: row.add_(2), [2.0, 2.0]),
    "fill_": (lambda row: row.fill_(3.0), [3.0, 3.0]),
    "copy_": (lambda row: row.copy_(V), [2.0, 2.0]),
    "assigned": (lambda row: row.__setitem__(0, 5.0), [5.0, 0.0]),
    "in steps": (_in_steps, [5.0, 1.0]),
    "twice": (_twice, [2.0, 2.0]),
    "a view": (lambda row: row[1].add_(2), [0.0, 2.0]),
    "a view of all": (lambda row: row.view(2, 1).mul_(2).add_(1), [1.0, 1.0]),
}


@pytest.mark.parametrize("forward", MODES)
@pytest.mark.parametrize("name", WRITES)
@pytest.mark.parametrize("dtype", [torch.float64, torch.int64])
def test_writes_reach_the_table(name, forward, dtype):
    write, row = WRITES[name]
    x = torch.tensor([0.5, 0.46, -1.0], dtype=torch.float64, requires_grad=True)
    with sll.linearize(0.1, forward=forward, on_lost="error"):
        y = torch.zeros(3, 2, dtype=dtype)
        write(y[x.argmax()])
        shown = (y * W[:, None]).double()
    if forward != "linear":
        assert shown.tolist() == [row, [0, 0], [0, 0]]
    there = sum(row) * 5  # the slope of the choice
    assert torch.autograd.grad(shown.sum(), x)[0].tolist() == pytest.approx([-there, there, 0])


@pytest.mark.parametrize("forward", MODES)
def test_augmented_assignment_writes_once(forward):
    grads = []
    for write in ("+=", "add_"):
        x = torch.tensor([0.5, 0.46, -1.0], dtype=torch.float64, requires_grad=True)
        with sll.linearize(0.1, forward=forward, on_lost="error"):
            y, i = torch.arange(3.0, dtype=x.dtype), x.argmax()
            if write == "+=":
                y[i] += V
                y[i] *= 3
            else:
                y[i].add_(V)
                y[i].mul_(3)
        grads.append(torch.autograd.grad((y * W).sum(), x)[0])
    assert torch.equal(*grads)
    if forward == "hard":
        assert grads[0][0] == pytest.approx((16 - 26) * 5)


@pytest.mark.parametrize("forward", MODES)
def test_reading_changes_nothing(forward):
    x = torch.tensor([0.5, 0.46, -1.0], dtype=torch.float64, requires_grad=True)
    with sll.linearize(0.1, forward=forward, on_lost="error") as region:
        row = W[x.argmax()]
        row = row + 1
    assert torch.autograd.grad(row, x)[0].tolist() == pytest.approx([-5, 5, 0])
    assert not region.report().lost
    assert W.tolist() == [1, 2, 4]


@pytest.mark.parametrize("forward", MODES)
def test_what_is_written_in_between_is_refused(forward):
    x = torch.tensor([0.5, 0.46, -1.0], requires_grad=True)
    with sll.linearize(0.1, forward=forward), pytest.raises(RuntimeError, match="y was written to"):
        y = torch.zeros(3)
        row = y[x.argmax()]
        y[0] = 1.0
        row += 1
