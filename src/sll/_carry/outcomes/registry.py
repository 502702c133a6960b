"""The registry: torch function -> rule.

A rule is called as ``rule(region, func, args, kwargs)`` for every call of the functions it is registered for, and
returns what the program sees. A file says with `follows` which rows of the table its rules are for; `fill` registers
them in all spellings. The in-place forms (``round_``, ``__iadd__``) and ``out=`` come for free.

To add a discrete function, give it a row in `_rules/table.py`, and write in `sources.py`::

    @source("sign")
    def sign(eps, input):
        return Step(boundary_at(input, 0.0, eps), below=-1.0, above=1.0)

To let a linearization pass through another function, its row is enough, if its family has a rule.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor

from ..._ops.env import compiling, tracked
from ..._rules.index import in_place_forms, op_name, spellings
from ..._rules.table import ROWS, Row
from ..interface import Func, Region, Rule
from .carriers import attach, carrier, discrete_carrier

RULES: dict[Any, Rule] = {}
BY_NAME: dict[str, Rule] = {}
DECIDES_BY_NAME: set[str] = set()
"""For compiled code: Dynamo does not recognise Python-level functions (Tensor.pow, Tensor.__rsub__) as keys, but it
knows their names.
"""
DISCRETE: set[Any] = set()
"""The functions that make decisions, in all their spellings."""
ALWAYS: set[Any] = set()
"""The functions whose rules are asked whatever their operands are; others only if an operand carries something."""
_DECIDE = {"sources", "reflected", "casts", "choices", "extremes", "orders", "passed"}
"""The families of `DISCRETE`."""
_RULE_OF: dict[str, Rule] = {}
"""By name, family or op of a row."""


def follows(rule: Rule, *keys: str) -> None:
    """`rule` is that of the rows with this name, family or op: what is more special counts."""
    for key in keys:
        assert key not in _RULE_OF, f"{key!r} has a rule already"
        _RULE_OF[key] = rule


def fill() -> None:
    """Register every function of the table that has a rule here."""
    owner: dict[Any, Row] = {}
    for row in ROWS:
        for name in row.names.split():
            for func in spellings(name):
                assert owner.setdefault(func, row) is row, f"{op_name(func)} is in two rows"
            rule = _RULE_OF.get(name) or _RULE_OF.get(row.family) or _RULE_OF.get(row.op)
            if rule is not None and row.family != "reflected":
                decides = row.family in _DECIDE
                marks = "marks" in row.facts.split()
                _register(rule, name, spellings(name), in_place=row.in_place, source=decides, marks=marks)
            elif rule is not None:
                for func in spellings(name):
                    put(func, _reflected(rule, getattr(torch, row.op)))
                    ALWAYS.add(func)


def _reflected(rule: Rule, straight: Func) -> Rule:
    return lambda region, func, args, kwargs: (
        rule(region, straight, args[::-1], kwargs) if concerns(args, kwargs) else func(*args, **kwargs)
    )


def put(func: Any, rule: Rule) -> None:
    RULES[func] = rule
    if func.__name__ != "__get__":  # an attribute: the name is that of all
        BY_NAME[func.__name__] = rule


def register(rule: Rule, *names: str | Func, in_place: bool = True, source: bool = False, marks: bool = False) -> None:
    """Register `rule` for all spellings of `names`, and its in-place form for ``name_`` and ``__iname__``; a function
    in the place of a name, such as ``torch.ops.mine.kernel.default``, stands for itself.

    `source`: it makes decisions; `marks`: it lets its result carry something. Any other rule is asked only if an
    operand carries something. Raises ValueError for what has a rule already.
    """
    for name in names:
        functions = spellings(name) if isinstance(name, str) else [name]
        if not functions and len(names) == 1:  # (of several, some may be newer than this torch)
            raise ValueError(f"torch has no function {name!r}; for a function that is not torch's, pass the function")
        known = next((func for func in functions if func in RULES), None)
        if known is not None:
            raise ValueError(f"{op_name(known)} has a rule already; a function has one")
        _register(rule, name if isinstance(name, str) else "", functions, in_place=in_place, source=source, marks=marks)


def _register(rule: Rule, name: str, functions: list[Any], *, in_place: bool, source: bool, marks: bool) -> None:
    forms = in_place_forms(name) if in_place and functions and name else []
    twin = getattr(torch.Tensor, name, functions[0]) if forms else None
    for func in functions:
        put(func, _spelled_out(rule, source))
    for func in forms:
        put(func, _in_place(twin, source))  # type: ignore[arg-type]
    if source:
        DISCRETE.update((*functions, *forms))
        DECIDES_BY_NAME.update(func.__name__ for func in (*functions, *forms))
    if source or marks:
        ALWAYS.update(functions)
    if source:
        ALWAYS.update(forms)


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
    if compiling() and getattr(target, "_sll", None) is not None:
        target._sll = None
    return result


def _written_through(region: Region, base: Tensor, view: Tensor, result: Tensor) -> Any:
    """What `base` carries once `result` has been written into its `view`."""
    from .regrouping import regroup

    if not base.is_contiguous() or compiling():
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
