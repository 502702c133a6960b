"""What `docs/limits.md` says, in its order: each entry has a test that shows it, with its report or its error.

A limit that is none any more fails here, and leaves the page.
"""

from __future__ import annotations

import pathlib
import re
import warnings

import pytest
import torch
import torch.nn.functional as F

import sll
from compatibility import row

MODES = ("straight-through", "hard", "linear")
DOCS = pathlib.Path(__file__).parents[1] / "docs"
SHOWN: list[str] = []


def shows(*starts):
    """The entries of the page that a test shows, by how they begin."""

    def mark(test):
        SHOWN.extend(starts)
        return test

    return mark


def entries(page):
    return [line.removeprefix("- **") for line in page.read_text(encoding="utf-8").splitlines() if line[:2] == "- "]


def gradient(program, at, forward, eps=0.1):
    """Of the sum of what the program returns, and the operations at which something was lost."""
    return reported(program, at, forward, eps)[:2]


def reported(program, at, forward, eps=0.1):
    """The same, and why something is approximate."""
    x = torch.tensor(at, dtype=torch.float64, requires_grad=True)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", sll.LostGradientWarning)
        with sll.linearize(eps, forward=forward) as region:
            y = program(x).double().sum()
    found = torch.autograd.grad(y, x, allow_unused=True)[0] if y.requires_grad else None
    report = region.report()
    lost = [site.op for site in report.lost]
    return (torch.zeros_like(x) if found is None else found).tolist(), lost, sorted(report.why.values())


# --- the page ---


def test_the_page_is_short_and_nothing_is_silent():
    for page, forbidden in (
        (DOCS / "limits.md", "silently|without a report"),
        (DOCS / "zh/limits.md", "没有提示|不会报告"),
    ):
        assert 0 < len(entries(page)) <= 25
        assert not re.search(forbidden, page.read_text(encoding="utf-8"), re.IGNORECASE)


def test_both_languages_have_the_same_entries():
    sections = [
        [part.count("\n- **") for part in re.split("^## ", page.read_text(encoding="utf-8"), flags=re.MULTILINE)]
        for page in (DOCS / "limits.md", DOCS / "zh/limits.md")
    ]
    assert sections[0] == sections[1]


def test_every_entry_is_shown():
    for entry in entries(DOCS / "limits.md"):
        assert sum(entry.startswith(start) for start in SHOWN) == 1, entry
    assert len(SHOWN) == len(entries(DOCS / "limits.md"))


# --- in every mode ---


@shows("`if mask.any():`")
@pytest.mark.parametrize("forward", MODES)
def test_numbers_of_python_are_reported(forward):
    for program, op in (
        (lambda x: x * (x > 0).sum().item(), "item"), (lambda x: x * int(torch.round(25 * x[0])), "int"),
        (lambda x: x if (x > 0).all() else 2 * x, "bool"),
    ):  # fmt: skip
        assert gradient(program, [-0.02, 0.5], forward)[1] == [op]


class Plain(torch.autograd.Function):
    @staticmethod
    def forward(ctx, mask):
        return mask.double()

    @staticmethod
    def backward(ctx, g):
        return g


def _doubled(mask: torch.Tensor) -> torch.Tensor:
    return mask.double()


@shows("A mask has no gradient in a custom")
@pytest.mark.parametrize("forward", MODES)
def test_a_mask_in_a_custom_function_is_reported(forward):
    assert gradient(lambda x: Plain.apply(x > 0) + 0 * x, [-0.02, 0.5], forward) == ([0, 0], ["Plain"])


@shows("A mask that goes into `torch.vmap`")
@pytest.mark.parametrize("forward", MODES)
def test_masks_and_vmap(forward):
    programs = (
        lambda x: torch.func.vmap(lambda a: a > 0)(x).double() + 0 * x,
        lambda x: torch.func.vmap(lambda mask: mask.double())(x > 0) + 0 * x,
    )
    for program in programs:
        expected = ([5, 0], []) if forward == "straight-through" else ([0, 0], ["double"])
        assert gradient(program, [-0.02, 0.5], forward) == expected


@shows("A mask has none in a TorchScript")
@pytest.mark.parametrize("forward", MODES)
def test_where_no_mode_sees_a_mask(forward):
    assert gradient(lambda x: torch.jit.script(_doubled)(x > 0) + 0 * x, [-0.02, 0.5], forward)[0] == [0, 0]


@pytest.mark.parametrize("forward", MODES)
@pytest.mark.parametrize("name", ["custom function", "torchscript", "out of vmap"])
def test_a_float_goes_through(name, forward):
    programs = {
        "custom function": lambda x: Plain.apply((x > 0).double()),
        "torchscript": lambda x: torch.jit.script(_doubled)((x > 0).double()),
        "out of vmap": lambda x: torch.func.vmap(lambda a: (a > 0).double())(x),
    }
    assert gradient(programs[name], [-0.02, 0.5], forward) == ([5, 0], [])


@shows("A view of a mask")
@pytest.mark.parametrize("forward", MODES)
def test_a_view_before_a_write_is_reported(forward):
    def program(x):
        mask = x > 0
        view = mask[:1]
        mask.logical_not_()
        return view.double() + 0 * x

    assert gradient(program, [-0.02, 0.5], forward) == ([0, 0], ["double"])

    def first(x):
        buffer = torch.zeros(2, dtype=torch.bool)
        view = buffer[:1]
        buffer |= x > 0
        return view.double() + 0 * x

    assert reported(first, [-0.02, 0.5], forward) == ([0, 0], [], ["views"])


@pytest.mark.parametrize("forward", MODES)
def test_an_index_without_dimensions_is_written_to(forward):
    def program(x):
        y = torch.zeros(3, dtype=x.dtype)
        y[x.argmax()].add_(5.0)
        return y * torch.tensor([1, 2, 4])

    assert gradient(program, [0.51, 0.5, 0.0], forward) == ([-25, 25, 0], [])


@shows("`RuntimeError: element 0")
@pytest.mark.parametrize("forward", MODES)
def test_every_gradient_was_lost(forward):
    x = torch.tensor([-0.02, 0.5], requires_grad=True)
    with sll.linearize(0.1, forward=forward, on_lost="ignore"):
        y = Plain.apply(x > 0).sum()
    with pytest.raises(RuntimeError, match="element 0 of tensors does not require grad"):
        y.backward()
    with pytest.raises(sll.LostGradientError, match="test_limits_page.py"), sll.linearize(0.1, on_lost="error"):
        Plain.apply(x > 0)


# --- straight-through ---


@shows("The place of the second best")
def test_choosing_again():
    grades = torch.tensor([1.0, 3.0, 7.0])
    left = lambda x: x.masked_fill(torch.arange(3) == x.argmax(), -9.0)
    place = {forward: reported(lambda x: grades[left(x).argmax()], [1.0, 0.98, 0.9], forward) for forward in MODES}
    assert place["straight-through"][0] != place["hard"][0] == pytest.approx([10, -30, 20])
    assert place["straight-through"][2] == ["again"] and place["hard"][2] == []
    assert reported(lambda x: left(x).max(), [1.0, 0.98, 0.5], "straight-through") == ([0, 1, 0], [], [])


@shows("The largest of equal decided floats")
def test_maxima_of_floats_that_tie():
    for best in (lambda m: m.amax(0), lambda m: F.max_pool1d(m[None], 2)):
        program = lambda x, best=best: best((x > 0).double())
        found = {forward: reported(program, [0.02, 0.9], forward) for forward in MODES}
        assert found["hard"] == found["linear"] == ([0, 0], [], [])
        assert found["straight-through"][0][0] > 0 and found["straight-through"][2] == ["equal"]
    assert gradient(lambda x: (x > 0).any(0), [0.02, 0.9], "straight-through")[0] == [0, 0]


@shows("A code of bits")
def test_a_cap_on_terms_is_a_row_of_the_report(monkeypatch):
    monkeypatch.setattr("sll._carry.shadows.terms.MAX_ELEMENTS", 7)
    x = torch.tensor([0.02, 0.9, -0.8, -0.5, -1, -1, -0.6, -0.6], requires_grad=True)
    with sll.linearize(0.1, forward="straight-through") as region:
        (((x > 0) * 2 ** torch.arange(8)).sum() == 3).float().backward()
    report = region.report()
    assert list(report.why.values()) == ["terms"] and "approximate" in str(report)


# --- straight-through and linear ---


@shows("`x[mask].max()`", "`argmax` of decided integers")
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


@pytest.mark.parametrize("forward", ["straight-through", "linear"])
def test_equal_numbers_are_reported(forward):
    program = lambda x: x.unique(return_inverse=True)[1] + 0 * x
    assert gradient(program, [0.02, 0.5, 0.5], forward)[1] == ["unique"]


# --- hard ---


MEET = [
    lambda m: m @ torch.ones(2, dtype=m.dtype) > 1.5, lambda m: m.cumsum(0)[1] > 1.5, lambda m: m.norm() > 1.2,
]  # fmt: skip


@shows("A later decision sees the hard value")
@pytest.mark.parametrize("meet", MEET)
def test_floats_of_which_too_much_is_open_meet(meet, monkeypatch):
    monkeypatch.setattr("sll._carry.flips.every.MAX_OF_FLOATS", 1)
    x = torch.tensor([0.01, 0.5], dtype=torch.float64, requires_grad=True)
    with sll.linearize(0.1, forward="hard") as region:
        y = meet((x > 0).double()).double() + 0 * x.sum()
    assert not torch.autograd.grad(y, x)[0].any()
    assert list(region.report().why.values()) == ["flips"]


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


@shows("A function that is neither elementwise")
def test_too_many_elements_in_all_flips_are_reported():
    at = torch.linspace(0.45, 0.55, 100).tolist()
    written = lambda x: torch.zeros(400_000).scatter(0, torch.round(x).long(), 1.0)
    assert gradient(written, at, "hard")[1] == ["scatter"]


# --- linear ---


@shows("A gradient between many open decisions")
def test_more_open_decisions_than_are_kept_together():
    """All of five, and not the first: that is never so."""

    def program(x):
        a, b, c, d, e = (x > 0).unbind()
        return a & b & c & d & e & ~a

    at = [0.02, 0.03, 0.01, 0.04, 0.05]
    assert not any(gradient(program, at, "hard")[0])
    found, _, why = reported(program, at, "linear")
    assert any(found) and why == ["outcomes"]


@shows("`mask.float().mean() > 0.4`")
@pytest.mark.parametrize("decide", [
    *MEET, lambda m: F.max_pool1d(m[None], 2)[0] > 0.5, lambda m: (m.sum() * 2 + 1).round(), lambda m: m.argmax(),
    lambda m: (m + torch.tensor([0.0, 2.0])).sort().indices, lambda m: torch.softmax(3 * m, 0) > 0.2,
])  # fmt: skip
def test_a_decision_on_a_blend_is_approximate(decide):
    for at, in_band in ((0.01, True), (0.4, False)):
        x = torch.tensor([at, 0.5], dtype=torch.float64, requires_grad=True)
        with sll.linearize(0.1, forward="linear", on_lost="error") as region:
            decide((x > 0).double())
        assert list(region.report().why.values()) == ["blend"] * in_band


def test_equality_of_a_blend_is_reported():
    assert gradient(lambda x: ((x > 0).double().sum() == 2) + 0 * x, [0.01, 0.5], "linear")[1] == ["eq"]
    assert gradient(lambda x: (x > 0).sum() == 2, [0.01, 0.5], "linear")[0] == [pytest.approx(5), 0]


@shows("A lookup at a long count")
def test_counts_by_their_expectation():
    for program in (lambda x: (x > 0).sum() // 2, lambda x: torch.arange(9.0)[(x > 0).sum()]):
        at = [0.02, 0.9, -0.8, 0.5, 0.6]
        assert len(gradient(program, at, "linear")[1]) == 1
        assert gradient(program, at, "hard")[1] == gradient(program, at, "straight-through")[1] == []


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


@shows("`(g[0] > 0) | (g[1] > 0)`")
def test_places_of_a_ranking_that_are_taken_apart():
    def either(x):
        g = torch.tensor([0.0, 1.0, 0.0])[x.argsort()]
        return (g[0] > 0) | (g[1] > 0)

    assert reported(either, [0.02, 0.05, 0.9], "hard") == ([0, 0, 0], [], [])
    found, _, why = reported(either, [0.02, 0.05, 0.9], "linear")
    assert any(found) and why == ["places"]


# --- compiled code ---

compiled = pytest.mark.skipif(torch.__version__ < (2, 10), reason="older Dynamo does not trace these modes")


@compiled
@row(
    "torch.compile", '`forward="hard"`', "works", "what Dynamo captures runs in eager mode; `fullgraph=True` refuses it"
)
def test_compiled_code_does_not_carry_flips():
    torch._dynamo.reset()
    program = lambda x: torch.where(x > 0, x, 2.0)
    expected = gradient(program, [-0.02], "hard")
    assert gradient(torch.compile(program, backend="aot_eager"), [-0.02], "hard") == expected
    torch._dynamo.reset()
    with pytest.raises(RuntimeError, match="does not carry the flips"):
        gradient(torch.compile(program, backend="aot_eager", fullgraph=True), [-0.02], "hard")
