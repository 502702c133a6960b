"""Decision trees: a function on both sides of a decision, joined again."""

from __future__ import annotations

import operator
from collections.abc import Iterable, Sequence
from typing import Any

import torch
from torch import Tensor

from ..._ops.blend import blend
from ..._ops.env import infinite, readable
from ..._ops.fused import pick
from ..._rules.index import NAMED, op_name
from ..interface import Func, Region, attach
from .carriers import Outcomes, carrier, constant, is_constant, known_constant, outcomes
from .decisions import Decision
from .expectations import _any_of, _has_expectation, _likelier, selected_side, undecided


def original(func: Func, *args: Any, **kwargs: Any) -> Any:
    """The hard result. Its gradient comes from the outcomes, so autograd need not record it."""
    if torch.autograd.forward_ad._current_level >= 0:
        args = tuple(x.detach() if isinstance(x, Tensor) else x for x in args)
    with torch.no_grad():
        return func(*args, **kwargs)


def decisions(x: Any, found: list[Decision] | None = None) -> list[Decision]:
    """All different decisions in the tree of `x`."""
    found = [] if found is None else found
    tree = outcomes(x)
    if tree is None:
        return found
    if tree.depends is None:
        tree.depends = [tree.decision]
        decisions(tree.below, tree.depends)
        decisions(tree.above, tree.depends)
    for decision in tree.depends:
        for d in found:
            if d.same(decision):
                break
        else:
            found.append(decision)
    return found


def cofactor(region: Region, x: Any, decision: Decision, side: bool) -> Any:
    """`x` as it is when `decision` falls on `side` (True: above)."""
    tree = outcomes(x)
    if tree is None:
        return x
    sign = decision.same(tree.decision)
    if sign:
        return tree.above if side == (sign > 0) else tree.below
    below = cofactor(region, tree.below, decision, side)
    above = cofactor(region, tree.above, decision, side)
    if below is tree.below and above is tree.above:
        return x
    return _from_outcomes(region, x, Outcomes(tree.decision, below, above))


def _from_outcomes(region: Region, like: Tensor, tree: Outcomes) -> Tensor:
    """A tensor of the shape of `like` that has these outcomes."""
    offset = tree.decision.offset()
    hard = pick(tree.decision.taken(), tree.above.detach(), tree.below.detach())
    if like.is_floating_point():
        hard, offset = torch.broadcast_tensors(hard, offset)  # type: ignore[no-untyped-call]
        return attach(region, blend(offset, tree.below, tree.above, hard), tree)
    return attach(region, hard, tree)


def both_sides(region: Region, func: Func, args: tuple[Any, ...], kwargs: dict[str, Any]) -> Outcomes | None:
    """`func` on both sides of the root decision of its operands; None if none has outcomes.

    A function that can fail on the side not taken (a division by zero) does not see that side outside the band: there
    both sides are the one taken, and no ``0 * inf`` comes back through the operands.
    """
    root = next((tree.decision for x in (*args, *kwargs.values()) if (tree := outcomes(x)) is not None), None)
    if root is None:
        return None
    guarded, divides = _guarded(func, args), func.__name__ in NAMED["divides"]

    def on(side: bool, x: Any) -> Any:
        outcome = cofactor(region, x, root, side)
        if not guarded or outcome is x:
            return outcome
        taken = root.offset() > 0 if side else root.offset() <= 0
        seen = region.call(torch.where, root.undecided() | taken, outcome, cofactor(region, x, root, not side))
        if divides and x is args[1] and not x.is_floating_point():  # integers raise
            seen = region.call(torch.where, seen.detach() != 0, seen, 1)
        return seen

    def run(side: bool) -> Tensor:
        positional = tuple(on(side, x) for x in args)
        found = _folded(region, func, *positional) if func.__name__ in _LOGIC and not kwargs else None
        if found is None:
            found = region.call(func, *positional, **{name: on(side, x) for name, x in kwargs.items()})
        return _settled(found)

    return Outcomes(root, run(False), run(True))


def _folded(region: Region, func: Func, *operands: Any) -> Tensor | None:
    """Logic of outcomes of which one is known everywhere: ``True & mask`` is the mask, ``False & mask`` False."""
    logic, known = _LOGIC[func.__name__], [known_constant(x) for x in operands]
    if not all(isinstance(x, Tensor) for x in operands) or all(value is None for value in known):
        return None
    if None not in known:
        return constant(logic(*known), operands[0] if operands[0].dim() >= operands[-1].dim() else operands[-1])
    mask, other = operands if known[0] is None else operands[::-1]
    value = known[1] if known[0] is None else known[0]
    if mask.dtype != torch.bool or mask.dim() < other.dim():
        return None
    if_false, if_true = logic(value, False), logic(value, True)
    if if_false == if_true:
        return constant(if_false, mask)
    if if_false:
        return region.call(torch.logical_not, mask)  # type: ignore[no-any-return]
    return mask  # type: ignore[no-any-return]


_LOGIC: dict[str, Any] = {name: getattr(operator, f"__{op}__") for op in ("and", "or", "xor") for name in NAMED[op]}
_LOGIC |= dict.fromkeys(NAMED["not"], operator.not_)


def _guarded(func: Func, args: tuple[Any, ...]) -> bool:
    name = func.__name__
    return name in NAMED["poles"] or (name in NAMED["divides"] and len(args) > 1 and carrier(args[1]) is not None)


def _settled(outcome: Tensor) -> Tensor:
    """An outcome that depends on a decision in name only (``False & mask``), as the constant it is."""
    tree = outcomes(outcome)
    sides = None if tree is None else both_constants(tree.below, tree.above)
    return outcome if tree is None or sides is None or sides[0] != sides[1] else tree.below


def both_constants(low: Tensor, high: Tensor) -> tuple[Any, Any] | None:
    """The constants that two outcomes are, where reading them makes nobody wait."""
    below, above = known_constant(low), known_constant(high)
    if below is not None and above is not None:
        return below, above
    if low.device.type != "cpu" or not is_constant(low) or not is_constant(high):
        return None
    known = [x for x in (readable(low), readable(high)) if x is not None and x.numel() == 1]  # (vmap: one for each)
    return (known[0].item(), known[1].item()) if len(known) == 2 else None


def _counts(region: Region, operands: Sequence[Any], tree: Outcomes) -> tuple[Tensor | None, Tensor | None]:
    """Below and above the decision of `tree`, masks of the elements at which an integer among the operands is not the
    expectation that a float computed from it shows. (That float carries nothing, and cannot tell.)
    """
    counts = [x for x in operands if _has_expectation(x)]
    below, above = (
        _any_of([undecided(cofactor(region, x, tree.decision, side)) for x in counts]) for side in (False, True)
    )
    return below, above


def join(region: Region, func: Any, operands: Sequence[Any], hard: Tensor, tree: Outcomes) -> Tensor:
    """The result of a function whose `hard` value and whose `tree` of outcomes are known."""
    below, above = tree.below, tree.above
    if hard.is_complex():
        return blend(tree.decision.offset(), below, above, hard)
    out = hard
    if hard.is_floating_point():
        count_infinite_jumps(region, func, operands, tree)
        shown = selected_side(tree, below, above, hard, _counts(region, operands, tree))
        out = blend(tree.decision.offset(), below, above, shown)
    elif any(isinstance(x, Tensor) and x.is_floating_point() and carrier(x) is not None for x in operands):
        # In the band the float operands show a blend, a value the hard program never has, and so would a discrete
        # result computed from it. It gets the likelier outcome instead.
        likelier = pick(_likelier(tree.decision), above, below).expand(hard.shape)
        out = likelier if tree.decision.side is not None else pick(tree.decision.offset() != 0, likelier, hard)
    return attach(region, out, tree)


def count_infinite_jumps(region: Region, func: Func, operands: Iterable[Any], tree: Outcomes) -> None:
    """Count the elements in the band whose outcomes do not differ by a finite amount."""
    if not any(infinite(x) for x in operands):
        return
    jump = tree.above.detach() - tree.below.detach()
    undecided = tree.decision.undecided() & ~jump.isfinite()
    if not torch._C._functorch.is_functorch_wrapped_tensor(undecided):  # inside vmap there is no number to read
        region.count_infinite(op_name(func), int(undecided.sum()))
