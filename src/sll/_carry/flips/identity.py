"""The same question has the same flips: what was asked of a tensor before."""

from __future__ import annotations

import threading
import weakref
from typing import Any

import torch
from torch import Tensor

from .entries import Decision

__all__ = ["again", "held"]


class _Asked(threading.local):
    """By the id of the operand: what was asked, and what was decided, as long as somebody carries it."""

    def __init__(self) -> None:
        self.of: dict[int, tuple[weakref.ref[Tensor], list[tuple[Any, weakref.ref[Decision]]]]] = {}


_ASKED = _Asked()
_KEPT = 8
"""So many questions about one tensor are remembered."""


def held(x: Any) -> Any:
    """What stands for an operand or a width in a question."""
    if isinstance(x, Tensor):
        return id(x), x._version
    return float(x) if isinstance(x, (int, float)) else (type(x), getattr(x, "policy", None), getattr(x, "kind", None))


def again(x: Tensor, key: Any, found: Decision, what: tuple[Tensor, ...], other: Any = None) -> Decision:
    """`found`, or the decision of before, if the same was asked and `what` has not changed (a write may go unseen).
    (`other`, whose id is in the key, may be another tensor by now.)
    """
    known = _ASKED.of.get(id(x))
    if known is None or known[0]() is not x:
        place, of = id(x), _ASKED.of
        known = of[place] = weakref.ref(x, lambda _: of.pop(place, None)), []
    key = (x._version, key)
    for asked, ref in known[1]:
        before = ref() if asked == key else None
        if before is None or not (before.other is None or before.other() is other):
            continue
        if all(a.shape == b.shape and torch.equal(a, b) for a, b in zip(before.what, what)):
            return before
    found.what, found.other = what, weakref.ref(other) if isinstance(other, Tensor) else None
    known[1].append((key, weakref.ref(found)))
    del known[1][:-_KEPT]
    return found
