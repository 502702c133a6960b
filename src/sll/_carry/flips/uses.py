"""What flips use of the rest of the library, in one place."""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any

from torch import Tensor

from ..._ops.band import band_offset, hard_forward
from ..._ops.dtypes import compute_dtype, wide
from ..._ops.env import tracked, unwrapped
from ..._ops.order import capped_simplex
from ..._ops.samples import leads, pairs
from ..._ops.views import same_numbers
from ..._rules.index import ASKS, REMEDIES, op_name, spellings
from ..._rules.widths import half_width, in_units, watch_of
from ..outcomes import sources
from .primitives import take

__all__ = [
    "ASKS",
    "REMEDIES",
    "band_offset",
    "capped_simplex",
    "compute_dtype",
    "count_infinite",
    "half_width",
    "hard_forward",
    "in_units",
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
    for x in operands:
        if isinstance(x, Tensor) and not x.dim() and x.is_floating_point() and x.device.type == "cpu":
            x = float(x.detach())
        if isinstance(x, float) and not math.isfinite(x):
            layout, values = found
            difference = values - take(hard, layout.at)
            count = int((~difference.isfinite()).sum())
            region.count_infinite(op_name(func), count)
            return
