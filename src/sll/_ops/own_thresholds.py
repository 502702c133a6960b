"""A threshold that is an element of the row which is compared with it: ``x >= x.max() - 1e-6``, ``x > x.median()``.

That element moves with its threshold, so the distance between them says nothing. What tells is the next one in order:

    x[j] >= v[k]        v[1] >= v[2] >= …, and the others stay where they are
    at x[j] = v[k + 1]  where ``x[j] >= v[k]`` holds: it falls behind that one
    at x[j] = v[k]      where it does not

and one place earlier for ``x[j] > v[k]``. The same holds for ``v[k] + b``, with v[k + 1] + b. (``a * v[k]`` has a
boundary of its own, where autograd has it.) The nodes of the threshold's graph say which element it is; each is called
by itself, so neither hooks nor gradients of the program see it.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor
from torch.autograd.graph import get_gradient_edge

from .env import dispatched
from .surrogates import simple

_FOUND = {"Max", "Min", "Amax", "Amin", "Topk", "Sort", "Kthvalue", "Median", "Nanmedian", "Cummax", "Cummin"}
_FOUND |= {"Aminmax"}
_COPIES = {"Clone", "Alias", "View", "UnsafeView", "Reshape", "Unsqueeze", "Squeeze", "Contiguous"}
_PASSED = {*_COPIES, "Select", "Slice", "Expand", "Permute", "Transpose", "T", "Add", "Sub"}
"""Between the element and the threshold: they move it, or add a number."""
_MAPS = {"Abs", "Neg", "Exp", "Log", "Sqrt", "Sigmoid", "Tanh", "Square", "Relu"}
"""Without numbers of their own: what they make twice of one tensor is the same."""
_MOST = 16
"""Nodes of the threshold's graph that are looked at."""


def apart(op: str, a: Any, b: Any, compare: Callable[[], Tensor]) -> tuple[Any, Any]:
    """The operands of a comparison, ``compare()``, with distances that tell where it changes."""
    if not isinstance(a, Tensor) or not isinstance(b, Tensor) or a.numel() == b.numel():
        return a, b
    swapped = a.numel() < b.numel()
    x, threshold = (b, a) if swapped else (a, b)
    if threshold.grad_fn is None or (which := _element(x, threshold)) is None:
        return a, b
    above = compare() if (op in ("gt", "ge")) != swapped else ~compare()
    moved = _from_next(x, threshold, which, above)
    return (moved, b) if swapped else (a, moved)


def _kind(node: Any) -> str:
    return type(node).__name__.split("Backward")[0]


def _element(x: Tensor, threshold: Tensor) -> Tensor | None:
    """1 at the element of each row that its threshold is, moved by a number or not; None if it is not one of them."""
    if not (dispatched() or simple(x) and simple(threshold)) or threshold.dim() > x.dim() or not x.requires_grad:
        return None
    path = _path(threshold, x)
    if path is None:
        return None
    which: Any = torch.ones_like(threshold)
    try:
        for node, at in path:
            found = node(*(which if i == at else None for i in range(at + 1)))
            which = found[0] if isinstance(found, tuple) else found
    except RuntimeError:  # its backward has run, or an operand was written to
        return None
    if which is None or which.numel() != x.numel():
        return None
    which = which.detach().reshape(x.shape)
    one = (which == 1).sum(_rows(x, threshold), keepdim=True) == 1
    if one.numel() != threshold.numel():
        return None
    fits = one.all() & ((which == 0) | (which == 1)).all()
    if dispatched():  # (nobody can look: a threshold that is none of them stays what it is)
        return torch.where(fits, which, 0)
    return which if bool(fits) else None


def _path(threshold: Tensor, x: Tensor) -> list[tuple[Any, int]] | None:
    """The nodes from the threshold to `x`, or its like, among which it was found; each with its output."""
    edge, path = get_gradient_edge(threshold), []
    node: Any = edge.node
    at = edge.output_nr
    for _ in range(_MOST):
        parents = node.next_functions
        path.append((node, at))
        if not parents or parents[0][0] is None or any(parent is not None for parent, _ in parents[1:]):
            return None
        if _kind(node) in _FOUND and _alike(parents[0][0], get_gradient_edge(x).node):
            return path
        if _kind(node) not in _FOUND and _kind(node) not in _PASSED:
            return None
        node, at = parents[0]
    return None


def _alike(there: Any, here: Any) -> bool:
    """Whether that is `x`, a copy of it, or was made of the same in the same way."""
    for _ in range(_MOST):
        there, here = _copied(there), _copied(here)
        if there is here:
            return True
        if _kind(there) != _kind(here) or _kind(there) not in _MAPS:
            return False
        there, here = there.next_functions[0][0], here.next_functions[0][0]
    return False


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
    own = torch.where(at, x, 0).sum(rows, keepdim=True)
    low, high = fixed <= own.detach(), fixed >= own.detach()
    below = torch.where(low & ~at, x, -math.inf).amax(rows, keepdim=True)
    beyond = torch.where(high & ~at, x, math.inf).amin(rows, keepdim=True)
    holds = (above & at).sum(rows, keepdim=True) > 0  # (of the element itself)
    there = threshold + (torch.where(holds, below, beyond) - own)
    moved = torch.where(torch.where(holds, high, low), there, threshold)
    return torch.where(at.any(), moved, threshold) if dispatched() else moved
