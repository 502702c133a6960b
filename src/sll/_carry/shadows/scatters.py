"""Writes at an index that was decided: `scatter`, `index_put`, `index_add` …, and ``x[i] = value``.

An index that moves takes what it writes with it. So it gets, at the place where it would write, the difference that the
write makes there, less the same at the place where it writes now. All of these are one function: the lookup at the same
index, in the numbers of the places, says where.
"""

from __future__ import annotations

import functools
from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor

from ..._ops.apply import finite
from ..._ops.dtypes import FULL
from ..._ops.env import free_to_read
from ..._ops.projections import decided
from ..._ops.surrogates import alias, finite_gradient, follow, number, simple
from ..._rules.index import op_name
from ..interface import Func, Region
from .differences import added, total
from .either import written as written_in
from .lookups import FLAG, Spot, spot_along, spot_of_rows, spots_of
from .orders import Order, inverse, quick_order
from .picked import Picked, quick_choice
from .selections import by_places, other, selected, upright, wide
from .shadow import Shadow, Weights, as_float, as_value, carried, carry, mark, opposite, shadow, tensors


def written(
    region: Region, hard: Tensor, x: Tensor, source: Any, add: bool, spots: list[Spot], read: Callable[[Tensor], Tensor]
) -> Tensor:
    """As `_written`. Where one number is written it is known that the result is that, or what stood there."""
    plain = hard if hard.requires_grad else None
    out = _written(region, hard, x, source, add, spots, read)
    if add or not spots or not out.is_floating_point() or (new := _one_value(source)) is None or carried(x) is not None:
        return out
    nothing = torch.zeros_like(out.detach())
    weight: Callable[[], Tensor] = lambda: _written(region, nothing.clone(), nothing, 1.0, False, spots, read)
    if len(spots) > 1 or spots[0].picked() is None:  # (the program may write to its index)
        weight = Shadow(weight()).value
    return carry(region, out, written_in(out, x, new, weight, plain))


def _one_value(source: Any) -> Any:
    """The number that is written at every place, if it is one; else None."""
    if not isinstance(source, Tensor):
        return source
    if source.requires_grad or carried(source) is not None or not source.numel():
        return None
    one = source.reshape(-1)[0]
    return one if source.dim() == 0 or free_to_read(source) and bool((source == one).all()) else None


def _written(
    region: Region, hard: Tensor, x: Tensor, source: Any, add: bool, spots: list[Spot], read: Callable[[Tensor], Tensor]
) -> Tensor:
    """`hard` is `x` after `source` was written (or added) where ``read(x)`` looks; let it have the gradient of the
    indices, and if it is not a float, that of `x` and `source`.
    """
    alone, floats = spots[0] if len(spots) == 1 else None, hard.is_floating_point()
    picked = alone.picked() if alone is not None and floats else None
    if picked is not None and _same_for_all(source) and picked.lies(along := spots[0].along, x):
        change = torch.as_tensor(source, dtype=x.dtype, device=x.device).detach()
        return _set(picked, hard, along or 0, change if add else change - x.detach())
    base = None
    if not floats and (shadow(x) is not None or shadow(source) is not None):
        base = _put(as_value(x), as_value(source), add, alone, read)
    other = opposite if not floats and _is_hot(x, source) else None
    order = alone.own.order if alone is not None and isinstance(alone.own, Weights) else None
    whole = order if order is not None and order.whole() and order.permutes(x) else None
    if whole is not None and (alone.along == whole.along() or alone.rows and whole.index.dim() == 1):  # type: ignore[union-attr]
        values = finite(as_value(torch.as_tensor(source, device=x.device)).detach())
        values = values.expand(*whole.index.shape, *x.shape[whole.index.dim() :])
        if floats:
            return whole.soft(values, False, hard)  # type: ignore[no-any-return]
        value = whole.soft(values, False, base, lambda: hard.to(values.dtype if base is None else base.dtype))
        return carry(region, hard, Shadow(value, other))
    moved = [finite_gradient(_moved(spot, read, x, source, add)) for spot in spots]
    parts = moved if base is None else [base, *moved]
    if not parts:
        return hard
    soft = total(parts)
    if floats:
        return added(hard, soft)
    numbers = alias(hard)
    return carry(region, hard, Shadow(follow(soft, lambda: numbers.to(soft.dtype)), other))


def _put(old: Tensor, new: Any, add: bool, spot: Spot | None, read: Callable[[Tensor], Tensor]) -> Tensor:
    """The write itself, of floats."""
    new = torch.as_tensor(new, dtype=old.dtype, device=old.device)
    if spot is not None and spot.along is not None and not spot.rows and new.shape == spot.index.shape:
        write = old.scatter_add if add else old.scatter
        return write(spot.along, spot.index.clone(), new)  # (the program may write to its index)
    there = read(_places(old))
    return old.reshape(-1).index_put((there,), new.expand(there.shape), accumulate=add).reshape(old.shape)


def _set(picked: Picked, hard: Tensor, along: int, change: Tensor) -> Tensor:
    """`hard` has been changed by so much at all places of the index."""
    back = functools.partial(picked.by().along, along)
    return decided(back, picked.scores, None, finite(change), out=hard)


def quick_scatter(region: Region, func: Func, args: tuple[Any, ...]) -> Any:
    """The same number at all places."""
    if len(args) != 4 or type(args[3]) is not float or (picked := quick_choice(args[2])) is None:
        return NotImplemented
    x, dim, _, value = args
    if type(x) is not Tensor or x.dtype not in FULL or not picked.lies(dim % x.dim(), x):
        return NotImplemented
    hard = func(*args)
    plain = hard if hard.requires_grad else None
    out = _set(picked, hard, dim, number(value, x.dtype) - x.detach())
    if getattr(x, "_sll", None) is not None:
        return out
    one = torch.ones_like
    return mark(region, out, written_in(out, x, value, lambda: _set(picked, torch.zeros_like(x), dim, one(x)), plain))


def quick_write(region: Region, func: Func, args: tuple[Any, ...]) -> Any:
    """``x[order] = source``, ``x.scatter_add_(0, order, source)``: integers in a row that carries nothing."""
    add, x, index, source = len(args) == 4, args[0], args[-2], args[-1]
    order = quick_order(index)
    if order is None or not order.whole() or add and args[1] != 0 or getattr(x, "_sll", None):
        return NotImplemented
    for t in (x, source):  # a row of integers of its own, one for each place of the index
        known = type(t) is Tensor and t.dtype in (torch.int32, torch.int64) and t._base is None
        if not known or t.dim() != 1 or t.shape != index.shape:
            return NotImplemented
    own = shadow(source)
    if own is not None and not add:
        return NotImplemented
    new = source.to(torch.float32) if own is None else own.value()
    base, out = None if own is None else torch.zeros_like(new).scatter(0, index.clone(), new), func(*args)
    mark(region, x, Shadow(order.soft(new.detach(), False, base, lambda: x.to(new.dtype)), None, new.dtype))
    return out


def _is_hot(x: Tensor, source: Any) -> bool:
    """Whether ones are written among zeros."""
    return isinstance(source, (int, float)) and source == 1 and free_to_read(x) and not x.any()


def _places(x: Tensor) -> Tensor:
    return torch.arange(x.numel(), device=x.device).reshape(x.shape)


def _moved(spot: Spot, read: Callable[[Tensor], Tensor], x: Tensor, source: Any, add: bool) -> Tensor:
    """A tensor like `x` that has the gradient of one index."""
    old = as_value(x).detach()
    new = torch.as_tensor(as_value(source), dtype=old.dtype, device=x.device).detach()
    if (hot := _hot(spot, x, new)) is not None:
        return hot * finite(new if add else new - old)
    if (moved := _by_place(spot, old, new, add)) is not None:
        return moved
    if (entries := spot.beside(old)) is not None and spot.along is not None:
        change = new.unsqueeze(-1) if new.dim() else new
        change = change if add else change - entries
        return (spot.own.weights() * finite(change)).sum(spot.along).movedim(-1, spot.along)  # type: ignore[attr-defined, no-any-return]
    places = _places(x)
    there, old = read(places), old.reshape(-1)
    if add or _is_full(there, x):
        old = torch.zeros_like(old)
    share, change = spot.parts()
    share = spot.align(share)
    share = torch.cat([share, -share.sum(-1, keepdim=True)], -1)
    at = torch.cat([spot.entries(places, change), there.unsqueeze(-1)], -1)
    moved = share * finite((new.unsqueeze(-1) if new.dim() else new) - old[at])
    return moved.new_zeros(x.numel()).index_add(0, at.reshape(-1), moved.expand(at.shape).reshape(-1)).reshape(x.shape)


def _by_place(spot: Spot, old: Tensor, new: Tensor, add: bool) -> Tensor | None:
    """The same where places of an order write: what they write there, less what stood at the elements."""
    part = spot.own.reading() if isinstance(spot.own, Weights) else None
    if part is None or part[1] is not None or spot.along != (order := part[0]).along() or not order.permutes(old):
        return None
    index, one = order.index, part[2]
    if old.dim() != index.dim() or one is not None and index.dim() > 1:
        return None

    def put(t: Tensor) -> Tensor:
        """What the elements of the index write, at all places of the order."""
        if one is not None:
            # (0 is what was filled in.)
            which = one(torch.arange(1, index.numel() + 1, device=index.device)).reshape(-1)
            t = t.new_zeros(index.numel() + 1).index_add(0, which, t.expand(which.shape))[1:]
        return order.soft(t.expand(index.shape), False, None, lambda: torch.zeros_like(old))  # type: ignore[no-any-return]

    hot = None if add and new.dim() else put(old.new_ones(()))
    if not new.dim():
        return hot * finite(new if add else new - old)  # type: ignore[operator]
    moved = put(finite(new))
    return moved if hot is None else moved - hot * finite(old)


def _hot(spot: Spot, x: Tensor, new: Tensor) -> Tensor | None:
    """How much each place is written to, where one number is written at all of them."""
    picked, along = spot.own, spot.along
    if along is None or new.dim() or not isinstance(picked, Picked) or not picked.lies(along, x):
        return None
    return picked.hot().movedim(-1, along)


def _same_for_all(source: Any) -> bool:
    """Whether every place of the index writes the same, which is not decided."""
    return not isinstance(source, Tensor) or not source.dim() and shadow(source) is None


def _is_full(there: Tensor, x: Tensor) -> bool:
    """Whether every place is written to: what stood there (in a tensor from `empty`, anything) does not matter."""
    if there.numel() < x.numel() or not simple(x):
        return False
    written = torch.zeros(x.numel(), dtype=torch.bool, device=x.device)
    return bool(written.index_fill_(0, there.reshape(-1), True).all())


# --- functions ---------------------------------------------------------------------------------------------------


def _write(region: Region, func: Func, args: tuple[Any, ...], kwargs: dict[str, Any], source: Any) -> Tensor:
    """The call itself; autograd gives floats their gradient."""
    own = shadow(source)
    if own is None or not args[0].is_floating_point():
        return func(*args, **kwargs)  # type: ignore[no-any-return]
    shown = own.shown(source, args[0].dtype)
    named = {name: shown if x is source else x for name, x in kwargs.items()}
    return func(*(shown if x is source else x for x in args), **named)  # type: ignore[no-any-return]


def scatter(add: bool, spot: Callable[[Tensor, int, Tensor], Spot] = spot_along) -> Callable[..., Any]:
    """``func(x, dim, index, source)``."""

    def rule(region: Region, func: Func, args: tuple[Any, ...], kwargs: dict[str, Any]) -> Any:
        named = dict(zip(("input", "dim", "index", "source"), args), **kwargs)
        x, dim, index = named["input"], named["dim"], named["index"]
        source = next(named[name] for name in ("source", "src", "value") if name in named)
        decided = [y for y in tensors((x, index, source), {}) if carried(y) is not None]
        if decided and (named.get("reduce") is not None or x.is_complex()):
            region.lose(op_name(func), decided, "it has no derivative with reduce=; use scatter_add.")
            decided = []
        if not decided:
            return func(*args, **kwargs)
        hard = _write(region, func, args, kwargs, source)
        if not add and (order := _inverted(x, dim, index, source)) is not None:
            return carry(region, hard, inverse(order, False, alias(hard)))
        if isinstance(source, Tensor) and source.dim() and spot is spot_along and source.shape != index.shape:
            source = region.call(torch.Tensor.__getitem__, source, tuple(map(slice, index.shape)))
        if named.get("alpha", 1) != 1:
            source = region.call(torch.mul, source, named["alpha"])
        found = spot(x, dim, index)
        spots = [found] if found.own is not None else []
        out = written(region, hard, x, source, add, spots, found.entry)
        return at_selected(
            region, func, out, x, index, source, add, lambda: [found] if selected(index) is not None else []
        )

    return rule


def _inverted(x: Tensor, dim: int, index: Tensor, source: Any) -> Order | None:
    """The order that ``x.scatter(dim, order, arange)`` inverts: the place of each element."""
    own = shadow(index)
    if not isinstance(own, Order) or own.dim % x.dim() != dim % x.dim() or not isinstance(source, Tensor):
        return None
    if x.is_floating_point() or x.shape != index.shape or source.shape != index.shape or shadow(source) is not None:
        return None
    places = torch.arange(x.shape[dim], device=x.device).reshape(-1, *(1,) * (x.dim() - dim % x.dim() - 1))
    return own if bool((source == places).all()) else None


index_add = scatter(True, spot_of_rows)
index_fill = scatter(False, spot_of_rows)
"""`index_copy`, too."""


def index_put(region: Region, func: Func, args: tuple[Any, ...], kwargs: dict[str, Any]) -> Any:
    named = dict(zip(("input", "indices", "values", "accumulate"), args), **kwargs)
    x, items, source, add = named["input"], tuple(named["indices"]), named["values"], bool(named.get("accumulate"))
    if not any(carried(y) is not None for y in tensors((x, source, *items), {})):
        return func(*args, **kwargs)
    return put_at(region, func, _write(region, func, args, kwargs, source), x, items, source, add)


def put_at(region: Region, func: Func, hard: Tensor, x: Tensor, items: tuple[Any, ...], source: Any, add: bool) -> Any:
    """`hard` is `x` after ``x[items] = source`` (or ``+=``)."""
    items = by_places(region, items)
    masks = [i for i in items if shadow(i) is not None and i.dtype == torch.bool]
    if masks:
        region.lose(op_name(func), masks, FLAG)
        return hard
    out = written(region, hard, x, source, add, spots_of(x, items), lambda t: t[items])
    return at_selected(region, func, out, x, items, source, add, lambda: spots_of(x, items, selected))


def at_selected(
    region: Region, func: Func, out: Tensor, x: Tensor, items: Any, source: Any, add: bool,
    spots: Callable[[], list[Spot]],
) -> Any:  # fmt: skip
    """`out`, which is `x` after a write at places that a mask selected, with the gradient of the mask."""
    if not region.selecting():
        return out
    try:
        moved = finite_gradient(_without_each(spots()[0], x, source, add))
    except (ValueError, RuntimeError, IndexError):
        return other(region, func, (items, source), {}, lambda: out)
    if out.is_floating_point():
        return added(out, moved)
    numbers, own = alias(out), shadow(out)
    soft = moved if own is None else moved + own.value()
    return carry(region, out, Shadow(follow(soft, lambda: numbers.to(soft.dtype))))


def _without_each(spot: Spot, x: Tensor, source: Any, add: bool) -> Tensor:
    """What each of the places that a mask may select changes: the last write stays, and without it the last before."""
    found, at = selected(spot.index), spot.every(_places(x))
    assert found is not None
    behind = spot.behind + found.behind
    many = spot.index.shape[spot.index.dim() - 1 - found.behind]
    old = as_float(x.detach()).reshape(-1)
    new = as_value(wide(source, found, lambda t: t.dim() - 1 - behind, many, True))
    change = new = torch.as_tensor(new, dtype=old.dtype, device=old.device).detach().expand(at.shape)
    share = upright(found.shadow.value(), behind).expand(at.shape)
    if not add:
        number, taken = torch.arange(at.numel(), device=at.device).reshape(at.shape), share.detach() > 0.5
        last = _last(number, taken, at, x)
        rest = torch.where(last == number, _last(number, taken & (last != number), at, x), last)  # (of the others)
        change = new - torch.where(rest < 0, old[at], new.reshape(-1)[rest])
        change = torch.where(rest > number, 0, change)
    moved = share * finite(change)
    return moved.new_zeros(x.numel()).index_add(0, at.reshape(-1), moved.reshape(-1)).reshape(x.shape)


def _last(number: Tensor, taken: Tensor, at: Tensor, x: Tensor) -> Tensor:
    """The number of the last write at each place, if it is taken; -1 if there is none."""
    found = torch.full((x.numel(),), -1, device=x.device)
    return found.scatter_reduce(0, at.reshape(-1), torch.where(taken, number, -1).reshape(-1), "amax")[at]
