"""``torch.where`` of plain tensors on the CPU, by their bits."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from . import fused
from .apply import run

__all__ = ["pick", "suits"]


def suits(x: Tensor, *others: Any) -> bool:
    """Whether `ramp` can take the place of `band_offset` and `blend` for a step of `x` (and, if `others` are tensors,
    with them): plain tensors, and nobody who differentiates forward or transforms the function.
    """
    if torch._C._are_functorch_transforms_active() or torch.autograd.forward_ad._current_level >= 0:
        return False
    for value in (x, *others):
        if isinstance(value, Tensor) and type(value) is not Tensor and type(value) is not torch.nn.Parameter:
            return False
    return x.layout == torch.strided


_BITS = {torch.float64: torch.int64, torch.float32: torch.int32}


def pick(mask: Tensor, a: Tensor, b: Tensor) -> Tensor:
    """``torch.where(mask, a, b)``, which on the CPU takes up to ten times as long as the same with bits."""
    if a.dtype != b.dtype or mask.numel() < 4 * fused.LEAST or not _has_bits(mask, a, b):
        return torch.where(mask, a, b)
    if a.dtype == torch.bool:
        return (a & mask) | (b & mask.logical_not())
    if a.dtype not in _BITS:
        return torch.where(mask, a, b)
    if torch.is_grad_enabled() and (a.requires_grad or b.requires_grad):
        return run(_Pick, mask, a, b)
    return _picked(mask, a, b)


def _has_bits(*tensors: Tensor) -> bool:
    """Whether these are plain tensors on the CPU, of which one sees the bits."""
    return suits(*tensors) and not torch._C._len_torch_dispatch_stack() and all(map(fused.dense, tensors))


def _picked(mask: Tensor, a: Tensor, b: Tensor) -> Tensor:
    at_once = fused.pick(mask, a, b)
    if at_once is not None:
        return at_once
    bits = _BITS[a.dtype]
    other = b.detach().view(bits)
    differ = torch.bitwise_xor(a.detach().view(bits), other)
    differ = differ if differ.dim() else differ.reshape(1)  # a number would take the dtype of the mask
    return (differ & mask.view(torch.int8).neg()).bitwise_xor_(other).view(a.dtype)


class _Pick(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, mask: Tensor, a: Tensor, b: Tensor) -> Tensor:
        ctx.save_for_backward(mask)
        ctx.shapes = a.shape, b.shape
        return _picked(mask, a, b)

    @staticmethod
    def backward(ctx: Any, g: Tensor) -> Any:
        mask = ctx.saved_tensors[0].expand_as(g)
        g_a = _scaled(g, mask, 1.0).sum_to_size(ctx.shapes[0]) if ctx.needs_input_grad[1] else None
        g_b = _scaled(g, mask.logical_not(), 1.0).sum_to_size(ctx.shapes[1]) if ctx.needs_input_grad[2] else None
        return None, g_a, g_b


def _scaled(g: Tensor, inside: Tensor, slope: float) -> Tensor:
    """``where(inside, g * slope, 0)``: an infinite `g` outside the band is not a NaN."""
    if not torch.is_grad_enabled() and type(g) is Tensor:
        if fused.suits(g):
            return fused.scale(g, inside, slope)
        if g.device.type == "cpu" and g.dtype in _BITS and not fused.batched(g) and not g.is_neg():
            bits = g.view(_BITS[g.dtype]).bitwise_and(inside.view(torch.int8).neg())
            return bits.view(g.dtype).mul_(slope)
    return torch.where(inside, g * slope, 0)
