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
from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor

from ..._ops.band import hard_forward
from ..._ops.env import tracked
from ..._ops.surrogates import eager
from ..interface import Func, Region, Rule, tensors

__all__ = ["carries", "defined", "rules"]

Definition = Callable[..., Any]

_DEFINITIONS: dict[str, Definition] = {}
"""By name in the table."""


def defined(*names: str) -> Callable[[Definition], Definition]:
    """What these functions are."""

    def put(definition: Definition) -> Definition:
        _DEFINITIONS.update(dict.fromkeys(names, definition))
        return definition

    return put


def rules(others: Rule) -> dict[str, Rule]:
    """The rules of an engine that calls `others` where there is none."""
    return {name: _rule(definition, others) for name, definition in _DEFINITIONS.items()}


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
