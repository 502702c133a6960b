"""Masks of which one was made of the other, as the state of a loop of the state before: they change together.

Among masks ``and`` is a product, and the product rule moves one factor at a time: with it ``on != before`` would count
a change that lasts at each step. What both change beyond what each does, the second difference, comes on top.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor
from torch.autograd.graph import GradientEdge

from ..._ops.saving import saved_as_then

_NEAR = 12
"""So many functions are followed from the later mask."""
_LOGIC = {
    f"{name}Backward{i}" for name in "Mul Lerp Sub Rsub Add Where Clone LazyClone Alias Expand".split() for i in "01"
}


def logic(polynomial: Callable[..., Tensor], both: float, one: Tensor, p: Tensor, q: Tensor) -> Tensor:
    """The polynomial of two masks, as floats; `both` is its second difference. (Most masks share nothing, which is seen
    without a call.)
    """
    out = polynomial(one, p, q)
    for later, before in ((p, q), (q, p)) if p.shape == q.shape else ():
        edge: Any = before.grad_fn, before.output_nr
        sign, left, behind = 1, _NEAR, [(later.grad_fn, 0)]
        if type(edge[0]).__name__ in ("SubBackward0", "RsubBackward1"):  # ``1 - m``: where gradients of `m` arrive
            first, last = edge[0].next_functions
            edge, sign = first if last[0] is None else last, -1
        if edge[0] is None:
            continue
        for node, _ in behind:
            if node is edge[0]:
                return _together(out, sign * both, later, before, edge)
            if left and type(node).__name__ in _LOGIC:
                behind += node.next_functions  # type: ignore[union-attr]
                left -= 1
    return out


def _together(out: Tensor, both: float, later: Tensor, before: Tensor, edge: Any) -> Tensor:
    """`out`, with the gradient of what both change together, for each element of `before`."""
    options: Any = {"retain_graph": True, "allow_unused": True}
    ask = lambda: torch.autograd.grad(later, [GradientEdge(*edge)], torch.ones_like(later), **options)
    (moves,) = saved_as_then(None, ask)
    was = before.detach()
    if moves is None or moves.shape != was.shape:
        return out
    flips = was.mul(-2 * both).add_(both)  # (from 1 to 0, what changes is the other way round)
    return torch.addcmul(out, moves.clamp(-1, 1) * flips, before - was)
