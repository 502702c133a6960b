"""Which function is carried how."""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor

from ..._rules.index import names_of
from .choosing import best, extremum, histogram, kth, order, passed, unique
from .deciding import cast, compare, general, steps_at_integers
from .entries import carry, flips_of
from .every import flip_by_flip, ragged
from .mapped import Func, elementwise
from .moving import carriers, found_in, leaves, move, reduce_sum
from .sorted_values import compared, extreme, mark_found, mark_median
from .uses import ASKS, spellings, tracked
from .writing import concerns, copy, in_place_of, kept, overwrite, setitem

__all__ = ["dispatch"]

TABLE: dict[Any, Callable[..., Any]] = {}


WRITE: set[Any] = {setitem}
"""The rules of functions that write to their operand."""


def dispatch(region: Any, func: Func, args: tuple[Any, ...], kwargs: dict[str, Any]) -> Any:
    rule = TABLE.get(func)
    if rule is None and func in ASKS:
        return func(*args, **kwargs)
    if region.selects and rule not in WRITE and any(ragged(x) for x in leaves((args, kwargs))):
        return flip_by_flip(region, func, args, kwargs)
    if rule is not None:
        return rule(region, func, args, kwargs)
    return flip_by_flip(region, func, args, kwargs)


def put(rule: Callable[..., Any], names: str, in_place: bool = False) -> None:
    for name in names.split():
        for func in spellings(name):
            TABLE[func] = spelled_out(rule)
        if in_place:
            bare = name.strip("_")
            twins = spellings(name)
            twin: Any = getattr(torch.Tensor, name, twins[0] if twins else None)
            for func in (*spellings(f"{name}_"), *spellings(f"__i{bare}__")):
                TABLE[func] = in_place_of(twin)
                WRITE.add(TABLE[func])


def spelled_out(rule: Callable[..., Any]) -> Callable[..., Any]:
    """``input=`` and ``out=`` and NumPy's spellings."""

    def handler(region: Any, func: Func, args: tuple[Any, ...], kwargs: dict[str, Any]) -> Any:
        if not kwargs:
            return rule(region, func, args, kwargs)
        if not args and "input" in kwargs and "condition" not in kwargs:
            args, kwargs = (kwargs["input"],), {name: x for name, x in kwargs.items() if name != "input"}
        kwargs = {{"axis": "dim", "keepdims": "keepdim"}.get(name, name): x for name, x in kwargs.items()}
        if kwargs.get("inplace") and concerns(args):
            before = (kept(region, args[0]), *args[1:])
            return overwrite(region, args[0], handler(region, func, before, kwargs | {"inplace": False}))
        out = kwargs.get("out")
        if out is None or not isinstance(out, Tensor):
            kwargs.pop("out", None) if out is None else None
            return rule(region, func, args, kwargs)
        if not concerns(args, kwargs):
            return func(*args, **kwargs)
        result = rule(region, func, args, {name: x for name, x in kwargs.items() if name != "out"})
        if out.shape != result.shape:
            out.resize_(result.shape)
        return overwrite(region, out, result)

    return handler


def divided(region: Any, func: Func, args: tuple[Any, ...], kwargs: dict[str, Any]) -> Any:
    return (elementwise if kwargs.get("rounding_mode") is None else general("div"))(region, func, args, kwargs)


def getitem(region: Any, func: Func, args: tuple[Any, ...], kwargs: dict[str, Any]) -> Any:
    carried = [x for x, _ in carriers(args[1], {})]
    return (flip_by_flip if carried else move)(region, func, args, kwargs)


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


for _op in ("floor_divide", "remainder"):
    for _func in spellings({"floor_divide": "__rfloordiv__", "remainder": "__rmod__"}[_op]):
        TABLE[_func] = reflected(_op)
put(elementwise, " ".join(names_of("elementwise")), in_place=True)
put(elementwise, "where masked_fill", in_place=True)
put(move, " ".join(name for family in ("moves", "fills", "joins", "broadcasts", "copies") for name in names_of(family)))
put(move, "atleast_1d")
put(getitem, "__getitem__ masked_select")
for _op in ("argmax", "argmin"):
    put(best(_op), _op)
    put(of_all(values_found(extremum(_op))), _op[3:])
put(values_found(order("sort")), "sort argsort")
put(values_found(order("topk")), "topk")
put(values_found(kth("kthvalue")), "kthvalue")
put(values_found(kth("median")), "median nanmedian")
put(extreme, "amax amin")
put(unique, "unique")
put(bincount, "bincount")
put(passed, "searchsorted bucketize")
put(reduce_sum, "sum mean count_nonzero")
put(flip_by_flip, "scatter scatter_add scatter_reduce index_put index_add index_fill index_copy masked_scatter", True)
put(histogram, "histc")
TABLE[torch.Tensor.__setitem__] = setitem
TABLE[torch.Tensor.copy_] = copy
for _names, _low, _high in (
    ("gt __gt__ greater", False, True),
    ("ge __ge__ greater_equal", False, True),
    ("lt __lt__ less", True, False),
    ("le __le__ less_equal", True, False),
    ("signbit", True, False),
    ("sign sgn", -1.0, 1.0),
    ("angle", math.pi, 0.0),
):
    put(compare_sorted(compare(_names.split()[0], _low, _high)), _names, in_place=True)
for _names, _shift, _low in (("round", 0.5, 0), ("floor", 0.0, -1), ("ceil", 0.0, 0)):
    put(steps_at_integers(_names, _shift, _low), _names, in_place=True)
put(steps_at_integers("trunc", 0.0, 0, but_zero=True), "trunc fix", in_place=True)
for _names in (
    "isclose", "heaviside", "copysign", "hardshrink", "threshold", "frac", "floor_divide __floordiv__",
    "remainder __mod__", "fmod",
):  # fmt: skip
    put(general(_names.split()[0]), _names, in_place=True)
for _getter in ("T", "mT", "H", "mH"):
    TABLE[getattr(torch.Tensor, _getter).__get__] = move
put(divided, "div divide", in_place=True)
put(elementwise, "float double half bfloat16")
put(cast, "long int short char byte to type type_as")
