"""``sll.compile``: a function, a method or a module, compiled with a region around it."""

from __future__ import annotations

import functools
from collections.abc import Callable, Iterable
from types import FunctionType, MethodType
from typing import Any, TypeVar, overload

import torch
from torch import nn

from ._mode.decorating import around_module
from ._ops.options import OnLost, RegionForward, SeeThrough, shown
from .eps import Eps
from .region import linearize

__all__ = ["compile"]

Fn = TypeVar("Fn", bound=Callable[..., Any])


@overload
def compile(
    fn: Fn,
    eps: Eps | None = ...,
    *,
    forward: RegionForward | None = ...,
    only: Iterable[str] | None = ...,
    exclude: Iterable[str] | None = ...,
    on_lost: OnLost = ...,
    see_through: SeeThrough = ...,
    **compile_options: Any,
) -> Fn: ...
@overload
def compile(
    fn: None = ...,
    eps: Eps | None = ...,
    *,
    forward: RegionForward | None = ...,
    only: Iterable[str] | None = ...,
    exclude: Iterable[str] | None = ...,
    on_lost: OnLost = ...,
    see_through: SeeThrough = ...,
    **compile_options: Any,
) -> Callable[[Fn], Fn]: ...
def compile(
    fn: Any = None,
    eps: Eps | None = None,
    *,
    forward: RegionForward | None = None,
    only: Iterable[str] | None = None,
    exclude: Iterable[str] | None = None,
    on_lost: OnLost = "warn",
    see_through: SeeThrough = False,
    **compile_options: Any,
) -> Any:
    """`torch.compile`, with a region around what is compiled.

    Dynamo captures the plain program. The region's rules run once, while AOTAutograd traces that graph, so compiling
    takes little longer than without a region, and what runs is an ordinary graph. Values and gradients are those of
    ``sll.linearize(eps)(fn)``, but for thresholds that are elements of the row that they are compared with.

    As a decorator: ``@sll.compile``, ``@sll.compile(eps=0.1, fullgraph=True)``. What is returned has the attribute
    `region`, of which ``region.report()`` says what was lost: decisions that may be in their band, found when the
    function is compiled. Where the graph breaks, eager mode runs in the region, and masks and counts carry their
    gradient across.

    Args:
        fn: a function, a method or an `nn.Module`. Of a module, `forward` is compiled, and another one is returned that
            has the same parameters.
        eps: as for `linearize`. A policy that measures in its first steps (``"auto"``: 10) measures in eager mode; at
            the next call the function is compiled, with the widths that it keeps. `Auto.reset` starts this anew.
            The width of `Anneal` is an input of the graph. Another policy is asked when the function is compiled; a
            tensor that it holds is an input as well, and if a number that it holds changes, all is compiled again.
        forward: ``"straight-through"`` or ``"linear"``, as for `linearize`.
        only: as for `linearize`.
        exclude: as for `linearize`.
        on_lost: as for `linearize`.
        see_through: as for `linearize`.
        **compile_options: as for `torch.compile`: ``fullgraph=``, ``dynamic=``, ``backend=``, ``mode=``, ``options=``.

    Raises:
        TypeError, ValueError: naming the argument that is not as described.
        LostGradientError: with ``on_lost="error"``, when the function is compiled.
        RuntimeError: with ``fullgraph=True``, where a rule needs numbers.

    Example:
        >>> import torch, sll
        >>> @sll.compile(eps=0.5, forward="straight-through", backend="aot_eager")
        ... def quantize(x):
        ...     return torch.round(x)
        >>> x = torch.tensor([0.2, 1.4], requires_grad=True)
        >>> quantize(x).sum().backward()
        >>> x.grad
        tensor([1., 1.])
    """
    for name in ("trace", "paths", "generator"):
        if name in compile_options:
            raise TypeError(f"compile() takes no {name}=: that is for eager mode, sll.linearize(..., {name}=...)")
    if forward == "hard":
        raise ValueError(
            'forward must be "straight-through" or "linear" for compile(), got \'hard\': how many flips are open is '
            'data, which no graph has; take sll.linearize(..., forward="hard"), which runs in eager mode'
        )
    region = linearize(eps, forward=forward, only=only, exclude=exclude, on_lost=on_lost, see_through=see_through)
    decorate = functools.partial(_compiled, region, compile_options)
    return decorate if fn is None else decorate(fn)


def _compiled(region: linearize, options: dict[str, Any], fn: Any) -> Any:
    """A function or a module, compiled with `region` around it."""
    if isinstance(fn, nn.Module):
        module: Any = around_module(fn, functools.partial(_compiled, region, options))
        module.region = region
        return module
    if not callable(fn) or isinstance(fn, type):
        raise TypeError(f"compile() takes a function, a method or an nn.Module, got {shown(fn)}")
    compiled: Any = torch.compile(_with_code_of_its_own(fn), **options)

    @functools.wraps(fn)
    def wrapper(*args: Any, **kwargs: Any) -> Any:
        with region:
            return compiled(*args, **kwargs)

    wrapper.region = region  # type: ignore[attr-defined]
    return wrapper


def _with_code_of_its_own(fn: Any) -> Any:
    """Dynamo compiles one piece of code a few times only, whoever asks. Layers of one class would share these."""
    if isinstance(fn, MethodType) and isinstance(fn.__func__, FunctionType):
        return MethodType(_with_code_of_its_own(fn.__func__), fn.__self__)
    if not isinstance(fn, FunctionType):
        return fn
    code = fn.__code__.replace()
    own = FunctionType(code, fn.__globals__, fn.__name__, fn.__defaults__, fn.__closure__)
    own.__kwdefaults__, own.__dict__ = fn.__kwdefaults__, dict(fn.__dict__)
    return own
