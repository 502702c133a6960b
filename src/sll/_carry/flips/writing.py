"""Writes: the functional form, then a copy into the target, with what it carries."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from ..interface import Func, attach, tensors
from ..writes import Writes, at_mask
from .calls import carriers, plain_of
from .entries import carry, flips_of
from .every import flip_by_flip, ragged
from .moving import move


def kept(region: Any, target: Tensor) -> Tensor:
    """A copy that carries the same: what backward saves must survive the write."""
    found, loose, copied = flips_of(target), ragged(target), plain_of(target).clone()
    if found is not None:
        return carry(region, copied, found.layout, found.values)
    return copied if loose is None else attach(region, copied, loose)


def _carry_same(region: Any, target: Tensor, result: Tensor) -> None:
    found = flips_of(result) or ragged(result)
    if found is not None:
        attach(region, target, found)


def _joined(region: Any, put: Func, old: Tensor, new: Tensor) -> Tensor:
    return move(region, put, ([old, new],), {})  # type: ignore[no-any-return]


WRITES = Writes(lambda x: getattr(x, "_sll", None) is not None, kept, _carry_same, _joined, floats=True)


def _assigned(parts: list[Tensor], index: Any) -> Tensor:
    out = parts[0].clone()
    out[index] = parts[1]
    return out


def setitem(region: Any, func: Func, args: tuple[Any, ...], kwargs: dict[str, Any]) -> Any:
    target, index, value = args
    decided = carriers(index)
    value = WRITES.converted(region, value, target)
    loose = any(ragged(x) is not None for x in tensors(index, value))
    if not decided and not loose and flips_of(value) is None and flips_of(target) is None:
        return func(target, index, value)
    before = kept(region, target)
    if not isinstance(value, Tensor):
        value = torch.tensor(value, dtype=target.dtype, device=target.device)
    if isinstance(index, Tensor) and decided and index.dtype == torch.bool and not loose:
        written = at_mask(region, before, index, value)
    elif decided or loose:
        written = flip_by_flip(region, _assigned, ([before, value.to(target.dtype)], index), {}, writes=False)
    else:
        written = move(region, _assigned, ([before, value], index), {})
    WRITES.overwrite(region, target, written)
    return None
