"""Flips as the engine of a region."""

from __future__ import annotations

from typing import Any

from torch import Tensor

from ..interface import Engine, Func
from .entries import flips_of
from .every import differing, ragged
from .table import RULES, dispatch

__all__ = ["ENGINE"]


class _Flips(Engine):
    again = True
    always = RULES.always
    rules: dict[Any, Any] = RULES.of
    compiles = False

    def dispatch(self, region: Any, func: Func, args: tuple[Any, ...], kwargs: dict[str, Any]) -> Any:
        return dispatch(region, func, args, kwargs)

    def decided(self, x: Any) -> bool:
        return isinstance(x, Tensor) and bool(ragged(x) or (flips_of(x) and not x.is_floating_point()))

    def carried(self, x: Any) -> bool:
        return isinstance(x, Tensor) and bool(ragged(x) or flips_of(x))

    def selected(self, x: Any) -> bool:
        return isinstance(x, Tensor) and bool(ragged(x))

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
