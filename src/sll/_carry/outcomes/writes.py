"""Writes into tensors: ``x[index] = value``, `copy_`, and those at a decided index, the transpose of a lookup.

Each element of such an index is one of a few positions, with weights, so what is written is shared among them.
*Adding* (`scatter_add`, `index_add`, ``index_put(accumulate=True)``) is linear: every position gets its share.
*Replacing* (`scatter`, ``x[idx] = v``, `index_fill`, `index_copy`) leaves the old value with the weight that nothing
was written.
Where a whole permutation is written (``rank[x.argsort()] = arange``) the result is looked up at the position of each
element instead, so that what it carries belongs to the same choice.

``op_`` and ``out=`` are handled for every rule in `../writes.py`.
"""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from typing import Any, NamedTuple

import torch
from torch import Tensor

from ..._ops.band import hard_forward
from ..._ops.dtypes import compute_dtype, exact_dtype
from ..._ops.env import readable
from ..._rules.index import op_name
from ..interface import Func, Region, attach
from ..rules import Call, spelled
from ..writes import at_mask
from .algebra import through_expectation
from .carriers import Choice, Expectation, Outcomes, bool_outcomes, carrier, choice, discrete_carrier, selection
from .decisions import decided_by, equal_keys, shows
from .expectations import expect
from .later import kept
from .lookups import as_indices, geometry
from .mixtures import distribution, regroup
from .registry import WRITES
from .selections import SELECTIONS, one_by_one
from .trees import original


class _Write(NamedTuple):
    """``call(target, index, source)``, which adds `source` to `target` at `index`, or replaces what is there."""

    name: str
    call: Func
    target: Tensor
    index: Any
    source: Any
    add: bool
    size: int
    """Of the dimension that is indexed."""
    place: Callable[[Tensor, Any], Tensor]
    """``place(x, index)``: what `x`, of the shape of the target, has there."""
    spread: Callable[[Tensor], Tensor]
    """Brings a tensor of the shape of the index to one that broadcasts with what is written."""
    dim: int | None = None
    """The dimension along which a whole permutation may be written."""
    alpha: float = 1

    def at(self, index: Any) -> Tensor:
        """Numbers of elements of the target."""
        every = torch.arange(self.target.numel(), device=self.target.device)
        return self.place(every.reshape(self.target.shape), index)


def _soft(x: Any, dtype: torch.dtype) -> Any:
    """A tensor or number as a float, discrete results as their expectation."""
    if not isinstance(x, Tensor):
        return x
    return (expect(x) if discrete_carrier(x) else x).to(dtype)


_NO_POSITIONS = "an index that is a count has no positions. Use x.unsqueeze(-1) == torch.arange(n) as weights."


def _written(region: Region, write: _Write) -> Any:
    """The result of a write, with what it carries."""
    call, target, index, source = write.call, write.target, write.index, write.source
    if not discrete_carrier(index):
        decided = any(discrete_carrier(x) for x in (target, source))
        if not decided and (write.add or not any(isinstance(carrier(x), Choice) for x in (target, source))):
            return call(target, index, source)  # floats show what they are
        if write.add:
            return through_expectation(region, lambda t, s: call(t, index, s), (target, source), {}, widen=True)
        run = call if target.is_floating_point() else partial(original, call)
        return _at_plain_places(region, run(target, index, source), target, write.at(index), source)
    hard = original(call, target, index, source)
    if hard.numel() == 0 or index.numel() == 0 or target.dim() == 0:
        return call(target, index, source)
    found = None if write.add else _permuted(region, hard, write)
    found = _at_decisions(region, hard, write) if found is None else found
    if found is None:
        region.lose(write.name, [index], _NO_POSITIONS)
    return call(target, index, source) if found is None else found


def _at_plain_places(region: Region, hard: Tensor, target: Tensor, at: Tensor, source: Any) -> Tensor:
    """`hard`, which is `target` with `source` written at the elements with the numbers `at`, with what both carry."""
    if not isinstance(source, Tensor):
        source = torch.as_tensor(source, dtype=target.dtype, device=target.device)
    source = region.call(torch.Tensor.expand, source, at.shape)

    def put(parts: list[Tensor]) -> Tensor:
        old, new = parts[0].reshape(-1), parts[1].reshape(-1)
        return old.index_put((at.reshape(-1),), new.to(old.dtype)).reshape(target.shape)

    return attach(region, hard, regroup(region, put, [target, source], hard))


def _at_decisions(region: Region, hard: Tensor, write: _Write) -> Tensor | None:
    """What `hard` carries, or with which gradient. An outcome beyond the end writes nothing. None for a count."""
    target, source = write.target, write.source
    dist = distribution(write.index)
    if dist is None:
        return None
    dtype = torch.promote_types(
        compute_dtype(dist.weights.dtype, hard.dtype), torch.float32 if hard.is_floating_point() else exact_dtype(hard)
    )
    at, weights, even, amounts = _shares(dist, write, dtype)

    def put(written: Tensor) -> Tensor:
        nothing = torch.zeros(target.numel(), dtype=dtype, device=hard.device)
        return nothing.index_add(0, at.reshape(-1), written.expand(at.shape).reshape(-1)).reshape(target.shape)

    total = put(amounts)
    touched = put(((weights > 0) & (weights < 1) & ~even).to(dtype)) > 0
    old = _soft(target, dtype)
    if write.add:
        return _finish(region, hard, old + total, touched)
    share = put(weights)
    covered = share.clamp(max=1)
    value = _one_value(source)
    known = value is not None and carrier(target) is None
    if known and not hard.is_floating_point():
        return attach(region, hard, _in_or_out(covered, hard, target.detach().clone(), value))
    out = _finish(region, hard, old * (1 - covered) + total / share.clamp(min=1), touched)
    return attach(region, out, _in_or_out(covered, hard, target, value)) if known else out


def _one_value(source: Any) -> Any:
    """The number that is written at every place, if it is one; else None."""
    if not isinstance(source, Tensor):
        return source
    if carrier(source) is not None:
        return None
    if source.dim() == 0:
        return source
    known = readable(source) if not source.requires_grad else None
    return known.reshape(-1)[0] if known is not None and bool((known == known.reshape(-1)[0]).all()) else None


def _in_or_out(covered: Tensor, hard: Tensor, old: Tensor, value: Any) -> Outcomes:
    """Element by element `value` was written, or `old` was left."""
    new = torch.as_tensor(value, device=hard.device).to(hard.dtype).reshape((1,) * hard.dim())
    decision = decided_by(covered)
    decision.side = shows(hard, new)
    return Outcomes(decision, old, new)


def _shares(dist: Choice, write: _Write, dtype: torch.dtype) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    """Where is written with which weight, whether at a tie, and how much: (*shape, M)."""
    index, source, size = write.index, write.source, write.size
    shape = (*index.shape, dist.values.shape[-1])
    place = torch.where(dist.values < 0, dist.values + size, dist.values)
    weights = torch.where((place >= 0) & (place < size), dist.weights.to(dtype), 0).expand(shape)
    shown = torch.where(index < 0, index + size, index).unsqueeze(-1)
    place = torch.where(weights.detach() == 0, shown, place)  # (elsewhere the gradient may be infinite)
    place = place.clamp(0, size - 1).long().expand(shape)
    at = torch.stack([write.at(i.contiguous()) for i in place.unbind(-1)], -1)

    def spread(t: Tensor) -> Tensor:
        return torch.stack([write.spread(part) for part in t.expand(shape).unbind(-1)], -1)

    joint = choice(source) if isinstance(source, Tensor) else None
    own = choice(index)
    if joint is not None and own is not None and equal_keys(joint.key, own.key):
        amount = spread(joint.values.to(dtype))  # written and where it is written depend on the same choice
    else:
        amount = _soft(source, dtype)
        amount = amount.unsqueeze(-1) if isinstance(amount, Tensor) else amount
    wide = spread(weights)
    amounts = torch.where(wide > 0, wide * amount * write.alpha, 0)  # (0 * inf, if nothing else is written there)
    return at, wide.expand(at.shape), spread(dist.ties).expand(at.shape), amounts.expand(at.shape)


def _finish(region: Region, hard: Tensor, soft: Tensor, touched: Tensor) -> Tensor:
    if hard.dtype == torch.bool:
        return attach(region, hard, bool_outcomes(decided_by(soft), hard))
    if not hard.is_floating_point():
        return attach(region, hard, Expectation(soft))
    return torch.where(touched, soft.to(hard.dtype), hard_forward(hard, soft))


def _permuted(region: Region, hard: Tensor, write: _Write) -> Tensor | None:
    """``target[index] = source`` for a whole permutation: `source`, looked up at the position of each element."""
    index, source, dim = write.index, write.source, write.dim
    if (
        dim is None
        or index.shape != write.target.shape
        or not isinstance(source, Tensor)
        or carrier(source) is not None
    ):
        return None
    found = choice(index)
    if found is None or found.order is None or found.dim % index.dim() != dim:
        return None
    at = region.call(torch.argsort, index, dim)
    return region.call(torch.gather, source.to(hard.dtype).expand(index.shape), dim, at)  # type: ignore[no-any-return]


_NAMES = {"value": "source", "src": "source", "self": "input"}


def along(region: Region, func: Func, args: tuple[Any, ...], kwargs: dict[str, Any]) -> Any:
    """`scatter`, `scatter_add`, `index_add`, `index_fill`, `index_copy`: along one dimension."""
    named = dict(zip(("input", "dim", "index", "source"), args), **{_NAMES.get(n, n): x for n, x in kwargs.items()})
    target, dim, index, source = (named.get(n) for n in ("input", "dim", "index", "source"))
    if not isinstance(target, Tensor) or not isinstance(dim, int) or not isinstance(index, Tensor):
        return func(*args, **kwargs)
    many = max(target.dim(), 1)
    if not any(carrier(x) is not None for x in (target, index, source)) or not -many <= dim < many:
        return func(*args, **kwargs)  # (or raises)
    if named.get("reduce") is not None:
        carried = [t for t in (target, index, source) if isinstance(t, Tensor) and discrete_carrier(t)]
        region.lose(op_name(func), carried, "scatter with reduce= passes nothing on; use scatter_add.")
        return func(*args, **kwargs)
    dim %= many
    elements, behind = func.__name__ in ("scatter", "scatter_add"), target.dim() - dim - 1
    alpha = named.get("alpha", 1)

    def place(x: Tensor, at: Any) -> Tensor:
        return x.gather(dim, at) if elements else x.index_select(dim, at.reshape(-1))

    def spread(t: Tensor) -> Tensor:
        return t if elements else t.reshape((-1, *(1,) * behind))

    def call(t: Tensor, i: Any, s: Any) -> Any:
        return func(t, dim, i, s) if alpha == 1 else func(t, dim, i, s, alpha=alpha)

    if elements and isinstance(source, Tensor) and source.dim() == index.dim() and source.shape != index.shape:
        source = region.call(torch.Tensor.__getitem__, source, tuple(slice(0, n) for n in index.shape))
    add, size = func.__name__ in ("scatter_add", "index_add"), target.shape[dim] if target.dim() else 1
    whole = dim if elements else None
    write = _Write(func.__name__, call, target, index, source, add, size, place, spread, whole, alpha)
    return _written(region, write)


@spelled
def index_put(region: Region, call: Call, input: Tensor, indices: Any, values: Tensor, accumulate: bool = False) -> Any:
    items = tuple(indices)
    if not any(carrier(x) is not None for x in (input, values, *items)):
        return call()
    put = lambda t, i, s: call.func(t, i, s, accumulate)
    return _at_items(region, "index_put", put, input, items, values, accumulate)


def _at_items(region: Region, name: str, call: Func, target: Tensor, index: Any, source: Any, add: bool) -> Any:
    """``call(target, index, source)``, which writes into ``target[index]``, of which one item may be decided."""
    items = index if isinstance(index, tuple) else (index,)
    decided = [i for i, item in enumerate(items) if discrete_carrier(item)]
    masks = [items[i] for i in decided if items[i].dtype in (torch.bool, torch.uint8)]
    if len(decided) > 1 or masks or decided and any(isinstance(item, bool) for item in items):
        region.lose(
            name,
            [items[i] for i in decided],
            "only one index of a write can be decided, and a mask only by itself. Use torch.where, or write at one "
            "index of the flattened tensor.",
        )
        return call(target, index, source)
    if not decided:
        whole = _Write(name, call, target, index, source, add, 0, lambda x, i: x[i], lambda t: t)
        return _written(region, whole)
    n = decided[0]
    items = as_indices(items, target)
    size, trailing = geometry(target, items, n)
    decided_index, shape = items[n], target[items].shape

    def among(i: Any) -> tuple[Any, ...]:
        return (*items[:n], i, *items[n + 1 :])

    def spread(t: Tensor) -> Tensor:
        return t.reshape((*decided_index.shape, *(1,) * trailing)).expand(shape)

    def put(t: Tensor, i: Any, s: Any) -> Any:
        return call(t, among(i), s)

    dim = 0 if len(items) == 1 and target.dim() == 1 else None
    pick = lambda x, i: x[among(i)]
    return _written(region, _Write(name, put, target, decided_index, source, add, size, pick, spread, dim))


def setitem(region: Region, func: Func, args: tuple[Any, ...], kwargs: dict[str, Any]) -> Any:
    target, index, value = args
    items = index if isinstance(index, tuple) else (index,)
    decided = any(discrete_carrier(item) for item in items)
    value = WRITES.converted(region, value, target)
    chosen = any(isinstance(x, Tensor) and isinstance(carrier(x), Choice) for x in (value, target))
    floats = target.is_floating_point() or not (discrete_carrier(value) or discrete_carrier(target))
    if not decided and not chosen and floats:
        return func(target, index, value)  # autograd follows the write, and a promise of outcomes goes stale
    before = kept(target)  # (the value may be a view of it)

    def assigned(old: Tensor, at: Any, new: Any) -> Tensor:
        copy = old.clone()
        func(copy, at, new)
        return copy

    if decided and len(items) == 1 and items[0].dtype == torch.bool:
        assigned(target.detach(), index, value.detach() if isinstance(value, Tensor) else value)  # raises if it must
        out = _at_mask(region, before, items[0], value)
    else:
        rank = target[index].dim()
        if isinstance(value, Tensor) and value.dim() > rank:  # leading dimensions of size 1, which indexing accepts
            value = region.call(torch.Tensor.reshape, value, value.shape[value.dim() - rank :])
        out = _at_items(region, "setitem", assigned, before, index, value, add=False)
    WRITES.overwrite(region, target, out)
    return None


def _at_mask(region: Region, before: Tensor, mask: Tensor, value: Any) -> Any:
    """What is in the place of `before` after ``before[mask] = value``."""
    found = selection(value)
    if found is None or not found.made_by(mask):
        return at_mask(region, before, mask, value)
    full = before.clone().reshape((mask.numel(), *before.shape[mask.dim() :]))  # y[mask] = x[mask] * 2
    full[found.near] = found.candidates.to(before.dtype)
    wide = region.call(torch.Tensor.reshape, mask, tuple(mask.shape) + (1,) * (before.dim() - mask.dim()))
    return region.call(torch.where, wide, full.reshape(before.shape), before)


def write_selection(region: Region, func: Func, args: tuple[Any, ...], kwargs: dict[str, Any]) -> Any:
    """``y[mask] = f(x[mask])``: the mask makes the same selection again."""
    _, index, value = args
    found = selection(value)
    if found is not None and isinstance(index, Tensor) and discrete_carrier(index) and found.made_by(index):
        return setitem(region, func, args, kwargs)
    return one_by_one(region, func, args, kwargs)


SELECTIONS[torch.Tensor.__setitem__] = write_selection
