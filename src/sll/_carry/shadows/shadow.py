"""What a bool, an integer or an index carries in a region of local gradients.

A `Shadow` stands for a discrete tensor: `value` is a float tensor with its hard value and the surrogate's gradient, and
`other` the tensor as it would be on the other side of the nearest decision boundary, where that is known.

`Weights` are the shadow of an index that was chosen: one number for each candidate, 1 for the one that was chosen,
with the gradient of the projection that `sll.argmax` and `sll.topk_mask` are.

`Whole` says of a float that it is made of whole numbers (it was rounded), and what `other` would be. It has no gradient
of its own: a float is an ordinary tensor.

`Selected` are the floats that a mask selected: ``x[mask]`` has no place for what was left out.
"""

from __future__ import annotations

import functools
from collections.abc import Callable, Sequence
from typing import Any, TypeAlias

import torch
from torch import Tensor

from ..._ops.saving import saved_as_then, saving
from ..._ops.surrogates import alias, follow, fresh
from ..interface import Carried, Func, Region, attach, held

Other: TypeAlias = "Callable[[Tensor], Tensor | None] | None"
"""From a tensor to what it would be on the other side."""
Ends: TypeAlias = "tuple[float, float] | None"
"""The least and the largest number that a tensor holds, and that it would hold on the other side, where it is known."""
Of: TypeAlias = "Callable[[Tensor], Tensor] | None"
Parts: TypeAlias = "Callable[[], tuple[Tensor, Tensor] | None]"
"""What each decision changes of a number, see `terms.py`: the shares of the decisions, which have a gradient (and any
value), and the changes, in one dimension more. None if it is not known.
"""


MONOTONE = set("add __add__ __radd__ sub subtract __sub__ clamp clip clamp_min clamp_max minimum maximum".split())
"""Functions that rise with their first operand."""


class Told(Carried):
    """What tensors carry in a region of local gradients."""


class Shadow(Told):
    """The shadow of a bool or integer tensor.

    `make` is the value, or computes it, anew at each call (`shared`: or others have it, too); it must depend on nothing
    that the program can write to. `exact`: it is bit for bit the tensor's, as a float of this type. `other` is given
    the tensor that carries the shadow. A bool is its opposite there, if nothing else is said. `by_ones`: each decision
    changes the number by one at most (a bool is not asked).
    """

    make: Callable[[], Tensor]
    shared = False
    by_ones = False
    raw: Callable[[], Tensor] | None = None
    """Of a count: the value, whose gradient may be infinite or NaN where nothing is counted."""
    ends: Ends = None
    terms: Parts | None = None
    """Where several decisions make the number: what each of them changes."""
    depth = 0
    """How many functions these have gone through."""
    root: tuple[Shadow, Tensor, int] | None = None
    """Of what is made of one decision, element by element: the shadow of that, its tensor, and the version of it."""
    rises = False
    """Whether it is known to rise and fall with that."""
    numbers: Tensor | None = None
    """The tensor as it was. (Nobody writes to it.)"""
    rounded: Any = None
    """Of an index that floats were rounded to: the `Account` of these."""

    def __init__(
        self, make: Tensor | Callable[[], Tensor], other: Other = None, exact: torch.dtype | None = None,
        by_ones: bool = False, shared: bool = False,
    ) -> None:  # fmt: skip
        known = not callable(make)
        self.make = (lambda: make) if known else make  # type: ignore[assignment, return-value]
        self.exact = exact
        self.shared = shared or known
        self.by_ones = by_ones or other is opposite
        self._value: Tensor | None = make if known else None  # type: ignore[assignment]
        self._other = other
        self._saving = saving()

    def value(self) -> Tensor:
        if self._value is None:
            if torch.is_grad_enabled():
                self._value = saved_as_then(self._saving, self.make)
            else:
                with torch.enable_grad():
                    self._value = saved_as_then(self._saving, self.make)
        return self._value

    def new(self) -> Tensor:
        """The value, as a tensor that nobody else has."""
        if not self.shared:
            return self.make()
        value = self.value()
        return value.clone() if 0 in value.stride() else fresh(value)  # (a lazy clone keeps what `expand` repeats)

    def waits(self) -> bool:
        """Whether the value, or the other side, is to be worked out when somebody asks."""
        return self._value is None or self._other not in (None, opposite)

    def settle(self, x: Tensor) -> None:
        """Works out what waits for others: the value, and `x` on the other side."""
        self.value()
        if self._other is not None and self._other is not opposite:
            there = self.other(x)
            self._other = lambda _: there
        self.links = 0

    def outside(self) -> bool:
        """Whether it is known, without working it out, that nothing is in its band."""
        return False

    def knows_other(self) -> bool:
        return self._other is not None

    def is_flag(self, x: Tensor) -> bool:
        """Whether `x`, which carries it, is 0 or 1."""
        return x.dtype == torch.bool or self._other is opposite

    def other(self, x: Tensor) -> Tensor | None:
        """`x` on the other side, or None if that is not known."""
        if self._other is not None and x.dtype != torch.bool:
            return self._other(x)
        return x.logical_not() if x.dtype == torch.bool else None

    def parts(self, now: Tensor) -> tuple[Tensor, Tensor] | None:
        """Of `now`, which carries it: see `Parts`."""
        beyond = self.other(now)
        if beyond is None:
            return None
        change, value = beyond.long() - now.long(), self.value()
        share = value * torch.where(change == 0, 0, 1 / change.to(value.dtype))
        return share.unsqueeze(-1), change.unsqueeze(-1)

    def shown(self, x: Tensor, dtype: torch.dtype) -> Tensor:
        """``x.to(dtype)``, a float of its own, with the gradient of the shadow of `x`."""
        with torch.enable_grad():
            if self.exact is dtype:
                return self.new()
            soft = self.value()
            return follow(soft if soft.dtype == dtype else soft.to(dtype), lambda: x.to(dtype))


def opposite(n: Tensor) -> Tensor:
    """The other side of 0 and of 1."""
    return 1 - n


class Weights(Shadow):
    """The shadow of an index: numbers (*shape, n) of the candidates `labels`, which are (n,) or (*shape, n).

    `weigh` computes both when somebody asks; the labels may be known. `positions`: they are 0 … n - 1. `value`: the
    index as a number, where that is not the sum of labels by weight. `owner` numbers the choices that the elements are
    places of (no two places have the same candidate). `order`: of an order or its inverse, what it reads and writes
    without weights. `base`: the first of those that are the same choice.
    """

    _base: Weights | None = None
    part: tuple[Any, Of, Of] | None = None
    """Of functions of an index that has an `order`: that, the function of its numbers, and which elements."""

    def __init__(
        self,
        weigh: Callable[[], tuple[Tensor, Tensor]],
        labels: Tensor | None = None,
        positions: bool = False,
        value: Callable[[], Tensor] | None = None,
        owner: Callable[[], Tensor] | None = None,
        order: Any = None,
    ) -> None:
        super().__init__(weigh if value is None else value)  # type: ignore[arg-type]
        self._numbered = value is not None
        self._weigh = weigh
        self._weights: Tensor | None = None
        self._labels = labels
        self.positions = positions
        self.number = value
        self.owner = owner
        self.order = order

    @property
    def base(self) -> Weights:
        return self._base or self

    @property
    def labels(self) -> Tensor:
        if self._labels is None:
            self.weights()
        assert self._labels is not None
        return self._labels

    def weights(self) -> Tensor:
        if self._weights is None:
            with torch.enable_grad():
                self._weights, self._labels = saved_as_then(self._saving, self._weigh)
        return self._weights

    def value(self) -> Tensor:
        if self._value is None and not self._numbered:
            with torch.enable_grad():
                self._value = saved_as_then(self._saving, self._added)
        return super().value()

    def _added(self) -> Tensor:
        """The labels by weight."""
        if (part := self.reading()) is None:
            weights = self.weights()
            return (weights * self.labels.to(weights.dtype)).sum(-1)
        order, _, one = part
        numbers: Tensor = order.index if one is None else one(order.index)
        return self.read(lambda i: i, lambda: numbers.to(order.dtype))  # type: ignore[return-value]

    def changes(self, now: Tensor) -> Tensor:
        """To each candidate from `now`, which carries it."""
        return self.labels.long() - now.detach().long().unsqueeze(-1)

    def parts(self, now: Tensor) -> tuple[Tensor, Tensor]:
        return self.weights(), self.changes(now)

    def reading(self) -> tuple[Any, Of, Of] | None:
        """`part`, or all of the order."""
        return self.part if self.order is None else (self.order, None, None)

    def read(self, of: Callable[[Tensor], Tensor], make: Callable[[], Tensor] | None = None) -> Tensor | None:
        """What each element reads, a function `of` its number, as a float: `make`, or zeros. None where that needs the
        weights.
        """
        if (part := self.reading()) is None:
            return None
        order, before, one = part
        each = of if before is None else lambda i: of(before(i))
        if one is None:
            return order.read(each, make)  # type: ignore[no-any-return]
        soft = one(order.read(each))
        return soft if make is None else follow(soft, make)

    def through(
        self, of: Callable[[Tensor], Tensor], out: Tensor, value: Callable[[], Tensor] | None = None
    ) -> Weights:
        """What `out` carries, a function `of` each number. (`value`, if that is not the sum of labels by weight.)"""
        owner, part = self.owner, self.reading()
        if part is not None:
            order, before, one = part
            numbers, dtype = alias(out), order.dtype
            value = value or (lambda: self.read(of, lambda: numbers.to(dtype)))  # type: ignore[return-value, assignment]
            part = order, of if before is None else (lambda i: of(before(i))), one
        found = Weights(lambda: (self.weights(), of(self.labels)), value=value, owner=owner)
        found._base, found.part = self.base, part
        return found

    def of_labels(
        self,
        labels: Tensor,
        spread: Callable[[Tensor], Tensor] | None = None,
        value: Callable[[], Tensor] | None = None,
    ) -> Weights:
        """The same choice among other values. `spread` fits what belongs to an element to the result."""
        fit = spread or (lambda t: t)
        owner = self.owner
        owned = None if owner is None else lambda: fit(owner().unsqueeze(-1)).squeeze(-1)
        found = Weights(lambda: (fit(self.weights()), labels), labels, value=value, owner=owned)
        found._base = self.base
        return found


class Whole(Told):
    """A float tensor made of whole numbers, and what it would be on the other side of the nearest boundary.

    `by_ones`: no further than one. `line`: see `wraps.py`. `of`: it is known from that, as long as nobody writes there.
    """

    ends: Ends = None
    used = True  # (an ordinary float, which has its gradient anywhere)

    def __init__(
        self, other: Callable[[Tensor], Tensor | None], by_ones: bool = True, line: Any = None, of: Tensor | None = None
    ) -> None:
        self._other, self.by_ones, self.line = other, by_ones, line
        self.of, self.version = of, None if of is None else of._version

    def other(self, x: Tensor) -> Tensor | None:
        """None if it is not known."""
        if self.of is not None and self.of._version != self.version:
            return None
        return self._other(x)


class Either(Whole):
    """A float that is one of two numbers, element by element: one that was written where something was chosen, and what
    stood there. `share` is how much it is the other one: 0, with a gradient. `plain`: the same numbers without the
    gradient of that choice, if they have one.
    """

    def __init__(self, share: Shadow, other: Callable[[Tensor], Tensor | None], plain: Tensor | None = None) -> None:
        super().__init__(other, False)
        self.share, self.plain = share, plain


class Selected(Told):
    """``x[mask]`` as long as nothing but functions of single elements or rows followed.

    `candidates` computes the function for all elements of `x`, selected or not, with the dimensions of the mask
    flattened into one; `shadow` is that of the mask, flattened, and `mask` the mask. `behind`: how many dimensions
    follow that one. `own`: the shadow of the elements themselves, if they were decided.
    """

    selects = used = True

    def __init__(
        self, candidates: Callable[[], Tensor], shadow: Shadow, mask: Tensor, behind: int, own: Shadow | None = None
    ) -> None:
        self.candidates = candidates
        self.shadow = shadow
        self.mask = mask
        self.behind = behind
        self.own = own


class Scaled(Told):
    """A float of which nothing else is known than the `line` it is on, see `wraps.py`."""

    def __init__(self, line: Any) -> None:
        self.line = line


carry = attach
carried: Callable[[Any], Any] = functools.partial(held, kind=Told)
"""What a tensor carries of these."""


def shadow(x: Any) -> Shadow | None:
    """The shadow of a bool or integer tensor."""
    found = carried(x)
    if found is None or isinstance(found, Shadow):
        return found
    return found.own if isinstance(found, Selected) else None


def quick_shadow(x: Any) -> Shadow | None:
    """The shadow of a bool or integer tensor, if it is the same number for number and nobody has written to it."""
    pair = getattr(x, "_sll", None)
    if pair is None or type(x) is not Tensor or pair[1] != x._version:
        return None
    found = pair[0]
    return found if isinstance(found, Shadow) and found.exact is not None and found.within is None else None


def as_float(x: Tensor) -> Tensor:
    return x if x.is_floating_point() or x.is_complex() else x.float()


def as_value(x: Any) -> Any:
    """What stands for an operand where floats are computed: the shadow, or the tensor as a float."""
    own = shadow(x)
    return own.value() if own is not None else as_float(x) if isinstance(x, Tensor) else x


def root_of(operands: list[Tensor], shape: torch.Size) -> tuple[Shadow, Tensor, int] | None:
    """The one decision of which all operands are made, element by element as the result of this shape; None if there
    are several, or if it is not known what they would be on its other side.
    """
    found = None
    for x in operands:
        own: Any = x._sll[0]  # type: ignore[attr-defined]
        own = own.own if type(own) is Selected else own
        if own.terms is not None or x.shape != shape or isinstance(own, Weights):
            return None
        if own._other is None and x.dtype != torch.bool:
            return None
        root = own.root or (own, x, x._version)
        if found is not None and root[0] is not found[0]:
            return None
        found = root
    return found


def mark(region: Region, x: Tensor, found: Told) -> Tensor:
    """`carry`, where plain autograd is all there is."""
    x._sll = (found, x._version)  # type: ignore[attr-defined]
    if not region.adopt(x):
        found.within = region.outermost()
    return x


def untouched(*seen: Any) -> Callable[[], bool]:
    """Asked later: whether nobody has written to these tensors since."""
    versions = [(x, x._version) for x in seen if isinstance(x, Tensor) and not x.is_inference()]
    return lambda: all(x._version == version for x, version in versions)


def call_with(func: Func, args: Sequence[Any], kwargs: dict[str, Any], of: Callable[[Tensor], Any]) -> Any:
    """The call with ``of(x)`` for each tensor `x` among the arguments, those in lists and tuples as well."""
    return func(*(_put(x, of) for x in args), **{name: _put(x, of) for name, x in kwargs.items()})


def _put(x: Any, of: Callable[[Tensor], Any]) -> Any:
    """(No function of its own in `call_with`: it would hold itself, and tensors wait for the garbage collector.)"""
    if isinstance(x, Tensor):
        return of(x)
    return type(x)(_put(y, of) for y in x) if type(x) in (tuple, list) else x


def tensors(args: Sequence[Any], kwargs: dict[str, Any]) -> list[Tensor]:
    """The tensors among the arguments of a call, those in lists and tuples as well, each once."""
    found: dict[int, Tensor] = {}
    for x in (*args, *kwargs.values()):
        for item in x if isinstance(x, (tuple, list)) else (x,):
            if isinstance(item, Tensor):
                found[id(item)] = item
    return list(found.values())
