"""Static Local Linearization: discrete PyTorch programs with derivatives, unedited.

with sll.linearize(eps=1e-2):
    loss = program(x)  # sign, round, x > 0, integer lookups … all have a derivative here
    loss.backward()
"""

from .functional import argmax, argmin, ceil, floor, heaviside, rank, round, sign, threshold, topk_mask, trunc
from .policy import Anneal, Call, Coverage, Policy
from .region import Report, enable, hard, linearize, patch, unpatch
from .report import CallSite, EpsUsed, LostGradientError, LostGradientWarning
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
    "LostGradientError",
    "LostGradientWarning",
    "Policy",
    "Report",
    "argmax",
    "argmin",
    "ceil",
    "enable",
    "floor",
    "hard",
    "heaviside",
    "linearize",
    "patch",
    "rank",
    "round",
    "sign",
    "threshold",
    "topk_mask",
    "trunc",
    "unpatch",
]
