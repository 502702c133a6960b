"""What a call keeps for its backward pass."""

from __future__ import annotations

import weakref
from collections.abc import Callable, Sequence
from typing import Any, NamedTuple

import torch
from torch import Tensor
from torch.multiprocessing.reductions import StorageWeakRef
from torch.utils._python_dispatch import TorchDispatchMode


class Saved(NamedTuple):
    """In bytes; every storage counts once."""

    own: int
    """Saved for backward beyond the inputs: what the call costs where the inputs are alive anyway."""
    with_inputs: int
    alive: int
    """All that was made in the call and is alive after it while its result is, the result itself excepted: also what is
    kept elsewhere than in autograd's lists."""


class _Kept:
    """Dies with the node of the graph that saved it: what is let go before the call is over does not count.

    It holds the storage and not the tensor, which may be a result of that node: a cycle.
    """

    def __init__(self, value: Tensor) -> None:
        self.storage = value.untyped_storage()


class _Made(TorchDispatchMode):
    """Weak references to the storages of everything that is made."""

    def __init__(self) -> None:
        super().__init__()
        self.storages: dict[int, tuple[StorageWeakRef, int]] = {}

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        out = func(*args, **(kwargs or {}))
        for value in out if isinstance(out, (tuple, list)) else (out,):
            if isinstance(value, Tensor):
                storage = value.untyped_storage()
                reference = StorageWeakRef(storage)
                self.storages[reference.cdata] = reference, storage.nbytes()
        return out


def saved(call: Callable[..., Tensor], inputs: Sequence[Tensor]) -> Saved:
    """Of ``call(*inputs)``, which is run twice."""
    packed: list[weakref.ref[_Kept]] = []

    def pack(value: Tensor) -> _Kept:
        kept = _Kept(value)
        packed.append(weakref.ref(kept))
        return kept

    with torch.autograd.graph.saved_tensors_hooks(pack, lambda kept: None):
        result = call(*inputs)
    storages = [kept.storage for ref in packed if (kept := ref()) is not None]
    sizes = {storage._cdata: storage.nbytes() for storage in storages}
    given = {x.untyped_storage()._cdata for x in inputs}
    own = sum(size for storage, size in sizes.items() if storage not in given)
    with_inputs = sum(sizes.values())
    del result, storages
    with _Made() as made:
        result = call(*inputs)
    apart = given | {result.untyped_storage()._cdata}
    alive = sum(size for key, (ref, size) in made.storages.items() if not ref.expired() and key not in apart)
    return Saved(own, with_inputs, alive)
