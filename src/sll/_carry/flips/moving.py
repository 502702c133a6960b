"""Functions that move elements, and sums."""

from __future__ import annotations

import functools
from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor

from ..._rules.index import BOUNDS, names_of, op_name, spellings
from ..found import sorted_places
from ..interface import Func, attach, tensors
from .calls import carriers, once_more, plain_of, replaced
from .entries import Flips, Layout, Numbers, carry, flips_of, join, spread
from .every import flip_by_flip
from .primitives import take

_FIRST = 2**40
"""The number of the first element: what fills is none."""


def move(region: Any, func: Func, args: tuple[Any, ...], kwargs: dict[str, Any]) -> Any:
    """A function whose result has elements of its operands (and constants) only: where numbers go, entries go."""
    alone = len(args) > 0 and isinstance(args[0], Tensor) and not tensors(args[1:], kwargs)
    found = carriers(args[0] if alone else (args, kwargs))
    out = func(*args, **kwargs)
    if not found:
        return _of_sorted(region, func, args, kwargs, out)
    if any(out is x for x, _ in found):
        return out
    if isinstance(out, Tensor) and out.is_floating_point() and any(not x.is_floating_point() for x, _ in found):
        as_float = lambda x: region.call(torch.Tensor.to, x, out.dtype) if flips_of(x) else x
        return once_more(region.call, (func, *args), kwargs, as_float)

    def once(by: Callable[[Tensor], Tensor]) -> list[Tensor]:
        return tensors(func(by(args[0]), *args[1:], **kwargs) if alone else once_more(func, args, kwargs, by))

    starts = _starts(args[:1], kwargs.get("tensors"), [x for x, _ in found])
    numbers: list[Tensor] = []

    def source(i: int, start: int) -> Tensor:
        if not numbers:
            try:
                numbers[:] = once(lambda x: x if id(x) not in starts else _number(x, starts[id(x)]))
            except RuntimeError:  # some move no integers
                exact: Callable[[Tensor], Tensor] = lambda x: _number(x, starts[id(x)]).double()
                numbers[:] = [t.long() for t in once(lambda x: x if id(x) not in starts else exact(x))]
        return numbers[i].long() - start

    parts = tensors(out)
    floats = any(part.is_floating_point() for part in parts)
    for i, (part, plain) in enumerate(zip(parts, once(plain_of) if floats else parts)):
        entries, key = [], (func, i, args[0].shape, repr((args[1:], kwargs))) if alone else None
        for x, flips in found:
            layout, entry = spread(flips.layout, key, functools.partial(source, i, starts[id(x)]))
            entries.append((layout, flips.values[entry].to(part.dtype)))
        # (Floats had their gradient from their operands.)
        whole = functools.reduce(functools.partial(beside, part), entries)
        attach(region, part, Flips(*whole, plain if floats else None))
    return out


def _of_sorted(region: Any, func: Func, args: tuple[Any, ...], kwargs: dict[str, Any], out: Any) -> Any:
    """Moved values of a sort are values of a sort. (What is filled in has no place.)"""
    known = sorted_places(args[0]) if args and func not in _FILLS else None
    if known is not None and out is not args[0]:
        for part, places in zip(tensors(out), tensors(func(known.places(), *args[1:], **kwargs))):
            attach(region, part, known.moved(functools.partial(torch.Tensor.view_as, places, places)))
    return out


_FILLS = {func for name in names_of("fills") for func in spellings(name)}


def move_one(region: Any, func: Func, args: tuple[Any, ...], kwargs: dict[str, Any]) -> Any:
    """Of one operand: how far its elements move, and how often, has no derivative."""
    bounds = [x for x, _ in carriers((args[1:], kwargs))]
    if bounds:
        region.lose(op_name(func), bounds, BOUNDS)
        fixed: Callable[[Tensor], Tensor] = lambda x: x if flips_of(x) is None else x.detach()
        args, kwargs = (args[0], *replaced(args[1:], fixed)), replaced(kwargs, fixed)
    return move(region, func, args, kwargs)


def _starts(*args: Any) -> dict[int, int]:
    """The number of the first element of each tensor."""
    starts, end = {}, _FIRST
    for x in tensors(*args):
        if id(x) not in starts:
            starts[id(x)] = end
            end += x.numel()
    return starts


def _number(x: Tensor, start: int) -> Tensor:
    return torch.arange(start, start + x.numel(), device=x.device).reshape(x.shape)


def beside(part: Tensor, *given: tuple[Layout, Tensor]) -> tuple[Layout, Tensor]:
    """The entries of two operands in one result."""
    layout, *places = join(given[0][0], given[1][0])
    values = take(part, layout.at)
    for place, (of, some) in zip(places, given):
        at = place if isinstance(place, Tensor) else torch.arange(of.size, device=some.device)
        values = values.index_copy(0, at, some)
    return layout, values


def in_order(region: Any, func: Func, args: tuple[Any, ...], kwargs: dict[str, Any]) -> Any:
    """A function that leaves all elements where they are."""
    found = flips_of(args[0])
    if found is None:
        return move(region, func, args, kwargs)
    out = func(*args, **kwargs)
    if out is args[0]:
        return out
    if out.numel() != args[0].numel():  # its bits, in words of another length
        return flip_by_flip(region, func, args, kwargs)
    if out.dtype != args[0].dtype:
        return carry(region, out, found.layout, found.values.view(out.dtype))
    plain = None if found.plain is None else func(found.plain, *args[1:], **kwargs)
    return attach(region, out, Flips(found.layout, found.values, plain))


def reduce_sum(region: Any, func: Func, args: tuple[Any, ...], kwargs: dict[str, Any]) -> Any:
    """A sum or a mean: each flip changes it by what it changes."""
    x, name = args[0], op_name(func)
    found = flips_of(x)
    if found is None:
        return func(*args, **kwargs)
    if x.is_floating_point() and found.layout.size > MAX_OF_SUM:
        region.approximate(name, found.layout.size, "flips")
        return func(*args, **kwargs)  # (floats meet: their gradient is right)
    hard = func(plain_of(x), *args[1:], **kwargs)
    if hard.is_floating_point() and not x.is_floating_point():
        named = {name: value for name, value in kwargs.items() if name != "dtype"}
        return region.call(func, region.call(torch.Tensor.to, x, hard.dtype), *args[1:], **named)
    change = found.values.to(hard.dtype) - take(x, found.layout.at).to(hard.dtype)
    if name == "mean":
        change = change * (hard.numel() / max(x.numel(), 1))
    if hard.is_floating_point():
        change = torch.nan_to_num(change, nan=0.0, posinf=0.0, neginf=0.0)
    dim = dict(zip(("dim",), args[1:]), **kwargs).get("dim")
    dims = (dim,) if isinstance(dim, int) else range(x.dim()) if dim is None or len(dim) == 0 else dim
    keep = [1 if d in {i % max(x.dim(), 1) for i in dims} else n for d, n in enumerate(x.shape)]
    row = torch.arange(hard.numel(), device=x.device).reshape(keep).expand(x.shape)
    numbers = Numbers.of(found.layout)
    layout, entry = numbers.grouped(numbers.numbers(found.layout), take(row, found.layout.at))
    total = torch.zeros(layout.size, dtype=hard.dtype, device=hard.device).index_add(0, entry, change)
    return carry(region, hard, layout, take(hard, layout.at) + total)


MAX_OF_SUM = 1024
"""A sum of floats with more entries is met at once."""
