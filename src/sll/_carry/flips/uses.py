"""What flips use of the rest of the library, in one place."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from torch import Tensor

from ..._ops.band import hard_forward
from ..._ops.dtypes import compute_dtype, wide
from ..._ops.env import infinite, tracked, unwrapped
from ..._ops.order import capped_simplex
from ..._ops.samples import around, at_each, lead, leads, pairs
from ..._ops.views import same_numbers
from ..._rules.index import ASKS, REMEDIES, op_name, spellings
from ..._rules.widths import half_width, in_units, watch_of
from ..outcomes import sources
from ..outcomes.boundaries import from_one
from ..outcomes.selections import COUNTS
from .primitives import take

__all__ = [
    "ASKS",
    "COUNTS",
    "REMEDIES",
    "around",
    "at_each",
    "capped_simplex",
    "compute_dtype",
    "count_infinite",
    "from_one",
    "half_width",
    "hard_forward",
    "in_units",
    "lead",
    "leads",
    "op_name",
    "pairs",
    "same_numbers",
    "sources",
    "spellings",
    "tracked",
    "unwrapped",
    "watch_of",
    "wide",
]


def count_infinite(region: Any, func: Callable[..., Any], operands: tuple[Any, ...], hard: Tensor, found: Any) -> None:
    """Count flips whose difference is infinite, where a number says that it may be."""
    if any(map(infinite, operands)):
        layout, values = found
        difference = unwrapped(values - take(hard, layout.at))
        region.count_infinite(op_name(func), int((~difference.isfinite()).sum()))
