"""The line of the program at which something happens."""

from __future__ import annotations

import os
import sys
import sysconfig
from collections.abc import Iterator
from types import FrameType
from typing import NamedTuple

import torch


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


_OURS = os.path.dirname(os.path.dirname(os.path.abspath(__file__))) + os.sep
_DEMO = os.path.join(_OURS, "tools", "demo.py")  # a program like any other
_LOOK = tuple(os.path.join(_OURS, name) for name in ("_checks", "tools", "checking.py"))
_TORCH = os.path.dirname(os.path.abspath(torch.__file__)) + os.sep


def is_ours(file: str) -> bool:
    return file.startswith(_OURS) and file != _DEMO


def looks_into(file: str) -> bool:
    """Whether it is a part of ours that runs a program to see its gradients (``print(sll.check(...))``)."""
    return file.startswith(_LOOK)


def is_internal(file: str) -> bool:
    """Whether `file` is a part of ours or of torch, where no user looks for a mistake."""
    return is_ours(file) or file.startswith((_TORCH, "<eval_with_key>"))  # (what torch.fx writes)


class _Internal(dict[str, bool]):
    """Whether a file is a part of ours or of torch, asked once. (Code that Dynamo writes cannot be hashed.)"""

    def __missing__(self, file: str) -> bool:
        if len(self) > 10_000:
            self.clear()
        self[file] = found = is_internal(file)
        return found


_INTERNAL = _Internal()


def call_site(op: str) -> CallSite:
    """The line a user can change."""
    at = frame()
    return CallSite(at.f_code.co_filename, at.f_lineno, op)


def line_of() -> tuple[str, int]:
    """File and line of `frame`, the same on other machines."""
    at = frame()
    return relative(at.f_code.co_filename), at.f_lineno


def frame(within: int = 1) -> FrameType:
    """The innermost that is neither ours nor torch's. The first so many are known to be ours."""
    at = sys._getframe(within)
    while at.f_back is not None and _INTERNAL[at.f_code.co_filename]:
        at = at.f_back
    return at


def frames() -> Iterator[FrameType]:
    """All, innermost first."""
    at: FrameType | None = sys._getframe(1)
    while at is not None:
        yield at
        at = at.f_back


def short(site: CallSite) -> str:
    return f"{relative(site.file)}:{site.line} ({site.op})"


def relative(file: str) -> str:
    """A path as a reader looks for it: from the working directory, or from where packages are installed."""
    for start in (os.getcwd(), sysconfig.get_paths()["purelib"]):
        if file.startswith(start + os.sep):
            file = file[len(start) + 1 :]
            break
    return file if len(file) <= 60 else os.sep.join(["…", *file.split(os.sep)[-3:]])[-60:]
