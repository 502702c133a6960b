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
from typing import Any, NamedTuple, TypeVar

import torch
from torch import Tensor

from ..._ops.band import hard_forward
from ..._ops.env import eager, tracked
from ..._rules.index import ASKS, op_name, spellings
from ..interface import Func, Mark, Region, Rule, tensors

D = TypeVar("D", bound=Callable[..., Any])
Original = Callable[[], Any]
"""Calls the function itself."""


class Definition(NamedTuple):
    """What a function is."""

    run: Callable[..., Any]
    passes: bool
    """It decides nothing, and passes on what a mask or an index decided."""
    whole: bool
    """It has the values of the function itself, which is not asked for them."""


_DEFINITIONS: dict[str, Definition] = {}
"""By name in the table."""


def defined(*names: str, passes: bool = False, whole: bool = False) -> Callable[[D], D]:
    """What these functions are: see `Definition`."""

    def put(run: D) -> D:
        _DEFINITIONS.update(dict.fromkeys(names, Definition(run, passes, whole)))
        return run

    return put


def rules(
    others: Rule, known: Mapping[str, Rule] = MappingProxyType({}), *, again: Callable[[Rule], Rule] | None = None
) -> dict[str, Rule]:
    """The rules of an engine, which calls `others`, or a rule that is `known`, where a definition is not for the
    arguments. `again`: of an engine in which any function can run once more, what becomes of those that decide.
    """
    found = {}
    for name, definition in _DEFINITIONS.items():
        rule = _rule(definition, known.get(name, others))
        if again is None or definition.whole:
            found[name] = rule
        elif not definition.passes:
            found[name] = again(rule)
    return found


class Shaped(NamedTuple):
    """A result that has this shape only where the program takes its own way in `of`."""

    parts: Any
    of: Tensor


class Stored(NamedTuple):
    """A result that is stored in another way: it carries an ordinary tensor, which shows `hard`."""

    out: Tensor
    hard: Tensor
    numbers: Tensor


class _Twin(Mark):
    def __init__(self, numbers: Tensor) -> None:
        self.numbers = numbers

    def met(self, region: Any, func: Func, x: Tensor, out: Any) -> None:
        """In another function what it carries ends."""
        if func not in _FOLLOWED and func not in ASKS:
            way = "to_dense()" if x.layout != torch.strided else "dequantize() or int_repr()"
            region.lose(op_name(func), [], _OTHER.format(way), undecided=lambda: True)


_FOLLOWED = {func for name in ("int_repr", "dequantize", "to_dense") for func in spellings(name)}
_OTHER = "of tensors that are stored in another way, only {} is followed. Make an ordinary tensor first."


def stored(x: Any) -> Tensor | None:
    """The numbers in such a tensor, if it carries them."""
    pair = getattr(x, "_sll", None)
    return pair[0].numbers if pair is not None and isinstance(pair[0], _Twin) else None


_SHAPE = "how many numbers it returns depends on the decision. Count with one_hot(x, n).sum(0), which has all of them."


def written_down() -> dict[str, Callable[..., Any]]:
    """All definitions, by name in the table."""
    return {name: definition.run for name, definition in _DEFINITIONS.items()}


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

        found = region.within(definition.run, original, *args, **kwargs)
        if found is NotImplemented:
            return others(region, func, args, kwargs)
        if isinstance(found, Stored):
            return _carrying(region, *found)
        if definition.whole:
            return found
        if isinstance(found, Shaped):
            region.lose(op_name(func), [found.of], _SHAPE)
            found = found.parts
        with torch.no_grad():
            out = original()
        if isinstance(out, Tensor):
            return _shown(region, out, found)
        return type(out)(_shown(region, *pair) for pair in zip(out, found))

    return rule


def _carrying(region: Region, out: Tensor, hard: Tensor, numbers: Tensor) -> Tensor:
    region.mark(out, _Twin(_shown(region, hard.to(numbers.dtype), numbers)))
    return out


def _shown(region: Region, out: Any, found: Any) -> Any:
    """`found`, with the values of `out` unless the region shows those of the ramp."""
    if found is None or not isinstance(out, Tensor):
        return out
    if region.linear or not found.is_floating_point():
        return found
    if not eager():
        return hard_forward(out, found)
    found.data = out.detach()
    pair = getattr(found, "_sll", None)
    if pair is not None and getattr(pair[0], "plain", None) is not None:  # (functions of it see that)
        pair[0].plain.data = out.detach()
    return found
