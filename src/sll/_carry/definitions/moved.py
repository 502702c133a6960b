"""Elements that move in several steps: grids, pairs, blocks, writes at flat positions, and tensors made of lists."""

from __future__ import annotations

import functools
import itertools
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor

from ..interface import tensors
from .rule import Original, defined


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


@defined("broadcast_tensors", whole=True)
def broadcast(original: Original, *tensors: Any) -> Any:
    parts = _given(tensors)
    shape = torch.broadcast_shapes(*(x.shape for x in parts))  # type: ignore[no-untyped-call]
    return tuple(x.expand(shape) for x in parts)


@defined("unravel_index", whole=True)
def unravelled(original: Original, indices: Tensor, shape: Any) -> Any:
    found = []
    for size in reversed((shape,) if isinstance(shape, int) else tuple(shape)):
        found.append(indices % size)
        indices = indices.div(size, rounding_mode="floor")
    return tuple(reversed(found))


@defined("count_nonzero", whole=True)
def counted(original: Original, input: Tensor, dim: Any = None) -> Tensor:
    flags = input if input.dtype == torch.bool else input != 0
    return flags.sum() if dim is None else flags.sum(dim)


# --- tensors of decisions, and of lists of them ---


@defined("as_tensor", "asarray", whole=True)
def shared(original: Original, data: Any = None, **kwargs: Any) -> Any:
    return _collected(original(), data, kwargs, copied=False)


@defined("tensor", whole=True)
def copied(original: Original, data: Any, **kwargs: Any) -> Any:
    return _collected(original(), data, kwargs)


@defined("new_tensor", whole=True)
def alike(original: Original, input: Tensor, data: Any, **kwargs: Any) -> Any:
    return _collected(original(), data, kwargs)


def _collected(out: Any, data: Any, kwargs: dict[str, Any], copied: bool = True) -> Any:
    """Floats are cut, as by torch."""
    data = kwargs.get("obj", data)
    held = any(getattr(x, "_sll", None) is not None for x in tensors(data))
    if kwargs.get("requires_grad") or not isinstance(out, Tensor) or not held:
        return out
    if isinstance(data, Tensor):
        if data.is_floating_point():
            return out
        return (data.clone() if copied else data).to(out)
    return _built(data, out)


def _built(data: Any, like: Tensor) -> Tensor:
    if isinstance(data, (list, tuple)):
        return torch.stack([_built(x, like) for x in data])
    x = data if isinstance(data, Tensor) else torch.tensor(data, dtype=like.dtype)
    return (x.detach() if x.is_floating_point() else x).to(device=like.device, dtype=like.dtype)
