"""Writes into tensors: ``x[index] = value``, ``copy_``, ``op_`` and ``out=``.

Each is the function that is not in place, on a copy, and then the write. A shadow is a tensor of its own, so nothing has
to be done for tensors that are written to after a decision.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor

from ..._ops.env import compiling, tracked
from ..._ops.surrogates import alias, follow
from ..interface import Func, Region
from .scatters import put_at
from .shadow import Selected, Shadow, Weights, as_value, carried, carry, shadow

Rule = Callable[..., Any]


def concerns(args: tuple[Any, ...], kwargs: dict[str, Any], source: bool) -> bool:
    """Whether an operand carries something, or (of a source) is followed by autograd."""
    for x in (*args, *kwargs.values()):
        for item in x if isinstance(x, (tuple, list)) else (x,):
            if isinstance(item, Tensor) and (shadow(item) is not None or source and tracked(item)):
                return True
    return False


def before_write(region: Region, x: Tensor) -> Tensor:
    """A copy that carries the same."""
    copy, found = x.clone(), carried(x)
    return copy if found is None or isinstance(found, Selected) else carry(region, copy, found)


def in_place(twin: Func, source: bool) -> Rule:
    """The rule of ``op_``, where `twin` is ``op``."""

    def rule(region: Region, func: Func, args: tuple[Any, ...], kwargs: dict[str, Any]) -> Any:
        target = args[0]
        if not isinstance(target, Tensor) or not concerns(args, kwargs, source):
            return func(*args, **kwargs)
        before = before_write(region, target)
        result = region.call(twin, *(before if x is target else x for x in args), **kwargs)
        if result.shape != target.shape or _rank(result.dtype) > _rank(target.dtype):
            return func(*args, **kwargs)  # raises, as it does without a region
        return overwrite(region, target, result)

    return rule


def _rank(dtype: torch.dtype) -> int:
    """bool < integer < float < complex: torch refuses to write a result into a lower one."""
    return 3 if dtype.is_complex else 2 if dtype.is_floating_point else 0 if dtype == torch.bool else 1


def spelled_out(rule: Rule, source: bool) -> Rule:
    """``out=`` is a computation followed by a copy, and so is ``inplace=True``; NumPy's spellings become torch's."""

    def handler(region: Region, func: Func, args: tuple[Any, ...], kwargs: dict[str, Any]) -> Any:
        if not kwargs:
            return rule(region, func, args, kwargs)
        if not args and "input" in kwargs and "condition" not in kwargs:
            args = (kwargs["input"],)
            kwargs = {name: x for name, x in kwargs.items() if name != "input"}
        if "axis" in kwargs or "keepdims" in kwargs:
            kwargs = {{"axis": "dim", "keepdims": "keepdim"}.get(name, name): x for name, x in kwargs.items()}
        out = kwargs.get("out")
        if kwargs.get("inplace") and concerns(args, kwargs, source):
            result = rule(region, func, (before_write(region, args[0]), *args[1:]), {**kwargs, "inplace": False})
            return overwrite(region, args[0], result)
        if not isinstance(out, Tensor):
            return rule(region, func, args, {name: x for name, x in kwargs.items() if name != "out" or x is not None})
        if not concerns(args, kwargs, source):
            return func(*args, **kwargs)
        result = rule(region, func, args, {name: x for name, x in kwargs.items() if name != "out"})
        if out.shape != result.shape:
            out.resize_(result.shape)
        return overwrite(region, out, result)

    return handler


def overwrite(region: Region, target: Tensor, result: Tensor) -> Tensor:
    """``target.copy_(result)``, shadow included; if `target` is a view, that of its base, too."""
    if target.dtype != result.dtype:
        result = region.call(torch.Tensor.to, result, target.dtype)
    found, base = carried(result), target._base
    of_base = None
    if base is not None and not target.is_floating_point() and (found is not None or shadow(base) is not None):
        of_base = _written_through(region, base, target, result)
    torch.Tensor.copy_(target, result)
    if found is not None and target.shape == result.shape:
        carry(region, target, found)
    elif compiling():
        target._sll = None  # type: ignore[attr-defined]
    if base is not None and of_base is not None:
        carry(region, base, of_base)
    return target


def _written_through(region: Region, base: Tensor, view: Tensor, result: Tensor) -> Shadow | None:
    """What `base` carries once `result` has been written into its `view`."""
    if not base.is_contiguous() or compiling():
        region.lose("write into a view", [base, result], "write through the tensor itself, x[index] = value.")
        return None
    offset = view.storage_offset() - base.storage_offset()
    places = torch.arange(base.numel(), device=base.device).as_strided(view.shape, view.stride(), offset)
    put = lambda old, new: old.reshape(-1).index_put((places.reshape(-1),), new.reshape(-1)).reshape(base.shape)
    return _merged(put, base, result)


def _merged(put: Callable[[Tensor, Tensor], Tensor], old: Tensor, new: Tensor) -> Shadow:
    """The shadow of ``put(old, new)``; both sides where both are known."""
    own, brought = shadow(old), shadow(new)
    if isinstance(own, Weights) and isinstance(brought, Weights) and own.positions and brought.positions:
        pass  # a table of places is written to row by row: their numbers are enough
    a, b = (torch.as_tensor(as_value(x)) for x in (old, new))
    value = put(a.to(b.dtype), b) if a.dtype != b.dtype else put(a, b)
    sides = [x if o is None else o.other(x) for x, o in ((old, own), (new, brought))]
    if old.dtype == torch.bool or any(side is None for side in sides):
        return Shadow.of(value)
    beyond = put(sides[0], sides[1].to(sides[0].dtype))  # type: ignore[arg-type, union-attr]
    return Shadow.of(value, lambda _: beyond)


def setitem(region: Region, func: Func, args: tuple[Any, ...], kwargs: dict[str, Any]) -> Any:
    target, index, value = args
    items = index if isinstance(index, tuple) else (index,)
    if any(shadow(item) is not None for item in items):
        return _write_at_decisions(region, func, target, items, value)
    value = _converted(region, value, target)
    if target.is_floating_point() or (shadow(value) is None and shadow(target) is None):
        return func(target, index, value)  # floats: autograd follows the write
    shape = target[index].shape
    if not isinstance(value, Tensor):
        value = torch.as_tensor(value, dtype=target.dtype, device=target.device)
    if value.dim() > len(shape):  # leading dimensions of size 1, which indexing accepts
        value = region.call(torch.Tensor.reshape, value, value.shape[value.dim() - len(shape) :])

    def put(old: Tensor, new: Tensor) -> Tensor:
        written = old.clone()
        written[index] = new
        return written

    found = _merged(put, target, value)
    func(target, index, value)
    carry(region, target, found)
    return None


def _converted(region: Region, value: Any, target: Tensor) -> Any:
    """A write converts to the target's dtype; a decided value, or a float autograd follows, through the region."""
    if isinstance(value, Tensor) and value.dtype != target.dtype and (carried(value) is not None or tracked(value)):
        return region.call(torch.Tensor.to, value, target.dtype)
    return value


def _write_at_decisions(region: Region, func: Func, target: Tensor, items: tuple[Any, ...], value: Any) -> Any:
    mask = items[0]
    before = before_write(region, target)
    value = _converted(region, value, target)
    if len(items) > 1 or mask.dtype != torch.bool or mask.shape != target.shape[: mask.dim()]:
        hard = before.clone()
        func(hard, items if len(items) > 1 else mask, value)
        overwrite(region, target, put_at(region, hard, before, items, value, add=False))
        return None
    rest = target.dim() - mask.dim()
    wide = region.call(torch.Tensor.reshape, mask, tuple(mask.shape) + (1,) * rest) if rest else mask
    func(
        target.detach().clone(), mask, value.detach() if isinstance(value, Tensor) else value
    )  # raises if it does not fit
    chosen = carried(value)
    if isinstance(chosen, Selected) and chosen.mask is mask:  # y[mask] = f(x[mask]): where(mask, f(x), y)
        full = chosen.candidates().reshape(target.shape).to(target.dtype)
        overwrite(region, target, region.call(torch.where, wide, full, before))
    elif isinstance(value, Tensor) and value.dim() == rest + 1 and value.shape[0] != 1:
        full = region.call(torch.Tensor.expand, wide, target.shape)
        overwrite(region, target, region.call(torch.masked_scatter, before, full, value.to(target.dtype)))
    else:
        value = value[0] if isinstance(value, Tensor) and value.dim() == rest + 1 else value
        value = (
            value.to(target.dtype)
            if isinstance(value, Tensor)
            else torch.tensor(value, dtype=target.dtype, device=target.device)
        )
        overwrite(region, target, region.call(torch.where, wide, value, before))
    return None


def copy_(region: Region, func: Func, args: tuple[Any, ...], kwargs: dict[str, Any]) -> Any:
    target, source = args[:2]
    converted = _converted(region, source, target)
    if source is target or carried(converted) is None:
        out = func(target, converted, *args[2:], **kwargs)
        if compiling() and getattr(target, "_sll", None) is not None and source is not target:
            target._sll = None
        return out
    return overwrite(region, target, region.call(torch.Tensor.expand, converted, target.shape))


def masked_scatter(region: Region, func: Func, args: tuple[Any, ...], kwargs: dict[str, Any]) -> Any:
    """Element ``i`` of the source goes to the ``i``-th True element of the mask: taken from the source at a count."""
    named = dict(zip(("input", "mask", "source"), args), **kwargs)
    x, mask, source = named["input"], named["mask"], named["source"]
    out = func(*args, **kwargs)
    own = shadow(mask)
    if own is None:
        return out
    if not out.is_floating_point() or source.numel() == 0:
        region.lose(
            "masked_scatter",
            [mask],
            "only a float source has a derivative here. Scatter floats, and convert afterwards.",
        )
        return out
    flat = source.reshape(-1)
    full, flags = own.value().expand(out.shape).reshape(-1), mask.expand(out.shape).reshape(-1)
    place = flags.cumsum(0) - flags.long()
    last = flat.numel() - 1
    with torch.no_grad():
        shown, above, below = (flat[(place + step).clamp(0, last)] for step in (0, 1, -1))
        slope = (above - below) / 2
        jump = (shown - x.expand(out.shape).reshape(-1)).nan_to_num(0.0, 0.0, 0.0)
    moved = torch.where(flags, (full.cumsum(0) - full) * slope, 0)
    soft = (moved + full * jump).reshape(out.shape)
    fixed = alias(out)
    return follow(soft.to(out.dtype) + out, lambda: fixed.clone())
