"""What a function gets at besides tensors: random numbers, and objects of Python that it may change.

Looked for where it is cheap: arguments, `self`, the closure, and the globals that its code names; in lists, dicts,
sets, modules and other objects with attributes. Everything is put back in place, so identities stay.
"""

from __future__ import annotations

import collections
import ctypes
import functools
import random
import sys
import weakref
from collections.abc import Callable
from io import IOBase
from types import CodeType, FunctionType, MethodType, ModuleType
from typing import Any

import torch
from torch import Tensor, nn

_MOST = 10_000
"""Objects that are looked at."""
_LONG = 1000
"""Of longer lists only their own order is known, not what is in them."""
_LARGE = 2**20
"""NumPy arrays of more bytes are not copied."""
_ATOMS = (str, bytes, int, float, complex, bool, type(None), ModuleType, torch.dtype, torch.device, torch.Size)
_CONTAINERS = (list, dict, set, collections.deque, bytearray)
_OF_MODULES = list(nn.Module().__dict__)
"""What every module has: registries, hooks, and how it is set."""
NOT_OURS = ("torch", "sll", "numpy", "builtins")


class Surroundings:
    """Of one call of a function."""

    def __init__(self, fn: Any, args: tuple[Any, ...], kwargs: dict[str, Any], policies: list[Any]) -> None:
        self.tensors: list[Tensor] = []
        self._containers: list[Any] = []
        self._names: list[tuple[dict[str, Any], str]] = []
        self._cells: list[Any] = []
        self._states: list[tuple[Callable[[], Any], Callable[[Any], Any]]] = [
            (torch.get_rng_state, torch.set_rng_state),
            (_python, random.setstate),
            (_numpy, _set_numpys),
        ]
        """What reads something, and what puts it back."""
        if torch.cuda.is_initialized():  # type: ignore[no-untyped-call]
            self._states.append((torch.cuda.get_rng_state_all, torch.cuda.set_rng_state_all))
        self._states += [(x.state_dict, x.load_state_dict) for x in policies if hasattr(x, "state_dict")]
        self._seen: dict[int, Any] = {}  # (alive, or an id might be that of another)
        self._given = (*args, *kwargs.values(), fn)
        self._first: Any = None
        self.each(self._given)

    def read(self) -> Callable[[], None]:
        """What brings all this back to what it is now."""
        items = [(x, x.copy()) for x in self._containers]
        names = [(names, name, names[name]) for names, name in self._names if name in names]
        cells = [(cell, cell.cell_contents) for cell in self._cells]
        self._first = self._first or (items, names, cells)
        states = [(put, get()) for get, put in self._states]

        def put() -> None:
            for x, copy in items:
                _put_items(x, copy)
            for of, name, value in names:
                of[name] = value
            for cell, value in cells:
                cell.cell_contents = value
            for each, state in states:
                each(state)

        return put

    @functools.cached_property
    def once(self) -> str:
        """The type of an iterator, but for files, that the function was given or names, and still has: it gives what it
        has only once.
        """
        items, names, cells = self._first
        said = {name for x in self._seen.values() if isinstance(x, FunctionType) for name in named(x.__code__)}
        named_in = ((of, name, was[name]) for of, was in items if isinstance(was, dict) for name in said & was.keys())
        held = [x for of, name, x in (*names, *named_in) if of.get(name) is x]
        held += [*self._given, *(x for cell, x in cells if cell.cell_contents is x)]
        return next((type(x).__name__ for x in held if hasattr(x, "__next__") and not isinstance(x, IOBase)), "")

    def _look(self, x: Any) -> None:
        kind = type(x)
        how = _HOW[kind] if kind in _HOW else _how(kind)
        if how is None or id(x) in self._seen or len(self._seen) > _MOST:
            return
        self._seen[id(x)] = x
        how(self, x)

    def each(self, items: Any) -> None:
        if len(items) <= _LONG:
            for item in items:
                if _HOW.get(type(item), True) is not None:
                    self._look(item)

    def container(self, x: Any) -> None:
        self._containers.append(x)
        if x and not isinstance(x, bytearray):
            self.each(list(x.values()) if isinstance(x, dict) else x)

    def array(self, x: Any) -> None:
        if x.nbytes <= _LARGE and x.flags.writeable:
            self._containers.append(x)

    def attributes(self, x: type) -> None:
        if (x.__module__ or "").split(".")[0] not in NOT_OURS:
            self._states.append((lambda: dict(vars(x)), functools.partial(_set_attributes, x)))
            self.each([value for value in vars(x).values() if isinstance(value, _CONTAINERS)])

    def object(self, x: Any) -> None:
        own = x.__dict__
        self._containers.append(own)
        self.each([type(x), *own.values()])

    def module(self, x: nn.Module) -> None:
        own = x.__dict__
        self._containers.append(own)
        children = own.get("_modules")
        if isinstance(children, dict):  # (TorchScript has its own registries)
            parameters, buffers = own["_parameters"], own["_buffers"]
            self._containers += (parameters, buffers, children, own["_non_persistent_buffers_set"])
            self.tensors += [held for held in (*parameters.values(), *buffers.values()) if held is not None]
            for child in children.values():
                self._look(child)
        names = list(own)  # (those of every module come first, if nothing was set before)
        first = names[: len(_OF_MODULES)] == _OF_MODULES
        names = names[len(_OF_MODULES) :] if first else [name for name in names if name not in _OF_MODULES]
        self.each([own[name] for name in names])

    def function(self, fn: FunctionType) -> None:
        if (fn.__module__ or "").split(".")[0] in NOT_OURS:
            return
        for cell in fn.__closure__ or ():
            try:
                content = cell.cell_contents
            except ValueError:  # not filled yet
                continue
            self._cells.append(cell)
            self._look(content)
        names = fn.__globals__
        for name in named(fn.__code__):
            if name in names:
                x = names[name]
                self._look(x)
                if not isinstance(x, (type, ModuleType, FunctionType)):
                    self._names.append((names, name))
        self.each([*(fn.__defaults__ or ()), *(fn.__kwdefaults__ or {}).values()])


_HOW: dict[type, Callable[[Surroundings, Any], None] | None] = {}
"""How objects of a type are looked at; None if there is nothing to see."""


def _how(kind: type) -> Callable[[Surroundings, Any], None] | None:
    found: Callable[[Surroundings, Any], None] | None = None
    if issubclass(kind, Tensor):
        found = lambda around, x: around.tensors.append(x)
    elif not issubclass(kind, _ATOMS) and not hasattr(kind, "__next__"):
        found = next((how for base, how in _KINDS if issubclass(kind, base)), None) or _by_what_it_has(kind)
    if len(_HOW) < _MOST:
        _HOW[kind] = found
    return found


_KINDS: list[tuple[Any, Callable[[Surroundings, Any], None]]] = [
    (type, Surroundings.attributes),
    (FunctionType, Surroundings.function),
    (MethodType, lambda around, x: around.each((x.__self__, x.__func__))),
    (functools.partial, lambda around, x: around.each((x.func, *x.args, *x.keywords.values()))),
    ((tuple, frozenset), Surroundings.each),
    (_CONTAINERS, Surroundings.container),
    (random.Random, lambda around, x: around._states.append((x.getstate, x.setstate))),
    (nn.Module, Surroundings.module),
]


def _by_what_it_has(kind: type) -> Callable[[Surroundings, Any], None] | None:
    if hasattr(kind, "bit_generator"):  # NumPy's
        return lambda around, x: around._states.append(
            (lambda: x.bit_generator.state, functools.partial(setattr, x.bit_generator, "state"))
        )
    if hasattr(kind, "get_state") and hasattr(kind, "set_state"):  # torch's, and NumPy's of old
        return lambda around, x: around._states.append((x.get_state, x.set_state))
    if kind.__module__ == "numpy":
        return Surroundings.array if kind.__name__ == "ndarray" else None
    ours = kind.__module__.split(".")[0] == "sll"
    return Surroundings.object if kind.__dictoffset__ and not ours else None


def _set_attributes(x: type, before: dict[str, Any]) -> None:
    for name in vars(x).keys() - before:
        delattr(x, name)
    for name, value in before.items():
        if vars(x).get(name) is not value:
            setattr(x, name, value)


def _put_items(x: Any, items: Any) -> None:
    if isinstance(x, (list, bytearray)):
        x[:] = items
    elif isinstance(x, (dict, set, collections.deque)):
        x.clear()
        x.extend(items) if isinstance(x, collections.deque) else x.update(items)
    else:
        x[...] = items


_NAMES: weakref.WeakKeyDictionary[CodeType, tuple[str, ...]] = weakref.WeakKeyDictionary()


def named(code: CodeType) -> tuple[str, ...]:
    """The globals that a function names, or one inside it."""
    found = _NAMES.get(code)
    if found is None:
        inside = (name for part in code.co_consts if isinstance(part, CodeType) for name in named(part))
        found = _NAMES[code] = tuple(sorted({*code.co_names, *inside}))
    return found


# --- random numbers ----------------------------------------------------------------------------------------------


class _Told:
    """Python and NumPy take longer to tell the state of their random numbers than small programs run. It is the same as
    long as the memory is that has it. (Without a memory it is told each time.)
    """

    def __init__(self, memory: Callable[[], Any], tell: Callable[[], Any]) -> None:
        self._memory, self._tell, self._last = memory, tell, (None, None)

    def __call__(self) -> Any:
        memory = self._memory() if sys.implementation.name == "cpython" else None
        if memory is None or memory != self._last[0]:
            self._last = memory, self._tell()
        return self._last[1]


def _body(x: Any) -> bytes:
    """The memory of an object, but for what all objects have."""
    start = object.__basicsize__
    return ctypes.string_at(id(x) + start, type(x).__basicsize__ - start)


def _numpys_memory() -> Any:
    """None if NumPy is not imported, or has been given another generator."""
    numpy: Any = sys.modules.get("numpy")
    if numpy is None:
        return None
    numbers = numpy.random.mtrand._rand
    bits = numbers._bit_generator
    return (_body(numbers), _body(bits)) if type(bits).__name__ == "MT19937" else None


def _tell_numpys() -> Any:
    return sys.modules["numpy"].random.get_state(legacy=False) if "numpy" in sys.modules else None


def _set_numpys(state: Any) -> None:
    if state is not None:
        sys.modules["numpy"].random.set_state(state)


_python = _Told(lambda: (_body(random._inst), random._inst.gauss_next), random.getstate)  # type: ignore[attr-defined]
_numpy = _Told(_numpys_memory, _tell_numpys)
