"""Functions that work element by element: they run on both outcomes. And casts: integers and masks that become floats,
floats that become integers.

If an operand is discrete (bool or integer), the result joins its outcomes: ``below + w (above - below)``. If the
linearization rides on float operands only, this is ordinary arithmetic: the values are what they are, and the result
merely promises its outcomes to a later discrete op.
"""

from __future__ import annotations

import functools
import math
from typing import Any

import torch
from torch import Tensor

from ..._ops.env import tracked
from ..._ops.fused import LEAST
from ..._ops.ramp import Jump, suits
from ..boundaries import toward_zero
from ..interface import Func, Region, attach
from .algebra import chain, on_outcomes
from .boundaries import at_integers
from .carriers import Chain, Outcomes, carrier, discrete_carrier, in_one_pass, promise, resolved, step_of
from .decisions import Decision, decided_at
from .trees import original


def elementwise(region: Region, func: Func, args: tuple[Any, ...], kwargs: dict[str, Any]) -> Any:
    operands = (*args, *kwargs.values())
    carried = [x for x in operands if carrier(x) is not None]
    if carried and not any(discrete_carrier(x) for x in carried):
        out = func(*args, **kwargs)
        if not isinstance(out, Tensor) or any(out is x for x in operands):
            return out
        if out.is_floating_point():
            return chain(region, func, args, kwargs, out, _clamped(func, args, kwargs))
    out = on_outcomes(region, func, args, kwargs) if carried else None
    return func(*args, **kwargs) if out is None else out


# --- what is known to be one step ---------------------------------------------------------------------------------


def _clamped(func: Func, args: tuple[Any, ...], kwargs: dict[str, Any]) -> tuple[Decision, Jump] | None:
    """Which step rounded numbers are after they were clamped to whole numbers."""
    if func.__name__ not in _BOUNDS:
        return None
    given = dict(zip(_BOUNDS[func.__name__], args), **kwargs)
    x, low, high = given.pop("input", None), given.pop("min", None), given.pop("max", None)
    known = step_of(x)
    if known is None or given:
        return None
    for bound in (low, high):
        if bound is not None and (not isinstance(bound, (int, float)) or not float(bound).is_integer()):
            return None
    decision, jump = known
    before = (jump.below, jump.above) if jump.kind == "quantize" else (-math.inf, math.inf)
    low = before[0] if low is None else max(before[0], low)
    high = before[1] if high is None else min(before[1], high)
    if low > high:
        return None
    return decision, Jump("quantize", float(low), float(high), 0.0, math.nan)


_BOUNDS: dict[str, tuple[str, ...]] = dict.fromkeys(("clamp", "clip"), ("input", "min", "max"))
_BOUNDS |= {"clamp_min": ("input", "min"), "clamp_max": ("input", "max")}


def _promised(decision: Decision, jump: Jump, value: Tensor, step: tuple[Decision, Jump] | None = None) -> Chain:
    """What a mask made a float, or a quantizer makes of integers, promises."""
    if jump.kind == "boundary":
        return promise(decision, jump.below, jump.above, value)

    def beside(by: int) -> Tensor:
        assert decision.site is not None
        return (decision.site.nearest() + by).clamp(jump.below, jump.above)

    return promise(decision, lambda: beside(0), lambda: beside(1), value, step)


@functools.cache
def _of_nan(dtype: torch.dtype) -> float:
    """The integer that NaN becomes here."""
    return float(torch.full((64,), math.nan, device="cpu").to(dtype)[0])


def _float_asked_for(func: Func, args: tuple[Any, ...]) -> torch.dtype | None:
    """The dtype, if the call converts its operand to a float and does nothing else."""
    if len(args) == 1:
        return _FLOATS.get(func.__name__)
    to = args[1]
    if len(args) == 2 and isinstance(to, torch.dtype) and to.is_floating_point and func.__name__ in ("to", "type"):
        return to
    return None


_FLOATS = {"float": torch.float32, "double": torch.float64, "half": torch.float16, "bfloat16": torch.bfloat16}


def cast(region: Region, func: Func, args: tuple[Any, ...], kwargs: dict[str, Any]) -> Any:
    """A mask that becomes a float is a step of what it was compared with: one pass, and no offset. So are the integers
    of a quantizer.
    """
    x = args[0]
    dtype = None if kwargs or region.trace is not None or x.is_floating_point() else _float_asked_for(func, args)
    step = None if dtype is None else step_of(x)
    if step is None or dtype is None:
        return elementwise(region, func, args, kwargs)
    decision, jump = step
    if x.dtype != torch.bool:
        jump = jump._replace(at_nan=_of_nan(x.dtype))
    value = in_one_pass(x, (decision, jump))
    if value is None:
        return elementwise(region, func, args, kwargs)
    value = value.to(dtype)
    return attach(region, value, _promised(decision, jump, value))


def to_integers(region: Region, func: Func, args: tuple[Any, ...], kwargs: dict[str, Any]) -> Any:
    x = args[0]
    if not x.is_floating_point():
        return cast(region, func, args, kwargs)
    quantized = step_of(x)
    if quantized is not None and region.trace is None and not kwargs and _may_fit(quantized[1], x):
        # In the band the float shows a blend, and the integer the likelier outcome.
        out = original(func, x.detach().round(), *args[1:])
        if isinstance(out, Tensor) and out.dtype in _INTS and out.device == x.device:
            decision, jump = quantized[0], _within(quantized[1], x, torch.iinfo(out.dtype))
            if jump is not None:
                return attach(region, out, _promised(decision, jump, out, (decision, jump)))
    if not tracked(x) or not region.linearizes("cast") or resolved(x) is not None:
        return elementwise(region, func, args, kwargs)
    out = func(*args, **kwargs)
    if not isinstance(out, Tensor) or out.is_floating_point() or out.is_complex() or out.dtype == torch.bool:
        return out  # x.bool() asks x != 0, whose window average is zero
    decision, site = at_integers(x, region.eps_for("cast"), but_zero=True)
    n = site.nearest()
    if region.trace is not None:
        decision.offset()
    if out.device != x.device:
        decision, n = decided_at(decision.offset().to(out.device)), n.to(out.device)
    below, above = (side.to(out.dtype) for side in toward_zero(n.long()))  # (7e7 - 1 is 7e7 as a float)
    return attach(region, out, Outcomes(decision, below, above))


def _may_fit(jump: Jump, x: Tensor) -> bool:
    """Whether it is known between which bounds rounded numbers are, or worth reading them."""
    if jump.kind == "quantize":
        return True
    return x.device.type == "cpu" and x.numel() >= LEAST and suits(x)


def _within(jump: Jump, x: Tensor, limits: torch.iinfo) -> Jump | None:
    """Which step rounded numbers `x` are as integers with these limits; None if there may be some beyond."""
    if jump.kind == "quantize":
        return jump if limits.min <= jump.below <= jump.above <= limits.max else None
    low, high = x.detach().aminmax()
    inside = bool(low >= limits.min) and bool(high <= limits.max)  # not if there is a NaN
    return Jump("quantize", float(limits.min), float(limits.max), 0.0, math.nan) if inside else None


_INTS = (torch.int8, torch.uint8, torch.int16, torch.int32, torch.int64)
