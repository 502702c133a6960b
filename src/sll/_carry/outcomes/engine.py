"""Outcomes as the engine of a region: which rule the rows of the table have, by name, family or op, and what a region
may ask of what is carried.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor

from ..._ops.env import dispatched, unwrapped
from ..._rules.index import ASKS, NAMED, REMEDIES, SOURCES, names_of, op_name, spellings
from .. import definitions
from ..interface import Again, Engine, Func, Region, Rule, attach, held, tensors
from ..rules import NUMBERS, lost_number
from ..writes import called
from . import (
    choosing,
    elementwise,
    lookups,
    orders,
    passed,
    questions,
    reductions,
    selections,
    shape,
    sources,
    where,
    writes,
)
from .carriers import (
    Blend,
    Choice,
    Expectation,
    Outcomes,
    Selection,
    bool_outcomes,
    carrier,
    discrete_carrier,
    outcomes,
    resolved,
    selection,
)
from .decisions import decided_by, shows
from .expectations import by_ones, expect, probability, undecided
from .registry import ALWAYS, DISCRETE, RULES, WRITES, fill
from .trees import decisions
from .whole import Integers, of_the_count, whole_of

_NO_RULE = "no rule carries a decision through it. Write it with float functions of x.float(): those have a derivative."


def others(region: Region, func: Func, args: tuple[Any, ...], kwargs: dict[str, Any]) -> Any:
    """A call without a rule: what is decided among its operands ends there, and that is reported."""
    lost = [x for x in tensors(args, kwargs) if discrete_carrier(x)]
    first: Any = next(iter((*args, *kwargs.values())), None)
    if lost and torch.is_grad_enabled() and not (func in ASKS and all(x is first for x in lost)):
        region.lose(op_name(func), lost, REMEDIES.get(op_name(func), _NO_RULE))
    if func in NUMBERS and first.is_floating_point() and (tree := outcomes(first)) is not None:
        lost_number(region, func, (tree.below, tree.above), lambda: ENGINE.undecided(first) > 0)
    return called(func, args, kwargs, lost)[0]


RULE_OF: dict[str, Rule] = {
    **definitions.rules(others, {"unique": orders.unique, "repeat_interleave": shape.move}),
    **{op: sources.decide(op, step) for op, step in sources.STEPS.items()},
    "casts": elementwise.to_integers,
    "floats": elementwise.cast,
    **{op: getattr(choosing, op) for op in ("argmax", "argmin")},
    "extremes": choosing.extremum,
    "best_values": reductions.extremes,
    **{op: getattr(orders, op) for op in ("sort", "topk", "kthvalue", "median")},
    "searchsorted": passed.passed,
    "histc": passed.histc,
    "elementwise": elementwise.elementwise,
    **{name: getattr(where, name) for name in ("where", "masked_fill", "masked_scatter")},
    **dict.fromkeys(("moves", "stacked_moves", "copies"), shape.move),
    "broadcasts": shape.broadcast,
    "fills": shape.fill,
    "joins": shape.join_tensors,
    "sums": reductions.linear,
    "products": reductions.product,
    "truths": reductions.truth,
    "Tensor.__getitem__": lookups.getitem,
    **dict.fromkeys(("index_select", "gather"), lookups.along),
    **dict.fromkeys(("F.embedding", "torch.embedding"), lookups.embedding),
    "one_hot": lookups.one_hot,
    **dict.fromkeys(("scatter", "scatter_add", "index_add", "index_fill", "index_copy"), writes.along),
    "index_put": writes.index_put,
    "Tensor.__setitem__": writes.setitem,
    "Tensor.copy_": WRITES.copy,  # floats written to integers are casts
    **dict.fromkeys(("nonzero", "argwhere"), selections.nonzero),
}
fill(RULE_OF)

_PLACED = ("choices", "extremes", "orders", "passed")
PLACES = {func for name in (*(n for f in _PLACED for n in names_of(f)), "mode") for func in spellings(name)}
"""They decide which element of a row, or of a table, it is: of numbers that were decided, as if they were not."""
_BLENDED = "of a float in which decisions have met only the blend is known. Count bools or integers: mask.sum() == k."


def _known(x: Tensor) -> bool:
    return getattr(x, "_sll", None) is not None and (held(x, Blend) is not None or carrier(x) is not None)


class _Outcomes(Engine):
    always = ALWAYS
    rules = RULES

    def dispatch(self, region: Any, func: Func, args: tuple[Any, ...], kwargs: dict[str, Any]) -> Any:
        if not torch.is_grad_enabled():
            return self._dispatched(region, func, args, kwargs)
        met = [x for x in tensors(args, kwargs) if x.is_floating_point() and _known(x)]
        if met and (out := of_the_count(region, func, args, kwargs)) is not NotImplemented:
            return out
        out = self._dispatched(region, func, args, kwargs)
        if met and func not in ASKS:
            whole = whole_of(region, func, args, kwargs)
            divides = op_name(func) == "div" and kwargs.get("rounding_mode") is None
            self._met(region, func, met, args[0] if func is Tensor.__setitem__ else out, whole, divides)
        return out

    def _met(self, region: Any, func: Func, operands: list[Tensor], out: Any, whole: Integers, smooth: bool) -> None:
        """Floats that carry something came together in `out`; or `out` says what is decided about such a float.
        `smooth`: the call decides nothing, though others of its function do.
        """
        blends = [blend for x in operands if (blend := held(x, Blend)) is not None]
        if not blends and func in PLACES:
            return self._approximate(region, func, sum(map(self.undecided, operands)))
        parts = [x for x in (out if isinstance(out, (tuple, list)) else (out,)) if isinstance(x, Tensor)]
        many: Callable[[], int] = lambda: sum(blend.open(self.undecided) for blend in blends)
        if not blends or all(x.is_floating_point() for x in parts) and (smooth or op_name(func) not in SOURCES):
            for x in parts:
                if x.is_floating_point() and x.requires_grad and getattr(x, "_sll", None) is None:
                    attach(region, x, Blend(operands, blends, *whole))
        elif func in DISCRETE:
            self._approximate(region, func, many())
        elif func.__name__ not in NAMED["guards"] and parts:
            region.lose(op_name(func), [], _BLENDED, undecided=lambda: many() > 0)

    def _approximate(self, region: Any, func: Func, many: int) -> None:
        if many:
            region.approximate(op_name(func), many, "blend")

    def _dispatched(self, region: Any, func: Func, args: tuple[Any, ...], kwargs: dict[str, Any]) -> Any:
        if region.selecting() and any(map(self.selected, tensors(args, kwargs))):
            found: Any = selections.rule_for(func)
            if found is not None:
                return found(region, func, args, kwargs)
        rule = RULES.get(func)
        if rule is not None:
            return rule(region, func, args, kwargs) if torch.is_grad_enabled() else func(*args, **kwargs)
        return others(region, func, args, kwargs)

    def decided(self, x: Any) -> bool:
        return discrete_carrier(x)

    def carried(self, x: Any) -> bool:
        return carrier(x) is not None

    def selected(self, x: Any) -> bool:
        return selection(x) is not None

    def undecided(self, x: Tensor) -> int:
        picked = selection(x)
        mask = picked.weights != 1 if picked is not None else undecided(x)
        if mask is None:
            return 0
        mask = unwrapped(mask)
        if dispatched():  # (a compiler traces: any may be)
            return x.numel()
        return int(mask.sum()) if mask.numel() != 1 else int(mask) * x.numel()

    def flows(self, x: Tensor) -> list[Tensor]:
        found = resolved(x)
        if isinstance(found, Expectation):
            return [found.value]
        if isinstance(found, (Choice, Selection)):
            return [found.weights]
        return [d.offset() for d in decisions(x)]

    def number(self, x: Tensor) -> tuple[Tensor, Again] | None:
        found = resolved(x)
        if x.dtype == torch.bool:
            return probability(x), _a_bool
        if isinstance(found, Expectation) and found.by_ones:
            return expect(x), _a_count
        return (
            (expect(x, ties=True), _next_to)
            if isinstance(found, Outcomes) and len(decisions(x)) == 1 and by_ones(x)
            else None
        )

    ask = staticmethod(questions.ask)
    given = staticmethod(questions.given)


def _a_bool(region: Region, x: Tensor, number: Tensor) -> None:
    attach(region, x, bool_outcomes(decided_by(number), x))


def _a_count(region: Region, x: Tensor, number: Tensor) -> None:
    attach(region, x, Expectation(number))


def _next_to(region: Region, x: Tensor, number: Tensor) -> None:
    """One of two integers next to each other."""
    below = number.detach().floor()
    sides = below.to(x.dtype), (below + 1).to(x.dtype)
    decision = decided_by(number - below)
    decision.side = shows(x, sides[1])
    attach(region, x, Outcomes(decision, *sides))


ENGINE = _Outcomes()
