"""Whether integers change by one when one decision falls on its other side."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from ..._ops.env import compiling, readable
from .carriers import Choice, Expectation, Outcomes, resolved


def by_ones(x: Any) -> bool:
    """Whether the integers `x` change by one at most when one decision falls on its other side."""
    if not isinstance(x, Tensor) or x.dtype == torch.bool or compiling():
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
    if compiling():
        return True
    known = readable(x)
    return known is None or bool((known.abs() <= 1).all())


def of_one_order(found: Choice) -> bool:
    """Whether its elements are places or ranks in an order: not independent, for no two stand at the same one."""

    def ordered(key: tuple[Any, ...]) -> bool:
        return any(
            x in ("places", "positions") if isinstance(x, str) else isinstance(x, tuple) and ordered(x) for x in key
        )

    return ordered(found.key)


OF_WEIGHTED = (
    "which values a sum of weighted decisions can take is not known. Fold the table bit by bit, table = "
    "torch.where(bit, table[1::2], table[::2]), or compare the bits."
)
"""Why a sum that changes by more than one ends where a count would go on."""
