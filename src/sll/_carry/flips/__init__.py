"""Flips: ``forward="hard"``. Results know what they would be, were one open decision the other way."""

from .engine import ENGINE

__all__ = ["ENGINE"]
