"""`searchsorted` and `bucketize` count the boundaries passed: one decision, at the nearest boundary."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor

from ..._ops.band import hard_forward
from ..._ops.dtypes import exact_dtype
from ..._ops.env import tracked
from ..._rules.index import op_name
from ..boundaries import edges_of, nearest_boundary, own_ranks, passing
from ..found import mark
from ..interface import Func, Region, attach
from ..rules import Call
from .algebra import on_outcomes
from .carriers import Choice, Expectation, Outcomes, carrier, choice, discrete_carrier, resolved
from .choosing import chooses
from .decisions import decided_at, equal_keys, shows
from .orders import _key, _ordered, positions
from .trees import original


def _passed(region: Region, op: str, call: Callable[[Any], Tensor], boundaries: Tensor, x: Any) -> Tensor:
    """``call(x)`` counts the sorted `boundaries` that `x` has passed; the decision is at the nearest."""
    hard: Tensor = original(call, x)
    if boundaries.shape[-1] == 0 or hard.numel() == 0:
        return hard
    offset, below, above = nearest_boundary(region.eps_for(op), hard, boundaries, x)
    decision = decided_at(offset)
    decision.side = shows(hard, above, at_ties=True)
    return attach(region, hard, Outcomes(decision, below.to(hard.dtype), above.to(hard.dtype)))


def passed(region: Region, func: Func, args: tuple[Any, ...], kwargs: dict[str, Any]) -> Any:
    """`searchsorted` and `bucketize`."""
    call, x, table, sorter, right = passing(func, args, kwargs)
    boundaries, wanted = _sorted(region, table, sorter), region.linearizes("searchsorted")
    found, learned = carrier(x), tracked(boundaries) and wanted
    if found is not None and not isinstance(found, Expectation) and boundaries.dim() == 1 and carrier(table) is None:
        chosen = choice(x) is not None
        if learned and sorter is None and not chosen:  # on either side, the boundaries decide
            out = on_outcomes(region, func, args, kwargs, conditional=True)
        else:
            out = on_outcomes(region, call, (x,), {})
        if out is not None:
            if learned and chosen:
                region.lose(op_name(func), [x], _LEARNED)
            return out
    if wanted and own_ranks(boundaries, x):
        return _ranks(region, original(call, x), x, right)
    lost = [t for t in (boundaries, x) if discrete_carrier(t)]
    if lost:
        region.lose(op_name(func), lost, _OF_A_COUNT)
    if not (tracked(x) or tracked(boundaries)) or not wanted:
        return func(*args, **kwargs)
    return _passed(region, "searchsorted", call, boundaries, x)


_LEARNED = (
    "the boundaries get no gradient where what passes them was chosen. Use (x.unsqueeze(-1) > boundaries).sum(-1)."
)
_OF_A_COUNT = "the boundaries that a count passes are not known. Use (x.unsqueeze(-1) > boundaries).sum(-1)."


def _sorted(region: Region, table: Tensor, sorter: Tensor | None) -> Tensor:
    """What `sorter` sorts; of ``table.argsort()`` it is known that it does."""
    if sorter is None:
        return table
    boundaries, chosen = table.gather(-1, sorter), resolved(sorter)
    if isinstance(chosen, Choice) and equal_keys(chosen.key, _key(region.eps_for("sort"), table, -1, False)):
        mark(region, boundaries, table, -1, False)
    return boundaries


def _ranks(region: Region, hard: Tensor, x: Tensor, right: bool) -> Tensor:
    """How many of its own sorted values each element passes."""
    index, width = x.detach().argsort(), region.eps_for("searchsorted")
    found = positions(_ordered(width, x, -1, False, index), -1, _key(width, x, -1, False)[1:], index)
    return attach(region, hard, found.of((found.values + right).to(hard.dtype)))


@chooses("histc")
def histc(region: Region, call: Call, x: Tensor, *args: Any, **kwargs: Any) -> Any:
    hard = original(call)
    edges, whole = edges_of(x, *args, **kwargs)
    bins, flat = edges.numel() - 1, x.reshape(-1)
    count = lambda v: torch.searchsorted(edges, v.to(edges.dtype), right=True)
    place = _passed(region, "histc", count, edges, flat)
    if whole:  # the outermost edges move with the data, and nothing crosses them
        place = region.call(torch.clamp, place, 1, bins)
    nothing, each = (torch.zeros(n, dtype=exact_dtype(place), device=x.device) for n in (bins + 2, flat.numel()))
    total = region.call(torch.scatter_add, nothing, 0, place, each + 1)[1:-1]
    certain = (total.detach() - hard).abs() < 1e-6
    return torch.where(certain, hard_forward(hard, total), total.to(hard.dtype))
