"""What a region has to say about gradients it could not keep."""

from __future__ import annotations

import os
import sys
import warnings
from collections import Counter
from typing import NamedTuple

import torch

__all__ = ["CallSite", "LostGradientError", "LostGradientWarning", "call_site"]


class LostGradientWarning(UserWarning):
    """A decision inside its band reached a function through which its linearization cannot follow."""


class LostGradientError(RuntimeError):
    """The same as `LostGradientWarning`, raised with ``on_lost="error"``."""


class CallSite(NamedTuple):
    """The line of the program at which something happened, and the torch function it called there."""

    file: str
    line: int
    op: str

    def __str__(self) -> str:
        return f"{self.file}:{self.line} ({self.op})"


_OURS = os.path.dirname(os.path.abspath(__file__)) + os.sep
_TORCH = os.path.dirname(os.path.abspath(torch.__file__)) + os.sep


def call_site(op: str) -> CallSite:
    """The innermost frame that is neither ours nor torch's: the line a user can change."""
    frame = sys._getframe(1)
    while frame.f_back is not None and frame.f_code.co_filename.startswith((_OURS, _TORCH)):
        frame = frame.f_back
    return CallSite(frame.f_code.co_filename, frame.f_lineno, op)


class Lost:
    """Counts lost linearizations per call site, and warns or raises once per call site."""

    def __init__(self, on_lost: str) -> None:
        self.on_lost = on_lost
        self.calls: Counter[CallSite] = Counter()
        self._said: set[CallSite] = set()

    def add(self, op: str, undecided: object, why: str) -> None:
        """`undecided` is a thunk: reading it synchronises with the device, so it is only called when somebody
        listens.
        """
        site = call_site(op)
        self.calls[site] += 1
        if self.on_lost == "ignore" or site in self._said or not undecided():  # type: ignore[operator]
            return
        self._said.add(site)
        message = f"the gradient of a decision inside its band ends at {op}: {why}"
        if self.on_lost == "error":
            raise LostGradientError(f"{site.file}:{site.line}: {message}")
        warnings.warn_explicit(
            message + ' Pass on_lost="ignore" to linearize() if that is intended.',
            LostGradientWarning,
            site.file,
            site.line,
        )
