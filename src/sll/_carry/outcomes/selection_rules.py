"""Which functions see a selection how: elementwise, losses, reductions, one by one."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from ..._ops.band import hard_forward
from ..._ops.dtypes import compute_dtype, exact_dtype
from ..._ops.env import compiling
from ..._rules.index import ASKS, functions_with, in_place_forms, names_of, op_name, spellings
from ..._rules.table import ROWS
from ..interface import Func, Region
from .carriers import Expectation, Selection, attach, discrete_carrier, selection
from .expectations import expect, probability
from .registry import RULES
from .selections import (
    _EVERYTHING,
    _FAILS,
    COUNTS,
    _candidates,
    bare,
    lost,
    on_candidates,
    on_elements,
    one_by_one,
    selected,
)
from .trees import original


def total(
    region: Region, hard: Tensor, found: Selection, candidates: Tensor, dims: tuple[int, ...], keepdim: bool,
    mean: bool, counted: Tensor | None = None,
) -> Tensor:  # fmt: skip
    """Weighted sum or mean of the candidates; `counted`: which of them a mean counts."""
    dtype = compute_dtype(found.weights.dtype, hard.dtype) if hard.is_floating_point() else exact_dtype(hard)
    weights = found.shown.to(dtype).reshape(-1, *(1,) * (candidates.dim() - 1))
    values = (expect(candidates) if discrete_carrier(candidates) else candidates).to(dtype)
    # A candidate that is not finite counts for nothing unless it is selected.
    usable = values.detach().isfinite() | (weights.detach() == 1)
    values = torch.where(usable, values, torch.zeros((), dtype=dtype, device=values.device))
    soft = (values * weights).sum(dims, keepdim)
    if mean:
        share = weights if counted is None else weights * counted.to(dtype)
        many = share.expand(values.shape).sum(dims, keepdim)
        soft = soft / torch.where(many == 0, 1, many)  # an empty selection: NaN, and no gradient
    if not hard.is_floating_point():
        return attach(region, hard, Expectation(soft))
    decided = (found.weights.detach() == 1).all()
    return torch.where(decided, hard_forward(hard, soft), soft.to(hard.dtype))


def reduce(region: Region, func: Func, args: tuple[Any, ...], kwargs: dict[str, Any]) -> Any:
    """``sum`` and ``mean``."""
    named = dict(zip(("input", "dim", "keepdim"), args), **kwargs)
    named = {{"axis": "dim", "keepdims": "keepdim"}.get(name, name): x for name, x in named.items()}
    x, dim, keepdim = named["input"], named.get("dim"), bool(named.get("keepdim", False))
    found = selection(x)
    assert found is not None
    rank = x.dim()
    dim = (dim,) if isinstance(dim, int) else dim
    dims = tuple(d % rank for d in dim) if dim else tuple(range(rank))
    mean = op_name(func) == "mean"
    if 0 not in dims:
        out = func(bare(x), *args[1:], **kwargs)
        inner = region.call(func, found.candidates, *args[1:], **{n: v for n, v in kwargs.items() if n != "input"})
        return attach(region, out, found.of(inner))
    hard = original(func, *args, **kwargs)
    return total(region, hard, found, found.candidates, dims, keepdim, mean)


def moved(region: Region, func: Func, args: tuple[Any, ...], kwargs: dict[str, Any]) -> Any:
    """``squeeze``, ``unsqueeze``, ``reshape`` that keep the dimension of the selected elements first."""
    x = args[0]
    found = selection(x)
    shape = func(bare(x), *args[1:], **kwargs).shape
    if found is None or not shape or shape[0] != x.shape[0] or x.shape[0] == 0:
        return one_by_one(region, func, args, kwargs)
    candidates = found.candidates.reshape(found.candidates.shape[0], *shape[1:])
    return attach(region, func(bare(x), *args[1:], **kwargs), found.of(candidates))


def loss(region: Region, func: Func, args: tuple[Any, ...], kwargs: dict[str, Any]) -> Any:
    """``F.mse_loss(a[mask], b[mask])`` and the like: the loss of each element, then the reduction."""
    reduction = kwargs.get("reduction", "mean")
    legacy = kwargs.get("size_average") is not None or kwargs.get("reduce") is not None
    if reduction == "none":
        return lost(region, func, args, kwargs, "how many elements the mask selects is open. " + _EVERYTHING)
    extended = _candidates(args[:2], {n: kwargs[n] for n in ("input", "target") if n in kwargs}, 1)
    if extended is None or legacy or kwargs.get("weight") is not None or len(args) > 2:
        return lost(region, func, args, kwargs, "with these arguments it is not followed. " + _EVERYTHING)
    found, values, named = extended
    options = {n: x for n, x in kwargs.items() if n not in named and n != "reduction"}
    counted = None
    if op_name(func) in ("cross_entropy", "nll_loss"):
        scores, target = (*values, *named.values())
        if not target.is_floating_point():  # an element that is not selected may have any label
            ignored = target == options.get("ignore_index", -100)
            taken = found.taken.reshape(-1, *(1,) * (target.dim() - 1))
            target = torch.where(taken | ignored, target, target.clamp(0, scores.shape[1] - 1))
            values, named, counted = [scores, target], {}, ~ignored
    hard = original(func, *args, **kwargs)
    per = on_candidates(region, lambda *a, **k: func(*a, **k, **options, reduction="none"), values, named, found)
    if per is None:
        return lost(region, func, args, kwargs, _FAILS)
    return total(region, hard, found, per, tuple(range(per.dim())), False, reduction == "mean", counted)


def indexed(region: Region, func: Func, args: tuple[Any, ...], kwargs: dict[str, Any]) -> Any:
    """Indexing a selection, or with one."""
    table, index = args
    own = selection(table)
    items = index if isinstance(index, tuple) else (index,)
    picked = [selection(item) for item in items]
    if own is not None and len(items) == 1 and picked[0] is not None and index.dtype == torch.bool:
        if own.same(picked[0]):  # x[mask][other]: both decide
            flags = picked[0].candidates
            weights, shown = own.weights * probability(flags), own.shown * expect(flags)
            out = func(bare(table), bare(index))
            keep = (weights.detach() > 0).nonzero().squeeze(1)
            candidates = region.call(torch.Tensor.__getitem__, own.candidates, keep)
            taken = (own.taken & flags)[keep]
            found = Selection(index, candidates, weights[keep], shown[keep], taken, own.near[keep], out.shape[0])
            found.decision = None
            return attach(region, out, found)
    elif own is not None and isinstance(items[0], slice) and items[0] == slice(None) and not any(picked):
        if not any(isinstance(item, Tensor) for item in items):  # further dimensions
            return attach(region, func(bare(table), index), own.of(func(own.candidates, index)))
    elif own is None and all(found is not None and not item.is_floating_point() for found, item in zip(picked, items)):
        first = picked[0]
        assert first is not None
        if all(
            found is not None and found.same(first) and item.dtype != torch.bool for found, item in zip(picked, items)
        ):
            out = func(table, tuple(bare(item) for item in items))  # table[mask.nonzero(as_tuple=True)]
            at = [found.candidates for found in picked if found is not None]
            # What is not selected may be out of range.
            at = [torch.where(first.taken, i, i.clamp(-size, size - 1)) for i, size in zip(at, table.shape)]
            return attach(region, out, first.of(region.call(func, table, tuple(at))))
    return one_by_one(region, func, args, kwargs)


def nonzero(region: Region, func: Func, args: tuple[Any, ...], kwargs: dict[str, Any]) -> Any:
    """Positions of the True elements: a selection among all positions."""
    x = args[0] if args else kwargs["input"]
    if not discrete_carrier(x) or x.dim() == 0:
        return func(*args, **kwargs)
    if compiling():
        region.lose(op_name(func), (), "where a mask is True is not followed in compiled code.")
        return func(*args, **kwargs)
    flags = x if x.dtype == torch.bool else region.call(torch.ne, x, 0)
    every = torch.ones_like(x, dtype=torch.bool).nonzero().reshape(*x.shape, x.dim())
    hard = original(torch.nonzero, x)
    out = selected(region, every, flags, hard)
    as_tuple = kwargs.get("as_tuple")
    if not as_tuple:
        return out
    picked = selection(out)
    assert picked is not None
    columns = []
    for d in range(x.dim()):
        column = picked.of(picked.candidates[:, d])
        columns.append(attach(region, hard[:, d].clone(), column))
    return tuple(columns)


def in_place(region: Region, func: Func, args: tuple[Any, ...], kwargs: dict[str, Any]) -> Any:
    """``x[mask] *= 2`` selects, multiplies in place and writes back: the product is the selection of the products."""
    return RULES.get(func, one_by_one)(region, func, args, kwargs)


SELECTIONS: dict[Any, Any] = {
    **dict.fromkeys(functions_with("each"), on_elements),
    **dict.fromkeys(functions_with("weighted"), reduce),
    **dict.fromkeys((func for name in names_of("losses") for func in spellings(name)), loss),
    **dict.fromkeys(functions_with("keeps_rows"), moved),
    torch.Tensor.__getitem__: indexed,
}
for _row in ROWS:
    if "each" in _row.facts.split():
        for _name in _row.names.split():
            SELECTIONS.update(dict.fromkeys(in_place_forms(_name), in_place))


def rule_for(func: Func) -> Any:
    """The rule for a call with a selection among its operands; None for what asks about a tensor only."""
    if func in ASKS and func not in COUNTS:
        return None
    return SELECTIONS.get(func, one_by_one)
