"""Decisions: which elements are in their band, on which side, and the weights of their flips.

A flip goes to one side of the boundary. An element exactly at the boundary has two, one to either side.
"""

from __future__ import annotations

import contextlib
import functools
import math
from collections.abc import Callable
from typing import Any, NamedTuple

import torch
from torch import Tensor

from .entries import Block, Decision, positions
from .identity import again, batched, held
from .mapped import Func, elementwise, mapped, plain_of, with_block
from .primitives import slope, take
from .uses import from_one, half_width, sources, tracked, watch_of, wide
from .watched import arrives, entered, watched

__all__ = ["Open", "at_boundary", "at_integers", "compare", "general", "sides_of", "steps_at_integers", "to_side"]


class Open(NamedTuple):
    """The open elements of a decision, and the side that each flip goes to."""

    block: Block
    above: Tensor


def sides_of(distance: Tensor, half: float | Tensor) -> tuple[Tensor, Tensor, Tensor]:
    """Positions of the elements in the band, whether they go to the side above, and the slope of that."""
    flat = distance.reshape(-1)
    if batched(flat) or isinstance(half, Tensor) and batched(half):
        at = torch.arange(flat.shape[0], device=flat.device).repeat(2)
        above = torch.arange(at.shape[0], device=flat.device) < flat.shape[0]
        inside = (flat.abs() <= half).repeat(2)
        open_ = inside & torch.where(above, flat.repeat(2) <= 0, flat.repeat(2) >= 0)
        return at, above, torch.where(open_, torch.where(above, 1.0, -1.0).to(flat.dtype) * (0.5 / half), 0)
    at = (flat.abs() <= half).nonzero().squeeze(1)
    d = flat.index_select(0, at)
    above = d <= 0
    if not at.shape[0]:
        return at, above, d
    if not bool(d.all()):
        ties = (d == 0).nonzero().squeeze(1)
        at = torch.cat([at, at[ties]])
        above = torch.cat([above, torch.zeros_like(ties, dtype=torch.bool)])
    return at, above, torch.where(above, 1.0, -1.0).to(flat.dtype) * (0.5 / half)  # (0.5 / half in float64)


def _weight(a: Any, b: Any, shape: torch.Size, at: Tensor, by: Tensor) -> Tensor:
    """Weights of flips that open with ``a - b``."""
    if not tracked(a):
        a, b, by = b, None, -by
    if not tracked(b):
        return slope(a, positions(at, shape, a.shape), by)
    return slope(a, positions(at, shape, a.shape), by, b, positions(at, shape, b.shape), -by)


_WIDE = (torch.float32, torch.float64)


def at_boundary(a: Any, b: Any, eps: Any, shape: torch.Size) -> Open:
    """Where ``a > b`` is open."""
    if type(b) is float and a.dtype in _WIDE:
        distance = a.detach() - b
    else:
        x, y = wide(a.detach() if isinstance(a, Tensor) else a, b.detach() if isinstance(b, Tensor) else b)
        distance = x - y
    half = eps if type(eps) is float else half_width(eps, distance)
    at, above, by = sides_of(distance, half)
    x, y = watched(eps, (a, b), distance.expand(shape), half, math.inf)
    weight = arrives(eps, _weight(x, y, shape, at, by))
    block = Block(Decision(weight), None, at, True)
    swap = isinstance(a, Tensor) and isinstance(b, Tensor) and id(a) > id(b)
    first, other = (b, a) if swap or not isinstance(a, Tensor) else (a, b)
    key = "boundary", shape, held(other), held(eps)
    what = () if batched(distance) else (at, ~above if first is b else above)
    return Open(again(first, key, block, what), above)


def at_integers(x: Tensor, eps: Any, shift: float, but_zero: bool = False, whole: bool = False) -> tuple[Open, Tensor]:
    """Where x is near ``n + shift``, and that n for each flip. `but_zero`: at 0 there is no boundary. `whole`: if all
    are whole numbers already, nothing is decided: the gradient passes.
    """
    (d,) = wide(x.detach())
    n = d.round() if shift == 0.0 else d.floor()
    distance = (d - n) - shift
    jumps = from_one(distance, n) if but_zero else distance
    if but_zero:
        distance = torch.where(n == 0, math.nan, distance)
    half = half_width(eps, distance, 0.5)
    at, above, by = sides_of(distance, half)
    if whole and not batched(d) and bool((d == n).all()):
        by = torch.where(above, 0.5, -0.5).to(by.dtype)
    (followed,) = watched(eps, (x,), jumps, half, 0.5)
    weight = arrives(eps, slope(followed, at, by))
    block = Block(Decision(weight), None, at, True)
    key = "integers", distance.shape, shift, but_zero, held(eps)
    block = again(x, key, block, () if batched(distance) else (at, above))
    return Open(block, above), take(n, at)


def to_side(above: Tensor, low: Any, high: Any, dtype: torch.dtype) -> Tensor:
    """The values that flips go to."""
    if dtype == torch.bool and isinstance(high, bool):
        return above if high else ~above
    return torch.where(above, high, low).to(dtype)


# --- rules ---


def _decides(region: Any, op: str, operands: Any) -> bool:
    return region.linearizes(op) and any(tracked(x) for x in operands)


def compare(op: str, low: Any, high: Any) -> Callable[..., Any]:
    """A step at ``input == other``, or of one operand at 0."""

    def rule(region: Any, func: Func, args: tuple[Any, ...], kwargs: dict[str, Any]) -> Any:
        args, kwargs = (*args, *kwargs.values()), {}
        a, b = plain_of(args[0]), plain_of(args[1]) if len(args) > 1 else 0.0
        hard = func(a, *([b] if len(args) > 1 else []))
        before = mapped(func, args, {}, hard.shape, hard.dtype)
        if not _decides(region, op, (a, b)):
            return with_block(region, hard, before)
        found = at_boundary(a, b, region.eps_for(op), hard.shape)
        return with_block(region, hard, before, found.block, to_side(found.above, low, high, hard.dtype))

    return rule


def steps_at_integers(op: str, shift: float, low: int, but_zero: bool = False) -> Callable[..., Any]:
    """A function that is ``n + low`` below the boundary at ``n + shift``, and one more above."""

    def rule(region: Any, func: Func, args: tuple[Any, ...], kwargs: dict[str, Any]) -> Any:
        if kwargs.get("decimals"):
            return general(op)(region, func, args, kwargs)
        x = plain_of(args[0])
        hard = func(x)
        before = mapped(func, args[:1], {}, hard.shape, hard.dtype)
        if not _decides(region, op, (x,)):
            return with_block(region, hard, before)
        found, n = at_integers(x, region.eps_for(op), shift, but_zero)
        high = n + (low + 1)
        values = toward_zero(n, found.above) if but_zero else torch.where(found.above, high, high - 1)
        return with_block(region, hard, before, found.block, values.to(hard.dtype))

    return rule


def toward_zero(n: Tensor, above: Tensor) -> Tensor:
    """The truncated values beside the integer n."""
    return torch.where(above, n + (n < 0).to(n.dtype), n - (n > 0).to(n.dtype))


_INTEGERS = (torch.int8, torch.uint8, torch.int16, torch.int32, torch.int64)


def cast(region: Any, func: Func, args: tuple[Any, ...], kwargs: dict[str, Any]) -> Any:
    """A float that becomes an integer is truncated; what was rounded already is followed."""
    x = args[0]
    if not x.is_floating_point() or plain_of(x) is not x or not _decides(region, "cast", (x,)):
        return elementwise(region, func, args, kwargs)
    hard = func(*args, **kwargs)
    if not isinstance(hard, Tensor) or hard.dtype not in _INTEGERS:
        return hard
    found, n = at_integers(x, region.eps_for("cast"), 0.0, True, True)
    values = toward_zero(n, found.above).to(hard.dtype)
    return with_block(region, hard, None, found.block, values)


_NO_DERIVATIVE = ("heaviside", "floor_divide")
"""torch has none of its own for them."""


_DIVIDE = ("remainder", "fmod")


def general(op: str, derivative: bool = True) -> Callable[..., Any]:
    """A source of which only the description is known: its derivative says what is open. `derivative`: the function has
    one of its own, too.
    """
    step, without = sources.STEPS[op], not derivative or op in _NO_DERIVATIVE

    def rule(region: Any, func: Func, args: tuple[Any, ...], kwargs: dict[str, Any]) -> Any:
        plain = [plain_of(x) for x in args]
        if op in _DIVIDE and len(plain) > 1 and tracked(plain[1]):  # by zero: NaN, and no gradient
            plain[1] = torch.where(plain[1] == 0, plain[1].detach(), plain[1])
        hard = func(*([x.detach() if isinstance(x, Tensor) else x for x in plain] if without else plain), **kwargs)
        before = mapped(func, args, kwargs, hard.shape, hard.dtype)
        described = None
        if _decides(region, op, plain):
            described = _described(step, region.eps_for(op), plain, kwargs, hard)
        if described is None:
            return with_block(region, hard, before)
        return with_block(region, hard, before, *described)

    return rule


def _derivatives(f: Callable[..., Any], leaves: list[Tensor]) -> tuple[Tensor, list[Tensor], tuple[Tensor, ...]]:
    """An elementwise function of the leaves, its derivatives, and what else it returns."""
    if torch._C._are_functorch_transforms_active():
        where, pull, aux = torch.func.vjp(f, *leaves, has_aux=True)  # type: ignore[misc]
        return where, pull(torch.ones_like(where)), aux
    same: Callable[[Any], Any] = lambda x: x  # (whoever hooks what is saved is not to see this)
    with torch.autograd.graph.saved_tensors_hooks(same, same):
        given = [x.clone().requires_grad_() for x in leaves]
        where, aux = f(*given)
        found = torch.autograd.grad(where.sum(), given, allow_unused=True)
    return where.detach(), [torch.zeros_like(x) if g is None else g for x, g in zip(leaves, found)], aux


class _NothingToDecide(Exception):
    pass


def _described(
    step: Func, eps: Any, args: list[Any], kwargs: dict[str, Any], hard: Tensor
) -> tuple[Block, Tensor] | None:
    followed = [i for i, x in enumerate(args) if tracked(x)]
    given = [x.detach() if isinstance(x, Tensor) else x for x in args]
    sides: list[Any] = []

    def offset(*leaves: Tensor) -> tuple[Tensor, tuple[Tensor, ...]]:
        for i, leaf in zip(followed, leaves):
            given[i] = leaf
        found = step(eps, *given, **kwargs)
        if found is None:
            raise _NothingToDecide
        sides[:] = [side() if callable(side) else side for side in (found.below, found.above)]
        aux = tuple(side.expand(hard.shape) for side in sides if isinstance(side, Tensor))
        return found.decision.offset().expand(hard.shape), aux

    watch = watch_of(eps)
    try:
        with contextlib.nullcontext() if watch is None else watch.quietly():
            where, slopes, aux = _derivatives(offset, [args[i].detach().expand(hard.shape) for i in followed])
    except _NothingToDecide:
        return None
    slopes = [s.reshape(-1) for s in slopes]
    open_ = functools.reduce(torch.logical_or, [s != 0 for s in slopes])
    at, above, open_by = sides_of(torch.where(open_, where.detach().reshape(-1) * 2, math.nan), 1.0)
    known = iter(aux)
    low, high = (take(next(known), at) if isinstance(side, Tensor) else side for side in sides)
    shown = take(hard, at)
    wrong = (shown == to_side(above, low, high, hard.dtype)) & (take(where, at) != 0)
    above = above ^ wrong  # (rounding: the other side is where the program is not)
    operands = entered(eps, [args[i] for i in followed])
    places = [positions(at, hard.shape, x.shape) for x in operands]
    by = [torch.where(open_by != 0, torch.where(above, 1, -1) * s.index_select(0, at), 0) for s in slopes]
    rest = (operands[1], places[1], by[1]) if len(operands) > 1 else ()
    weight = arrives(eps, slope(operands[0], places[0], by[0], *rest))
    return Block(Decision(weight), None, at, True), to_side(above, low, high, hard.dtype)
