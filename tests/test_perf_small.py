"""`benchmarks/perf --only small`: by hand there are the values of a region, and where it can be its gradients."""

from __future__ import annotations

import pytest
import torch

import sll

COUNTED = "count compared"
RESETS = [f"spiking 20 x 64{more}, reset kept" for more in ("", " x 128")]
SINGLE = ("sign", "round", "floor", "ceil", "trunc", "heaviside", "x > 0 to float", "long() and back")
SAME = [
    *SINGLE, "mask for a log", "mask that indexes", "where", "masked_fill", "and, or, not",
    "quantizer with int8", "remainder", "hardshrink", "spiking 20 x 64, reset cut",
    "spiking 20 x 64 x 128, reset cut",
    COUNTED, *RESETS,
]  # fmt: skip


def every():
    from small_programs import layers, programs_of, simulators

    return {program.name: program for program in (*programs_of(64), *layers(), *simulators())}


def gradients(y, inputs):
    g = torch.randn(y.shape, generator=torch.Generator().manual_seed(1))
    return torch.autograd.grad(y, [x for x in inputs if x.requires_grad], g)


def test_twenty_two_programs_of_each_size(perf):
    from small import SIZES
    from small_programs import layers, programs_of, simulators

    assert SIZES == (64, 4096)
    for n in SIZES:
        found = programs_of(n)
        assert len(found) == len({program.name for program in found}) == 22
        assert {len(program.inputs()[0].flatten()) for program in found} == {n}
    assert len(layers()) == 4 and len(simulators()) == 2


@pytest.mark.parametrize("eps", ["auto", None], ids=["auto", "fixed"])
def test_by_hand_has_the_values_of_the_program_in_a_region(perf, eps):
    for program in every().values():
        inputs = program.inputs()
        with sll.linearize(eps or program.eps, forward="straight-through"):
            ours = program.plain(*inputs)
        gradients(ours, inputs)  # every input gets one
        assert torch.equal(ours, program.plain(*inputs)), program.name
        for way, call in program.by_hand.items():
            theirs = call(*inputs)
            torch.testing.assert_close(theirs, ours, msg=lambda m, way=way, name=program.name: f"{name}, {way}: {m}")
            gradients(theirs, inputs)
        for call in program.others.values():
            gradients(call(*inputs), inputs)


@pytest.mark.parametrize("name", SAME)
def test_by_hand_has_the_gradients_of_the_program_in_a_region(perf, name):
    program = every()[name]
    inputs = program.inputs()
    with sll.linearize(program.eps, forward="straight-through"):
        ours = program.plain(*inputs)
    want = gradients(ours, inputs)
    for way, call in program.by_hand.items():
        for theirs, mine in zip(gradients(call(*inputs), inputs), want):
            torch.testing.assert_close(theirs, mine, msg=lambda m, way=way: f"{way}: {m}")


def test_all_that_has_the_formula_of_a_region_is_tested(perf):
    names = {name if isinstance(name, str) else name.values[0] for name in SAME}
    assert names == {name for name, program in every().items() if program.same_formula}


def test_the_two_ways_to_differentiate_ranks_agree(perf):
    from by_hand import RANKS

    x = torch.randn(64, dtype=torch.float64, requires_grad=True)
    first, second = (gradients(call(x), (x,))[0] for call in RANKS.values())
    torch.testing.assert_close(first, second)


def test_evidence_programs_by_hand_have_the_losses_of_the_plain_ones(perf, monkeypatch):
    import small

    monkeypatch.syspath_prepend(small.EVIDENCE_FOLDER)
    from tasks import TASKS

    for name in TASKS:
        losses = small.evidence_losses(name)
        assert len(losses) == 4
        loss, _ = losses[""]
        for call, parameters in losses.values():
            torch.testing.assert_close(call(), loss(), msg=lambda m, name=name: f"{name}: {m}")
            if call is not loss:  # every parameter gets a gradient, and one at the least is not zero
                assert any(g.any() for g in torch.autograd.grad(call(), parameters)), name


def test_a_contest_gives_figures_with_their_limits(perf):
    import small
    from bench import Bench
    from figures import Results
    from small_programs import layers
    from timing import Clock

    clock, results = Clock("cpu", 2, least=1e-4), Results()
    bench = Bench(clock, 1, (), (), True, True, 0, results, None, None, lambda text: None)
    program = layers()[0]
    figures = small.hold(bench, clock, small.TABLE, small.contest(program, program.name), program.limits)
    assert [(figure.column, figure.target.limit) for figure in figures] == [
        (small.AUTO, 1.8), (small.FIXED, 1.5), (small.HARD, 5.0)
    ]  # fmt: skip
    assert all(figure.base in program.by_hand and len(figure.samples) == 2 for figure in figures)


def test_a_hopeless_way_to_write_it_does_not_run_in_the_rounds(perf):
    import time

    import small
    from timing import Clock

    calls = {"slow": lambda: time.sleep(0.01), "fast": lambda: None}
    assert list(small.fast(Clock("cpu", 2, least=1e-4), calls)) == ["fast"]


def test_a_list_has_the_worst_first_and_counts_what_is_within_its_limit(perf):
    import report
    from figures import Figure, Results, Target

    two, five = Target("two", 2.0), Target("five", 5.0)
    results = Results(listed=["a"])
    results.figures += [
        Figure("a", "mean", '"auto"', "x", (9.0,)),
        Figure("a", "well", '"auto"', "x", (4.0, 4.0), five, (4e-6, 4e-6), "idiom"),
        Figure("a", "ill", '"auto"', "x", (3.0, 3.0), two, (6e-6, 6e-6), "idiom"),
    ]
    assert [figure.row for figure in results.worst_first("a")] == ["ill", "well", "mean"]
    assert results.verdict() == "1 of 2 figures are within their limits."
    facts = {"torch": "2", "threads": [1], "quick": True, "gpu": None}
    page = report.markdown(results, facts)
    assert '| ill | "auto" | 3.00 | ≤ 2 | NO | 6.00 | 2.00 | idiom |' in page
    assert '| well | "auto" | 4.00 | ≤ 5 | yes | 4.00 | 1.00 | idiom |' in page


def test_turns_rotate(perf):
    from timing import Clock

    seen = []
    calls = {name: lambda name=name: seen.append(name) for name in "abc"}
    samples = Clock("cpu", 3, least=0.0).interleaved(calls)
    assert "".join(seen[6:]) == "abcbcacab" and {len(found) for found in samples.values()} == {3}
