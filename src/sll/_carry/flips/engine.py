"""Flips as the engine of a region."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from ..._rules.index import ASKS, in_place_forms, op_name
from ..._rules.table import ROWS
from ..interface import Engine, Func
from ..outcomes.selections import COUNTS
from .calls import leaves
from .entries import flips_of
from .every import differing, flip_by_flip, ragged
from .table import RULES

__all__ = ["ENGINE"]

_IN_PLACE = {torch.Tensor.__setitem__}
"""What writes to its first operand."""
for _row in ROWS:
    if _row.in_place:
        _IN_PLACE.update(func for name in _row.names.split() for func in in_place_forms(name))


class _Flips(Engine):
    again = True
    always = RULES.always
    rules: dict[Any, Any] = RULES.of
    compiles = False

    def dispatch(self, region: Any, func: Func, args: tuple[Any, ...], kwargs: dict[str, Any]) -> Any:
        rule, loose = RULES.of.get(func), []
        if region.selecting() and func not in _IN_PLACE:
            loose = [x for x in leaves(args, kwargs) if self.selected(x)]
        if rule is None and func in ASKS:
            if func in COUNTS and loose:
                why = "how many elements a mask selects has no derivative here. Use sum or mean of the selection."
                region.lose(op_name(func), loose, why)
            return func(*args, **kwargs)
        return (flip_by_flip if rule is None or loose else rule)(region, func, args, kwargs)

    def decided(self, x: Any) -> bool:
        return self.selected(x) or (flips_of(x) is not None and not x.is_floating_point())

    def carried(self, x: Any) -> bool:
        return self.selected(x) or flips_of(x) is not None

    def selected(self, x: Any) -> bool:
        return ragged(x) is not None

    def in_band(self, x: Tensor) -> bool:
        return self.undecided(x) > 0

    def undecided(self, x: Tensor) -> int:
        found, loose = flips_of(x), ragged(x)
        if found is not None:
            return differing(x, found)
        return 0 if loose is None or not loose.of else max(x.numel(), 1)

    def flows(self, x: Tensor) -> list[Tensor]:
        found, loose = flips_of(x), ragged(x)
        decisions = [block.decision for block in found.layout.blocks] if found is not None else []
        decisions += {decision for decision, _ in loose.of} if loose is not None else ()
        return [decision.weight for decision in decisions]


ENGINE = _Flips()
