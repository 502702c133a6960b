"""``forward="hard"``: results know what they would be, were one open decision the other way."""

from .table import dispatch

__all__ = ["dispatch"]
