"""Numbers that lie exactly at a boundary because something cut them off there: `relu`, `clamp`, sparse softmaxes."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from .._ops.env import free_to_read
from .interface import Region

__all__ = ["TIED", "count_ties"]

TIED = ("gt", "ge", "lt", "le", "sign")


def count_ties(region: Region, op: str, x: Any, other: Any = 0.0, *_: Any) -> int:
    """Counts them, for the report. The program has one side of the boundary only, and the band two: half of the jump is
    missed. (What was not computed is a coincidence.)
    """
    many = 0
    operands = [a for a in (x, other) if isinstance(a, Tensor)]
    if all(map(free_to_read, operands)) and any(a.grad_fn is not None for a in operands):
        a, b = (y.detach() if isinstance(y, Tensor) else y for y in (x, other))
        many = int(torch.count_nonzero(a == b))
        if many:
            region.approximate(op, many, "ties")
    return many
