"""What `docs/how-it-works.md` and `docs/choosing-eps.md` say of what gradients are, beside their examples."""

from __future__ import annotations

import pytest
import torch

import sll
from test_limits_page import MEET, MODES, gradient


def where(program, at, eps=0.1):
    """By mode: the gradient."""
    return {forward: gradient(program, at, forward, eps)[0] for forward in MODES}


@pytest.mark.parametrize("forward", MODES)
def test_what_holds_at_single_points_is_no_decision(forward):
    for asked in (lambda x: x.bool(), lambda x: torch.logical_not(x), lambda x: x == 0):
        assert gradient(lambda x, asked=asked: asked(x).double() + 0 * x, [-0.02, 0.5], forward) == ([0, 0], [])


@pytest.mark.parametrize("forward", MODES)
def test_a_threshold_that_is_detached_is_a_number(forward):
    assert gradient(lambda x: x >= x.max().detach() - 0.05, [0.02, 0.1], forward)[0] == pytest.approx([5, 5])


@pytest.mark.parametrize("forward", MODES)
def test_values_that_outlive_the_region_are_plain(forward):
    x = torch.tensor([0.02, 0.5], requires_grad=True)
    with sll.linearize(0.1, forward=forward):
        mask = x > 0
        shown = mask.float()
    assert not torch.where(mask, 2.0, 1.0).requires_grad and shown.requires_grad


def test_clamp_after_rounding():
    at = [2.4, 3.2, 3.6]
    after = where(lambda x: torch.round(x).clamp(0, 3).int(), at, 0.5)
    assert after["straight-through"] == [1, 1, 0] and after["hard"] == after["linear"] == [1, 0, 0]
    before = where(lambda x: torch.round(x.clamp(0, 3)).int(), at, 0.5)
    assert before["straight-through"] == [1, 0, 0]


def test_the_same_question_asked_twice():
    assert where(lambda x: (x > 0) & ~(x > 0), [0.02]) == {"straight-through": [-5], "hard": [0], "linear": [0]}


def test_decisions_on_decisions():
    found = where(lambda x: torch.round(10 * torch.sign(x)), [0.004], 0.01)
    assert found["straight-through"] == [0]
    assert found["hard"] == found["linear"] == pytest.approx([1000])


def test_feedback_in_narrow_bands():
    def loop(v):
        for _ in range(6):
            v = torch.where(v > 0.3, v * 0.6 - 0.1, v)
        return v

    once = where(lambda v: torch.where(v > 0.3, v * 0.6 - 0.1, v), [0.299], 0.01)
    found = where(loop, [0.299], 0.01)
    assert found["straight-through"][0] > 1e5
    assert found["hard"][0] - 1 == pytest.approx(6 * (once["hard"][0] - 1))
    assert found["linear"] == pytest.approx(once["linear"])

    def remembered(v):
        active = torch.ones_like(v, dtype=torch.bool)
        for _ in range(6):
            active = active & (v > 0.3)
            v = torch.where(active, v * 0.6 - 0.1, v)
        return v

    assert where(remembered, [0.299], 0.01)["hard"] == pytest.approx(once["hard"])


def test_codes_of_bits():
    def code(x):
        return ((x > 0) * 2 ** torch.arange(8)).sum() == 3

    at = [0.02, 0.9, -0.8, -0.5, -1, -1, -0.6, -0.6]
    found = {forward: gradient(code, at, forward) for forward in MODES}
    assert found["hard"][0] == found["straight-through"][0] == [pytest.approx(5), *[0] * 7]
    assert found["linear"][1] == ["eq"]


def test_masks_that_wrap():
    x = torch.tensor([3.0], requires_grad=True)
    with sll.linearize("auto"):
        y = torch.where(x > torch.pi, x - 2 * torch.pi, x)
    assert torch.autograd.grad(y, x)[0] < -1


def test_a_quotient_and_its_remainder():
    x = torch.tensor([0.3, 1.8], requires_grad=True)
    with sll.linearize("auto"):
        y = x // 1 + x % 1
    assert torch.autograd.grad(y.sum(), x)[0].tolist() == [2.0, 2.0]


@pytest.mark.parametrize("meet", MEET)
def test_a_decision_on_a_decided_float_sees_the_hard_value(meet):
    found = where(lambda x: meet((x > 0).double()), [0.01, 0.5])
    assert found["hard"] == [pytest.approx(5), 0] and not any(found["straight-through"])


@pytest.mark.parametrize("forward", MODES)
def test_beyond_the_end_of_a_table(forward):
    lookup = lambda x: torch.arange(3.0)[torch.round(x).long()]
    assert gradient(lookup, [2.45], forward) == ([0], [])


def test_where_elements_came_from_is_forgotten():
    program = lambda x: (lambda m: torch.cat([m, ~m]).view(2, -1).all(0))(x > 0)
    found = where(program, [0.02])
    assert found["hard"] == [0] and found["linear"][0] != 0


def metric(x):
    with torch.no_grad():
        right = (x > 0).float()
    return (right * x.detach()).mean()


def test_what_the_program_cuts_can_be_seen_through():
    x = torch.linspace(-1.03, 1.06, 20, requires_grad=True)
    cut = sll.explain(metric, x, eps=0.3)
    assert cut.report.cut and "see_through=True" in str(cut) and not cut.inputs[0].linearized
    seen = sll.explain(metric, x, eps=0.3, see_through=True)
    assert seen.inputs[0].linearized and "see_through=True looks" not in str(seen)
