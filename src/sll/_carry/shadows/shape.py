"""Functions that only move elements: shadows are moved alike.

Where the index or the fill is a tensor of the program, that is done at once; otherwise when somebody asks.
"""

from __future__ import annotations

import functools
from collections.abc import Callable, Iterator, Sequence
from typing import Any

import torch
from torch import Tensor

from ..._ops.env import tracked
from ..._ops.surrogates import simple
from ..._rules.index import BOUNDS, op_name
from ..interface import Func, Region
from .shadow import (
    Either,
    Scaled,
    Selected,
    Shadow,
    Weights,
    Whole,
    call_with,
    carried,
    carry,
    mark,
    opposite,
    quick_shadow,
    shadow,
)
from .terms import beside
from .wraps import line_of


def move(region: Region, func: Func, args: tuple[Any, ...], kwargs: dict[str, Any]) -> Any:
    """One operand, whose elements are moved (or filled up): views, `flip`, `repeat`, `pad`, ``x[1:]`` …"""
    x, *rest = args
    out = func(*args, **kwargs)
    own: Any = carried(x)
    own = own.own if isinstance(own, Selected) else own
    bounds = [b for b in _parts([*rest, *kwargs.values()]) if shadow(b) is not None]
    if bounds:
        region.lose(op_name(func), bounds, BOUNDS)
    if out is x:
        return x
    if own is None:
        return out
    if isinstance(out, Tensor) and out.dtype != x.dtype:
        region.lose(op_name(func), [x], "it takes the bits of a number apart. Convert with .to(dtype).")
        return out
    if isinstance(own, Weights) and isinstance(out, Tensor) and simple(x) and _same_view(out, x):
        return carry(region, out, own)
    held = _holds_tensor([*rest, *kwargs.values()])
    lazy = simple(x) and not held

    def moved(i: int, y: Tensor) -> Tensor:
        found = call_with(func, (y, *rest), kwargs, _savable) if held else func(y, *rest, **kwargs)
        return found if alone else found[i]  # type: ignore[no-any-return]

    alone = isinstance(out, Tensor)
    for i, part in enumerate([out] if alone else out):
        one = functools.partial(moved, i)
        found = Scaled(None) if isinstance(own, Scaled) else _moved(own, x, one, lazy)
        if isinstance(own, (Scaled, Whole)) and own.line is not None:
            found.line = own.line.moved(one, part)
        carry(region, part, found)
    return out


def _savable(x: Tensor) -> Tensor:
    """(Autograd saves no tensors of inference mode.)"""
    return x.clone() if x.is_inference() else x


QUICK = "expand reshape view flatten squeeze unsqueeze transpose t permute broadcast_to".split()


def quick_move(region: Region, func: Func, args: tuple[Any, ...]) -> Any:
    """A view, or a copy, of a mask or an integer whose shadow is the same number for number."""
    x, own = args[0], quick_shadow(args[0])
    if own is None:
        return NotImplemented
    for y in args[1:]:
        for n in y if isinstance(y, tuple) else (y,):
            if type(n) is not int:
                return NotImplemented
    out = func(*args)
    return out if out is x else mark(region, out, _moved(own, x, lambda y: func(y, *args[1:]), True, own.exact))


def _same_view(out: Tensor, x: Tensor) -> bool:
    """Whether nothing has moved: ``x[:]``, ``x.view(x.shape)``."""
    return out.shape == x.shape and out.stride() == x.stride() and out.data_ptr() == x.data_ptr()


def _parts(values: Any) -> Iterator[Any]:
    """The arguments, those in lists and slices as well."""
    for v in values:
        yield from (
            _parts(v) if isinstance(v, (tuple, list)) else (v.start, v.stop, v.step) if type(v) is slice else (v,)
        )


def _holds_tensor(values: Any) -> bool:
    return any(isinstance(v, Tensor) for v in _parts(values))


def _moved(own: Any, x: Tensor, one: Callable[[Tensor], Tensor], lazy: bool, exact: torch.dtype | None = None) -> Any:
    if isinstance(own, Weights):
        return _moved_weights(own, x, one)
    other: Any
    if isinstance(own, Shadow) and (own._other is None or own._other is opposite and exact is not None):
        other = own._other
    else:
        then = x.detach().clone()

        def other(_: Tensor) -> Tensor | None:
            beyond = own.other(then)
            return None if beyond is None else one(beyond)

    if type(own) is Either:
        share, plain = own.share, None if own.plain is None else one(own.plain)
        moved: Callable[[], Tensor] = lambda: one(share.value())
        return Either(Shadow(moved if lazy else moved()), other, plain)
    if isinstance(own, Whole):
        return Whole(other, own.by_ones)
    make: Callable[[], Tensor] = lambda: one(own.value())
    found = Shadow(make if lazy else make(), other, exact, own.by_ones, True)
    found.rounded = own.rounded
    if (terms := own.terms) is not None:
        gathered, found.depth = _gather(x, one, lazy), own.depth + 1
        found.terms = lambda: None if (parts := terms()) is None else (gathered(parts[0]), gathered(parts[1]))
    return found


def _gather(x: Tensor, one: Callable[[Tensor], Tensor], lazy: bool) -> Callable[[Tensor], Tensor]:
    """Moves rows in a last dimension where their elements of `x` go. What is filled in has zeros."""
    shape = x.shape

    @functools.cache
    def places() -> Tensor:
        """Which element goes to each place, from 1 on; 0 for what is filled in."""
        with torch.no_grad():
            numbers = torch.arange(1, x.numel() + 1, device=x.device).reshape(shape)
            at = one(numbers)
            return at if at.numel() == numbers.numel() else at - one(torch.zeros_like(numbers))

    def gathered(t: Tensor) -> Tensor:
        n = t.shape[-1]
        rows = t.expand(*shape, n).reshape(-1, n)
        rows = torch.cat([rows.new_zeros(1, n), rows])
        return rows[places().reshape(-1)].reshape(*places().shape, n)

    if not lazy:
        places()
    return gathered


def _moved_weights(own: Weights, x: Tensor, one: Callable[[Tensor], Tensor]) -> Weights:
    """Rows of weights and labels go where their element goes; what is filled in is no choice, and has weight 0."""
    gathered = _gather(x, one, False)

    def weigh() -> tuple[Tensor, Tensor]:
        return gathered(own.weights()), own.labels if own.labels.dim() == 1 else gathered(own.labels)

    owner = own.owner
    moved = None if owner is None else lambda: one(owner() + 1)  # what is filled in belongs to another
    value = None if own.number is None else lambda: one(own.value())
    found = Weights(weigh, own._labels if own.positions else None, own.positions, value=value, owner=moved)
    found.depth = own.depth + 1
    if (part := own.reading()) is not None:
        order, of, before = part
        found.part = order, of, one if before is None else (lambda t: one(before(t)))
    return found


def join(region: Region, func: Func, args: tuple[Any, ...], kwargs: dict[str, Any]) -> Any:
    """``cat``, ``stack`` and their kin."""
    parts: Sequence[Any] = args[0] if args else kwargs["tensors"]
    rest = {name: x for name, x in kwargs.items() if name != "tensors"}
    out = func(*args, **kwargs)
    found = [shadow(x) for x in parts]
    if not any(own is not None for own in found):
        return _joined_line(region, func, out, parts, args[1:], rest)
    if out.is_floating_point():
        shown = [x if own is None else own.shown(x, out.dtype) for x, own in zip(parts, found)]
        return func(shown, *args[1:], **rest)
    same = [own for own in found if isinstance(own, Weights) and own.positions]
    if len(same) == len(found) and all(own.labels.shape == same[0].labels.shape for own in same):
        dim = args[1] if len(args) > 1 else kwargs.get("dim", 0)
        if func.__name__ in ("cat", "stack", "concat", "concatenate") and isinstance(dim, int):
            dim = dim % out.dim()
            return carry(region, out, _joined_weights(same, func, dim))
    lazy = all(own is not None for own in found) and simple(out)
    fixed = [x.float() if own is None else None for x, own in zip(parts, found)]

    def make() -> Tensor:
        values = [v if own is None else own.value() for own, v in zip(found, fixed)]
        return func(values, *args[1:], **rest)  # type: ignore[no-any-return]

    put = lambda *each: func(each, *args[1:], **rest)
    return carry(region, out, beside(region, put, [*parts], out, make if lazy else make()))


def _joined_line(region: Region, func: Func, out: Any, parts: Sequence[Any], args: Any, kwargs: Any) -> Any:
    """One part is on a line, and the others are fixed: so is the result."""
    lines = [line_of(x) for x in parts]
    follows = [i for i, x in enumerate(parts) if tracked(x)]
    line = lines[follows[0]] if len(follows) == 1 else None
    if line is None or line.path is not None:  # (only of sums it is asked)
        return out
    put = lambda y: func([y if i == follows[0] else x for i, x in enumerate(parts)], *args, **kwargs)
    return carry(region, out, Scaled(line.meets(put)))


def _joined_weights(same: list[Weights], func: Func, dim: int) -> Weights:
    labels = same[0].labels
    return Weights(lambda: (func([own.weights() for own in same], dim), labels), labels, positions=True)
