"""``where`` and ``masked_fill``: the mask gets ``g (a - b)``, what is taken gets ``g``, and nothing else is kept."""

from __future__ import annotations

import math

import pytest
import torch

import sll
from local_slopes import worked_out

EPS = 0.25


def region():
    return sll.linearize(EPS, forward="straight-through")


def leaves(n=5, dtype=torch.float64):
    x = torch.tensor([-1.0, -0.1, 0.0, 0.2, 3.0], dtype=dtype)[:n].requires_grad_()
    a, b = (torch.linspace(*ends, n, dtype=dtype).requires_grad_() for ends in ((1, 5), (-2, 2)))
    return x, a, b


FORMS = {
    "where": lambda m, a, b: torch.where(m, a, b),
    "a.where": lambda m, a, b: a.where(m, b),
    "masked_fill": lambda m, a, b: b.masked_fill(m, 7.0),
}


@pytest.mark.parametrize("form", FORMS)
def test_gradients_by_hand(form):
    x, a, b = leaves()
    with region():
        y = FORMS[form](x > 0, a, b)
    g = torch.tensor([1.0, 2.0, 3.0, 4.0, 5.0], dtype=torch.float64)
    got = torch.autograd.grad(y, (x, a, b), g, allow_unused=True)
    above = torch.full_like(a, 7.0) if form == "masked_fill" else a.detach()
    taken = x > 0
    slope = (x.abs() <= EPS) * (0.5 / EPS)
    assert torch.equal(got[0], g * (above - b.detach()) * slope)
    assert got[1] is None if form == "masked_fill" else torch.equal(got[1], g * taken)
    assert torch.equal(got[2], g * ~taken)


@pytest.mark.parametrize("form", FORMS)
def test_second_derivatives(form):
    """The slope of the mask depends on what is taken, and on what is left."""
    x, a, b = leaves()
    with region():
        y = FORMS[form](x > 0, a * 1, b * 1).square().sum()
    (first,) = torch.autograd.grad(y, x, create_graph=True)
    inside = (x.abs() <= EPS) * (0.5 / EPS)
    taken = (x > 0).double()
    of_a, of_b = torch.autograd.grad(first.sum(), (a, b), allow_unused=True)
    # first = 2 y (a - b) / (2 eps)
    above = torch.full_like(a, 7.0) if form == "masked_fill" else a.detach()
    shown, jump = torch.where(x > 0, above, b.detach()), above - b.detach()
    if form != "masked_fill":
        torch.testing.assert_close(of_a, 2 * inside * (taken * jump + shown))
    torch.testing.assert_close(of_b, 2 * inside * ((1 - taken) * jump - shown))


def test_operands_may_be_written_to():
    x, a, b = leaves()
    first, second = a * 1, b * 1
    with region():
        mask = x > 0
        y = torch.where(mask, first, second)
        mask.logical_not_()
        first.zero_()
        second.fill_(math.nan)
    (slope,) = torch.autograd.grad(y.sum(), x)
    assert torch.equal(slope, (a - b).detach() * (x.abs() <= EPS) * (0.5 / EPS))


def test_an_infinite_gradient_stays_where_it_is():
    x, a, b = leaves()
    with region():
        y = torch.where(x > 0, a, b)
    g = torch.tensor([math.inf, 1.0, 1.0, math.nan, 1.0], dtype=torch.float64)
    _, of_a, of_b = torch.autograd.grad(y, (x, a, b), g)
    assert of_a[:3].tolist() == [0, 0, 0] and of_a[3].isnan() and of_a[4] == 1
    assert of_b.tolist() == [math.inf, 1, 1, 0, 0]


@pytest.mark.parametrize(
    "shapes", [((3, 1), (3, 4), (4,)), ((3, 4), (1,), (3, 1)), ((4,), (), (2, 3, 4)), ((0,), (0,), (1,))]
)
def test_operands_broadcast(shapes):
    make = torch.Generator().manual_seed(0)
    x, a, b = (torch.randn(s, generator=make, dtype=torch.float64).mul_(0.2).requires_grad_() for s in shapes)
    with region():
        y = torch.where(x > 0, a, b)
    assert torch.equal(y, torch.where(x > 0, a, b))
    g = torch.randn(y.shape, generator=make, dtype=torch.float64)
    got = torch.autograd.grad(y, (x, a, b), g)
    full = [t.detach().expand(y.shape).clone().requires_grad_() for t in (x, a, b)]
    with region():
        y = torch.where(full[0] > 0, *full[1:])
    for got_one, want, like in zip(got, torch.autograd.grad(y, full, g), (x, a, b)):
        torch.testing.assert_close(got_one, want.sum_to_size(like.shape))


@pytest.mark.parametrize(
    "types", [(torch.float32, torch.float64), (torch.float64, torch.float32), (torch.float16, torch.float32)]
)
def test_types_of_operands(types):
    x = torch.tensor([-0.1, 0.1], requires_grad=True)
    a, b = (torch.tensor([3.0, 5.0], dtype=dtype, requires_grad=True) for dtype in types)
    with region():
        y = torch.where(x > 0, a, b) + torch.where(x > 0, a, 1.0) + torch.where(x > 0, 2.0, b)
    plain = torch.where(x > 0, a, b) + torch.where(x > 0, a, 1.0) + torch.where(x > 0, 2.0, b)
    assert torch.equal(y, plain) and y.dtype == plain.dtype
    got = torch.autograd.grad(y.sum(), (x, a, b))
    assert [g.dtype for g in got] == [torch.float32, *types]
    assert (
        got[0].tolist() == [2 * (0 + 2 - 1), 2 * (0 + 4 - 3)]
        and got[1].tolist() == [0, 2]
        and got[2].tolist() == [2, 0]
    )


def test_infinite_branches_are_counted():
    x, a, _ = leaves()
    with region() as r:
        y = torch.where(x > 0, a, -math.inf)
    (slope,) = torch.autograd.grad(y.exp().sum(), x)
    assert torch.equal(slope, torch.zeros_like(x))
    assert sum(r.report().infinite_jumps.values()) == 3


@pytest.mark.parametrize("fixed", [True, False])
def test_integers_that_are_taken_keep_their_gradient(fixed):
    """Also where their other side is the same number: 3.4 is rounded to 3, or to 4, of which the clamp makes 3."""

    def taken(x, y):
        count = (x > 0).long() + (y > 0).long()
        return torch.where(y.detach() > 0 if fixed else y > 0, x.round().clamp(0, 3).long(), count).double()

    worked_out(taken, (3.4, 0.1), (2.0, 0.0 if fixed else 2.0))


BYTES = torch.tensor([3, 200], dtype=torch.uint8)


@pytest.mark.parametrize(
    ("taken", "wanted"),
    [
        (lambda x: torch.where(x > 0, -1, BYTES), 2 * (255 - 3 + 255 - 200)),
        (lambda x: BYTES.masked_fill(x > 0, -1), 2 * (255 - 3 + 255 - 200)),
        (lambda x: torch.where(x > 0, torch.tensor(300), BYTES), 2 * (44 - 3 + 44 - 200)),
        (lambda x: torch.where(x > 0, BYTES, (x > 0).sum() * 300), 2 * (3 - 44 + 200 - 44)),
        (lambda x: torch.where(x <= 0, x <= 0, BYTES), 2 * (3 - 0 + 200 - 0)),
        (lambda x: torch.where(x > 0, x > 0, BYTES), 2 * (1 - 3 + 1 - 200) + 2 * 2),
        (lambda x: torch.where(x <= 0, BYTES, x <= 0), 2 * (0 - 3 + 0 - 200) - 2 * 2),
    ],
)
def test_small_integers_wrap_around(taken, wanted):
    """What is taken is a number of the result's type: -1 is 255."""
    worked_out(lambda x: taken(x).double().sum(), 0.1, wanted)


def test_the_mask_may_be_written_to_after_it_has_chosen_integers():
    found = []
    for writes in (False, True):
        x = torch.tensor([-0.1, 0.1, 0.2], dtype=torch.float64, requires_grad=True)
        with region():
            mask = x > 0
            y = torch.where(mask, x.round().long() + 3, mask)
            if writes:
                mask.logical_not_()
            found.append(torch.autograd.grad(y.double().sum(), x)[0])
    assert torch.equal(*found) and found[0].any()
