"""What a definition is, and the rule that it makes.

A *definition* says what a function of torch is in terms of others, as plain torch code::

    @defined("celu_of_round")
    def celu_of_round(original, input, alpha=1.0):
        return F.celu(torch.round(input), alpha)

It runs in the region, so its decisions are those of the program's line, in every forward mode. `original` calls the
function itself, once; a definition that asks for it gets values with torch's own gradient. What it returns is like what
the function returns, None where that is right as it is, and `NotImplemented` where the arguments decide nothing.
"""

from __future__ import annotations

import functools
from collections.abc import Callable, Mapping
from types import MappingProxyType
from typing import Any, NamedTuple

import torch
from torch import Tensor

from ..._ops.band import hard_forward
from ..._ops.env import tracked
from ..._ops.surrogates import eager
from ..._rules.index import op_name
from ..interface import Func, Region, Rule, tensors

__all__ = ["Original", "Shaped", "carries", "defined", "rules", "written_down"]

Definition = Callable[..., Any]
Original = Callable[[], Any]
"""Calls the function itself."""

_DEFINITIONS: dict[str, Definition] = {}
"""By name in the table."""
_PASSES: set[str] = set()
"""Those that decide nothing themselves."""


def defined(*names: str, passes: bool = False) -> Callable[[Definition], Definition]:
    """What these functions are. `passes`: they decide nothing, and pass on what a mask or an index decided."""

    def put(definition: Definition) -> Definition:
        _DEFINITIONS.update(dict.fromkeys(names, definition))
        _PASSES.update(names if passes else ())
        return definition

    return put


def rules(others: Rule, known: Mapping[str, Rule] = MappingProxyType({}), *, passing: bool = True) -> dict[str, Rule]:
    """The rules of an engine, which calls `others`, or a rule that is `known`, where a definition is not for the
    arguments. Without `passing` it needs only those of functions that decide.
    """
    names = [name for name in _DEFINITIONS if passing or name not in _PASSES]
    return {name: _rule(_DEFINITIONS[name], known.get(name, others)) for name in names}


class Shaped(NamedTuple):
    """A result that has this shape only where the program takes its own way in `of`."""

    parts: Any
    of: Tensor


_SHAPE = "how many numbers it returns depends on the decision. Count with one_hot(x, n).sum(0), which has all of them."


def written_down() -> dict[str, Definition]:
    """All definitions, by name in the table."""
    return dict(_DEFINITIONS)


def carries(x: Any) -> bool:
    """Whether `x` is a bool or an integer that carries a decision, or a float that autograd follows or that does."""
    return isinstance(x, Tensor) and (getattr(x, "_sll", None) is not None or tracked(x))


def _rule(definition: Definition, others: Rule) -> Rule:
    def rule(region: Region, func: Func, args: tuple[Any, ...], kwargs: dict[str, Any]) -> Any:
        if not any(map(carries, tensors(args, kwargs))):
            return func(*args, **kwargs)

        @functools.cache
        def original() -> Any:
            with torch._C.DisableTorchFunction():
                return func(*args, **kwargs)

        found = region.within(definition, original, *args, **kwargs)
        if found is NotImplemented:
            return others(region, func, args, kwargs)
        if isinstance(found, Shaped):
            region.lose(op_name(func), [found.of], _SHAPE)
            found = found.parts
        with torch.no_grad():
            out = original()
        if isinstance(out, Tensor):
            return _shown(region, out, found)
        return type(out)(_shown(region, *pair) for pair in zip(out, found))

    return rule


def _shown(region: Region, out: Any, found: Any) -> Any:
    """`found`, with the values of `out` unless the region shows those of the ramp."""
    if found is None or not isinstance(out, Tensor):
        return out
    if region.linear or not found.is_floating_point():
        return found
    if not eager():
        return hard_forward(out, found)
    found.data = out.detach()
    return found
