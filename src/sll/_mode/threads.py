"""What each thread has entered, and the tensors that carry something until it leaves."""

from __future__ import annotations

import threading
import weakref
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor
from torch.utils.weak import WeakIdKeyDictionary

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence


class Entered:
    """An entered region or hard block."""

    __slots__ = ("counts", "cut", "in_reentrant", "live", "mode", "sweep_at")

    def __init__(self, mode: Any, cut: Any, in_reentrant: bool, counts: dict[Any, int]) -> None:
        self.mode = mode
        self.live: list[weakref.ref[Tensor]] = []
        """The tensors that carry something (and some that are gone)."""
        self.sweep_at = 256
        self.cut = cut
        """The block without gradients in which it was entered, if there is one in the region around it."""
        self.counts = counts
        """How often each line of the program has decided in this step."""
        self.in_reentrant = in_reentrant
        """Entered by a function that `torch.utils.checkpoint` runs without gradients, and that will enter it again."""

    def adopt(self, live: Sequence[weakref.ref[Tensor]]) -> None:
        self.live.extend(live)
        if len(self.live) >= self.sweep_at:
            self.sweep()

    def sweep(self) -> None:
        self.live = [ref for ref in self.live if ref() is not None]
        self.sweep_at = max(256, 2 * len(self.live))


class Idle:
    """The region in which nothing carries anything yet: what decides nothing need not look at its operands there.

    It is the only one that is on, in all threads: what one has decided may come to another.
    """

    region: Any = None


IDLE = Idle()
_INSIDE: set[int] = set()
"""The threads that have entered something."""


class Thread(threading.local):
    """What this thread has entered."""

    def __init__(self) -> None:
        self._number = threading.get_ident()
        self.at_work: Any = None
        """The region that is handling a call: those around it let everything pass."""
        self.entered: list[Entered] = []
        """Innermost last. (torch hides a mode while it handles a call.)"""
        self.alone = False
        """One region is entered, and it does not watch: what it passes on reaches no other. Gradients are on."""
        self.cut: Any = None
        """The block without gradients that the program has entered in the innermost region."""
        self.marks = False
        """Whether tensors say that they were cut in such a block."""
        self.beneath: list[weakref.ref[Tensor]] = []
        """What carries something beneath the wrappers of transforms: a view of it may come out of one."""
        self.waiting: list[tuple[Any, Callable[[], None]]] = []
        """Warnings about lines of installed packages, with the lines of the program that called these."""
        self.seen: Any = WeakIdKeyDictionary()
        """What was made in blocks that a region sees through, and in which."""
        self.step = 0
        """How often regions were entered, or backward was run in them."""
        self.adrift: list[weakref.ref[Tensor]] = []
        """What carries something, in a region that compiled code has entered: this thread has not."""
        self.selects = False
        """Whether a mask has selected something in what is entered."""
        self.runs: list[Any] = []
        """Runs of functions that may run again, innermost last."""
        self.patched: list[Any] = []
        """Regions that `sll.patch` has switched on."""

    def look(self) -> None:
        """Find out whether one region is `alone`, and `IDLE`."""
        own = self.__dict__  # (in fewer steps than attributes of a thread)
        entered, IDLE.region = own["entered"], None
        if len(entered) != 1:
            own["alone"] = False
            if not entered:
                _INSIDE.discard(own["_number"])
            return
        _INSIDE.add(own["_number"])
        mode = entered[0].mode
        own["alone"] = alone = mode.trace is None and own["cut"] is None and not own["beneath"]
        if alone and not entered[0].live and len(_INSIDE) == 1:
            IDLE.region = mode

    def regions(self) -> list[Any]:
        """All that are on; at least the one that is handling a call, which compiled code may have entered."""
        found = [entered.mode for entered in self.entered]
        return found if self.at_work is None or found else [self.at_work]


THREAD = Thread()


def release(live: list[weakref.ref[Tensor]]) -> list[Tensor]:
    """Leave plain tensors behind. Those that carried what nobody has used are returned."""
    unused = []
    for ref in live:
        tensor = ref()
        if tensor is not None:
            pair = tensor.__dict__.pop("_sll", None)
            if pair is not None and not pair[0].used:
                unused.append(tensor)
    return unused


def leave() -> None:
    """Compiled code leaves a region that it has entered."""
    release(THREAD.adrift)
    THREAD.adrift = []


def innermost() -> Any:
    many = _modes()
    return _mode_at(many - 1) if many else None


_modes, _mode_at = torch._C._len_torch_function_stack, torch._C._get_function_stack_at


def stack() -> list[Any]:
    """The function modes that torch knows to be on, outermost first."""
    return torch.overrides._get_current_function_mode_stack()  # type: ignore[no-any-return, no-untyped-call]
