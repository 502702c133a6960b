"""``forward="hard"``: results know what they would be, were one open decision the other way."""

from typing import Any

from torch import Tensor

from .entries import flips_of
from .every import ragged
from .table import dispatch

__all__ = ["carries", "dispatch"]


def carries(x: Any) -> bool:
    """Whether a bool or integer result depends on decisions."""
    return isinstance(x, Tensor) and bool(ragged(x) or (flips_of(x) and not x.is_floating_point()))
