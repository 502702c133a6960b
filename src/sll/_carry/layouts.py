"""Tensors that are stored in another way, quantized or sparse: they carry an ordinary tensor with the same numbers, and
what makes ordinary tensors of them hands that out.
"""

from __future__ import annotations

import string
from typing import Any

import torch
from torch import Tensor
from torch.nn import functional as F

from .._ops.band import hard_forward
from .._ops.env import tracked
from .._rules.index import ASKS, op_name, spellings
from .interface import Func, Mark, Region, Rule

__all__ = ["LAYOUTS"]

MAX_ELEMENTS = 2**22
"""Of the one-hots of the places of a sparse tensor."""


class Twin(Mark):
    """Of a quantized tensor: the integers, as floats. Of a sparse one: all numbers."""

    def __init__(self, numbers: Tensor) -> None:
        self.numbers = numbers

    def met(self, region: Any, func: Func, x: Tensor, out: Any) -> None:
        """In another function what it carries ends."""
        if func not in _FOLLOWED and func not in ASKS:
            way = "to_dense()" if x.layout != torch.strided else "dequantize() or int_repr()"
            region.lose(op_name(func), [], _OTHER.format(way), undecided=lambda: True)


def _twin(x: Tensor) -> Tensor | None:
    pair = getattr(x, "_sll", None)
    return pair[0].numbers if pair is not None and isinstance(pair[0], Twin) else None


def _carrying(region: Region, x: Tensor, hard: Tensor, numbers: Tensor) -> Tensor:
    region.mark(x, Twin(_as_shown(region, hard, numbers)))
    return x


def _as_shown(region: Region, hard: Tensor, numbers: Tensor) -> Tensor:
    """`numbers`, of which floats show the values of `hard` unless the region shows those of the ramp."""
    if region.linear or not numbers.is_floating_point() or bool((hard == numbers).all()):
        return numbers  # (with what it carries)
    return hard_forward(hard.to(numbers.dtype), numbers)


# --- quantized ---------------------------------------------------------------------------------------------------


def _steps(x: Tensor, scale: Any, zero_point: Any, dtype: torch.dtype) -> Tensor:
    info = torch.iinfo({torch.quint8: torch.uint8, torch.qint8: torch.int8}.get(dtype, torch.int32))
    steps: Tensor = torch.round(x * (1 / scale)) + zero_point
    return steps.clamp(info.min, info.max)


def quantize(region: Region, func: Func, args: tuple[Any, ...], kwargs: dict[str, Any]) -> Any:
    """`quantize_per_tensor`, `quantize_per_channel`"""
    out = func(*args, **kwargs)
    x = args[0] if args else kwargs["input"]
    if not isinstance(x, Tensor) or not (tracked(x) or getattr(x, "_sll", None) is not None):
        return out
    numbers = region.within(_steps, x, *_scale(out), out.dtype)
    return _carrying(region, out, out.int_repr(), numbers)


def _scale(q: Tensor) -> tuple[Any, Any]:
    """Scale and zero point, of each channel beside its elements."""
    if q.qscheme() in (torch.per_tensor_affine, torch.per_tensor_symmetric):
        return q.q_scale(), q.q_zero_point()
    shape = [-1 if i == q.q_per_channel_axis() else 1 for i in range(q.dim())]
    return q.q_per_channel_scales().reshape(shape).float(), q.q_per_channel_zero_points().reshape(shape)


def dequantize(region: Region, func: Func, args: tuple[Any, ...], kwargs: dict[str, Any]) -> Any:
    if args and isinstance(args[0], Tensor) and not args[0].is_quantized:
        return region.call(Tensor.to, args[0], torch.float32)  # that is all it does then
    out = func(*args, **kwargs)
    numbers = _twin(args[0]) if isinstance(out, Tensor) else None
    if numbers is None:
        return out
    scale, zero_point = _scale(args[0])
    return _as_shown(region, out, region.within(lambda: (numbers - zero_point) * scale))


def int_repr(region: Region, func: Func, args: tuple[Any, ...], kwargs: dict[str, Any]) -> Any:
    out, numbers = func(*args, **kwargs), _twin(args[0])
    return out if numbers is None else region.call(Tensor.to, numbers, out.dtype)


# --- sparse ------------------------------------------------------------------------------------------------------


def sparse(region: Region, func: Func, args: tuple[Any, ...], kwargs: dict[str, Any]) -> Any:
    """`sparse_coo_tensor`: at a decided place, or of decided numbers."""
    named = dict(zip(("indices", "values", "size"), args), **kwargs)
    places, values = (x if isinstance(x, Tensor) else torch.as_tensor(x) for x in (named["indices"], named["values"]))
    out = func(*args, **kwargs)
    if not any(getattr(x, "_sll", None) is not None for x in (places, values)):
        return out
    size = list(out.shape[: places.shape[0]])
    if values.dim() != 1 or sum(size) * values.numel() > MAX_ELEMENTS or out.numel() > MAX_ELEMENTS:
        region.lose("sparse_coo_tensor", [x for x in (places, values) if not x.is_floating_point()], _LARGE)
        return out
    return _carrying(region, out, out.to_dense(), region.within(_dense, places, values.to(out.dtype), size))


_LARGE = "its places are followed one by one, and these are too many. Take a smaller tensor, or sums of one-hots."


def _dense(places: Tensor, values: Tensor, size: list[int]) -> Tensor:
    ones = [F.one_hot(places[i], n).to(values.dtype) for i, n in enumerate(size)]
    letters = string.ascii_lowercase[1 : len(size) + 1]
    return torch.einsum(f"a,{','.join('a' + x for x in letters)}->{letters}", values, *ones)


def to_dense(region: Region, func: Func, args: tuple[Any, ...], kwargs: dict[str, Any]) -> Any:
    out, numbers = func(*args, **kwargs), _twin(args[0])
    if numbers is None:
        return out
    return region.call(Tensor.to, region.call(Tensor.clone, numbers), out.dtype)


LAYOUTS: dict[str, Rule] = {
    "quantize_per_tensor": quantize,
    "quantize_per_channel": quantize,
    "dequantize": dequantize,
    "int_repr": int_repr,
    "sparse_coo_tensor": sparse,
    "to_dense": to_dense,
}
_FOLLOWED = {func for name in LAYOUTS for func in spellings(name)}
_OTHER = "of tensors that are stored in another way, only {} is followed. Make an ordinary tensor first."
