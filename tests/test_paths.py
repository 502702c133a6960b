"""Python control flow: functions that run again for what Python asks of their decisions."""

from __future__ import annotations

import copy
import functools
import heapq
import random
import threading
import warnings

import numpy as np
import pytest
import torch
from torch import nn
from torch.utils.checkpoint import checkpoint

import sll
from path_programs import PROGRAMS, integral
from sll._mode import runs, surroundings

MODES = ("linear", "hard", "straight-through")
EXACT = ("hard", "straight-through")
EPS = 0.02
each_mode = pytest.mark.parametrize("forward", MODES)
hard_values = pytest.mark.parametrize("forward", EXACT)


def at(*values, dtype=torch.float64):
    return torch.tensor(values, dtype=dtype, requires_grad=True)


def enable(forward, **options):
    return sll.enable(**{"eps": EPS, "forward": forward, "paths": 64, "on_lost": "error", **options})


def gradient(y, x):
    return torch.autograd.grad(y, x)[0]


def one_if(x):
    """With ``x = (0.305, 0.7)`` the other way is 3.5, a quarter of the half-width away."""
    if x[0] > 0.3:
        return x[1] * 2 + x[0] ** 2
    return x[1] * 5


X = (0.305, 0.7)
HARD = 0.7 * 2 + 0.305**2
SLOPE = (HARD - 3.5) / (2 * EPS)


# --- what gradients are ----------------------------------------------------------------------------------------------


@pytest.mark.parametrize("name", ["elif_chain", "asked_twice", "two_tensors"])
@pytest.mark.parametrize(("forward", "eps"), [("linear", 0.02), ("hard", 0.005), ("straight-through", 0.005)])
def test_line_integral(name, forward, eps):
    """All programs: `benchmarks/paths.py`."""
    got, want = integral(sll.linearize(eps, forward=forward, paths=256, on_lost="error"), PROGRAMS[name], 60, 8, 3, 9)
    assert got == pytest.approx(want, rel=0.005 if forward == "linear" else 0.01)


@hard_values
def test_a_flip_is_slope_times_difference(forward):
    x = at(*X)
    y = enable(forward)(one_if)(x)
    assert y.item() == one_if(x).item()
    assert gradient(y, x).tolist() == pytest.approx([2 * 0.305 + SLOPE, 2.0])


def test_paths_by_weight():
    x = at(*X)
    y = enable("linear")(one_if)(x)
    weight = 0.5 + 0.005 / (2 * EPS)
    assert y.item() == pytest.approx(weight * HARD + (1 - weight) * 3.5)
    assert gradient(y, x).tolist() == pytest.approx([weight * 2 * 0.305 + SLOPE, weight * 2 + (1 - weight) * 5])


BOX = """
def program(x):
    s = torch.zeros((), dtype=x.dtype)
    k = 0
{}
    return s + k
"""


def box_program(seed):
    """A program of one variable, constant between boundaries that lie where thresholds do."""
    draw = random.Random(seed)

    def block(depth):
        lines = []
        for _ in range(draw.randint(1, 3)):
            t, a, kind = round(draw.uniform(-2, 2), 3), draw.randint(-3, 3), draw.random()
            ask = draw.choice(
                ["x > {}", "x >= {}", "x < {}", "{} < x", "~(x > {})", "(x > {}) & True", "(x > {}).long()"]
            )
            ask = ask.format(t)
            if kind < 0.4 and depth < 3:
                lines += [f"if {ask}:", *("    " + line for line in block(depth + 1))]
                lines += ["else:", *("    " + line for line in block(depth + 1))] if draw.random() < 0.6 else []
            elif kind < 0.5:
                lines.append(f"k = k + int(torch.round(x + {t}))")
            elif kind < 0.6:
                lines.append(f"for _ in range(int(torch.floor(x + {abs(t) + 2}))): s = s * 0.5 + {a}")
            elif kind < 0.7:
                lines.append(f"s = s + [1.0, -2.0, 4.0, 0.5, 3.0][min(max(torch.ceil(x + {t}).long(), -5), 4)]")
            elif kind < 0.8 and depth < 2:
                lines += ["n = 0", f"while x + n < {t} and n < 4:", f"    n, s = n + 1, s + {a} * n"]
            elif kind < 0.9:
                lines += [f"m{depth} = {ask}", f"if m{depth}: s = s + {a}", f"if m{depth}: s = s * 2"]
            else:
                lines.append(f"s = s * 2 + k * {a} + ({ask}).item() * 1.5")
        return lines

    names = {"torch": torch}
    exec(BOX.format("\n".join("    " + line for line in block(0))), names)
    return names["program"]


def jumps(program, many):
    """Where the program jumps, with nothing else near: the place, the value below, the value above."""
    value = lambda x: float(program(torch.tensor(x, dtype=torch.float64)))
    xs = [-2.6 + 5.2 * i / many for i in range(many + 1)]
    ys = [value(x) for x in xs]
    for i in range(many):
        if ys[i] != ys[i + 1]:
            low, high = xs[i], xs[i + 1]
            for _ in range(40):
                middle = (low + high) / 2
                low, high = (middle, high) if value(middle) == ys[i] else (low, middle)
            below, above = ({value(low + side * d) for d in (1e-6, 1e-3, 2e-3, 3e-3)} for side in (-1, 1))
            if len(below) == len(above) == 1:
                yield low, below.pop(), above.pop()


@each_mode
@pytest.mark.parametrize("seed", range(0, 60, 5))
def test_box(forward, seed):
    """For one boundary, the derivative of the window average: the jump divided by the window."""
    program, eps = box_program(seed), 1e-3
    run = enable(forward, eps=eps)(program)
    for place, low, high in list(jumps(program, 600))[:3]:
        for offset in (-0.7, 0.3):
            x = at(place + offset * eps)[0]
            (x := x.detach()).requires_grad_()
            y = run(x)
            if forward == "linear":
                assert y.item() == pytest.approx(low + (high - low) * (offset + 1) / 2, abs=1e-6)
            else:
                assert y.item() == float(program(x))
            assert gradient(y, x).item() == pytest.approx((high - low) / (2 * eps), rel=1e-5)


@each_mode
def test_the_same_question_has_one_answer(forward):
    """Joint: asked twice, of one tensor or of two that were computed alike. (A name is bound in one branch only.)"""

    def program(x, again):
        if x[0] * 2 > 0.6:
            bound = x[1]
        mask = x[0] * 2 > 0.6 if again else None
        if x[0] * 2 > 0.6 if again else True:
            return bound * 3
        return x[1] * (1 if mask is None else 2)

    def joint(x):
        return x[1] * 3 if x[0] * 2 > 0.6 else x[1] * 2

    x, run, other = at(*X), enable(forward)(program), enable(forward)(joint)
    assert torch.allclose(gradient(run(x, True), x), gradient(other(x), x))


@each_mode
def test_thresholds_on_both_sides_are_two_questions(forward):
    """At equal distances from a number, above and below it, and of equal numbers."""
    region = sll.linearize(EPS, forward=forward, paths=16)

    def program(x):
        a = x[2] * 2 if x[0] > 0.25 else x[2]
        b = a * 3 if x[0] > 0.27 else a
        return b * 5 if x[1] > 0.25 else b

    region(program)(at(0.26, 0.26, 1.0))
    assert {flips.open for flips in region.report().flips.values()} <= {1, 2, 4}
    assert len(region.report().flips) == 3


def test_hard_takes_what_tensors_know_of_a_flip():
    """A mask that `if` and `where` share changes in both."""

    def program(x):
        mask = x[0] > 0.3
        return torch.where(mask, 1.0, 0.0) if mask else torch.where(mask, 5.0, 7.0)

    x = at(*X)
    assert gradient(enable("hard")(program)(x), x)[0].item() == pytest.approx((1 - 7) / (2 * EPS))


@each_mode
def test_integers(forward):
    """The two integers next to the boundary."""

    def program(x):
        total = x[1] * 0
        for i in range(int(x[0])):
            total = total + (i + 1) * x[1]
        return total + [10.0, 20.0, 30.0, 40.0][x[0].long()] + torch.round(x[0] - 0.5).item()

    x, run = at(2.005, 0.5), enable(forward)(program)
    y = run(x)
    assert gradient(y, x)[0].item() == pytest.approx((3 - 2) * 0 + (2 * 0.5 + 10 + 1) / (2 * EPS))
    values = [run(at(2 + d, 0.5)).item() for d in (-0.03, 0.03)]
    assert values == [0.5 + 20 + 1, 0.5 + 1 + 30 + 2]


@each_mode
@pytest.mark.parametrize("seed", range(12))
def test_what_is_far_from_its_boundary_is_decided_at_once(forward, seed, monkeypatch):
    """Values and gradients are those that the rules have, inside and outside of bands, at their edges and at ties."""
    program, run = box_program(seed), enable(forward, paths=512, eps=0.125)(box_program(seed))

    def found(x):
        x = torch.tensor(x, dtype=torch.float64, requires_grad=True)
        y = run(x)
        return y.item(), gradient(y, x).item() if y.requires_grad else 0.0

    places = [place + d for place, *_ in list(jumps(program, 200))[:2] for d in (-0.3, -0.125, -0.12, 0, 0.125, 0.13)]
    quick = [found(x) for x in places]
    monkeypatch.setattr("sll._mode.runs._shut", lambda *_: False)
    assert quick == [found(x) for x in places]


@pytest.mark.parametrize("name", ["gt", "le", "frac", "remainder"])
def test_numbers_near_a_boundary_are_left_to_the_rules(name):
    by = (0.75,) if name != "frac" else ()
    shut = lambda x: runs._shut(name, 0.1, (x.requires_grad_(), *by))
    boundary = {"frac": 1.0, "remainder": 1.5}.get(name, 0.75)
    for d, inside in ((-0.12, False), (-0.1, True), (-0.05, True), (0.0, True), (0.0999, True), (0.101, False)):
        assert shut(torch.tensor(boundary + d, dtype=torch.float64)) == (not inside)
    for odd in (float("nan"), float("inf")):
        assert not shut(torch.tensor(odd))
    assert not shut(torch.ones(2) * 9.3)


@each_mode
def test_a_heap_of_tensors(forward):
    """Python compares them in tuples."""

    def program(x):
        events, out = [(v, i + 1) for i, v in enumerate(x)], 0
        heapq.heapify(events)
        while events:
            v, i = heapq.heappop(events)
            out = out * 2 + v * i
        return out

    x = at(0.5, 0.51, 0.9)
    y = enable(forward)(program)(x)
    first, second = 4 * 0.5 + 4 * 0.51 + 2.7, 8 * 0.51 + 2 * 0.5 + 2.7
    own = [4, 4, 3] if forward != "linear" else [3.5, 5, 3]
    slope = (second - first) / (2 * EPS)
    assert gradient(y, x).tolist() == pytest.approx([own[0] + slope, own[1] - slope, own[2]])


@each_mode
def test_counts_choices_and_lists(forward):
    def program(x):
        many = int((torch.stack([x[0], x[1], x[0] * 0 + 9]) > 0.3).sum())
        first = [x[0] * 3, x[1] * 7][torch.stack([x[0], x[1]]).argmax()]
        flags = (torch.stack([x[0], x[1]]) > 0.5).tolist()
        return first * many + sum(flags)

    for values in ((0.305, 0.1), (0.8, 0.9), (0.9, 0.505)):
        x = at(*values)
        y = enable(forward)(program)(x)
        if forward != "linear":
            assert y.item() == program(x).item()
        assert gradient(y, x).abs().max() > 0


@pytest.mark.parametrize("forward", MODES)
def test_the_line_integral_of_a_choice(forward):
    def program(x):
        return [x[0] * 3, x[1] * 7][torch.stack([x[0], x[1]]).argmax()]

    run, start, end, many = enable(forward)(program), torch.tensor([0.0, 0.5]), torch.tensor([1.0, 0.4]), 800
    total = 0.0
    for i in range(many):
        x = (start + (i + 0.5) / many * (end - start)).double().requires_grad_()
        total += float(gradient(run(x), x) @ (end - start).double()) / many
    assert total == pytest.approx(float(program(end) - program(start)), rel=0.02)


def test_linear_is_continuous():
    run = enable("linear")(PROGRAMS["hysteresis"].run)
    values = [run(at(0.2 + 0.5 * i / 500, 0.8)).item() for i in range(501)]
    steps = [abs(b - a) for a, b in zip(values, values[1:])]
    assert max(steps) < 0.06 and max(values) - min(values) > 0.5


@pytest.mark.parametrize("forward", ["linear"])
def test_linear_gradient_is_that_of_its_value(forward):
    run = enable(forward)(PROGRAMS["while_with_break"].run)
    for first in (0.11, 0.275, 0.29, 0.72):
        x = at(first, 0.8)
        wanted = [
            (run(at(first + d * a, 0.8 + d * b)) - run(at(first - d * a, 0.8 - d * b))).item() / (2 * d)
            for a, b, d in ((1, 0, 1e-6), (0, 1, 1e-6))
        ]
        assert gradient(run(x), x).tolist() == pytest.approx(wanted, rel=1e-5, abs=1e-5)


# --- fewer runs than flips -------------------------------------------------------------------------------------------


def many_ifs(x):
    y = x.sum()
    for i in range(6):
        if x[i % 2] > 0.3 - 0.002 * i:
            y = y * 1.3 + i * x[1]
    return y


@hard_values
def test_a_sample_is_unbiased(forward):
    x = at(0.305, 0.301)
    exact = gradient(enable(forward)(many_ifs)(x), x)
    region = sll.linearize(EPS, forward=forward, paths=3, generator=torch.Generator().manual_seed(1))
    run = region(many_ifs)
    draws = torch.stack([gradient(run(x), x) for _ in range(300)])
    error = draws.std(0) / len(draws) ** 0.5
    assert draws.std(0).min() > 1
    assert ((draws.mean(0) - exact).abs() < 3 * error).all()
    flips = region.report().flips.values()
    assert sum(each.open for each in flips) == 300 * 6 and sum(each.run for each in flips) == 300 * 2
    assert {each.weight for each in flips} == {3.0}


@hard_values
def test_a_sample_can_be_repeated(forward):
    x = at(0.305, 0.301)

    def draws(**options):
        run = enable(forward, paths=3, **options)(many_ifs)
        return [gradient(run(x), x).tolist() for _ in range(5)]

    assert draws() == draws() != draws(generator=torch.Generator().manual_seed(5))
    torch.manual_seed(3)
    first = torch.rand(1)
    torch.manual_seed(3)
    draws()
    assert torch.equal(torch.rand(1), first)


def test_too_many_paths_name_the_line():
    with pytest.raises(RuntimeError, match=r"paths=3 is not enough: at least \d+ paths.*test_paths.py:\d+ \(bool\)"):
        enable("linear", paths=3)(many_ifs)(at(0.305, 0.301))


# --- values ----------------------------------------------------------------------------------------------------------


@hard_values
@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16, torch.float32, torch.float64, torch.complex64])
def test_values_are_the_programs_bit_for_bit(forward, dtype):
    def program(x):
        y = (torch.stack([x, 3 * x]) / 7).to(dtype)
        if x[0] > 0.3:
            y = y.T
        return {"y": y / 3 if x[0] > 0.31 else y * 3, "n": int(x[0] > 0.3), "x": x, "rest": [None, "a", 2.5]}

    x = at(*X, dtype=torch.float32)
    got, want = enable(forward)(program)(x), program(x)
    assert torch.equal(got["y"], want["y"])
    assert (got["y"].dtype, got["y"].stride()) == (want["y"].dtype, want["y"].stride())
    assert got["x"] is x and type(got["y"]) is torch.Tensor
    assert (got["n"], got["rest"]) == (want["n"], want["rest"])
    assert gradient(got["y"].abs().sum(), x).abs().sum() > 0


@each_mode
@pytest.mark.parametrize("dtype", [torch.float16, torch.float32, torch.complex64])
def test_types_stay(forward, dtype):
    y = enable(forward)(lambda x: one_if(x).to(dtype))(at(*X))
    assert y.dtype == dtype and y.requires_grad


@each_mode
def test_nothing_open_is_one_run(forward):
    calls = _Unseen()

    def program(x):
        calls.add(1)
        return one_if(x)

    region = sll.linearize(EPS, forward=forward, paths=8, on_lost="error")
    x = at(0.9, 0.7)
    y = region(program)(x)
    assert calls.all() == [1] and y.item() == one_if(x).item() and region.report().flips == {}
    assert gradient(y, x).tolist() == [1.8, 2.0]


@each_mode
def test_without_gradients_it_is_the_plain_program(forward):
    run = enable(forward)(one_if)
    with torch.no_grad():
        assert run(at(*X)).item() == one_if(at(*X)).item()
    assert run(torch.tensor(X)).item() == one_if(torch.tensor(X)).item()


@hard_values
def test_a_question_under_no_grad_is_plain(forward):
    def program(x):
        with torch.no_grad():
            taken = bool(x[0] > 0.3)
        return x[1] if taken else x[1] * 9

    x = at(*X)
    assert gradient(enable(forward)(program)(x), x).tolist() == [0.0, 1.0]


@hard_values
def test_second_derivatives(forward):
    x = at(*X)
    (first,) = torch.autograd.grad(enable(forward)(one_if)(x), x, create_graph=True)
    assert torch.autograd.grad(first.sum(), x)[0].tolist() == [2.0, 0.0]


# --- what else a run changes -----------------------------------------------------------------------------------------


class _Unseen:
    """Keeps what runs say: an object with slots is not put back."""

    __slots__ = ("said",)

    def __init__(self):
        self.said = ()

    def add(self, x):
        self.said += (x,)

    def all(self):
        return list(self.said)


@each_mode
def test_random_numbers(forward):
    drawn = _Unseen()

    def program(x, generator):
        noise = torch.rand(()) + random.random() + np.random.randn() + torch.rand((), generator=generator)
        drawn.add(float(noise))
        if x[0] > 0.3:
            torch.rand(()), random.random(), np.random.randn(), torch.rand((), generator=generator)
        return noise * one_if(x)

    def begun(run):
        torch.manual_seed(0), random.seed(0), np.random.seed(0)
        np.random.randn()  # leaves the second number of a pair
        generator = torch.Generator().manual_seed(7)
        out = run(at(*X), generator).item()
        ends = torch.rand(()).item(), random.random(), np.random.randn(), torch.rand((), generator=generator).item()
        return out, ends

    plain, ended = begun(program)
    value, ends = begun(enable(forward)(program))
    assert ends == ended and len(drawn.all()) == 3 and len(set(drawn.all())) == 1
    assert value == plain or forward == "linear"


@each_mode
def test_the_second_number_of_a_pair_is_put_back(forward):
    """NumPy and Python draw normal numbers in pairs. What they are made of does not say whether one is left over."""
    drawn = _Unseen()

    def program(x):
        drawn.add((np.random.randn(), random.gauss(0, 1)))
        return one_if(x)

    run = enable(forward)(program)
    np.random.randn(), random.gauss(0, 1)
    left = np.random.get_state(), random.getstate()
    np.random.randn(), random.gauss(0, 1)
    run(at(0.9, 0.7))  # none is left over before it
    np.random.set_state(left[0]), random.setstate(left[1])
    run(at(*X))
    assert len(drawn.all()) == 3 and len(set(drawn.all()[1:])) == 1


def test_the_state_of_random_numbers_is_told_whatever_was_drawn():
    luck, kept = random.Random(0), np.random.get_state()
    draws = [
        random.random, lambda: random.gauss(0, 1), lambda: random.seed(3), np.random.randn, lambda: np.random.rand(400),
        lambda: np.random.seed(3), lambda: np.random.binomial(9, 0.3), lambda: np.random.set_state(kept),
    ]  # fmt: skip
    known = lambda state: (state["has_gauss"], state["gauss"], state["state"]["pos"], state["state"]["key"].tolist())
    for _ in range(300):
        luck.choice(draws)()
        kept = luck.choice([kept, np.random.get_state()])
        assert surroundings._python() == random.getstate()
        assert known(surroundings._numpy()) == known(np.random.get_state(legacy=False))
        assert surroundings._numpy() is surroundings._numpy()


class Counting(nn.Module):
    def __init__(self):
        super().__init__()
        self.norm, self.drop = nn.BatchNorm1d(2).double(), nn.Dropout(0.5)
        self.calls, self.log = 0, []
        self.register_buffer("seen", torch.zeros(()))

    def forward(self, x):
        self.calls += 1
        self.log.append(self.calls)
        self.seen += 1
        h = self.drop(self.norm(torch.stack([x, 2 * x, x * x])))
        if x[0] > 0.3:
            self.calls += 10
            self.seen.add_(5)
        else:
            self.extra = nn.Linear(1, 1)
            h = self.norm(h)
            self.log.clear()
        return h.sum() * x[1]


@each_mode
def test_modules_end_as_after_one_run(forward):
    torch.manual_seed(0)
    module = Counting()
    other = copy.deepcopy(module)
    torch.manual_seed(1)
    want = module(at(*X))
    torch.manual_seed(1)
    x = at(*X)
    got = enable(forward)(Counting.forward)(other, x)
    assert (other.calls, other.log) == (module.calls, module.log) and not hasattr(other, "extra")
    assert all(torch.equal(a, b) for a, b in zip(module.state_dict().values(), other.state_dict().values()))
    assert forward == "linear" or got.item() == want.item()
    assert gradient(got, x)[0].abs() > 1


class Early(nn.Module):
    """Has attributes before those of every module, and modules in all ways."""

    def __init__(self):
        self.log = [0]
        super().__init__()
        self.each = nn.ModuleDict({"a": nn.ModuleList([nn.Linear(2, 2, bias=False), None])})
        self.register_parameter("none", None)
        self.more, self.later = {"deep": [nn.BatchNorm1d(2)]}, []


@each_mode
def test_all_that_a_module_has_is_put_back(forward):
    def program(module, x):
        seen.add(state(module))
        for norm in module.more["deep"]:
            norm.train(not norm.training), norm.num_batches_tracked.add_(1)
        module.log.append(1), module.later.append(nn.Tanh()), module.each["a"].append(nn.Tanh())
        module.none, module.each["a"][0].extra = nn.Parameter(torch.ones(2)), 3
        return one_if(x)

    def state(module):
        norm, linear = module.more["deep"][0], module.each["a"][0]
        has = len(module.log), len(module.later), len(module.each["a"]), hasattr(linear, "extra"), module.none is None
        return *has, norm.training, norm.num_batches_tracked.item()

    seen, module, other = _Unseen(), Early(), Early()
    run = enable(forward)(program)
    for _ in range(2):
        program(module, at(*X)), run(other, at(*X))
        other.none = module.none = None
    first, second = seen.all()[:3], seen.all()[3:]
    assert len(set(first)) == len(set(second)) == 1 and state(module) == state(other)


@each_mode
def test_arguments_and_closures_end_as_after_one_run(forward):
    def fresh():
        return {"list": [1], "dict": {}, "set": {1}, "buffer": torch.ones(3), "array": np.ones(2)}

    def started(has):
        count = 0

        def program(x, some, *, log):
            nonlocal count
            count += 1
            some.append(2), has["set"].add(2), has["buffer"].mul_(2), log.setdefault("k", []).append(1)
            view = has["buffer"][:1]
            if x[0] > 0.3:
                view.add_(1)
                count += 10
            else:
                some.clear(), has["set"].clear(), log.clear(), has["buffer"].zero_()
                has["buffer"].data = torch.zeros(5)
            return one_if(x) * len(some), count

        return program

    a, b = fresh(), fresh()
    want = started(a)(at(*X), a["list"], log=a["dict"])
    got = enable(forward)(started(b))(at(*X), b["list"], log=b["dict"])
    assert got[1] == want[1]
    for name in ("list", "dict", "set"):
        assert a[name] == b[name]
    assert torch.equal(a["buffer"], b["buffer"])


class Counted:
    calls, log = 0, []

    def count(self):
        type(self).calls += 1
        self.log.append(type(self).calls)
        return len(self.log) + self.calls


class Parent(Counted):
    calls, log = 0, []


@each_mode
def test_attributes_of_classes_end_as_after_one_run(forward):
    """Named by the function, or of an object that it is given: set, made and deleted."""
    seen = _Unseen()

    def program(x, parent):
        Counted.calls += 1
        Counted.made = seen.add((Counted.calls, hasattr(Counted, "made"), hasattr(Counted, "old"), parent.count()))
        if x[0] > 0.3:
            del Counted.old
            Counted.log.append(1)
        return one_if(x)

    Counted.calls, Counted.old, Parent.calls = 0, 1, 0
    Counted.log.clear(), Parent.log.clear()
    enable(forward)(program)(at(*X), Parent())
    assert len(seen.all()) > 1 and set(seen.all()) == {(1, False, True, 2)}
    assert (Counted.calls, Counted.log, Parent.calls, Parent.log) == (1, [1], 1, [1])
    assert Counted.made is None and not hasattr(Counted, "old")
    del Counted.made


@each_mode
def test_numpy_is_put_back(forward):
    """Arrays, and generators old and new."""
    seen = _Unseen()

    def program(x, state, old, new):
        seen.add((state.tolist(), old.rand(), new.random()))
        state += 1
        if x[0] > 0.3:
            state[0] = 9
            old.rand()
        return one_if(x)

    def given():
        return np.zeros(2), np.random.RandomState(0), np.random.default_rng(0)

    (state, old, new), (want, old_as, new_as) = given(), given()
    enable(forward)(program)(at(*X), state, old, new)
    program(at(*X), want, old_as, new_as)
    assert len(set(map(str, seen.all()))) == 1 and len(seen.all()) == 3
    assert state.tolist() == want.tolist() == [9, 1]
    assert (old.rand(), new.random()) == (old_as.rand(), new_as.random())


@each_mode
def test_every_run_sees_what_the_first_saw(forward):
    seen = _Unseen()

    def program(x, buffer):
        seen.add(buffer.tolist())
        buffer.add_(1)
        torch.add(buffer, 1, out=buffer)
        torch._foreach_mul_([buffer], 2.0)
        seen.add(buffer.tolist())
        return one_if(x) * buffer.sum()

    buffer = torch.ones(2)
    enable(forward)(program)(at(*X), buffer)
    assert seen.all() == [[1.0, 1.0], [6.0, 6.0]] * 2 and buffer.tolist() == [6.0, 6.0]


WRITES = [
    lambda x: x.add_(1),
    lambda x: torch.add(input=x, other=1, out=x),
    lambda x: torch.relu_(input=x),
    lambda x: nn.functional.hardtanh(inplace=True, input=x),
    lambda x: x[0].mul_(2),
    lambda x: x.detach().mul_(2),
    lambda x: torch._foreach_add_([x], 1.0),
    lambda x: torch.ops.aten.add_(x, 1),
    lambda x: x.__setitem__(0, 5.0),
    lambda x: nn.functional.batch_norm(torch.arange(8.0).view(4, 2), x, torch.ones(2), training=True),
]


@each_mode
@pytest.mark.parametrize("write", WRITES)
def test_every_way_to_write_is_undone_and_each_time(forward, write):
    """Also when the region has learned that the function decides nothing."""
    seen = _Unseen()

    def program(x, buffer):
        seen.add(buffer.tolist())
        write(buffer)
        return one_if(x)

    run, buffer, other = enable(forward)(program), torch.tensor([1.0, -2.0]), torch.tensor([1.0, -2.0])
    for _ in range(3):
        run(at(*X), buffer), write(other)
    assert torch.equal(buffer, other) and seen.all()[::2] == seen.all()[1::2] and len(seen.all()) == 6


@each_mode
def test_buffers_that_a_run_makes(forward):
    """Written to after they were made, and saved by autograd: nothing may touch them."""

    def program(x):
        out = torch.zeros(3, dtype=x.dtype)
        out[0] = x[1]
        if x[0] > 0.3:
            out[1] = x[1] * x[0]
        z = out**2
        out = torch.zeros(2, dtype=x.dtype).add_(z[:2] * x[0])
        if x[0] * 2 > 0.62:
            out.mul_(2)
        return (out * out).sum()

    run, x = enable(forward)(program), at(*X)
    y = run(x)
    slope = gradient(y, x)
    if forward == "linear":
        wanted = [
            (run(at(0.305 + a, 0.7 + b)) - run(at(0.305 - a, 0.7 - b))).item() / 2e-6 for a, b in ((1e-6, 0), (0, 1e-6))
        ]
        assert slope.tolist() == pytest.approx(wanted, rel=1e-5)
    else:
        assert y.item() == program(x).item()


@each_mode
def test_optimizers_and_gradients(forward):
    """A step inside the function: its state is put back, and stays as after one run."""

    def started():
        parameter = nn.Parameter(torch.ones(2, dtype=torch.float64))
        parameter.grad = torch.full((2,), 0.5, dtype=torch.float64)
        return parameter, torch.optim.Adam([parameter], lr=0.1)

    def program(x, parameter, optimizer):
        optimizer.step()
        return one_if(x) * parameter.detach().sum()

    a, b = started(), started()
    program(at(*X), *a)
    enable(forward)(program)(at(*X), *b)
    assert torch.equal(a[0], b[0])
    state = lambda optimizer: [t.tolist() for t in next(iter(optimizer.state.values())).values()]
    assert state(a[1]) == state(b[1])


@each_mode
@pytest.mark.parametrize("what", ["backward", "resize_", "gradient", "iterator"])
def test_what_cannot_be_undone_is_refused(forward, what):
    buffer = torch.zeros(2, dtype=torch.float64)

    def program(x, items):
        y = one_if(x)
        if what == "backward":
            y.backward()
        elif what == "resize_":
            buffer.resize_(3)
        elif what == "gradient":
            buffer.add_(x)
        return y

    said = {"backward": "backward", "resize_": "resize_", "gradient": "with a gradient", "iterator": "list_iterator"}
    items = iter([1]) if what == "iterator" else [1]
    with pytest.raises(RuntimeError, match=f"runs the function again for .*{said[what]}"):
        enable(forward)(program)(at(*X), items)
    enable(forward)(program)(at(0.9, 0.7), items)  # nothing is open


BATCHES = iter(())


class Trainer:
    def __init__(self):
        self.batches = iter([1.0])

    def step(self, x):
        return one_if(x) * next(self.batches)


@each_mode
@pytest.mark.parametrize("where", ["closure", "global", "attribute"])
def test_an_iterator_that_is_named_is_refused(forward, where, monkeypatch):
    """Another run would be given what comes next: its gradient would be that of another batch."""
    items = iter([1.0, 2.0])
    monkeypatch.setitem(globals(), "BATCHES", iter([1.0, 2.0]))
    program = {
        "closure": lambda x: one_if(x) * next(items),
        "global": lambda x: one_if(x) * next(BATCHES),
        "attribute": Trainer().step,
    }[where]
    with pytest.raises(RuntimeError, match="runs the function again for .* list_iterator, which gives its items"):
        enable(forward)(program)(at(*X))


@each_mode
def test_iterators_that_are_made_anew_are_none_of_its_business(forward, tmp_path):
    """What a call before this one has left, and a file that is written to."""
    seen, trainer = _Unseen(), Trainer()

    def program(self, x):
        self.batches = iter([1.0, 2.0])
        seen.add(next(self.batches))
        file.write("a line")
        return one_if(x) * next(self.batches)

    with (tmp_path / "log").open("w") as file:
        for _ in range(2):
            enable(forward)(program)(trainer, at(*X))
    assert seen.all() == [1.0] * 4


@each_mode
def test_a_function_that_strays_is_told(forward):
    runs = _Unseen()

    def program(x):
        runs.add(1)
        if len(runs.all()) > 1 and x[1] > 0.71:
            return x[0]
        if x[0] > 0.3:
            return x[1]
        return x[1] * 2

    with pytest.raises(RuntimeError, match="does not do the same when it runs again"):
        enable(forward)(program)(at(*X))


# --- paths that come to nothing --------------------------------------------------------------------------------------


def raises(x):
    if x[0] > 0.3:
        return x[1] * x[0]
    raise ValueError("never here")


def endless(x):
    v = x[1] * 1
    n = 1 if x[0] > 0.3 else 2
    while v < 100 * n:
        v = v * 2 if n == 1 else v * 1
    return v


def other_shape(x):
    return x if x[0] > 0.3 else x[:1]


def other_structure(x):
    return (x, x) if x[0] > 0.3 else x


DROPPED = {
    raises: "raises ValueError: never here",
    endless: "does not end",
    other_shape: "shape",
    other_structure: "structure",
}


@hard_values
@pytest.mark.parametrize("program", DROPPED, ids=lambda program: program.__name__)
def test_dropped_paths_are_told(forward, program, monkeypatch):
    monkeypatch.setattr("sll.paths.MOST_CALLS", 200)
    region = sll.linearize(EPS, forward=forward, paths=4, trace=True)
    x = at(*X)
    with pytest.warns(sll.LostGradientWarning, match=f"on the path not taken it .*{DROPPED[program]}"):
        out = region(program)(x)
    want = program(x)
    assert all(torch.equal(a, b) for a, b in zip(out, want)) if isinstance(out, tuple) else torch.equal(out, want)
    (site,) = region.report().flips
    assert region.report().flips[site][:2] == (1, 0) and region.report().lost[site] == 1
    with pytest.raises(sll.LostGradientError):
        enable(forward)(program)(x)


@pytest.mark.parametrize("program", DROPPED, ids=lambda program: program.__name__)
def test_linear_needs_every_path(program, monkeypatch):
    monkeypatch.setattr("sll.paths.MOST_CALLS", 200)
    with pytest.raises(
        RuntimeError, match=rf"the other way at .*test_paths.py:\d+ \(bool\).*{DROPPED[program]}"
    ) as error:
        enable("linear")(program)(at(*X))
    assert isinstance(error.value.__cause__, ValueError) == (program is raises)


@each_mode
def test_everything_is_put_back_after_an_error(forward):
    def program(x, log):
        log.append(1)
        if x[0] > 0.3:
            return x[1]
        raise KeyboardInterrupt

    log = []
    with pytest.raises(KeyboardInterrupt):
        enable(forward)(program)(at(*X), log)
    assert log == [1]
    x = at(*X)
    assert enable(forward)(one_if)(x).requires_grad  # nothing is left on
    assert not torch.overrides._get_current_function_mode_stack()


@each_mode
def test_infinite_differences_are_none(forward):
    """As everywhere: no finite difference is none, and is counted."""
    region = sll.linearize(EPS, forward=forward, paths=4)
    x = at(*X)
    y = region(lambda x: x[1] * 2 if x[0] > 0.3 else x[1] * float("inf"))(x)
    assert y.item() == 1.4 and gradient(y, x).tolist() == [0.0, 2.0]
    assert list(region.report().infinite_jumps.values()) == [1]


@each_mode
def test_ties_and_nan(forward):
    """At a tie the slope is that of the band; "linear" shows the mean of both paths there. NaN is in no band."""
    run = enable(forward)(lambda x: x[1] * 2 if x[0] > 0.3 else x[1] * 5)
    x = at(0.3, 0.7)
    y = run(x)
    assert y.item() == pytest.approx(2.45 if forward == "linear" else 3.5)
    assert gradient(y, x)[0].item() == pytest.approx((1.4 - 3.5) / (2 * EPS))
    x = at(float("nan"), 0.7)
    assert gradient(run(x), x).tolist() == [0.0, 5.0]


@each_mode
def test_python_asks_in_all_its_ways(forward):
    """sorted, max, and, or, not, assert, an exception as a branch."""

    def program(x):
        low, middle, high = sorted([x[0], x[1], x[2]])
        assert high > 0.1
        try:
            if not (x[0] > 0.3 and x[1] < 0.9) or x[2] < 0:
                raise KeyError
            y = low * 1 + middle * 10
        except KeyError:
            y = high * 7
        return y + max(x[0], x[1]) * 3

    x = at(0.305, 0.7, 2.0)
    y = enable(forward)(program)(x)
    assert gradient(y, x)[0].item() == pytest.approx(1 + (0.305 + 7 - 14) / (2 * EPS), rel=0.02)


@each_mode
def test_python_floats_are_reported(forward):
    def program(x):
        return x[1], 1.5 if x[0] > 0.3 else 2.5

    with pytest.warns(sll.LostGradientWarning, match="Python float"):
        assert sll.enable(eps=EPS, forward=forward, paths=4)(program)(at(*X))[1] == 1.5


@each_mode
def test_results_are_tensors_and_numbers(forward):
    class Box:
        def __init__(self, y):
            self.y = y

    with pytest.raises(TypeError, match="combines tensors and numbers"):
        enable(forward)(lambda x: Box(one_if(x)))(at(*X))


# --- with the rest ---------------------------------------------------------------------------------------------------


def test_a_with_block_cannot_run_again():
    region = sll.linearize(EPS, paths=4)
    with pytest.raises(RuntimeError, match=r"@sll.enable\(..., paths=4\)"), region:
        pass
    with pytest.raises(RuntimeError, match="cannot be run again"):
        sll.patch(EPS, paths=4)
    with sll.linearize(EPS, paths=1):
        pass


@pytest.mark.parametrize("paths", [0, -3, 2.0, "all", True, None])
def test_paths_is_checked(paths):
    with pytest.raises((TypeError, ValueError), match="paths must be"):
        sll.linearize(EPS, paths=paths)
    with pytest.raises(TypeError, match="generator must be"):
        sll.linearize(EPS, paths=2, generator=3)


def test_generators_and_coroutines_are_refused():
    def generator(x):
        yield x

    async def coroutine(x):
        return x

    async def both(x):
        yield x

    for fn in (generator, coroutine, both):
        with pytest.raises(TypeError, match="decorate a function that it calls"):
            sll.enable(eps=EPS, paths=4)(fn)


@each_mode
def test_methods_and_partials(forward):
    class Thing:
        scale = 2

        def method(self, x, *, add=0):
            return one_if(x) * self.scale + add

        @classmethod
        def of_class(cls, x):
            return one_if(x) * cls.scale

        @staticmethod
        def static(x):
            return one_if(x) * 2

    enabled = enable(forward)
    decorated = type("Decorated", (Thing,), {n: enabled(vars(Thing)[n]) for n in ("method", "of_class", "static")})()
    x = at(*X)
    want = 2 * gradient(enabled(one_if)(x), x)
    for got in (decorated.method(x, add=3), decorated.of_class(x), decorated.static(x)):
        assert torch.allclose(gradient(got, x), want)
    assert torch.allclose(gradient(enabled(functools.partial(one_if))(x), x) * 2, want)


@each_mode
def test_recursion_joins_the_run(forward):
    region = sll.linearize(EPS, forward=forward, paths=64, on_lost="error")

    def plain(x, depth=0):
        if depth > 4 or x[0] * 0.7**depth < 0.15:
            return x[1] * depth
        return plain(x, depth + 1) + x[0]

    def inner(x, depth=0):
        if depth > 4 or x[0] * 0.7**depth < 0.15:
            return x[1] * depth
        return recursive(x, depth + 1) + x[0]

    recursive, x = region(inner), at(*X)
    assert torch.allclose(gradient(recursive(x), x), gradient(enable(forward)(plain)(x), x))


@each_mode
def test_nested(forward):
    """An inner function with runs of its own, a region inside, a hard block inside, and a region around."""
    inner = sll.enable(eps=0.05, forward="hard", paths=4, on_lost="error")(one_if)

    def program(x):
        y = inner(x)
        with sll.linearize(0.05, forward="straight-through", on_lost="error"):
            y = y * 2 if x[0] > 0.29 else y
        with sll.hard():
            y = y + 1 if x[0] > 0.31 else y
        return y

    x = at(*X)
    y = enable(forward)(program)(x)
    slope = gradient(y, x)[0].item()
    if forward != "linear":
        assert y.item() == 2 * one_if(x).item()
        by_inner = 2 * (2 * 0.305 + (HARD - 3.5) / 0.1)
        assert slope == pytest.approx(by_inner + HARD / 0.1)
    with sll.linearize(0.05, forward="hard"):
        around = torch.where(x[0] > 0.3, enable(forward)(one_if)(x), 0.0)
    assert gradient(around, x)[0] != gradient(enable(forward)(one_if)(x), x)[0]


@each_mode
def test_writes_in_an_inner_function_are_undone_by_the_outer(forward):
    buffer = torch.zeros(2)

    @enable("hard", paths=4)
    def inner(x):
        buffer.add_(1)
        return one_if(x)

    def program(x):
        y = inner(x)
        return y if x[1] > 0.69 else y * 2

    enable(forward)(program)(at(*X))
    assert buffer.tolist() == [1.0, 1.0]


@each_mode
def test_threads(forward):
    run = enable(forward)(one_if)

    def work(i, out):
        for _ in range(5):
            x = at(0.295 + 0.002 * i, 0.7)
            out[i] = gradient(run(x), x).tolist()

    found, alone = [None] * 6, [None] * 6
    threads = [threading.Thread(target=work, args=(i, found)) for i in range(6)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    for i in range(6):
        work(i, alone)
    assert found == alone


@each_mode
def test_checkpoints(forward):
    """What is worked out again takes the way that its path took."""

    def part(x):
        y = x * 1.0
        return (y.exp() * y).sum() if y[0] > 0.3 else y.sum() * 3

    def program(x, kept):
        before = x[1] if x[1] > 0.69 else x[1] * 2
        return (checkpoint(part, x, use_reentrant=False) if kept else part(x)) * before

    x, run = at(*X), enable(forward)(program)
    kept, plain = run(x, True), run(x, False)
    assert kept.item() == plain.item()
    assert torch.allclose(gradient(kept, x), gradient(plain, x))


@each_mode
def test_transforms_around_and_inside(forward):
    run, x = enable(forward)(one_if), at(*X)
    want = gradient(run(x), x)
    assert torch.allclose(torch.func.grad(run)(x.detach()), want)
    assert torch.allclose(torch.func.jacrev(run)(x.detach()), want)

    def inside(x):
        return torch.func.grad(lambda z: (z**2).sum() if z[0] > 0.3 else (z**3).sum())(x)[1] * x[1]

    slope = gradient(enable(forward)(inside)(x), x)
    assert slope[0].item() == pytest.approx((1.4 - 3 * 0.49) * 0.7 / (2 * EPS))


@each_mode
def test_compiled_code_breaks_the_graph_there(forward):
    run, x = enable(forward)(one_if), at(*X)

    def around(x):
        return run(x * 1.0) * 2

    want = gradient(run(x), x)
    for compiled, factor in ((torch.compile(run, backend="eager"), 1), (torch.compile(around, backend="eager"), 2)):
        assert torch.allclose(gradient(compiled(x), x), factor * want)


@hard_values
def test_policies_choose_the_same_width_in_every_run(forward):
    def program(x):
        y, total = torch.tanh(x), 0
        for i in range(3):
            total = total + y[i] * 2 if y[i] > 0.3 else total - y[i] * x[0]
        return total

    for eps in ("auto", sll.Coverage(0.5), sll.Anneal(0.1, 0.01, 10)):
        run = enable(forward, eps=eps)(program)
        for k in range(4):
            x = at(0.31 + 0.01 * k, 0.7, -0.2)
            assert run(x).item() == program(x).item()
    assert gradient(run(x), x).isfinite().all()


@each_mode
def test_a_flip_is_a_row(forward):
    region = sll.linearize(EPS, forward=forward, paths=4, trace=True)
    gradient(region(one_if)(x := at(*X)), x)
    report = region.report()
    (flips,) = report.flips.values()
    assert flips.open == flips.run == 1 and flips.difference == pytest.approx(abs(HARD - 3.5))
    assert flips.weight == pytest.approx(0.5 - 0.005 / (2 * EPS) if forward == "linear" else 1.0)
    (row,) = [row for row in report.rows if row.kind == "flip"]
    assert row.status == "ran again" and row.difference == flips.difference and row.site.op == "bool"
    assert not any(row.kind in ("cut", "lost") for row in report.rows)
    assert "1 of 1 open answers were run" in str(report) and "1 of 1 open answers were run" in report._repr_html_()
    assert report.to_dict()["flips"][0]["open"] == 1


def test_explain_says_how_many_runs_and_follows_them():
    def program(x):
        y = x[1] * 2 if x[0] > 0.3 else x[1]
        return y * int((x[1:] > 0.69).sum())

    x = torch.tensor(X)
    lost = sll.explain(program, x, eps=EPS)
    assert any("paths=3" in line for line in lost.advice())
    many = sll.explain(lambda x: sum(bool(each > 0.3) for each in x.repeat(20)) * x.sum(), x, eps=0.5)
    assert any("paths=16" in line and "of the 40 answers" in line for line in many.advice())
    followed = sll.explain(program, x, eps=EPS, forward="hard", paths=3)
    assert not followed.report.lost and sum(each.run for each in followed.report.flips.values()) == 2
    assert "Python asked, and the function ran again" in str(followed)
    (of_x,) = followed.inputs
    assert of_x.linearized > 10 * of_x.hard


def test_the_warning_says_what_to_do():
    with pytest.warns(sll.LostGradientWarning, match=r"@sll.enable\(..., paths=2\)"), sll.linearize(EPS):
        one_if(at(*X))


def test_nothing_is_kept_alive():
    import gc
    import weakref

    gc.disable()
    try:
        for forward in MODES:
            x = at(*X)
            known = weakref.ref(x)
            enable(forward)(one_if)(x).backward()
            del x
            assert known() is None
    finally:
        gc.enable()


def test_no_warning_in_a_quiet_run():
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        for forward in MODES:
            enable(forward, on_lost="warn")(one_if)(at(*X))


@pytest.mark.parametrize("forward", ["straight-through", "hard"])
def test_widths_that_are_measured_are_the_same_in_every_run(forward):
    """Which occurrence of a line has which width does not depend on what was decided at once."""

    @sll.enable(eps="auto", paths=4, forward=forward, on_lost="ignore")
    def program(x, d):
        total = torch.zeros(())
        for i in range(6):
            if d[i] > x:
                total = total + 1.0
                if d[i] > 2 * x:
                    total = total + 1.0
        return total

    luck = torch.Generator().manual_seed(0)
    for k in range(40):
        x, d = torch.tensor(0.5, requires_grad=True), torch.rand(6, generator=luck) * (1 + k % 3)
        assert program(x, d) == (d > 0.5).sum() + (d > 1.0).sum()
