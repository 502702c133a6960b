"""Sources: where a decision is made, float in, discrete out.

Each rule states, for one call, the signed distance to the nearest decision boundary, the half-width of the band and
the two outcomes; everything else (values, gradients, forward modes, what the result carries) is derived from that in
`_run`.

Bands of an op with a step ``s`` never overlap: their half-width is ``min(eps, s/2)``.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import TYPE_CHECKING, Any, NamedTuple, TypeAlias

import torch
from torch import Tensor

from ..._ops.env import numbers
from ..._ops.fused import LEAST
from ..._ops.kernels import Jump, band_offset, blend, compute_dtype, suits
from ..._ops.order import constant as every
from ..._ops.order import first_k
from ...eps import Width, around, half_width, in_units, sample, watch_of
from .counts import through_count
from .elementwise import cast, elementwise, promised_step
from .linearization import (
    Carrier,
    Chain,
    Constants,
    Decision,
    Expectation,
    Outcomes,
    Sorted,
    asked,
    attach,
    bool_outcomes,
    carrier,
    constant,
    decided_at,
    discrete_carrier,
    few_decisions,
    offset_at,
    original,
    resolved,
    run_on_choices,
    run_on_outcomes,
    sorted_places,
    step_of,
    tells,
    version_of,
)
from .registry import ALWAYS, SOURCES, concerns, put, register, tracked
from .sites import Site, wide

if TYPE_CHECKING:
    from ...region import linearize as Region

    Eps: TypeAlias = float | Width


class Step(NamedTuple):
    """One jump per element: the decision, and the values on its two sides (numbers, tensors in the dtype of the
    distance, or functions that compute these).

    `jump` describes a step between constants or integers whose value `Site.ramp` can compute at the decision's site.
    """

    decision: Decision
    below: Any
    above: Any
    jump: Jump | None = None


STEPS: dict[str, Callable[..., Step | None]] = {}
"""Op -> its description: a function of the half-width and the arguments of the call."""
NAMES: dict[str, tuple[str | Callable[..., Any], ...]] = {}
"""Op -> the functions that are this op."""


def source(
    op: str, *names: str | Callable[..., Any], boundaries: str, reflected: str | None = None
) -> Callable[[Callable[..., Step | None]], Any]:
    """Register a discrete function, under the name `op` that ``eps=``, ``only=`` and ``exclude=`` use and under others;
    a function that is not torch's own, such as ``torch.ops.mine.kernel.default``, stands for itself.

    The decorated function is called with the half-width (a float, or the `Width` that works it out from distances)
    and the arguments of the torch call; returning None runs the original.
    """

    def decorate(step: Callable[..., Step | None]) -> Callable[..., Step | None]:
        def rule(region: Region, func: Callable[..., Any], args: tuple[Any, ...], kwargs: dict[str, Any]) -> Any:
            return _run(region, op, step, func, args, kwargs)

        SOURCES[op] = boundaries
        STEPS[op] = step
        NAMES[op] = (op, *names)
        register(rule, op, *names, source=True)
        if reflected is not None:
            ALWAYS.add(getattr(torch.Tensor, reflected))
            put(
                getattr(torch.Tensor, reflected),
                lambda region, func, args, kwargs: (
                    rule(region, getattr(torch, op), args[::-1], kwargs)
                    if concerns(args, kwargs)
                    else func(*args, **kwargs)
                ),
            )
        return step

    return decorate


def _run(
    region: Region,
    op: str,
    step: Callable[..., Step | None],
    func: Callable[..., Any],
    args: tuple[Any, ...],
    kwargs: dict[str, Any],
) -> Any:
    if op == "div" and kwargs.get("rounding_mode") is None:
        return elementwise(region, func, args, kwargs)
    operands = (*args, *kwargs.values())
    carried = [x for x in operands if carrier(x) is not None]
    wanted = region.linearizes(op)
    if carried and (wanted or any(discrete_carrier(x) for x in carried)):
        out = run_on_choices(region, func, args, kwargs)
        if out is None:
            out = run_on_outcomes(region, func, args, kwargs, conditional=True)
        if out is not None:
            return out
        few = few_decisions(region, args, kwargs)
        if any(isinstance(carrier(x), Expectation) for x in (*few[0], *few[1].values())):
            return through_count(region, func, *few)
    if not wanted or not any(tracked(x) for x in operands):
        return func(*args, **kwargs)
    if op in _ORDERED:
        known = _compared_with_sorted(region, op, func, args)
        if known is not None:
            return known
    jump = step(region.eps_for(op), *args, **kwargs)
    if jump is None:
        return func(*args, **kwargs)
    if region.trace is not None:
        jump.decision.offset()  # watched, also if nobody asks for it
    site = jump.decision.site
    if jump.jump is not None and site is not None and op not in _BOOLS:
        value = site.ramp(jump.jump, region.mode)
        if value is not None:
            value = value.to(site.dtype())
            return attach(region, value, _promised(region, jump, value))
    hard = original(func, *args, **kwargs)
    if hard.dtype == torch.bool:
        return attach(region, hard, bool_outcomes(jump.decision, hard, 1 if jump.above else -1, jump.jump))
    below, above = (_outcome(value, hard) for value in (jump.below, jump.above))
    if region.mode == "straight-through":
        tells(jump.decision, hard, above)
    if not hard.is_floating_point():
        return attach(region, hard, Outcomes(jump.decision, below, above))
    out = blend(jump.decision.offset(), below, above, hard, region.mode)
    return attach(region, out, Outcomes(jump.decision, below, above))


_ORDERED = ("gt", "ge", "lt", "le")
_BOOLS = (*_ORDERED, "isclose", "signbit")


def _promised(region: Region, jump: Step, value: Tensor) -> Carrier:
    """The outcomes of a step whose `value` is known, for whoever asks."""
    like = Constants(value)
    decision, low, high, _ = jump

    def sides() -> tuple[Tensor, Tensor]:
        return _outcome(low, like), _outcome(high, like)

    if region.mode == "straight-through":
        tells(decision, value, lambda: _outcome(high, like))
    assert decision.site is not None and jump.jump is not None
    step = (decision, jump.jump) if jump.jump.kind == "round" else None
    return Chain(lambda: Outcomes(decision, *sides()), 0, step)


def _compared_with_sorted(region: Region, op: str, func: Callable[..., Any], args: tuple[Any, ...]) -> Tensor | None:
    """A comparison with values that were found by sorting; None if it is an ordinary one.

    Sorted values of one row with each other: no decision. The elements of `x` with one value of each row, ``x >=
    x.topk(k).values[..., -1:]``: that asks which are the first `k`, and has the weights of `sll.topk_mask`. (The plain
    rule would see an element that always ties with itself.)
    """
    if len(args) != 2:
        return None
    a, b = (sorted_places(x) for x in args)
    if torch.compiler.is_compiling():
        if a is not None or b is not None:
            region.lose(op, (), "a comparison with what was found by sorting is not followed in compiled code.")
        return None
    if a is not None and b is not None:
        if a.source is not b.source or a.version != b.version or a.dim != b.dim:
            return None
        known = bool((a.places() // a.n == b.places() // b.n).all())
        return original(func, *args) if known else None
    value, other = (a, args[1]) if a is not None else (b, args[0])
    if value is None or not value.found_in(other):
        return None
    x, threshold = other, args[0] if a is not None else args[1]
    if threshold.numel() == 0 or torch.broadcast_shapes(x.shape, threshold.shape) != x.shape:  # type: ignore[no-untyped-call]
        return None
    full = value.places().expand(x.shape)
    dim = None if value.source.dim() == 1 else value.dim
    rows = full.reshape(1, -1) if dim is None else full.movedim(dim, -1).reshape(-1, value.n)
    place = int(rows[0, 0]) % value.n
    if not bool((rows == torch.arange(rows.shape[0], device=rows.device)[:, None] * value.n + place).all()):
        return None
    if a is not None:  # threshold < x is x > threshold
        op = {"gt": "lt", "ge": "le", "lt": "gt", "le": "ge"}[op]
    strict, inclusive = ("gt", "ge") if value.largest else ("lt", "le")
    # The first `place` are strictly beyond the threshold, with the threshold itself it is one more.
    among_first = op in (strict, inclusive)
    k = place + (op == inclusive or op == {"gt": "lt", "lt": "gt"}[strict])
    hard = original(func, *args)
    offset = _first_so_many(value, x, threshold, k, region.eps_for("topk"))
    return attach(region, hard, bool_outcomes(decided_at(offset), hard, 1 if among_first else -1))


def _first_so_many(value: Sorted, x: Tensor, threshold: Tensor, k: int, eps: Eps) -> Tensor:
    """Offsets of being among the first `k`: the weights of `sll.topk_mask`, minus 1/2."""
    dim = None if value.source.dim() == 1 else value.dim
    rows = (x.reshape(-1) if dim is None else x.movedim(dim, -1)).to(compute_dtype(x.dtype))
    rows = torch.where(rows.isnan(), float("inf"), rows)
    rows = rows if value.largest else -rows
    rows, half = in_units(rows, eps, lambda _: sample(x - threshold), lambda z: around(z, k))
    weights = first_k(rows, k, half)[0] if 0 < k < value.n else every(float(k > 0), rows)
    watch = watch_of(eps)
    if watch is not None:
        watch.weights(weights, each=True)
    offset = (weights.reshape(x.shape) if dim is None else weights.movedim(-1, dim)) - 0.5
    # Equals of the threshold show what they show.
    equal = x == threshold
    several = equal.sum() > 1 if dim is None else equal.sum(dim, keepdim=True) > 1
    return torch.where(equal & several, offset - offset.detach(), offset)


def _outcome(value: Any, hard: Tensor | Constants) -> Tensor:
    value = value() if callable(value) else value
    return value.to(hard.dtype) if isinstance(value, Tensor) else constant(value, hard)


# --- distances ---------------------------------------------------------------------------------------------------


def boundary_at(x: Any, threshold: Any, eps: Eps, nan: float = -0.5) -> Decision:
    """`x` above `threshold`; either may be a number, either may require grad."""
    site = Site(x, threshold, eps)
    key = ("boundary", *asked(x), *asked(threshold), eps)

    def offset() -> Tensor:
        found = site.ramp(Jump("boundary", -0.5, 0.5, 0.0, nan), "linear", later=True)
        return offset_at(site.distance(), site.width(), nan=nan) if found is None else found

    return Decision(key, offset, site)


def at_integers(x: Tensor, eps: Eps, shift: float = 0.0, but_zero: bool = False) -> tuple[Decision, Site]:
    """The decision at the nearest ``n + shift``, and its site, which knows that ``n``. `but_zero`: at 0 there is no
    jump.
    """
    site = Site(x, None, eps, shift)
    key = ("integers", *asked(x), shift, eps)
    jumps = (lambda: _from_one(site.distance(), site.nearest())) if but_zero else None
    decision = Decision(key, lambda: offset_at(site.distance(), site.width(0.5), 0.5, true_distance=jumps), site)
    return decision, site


def beside(site: Site, by: int = 0) -> Callable[[], Tensor]:
    """The integer that the site is next to, or one before or after. (No bound method: Dynamo cannot hand one over.)"""
    return lambda: site.nearest() + by if by else site.nearest()


def _from_one(distance: Tensor, nearest: Tensor) -> Tensor:
    """Distances, those from 0 replaced by those from ±1."""
    d = distance.detach()
    return torch.where(nearest == 0, torch.where(d < 0, d + 1, d - 1), d)


def _number(x: Tensor) -> float | None:
    """The number in a tensor, where reading it makes nobody wait."""
    known = numbers(x) if not torch.compiler.is_compiling() and x.device.type == "cpu" else None
    return None if known is None else float(known)


# --- comparisons -------------------------------------------------------------------------------------------------


# Jumps are made where they are used: numbers that a compiler finds in a global may become symbols.


@source("gt", "__gt__", "greater", boundaries="`input == other`")
def gt(eps: Eps, input: Any, other: Any) -> Step | None:
    return Step(boundary_at(input, other, eps), False, True, Jump("boundary", 0.0, 1.0, 0.0, 0.0))


@source("ge", "__ge__", "greater_equal", boundaries="`input == other`")
def ge(eps: Eps, input: Any, other: Any) -> Step | None:
    return Step(boundary_at(input, other, eps), False, True, Jump("boundary", 0.0, 1.0, 1.0, 0.0))


@source("lt", "__lt__", "less", boundaries="`input == other`")
def lt(eps: Eps, input: Any, other: Any) -> Step | None:
    return Step(boundary_at(input, other, eps, nan=0.5), True, False, Jump("boundary", 1.0, 0.0, 0.0, 0.0))


@source("le", "__le__", "less_equal", boundaries="`input == other`")
def le(eps: Eps, input: Any, other: Any) -> Step | None:
    return Step(boundary_at(input, other, eps, nan=0.5), True, False, Jump("boundary", 1.0, 0.0, 1.0, 0.0))


@source("isclose", boundaries="`|input - other| == atol + rtol * |other|`")
def isclose(
    eps: Eps, input: Tensor, other: Tensor, rtol: float = 1e-5, atol: float = 1e-8, equal_nan: bool = False
) -> Step | None:
    a, b = wide(input, other)
    distance = atol + rtol * b.abs() - (a - b).abs()
    return Step(decided_at(offset_at(distance, eps)), below=False, above=True)


@source("signbit", boundaries="`0`")
def signbit(eps: Eps, input: Tensor) -> Step | None:
    return Step(boundary_at(input, 0.0, eps, nan=0.5), below=True, above=False)


# --- steps at zero -----------------------------------------------------------------------------------------------


@source("sign", "sgn", boundaries="`0`")
def sign(eps: Eps, input: Tensor) -> Step | None:
    return Step(boundary_at(input, 0.0, eps), -1.0, 1.0, Jump("boundary", -1.0, 1.0, 0.0, 0.0))


@source("angle", boundaries="`0`")
def angle(eps: Eps, input: Tensor) -> Step | None:
    return Step(boundary_at(input, 0.0, eps), below=math.pi, above=0.0)


@source("heaviside", boundaries="`0`")
def heaviside(eps: Eps, input: Tensor, values: Tensor) -> Step | None:
    one = values.numel() == 1 and values.dim() <= input.dim()
    at_tie = _number(values) if one else None
    # (-0. counts as 0. among the numbers of a jump)
    plain = at_tie is not None and not (at_tie == 0 and math.copysign(1.0, at_tie) < 0)
    jump = Jump("boundary", 0.0, 1.0, at_tie, 0.0) if plain and at_tie is not None else None
    return Step(boundary_at(input, 0.0, eps), 0.0, 1.0, jump)


@source("copysign", boundaries="`other == 0`")
def copysign(eps: Eps, input: Any, other: Any) -> Step | None:
    if not tracked(other):
        return None  # continuous in input: torch's own gradient is right
    size = abs(wide(input, other)[0])
    return Step(boundary_at(other, 0.0, eps), below=-size, above=size)


@source("hardshrink", boundaries="`|input| == lambd`")
def hardshrink(eps: Eps, input: Tensor, lambd: float = 0.5) -> Step | None:
    (x,) = wide(input)
    distance = x.abs() - lambd
    return Step(decided_at(offset_at(distance, eps)), below=0.0, above=x)


@source("threshold", boundaries="`input == threshold`")
def threshold(eps: Eps, input: Tensor, threshold: float, value: float, inplace: bool = False) -> Step | None:
    (x,) = wide(input)
    return Step(boundary_at(input, threshold, eps), below=value, above=x)


# --- steps at integers -------------------------------------------------------------------------------------------


@source("round", boundaries="`n + 1/2`, with `decimals=k` `(n + 1/2) * 10**-k`")
def round(eps: Eps, input: Tensor, *, decimals: int = 0) -> Step | None:
    if decimals == 0:
        decision, site = at_integers(input, eps, 0.5)
        return Step(decision, beside(site), beside(site, 1), Jump("round"))
    (x,) = wide(input)
    ten = 10.0 ** abs(decimals)

    def units(n: Tensor) -> Tensor:  # the same arithmetic as torch's, so that the outcomes have the same bits
        return n / ten if decimals > 0 else n * ten

    lower = (x.detach() * ten if decimals > 0 else x.detach() / ten).floor()
    limit = 0.5 * 10.0**-decimals
    distance = x - units(lower + 0.5)
    key = ("decimals", input, version_of(input), decimals, eps)
    decision = Decision(key, lambda: offset_at(distance, eps, limit))
    return Step(decision, units(lower), units(lower + 1))


@source("floor", boundaries="integers")
def floor(eps: Eps, input: Tensor) -> Step | None:
    decision, site = at_integers(input, eps)
    return Step(decision, beside(site, -1), beside(site), Jump("floor"))


@source("ceil", boundaries="integers")
def ceil(eps: Eps, input: Tensor) -> Step | None:
    decision, site = at_integers(input, eps)
    return Step(decision, beside(site), beside(site, 1), Jump("ceil"))


def _toward_zero(n: Tensor) -> tuple[Tensor, Tensor]:
    """The truncated values on both sides of the integer `n`; equal at 0, where `trunc` does not jump."""
    return n - (n > 0).to(n.dtype), n + (n < 0).to(n.dtype)


@source("trunc", "fix", boundaries="integers but 0")
def trunc(eps: Eps, input: Tensor) -> Step | None:
    decision, site = at_integers(input, eps, but_zero=True)
    below, above = (lambda: _toward_zero(site.nearest())[0]), (lambda: _toward_zero(site.nearest())[1])
    return Step(decision, below, above, Jump("trunc"))


@source("frac", boundaries="integers but 0")
def frac(eps: Eps, input: Tensor) -> Step | None:
    decision, site = at_integers(input, eps, but_zero=True)
    (x,) = wide(input)
    below, above = _toward_zero(site.nearest())
    return Step(decision, x - below, x - above)


# --- division with remainder -------------------------------------------------------------------------------------


class _Multiple(NamedTuple):
    """The multiple of the divisor next to the dividend: ``n * divisor``."""

    decision: Decision
    n: Tensor
    remainder: Callable[[Tensor], Tensor]
    """``dividend - quotient * divisor``"""


def _at_multiples(eps: Eps, dividend: Any, divisor: Any, but_zero: bool = False) -> _Multiple | None:
    """The decision at the nearest multiple, in the dividend's units, rising with the quotient. `but_zero`: at 0 there
    is no jump.
    """
    if isinstance(divisor, (int, float)) and divisor == 0:
        return None
    x, m = wide(dividend, divisor)
    by_tensor = isinstance(m, Tensor)
    n = (torch.as_tensor(x).detach() / (m.detach() if by_tensor else m)).round()
    # Division by zero, NaN and infinity have no distance: the hard value, and no gradient to either operand.
    valid = n.isfinite()
    n = torch.where(valid, n, torch.zeros_like(n))
    nothing = torch.full((), math.nan, dtype=n.dtype, device=n.device)

    def remainder(quotient: Tensor) -> Tensor:
        return torch.where(valid, x - quotient * m, nothing)

    def jumps() -> Tensor:
        size: Any = abs(m)
        found: Tensor = _from_one(distance / size, n) * size
        return found

    if by_tensor:  # the half-width min(eps, |m|/2) moves with m, and has a derivative
        rest, limit = remainder(n), m.abs() * 0.5
        # A policy is asked in units of the divisor.
        widest = half_width(eps, rest / m.abs(), 0.5) * m.detach().abs() if isinstance(eps, Width) else eps
        half = torch.where(valid, limit.clamp(max=widest), 1.0)
        distance = rest * m.detach().sign()

        def offset() -> Tensor:
            found = band_offset(distance / (2 * half), 0.5)
            watch = watch_of(eps)
            if watch is not None:
                watch.offset(distance, found, half, limit, jumps() if but_zero else None)
            return found
    else:
        distance = remainder(n) if m > 0 else -remainder(n)

        def offset() -> Tensor:
            return offset_at(distance, eps, abs(m) / 2, true_distance=jumps if but_zero else None)

    key = ("multiples", dividend, version_of(dividend), divisor, version_of(divisor), eps)
    return _Multiple(Decision(key, offset), n, remainder)


@source(
    "floor_divide",
    "__floordiv__",
    boundaries="multiples of the divisor, in the dividend's units",
    reflected="__rfloordiv__",
)
def floor_divide(eps: Eps, input: Any, other: Any) -> Step | None:
    at = _at_multiples(eps, input, other)
    return at and Step(at.decision, at.n - 1, at.n)


@source("div", "divide", boundaries="with `rounding_mode=`: multiples of the divisor")
def div(eps: Eps, input: Any, other: Any, *, rounding_mode: str | None = None) -> Step | None:
    at = _at_multiples(eps, input, other, but_zero=rounding_mode == "trunc")
    if at is None or rounding_mode == "floor":
        return at and Step(at.decision, at.n - 1, at.n)
    return Step(at.decision, *_toward_zero(at.n))


@source("remainder", "__mod__", boundaries="multiples of the divisor, in the dividend's units", reflected="__rmod__")
def remainder(eps: Eps, input: Any, other: Any) -> Step | None:
    at = _at_multiples(eps, input, other)
    return at and Step(at.decision, at.remainder(at.n - 1), at.remainder(at.n))


@source("fmod", boundaries="multiples of the divisor but 0, in the dividend's units")
def fmod(eps: Eps, input: Any, other: Any) -> Step | None:
    at = _at_multiples(eps, input, other, but_zero=True)
    if at is None:
        return None
    below, above = _toward_zero(at.n)
    return Step(at.decision, at.remainder(below), at.remainder(above))


# --- casts -------------------------------------------------------------------------------------------------------


def _cast(region: Region, func: Callable[..., Any], args: tuple[Any, ...], kwargs: dict[str, Any]) -> Any:
    x = args[0]
    if not x.is_floating_point():
        return cast(region, func, args, kwargs)
    quantized = step_of(x)
    if quantized is not None and region.trace is None and not kwargs and _may_fit(quantized[1], x):
        # In the band the float shows a blend, and the integer the likelier outcome.
        out = original(func, _rounded(*quantized, x) if region.linear else x, *args[1:])
        if isinstance(out, Tensor) and out.dtype in _INTS and out.device == x.device:
            decision, jump = quantized[0], _within(quantized[1], x, torch.iinfo(out.dtype))
            if jump is not None:
                return attach(region, out, promised_step(decision, jump, out, (decision, jump)))
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
    below, above = (side.to(out.dtype) for side in _toward_zero(n))
    if region.mode == "straight-through":
        tells(decision, out, above)
    return attach(region, out, Outcomes(decision, below, above))


def _rounded(decision: Decision, jump: Jump, x: Tensor) -> Tensor:
    """The whole numbers that `x`, a step, shows rather. A compiler rounds the operand: it need not work out `x`."""
    if torch.compiler.is_compiling() and decision.site is not None and decision.site.x.shape == x.shape:
        return decision.site.x.detach().round().clamp(jump.below, jump.above)  # type: ignore[no-any-return]
    return x.detach().round()


def _may_fit(jump: Jump, x: Tensor) -> bool:
    """Whether it is known between which bounds rounded numbers are, or worth reading them."""
    if jump.kind == "quantize":
        return True
    return not torch.compiler.is_compiling() and x.device.type == "cpu" and x.numel() >= LEAST and suits(x)


def _within(jump: Jump, x: Tensor, limits: torch.iinfo) -> Jump | None:
    """Which step rounded numbers `x` are as integers with these limits; None if there may be some beyond."""
    if jump.kind == "quantize":
        return jump if limits.min <= jump.below <= jump.above <= limits.max else None
    low, high = x.detach().aminmax()
    inside = bool(low >= limits.min) and bool(high <= limits.max)  # not if there is a NaN
    return Jump("quantize", float(limits.min), float(limits.max), 0.0, math.nan) if inside else None


_INTS = (torch.int8, torch.uint8, torch.int16, torch.int32, torch.int64)

SOURCES["cast"] = "integers but 0 (`.long()`, `.int()`, `.to(torch.int8)` …)"
register(_cast, "long", "int", "short", "char", "byte", "to", "type", "type_as", in_place=False, source=True)
