"""Elements that move in several steps: grids, pairs, blocks, and writes at flat positions."""

from __future__ import annotations

import functools
import itertools
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor

from .rule import Original, defined

__all__: list[str] = []


def _given(tensors: tuple[Any, ...]) -> list[Tensor]:
    """Tensors that are given one by one, or as a list."""
    return list(tensors[0]) if len(tensors) == 1 and isinstance(tensors[0], (list, tuple)) else list(tensors)


@defined("meshgrid", whole=True)
def grids(original: Original, *tensors: Any, indexing: str | None = None) -> Any:
    parts = _given(tensors)
    order = [1, 0, *range(2, len(parts))] if indexing == "xy" and len(parts) > 1 else list(range(len(parts)))
    shape = [parts[i].numel() for i in order]
    return tuple(
        x.reshape([-1 if d == order.index(i) else 1 for d in range(len(parts))]).expand(shape)
        for i, x in enumerate(parts)
    )


@defined("cartesian_prod", whole=True)
def every_choice(original: Original, *tensors: Any) -> Any:
    parts = _given(tensors)
    if len(parts) == 1:
        return parts[0]
    return torch.stack([x.reshape(-1) for x in grids(original, *parts, indexing="ij")], 1)


@defined("combinations", whole=True)
def subsets(original: Original, input: Tensor, r: int = 2, with_replacement: bool = False) -> Tensor:
    chosen = itertools.combinations_with_replacement if with_replacement else itertools.combinations
    places = torch.tensor(list(chosen(range(input.numel()), r)), dtype=torch.int64, device=input.device)
    return input[places.reshape(-1, r)]


@defined("block_diag", whole=True)
def blocks(original: Original, *tensors: Any) -> Tensor:
    parts = [x if x.dim() == 2 else x.reshape(1, -1) for x in _given(tensors)]
    dtype = functools.reduce(torch.promote_types, [x.dtype for x in parts])
    ends = list(itertools.accumulate(x.shape[1] for x in parts))
    rows = [F.pad(x, (end - x.shape[1], ends[-1] - end)) for x, end in zip(parts, ends)]
    return torch.cat([x.to(dtype) for x in rows])


@defined("fill_diagonal_", whole=True)
def fill_diagonal(original: Original, input: Tensor, fill_value: Any, wrap: bool = False) -> Tensor:
    mask = torch.zeros_like(input, dtype=torch.bool).fill_diagonal_(True, wrap)
    return input.masked_fill_(mask, fill_value)


@defined("put", whole=True)
def put(original: Original, input: Tensor, index: Tensor, source: Tensor, accumulate: bool = False) -> Tensor:
    flat = torch.index_put(input.reshape(-1), (index.reshape(-1),), source.reshape(-1), accumulate)
    return flat.reshape(input.shape)
