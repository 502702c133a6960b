"""Other ways into a region than a ``with`` block: a decorator, and a switch for notebooks."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from typing import Any, TypeVar, overload

import torch

from ._mode.threads import THREAD, innermost
from ._ops.options import OnLost, RegionForward, SeeThrough
from .eps import Eps
from .region import linearize

__all__ = ["enable", "patch", "unpatch"]

Fn = TypeVar("Fn", bound=Callable[..., Any])


@overload
def enable(fn: Fn, /) -> Fn: ...
@overload
def enable(
    eps: Eps | None = None,
    *,
    forward: RegionForward | None = ...,
    only: Iterable[str] | None = ...,
    exclude: Iterable[str] | None = ...,
    on_lost: OnLost = ...,
    trace: bool = ...,
    paths: int = ...,
    see_through: SeeThrough = ...,
    generator: torch.Generator | None = ...,
) -> Callable[[Fn], Fn]: ...
def enable(*fn: Any, **options: Any) -> Any:
    """Decorator: the function runs in a region. ``@sll.enable``, ``@sll.enable(0.1)``; arguments as for `linearize`.

    Example:
        >>> import torch, sll
        >>> @sll.enable(eps=0.5, forward="hard")
        ... def quantize(x):
        ...     return torch.round(x)
        >>> x = torch.tensor([0.2, 1.4], requires_grad=True)
        >>> quantize(x).sum().backward()
        >>> x.grad
        tensor([1., 1.])

    With ``paths=N`` the function runs again for what Python asks, N times at most (``docs/control-flow.md``):

        >>> @sll.enable(eps=0.5, forward="hard", paths=8)
        ... def double(x):
        ...     return 2 * x if x > 1.0 else x
        >>> x = torch.tensor(1.25, requires_grad=True)
        >>> double(x).backward()
        >>> x.grad  # 2, and the slope 1 of the flip times its difference, 2.5 - 1.25
        tensor(3.2500)
    """
    if len(fn) == 1 and callable(fn[0]):
        return linearize(**options)(fn[0])
    return linearize(*fn, **options)


def patch(eps: Eps | None = None, **options: Any) -> linearize:
    """Switch a region on until `unpatch`, across notebook cells. No torch attribute is replaced: it is the mode of
    `linearize`.

    Options as for `linearize`. Patching again replaces the region that is on.

    Example:
        >>> import torch, sll
        >>> region = sll.patch(eps=1e-2)
        >>> x = torch.zeros(1, requires_grad=True)
        >>> torch.sign(x).backward()
        >>> sll.unpatch()
        >>> x.grad
        tensor([100.])
    """
    region = linearize(eps, **options)
    if THREAD.patched:
        unpatch()
    region.__enter__()
    THREAD.patched.append(region)
    return region


def unpatch() -> None:
    """Switch off what `patch` switched on in this thread. Raises RuntimeError if nothing is on, or if it is called
    inside a region that was entered after `patch`.
    """
    if not THREAD.patched:
        raise RuntimeError(
            "unpatch() without patch(): no region was switched on in this thread, or it is off already; "
            "call sll.patch() first"
        )
    if innermost() is not THREAD.patched[-1]:
        raise RuntimeError(f"unpatch() inside {innermost()!r}, which was entered after patch(); leave that first")
    THREAD.patched.pop().__exit__(None, None, None)
