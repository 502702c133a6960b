"""What a region has to say about gradients it could not keep."""

from __future__ import annotations

import os
import sys
import warnings
from collections import Counter
from collections.abc import Callable
from contextlib import nullcontext
from typing import Any, NamedTuple

import torch
from torch import Tensor
from torch._functorch.pyfunctorch import temporarily_clear_interpreter_stack

__all__ = ["CallSite", "EpsUsed", "LostGradientError", "LostGradientWarning", "call_site"]


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


class EpsUsed(NamedTuple):
    """The half-widths that a policy chose at one call site."""

    calls: int
    smallest: float
    largest: float


class Widths:
    """Collects half-widths per call site. Those on another device are compared there, and read when somebody asks."""

    def __init__(self) -> None:
        self._used: dict[CallSite, tuple[int, Any, Any]] = {}

    def add(self, site: CallSite, half: float | Tensor) -> None:
        low = high = half
        if isinstance(half, Tensor):
            while torch._C._functorch.is_functorch_wrapped_tensor(half):  # inside vmap: all of the batch
                half = torch._C._functorch.get_unwrapped(half)
            if half.device.type == "meta" or torch._C._len_torch_dispatch_stack() > 0:
                return  # there is no number
            with temporarily_clear_interpreter_stack():  # or the result would belong to the transform, and end with it
                low, high = half.amin(), half.amax()
        calls, lowest, highest = self._used.get(site, (0, low, high))
        with temporarily_clear_interpreter_stack() if isinstance(half, Tensor) else nullcontext():
            self._used[site] = (calls + 1, _first(lowest, low, torch.minimum), _first(highest, high, torch.maximum))

    def summary(self) -> dict[CallSite, EpsUsed]:
        return {site: EpsUsed(calls, float(low), float(high)) for site, (calls, low, high) in self._used.items()}


def _first(a: Any, b: Any, order: Callable[[Tensor, Tensor], Tensor]) -> Any:
    """The smaller or the larger."""
    if isinstance(a, Tensor) or isinstance(b, Tensor):
        at = a.device if isinstance(a, Tensor) else b.device
        return order(torch.as_tensor(a, device=at), torch.as_tensor(b, device=at))
    return min(a, b) if order is torch.minimum else max(a, b)


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
