"""Functions that work element by element: they run on both outcomes.

If an operand is discrete (bool or integer), the result joins its outcomes: ``below + w (above - below)``. If the
linearization rides on float operands only, this is ordinary arithmetic: the values are what they are, and the result
merely promises its outcomes to a later discrete op.
"""

from __future__ import annotations

import math
import operator
from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor

from ..._ops.ramp import Jump
from ..._rules.index import NAMED
from ..interface import Region
from .algebra import chain, run_on_outcomes
from .carriers import Expectation, attach, carrier, discrete_carrier, known_constant
from .constants import constant
from .counts import through_count
from .decisions import Decision
from .fewer import few_decisions
from .mixtures import run_on_choices
from .registry import follows
from .steps import step_of
from .trees import original


def _clamped(func: Callable[..., Any], args: tuple[Any, ...], kwargs: dict[str, Any]) -> tuple[Decision, Jump] | None:
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


def elementwise(region: Region, func: Callable[..., Any], args: tuple[Any, ...], kwargs: dict[str, Any]) -> Any:
    if func.__name__ in _FOLDS and len(args) == 2:
        out = _folded(region, func, *args)
        if out is not None:
            return out
    operands = (*args, *kwargs.values())
    carried = [x for x in operands if carrier(x) is not None]
    if not carried:
        return func(*args, **kwargs)
    if not any(discrete_carrier(x) for x in carried):
        out = func(*args, **kwargs)
        if not isinstance(out, Tensor) or any(out is x for x in operands):
            return out
        if out.is_floating_point():
            return chain(region, func, args, kwargs, out, _clamped(func, args, kwargs))
    out = run_on_choices(region, func, args, kwargs)
    if out is None:
        out = run_on_outcomes(region, func, args, kwargs)
    if out is not None:
        return out
    args, kwargs = few_decisions(region, args, kwargs)
    if any(isinstance(carrier(x), Expectation) for x in (*args, *kwargs.values())):
        return through_count(region, func, args, kwargs)
    return func(*args, **kwargs)


def _folded(region: Region, func: Callable[..., Any], a: Any, b: Any) -> Tensor | None:
    """Logic of an outcome that is known everywhere: ``True & mask`` is the mask, ``False & mask`` False."""
    x, y = (known_constant(operand) for operand in (a, b))
    if x is None and y is None or not isinstance(a, Tensor) or not isinstance(b, Tensor):
        return None
    logic = _FOLDS[func.__name__]
    if x is not None and y is not None:
        return constant(logic(x, y), a if a.dim() >= b.dim() else b)
    mask, other, known = (b, a, x) if y is None else (a, b, y)
    if mask.dtype != torch.bool or mask.dim() < other.dim():
        return None
    if_false, if_true = logic(known, False), logic(known, True)
    if if_false == if_true:
        return constant(if_false, mask)
    if if_false:
        return region.call(torch.logical_not, mask)  # type: ignore[no-any-return]
    return attach(region, original(torch.clone, mask), carrier(mask))  # (the program may write to the mask itself)


_FOLDS = {name: getattr(operator, f"__{logic}__") for logic in ("and", "or", "xor") for name in NAMED[logic]}


follows(elementwise, "elementwise")
