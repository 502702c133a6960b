"""The rules of local gradients one at a time, worked out by hand: slopes are 2 for a mask or a step, 4 for a sign."""

from __future__ import annotations

import pytest
import torch
import torch.nn.functional as F

import sll
from local_reference import gradient

EPS = 0.25
T = torch.tensor([5.0, 1.0, 4.0, 2.0, 9.0], dtype=torch.float64)
stack = torch.stack


def count(x, y):
    return (x > 0).long() + (y > 0).long()


def scores(x):
    return stack([x, x * 0, x * 0 - 5])


ONE = [
    # floats
    ("sign", torch.sign, 0.1, 4),
    ("outside", torch.sign, 0.3, 0),
    ("closed band", lambda x: x.gt(0).double(), 0.25, 2),
    ("floor", torch.floor, 1.1, 2),
    ("half a step at most", lambda x: torch.round(x * 4, decimals=0) + torch.round(x, decimals=1), 0.1875, 9),
    ("frac", torch.frac, 1.1, 1 - 2),
    ("remainder", lambda x: x % 0.5, 0.6, 1 - 1),
    ("fmod at 0", lambda x: torch.fmod(x, 0.5), 0.1, 1),
    ("floor_divide", lambda x: x // 0.5, 0.6, 2),
    ("hardshrink", lambda x: F.hardshrink(x, 0.5), 0.6, 1 + 0.6 * 2),
    ("threshold, not taken", lambda x: F.threshold(x, 0.5, 3.0), 0.4, (0.4 - 3) * 2),
    ("copysign", lambda x: torch.copysign(torch.tensor(3.0).double(), x), 0.1, 12),
    ("trunc does not jump at 0", torch.trunc, 0.1, 0),
    # masks
    ("less", lambda x: (x < 0).double(), 0.1, -2),
    ("reflected", lambda x: (0.2 >= x).double(), 0.1, -2),
    ("isclose, leaving", lambda x: torch.isclose(x, x.new_tensor(0.0), rtol=0, atol=0.1).double(), 0.2, -2),
    ("signbit", lambda x: torch.signbit(x).double(), 0.1, -2),
    ("float equality", lambda x: (x == 0.1).double() + (x != 0.1).double() * x.detach(), 0.1, 0),
    ("a rounded float is compared as it is", lambda x: (torch.round(x) > 1).double(), 1.4, 4),
    ("equality of a rounded float", lambda x: (torch.round(x) == 1).double(), 1.4, -2),
    ("equality of a sign", lambda x: (torch.sign(x) == 1).double(), 0.1, 2),
    ("truth of a rounded float", lambda x: torch.round(x).bool().double(), 0.4, 2),
    ("where", lambda x: torch.where(x > 0, 3.0, -1.0), 0.1, 8),
    ("where takes", lambda x: torch.where(x > 0, x * 3, x), 0.1, 3 + 0.2 * 2),
    ("no infinite jump", lambda x: torch.where(x > 0, 3.0, float("inf")), 0.1, 0),
    ("masked_fill", lambda x: (x * 0 + 2).masked_fill(x > 0, 7.0), 0.1, 10),
    ("not", lambda x: (~(x > 0)).double(), 0.1, -2),
    ("the same mask", lambda x: (lambda m: (m & m).double() + 10 * (m ^ m).double())(x > 0), 0.1, 2),
    ("the question again", lambda x: ((x > 0) & (x > 0)).double(), 0.1, 4),
    # integers
    ("cast", lambda x: x.long().double(), 1.1, 2),
    ("cast far from a boundary", lambda x: x.long().double(), 1.5, 0),
    ("cast at 0", lambda x: x.int().double(), 0.1, 0),
    ("cast of a whole number", lambda x: (x.long() * 3).sum().double(), 2.0, 3),
    ("cast of a rounded one", lambda x: torch.round(x).long().double(), 1.4, 2),
    ("table above", lambda x: T[torch.round(x).long()], 1.4, 2 * (4 - 1)),
    ("table below", lambda x: T[torch.floor(x).long()], 2.1, 2 * (4 - 1)),
    ("table after a raw cast", lambda x: T[x.long()], 1.9, 2 * (4 - 1)),
    ("table after whole arithmetic", lambda x: T[(torch.round(x) * 2 + 0).long()], 1.4, 2 * (9 - 4)),
    ("table after integer arithmetic", lambda x: T[(torch.round(x).long() * 2 + 1) % 5], 1.4, 2 * (5 - 2)),
    ("table after clamp", lambda x: T[torch.round(x).clamp(0, 2).long()], 3.4, 0),
    ("sign as an index", lambda x: T[torch.sign(x).long() + 1], 0.1, 2 * (4 - 5)),
    ("where as an index", lambda x: T[torch.where(x > 0, 3, 1)], 0.1, 2 * (2 - 1)),
    ("choice of choices as an index", lambda x: T[torch.where(x > 5, 4, torch.where(x > 0, 2, 1))], 0.1, 2 * (4 - 1)),
    ("bucketize", lambda x: T[torch.bucketize(x, torch.tensor([0.0, 1, 3]).double())], 0.9, 2 * (4 - 1)),
    ("bins no wider than half", lambda x: torch.bucketize(x, torch.tensor([0, 0.2]).double()).double(), 0.05, 5),
    ("square", lambda x: (torch.round(x).long() ** 2).double(), 1.4, 2 * (4 - 1)),
    ("parity", lambda x: (torch.floor(x).long() & 1).double(), 2.1, 2 * (0 - 1)),
    ("comparison of an integer", lambda x: (torch.round(x).long() >= 2).double(), 1.4, 2),
    ("other integers too far", lambda x: (torch.round(x).long() >= 3).double(), 1.4, 0),
    ("one_hot", lambda x: F.one_hot(torch.round(x).long(), 5).double() @ T, 1.4, 2 * (4 - 1)),
    # choices
    ("argmax", lambda x: T[scores(x).argmax()], 0.1, 2 * (5 - 1)),
    ("labels", lambda x: (scores(x).argmax() * 3 + 1).double(), 0.1, 2 * (1 - 4)),
    ("a label", lambda x: (scores(x).argmax() == 1).double(), 0.1, -2),
    ("decided", lambda x: T[scores(x).argmax()], 0.3, 0),
    ("sort", lambda x: T[scores(x).argsort(descending=True)][0], 0.1, 2 * (5 - 1)),
    ("topk", lambda x: T[scores(x).topk(1).indices].sum(), 0.1, 2 * (5 - 1)),
    ("a set does not change", lambda x: T[scores(x).topk(2).indices].sum(), 0.1, 0),
    ("rank", lambda x: scores(x).argsort().argsort()[0].double(), 0.1, 2),
    ("median", lambda x: T[stack([x, x * 0, x * 0 + 5]).median(0).indices], 0.1, 2 * (5 - 1)),
    # writes
    ("scatter", lambda x: torch.zeros(3).double().scatter(0, scores(x).argmax(0, True), 2.0) @ T[:3], 0.1, 2 * 2 * 4),
    ("scatter over", lambda x: torch.ones(3).double().scatter(0, scores(x).argmax(0, True), 2.0) @ T[:3], 0.1, 2 * 4),
    ("scatter_add", lambda x: torch.ones(3).double().scatter_add(
        0, torch.round(x).long().reshape(1), T[:1]) @ T[:3], 1.4, 2 * 5 * (4 - 1)),
    ("index_add", lambda x: torch.zeros(5).double().index_add(0, torch.floor(x).long().reshape(1), T[4:]) @ T, 2.1,
     2 * 9 * (4 - 1)),
    ("bincount", lambda x: torch.bincount(torch.round(x).long().reshape(1), minlength=5).double() @ T, 1.4, 6),
    # selections
    ("selected sum", lambda x: T[:3][stack([x, x * 0 + 1, x * 0 - 1]) > 0].sum(), 0.1, 2 * 5),
    ("selected mean", lambda x: T[:3][stack([x, x * 0 + 1, x * 0 - 1]) > 0].mean(), 0.1, 2 * (5 - 3) / 2),
    ("mean of selected squares", lambda x: (T[:3][stack([x, x * 0 + 1, x * 0 - 1]) > 0] ** 2).mean(), 0.1,
     2 * (25 - 13) / 2),
]  # fmt: skip
TWO = [
    ("and", lambda x, y: ((x > 0) & (y > 0)).double(), (0.1, -0.1), (0, 2)),
    ("or", lambda x, y: ((x > 0) | (y > 0)).double(), (0.1, -0.1), (2, 0)),
    ("xor", lambda x, y: ((x > 0) ^ (y > 0)).double(), (0.1, -0.1), (2, -2)),
    ("product", lambda x, y: (torch.round(x).int() * torch.round(y).int()).double(), (1.4, 2.6), (6, 2)),
    ("matrix product", lambda x, y: (torch.round(x).int().view(1, 1) @ torch.round(y).int().view(1, 1)).sum().double(),
     (1.4, 2.6), (6, 2)),
    ("prod", lambda x, y: stack([x > 0, y > 0]).prod().double(), (-0.1, 0.1), (2, 0)),
    ("all", lambda x, y: stack([x > 0, y > 0]).all().double(), (-0.1, -0.1), (0, 0)),
    ("any", lambda x, y: stack([x > 0, y > 0]).any().double(), (-0.1, -0.1), (2, 2)),
    ("mask and float", lambda x, y: (x > 0) * y**2, (0.1, 3.0), (18, 6)),
    ("both sides of a comparison", lambda x, y: (x > y).double(), (0.1, 0.2), (2, -2)),
    ("count", lambda x, y: count(x, y).double() / 3, (0.1, -0.1), (2 / 3, 2 / 3)),
    ("count squared", lambda x, y: (count(x, y) ** 2).double(), (0.1, -0.1), (4, 4)),
    ("count as an index", lambda x, y: T[count(x, y)], (0.1, -0.1), (4 - 5, 4 - 5)),
    ("count as an index, at the end", lambda x, y: T[count(x, y)], (-0.1, -0.1), (2 * (1 - 5), 2 * (1 - 5))),
    ("count reaches", lambda x, y: (count(x, y) >= 1).double(), (-0.1, -0.1), (2, 2)),
    ("count has reached", lambda x, y: (count(x, y) >= 1).double(), (0.1, -0.1), (2, 2)),
    ("count is beyond", lambda x, y: (count(x, y) >= 1).double(), (0.1, 0.1), (0, 0)),
    ("count is", lambda x, y: (count(x, y) == 1).double(), (0.1, -0.1), (0, 0)),
    ("largest integer", lambda x, y: stack([torch.round(x).long(), torch.round(y).long()]).amax().double(), (1.4, 2.6),
     (0, 2)),
    ("two indices", lambda x, y: T[:4].reshape(2, 2)[(x > 0).long(), (y > 0).long()], (0.1, -0.1), (-2, -4)),
    ("where of where", lambda x, y: torch.where((x > 0) & (y > 0), 5.0, torch.where(x > 0, 1.0, 0.0)), (0.1, -0.1),
     (2, 8)),
    ("divisor", lambda x, y: x // y, (2.7, 1.3), (2, -4)),
    ("remainder of a divisor", lambda x, y: x % y, (2.7, 1.3), (1 - 2 * 1.3, -2 + 2 * 2 * 1.3)),
    ("learned edges", lambda x, y: T[torch.searchsorted(stack([y, y + 2]), x)], (0.1, 0.0), (-8, 8)),
    ("a mask as a number", lambda x, y: (x > 0) + y * (y > 0).int(), (0.1, 3.0), (2, 1)),
    ("copied into a buffer", lambda x, y: torch.zeros(2).double().copy_(stack([x > 0, y > 0])) @ T[:2], (0.1, 0.1),
     (10, 2)),
]  # fmt: skip


def check(f, values, wanted):
    leaves = [torch.tensor(v, dtype=torch.float64, requires_grad=True) for v in values]
    with sll.linearize(EPS, forward="straight-through", on_lost="ignore"):
        y = f(*leaves)
    assert torch.equal(y, f(*(x.detach() for x in leaves)))
    found = [0.0] * len(values)
    if y.requires_grad:
        found = [g.item() for g in torch.autograd.grad(y, leaves, allow_unused=True, materialize_grads=True)]
    reference = [g.item() for g in gradient(f, [x.detach() for x in leaves], EPS)[1]]
    assert reference == pytest.approx(list(wanted)), "the reference"
    assert found == pytest.approx(list(wanted)), "the region"


@pytest.mark.parametrize(("f", "x", "want"), [row[1:] for row in ONE], ids=[row[0] for row in ONE])
def test_rule(f, x, want):
    check(f, [x], [want])


@pytest.mark.parametrize(("f", "values", "want"), [row[1:] for row in TWO], ids=[row[0] for row in TWO])
def test_rule_of_two(f, values, want):
    check(f, values, want)
