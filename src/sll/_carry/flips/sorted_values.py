"""Values found by sorting: comparing an element with them asks for its place, ``x >= x.topk(k).values[-1]``."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from .choosing import carry_order, reorderings, scores
from .entries import mark
from .mapped import Func
from .moving import Found, found_in, mark_found
from .uses import around, op_name, tracked

__all__ = ["compared", "extreme", "mark_median"]


def extreme(region: Any, func: Func, args: tuple[Any, ...], kwargs: dict[str, Any]) -> Any:
    """``amax``, ``amin``, ``max()`` and ``min()``: continuous, and the first in order."""
    out, x = func(*args, **kwargs), args[0]
    named = dict(zip(("dim", "keepdim"), args[1:]), **kwargs)
    dim = named.get("dim")
    if isinstance(dim, (tuple, list)):
        if 1 < len(dim) < x.dim():
            return out
        dim = dim[0] if len(dim) == 1 else None
    if not tracked(x) or not x.numel() or not x.dim():
        return out
    known = found_in(x)
    if known is not None and x.dim() == 1:  # of sorted values, one of those
        best = (x.detach().argmax if "max" in op_name(func) else x.detach().argmin)()
        return mark(region, out, Found(known.source, known.of[best].reshape(out.shape), known.dim))
    flat = x.detach().reshape(-1) if dim is None else x.detach()
    best = (flat.argmax if "max" in op_name(func) else flat.argmin)(0 if dim is None else dim)
    if dim is None:
        mark(region, out, Found(x, best.reshape(out.shape), None))
    else:
        mark_found(region, out, x, best.reshape(out.shape), dim)
    return out


def mark_median(region: Any, out: Tensor, x: Tensor) -> None:
    """The median of all elements."""
    of = (x.detach().reshape(-1) == out.detach()).to(torch.int8).argmax()
    mark(region, out, Found(x, of.reshape(out.shape), None))


def compared(region: Any, func: Func, a: Any, b: Any) -> Tensor | None:
    """A comparison with what was found by sorting; None if it is an ordinary one."""
    first, second = found_in(a), found_in(b)
    if first is not None and second is not None:  # in sorted order they are
        return func(a, b) if first.found_among(second.source) else None
    known, x, op = (second, a, op_name(func)) if first is None else (first, b, _MIRRORED[op_name(func)])
    if known is None or not known.found_among(x):
        return None
    threshold = b if first is None else a
    if not x.numel() or torch.broadcast_shapes(x.shape, threshold.shape) != x.shape:  # type: ignore[no-untyped-call]
        return None
    z, numbers = scores(x, known.dim, True)
    of = known.of.expand(x.shape)
    of = of.reshape(1, -1) if known.dim is None else of.movedim(known.dim, -1).reshape(numbers.shape)
    places = z.argsort(dim=-1, descending=True, stable=True)
    at = numbers.gather(-1, places)
    if not bool((of == of[:, :1]).all()) or not bool((at == of[:, :1]).any(-1).all()):
        return None
    place = (at == of[:, :1]).to(torch.int8).argmax(-1, keepdim=True)
    first_ones = torch.arange(z.shape[1], device=x.device) < place + (op in ("ge", "lt"))
    hard = func(a, b)
    many = int(first_ones[0].sum())
    order = reorderings(region, "topk", x, (z, numbers), places, True, lambda z, _: around(z, many))
    carry_order(region, hard, order, at, first_ones if op in ("gt", "ge") else ~first_ones, ranks=True)
    return hard  # type: ignore[no-any-return]


_MIRRORED = {"gt": "lt", "ge": "le", "lt": "gt", "le": "ge"}
for _name, _other in (("greater", "gt"), ("greater_equal", "ge"), ("less", "lt"), ("less_equal", "le")):
    _MIRRORED[_name] = _MIRRORED[_other]
