"""The three autograd primitives everything else is made of.

`band_offset`   distance to the boundary      ->  where in the band: -1/2 (below) … 0 (at the boundary) … 1/2 (above)
`blend`         two outcomes and an offset    ->  one value
`hard_forward`  a hard value with the gradient of a soft one

The offset plus 1/2 is the weight of the outcome above the boundary. The offset is what is computed and kept, because
near the boundary ``1/2 + d`` has lost the last digits of `d`.

All three work under ``torch.func`` (``grad``, ``jvp``, ``vmap``), can be differentiated twice (a ramp has no
curvature, so the second derivative is zero inside and outside the band) and are traced by ``torch.compile``.
"""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

__all__ = ["band_offset", "blend", "compute_dtype", "hard_forward"]

_HALF = (torch.float16, torch.bfloat16)


def compute_dtype(*dtypes: torch.dtype) -> torch.dtype:
    """The dtype in which distances and offsets are computed: float64 if any is float64, float32 for everything else.

    In bfloat16 a distance has 8 bits, fewer than the number of steps in a useful band.
    """
    return torch.float64 if torch.float64 in dtypes else torch.float32


class _BandOffset(torch.autograd.Function):
    """``clamp(d / (2 eps), -1/2, 1/2)`` with slope ``1/(2 eps)`` on the closed band ``|d| <= eps``."""

    generate_vmap_rule = True

    @staticmethod
    def forward(distance: Tensor, eps: float, nan: float) -> Tensor:
        return (distance * (0.5 / eps)).clamp(-0.5, 0.5).nan_to_num(nan=nan)

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


class _Blend(torch.autograd.Function):
    """``(below + above) / 2 + offset (above - below)`` inside the band, ``hard`` outside, at an exact tie, and where
    the two outcomes do not differ by a finite amount."""

    generate_vmap_rule = True

    @staticmethod
    def forward(
        offset: Tensor, below: Tensor, above: Tensor, hard: Tensor, forward: str, taken: Tensor | None
    ) -> Tensor:
        if forward != "linear":
            return hard.clone()
        wide = compute_dtype(offset.dtype, hard.dtype)
        difference = above.to(wide) - below.to(wide)
        value = below.to(wide) * 0.5 + above.to(wide) * 0.5 + offset * difference
        undecided = (offset.abs() < 0.5) & (offset != 0) & difference.isfinite()
        return torch.where(undecided, value.to(hard.dtype), hard)

    @staticmethod
    def setup_context(ctx: Any, inputs: tuple[Any, ...], output: Tensor) -> None:
        *saved, ctx.mode, taken = inputs
        ctx.save_for_backward(*saved, taken)
        ctx.save_for_forward(*saved, taken)

    @staticmethod
    def _parts(ctx: Any) -> tuple[Tensor, Tensor]:
        offset, below, above, hard, taken = ctx.saved_tensors
        wide = compute_dtype(offset.dtype, hard.dtype)
        difference = above.to(wide) - below.to(wide)
        finite = difference.isfinite()
        # No finite difference: the hard outcome alone gets the gradient, the decision gets none.
        if taken is not None:
            share = taken.to(offset.dtype)
        else:
            share = torch.where(offset == 0, hard == above, offset > 0).to(offset.dtype)
            if ctx.mode != "straight-through":
                share = torch.where(finite, offset + 0.5, share)
        return share, torch.where(finite, difference, torch.zeros_like(difference))

    @staticmethod
    def backward(ctx: Any, g: Tensor) -> Any:
        share, difference = _Blend._parts(ctx)
        zero = torch.zeros_like(g)
        g_offset = g_below = g_above = None
        if ctx.needs_input_grad[0]:
            g_offset = torch.where(difference != 0, g * difference, torch.zeros_like(difference)).to(share.dtype)
        if ctx.needs_input_grad[1]:
            g_below = torch.where(share < 1, (g * (1 - share)).to(g.dtype), zero)
        if ctx.needs_input_grad[2]:
            g_above = torch.where(share > 0, (g * share).to(g.dtype), zero)
        return g_offset, g_below, g_above, None, None, None


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


# Dynamo (up to 2.13 at least) refuses a Function with a `jvp`, so compiled code gets the classes above and eager code
# these.


class _BandOffsetJvp(_BandOffset):
    @staticmethod
    def jvp(ctx: Any, t: Tensor, *_: Any) -> Tensor:
        return _BandOffset._scale(ctx, t)


class _BlendJvp(_Blend):
    @staticmethod
    def jvp(ctx: Any, t_offset: Any, t_below: Any, t_above: Any, *_: Any) -> Tensor:
        share, difference = _Blend._parts(ctx)
        hard = ctx.saved_tensors[3]
        out = torch.zeros_like(hard)
        if t_offset is not None:
            out = out + torch.where(difference != 0, t_offset * difference, torch.zeros_like(difference)).to(hard.dtype)
        if t_below is not None:
            out = out + torch.where(share < 1, (t_below * (1 - share)).to(hard.dtype), torch.zeros_like(hard))
        if t_above is not None:
            out = out + torch.where(share > 0, (t_above * share).to(hard.dtype), torch.zeros_like(hard))
        return out


class _HardForwardJvp(_HardForward):
    @staticmethod
    def jvp(ctx: Any, t_hard: Any, t_soft: Any) -> Tensor:
        tangent: Tensor = t_soft.clone()
        return tangent


def band_offset(distance: Tensor, eps: float | Tensor, nan: float = -0.5) -> Tensor:
    """Where in the band: ``clamp(distance / (2 eps), -1/2, 1/2)``.

    `distance` is signed and in the units of the op's input; `eps` is the half-width of the band, a positive float in
    the same units, or a 0-dim tensor that is not to be read (see `policy`). A NaN distance gives the offset `nan`
    (-1/2 or 1/2) and no gradient.
    """
    if isinstance(eps, Tensor):
        distance, eps = distance * (0.5 / eps).to(distance.dtype), 0.5
    function = _BandOffset if torch.compiler.is_compiling() else _BandOffsetJvp
    return function.apply(distance, eps, nan)  # type: ignore[no-any-return, no-untyped-call]


def blend(
    offset: Tensor, below: Tensor, above: Tensor, hard: Tensor, forward: str, taken: Tensor | None = None
) -> Tensor:
    """One value from two outcomes: ``(below + above) / 2 + offset (above - below)`` in the band, `hard` elsewhere.

    With `forward` other than ``"linear"`` the value is `hard` everywhere. The gradient of the offset is the same in all
    modes. The outcomes share theirs by weight; with ``"straight-through"`` the one that the program took gets it all:
    the one above where the mask `taken` is True (by default, what the offset says).
    `offset`, `below` and `above` broadcast to the shape of `hard`, whose dtype the result has.
    """
    if hard.is_complex():
        parts = [
            blend(offset, below.to(hard.dtype).real, above.to(hard.dtype).real, hard.real, forward, taken),
            blend(offset, below.to(hard.dtype).imag, above.to(hard.dtype).imag, hard.imag, forward, taken),
        ]
        return torch.complex(*parts)
    # Expanding here lets autograd sum the gradients of broadcast operands.
    shape = hard.shape
    function = _Blend if torch.compiler.is_compiling() else _BlendJvp
    return function.apply(  # type: ignore[no-any-return, no-untyped-call]
        offset.expand(shape), below.to(hard.dtype).expand(shape), above.to(hard.dtype).expand(shape),
        hard.detach(), forward, None if taken is None else taken.expand(shape),
    )  # fmt: skip


def hard_forward(hard: Tensor, soft: Tensor) -> Tensor:
    """The value of `hard` (bit for bit) with the gradient of `soft`; same shape, floating point."""
    function = _HardForward if torch.compiler.is_compiling() else _HardForwardJvp
    return function.apply(hard.detach(), soft.to(hard.dtype))  # type: ignore[no-any-return, no-untyped-call]
