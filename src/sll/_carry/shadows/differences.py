"""What a function of bools or integers makes of a decision: the difference to what it makes of the other side.

    d F(n) = sum_k (F(n + delta_k) - F(n)) dp_k,

over the decisions that each operand is made of (see `terms.py`), the other operands as the program takes them. Operands
that are made of one decision change together. Where none is known (a count) it is what the function makes of both
neighbours.
"""

from __future__ import annotations

import functools
import operator
from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor

from ..._ops.apply import finite
from ..._ops.dtypes import NARROW
from ..._ops.env import eager, free_to_read
from ..._ops.openness import made_from
from ..._ops.surrogates import alias, follow, lazy_clone, number, ordinary, simple
from ..._rules.index import NAMED
from ..interface import Func, Region
from .quotients import QUOTIENTS, but_by_zero
from .shadow import Other, Shadow, Weights, call_with, carry, mark, quick_shadow, root_of, shadow, tensors
from .terms import all_beyond, as_count, made_of, of_number, one_choice, relabelled, there, together


def by_difference(region: Region, func: Func, args: tuple[Any, ...], kwargs: dict[str, Any], out: Any) -> Any:
    """`out` is the result; each decided operand gets the difference that it makes."""
    if not isinstance(out, Tensor):
        return out
    operands = [x for x in tensors(args, kwargs) if shadow(x) is not None]
    floats = out.is_floating_point() or out.is_complex()
    if not floats and one_choice([shadow(x) for x in operands]) is not None:  # type: ignore[misc]
        return carry(region, out, relabelled(func, args, kwargs, operands, out))
    of = of_number(func, args, kwargs, operands) if floats and isinstance(own := shadow(operands[0]), Weights) else None
    if of is not None and (soft := own.read(of)) is not None:  # type: ignore[union-attr]
        return added(out, soft)
    known, unknown = decisions(operands, out)
    if floats and unknown:  # the derivative of the function of floats
        shown = as_floats(args, {id(x) for x in unknown})
        if func.__name__ in QUOTIENTS and any(x is args[1] for x in unknown):
            shown[1] = but_by_zero(shown[1], args[1])
        for x in unknown if func.__name__ in NAMED["poles"] else []:
            if (pole := _pole(func, args, kwargs, x, out)) is not None:
                share = shadow(x).value().expand(out.shape).unsqueeze(-1)  # type: ignore[union-attr]
                known.append((share, {id(x): pole.long().unsqueeze(-1)}))
                shown = [torch.where(pole, y.detach(), y) if z is x else y for y, z in zip(shown, args)]
        out = func(*shown, **kwargs)
    elif unknown:
        counts = [as_count(shadow(x).value(), x, out.dtype == torch.bool) for x in unknown]  # type: ignore[union-attr]
        known += [(share, {id(x): change}) for x, (share, change) in zip(unknown, counts)]
    if not known:
        return out
    parts = [(share, _change(there(func, args, kwargs, changes), out, share.dtype)) for share, changes in known]
    soft = total([(share * change).sum(-1) for share, change in parts])
    if floats:
        return added(out, soft)
    if eager() and soft.shape == out.shape:
        value, soft.data = soft, out.to(soft.dtype)
    else:
        numbers, dtype = alias(out), soft.dtype
        value = follow(soft.expand(out.shape), lambda: numbers.to(dtype))
    beyond = (out + parts[0][1].squeeze(-1)).to(out.dtype) if len(parts) == 1 and parts[0][1].shape[-1] == 1 else None
    other = None if beyond is None else lambda _: beyond
    made = None if unknown else lambda: together(parts, out.shape)
    exact = value.dtype if eager() else None
    return carry(region, out, made_of(region, func, args, kwargs, out, operands, value, other, exact, made))


def _pole(func: Func, args: tuple[Any, ...], kwargs: dict[str, Any], x: Tensor, out: Tensor) -> Tensor | None:
    """Where a function of the count `x` has no derivative, but may have a difference: ``count.sqrt()`` at 0."""
    if not eager() or not simple(x) or not free_to_read(x) or (x != 0).all():
        return None
    with torch.enable_grad():
        z = x.to(out.dtype).expand(out.shape).requires_grad_()
        (slope,) = torch.autograd.grad(call_with(func, args, kwargs, lambda y: z if y is x else y.detach()).sum(), z)
    return slope.isfinite().logical_not_()


def decisions(operands: list[Tensor], out: Tensor) -> tuple[list[tuple[Tensor, dict[int, Tensor]]], list[Tensor]]:
    """Those that operands of a function of single elements are made of: the shares, and what they change of each
    operand. And the operands of which none are known.
    """
    root = root_of(operands, out.shape) if len(operands) > 1 else None
    parts = {id(x): shadow(x).parts(x.detach()) for x in operands}  # type: ignore[union-attr]
    found = None if root is None or root[1]._version != root[2] else root[0].parts(root[1].detach())
    if found is not None and all(part is not None for part in parts.values()):  # they change together
        return [(found[0], {key: part[1] for key, part in parts.items()})], []  # type: ignore[index]
    known = [(part[0], {key: part[1]}) for key, part in parts.items() if part is not None]
    return known, [x for x in operands if parts[id(x)] is None]


def _change(moved: Tensor, out: Tensor, dtype: torch.dtype) -> Tensor:
    now = out.detach().unsqueeze(-1)
    if now.is_floating_point() or now.is_complex():
        return finite(moved.to(dtype) - now.to(dtype))
    return moved.long() - now.long()


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
    return functools.reduce(operator.add, parts)


def added(out: Tensor, soft: Tensor) -> Tensor:
    """`out`, which nobody else has, with its own gradient and that of `soft`."""
    soft = soft if soft.shape == out.shape else soft.expand(out.shape)
    soft = soft if soft.dtype == out.dtype else soft.to(out.dtype)
    if not eager() or not out.requires_grad:
        return follow(soft + out if out.requires_grad or not eager() else soft, out.detach)
    shown = soft + out
    shown.data = out.detach()
    return shown


def neighbours(n: Tensor, zero: Any = 0, one: Any = 1) -> tuple[Tensor, Tensor]:
    """The integers next to `n`; a count of 0 has none below."""
    n = n.long() if n.dtype in (torch.uint8, torch.int8, torch.bool) else n
    return torch.where(n == zero, n, n - one), n + one


def quotient(high: Tensor, low: Tensor, to: Tensor, at: Tensor, dtype: torch.dtype) -> Tensor:
    """``(high - low) / (to - at)``, 0 where nothing lies between."""
    high, low, to, at = (x.detach().to(dtype) for x in (high, low, to, at))
    step, change = to - at, high - low
    return change.div_(step).nan_to_num_(0.0, 0.0, 0.0)


def as_number(x: Tensor, own: Shadow, value: Tensor) -> Tensor:
    """`value`, which is `x` as a float: of a mask and a count its graph says so."""
    mask = x.dtype == torch.bool
    return made_from(None if mask else True, value) if mask or own.by_ones and not own.knows_other() else value


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
            value = own.value() if own.exact is dtype and not again else own.shown(x, dtype)
            shown[id(x)] = as_number(x, own, value)
        out.append(x if own is None else shown[id(x)])
    return out


def other_of(func: Func, args: tuple[Any, ...], kwargs: dict[str, Any], known: list[Tensor]) -> Other:
    """The function of one operand that is on its other side; None for several, if they are not made of one decision."""
    one = all(x is known[0] for x in known) or root_of(known, known[0].shape) is not None
    return all_beyond(func, args, kwargs) if one else None
