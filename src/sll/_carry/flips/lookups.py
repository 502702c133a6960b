"""Lookups at an index that carries flips: in each flip, other rows."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from .entries import carry, flips_of, spread
from .every import MAX_ELEMENTS, flip_by_flip
from .identity import batched
from .mapped import Func
from .moving import carriers, move
from .uses import op_name

__all__ = ["getitem", "lookup", "one_hot"]


def getitem(region: Any, func: Func, args: tuple[Any, ...], kwargs: dict[str, Any]) -> Any:
    table, index = args
    if isinstance(index, tuple) and len(index) == 1:
        index = index[0]
    if isinstance(index, Tensor) and flips_of(index) is not None and index.dtype not in (torch.bool, torch.uint8):
        return _rows(region, func, args, kwargs, table, index)
    return (flip_by_flip if carriers(args[1], {}) else move)(region, func, args, kwargs)


def lookup(*names: str) -> Any:
    """A function whose first arguments are called `names`: a table and an index, which looks rows up."""

    def rule(region: Any, func: Func, args: tuple[Any, ...], kwargs: dict[str, Any]) -> Any:
        named = dict(zip(names, args), **kwargs)
        table, index = named.get("table"), named.get("index")
        as_it_was = named.get("max_norm") is None and named.get("dim", 0) == 0
        if not isinstance(table, Tensor) or not isinstance(index, Tensor) or not as_it_was:
            return flip_by_flip(region, func, args, kwargs)
        return _rows(region, func, args, kwargs, table.reshape(-1) if op_name(func) == "take" else table, index)

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
    if found is None or flips_of(table) is not None or not table.dim() or not table.shape[0]:
        return flip_by_flip(region, func, args, kwargs)
    if batched(found.values) or batched(found.layout.at):  # (there entries may repeat each other)
        return flip_by_flip(region, func, args, kwargs)
    hard = func(*args, **kwargs)
    if not hard.numel():
        return hard
    size = hard.numel() // index.numel()
    if found.layout.size * size > MAX_ELEMENTS:
        return flip_by_flip(region, func, args, kwargs)
    many = table.shape[0]
    beyond = (found.values < -many) | (found.values >= many)  # (the program would fail there)
    rows = table.detach()[found.values.masked_fill(beyond, 0).long()]
    if size == 1:
        layout, values = found.layout, rows.reshape(-1)
    else:
        layout, entry = spread(found.layout, ("rows", size, index.shape), lambda: _owners(hard, size))
        values, beyond = rows.reshape(-1, size)[entry, layout.at % size], beyond[entry]
    values = torch.where(beyond, torch.take(hard.detach(), layout.at), values)
    return carry(region, hard, layout, values)


def _owners(hard: Tensor, size: int) -> Tensor:
    """Which index each element of the result belongs to."""
    return torch.arange(hard.numel(), device=hard.device) // size
