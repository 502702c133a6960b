"""Outcomes: both sides of each decision and a weight, blended where elements meet. One file per family of functions."""

from . import (  # noqa: F401 (they register)
    casts,
    choices,
    elementwise,
    lookups,
    orders,
    passed,
    reductions,
    scatters,
    selection_rules,
    selections,
    shape,
    sources,
    unlinearized,
    where,
    writes,
)
from .engine import ENGINE
from .registry import LEFT_ALONE, NO_GRADIENT_TO_LOSE, RULES, SOURCES
from .unlinearized import REMEDIES
from .writes_seen import settle_hooked

__all__ = ["ENGINE", "LEFT_ALONE", "NO_GRADIENT_TO_LOSE", "REMEDIES", "RULES", "SOURCES", "settle_hooked"]
