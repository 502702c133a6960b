"""Functions that only move elements: the linearization moves along.

Moves rearrange elements. Broadcasts and copies leave each decision what it is. Fills also write a constant into some
(`tril`, `pad`), so an outcome that was the same everywhere no longer is. Joins put several tensors together.
"""

from __future__ import annotations

from typing import Any, NamedTuple

import torch
from torch import Tensor

from ..._rules.index import functions_with, names_of, op_name, spellings
from ..found import Sorted, sorted_places
from ..interface import Func, Region, attach, version_of
from .carriers import Chain, Choice, Expectation, Outcomes, carrier, discrete_carrier, is_constant
from .decisions import placed
from .later import kept
from .mixtures import regroup

_IN_ORDER = functions_with("in_order") | {func for name in names_of("copies") for func in spellings(name)}
_BOUNDS = "sizes and offsets have no derivative. Use an index, or a mask of positions such as torch.arange(n) < k."
_BITS = "its bits are reinterpreted. Use .to(dtype), which converts the number."
_FILLED = "an index that was chosen has no weights beside a constant. Look up first, and pad what was found."


def move(
    region: Region, func: Func, args: tuple[Any, ...], kwargs: dict[str, Any], fills: bool = False, stays: bool = False
) -> Any:
    x, *rest = args
    bounds = [p for a in (*rest, *kwargs.values()) for p in (a if isinstance(a, (list, tuple)) else (a,))]
    decided = [p for p in bounds if discrete_carrier(p)]
    if decided and not stays and func is not torch.Tensor.__getitem__:
        region.lose(op_name(func), decided, _BOUNDS)
    found: Any = carrier(x)
    found = sorted_places(x) if found is None else found
    if found is not None and any(isinstance(p, torch.dtype) for p in bounds):  # view(dtype)
        region.lose(op_name(func), [p for p in (x, *bounds) if discrete_carrier(p)], _BITS)
        found = None
    out = func(*args, **kwargs)
    if out is x:
        return x
    if found is None:
        return out
    several = isinstance(out, (tuple, list))
    if not several and out.shape == x.shape and (func in _IN_ORDER or _takes_all(func, args)):
        return attach(region, out, found)  # the same elements in the same places: the same decisions
    for i, part in enumerate(out if several else (out,)):
        call = _Move(region, func, tuple(x.shape), tuple(rest), kwargs, i if several else None, part, fills, stays)
        attach(region, part, call.carried(x, found))
    return out


class _Move(NamedTuple):
    """A call that moves elements: of `part` of its result, if that has several."""

    region: Region
    func: Func
    shape: tuple[int, ...]
    rest: tuple[Any, ...]
    kwargs: dict[str, Any]
    part: int | None
    result: Tensor
    fills: bool
    stays: bool
    """Broadcasts: a decision broadcasts by itself."""

    def carried(self, x: Tensor, found: Any) -> Any:
        """What the result carries, where `found` is what `x` carries."""
        if isinstance(found, Sorted):
            return None if self.fills else found.moved(lambda: self.of(found.places()))
        if isinstance(found, Expectation):
            return Expectation(self.of(found.value), found.by_ones)
        if isinstance(found, Choice) and self.fills and not x.is_floating_point():
            # (Of a float the gradient goes on, only its outcomes end here.)
            self.region.lose(op_name(self.func), [x], _FILLED)
        if isinstance(found, Chain):
            return Chain(lambda: self.tree(found.resolve()), found.length + 1)
        return self.tree(found)

    def tree(self, old: Outcomes | Choice | None) -> Outcomes | Choice | None:
        if old is None or isinstance(old, Choice) and self.fills:
            return None
        if isinstance(old, Choice):
            return old if self.stays else self.of_choice(old)
        decision, how = old.decision, self.how()
        if not self.stays:
            decision = placed(decision, self.shape, how, self.of_offset)
            if not all(_immutable(p) for p in self.parameters()):
                decision.offset()  # now: the program may change the index later
        sides = self.of_outcome(old.below), self.of_outcome(old.above)
        return Outcomes(decision, *sides, 0 if self.fills else old.polarity)

    def of(self, t: Tensor) -> Tensor:
        """Another tensor, moved the same way."""
        try:
            moved = self.func(t, *self.rest, **self.kwargs)
        except RuntimeError:  # a view of a tensor with other strides than x has
            moved = self.func(t.contiguous(), *self.rest, **self.kwargs)
        return moved if self.part is None else moved[self.part]  # type: ignore[no-any-return]

    def of_offset(self, t: Tensor) -> Tensor:
        """What a fill writes has no decision: an offset of -1/2, a weight of 0."""
        moved = self.of(t)
        return torch.where(moved == self.of(t + 1), -0.5, moved) if self.fills else moved

    def of_outcome(self, t: Tensor) -> Tensor:
        if is_constant(t) and not self.fills:
            return t.reshape((1,) * self.result.dim())
        if self.stays:
            return t
        full = self.region.call(torch.Tensor.expand, t, self.shape)
        if not full.is_contiguous() and carrier(full) is None:
            full = full.contiguous()
        moved = self.region.call(self.func, full, *self.rest, **self.kwargs)
        return moved if self.part is None else moved[self.part]  # type: ignore[no-any-return]

    def of_choice(self, old: Choice) -> Choice:
        """The values and weights of each element go where the element goes."""
        places, dims, shape = None, self.result.dim(), self.shape
        if self.func not in _IN_ORDER:
            every = torch.arange(torch.Size(shape).numel(), device=self.result.device)
            places = self.of(every.reshape(shape)).reshape(-1)

        def moved(t: Tensor) -> Tensor:
            if t.numel() == t.shape[-1]:
                return t.reshape((1,) * dims + (t.shape[-1],))
            flat = t.expand(*shape, t.shape[-1]).reshape(-1, t.shape[-1])
            return (flat if places is None else flat[places]).reshape(*self.result.shape, t.shape[-1])

        return old.map(("placed", old.key, shape, self.how()), moved)

    def parameters(self) -> tuple[Any, ...]:
        return (*self.rest, *self.kwargs.values())

    def how(self) -> tuple[Any, ...]:
        """Its identity. A tensor index is known by its version, a list or array not at all."""
        known = ((p, version_of(p)) if _immutable(p) or isinstance(p, Tensor) else object() for p in self.parameters())
        return (self.func, *known, self.part)


def _immutable(parameter: Any) -> bool:
    if isinstance(parameter, tuple):
        return all(_immutable(item) for item in parameter)
    return isinstance(parameter, (int, float, str, type(None), type(Ellipsis), slice, torch.dtype))


def _takes_all(func: Func, args: tuple[Any, ...]) -> bool:
    """``x[:]``, ``x[...]``, ``x[:n]`` of all n."""
    if func is not torch.Tensor.__getitem__:
        return False
    items = args[1] if isinstance(args[1], tuple) else (args[1],)
    if any(item is Ellipsis for item in items):
        return all(item is Ellipsis or isinstance(item, slice) and item == slice(None) for item in items)
    return all(isinstance(item, slice) and item.indices(n) == (0, n, 1) for item, n in zip(items, args[0].shape))


def _listed(args: tuple[Any, ...], kwargs: dict[str, Any]) -> Any:
    """The tensors of a function of several, given as a sequence or one by one."""
    first = kwargs["tensors"] if "tensors" in kwargs else args[0]
    return first if isinstance(first, (tuple, list)) else args


def broadcast(region: Region, func: Func, args: tuple[Any, ...], kwargs: dict[str, Any]) -> Any:
    """`expand` and its kin: a decision broadcasts by itself, so it stays the same decision."""
    return move(region, func, args, kwargs, stays=True)


def fill(region: Region, func: Func, args: tuple[Any, ...], kwargs: dict[str, Any]) -> Any:
    return move(region, func, args, kwargs, fills=True)


def join_tensors(region: Region, func: Func, args: tuple[Any, ...], kwargs: dict[str, Any]) -> Any:
    tensors = _listed(args, kwargs)
    rest = args[1:] if tensors is not args and "tensors" not in kwargs else ()
    named = {name: x for name, x in kwargs.items() if name != "tensors"}
    carried, out = [t for t in tensors if carrier(t) is not None], func(*args, **kwargs)
    if not carried:
        return out

    def put(ts: list[Tensor]) -> Tensor:
        joined: Tensor = func(ts, *rest, **named)
        return joined

    if not out.is_floating_point():
        return attach(region, out, regroup(region, put, tensors, out))
    if any(discrete_carrier(t) for t in carried):  # a bool or integer becomes a float here: it shows the blend
        cast = [region.call(torch.Tensor.to, t, out.dtype) if discrete_carrier(t) else t for t in tensors]
        return region.call(func, cast, *rest, **named)
    now = [kept(t) for t in tensors]

    def tree() -> Outcomes | Choice | None:
        found = regroup(region, put, now, out)
        return found if isinstance(found, (Outcomes, Choice)) else None

    return attach(region, out, Chain(tree))
