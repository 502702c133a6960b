"""Writes at a decided index: the same differences, whatever the function is called."""

from __future__ import annotations

import pytest
import torch
import torch.nn.functional as F

import sll
from local_slopes import EPS, T, region, scores, slope, worked_out
from lookups import TABLE
from sll._carry.shadows.engine import ENGINE

WRITES = {
    "scatter": lambda y, i, v: y.scatter(0, i[None], v),
    "index_fill": lambda y, i, v: y.index_fill(0, i[None], v),
    "index_fill from the end": lambda y, i, v: y.index_fill(0, i[None] - 5, v),
    "index_copy": lambda y, i, v: y.index_copy(0, i[None], y.new_full((1,), v)),
    "index_put": lambda y, i, v: y.index_put((i,), y.new_tensor(v)),
    "setitem": lambda y, i, v: setitem(y.clone(), i, v),
    "setitem after ...": lambda y, i, v: setitem(y.clone(), (..., i), v),
    "setitem in a row": lambda y, i, v: setitem(y.expand(3, 5).clone(), (1, i), v)[1],
    "where": lambda y, i, v: torch.where(torch.arange(5) == i, torch.tensor(v, dtype=y.dtype), y),
    "scatter_": lambda y, i, v: y.clone().scatter_(0, i[None], v),
}
ADDS = {
    "scatter_add": lambda y, i, v: y.scatter_add(0, i[None], y.new_full((1,), v)),
    "index_add": lambda y, i, v: y.index_add(0, i[None], y.new_full((1,), v)),
    "index_add alpha": lambda y, i, v: y.index_add(0, i[None], y.new_full((1,), 1), alpha=v),
    "index_put": lambda y, i, v: y.index_put((i,), y.new_tensor(v), accumulate=True),
    "one_hot": lambda y, i, v: y + v * F.one_hot(i, 5).to(y.dtype),
}
ONE = {
    "round": lambda x: torch.round(x[0]).long(),
    "argmax": lambda x: x.argmax(),
    "topk": lambda x: x.topk(1).indices[0],
}


def setitem(y, i, v):
    y[i] = v
    return y


@pytest.mark.parametrize("dtype", [torch.float64, torch.int64])
@pytest.mark.parametrize("index", ONE)
@pytest.mark.parametrize("name", [*WRITES, *(f"add {name}" for name in ADDS)])
def test_all_writes_are_one(name, index, dtype):
    functions = ADDS if name.startswith("add ") else WRITES
    x = torch.tensor([1.45, 1.4, 1.0, 0.2, 1.35], dtype=torch.float64, requires_grad=True)
    make = lambda f: lambda x: f(TABLE.to(dtype), ONE[index](x), 3).double() * torch.arange(1.0, 6)
    want = slope(make(next(iter(functions.values()))), x)
    assert want.any()
    torch.testing.assert_close(slope(make(functions[name.removeprefix("add ")]), x), want)


@pytest.mark.parametrize("make", [
    lambda x: torch.zeros(2, 4).double().scatter(1, x.topk(2, 1).indices, 1.0),
    lambda x: torch.stack([setitem(torch.zeros(4).double(), row.topk(2).indices, 1.0) for row in x]),
    lambda x: setitem(torch.zeros(2, 4).double(), (torch.arange(2)[:, None], x.topk(2, 1).indices), 1.0),
    lambda x: torch.zeros(2, 4).long().scatter(1, x.topk(2, 1).indices, 1).double(),
    lambda x: torch.zeros(2, 4, dtype=torch.bool).scatter(1, x.argsort(1, descending=True)[:, :2], True).double(),
    lambda x: torch.zeros(4, 2).double().scatter(0, x.t().topk(2, 0).indices, 1.0).t(),
])  # fmt: skip
def test_a_set_written_as_ones_is_the_mask_of_the_set(make):
    x = torch.tensor([[0.5, 0.3, 0.45, 0.4], [0.1, 0.2, 0.0, 0.15]], dtype=torch.float64, requires_grad=True)
    up = torch.tensor([[1.0, 2, 4, 8], [16, 32, 64, 128]], dtype=torch.float64)
    (want,) = torch.autograd.grad(sll.topk_mask(x, 2, eps=EPS), x, up)
    with region():
        y = make(x)
    torch.testing.assert_close(torch.autograd.grad(y, x, up)[0], want)


def test_a_set_of_rows_is_not_a_set_of_columns():
    """Indices of the largest of each row, written as places in each column."""
    x = torch.tensor([[0.5, 0.4, 0.1], [0.1, 0.2, 0.15], [0.3, 0.0, 0.2]], dtype=torch.float64, requires_grad=True)
    with region():
        y = torch.zeros(3, 3).double().scatter(0, x.topk(2, 1).indices, 1.0)
        z = (
            torch.zeros(3, 3)
            .double()
            .index_put((x.topk(2, 1).indices, torch.arange(2).expand(3, 2)), TABLE[:1] * 0 + 1)
        )
    up = torch.arange(9.0, dtype=torch.float64).reshape(3, 3)
    torch.testing.assert_close(*(torch.autograd.grad(t, x, up)[0] for t in (y, z)))


def test_what_stood_in_a_tensor_that_is_overwritten_does_not_matter():
    x = torch.tensor([0.5, 0.3, 0.45], dtype=torch.float64, requires_grad=True)
    found = []
    for fill in (0, 2**62):
        with region():
            ranks = torch.full((3,), fill).scatter_(0, x.argsort(), torch.arange(3)).double()
        found.append(torch.autograd.grad(ranks, x, torch.tensor([1.0, 2.0, 4.0]).double())[0])
    assert torch.equal(*found) and found[0].any()


@pytest.mark.parametrize("quick", [True, False])
def test_an_index_may_be_overwritten(quick, monkeypatch):
    if not quick:
        monkeypatch.setattr(type(ENGINE), "quick_on", {})
    found = []
    for overwritten in (False, True):
        x = torch.tensor([0.3, -0.1, 0.5, 0.2], requires_grad=True)
        with region():
            order = x.argsort()
            ranks, sums = torch.zeros(2, 4, dtype=torch.int64).unbind()
            ranks = ranks.clone()
            ranks[order] = torch.arange(4)
            places, sums = order.argsort(), sums.clone()
            sums.scatter_add_(0, places, ranks)
            out = sums.to(x.dtype)
            if overwritten:
                for index in (order, places, ranks):
                    index.zero_()
        found += torch.autograd.grad(out, x, torch.tensor([1.0, -2.0, 4.0, 0.5]))
    assert found[0].any() and torch.equal(*found)


def test_a_reduction_is_lost():
    x = torch.tensor([0.5, 0.4], requires_grad=True)
    with region(), pytest.raises(sll.LostGradientError, match="reduce="):
        torch.zeros(2).scatter(0, x.argmax()[None], 1.0, reduce="add")


# --- worked out by hand --------------------------------------------------------------------------------------------

RULES = [
    ("scatter", lambda x: torch.zeros(3).double().scatter(0, scores(x).argmax(0, True), 2.0) @ T[:3], 0.1, 2 * 2 * 4),
    ("scatter over", lambda x: torch.ones(3).double().scatter(0, scores(x).argmax(0, True), 2.0) @ T[:3], 0.1, 2 * 4),
    (
        "scatter_add",
        lambda x: torch.ones(3).double().scatter_add(0, torch.round(x).long().reshape(1), T[:1]) @ T[:3],
        1.4,
        2 * 5 * (4 - 1),
    ),
    (
        "index_add",
        lambda x: torch.zeros(5).double().index_add(0, torch.floor(x).long().reshape(1), T[4:]) @ T,
        2.1,
        2 * 9 * (4 - 1),
    ),
]


@pytest.mark.parametrize(("f", "values", "wanted"), [row[1:] for row in RULES], ids=[row[0] for row in RULES])
def test_rule(f, values, wanted):
    worked_out(f, values, wanted)
