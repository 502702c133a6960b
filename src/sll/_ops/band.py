"""Distance to the boundary -> where in the band: -1/2 (below) … 0 (at the boundary) … 1/2 (above).

The offset plus 1/2 is the weight of the outcome above the boundary. The offset is what is computed and kept, because
near the boundary ``1/2 + d`` has lost the last digits of `d`.
"""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from .apply import run


class _BandOffset(torch.autograd.Function):
    """``clamp(d / (2 eps), -1/2, 1/2)`` with slope ``1/(2 eps)`` on the closed band ``|d| <= eps``."""

    generate_vmap_rule = True

    @staticmethod
    def forward(distance: Tensor, eps: float, nan: float) -> Tensor:
        offset = (distance * (0.5 / eps)).clamp(-0.5, 0.5)
        return offset.nan_to_num(nan=nan)

    @staticmethod
    def setup_context(ctx: Any, inputs: tuple[Any, ...], output: Tensor) -> None:
        distance, eps, _ = inputs
        # The mask is taken from the distance, not from the clamped offset: one rounding error outside the band
        # the offset already is exactly 1/2, and a clamp would still let the gradient through.
        inside = distance.detach().abs() <= eps
        ctx.save_for_backward(inside)
        ctx.save_for_forward(inside)
        ctx.slope = 0.5 / eps

    @staticmethod
    def _scale(ctx: Any, g: Tensor) -> Tensor:
        (inside,) = ctx.saved_tensors
        return torch.where(inside, g * ctx.slope, torch.zeros_like(g))

    @staticmethod
    def backward(ctx: Any, g: Tensor) -> Any:
        return _BandOffset._scale(ctx, g), None, None

    @staticmethod
    def jvp(ctx: Any, t: Tensor, *_: Any) -> Tensor:
        return _BandOffset._scale(ctx, t)


class _HardForward(torch.autograd.Function):
    """Value of ``hard``, derivative of ``soft``."""

    generate_vmap_rule = True

    @staticmethod
    def forward(hard: Tensor, soft: Tensor) -> Tensor:
        return hard.clone()

    @staticmethod
    def setup_context(ctx: Any, inputs: tuple[Any, ...], output: Tensor) -> None:
        pass

    @staticmethod
    def backward(ctx: Any, g: Tensor) -> Any:
        return None, g

    @staticmethod
    def jvp(ctx: Any, t_hard: Any, t_soft: Any) -> Tensor:
        tangent: Tensor = t_soft.clone()
        return tangent


def closed(a: float, b: float, eps: float) -> bool:
    """Whether two numbers are further apart than a band is wide, however they were rounded."""
    return abs(a - b) > eps + 1e-6 * (abs(a) + abs(b) + eps)


def band_offset(distance: Tensor, eps: float | Tensor, nan: float = -0.5) -> Tensor:
    """Where in the band: ``clamp(distance / (2 eps), -1/2, 1/2)``.

    `distance` is signed and in the units of the op's input; `eps` is the half-width of the band, a positive float in
    the same units, or a 0-dim tensor that is not to be read (see `widths.py`). A NaN distance gives the offset `nan`
    (-1/2 or 1/2) and no gradient.
    """
    if isinstance(eps, Tensor):
        distance, eps = distance * (0.5 / eps).to(distance.dtype), 0.5
    return run(_BandOffset, distance, eps, nan)


def hard_forward(hard: Tensor, soft: Tensor) -> Tensor:
    """The value of `hard` (bit for bit) with the gradient of `soft`; same shape, floating point."""
    return run(_HardForward, hard.detach(), soft.to(hard.dtype))
