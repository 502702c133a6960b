"""Tensors that a run writes to, as they were before: seen at the call, and undone when the function runs again.

What is kept is memory, not tensors: a copy of what a storage held before it was first written to. Putting it back
counts for no version, so nothing that autograd has saved of the first run looks modified.
"""

from __future__ import annotations

import functools
from collections.abc import Callable
from typing import Any, NamedTuple

import torch
from torch import Tensor

from .._carry.interface import tensors
from .._ops.callsite import call_site, short
from .._ops.env import eager, unwrapped
from .._ops.surrogates import ordinary
from .._rules.index import NAMED, op_name, writes_to_first

_REFUSED = {"resize_", "resize_as_", "set_", "backward"}
"""What cannot be undone: memory that moves, gradients that have been passed on."""
_SHAPES = {"transpose_", "t_", "squeeze_", "unsqueeze_", "swapaxes_", "swapdims_", "as_strided_"}
_MOST = 10_000
_SETS = {"data", "grad", "requires_grad"}
"""Attributes of a tensor that can be set."""


class Kept(NamedTuple):
    """What a run is about to change."""

    of: int | None
    """Says of a tensor whether it is known: its memory, or its `id`. None of what always is."""
    read: Callable[[], Any]
    put: Callable[[Any], Any]
    before: Any
    """What was read before the first change."""


class Journal:
    """`existing`: tensors that the function is known to get at, besides those that it makes."""

    def __init__(self, existing: list[Tensor]) -> None:
        self.refused = ""
        """What was done that cannot be undone."""
        self._existing = existing
        self._start = torch._C._autograd._get_sequence_nr()
        self._kept: dict[Any, Kept] = {}
        self._made_by: dict[int, tuple[Tensor, Any]] = {}
        """By their memory, tensors that are written to, and the node that had made them."""
        self._after: list[tuple[Callable[[Any], Any], Any]] = []

    def note(self, func: Callable[..., Any], args: tuple[Any, ...], kwargs: dict[str, Any]) -> None:
        """A call is about to be made."""
        how = writes(func)
        if how is not None:
            how(self, func, args, kwargs)
        if kwargs:
            self._by_name(args, kwargs)

    def _by_name(self, args: tuple[Any, ...], kwargs: dict[str, Any]) -> None:
        if kwargs.get("inplace"):
            self.first(None, args, kwargs)
        if kwargs.get("out") is not None:
            self._write(kwargs["out"])
        generator = kwargs.get("generator")
        if generator is not None and generator not in self._kept:
            self._kept[generator] = Kept(None, generator.get_state, generator.set_state, generator.get_state())

    def _write(self, *of: Any) -> None:
        for x in map(unwrapped, tensors(*of)):
            if x.layout != torch.strided or x.is_meta:
                self._refuse("a write to a tensor that is not dense")
                continue
            base = x if x._base is None else x._base
            made_by: Any = base.grad_fn
            if made_by is not None and self._start <= made_by._sequence_nr() < _LEAF:
                continue  # made in this run
            memory = base.untyped_storage()
            at = memory._cdata
            if at not in self._kept:
                self._kept[at] = Kept(at, memory.clone, memory.copy_, _copy(base, memory))
                self._made_by[at] = base, made_by

    def assign(self, x: Tensor, name: str) -> None:
        """An attribute is about to be set."""
        if (id(x), name) not in self._kept:
            read = functools.partial(getattr, x, name)
            self._kept[id(x), name] = Kept(id(x), read, functools.partial(setattr, x, name), read())

    def _refuse(self, what: str) -> None:
        self.refused = self.refused or f"{short(call_site(what))} cannot be undone"

    # --- the ways in which functions write ---

    def first(self, func: Any, args: tuple[Any, ...], kwargs: dict[str, Any]) -> None:
        self._write(*(args[:1] or kwargs.values()))

    def each(self, func: Any, args: tuple[Any, ...], kwargs: dict[str, Any]) -> None:
        # (Batch norm writes to its buffers, and not to what has a gradient.)
        self._write(*(x for x in (*args, *kwargs.values()) if not isinstance(x, Tensor) or not x.requires_grad))

    def attribute(self, func: Any, args: tuple[Any, ...], kwargs: dict[str, Any]) -> None:
        name = getattr(getattr(func, "__self__", None), "__name__", "")
        if name in _SETS and isinstance(args[0], Tensor):
            self.assign(args[0], name)

    def shape(self, func: Any, args: tuple[Any, ...], kwargs: dict[str, Any]) -> None:
        self.assign(args[0], "data")

    def refuse(self, func: Any, args: tuple[Any, ...], kwargs: dict[str, Any]) -> None:
        self._refuse(op_name(func))

    # --- back and forth ---

    def done(self, keep_graph: bool) -> None:
        """The first run is over. `keep_graph`: the graphs of the others will be needed, so what they make is not to be
        touched.
        """
        self._after = [(kept.put, kept.read()) for kept in self._kept.values()]
        self._first, self._keep_graph = set(self._kept), keep_graph
        known = self._known()
        for at, (x, made_by) in self._made_by.items():
            if at in known and x.grad_fn is not made_by:
                self.refused = self.refused or (
                    f"a value with a gradient was written into a tensor of shape {tuple(x.shape)} from outside, and "
                    "that cannot be undone"
                )

    def before(self) -> None:
        """As it was before the first run."""
        if self._keep_graph:
            first, known = self._first, self._known()
            self._kept = {key: kept for key, kept in self._kept.items() if key in first or kept.of in known}
        for kept in self._kept.values():
            kept.put(kept.before)

    def after(self) -> None:
        """As the first run left it."""
        self.before()
        for put, value in self._after:
            put(value)

    def holds(self, x: Tensor) -> bool:
        """Whether its memory may be put back."""
        return x.layout == torch.strided and unwrapped(x).untyped_storage()._cdata in self._kept

    def _known(self) -> set[int | None]:
        """`Kept.of` of what exists."""
        found = [x for x in map(unwrapped, self._existing) if x.layout == torch.strided and not x.is_meta]
        return {None, *(x.untyped_storage()._cdata for x in found), *map(id, found)}


_LEAF = 2**63


def _copy(x: Tensor, memory: Any) -> Any:
    """Of the memory that `x` is in."""
    if ordinary(x) and x.nbytes == memory.nbytes() and x.is_contiguous() and eager():
        return (x.detach() if x.requires_grad else x).clone().untyped_storage()  # (takes a quarter of the time)
    return memory.clone()


@functools.lru_cache(_MOST)
def writes(func: Any) -> Any:
    """In which of its ways a function writes; None if it does not, unless it is asked to by name."""
    if isinstance(func, torch._ops.OpOverload):
        return Journal.each if func._schema.is_mutable else None
    name = getattr(func, "__name__", "")
    if name in _REFUSED:
        return Journal.refuse
    if name in _SHAPES:
        return Journal.shape
    if name in ("__set__", "__delete__"):
        return Journal.attribute
    if name.startswith(("_fused", "_amp")):
        return Journal.each
    if writes_to_first(name) and name != "detach_":
        return Journal.first
    return Journal.each if name in NAMED["writes"] else None
