"""What a region notes by call site while the program runs: gradients that end somewhere, widths that were used."""

from __future__ import annotations

import functools
import warnings
from collections import Counter
from collections.abc import Callable
from contextlib import nullcontext
from typing import Any

import torch
from torch import Tensor

from .._ops.callsite import CallSite, LostGradientError, LostGradientWarning, call_site, frame
from .._ops.env import dispatched, outside_of_transforms, readable
from .._ops.statements import in_package, only_told, users_line
from .._reports.rows import EpsUsed, Followed
from .threads import THREAD


class Widths:
    """Collects half-widths per call site. Those on another device are compared there, and read when somebody asks."""

    def __init__(self) -> None:
        self._used: dict[CallSite, tuple[int, Any, Any]] = {}
        self._again: dict[CallSite, list[int]] = {}

    def again(self, site: CallSite) -> list[int]:
        """Counts, in its one number, the calls whose width was noted before."""
        return self._again.setdefault(site, [0])

    def add(self, site: CallSite, half: float | Tensor) -> None:
        if type(half) is float:
            calls, low, high = self._used.get(site, (0, half, half))
            if type(low) is float and type(high) is float:
                self._used[site] = (calls + 1, half if half < low else low, half if half > high else high)
                return
        low = high = half
        if isinstance(half, Tensor):
            found = readable(half)
            if found is None:
                return
            half = found
            with outside_of_transforms():  # or the result would belong to the transform, and end with it
                low, high = half.amin(), half.amax()
        calls, lowest, highest = self._used.get(site, (0, low, high))
        with outside_of_transforms() if isinstance(half, Tensor) else nullcontext():
            self._used[site] = (calls + 1, _first(lowest, low, torch.minimum), _first(highest, high, torch.maximum))

    def summary(self) -> dict[CallSite, EpsUsed]:
        return {
            site: EpsUsed(calls + sum(self._again.get(site, ())), float(low), float(high))
            for site, (calls, low, high) in self._used.items()
        }


def _first(a: Any, b: Any, order: Callable[[Tensor, Tensor], Tensor]) -> Any:
    """The smaller or the larger."""
    if isinstance(a, Tensor) or isinstance(b, Tensor):
        at = a.device if isinstance(a, Tensor) else b.device
        return order(torch.as_tensor(a, device=at), torch.as_tensor(b, device=at))
    return min(a, b) if order is torch.minimum else max(a, b)


class Paths:
    """Collects what Python asked and what was run for it, per call site."""

    def __init__(self) -> None:
        self.of: dict[CallSite, Followed] = {}

    def opened(self, site: CallSite) -> None:
        """One more answer is open."""
        known = self.of.get(site, Followed(0, 0, 0.0, 0.0))
        self.of[site] = known._replace(open=known.open + 1)

    def ran(self, site: CallSite, weight: float, difference: float) -> None:
        """It was run."""
        known = self.of[site]
        largest = max(known.difference, difference)
        self.of[site] = Followed(known.open, known.run + 1, max(known.weight, weight), largest)


class Lost:
    """Counts lost linearizations per call site, and warns or raises once per call site."""

    def __init__(self, on_lost: str) -> None:
        self.on_lost = on_lost
        self.calls: Counter[CallSite] = Counter()
        self._said: set[CallSite] = set()

    def add(self, op: str, undecided: object, why: str, site: CallSite | None = None) -> None:
        """`undecided` is a thunk: reading it synchronises with the device, so it is only called when somebody
        listens. What is only told to somebody (an exception, a log) is not missed.
        """
        here, site = site is None and op != "return", site or call_site(op)  # (who asks for a result wants all of it)
        self.calls[site] += 1
        traced = dispatched()  # (by a compiler: there are no numbers)
        if self.on_lost == "ignore" or site in self._said or not (traced or undecided()):  # type: ignore[operator]
            return
        self._said.add(site)
        if here and only_told():
            return
        ends = "may end" if traced else "inside its band ends"
        message = f"the gradient of a decision {ends} at {op}: {why}"
        if self.on_lost == "error":
            raise LostGradientError(f"{site.file}:{site.line}: {message}")
        message += ' Pass on_lost="ignore" to linearize() if that is intended.'
        # Python's memory of what was said at which line: also when every step of a loop makes its own region.
        registry = frame().f_globals.setdefault("__warningregistry__", {})
        warn = functools.partial(
            warnings.warn_explicit, message, LostGradientWarning, site.file, site.line, registry=registry
        )
        if here and in_package(site.file) and THREAD.entered:
            THREAD.waiting.append((users_line(), warn))
            THREAD.marks = True
        else:
            warn()


def warn_now() -> None:
    """Say what was lost in installed packages, and is missed."""
    waiting, THREAD.waiting = THREAD.waiting, []
    for _, warn in waiting:
        warn()
