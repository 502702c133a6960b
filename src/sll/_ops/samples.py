"""Distances that a policy or a trace is shown: samples, and exact gaps."""

from __future__ import annotations

import functools
import importlib.util
import math

import torch
from torch import Tensor

from .env import dispatched

SAMPLE = 1024
"""Distances looked at in one call: the share that a band holds is then known to within 0.016 (one standard error)."""


def _spread(many: int, of: int, device: torch.device) -> Tensor:
    """`many` places among `of`, evenly spread, never in step with the rows of an array: multiples of the golden ratio,
    sorted (not in compiled code, which would do so at every call).
    """
    golden = (torch.arange(many, dtype=torch.float64, device=device) * 0.6180339887498949).frac()
    return ((golden if dispatched() else golden.sort().values) * of).long()


_spread_once = functools.lru_cache(maxsize=256)(_spread)


def places(many: int, of: int, device: torch.device) -> Tensor:
    if type(of) is not int or dispatched():
        return _spread(many, of, device)
    return _spread_once(many, of, device)


def sample(x: Tensor) -> Tensor:
    """At most `SAMPLE` of the elements."""
    flat = x.detach()
    if flat.dim() != 1:
        flat = flat.reshape(-1)
    n = flat.numel()
    return flat if n <= SAMPLE else flat[places(SAMPLE, n, x.device)]


@functools.cache
def numpy_is_there() -> bool:
    """NumPy is optional, as it is for torch."""
    return importlib.util.find_spec("numpy") is not None


def sample_rows(x: Tensor, many: int = SAMPLE) -> Tensor:
    """At most `many` of the rows, (…, n) -> (r, n)."""
    rows = x.detach().reshape(-1, x.shape[-1])
    return rows if rows.shape[0] <= many else rows[places(many, rows.shape[0], x.device)]


def from_last(z: Tensor, k: int) -> Tensor:
    """How far entries are from the middle between the k-th largest of their row and the next: those of a subset."""
    rows = sample_rows(z, max(1, 16 * SAMPLE // z.shape[-1]))
    best = rows.topk(k + 1, -1).values
    return sample(rows - (best[:, k - 1 : k] + best[:, k:]) / 2)


def leads(z: Tensor) -> Tensor:
    """`lead`, of some rows: the distances of a choice."""
    return lead(sample_rows(z))


def pairs(z: Tensor) -> Tensor:
    """How far two entries of a row are apart, for pairs spread over all rows: the distances of an order."""
    n = z.shape[-1]
    if n < 2:
        return z.new_zeros(1)
    two = _two if type(n) is not int or dispatched() else _two_once
    rows = sample_rows(z, 128)
    first, second = two(max(1, min(n * (n - 1) // 2, SAMPLE // max(rows.shape[0], 1))), n, z.device)
    return (rows.index_select(-1, first) - rows.index_select(-1, second)).reshape(-1)


def _two(many: int, of: int, device: torch.device) -> tuple[Tensor, Tensor]:
    """`many` pairs of places among `of`."""
    k = torch.arange(many, device=device)
    first = (k * 0.6180339887498949 * of).long() % of
    apart = 1 + (k * 0.7548776662466927 * (of - 1)).long() % (of - 1)
    return first, (first + apart) % of


_two_once = functools.lru_cache(maxsize=64)(_two)


def lead(z: Tensor) -> Tensor:
    """How far the largest entry of each row leads the next."""
    if z.shape[-1] < 2:
        return z.new_zeros(z.shape[:-1])
    best, at = z.max(-1, keepdim=True)  # twice the largest: several times as fast as `topk`
    return (best - z.scatter(-1, at, -math.inf).amax(-1, keepdim=True)).squeeze(-1)


def neighbours(z: Tensor, places: int | None = None) -> Tensor:
    """The gaps between neighbours in sorted order; `places`: between the first so many and the next."""
    ordered = z.sort(-1, descending=True).values
    return -ordered[..., : None if places is None else places + 1].diff()


def beside(z: Tensor, places: Tensor) -> Tensor:
    """The smaller gap beside one place (descending) of each row; `places` has 1 for its last dimension."""
    return at_each(neighbours(z)).gather(-1, places)


def at_each(gaps: Tensor) -> Tensor:
    """The smaller of the gaps between neighbours on either side of each place."""
    padded = torch.nn.functional.pad(gaps.nan_to_num(math.inf, math.inf), (1, 1), value=math.inf)
    return torch.minimum(padded[..., :-1], padded[..., 1:])


def around(z: Tensor, k: int) -> Tensor:
    """For each entry, how far it is from the last that it would have to change places with, were it to leave or to
    join the `k` largest.
    """
    if not 0 < k < z.shape[-1]:
        return z.new_full(z.shape, math.inf)
    best = z.topk(k + 1, -1).values
    last, first = best[..., k - 1 : k], best[..., k:]
    return torch.where(z >= last, z - first, last - z)
