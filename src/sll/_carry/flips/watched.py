"""What a trace is told of decisions: how far they are from their boundaries, and what gradients come by."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import torch
from torch import Tensor

from .uses import at_each, tracked, watch_of

__all__ = ["arrives", "counted", "entered", "gaps_beside", "watched"]


def entered(eps: Any, operands: Sequence[Any]) -> list[Any]:
    """The operands to go on with: the gradient that one of those that autograd follows gets is noted."""
    watch, found = watch_of(eps), list(operands)
    if watch is not None:
        first = next((i for i, x in enumerate(found) if tracked(x)), None)
        if first is not None:
            found[first] = watch.enters(found[first])
    return found


def watched(eps: Any, operands: Sequence[Any], distance: Tensor, half: Any, limit: Any) -> list[Any]:
    """`entered`, for decisions at these distances from their boundaries."""
    watch = watch_of(eps)
    if watch is not None:
        watch.measure(distance, half, limit)
    return entered(eps, operands)


def counted(eps: Any, undecided: Callable[[], Tensor]) -> None:
    """A mask with an element for each choice or place: those that are open."""
    watch = watch_of(eps)
    if watch is not None:
        watch.count(undecided())


def gaps_beside(places: Tensor, shown: Callable[[Tensor, Tensor], Tensor]) -> Callable[[Tensor], Tensor]:
    """From rows of scores, ordered by `places`, to what is `shown` of them and the gap beside each place."""
    return lambda z: shown(z, at_each(-torch.diff(z.gather(-1, places))))


def arrives(eps: Any, weight: Tensor) -> Tensor:
    """The weights of flips, where gradients arrive."""
    watch = watch_of(eps)
    if watch is not None:
        watch.arrives(weight)
    return weight
