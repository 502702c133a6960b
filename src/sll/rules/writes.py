"""Writes into tensors, ``x[index] = value`` and ``copy_``, and writes to disk.

``op_`` and ``out=`` are handled for every rule in `registry.py`.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor

from ..linearization import attach, carrier, discrete_carrier
from .registry import RULES, lose_base, overwrite
from .shape import regroup

if TYPE_CHECKING:
    from ..region import linearize as Region

Func = Callable[..., Any]


def setitem(region: Region, func: Func, args: tuple[Any, ...], kwargs: dict[str, Any]) -> Any:
    target, index, value = args
    items = index if isinstance(index, tuple) else (index,)
    if any(discrete_carrier(item) for item in items):
        return _write_at_decisions(region, func, target, items, value)
    if not (
        discrete_carrier(value)
        or discrete_carrier(target)
        or (carrier(value) is not None and not target.is_floating_point())
    ):
        return func(*args)  # floats: autograd follows the write, and a promise of outcomes goes stale
    if isinstance(value, Tensor) and value.dtype != target.dtype:
        value = region.call(torch.Tensor.to, value, target.dtype)
    if target.is_floating_point():
        return func(target, index, value)
    before = target.clone()
    attach(region, before, carrier(target))
    lose_base(region, target)
    func(target, index, value)
    if not isinstance(value, Tensor):
        value = torch.as_tensor(value, dtype=target.dtype, device=target.device)
    shape = before[index].shape
    if value.dim() > len(shape):  # leading dimensions of size 1, which indexing accepts
        value = region.call(torch.Tensor.reshape, value, value.shape[value.dim() - len(shape) :])
    source = region.call(torch.Tensor.expand, value, shape)

    def put(parts: list[Tensor]) -> Tensor:
        old, new = parts
        written = old.clone()
        written[index] = new
        return written

    attach(region, target, regroup(region, put, [before, source], target))
    return None


def _write_at_decisions(region: Region, func: Func, target: Tensor, items: tuple[Any, ...], value: Any) -> Any:
    mask = items[0]
    if len(items) == 1 and mask.dtype == torch.bool:
        wide = region.call(torch.Tensor.reshape, mask, tuple(mask.shape) + (1,) * (target.dim() - mask.dim()))
        before = target.clone()
        attach(region, before, carrier(target))
        if not isinstance(value, Tensor) or value.numel() == 1:
            new = value.reshape(()) if isinstance(value, Tensor) else value
            overwrite(region, target, region.call(torch.Tensor.masked_fill, before, wide, new))
            return None
        if value.dim() and value.shape[0] == int(mask.sum()) and target.is_floating_point():
            full = region.call(torch.Tensor.expand, wide, target.shape)
            overwrite(region, target, region.call(torch.Tensor.masked_scatter, before, full, value.to(target.dtype)))
            return None
    region.lose(
        "setitem",
        [i for i in items if discrete_carrier(i)],
        "the place of a write has no derivative here; use where().",
    )
    return func(target, items if len(items) > 1 else mask, value)


def copy_(region: Region, func: Func, args: tuple[Any, ...], kwargs: dict[str, Any]) -> Any:
    target, source = args[:2]
    if carrier(source) is None:
        return func(*args, **kwargs)
    source = region.call(torch.Tensor.expand, source, target.shape)
    return overwrite(region, target, source)


def without_carrier(region: Region, func: Func, args: tuple[Any, ...], kwargs: dict[str, Any]) -> Any:
    """Pickling and deep copies see the plain tensor."""
    x, *rest = args
    if "_sll" not in x.__dict__:
        return func(*args, **kwargs)
    alias = x.detach().requires_grad_(x.requires_grad)
    alias.__dict__.update({name: value for name, value in x.__dict__.items() if name != "_sll"})
    return func(alias, *rest, **kwargs)


RULES[torch.Tensor.__reduce_ex__] = without_carrier
RULES[torch.Tensor.__deepcopy__] = without_carrier
RULES[torch.Tensor.__setitem__] = setitem
RULES[torch.Tensor.copy_] = copy_
