"""Sources: floats in, a decision out.

A float (``sign``, ``round`` …) is an ordinary tensor with the backward of the ramp. A bool or integer has a `Shadow`.
Ordinary tensors have rules of few steps (`quickly`). The others follow from `STEPS`: distance, and both values.
"""

from __future__ import annotations

import functools
import math
from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor

from ..._ops.apply import finite
from ..._ops.band import closed, hard_forward
from ..._ops.dtypes import FULL
from ..._ops.env import dispatched, eager, tracked
from ..._ops.fused import LEAST
from ..._ops.openness import MADE
from ..._ops.own_thresholds import apart
from ..._ops.ramp import Jump
from ..._ops.ramp import ramp as in_one_pass
from ..._ops.samples import sample
from ..._ops.saving import saving
from ..._ops.surrogates import alias, follow, kept, lazy_clone, number, ordinary, ramp, whole, windowed, within
from ..._rules.widths import Width, numbers_learned
from ..interface import Func, Quick, Region
from ..outcomes.sources import STEPS
from .differences import added, by_difference, numbered, quick_difference, slope_of
from .either import decided, either, is_either
from .elementwise import elementwise
from .kinks import joined, learned, looked_at
from .shadow import Shadow, Whole, call_with, carry, mark, quick_shadow, shadow
from .steps import narrow, was_integer
from .wraps import line_for, sawtooth

LARGE = 16 * LEAST
"""Elements from which on memory is what takes the time: one pass, and one byte kept for each."""
CLOSED = {"ge", "le"}
RISING = {"gt": 1.0, "ge": 1.0, "lt": -1.0, "le": -1.0}


# --- distances ---------------------------------------------------------------------------------------------------


def _halfway(x: Tensor) -> Tensor:
    """From the nearest ``n + 1/2``."""
    return (x - x.floor()).sub_(0.5)


def _to_integer(x: Tensor) -> Tensor:
    return x - x.round()


def to_integer_but_zero(x: Tensor) -> Tensor:
    n = x.round()
    return (x - n).mul_(n / n)  # (NaN for 0; `where` takes several times as long)


STEPPING: dict[str, tuple[float | Callable[[Tensor], Tensor], float, Jump]] = {
    "sign": (0.0, math.inf, Jump("boundary", -1.0, 1.0, 0.0, 0.0)),
    "round": (_halfway, 0.5, Jump("round")),
    "floor": (_to_integer, 0.5, Jump("floor")),
    "ceil": (_to_integer, 0.5, Jump("ceil")),
    "trunc": (to_integer_but_zero, 0.5, Jump("trunc")),
}
"""Functions of one float that are constant between boundaries: distance, widest band, and what `in_one_pass` knows."""


def half_at(
    eps: float | Width, x: Tensor, at: float | Callable[[Tensor], Tensor] = 0.0, limit: float = math.inf
) -> float | Tensor:
    """The half-width of the band around the boundaries `at`."""
    if not isinstance(eps, Width):
        return min(eps, limit)
    if eps.whole and limit < math.inf:
        if eps.record is not None:
            eps.record(limit)
        return limit
    if not x.numel():
        return min(1.0, limit)
    if limit == math.inf:
        eps.learned = numbers_learned(x)
    return eps.at(lambda: at(sample(x)) if callable(at) else sample(x) - at, limit)


# --- floats ------------------------------------------------------------------------------------------------------


def decide(op: str) -> Callable[..., Any]:
    """The rule of a source."""
    quick = quickly(op)

    def rule(region: Region, func: Func, args: tuple[Any, ...], kwargs: dict[str, Any]) -> Any:
        if quick is not None and not kwargs and region.trace is None and torch.is_grad_enabled() and eager():
            out = quick(region, func, args)
            if out is not NotImplemented:
                return out
        if op == "div" and kwargs.get("rounding_mode") is None:
            return elementwise(region, func, args, kwargs)
        if region.linearizes(op) and (chosen := either(args, kwargs)) is not None:
            return decided(region, func, args, kwargs, chosen)
        operands = (*args, *kwargs.values())
        if any(shadow(x) is not None for x in operands):
            return _decide_again(region, op, func, args, kwargs)
        if not region.linearizes(op) or not any(map(tracked, operands)):
            return func(*args, **kwargs)
        return described(region, op, func, args, kwargs)

    return rule


def quickly(op: str) -> Quick | None:
    """The rule of a source for ordinary tensors, where plain autograd is all there is."""
    rising, sloped = RISING.get(op), BETWEEN.get(op)

    def step(region: Region, func: Func, args: tuple[Any, ...]) -> Any:
        x = args[0]
        if len(args) != 1 or not ordinary(x) or x.dtype not in FULL or not x.requires_grad:
            return NotImplemented
        if getattr(x, "_sll", None) is not None and is_either(x):
            return NotImplemented
        eps = region.fixed.get(op)
        if eps is None and not region.linearizes(op):
            return NotImplemented
        return _step(region, op, func, x, region.eps_for(op) if eps is None else eps, True)

    def compare(region: Region, func: Func, args: tuple[Any, ...]) -> Any:
        eps = region.fixed.get(op)
        if len(args) != 2 or not _common(args) or eps is None and not region.linearizes(op):
            return NotImplemented
        return _compare(op, region, func, *args, rising, region.eps_for(op) if eps is None else eps)  # type: ignore

    def between(region: Region, func: Func, args: tuple[Any, ...]) -> Any:
        found = sloped(*args) if _common(args) and region.linearizes(op) else None  # type: ignore[misc]
        return NotImplemented if found is None else _between(region, op, func, args, *found)

    def heaviside(region: Region, func: Func, args: tuple[Any, ...]) -> Any:
        if len(args) != 2 or not _common(args) or not region.linearizes(op) or args[1].requires_grad:
            return NotImplemented
        return _heaviside(region, func, *args)

    if op in STEPPING:
        return step
    return compare if rising else between if sloped else heaviside if op == "heaviside" else None


def _common(args: tuple[Any, ...]) -> bool:
    """Whether the operands are ordinary tensors of floats and numbers, and autograd follows one."""
    follows = False
    for x in args:
        if type(x) is float or type(x) is int:
            continue
        if not ordinary(x) or x.dtype not in FULL or getattr(x, "_sll", None) is not None and is_either(x):
            return False
        if x.grad_fn is not None and MADE in x.grad_fn.metadata and was_integer(x) is not None:
            return False
        follows = follows or x.requires_grad
    return follows


def _decide_again(region: Region, op: str, func: Func, args: tuple[Any, ...], kwargs: dict[str, Any]) -> Any:
    """A decision about integers; with a float that autograd follows on the other side, about floats.

    Of a comparison between both the float has the ramp, and the integer the difference that it makes.
    """
    if not any(map(tracked, (*args, *kwargs.values()))) or not region.linearizes(op):
        return elementwise(region, func, args, kwargs)
    floats = torch.get_default_dtype()
    for x in args:
        floats = torch.promote_types(floats, x.dtype) if tracked(x) else floats
    if op not in RISING:
        shown = [x if (own := shadow(x)) is None else own.shown(x, floats) for x in args]
        return region.call(func, *shown, **kwargs)
    flags = func(*args, **kwargs)
    fixed = [x if shadow(x) is None else x.to(floats) for x in args]
    found = [region.call(func, *fixed, **kwargs), by_difference(region, func, args, kwargs, flags)]
    soft = torch.stack([own.value().to(floats) for own in map(shadow, found) if own is not None]).sum(0)
    numbers = alias(flags)
    return carry(region, flags, Shadow(follow(soft, lambda: numbers.to(soft.dtype))))


def quick_compare(region: Region, op: str, func: Func, args: tuple[Any, ...]) -> Any:
    """Of an integer and a number. A float that autograd follows has the ramp, and the integer its difference."""
    i = 0 if quick_shadow(args[0]) is not None else 1
    own, n, y = quick_shadow(args[i]), args[i], args[1 - i]
    if own is None or not isinstance(y, Tensor) or not y.requires_grad or not region.linearizes(op):
        return quick_difference(region, func, args, True)
    if y.dtype is not own.exact or not ordinary(y) or (hard := func(*args)).numel() >= LARGE:
        return NotImplemented
    (slope, _), eps = slope_of(func, args, i, own, hard), region.eps_for(op)
    x = y - n.type(y.dtype)
    rising = RISING[op] if i else -RISING[op]

    def soft() -> Tensor:
        half = half_at(eps, x)
        return torch.addcmul(within(x, x.detach(), half, rising * 0.5 / half), own.value(), slope)

    return mark(region, hard, Shadow(numbered(hard, soft, y.dtype), None, y.dtype))


def _step(region: Region, op: str, func: Func, x: Tensor, eps: float | Width, plainly: bool) -> Tensor:
    (at, limit, jump), fixed = STEPPING[op], x.detach()
    other, by_ones = functools.partial(_across, op, fixed), op != "sign"
    if type(eps) is not float and joined(eps, fixed):
        return mark(region, func(fixed), Whole(other, by_ones, None, fixed))
    half = min(eps, limit) if type(eps) is float else half_at(eps, x, at, limit)
    entire = isinstance(half, float) and half == limit  # the whole step: every number is in some band
    if x.numel() >= LARGE and isinstance(half, float) and plainly:
        out = in_one_pass(x, jump, half, "hard")
    elif entire and plainly:
        out = whole(x, fixed, func(fixed), op == "trunc")
    elif entire and op != "trunc":
        out = ramp(x, fixed, torch.finfo(x.dtype).max, 1.0, lambda: func(fixed))
    else:
        distance, slope = at(fixed) if callable(at) else fixed, jump.height * 0.5 / half
        out = (windowed if plainly else ramp)(x, distance, half, slope, lambda: func(fixed))
    if type(eps) is not float and op == "sign":
        looked_at(eps, out, fixed)
    if out.grad_fn is not None:
        out.grad_fn.metadata[MADE] = 1.0 if by_ones else 2.0  # type: ignore[index]
    line = None if type(eps) is float else line_for(region, eps, op, (x,), out)
    return mark(region, out, Whole(other, by_ones, line, fixed))


def _across(op: str, x: Tensor, q: Tensor) -> Tensor:
    """The whole number on the other side of the nearest boundary of ``q = op(x)``."""
    if op == "sign":
        return q.neg()
    if op == "round":  # (0 counts as above)
        return q + torch.copysign(q.new_ones(()), x - q)
    n = x.round()
    if op == "trunc":
        sign = n.sign()
        return n.mul_(2).sub_(sign).sub_(q)
    return n.mul_(2).sub_(q).add_(1 if op == "ceil" else -1)


def _heaviside(region: Region, func: Func, x: Tensor, values: Tensor) -> Any:
    if values.dtype != x.dtype or torch.broadcast_shapes(x.shape, values.shape) != x.shape:  # type: ignore[no-untyped-call]
        return NotImplemented
    half, fixed = half_at(region.eps_for("heaviside"), x), x.detach()
    one = x.numel() >= LARGE and values.numel() == 1 and values.device.type == "cpu" and isinstance(half, float)
    if one and not values.signbit():  # (-0. counts as 0. among the numbers of a jump)
        out = in_one_pass(x, Jump("boundary", 0.0, 1.0, float(values), 0.0), half, "hard")  # type: ignore[arg-type]
    else:
        out = windowed(x, fixed, half, 0.5 / half, lambda: func(fixed, values))
    return mark(region, out, Whole(lambda q: 1 - q))


def _between(
    region: Region, op: str, func: Func, args: tuple[Any, ...], distance: Tensor, jump: Tensor | float, limit: float
) -> Tensor:
    """A function with a slope of its own between its boundaries: the ramp of the jump comes on top."""
    eps = region.eps_for(op)
    if isinstance(eps, Width) and eps.saw:
        return sawtooth(region, eps, op, args, func(*args))
    half = half_at(eps, distance, 0.0, limit)
    return added(func(*args), within(args[0], distance, half, jump * (0.5 / half)))


def _remainder(x: Tensor, by: Any) -> tuple[Tensor, float, float] | None:
    if isinstance(by, Tensor) or not 0 < by < math.inf:
        return None
    fixed, step = x.detach(), number(float(by), x.dtype)
    return fixed - (fixed / step).round_().mul_(step), -float(by), by / 2


def _frac(x: Tensor) -> tuple[Tensor, float, float]:
    return to_integer_but_zero(x.detach()), -1.0, 0.5


def _hardshrink(x: Tensor, at: float = 0.5) -> tuple[Tensor, Tensor, float]:
    size = x.detach().abs()
    return size - at, size, math.inf


def _threshold(x: Tensor, at: float, value: float, *_: Any) -> tuple[Tensor, Tensor, float]:
    return x.detach() - at, x.detach() - value, math.inf


BETWEEN: dict[str, Callable[..., Any]] = {
    "remainder": _remainder,
    "frac": _frac,
    "hardshrink": _hardshrink,
    "threshold": _threshold,
}
"""Of the operands, the distance to the nearest boundary, the jump there and half the way to the next."""


# --- bools -------------------------------------------------------------------------------------------------------


def _compare(op: str, region: Region, func: Func, a: Any, b: Any, rising: float, eps: float | Width) -> Tensor:
    differs, at, large = isinstance(a, Tensor) and isinstance(b, Tensor), 0.0, False
    if not differs and isinstance(a, Tensor) and (at := float(b)) == b:
        hard: Tensor = func(a, number(at, a.dtype))  # (in half the time of a number of Python)
    else:
        hard = func(a, b)
    if type(eps) is not float and joined(eps, hard):
        return hard
    if differs:
        a, b = apart(op, a, b, lambda: hard)
        x = a - b
    else:
        x, at, rising = (a, at, rising) if isinstance(a, Tensor) else (b, float(a), -rising)
        large = x.numel() >= LARGE
        # (A view: who hooks `x` is not asked what is open.)
        x, at = (x.view_as(x), at) if large else (x - number(at, x.dtype) if at else kept(x), 0.0)
    found = Compared(x, at, hard, rising, eps, op in CLOSED, differs)
    found.looks = type(eps) is not float and not (differs and learned(a, b))
    # At once where it takes no more than a copy of `x`.
    return mark(region, hard, Shadow(found.make(), exact=x.dtype) if large else found)


class Compared(Shadow):
    """Of ``x > at`` (`rising`: 1), or the other way round (-1): `hard` as a float of the dtype of `x`."""

    half: float | Tensor | None
    looks = False
    """Whether to look what arrives."""

    def __init__(
        self, x: Tensor, at: float, hard: Tensor, rising: float, eps: float | Width, closed: bool, differs: bool
    ) -> None:
        """`closed`: it holds at the boundary. `differs`: `x` is a difference. (Equal infinities have none.)"""
        self._value = self._other = None
        self.half = eps if type(eps) is float else None
        self.exact, self._saving = x.dtype, saving()
        self.x, self.at, self.rising, self.eps = x, at, rising, eps
        self.flags, self.closed, self.one_pass = lazy_clone(hard), closed, not (closed and differs)

    def outside(self) -> bool:
        return self.x.numel() == 1 and type(self.eps) is float and closed(self.x.item(), self.at, self.eps)

    def make(self) -> Tensor:
        x, at, rising, half = self.x, self.at, self.rising, self.half
        if half is None:
            self.half = half = half_at(self.eps, x, at)
        if self.looks:
            self.looks = False
            looked_at(self.eps, x, sample(x) - at)
        if x.numel() >= LARGE and self.one_pass and isinstance(half, float):
            jump = Jump("boundary", *((0.0, 1.0) if rising > 0 else (1.0, 0.0)), float(self.closed), 0.0)
            return in_one_pass(x, jump, half, "hard", at)
        distance = x.detach() - number(at, x.dtype) if at else x.detach()
        return ramp(x, distance, half, rising * 0.5 / half, lambda: self.flags.type(x.dtype))


def _at_once(region: Region, op: str, func: Func, args: tuple[Any, ...], eps: float | Width) -> Tensor:
    """`_compare`, at once."""
    flags: Tensor = call_with(func, args, {}, Tensor.detach)
    if joined(eps, flags):
        return flags
    a, b = apart(op, args[0], args[1], lambda: func(*args))
    half = half_at(eps, x := a - b)
    value = ramp(x, x.detach(), half, RISING[op] * 0.5 / half, lambda: flags.to(x.dtype))
    if not learned(a, b):
        looked_at(eps, value, x.detach())
    return carry(region, flags, Shadow(value, exact=value.dtype))


# --- everything else ---------------------------------------------------------------------------------------------


def described(region: Region, op: str, func: Func, args: tuple[Any, ...], kwargs: dict[str, Any]) -> Any:
    """From the description of the op: its offset in the band, and the values on both sides."""
    if op == "remainder" and not isinstance(args[0], Tensor):  # torch does not know the derivative of ``2 % x``
        args = (torch.as_tensor(args[0], dtype=args[1].dtype, device=args[1].device), *args[1:])
    eps = region.eps_for(op)
    if isinstance(eps, Width) and eps.saw:
        return sawtooth(region, eps, op, args, func(*args, **kwargs))
    kinds = {x.dtype if isinstance(x, Tensor) else type(x) for x in args} - {int, float}
    plain = region.trace is None and not kwargs and kinds in ({FULL[0]}, {FULL[1]}) and dispatched()
    if plain and (op in STEPPING or op in RISING):
        return _step(region, op, func, args[0], eps, False) if op in STEPPING else _at_once(region, op, func, args, eps)
    operands = apart(op, *args, lambda: func(*args)) if op in RISING and len(args) == 2 else args
    compares = op in RISING or op == "sign"
    if compares and joined(eps, shown := call_with(func, args, kwargs, Tensor.detach)):
        return shown
    step = STEPS[op](eps, *operands, **kwargs)
    if step is None:
        return func(*args, **kwargs)
    offset = step.decision.offset()
    if compares and step.decision.site is not None and not learned(*operands):
        looked_at(eps, offset, step.decision.site.distance().detach())
    hard = func(*args, **kwargs) if op in SLOPED else call_with(func, args, kwargs, Tensor.detach)
    if hard.dtype == torch.bool:
        value = (offset if step.above else -offset).expand(hard.shape)
        if op in RISING and len(args) == 2 and step.decision.site is not None:
            value = narrow(region, func, args, half_at(eps, step.decision.site.distance().detach()), value)
        value = hard_forward(hard.to(offset.dtype), value)
        return carry(region, hard, Shadow(value, exact=value.dtype))
    below, above = (_side(value, offset) for value in (step.below, step.above))
    jump, lacks = finite(above - below), step.lacks(below, above)
    jump = jump if lacks is None else jump + lacks
    soft = (offset * jump).expand(hard.shape).to(hard.dtype)
    out = hard_forward(hard.detach(), soft + hard if op in SLOPED else soft)
    if op not in WHOLE:
        return out
    other = lambda q: (below + above - q).to(q.dtype)
    return carry(region, out, Whole(other, op != "sign", line_for(region, eps, op, args, out)))


SLOPED = {"frac", "remainder", "fmod", "hardshrink", "threshold", "copysign"}
"""They have a slope between their boundaries, which torch knows."""
WHOLE = {"round", "floor", "ceil", "trunc", "sign", "heaviside", "floor_divide", "div"}
"""They make whole numbers."""


def _side(value: Any, like: Tensor) -> Tensor:
    value = value() if callable(value) else value
    return value.detach() if isinstance(value, Tensor) else torch.full((), value, dtype=like.dtype, device=like.device)
