"""`searchsorted` and `bucketize` count the boundaries passed: one decision, at the nearest boundary."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor

from ..._ops.band import band_offset, hard_forward
from ..._ops.dtypes import compute_dtype, exact_dtype
from ..._ops.env import tracked
from ..._rules.index import op_name
from ..._rules.widths import half_width, watch_of
from ..interface import Func, Region
from .algebra import on_outcomes
from .carriers import Choice, Expectation, Outcomes, attach, carrier, choice, discrete_carrier, resolved, sorted_places
from .choosing import _mark, chooses
from .decisions import decided_at, equal_keys, shows
from .orders import _key, _ordered, positions
from .reductions import bins_of
from .trees import original


def _passed(region: Region, call: Callable[[Any], Tensor], boundaries: Tensor, x: Any) -> Tensor:
    """``call(x)`` counts the sorted `boundaries` that `x` has passed; the decision is at the nearest."""
    hard: Tensor = original(call, x)
    if boundaries.shape[-1] == 0 or hard.numel() == 0:
        return hard
    offset, below, above = nearest_boundary(region, hard, boundaries, x)
    decision = decided_at(offset)
    decision.side = shows(hard, above, at_ties=True)
    return attach(region, hard, Outcomes(decision, below.to(hard.dtype), above.to(hard.dtype)))


def nearest_boundary(region: Region, hard: Tensor, boundaries: Tensor, x: Any) -> tuple[Tensor, Tensor, Tensor]:
    """Where `x` is in the band of the boundary next to it, and how many are passed below and above that. (`hard`: how
    many are.)
    """
    many = boundaries.shape[-1]
    dtype = compute_dtype(boundaries.dtype, x.dtype if isinstance(x, Tensor) else boundaries.dtype)
    edges = boundaries.to(dtype)
    value = x.to(dtype) if isinstance(x, Tensor) else torch.tensor(float(x), dtype=dtype, device=edges.device)

    def edge(i: Tensor) -> Tensor:
        i = i.clamp(0, many - 1)
        return edges[i] if edges.dim() == 1 else edges.gather(-1, i)

    count = hard.long()
    with torch.no_grad():
        lower = (value - edge(count - 1)).abs() <= (edge(count) - value).abs()
        nearest = torch.where((count > 0) & (lower | (count == many)), count - 1, count)
        at = edge(nearest).contiguous()
        fixed = edges.contiguous()
        below, above = torch.searchsorted(fixed, at), torch.searchsorted(fixed, at, right=True)
    # Bands of neighbouring boundaries do not overlap: half the distance to the next one at most.
    target = edge(nearest)
    gaps = torch.minimum(
        torch.where(below > 0, target - edge(below - 1), float("inf")),
        torch.where(above < many, edge(above) - target, float("inf")),
    )
    distance = value - target
    width = region.eps_for("searchsorted")
    half = (gaps * 0.5).clamp(max=half_width(width, distance))
    offset = band_offset(distance / (2 * half), 0.5, 0.5)
    watch = watch_of(width)
    if watch is not None:
        watch.offset(distance, offset, half, gaps * 0.5)
    return offset, below, above


def _own_ranks(boundaries: Tensor, x: Any) -> bool:
    """Whether the boundaries are the sorted rows of `x` itself."""
    found = sorted_places(boundaries)
    if found is None or found.largest or not found.found_in(x) or boundaries.shape != x.shape or not x.numel():
        return False
    return x.dim() > 0 and found.dim is not None and found.dim % x.dim() == x.dim() - 1


_LEARNED = (
    "the boundaries get no gradient where what passes them was chosen. Use (x.unsqueeze(-1) > boundaries).sum(-1)."
)


def _count_passed(
    region: Region,
    func: Func,
    call: Callable[[Any], Tensor],
    boundaries: Tensor,
    x: Any,
    right: bool,
    through: tuple[tuple[Any, ...], dict[str, Any]] | None,
    direct: Callable[[], Any],
) -> Any:
    counted = isinstance(carrier(x), Expectation)
    if carrier(x) is not None and not counted and boundaries.dim() == 1 and carrier(boundaries) is None:
        learned = tracked(boundaries) and region.linearizes("searchsorted")
        chosen = choice(x) is not None
        if learned and through is not None and not chosen:  # on either side, the boundaries decide
            out = on_outcomes(region, func, *through, conditional=True)
        else:
            out = on_outcomes(region, call, (x,), {})
        if out is not None:
            if learned and chosen:
                region.lose(op_name(func), [x], _LEARNED)
            return out
    if _own_ranks(boundaries, x) and region.linearizes("searchsorted"):
        index = x.detach().argsort()  # among its own values: a rank
        width = region.eps_for("searchsorted")
        order = _ordered(width, x, -1, False, index)
        hard = original(call, x)
        found = positions(order, -1, _key(width, x, -1, False)[1:], index)
        return attach(region, hard, found.of((found.values + right).to(hard.dtype)))
    lost = [t for t in (boundaries, x) if discrete_carrier(t)]
    if lost:
        region.lose(
            op_name(func),
            lost,
            "the boundaries that a count passes are not known. Use (x.unsqueeze(-1) > boundaries).sum(-1).",
        )
    if not (tracked(x) or tracked(boundaries)) or not region.linearizes("searchsorted"):
        return direct()
    return _passed(region, call, boundaries, x)


def searchsorted(region: Region, func: Func, args: tuple[Any, ...], kwargs: dict[str, Any]) -> Any:
    named = dict(zip(("sorted_sequence", "input"), args), **kwargs)
    table, x = named.pop("sorted_sequence"), named.pop("input", named.pop("self", None))
    sorter = named.get("sorter")
    boundaries = table if sorter is None else table.gather(-1, sorter)
    chosen = resolved(sorter)
    if isinstance(chosen, Choice) and equal_keys(chosen.key, _key(region.eps_for("sort"), table, -1, False)):
        _mark(region, boundaries, table, -1, False)  # table.gather(-1, table.argsort())
    right = bool(named.get("right")) or named.get("side") == "right"
    direct = lambda: func(*args, **kwargs)
    through = (args, kwargs) if sorter is None else None
    return _count_passed(region, func, lambda v: func(table, v, **named), boundaries, x, right, through, direct)


def bucketize(region: Region, func: Func, args: tuple[Any, ...], kwargs: dict[str, Any]) -> Any:
    named = dict(zip(("input", "boundaries"), args), **kwargs)
    x, boundaries = named.pop("input", named.pop("self", None)), named.pop("boundaries")
    right = bool(named.get("right"))
    direct = lambda: func(*args, **kwargs)
    call = lambda v: func(v, boundaries, **named)
    return _count_passed(region, func, call, boundaries, x, right, (args, kwargs), direct)


@chooses("histc")
def histc(region: Region, func: Func, args: tuple[Any, ...], kwargs: dict[str, Any], x: Tensor) -> Any:
    named = dict(zip(("input", "bins", "min", "max"), args), **kwargs)
    bins, low, high = int(named.get("bins", 100)), float(named.get("min", 0)), float(named.get("max", 0))
    hard = original(func, *args, **kwargs)
    whole = low == high  # the range of the data: the outermost edges move with it, and nothing crosses them
    if whole and x.numel():
        low, high = float(x.detach().min()), float(x.detach().max())
    if low == high:
        low, high = low - 1, high + 1
    flat = x.reshape(-1)
    edges = torch.linspace(low, high, bins + 1, dtype=compute_dtype(x.dtype), device=x.device)
    place = _passed(region, lambda v: torch.searchsorted(edges, v.to(edges.dtype), right=True), edges, flat)
    if whole:
        place = region.call(torch.clamp, place, 1, bins)
    total = bins_of(place, bins + 2, exact_dtype(place))
    if total is None:
        return hard
    total = total[1:-1]
    certain = (total.detach() - hard).abs() < 1e-6
    return torch.where(certain, hard_forward(hard, total), total.to(hard.dtype))
