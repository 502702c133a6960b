"""Integers known by their expectation (sums of masks and the like), compared and computed with.

A count ``n`` with expectation ``E`` is an integer, so the boundary of ``n > c`` lies halfway between two integers and
its band reaches to both: the weight of True is ``clamp(E - floor(c), 0, 1)``. That is exact when one of the decisions
counted is in its band, and it keeps the hard value when none is.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor

from ..._ops.band import band_offset
from ..._ops.env import tracked
from ..._rules.index import functions_with, op_name, row_of, spellings
from ..interface import Region
from .algebra import through_expectation
from .carriers import Expectation, attach, carrier, discrete_carrier
from .constants import bool_outcomes
from .counted import OF_WEIGHTED, by_ones
from .decisions import decided_at, offset_at
from .expectations import expect
from .trees import original

_SIGNS = {"gt": 1, "ge": 1, "lt": -1, "le": -1, "eq": 1, "ne": -1}
_COMPARES = {func: name for name in _SIGNS for spelled in (row_of(name).names.split()) for func in spellings(spelled)}
_SAME_NUMBER = functions_with("same_number")
_TRUTH = functions_with("truth")
_SMOOTH = functions_with("smooth")


def through_count(region: Region, func: Callable[..., Any], args: tuple[Any, ...], kwargs: dict[str, Any]) -> Any:
    """An elementwise function with an operand that carries an `Expectation`."""
    hard = original(func, *args, **kwargs)
    operands = (*args, *kwargs.values())
    if any(hard is x for x in operands):
        return hard
    if hard.dtype == torch.bool:
        if func in _TRUTH:
            return _compare(region, "ne" if op_name(func) == "bool" else "eq", hard, args[0], 0)
        if func in _COMPARES:
            return _compare(region, _COMPARES[func], hard, args[0], args[1] if len(args) > 1 else kwargs["other"])
    elif not hard.is_floating_point() and func in _SAME_NUMBER:
        return attach(region, hard, Expectation(expect(args[0]), by_ones(args[0])))
    elif func in _SMOOTH:
        return through_expectation(region, func, args, kwargs)
    region.lose(
        op_name(func),
        [x for x in operands if discrete_carrier(x)],
        "of a count only arithmetic and comparisons are known. Go on with count.float().",
    )
    return func(*args, **kwargs)


def _compare(region: Region, name: str, hard: Tensor, a: Any, b: Any) -> Tensor:
    sign, equality = _SIGNS[name], name in ("eq", "ne")
    soft_a, soft_b = _soft(a), _soft(b)
    if tracked(a) or tracked(b):
        if equality:
            return hard
        # A threshold that moves continuously: an ordinary comparison, with the expectation for the count.
        eps = region.eps_for("gt" if sign > 0 else "lt")
        gap = soft_a - soft_b
        return attach(region, hard, bool_outcomes(decided_at(offset_at(gap, eps)), hard, sign))
    if equality and not (by_ones(a) and by_ones(b)):
        region.lose(name, [x for x in (a, b) if discrete_carrier(x)], OF_WEIGHTED)
        return hard
    if equality:
        whole = (
            (soft_a == soft_a.floor())
            if carrier(a) is None
            else (soft_b == soft_b.floor())
            if carrier(b) is None
            else torch.tensor(True)
        )
        gap = soft_a - soft_b
        # At a tie the count shows its hard value, and a strict comparison that ties is False: it can only rise.
        apart = torch.where(gap >= 0, gap, -gap)
        offset = torch.where(whole, band_offset(0.5 - apart, 0.5), -0.5)
    elif name in ("gt", "le"):
        offset = band_offset(_up(a, soft_a) - _down(b, soft_b) - 0.5, 0.5)
    else:
        offset = band_offset(_down(a, soft_a) - _up(b, soft_b) + 0.5, 0.5)
    # Where several decisions are open, the count that is shown may be far from the expected one, which decides.
    hard = torch.where(offset.abs() < 0.5, hard, (offset > 0) == (sign > 0))
    return attach(region, hard, bool_outcomes(decided_at(offset), hard, sign))


def _soft(x: Any) -> Tensor:
    if not isinstance(x, Tensor):
        return torch.tensor(float(x), dtype=torch.float64)
    return expect(x) if discrete_carrier(x) else x.to(torch.float64) if not x.is_floating_point() else x


def _up(x: Any, soft: Tensor) -> Tensor:
    """The integer that a count has to reach to be at least `x`."""
    return soft if discrete_carrier(x) else soft.ceil()


def _down(x: Any, soft: Tensor) -> Tensor:
    return soft if discrete_carrier(x) else soft.floor()
