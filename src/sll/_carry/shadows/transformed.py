"""Shadows of what transforms of `torch.func` wrap and take the wrapper off: nobody is told when.

Beneath the wrapper of `vmap` is a tensor with a dimension more, beneath that of `grad` one of the gradients around it.
What is beneath gets the same shadow, one level lower; a view that `vmap` returns (``out_dims=1``) reads elements of it.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, TypeAlias

import torch
from torch import Tensor

from ..._ops.env import at_level, level_of
from ..interface import Region
from .shadow import Shadow, Weights, carry, opposite, shadow

MAX_ELEMENTS = 2**22
"""Of the weights of candidates that are worked out while their transform is on: most are never asked for."""
_functorch: Any = torch._C._functorch
_Fit: TypeAlias = Callable[[Tensor], Tensor]


def beneath(region: Region, x: Tensor, below: Tensor) -> bool:
    """Let `below`, which is wrapped as `x`, carry what that does. False if that is too much."""
    own = shadow(x)
    assert own is not None
    if isinstance(own, Weights):
        many = max(below.shape, default=1) if own._labels is None else own._labels.shape[-1]
        if below.numel() * many > MAX_ELEMENTS:
            return False
    dim = _functorch.maybe_get_bdim(x) if _functorch.is_batchedtensor(x) else None

    def fit(t: Tensor) -> Tensor:
        own_dim = None
        if level_of(t) == level_of(x):
            own_dim = _functorch.maybe_get_bdim(t) if dim is not None else None
            t = _functorch.get_unwrapped(t)
        if dim is None:
            return t
        with at_level(level_of(x) - 1):
            if own_dim is not None:
                return t.movedim(own_dim, dim)
            return t.unsqueeze(dim).expand(*t.shape[:dim], below.shape[dim], *t.shape[dim:])

    carry(region, below, _mapped(own, x, fit))
    return True


def wrapped(region: Region, x: Tensor, below: Tensor) -> bool:
    """Let `x`, which is `below` in a transform, carry what that does."""
    level = level_of(x)

    def fit(t: Tensor) -> Tensor:
        if _functorch.is_batchedtensor(x):
            return _functorch._add_batch_dim(t, _functorch.maybe_get_bdim(x), level)  # type: ignore[no-any-return]
        return _functorch._wrap_for_grad(t, level)  # type: ignore[no-any-return]

    carry(region, x, _mapped(shadow(below), below, fit))
    return True


def viewed(region: Region, x: Tensor, base: Tensor) -> None:
    """Let `x`, a view of `base`, carry what that does."""
    with at_level(0):
        place = torch.empty_strided(base.shape, base.stride(), dtype=torch.int64, device=base.device)
        place.copy_(torch.arange(base.numel(), device=base.device).view(base.shape))
        at = place.as_strided(x.shape, x.stride(), x.storage_offset() - base.storage_offset())
    fit: _Fit = lambda t: t.reshape(base.numel(), *t.shape[base.dim() :])[at]
    carry(region, x, _mapped(shadow(base), base, fit))


def _mapped(own: Shadow | None, x: Tensor, fit: _Fit) -> Shadow:
    """The shadow `own` of `x`, as that of another tensor. Shadows have the dimensions of `x`, and may have one more."""
    assert own is not None
    found: Shadow
    with at_level(level_of(x)), torch.enable_grad():
        if isinstance(own, Weights):
            weights = own.weights()
            labels, weights = map(fit, torch.broadcast_tensors(own.labels, weights))  # type: ignore[no-untyped-call]
            number = None if own.number is None else fit(own.value())
            found = Weights(lambda: (weights, labels), labels, value=None if number is None else lambda: number)
        else:
            there = own.other(x) if own.knows_other() and own._other is not opposite else None
            moved = None if there is None else fit(there)
            other = own._other if there is None else lambda _: moved
            found = Shadow(fit(own.value()), other, own.exact, own.by_ones)
        parts = None if own.terms is None else own.terms()
        if parts is not None:
            fitted = fit(parts[0]), fit(parts[1])
            found.terms = lambda: fitted
    return found
