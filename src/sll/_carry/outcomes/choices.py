"""Sources that choose and order: argmax, topk, sort and their kin. Values keep torch's own gradient; *indices* carry a
`Choice` of positions, with the weights of `sll.order`.

`searchsorted` and `bucketize` count the boundaries passed: one decision, at the nearest boundary.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor

from ..._ops.env import tracked
from ..._ops.order import capped_simplex, traced
from ..._ops.samples import lead, leads
from ..._rules.index import op_name
from ..._rules.widths import Width, in_units
from ..interface import Func, Region
from .carriers import Choice, attach, discrete_carrier, sorted_places
from .choosing import _DISCRETE, _limit, _mark, _scores, _watched, _with_indices, chooses
from .decisions import version_of
from .elementwise import elementwise
from .later import LaterChoice
from .registry import follows
from .trees import original

# --- one position ------------------------------------------------------------------------------------------------


def _best(region: Region, x: Tensor, hard: Tensor, dim: int | None, keepdim: bool, op: str) -> Choice | None:
    """`hard` is the position of the largest (op "argmax") or smallest entry: sparsemax weights."""
    n = x.numel() if dim is None or x.dim() == 0 else x.shape[dim]
    if n < 2:
        return None
    eps = region.eps_for(op)
    key = ("choice", op, x, version_of(x), None if dim is None else dim % x.dim(), eps, keepdim)
    largest = op == "argmax"
    if traced(x):
        return _weigh_best(key, x, hard, dim, largest, eps)
    return LaterChoice(region, op, key, x, hard, lambda: _weigh_best(key, x, hard, dim, largest, eps))


CONTENDERS = 32
"""How many entries may share a choice whose number is not known while tracing: a lookup costs that many rows of its
table."""


def _weigh_best(
    key: tuple[Any, ...],
    x: Tensor,
    hard: Tensor,
    dim: int | None,
    largest: bool,
    width: float | Width,
) -> Choice:
    rows = x.reshape(-1) if dim is None else x.movedim(dim, -1)
    z, eps = in_units(_scores(rows, -1, largest), width, leads, lead)
    n = z.shape[-1]
    scores = z.detach()
    best = scores.amax(-1, keepdim=True)
    if traced(z):
        many = min(n, CONTENDERS)
    else:
        most = int((best - scores < eps).sum(-1).max()) if scores.numel() else 1
        many = min(n, max(2, min(most, 2 * _limit(z[..., 0]))))
    index = scores.topk(many, -1).indices
    place = hard.reshape(z.shape[:-1]).unsqueeze(-1)
    if many < n:  # of more equal entries than are looked at, torch may take another
        last = torch.where((index == place).any(-1, keepdim=True), index[..., -1:], place)
        index = torch.cat([index[..., :-1], last], -1)
    finite = best.isfinite() & ~rows.isnan().any(-1, keepdim=True)
    apart = torch.arange(0, -many, -1, device=z.device) * (2 * eps)
    top = torch.where(finite, z.gather(-1, index), apart.to(z.dtype))
    weights = _watched(width, capped_simplex(top, 1, eps))
    # Without a finite best there is no distance: the hard position, decided.
    values = torch.where(finite, index, place)
    ties = top.detach()[..., 0] == top.detach()[..., 1]
    shape = (*hard.shape, many)
    return Choice(key, values.reshape(shape), weights.reshape(shape), ties.reshape(*hard.shape, 1))


def _position(op: str) -> Callable[..., Any]:
    def rule(region: Region, func: Func, args: tuple[Any, ...], kwargs: dict[str, Any], x: Tensor) -> Any:
        named = dict(zip(("input", "dim", "keepdim"), args), **kwargs)
        hard = original(func, *args, **kwargs)
        return attach(region, hard, _best(region, x, hard, named.get("dim"), bool(named.get("keepdim")), op))

    return rule


chooses("argmax")(_position("argmax"))


chooses("argmin")(_position("argmin"))


def extremum(region: Region, func: Func, args: tuple[Any, ...], kwargs: dict[str, Any]) -> Any:
    """``torch.max(a, b)`` is `maximum`; ``max(a, dim)`` has values and indices; ``max(a)`` is continuous."""
    named = dict(zip(("input", "dim", "keepdim"), args), **kwargs)
    x, dim = named["input"], named.get("dim")
    if isinstance(dim, Tensor) or "other" in named:
        return elementwise(region, func, args, kwargs)
    if discrete_carrier(x):
        region.lose(op_name(func), [x], _DISCRETE)
    op = "arg" + op_name(func)
    out = func(*args, **kwargs)
    if not tracked(x) or not region.linearizes(op):
        return out
    if dim is None:
        return _extreme(region, out, x, op == "argmax")
    found = _best(region, x, out.indices, dim, bool(named.get("keepdim")), op)
    out = out if found is None else _with_indices(region, func, out, found)
    return _mark(region, out, x, dim, op == "argmax", 0)


def _extreme(region: Region, out: Tensor, x: Tensor, largest: bool) -> Any:
    """The largest or smallest of all; of sorted values, ``x.topk(k).values.min()``, the first or last of those."""
    values = sorted_places(x)
    if values is None or x.dim() != 1:
        return _mark(region, out, x, None, largest, 0)
    first = values.largest == largest
    return attach(region, out, values.moved(lambda: values.places().amin() if first else values.places().amax()))


def best_value(region: Region, func: Func, args: tuple[Any, ...], kwargs: dict[str, Any]) -> Any:
    """``amax``, ``amin``: continuous. The value is remembered as the first in order."""
    named = dict(zip(("input", "dim", "keepdim"), args), **kwargs)
    x, dim = named["input"], named.get("dim")
    out = func(*args, **kwargs)
    if isinstance(dim, (tuple, list)):
        if 1 < len(dim) < x.dim():
            return out
        dim = dim[0] if len(dim) == 1 else None
    if not tracked(x):
        return out
    if dim is None or x.dim() == 1 and out.dim() == 0:
        return _extreme(region, out, x, op_name(func) == "amax")
    return _mark(region, out, x, dim, op_name(func) == "amax", 0)


follows(extremum, "extremes")


follows(best_value, "best_values")
