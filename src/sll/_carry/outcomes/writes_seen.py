"""What is worked out when somebody asks (`Later`), of operands as they were (`Kept`): a copy is made before one is
written to.

The region says so before every call that may write. What writes unseen (a custom op, another thread) is found by the
version, and then there is nothing to go on with.
"""

from __future__ import annotations

import threading
import weakref
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from types import BuiltinFunctionType, FunctionType, MethodDescriptorType, ModuleType
from typing import Any, TypeAlias

import torch
from torch import Tensor

from ..._ops.callsite import call_site
from ..._ops.env import dispatched
from ..._ops.saving import saved_as_then, saving
from ..._rules.index import NAMED

__all__ = ["READS", "Kept", "Later", "may_write", "settle", "settle_all", "settle_hooked", "waiting_apart"]


class Later:
    """What is worked out when somebody asks, once: with the gradients, and saved for backward, as it would have been
    where it was made.
    """

    def __init__(self, make: Callable[[], Any]) -> None:
        self._make: Callable[[], Any] | None = make
        self._found: Any = None
        self.known = False
        self._saving = saving()

    def __call__(self) -> Any:
        if not self.known:
            assert self._make is not None
            self._found = saved_as_then(self._saving, self._make)
            self.known = True
            self._make = None  # frees what it holds on to
        return self._found


@contextmanager
def waiting_apart() -> Iterator[None]:
    """What is traced meanwhile waits for no write after it."""
    by_storage, _WAITING.by_storage = _WAITING.by_storage, {}
    try:
        yield
    finally:
        _WAITING.by_storage = by_storage


class _Waiting(threading.local):
    def __init__(self) -> None:
        self.by_storage: dict[int, list[weakref.ref[Kept]]] = {}
        self.sweep_at = 256


_WAITING = _Waiting()

_Copies: TypeAlias = "dict[int, tuple[Tensor, Tensor]]"
"""By their id, tensors that are about to be written to, and the one copy for all who wait for them. (For this write
only: not every write counts as a version.)"""
_GONE = -1
"""The version of a tensor whose memory was freed."""


class Kept:
    """Operands of a call as they are now."""

    def __init__(self, *operands: Any) -> None:
        self._operands = list(operands)
        self._seen = [_seen(x) for x in operands]
        if torch._C._are_functorch_transforms_active():
            return  # inside of a transform nothing waits
        waiting, ref = _WAITING.by_storage, weakref.ref(self)
        if len(waiting) >= _WAITING.sweep_at:
            _sweep()
        for x in operands:
            if isinstance(x, Tensor) and x.layout == torch.strided:
                refs = waiting.setdefault(x.untyped_storage()._cdata, [])
                refs.append(ref)
                if len(refs) >= 64 and not len(refs) & (len(refs) - 1):  # a weight that is compared at every step
                    refs[:] = [ref for ref in refs if ref() is not None]

    def found(self) -> Any:
        """The operands, a sequence; None if somebody wrote to one unseen."""
        for x, seen in zip(self._operands, self._seen):
            if seen is not None and (x._version != seen[0] or seen[1] and x.untyped_storage().nbytes() < seen[1]):
                return None
        return self._operands

    def __call__(self) -> Any:
        found = self.found()
        if found is None:
            raise RuntimeError(_WRITTEN.format(call_site("the decision")))
        return found

    def hooked(self) -> bool:
        """Whether one is a leaf with hooks that backward calls."""
        leaves = [x for x in self._operands if isinstance(x, Tensor) and x.is_leaf]
        return any(x._backward_hooks or x._post_accumulate_grad_hooks for x in leaves)

    def settle(self, storage: int | None, copies: _Copies) -> None:
        assert isinstance(self._operands, list)
        for i, (x, seen) in enumerate(zip(self._operands, self._seen)):
            if seen is None or x._version != seen[0] or _storage(x) != storage:
                continue
            if seen[1] and x.untyped_storage().nbytes() < seen[1]:
                self._seen[i] = _GONE, 0
                continue
            if id(x) not in copies:
                copies[id(x)] = x, recorded(_copy, x)
            self._operands[i] = copies[id(x)][1]
            self._seen[i] = _seen(self._operands[i])


_WRITTEN = (
    "{}: a tensor on which a decision was made has been modified since, by something that the region cannot see "
    "as a write (a custom op, another thread). Clone it before it is written to"
)


def recorded(compute: Callable[..., Any], *args: Any) -> Any:
    """``compute(*args)`` as it would have been when rules were asked, whoever asks now."""
    with torch.inference_mode(False), torch.enable_grad():
        return compute(*args)


def _copy(x: Tensor) -> Tensor:
    """With what it carries."""
    copy, pair = x.clone(), getattr(x, "_sll", None)
    if pair is not None and pair[1] in (x._version, -1):
        copy._sll = (pair[0], copy._version)  # type: ignore[attr-defined]
    return copy


def _seen(x: Any) -> tuple[int, int] | None:
    """The version of a tensor, and the bytes that its memory has at least: a program may free that, and fill it again
    later. None for what counts no writes.
    """
    if not isinstance(x, Tensor) or x.is_inference():
        return None
    if x.layout != torch.strided or dispatched() or not x.numel():  # (who traces sizes frees no memory)
        return x._version, 0
    if torch._C._functorch.is_functorch_wrapped_tensor(x):
        return x._version, 0
    last = x.storage_offset() + sum([(size - 1) * stride for size, stride in zip(x.shape, x.stride())])
    return x._version, int((last + 1) * x.element_size())


def _storage(x: Tensor) -> int | None:
    """What a tensor has in common with its views."""
    return x.untyped_storage()._cdata if x.layout == torch.strided else None


def over_soon(*operands: Any) -> bool:
    """Whether something is going on (a transform, forward mode, a subclass that looks) of which the end is to find all
    worked out.
    """
    if torch._C._are_functorch_transforms_active() or torch.autograd.forward_ad._current_level >= 0:
        return True
    plain = (torch.Tensor, torch.nn.Parameter)
    return torch._C._len_torch_dispatch_stack() > 0 or any(
        isinstance(x, Tensor) and (type(x) not in plain or x.layout != torch.strided) for x in operands
    )


def _sweep() -> None:
    """Forget what nobody can ask for any more."""
    waiting = _WAITING.by_storage
    for key, refs in list(waiting.items()):
        refs[:] = [ref for ref in refs if ref() is not None]
        if not refs:
            del waiting[key]
    _WAITING.sweep_at = max(256, 2 * len(waiting))


def settle_all() -> None:
    """The region is about to be off for a while: nobody will see writes."""
    copies: _Copies = {}
    for storage in list(_WAITING.by_storage):
        _settle(storage, copies)


def settle_hooked() -> None:
    """Backward is about to begin, and a hook of a leaf may write to it (an optimizer that steps during backward)."""
    copies: _Copies = {}
    for storage, refs in list(_WAITING.by_storage.items()):
        if any(waits.hooked() for ref in refs if (waits := ref()) is not None):
            _settle(storage, copies)


def _settle(storage: int | None, copies: _Copies) -> None:
    for ref in _WAITING.by_storage.pop(storage, ()):  # type: ignore[arg-type]
        if (waits := ref()) is not None:
            waits.settle(storage, copies)


def settle(operands: Iterable[Any], copies: _Copies | None = None) -> None:
    """Some of the operands are about to be written to: who waits for them gets copies."""
    copies = {} if copies is None else copies
    for x in operands:
        if isinstance(x, (tuple, list)):
            settle(x, copies)
        elif isinstance(x, Tensor) and not torch._C._functorch.is_functorch_wrapped_tensor(x):
            _settle(_storage(x), copies)  # (nothing waits inside a transform)


READS: set[Callable[..., Any]] = set()
"""PyTorch's own functions that were called and that write to nothing, if not asked by ``out=`` or ``inplace=``."""


def may_write(func: Callable[..., Any], kwargs: Any) -> bool:
    """Whether a torch function may write to its operands, or hands their memory to somebody who may."""
    if kwargs and (kwargs.get("inplace") or kwargs.get("out") is not None):  # (passed on by name, however it was given)
        return bool(_WAITING.by_storage)
    if func in READS:
        return False
    name = getattr(func, "__name__", "_")
    found = name in NAMED["writes"] or (name[-1] == "_" and name[-2:] != "__")
    if _for_ever(func):
        if not found:
            READS.add(func)
    elif isinstance(func, torch._ops.OpOverload):
        found = found or _mutates(func, kwargs)
    elif isinstance(func, torch._ops.OpOverloadPacket):
        found = found or any(_mutates(getattr(func, name), kwargs) for name in func.overloads())  # type: ignore[no-untyped-call]
    return found and bool(_WAITING.by_storage)


def _for_ever(func: Any) -> bool:
    """Whether a function belongs to PyTorch: one that a program makes is not to be kept."""
    if isinstance(func, BuiltinFunctionType):
        return func.__self__ is None or isinstance(func.__self__, ModuleType)
    if isinstance(func, FunctionType):
        return func.__module__ == "torch.nn.functional"
    return isinstance(func, MethodDescriptorType)


def _mutates(op: torch._ops.OpOverload[..., Any], kwargs: Any) -> bool:
    written = [x for x in op._schema.arguments if x.alias_info is not None and x.alias_info.is_write]
    return any(not x.kwarg_only or x.name in (kwargs or ()) for x in written)
