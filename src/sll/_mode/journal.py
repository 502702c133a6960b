"""Tensors that a run writes to, as they were before: seen at the call, and undone when the function runs again.

What is kept is memory, not tensors: a copy of what a storage held before it was first written to. Putting it back
counts for no version, so nothing that autograd has saved of the first run looks modified.
"""

from __future__ import annotations

import functools
from collections.abc import Callable, Iterable
from typing import Any

import torch
from torch import Tensor

from .._carry.interface import tensors
from .._ops.callsite import call_site, short
from .._ops.env import eager, unwrapped
from .._ops.surrogates import ordinary
from .._rules.index import NAMED, op_name, writes_to_first

__all__ = ["Journal", "writes"]

_REFUSED = {"resize_", "resize_as_", "set_", "backward"}
"""What cannot be undone: memory that moves, gradients that have been passed on."""
_SHAPES = {"transpose_", "t_", "squeeze_", "unsqueeze_", "swapaxes_", "swapdims_", "as_strided_"}
_MOST = 10_000
_SETS = {"data", "grad", "requires_grad"}
"""Attributes of a tensor that can be set."""


class Journal:
    """`existing`: tensors that the function is known to get at, besides those that it makes."""

    def __init__(self, existing: list[Tensor]) -> None:
        self.refused = ""
        """What was done that cannot be undone."""
        self._existing = existing
        self._start = torch._C._autograd._get_sequence_nr()
        self._memory: dict[int, tuple[Tensor, Any, Any, Any]] = {}
        self._attributes: dict[tuple[int, str], tuple[Tensor, str, Any]] = {}
        self._generators: dict[int, tuple[torch.Generator, Tensor]] = {}
        self._after: list[Callable[[], Any]] = []

    def note(self, func: Callable[..., Any], args: tuple[Any, ...], kwargs: Any) -> None:
        """A call is about to be made."""
        how = writes(func)
        if how is not None:
            how(self, func, args, kwargs or {})
        if kwargs:
            self._by_name(args, kwargs)

    def _by_name(self, args: tuple[Any, ...], kwargs: dict[str, Any]) -> None:
        if kwargs.get("inplace"):
            self._keep(args[:1])
        if kwargs.get("out") is not None:
            self._keep(kwargs["out"])
        generator = kwargs.get("generator")
        if generator is not None and id(generator) not in self._generators:
            self._generators[id(generator)] = generator, generator.get_state()

    def _keep(self, of: Any) -> None:
        for x in tensors(of):
            x = unwrapped(x)
            if x.layout != torch.strided or x.is_meta:
                self._refuse("a write to a tensor that is not dense")
                continue
            base = x._base if x._is_view() and x._base is not None else x
            made_by: Any = base.grad_fn
            if made_by is not None and self._start <= made_by._sequence_nr() < _LEAF:
                continue  # made in this run
            memory = base.untyped_storage()
            if memory._cdata not in self._memory:
                self._memory[memory._cdata] = base, memory, _copy(base, memory), made_by

    def set(self, x: Tensor, name: str) -> None:
        """An attribute is about to be set."""
        if (id(x), name) not in self._attributes:
            value = x.data if name == "data" else getattr(x, name)
            self._attributes[id(x), name] = x, name, value

    def _refuse(self, what: str) -> None:
        self.refused = self.refused or f"{short(call_site(what))} cannot be undone"

    # --- the ways in which functions write ---

    def first(self, func: Any, args: tuple[Any, ...], kwargs: dict[str, Any]) -> None:
        self._keep(args[:1] or list(kwargs.values())[:1])

    def each(self, func: Any, args: tuple[Any, ...], kwargs: dict[str, Any]) -> None:
        # (Batch norm writes to its buffers, and not to what has a gradient.)
        self._keep([x for x in (*args, *kwargs.values()) if not isinstance(x, Tensor) or not x.requires_grad])

    def attribute(self, func: Any, args: tuple[Any, ...], kwargs: dict[str, Any]) -> None:
        name = getattr(getattr(func, "__self__", None), "__name__", "")
        if name in _SETS and isinstance(args[0], Tensor):
            self.set(args[0], name)

    def shape(self, func: Any, args: tuple[Any, ...], kwargs: dict[str, Any]) -> None:
        self.set(args[0], "data")

    def refuse(self, func: Any, args: tuple[Any, ...], kwargs: dict[str, Any]) -> None:
        self._refuse(op_name(func))

    # --- back and forth ---

    def done(self, keep_graph: bool) -> None:
        """The first run is over. `keep_graph`: the graphs of the others will be needed, so what they make is not to be
        touched.
        """
        self._after = [*_put_back(self._memory.values(), True), *self._put_attributes(True)]
        self._first = set(self._memory), set(self._attributes)
        self._keep_graph = keep_graph
        known = {x.untyped_storage()._cdata for x in self._known()}
        for key, (x, _, _, made_by) in self._memory.items():
            if key in known and x.grad_fn is not made_by:
                self.refused = self.refused or (
                    f"a value with a gradient was written into a tensor of shape {tuple(x.shape)} from outside, and "
                    "that cannot be undone"
                )

    def before(self) -> None:
        """As it was before the first run."""
        memory, attributes = self._memory, self._attributes
        if self._keep_graph:
            known = self._first[0] | {x.untyped_storage()._cdata for x in self._known()}
            ids = {id(x) for x in self._known()}
            memory = {key: kept for key, kept in memory.items() if key in known}
            attributes = {k: kept for k, kept in attributes.items() if k in self._first[1] or k[0] in ids}
        self._memory, self._attributes = memory, attributes
        for put in (*_put_back(memory.values(), False), *self._put_attributes(False)):
            put()

    def after(self) -> None:
        """As the first run left it."""
        self.before()
        for put in self._after:
            put()

    def holds(self, x: Tensor) -> bool:
        """Whether its memory may be put back."""
        return x.layout == torch.strided and unwrapped(x).untyped_storage()._cdata in self._memory

    def _known(self) -> list[Tensor]:
        found = map(unwrapped, self._existing)
        return [x for x in found if x.layout == torch.strided and x.device.type != "meta"]

    def _put_attributes(self, now: bool) -> list[Callable[[], Any]]:
        found: list[Callable[[], Any]] = []
        for x, name, value in self._attributes.values():
            value = (x.data if name == "data" else getattr(x, name)) if now else value
            found.append(functools.partial(setattr, x, name, value))
        for generator, state in self._generators.values():
            found.append(functools.partial(generator.set_state, generator.get_state() if now else state))
        return found


_LEAF = 2**63


def _copy(x: Tensor, memory: Any) -> Any:
    """Of the memory that `x` is in."""
    if ordinary(x) and x.nbytes == memory.nbytes() and x.is_contiguous() and eager():
        return (x.detach() if x.requires_grad else x).clone().untyped_storage()  # (takes a quarter of the time)
    return memory.clone()


def _put_back(kept: Iterable[Any], now: bool) -> list[Callable[[], Any]]:
    return [functools.partial(memory.copy_, memory.clone() if now else copy) for _, memory, copy, _ in kept]


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
