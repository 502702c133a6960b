"""Functions that work element by element: the program's own call on the hard operands, and one on the entries."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, TypeAlias

import torch
from torch import Tensor

from ..._ops.env import infinite, unwrapped
from ..._rules.index import op_name, spellings
from ..interface import Func
from .calls import plain_of
from .entries import MOST, MOST_PER_ELEMENT, Block, Flips, Layout, batched, carry, flips_of, join, spread, values_on
from .primitives import take

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


def mapped(
    func: Func,
    args: Sequence[Any],
    kwargs: dict[str, Any],
    shape: torch.Size,
    dtype: torch.dtype,
    known: list[Flips | None] | None = None,
) -> Entries:
    """The function on the entries of its operands; None if no operand carries any. (`known`: what `args` carry.)"""
    layout: Layout | None = None
    found = [flips_of(x) for x in args] if known is None else known
    operands = args
    if kwargs:
        kwargs = {name: x for name, x in kwargs.items() if name not in _NOT_OF_ENTRIES}
        operands, found = (*args, *kwargs.values()), [*found, *(flips_of(x) for x in kwargs.values())]
    for i, flips in enumerate(found):
        if flips is not None:
            if operands[i].shape != shape:
                found[i] = flips = _broadcast(flips, operands[i].shape, shape)
            if layout is None:
                layout = flips.layout
            elif layout is not flips.layout:
                layout = join(layout, flips.layout)[0]
    if layout is None:
        return None
    if not layout.size:
        return layout, torch.empty(0, dtype=dtype, device=layout.at.device)
    given = [
        flips.values if flips is not None and flips.layout is layout else values_on(x, flips, shape, layout)
        for x, flips in zip(operands, found)
    ]
    values = func(*given[: len(args)], **dict(zip(kwargs, given[len(args) :]))) if kwargs else func(*given)
    if values.dim() == 0:
        values = values.expand(layout.size)
    return layout, values if values.dtype == dtype else values.to(dtype)


def elementwise(region: Any, func: Func, args: tuple[Any, ...], kwargs: dict[str, Any]) -> Any:
    found = [flips_of(x) for x in args]
    plain = [x if flips is None or flips.plain is None else flips.plain for x, flips in zip(args, found)]
    if len(args) > 1:
        for i, flips in enumerate(found):
            if flips is not None and flips.plain is None:
                plain[i] = _as_it_is(i, plain)
    hard = func(*plain, **{name: plain_of(x) for name, x in kwargs.items()}) if kwargs else func(*plain)
    if not isinstance(hard, Tensor):
        return hard
    if plain and hard is plain[0]:
        return args[0]
    for i, flips in enumerate(found):
        if flips is not None and flips.plain is not None and _too_wide(args[i], flips, hard.numel()):
            region.approximate(op_name(func), flips.layout.size, "flips")
            return elementwise(region, func, (*args[:i], args[i].view_as(args[i]), *args[i + 1 :]), kwargs)
    entries = mapped(func, args, kwargs, hard.shape, hard.dtype, found)
    if entries is None:
        return hard
    if func in _MAY_BE_INFINITE and any(infinite(x) for x, flips in zip(args, found) if flips is None):
        difference = unwrapped(entries[1] - take(hard, entries[0].at))
        region.count_infinite(op_name(func), int((~difference.isfinite()).sum()))
    return carry(region, hard, *entries)


_MAY_BE_INFINITE = {f for name in ("where", "masked_fill", "mul", "div", "add", "sub") for f in spellings(name)}


def _as_it_is(i: int, operands: list[Any]) -> Tensor:
    """What is discrete, if backward saves it: whatever is written to it later."""
    saved = any(isinstance(x, Tensor) and x.requires_grad for x in operands)
    clone: Tensor = operands[i]
    return clone.clone() if saved and not torch._C._are_functorch_transforms_active() else clone


def _too_wide(x: Tensor, found: Flips, many: int) -> bool:
    """Whether a float broadcasts to so many elements that its flips are met first: each changes all of them."""
    size, one = found.layout.size, x.numel()
    return one < many and size >= 64 and size * many > max(1, one) * max(MOST_PER_ELEMENT * many, MOST)


def with_block(region: Any, op: str, hard: Tensor, before: Entries, block: Block | None, values: Any) -> Tensor:
    """A decision's result: its own flips, if any, and those of its operands, decided again."""
    if before is None:
        return hard if block is None else carry(region, hard, Layout((block,)), values)
    if block is None:
        return carry(region, hard, *before)
    if before[0].size and block.at.shape[0] and not batched(block.at):
        there = torch.zeros(hard.numel(), dtype=torch.bool, device=hard.device)  # (`isin` would sort)
        both = int(there.index_fill_(0, before[0].at, True).index_select(0, block.at).count_nonzero())
        if both:  # (what they do together is not known)
            region.approximate(op, both, "joint")
    return carry(region, hard, before[0].plus(block), torch.cat([before[1], values]))
