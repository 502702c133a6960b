"""``torch.where(mask, a, b)`` and `masked_fill`: the shadow of the mask gets ``g (a - b)``."""

from __future__ import annotations

import functools
import math
from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor
from torch._guards import TracingContext

from ..._ops.apply import finite
from ..._ops.blend import taken
from ..._ops.env import eager, infinite
from ..._ops.openness import open_elements
from ..._ops.surrogates import alias, constant, follow, ordinary
from ..interface import Func, Region
from ..rules import of_condition
from .differences import added, by_difference, common, numbered, other_of
from .either import masked
from .shadow import Other, Shadow, Weights, carry, mark, quick_shadow, shadow
from .terms import Terms, made_of, one_choice


def quick_where(region: Region, func: Func, args: tuple[Any, ...]) -> Any:
    """``torch.where(mask, a, b)`` of ordinary floats and finite numbers, or of integers."""
    if len(args) != 3:
        return NotImplemented
    if (own := quick_shadow(args[0])) is None or not _ordinary(args[1:], own.exact):
        return _quick_integers(region, func, args)
    mask, value = args[0], own.value()
    return taken(lambda a, b: func(mask, a, b), value.detach(), value, *args[1:])


def quick_masked_fill(region: Region, func: Func, args: tuple[Any, ...]) -> Any:
    """``x.masked_fill(mask, value)``, the same."""
    if len(args) != 3:
        return NotImplemented
    x, mask, value = args
    return quick_where(region, lambda mask, a, b: func(b, mask, a), (mask, value, x))


def _quick_integers(region: Region, func: Func, args: tuple[Any, ...]) -> Any:
    """Of integers: what is taken keeps its gradient, and the mask gets what it makes to be another."""
    found = [quick_shadow(x) for x in args]
    mask, dtype = args[0], common(args, found)
    if dtype is None or [isinstance(x, Tensor) and x.dtype == torch.bool for x in args] != [True, False, False]:
        return NotImplemented
    known = [x for x, own in zip(args, found) if own is not None]
    if found[0] is not None and len(known) > 1 and all(own is None or own.knows_other() for own in found[1:]):
        return NotImplemented  # (there are candidates then)
    out = func(*args)
    if out.dtype is not torch.int64 and any(own is not None and _wraps(x, out) for x, own in zip(args, found)):
        return NotImplemented
    fixed = [None if own is not None else _wrapped(x, out, dtype) for x, own in zip(args, found)]

    def soft() -> Tensor:
        m, p, q = (x if own is None else own.value() for x, own in zip(fixed, found))
        return torch.lerp(q, p, m)  # type: ignore[arg-type]

    other: Other = None
    if found[0] is None and any(own.knows_other() for own in found if own is not None):
        other = other_of(func, args, {}, known)
    elif len(known) == 1 and found[0] is not None:
        left = func(mask.logical_not(), *args[1:])
        other = lambda _: left
    value = numbered(out, soft, dtype)
    return mark(region, out, made_of(region, torch.where, args, {}, out, known, value, other, dtype))


def _wraps(x: Any, out: Tensor) -> bool:
    """Whether `x` may be another number in the type of `out`: those without dimensions, and Python's, have no say in
    it.
    """
    return isinstance(x, Tensor) and x.dtype not in (torch.bool, out.dtype) and out.dtype != torch.int64


def _wrapped(x: Any, out: Tensor, dtype: torch.dtype) -> Tensor:
    """`x` as it is in the type of `out`, as a float."""
    if isinstance(x, Tensor):
        return (x.type(out.dtype) if _wraps(x, out) else x).type(dtype)
    return constant(float(x % 256 if out.dtype == torch.uint8 else x), dtype, out.device)


def _ordinary(sides: tuple[Any, ...], dtype: torch.dtype | None) -> bool:
    for x in sides:
        if ordinary(x):
            if x.dtype is not dtype or not x.dim():
                return False
        elif type(x) is not float or not -math.inf < x < math.inf:
            return False
    return True


def masked_fill(region: Region, func: Func, args: tuple[Any, ...], kwargs: dict[str, Any]) -> Any:
    named = dict(zip(("input", "mask", "value"), args), **kwargs)
    x, mask, value = named["input"], named["mask"], named["value"]
    value = value.to(x.dtype) if isinstance(value, Tensor) and shadow(value) is None else value
    return choose(region, mask, value, x, lambda a, b: func(b, mask, a))


def choose(region: Region, mask: Tensor, a: Any, b: Any, fill: Callable[[Any, Any], Tensor] | None = None) -> Any:
    """``torch.where(mask, a, b)``, or the `fill` of `b` with `a`, which has the strides and the type of `b`."""
    take: Callable[[Any, Any], Tensor] = fill or (lambda a, b: torch.where(mask, a, b))
    known = [x for x in (mask, a, b) if shadow(x) is not None]
    if not known:
        return take(a, b)
    sides = (b,) if fill else (a, b)
    if any(isinstance(x, complex) or isinstance(x, Tensor) and x.is_complex() for x in sides):
        return by_difference(region, torch.where, (mask, a, b), {}, take(a, b))
    if not any(isinstance(x, float) or isinstance(x, Tensor) and x.is_floating_point() for x in sides):
        return _integers(region, mask, a, b, take(a, b), known)
    own, dtype = shadow(mask), b.dtype if fill else torch.result_type(a, b)
    a, b = (y.shown(x, dtype) if (y := shadow(x)) is not None else x for x in (a, b))
    if own is None:
        return take(a, b)
    value = own.value()
    if eager():
        if infinite(a) or infinite(b):
            region.count_infinite("where" if fill is None else "masked_fill", open_elements(value.expand(mask.shape)))
        out = taken(take, value.detach() if own.exact else mask.to(value.dtype), value, a, b)
        return carry(region, out, masked(out, mask, own, a, b, take(a, b))) if isinstance(own, Weights) else out
    out, jump = take(a, b), torch.as_tensor(a - b, device=mask.device)
    jump = finite(jump.detach() if TracingContext.try_get() else jump)  # (AOTAutograd knows no second derivatives)
    return added(out, (value - value.detach()) * jump)  # (of the branches the program has the gradient already)


where = of_condition(choose)


def _integers(region: Region, mask: Tensor, a: Any, b: Any, out: Tensor, known: list[Tensor]) -> Tensor:
    """Of bools or integers: what is taken keeps its gradient, and the mask gets what it makes to be another."""
    args = mask, a, b
    found = [shadow(x) for x in args]
    if one_choice([own for own in found if own is not None]) is not None:
        return by_difference(region, torch.where, args, {}, out)  # type: ignore[no-any-return]
    dtype = functools.reduce(torch.promote_types, (own.value().dtype for own in found if own is not None))

    def value_of(x: Any, own: Shadow | None) -> Tensor:
        if own is None:
            return _wrapped(x, out, dtype)
        soft = own.value().to(dtype)
        exact = own.exact is not None and not _wraps(x, out)
        return soft if exact else follow(soft, lambda: _wrapped(x, out, dtype))

    m, p, q = map(value_of, args, found)
    numbers = alias(out)
    value = follow(torch.lerp(q, p, m).expand(out.shape), lambda: numbers.to(dtype))
    other, exact = other_of(torch.where, args, {}, known), dtype if eager() else None
    made = made_of(region, torch.where, args, {}, out, known, value, other, exact)
    if isinstance(made, Terms):
        made.chosen = found[0] is not None
    return carry(region, out, made)
