"""``y[i]`` at a decided index of no dimensions. To the program it is a view. A region returns a tensor of its own, and
what is written to that, or to a view of it, is written to `y` afterwards.
"""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor
from torch.utils.weak import WeakIdKeyDictionary

from .interface import Func, Mark, Region, Rule


class Row(Mark):
    """Of a float that carries nothing else: calls are to be asked about it."""

    def __init__(self, table: Tensor, index: Any, found: Tensor) -> None:
        self.table, self.index, self.version, self.seen = table, index, table._version, found._version
        self.before: Tensor | None = None


_ROWS: Any = WeakIdKeyDictionary()
"""Such tensors and views of them: their row, and of a view what it is a view of."""


def note(region: Region, found: Tensor, table: Tensor, index: Any) -> None:
    """`found` is ``table[index]``."""
    if found._base is None and not (found.is_inference() or table.is_inference()):  # (to those nobody writes)
        _remember(region, found, Row(table, index, found), None)


def _remember(region: Region, x: Tensor, row: Row, owner: Tensor | None) -> None:
    _ROWS[x] = row, owner
    region.mark(x, row if getattr(x, "_sll", None) is None else None)


def reading(rule: Rule) -> Rule:
    """That of ``y[i]``."""

    def read(region: Region, func: Func, args: tuple[Any, ...], kwargs: dict[str, Any]) -> Any:
        found, (table, index) = rule(region, func, args, kwargs), args
        items = index if isinstance(index, tuple) else (index,)
        dims = [x.dim() or x.dtype == torch.bool for x in items if isinstance(x, Tensor)]
        if dims and not any(dims) and not any(isinstance(x, (list, bool)) for x in items):
            note(region, found, table, index)
        return found

    return read


def assigning(rule: Rule) -> Rule:
    """That of ``y[i] = value``. What ``y[i] += 1`` assigns has been written already."""

    def assign(region: Region, func: Func, args: tuple[Any, ...], kwargs: dict[str, Any]) -> Any:
        if isinstance(args[2], Tensor) and (known := _ROWS.get(args[2])) is not None:
            row, table = known[0], args[0]
            if row.table is table and row.index is args[1] and row.version == table._version and row.before is not None:
                return None
        return rule(region, func, args, kwargs)

    return assign


def _write(region: Region, row: Row, value: Tensor) -> None:
    """``row.table[row.index] = value``; again, if it has been written."""
    if row.before is None:
        row.before = region.call(torch.clone, row.table)
        region.call(Tensor.__setitem__, row.table, row.index, value)
    else:
        anew = region.call(torch.clone, row.before)
        region.call(Tensor.__setitem__, anew, row.index, value)
        region.call(Tensor.copy_, row.table, anew)
    row.version = row.table._version


def met(region: Region, known: list[Tensor], out: Any) -> None:
    """After a call with such operands: it may have written to one, or returned a view."""
    for x in known:
        row, owner = _ROWS.get(x, (None, None))
        if row is None:
            continue
        owner = x if owner is None else owner
        if owner._version != row.seen:
            row.seen = owner._version
            if row.table._version != row.version:
                raise RuntimeError(
                    "y[i] was read at a decided index, y was written to, and then what was read: a region does not "
                    "know what is in y[i] now; write to y[i] before, or write y[i] = value"
                )
            _write(region, row, region.call(torch.clone, owner))
            _remember(region, x, row, None if x is owner else owner)
        for view in out if isinstance(out, (tuple, list)) else (out,):
            if isinstance(view, Tensor) and view._base is owner and view not in _ROWS:
                _remember(region, view, row, owner)
