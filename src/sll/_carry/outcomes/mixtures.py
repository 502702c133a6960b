"""Mixtures of values with weights: functions of a `Choice`, one value for each position that may be chosen; and what a
tensor carries that is put together from the elements of several.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor

from ..._ops.band import hard_forward
from ..._ops.dtypes import compute_dtype
from ..._ops.env import free_to_read
from ..._rules.index import op_name
from ..interface import Func, Region, attach
from .carriers import (
    Carrier,
    Choice,
    Expectation,
    Outcomes,
    bool_outcomes,
    carrier,
    choice,
    discrete_carrier,
    is_constant,
    outcomes,
    resolved,
)
from .decisions import decided_by, equal_keys
from .expectations import by_ones, expect, one_apart, order_in, undecided

MAX_VALUES = 64
"""An integer that depends on several choices keeps their joint values up to this many; beyond it, its expectation."""


def per_value(region: Region, func: Func, args: tuple[Any, ...], kwargs: dict[str, Any]) -> tuple[Choice, Tensor]:
    """The elementwise `func` for each value of the first choice among its operands: that choice, and the results,
    (*shape, M). They carry what else the operands carry.
    """
    main = next(x for x in (*args, *kwargs.values()) if choice(x) is not None)
    first = choice(main)
    assert first is not None

    def lift(x: Any) -> Any:
        if not isinstance(x, Tensor):
            return x
        found = choice(x)
        if found is not None and equal_keys(found.key, first.key):
            return found.values
        if found is not None and _of_one_order(found, first):
            region.approximate(op_name(func), main.numel(), "places")
        if x.dim() == 0 and main.dim():
            return x  # a number to type promotion, and it stays one
        return region.call(torch.unsqueeze, x, -1)

    named = {name: lift(x) for name, x in kwargs.items() if name != "memory_format"}
    return first, region.call(func, *[lift(x) for x in args], **named)


def _of_one_order(a: Choice, b: Choice) -> bool:
    """Whether both are places of one order, which do not change one by one, and neither is certain."""
    order = order_in(a.key)
    if order is None or not equal_keys(order, order_in(b.key)):
        return False
    certain = (choice.decided() for choice in (a, b))
    return not any(free_to_read(flags) and bool(flags.all()) for flags in certain)


def join_values(region: Region, hard: Tensor, found: Choice, values: Tensor, *, blended: bool = False) -> Tensor:
    """The result of a function whose `hard` value and whose `values` (*shape, M) for each choice are known.

    `blended`: float operands show a mixture, and a discrete result computed from it need not be one of the values.
    """
    rank = hard.dim() + 1
    if values.dim() < rank:
        values = region.call(torch.Tensor.reshape, values, (1,) * (rank - values.dim()) + tuple(values.shape))
    if found.weights.dim() < rank:
        found = found.map(found.key, lambda t: t.reshape((1,) * (rank - t.dim()) + tuple(t.shape)))
    found = found.of(values)
    if hard.is_complex():
        wide = values.to(hard.dtype)
        parts = [mix(found.of(part(wide)), part(hard)) for part in (torch.real, torch.imag)]
        return torch.complex(*parts)
    if hard.is_floating_point():
        inner = undecided(values)
        out = mix(found, hard, None if inner is None else inner.any(-1))
        return attach(region, out, found if carrier(values) is None else None)
    if carrier(values) is not None:
        return attach(region, hard, _flattened(hard, found))
    out = hard
    if blended:
        full = values.expand(*hard.shape, values.shape[-1])
        best = found.weights.detach().argmax(-1, keepdim=True).expand(*hard.shape, 1)
        out = torch.where(found.decided() | found.ties.squeeze(-1), hard, full.gather(-1, best).squeeze(-1))
    return attach(region, out, found)


def _flattened(hard: Tensor, found: Choice) -> Carrier:
    """Values that carry linearizations of their own, as one choice; too many as their expectation."""
    values, weights = found.values, found.weights
    if hard.dtype == torch.bool:
        return bool_outcomes(decided_by((weights * expect(values)).sum(-1)), hard)
    inner = distribution(values)
    many = values.shape[-1] * (inner.weights.shape[-1] if inner is not None else MAX_VALUES + 1)
    if inner is None or many > MAX_VALUES:
        means = expect(values)
        total = (weights.to(means.dtype) * means).sum(-1).expand(hard.shape)
        return Expectation(total, one_apart(means) and by_ones(values))
    joint = weights.unsqueeze(-1) * inner.weights
    shape = (*hard.shape, *joint.shape[-2:])
    ties = found.ties | (inner.ties.squeeze(-1) & (weights.detach() > 0)).any(-1, keepdim=True)
    joint, flat = (t.expand(shape).reshape(*hard.shape, many) for t in (joint, inner.values))
    return Choice(("mixed", joint), flat, joint, ties)


def distribution(x: Tensor) -> Choice | None:
    """`x` as a choice, not broadcast; None if only the expectation is known."""
    found = resolved(x)
    if isinstance(found, Expectation):
        return None
    if isinstance(found, Choice):
        return found.map(found.key, lambda t: t.expand(*x.shape, t.shape[-1]))
    if not isinstance(found, Outcomes):
        ones = torch.ones((), dtype=torch.float32, device=x.device).expand(*x.shape, 1)
        return Choice(("constant",), x.unsqueeze(-1), ones, ones < 1)
    offset = found.decision.offset().expand(x.shape).unsqueeze(-1)
    sides = [distribution(side.expand(x.shape) if is_constant(side) else side) for side in (found.below, found.above)]
    if sides[0] is None or sides[1] is None:
        return None
    low, high = (side.map(side.key, lambda t: t.expand(*x.shape, t.shape[-1])) for side in sides if side is not None)
    weights = torch.cat([low.weights * (0.5 - offset), high.weights * (0.5 + offset)], -1)
    ties = (offset == 0) | torch.where(offset > 0, high.ties, low.ties)
    return Choice(("mixed", weights), torch.cat([low.values, high.values], -1), weights, ties)


def mix(found: Choice, hard: Tensor, inner: Tensor | None = None) -> Tensor:
    """``sum of weights * values`` over the last dimension in the band; `hard` where one value has all the weight, at an
    exact tie, and where the values in question are not all finite.

    `inner`: mask of elements whose values are undecided themselves: there `hard` is not what to show.
    """
    wide = compute_dtype(found.weights.dtype, hard.dtype)
    w, v = found.weights.to(wide), found.values.to(wide)
    best, likeliest = w.detach().max(-1)
    infinite = ((w.detach() > 0) & ~v.detach().isfinite()).any(-1)
    # Where something is infinite the likeliest value alone counts, and the choice has no gradient.
    alone = (torch.arange(w.shape[-1], device=w.device) == likeliest.unsqueeze(-1)).to(wide)
    w = torch.where(infinite.unsqueeze(-1), alone, w)
    v = torch.where((w.detach() > 0) | v.detach().isfinite(), v, 0)
    soft = (w * v).sum(-1).expand(hard.shape)
    shown = (best == 1) | infinite | found.ties.squeeze(-1)
    if inner is not None:
        shown = shown & ~inner
    return torch.where(shown, hard_forward(hard, soft), soft.to(hard.dtype))


# --- the elements of several tensors in one ----------------------------------------------------------------------


def regroup(region: Region, put: Callable[[list[Tensor]], Tensor], tensors: Sequence[Tensor], hard: Tensor) -> Any:
    """The carrier of ``put(tensors)``, a function that only moves the elements of several tensors into one."""
    if any(isinstance(resolved(t), Choice) for t in tensors):
        chosen = _regrouped_choices(put, tensors, hard)
        if chosen is not None:
            return chosen
    if hard.dtype != torch.bool and not hard.is_floating_point() and any(_depth(t) > 1 for t in tensors):
        value = put([expect(t) if discrete_carrier(t) else t.to(torch.float64) for t in tensors])
        return Expectation(value, all(by_ones(t) for t in tensors))
    weights, below, above = zip(*(_flat(t, hard.dtype) for t in tensors))
    dtype = torch.float64 if any(w.dtype == torch.float64 for w in weights) else torch.float32
    weight = put([w.to(dtype).expand(t.shape) for w, t in zip(weights, tensors)])
    return Outcomes(
        decided_by(weight),
        put([b.expand(t.shape) for b, t in zip(below, tensors)]),
        put([a.expand(t.shape) for a, t in zip(above, tensors)]),
    )


def _regrouped_choices(put: Callable[[list[Tensor]], Tensor], tensors: Sequence[Tensor], hard: Tensor) -> Any:
    found = [distribution(t) for t in tensors]
    parts = [part for part in found if part is not None]
    many = max(part.weights.shape[-1] for part in parts)
    if len(parts) < len(found) or many > MAX_VALUES:
        return None

    def slices(pieces: list[Tensor]) -> Tensor:
        last = max(p.shape[-1] for p in pieces)
        padded = [F.pad(p, (0, last - p.shape[-1])) for p in pieces]
        return torch.stack([put([p[..., m] for p in padded]) for m in range(last)], -1)

    dtype = compute_dtype(*(part.weights.dtype for part in parts))
    weights = slices([part.weights.to(dtype) for part in parts])
    values = slices([part.values.to(hard.dtype) for part in parts])
    ties = slices([part.ties.expand(*part.weights.shape[:-1], 1) for part in parts])
    return Choice(("regrouped", weights), values, weights, ties)


def _depth(x: Any) -> int:
    """How many decisions deep; what one decision does not describe counts as two."""
    tree = resolved(x)
    if isinstance(tree, (Choice, Expectation)):
        return 2
    if not isinstance(tree, Outcomes):
        return 0
    return 1 + max(_depth(tree.below), _depth(tree.above))


def _flat(x: Tensor, dtype: torch.dtype) -> tuple[Tensor, Tensor, Tensor]:
    """Weight, below and above of one decision per element; weight 0 and `x` itself where `x` carries nothing."""
    tree = outcomes(x)
    if x.dtype == torch.bool and _depth(x) > 1:
        tree = bool_outcomes(decided_by(expect(x)), x)
    if tree is None or _depth(x) > 1 and x.dtype != torch.bool:
        zero = torch.zeros((), dtype=torch.float32, device=x.device)
        return zero, x.to(dtype), x.to(dtype)
    return tree.decision.weight(), tree.below.to(dtype), tree.above.to(dtype)
