"""Where the program decides: what a policy is asked through, and the widths that are kept there."""

from __future__ import annotations

import functools
import warnings
import weakref
from collections.abc import Callable
from types import CodeType
from typing import Any

from torch import Tensor

from .._ops.callsite import CallSite, frame, relative
from .._rules.widths import TINY, Joined, Scale, Watch, Width
from ..auto import AUTO, Auto
from ..policies import Policy, kind_of
from .notes import Widths
from .threads import THREAD

_MANY = 1000
"""Instructions that are known at once: code that is made anew each time would fill the memory."""


_OCCURRENCES = 1000
"""Of a line in a step that have widths of their own: without backward a step has no end."""


_ONES = frozenset("round floor ceil trunc cast".split())
"""Their steps are 1."""
_WHOLE_STEPS = _ONES | frozenset("floor_divide div frac remainder fmod".split())
"""Their width is never measured."""


class Place:
    """A line of the program and what decides there."""

    def __init__(self, policy: Policy, op: str, site: CallSite, notes: Widths) -> None:
        self.policy: Any = policy
        self.kind = kind_of(op)
        self.line = relative(site.file), site.line, self.kind
        self.note: Callable[[float | Tensor], None] = functools.partial(notes.add, site)
        self._again, self._noted = notes.again(site), 0.0
        self.remembers = getattr(policy, "steps", 0) > 0 and hasattr(policy, "meeting") and op not in _WHOLE_STEPS
        self._width = Width(policy, self.kind, self.note)
        self._whole = self._width.whole and op in _ONES

    def width(self, watch: Watch | None = None) -> float | Width:
        """Of the decision that is made now. A number if nobody watches and the width is kept."""
        entered = THREAD.entered
        if not self.remembers or not entered:
            if watch is not None:
                return Width(self.policy, self.kind, self.note, watch)
            if not self._whole or not self._width.skips():
                return self._width
            self._again[0] += 1
            return 0.5
        counts, line = entered[-1].counts, self.line
        nth = counts.get(line, 0)
        counts[line] = nth + 1
        place = (*line, nth if nth < _OCCURRENCES else _OCCURRENCES)
        half = self.policy.kept.get(place)
        joined = bool(meeting := self.policy.meeting) and line in meeting
        if half is None or watch is not None or self.kind == "step":  # (it is looked at what becomes of it)
            width = Width(self.policy, self.kind, self.note, watch, place)
            width.joined = joined
            return width
        if half < TINY:
            half = TINY
        if half == self._noted:
            self._again[0] += 1
        else:
            self.note(half)
            self._noted = half
        if joined:
            return Joined(half)
        return Scale(half) if self._width.soft else half


class Places:
    """Of a region, by the instruction of the program."""

    def __init__(self, notes: Widths) -> None:
        self._notes = notes
        self._known: dict[tuple[int, int, str], tuple[Place, CodeType]] = {}

    def at(self, op: str, policy: Policy, called: str) -> Place:
        at = frame(4)  # (`eps_for`, a rule, `__torch_function__`)
        key = id(at.f_code), at.f_lasti, op  # (code that is long takes long to hash; what is noted keeps it)
        found = self._known.get(key)
        if found is None:
            if len(self._known) >= _MANY:
                self._known.clear()
            site = CallSite(at.f_code.co_filename, at.f_lineno, called)
            found = self._known[key] = Place(policy, op, site, self._notes), at.f_code
        return found[0]

    def __getstate__(self) -> dict[str, Any]:
        return {"_notes": self._notes, "_known": {}}  # (code cannot be pickled)


_MADE: weakref.WeakKeyDictionary[CodeType, dict[int, tuple[Auto, int, set[Any]]]] = weakref.WeakKeyDictionary()
"""By the instruction that makes regions: the last memory, how many before had one step, and the lines of that."""
_IN_A_ROW = 3


def made_here(auto: Auto) -> None:
    """A region is made, with a memory of its own. One made anew at each step remembers nothing: say so, once."""
    at = frame()
    made = _MADE.setdefault(at.f_code, {})
    before, many, lines = made.get(at.f_lasti, (AUTO, 0, set()))
    measured = before.measured_once
    many = (many if measured == lines else 0) + bool(measured)
    made[at.f_lasti] = auto, many, measured
    if many == _IN_A_ROW:
        warnings.warn_explicit(
            'linearize("auto") is made anew for each step here, so it cannot remember its widths, and they follow the '
            'data. Make it once, before the loop: region = sll.linearize("auto"); then `with region:` in the loop.',
            UserWarning,
            at.f_code.co_filename,
            at.f_lineno,
            registry=at.f_globals.setdefault("__warningregistry__", {}),
        )
