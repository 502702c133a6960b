"""Floats that are one of two numbers: what was written where something was chosen, ``zeros.scatter(-1, index, 1.0)``.

To the program they are ordinary floats, and have an ordinary gradient. Whoever decides on them (``mask.bool()``,
``mask == 0``, ``mask > 0``, ``mask.long()``) asks which of the two it is: no boundary is near, and the answer changes
with the choice.
"""

from __future__ import annotations

import functools
from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor

from ..._ops.apply import finite
from ..._ops.blend import TAKEN
from ..._ops.env import dispatched, eager, tracked
from ..._ops.openness import just_decided, open_behind, open_elements
from ..._ops.surrogates import alias, follow, number
from ..interface import Func, Region
from .shadow import Either, Shadow, call_with, carried, carry, shadow, untouched


def is_either(x: Tensor) -> bool:
    """(Most tensors carry nothing, which is quickly seen.)"""
    return getattr(x, "_sll", None) is not None and type(carried(x)) is Either


def either(args: tuple[Any, ...], kwargs: dict[str, Any]) -> Tensor | None:
    """The operand that is one of two numbers, if it is the only one, and all others are fixed."""
    found = None
    for x in (*args, *kwargs.values()) if kwargs else args:
        if not isinstance(x, Tensor) or x is found:
            continue
        if is_either(x):
            if found is not None:
                return None
            found = x
        elif tracked(x) or shadow(x) is not None:
            return None
    return found


def left(region: Region, op: str, args: tuple[Any, ...]) -> tuple[Any, ...]:
    """The arguments of a choice among `args[0]`. Where an earlier choice has masked something there, its k largest
    numbers are continuous: what that choice takes from one it gives to another. So they have no gradient of the mask.
    Which places they have is not told from it, and the report says so (`op`, if anybody wants the places).
    """
    x: Any = args[0] if args else None
    own = carried(x)
    if type(own) is Either and own.plain is not None:
        if op and open_elements(own.share.value()):
            region.approximate(op, own.plain.numel(), "again")
        return (own.plain, *args[1:])
    node: Any = getattr(x, "grad_fn", None)
    if type(node) is TAKEN and open_behind(node.next_functions[1][0]):
        region.approximate(op or "where", x.numel(), "again")
    return args


def tied(region: Region, op: str, x: Any, dim: Any = None) -> None:
    """The largest of floats that were decided are often equal. What torch has for them is not what one of them changes
    alone, and the report says so. (Where is not looked for in a pooled tensor: `dim` is False.)
    """
    if not isinstance(x, Tensor) or not x.requires_grad or not eager() or not just_decided(x):
        return
    if dim is not False:
        fixed, dims = x.detach(), () if dim is None else dim
        best = (torch.amin if "min" in op else torch.amax)(fixed, dims, keepdim=True)
        if (fixed == best).sum() == best.numel():
            return
    region.approximate(op, x.numel(), "equal")


def decided(region: Region, func: Func, args: tuple[Any, ...], kwargs: dict[str, Any], x: Tensor) -> Any:
    """What `func` decides on such numbers `x`: it has the difference to what it says of the others, and what it decides
    on numbers that may change a little.
    """
    own = carried(x)
    assert isinstance(own, Either)

    at: Callable[[Tensor], Any] = lambda y: _with(func, args, kwargs, x, y)
    with torch.no_grad():
        out, beyond = at(x.detach()), own.other(x.detach())
        if beyond is None or not isinstance(out, Tensor) or out.is_complex():
            return at(x)
        there, share = at(beyond), own.share
        dtype = torch.promote_types(share.value().dtype, out.dtype) if out.is_floating_point() else share.value().dtype
        change = finite(there.to(dtype) - out.to(dtype))
        numbers = alias(out)
    soft = (share.value() * change).expand(out.shape)
    if own.plain is not None:
        found = _with(functools.partial(region.call, func), args, kwargs, x, own.plain)
        known = shadow(found)
        more = found if found.is_floating_point() else None if known is None else known.value()
        soft = soft if more is None else soft + more
    soft = follow(soft.to(dtype), lambda: numbers.to(dtype))
    if out.is_floating_point():
        shown = soft if dtype == out.dtype else soft.to(out.dtype)
        return carry(region, shown, Either(_spread(share, out.shape), lambda _: there))
    return carry(region, out, Shadow(soft, None if out.dtype == torch.bool else lambda _: there))


def mapped(region: Region, func: Func, args: tuple[Any, ...], kwargs: dict[str, Any], x: Tensor, out: Tensor) -> Tensor:
    """The float `out` that `func` makes of such numbers: it is one of two, too."""
    own = carried(x)
    assert isinstance(own, Either)
    same = untouched(*args, *kwargs.values())

    def other(_: Tensor) -> Tensor | None:
        beyond = own.other(x.detach()) if same() else None
        return None if beyond is None else _with(func, args, kwargs, x, beyond)

    plain = None if own.plain is None else _with(func, args, kwargs, x, own.plain)
    return carry(region, out, Either(_spread(own.share, out.shape), other, plain))


def _with(func: Func, args: tuple[Any, ...], kwargs: dict[str, Any], x: Tensor, y: Tensor) -> Any:
    """The call, with `y` for `x`."""
    return call_with(func, args, kwargs, lambda z: y if z is x else z)


def _spread(share: Shadow, shape: torch.Size) -> Shadow:
    return Shadow(lambda: share.value().expand(shape), shared=True)


def written(out: Tensor, old: Tensor, new: Any, weight: Any, plain: Tensor | None) -> Either:
    """`out` is `new` where something was written with the weight ``weight()``, and `old` elsewhere."""
    old, same, numbers = old.detach(), untouched(old), alias(out)
    numbered = type(new) is float and out.is_cpu and not dispatched()  # (in a tenth of the time)
    new = number(new, out.dtype) if numbered else torch.as_tensor(new, dtype=out.dtype, device=out.device).detach()

    def other(q: Tensor) -> Tensor | None:
        return torch.where(q == new, old, new) if same() else None

    return Either(Shadow(lambda: _left(numbers == new, weight())), other, plain)


def masked(out: Tensor, mask: Tensor, own: Shadow, a: Any, b: Any, plain: Tensor) -> Either:
    """`out` is ``where(mask, a, b)`` of a mask that is a choice."""
    same = untouched(mask, a, b)

    def other(_: Tensor) -> Tensor | None:
        return torch.where(mask, b, a).detach() if same() else None

    share = Shadow(lambda: _left(own.value().detach() > 0.5, own.value()))
    return Either(_spread(share, out.shape), other, plain if plain.requires_grad else None)


def _left(there: Tensor, weight: Tensor) -> Tensor:
    return torch.where(there, -weight, weight)
