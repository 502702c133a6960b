"""Values found by sorting remember which element of what they are: ``x >= x.topk(k).values[-1]`` asks for places."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from ..._ops.env import tracked
from ..._ops.views import same_numbers
from ..._rules.index import op_name
from ..interface import Carried, Func
from .calls import leaves
from .entries import held_by, mark

__all__ = ["Found", "extreme", "found_in", "mark_found", "moved"]


class Found(Carried):
    """Which element of a tensor each value is, by flat position, and along which dimension it was looked for."""

    def __init__(self, source: Tensor, of: Tensor, dim: int | None) -> None:
        self.source = source
        self.version = source._version
        self.of = of
        self.dim = None if source.dim() == 1 else dim

    def found_among(self, x: Any) -> bool:
        """Whether `x` is the source, or another view of the same numbers."""
        if not isinstance(x, Tensor) or x._version != self.version or self.source._version != self.version:
            return False
        return same_numbers(x, self.source, self.dim is None)


def found_in(x: Any) -> Found | None:
    return held_by(x, Found)


def mark_found(region: Any, values: Tensor, x: Tensor, indices: Tensor, dim: int | None) -> None:
    """`values` are those of `x` at `indices`; a reduced dimension may be gone. (None: of all, by flat position.)"""
    if dim is None:
        mark(region, values, Found(x, indices.reshape(values.shape), None))
        return
    numbers = torch.arange(x.numel(), device=x.device).reshape(x.shape)
    gone = indices.dim() < x.dim()
    of = numbers.gather(dim, indices.unsqueeze(dim) if gone else indices)
    mark(region, values, Found(x, of.squeeze(dim) if gone else of, dim % x.dim()))


def moved(region: Any, func: Func, args: tuple[Any, ...], kwargs: dict[str, Any], out: Any) -> Any:
    """Moved values of a sort are values of a sort."""
    found = found_in(args[0]) if args else None
    if found is not None and out is not args[0]:
        for part, of in zip(leaves(out), leaves(func(found.of, *args[1:], **kwargs))):
            mark(region, part, Found(found.source, of, found.dim))
    return out


def extreme(region: Any, func: Func, args: tuple[Any, ...], kwargs: dict[str, Any]) -> Any:
    """``amax``, ``amin``, ``max()`` and ``min()``: continuous, and the first in order."""
    out, x = func(*args, **kwargs), args[0]
    dim = dict(zip(("dim", "keepdim"), args[1:]), **kwargs).get("dim")
    if isinstance(dim, (tuple, list)):
        if 1 < len(dim) < x.dim():
            return out
        dim = dim[0] if len(dim) == 1 else None
    if not tracked(x) or not x.numel() or not x.dim():
        return out
    best = getattr(x.detach(), "arg" + op_name(func)[-3:])(dim)
    known = found_in(x)
    if known is not None and x.dim() == 1:  # of sorted values, one of those
        return mark(region, out, Found(known.source, known.of[best].reshape(out.shape), known.dim))
    mark_found(region, out, x, best if dim is None else best.reshape(out.shape), dim)
    return out
