"""What goes into transforms of `torch.func` and comes out of them.

Nobody is told when a tensor is wrapped for a transform, or when the wrapper is taken off. So what is beneath a wrapper
carries what the wrapper does. Where `vmap` moves the batch it returns a view of that, which is known by its base.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any
from weakref import ref

import torch
from torch import Tensor

from .._carry.interface import Func, Mark, held, tensors
from .._rules.index import ASKS, op_name
from .threads import THREAD

_INTO = "it was made outside of vmap; make it inside, or pass a float."
_OUT = "it was made in a function that vmap called, and came out as a plain tensor. Return a float."
_is_wrapped, _beneath = torch._C._functorch.is_functorch_wrapped_tensor, torch._C._functorch.get_unwrapped


class Inside(Mark):
    """Of what is beneath a wrapper: that carries something, which ends with the transform."""

    def met(self, region: Any, func: Func, x: Tensor, out: Any) -> None:
        """Used outside."""
        if func not in ASKS and not torch._C._are_functorch_transforms_active():
            x._sll = None  # type: ignore[attr-defined]
            region.lose(op_name(func), [], _OUT, undecided=lambda: True)


def handled(region: Any, func: Func, args: Any, kwargs: Any, ruled: Callable[..., Any]) -> Any:
    """A call in a transform of torch.func."""
    for x in tensors(args, kwargs):
        if not x.is_floating_point():
            _find(region, func, x)
            if held(x, Inside):
                region.lose(func.__name__, [], _OUT, undecided=lambda: True)
    out = ruled(func, args, kwargs)
    for x in tensors((out,), {}):
        if not x.is_floating_point() and region.engine.decided(x):
            _hand_down(region, x)
    return out


def _find(region: Any, func: Func, x: Tensor) -> None:
    """Let `x` carry what it should, if a transform has wrapped it, or returned it as a view."""
    engine, base = region.engine, x._base
    if engine.carried(x) or held(x, Inside):
        return
    if base is not None and held(base, Inside):
        region.mark(x, Inside())
    elif base is not None and engine.decided(base):
        engine.viewed(region, x, base)
        if func not in ASKS and not engine.carried(x):
            region.lose(op_name(func), [base], _OUT)
    elif _is_wrapped(x):
        below = _beneath(x)
        _find(region, func, below)
        if held(below, Inside):
            region.mark(x, Inside())
        elif engine.decided(below) and not engine.wrapped(region, x, below):
            region.lose(func.__name__, [below], _INTO)


def _hand_down(region: Any, x: Tensor) -> None:
    """Let what is beneath `x` carry what `x` does."""
    known = True
    while _is_wrapped(x):
        below = _beneath(x)
        pair = getattr(below, "_sll", None)
        if pair is not None and pair[1] in (None, below._version):
            return
        known = known and region.engine.beneath(region, x, below)
        if not known:
            region.mark(below, Inside())
        THREAD.beneath.append(ref(below))
        THREAD.alone = False
        x = below


def returned(x: Tensor, base: Tensor) -> None:
    """Where a function that `vmap` called returns what it did not make, that is expanded, and nobody is told."""
    if 0 in x.stride() and not x.is_floating_point():
        THREAD.beneath.append(ref(base))
        THREAD.alone = False


def views(region: Any, func: Func, args: Any, kwargs: Any) -> None:
    """Something came out of a transform, and may be an operand."""
    if not THREAD.beneath:
        return
    THREAD.beneath = [held for held in THREAD.beneath if getattr(held(), "_sll", None) is not None]
    if not THREAD.beneath:
        THREAD.look()
    elif not torch._C._are_functorch_transforms_active():
        for x in tensors(args, kwargs):
            if not x.is_floating_point():
                _find(region, func, x)
