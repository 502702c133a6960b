"""Discrete functions of torch that are functions of others: each is written down once, for every engine."""

from . import counting, indexed, layouts, moved, quantizing, sampling, windows
from .rule import rules

__all__ = ["counting", "indexed", "layouts", "moved", "quantizing", "rules", "sampling", "windows"]
