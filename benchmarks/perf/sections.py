"""What is measured. Each function takes what to measure with, and adds its figures."""

from __future__ import annotations

import os
import shutil
import types
import warnings
from collections.abc import Callable, Sequence
from dataclasses import replace
from typing import Any
from unittest import mock

import torch
from bench import Bench, both_ways, count, working
from competitors import (
    CLIPPED,
    COPY,
    FUNCTIONS,
    HARD,
    IDIOM,
    PUBLISHED,
    RECOMPUTED,
    REGIONS,
    SOFTTORCH,
    WIDTH,
    Op,
    clipped,
    competitors,
    decorated,
    idiom,
    in_region,
    recomputed_function,
    sll_function,
)
from compiled_programs import compiled_programs
from figures import CALL, COMPILED, EAGER, OLD, PIPELINE, SAVED, SOFT, STEP, STEP_IN_A_MODE, Figure, Target
from saved import saved
from small import small
from timing import FEW, ratios
from torch import Tensor
from torch.overrides import TorchFunctionMode

import sll
from programs import NETWORKS, PIPELINES, SMALL_NETWORK, training_step
from sll._ops import fused

OURS = (*REGIONS, *FUNCTIONS)
AROUND = "region around, linear"
SOFTTORCH_MOST = 10**6
"""Elements: its `round` takes a minute for ten million."""
SOFTTORCH_BYTES = {"round": 600}
"""Bytes per element that SoftTorch's `round` needs at its peak: eleven neighbours for each element."""


def free_bytes(device: str) -> float:
    if device == "cuda":
        return torch.cuda.mem_get_info()[0]
    try:
        return os.sysconf("SC_AVPHYS_PAGES") * os.sysconf("SC_PAGE_SIZE")
    except (ValueError, OSError, AttributeError):
        return 4e9


# --- elementwise ops, eager --------------------------------------------------------------------------------------


def elementwise(bench: Bench) -> None:
    for n in bench.sizes:
        table = f"Elementwise ops, eager, {count(n)}, {bench.where}"
        bench.results.captions[table] = (
            f"Forward and backward, relative to the straight-through idiom `x + (op(x) - x).detach()`. "
            f"Target for sll: {EAGER}."
        )
        versus = f"Other libraries, eager, {count(n)}, {bench.where}"
        bench.results.captions[versus] = "How many times as long as sll: soft values and a region or function with "
        bench.results.captions[versus] += (
            '`forward="linear"`, straight-through values and `forward="hard"`. '
            f"Targets: SoftTorch {SOFT['sign']} on sign and {SOFT['round']} on round, "
            f"published {OLD['sign']} and {OLD['round']}."
        )
        for op in bench.ops:
            bench.say(f"{table}: {op.name}")
            inputs = op.inputs(n, bench.device)
            g = torch.randn(n, generator=torch.Generator().manual_seed(1)).to(bench.device)
            softtorch = bench.softtorch if n <= SOFTTORCH_MOST else None
            if softtorch is not None and n * SOFTTORCH_BYTES.get(op.name, 0) > 0.7 * free_bytes(bench.device):
                bench.results.note(f"SoftTorch's {op.name} of {count(n)} does not fit into the memory that is free.")
                softtorch = None
            calls = {
                name: both_ways(call, inputs, g, inputs[:1] if name == COPY else None)
                for name, call in competitors(op, softtorch, bench.published).items()
            }
            plain = [x.detach() for x in inputs]
            calls[HARD] = lambda op=op, plain=plain: op.hard(*plain)
            samples = bench.clock.interleaved(calls)
            bench.add(table, op.name, samples, IDIOM, dict.fromkeys(OURS, EAGER))
            if bench.device == "cpu" and fused.available():
                few = {name: calls[name] for name in (IDIOM, *(name for name in OURS if "auto" not in name))}
                with mock.patch.object(fused, "available", lambda: False):
                    without = bench.clock.interleaved(few, rounds=FEW)
                bench.add(table, op.name, {f"{name}, without numba": t for name, t in without.items()},
                          f"{IDIOM}, without numba")  # fmt: skip
            for row, seconds in samples.items():
                for ours, target in rivals(op, row):
                    values = tuple(ratios(seconds, samples[ours]))
                    bench.results.figures.append(Figure(versus, f"{row} / {ours}", op.name, "x", values, target))


def rivals(op: Op, row: str) -> list[tuple[str, Target | None]]:
    """Which of ours is compared with this row of another library: like with like."""
    if row.startswith(SOFTTORCH):
        forward = "hard" if row.endswith("straight-through") else "linear"
        return [(f"region, {forward}", SOFT.get(op.name)), (f"function, {forward}", SOFT.get(op.name))]
    if row.startswith(PUBLISHED):
        kind = "region" if row.endswith("region") else "function"
        return [(f"{kind}, linear", OLD.get(op.name))]
    return []


# --- compiled ----------------------------------------------------------------------------------------------------


def fresh(call: Callable[..., Any]) -> Callable[..., Any]:
    """A function with code of its own: Dynamo keeps what it compiles with the code, and looks through all of it."""
    copy = types.FunctionType(
        call.__code__.replace(), call.__globals__, call.__name__, call.__defaults__, call.__closure__
    )
    copy.__kwdefaults__ = call.__kwdefaults__
    return copy


def compile_(call: Callable[..., Tensor]) -> Callable[..., Tensor]:
    return torch.compile(fresh(call), dynamic=False)


def can_compile(bench: Bench) -> bool:
    if bench.device == "cpu" and not any(map(shutil.which, ("g++", "clang++"))):
        bench.results.note("Nothing compiled was measured: inductor needs a C++ compiler, and there is none.")
        return False
    # Another number of threads is other code; the graph cache does not look at it.
    torch._inductor.config.fx_graph_cache = False
    torch._functorch.config.enable_autograd_cache = False
    return True


def neighbours(call: Callable[..., Tensor], g: Tensor) -> Callable[..., Tensor]:
    """What a program does with an op: something comes before, something after, and what leaves the graph is a loss."""

    return weighted(lambda x, *rest: call(2 * x + 1, *rest), g)


def weighted(call: Callable[..., Tensor], g: Tensor) -> Callable[..., Tensor]:
    def loss(*inputs: Tensor) -> Tensor:
        return (g * call(*inputs)).sum()

    return loss


def compiled(bench: Bench) -> None:
    if not can_compile(bench):
        return
    for n in bench.sizes[:1] if bench.brief else bench.sizes:
        for alone in (True, False):
            what = "op(x)" if alone else "(g * op(2 * x + 1)).sum()"
            table = f"Elementwise ops, compiled, {what}, {count(n)}, {bench.where}"
            bench.results.captions[table] = (
                "`torch.compile` with inductor, forward and backward, relative to the compiled clipped "
                f"straight-through Function, which saves a bool mask. Target for sll: {COMPILED}. (Inductor writes "
                "and reads bools one at a time on the CPU, and the compiler keeps one also for the Function that saves "
                "x: both are slower compiled than not. sll keeps bytes that are written by the vector.)"
            )
            if alone:
                bench.results.captions[table] += (
                    " The region is in the compiled function. Around it (last row), what the graph returns carries its "
                    "decision out of it, and the distances have to be written as well."
                )
            for op in bench.ops:
                bench.say(f"{table}: {op.name}")
                torch._dynamo.reset()
                inputs = op.inputs(n, bench.device)
                g = torch.randn(n, generator=torch.Generator().manual_seed(1)).to(bench.device)

                def wrap(call: Callable[..., Tensor], g: Tensor = g, alone: bool = alone) -> Callable[..., Tensor]:
                    return call if alone else neighbours(call, g)

                calls = {CLIPPED: compile_(wrap(clipped(op))), IDIOM: compile_(wrap(idiom(op)))}
                calls[RECOMPUTED] = compile_(wrap(clipped(op, recomputed_function)))
                calls[f"{CLIPPED}, not compiled"] = wrap(clipped(op))
                for name, options in REGIONS.items():
                    around = in_region(compile_(wrap(op.hard)), *options)
                    calls[name] = compile_(decorated(wrap(op.hard), *options)) if alone else around
                if alone:
                    calls[AROUND] = in_region(compile_(op.hard), *REGIONS["region, linear"])
                for name, options in FUNCTIONS.items():
                    calls[name] = compile_(wrap(sll_function(op, *options)))
                weights = g if alone else torch.ones((), device=bench.device)
                timed = {name: both_ways(call, inputs, weights) for name, call in calls.items()}
                samples = bench.clock.interleaved(working(bench, timed, f"compiled {op.name}"))
                bench.add(table, op.name, samples, CLIPPED, dict.fromkeys(OURS, COMPILED))
    torch._dynamo.reset()


# --- memory ------------------------------------------------------------------------------------------------------


def memory(bench: Bench) -> None:
    n = min(bench.sizes)
    tables = {
        "own": ("Saved for backward, bytes per element",
                f"Beyond the hard op, without the inputs, which are alive anyway. Target for sll: {SAVED}."),
        "with_inputs": ("Saved for backward with the inputs, bytes per element",
                        "The same, and 4 bytes for each float32 input that is saved."),
        "alive": ("Alive after the call, bytes per element",
                  "All that was made in the call and is alive while its result is (inputs and result not counted)."),
    }  # fmt: skip
    for title, caption in tables.values():
        bench.results.captions[title] = caption
    for op in bench.ops:
        inputs = op.inputs(n, bench.device)
        hard = saved(op.hard, inputs)
        for row, call in competitors(op, bench.softtorch, bench.published).items():
            found = saved(call, inputs)
            for name, (title, _) in tables.items():
                value = (getattr(found, name) - getattr(hard, name)) / n
                target = SAVED if row in OURS and name == "own" else None
                bench.results.figures.append(Figure(title, row, op.name, "B", (value,), target))


# --- what a region costs where it does nothing -------------------------------------------------------------------

CALLS = 1000
STEPS = 30
"""Rounds of training steps at the least: two per cent are not seen in fewer."""
MOST = 15.0
"""Seconds for more rounds."""
EMPTY = "an empty mode"


class EmptyMode(TorchFunctionMode):
    def __torch_function__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        return func(*args, **kwargs) if kwargs else func(*args)


def overhead(bench: Bench) -> None:
    table = f"A call that is not discrete, in a region, {bench.where}"
    bench.results.captions[table] = (
        "Microseconds more than in an empty `TorchFunctionMode`, which is what PyTorch itself takes for any; its own "
        "row has the microseconds more than outside. Arguments require grad, and a decision was made before: a "
        f"region that remembers decisions looks for writes. Target: {CALL}."
    )
    a = torch.randn(4, 4, device=bench.device).requires_grad_()
    b = torch.randn(4, 4, device=bench.device)
    few = {
        "add": lambda: a + b,
        "relu": lambda: torch.relu(a),
        "matmul, 4 x 4": lambda: a @ b,
        "view": lambda: a.view(16),
    }
    regions: dict[str, TorchFunctionMode] = {
        EMPTY: EmptyMode(),
        "region, fixed width": sll.linearize(WIDTH),
        "region, auto": sll.linearize("auto"),
    }
    with regions["region, fixed width"]:
        torch.gt(a + 1, 0)  # it waits to be asked, and is forgotten some time later: as between the layers of a network
    clock = bench.clock.alone(bench.threads)
    turns = replace(clock, least=0.002)  # many short ones: what disturbs does so for a while
    for name, call in few.items():

        def many(call: Callable[[], object] = call) -> None:
            for _ in range(CALLS):
                call()

        def inside(region: Any, many: Callable[[], None] = many) -> None:
            with region:
                many()

        calls: dict[str, Callable[[], object]] = {"outside": many}
        calls |= {row: lambda region=region, inside=inside: inside(region) for row, region in regions.items()}
        samples = turns.interleaved(calls, rounds=8 * bench.clock.rounds)
        for row in regions:
            base = samples["outside" if row == EMPTY else EMPTY]
            more = [1e6 / CALLS * (t - other) for t, other in zip(samples[row], base)]
            target = None if row == EMPTY else CALL
            bench.results.figures.append(Figure(table, row, name, "us", tuple(more), target, tuple(samples[row])))

    table = f"A training step of a network without decisions, in a region, {bench.where}"
    bench.results.captions[table] = (
        "Forward, backward and a step of SGD in the region, nothing is linearized. Per cent more than outside, and "
        f"more than in an empty mode. Target: {STEP}. In the smallest network an empty mode alone takes more than that."
    )
    turns = replace(clock, least=0.05)
    for name, (network, shape) in NETWORKS.items():
        bench.say(f"{table}: {name}")
        step = training_step(network, shape, bench.device)

        def step_in(region: Any, step: Callable[[], object] = step) -> None:
            with region:
                step()

        calls = {"outside": step}
        calls |= {row: lambda region=region, step_in=step_in: step_in(region) for row, region in regions.items()}
        samples = turns.interleaved(calls, rounds=4 * STEPS, most=MOST, fewest=STEPS)
        for row in regions:
            more = [100 * (ratio - 1) for ratio in ratios(samples[row], samples["outside"])]
            target = None if row == EMPTY or name == SMALL_NETWORK else STEP
            bench.results.figures.append(Figure(table, row, name, "%", tuple(more), target, tuple(samples[row])))
        for row in list(regions)[1:]:
            more = [100 * (ratio - 1) for ratio in ratios(samples[row], samples[EMPTY])]
            title = f"{row}, than in an empty mode"
            bench.results.figures.append(Figure(table, title, name, "%", tuple(more), STEP_IN_A_MODE))


# --- pipelines ---------------------------------------------------------------------------------------------------


def pipelines(bench: Bench) -> None:
    n = bench.sizes[0]
    for what in ("eager", "compiled", "compiled, (g * pipeline).sum()"):
        compiling, ends_in_a_loss = what != "eager", "sum" in what
        if compiling and (not can_compile(bench) or bench.brief and bench.turn):
            return
        table = f"Pipelines, {what}, {count(n)}, {bench.where}"
        bench.results.captions[table] = (
            "Forward and backward, relative to the pipeline written by hand with the straight-through idiom"
            f"{', compiled too' if compiling else ''}. Target for sll: {PIPELINE}."
        )
        if compiling and not ends_in_a_loss:
            bench.results.captions[table] += (
                " The region is in the compiled function. Around it (last row), what the graph returns carries its "
                "decisions out of it, as tensors that have to be written."
            )
        for pipeline in PIPELINES:
            if compiling and bench.brief and pipeline.slow_to_compile:
                bench.results.note(f"The {pipeline.name} was not compiled (--quick, --brief): that takes minutes.")
                continue
            bench.say(f"{table}: {pipeline.name}")
            torch._dynamo.reset()
            inputs = pipeline.inputs(n, bench.device)
            with torch.no_grad():
                g = torch.randn(pipeline.plain(*inputs).shape, generator=torch.Generator().manual_seed(1))
            g = g.to(bench.device)

            def wrap(
                call: Callable[..., Tensor],
                g: Tensor = g,
                compiling: bool = compiling,
                ends_in_a_loss: bool = ends_in_a_loss,
            ) -> Callable[..., Tensor]:
                whole = weighted(call, g) if ends_in_a_loss else call
                return compile_(whole) if compiling else whole

            calls = {IDIOM: wrap(pipeline.straight_through), CLIPPED: wrap(pipeline.clipped)}
            for name, options in REGIONS.items():
                around = in_region(wrap(pipeline.plain), *options)
                inside = compiling and not ends_in_a_loss
                calls[name] = wrap(decorated(pipeline.plain, *options)) if inside else around
            if compiling and not ends_in_a_loss:
                calls[AROUND] = in_region(wrap(pipeline.plain), *REGIONS["region, linear"])
            weights = torch.ones((), device=bench.device) if ends_in_a_loss else g
            timed = {name: both_ways(call, inputs, weights) for name, call in calls.items()}
            samples = bench.clock.interleaved(working(bench, timed, f"{table}, {pipeline.name}"))
            bench.add(table, pipeline.name, samples, IDIOM, dict.fromkeys(REGIONS, PIPELINE))
    torch._dynamo.reset()


# --- ranks -------------------------------------------------------------------------------------------------------


def rank(bench: Bench) -> None:
    n = 10**8 if bench.device == "cuda" and min(bench.sizes) > 10**5 else min(bench.sizes)
    table = f"sll.rank, {count(n)}, {bench.where}"
    sorts = "argsort(argsort(x)), forward only"
    bench.results.captions[table] = f"Forward and backward, relative to `{sorts}`."
    bench.say(table)
    x = torch.randn(n, generator=torch.Generator().manual_seed(0)).to(bench.device).requires_grad_()
    g = torch.randn(n, generator=torch.Generator().manual_seed(1)).to(bench.device)
    calls: dict[str, Callable[[], object]] = {sorts: lambda: x.detach().argsort().argsort()}
    for eps in (1e-6, 1e-3, 1.0):
        calls[f"sll.rank, eps {eps:g}"] = both_ways(lambda x, eps=eps: sll.rank(x, eps=eps), (x,), g)
    bench.add(table, "time", bench.clock.interleaved(calls), sorts)


SECTIONS: dict[str, Callable[[Bench], None]] = {
    "elementwise": elementwise,
    "compiled": lambda bench: compiled_programs(bench) if can_compile(bench) else None,
    "compiled-ops": compiled,
    "memory": memory,
    "overhead": overhead,
    "small": small,
    "pipelines": pipelines,
    "rank": rank,
}
ONCE = ("compiled", "memory", "overhead", "small")
"""The same with every number of threads, or meant for one: measured with the first."""


def run(bench: Bench, names: Sequence[str]) -> None:
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", category=sll.LostGradientWarning)
        for name in names:
            SECTIONS[name](bench)
