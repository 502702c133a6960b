"""Whatever else there is: the function runs again in each flip, all flips at once where `torch.vmap` can."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor

from .entries import Block, Decision, Flips, Layout, carry, flips_of
from .identity import batched
from .mapped import Func, plain_of
from .moving import carriers, leaves, replaced
from .primitives import take
from .uses import REMEDIES, op_name, unwrapped

__all__ = ["differs", "flip_by_flip", "lost"]

MAX_ELEMENTS = 2**24
"""What is computed for all flips together."""
MAX_CALLS = 256
"""Calls for one flip each, where they cannot be computed together."""


def flip_by_flip(region: Any, func: Func, args: tuple[Any, ...], kwargs: dict[str, Any]) -> Any:
    """Any function: it runs again in each flip. If only floats carry any, they meet in it."""
    found = carriers(args, kwargs)
    if all(x.is_floating_point() for x, _ in found):
        return func(*args, **kwargs)
    name, flips = op_name(func), _all_flips(found)
    changed = None if name[-1:] == "_" else _in_flips(func, args, kwargs, found, flips)
    if changed is None:
        out = func(*args, **kwargs)
        why = "what it does depends on too many decisions, or its shape does."
        lost(region, func, found, REMEDIES.get(name, why))
        return out
    out = func(*replaced(args, plain_of), **replaced(kwargs, plain_of))
    parts = list(leaves(out))
    if not parts:
        lost(region, func, found, REMEDIES.get(name, "its result is no tensor."))
        return out
    if any(c.shape[1] != part.numel() for c, part in zip(changed, parts)):
        lost(region, func, found, "its shape depends on the decision.")
        return func(*args, **kwargs)
    for part, values in zip(parts, changed):
        hard = part.detach().reshape(1, -1)
        other = (values != hard) & ~((values != values) & (hard != hard))
        other = torch.ones(other.shape, dtype=torch.bool, device=other.device) if batched(other) else other
        flip, at = other.nonzero(as_tuple=True)
        carried = carry(region, part, flips.layout(flip, at), values[flip, at])
        if carried is not part:
            out = replaced(out, lambda x: carried if x is part else x)  # noqa: B023
    return out


class _AllFlips:
    """The flips of several operands, numbered: those of one decision after those of another."""

    def __init__(self, of: dict[Decision, Tensor]) -> None:
        self.of = of
        self.size = sum(flips.numel() for flips in of.values())

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


def _all_flips(found: list[tuple[Tensor, Flips]]) -> _AllFlips:
    of: dict[Decision, list[Tensor]] = {}
    for _, flips in found:
        for block in flips.layout.blocks:
            of.setdefault(block.decision, []).append(block.flips())
    return _AllFlips({decision: torch.cat(flips).unique() for decision, flips in of.items()})


def _in_flips(
    func: Func, args: Any, kwargs: Any, found: Any, flips: _AllFlips
) -> list[Tensor] | None:
    """The results in all flips, (flips, elements) each; None if there are too many."""
    most = max(x.numel() for x in leaves((args, kwargs)))
    if flips.size * most > MAX_ELEMENTS:
        return None
    changed = {}
    for x, carried in found:
        rows = x.detach().reshape(1, -1).repeat(flips.size, 1)
        rows = rows.index_put((flips.numbers(carried.layout), carried.layout.at), carried.values.to(x.dtype))
        changed[id(x)] = rows.reshape(flips.size, *x.shape)
    order = list(changed)
    if not flips.size:
        return _of_none(func, args, kwargs)

    def call(*given: Tensor) -> tuple[Tensor, ...]:
        by = dict(zip(order, given))
        put: Callable[[Tensor], Tensor] = lambda x: by.get(id(x), x.detach())
        return tuple(leaves(func(*replaced(args, put), **replaced(kwargs, put))))

    with torch.no_grad():
        try:
            out = torch.vmap(call)(*changed.values())
        except (RuntimeError, ValueError):
            out = None
        if out is None:
            if flips.size > MAX_CALLS:
                return None
            out = _one_by_one(call, list(changed.values()), flips.size)
    return out and [part.reshape(flips.size, -1) for part in out]


def _of_none(func: Func, args: Any, kwargs: Any) -> list[Tensor]:
    """The results in no flips."""
    detached: Callable[[Tensor], Tensor] = lambda x: x.detach()
    with torch.no_grad():
        out = func(*replaced(args, detached), **replaced(kwargs, detached))
    return [part.reshape(1, -1)[:0] for part in leaves(out)]


def _one_by_one(call: Callable[..., Any], given: list[Tensor], many: int) -> list[Tensor] | None:
    rows: list[tuple[Tensor, ...]] = []
    for i in range(many):
        try:
            rows.append(call(*[x[i] for x in given]))
        except (RuntimeError, IndexError):  # the program would have failed there
            return None
    if any(a.shape != b.shape for row in rows for a, b in zip(row, rows[0])):
        return None
    return [torch.stack(parts) for parts in zip(*rows)]


def lost(region: Any, func: Func, found: list[Any], why: str) -> None:
    region.lose(op_name(func), [], why, undecided=lambda: any(differs(x, flips) for x, flips in found))


def differs(x: Tensor, flips: Flips) -> bool:
    """Whether there is a flip in which `x` is not what it is."""
    return bool(unwrapped(flips.values != take(x, flips.layout.at)).any())
