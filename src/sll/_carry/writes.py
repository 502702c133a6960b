"""Writes, whatever carries decisions: ``op_``, ``out=``, ``inplace=True`` are the function, and then a write.

An engine says what is particular in a `Writes`: who is concerned, how an operand is kept for the function that is not
in place, and what a write into a view tells its base.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from .._ops.env import dispatched, tracked, unwrapped
from .._rules.index import NAMED
from .interface import Func, Region, Rule, tensors

_NUMPY = {"axis": "dim", "keepdims": "keepdim"}


def _rank(dtype: torch.dtype) -> int:
    """bool < integer < float < complex: torch refuses to write a result into a lower one."""
    return 3 if dtype.is_complex else 2 if dtype.is_floating_point else 0 if dtype == torch.bool else 1


def writes_unsaid(func: Func) -> bool:
    """Whether a function may write to its operands without saying so: one that is not torch's, or known for it."""
    if isinstance(func, (torch._ops.OpOverload, torch._ops.OpOverloadPacket)):
        return True
    module = getattr(func, "__module__", None) or "torch"
    return func.__name__ in NAMED["writes"] or module.partition(".")[0] != "torch"


def told_of_views(region: Region, x: Tensor) -> None:
    """Before something decided is written into `x`, which carried nothing. Who has a view of it will see that, without
    a gradient. (Of a view itself nobody knows whether there are others.)
    """
    wrapped = torch._C._functorch.is_functorch_wrapped_tensor
    if type(x) is not Tensor or x._base is not None or dispatched() or wrapped(x):
        return
    users = torch._C._storage_Use_Count(x.untyped_storage()._cdata)
    if users > 2:  # (`x`, and this question)
        region.approximate("write", x.numel(), "views")


def same(a: Tensor, b: Tensor) -> bool:
    """Whether the numbers are the same, NaN included."""
    return bool(unwrapped((a == b) | ((a != a) & (b != b))).all())


def called(
    func: Func, args: tuple[Any, ...], kwargs: dict[str, Any], decided: list[Tensor]
) -> tuple[Any, list[Tensor | None]]:
    """The result of a call that may write to what is `decided`, and what each was that it wrote to (else None): that
    carries nothing now.
    """
    if not decided or not writes_unsaid(func):
        return func(*args, **kwargs), []
    before = [x.detach().clone() for x in decided]
    out = func(*args, **kwargs)
    written = [None if same(old, x) else old for old, x in zip(before, decided)]
    for x, old in zip(decided, written):
        if old is not None:
            x._sll = None  # type: ignore[attr-defined]
    return out, written


def into_base(region: Region, base: Tensor, view: Tensor, result: Tensor) -> Callable[[list[Tensor]], Tensor] | None:
    """``put([base, result])``, a move of elements: `base` after `result` was written into its `view`. None where that
    is not followed, which is said.
    """
    if not base.is_contiguous():
        region.lose("write into a view", [base, result], "write through the tensor itself, x[index] = value.")
        return None
    offset = view.storage_offset() - base.storage_offset()
    places = torch.arange(base.numel(), device=base.device).as_strided(view.shape, view.stride(), offset)

    def put(parts: list[Tensor]) -> Tensor:
        old, new = parts
        return old.reshape(-1).index_put((places.reshape(-1),), new.reshape(-1)).reshape(base.shape)

    return put


def at_mask(region: Region, before: Tensor, mask: Tensor, value: Any) -> Tensor:
    """What is in the place of `before` after ``before[mask] = value``."""
    rest = before.dim() - mask.dim()
    wide = region.call(torch.Tensor.reshape, mask, tuple(mask.shape) + (1,) * rest) if rest else mask
    value = torch.as_tensor(value, dtype=before.dtype, device=before.device)
    if value.dim() == rest + 1 and value.shape[0] != 1:  # one row for each True element, in order
        full = region.call(torch.Tensor.expand, wide, before.shape)
        return region.call(torch.masked_scatter, before, full, value)  # type: ignore[no-any-return]
    value = region.call(torch.Tensor.__getitem__, value, 0) if value.dim() == rest + 1 else value
    return region.call(torch.where, wide, value, before)  # type: ignore[no-any-return]


@dataclass
class Writes:
    decided: Callable[[Tensor], bool]
    """Whether a tensor carries a decision."""
    before: Callable[[Region, Tensor], Tensor]
    """The tensor as it is now, with what it carries."""
    carry: Callable[[Region, Tensor, Tensor], None]
    """``carry(region, target, result)``: `target` is `result` now, and carries the same, or nothing."""
    joined: Callable[[Region, Callable[[list[Tensor]], Tensor], Tensor, Tensor], Tensor]
    """``joined(region, put, old, new)`` is ``put([old, new])``, which moves elements, with what it carries."""
    floats: bool = False
    """Whether what floats carry is told to the base of a view that is written to."""

    def concerns(self, args: tuple[Any, ...], kwargs: dict[str, Any], source: bool) -> bool:
        """Whether an operand carries something, or (of a source) is followed by autograd."""
        return any(self.decided(x) or source and tracked(x) for x in tensors(args, kwargs))

    def converted(self, region: Region, value: Any, target: Tensor) -> Any:
        """A write converts to the target's dtype; what carries something, or a float autograd follows, through the
        region.
        """
        if isinstance(value, Tensor) and value.dtype != target.dtype and (self.decided(value) or tracked(value)):
            return region.call(torch.Tensor.to, value, target.dtype)
        return value

    def copy(self, region: Region, func: Func, args: tuple[Any, ...], kwargs: dict[str, Any]) -> Any:
        """``target.copy_(source)``"""
        target, source = args[:2]
        if source is target:
            return target
        source = self.converted(region, source, target)
        if not self.decided(source):
            return func(target, source, *args[2:], **kwargs)
        return self.overwrite(region, target, region.call(torch.Tensor.expand, source, target.shape))

    def in_place(self, twin: Func, source: bool) -> Rule:
        """The rule of ``op_``, where `twin` is ``op``."""

        def rule(region: Region, func: Func, args: tuple[Any, ...], kwargs: dict[str, Any]) -> Any:
            target = args[0]
            if not isinstance(target, Tensor) or not self.concerns(args, kwargs, source):
                return func(*args, **kwargs)
            before = self.before(region, target)
            result = region.call(twin, *(before if x is target else x for x in args), **kwargs)
            if result.shape != target.shape or _rank(result.dtype) > _rank(target.dtype):
                return func(*args, **kwargs)  # raises, as it does without a region
            return self.overwrite(region, target, result)

        return rule

    def reshaping(self, twin: Func) -> Rule:
        """The rule of ``unsqueeze_``, ``t_`` …, where `twin` is not in place: no element is written."""

        def rule(region: Region, func: Func, args: tuple[Any, ...], kwargs: dict[str, Any]) -> Any:
            x, *rest = args
            moved = region.call(twin, self.before(region, x), *rest, **kwargs) if self.decided(x) else None
            out: Tensor = func(*args, **kwargs)
            if moved is not None:
                self.carry(region, out, moved)
            return out

        return rule

    def spelled_out(self, rule: Rule, source: bool) -> Rule:
        """``out=`` is a computation and then a copy, and so is ``inplace=True``; NumPy's spellings become torch's."""

        def handler(region: Region, func: Func, args: tuple[Any, ...], kwargs: dict[str, Any]) -> Any:
            if list in map(type, args):  # what is worked out later sees it as it is now
                args = tuple([*x] if type(x) is list else x for x in args)
            if not kwargs:
                return rule(region, func, args, kwargs)
            if not args and "input" in kwargs and "condition" not in kwargs:
                args = (kwargs["input"],)
                kwargs = {name: x for name, x in kwargs.items() if name != "input"}
            kwargs = {
                _NUMPY.get(name, name): [*x] if type(x) is list else x
                for name, x in kwargs.items()
                if name != "out" or x is not None
            }
            if kwargs.get("inplace") and self.concerns(args, kwargs, source):
                before = self.before(region, args[0])
                result = rule(region, func, (before, *args[1:]), {**kwargs, "inplace": False})
                return self.overwrite(region, args[0], result)
            out = kwargs.get("out")
            if not isinstance(out, Tensor):
                return rule(region, func, args, kwargs)
            if not self.concerns(args, kwargs, source):
                return func(*args, **kwargs)
            result = rule(region, func, args, {name: x for name, x in kwargs.items() if name != "out"})
            if out.shape != result.shape:
                out.resize_(result.shape)
            return self.overwrite(region, out, result)

        return handler

    def overwrite(self, region: Region, target: Tensor, result: Tensor) -> Tensor:
        """``target.copy_(result)``, with what `result` carries; if `target` is a view, its base has it, too."""
        if target.dtype != result.dtype:
            result = region.call(torch.Tensor.to, result, target.dtype)
        if target.shape != result.shape:
            result = region.call(torch.Tensor.expand, result, target.shape)
        base, whole = target._base if self.floats or not target.is_floating_point() else None, None
        if base is not None and (self.decided(base) or self.decided(result)):
            put = into_base(region, base, target, result)
            whole = None if put is None else self.joined(region, put, self.before(region, base), result)
        if self.decided(result) and not self.decided(target):
            told_of_views(region, target)
        torch.Tensor.copy_(target, result)
        self.carry(region, target, result)
        if base is not None and whole is not None:
            self.carry(region, base, whole)
        return target
