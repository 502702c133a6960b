"""Views of the same numbers."""

from __future__ import annotations

import torch
from torch import Tensor

from .env import compiling

__all__ = ["same_numbers"]


def same_numbers(a: Tensor, b: Tensor, in_any_shape: bool) -> bool:
    """Whether `a` is `b`, or another differentiable view of the same numbers."""
    if a is b:
        return True
    if compiling():  # Dynamo does not tell
        return False
    if torch._C._functorch.is_functorch_wrapped_tensor(a) or a.layout != torch.strided or a.device.type == "meta":
        return False
    related = a._base is b or b._base is a or a._base is not None and a._base is b._base
    if not related or a.requires_grad != b.requires_grad or a._base is not None and a.grad_fn is None:
        return False
    if a.data_ptr() != b.data_ptr() or a.dtype != b.dtype:
        return False
    if in_any_shape:
        return a.numel() == b.numel() and a.is_contiguous() and b.is_contiguous()
    return a.shape == b.shape and a.stride() == b.stride()
