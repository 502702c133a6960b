"""Comparisons with values that were found by sorting."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor

from ..._ops.dtypes import compute_dtype
from ..._ops.env import compiling
from ..._ops.order import constant as every
from ..._ops.order import first_k
from ..._ops.samples import around, sample
from ..._rules.widths import in_units, watch_of
from ..interface import Region
from .boundaries import Eps
from .carriers import Sorted, attach, bool_outcomes, sorted_places
from .decisions import decided_at
from .trees import original


def _compared_with_sorted(region: Region, op: str, func: Callable[..., Any], args: tuple[Any, ...]) -> Tensor | None:
    """A comparison with values that were found by sorting; None if it is an ordinary one.

    Sorted values of one row with each other: no decision. The elements of `x` with one value of each row, ``x >=
    x.topk(k).values[..., -1:]``: that asks which are the first `k`, and has the weights of `sll.topk_mask`. (The plain
    rule would see an element that always ties with itself.)
    """
    if len(args) != 2:
        return None
    a, b = (sorted_places(x) for x in args)
    if compiling():
        if a is not None or b is not None:
            region.lose(op, (), "a comparison with what was found by sorting is not followed in compiled code.")
        return None
    if a is not None and b is not None:
        if a.source is not b.source or a.version != b.version or a.dim != b.dim:
            return None
        known = bool((a.places() // a.n == b.places() // b.n).all())
        return original(func, *args) if known else None
    value, other = (a, args[1]) if a is not None else (b, args[0])
    if value is None or not value.found_in(other):
        return None
    x, threshold = other, args[0] if a is not None else args[1]
    if threshold.numel() == 0 or torch.broadcast_shapes(x.shape, threshold.shape) != x.shape:  # type: ignore[no-untyped-call]
        return None
    full = value.places().expand(x.shape)
    dim = None if value.source.dim() == 1 else value.dim
    rows = full.reshape(1, -1) if dim is None else full.movedim(dim, -1).reshape(-1, value.n)
    place = int(rows[0, 0]) % value.n
    if not bool((rows == torch.arange(rows.shape[0], device=rows.device)[:, None] * value.n + place).all()):
        return None
    if a is not None:  # threshold < x is x > threshold
        op = {"gt": "lt", "ge": "le", "lt": "gt", "le": "ge"}[op]
    strict, inclusive = ("gt", "ge") if value.largest else ("lt", "le")
    # The first `place` are strictly beyond the threshold, with the threshold itself it is one more.
    among_first = op in (strict, inclusive)
    k = place + (op == inclusive or op == {"gt": "lt", "lt": "gt"}[strict])
    hard = original(func, *args)
    offset = _first_so_many(value, x, threshold, k, region.eps_for("topk"))
    return attach(region, hard, bool_outcomes(decided_at(offset), hard, 1 if among_first else -1))


def _first_so_many(value: Sorted, x: Tensor, threshold: Tensor, k: int, eps: Eps) -> Tensor:
    """Offsets of being among the first `k`: the weights of `sll.topk_mask`, minus 1/2."""
    dim = None if value.source.dim() == 1 else value.dim
    rows = (x.reshape(-1) if dim is None else x.movedim(dim, -1)).to(compute_dtype(x.dtype))
    rows = torch.where(rows.isnan(), float("inf"), rows)
    rows = rows if value.largest else -rows
    rows, half = in_units(rows, eps, lambda _: sample(x - threshold), lambda z: around(z, k))
    weights = first_k(rows, k, half)[0] if 0 < k < value.n else every(float(k > 0), rows)
    watch = watch_of(eps)
    if watch is not None:
        watch.weights(weights, each=True)
    offset = (weights.reshape(x.shape) if dim is None else weights.movedim(-1, dim)) - 0.5
    # Equals of the threshold show what they show.
    equal = x == threshold
    several = equal.sum() > 1 if dim is None else equal.sum(dim, keepdim=True) > 1
    return torch.where(equal & several, offset - offset.detach(), offset)
