"""Selection by a mask: ``x[mask]``, ``masked_select(x, mask)``, ``nonzero(mask)``.

A selection has the shape that the program gives it, and no place for what was left out. Functions of single elements or
rows, and `sum` and `mean` (and losses that end in one) after them, see all elements with the shadow of the mask:
``f(x[mask]).mean()`` is ``(f(x) * m).sum() / m.sum()``. Everything else is ordinary for what was selected, and what the
mask left out is reported as lost.
"""

from __future__ import annotations

import functools
from collections.abc import Callable
from typing import Any, TypeAlias

import torch
from torch import Tensor

from ..._ops.apply import finite
from ..._ops.env import eager
from ..._ops.openness import open_elements
from ..._ops.surrogates import alias, finite_gradient, follow
from ..._rules.index import op_name
from ..interface import Func, Region
from .differences import added
from .shadow import (
    Selected,
    Shadow,
    as_float,
    call_with,
    carried,
    carry,
    mark,
    quick_shadow,
    shadow,
    tensors,
)


def selected(x: Any) -> Selected | None:
    found = carried(x)
    return found if isinstance(found, Selected) else None


# --- what a mask selects -----------------------------------------------------------------------------------------


def select(region: Region, func: Func, x: Tensor, mask: Tensor) -> Any:
    """``x[mask]``."""
    out = func(x, mask) if shadow(x) is None else region.call(torch.Tensor.__getitem__, x, mask.detach())
    full = x.detach().reshape(mask.numel(), *x.shape[mask.dim() :]).clone()
    return carry(region, out, Selected(lambda: full, _flat(mask), mask, full.dim() - 1, shadow(out)))


def quick_select(region: Region, func: Func, args: tuple[Any, ...]) -> Any:
    """``x[mask]`` of a tensor that carries nothing."""
    x, mask = args
    own = quick_shadow(mask)
    if own is None or getattr(x, "_sll", None) is not None or type(x) is not Tensor:
        return NotImplemented
    full, of_all = x.detach().clone(), (mask.numel(), *x.shape[mask.dim() :])
    region.select()
    weights = own if mask.dim() == 1 else _flat(mask)
    return mark(region, func(x, mask), Selected(lambda: full.reshape(of_all), weights, mask, len(of_all) - 1))


def _flat(mask: Tensor) -> Shadow:
    own = shadow(mask)
    assert own is not None
    return Shadow(lambda: own.value().reshape(-1))


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
        carry(region, part, Selected(functools.partial(places.view_as, places), own, mask, places.dim() - 1))
    return out


def by_places(region: Region, items: tuple[Any, ...]) -> tuple[Any, ...]:
    """An index, with the places that they select for the masks in it that were decided."""
    found: list[Any] = []
    for item in items:
        mask = shadow(item) is not None and item.dtype == torch.bool and item.dim() and selected(item) is None
        found += region.call(torch.nonzero, item, as_tuple=True) if mask else [item]
    return tuple(found)


def every(index: Tensor, size: int) -> Tensor:
    """All places that an index may select. Those that it does not may be anything."""
    found = selected(index)
    if found is None or index.dtype == torch.bool:  # (flags of what was selected)
        raise ValueError
    return found.candidates().clamp(-size, size - 1)


def of_all(region: Region, func: Func, x: Tensor, items: Any, out: Tensor, spots: Callable[[], list[Any]]) -> Any:
    """`out`, read from `x` at places some of which a mask selected: `Spot`."""
    if selected(x) is not None or not any(selected(item) is not None for item in items):
        return out
    try:
        spot = spots()[0]
        full = spot.every(x.detach())
    except (ValueError, RuntimeError, IndexError):
        return other(region, func, tuple(items), {}, lambda: out)
    found: Any = carried(spot.index)
    return selection(region, out, functools.partial(full.view_as, full), found, spot.behind + found.behind)


# --- functions of a selection ------------------------------------------------------------------------------------

Run: TypeAlias = "Callable[[], Any]"
"""The call, by the rule for what its operands carry themselves."""
SelectionRule: TypeAlias = "Callable[[Region, Func, tuple[Any, ...], dict[str, Any], Run], Any]"


def upright(t: Tensor, behind: int) -> Tensor:
    """One number for each row, with so many dimensions behind."""
    return t.reshape(-1, *(1,) * behind)


def _all(x: Any, found: Selected) -> Any:
    """What the same mask selects as `found`, with what was left out. Raises ValueError if another does."""
    own = selected(x)
    if own is None:
        return x
    if own.mask is not found.mask and not torch.equal(own.mask, found.mask):
        raise ValueError
    return own.candidates()


def wide(x: Any, found: Selected, at: Callable[[Tensor], int], many: int, alike: bool = False) -> Any:
    """An operand beside `found`, which selects so `many`, with those that were left out, in the dimension ``at(x)``;
    itself where they have a part in it. Raises ValueError if it has one row for each that is selected, unless those are
    all the same, and that is enough (`alike`).
    """
    own = selected(x)
    if own is not None and at(x) != x.dim() - 1 - own.behind:
        raise ValueError
    if own is not None or not isinstance(x, Tensor) or not -1 < at(x) < x.dim() or x.shape[at(x)] != many or many == 1:
        return _all(x, found)
    one = x.narrow(at(x), 0, min(many, 1))
    if not alike or shadow(x) is not None or not (x == one).all():
        raise ValueError
    return one if many else 0


def on_elements(
    region: Region, func: Func, args: tuple[Any, ...], kwargs: dict[str, Any], run: Run, first: bool = False
) -> Any:
    """A function of elements or rows of a selection is the selection of the function. `first`: the dimension of the
    rows is that.
    """
    x, found = next((x, s) for x in tensors(args, kwargs) if (s := selected(x)) is not None)
    at: Callable[[Tensor], int] = lambda t: 0 if first else t.dim() - 1 - found.behind
    many = x.shape[x.dim() - 1 - found.behind]
    try:
        values, named = call_with(lambda *a, **k: (a, k), args, kwargs, lambda x: wide(x, found, at, many))
    except (ValueError, RuntimeError, IndexError):  # (or it is not defined for what was left out)
        return other(region, func, args, kwargs, run)
    out, named = run(), {name: x for name, x in named.items() if name not in ("inplace", "out")}
    if not isinstance(out, Tensor) or out.shape[at(out)] != many:
        return other(region, func, args, kwargs, lambda: out)
    return selection(region, out, lambda: func(*values, **named), found, out.dim() - 1 - at(out))


def selection(region: Region, out: Tensor, make: Run, found: Selected, behind: int) -> Tensor:
    """`out` is selected by the same mask as `found`."""
    return carry(region, out, Selected(torch.no_grad()(make), found.shadow, found.mask, behind, shadow(out)))


def product(region: Region, func: Func, args: tuple[Any, ...], kwargs: dict[str, Any], run: Run) -> Any:
    """``selection @ weight``, `linear`: each row by itself."""
    x, *rest = args or (None,)
    found, others = selected(x), tensors(rest, kwargs)
    beyond = rest and isinstance(rest[0], (tuple, list)) and len(rest[0]) > 1  # (norms of several dimensions)
    if beyond or found is None or not found.behind or any(selected(y) is not None or y.dim() > 2 for y in others):
        return other(region, func, args, kwargs, run)
    out, full = run(), found.candidates()
    return selection(region, out, lambda: func(full, *rest, **kwargs), found, found.behind + out.dim() - x.dim())


def moved(region: Region, func: Func, args: tuple[Any, ...], kwargs: dict[str, Any], run: Run) -> Any:
    """``selection[:, …]``, `reshape`, `chunk`, `cat` …: the number of each row goes where its elements go."""
    found = next(s for x in tensors(args, kwargs) if (s := selected(x)) is not None)
    rows, out = torch.arange(found.mask.numel(), device=found.mask.device), run()
    if any(selected(x) is not None for x in tensors(args[1:], kwargs)):
        return other(region, func, args, kwargs, lambda: out)

    def number(x: Tensor) -> Tensor:
        own = selected(x)
        return x if own is None else upright(rows, own.behind).expand(own.candidates().shape)

    try:
        with torch.no_grad():
            full, numbers = (call_with(func, args, kwargs, of) for of in (lambda x: _all(x, found), number))
    except (ValueError, RuntimeError, IndexError):
        return other(region, func, args, kwargs, lambda: out)
    for part, values, places in zip(*([t] if isinstance(t, Tensor) else t for t in (out, full, numbers))):
        whole = [b for b in range(places.dim()) if places.shape[-1 - b] == rows.numel()]
        fits = [b for b in whole if bool((places == upright(rows, b)).all())]  # the rows stand in order there
        if not fits:
            return other(region, func, args, kwargs, lambda: out)
        nearest = min(fits, key=lambda b: abs(b - found.behind))  # (of one row any fits)
        selection(region, part, functools.partial(values.view_as, values), found, nearest)
    return out


def along(region: Region, func: Func, args: tuple[Any, ...], kwargs: dict[str, Any], run: Run) -> Any:
    """``selection.softmax(-1)``, ``any(1)`` …: in each row, or with each beside itself."""
    named = dict(zip(("input", "dim"), args), **kwargs)
    x, dim = named["input"], named.get("dim")
    found, dims = selected(x), [dim] if isinstance(dim, int) else dim
    if found is None or not isinstance(dims, (tuple, list)) or len(tensors(args, kwargs)) > 1:
        return other(region, func, args, kwargs, run)
    at, beyond, out = x.dim() - 1 - found.behind, {d % x.dim() for d in dims}, run()
    if at in beyond:
        return other(region, func, args, kwargs, lambda: out)
    with torch.no_grad():
        full = call_with(func, args, kwargs, lambda y: _all(y, found))
    for part, values in [(out, full)] if isinstance(out, Tensor) else zip(out, full):
        behind = found.behind - (0 if part.dim() == x.dim() else sum(d > at for d in beyond))
        selection(region, part, functools.partial(values.view_as, values), found, behind)
    return out


def reduced(region: Region, func: Func, args: tuple[Any, ...], kwargs: dict[str, Any], run: Run) -> Any:
    """`sum` and `mean` of a selection."""
    named = dict(zip(("input", "dim"), args), **kwargs)
    x, dim = named["input"], named.get("dim")
    found, out = selected(x), run()
    if found is None:  # (of a selection among the weights, or a place to write to)
        return other(region, func, args, kwargs, lambda: out)
    every = range(x.dim()) if dim is None else [d % x.dim() for d in ([dim] if isinstance(dim, int) else dim)]
    at = x.dim() - 1 - found.behind
    if at not in every:
        return along(region, func, args, kwargs, lambda: out)
    with torch.no_grad():
        try:
            full = as_float(found.candidates().detach())
        except (RuntimeError, IndexError, ValueError):  # not defined for what was left out
            return other(region, func, args, kwargs, lambda: out)
        full = torch.where(full.isfinite(), full, 0)
        if rest := [d for d in every if d != at]:
            full = getattr(torch, op_name(func))(full, rest, keepdim=True)
        if op_name(func) == "mean":
            full = finite(full - x.detach().mean(list(every), keepdim=True)) / max(x.shape[at], 1)
    soft = (upright(found.shadow.value(), found.behind) * full).sum(at).reshape(out.shape)
    soft = soft if not eager() or x.shape[at] else finite_gradient(soft)  # (what follows a mean of nothing is NaN)
    if out.is_floating_point():
        return added(out, soft)
    numbers, own = alias(out), shadow(out)
    soft = soft if own is None else soft + own.value()
    return carry(region, out, Shadow(follow(soft, lambda: numbers.to(soft.dtype))))


def loss(region: Region, func: Func, args: tuple[Any, ...], kwargs: dict[str, Any], run: Run) -> Any:
    """A loss of elements, and then `mean` or `sum`."""
    reduction = kwargs.get("reduction", "mean")
    run = run if any(shadow(x) is not None for x in tensors(args, kwargs)) else lambda: func(*args, **kwargs)
    if reduction == "none":
        return on_elements(region, func, args, kwargs, run, True)
    each, out = region.call(func, *args, **{**kwargs, "reduction": "none"}), run()
    if selected(each) is None:
        return out
    found = region.call(torch.mean if reduction == "mean" else torch.sum, each)
    if not torch.allclose(found.detach(), out.detach(), equal_nan=True):  # (weights of classes, or ignored ones)
        return other(region, func, args, kwargs, lambda: out)
    return follow(found, out.detach)


_NOT_FOLLOWED = (
    "how many elements a mask selects has no derivative here. Use sum or mean of the selection, "
    "torch.where(mask, f(x), y) instead of y[mask] = f(x[mask]), or (f(x) * mask).sum() instead of f(x[mask]).sum()."
)


def other(region: Region, func: Func, args: tuple[Any, ...], kwargs: dict[str, Any], run: Run) -> Any:
    """Any other function of a selection: lost, if the mask is open anywhere."""
    found = [s for x in tensors(args, kwargs) if (s := selected(x)) is not None]
    masks = [s.mask for s in found if open_elements(s.shadow.value())]
    if masks:
        region.lose(op_name(func), masks, _NOT_FOLLOWED)
    return run()
