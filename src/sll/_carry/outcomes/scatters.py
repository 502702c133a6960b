"""Writes at an index that was decided: the transpose of a lookup.

Each element of the index is one of a few positions, with weights, so what is written is shared among them.
*Adding* (`scatter_add`, `index_add`, ``index_put(accumulate=True)``) is linear: every position gets its share.
*Replacing* (`scatter`, ``x[idx] = v``, `index_fill`, `index_copy`) leaves the old value with the weight that nothing
was written.
Where a whole permutation is written (``rank[x.argsort()] = arange``) the result is looked up at the position of each
element instead, so that what it carries belongs to the same choice.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import Any

import torch
from torch import Tensor

from ..._ops.band import hard_forward
from ..._ops.dtypes import compute_dtype, exact_dtype
from ..._rules.index import op_name
from ..interface import Func, Region
from .algebra import through_expectation
from .carriers import Choice, Expectation, Outcomes, attach, carrier, choice, discrete_carrier
from .constants import bool_outcomes
from .decisions import decided_by, equal_keys
from .expectations import expect
from .mixtures import distribution, join_values
from .orders import Ordered, positions
from .registry import follows
from .regrouping import regroup
from .trees import original

Put = Callable[[Tensor, Tensor, Tensor], Tensor]
"""``put(into, index, source)``: `into`, with `source` (of the shape that `index` addresses) added at `index`."""


def _soft(x: Any, dtype: torch.dtype) -> Any:
    """A tensor or number as a float, discrete results as their expectation."""
    if not isinstance(x, Tensor):
        return x
    return (expect(x) if discrete_carrier(x) else x).to(dtype)


_NO_POSITIONS = "an index that is a count has no positions. Use x.unsqueeze(-1) == torch.arange(n) as weights."


def write(
    region: Region,
    name: str,
    hard: Tensor,
    target: Tensor,
    index: Tensor,
    source: Any,
    put: Put,
    spread: Callable[[Tensor], Tensor],
    size: int,
    *,
    add: bool,
    at_once: Callable[[Tensor], Tensor] | None = None,
) -> Tensor | None:
    """What `hard` carries, or with which gradient: `source` written at a decided `index` into `target`, along a
    dimension of `size`. An outcome beyond the end of that writes nothing.

    `spread` brings a tensor of the shape of the index to the shape of what is written. `at_once` brings one with all
    positions, (*index.shape, M), to the shape of an index that writes to all of them; without it they take turns.
    """
    dist = distribution(index)
    if dist is None:
        region.lose(name, [index], _NO_POSITIONS)
        return None
    dtype = torch.promote_types(
        compute_dtype(dist.weights.dtype, hard.dtype), torch.float32 if hard.is_floating_point() else exact_dtype(hard)
    )
    total = share = touched = torch.zeros(target.shape, dtype=dtype, device=hard.device)
    for at, weight, even, amount in _steps(dist, index, source, dtype, size, spread, at_once):
        total = put(total, at, amount)
        if not add:
            share = put(share, at, weight)
        touched = put(touched, at, ((weight > 0) & (weight < 1) & ~even).to(dtype))
    old = _soft(target, dtype)
    if add:
        return _finish(region, hard, old + total, touched > 0)
    covered = share.clamp(max=1)
    one_value = not isinstance(source, Tensor) or source.dim() == 0 and carrier(source) is None
    if one_value and carrier(target) is None and not hard.is_floating_point():
        value = source if isinstance(source, Tensor) else torch.tensor(source)
        new = torch.full((1,) * hard.dim(), value.item(), dtype=hard.dtype, device=hard.device)
        return attach(region, hard, Outcomes(decided_by(covered), target.detach().clone(), new))
    return _finish(region, hard, old * (1 - covered) + total / share.clamp(min=1), touched > 0)


def _steps(
    dist: Choice,
    index: Tensor,
    source: Any,
    dtype: torch.dtype,
    size: int,
    spread: Callable[[Tensor], Tensor],
    at_once: Callable[[Tensor], Tensor] | None,
) -> Iterator[tuple[Tensor, Tensor, Tensor, Tensor]]:
    """Where is written with which weight, whether at a tie, and how much: for all positions `at_once`, or in turns."""
    many = dist.values.shape[-1]
    at = torch.where(dist.values < 0, dist.values + size, dist.values)
    weights = torch.where((at >= 0) & (at < size), dist.weights.to(dtype), 0).expand(*index.shape, many)
    at = at.clamp(0, size - 1).expand(*index.shape, many)
    even = dist.ties.expand(*index.shape, many)
    joint = choice(source) if isinstance(source, Tensor) else None
    own = choice(index)
    written: Any = None
    if joint is not None and own is not None and equal_keys(joint.key, own.key):
        # written and where it is written depend on the same choice
        written = joint.values.to(dtype).expand(*index.shape, many)
    elif at_once is not None:
        written = _soft(source, dtype)
        written = written.unsqueeze(-1) if isinstance(written, Tensor) and written.dim() else written
    if at_once is not None:
        at = at_once(at)
        yield at, at_once(weights), at_once(even), at_once((weights * written).expand(weights.shape))
        return
    for m in range(many):
        weight, one = spread(weights[..., m]), None if written is None else spread(written[..., m])
        yield (
            at[..., m].contiguous(),
            weight,
            spread(even[..., m]),
            weight * (_soft(source, dtype) if one is None else one),
        )


def _finish(region: Region, hard: Tensor, soft: Tensor, touched: Tensor) -> Tensor:
    if hard.dtype == torch.bool:
        return attach(region, hard, bool_outcomes(decided_by(soft), hard))
    if not hard.is_floating_point():
        return attach(region, hard, Expectation(soft))
    return torch.where(touched, soft.to(hard.dtype), hard_forward(hard, soft))


def permuted(region: Region, hard: Tensor, target: Tensor, index: Tensor, source: Any, dim: int) -> Tensor | None:
    """``target[index] = source`` for a whole permutation: `source`, looked up at the position of each element."""
    found = choice(index)
    if not isinstance(found, Ordered) or index.shape != target.shape or found.dim % index.dim() != dim:
        return None
    if not isinstance(source, Tensor) or carrier(source) is not None:
        return None
    if not found.known():
        return None
    at = positions(found.order, found.dim, found.key[1:], index)
    rows = source.to(hard.dtype).expand(index.shape).movedim(dim, -1)
    places = at.values.movedim(dim, -2)
    values = rows.gather(-1, places.flatten(-2)).reshape(places.shape).movedim(-2, dim)
    return join_values(region, hard, at, values)


def _dimension(target: Tensor, dim: int) -> int | None:
    """`dim` counted from the front; None if `target` has no such dimension."""
    many = max(target.dim(), 1)
    return dim % many if -many <= dim < many else None


def _scatter(add: bool) -> Callable[..., Any]:
    def rule(region: Region, func: Func, args: tuple[Any, ...], kwargs: dict[str, Any]) -> Any:
        named = dict(zip(("input", "dim", "index", "src"), args), **kwargs)
        named = {{"value": "src"}.get(name, name): x for name, x in named.items()}
        target, dim, index, source = (named.get(n) for n in ("input", "dim", "index", "src"))
        if not isinstance(index, Tensor) or not any(carrier(x) is not None for x in (target, index, source)):
            return func(*args, **kwargs)
        assert isinstance(target, Tensor) and isinstance(dim, int)
        dim = _dimension(target, dim)
        if dim is None:
            return func(*args, **kwargs)  # raises
        if named.get("reduce") is not None:
            carried: list[Tensor] = [t for t in (target, index, source) if discrete_carrier(t)]  # type: ignore[misc]
            region.lose(op_name(func), carried, "scatter with reduce= passes nothing on; use scatter_add.")
            return func(*args, **kwargs)
        if not discrete_carrier(index):
            return _plain_index(region, func, args, kwargs, target, dim, index, source, add)
        hard = original(func, *args, **kwargs)
        if hard.numel() == 0 or index.numel() == 0 or target.dim() == 0:
            return func(*args, **kwargs)
        if not add:
            found = permuted(region, hard, target, index, source, dim)
            if found is not None:
                return found
        if isinstance(source, Tensor) and source.shape != index.shape:
            source = region.call(torch.Tensor.__getitem__, source, tuple(slice(0, n) for n in index.shape))

        def put(into: Tensor, at: Tensor, written: Tensor) -> Tensor:
            return into.scatter_add(dim, at.long(), written.expand(at.shape))

        def at_once(t: Tensor) -> Tensor:
            return t.movedim(-1, dim).flatten(dim, dim + 1)

        size = target.shape[dim]
        out = write(
            region, op_name(func), hard, target, index, source, put, lambda t: t, size, add=add, at_once=at_once
        )
        return func(*args, **kwargs) if out is None else out

    return rule


def _plain_index(
    region: Region, func: Func, args: tuple[Any, ...], kwargs: dict[str, Any], target: Tensor, dim: int,
    index: Tensor, source: Any, add: bool,
) -> Any:  # fmt: skip
    if not any(discrete_carrier(x) for x in (target, source)):
        return func(*args, **kwargs)  # floats show what they are
    if add:
        return through_expectation(region, lambda t, s: t.scatter_add(dim, index, s), (target, source), {}, widen=True)
    hard = original(func, *args, **kwargs)
    if not isinstance(source, Tensor):
        source = torch.full(index.shape, source, dtype=target.dtype, device=target.device)
    parts = [target, source]
    put = lambda ts: ts[0].scatter(dim, index, ts[1].to(ts[0].dtype))
    return attach(region, hard, regroup(region, put, parts, hard))


def index_add(region: Region, func: Func, args: tuple[Any, ...], kwargs: dict[str, Any]) -> Any:
    named = dict(zip(("input", "dim", "index", "source"), args), **kwargs)
    target, dim, index, source = (named[n] for n in ("input", "dim", "index", "source"))
    alpha = named.get("alpha", 1)
    if not any(carrier(x) is not None for x in (target, index, source)):
        return func(*args, **kwargs)
    dim = _dimension(target, dim)
    if dim is None:
        return func(*args, **kwargs)  # raises
    if not discrete_carrier(index):
        if not any(discrete_carrier(x) for x in (target, source)):
            return func(*args, **kwargs)
        return through_expectation(
            region, lambda t, s: t.index_add(dim, index, s, alpha=alpha), (target, source), {}, widen=True
        )
    return _along(region, func, args, kwargs, target, dim, index, region.call(torch.mul, source, alpha), add=True)


def index_fill(region: Region, func: Func, args: tuple[Any, ...], kwargs: dict[str, Any]) -> Any:
    """``index_fill(input, dim, index, value)``, ``index_copy(input, dim, index, source)``."""
    named = dict(zip(("input", "dim", "index", "value"), args), **kwargs)
    target, dim, index = named["input"], named["dim"], named["index"]
    source = named["value"] if "value" in named else named["source"]
    if not any(carrier(x) is not None for x in (target, index, source)):
        return func(*args, **kwargs)
    dim = _dimension(target, dim)
    if dim is None:
        return func(*args, **kwargs)  # raises
    if not discrete_carrier(index):
        if not any(discrete_carrier(x) for x in (target, source)):
            return func(*args, **kwargs)
        hard = original(func, *args, **kwargs)
        full = source if isinstance(source, Tensor) else torch.tensor(source, dtype=target.dtype, device=target.device)
        shape = (*target.shape[:dim], index.numel(), *target.shape[dim + 1 :])
        full = region.call(torch.Tensor.expand, full, shape)
        put = lambda ts: ts[0].index_copy(dim, index.reshape(-1), ts[1].to(ts[0].dtype))
        return attach(region, hard, regroup(region, put, [target, full], hard))
    return _along(region, func, args, kwargs, target, dim, index, source, add=False)


def _along(
    region: Region, func: Func, args: tuple[Any, ...], kwargs: dict[str, Any], target: Tensor, dim: int,
    index: Tensor, source: Any, *, add: bool,
) -> Any:  # fmt: skip
    """A 1-dimensional index along `dim`: slices of the target."""
    hard = original(func, *args, **kwargs)
    if hard.numel() == 0 or index.numel() == 0 or target.dim() == 0:
        return func(*args, **kwargs)
    behind = target.dim() - dim - 1

    def spread(t: Tensor) -> Tensor:
        return t.reshape((-1, *(1,) * behind))

    def put(into: Tensor, at: Tensor, written: Tensor) -> Tensor:
        shape = (*into.shape[:dim], at.numel(), *into.shape[dim + 1 :])
        return into.index_add(dim, at.reshape(-1).long(), written.expand(shape))

    out = write(region, op_name(func), hard, target, index, source, put, spread, target.shape[dim], add=add)
    return func(*args, **kwargs) if out is None else out


def index_put(region: Region, func: Func, args: tuple[Any, ...], kwargs: dict[str, Any]) -> Any:
    named = dict(zip(("input", "indices", "values", "accumulate"), args), **kwargs)
    target, items, source = named["input"], tuple(named["indices"]), named["values"]
    operands = (target, source, *items)
    if not any(carrier(x) is not None for x in operands):
        return func(*args, **kwargs)
    add = bool(named.get("accumulate", False))
    if not any(discrete_carrier(x) for x in items):
        if not any(discrete_carrier(x) for x in (target, source)):
            return func(*args, **kwargs)
        if add:
            return through_expectation(
                region, lambda t, s: t.index_put(items, s, accumulate=True), (target, source), {}, widen=True
            )
        hard = original(func, *args, **kwargs)
        full = region.call(torch.Tensor.expand, source, target[items].shape)
        put = lambda ts: ts[0].index_put(items, ts[1].to(ts[0].dtype))
        return attach(region, hard, regroup(region, put, [target, full], hard))
    hard = original(func, *args, **kwargs)
    out = at_items(region, "index_put", hard, target, items, source, add=add)
    return func(*args, **kwargs) if out is None else out


def at_items(
    region: Region, name: str, hard: Tensor, target: Tensor, items: tuple[Any, ...], source: Any, *, add: bool
) -> Tensor | None:
    """`source` written into ``target[items]``, of which one is a decided index; `hard` is the result. None: lost."""
    from .indices import geometry, indexes

    decided = [i for i, item in enumerate(items) if discrete_carrier(item)]
    masks = [items[i] for i in decided if items[i].dtype in (torch.bool, torch.uint8)]
    if len(decided) > 1 or masks or any(isinstance(item, bool) for item in items):
        region.lose(
            name,
            [items[i] for i in decided],
            "only one index of a write can be decided, and a mask only by itself. Use torch.where, or write at one "
            "index of the flattened tensor.",
        )
        return None
    place = decided[0]
    index = items[place]
    if len(items) == 1 and not add and target.dim() == 1:
        found = permuted(region, hard, target, index, source, 0)
        if found is not None:
            return found
    items = tuple(i if indexes(i) else torch.as_tensor(i, device=target.device) for i in items)
    size, trailing = geometry(target, items, place)
    shape = target[items].shape

    def spread(t: Tensor) -> Tensor:
        return t.reshape((*index.shape, *(1,) * trailing)).expand(shape)

    def put(into: Tensor, at: Tensor, written: Tensor) -> Tensor:
        # Positions, because index_put does not take slices.
        number = torch.arange(into.numel(), device=into.device).reshape(into.shape)
        where = number[(*items[:place], at.long(), *items[place + 1 :])].reshape(-1)
        return into.reshape(-1).index_add(0, where, written.expand(shape).reshape(-1)).reshape(into.shape)

    return write(region, name, hard, target, index, source, put, spread, size, add=add)


follows(_scatter(False), "scatter")
follows(_scatter(True), "scatter_add")
follows(index_add, "index_add")
follows(index_fill, "index_fill", "index_copy")
follows(index_put, "index_put")
