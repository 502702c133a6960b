"""Images read at the nearest element."""

from __future__ import annotations

from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor

from .rule import Original, carries, defined


@defined("grid_sample")
def nearest(
    original: Original, input: Tensor, grid: Tensor, mode: str = "bilinear", padding_mode: str = "zeros",
    align_corners: bool | None = None,
) -> Any:  # fmt: skip
    """The index is a rounded coordinate; around the image are zeros, or nothing."""
    if mode != "nearest" or not carries(grid):
        return NotImplemented
    sizes, margin = input.shape[2:], int(padding_mode == "zeros")
    at = [_place(x, n, padding_mode, bool(align_corners)) for x, n in zip(grid.unbind(-1), reversed(sizes))]
    index = [torch.round(x.clamp(-margin, n - 1 + margin)).long() + margin for x, n in zip(at, reversed(sizes))]
    table = F.pad(input, (margin, margin) * len(sizes))
    batch = torch.arange(input.shape[0], device=input.device).reshape(-1, *[1] * len(sizes))
    return table.movedim(1, -1)[(batch, *reversed(index))].movedim(-1, 1)


def _place(x: Tensor, size: int, padding: str, corners: bool) -> Tensor:
    """A coordinate in [-1, 1] in elements."""
    at = (x + 1) / 2 * (size - 1) if corners else ((x + 1) * size - 1) / 2
    if padding != "reflection":
        return at
    low, span = (0.0, float(size - 1)) if corners else (-0.5, float(size))
    if span == 0:
        return torch.zeros_like(at)
    away = (at - low).abs()
    times, rest = torch.div(away.detach(), span, rounding_mode="floor"), torch.fmod(away.detach(), span)
    even = times % 2 == 0  # (continuous where it turns)
    return torch.where(even, low + rest, low + span - rest) + torch.where(even, 1, -1) * (away - away.detach())
