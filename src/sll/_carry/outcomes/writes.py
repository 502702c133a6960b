"""Writes into tensors: ``x[index] = value`` and ``copy_``.

``op_`` and ``out=`` are handled for every rule in `../writes.py`.
"""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from ..._ops.env import tracked
from ..interface import Func, Region
from .carriers import Choice, attach, carrier, discrete_carrier, selection
from .registry import WRITES, follows, written
from .regrouping import regroup
from .scatters import at_items
from .selection_rules import SELECTIONS
from .selections import one_by_one


def setitem(region: Region, func: Func, args: tuple[Any, ...], kwargs: dict[str, Any]) -> Any:
    target, index, value = args
    items = index if isinstance(index, tuple) else (index,)
    if any(discrete_carrier(item) for item in items):
        return _write_at_decisions(region, func, target, items, value)
    value = _converted(region, value, target)
    chosen = isinstance(value, Tensor) and isinstance(carrier(value), Choice) or isinstance(carrier(target), Choice)
    if target.is_floating_point() and not chosen or not (chosen or discrete_carrier(value) or discrete_carrier(target)):
        return func(target, index, value)  # floats: autograd follows the write, and a promise of outcomes goes stale
    # What the result carries is found before the write: the value may be a view of the target.
    before = attach(region, target.clone(), carrier(target))
    if not isinstance(value, Tensor):
        value = torch.as_tensor(value, dtype=target.dtype, device=target.device)
    shape = before[index].shape
    if value.dim() > len(shape):  # leading dimensions of size 1, which indexing accepts
        value = region.call(torch.Tensor.reshape, value, value.shape[value.dim() - len(shape) :])

    def put(parts: list[Tensor]) -> Tensor:
        old, new = parts
        written = old.clone()
        written[index] = new
        return written

    found = regroup(region, put, [before, region.call(torch.Tensor.expand, value, shape)], target)
    func(target, index, value)
    attach(region, target, found)
    return None


def _converted(region: Region, value: Any, target: Tensor) -> Any:
    """A write converts to the target's dtype; a linearized value, or a float autograd follows, through the region."""
    if isinstance(value, Tensor) and value.dtype != target.dtype and (carrier(value) is not None or tracked(value)):
        return region.call(torch.Tensor.to, value, target.dtype)
    return value


def _write_at_decisions(region: Region, func: Func, target: Tensor, items: tuple[Any, ...], value: Any) -> Any:
    mask = items[0]
    if len(items) > 1 or mask.dtype != torch.bool or mask.shape != target.shape[: mask.dim()]:
        index = items if len(items) > 1 else mask
        hard = target.detach().clone()
        func(hard, index, value.detach() if isinstance(value, Tensor) else value)
        before = attach(region, target.clone(), carrier(target))
        value = _converted(region, value, target)
        written = at_items(region, "setitem", hard, before, items, value, add=False)
        if written is None:
            return func(target, index, value)
        WRITES.overwrite(region, target, written)
        return None
    rest = target.dim() - mask.dim()
    before = attach(region, target.clone(), carrier(target))
    wide = region.call(torch.Tensor.reshape, mask, tuple(mask.shape) + (1,) * rest) if rest else mask
    chosen = selection(value)
    if chosen is not None and chosen.made_by(mask):  # y[mask] = x[mask] * 2: where(mask, x * 2, y)
        func(target.clone(), mask, value)  # raises if it does not fit
        full = target.clone().reshape((mask.numel(), *target.shape[mask.dim() :]))
        full[chosen.near] = chosen.candidates.to(target.dtype)
        WRITES.overwrite(region, target, region.call(torch.where, wide, full.reshape(target.shape), before))
        return None
    if isinstance(value, Tensor) and value.dim() == rest + 1:
        if value.shape[0] != 1:  # one row for each True element, in order
            full = region.call(torch.Tensor.expand, wide, target.shape)
            func(target.clone(), mask, value)  # raises if their number is wrong
            WRITES.overwrite(region, target, region.call(torch.masked_scatter, before, full, value.to(target.dtype)))
            return None
        value = value[0]
    if isinstance(value, Tensor):
        value = _converted(region, value, target).to(target.dtype)
    else:
        value = torch.tensor(value, dtype=target.dtype, device=target.device)
    func(target.clone(), mask, value)  # raises if the shapes do not fit
    WRITES.overwrite(region, target, region.call(torch.where, wide, value, before))
    return None


def copy_(region: Region, func: Func, args: tuple[Any, ...], kwargs: dict[str, Any]) -> Any:
    target, source = args[:2]
    if source is target:
        return target
    converted = _converted(region, source, target)
    if carrier(converted) is None:
        return written(target, func(target, converted, *args[2:], **kwargs))
    return WRITES.overwrite(region, target, region.call(torch.Tensor.expand, converted, target.shape))


def write_selection(region: Region, func: Func, args: tuple[Any, ...], kwargs: dict[str, Any]) -> Any:
    """``y[mask] = f(x[mask])``: the mask makes the same selection again."""
    target, index, value = args
    found = selection(value)
    if found is not None and isinstance(index, Tensor) and discrete_carrier(index) and found.made_by(index):
        return _write_at_decisions(region, func, target, (index,), value)
    return one_by_one(region, func, args, kwargs)


follows(setitem, "Tensor.__setitem__")
SELECTIONS[torch.Tensor.__setitem__] = write_selection
follows(copy_, "Tensor.copy_")  # floats written to integers are casts
