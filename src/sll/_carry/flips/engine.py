"""Flips as the engine of a region."""

from __future__ import annotations

from typing import Any

from torch import Tensor

from ..interface import Engine, Func
from .entries import flips_of
from .every import differs, ragged
from .table import RULES, dispatch

__all__ = ["ENGINE"]


class _Flips(Engine):
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
        found = flips_of(x)
        return found is not None and differs(x, found)

    def undecided(self, x: Tensor) -> int:
        return int(self.in_band(x)) * x.numel()


ENGINE = _Flips()
