"""Python asks for a number: its other values, and the share that each has in the gradient."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from ..._ops.openness import open_bands, open_mask
from ..interface import Question, Way
from .shadow import Scaled, Selected, Shadow, Whole, carried
from .terms import as_count, parts_of

_NOT_ASKED: Any = object()


def ask(x: Tensor, taken: dict[Any, Any], settled: bool) -> Tensor | Question:
    """See `Engine.ask`. A question is known again by the bands that it is in."""
    own = carried(x)
    if isinstance(own, Selected):
        raise NotImplementedError
    if own is None or isinstance(own, Scaled) or (isinstance(own, Whole) and not x.requires_grad):
        return x.detach()
    if isinstance(own, Shadow) and own.outside():
        return x.detach()
    bands = open_bands(own.value() if isinstance(own, Shadow) else x)
    chosen = taken.get(bands, None if settled else _NOT_ASKED)
    if not bands or chosen is None:  # nothing is open, or it is not decided the other way
        return x.detach()
    values, shares = _ways(x, own)
    if values and chosen is _NOT_ASKED:
        return Question({bands: None}, [Way(share, {bands: i}) for i, share in enumerate(shares)])
    return x.detach() if chosen is _NOT_ASKED or chosen >= len(values) else values[chosen]


def _ways(x: Tensor, own: Shadow | Whole) -> tuple[list[Tensor], list[Tensor]]:
    """The other values of `x`, and for each a number that is 0 and has a gradient."""
    with torch.enable_grad():
        share, change = (part.reshape(-1) for part in _parts(x, own))
        reached = open_mask(share)
        values: dict[Any, Tensor] = {}
        shares: dict[Any, Tensor] = {}
        for i, by in enumerate(change.tolist()):
            if by and (reached if isinstance(reached, bool) else bool(reached[i])):
                values[by] = (x.detach() + change[i]).to(x.dtype) if x.dtype != torch.bool else ~x.detach()
                shares[by] = share[i] + shares[by] if by in shares else share[i]
    return list(values.values()), list(shares.values())


def _parts(x: Tensor, own: Shadow | Whole) -> tuple[Tensor, Tensor]:
    """What single decisions change of `x`, and the shares of these."""
    now = x.detach()
    if isinstance(own, Whole):
        beyond = own.other(now)
        change = torch.zeros_like(now) if beyond is None else beyond - now
        return (x - now) / torch.where(change == 0, 1, change), change
    share, change = parts_of(x, own)() or as_count(own.value(), now)
    return share - share.detach(), change
