"""The registry: torch function -> rule.

A rule is called as ``rule(region, func, args, kwargs)`` for every call of the functions it is registered for, and
returns what the program sees. `RULE_OF` in `engine.py` says which rows of the table have which rule; `fill` registers
them in all spellings. The in-place forms (``round_``, ``__iadd__``) and ``out=`` come for free.

To add a discrete function, give it a row in `_rules/table.py`, and write in `sources.py`::

    @source("sign")
    def sign(eps, input):
        return Step(boundary_at(input, 0.0, eps), below=-1.0, above=1.0)

To let a linearization pass through another function, its row is enough, if its family has a rule.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from torch import Tensor

from ..._rules.index import op_name, spellings
from ..interface import Func, Region, Rule, attach
from ..rules import Rules
from ..writes import Writes
from .carriers import carrier
from .later import kept
from .shape import join_tensors


def _carry_same(region: Region, target: Tensor, result: Tensor) -> None:
    attach(region, target, carrier(result))


def _joined(region: Region, put: Func, old: Tensor, new: Tensor) -> Tensor:
    return join_tensors(region, put, ([old, new],), {})  # type: ignore[no-any-return]


WRITES = Writes(lambda x: carrier(x) is not None, lambda region, target: kept(target), _carry_same, _joined)
_ALL = Rules(WRITES)
RULES, ALWAYS = _ALL.of, _ALL.always
DISCRETE: set[Any] = set()
"""The functions that make decisions, in all their spellings."""
DECIDES_BY_NAME: set[str] = set()
"""Their names, as graphs have them."""


def fill(rule_of: Mapping[str, Rule]) -> None:
    """Register every function of the table that has a rule, by name, family or op of its row."""
    _decide(_ALL.fill(rule_of))


def _decide(functions: list[Any]) -> None:
    DISCRETE.update(functions)
    DECIDES_BY_NAME.update(func.__name__ for func in functions)


def unruled(*names: str | Func) -> list[tuple[str | Func, list[Any]]]:
    """Each name with its spellings. Raises ValueError for what has a rule already."""
    found = [(name, spellings(name) if isinstance(name, str) else [name]) for name in names]
    for name, functions in found:
        if not functions and len(names) == 1:  # (of several, some may be newer than this torch)
            raise ValueError(f"torch has no function {name!r}; for a function that is not torch's, pass the function")
        known = next((func for func in functions if func in RULES), None)
        if known is not None:
            raise ValueError(f"{op_name(known)} has a rule already; a function has one")
    return found


def register(rule: Rule, *names: str | Func, source: bool = False) -> None:
    """Register `rule` for all spellings of `names`, and its in-place form for ``name_`` and ``__iname__``; a function
    in the place of a name, such as ``torch.ops.mine.kernel.default``, stands for itself.

    `source`: it makes decisions. Any other rule is asked only if an operand carries something. Raises ValueError for
    what has a rule already.
    """
    for name, functions in unruled(*names):  # (all of them, before the first one is registered)
        known_as = name if isinstance(name, str) else ""
        found = _ALL.register(rule, functions, known_as, in_place=True, source=source, marks=False)
        if source:
            _decide(found)
