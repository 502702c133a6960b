"""Writes: the functional form, then a copy into the target, with what it carries."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor

from .entries import Flips, carry, flips_of, mark
from .every import Ragged, flip_by_flip, ragged
from .mapped import Func
from .moving import carriers, leaves, move
from .uses import tracked

__all__ = ["concerns", "copy", "in_place_of", "kept", "overwrite", "setitem"]


def concerns(*args: Any) -> bool:
    """Whether an operand carries flips or is followed by autograd."""
    return any(getattr(x, "_sll", None) is not None or tracked(x) for x in leaves(args))


def in_place_of(twin: Func) -> Callable[..., Any]:
    def handler(region: Any, func: Func, args: tuple[Any, ...], kwargs: dict[str, Any]) -> Any:
        target = args[0]
        if not isinstance(target, Tensor) or not concerns(args, kwargs):
            return func(*args, **kwargs)
        before = kept(region, target)
        result = region.call(twin, *(before if x is target else x for x in args), **kwargs)
        if result.shape != target.shape or not torch.can_cast(result.dtype, target.dtype):
            return func(*args, **kwargs)  # raises, as it does without a region
        return overwrite(region, target, result)

    return handler


def kept(region: Any, target: Tensor) -> Tensor:
    """A copy that carries the same: what backward saves must survive the write."""
    found = flips_of(target)
    if found is None:
        loose, copied = ragged(target), target.clone()
        return copied if loose is None else mark(region, copied, loose)
    if found.plain is not None:
        return carry(region, found.plain.clone(), found.layout, found.values)
    return carry(region, target.clone(), found.layout, found.values)


def overwrite(region: Any, target: Tensor, result: Tensor) -> Tensor:
    """``target.copy_(result)``; if `target` is a view, its base carries what was written, too."""
    if target.dtype != result.dtype:
        result = region.call(torch.Tensor.to, result, target.dtype)
    base = target._base
    whole = None
    if base is not None and (flips_of(base) or flips_of(result)):
        whole = _written_through(region, base, target, result)
    torch.Tensor.copy_(target, result)
    _hand_over(region, target, (flips_of(result) or ragged(result)) if target.shape == result.shape else None)
    if base is not None:
        _hand_over(region, base, None if whole is None else flips_of(whole))
    return target


def _hand_over(region: Any, target: Tensor, found: Flips | Ragged | None) -> None:
    if found is not None:
        mark(region, target, found)


def _written_through(region: Any, base: Tensor, view: Tensor, result: Tensor) -> Tensor | None:
    if not base.is_contiguous():
        region.lose("write into a view", [], "write through the tensor itself.", undecided=lambda: True)
        return None
    offset = view.storage_offset() - base.storage_offset()
    places = torch.arange(base.numel(), device=base.device).as_strided(view.shape, view.stride(), offset)

    def put(parts: list[Tensor]) -> Tensor:
        old, new = parts
        return old.reshape(-1).index_put((places.reshape(-1),), new.reshape(-1)).reshape(old.shape)

    new = region.call(torch.Tensor.expand, result, view.shape)
    return move(region, put, ([kept(region, base), new],), {})  # type: ignore[no-any-return]


def _assigned(parts: list[Tensor], index: Any) -> Tensor:
    out = parts[0].clone()
    out[index] = parts[1]
    return out


def setitem(region: Any, func: Func, args: tuple[Any, ...], kwargs: dict[str, Any]) -> Any:
    target, index, value = args
    decided = carriers(index, {})
    if isinstance(value, Tensor) and value.dtype != target.dtype and concerns(value):
        value = region.call(torch.Tensor.to, value, target.dtype)
    loose = ragged(value) is not None
    if not decided and not loose and flips_of(value) is None and flips_of(target) is None:
        return func(target, index, value)
    before = kept(region, target)
    if not isinstance(value, Tensor):
        value = torch.tensor(value, dtype=target.dtype, device=target.device)
    if isinstance(index, Tensor) and decided and index.dtype == torch.bool and value.numel() == 1:
        mask = region.call(torch.Tensor.reshape, index, index.shape + (1,) * (target.dim() - index.dim()))
        written = region.call(torch.where, mask, value.reshape(()), before)
    elif decided or loose:
        written = flip_by_flip(region, _assigned, ([before, value.to(target.dtype)], index), {})
    else:
        written = move(region, _assigned, ([before, value], index), {})
    overwrite(region, target, written)
    return None


def copy(region: Any, func: Func, args: tuple[Any, ...], kwargs: dict[str, Any]) -> Any:
    target, source = args[:2]
    if source is target or not concerns(source):
        return func(*args, **kwargs)
    if source.dtype != target.dtype:
        source = region.call(torch.Tensor.to, source, target.dtype)
    if flips_of(source) is None:
        return func(target, source, *args[2:], **kwargs)
    return overwrite(region, target, region.call(torch.Tensor.expand, source, target.shape))
