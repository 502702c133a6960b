"""Which function is carried how."""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor

from ..._rules.index import in_place_forms, names_of, row_of, spellings
from ..._rules.table import ROWS
from ..outcomes.sources import LISTENERS
from ..rules import Rules
from .choosing import best, extremum, kth, order, unique
from .deciding import cast, compare, general, steps_at_integers
from .entries import carry, flips_of
from .every import count, flip_by_flip, ragged
from .lookups import getitem, lookup, one_hot
from .mapped import Func, elementwise
from .moving import found_in, leaves, mark_found, move, reduce_sum
from .passing import histogram, passed
from .sorted_values import compared, extreme, mark_median
from .uses import ASKS, COUNTS, tracked
from .writing import WRITES, copy, setitem

__all__ = ["RULES", "dispatch"]

RULES = Rules(WRITES)
TABLE = RULES.of


def dispatch(region: Any, func: Func, args: tuple[Any, ...], kwargs: dict[str, Any]) -> Any:
    rule = TABLE.get(func)
    if rule is None and func in ASKS:
        return count(region, func, args, kwargs) if func in COUNTS else func(*args, **kwargs)
    if region.selects and func not in _IN_PLACE and any(ragged(x) for x in leaves((args, kwargs))):
        return flip_by_flip(region, func, args, kwargs)
    if rule is not None:
        return rule(region, func, args, kwargs)
    return flip_by_flip(region, func, args, kwargs)


def divided(region: Any, func: Func, args: tuple[Any, ...], kwargs: dict[str, Any]) -> Any:
    return (elementwise if kwargs.get("rounding_mode") is None else general("div"))(region, func, args, kwargs)


def masked_select(region: Any, func: Func, args: tuple[Any, ...], kwargs: dict[str, Any]) -> Any:
    mask = args[1] if len(args) > 1 else kwargs["mask"]
    return (flip_by_flip if flips_of(mask) else move)(region, func, args, kwargs)


def where(region: Any, func: Func, args: tuple[Any, ...], kwargs: dict[str, Any]) -> Any:
    """With a mask alone: the places that it selects."""
    return (elementwise if len(args) + len(kwargs) > 1 else flip_by_flip)(region, func, args, kwargs)


def compare_sorted(rule: Callable[..., Any]) -> Callable[..., Any]:
    """A comparison; with what was found by sorting it asks for places."""

    def either(region: Any, func: Func, args: tuple[Any, ...], kwargs: dict[str, Any]) -> Any:
        if len(args) == 2 and region.linearizes("topk") and (found_in(args[0]) or found_in(args[1])):
            out = compared(region, func, *args)
            if out is not None:
                return out
        return rule(region, func, args, kwargs)

    return either


def values_found(rule: Callable[..., Any]) -> Callable[..., Any]:
    """A function that returns values and indices: the values are remembered as found by sorting."""

    def marked(region: Any, func: Func, args: tuple[Any, ...], kwargs: dict[str, Any]) -> Any:
        out = rule(region, func, args, kwargs)
        x = args[0]
        if not isinstance(out, Tensor) and tracked(x) and x.dim():
            named = dict(zip(_DIM_OF.get(func.__name__, ("dim",)), args[1:]), **kwargs)
            mark_found(region, out.values, x, out.indices.detach(), named.get("dim", -1))
        elif func.__name__ in ("median", "nanmedian") and isinstance(out, Tensor) and tracked(x) and x.numel():
            mark_median(region, out, x)
        return out

    return marked


def of_all(rule: Callable[..., Any]) -> Callable[..., Any]:
    """``x.max()`` is the first in order of all."""

    def one(region: Any, func: Func, args: tuple[Any, ...], kwargs: dict[str, Any]) -> Any:
        return (extreme if len(args) == 1 and not kwargs else rule)(region, func, args, kwargs)

    return one


_DIM_OF = {"topk": ("k", "dim"), "kthvalue": ("k", "dim")}


def reflected(op: str) -> Callable[..., Any]:
    """``2 // x``"""

    def rule(region: Any, func: Func, args: tuple[Any, ...], kwargs: dict[str, Any]) -> Any:
        x, other = args
        if not isinstance(other, Tensor):
            other = torch.tensor(other, dtype=x.dtype if x.is_floating_point() else None, device=x.device)
        return region.call(getattr(torch, op), other, x)

    return rule


def bincount(region: Any, func: Func, args: tuple[Any, ...], kwargs: dict[str, Any]) -> Any:
    named = dict(zip(("weights", "minlength"), args[1:]), **kwargs)
    x, weights, out = args[0], named.get("weights"), func(*args, **kwargs)
    found = flips_of(x)
    if found is None or found.layout.size * out.numel() > 2**22:
        return out if found is None else flip_by_flip(region, func, args, kwargs)
    bins = torch.arange(out.numel(), device=x.device)
    here = region.call(torch.eq, region.call(torch.Tensor.unsqueeze, x, -1), bins)
    if weights is not None:
        here = region.call(torch.mul, here, weights.unsqueeze(-1))
    total = flips_of(region.call(torch.sum, here, 0))
    return out if total is None else carry(region, out, total.layout, total.values.to(out.dtype))


RULE_OF: dict[str, Callable[..., Any]] = {
    **dict.fromkeys(("elementwise", "floats", "masked_fill"), elementwise),
    "where": where,
    **dict.fromkeys(("moves", "fills", "joins", "broadcasts", "copies", "atleast_1d"), move),
    "Tensor.__getitem__": getitem,
    "masked_select": masked_select,
    "F.embedding": lookup("index", "table", "padding_idx", "max_norm"),
    "torch.embedding": lookup("table", "index"),
    "index_select": lookup("table", "dim", "index"),
    "take": lookup("table", "index"),
    "one_hot": one_hot,
    **{op: best(op) for op in ("argmax", "argmin")},
    **{op[3:]: of_all(values_found(extremum(op))) for op in ("argmax", "argmin")},
    **{op: values_found(order(op)) for op in ("sort", "topk")},
    **{op: values_found(kth(op)) for op in ("kthvalue", "median")},
    "best_values": extreme,
    "unique": unique,
    "bincount": bincount,
    "searchsorted": passed,
    "histc": histogram,
    **dict.fromkeys(("sum", "mean", "count_nonzero"), reduce_sum),
    **dict.fromkeys(("writes", "masked_scatter"), flip_by_flip),
    "Tensor.__setitem__": setitem,
    "Tensor.copy_": copy,
    **{op: compare_sorted(compare(op, False, True)) for op in ("gt", "ge")},
    **{op: compare_sorted(compare(op, True, False)) for op in ("lt", "le", "signbit")},
    "sign": compare_sorted(compare("sign", -1.0, 1.0)),
    "angle": compare_sorted(compare("angle", math.pi, 0.0)),
    "round": steps_at_integers("round", 0.5, 0),
    "floor": steps_at_integers("floor", 0.0, -1),
    "ceil": steps_at_integers("ceil", 0.0, 0),
    "trunc": steps_at_integers("trunc", 0.0, 0, but_zero=True),
    **{op: general(op) for op in ("isclose", "heaviside", "copysign", "hardshrink", "threshold", "frac", "fmod")},
    **{op: general(op) for op in ("floor_divide", "remainder")},
    "div": divided,
    "casts": cast,
}
"""By name, family or op of a row in the table."""

RULES.fill(RULE_OF)
for _name in names_of("reflected"):
    for _func in spellings(_name):
        RULES.put(_func, reflected(row_of(_name).op), True)


def _added(op: str, functions: Any) -> None:
    """A source that somebody adds to those of the table."""
    RULES.add(general(op, derivative=False), functions)


for _row in ROWS:  # flips are imported late: somebody may have added some already
    if _row.family == "sources" and _row.op not in RULE_OF:
        _added(_row.op, (*_row.names.split(), *_row.functions))
LISTENERS.append(_added)
_IN_PLACE = {
    torch.Tensor.__setitem__,
    *(func for row in ROWS if row.in_place for name in row.names.split() for func in in_place_forms(name)),
}
"""What writes to its first operand."""
