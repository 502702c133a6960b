"""Whatever else there is: the function runs again in each flip, all flips at once where `torch.vmap` can."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor

from ..interface import Carried
from .entries import Block, Decision, Flips, Layout, carry, held_by, mark
from .identity import batched
from .mapped import Func, plain_of
from .moving import carriers, leaves, replaced
from .primitives import take
from .uses import REMEDIES, op_name, unwrapped

__all__ = ["Ragged", "differs", "flip_by_flip", "lost", "ragged"]

MAX_ELEMENTS = 2**24
"""What is computed for all flips together."""
MAX_CALLS = 256
"""Calls for one flip each, where they cannot be computed together."""


class Ragged(Carried):
    """What a result is in each flip, where its shape depends on the decision: what a mask selects."""

    def __init__(self, flips: AllFlips, values: list[Tensor]) -> None:
        self.flips = flips
        self.values = values


def ragged(x: Any) -> Ragged | None:
    return held_by(x, Ragged)


def flip_by_flip(region: Any, func: Func, args: tuple[Any, ...], kwargs: dict[str, Any]) -> Any:
    """Any function: it runs again in each flip. If only floats carry any, they meet in it."""
    found = carriers(args, kwargs)
    loose = {id(x): r for x in leaves((args, kwargs)) if (r := ragged(x)) is not None}
    if not loose and all(x.is_floating_point() for x, _ in found):
        return func(*args, **kwargs)
    name, flips = op_name(func), AllFlips(found, list(loose.values()))
    again = None if name[-1:] == "_" and name[-2:] != "__" else _in_flips(func, args, kwargs, found, loose, flips)
    if again is None:
        lost(region, func, found, REMEDIES.get(name, "too many decisions are open, or it writes. Take a smaller eps."))
        return func(*args, **kwargs)
    out = func(*replaced(args, plain_of), **replaced(kwargs, plain_of))
    parts = list(leaves(out))
    if not parts:
        lost(region, func, found, REMEDIES.get(name, "its result is no tensor."))
        return out
    region.selects = region.selects or any(isinstance(values, list) for values in again)
    for part, values in zip(parts, again):
        if isinstance(values, list):
            mark(region, part, Ragged(flips, values))
            continue
        hard = part.detach().reshape(1, -1)
        other = (values != hard) & ~((values != values) & (hard != hard))
        other = torch.ones(other.shape, dtype=torch.bool, device=other.device) if batched(other) else other
        flip, at = other.nonzero(as_tuple=True)
        carried = carry(region, part, flips.layout(flip, at), values[flip, at])
        if carried is not part:
            out = replaced(out, lambda x: carried if x is part else x)  # noqa: B023
    return out


class AllFlips:
    """The flips of several operands, numbered: those of one decision after those of another."""

    def __init__(self, found: list[tuple[Tensor, Flips]], loose: list[Ragged]) -> None:
        flips_of: dict[Decision, list[Tensor]] = {}
        for _, carried in found:
            for block in carried.layout.blocks:
                flips_of.setdefault(block.decision, []).append(block.flips())
        for ragged in loose:
            for decision, flips in ragged.flips.of.items():
                flips_of.setdefault(decision, []).append(flips)
        self.of: dict[Decision, Tensor] = {d: torch.unique(torch.cat(flips)) for d, flips in flips_of.items()}
        self.size = sum(flips.numel() for flips in self.of.values())

    def number(self, other: AllFlips) -> dict[int, int]:
        """Which of these each of the others is."""
        mine = {(id(d), flip): i for i, (d, flip) in enumerate(self._each())}
        return {mine[id(d), flip]: i for i, (d, flip) in enumerate(other._each())}

    def _each(self) -> list[tuple[Decision, int]]:
        return [(decision, flip) for decision, flips in self.of.items() for flip in flips.tolist()]

    def numbers(self, layout: Layout) -> Tensor:
        """Of the entries of a layout."""
        starts, start = {}, 0
        for decision, flips in self.of.items():
            starts[decision] = start
            start += flips.numel()
        parts = [torch.searchsorted(self.of[b.decision], b.flips()) + starts[b.decision] for b in layout.blocks]
        return torch.cat(parts)

    def layout(self, flip: Tensor, at: Tensor) -> Layout:
        """Entries with these (sorted) numbers."""
        ends = torch.tensor([flips.numel() for flips in self.of.values()], device=flip.device).cumsum(0)
        stops = torch.searchsorted(flip, ends).tolist()
        blocks, begin, start = [], 0, 0
        for (decision, flips), stop in zip(self.of.items(), stops):
            blocks.append(Block(decision, flips[flip[begin:stop] - start], at[begin:stop], False))
            begin, start = stop, start + flips.numel()
        return Layout(tuple(blocks))


def _in_flips(
    func: Func, args: Any, kwargs: Any, found: Any, loose: dict[int, Ragged], flips: AllFlips
) -> list[Any] | None:
    """Each result in all flips, (flips, elements), or a list where the shapes differ; None if there are too many."""
    most = max(x.numel() for x in leaves((args, kwargs)))
    if flips.size * most > MAX_ELEMENTS:
        return None
    changed: dict[int, Any] = {}
    for x, carried in found:
        rows = x.detach().reshape(1, -1).repeat(flips.size, 1)
        rows = rows.index_put((flips.numbers(carried.layout), carried.layout.at), carried.values.to(x.dtype))
        changed[id(x)] = rows.reshape(flips.size, *x.shape)
    order = list(changed)

    def call(given: Any, also: dict[int, Tensor]) -> tuple[Tensor, ...]:
        by = dict(zip(order, given)) | also
        put: Callable[[Tensor], Tensor] = lambda x: by.get(id(x), x.detach())
        return tuple(leaves(func(*replaced(args, put), **replaced(kwargs, put))))

    with torch.no_grad():
        if not flips.size:
            return [part.reshape(1, -1)[:0] for part in call((), {})]
        try:
            if not loose:
                return [x.reshape(flips.size, -1) for x in torch.vmap(lambda *x: call(x, {}))(*changed.values())]
        except (RuntimeError, ValueError):
            pass
        if flips.size > MAX_CALLS:
            return None
        numbers = {key: flips.number(r.flips) for key, r in loose.items()}
        rows = []
        for i in range(flips.size):
            also = {key: loose[key].values[number[i]] for key, number in numbers.items() if i in number}
            try:
                rows.append(call([x[i] for x in changed.values()], also))
            except (RuntimeError, IndexError):  # the program would have failed there
                rows.append(call((), {}))
        hard = call((), {})
    return [_together(part, [row[i] for row in rows]) for i, part in enumerate(hard)]


def _together(hard: Tensor, values: list[Tensor]) -> Any:
    if any(value.shape != hard.shape for value in values):
        return values
    return torch.stack(values).reshape(len(values), -1)


def lost(region: Any, func: Func, found: list[Any], why: str) -> None:
    region.lose(op_name(func), [], why, undecided=lambda: any(differs(x, flips) for x, flips in found))


def differs(x: Tensor, flips: Flips) -> bool:
    """Whether there is a flip in which `x` is not what it is."""
    return bool(unwrapped(flips.values != take(x, flips.layout.at)).any())
