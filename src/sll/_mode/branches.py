"""`torch.cond` and `torch.while_loop`, which take functions: those run in the region, as if the program called them."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor
from torch._higher_order_ops.cond import cond_op
from torch._higher_order_ops.while_loop import while_loop_op
from torch.utils._pytree import tree_flatten, tree_unflatten

from .._carry.interface import Func


def branch(region: Any, func: Func, args: tuple[Any, ...], kwargs: dict[str, Any]) -> Any:
    """`torch.cond`: where the condition is in its band, both sides count, as of `torch.where`."""
    if region.linear is None:
        return func(*args, **kwargs)
    pred, *sides, operands = (*args, *kwargs.values())
    engine = region.carrier_of(pred) if isinstance(pred, Tensor) and torch.is_grad_enabled() else None
    if engine is None or not engine.decided(pred) or not engine.in_band(pred):
        return region.within(sides[0] if pred else sides[1], *operands)
    found = [tree_flatten(region.within(side, *operands)) for side in sides]
    chosen = [
        region.within(torch.where, pred, a, b) if isinstance(a, Tensor) else a for a, b in zip(found[0][0], found[1][0])
    ]
    return tree_unflatten(chosen, found[0][1])


def loop(region: Any, func: Func, args: tuple[Any, ...], kwargs: dict[str, Any]) -> Any:
    """`torch.while_loop`"""
    if region.linear is None:
        return func(*args, **kwargs)
    more, body, values, *others = (*args, *kwargs.values())
    fixed = others[0] if others else ()
    while region.within(lambda *xs: bool(more(*xs)), *values, *fixed):
        values = region.within(body, *values, *fixed)
    return values


BRANCHES: dict[Any, Any] = {cond_op: branch, while_loop_op: loop}
