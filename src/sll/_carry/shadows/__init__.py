"""Shadows: local gradients. One file per family of functions."""

from .engine import ENGINE

__all__ = ["ENGINE"]
