"""Static Local Linearization: discrete PyTorch programs with derivatives, unedited.

with sll.linearize(eps=1e-2):
    loss = program(x)  # sign, round, x > 0, integer lookups … all have a derivative here
    loss.backward()
"""

from . import plot
from .explanation import Explanation, InputGradient, explain
from .functional import argmax, argmin, ceil, floor, heaviside, rank, round, sign, threshold, topk_mask, trunc
from .policy import Anneal, Call, Coverage, Policy
from .region import enable, hard, linearize, patch, unpatch
from .report import CallSite, EpsUsed, LostGradientError, LostGradientWarning, Report, Row
from .rules import SOURCES as _SOURCES

OPS: tuple[str, ...] = tuple(sorted(_SOURCES))
"""Names of the ops a region linearizes: what ``eps={...}``, ``only=`` and ``exclude=`` accept."""

__version__ = "1.0.0.dev0"

__all__ = [
    "OPS",
    "Anneal",
    "Call",
    "CallSite",
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
