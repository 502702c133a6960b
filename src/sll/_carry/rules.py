"""The rules of an engine, by torch function: filled from the table.

An engine has a rule for the name, the family or the op of a row; what is more special counts. Each is registered in all
spellings, with ``out=``, and with its in-place forms.
"""

from __future__ import annotations

import functools
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, field
from typing import Any, TypeAlias

import torch
from torch import Tensor

from .._rules.index import REMEDIES, in_place_forms, names_of, op_name, spellings
from .._rules.table import ROWS, Row
from . import rows
from .interface import Func, Region, Rule
from .plateaus import ASKED, asked
from .writes import Writes

_DECIDE = {"sources", "reflected", "casts", "choices", "extremes", "orders", "passed"}


def decides(row: Row) -> bool:
    """Whether functions of this row make decisions."""
    return row.family in _DECIDE


NUMBERS = {f for name in names_of("numbers") if name not in ("numpy", "__array__") for f in spellings(name)}
"""What makes numbers of Python. (NumPy refuses what autograd follows.)"""


Call: TypeAlias = "functools.partial[Any]"


def _each(rule: Rule) -> Rule:
    """Of one tensor, or of each of several."""

    def of_each(region: Region, func: Func, args: tuple[Any, ...], kwargs: dict[str, Any]) -> Any:
        several = kwargs.get("tensors", args[0] if len(args) == 1 else args)
        if isinstance(several, Tensor):
            return rule(region, func, (several,), {})
        return tuple(region.call(func, x) for x in several)

    return of_each


def spelled(rule: Callable[..., Any]) -> Rule:
    """The rule that is written ``rule(region, call, …)`` with the parameters of the function: ``call()`` calls it as it
    is, and ``call.func`` is it.
    """

    @functools.wraps(rule)
    def handler(region: Region, func: Func, args: tuple[Any, ...], kwargs: dict[str, Any]) -> Any:
        return rule(region, functools.partial(func, *args, **kwargs), *args, **kwargs)

    return handler


def of_condition(choose: Callable[..., Any]) -> Rule:
    """``torch.where(condition, a, b)``, ``a.where(condition, b)`` by ``choose(region, condition, a, b)``; with the
    condition alone it is `nonzero`.
    """

    @functools.wraps(choose)
    def where(region: Region, func: Func, args: tuple[Any, ...], kwargs: dict[str, Any]) -> Any:
        names = ("self", "condition", "other") if func is Tensor.where else ("condition", "self", "other")
        named = dict(zip(names, args), **{"self" if name == "input" else name: x for name, x in kwargs.items()})
        if named.get("self") is None:
            return region.call(torch.nonzero, named["condition"], as_tuple=True)
        return choose(region, named["condition"], named["self"], named["other"])

    return where


def lost_number(region: Region, func: Func, values: Iterable[Tensor], undecided: Callable[[], bool]) -> None:
    """``int(torch.round(x))``: a float becomes a number of Python. It is told if that is a decision, one whole number
    of `values` or another.
    """
    if all(bool((x.detach() == x.detach().round()).all()) for x in values):
        region.lose(op_name(func), [], REMEDIES[op_name(func)], undecided=undecided)


def between_bools(region: Region, x: Tensor, n: int = 1, dim: int = -1, **ends: Tensor | None) -> Tensor:
    """``diff(x)`` of bools: whether neighbours differ."""
    parts = [end for end in (ends.get("prepend"), x, ends.get("append")) if end is not None]
    x = region.call(torch.cat, parts, dim) if len(parts) > 1 else x
    for _ in range(n):
        last, first = (region.call(torch.narrow, x, dim, start, x.shape[dim] - 1) for start in (1, 0))
        x = region.call(torch.logical_xor, last, first)
    return x


_AROUND: dict[str, Callable[[Rule], Rule]] = {
    **dict.fromkeys(ASKED, asked),
    "Tensor.__getitem__": rows.reading,
    "Tensor.__setitem__": rows.assigning,
    **dict.fromkeys(names_of("stacked_moves"), _each),
}
"""What sees a call before and after the rule of a function, by its name."""


@dataclass
class Rules:
    writes: Writes
    of: dict[Any, Rule] = field(default_factory=dict)
    """Torch function -> its rule."""
    always: set[Any] = field(default_factory=set)
    """Functions whose rule is asked whatever their operands are; others only if an operand carries something."""

    plain: dict[Any, Rule] = field(default_factory=dict)
    """Rules of what is not in place."""

    def put(self, func: Any, rule: Rule, always: bool = False) -> None:
        """`rule` as it is, for one function."""
        self.of[func] = rule
        if always:
            self.always.add(func)

    def register(
        self, rule: Rule, functions: list[Any], name: str = "", *, in_place: bool = False, source: bool, marks: bool
    ) -> list[Any]:
        """`rule` for the functions called `name`, and what follows from it for the in-place forms. Returns them all."""
        forms = in_place_forms(name) if in_place and functions and name else []
        handler = self.writes.spelled_out(rule, source)
        for func in functions:
            self.put(func, handler, source or marks)
            self.plain[func] = rule
        twin = getattr(Tensor, name, functions[0]) if forms else None
        for func in forms:
            self.put(func, self.writes.in_place(twin, source), source)  # type: ignore[arg-type]
        return [*functions, *forms]

    def add(self, rule: Rule, functions: Iterable[Any]) -> None:
        """`rule` for a source that the table does not have: functions, or names of functions of torch."""
        for name in functions:
            known = isinstance(name, str)
            found, called = (spellings(name), name) if known else ([name], "")
            self.register(rule, found, called, in_place=known, source=True, marks=False)

    def fill(self, rule_of: Mapping[str, Rule]) -> list[Any]:
        """Register all functions of the table that have a rule. Returns those that decide."""
        owner: dict[Any, Row] = {}
        deciding: list[Any] = []
        for row in ROWS:
            marks = "marks" in row.facts.split()
            for name in row.names.split():
                functions = spellings(name)
                for func in functions:
                    assert owner.setdefault(func, row) is row, f"{op_name(func)} is in two rows"
                    if row.family == "in_place_moves":
                        self.put(func, self.writes.reshaping(getattr(Tensor, name[:-1])))
                rule = rule_of.get(name) or rule_of.get(row.family) or rule_of.get(row.op)
                if rule is None:
                    continue
                rule = _AROUND[name](rule) if name in _AROUND else rule
                if row.family == "reflected":
                    for func in functions:
                        self.put(func, self._reflected(rule, getattr(torch, row.op)), True)
                    continue
                found = self.register(
                    rule, functions, name, in_place=row.in_place, source=decides(row), marks=marks or name in ASKED
                )
                deciding += found if decides(row) else []
        return deciding

    def _reflected(self, rule: Rule, straight: Func) -> Rule:
        """The rule of ``b.__rop__(a)``, where `straight` is ``op(a, b)``."""

        def swapped(region: Region, func: Func, args: tuple[Any, ...], kwargs: dict[str, Any]) -> Any:
            if not self.writes.concerns(args, kwargs, True):
                return func(*args, **kwargs)
            return rule(region, straight, args[::-1], kwargs)

        return swapped
