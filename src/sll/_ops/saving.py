"""What has a hand in what autograd saves, and how to save as if it were another time."""

from __future__ import annotations

from collections.abc import Callable
from contextlib import nullcontext
from typing import Any, TypeAlias, TypeVar

import torch
from torch.utils import checkpoint as torch_checkpoint
from torch.utils._python_dispatch import _disable_current_modes, _get_current_dispatch_mode_stack

from .env import HOOKS

T = TypeVar("T")


Saving: TypeAlias = "tuple[Callable[[Any], Any], Callable[[Any], Any]] | None"
"""What has a hand in what autograd saves: the innermost `torch.autograd.graph.saved_tensors_hooks`."""


_SELECTIVE = (torch_checkpoint._CachingTorchDispatchMode, torch_checkpoint._CachedTorchDispatchMode)


_autograd = torch._C._autograd


def saving() -> Saving:
    return None if HOOKS is None else HOOKS(True)


def saved_as_then(then: Saving, compute: Callable[[], T]) -> T:
    """``compute()``, with autograd saving what it would have saved `then`: outside the checkpoints entered since, and
    outside all if the one of then is over.
    """
    now = saving()
    if now is None or then is not None and now[0] is then[0]:
        return compute()
    selective = any(isinstance(mode, _SELECTIVE) for mode in _get_current_dispatch_mode_stack())
    inner = []
    # (Selective checkpoints would wait for these calls in the second run, too.)
    with _disable_current_modes() if selective else nullcontext():
        while now is not None and (then is None or now[0] is not then[0]):
            inner.append(now)
            _autograd._pop_saved_tensors_default_hooks()
            now = saving()
        try:
            return compute()
        finally:
            for pack, unpack in reversed(inner):
                _autograd._push_saved_tensors_default_hooks(pack, unpack)
