"""Flips as the engine of a region: which function is carried how, and what a region may ask."""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor

from ..._rules.index import ASKS, LIKE, NAMED, SIZES, in_place_forms, op_name, op_of
from ..._rules.table import ROWS
from .. import definitions
from ..found import best_value, sorted_places
from ..interface import Engine, Func, tensors
from ..outcomes.sources import LISTENERS
from ..rules import NUMBERS, Rules, lost_number
from . import questions
from .deciding import cast, described, integers, source, step
from .entries import flips_of
from .every import decided_again, differing, flip_by_flip, ragged
from .lookups import getitem, lookup, one_hot
from .mapped import elementwise
from .moving import in_order, move, move_one, reduce_sum
from .orders import asks, best, chosen_again, compared, kth, order, unique
from .passing import histogram, passed
from .writing import WRITES, setitem

RULES = Rules(WRITES)
Rule = Callable[..., Any]


def either(ask: Callable[..., Any], one: Rule, other: Rule) -> Rule:
    """The rule `one` where the arguments of the call say so."""
    return lambda region, func, args, kwargs: (one if ask(*args, **kwargs) else other)(region, func, args, kwargs)


def comparison(op: str, low: Any, high: Any) -> Rule:
    """With what was found by sorting it asks for places."""
    ordinary = source(op, step(low, high, op))

    def rule(region: Any, func: Func, args: tuple[Any, ...], kwargs: dict[str, Any]) -> Any:
        if len(args) == 2 and (sorted_places(args[0]) or sorted_places(args[1])) and region.linearizes("topk"):
            out = compared(region, func, *args)
            if out is not None:
                return out
        return ordinary(region, func, args, kwargs)

    return rule


def general(op: str, derivative: bool = True) -> Rule:
    return source(op, described(op), derivative)


extreme = either(
    lambda input, *args, **kwargs: input.is_floating_point() and flips_of(input) is None, best_value, flip_by_flip
)
"""`amax`, `amin`, `max()` and `min()`: continuous, but not of what was decided."""


def _alone(*args: Any, **kwargs: Any) -> bool:
    return len(args) == 1 and not kwargs


def _two(input: Tensor, dim: Any = None, *args: Any, other: Any = None, **kwargs: Any) -> bool:
    """``max(a, b)``"""
    return other is not None or isinstance(dim, Tensor)


RULE_OF: dict[str, Rule] = {
    **definitions.rules(flip_by_flip, {"repeat_interleave": move_one}, again=chosen_again),
    **dict.fromkeys(("elementwise", "floats", "masked_fill"), elementwise),
    "where": either(lambda *args, **kwargs: len(args) + len(kwargs) > 1, elementwise, flip_by_flip),
    "moves": move_one,
    **dict.fromkeys(("fills", "joins", "broadcasts", "stacked_moves"), move),
    **dict.fromkeys(("copies", *NAMED["in_order"]), in_order),
    "Tensor.__getitem__": getitem,
    "F.embedding": lookup("index", "table", "padding_idx", "max_norm"),
    "torch.embedding": lookup("table", "index"),
    "index_select": lookup("table", "dim", "index"),
    "one_hot": one_hot,
    **{op: asks(best, op) for op in ("argmax", "argmin")},
    **{op: either(_alone, extreme, either(_two, elementwise, asks(best, "arg" + op))) for op in ("max", "min")},
    "sort": asks(order, "sort", ("dim", "descending")),
    "topk": asks(order, "topk", ("k", "dim", "largest", "sorted")),
    "kthvalue": asks(kth, "kthvalue", ("k", "dim")),
    "median": asks(kth, "median"),
    "best_values": extreme,
    "unique": asks(unique, "unique", ("sorted", "return_inverse", "return_counts", "dim")),
    "searchsorted": chosen_again(passed),
    "histc": chosen_again(histogram),
    **dict.fromkeys(("sum", "mean"), reduce_sum),
    **dict.fromkeys(("writes", "masked_scatter", "nonzero", "argwhere"), flip_by_flip),
    "Tensor.__setitem__": setitem,
    "Tensor.copy_": WRITES.copy,
    **{op: comparison(op, False, True) for op in ("gt", "ge")},
    **{op: comparison(op, True, False) for op in ("lt", "le")},
    "signbit": source("signbit", step(True, False)),
    "sign": source("sign", step(-1.0, 1.0)),
    "angle": source("angle", step(math.pi, 0.0)),
    "round": source("round", integers("round", 0.5, 0)),
    "floor": source("floor", integers("floor", 0.0, -1)),
    "ceil": source("ceil", integers("ceil", 0.0, 0)),
    "trunc": source("trunc", integers("trunc", 0.0, None)),
    **{op: general(op) for op in ("isclose", "heaviside", "copysign", "hardshrink", "threshold", "frac", "fmod")},
    **{op: general(op) for op in ("floor_divide", "remainder")},
    "div": either(lambda *args, rounding_mode=None, **kwargs: rounding_mode, general("div"), elementwise),
    "casts": cast,
}
"""By name, family or op of a row in the table."""

RULES.fill(RULE_OF)


def _added(op: str, functions: Any) -> None:
    """A source that somebody adds to those of the table."""
    RULES.add(general(op, False), functions)


for _row in ROWS:  # flips are imported late: somebody may have added some already
    if _row.family == "sources" and _row.op not in RULE_OF:
        _added(_row.op, (*_row.names.split(), *_row.functions))
LISTENERS.append(_added)


_IN_PLACE = {torch.Tensor.__setitem__}
"""What writes to its first operand."""
_IN_PLACE.update(func for row in ROWS if row.in_place for name in row.names.split() for func in in_place_forms(name))


def _in_fewer_steps(rule: Rule) -> Any:
    """`rule`, for plain operands: nobody has written to them."""

    def quick(region: Any, func: Func, args: tuple[Any, ...]) -> Any:
        for x in args:
            pair = getattr(x, "_sll", None)
            if pair is not None and pair[1] != x._version:
                return NotImplemented
        return rule(region, func, args, {})

    return quick


class _Flips(Engine):
    again = True
    quick_on = {func: _in_fewer_steps(rule) for func, rule in RULES.plain.items()}
    always = RULES.always
    rules: dict[Any, Any] = RULES.of
    compiles = False

    def dispatch(self, region: Any, func: Func, args: tuple[Any, ...], kwargs: dict[str, Any]) -> Any:
        rule, loose = RULES.of.get(func), []
        if region.selecting() and func not in _IN_PLACE:
            loose = [x for x in tensors(args, kwargs) if self.selected(x)]
        if rule is None and func in ASKS and not (loose and func in LIKE):
            if func in SIZES and loose:
                why = "how many elements a mask selects has no derivative here. Use sum or mean of the selection."
                region.lose(op_name(func), loose, why)
            return func(*args, **kwargs)
        if func in NUMBERS and not loose and (x := (*args, *kwargs.values())[0]).is_floating_point():
            if (found := flips_of(x)) is not None:
                lost_number(region, func, (x, found.values), lambda: self.undecided(x) > 0)
            return func(*args, **kwargs)
        if rule is not None and loose and region.linearizes(op_of(func)):
            return decided_again(region, rule, func, args, kwargs)
        return (flip_by_flip if rule is None or loose else rule)(region, func, args, kwargs)

    def decided(self, x: Any) -> bool:
        return self.selected(x) or (flips_of(x) is not None and not x.is_floating_point())

    def carried(self, x: Any) -> bool:
        return self.selected(x) or flips_of(x) is not None

    def selected(self, x: Any) -> bool:
        return ragged(x) is not None

    def undecided(self, x: Tensor) -> int:
        found, loose = flips_of(x), ragged(x)
        if found is not None:
            return differing(x, found)
        return 0 if loose is None or not loose.of else max(x.numel(), 1)

    def flows(self, x: Tensor) -> list[Tensor]:
        found, loose = flips_of(x), ragged(x)
        decisions = [block.decision for block in found.layout.blocks] if found is not None else []
        decisions += {decision for decision, _ in loose.of} if loose is not None else ()
        return [decision.weight for decision in decisions]

    ask = staticmethod(questions.ask)
    given = staticmethod(questions.given)


ENGINE = _Flips()
