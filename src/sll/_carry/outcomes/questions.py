"""Python asks for a number: one decision after the other, until one outcome is left."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from ..._ops.origins import origin
from ..interface import Question, Way
from .carriers import Choice, Expectation, Outcomes, Selection, resolved
from .decisions import Decision, equal_keys
from .expectations import uncertain


def ask(x: Tensor, taken: dict[Any, Any], settled: bool) -> Tensor | Question:
    """See `Engine.ask`. A `Decision` stands for its side, a `Choice` for the place of what it chose."""
    shape = x.shape
    while isinstance(found := resolved(x), Outcomes):
        side = side_of(found.decision, taken)
        if side is None:
            return _question(found.decision, x)
        x = found.above if side else found.below
    if isinstance(found, Choice):
        return _of_choice(found, x, taken, shape)
    if isinstance(found, Expectation):
        return _of_count(found, x, taken)
    if isinstance(found, Selection):
        raise NotImplementedError
    return x.detach().reshape(shape)


def side_of(decision: Decision, taken: dict[Any, Any]) -> bool | None:
    """Above (True) or below its boundary; None if that is open."""
    outside = None if decision.site is None else decision.site.outside()
    if outside is not None:
        return outside > 0
    offset = decision.offset()
    if abs(at := offset.item()) >= 0.5 or at != at:
        return at > 0
    for other, side in taken.items():
        same = (decision.same(other) or _alike(decision, other)) if isinstance(other, Decision) else 0
        if same:
            return bool(side) is (same > 0)
    return None


def _alike(one: Decision, other: Decision) -> bool:
    """Whether they are decisions about numbers that were computed alike, at the same distance."""
    if one.site is None or other.site is None:
        return False
    a, b = one.site.distance(), other.site.distance()
    return a.numel() == b.numel() == 1 and a.item() == b.item() and origin(a.grad_fn) == origin(b.grad_fn)


def _question(decision: Decision, x: Tensor) -> Question:
    offset = decision.offset().reshape(())
    above = bool(decision.taken().reshape(-1)[0])
    return Question({decision: above}, [Way(0.5 - offset if above else 0.5 + offset, {decision: not above})])


def _of_choice(found: Choice, x: Tensor, taken: dict[Any, Any], shape: torch.Size) -> Tensor | Question:
    values, weights = (t.expand(*x.shape, t.shape[-1]).reshape(-1) for t in (found.values, found.weights))
    for other, place in taken.items():
        if other is found or isinstance(other, Choice) and equal_keys(other.key, found.key):
            picked: Tensor = values[place].detach()
            return picked.reshape(shape)
    open_ = (weights.detach() > 0).nonzero().reshape(-1).tolist()
    here = (values == x.detach().reshape(())).nonzero().reshape(-1).tolist()
    stay = next((place for place in here if place in open_), open_[0])
    ways = [Way(weights[place], {found: place}) for place in open_ if place != stay]
    if ways:
        return Question({found: stay}, ways)
    picked = values[stay].detach()
    return picked.reshape(shape)


def _of_count(found: Expectation, x: Tensor, taken: dict[Any, Any]) -> Tensor | Question:
    """The two integers next to what is expected."""
    if not bool(uncertain(found, x).any()):
        return x.detach()
    if not found.by_ones:
        raise NotImplementedError
    expected = found.value.reshape(())
    low = expected.detach().floor()
    if found not in taken:
        above, share = bool(x.detach().reshape(()) > low), expected - low
        if share.item() == 0:
            return low.to(x.dtype).reshape(x.shape)
        return Question({found: above}, [Way(1 - share if above else share, {found: not above})])
    chosen: Tensor = low + taken[found]
    return chosen.to(x.dtype).reshape(x.shape)


def given(x: Tensor, taken: dict[Any, Any]) -> Tensor:
    """See `Engine.given`. A float of one element on the sides that are taken; of more, what it shows."""
    sides = {decision for decision in taken if isinstance(decision, Decision)}
    if not sides:
        return x
    while isinstance(found := resolved(x), Outcomes):
        if not any(found.decision.same(decision) for decision in sides):
            break
        side = side_of(found.decision, taken)
        x = (found.above if side else found.below).expand(x.shape).to(x.dtype)
    return x
