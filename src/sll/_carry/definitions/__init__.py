"""Discrete functions of torch that are functions of others: each is written down once, for every engine."""

from . import counting, indexed, quantizing, sampling, windows
from .rule import rules

__all__ = ["counting", "indexed", "quantizing", "rules", "sampling", "windows"]
