"""What `docs/limits.md` says, in its order: a limit that is none any more fails here, and leaves the page."""

from __future__ import annotations

import warnings

import pytest
import torch
import torch.nn.functional as F

import sll
from compatibility import row

MODES = ("straight-through", "hard", "linear")


def gradient(program, at, forward, eps=0.1):
    """Of the sum of what the program returns, and the operations at which something was lost."""
    x = torch.tensor(at, dtype=torch.float64, requires_grad=True)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", sll.LostGradientWarning)
        with sll.linearize(eps, forward=forward) as region:
            y = program(x).double().sum()
    found = torch.autograd.grad(y, x, allow_unused=True)[0] if y.requires_grad else None
    return (torch.zeros_like(x) if found is None else found).tolist(), [site.op for site in region.report().lost]


def where(program, at, eps=0.1):
    """By mode: the gradient."""
    return {forward: gradient(program, at, forward, eps)[0] for forward in MODES}


class Plain(torch.autograd.Function):
    @staticmethod
    def forward(ctx, mask):
        return mask.double()

    @staticmethod
    def backward(ctx, g):
        return g


UNSEEN = {
    "floats as bools": lambda x: x.bool().double() + 0 * x,
    "torchscript": lambda x: torch.jit.script(_doubled)(x > 0) + 0 * x,
}


def _doubled(mask: torch.Tensor) -> torch.Tensor:
    return mask.double()


@pytest.mark.parametrize("forward", MODES)
@pytest.mark.parametrize("name", UNSEEN)
def test_in_no_mode_and_silently(name, forward):
    assert gradient(UNSEEN[name], [-0.02, 0.5], forward) == ([0, 0], [])


@pytest.mark.parametrize("forward", MODES)
def test_a_mask_in_a_custom_function_and_one_out_of_vmap_are_reported(forward):
    assert gradient(lambda x: Plain.apply(x > 0) + 0 * x, [-0.02, 0.5], forward) == ([0, 0], ["Plain"])
    returned = lambda x: torch.func.vmap(lambda a: a > 0)(x).double() + 0 * x
    assert gradient(returned, [-0.02, 0.5], forward) == ([0, 0], ["double"])


@pytest.mark.parametrize("forward", MODES)
@pytest.mark.parametrize("name", ["custom function", "torchscript", "out of vmap"])
def test_a_float_goes_through(name, forward):
    programs = {
        "custom function": lambda x: Plain.apply((x > 0).double()),
        "torchscript": lambda x: torch.jit.script(_doubled)((x > 0).double()),
        "out of vmap": lambda x: torch.func.vmap(lambda a: (a > 0).double())(x),
    }
    assert gradient(programs[name], [-0.02, 0.5], forward) == ([5, 0], [])


@pytest.mark.parametrize("forward", MODES)
def test_a_view_before_a_write_is_reported(forward):
    def program(x):
        mask = x > 0
        view = mask[:1]
        mask.logical_not_()
        return view.double() + 0 * x

    assert gradient(program, [-0.02, 0.5], forward) == ([0, 0], ["double"])


@pytest.mark.parametrize("forward", MODES)
def test_numbers_of_python_are_reported(forward):
    assert gradient(lambda x: x * (x > 0).sum().item(), [-0.02, 0.5], forward)[1] == ["item"]


def test_maxima_of_floats_that_tie():
    found = where(lambda x: (x > 0).double().amax(0), [0.02, 0.9])
    assert found == {"straight-through": [2.5, 0], "hard": [0, 0], "linear": [0, 0]}
    assert where(lambda x: (x > 0).any(0), [0.02, 0.9]) == dict.fromkeys(MODES, [0, 0])


# --- one mode ---


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


def test_a_cap_on_terms_is_a_row_of_the_report(monkeypatch):
    monkeypatch.setattr("sll._carry.shadows.terms.MAX_ELEMENTS", 7)
    x = torch.tensor([0.02, 0.9, -0.8, -0.5, -1, -1, -0.6, -0.6], requires_grad=True)
    with sll.linearize(0.1, forward="straight-through") as region:
        ((x > 0) * 2 ** torch.arange(8)).sum() == 3  # noqa: B015
    assert sum(region.report().approximate.values()) == 1 and "approximate" in str(region.report())


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


@pytest.mark.parametrize("program", [
    lambda x: (x * x)[x > 0].max(), lambda x: torch.arange(5.0)[(x > 0).nonzero()[0, 0]],
    lambda x: torch.arange(5.0)[(x > 0).int().argmax()],
])  # fmt: skip
def test_selections_and_positions_of_masks(program):
    at = [0.02, 0.05, -0.06]
    assert gradient(program, at, "hard")[1] == []
    assert any(gradient(program, at, "hard")[0])
    for forward in ("straight-through", "linear"):
        assert len(gradient(program, at, forward)[1]) == 1


MEET = [
    lambda m: m @ torch.ones(2, dtype=m.dtype) > 1.5, lambda m: m.cumsum(0)[1] > 1.5, lambda m: m.norm() > 1.2,
]  # fmt: skip


@pytest.mark.parametrize("meet", MEET)
def test_a_decision_on_a_decided_float_sees_the_hard_value(meet):
    found = where(lambda x: meet((x > 0).double()), [0.01, 0.5])
    assert found["hard"] == [pytest.approx(5), 0] and not any(found["straight-through"])


@pytest.mark.parametrize("decide", [
    *MEET, lambda m: F.max_pool1d(m[None], 2)[0] > 0.5, lambda m: (m.sum() * 2 + 1).round(), lambda m: m.argmax(),
    lambda m: (m + torch.tensor([0.0, 2.0])).sort().indices, lambda m: torch.softmax(3 * m, 0) > 0.2,
])  # fmt: skip
def test_a_decision_on_a_blend_is_approximate(decide):
    for at, in_band in ((0.01, True), (0.4, False)):
        x = torch.tensor([at, 0.5], dtype=torch.float64, requires_grad=True)
        with sll.linearize(0.1, forward="linear", on_lost="error") as region:
            decide((x > 0).double())
        assert bool(region.report().approximate) == in_band


def test_equality_of_a_blend_is_reported():
    assert gradient(lambda x: ((x > 0).double().sum() == 2) + 0 * x, [0.01, 0.5], "linear")[1] == ["eq"]
    assert gradient(lambda x: (x > 0).sum() == 2, [0.01, 0.5], "linear")[0] == [pytest.approx(5), 0]


@pytest.mark.parametrize("meet", MEET)
def test_floats_of_which_too_much_is_open_meet(meet, monkeypatch):
    monkeypatch.setattr("sll._carry.flips.every.MAX_OF_FLOATS", 1)
    x = torch.tensor([0.01, 0.5], dtype=torch.float64, requires_grad=True)
    with sll.linearize(0.1, forward="hard") as region:
        y = meet((x > 0).double()).double() + 0 * x.sum()
    assert not torch.autograd.grad(y, x)[0].any()
    assert sum(region.report().approximate.values()) == 1


def test_integers_are_followed_by_every_function():
    assert gradient(lambda x: (x > 0).cumsum(0) > 1, [0.02, 0.5], "hard") == ([pytest.approx(5), 0], [])
    assert gradient(lambda x: (x > 0).double().sum() > 1.5, [0.02, 0.5], "hard")[0][0] == pytest.approx(5)


@pytest.mark.parametrize("many", [1001, 1101])
def test_float_sums_follow_so_many_flips(many):
    at = torch.linspace(-0.05, 0.04, many).tolist()
    count = sum(x > 0 for x in at)
    found = gradient(lambda x: (x > 0).double().sum() > count - 0.5, at, "hard")
    assert any(found[0]) == (many < 1024)
    x = torch.tensor(at, requires_grad=True)
    with sll.linearize(0.1, forward="hard") as region:
        (x > 0).double().sum()
    assert bool(region.report().approximate) == (many > 1024)
    assert any(gradient(lambda x: (x > 0).sum() > count - 1, at, "hard")[0])


def test_a_cap_on_flips_is_a_row_of_the_report():
    x = torch.rand(256, generator=torch.Generator().manual_seed(0), requires_grad=True)
    with sll.linearize(0.5, forward="hard") as region:
        v = x * 0
        for _ in range(60):
            v = v * 0.9 + x
            v = torch.where(v > 0.5, v - 0.5, v)
        v.sum().backward()
    assert sum(region.report().approximate.values()) > 0 and "approximate" in str(region.report())


def test_too_many_elements_in_all_flips_are_reported():
    at = torch.linspace(0.45, 0.55, 100).tolist()
    written = lambda x: torch.zeros(400_000).scatter(0, torch.round(x).long(), 1.0)
    assert gradient(written, at, "hard")[1] == ["scatter"]


@pytest.mark.parametrize("forward", MODES)
def test_beyond_the_end_of_a_table(forward):
    lookup = lambda x: torch.arange(3.0)[torch.round(x).long()]
    assert gradient(lookup, [2.45], forward) == ([0], [])


def test_counts_by_their_expectation():
    for program in (lambda x: (x > 0).sum() // 2, lambda x: torch.arange(9.0)[(x > 0).sum()]):
        at = [0.02, 0.9, -0.8, 0.5, 0.6]
        assert len(gradient(program, at, "linear")[1]) == 1
        assert gradient(program, at, "hard")[1] == gradient(program, at, "straight-through")[1] == []


def test_where_elements_came_from_is_forgotten():
    program = lambda x: (lambda m: torch.cat([m, ~m]).view(2, -1).all(0))(x > 0)
    found = where(program, [0.02])
    assert found["hard"] == [0] and found["linear"][0] != 0


def test_places_of_a_ranking_that_are_taken_apart():
    def either(x):
        g = torch.tensor([0.0, 1.0, 0.0])[x.argsort()]
        return (g[0] > 0) | (g[1] > 0)

    found = where(either, [0.02, 0.05, 0.9])
    assert found["hard"] == [0, 0, 0] and any(found["linear"])


def test_writes_after_a_choice():
    def program(x):
        v = x * 1
        u = torch.where(v > 0, 2 * v, v)
        v += 1
        return u

    for forward in ("hard", "straight-through"):
        assert any(gradient(program, [0.02], forward)[0])
    with pytest.raises(RuntimeError, match="inplace operation"):
        gradient(program, [0.02], "linear")

    def scores(x):
        s = x * 1
        i = s.argmax()
        s.mul_(-1)
        return torch.tensor([1.0, 5.0])[i]

    assert gradient(scores, [0.47, 0.5], "linear")[1] == ["argmax"]
    for forward in ("hard", "straight-through"):
        assert gradient(scores, [0.47, 0.5], forward) == ([pytest.approx(-20), pytest.approx(20)], [])


@torch.jit.script
def _tripled(x: torch.Tensor) -> torch.Tensor:
    return x.mul_(3.0)


def test_writes_that_no_mode_sees():
    def program(x):
        s = x * 1
        mask = s > 0
        _tripled(s.detach())
        return mask.double()

    for forward in ("hard", "straight-through"):
        assert gradient(program, [-0.02], forward)[0] == [5]
    with pytest.raises(RuntimeError, match="modified since"):
        gradient(program, [-0.02], "linear")


def test_counts_that_cancel_raise_no_warning():
    said = {}
    for forward in MODES:
        x = torch.tensor([-0.02, 0.02], requires_grad=True)
        with warnings.catch_warnings(record=True) as found:
            warnings.simplefilter("always")
            with sll.linearize(0.1, forward=forward):
                (x > 0).sum().item()
        said[forward] = len(found)
    assert said == {"straight-through": 1, "hard": 1, "linear": 0}


# --- choices ---


def test_an_index_without_dimensions_returns_a_copy():
    def program(x):
        y = torch.zeros(3)
        y[x.argmax()].add_(5.0)
        return y

    x = torch.tensor([0.02, 0.03, 0.05], requires_grad=True)
    for forward, written in (("hard", 5), ("straight-through", 0), ("linear", 0)):
        with sll.linearize(0.1, forward=forward):
            assert program(x).sum() == written


# --- compiled code ---

compiled = pytest.mark.skipif(torch.__version__ < (2, 10), reason="older Dynamo does not trace these modes")


@compiled
@pytest.mark.parametrize("forward", MODES)
def test_what_dynamo_does_not_show(forward):
    torch._dynamo.reset()
    pad = torch.compile(lambda x: F.pad(x > 0, (1, 1)).double().sum() + 0 * x.sum(), backend="aot_eager")
    assert gradient(pad, [-0.02, 0.5], forward) == ([0, 0], [])
    torch._dynamo.reset()
    turned = torch.compile(lambda x: (x[None] > 0).mT.double().sum() + 0 * x.sum(), backend="aot_eager")
    assert gradient(turned, [-0.02, 0.5], forward) == ([0, 0], [])


@compiled
def test_writes_between_two_decisions():
    def program(x):
        s = x * 1
        first = s > 0
        s.mul_(-1)
        return first & ~(s > 0)

    for forward in MODES:
        torch._dynamo.reset()
        found = gradient(torch.compile(program, backend="aot_eager"), [-0.02], forward)
        assert (found == gradient(program, [-0.02], forward)) == (forward != "linear")


@compiled
@row("torch.compile", '`forward="hard"`', "works", "with a graph break at each decision; `fullgraph=True` refuses it")
def test_compiled_code_does_not_carry_flips():
    torch._dynamo.reset()
    program = lambda x: torch.where(x > 0, x, 2.0)
    expected = gradient(program, [-0.02], "hard")
    assert gradient(torch.compile(program, backend="aot_eager"), [-0.02], "hard") == expected
    torch._dynamo.reset()
    with pytest.raises(torch._dynamo.exc.Unsupported, match="does not carry the flips"):
        gradient(torch.compile(program, backend="aot_eager", fullgraph=True), [-0.02], "hard")
