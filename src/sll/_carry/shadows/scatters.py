"""Writes at an index that was decided: `scatter`, `index_put`, `index_add` …, and ``x[i] = value``.

An index that moves takes what it writes with it. So it gets, at the place where it would write, the difference that the
write makes there, less the same at the place where it writes now.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor

from ..._ops.surrogates import alias, follow
from ..interface import Func, Region
from .elementwise import _added
from .shadow import Shadow, Weights, carry, shadow


def _as_value(x: Any) -> Any:
    """What stands for an operand where floats are computed: the shadow, or the tensor as a float."""
    own = shadow(x)
    if own is not None:
        return own.value()
    return x.float() if isinstance(x, Tensor) and not x.is_floating_point() else x


def moved_write(
    index: Tensor,
    own: Shadow,
    source: Any,
    add: bool,
    size: int,
    put: Callable[..., Tensor],
    get: Callable[..., Tensor],
) -> Tensor:
    """A tensor that has the gradient of the index. `put` adds values at an index to zeros, `get` reads there what the
    write overwrites.
    """

    def change(i: Tensor) -> Tensor:
        with torch.no_grad():
            new = torch.as_tensor(_as_value(source), device=index.device).detach()
            made = new if add else new - get(i)
            return made.nan_to_num(0.0, 0.0, 0.0)

    if isinstance(own, Weights):
        weights = own.weights().expand(*index.shape, -1)
        labels = own.labels.long().clamp(-size, size - 1).expand(weights.shape)
        total: Any = 0
        for label, weight in zip(labels.unbind(-1), weights.unbind(-1)):
            total = total + put(label, weight * change(label))
        return total  # type: ignore[no-any-return]
    beyond, here = own.other(index), index.long()
    if beyond is None:
        beyond = here + 1
    beyond = beyond.long().clamp(-size if bool((here < 0).any()) else 0, size - 1)
    share = own.value() * torch.where(beyond == here, 0.0, 1.0 / (beyond - here))
    return put(beyond, share * change(beyond)) - put(here, share * change(here))


def _written(
    region: Region, hard: Tensor, func: Callable[..., Tensor], target: Tensor, source: Any, soft: Any
) -> Tensor:
    """The result `hard` of a write; `func` writes floats in the place of `target` and `source`."""
    if hard.is_floating_point():
        if shadow(source) is not None:
            hard = func(target, shadow(source).shown(source, hard.dtype))  # type: ignore[union-attr]
        return hard if soft is None else _added(hard, soft)
    if shadow(target) is not None or shadow(source) is not None:
        base = func(_as_value(target), _as_value(source))
        soft = base if soft is None else base + soft
    if soft is None:
        return hard
    numbers = alias(hard)
    value = follow(soft.expand(hard.shape), lambda: numbers.to(soft.dtype))
    return carry(region, hard, Shadow.of(value, (lambda n: 1 - n) if _is_hot(target, source) else None))


def _is_hot(target: Tensor, source: Any) -> bool:
    """Whether ones are written among zeros."""
    return isinstance(source, (int, float)) and source == 1 and not target.is_floating_point() and not target.any()


def scatter(add: bool) -> Callable[..., Any]:
    def rule(region: Region, func: Func, args: tuple[Any, ...], kwargs: dict[str, Any]) -> Any:
        named = dict(zip(("input", "dim", "index", "src"), args), **kwargs)
        x, dim, index = named["input"], named["dim"], named["index"]
        source = named["src"] if "src" in named else named.get("value")
        if not any(shadow(y) is not None for y in (x, index, source)):
            return func(*args, **kwargs)
        if named.get("reduce") is not None:
            return _lost(region, func, args, kwargs)
        put = lambda i, v: torch.zeros(x.shape, dtype=v.dtype, device=x.device).scatter_add(dim, i, v.expand(i.shape))
        get = lambda i: _as_value(x).gather(dim, i)
        own, soft, write = shadow(index), None, torch.scatter_add if add else torch.scatter
        if own is not None:
            at = dim % x.dim() if x.dim() else 0
            subset = own.subset if isinstance(own, Weights) else None
            if subset is not None and isinstance(source, (int, float)) and index.dim() == x.dim() and not add:
                with torch.no_grad():
                    change = source - _as_value(x)
                hot = subset()
                soft = hot * change if hot.shape == x.shape else None
            elif isinstance(own, Weights) and own.positions and index.shape[at] == 1 and not isinstance(source, Tensor):
                hot = own.weights().squeeze(at).movedim(-1, at)
                with torch.no_grad():
                    change = torch.as_tensor(source if add else source - _as_value(x))
                soft = hot * change if hot.shape == x.shape else None
            if soft is None:
                cut = source[tuple(map(slice, index.shape))] if isinstance(source, Tensor) else source
                soft = moved_write(index, own, cut, add, x.shape[dim] if x.dim() else 1, put, get)
        hard = func(*args, **kwargs)
        floats = lambda target, src: write(target, dim, index, src)
        return _written(region, hard, floats, x, source, soft)

    return rule


def index_add(region: Region, func: Func, args: tuple[Any, ...], kwargs: dict[str, Any]) -> Any:
    named = dict(zip(("input", "dim", "index", "source"), args), **kwargs)
    x, dim, index, source = named["input"], named["dim"], named["index"], named["source"]
    alpha = named.get("alpha", 1)
    if not any(shadow(y) is not None for y in (x, index, source)):
        return func(*args, **kwargs)
    return _along(region, func, args, kwargs, (x, dim, index, source), True, lambda v: v * alpha if alpha != 1 else v)


def index_fill(region: Region, func: Func, args: tuple[Any, ...], kwargs: dict[str, Any]) -> Any:
    """`index_fill` with a number, `index_copy` with a tensor."""
    named = dict(zip(("input", "dim", "index", "source"), args), **kwargs)
    x, dim, index = named["input"], named["dim"], named["index"]
    source = named["source"] if "source" in named else named.get("value")
    if not any(shadow(y) is not None for y in (x, index, source)):
        return func(*args, **kwargs)
    return _along(region, func, args, kwargs, (x, dim, index, source), False, lambda v: v)


def _along(region: Region, func: Func, args: Any, kwargs: Any, parts: Any, add: bool, scaled: Func) -> Any:
    x, dim, index, source = parts
    at = dim % x.dim() if x.dim() else 0
    behind = x.dim() - at - 1
    wide = lambda t: t.reshape(*t.shape, *(1,) * behind)
    own, soft = shadow(index), None
    shape = lambda i: (*x.shape[:at], i.shape[0], *x.shape[at + 1 :])

    def put(i: Tensor, v: Tensor) -> Tensor:
        return torch.zeros(x.shape, dtype=v.dtype, device=x.device).index_add(at, i, v.expand(shape(i)))

    if own is not None:
        spread = _wide_shadow(own, wide)
        full = scaled(source)
        soft = _moved_along(index, spread, full, add, x, at, put, wide)
    hard = func(*args, **kwargs)
    write = lambda target, src: func(target, *args[1:3], src, **kwargs) if len(args) == 4 else hard
    return _written(region, hard, write, x, source, soft)


def _wide_shadow(own: Shadow, wide: Callable[[Tensor], Tensor]) -> Any:
    if isinstance(own, Weights):
        return [wide(w) for w in own.weights().unbind(-1)], own.labels
    return wide(own.value())


def _moved_along(index: Tensor, own: Any, source: Any, add: bool, x: Tensor, at: int, put: Func, wide: Func) -> Tensor:
    def change(i: Tensor) -> Tensor:
        with torch.no_grad():
            new = torch.as_tensor(_as_value(source), device=x.device).detach()
            return (new if add else new - _as_value(x).index_select(at, i)).nan_to_num(0.0, 0.0, 0.0)

    size = x.shape[at]
    if isinstance(own, tuple):
        weights, labels = own
        labels = labels.long().clamp(0, size - 1).expand(*index.shape, len(weights))
        return sum(put(i, w * change(i)) for i, w in zip(labels.unbind(-1), weights))  # type: ignore[return-value]
    found = shadow(index)
    assert found is not None
    here, beyond = index.long(), found.other(index)
    beyond = (here + 1 if beyond is None else beyond.long()).clamp(0, size - 1)
    share = own * wide(torch.where(beyond == here, 0.0, 1.0 / (beyond - here)))
    return put(beyond, share * change(beyond)) - put(here, share * change(here))  # type: ignore[no-any-return]


def index_put(region: Region, func: Func, args: tuple[Any, ...], kwargs: dict[str, Any]) -> Any:
    named = dict(zip(("input", "indices", "values", "accumulate"), args), **kwargs)
    x, items, value, add = named["input"], named["indices"], named["values"], bool(named.get("accumulate"))
    if not any(shadow(y) is not None for y in (x, value, *items)):
        return func(*args, **kwargs)
    hard = func(*args, **kwargs)
    return put_at(region, hard, x, tuple(items), value, add)


def put_at(region: Region, hard: Tensor, x: Tensor, items: tuple[Any, ...], value: Any, add: bool) -> Tensor:
    """`hard` is `x` after ``x[items] = value`` (or ``+=``); let it have the gradient of the indices, too."""
    soft: Any = None
    floats = lambda target, src: _index_put(target, items, src, add)
    for place, index in enumerate(items):
        own = shadow(index)
        if own is None:
            continue
        if index.dtype == torch.bool:
            return _lost_mask(region, hard, index)
        with_index = lambda i, place=place: (*items[:place], i, *items[place + 1 :])
        shape = x[items].shape
        behind = len(shape) - torch.broadcast_tensors(*[i for i in items if isinstance(i, Tensor)])[0].dim()
        put = lambda i, v, at=with_index: _index_put(
            torch.zeros(x.shape, dtype=v.dtype, device=x.device), at(i), v.expand(shape), True
        )
        get = lambda i, at=with_index: _as_value(x)[at(i)]
        spread = _behind(own, behind) if behind else own
        found = moved_write(index, spread, value, add, _size(x, items, place), put, get)
        soft = found if soft is None else soft + found
    return _written(region, hard, floats, x, value, soft)


def _behind(own: Shadow, dims: int) -> Shadow:
    """Its values with so many dimensions of size 1 behind them."""
    if isinstance(own, Weights):
        n = own.weights().shape[:-1]
        return Weights(lambda: (own.weights().reshape(*n, *(1,) * dims, -1), own.labels))
    return Shadow(lambda: own.value().reshape(*own.value().shape, *(1,) * dims), own._other)


def _size(x: Tensor, items: tuple[Any, ...], place: int) -> int:
    dim = 0
    for item in items[:place]:
        dim += item.dim() if isinstance(item, Tensor) and item.dtype == torch.bool else int(item is not None)
    return x.shape[dim]


def _index_put(target: Tensor, items: tuple[Any, ...], value: Any, add: bool) -> Tensor:
    out = target.clone()
    if add:
        tensors = [torch.as_tensor(i, device=target.device) for i in items]
        return out.index_put(tuple(tensors), value.to(out.dtype), accumulate=True)
    out[items] = value.to(out.dtype) if isinstance(value, Tensor) else value
    return out


_MASKED = "what a mask selects is written where it is. Use torch.where(mask, value, x)."


def _lost_mask(region: Region, hard: Tensor, mask: Tensor) -> Tensor:
    region.lose("index_put", [mask], _MASKED)
    return hard


def _lost(region: Region, func: Func, args: tuple[Any, ...], kwargs: dict[str, Any]) -> Any:
    decided = [x for x in (*args, *kwargs.values()) if shadow(x) is not None]
    region.lose(func.__name__, decided, "it has no derivative with reduce=; use scatter_add.")
    return func(*args, **kwargs)
