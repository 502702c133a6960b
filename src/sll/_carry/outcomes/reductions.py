"""Reductions of bool and integer results: the integer value stays, its expectation is carried.

A sum, a mean, a matrix product are linear in each operand, so the expectation of the result is the function of the
expectations. `all` is a product of weights and `any` the complement of one; different elements count as independent.
Reductions of floats are ordinary arithmetic.
"""

from __future__ import annotations

import functools
from typing import Any

import torch
from torch import Tensor

from ..found import best_value
from ..interface import Func, Region, attach, tensors
from ..rules import Call, between_bools, spelled
from .algebra import MAX_DECISIONS, through_expectation
from .carriers import Choice, Expectation, bool_outcomes, carrier, choice, discrete_carrier, resolved
from .decisions import Decision
from .expectations import by_ones, expect, order_in
from .later import kept, over_soon
from .trees import original


def linear(region: Region, func: Func, args: tuple[Any, ...], kwargs: dict[str, Any]) -> Any:
    if not any(map(discrete_carrier, tensors(args, kwargs))):
        return func(*args, **kwargs)
    if func.__name__ == "diff" and args and args[0].dtype == torch.bool:
        return between_bools(region, *args, **kwargs)
    if func.__name__ == "sum":
        found = _few_summands(region, *args, **kwargs)
        if found is not None:
            return found
    return through_expectation(region, func, args, kwargs)


def _few_summands(
    region: Region, input: Tensor, dim: Any = None, keepdim: bool = False, *, dtype: torch.dtype | None = None
) -> Tensor | None:
    """A sum of few weighted decisions, ``(bits * 2 ** torch.arange(3)).sum(-1)``, one after the other: that keeps their
    joint outcomes, as if independent. None for what is better known by its expectation: counts, and sums over places
    of an order, where one moves up and the other down.
    """
    if isinstance(dim, (tuple, list)) and len(dim) == 1:
        dim = dim[0]
    if dim is None and input.dim() == 1:
        dim = 0
    if dtype is not None or not isinstance(dim, int) or input.dim() == 0 or not 0 < input.shape[dim] <= MAX_DECISIONS:
        return None
    found = resolved(input)
    if isinstance(found, Expectation) or isinstance(found, Choice) and order_in(found.key) or by_ones(input):
        return None
    parts = region.call(torch.Tensor.unbind, region.call(torch.Tensor.to, input, torch.int64), dim)
    total: Tensor = parts[0]
    for part in parts[1:]:
        total = region.call(torch.Tensor.add, total, part)
    return region.call(torch.Tensor.unsqueeze, total, dim) if keepdim else total


def product(region: Region, func: Func, args: tuple[Any, ...], kwargs: dict[str, Any]) -> Any:
    if not any(map(discrete_carrier, tensors(args, kwargs))):
        return func(*args, **kwargs)
    return through_expectation(region, func, args, kwargs, widen=True)


@spelled
def truth(region: Region, call: Call, input: Tensor, dim: Any = None, keepdim: bool = False) -> Any:
    """`all` is the product of the weights, `any` not all not."""
    if carrier(input) is None:
        return call()
    out = original(call)
    flags = _nonzero(region, input)
    if carrier(flags) is None:
        return out
    negated, flags, shape = call.func.__name__ == "any", kept(flags), out.shape

    def offset() -> Tensor:
        weights = 1 - expect(flags) if negated else expect(flags)
        rank = weights.dim()
        dims = range(rank) if dim is None else (dim,) if isinstance(dim, int) else dim
        dims = sorted((d % rank for d in dims), reverse=True) if rank else ()
        if choice(flags) is not None and rank:
            weights = _all_chosen(weights, tuple(dims))
        else:
            for d in dims:
                weights = weights.prod(d)
        return (1 - weights if negated else weights).reshape(shape) - 0.5

    decision = Decision(("offset", object()), offset)  # (whether all is well is asked more often than it is used)
    if over_soon(input):
        decision.offset()
    return attach(region, out, bool_outcomes(decision, out))


def _all_chosen(weights: Tensor, dims: tuple[int, ...]) -> Tensor:
    """Weight of "all of them", when a choice makes one True in exchange for another: their number is what counts, and
    all is one more than all but one. (Places of a ranking are not independent: an element stands at one only.)
    """
    false = (1 - weights).sum(dims)
    whole = false.detach().round()
    near = (false.detach() - whole).abs() < 1e-5  # rounding of the sum
    return (1 - torch.where(near, false + (whole - false.detach()), false)).clamp(0, 1)


@spelled
def extremes(region: Region, call: Call, input: Tensor, dim: Any = None, keepdim: bool = False) -> Any:
    """`amax`, `amin`, and `max` and `min` of all: of bools `any` and `all`, of few integers one after the other."""
    x, name = input, call.func.__name__
    if not discrete_carrier(x):
        return best_value(region, call.func, call.args, call.keywords)
    largest = name[-3:] == "max"
    if x.dtype == torch.bool:
        rest = () if dim is None or dim == () else (dim, keepdim)
        return region.call(torch.any if largest else torch.all, x, *rest)
    if isinstance(dim, (tuple, list)) and len(dim) == 1:
        dim = dim[0]
    parts = region.call(torch.Tensor.reshape, x, (-1,)) if dim is None or dim == () else x
    if isinstance(dim, (tuple, list)) and dim or not 0 < parts.shape[dim or 0] <= MAX_DECISIONS:
        region.lose(name, [x], _LARGEST)
        return call()
    pick = torch.maximum if largest else torch.minimum
    found = functools.reduce(lambda a, b: region.call(pick, a, b), region.call(torch.Tensor.unbind, parts, dim or 0))
    return region.call(torch.Tensor.reshape, found, call().shape)


_LARGEST = "of many integers the largest is not known. Take it of floats, or of masks: (x >= k).any()."


def _nonzero(region: Region, x: Tensor) -> Tensor:
    return x if x.dtype == torch.bool else region.call(torch.ne, x, 0)
