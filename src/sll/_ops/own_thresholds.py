"""A threshold that is an element of the row which is compared with it: ``x >= x.max() - 1e-6``, ``x > x.median()``.

That element moves with its threshold, so the distance between them says nothing. What tells is the next one in order:

    x[j] >= v[k]        v[1] >= v[2] >= …, and the others stay where they are
    at x[j] = v[k + 1]  where ``x[j] >= v[k]`` holds: it falls behind that one
    at x[j] = v[k]      where it does not

and one place earlier for ``x[j] > v[k]``. The same holds for ``a * v[k] + b`` with a > 0. What autograd knows of the
threshold says which element it is, and `a`.
"""

from __future__ import annotations

import math
from typing import Any

import torch
from torch import Tensor
from torch.autograd.graph import GradientEdge, get_gradient_edge

from .origins import origin
from .surrogates import simple

__all__ = ["apart"]

_FOUND = {"Max", "Min", "Amax", "Amin", "Topk", "Sort", "Kthvalue", "Median", "Nanmedian", "Cummax", "Cummin"}
_FOUND |= {"Aminmax"}
_COPIES = {"Clone", "Alias", "View", "UnsafeView", "Reshape", "Unsqueeze", "Squeeze", "Contiguous"}
_MOST = 16
"""Nodes of the threshold's graph that are looked at."""


def apart(op: str, a: Any, b: Any, hard: Tensor) -> tuple[Any, Any]:
    """The operands of a comparison, `hard`, with distances that tell where it changes."""
    if not isinstance(a, Tensor) or not isinstance(b, Tensor) or a.numel() == b.numel():
        return a, b
    swapped = a.numel() < b.numel()
    x, threshold = (b, a) if swapped else (a, b)
    if threshold.grad_fn is None or (which := _element(x, threshold)) is None:
        return a, b
    above = hard if (op in ("gt", "ge")) != swapped else ~hard
    moved = _from_next(x, threshold, which, above)
    return (moved, b) if swapped else (a, moved)


def _kind(node: Any) -> str:
    return type(node).__name__.split("Backward")[0]


def _element(x: Tensor, threshold: Tensor) -> Tensor | None:
    """The derivative of each row's threshold by its elements, if that is one positive number: it is an element."""
    if not simple(x) or not simple(threshold) or threshold.dim() > x.dim() or not x.requires_grad:
        return None
    edge = _found_in(threshold, x)
    if edge is None:
        return None
    (which,) = torch.autograd.grad(threshold.sum(), GradientEdge(*edge), retain_graph=True, allow_unused=True)
    if which is None or which.numel() != x.numel():
        return None
    which = which.reshape(x.shape)
    one = (which != 0).sum(_rows(x, threshold), keepdim=True) == 1
    return which if one.numel() == threshold.numel() and bool((one & (which >= 0)).all()) else None


def _found_in(threshold: Tensor, x: Tensor) -> tuple[Any, int] | None:
    """The edge of the graph at which `x` comes in, or its like, among which the threshold was found."""
    todo, seen = [threshold.grad_fn], 0
    while todo and seen < _MOST:
        node: Any = todo.pop()
        seen += 1
        if _kind(node) in _FOUND and _alike(node.next_functions[0], x):
            return node.next_functions[0]  # type: ignore[no-any-return]
        todo.extend(parent for parent, _ in node.next_functions if parent is not None)
    return None


def _alike(edge: tuple[Any, int], x: Tensor) -> bool:
    """Whether what comes in there is `x`, a copy of it, or was computed alike."""
    there, here = _copied(edge[0]), _copied(get_gradient_edge(x).node)
    return there is here or _kind(there) == _kind(here) and origin(there) == origin(here)


def _copied(node: Any) -> Any:
    while _kind(node) in _COPIES:
        node = node.next_functions[0][0]
    return node


def _rows(x: Tensor, threshold: Tensor) -> list[int]:
    sizes = [1] * (x.dim() - threshold.dim()) + list(threshold.shape)
    return [d for d, (n, m) in enumerate(zip(x.shape, sizes)) if m == 1 and n != 1]


def _from_next(x: Tensor, threshold: Tensor, which: Tensor, above: Tensor) -> Tensor:
    """`threshold`, with the next element of the row in the place of the one it is, where that tells."""
    rows, at, fixed = _rows(x, threshold), which != 0, x.detach()
    own, by = torch.where(at, x, 0).sum(rows, keepdim=True), which.sum(rows, keepdim=True)
    low, high = fixed <= own.detach(), fixed >= own.detach()
    below = torch.where(low & ~at, x, -math.inf).amax(rows, keepdim=True)
    beyond = torch.where(high & ~at, x, math.inf).amin(rows, keepdim=True)
    holds = (above & at).sum(rows, keepdim=True) > 0  # (of the element itself)
    there = threshold + by * (torch.where(holds, below, beyond) - own)
    return torch.where(torch.where(holds, high, low), there, threshold)
