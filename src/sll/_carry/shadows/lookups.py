"""Lookups with an index that was decided: ``table[i]``, `gather`, `embedding`, `one_hot` …

The row that the program takes gets the table's gradient. The index gets the difference between that row and the one on
the other side of the boundary; an index that was chosen gets, for each candidate, the product with that candidate's row.
An outcome beyond the end of the table counts as the end.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor

from ..._ops.surrogates import alias, follow
from ..interface import Func, Region
from .elementwise import _added, neighbours
from .shadow import Shadow, Weights, carry, shadow
from .shape import move


def look_up(
    region: Region, func: Func, index: Tensor, size: int, behind: int, before: int = 0, wrap: bool = True
) -> Any:
    """``func(index)``, a lookup in a table of `size`. The result has the dimensions of `index`, `before` others in
    front of them and `behind` others after them.
    """
    own = shadow(index)
    assert own is not None
    out = func(index)
    soft = _soft(func, out, index, own, size, behind, before, wrap)
    return _result(region, out, soft)


def _result(region: Region, out: Tensor, soft: Tensor) -> Tensor:
    if out.is_floating_point():
        return _added(out, soft)
    if out.is_complex():
        return out
    numbers = alias(out)
    value = follow(soft.expand(out.shape), lambda: numbers.to(soft.dtype))
    return carry(region, out, Shadow.of(value))


def _soft(
    func: Func, out: Tensor, index: Tensor, own: Shadow, size: int, behind: int, before: int, wrap: bool
) -> Tensor:
    low = -size if wrap else 0

    def at(i: Tensor) -> Tensor:
        with torch.no_grad():
            found: Tensor = func(i.clamp(low, size - 1).to(index.dtype))
        return found if found.is_floating_point() else found.float()

    align = lambda t: t.reshape(*t.shape, *(1,) * behind)
    if isinstance(own, Weights):
        return _of_candidates(at, index, own, behind, before)
    beyond = own.other(index)
    with torch.no_grad():
        if beyond is None:
            below, above = neighbours(index)
            above, below = above.clamp(low, size - 1), below.clamp(low, size - 1)
            change = at(above) - at(below)
        else:
            above, below = beyond, index
            change = at(beyond) - at(index)
        step = align(above - below.to(above.dtype))
        slope = torch.where((step != 0) & change.isfinite(), change / step, 0)
    return align(own.value()) * slope


def _of_candidates(at: Callable[[Tensor], Tensor], index: Tensor, own: Weights, behind: int, before: int) -> Tensor:
    weights, labels = own.weights(), own.labels
    n = labels.shape[-1]
    if labels.dim() == 1 and index.dim():  # all rows look at the same candidates: one product
        rows = [at(label.expand(index.shape)) for label in labels]
    else:
        rows = [at(label.expand(index.shape)) for label in labels.unbind(-1)]
    found = torch.stack([torch.where(row.isfinite(), row, 0) for row in rows], -1)
    weights = weights.expand(*index.shape, n)
    weights = weights.reshape(*index.shape, *(1,) * behind, n)
    return (weights.to(found.dtype) * found).sum(-1)


def getitem(region: Region, func: Func, args: tuple[Any, ...], kwargs: dict[str, Any]) -> Any:
    x, index = args
    items = index if isinstance(index, tuple) else (index,)
    if isinstance(index, list):
        items = tuple(index) if any(shadow(item) is not None for item in index) else (index,)
    found = [i for i, item in enumerate(items) if shadow(item) is not None]
    if not found:
        return move(region, func, args, kwargs)
    if any(items[i].dtype == torch.bool for i in found):
        from .selections import select

        return select(region, func, x, items)
    out = func(x, items)
    dims = [_dims(item) for item in items]
    soft: Any = 0
    for i in found:
        soft = soft + _along(func, x, items, dims, i, out)
    if shadow(x) is not None:
        own = shadow(x)
        assert own is not None
        soft = soft + func(own.value(), items)
    return _result(region, out, soft)


def _dims(item: Any) -> int:
    """How many dimensions of the table an item of an index takes."""
    if item is None or isinstance(item, bool) or item is Ellipsis:
        return 0
    return item.dim() if isinstance(item, Tensor) and item.dtype == torch.bool else 1


def _along(func: Func, x: Tensor, items: tuple[Any, ...], dims: list[int], i: int, out: Tensor) -> Tensor:
    """What one of the indices adds to ``x[items]``."""
    index = items[i]
    used = sum(dims)
    filled = x.dim() - used
    advanced = [j for j, item in enumerate(items) if isinstance(item, (Tensor, list)) or type(item) is int]
    tensors = [items[j] for j in advanced if isinstance(items[j], Tensor)]
    shape = torch.broadcast_shapes(*(t.shape for t in tensors))  # type: ignore[no-untyped-call]
    together = advanced == list(range(advanced[0], advanced[-1] + 1))
    at_dim = 0
    before = 0
    if together:
        for item in items[: advanced[0]]:
            before += filled if item is Ellipsis else 1
    for item in items[:i]:
        at_dim += filled if item is Ellipsis else _dims(item)
    behind = out.dim() - before - len(shape)
    at = lambda j: func(x, (*items[:i], j, *items[i + 1 :]))
    own = shadow(index)
    assert own is not None
    wide = index if index.shape == shape else None
    if wide is None:  # other indices broadcast with it
        extra = len(shape) - index.dim()
        return (
            _soft(at, out, index, own, x.shape[at_dim], behind, before, True)
            if extra == 0
            else _soft(
                at,
                out,
                index.reshape((1,) * extra + index.shape),
                _raised(own, extra),
                x.shape[at_dim],
                behind,
                before,
                True,
            )
        )
    return _soft(at, out, index, own, x.shape[at_dim], behind, before, True)


def _raised(own: Shadow, extra: int) -> Shadow:
    """With so many dimensions of size 1 in front."""
    if isinstance(own, Weights):
        more = lambda labels: labels if labels.dim() == 1 else labels[(None,) * extra]
        return Weights(lambda: (own.weights()[(None,) * extra], more(own.labels)))
    return Shadow(lambda: own.value()[(None,) * extra], None if own._other is None else own._other)


def index_select(region: Region, func: Func, args: tuple[Any, ...], kwargs: dict[str, Any]) -> Any:
    named = dict(zip(("input", "dim", "index"), args), **kwargs)
    x, dim, index = named["input"], named["dim"], named["index"]
    if shadow(index) is None:
        return move(region, func, (x, dim, index), {})
    d = dim % x.dim()
    at = lambda i: x.index_select(d, i)
    return _or_moved(region, func, (x, dim, index), at, index, x, x.dim() - d - 1, d)


def _or_moved(
    region: Region, func: Func, args: Any, at: Func, index: Tensor, x: Tensor, behind: int, before: int
) -> Any:
    out = func(*args)
    own = shadow(index)
    assert own is not None
    dim = args[1] if len(args) > 2 else 0
    soft = _soft(at, out, index, own, x.shape[dim] if x.dim() else 1, behind, before, False)
    held = shadow(x)
    return _result(region, out, soft if held is None else soft + at_values(func, args, x, held))


def at_values(func: Func, args: Any, x: Tensor, held: Shadow) -> Tensor:
    """The same lookup in the shadow of a table."""
    return func(*(held.value() if y is x else y for y in args))  # type: ignore[no-any-return]


def gather(region: Region, func: Func, args: tuple[Any, ...], kwargs: dict[str, Any]) -> Any:
    named = dict(zip(("input", "dim", "index"), args), **kwargs)
    x, dim, index = named["input"], named["dim"], named["index"]
    if shadow(index) is None:
        return move(region, func, (x, dim, index), {})
    return _or_moved(region, func, (x, dim, index), lambda i: x.gather(dim, i), index, x, 0, 0)


def take_along_dim(region: Region, func: Func, args: tuple[Any, ...], kwargs: dict[str, Any]) -> Any:
    named = dict(zip(("input", "indices", "dim"), args), **kwargs)
    x, index, dim = named["input"], named["indices"], named.get("dim")
    if shadow(index) is None:
        return move(region, func, (x, index, dim), {})
    if dim is None:
        return region.call(torch.take, x, index.reshape(-1))
    out = func(x, index, dim)
    at = lambda i: torch.take_along_dim(x, i, dim)
    own = shadow(index)
    assert own is not None
    return _result(region, out, _soft(at, out, index, own, x.shape[dim], 0, 0, False))


def take(region: Region, func: Func, args: tuple[Any, ...], kwargs: dict[str, Any]) -> Any:
    named = dict(zip(("input", "index"), args), **kwargs)
    x, index = named["input"], named["index"]
    if shadow(index) is None:
        return move(region, func, (x, index), {})
    return look_up(region, lambda i: x.take(i), index, x.numel(), 0)


def embedding(region: Region, func: Func, args: tuple[Any, ...], kwargs: dict[str, Any]) -> Any:
    named = dict(zip(("input", "weight"), args), **kwargs)
    index, table = (named["input"], named["weight"]) if func is F.embedding else (args[1], args[0])
    if shadow(index) is None:
        return func(*args, **kwargs)
    swap = lambda i: func(
        *(i if x is index else x for x in args), **{k: i if x is index else x for k, x in kwargs.items()}
    )
    return look_up(region, swap, index, table.shape[0], 1, wrap=False)


def one_hot_of(x: Tensor, own: Shadow, classes: int) -> Tensor:
    """The shadow of ``one_hot(x, classes)``."""
    if isinstance(own, Weights):
        weights, labels = own.weights(), own.labels.long()
        full = weights.expand(*x.shape, labels.shape[-1])
        labels = labels.clamp(0, classes - 1).expand(full.shape)
        return torch.zeros(*x.shape, classes, dtype=full.dtype, device=x.device).scatter_add(-1, labels, full)
    hot = lambda i: F.one_hot(i.long().clamp(0, classes - 1), classes).to(own.value().dtype)
    soft = _soft(hot, x, x, own, classes, 1, 0, False)
    numbers = alias(x)
    return follow(soft, lambda: hot(numbers))


def one_hot(region: Region, func: Func, args: tuple[Any, ...], kwargs: dict[str, Any]) -> Any:
    out = func(*args, **kwargs)
    x = args[0] if args else kwargs["tensor"]
    own = shadow(x)
    if own is None:
        return out
    classes = out.shape[-1]
    numbers = alias(x)
    positions = isinstance(own, Weights) and own.positions and classes == own.labels.shape[-1]
    make = own.weights if positions and isinstance(own, Weights) else lambda: one_hot_of(numbers, own, classes)
    return carry(region, out, Shadow(make, lambda hot: 1 - hot))


def unravel_index(region: Region, func: Func, args: tuple[Any, ...], kwargs: dict[str, Any]) -> Any:
    index, shape = args
    if shadow(index) is None:
        return func(*args, **kwargs)
    out, rest = [], index
    for size in reversed(shape):
        out.append(region.call(torch.remainder, rest, size))
        rest = region.call(torch.div, rest, size, rounding_mode="floor")
    return tuple(reversed(out))
