"""What a discrete result carries inside a region.

A result of a discrete op is a plain tensor with one private attribute, its *carrier*:

`Outcomes`      the value on either side of a decision boundary and the decision between them. An outcome is a tensor
                that may carry a linearization of its own, so several decisions form a decision tree.
`Choice`        one of several values, with weights: an index that an argmax or a sort chose (see `choices.py`).
`Selection`     what a mask selected: every element that may be in it, with its weight.
`Expectation`   an integer whose elements depend on many decisions (a count): its real-valued expected value.
`Chain`         a float computed from discrete results by elementwise or shape ops: a promise of `Outcomes`, kept
                only if a later discrete op asks; ordinary networks never pay for it.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, replace
from typing import Any, TypeAlias

import torch
from torch import Tensor

from ..._ops.ramp import Jump
from ..interface import Carried, held, unchanged
from .decisions import Decision, shows
from .later import Later, kept


class _Carrier(Carried):
    """Not what another engine carries."""


class Outcomes(_Carrier):
    """`below` and `above` the boundary of `decision`; both broadcast to the carrying tensor's shape and have its dtype.

    An outcome that is the same everywhere has one element and as many dimensions as the tensor (so that type promotion
    treats it like the tensor). `polarity` is 1 for (False, True), -1 for (True, False), 0 for anything else; `jump`
    describes a mask as a step of zero and one at the decision's site.
    """

    def __init__(
        self, decision: Decision, below: Tensor, above: Tensor, polarity: int = 0, jump: Jump | None = None
    ) -> None:
        self.decision = decision
        self.polarity = polarity
        self.jump = jump
        self.below: Tensor = kept(below)
        self.above: Tensor = kept(above)
        self.depends: list[Decision] | None = None
        """The different decisions of the tree, once asked for."""


class Expectation(_Carrier):
    """The expected value of an integer tensor, a float tensor of the same shape.

    `by_ones`: it is a count, which each decision changes by one; then the integers next to the expected value are those
    it may be. Of a sum of weighted decisions they are not.
    """

    def __init__(self, value: Tensor, by_ones: bool = True) -> None:
        self.value = value
        self.by_ones = by_ones


class Choice(_Carrier):
    """Element by element one of several values: ``values[..., m]`` with weight ``weights[..., m]``.

    Both broadcast to the shape of the carrying tensor with one dimension more; the weights of an element are not
    negative and sum to 1. `ties`, with a last dimension of 1, are the elements decided between equals: the hard value
    is shown there. Equal keys (see `equal_keys`) are the same choice: their values belong together.
    """

    order: Any = None
    """Of a whole permutation along `dim`, which can be inverted, all there is to know."""
    dim: int = 0

    def __init__(self, key: tuple[Any, ...], values: Tensor, weights: Tensor, ties: Tensor) -> None:
        self.key = key
        self.values = values
        self.weights = weights
        self.ties = ties

    def decided(self) -> Tensor:
        """Mask of the elements that have one value only."""
        return self.weights.detach().amax(-1) == 1

    def of(self, values: Tensor) -> Choice:
        """The same choice among other values."""
        return Choice(self.key, values, self.weights, self.ties)

    def map(self, key: tuple[Any, ...], move: Callable[[Tensor], Tensor]) -> Choice:
        """The choice after its elements were moved; `move` keeps the last dimension."""
        return Choice(key, move(self.values), move(self.weights), move(self.ties))


@dataclass(eq=False)
class Selection(_Carrier):
    """A selection ``x[mask]`` of `count` elements: those that may be in it, (p, *rest), and their weights, (p,).

    `shown` are the weights with exact ties resolved as the hard program does, `taken` which candidates are selected,
    `near` their positions among all elements of the mask. `decision` is what the mask carries: equal decisions make
    the same selection.
    """

    selects = True

    mask: Tensor
    version: int
    decision: Outcomes | None
    candidates: Tensor
    weights: Tensor
    shown: Tensor
    taken: Tensor
    near: Tensor
    count: int

    def of(self, candidates: Tensor) -> Selection:
        """The same selection of other elements."""
        return replace(self, candidates=candidates)

    def made_by(self, mask: Tensor) -> bool:
        """Whether `mask` selects the same elements."""
        if mask is self.mask and unchanged(mask, self.version):
            return True
        return self._like(outcomes(mask), mask)

    def same(self, other: Selection) -> bool:
        if self.weights is other.weights or self.mask is other.mask and self.version == other.version:
            return True
        return self._like(other.decision, other.mask)

    def _like(self, b: Outcomes | None, mask: Tensor) -> bool:
        a = self.decision
        if a is None or b is None or mask.shape != self.mask.shape:
            return False
        return a.decision.same(b.decision) * a.polarity * b.polarity == 1


class Chain(_Carrier):
    """Outcomes of a tensor, computed when a discrete op asks for them.

    `step`, if known, says which step of a decision's site the tensor is: what clamps it or makes it a float again need
    not ask for outcomes. An integer tensor carries a chain only with a step.
    """

    def __init__(
        self,
        compute: Callable[[], Outcomes | Choice | None],
        length: int = 0,
        step: tuple[Decision, Jump] | None = None,
    ) -> None:
        self.step = step
        self.length = length
        self._later = Later(compute)

    def resolve(self) -> Outcomes | Choice | None:
        found: Outcomes | Choice | None = self._later()
        self.length = 0
        return found


Carrier: TypeAlias = "Outcomes | Choice | Expectation | Selection | Chain"


class Blend(Carried):
    """A float in which the outcomes of the floats `of` have met: it shows their blend, and nothing else is known. A
    decision on it is approximate. (This is for the report; to rules such a float carries nothing.)
    """

    of: list[Tensor]

    def __init__(
        self, operands: list[Tensor], blends: list[Blend], whole: Tensor | None = None, support: Tensor | None = None
    ) -> None:
        self.whole = whole
        """The integers of which it is the float."""
        self.support = support
        """Counts that are 0 where it is 0, and nowhere else: of ``2 * n`` it is `n`, which changes by ones."""
        known = {id(x): x for blend in blends for x in blend.of}
        known |= {id(x): x for x in operands if held(x, Blend) is None}
        self.of = list(known.values())[-64:]  # (a loop is not to keep all its steps)

    def open(self, undecided: Callable[[Tensor], int]) -> int:
        """How many of their elements are in a band."""
        return sum(map(undecided, self.of))


def carrier(x: Any) -> Carrier | None:
    """What `x` carries, or None. (Of a float, it may be a promise.)"""
    found: Any = held(x, _Carrier)
    return found.resolve() if type(found) is Chain and not x.is_floating_point() else found


def discrete_carrier(x: Any) -> bool:
    """Whether `x` is a bool or integer tensor that carries a linearization."""
    return held(x, _Carrier) is not None and not x.is_floating_point()


def selection(x: Any) -> Selection | None:
    return held(x, Selection)


def resolved(x: Any) -> Outcomes | Choice | Expectation | Selection | None:
    """What `x` carries, promises kept."""
    found: Any = held(x, _Carrier)
    return found.resolve() if type(found) is Chain else found


def outcomes(x: Any) -> Outcomes | None:
    found = resolved(x)
    return found if isinstance(found, Outcomes) else None


def choice(x: Any) -> Choice | None:
    found = resolved(x)
    return found if isinstance(found, Choice) else None


def known_constant(x: Any) -> bool | None:
    """Which bool an outcome is everywhere, without reading it."""
    return x if isinstance(x, bool) else getattr(x, "_sll_constant", None)


# --- outcomes that are the same everywhere, steps ------------------------------------------------------------------


def constant(value: Any, like: Tensor) -> Tensor:
    """An outcome that is the same for every element of `like`."""
    out = torch.full((1,) * like.dim(), value, dtype=like.dtype, device=like.device)
    if isinstance(value, bool):
        out._sll_constant = value  # type: ignore[attr-defined]
    return out


def outcome(value: Any, like: Tensor) -> Tensor:
    """A number, a tensor, or what a function computes, as an outcome of `like`."""
    value = value() if callable(value) else value
    return value.to(like.dtype) if isinstance(value, Tensor) else constant(value, like)


def promise(
    decision: Decision, below: Any, above: Any, value: Tensor, step: tuple[Decision, Jump] | None = None
) -> Chain:
    """The outcomes of a step whose `value` is known, for whoever asks."""
    like = value.new_empty((0,) * value.dim())  # does not hold on to it
    return Chain(lambda: Outcomes(decision, outcome(below, like), outcome(above, like)), step=step)


def is_constant(outcome: Tensor) -> bool:
    return carrier(outcome) is None and all(size == 1 for size in outcome.shape)


def bool_outcomes(decision: Decision, hard: Tensor, polarity: int = 1, jump: Jump | None = None) -> Outcomes:
    """False below and True above (`polarity` 1), or the other way round (-1)."""
    if decision.side is None:
        decision.side = shows(hard, polarity > 0)
    return Outcomes(decision, constant(polarity < 0, hard), constant(polarity > 0, hard), polarity, jump)


def step_of(x: Any) -> tuple[Decision, Jump] | None:
    """Which step at the site of which decision `x` is known to be."""
    found = held(x, _Carrier)
    if isinstance(found, Outcomes) and found.jump is not None and found.decision.site is not None:
        return found.decision, found.jump
    return found.step if isinstance(found, Chain) else None


def in_one_pass(x: Tensor, step: tuple[Decision, Jump] | None) -> Tensor | None:
    """The float that `x`, a mask or integers known to be this step, becomes; None where it takes more than one pass."""
    if step is None or step[0].site is None:
        return None
    value = step[0].site.ramp(step[1])
    return value if value is not None and value.shape == x.shape else None
