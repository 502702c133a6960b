"""Functions that work element by element: the program's own call on the hard operands, and one on the entries."""

from __future__ import annotations

from typing import Any, TypeAlias

import torch
from torch import Tensor

from ..._ops.env import infinite, unwrapped
from ..._rules.index import op_name, spellings
from ..interface import Func
from .calls import plain_of
from .entries import MOST, MOST_PER_ELEMENT, Block, Flips, Layout, carry, flips_of, join, spread, values_on
from .primitives import take

__all__ = ["Entries", "elementwise", "mapped", "with_block"]

Entries: TypeAlias = "tuple[Layout, Tensor] | None"
_NOT_OF_ENTRIES = ("memory_format", "out")


def _broadcast(found: Flips, of: torch.Size, shape: torch.Size) -> Flips:
    """What an operand of shape `of` carries, in a result of `shape`."""
    if of.numel() == shape.numel():
        return found

    def source() -> Tensor:
        return torch.arange(of.numel(), device=found.values.device).reshape(of).expand(shape)

    layout, entry = spread(found.layout, ("broadcast", of, shape), source)
    return Flips(layout, found.values[entry])


def mapped(func: Func, args: tuple[Any, ...], kwargs: dict[str, Any], shape: torch.Size, dtype: torch.dtype) -> Entries:
    """The function on the entries of its operands; None if no operand carries any."""
    layout: Layout | None = None
    if kwargs:
        kwargs = {name: x for name, x in kwargs.items() if name not in _NOT_OF_ENTRIES}
    operands, found = (*args, *kwargs.values()) if kwargs else args, []
    for x in operands:
        flips = flips_of(x)
        if flips is not None:
            if x.shape != shape:
                flips = _broadcast(flips, x.shape, shape)
            if layout is None:
                layout = flips.layout
            elif layout is not flips.layout:
                layout = join(layout, flips.layout)[0]
        found.append(flips)
    if layout is None:
        return None
    if not layout.size:
        return layout, torch.empty(0, dtype=dtype, device=layout.at.device)
    given = [values_on(x, flips, shape, layout) for x, flips in zip(operands, found)]
    torch._C._set_grad_enabled(False)  # (a context manager would take longer than the function)
    try:
        values = func(*given[: len(args)], **dict(zip(kwargs, given[len(args) :]))) if kwargs else func(*given)
    finally:
        torch._C._set_grad_enabled(True)
    if values.dim() == 0:
        values = values.expand(layout.size)
    return layout, values if values.dtype == dtype else values.to(dtype)


def elementwise(region: Any, func: Func, args: tuple[Any, ...], kwargs: dict[str, Any]) -> Any:
    if len(args) > 1:
        args = tuple([_met_if_wide(x, args) for x in args])
    plain = [_kept(x, len(args) > 1) for x in args]
    hard = func(*plain, **{name: plain_of(x) for name, x in kwargs.items()}) if kwargs else func(*plain)
    if not isinstance(hard, Tensor):
        return hard
    for x, p in zip(args, plain):
        if hard is p:
            return x
    found = mapped(func, args, kwargs, hard.shape, hard.dtype)
    if found is None:
        return hard
    if func in _MAY_BE_INFINITE and any(map(infinite, args)):
        difference = unwrapped(found[1] - take(hard, found[0].at))
        region.count_infinite(op_name(func), int((~difference.isfinite()).sum()))
    return carry(region, hard, *found)


_MAY_BE_INFINITE = {f for name in ("where", "masked_fill", "mul", "div", "add", "sub") for f in spellings(name)}


def _kept(x: Any, saved: bool) -> Any:
    """`plain_of`. What is discrete, backward may have `saved`: as it is, whatever is written to it later."""
    found = flips_of(x)
    if found is None:
        return x
    if found.plain is not None:
        return found.plain
    return x.clone() if saved and not torch._C._are_functorch_transforms_active() else x


def _met_if_wide(x: Any, args: tuple[Any, ...]) -> Any:
    """A float that broadcasts to so many elements that its flips are met first: each changes all of them."""
    found = flips_of(x)
    if found is None or found.plain is None or found.layout.size < 64:
        return x
    most = max(y.numel() for y in args if isinstance(y, Tensor))
    if found.layout.size * most <= max(1, x.numel()) * max(MOST_PER_ELEMENT * most, MOST):
        return x
    return x.view_as(x)


def with_block(region: Any, hard: Tensor, before: Entries, block: Block | None, values: Any) -> Tensor:
    """A decision's result: its own flips, if any, and those of its operands, decided again."""
    if before is None:
        return hard if block is None else carry(region, hard, Layout((block,)), values)
    if block is None:
        return carry(region, hard, *before)
    return carry(region, hard, before[0].plus(block), torch.cat([before[1], values]))
