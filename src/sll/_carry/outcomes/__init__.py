"""Outcomes: both sides of each decision and a weight, blended where elements meet. One file per family of functions."""

from .engine import ENGINE
from .registry import RULES

__all__ = ["ENGINE", "RULES"]
