"""A function of the user's with its arguments, and what else it depends on: it runs on copies, and all is afterwards as
it was before.
"""

from __future__ import annotations

import copy
import functools
import inspect
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager, nullcontext, suppress
from dataclasses import fields, is_dataclass
from types import FunctionType, MappingProxyType, ModuleType
from typing import Any, TypeAlias, TypeVar

import torch
from torch import Tensor, nn

from ._mode.surroundings import NOT_OURS, Surroundings, named
from ._ops.options import shown

T = TypeVar("T")
_Copies: TypeAlias = "tuple[list[Any], dict[str, Any], dict[str, Tensor]]"


class Program:
    """A function with its arguments, and what else it depends on."""

    def __init__(self, fn: Callable[..., Any], args: tuple[Any, ...], kwargs: dict[str, Any], asked: str) -> None:
        """`asked` is the function of ours that wants to run it."""
        if not callable(fn):
            raise TypeError(
                f"fn must be the program, a function or a module, got {shown(fn)}; pass its arguments after it: "
                f"{asked}(program, x)"
            )
        self.fn = fn
        self.args = dict(zip(_names(fn, len(args)), args))
        self.kwargs = kwargs
        found = Found()
        for name, x in (*self.args.items(), *kwargs.items()):
            found.look(name, x)
        self.given = dict(found.tensors)
        found.look("", fn)
        self.modules, self.generators = found.modules, found.generators
        own = {id(x) for x in self.given.values()}
        self.kept = {name: x for name, x in found.tensors.items() if id(x) not in own}
        """Tensors that it refers to."""
        self.leaves = {name: x for name, x in self.kept.items() if x.requires_grad and x.is_leaf}
        for prefix, module in found.modules.items():
            for inner, parameter in module.named_parameters():
                if parameter.requires_grad and not any(parameter is x for x in self.leaves.values()):
                    name = f"{prefix}.{inner}".lstrip(".")
                    while name in self.given or name in self.leaves:
                        name = f"{name} (parameter)"
                    self.leaves[name] = parameter
        self.wanted = {name for name, x in self.given.items() if x.requires_grad}
        if not self.wanted and not self.leaves:
            self.wanted = {name for name, x in self.given.items() if x.is_floating_point()}
        self.shapes = {name: tuple(x.shape) for name, x in (*self.given.items(), *self.leaves.items())}

    def run(self, args: list[Any], kwargs: dict[str, Any], loss: Callable[[Any], T], region: Any = None) -> T:
        """`loss` of what `fn` returns, in a region. (One that runs `fn` again has to decorate it.)"""
        again = region is not None and region.paths > 1
        with nullcontext() if again or region is None else region:
            out = (region(self.fn) if again else self.fn)(*args, **kwargs)
            if inspect.isgenerator(out) or inspect.iscoroutine(out) or inspect.isasyncgen(out):
                raise TypeError(
                    f"fn must run when it is called, got one that returns a {type(out).__name__}; pass a function "
                    "that runs it to its end, such as lambda *args: list(fn(*args))"
                )
            return loss(out)

    def copies(self, values: Mapping[str, Tensor] = MappingProxyType({})) -> _Copies:
        """Arguments to run with, and the leaves among them that want gradients. `values` are other ones, by name."""
        leaves: dict[str, Tensor] = {}
        memo: dict[int, Any] = {id(x): x for x in (*self.modules.values(), *self.generators)}
        memo.update((id(x), x) for x in self.kept.values())
        for name, x in self.given.items():
            leaf = values.get(name, x).detach().clone().requires_grad_(name in self.wanted)
            if isinstance(x, nn.Parameter):
                leaf = nn.Parameter(leaf.detach(), name in self.wanted)
            if name in self.wanted:
                leaves[name] = leaf
            # The program gets no leaf, because it may write into its argument.
            memo[id(x)] = leaf if isinstance(x, nn.Parameter) or not leaf.requires_grad else leaf.clone()

        def copied(x: Any) -> Any:
            try:
                return copy.deepcopy(x, memo)
            except Exception:  # an open file, a lock: the program gets the thing itself
                return x

        args = [copied(x) for x in self.args.values()]
        return args, {name: copied(x) for name, x in self.kwargs.items()}, leaves

    @contextmanager
    def as_it_was(self) -> Iterator[Callable[[], None]]:
        """Random numbers, parameters, buffers, gradients and objects of Python are the same afterwards as before, and
        whenever what this gives is called.
        """
        around = Surroundings(self.fn, tuple(self.args.values()), self.kwargs, [])
        tensors = {id(x): x for x in (*around.tensors, *self.kept.values(), *self.leaves.values())}
        plain = [x for x in tensors.values() if not x.is_inference()]
        values = [(x, x.detach().clone(), x._version, x.grad if x.is_leaf else None) for x in plain]
        objects = around.read()

        def put() -> None:
            objects()
            with torch.no_grad():
                for x, value, version, _ in values:
                    # (Batch norm writes into its buffers without counting.)
                    if x._version != version or not torch.equal(x, value):
                        x.detach().copy_(value)

        for x, *_ in values:
            if x.is_leaf:
                x.grad = None
        try:
            yield put
        finally:
            put()
            for x, _, _, grad in values:
                if x.is_leaf:
                    x.grad = grad


def total(out: Any) -> Tensor | None:
    """The sum of all that comes out and has a gradient. In a region masks and integers count, too."""
    sums = [s for s in _sums(out) if s.requires_grad]
    return torch.stack(sums).sum() if sums else None


def whole(out: Any) -> Tensor:
    """The sum of all that comes out."""
    return torch.stack(_sums(out) or [torch.zeros((), dtype=torch.float64)]).sum()


def _sums(out: Any) -> list[Tensor]:
    parts = [x.abs() if x.is_complex() else x if x.dtype == torch.float64 else x.float() for x in _tensors(out)]
    return [s.double() if s.device.type == "cpu" else s.cpu().double() for s in (part.sum() for part in parts)]


def _tensors(x: Any) -> Iterator[Tensor]:
    if isinstance(x, Tensor):
        yield x
    elif isinstance(x, Mapping):
        for item in x.values():
            yield from _tensors(item)
    elif isinstance(x, (tuple, list)):
        for item in x:
            yield from _tensors(item)
    elif is_dataclass(x) and not isinstance(x, type):
        for item in fields(x):
            yield from _tensors(getattr(x, item.name))


# --- what a program depends on -----------------------------------------------------------------------------------

_DEPTH = 6


class Found:
    """Modules, tensors and random generators in what a function gets at: by name, the outermost first."""

    def __init__(self) -> None:
        self.modules: dict[str, nn.Module] = {}
        self.tensors: dict[str, Tensor] = {}
        self.generators: list[torch.Generator] = []
        self._seen: dict[int, Any] = {}

    def look(self, name: str, x: Any, depth: int = 0) -> None:
        if depth > _DEPTH or id(x) in self._seen or isinstance(x, (str, bytes, int, float, complex, type, ModuleType)):
            return
        self._seen[id(x)] = x
        if isinstance(x, Tensor):
            self.tensors[_unused(name, self.tensors)] = x
        elif isinstance(x, nn.Module):
            self.modules[_unused(name, self.modules)] = x
        elif isinstance(x, torch.Generator):
            self.generators.append(x)
        else:
            for inner, item in list(_parts(name, x)):
                self.look(inner.lstrip("."), item, depth + 1)


def _parts(name: str, x: Any) -> Iterator[tuple[str, Any]]:
    """What an object refers to, by name."""
    if isinstance(x, functools.partial):
        yield name, x.func
        yield from ((f"{name}.args[{i}]", item) for i, item in enumerate(x.args))
        yield from x.keywords.items()
    elif inspect.ismethod(x):
        yield from (("", x.__self__), (name, x.__func__))
    elif inspect.isfunction(x):
        yield from _referred_to(x).items()
    elif isinstance(x, Mapping):
        yield from ((f"{name}[{key!r}]", item) for key, item in x.items())
    elif isinstance(x, (tuple, list, set, frozenset)):
        yield from ((f"{name}[{i}]", item) for i, item in enumerate(x))
    elif hasattr(x, "__dict__") and type(x).__module__.split(".")[0] not in NOT_OURS:
        yield from ((f"{name}.{key}", item) for key, item in vars(x).items())
        if callable(x) and inspect.isfunction(type(x).__call__):
            yield name, type(x).__call__


def _unused(name: str, taken: Mapping[str, Any]) -> str:
    while name in taken:
        name += "'"
    return name


def _referred_to(fn: FunctionType) -> dict[str, Any]:
    """What a function gets at by name: its closure, its defaults, and globals that its code names."""
    found: dict[str, Any] = {}
    for name in filter(fn.__globals__.__contains__, named(fn.__code__)):
        x = fn.__globals__[name]
        ours = not inspect.isfunction(x) or (x.__module__ or "").split(".")[0] not in NOT_OURS
        if ours:
            found[name] = x
    for name, cell in zip(fn.__code__.co_freevars, fn.__closure__ or ()):
        with suppress(ValueError):  # not filled yet
            found[name] = cell.cell_contents
    for i, x in enumerate(fn.__defaults__ or ()):
        found.setdefault(f"defaults[{i}]", x)
    found.update({name: x for name, x in (fn.__kwdefaults__ or {}).items() if name not in found})
    return found


def _names(fn: Any, many: int) -> list[str]:
    """The names of the first `many` parameters."""
    try:
        signature = inspect.signature(fn.forward if isinstance(fn, nn.Module) else fn)
    except (TypeError, ValueError):
        return [f"args[{i}]" for i in range(many)]
    names: list[str] = []
    rest = "args"
    for p in signature.parameters.values():
        if p.kind is p.VAR_POSITIONAL:
            rest = p.name
        elif p.kind is not p.KEYWORD_ONLY and p.kind is not p.VAR_KEYWORD:
            names.append(p.name)
    return [*names[:many], *(f"{rest}[{i}]" for i in range(many - len(names)))]
