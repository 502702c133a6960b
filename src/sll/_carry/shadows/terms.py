"""What each decision changes of an integer that several decisions make: a code of bits, a sum of weights.

    d F(n) = sum_k (F(n + delta_k) - F(n)) dp_k,

where `delta_k` is what `n` would change by if decision `k` alone were the other way, and `dp_k` the gradient of that.
So a decision or a lookup at such an integer takes the result that a single decision leads to, as ``forward="hard"``
does. `Terms` are candidates like those of a choice, made when somebody asks.

Where every decision changes a number by one at most (`by_ones`: the count of a mask) this is about the integers next
to it. Those are what functions of a count take, without looking at each decision; its terms are for what weighs it.
"""

from __future__ import annotations

import functools
import math
from collections.abc import Callable, Iterable
from typing import Any, TypeAlias

import torch
import torch.nn.functional as F
from torch import Tensor

from ..._ops.env import free_to_read
from ..._ops.surrogates import alias, number
from ..._rules.index import NAMED
from ..interface import Func, Region
from .quotients import not_zero
from .shadow import Other, Parts, Shadow, Weights, root_of, shadow, tensors

MAX_ELEMENTS = 2**22
"""So many terms of a tensor are told apart, in all."""


BY_ONES = NAMED["by_ones"] | NAMED["same_number"]
"""Functions of which the result changes by one at most where the operands do."""
Found: TypeAlias = "tuple[Tensor, Tensor] | None"
"""The shares of decisions, and what each changes."""
Value: TypeAlias = "Tensor | Callable[[], Tensor]"
"""An integer as a float that has a gradient, or what makes that."""


class Terms(Weights):
    """An integer that decisions of different weight make."""

    def __init__(self, region: Region, out: Tensor, terms: Parts, value: Value) -> None:
        hard, known = alias(out), functools.cache(terms)

        def weigh() -> tuple[Tensor, Tensor]:
            now, found = hard.long().unsqueeze(-1), known()
            share, change = found or self._guessed(region, now)
            rest = 1 - share.sum(-1, keepdim=True)
            return torch.cat([share, rest], -1), torch.cat([now + change, now], -1)

        super().__init__(weigh, value=(lambda: value) if isinstance(value, Tensor) else value)
        self.terms = known

    def _guessed(self, region: Region, now: Tensor) -> tuple[Tensor, Tensor]:
        """The integers next to it, as if it were a count."""
        region.approximate("terms", now.numel(), "terms")
        change = torch.cat([torch.where(now == 0, 0, -1), torch.ones_like(now)], -1)
        share = self.value().unsqueeze(-1) * torch.where(change == 0, 0, change / change.abs().sum(-1, keepdim=True))
        return share - share.detach(), change


def by_ones(x: Tensor) -> bool:
    """Whether `x` is decided, and each decision changes it by one at most."""
    own = shadow(x)
    return own is not None and (own.by_ones or x.dtype == torch.bool)


def unchanged(*seen: Any) -> Callable[[], bool]:
    """Asked later: whether nobody has written to these tensors since."""
    versions = [(x, x._version) for x in seen if isinstance(x, Tensor) and not x.is_inference()]
    return lambda: all(x._version == version for x, version in versions)


def parts_of(x: Tensor, own: Shadow | None = None) -> Parts:
    """The decisions that `x` is made of, where they are known."""
    own = own or shadow(x)
    assert own is not None
    if own.terms is not None:
        return own.terms
    if _unknown(x, own):
        return lambda: None
    same = unchanged(x)

    def make() -> Found:
        if same():
            return single(own, x.detach())
        told = x.dtype == torch.bool or own.exact is not None
        return single(own, own.value().detach().to(x.dtype)) if told else None

    return make


def _unknown(x: Tensor, own: Shadow) -> bool:
    return own.terms is None and own._other is None and x.dtype != torch.bool and not isinstance(own, Weights)


def single(own: Shadow, now: Tensor) -> Found:
    """Of one decision, or of a choice."""
    if isinstance(own, Weights):
        weights = own.weights()
        return weights - weights.detach(), own.labels.long() - now.long().unsqueeze(-1)
    beyond, value = own.other(now), own.value()
    if beyond is None:
        return None
    change = beyond.long() - now.long()
    share = value * torch.where(change == 0, 0, 1 / change.to(value.dtype))
    return (share - share.detach()).unsqueeze(-1), change.unsqueeze(-1)


def _all(parts: Iterable[Parts], elements: int) -> list[tuple[Tensor, Tensor]] | None:
    """What is known of several operands of a result of so many elements; None if it is not, or too much."""
    made = [part() for part in parts]
    found = [each for each in made if each is not None]
    many = sum(change.shape[-1] for _, change in found)
    return None if len(found) < len(made) or elements * many > MAX_ELEMENTS else found


def _together(found: list[tuple[Tensor, Tensor]], shape: torch.Size) -> tuple[Tensor, Tensor]:
    """The terms of several operands, of a result of this shape."""
    wide = [[t.reshape(*(1,) * (len(shape) + 1 - t.dim()), *t.shape) for t in each] for each in found]
    many = [change.shape[-1] for _, change in wide]
    return tuple(  # type: ignore[return-value]
        torch.cat([each[i].expand(*shape, n) for each, n in zip(wide, many)], -1) for i in (0, 1)
    )


# --- functions ---------------------------------------------------------------------------------------------------


SUMS = set("add __add__ __radd__ sub subtract __sub__ __rsub__ rsub neg negative __neg__ positive __pos__".split())


def of_each(func: Func, args: tuple[Any, ...], kwargs: dict[str, Any], shape: torch.Size) -> Parts:
    """The function with one decision of one operand the other way."""
    given = {id(x): x for x in (*args, *kwargs.values()) if isinstance(x, Tensor)}
    parts = {key: parts_of(x) for key, x in given.items() if shadow(x) is not None}
    if func.__name__ in SUMS and not kwargs:  # (linear: the numbers do not matter)
        then = {key: number(0, torch.int64, x.device) for key, x in given.items()}
    else:
        then = {key: x.detach().clone() for key, x in given.items()}
    last = id(args[-1])

    def call(key: int, moved: Tensor) -> Tensor:
        def wide(y: Any) -> Any:
            if not isinstance(y, Tensor):
                return y
            now = then[id(y)]
            return moved if id(y) == key else now.unsqueeze(-1) if now.dim() else now

        return func(*map(wide, args), **{name: wide(y) for name, y in kwargs.items()}).long()  # type: ignore[no-any-return]

    def change(key: int, by: Tensor) -> Tensor:
        now = then[key].unsqueeze(-1)
        there = (now.long() + by).to(now.dtype)
        return call(key, not_zero(func, there, now) if key == last else there) - call(key, now)

    def make() -> Found:
        found = _all(parts.values(), math.prod(shape))
        if found is None:
            return None
        with torch.no_grad():
            changes = [change(key, by) for key, (_, by) in zip(parts, found)]
        return _together([(share, by) for (share, _), by in zip(found, changes)], shape)

    return make


def added(parts: Parts, whole: torch.Size, dim: Any = None, keepdim: bool = False) -> Any:
    """All terms of what is added in ``x.sum(dim)``."""
    dims = len(whole)
    gone = {d % max(dims, 1) for d in (range(dims) if dim is None or dim == () else [dim] if type(dim) is int else dim)}
    left = [d for d in range(dims) if d not in gone]
    shape = [1 if d in gone else n for d, n in enumerate(whole)] if keepdim else [whole[d] for d in left]
    found = _all([parts], math.prod(whole))
    if found is None:
        return None
    n = found[0][1].shape[-1]
    order = [*left, *(gone if dims else ()), dims]
    many = n * math.prod(whole) // max(math.prod(shape), 1)
    share, change = (t.expand(*whole, n).permute(order).reshape(*shape, many) for t in found[0])
    if not change.numel() or not free_to_read(change):
        return share, change
    used = change.reshape(-1, many).any(0)  # (what was joined has rows that are filled up: they would double in a loop)
    return share[..., used], change[..., used]


def multiplied(region: Region, a: Tensor, b: Tensor, shape: torch.Size) -> Parts:
    """``a @ b``: a sum of products."""
    same = unchanged(a, b)

    def make() -> Found:
        if not same() or math.prod(shape) * a.shape[-1] > MAX_ELEMENTS:
            return None
        left = region.call(torch.unsqueeze, a, -1)
        right = region.call(torch.unsqueeze, b, -1) if b.dim() == 1 else b
        right = region.call(torch.unsqueeze, right, -3) if a.dim() > 1 else right
        own = shadow(region.call(torch.sum, region.call(torch.mul, left, right), -2))
        found = None if own is None or own.terms is None else own.terms()
        return None if found is None else tuple(t.reshape(*shape, t.shape[-1]) for t in found)  # type: ignore[return-value]

    return make


def again(func: Callable[[Tensor], Tensor], x: Tensor, shape: torch.Size, seen: list[Tensor]) -> Parts:
    """Any function of one operand, run again for each of its terms."""
    parts, same = parts_of(x), unchanged(*seen)

    def make() -> Found:
        found = parts()
        many = 0 if found is None else x.numel() * found[1].shape[-1]
        if found is None or not same() or many * max(math.prod(shape), x.numel()) > MAX_ELEMENTS:
            return None
        if not many:
            return found[0].new_zeros(*shape, 0), found[1].new_zeros(*shape, 0)
        share, change = (t.expand(*x.shape, t.shape[-1]).reshape(many) for t in found)
        with torch.no_grad():
            each, which = x.detach().long().reshape(-1).repeat(many, 1), torch.arange(many, device=x.device)
            each[which, which // (many // x.numel())] += change
            now, there = func(x.detach()).long(), [func(y.reshape(x.shape).to(x.dtype)).long() for y in each]
            changes = torch.stack(there, -1) - now.unsqueeze(-1)
        return share.expand(*shape, many), changes

    return make


def joined(func: Callable[..., Tensor], operands: list[Tensor]) -> Parts:
    """``func(*operands)`` puts elements beside each other."""
    parts = [_nothing(x) if shadow(x) is None else parts_of(x) for x in operands]
    shapes = [x.shape for x in operands]

    def make() -> Found:
        found = _all(parts, 0)
        many = max(change.shape[-1] for _, change in found) if found else 0
        if found is None or many * sum(map(math.prod, shapes)) > MAX_ELEMENTS:
            return None
        dtype = functools.reduce(torch.promote_types, [share.dtype for share, _ in found])
        share, change = (
            zip(*(_columns(t, shape, many) for t, shape in zip(each, shapes)))
            for each in ([share.to(dtype) for share, _ in found], [change for _, change in found])
        )
        return torch.stack([func(*each) for each in share], -1), torch.stack([func(*each) for each in change], -1)

    return make


def _columns(t: Tensor, shape: torch.Size, many: int) -> tuple[Tensor, ...]:
    return F.pad(t.expand(*shape, t.shape[-1]), (0, many - t.shape[-1])).unbind(-1)


def _nothing(x: Tensor) -> Parts:
    shape, device = x.shape, x.device
    return lambda: (torch.zeros(*shape, 1, device=device), torch.zeros(*shape, 1, dtype=torch.int64, device=device))


def looked_up(
    region: Region, spots: list[Any], table: Any, read: Callable[[Tensor], Tensor], out: Tensor, value: Value
) -> Shadow:
    """Of an entry of a table of integers, at several decided indices or among decided entries: at once."""
    operands = [own for own in (*(spot.own for spot in spots), shadow(table)) if own is not None]
    found = _looked_up(spots, table, read, out) if _depth(operands) <= DEEPEST else None
    return _made(region, out, lambda: found, value, operands)


def _looked_up(spots: list[Any], table: Any, read: Callable[[Tensor], Tensor], out: Tensor) -> Found:
    made = _all([parts_of(spot.index, spot.own) for spot in spots], out.numel())
    held = parts_of(table)() if shadow(table) is not None else ()
    if made is None or held is None:
        return None
    found, now = [], out.long()
    for spot, (share, change) in zip(spots, made):
        with torch.no_grad():
            there = [spot.read(table, spot.inside(spot.index + step)).long() - now for step in change.unbind(-1)]
        found.append((torch.stack([spot.align(t) for t in share.unbind(-1)], -1), torch.stack(there, -1)))
    if held:
        wide = (t.expand(*table.shape, t.shape[-1]).unbind(-1) for t in held)
        found.append(tuple(torch.stack([read(t) for t in each], -1) for each in wide))  # type: ignore[arg-type]
    return _together(found, out.shape)


# --- what a result carries ---------------------------------------------------------------------------------------


def made_of(
    region: Region, func: Func, args: tuple[Any, ...], kwargs: dict[str, Any], out: Tensor, operands: list[Tensor],
    value: Value, other: Other = None, exact: torch.dtype | None = None,
) -> Shadow:  # fmt: skip
    """What `out` carries that a function of single elements makes of decided `operands`; as a float it is `value`.

    Terms, where it is an integer of several decisions, and what each of them changes is known. That is not so of what
    `where` has chosen, together with what was made of it, such as a stock and what of it was sold: a loop would gather
    ever more candidates.
    """
    flags, found = torch.bool, []
    for x in operands:
        own: Shadow = x._sll[0]  # type: ignore[attr-defined]
        nothing = own._other is None and own.terms is None and not own.by_ones and type(own) is Shadow
        if nothing and x.dtype is not flags:
            return Shadow.of(value, other, exact)  # (in a loop that is most frequent)
        found.append(own)
    if out.dtype is flags:
        return Shadow.of(value, other, exact)
    alone, ones = all(x is operands[0] for x in operands), _keeps_ones(func, operands, found)
    if (root := root_of(operands, out.shape)) is not None:
        made = Shadow.of(value, other, exact, ones)
        made.root = root
        return made
    if alone and found[0].terms is None or any(map(_unknown, operands, found)):
        return Shadow.of(value, other, exact, ones)
    bases = [getattr(own, "base", own) for own in found]
    if not alone and all(base is bases[0] for base in bases):
        same = isinstance(bases[0], Terms)
        return _of_same(func, args, kwargs, out.dim(), found[0]) if same else Shadow.of(value, other, exact, ones)
    return _made(region, out, of_each(func, args, kwargs, out.shape), value, found, ones, exact)


def _keeps_ones(func: Func, operands: list[Tensor], found: list[Shadow]) -> bool:
    """Whether the result changes by one at most where the operands do. (What a mask takes may be anything.)"""
    name = func.__name__
    if name not in BY_ONES or not all(own.by_ones or x.dtype == torch.bool for x, own in zip(operands, found)):
        return False
    return name not in ("where", "masked_fill") or all(x.dtype != torch.bool for x in operands)


DEEPEST = 64
"""So many functions are followed: a loop would gather ever more terms."""


def _depth(operands: list[Shadow]) -> int:
    return 1 + max(own.depth for own in operands)


def _made(
    region: Region, out: Tensor, parts: Parts, value: Value, operands: list[Shadow], ones: bool = False,
    exact: torch.dtype | None = None,
) -> Shadow:  # fmt: skip
    """`ones`: each decision changes `out` by one at most."""
    depth = _depth(operands)
    parts = parts if depth <= DEEPEST else lambda: None
    made = Shadow.of(value, None, exact, True) if ones else Terms(region, out, parts, value)
    made.terms, made.depth = parts if ones else made.terms, depth
    return made


def _of_same(func: Func, args: tuple[Any, ...], kwargs: dict[str, Any], dims: int, first: Any) -> Shadow:
    """Of numbers that are made of the same decisions: ``code - code % 4``."""

    def wide(y: Any) -> Any:
        own = shadow(y)
        if isinstance(own, Weights):
            return own.labels.to(y.dtype)
        return y.detach().unsqueeze(-1) if isinstance(y, Tensor) and y.dim() else y

    with torch.no_grad():
        labels = func(*map(wide, args), **{name: wide(y) for name, y in kwargs.items()})
    return first.of_labels(labels, lambda w: w.reshape(*(1,) * (dims + 1 - w.dim()), *w.shape))  # type: ignore[no-any-return]


def _exchanged(own: Weights) -> bool:
    """Whether several elements are places of one choice: these do not change one by one."""
    if own.owner is None:
        return False
    owner = own.owner()
    return len(set(owner.flatten().tolist())) < owner.numel()


def reduced(
    region: Region, func: Func, x: Tensor, own: Shadow, args: tuple[Any, ...], kwargs: dict[str, Any], out: Tensor,
    value: Value,
) -> Shadow:  # fmt: skip
    """`out` is ``func(x, *args, **kwargs)``, a sum or the like."""
    if isinstance(own, Weights) and _exchanged(own):
        return Shadow.of(value) if isinstance(value, Tensor) else Shadow(value)
    ones = func.__name__ in BY_ONES and (own.by_ones or x.dtype == torch.bool)
    if func.__name__ in ("sum", "nansum") and kwargs.keys() <= {"dim", "keepdim"}:
        each, whole = parts_of(x, own), x.shape
        parts: Parts = lambda: added(each, whole, *args, **kwargs)
    else:
        parts = again(lambda y: func(y, *args, **kwargs), x, out.shape, [x])
    return _made(region, out, parts, value, [own], ones)


MATRICES = {"matmul", "__matmul__", "mm", "mv", "dot", "bmm"}


def product(
    region: Region, func: Func, args: tuple[Any, ...], kwargs: dict[str, Any], out: Tensor, operands: list[Tensor],
    value: Value,
) -> Shadow:  # fmt: skip
    """`out` is linear in each operand: of matrices, or any other."""
    parts: Parts = lambda: None
    if func.__name__ in MATRICES and len(args) == 2 and not kwargs:
        parts = multiplied(region, *args, out.shape)
    elif len(operands) == 1:
        (x,) = operands

        def put(there: Tensor, at: Any) -> Any:
            return there if at is x else [put(there, y) for y in at] if isinstance(at, (tuple, list)) else at

        parts = again(lambda there: func(*put(there, args), **kwargs), x, out.shape, tensors(args, kwargs))
    return _made(region, out, parts, value, _shadows(operands))


def beside(region: Region, func: Callable[..., Tensor], operands: list[Tensor], out: Tensor, value: Value) -> Shadow:
    """`out` is ``func(*operands)``, which puts integers beside each other."""
    ones = all(by_ones(x) for x in operands if shadow(x) is not None)
    return _made(region, out, joined(func, operands), value, _shadows(operands), ones)


def _shadows(operands: list[Tensor]) -> list[Shadow]:
    return [own for x in operands if (own := shadow(x)) is not None]
