"""Tensors made of decisions, and of lists of them."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from ..interface import tensors
from .rule import Original, defined

__all__: list[str] = []


@defined("as_tensor", "asarray", whole=True)
def shared(original: Original, data: Any = None, **kwargs: Any) -> Any:
    return _collected(original(), data, kwargs, copied=False)


@defined("tensor", whole=True)
def copied(original: Original, data: Any, **kwargs: Any) -> Any:
    return _collected(original(), data, kwargs)


@defined("new_tensor", whole=True)
def alike(original: Original, input: Tensor, data: Any, **kwargs: Any) -> Any:
    return _collected(original(), data, kwargs)


def _collected(out: Any, data: Any, kwargs: dict[str, Any], copied: bool = True) -> Any:
    """Floats are cut, as by torch."""
    data = kwargs.get("obj", data)
    held = any(getattr(x, "_sll", None) is not None for x in tensors(data))
    if kwargs.get("requires_grad") or not isinstance(out, Tensor) or not held:
        return out
    if isinstance(data, Tensor):
        if data.is_floating_point():
            return out
        return (data.clone() if copied else data).to(out)
    return _built(data, out)


def _built(data: Any, like: Tensor) -> Tensor:
    if isinstance(data, (list, tuple)):
        return torch.stack([_built(x, like) for x in data])
    x = data if isinstance(data, Tensor) else torch.tensor(data, dtype=like.dtype)
    return (x.detach() if x.is_floating_point() else x).to(device=like.device, dtype=like.dtype)
