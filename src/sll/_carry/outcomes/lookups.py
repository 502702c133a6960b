"""Lookups with an integer that came from `round`, `floor` or a cast: ``table[idx]`` is looked up at both outcomes; with
an index that was chosen (argmax, sort) at each of its values.

An outcome beyond the end of the table is clamped to the end; the hard program would have failed there.
Lookups with plain indices only move the elements of the table (see `shape.py`).
"""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from ..interface import Func, Region
from ..rules import Call, spelled
from .carriers import Choice, Outcomes, choice, discrete_carrier, outcomes
from .decisions import placed
from .expectations import OF_WEIGHTED, by_ones
from .mixtures import join_values
from .selections import selected
from .shape import move
from .trees import join, original

_A_COUNT = "an index that is a count is not looked up. Use (table * (count == torch.arange(n))).sum()."


def lookup(
    region: Region, name: str, look: Func, index: Tensor, size: int, trailing: int, *, wrap: bool = True,
    whole: bool = False,
) -> Any:  # fmt: skip
    """``look(index)``, a lookup in a table of `size` whose result has the dimensions of `index` and `trailing` more
    behind them; through the region, for an outcome may carry further decisions, and the table others. `whole`: `look`
    takes an index of any shape, and the index's dimensions come first in the result.
    """
    chosen, tree, low = choice(index), outcomes(index), -size if wrap else 0
    if chosen is not None:
        return _at_choices(region, look, index, chosen, (low, size - 1), trailing, whole)
    if tree is None:
        region.lose(name, [index], _A_COUNT if by_ones(index) else OF_WEIGHTED)
        return look(index.detach())  # carries nothing
    hard = original(look, index.detach())
    sides = []
    for outcome in (tree.below, tree.above):
        full = region.call(torch.Tensor.expand, outcome, index.shape)
        sides.append(look(region.call(torch.clamp, full, low, size - 1)))
    decision = tree.decision
    if trailing:
        shape = tuple(index.shape)
        decision = placed(decision, shape, ("trailing", trailing), lambda w: w.reshape(shape + (1,) * trailing))
    return join(region, look, (), hard, Outcomes(decision, *sides))


def _at_choices(
    region: Region, look: Func, index: Tensor, chosen: Choice, limits: tuple[int, int], trailing: int, whole: bool
) -> Tensor:
    hard = original(look, index.detach())
    values = chosen.values.expand(*index.shape, chosen.values.shape[-1]).clamp(*limits)
    if whole:
        found = region.call(torch.movedim, look(values), index.dim(), -1)
    else:
        found = region.call(torch.stack, [look(value) for value in values.unbind(-1)], -1)

    def aligned(t: Tensor) -> Tensor:  # other indices broadcast with this one
        t = t.expand(*index.shape, t.shape[-1])
        t = t.reshape(*index.shape, *(1,) * trailing, t.shape[-1])
        return t.reshape((1,) * (hard.dim() + 1 - t.dim()) + tuple(t.shape))

    same = trailing == 0 and hard.shape == index.shape
    key = chosen.key if same else ("trailing", chosen.key, trailing, hard.dim())
    return join_values(region, hard, Choice(key, values, aligned(chosen.weights), aligned(chosen.ties)), found)


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
    items = as_indices(items, table)
    place = linearized[0]
    size, trailing = geometry(table, items, place)

    def look(i: Tensor) -> Any:
        found = region.call(func, table, (*items[:place], i, *items[place + 1 :]))
        return found if i.dim() else region.call(torch.clone, found)  # (of a number, it is a view)

    return lookup(region, "getitem", look, items[place], size, trailing, whole=len(items) == 1)


def _masked(region: Region, func: Func, table: Tensor, index: Any, items: tuple[Any, ...]) -> Any:
    mask = items[0]
    if len(items) == 1 and mask.dtype == torch.bool:
        return selected(region, table, mask, func(table, index))
    why = "which elements a mask selects beside other indices has no derivative; use where(), or (x * mask).sum()."
    region.lose("getitem", [i for i in items if discrete_carrier(i)], why)
    return move(region, func, (table, index), {})


def as_indices(items: tuple[Any, ...], table: Tensor) -> tuple[Any, ...]:
    """Lists, ranges and arrays index like tensors."""
    known = (int, slice, Tensor, type(None), type(Ellipsis))
    return tuple(i if isinstance(i, known) else torch.as_tensor(i, device=table.device) for i in items)


def geometry(table: Tensor, items: tuple[Any, ...], place: int) -> tuple[int, int]:
    """Size of the dimension that ``items[place]`` indexes, and the number of dimensions of the result behind the
    indexed block.
    """

    def dims(item: Any) -> int:
        """How many of the table's it stands for."""
        return 0 if item is None else item.dim() if isinstance(item, Tensor) and item.dtype == torch.bool else 1

    ellipsis = next((n for n, i in enumerate(items) if i is Ellipsis), len(items))
    rest = table.dim() - sum(dims(i) for i in items if i is not Ellipsis)
    expanded = [*items[:ellipsis], *[slice(None)] * rest, *items[ellipsis + 1 :]]
    at = place if place < ellipsis else place + rest - 1
    tensors = [n for n, i in enumerate(expanded) if isinstance(i, Tensor)]
    together = tensors == list(range(tensors[0], tensors[-1] + 1))
    behind = expanded[tensors[-1] + 1 :] if together else [i for n, i in enumerate(expanded) if n not in tensors]
    return table.shape[sum(map(dims, expanded[:at]))], sum(1 for i in behind if not isinstance(i, int))


def along(region: Region, func: Func, args: tuple[Any, ...], kwargs: dict[str, Any]) -> Any:
    """At positions along one dimension."""
    named = dict(zip(("input", "dim", "index"), args), **kwargs)
    table, dim, index = (named.pop(name) for name in ("input", "dim", "index"))
    if not discrete_carrier(index):
        return move(region, func, (table, dim, index), named)
    if table.dim() == 0 and func.__name__ == "index_select":
        why = "a single number has no positions. Give it a dimension: x.reshape(1)."
        region.lose("index_select", [index], why)
        return func(table, dim, index.detach())
    if not -table.dim() <= dim < max(table.dim(), 1):
        return func(table, dim, index)  # raises
    size = table.shape[dim] if table.dim() else 1
    trailing = table.dim() - dim % table.dim() - 1 if func.__name__ == "index_select" else 0

    def look(i: Tensor) -> Any:
        return region.call(func, table, dim, i, **named)

    return lookup(region, func.__name__, look, index, size, trailing, wrap=False)


def embedding(region: Region, func: Func, args: tuple[Any, ...], kwargs: dict[str, Any]) -> Any:
    """``F.embedding(input, weight, …)``, and ``torch.embedding(weight, indices, …)``."""
    named = dict(zip(("input", "weight"), args[:2]), **kwargs)
    rest = args[2:]
    swapped = "indices" in named or named["input"].is_floating_point()
    if swapped:
        named = dict(zip(("weight", "indices"), args[:2]), **kwargs)
    index, weight = named.pop("indices" if swapped else "input"), named.pop("weight")
    if not discrete_carrier(index):
        return func(*args, **kwargs)
    if not swapped and (named.get("max_norm") is not None or (rest[1:] and rest[1] is not None)):
        # It rescales the rows it looks up, in place: once, and those of the hard program.
        original(func, index, weight, *rest, **named)
        rest, named = rest[:1], {n: v for n, v in named.items() if n not in ("max_norm", "norm_type")}

    def look(i: Tensor) -> Any:
        return region.call(func, *((weight, i) if swapped else (i, weight)), *rest, **named)

    return lookup(region, "embedding", look, index, weight.shape[0], 1, wrap=False, whole=True)


@spelled
def one_hot(region: Region, call: Call, tensor: Tensor, num_classes: int = -1) -> Any:
    index = tensor
    if not discrete_carrier(index):
        return call()
    hard = original(call)
    classes = hard.shape[-1]
    if choice(index) is None:
        return lookup(region, "one_hot", lambda i: region.call(call.func, i, classes), index, classes, 1, wrap=False)
    # Each class is in or out: one decision per class.
    return region.call(torch.scatter, torch.zeros_like(hard), -1, region.call(torch.unsqueeze, index, -1), 1)
