"""Functions that only move elements: the linearization moves along.

`MOVES` rearrange elements; `FILLS` also write a constant into some (`tril`, `pad`), so an outcome that was the same
everywhere no longer is;
`JOINS` put several tensors together.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, NamedTuple

import torch
from torch import Tensor

from ..._ops.env import compiling
from ..._rules.index import functions_with, op_name
from ..interface import Func, Region
from .algebra import as_they_are
from .carriers import (
    Chain,
    Choice,
    Expectation,
    Outcomes,
    Sorted,
    attach,
    carrier,
    discrete_carrier,
    is_constant,
    sorted_places,
)
from .decisions import placed, version_of
from .elementwise import elementwise
from .mixtures import regroup
from .registry import follows


def move(region: Region, func: Func, args: tuple[Any, ...], kwargs: dict[str, Any], *, fills: bool = False) -> Any:
    x = args[0]
    found = carrier(x)
    bounds = [p for a in (*args[1:], *kwargs.values()) for p in (a if isinstance(a, (list, tuple)) else (a,))]
    if any(discrete_carrier(p) for p in bounds) and func is not torch.Tensor.__getitem__:
        region.lose(
            op_name(func),
            [p for p in bounds if discrete_carrier(p)],
            "sizes and offsets have no derivative. Use an index, or a mask of positions such as torch.arange(n) < k.",
        )
    if found is None:
        out = func(*args, **kwargs)
        values = sorted_places(x)
        if values is None or fills or out is x:
            return out
        rest = args[1:]
        for i, part in enumerate(out if isinstance(out, (tuple, list)) else (out,)):
            which = i if isinstance(out, (tuple, list)) else None
            attach(region, part, values.moved(_places_of(values, func, rest, kwargs, which)))
        return out
    if any(isinstance(a, torch.dtype) for a in (*args, *kwargs.values())):  # view(dtype) reinterprets bits
        return lost(
            region, func, args, kwargs, "its bits are reinterpreted. Use .to(dtype), which converts the number."
        )
    out = func(*args, **kwargs)
    if isinstance(out, Tensor) and out.shape == x.shape and (func in _KEEPS_ORDER or _takes_all(func, args)):
        return attach(region, out, found)  # the same elements in the same places: the same decisions
    if isinstance(out, Tensor):
        return (
            out
            if out is x
            else attach(
                region, out, _moved(_Move(region, func, tuple(x.shape), args[1:], kwargs, None, out, fills), x, found)
            )
        )
    if compiling():  # Dynamo cannot set attributes on the parts themselves
        out = tuple(part.view_as(part) for part in out)
    for i, part in enumerate(out):
        attach(region, part, _moved(_Move(region, func, tuple(x.shape), args[1:], kwargs, i, part, fills), x, found))
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
        full = self.region.call(torch.Tensor.expand, t, self.shape)
        if not full.is_contiguous() and carrier(full) is None:
            full = full.contiguous()
        moved = self.region.call(self.func, full, *self.rest, **self.kwargs)
        return moved if self.part is None else moved[self.part]  # type: ignore[no-any-return]

    def parameters(self) -> tuple[Any, ...]:
        return (*self.rest, *self.kwargs.values())

    def how(self) -> tuple[Any, ...]:
        """Its identity. A tensor index is known by its version, a list or array not at all."""
        known = ((p, version_of(p)) if _immutable(p) or isinstance(p, Tensor) else object() for p in self.parameters())
        return (self.func, *known, self.part)


def _moved(move: _Move, x: Tensor, found: Any) -> Any:
    """What the result carries, where `found` is what `x` carries."""
    shape, how = move.shape, move.how()
    mutable = not all(_immutable(p) for p in move.parameters())

    def tree() -> Outcomes | Choice | None:
        old = found.resolve() if isinstance(found, Chain) else found
        if old is None:
            return None
        if isinstance(old, Choice):
            in_order = move.func in _KEEPS_ORDER
            return None if move.fills else _moved_choice(old, shape, how, move.of, move.result, in_order=in_order)
        decision = placed(old.decision, shape, how, lambda t: move.of_offset(t))  # (no method: Dynamo writes it out)
        if mutable:
            decision.offset()  # now: the program may change the index later
        sides = move.of_outcome(old.below), move.of_outcome(old.above)
        return Outcomes(decision, *sides, 0 if move.fills else old.polarity)

    if isinstance(found, Expectation):
        return Expectation(move.of(found.value), found.by_ones)
    if isinstance(found, Choice) and move.fills:
        if not x.is_floating_point():  # of a float the gradient goes on, only its outcomes end here
            move.region.lose(
                op_name(move.func),
                [x],
                "an index that was chosen has no weights beside a constant. Look up first, and pad what was found.",
            )
        return None
    return Chain(tree, found.length + 1) if isinstance(found, Chain) else tree()


def _places_of(
    values: Sorted, func: Func, rest: tuple[Any, ...], kwargs: dict[str, Any], which: int | None
) -> Callable[[], Tensor]:
    def places() -> Tensor:
        moved = func(values.places(), *rest, **kwargs)
        found: Tensor = moved if which is None else moved[which]
        return found

    return places


def copied(region: Region, func: Func, args: tuple[Any, ...], kwargs: dict[str, Any]) -> Any:
    """``clone``, ``contiguous``."""
    values = sorted_places(args[0])
    if values is None:
        return elementwise(region, func, args, kwargs)
    out = func(*args, **kwargs)
    return out if out is args[0] else attach(region, out, values.moved(values.places))


def _moved_choice(
    old: Choice, shape: tuple[int, ...], how: Any, apply: Callable[[Tensor], Tensor], result: Tensor, *, in_order: bool
) -> Choice:
    """The values and weights of each element go where the element goes."""
    count = torch.Size(shape).numel()
    places = None if in_order else apply(torch.arange(count, device=result.device).reshape(shape)).reshape(-1)

    def moved(t: Tensor) -> Tensor:
        if t.numel() == t.shape[-1]:
            return t.reshape((1,) * result.dim() + (t.shape[-1],))
        flat = t.expand(*shape, t.shape[-1]).reshape(-1, t.shape[-1])
        return (flat if places is None else flat[places]).reshape(*result.shape, t.shape[-1])

    return old.map(("placed", old.key, shape, how), moved)


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


def atleast(region: Region, func: Func, args: tuple[Any, ...], kwargs: dict[str, Any]) -> Any:
    tensors = args[0] if len(args) == 1 and isinstance(args[0], (tuple, list)) else args
    if len(tensors) == 1 and tensors is args:
        return move(region, func, args, kwargs)
    return tuple(region.call(func, t) for t in tensors)


def in_place_move(region: Region, func: Func, args: tuple[Any, ...], kwargs: dict[str, Any]) -> Any:
    """``unsqueeze_``, ``t_`` …: no element is written."""
    x, *rest = args
    found = carrier(x)
    if found is None:
        return func(*args, **kwargs)
    before = attach(region, x.view_as(x), found)
    moved = carrier(region.call(getattr(torch.Tensor, func.__name__.rstrip("_")), before, *rest, **kwargs))
    return attach(region, func(*args, **kwargs), moved)  # (which counts as a write into what it was a view of)


def broadcast(region: Region, func: Func, args: tuple[Any, ...], kwargs: dict[str, Any]) -> Any:
    """`expand` and its kin: a decision broadcasts by itself, so it stays the same decision."""
    x = args[0]
    found = carrier(x)
    out = func(*args, **kwargs)
    values = sorted_places(x)
    if values is not None and out is not x:
        return attach(region, out, values.moved(lambda: func(values.places(), *args[1:], **kwargs)))
    if found is None or out is x:
        return out

    def tree() -> Outcomes | Choice | None:
        old = found.resolve() if isinstance(found, Chain) else found
        if isinstance(old, Choice):
            return old
        return (
            Outcomes(old.decision, outcome(old.below), outcome(old.above), old.polarity)
            if isinstance(old, Outcomes)
            else None
        )

    def outcome(t: Tensor) -> Tensor:
        return t.reshape((1,) * out.dim()) if is_constant(t) else t

    if isinstance(found, Expectation):
        return attach(region, out, Expectation(found.value.expand(out.shape), found.by_ones))
    return attach(region, out, Chain(tree, found.length + 1) if isinstance(found, Chain) else tree())


def fill(region: Region, func: Func, args: tuple[Any, ...], kwargs: dict[str, Any]) -> Any:
    return move(region, func, args, kwargs, fills=True)


def lost(region: Region, func: Func, args: tuple[Any, ...], kwargs: dict[str, Any], why: str) -> Any:
    region.lose(op_name(func), [x for x in (*args, *kwargs.values()) if discrete_carrier(x)], why)
    return func(*args, **kwargs)


def join_tensors(region: Region, func: Func, args: tuple[Any, ...], kwargs: dict[str, Any]) -> Any:
    named = "tensors" if "tensors" in kwargs else None
    tensors = kwargs["tensors"] if named else args[0]
    if not isinstance(tensors, (tuple, list)):
        tensors = args
    carried = [t for t in tensors if carrier(t) is not None]
    if not carried:
        return func(*args, **kwargs)
    out = func(*args, **kwargs)
    rest = args[1:] if isinstance(args[0] if args else None, (tuple, list)) else ()
    named_rest = {name: x for name, x in kwargs.items() if name != "tensors"}

    def put(ts: list[Tensor]) -> Tensor:
        joined: Tensor = func(ts, *rest, **named_rest)
        return joined

    if out.is_floating_point() and any(discrete_carrier(t) for t in carried):
        # A bool or integer becomes a float here: the elements show the blend.
        cast = [region.call(torch.Tensor.to, t, out.dtype) if discrete_carrier(t) else t for t in tensors]
        return region.call(func, cast, *rest, **named_rest)
    if out.is_floating_point():
        kept = as_they_are(region, func.__name__, tuple(tensors))

        def tree() -> Outcomes | Choice | None:
            joined = kept()
            found = None if joined is None else regroup(region, put, list(joined), out)
            return found if isinstance(found, (Outcomes, Choice)) else None

        return attach(region, out, Chain(tree, 1))
    return attach(region, out, regroup(region, put, tensors, out))


def broadcast_tensors(region: Region, func: Func, args: tuple[Any, ...], kwargs: dict[str, Any]) -> Any:
    tensors = args[0] if len(args) == 1 and isinstance(args[0], (tuple, list)) else args
    shape = torch.broadcast_shapes(*(t.shape for t in tensors))  # type: ignore[no-untyped-call]
    if not any(carrier(t) is not None for t in tensors):
        return func(*args, **kwargs)
    return tuple(region.call(torch.Tensor.expand, t, shape) for t in tensors)


_KEEPS_ORDER = functions_with("in_order")


follows(move, "moves")


follows(atleast, "stacked_moves")


follows(in_place_move, "in_place_moves")


follows(copied, "copies")


follows(broadcast, "broadcasts")


follows(fill, "fills")


follows(join_tensors, "joins")


follows(broadcast_tensors, "broadcast_tensors")
