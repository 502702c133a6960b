"""Comparisons that have nothing to linearize: what they decide between meets at the boundary.

``torch.where(x > 0, x, 0.1 * x)``, ``x * (x > 0)``, a Huber loss and a maximum by `where` are continuous. Torch's own
gradient is right there, and a ramp would add the difference of the sides wherever that is in the band. So where
`"auto"` chose the width, the gradients that arrive at a comparison in the measured steps are looked at (see `Sides`).
"""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from ..._ops.env import dispatched, hook, outside_of_transforms, recorded, unwrapped
from ..._ops.fused import batched
from ..._ops.samples import sample
from ..._rules.widths import Width

_MEETS = "what it decides between meets at the boundary, so nothing jumps there"


def joined(eps: Any, hard: Tensor) -> bool:
    """Whether a comparison, which is `hard`, needs no ramp."""
    if not getattr(eps, "joined", False):
        return False
    if isinstance(eps, Width) and eps.watch is not None:
        eps.watch.keeps_slope(hard.numel(), _MEETS)
    return True


def looked_at(eps: Any, soft: Tensor, distance: Tensor, half: float | None = None) -> None:
    """While its width is measured, see what arrives at `soft`, through which alone a comparison has its gradient.
    (`half`: the half-width in the units of `distance`, if it is not that of the line.)
    """
    if not isinstance(eps, Width) or eps.place is None or dispatched():
        return
    arrived, place = getattr(eps.policy, "arrived", None), eps.place
    if arrived is None:
        return
    with outside_of_transforms():
        some = sample(unwrapped(distance)).clone()  # (the program may write to it)

    def arrives(gradient: Tensor) -> Tensor | None:
        if batched(gradient):  # many at once: nobody can look
            return None
        with outside_of_transforms():
            meet = arrived(place, sample(unwrapped(gradient)), some, half)
        return torch.zeros_like(gradient) if meet else None

    hook(soft, arrives)


def learned(*operands: Any) -> bool:
    """Whether the boundary is learned, one for many numbers. It may stand where the sides meet by chance."""
    many = max((x.numel() for x in operands if isinstance(x, Tensor)), default=0)
    return any(recorded(x) is not None and x.numel() < many for x in operands)
