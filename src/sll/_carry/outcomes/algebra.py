"""Functions of operands that carry outcomes or expectations."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import torch
from torch import Tensor

from ..._ops.band import hard_forward
from ..._ops.dtypes import exact_dtype
from ..._ops.ramp import Jump
from ..._rules.index import NAMED, names_of
from ..interface import Region
from .carriers import Chain, Choice, Expectation, Outcomes, attach, carrier, discrete_carrier, outcomes
from .counted import by_ones
from .decisions import Decision
from .expectations import expect
from .fewer import _of_too_many, few_decisions
from .mixtures import _per_value
from .trees import _both_constants, _both_sides, _root, cofactor, join, original
from .writes_seen import keep

__all__ = ["run_on_outcomes"]


def run_on_outcomes(
    region: Region,
    func: Callable[..., Any],
    args: tuple[Any, ...],
    kwargs: dict[str, Any],
    *,
    conditional: bool = False,
) -> Tensor | None:
    """The elementwise `func` on both sides of a decision that its operands carry, joined again.

    Each side runs through the region once more, so operands with further decisions, and sources that make decisions
    of their own (`conditional`), nest. Returns None if no operand has outcomes.
    """
    growing = conditional and any(isinstance(x, Tensor) and x.is_floating_point() for x in (*args, *kwargs.values()))
    args, kwargs = few_decisions(region, args, kwargs, growing=growing)
    operands = (*args, *kwargs.values())
    if _root(operands) is None:
        return None
    hard: Tensor = original(func, *args, **kwargs)
    if not isinstance(hard, Tensor):  # x.type()
        return hard
    for x in operands:
        if hard is x:  # x.to(x.dtype), x.contiguous() … (x itself: Dynamo's `hard` has lost what x carries)
            return x
    tree = _both_sides(region, func, args, kwargs)
    assert tree is not None
    if conditional:  # what was left alone on one side may be asked the same question again: there its answer is known
        tree.below = cofactor(region, tree.below, tree.decision, False)
        tree.above = cofactor(region, tree.above, tree.decision, True)
    sign = _POLARITY.get(func.__name__)
    own = outcomes(args[0]) if sign is not None and args else None
    if sign is None and hard.dtype == torch.bool:
        _recognise(tree, operands)
    if sign is not None and own is not None:
        tree.polarity = sign * own.polarity
        tree.jump = own.jump if sign > 0 or own.jump is None else own.jump.flipped()
    return join(region, func, operands, hard, tree)


def _recognise(tree: Outcomes, operands: Sequence[Any]) -> None:
    """What is False on one side and True on the other is its decision again: ``True & mask`` is the mask."""
    sides = _both_constants(tree.below, tree.above)
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


_POLARITY = {**dict.fromkeys(names_of("copies"), 1), **dict.fromkeys(NAMED["not"], -1)}
"""Functions of a bool after which (False, True) is (False, True) again, or turned round."""


def chain(
    region: Region,
    func: Callable[..., Any],
    args: tuple[Any, ...],
    kwargs: dict[str, Any],
    out: Tensor,
    step: tuple[Decision, Jump] | None = None,
) -> Tensor:
    """Let the result `out` of an ordinary elementwise op promise its outcomes."""

    def compute() -> Outcomes | Choice | None:
        operands = kept()
        if operands is None:
            return None
        args, kwargs = operands[:n], dict(zip(names, operands[n:]))
        chosen = _per_value(region, func, args, kwargs)
        if chosen is not None:
            main, values = chosen
            return None if carrier(values) is not None else main.of(values)
        if _of_too_many(operands):
            return None
        return _both_sides(region, func, *few_decisions(region, args, kwargs, growing=False))

    operands = (*args, *kwargs.values())
    n, names = len(args), tuple(kwargs)
    kept = as_they_are(region, func.__name__, operands)
    length = 1
    for x in operands:
        pair = getattr(x, "_sll", None) if isinstance(x, Tensor) else None
        if pair is not None and isinstance(pair[0], Chain):
            length = max(length, pair[0].length + 1)
    promise = Chain(compute, length, step)
    if length >= 32:  # bounds recursion, and the memory held by operands
        promise.resolve()
    return attach(region, out, promise)


def as_they_are(region: Region, name: str, operands: tuple[Any, ...]) -> Callable[[], tuple[Any, ...] | None]:
    """The operands of the function `name` for a promise, whatever is written to them meanwhile; None if nobody saw the
    write.
    """
    kept = keep(operands, lambda x: attach(region, x.clone(), carrier(x)))
    carried = [(x, carrier(x)) for x in operands]

    def asked() -> tuple[Any, ...] | None:
        found = kept()
        if found is None:
            region.lose(name, [attach(region, x.detach(), of) for x, of in carried if of is not None], _STALE)
        return found

    return asked


_STALE = (
    "an operand was modified in place before a decision on the result, where the region could not see it (a transform "
    "of torch.func, set_, a custom op, another thread). Write y = y + 1, not y += 1."
)


def through_expectation(
    region: Region, func: Callable[..., Any], args: tuple[Any, ...], kwargs: dict[str, Any], *, widen: bool = False
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
    if not (hard.is_floating_point() or hard.is_complex()):
        operands = [y for x in (*args, *named.values()) for y in (x if isinstance(x, (tuple, list)) else (x,))]
        counts = func.__name__ in NAMED["by_ones"] and all(by_ones(x) for x in operands if discrete_carrier(x))
        return attach(region, hard, Expectation(value, counts))
    # Bit for bit the hard value where nothing is in the band: there the same arithmetic on hard operands agrees.
    decided = original(run, False)
    return torch.where(value == decided, hard_forward(hard, value), value.to(hard.dtype))
