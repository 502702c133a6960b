"""What ``"auto"`` remembers: a width for each line, measured in the first steps and then kept."""

from __future__ import annotations

import copy
import io
import math
import pickle
import threading

import pytest
import torch
import torch._dynamo.testing
from hypothesis import given, settings
from hypothesis import strategies as st
from torch.func import grad, vmap
from torch.utils.checkpoint import checkpoint

import sll
from sll._ops.measured import Distances, Line

UNIT = 0.2
"""Numbers of this scale lie in the window of 1, nearly all of them."""


def rows(n=64, scale=1.0, seed=0, dtype=torch.float32):
    x = torch.randn(n, generator=torch.Generator().manual_seed(seed), dtype=torch.float64) * scale * UNIT
    return x.to(dtype).requires_grad_()


def two_medians(*batches):
    """Twice the median of the medians of batches of one size."""
    medians = []
    for batch in batches:
        d = batch.detach().double().reshape(-1).abs()
        medians.append(d[(d != 0) & d.isfinite()].median())
    return 2 * float(torch.stack(medians).median())


def train(eps, batches, program=lambda x: torch.sign(x).sum(), **options):
    """Gradients of a step for each batch, in one region."""
    region, found = sll.linearize(eps, **options), []
    for x in batches:
        with region:
            y = program(x)
        found.append(torch.autograd.grad(y, x)[0] if y.requires_grad else None)
    return found


def only(eps):
    ((_, half),) = eps.remembered.items()
    return half


@pytest.mark.parametrize("forward", ["straight-through", "hard", "linear"])
def test_is_twice_the_median_of_the_first_steps(forward):
    eps = sll.Auto(steps=3)
    batches = [rows(seed=seed) for seed in range(6)]
    found = train(eps, batches, forward=forward)
    half = only(eps)
    assert half == pytest.approx(two_medians(*batches[:3]), rel=1e-6)
    for x, g in zip(batches[3:], found[3:]):
        want = torch.where(x.detach().abs() <= half, 1 / half, 0.0)
        torch.testing.assert_close(g, want)


LEARNED = {
    "x > t": lambda x, t: x > t,
    "t < x": lambda x, t: t < x,
    "x - t > 0": lambda x, t: x - t > 0,
    "sign": lambda x, t: torch.sign(x - t) > 0,
    "of a table": lambda x, t: x > t.expand(3)[1] * 1.0,
}


@pytest.mark.parametrize("forward", ["straight-through", "hard", "linear"])
@pytest.mark.parametrize("spelling", LEARNED)
def test_a_boundary_that_many_data_meet_is_known_by_those_nearby(spelling, forward):
    """As narrow as the fourth root of how many decisions of a step tell of each number."""
    t = torch.zeros((), requires_grad=True)
    for n, calls in ((64, 1), (256, 1), (64, 4)):
        eps = sll.Auto(steps=2)
        region = sll.linearize(eps, forward=forward)
        for _ in range(3):
            data = [rows(n).detach() * (1 + 1e-3 * k) for k in range(calls)]  # (equal ones say nothing new)
            with region:
                sum(LEARNED[spelling](x, t).float().sum() for x in data).backward()
        assert only_width(eps) == pytest.approx(two_medians(rows(n)) / (n * calls) ** 0.25, rel=0.01)


def only_width(eps):
    (half,) = set(eps.remembered.values())
    return half


def test_what_a_layer_or_a_decision_has_made_has_the_wide_band():
    """Its distances are decided again by what follows, and there are as many parameters as numbers."""
    w, t = torch.ones(8, requires_grad=True), torch.tensor(0.01, requires_grad=True)
    data = rows(512).detach().reshape(64, 8)

    def state(x):
        level = x[:, 0]
        for now in x.unbind(1):
            level = 0.9 * level + 0.1 * now + 0.05 * (level > t)  # of data alone in the first round: all share a width
        return level.sum()

    for program in (lambda x: ((x @ w) > t).float().sum(), lambda x: torch.sign(rows(64)).sum(), state):
        eps = sll.Auto(steps=1)
        region = sll.linearize(eps)
        for _ in range(2):
            with region:
                program(data).backward()
        (line,) = eps._lines.values()
        assert not any(pool.learned for pool in line.pools)


def test_outliers_have_no_say():
    eps, batches = sll.Auto(steps=2), [rows(seed=seed) for seed in range(3)]
    with torch.no_grad():
        for x in batches:
            x[:5] *= 1e6
    train(eps, batches)
    assert only(eps) == pytest.approx(two_medians(*batches[:2]), rel=1e-6) and only(eps) < 1


def test_is_measured_on_the_way_as_well():
    batches = [rows(seed=seed) for seed in range(3)]
    found = train(sll.Auto(steps=10), batches)
    for k, g in enumerate(found):
        assert g.max().item() == pytest.approx(1 / two_medians(*batches[: k + 1]), rel=1e-5)


@pytest.mark.parametrize("scale", [1e-3, 1e3, 1e-15, 1e15])
@pytest.mark.parametrize(
    "program",
    [
        lambda x: torch.sign(x).sum(),
        lambda x: (x > x.detach().std() * 0.3).float().sum(),
        lambda x: torch.zeros_like(x).scatter(0, x.topk(5).indices, 1.0)[:20].sum(),
        lambda x: (x.argsort().argsort().float() * torch.arange(64.0)).sum(),
        lambda x: (torch.nn.functional.one_hot(x.view(8, 8).argmax(1), 8).float() * torch.arange(8.0)).sum(),
        lambda x: torch.arange(8.0)[x.view(8, 8).argmin(1)].sum(),
    ],
    ids=["sign", "threshold", "subset", "order", "choice", "lookup"],
)
def test_other_units_give_the_same_decisions(program, scale):
    """What is in the band of small numbers is in the band of large ones, and gradients are scaled."""
    small = train("auto", [rows(seed=seed) for seed in range(12)], program)
    large = train("auto", [rows(scale=scale, seed=seed) for seed in range(12)], program)
    for a, b in zip(small, large):
        torch.testing.assert_close(a, b * scale, rtol=1e-3, atol=1e-6)


def test_layers_that_share_a_line_have_their_own():
    eps = sll.Auto(steps=2)
    scales = (1.0, 1000.0, 0.01)

    def program(x):
        total = 0
        for scale in scales:
            total = total + torch.sign(x * scale).sum()
        return total

    batches = [rows(seed=seed) for seed in range(4)]
    train(eps, batches, program)
    found = [half for (*_, nth), half in sorted(eps.remembered.items(), key=lambda item: item[0][-1])]
    assert found == pytest.approx([two_medians(*batches[:2]) * scale for scale in scales], rel=1e-5)


def test_two_decisions_on_a_line_have_their_own():
    eps = sll.Auto(steps=1)
    train(eps, [rows()], lambda x: ((x > 0) & (x * 1000 > 1)).float().sum())
    a, b = sorted(eps.remembered.values())
    assert b > 20 * a


def test_a_step_ends_with_backward_inside_the_region():
    """One region around the whole training: lines do not go on counting."""
    eps = sll.Auto(steps=2)
    with sll.linearize(eps):
        for seed in range(7):
            x = rows(seed=seed)
            y = torch.sign(x).sum() + torch.sign(x * 2).sum()
            y.backward()
    assert sorted(nth for *_, nth in eps.remembered) == [0, 1]
    eps = sll.Auto(steps=2)
    with sll.linearize(eps):
        for seed in range(7):
            x = rows(seed=seed)
            torch.autograd.grad(torch.sign(x).sum(), x)
    assert len(eps.remembered) == 1


@pytest.mark.parametrize(
    "silent",
    [torch.zeros(64), torch.full((64,), 0.7), torch.full((64,), math.nan), torch.full((64,), math.inf), torch.ones(1)],
    ids=["ties", "equal", "nan", "inf", "one"],
)
def test_what_tells_nothing_does_not_freeze(silent):
    eps = sll.Auto(steps=2)
    batches = [silent.clone().requires_grad_() for _ in range(5)]
    train(eps, batches)
    assert not eps.remembered
    more = [rows(seed=seed, scale=0.5) for seed in range(12)]
    train(eps, more)
    assert 0.05 < only(eps) < 2


@pytest.mark.parametrize("scale", [1e-300, 1e-160, 1e160, 1e300])
def test_numbers_without_squares(scale):
    eps = sll.Auto(steps=1)
    (g,) = train(eps, [torch.linspace(-scale, scale, 8, dtype=torch.float64).requires_grad_()])
    assert scale / 10 < only(eps) <= 2 * scale and g.isfinite().all() and g.any()


@pytest.mark.parametrize("program", [torch.sign, lambda x: (x > 0) * 1.0, lambda x: torch.where(x > 0, 2.0, 1.0)])
@pytest.mark.parametrize("scale", [1e-32, 1e-39, 1e-44])
def test_scores_that_underflow_have_a_slope(scale, program):
    eps = sll.Auto(steps=2)
    found = train(eps, [rows(scale=scale, seed=seed) for seed in range(4)], lambda x: program(x).sum())
    assert eps.remembered and all(g.isfinite().all() and g.any() for g in found)


def test_nan_and_inf_are_left_out():
    eps = sll.Auto(steps=1)
    x = torch.cat([rows().detach(), torch.tensor([math.nan, math.inf, -math.inf])]).requires_grad_()
    (g,) = train(eps, [x])
    assert only(eps) == pytest.approx(two_medians(x), rel=1e-6)
    assert not g[-3:].any() and g[:-3].any()


def test_a_head_that_starts_at_zero_is_measured_when_it_has_grown():
    eps = sll.Auto(steps=5)
    scales = [1e-6, 1e-4, 1e-2, 0.3, *[1.0] * 8]
    train(eps, [rows(scale=scale, seed=seed) for seed, scale in enumerate(scales)])
    assert 0.2 < only(eps) < 0.4  # (two medians are 0.27)


def test_scores_that_grow_later_are_decided_for_good():
    eps = sll.Auto(steps=2)
    found = train(eps, [rows(seed=seed, scale=scale) for seed, scale in enumerate([1, 1, 1, 30])])
    assert (found[2] != 0).float().mean() > 0.9 and (found[3] != 0).float().mean() < 0.2


def test_evaluation_is_not_measured():
    eps = sll.Auto(steps=2)
    region = sll.linearize(eps)
    for k in range(4):
        with region, torch.no_grad():
            torch.sign(rows(scale=100.0, seed=k))
        with region:
            (torch.sign(rows(scale=100.0).detach()) * 1.0).sum()
    assert not eps.remembered and not eps.state_dict()["measured"]


def test_state():
    eps = sll.Auto(steps=3)
    batches = [rows(seed=seed) for seed in range(6)]

    def program(x):
        return torch.sign(x).sum() + (x > 0.3).float().sum()

    train(eps, batches[:2], program)
    state = io.BytesIO()
    torch.save(eps.state_dict(), state)
    state.seek(0)
    other = sll.Auto(steps=3)
    other.load_state_dict(torch.load(state, weights_only=True))
    for policy in (eps, other):
        train(policy, batches[2:], program)
    assert eps.remembered == other.remembered and len(eps.remembered) == 2
    later = sll.Auto()
    later.load_state_dict(eps.state_dict())
    assert later.remembered == eps.remembered
    eps.reset()
    assert not eps.remembered and later.remembered
    with pytest.raises(KeyError, match="'kept' and 'measured'"):
        eps.load_state_dict({"kept": {}})


def test_a_region_has_the_state_of_its_policies():
    anneal = sll.Anneal(1.0, 0.1, steps=10)
    region = sll.linearize({"default": "auto", "sign": anneal})
    for step in range(3):
        with region:
            (torch.sign(rows(seed=step)).sum() + (rows(seed=step) > 0.3).float().sum()).backward()
        anneal.step()
    file = io.BytesIO()
    torch.save(region.state_dict(), file)
    file.seek(0)
    other = sll.linearize({"default": "auto", "sign": sll.Anneal(1.0, 0.1, steps=10)})
    other.load_state_dict(torch.load(file, weights_only=True))
    assert other.state_dict() == region.state_dict() and other.state_dict() != sll.linearize().state_dict()
    with pytest.raises(ValueError, match="with 2 policies"):
        region.load_state_dict(sll.linearize("auto").state_dict())
    assert sll.linearize(0.1).state_dict() == {"policies": []}


def test_copies_and_pickles_go_their_own_way():
    region = sll.linearize("auto")
    for make in (copy.deepcopy, lambda r: pickle.loads(pickle.dumps(r))):
        eps = sll.Auto(steps=1)
        region = sll.linearize(eps)
        with region:
            torch.sign(rows())
        other = make(region)
        eps.reset()
        assert len(other.eps.remembered) == 1


def test_each_region_has_its_own():
    first, second = sll.linearize("auto"), sll.linearize({"default": "auto", "round": 0.5})
    for region, scale in ((first, 1.0), (second, 1000.0)):
        for seed in range(11):
            x = rows(scale=scale, seed=seed)
            with region:
                y = torch.sign(x)
            (g,) = torch.autograd.grad(y.sum(), x)
        assert g.max().item() == pytest.approx(0.5 / (0.674 * UNIT * scale), rel=0.1)


def test_regions_may_share_one():
    eps = sll.Auto(steps=1)
    for scale in (1.0, 100.0):
        (g,) = train(eps, [rows(scale=scale)])
    assert g.max().item() == pytest.approx(1 / two_medians(rows()), rel=1e-5) and len(eps.remembered) == 1


# --- wherever a region may stand -------------------------------------------------------------------------------------


def layer(x, w):
    return torch.sign(x @ w) * (x @ w > 0.1).to(x.dtype)


@pytest.mark.parametrize("steps", [1, 2, 4])
def test_a_checkpoint_runs_again_with_the_same_widths(steps):
    """The second run of a layer is not a new occurrence, nor measured twice."""
    results = []
    for run in (lambda f, *args: f(*args), lambda f, *args: checkpoint(f, *args, use_reentrant=False)):
        eps = sll.Auto(steps)
        region = sll.linearize(eps)
        for seed in range(4):
            x = rows(16, seed=seed, dtype=torch.float64).detach().reshape(4, 4).requires_grad_()
            ws = [rows(16, 3.0**k, seed=k, dtype=torch.float64).detach().reshape(4, 4) for k in range(3)]
            with region:
                y = x
                for w in ws:
                    y = run(layer, y, w)
            results.append(torch.autograd.grad(y.sum(), x)[0])
        results.append(torch.tensor(sorted(eps.remembered.values())))
    half = len(results) // 2
    for a, b in zip(results[:half], results[half:]):
        torch.testing.assert_close(a, b, rtol=0, atol=0)
    assert results[-1].numel() == 6 or steps == 4


def test_a_batch_of_vmap_has_one_width():
    eps = sll.Auto(steps=1)
    x = rows(40).detach().reshape(8, 5)
    with sll.linearize(eps):
        g = vmap(grad(lambda v: torch.sign(v).sum()))(x)
    assert only(eps) == pytest.approx(two_medians(x), rel=1e-5)
    torch.testing.assert_close(g, torch.where(x.abs() <= only(eps), 1 / only(eps), 0.0))


def test_generators_go_on_counting():
    eps = sll.Auto(steps=1)

    @sll.linearize(eps)
    def layers(x):
        for scale in (1.0, 10.0, 100.0):
            yield torch.sign(scale * x)

    list(layers(rows()))
    assert sorted(nth for *_, nth in eps.remembered) == [0, 1, 2]


def test_functions_that_call_themselves_go_on_counting():
    """Entered again inside itself it is the same step; the next begins with backward, or outside."""
    eps = sll.Auto(steps=2)
    region = sll.linearize(eps)

    @region
    def layers(x, more):
        y = torch.sign(x)
        return y + layers(1000 * x, more - 1) if more else y

    batches = [rows(seed=seed) for seed in range(4)]
    for x in batches:
        layers(x, 2).sum().backward()
    found = [half for (*_, nth), half in sorted(eps.remembered.items(), key=lambda item: item[0][-1])]
    assert found == pytest.approx([two_medians(*batches[:2]) * scale for scale in (1, 1e3, 1e6)], rel=1e-5)


def test_a_step_without_end_does_not_fill_the_memory():
    """Forward mode has no backward that would end it."""
    eps = sll.Auto(steps=2)
    with sll.linearize(eps):
        for seed in range(1010):
            x = rows(8, seed=seed).detach()
            torch.func.jvp(torch.sign, (x,), (x,))
    assert max(nth for *_, nth in eps.remembered) == 1000 and len(eps.remembered) == 1001
    assert eps.kept  # and no longer measured


def test_each_thread_counts_for_itself():
    eps, barrier = sll.Auto(steps=2), threading.Barrier(2)
    region = sll.linearize(eps)

    def work(seed):
        for k in range(4):
            x = rows(seed=10 * seed + k)
            with region:
                barrier.wait()
                y = torch.sign(x).sum()
                barrier.wait()
                y = y + torch.sign(3 * x).sum()
            y.backward()

    threads = [threading.Thread(target=work, args=(seed,)) for seed in range(2)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert len(eps.remembered) == 2 and {nth for *_, nth in eps.remembered} == {0}


def test_exceptions_leave_the_count_behind():
    eps = sll.Auto(steps=1)
    region = sll.linearize(eps)
    for _ in range(3):
        with pytest.raises(ZeroDivisionError), region:
            torch.sign(rows())
            raise ZeroDivisionError
    assert {nth for *_, nth in eps.remembered} == {0}


def test_a_trace_sees_the_widths_that_are_kept():
    eps = sll.Auto(steps=1)
    region = sll.linearize(eps, trace=True)
    for scale in (1.0, 100.0):
        x = rows(scale=scale)
        with region:
            y = torch.sign(x).sum()
        y.backward()
    (row,) = region.report().rows
    assert row.elements == 128 and 50 < row.in_band < 64 and row.status == "gets gradients"
    (used,) = region.report().eps.values()
    assert used.smallest == used.largest == only(eps) and used.calls == 2


# --- the measurement -------------------------------------------------------------------------------------------------


def of(d):
    d = sorted(d)
    return Distances(len(d), d[(len(d) - 1) // 2], d[0], d[-1]) if d else Distances(0)


def half_of(steps):
    """Of numbers that are there as often as their step has numbers."""
    numbers = sorted(x for step in steps for x in [of(step).median] * len(step))
    return 3 * numbers[(len(numbers) - 1) // 2]


SCALES = st.sampled_from([0.01, 0.3, 1.0, 30.0, 1e4])


@settings(deadline=None)
@given(st.lists(st.tuples(SCALES, st.integers(1, 20)), min_size=1, max_size=12), st.integers(1, 12), st.integers(0, 99))
def test_a_line_keeps_what_is_left_after_growth(batches, steps, seed):
    """By hand, with all numbers at hand: the steps since the last one that was ten times as large."""
    generator = torch.Generator().manual_seed(seed)
    batches = [(torch.rand(n, generator=generator) * scale + 1e-9).tolist() for scale, n in batches]
    line, done = Line(3.0), []
    for i, batch in enumerate(batches):
        pool = line.add(0, of(batch), steps)
        if i:
            before = batches[i - 1]
            enough = min(len(before), sum(map(len, done))) >= 8
            done = [before] if enough and half_of([before]) > 10 * half_of(done) else [*done, before]
        seen = [x for one in batches[:i] for x in one]
        if i and len(done) >= steps and max(seen) > min(seen) * (1 + 1e-3):
            assert pool.kept == pytest.approx(half_of(done))
            return
        assert pool.kept is None and pool.half == pytest.approx(half_of([*done, batch]))


def test_the_same_numbers_again_are_a_step_and_change_nothing():
    line = Line(3.0)
    for _ in range(4):
        pool = line.add(0, of([0.1, 0.3]), 3)
    assert pool.kept == pytest.approx(0.3)


def test_long_loops_are_thinned_out():
    """Of a loop of 10,000 decisions that drift, the middle one."""
    line = Line(3.0)
    for _ in range(3):
        for nth in range(10_000):
            pool = line.add(nth, of([1 + nth / 10_000]), 3)
    assert len(pool.past) + len(pool.now) < 200
    line.add(0, of([1.0]), 3)
    assert pool.kept == pytest.approx(3 * 1.5, rel=0.02)


def test_the_steps_of_a_loop_share_a_width():
    eps = sll.Auto(steps=2)

    def program(x):
        total, state = 0.0, torch.zeros_like(x)
        for _ in range(12):
            state = 0.9 * state + x
            total = total + (state > 0.5).float()
        return total.sum()

    train(eps, [rows(256, seed=seed) for seed in range(4)], program)
    assert len(eps.remembered) == 12 and len(set(eps.remembered.values())) <= 2


def test_single_numbers_share_the_width_of_their_line():
    """A simulator of one path: two times ten numbers do not tell two scales."""
    eps = sll.Auto(steps=5)
    train(eps, [rows(12, scale=3.0, seed=seed) for seed in range(7)], lambda x: sum((v > 0.1).float() for v in x))
    assert len(eps.remembered) == 12 and len(set(eps.remembered.values())) == 1 and 0.8 < only_value(eps) < 1.6


def only_value(eps):
    return next(iter(eps.remembered.values()))


@pytest.mark.parametrize("steps", [1.5, True, "10", None])
def test_steps_must_be_a_number(steps):
    with pytest.raises(TypeError, match="steps must be a number of training steps"):
        sll.Auto(steps)


def test_steps_must_not_be_negative():
    with pytest.raises(ValueError, match="got -1; with 0 nothing is remembered"):
        sll.Auto(-1)


# --- a region that is made anew --------------------------------------------------------------------------------------


def test_a_region_made_anew_for_each_step_is_told_once():
    with pytest.warns(UserWarning, match="Make it once, before the loop") as told:
        for seed in range(8):
            with sll.linearize("auto"):
                torch.sign(rows(seed=seed)).sum().backward()
    assert len(told) == 1 and told[0].filename == __file__


@pytest.mark.filterwarnings("error")
def test_a_region_for_each_program_is_not_told():
    """One for each is what each needs."""
    programs = (
        torch.sign,
        lambda x: (x > 0.1).float(),
        lambda x: (x > 0.2).float(),
        lambda x: (x > 0.3).float(),
        lambda x: torch.arange(x.shape[-1])[x.argmax(-1)] * x.sum(-1),
        lambda x: (x > 0.4).float(),
    )
    for program in programs:
        with sll.linearize("auto"):
            program(rows()).sum().backward()


@pytest.mark.filterwarnings("error")
def test_regions_that_are_used_again_are_not_told():
    for _ in range(8):
        region = sll.linearize("auto")  # one for each training
        for seed in range(3):
            with region:
                torch.sign(rows(seed=seed)).sum().backward()
    for _ in range(8):
        with sll.linearize("auto"):  # nothing is measured here
            torch.round(rows())
        with sll.linearize("auto"), torch.no_grad():
            torch.sign(rows())
        with sll.linearize(sll.Auto(steps=0)):
            torch.sign(rows())


# --- compiled code ---------------------------------------------------------------------------------------------------

compiled_regions = pytest.mark.skipif(torch.__version__ < (2, 10), reason="older Dynamo does not trace these modes")


def two_layers(x):
    for scale in (1.0, 30.0):
        x = x + torch.sign(x * scale) * (x > 0.2).to(x.dtype)
    return x.sum()


@compiled_regions
@pytest.mark.parametrize("forward", ["straight-through", "linear"])
def test_compiled_code_remembers_what_eager_code_does(forward):
    torch._dynamo.reset()
    counter = torch._dynamo.testing.CompileCounterWithBackend("aot_eager")
    compiled = torch.compile(two_layers, fullgraph=True, backend=counter)
    found = []
    for program in (two_layers, compiled):
        eps = sll.Auto(steps=3)
        found.append(train(eps, [rows(seed=seed) for seed in range(6)], program, forward=forward))
        assert len(eps.remembered) >= 4  # ("linear" decides about each outcome)
    # (On the way a width has what came before it in the step, and a compiler may ask in backward.)
    for a, b in zip(found[0][3:], found[1][3:]):
        torch.testing.assert_close(a, b, rtol=1e-5, atol=1e-5)
    for seed in range(12):  # regions made anew: each has its own memory, and nothing is compiled again
        train(sll.Auto(steps=3), [rows(seed=seed)], compiled, forward=forward)
    assert counter.frame_count == 1


@compiled_regions
def test_compiling_has_nothing_to_warn_of(recwarn):
    torch._dynamo.reset()
    getattr(torch._dynamo.utils, "warn_once_cache", set()).clear()
    region, x = sll.linearize("auto"), rows()

    def program(x):
        with region:
            return two_layers(x)

    torch.compile(program, fullgraph=True, backend="aot_eager")(x)
    assert [str(warning.message) for warning in recwarn if "cache" in str(warning.message)] == []


@compiled_regions
def test_compiled_explicit_functions_remember_with_an_object():
    torch._dynamo.reset()
    eps = [sll.Auto(steps=1), sll.Auto(steps=1)]
    compiled = torch.compile(lambda x: sll.sign(x, eps[1]).sum(), backend="aot_eager")  # (eager mode does this call)
    for scale in (1.0, 100.0):
        x = rows(scale=scale)
        found = [torch.autograd.grad(f(x), x)[0] for f in (lambda x: sll.sign(x, eps[0]).sum(), compiled)]
        torch.testing.assert_close(*found)
    assert only(eps[0]) == pytest.approx(only(eps[1])) == pytest.approx(two_medians(rows()), rel=1e-6)


def test_rows_with_one_candidate_left_do_not_widen_a_choice():
    """All others are masked: by a large number, which is no distance between candidates, or by -inf."""
    found = []
    for value in (None, -1e9, torch.finfo(torch.float32).min, -math.inf):
        eps = sll.Auto(steps=3)
        batches = [rows(n=40, seed=seed) for seed in range(3)]
        mask = torch.zeros(8, 5, dtype=torch.bool)
        mask[7, 1:] = value is not None
        fill = 0.0 if value is None else value

        def program(x, mask=mask, fill=fill):
            return torch.arange(5.0)[x.view(8, 5).masked_fill(mask, fill).argmax(1)].sum()

        train(eps, batches, program)
        found.append(only(eps))
    assert found[1] == found[2] == found[3] == pytest.approx(found[0], rel=0.3)


def test_a_whole_step_that_is_no_longer_looked_at_is_still_counted():
    """A line that has not taken its jump back in so many calls is asked no more."""
    x = torch.tensor([0.2, 1.7], requires_grad=True)
    region = sll.linearize("auto")
    for _ in range(50):
        with region:
            y = torch.round(x)
    assert list(region.report().eps.values()) == [(50, 0.5, 0.5)]
    assert torch.autograd.grad(y.sum(), x)[0].tolist() == [1.0, 1.0]
