"""Fewer decisions: what is left of operands that together depend on too many."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor

from ..interface import Region
from .carriers import Carrier, Expectation, attach
from .constants import bool_outcomes
from .counted import by_ones
from .decisions import Decision, decided_by
from .expectations import expect
from .trees import decisions

MAX_DECISIONS = 4
"""A tensor keeps the joint outcomes of up to this many decisions (2**4 outcomes); beyond it they are reduced."""


def _all_decisions(operands: Sequence[Any]) -> list[Decision]:
    found: list[Decision] = []
    for x in operands:
        decisions(x, found)
    return found


def few_decisions(
    region: Region, args: tuple[Any, ...], kwargs: dict[str, Any], *, growing: bool = True
) -> tuple[tuple[Any, ...], dict[str, Any]]:
    """The operands, reduced to one decision each if together they depend on more than `MAX_DECISIONS`. One operand may
    have more, what a float of several decisions was rounded to, unless the result may have decisions of its own
    (`growing`). (A bool is known by its probability, and with one decision what is computed from it goes on.)
    """
    operands = (*args, *kwargs.values())
    if len(_all_decisions(operands)) <= MAX_DECISIONS or not growing and not _of_too_many(operands):
        return args, kwargs
    return tuple(_reduced(region, x) for x in args), {name: _reduced(region, x) for name, x in kwargs.items()}


def _of_too_many(operands: Sequence[Any]) -> bool:
    """Whether the operands depend on more decisions than are kept, which do not all come with one of them."""
    many = len(_all_decisions(operands))
    return many > MAX_DECISIONS and not any(len(decisions(x)) == many and x.dtype != torch.bool for x in operands)


def _reduced(region: Region, x: Any) -> Any:
    return x if len(decisions(x)) <= 1 else attach(region, x.view_as(x), marginal(x))


def marginal(x: Tensor) -> Carrier | None:
    """What is left of the tree of `x` when its decisions are summed out: exact in expectation, and continuous.

    A bool becomes one decision with the probability of True; an integer an expectation; a float an ordinary tensor,
    which already shows its expectation.
    """
    if x.dtype == torch.bool:
        return bool_outcomes(decided_by(expect(x)), x)
    if not x.is_floating_point():
        return Expectation(expect(x), by_ones(x))
    return None
