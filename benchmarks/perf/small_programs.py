"""Small programs that decide, unedited and by hand: what a region costs where Python is what takes the time."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any

import torch
import torch.nn.functional as F
from by_hand import (
    HARDSHRINKS,
    IDIOM,
    ONE_HOTS,
    RANK_WINDOW,
    RANKS,
    REMAINDERS,
    STEPS,
    TOP_KS,
    TRUNCATIONS,
    Choose,
    Map,
    clipped,
    hard_ranks,
    identity,
    straight,
)
from inventory import inventory, inventory_by_hand, inventory_inputs
from torch import Tensor

from programs import LEVELS, quantizer, spiking

Call = Callable[..., Tensor]
Inputs = Callable[[], tuple[Tensor, ...]]


@dataclass(frozen=True)
class Limits:
    family: str
    auto: float
    fixed: float
    hard: float | None = None


SINGLE = Limits("a single step", 2.0, 1.5)
UNUSED = Limits("a mask that is only logged, or indexes", 1.5, 1.3)
MASKS = Limits("masks, quantizers, lookups", 2.0, 1.5)
CHOICES = Limits("choices", 3.0, 2.5)
SPIKING = Limits("a spiking layer", 1.8, 1.5, 5.0)
SIMULATORS = Limits("a simulator", 2.5, 2.0)
CONTROLLER = Limits("the thermostat", 2.5, 2.0, 5.0)


@dataclass(frozen=True)
class Small:
    name: str
    limits: Limits
    eps: float
    """The fixed half-width: such that the one written by hand needs no scale."""
    plain: Call
    by_hand: Mapping[str, Call]
    inputs: Inputs
    """The same numbers at each call. What needs no gradient is data."""
    same_formula: bool = False
    """Whether the one by hand has the gradient of a region with `eps`, and not only its values."""
    others: Mapping[str, Call] = field(default_factory=dict)
    """By hand too, but another estimator: shown, and nothing is held against it."""


def normal(*shape: int, seed: int = 0, scale: float = 1.0) -> Tensor:
    return (scale * torch.randn(shape, generator=torch.Generator().manual_seed(seed))).requires_grad_()


def learned(*values: float) -> list[Tensor]:
    return [torch.tensor(value, requires_grad=True) for value in values]


# --- a mask that is only logged, or indexes ---

log: dict[str, Tensor] = {}
"""The latest of each: what a program keeps to look at."""


def logged(x: Tensor, first: Tensor, second: Tensor) -> Tensor:
    hidden = torch.relu(x @ first)
    log["active"] = hidden > 0.5
    return hidden @ second


def indexed(x: Tensor, first: Tensor, second: Tensor, labels: Tensor) -> Tensor:
    scores = torch.relu(x @ first) @ second
    log["sure"] = labels[scores[:, 0] > 0.5]
    return scores


def network_inputs(n: int) -> tuple[Tensor, ...]:
    return normal(n // 16, 16), normal(16, 16, seed=1, scale=0.25), normal(16, 16, seed=2, scale=0.25)


# --- masks ---


def masks(x: Tensor, y: Tensor, a: Tensor, b: Tensor, c: Tensor) -> Tensor:
    return torch.where(((x > a) & ~(y > b)) | (y < c), x * y, x - y).mean()


def masks_by_hand(step: Map, chosen: Callable[[Tensor, Tensor, Tensor], Tensor]) -> Call:
    def by_hand(x: Tensor, y: Tensor, a: Tensor, b: Tensor, c: Tensor) -> Tensor:
        mask = step(x - a) * (1 - step(y - b))
        other = step(c - y)
        return chosen(mask + other - mask * other, x * y, x - y).mean()

    return by_hand


def by_products(mask: Tensor, a: Tensor, b: Tensor) -> Tensor:
    return mask * a + (1 - mask) * b


def by_lerp(mask: Tensor, a: Tensor, b: Tensor) -> Tensor:
    return torch.lerp(b, a, mask)


def majority(x: Tensor) -> Tensor:
    return ((x > 0).sum(1) >= 2).to(x.dtype)


def majority_by_hand(step: Map) -> Call:
    return lambda x: step(step(x).sum(1) - 1.5)


def quantizer_by_hand(round: Map) -> Call:
    """In floating point throughout: no gradient passes an int8."""
    return lambda x, scale: round(x / scale).clamp(-LEVELS, LEVELS) * scale


# --- a table ---


def lookup(x: Tensor, table: Tensor) -> Tensor:
    return table[x.round().clamp(0, 15).long()]


def lookup_slope(x: Tensor, table: Tensor) -> Tensor:
    """The entry, and for x the slope to the entry on the other side of the nearest boundary."""
    n = x.detach().round()
    found = table[n.long()]
    with torch.no_grad():
        low = x.floor()
        slope = table[(low + 1).clamp(max=15).long()] - table[low.long()]
    return found + slope * (x - x.detach())


def lookup_interpolated(x: Tensor, table: Tensor) -> Tensor:
    """The entry, and the derivative of the line between two; the table gets the gradient of that line as well."""
    low = x.detach().floor()
    a, b = table[low.long()], table[(low + 1).clamp(max=15).long()]
    w = x - low
    return straight(torch.where(w > 0.5, b, a), torch.lerp(a, b, w))


def lookup_inputs(n: int) -> tuple[Tensor, ...]:
    return (15 * torch.rand(n, generator=torch.Generator().manual_seed(0))).requires_grad_(), normal(16, seed=1)


# --- choices ---


def argmax(scores: Tensor) -> Tensor:
    return F.one_hot(scores.argmax(-1), scores.shape[-1]).to(scores.dtype)


def top_k(scores: Tensor) -> Tensor:
    return torch.zeros_like(scores).scatter(-1, scores.topk(8).indices, 1.0)


def top_k_by_hand(choose: Choose) -> Call:
    return lambda scores: choose(scores, 8)


def vector_quantization(z: Tensor, codebook: Tensor, target: Tensor) -> Tensor:
    words = codebook[torch.cdist(z, codebook).argmin(-1)]
    return F.mse_loss(words, target) + 0.25 * F.mse_loss(z, words.detach())


def vector_quantization_by_hand(one_hot: Map) -> Call:
    """The weights of the choice get a gradient."""

    def by_hand(z: Tensor, codebook: Tensor, target: Tensor) -> Tensor:
        words = one_hot(-torch.cdist(z, codebook)) @ codebook
        return F.mse_loss(words, target) + 0.25 * F.mse_loss(z, words.detach())

    return by_hand


def copied_gradient(z: Tensor, codebook: Tensor, target: Tensor) -> Tensor:
    """van den Oord, Vinyals & Kavukcuoglu 2017: no gradient of the choice, and a codebook loss more."""
    words = codebook[torch.cdist(z, codebook).argmin(-1)]
    losses = F.mse_loss(words, z.detach()) + 0.25 * F.mse_loss(z, words.detach())
    return F.mse_loss(z + (words - z).detach(), target) + losses


def vector_inputs(n: int) -> tuple[Tensor, ...]:
    return normal(n // 4, 4), normal(16, 4, seed=1), normal(n // 4, 4, seed=2).detach()


def spearman(ranks: Map) -> Call:
    """Correlation of the ranks of `x` with ranks that are data."""

    def correlation(x: Tensor, theirs: Tensor) -> Tensor:
        ours = ranks(x)
        ours, theirs = ours - ours.mean(), theirs - theirs.mean()
        return (ours * theirs).mean() / (ours.square().mean().sqrt() * theirs.square().mean().sqrt())

    return correlation


def rank_inputs(n: int) -> tuple[Tensor, ...]:
    return normal(n), hard_ranks(normal(n, seed=1).detach())


# --- a spiking layer ---


def fires(membrane: Tensor) -> Tensor:
    return (membrane > 1).to(membrane.dtype)


def fires_idiom(membrane: Tensor) -> Tensor:
    return straight(fires(membrane), membrane.clamp(0.5, 1.5))


def shifted(step: Map) -> Map:
    return lambda membrane: step(membrane - 1)


FIRES: dict[str, Map] = {name: shifted(step) for name, step in STEPS.items()} | {IDIOM: fires_idiom}


# --- all ---


def each(make: Callable[[Any], Call], ways: Mapping[str, Any]) -> dict[str, Call]:
    return {name: make(way) for name, way in ways.items()}


def single(name: str, eps: float, plain: Call, by_hand: Mapping[str, Call], n: int) -> Small:
    return Small(name, SINGLE, eps, plain, by_hand, lambda: (normal(n, scale=2.0),), same_formula=True)


def programs_of(n: int) -> list[Small]:
    """Twenty-two programs of `n` elements."""
    half = torch.tensor(0.5)

    def pair() -> tuple[Tensor, ...]:
        return normal(n), normal(n, seed=1)

    def with_limits() -> tuple[Tensor, ...]:
        return *pair(), *learned(0.2, 0.3, -0.5)

    def rows() -> tuple[Tensor, ...]:
        return (normal(n // 16, 16),)

    rounds = identity(torch.round)
    return [
        single("sign", 1.0, torch.sign, clipped(torch.sign, 1.0), n),
        single("round", 0.5, torch.round, rounds, n),
        single("floor", 0.5, torch.floor, identity(torch.floor), n),
        single("ceil", 0.5, torch.ceil, identity(torch.ceil), n),
        single("trunc", 0.5, torch.trunc, TRUNCATIONS, n),
        single("heaviside", 0.5, lambda x: torch.heaviside(x, half), STEPS, n),
        single("x > 0 to float", 0.5, lambda x: (x > 0).to(x.dtype), STEPS, n),
        single("long() and back", 0.5, lambda x: x.long().to(x.dtype), TRUNCATIONS, n),
        Small("mask for a log", UNUSED, 0.5, logged, {"plain": logged}, lambda: network_inputs(n), True),
        Small("mask that indexes", UNUSED, 0.5, indexed, {"plain": indexed},
              lambda: (*network_inputs(n), torch.arange(n // 16)), True),
        Small("where", MASKS, 0.5, lambda x, y: torch.where(x > 0, x * y, y),
              {f"{name}, {way}": lambda x, y, step=step, choose=choose: choose(step(x), x * y, y)
               for name, step in STEPS.items() for way, choose in (("products", by_products), ("lerp", by_lerp))},
              pair, True),
        Small("masked_fill", MASKS, 0.5, lambda x, y: y.masked_fill(x > 0, 0.0),
              each(lambda step: lambda x, y: y * step(-x), STEPS), pair, True),
        Small("and, or, not", MASKS, 0.5, masks,
              {f"{name}, {way}": masks_by_hand(step, choose)
               for name, step in STEPS.items() for way, choose in (("products", by_products), ("lerp", by_lerp))},
              with_limits, True),
        Small("count compared", MASKS, 0.5, majority, each(majority_by_hand, STEPS),
              lambda: (normal(n // 4, 4),), True),
        Small("quantizer with int8", MASKS, 0.5, quantizer, each(quantizer_by_hand, rounds),
              lambda: (normal(n), *learned(4 / LEVELS)), True),
        Small("table lookup", MASKS, 0.5, lookup,
              {"slope": lookup_slope, "interpolated": lookup_interpolated}, lambda: lookup_inputs(n)),
        Small("remainder", MASKS, 0.25, lambda x: x.remainder(1.0), REMAINDERS, lambda: (normal(n, scale=2.0),), True),
        Small("hardshrink", MASKS, 0.25, F.hardshrink, HARDSHRINKS, lambda: (normal(n),), True),
        Small("argmax -> one_hot", CHOICES, 1.0, argmax, ONE_HOTS, rows),
        Small("top-k mask", CHOICES, 0.5, top_k, each(top_k_by_hand, TOP_KS), lambda: (normal(n // 64, 64),)),
        Small("vector quantization", CHOICES, 1.0, vector_quantization,
              each(vector_quantization_by_hand, ONE_HOTS), lambda: vector_inputs(n),
              others={"copied gradient by hand": copied_gradient}),
        Small("Spearman", CHOICES, RANK_WINDOW, spearman(hard_ranks), each(spearman, RANKS), lambda: rank_inputs(n)),
    ]  # fmt: skip


def layers() -> list[Small]:
    """Leaky integrate-and-fire, 20 steps. The reset is detached (cut), or in the graph (kept)."""
    found = []
    for shape in ((20, 64), (20, 64, 128)):
        for detached in (True, False):
            size = " x ".join(map(str, shape))
            found.append(
                Small(
                    f"spiking {size}, reset {'cut' if detached else 'kept'}", SPIKING, 0.5,
                    spiking(fires, detached), {name: spiking(fire, detached) for name, fire in FIRES.items()},
                    lambda shape=shape: (normal(*shape, scale=0.5),), same_formula=True,
                )
            )  # fmt: skip
    return found


def simulators() -> list[Small]:
    rounds = identity(torch.round)[IDIOM]
    return [
        Small(f"(s, S) inventory, {paths} path{'s' * (paths > 1)}", SIMULATORS, 0.5, inventory,
              each(lambda step: inventory_by_hand(rounds, step), STEPS), lambda paths=paths: inventory_inputs(paths))
        for paths in (1, 256)
    ]  # fmt: skip
