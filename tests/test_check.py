"""`sll.check`: what is right is called right, and what is wrong is not; nothing is left behind."""

from __future__ import annotations

import linecache
import math
import random
import sys
from pathlib import Path

import numpy
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import nn

import sll
from programs import PROGRAMS
from sll._checks.verdicts import compared
from sll._checks.windows import Measured
from sll.checking import _cells
from sll.testing import assert_gradient

sys.path.insert(0, str(Path(__file__).parent.parent / "benchmarks"))
from check_faults import FAULTS, HEIGHTS, TWO, Y, loss_of

X = torch.linspace(-1.4, 1.6, 40, dtype=torch.float64)


def step(x):
    return ((x > 0.3).to(x.dtype) * HEIGHTS.repeat(2)[: len(x)]).sum()


# --- verdicts ----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("name", "forward"),
    [
        ("sign", "hard"),
        ("round_table", "linear"),
        ("never", "hard"),
        ("quantize_int8", "hard"),
        ("rank_table", "linear"),
    ],
)
def test_right(name, forward):
    """All of them: benchmarks/check_faults.py."""
    found = sll.check(loss_of(PROGRAMS[name]), Y[:24] * 1.25, eps=0.01, forward=forward)
    assert found.verdict == "right", found
    (x,) = found.arguments
    assert name == "never" or (abs(x.ratio - 1) < 0.1 and x.cosine > 0.99 and x.signs == 1.0 and x.error < 0.1)


@pytest.mark.parametrize(
    "name",
    [
        "a mask made under no_grad",
        "half of the slope",
        "a wrong sign of one of two",
        "a lost `if`",
        "a wrong index",
        "a gradient where nothing changes",
        "a narrow band in front of a wide step",
        "a feedback explosion",
    ],
)
def test_faults_are_never_right(name):
    """All of them: benchmarks/check_faults.py."""
    program, forward, eps = FAULTS[name]
    found = sll.check(loss_of(program), Y, eps=eps, forward=forward)
    assert not found.right, found


@pytest.mark.slow
@pytest.mark.parametrize("name", TWO)
def test_a_band_that_is_too_wide_is_named(name):
    program, args, forward = TWO[name]
    found = sll.check(program, *args, eps=1.0, forward=forward, directions=4)
    assert found.verdict == "wrong here"
    assert "# the line" in {linecache.getline(*line[:2]).strip()[-10:] for line in found.lines}
    assert "because of" in str(found) and f":{found.lines[0].line} " in str(found)


def test_a_wide_band_is_wrong_for_a_threshold_alone():
    """Along the whole band the gradient integrates to the program's change; near the threshold it says nothing."""
    program, (weight, threshold), _ = TWO["classifier"]
    found = sll.check(lambda t: program(weight, t), threshold, eps=1.0, forward="linear")
    assert found.verdict == "wrong here" and "within ±0.25" in found.arguments[0].why
    assert sll.check(lambda t: program(weight, t), threshold, eps=0.02).verdict == "right"


def test_auto_is_right_where_it_should_be():
    x = torch.randn(200, generator=torch.Generator().manual_seed(0))
    for program in (torch.round, lambda x: torch.where(x > 0.3, 2.0, -1.0)):
        assert sll.check(lambda x, program=program: program(x).sum(), x).right


def test_the_line_of_two_that_is_wrong():
    score = torch.linspace(0, 1, 101, dtype=torch.float64).square()
    hit = score > 0.4

    def program(t):
        few = (t > score[::10]).sum() * 0.02
        said = (score >= t).double()  # too wide
        return few - 2 * (said * hit).sum() / (said.sum() + hit.sum())

    t = torch.tensor(0.3, dtype=torch.float64)
    found = sll.check(program, t, eps={"default": 0.01, "ge": 1.0}, forward="straight-through")
    assert found.verdict == "wrong here" and len(found.lines) == 1, found
    assert linecache.getline(*found.lines[0][:2]).endswith("# too wide\n")


def measured(**other):
    """A stretch: what the program changes, and what the gradient says."""
    known = {"hard": 1.0, "region": 1.0, "noise": 0.01, "shot": 0.1, "swing": 1.0, "region_swing": 1.0, "spike": 0.1}
    again = lambda *_: None
    known |= {"line": None, "half": 0.1, "rounding": 1e-12, "jumps": torch.zeros(0), "reached": True, "again": again}
    return Measured(**{**known, **other})


@given(
    wide=st.lists(st.tuples(*[st.sampled_from([0.0, 1e-15, 0.3, 1.0, -1.1, 5.0])] * 3), min_size=1, max_size=9),
    close=st.lists(st.tuples(*[st.sampled_from([0.0, 0.1, 1.0, -2.0])] * 3), max_size=5),
)
@settings(max_examples=200, deadline=None)
def test_every_verdict_follows_from_figures_that_are_shown(wide, close):
    def stretches(of):
        swings = [{"swing": max(abs(h), s), "region_swing": max(abs(r), s)} for h, r, s in of]
        return [measured(hard=h, region=r, shot=s, **swing) for (h, r, s), swing in zip(of, swings)]

    found = compared("x", (3,), stretches(wide), stretches(close), "")
    cells = _cells(found)
    assert "nan" not in f"{cells} {found.why}" and "inf" not in f"{cells} {found.why}"
    about = found.ratio == found.ratio and abs(found.ratio - 1) <= 0.25
    if found.verdict == "right":
        assert (about and found.error < 0.13) or "%" in found.why
    elif found.verdict == "right on average":
        assert "%" in found.why
    elif found.verdict == "wrong here":
        assert found.why and (not about or any(character.isdigit() for character in found.why))
    elif found.verdict == "cannot tell":
        assert "raise " in found.why or "use float64" in found.why


def test_one_direction_is_too_few():
    nothing = dict.fromkeys(("hard", "region", "shot", "swing", "region_swing", "spike"), 0.0)
    found = compared("x", (9,), [measured(), *[measured(**nothing)] * 7], [], "")
    assert (found.verdict, found.ratio) == ("cannot tell", 1.0) and found.error < 0.1
    assert found.why == "the program changes along one of 8 directions; raise directions="
    wrong = compared("x", (9,), [measured(region=3.0), *[measured(**nothing)] * 7], [], "")
    assert wrong.verdict == "wrong here" and "3 times" in wrong.why


def test_a_second_look_needs_jumps():
    """Whether one jump lies in a short stretch is chance, and for all directions the same."""
    right = [measured(hard=1 + 0.01 * k) for k in range(8)]
    empty, one = {"hard": 0.0, "shot": 0.0, "swing": 0.0}, {"hard": 4.0, "shot": 4.0, "swing": 4.0}
    for of in (empty, one):
        assert compared("x", (64,), right, [measured(**of, region=1.0)] * 8, "").verdict == "right"
    many = compared("x", (64,), right, [measured(hard=4.0, shot=0.2, swing=4.0)] * 8, "")
    assert many.verdict == "wrong here" and "by 4 ± 0.2 times what the gradient says" in many.why


@pytest.mark.parametrize("seed", range(3))
def test_a_choice_in_a_narrow_band(seed):
    generator = torch.Generator().manual_seed(seed)
    x, heights = torch.randn(2, 6, generator=generator)
    found = sll.check(lambda x: heights[x.topk(2).indices].sum(), x, eps=0.05, forward="hard", seed=seed)
    assert found.verdict != "wrong here" and "nan" not in str(found), found


def test_where_it_is_lost_is_named():
    def program(x):
        return (torch.where((x > 0.3).detach(), 2.0, -1.0) + 0 * x).sum()

    found = sll.check(program, X, eps=0.05)
    assert found.verdict == "wrong here" and found.arguments[0].ratio == 0


def test_nothing_in_its_band():
    found = sll.check(lambda x: x.square().sum(), X, eps=0.1)
    assert found.verdict.startswith("cannot tell: no decision") and found.arguments[0].verdict == "right"


def test_random_numbers_that_no_seed_reaches():
    drawn = iter(numpy.random.default_rng(0).normal(size=10_000).tolist())
    found = sll.check(lambda x: step(x) + next(drawn), X, eps=0.05)
    assert found.verdict.startswith("cannot tell: fn returns different values")


def test_random_programs_draw_the_same_numbers_at_both_ends():
    def noisy(x):
        return (x + 0.3 * torch.randn(x.shape, dtype=x.dtype) > 0.3).to(x.dtype).sum() + 10 * torch.randn(())

    assert sll.check(noisy, X, eps=0.05).verdict == "right"


def test_where_the_program_cannot_go():
    """Probabilities: outside of [0, 1] it raises."""

    def program(p):
        if not bool(((p >= 0) & (p <= 1)).all()):
            raise ValueError("no probabilities")
        return ((p > 0.5).double() * HEIGHTS[: len(p)]).sum()

    p = torch.linspace(0.05, 0.95, 30, dtype=torch.float64)
    found = sll.check(program, p, eps=0.01)
    assert found.verdict == "right" and found.arguments[0].step <= 0.05 * 4
    stuck = sll.check(lambda p: program(p) / (p == 0.5).all(), torch.full((3,), 0.5, dtype=torch.float64), eps=0.01)
    assert stuck.verdict.startswith("cannot tell: p") and not stuck.right


def test_what_rounding_hides():
    x = torch.linspace(-1, 1, 20)
    found = sll.check(lambda x: 1e9 + 1e-3 * torch.sign(x).sum(), x, eps=0.05)
    assert "rounding" in found.verdict or found.arguments[0].verdict == "no effect"


def test_what_cannot_be_checked():
    for value in (math.nan, math.inf):
        with pytest.raises(
            ValueError, match=f"fn cannot be checked here: what fn returns in the region is {value}.* other arguments"
        ):
            sll.check(lambda x, value=value: step(x) * value, X, eps=0.01)
    with pytest.raises(ValueError, match=r"x \[0, 3\] has no elements.*pass a tensor that has some"):
        sll.check(lambda x: x.sign().sum(), torch.zeros(0, 3), eps=0.01)
    with pytest.raises(ValueError, match="cannot be checked here: what fn returns"):
        sll.check(lambda x: step(x) / (x[0] < 0).double() - math.inf, X, path_to=X + 1, eps=0.01)
    beside = sll.check(lambda x, y: step(x) + y.sum(), X, torch.zeros(0), eps=0.01)
    assert beside.right and [x.name for x in beside.arguments] == ["x"]


def test_runs_are_bounded_and_told():
    def program(x):
        return (torch.round(37 * x) * torch.linspace(1, 2, len(x))).sum()

    found = sll.check(program, X, eps=1e-4)
    assert 500 < found.runs < 10_000
    assert found.to_dict()["runs"] == found.runs
    assert f"The program ran {found.runs:,} times." in str(found)
    fewer = sll.check(program, X, eps=1e-4, runs=100)
    assert fewer.runs < 100 + 50 + 100
    assert fewer.verdict == "cannot tell: x: 100 runs were not enough; raise runs=, or lower directions= or points="
    assert sll.check(program, X, eps=1e-4, directions=2, points=4).runs < found.runs / 3
    with pytest.raises(TypeError, match="runs must be an integer, at least 100, got 5"):
        sll.check(program, X, runs=5)


@pytest.mark.slow
@pytest.mark.parametrize("seed", range(2))
def test_chance_is_not_called_wrong(seed):
    """Narrow bands of which most have no point in them."""
    torch.manual_seed(seed)
    net = torch.nn.Sequential(torch.nn.Linear(4, 8), torch.nn.BatchNorm1d(8)).double()
    x, y = torch.randn(16, 4, dtype=torch.float64), torch.randn(16, 8, dtype=torch.float64)
    loss = lambda x: (torch.round(net(x) * 2) / 2 - y).square().mean()
    found = sll.check(loss, x, eps=0.05, forward="hard", params=[net[0].weight], directions=4)
    assert found.verdict != "wrong here"
    (weight,) = found.arguments
    assert weight.verdict != "cannot tell" or "raise directions=, points= or runs=" in weight.why


# --- paths -------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("forward", ["linear", "hard"])
def test_a_path(forward):
    found = sll.check(step, X - 1, path_to=X + 1, eps=0.01, forward=forward)
    assert found.verdict == "right"
    (path,) = found.arguments
    assert path.name == "path" and path.ratio == pytest.approx(1, abs=0.05)
    assert path.hard == pytest.approx(float(step(X + 1) - step(X - 1)))


@pytest.mark.slow
def test_a_path_that_goes_up_and_down_again():
    def inside(x):
        return ((x > 0.3) & (x < 0.8)).double().mean()

    assert sll.check(inside, X - 2, path_to=X + 3, eps=0.01).verdict == "right"
    half = sll.check(lambda x: inside(x) + (x.detach() > 0.5).double().mean(), X - 2, path_to=X + 3, eps=0.01)
    assert half.verdict == "wrong here"


def test_a_path_of_several_arguments():
    def program(x, scale, y):
        return step(x * scale + y)

    args = X, 2.0, torch.zeros(40, dtype=torch.float64)
    assert sll.check(program, *args, path_to=(None, None, args[2] + 1.0), eps=0.01).verdict == "right"
    wrong = sll.check(lambda x, s, y: program(x.detach(), s, y), *args, path_to=(X + 1, None, None), eps=0.01)
    assert wrong.verdict == "wrong here"


# --- what is checked ---------------------------------------------------------------------------------------------


class Net(nn.Module):
    def __init__(self):
        super().__init__()
        self.layer, self.norm = nn.Linear(3, 8, dtype=torch.float64), nn.BatchNorm1d(8, dtype=torch.float64)
        self.cut = nn.Parameter(torch.zeros(8, dtype=torch.float64))
        self.calls = []

    def forward(self, x):
        self.calls.append(1)
        return (self.norm(self.layer(x)) + torch.rand(1).double() * 0.01 > self.cut).double().mean(1)


@pytest.fixture
def net():
    with torch.random.fork_rng():
        torch.manual_seed(0)
        return Net()


DATA = torch.randn(60, 3, generator=torch.Generator().manual_seed(1), dtype=torch.float64)


@pytest.mark.slow
def test_modules_closures_and_params(net):
    def loss(x):
        return (net(x) - 0.3).square().mean()

    found = sll.check(loss, DATA, directions=2, points=4)
    assert {x.name.rpartition("net.")[2] for x in found.arguments} == {
        "layer.weight", "layer.bias", "norm.weight", "norm.bias", "cut",
    }  # fmt: skip
    named = sll.check(loss, DATA, params={"cut": net.cut}, directions=2, points=4)
    assert [x.name for x in named.arguments] == ["cut"]
    assert [x.name for x in sll.check(loss, DATA, params=[net.cut], directions=2, points=4).arguments] == ["params[0]"]
    assert len(sll.check(loss, DATA, params=net.norm, directions=2, points=4).arguments) == 2


def test_all_is_afterwards_as_it_was(net):
    before = {name: x.clone() for name, x in net.state_dict().items()}
    net.cut.grad = torch.ones_like(net.cut)
    states = torch.get_rng_state(), random.getstate(), numpy.random.get_state()[1].copy()
    eps = sll.Auto()
    x = DATA.clone().requires_grad_()
    sll.check(lambda x: net(x).mean(), x, eps=eps, params=[net.cut], directions=2, points=4)
    assert all(torch.equal(x, before[name]) for name, x in net.state_dict().items())
    assert torch.equal(net.cut.grad, torch.ones_like(net.cut)) and x.grad is None and torch.equal(x, DATA)
    assert net.calls == [] and not eps.remembered and net.training
    assert torch.equal(torch.get_rng_state(), states[0]) and random.getstate() == states[1]
    assert (numpy.random.get_state()[1] == states[2]).all()


def test_the_same_seed_says_the_same():
    one, two, other = (sll.check(step, X, eps=0.05, seed=seed).arguments[0].ratio for seed in (1, 1, 2))
    assert one == two != other


def test_nested_arguments_and_names():
    batch = {"x": X, "many": 3}
    found = sll.check(lambda batch, bias: step(batch["x"] + bias), batch, bias=torch.tensor(0.1), eps=0.05)
    assert [x.name for x in found.arguments] == ["batch['x']", "bias"] and found.right


def test_single_precision():
    found = sll.check(lambda x: torch.round(x).mean(), torch.linspace(-3, 3, 50), eps=0.02)
    assert found.verdict == "right"


def test_control_flow():
    def program(x):
        return sum(2.0 + 0 * v if v > 0.3 else -v for v in x)

    x = torch.tensor([0.1, 0.29, 0.31, 0.7], dtype=torch.float64)
    assert sll.check(program, x, eps=0.01, forward="hard", paths=16).right
    assert not sll.check(program, x, eps=0.01, forward="hard").right


# --- what it says ------------------------------------------------------------------------------------------------


def test_as_text_html_and_json():
    found = sll.check(step, X, eps=0.05)
    assert str(found).startswith("right — sll.linearize(eps=0.05, forward='linear')\n")
    assert "x [40]" in str(found) and f"{Path(__file__).name}:" in str(found)
    assert "<table>" in found._repr_html_() and "right" in found._repr_html_()
    told = found.to_dict()
    assert told["verdict"] == "right" and told["arguments"][0]["shape"] == [40] and told["lines"] == []


def test_assert_gradient():
    assert_gradient(step, X, eps=0.05, on_average=False)
    with pytest.raises(AssertionError, match=r"wrong here(.|\n)*argument +ratio"):
        assert_gradient(lambda x: step(x.detach()) + 0 * x.sum(), X, eps=0.05)


def test_explain_can_check():
    found = sll.explain(lambda x: torch.round(x), X, eps=0.05, check=True)
    assert found.checked is not None and found.checked.verdict == "right"
    assert "Against the hard program\n  right" in str(found)
    assert found.to_dict()["check"]["verdict"] == "right"
    assert sll.explain(torch.round, X, eps=0.05).to_dict()["check"] is None


@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a GPU")
def test_on_a_gpu():
    found = sll.check(lambda x: torch.round(x).mean(), torch.linspace(-3, 3, 50, device="cuda"), eps=0.02)
    assert found.verdict == "right"
