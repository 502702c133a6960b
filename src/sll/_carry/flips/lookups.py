"""Lookups at an index that carries flips: in each flip, other rows."""

from __future__ import annotations

import math
from typing import Any

import torch
from torch import Tensor

from ..interface import Func, tensors
from .calls import carriers
from .entries import batched, carry, flips_of
from .every import MAX_ELEMENTS, flip_by_flip
from .mapped import mapped
from .moving import in_order, move


def getitem(region: Any, func: Func, args: tuple[Any, ...], kwargs: dict[str, Any]) -> Any:
    table, index = args
    if isinstance(index, tuple) and len(index) == 1:
        index = index[0]
    if isinstance(index, Tensor) and flips_of(index) is not None and index.dtype not in (torch.bool, torch.uint8):
        out = _rows(region, func, args, kwargs, table, index)
    elif carriers(index):
        out = flip_by_flip(region, func, args, kwargs)
    else:
        return move(region, func, args, kwargs)
    if any(x.dim() or x.dtype == torch.bool for x in tensors(index)):
        return out
    return region.call(torch.clone, out)  # (at numbers it is a view, of another place in each flip)


def lookup(*names: str) -> Any:
    """A function whose first arguments are called `names`: a table and an index, which looks rows up."""

    def rule(region: Any, func: Func, args: tuple[Any, ...], kwargs: dict[str, Any]) -> Any:
        named = dict(zip(names, args), **kwargs)
        table, index = named.get("table"), named.get("index")
        as_it_was = named.get("max_norm") is None and named.get("dim", 0) == 0
        if not isinstance(table, Tensor) or not isinstance(index, Tensor) or not as_it_was:
            return flip_by_flip(region, func, args, kwargs)
        return _rows(region, func, args, kwargs, table, index)

    return rule


def one_hot(region: Any, func: Func, args: tuple[Any, ...], kwargs: dict[str, Any]) -> Any:
    named = dict(zip(("index", "many"), args), **kwargs)
    many = named.get("many", named.get("num_classes", -1))
    if "index" not in named or many < 0:
        return flip_by_flip(region, func, args, kwargs)
    return _rows(region, func, args, kwargs, torch.eye(many, dtype=torch.int64, device=args[0].device), args[0])


def _rows(region: Any, func: Func, args: Any, kwargs: Any, table: Tensor, index: Tensor) -> Any:
    """``table[index]``"""
    found = flips_of(index)
    if found is None or flips_of(table) is not None or not table.dim() or not table.numel():
        return flip_by_flip(region, func, args, kwargs)
    size = math.prod(table.shape[1:])
    if batched(found.values) or batched(found.layout.at) or found.layout.size * size > MAX_ELEMENTS:
        return flip_by_flip(region, func, args, kwargs)  # (under vmap entries may repeat each other)
    hard, many = func(*args, **kwargs), table.shape[0]
    column = torch.arange(size, device=table.device).reshape(table.shape[1:])
    row = in_order(region, torch.Tensor.reshape, (index, (*index.shape, *([1] * column.dim()))), {})

    def look(row: Tensor, column: Any, shown: Tensor) -> Tensor:
        row = row.long()
        beyond = (row < -many) | (row >= many)  # (the program would fail there)
        there = torch.take(table.detach(), torch.where(beyond, 0, row % many) * size + column)
        return torch.where(beyond, shown, there)

    entries = mapped(look, (row, column, hard.detach()), {}, hard.shape, hard.dtype)
    return carry(region, hard, *entries)  # type: ignore[misc]
