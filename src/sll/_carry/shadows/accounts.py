"""Roundings of the same numbers, of which the program takes the jump back in one place and reads it in another.

``i = x.floor().long(); f = x - x.floor()`` rounds twice, and so do ``i = x.long(); f = x % 1`` and a floor beside a
ceiling. What is known of one is known of all.
"""

from __future__ import annotations

import itertools
import threading
from collections.abc import Iterable
from typing import Any, cast
from weakref import ref

from torch import Tensor
from torch.autograd.graph import Node

from ..._ops.dtypes import FULL
from ..._ops.env import outside_of_transforms, readable
from ..._ops.samples import numpy_is_there, sample
from ..._rules.widths import Width
from ..interface import Region

_TAKEN_BACK = "the program subtracts it from what it was rounded from, and has a slope of its own there"
SAW = "a sawtooth keeps its own slope, and its operand without it that of the operand"
_NUMBERS = itertools.count()
_MANY = 8
"""So many roundings of a step may be the same as another."""


class Account:
    """Of all roundings of the same numbers at the same boundaries: does the program take their jump back?

    Hooks hold this, and nothing that holds tensors. Nodes of autograd are marked with its number.
    """

    def __init__(self, shared: bool = False) -> None:
        self.number = next(_NUMBERS)
        self.taken = False
        self.reads = 0
        """So many tables were read there. What is read twice, and taken back elsewhere, is an interpolation."""
        self.shared = shared
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

    def read(self, computed: bool) -> None:
        """A table is. One that is `computed` has as many parts as that has used."""
        self.reads += 2 if computed and self.shared else 1

    def take(self) -> None:
        self.taken = True
        self.look()

    def look(self) -> None:
        """At each call of these lines."""
        while self._widths:
            width = self._widths.pop()
            width.subtracted(SAW if width.saw else _TAKEN_BACK)


class _Step(threading.local):
    def __init__(self) -> None:
        self.number = -1
        self.known: dict[tuple[Any, ...], list[Account]] = {}


_STEP = _Step()
"""Of the last roundings in a step: how far apart their boundaries are, and a sample of what was rounded."""


def account(region: Region, eps: Width, rounded: Any, step: float | None) -> Account:
    """Of what was `Rounded` to multiples of `step` (None: at other boundaries)."""
    found = Account() if step is None else _known(region, rounded.source, rounded.origins, step)
    found.joins(eps)
    return found


def _known(region: Region, source: Tensor, origins: Iterable[tuple[Node, int]], step: float) -> Account:
    if _STEP.number != region.step():
        _STEP.number = region.step()
        _STEP.known.clear()
    marks = [cast(Any, node).metadata.setdefault("sll", []) for node, _ in origins]
    key = step, source.shape, source.dtype, source.device, _numbers(source)
    alike = _STEP.known.setdefault(key, [])
    for found in alike:
        if any(found.number in mark for mark in marks):
            return found
    if len(_STEP.known) > _MANY:
        del _STEP.known[next(iter(_STEP.known))]
    found = Account(True)
    alike.append(found)
    for mark in marks:
        mark.append(found.number)
        del mark[:-_MANY]  # (of a parameter there is one node for all steps)
    return found


def _numbers(x: Tensor) -> Any:
    """Some of the numbers of `x`, to be compared; `x` itself where there are none, in a graph."""
    numbers = readable(x)
    if numbers is None:
        return ref(x)
    with outside_of_transforms():
        numbers = sample(numbers).cpu()
        return numbers.numpy().tobytes() if numbers.dtype in FULL and numpy_is_there() else tuple(numbers.tolist())
