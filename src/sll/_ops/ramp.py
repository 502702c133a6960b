"""A float, a jump and a width -> one value: `band_offset` and `blend` for jumps between constants, in one pass.

One byte per element is kept for backward, the mask of the band. It is what a plain eager program runs, and a
compiled one; `suits` says where.
"""

from __future__ import annotations

import math
from typing import Any, NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor

from . import fused
from .apply import run
from .fused import pick


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


class Jump(NamedTuple):
    """Where a float jumps, and between what.

    `kind` is ``"boundary"``, one boundary between two constants, or a function that jumps at integers or halfway
    between them: ``"round"``, ``"floor"``, ``"ceil"``, ``"trunc"``. The others describe a boundary: the constants below
    and above it, the hard value exactly there, and that of NaN.

    ``"quantize"`` is `round` clamped to the whole numbers `below` … `above`, as it is after a detour through integers:
    there is no -0, and NaN becomes `at_nan`.
    """

    kind: str
    below: float = 0.0
    above: float = 1.0
    at_tie: float = 0.0
    at_nan: float = 0.0

    @property
    def constants(self) -> tuple[float, float, float, float]:
        return self.below, self.above, self.at_tie, self.at_nan

    @property
    def limit(self) -> float:
        """Half the distance to the next boundary."""
        return math.inf if self.kind == "boundary" else 0.5

    @property
    def height(self) -> float:
        return self.above - self.below if self.kind == "boundary" else 1.0

    def flipped(self) -> Jump:
        """1 minus it, for a boundary between 0 and 1."""
        below, above, at_tie, at_nan = (1 - value for value in self.constants)
        return Jump(self.kind, below, above, at_tie, at_nan)


def _step(x: Tensor, threshold: float | Tensor, jump: Jump, eps: float, linear: bool) -> tuple[Tensor, Tensor]:
    """The value of a step and the mask of the elements in its band, with stock ops: the reference of `fused`."""
    if jump.kind == "boundary":
        distance = x - threshold
        hard = _constants(x, threshold, distance, jump)
    else:
        rounds = jump.kind in ("round", "quantize")
        hard = x.round() if rounds else getattr(torch, jump.kind)(x)
        n = x.floor() if rounds else x.round()
        distance = (x - n) - 0.5 if rounds else x - n
        if jump.kind == "quantize":
            hard = hard.clamp_(jump.below, jump.above).add_(0.0)
            hard = torch.where(x == x, hard, jump.at_nan)
            distance = torch.where((n >= jump.below) & (n < jump.above), distance, math.nan)
        if jump.kind == "trunc":
            distance = torch.where(n == 0, math.nan, distance)  # no jump at 0
    # `hardshrink` is zero on the closed interval, and the cast is a comparison with zero, faster than others
    inside = F.hardshrink(distance, eps).to(torch.bool).logical_not_()
    if not linear:
        return hard, inside
    undecided = distance.to(torch.bool).logical_and_(inside)
    offset = distance.mul_(0.5 / eps).clamp_(-0.5, 0.5)
    if jump.kind == "boundary":
        ramp = offset.mul_(jump.height).add_(jump.below * 0.5 + jump.above * 0.5)
    else:  # halfway first: n + 1/2 of a large n is another integer
        ramp = offset.sub_(n.sign(), alpha=0.5) if jump.kind == "trunc" else offset
        ramp = ramp.add_(-0.5 if jump.kind == "floor" else 0.0 if jump.kind == "trunc" else 0.5).add_(n)
    return pick(undecided, ramp, hard), inside


def _constants(x: Tensor, threshold: float | Tensor, distance: Tensor, jump: Jump) -> Tensor:
    """The hard value of a jump between constants."""
    _, below, above, at_tie, at_nan = jump
    if below == -above and at_tie == at_nan == 0:
        return distance.sign().mul_(above)
    if at_nan == below:
        up = x >= threshold if at_tie == above else x > threshold
    else:
        up = (x < threshold if at_tie == above else x <= threshold).logical_not_()
    hard = up.to(x.dtype) if (below, above) == (0, 1) else torch.where(up, above, below).to(x.dtype)
    if at_tie not in (below, above):
        hard = torch.where(x == threshold, at_tie, hard)
    return hard


def _scaled(g: Tensor, inside: Tensor, slope: float) -> Tensor:
    """``g * slope`` in the band: an infinite `g` outside of it is not a NaN."""
    if not torch.is_grad_enabled() and fused.suits(g):
        return fused.scale(g, inside, slope)
    return torch.where(inside, g * slope, 0)


class _Ramp(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, x: Tensor, threshold: Any, jump: Jump, eps: float, linear: bool) -> Tensor:
        ctx.slope = jump.height * (0.5 / eps)
        ctx.shape = threshold.shape if isinstance(threshold, Tensor) else None
        if fused.suits(x):
            constants: tuple[float, ...] = jump.constants if jump.kind == "quantize" else ()
            if jump.kind == "boundary":
                constants = (float(threshold), *jump.constants)
            value, inside = fused.step(jump.kind, x, constants, eps, linear)
        else:
            value, inside = _step(x, threshold, jump, eps, linear)
        ctx.save_for_backward(inside)
        return value

    @staticmethod
    def backward(ctx: Any, g: Tensor) -> Any:
        (kept,) = ctx.saved_tensors
        dx = _scaled(g, kept, ctx.slope)
        dt = -dx.sum_to_size(ctx.shape) if ctx.needs_input_grad[1] else None
        return dx if ctx.needs_input_grad[0] else None, dt, None, None, None


def ramp(x: Tensor, jump: Jump, eps: float, forward: str, threshold: float | Tensor = 0.0) -> Tensor:
    """The step that `jump` describes, of `x`; the same as `blend` with the offset ``band_offset(x - threshold)``.

    `x` is in the dtype of distances (`compute_dtype`). `eps` is the half-width of the band, a float, at most
    ``jump.limit``; `forward` is as in `blend`. `threshold` is a number, or a tensor with one element, which may require
    grad.
    """
    return run(_Ramp, x, threshold, jump, eps, forward == "linear")
