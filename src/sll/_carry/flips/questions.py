"""Python asks for a number: the flips in which it is another one."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from ..._ops.origins import origin
from ..interface import Question, Way
from .entries import Decision, Flips, flips_of
from .every import ragged


def ask(x: Tensor, taken: dict[Any, Any], settled: bool) -> Tensor | Question:
    """See `Engine.ask`. ``(decision, flip)`` stands for a flip, and so does where a decision about one number comes
    from; True is the other way.
    """
    if ragged(x) is not None:
        raise NotImplementedError
    found, hard = flips_of(x), x.detach()
    if found is None:
        return hard
    now, fresh = hard.item(), []
    for flip, value in _entries(found):
        if value.item() == now or (value != value and now != now):
            continue
        names = _names(flip)
        known = next((taken[name] for name in names if name in taken), None)
        if known:
            return value.reshape(hard.shape)
        if known is None:
            fresh.append((flip, names, value.item()))
    if not fresh or settled:
        return hard
    ways: dict[Any, list[Any]] = {}
    for flip, names, number in fresh:
        alone = len(names) > 1 or flip[0].weight.shape[0] == 1
        ways.setdefault(flip if alone else (flip[0], None, number), []).append((flip, names))
    return Question(
        {name: False for _, names, _ in fresh for name in names},
        [Way(_weight(of), {name: True for _, names in of for name in names}) for of in ways.values()],
    )


def _entries(found: Flips) -> list[tuple[tuple[Decision, int], Tensor]]:
    flips = [(block.decision, flip) for block in found.layout.blocks for flip in block.flips().tolist()]
    return list(zip(flips, found.values.detach()))


def _names(flip: tuple[Decision, int]) -> list[Any]:
    """What a flip is known by."""
    decision, number = flip
    if decision.distance is None:
        return [flip]
    return [flip, (origin(decision.distance.grad_fn), decision.distance.item(), number)]


def _weight(of: list[Any]) -> Tensor:
    decision = of[0][0][0]
    return decision.weight[[number for (_, number), _ in of]].sum()  # type: ignore[no-any-return]


def given(x: Tensor, taken: dict[Any, Any]) -> Tensor:
    """See `Engine.given`: `x` in the flip that is taken, if that is one, and `x` knows what it is then."""
    flipped = [flip for flip, other in taken.items() if other is True and isinstance(flip[0], Decision)]
    found = flips_of(x)
    if found is None or len(flipped) != 1:
        return x
    places = [i for i, (flip, _) in enumerate(_entries(found)) if flip == flipped[0]]
    if not places:
        return x
    at = torch.tensor(places, device=found.layout.at.device)
    return x.detach().reshape(-1).index_copy(0, found.layout.at[at], found.values.detach()[at]).reshape(x.shape)
