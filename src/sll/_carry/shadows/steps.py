"""Floats made of counts, ``mask.float().mean() == 0.5``: one decision moves them by a step. A question about them has
the difference that this makes, and so has a comparison whose band is narrower.

They are ordinary tensors and carry nothing. Their graph says what they were made of.
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
_JOINS = {"CatBackward0", "StackBackward0"}
_MOVES = MOVES | {
    f"{name}Backward0" for name in "Slice Select Index IndexSelect Gather Unbind Split Narrow Flip".split()
}
_SHIFTS = {"AddBackward0", "SubBackward0", "RsubBackward1"}
_SUMS = {"SumBackward0", "SumBackward1", "NansumBackward0", "CumsumBackward0", "MeanBackward0", "MeanBackward1"}
_UNKNOWN = "what a decision changes of this float is not known. Compare the bools or integers that it was made of."


class Step(NamedTuple):
    """How far one decision moves a float, if that is known. `kind`: it is 0 or that ("flag"), a "count" of such steps,
    or one number of several ("one"). `shifted`: 0 may be no end of these.
    """

    size: float | None
    kind: str
    shifted: bool = False

    @property
    def known(self) -> bool:
        return bool(self.size) and (self.kind == "count" or self.kind == "flag" and not self.shifted)


def step_of(x: Any, asked: bool = False) -> Step | None:
    """None if `x` is not made of decisions; where it is not `asked`, if no step is known."""
    node = x.grad_fn if isinstance(x, Tensor) else None
    try:
        found = None if node is None else _step(node, asked, _LONGEST)
        return found if found is not None and x.is_floating_point() and simple(x) else None
    except RuntimeError:  # its backward has run
        return None


def _made(own: Any) -> Step:
    """What stands for the number that a mask or an integer became (see `made_from`), or that was rounded."""
    if not isinstance(own, Shadow):
        return Step(1.0, "flag") if own is None else Step(1.0, "count") if own is True else Step(own, "one", True)
    return Step(1.0 if own.by_ones else None, "one" if own.knows_other() or not own.by_ones else "count", own.shifted)


def _step(node: Any, asked: bool, most: int) -> Step | None:
    name = type(node).__name__
    if MADE in node.metadata:
        return _made(node.metadata[MADE])
    if name not in MAKES_STEPS or not most:
        return Step(None, "one") if asked and of_a_region(node) else None
    found: list[Any] = []
    for parent, _ in node.next_functions:
        if parent is None:
            continue
        if not asked and (found or type(parent).__name__ not in MAKES_STEPS and MADE not in parent.metadata):
            return None
        found.append(_step(parent, asked, most - 1))
        if found[-1] is None:
            return None
    first, *rest = found
    size, kind, shifted = first
    if rest and (name not in _JOINS or any(each != first for each in found)):
        same = name in _SHIFTS and all(each.known and each.size == size for each in found)
        return Step(size if same else None, "count", True)
    if name in _SCALES and size is not None:
        by = _SCALES[name](node)
        size = size * by if by else None
    if name in _SUMS:
        kind, shifted = "count", shifted or kind == "one"
    return Step(size, kind, shifted or name in _SHIFTS)


def _factor(node: Any) -> float | None:
    fixed = node._saved_other if node.next_functions[1][0] is None else node._saved_self
    return fixed.item() if fixed is not None and fixed.numel() == 1 else None


def _divisor(node: Any) -> float | None:
    by = _factor(node) if node.next_functions[1][0] is None else None
    return 1 / by if by else None


def _mean(node: Any) -> float | None:
    sizes = node._saved_self_sym_sizes
    dims = (getattr(node, "_saved_dim", ()) or range(len(sizes))) if sizes else ()
    many = math.prod(sizes[d if d < 2**63 else d - 2**64] for d in dims)
    return 1 / many if many else None


_SCALES: dict[str, Callable[[Any], float | None]] = {
    "NegBackward0": lambda node: -1.0,
    "MulBackward0": _factor,
    "DivBackward0": _divisor,
    "MeanBackward0": _mean,
    "MeanBackward1": _mean,
}

MAKES_STEPS = _SUMS | _SHIFTS | _MOVES | _JOINS | _SCALES.keys()


def _as_integers(region: Region, x: Any) -> Any:
    """`x`, or the integers that it was a moment ago."""
    node: Any = x.grad_fn if isinstance(x, Tensor) and simple(x) else None
    while type(node).__name__ in _COPIES and MADE not in node.metadata:
        node = node.next_functions[0][0]
    own = None if node is None else node.metadata.get(MADE)
    known = isinstance(own, Shadow) and torch.equal(x, x.round())
    return carry(region, x.detach().long(), own) if known else x


def _slope(func: Func, x: Tensor, args: tuple[Any, ...], i: int, step: Step | None) -> tuple[Any, Tensor] | None:
    """How wide a band is that sees more than the next number, and the slope of what `func` makes of operands, by the one
    at `i`, which is `x`. None if that is not known, or if a call has written another number than the graph says.
    """
    y = args[1 - i] if len(args) == 2 and func.__name__ not in ("to", "type", "type_as") else 0
    whole, x = carried(x), x.detach()

    def at(z: Tensor, near: Any = 0) -> Tensor:
        z = torch.where((z - y).abs() < near, y, z) if near else z  # (steps add up to what is nearly that)
        return func(*args[:i], z.to(x.dtype), *args[i + 1 :])  # type: ignore[no-any-return]

    if isinstance(whole, Whole) and type(whole) is not Either:
        beyond = whole.other(x)
        if beyond is None:
            return None
        return torch.minimum((x - y).abs(), (beyond - y).abs()), quotient(at(beyond), at(x), beyond, x, x.dtype)
    if step is None or not step.known:
        return None
    size: Any = step.size
    n, near, count = x / size, abs(size) / 8, step.kind == "count"
    if not (step.shifted or ((n - n.round()).abs() < 1 / 8 if count else (n == 0) | (n == 1)).all()):
        return None
    high = x + size if count else size - x
    low = x if not count else x - size if step.shifted else torch.where(n == 0, x, x - size)
    step_by = size if count else high - x
    return abs(size), (at(high, near).to(x.dtype) - at(low, near).to(x.dtype)) / step_by


def _open(x: Tensor) -> bool:
    return open_elements(x) > 0


def _parts(region: Region, func: Func, args: tuple[Any, ...], asks: bool) -> list[tuple[int, Any, Tensor]]:
    """Of each operand that is made of decisions its place, its step, and what has its gradient for the answer."""
    found = []
    for i, x in enumerate(args):
        step = step_of(x, asks)
        if not tracked(x) or step is None and not isinstance(carried(x), Whole):
            continue
        if (n := _as_integers(region, x)) is not x:
            fixed = [y.detach() if isinstance(y, Tensor) else y for y in args]
            own = shadow(region.call(func, *fixed[:i], n, *fixed[i + 1 :]))
            found += [] if own is None else [(i, 1.0, own.value())]
            continue
        with torch.no_grad():
            slope = _slope(func, x, args, i, step)
        if slope is not None:
            found.append((i, slope[0], x * slope[1]))
        elif asks and step is not None and not step.known:
            region.lose(op_name(func), [], _UNKNOWN, undecided=functools.partial(_open, x))
    return found


def in_steps(x: Any) -> bool:
    return step_of(x) is not None or isinstance(x, Tensor) and isinstance(carried(x), Whole)


def asked(region: Region, func: Func, args: tuple[Any, ...], out: Tensor) -> Tensor:
    """`out` is what `func` says of floats where they have no boundary."""
    parts = [part for _, _, part in _parts(region, func, args, True)]
    if not parts:
        return out
    soft, flags = functools.reduce(operator.add, parts), alias(out)
    return carry(region, out, Shadow(follow(soft, lambda: flags.to(soft.dtype))))


def narrow(
    region: Region, func: Func, args: tuple[Any, ...], half: float | Tensor, ramp: Callable[[Any, Any], Tensor]
) -> Tensor:
    """What a comparison has the gradient of: ``ramp(*args)``, or the difference between numbers that are further apart
    than its band is wide.
    """
    soft = ramp(*args)
    for i, size, part in _parts(region, func, args, False):
        rest = [y.detach() if j == i else y for j, y in enumerate(args)]
        part = part + ramp(*rest) if any(map(tracked, rest)) else part
        soft = torch.where(torch.as_tensor(size < half, device=soft.device), soft, part.to(soft.dtype))
    return soft
