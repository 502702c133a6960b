"""Functions that are others in a row: what those carry, they carry."""

from __future__ import annotations

import functools
import itertools
from typing import Any

import torch
from torch import Tensor

from .interface import Func, Region, Rule

__all__ = ["COMPOSED"]


def _given(args: tuple[Any, ...]) -> list[Tensor]:
    """Tensors that are given one by one, or as a list."""
    return list(args[0]) if len(args) == 1 and isinstance(args[0], (list, tuple)) else list(args)


def meshgrid(region: Region, *tensors: Any, indexing: str | None = None) -> Any:
    parts = _given(tensors)
    order = [1, 0, *range(2, len(parts))] if indexing == "xy" and len(parts) > 1 else list(range(len(parts)))
    shape = [parts[i].numel() for i in order]
    found = []
    for x, at in zip(parts, (order.index(i) for i in range(len(parts)))):
        row = region.call(torch.Tensor.reshape, x, [x.numel() if d == at else 1 for d in range(len(parts))])
        found.append(region.call(torch.Tensor.expand, row, shape))
    return tuple(found)


def cartesian_prod(region: Region, *tensors: Any) -> Any:
    parts = _given(tensors)
    if len(parts) == 1:
        return parts[0]
    grids = [region.call(torch.Tensor.reshape, x, (-1,)) for x in meshgrid(region, *parts, indexing="ij")]
    return region.call(torch.stack, grids, 1)


def combinations(region: Region, input: Tensor, r: int = 2, with_replacement: bool = False) -> Any:
    chosen = itertools.combinations_with_replacement if with_replacement else itertools.combinations
    places = torch.tensor(list(chosen(range(input.numel()), r)), dtype=torch.int64, device=input.device)
    return region.call(torch.Tensor.__getitem__, input, places.reshape(-1, r))


def block_diag(region: Region, *tensors: Any) -> Any:
    parts = [x if x.dim() == 2 else region.call(torch.Tensor.reshape, x, (1, -1)) for x in _given(tensors)]
    wide, left, rows = sum(x.shape[1] for x in parts), 0, []
    for x in parts:
        rows.append(region.call(torch.nn.functional.pad, x, (left, wide - left - x.shape[1])))
        left += x.shape[1]
    dtype = functools.reduce(torch.promote_types, [x.dtype for x in parts])
    return region.call(torch.cat, [region.call(torch.Tensor.to, x, dtype) for x in rows])


def fill_diagonal_(region: Region, input: Tensor, fill_value: Any, wrap: bool = False) -> Any:
    mask = torch.zeros_like(input, dtype=torch.bool).fill_diagonal_(True, wrap)
    return region.call(torch.Tensor.masked_fill_, input, mask, fill_value)


def put(region: Region, input: Tensor, index: Tensor, source: Tensor, accumulate: bool = False) -> Any:
    flat = region.call(torch.Tensor.reshape, input, (-1,))
    places, values = (region.call(torch.Tensor.reshape, x, (-1,)) for x in (index, source))
    found = region.call(torch.index_put, flat, (places,), values, accumulate)
    return region.call(torch.Tensor.reshape, found, input.shape)


def broadcast_tensors(region: Region, *tensors: Any) -> Any:
    parts = _given(tensors)
    shape = torch.broadcast_shapes(*(x.shape for x in parts))  # type: ignore[no-untyped-call]
    return tuple(region.call(torch.Tensor.expand, x, shape) for x in parts)


def count_nonzero(region: Region, input: Tensor, dim: Any = None) -> Any:
    flags = input if input.dtype == torch.bool else region.call(torch.ne, input, 0)
    return region.call(torch.sum, flags) if dim is None else region.call(torch.sum, flags, dim)


def unravel_index(region: Region, indices: Tensor, shape: Any) -> Any:
    found, rest = [], indices
    for size in reversed([shape] if isinstance(shape, int) else list(shape)):
        found.append(region.call(torch.remainder, rest, size))
        rest = region.call(torch.div, rest, size, rounding_mode="floor")
    return tuple(reversed(found))


def _rule(composed: Any) -> Rule:
    def rule(region: Region, func: Func, args: tuple[Any, ...], kwargs: dict[str, Any]) -> Any:
        return composed(region, *args, **kwargs)

    return rule


COMPOSED: dict[str, Rule] = {
    each.__name__: _rule(each)
    for each in (
        meshgrid,
        cartesian_prod,
        combinations,
        block_diag,
        fill_diagonal_,
        put,
        broadcast_tensors,
        count_nonzero,
        unravel_index,
    )
}
