"""Results that are known to be one step of a decision's site."""

from __future__ import annotations

from typing import Any

from torch import Tensor

from ..._ops.ramp import Jump
from .carriers import Chain, Outcomes, carrier
from .decisions import Decision, unchanged


def step_of(x: Any) -> tuple[Decision, Jump] | None:
    """Which step at the site of which decision `x` is known to be."""
    pair = getattr(x, "_sll", None) if isinstance(x, Tensor) else None
    if pair is None or not isinstance(pair[0], Chain) or not unchanged(x, pair[1]):
        return None
    return pair[0].step


def step_of_mask(x: Any) -> tuple[Decision, Jump] | None:
    """Which step of zero and one a mask is known to be."""
    found = carrier(x)
    if not isinstance(found, Outcomes) or found.jump is None or found.decision.site is None:
        return None
    return found.decision, found.jump


def in_one_pass(x: Tensor, step: tuple[Decision, Jump] | None, hard: Tensor | None = None) -> Tensor | None:
    """The float that `x`, a mask or integers known to be this step, becomes; None where it takes more than one pass.
    (`hard`: see `ramp`.)
    """
    if step is None or step[0].site is None:
        return None
    value = step[0].site.ramp(step[1], later=True, hard=hard)
    return value if value is not None and value.shape == x.shape else None
