"""The arguments of a call: the tensors in them, and the call with others."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from torch import Tensor

from ..interface import Func, tensors
from .entries import Flips, flips_of


def carriers(*args: Any) -> list[tuple[Tensor, Flips]]:
    """The tensors that carry flips, each once."""
    return list({id(x): (x, flips) for x in tensors(*args) if (flips := flips_of(x)) is not None}.values())


def plain_of(x: Any) -> Any:
    """A float without the gradient of its flips, if it carries any."""
    found = flips_of(x)
    return x if found is None or found.plain is None else found.plain


def replaced(x: Any, by: Callable[[Tensor], Any]) -> Any:
    """Nested arguments with other tensors in them."""
    if isinstance(x, Tensor):
        return by(x)
    if isinstance(x, tuple) and hasattr(x, "_fields"):
        return type(x)(*(replaced(item, by) for item in x))
    if isinstance(x, (tuple, list)):
        return type(x)(replaced(item, by) for item in x)
    if isinstance(x, dict):
        return {name: replaced(item, by) for name, item in x.items()}
    if isinstance(x, slice):
        return slice(*(replaced(item, by) for item in (x.start, x.stop, x.step)))
    return x


def once_more(func: Func, args: Any, kwargs: Any, by: Callable[[Tensor], Any] = plain_of) -> Any:
    """The call with other tensors."""
    return func(*replaced(args, by), **replaced(kwargs, by))
