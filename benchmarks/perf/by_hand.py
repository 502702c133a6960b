"""What a specialist writes to train through a decision, without `sll`: the parts of the programs in `small_programs`.

Every part has the value of the hard op and the derivative of a ramp over the same window. Where people write it in two
ways, both are here; the faster one in the run is what `sll` is held against.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
import torch.nn.functional as F
from competitors import clipped_function, recomputed_function
from torch import Tensor
from torch.autograd import Function

Map = Callable[[Tensor], Tensor]

IDIOM = "idiom"
FUNCTION = "Function, saves mask"
RECOMPUTED = "Function, saves x"


def straight(hard: Tensor, soft: Tensor) -> Tensor:
    """The value of one, the derivative of the other."""
    return soft + (hard - soft).detach()


def unit_step(x: Tensor) -> Tensor:
    return (x > 0).to(x.dtype)


def clipped(op: Map, window: float) -> dict[str, Map]:
    """`op`, with the derivative of ``x.clamp(-window, window)``: slope 1 in the window, which needs no scale."""
    return {
        IDIOM: lambda x: straight(op(x), x.clamp(-window, window)),
        FUNCTION: clipped_function(op, window).apply,
        RECOMPUTED: recomputed_function(op, window).apply,
    }


STEPS = clipped(unit_step, 0.5)
"""1 where x > 0, and slope 1 for ``abs(x) <= 1/2``."""
step = STEPS[IDIOM]


class _Rounds(Function):
    """The derivative of the identity: what people call *the* straight-through estimator."""

    @staticmethod
    def forward(ctx: Any, x: Tensor, op: Map) -> Tensor:
        return op(x)

    @staticmethod
    def backward(ctx: Any, g: Tensor) -> tuple[Tensor, None]:
        return g, None


def identity(op: Map) -> dict[str, Map]:
    return {IDIOM: lambda x: straight(op(x), x), "Function": lambda x: _Rounds.apply(x, op)}


class _Truncates(Function):
    @staticmethod
    def forward(ctx: Any, x: Tensor) -> Tensor:
        ctx.save_for_backward(x.abs() >= 0.5)
        return x.trunc()

    @staticmethod
    def backward(ctx: Any, g: Tensor) -> Tensor:
        (inside,) = ctx.saved_tensors
        return g * inside


TRUNCATIONS: dict[str, Map] = {
    IDIOM: lambda x: straight(x.trunc(), x - x.clamp(-0.5, 0.5)),
    FUNCTION: _Truncates.apply,
}
"""Slope 1, but for the window around 0, where nothing is decided."""


# --- a remainder, a shrinkage ---


def remainder(x: Tensor) -> Tensor:
    """Of 1; it falls by 1 over a window of 1/4 on both sides of each integer."""
    d = (x - x.detach().round()).clamp(-0.25, 0.25)
    return x.remainder(1.0) - 2 * (d - d.detach())


class _Remainder(Function):
    @staticmethod
    def forward(ctx: Any, x: Tensor) -> Tensor:
        ctx.save_for_backward((x - x.round()).abs() <= 0.25)
        return x.remainder(1.0)

    @staticmethod
    def backward(ctx: Any, g: Tensor) -> Tensor:
        (inside,) = ctx.saved_tensors
        return torch.where(inside, -g, g)


REMAINDERS: dict[str, Map] = {IDIOM: remainder, FUNCTION: _Remainder.apply}


def hardshrink(x: Tensor) -> Tensor:
    d = x.abs() - 0.5
    return x * straight(unit_step(d), 2 * d.clamp(-0.25, 0.25))


class _Hardshrink(Function):
    @staticmethod
    def forward(ctx: Any, x: Tensor) -> Tensor:
        ctx.save_for_backward(x)
        return F.hardshrink(x)

    @staticmethod
    def backward(ctx: Any, g: Tensor) -> Tensor:
        (x,) = ctx.saved_tensors
        d = x.abs() - 0.5
        return g * ((d > 0) + 2 * (d + 0.5) * (d.abs() <= 0.25))


HARDSHRINKS: dict[str, Map] = {IDIOM: hardshrink, RECOMPUTED: _Hardshrink.apply}


# --- choices ---


def one_hot_idiom(scores: Tensor) -> Tensor:
    """One-hot of the largest of a row, with the derivative of a softmax."""
    hard = F.one_hot(scores.argmax(-1), scores.shape[-1]).to(scores.dtype)
    return straight(hard, scores.softmax(-1))


def one_hot_scattered(scores: Tensor) -> Tensor:
    """The same, as `torch.nn.functional.gumbel_softmax` spells it."""
    soft = scores.softmax(-1)
    hard = torch.zeros_like(scores).scatter_(-1, soft.max(-1, keepdim=True)[1], 1.0)
    return hard - soft.detach() + soft


ONE_HOTS: dict[str, Map] = {"one_hot, softmax": one_hot_idiom, "scatter_, softmax": one_hot_scattered}

Choose = Callable[[Tensor, int], Tensor]


def top_k_window(scores: Tensor, k: int) -> Tensor:
    """1 at the `k` largest of a row, with a window around the middle between the last that is in and the next."""
    values, indices = scores.topk(k + 1)
    middle = values[..., k - 1 :].mean(-1, keepdim=True)
    hard = torch.zeros_like(scores).scatter_(-1, indices[..., :k], 1.0)
    return straight(hard, (scores - middle).clamp(-0.5, 0.5))


def top_k_softmax(scores: Tensor, k: int) -> Tensor:
    hard = torch.zeros_like(scores).scatter_(-1, scores.topk(k).indices, 1.0)
    return straight(hard, k * scores.softmax(-1))


TOP_KS: dict[str, Choose] = {"window": top_k_window, "softmax": top_k_softmax}


# --- ranks ---

RANK_WINDOW = 0.1


def hard_ranks(x: Tensor) -> Tensor:
    return x.argsort().argsort().to(x.dtype)


def ranks_of_pairs(x: Tensor) -> Tensor:
    """How many are smaller, each pair with a window. Takes the square of the length."""
    pairs = x.unsqueeze(-1) - x
    return straight(hard_ranks(x), pairs.clamp(-RANK_WINDOW, RANK_WINDOW).sum(-1) / (2 * RANK_WINDOW))


class _Ranks(Function):
    """The same derivative from a sorted vector and running sums."""

    @staticmethod
    def forward(ctx: Any, x: Tensor) -> Tensor:
        values, order = x.sort()
        ctx.save_for_backward(values, order)
        ranks = torch.empty_like(x)
        ranks[order] = torch.arange(len(x), dtype=x.dtype, device=x.device)
        return ranks

    @staticmethod
    def backward(ctx: Any, g: Tensor) -> Tensor:
        values, order = ctx.saved_tensors
        g = g[order]
        low = torch.searchsorted(values, values - RANK_WINDOW)
        high = torch.searchsorted(values, values + RANK_WINDOW, right=True)
        total = F.pad(g.cumsum(0), (1, 0))
        found = torch.empty_like(g)
        found[order] = ((high - low) * g - (total[high] - total[low])) / (2 * RANK_WINDOW)
        return found


RANKS: dict[str, Map] = {"pairs": ranks_of_pairs, "Function, running sums": _Ranks.apply}
