"""What a mask selects: how many there are depends on the decisions, so it is followed as a whole until it is summed."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from .entries import mark, carry, flips_of
from .every import differs, flip_by_flip
from .mapped import Func
from .moving import leaves, replaced
from .uses import NO_GRADIENT_TO_LOSE, hard_forward, op_name, unwrapped

__all__ = ["Selected", "select", "selected", "through"]


class Selected:
    """All elements, with what was done to the selected ones since, and the mask."""

    def __init__(self, full: Tensor, mask: Tensor) -> None:
        self.full = full
        self.mask = mask


def selected(x: Any) -> Selected | None:
    pair = getattr(x, "_sll", None)
    return pair[0] if pair is not None and type(pair[0]) is Selected and pair[1] == x._version else None


def select(region: Any, func: Func, args: tuple[Any, ...], kwargs: dict[str, Any]) -> Any:
    """``x[mask]``"""
    x, mask = args[0], args[1] if len(args) > 1 else kwargs["mask"]
    many = flips_of(region.call(torch.sum, mask))
    if many is None or not bool(unwrapped(many.values != int(unwrapped(mask).sum())).any()):
        return flip_by_flip(region, func, args, kwargs)  # as many in all flips: a result like others
    return _mark(region, func(*args, **kwargs), Selected(x, mask))


def _mark(region: Any, out: Tensor, found: Selected) -> Tensor:
    mark(region, out, found)
    region._selects = True
    return out


def through(region: Any, rule: Any, func: Func, args: tuple[Any, ...], kwargs: dict[str, Any]) -> Any:
    """A call with a selection among its operands."""
    name = op_name(func)
    found = [(x, s) for x in leaves((args, kwargs)) if (s := selected(x)) is not None]
    mask = found[0][1].mask
    out = func(*args, **kwargs)
    if name in ("sum", "mean", "count_nonzero") and args[1:] in ((), (0,)) and len(found) == 1:
        return _summed(region, name, out, found[0][1])
    same = all(s.mask is mask for _, s in found)
    rest = [x for x in leaves((args, kwargs)) if selected(x) is None]
    if getattr(rule, "elementwise", False) and same and all(x.numel() == 1 for x in rest):
        whole = lambda x: s.full if (s := selected(x)) is not None else x
        return _mark(region, out, Selected(region.call(func, *replaced(args, whole), **replaced(kwargs, whole)), mask))
    flips = flips_of(mask)
    if func in NO_GRADIENT_TO_LOSE and op_name(func) not in ("numel", "size", "__len__"):
        return out
    region.lose(
        name,
        [],
        "which elements are selected depends on decisions. Use torch.where(mask, x, 0), or sum the selection.",
        undecided=lambda: flips is not None and differs(mask, flips),
    )
    return out


def _summed(region: Any, name: str, hard: Tensor, found: Selected) -> Tensor:
    full, mask = found.full, found.mask
    dims = tuple(range(mask.dim()))
    if name == "count_nonzero":
        full = region.call(torch.ne, full, 0)
    wide = region.call(torch.Tensor.reshape, mask, mask.shape + (1,) * (full.dim() - mask.dim()))
    kept = region.call(torch.where, wide, full, torch.zeros((), dtype=full.dtype, device=full.device))
    whole = tuple(range(full.dim())) if hard.dim() == 0 else dims
    total = region.call(torch.sum, kept, whole)
    if name == "mean":
        many = region.call(torch.sum, wide, whole)
        share = full.numel() // max(mask.numel() * hard.numel(), 1)
        total = region.call(torch.div, total, region.call(torch.mul, many, max(share, 1)))
    carried = flips_of(total)
    if carried is None:
        return hard_forward(hard, total) if hard.is_floating_point() else hard
    if hard.is_floating_point():
        return carry(region, hard_forward(hard, carried.plain), carried.layout, carried.values)
    return carry(region, hard, carried.layout, carried.values)
