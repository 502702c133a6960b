"""Where elements meet: sums and products are those of the shadows.

`all` is the product, `any` what is left of the product of the opposites. Which place of a row an element was put at is
another matter: it is put at one place only, so there `any` is the sum.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor

from ..._ops.surrogates import alias, finite_gradient_at_zero, follow, lazy_clone, number
from ..._rules.index import op_name
from ..interface import Func, Quick, Region
from ..rules import between_bools
from ..ties import told_of_wraps
from .either import left, tied
from .shadow import Shadow, Weights, as_value, call_with, carry, mark, quick_shadow, shadow, tensors
from .sources import quick_compare
from .terms import added, reduced
from .terms import product as product_of
from .wraps import on_line, put_on


def linear(region: Region, func: Func, args: tuple[Any, ...], kwargs: dict[str, Any]) -> Any:
    """`sum`, `cumsum`, `prod`, `diff` …: the function of the shadow."""
    x = args[0] if args else kwargs["input"]
    if x.dtype == torch.bool and func.__name__ == "diff":
        return between_bools(region, *args, **kwargs)
    out, own = func(*args, **kwargs), shadow(x)
    others = (*args[1:], *kwargs.values()) if len(args) + len(kwargs) > 1 else ()
    if beside := [y for y in others if y is not x and shadow(y) is not None]:  # (trapezoid, diff)
        region.lose(op_name(func), beside, "of what is summed alone a decision is followed there.")
    if own is None:
        line = on_line(func, args, kwargs)[1]
        return out if line is None else put_on(region, out, line)
    rest = {name: y for name, y in kwargs.items() if name not in ("input", "dtype")}
    make = lambda: finite_gradient_at_zero(func(own.value(), *args[1:], **rest))
    if out.is_floating_point():
        shown = own.shown(x, out.dtype)
        return func(shown, *args[1:], **rest)
    told_of_wraps(region, func, args, kwargs, out)
    found = reduced(region, func, x, own, args[1:], rest, out, make)
    if x.dtype == torch.bool and func.__name__ in ("sum", "cumsum") and x.numel() < _EXACT:
        found.exact = own.exact
    return carry(region, out, found)


_EXACT = 1 << 24
"""So far floats count without an error."""


def quick_sum(region: Region, func: Func, args: tuple[Any, ...]) -> Any:
    """A count of what a mask holds."""
    x, own = args[0], quick_shadow(args[0])
    if own is None or not (own.by_ones or x.dtype == torch.bool):
        return NotImplemented
    raw: Callable[[], Tensor] = lambda: func(own.value(), *args[1:])
    out, make = func(*args), lambda: finite_gradient_at_zero(raw())
    if x.dtype != torch.bool:
        return mark(region, out, reduced(region, func, x, own, args[1:], {}, out, make))
    shape = x.shape
    found = Shadow(make, None, own.exact if x.numel() < _EXACT else None, by_ones=True)
    found.terms, found.depth = lambda: added(lambda: own.parts(own.value().bool()), shape, *args[1:]), 1
    found.raw = raw
    return mark(region, out, found)


COMPARED = {"gt": (0.5, 1.0), "ge": (-0.5, 1.0), "lt": (-0.5, -1.0), "le": (0.5, -1.0)}
"""Where a count changes the answer to a comparison with an integer, relative to that, and in which direction."""


def quick_count(op: str) -> Quick:
    """A count compared with a number is a new ramp, between the integers on both sides."""
    offset, rising = COMPARED[op]

    def quick(region: Region, func: Func, args: tuple[Any, ...]) -> Any:
        n, k = args
        own, version = getattr(n, "_sll", None) or (None, None)
        if type(own) is not Shadow or own.knows_other() or own.within is not None or version != n._version:
            return quick_compare(region, op, func, args)
        if type(k) is not int or k + offset < 0 or n.dtype != torch.int64:  # (below 0 there is no count)
            return quick_compare(region, op, func, args)
        out, count, dtype = func(n, k), own.raw or own.value, own.exact or own.value().dtype
        flags = lazy_clone(out)

        def make() -> Tensor:
            value = count()
            distance = value.detach() - number(k + offset, dtype)
            near = distance.abs_().le_(number(0.5, dtype))  # (0 or 1; it is not the band of a decision)
            found: Tensor = value * near if rising > 0 else value * near.neg()
            found.data = flags.type(dtype)  # (in half the time of `to`)
            return found

        return mark(region, out, Shadow(make, None, dtype))

    return quick


def product(region: Region, func: Func, args: tuple[Any, ...], kwargs: dict[str, Any]) -> Any:
    """`matmul`, `einsum` …, several operands."""
    operands = tensors(args, kwargs)
    decided = [x for x in operands if shadow(x) is not None]
    if not decided:
        return func(*args, **kwargs)
    floats = [x for x in operands if x.is_floating_point()]
    dtype = floats[0].dtype if floats else torch.get_default_dtype()

    def as_they_are(x: Tensor) -> Tensor:
        own = shadow(x)
        return own.shown(x, dtype) if own is not None else x if x.is_floating_point() else x.to(dtype)

    if floats:
        func(*args, **kwargs)  # (most refuse to mix types: a region must not let pass what torch refuses)
        return call_with(func, args, kwargs, as_they_are)
    out = func(*args, **kwargs)
    told_of_wraps(region, func, args, kwargs, out)
    for x in decided:  # (of one type, as torch wants them)
        dtype = torch.promote_types(dtype, as_value(x).dtype)
    value = call_with(func, args, kwargs, lambda x: as_value(x).to(dtype))
    return carry(region, out, product_of(region, func, args, kwargs, out, decided, value))


def _flags(region: Region, x: Tensor) -> Tensor:
    return x if x.dtype == torch.bool else region.call(torch.ne, x, 0)


def _over(weights: Tensor, dim: Any, keepdim: bool, reduce: Callable[..., Tensor]) -> Tensor:
    dims = range(weights.dim()) if dim is None else [dim] if isinstance(dim, int) else dim
    for d in sorted((d % max(weights.dim(), 1) for d in dims), reverse=True) if weights.dim() else ():
        weights = reduce(weights, d, keepdim)
    return weights


def truth(some: bool) -> Callable[..., Any]:
    """`any` or `all`."""

    def rule(region: Region, func: Func, args: tuple[Any, ...], kwargs: dict[str, Any]) -> Any:
        x = args[0] if args else kwargs["input"]
        if shadow(x) is None:
            return func(*args, **kwargs)
        out = func(*args, **kwargs)
        own = shadow(_flags(region, x))
        if own is None:
            return out
        named = dict(zip(("input", "dim", "keepdim"), args), **kwargs)
        shape, owner = x.shape, own.owner if isinstance(own, Weights) else None

        def over(t: Tensor, reduce: Callable[..., Tensor]) -> Tensor:
            return _over(t, named.get("dim"), bool(named.get("keepdim")), reduce).reshape(out.shape)

        def make() -> Tensor:
            value = own.value() if some else 1 - own.value()
            found = 1 - over(1 - value, torch.prod)
            if owner is not None:  # places of one choice exclude each other
                of = owner().expand(shape)
                found = torch.where(over(of, torch.amin) == over(of, torch.amax), over(value, torch.sum), found)
            return found if some else 1 - found

        if func.__name__ in ("amax", "amin", "max", "min") and out.dtype != torch.bool:
            return out
        flags = alias(out)
        return carry(region, out, Shadow(lambda: follow(make(), lambda: flags.to(own.value().dtype))))

    return rule


some, every = truth(True), truth(False)


def best_value(region: Region, func: Func, args: tuple[Any, ...], kwargs: dict[str, Any]) -> Any:
    """`amax`, `amin`: of bools `any` and `all`, of integers what torch does for the shadow's value."""
    x = args[0] if args else kwargs["input"]
    own = shadow(x)
    if own is None:
        tied(region, op_name(func), x, args[1] if len(args) > 1 else kwargs.get("dim"))
        return func(*left(region, "", args), **kwargs)
    if x.dtype == torch.bool:
        return (some if func.__name__ == "amax" else every)(region, func, args, kwargs)
    out = func(*args, **kwargs)
    rest = {name: y for name, y in kwargs.items() if name != "input"}
    make = lambda: func(own.value(), *args[1:], **rest)
    return carry(region, out, reduced(region, func, x, own, args[1:], rest, out, make))
