"""Python asks for a number: the flips in which it is another one."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from ..interface import Question, Way
from .entries import Decision, Flips, flips_of
from .every import ragged

__all__ = ["ask", "given"]

_TIED = 2
"""So many flips has a decision about one element, exactly at its boundary."""


def ask(x: Tensor, taken: dict[Any, Any]) -> Tensor | Question:
    """See `Engine.ask`. ``(decision, flip)`` stands for a flip; True is the other way."""
    if ragged(x) is not None:
        raise NotImplementedError
    found, hard = flips_of(x), x.detach()
    if found is None:
        return hard
    entries = _entries(found)
    for flip, value in entries:
        if taken.get(flip):
            return value.reshape(hard.shape)
    now, fresh = hard.item(), [(flip, value.item()) for flip, value in entries if flip not in taken]
    ways: dict[Any, list[Any]] = {}
    for flip, value in fresh:
        if value != now and not (value != value and now != now):
            one = flip[0].weight.shape[0] <= _TIED
            ways.setdefault(flip if one else (flip[0], None, value), []).append(flip)
    if not ways:
        return hard
    return Question(
        {flip: False for flip, _ in fresh},
        [Way(_weight(flips), dict.fromkeys(flips, True)) for flips in ways.values()],
    )


def _entries(found: Flips) -> list[tuple[tuple[Decision, int], Tensor]]:
    flips = [(block.decision, flip) for block in found.layout.blocks for flip in block.flips().tolist()]
    return list(zip(flips, found.values.detach()))


def _weight(flips: list[tuple[Decision, int]]) -> Tensor:
    return flips[0][0].weight[[flip for _, flip in flips]].sum()


def given(x: Tensor, taken: dict[Any, Any]) -> Tensor:
    """See `Engine.given`: `x` in the flip that is taken, if that is one, and `x` knows what it is then."""
    found, flipped = flips_of(x), [flip for flip, other in taken.items() if other is True]
    if found is None or len(flipped) != 1:
        return x
    places = [i for i, (flip, _) in enumerate(_entries(found)) if flip == flipped[0]]
    if not places:
        return x
    at = torch.tensor(places, device=found.layout.at.device)
    return x.detach().reshape(-1).index_copy(0, found.layout.at[at], found.values.detach()[at]).reshape(x.shape)
