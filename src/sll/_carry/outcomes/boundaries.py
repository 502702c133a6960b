"""Distances to decision boundaries, and the decisions at them."""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any, NamedTuple, TypeAlias

import torch
from torch import Tensor

from ..._ops.dtypes import wide
from ..._ops.ramp import Jump
from ..._rules.widths import Width, half_width
from ..boundaries import from_one, offset_at
from ..interface import version_of
from .decisions import Decision, Site
from .later import asked

Eps: TypeAlias = float | Width


def boundary_at(x: Any, threshold: Any, eps: Eps, nan: float = -0.5) -> Decision:
    """`x` above `threshold`; either may be a number, either may require grad."""
    site = Site(x, threshold, eps)
    key = ("boundary", *asked(x), *asked(threshold), eps)

    def offset() -> Tensor:
        found = site.ramp(Jump("boundary", -0.5, 0.5, 0.0, nan))
        return offset_at(site.distance(), site.width(), nan=nan) if found is None else found

    return Decision(key, offset, site)


def at_integers(x: Tensor, eps: Eps, shift: float = 0.0, but_zero: bool = False) -> tuple[Decision, Site]:
    """The decision at the nearest ``n + shift``, and its site, which knows that ``n``. `but_zero`: at 0 there is no
    jump.
    """
    site = Site(x, None, eps, shift)
    key = ("integers", *asked(x), shift, eps)
    jumps = (lambda: from_one(site.distance(), site.nearest())) if but_zero else None
    decision = Decision(key, lambda: offset_at(site.distance(), site.width(0.5), 0.5, true_distance=jumps), site)
    return decision, site


def beside(site: Site, by: int = 0) -> Callable[[], Tensor]:
    """The integer that the site is next to, or one before or after."""
    return lambda: site.nearest() + by if by else site.nearest()


class _Multiple(NamedTuple):
    """The multiple of the divisor next to the dividend: ``n * divisor``."""

    decision: Decision
    n: Tensor
    remainder: Callable[[Tensor], Tensor]
    """``dividend - quotient * divisor``"""


def _at_multiples(eps: Eps, dividend: Any, divisor: Any, but_zero: bool = False) -> _Multiple | None:
    """The decision at the nearest multiple, in the dividend's units, rising with the quotient. `but_zero`: at 0 there
    is no jump.
    """
    if isinstance(divisor, (int, float)) and divisor == 0:
        return None
    x, m = wide(dividend, divisor)
    by_tensor = isinstance(m, Tensor)
    n = (torch.as_tensor(x).detach() / (m.detach() if by_tensor else m)).round()
    # Division by zero, NaN and infinity have no distance: the hard value, and no gradient to either operand.
    valid = n.isfinite()
    n = torch.where(valid, n, torch.zeros_like(n))
    nothing = torch.full((), math.nan, dtype=n.dtype, device=n.device)

    def remainder(quotient: Tensor) -> Tensor:
        return torch.where(valid, x - quotient * m, nothing)

    rest, half = remainder(n), None
    size = m.abs() if by_tensor else abs(m)
    if by_tensor:  # the half-width ``min(eps, |m|/2)`` moves with it, and has a derivative
        # A policy is asked in units of the divisor.
        widest = half_width(eps, rest / size, 0.5) * size.detach() if isinstance(eps, Width) else eps
        half = torch.where(valid, (size * 0.5).clamp(max=widest), 1.0)
        distance = rest * m.detach().sign()
    else:
        distance = rest if m > 0 else -rest

    def jumps() -> Tensor:
        return from_one(distance / size, n) * size  # type: ignore[no-any-return]

    def offset() -> Tensor:
        return offset_at(distance, eps, size / 2, true_distance=jumps if but_zero else None, half=half)

    key = ("multiples", dividend, version_of(dividend), divisor, version_of(divisor), eps)
    return _Multiple(Decision(key, offset), n, remainder)
