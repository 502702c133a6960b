"""How many boundaries a number passes: decided at the nearest of them."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from ..._ops.env import tracked
from ..boundaries import edges_of, nearest, own_ranks, passing
from ..found import mark
from ..interface import Func
from .deciding import at_boundary
from .entries import Layout, carry, flips_of
from .every import flip_by_flip
from .orders import Order
from .primitives import take


def passed(region: Any, func: Func, args: tuple[Any, ...], kwargs: dict[str, Any], op: str = "searchsorted") -> Any:
    """``searchsorted`` and ``bucketize``: one decision, at the nearest boundary."""
    call, x, table, sorter, _ = passing(func, args, kwargs)
    table = table if sorter is None else _in_order(region, op, table, sorter)
    if not (tracked(x) or tracked(table)) or not region.linearizes(op) or not table.numel():
        return flip_by_flip(region, func, args, kwargs)
    hard = call(x)
    if own_ranks(table, x):
        ranks = Order(x, -1, False)  # how many of its own sorted values each element passes
        ranks.flips(region, op)
        ranks.carry_by_element(region, hard)
        return hard
    at = nearest(hard, table, x)
    block, up = at_boundary(at.value, at.target, region.eps_for(op), at.limit.detach(), hard == at.above)
    values = torch.where(up, take(at.above, block.at), take(at.below, block.at))
    return carry(region, hard, Layout((block,)), values.to(hard.dtype))


def _in_order(region: Any, op: str, table: Tensor, sorter: Tensor) -> Tensor:
    """What `sorter` sorts. Of `table`'s own order it is known; what flips with another one is not followed."""
    found = flips_of(sorter)
    ordered = table.gather(-1, sorter.detach())
    if found is None:
        return ordered
    own = Order(table, -1, False)
    own.places = sorter.detach().reshape(-1, sorter.shape[-1])
    own.flips(region, op)
    if any(block.decision is not own.decision for block in found.layout.blocks):
        region.lose("searchsorted", [sorter], "the sorter is not the order of what it sorts.")
        return ordered
    return mark(region, ordered, table, -1, False)  # type: ignore[no-any-return]


def histogram(region: Any, func: Func, args: tuple[Any, ...], kwargs: dict[str, Any]) -> Any:
    """``histc``: which bin an element is in is decided at the edges."""
    x, hard = args[0], func(*args, **kwargs)
    if not tracked(x) or not region.linearizes("histc"):
        return hard
    edges, whole = edges_of(*args, **kwargs)
    flat, bins = x.reshape(-1).to(edges.dtype), edges.numel() - 1
    index = passed(region, torch.bucketize, (flat, edges), {"right": True}, "histc")
    last = flat.detach() == edges[-1]
    # The outermost edges of the data move with it, and nothing crosses them.
    index = region.call(torch.clamp, index, 1, bins) if whole else region.call(torch.where, last, bins, index)
    here = region.call(torch.eq, region.call(torch.unsqueeze, index, -1), torch.arange(1, bins + 1, device=x.device))
    own = region.call(torch.sum, here, 0)
    counts = flips_of(own)
    if counts is None:
        return hard
    change = counts.values - take(own, counts.layout.at)  # (`histc` may round an element into another bin)
    return carry(region, hard.detach(), counts.layout, take(hard, counts.layout.at) + change.to(hard.dtype))
