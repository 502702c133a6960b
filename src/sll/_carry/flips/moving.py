"""Functions that move elements, and sums."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from typing import Any

import torch
from torch import Tensor

from ..interface import Carried
from .entries import Block, Flips, Layout, carry, flips_of, held_by, join, mark, spread
from .mapped import Func, plain_of
from .primitives import take
from .uses import op_name, same_numbers

__all__ = ["Found", "carriers", "found_in", "leaves", "mark_found", "move", "reduce_sum", "replaced"]


_FIRST = 2**40
"""The number of the first element: what fills is none."""


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


def mark_found(region: Any, values: Tensor, x: Tensor, indices: Tensor, dim: int) -> None:
    """`values` are those of `x` at `indices`; a reduced dimension may be gone."""
    numbers = torch.arange(x.numel(), device=x.device).reshape(x.shape)
    gone = indices.dim() < x.dim()
    of = numbers.gather(dim, indices.unsqueeze(dim) if gone else indices)
    mark(region, values, Found(x, of.squeeze(dim) if gone else of, dim % x.dim()))


def _where_found(region: Any, func: Func, args: tuple[Any, ...], kwargs: dict[str, Any], out: Any) -> Any:
    """Moved values of a sort are values of a sort."""
    found = found_in(args[0]) if args else None
    if found is None or out is args[0]:
        return out
    moved = func(found.of, *args[1:], **kwargs)
    for part, of in zip(leaves(out), leaves(moved)):
        mark(region, part, Found(found.source, of, found.dim))
    return out


def leaves(x: Any) -> Iterable[Tensor]:
    """The tensors in the arguments or the result of a call."""
    if isinstance(x, Tensor):
        yield x
    elif isinstance(x, (tuple, list)):
        for item in x:
            yield from leaves(item)
    elif isinstance(x, dict):
        yield from leaves(tuple(x.values()))
    elif isinstance(x, slice):
        yield from leaves((x.start, x.stop, x.step))


def carriers(args: Any, kwargs: Any) -> list[tuple[Tensor, Flips]]:
    """What carries flips among the arguments, each tensor once."""
    found = {id(x): (x, flips) for x in leaves((args, kwargs)) if (flips := flips_of(x)) is not None}
    return list(found.values())


def replaced(x: Any, by: Callable[[Tensor], Any]) -> Any:
    """The arguments of a call, with other tensors in them."""
    if isinstance(x, Tensor):
        return by(x)
    if isinstance(x, tuple) and hasattr(x, "_fields"):
        return type(x)(*(replaced(item, by) for item in x))
    if isinstance(x, (tuple, list)):
        return type(x)(replaced(item, by) for item in x)
    if isinstance(x, dict):
        return {name: replaced(item, by) for name, item in x.items()}
    if isinstance(x, slice):
        return slice(*(replaced(item, by) for item in (x.start, x.stop, x.step)))
    return x


def _plain(x: Any) -> Any:
    """Slices and lists as tuples, which can be hashed."""
    if isinstance(x, (tuple, list)):
        return tuple(_plain(item) for item in x)
    return ("slice", x.start, x.stop, x.step) if isinstance(x, slice) else x


def _key(func: Func, shape: Any, args: Any, kwargs: Any) -> Any:
    """What says how a call moves elements; None if that depends on tensors."""
    key = op_name(func), shape, _plain(args), _plain(tuple(kwargs.items()))
    try:
        hash(key)
    except TypeError:
        return None
    return None if any(True for _ in leaves((args, kwargs))) else key


def move(region: Any, func: Func, args: tuple[Any, ...], kwargs: dict[str, Any]) -> Any:
    """A function whose result has elements of its operands (and constants) only: where numbers go, entries go."""
    found = carriers(args, kwargs)
    out = func(*args, **kwargs)
    if not found:
        return _where_found(region, func, args, kwargs, out)
    if isinstance(out, Tensor):
        if any(out is x for x, _ in found):
            return out
        x, flips = found[0]
        if len(found) == 1 and op_name(func) in _KEEP_ORDER:
            return _attach(region, func, args, kwargs, out, flips.layout, flips.values)
        if out.is_floating_point() and any(not x.is_floating_point() for x, _ in found):
            as_float = lambda x: region.call(torch.Tensor.to, x, out.dtype) if flips_of(x) else x
            return region.call(func, *replaced(args, as_float), **replaced(kwargs, as_float))
    starts, end = {}, _FIRST
    for x in (*leaves((args[:1], kwargs.get("tensors"))), *(x for x, _ in found)):
        if id(x) not in starts:
            starts[id(x)] = end
            end += x.numel()

    def number(x: Tensor) -> Tensor:
        if id(x) not in starts:
            return x
        return torch.arange(x.numel(), device=x.device).reshape(x.shape) + starts[id(x)]

    numbers = func(*replaced(args, number), **replaced(kwargs, number))
    results = []
    key = _key(func, found[0][0].shape, args[1:], kwargs) if len(starts) == 1 else None
    for i, (part, source) in enumerate(zip(leaves(out), leaves(numbers))):
        moved = []
        for x, flips in found:
            of, entry = spread(flips.layout, key and (*key, i), lambda: source - starts[id(x)])  # noqa: B023
            moved.append((of, flips.values[entry]))
        results.append(_side_by_side(part, moved))
    return _each(region, func, args, kwargs, out, results)


def _side_by_side(part: Tensor, moved: list[tuple[Layout, Tensor]]) -> tuple[Layout, Tensor]:
    """The entries of several operands in one result."""
    layout, values = moved[0]
    for other, some in moved[1:]:
        whole, a, b = join(layout, other)
        base = take(part, whole.at)
        base = _put(base, a, values.to(base.dtype))
        layout, values = whole, _put(base, b, some.to(base.dtype))
    return layout, values


def _put(base: Tensor, place: Any, values: Tensor) -> Tensor:
    if place is None:
        return torch.where(values != base, values, base) if values.shape == base.shape else values
    where = torch.arange(place, device=base.device) if isinstance(place, int) else place
    return base.index_copy(0, where, values)


def _attach(region: Any, func: Func, args: Any, kwargs: Any, out: Tensor, layout: Layout, values: Tensor) -> Tensor:
    if not out.is_floating_point():
        return carry(region, out, layout, values)
    plain = func(*replaced(args, plain_of), **replaced(kwargs, plain_of))
    mark(region, out, Flips(layout, values, plain))
    return out


def _each(region: Any, func: Func, args: Any, kwargs: Any, out: Any, results: list[Any]) -> Any:
    """Let each result carry its entries; floats had their gradient from their operands."""
    parts = list(leaves(out))
    plain = None
    if any(part.is_floating_point() for part in parts):
        plain = list(leaves(func(*replaced(args, plain_of), **replaced(kwargs, plain_of))))
    for i, (part, (layout, values)) in enumerate(zip(parts, results)):
        mark(region, part, Flips(layout, values.to(part.dtype), None if plain is None else plain[i]))
    return out


_KEEP_ORDER = {
    "view", "reshape", "flatten", "unflatten", "ravel", "squeeze", "unsqueeze", "view_as", "reshape_as", "clone",
    "contiguous", "view_copy", "squeeze_copy", "unsqueeze_copy", "atleast_1d",
}  # fmt: skip


# --- reductions ---


def reduce_sum(region: Any, func: Func, args: tuple[Any, ...], kwargs: dict[str, Any]) -> Any:
    """A sum of integers: each flip changes it by what it changes. (Floats meet: their gradient is right.)"""
    x = args[0]
    found = flips_of(x)
    if found is None or (x.is_floating_point() and found.layout.size > MAX_OF_SUM):
        return func(*args, **kwargs)
    name = op_name(func)
    hard = func(*(plain_of(x), *args[1:]), **kwargs)
    if hard.is_floating_point() and not x.is_floating_point():
        named = {name: value for name, value in kwargs.items() if name != "dtype"}
        return region.call(func, region.call(torch.Tensor.to, x, hard.dtype), *args[1:], **named)
    if name == "count_nonzero":
        found = Flips(found.layout, (found.values != 0).to(hard.dtype))
        x = x != 0
    named = dict(zip(("dim", "keepdim"), args[1:]), **kwargs)
    dim = tuple(named["dim"]) if isinstance(named.get("dim"), list) else named.get("dim")
    key = "sum", x.shape, dim
    layout, entry = _summed(found.layout, x, hard, dim, key)
    change = found.values.to(hard.dtype) - take(x, found.layout.at).to(hard.dtype)
    if name == "mean":
        change = change * (hard.numel() / max(x.numel(), 1))
    if hard.is_floating_point():
        change = torch.nan_to_num(change, nan=0.0, posinf=0.0, neginf=0.0)
    total = torch.zeros(layout.size, dtype=hard.dtype, device=hard.device).index_add(0, entry, change)
    return carry(region, hard, layout, take(hard, layout.at) + total)


MAX_OF_SUM = 1024
"""A sum of floats with more entries is met at once."""


def _summed(layout: Layout, x: Tensor, hard: Tensor, dim: Any, key: Any) -> tuple[Layout, Tensor]:
    """The layout of a sum, and to which of its entries each entry of the summands goes."""
    if key in layout.moves:
        return layout.moves[key]
    dims = range(x.dim()) if dim is None or dim == () else (dim,) if isinstance(dim, int) else dim
    keep = [1 if d in {i % max(x.dim(), 1) for i in dims} else n for d, n in enumerate(x.shape)]
    row = torch.arange(hard.numel(), device=x.device).reshape(keep).expand(x.shape).reshape(-1)
    at = row.index_select(0, layout.at)
    parts = dict.fromkeys(block.decision for block in layout.blocks)
    single = len(parts) == len(layout.blocks) and all(block.single for block in layout.blocks)
    if single:
        blocks = []
        for block, here in zip(layout.blocks, at.split([block.size for block in layout.blocks])):  # type: ignore[no-untyped-call]
            found = block.moved.setdefault(key, Block(block.decision, block.flip, here, True))
            blocks.append(found)
        result = Layout(tuple(blocks)), torch.arange(layout.size, device=x.device)
    else:
        result = _grouped(layout, at, hard.numel())
    layout.moves[key] = result
    return result


def _grouped(layout: Layout, at: Tensor, many: int) -> tuple[Layout, Tensor]:
    """The entries went to `at`: those of one flip at one place come together."""
    number = {decision: i for i, decision in enumerate(dict.fromkeys(block.decision for block in layout.blocks))}
    flips = torch.cat([block.flips() for block in layout.blocks])
    most = int(flips.max()) + 1 if flips.numel() else 1
    which = torch.tensor([number[block.decision] for block in layout.blocks], device=at.device)
    which = which.repeat_interleave(torch.tensor([block.size for block in layout.blocks], device=at.device))
    keys, entry = torch.unique((which * most + flips) * many + at, return_inverse=True)
    at, flips, sizes = keys % many, keys // many, torch.bincount(keys // many // most, minlength=len(number)).tolist()
    pieces = zip(number, (flips % most).split(sizes), at.split(sizes))  # type: ignore[no-untyped-call]
    return Layout(tuple(Block(decision, flip, here, False) for decision, flip, here in pieces)), entry
