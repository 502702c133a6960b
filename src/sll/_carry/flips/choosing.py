"""The best of several: an argmax flips to those that share sparsemax with it."""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any, TypeAlias

import torch
from torch import Tensor

from ..._ops.dtypes import compute_dtype
from ..._ops.env import tracked
from ..._ops.samples import lead, leads
from ..._rules.widths import in_units, watch_of
from ..interface import Func
from .deciding import decision
from .entries import Block, Layout, batched, carry, opened
from .every import flip_by_flip
from .found import mark_found
from .identity import again, held
from .mapped import elementwise

__all__ = ["asks", "best", "scores"]

Answer: TypeAlias = "Callable[[Any, str, Tensor, Any, dict[str, Any]], None]"

MOST = 32
"""So many contenders share a choice whose width a policy found."""


def scores(x: Tensor, dim: int | None, largest: bool) -> tuple[Tensor, Tensor]:
    """± x without gradient, one row for each choice, NaN the largest number; and the flat positions."""
    numbers = torch.arange(x.numel(), device=x.device).reshape(x.shape)
    rows = x.detach().to(compute_dtype(x.dtype))
    if dim is None or x.dim() == 0:
        rows, numbers = rows.reshape(1, -1), numbers.reshape(1, -1)
    else:
        rows, numbers = (t.movedim(dim, -1).reshape(-1, x.shape[dim]) for t in (rows, numbers))
    rows = torch.where(rows.isnan(), math.inf, rows)
    return (rows if largest else -rows), numbers


def _contest(region: Any, op: str, x: Tensor, hard: Tensor, dim: int | None) -> None:
    """`hard`, the index of the largest or smallest: flips to those that share sparsemax."""
    largest, width = op == "argmax", region.eps_for(op)
    z, numbers = scores(x, dim, largest)
    z, eps = in_units(z, width, leads, lead)
    top = z.amax(-1, keepdim=True)
    most = MOST if batched(z) else int((top - z < eps).sum(-1).max()) if z.numel() else 1
    most = min(z.shape[-1], most if isinstance(width, float) else min(most, MOST))
    near, index = z.topk(most, -1)
    u = (near - top) / eps
    inside = (1 + torch.arange(1, most + 1, device=z.device) * u > u.cumsum(-1)) & top.isfinite()
    members = inside.sum(-1, keepdim=True).to(z.dtype)
    other = inside & (index != hard.detach().reshape(-1, 1))
    row, column = opened(other)
    alone = (torch.arange(most, device=z.device) == column.unsqueeze(-1)).to(z.dtype)
    share = (alone - 1 / members[row]) * (1 if largest else -1) / eps
    by = torch.where(inside[row] & other[row, column].unsqueeze(-1), share, 0).reshape(-1)
    flip = torch.arange(row.shape[0], device=z.device).repeat_interleave(most)
    at = numbers[row.unsqueeze(-1), index[row]].reshape(-1)
    watch = watch_of(width)
    if watch is not None:
        watch.count(other.any(-1))
    found, values = decision(width, x, at, by, flip), index[row, column]
    if not batched(z):
        found = again(x, ("choice", numbers.shape, numbers.stride(), largest, held(width)), found, (row, values))
    carry(region, hard, Layout((Block(found, None, row),)), values)


def asks(answer: Answer, op: str, names: tuple[str, ...] = ("dim",)) -> Any:
    """The rule of a function that asks for an order: `answer` lets the indices of its result carry flips. `names`: of
    its arguments. The values that it finds are remembered.
    """

    def rule(region: Any, func: Func, args: tuple[Any, ...], kwargs: dict[str, Any]) -> Any:
        x, named = args[0], dict(zip(names, args[1:]), **kwargs)
        if isinstance(named.get("dim"), Tensor) or "other" in named:  # ``max(a, b)``
            return elementwise(region, func, args, kwargs)
        if not tracked(x) or x.numel() < 2:
            return flip_by_flip(region, func, args, kwargs)
        out = func(*args, **kwargs)
        if hasattr(out, "indices") and not isinstance(out, Tensor):
            mark_found(region, out.values, x, out.indices.detach(), named.get("dim", -1))
        if region.linearizes(op) and x.dim():
            answer(region, op, x, out, named)
        return out

    return rule


def best(region: Any, op: str, x: Tensor, out: Any, named: dict[str, Any]) -> None:
    """``argmax(x)``, ``max(x, dim)``"""
    _contest(region, op, x, out if isinstance(out, Tensor) else out.indices, named.get("dim"))
