"""Functions that work element by element: they run on both outcomes.

If an operand is discrete (bool or integer), the result joins its outcomes: ``below + w (above - below)``. If the
linearization rides on float operands only, this is ordinary arithmetic: the values are what they are, and the result
merely promises its outcomes to a later discrete op.
"""

from __future__ import annotations

import math
from typing import Any

from torch import Tensor

from ..._ops.ramp import Jump
from ..interface import Func, Region
from .algebra import chain, on_outcomes
from .carriers import carrier, discrete_carrier, step_of
from .decisions import Decision


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
