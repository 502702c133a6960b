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

from typing import Any

import torch
from torch import Tensor

from .kernels import compute_dtype

__all__ = ["Order", "capped_simplex", "close", "constant", "rank", "scaled", "sort", "traced"]


def traced(x: Tensor) -> bool:
    """Whether sizes must not depend on the data: while compiling, under vmap, or without data."""
    return (
        torch.compiler.is_compiling() or torch._C._functorch.is_functorch_wrapped_tensor(x) or x.device.type == "meta"
    )


def sort(x: Tensor) -> tuple[Tensor, Tensor]:
    """``x.sort(-1)`` for numbers that are not NaN.

    On the CPU torch has a radix sort for integers, ten times as fast as its sort of floats, if there is one row. The
    bits of a float, read as an integer, sort like the float, the other way round if it is negative.
    """
    integer = {torch.float32: torch.int32, torch.float64: torch.int64}.get(x.dtype)
    if integer is None or x.device.type != "cpu" or x.numel() != x.shape[-1] or traced(x):
        ordered, order = x.sort(-1)
        return ordered, order
    bits = x.contiguous().view(integer)
    order = torch.where(bits < 0, bits ^ torch.iinfo(integer).max, bits).sort(-1).indices
    return x.gather(-1, order), order


def constant(value: float, x: Tensor) -> Tensor:
    """`value` everywhere, with a derivative with respect to `x` that is zero."""
    return torch.where(torch.zeros((), dtype=torch.bool, device=x.device), x, value)


def capped_simplex(z: Tensor, k: int) -> Tensor:
    """Projection of the rows of `z` on ``{0 <= m <= 1, sum m = k}``.

    Args:
        z: (..., n) floating point, each row sorted, largest first. Infinite entries are in or out.
        k: from 0 to n.

    Returns:
        (..., n), sorted like `z`; differentiable as often as one likes (it is piecewise linear).
    """
    n = z.shape[-1]
    place = torch.arange(n, device=z.device)
    if k <= 0 or k >= n:
        return constant(float(k > 0), z)
    last_in = z.detach()[..., k - 1 : k]
    first_out = z.detach()[..., k : k + 1]
    # Only elements less than 1 from the boundary can be fractional; seen from there all numbers are small.
    taking_part = (z.detach() > last_in - 1) & (z.detach() < first_out + 1)
    shifted = torch.where(taking_part, z - last_in, torch.zeros_like(z))
    s = torch.where(taking_part, shifted.detach(), torch.where(place < k, 8.0, -8.0).to(z.dtype))
    tau = _between_corners(s, shifted.detach(), k)
    ones = s >= tau + 1
    fractional = (s > tau) & ~ones & taking_part
    many, full = fractional.sum(-1, keepdim=True), ones.sum(-1, keepdim=True)
    tau = (torch.where(fractional, shifted, torch.zeros_like(z)).sum(-1, keepdim=True) - (k - full)) / many.clamp(min=1)
    decided = torch.where(many > 0, ones, place < k)
    return torch.where(fractional, (shifted - tau).clamp(0, 1), decided.to(z.dtype))


def _between_corners(s: Tensor, inner: Tensor, k: int) -> Tensor:
    """A number on the same linear piece of ``sum(clamp(s - tau, 0, 1))`` as the `tau` that makes it `k`, (..., 1).

    The sum falls with `tau` and has its corners at `s` and ``s - 1``. `inner` is `s` with zeros where it is out of
    reach.
    """
    n = s.shape[-1]
    if n <= DENSE:
        corners = torch.cat([s, s - 1], -1)
        sums = (s.unsqueeze(-2) - corners.unsqueeze(-1)).clamp(0, 1).sum(-1)
        low = torch.where(sums >= k, corners, float("-inf")).amax(-1, keepdim=True)
        high = torch.where(sums <= k, corners, float("inf")).amin(-1, keepdim=True)
        return (low + high) / 2
    rising = (-s).contiguous()
    total = torch.nn.functional.pad(inner.cumsum(-1), (1, 0))
    corners = -sort(torch.cat([rising, rising + 1], -1))[0]
    full, positive = torch.searchsorted(rising, -(corners + 1), right=True), torch.searchsorted(rising, -corners)
    sums = full + (total.gather(-1, positive) - total.gather(-1, full)) - (positive - full) * corners
    at = torch.searchsorted(sums, torch.full_like(sums[..., :1], k)).clamp(1, 2 * n - 1)
    return (corners.gather(-1, at) + corners.gather(-1, at - 1)) / 2


def close(z: Tensor, limit: int, places: int | None = None) -> int:
    """How many places apart elements less than 1 apart can be in the sorted rows of `z`; at least 1, at most `limit`.

    `places`: look at the first so many only. Reads a number from the device.
    """
    n = z.shape[-1]
    limit = max(1, min(limit, n - 1))
    if traced(z):
        return min(limit, 8)
    falling = z.detach()
    width = 1
    while width < limit:  # doubling, so that narrow bands, the usual case, cost one comparison
        head = falling[..., : n - width] if places is None else falling[..., : min(n - width, places)]
        if not bool((head - falling[..., width : width + head.shape[-1]] < 1).any()):
            return width
        width *= 2
    return limit


DENSE = 16
"""For rows of up to this many numbers all corners are tried at once; longer ones are sorted."""


class Order:
    """The matrix `P` of sorted rows, its rows restricted to `reach` neighbours on either side.

    Args:
        z: (..., n) floating point, sorted, largest first: ``x / eps``, or ``-x / eps`` for ascending orders.
        indices: (..., n) int64, where each element comes from.
        reach: half-width of the windows. If it is at least `close`, nothing is left out.
        places: only the first so many rows.
    """

    def __init__(self, z: Tensor, indices: Tensor, reach: int, places: int | None = None) -> None:
        self.indices = indices
        self.reach = reach
        n = z.shape[-1]
        # Without NaN and infinity: those places are decided.
        finite = z.detach().isfinite()
        self.finite = finite
        padded = torch.nn.functional.pad(z, (reach, 0), value=float("inf"))
        padded = torch.nn.functional.pad(padded, (0, reach), value=float("-inf"))
        windows = padded.unfold(-1, 2 * reach, 1)  # (..., n + 1, 2 reach): around each boundary
        if places is not None:
            windows = windows[..., : places + 1, :]
        inside = capped_simplex(windows.nan_to_num(nan=float("-inf")), reach)
        ones, zeros = torch.ones_like(inside[..., :1]), torch.zeros_like(inside[..., :1])
        shares = torch.cat([ones, inside], -1)[..., 1:, :] - torch.cat([inside, zeros], -1)[..., :-1, :]
        self.rows = shares.clamp(min=0)  # (..., n, 2 reach + 1)
        """Weights of the elements ``i - reach … i + reach`` (sorted) at place `i`."""
        self.n = n
        equal = torch.nn.functional.pad(z.detach()[..., 1:] == z.detach()[..., :-1], (1, 1))
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


class _Rank(torch.autograd.Function):
    """Ranks of the rows of `x`: (values, order, lo, hi)."""

    @staticmethod
    def forward(x: Tensor, eps: float) -> tuple[Tensor, Tensor, Tensor, Tensor]:
        ordered, order = sort(x)
        n = x.shape[-1]
        # lo: the first element in the band of each. hi follows from it, so that bands are symmetric to the last bit.
        lo = torch.searchsorted(ordered, ordered - eps).clamp_(max=n - 1) if n else order.clone()
        one = torch.ones((), dtype=lo.dtype, device=x.device)
        ends = torch.zeros_like(order).scatter_add_(-1, lo, one.expand_as(lo))
        hi = ends.cumsum(-1)
        # Sums over bands as differences of prefix sums, of numbers split into a multiple of eps and a rest: both are
        # small or whole, so that the differences keep their digits however long the row.
        wide = torch.float32 if x.device.type == "mps" else torch.float64
        u = torch.where(ordered.isfinite(), ordered, 0).to(wide) / eps
        whole = u.floor()
        rest = u - whole
        many = hi - lo
        sums = [torch.nn.functional.pad(part.cumsum(-1), (1, 0)) for part in (whole, rest)]
        band = [s.gather(-1, hi) - s.gather(-1, lo) for s in sums]
        above = (whole * many - band[0]) + (rest * many - band[1])  # sum of (x_i - x_j) / eps over the band
        ranks = lo + ((many - 1) + above) * 0.5
        ranks = torch.where(many > 1, ranks, lo.to(wide))
        out = torch.empty_like(ranks).scatter_(-1, order, ranks)
        return out.to(x.dtype), order, lo, hi

    @staticmethod
    def setup_context(ctx: Any, inputs: tuple[Any, ...], output: tuple[Tensor, ...]) -> None:
        x, eps = inputs
        _, order, lo, hi = output
        ctx.mark_non_differentiable(order, lo, hi)
        ctx.set_materialize_grads(False)
        finite = x.detach().isfinite()
        ctx.save_for_backward(order, lo, hi, finite)
        ctx.save_for_forward(order, lo, hi, finite)
        ctx.eps = eps

    @staticmethod
    def backward(ctx: Any, g: Tensor | None, *_: Any) -> Any:
        return None if g is None else _Differences.apply(g, *ctx.saved_tensors, ctx.eps), None  # type: ignore[no-untyped-call]

    @staticmethod
    def jvp(ctx: Any, t: Tensor, *_: Any) -> Any:
        return _Differences.apply(t, *ctx.saved_tensors, ctx.eps), None, None, None  # type: ignore[no-untyped-call]

    @staticmethod
    def vmap(info: Any, in_dims: Any, x: Tensor, eps: float) -> Any:
        return _Rank.apply(x.movedim(in_dims[0], 0), eps), (0, 0, 0, 0)  # type: ignore[no-untyped-call]


class _Differences(torch.autograd.Function):
    """``g_i -> sum over the band of i of (g_i - g_j) / (2 eps)``: the Jacobian of the ranks, symmetric and constant."""

    @staticmethod
    def forward(g: Tensor, order: Tensor, lo: Tensor, hi: Tensor, finite: Tensor, eps: float) -> Tensor:
        wide = torch.float32 if g.device.type == "mps" else torch.float64
        ordered = torch.where(finite, g, 0).gather(-1, order).to(wide)
        total = torch.nn.functional.pad(ordered.cumsum(-1), (1, 0))
        many = hi - lo
        differences = (ordered * many - (total.gather(-1, hi) - total.gather(-1, lo))) * (0.5 / eps)
        differences = torch.where(many > 1, differences, 0)
        out = torch.empty_like(differences).scatter_(-1, order, differences)
        return torch.where(finite, out, 0).to(g.dtype)

    @staticmethod
    def setup_context(ctx: Any, inputs: tuple[Any, ...], output: Tensor) -> None:
        *saved, eps = inputs[1:]
        ctx.save_for_backward(*saved)
        ctx.save_for_forward(*saved)
        ctx.eps = eps

    @staticmethod
    def backward(ctx: Any, g: Tensor) -> Any:
        return _Differences.apply(g, *ctx.saved_tensors, ctx.eps), None, None, None, None, None  # type: ignore[no-untyped-call]

    @staticmethod
    def jvp(ctx: Any, t: Tensor, *_: Any) -> Any:
        return _Differences.apply(t, *ctx.saved_tensors, ctx.eps)  # type: ignore[no-untyped-call]

    @staticmethod
    def vmap(info: Any, in_dims: Any, *operands: Any) -> Any:
        *tensors, eps = operands
        size = info.batch_size
        front = [t.expand(size, *t.shape) if d is None else t.movedim(d, 0) for t, d in zip(tensors, in_dims)]
        return _Differences.apply(*front, eps), 0  # type: ignore[no-untyped-call]


def rank(x: Tensor, eps: float) -> Tensor:
    """Ranks of the rows of `x`, ascending, from 0; see the module's docstring. No NaN."""
    ranks: Tensor = _Rank.apply(x, eps)[0]  # type: ignore[no-untyped-call]
    return ranks


def scaled(x: Tensor, eps: float) -> Tensor:
    """``x / eps`` in the dtype in which bands are computed."""
    return x.to(compute_dtype(x.dtype)) / eps
