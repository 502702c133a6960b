"""Lookups with an integer that came from `round`, `floor` or a cast: ``table[idx]`` is looked up at both outcomes; with
an index that was chosen (argmax, sort) at each of its values.

An outcome beyond the end of the table is clamped to the end; the hard program would have failed there.
Lookups with plain indices only move the elements of the table (see `shape.py`).
"""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from ..._ops.env import compiling
from ..interface import Func, Region
from .carriers import Choice, Expectation, Outcomes, attach, carrier, choice, discrete_carrier, outcomes
from .constants import bool_outcomes, constant
from .counted import OF_WEIGHTED, by_ones, one_apart
from .decisions import Decision, decided_by, placed, shows
from .expectations import expect, undecided
from .indices import geometry, indexes
from .mixtures import join_values, mix
from .registry import follows
from .selections import selected
from .shape import move
from .trees import join, original

_A_COUNT = "an index that is a count is not looked up. Use (table * (count == torch.arange(n))).sum()."


def lookup(
    region: Region, name: str, func: Func, index: Tensor, size: int, trailing: int, *, wrap: bool = True,
    whole: bool = False,
) -> Any:  # fmt: skip
    """``func(index)``, a lookup in a table of `size` whose result has the dimensions of `index` and `trailing` more
    behind them. `whole`: `func` takes an index of any shape, and the index's dimensions come first in the result.
    """
    chosen = choice(index)
    if chosen is not None:
        return _look_up_choices(region, func, index, chosen, size, trailing, wrap=wrap, whole=whole)
    tree = outcomes(index)
    if tree is None:
        region.lose(name, [index], _A_COUNT if by_ones(index) else OF_WEIGHTED)
        return func(index.detach())  # carries nothing
    hard = original(func, index)
    sides = []
    for outcome in (tree.below, tree.above):
        full = region.call(torch.Tensor.expand, outcome, index.shape)
        full = region.call(torch.clamp, full, -size if wrap else 0, size - 1)
        if carrier(full) is None:
            sides.append(func(full))
        else:
            sides.append(lookup(region, name, func, full, size, trailing, wrap=wrap))
    decision = _with_trailing(tree.decision, index, trailing)
    return join(region, func, (), hard, Outcomes(decision, *sides))


def _look_up_choices(
    region: Region, func: Func, index: Tensor, chosen: Choice, size: int, trailing: int, *, wrap: bool, whole: bool
) -> Tensor:
    hard = original(func, index)
    values = chosen.values.expand(*index.shape, chosen.values.shape[-1]).clamp(-size if wrap else 0, size - 1)
    found = region.call(func, values) if whole else None  # an index of any shape: all values at once
    if found is not None and carrier(found) is None:
        found = found.movedim(index.dim(), -1)
    else:
        pieces = [func(value) for value in values.unbind(-1)]
        found = None if any(carrier(x) is not None for x in pieces) else torch.stack(pieces, -1)

    def aligned(t: Tensor) -> Tensor:  # other indices broadcast with this one
        t = t.expand(*index.shape, t.shape[-1])
        t = t.reshape(*index.shape, *(1,) * trailing, t.shape[-1])
        return t.reshape((1,) * (hard.dim() + 1 - t.dim()) + tuple(t.shape))

    same = trailing == 0 and hard.shape == index.shape
    key = chosen.key if same else ("trailing", chosen.key, trailing, hard.dim())
    chosen = Choice(key, values, aligned(chosen.weights), aligned(chosen.ties))
    if found is not None:
        return join_values(region, hard, chosen, found)
    table = torch.stack([expect(x) if not x.is_floating_point() else x for x in pieces], -1)
    if hard.dtype == torch.bool:
        return attach(region, hard, bool_outcomes(decided_by((chosen.weights * table).sum(-1)), hard))
    if not hard.is_floating_point():
        counts = one_apart(table) and all(by_ones(x) for x in pieces)
        return attach(region, hard, Expectation((chosen.weights.to(table.dtype) * table).sum(-1), counts))
    unsure = [undecided(x) for x in pieces]
    inner = torch.stack([u.expand(hard.shape) for u in unsure if u is not None], -1).any(-1)
    return mix(chosen.of(table), hard, inner)


def _with_trailing(decision: Decision, index: Tensor, trailing: int) -> Decision:
    if trailing == 0:
        return decision
    shape = tuple(index.shape)
    return placed(decision, shape, ("trailing", trailing), lambda w: w.reshape(shape + (1,) * trailing))


def getitem(region: Region, func: Func, args: tuple[Any, ...], kwargs: dict[str, Any]) -> Any:
    table, index = args
    items = index if isinstance(index, tuple) else (index,)
    linearized = [i for i, item in enumerate(items) if discrete_carrier(item)]
    bounds = [b for i in items if isinstance(i, slice) for b in (i.start, i.stop, i.step) if discrete_carrier(b)]
    if bounds:
        region.lose(
            "getitem",
            bounds,
            "where a slice starts and ends has no derivative. Use a mask of positions such as torch.arange(n) < k.",
        )
    if not linearized:
        return move(region, func, args, kwargs)
    if any(items[i].dtype in (torch.bool, torch.uint8) for i in linearized):
        return _masked(region, func, table, index, items)
    if any(isinstance(item, bool) for item in items):
        region.lose(
            "getitem",
            [items[i] for i in linearized],
            "an index beside True or False is not looked up. Use unsqueeze() in the place of True.",
        )
        return func(table, index)
    # Lists, ranges and arrays index like tensors.
    items = tuple(i if indexes(i) else torch.as_tensor(i, device=table.device) for i in items)
    place = linearized[0]
    size, trailing = geometry(table, items, place)

    def look(i: Tensor) -> Any:  # through the region: another index may be linearized, too
        return region.call(func, table, (*items[:place], i, *items[place + 1 :]))

    return lookup(region, "getitem", look, items[place], size, trailing, whole=len(items) == 1)


def _masked(region: Region, func: Func, table: Tensor, index: Any, items: tuple[Any, ...]) -> Any:
    mask = items[0]
    traced = compiling()
    if len(items) == 1 and mask.dtype == torch.bool and not traced:
        return selected(region, table, mask, func(table, index))
    why = "which elements a mask selects beside other indices has no derivative; use where(), or (x * mask).sum()."
    if traced:
        why = "what a mask selects is not followed in compiled code."
    region.lose("getitem", [i for i in items if discrete_carrier(i)], why)
    return move(region, func, (table, index), {})


def _size(table: Tensor, dim: int) -> int:
    return table.shape[dim] if table.dim() else 1


def index_select(region: Region, func: Func, args: tuple[Any, ...], kwargs: dict[str, Any]) -> Any:
    named = dict(zip(("input", "dim", "index"), args), **kwargs)
    table, dim, index = named["input"], named["dim"], named["index"]
    if not discrete_carrier(index):
        return move(region, func, (table, dim, index), {})
    if not -table.dim() <= dim < table.dim():
        if table.dim() == 0:
            region.lose("index_select", [index], "a single number has no positions. Give it a dimension: x.reshape(1).")
        return func(table, dim, index.detach() if table.dim() == 0 else index)
    dim %= table.dim()
    size, trailing = _size(table, dim), max(table.dim() - dim - 1, 0)
    return lookup(region, "index_select", lambda i: func(table, dim, i), index, size, trailing, wrap=False)


def gather(region: Region, func: Func, args: tuple[Any, ...], kwargs: dict[str, Any]) -> Any:
    named = dict(zip(("input", "dim", "index"), args), **kwargs)
    table, dim, index = named.pop("input"), named.pop("dim"), named.pop("index")
    if not discrete_carrier(index):
        return move(region, func, (table, dim, index), named)
    return lookup(region, "gather", lambda i: func(table, dim, i, **named), index, _size(table, dim), 0, wrap=False)


def take_along_dim(region: Region, func: Func, args: tuple[Any, ...], kwargs: dict[str, Any]) -> Any:
    named = dict(zip(("input", "indices", "dim"), args), **kwargs)
    table, index, dim = named["input"], named["indices"], named.get("dim")
    if not discrete_carrier(index):
        return move(region, func, (table, index, dim), {})
    if dim is None:  # both are flattened
        index, table, dim = region.call(torch.Tensor.reshape, index, (-1,)), table.reshape(-1), 0
    size = _size(table, dim)
    return lookup(region, "take_along_dim", lambda i: func(table, i, dim), index, size, 0, wrap=False)


def take(region: Region, func: Func, args: tuple[Any, ...], kwargs: dict[str, Any]) -> Any:
    named = dict(zip(("input", "index"), args), **kwargs)
    table, index = named["input"], named["index"]
    if not discrete_carrier(index):
        return move(region, func, (table, index), {})
    return lookup(region, "take", lambda i: func(table, i), index, table.numel(), 0, whole=True)


def embedding(region: Region, func: Func, args: tuple[Any, ...], kwargs: dict[str, Any]) -> Any:
    """``F.embedding(input, weight, …)``, and ``torch.embedding(weight, indices, …)``: Dynamo knows both by one name."""
    named = dict(zip(("input", "weight"), args[:2]), **kwargs)
    rest = args[2:]
    swapped = "indices" in named or named["input"].is_floating_point()
    if swapped:
        named = dict(zip(("weight", "indices"), args[:2]), **kwargs)
    index, weight = named.pop("indices" if swapped else "input"), named.pop("weight")
    if not discrete_carrier(index):
        return func(*args, **kwargs)
    if swapped:
        look = lambda i: func(weight, i, *rest, **named)
    else:
        if named.get("max_norm") is not None or (rest[1:] and rest[1] is not None):
            # It rescales the rows it looks up, in place: once, and those of the hard program.
            original(func, index, weight, *rest, **named)
            rest, named = rest[:1], {n: v for n, v in named.items() if n not in ("max_norm", "norm_type")}
        look = lambda i: func(i, weight, *rest, **named)
    return lookup(region, "embedding", look, index, weight.shape[0], 1, wrap=False, whole=True)


def one_hot(region: Region, func: Func, args: tuple[Any, ...], kwargs: dict[str, Any]) -> Any:
    named = dict(zip(("tensor", "num_classes"), args), **kwargs)
    index: Any = named.get("tensor", named.get("input"))
    if not discrete_carrier(index):
        return func(*args, **kwargs)
    hard = original(func, *args, **kwargs)
    classes = hard.shape[-1]
    chosen = choice(index)
    if chosen is not None:  # each class is in or out: one decision per class
        values = chosen.values.expand(*index.shape, chosen.values.shape[-1])
        share = torch.zeros(hard.shape, dtype=chosen.weights.dtype, device=hard.device)
        share = share.scatter_add(-1, values.clamp(0, classes - 1), chosen.weights.expand(values.shape))
        decision = decided_by(share)
        decision.side = shows(hard, 1)
        return attach(region, hard, Outcomes(decision, constant(0, hard), constant(1, hard)))
    return lookup(region, "one_hot", lambda i: func(i, classes), index, classes, 1, wrap=False)


def unravel_index(region: Region, func: Func, args: tuple[Any, ...], kwargs: dict[str, Any]) -> Any:
    """``unravel_index(index, shape)``: quotients and remainders."""
    named = dict(zip(("indices", "shape"), args), **kwargs)
    index, shape = named["indices"], named["shape"]
    if not discrete_carrier(index) or isinstance(shape, Tensor):
        return func(*args, **kwargs)
    found = []
    for size in reversed((shape,) if isinstance(shape, int) else tuple(shape)):
        found.append(region.call(torch.remainder, index, size))
        index = region.call(torch.floor_divide, index, size)
    return tuple(reversed(found))


follows(getitem, "Tensor.__getitem__")


follows(unravel_index, "unravel_index")


follows(index_select, "index_select")


follows(gather, "gather")


follows(take_along_dim, "take_along_dim")


follows(take, "take")


follows(embedding, "F.embedding", "torch.embedding")


follows(one_hot, "one_hot")
