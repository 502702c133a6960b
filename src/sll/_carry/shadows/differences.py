"""What a function of bools or integers makes of a decision: the difference to what it makes of the other side.

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

from ..._ops.apply import finite
from ..._ops.dtypes import NARROW
from ..._ops.surrogates import alias, eager, follow, lazy_clone, number, ordinary
from ..interface import Func, Region
from .quotients import QUOTIENTS, but_by_zero, not_zero
from .shadow import Other, Shadow, Weights, carry, mark, quick_shadow, root_of, shadow
from .terms import made_of


def by_difference(region: Region, func: Func, args: tuple[Any, ...], kwargs: dict[str, Any], out: Any) -> Any:
    """`out` is the result; each decided operand gets the difference that it makes."""
    if not isinstance(out, Tensor):
        return out
    operands = {id(x): x for x in (*args, *kwargs.values()) if shadow(x) is not None}
    if len(operands) == 1 and not out.is_floating_point():
        (x,) = operands.values()
        own = shadow(x)
        if isinstance(own, Weights):
            labels = relabelled(func, args, kwargs, x, own)
            return carry(region, out, own.of_labels(labels, spread(out.dim())))
    root = root_of(list(operands.values()), out.shape) if len(operands) > 1 else None
    if root is None:
        parts = {key: _share(func, args, kwargs, out, x) for key, x in operands.items()}
    else:
        parts = {0: _together(func, args, kwargs, out, root, operands)}
    known = [part for part in parts.values() if part is not None]
    soft = total(known) if known else None
    if out.is_floating_point():
        unknown = {key for key, part in parts.items() if part is None}
        if unknown:  # the derivative of the function of floats
            floats = as_floats(args, unknown)
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
    decided, exact = list(operands.values()), value.dtype if eager() else None
    other = None if out.dtype == torch.bool else other_of(func, args, kwargs, decided)
    return carry(region, out, made_of(region, func, args, kwargs, out, decided, value, other, exact))


def of_one(args: tuple[Any, ...]) -> bool:
    """Whether both operands are made of one decision, and not masks. (Then they change together.)"""
    known = [x for x in args if shadow(x) is not None]
    if len(known) < 2 or all(x.dtype == torch.bool for x in known):
        return False
    return root_of(known, known[0].shape) is not None


def numbered(out: Tensor, soft: Callable[[], Tensor], dtype: torch.dtype) -> Callable[[], Tensor]:
    """The numbers of `out`, with the gradient of ``soft()``, a tensor of its shape that nobody else has."""
    numbers = lazy_clone(out)

    def make() -> Tensor:
        found = soft()
        found.data = numbers.type(dtype)  # (in half the time of `to`)
        return found

    return make


def common(args: tuple[Any, ...], found: list[Shadow | None], floats: bool = False) -> torch.dtype | None:
    """The type of the shadows `found` of operands. None if they have several, if one is not the same number for number,
    and if an operand is no mask or integer (`floats`: and no float either).
    """
    dtype = None
    for x, own in zip(args, found):
        if own is not None:
            if own.exact is not dtype and dtype is not None:
                return None
            dtype = own.exact
        elif ordinary(x):
            if x.is_floating_point():
                if not floats:
                    return None
            elif x.is_complex() or getattr(x, "_sll", None) is not None:
                return None
        elif type(x) is not int and not (floats and type(x) is float):
            return None
    return dtype


def quick_difference(region: Region, func: Func, args: tuple[Any, ...], floats: bool = False) -> Any:
    """Of masks and integers whose shadows are the same number for number, and what is fixed. `floats`: it compares."""
    found = [quick_shadow(x) for x in args]
    dtype = common(args, found, floats)
    if dtype is None or len(args) > 1 and (args[0] is args[-1] or of_one(args)):
        return NotImplemented
    out = func(*args)
    parts = [(own, *slope_of(func, args, i, own, out)) for i, own in enumerate(found) if own is not None]
    value = numbered(out, lambda: total([own.value() * slope for own, slope, _ in parts]), dtype)
    there = parts[0][2] if len(parts) == 1 and out.dtype != torch.bool else None
    known = [x for x, own in zip(args, found) if own is not None]
    return mark(region, out, made_of(region, func, args, {}, out, known, value, there, dtype))


def slope_of(func: Func, args: tuple[Any, ...], i: int, own: Shadow, out: Tensor) -> tuple[Tensor, Other]:
    """What `out` changes by with the operand `i`, and what it is on the other side, if that is known."""
    n, dtype = args[i], own.exact
    assert dtype is not None

    def at(y: Tensor) -> Tensor:
        y = y.to(n.dtype) if n.dtype in NARROW else y
        return func(*args[:i], y, *args[i + 1 :])  # type: ignore[no-any-return]

    flag = own.is_flag(n)
    if flag:
        slope = _apart(at(number(1, n.dtype, n.device)), at(number(0, n.dtype, n.device)), dtype)
        if out.dtype == torch.bool:
            return slope, None
    beyond = own.other(n)
    if beyond is None:
        low, high = neighbours(n, *(number(k, torch.int64, n.device) for k in (0, 1)))
        slope = _apart(at(high), at(low), dtype)
        return slope if out.dtype == torch.bool else slope.div_(_apart(high, low, dtype)), None
    there = at(beyond)
    if not flag:
        slope = _apart(there, out, dtype).div_(_apart(beyond, n, dtype)).nan_to_num_(0.0, 0.0, 0.0)
    return slope, lambda _: there


def _apart(a: Tensor, b: Tensor, dtype: torch.dtype) -> Tensor:
    """``a - b`` as floats. (Small integers wrap around.)"""
    return (a - b).type(dtype) if a.dtype == b.dtype == torch.int64 else a.type(dtype) - b.type(dtype)


def total(parts: list[Tensor]) -> Tensor:
    found, *rest = parts
    for part in rest:
        found = found + part
    return found


def spread(dims: int) -> Callable[[Tensor], Tensor]:
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


def relabelled(func: Func, args: tuple[Any, ...], kwargs: dict[str, Any], x: Tensor, own: Weights) -> Tensor:
    """The function of every candidate, in a last dimension of its own."""

    def widened(y: Any) -> Any:
        if y is x:
            labels = own.labels.to(x.dtype)
            return not_zero(func, labels, x.unsqueeze(-1)) if x is args[-1] else labels
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
        labels = relabelled(func, args, kwargs, x, own)
        weights = own.weights()
        return (weights * finite(labels.to(weights.dtype))).sum(-1)

    def at(y: Tensor) -> Tensor:
        y = not_zero(func, y, x) if x is args[-1] else y
        y = y.to(x.dtype) if x.dtype in NARROW else y
        swap: Callable[[Any], Any] = lambda z: y if z is x else z.detach() if isinstance(z, Tensor) else z
        return func(*map(swap, args), **{name: swap(z) for name, z in kwargs.items()})  # type: ignore[no-any-return]

    beyond = own.other(x)
    if beyond is not None:
        return own.value() * quotient(at(beyond), out, beyond, x, own.value().dtype)
    if out.is_floating_point():
        return None
    low, high = neighbours(x)
    if out.dtype == torch.bool:
        return own.value() * (at(high).to(torch.int8) - at(low).to(torch.int8))
    return own.value() * quotient(at(high), at(low), high, low, own.value().dtype)


def _together(
    func: Func, args: tuple[Any, ...], kwargs: dict[str, Any], out: Tensor, root: Any, operands: dict[int, Tensor]
) -> Tensor | None:
    """What all operands add that are made of one decision: they change together."""
    own, x, version = root
    beyond = own.other(x) if x._version == version else None
    there = {key: shadow(y).other(y) for key, y in operands.items()}  # type: ignore[union-attr]
    if beyond is None or any(y is None for y in there.values()):
        return None
    swap: Callable[[Any], Any] = lambda z: there.get(id(z), z.detach() if isinstance(z, Tensor) else z)
    moved = func(*map(swap, args), **{name: swap(z) for name, z in kwargs.items()})
    return own.value() * quotient(moved, out, beyond, x, own.value().dtype)  # type: ignore[no-any-return]


def neighbours(n: Tensor, zero: Any = 0, one: Any = 1) -> tuple[Tensor, Tensor]:
    """The integers next to `n`; a count of 0 has none below."""
    n = n.long() if n.dtype in (torch.uint8, torch.int8, torch.bool) else n
    return torch.where(n == zero, n, n - one), n + one


def quotient(high: Tensor, low: Tensor, to: Tensor, at: Tensor, dtype: torch.dtype) -> Tensor:
    """``(high - low) / (to - at)``, 0 where nothing lies between."""
    high, low, to, at = (x.detach().to(dtype) for x in (high, low, to, at))
    step, change = to - at, high - low
    return change.div_(step).nan_to_num_(0.0, 0.0, 0.0)


def as_floats(args: tuple[Any, ...], only: set[int] | None = None, again: bool = False) -> list[Any]:
    """The operands (`only`: those) as floats of the type that the result has, with the gradients of their shadows.
    `again`: tensors of their own.
    """
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
            value = own.value() if own.exact is dtype and not again else None
            shown[id(x)] = own.shown(x, dtype) if value is None else value
        out.append(x if own is None else shown[id(x)])
    return out


def other_of(func: Func, args: tuple[Any, ...], kwargs: dict[str, Any], known: list[Tensor]) -> Any:
    """The function of one operand that is on its other side; None for several, if they are not made of one decision."""
    of = {id(x): (shadow(x), x.detach().clone()) for x in known}
    if len(of) != 1 and (root_of(known, known[0].shape) is None):
        return None
    rest = [y.clone() if isinstance(y, Tensor) and id(y) not in of and not y.requires_grad else y for y in args]

    def other(_: Tensor) -> Tensor | None:
        there = {key: own.other(then) for key, (own, then) in of.items() if own is not None}
        if any(beyond is None for beyond in there.values()):
            return None
        made: Tensor = func(*(there.get(id(old), y) for y, old in zip(rest, args)), **kwargs)
        return made

    return other
