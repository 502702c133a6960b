"""What waits for a write: results and operands as they were, though the program writes to them."""

from __future__ import annotations

import threading
import weakref
from collections.abc import Callable, Iterable, Sequence
from types import BuiltinFunctionType, FunctionType, MethodDescriptorType, ModuleType
from typing import Any, TypeAlias

import torch
from torch import Tensor

from ..._ops.callsite import call_site
from ..._ops.env import compiling
from ..._rules.index import NAMED

__all__ = ["READS", "Guarded", "Late", "keep", "may_write", "settle", "settle_all", "settle_hooked"]


class _Waiting(threading.local):
    def __init__(self) -> None:
        self.by_storage: dict[int, list[weakref.ref[Late] | weakref.ref[Kept] | weakref.ref[Guarded]]] = {}
        self.sweep_at = 256


_WAITING = _Waiting()


def _wait(waits: Late | Kept | Guarded, tensors: Iterable[Tensor]) -> None:
    """Tell `waits` before one of the tensors is written to."""
    waiting = _WAITING.by_storage
    if len(waiting) >= _WAITING.sweep_at:
        _sweep()
    ref: Any = weakref.ref(waits)
    for x in tensors:
        refs = waiting.setdefault(x.untyped_storage()._cdata, [])
        refs.append(ref)
        if len(refs) >= 64 and not len(refs) & (len(refs) - 1):  # a weight that is compared at every step
            refs[:] = [ref for ref in refs if ref() is not None]


def _has_hooks(x: Tensor) -> bool:
    """Whether `x` is a leaf with hooks that backward calls."""
    return x.is_leaf and bool(x._backward_hooks or x._post_accumulate_grad_hooks)


class Late:
    """A result of tensors, computed when it is asked for, at the latest before one of them is written to."""

    def __init__(self, compute: Callable[[], Any], *operands: Any) -> None:
        self._compute: Callable[[], Any] | None = compute
        self._found: Any = None
        self._settled = False
        """Before a write: what the operands are now is another matter. (Not every write counts as a version.)"""
        tensors = [x for x in operands if isinstance(x, Tensor)]
        self._operands = [(x, x._version) for x in tensors]
        _wait(self, tensors)

    def __call__(self) -> Any:
        if self._compute is not None:
            if not self.fresh():
                raise RuntimeError(_WRITTEN.format(call_site("the decision")))
            with torch.inference_mode(False), torch.enable_grad():
                self._found = self._compute()
            self._compute = None
        return self._found

    def hooked(self) -> bool:
        return any(_has_hooks(x) for x, _ in self._operands)

    def fresh(self) -> bool:
        """Whether the operands are known to be what they were."""
        if self._settled:
            return False
        for x, version in self._operands:  # noqa: SIM110 (at every call: no generator)
            if x._version != version:
                return False
        return True

    def settle(self, storage: int, copies: _Copies) -> None:
        if self.fresh():
            self()
            self._settled = True


class Kept:
    """Operands of a call as they are now, for somebody who may ask later: a tensor that is about to be written to is
    copied first, together with what it carries (`copy`).
    """

    def __init__(self, operands: Sequence[Any], copy: Callable[[Tensor], Tensor]) -> None:
        self._operands = list(operands)
        self._versions = [x._version if isinstance(x, Tensor) else 0 for x in operands]
        self._copy = copy
        if not torch._C._are_functorch_transforms_active():  # inside of a transform nothing waits
            _wait(self, [x for x in operands if isinstance(x, Tensor) and x.layout == torch.strided])

    def __call__(self) -> tuple[Any, ...] | None:
        """The operands; None if one was modified, by something that the region cannot see as a write."""
        for x, version in zip(self._operands, self._versions):
            if isinstance(x, Tensor) and (x._version != version or not _whole(x)):
                return None
        return tuple(self._operands)

    def hooked(self) -> bool:
        return any(_has_hooks(x) for x in self._operands if isinstance(x, Tensor))

    def settle(self, storage: int, copies: _Copies) -> None:
        for i, (x, version) in enumerate(zip(self._operands, self._versions)):
            if isinstance(x, Tensor) and x._version == version and _storage(x) == storage:
                if not _whole(x):
                    self._versions[i] = _GONE
                    continue
                if id(x) not in copies:
                    with torch.inference_mode(False), torch.enable_grad():
                        copies[id(x)] = x, self._copy(x)
                self._operands[i] = copies[id(x)][1]
                self._versions[i] = self._operands[i]._version


class Guarded:
    """Holds tensors, in `GUARDED`, that the program may have as well: it is told before one of them is written to, and
    goes on with a copy.
    """

    GUARDED: tuple[str, ...] = ()
    _versions: list[int] | None = None

    def guard(self) -> None:
        """Compiled code sees no writes, and inside of a transform nothing waits."""
        if not compiling() and not torch._C._are_functorch_transforms_active():
            tensors = self._guarded()
            if not any(x.is_inference() for x in tensors):  # these count no writes
                self._versions = [x._version for x in tensors]
            _wait(self, [x for x in tensors if x.layout == torch.strided])

    def ask(self) -> None:
        """Raises RuntimeError if there was a write that nobody saw."""
        if self._versions is not None and self._versions != [x._version for x in self._guarded()]:
            raise RuntimeError(_WRITTEN.format(call_site("the decision")))

    def _guarded(self) -> list[Tensor]:
        return [getattr(self, name) for name in self.GUARDED]

    def hooked(self) -> bool:
        return any(_has_hooks(x) for x in self._guarded())

    def settle(self, storage: int, copies: _Copies) -> None:
        for i, name in enumerate(self.GUARDED):
            x = getattr(self, name)
            if _storage(x) != storage or not _whole(x):
                continue
            if id(x) not in copies:
                with torch.inference_mode(False), torch.enable_grad():
                    copies[id(x)] = x, self.copied(x)
            copy = copies[id(x)][1]
            setattr(self, name, copy)
            if self._versions is not None:
                self._versions[i] = copy._version

    def copied(self, x: Tensor) -> Tensor:
        return x.clone()


_Copies: TypeAlias = "dict[int, tuple[Tensor, Tensor]]"
"""By their id, tensors that are about to be written to, and the one copy for all who wait for them. (For this write
only: not every write counts as a version.)"""


_GONE = -1
"""The version of a tensor whose memory was freed."""


def _whole(x: Tensor) -> bool:
    """Whether a tensor has its memory: a program may have freed it, and fill it again later."""
    if x.layout != torch.strided or not x.numel() or torch._C._functorch.is_functorch_wrapped_tensor(x):
        return True
    last = x.storage_offset() + sum((size - 1) * stride for size, stride in zip(x.shape, x.stride()))
    return x.untyped_storage().nbytes() >= (last + 1) * x.element_size()


def keep(operands: tuple[Any, ...], copy: Callable[[Tensor], Tensor]) -> Callable[[], tuple[Any, ...] | None]:
    """A promise of `operands` as they are now (see `Kept`). Compiled code sees no writes."""
    return (lambda: operands) if compiling() else Kept(operands, copy)


def _storage(x: Tensor) -> int | None:
    """What a tensor has in common with its views."""
    return x.untyped_storage()._cdata if x.layout == torch.strided else None


_WRITTEN = (
    "{}: a tensor on which a decision was made has been modified since, by something that the region cannot see "
    "as a write (a custom op, another thread). Clone it before it is written to"
)


def can_wait(*operands: Any) -> bool:
    """Whether nothing that is going on would be over when the result is asked for."""
    if compiling() or torch._C._are_functorch_transforms_active():
        return False
    if torch.autograd.forward_ad._current_level >= 0 or torch._C._len_torch_dispatch_stack():
        return False
    for x in operands:
        if isinstance(x, Tensor):
            if type(x) is not Tensor and type(x) is not torch.nn.Parameter or x.layout != torch.strided:
                return False
            if not x.untyped_storage().resizable():
                return False  # NumPy or somebody else has the memory, too, and writes unseen
    return True


def _sweep() -> None:
    """Forget what nobody can ask for any more."""
    waiting = _WAITING.by_storage
    for key, refs in list(waiting.items()):
        alive = [ref for ref in refs if ref() is not None]
        if alive:
            waiting[key] = alive
        else:
            del waiting[key]
    _WAITING.sweep_at = max(256, 2 * len(waiting))


def settle_all() -> None:
    """The region is about to be off for a while: work out everything that waits."""
    copies: _Copies = {}
    for storage in list(_WAITING.by_storage):
        _settle(storage, copies)


def settle_hooked() -> None:
    """Backward is about to begin, and a hook of a leaf may write to it (an optimizer that steps during backward)."""
    copies: _Copies = {}
    for storage, refs in list(_WAITING.by_storage.items()):
        found = [waits for ref in refs if (waits := ref()) is not None]
        if any(waits.hooked() for waits in found):
            _settle(storage, copies)


def _settle(storage: int, copies: _Copies) -> None:
    for ref in _WAITING.by_storage.pop(storage, ()):
        waits = ref()
        if waits is not None:
            waits.settle(storage, copies)


def settle(operands: Iterable[Any], copies: _Copies | None = None) -> None:
    """Some of the operands are about to be written to: work out what waits for them."""
    copies = {} if copies is None else copies
    for x in operands:
        if isinstance(x, (tuple, list)):
            settle(x, copies)
        elif isinstance(x, Tensor) and x.layout == torch.strided:
            if torch._C._functorch.is_functorch_wrapped_tensor(x):
                continue  # nothing waits inside a transform
            _settle(x.untyped_storage()._cdata, copies)


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
