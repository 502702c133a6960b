"""Choices: the index of the best of each row, and of the first `k`."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor

from ..._ops.surrogates import alias
from ..._rules.index import op_name
from ..interface import Func, Quick, Region
from .either import left, tied
from .elementwise import elementwise
from .picked import Best, Picked, decides, quickly_decides, with_indices
from .reductions import best_value
from .shadow import Shadow, carry, mark, shadow


def quick_position(op: str) -> Quick:
    """`argmax` or `argmin`."""

    def rule(region: Region, func: Func, args: tuple[Any, ...]) -> Any:
        x, dim = args[0], args[1] if len(args) > 1 else None
        if not quickly_decides(region, op, x):
            return NotImplemented
        out = func(*args)
        found = Best(region, op, x, out, dim, 1, op == "argmax", True)
        return mark(region, out, found) if found.size > 1 and out.numel() else out

    return rule


def position(op: str) -> Callable[..., Any]:
    def rule(region: Region, func: Func, args: tuple[Any, ...], kwargs: dict[str, Any]) -> Any:
        args = left(region, op, args)
        named = dict(zip(("input", "dim", "keepdim"), args), **kwargs)
        x, dim = named["input"], named.get("dim")
        tied(region, op, x, dim)
        out = func(*args, **kwargs)
        if not decides(region, func, op, x, dim):
            return out
        return with_indices(region, func, out, Best(region, op, x, out, dim, 1, op == "argmax"))

    return rule


def extremum(region: Region, func: Func, args: tuple[Any, ...], kwargs: dict[str, Any]) -> Any:
    """``torch.max(a, b)`` is `maximum`; ``max(a, dim)`` has values and indices; ``max(a)`` is continuous."""
    named = dict(zip(("input", "dim", "keepdim"), args), **kwargs)
    x, dim = named["input"], named.get("dim")
    if isinstance(dim, Tensor) or "other" in named:
        return elementwise(region, func, args, kwargs)
    op = "arg" + op_name(func)
    tied(region, op_name(func), x, dim)
    args = left(region, op if dim is not None else "", args)
    if dim is None:
        best = torch.amax if op == "argmax" else torch.amin
        return best_value(region, best, (x,), {}) if shadow(x) is not None else func(*args, **kwargs)
    out, x, own = func(*args, **kwargs), args[0] if args else x, shadow(x)
    if own is not None:
        shape, index = out.values.shape, alias(out.indices)
        index = index if index.dim() == x.dim() else index.unsqueeze(dim)
        carry(region, out.values, Shadow(lambda: torch.take_along_dim(own.value(), index, dim).reshape(shape)))
    if not decides(region, func, op, x, dim):
        return out
    return with_indices(region, func, out, Best(region, op, x, out.indices, dim, 1, op == "argmax"))


def quick_topk(region: Region, func: Func, args: tuple[Any, ...]) -> Any:
    if len(args) not in (2, 3) or not quickly_decides(region, "topk", args[0]) or not 0 < args[1]:
        return NotImplemented
    out, dim = func(*args), args[2] if len(args) == 3 else -1
    if args[0].shape[dim] < 2 or not out.indices.numel():
        return out
    mark(region, out.indices, Picked(region, "topk", args[0], out.indices, dim, args[1], True, True))
    return out


def topk(region: Region, func: Func, args: tuple[Any, ...], kwargs: dict[str, Any]) -> Any:
    args = left(region, "topk", args)
    named = dict(zip(("input", "k", "dim", "largest", "sorted"), args), **kwargs)
    x, k, dim = named["input"], int(named["k"]), int(named.get("dim", -1))
    out = func(*args, **kwargs)
    if not decides(region, func, "topk", x, dim) or k == 0:
        return out
    found = Picked(region, "topk", x, out.indices, dim, k, bool(named.get("largest", True)))
    found.in_order = bool(named.get("sorted", True))
    return with_indices(region, func, out, found)
