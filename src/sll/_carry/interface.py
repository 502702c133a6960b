"""What the carriers of decisions ask of the region around them, and how a rule is called."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from typing import Any, Protocol, TypeAlias

from torch import Tensor

from .._rules.widths import Width

__all__ = ["Func", "Region", "Rule"]

Func: TypeAlias = Callable[..., Any]


class Region(Protocol):
    """What a rule knows of the region that calls it."""

    mode: Any
    """``"linear"``, ``"hard"`` or ``"straight-through"``."""
    linear: Any
    trace: Any

    def eps_for(self, op: str) -> float | Width:
        """The half-width of the op's band."""

    def linearizes(self, op: str) -> bool:
        """Whether ``only=`` and ``exclude=`` leave it in."""

    def call(self, func: Func, *args: Any, **kwargs: Any) -> Any:
        """Run `func` as if the program had called it in the region."""

    def adopt(self, x: Tensor) -> bool:
        """`x` carries something: the region takes it back at its end. False if nobody will tell it when that is."""

    def outermost(self) -> Any:
        """The region at whose end decisions end."""

    def lose(
        self,
        op: str,
        tensors: Iterable[Tensor],
        why: str,
        *,
        undecided: Callable[[], bool] | None = None,
        origins: Iterable[Tensor] = (),
    ) -> None:
        """Count that the gradient of `tensors` ends at `op`; warn or raise if an element was in its band."""

    def count_infinite_jumps(self, func: Func, operands: Iterable[Any], tree: Any) -> None:
        """Count the elements in the band whose outcomes do not differ by a finite amount."""


Rule: TypeAlias = Callable[[Region, Func, "tuple[Any, ...]", "dict[str, Any]"], Any]
