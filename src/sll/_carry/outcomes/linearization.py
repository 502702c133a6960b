"""What a discrete result carries inside a region.

A result of a discrete op is a plain tensor with one private attribute, its *carrier*:

`Outcomes`      the value on either side of a decision boundary and the decision between them. An outcome is a tensor
                that may carry a linearization of its own, so several decisions form a decision tree.
`Choice`        one of several values, with weights: an index that an argmax or a sort chose (see `choices.py`).
`Selection`     what a mask selected: every element that may be in it, with its weight.
`Expectation`   an integer whose elements depend on many decisions (a count): its real-valued expected value.
`Chain`         a float computed from discrete results by elementwise or shape ops: a promise of `Outcomes`, kept
                only if a later discrete op asks; ordinary networks never pay for it.

`Decision` is the weight of the outcome above the boundary, with an identity: two results of the same decision move
together, results of different decisions are independent.

The functions below are the whole algebra: `cofactor` (a tensor as it would be on one side of a decision),
`run_on_outcomes` (a function on both sides, joined again), `expect` (the real-valued expectation), `marginal` and
`merge` (fewer decisions).
"""

from __future__ import annotations

import functools
import math
import weakref
from collections import OrderedDict
from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING, Any, TypeAlias

import torch
from torch import Tensor
from torch.compiler import is_compiling

from ..._mode.checkpoint import saved_as_then, saving
from ..._ops import kernels
from ..._ops.env import numbers
from ..._ops.fused import LEAST
from ..._ops.kernels import Jump, band_offset, blend, compute_dtype, hard_forward, packed, pick, product, select
from ...eps import Width, half_width, watch_of
from .sites import Guarded, Site, keep

if TYPE_CHECKING:
    from ...region import _Mode
    from ...region import linearize as Region

__all__ = [
    "Carrier",
    "Chain",
    "Decision",
    "Expectation",
    "Outcomes",
    "carrier",
    "expect",
    "outcomes",
    "run_on_outcomes",
]

MAX_DECISIONS = 4
"""A tensor keeps the joint outcomes of up to this many decisions (2**4 outcomes); beyond it they are reduced."""


# --- decisions ---------------------------------------------------------------------------------------------------


class Decision:
    """Which side of a boundary, per element, and an identity.

    `offset` is the position in the band, from -1/2 (below) to 1/2 (above); `weight` is the weight of the side above,
    ``offset + 1/2``.
    `key` identifies the decision: equal keys (tensors compared by identity) are the same decision. The offset is a
    thunk because many masks are never asked for it. `site` is where it was made, if that is known.
    """

    def __init__(self, key: tuple[Any, ...], offset: Callable[[], Tensor], site: Site | None = None) -> None:
        self.key = key
        self.site = site
        self._thunk: Callable[[], Tensor] | None = offset
        self._offset: Tensor | None = None
        self._saving = saving()
        self._traced = is_compiling()
        """Then a frame that goes on after a graph break takes its operands out of the thunk, resolved or not."""
        self.side: Callable[[Decision], Tensor | None] | None = None
        """Where known, the mask of the elements at which the hard program is above. (It is given the decision: holding
        it would be a cycle, and keep tensors alive.)
        """

    def offset(self) -> Tensor:
        if self._offset is None:
            assert self._thunk is not None
            self._offset = saved_as_then(self._saving, self._thunk)
            if not self._traced:
                self._thunk = None  # frees what the thunk holds on to
        return self._offset

    def known(self) -> bool:
        """Whether the offset has been worked out."""
        return self._offset is not None

    def weight(self) -> Tensor:
        return self.offset() + 0.5

    def taken(self) -> Tensor:
        """Mask of the elements at which the hard program is above. The offset alone does not tell: where it is a
        probability, the program may well have taken the less likely side.
        """
        side = None if self.side is None else self.side(self)
        return self.offset() > 0 if side is None else side

    def same(self, other: Decision) -> int:
        """1: the same decision, -1: the same with the sides swapped, 0: another decision."""
        a, b = self.key, other.key
        if self is other:
            return 1
        if a[0] != b[0]:  # the kind, a string
            return 0
        if a[0] == "placed":
            return int(a[1].same(b[1])) if equal_keys(a[2:], b[2:]) else 0
        # Asked thousands of times where decisions feed back, and nearly always about other tensors.
        if a[0] != "boundary":
            return 0 if _differ(a[1], b[1]) else int(equal_keys(a, b))
        if not _differ(a[1], b[1]) and not _differ(a[3], b[3]) and equal_keys(a, b):
            return 1
        if _differ(a[1], b[3]) or _differ(a[3], b[1]):
            return 0
        return -int(equal_keys((a[1], a[2], a[5]), (b[3], b[4], b[5])) and equal_keys(a[3:5], b[1:3]))

    @functools.cached_property
    def bit(self) -> int:
        """One of many bits, the same one for decisions that are the same."""
        kind, first = self.key[:2]
        if kind == "placed":
            return first.bit << 1  # type: ignore[no-any-return]
        sides = (first, self.key[3]) if kind == "boundary" else (first,)  # of a boundary, in any order
        operands = frozenset(id(x) if isinstance(x, Tensor) else x for x in sides)
        return 1 << hash((kind, operands)) % 4096

    def covers(self, other: Decision) -> tuple[Tensor, int] | None:
        """For a merged decision: the mask of elements at which it stands for `other`, and the sign of `same`."""
        return None

    def undecided(self) -> Tensor:
        """Mask of the elements strictly inside the band."""
        return self.offset().abs() < 0.5


def _differ(a: Any, b: Any) -> bool:
    """Whether one is a tensor that the other is not."""
    return a is not b and (isinstance(a, Tensor) or isinstance(b, Tensor))


def equal_keys(a: Any, b: Any) -> bool:
    if isinstance(a, (tuple, list)):
        if not isinstance(b, (tuple, list)) or len(a) != len(b):
            return False
        for x, y in zip(a, b):  # noqa: SIM110 (asked thousands of times where decisions feed back: no generators)
            if not equal_keys(x, y):
                return False
        return True
    if isinstance(a, Tensor) or callable(a):
        return a is b
    if isinstance(a, (int, float)) and isinstance(b, (int, float)):  # x > 0 and x > 0.0 are the same decision
        return a == b
    if isinstance(a, Width):
        return isinstance(b, Width) and a.same(b)
    if isinstance(a, (str, slice, torch.dtype, type(None), type(Ellipsis))):
        return type(a) is type(b) and bool(a == b)
    return not is_compiling() and a is b  # (Dynamo cannot ask)


def offset_at(
    distance: Tensor,
    eps: float | Tensor | Width,
    limit: float = math.inf,
    nan: float = -0.5,
    true_distance: Callable[[], Tensor] | None = None,
) -> Tensor:
    """Where in a band of half-width `eps`, at most `limit` (a tensor is known to be); see `band_offset`.
    (`true_distance` is for traces.)
    """
    half = eps if isinstance(eps, Tensor) else half_width(eps, distance, limit)
    offset = band_offset(distance, half, nan)
    watch = watch_of(eps)
    if watch is not None:
        watch.offset(distance, offset, half, limit, None if true_distance is None else true_distance())
    return offset


def decided_by(weight: Tensor) -> Decision:
    """A decision like no other, with a given weight."""
    return decided_at(weight - 0.5)


def decided_at(offset: Tensor) -> Decision:
    """A decision like no other, with a given offset."""
    return Decision(("offset", offset), lambda: offset)


def placed(
    decision: Decision, shape: Sequence[int], how: tuple[Any, ...], move: Callable[[Tensor], Tensor]
) -> Decision:
    """`decision` after its tensor of shape `shape` went through the shape op `move`, identified by `how`."""
    moved = Decision(("placed", decision, tuple(shape), how), lambda: move(decision.offset().expand(shape)))
    if decision.side is not None:  # or only the hard value knows what is at a tie, also after the move
        moved.side = lambda _: move(torch.where(decision.taken(), 0.5, -0.5).expand(shape)) > 0
    return moved


def shows(x: Tensor, above: Any) -> Callable[[Decision], Tensor | None]:
    """Where `x`, as it is now, is `above`."""
    kept = keep((x.detach(),), torch.clone)  # an alias, because `x` will hold on to the decision

    def side(decision: Decision) -> Tensor | None:
        shown = kept()
        return None if shown is None else shown[0] == (above() if callable(above) else above)

    return side


def tells(decision: Decision, x: Tensor, above: Tensor | Callable[[], Tensor]) -> Decision:
    """`decision`, which was made for `x`: the offset says on which side it is, and at an exact tie `x` does."""
    shown = shows(x, above)

    def side(decision: Decision) -> Tensor:
        offset, at_tie = decision.offset(), shown(decision)
        return offset > 0 if at_tie is None else pick(offset == 0, at_tie, offset > 0)

    decision.side = side
    return decision


_UNKNOWN = -1


def version_of(x: Any) -> int:
    """Counts the writes into a tensor. While compiling there is no counter: there the in-place rules alone keep
    carriers fresh.
    """
    if not isinstance(x, Tensor):
        return 0
    return _UNKNOWN if is_compiling() else x._version


def unchanged(x: Any, version: int) -> bool:
    """Whether `x` is as it was at `version`, as far as that is known."""
    now = version_of(x)
    return now in (version, _UNKNOWN) or version == _UNKNOWN


# --- carriers ----------------------------------------------------------------------------------------------------


class _Unsaved:
    """Not saved with its tensor. The region keeps it out of pickles and copies; where it cannot (another thread),
    what is saved is an empty dict, which any process can read and which says nothing.
    """

    within: _Mode | None = None
    """Made by compiled code, whose region does not take it back: it ends with that region, or the one around it, all
    the same.
    """

    def __reduce__(self) -> Any:
        return OrderedDict, ()


class Outcomes(_Unsaved, Guarded):
    """`below` and `above` the boundary of `decision`; both broadcast to the carrying tensor's shape and have its dtype.

    An outcome that is the same everywhere has one element and as many dimensions as the tensor (so that type promotion
    treats it like the tensor). `polarity` is 1 for (False, True), -1 for (True, False), 0 for anything else; `jump`
    describes a mask as a step of zero and one at the decision's site.
    """

    GUARDED = ("below", "above")

    def __init__(
        self, decision: Decision, below: Tensor, above: Tensor, polarity: int = 0, jump: Jump | None = None
    ) -> None:
        self.decision = decision
        self.below = below
        self.above = above
        self.polarity = polarity
        self.jump = jump
        if known_constant(below) is None or known_constant(above) is None:
            self.guard()

    def copied(self, x: Tensor) -> Tensor:
        copy, found = x.clone(), carrier(x)
        if found is not None:
            copy._sll = (found, version_of(copy))  # type: ignore[attr-defined]
        return copy


class Expectation(_Unsaved):
    """The expected value of an integer tensor, a float tensor of the same shape.

    `by_ones`: it is a count, which each decision changes by one; then the integers next to the expected value are those
    it may be. Of a sum of weighted decisions they are not.
    """

    def __init__(self, value: Tensor, by_ones: bool = True) -> None:
        self.value = value
        self.by_ones = by_ones


class Choice(_Unsaved):
    """Element by element one of several values: ``values[..., m]`` with weight ``weights[..., m]``.

    Both broadcast to the shape of the carrying tensor with one dimension more; the weights of an element are not
    negative and sum to 1. `ties`, with a last dimension of 1, are the elements decided between equals: the hard value
    is shown there. Equal keys (see `equal_keys`) are the same choice: their values belong together.
    """

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


class Selection(_Unsaved):
    """A selection ``x[mask]`` of `count` elements: those that may be in it, (p, *rest), and their weights, (p,).

    `shown` are the weights with exact ties resolved as the hard program does, `taken` which candidates are selected,
    `near` their positions among all elements of the mask. `decision` is what the mask carries: equal decisions make
    the same selection.
    """

    def __init__(
        self,
        mask: Tensor,
        candidates: Tensor,
        weights: Tensor,
        shown: Tensor,
        taken: Tensor,
        near: Tensor,
        count: int,
    ) -> None:
        self.mask = mask
        self.version = version_of(mask)
        self.decision = outcomes(mask)
        self.candidates = candidates
        self.weights = weights
        self.shown = shown
        self.taken = taken
        self.near = near
        self.count = count

    def of(self, candidates: Tensor) -> Selection:
        """The same selection of other elements."""
        found = Selection(self.mask, candidates, self.weights, self.shown, self.taken, self.near, self.count)
        found.version, found.decision = self.version, self.decision
        return found

    def made_by(self, mask: Tensor) -> bool:
        """Whether `mask` selects the same elements."""
        if mask is self.mask and unchanged(mask, self.version):
            return True
        own, other = self.decision, outcomes(mask)
        return _same_mask(own, other) and mask.shape == self.mask.shape

    def same(self, other: Selection) -> bool:
        if self.weights is other.weights or self.mask is other.mask and self.version == other.version:
            return True
        return _same_mask(self.decision, other.decision) and self.mask.shape == other.mask.shape


def _same_mask(a: Outcomes | None, b: Outcomes | None) -> bool:
    if a is None or b is None or not a.polarity or not b.polarity:
        return False
    return a.decision.same(b.decision) * a.polarity * b.polarity == 1


class Sorted(_Unsaved):
    """Values that a sort, a topk, a maximum or a median found in `source`: which place each stands at.

    Which of two values of a row is larger is then known, and comparing them is no decision; comparing `source` with one
    of them asks which elements are among the first so many. It is not a linearization, and `carrier` skips it.

    `dim`: the sorted dimension of `source`, None if that was flattened. `places`: numbers of the places in all rows,
    `n` each, where the largest (or smallest) stands first.
    """

    def __init__(self, source: Tensor, dim: int | None, largest: bool, places: Callable[[], Tensor]) -> None:
        self.source = source
        self.version = version_of(source)
        self.dim = dim
        self.n = source.numel() if dim is None else source.shape[dim]
        self.largest = largest
        self.places = places

    def moved(self, places: Callable[[], Tensor]) -> Sorted:
        found = Sorted(self.source, self.dim, self.largest, places)
        found.version = self.version
        return found

    def found_in(self, x: Any) -> bool:
        """Whether `x` is the source, or another differentiable view of the same numbers."""
        a, b = x, self.source
        if not isinstance(a, Tensor) or not unchanged(a, self.version) or not unchanged(b, self.version):
            return False
        if a is b:
            return True
        if torch._C._functorch.is_functorch_wrapped_tensor(a) or a.layout != torch.strided or a.device.type == "meta":
            return False
        related = a._base is b or b._base is a or a._base is not None and a._base is b._base
        if not related or a.requires_grad != b.requires_grad or a._base is not None and a.grad_fn is None:
            return False
        if a.data_ptr() != b.data_ptr() or a.dtype != b.dtype:
            return False
        if self.dim is None or b.dim() == 1:  # all numbers, in whatever shape
            return a.numel() == b.numel() and a.is_contiguous() and b.is_contiguous()
        return a.shape == b.shape and a.stride() == b.stride()


class Chain(_Unsaved):
    """Outcomes of a tensor, computed when a discrete op asks for them.

    `step`, if known, says which step of a decision's site the tensor is: what clamps it or makes it a float again need
    not ask for outcomes. An integer tensor carries a chain only with a step.
    """

    def __init__(
        self,
        compute: Callable[[], Outcomes | Choice | None],
        length: int,
        step: tuple[Decision, Jump] | None = None,
    ) -> None:
        self.step = step
        self._compute: Callable[[], Outcomes | Choice | None] | None = compute
        self._kept = False
        self._found: Outcomes | Choice | None = None
        self._saving = saving()
        self._traced = is_compiling()  # as in `Decision`
        self.length = length

    def resolve(self) -> Outcomes | Choice | None:
        if not self._kept:
            self._kept = True
            assert self._compute is not None
            self._found = saved_as_then(self._saving, self._compute)
            self.length = 0
            if not self._traced:
                self._compute = None  # frees what it holds on to
        return self._found


Carrier: TypeAlias = "Outcomes | Choice | Expectation | Selection | Chain"


def carrier(x: Any) -> Carrier | None:
    """What `x` carries, or None. A write that the region did not see makes a carrier stale, and it is ignored."""
    pair = getattr(x, "_sll", None)
    if pair is None or not isinstance(x, Tensor):
        return None
    found, version = pair
    if not is_compiling():
        if version != x._version and version != _UNKNOWN:
            return None
        within = getattr(found, "within", None)
        if within is not None and not within.entered():
            return None
    if isinstance(found, Chain):
        return found if x.is_floating_point() else found.resolve()
    return found if isinstance(found, _Unsaved) and not isinstance(found, Sorted) else None  # type: ignore[return-value]


def step_of(x: Any) -> tuple[Decision, Jump] | None:
    """Which step at the site of which decision `x` is known to be."""
    pair = getattr(x, "_sll", None) if isinstance(x, Tensor) else None
    if pair is None or not isinstance(pair[0], Chain) or not unchanged(x, pair[1]):
        return None
    return pair[0].step


def step_of_mask(x: Any) -> tuple[Decision, Jump] | None:
    """Which step of zero and one a mask is known to be."""
    found = carrier(x)
    if not isinstance(found, Outcomes) or found.jump is None or found.decision.site is None:
        return None
    return found.decision, found.jump


def in_one_pass(
    x: Tensor, step: tuple[Decision, Jump] | None, forward: str, hard: Tensor | None = None
) -> Tensor | None:
    """The float that `x`, a mask or integers known to be this step, becomes; None where it takes more than one pass.
    (`hard`: see `ramp`.)
    """
    if step is None or step[0].site is None:
        return None
    value = step[0].site.ramp(step[1], forward, later=True, hard=hard)
    return value if value is not None and value.shape == x.shape else None


def sorted_places(x: Any) -> Sorted | None:
    pair = getattr(x, "_sll", None) if isinstance(x, Tensor) else None
    return pair[0] if pair is not None and isinstance(pair[0], Sorted) and unchanged(x, pair[1]) else None


def discrete_carrier(x: Any) -> bool:
    """Whether `x` is a bool or integer tensor that carries a linearization."""
    return getattr(x, "_sll", None) is not None and carrier(x) is not None and not x.is_floating_point()


def selection(x: Any) -> Selection | None:
    pair = getattr(x, "_sll", None) if isinstance(x, Tensor) else None
    if pair is None or not isinstance(pair[0], Selection):
        return None  # without keeping promises
    found = carrier(x)
    return found if isinstance(found, Selection) else None


def resolved(x: Any) -> Outcomes | Choice | Expectation | Selection | None:
    """What `x` carries, promises kept."""
    if getattr(x, "_sll", None) is None:
        return None  # most do not, and Dynamo takes a millisecond for each call
    found = carrier(x)
    return found.resolve() if isinstance(found, Chain) else found


def outcomes(x: Any) -> Outcomes | None:
    if getattr(x, "_sll", None) is None:
        return None
    found = carrier(x)
    if isinstance(found, Chain):
        found = found.resolve()
    if not isinstance(found, Outcomes):
        return None
    if not is_compiling():
        found.ask()
    return found


def choice(x: Any) -> Choice | None:
    found = resolved(x)
    return found if isinstance(found, Choice) else None


def attach(region: Region, x: Tensor, found: Carrier | Sorted | None) -> Tensor:
    """Make `x` carry `found` until the region ends."""
    if found is not None:
        x._sll = (found, version_of(x))  # type: ignore[attr-defined]
        if not region.adopt(x):
            found.within = region.outermost()
    return x


class Constants:
    """What `constant` has to know of a tensor, without the tensor."""

    def __init__(self, like: Tensor) -> None:
        self._dim, self.dtype, self.device = like.dim(), like.dtype, like.device

    def dim(self) -> int:
        return self._dim


def constant(value: Any, like: Tensor | Constants) -> Tensor:
    """An outcome that is the same for every element of `like`."""
    out = torch.full((1,) * like.dim(), value, dtype=like.dtype, device=like.device)
    if isinstance(value, bool):
        out._sll_constant = value  # type: ignore[attr-defined]
    return out


def known_constant(x: Any) -> bool | None:
    """Which bool an outcome is everywhere, without reading it."""
    return x if isinstance(x, bool) else getattr(x, "_sll_constant", None)


def stands_for(x: Tensor, origin: Tensor) -> Tensor:
    """`x`, which has the numbers of `origin`: the same question about either is the same decision."""
    x._sll_origin = asked(origin)  # type: ignore[attr-defined]
    return x


def asked(x: Any) -> tuple[Any, int]:
    """Of whom a question about `x` is asked, and what it had seen of writes."""
    origin: tuple[Any, int] | None = getattr(x, "_sll_origin", None)
    return (x, version_of(x)) if origin is None else origin


def is_constant(outcome: Tensor) -> bool:
    return carrier(outcome) is None and all(size == 1 for size in outcome.shape)


def _is_above(mask: Tensor, polarity: int) -> Callable[[Decision], Tensor | None]:
    """Where a mask, as it is now, shows the side above of its decision: a copy, made when first asked for. Autograd may
    keep it, and the program is free to write into the mask that it has.
    """
    alias = mask.detach()
    if is_compiling():
        return lambda _: alias if polarity > 0 else alias.logical_not()
    found: list[Any] = [keep((alias,), torch.clone)]

    def side(decision: Decision) -> Tensor | None:
        if not isinstance(found[0], Tensor):
            shown = found[0]()
            if shown is None:
                return None
            found[0] = shown[0].clone() if polarity > 0 else shown[0].logical_not()
        above: Tensor = found[0]
        return above

    return side


def bool_outcomes(decision: Decision, hard: Tensor, polarity: int = 1, jump: Jump | None = None) -> Outcomes:
    """False below and True above (`polarity` 1), or the other way round (-1)."""
    above = constant(polarity > 0, hard)
    if jump is not None and is_compiling():
        # Not `hard`, which compares two tensors: compiled code would keep it for backward, and it is slow to.
        tied = jump.at_tie == jump.above
        decision.side = lambda decision: decision.offset() >= 0 if tied else decision.offset() > 0
    elif decision.side is None:
        decision.side = _is_above(hard, polarity)
    return Outcomes(decision, constant(polarity < 0, hard), above, polarity, jump)


# --- the algebra -------------------------------------------------------------------------------------------------


def original(func: Callable[..., Any], *args: Any, **kwargs: Any) -> Any:
    """The hard result. Its gradient comes from the outcomes, so autograd need not record it."""
    if not is_compiling() and torch.autograd.forward_ad._current_level >= 0:
        args = tuple(x.detach() if isinstance(x, Tensor) else x for x in args)
    with torch.no_grad():
        return func(*args, **kwargs)


def decisions(x: Any, found: list[Decision] | None = None) -> list[Decision]:
    """All different decisions in the tree of `x`."""
    found = [] if found is None else found
    tree = outcomes(x)
    if tree is not None:
        for d in found:
            if d.same(tree.decision):
                break
        else:
            found.append(tree.decision)
        decisions(tree.below, found)
        decisions(tree.above, found)
    return found


def cofactor(region: Region, x: Any, decision: Decision, side: bool) -> Any:
    """`x` as it is when `decision` falls on `side` (True: above)."""
    tree = outcomes(x)
    if tree is None:
        return x
    sign = decision.same(tree.decision)
    if sign:
        return tree.above if side == (sign > 0) else tree.below
    covered = decision.covers(tree.decision)
    if covered is not None:
        mask, sign = covered
        return pick(mask, tree.above if side == (sign > 0) else tree.below, x)
    below = cofactor(region, tree.below, decision, side)
    above = cofactor(region, tree.above, decision, side)
    if below is tree.below and above is tree.above:
        return x
    return _from_outcomes(region, x, Outcomes(tree.decision, below, above))


def _from_outcomes(region: Region, like: Tensor, tree: Outcomes) -> Tensor:
    """A tensor of the shape of `like` that has these outcomes."""
    offset, taken = tree.decision.offset(), tree.decision.taken()
    hard = pick(taken, tree.above, tree.below)
    if like.is_floating_point():
        hard, offset = torch.broadcast_tensors(hard, offset)  # type: ignore[no-untyped-call]
        return attach(region, blend(offset, tree.below, tree.above, hard, region.mode, _taken(region, tree)), tree)
    return attach(region, hard, tree)


def _taken(region: Region, tree: Outcomes) -> Tensor | None:
    return tree.decision.taken() if region.mode == "straight-through" else None


def _root(operands: Sequence[Any]) -> Decision | None:
    """The decision to branch on: the first operand's, or one that covers it."""
    root: Decision | None = None
    for x in operands:
        tree = outcomes(x)
        if tree is not None and (root is None or tree.decision.covers(root) is not None):
            root = tree.decision
    return root


def run_on_outcomes(
    region: Region,
    func: Callable[..., Any],
    args: tuple[Any, ...],
    kwargs: dict[str, Any],
    *,
    conditional: bool = False,
) -> Tensor | None:
    """The elementwise `func` on both sides of a decision that its operands carry, joined again.

    Each side runs through the region once more, so operands with further decisions, and sources that make decisions
    of their own (`conditional`), nest. Returns None if no operand has outcomes.
    """
    growing = conditional and any(isinstance(x, Tensor) and x.is_floating_point() for x in (*args, *kwargs.values()))
    args, kwargs = few_decisions(region, args, kwargs, growing=growing, summed=func.__name__ in _KEEP_STEPS)
    operands = (*args, *kwargs.values())
    if _root(operands) is None:
        return None
    hard: Tensor = original(func, *args, **kwargs)
    if not isinstance(hard, Tensor):  # x.type()
        return hard
    for x in operands:
        if hard is x:  # x.to(x.dtype), x.contiguous() … (x itself: Dynamo's `hard` has lost what x carries)
            return x
    tree = _both_sides(region, func, args, kwargs)
    assert tree is not None
    if conditional:  # what was left alone on one side may be asked the same question again: there its answer is known
        tree.below = cofactor(region, tree.below, tree.decision, False)
        tree.above = cofactor(region, tree.above, tree.decision, True)
    sign = _POLARITY.get(func.__name__)
    own = outcomes(args[0]) if sign is not None and args else None
    if sign is None and hard.dtype == torch.bool:
        _recognise(tree, operands)
    if sign is not None and own is not None:
        tree.polarity = sign * own.polarity
        tree.jump = own.jump if sign > 0 or own.jump is None else own.jump.flipped()
    return join(region, func, operands, hard, tree, conditional=conditional)


def _recognise(tree: Outcomes, operands: Sequence[Any]) -> None:
    """What is False on one side and True on the other is its decision again: ``True & mask`` is the mask."""
    sides = _numbers(tree.below, tree.above)
    if sides is None or sides[0] == sides[1]:
        return
    tree.polarity = 1 if sides[1] else -1
    jumps = set()
    for x in operands:
        own = outcomes(x)
        if own is not None:  # (of equal decisions, x > 0 and x >= 0 show different things at a tie)
            known = own.jump if own.decision.same(tree.decision) == 1 else None
            jumps.add(known if known is None or own.polarity == tree.polarity else known.flipped())
    if len(jumps) == 1:
        tree.jump = jumps.pop()


def _numbers(low: Tensor, high: Tensor) -> tuple[Any, Any] | None:
    """The constants that two outcomes are, where reading them makes nobody wait."""
    below, above = known_constant(low), known_constant(high)
    if below is not None and above is not None:
        return below, above
    if is_compiling():
        return None
    if low.device.type != "cpu" or not is_constant(low) or not is_constant(high):
        return None
    known = [x for x in (numbers(low), numbers(high)) if x is not None and x.numel() == 1]  # (vmap: one for each)
    return (known[0].item(), known[1].item()) if len(known) == 2 else None


_POLARITY = {"clone": 1, "contiguous": 1, "__invert__": -1, "bitwise_not": -1, "logical_not": -1}
"""Functions of a bool after which (False, True) is (False, True) again, or turned round."""

MAY_BE_INFINITE: set[str] = set()
"""Functions that can turn a finite operand into inf, NaN or an error (log), and DIVISIONS those that do for a divisor.
Names, because Dynamo does not find Python-level functions in a set. Filled by `rules`."""
DIVISIONS: set[str] = set()


def _guarded(func: Callable[..., Any], args: tuple[Any, ...]) -> bool:
    name = func.__name__
    return name in MAY_BE_INFINITE or (name in DIVISIONS and len(args) > 1 and carrier(args[1]) is not None)


def _both_sides(
    region: Region, func: Callable[..., Any], args: tuple[Any, ...], kwargs: dict[str, Any]
) -> Outcomes | None:
    """`func` on both sides of the root decision of its operands.

    A function that can fail on the side not taken (a division by zero) does not see that side outside the band: there
    both sides are the one taken, and no ``0 * inf`` comes back through the operands.
    """
    root = _root((*args, *kwargs.values()))
    if root is None:
        return None
    guarded, divides = _guarded(func, args), func.__name__ in DIVISIONS

    def on(side: bool, x: Any) -> Any:
        outcome = cofactor(region, x, root, side)
        if not guarded or outcome is x:
            return outcome
        taken = root.offset() > 0 if side else root.offset() <= 0
        seen = region.call(torch.where, root.undecided() | taken, outcome, cofactor(region, x, root, not side))
        if divides and x is args[1] and not x.is_floating_point():  # integers raise
            seen = region.call(torch.where, seen.detach() != 0, seen, 1)
        return seen

    below, above = (
        region.call(func, *[on(side, x) for x in args], **{name: on(side, x) for name, x in kwargs.items()})
        for side in (False, True)
    )
    return Outcomes(root, _settled(below), _settled(above))


def _settled(outcome: Tensor) -> Tensor:
    """An outcome that depends on a decision in name only (``False & mask``), as the constant it is."""
    tree = outcomes(outcome)
    sides = None if tree is None else _numbers(tree.below, tree.above)
    return outcome if tree is None or sides is None or sides[0] != sides[1] else tree.below


def join(
    region: Region,
    func: Any,
    operands: Sequence[Any],
    hard: Tensor,
    tree: Outcomes,
    *,
    conditional: bool = False,
    taken: Tensor | None = None,
) -> Tensor:
    """The result of a function whose `hard` value and whose `tree` of outcomes are known. `taken`: mask of the elements
    at which it has the outcome above, if that is known better than by the decision.
    """
    below, above = tree.below, tree.above
    taken = _taken(region, tree) if taken is None or region.mode != "straight-through" else taken
    if hard.is_complex():
        return blend(tree.decision.offset(), below, above, hard, region.mode, taken)
    if hard.is_floating_point():
        region.count_infinite_jumps(func, operands, tree)
        shown = _selected(tree, below, above, hard, _counts(region, operands, tree)) if region.linear else hard
        out = blend(tree.decision.offset(), below, above, shown, region.mode, taken)
    else:
        out = hard
        if region.linear and any(
            isinstance(x, Tensor) and x.is_floating_point() and carrier(x) is not None for x in operands
        ):
            # In the band the float operands show a blend, a value the hard program never has, and so would a discrete
            # result computed from it. It gets the likelier outcome instead.
            likelier = pick(_likelier(tree.decision), above, below).expand(hard.shape)
            out = likelier if tree.decision.side is not None else pick(tree.decision.offset() != 0, likelier, hard)
    attach(region, out, tree)
    if not region.linear and conditional and len(decisions(out)) > 1:
        # A decision that depends on a decision: see `merge`.
        attach(region, out, merge(out)[0])
    return out


def chain(
    region: Region,
    func: Callable[..., Any],
    args: tuple[Any, ...],
    kwargs: dict[str, Any],
    out: Tensor,
    step: tuple[Decision, Jump] | None = None,
) -> Tensor:
    """Let the result `out` of an ordinary elementwise op promise its outcomes."""

    def compute() -> Outcomes | Choice | None:
        operands = kept()
        if operands is None:
            return None
        args, kwargs = operands[:n], dict(zip(names, operands[n:]))
        chosen = _per_value(region, func, args, kwargs)
        if chosen is not None:
            main, values = chosen
            return None if carrier(values) is not None else main.of(values)
        if region.linear and _of_too_many(operands):
            return None
        return _both_sides(region, func, *few_decisions(region, args, kwargs, growing=not region.linear))

    operands = (*args, *kwargs.values())
    n, names = len(args), tuple(kwargs)
    kept = as_they_are(region, func.__name__, operands)
    length = 1
    for x in operands:
        pair = getattr(x, "_sll", None) if isinstance(x, Tensor) else None
        if pair is not None and isinstance(pair[0], Chain):
            length = max(length, pair[0].length + 1)
    promise = Chain(compute, length, step)
    if length >= 32:  # bounds recursion, and the memory held by operands
        promise.resolve()
    return attach(region, out, promise)


def as_they_are(region: Region, name: str, operands: tuple[Any, ...]) -> Callable[[], tuple[Any, ...] | None]:
    """The operands of the function `name` for a promise, whatever is written to them meanwhile; None if nobody saw the
    write.
    """
    kept = keep(operands, lambda x: attach(region, x.clone(), carrier(x)))
    carried = [(x, carrier(x)) for x in operands]

    def asked() -> tuple[Any, ...] | None:
        found = kept()
        if found is None:
            region.lose(name, [attach(region, x.detach(), of) for x, of in carried if of is not None], _STALE)
        return found

    return asked


_STALE = (
    "an operand was modified in place before a decision on the result, where the region could not see it (a transform "
    "of torch.func, set_, a custom op, another thread). Write y = y + 1, not y += 1."
)


def _all_decisions(operands: Sequence[Any]) -> list[Decision]:
    found: list[Decision] = []
    for x in operands:
        decisions(x, found)
    return found


def few_decisions(
    region: Region, args: tuple[Any, ...], kwargs: dict[str, Any], *, growing: bool = True, summed: bool = False
) -> tuple[tuple[Any, ...], dict[str, Any]]:
    """The operands, reduced to one decision each if together they depend on more than `MAX_DECISIONS`. One operand may
    have more, what a float of several decisions was rounded to, unless the result may have decisions of its own
    (`growing`). (A bool is known by its probability, and with one decision what is computed from it goes on.)

    `summed`: a count goes on as its expectation in any mode, with the gradients of all decisions; the one decision of
    `merge` has those of one. (A code of weighted bits is looked up: what is next to its expectation is no code.)
    """
    operands = (*args, *kwargs.values())
    if len(_all_decisions(operands)) <= MAX_DECISIONS or not growing and not _of_too_many(operands):
        return args, kwargs
    reduced = functools.partial(_reduced, region, summed=summed)
    return tuple(reduced(x) for x in args), {name: reduced(x) for name, x in kwargs.items()}


def _of_too_many(operands: Sequence[Any]) -> bool:
    """Whether the operands depend on more decisions than are kept, which do not all come with one of them."""
    many = len(_all_decisions(operands))
    return many > MAX_DECISIONS and not any(len(decisions(x)) == many and x.dtype != torch.bool for x in operands)


def _reduced(region: Region, x: Any, summed: bool) -> Any:
    if len(decisions(x)) <= 1:
        return x
    alias = x.view_as(x)
    counts = summed and x.dtype != torch.bool and not x.is_floating_point() and by_ones(x)
    counted = counts or _has_expectation(x)
    return attach(region, alias, marginal(x) if region.linear or counted else merge(x)[0])


def marginal(x: Tensor) -> Carrier | None:
    """What is left of the tree of `x` when its decisions are summed out: exact in expectation, and continuous.

    A bool becomes one decision with the probability of True; an integer an expectation; a float an ordinary tensor,
    which already shows its expectation.
    """
    if x.dtype == torch.bool:
        return bool_outcomes(decided_by(expect(x)), x)
    if not x.is_floating_point():
        return Expectation(expect(x), by_ones(x))
    return None


def of_one_order(found: Choice) -> bool:
    """Whether its elements are places or ranks in an order: not independent, for no two stand at the same one."""

    def ordered(key: tuple[Any, ...]) -> bool:
        return any(
            x in ("places", "positions") if isinstance(x, str) else isinstance(x, tuple) and ordered(x) for x in key
        )

    return ordered(found.key)


def by_ones(x: Any) -> bool:
    """Whether the integers `x` change by one at most when one decision falls on its other side."""
    if not isinstance(x, Tensor) or x.dtype == torch.bool or is_compiling():
        return True
    found = resolved(x)
    if isinstance(found, Expectation):
        return found.by_ones
    if isinstance(found, Choice):  # labels of documents that change places: one more or one less is among the first
        values = torch.where(found.weights.detach() > 0, found.values, x.detach().unsqueeze(-1))
        return _at_most_one(values.amax(-1) - values.amin(-1))
    if not isinstance(found, Outcomes):
        return found is None
    return _at_most_one(found.above - found.below) and by_ones(found.below) and by_ones(found.above)


def one_apart(values: Tensor) -> bool:
    """Whether numbers, one of which is taken, are one apart at most: the zeros and ones of labels."""
    return _at_most_one(values.detach() - values.detach().amin()) if values.numel() else True


def _at_most_one(x: Tensor) -> bool:
    """True where there is no number to read."""
    if is_compiling():
        return True
    known = numbers(x)
    return known is None or bool((known.abs() <= 1).all())


OF_WEIGHTED = (
    "which values a sum of weighted decisions can take is not known. Fold the table bit by bit, table = "
    "torch.where(bit, table[1::2], table[::2]), or compare the bits."
)
"""Why a sum that changes by more than one ends where a count would go on."""

_KEEP_STEPS = set(
    """sum nansum cumsum trace diff add __add__ __radd__ sub subtract __sub__ __rsub__ rsub neg negative __neg__
    positive abs absolute __abs__ maximum minimum fmax fmin clamp clip clamp_min clamp_max where masked_fill clone
    contiguous to type type_as""".split()
)
"""Functions of which the results change by one if their operands do."""


def expect(x: Tensor, forward: str = "linear") -> Tensor:
    """Expected value of a bool or integer tensor, differentiable; in the dtype of the weights for bool, float64 for
    integers. With ``"straight-through"``, for a bool that carries outcomes: what it shows, and each decision's
    derivative has the others as the program takes them.
    """
    found = carrier(x)
    if isinstance(found, Expectation):
        return found.value
    if isinstance(found, Choice):
        values = found.values.to(found.weights.dtype if x.dtype == torch.bool else exact_dtype(x))
        return (values * shown_weights(found, x).to(values.dtype)).sum(-1)
    tree = outcomes(x)
    if tree is None:
        return x.to(torch.float32 if x.dtype == torch.bool else exact_dtype(x))
    at_once = in_one_pass(x, step_of_mask(x), forward)
    if at_once is not None:
        return at_once
    below, above = expect(tree.below, forward), expect(tree.above, forward)
    if forward == "linear" and tree.decision.side is not None:
        at_once = _joint(tree, below, above, ties=False)
        if at_once is not None:
            return at_once
    if tree.decision.side is not None:
        at_once = select(tree.decision.offset(), tree.decision.taken(), below, above, forward, finite=True)
        if at_once is not None:
            return at_once
    dtypes = (tree.decision.offset().dtype, below.dtype, above.dtype)
    hard = packed(x).to(compute_dtype(*dtypes)) if x.dtype == torch.bool else x.to(exact_dtype(x))
    if forward != "linear":
        return blend(tree.decision.offset(), below, above, hard, forward, tree.decision.taken())
    return blend(tree.decision.offset(), below, above, _selected(tree, below, above, hard), forward)


def probability(x: Tensor) -> Tensor:
    """Expected value of a bool; other than `expect` it is 1/2 at an exact tie, whatever `x` shows there."""
    found = resolved(x)
    if isinstance(found, Choice):
        return (found.values.to(found.weights.dtype) * found.weights).sum(-1)
    if not isinstance(found, Outcomes):
        return x.to(torch.float32)
    if found.polarity and (is_compiling() or found.decision.known() or x.numel() < LEAST):
        return found.decision.weight() if found.polarity > 0 else 0.5 - found.decision.offset()
    step = step_of_mask(x)
    at_once = None if step is None else in_one_pass(x, (step[0], step[1]._replace(at_tie=0.5)), "linear")
    if at_once is not None:
        return at_once
    below, above = probability(found.below), probability(found.above)
    at_once = _joint(found, below, above, ties=True)
    if at_once is not None:
        return at_once
    at_once = select(found.decision.offset(), found.decision.taken(), below, above, "linear", ties=True, finite=True)
    if at_once is not None:
        return at_once
    weight = found.decision.weight()
    return below * (1 - weight) + above * weight


def _joint(tree: Outcomes, below: Tensor, above: Tensor, ties: bool) -> Tensor | None:
    """The probability of a mask that is known on one side of its decision (`and`, `or`): a product, in compiled code.

    `below` and `above` are what it is on the two sides. With `ties`, an exact tie has half of each.
    """
    low, high = known_constant(tree.below), known_constant(tree.above)
    if not is_compiling() or low is None and high is None:
        return None
    offset = tree.decision.offset()
    other, known, weight = (above, low, offset + 0.5) if high is None else (below, high, 0.5 - offset)
    if other.shape != offset.shape or other.dtype != offset.dtype:
        return None
    shown = None
    if not ties:
        taken = tree.decision.taken() if high is None else tree.decision.taken().logical_not()
        shown = torch.where(offset == 0, taken.to(offset.dtype), weight).detach()
    return 1 - product(weight, 1 - other, shown) if known else product(weight, other, shown)


def _counts(region: Region, operands: Sequence[Any], tree: Outcomes) -> tuple[Tensor | None, Tensor | None]:
    """Below and above the decision of `tree`, masks of the elements at which an integer among the operands is not the
    expectation that a float computed from it shows. (That float carries nothing, and cannot tell.)
    """
    counts = [x for x in operands if _has_expectation(x)]
    below, above = (
        _any_of([undecided(cofactor(region, x, tree.decision, side)) for x in counts]) for side in (False, True)
    )
    return below, above


def _has_expectation(x: Any) -> bool:
    found = None if not isinstance(x, Tensor) or x.is_floating_point() else carrier(x)
    if isinstance(found, Outcomes):
        return _has_expectation(found.below) or _has_expectation(found.above)
    return isinstance(found, Expectation)


def _any_of(masks: Sequence[Tensor | None]) -> Tensor | None:
    known = [mask for mask in masks if mask is not None]
    return functools.reduce(torch.logical_or, known) if known else None


def _selected(
    tree: Outcomes,
    below: Tensor,
    above: Tensor,
    hard: Tensor,
    counts: tuple[Tensor | None, Tensor | None] = (None, None),
) -> Tensor:
    """What is shown outside the band of the outermost decision: `hard`, unless the outcome there has undecided
    decisions of its own (or is computed from such, `counts`).
    """
    inner = [_any_of((undecided(side), of)) for side, of in zip((tree.below, tree.above), counts)]
    if inner[0] is None and inner[1] is None:
        return hard
    never = torch.zeros((), dtype=torch.bool, device=hard.device)
    low, high = (never if mask is None else mask for mask in inner)
    side = _likelier(tree.decision)
    depends = pick(side, high, low)
    if tree.decision.side is None:  # three values at a boundary, perhaps: only `hard` knows what is at a tie
        depends = (tree.decision.offset() != 0) & depends
    return pick(depends, pick(side, above.to(hard.dtype), below.to(hard.dtype)), hard)


def _likelier(decision: Decision) -> Tensor:
    """Mask of the elements that are rather above; at an exact tie, if the decision knows, what the program takes."""
    offset = decision.offset()
    return offset > 0 if decision.side is None else pick(offset == 0, decision.taken(), offset > 0)


def undecided(x: Tensor) -> Tensor | None:
    """Mask of the elements whose value depends on a decision in its band; None if `x` carries nothing."""
    found = carrier(x)
    if isinstance(found, Expectation):
        return uncertain(found, x)
    if isinstance(found, Choice):
        return ~found.decided()
    tree = outcomes(x)
    if tree is None:
        return None
    offset = tree.decision.offset()
    mask = offset.abs() < 0.5
    for side, inner in ((offset <= 0, undecided(tree.below)), (offset > 0, undecided(tree.above))):
        if inner is not None:
            mask = mask | (side & inner)
    return mask


def uncertain(found: Expectation, x: Tensor) -> Tensor:
    """Mask of the elements whose expectation is not the integer that is shown, rounding of a long sum aside."""
    return (found.value.detach() - x).abs() > 1e-6 * x.abs().clamp(min=1)


def exact_dtype(x: Tensor) -> torch.dtype:
    """The float that holds integers exactly up to 2**53, where the device has it."""
    return torch.float32 if x.device.type == "mps" else torch.float64


class _Merged(Decision):
    """One decision per element, taken from a tree: at each element the one that is undecided there."""

    def __init__(self, offset: Tensor, parts: list[_Part]) -> None:
        super().__init__(("merged", offset), lambda: offset)
        self.parts = parts
        # Merged decisions are merged again, step after step: without a memory the search walks every path. It holds
        # on to no decision, because decisions hold on to each other, and cycles would keep tensors alive.
        self._found: dict[int, tuple[weakref.ref[Decision], tuple[Tensor, int] | None]] = {}

    def covers(self, other: Decision) -> tuple[Tensor, int] | None:
        if is_compiling():
            return self._search(other)
        if not self.bits & other.bit:
            return None
        known = self._found.get(id(other))
        if known is None or known[0]() is not other:
            known = self._found[id(other)] = (weakref.ref(other), self._search(other))
        return known[1]

    @functools.cached_property
    def bits(self) -> int:
        """Of all decisions that it may stand for."""
        found = 0
        for _, part in self.parts:
            found |= part.bit | (part.bits if isinstance(part, _Merged) else 0)
        return found

    def _search(self, other: Decision) -> tuple[Tensor, int] | None:
        for mask, part in self.parts:
            sign = part.same(other)
            if sign:
                return mask(), sign
            inner = part.covers(other)
            if inner is not None:
                return mask() & inner[0], inner[1]
        return None


_Part: TypeAlias = tuple[Callable[[], Tensor], Decision]
"""Where a merged decision is which one. Hardly any mask is asked for, except the root's."""


def merge(x: Tensor) -> tuple[Outcomes, list[_Part]]:
    """The tree of `x` with one decision per *element*: exact wherever at most one is undecided.

    A program that decides again and again on what it decided before (a spike resets the membrane that makes the next
    spike) has a tree that doubles at every step, but at any one element hardly ever are two decisions undecided at
    once. So at each element keep the decision that is, with its two outcomes. Where two are (a share of order `eps`),
    a bool falls back to the probability of True and a number to the outer decision. The error vanishes with `eps`,
    but the result is not the derivative of one continuous function; `forward="linear"` therefore never uses this.
    """
    tree = outcomes(x)
    assert tree is not None
    at_once = _merged_at_once(x, tree)
    if at_once is not None:
        return at_once
    offset = tree.decision.offset().expand(x.shape)
    undecided = offset.abs() < 0.5
    side = offset > 0
    sides: list[tuple[Tensor, Tensor, Tensor, Tensor, list[_Part]]] = []
    for outcome in (tree.below, tree.above):
        if outcomes(outcome) is None:
            below = torch.full((), -0.5, dtype=offset.dtype, device=offset.device)
            sides.append((outcome, outcome, below, below > 0, []))
        else:
            inner, parts = merge(outcome)
            sides.append((inner.below, inner.above, inner.decision.offset(), inner.decision.undecided(), parts))
    (b0, a0, d0, u0, p0), (b1, a1, d1, u1, p1) = sides
    below = _either(undecided, tree.below, _either(side, b1, b0))
    above = _either(undecided, tree.above, _either(side, a1, a0))
    merged = pick(undecided, offset, pick(side, d1, d0))
    if x.dtype == torch.bool:
        both = undecided & (u0 | u1)
        below, above = below & ~both, above | both
        merged = pick(both, probability(x) - 0.5, merged)
        undecided = undecided & ~both
    masks: dict[int, tuple[Tensor, Decision]] = {id(tree.decision): (undecided, tree.decision)}
    for here, inner_parts in ((~undecided & ~side, p0), (~undecided & side, p1)):
        for of, decision in inner_parts:  # both sides may know the same decision
            mask = here & of()
            before = masks.get(id(decision))
            masks[id(decision)] = (mask if before is None else before[0] | mask, decision)
    parts = [(_known(mask), decision) for mask, decision in masks.values()]
    decision = _Merged(merged, parts)
    decision.side = shows(x, above)
    return Outcomes(decision, below, above), parts


def _known(mask: Tensor) -> Callable[[], Tensor]:
    return lambda: mask


def _merged_at_once(x: Tensor, tree: Outcomes) -> tuple[Outcomes, list[_Part]] | None:
    """`merge` of a mask with a mask on each side, of which each rises or falls with one decision or has none."""
    if x.dtype != torch.bool or is_compiling() or tree.polarity:
        return None
    inner = [outcomes(side) for side in (tree.below, tree.above)]
    if any(side is not None and not side.polarity for side in inner):
        return None
    if inner[0] is not None and inner[1] is not None and inner[0].decision is inner[1].decision:
        return None
    low, high = (None if side is None else side.decision.offset().expand(x.shape) for side in inner)
    root = tree.decision.offset().expand(x.shape)
    signs = [0 if side is None else side.polarity for side in inner]
    found = kernels.merge(root, low, high, tree.below, tree.above, x, *signs)
    if found is None:
        return None
    parts: list[_Part] = [(_known(found.root), tree.decision)]
    for side, above in zip(inner, (False, True)):
        if side is not None:
            parts.append((_on_side(found.root, root.detach(), side.decision, above), side.decision))
    decision = _Merged(found.offset, parts)
    decision.side = lambda _: found.taken
    return Outcomes(decision, found.below, found.above), parts


def _on_side(root: Tensor, offset: Tensor, decision: Decision, above: bool) -> Callable[[], Tensor]:
    """Where the root is not what counts, and `decision`, on that side of it, is undecided."""
    return lambda: ~root & (offset > 0 if above else offset <= 0) & decision.undecided()


def _either(mask: Tensor, a: Tensor, b: Tensor) -> Tensor:
    """``pick(mask, a, b)``, where constants are often known: half of the outcomes of a mask are."""
    x, y = known_constant(a), known_constant(b)
    if x is None and y is None or is_compiling():
        return pick(mask, a, b)
    if x is not None and x == y:
        return a
    if x is None:
        return a | mask.logical_not() if y else a & mask
    if y is None:
        return b | mask if x else b & mask.logical_not()
    return mask.clone() if x else mask.logical_not()


def through_expectation(
    region: Region, func: Callable[..., Any], args: tuple[Any, ...], kwargs: dict[str, Any], *, widen: bool = False
) -> Any:
    """A function that is linear in each discrete operand: its expectation is the function of their expectations.

    ``widen`` converts the discrete operands that carry nothing, too (a matrix product wants one dtype).
    """

    divides = func.__name__ in DIVISIONS and len(args) > 1

    def as_float(x: Any, how: str) -> Any:
        if isinstance(x, (tuple, list)):
            return type(x)(as_float(item, how) for item in x)
        if not isinstance(x, Tensor) or x.is_floating_point() or x.is_complex():
            return x
        number = x.to(exact_dtype(x)) if widen or discrete_carrier(x) else x
        if how == "shown" or not discrete_carrier(x):
            return number
        expected = expect(x).to(exact_dtype(x))
        if how == "expected":
            return expected
        if divides and x is args[1]:  # a zero that the program guards against: it divides by it on another side
            number = torch.where(number == 0, expected.detach(), number)
        return hard_forward(number, expected)

    def run(how: str) -> Tensor:
        found: Tensor = func(*as_float(list(args), how), **{name: as_float(x, how) for name, x in named.items()})
        return found

    hard = original(func, *args, **kwargs)
    named = {name: x for name, x in kwargs.items() if name != "dtype"}
    value = run("expected")
    factors = [x for x in (*args, *named.values()) if isinstance(x, Tensor)]
    if region.mode == "straight-through" and len(factors) > 1:
        # A product: each factor's gradient has the other one as the program takes it, as that of floats has.
        value = hard_forward(value, run("straight-through"))
    if not (hard.is_floating_point() or hard.is_complex()):
        operands = [y for x in (*args, *named.values()) for y in (x if isinstance(x, (tuple, list)) else (x,))]
        counts = func.__name__ in _KEEP_STEPS and all(by_ones(x) for x in operands if discrete_carrier(x))
        return attach(region, hard, Expectation(value, counts))
    if not region.linear:
        return hard_forward(hard, value)
    # Bit for bit the hard value where nothing is in the band: there the same arithmetic on hard operands agrees.
    decided = original(run, "shown")
    return torch.where(value == decided, hard_forward(hard, value), value.to(hard.dtype))


# --- choices -----------------------------------------------------------------------------------------------------

MAX_VALUES = 64
"""An integer that depends on several choices keeps their joint values up to this many; beyond it, its expectation."""


def _per_value(
    region: Region, func: Callable[..., Any], args: tuple[Any, ...], kwargs: dict[str, Any]
) -> tuple[Choice, Tensor] | None:
    """The elementwise `func` for each value of the first choice among its operands: that choice, and the results,
    (*shape, M). They carry what else the operands carry.
    """
    main = next((x for x in (*args, *kwargs.values()) if choice(x) is not None), None)
    if main is None:
        return None
    first = choice(main)
    assert first is not None

    def lift(x: Any) -> Any:
        if not isinstance(x, Tensor):
            return x
        found = choice(x)
        if found is not None and equal_keys(found.key, first.key):
            return found.values
        if x.dim() == 0 and main.dim():
            return x  # a number to type promotion, and it stays one
        return region.call(torch.unsqueeze, x, -1)

    named = {name: lift(x) for name, x in kwargs.items() if name != "memory_format"}
    return first, region.call(func, *[lift(x) for x in args], **named)


def run_on_choices(region: Region, func: Callable[..., Any], args: tuple[Any, ...], kwargs: dict[str, Any]) -> Any:
    """The elementwise `func` of operands of which one carries a `Choice`, for each of its values; None if none does."""
    if not any(choice(x) is not None for x in (*args, *kwargs.values())):
        return None
    hard = original(func, *args, **kwargs)
    operands = (*args, *kwargs.values())
    if not isinstance(hard, Tensor):
        return hard
    for x in operands:
        if hard is x:
            return x
    chosen = _per_value(region, func, args, kwargs)
    assert chosen is not None
    found, values = chosen
    blended = any(isinstance(x, Tensor) and x.is_floating_point() and carrier(x) is not None for x in operands)
    return settle(region, hard, found, values, blended=blended)


def settle(
    region: Region, hard: Tensor, found: Choice, values: Tensor, *, blended: bool = False, taken: Tensor | None = None
) -> Tensor:
    """The result of a function whose `hard` value and whose `values` (*shape, M) for each choice are known.

    `blended`: float operands show a mixture, and a discrete result computed from it need not be one of the values.
    `taken`: mask (*shape, M) of the value that the hard program takes, for `mix`.
    """
    rank = hard.dim() + 1
    if values.dim() < rank:
        values = region.call(torch.Tensor.reshape, values, (1,) * (rank - values.dim()) + tuple(values.shape))
    if found.weights.dim() < rank:
        found = found.map(found.key, lambda t: t.reshape((1,) * (rank - t.dim()) + tuple(t.shape)))
    found = found.of(values)
    if hard.is_complex():
        wide = values.to(hard.dtype)
        parts = [mix(found.of(part(wide)), part(hard), region.mode) for part in (torch.real, torch.imag)]
        return torch.complex(*parts)
    if hard.is_floating_point():
        inner = undecided(values)
        out = mix(found, hard, region.mode, inner=None if inner is None else inner.any(-1), taken=taken)
        return attach(region, out, found if carrier(values) is None else None)
    if carrier(values) is not None:
        return attach(region, hard, _flattened(hard, found))
    out = hard
    if region.linear and blended:
        full = values.expand(*hard.shape, values.shape[-1])
        best = found.weights.detach().argmax(-1, keepdim=True).expand(*hard.shape, 1)
        out = torch.where(found.decided() | found.ties.squeeze(-1), hard, full.gather(-1, best).squeeze(-1))
    return attach(region, out, found)


def _flattened(hard: Tensor, found: Choice) -> Carrier:
    """Values that carry linearizations of their own, as one choice; too many as their expectation."""
    values, weights = found.values, found.weights
    if hard.dtype == torch.bool:
        return bool_outcomes(decided_by((weights * expect(values)).sum(-1)), hard)
    inner = distribution(values)
    many = values.shape[-1] * (inner.weights.shape[-1] if inner is not None else MAX_VALUES + 1)
    if inner is None or many > MAX_VALUES:
        means = expect(values)
        total = (weights.to(means.dtype) * means).sum(-1).expand(hard.shape)
        return Expectation(total, one_apart(means) and by_ones(values))
    joint = weights.unsqueeze(-1) * inner.weights
    shape = (*hard.shape, *joint.shape[-2:])
    ties = found.ties | (inner.ties.squeeze(-1) & (weights.detach() > 0)).any(-1, keepdim=True)
    joint, flat = (t.expand(shape).reshape(*hard.shape, many) for t in (joint, inner.values))
    return Choice(("mixed", joint), flat, joint, ties)


def distribution(x: Tensor) -> Choice | None:
    """`x` as a choice, not broadcast; None if only the expectation is known."""
    found = resolved(x)
    if isinstance(found, Expectation):
        return None
    if isinstance(found, Choice):
        return found.map(found.key, lambda t: t.expand(*x.shape, t.shape[-1]))
    if not isinstance(found, Outcomes):
        ones = torch.ones((), dtype=torch.float32, device=x.device).expand(*x.shape, 1)
        return Choice(("constant",), x.unsqueeze(-1), ones, ones < 1)
    offset = found.decision.offset().expand(x.shape).unsqueeze(-1)
    sides = [distribution(side.expand(x.shape) if is_constant(side) else side) for side in (found.below, found.above)]
    if sides[0] is None or sides[1] is None:
        return None
    low, high = (side.map(side.key, lambda t: t.expand(*x.shape, t.shape[-1])) for side in sides if side is not None)
    weights = torch.cat([low.weights * (0.5 - offset), high.weights * (0.5 + offset)], -1)
    ties = (offset == 0) | torch.where(offset > 0, high.ties, low.ties)
    return Choice(("mixed", weights), torch.cat([low.values, high.values], -1), weights, ties)


def shown_weights(found: Choice, x: Tensor) -> Tensor:
    """The weights of a choice; at an exact tie the value that `x` shows has all the weight (and the ramp's slope)."""
    weights = found.weights
    shown = (found.values == x.unsqueeze(-1)).to(weights.dtype)
    shown = shown / shown.sum(-1, keepdim=True).clamp(min=1)
    weights, shown = torch.broadcast_tensors(weights, shown)  # type: ignore[no-untyped-call]
    return hard_forward(torch.where(found.ties, shown, weights), weights)


def shown_weight(tree: Outcomes, x: Tensor) -> Tensor:
    """The weight of the outcome above; at an exact tie 1 or 0, according to what `x` shows."""
    offset = tree.decision.offset().expand(x.shape)
    above = (x == tree.above).to(offset.dtype).expand(x.shape)
    zero = torch.zeros((), dtype=offset.dtype, device=x.device)
    return blend(offset, zero, zero + 1, torch.where(offset == 0, above, (offset > 0).to(offset.dtype)), "linear")


def mix(found: Choice, hard: Tensor, forward: str, inner: Tensor | None = None, taken: Tensor | None = None) -> Tensor:
    """``sum of weights * values`` over the last dimension in the band; `hard` where one value has all the weight, at an
    exact tie, and where the values in question are not all finite. With `forward` other than ``"linear"`` the value
    is `hard` everywhere and only the gradient is that of the sum; with ``"straight-through"`` the gradient of the
    values goes to the one that the program takes (`taken`; by default those that are equal to `hard`).

    `inner`: mask of elements whose values are undecided themselves: there `hard` is not what to show.
    """
    wide = compute_dtype(found.weights.dtype, hard.dtype)
    w, v = found.weights.to(wide), found.values.to(wide)
    best, likeliest = w.detach().max(-1)
    infinite = ((w.detach() > 0) & ~v.detach().isfinite()).any(-1)
    # Where something is infinite the likeliest value alone counts, and the choice has no gradient.
    alone = (torch.arange(w.shape[-1], device=w.device) == likeliest.unsqueeze(-1)).to(wide)
    w = torch.where(infinite.unsqueeze(-1), alone, w)
    v = torch.where((w.detach() > 0) | v.detach().isfinite(), v, 0)
    if forward == "straight-through":
        shown = v.detach() == hard.detach().unsqueeze(-1) if taken is None else taken
        shown = torch.where(shown.any(-1, keepdim=True), shown / shown.sum(-1, keepdim=True).clamp(min=1), alone)
        return hard_forward(hard, (w * v.detach() + shown * v).sum(-1).expand(hard.shape))
    soft = (w * v).sum(-1).expand(hard.shape)
    if forward == "hard":
        return hard_forward(hard, soft)
    shown = (best == 1) | infinite | found.ties.squeeze(-1)
    if inner is not None:
        shown = shown & ~inner
    return torch.where(shown, hard_forward(hard, soft), soft.to(hard.dtype))


def collapse(region: Region, x: Tensor) -> Tensor:
    """A bool that carries a choice, as one that carries the probability of True."""
    if choice(x) is None or x.dtype != torch.bool:
        return x
    return attach(region, x.view_as(x), bool_outcomes(decided_by(expect(x)), x))
