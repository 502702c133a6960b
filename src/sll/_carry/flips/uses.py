"""What flips use of the rest of the library, in one place."""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any

from torch import Tensor

from ...kernels import band_offset, compute_dtype, hard_forward
from ...order import capped_simplex
from ...policy import half_width, in_units, leads, pairs, watch_of
from ...report import call_site, unwrapped
from ...rules import sources
from ...rules.registry import NO_GRADIENT_TO_LOSE, op_name, spellings, tracked
from ...rules.unlinearized import REMEDIES
from ...sites import wide
from .primitives import take

__all__ = [
    "NO_GRADIENT_TO_LOSE",
    "REMEDIES",
    "band_offset",
    "call_site",
    "capped_simplex",
    "compute_dtype",
    "count_infinite",
    "half_width",
    "hard_forward",
    "in_units",
    "leads",
    "op_name",
    "pairs",
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
            if count:
                region._infinite[call_site(op_name(func))] += count
            return
