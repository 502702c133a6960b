"""What a function gets at besides tensors: random numbers, and objects of Python that it may change.

Looked for where it is cheap: arguments, `self`, the closure, and the globals that its code names; in lists, dicts,
sets, modules and other objects with attributes. Everything is put back in place, so identities stay.
"""

from __future__ import annotations

import collections
import functools
import random
import sys
import weakref
from collections.abc import Callable, Iterator
from types import CodeType, FunctionType, MethodType, ModuleType
from typing import Any

import torch
from torch import Tensor, nn

__all__ = ["NOT_OURS", "Surroundings", "named"]

_MOST = 10_000
"""Objects that are looked at."""
_LONG = 1000
"""Of longer lists only their own order is known, not what is in them."""
_ATOMS = (str, bytes, int, float, complex, bool, type(None), type, ModuleType, torch.dtype, torch.device, torch.Size)
NOT_OURS = ("torch", "sll", "numpy", "builtins")
Put = Callable[[], Any]


class Surroundings:
    """Of one call of a function."""

    def __init__(self, fn: Any, args: tuple[Any, ...], kwargs: dict[str, Any], policies: list[Any]) -> None:
        self.tensors: list[Tensor] = []
        self.once = ""
        """The type of an iterator among the arguments, if there is one: it gives what it has only once."""
        self._found: list[Callable[[], Put]] = [_random, _numpy]
        """Each reads something, and returns what puts it back."""
        if torch.cuda.is_initialized():  # type: ignore[no-untyped-call]
            self._found.append(lambda: functools.partial(torch.cuda.set_rng_state_all, torch.cuda.get_rng_state_all()))
        for policy in policies:
            if hasattr(policy, "state_dict"):
                self._found.append(functools.partial(_policy, policy))
        self._seen: set[int] = set()
        self._alive: list[Any] = []  # (or an id might be that of another)
        for x in (*args, *kwargs.values()):
            self._look(x, True)
        self._look(fn, False)

    def read(self) -> Put:
        """What brings all this back to what it is now."""
        puts = [read() for read in self._found]

        def put() -> None:
            for each in puts:
                each()

        return put

    def _look(self, x: Any, given: bool = False) -> None:
        if isinstance(x, Tensor):
            self.tensors.append(x)
            return
        if isinstance(x, _ATOMS) or id(x) in self._seen or len(self._seen) > _MOST:
            return
        self._seen.add(id(x))
        self._alive.append(x)
        if isinstance(x, FunctionType):
            self._function(x)
        elif isinstance(x, MethodType):
            self._look(x.__self__)
            self._look(x.__func__)
        elif isinstance(x, functools.partial):
            for item in (x.func, *x.args, *x.keywords.values()):
                self._look(item)
        elif isinstance(x, (tuple, frozenset)):
            self._each(x)
        elif isinstance(x, (list, dict, set, collections.deque, bytearray)):
            self._container(x)
        elif isinstance(x, torch.Generator):
            self._found.append(lambda: functools.partial(x.set_state, x.get_state()))
        elif isinstance(x, random.Random):
            self._found.append(lambda: functools.partial(x.setstate, x.getstate()))
        elif hasattr(x, "bit_generator"):  # of NumPy
            self._found.append(lambda: functools.partial(setattr, x.bit_generator, "state", x.bit_generator.state))
        elif hasattr(x, "__next__"):
            self.once = self.once or (type(x).__name__ if given else "")
        elif hasattr(x, "__dict__") and type(x).__module__.split(".")[0] != "sll":
            self._object(x)

    def _each(self, items: Any) -> None:
        if len(items) <= _LONG:
            for item in items:
                self._look(item)

    def _container(self, x: Any) -> None:
        self._found.append(lambda: functools.partial(_put_items, x, x.copy()))
        self._each(list(x.values()) if isinstance(x, dict) else () if isinstance(x, bytearray) else x)

    def _object(self, x: Any) -> None:
        own = x.__dict__
        self._found.append(lambda: functools.partial(_put_items, own, own.copy()))
        for name, item in list(own.items()):
            if not (isinstance(x, nn.Module) and "_hooks" in name):
                self._look(item)

    def _function(self, fn: FunctionType) -> None:
        if (fn.__module__ or "").split(".")[0] in NOT_OURS:
            return
        for cell in fn.__closure__ or ():
            self._found.append(functools.partial(_cell, cell))
            self._look(_content(cell))
        names = fn.__globals__
        for name in named(fn.__code__):
            if name in names:
                x = names[name]
                self._look(x)
                if not isinstance(x, (type, ModuleType, FunctionType)):
                    self._found.append(functools.partial(_item, names, name))
        self._each([*(fn.__defaults__ or ()), *(fn.__kwdefaults__ or {}).values()])


def _policy(policy: Any) -> Put:
    return functools.partial(policy.load_state_dict, policy.state_dict())


def _put_items(x: Any, items: Any) -> None:
    if isinstance(x, (list, bytearray)):
        x[:] = items
    elif isinstance(x, collections.deque):
        x.clear()
        x.extend(items)
    else:
        x.clear()
        x.update(items)


def _cell(cell: Any) -> Put:
    content = _content(cell)
    return (lambda: None) if content is _EMPTY else functools.partial(setattr, cell, "cell_contents", content)


_EMPTY = type(None)


def _content(cell: Any) -> Any:
    try:
        return cell.cell_contents
    except ValueError:  # not filled yet
        return _EMPTY


def _item(names: dict[str, Any], name: str) -> Put:
    return functools.partial(names.__setitem__, name, names[name])


_NAMES: weakref.WeakKeyDictionary[CodeType, tuple[str, ...]] = weakref.WeakKeyDictionary()


def named(code: CodeType) -> tuple[str, ...]:
    """The globals that a function names, or one inside it."""
    found = _NAMES.get(code)
    if found is None:
        found = _NAMES[code] = tuple(sorted(set(_names_of(code))))
    return found


def _names_of(code: CodeType) -> Iterator[str]:
    yield from code.co_names
    for part in code.co_consts:
        if isinstance(part, CodeType):
            yield from _names_of(part)


# --- random numbers ----------------------------------------------------------------------------------------------


def _random() -> Put:
    ours, python = torch.get_rng_state(), random.getstate()

    def put() -> None:
        torch.set_rng_state(ours)
        random.setstate(python)

    return put


class _Last:
    """NumPy takes longer to tell its state than small programs run. It is the same as long as its place in the numbers
    and the first of them are, if no second number of a pair is left over.
    """

    seen: Any = None
    state: Any = None


def _numpy() -> Put:
    numpy: Any = sys.modules.get("numpy")
    if numpy is None:
        return lambda: None
    seen = _seen(numpy.random.mtrand._rand)
    if seen is None or seen != _Last.seen or _Last.state["has_gauss"]:
        _Last.seen, _Last.state = seen, numpy.random.get_state(legacy=False)
    return functools.partial(numpy.random.set_state, _Last.state)


def _seen(of: Any) -> Any:
    """Where a Mersenne twister is, and the first of its numbers; None of another generator."""
    import ctypes

    try:
        bits = of._bit_generator
        if type(bits).__name__ != "MT19937":
            return None
        at = bits.ctypes.state_address
        return ctypes.string_at(at, 64), ctypes.string_at(at + 4 * 624, 4)
    except (AttributeError, ImportError):
        return None
