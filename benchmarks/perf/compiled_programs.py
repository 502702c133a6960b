"""Whole programs, compiled: what a region adds to the time of compiling, and to what runs then."""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

import torch
import torch.nn.functional as F
from bench import Bench, both_ways, working
from by_hand import ONE_HOTS, STEPS, Map, identity
from figures import COMPILE_TIME, COMPILED_RUN
from small_programs import FIRES, normal, vector_inputs, vector_quantization, vector_quantization_by_hand
from torch import Tensor

import sll
from programs import (
    mask_inputs,
    masks,
    masks_by_hand,
    quantizer,
    quantizer_inputs,
    spiking,
    straight_through_step,
)

Call = Callable[..., Tensor]
LEVELS = 127
PLAIN = "straight-through idiom"
BY_HAND = "fastest by hand"
REGION = "sll.compile"


@dataclass(frozen=True)
class Program:
    name: str
    eps: float
    plain: Call
    idiom: Call
    """By hand, the identity in backward: what compile time is held against."""
    clipped: Mapping[str, Call]
    """By hand, with the derivative of a region's bands, in several ways: what run time is held against."""
    inputs: Callable[[], tuple[Tensor, ...]]


# --- networks with whole weights and activations ---


def whole(x: Tensor, scale: float) -> Tensor:
    return torch.round(x / scale).clamp(-LEVELS, LEVELS).to(torch.int8).to(x.dtype) * scale


def whole_by_hand(round: Map) -> Callable[[Tensor, float], Tensor]:
    return lambda x, scale: round(x / scale).clamp(-LEVELS, LEVELS) * scale


Whole = Callable[[Tensor, float], Tensor]


def linear(whole: Whole, x: Tensor, w: Tensor) -> Tensor:
    return whole(x, 0.05) @ whole(w, 0.01)


def perceptron(whole: Whole) -> Call:
    def network(x: Tensor, *layers: Tensor) -> Tensor:
        for w in layers:
            x = torch.relu(linear(whole, x, w))
        return x.square().mean()

    return network


def transformer(whole: Whole) -> Call:
    """Blocks of attention with 4 heads and two layers, in front of each a norm."""

    def network(x: Tensor, *layers: Tensor) -> Tensor:
        width = x.shape[-1]
        for i in range(0, len(layers), 4):
            into, out, up, down = layers[i : i + 4]
            q, k, v = linear(whole, F.layer_norm(x, (width,)), into).unflatten(-1, (3, 4, -1)).unbind(-3)
            heads = F.scaled_dot_product_attention(q.transpose(-2, -3), k.transpose(-2, -3), v.transpose(-2, -3))
            x = x + linear(whole, heads.transpose(-2, -3).flatten(-2), out)
            x = x + linear(whole, F.gelu(linear(whole, F.layer_norm(x, (width,)), up)), down)
        return x.square().mean()

    return network


def perceptron_inputs() -> tuple[Tensor, ...]:
    return (normal(128, 256), *(normal(256, 256, seed=i, scale=0.1) for i in range(3)))


def transformer_inputs(width: int = 64) -> tuple[Tensor, ...]:
    shapes = [(width, 3 * width), (width, width), (width, 4 * width), (4 * width, width)] * 2
    return (normal(4, 32, width), *(normal(*shape, seed=i, scale=0.1) for i, shape in enumerate(shapes)))


def programs() -> list[Program]:
    rounds = identity(torch.round)

    def of_steps(make: Callable[[Map], Call], ways: Mapping[str, Map]) -> dict[str, Call]:
        return {name: make(step) for name, step in ways.items()}

    def quantized(make: Callable[[Whole], Call]) -> tuple[Call, Call, dict[str, Call]]:
        ways = {name: make(whole_by_hand(round)) for name, round in rounds.items()}
        return make(whole), ways["idiom"], ways

    by_hand = {
        name: lambda x, s, round=round: round(x / s).clamp(-LEVELS, LEVELS) * s for name, round in rounds.items()
    }
    layers = [
        Program(
            f"spiking 20 x 64 x 128, reset {'detached' if detached else 'in the graph'}", 0.5,
            spiking(lambda v: (v > 1).to(v.dtype), detached), spiking(lambda v: straight_through_step(v - 1), detached),
            of_steps(lambda step, detached=detached: spiking(step, detached), FIRES),
            lambda: (normal(20, 64, 128, scale=0.5),),
        )
        for detached in (True, False)
    ]  # fmt: skip
    choices = of_steps(vector_quantization_by_hand, ONE_HOTS)
    return [
        Program("masks", 0.5, masks, masks_by_hand(straight_through_step), of_steps(masks_by_hand, STEPS),
                lambda: mask_inputs(10**6, "cpu")),
        Program("quantizer", 0.5, quantizer, by_hand["idiom"], by_hand, lambda: quantizer_inputs(10**6, "cpu")),
        Program("perceptron, 4 layers", 0.5, *quantized(perceptron), perceptron_inputs),
        *layers,
        Program("Transformer, 2 layers", 0.5, *quantized(transformer), transformer_inputs),
        Program("vector quantization", 1.0, vector_quantization, choices["one_hot, softmax"], choices,
                lambda: vector_inputs(4096)),
    ]  # fmt: skip


# --- what is measured ---


def seconds_to_compile(call: Callable[[], Callable[[], object]]) -> float:
    """Of forward and backward, with nothing that was compiled before."""
    torch._dynamo.reset()
    with torch._inductor.utils.fresh_cache():
        start = time.perf_counter()
        call()()
        return time.perf_counter() - start


def compiled_programs(bench: Bench) -> None:
    """Both tables. What is compiled takes turns with what it is compared to."""
    how: dict[str, Any] = {"dynamic": False, "fullgraph": True}
    slow = f"Programs, time of compiling, {bench.where}"
    runs = f"Programs, compiled, {bench.where}"
    bench.results.captions[slow] = (
        "`torch.compile` with inductor, nothing kept from before, forward and backward: `sll.compile` relative to the "
        "straight-through version by hand."
    )
    bench.results.captions[runs] = (
        "Forward and backward, relative to the fastest version by hand with the same derivative, compiled too: a "
        "clipped estimator of steps, the identity for rounding, a softmax for choices."
    )
    for program in programs():
        inputs = program.inputs()
        wrt = [x for x in inputs if x.requires_grad]
        g = torch.ones(program.plain(*inputs).shape)

        def timed(call: Call, inputs: Any = inputs, g: Tensor = g, wrt: Any = wrt) -> Callable[[], object]:
            return both_ways(call, inputs, g, wrt)

        def region(program: Program = program) -> Call:
            return sll.compile(program.plain, program.eps, forward="straight-through", **how)

        bench.say(f"{slow}: {program.name}")
        ways: dict[str, Callable[[], Callable[[], object]]] = {
            PLAIN: lambda program=program, timed=timed: timed(torch.compile(program.idiom, **how)),
            REGION: lambda region=region, timed=timed: timed(region()),
        }
        seconds: dict[str, list[float]] = {name: [] for name in ways}
        for turn in range(3):
            for name, call in ways.items():
                found = seconds_to_compile(call)
                if turn:  # (the first imports half of torch)
                    seconds[name].append(found)
        bench.add(slow, program.name, seconds, PLAIN, {REGION: COMPILE_TIME})

        bench.say(f"{runs}: {program.name}")
        torch._dynamo.reset()
        calls = {f"by hand, {name}": torch.compile(call, **how) for name, call in program.clipped.items()}
        calls[PLAIN] = torch.compile(program.idiom, **how)
        calls[REGION] = region()
        working_calls = working(bench, {name: timed(call) for name, call in calls.items()}, program.name)
        samples = bench.clock.interleaved(working_calls)
        by_hand = [name for name in samples if name.startswith("by hand")]
        best = min(by_hand, key=lambda name: sorted(samples[name])[len(samples[name]) // 2])
        shown = {name: samples[name] for name in (PLAIN, REGION) if name in samples}
        bench.add(runs, program.name, {BY_HAND: samples[best]} | shown, BY_HAND, {REGION: COMPILED_RUN})
