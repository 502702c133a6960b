"""Roundings of the same numbers, of which the program takes the jump back in one place and reads it in another.

``i = x.floor().long(); f = x - x.floor()`` rounds twice, and so do ``i = x.long(); f = x % 1`` and a floor beside a
ceiling. What is known of one is known of all.
"""

from __future__ import annotations

import collections
import threading

import torch
from torch import Tensor

from ..._ops.samples import sample
from ..._rules.widths import Width
from ..interface import Region

__all__ = ["Account", "account"]

_TAKEN_BACK = "the program subtracts it from what it was rounded from, and has a slope of its own there"
_MANY = 8
"""So many roundings of a step may be the same as another."""


class Account:
    """Of all roundings of the same numbers at the same boundaries: does the program take their jump back?

    Hooks hold this, and nothing that holds tensors.
    """

    def __init__(self) -> None:
        self.taken = False
        self._widths: list[Width] = []
        self._kinds: set[bool] = set()

    def joins(self, eps: Width) -> None:
        """A line of the program, which remembers whether it ever takes a jump back. What is rounded beside a sawtooth
        is taken back by it.
        """
        self._widths.append(eps)
        self._kinds.add(eps.saw)
        if self.taken or len(self._kinds) > 1:
            self.take()

    def take(self) -> None:
        self.taken = True
        while self._widths:
            self._widths.pop().subtracted(_TAKEN_BACK)


class _Step(threading.local):
    def __init__(self) -> None:
        self.number = -1
        self.known: collections.deque[tuple[float, Tensor, Account]] = collections.deque(maxlen=_MANY)


_STEP = _Step()
"""Of the last roundings in a step: how far apart their boundaries are, and a sample of what was rounded."""


def account(region: Region, eps: Width, source: Tensor, step: float | None) -> Account:
    """Of `source`, rounded to multiples of `step` (None: at other boundaries)."""
    found = None if step is None else _known(region, source, step)
    found = found or Account()
    found.joins(eps)
    return found


def _known(region: Region, source: Tensor, step: float) -> Account:
    if _STEP.number != region.step():
        _STEP.number = region.step()
        _STEP.known.clear()
    some = sample(source)
    for one, numbers, found in _STEP.known:
        alike = one == step and numbers.shape == some.shape and numbers.dtype == some.dtype
        if alike and numbers.device == some.device and torch.equal(numbers, some):
            return found
    found = Account()
    _STEP.known.append((step, some.clone(), found))
    return found
