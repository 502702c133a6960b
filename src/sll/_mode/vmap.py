"""What goes into `torch.vmap` and comes out of it: masks and indices carry nothing across, and that is reported."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor

from .._carry.interface import Carried, Engine, Func, tensors
from .._ops.env import unwrapped
from .._rules.index import ASKS, op_name

__all__ = ["came_out", "handled"]

_OUTSIDE = "it was made outside of vmap; make it inside, or pass a float."
_INSIDE = "it was made in a function that vmap called, and came out as a plain tensor. Return a float."


class Inside(Carried):
    """Of the tensor behind a batched one: that carries something. What `vmap` returns is the tensor behind."""


def handled(region: Any, func: Func, args: Any, kwargs: Any, ruled: Callable[..., Any]) -> Any:
    """A call in a transform of torch.func."""
    outside = _decided_outside(region.engine, args, kwargs)
    if outside:
        region.lose(func.__name__, outside, _OUTSIDE)
    out = ruled(func, args, kwargs)
    for x in tensors((out,), {}):
        if not x.is_floating_point() and region.engine.decided(x) and torch._C._functorch.is_batchedtensor(x):
            behind = torch._C._functorch.get_unwrapped(x)
            if getattr(behind, "_sll", None) is None and region.keep(behind):
                behind._sll = Inside(), None  # type: ignore[attr-defined]
                region.mark()
    return out


def _decided_outside(engine: Engine, args: tuple[Any, ...], kwargs: dict[str, Any]) -> list[Tensor]:
    """Discrete operands that carry something which their batched selves do not."""
    functorch = torch._C._functorch
    found = []
    for x in tensors(args, kwargs):
        if not x.is_floating_point() and not engine.carried(x) and functorch.is_batchedtensor(x):
            x = unwrapped(x)
            if engine.decided(x):
                found.append(x)
    return found


def came_out(region: Any, func: Func, known: list[Tensor]) -> None:
    """What came out of `vmap` is used."""
    marked: list[Any] = [x for x in known if isinstance(x._sll and x._sll[0], Inside)]  # type: ignore[attr-defined]
    if not marked or func in ASKS or torch._C._are_functorch_transforms_active():
        return
    for x in marked:
        x._sll = None
    region.lose(op_name(func), [], _INSIDE, undecided=lambda: True)
