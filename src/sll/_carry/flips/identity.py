"""The same question has the same flips: what was asked of a tensor before."""

from __future__ import annotations

import threading
import weakref
from typing import Any, TypeVar

import torch
from torch import Tensor

from .entries import Block

__all__ = ["again", "batched", "held"]

T = TypeVar("T")


class _Asked(threading.local):
    """By the id of the operand: what was asked, and what was found, as long as somebody carries it."""

    def __init__(self) -> None:
        self.of: dict[int, tuple[weakref.ref[Tensor], list[tuple[Any, weakref.ref[Any]]]]] = {}


_ASKED = _Asked()
_KEPT = 8
"""So many questions about one tensor are remembered."""


def batched(x: Tensor) -> bool:
    """Whether which elements are open cannot be read: under `torch.vmap`."""
    if not torch._C._are_functorch_transforms_active():
        return False
    functorch = torch._C._functorch
    while functorch.is_functorch_wrapped_tensor(x):
        if functorch.is_batchedtensor(x):
            return True
        x = functorch.get_unwrapped(x)
    return False


def held(x: Any) -> Any:
    """What stands for an operand or a width in a question."""
    if isinstance(x, Tensor):
        return id(x), x._version
    return float(x) if isinstance(x, (int, float)) else (type(x), getattr(x, "policy", None), getattr(x, "kind", None))


def again(x: Tensor, key: Any, found: T, what: tuple[Tensor, ...]) -> T:
    """`found`, a block or a decision, or the one of before, if the same was asked and `what` has not changed (a write
    may go unseen). Of a decision whose block is gone, `found` is a block now.
    """
    known = _ASKED.of.get(id(x))
    if known is None or known[0]() is not x:
        place, of = id(x), _ASKED.of
        known = of[place] = weakref.ref(x, lambda _: of.pop(place, None)), []
    key = (x._version, key)
    for other, ref in known[1]:
        before = ref() if other == key else None
        if before is not None and all(a.shape == b.shape and torch.equal(a, b) for a, b in zip(before.what, what)):
            if not isinstance(found, Block):
                return before  # type: ignore[no-any-return]
            block = before.block and before.block()
            if block is not None:
                return block  # type: ignore[no-any-return]
            found.decision = before
            before.block = weakref.ref(found)
            return found
    decision: Any = found
    if isinstance(found, Block):
        decision = found.decision
        decision.block = weakref.ref(found)
    decision.what = what
    known[1].append((key, weakref.ref(decision)))
    del known[1][:-_KEPT]
    return found
