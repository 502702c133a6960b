"""Floats made of counts, ``mask.float().mean() == 0.5``: one decision moves them by a step. A question about them has
the difference that this makes. A comparison is one of ordinary floats, but of what was an integer a moment ago.

They are ordinary tensors. Their graph says what they were made of.
"""

from __future__ import annotations

import functools
import math
import operator
from collections.abc import Callable
from typing import Any, NamedTuple

import torch
from torch import Tensor

from ..._ops.env import tracked
from ..._ops.openness import MADE, MOVES, of_a_region, open_elements
from ..._ops.surrogates import alias, follow, simple
from ..._rules.index import op_name
from ..interface import Func, Region
from .differences import quotient
from .shadow import Either, Shadow, Whole, carried, carry, shadow

_LONGEST = 8
_COPIES = {"LazyCloneBackward0", "CloneBackward0", "ToCopyBackward0"}
_SHIFTS = {"AddBackward0", "SubBackward0", "RsubBackward1"}
_SUMS = {"SumBackward0", "SumBackward1", "NansumBackward0", "CumsumBackward0", "MeanBackward0", "MeanBackward1"}
_MAKES_STEPS = MOVES | _SHIFTS | _SUMS | {"NegBackward0", "MulBackward0", "DivBackward0"}
_MAKES_STEPS |= {
    f"{name}Backward0" for name in "Slice Select Index IndexSelect Gather Unbind Split Flip Cat Stack".split()
}
_UNKNOWN = "what a decision changes of this float is not known. Compare the bools or integers that it was made of."


class Step(NamedTuple):
    """How far one decision moves a float, if that is known. `kind`: it is 0 or that ("flag"), a "count" of such steps,
    or one number of others ("one"). Of sums ("several") it is so far at most. `shifted`: 0 may be no end of these.
    """

    size: float | None
    kind: str
    shifted: bool = False

    @property
    def known(self) -> bool:
        return bool(self.size) and (self.kind == "count" or self.kind == "flag" and not self.shifted)


def _made(own: Any) -> Step:
    """What stands for the number that a mask or an integer became (see `made_from`), or that was rounded."""
    if not isinstance(own, Shadow):
        return Step(1.0, "flag") if own is None else Step(1.0, "count") if own is True else Step(own, "one", True)
    return Step(1.0 if own.by_ones else None, "one" if own.knows_other() or not own.by_ones else "count")


def step_of(x: Any) -> Step | None:
    """None if `x` is not made of decisions."""
    node = x.grad_fn if isinstance(x, Tensor) and x.is_floating_point() and simple(x) else None
    try:
        return None if node is None else _step(node, _LONGEST)
    except RuntimeError:  # its backward has run
        return None


def _step(node: Any, most: int) -> Step | None:
    name = type(node).__name__
    if MADE in node.metadata:
        return _made(node.metadata[MADE])
    if name not in _MAKES_STEPS or not most:
        return Step(None, "one") if of_a_region(node) else None
    inner: Step | None = None
    for parent, _ in node.next_functions:
        if parent is None:
            continue
        if (found := _step(parent, most - 1)) is None:
            return None
        several = inner is not None and (inner != found or name in _SHIFTS)
        inner = _either_of(inner, found) if several else found
    assert inner is not None
    size, kind, shifted = inner
    if name in _SUMS and kind != "several":
        kind, shifted = "count", shifted or kind == "one"
    return Step(size and size * _factor(name, node), kind, shifted or name in _SHIFTS)


def _either_of(a: Any, b: Step) -> Step:
    return Step(None if a.size is None or b.size is None else max(abs(a.size), abs(b.size)), "several", True)


def _factor(name: str, node: Any) -> float:
    """By how much a number is multiplied; 0 if that is not known."""
    by = 1.0
    if name.startswith("Mean"):
        sizes = node._saved_self_sym_sizes
        dims = (getattr(node, "_saved_dim", ()) or range(len(sizes))) if sizes else ()
        by = math.prod(sizes[d if d < 2**63 else d - 2**64] for d in dims)
    elif name in ("MulBackward0", "DivBackward0"):
        a, b = (parent for parent, _ in node.next_functions)
        fixed = node._saved_other if b is None else node._saved_self if a is None else None
        by = fixed.item() if fixed is not None and fixed.numel() == 1 else 0.0
        if name == "MulBackward0" or b is not None:
            return by if name == "MulBackward0" else 0.0
    return -1.0 if name == "NegBackward0" else 1 / by if by else 0.0


def was_integer(x: Any) -> Shadow | None:
    """What the integer carries that `x` was a moment ago."""
    node: Any = x.grad_fn if isinstance(x, Tensor) and simple(x) else None
    while type(node).__name__ in _COPIES and MADE not in node.metadata:
        node = node.next_functions[0][0]
    own = None if node is None else node.metadata.get(MADE)
    return own if isinstance(own, Shadow) and torch.equal(x, x.round()) else None


def _as_integers(
    region: Region, func: Func, args: tuple[Any, ...], kwargs: dict[str, Any], i: int, own: Shadow
) -> Tensor | None:
    """What the answer has of the integer that the operand at `i` was, which carried `own`; None without gradient."""
    n, fixed = carry(region, args[i].detach().long(), own), [x.detach() if isinstance(x, Tensor) else x for x in args]
    found = shadow(region.call(func, *fixed[:i], n, *fixed[i + 1 :], **kwargs))
    return None if found is None else found.value()


def _near(x: Tensor, y: Any, size: float | None) -> bool:
    """Whether one decision may make it `y`, or another number. (A step of unknown size counts as 1.)"""
    return bool(((x - y).abs() < abs(size or 1.0) * 9 / 8).any())


@torch.no_grad()
def _slope(at: Callable[[Tensor], Tensor], x: Tensor, y: Any, step: Step | None) -> Tensor | None:
    """The slope of ``at(x)``, which asks for `y`. None if that is not known, or if a call has written another number
    there than the graph says.
    """
    whole, x = carried(x), x.detach()
    if isinstance(whole, Whole):
        beyond = None if type(whole) is Either else whole.other(x)
        return None if beyond is None else quotient(at(beyond), at(x), beyond, x, x.dtype)
    if step is None or not step.known:
        return None
    size: Any = step.size
    n, count = x / size, step.kind == "count"
    if not (step.shifted or ((n - n.round()).abs() < 1 / 8 if count else (n == 0) | (n == 1)).all()):
        return None
    high = x + size if count else size - x
    low = x if not count else x - size if step.shifted else torch.where(n == 0, x, x - size)
    high, low = (torch.where((z - y).abs() < abs(size) / 8, y, z).to(x.dtype) for z in (high, low))
    return (at(high).to(x.dtype) - at(low).to(x.dtype)) / (size if count else high - x)


def asked(region: Region, func: Func, args: tuple[Any, ...], kwargs: dict[str, Any], out: Tensor) -> Tensor:
    """`out` is what `func` says of floats where they have no boundary."""
    parts: list[Tensor] = []
    fixed = [x.detach() if isinstance(x, Tensor) else x for x in args]
    compared = len(args) == 2 and func.__name__ not in ("to", "type", "type_as")
    if compared and not all(isinstance(x, (Tensor, int, float)) for x in fixed):
        return out
    if compared:
        fixed = [x.byte() if isinstance(x, Tensor) and x.dtype == torch.bool else x for x in fixed]
    for i, x in enumerate(args):
        step, y = step_of(x) if tracked(x) else None, fixed[1 - i] if compared else 0
        if step is None and not (tracked(x) and isinstance(carried(x), Whole)):
            continue
        own = was_integer(x)
        if own is not None and (part := _as_integers(region, func, args, kwargs, i, own)) is not None:
            parts.append(part)
            continue
        at: Callable[[Tensor], Tensor] = lambda z, i=i: func(*fixed[:i], z, *fixed[i + 1 :], **kwargs)  # type: ignore[misc]
        if (slope := _slope(at, x, y, step)) is not None:
            parts.append(x * slope)
        elif (
            step is not None and not step.known and not isinstance(carried(x), Whole) and _near(fixed[i], y, step.size)
        ):
            region.lose(op_name(func), [], _UNKNOWN, undecided=lambda x=x: open_elements(x) > 0)  # type: ignore[misc]
    if not parts:
        return out
    soft, flags = functools.reduce(operator.add, parts), alias(out)
    return carry(region, out, Shadow(follow(soft, lambda: flags.to(soft.dtype))))


def narrow(region: Region, func: Func, args: tuple[Any, ...], half: float | Tensor, soft: Tensor) -> Tensor:
    """What a comparison has the gradient of: `soft`, or of what was an integer a moment ago, and of a band that is
    narrower than 1, what it has of that.
    """
    for i, x in enumerate(args):
        own = was_integer(x)
        if own is not None and not any(tracked(y) for y in args if y is not x):
            part = _as_integers(region, func, args, {}, i, own)
            part = torch.zeros_like(soft) if part is None else part.to(soft.dtype)
            soft = torch.where(torch.as_tensor(half > 1, device=soft.device), soft, part)
    return soft
