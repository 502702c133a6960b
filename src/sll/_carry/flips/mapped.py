"""Functions that work element by element: the program's own call on the hard operands, and one on the entries."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor

from .entries import Block, Flips, Layout, carry, flips_of, join, spread, values_on
from .uses import count_infinite

__all__ = ["broadcast", "elementwise", "mapped", "plain_of", "with_block"]

Func = Callable[..., Any]
_NOT_OF_ENTRIES = ("memory_format", "out")


def plain_of(x: Any) -> Any:
    """A float without the gradient of its flips, if it carries any."""
    found = flips_of(x)
    return x if found is None or found.plain is None else found.plain


def broadcast(found: Flips, of: torch.Size, shape: torch.Size) -> Flips:
    """What an operand of shape `of` carries, in a result of `shape`."""
    if of == shape or of.numel() == shape.numel():
        return found

    def source() -> Tensor:
        return torch.arange(of.numel(), device=found.values.device).reshape(of).expand(shape)

    layout, entry = spread(found.layout, ("broadcast", of, shape), source)
    return Flips(layout, found.values[entry])


def mapped(
    func: Func, args: tuple[Any, ...], kwargs: dict[str, Any], shape: torch.Size, dtype: torch.dtype
) -> tuple[Layout, Tensor] | None:
    """The function on the entries of its operands; None if no operand carries any."""
    layout: Layout | None = None
    carried: dict[int, Flips] = {}
    for x in (*args, *kwargs.values()) if kwargs else args:
        found = flips_of(x)
        if found is not None:
            found = carried[id(x)] = broadcast(found, x.shape, shape)
            layout = found.layout if layout is None else join(layout, found.layout)[0]
    if layout is None:
        return None
    whole = layout

    def on(x: Any) -> Any:
        found = carried.get(id(x))
        if found is None:
            return values_on(x, shape, whole)
        return values_on(x, shape, whole, found, join(whole, found.layout)[2])

    if not whole.size:
        return whole, torch.empty(0, dtype=dtype, device=whole.at.device)
    with torch.no_grad():
        named = {name: on(x) for name, x in kwargs.items() if name not in _NOT_OF_ENTRIES} if kwargs else {}
        values = func(*[on(x) for x in args], **named)
        if values.dim() == 0:
            values = values.expand(whole.size)
    return whole, values if values.dtype == dtype else values.to(dtype)


def elementwise(region: Any, func: Func, args: tuple[Any, ...], kwargs: dict[str, Any]) -> Any:
    plain = [plain_of(x) for x in args]
    hard = func(*plain, **{name: plain_of(x) for name, x in kwargs.items()}) if kwargs else func(*plain)
    if not isinstance(hard, Tensor):
        return hard
    for x, p in zip(args, plain):
        if hard is p:
            return x
    found = mapped(func, args, kwargs, hard.shape, hard.dtype)
    if found is None:
        return hard
    count_infinite(region, func, args, hard, found)
    return carry(region, hard, *found)


def with_block(
    region: Any,
    hard: Tensor,
    before: tuple[Layout, Tensor] | None,
    block: Block | None = None,
    values: Tensor | None = None,
) -> Tensor:
    """A decision's result: its own flips, and those of its operands, decided again."""
    if block is None or values is None:
        return hard if before is None else carry(region, hard, *before)
    if before is None:
        return carry(region, hard, Layout((block,)), values)
    return carry(region, hard, before[0].plus(block), torch.cat([before[1], values]))
