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
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor

from ..interface import Region, Rule
from .carriers import attach, carrier, discrete_carrier

RULES: dict[Any, Rule] = {}
BY_NAME: dict[str, Rule] = {}
DECIDES_BY_NAME: set[str] = set()
"""For compiled code: Dynamo does not recognise Python-level functions (Tensor.pow, Tensor.__rsub__) as keys, but it
knows their names.
"""
SOURCES: dict[str, str] = {}
"""Op names (the keys of ``eps=``, ``only=``, ``exclude=``) -> one line on their decision boundaries."""
DISCRETE: set[Any] = set()
"""The functions that make decisions, in all their spellings."""
ALWAYS: set[Any] = set()
"""The functions whose rules are asked whatever their operands are; others only if an operand carries something."""
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


def put(func: Any, rule: Rule) -> None:
    RULES[func] = rule
    if func.__name__ != "__get__":  # an attribute: the name is that of all
        BY_NAME[func.__name__] = rule


def register(
    rule: Rule, *names: str | Callable[..., Any], in_place: bool = True, source: bool = False, marks: bool = False
) -> None:
    """Register `rule` for all spellings of `names`, and its in-place form for ``name_`` and ``__iname__``; a function
    in the place of a name, such as ``torch.ops.mine.kernel.default``, stands for itself.

    `source`: it makes decisions; `marks`: it lets its result carry something. Any other rule is asked only if an
    operand carries something.
    """
    for name in names:
        functions = spellings(name) if isinstance(name, str) else [name]
        if not functions and len(names) == 1:  # (of several, some may be newer than this torch)
            raise ValueError(f"torch has no function {name!r}; for a function that is not torch's, pass the function")
        if source:
            DISCRETE.update(functions)
            DECIDES_BY_NAME.update(func.__name__ for func in functions)
        if source or marks:
            ALWAYS.update(functions)
        for func in functions:
            put(func, _spelled_out(rule, source))
        if not in_place or not functions or not isinstance(name, str):
            continue
        twin = getattr(torch.Tensor, name, functions[0])
        bare = name.strip("_")
        for in_place_name in (f"{name}_", f"__i{bare}__"):
            for func in spellings(in_place_name):
                put(func, _in_place(twin, source))
                if source:
                    DISCRETE.add(func)
                    DECIDES_BY_NAME.add(func.__name__)
                    ALWAYS.add(func)


def _spelled_out(rule: Rule, source: bool) -> Rule:
    """``out=`` is a computation followed by a copy, and so is ``inplace=True``; NumPy's spellings become torch's."""

    def handler(region: Region, func: Callable[..., Any], args: tuple[Any, ...], kwargs: dict[str, Any]) -> Any:
        if kwargs:
            if not args and "input" in kwargs and "condition" not in kwargs:
                args = (kwargs["input"],)
                kwargs = {name: x for name, x in kwargs.items() if name != "input"}
            if "axis" in kwargs or "keepdims" in kwargs:
                kwargs = {{"axis": "dim", "keepdims": "keepdim"}.get(name, name): x for name, x in kwargs.items()}
            if kwargs.get("inplace") and (source or carrier(args[0]) is not None) and concerns(args, kwargs):
                before = _kept(region, args[0])
                result = rule(region, func, (before, *args[1:]), {**kwargs, "inplace": False})
                return overwrite(region, args[0], result)
        out = kwargs.get("out")
        if not isinstance(out, Tensor):
            if "out" in kwargs and out is None:
                kwargs = {name: x for name, x in kwargs.items() if name != "out"}
            return rule(region, func, args, kwargs)
        if not concerns(args, kwargs):
            return func(*args, **kwargs)
        result = rule(region, func, args, {name: x for name, x in kwargs.items() if name != "out"})
        if out.shape != result.shape:
            out.resize_(result.shape)
        return overwrite(region, out, result)

    return handler


def _in_place(twin: Callable[..., Any], source: bool) -> Rule:
    def handler(region: Region, func: Callable[..., Any], args: tuple[Any, ...], kwargs: dict[str, Any]) -> Any:
        target = args[0]
        if not isinstance(target, Tensor) or not concerns(args, kwargs, source):
            return func(*args, **kwargs)
        before = _kept(region, target)
        operands = tuple(before if x is target else x for x in args)
        result = region.call(twin, *operands, **kwargs)
        if result.shape != target.shape or _rank(result.dtype) > _rank(target.dtype):
            return func(*args, **kwargs)  # raises, as it does without a region
        return overwrite(region, target, result)

    return handler


def _rank(dtype: torch.dtype) -> int:
    """bool < integer < float < complex: torch refuses to write a result into a lower one."""
    return 3 if dtype.is_complex else 2 if dtype.is_floating_point else 0 if dtype == torch.bool else 1


def _kept(region: Region, target: Tensor) -> Tensor:
    """A copy with the same linearization: what backward saves must survive the write."""
    return attach(region, target.clone(), carrier(target))


def overwrite(region: Region, target: Tensor, result: Tensor) -> Tensor:
    """``target.copy_(result)``, linearization included; if `target` is a view, that of its base, too."""
    if target.dtype != result.dtype:
        result = region.call(torch.Tensor.to, result, target.dtype)
    base, found = target._base, None
    if base is not None and not target.is_floating_point() and (discrete_carrier(base) or carrier(result) is not None):
        found = _written_through(region, base, target, result)
    torch.Tensor.copy_(target, result)
    written(target)
    if carrier(result) is not None and target.shape == result.shape:
        attach(region, target, carrier(result))
    if base is not None:
        attach(region, base, found)
    return target


def written(target: Any, result: Any = None) -> Any:
    """`result`, after a write into `target`: what that carried counts no longer (in eager mode by its version)."""
    if torch.compiler.is_compiling() and getattr(target, "_sll", None) is not None:
        target._sll = None
    return result


def _written_through(region: Region, base: Tensor, view: Tensor, result: Tensor) -> Any:
    """What `base` carries once `result` has been written into its `view`."""
    from .regrouping import regroup

    if not base.is_contiguous() or torch.compiler.is_compiling():
        region.lose("write into a view", [base, result], "write through the tensor itself, x[index] = value.")
        return None
    offset = view.storage_offset() - base.storage_offset()
    places = torch.arange(base.numel(), device=base.device).as_strided(view.shape, view.stride(), offset)

    def put(parts: list[Tensor]) -> Tensor:
        old, new = parts
        return old.reshape(-1).index_put((places.reshape(-1),), new.reshape(-1)).reshape(base.shape)

    return regroup(region, put, [_kept(region, base), region.call(torch.Tensor.expand, result, view.shape)], base)


def concerns(args: tuple[Any, ...], kwargs: dict[str, Any], follows: bool = True) -> bool:
    """Whether a call has an operand that carries a linearization or (`follows`) that autograd follows."""
    for x in (*args, *kwargs.values()):
        for item in x if isinstance(x, (tuple, list)) else (x,):
            if carrier(item) is not None or follows and tracked(item):
                return True
    return False


def tracked(x: Any) -> bool:
    """Whether autograd follows `x`: it requires grad, or carries a forward-mode tangent."""
    if not isinstance(x, Tensor) or not x.is_floating_point():
        return False
    if x.requires_grad:
        return x.layout == torch.strided
    if torch.compiler.is_compiling():
        return False
    functorch = torch._C._functorch
    if functorch.is_functorch_wrapped_tensor(x) and tracked(functorch.get_unwrapped(x)):
        return True  # vmap inside grad
    forward = torch.autograd.forward_ad
    return forward._current_level >= 0 and forward.unpack_dual(x).tangent is not None  # type: ignore[no-untyped-call]


def op_name(func: Callable[..., Any]) -> str:
    """How messages call a torch function."""
    name = getattr(func, "__name__", repr(func))
    owner = getattr(func, "__self__", None)
    if name == "__get__" and owner is not None:
        return f".{getattr(owner, '__name__', '?')}"
    return name.strip("_") if name[:2] == "__" else name
