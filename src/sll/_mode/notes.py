"""What a region notes by call site while the program runs: gradients that end somewhere, widths that were used."""

from __future__ import annotations

import functools
import warnings
from collections import Counter
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
        calls, low, high = self._used.get(site, (0, half, half))
        if isinstance(half, Tensor) or isinstance(low, Tensor):
            at = low.device if isinstance(low, Tensor) else half.device  # type: ignore[union-attr]
            found = readable(torch.as_tensor(half, device=at))
            if found is None:
                return
            with outside_of_transforms():  # or the result would belong to the transform, and end with it
                low, high = (torch.as_tensor(x, device=at) for x in ((low, high) if calls else (found, found)))
                low, high = torch.minimum(low, found).amin(), torch.maximum(high, found).amax()
        else:
            low, high = half if half < low else low, half if half > high else high
        self._used[site] = calls + 1, low, high

    def summary(self) -> dict[CallSite, EpsUsed]:
        return {
            site: EpsUsed(calls + sum(self._again.get(site, ())), float(low), float(high))
            for site, (calls, low, high) in self._used.items()
        }


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
