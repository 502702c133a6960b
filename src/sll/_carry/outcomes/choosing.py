"""What all functions that choose positions have in common."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor

from ..._ops.dtypes import compute_dtype
from ..._ops.env import compiling, tracked
from ..._rules.index import op_name
from ..._rules.widths import Width, watch_of
from ..interface import Func, Region
from .carriers import Choice, Sorted, attach, carrier, discrete_carrier
from .registry import follows


def chooses(op: str, *, of_integers: Any = None) -> Callable[[Callable[..., Any]], Callable[..., Any]]:
    """The rule of the functions with this op, which choose positions along one dimension of their first operand.

    The decorated function is called as ``rule(region, func, args, kwargs, x)`` when `x` is a float that autograd
    follows; otherwise the original runs. A discrete operand that carries something is lost, unless `of_integers` knows
    what becomes of it.
    """

    def decorate(rule: Callable[..., Any]) -> Callable[..., Any]:
        def handler(region: Region, func: Func, args: tuple[Any, ...], kwargs: dict[str, Any]) -> Any:
            x: Any = args[0] if args else kwargs.get("input")
            if discrete_carrier(x):
                found = None if of_integers is None else of_integers(region, func, args, kwargs, x)
                if found is not None:
                    return found
                region.lose(op_name(func), [x], _DISCRETE)
            if not tracked(x) or not region.linearizes(op):
                return func(*args, **kwargs)
            return rule(region, func, args, kwargs, x)

        follows(handler, op)
        return rule

    return decorate


_DISCRETE = "of integers, which one is largest has no derivative here. Choose among floats."


def _with_indices(region: Region, func: Func, out: Any, found: Choice) -> Any:
    """`out`, a ``torch.return_types``, with what its indices carry."""
    if not compiling():
        attach(region, out.indices, found)
        return out
    # Dynamo does not set attributes on the parts of a result, but on views of them.
    indices = attach(region, out.indices.view_as(out.indices), found)
    return getattr(torch.return_types, func.__name__)((out.values.view_as(out.values), indices))


def _scores(x: Tensor, dim: int, largest: bool) -> Tensor:
    """``± x`` in the dtype of distances, the dimension last. NaN is the largest number, as in `torch.sort`."""
    rows = (x.reshape(1) if x.dim() == 0 else x.movedim(dim, -1)).to(compute_dtype(x.dtype))
    rows = torch.where(rows.isnan(), float("inf"), rows)
    return rows if largest else -rows


def _watched(width: float | Width, weights: Tensor) -> Tensor:
    watch = watch_of(width)
    return weights if watch is None else watch.weights(weights)


MAX_ELEMENTS = 2**21
"""An order keeps as many neighbours on either side of a place as its band holds, up to this many in all."""


def _limit(z: Tensor) -> int:
    return max(1, MAX_ELEMENTS // max(z.numel(), 1))


def _mark(region: Region, out: Any, x: Tensor, dim: int | None, largest: bool, place: int | None = None) -> Any:
    """`out` (or its values) are found in `x`: all of a row in order, the first few, or the one at `place`."""
    values: Tensor = out if isinstance(out, Tensor) else out.values
    if carrier(values) is not None or x.numel() == 0:
        return out

    def places() -> Tensor:
        if dim is None or x.dim() == 0:
            return torch.full(values.shape, place or 0, device=x.device)
        rows = x.numel() // x.shape[dim]
        if place is not None:
            return (torch.arange(rows, device=x.device) * x.shape[dim] + place).reshape(values.shape)
        shape = values.movedim(dim, -1).shape
        number = torch.arange(rows, device=x.device)[:, None] * x.shape[dim] + torch.arange(shape[-1], device=x.device)
        return number.reshape(shape).movedim(-1, dim)

    attach(region, values, Sorted(x, None if x.dim() == 0 else dim, largest, places))
    return out
