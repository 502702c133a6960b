"""Boundaries that all engines know: at integers, at sorted numbers, at edges of bins; where in a band a distance is."""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any, NamedTuple

import torch
from torch import Tensor

from .._ops.band import band_offset
from .._ops.dtypes import compute_dtype
from .._ops.env import free_to_read
from .._rules.index import op_name
from .._rules.widths import Width, half_width, watch_of
from .found import sorted_places
from .interface import Func


def offset_at(
    distance: Tensor,
    eps: float | Tensor | Width,
    limit: Any = math.inf,
    nan: float = -0.5,
    true_distance: Callable[[], Tensor] | None = None,
    half: Any = None,
) -> Tensor:
    """Where in a band of half-width `eps`, at most `limit` (a tensor is known to be); see `band_offset`. `half`: the
    half-width of each element, which may have a derivative. (`true_distance` is for traces.)
    """
    if half is None:
        half = eps if isinstance(eps, Tensor) else half_width(eps, distance, limit)
        offset = band_offset(distance, half, nan)
    else:
        offset = band_offset(distance / (2 * half), 0.5, nan)
    watch = watch_of(eps)
    if watch is not None:
        watch.offset(distance, offset, half, limit, None if true_distance is None else true_distance())
    return offset


def from_one(distance: Tensor, nearest: Tensor) -> Tensor:
    """Distances, those from 0 replaced by those from ±1."""
    d = distance.detach()
    return torch.where(nearest == 0, torch.where(d < 0, d + 1, d - 1), d)


def toward_zero(n: Tensor) -> tuple[Tensor, Tensor]:
    """The truncated values on both sides of the integer `n`; equal at 0, where `trunc` does not jump."""
    return n - (n > 0).to(n.dtype), n + (n < 0).to(n.dtype)


class Passing(NamedTuple):
    """``call(x)``, a call of `searchsorted` or `bucketize`, counts how many of the sorted numbers `x` has passed."""

    call: Callable[[Any], Tensor]
    x: Any
    table: Tensor
    """The numbers, as they are given: a `sorter` sorts them."""
    sorter: Tensor | None
    right: bool


def passing(func: Func, args: tuple[Any, ...], kwargs: dict[str, Any]) -> Passing:
    """What is asked in that call."""
    bins = op_name(func) == "bucketize"
    named = dict(zip(("input", "boundaries") if bins else ("sorted_sequence", "input"), args), **kwargs)
    x = named.pop("input", named.pop("self", None))
    table = named.pop("boundaries" if bins else "sorted_sequence")
    call: Callable[[Any], Tensor] = lambda v: func(*((v, table) if bins else (table, v)), **named)
    right = bool(named.get("right")) or named.get("side") == "right"
    return Passing(call, x, table, named.get("sorter"), right)


class Nearest(NamedTuple):
    """The boundary next to a value, half the distance to the next one, and how many are passed below and above it."""

    value: Tensor
    target: Tensor
    limit: Tensor
    below: Tensor
    above: Tensor


def nearest(hard: Tensor, boundaries: Tensor, x: Any) -> Nearest:
    """`hard`: how many of the sorted `boundaries` `x` has passed."""
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
        place = torch.where((count > 0) & (lower | (count == many)), count - 1, count)
    if edges.dim() == 1 and free_to_read(edges) and bool((edges[1:] > edges[:-1]).all()):
        far = edges.new_full((1,), math.inf)
        gaps = torch.cat([far, edges.diff(), far])
        return Nearest(value, edge(place), (torch.minimum(gaps[1:], gaps[:-1]) * 0.5)[place], place, place + 1)
    with torch.no_grad():
        at, fixed = edge(place).contiguous(), edges.contiguous()
        below, above = torch.searchsorted(fixed, at), torch.searchsorted(fixed, at, right=True)
    target = edge(place)
    gaps = torch.minimum(
        torch.where(below > 0, target - edge(below - 1), float("inf")),
        torch.where(above < many, edge(above) - target, float("inf")),
    )
    return Nearest(value, target, gaps * 0.5, below, above)


def nearest_boundary(width: float | Width, hard: Tensor, boundaries: Tensor, x: Any) -> tuple[Tensor, Tensor, Tensor]:
    """Where `x` is in the band of the boundary next to it, and how many are passed below and above that. (`hard`: how
    many are.) Bands of neighbouring boundaries do not overlap.
    """
    value, target, limit, below, above = nearest(hard, boundaries, x)
    distance = value - target
    half = limit.clamp(max=half_width(width, distance))
    return offset_at(distance, width, limit, 0.5, half=half), below, above


def own_ranks(boundaries: Tensor, x: Any) -> bool:
    """Whether the boundaries are the sorted rows of `x` itself."""
    found = sorted_places(boundaries)
    if found is None or found.largest or not found.found_in(x) or boundaries.shape != x.shape or not x.numel():
        return False
    return x.dim() > 0 and found.dim is not None and found.dim % x.dim() == x.dim() - 1


def edges_of(input: Tensor, bins: int = 100, min: float = 0, max: float = 0) -> tuple[Tensor, bool]:
    """The edges of the bins of `histc`, and whether they are those of the data."""
    low, high = float(min), float(max)
    whole = low == high
    if whole and input.numel():
        low, high = (float(x) for x in input.detach().aminmax())
    if low == high:
        low, high = low - 1, high + 1
    return torch.linspace(low, high, bins + 1, dtype=compute_dtype(input.dtype), device=input.device), whole
