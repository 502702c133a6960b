"""Where elements meet: any function runs again in each flip."""

from __future__ import annotations

import pytest
import torch
import torch.nn.functional as F

import sll
from oracles import hard_gradient

X = torch.tensor([-0.05, 0.02, 0.5, -0.7], dtype=torch.float64)
MEET = {
    "count": lambda m: (m.sum() > 1).double() * 3,
    "square of a count": lambda m: m.sum().double().square(),
    "any": lambda m: m[:2].any().double(),
    "all": lambda m: m[:3].all().double(),
    "f1": lambda m: 2 * (m & T).sum() / (m.sum() + T.sum()),
    "bins": lambda m: (torch.bincount(m.long() + 1, minlength=4).double() * torch.arange(4.0)).square().sum(),
    "selected": lambda m: torch.tensor([1.0, 4.0, 2.0, 3.0])[m].double().mean(),
    "places": lambda m: m.nonzero().sum().double(),
    "scattered": lambda m: torch.zeros(3).double().scatter_add(0, m.long() + 1, torch.ones(4).double()).prod(),
    "sorted": lambda m: (m.long() * 3 + torch.arange(4)).sort().values.double() @ torch.arange(4.0).double(),
}
T = torch.tensor([True, False, True, True])


@pytest.mark.parametrize("name", MEET)
def test_each_flip_changes_the_whole_result(name):
    f, hard = MEET[name], X > 0
    want = torch.zeros(4, dtype=torch.float64)
    for i in (0, 1):
        other = hard.clone()
        other[i] = ~other[i]
        want[i] = (f(other) - f(hard)) / 0.2 * (1 if not hard[i] else -1)
    torch.testing.assert_close(hard_gradient(lambda x: f(x > 0), X), want)


MASKS = {
    "conv": lambda m: F.conv1d(m[None, None], torch.ones(1, 1, 3, dtype=m.dtype))[0, 0] > 1.5,
    "max_pool": lambda m: F.max_pool1d(m[None], 3, 1)[0] > 0,
    "flood": lambda m: F.max_pool1d((F.max_pool1d(m[None], 3, 1, 1) > 0).double(), 3, 1, 1)[0] > 0,
    "softmax": lambda m: m.softmax(0) > 0.2,
    "masked softmax": lambda m: torch.zeros(6).double().masked_fill(m > 0, -torch.inf).softmax(0),
    "var": lambda m: m.var() > 0.25,
    "norm": lambda m: torch.norm(m, p=0) > 2.5,
    "cdist": lambda m: torch.cdist(m.reshape(2, 3), torch.zeros(2, 3).double()) > 1.3,
    "cumsum as an index": lambda m: torch.arange(7.0)[m.cumsum(0).long()] ** 2,
    "argmax": lambda m: m.argmax().double(),
    "values in order": lambda m: m.sort().values * torch.arange(6),
    "the two largest": lambda m: (m * torch.arange(6)).topk(2).values,
    "bucketize": lambda m: torch.bucketize(3 * m, torch.tensor([1.0, 2.0]).double()),
    "histc": lambda m: torch.histc(m, 2, 0, 1) > 2.5,
    "cummax": lambda m: (m * torch.arange(6)).cummax(0).values,
    "a list": lambda m: torch.tensor([m[0] > 0, m[1] > 0]),
}


@pytest.mark.parametrize("name", MASKS)
@pytest.mark.parametrize("place", range(6))
def test_a_float_is_decided_again_after_any_function(name, place):
    """The gradient of the one that is open is the difference of the hard program."""
    x = torch.tensor([0.5, -0.4, 0.3, -0.6, 0.7, -0.8]).double()
    x[place] = 0.02 if place % 2 else -0.02
    weights = torch.arange(1.0, 8).double()

    def program(x):
        y = MASKS[name]((x > 0).double()).double().reshape(-1)
        return (y * weights[: y.numel()]).sum()

    above, below = (program(x.index_fill(0, torch.tensor(place), v)) for v in (1, -1))
    x.requires_grad_()
    with sll.linearize(0.1, forward="hard", on_lost="error") as region:
        y = program(x) + 0 * x.sum()
    assert y == program(x.detach())
    assert torch.autograd.grad(y, x)[0][place].item() == pytest.approx((above - below).item() / 0.2)
    assert not region.report().approximate


def test_what_is_chosen_among_decided_numbers_and_others():
    """Scores that are partly decided: a choice has flips of its own, and those of the scores."""
    at = torch.tensor([0.02, 1.0, 1.49]).double()
    program = lambda x: ((x[:2] > 0).double() * 1.5 + x[1:]).argmax().double() * 3  # 1.5 + 1 or 1, 1.5 + 1.49
    for i in range(3):
        x = at.clone().requires_grad_()
        with sll.linearize(0.05, forward="hard", on_lost="error"):
            y = program(x)
            found = torch.autograd.grad(y, x, allow_unused=True)[0]
        steps = torch.eye(3).double()[i] * 0.05
        assert found[i].item() == pytest.approx((program(at + steps) - program(at - steps)).item() / 0.1, abs=1e-9)


def test_a_sparse_result_is_reported():
    x = torch.tensor([0.48, 0.2, 0.9], dtype=torch.float64, requires_grad=True)

    def program(x):
        return (x > 0.5).to_sparse().to_dense() * 2

    with sll.linearize(0.1, forward="hard", on_lost="ignore") as region:
        y = program(x)
    assert torch.equal(y, program(x.detach()))
    assert [site.op for site in region.report().lost] == ["to_sparse"]


@pytest.mark.parametrize("many", [20, 400])
def test_places_among_decided_floats_of_many_rows(many):
    """Independent: row by row. Beyond `MAX_OF_FLOATS` there was no gradient, and the report spoke of a local one."""
    torch.manual_seed(0)
    start, values = torch.randn(many, 3) * 0.3, torch.tensor([1.0, 5.0, -2.0])
    found = []
    for chunks in (1, many):
        x = start.clone().requires_grad_()
        with sll.linearize(0.2, forward="hard", on_lost="error") as region:
            y = sum(values[(part > 0).float().argmax(1)].sum() for part in x.chunk(chunks))
        assert not region.report().approximate
        found.append(torch.autograd.grad(y, x)[0])
    assert found[1].any()
    torch.testing.assert_close(*found)


SELECT = {
    "mask": lambda x, m: x[m],
    "function of it": lambda x, m: x[m].sin(),
    "places": lambda x, m: x[m.nonzero().squeeze(-1)],
}
REDUCE = {
    "alone": lambda s, op: getattr(s, op)(),
    "dim": lambda s, op: getattr(s, op)(0).values,
    "keepdim": lambda s, op: getattr(s, op)(dim=0, keepdim=True)[0][0],
    "values and indices": lambda s, op: (lambda found: found.values + 0 * found.indices)(getattr(s, op)(0)),
    "amax": lambda s, op: getattr(s, "a" + op)(),
}


@pytest.mark.parametrize("op", ["max", "min"])
@pytest.mark.parametrize("reduce", REDUCE)
@pytest.mark.parametrize("select", SELECT)
def test_the_extreme_of_what_a_mask_selected(select, reduce, op):
    """Independent: each flip by hand. `max` and `min` had no gradient of the mask there, and no word; `amax` had."""
    at = torch.tensor([-2.2, 0.55, -0.96, -0.43, -2.7, 0.655], dtype=torch.float64)
    program = lambda x, m: REDUCE[reduce](SELECT[select](x, m), op)
    x, hard = at.clone().requires_grad_(), at < 0.2 if op == "max" else at > -0.6
    want = torch.autograd.grad(program(x, hard), x)[0]
    for i in range(6):
        if (at[i] - (0.2 if op == "max" else -0.6)).abs() <= 0.8:
            other = hard.clone()
            other[i] = ~other[i]
            up = other[i] == (op == "min")  # the flip is that of a larger x
            want[i] += (program(at, other) - program(at, hard)) / 1.6 * (1 if up else -1)
    with sll.linearize(0.8, forward="hard", on_lost="error"):
        y = program(x, x < 0.2 if op == "max" else x > -0.6)
    assert y == program(at, hard)
    assert want.count_nonzero() > 1
    torch.testing.assert_close(torch.autograd.grad(y, x)[0], want)


def test_the_median_of_what_a_mask_selected():
    x = torch.tensor([-2.2, 0.55, -0.96, -0.43, -2.7, 0.655], requires_grad=True)
    with sll.linearize(0.8, forward="hard", on_lost="error"):
        y = x[x < 0.2].median()
    assert torch.autograd.grad(y, x)[0].tolist() == pytest.approx([1, -1.24 / 1.6, 0, 0, 0, -1.24 / 1.6])
