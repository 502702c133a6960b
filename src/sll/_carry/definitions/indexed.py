"""Functions that take a decided index or mask, written with those that have a rule for one."""

from __future__ import annotations

from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor

from ..._ops.env import free_to_read
from .rule import Original, carries, defined

# --- losses of classes ---


@defined("nll_loss", passes=True)
def negative_likelihood(
    original: Original, input: Tensor, target: Tensor, weight: Tensor | None = None, size_average: Any = None,
    ignore_index: int = -100, reduce: Any = None, reduction: str = "mean",
) -> Any:  # fmt: skip
    """A lookup in the row of each element."""
    if (
        not _decided(target)
        or size_average is not None
        or reduce is not None
        or (target.detach() == ignore_index).any()
    ):
        return NotImplemented
    dim = min(1, input.dim() - 1)
    picked = -torch.gather(input, dim, target.unsqueeze(dim)).squeeze(dim)
    of = torch.ones_like(picked) if weight is None else weight[target]
    if reduction == "none":
        return picked * of
    total = (picked * of).sum()
    return total / of.sum() if reduction == "mean" else total


@defined("cross_entropy", passes=True)
def cross_entropy(
    original: Original, input: Tensor, target: Tensor, weight: Tensor | None = None, size_average: Any = None,
    ignore_index: int = -100, reduce: Any = None, reduction: str = "mean", label_smoothing: float = 0.0,
) -> Any:  # fmt: skip
    if label_smoothing:
        return NotImplemented
    scores = F.log_softmax(input, min(1, input.dim() - 1))
    return negative_likelihood(original, scores, target, weight, size_average, ignore_index, reduce, reduction)


def _decided(x: Any) -> bool:
    """Whether it is a bool or an integer that carries something."""
    return isinstance(x, Tensor) and not x.is_floating_point() and carries(x)


# --- lookups ---


@defined("embedding_bag", passes=True)
def bags(
    original: Original, input: Tensor, weight: Tensor, offsets: Tensor | None = None, max_norm: float | None = None,
    norm_type: float = 2, scale_grad_by_freq: bool = False, mode: str = "mean", sparse: bool = False,
    per_sample_weights: Tensor | None = None, include_last_offset: bool = False, padding_idx: int | None = None,
) -> Any:  # fmt: skip
    """Rows of a table, and what each bag makes of its rows."""
    if not _decided(input) or input.dim() != 2 or max_norm is not None or padding_idx is not None:
        return NotImplemented
    rows = F.embedding(input, weight)
    if mode == "max":
        return rows.amax(1)
    if per_sample_weights is not None:
        rows = rows * per_sample_weights.unsqueeze(-1)
    return rows.sum(1) if mode == "sum" else rows.mean(1)


@defined("isin", passes=True)
def among(
    original: Original, elements: Any, test_elements: Any, *, assume_unique: bool = False, invert: bool = False
) -> Any:
    """Equal to any of them. (Equality of floats decides nothing, if they are not decided.)"""
    whole = isinstance(elements, Tensor) and getattr(elements, "_sll", None) is not None
    if not whole and not _decided(test_elements):
        return NotImplemented
    others = test_elements.reshape(-1) if isinstance(test_elements, Tensor) else test_elements
    if isinstance(others, Tensor) and not _decided(others):
        others = torch.unique(others)  # (the same question asked once)
    elements = elements.unsqueeze(-1) if isinstance(elements, Tensor) else torch.as_tensor(elements)
    found = (elements == others).any(-1)
    return ~found if invert else found


@defined("take", whole=True)
def taken(original: Original, input: Tensor, index: Tensor) -> Tensor:
    return input.reshape(-1)[index]


@defined("take_along_dim", whole=True)
def taken_along(original: Original, input: Tensor, indices: Tensor, dim: int | None = None) -> Tensor:
    """`gather` of what broadcasts, but for the dimension; without one, of all elements."""
    if dim is None:
        return torch.gather(input.reshape(-1), 0, indices.reshape(-1))
    at = range(input.dim())[dim]
    size, fixed = input.shape[at], indices.detach()
    if size and (not free_to_read(fixed) or (fixed < 0).any() or (fixed >= size).any()):
        indices = indices % size  # (as torch does)
    sizes = ([*x.shape[:at], 1, *x.shape[at + 1 :]] for x in (input, indices))
    shape = torch.broadcast_shapes(*sizes)  # type: ignore[no-untyped-call]
    input, indices = (x.expand(*shape[:at], x.shape[at], *shape[at + 1 :]) for x in (input, indices))
    return torch.gather(input, dim, indices)


@defined("masked_select", whole=True)
def masked(original: Original, input: Tensor, mask: Tensor) -> Tensor:
    """Both broadcast."""
    shape = torch.broadcast_shapes(input.shape, mask.shape)  # type: ignore[no-untyped-call]
    return input.expand(shape)[mask.expand(shape)]


# --- writes ---


@defined("scatter_reduce", passes=True)
def scatter_reduce(
    original: Original, input: Tensor, dim: int, index: Tensor, src: Tensor, reduce: str, *, include_self: bool = True
) -> Any:
    """Sums and means are `scatter_add`; of others a table says who writes where."""
    if not _decided(index) or not include_self or input.dim() == 0:
        return NotImplemented
    src = src[tuple(map(slice, index.shape))]
    if reduce == "sum":
        return input.scatter_add(dim, index, src)
    if reduce == "mean":
        count = torch.ones_like(input).scatter_add(dim, index, torch.ones_like(src))
        return input.scatter_add(dim, index, src) / count
    if any(n != m for d, (n, m) in enumerate(zip(input.shape, index.shape)) if d != dim % input.dim()):
        return NotImplemented
    writes = F.one_hot(index.movedim(dim, -1), input.shape[dim]).to(src.dtype)
    values, old = src.movedim(dim, -1).unsqueeze(-1), input.movedim(dim, -1)
    if reduce == "prod":
        return (old * (1 + writes * (values - 1)).prod(-2)).movedim(-1, dim)
    sign = 1 if reduce == "amax" else -1
    return (sign * _largest(sign * old, writes, sign * values)).movedim(-1, dim)


def _largest(old: Tensor, writes: Tensor, values: Tensor) -> Tensor:
    """The largest of `old` and what is written there: each number counts where no larger one is written."""
    order = values.detach().argsort(-2, descending=True)
    writes, values = writes.gather(-2, order.expand(writes.shape)), values.gather(-2, order)
    free = torch.cat([torch.ones_like(writes[..., :1, :]), (1 - writes[..., :-1, :]).cumprod(-2)], -2)
    return old + (writes * free * F.relu(values - old.unsqueeze(-2))).sum(-2)


# --- attention ---


@defined("scaled_dot_product_attention", passes=True)
def attention(
    original: Original, query: Tensor, key: Tensor, value: Tensor, attn_mask: Tensor | None = None,
    dropout_p: float = 0.0, is_causal: bool = False, *, scale: float | None = None, enable_gqa: bool = False,
) -> Any:  # fmt: skip
    """A mask says which exponentials take part."""
    if attn_mask is None or not _decided(attn_mask) or attn_mask.dtype != torch.bool:
        return NotImplemented
    if dropout_p or is_causal or enable_gqa:
        return NotImplemented
    scores = query @ key.mT * (query.shape[-1] ** -0.5 if scale is None else scale)
    shares = torch.exp(scores - scores.detach().amax(-1, keepdim=True)) * attn_mask
    total = shares.sum(-1, keepdim=True)
    return shares / total.clamp(min=torch.finfo(total.dtype).tiny) @ value
