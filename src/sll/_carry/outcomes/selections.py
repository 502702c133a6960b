"""Selection by a mask: ``x[mask]``, ``masked_select(x, mask)``.

How many elements there are is the hard program's: a selection has the hard shape. Elementwise functions and the
reductions `sum`, `mean` (and losses that end in one) straight after it see the weights of the mask:
``loss[mask].mean()`` is ``(loss * w).sum() / w.sum()``, which has a derivative with respect to what is selected. What a
selection carries is therefore every element that may be in it, selected or in the band, with its weight.

To everything else the `k`-th selected element is a choice. Let ``C_p`` be the expected number selected up to element
`p`. Then element `p` is the `k`-th (from 0) with the weight of ``[C_{p-1}, C_p]`` in ``[k, k + 1]``. That is right
where the *number* of selected elements is certain (a ranking changes places only). Elsewhere the loss is reported.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import replace
from typing import Any

import torch
from torch import Tensor

from ..._ops.band import hard_forward
from ..._ops.callsite import LostGradientError
from ..._ops.dtypes import compute_dtype, exact_dtype
from ..._rules.index import ASKS, NAMED, SIZES, functions_with, in_place_forms, names_of, op_name, spellings
from ..interface import Func, Region, attach, tensors, version_of
from ..rules import Call, spelled
from .carriers import Choice, Expectation, Selection, carrier, discrete_carrier, outcomes, selection
from .expectations import expect, probability
from .mixtures import join_values
from .registry import RULES, WRITES
from .trees import original


def selected(region: Region, x: Tensor, mask: Tensor, hard: Tensor) -> Tensor:
    """`hard` is ``x[mask]``; let it carry the elements that may be in it. The mask covers the leading dimensions."""
    share, shown = (weight.expand(mask.shape).reshape(-1) for weight in (probability(mask), expect(mask)))
    if discrete_carrier(x) and bool(((share == 0) | (share == 1)).all()):  # (the numbers are open, if anything is)
        return region.call(torch.Tensor.__getitem__, x, mask.detach())  # type: ignore[no-any-return]
    flat = region.call(torch.Tensor.reshape, x, (share.numel(), *x.shape[mask.dim() :]))
    near = (share.detach() > 0).nonzero().squeeze(1)
    candidates = region.call(torch.Tensor.__getitem__, flat, near)
    taken = mask.reshape(-1)[near]
    decision, weights = outcomes(mask), share[near]
    return attach(
        region, hard,
        Selection(mask, version_of(mask), decision, candidates, weights, shown[near], taken, near, hard.shape[0]),
    )  # fmt: skip


def _candidates(
    args: tuple[Any, ...], kwargs: dict[str, Any], rank: int
) -> tuple[Selection, list[Any], dict[str, Any]] | None:
    """The operands with every element that may be selected; None if one cannot be extended to those."""
    found = next(own for x in (*args, *kwargs.values()) if (own := selection(x)) is not None)

    def extend(x: Any) -> Any:
        own = selection(x)
        if own is not None:
            return own.candidates if own.same(found) else None
        if isinstance(x, Tensor) and x.dim() >= rank and x.shape[x.dim() - rank] != 1:
            return None  # one row for each selected element; those in the band have none
        return x

    values = [extend(x) for x in args]
    named = {name: extend(x) for name, x in kwargs.items()}
    pairs = (*zip(args, values), *((kwargs[name], x) for name, x in named.items()))
    return None if any(x is not None and new is None for x, new in pairs) else (found, values, named)


def on_elements(region: Region, func: Func, args: tuple[Any, ...], kwargs: dict[str, Any]) -> Any:
    """An elementwise function of a selection is the selection of the function."""
    rank = max(x.dim() for x in (*args, *kwargs.values()) if isinstance(x, Tensor))
    extended = _candidates(args, kwargs, rank)
    if extended is None:
        return lost(region, func, args, kwargs, _NO_VALUES)
    found, values, named = extended
    out = region.call(func, *(bare(x) for x in args), **{name: bare(x) for name, x in kwargs.items()})
    if not isinstance(out, Tensor):
        return out
    candidates = on_candidates(region, func, values, named, found)
    if candidates is None:
        return lost(region, func, args, kwargs, _FAILS)
    return attach(region, out, found.of(candidates))


def on_candidates(
    region: Region, func: Func, values: Sequence[Any], named: dict[str, Any], found: Selection
) -> Tensor | None:
    """`func` of all candidates. Those that are not selected may be just what the mask keeps away from it: where the
    result is not finite they count for nothing (NaN), and `func` does not see them, so that no ``0 * inf`` comes back.
    None if `func` raises for them.
    """
    many = found.taken.shape[0]

    def run(hidden: Tensor | None) -> Tensor:
        def hide(x: Any) -> Any:
            if hidden is None or not isinstance(x, Tensor) or x.dim() == 0 or x.shape[0] != many:
                return x
            return region.call(torch.where, hidden.reshape(-1, *(1,) * (x.dim() - 1)), torch.ones_like(x), x)

        out: Tensor = region.call(func, *(hide(x) for x in values), **{name: hide(x) for name, x in named.items()})
        return out

    try:
        out = run(None)
    except (RuntimeError, IndexError, ZeroDivisionError):
        return None
    if not out.is_floating_point() or not out.dim() or out.shape[0] != many or not many:
        return out
    finite = out.detach().isfinite().reshape(many, -1).all(1)
    hidden = ~found.taken & (~finite | (found.shown.detach() == 0))
    if not bool(hidden.any()):
        return out
    return torch.where(hidden.reshape(-1, *(1,) * (out.dim() - 1)), torch.nan, run(hidden))


_NO_VALUES = "an operand has no values for the elements in the band. Select it with the same mask."


_EVERYTHING = 'Take the loss of everything, then the mask: loss(a, b, reduction="none")[mask].mean().'


_FAILS = (
    "it fails for an element in the band that is not selected. Give it a value that it takes, "
    "torch.where(mask, x, value)[mask], and select all operands with the same mask."
)


def bare(x: Any) -> Any:
    """The selection alone."""
    return x.view_as(x) if selection(x) is not None else x


def lost(region: Region, func: Func, args: tuple[Any, ...], kwargs: dict[str, Any], why: str) -> Any:
    """A call that sees the selected elements one by one. Lost where their number is not certain."""
    found = [picked for x in tensors(args, kwargs) if (picked := selection(x)) is not None]
    written = op_name(func).endswith("_") or func.__name__.startswith("__i")  # what it carries goes stale
    undecided = lambda: any(bool((picked.weights != 1).any()) for picked in found)
    if written or not all(_certain(picked) for picked in found):
        region.lose(op_name(func), [], why, undecided=undecided, origins=[picked.weights for picked in found])
        if written:
            return func(*args, **kwargs)
        each: Callable[[Any], Any] = bare
    elif func in SIZES:
        return func(*args, **kwargs)
    else:
        each = lambda x: _rows(region, x)

    def apply(x: Any) -> Any:
        return type(x)(apply(item) for item in x) if type(x) in (tuple, list) else each(x)

    try:
        return region.call(func, *(apply(x) for x in args), **{name: apply(x) for name, x in kwargs.items()})
    except LostGradientError:
        raise
    except (RuntimeError, IndexError, ZeroDivisionError):
        if each is bare:
            raise
        out = func(*args, **kwargs)  # it is not the program that fails, but an element that it does not select
        region.lose(op_name(func), [], _FAILS, undecided=undecided, origins=[picked.weights for picked in found])
        return out


def _certain(picked: Selection) -> bool:
    """Whether the number of selected elements does not depend on an open decision."""
    total = float(picked.weights.detach().sum(dtype=torch.float64))
    return abs(total - picked.count) < 1e-4


def _rows(region: Region, x: Any) -> Any:
    """The selection, each of its elements a choice."""
    picked = selection(x)
    if picked is None:
        return x
    x = bare(x)
    if picked.count == 0 or carrier(picked.candidates) is not None:
        return x
    expected = picked.weights.to(torch.float64).cumsum(0)
    nearest = expected.detach().round()
    whole = (expected.detach() - nearest).abs() < 1e-5  # rounding of the sum
    expected = torch.where(whole, expected + (nearest - expected.detach()), expected)
    before = torch.nn.functional.pad(expected[:-1], (1, 0))
    k = torch.arange(picked.count, device=x.device, dtype=torch.float64)
    first = torch.searchsorted(expected.detach(), k, right=True)
    last = torch.searchsorted(before.detach().contiguous(), k + 1)
    window = torch.arange(max(1, int((last - first).max())), device=x.device)
    at = (first[:, None] + window).clamp(max=expected.numel() - 1)
    inside = (first[:, None] + window) < last[:, None]
    low = torch.maximum(before[at], k[:, None])
    high = torch.minimum(expected[at], k[:, None] + 1)
    weights = torch.where(inside, (high - low).clamp(min=0), 0).to(picked.weights.dtype)
    # What rounding left missing to one goes to the likeliest.
    best = weights.detach().argmax(-1, keepdim=True)
    weights = weights.scatter_add(-1, best, 1 - weights.detach().sum(-1, keepdim=True))
    values = picked.candidates[at].movedim(1, -1)
    weights = weights.reshape(picked.count, *(1,) * (x.dim() - 1), -1)
    # At an exact tie in the mask all of the row shows the hard elements.
    ties = ((picked.shown != picked.weights)[at] & inside).any(-1).reshape(*weights.shape[:-1], 1)
    return join_values(region, x, Choice(("selected", picked.mask, picked.weights), values, weights, ties), values)


def one_by_one(region: Region, func: Func, args: tuple[Any, ...], kwargs: dict[str, Any]) -> Any:
    if func in SIZES:
        return lost(
            region, func, args, kwargs,
            "how many elements the mask selects is open, and a Python number has no derivative. Use mask.sum().",
        )  # fmt: skip
    return lost(
        region, func, args, kwargs,
        "how many elements the mask selects is open, and only elementwise functions, sum and mean follow that. "
        "Use where(mask, x, other), or (x * mask).sum() / mask.sum().",
    )  # fmt: skip


# --- which functions see a selection how --------------------------------------------------------------------------


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


@spelled
def reduce(
    region: Region, call: Call, x: Tensor, dim: Any = None, keepdim: bool = False, *, dtype: torch.dtype | None = None
) -> Any:
    """``sum`` and ``mean``."""
    func, args, kwargs = call.func, call.args, call.keywords
    found = selection(x)
    assert found is not None
    rank = x.dim()
    dim = (dim,) if isinstance(dim, int) else dim
    dims = tuple(d % rank for d in dim) if dim else tuple(range(rank))
    mean = op_name(func) == "mean"
    if 0 not in dims:
        out = func(bare(x), *args[1:], **kwargs)
        return attach(region, out, found.of(region.call(func, found.candidates, *args[1:], **kwargs)))
    hard = original(call)
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
            keep = (weights.detach() > 0).nonzero().squeeze(1)
            found = replace(
                own.of(region.call(torch.Tensor.__getitem__, own.candidates, keep)), mask=index, decision=None,
                version=version_of(index), weights=weights[keep], shown=shown[keep], near=own.near[keep],
                taken=(own.taken & flags)[keep], count=int(index.sum()),
            )  # fmt: skip
            return attach(region, func(bare(table), bare(index)), found)
    elif own is not None and isinstance(items[0], slice) and items[0] == slice(None) and not any(picked):
        if not any(isinstance(item, Tensor) for item in items):  # further dimensions
            return attach(region, func(bare(table), index), own.of(func(own.candidates, index)))
    elif own is None and all(found is not None and not item.is_floating_point() for found, item in zip(picked, items)):
        first, every = picked[0], [found for found in picked if found is not None]
        assert first is not None
        if all(found.same(first) for found in every) and not any(item.dtype == torch.bool for item in items):
            out = func(table, tuple(bare(item) for item in items))  # table[mask.nonzero(as_tuple=True)]
            # What is not selected may be out of range.
            at = [
                torch.where(first.taken, found.candidates, found.candidates.clamp(-size, size - 1))
                for found, size in zip(every, table.shape)
            ]
            return attach(region, out, first.of(region.call(func, table, tuple(at))))
    return one_by_one(region, func, args, kwargs)


@spelled
def nonzero(region: Region, call: Call, input: Tensor, *, as_tuple: bool = False) -> Any:
    """Positions of the True elements: a selection among all positions."""
    x = input
    if not discrete_carrier(x) or x.dim() == 0:
        return call()
    flags = x if x.dtype == torch.bool else region.call(torch.ne, x, 0)
    every = torch.ones_like(x, dtype=torch.bool).nonzero().reshape(*x.shape, x.dim())
    hard = original(torch.nonzero, x)
    out = selected(region, every, flags, hard)
    picked = selection(out)
    if not as_tuple or picked is None:
        return out
    columns = enumerate(picked.candidates.unbind(1))
    return tuple(attach(region, hard[:, d].clone(), picked.of(column)) for d, column in columns)


def in_place(region: Region, func: Func, args: tuple[Any, ...], kwargs: dict[str, Any]) -> Any:
    """``x[mask] *= 2`` selects, multiplies in place and writes back: the product is the selection of the products."""
    return RULES.get(func, one_by_one)(region, func, args, kwargs)


SELECTIONS: dict[Any, Any] = {
    **dict.fromkeys(functions_with("each"), on_elements),
    **dict.fromkeys(functions_with("weighted"), WRITES.spelled_out(reduce, False)),
    **dict.fromkeys((func for name in names_of("losses") for func in spellings(name)), loss),
    **dict.fromkeys(functions_with("keeps_rows"), moved),
    **dict.fromkeys((form for name in NAMED["each"] for form in in_place_forms(name)), in_place),
    torch.Tensor.__getitem__: indexed,
}


def rule_for(func: Func) -> Any:
    """The rule for a call with a selection among its operands; None for what asks about a tensor only."""
    if func in ASKS and func not in SIZES:
        return None
    return SELECTIONS.get(func, one_by_one)
