"""What an index means to the shape of a result."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor


def geometry(table: Tensor, items: tuple[Any, ...], place: int) -> tuple[int, int]:
    """Size of the dimension that ``items[place]`` indexes, and the number of dimensions of the result behind the
    indexed block.
    """
    consumed = sum(0 if i is None or i is Ellipsis else i.dim() if _is_mask(i) else 1 for i in items)
    ellipsis = next((n for n, i in enumerate(items) if i is Ellipsis), None)
    rest = table.dim() - consumed
    expanded: list[Any] = []
    at = -1
    for n, item in enumerate(items):
        if n == place:
            at = len(expanded)
        expanded.extend([slice(None)] * rest if n == ellipsis else [item])
    if ellipsis is None:
        expanded.extend([slice(None)] * rest)
    dim = sum(0 if i is None else i.dim() if _is_mask(i) else 1 for i in expanded[:at])
    tensors = [n for n, i in enumerate(expanded) if isinstance(i, Tensor)]
    together = tensors == list(range(tensors[0], tensors[-1] + 1))
    behind = expanded[tensors[-1] + 1 :] if together else [i for n, i in enumerate(expanded) if n not in tensors]
    return table.shape[dim], sum(1 for i in behind if not isinstance(i, int))


def indexes(item: Any) -> bool:
    return isinstance(item, (int, slice, Tensor, type(None), type(Ellipsis)))


def _is_mask(item: Any) -> bool:
    return isinstance(item, Tensor) and item.dtype == torch.bool
