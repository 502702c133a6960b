"""Writes into tensors: ``x[index] = value``, ``copy_``, ``op_`` and ``out=``.

Each is the function that is not in place, on a copy, and then the write. A shadow is a tensor of its own, so nothing
has to be done for tensors that are written to after a decision.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor

from ..._ops.env import tracked
from ..._ops.surrogates import alias, follow
from ..interface import Func, Region
from ..writes import Writes, at_mask, told_of_views
from .scatters import put_at
from .selections import other
from .shadow import Selected, Shadow, as_value, carried, carry, shadow
from .terms import beside


def _before(region: Region, x: Tensor) -> Tensor:
    copy, found = x.clone(), carried(x)
    return copy if found is None else carry(region, copy, found)


def _carry_same(region: Region, target: Tensor, result: Tensor) -> None:
    found = carried(result)
    if found is not None:
        carry(region, target, found)


def _joined(region: Region, put: Callable[[list[Tensor]], Tensor], old: Tensor, new: Tensor) -> Tensor:
    return carry(region, put([old, new]), _merged(region, lambda *parts: put(list(parts)), old, new))


def _merged(region: Region, put: Callable[[Tensor, Tensor], Tensor], old: Tensor, new: Tensor) -> Shadow:
    """The shadow of ``put(old, new)``."""
    a, b = as_value(old), as_value(new)
    same: Callable[[Tensor, Tensor], Tensor] = lambda old, new: put(old, new.to(old.dtype))
    return beside(region, same, [_before(region, old), new], same(old, new), put(a.to(b.dtype), b))


WRITES = Writes(lambda x: isinstance(carried(x), (Shadow, Selected)), _before, _carry_same, _joined)
in_place, spelled_out, overwrite = WRITES.in_place, WRITES.spelled_out, WRITES.overwrite


# --- x[index] = value --------------------------------------------------------------------------------------------


def _converted(region: Region, value: Any, target: Tensor) -> Any:
    """A write converts to the target's dtype; a decided value, or a float autograd follows, through the region."""
    if isinstance(value, Tensor) and value.dtype != target.dtype and (carried(value) is not None or tracked(value)):
        return region.call(torch.Tensor.to, value, target.dtype)
    return value


def _as_tensor(value: Any, target: Tensor) -> Tensor:
    if isinstance(value, Tensor):
        return value if value.dtype == target.dtype else value.to(target.dtype)
    return torch.as_tensor(value, dtype=target.dtype, device=target.device)


def setitem(region: Region, func: Func, args: tuple[Any, ...], kwargs: dict[str, Any]) -> Any:
    target, index, value = args
    items, value = index if isinstance(index, tuple) else (index,), _converted(region, value, target)
    if isinstance(index, list) and any(carried(item) is not None for item in index):
        items = tuple(index)
    if any(isinstance(carried(item), (Shadow, Selected)) for item in items):
        return _write_at_decisions(region, func, target, items, value)
    if isinstance(carried(value), Selected):
        other(region, func, (value,), {}, lambda: None)
    if target.is_floating_point() or (shadow(value) is None and shadow(target) is None):
        return func(target, index, value)  # floats: autograd follows the write
    dims, value = target[index].dim(), _as_tensor(value, target)
    if value.dim() > dims:  # leading dimensions of size 1, which indexing accepts
        value = region.call(torch.Tensor.reshape, value, value.shape[value.dim() - dims :])

    def put(old: Tensor, new: Tensor) -> Tensor:
        written = old.clone()
        written[index] = new
        return written

    found = _merged(region, put, target, value)
    if shadow(target) is None:
        told_of_views(region, target)
    func(target, index, value)
    carry(region, target, found)
    return None


def _write_at_decisions(region: Region, func: Func, target: Tensor, items: tuple[Any, ...], value: Any) -> None:
    mask, before = items[0], _before(region, target)
    if len(items) > 1 or mask.dtype != torch.bool or isinstance(carried(value), Selected):
        hard = before.clone()
        func(hard, items, value)
        overwrite(region, target, put_at(region, func, hard, before, items, value, add=False))
        return
    func(target.detach().clone(), mask, value.detach() if isinstance(value, Tensor) else value)  # raises if it must
    overwrite(region, target, at_mask(region, before, mask, value))


def copy_(region: Region, func: Func, args: tuple[Any, ...], kwargs: dict[str, Any]) -> Any:
    target, source = args[:2]
    converted = _converted(region, source, target)
    if source is not target and carried(converted) is not None:
        return overwrite(region, target, converted)
    return func(target, converted, *args[2:], **kwargs)


_NOTHING = "the source has no element for it. Use torch.where(mask, a, b)."
_ONLY_FLOATS = "only a float source has a derivative here. Scatter floats, and convert afterwards."


def masked_scatter(region: Region, func: Func, args: tuple[Any, ...], kwargs: dict[str, Any]) -> Any:
    """Element ``i`` of the source goes to the ``i``-th True element of the mask: taken from the source at a count."""
    named = dict(zip(("input", "mask", "source"), args), **kwargs)
    x, mask, source = named["input"], named["mask"], named["source"]
    if isinstance(carried(source), Selected):
        out = _before(region, x)
        region.call(torch.Tensor.__setitem__, out, region.call(torch.Tensor.expand, mask, x.shape), source)
        return out
    out, own = func(*args, **kwargs), shadow(mask)
    if own is None or x.numel() == 0:
        return out
    if source.numel() == 0:
        region.lose("masked_scatter", [mask], _NOTHING)
        return out
    if not out.is_floating_point():
        region.lose("masked_scatter", [mask], _ONLY_FLOATS)
        return out
    flat, full = source.reshape(-1), own.value().expand(out.shape).reshape(-1)
    flags = mask.expand(out.shape).reshape(-1)
    place = flags.cumsum(0) - flags.long()
    with torch.no_grad():
        shown, above, below = (flat[(place + step).clamp(0, flat.numel() - 1)] for step in (0, 1, -1))
        slope = (above - below) / 2
        jump = (shown - x.expand(out.shape).reshape(-1)).nan_to_num(0.0, 0.0, 0.0)
    moved = torch.where(flags, (full.cumsum(0) - full) * slope, 0)
    soft = (moved + full * jump).reshape(out.shape)
    fixed = alias(out)
    return follow(soft.to(out.dtype) + out, lambda: fixed.clone())
