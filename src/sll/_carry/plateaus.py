"""``relu(x) != 0``: whether a float lies where its function is flat is a decision about what that was given.

The node of its graph says which function it was and, of all but `relu`, what that was given.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor

from .._ops.openness import of_a_region
from .._ops.surrogates import simple
from .._rules.index import op_name
from .interface import Func, Region, Rule, tensors

_CASTS = {"to", "type"}
_EQUAL = {"eq", "__eq__"}
ASKED = _CASTS | _EQUAL | {"ne", "__ne__", "not_equal", "bool", "logical_not", "count_nonzero", "nonzero", "argwhere"}
"""Functions that tell a number from all others."""
_Flat = Callable[[Region, Any, Tensor, float], Any]
"""Whether a float, or what it was made of, is where the function has that value; None if it has it nowhere for long."""


def _clamped(low: str | None, high: str | None) -> _Flat:
    def flat(region: Region, node: Any, q: Tensor, value: float) -> Any:
        for name, side in ((low, torch.le), (high, torch.ge)):
            if name is not None and getattr(node, name) == value:
                return region.call(side, node._saved_self, value)
        return None

    return flat


def _shrunk(region: Region, node: Any, q: Tensor, value: float) -> Any:
    return region.call(torch.le, region.call(torch.abs, node._saved_self), node._saved_lambd) if not value else None


_FLAT: dict[str, _Flat] = {
    "Relu": lambda region, node, q, value: None if value else region.call(torch.le, q, 0),
    "Clamp": _clamped("_saved_min", "_saved_max"),
    "ClampMin": _clamped("_saved_min", None),
    "ClampMax": _clamped(None, "_saved_max"),
    "Hardtanh": _clamped("_saved_min_val", "_saved_max_val"),
    "Softshrink": _shrunk,
    "Hardshrink": _shrunk,
    "Threshold": lambda region, node, q, value: region.call(torch.le, node._saved_self, node._saved_threshold),
}


def asked(rule: Rule) -> Rule:
    """`rule`, of a function that asks whether a float is a number."""

    def ask(region: Region, func: Func, args: tuple[Any, ...], kwargs: dict[str, Any]) -> Any:
        if any(getattr(x, "_sll", None) is not None for x in tensors(args, kwargs)):
            return rule(region, func, args, kwargs)
        name = op_name(func)
        flat = None if kwargs.get("out") is not None else _flat(region, name, args)
        if flat is None:
            return rule(region, func, args, kwargs)
        if name in _EQUAL or name == "logical_not":
            return flat
        other = region.call(torch.logical_not, flat)
        return region.call(func, other, *args[1:], **kwargs) if name in _COUNTS else other

    return ask


_COUNTS = {"count_nonzero", "nonzero", "argwhere"}


def _flat(region: Region, name: str, args: tuple[Any, ...]) -> Tensor | None:
    """Where the first operand has the number that is asked for, as a decision. None if that is none."""
    q, value = args[0] if args else None, args[1] if len(args) > 1 else 0
    if not isinstance(q, Tensor) or q.grad_fn is None or not simple(q):
        return None
    if name in _CASTS:
        if value is not torch.bool:
            return None
        value = 0
    elif name in _COUNTS:
        value = 0
    node = _under_a_ramp(q.grad_fn)
    make = _FLAT.get(_kind(node)) if type(value) in (int, float) else None
    if make is None:
        return None
    try:
        found = make(region, node, q, value)
    except RuntimeError:  # its backward has run, or an operand was written to
        return None
    return found if found is not None and torch.equal(found, q == value) else None


def _under_a_ramp(node: Any) -> Any:
    """The node of a function with a slope of its own that jumps: its ramp comes on top."""
    top = node.next_functions[-1][0] if of_a_region(node) else node
    if _kind(top) != "Add":
        return node
    (ramp, _), (made, _) = top.next_functions
    for _ in range(3):
        if ramp is None or of_a_region(ramp):
            return node if ramp is None else made
        ramp = ramp.next_functions[0][0] if ramp.next_functions else None
    return node


def _kind(node: Any) -> str:
    return type(node).__name__.split("Backward")[0]
