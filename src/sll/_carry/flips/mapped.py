"""Functions that work element by element: the program's own call on the hard operands, and one on the entries."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, TypeAlias

import torch
from torch import Tensor

from .entries import MOST, MOST_PER_ELEMENT, Block, Flips, Layout, carry, flips_of, join, spread, values_on
from .uses import count_infinite, spellings

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


_Entries: TypeAlias = "tuple[Layout, Tensor] | None"


def mapped(
    func: Func, args: tuple[Any, ...], kwargs: dict[str, Any], shape: torch.Size, dtype: torch.dtype
) -> _Entries:
    """The function on the entries of its operands; None if no operand carries any."""
    layout: Layout | None = None
    found = [flips_of(x) for x in args]
    for i, flips in enumerate(found):
        if flips is not None:
            if args[i].shape != shape:
                found[i] = flips = broadcast(flips, args[i].shape, shape)
            if layout is None:
                layout = flips.layout
            elif layout is not flips.layout:
                layout = join(layout, flips.layout)[0]
    named = {}
    if kwargs:
        named = {name: x for name, x in kwargs.items() if name not in _NOT_OF_ENTRIES}
        for x in named.values():
            flips = flips_of(x)
            if flips is not None:
                of = broadcast(flips, x.shape, shape).layout
                layout = of if layout is None else join(layout, of)[0]
    if layout is None:
        return None
    if not layout.size:
        return layout, torch.empty(0, dtype=dtype, device=layout.at.device)
    given = []
    for x, flips in zip(args, found):
        if flips is None:
            given.append(values_on(x, shape, layout) if isinstance(x, Tensor) else x)
        elif flips.layout is layout:
            given.append(flips.values)
        else:
            given.append(values_on(x, shape, layout, flips, join(layout, flips.layout)[2]))
    values = _without_gradient(func, given, {name: _named_on(x, shape, layout) for name, x in named.items()})
    if values.dim() == 0:
        values = values.expand(layout.size)
    return layout, values if values.dtype == dtype else values.to(dtype)


def _without_gradient(func: Func, args: list[Any], kwargs: dict[str, Any]) -> Tensor:
    torch._C._set_grad_enabled(False)  # (a context manager would take longer than the function)
    try:
        return func(*args, **kwargs)  # type: ignore[no-any-return]
    finally:
        torch._C._set_grad_enabled(True)


def _named_on(x: Any, shape: torch.Size, layout: Layout) -> Any:
    flips = flips_of(x)
    if flips is None:
        return values_on(x, shape, layout)
    flips = broadcast(flips, x.shape, shape)
    return values_on(x, shape, layout, flips, join(layout, flips.layout)[2])


def elementwise(region: Any, func: Func, args: tuple[Any, ...], kwargs: dict[str, Any]) -> Any:
    if len(args) > 1:
        args = tuple(_met_if_wide(x, args) for x in args)
        plain = [_as_it_is(x) for x in args]
    else:
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
    if func in _MAY_BE_INFINITE:
        count_infinite(region, func, args, hard, found)
    return carry(region, hard, *found)


def _as_it_is(x: Any) -> Any:
    """`plain_of`; what is discrete is kept by backward as it is, whatever is written to it later."""
    found = flips_of(x)
    if found is None:
        return x
    if found.plain is not None:
        return found.plain
    return x if torch._C._are_functorch_transforms_active() else x.clone()


def _met_if_wide(x: Any, args: tuple[Any, ...]) -> Any:
    """A float that broadcasts to so many elements that its flips are met first: each changes all of them."""
    found = flips_of(x)
    if found is None or found.plain is None or found.layout.size < 64:
        return x
    most = max(y.numel() for y in args if isinstance(y, Tensor))
    if found.layout.size * most <= max(1, x.numel()) * max(MOST_PER_ELEMENT * most, MOST):
        return x
    return x.view_as(x)


_MAY_BE_INFINITE = {f for name in ("where", "masked_fill", "mul", "div", "add", "sub") for f in spellings(name)}


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
