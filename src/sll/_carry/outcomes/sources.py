"""Sources: where a decision is made, float in, discrete out.

Each rule states, for one call, the signed distance to the nearest decision boundary, the half-width of the band and
the two outcomes; everything else (values, gradients, forward modes, what the result carries) is derived from that in
`_run`.

Bands of an op with a step ``s`` never overlap: their half-width is ``min(eps, s/2)``.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any, NamedTuple

import torch
from torch import Tensor

from ..._ops.blend import blend
from ..._ops.dtypes import wide
from ..._ops.env import readable, tracked
from ..._ops.own_thresholds import apart
from ..._ops.ramp import Jump
from ..._rules.index import SOURCES, add, spellings
from ..._rules.table import Row
from ..boundaries import offset_at, toward_zero
from ..interface import Func, Region, Rule, attach, version_of
from ..ties import TIED, count_ties
from .algebra import on_outcomes
from .boundaries import Eps, _at_multiples, at_integers, beside, boundary_at
from .carriers import Outcomes, bool_outcomes, carrier, discrete_carrier, outcome, promise
from .decisions import Decision, decided_at
from .elementwise import elementwise
from .orders import compared_with_sorted
from .registry import register, unruled
from .trees import original


class Step(NamedTuple):
    """One jump per element: the decision, and the values on its two sides (numbers, tensors in the dtype of the
    distance, or functions that compute these).

    `jump` describes a step between constants or integers whose value `Site.ramp` can compute at the decision's site.
    """

    decision: Decision
    below: Any
    above: Any
    jump: Jump | None = None
    numbers: Callable[[], Tensor] | None = None
    """Of what jumps by one `height` at all whole numbers: the nearest."""
    height: Any = 1.0

    def lacks(self, below: Tensor, above: Tensor) -> Tensor | None:
        """What ``above - below`` lacks of the height where numbers are so large that floats are steps apart: 7e7 - 1 is
        7e7.
        """
        if self.numbers is None or not below.is_floating_point():
            return None
        numbers = self.numbers()
        size = numbers.abs().maximum((numbers * self.height).abs())  # (of what is divided by the height, too)
        large = (size >= 1 / torch.finfo(numbers.dtype).eps).logical_and(size.isfinite())
        return torch.where(large, self.height - (above - below), 0)


STEPS: dict[str, Callable[..., Step | None]] = {}
"""Op -> its description: a function of the half-width and the arguments of the call."""
LISTENERS: list[Callable[[str, tuple[str | Func, ...]], None]] = []
"""Told of every source that is added to those of the table: by op, and its functions."""


def source(op: str, *names: str | Func, boundaries: str = "") -> Callable[[Callable[..., Step | None]], Any]:
    """Register a discrete function, under the name `op` that ``eps=``, ``only=`` and ``exclude=`` use and under others;
    a function that is not torch's own, such as ``torch.ops.mine.kernel.default``, stands for itself. `boundaries` says
    where its decisions are; without it the table does.

    The decorated function is called with the half-width (a float, or the `Width` that works it out from distances)
    and the arguments of the torch call; returning None runs the original.
    """

    def decorate(step: Callable[..., Step | None]) -> Callable[..., Step | None]:
        if not boundaries:
            STEPS[op] = step
            return step
        known = [name for name in (op, *names) if isinstance(name, str) and spellings(name)]
        others = tuple(name for name in names if not isinstance(name, str))
        if op in SOURCES and op not in known:  # (a name of torch's is refused as such, by `add`)
            raise ValueError(f"{op!r} is known already; a source has a name of its own")
        unruled(*others)
        add(Row(" ".join(known), "sources", op=op, boundaries=boundaries, functions=others))
        register(decide(op, step), *known, *others, source=True)
        STEPS[op] = step  # (last: a source that was refused leaves nothing)
        for listener in LISTENERS:
            listener(op, (*known, *others))
        return step

    return decorate


def decide(op: str, step: Callable[..., Step | None]) -> Rule:
    """The rule of the functions with this op."""

    def rule(region: Region, func: Func, args: tuple[Any, ...], kwargs: dict[str, Any]) -> Any:
        return _run(region, op, step, func, args, kwargs)

    return rule


def _run(
    region: Region, op: str, step: Callable[..., Step | None], func: Func, args: tuple[Any, ...], kwargs: dict[str, Any]
) -> Any:
    if op == "div" and kwargs.get("rounding_mode") is None:
        return elementwise(region, func, args, kwargs)
    operands = (*args, *kwargs.values())
    carried = [x for x in operands if carrier(x) is not None]
    wanted = region.linearizes(op)
    if carried and (wanted or any(discrete_carrier(x) for x in carried)):
        out = on_outcomes(region, func, args, kwargs, conditional=True)
        if out is not None:
            return out
    if not wanted or not any(tracked(x) for x in operands):
        return func(*args, **kwargs)
    if op in _ORDERED:
        known = compared_with_sorted(region, op, func, args)
        if known is not None:
            return known
    operands = apart(op, *args, lambda: original(func, *args)) if op in _ORDERED and len(args) == 2 else args
    jump = step(region.eps_for(op), *operands, **kwargs)
    if jump is None:
        return func(*args, **kwargs)
    if op in TIED:
        count_ties(region, op, *args)
    return _decided(region, op, jump, func, args, kwargs)


def _decided(region: Region, op: str, jump: Step, func: Func, args: tuple[Any, ...], kwargs: dict[str, Any]) -> Any:
    """The result of a call that makes this decision."""
    if region.trace is not None:
        jump.decision.offset()  # watched, also if nobody asks for it
    site = jump.decision.site
    if jump.jump is not None and site is not None and op not in _BOOLS:
        value = site.ramp(jump.jump)
        if value is not None:
            value = value.to(site.dtype())
            step = (jump.decision, jump.jump) if jump.jump.kind == "round" else None
            return attach(region, value, promise(jump.decision, jump.below, jump.above, value, step))
    hard = original(func, *args, **kwargs)
    if hard.dtype == torch.bool:
        return attach(region, hard, bool_outcomes(jump.decision, hard, 1 if jump.above else -1, jump.jump))
    below, above = (outcome(value, hard) for value in (jump.below, jump.above))
    if not hard.is_floating_point():
        return attach(region, hard, Outcomes(jump.decision, below, above))
    offset = jump.decision.offset()
    out = blend(offset, below, above, hard)
    lacks = jump.lacks(below.detach(), above.detach())
    if lacks is not None:
        out = out + torch.where(lacks != 0, (offset - offset.detach()) * lacks, 0).to(out.dtype)
    return attach(region, out, Outcomes(jump.decision, below, above))


_ORDERED = ("gt", "ge", "lt", "le")


_BOOLS = (*_ORDERED, "isclose", "signbit")


def _number(x: Tensor) -> float | None:
    """The number in a tensor, where reading it makes nobody wait."""
    known = readable(x) if x.device.type == "cpu" else None
    return None if known is None else float(known)


# --- comparisons -------------------------------------------------------------------------------------------------


# Jumps are made where they are used: numbers that a compiler finds in a global may become symbols.


@source("gt")
def gt(eps: Eps, input: Any, other: Any) -> Step | None:
    return Step(boundary_at(input, other, eps), False, True, Jump("boundary", 0.0, 1.0, 0.0, 0.0))


@source("ge")
def ge(eps: Eps, input: Any, other: Any) -> Step | None:
    return Step(boundary_at(input, other, eps), False, True, Jump("boundary", 0.0, 1.0, 1.0, 0.0))


@source("lt")
def lt(eps: Eps, input: Any, other: Any) -> Step | None:
    return Step(boundary_at(input, other, eps, nan=0.5), True, False, Jump("boundary", 1.0, 0.0, 0.0, 0.0))


@source("le")
def le(eps: Eps, input: Any, other: Any) -> Step | None:
    return Step(boundary_at(input, other, eps, nan=0.5), True, False, Jump("boundary", 1.0, 0.0, 1.0, 0.0))


@source("isclose")
def isclose(
    eps: Eps, input: Tensor, other: Tensor, rtol: float = 1e-5, atol: float = 1e-8, equal_nan: bool = False
) -> Step | None:
    a, b = wide(input, other)
    distance = atol + rtol * b.abs() - (a - b).abs()
    return Step(decided_at(offset_at(distance, eps)), below=False, above=True)


@source("signbit")
def signbit(eps: Eps, input: Tensor) -> Step | None:
    return Step(boundary_at(input, 0.0, eps, nan=0.5), below=True, above=False)


# --- steps at zero -----------------------------------------------------------------------------------------------


@source("sign")
def sign(eps: Eps, input: Tensor) -> Step | None:
    return Step(boundary_at(input, 0.0, eps), -1.0, 1.0, Jump("boundary", -1.0, 1.0, 0.0, 0.0))


@source("angle")
def angle(eps: Eps, input: Tensor) -> Step | None:
    return Step(boundary_at(input, 0.0, eps), below=math.pi, above=0.0)


@source("heaviside")
def heaviside(eps: Eps, input: Tensor, values: Tensor) -> Step | None:
    one = values.numel() == 1 and values.dim() <= input.dim()
    at_tie = _number(values) if one else None
    # (-0. counts as 0. among the numbers of a jump)
    plain = at_tie is not None and not (at_tie == 0 and math.copysign(1.0, at_tie) < 0)
    jump = Jump("boundary", 0.0, 1.0, at_tie, 0.0) if plain and at_tie is not None else None
    return Step(boundary_at(input, 0.0, eps), 0.0, 1.0, jump)


@source("copysign")
def copysign(eps: Eps, input: Any, other: Any) -> Step | None:
    if not tracked(other):
        return None  # continuous in input: torch's own gradient is right
    size = abs(wide(input, other)[0])
    return Step(boundary_at(other, 0.0, eps), below=-size, above=size)


@source("hardshrink")
def hardshrink(eps: Eps, input: Tensor, lambd: float = 0.5) -> Step | None:
    (x,) = wide(input)
    distance = x.abs() - lambd
    return Step(decided_at(offset_at(distance, eps)), below=0.0, above=x)


@source("threshold")
def threshold(eps: Eps, input: Tensor, threshold: float, value: float, inplace: bool = False) -> Step | None:
    (x,) = wide(input)
    return Step(boundary_at(input, threshold, eps), below=value, above=x)


# --- steps at integers -------------------------------------------------------------------------------------------


@source("round")
def round(eps: Eps, input: Tensor, *, decimals: int = 0) -> Step | None:
    if decimals == 0:
        decision, site = at_integers(input, eps, 0.5)
        return Step(decision, beside(site), beside(site, 1), Jump("round"), site.nearest)
    (x,) = wide(input)
    ten = 10.0 ** abs(decimals)

    def units(n: Tensor) -> Tensor:  # the same arithmetic as torch's, so that the outcomes have the same bits
        return n / ten if decimals > 0 else n * ten

    lower = (x.detach() * ten if decimals > 0 else x.detach() / ten).floor()
    limit = 0.5 * 10.0**-decimals
    distance = x - units(lower + 0.5)
    key = ("decimals", input, version_of(input), decimals, eps)
    decision = Decision(key, lambda: offset_at(distance, eps, limit))
    return Step(decision, units(lower), units(lower + 1), None, lambda: lower, 10.0**-decimals)


@source("floor")
def floor(eps: Eps, input: Tensor) -> Step | None:
    decision, site = at_integers(input, eps)
    return Step(decision, beside(site, -1), beside(site), Jump("floor"), site.nearest)


@source("ceil")
def ceil(eps: Eps, input: Tensor) -> Step | None:
    decision, site = at_integers(input, eps)
    return Step(decision, beside(site), beside(site, 1), Jump("ceil"), site.nearest)


@source("trunc")
def trunc(eps: Eps, input: Tensor) -> Step | None:
    decision, site = at_integers(input, eps, but_zero=True)
    below, above = (lambda: toward_zero(site.nearest())[0]), (lambda: toward_zero(site.nearest())[1])
    return Step(decision, below, above, Jump("trunc"), site.nearest)


@source("frac")
def frac(eps: Eps, input: Tensor) -> Step | None:
    decision, site = at_integers(input, eps, but_zero=True)
    (x,) = wide(input)
    below, above = toward_zero(site.nearest())
    return Step(decision, x - below, x - above, None, site.nearest, -1.0)


@source("floor_divide")
def floor_divide(eps: Eps, input: Any, other: Any) -> Step | None:
    at = _at_multiples(eps, input, other)
    return at and Step(at.decision, at.n - 1, at.n, None, lambda: at.n)


@source("div")
def div(eps: Eps, input: Any, other: Any, *, rounding_mode: str | None = None) -> Step | None:
    at = _at_multiples(eps, input, other, but_zero=rounding_mode == "trunc")
    if at is None or rounding_mode == "floor":
        return at and Step(at.decision, at.n - 1, at.n, None, lambda: at.n)
    return Step(at.decision, *toward_zero(at.n), None, lambda: at.n)


@source("remainder")
def remainder(eps: Eps, input: Any, other: Any) -> Step | None:
    at = _at_multiples(eps, input, other)
    return at and Step(at.decision, at.remainder(at.n - 1), at.remainder(at.n), None, lambda: at.n, -_fixed(other))


@source("fmod")
def fmod(eps: Eps, input: Any, other: Any) -> Step | None:
    at = _at_multiples(eps, input, other, but_zero=True)
    if at is None:
        return None
    below, above = toward_zero(at.n)
    return Step(at.decision, at.remainder(below), at.remainder(above), None, lambda: at.n, -_fixed(other))


def _fixed(x: Any) -> Any:
    return x.detach() if isinstance(x, Tensor) else x
