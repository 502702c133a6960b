"""Checks of what users pass: every message names the argument, the value and the remedy."""

from __future__ import annotations

import math
from collections.abc import Iterable
from numbers import Real
from typing import Any, Literal, TypeAlias

from torch import Tensor

Forward: TypeAlias = Literal["linear", "hard"]
RegionForward: TypeAlias = Literal["linear", "hard", "straight-through"]
OnLost: TypeAlias = Literal["ignore", "warn", "error"]


HALF_WIDTH = "the half-width of the band, in the units of the op's input"


def positive_float(value: Any, name: str, what: str = HALF_WIDTH, remedy: str = "") -> float:
    if isinstance(value, bool) or not isinstance(value, Real):
        if isinstance(value, Tensor):
            remedy = "; call .item() on it"
        elif callable(value):
            remedy = "; as a decorator write @sll.enable, or @sll.linearize(eps=...)"
        raise TypeError(
            f"{name} must be a positive float ({what}), got {value!r} of type {type(value).__name__}{remedy}"
        )
    number = float(value)
    if not (math.isfinite(number) and number > 0):
        start = '; "auto" finds a width for each call' if what is HALF_WIDTH else ""
        raise ValueError(f"{name} must be positive and finite, got {value!r}{start}")
    return number


_BELONGS_TO = {
    "argsort": "sort",
    "max": "argmax",
    "min": "argmin",
    "nanmedian": "median",
    "bucketize": "searchsorted",
    "greater": "gt",
    "less": "lt",
    "greater_equal": "ge",
    "less_equal": "le",
    "long": "cast",
    "int": "cast",
    "sgn": "sign",
    "fix": "trunc",
}
"""Functions that share a rule, and with it a name, with another."""


def op_names(names: Any, argument: str, known: Iterable[str]) -> frozenset[str]:
    if isinstance(names, str) or not isinstance(names, Iterable):
        raise TypeError(f'{argument} must be a collection of op names such as ("round", "gt"), got {names!r}')
    chosen: frozenset[str] = frozenset(names)
    unknown = sorted(str(n) for n in chosen.difference(known))
    if unknown:
        for name in unknown:
            if name in _BELONGS_TO:
                raise ValueError(f"{argument} names {name}, which goes by the name of {_BELONGS_TO[name]!r} there")
        raise ValueError(
            f"{argument} names no op that is linearized: {', '.join(unknown)}; known are {', '.join(sorted(known))}"
        )
    return chosen


def one_of(value: Any, argument: str, allowed: tuple[str, ...]) -> str:
    if value not in allowed:
        raise ValueError(f"{argument} must be one of {', '.join(map(repr, allowed))}, got {value!r}")
    return str(value)
