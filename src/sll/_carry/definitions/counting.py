"""Histograms with their edges, exponents, and equal integers."""

from __future__ import annotations

import math
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor

from .rule import Original, Shaped, carries, defined


def _counted(points: Tensor, edges: Any, weight: Tensor | None, density: bool) -> Tensor:
    """How many points, or how much of their weight, are in each bin."""
    sizes, place = [along.numel() - 1 for along in edges], torch.zeros_like(points[:, 0], dtype=torch.int64)
    each = torch.ones_like(points[:, 0]) if weight is None else weight.reshape(-1)
    for x, along in zip(points.unbind(-1), edges):
        place = place * (along.numel() - 1) + torch.bucketize(x, along[1:-1], right=True)
        each = each * ((x >= along[0]) & (x <= along[-1]))
    count = torch.zeros(math.prod(sizes), dtype=each.dtype, device=each.device).scatter_add(0, place, each)
    count = count.reshape(sizes)
    if density:
        count = count / count.sum()
        for dim, along in enumerate(edges):
            count = count / torch.diff(along).reshape(-1, *[1] * (len(edges) - 1 - dim))
    return count


@defined("histogram", "histogramdd")
def histogram(
    original: Original, input: Tensor, bins: Any, range: Any = None, weight: Tensor | None = None,
    density: bool = False,
) -> Any:  # fmt: skip
    """Of numbers, or of points in several dimensions."""
    edges = original()[1]
    if isinstance(edges, Tensor):
        return _counted(input.reshape(-1, 1), [edges.detach()], weight, density), edges.detach()
    edges = [along.detach() for along in edges]
    return _counted(input.reshape(-1, input.shape[-1]), edges, weight, density), edges


@defined("frexp")
def exponent(original: Original, input: Tensor) -> Any:
    """The exponent is how many powers of two are passed; the mantissa is the rest."""
    if not input.is_floating_point():
        return NotImplemented
    least = torch.nextafter(torch.zeros((), dtype=input.dtype), torch.ones((), dtype=input.dtype))
    low = int(torch.frexp(least).exponent) - 1
    high = int(torch.frexp(torch.tensor(torch.finfo(input.dtype).max, dtype=input.dtype)).exponent)
    powers = torch.exp2(torch.arange(low, high, dtype=torch.float64)).to(input.device, input.dtype)
    number = torch.bucketize(input.abs(), powers, right=True) + low
    number = torch.where(input.detach() == 0, 0, number)
    return input * torch.exp2(-number.to(input.dtype)), number.int()


@defined("bincount")
def bincount(original: Original, input: Tensor, weights: Tensor | None = None, minlength: int = 0) -> Any:
    """A sum for each position."""
    counts = original().detach()
    if not carries(input) and (weights is None or weights.is_floating_point() or not carries(weights)):
        return NotImplemented
    each = torch.ones_like(input, dtype=counts.dtype) if weights is None else weights.to(counts.dtype)
    more = torch.zeros(counts.numel() + 2, dtype=counts.dtype, device=counts.device)  # (who may leave its ends)
    return more.scatter_add(0, (input.long() + 1).clamp(0, counts.numel() + 1), each)[1:-1]


@defined("unique", passes=True)
def unique(
    original: Original, input: Tensor, sorted: bool = True, return_inverse: bool = False, return_counts: bool = False,
    dim: int | None = None,
) -> Any:  # fmt: skip
    """Of integers: the place among those that occur, and how often each does."""
    if _floats(input) or dim is not None or not (return_inverse or return_counts):
        return NotImplemented
    values, *parts = original()
    low, high = int(input.detach().min()), int(input.detach().max())
    if input.numel() * (high - low + 3) > MAX_ELEMENTS:
        return NotImplemented
    among = F.one_hot((input.reshape(-1) - (low - 1)).long(), high - low + 3)  # (one more on either side)
    if return_inverse:
        place = (among.sum(0) > 0).long().cumsum(0) - 1
        parts[0] = (among @ place).reshape(input.shape)
    if return_counts:
        parts[-1] = among.sum(0)[values.long() - (low - 1)]
        return Shaped((values, *parts), among.bool().any(0))
    return (values, *parts)


@defined("unique_consecutive", passes=True)
def unique_consecutive(
    original: Original, input: Tensor, return_inverse: bool = False, return_counts: bool = False,
    dim: int | None = None,
) -> Any:  # fmt: skip
    """Of integers: how often the number has changed before, and how long it stays the same."""
    if _floats(input) or dim is not None or not (return_inverse or return_counts):
        return NotImplemented
    values, *parts = original()
    flat = input.reshape(-1)
    changes = flat[1:] != flat[:-1]
    number = torch.cat([torch.zeros_like(flat[:1]).long(), changes.long().cumsum(0)])
    if return_inverse:
        parts[0] = number.reshape(input.shape)
    if return_counts:
        if flat.numel() * values.numel() > MAX_ELEMENTS:
            return NotImplemented
        parts[-1] = (number.unsqueeze(-1) == torch.arange(values.numel(), device=input.device)).sum(0)
        return Shaped((values, *parts), changes)
    return (values, *parts)


@defined("repeat_interleave")
def repeated(original: Original, input: Tensor, repeats: Any = None, *args: Any, **kwargs: Any) -> Any:
    """Of numbers alone: each position as often as its number says."""
    return Shaped(original(), input) if repeats is None and not _floats(input) else NotImplemented


def _floats(x: Tensor) -> bool:
    """Whether it is anything but integers that carry a decision."""
    return x.is_floating_point() or x.dtype == torch.bool or not carries(x) or not x.numel()


MAX_ELEMENTS = 2**22
"""Of a table of integers and how often each occurs."""
