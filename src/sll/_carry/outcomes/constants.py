"""Outcomes that are the same everywhere, and tensors that stand for others."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor

from ..._ops.env import compiling
from ..._ops.ramp import Jump
from .carriers import Outcomes, carrier
from .decisions import Decision, version_of
from .writes_seen import keep


class Constants:
    """What `constant` has to know of a tensor, without the tensor."""

    def __init__(self, like: Tensor) -> None:
        self._dim, self.dtype, self.device = like.dim(), like.dtype, like.device

    def dim(self) -> int:
        return self._dim


def constant(value: Any, like: Tensor | Constants) -> Tensor:
    """An outcome that is the same for every element of `like`."""
    out = torch.full((1,) * like.dim(), value, dtype=like.dtype, device=like.device)
    if isinstance(value, bool):
        out._sll_constant = value  # type: ignore[attr-defined]
    return out


def stands_for(x: Tensor, origin: Tensor) -> Tensor:
    """`x`, which has the numbers of `origin`: the same question about either is the same decision."""
    x._sll_origin = asked(origin)  # type: ignore[attr-defined]
    return x


def asked(x: Any) -> tuple[Any, int]:
    """Of whom a question about `x` is asked, and what it had seen of writes."""
    origin: tuple[Any, int] | None = getattr(x, "_sll_origin", None)
    return (x, version_of(x)) if origin is None else origin


def is_constant(outcome: Tensor) -> bool:
    return carrier(outcome) is None and all(size == 1 for size in outcome.shape)


def _is_above(mask: Tensor, polarity: int) -> Callable[[Decision], Tensor | None]:
    """Where a mask, as it is now, shows the side above of its decision: a copy, made when first asked for. Autograd may
    keep it, and the program is free to write into the mask that it has.
    """
    alias = mask.detach()
    if compiling():
        return lambda _: alias if polarity > 0 else alias.logical_not()
    found: list[Any] = [keep((alias,), torch.clone)]

    def side(decision: Decision) -> Tensor | None:
        if not isinstance(found[0], Tensor):
            shown = found[0]()
            if shown is None:
                return None
            found[0] = shown[0].clone() if polarity > 0 else shown[0].logical_not()
        above: Tensor = found[0]
        return above

    return side


def bool_outcomes(decision: Decision, hard: Tensor, polarity: int = 1, jump: Jump | None = None) -> Outcomes:
    """False below and True above (`polarity` 1), or the other way round (-1)."""
    above = constant(polarity > 0, hard)
    if jump is not None and compiling():
        # Not `hard`, which compares two tensors: compiled code would keep it for backward, and it is slow to.
        tied = jump.at_tie == jump.above
        decision.side = lambda decision: decision.offset() >= 0 if tied else decision.offset() > 0
    elif decision.side is None:
        decision.side = _is_above(hard, polarity)
    return Outcomes(decision, constant(polarity < 0, hard), above, polarity, jump)
