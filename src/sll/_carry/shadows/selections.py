"""Selection by a mask: ``x[mask]``, ``masked_select(x, mask)``, ``nonzero(mask)``.

A selection has the shape that the program gives it, and no place for what was left out. Functions of single elements or
rows, and `sum` and `mean` (and losses that end in one) after them, see all elements with the shadow of the mask:
``f(x[mask]).mean()`` is ``(f(x) * m).sum() / m.sum()``. Everything else is ordinary for what was selected, and what the
mask left out is reported as lost.
"""

from __future__ import annotations

import functools
from typing import Any

import torch
from torch import Tensor

from ..._ops.openness import open_elements
from ..._ops.surrogates import alias, follow, kept
from ..._rules.index import op_name
from ..interface import Func, Region, Rule
from .differences import added
from .shadow import Selected, Shadow, as_float, as_value, carried, carry, mark, quick_shadow, shadow, tensors


def selected(x: Any) -> Selected | None:
    found = carried(x)
    return found if isinstance(found, Selected) else None


# --- what a mask selects -----------------------------------------------------------------------------------------

_WITH_OTHERS = "a mask among other indices is not followed. Use x[mask] alone."


def select(region: Region, func: Func, x: Tensor, items: tuple[Any, ...]) -> Any:
    """``x[mask]``."""
    mask = items[0]
    out = func(x, items if len(items) > 1 else mask)
    if len(items) > 1:
        region.lose("getitem", [item for item in items if shadow(item) is not None], _WITH_OTHERS)
        return out
    return _selected(region, x, mask, out)


def _selected(region: Region, x: Tensor, mask: Tensor, out: Tensor) -> Tensor:
    held = shadow(x)
    if held is not None and not open_elements(as_value(mask)):  # (it is the numbers that are open, if anything is)
        return region.call(torch.Tensor.__getitem__, x, mask.detach())  # type: ignore[no-any-return]
    full = held.shown(x, held.value().dtype) if held is not None else kept(x)
    full = full.reshape(mask.numel(), *x.shape[mask.dim() :])
    return carry(region, out, Selected(lambda: full, _flat(mask), mask))


def quick_select(region: Region, func: Func, args: tuple[Any, ...]) -> Any:
    """``x[mask]`` of a tensor that carries nothing."""
    x, mask = args
    own = quick_shadow(mask)
    if own is None or getattr(x, "_sll", None) is not None or type(x) is not Tensor:
        return NotImplemented
    full, of_all = kept(x), (mask.numel(), *x.shape[mask.dim() :])
    region.select()
    weights = own if mask.dim() == 1 else _flat(mask)
    return mark(region, func(x, mask), Selected(lambda: full.reshape(of_all), weights, mask))


def _flat(mask: Tensor) -> Shadow:
    own = shadow(mask)
    assert own is not None
    return Shadow(lambda: own.value().reshape(-1))


def masked(region: Region, func: Func, args: tuple[Any, ...], kwargs: dict[str, Any]) -> Any:
    """``masked_select(x, mask)``: both broadcast."""
    named = dict(zip(("input", "mask"), args), **kwargs)
    x, mask = named["input"], named["mask"]
    if shadow(mask) is None and shadow(x) is None:
        return func(*args, **kwargs)
    shape = torch.broadcast_shapes(x.shape, mask.shape)  # type: ignore[no-untyped-call]
    full, flags = (region.call(torch.Tensor.expand, t, shape) for t in (x, mask))
    if shadow(mask) is None:
        return region.call(torch.Tensor.__getitem__, full, flags)
    return _selected(region, full, flags, func(*args, **kwargs))


def nonzero(region: Region, func: Func, args: tuple[Any, ...], kwargs: dict[str, Any]) -> Any:
    """The places that a mask selects: of all places, those."""
    mask, out = args[0] if args else kwargs["input"], func(*args, **kwargs)
    if shadow(mask) is None:
        return out
    mask = mask if mask.dtype == torch.bool else region.call(torch.ne, mask, 0)
    own = _flat(mask)
    every = torch.ones_like(mask.detach()).nonzero()
    parts = zip(out, every.unbind(-1)) if isinstance(out, tuple) else [(out, every)]
    for part, places in parts:
        carry(region, part, Selected(functools.partial(torch.Tensor.view_as, places, places), own, mask))
    return out


# --- functions of a selection ------------------------------------------------------------------------------------


def on_elements(region: Region, func: Func, args: tuple[Any, ...], kwargs: dict[str, Any]) -> Any:
    """A function of elements or rows of a selection is the selection of the function."""
    out = func(*args, **kwargs)
    found = [s for x in tensors(args, kwargs) if (s := selected(x)) is not None]
    first = found[0]
    same = all(s.mask is first.mask or torch.equal(s.mask, first.mask) for s in found)

    def extends(x: Any) -> bool:
        """Whether those left out have a part in it, too: not if there is one row for each selected element."""
        alone = not isinstance(x, Tensor) or selected(x) is not None or x.dim() == 0
        return alone or x.shape[0] != out.shape[0] or out.shape[0] == 1

    rows = isinstance(out, Tensor) and out.shape[:1] == (int(first.mask.sum()),)
    if not same or not rows or not all(map(extends, tensors(args, kwargs))):
        return other(region, func, args, kwargs, out)
    values, named = [_all(x) for x in args], {name: _all(x) for name, x in kwargs.items()}
    return carry(region, out, Selected(lambda: func(*values, **named), first.shadow, first.mask))


def in_place(twin: Func) -> Rule:
    """``selection -= 1``: it is the selection of ``twin(selection, 1)`` then."""

    def rule(region: Region, func: Func, args: tuple[Any, ...], kwargs: dict[str, Any]) -> Any:
        if selected(args[0]) is None:
            return other(region, func, args, kwargs)
        found = selected(on_elements(region, twin, args, kwargs))
        out = func(*args, **kwargs)
        return out if found is None else carry(region, out, found)

    return rule


def product(region: Region, func: Func, args: tuple[Any, ...], kwargs: dict[str, Any]) -> Any:
    """``selection @ weight``, `linear`: each row by itself."""
    x, *rest = args
    found, others = selected(x), tensors(rest, kwargs)
    out = func(*args, **kwargs)
    if found is None or x.dim() < 2 or any(selected(y) is not None or y.dim() > 2 for y in others):
        return other(region, func, args, kwargs, out)
    return carry(region, out, Selected(lambda: func(found.candidates(), *rest, **kwargs), found.shadow, found.mask))


def _all(x: Any) -> Any:
    """All elements, in the place of those selected."""
    found = selected(x)
    return found.candidates() if found is not None else tuple(map(_all, x)) if isinstance(x, tuple) else x


def item(region: Region, func: Func, args: tuple[Any, ...], kwargs: dict[str, Any]) -> Any:
    """``selection[:, …]``, of each row; and ``table[selection]``, for each element."""
    x, index = args
    items = index if isinstance(index, tuple) else (index,)
    table = selected(x) is None and all(selected(i) is not None for i in items)
    if table and len(items) == 1:  # what was left out may be anything
        out, found, last = func(x, index), selected(items[0]), x.shape[0] - 1
        assert found is not None
        every = found.candidates().clamp(-last - 1, last)
        return carry(region, out, Selected(lambda: x[every], found.shadow, found.mask))
    if table or selected(x) is not None and isinstance(index, tuple) and index[0] == slice(None):
        return on_elements(region, func, args, kwargs)
    return other(region, func, args, kwargs)


def reduced(region: Region, func: Func, args: tuple[Any, ...], kwargs: dict[str, Any]) -> Any:
    """`sum` and `mean` of a selection."""
    named = dict(zip(("input", "dim", "keepdim"), args), **kwargs)
    x, dim, keepdim = named["input"], named.get("dim"), bool(named.get("keepdim"))
    found = selected(x)
    assert found is not None
    dims = list(range(x.dim())) if dim is None else [d % x.dim() for d in ([dim] if isinstance(dim, int) else dim)]
    if 0 not in dims:
        return on_elements(region, func, args, kwargs)
    out = func(*args, **kwargs)
    with torch.no_grad():
        try:
            full = as_float(found.candidates().detach())
        except (RuntimeError, IndexError, ValueError):  # not defined for what was left out
            return other(region, func, args, kwargs, out)
        full = torch.where(full.isfinite(), full, 0)
        rest = [d for d in dims if d]
        if rest:
            full = getattr(torch, op_name(func))(full, rest, keepdim=True)
        if op_name(func) == "mean":
            full = (full - x.detach().mean(dims, keepdim=True)) / max(x.shape[0], 1)
    soft = found.shadow.value().reshape(-1, *(1,) * (full.dim() - 1)) * full
    soft = soft.sum(0, keepdim=True).reshape(out.shape) if not keepdim else soft.sum(0, keepdim=True)
    if out.is_floating_point():
        return added(out, soft)
    numbers = alias(out)
    return carry(region, out, Shadow(follow(soft, lambda: numbers.to(soft.dtype))))


def loss(region: Region, func: Func, args: tuple[Any, ...], kwargs: dict[str, Any]) -> Any:
    """A loss of elements, and then `mean` or `sum`."""
    reduction = kwargs.get("reduction", "mean")
    each = on_elements(region, func, args, {**kwargs, "reduction": "none"})
    if reduction == "none":
        return each
    if selected(each) is None:
        return func(*args, **kwargs)
    return region.call(torch.mean if reduction == "mean" else torch.sum, each)


_NOT_FOLLOWED = (
    "how many elements a mask selects has no derivative here. Use sum or mean of the selection, "
    "torch.where(mask, f(x), y) instead of y[mask] = f(x[mask]), or (f(x) * mask).sum() instead of f(x[mask]).sum()."
)


def other(region: Region, func: Func, args: tuple[Any, ...], kwargs: dict[str, Any], out: Any = None) -> Any:
    """Any other function of a selection: lost, if the mask is open anywhere."""
    found = [s for x in tensors(args, kwargs) if (s := selected(x)) is not None]
    masks = [s.mask for s in found if open_elements(s.shadow.value())]
    if masks:
        region.lose(op_name(func), masks, _NOT_FOLLOWED)
    return func(*args, **kwargs) if out is None else out
