"""Lookups with a decided index: the same differences, whatever the function is called."""

from __future__ import annotations

import pytest
import torch
import torch.nn.functional as F

import sll
from local_slopes import EPS, T, count, region, slope, worked_out
from lookups import INDICES, LOOKUPS, TABLE

NOT_OF_COUNTS = {"negative", "where of labels"}
"""A count has no other side; what its neighbours are depends on the function."""


@pytest.mark.parametrize("index", INDICES)
@pytest.mark.parametrize("name", LOOKUPS)
def test_all_lookups_are_one(name, index):
    if index == "count" and name in NOT_OF_COUNTS:
        return
    x = torch.tensor([0.45, 1.1, 3.6, 2.0, 0.9], dtype=torch.float64, requires_grad=True)
    make = lambda f: lambda x: f(TABLE, INDICES[index](x)) * torch.arange(1.0, 6)
    want = slope(make(LOOKUPS["getitem"]), x)
    assert want.any()
    torch.testing.assert_close(slope(make(LOOKUPS[name]), x), want)


def test_the_difference_at_the_boundary():
    """Beyond the end of the table counts as the end."""
    x = torch.tensor([0.45, 1.6, 4.45, -0.45], dtype=torch.float64, requires_grad=True)
    found = slope(lambda x: TABLE[torch.round(x).long()], x)
    torch.testing.assert_close(found, torch.tensor([-3.0, 6.0, 0, 0], dtype=torch.float64) / (2 * EPS))


def test_entries_that_are_not_finite_do_not_leak():
    table = torch.tensor([1.0, torch.inf, 3.0, torch.nan], dtype=torch.float64)
    x = torch.tensor([0.45, 1.9, 2.45], dtype=torch.float64, requires_grad=True)
    scores = torch.tensor([[0.0, -0.1, 0.1, -0.2]], dtype=torch.float64, requires_grad=True)
    assert not slope(lambda x: table[torch.round(x).long()], x).any()
    for look in (lambda s: table[s.argmax(1)], lambda s: table.expand(1, 4).gather(1, s.argmax(1, keepdim=True))):
        g = slope(look, scores, 1.0)
        assert g.isfinite().all() and g.any()


@pytest.mark.parametrize("write", [lambda t: t.mul_(0), lambda t: t.copy_(t.flip(0))])
@pytest.mark.parametrize("index", INDICES)
def test_the_table_is_read_at_the_call(index, write):
    x = torch.tensor([0.45, 1.1, 3.6, 2.0, 0.9], dtype=torch.float64, requires_grad=True)
    want = slope(lambda x: TABLE[INDICES[index](x)], x)
    table = TABLE.clone()

    def program(x):
        y = table[INDICES[index](x)]
        write(table)
        return y

    assert torch.equal(slope(program, x), want)


def test_choices_of_labels_and_of_indices_again():
    """A table of integers, looked up by a choice, chooses among its entries."""
    scores = torch.tensor([[0.5, 0.4, 0.1], [0.0, 0.1, 0.2]], dtype=torch.float64, requires_grad=True)
    labels = torch.tensor([4, 0, 2])
    flags = torch.tensor([True, False, True])
    want = slope(lambda s: F.one_hot(s.argmax(1), 3).double() @ TABLE[labels], scores, 1.0)
    for look in (lambda s: TABLE[labels[s.argmax(1)]], lambda s: TABLE[labels.gather(0, s.argmax(1))],
                 lambda s: TABLE[labels.expand(2, 3)[torch.arange(2), s.argmax(1)]]):  # fmt: skip
        torch.testing.assert_close(slope(look, scores, 1.0), want)
    want = slope(lambda s: F.one_hot(s.argmax(1), 3).double() @ flags.double(), scores, 1.0)
    torch.testing.assert_close(slope(lambda s: flags[s.argmax(1)].double(), scores, 1.0), want)


def test_a_table_of_decisions():
    x = torch.tensor([0.1, 0.45], dtype=torch.float64, requires_grad=True)
    with region():
        table = torch.stack([x[0] > 0, x[0] > 0.15, x[0] > 5]).long()
        y = table[torch.round(x[1]).long()].double()
    assert y == 1
    torch.testing.assert_close(torch.autograd.grad(y, x)[0], torch.tensor([1.0, -1.0]).double() / (2 * EPS))


def test_a_vector_quantizer_trains_scores_and_codes():
    generator = torch.Generator().manual_seed(1)
    x, codes = (torch.randn(n, 3, generator=generator, dtype=torch.float64).requires_grad_() for n in (6, 4))
    up = torch.randn(6, 3, generator=generator, dtype=torch.float64)
    with region(1.0):
        y = codes[torch.cdist(x, codes).argmin(1)]
    got = torch.autograd.grad(y, (x, codes), up)
    soft = sll.argmax(-torch.cdist(x, codes), 1, eps=1.0)
    hard = F.one_hot(torch.cdist(x, codes).argmin(1), 4).double()
    by_hand = (hard + soft - soft.detach()) @ codes.detach() + hard @ (codes - codes.detach())
    for a, b in zip(got, torch.autograd.grad(by_hand, (x, codes), up)):
        torch.testing.assert_close(a, b)


TRAINED = {
    "index": lambda table, i: table[i],
    "embedding": lambda table, i: F.embedding(i, table),
    "index_select": lambda table, i: table.index_select(0, i),
    "one_hot": lambda table, i: F.one_hot(i, table.shape[0]).to(table.dtype) @ table,
    "gather": lambda table, i: table.gather(0, i.unsqueeze(1).expand(-1, table.shape[1])),
}


@pytest.mark.parametrize("name", TRAINED)
def test_lookups_train_the_row_they_take(name):
    generator = torch.Generator().manual_seed(0)
    z = torch.randn(20, 4, generator=generator, dtype=torch.float64)
    words = torch.randn(6, 4, generator=generator, dtype=torch.float64)
    table = torch.randn(6, 3, generator=generator, dtype=torch.float64, requires_grad=True)
    scores = (-torch.cdist(z, words)).requires_grad_()
    up = torch.randn(20, 3, generator=generator, dtype=torch.float64)

    def program(scores):
        return (TRAINED[name](table, scores.argmax(1)) * up).sum()

    (want,) = torch.autograd.grad(program(scores), table)
    gradients = {}
    for forward in ("hard", "straight-through"):
        with sll.linearize(3.0, forward=forward, on_lost="ignore"):
            gradients[forward] = torch.autograd.grad(program(scores), (table, scores))
    for forward in ("hard", "straight-through"):
        torch.testing.assert_close(gradients[forward][0], want, rtol=1e-12, atol=1e-12)
    torch.testing.assert_close(gradients["straight-through"][1], gradients["hard"][1], rtol=1e-12, atol=1e-12)
    assert gradients["hard"][1].abs().sum() > 0


def test_decided_choices_equal_the_plain_gradient():
    table = torch.randn(5, 3, requires_grad=True)
    scores = torch.eye(5).mul(10.0).requires_grad_()
    with sll.linearize(0.2, forward="straight-through", on_lost="ignore"):
        table[scores.argmax(1)].square().sum().backward()
    torch.testing.assert_close(table.grad, 2 * table.detach())
    assert scores.grad is None or scores.grad.eq(0).all()


@pytest.mark.parametrize("op", [torch.round, torch.floor, torch.ceil, torch.trunc])
def test_ties_take_what_they_show(op):
    """Whole and half numbers lie on boundaries, and are common."""
    x = torch.tensor([0.0, 0.5, 1.0, 1.5, 2.0, 2.5, 3.0], requires_grad=True)
    table = torch.zeros(5, requires_grad=True)
    for lookup in (lambda: table[op(x).long()], lambda: F.one_hot(op(x).long(), 5).float() @ table):
        (want,) = torch.autograd.grad(lookup().sum(), table)
        with sll.linearize(0.2, forward="straight-through", on_lost="ignore"):
            (got,) = torch.autograd.grad(lookup().sum(), table)
        assert torch.equal(got, want)


@pytest.mark.parametrize("name", TRAINED)
def test_rows_of_zeros(name):
    scores = torch.tensor([[1.0, 1.1, 1.05]], requires_grad=True)
    table = torch.zeros(3, 2, requires_grad=True)
    with sll.linearize("auto"):
        TRAINED[name](table, scores.argmax(1)).sum().backward()
    assert table.grad.tolist() == [[0, 0], [1, 1], [0, 0]]


def test_more_equals_than_contenders():
    scores, table = torch.zeros(1, 100, requires_grad=True), torch.arange(1.0, 101).requires_grad_()
    with sll.linearize("auto"):
        y = table[scores.argmax(1)]
        y.sum().backward()
    assert y.item() == 1 and table.grad.nonzero().flatten().tolist() == [0]


# --- worked out by hand --------------------------------------------------------------------------------------------

RULES = [
    ("table above", lambda x: T[torch.round(x).long()], 1.4, 2 * (4 - 1)),
    ("table below", lambda x: T[torch.floor(x).long()], 2.1, 2 * (4 - 1)),
    ("table after a raw cast", lambda x: T[x.long()], 1.9, 2 * (4 - 1)),
    ("table after whole arithmetic", lambda x: T[(torch.round(x) * 2 + 0).long()], 1.4, 2 * (9 - 4)),
    ("table after integer arithmetic", lambda x: T[(torch.round(x).long() * 2 + 1) % 5], 1.4, 2 * (5 - 2)),
    ("table after clamp", lambda x: T[torch.round(x).clamp(0, 2).long()], 3.4, 0),
    ("sign as an index", lambda x: T[torch.sign(x).long() + 1], 0.1, 2 * (4 - 5)),
    ("where as an index", lambda x: T[torch.where(x > 0, 3, 1)], 0.1, 2 * (2 - 1)),
    ("choice of choices as an index", lambda x: T[torch.where(x > 5, 4, torch.where(x > 0, 2, 1))], 0.1, 2 * (4 - 1)),
    ("one_hot", lambda x: F.one_hot(torch.round(x).long(), 5).double() @ T, 1.4, 2 * (4 - 1)),
    ("count as an index", lambda x, y: T[count(x, y)], (0.1, -0.1), (4 - 5, 4 - 5)),
    ("count as an index, at the end", lambda x, y: T[count(x, y)], (-0.1, -0.1), (2 * (1 - 5), 2 * (1 - 5))),
    ("two indices", lambda x, y: T[:4].reshape(2, 2)[(x > 0).long(), (y > 0).long()], (0.1, -0.1), (-2, -4)),
]


@pytest.mark.parametrize(("f", "values", "wanted"), [row[1:] for row in RULES], ids=[row[0] for row in RULES])
def test_rule(f, values, wanted):
    worked_out(f, values, wanted)


@pytest.mark.parametrize("ends", [(0, 5), (0, 9), (-3, 5), (2, 3)])
def test_a_clamp_tells_that_an_index_stays_inside_only_if_the_table_holds_its_ends(ends):
    """What the clamp is told by name is not known, and has the same gradient."""
    low, high = ends
    table = torch.tensor([0.0, 1.0, 4.0, 9.0, 16.0, 25.0], requires_grad=True)

    def gradient(clamp):
        x = torch.tensor([-2.6, -0.7, -0.4, 0.3, 2.4, 2.6, 4.6, 5.3], requires_grad=True)
        with sll.linearize(0.5, forward="straight-through"):
            return torch.autograd.grad(table[clamp(x.round()).long()].sum(), [x, table])

    found = gradient(lambda q: q.clamp(low, high) - max(high - 5, 0))
    wanted = gradient(lambda q: q.clamp(min=low, max=high) - max(high - 5, 0))
    assert all(map(torch.equal, found, wanted))
    again = gradient(lambda q: q.clamp(low, min(high, 5)))
    assert all(map(torch.equal, again, gradient(lambda q: q.clamp(min=low, max=min(high, 5)))))
