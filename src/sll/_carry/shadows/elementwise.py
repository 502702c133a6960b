"""Functions of bools and integers, element by element.

*Linear* functions are applied to the shadows: ``a + b``, ``2 * n``, and among bools ``and`` is the product, ``not`` is
``1 - m``. Every other function passes on the difference that it makes (`differences.py`).
"""

from __future__ import annotations

import functools
from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor

from ..._ops.dtypes import NARROW
from ..._ops.openness import made_from
from ..._ops.surrogates import alias, kept, lazy_clone, number
from ..interface import Func, Region
from .differences import (
    as_floats,
    as_number,
    by_difference,
    common,
    numbered,
    of_one,
    other_of,
    quick_difference,
    quotient,
)
from .either import decided, either, mapped
from .quotients import QUOTIENTS, but_by_zero
from .shadow import Either, Shadow, Weights, Whole, carried, carry, mark, quick_shadow, shadow
from .steps import asked
from .terms import BY_ONES, made_of
from .wraps import PRODUCTS, Index, as_line, on_line, put_on

LINEAR = set(
    """add __add__ __radd__ sub subtract __sub__ __rsub__ rsub neg negative __neg__ positive __pos__ mul multiply
    __mul__ __rmul__ true_divide __truediv__ div divide __div__""".split()
)
"""Linear in every operand (a quotient in the first)."""
SUBTRACTS = {"sub", "subtract", "__sub__", "__rsub__", "rsub"}
ADDS = LINEAR - PRODUCTS - {"true_divide", "__truediv__", "div", "divide"}
KEEPS_WHOLE = set(
    """add __add__ __radd__ sub subtract __sub__ __rsub__ rsub neg negative __neg__ mul multiply __mul__ __rmul__ abs
    absolute __abs__ clamp clip clamp_min clamp_max minimum maximum relu relu6 hardtanh float double half bfloat16 to
    type type_as clone contiguous""".split()
)
"""Of whole numbers (and whole numbers) these make whole numbers."""
AND = {"__and__", "__rand__", "bitwise_and", "logical_and"}
OR = {"__or__", "__ror__", "bitwise_or", "logical_or"}
XOR = {"__xor__", "__rxor__", "bitwise_xor", "logical_xor"}
NOT = {"__invert__", "bitwise_not", "logical_not"}


CASTS = {"to", "type", "type_as", "float", "double", "half", "bfloat16", "clone", "contiguous", "cpu", "cuda"}


def elementwise(region: Region, func: Func, args: tuple[Any, ...], kwargs: dict[str, Any]) -> Any:
    found = [x for x in (*args, *kwargs.values()) if shadow(x) is not None]
    name = func.__name__
    if not found:
        return _of_floats(region, func, args, kwargs)
    if name in LINEAR and not kwargs:
        return _linear(region, func, args)
    out = func(*args, **kwargs)
    if not isinstance(out, Tensor):
        return out
    for x in found:
        if out is x:  # x.to(x.dtype), contiguous
            return x
    masks = not kwargs and all((x.dtype if isinstance(x, Tensor) else type(x)) in (torch.bool, bool) for x in args)
    if masks and name in POLYNOMIALS:
        return _logic(region, name, func, args, out)
    if len(found) == 1 and (out.is_floating_point() or out.dtype == found[0].dtype) and name in CASTS:
        own = shadow(found[0])
        assert own is not None
        if not out.is_floating_point():
            return carry(region, out, own)
        shown = own.shown(alias(out), out.dtype)
        return as_line(region, found[0], made_from(None if found[0].dtype == torch.bool else own, shown))
    return by_difference(region, func, args, kwargs, out)


def _of_floats(region: Region, func: Func, args: tuple[Any, ...], kwargs: dict[str, Any]) -> Any:
    """Floats are ordinary; that they are whole numbers is remembered for a cast to integers."""
    chosen = either(args, kwargs)
    if chosen is not None:
        return _of_either(region, func, args, kwargs, chosen)
    args, line = on_line(func, args, kwargs)
    out = func(*args, **kwargs)
    x = args[0] if args else None
    whole, name = carried(x), func.__name__
    asks = isinstance(out, Tensor) and (name in _ASKS or _is_bool(name, out))
    if asks and name in EQUALITY:  # (the same from both sides)
        return asked(region, func, (*args, *kwargs.values()), {}, out)
    if asks:
        return asked(region, func, args, kwargs, out)
    if out is x:
        return out
    if x is None or not isinstance(whole, Whole) or not _keeps_whole(name, out, (*args[1:], *kwargs.values())):
        return out if line is None else put_on(region, out, line)
    return carry(region, out, _mapped(whole, x, functools.partial(func, **kwargs), args[1:], name, line))


def _mapped(whole: Whole, x: Tensor, func: Func, rest: tuple[Any, ...], name: str, line: Any = None) -> Whole:
    """Of a function of whole numbers `x`."""

    def other(_: Tensor) -> Tensor | None:
        beyond = whole.other(x.detach())
        return None if beyond is None else func(beyond, *rest)

    found = Whole(other, whole.by_ones and name in BY_ONES, line, x)
    found.ends = rest if name == "clamp" and len(rest) == 2 and None not in rest else None
    return found


def _is_bool(name: str, out: Tensor) -> bool:
    """``x.to(torch.bool)``"""
    return out.dtype == torch.bool and name in CASTS


def _of_either(region: Region, func: Func, args: tuple[Any, ...], kwargs: dict[str, Any], x: Tensor) -> Any:
    out = func(*args, **kwargs)
    if not isinstance(out, Tensor) or out is x or out.is_complex():
        return out
    if out.is_floating_point():
        return mapped(region, func, args, kwargs, x, out)
    return decided(region, func, args, kwargs, x)


def _keeps_whole(name: str, out: Any, others: tuple[Any, ...]) -> bool:
    """Whether the function called `name` of whole numbers and `others` is made of whole numbers."""
    if name not in KEEPS_WHOLE or not isinstance(out, Tensor) or not out.is_floating_point():
        return False
    return not any(isinstance(y, Tensor) or isinstance(y, float) and not y.is_integer() for y in others)


def quick_whole(region: Region, func: Func, args: tuple[Any, ...]) -> Any:
    """Whole numbers and whole constants, ``x.round().clamp(-7, 7)``; integers."""
    x, whole = args[0], (getattr(args[0], "_sll", None) or (None, None))[0]
    if not isinstance(whole, Whole):
        return _quick_integer(region, func, args)
    if type(whole) is Either or x._sll[1] != x._version or whole.within is not None or whole.line is not None:
        return NotImplemented
    for y in args[1:]:
        if type(y) is not int and not (type(y) is float and y.is_integer()):
            return NotImplemented
    return mark(region, func(*args), _mapped(whole, x, func, args[1:], func.__name__))


# --- linear functions --------------------------------------------------------------------------------------------


def _linear(region: Region, func: Func, args: tuple[Any, ...]) -> Any:
    if func.__name__ in QUOTIENTS and shadow(args[1]) is not None:
        args = but_by_zero(args[0], args[1]), args[1]
        return by_difference(region, func, args, {}, func(*args))
    if func.__name__ in PRODUCTS and (args[0] is args[-1] or of_one(args)):
        return by_difference(region, func, args, {}, func(*args))
    floats = func.__name__ in QUOTIENTS or any(
        isinstance(x, float) or isinstance(x, Tensor) and (x.is_floating_point() or x.is_complex()) for x in args
    )
    if floats:
        if func.__name__ in SUBTRACTS and any(isinstance(x, Tensor) and x.dtype == torch.bool for x in args):
            return func(*args)  # torch refuses it
        if func.__name__ not in ADDS:  # (without a region nothing is saved for the mask: it may be written to)
            args = tuple(kept(x) if _writable(x) else x for x in args)
        if any(type(own if own.root is None else own.root[0]) is Index for own in map(shadow, args) if own is not None):
            return _of_floats(
                region, func, tuple(map(functools.partial(as_line, region), args, as_floats(args, again=True))), {}
            )
        return func(*as_floats(args))
    out = func(*args)
    if not isinstance(out, Tensor):
        return out
    if out.dtype in NARROW:  # (it may wrap around)
        return by_difference(region, func, args, {}, out)
    own = [shadow(x) for x in args]
    known = [x for x, found in zip(args, own) if found is not None]
    lazy = all(found is not None or not isinstance(x, Tensor) for x, found in zip(args, own))
    # (A product saves its operands.)
    fixed = [kept(x) if found is None and isinstance(x, Tensor) else x for x, found in zip(args, own)]
    make: Callable[[], Tensor] = lambda: func(*(x if found is None else found.value() for x, found in zip(fixed, own)))
    if out.dtype == torch.bool and func.__name__ in ADDS:  # True + True is True
        return _logic(region, "logical_or", func, args, out)
    number = make if lazy else make()
    return carry(region, out, made_of(region, func, args, {}, out, known, number, other_of(func, args, {}, known)))


def _writable(x: Any) -> bool:
    return isinstance(x, Tensor) and x.is_floating_point() and not (x.is_leaf and x.requires_grad)


# --- logic -------------------------------------------------------------------------------------------------------


def quick_logic(region: Region, func: Func, args: tuple[Any, ...]) -> Any:
    """Of masks whose shadows are floats of one type, and of fixed masks."""
    found = [quick_shadow(x) for x in args]
    own = found[0] or found[-1]
    if own is None or len(args) == 2 and args[0] is args[1]:
        return NotImplemented
    for x, known in zip(args, found):
        if type(x) is not Tensor or x.dtype != torch.bool:
            return quick_difference(region, func, args, func.__name__ in EQUALITY)
        if known.exact is not own.exact if known is not None else getattr(x, "_sll", None) is not None:
            return NotImplemented
    floats = own.exact
    assert floats is not None
    fixed = [x.type(floats) if known is None else None for x, known in zip(args, found)]
    polynomial, one = POLYNOMIALS[func.__name__], number(1.0, floats, args[0].device)
    make: Callable[[], Tensor] = lambda: polynomial(
        one, *(x if known is None else known.value() for x, known in zip(fixed, found))
    )
    return mark(region, func(*args), Shadow(make, None, floats))


EQUALITY = {"eq", "ne", "__eq__", "__ne__", "not_equal"}
_ASKS = EQUALITY | {"bool", "logical_not"}
"""What has no boundary of its own, and an answer where floats are whole numbers."""
POLYNOMIALS: dict[str, Callable[..., Tensor]] = {
    **dict.fromkeys(NOT, lambda one, p: one - p),
    **dict.fromkeys(AND, lambda one, p, q: p * q),
    **dict.fromkeys(OR, lambda one, p, q: torch.lerp(p, one, q)),
    **dict.fromkeys(XOR | {"ne", "__ne__", "not_equal"}, lambda one, p, q: torch.lerp(p, one - p, q)),
    **dict.fromkeys(("eq", "__eq__"), lambda one, p, q: torch.lerp(one - p, p, q)),
}
"""Of 0 and 1, and of 1."""


def quick_linear(region: Region, func: Func, args: tuple[Any, ...]) -> Any:
    """A sum, a difference or a product of masks, integers, floats and numbers."""
    found, name, whole = [quick_shadow(x) for x in args], func.__name__, True
    dtype, product = common(args, found, True), name in PRODUCTS
    if dtype is None or product and (args[0] is args[1] or of_one(args)):
        return NotImplemented
    if not product and all(isinstance(x, Tensor) and x.dtype == torch.bool for x in args):
        return NotImplemented  # (the sum of masks is a mask)
    operands = list(args)
    for i, x in enumerate(args):
        kind = x.dtype if isinstance(x, Tensor) else torch.get_default_dtype() if type(x) is float else None
        if kind is torch.bool and name in SUBTRACTS:
            return NotImplemented  # (torch refuses it)
        if found[i] is not None:
            continue
        if kind is not None and kind.is_floating_point:
            if kind is not dtype:
                return NotImplemented
            whole = False
        if not isinstance(x, Tensor):
            operands[i] = number(float(x), dtype, args[1 - i].device) if x else x  # (0.0 and -0.0 would be one number)
        elif kind is not dtype:
            operands[i] = x.type(dtype)
        elif product and _writable(x):  # (without a region nothing is saved for the mask: it may be written to)
            operands[i] = kept(x)
    make: Callable[[], Tensor] = lambda: func(*(x if own is None else own.value() for x, own in zip(operands, found)))
    if not whole:
        if any(type(own if own.root is None else own.root[0]) is Index for own in found if own is not None):
            return NotImplemented
        if len(found) == 2 and not (isinstance(args[0], Tensor) and isinstance(args[1], Tensor)):
            i = 0 if found[1] is None else 1
            as_number(args[i], found[i], found[i].value())  # type: ignore[arg-type, union-attr]
        return make()
    out, known = func(*args), [x for x, own in zip(args, found) if own is not None]
    if out.dtype in NARROW:
        return NotImplemented
    knows = any(own.knows_other() or x.dtype == torch.bool for x, own in zip(args, found) if own)
    other = other_of(func, args, {}, known) if knows and out.dtype != torch.bool else None
    return mark(region, out, made_of(region, func, args, {}, out, known, numbered(out, make, dtype), other, dtype))


def quick_quotient(region: Region, func: Func, args: tuple[Any, ...]) -> Any:
    """It decides nothing unless it is told to round, which takes a keyword."""
    for x in args:
        if getattr(x, "_sll", None) is not None:
            return NotImplemented
    return func(*args)


def _quick_integer(region: Region, func: Func, args: tuple[Any, ...]) -> Any:
    """Of an integer and numbers, ``i.clamp(0, 15)``. What it would be is worked out when somebody asks."""
    (n, *rest), own = args, quick_shadow(args[0])
    if own is None or own.numbers is None or any(type(y) is not int for y in rest):
        return quick_difference(region, func, args)
    out, then, dtype = func(*args), own.numbers, own.exact
    numbers = lazy_clone(out)

    @functools.cache
    def beyond() -> tuple[Tensor, Tensor]:
        before: Any = own.other(then)
        return before, func(before, *rest)

    def soft() -> Tensor:
        before, there = beyond()
        return own.value() * quotient(there, numbers, before, then, dtype)  # type: ignore[arg-type]

    value = numbered(out, soft, dtype)  # type: ignore[arg-type]
    made = made_of(region, func, args, {}, out, [n], value, lambda _: beyond()[1], dtype)
    made.numbers, made.ends = numbers, (rest[0], rest[1]) if func.__name__ == "clamp" and len(rest) == 2 else None
    return mark(region, out, made)


def _logic(region: Region, name: str, func: Func, args: tuple[Any, ...], out: Tensor) -> Any:
    """`out` are the masks that the polynomial called `name` makes of masks: the opposite of a choice is one, too."""
    found = [shadow(x) for x in args]
    if len(args) == 1 and isinstance(found[0], Weights) or len(args) == 2 and args[0] is args[1]:
        return by_difference(region, func, args, {}, out)
    known = [own for own in found if own is not None]
    # A mask that is fixed is kept as it is now: the program may write to it.
    fixed = [torch.as_tensor(x, device=out.device).clone() if own is None else None for x, own in zip(args, found)]

    def make() -> Tensor:
        dtype = torch.promote_types(known[0].value().dtype, known[-1].value().dtype)
        each = [(x if own is None else own.value()).to(dtype) for x, own in zip(fixed, found)]  # type: ignore[union-attr]
        return POLYNOMIALS[name](known[0].value().new_ones((), dtype=dtype), *each)

    return carry(region, out, Shadow(make, None, known[0].exact if known[0].exact is known[-1].exact else None))
