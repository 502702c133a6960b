"""Discrete functions of torch that are functions of others: each is written down once, for every engine."""

from . import quantizing, windows
from .rule import rules

__all__ = ["quantizing", "rules", "windows"]
