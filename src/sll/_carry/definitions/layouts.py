"""Tensors that are stored in another way, quantized or sparse: they carry an ordinary tensor with the same numbers."""

from __future__ import annotations

import string
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor

from .rule import Original, Stored, defined, stored

MAX_ELEMENTS = 2**22
"""Of the one-hots of the places of a sparse tensor."""


# --- quantized: the integers, as floats ---


@defined("quantize_per_tensor", "quantize_per_channel", whole=True)
def quantized(original: Original, input: Any, *args: Any, **kwargs: Any) -> Any:
    out = original()
    if not isinstance(input, Tensor):
        return out
    scale, zero_point = _scale(out)
    info = torch.iinfo({torch.quint8: torch.uint8, torch.qint8: torch.int8}.get(out.dtype, torch.int32))
    steps = torch.round(input * (1 / scale)) + zero_point
    return Stored(out, out.int_repr(), steps.clamp(info.min, info.max))


def _scale(q: Tensor) -> tuple[Any, Any]:
    """Scale and zero point, of each channel beside its elements."""
    if q.qscheme() in (torch.per_tensor_affine, torch.per_tensor_symmetric):
        return q.q_scale(), q.q_zero_point()
    shape = [-1 if i == q.q_per_channel_axis() else 1 for i in range(q.dim())]
    return q.q_per_channel_scales().reshape(shape).float(), q.q_per_channel_zero_points().reshape(shape)


@defined("dequantize")
def dequantized(original: Original, input: Any) -> Any:
    if isinstance(input, Tensor) and not input.is_quantized:
        return input.to(torch.float32, copy=True)  # that is all it does then
    steps = stored(input)
    if steps is None:
        return None
    scale, zero_point = _scale(input)
    return (steps - zero_point) * scale


@defined("int_repr")
def integers(original: Original, input: Tensor) -> Any:
    steps = stored(input)
    return None if steps is None else steps.to(original().dtype)


# --- sparse: all numbers ---


@defined("sparse_coo_tensor", whole=True)
def sparse(original: Original, indices: Any, values: Any, *args: Any, **kwargs: Any) -> Any:
    """At a decided place, or of decided numbers."""
    out = original()
    places, values = (x if isinstance(x, Tensor) else torch.as_tensor(x) for x in (indices, values))
    if not any(getattr(x, "_sll", None) is not None for x in (places, values)):
        return out
    size = list(out.shape[: places.shape[0]])
    if values.dim() != 1 or sum(size) * values.numel() > MAX_ELEMENTS or out.numel() > MAX_ELEMENTS:
        return NotImplemented
    ones = [F.one_hot(places[i], n).to(out.dtype) for i, n in enumerate(size)]
    letters = string.ascii_lowercase[1 : len(size) + 1]
    numbers = torch.einsum(f"a,{','.join('a' + x for x in letters)}->{letters}", values.to(out.dtype), *ones)
    return Stored(out, out.to_dense(), numbers)


@defined("to_dense", whole=True)
def dense(original: Original, input: Tensor, *args: Any, **kwargs: Any) -> Any:
    out, numbers = original(), stored(input)
    return out if numbers is None else numbers.clone().to(out.dtype)
