"""Flips as the engine of a region."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from ..._ops.env import compiling
from ..._rules.index import in_place_forms, spellings
from ..._rules.table import ROWS
from ..interface import Engine, Func
from ..outcomes.sources import LISTENERS
from .deciding import general
from .entries import flips_of
from .every import differs, ragged
from .table import TABLE, dispatch

__all__ = ["ENGINE"]

_DECIDE = {"sources", "reflected", "casts", "choices", "extremes", "orders", "passed"}
_EAGER = (
    'sll: compiled code does not carry the flips of forward="hard". Without fullgraph=True eager mode does this call.'
)


def _always() -> set[Any]:
    """The functions that decide, and those that write."""
    rows = [row for row in ROWS if row.family in _DECIDE or "marks" in row.facts.split()]
    names = [name for row in rows for name in row.names.split()]
    found = [func for name in names for func in (*spellings(name), *in_place_forms(name.rpartition(".")[2]))]
    return {func for func in found if func in TABLE}


class _Flips(Engine):
    always = _always()
    rules: dict[Any, Any] = TABLE

    def dispatch(self, region: Any, func: Func, args: tuple[Any, ...], kwargs: dict[str, Any]) -> Any:
        if compiling():
            torch._dynamo.graph_break(msg=_EAGER)
        return dispatch(region, func, args, kwargs)

    def decided(self, x: Any) -> bool:
        return isinstance(x, Tensor) and bool(ragged(x) or (flips_of(x) and not x.is_floating_point()))

    def carried(self, x: Any) -> bool:
        return isinstance(x, Tensor) and bool(ragged(x) or flips_of(x))

    def selected(self, x: Any) -> bool:
        return isinstance(x, Tensor) and bool(ragged(x))

    def in_band(self, x: Tensor) -> bool:
        found = flips_of(x)
        return found is not None and differs(x, found)

    def undecided(self, x: Tensor) -> int:
        return int(self.in_band(x)) * x.numel()


ENGINE = _Flips()


def _added(op: str, functions: Any) -> None:
    """A source that somebody adds to those of the table."""
    for name in functions:
        for func in spellings(name) if isinstance(name, str) else [name]:
            TABLE[func] = general(op)
            ENGINE.always.add(func)


LISTENERS.append(_added)
