"""For the tests of users."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from .checking import check

__all__ = ["assert_gradient"]


def assert_gradient(fn: Callable[..., Any], /, *args: Any, on_average: bool = True, **options: Any) -> None:
    """Assert that the gradient of a program in a region is right at these arguments.

    Args:
        fn: as for `sll.check`.
        args: what it takes.
        on_average: whether ``"right on average"`` is right enough.
        options: those of `sll.check`, and what `fn` takes by name.

    Raises:
        AssertionError: with what `sll.check` prints, if its verdict is another one.

    Example:
        >>> import torch
        >>> from sll.testing import assert_gradient
        >>> assert_gradient(lambda x: torch.round(x).sum(), torch.linspace(0, 5, 40), eps=0.1)
    """
    found = check(fn, *args, **options)
    if not (found.right if on_average else found.verdict == "right"):
        raise AssertionError(str(found))
