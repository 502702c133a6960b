"""``where``, ``masked_fill``, ``masked_scatter``: what a mask chooses."""

from __future__ import annotations

import functools
from typing import Any

import torch
from torch import Tensor

from ..._ops.band import hard_forward
from ..._ops.blend import blend, blend_by_mask
from ..._ops.dtypes import exact_dtype
from ..._ops.env import readable
from ..interface import Region, attach, unchanged
from ..rules import Call, of_condition, spelled
from .algebra import chain, marginal
from .carriers import Choice, Outcomes, carrier, known_constant
from .decisions import decided_at
from .elementwise import elementwise
from .expectations import expect, probability
from .later import kept
from .trees import count_infinite_jumps, decisions, join, original


@spelled
def masked_fill(region: Region, call: Call, input: Tensor, mask: Tensor, value: Any) -> Any:
    original(call.func, input.new_empty(()), mask.new_empty(()), value)  # raises if it must
    if not isinstance(value, Tensor):
        value = torch.full((), value, dtype=input.dtype, device=input.device)
    elif value.dtype != input.dtype:
        value = region.call(torch.Tensor.to, value, input.dtype)
    return _choose(region, mask, value, input)


def _choose(region: Region, mask: Tensor, above: Any, below: Any) -> Any:
    """``where(mask, above, below)``. Of floats that carry nothing, only how likely the mask is True matters, however
    many decisions that depends on.
    """
    plain = carrier(above) is None and carrier(below) is None
    floats = any(isinstance(x, float) or isinstance(x, Tensor) and x.is_floating_point() for x in (above, below))
    if plain and floats and isinstance(carrier(mask), Choice) and mask.dtype == torch.bool:
        mask = attach(region, mask.view_as(mask), marginal(mask))
    above, below = _but_zero(region, carrier(mask), above, below)
    left, found = _left_alone(region, mask, above, below), carrier(mask)
    if left is not None:
        return left
    operands = mask, above, below
    if not plain or not isinstance(found, Outcomes) or mask.dtype != torch.bool:
        return elementwise(region, torch.where, operands, {})
    if found.polarity:
        taken = mask if found.polarity > 0 else mask.logical_not()  # (which alone knows, at a tie of three values)
        low, high = (kept(below), kept(above))[:: found.polarity]
        out = blend_by_mask(found.decision.offset(), taken, low, high)
        hard = original(torch.where, *operands) if out is None else out
        tree = Outcomes(found.decision, _as_outcome(low, hard), _as_outcome(high, hard))
        return join(region, torch.where, operands, hard, tree) if out is None else attach(region, out, tree)
    out = _by_probability(region, mask, above, below) if floats and _of_outcomes(found) else None
    return (
        elementwise(region, torch.where, operands, {}) if out is None else chain(region, torch.where, operands, {}, out)
    )


where = of_condition(_choose)


def _but_zero(region: Region, found: Any, above: Any, below: Any) -> tuple[Any, Any]:
    """The branches. A count that is taken where it is not 0 is 1 at least, ``where(n == 0, 1, n)``, or -1 at most."""
    zero = found.decision.zero if isinstance(found, Outcomes) else None
    if zero is None or not found.polarity:
        return above, below
    taken = below if found.polarity > 0 else above
    if taken is not zero[0] or not unchanged(*zero) or (known := readable(expect(taken))) is None:
        return above, below
    bounds = (1, None) if (known >= 0).all() else (None, -1)
    if bounds[0] is None and (known > 0).any():
        return above, below
    counted = region.call(torch.clamp, taken, *bounds)
    return (above, counted) if found.polarity > 0 else (counted, below)


def _by_probability(region: Region, mask: Tensor, above: Any, below: Any) -> Tensor | None:
    offset, shown = probability(mask) - 0.5, _where_ties_are_hard(mask)
    out = blend_by_mask(offset, mask, below, above, shown=shown)
    if out is not None:
        return out
    hard = original(torch.where, mask, above, below)
    if hard.is_complex():
        return None
    low, high = _as_outcome(below, hard), _as_outcome(above, hard)
    count_infinite_jumps(region, torch.where, (above, below), Outcomes(decided_at(offset), low, high))
    out = blend(offset, low, high, hard)
    return out if shown is None else hard_forward(blend(shown, low, high, hard), out)


def _left_alone(region: Region, condition: Any, above: Any, below: Any) -> Tensor | None:
    """What is chosen everywhere, where the condition is an outcome that is known. A copy (autograd may keep it, and the
    program may write to the tensor) that stands for it: the same question about either is the same decision.
    """
    known = known_constant(condition)
    if known is None:
        return None
    taken, other = (above, below) if known else (below, above)
    if not isinstance(taken, Tensor) or taken.dim() < condition.dim():
        return None
    if isinstance(other, Tensor):
        same = other.dtype == taken.dtype and other.shape == taken.shape
    elif isinstance(other, bool):
        same = True
    else:
        same = taken.is_floating_point() or isinstance(other, int) and taken.dtype != torch.bool
    if not same or isinstance(other, complex):
        return None
    return kept(taken)  # type: ignore[no-any-return]


def _where_ties_are_hard(mask: Tensor) -> Tensor | None:
    """The offset at which each decision that ties is on the side it takes; None if none does.

    That is what is shown. The gradient is the ramp's all the same.
    """
    tied = functools.reduce(torch.logical_or, [decision.offset() == 0 for decision in decisions(mask)])
    known = readable(tied) if tied.device.type == "cpu" else None
    if known is not None and not bool(known.any()):
        return None
    return expect(mask).detach() - 0.5


def _of_outcomes(tree: Outcomes) -> bool:
    """Whether nothing but decisions is in the tree."""
    for side in (tree.below, tree.above):
        found = carrier(side)
        if found is not None and not (isinstance(found, Outcomes) and _of_outcomes(found)):
            return False
    return True


def _as_outcome(x: Any, like: Tensor) -> Tensor:
    """In as many dimensions as the result has."""
    outcome = torch.as_tensor(x, dtype=like.dtype, device=like.device)
    more = like.dim() - outcome.dim()
    return outcome.reshape((1,) * more + tuple(outcome.shape)) if more else outcome


@spelled
def masked_scatter(region: Region, call: Call, input: Tensor, mask: Tensor, source: Tensor) -> Any:
    """Element ``i`` of the source goes to the ``i``-th True element of the mask.

    The position is a count of decisions, so it is a lookup in the source at the expected position, interpolated between
    neighbours: a mask element that flips shifts everything behind it.
    """
    if carrier(mask) is None:
        return call()
    if source.numel() == 0:
        region.lose("masked_scatter", [mask], "the source has no element for it. Use torch.where(mask, a, b).")
        return call()
    hard = original(call)
    if not hard.is_floating_point():
        region.lose(
            "masked_scatter",
            [mask],
            "only a float source has a derivative here. Scatter floats, and convert afterwards.",
        )
        return hard
    flat = source.reshape(-1)
    last = flat.numel() - 1
    flags = mask.expand(hard.shape).reshape(-1)
    share = expect(mask).expand(hard.shape).reshape(-1)
    position = (share.cumsum(0, dtype=exact_dtype(mask)) - share).clamp(0, last)
    first = position.detach().floor()
    near, far = flat[first.long()], flat[(first + 1).clamp(max=last).long()]
    shown = flat[(flags.cumsum(0) - flags.long()).clamp(0, last)]
    taken = blend((position - first - 0.5).to(share.dtype), near, far, shown)
    return region.call(torch.where, mask, taken.reshape(hard.shape), input)
