"""Quantization: ``(clamp(round(x / scale) + zero_point, low, high) - zero_point) * scale``."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from .rule import Original, defined


@defined("fake_quantize_per_tensor_affine")
def affine(
    original: Original, input: Tensor, scale: Any, zero_point: Any, quant_min: int, quant_max: int
) -> Tensor:  # fmt: skip
    """As torch computes it: with the inverse of the scale."""
    steps = torch.round(input * (1 / scale)) + zero_point
    shown: Tensor = (steps.clamp(quant_min, quant_max) - zero_point) * scale
    return shown


@defined("fake_quantize_per_channel_affine")
def per_channel(
    original: Original, input: Tensor, scale: Tensor, zero_point: Tensor, axis: int, quant_min: int,
    quant_max: int,
) -> Tensor:  # fmt: skip
    return affine(original, input, *_along(input, axis, scale, zero_point), quant_min, quant_max)


def _along(x: Tensor, axis: int, scale: Tensor, zero_point: Tensor) -> tuple[Tensor, Tensor]:
    """Numbers of channels, beside the elements of `x`."""
    shape = [1] * x.dim()
    shape[axis] = -1
    return scale.reshape(shape), zero_point.reshape(shape)


@defined("_fake_quantize_learnable_per_tensor_affine")
def learned_per_tensor(
    original: Original, input: Tensor, scale: Tensor, zero_point: Tensor, quant_min: int, quant_max: int,
    grad_factor: float = 1.0,
) -> Tensor:  # fmt: skip
    learned = _learned(scale, zero_point, quant_min, quant_max, grad_factor)
    return affine(original, input, *learned, quant_min, quant_max)


@defined("_fake_quantize_learnable_per_channel_affine")
def learned_per_channel(
    original: Original, input: Tensor, scale: Tensor, zero_point: Tensor, axis: int, quant_min: int,
    quant_max: int, grad_factor: float = 1.0,
) -> Tensor:  # fmt: skip
    learned = _learned(scale, zero_point, quant_min, quant_max, grad_factor)
    return affine(original, input, *_along(input, axis, *learned), quant_min, quant_max)


def _learned(scale: Tensor, zero_point: Tensor, low: int, high: int, factor: float) -> tuple[Tensor, Tensor]:
    """Scale and zero point, with their gradients times a factor."""
    scale, zero_point = (t.detach() + factor * (t - t.detach()) for t in (scale, zero_point))
    return scale, torch.round(zero_point).clamp(low, high)


@defined("fused_moving_avg_obs_fake_quant")
def observed(
    original: Original, input: Tensor, observer_on: Tensor, fake_quant_on: Tensor, running_min: Tensor,
    running_max: Tensor, scale: Tensor, zero_point: Tensor, averaging_const: float, quant_min: int, quant_max: int,
    ch_axis: int, per_row_fake_quant: bool = False, symmetric_quant: bool = False,
) -> Any:  # fmt: skip
    """The observer writes what it has seen, scale and zero point; then it is ordinary quantization."""
    out = original()
    if not int(fake_quant_on):
        return out
    scale, zero_point = scale.detach().clone(), zero_point.detach().clone()
    if per_row_fake_quant:
        scale, zero_point = _along(input, ch_axis, scale, zero_point)
    return affine(original, input, scale, zero_point, quant_min, quant_max)
