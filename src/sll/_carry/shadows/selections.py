"""Selection by a mask: ``x[mask]``, ``masked_select(x, mask)``.

A selection has the shape that the program gives it, and no place for what was left out. Elementwise functions, and the
reductions `sum` and `mean` (and losses that end in one) straight after it, see all elements with the shadow of the mask:
``f(x[mask]).mean()`` is ``(f(x) * m).sum() / m.sum()``. Everything else is ordinary for what was selected, and what the
mask left out is reported as lost.
"""

from __future__ import annotations

from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor

from ..._ops.surrogates import kept
from ..interface import Func, Region
from ..outcomes.registry import op_name
from .elementwise import _added
from .shadow import Selected, Shadow, carried, carry, shadow


def selected(x: Any) -> Selected | None:
    found = carried(x)
    return found if isinstance(found, Selected) else None


def select(region: Region, func: Func, x: Tensor, items: tuple[Any, ...]) -> Any:
    mask = items[0]
    out = func(x, items if len(items) > 1 else mask)
    if len(items) > 1 or mask.shape != x.shape[: mask.dim()]:
        region.lose("getitem", [item for item in items if shadow(item) is not None], _WITH_OTHERS)
        return out
    return _selected(region, x, mask, out)


_WITH_OTHERS = "a mask among other indices is not followed. Use x[mask] alone."


def _selected(region: Region, x: Tensor, mask: Tensor, out: Tensor) -> Tensor:
    own, held = shadow(mask), shadow(x)
    assert own is not None
    if held is None:
        full = kept(x) if x.is_floating_point() else x.to(own.value().dtype)
    else:
        full = held.shown(x, held.value().dtype)
    full = full.reshape(mask.numel(), *x.shape[mask.dim() :])
    flat = Shadow(lambda: own.value().reshape(-1))
    return carry(region, out, Selected(lambda: full, flat, mask))


def masked(region: Region, func: Func, args: tuple[Any, ...], kwargs: dict[str, Any]) -> Any:
    """``masked_select(x, mask)``: both broadcast."""
    named = dict(zip(("input", "mask"), args), **kwargs)
    x, mask = named["input"], named["mask"]
    if shadow(mask) is None:
        if shadow(x) is None:
            return func(*args, **kwargs)
        shape = torch.broadcast_shapes(x.shape, mask.shape)  # type: ignore[no-untyped-call]
        return region.call(torch.Tensor.__getitem__, region.call(torch.Tensor.expand, x, shape), mask.expand(shape))
    shape = torch.broadcast_shapes(x.shape, mask.shape)  # type: ignore[no-untyped-call]
    full, flags = (region.call(torch.Tensor.expand, t, shape) for t in (x, mask))
    return _selected(region, full, flags, func(*args, **kwargs))


def on_elements(region: Region, func: Func, args: tuple[Any, ...], kwargs: dict[str, Any]) -> Any:
    """An elementwise function of a selection is the selection of the function."""
    out = _plainly(region, func, args, kwargs)
    first = next(found for x in (*args, *kwargs.values()) if (found := selected(x)) is not None)

    def extend(x: Any) -> Any:
        found = selected(x)
        if found is not None:
            return found.candidates() if found.mask is first.mask else None
        if isinstance(x, Tensor) and x.dim() and x.shape[0] == out.shape[0] != 1:
            return None  # one row for each selected element; those left out have none
        return x

    if not isinstance(out, Tensor):
        return out
    with torch.no_grad() if not torch.is_grad_enabled() else torch.enable_grad():
        values = [extend(x) for x in args]
        named = {name: extend(x) for name, x in kwargs.items()}
    if any(x is not None and v is None for x, v in zip((*args, *kwargs.values()), (*values, *named.values()))):
        return _lost(region, func, args, kwargs, out)
    return carry(region, out, Selected(lambda: func(*values, **named), first.shadow, first.mask))


def reduced(region: Region, func: Func, args: tuple[Any, ...], kwargs: dict[str, Any]) -> Any:
    """`sum` and `mean` of a selection."""
    x = args[0]
    found = selected(x)
    out = _plainly(region, func, args, kwargs)
    assert found is not None
    named = dict(zip(("input", "dim", "keepdim"), args), **kwargs)
    dim = named.get("dim")
    dims = list(range(x.dim())) if dim is None else [d % x.dim() for d in ([dim] if isinstance(dim, int) else dim)]
    if 0 not in dims or not out.is_floating_point() and x.is_floating_point():
        return _lost(region, func, args, kwargs, out)
    keepdim = bool(named.get("keepdim"))
    with torch.no_grad():
        full = found.candidates().detach()
        full = torch.where(full.isfinite(), full, 0)
        if func.__name__ == "mean":
            count = max(x.shape[0], 1)
            rest = [d for d in dims if d]
            full = full.mean(rest, keepdim=True) if rest else full
            base = out.detach() if keepdim or out.dim() == 0 else out.detach().unsqueeze(0)
            full = (full - base.reshape((1,) * (full.dim() - base.dim()) + base.shape)) / count
    share = found.shadow.value()
    soft = (share.reshape(-1, *(1,) * (full.dim() - 1)) * full).sum(dims, keepdim=keepdim)
    if out.is_floating_point():
        return _added(out, soft.reshape(out.shape))
    from ..._ops.surrogates import alias, follow

    numbers = alias(out)
    return carry(region, out, Shadow.of(follow(soft, lambda: numbers.to(soft.dtype))))


LOSSES = {
    "mse_loss", "l1_loss", "smooth_l1_loss", "huber_loss", "binary_cross_entropy", "soft_margin_loss",
    "binary_cross_entropy_with_logits", "poisson_nll_loss",
}  # fmt: skip


def loss(region: Region, func: Func, args: tuple[Any, ...], kwargs: dict[str, Any]) -> Any:
    reduction = kwargs.get("reduction", "mean")
    each = on_elements(region, func, args, {**kwargs, "reduction": "none"})
    if reduction == "none" or selected(each) is None:
        return each if reduction == "none" else _plainly(region, func, args, kwargs)
    return region.call(torch.mean if reduction == "mean" else torch.sum, each)


def _plainly(region: Region, func: Func, args: tuple[Any, ...], kwargs: dict[str, Any]) -> Any:
    return func(*args, **kwargs)


_NOT_FOLLOWED = (
    "how many elements a mask selects has no derivative here. Use sum or mean of the selection, or "
    "(f(x) * mask).sum() instead of f(x[mask]).sum()."
)


def _lost(region: Region, func: Func, args: tuple[Any, ...], kwargs: dict[str, Any], out: Any) -> Any:
    masks = [found.mask for x in (*args, *kwargs.values()) if (found := selected(x)) is not None]
    region.lose(op_name(func), masks, _NOT_FOLLOWED)
    return out


def other(region: Region, func: Func, args: tuple[Any, ...], kwargs: dict[str, Any]) -> Any:
    """Any other function of a selection."""
    if func is F.mse_loss:  # pragma: no cover (LOSSES come first)
        return loss(region, func, args, kwargs)
    return _lost(region, func, args, kwargs, _plainly(region, func, args, kwargs))
