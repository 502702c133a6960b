"""Decisions: which elements are in their band, on which side, and the weights of their flips.

A flip goes to one side of the boundary. An element exactly at the boundary has two, one to either side.
"""

from __future__ import annotations

import functools
import math
import weakref
from collections.abc import Callable
from typing import Any, TypeAlias
from typing import cast as cast_to

import torch
from torch import Tensor

from ..._ops.dtypes import FULL, wide
from ..._ops.env import free_to_read, tracked
from ..._ops.own_thresholds import apart
from ..._rules.widths import Watch, Watched, Width, half_width, numbers_learned, watch_of
from ..boundaries import from_one, toward_zero
from ..interface import Func, version_of
from ..outcomes.sources import STEPS
from ..ties import TIED, count_ties
from .calls import plain_of
from .entries import Block, Decision, batched, flips_of
from .mapped import elementwise, mapped, with_block
from .primitives import slope, take

Described: TypeAlias = "tuple[Block, Tensor] | None"
"""The flips of a decision, and the values that they go to; None where nothing is decided."""


def decision(eps: Any, x: Tensor, at: Tensor, by: Tensor, flip: Tensor | None = None) -> Decision:
    """Flips that open with the elements `at` of a tensor, with the slope `by`. See `slope`."""
    watch = watch_of(eps)
    if watch is not None:  # a trace is told what gradients come by
        x = watch.enters(x)
    weight = slope(x, at, by, flip)
    if watch is not None:
        watch.arrives(weight)
    return Decision(weight, x)


@functools.lru_cache(maxsize=64)
def _numbers(limit: float, dtype: torch.dtype, device: torch.device) -> Any:
    """The half-width, the slopes of what goes up and of what goes down, and 0. (Torch makes a tensor of each number
    that it is given, and `torch.where` one of float32.)
    """
    return torch.tensor([limit, 0.5 / limit, -0.5 / limit, 0.0], dtype=dtype, device=device).unbind()


def _sides(distance: Tensor, half: Any, taken: Tensor | None) -> tuple[Tensor, Tensor, Tensor]:
    """Positions of the elements in the band, whether they go to the side above, and the slope of that. `taken`: which
    are above, where the distance alone does not tell.
    """
    d = distance.detach()
    fixed = isinstance(half, float)
    limit, flat = (half, d.reshape(-1)) if fixed else (1.0, (d / half).reshape(-1))
    limit, up, down, zero = _numbers(limit, d.dtype, d.device)
    if batched(flat):
        at = torch.arange(flat.shape[0], device=flat.device).repeat(2)
        above = torch.arange(at.shape[0], device=flat.device) < flat.shape[0]
        flat = flat.repeat(2)
        open_ = (flat.abs() <= limit) & torch.where(above, flat <= 0, flat >= 0)
        by = torch.where(open_, torch.where(above, up, down), 0)
    else:
        at = (flat.abs() <= limit).nonzero().view(-1)
        if not at.shape[0]:
            return at, at.bool(), at.to(flat.dtype)
        here = flat.index_select(0, at)
        above = here <= zero if taken is None else ~take(taken, at) | (here == 0)
        if not bool(here.all()):
            ties = (here == 0).nonzero().squeeze(1)
            at, above = torch.cat([at, at[ties]]), torch.cat([above, torch.zeros_like(ties, dtype=torch.bool)])
        by = torch.where(above, up, down)
    return at, above, by if fixed else by / take(half.expand(d.shape), at)


def at_boundary(
    a: Tensor, b: Any, eps: Any, limit: Any = math.inf, taken: Tensor | None = None
) -> tuple[Block, Tensor]:
    """Where ``a > b`` is open, and which flips go above. The half-width is at most `limit`."""
    fits = isinstance(a, Tensor) and a.dtype in FULL and (not isinstance(b, Tensor) or b.dtype is a.dtype)
    x, y = (a, b) if fits else wide(a, b)
    distance = x - y
    if isinstance(eps, Width):
        eps.learned = numbers_learned(distance)
    half = eps if type(eps) is float else half_width(eps, distance.detach())
    half = limit.clamp(max=half) if isinstance(limit, Tensor) else half
    at, above, by = _sides(distance, half, taken)
    _measured(eps, distance, half, limit)
    found = decision(eps, distance, at, by)
    first, other = (b, a) if isinstance(b, Tensor) and id(a) > id(b) else (a, b)
    what = () if batched(above) else (at, above if first is a else ~above)
    found = again(first, ("boundary", distance.shape, held(other), held(eps)), found, what, other)
    return Block(found, None, at), above


def _measured(eps: Any, distance: Tensor, half: Any, limit: Any) -> None:
    """A trace is told of decisions at these distances from their boundaries."""
    watch = watch_of(eps)
    if watch is not None:
        watch.measure(distance.detach(), half, limit)


def _at_integers(
    x: Tensor, eps: Any, shift: float, but_zero: bool, whole: bool = False
) -> tuple[Block, Tensor, Tensor]:
    """Where x is near ``n + shift``, and, of each flip, whether it goes above, and that n. `but_zero`: at 0 there is
    no boundary. `whole`: if all are whole numbers already, nothing is decided: the gradient passes.
    """
    (x_wide,) = wide(x)
    d = x_wide.detach()
    n = d.round() if shift == 0.0 else d.floor()
    distance = (x_wide - n) - shift
    jumps, known = distance, distance.detach()
    if but_zero:
        jumps, known = from_one(distance, n), torch.where(n == 0, math.nan, known)
    half = half_width(eps, known, 0.5)
    at, above, by = _sides(known, half, None)
    if whole and not batched(d) and bool((d == n).all()):
        by = torch.where(above, 0.5, -0.5).to(by.dtype)
    _measured(eps, jumps, half, 0.5)
    found = decision(eps, distance, at, by)
    key = "integers", distance.shape, shift, but_zero, held(eps)
    found = again(x, key, found, () if batched(d) else (at, above))
    return Block(found, None, at), above, take(n, at)


# --- the same question has the same flips ---


_ASKED: weakref.WeakValueDictionary[Any, Decision] = weakref.WeakValueDictionary()
"""By the id and the version of the operand, and what was asked: what was decided, as long as somebody carries it."""


def held(x: Any) -> Any:
    """What stands for an operand or a width in a question."""
    if isinstance(x, Tensor):
        return id(x), version_of(x)
    return float(x) if isinstance(x, (int, float)) else (type(x), getattr(x, "policy", None), getattr(x, "kind", None))


def again(x: Tensor, key: Any, found: Decision, what: tuple[Tensor, ...], other: Any = None) -> Decision:
    """`found`, or the decision of before, if the same was asked and `what` has not changed (a write may go unseen).
    (Those whose ids are in the key, `x` and `other`, may be other tensors by now.)
    """
    key = id(x), version_of(x), key
    before = _ASKED.get(key)
    alive = before is not None and all(ref() is of for ref, of in zip(before.of, (x, other)))
    if before and alive and all(a.shape == b.shape and torch.equal(a, b) for a, b in zip(before.what, what)):
        return before
    found.what, found.of = what, [weakref.ref(of) for of in (x, other) if isinstance(of, Tensor)]
    _ASKED[key] = found
    return found


# --- rules ---


def source(op: str, describe: Callable[..., Described], derivative: bool = True) -> Callable[..., Any]:
    """A function that decides as `describe` says: given the width, the result, and the arguments. `derivative`: it has
    one of its own, too.
    """
    divides, no_derivative = op in ("remainder", "fmod"), not derivative or op in _NO_DERIVATIVE

    def rule(region: Any, func: Func, args: tuple[Any, ...], kwargs: dict[str, Any]) -> Any:
        carried = [flips_of(x) for x in args]
        plain = [x if flips is None or flips.plain is None else flips.plain for x, flips in zip(args, carried)]
        named = {name: plain_of(x) for name, x in kwargs.items()} if kwargs else kwargs
        if divides and len(plain) > 1 and tracked(plain[1]):  # by zero: NaN, and no gradient
            by = plain[1]
            x = plain[0] if isinstance(plain[0], Tensor) else by.new_tensor(plain[0])  # (a number has no derivative)
            plain[:2] = x, torch.where(by == 0, by.detach(), by)
        hard = func(*([x.detach() if isinstance(x, Tensor) else x for x in plain] if no_derivative else plain), **named)
        found: Described = None
        for x in (*plain, *named.values()) if named else plain:
            if tracked(x) and region.linearizes(op):
                found = describe(region.eps_for(op), hard, *plain, **named)
                tied = op in TIED and not any(carried) and count_ties(region, op, *plain)
                if found is not None and not tied:
                    _count_equal(region, op, x, found[0].at, hard.shape)
                break
        before = mapped(func, args, kwargs, hard.shape, hard.dtype, carried)
        return with_block(region, op, hard, before, *(found or (None, None)))

    return rule


def _count_equal(region: Any, op: str, x: Tensor, at: Tensor, shape: torch.Size) -> None:
    """Decisions about equal numbers go together, as those of an image of which the channels are one."""
    if at.shape[0] > 1 and x.numel() > 1 and free_to_read(x):
        numbers, places = _different(take(x.expand(shape), at)), at.shape[0]
        many = places - numbers and _different(at) - numbers
        if many:
            region.approximate(op, many, "joint")


def _different(x: Tensor) -> int:
    """How many numbers there are in `x`. (Few are counted sooner in Python.)"""
    return len(set(x.tolist())) if x.numel() < 4096 else torch.unique(x).numel()


_NO_DERIVATIVE = ("heaviside", "floor_divide")
"""torch has none of its own for them."""


def step(low: Any, high: Any, op: str = "") -> Callable[..., Described]:
    """A step at ``input == other``. `op`: of a comparison."""

    def describe(eps: Any, hard: Tensor, input: Any, other: Any = 0.0) -> Described:
        input, other = apart(op, input, other, lambda: hard)
        block, above = at_boundary(input, other, eps)
        return block, _to_side(above, low, high, hard.dtype)

    return describe


def _to_side(above: Tensor, low: Any, high: Any, dtype: torch.dtype) -> Tensor:
    """The values that flips go to."""
    if dtype == torch.bool and isinstance(high, bool):
        return above if high else ~above
    return torch.where(above, high, low).to(dtype)


def integers(op: str, shift: float, low: int | None) -> Callable[..., Described]:
    """``n + low`` below the boundary at ``n + shift``, and one more above; None: towards zero, which is no boundary."""

    def describe(eps: Any, hard: Tensor, input: Tensor, **kwargs: Any) -> Described:
        if kwargs.get("decimals"):
            return described(op)(eps, hard, input, **kwargs)
        block, above, n = _at_integers(input, eps, shift, low is None)
        sides = toward_zero(n) if low is None else (n + low, n + (low + 1))
        values = torch.where(above, *sides[::-1])
        return block, values.to(hard.dtype)

    return describe


def cast(region: Any, func: Func, args: tuple[Any, ...], kwargs: dict[str, Any]) -> Any:
    """A float that becomes an integer is truncated; what was rounded already is followed."""
    x, *rest = args
    if rest and isinstance(rest[0], Tensor):  # the type and the device of another, whatever its shape
        func, args = torch.Tensor.to, (x, rest[0].device, rest[0].dtype, *rest[1:])
    if not tracked(x) or plain_of(x) is not x or not region.linearizes("cast"):
        return elementwise(region, func, args, kwargs)
    hard = func(*args, **kwargs)
    if not isinstance(hard, Tensor) or hard.is_floating_point() or hard.is_complex() or hard.dtype == torch.bool:
        return hard
    block, above, n = _at_integers(x, region.eps_for("cast"), 0.0, True, True)
    return with_block(region, "cast", hard, None, block, torch.where(above, *toward_zero(n)[::-1]).to(hard.dtype))


# --- what is only described ---


class _Told:
    """In the place of a trace: keeps what a decision tells it."""

    distance: Tensor | None = None

    def offset(self, distance: Tensor, offset: Tensor, half: Any, limit: Any, true: Tensor | None = None) -> None:
        self.distance, self.limit = distance, limit
        self.half = float(half) if isinstance(half, float) else half  # (without who is told: that is this)
        self.true = distance if true is None else true

    def by(self, eps: Any) -> Any:
        """The width, so that this is told."""
        if isinstance(eps, Width):
            return Width(eps.policy, eps.kind, eps.record, cast_to(Watch, self))
        watched = Watched(eps)
        watched.watch = cast_to(Watch, self)
        return watched


def described(op: str) -> Callable[..., Described]:
    """A step of the other forward mode: it tells a trace how far from its boundary it decides."""

    def describe(eps: Any, hard: Tensor, *args: Any, **kwargs: Any) -> Described:
        told = _Told()
        found = STEPS[op](told.by(eps), *args, **kwargs)
        if found is None:
            return None
        half: Any = 0.5
        offset = found.decision.offset()
        if told.distance is None:  # (somebody's own: outside of the band the offset is 1/2)
            distance = torch.where(offset.detach().abs() < half, offset, math.nan)
        elif isinstance(told.half, Tensor):  # bands may move: in units of where they are
            half = told.half.detach()
            distance = told.distance * (half / told.half)
        else:
            distance, half = told.distance, told.half
        if told.distance is not None:
            _measured(eps, told.true, told.half, told.limit)
        distance = distance.expand(hard.shape)
        low, high = (side() if callable(side) else side for side in (found.below, found.above))
        low, high = (side.detach().expand(hard.shape) if isinstance(side, Tensor) else side for side in (low, high))
        up = distance.detach() <= 0
        taken = up == (hard == _to_side(up, low, high, hard.dtype))  # (rounding: the program is on that side)
        at, above, by = _sides(distance, half, taken)
        low, high = (take(side, at) if isinstance(side, Tensor) else side for side in (low, high))
        return Block(decision(eps, distance, at, by), None, at), _to_side(above, low, high, hard.dtype)

    return describe
