"""``where``, ``masked_fill``, ``masked_scatter``: what a mask chooses."""

from __future__ import annotations

import functools
from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor

from ..._ops.band import hard_forward
from ..._ops.blend import blend, blend_by_mask
from ..._ops.dtypes import exact_dtype
from ..._ops.env import compiling, unwrapped
from ..interface import Region
from .algebra import as_they_are, chain
from .carriers import Chain, Choice, Constants, Outcomes, attach, carrier, known_constant, stands_for
from .decisions import Decision, decided_at
from .elementwise import elementwise
from .expectations import expect, probability
from .mixtures import collapse
from .registry import follows
from .trees import count_infinite_jumps, decisions, join, original


def where(region: Region, func: Callable[..., Any], args: tuple[Any, ...], kwargs: dict[str, Any]) -> Any:
    """``torch.where(condition, a, b)``, ``a.where(condition, b)``; with the condition alone it is `nonzero`, which is
    lost.
    """
    named = dict(
        zip(("self", "condition", "other") if func is torch.Tensor.where else ("condition", "self", "other"), args)
    )
    named.update(("self" if name == "input" else name, x) for name, x in kwargs.items())
    condition, above, below = named["condition"], named.get("self"), named.get("other")
    floats = any(isinstance(x, float) or isinstance(x, Tensor) and x.is_floating_point() for x in (above, below))
    if floats and isinstance(carrier(condition), Choice) and carrier(above) is None and carrier(below) is None:
        condition = collapse(region, condition)  # only how likely it is True matters
    if above is None:
        return region.call(torch.nonzero, condition, as_tuple=True)
    left = _left_alone(region, condition, above, below)
    if left is not None:
        return left
    out = _choose(region, torch.where, (condition, above, below), condition, above, below)
    if out is not None:
        return out
    found = carrier(condition)
    simple = isinstance(found, Outcomes) and found.polarity and carrier(above) is None and carrier(below) is None
    if not simple:
        return elementwise(region, torch.where, (condition, above, below), {})
    assert isinstance(found, Outcomes)
    hard = original(torch.where, condition, above, below)
    low, high = (below, above)[:: found.polarity]
    tree = Outcomes(found.decision, _as_outcome(low, hard), _as_outcome(high, hard))
    return join(region, torch.where, (condition, above, below), hard, tree)


def _left_alone(region: Region, condition: Any, above: Any, below: Any) -> Tensor | None:
    """What is chosen everywhere, where the condition is an outcome that is known. A copy (autograd may keep it, and the
    program may write to the tensor) that stands for it: the same question about either is the same decision.
    """
    known = known_constant(condition)
    if known is None:
        return None
    taken, other = (above, below) if known else (below, above)
    if not isinstance(taken, Tensor) or taken.dim() < condition.dim():
        return None
    if isinstance(other, Tensor):
        same = other.dtype == taken.dtype and other.shape == taken.shape
    elif isinstance(other, bool):
        same = True
    else:
        same = taken.is_floating_point() or isinstance(other, int) and taken.dtype != torch.bool
    if not same or isinstance(other, complex):
        return None
    return attach(region, stands_for(taken.clone(), taken), carrier(taken))


def _is_above(mask: Tensor, found: Outcomes) -> Tensor:
    """Where the program is above, which at a tie of three values (sign) the mask alone knows."""
    return mask if found.polarity > 0 else mask.logical_not()


def _choose(
    region: Region, func: Callable[..., Any], args: tuple[Any, ...], mask: Any, above: Any, below: Any
) -> Tensor | None:
    """``where(mask, above, below)`` of floats that carry nothing: of a mask only how likely it is True matters, however
    many decisions that depends on. None for other operands, and for one decision where it takes more than one pass.
    """
    found = carrier(mask)
    if not isinstance(found, Outcomes) or mask.dtype != torch.bool:
        return None
    if carrier(above) is not None or carrier(below) is not None:
        return None
    if found.polarity:
        taken = _is_above(mask, found)
        low, high = (below, above) if found.polarity > 0 else (above, below)
        out = blend_by_mask(found.decision.offset(), taken, low, high)
        return None if out is None else attach(region, out, _between(region, found.decision, low, high, out))
    if not _of_outcomes(found):
        return None
    out = _chosen_by_probability(region, func, args, mask, above, below)
    return None if out is None else chain(region, func, args, {}, out)


def _between(region: Region, decision: Decision, low: Any, high: Any, out: Tensor) -> Chain:
    """The promise of two outcomes that are known."""
    like, kept = Constants(out), as_they_are(region, "where", (low, high))

    def compute() -> Outcomes | None:
        sides = kept()
        return None if sides is None else Outcomes(decision, _as_outcome(sides[0], like), _as_outcome(sides[1], like))

    return Chain(compute, 1)


def _chosen_by_probability(
    region: Region, func: Callable[..., Any], args: tuple[Any, ...], mask: Tensor, above: Any, below: Any
) -> Tensor | None:
    offset = probability(mask) - 0.5
    shown = _where_ties_are_hard(mask)
    out = blend_by_mask(offset, mask, below, above, shown=shown)
    if out is not None:
        return out
    hard = original(func, *args)
    if not hard.is_floating_point():
        return None
    low, high = _as_outcome(below, hard), _as_outcome(above, hard)
    count_infinite_jumps(region, func, (mask, above, below), Outcomes(decided_at(offset), low, high))
    out = blend(offset, low, high, hard)
    if shown is not None:
        out = hard_forward(blend(shown, low, high, hard), out)
    return out


def _where_ties_are_hard(mask: Tensor) -> Tensor | None:
    """The offset at which each decision that ties is on the side it takes; None if none does.

    That is what is shown. The gradient is the ramp's all the same.
    """
    if not compiling():
        tied = functools.reduce(torch.logical_or, [decision.offset() == 0 for decision in decisions(mask)])
        if tied.device.type == "cpu" and not bool(unwrapped(tied).any()):
            return None
    return expect(mask).detach() - 0.5


def _of_outcomes(tree: Outcomes) -> bool:
    """Whether nothing but decisions is in the tree."""
    for side in (tree.below, tree.above):
        found = carrier(side)
        if found is not None and not (isinstance(found, Outcomes) and _of_outcomes(found)):
            return False
    return True


def _as_outcome(x: Any, like: Tensor | Constants) -> Tensor:
    """In as many dimensions as the result has. (An alias, which `set_` leaves alone.)"""
    outcome = torch.as_tensor(x, dtype=like.dtype, device=like.device)
    more = like.dim() - outcome.dim()
    if more or outcome is not x:
        return outcome.reshape((1,) * more + tuple(outcome.shape))
    apart = not compiling() and torch._C._are_functorch_transforms_active()  # which sees no writes
    return stands_for(outcome.clone() if apart else outcome.view_as(outcome), outcome)


def masked_fill(region: Region, func: Callable[..., Any], args: tuple[Any, ...], kwargs: dict[str, Any]) -> Any:
    named = dict(zip(("input", "mask", "value"), args), **kwargs)
    x, mask, value = named["input"], named["mask"], named["value"]
    if carrier(x) is None and x.is_floating_point():
        mask = collapse(region, mask)
        plain = not isinstance(value, Tensor) or value.dim() == 0  # torch refuses others
        out = _choose(region, func, (x, mask, value), mask, value, x) if plain else None
        if out is not None:
            return out
    found = carrier(mask)
    if not (isinstance(found, Outcomes) and found.polarity and carrier(x) is None and carrier(value) is None):
        return elementwise(region, func, (x, mask, value), {})
    hard = original(func, x, mask, value)
    low, high = (x, value)[:: found.polarity]
    tree = Outcomes(found.decision, _as_outcome(low, hard), _as_outcome(high, hard))
    return join(region, func, (x, mask, value), hard, tree)


def masked_scatter(region: Region, func: Callable[..., Any], args: tuple[Any, ...], kwargs: dict[str, Any]) -> Any:
    """Element ``i`` of the source goes to the ``i``-th True element of the mask.

    The position is a count of decisions, so it is a lookup in the source at the expected position, interpolated between
    neighbours: a mask element that flips shifts everything behind it.
    """
    named = dict(zip(("input", "mask", "source"), args), **kwargs)
    x, mask, source = named["input"], named["mask"], named["source"]
    if carrier(mask) is None:
        return func(*args, **kwargs)
    if source.numel() == 0:
        region.lose("masked_scatter", [mask], "the source has no element for it. Use torch.where(mask, a, b).")
        return func(*args, **kwargs)
    hard = original(func, x, mask, source)
    if not hard.is_floating_point():
        region.lose(
            "masked_scatter",
            [mask],
            "only a float source has a derivative here. Scatter floats, and convert afterwards.",
        )
        return hard
    flat = source.reshape(-1)
    last = flat.numel() - 1
    flags = mask.expand(hard.shape).reshape(-1)
    share = expect(mask).expand(hard.shape).reshape(-1)
    position = (share.cumsum(0, dtype=exact_dtype(mask)) - share).clamp(0, last)
    first = position.detach().floor()
    near, far = flat[first.long()], flat[(first + 1).clamp(max=last).long()]
    shown = flat[(flags.cumsum(0) - flags.long()).clamp(0, last)]
    taken = blend((position - first - 0.5).to(share.dtype), near, far, shown)
    return region.call(torch.where, mask, taken.reshape(hard.shape), x)


follows(where, "where")


follows(masked_fill, "masked_fill")


follows(masked_scatter, "masked_scatter")
