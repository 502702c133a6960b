"""What a tensor carries that is put together from the elements of several."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor

from ..._ops.dtypes import compute_dtype
from ..interface import Region
from .carriers import Choice, Expectation, Outcomes, discrete_carrier, outcomes, resolved
from .constants import bool_outcomes
from .counted import by_ones
from .decisions import decided_by
from .expectations import expect
from .mixtures import MAX_VALUES, distribution


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
