"""The maths of choice and order: Euclidean projections on the capped simplex, and ranks.

*Choice.* Which `k` of `n` numbers are the largest is the vertex of ``{m : 0 <= m <= 1, sum m = k}`` that maximises ``m
. x``. Its linearization is the Euclidean projection of ``x / eps`` on that polytope,

    m_k(x) = argmin ||m - x / eps||^2  =  clamp(x / eps - tau_k, 0, 1),   tau_k such that the sum is k,

which is exactly the vertex where the k-th and the (k+1)-th largest are `eps` or more apart, `heaviside_eps` of the
difference where just two are closer, and sparsemax for ``k = 1``.

*Order.* The element at place `i` (from 0, largest first) is what the first ``i + 1`` have and the first `i` have not:
row `i` of the matrix ``P = m_{i+1} - m_i``. `P` is doubly stochastic, continuous in `x`, and the permutation matrix
itself outside the bands. Where bands hold pairs only it is tridiagonal: neighbours with gap ``g < eps`` trade places
with weight ``1/2 - g / (2 eps)``.

*Rank.* ``rank_i = sum over j != i of heaviside_eps(x_i - x_j)``. Within a band the ramp is linear, so the sum is known
from how many elements are in the band and what they add up to: a sort and prefix sums, O(n log n).

Sources: Martins & Astudillo, "From Softmax to Sparsemax", ICML 2016; Blondel, Teboul, Berthet & Djolonga, "Fast
Differentiable Sorting and Ranking", ICML 2020 (projections for orders).
"""

from __future__ import annotations

import math
from typing import Any

import torch
from torch import Tensor

from .apply import run
from .band import hard_forward
from .dtypes import compute_dtype, exact_dtype
from .env import dispatched
from .fused import batched


def traced(x: Tensor) -> bool:
    """Whether sizes must not depend on the data: while somebody traces, under vmap, or without data."""
    return x.device.type == "meta" or bool(dispatched()) or batched(x)


def sort(x: Tensor) -> tuple[Tensor, Tensor]:
    """``x.sort(-1)``; NaN is the largest number.

    On the CPU torch has a radix sort for integers, ten times as fast as its sort of floats, if there is one row. The
    bits of a float, read as an integer, sort like the float, the other way round if it is negative.
    """
    integer = {torch.float32: torch.int32, torch.float64: torch.int64}.get(x.dtype)
    if integer is None or x.device.type != "cpu" or x.numel() != x.shape[-1] or x.numel() < 2**15 or traced(x):
        ordered, order = x.sort(-1)
        return ordered, order
    bits = torch.where(x.isnan(), float("nan"), x).contiguous().view(integer)  # NaN without a sign
    order = torch.where(bits < 0, bits ^ torch.iinfo(integer).max, bits).sort(-1).indices
    return x.gather(-1, order), order


def constant(value: float, x: Tensor) -> Tensor:
    """`value` everywhere, with a derivative with respect to `x` that is zero."""
    return torch.where(torch.zeros((), dtype=torch.bool, device=x.device), x, value)


def capped_simplex(x: Tensor, k: int, eps: float) -> Tensor:
    """Projection of the rows of ``x / eps`` on ``{0 <= m <= 1, sum m = k}``.

    Args:
        x: (..., n) floating point, each row sorted, largest first. Infinite entries are in or out.
        k: from 0 to n.
        eps: half-width of the band.

    Returns:
        (..., n), sorted like `x`; differentiable as often as one likes (it is piecewise linear).
    """
    n = x.shape[-1]
    place = torch.arange(n, device=x.device)
    if k <= 0 or k >= n:
        return constant(float(k > 0), x)
    if n == 2:  # the usual band of an order: a pair
        apart = x[..., 0] - x[..., 1]
        near = apart.detach() < eps
        share = torch.where(near, 0.5 + torch.where(near, apart, 0) / (2 * eps), 1)
        return torch.stack([share, 1 - share], -1)
    # Only elements less than eps from the boundary can be fractional. Seen from there all numbers are small: subtract
    # before dividing, or large numbers lose the digits that count.
    fixed = x.detach()
    last_in, first_out = fixed[..., k - 1 : k], fixed[..., k : k + 1]
    taking_part = (fixed - last_in > -eps) & (fixed - first_out < eps)
    shifted = torch.where(taking_part, x - last_in, 0) / eps
    s = torch.where(taking_part, shifted.detach(), torch.where(place < k, 8.0, -8.0).to(x.dtype))
    tau = _between_corners(s, shifted.detach(), k)
    ones = s >= tau + 1
    fractional = (s > tau) & ~ones & taking_part
    many, full = fractional.sum(-1, keepdim=True), ones.sum(-1, keepdim=True)
    tau = (torch.where(fractional, shifted, 0).sum(-1, keepdim=True) - (k - full)) / many.clamp(min=1)
    decided = torch.where(many > 0, ones, place < k)
    return torch.where(fractional, (shifted - tau).clamp(0, 1), decided.to(x.dtype))


def _between_corners(s: Tensor, inner: Tensor, k: int) -> Tensor:
    """A number on the same linear piece of ``sum(clamp(s - tau, 0, 1))`` as the `tau` that makes it `k`, (..., 1).

    The sum falls with `tau` and has its corners at `s` and ``s - 1``. `inner` is `s` with zeros where it is out of
    reach.
    """
    n = s.shape[-1]
    rising = (-s).contiguous()
    total = torch.nn.functional.pad(inner.cumsum(-1), (1, 0))
    corners = -sort(torch.cat([rising, rising + 1], -1))[0]
    full, positive = torch.searchsorted(rising, -(corners + 1), right=True), torch.searchsorted(rising, -corners)
    sums = full + (total.gather(-1, positive) - total.gather(-1, full)) - (positive - full) * corners
    at = torch.searchsorted(sums, torch.full_like(sums[..., :1], k)).clamp(1, 2 * n - 1)
    return (corners.gather(-1, at) + corners.gather(-1, at - 1)) / 2


MAX_ELEMENTS = 2**21
"""An order keeps as many neighbours on either side of a place as its band holds, up to this many in all."""


def most_neighbours(z: Tensor) -> int:
    return max(1, MAX_ELEMENTS // max(z.numel(), 1))


def close(x: Tensor, eps: float, limit: int, places: int | None = None) -> int:
    """How many places apart elements less than `eps` apart can be in sorted rows; at least 1, at most `limit`.

    `places`: look at the first so many only. Reads a number from the device.
    """
    n = x.shape[-1]
    limit = max(1, min(limit, n - 1))
    if traced(x):  # how many they are is data
        return limit
    falling = x.detach()
    width = 1
    while width < limit:  # doubling, so that narrow bands, the usual case, cost one comparison
        head = falling[..., : n - width] if places is None else falling[..., : min(n - width, places)]
        if not bool((head - falling[..., width : width + head.shape[-1]] < eps).any()):
            return width
        width *= 2
    return limit


def first_k(rows: Tensor, k: int, eps: float, chosen: Tensor | None = None) -> tuple[Tensor, Tensor]:
    """Projection of unsorted rows, ``0 < k < n``, and the places of the hard choice, (..., k); see `sll.topk_mask`.
    `chosen` are these, where they are not those of `torch.topk`.
    """
    best, top = _contenders(rows.detach(), k, eps)
    chosen = top if chosen is None else chosen
    near = rows.gather(-1, best).to(compute_dtype(rows.dtype))
    soft = capped_simplex(torch.where(near.isnan(), float("inf"), near), k, eps).to(rows.dtype)
    zeros = torch.zeros_like(rows, requires_grad=False, memory_format=torch.contiguous_format)
    mask = zeros.scatter(-1, best, soft)
    decided = ~near.detach()[..., k - 1 : k].isfinite()
    if traced(rows) or bool(decided.any()):
        mask = torch.where(decided, hard_forward(zeros.scatter(-1, chosen, 1.0), mask), mask)
    return mask, chosen


def _contenders(rows: Tensor, k: int, eps: float) -> tuple[Tensor, Tensor]:
    """Places of the entries that may have a share of the first `k`, sorted, largest first, and of the hard choice."""
    if traced(rows):
        return rows.argsort(dim=-1, descending=True, stable=True), rows.topk(k).indices
    values, chosen = rows.topk(k, sorted=False)
    last = torch.where(values.isnan(), float("inf"), values).amin(-1, keepdim=True).to(compute_dtype(rows.dtype))
    near = rows.lt(last - eps).logical_not_()  # and NaN, which stands first
    most = int(near.sum(-1).max()) if near.numel() else 0
    if most <= k:
        return chosen, chosen  # nobody else is near
    if near.numel() == near.shape[-1]:  # one row: no need to search all of it again
        found = near.reshape(-1).nonzero().reshape(*rows.shape[:-1], most)
        values = rows.gather(-1, found)
        return found.gather(-1, sort(-torch.where(values.isnan(), float("inf"), values))[1]), chosen
    return rows.topk(most).indices, chosen


class Order:
    """The matrix `P` of sorted rows, its rows restricted to `reach` neighbours on either side.

    Args:
        x: (..., n) floating point, sorted, largest first (for ascending orders, the negative); no NaN.
        indices: (..., n) int64, where each element comes from.
        eps: half-width of the band.
        reach: half-width of the windows. If it is at least `close`, nothing is left out.
        places: only the first so many rows.
    """

    def __init__(self, x: Tensor, indices: Tensor, eps: float, reach: int, places: int | None = None) -> None:
        self.indices = indices
        self.reach = reach
        self.n = x.shape[-1]
        padded = torch.nn.functional.pad(x, (reach, 0), value=float("inf"))
        padded = torch.nn.functional.pad(padded, (0, reach), value=float("-inf"))
        windows = padded.unfold(-1, 2 * reach, 1)  # (..., n + 1, 2 reach): around each boundary
        if places is not None:
            windows = windows[..., : places + 1, :]
        inside = capped_simplex(windows, reach, eps)
        ones, zeros = torch.ones_like(inside[..., :1]), torch.zeros_like(inside[..., :1])
        shares = torch.cat([ones, inside], -1)[..., 1:, :] - torch.cat([inside, zeros], -1)[..., :-1, :]
        self.rows = shares.clamp(min=0)  # (..., n, 2 reach + 1)
        """Weights of the elements ``i - reach … i + reach`` (sorted) at place `i`."""
        equal = torch.nn.functional.pad(x.detach()[..., 1:] == x.detach()[..., :-1], (1, 1))
        self.ties = (equal[..., 1:] | equal[..., :-1])[..., : shares.shape[-2]].unsqueeze(-1)
        """(..., n, 1): places at which an element stands beside an equal one."""

    def neighbours(self) -> Tensor:
        """(..., n, 2 reach + 1): sorted places around each place, clamped to the ends (where weights are 0)."""
        device = self.indices.device
        around = torch.arange(-self.reach, self.reach + 1, device=device)
        return (torch.arange(self.n, device=device)[:, None] + around).clamp(0, self.n - 1)

    def elements(self) -> Tensor:
        """(..., n, 2 reach + 1): the elements (indices into `x`) that may stand at each place."""
        around = self.neighbours()[: self.rows.shape[-2]]
        flat = around.reshape(-1).expand(*self.indices.shape[:-1], around.numel())
        return self.indices.gather(-1, flat).reshape(*self.indices.shape[:-1], *around.shape)

    def columns(self) -> Tensor:
        """(..., n, 2 reach + 1): weights of the places ``j - reach … j + reach`` for the `j`-th sorted element."""
        width = 2 * self.reach + 1
        padded = torch.nn.functional.pad(self.rows, (0, 0, self.reach, self.reach))
        device = self.indices.device
        place = torch.arange(self.n, device=device)[:, None] + torch.arange(width, device=device)
        return padded[..., place, torch.arange(width - 1, -1, -1, device=device)]


# --- ranks -------------------------------------------------------------------------------------------------------


def _finite(x: Tensor) -> bool:
    """Whether all numbers are known to be finite; where looking is not allowed, or would wait for the device, no."""
    return x.device.type == "cpu" and not traced(x) and math.isfinite(x.detach().sum().item())


def _bands(ordered: Tensor, eps: float) -> tuple[Tensor, Tensor, Tensor]:
    """For sorted rows: the first element in the band of each, the first behind it, and positions in units of `eps`.

    A *chain* is a run of elements with gaps of at most `eps`; bands do not reach beyond it. Positions count from the
    start of the chain, so that neither the size of the numbers nor an outlier costs digits.
    """
    wide = exact_dtype(ordered)
    most = torch.finfo(wide).max
    values = ordered.to(wide).nan_to_num(most, most, -most)  # infinite numbers, and NaN, are chains of equals
    new = values.diff() > eps
    place = torch.arange(ordered.shape[-1], device=ordered.device)
    first = torch.nn.functional.pad(torch.where(new, place[1:], 0), (1, 0)).cummax(-1).values
    u = (values - values.gather(-1, first)) / eps
    # On a common axis, chains 2 apart: here one search finds all bands.
    axis = u + torch.nn.functional.pad(torch.where(new, u[..., :-1] + 2, 0).cumsum(-1), (1, 0))
    axis = axis.contiguous()
    lo = torch.searchsorted(axis, axis - 1)
    # hi follows from lo, so that bands are symmetric to the last bit.
    one = torch.ones((), dtype=lo.dtype, device=lo.device)
    hi = torch.zeros_like(lo).scatter_add_(-1, lo, one.expand_as(lo)).cumsum(-1)
    return lo, hi, u


def _over_bands(parts: Tensor, lo: Tensor, hi: Tensor) -> Tensor:
    """Sums over the bands: differences of prefix sums. `parts` may have one dimension more in front."""
    total = torch.nn.functional.pad(parts.cumsum(-1), (1, 0))
    return total.gather(-1, hi.expand(parts.shape)) - total.gather(-1, lo.expand(parts.shape))


class _Rank(torch.autograd.Function):
    """Ranks of the rows of `x`, and for backward: order, lo, hi."""

    @staticmethod
    def forward(x: Tensor, eps: float) -> tuple[Tensor, Tensor, Tensor, Tensor]:
        ordered, order = sort(x)
        if x.shape[-1] == 0:
            return x.clone(), order, order.clone(), order.clone()
        lo, hi, u = _bands(ordered, eps)
        many = hi - lo
        # A whole number and a rest: both keep their digits in long sums.
        whole = u.floor()
        parts = torch.stack([whole, u - whole])
        above = (parts * many - _over_bands(parts, lo, hi)).sum(0)  # sum of (x_i - x_j) / eps over the band
        ranks = lo + ((many - 1) + above) * 0.5
        out = torch.empty_like(ranks).scatter_(-1, order, ranks).to(x.dtype)
        if not _finite(ordered[..., 0]) or not _finite(ordered[..., -1]):
            # Infinite numbers have no gradient: bands of their own.
            place = torch.arange(x.shape[-1], device=x.device)
            finite = ordered.isfinite()
            lo, hi = torch.where(finite, lo, place), torch.where(finite, hi, place + 1)
        return out, order, lo, hi

    @staticmethod
    def setup_context(ctx: Any, inputs: tuple[Any, ...], output: tuple[Tensor, ...]) -> None:
        _, order, lo, hi = output
        ctx.mark_non_differentiable(order, lo, hi)
        ctx.save_for_backward(order, lo, hi)
        ctx.save_for_forward(order, lo, hi)
        ctx.eps = inputs[1]

    @staticmethod
    def backward(ctx: Any, g: Tensor, *_: Any) -> Any:
        return _differences(g, *ctx.saved_tensors, ctx.eps), None

    @staticmethod
    def jvp(ctx: Any, t: Tensor, *_: Any) -> Any:
        return _differences(t, *ctx.saved_tensors, ctx.eps), None, None, None

    @staticmethod
    def vmap(info: Any, in_dims: Any, x: Tensor, eps: float) -> Any:
        return _Rank.apply(x.movedim(in_dims[0], 0), eps), (0, 0, 0, 0)  # type: ignore[no-untyped-call]


class _Differences(torch.autograd.Function):
    """``g_i -> sum over the band of i of (g_i - g_j) / (2 eps)``: the Jacobian of the ranks, symmetric and constant."""

    @staticmethod
    def forward(g: Tensor, order: Tensor, lo: Tensor, hi: Tensor, eps: float) -> Tensor:
        if g.shape[-1] == 0:
            return g.clone()
        many = hi - lo
        ordered = torch.where(many > 1, g.gather(-1, order).to(exact_dtype(g)), 0)
        differences = ordered * many - _over_bands(ordered, lo, hi)
        if not _finite(ordered):
            # What is not finite stays in its bands: it is counted apart.
            usable = ordered.isfinite()
            differences = ordered * many - _over_bands(torch.where(usable, ordered, 0), lo, hi)
            differences = torch.where(_over_bands((~usable).long(), lo, hi) > 0, float("nan"), differences)
        differences = differences * (0.5 / eps)
        return torch.empty_like(differences).scatter_(-1, order, differences).to(g.dtype)

    @staticmethod
    def setup_context(ctx: Any, inputs: tuple[Any, ...], output: Tensor) -> None:
        *saved, eps = inputs[1:]
        ctx.save_for_backward(*saved)
        ctx.save_for_forward(*saved)
        ctx.eps = eps

    @staticmethod
    def backward(ctx: Any, g: Tensor) -> Any:
        return _differences(g, *ctx.saved_tensors, ctx.eps), None, None, None, None

    @staticmethod
    def jvp(ctx: Any, t: Tensor, *_: Any) -> Any:
        return _differences(t, *ctx.saved_tensors, ctx.eps)

    @staticmethod
    def vmap(info: Any, in_dims: Any, *operands: Any) -> Any:
        *tensors, eps = operands
        size = info.batch_size
        front = [t.expand(size, *t.shape) if d is None else t.movedim(d, 0) for t, d in zip(tensors, in_dims)]
        return _Differences.apply(*front, eps), 0  # type: ignore[no-untyped-call]


def _differences(*operands: Any) -> Tensor:
    if not torch.is_grad_enabled() and not traced(operands[0]) and torch.autograd.forward_ad._current_level < 0:
        return _Differences.forward(*operands)
    return run(_Differences, *operands)


def rank(x: Tensor, eps: float) -> Tensor:
    """Ranks of the rows of `x`, ascending, from 0; see the module's docstring."""
    ranks: Tensor = run(_Rank, x, eps)[0]
    return ranks
