"""Where elements meet, in the formulas of windows by hand."""

from __future__ import annotations

import pytest
import torch
import torch.nn.functional as F

import sll
from local_by_hand import check, step, tensors
from local_slopes import T, worked_out


def product(x):
    y = step(x[:, 0])
    for column in x.unbind(1)[1:]:
        y = y * step(column)
    return y


def either(x):
    return 1 - product(-x)


@pytest.mark.parametrize("columns", [2, 5, 9])
@pytest.mark.parametrize("name", ["and", "or", "all", "any", "prod", "where"])
def test_any_number_of_decisions_of_an_element(name, columns):
    def chain(x):
        m = x[:, 0] > 0
        for column in x.unbind(1)[1:]:
            m = m & (column > 0) if name == "and" else m | (column > 0)
        return m.double()

    (x,) = tensors((40, columns), scale=0.2)
    x = x + (0.15 if name in ("and", "all", "prod", "where") else -0.15)
    programs = {
        "and": (chain, product), "or": (chain, either), "all": (lambda x: (x > 0).all(1).double(), product),
        "any": (lambda x: (x > 0).any(1).double(), either), "prod": (lambda x: (x > 0).prod(1).double(), product),
        "where": (lambda x: torch.where((x > 0).all(1), 3.0, -1.0), lambda x: 4.0 * product(x) - 1),
    }  # fmt: skip
    check(*programs[name], [x])


def test_maxima_of_ties():
    """Equals share the gradient of a maximum, as torch has it."""
    x = torch.tensor([[0.1, 0.2, -0.9], [-0.1, -0.2, -0.15]], dtype=torch.float64)

    def floats(x):
        return torch.maximum((x[0] > 0).double(), (x[1] > 0).double()) + (x > 0).double().amax(1).sum()

    def by_hand(x):
        return torch.maximum(step(x[0]), step(x[1])) + step(x).amax(1).sum()

    check(floats, by_hand, [x])
    check(lambda x: (x > 0).long().amax(1).double(), lambda x: step(x).amax(1), [x])


@pytest.mark.parametrize("seed", range(3))
def test_counts(seed):
    (x,) = tensors((6, 7), seed=seed)
    check(lambda x: (x > 0).sum(1).double() / 7.0, lambda x: step(x).mean(1), [x])
    check(lambda x: ((x > 0).sum(0) * (x > 0.1).sum(0)).double(), lambda x: step(x).sum(0) * step(x - 0.1).sum(0), [x])
    check(lambda x: (x > 0).count_nonzero().double() + (x > 0).int().cumsum(1).double().sum(),
          lambda x: step(x).sum() + step(x).cumsum(1).sum(), [x])  # fmt: skip
    # A comparison of a count: a ramp between neighbouring integers.
    ramp = lambda n: torch.where(n.detach() == 4, 1.0, 0.0) + torch.where(
        (n.detach() == 3) | (n.detach() == 4), n - n.detach(), 0.0) + (n.detach() > 4)  # fmt: skip
    check(lambda x: ((x > 0).sum(1) >= 4).double(), lambda x: ramp(step(x).sum(1)), [x])


# --- worked out by hand --------------------------------------------------------------------------------------------

RULES = [
    ("bincount", lambda x: torch.bincount(torch.round(x).long().reshape(1), minlength=5).double() @ T, 1.4, 6),
    (
        "matrix product",
        lambda x, y: (torch.round(x).int().view(1, 1) @ torch.round(y).int().view(1, 1)).sum().double(),
        (1.4, 2.6),
        (6, 2),
    ),
    ("prod", lambda x, y: torch.stack([x > 0, y > 0]).prod().double(), (-0.1, 0.1), (2, 0)),
    ("all", lambda x, y: torch.stack([x > 0, y > 0]).all().double(), (-0.1, -0.1), (0, 0)),
    ("any", lambda x, y: torch.stack([x > 0, y > 0]).any().double(), (-0.1, -0.1), (2, 2)),
    (
        "largest integer",
        lambda x, y: torch.stack([torch.round(x).long(), torch.round(y).long()]).amax().double(),
        (1.4, 2.6),
        (0, 2),
    ),
]


@pytest.mark.parametrize(("f", "values", "wanted"), [row[1:] for row in RULES], ids=[row[0] for row in RULES])
def test_rule(f, values, wanted):
    worked_out(f, values, wanted)


@pytest.mark.parametrize("kind", ["masks", "integers", "rows"])
def test_a_ratio_of_nothing_has_no_gradient_that_is_not_a_number(kind):
    """Precision where nothing is predicted: ``where(n != 0, hits / n, 0)`` is 0 / 0 in what is not taken."""
    x = torch.tensor([[0.1, 0.45], [0.3, 0.2]], requires_grad=True)
    target = torch.tensor([[1, 1], [0, 1]])
    with sll.linearize(0.1, forward="straight-through"):
        said = x > 0.5 if kind != "integers" else (x > 0.5).long()
        dims = (1,) if kind == "rows" else ()
        hits, many = (said & target.bool() if kind != "integers" else said * target).sum(*dims), said.sum(*dims)
        ratio = torch.where(many != 0, hits.float() / many, 0.0)
    assert not ratio.any()
    (g,) = torch.autograd.grad(ratio.sum(), x)
    assert g.isfinite().all()


# --- equal floats --------------------------------------------------------------------------------------------------

LARGEST = [
    lambda m: m.amax(0), lambda m: m.max(), lambda m: m[None].max(1).values, lambda m: -(-m).amin(0, keepdim=True),
    lambda m: (2 * m).view(1, 2).amax((0, 1)),
]  # fmt: skip
POOLED = [
    lambda m: F.max_pool1d(m[None], 2), lambda m: torch.nn.MaxPool2d((1, 2))(m[None, None]),
    lambda m: F.adaptive_max_pool2d(m.view(1, 1, 2), 1),
]  # fmt: skip


def approximate(program, at):
    x = torch.tensor(at, dtype=torch.float64, requires_grad=True)
    with sll.linearize(0.1, forward="straight-through", on_lost="error") as region:
        program(x)
    return sum(region.report().approximate.values())


@pytest.mark.parametrize("best", [*LARGEST, *POOLED])
def test_the_largest_of_equal_decided_floats_is_approximate(best):
    decided = lambda x: best((x > 0).double())
    assert approximate(decided, [0.02, 0.9]) == 2
    assert approximate(decided, [0.5, 0.9]) == 0
    assert approximate(lambda x: best(x.relu()), [-0.5, -0.9]) == 0
    if best in LARGEST:
        assert approximate(decided, [0.02, -0.9]) == 0


def test_a_count_that_is_compared_and_divided_by_has_a_finite_gradient_where_it_is_0():
    x = torch.tensor([[-0.1, -0.2], [0.3, -0.2]], requires_grad=True)
    found = []
    for compares, divides in ((True, False), (False, True), (True, True)):
        with sll.linearize(0.5, forward="straight-through"):
            count = (x > 0).sum(1)
            enough = (count >= 1).float().sum() if compares else 0.0
            mean = (2.0 / count).sqrt().sum() if divides else 0.0
            found.append(torch.autograd.grad(enough + mean, x)[0])
    assert found[2].isfinite().all() and torch.allclose(found[0] + found[1], found[2]) and found[0].any()
