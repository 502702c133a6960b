"""Which function is carried how."""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any

from ..._rules.index import NAMED
from ..._rules.table import ROWS
from ..interface import Func
from ..outcomes.sources import LISTENERS
from ..rules import Rules
from .deciding import cast, described, integers, source, step
from .entries import flips_of
from .every import flip_by_flip
from .lookups import getitem, lookup, one_hot
from .mapped import elementwise
from .moving import in_order, move, move_one, reduce_sum
from .orders import asks, best, compared, extreme, found_in, kth, order, unique
from .passing import bincount, histogram, passed
from .writing import WRITES, copy, setitem

__all__ = ["RULES"]

RULES = Rules(WRITES)
Rule = Callable[..., Any]


def either(ask: Callable[..., Any], one: Rule, other: Rule) -> Rule:
    """The rule `one` where the arguments of the call say so."""
    return lambda region, func, args, kwargs: (one if ask(*args, **kwargs) else other)(region, func, args, kwargs)


def comparison(op: str, low: Any, high: Any) -> Rule:
    """With what was found by sorting it asks for places."""
    ordinary = source(op, step(low, high))

    def rule(region: Any, func: Func, args: tuple[Any, ...], kwargs: dict[str, Any]) -> Any:
        if len(args) == 2 and (found_in(args[0]) or found_in(args[1])) and region.linearizes("topk"):
            out = compared(region, func, *args)
            if out is not None:
                return out
        return ordinary(region, func, args, kwargs)

    return rule


def general(op: str, derivative: bool = True) -> Rule:
    return source(op, described(op), derivative)


RULE_OF: dict[str, Rule] = {
    **dict.fromkeys(("elementwise", "floats", "masked_fill"), elementwise),
    "where": either(lambda *args, **kwargs: len(args) + len(kwargs) > 1, elementwise, flip_by_flip),
    "moves": move_one,
    **dict.fromkeys(("fills", "joins", "broadcasts", "atleast_1d"), move),
    **dict.fromkeys(("copies", *NAMED["in_order"]), in_order),
    "Tensor.__getitem__": getitem,
    "masked_select": either(lambda input, mask: flips_of(mask), flip_by_flip, move),
    "F.embedding": lookup("index", "table", "padding_idx", "max_norm"),
    "torch.embedding": lookup("table", "index"),
    "index_select": lookup("table", "dim", "index"),
    "take": lookup("table", "index"),
    "one_hot": one_hot,
    **{op: asks(best, op) for op in ("argmax", "argmin")},
    **{
        op: either(lambda *args, **kwargs: len(args) == 1 and not kwargs, extreme, asks(best, "arg" + op))
        for op in ("max", "min")
    },
    "sort": asks(order, "sort", ("dim", "descending")),
    "topk": asks(order, "topk", ("k", "dim", "largest", "sorted")),
    "kthvalue": asks(kth, "kthvalue", ("k", "dim")),
    "median": asks(kth, "median"),
    "best_values": extreme,
    "unique": asks(unique, "unique", ("sorted", "return_inverse", "return_counts", "dim")),
    "bincount": bincount,
    "searchsorted": passed,
    "histc": histogram,
    **dict.fromkeys(("sum", "mean", "count_nonzero"), reduce_sum),
    **dict.fromkeys(("writes", "masked_scatter"), flip_by_flip),
    "Tensor.__setitem__": setitem,
    "Tensor.copy_": copy,
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
