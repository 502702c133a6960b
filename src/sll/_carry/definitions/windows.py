"""Where a window has its maximum: pooling with indices, running extremes; and what is put back there."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor

from .rule import Original, carries, defined

MAX_ELEMENTS = 2**24
"""Elements of all windows together. Beyond that the indices carry nothing, which is reported."""


def _best(x: Tensor, windows: Tensor, largest: bool = True) -> Tensor:
    """The first position of the largest (smallest) element in each window. `x` is flat in its last dimension; `windows`
    (places, candidates) has positions, -1 where there is none.
    """
    outside = torch.finfo(x.dtype).min / 2 if largest else torch.finfo(x.dtype).max / 2
    candidates = x[..., windows.clamp(min=0)].masked_fill(windows < 0, outside)
    best = candidates.argmax(-1) if largest else candidates.argmin(-1)
    return torch.gather(windows.expand(candidates.shape), -1, best.unsqueeze(-1)).squeeze(-1)


# --- running extremes ---


@defined("cummax", "cummin")
def running(original: Original, input: Tensor, dim: int) -> Any:
    """Of equals the last counts: windows look back."""
    out = original()
    if not carries(input) or not input.is_floating_point() or input.dim() == 0:
        return NotImplemented
    rows = input.movedim(dim, -1)
    if not 0 < rows.numel() * rows.shape[-1] <= MAX_ELEMENTS:
        return NotImplemented
    at = torch.arange(rows.shape[-1], device=input.device)
    windows = (at.unsqueeze(-1) - at).clamp(min=-1)
    largest = type(out).__name__ == "cummax"
    return out.values, _best(rows, windows, largest).movedim(-1, dim)


# --- pooling ---


def _along(size: int, kernel: int, stride: int, padding: int, dilation: int, places: int) -> Tensor:
    """The positions that each window takes along one dimension, -1 outside: (places, kernel)."""
    at = torch.arange(places).unsqueeze(-1) * stride - padding + torch.arange(kernel) * dilation
    return torch.where((at >= 0) & (at < size), at, -1)


def _adaptive(size: int, places: int) -> Tensor:
    start = torch.arange(places) * size // places
    end = -(-(torch.arange(1, places + 1) * size) // places)
    at = start.unsqueeze(-1) + torch.arange(int((end - start).max()))
    return torch.where(at < end.unsqueeze(-1), at, -1)


def _joined(along: list[Tensor], sizes: torch.Size) -> Tensor:
    """Windows of several dimensions, from those along each: flat positions (places, candidates)."""
    flat = torch.zeros(1, 1, dtype=torch.int64)
    for at, size in zip(along, sizes):
        joined = flat[:, None, :, None] * size + at[None, :, None, :]
        gone = (flat[:, None, :, None] < 0) | (at[None, :, None, :] < 0)
        flat = torch.where(gone, -1, joined).flatten(2).flatten(0, 1)
    return flat


def _pooled(out: Any, input: Tensor, along: list[Tensor]) -> Any:
    """Values as they are, and indices that know what they were chosen from."""
    windows = _joined(along, input.shape[-len(along) :]).to(input.device)
    x = input.flatten(-len(along))
    fits = 0 < x.numel() // max(x.shape[-1], 1) * windows.numel() <= MAX_ELEMENTS
    return (out[0], _best(x, windows).reshape(out[1].shape)) if fits else NotImplemented


def _pool(dims: int) -> Callable[..., Any]:
    def definition(
        original: Original, input: Tensor, kernel_size: Any, stride: Any = None, padding: Any = 0, dilation: Any = 1,
        ceil_mode: bool = False, return_indices: bool = False,
    ) -> Any:  # fmt: skip
        if not carries(input) or not input.is_floating_point():
            return NotImplemented
        out = original()
        each = [_each(n, dims) for n in (kernel_size, stride or kernel_size, padding, dilation)]
        shapes = zip(input.shape[-dims:], *each, out[1].shape[-dims:])
        return _pooled(out, input, [_along(*shape) for shape in shapes])

    return definition


def _adaptive_pool(dims: int) -> Callable[..., Any]:
    def definition(original: Original, input: Tensor, output_size: Any, return_indices: bool = False) -> Any:
        if not carries(input) or not input.is_floating_point():
            return NotImplemented
        out = original()
        return _pooled(out, input, [_adaptive(*n) for n in zip(input.shape[-dims:], out[1].shape[-dims:])])

    return definition


for _dims in (1, 2, 3):
    defined(f"max_pool{_dims}d_with_indices")(_pool(_dims))
    defined(f"adaptive_max_pool{_dims}d_with_indices")(_adaptive_pool(_dims))
defined("torch.adaptive_max_pool1d")(_adaptive_pool(1))


def _each(n: Any, dims: int) -> list[int]:
    """A number for each dimension."""
    return [n] * dims if isinstance(n, int) else list(n) * (dims if len(n) == 1 else 1)


def _unpool(dims: int) -> Callable[..., Any]:
    def definition(original: Original, input: Tensor, indices: Tensor, *args: Any, **kwargs: Any) -> Any:
        """Zeros, and `input` written where it was taken from."""
        if not carries(indices):
            return NotImplemented
        out = original()
        zeros = torch.zeros_like(out).flatten(-dims)
        return zeros.scatter(-1, indices.flatten(-dims), input.flatten(-dims)).reshape(out.shape)

    return definition


for _dims in (1, 2, 3):
    defined(f"max_unpool{_dims}d")(_unpool(_dims))


# --- values that are taken most often ---


@defined("mode")
def most_frequent(original: Original, input: Tensor, dim: int = -1, keepdim: bool = False) -> Any:
    """The smallest of those that most elements equal; of different floats that is the smallest of all."""
    if not input.is_floating_point() or input.dim() == 0:
        return NotImplemented
    out = original()
    rows = input.detach().movedim(dim, -1)
    if (torch.diff(rows.sort(-1).values) == 0).any():
        return NotImplemented
    return out.values, input.argmin(dim, keepdim)
