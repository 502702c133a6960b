"""A choice that is worked out when somebody asks: most indices are never asked for."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor

from ..._ops.saving import saved_as_then, saving
from ..interface import Region
from .carriers import Choice
from .decisions import unchanged, version_of

_STALE = (
    "its input was modified in place before the index was used. Use the index first, or write y = y + 1, not y += 1."
)


class _Later:
    """A choice that is worked out when somebody asks: most indices are never asked for."""

    def __init__(
        self, region: Region, op: str, key: tuple[Any, ...], x: Tensor, hard: Tensor, make: Callable[[], Choice]
    ):
        self.key = key
        self._recipe: Any = (region, op, x, version_of(x), hard, make, saving())

    def __getattr__(self, name: str) -> Any:
        if name not in _WORKED_OUT or "_recipe" not in self.__dict__:
            raise AttributeError(name)
        region, op, x, version, hard, make, then = self.__dict__.pop("_recipe")
        if unchanged(x, version):
            with torch.enable_grad(), torch._C.DisableTorchFunction():  # outside the rules, whoever asks
                made = saved_as_then(then, make)
            vars(self).update((part, x) for part, x in vars(made).items() if part in _WORKED_OUT)
        else:
            region.lose(
                op,
                [],
                _STALE,
                undecided=lambda: True,
            )
            ones = torch.ones((*hard.shape, 1), device=hard.device)
            vars(self).update(values=hard.unsqueeze(-1), weights=ones, ties=ones < 1)
        return self.__dict__[name]


_WORKED_OUT = ("values", "weights", "ties", "order")


class LaterChoice(_Later, Choice):
    pass
