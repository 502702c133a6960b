"""What is counted for the report: numbers that lie exactly at a boundary because something cut them off there (`relu`,
`clamp`, sparse softmaxes), and integers that wrapped around.
"""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor
from torch.utils._pytree import tree_map

from .._ops.dtypes import NARROW
from .._ops.env import free_to_read
from .interface import Func, Region

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


def told_of_wraps(region: Region, func: Func, args: tuple[Any, ...], kwargs: dict[str, Any], out: Tensor) -> None:
    """``masks.sum(dtype=torch.int8)``: what is followed is the sum, and `out` are its last bits."""
    if out.dtype in NARROW and free_to_read(out):
        kwargs = {name: torch.int64 if x is out.dtype else x for name, x in kwargs.items()}
        whole = func(*tree_map(_whole, args), **tree_map(_whole, kwargs))
        if many := int(torch.count_nonzero(whole != out)):
            region.approximate(func.__name__, many, "wraps")


def _whole(x: Any) -> Any:
    return x.detach().long() if isinstance(x, Tensor) else x
