"""The registry: torch function -> rule, and the decorators that fill it.

A rule is called as ``rule(region, func, args, kwargs)`` for every call of the functions it is registered for, and
returns what the program sees. Functions are registered by name; `spellings` finds every object torch knows under that
name: the function, the
``Tensor`` method, ``torch.nn.functional``, ``torch.special``. The in-place spellings (``round_``, ``__iadd__``) and
``out=`` come for free.

To add a discrete function, write in `sources.py`::

    @source("sign", "sgn")
    def sign(eps, input):
        return Step(boundary_at(input, 0.0, eps), below=-1.0, above=1.0)

To let a linearization pass through a function that works element by element, or only moves elements, add its name to
the list in
`elementwise.py` or `shape.py`.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING, Any, TypeAlias

import torch
import torch.nn.functional as F
from torch import Tensor

from ..linearization import attach, carrier, discrete_carrier

if TYPE_CHECKING:
    from ..region import linearize as Region

Rule: TypeAlias = "Callable[[Region, Callable[..., Any], tuple[Any, ...], dict[str, Any]], Any]"

RULES: dict[Any, Rule] = {}
SOURCES: dict[str, str] = {}
"""Op names (the keys of ``eps=``, ``only=``, ``exclude=``) -> one line on their decision boundaries."""
NO_GRADIENT_TO_LOSE: set[Any] = set()
"""Functions that ask about a tensor or overwrite it: no linearization is lost there."""
LEFT_ALONE: dict[str, str] = {}
"""Discrete functions that a region runs as they are, each with its reason."""

_NAMESPACES = (torch, torch.Tensor, F, torch.special, torch.linalg)


def spellings(name: str) -> list[Any]:
    """Every callable that torch offers under `name`."""
    found = []
    for namespace in _NAMESPACES:
        member = getattr(namespace, name, None)
        if callable(member) and member not in found:
            found.append(member)
    return found


def register(rule: Rule, *names: str, in_place: bool = True) -> None:
    """Register `rule` for all spellings of `names`, and its in-place form for ``name_`` and ``__iname__``."""
    for name in names:
        functions = spellings(name)
        for func in functions:
            RULES[func] = with_out(rule)
        if not in_place or not functions:
            continue
        twin = getattr(torch.Tensor, name, functions[0])
        bare = name.strip("_")
        for written in (f"{name}_", f"__i{bare}__"):
            for func in spellings(written):
                RULES[func] = _in_place(twin)


def with_out(rule: Rule) -> Rule:
    """``out=`` is a computation followed by a copy."""

    def handler(region: Region, func: Callable[..., Any], args: tuple[Any, ...], kwargs: dict[str, Any]) -> Any:
        out = kwargs.get("out")
        if not isinstance(out, Tensor):
            return rule(region, func, args, kwargs)
        if not concerns(args, kwargs):
            return func(*args, **kwargs)
        result = rule(region, func, args, {name: x for name, x in kwargs.items() if name != "out"})
        if out.shape != result.shape:
            out.resize_(result.shape)
        return overwrite(region, out, result)

    return handler


def _in_place(twin: Callable[..., Any]) -> Rule:
    def handler(region: Region, func: Callable[..., Any], args: tuple[Any, ...], kwargs: dict[str, Any]) -> Any:
        target = args[0]
        if not isinstance(target, Tensor) or not concerns(args, kwargs):
            return func(*args, **kwargs)
        before = target.clone()  # what the twin saves for backward must survive the write
        attach(region, before, carrier(target))
        operands = tuple(before if x is target else x for x in args)
        return overwrite(region, target, region.call(twin, *operands, **kwargs))

    return handler


def overwrite(region: Region, target: Tensor, result: Tensor) -> Tensor:
    """``target.copy_(result)``, linearization included."""
    if target.dtype != result.dtype:
        result = region.call(torch.Tensor.to, result, target.dtype)
    lose_base(region, target)
    torch.Tensor.copy_(target, result)
    if carrier(result) is not None and target.shape == result.shape:
        attach(region, target, carrier(result))
    return target


def lose_base(region: Region, target: Tensor) -> None:
    """Writing into a view changes its base behind the back of what the base carries."""
    base = target._base
    if base is not None and discrete_carrier(base):
        region.lose("write into a view", [base], "write through the tensor itself, x[index] = value.")


def concerns(args: tuple[Any, ...], kwargs: dict[str, Any]) -> bool:
    """Whether a call has an operand that carries a linearization or that autograd follows."""
    return any(carrier(x) is not None or tracked(x) for x in (*args, *kwargs.values()))


def tracked(x: Any) -> bool:
    """Whether autograd follows `x`: it requires grad, or carries a forward-mode tangent."""
    if not isinstance(x, Tensor) or not x.is_floating_point():
        return False
    if x.requires_grad:
        return True
    forward = torch.autograd.forward_ad
    return forward._current_level >= 0 and forward.unpack_dual(x).tangent is not None  # type: ignore[no-untyped-call]


def op_name(func: Callable[..., Any]) -> str:
    """How messages call a torch function."""
    name = getattr(func, "__name__", repr(func))
    owner = getattr(func, "__self__", None)
    if name == "__get__" and owner is not None:
        return f".{getattr(owner, '__name__', '?')}"
    return name.strip("_") if name.startswith("__") else name
