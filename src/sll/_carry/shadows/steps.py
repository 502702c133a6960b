"""Floats made of counts, ``mask.float().mean() == 0.5``: one decision moves them by a step. A question about them has
the difference that this makes, and so has a comparison whose band reaches none of the numbers.

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
MAKES_STEPS = MOVES | _SHIFTS | _SUMS | {"NegBackward0", "MulBackward0", "DivBackward0"}
MAKES_STEPS |= {
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


def _made(own: Any) -> Step:
    """What stands for the number that a mask or an integer became (see `made_from`), or that was rounded."""
    if not isinstance(own, Shadow):
        return Step(1.0, "flag") if own is None else Step(1.0, "count") if own is True else Step(own, "one", True)
    return Step(1.0 if own.by_ones else None, "one" if own.knows_other() or not own.by_ones else "count")


def step_of(x: Any, asked: bool = False) -> Step | None:
    """None if `x` is not made of decisions; where it is not `asked`, if no step is known."""
    node = x.grad_fn if isinstance(x, Tensor) else None
    try:
        found = None if node is None else _step(node, asked, _LONGEST)
        return found if found is not None and x.is_floating_point() and simple(x) else None
    except RuntimeError:  # its backward has run
        return None


def in_steps(x: Any) -> bool:
    return step_of(x) is not None or isinstance(carried(x), Whole)


def _step(node: Any, asked: bool, most: int) -> Step | None:
    name = type(node).__name__
    if MADE in node.metadata:
        return _made(node.metadata[MADE])
    if name not in MAKES_STEPS or not most:
        return Step(None, "one") if asked and of_a_region(node) else None
    inner: Step | None = None
    for parent, _ in node.next_functions:
        if parent is None:
            continue
        if not asked and (inner or type(parent).__name__ not in MAKES_STEPS and MADE not in parent.metadata):
            return None
        if (found := _step(parent, asked, most - 1)) is None:
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
        fixed = node._saved_other if node.next_functions[1][0] is None else node._saved_self
        by = fixed.item() if fixed is not None and fixed.numel() == 1 else 0.0
        if name == "MulBackward0" or node.next_functions[1][0] is not None:
            return by if name == "MulBackward0" else 0.0
    return -1.0 if name == "NegBackward0" else 1 / by if by else 0.0


def _as_integers(region: Region, x: Any) -> Any:
    """`x`, or the integers that it was a moment ago."""
    node: Any = x.grad_fn if simple(x) else None
    while type(node).__name__ in _COPIES and MADE not in node.metadata:
        node = node.next_functions[0][0]
    own = None if node is None else node.metadata.get(MADE)
    known = isinstance(own, Shadow) and torch.equal(x, x.round())
    return carry(region, x.detach().long(), own) if known else x


def _near(x: Tensor, y: Any, size: float | None) -> bool:
    """Whether one decision may make it `y`, or another number. (A step of unknown size counts as 1.)"""
    return bool(((x - y).abs() < abs(size or 1.0) * 9 / 8).any())


@torch.no_grad()
def _slope(at: Callable[[Tensor], Tensor], x: Tensor, y: Any, step: Step | None) -> tuple[Any, Tensor] | None:
    """How wide a band is that reaches one of the numbers, and the slope of ``at(x)``, which asks for `y`. None if that
    is not known, or if a call has written another number there than the graph says.
    """
    whole, x = carried(x), x.detach()
    if isinstance(whole, Whole):
        beyond = None if type(whole) is Either else whole.other(x)
        if beyond is None:
            return None
        return torch.minimum((x - y).abs(), (beyond - y).abs()), quotient(at(beyond), at(x), beyond, x, x.dtype)
    if step is None or not step.size or step.kind in ("one", "several") or step.kind == "flag" and step.shifted:
        return None
    size, n, count = step.size, x / step.size, step.kind == "count"
    if not (step.shifted or ((n - n.round()).abs() < 1 / 8 if count else (n == 0) | (n == 1)).all()):
        return None
    high = x + size if count else size - x
    low = x if not count else x - size if step.shifted else torch.where(n == 0, x, x - size)
    high, low = (torch.where((z - y).abs() < abs(size) / 8, y, z).to(x.dtype) for z in (high, low))
    reach = torch.minimum((x - y).abs(), torch.minimum((high - y).abs(), (low - y).abs()))
    return reach, (at(high).to(x.dtype) - at(low).to(x.dtype)) / (size if count else high - x)


def _parts(region: Region, func: Func, args: tuple[Any, ...], asks: bool) -> list[tuple[Any, Tensor]]:
    """Of each operand that is made of decisions how wide a band sees more, and what has its gradient for the answer."""
    found: list[tuple[Any, Tensor]] = []
    fixed = [x.detach() if isinstance(x, Tensor) else x for x in args]
    compared = len(args) == 2 and func.__name__ not in ("to", "type", "type_as")
    for i, x in enumerate(args):
        step = step_of(x, asks) if tracked(x) else None
        if step is None and not (tracked(x) and isinstance(carried(x), Whole)):
            continue
        with_this: Callable[[Any], Any] = lambda z, i=i: (*fixed[:i], z, *fixed[i + 1 :])  # type: ignore[misc]
        alone = not any(tracked(y) for y in args if y is not x)
        if alone and (n := _as_integers(region, x)) is not x:
            own = shadow(region.call(func, *with_this(n)))
            found += [] if own is None else [(1.0, own.value())]
            continue
        slope = _slope(lambda z: func(*with_this(z)), x, y := fixed[1 - i] if compared else 0, step)  # noqa: B023
        if slope is not None:
            found.append((slope[0], x * slope[1]))
        elif asks and not isinstance(carried(x), Whole) and (step is None or _near(fixed[i], y, step.size)):
            region.lose(op_name(func), [], _UNKNOWN, undecided=lambda x=x: open_elements(x) > 0)  # type: ignore[misc]
    return found


def asked(region: Region, func: Func, args: tuple[Any, ...], out: Tensor) -> Tensor:
    """`out` is what `func` says of floats where they have no boundary."""
    if not (parts := [part for _, part in _parts(region, func, args, True)]):
        return out
    soft, flags = functools.reduce(operator.add, parts), alias(out)
    return carry(region, out, Shadow(follow(soft, lambda: flags.to(soft.dtype))))


def narrow(region: Region, func: Func, args: tuple[Any, ...], half: float | Tensor, soft: Tensor) -> Tensor:
    """What a comparison has the gradient of: `soft`, or where its band reaches none of the numbers on both sides, their
    difference. (Of what was an integer a moment ago: where that is further apart than the band is wide.)
    """
    for size, part in _parts(region, func, args, False):
        soft = torch.where(torch.as_tensor(size < half, device=soft.device), soft, part.to(soft.dtype))
    return soft
