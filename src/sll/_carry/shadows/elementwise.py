"""Functions of bools and integers, element by element.

*Linear* functions are applied to the shadows: ``a + b``, ``2 * n``, and among bools ``and`` is the product, ``not`` is
``1 - m``. Every other function passes on the difference that it makes: with ``n'`` on the other side of the boundary,

    d F(n) / d shadow = (F(n') - F(n)) / (n' - n),

each operand in turn, the others as the program takes them. Where ``n'`` is not known (a count) it is what the function
makes of both neighbours.
"""

from __future__ import annotations

import functools
from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor
from torch.nn import Parameter

from ..._ops.apply import as_numbers, finite, is_finite
from ..._ops.env import compiling, tracked
from ..._ops.surrogates import alias, eager, follow, kept, number
from ..interface import Func, Region
from .quotients import QUOTIENTS, but_by_zero, not_zero
from .shadow import Mapped, Shadow, Weights, Whole, carried, carry, mark, quick_shadow, shadow

LINEAR = set(
    """add __add__ __radd__ sub subtract __sub__ __rsub__ rsub neg negative __neg__ positive __pos__ mul multiply
    __mul__ __rmul__ true_divide __truediv__ div divide __div__""".split()
)
"""Linear in every operand (a quotient in the first)."""
PRODUCTS = {"mul", "multiply", "__mul__", "__rmul__"}
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
        if out is x:  # x.to(x.dtype), contiguous (what `x` carries Dynamo does not find on `out`)
            return x
    if out.dtype == torch.bool and all(x.dtype == torch.bool for x in args if isinstance(x, Tensor)):
        flags = _logic(region, name, args, out)
        if flags is not None:
            return flags
    if len(found) == 1 and (out.is_floating_point() or out.dtype == found[0].dtype) and name in CASTS:
        own = shadow(found[0])
        assert own is not None
        return own.shown(alias(out), out.dtype) if out.is_floating_point() else carry(region, out, own)
    return by_difference(region, func, args, kwargs, out)


def _of_floats(region: Region, func: Func, args: tuple[Any, ...], kwargs: dict[str, Any]) -> Any:
    """Floats are ordinary; that they are whole numbers is remembered for a cast to integers."""
    out = func(*args, **kwargs)
    x = args[0] if args else None
    whole = carried(x)
    if not isinstance(whole, Whole):
        return out
    name = func.__name__
    if name in ("eq", "ne", "__eq__", "__ne__", "not_equal", "bool", "logical_not") and isinstance(out, Tensor):
        return _asked(region, func, args, kwargs, out, whole)
    if name not in KEEPS_WHOLE or not isinstance(out, Tensor) or not out.is_floating_point() or out is x:
        return out
    for y in (*args[1:], *kwargs.values()):
        if isinstance(y, Tensor) or isinstance(y, float) and not y.is_integer():
            return out
    return carry(region, out, Mapped(whole, x, lambda beyond: func(beyond, *args[1:], **kwargs)))


def quick_whole(region: Region, func: Func, args: tuple[Any, ...]) -> Any:
    """Whole numbers and whole constants, ``x.round().clamp(-7, 7)``."""
    x, whole = args[0], getattr(args[0], "_sll", (None, None))[0]
    if not isinstance(whole, Whole) or x._sll[1] != x._version or whole.within is not None:
        return NotImplemented
    for y in args[1:]:
        if type(y) is not int and not (type(y) is float and y.is_integer()):
            return NotImplemented
    return mark(region, func(*args), Mapped(whole, x, lambda beyond: func(beyond, *args[1:])))


def _asked(region: Region, func: Func, args: Any, kwargs: Any, out: Tensor, whole: Whole) -> Tensor:
    """A question about whole numbers: does the answer change on the other side?"""
    x = args[0]
    beyond = whole.other(x)
    if beyond is None or not tracked(x) or any(tracked(y) for y in args[1:]):
        return out
    with torch.no_grad():
        change = _quotient(func(beyond, *args[1:], **kwargs), out, beyond, x, x.dtype)
        flags = alias(out)
    return carry(region, out, Shadow.of(follow(x * change, lambda: flags.to(x.dtype))))


# --- linear functions --------------------------------------------------------------------------------------------


def _linear(region: Region, func: Func, args: tuple[Any, ...]) -> Any:
    if func.__name__ in QUOTIENTS and shadow(args[1]) is not None:
        args = but_by_zero(args[0], args[1]), args[1]
        return by_difference(region, func, args, {}, func(*args))
    if args[0] is args[-1] and func.__name__ in PRODUCTS:
        return by_difference(region, func, args, {}, func(*args))
    floats = func.__name__ in QUOTIENTS or any(
        isinstance(x, float) or isinstance(x, Tensor) and (x.is_floating_point() or x.is_complex()) for x in args
    )
    if floats:
        if func.__name__ in SUBTRACTS and any(isinstance(x, Tensor) and x.dtype == torch.bool for x in args):
            return func(*args)  # torch refuses it
        if func.__name__ not in ADDS:  # (without a region nothing is saved for the mask: it may be written to)
            args = tuple(kept(x) if _writable(x) else x for x in args)
        return func(*_as_floats(args))
    out = func(*args)
    if not isinstance(out, Tensor):
        return out
    own = [shadow(x) for x in args]
    known = [x for x, found in zip(args, own) if found is not None]
    lazy = all(found is not None or not isinstance(x, Tensor) for x, found in zip(args, own))
    make: Callable[[], Tensor] = lambda: func(*(x if found is None else found.value() for x, found in zip(args, own)))
    if len(known) == 1 and isinstance(chosen := shadow(known[0]), Weights):
        value = None if chosen.number is None else make if lazy else Shadow.of(make()).value
        labels = _relabelled(func, args, {}, known[0], chosen)
        return carry(region, out, chosen.of_labels(labels, _spread(out.dim()), value))
    return carry(region, out, _made(make, lazy, _other(func, args, {}, known)))


def _writable(x: Any) -> bool:
    return isinstance(x, Tensor) and x.is_floating_point() and not (x.is_leaf and x.requires_grad)


def _made(make: Callable[[], Tensor], lazy: bool, other: Any, exact: torch.dtype | None = None) -> Shadow:
    """At once where it depends on tensors that the program may write to."""
    if lazy and not compiling():
        return Shadow(make, other, exact)
    return Shadow.of(make(), other)


def _as_floats(args: tuple[Any, ...], only: set[int] | None = None) -> list[Any]:
    """The operands (`only`: those) as floats of the type that the result has, with the gradients of their shadows."""
    floats = [x for x in args if isinstance(x, Tensor) and (x.is_floating_point() or x.is_complex())]
    # (Those without a dimension have no say where others have one.)
    dtypes = [x.dtype for x in floats if x.dim()] or [x.dtype for x in floats] or [torch.get_default_dtype()]
    dtype = functools.reduce(torch.promote_types, dtypes)
    dtype = dtype.to_real() if dtype.is_complex else dtype
    shown: dict[int, Tensor] = {}
    out: list[Any] = []
    for x in args:
        own = shadow(x) if only is None or id(x) in only else None
        if own is not None and id(x) not in shown:
            value = own.value() if own.exact is dtype else None
            shown[id(x)] = own.shown(x, dtype) if value is None else value
        out.append(x if own is None else shown[id(x)])
    return out


def _other(func: Func, args: tuple[Any, ...], kwargs: dict[str, Any], known: list[Tensor]) -> Any:
    """The function of one operand that is on its other side; None for several."""
    if len({id(x) for x in known}) != 1:
        return None
    x = known[0]
    own, then = shadow(x), x.detach().clone()
    assert own is not None
    rest = [None if y is x else y.clone() if isinstance(y, Tensor) and not y.requires_grad else y for y in args]

    def other(_: Tensor) -> Tensor | None:
        beyond = own.other(then)
        if beyond is None:
            return None
        made: Tensor = func(*(beyond if y is None and old is x else y for y, old in zip(rest, args)), **kwargs)
        return made

    return other


# --- logic -------------------------------------------------------------------------------------------------------


def quick_logic(region: Region, func: Func, args: tuple[Any, ...]) -> Any:
    """Of masks whose shadows are floats of one type, and of fixed masks."""
    found = [quick_shadow(x) for x in args]
    own = found[0] or found[-1]
    if own is None or len(args) == 2 and args[0] is args[1]:
        return NotImplemented
    for x, known in zip(args, found):
        if type(x) is not Tensor or x.dtype != torch.bool:
            return NotImplemented
        if known.exact is not own.exact if known is not None else getattr(x, "_sll", None) is not None:
            return NotImplemented
    floats = own.exact
    assert floats is not None
    fixed = [x.to(floats) if known is None else None for x, known in zip(args, found)]
    polynomial, one = POLYNOMIALS[func.__name__], number(1.0, floats)
    make: Callable[[], Tensor] = lambda: polynomial(
        one, *(x if known is None else known.value() for x, known in zip(fixed, found))
    )
    return mark(region, func(*args), Shadow(make, None, floats))


POLYNOMIALS: dict[str, Callable[..., Tensor]] = {
    **dict.fromkeys(NOT, lambda one, p: one - p),
    **dict.fromkeys(AND, lambda one, p, q: p * q),
    **dict.fromkeys(OR, lambda one, p, q: torch.lerp(p, one, q)),
    **dict.fromkeys(XOR | {"ne", "__ne__", "not_equal"}, lambda one, p, q: torch.lerp(p, one - p, q)),
    **dict.fromkeys(("eq", "__eq__"), lambda one, p, q: torch.lerp(one - p, p, q)),
}
"""Of 0 and 1, and of 1."""


def quick_linear(region: Region, func: Func, args: tuple[Any, ...]) -> Any:
    """A sum, a difference or a product of a mask and a float."""
    if len(args) != 2:
        return NotImplemented
    found = [quick_shadow(x) for x in args]
    own = found[0] or found[1]
    if own is None or func.__name__ not in LINEAR:
        return NotImplemented
    for x, known in zip(args, found):
        if known is not None:  # (torch subtracts no bool)
            ordinary = known.exact is own.exact and (x.dtype != torch.bool or func.__name__ not in SUBTRACTS)
        elif isinstance(x, Tensor):
            ordinary = x.dtype is own.exact and x.dim() > 0 and (type(x) is Tensor or type(x) is Parameter)
        else:
            ordinary = type(x) is float and own.exact is torch.get_default_dtype()
        if not ordinary:
            return NotImplemented
    if found[0] is not None and found[1] is not None:
        return NotImplemented  # (a result of integers, which carries something)
    # (Without a region nothing is saved for the mask: it may be written to.)
    keep = func.__name__ in PRODUCTS
    return func(
        *(
            kept(x) if known is None and keep and _writable(x) else x if known is None else known.value()
            for x, known in zip(args, found)
        )
    )


def _logic(region: Region, name: str, args: tuple[Any, ...], out: Tensor) -> Tensor | None:
    own = shadow(args[0])
    if name in NOT and own is not None:
        if isinstance(own, Weights):
            return carry(region, out, own.of_labels(own.labels.logical_not()))
        opposite = own
        return carry(region, out, _made(lambda: 1 - opposite.value(), True, None, own.exact))
    if name not in AND | OR | XOR or len(args) != 2:
        return None
    a, b = args
    if a is b:
        return out if name in XOR or own is None else carry(region, out, own)
    make = _pair(name, a, b)
    p, q = shadow(a), shadow(b)
    exact = p.exact if p is not None and q is not None and p.exact is q.exact else None
    return carry(region, out, _made(make, p is not None and q is not None, None, exact))


def _pair(name: str, a: Any, b: Any) -> Callable[[], Tensor]:
    own = [shadow(x) for x in (a, b)]
    like = next(x for x in (a, b) if shadow(x) is not None)
    # A mask that is fixed is kept as it is now: the program may write to it.
    fixed = [torch.as_tensor(x, device=like.device).clone() if found is None else None for x, found in zip((a, b), own)]

    def make() -> Tensor:
        known = [found.value() for found in own if found is not None]
        dtype = torch.promote_types(known[0].dtype, known[-1].dtype)
        p, q = ((x if found is None else found.value()).to(dtype) for x, found in zip(fixed, own))  # type: ignore[union-attr]
        return POLYNOMIALS[name](known[0].new_ones((), dtype=dtype), p, q)

    return make


# --- differences -------------------------------------------------------------------------------------------------


def by_difference(region: Region, func: Func, args: tuple[Any, ...], kwargs: dict[str, Any], out: Any) -> Any:
    """`out` is the result; each decided operand gets the difference that it makes."""
    if not isinstance(out, Tensor):
        return out
    operands = {id(x): x for x in (*args, *kwargs.values()) if shadow(x) is not None}
    if len(operands) == 1 and not out.is_floating_point():
        (x,) = operands.values()
        own = shadow(x)
        if isinstance(own, Weights):
            labels = _relabelled(func, args, kwargs, x, own)
            return carry(region, out, own.of_labels(labels, _spread(out.dim())))
    parts = {key: _share(func, args, kwargs, out, x) for key, x in operands.items()}
    soft = total([part for part in parts.values() if part is not None])
    if out.is_floating_point():
        unknown = {key for key, part in parts.items() if part is None}
        if unknown:  # the derivative of the function of floats
            floats = _as_floats(args, unknown)
            if func.__name__ in QUOTIENTS and id(args[1]) in unknown:
                floats[1] = but_by_zero(floats[1], args[1])
            out = func(*floats, **kwargs)
        return out if soft is None else added(out, soft)
    assert soft is not None
    if eager() and soft.shape == out.shape:
        value, soft.data = soft, out.to(soft.dtype)
    else:
        numbers, dtype = alias(out), soft.dtype
        value = follow(soft.expand(out.shape), lambda: numbers.to(dtype))
    other = None if out.dtype == torch.bool else _other(func, args, kwargs, list(operands.values()))
    return carry(region, out, Shadow.of(value, other))


def total(parts: list[Tensor]) -> Tensor | None:
    """Their sum; None if there are none."""
    if not parts:
        return None
    found, *rest = parts
    for part in rest:
        found = found + part
    return found


def _spread(dims: int) -> Callable[[Tensor], Tensor]:
    """Weights in as many dimensions as the result, and one more."""
    return lambda weights: weights.reshape(*(1,) * (dims + 1 - weights.dim()), *weights.shape)


def added(out: Tensor, soft: Tensor) -> Tensor:
    """`out`, which nobody else has, with its own gradient and that of `soft`."""
    soft = soft if soft.shape == out.shape else soft.expand(out.shape)
    soft = soft if soft.dtype == out.dtype else soft.to(out.dtype)
    if not eager() or not out.requires_grad:
        return follow(soft + out if out.requires_grad or not eager() else soft, out.detach)
    shown = soft + out
    shown.data = out.detach()
    return shown


def _relabelled(func: Func, args: tuple[Any, ...], kwargs: dict[str, Any], x: Tensor, own: Weights) -> Tensor:
    """The function of every candidate, in a last dimension of its own."""

    def widened(y: Any) -> Any:
        if y is x:
            return own.labels.to(x.dtype)
        return y.detach().unsqueeze(-1) if isinstance(y, Tensor) and y.dim() else y

    with torch.no_grad():
        return func(*map(widened, args), **{name: widened(y) for name, y in kwargs.items()})  # type: ignore[no-any-return]


def _share(func: Func, args: tuple[Any, ...], kwargs: dict[str, Any], out: Tensor, x: Tensor) -> Tensor | None:
    """What the shadow of `x` adds: a tensor that has the right gradient, whatever its value. None: not known, and `out`
    is a float, which has a derivative of its own.
    """
    own = shadow(x)
    assert own is not None
    if isinstance(own, Weights):
        labels = _relabelled(func, args, kwargs, x, own)
        weights = own.weights()
        return (weights * finite(labels.to(weights.dtype))).sum(-1)

    def at(y: Tensor) -> Tensor:
        y = not_zero(func, y, x) if x is args[-1] else y
        swap: Callable[[Any], Any] = lambda z: y if z is x else z.detach() if isinstance(z, Tensor) else z
        return func(*map(swap, args), **{name: swap(z) for name, z in kwargs.items()})  # type: ignore[no-any-return]

    beyond = own.other(x)
    if beyond is not None:
        return own.value() * _quotient(at(beyond), out, beyond, x, own.value().dtype)
    if out.is_floating_point():
        return None
    low, high = neighbours(x)
    if out.dtype == torch.bool:
        return own.value() * (at(high).to(torch.int8) - at(low).to(torch.int8))
    return own.value() * _quotient(at(high), at(low), high, low, own.value().dtype)


def neighbours(n: Tensor) -> tuple[Tensor, Tensor]:
    """The integers next to `n`; a count of 0 has none below."""
    n = n.long() if n.dtype in (torch.uint8, torch.int8, torch.bool) else n
    return torch.where(n == 0, n, n - 1), n + 1


def _quotient(high: Tensor, low: Tensor, to: Tensor, at: Tensor, dtype: torch.dtype) -> Tensor:
    """``(high - low) / (to - at)``, 0 where nothing lies between."""
    high, low, to, at = (as_numbers(x.detach(), dtype) for x in (high, low, to, at))
    step, change = to - at, high - low
    if compiling():
        return torch.where((step != 0) & is_finite(change), change / step, 0)
    return change.div_(step).nan_to_num_(0.0, 0.0, 0.0)
