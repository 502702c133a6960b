"""What a call keeps for its backward pass."""

from __future__ import annotations

import gc
import warnings
import weakref
from collections.abc import Callable, Sequence
from typing import NamedTuple

import torch
from torch import Tensor


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


def _allocated(call: Callable[[], Tensor]) -> tuple[Tensor, int]:
    """The result, and how many bytes more are allocated than before. (A dispatch mode that looks would change what is
    done: nothing is computed in one pass then.)
    """
    result = call()
    if result.is_cuda:
        del result
        before = torch.cuda.memory_allocated()
        result = call()
        return result, torch.cuda.memory_allocated() - before
    del result
    with warnings.catch_warnings(), torch.autograd.profiler.profile(profile_memory=True) as profile:
        warnings.simplefilter("ignore")
        result = call()
    return result, sum(event.self_cpu_memory_usage for event in profile.key_averages())


def saved(call: Callable[..., Tensor], inputs: Sequence[Tensor]) -> Saved:
    """Of ``call(*inputs)``, which is run several times."""
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
    gc.collect()
    result, alive = _allocated(lambda: call(*inputs))
    alive -= result.untyped_storage().nbytes() if result.untyped_storage()._cdata not in given else 0
    return Saved(own, with_inputs, alive)
