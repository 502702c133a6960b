"""Functions of operands that carry something: on every outcome, joined again; of promises, a promise; of expectations,
the function of those.

Beyond `MAX_DECISIONS` decisions are summed out: that never depends on data, so the function stays continuous.

A count ``n`` with expectation ``E`` is an integer, so the boundary of ``n > c`` lies halfway between two integers and
its band reaches to both: the weight of True is ``clamp(E - floor(c), 0, 1)``. That is exact when one of the decisions
counted is in its band, and it keeps the hard value when none is.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor

from ..._ops.band import band_offset, hard_forward
from ..._ops.dtypes import exact_dtype
from ..._ops.env import readable, tracked
from ..._ops.ramp import Jump
from ..._rules.index import NAMED, functions_with, op_name
from ..boundaries import offset_at
from ..interface import Func, Region, attach, held, tensors, version_of
from ..ties import told_of_wraps
from .carriers import (
    Blend,
    Carrier,
    Chain,
    Choice,
    Expectation,
    Outcomes,
    bool_outcomes,
    carrier,
    choice,
    discrete_carrier,
    outcomes,
)
from .decisions import Decision, decided_at, decided_by
from .expectations import OF_WEIGHTED, by_ones, expect
from .later import kept
from .mixtures import join_values, per_value
from .trees import both_constants, both_sides, cofactor, decisions, join, original
from .whole import COMPARES, SIGNS, whole_of

# --- fewer decisions ---------------------------------------------------------------------------------------------

MAX_DECISIONS = 4
"""A tensor keeps the joint outcomes of up to this many decisions (2**4 outcomes); beyond it they are reduced."""


def few_decisions(
    region: Region, args: tuple[Any, ...], kwargs: dict[str, Any], *, growing: bool = True
) -> tuple[tuple[Any, ...], dict[str, Any]]:
    """The operands, reduced to one decision each if together they depend on more than `MAX_DECISIONS`. One operand may
    have more, what a float of several decisions was rounded to, unless the result may have decisions of its own
    (`growing`). (A bool is known by its probability, and with one decision what is computed from it goes on.)
    """
    if not _too_many((*args, *kwargs.values()), alone=not growing):
        return args, kwargs
    return tuple(_reduced(region, x) for x in args), {name: _reduced(region, x) for name, x in kwargs.items()}


def _too_many(operands: Sequence[Any], alone: bool = True) -> bool:
    """Whether the operands depend on more decisions than are kept, which (`alone`) do not all come with one of them."""
    found: list[Decision] = []
    for x in operands:
        decisions(x, found)
    if len(found) <= MAX_DECISIONS:
        return False
    return not alone or not any(len(decisions(x)) == len(found) and x.dtype != torch.bool for x in operands)


def _reduced(region: Region, x: Any) -> Any:
    found = decisions(x)
    if len(found) <= 1:
        return x
    if many := _open_together(found):
        region.approximate("outcomes", many, "outcomes")
    return attach(region, x.view_as(x), marginal(x))


def _open_together(found: list[Decision]) -> int:
    """In how many elements several decisions are in their band."""
    masks = [readable(d.undecided()) for d in found]
    if any(mask is None for mask in masks):
        return 0
    return int((torch.stack(torch.broadcast_tensors(*masks)).sum(0) > 1).sum())  # type: ignore[no-untyped-call]


def marginal(x: Tensor) -> Carrier | None:
    """What is left of the tree of `x` when its decisions are summed out: exact in expectation, and continuous.

    A bool becomes one decision with the probability of True; an integer an expectation; a float an ordinary tensor,
    which already shows its expectation.
    """
    if x.dtype == torch.bool:
        return bool_outcomes(decided_by(expect(x)), x)
    return None if x.is_floating_point() else Expectation(expect(x), by_ones(x))


# --- on every outcome --------------------------------------------------------------------------------------------


def on_outcomes(
    region: Region, func: Func, args: tuple[Any, ...], kwargs: dict[str, Any], *, conditional: bool = False
) -> Any:
    """The elementwise `func` for each value that its operands may have, joined again; None if they carry nothing.

    Each side of a decision runs through the region once more, so operands with further decisions, and sources that make
    decisions of their own (`conditional`), nest.
    """
    chosen = any(choice(x) is not None for x in (*args, *kwargs.values()))
    if not chosen:
        floats = any(isinstance(x, Tensor) and x.is_floating_point() for x in (*args, *kwargs.values()))
        args, kwargs = few_decisions(region, args, kwargs, growing=conditional and floats)
    operands = (*args, *kwargs.values())
    counted = any(isinstance(carrier(x), Expectation) for x in operands)
    if not chosen and not counted and not any(outcomes(x) is not None for x in operands):
        return None
    hard = original(func, *args, **kwargs)
    if not isinstance(hard, Tensor) or any(hard is x for x in operands):  # x.type(), x.to(x.dtype), x.contiguous() …
        return hard
    if chosen:
        blended = any(isinstance(x, Tensor) and x.is_floating_point() and carrier(x) is not None for x in operands)
        return join_values(region, hard, *per_value(region, func, args, kwargs), blended=blended)
    tree = both_sides(region, func, args, kwargs)
    if tree is None:
        return _of_counts(region, func, args, kwargs, hard)
    if conditional:  # what was left alone on one side may be asked the same question again: there its answer is known
        sides = (cofactor(region, x, tree.decision, side) for x, side in ((tree.below, False), (tree.above, True)))
        tree = Outcomes(tree.decision, *sides)
    if hard.dtype == torch.bool:
        _recognise(tree, operands)
    return join(region, func, operands, hard, tree)


def _recognise(tree: Outcomes, operands: Sequence[Any]) -> None:
    """What is False on one side and True on the other is its decision again: ``True & mask`` is the mask."""
    sides = both_constants(tree.below, tree.above)
    if sides is None or sides[0] == sides[1]:
        return
    tree.polarity = 1 if sides[1] else -1
    jumps = set()
    for x in operands:
        own = outcomes(x)
        if own is not None:  # (of equal decisions, x > 0 and x >= 0 show different things at a tie)
            known = own.jump if own.decision.same(tree.decision) == 1 else None
            jumps.add(known if known is None or own.polarity == tree.polarity else known.flipped())
    if len(jumps) == 1:
        tree.jump = jumps.pop()


# --- promises ----------------------------------------------------------------------------------------------------


def chain(
    region: Region,
    func: Func,
    args: tuple[Any, ...],
    kwargs: dict[str, Any],
    out: Tensor,
    step: tuple[Decision, Jump] | None = None,
) -> Tensor:
    """Let the result `out` of an ordinary elementwise op promise its outcomes."""

    def compute() -> Outcomes | Choice | None:
        operands = (*args, *kwargs.values())
        if any(choice(x) is not None for x in operands):
            main, values = per_value(region, func, args, kwargs)
            return None if carrier(values) is not None else main.of(values)
        if _too_many(operands):
            return None
        return both_sides(region, func, args, kwargs)

    args, kwargs = tuple(map(kept, args)), {name: kept(x) for name, x in kwargs.items()}
    length = 1 + max((p.length for x in (*args, *kwargs.values()) if (p := held(x, Chain)) is not None), default=0)
    promise = Chain(compute, length, step)
    if length >= 32:  # bounds recursion, and the memory held by operands
        promise.resolve()
    return attach(region, out, promise)


# --- expectations ------------------------------------------------------------------------------------------------


def through_expectation(
    region: Region, func: Func, args: tuple[Any, ...], kwargs: dict[str, Any], *, widen: bool = False
) -> Any:
    """A function that is linear in each discrete operand: its expectation is the function of their expectations.

    ``widen`` converts the discrete operands that carry nothing, too (a matrix product wants one dtype).
    """

    def as_float(x: Any, expected: bool) -> Any:
        if isinstance(x, (tuple, list)):
            return type(x)(as_float(item, expected) for item in x)
        if not isinstance(x, Tensor) or x.is_floating_point() or x.is_complex():
            return x
        if expected and discrete_carrier(x):
            return expect(x).to(exact_dtype(x))
        return x.to(exact_dtype(x)) if widen or discrete_carrier(x) else x

    def run(expected: bool) -> Tensor:
        floats = {name: as_float(x, expected) for name, x in named.items()}
        return func(*as_float(list(args), expected), **floats)  # type: ignore[no-any-return]

    hard = original(func, *args, **kwargs)
    named = {name: x for name, x in kwargs.items() if name != "dtype"}
    value = run(True)
    if hard.dtype == torch.bool:
        return attach(region, hard, bool_outcomes(decided_by(value.clamp(0, 1)), hard))
    if not (hard.is_floating_point() or hard.is_complex()):
        operands = [y for x in (*args, *named.values()) for y in (x if isinstance(x, (tuple, list)) else (x,))]
        told_of_wraps(region, func, args, kwargs, hard)
        counts = func.__name__ in NAMED["by_ones"] and all(by_ones(x) for x in operands if discrete_carrier(x))
        return attach(region, hard, Expectation(value, counts))
    # Bit for bit the hard value where nothing is in the band: there the same arithmetic on hard operands agrees.
    decided = original(run, False)
    out = torch.where(value == decided, hard_forward(hard, value), value.to(hard.dtype))
    of = [x for x in tensors(args, kwargs) if discrete_carrier(x)]
    return attach(region, out, Blend(of, [], *whole_of(region, func, args, kwargs)))


_SAME_NUMBER = functions_with("same_number")
_TRUTH = functions_with("truth")
_SMOOTH = functions_with("smooth")


def _of_counts(region: Region, func: Func, args: tuple[Any, ...], kwargs: dict[str, Any], hard: Tensor) -> Any:
    """An elementwise function with an operand that carries an `Expectation`."""
    if hard.dtype == torch.bool:
        if func in _TRUTH:
            return _compare(region, "ne" if op_name(func) == "bool" else "eq", hard, args[0], 0)
        if func in COMPARES:
            return _compare(region, COMPARES[func], hard, args[0], args[1] if len(args) > 1 else kwargs["other"])
    elif not hard.is_floating_point() and func in _SAME_NUMBER:
        return attach(region, hard, Expectation(expect(args[0]), by_ones(args[0])))
    elif func in _SMOOTH:
        return through_expectation(region, func, args, kwargs)
    region.lose(
        op_name(func),
        [x for x in (*args, *kwargs.values()) if discrete_carrier(x)],
        "of a count only arithmetic and comparisons are known. Go on with count.float().",
    )
    return func(*args, **kwargs)


def _compare(region: Region, name: str, hard: Tensor, a: Any, b: Any) -> Tensor:
    sign, equality = SIGNS[name], name in ("eq", "ne")
    soft_a, soft_b = _soft(a), _soft(b)
    gap = soft_a - soft_b
    if tracked(a) or tracked(b):
        if equality:
            return hard
        # A threshold that moves continuously: an ordinary comparison, with the expectation for the count.
        eps = region.eps_for("gt" if sign > 0 else "lt")
        return attach(region, hard, bool_outcomes(decided_at(offset_at(gap, eps)), hard, sign))
    if equality and not (by_ones(a) and by_ones(b)):
        region.lose(name, [x for x in (a, b) if discrete_carrier(x)], OF_WEIGHTED)
        return hard
    if equality:
        plain = [soft for x, soft in ((a, soft_a), (b, soft_b)) if carrier(x) is None]
        # At a tie the count shows its hard value, and a strict comparison that ties is False: it can only rise.
        offset = band_offset(0.5 - torch.where(gap >= 0, gap, -gap), 0.5)
        offset = torch.where(plain[0] == plain[0].floor(), offset, -0.5) if plain else offset
    elif name in ("gt", "le"):
        offset = band_offset(_up(a, soft_a) - _down(b, soft_b) - 0.5, 0.5)
    else:
        offset = band_offset(_down(a, soft_a) - _up(b, soft_b) + 0.5, 0.5)
    # Where several decisions are open, the count that is shown may be far from the expected one, which decides.
    hard = torch.where(offset.abs() < 0.5, hard, (offset > 0) == (sign > 0))
    decision = decided_at(offset)
    if equality and type(b) is int and b == 0:
        decision.zero = a, version_of(a)
    return attach(region, hard, bool_outcomes(decision, hard, sign))


def _soft(x: Any) -> Tensor:
    if not isinstance(x, Tensor):
        return torch.tensor(float(x), dtype=torch.float64)
    return expect(x) if discrete_carrier(x) else x if x.is_floating_point() else x.to(torch.float64)


def _up(x: Any, soft: Tensor) -> Tensor:
    """The integer that a count has to reach to be at least `x`."""
    return soft if discrete_carrier(x) else soft.ceil()


def _down(x: Any, soft: Tensor) -> Tensor:
    return soft if discrete_carrier(x) else soft.floor()
