"""Sources: floats in, a decision out.

A float result (``sign``, ``round`` …) is an ordinary tensor with the ramp's backward. A bool or integer result carries a
`Shadow`. What is common, small and eager is one autograd function here; everything else (steps with a slope of their
own, transforms, traces, compiled code) is derived from the description that `STEPS` has of each op: its distance and the
values on both sides.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor

from ..._ops.band import hard_forward
from ..._ops.dtypes import HALF, compute_dtype
from ..._ops.fused import LEAST
from ..._ops.ramp import Jump
from ..._ops.ramp import ramp as in_one_pass
from ..._ops.samples import sample
from ..._rules.widths import Width
from ..interface import Func, Region
from ..outcomes.registry import tracked
from ..outcomes.sources import STEPS
from .elementwise import elementwise
from .shadow import Shadow, Whole, carried, carry, shadow
from .surrogates import alias, follow, kept, ramp, simple

RISING = {"gt": 1.0, "ge": 1.0, "lt": -1.0, "le": -1.0}


def wide(x: Tensor) -> Tensor:
    """In the dtype in which distances are computed."""
    return x.float() if x.dtype in HALF else x


# --- distances ---------------------------------------------------------------------------------------------------


def _halfway(x: Tensor) -> Tensor:
    """From the nearest ``n + 1/2``."""
    return (x - x.floor()).sub_(0.5)


def _to_integer(x: Tensor) -> Tensor:
    return x - x.round()


def _to_integer_but_zero(x: Tensor) -> Tensor:
    n = x.round()
    return torch.where(n == 0, math.nan, x - n)


STEPPING: dict[str, tuple[float | Callable[[Tensor], Tensor], float, Jump]] = {
    "sign": (0.0, math.inf, Jump("boundary", -1.0, 1.0, 0.0, 0.0)),
    "round": (_halfway, 0.5, Jump("round")),
    "floor": (_to_integer, 0.5, Jump("floor")),
    "ceil": (_to_integer, 0.5, Jump("ceil")),
    "trunc": (_to_integer_but_zero, 0.5, Jump("trunc")),
}
"""Functions of one float that are constant between boundaries: distance, widest band, and what `in_one_pass` knows."""


def half_at(eps: float | Width, x: Tensor, at: float | Callable[[Tensor], Tensor], limit: float) -> float | Tensor:
    """The half-width of the band around the boundaries `at`."""
    if not isinstance(eps, Width):
        return min(eps, limit)
    if not x.numel():
        return min(1.0, limit)
    return eps.at(lambda: at(sample(x)) if callable(at) else sample(x) - at, limit)


# --- floats ------------------------------------------------------------------------------------------------------


def decide(op: str) -> Callable[..., Any]:
    """The rule of a source."""

    def rule(region: Region, func: Func, args: tuple[Any, ...], kwargs: dict[str, Any]) -> Any:
        if op == "div" and kwargs.get("rounding_mode") is None:
            return elementwise(region, func, args, kwargs)
        operands = (*args, *kwargs.values())
        for x in operands:
            if shadow(x) is not None:
                return _decide_again(region, op, func, args, kwargs)
        if not region.linearizes(op) or not any(map(tracked, operands)):
            return func(*args, **kwargs)
        if not kwargs and region.trace is None:
            if op in STEPPING and len(args) == 1 and simple(args[0]):
                return _step(region, op, func, args[0])
            if op in RISING and len(args) == 2 and all(simple(x) for x in args if isinstance(x, Tensor)):
                return _compare(region, op, func, *args)
        return described(region, op, func, args, kwargs)

    return rule


def _decide_again(region: Region, op: str, func: Func, args: tuple[Any, ...], kwargs: dict[str, Any]) -> Any:
    """A decision about integers; with a float that autograd follows on the other side, about floats."""
    if not any(map(tracked, (*args, *kwargs.values()))) or not region.linearizes(op):
        return elementwise(region, func, args, kwargs)
    floats = torch.get_default_dtype()
    for x in args:
        floats = torch.promote_types(floats, x.dtype) if tracked(x) else floats
    shown = [x if (own := shadow(x)) is None else own.shown(x, floats) for x in args]
    return region.call(func, *shown, **kwargs)


def _step(region: Region, op: str, func: Func, x: Tensor) -> Tensor:
    at, limit, jump = STEPPING[op]
    floats = wide(x)
    half = half_at(region.eps_for(op), floats, at, limit)
    if x.numel() >= LEAST and isinstance(half, float):
        out = in_one_pass(floats, jump, half, "hard").to(x.dtype)
    else:
        out = ramp(floats, at, half, jump.height, lambda: func(x))
    return carry(region, out, Whole(beside(op, x)))


def beside(op: str, x: Tensor) -> Callable[[Tensor], Tensor | None]:
    """From the whole numbers that `op` makes of `x` to those on the other side of the nearest boundary; None if `x`
    has been written to.
    """
    if op == "sign":
        return torch.neg
    fixed = x.detach()
    version = None if torch.compiler.is_compiling() or x.is_inference() else fixed._version

    def other(q: Tensor) -> Tensor | None:
        if version is not None and fixed._version != version:
            return None
        if op == "round":
            return q + torch.where(fixed >= q, 1, -1).to(q.dtype)
        n = fixed.round()
        if op == "trunc":
            return (2 * n - torch.sign(n) - q).to(q.dtype)
        return (2 * n - q + (1 if op == "ceil" else -1)).to(q.dtype)

    return other


# --- bools -------------------------------------------------------------------------------------------------------


def _compare(region: Region, op: str, func: Func, a: Any, b: Any) -> Tensor:
    hard: Tensor = func(a, b)
    flags, rising, at = alias(hard), RISING[op], 0.0
    if not isinstance(b, Tensor):
        x, at = kept(wide(a)), float(b)
    elif not isinstance(a, Tensor):
        x, at, rising = kept(wide(b)), float(a), -rising
    else:
        x = torch.sub(*_same(a, b))
    eps = region.eps_for(op)
    half: list[float | Tensor] = []

    def make() -> Tensor:
        if not half:
            half.append(half_at(eps, x, at, math.inf))
        if flags.numel() >= LEAST and isinstance(half[0], float):
            strict = op in ("gt", "lt")
            low, high = (0.0, 1.0) if rising > 0 else (1.0, 0.0)
            return in_one_pass(x, Jump("boundary", low, high, 1.0 - strict, 0.0), half[0], "hard", at)
        return ramp(x, at, half[0], rising, lambda: flags.to(x.dtype))

    return carry(region, hard, Shadow(make, exact=True))


def _same(a: Tensor, b: Tensor) -> tuple[Tensor, Tensor]:
    """Both in the dtype of their distance."""
    dtype = compute_dtype(a.dtype, b.dtype)
    return a if a.dtype == dtype else a.to(dtype), b if b.dtype == dtype else b.to(dtype)


# --- everything else ---------------------------------------------------------------------------------------------


def described(region: Region, op: str, func: Func, args: tuple[Any, ...], kwargs: dict[str, Any]) -> Any:
    """From the description of the op: its offset in the band, and the values on both sides."""
    step = STEPS[op](region.eps_for(op), *args, **kwargs)
    if step is None:
        return func(*args, **kwargs)
    offset = step.decision.offset()
    hard = func(*args, **kwargs)
    if hard.dtype == torch.bool:
        soft = offset if step.above else -offset
        flags = alias(hard)
        value = hard_forward(flags.to(offset.dtype), soft.expand(hard.shape))
        return carry(region, hard, Shadow.of(value))
    below, above = (_side(value, offset) for value in (step.below, step.above))
    jump = above - below
    soft = (offset * torch.where(jump.isfinite(), jump, 0)).expand(hard.shape).to(hard.dtype)
    out = hard_forward(hard.detach(), soft + hard if hard.requires_grad or tracked(hard) else soft)
    if op not in ("round", "floor", "ceil", "trunc", "sign", "heaviside", "floor_divide", "div"):
        return out
    return carry(region, out, Whole(lambda q: (below + above - q).to(q.dtype)))


def _side(value: Any, like: Tensor) -> Tensor:
    value = value() if callable(value) else value
    return value.detach() if isinstance(value, Tensor) else torch.full((), value, dtype=like.dtype, device=like.device)


# --- casts -------------------------------------------------------------------------------------------------------


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
        return elementwise(region, func, args, kwargs) if isinstance(whole, Whole) else out
    if not tracked(x) or not region.linearizes("cast"):
        return out
    numbers, floats = alias(out), kept(wide(x)).to(out.device)
    if isinstance(whole, Whole):
        shown = alias(x.detach())

        def other(n: Tensor) -> Tensor | None:
            found = whole.other(shown)
            return None if found is None else found.to(n.dtype).to(n.device)

        return carry(region, out, Shadow(lambda: follow(floats, lambda: numbers.to(floats.dtype)), other, exact=True))
    eps = region.eps_for("cast")
    make = lambda: _truncated(floats, eps, numbers)
    found = Shadow.of(make()) if region.trace is not None or not simple(x) else Shadow(make, exact=True)
    found._other = lambda n: _beyond(floats, n)
    return carry(region, out, found)


def _truncated(x: Tensor, eps: float | Width, numbers: Tensor) -> Tensor:
    """The integers, with the ramp of `trunc`, and that of the identity where `x` is an integer already."""
    fixed = x.detach()
    n = fixed.round()
    distance = torch.where(n == 0, math.nan, x - n)
    half = half_at(eps, fixed, _to_integer_but_zero, 0.5)
    slope = torch.where(distance.detach().abs() <= half, 0.5 / half, 0)
    slope = torch.where(fixed == n, 1.0, slope).to(x.dtype)
    return follow(torch.where(slope != 0, x, 0) * slope, lambda: numbers.to(x.dtype))


def _beyond(x: Tensor, n: Tensor) -> Tensor:
    """The integers on the other side of the nearest boundary of a cast."""
    nearest = x.round()
    return (2 * nearest - torch.sign(nearest)).to(n.dtype) - n
