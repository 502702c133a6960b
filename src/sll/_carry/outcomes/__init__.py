"""Outcomes: both sides of each decision and a weight, blended where elements meet. One file per family of functions."""

from . import (  # noqa: F401 (they register)
    casts,
    choosing,
    elementwise,
    lookups,
    orders,
    passed,
    reductions,
    selection_rules,
    selections,
    shape,
    sources,
    where,
    writes,
)
from .engine import ENGINE
from .registry import RULES, fill
from .writes_seen import settle_hooked

fill()

__all__ = ["ENGINE", "RULES", "settle_hooked"]
