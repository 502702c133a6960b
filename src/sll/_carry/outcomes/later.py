"""What is worked out when somebody asks (`Later`), of operands as they were (`as_now`)."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor

from ..._ops.env import eager
from ..._ops.saving import saved_as_then, saving
from ..._ops.surrogates import lazy_clone, ordinary
from ..interface import unchanged, version_of


class Later:
    """What is worked out when somebody asks, once: with the gradients, and saved for backward, as it would have been
    where it was made.
    """

    def __init__(self, make: Callable[[], Any]) -> None:
        self._make: Callable[[], Any] | None = make
        self._found: Any = None
        self._saving = saving()

    def __call__(self) -> Any:
        if self._make is not None:
            self._found = saved_as_then(self._saving, self._make)
            self._make = None  # frees what it holds on to
        return self._found


def recorded(compute: Callable[..., Any], *args: Any) -> Any:
    """``compute(*args)`` as it would have been when rules were asked, whoever asks now."""
    with torch.inference_mode(False), torch.enable_grad():
        return compute(*args)


def over_soon(*operands: Any) -> bool:
    """Whether something is going on (a transform, forward mode, a subclass that looks) of which the end is to find all
    worked out.
    """
    return not eager() or any(isinstance(x, Tensor) and not ordinary(x) for x in operands)


# --- operands as they were ---------------------------------------------------------------------------------------

FEW = 1 << 12
"""Elements: so few numbers of the program are copied at once."""


def as_now(x: Any) -> Any:
    """`x` as it is now, whatever is written to it later; autograd follows it to `x`.

    A lazy clone, if possible: it shares memory until somebody writes. Who has the memory of `x` in another way (NumPy,
    DLPack, a CUDA graph) is cut off by that write, so what others may have is copied; and ``out=`` cannot make what is
    shared so longer, so what is small is.
    """
    if not isinstance(x, Tensor):
        return x
    captured = x.is_cuda and torch.cuda.is_current_stream_capturing()
    if ordinary(x) and eager() and not captured and (x.grad_fn is not None or _ours(x)):
        memory = x.untyped_storage()
        if memory.resizable() and memory.nbytes() < 4 * x.nbytes + 64:
            try:
                return lazy_clone(x)
            except RuntimeError:  # memory that processes share
                pass
    return x.clone()


def _ours(x: Tensor) -> bool:
    """Whether nobody else has the memory of a leaf. (DLPack holds on to a tensor that has no gradient itself.)"""
    alone = x.requires_grad or x.numel() > FEW and getattr(x, "_use_count", int)() == 1
    return alone and torch._C._storage_Use_Count(x.untyped_storage()._cdata) == 2


def kept(x: Any) -> Any:
    """`as_now`, with what `x` carries; a question about it is one about `x`."""
    if not isinstance(x, Tensor) or hasattr(x, "_sll_constant"):
        return x
    pair = getattr(x, "_sll", None)
    copy = stands_for(as_now(x), x)
    if pair is not None and unchanged(x, pair[1]):
        copy._sll = (pair[0], version_of(copy))  # type: ignore[attr-defined]
    return copy


def stands_for(x: Tensor, origin: Tensor) -> Tensor:
    """`x`, which has the numbers of `origin`: the same question about either is the same decision."""
    x._sll_origin = asked(origin)  # type: ignore[attr-defined]
    return x


def asked(x: Any) -> tuple[Any, int]:
    """Of whom a question about `x` is asked, and what it had seen of writes."""
    origin: tuple[Any, int] | None = getattr(x, "_sll_origin", None)
    return (x, version_of(x)) if origin is None else origin
