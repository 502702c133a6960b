"""The four autograd primitives everything else is made of.

`band_offset`   distance to the boundary      ->  where in the band: -1/2 (below) … 0 (at the boundary) … 1/2 (above)
`blend`         two outcomes and an offset    ->  one value
`ramp`          a float, a jump and a width   ->  one value: both of the above for jumps between constants, in one pass
`hard_forward`  a hard value with the gradient of a soft one

The offset plus 1/2 is the weight of the outcome above the boundary. The offset is what is computed and kept, because
near the boundary ``1/2 + d`` has lost the last digits of `d`.

`ramp` keeps one byte per element for backward, the mask of the band. It is what a plain eager program runs, and a
compiled one; `suits` says where. The others also work under ``torch.func`` (``grad``, ``jvp``, ``vmap``). All can be
differentiated twice (a ramp has no curvature, so the second derivative is zero inside and outside the band) and are
traced by ``torch.compile``.
"""

from __future__ import annotations

import math
from typing import Any, NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor
from torch.compiler import is_compiling

from . import fused

__all__ = [
    "HALF",
    "Jump",
    "Merged",
    "band_offset",
    "blend",
    "compute_dtype",
    "hard_forward",
    "is_number",
    "merge",
    "packed",
    "pick",
    "product",
    "ramp",
    "run",
    "select",
    "suits",
]

HALF = (torch.float16, torch.bfloat16)


def compute_dtype(*dtypes: torch.dtype) -> torch.dtype:
    """The dtype in which distances and offsets are computed: float64 if any is float64, float32 for everything else.

    In bfloat16 a distance has 8 bits, fewer than the number of steps in a useful band.
    """
    return torch.float64 if torch.float64 in dtypes else torch.float32


def run(function: Any, *args: Any) -> Tensor:
    """``function.apply(*args)``. Where no transform is active, without the detour through `inspect` that it takes for
    every function with a ``setup_context`` (to fill in defaults, and there are none): tens of microseconds.
    """
    if is_compiling() or torch._C._are_functorch_transforms_active():
        return function.apply(*args)  # type: ignore[no-any-return]
    args = torch._functorch.utils.unwrap_dead_wrappers(args)
    return super(torch.autograd.Function, function).apply(*args)  # type: ignore[no-any-return]


def packed(mask: Tensor) -> Tensor:
    """A mask to keep for backward. Inductor writes and reads bools one element at a time on the CPU, 10 ns for each;
    bytes made from floats it writes by the vector.
    """
    return mask.to(torch.float32).to(torch.int8) if is_compiling() else mask


def _unpacked(kept: Tensor, g: Tensor) -> Tensor:
    """The mask again. It asks for the gradient, or the compiler would do this in forward and keep bools after all."""
    return kept.to(torch.float32) > 0.5 * (g == g) if kept.dtype == torch.int8 else kept


# Inductor asks the elements of a vector one by one whether they are NaN. And of what compares two tensors the compiler
# keeps the mask for backward; compared with a number, they are compared again there, which costs next to nothing.


def is_number(x: Tensor) -> Tensor:
    """Mask of the elements that are not NaN, for a compiler."""
    return x.abs() >= 0


def _is_finite(x: Tensor) -> Tensor:
    return x.abs() < math.inf if is_compiling() else x.isfinite()


class _BandOffset(torch.autograd.Function):
    """``clamp(d / (2 eps), -1/2, 1/2)`` with slope ``1/(2 eps)`` on the closed band ``|d| <= eps``."""

    generate_vmap_rule = True

    @staticmethod
    def forward(distance: Tensor, eps: float, nan: float) -> Tensor:
        offset = (distance * (0.5 / eps)).clamp(-0.5, 0.5)
        if is_compiling():
            return torch.where(is_number(offset), offset, nan)
        return offset.nan_to_num(nan=nan)

    @staticmethod
    def setup_context(ctx: Any, inputs: tuple[Any, ...], output: Tensor) -> None:
        distance, eps, _ = inputs
        # The mask is taken from the distance, not from the clamped offset: one rounding error outside the band
        # the offset already is exactly 1/2, and a clamp would still let the gradient through.
        inside = distance.detach().abs() <= eps
        kept = packed(inside)
        ctx.save_for_backward(kept)
        ctx.save_for_forward(kept)
        ctx.slope = 0.5 / eps

    @staticmethod
    def _scale(ctx: Any, g: Tensor) -> Tensor:
        (kept,) = ctx.saved_tensors
        return torch.where(_unpacked(kept, g), g * ctx.slope, torch.zeros_like(g))

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
        undecided = (offset.abs() < 0.5) & (offset != 0) & _is_finite(difference)
        return pick(undecided, value.to(hard.dtype), hard)

    @staticmethod
    def setup_context(ctx: Any, inputs: tuple[Any, ...], output: Tensor) -> None:
        *saved, ctx.mode, taken = inputs
        taken = None if taken is None else packed(taken)
        ctx.save_for_backward(*saved, taken)
        ctx.save_for_forward(*saved, taken)

    @staticmethod
    def _parts(ctx: Any, g: Tensor, saved: tuple[Any, ...]) -> tuple[Tensor, Tensor]:
        offset, below, above, hard, taken = saved
        wide = compute_dtype(offset.dtype, hard.dtype)
        difference = above.to(wide) - below.to(wide)
        finite = _is_finite(difference)
        # No finite difference: the hard outcome alone gets the gradient, the decision gets none.
        if taken is not None:
            share = _unpacked(taken, g).to(offset.dtype)
        else:
            shown = _unpacked(packed(hard == above), g)
            share = pick(offset == 0, shown, offset > 0).to(offset.dtype)
            if ctx.mode != "straight-through":
                share = pick(finite, offset + 0.5, share)
        return share, pick(finite, difference, torch.zeros_like(difference))

    @staticmethod
    def _at_once(ctx: Any, g: Tensor, saved: tuple[Any, ...]) -> tuple[Tensor | None, ...] | None:
        """The gradients of the offset and of both outcomes in one pass; None where it takes more."""
        if is_compiling() or torch.is_grad_enabled():
            return None
        offset, below, above, hard, taken = saved
        for x in (g, offset, below, above, hard):
            if x.dtype != g.dtype or not fused.plain(x):
                return None
        if not fused.suits(g) or taken is not None and not fused.plain(taken):
            return None
        if taken is None:
            taken = pick(offset == 0, hard == above, offset > 0)
        straight = ctx.mode == "straight-through"
        wanted = ctx.needs_input_grad[1], ctx.needs_input_grad[2]
        return fused.select_backward(g, offset, taken, below, above, not straight, wanted)

    @staticmethod
    def backward(ctx: Any, g: Tensor) -> Any:
        saved = ctx.saved_tensors  # (a checkpoint allows to ask once)
        at_once = _Blend._at_once(ctx, g, saved)
        if at_once is not None:
            return *at_once, None, None, None
        share, difference = _Blend._parts(ctx, g, saved)
        zero = torch.zeros_like(g)
        g_offset = g_below = g_above = None
        if ctx.needs_input_grad[0]:
            g_offset = pick(difference != 0, g * difference, torch.zeros_like(difference)).to(share.dtype)
        if ctx.needs_input_grad[1]:
            g_below = pick(share < 1, (g * (1 - share)).to(g.dtype), zero)
        if ctx.needs_input_grad[2]:
            g_above = pick(share > 0, (g * share).to(g.dtype), zero)
        return g_offset, g_below, g_above, None, None, None


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
    def numbers(self) -> tuple[float, float, float, float]:
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
        below, above, at_tie, at_nan = (1 - value for value in self.numbers)
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
    if is_compiling():  # noqa: SIM108
        inside = distance.abs() <= eps
    else:  # `hardshrink` is zero on the closed interval, and the cast is a comparison with zero, faster than others
        inside = F.hardshrink(distance, eps).to(torch.bool).logical_not_()
    if not linear:
        return hard, inside
    undecided = (distance != 0 if is_compiling() else distance.to(torch.bool)).logical_and_(inside)
    offset = distance.mul_(0.5 / eps).clamp_(-0.5, 0.5)
    if jump.kind == "boundary":
        ramp = offset.mul_(jump.height).add_(jump.below * 0.5 + jump.above * 0.5)
    else:  # halfway first: n + 1/2 of a large n is another integer
        ramp = offset.sub_(n.sign(), alpha=0.5) if jump.kind == "trunc" else offset
        ramp = ramp.add_(-0.5 if jump.kind == "floor" else 0.0 if jump.kind == "trunc" else 0.5).add_(n)
    return pick(undecided, ramp, hard), inside


def _traced_step(
    x: Tensor, threshold: float | Tensor, jump: Jump, eps: float, linear: bool, hard: Tensor | None
) -> tuple[Tensor, Tensor]:
    """`_step` for a compiler, which fuses what it is given: few operations, whatever they write.

    Outside the band the clamped ramp is the hard value bit for bit, because the factor is rounded up.
    """
    kind, below, above, at_tie, at_nan = jump
    if kind == "quantize":
        n = x.floor()
        distance = (x - n) - 0.5
        inside = (distance.abs() <= eps) & (n >= below) & (n < above)
        if hard is None:
            hard = x.round().clamp(below, above) + 0.0
            hard = hard if math.isnan(at_nan) else torch.where(is_number(x), hard, at_nan)
        if not linear:
            return hard.to(x.dtype, copy=True), inside
        ramp = (_steep(distance, eps) + 0.5 + n).clamp(below, above)
        return torch.where(distance.abs() > 0, ramp, hard.to(x.dtype)), inside
    if kind != "boundary":
        return _step(x, threshold, jump, eps, linear)
    inside = (x - threshold).abs() <= eps
    if at_tie != at_nan and (isinstance(threshold, Tensor) or not math.isfinite(threshold)):
        # Equal infinities tie, and have no distance: the largest numbers stand for them. (No gradient: not inside.)
        most = torch.finfo(x.dtype).max
        x = x.clamp(-most, most)
        threshold = threshold.clamp(-most, most) if isinstance(threshold, Tensor) else min(max(threshold, -most), most)
    distance = x - threshold
    size = distance.abs()
    if not linear:
        return _constants(distance, 0.0, distance, jump), inside
    ramp, middle = _steep(distance, eps), below * 0.5 + above * 0.5
    if above - below == -1:
        ramp = middle - ramp
    else:
        ramp = ramp if above - below == 1 else ramp * (above - below)
        ramp = ramp + middle if middle else ramp
    if at_tie == middle:
        return torch.where(size >= 0, ramp, at_nan), inside
    exception = at_tie if at_tie == at_nan else torch.where(size >= 0, at_tie, at_nan).to(x.dtype)
    return torch.where(size > 0, ramp, exception), inside


def _steep(distance: Tensor, eps: float) -> Tensor:
    """The offset, exactly a half outside the band: the factor is rounded up."""
    return (distance * (0.5 / eps * (1 + torch.finfo(distance.dtype).eps))).clamp(-0.5, 0.5)


def _constants(x: Tensor, threshold: float | Tensor, distance: Tensor, jump: Jump) -> Tensor:
    """The hard value of a jump between constants."""
    _, below, above, at_tie, at_nan = jump
    if below == -above and at_tie == at_nan == 0:
        return distance.sign().mul_(above)
    if at_nan == below:
        up = x >= threshold if at_tie == above else x > threshold
    else:
        up = (x < threshold if at_tie == above else x <= threshold).logical_not_()
    if (below, above) == (0, 1):
        hard = packed(up).to(x.dtype)
    elif is_compiling():
        hard = packed(up).to(x.dtype) * (above - below) + below
    else:
        hard = torch.where(up, above, below).to(x.dtype)
    if at_tie not in (below, above):
        hard = torch.where(x == threshold, at_tie, hard)
    return hard


_BITS = {torch.float64: torch.int64, torch.float32: torch.int32}


def pick(mask: Tensor, a: Tensor, b: Tensor) -> Tensor:
    """``torch.where(mask, a, b)``, which on the CPU takes up to ten times as long as the same with bits."""
    if is_compiling() or a.dtype != b.dtype or mask.numel() < 4 * fused.LEAST or not _has_bits(mask, a, b):
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
    return suits(*tensors) and not torch._C._len_torch_dispatch_stack() and all(map(fused.plain, tensors))


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
    if not is_compiling() and not torch.is_grad_enabled() and type(g) is Tensor:
        if fused.suits(g):
            return fused.scale(g, inside, slope)
        if g.device.type == "cpu" and g.dtype in _BITS and not fused.batched(g) and not g.is_neg():
            bits = g.view(_BITS[g.dtype]).bitwise_and(inside.view(torch.int8).neg())
            return bits.view(g.dtype).mul_(slope)
    return torch.where(inside, g * slope, 0)


class _Ramp(torch.autograd.Function):
    @staticmethod
    def forward(
        ctx: Any, x: Tensor, threshold: Any, jump: Jump, eps: float, linear: bool, hard: Tensor | None
    ) -> Tensor:
        ctx.slope = jump.height * (0.5 / eps)
        ctx.shape = threshold.shape if isinstance(threshold, Tensor) else None
        if not is_compiling() and fused.suits(x):
            numbers: tuple[float, ...] = jump.numbers if jump.kind == "quantize" else ()
            if jump.kind == "boundary":
                numbers = (float(threshold), *jump.numbers)
            value, inside = fused.step(jump.kind, x, numbers, eps, linear)
        else:
            given = x, threshold, jump, eps, linear
            value, inside = _traced_step(*given, hard) if is_compiling() else _step(*given)
        ctx.save_for_backward(packed(inside))
        return value

    @staticmethod
    def backward(ctx: Any, g: Tensor) -> Any:
        (kept,) = ctx.saved_tensors
        dx = _scaled(g, _unpacked(kept, g), ctx.slope)
        dt = -dx.sum_to_size(ctx.shape) if ctx.needs_input_grad[1] else None
        return dx if ctx.needs_input_grad[0] else None, dt, None, None, None, None


class _Select(torch.autograd.Function):
    """`_Blend` where the mask of what is taken is known, in one pass (see `fused`)."""

    @staticmethod
    def forward(
        ctx: Any,
        offset: Tensor,
        taken: Tensor,
        below: Tensor,
        above: Tensor,
        forward: str,
        ties: bool,
        finite: bool,
        shown: Tensor | None,
    ) -> Tensor:
        ctx.by_weight, ctx.finite = forward != "straight-through", finite
        # The gradient of the offset needs no mask, which the program may write to.
        shared = ctx.needs_input_grad[2] or ctx.needs_input_grad[3]
        ctx.save_for_backward(offset, packed(taken) if shared else None, below, above)
        offset = offset if shown is None else shown
        if not is_compiling() and fused.suits(offset) and all(map(fused.plain, (taken, below, above))):
            return fused.select(offset, taken, below, above, forward == "linear", ties)
        hard = pick(taken, above, below)
        if forward != "linear":
            return hard
        jump = above - below
        undecided = offset.abs() < 0.5
        undecided = undecided if finite else undecided & _is_finite(jump)
        undecided = undecided if ties else undecided & (offset != 0)
        return pick(undecided, below * 0.5 + above * 0.5 + offset * jump, hard)

    @staticmethod
    def backward(ctx: Any, g: Tensor) -> Any:
        offset, taken, below, above = ctx.saved_tensors
        taken = offset > 0 if taken is None else _unpacked(taken, g)
        slow = is_compiling() or torch.is_grad_enabled() or not fused.suits(g)
        if slow or not all(map(fused.plain, (offset, taken, below, above))):
            jump = above - below
            if ctx.finite:
                share = offset + 0.5 if ctx.by_weight else taken.to(g.dtype)
                g_offset = torch.where(jump != 0, g * jump, 0)
            else:
                finite = _is_finite(jump)
                share = torch.where(finite, offset + 0.5, taken.to(g.dtype)) if ctx.by_weight else taken.to(g.dtype)
                g_offset = torch.where(finite & (jump != 0), g * jump, 0)
            g_below: Tensor | None = torch.where(share < 1, g * (1 - share), 0)
            g_above: Tensor | None = torch.where(share > 0, g * share, 0)
        else:
            wanted = ctx.needs_input_grad[2], ctx.needs_input_grad[3]
            g_offset, g_below, g_above = fused.select_backward(g, offset, taken, below, above, ctx.by_weight, wanted)
        g_below = None if g_below is None else g_below.sum_to_size(below.shape)
        g_above = None if g_above is None else g_above.sum_to_size(above.shape)
        return g_offset, None, g_below, g_above, None, None, None, None


class _Merge(torch.autograd.Function):
    """See `merge`."""

    @staticmethod
    def forward(
        ctx: Any,
        offset: Tensor,
        low: Tensor | None,
        high: Tensor | None,
        below: Tensor,
        above: Tensor,
        hard: Tensor,
        signs: tuple[int, int],
    ) -> tuple[Tensor, ...]:
        merged, *masks = fused.merge(offset, low, high, (below, above, hard), signs)
        ctx.save_for_backward(offset, low, high, below, above)
        ctx.signs = signs
        ctx.mark_non_differentiable(*masks)
        return merged, *masks

    @staticmethod
    def backward(ctx: Any, g: Tensor, *_: Any) -> Any:
        offset, low, high, below, above = ctx.saved_tensors
        if not torch.is_grad_enabled() and fused.suits(g, least=1):
            return *fused.merge_backward(g, offset, low, high, (below, above), ctx.signs), None, None, None, None
        undecided, side = offset.abs() < 0.5, offset > 0
        open_ = [torch.zeros_like(side) if at is None else at.abs() < 0.5 for at in (low, high)]
        both = undecided & (open_[0] | open_[1])
        shares = [
            mask.to(g.dtype) if at is None else 0.5 + sign * at
            for at, mask, sign in zip((low, high), (below, above), ctx.signs)
        ]
        jump = shares[1] - shares[0]
        at_root = torch.where(both, torch.where(jump != 0, g * jump, 0), torch.where(undecided, g, 0))
        found: list[Tensor | None] = [at_root]
        for share, sign, here in zip((0.5 - offset, 0.5 + offset), ctx.signs, (open_[0] & ~side, open_[1] & side)):
            alone = torch.where(here & ~undecided, g, 0)
            found.append(torch.where(both, g * share * sign, alone) if sign else None)
        return *found, None, None, None, None


class _Product(torch.autograd.Function):
    """See `product`."""

    @staticmethod
    def forward(ctx: Any, a: Tensor, b: Tensor, shown: Tensor | None) -> Tensor:
        ctx.save_for_backward(a, b)
        return (a if shown is None else shown) * b

    @staticmethod
    def backward(ctx: Any, g: Tensor) -> Any:
        a, b = ctx.saved_tensors
        return torch.where(b != 0, g * b, 0), torch.where(a != 0, g * a, 0), None


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
        saved = ctx.saved_tensors
        hard = saved[3]
        share, difference = _Blend._parts(ctx, hard, saved)
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
    function = _BandOffset if is_compiling() else _BandOffsetJvp
    return run(function, distance, eps, nan)


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
    function = _Blend if is_compiling() else _BlendJvp
    return run(
        function,
        offset.expand(shape), below.to(hard.dtype).expand(shape), above.to(hard.dtype).expand(shape),
        hard.detach(), forward, None if taken is None else taken.expand(shape),
    )  # fmt: skip


def suits(x: Tensor, *others: Any) -> bool:
    """Whether `ramp` can take the place of `band_offset` and `blend` for a step of `x` (and, if `others` are tensors,
    with them): plain tensors, and nobody who differentiates forward or transforms the function.
    """
    if is_compiling():
        return x.layout == torch.strided
    if torch._C._are_functorch_transforms_active() or torch.autograd.forward_ad._current_level >= 0:
        return False
    for value in (x, *others):
        if isinstance(value, Tensor) and type(value) is not Tensor and type(value) is not torch.nn.Parameter:
            return False
    return x.layout == torch.strided


def ramp(
    x: Tensor,
    jump: Jump,
    eps: float,
    forward: str,
    threshold: float | Tensor = 0.0,
    hard: Tensor | None = None,
) -> Tensor:
    """The step that `jump` describes, of `x`; the same as `blend` with the offset ``band_offset(x - threshold)``.

    `x` is in the dtype of distances (`compute_dtype`). `eps` is the half-width of the band, a float, at most
    ``jump.limit``; `forward` is as in `blend`. `threshold` is a number, or a tensor with one element, which may require
    grad. `hard`: the value outside the band, for a compiler, where it is known anyway (integers).
    """
    return run(_Ramp, x, threshold, jump, eps, forward == "linear", hard)


def select(
    offset: Tensor,
    taken: Tensor,
    below: Any,
    above: Any,
    forward: str,
    *,
    ties: bool = False,
    finite: bool = False,
    shown: Tensor | None = None,
) -> Tensor | None:
    """``torch.where(taken, above, below)`` of floats as a blend, in one pass; None where it takes `blend`.

    `taken` is the mask of the elements at which the program is above, also at exact ties; with `ties` these are blended
    like others. `below` and `above` are tensors of the shape of `taken` or with one element, or numbers. `finite`: they
    are known to be. `shown`: another offset, without gradient, that the value has.
    """
    compiling = is_compiling()
    if offset.shape != taken.shape or not suits(offset, taken):
        return None
    if not compiling and not taken.is_contiguous():
        return None
    sides, full = [], False
    for side in (below, above):
        if isinstance(side, Tensor):
            if side.dtype != offset.dtype or side.device != offset.device or not suits(side):
                return None
            if not compiling and fused.batched(side):
                return None
            full = full or side.shape == taken.shape
            if side.shape != taken.shape and (side.numel() != 1 or side.dim() > taken.dim()):
                return None
            if not compiling and side.numel() != 1 and not side.is_contiguous():
                return None  # what strides the result has is for torch to say, too
        elif not isinstance(side, (int, float)):
            return None
        one = side if isinstance(side, Tensor) else torch.full((), side, dtype=offset.dtype, device=offset.device)
        if not compiling and one.numel() == 1 and not math.isfinite(one.detach()):
            return None  # a report counts the elements at which the jump is infinite
        sides.append(one)
    if not full:
        return None  # what dtype numbers and 0-dim tensors make is for torch to say
    return run(_Select, offset, taken, *sides, forward, ties, finite, shown)


class Merged(NamedTuple):
    """One decision made of several: its offset, the masks below and above its boundary, where the program is above,
    and where it is the decision at the root.
    """

    offset: Tensor
    below: Tensor
    above: Tensor
    taken: Tensor
    root: Tensor


def merge(
    offset: Tensor, low: Tensor | None, high: Tensor | None, below: Tensor, above: Tensor, hard: Tensor, *signs: int
) -> Merged | None:
    """One decision per element, of the one at `offset` and those at `low` and `high` on its sides, in one pass; None
    where that takes numba, or tensors of one shape and dtype.

    The masks `below` and `above` are what a decision on that side makes of it: at a sign of 1 they rise with their
    offset, at -1 they fall, at 0 there is no offset. `hard` is what the program shows. What is merged how is in
    `linearization.merge`, the reference.
    """
    for x in (offset, low, high):
        if x is not None and (x.shape != hard.shape or x.dtype != offset.dtype or not suits(x) or not fused.plain(x)):
            return None
    masks = [x.expand(hard.shape).contiguous() for x in (below, above, hard)]
    if not all(map(fused.plain, masks)) or not fused.suits(offset, least=1):
        return None
    offsets = (None if x is None else x.contiguous() for x in (offset, low, high))
    return Merged(*run(_Merge, *offsets, *masks, signs))


def product(a: Tensor, b: Tensor, shown: Tensor | None = None) -> Tensor:
    """The product of two probabilities of one shape: that both are true. Where one is 0, an infinite gradient is no NaN
    to the other. `shown`: the value of `a`, without its gradient.
    """
    return run(_Product, a, b, shown)


def hard_forward(hard: Tensor, soft: Tensor) -> Tensor:
    """The value of `hard` (bit for bit) with the gradient of `soft`; same shape, floating point."""
    function = _HardForward if is_compiling() else _HardForwardJvp
    return run(function, hard.detach(), soft.to(hard.dtype))
