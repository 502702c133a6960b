"""The real-valued expectation of what carries something, which elements are undecided, which integers go by ones."""

from __future__ import annotations

import functools
from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor

from ..._ops.band import hard_forward
from ..._ops.blend import blend, blend_by_mask
from ..._ops.dtypes import compute_dtype, exact_dtype
from ..._ops.env import readable
from ..._ops.fused import pick
from .carriers import Choice, Expectation, Outcomes, carrier, in_one_pass, outcomes, resolved, step_of
from .decisions import Decision


def expect(x: Tensor, ties: bool = False) -> Tensor:
    """Expected value of a bool or integer tensor, differentiable; in the dtype of the weights for bool, float64 for
    integers. At an exact tie it is what `x` shows, or with `ties` halfway, which is the probability of a bool.
    """
    found, boolean = resolved(x), x.dtype == torch.bool
    if isinstance(found, Expectation):
        return found.value
    if isinstance(found, Choice):
        values = found.values.to(found.weights.dtype if boolean else exact_dtype(x))
        return (values * (found.weights if ties else shown_weights(found, x)).to(values.dtype)).sum(-1)
    if not isinstance(found, Outcomes):
        return x.to(torch.float32 if boolean else exact_dtype(x))
    step = step_of(x) if boolean else None
    at_once = in_one_pass(x, (step[0], step[1]._replace(at_tie=0.5)) if ties and step is not None else step)
    if at_once is not None:
        return at_once
    offset, below, above = found.decision.offset(), expect(found.below, ties), expect(found.above, ties)
    if ties or found.decision.side is not None:
        at_once = blend_by_mask(offset, found.decision.taken(), below, above, ties=ties, finite=True)
        if at_once is not None:
            return at_once
    if ties:
        return below * (0.5 - offset) + above * (0.5 + offset)
    dtypes = (offset.dtype, below.dtype, above.dtype)
    hard = x.to(compute_dtype(*dtypes)) if boolean else x.to(exact_dtype(x))
    return blend(offset, below, above, selected_side(found, below, above, hard))


def probability(x: Tensor) -> Tensor:
    """Expected value of a bool; 1/2 at an exact tie, whatever `x` shows there."""
    return expect(x, ties=True)


def _has_expectation(x: Any) -> bool:
    found = None if not isinstance(x, Tensor) or x.is_floating_point() else carrier(x)
    if isinstance(found, Outcomes):
        return _has_expectation(found.below) or _has_expectation(found.above)
    return isinstance(found, Expectation)


def _any_of(masks: Sequence[Tensor | None]) -> Tensor | None:
    known = [mask for mask in masks if mask is not None]
    return functools.reduce(torch.logical_or, known) if known else None


def selected_side(
    tree: Outcomes,
    below: Tensor,
    above: Tensor,
    hard: Tensor,
    counts: tuple[Tensor | None, Tensor | None] = (None, None),
) -> Tensor:
    """What is shown outside the band of the outermost decision: `hard`, unless the outcome there has undecided
    decisions of its own (or is computed from such, `counts`).
    """
    inner = [_any_of((undecided(side), of)) for side, of in zip((tree.below, tree.above), counts)]
    if inner[0] is None and inner[1] is None:
        return hard
    never = torch.zeros((), dtype=torch.bool, device=hard.device)
    low, high = (never if mask is None else mask for mask in inner)
    side = _likelier(tree.decision)
    depends = pick(side, high, low)
    if tree.decision.side is None:  # three values at a boundary, perhaps: only `hard` knows what is at a tie
        depends = (tree.decision.offset() != 0) & depends
    other = pick(side, above.detach().to(hard.dtype), below.detach().to(hard.dtype))
    return pick(depends, other, hard.detach())


def _likelier(decision: Decision) -> Tensor:
    """Mask of the elements that are rather above; at an exact tie, if the decision knows, what the program takes."""
    offset = decision.offset()
    return offset > 0 if decision.side is None else pick(offset == 0, decision.taken(), offset > 0)


def undecided(x: Tensor) -> Tensor | None:
    """Mask of the elements whose value depends on a decision in its band; None if `x` carries nothing."""
    found = carrier(x)
    if isinstance(found, Expectation):
        return uncertain(found, x)
    if isinstance(found, Choice):
        return ~found.decided()
    tree = outcomes(x)
    if tree is None:
        return None
    offset = tree.decision.offset()
    mask = offset.abs() < 0.5
    for side, inner in ((offset <= 0, undecided(tree.below)), (offset > 0, undecided(tree.above))):
        if inner is not None:
            mask = mask | (side & inner)
    return mask


def uncertain(found: Expectation, x: Tensor) -> Tensor:
    """Mask of the elements whose expectation is not the integer that is shown, rounding of a long sum aside."""
    return (found.value.detach() - x).abs() > 1e-6 * x.abs().clamp(min=1)


def shown_weights(found: Choice, x: Tensor) -> Tensor:
    """The weights of a choice; at an exact tie the value that `x` shows has all the weight (and the ramp's slope)."""
    weights = found.weights
    shown = (found.values == x.unsqueeze(-1)).to(weights.dtype)
    shown = shown / shown.sum(-1, keepdim=True).clamp(min=1)
    weights, shown = torch.broadcast_tensors(weights, shown)  # type: ignore[no-untyped-call]
    return hard_forward(torch.where(found.ties, shown, weights), weights)


# --- integers that change by one ---------------------------------------------------------------------------------


def by_ones(x: Any) -> bool:
    """Whether the integers `x` change by one at most when one decision falls on its other side."""
    if not isinstance(x, Tensor) or x.dtype == torch.bool:
        return True
    found = resolved(x)
    if isinstance(found, Expectation):
        return found.by_ones
    if isinstance(found, Choice):  # labels of documents that change places: one more or one less is among the first
        values = torch.where(found.weights.detach() > 0, found.values, x.detach().unsqueeze(-1))
        return _at_most_one(values.amax(-1) - values.amin(-1))
    if not isinstance(found, Outcomes):
        return found is None
    return _at_most_one(found.above - found.below) and by_ones(found.below) and by_ones(found.above)


def one_apart(values: Tensor) -> bool:
    """Whether numbers, one of which is taken, are one apart at most: the zeros and ones of labels."""
    return _at_most_one(values.detach() - values.detach().amin()) if values.numel() else True


def _at_most_one(x: Tensor) -> bool:
    """True where there is no number to read."""
    known = readable(x)
    return known is None or bool((known.abs() <= 1).all())


def order_in(key: Any) -> Any:
    """Of the key of a choice whose elements are places or ranks in an order, what says which; None of others. Elements
    of one order are not independent: no two stand at the same place.
    """
    if not isinstance(key, tuple):
        return None
    if key[:1] in (("places",), ("positions",)):
        return key[1:5]
    return next((found for part in key if (found := order_in(part)) is not None), None)


OF_WEIGHTED = (
    "which values a sum of weighted decisions can take is not known. Fold the table bit by bit, table = "
    "torch.where(bit, table[1::2], table[::2]), or compare the bits."
)
"""Why a sum that changes by more than one ends where a count would go on."""
