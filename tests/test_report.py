"""Reports and explanations: what they say is true, and asking changes nothing."""

from __future__ import annotations

import copy
import functools
import gc
import html
import io
import json
import math
import os
import sys
import threading
import warnings
import weakref
from dataclasses import dataclass
from typing import NamedTuple

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch.func import grad, vmap
from torch.utils.checkpoint import checkpoint

import sll
from oracles import region_gradient
from programs import PROGRAMS

HERE = __file__
MODES = ("linear", "hard", "straight-through")


def line_of(text: str) -> int:
    """The first line of this file that has the text (which is written so that it is not this call)."""
    with open(HERE) as file:
        return next(i for i, line in enumerate(file, 1) if text in line and "line_of" not in line)


def traced(f, x, eps, trace=True, **options):
    x = x.detach().clone().requires_grad_()
    options = {"on_lost": "ignore", **options}
    with sll.linearize(eps, trace=trace, **options) as region:
        y = f(x)
        if y.requires_grad:
            y.sum().backward()
    return y.detach(), x.grad, region.report()


def decides(report):
    return [row for row in report.rows if row.kind == "decides"]


# --- tracing changes nothing -------------------------------------------------------------------------------------


@pytest.mark.parametrize("eps", [0.07, "auto"], ids=str)
@pytest.mark.parametrize("name", PROGRAMS)
@pytest.mark.filterwarnings("ignore::sll.LostGradientWarning")
def test_values_and_gradients_are_those_of_an_untraced_region(name, eps):
    """Without a memory: in a first step the widths of a line follow who asks first."""
    f, eps = PROGRAMS[name], sll.Auto(steps=0) if eps == "auto" else eps
    x = torch.linspace(-2, 2, 61, dtype=torch.float64) + 0.003
    for forward in MODES:
        value, gradient, report = traced(f, x, eps, forward=forward)
        if (name, forward) == ("first_in_ranking", "straight-through"):  # which place is the first is lost there
            want_value, want_gradient = traced(f, x, eps, trace=False, forward=forward)[0], torch.zeros_like(x)
        else:
            want_value, want_gradient = region_gradient(f, x, eps, forward)
        # A trace takes no short cuts: in the band the last digit may be another one. It asks for distances at once,
        # other regions later: gradients are added up in another order. Those of flips cancel out to a hundredth.
        assert torch.equal(value, want_value) or forward == "linear"
        torch.testing.assert_close(value, want_value, rtol=1e-15, atol=1e-15)
        gradient = torch.zeros_like(x) if gradient is None else gradient
        close = 1e-12 if forward == "hard" else 1e-14
        torch.testing.assert_close(gradient, want_gradient, rtol=close, atol=1e-15)
        assert decides(report) and json.dumps(report.to_dict(), allow_nan=False)
        assert all(row.elements for row in decides(report))
        own = any("sawtooth keeps its own slope" in row.verdict for row in decides(report))
        assert any(row.grad_in for row in decides(report)) or not want_gradient.any() or _plain(f, x) or own


def _plain(f, x):
    """Whether the program has a gradient without a region: it need not be a decision's."""
    x = x.detach().clone().requires_grad_()
    y = f(x)
    return y.requires_grad and bool(torch.autograd.grad(y.sum(), x)[0].any())


def test_an_untraced_region_has_nothing_to_carry():
    region = sll.linearize(0.1)
    assert region.trace is None and type(region.eps_for("sign")) is float
    with region:
        torch.sign(torch.ones(1, requires_grad=True))
    assert region.report().rows == () and not region.report().traced


@pytest.mark.parametrize("forward", MODES)
def test_a_trace_keeps_no_tensor_alive(forward):
    region = sll.linearize(0.1, trace=True, forward=forward)
    x = torch.randn(100, requires_grad=True)
    with region:
        y = (torch.sign(x) + x.sort().indices).sum()
        y.backward()
    seen = weakref.ref(x), weakref.ref(y)
    del x, y
    gc.collect()
    assert [ref() for ref in seen] == [None, None] and len(region.report().rows) == 2


# --- what the rows say is true -----------------------------------------------------------------------------------


@pytest.mark.parametrize("forward", MODES)
@settings(max_examples=40)
@given(
    st.lists(st.floats(-4, 4).map(lambda v: round(v, 3)), min_size=1, max_size=30),
    st.sampled_from([0.01, 0.1, 0.3, 2.0]),
    st.sampled_from(["sign", "round", "gt", "floor_divide", "remainder"]),
)
def test_counts_distances_and_norms(forward, values, eps, name):
    f = {
        "sign": torch.sign,
        "round": torch.round,
        "gt": lambda x: (x > 0.5).double(),
        "floor_divide": lambda x: x // torch.tensor(0.7, dtype=x.dtype),
        "remainder": lambda x: x % 0.7 - x,
    }[name]
    x = torch.tensor(values, dtype=torch.float64)
    distance = {
        "sign": x,
        "round": x - x.floor() - 0.5,
        "gt": x - 0.5,
        "floor_divide": x - (x / 0.7).round() * 0.7,
        "remainder": x - (x / 0.7).round() * 0.7,
    }[name]
    limit = {"sign": math.inf, "gt": math.inf, "round": 0.5}.get(name, 0.35)
    _, gradient, report = traced(f, x, eps, forward=forward)
    (row,) = decides(report)
    half = min(eps, limit)
    assert row.site.op == name and row.calls == 1 and row.elements == len(values)
    # (an element within rounding of the edge may be on either side)
    certain = ((distance.abs() - half).abs() > 1e-9).all()
    if certain:
        assert row.in_band == int((distance.abs() < half).sum())
        jump = {"sign": 2.0, "remainder": -0.7}.get(name, 1.0)
        inside = (distance.abs() < half).double()
        assert row.grad_in == pytest.approx(float((inside * jump / (2 * half)).norm()), rel=1e-5)
        if forward != "hard":
            assert row.grad_out == pytest.approx(abs(jump) * math.sqrt(len(values)), rel=1e-5)
        elif distance.all():  # of decisions outside the band no flip is known, and at a tie there are two
            assert (row.grad_out or 0.0) == pytest.approx(abs(jump) * math.sqrt(row.in_band), rel=1e-5)
        assert gradient.norm() == pytest.approx(row.grad_in, rel=1e-5)
    assert row.eps == pytest.approx((half, half)) and row.limit == pytest.approx(limit)
    assert row.distance == pytest.approx((float(distance.min()), float(distance.max())), abs=1e-9)


@settings(max_examples=40)
@given(st.lists(st.floats(0.001, 8), min_size=3, max_size=200, unique=True), st.integers(0, 2))
def test_reach_is_wide_enough_and_not_much_wider(values, which):
    x = torch.tensor(values, dtype=torch.float64)
    (row,) = decides(traced(torch.sign, x, 1e-9)[2])
    assert row.in_band == 0 and row.status == "out of reach"
    wanted = row.reach[which]
    (reached,) = decides(traced(torch.sign, x, wanted * (1 + 1e-6))[2])
    (short,) = decides(traced(torch.sign, x, wanted * 0.9999)[2])
    least = [1, len(values) / 10, len(values) / 2][which]
    assert reached.in_band >= math.floor(least) and (short.in_band == 0 or which > 0)
    assert short.in_band <= math.ceil(least) + 1


def test_the_widths_it_names_are_rounded_up():
    x = torch.tensor([0.12345, 0.777], dtype=torch.float64)
    (row,) = decides(traced(torch.sign, x, 1e-3)[2])
    assert "eps=0.13 reaches the nearest" in row.verdict
    assert decides(traced(torch.sign, x, 0.13)[2])[0].in_band == 1


@pytest.mark.parametrize(
    "f, elements, in_band",
    [
        (lambda x: torch.arange(4.0, dtype=x.dtype)[x.argmax(1)].sum(), 2, 1),
        (lambda x: torch.arange(4.0, dtype=x.dtype)[x.max(1).indices].sum(), 2, 1),
        (lambda x: x.detach().gather(1, x.topk(2, 1).indices)[:, 0].sum(), 4, 2),
        (lambda x: x.detach().gather(1, x.sort(1).indices).square().cumsum(1).sum(), 8, 2),
        (lambda x: torch.bucketize(x, torch.tensor([0.96, 4.02], dtype=x.dtype)).double().sum(), 8, 4),
    ],
    ids=["argmax", "max", "topk", "sort", "bucketize"],
)
@pytest.mark.parametrize("forward", MODES)
def test_choices_and_orders(forward, f, elements, in_band):
    # One row with a near tie of the best, one without any.
    x = torch.tensor([[1.0, 2.0, 4.0, 3.95], [0.0, 3.0, 1.0, 2.0]], dtype=torch.float64)
    _, gradient, report = traced(f, x, 0.1, forward=forward)
    (row,) = decides(report)
    assert (row.elements, row.in_band) == (elements, in_band)
    assert row.status == "gets gradients" and row.grad_in == pytest.approx(float(gradient.norm()), rel=1e-5)


def test_the_first_k_by_a_threshold():
    """It is named as the program calls it, whatever decides."""
    x = torch.tensor([[1.0, 2.0, 4.0, 3.95], [0.0, 3.0, 1.0, 2.0]], dtype=torch.float64)

    def program(x):
        best = x.topk(2).values[:, -1:]
        return (x >= best).double().cumsum(1).sum()

    for forward in MODES:
        _, gradient, report = traced(program, x, 0.1, forward=forward)
        row = decides(report)[-1]
        assert (row.site.op, row.elements, row.in_band) == ("ge", 8, 0) and row.status == "out of reach"
        assert not gradient.any()


@pytest.mark.parametrize("forward", MODES)
def test_gradients_of_the_same_tensor_on_other_ways_are_not_counted(forward):
    x = torch.tensor([[1.0, 1.05]], requires_grad=True)
    with sll.linearize(0.1, trace=True, forward=forward) as region:
        (torch.tensor([0.0, 1.0])[x.argmax(1)] + 1000 * x.sum()).backward()
    (row,) = region.report().rows
    assert row.grad_in < 100 < float(x.grad.norm())


@pytest.mark.parametrize("forward", MODES)
def test_rows_stand_in_the_order_of_the_program(forward):
    def program(x):
        best = x.argmax()  # weights are worked out below
        y = torch.round(x)
        return y.sum() + torch.arange(5.0)[best]

    report = traced(program, torch.linspace(0, 1, 5), 0.4, forward=forward)[2]
    assert [row.site.op for row in report.rows] == ["argmax", "round"]
    assert report.rows[0].site.line == line_of("weights are worked out below")


@pytest.mark.parametrize("forward", MODES)
def test_a_decision_that_decides_again_and_one_that_is_not_linearized(forward):
    def program(x):
        y = torch.round(10 * torch.sign(x))
        return y + torch.floor(x.detach()) + torch.ceil(x) + (x == 0) + (torch.arange(3) > 1)

    report = traced(program, torch.linspace(-1, 1, 3), 0.1, exclude=["ceil"], forward=forward)[2]
    kinds = {row.site.op: (row.kind, row.why) for row in report.rows}
    # (local: a float is an ordinary float, whatever it comes from)
    assert kinds["sign"][0] == "decides"
    assert kinds["round"][0] == ("decides" if forward == "straight-through" else "follows")
    assert kinds["floor"] == ("hard", "its input does not require grad")
    assert kinds["ceil"][0] == "hard" and "exclude" in kinds["ceil"][1]
    assert kinds["eq"][0] == "hard" and "window average" in kinds["eq"][1]
    assert kinds["detach"][0] == "cut"
    assert "gt" not in kinds  # of integers: nothing to linearize


@pytest.mark.parametrize("forward", MODES)
def test_what_only_raises_or_logs_is_not_lost(forward):
    """Validation in packages, and in the program itself."""

    def program(x):
        p = (x > 0).float() * 0.5 + 0.2
        if not torch.all((p > 0.1) & (x > -9)):
            raise ValueError("no probabilities")
        assert (x < 0.02).sum() < 9
        return torch.distributions.Bernoulli(p).log_prob((x > 0.3).float())

    found = sll.explain(program, torch.linspace(-0.1, 0.4, 6), eps=0.3, forward=forward)
    told = [row for row in found.report.rows if row.status == "only told"]
    assert told and {row.kind for row in told} == {"told"}
    assert not [row for row in found.report.rows if row.kind == "lost"]
    assert "lose" not in str(found) and 'on_lost="error"' not in str(found)
    assert "Asked only to raise or to log" in str(found) and "no gradient is missed" in str(found)
    assert found.report.plot()
    with sll.linearize(0.3, forward=forward, trace=True, on_lost="ignore") as region:
        x = torch.linspace(-0.1, 0.4, 6, requires_grad=True)
        if (x > 0).sum() > 3:
            x = 2 * x
    assert [row.kind for row in region.report().rows if row.site.op == "bool"] == ["lost"]


@pytest.mark.parametrize("forward", MODES)
def test_rows_have_the_names_of_what_the_program_calls(forward):
    """Not of what a definition of ours calls in its place, nor of the width that a comparison has."""
    x = torch.tensor([0.3, -0.4, 0.35, 1.0, 0.32, -1.0])
    weights = torch.arange(6.0)

    def named(program):
        report = traced(program, x, 0.2, forward=forward)[2]
        return {(row.site.op, row.kind) for row in report.rows if row.status != "no gradient arrives"}

    assert named(lambda x: (x > x.kthvalue(3).values).float() @ weights) <= {("gt", "decides"), ("kthvalue", "decides")}
    own = {("topk", "decides")} if forward == "hard" else set()  # the same decisions, made before
    assert named(lambda x: (x.topk(3).values[-1:] <= x).float() @ weights) <= {("le", "decides"), *own}
    assert named(lambda x: torch.histc(x, 6, -2, 2) @ weights) == {("histc", "decides")}
    assert {kind for _, kind in named(lambda x: weights[x.mode().indices])} == {"decides"}
    assert {kind for _, kind in named(lambda x: torch.histogram(x, bins=6, range=(-1.5, 1.5))[0] @ weights)} == {
        "decides"
    }


@pytest.mark.parametrize("forward", MODES)
def test_lost_rows_name_the_decision_and_the_consumer(forward):
    def program(x):
        near = x > 0.0
        far = x > 100.0
        count = (near & (x < 3)).sum()
        if count > 2:
            x = x * 2
        level = torch.round(x).long()
        return x.sum() * count.item() + len(far.numpy()) * level.tolist()[0]

    report = traced(program, torch.tensor([0.01, 1.0, 2.5]), 0.1, forward=forward)[2]
    lost = {row.site.op: row for row in report.rows if row.kind == "lost"}
    assert set(lost) == {"bool", "item", "numpy", "tolist"}
    lines = {op: {(site.line, site.op) for site in row.lost} for op, row in lost.items()}
    masks = {(line_of("near = x > 0.0"), "gt"), (line_of("count = (near"), "lt")}
    assert lines["bool"] == lines["item"] == masks
    assert lines["tolist"] == {(line_of("level = torch.round"), "round")}
    assert lines["numpy"] == {(line_of("far = x > 100.0"), "gt")}
    assert lost["item"].status == "LOST here" and "Compute with the tensor itself" in lost["item"].verdict
    assert lost["numpy"].status == "would be lost" and lost["numpy"].in_band == 0
    assert set(report.lost) == {row.site for row in lost.values()}


@pytest.mark.parametrize("forward", MODES)
def test_no_gradient_arrives_where_the_result_is_not_used(forward):
    def program(x):
        torch.sign(x)
        return (torch.round(x) * 0).sum() + x.sum()

    sign, rounded = traced(program, torch.tensor([0.01, 0.49]), 0.1, forward=forward)[2].rows
    assert sign.grad_out is None and sign.status == "no gradient arrives"
    assert rounded.grad_out == 0 and rounded.status == "no gradient arrives"


@pytest.mark.parametrize("forward", MODES)
def test_gradients_that_arrive_outside_the_band_only_are_out_of_reach(forward):
    x = torch.tensor([0.01, 5.0])
    (row,) = traced(lambda x: (torch.sign(x) * torch.tensor([0.0, 1.0])).sum(), x, 0.1, forward=forward)[2].rows
    assert row.in_band == 1 and row.grad_in == 0
    if forward == "hard":  # outside the band no flip is known
        assert row.grad_out == 0 and row.status == "no gradient arrives"
    else:
        assert row.grad_out and row.status == "out of reach"
        assert "zero or cancels" in row.verdict and "nearest" not in row.verdict


@pytest.mark.parametrize("forward", MODES)
def test_calls_add_up_and_backward_later_is_seen(forward):
    x = torch.tensor([0.01, 1.0], requires_grad=True)
    region = sll.linearize(0.1, trace=True, forward=forward)
    for _ in range(3):
        with region:
            y = torch.sign(x)
    assert region.report().rows[0].grad_in is None
    y.sum().backward()
    (row,) = region.report().rows
    assert (row.calls, row.elements, row.in_band) == (3, 6, 3) and row.grad_in == pytest.approx(10)


@pytest.mark.parametrize("values", [[], [math.nan, math.inf, -math.inf], [0.0, 0.0]], ids=["empty", "special", "ties"])
@pytest.mark.parametrize("forward", MODES)
def test_nothing_to_measure(forward, values):
    (row,) = traced(torch.sign, torch.tensor(values), 0.1, forward=forward)[2].rows
    assert row.elements == len(values) and row.reach is None
    assert json.dumps(row.to_dict(), allow_nan=False) and row.verdict
    assert row.in_band == (2 if values == [0.0, 0.0] else 0)


def test_a_scalar_tensor_and_half_precision():
    assert traced(torch.sign, torch.tensor(0.01), 0.1)[2].rows[0].in_band == 1
    assert traced(torch.sign, torch.tensor([0.01, 1], dtype=torch.bfloat16), 0.1)[2].rows[0].grad_in == pytest.approx(
        10
    )


# --- beside the rest of torch ------------------------------------------------------------------------------------


@pytest.mark.parametrize("forward", MODES)
def test_vmap_and_grad(forward):
    x = torch.tensor([[0.01, 1.0], [2.0, 0.02]])
    with sll.linearize(0.1, trace=True, forward=forward) as region:
        got = vmap(grad(lambda v: torch.sign(v).sum()))(x)
    (row,) = region.report().rows
    assert got.tolist() == [[pytest.approx(10), 0], [0, pytest.approx(10)]]
    assert (row.elements, row.in_band) == (4, 2) and row.grad_in is None


@pytest.mark.parametrize("forward", MODES)
def test_double_backward(forward):
    x = torch.tensor([0.01], requires_grad=True)
    with sll.linearize(0.1, trace=True, forward=forward) as region:
        (g,) = torch.autograd.grad((torch.sign(x) * x).sum(), x, create_graph=True)
    g.sum().backward()
    assert region.report().rows[0].grad_in > 0


@pytest.mark.parametrize("forward", MODES)
def test_checkpoint(forward):
    x = torch.tensor([0.01, 1.0], requires_grad=True)
    with sll.linearize(0.1, trace=True, forward=forward) as region:
        checkpoint(torch.sign, x, use_reentrant=False).sum().backward()
    assert x.grad.tolist() == [pytest.approx(10), 0]
    assert region.report().rows[0].grad_in == pytest.approx(10)


def test_threads_share_a_traced_region():
    region = sll.linearize(0.1, trace=True)

    def work():
        x = torch.tensor([0.01, 1.0], requires_grad=True)
        for _ in range(20):
            with region:
                torch.sign(x).sum().backward()

    threads = [threading.Thread(target=work) for _ in range(4)]
    for t in threads:
        t.start()
    for t in threads:
        t.join()
    (row,) = region.report().rows
    assert (row.calls, row.elements, row.in_band) == (80, 160, 80)


def test_nested_regions_trace_what_they_decide():
    x = torch.tensor([0.01], requires_grad=True)
    with sll.linearize(0.1, trace=True) as outer:
        torch.sign(x)
        with sll.linearize(0.1, trace=True) as inner:
            torch.round(x)
        with sll.hard():
            torch.floor(x)
    assert [r.report().rows[0].site.op for r in (outer, inner)] == ["sign", "round"]
    assert len(outer.report().rows) == len(inner.report().rows) == 1


def test_no_grad_is_the_deployed_program():
    with sll.linearize(0.1, trace=True) as region, torch.no_grad():
        torch.sign(torch.ones(2, requires_grad=True))
    assert region.report().rows == ()


@pytest.mark.skipif(torch.__version__ < (2, 10), reason="older Dynamo does not trace these modes")
def test_compiled_code_is_watched_in_eager_mode():
    def program(x):
        return torch.where(torch.round(2 * x) > 1, torch.sign(x) * x, x) * 2

    x = torch.linspace(-1, 1, 9, requires_grad=True)
    with sll.linearize(0.25, trace=True) as region:
        (got,) = torch.autograd.grad(torch.compile(program, backend="aot_eager")(x).sum(), x)
    with sll.linearize(0.25, trace=True) as eager:
        (want,) = torch.autograd.grad(program(x).sum(), x)
    assert torch.equal(got, want) and want.any()
    assert [row.to_dict() for row in region.report().rows] == [row.to_dict() for row in eager.report().rows]
    with sll.linearize(0.25, trace=True), pytest.raises(Exception, match="trace=True"):
        torch.compile(lambda x: torch.sign(x) * 2, backend="aot_eager", fullgraph=True)(x + 0)


# --- what it says of choices, sawteeth and losses ---


@pytest.mark.parametrize(
    "f",
    [
        lambda x: (torch.arange(8.0) * torch.zeros(8).scatter(0, x.topk(3).indices, 1.0)).sum(),
        lambda x: (torch.arange(8.0) * (x > x.median())).sum(),
        lambda x: (torch.arange(8.0) * (x > x.median() + 0.01)).sum(),
        lambda x: x.detach().square()[x.kthvalue(3).indices],
        lambda x: torch.arange(8.0)[x.argmax()],
        lambda x: torch.arange(8.0)[x.argsort()].square().cumsum(0).sum(),
        lambda x: x.long().float().sum(),
        lambda x: torch.fmod(x, torch.tensor(1.5)).sum(),
        lambda x: torch.div(x, 1.5, rounding_mode="trunc").sum(),
        lambda x: torch.frac(x).sum(),
    ],
)
@pytest.mark.parametrize("forward", MODES)
def test_the_nearest_is_reached_and_nothing_before(forward, f):
    x = torch.tensor([-1.3, -0.05, 0.02, 0.07, 0.4, 0.52, 1.14, 2.6])
    row = decides(traced(f, x, 1e-4, forward=forward)[2])[0]
    nearest = row.reach[0]
    (before,), (behind,) = (decides(traced(f, x, nearest * factor, forward=forward)[2]) for factor in (0.98, 1.02))
    assert before.in_band == 0 < behind.in_band


def test_reach_is_not_in_step_with_columns_and_weighs_calls_by_their_size():
    x = torch.rand(2048, 2)
    x[:, 0] += 10
    (row,) = decides(traced(torch.sign, x, 1e-6)[2])
    assert row.reach[1] == pytest.approx(float(x.abs().quantile(0.1)), rel=0.1)

    y = torch.rand(20_000, generator=torch.Generator().manual_seed(0)) + 1

    def program(x):
        return sum(torch.sign(part).sum() for part in (*(x[:2000] + 5).split(200), x))

    (row,) = decides(traced(program, y, 1e-6)[2])
    everything = torch.cat([y[:2000] + 5, y])
    for share, reach in zip((0.1, 0.5), row.reach[1:]):
        assert reach == pytest.approx(float(everything.quantile(share)), rel=0.05)


@pytest.mark.parametrize("forward", MODES)
def test_lost_selections_are_lost(forward):
    def std(x):
        return x[x > 0.03].std()

    def stale(x):
        y = x * 1
        i = y.argmax()
        y.add_(1)
        return torch.arange(8.0)[i] + x.sum()

    x = torch.tensor([-1.3, -0.05, 0.02, 0.07, 0.4, 0.52, 1.1, 2.6])
    # Flips run a selection again, and all engines keep what a choice was made among.
    lost = () if forward == "hard" else (std,)
    for f in (std, stale):
        rows = [row for row in traced(f, x, 0.1, forward=forward)[2].rows if row.kind == "lost"]
        assert [row.status for row in rows] == ["LOST here"] * (f in lost), f
        if rows and f is std:
            assert [site.op for site in rows[0].lost] == ["gt"]


@pytest.mark.parametrize("forward", MODES)
def test_the_reason_names_the_line_where_the_gradient_ends(forward):
    def program(x):
        mask = x > 0.0  # (this one ends below)
        cut = x < 1.0
        return x.sum() + mask.sum().item() + cut.detach().sum()

    rows = {
        (row.site.op, row.kind): row
        for row in traced(program, torch.tensor([0.01, 0.98]), 0.1, forward=forward)[2].rows
    }
    item, detach = rows["item", "lost"].site.line, rows["detach", "cut"].site.line
    assert f"it ends at tests/test_report.py:{item} (item)" in rows["gt", "decides"].verdict.replace(
        os.getcwd() + "/", ""
    )
    assert f":{detach} (detach)" in rows["lt", "decides"].verdict
    assert "and with it" in rows["detach", "cut"].verdict and "(lt)" in rows["detach", "cut"].verdict


@pytest.mark.parametrize("forward", MODES)
def test_whether_backward_has_run_is_told(forward):
    x = torch.tensor([0.01, 0.49], requires_grad=True)
    with sll.linearize(0.1, trace=True, forward=forward) as region:
        torch.sign(x)
        y = torch.round(x)
    assert "backward has not run" in region.report().rows[0].verdict
    y.sum().backward()
    assert "does not depend on them" in region.report().rows[0].verdict


@pytest.mark.parametrize("forward", MODES)
def test_a_count_far_from_its_threshold_is_decided(forward):
    report = traced(
        lambda x: ((x > 0).sum() > 2).float(), torch.tensor([0.01, 1.0, 2.0, 3.0, 4.0]), 0.1, forward=forward
    )[2]
    assert [row.status for row in report.rows] == ["no gradient arrives", "decided before"]
    near = traced(lambda x: ((x > 0).sum() > 1).float(), torch.tensor([0.01, 1.0]), 0.1, forward=forward)[2]
    assert [row.status for row in near.rows] == ["gets gradients"]  # one line, one row


@pytest.mark.parametrize("scale", [1e-30, 1e-25, 1e25, 1e60])
def test_tiny_and_huge_gradients(scale):
    x = torch.tensor([0.01], dtype=torch.float64 if scale > 1e30 else torch.float32)
    (row,) = traced(lambda x: torch.sign(x) * scale, x, 0.1)[2].rows
    assert row.grad_in == pytest.approx(10 * scale) and row.status == "gets gradients"


@pytest.mark.parametrize("eps", [sll.Auto(steps=0), sll.Coverage(0.3), 0.2], ids=str)
@pytest.mark.parametrize("shape, dim", [((12, 5), 0), ((5, 5), 0), ((6, 6), 1)])
@pytest.mark.parametrize("forward", MODES)
def test_vmap_counts_what_a_loop_counts(forward, shape, dim, eps):
    x = torch.randn(shape, generator=torch.Generator().manual_seed(0)) * torch.logspace(-1, 1, shape[1 - dim])
    with sll.linearize(eps, trace=True, forward=forward) as region:
        vmap(lambda v: (v > 0).float(), in_dims=dim)(x.requires_grad_())
    (row,) = region.report().rows
    with sll.linearize(eps, trace=True, forward=forward) as loop:
        for v in x.unbind(dim):
            v > 0  # noqa: B015
    (want,) = loop.report().rows
    assert (row.elements, row.in_band) == (want.elements, want.in_band) and row.status == "not measured"


def test_functions_that_are_hard_or_not_discrete_at_all():
    def program(x):
        return x.median() + x.bool().sum() * 0 + torch.div(x, 0.3, rounding_mode="floor").sum() + x.max()

    report = traced(program, torch.tensor([0.1, 0.7]), 0.1, exclude=["div"])[2]
    assert {row.site.op: row.kind for row in report.rows} == {"bool": "hard", "div": "hard"}


def test_a_long_path_leaves_room():
    site = sll.CallSite("/" + "/".join(["directory"] * 15) + "/program.py", 12, "sign")
    text = str(
        sll.Report({}, {}, {}, (sll.Row(site, "decides", 1, 10, 5, (0.1, 0.1), grad_out=1.0, grad_in=1.0),), True)
    )
    assert "program.py:12" in text and "distance" in text and "gets gradients" in text


# --- shown -------------------------------------------------------------------------------------------------------


def example():
    def program(x):
        mask = (x > 0) & (x < 50)
        return torch.where(mask, torch.round(x) + 1, 0.0).sum() + mask.sum().item()

    return traced(program, torch.tensor([0.01, 1.3, -2.0]), 0.1)[2]


def test_text_is_what_rich_shows():
    from rich.console import Console

    report = example()
    text, console = str(report), Console(file=io.StringIO(), width=1000)
    assert "3 call sites decide; gradients pass 1" in text
    for part in ("test_report.py:", "33.3 %", "LOST here", "out of reach", "Python and NumPy numbers"):
        assert part in text, part
    console.print(report)
    assert text.splitlines() == [line.rstrip() for line in console.file.getvalue().splitlines()]


@pytest.mark.parametrize("width", [70, 80, 100, 140])
def test_a_narrow_terminal_shows_fewer_columns_whole(width):
    from rich.console import Console

    console = Console(file=io.StringIO(), width=width)
    console.print(example())
    table = console.file.getvalue().split("\n\n")[0]
    head = table.split("line ")[1].splitlines()[0]
    assert "…" not in table.replace(" … ", "") and "gets gradients" in table and "item" in table
    assert ("distance" in head) == (width == 140) and "passed on" in head


def test_a_copy_of_a_traced_region_starts_anew():
    region = sll.linearize(0.1, trace=True)
    with region:
        torch.sign(torch.zeros(1, requires_grad=True))
    again = copy.deepcopy(region)
    assert again.report().rows == () and again.report().traced and len(region.report().rows) == 1


def test_html_is_escaped_and_has_every_row():
    report = example()
    page = report._repr_html_()
    assert page.count("<tr>") == len(report.rows) + 1
    site = sll.CallSite("<script>.py", 1, "a&b")
    odd = sll.Report({site: 1}, {}, {}, (sll.Row(site, "lost", 1, 1, why="<b>"),), True)
    assert "<script>" not in odd._repr_html_() and html.escape("<script>.py") in odd._repr_html_()


def test_to_pandas():
    frame = example().to_pandas()
    assert list(frame["op"]) == ["gt", "lt", "round", "item"] and frame["in_band"].tolist()[0] == 1
    with sll.linearize(0.1, trace=True) as region:
        pass
    assert len(region.report().to_pandas()) == 0
    with pytest.raises(ValueError, match="trace=True"):
        sll.linearize().report().to_pandas()


def test_without_pandas(monkeypatch):
    monkeypatch.setitem(sys.modules, "pandas", None)
    with pytest.raises(ImportError, match="pip install pandas"):
        example().to_pandas()


def test_plot_draws_every_row():
    figure = example().plot()
    assert figure.axes
    with pytest.raises(ValueError, match="trace=True"):
        sll.linearize().report().plot()


def test_an_untraced_report_reads_well():
    x = torch.tensor([0.01], requires_grad=True)
    with sll.linearize("auto", on_lost="ignore") as region:
        (torch.sign(x) * (x > 0).sum().item()).sum().backward()
    text = str(region.report())
    assert "trace=True" in text and "gradients end" in text and "sign" in text


@pytest.mark.parametrize("value", [1, None, "yes"])
def test_trace_is_a_bool(value):
    with pytest.raises(TypeError, match="trace must be True or False"):
        sll.linearize(trace=value)


# --- explain -----------------------------------------------------------------------------------------------------


def reachable(x):
    return torch.where(x > 0.5, torch.round(4 * x), 0.0)


@pytest.mark.parametrize("forward", MODES)
def test_explain_compares_both_runs(forward):
    x = torch.tensor([0.1, 0.42, 0.51])
    found = sll.explain(reachable, x, eps=0.02, forward=forward)
    (of_x,) = found.inputs
    assert (of_x.name, of_x.shape, of_x.hard) == ("x", (3,), 0.0) and of_x.linearized == pytest.approx(50)
    text = str(found)
    assert "eps=0.1 reaches the nearest" in text and 'eps="auto"' in text and "Out of reach" in text
    assert not x.requires_grad and x.grad is None
    assert json.dumps(found.to_dict(), allow_nan=False) and "<pre>" in found._repr_html_()


@pytest.mark.parametrize("forward", MODES)
def test_the_width_it_recommends_works(forward):
    x = torch.tensor([0.1, 0.42, 0.51])
    found = sll.explain(reachable, x, eps=1e-3, forward=forward)
    (advice,) = [line for line in found.advice() if "name one" in line]
    eps = eval(advice.split("eps=")[-1].rstrip("."))
    assert all(row.in_band for row in sll.explain(reachable, x, eps=eps).report.rows)


class Net(torch.nn.Module):
    def __init__(self):
        super().__init__()
        torch.manual_seed(0)
        self.a, self.norm, self.b = torch.nn.Linear(4, 8), torch.nn.BatchNorm1d(8), torch.nn.Linear(8, 2)

    def forward(self, x):
        return self.b(torch.nn.functional.dropout(torch.sign(self.norm(self.a(x)))))


def test_explain_a_module_leaves_it_as_it_was():
    net, x = Net(), torch.randn(16, 4)
    before = {name: value.clone() for name, value in net.state_dict().items()}
    net.a.weight.grad = torch.ones(8, 4)
    state = torch.get_rng_state()
    found = sll.explain(net, x, eps=0.5)
    assert torch.equal(state, torch.get_rng_state())
    assert torch.equal(net.a.weight.grad, torch.ones(8, 4)) and net.b.weight.grad is None
    assert all(torch.equal(before[name], value) for name, value in net.state_dict().items())
    of = {x.name: x for x in found.inputs}
    assert set(of) == {name for name, _ in net.named_parameters()}
    assert of["a.weight"].hard == 0 < of["a.weight"].linearized
    # Both runs drop the same activations.
    assert of["b.bias"].hard == pytest.approx(of["b.bias"].linearized) and of["b.weight"].hard > 0


def test_explain_finds_what_a_function_refers_to():
    net, scale, x = Net(), torch.ones(1, requires_grad=True), torch.randn(16, 4)
    found = sll.explain(lambda: (net(x) * scale).sum(), eps=0.5)
    assert {"scale", "net.a.weight"} <= {i.name for i in found.inputs}
    bound = sll.explain(net.forward, x, eps=0.5)
    assert "a.weight" in {i.name for i in bound.inputs}


@pytest.mark.parametrize("forward", MODES)
def test_explain_takes_what_comes(forward):
    y = torch.tensor([0.3, 0.4], requires_grad=True)

    def own_backward(x):
        (torch.sign(x).sum() + 0 * x.sum()).backward()

    (of_x,) = sll.explain(own_backward, y, eps=0.5, forward=forward).inputs
    assert of_x.hard == 0 and of_x.linearized == pytest.approx(2 * math.sqrt(2)) and y.grad is None

    (of_mask,) = sll.explain(lambda x: x > 0.2, y, eps=0.5, forward=forward).inputs
    assert of_mask.hard is None and of_mask.linearized == pytest.approx(math.sqrt(2))

    refused = sll.explain(lambda x: x // 0.3, y, eps=0.1)
    assert "derivative for" in refused.refused and refused.inputs[0].linearized > 0 and "PyTorch raises" in str(refused)

    nested = sll.explain(
        lambda data, *, k: {"out": [torch.sign(data["a"][0]) * k]}, {"a": [y]}, k=2.0, eps=0.5, forward=forward
    )
    assert nested.inputs[0].name == "data['a'][0]" and nested.inputs[0].linearized == pytest.approx(4 * math.sqrt(2))

    smooth = sll.explain(lambda x: x**2, y)
    assert smooth.report.rows == () and "No discrete function" in str(smooth)

    lost = sll.explain(lambda x: x.sum() * 0 + (x > 0.32).sum().item(), y, eps=0.1)
    assert "Lost" in str(lost) and 'on_lost="error"' in str(lost)


class Trainer:
    def __init__(self, net):
        self.net = net

    def loss(self, x):
        return torch.sign(self.net(x)).sum()


def decorated(fn):
    @functools.wraps(fn)
    def wrapper(*args):
        return fn(*args)

    return wrapper


NET = Net()


def uses_a_global(x):
    return NET(x)


@pytest.mark.parametrize(
    "make",
    [
        lambda net: (lambda model, x: model(x), (net,)),
        lambda net: (functools.partial(lambda model, x: model(x), net), ()),
        lambda net: (functools.partial(lambda x, model: model(x), model=net), ()),
        lambda net: ((lambda nets: lambda x: nets[0](x))([net]), ()),
        lambda net: ((lambda nets: lambda x: nets["a"](x))({"a": net}), ()),
        lambda net: ((lambda helper: lambda x: helper(x))(lambda x: net(x)), ()),
        lambda net: (Trainer(net).loss, ()),
        lambda net: (decorated(Trainer(net).loss), ()),
        lambda net: (lambda x, model=net: model(x), ()),
    ],
)
def test_explain_finds_modules_wherever_they_are(make):
    net, x = Net(), torch.randn(16, 4)
    before = {name: value.clone() for name, value in net.state_dict().items()}
    fn, first = make(net)
    found = sll.explain(fn, *first, x, eps=0.5)
    assert sum("a.weight" in i.name for i in found.inputs) == 1 and not any(
        i.name == "x" and i.hard for i in found.inputs
    )
    assert all(torch.equal(before[name], value) for name, value in net.state_dict().items())


def test_explain_finds_a_global_module():
    assert "NET.a.weight" in {i.name for i in sll.explain(uses_a_global, torch.randn(16, 4), eps=0.5).inputs}


def test_explain_a_step_that_calls_backward_and_returns_the_loss():
    net = torch.nn.Linear(3, 2)

    def step(x):
        loss = torch.sign(net(x)).sum() + net(x).sum()
        loss.backward()
        return loss

    found = sll.explain(step, torch.randn(3), eps=0.5)
    assert all(i.hard for i in found.inputs) and net.weight.grad is None

    def hard_step(x):
        (x > 0.2).float().mean().backward()

    only = sll.explain(hard_step, torch.tensor([0.25]), eps=0.5)
    assert "does not require grad" in only.refused and only.inputs[0].linearized == pytest.approx(1)


class Hidden:
    """What nobody looks into, so it is not put back."""

    __slots__ = ("all",)

    def __init__(self):
        self.all = []


def test_explain_restores_what_the_program_changes():
    net, x, seen = torch.nn.Linear(3, 2), torch.randn(4, 3), torch.zeros(2)
    optimizer = torch.optim.SGD(net.parameters(), 0.1)
    weight, drawn = net.weight.detach().clone(), np.random.get_state()[1].copy()
    net.register_buffer("ema", torch.zeros(2))
    ema, generator = net.ema, torch.Generator().manual_seed(3)
    state, noise, steps = generator.get_state(), Hidden(), []

    def step(x, generator):
        x.mul_(2)
        seen.add_(1)
        steps.append(len(steps))
        noise.all.append((np.random.rand(), float(torch.rand(1, generator=generator))))
        loss = torch.sign(net(x)).sum() + net(x).sum()
        net.ema = 0.9 * net.ema + 0.1
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()

    before = x.clone()
    sll.explain(step, x, generator, eps=0.5)
    assert torch.equal(x, before) and torch.equal(net.weight, weight) and not seen.any()
    assert net.ema is ema and not ema.any() and torch.equal(generator.get_state(), state)
    assert not steps and noise.all[0] == noise.all[1] and (np.random.get_state()[1] == drawn).all()


class Pair(NamedTuple):
    a: torch.Tensor
    b: torch.Tensor


@dataclass
class Batch:
    x: torch.Tensor
    k: int = 2


class Attributes(dict):
    def __getattr__(self, name):
        if name not in self:
            raise AttributeError(name)
        return self[name]


def test_explain_containers():
    y = torch.tensor([0.3, 0.4])
    pair = sll.explain(lambda p: torch.sign(p.a.mul_(1) + p.b), Pair(y, y.clone()), eps=1.0)
    assert [i.name for i in pair.inputs] == ["p[0]", "p[1]"] and all(i.linearized for i in pair.inputs)
    batch = sll.explain(lambda batch: Batch(torch.sign(batch.x) * batch.k), Batch(y), eps=1.0)
    assert batch.inputs[0].name == "batch.x" and batch.inputs[0].linearized == pytest.approx(2 * math.sqrt(2))
    tree = sll.explain(lambda d: torch.sign(d.a), Attributes(a=y), eps=1.0)
    assert tree.inputs[0].name == "d['a']" and tree.inputs[0].linearized
    shared = sll.explain(lambda a, b: torch.sign(a) * (a is b), y, y, eps=1.0)
    assert shared.inputs[0].linearized == pytest.approx(math.sqrt(2)) and len(shared.inputs) == 1
    rest = sll.explain(lambda *rest: torch.sign(rest[1]), y, y.clone(), eps=1.0)
    assert [i.name for i in rest.inputs] == ["rest[0]", "rest[1]"]


def test_explain_a_name_that_is_taken():
    class Scaled(torch.nn.Module):
        def __init__(self):
            super().__init__()
            self.scale = torch.nn.Parameter(torch.ones(1))

        def forward(self, x, scale):
            return torch.round(x * self.scale * scale)

    found = sll.explain(Scaled(), torch.ones(3, requires_grad=True), 2 * torch.ones(3, requires_grad=True), eps=0.6)
    assert [i.name for i in found.inputs] == ["x", "scale", "scale (parameter)"]


def test_explain_inside_a_region_and_without_gradients():
    y = torch.tensor([0.1, 0.42])
    with sll.linearize(0.3), torch.inference_mode():
        found = sll.explain(torch.round, y + 0, eps=0.2)
    assert found.inputs[0].hard == 0 and found.inputs[0].linearized == pytest.approx(2.5)


def test_explain_says_what_it_cannot_run():
    def steps(x):
        yield torch.sign(x)

    async def later(x):
        return torch.sign(x)

    with pytest.raises(TypeError, match="returns a generator"):
        sll.explain(steps, torch.ones(1))
    with pytest.warns(RuntimeWarning, match="never awaited"), pytest.raises(TypeError, match="returns a coroutine"):
        sll.explain(later, torch.ones(1))
        gc.collect()


def test_explain_norms_that_are_no_numbers():
    found = sll.explain(lambda x: (torch.sign(x) + x) / 0, torch.ones(2), eps=2.0)
    assert json.dumps(found.to_dict(), allow_nan=False)
    nothing = sll.explain(torch.sign, torch.full((2,), math.nan), eps=0.1)
    assert "name one" not in str(nothing)


def test_explain_says_that_a_region_inside_decides():
    inside = sll.enable(eps=0.5)(torch.sign)
    found = sll.explain(lambda x: inside(x), torch.tensor([0.1]))
    assert found.inner and "region of its own" in str(found)
    assert not sll.explain(torch.sign, torch.tensor([0.1])).inner


def test_explain_passes_on_what_the_program_raises():
    with pytest.raises(ZeroDivisionError):
        sll.explain(lambda x: 1 / 0, torch.ones(1))
    with pytest.raises(RuntimeError, match="size"):
        sll.explain(lambda x: x + torch.ones(3), torch.ones(2))
    with pytest.raises(TypeError, match="fn must be the program"):
        sll.explain(torch.ones(1))
    with pytest.raises(ValueError, match="eps"):
        sll.explain(torch.sign, torch.ones(1), eps=-1)


def test_a_band_that_covers_all_that_was_seen_is_told():
    """Probabilities and a band of 1: no decision is ever made for good, and a learned threshold runs away."""
    p = torch.linspace(0.02, 0.98, 49)
    t = torch.tensor(0.5, requires_grad=True)

    def row(eps, x=p):
        with sll.linearize(eps, forward="straight-through", trace=True) as region:
            (x > t).float().mean().backward()
        (found,) = region.report().rows
        return found, str(region.report())

    wide, text = row(1.0)
    assert wide.covered and wide.status == "gets gradients"
    assert "covers all that was seen (no distance above 0.48)" in wide.verdict and wide.verdict in text
    width = float(wide.verdict.rpartition("eps=")[2].split()[0])
    narrower, text = row(width * 0.9)
    assert not narrower.covered and "covers" not in text
    alike = torch.cat([p * 0.1 + 0.7, 0.3 - p * 0.1])  # (all or none are in a band)
    for eps, x in (("auto", p), (1.0, p * 4 - 2), (1.0, torch.tensor([0.6])), ("auto", alike), (1.0, alike)):
        assert not row(eps, x)[0].covered  # (one element says nothing)
    with sll.linearize(1.0, forward="straight-through", trace=True) as region:
        torch.round(p.clone().requires_grad_()).sum().backward()
    assert not region.report().rows[0].covered  # the widest band of a step is all of it


@pytest.mark.parametrize("gain, grows", [(1e-4, False), (2.0, True)])
def test_gradients_that_grow_through_a_loop_are_told(gain, grows):
    """Within one backward pass, not from one step to the next."""
    x = torch.zeros(8, requires_grad=True)
    with sll.linearize(0.01, forward="straight-through", trace=True) as region:
        for scale in (1.0, 1e5):
            v = x + torch.linspace(-0.005, 0.005, 8)
            for _ in range(6):
                v = v - gain * (v > 0).float() + gain / 2
            (v.sum() * scale).backward()
    (row,) = region.report().rows
    assert (row.grows > 1e3) == grows and row.to_dict()["grows"] == row.grows
    assert ("gradients grow" in row.verdict) == ("gradients grow" in str(region.report())) == grows


def test_a_state_with_a_graph_is_no_cause_for_a_warning():
    """The membrane of a spiking neuron is a buffer that was computed: it has no `.grad` to look at."""

    class Neuron(torch.nn.Module):
        def __init__(self):
            super().__init__()
            self.weight = torch.nn.Parameter(torch.ones(3))
            self.register_buffer("state", torch.zeros(3))

        def forward(self, x):
            self.state = 0.5 * self.state + self.weight * x
            return (self.state > 1).float()

    neuron = Neuron()
    neuron(torch.ones(3))
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        found = sll.explain(neuron, torch.ones(3))
    assert [of.name for of in found.inputs if of.linearized] == ["weight"]


GRADES = torch.tensor([0.0, 1.0, 0.0, 2.0])
APPROXIMATE = {
    "again": ("straight-through", lambda x: GRADES[x.masked_fill(torch.arange(4) == x.argmax(), -9.0).argmax()]),
    "equal": ("straight-through", lambda x: (x > 0).float().amax()),
    "terms": ("straight-through", lambda x: (((x > 0) * 2 ** torch.arange(4)).sum() == 3).double().mul(1.0)),
    "blend": ("linear", lambda x: (x > 0).float().mean() > 0.9),
    "places": ("linear", lambda x: (lambda g: (g[0] > 0) | (g[1] > 0))(GRADES[x.argsort()])),
    "outcomes": ("linear", lambda x: functools.reduce(torch.logical_xor, torch.cat([x, x - 0.01]).gt(0).unbind())),
}


@pytest.mark.parametrize("why", APPROXIMATE)
def test_what_is_approximate_says_why(why, monkeypatch):
    monkeypatch.setattr("sll._carry.shadows.terms.MAX_ELEMENTS", 3)
    forward, program = APPROXIMATE[why]
    for at, told in (([0.02, 0.03, 0.05, 0.04], True), ([1.0, 4.0, 2.0, 3.0], why == "terms")):
        x = torch.tensor(at, requires_grad=True)
        with sll.linearize(0.1, forward=forward, on_lost="error") as region:
            program(x)
        report = region.report()
        assert (why in report.why.values()) == told == ("approximate" in str(report)), str(report)
        assert report.why.keys() == report.approximate.keys()
