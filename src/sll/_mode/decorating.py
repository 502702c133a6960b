"""A region as a decorator of functions, methods, generators and async functions."""

from __future__ import annotations

import copy
import functools
import inspect
import weakref
from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor, nn
from torch.compiler import is_dynamo_compiling

from .._carry.interface import tensors
from .._ops.options import shown
from .mode import Mode
from .threads import THREAD


def decorate(region: Mode, fn: Any, function: Callable[[Any, Any], Any] | None = None) -> Any:
    """`function` is what is made of one that runs from its start to its end."""
    if isinstance(fn, (classmethod, staticmethod)):
        return type(fn)(decorate(region, fn.__func__, function))
    if inspect.isclass(fn) or not callable(fn):
        raise TypeError(
            f"linearize() decorates functions and methods, got {shown(fn)}; "
            + (
                "decorate a method of it, such as forward"
                if inspect.isclass(fn)
                else "to run code in a region write `with sll.linearize(...):`"
            )
        )
    stops = next((decorated for kind, decorated in _STOP_IN_BETWEEN.items() if kind(fn)), None)
    if stops is None:
        return (function or _function)(region, fn)
    if region.paths > 1:
        raise TypeError(
            f"paths={region.paths} runs a function again from its start, and {fn.__qualname__} is a generator or "
            "coroutine, which stops in between; decorate a function that it calls"
        )
    return stops(region, fn)


def around_module(module: nn.Module, decorated: Callable[[Any], Any]) -> nn.Module:
    """The module with a decorated `forward`: one of its type, with the same parameters, buffers and submodules. What is
    given stays as it is. Copies and pickles are as those of the module, and of the region.
    """
    if "forward" in vars(module):
        raise TypeError(
            f"linearize() decorates modules, but the forward of {type(module).__name__} was replaced in this one; "
            "decorate that function"
        )
    kind, inside = type(module), copy.copy(module)
    names = {
        "__module__": kind.__module__,
        "__qualname__": kind.__qualname__,
        "__doc__": kind.__doc__,
        "forward": decorated(kind.forward),
        "__reduce_ex__": lambda self, protocol: (around_module, (_as_given(self, kind), decorated)),
    }
    inside.__class__ = type(kind.__name__, (kind,), names)
    return inside


def _as_given(inside: nn.Module, kind: type[nn.Module]) -> nn.Module:
    module = kind.__new__(kind)
    module.__dict__.update(inside.__dict__)
    return module


def _asynchronous_generator(region: Mode, fn: Any) -> Any:
    @functools.wraps(fn)
    async def wrapper(*args: Any, **kwargs: Any) -> Any:
        steps = _Suspended(region)
        stream = fn(*args, **kwargs)
        step, value = stream.asend, None
        while True:
            try:
                item = await _Steps(steps, step(value))
            except StopAsyncIteration:
                return
            try:
                step, value = stream.asend, (yield item)
            except GeneratorExit:
                await _Steps(steps, stream.aclose())
                raise
            except BaseException as error:
                step, value = stream.athrow, error

    return wrapper


def _coroutine(region: Mode, fn: Any) -> Any:
    @functools.wraps(fn)
    async def wrapper(*args: Any, **kwargs: Any) -> Any:
        return await _Steps(_Suspended(region), fn(*args, **kwargs))

    return wrapper


def _generator(region: Mode, fn: Any) -> Any:
    @functools.wraps(fn)
    def wrapper(*args: Any, **kwargs: Any) -> Any:
        return (yield from _drive(_Suspended(region), fn(*args, **kwargs)))

    return wrapper


_STOP_IN_BETWEEN: dict[Callable[[Any], bool], Callable[[Mode, Any], Any]] = {
    inspect.isasyncgenfunction: _asynchronous_generator,
    inspect.iscoroutinefunction: _coroutine,
    inspect.isgeneratorfunction: _generator,
}


def _function(region: Mode, fn: Any) -> Any:
    @functools.wraps(fn)
    def wrapper(*args: Any, **kwargs: Any) -> Any:
        with region:
            out = fn(*args, **kwargs)
            if not is_dynamo_compiling():
                returned(region, fn, out)
            return out

    return wrapper


_NO_REGION = "outside the region it has none. Decorate the function that uses it as well, or return a float."


def returned(region: Mode, fn: Any, out: Any) -> None:
    """Tell of masks and indices that `fn` returns to code without a region, and nothing else with a gradient."""
    if len(THREAD.entered) > 1 or not THREAD.entered[-1].live or not torch.is_grad_enabled():
        return
    with torch._C.DisableTorchFunction():
        found = tensors(out)
        decided = [x for x in found if region.engine.decided(x)]
        if decided and not any(x.requires_grad for x in found):
            region.engine.links(decided)
            region.lose(f"the return of {getattr(fn, '__name__', fn)}", decided, _NO_REGION)


class _Suspended:
    """A region that is left at every ``yield`` or ``await`` and entered again: what tensors carried comes back with
    it.
    """

    def __init__(self, region: Mode) -> None:
        self.region = region
        self._carried: list[tuple[weakref.ref[Tensor], Any]] = []
        self._counts: dict[Any, int] = {}

    def __enter__(self) -> None:
        self.region.__enter__()
        self.region.count_from(self._counts)
        for ref, found in self._carried:
            tensor = ref()
            if tensor is not None:
                tensor._sll = found  # type: ignore[attr-defined]
                self.region.adopt(tensor)

    def __exit__(self, *exc: Any) -> None:
        self._carried = []
        self._counts = THREAD.entered[-1].counts
        for ref in THREAD.entered[-1].live:
            tensor = ref()
            found = None if tensor is None else tensor.__dict__.get("_sll")
            if found is not None:
                self._carried.append((ref, found))
        self.region.__exit__(*exc)


def _drive(steps: _Suspended, generator: Any) -> Any:
    """``yield from generator``, with the region on while the generator runs and off while it is suspended."""
    send, value = generator.send, None
    while True:
        try:
            with steps:
                item = send(value)
        except StopIteration as stop:
            return stop.value
        try:
            value = yield item
            send = generator.send
        except GeneratorExit:
            with steps:
                generator.close()
            raise
        except BaseException as error:
            send, value = generator.throw, error


class _Steps:
    """An awaitable that runs another one step by step."""

    def __init__(self, steps: _Suspended, awaitable: Any) -> None:
        self._steps, self._awaitable = steps, awaitable

    def __await__(self) -> Any:
        return _drive(self._steps, self._awaitable if hasattr(self._awaitable, "send") else self._awaitable.__await__())
