"""Functions that move elements, reductions, and whatever else there is: flip by flip."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from typing import Any

import torch
from torch import Tensor

from .entries import Block, Flips, Layout, carry, flips_of, join, spread, values_on
from .mapped import Func, plain_of
from .primitives import take
from .uses import op_name

__all__ = ["carriers", "flip_by_flip", "move", "reduce_sum", "replaced"]

MAX_FLIPS = 256
"""A function of which nothing is known runs once for each flip, up to this many."""
_FILLED = -1


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


def _key(func: Func, shape: Any, args: Any, kwargs: Any) -> Any:
    """What says how a call moves elements; None if that depends on tensors."""
    key = op_name(func), shape, args, tuple(kwargs.items())
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
        return out
    if isinstance(out, Tensor):
        if any(out is x for x, _ in found):
            return out
        x, flips = found[0]
        if len(found) == 1 and op_name(func) in _KEEP_ORDER:
            return _attach(region, func, args, kwargs, out, flips.layout, flips.values)
        if out.is_floating_point() and any(not x.is_floating_point() for x, _ in found):
            as_float = lambda x: region.call(torch.Tensor.to, x, out.dtype) if flips_of(x) else x
            return region.call(func, *replaced(args, as_float), **replaced(kwargs, as_float))
    starts, end = {}, 0
    for x in leaves((args[:1], kwargs.get("tensors"))):
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
        layout, values = None, None
        for x, flips in found:
            of, entry = spread(flips.layout, key and (*key, i), lambda: source - starts[id(x)])  # noqa: B023
            moved = flips.values[entry]
            if layout is None:
                layout, values = of, moved
            else:
                whole, a, b = join(layout, of)
                base = take(part, whole.at)
                for place, some in ((a, values), (b, moved)):
                    base = _put(base, place, some.to(base.dtype))
                layout, values = whole, base
        results.append((layout, values))
    return _each(region, func, args, kwargs, out, results)


def _put(base: Tensor, place: Any, values: Tensor) -> Tensor:
    if place is None:
        return torch.where(values != base, values, base) if values.shape == base.shape else values
    where = torch.arange(place, device=base.device) if isinstance(place, int) else place
    return base.index_copy(0, where, values)


def _attach(
    region: Any, func: Func, args: Any, kwargs: Any, out: Tensor, layout: Layout, values: Tensor
) -> Tensor:
    if not out.is_floating_point():
        return carry(region, out, layout, values)
    plain = func(*replaced(args, plain_of), **replaced(kwargs, plain_of))
    out._sll = Flips(layout, values, plain), out._version  # type: ignore[attr-defined]
    region.adopt(out)
    return out


def _each(region: Any, func: Func, args: Any, kwargs: Any, out: Any, results: list[Any]) -> Any:
    """Let each result carry its entries; floats had their gradient from their operands."""
    parts = list(leaves(out))
    plain = None
    if any(part.is_floating_point() for part in parts):
        plain = list(leaves(func(*replaced(args, plain_of), **replaced(kwargs, plain_of))))
    for i, (part, (layout, values)) in enumerate(zip(parts, results)):
        if layout is None:
            continue
        part._sll = Flips(layout, values.to(part.dtype), None if plain is None else plain[i]), part._version
        region.adopt(part)
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
    if found is None or x.is_floating_point():
        return func(*args, **kwargs)
    hard = func(*args, **kwargs)
    if hard.is_floating_point():
        named = {name: value for name, value in kwargs.items() if name != "dtype"}
        return func(region.call(torch.Tensor.to, x, hard.dtype), *args[1:], **named)
    if op_name(func) == "count_nonzero":
        found = Flips(found.layout, (found.values != 0).to(hard.dtype))
        x = x != 0
    named = dict(zip(("dim", "keepdim"), args[1:]), **kwargs)
    key = "sum", x.shape, _hashable(named.get("dim"))
    layout, entry = _summed(found.layout, x, hard, named.get("dim"), key)
    change = found.values.to(hard.dtype) - take(x, found.layout.at).to(hard.dtype)
    total = torch.zeros(layout.size, dtype=hard.dtype, device=hard.device).index_add(0, entry, change)
    return carry(region, hard, layout, take(hard, layout.at) + total)


def _hashable(dim: Any) -> Any:
    return tuple(dim) if isinstance(dim, list) else dim


def _summed(layout: Layout, x: Tensor, hard: Tensor, dim: Any, key: Any) -> tuple[Layout, Tensor]:
    """The layout of a sum, and to which of its entries each entry of the summands goes."""
    if key in layout.moves:
        return layout.moves[key]
    dims = range(x.dim()) if dim is None or dim == () else (dim,) if isinstance(dim, int) else dim
    keep = [1 if d in {i % max(x.dim(), 1) for i in dims} else n for d, n in enumerate(x.shape)]
    row = torch.arange(hard.numel(), device=x.device).reshape(keep).expand(x.shape).reshape(-1)
    at = row.index_select(0, layout.at)
    blocks, entries, start, end = [], [], 0, 0
    for block in layout.blocks:
        here = at[start : start + block.size]
        start += block.size
        found = block.moved.get(key)
        inverse = None
        if found is None or not block.single:
            found, inverse = _grouped(block, here, hard.numel()) if found is None or True else (found, None)
            if key in block.moved:
                found = block.moved[key]
            block.moved[key] = found
        if inverse is None:
            inverse = torch.arange(block.size, device=x.device)
        blocks.append(found)
        entries.append(inverse + end)
        end += found.size
    result = Layout(tuple(blocks)), torch.cat(entries)
    layout.moves[key] = result
    return result


def _grouped(block: Block, at: Tensor, many: int) -> tuple[Block, Tensor | None]:
    """A block whose entries went to `at`, those of one flip at one place together."""
    if block.single:
        return Block(block.decision, block.flip, at, True), None
    keys, inverse = torch.unique(block.flips() * many + at, return_inverse=True)
    return Block(block.decision, keys // many, keys % many, False), inverse


# --- everything else ---


def flip_by_flip(region: Any, func: Func, args: tuple[Any, ...], kwargs: dict[str, Any]) -> Any:
    """Any function: it runs again for each flip of its discrete operands. Float operands meet in it."""
    out = func(*args, **kwargs)
    found = [(x, flips) for x, flips in carriers(args, kwargs) if not x.is_floating_point()]
    parts = list(leaves(out))
    if not found or not parts or any(part is x for part in parts for x, _ in found):
        return out
    worlds = _worlds(found)
    if sum(many.numel() for _, many, _ in worlds) > MAX_FLIPS:
        return _lost(region, func, found, out, "too many decisions are open. Take a smaller eps.")
    flat = [(part.detach().reshape(-1), [], [], []) for part in parts]
    decisions = [decision for decision, _, _ in worlds]
    for number, (_, flips, pick) in enumerate(worlds):
        for flip in flips.tolist():
            changed = {id(x): _in_flip(x, f, pick(f, flip)) for x, f in found}
            put = lambda x: changed.get(id(x), x.detach())  # noqa: B023
            with torch.no_grad():
                try:
                    again = func(*replaced(args, put), **replaced(kwargs, put))
                except (RuntimeError, IndexError):
                    continue  # the program would have failed there
            for (hard, ats, values, of), other in zip(flat, leaves(again)):
                if other.numel() != hard.numel():
                    return _lost(region, func, found, out, "its shape depends on the decision.")
                other = other.reshape(-1)
                at = ((other != hard) & ~((other != other) & (hard != hard))).nonzero().squeeze(1)
                ats.append(at)
                values.append(other[at])
                of.append((number, flip))
    for part, (_, ats, values, of) in zip(parts, flat):
        layout, order = _collected(decisions, ats, of)
        if layout is None:
            continue
        known = torch.cat([values[i] for i in order])
        carried = carry(region, part, layout, known)
        if carried is not part:
            out = replaced(out, lambda x: carried if x is part else x)  # noqa: B023
    return out


def _worlds(found: list[tuple[Tensor, Flips]]) -> list[Any]:
    """All decisions, their flips, and which entries belong to one."""
    flips_by: dict[Any, list[Tensor]] = {}
    for _, flips in found:
        for block in flips.layout.blocks:
            flips_by.setdefault(block.decision, []).append(block.flips())

    def picker(decision: Any) -> Callable[[Flips, int], Tensor]:
        def pick(flips: Flips, flip: int) -> Tensor:
            masks = [
                b.flips() == flip if b.decision is decision else torch.zeros(b.size, dtype=torch.bool)
                for b in flips.layout.blocks
            ]
            return torch.cat(masks).nonzero().squeeze(1)

        return pick

    return [(decision, torch.cat(flips).unique(), picker(decision)) for decision, flips in flips_by.items()]


def _in_flip(x: Tensor, flips: Flips, entries: Tensor) -> Tensor:
    flat = x.detach().reshape(-1).index_copy(0, flips.layout.at[entries], flips.values[entries])
    return flat.reshape(x.shape)


def _collected(decisions: list[Any], ats: list[Tensor], of: list[tuple[int, int]]) -> tuple[Layout | None, list[int]]:
    blocks, order = [], []
    for number, decision in enumerate(decisions):
        mine = [i for i, (n, _) in enumerate(of) if n == number]
        if not mine:
            continue
        flip = torch.cat([torch.full_like(ats[i], of[i][1]) for i in mine])
        blocks.append(Block(decision, flip, torch.cat([ats[i] for i in mine]), False))
        order += mine
    return (Layout(tuple(blocks)) if blocks else None), order


def _lost(region: Any, func: Func, found: list[Any], out: Any, why: str) -> Any:
    many = sum(flips.layout.size for _, flips in found)
    region.lose(op_name(func), [], why, undecided=lambda: many > 0)
    return out
