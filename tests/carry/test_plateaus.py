"""``relu(x) != 0``: the decision whether `x` is where the function is flat."""

from __future__ import annotations

import pytest
import torch
import torch.nn.functional as F

import sll

MODES = ("straight-through", "hard", "linear")
W = torch.tensor([1.0, 2.0, 4.0, 8.0], dtype=torch.float64)
MADE = {  # name: the function, where it is flat, and its value there
    "clamp": (lambda x: x.clamp(0, 1), lambda x: x <= 0, 0.0),
    "clamp, above": (lambda x: x.clamp(-1, 0), lambda x: x >= 0, 0),
    "clamp_min": (lambda x: x.clamp_min(-0.25), lambda x: x <= -0.25, -0.25),
    "clamp(max)": (lambda x: torch.clamp(x, max=0.5), lambda x: x >= 0.5, 0.5),
    "relu6": (lambda x: F.relu6(x + 5.5), lambda x: x >= 0.5, 6),
    "hardtanh": (lambda x: F.hardtanh(x, -0.5, 0.5), lambda x: x >= 0.5, 0.5),
    "softshrink": (lambda x: F.softshrink(x, 0.5), lambda x: x.abs() <= 0.5, 0),
    "hardshrink": (lambda x: F.hardshrink(x, 0.5), lambda x: x.abs() <= 0.5, 0),
    "threshold": (lambda x: F.threshold(x, 0.5, 0.0), lambda x: x <= 0.5, 0),
}
ASKED = {  # name: of the float and the number, of where it is flat
    "==": (lambda q, v: q == v, lambda flat: flat),
    "eq": (torch.eq, lambda flat: flat),
    "!=": (lambda q, v: q != v, lambda flat: ~flat),
    "not_equal": (torch.not_equal, lambda flat: ~flat),
}
AT_ZERO = {
    "bool": (lambda q, v: q.bool(), lambda flat: ~flat),
    "to": (lambda q, v: q.to(torch.bool), lambda flat: ~flat),
    "logical_not": (lambda q, v: q.logical_not(), lambda flat: flat),
    "count_nonzero": (lambda q, v: q.count_nonzero(), lambda flat: (~flat).sum()),
}
CASES = [(made, how) for made in MADE for how in ASKED] + [
    (made, how) for made in MADE for how in AT_ZERO if MADE[made][2] == 0
]


def derived(program, forward, at=(0.03, -0.04, 0.52, -0.22), on_lost="error"):
    x = torch.tensor(at, dtype=torch.float64, requires_grad=True)
    with sll.linearize(0.1, forward=forward, on_lost=on_lost) as region:
        y = program(x)
        loss = (y * W).sum()
    (g,) = torch.autograd.grad(loss, x)
    return y, loss.detach(), g, region.report()


@pytest.mark.parametrize("forward", MODES)
@pytest.mark.parametrize(("made", "how"), CASES)
def test_as_the_comparison_of_what_it_was_given(made, how, forward):
    function, flat, value = MADE[made]
    ask, says = (ASKED | AT_ZERO)[how]
    y, loss, g, report = derived(lambda x: ask(function(x), value), forward)
    plain, loss0, g0, _ = derived(lambda x: says(flat(x)), forward)
    assert torch.equal(y, plain)
    torch.testing.assert_close(loss, loss0)
    assert g.any()
    torch.testing.assert_close(g, g0)
    assert not report.lost


@pytest.mark.parametrize("forward", MODES)
@pytest.mark.parametrize("ask", [lambda q: q != 0, lambda q: q.bool(), lambda q: ~(q == 0), lambda q: q > 0])
def test_relu_keeps_no_distance_below_zero(ask, forward):
    _, _, g, report = derived(lambda x: ask(torch.relu(x)), forward)
    assert g.tolist() == [5, 0, 0, 0]
    if forward != "straight-through":
        assert [*report.why.values()] == ["ties"]


@pytest.mark.parametrize("forward", MODES)
def test_positions_are_those_of_the_decision(forward):
    lost = []
    for at in (lambda x: x > 0, lambda x: x.clamp(0, 1)):
        x = torch.tensor([0.03, -0.5, 0.5], dtype=torch.float64, requires_grad=True)
        with sll.linearize(0.1, forward=forward, on_lost="ignore") as region:
            assert at(x).nonzero()[0, 0] == 0
        lost.append([site.op for site in region.report().lost])
    assert lost[0] == lost[1]
    assert lost[0]


@pytest.mark.parametrize("forward", MODES)
@pytest.mark.parametrize(
    "ask",
    [
        lambda x: x != 0.03,
        lambda x: x.relu() != 0.03,
        lambda x: x.clamp(0, 1) == 0.5,
        lambda x: (x.clamp(0, 1) + W) != 0,
        lambda x: x.exp().bool(),
        lambda x: x.clamp(0, torch.nan) == torch.nan,
    ],
)
def test_other_numbers_are_no_decision(ask, forward):
    x = torch.tensor([0.03, -0.04, 0.52, -0.22], dtype=torch.float64, requires_grad=True)
    with sll.linearize(0.1, forward=forward, on_lost="error") as region:
        found = ask(x)
        assert torch.equal(found, ask(x.detach()))
        assert not (found.double() * W).requires_grad
    assert not region.report().lost


@pytest.mark.parametrize("forward", MODES)
def test_not_a_number(forward):
    x = torch.tensor([0.03, torch.nan, 0.5], dtype=torch.float64, requires_grad=True)
    with sll.linearize(0.1, forward=forward, on_lost="error"):
        found = x.clamp(0, 1) != 0
        loss = (found * W[:3]).sum()
    assert found.tolist() == [True, True, True]
    assert torch.autograd.grad(loss, x)[0].tolist() == [5, 0, 0]


def test_after_backward_it_is_the_plain_comparison():
    x = torch.tensor([0.03, -0.04], requires_grad=True)
    with sll.linearize(0.1, on_lost="error"):
        q = x.clamp(0, 1)
        q.sum().backward()
        assert (q != 0).tolist() == [True, False]
