"""What several runs of a function return, as one result: nests of tensors and numbers, alike on every path."""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor
from torch.utils._pytree import tree_flatten, tree_unflatten

from .._ops.dtypes import compute_dtype
from .._ops.options import shown

Given = Callable[[Tensor, "dict[Any, Any]"], Tensor]
"""A tensor as it is where something is decided."""


class Unlike(Exception):
    """Another path returns something else."""


class Result:
    """What the program itself returns, and what came of the other paths. `given` knows what tensors carry, and `copied`
    says which of them will be written to.
    """

    def __init__(self, out: Any, given: Given, copied: Callable[[Tensor], bool]) -> None:
        self.leaves, self.spec = tree_flatten(out)
        self._given, self._copied = given, copied
        self.others: list[list[Any]] = []
        self.weights: list[Tensor] = []
        self.infinite = 0
        """Elements that do not differ by a finite amount."""
        self.lost = False
        """Whether a Python float differs, which has no gradient."""
        strange = [x for x in self.leaves if hasattr(x, "__dict__") and not isinstance(x, Tensor)]
        if strange:
            raise TypeError(
                f"paths= combines tensors and numbers in tuples, lists and dicts, and the function returns "
                f"{shown(strange[0])}; return what is in it"
            )
        self._values = [x.detach().clone() if _follows(x) and copied(x) else x for x in self.leaves]

    def like(self, out: Any) -> list[Any]:
        """The leaves of what another path returns. Raises `Unlike`."""
        leaves, spec = tree_flatten(out)
        unlike = Unlike(f"it returns another structure, {shown(out)}")
        if spec != self.spec:
            raise unlike
        for a, b in zip(self.leaves, leaves):
            tensors = isinstance(a, Tensor), isinstance(b, Tensor)
            if any(tensors) and (not all(tensors) or a.shape != b.shape or a.dtype != b.dtype):
                unlike = Unlike(f"it returns {shown(b)} in the place of {shown(a)}")
                raise unlike
            self.lost = self.lost or isinstance(a, float) and a != b
        return leaves

    # --- differences that are fixed ---

    def add_flip(self, leaves: list[Any], taken: Any, alone: Any, weight: Tensor) -> float:
        """A path, in which `taken` is decided; `alone` is what tensors know of it without running again. The norm of
        the difference is returned.
        """
        pairs: list[Any] = []
        for x, value, other in zip(self.leaves, self._values, leaves):
            if _follows(x):
                here = self._given(x, alone)
                here = value if here is x else here
                pairs.append((self._given(other, taken).detach().clone(), here.detach()))
            else:
                pairs.append(None)
        self.others.append(pairs)
        self.weights.append(weight)
        return self._norm([a - b for a, b in filter(None, pairs)])

    def with_flips(self) -> Any:
        """The result of the program, bit for bit, with the gradient of the flips."""
        return tree_unflatten([self._met(i) for i in range(len(self.leaves))], self.spec)

    def _met(self, i: int) -> Any:
        from .._carry.flips.primitives import meet  # flips are imported when somebody wants them

        x = self.leaves[i]
        if not self.others or not _follows(x):
            return x
        there, here = (torch.stack([flip[i][side].reshape(-1) for flip in self.others]) for side in (0, 1))
        flip, at = (there != here).nonzero(as_tuple=True)
        if not flip.numel():
            return x
        wide = max((w.dtype for w in self.weights), key=lambda dtype: torch.finfo(dtype).bits)
        weight = torch.stack([w.to(x.device, wide) for w in self.weights])[flip]
        return meet(x, weight, at, there[flip, at], here[flip, at])

    # --- all paths by weight ---

    def add_path(self, leaves: list[Any], taken: Any, weight: Tensor) -> float:
        """A path with its probability; the first is the program's own. The norm of the difference is returned."""
        found = [self._given(x, taken) if _follows(x) else x for x in leaves]
        found = [x.clone() if _follows(x) and self.others and self._copied(x) else x for x in found]
        self.others.append(found)
        self.weights.append(weight)
        first = self.others[0]
        return self._norm([a.detach() - b.detach() for a, b in zip(found, first) if _follows(a)])

    def by_weight(self) -> Any:
        """The sum of all paths."""
        first, *others = self.others
        found = [self._blended(x, [other[i] for other in others]) for i, x in enumerate(first)]
        return tree_unflatten(found, self.spec)

    def _blended(self, x: Any, others: list[Any]) -> Any:
        if not _follows(x) or all(other is x for other in others):
            return x
        total: Any = 0
        for other, weight in zip(others, self.weights[1:]):
            wide = x.dtype if x.is_complex() else compute_dtype(x.dtype, weight.dtype)
            change = other.to(wide) - x.to(wide)
            if not bool(change.isfinite().any()):
                continue  # (its gradient would be 0 * inf)
            total = total + weight.to(x.device) * torch.where(change.isfinite(), change, 0)
        return x if isinstance(total, int) else (x.to(total.dtype) + total).to(x.dtype)

    def _norm(self, differences: list[Tensor]) -> float:
        """Of finite ones; the others are counted."""
        total = 0.0
        for d in (d.detach() for d in differences):
            finite = d.isfinite()
            self.infinite += int((~finite).sum())
            total += float(d[finite].abs().double().square().sum())
        return math.sqrt(total)


def _follows(x: Any) -> bool:
    """Whether autograd can follow it."""
    return isinstance(x, Tensor) and (x.is_floating_point() or x.is_complex())
