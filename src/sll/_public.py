"""The public names, which `sll` gives when it is first asked for one: they need torch."""

import sll.plot as plot

from ._ops.callsite import CallSite, LostGradientError, LostGradientWarning
from ._reports.report import Report
from ._reports.rows import EpsUsed, Row
from ._rules.index import SOURCES as _SOURCES
from .auto import Auto
from .checking import Check, Compared, check
from .decorators import enable, patch, unpatch
from .functional import argmax, argmin, ceil, floor, heaviside, rank, round, sign, threshold, topk_mask, trunc
from .policies import Anneal, Call, Coverage, Policy
from .region import hard, linearize
from .tools.explanation import Explanation, InputGradient, explain

OPS: tuple[str, ...] = tuple(sorted(_SOURCES))
"""Names of the ops a region linearizes: what ``eps={...}``, ``only=`` and ``exclude=`` accept."""

__all__ = [
    "OPS",
    "Anneal",
    "Auto",
    "Call",
    "CallSite",
    "Check",
    "Compared",
    "Coverage",
    "EpsUsed",
    "Explanation",
    "InputGradient",
    "LostGradientError",
    "LostGradientWarning",
    "Policy",
    "Report",
    "Row",
    "argmax",
    "argmin",
    "ceil",
    "check",
    "enable",
    "explain",
    "floor",
    "hard",
    "heaviside",
    "linearize",
    "patch",
    "plot",
    "rank",
    "round",
    "sign",
    "threshold",
    "topk_mask",
    "trunc",
    "unpatch",
]
