"""The rules: one file per family of torch functions, all in the registry."""

from . import choices, elementwise, lookups, reductions, scatters, selections, shape, sources, unlinearized, writes  # noqa: F401 (they register)
from .registry import LEFT_ALONE, NO_GRADIENT_TO_LOSE, RULES, SOURCES
from .unlinearized import REMEDIES

__all__ = ["LEFT_ALONE", "NO_GRADIENT_TO_LOSE", "REMEDIES", "RULES", "SOURCES"]
