"""``.long()``, ``.to(...)``: a decision where a float becomes an integer."""

from __future__ import annotations

import functools
from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor

from ..._ops.dtypes import FULL, HALF, NARROW
from ..._ops.env import dispatched, eager, free_to_read, tracked
from ..._ops.openness import MADE
from ..._ops.surrogates import alias, constant, follow, fresh, kept, lazy_clone, ordinary, ramp
from ..._rules.widths import Width, watch_of
from ..boundaries import from_one
from ..interface import Func, Region
from .either import decided, is_either
from .elementwise import elementwise
from .shadow import Ends, Other, Shadow, Whole, carried, carry, mark, opposite, quick_shadow
from .sources import half_at, to_integer_but_zero
from .wraps import Index, as_line, line_for

FLOATS = {"float": torch.float32, "double": torch.float64, "half": torch.float16, "bfloat16": torch.bfloat16}
INTEGERS = (torch.int64, torch.int32, torch.int16, torch.int8, torch.uint8)
TYPES = {**FLOATS, "long": torch.int64, "int": torch.int32}


def quick_cast(region: Region, func: Func, args: tuple[Any, ...]) -> Any:
    """Of an ordinary float to integers; of a mask or an integer whose shadow is the same number for number."""
    x = args[0]
    to = args[1] if len(args) == 2 else TYPES.get(func.__name__) if len(args) == 1 else None
    to = to.dtype if isinstance(to, Tensor) and to.device == x.device else to
    if x.requires_grad and to in INTEGERS and x.dtype in FULL and ordinary(x) and region.linearizes("cast"):
        return NotImplemented if is_either(x) else _decided(region, x, func(*args), True)
    own = quick_shadow(x)
    if own is None:
        return NotImplemented
    own.used = True
    if to is own.exact:
        root = own if own.root is None else own.root[0]
        new: Any = own.new()
        if new.grad_fn is not None:  # (`made_from`)
            new.grad_fn.metadata[MADE] = None if x.dtype == torch.bool else own
        return as_line(region, x, new) if type(root) is Index else new
    if args[0].dtype == torch.bool and to in INTEGERS[:2]:
        return mark(region, func(*args), Shadow(own.value, opposite, own.exact, shared=True))
    return NotImplemented


def cast(region: Region, func: Func, args: tuple[Any, ...], kwargs: dict[str, Any]) -> Any:
    """``.long()``, ``.to(...)``, ``.type(...)``: a decision where a float becomes an integer."""
    x = args[0]
    if not x.is_floating_point():
        return elementwise(region, func, args, kwargs)
    out = func(*args, **kwargs)
    if not isinstance(out, Tensor) or out is x:
        return out
    whole = carried(x)
    if out.is_floating_point() or out.is_complex() or out.dtype == torch.bool:
        asked = isinstance(whole, Whole) or out.dtype == torch.bool
        return elementwise(region, func, args, kwargs) if asked else out
    if is_either(x):
        return decided(region, func, args, kwargs, x)
    if not tracked(x) or not region.linearizes("cast"):
        return out
    return _decided(region, x, out, ordinary(x) and eager())


def _decided(region: Region, x: Tensor, out: Tensor, plainly: bool) -> Tensor:
    """`out` are the integers that `x` became; `plainly`, where plain autograd is all there is."""
    whole, put = carried(x), mark if plainly else carry
    floats = kept(x.float() if x.dtype in HALF else x)
    if out.device != x.device:
        floats = floats.to(out.device)
    fixed, dtype, to, rounded = floats.detach(), floats.dtype, out.dtype, isinstance(whole, Whole)
    numbers = fixed if rounded else lazy_clone(out) if plainly else alias(out)
    there: Callable[[], Any] = lambda: whole.other(fixed) if rounded else _beyond(fixed)
    beyond = functools.cache(lambda: None if (found := there()) is None else found.to(to))
    other: Other = lambda _: beyond()
    if rounded:
        if out.dtype in NARROW and not _holds(out.dtype, whole.ends) and _may_wrap(fixed, out.dtype, 0.5):
            step = there()
            if step is not None and (_may_wrap(step, out.dtype) or _may_wrap(fixed, out.dtype)):  # (not if clamped)
                floats = floats * _around(out, step.to(out.dtype))
        if plainly:
            floats.data = out.type(dtype)
        else:
            floats = follow(floats, lambda: out.to(dtype))
        found = Shadow(floats, other, dtype, whole.by_ones)
        if whole.line is not None:
            found = Index(lambda: fresh(floats), other, dtype, whole.by_ones, whole.line)
        found.ends, found.numbers = whole.ends, None if to in NARROW else numbers
        return put(region, out, found)
    eps = region.eps_for("cast")
    make: Callable[[], Tensor] = lambda: _truncated(floats, eps, numbers)
    line = None if type(eps) is float else line_for(region, eps, "cast", (x,))
    lazy = plainly and region.trace is None
    exact = dtype if lazy else None
    found = Shadow(make, other, exact, True) if line is None else Index(make, other, exact, True, line)
    found.numbers = numbers
    if not lazy:
        found.value()
    return put(region, out, found)


def _truncated(x: Tensor, eps: float | Width, numbers: Tensor) -> Tensor:
    """The integers, with the ramp of `trunc`, and that of the identity where `x` is an integer already."""
    fixed = x.detach()
    half = half_at(eps, fixed, to_integer_but_zero, 0.5)
    watch = watch_of(eps)
    if watch is not None:
        n = fixed.round()
        watch.measure(from_one(fixed - n, n), half, 0.5)
        x = watch.enters(x)
    inner = fixed - torch.hardshrink(fixed, 0.5)  # what is nearer to 0 than to 1: there is no boundary
    ends = numbers.dtype in NARROW and _may_wrap(fixed, numbers.dtype)
    if isinstance(half, float) and half == 0.5 and not ends:  # the whole step
        found = ramp(x, inner, 0.0, 1.0, lambda: numbers.type(x.dtype))
    else:
        n = fixed.round()
        distance = (fixed - n).div_(inner.logical_not_())  # (in a fraction of the time of `where`)
        slope = torch.where(fixed == n, fixed.new_ones(()), 0.5 / half)
        if ends:
            slope = slope * _around(numbers, _beyond(fixed).to(numbers.dtype))
        found = ramp(x, distance, half, slope, lambda: numbers.to(x.dtype))
    if watch is not None:
        watch.arrives(found)
    return found


def _beyond(x: Tensor) -> Tensor:
    """The numbers on the other side of the nearest boundary of a cast. (0 may have become an integer before.)"""
    n = x.round()
    return (n + n).sub_((n - constant(0.5, x.dtype, x.device)).sign_()).sub_(x.trunc())


def _holds(dtype: torch.dtype, ends: Ends) -> bool:
    """Whether integers of this type are known to hold all of the numbers."""
    return ends is not None and ends[0] >= torch.iinfo(dtype).min and ends[1] <= torch.iinfo(dtype).max


def _may_wrap(x: Tensor, dtype: torch.dtype, before: float = -0.5) -> bool:
    """Whether the nearest step of a number may be the one at which integers wrap around: so far `before` their end."""
    if not free_to_read(x) or not x.numel():
        return not dispatched()  # (compiled code reads nothing, and pays for each integer that it looks at)
    (low, high), ends = x.aminmax(), torch.iinfo(dtype)
    return not (low.item() > ends.min + before and high.item() < ends.max - before)  # (or it is NaN)


def _around(n: Tensor, beyond: Tensor) -> Tensor:
    """How many steps of the other sign the next step is: 1, or minus as many integers as there are but one."""
    ends = torch.iinfo(n.dtype)
    many = ends.max - ends.min
    return torch.where((beyond.long() - n).abs() > many / 2, -many, 1)
