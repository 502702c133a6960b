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
from ..._ops.openness import MADE, MOVES, made_from, of_a_region, open_elements
from ..._ops.surrogates import alias, follow, simple
from ..._rules.index import op_name
from ..interface import Func, Region
from .shadow import Shadow, carry, shadow

_LONGEST = 8
_COPIES = {"LazyCloneBackward0", "CloneBackward0", "ToCopyBackward0"}
_SHIFTS = {"AddBackward0", "SubBackward0", "RsubBackward1"}
_SUMS = {"SumBackward0", "SumBackward1", "NansumBackward0", "CumsumBackward0", "MeanBackward0", "MeanBackward1"}
_UNKNOWN = "what a decision changes of this float is not known. Compare the bools or integers that it was made of."


class Step(NamedTuple):
    """How far one decision moves a float, if that is known. `counts`: it is a count, not one of two numbers. `shifted`:
    0 may be no end of these. `by_ones`: those of which it is a sum change by one.
    """

    size: float | None
    counts: bool = True
    shifted: bool = False
    by_ones: bool = False


def as_number(x: Tensor, own: Shadow, value: Tensor) -> Tensor:
    """`value`, which is `x` as a float: of a mask and a count its graph says so."""
    mask = x.dtype == torch.bool
    return made_from(None if mask else True, value) if mask or own.by_ones and not own.knows_other() else value


def step_of(x: Any, asked: bool = False) -> Step | None:
    """None if `x` is not made of decisions; where it is not `asked`, if no step is known."""
    node = x.grad_fn if isinstance(x, Tensor) else None
    try:
        return _step(node, asked, _LONGEST) if node is not None and x.is_floating_point() and simple(x) else None
    except RuntimeError:  # its backward has run
        return None


def _step(node: Any, asked: bool, most: int) -> Step | None:
    name = type(node).__name__
    if MADE in node.metadata:
        own = node.metadata[MADE]
        if own is None or own is True:
            return Step(1.0, own is True)
        counts = own.by_ones and not own.knows_other()
        return Step(1.0 if counts else None, counts, by_ones=own.by_ones)
    parents = [parent for parent, _ in node.next_functions if parent is not None]
    if not most or not parents or len(parents) > 1 + asked:
        return None
    if of_a_region(node):
        return Step(None) if asked else None
    if name not in MAKES_STEPS:
        return None
    first, *rest = [_step(parent, asked, most - 1) for parent in parents]
    if first is None or None in rest:
        return None
    if rest:
        return Step(first.size if name in _SHIFTS and first.size == rest[0].size else None, shifted=True)  # type: ignore
    size, counts, shifted, by_ones = first
    if name in _SUMS and not counts:  # (integers may be below 0)
        size, counts, shifted = (1.0 if by_ones else size), True, shifted or by_ones
    if name in _SCALES and size is not None:
        by = _SCALES[name](node)
        size = size * by if by else None
    return Step(size, counts, shifted or name in _SHIFTS, by_ones and name in MOVES)


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

MAKES_STEPS = _SUMS | _SHIFTS | MOVES | _SCALES.keys()


def _as_integers(region: Region, x: Any) -> Any:
    """`x`, or the integers that it was a moment ago."""
    node: Any = x.grad_fn if isinstance(x, Tensor) and simple(x) else None
    while type(node).__name__ in _COPIES and MADE not in node.metadata:
        node = node.next_functions[0][0]
    own = None if node is None else node.metadata.get(MADE)
    known = isinstance(own, Shadow) and torch.equal(x, x.round())
    return carry(region, x.detach().long(), own) if known else x


def _slope(func: Func, x: Tensor, args: tuple[Any, ...], i: int, step: Step) -> Tensor | None:
    """Of what `func` makes of operands, by the one at `i`, which is `x`; None if a call has written another number
    there than the graph says.
    """
    size: Any = step.size
    slope: Tensor
    y = args[1 - i] if len(args) == 2 and func.__name__ not in ("to", "type", "type_as") else 0

    def at(z: Tensor) -> Tensor:
        z = torch.where((z - y).abs() < abs(size) / 8, y, z)  # (steps add up to what is nearly that)
        return func(*args[:i], z.to(x.dtype), *args[i + 1 :]).to(x.dtype)  # type: ignore[no-any-return]

    n = x / size
    if not (step.shifted or ((n - n.round()).abs() < 1 / 8 if step.counts else (n == 0) | (n == 1)).all()):
        return None
    if not step.counts:
        slope = (at(size - x) - at(x)) / (size - 2 * x)
    else:
        slope = (at(x + size) - at(x - size if step.shifted else torch.where(n == 0, x, x - size))) / size
    return slope


def _open(x: Tensor) -> bool:
    return open_elements(x) > 0


def _parts(region: Region, func: Func, args: tuple[Any, ...], asks: bool) -> list[tuple[int, float, Tensor]]:
    """Of each operand that is made of decisions its place, its step, and what has its gradient for the answer."""
    found = []
    for i, x in enumerate(args):
        if (step := step_of(x, asks)) is None:
            continue
        if (n := _as_integers(region, x)) is not x:
            fixed = [y.detach() if isinstance(y, Tensor) else y for y in args]
            own = shadow(region.call(func, *fixed[:i], n, *fixed[i + 1 :]))
            found += [] if own is None else [(i, 1.0, own.value())]
        elif step.size and (step.counts or not step.shifted):
            with torch.no_grad():
                slope = _slope(func, x.detach(), args, i, step)
            found += [] if slope is None else [(i, abs(step.size), x * slope)]
        elif asks:
            region.lose(op_name(func), [], _UNKNOWN, undecided=functools.partial(_open, x))
    return found


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
