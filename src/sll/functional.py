"""The explicit functions: the ramp as a function of its own, no region needed, no state touched.

They always apply the formula, with or without autograd. `eps` is the half-width of the band in the units of `x`, or
``"auto"`` or another policy that finds it (see `sll.linearize`);
outside the band the value is torch's, bit for bit. With ``forward="hard"`` the value is the hard one everywhere and
only the gradient is the ramp's; that is the default with ``eps="auto"``, whose band is a whole step for `round`, where
the ramp would be the identity. Otherwise the default is ``"linear"``. All take float16, bfloat16, float32 and float64
tensors of any shape, work under ``torch.func``, and can be differentiated twice.
"""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor

from ._carry.outcomes import sources
from ._carry.outcomes.boundaries import boundary_at
from ._carry.outcomes.sources import Step
from ._mode.dynamo import one_node
from ._ops.band import hard_forward
from ._ops.blend import blend
from ._ops.callsite import line_of
from ._ops.dtypes import compute_dtype
from ._ops.options import Forward, one_of, shown
from ._ops.order import constant, first_k
from ._ops.order import rank as ranks
from ._ops.ramp import Jump
from ._ops.samples import from_last, leads, pairs
from ._rules.widths import Width, in_units
from .auto import AUTO
from .eps import OneEps, checked
from .policies import kind_of

__all__ = [
    "argmax",
    "argmin",
    "ceil",
    "floor",
    "heaviside",
    "rank",
    "round",
    "sign",
    "threshold",
    "topk_mask",
    "trunc",
]


def _checked(x: Tensor, eps: OneEps, forward: str | None, op: str) -> tuple[float | Width, bool]:
    if not isinstance(x, Tensor):
        raise TypeError(f"x must be a tensor, got {shown(x)}; torch.as_tensor(x) makes one")
    if x.is_complex():
        raise TypeError(f"x must be real (complex numbers have no order), got {x.dtype}; take x.real or x.abs()")
    if not x.is_floating_point():
        raise TypeError(
            f"x must be floating point (a discrete tensor has no derivative), got {x.dtype}; x.float() converts it"
        )
    width = checked(eps)
    if forward is None:
        forward = "hard" if width is AUTO else "linear"
    same = '; "hard" is the same here: there is nothing to leave out' if forward == "straight-through" else ""
    linear = one_of(forward, "forward", ("linear", "hard"), same) == "linear"
    if not isinstance(width, float):
        remembers = getattr(width, "steps", 0)
        return Width(width, kind_of(op), place=(*line_of(), kind_of(op), 0) if remembers else None), linear
    limits = torch.finfo(compute_dtype(x.dtype))
    if not limits.tiny <= width <= limits.max:
        raise ValueError(
            f"eps must be a normal number in {limits.dtype}, in which bands of {x.dtype} are computed, got {width}; "
            f"take one between {limits.tiny:.1e} and {limits.max:.1e}"
        )
    return width, linear


def _check_dim(x: Tensor, dim: int) -> None:
    if x.dim() == 0:
        raise ValueError(
            "x must have at least one dimension to choose along, got a 0-dim tensor; x.reshape(1) gives it one"
        )
    if isinstance(dim, bool) or not hasattr(dim, "__index__") or (isinstance(dim, Tensor) and dim.dim() > 0):
        remedy = f"did you mean eps={dim!r}?" if isinstance(dim, float) else "x.reshape(-1) makes it one row"
        raise TypeError(f"dim must be one int, got {shown(dim)}; {remedy}")
    if not -x.dim() <= dim < x.dim():
        raise IndexError(
            f"dim must be between {-x.dim()} and {x.dim() - 1} for x of shape {tuple(x.shape)}, got {dim}; "
            "dim=-1 is the last"
        )


def _ramp(step: Step | None, hard: Callable[[], Tensor], linear: bool) -> Tensor:
    assert step is not None
    forward, site = "linear" if linear else "hard", step.decision.site
    found = None if site is None or step.jump is None else site.ramp(step.jump, forward)
    if found is not None and site is not None:
        return found.to(site.dtype())
    value, offset = hard(), step.decision.offset()
    below, above = (
        torch.as_tensor(side() if callable(side) else side, dtype=offset.dtype, device=value.device)
        for side in (step.below, step.above)
    )
    if linear:
        return blend(offset, below, above, value)
    return hard_forward(value, (offset * (above - below)).expand(value.shape))


@one_node
def heaviside(x: Tensor, eps: OneEps = 1e-3, *, forward: Forward | None = None) -> Tensor:
    """Unit step: 0 below zero, 1 above, ``1/2 + x / (2 eps)`` for ``|x| <= eps``; slope ``1 / (2 eps)``.

    It is the Euclidean projection ``argmin_{0 <= y <= 1} (y - (1/2 + x / (2 eps)))**2``. The value at 0 is 1/2.

    Args:
        x: floating-point tensor of any shape.
        eps: half-width of the band, positive, in the units of `x`.
        forward: ``"linear"`` or ``"hard"``.

    Returns:
        A tensor of the shape and dtype of `x`.

    Raises:
        TypeError, ValueError: if `x` is not floating point, or `eps` or `forward` not as described.

    Example:
        >>> import torch, sll
        >>> sll.heaviside(torch.tensor([-1.0, 0.0, 0.05, 1.0]), eps=0.1)
        tensor([0.0000, 0.5000, 0.7500, 1.0000])
    """
    return threshold(x, 0.0, eps, forward=forward)


@one_node
def sign(x: Tensor, eps: OneEps = 1e-3, *, forward: Forward | None = None) -> Tensor:
    """Sign: ``x / eps`` for ``|x| <= eps``, ±1 outside; slope ``1 / eps``. Arguments as for `heaviside`.

    Example:
        >>> import torch, sll
        >>> sll.sign(torch.tensor([-1.0, 0.0, 0.05, 1.0]), eps=0.1)
        tensor([-1.0000,  0.0000,  0.5000,  1.0000])
    """
    width, linear = _checked(x, eps, forward, "sign")
    return _ramp(sources.sign(width, x), lambda: torch.sign(x.detach()), linear)


@one_node
def round(x: Tensor, eps: OneEps = 1e-3, *, decimals: int = 0, forward: Forward | None = None) -> Tensor:
    """Round to `decimals` places: a ramp around every ``(n + 1/2) s`` with ``s = 10**-decimals``; slope ``s / (2
    eps)``.

    The half-width is ``min(eps, s/2)``. At ``eps = s/2`` the function is the identity on the backward pass, so
    ``round(x, 0.5, forward="hard")`` is the straight-through estimator. Other arguments as for `heaviside`.

    Example:
        >>> import torch, sll
        >>> sll.round(torch.tensor([0.2, 0.5, 0.55, 2.5]), eps=0.1)
        tensor([0.0000, 0.0000, 0.7500, 2.0000])
    """
    width, linear = _checked(x, eps, forward, "round")
    return _ramp(sources.round(width, x, decimals=decimals), lambda: torch.round(x.detach(), decimals=decimals), linear)


@one_node
def floor(x: Tensor, eps: OneEps = 1e-3, *, forward: Forward | None = None) -> Tensor:
    """Floor: a ramp around every integer, half-width ``min(eps, 1/2)``, slope ``1 / (2 eps)``. Arguments as for
    `heaviside`.

    Example:
        >>> import torch, sll
        >>> sll.floor(torch.tensor([0.5, 0.95, 1.0, 1.05]), eps=0.1)
        tensor([0.0000, 0.2500, 1.0000, 0.7500])
    """
    width, linear = _checked(x, eps, forward, "floor")
    return _ramp(sources.floor(width, x), lambda: torch.floor(x.detach()), linear)


@one_node
def ceil(x: Tensor, eps: OneEps = 1e-3, *, forward: Forward | None = None) -> Tensor:
    """Ceiling: a ramp around every integer, half-width ``min(eps, 1/2)``, slope ``1 / (2 eps)``. Arguments as for
    `heaviside`.

    Example:
        >>> import torch, sll
        >>> sll.ceil(torch.tensor([0.5, 0.95, 1.0, 1.05]), eps=0.1)
        tensor([1.0000, 1.2500, 1.0000, 1.7500])
    """
    width, linear = _checked(x, eps, forward, "ceil")
    return _ramp(sources.ceil(width, x), lambda: torch.ceil(x.detach()), linear)


@one_node
def trunc(x: Tensor, eps: OneEps = 1e-3, *, forward: Forward | None = None) -> Tensor:
    """Truncation: a ramp around every integer but 0, half-width ``min(eps, 1/2)``, slope ``1 / (2 eps)``. Arguments
    as for `heaviside`.

    Example:
        >>> import torch, sll
        >>> sll.trunc(torch.tensor([-1.05, -0.5, 0.0, 1.05]), eps=0.1)
        tensor([-0.7500, -0.0000,  0.0000,  0.7500])
    """
    width, linear = _checked(x, eps, forward, "trunc")
    return _ramp(sources.trunc(width, x), lambda: torch.trunc(x.detach()), linear)


@one_node
def threshold(
    x: Tensor, threshold: float | Tensor = 0.0, eps: OneEps = 1e-3, *, forward: Forward | None = None
) -> Tensor:
    """1 where ``x > threshold``, else 0, with the ramp of `heaviside` around `threshold`. Equal numbers give 1/2.

    Args:
        x: floating-point tensor of any shape.
        threshold: a number, or a tensor that broadcasts with `x` and may itself require grad.
        eps: half-width of the band, positive, in the units of `x`.
        forward: ``"linear"`` or ``"hard"``.

    Returns:
        A tensor of the dtype of `x` and the broadcast shape.

    Example:
        >>> import torch, sll
        >>> t = torch.tensor(0.5, requires_grad=True)
        >>> sll.threshold(torch.tensor([0.2, 0.55, 0.9]), t, eps=0.1).sum().backward()
        >>> t.grad
        tensor(-5.)
    """
    width, linear = _checked(x, eps, forward, "gt")
    if not isinstance(threshold, (int, float, Tensor)) or isinstance(threshold, bool):
        raise TypeError(
            f"threshold must be a number or a tensor that broadcasts with x, got {shown(threshold)}; "
            "float(threshold) or torch.as_tensor(threshold) makes one"
        )
    step = Step(boundary_at(x, threshold, width), 0.0, 1.0, Jump("boundary", 0.0, 1.0, 0.5, 0.0))

    def hard() -> Tensor:
        above = (x.detach() > threshold).to(x.dtype)
        return torch.where(x.detach() == threshold, 0.5, above)

    return _ramp(step, hard, linear)


@one_node
def argmax(x: Tensor, dim: int = -1, eps: OneEps = 1e-3, *, forward: Forward | None = None) -> Tensor:
    """Soft one-hot of the largest entry: ``sparsemax(x / eps)`` along `dim`.

    This is the Euclidean projection of ``x / eps`` on the probability simplex: exactly one-hot when the best entry
    leads by `eps` or more, and for two entries ``heaviside(x1 - x2, eps)``. Equal entries share. Unlike `torch.argmax`
    it returns weights, not an index, and chooses along the last dimension if none is named: ``(sll.argmax(x) *
    values).sum(-1)`` is the lookup.

    Args:
        x: floating-point tensor with at least one dimension.
        dim: the dimension to choose along; it must not be empty.
        eps: how close the best entries have to be to share, in the units of `x`.
        forward: ``"linear"``, or ``"hard"`` for the one-hot of `torch.argmax` with the gradient of the projection.

    Returns:
        A tensor of the shape and dtype of `x` that sums to 1 along `dim`.

    Source: Martins & Astudillo, "From Softmax to Sparsemax", ICML 2016.

    Example:
        >>> import torch, sll
        >>> sll.argmax(torch.tensor([[1.0, 3.0, 2.95], [0.0, 1.0, 2.0]]), eps=0.1)
        tensor([[0.0000, 0.7500, 0.2500],
                [0.0000, 0.0000, 1.0000]])
    """
    width, linear = _checked(x, eps, forward, "argmax")
    _check_dim(x, dim)
    if x.shape[dim] == 0:
        raise ValueError(
            f"x must have entries to choose from along dim {dim}, got shape {tuple(x.shape)}, which has no entries "
            "there; choose along another dim, or skip what is empty (if x.shape[dim]: ...)"
        )
    return _largest(x, 1, dim, width, linear, leads, x.detach().movedim(dim, -1).argmax(-1, keepdim=True))


@one_node
def argmin(x: Tensor, dim: int = -1, eps: OneEps = 1e-3, *, forward: Forward | None = None) -> Tensor:
    """Soft one-hot of the smallest entry: ``sparsemax(-x / eps)``. Arguments as for `argmax`.

    Example:
        >>> import torch, sll
        >>> sll.argmin(torch.tensor([1.0, 1.05, 2.0]), eps=0.1)
        tensor([0.7500, 0.2500, 0.0000])
    """
    _checked(x, eps, forward, "argmin")
    return argmax(-x, dim, eps, forward=forward)


def _largest(
    x: Tensor,
    k: int,
    dim: int,
    width: float | Width,
    linear: bool,
    distances: Callable[[Tensor], Tensor],
    chosen: Tensor | None = None,
) -> Tensor:
    """The mask of the `k` largest entries; a policy is shown these `distances`."""
    if k in (0, x.shape[dim]):
        return constant(float(k > 0), x)
    rows = x.movedim(dim, -1)
    if isinstance(width, Width):
        rows = rows.to(compute_dtype(x.dtype))
    rows, half = in_units(rows, width, distances)
    mask, chosen = first_k(rows, k, half, chosen)
    mask = mask.to(x.dtype)
    if not linear:
        mask = hard_forward(torch.zeros_like(mask).scatter(-1, chosen, 1.0), mask)
    return mask.movedim(-1, dim)


@one_node
def rank(
    x: Tensor, dim: int = -1, eps: OneEps = 1e-3, descending: bool = False, *, forward: Forward | None = None
) -> Tensor:
    """Rank of each entry along `dim`, from 0: ``rank_i = sum over j != i of heaviside_eps(x_i - x_j)``.

    Where no two entries are within `eps` this is ``torch.argsort(torch.argsort(x))``; entries in each other's band
    share places, equal entries equally. The slope with respect to ``x_i - x_j`` is ``1 / (2 eps)`` for every pair in
    the band. O(n log n) time and O(n) memory, forward and backward, whatever the band: inside it the ramp is linear,
    so a sort and prefix sums do.

    Args:
        x: floating-point tensor with at least one dimension; +inf is larger than everything, NaN counts as +inf,
            and neither gets a gradient.
        dim: the dimension to rank along; it may be empty.
        eps: half-width of the band, positive, in the units of `x`.
        descending: rank 0 for the largest instead of the smallest.
        forward: ``"linear"``, or ``"hard"`` for the integer ranks of a stable sort with the same gradient.

    Returns:
        A tensor of the shape and dtype of `x` with values in ``[0, n - 1]``. In half precision large ranks are
        rounded (float16 holds whole numbers up to 2048, bfloat16 up to 256), and in float16 beyond 65504 they are inf;
        ``sll.rank(x.float())`` keeps them.

    Raises:
        TypeError, ValueError, IndexError: naming the argument that is not as described.

    Example:
        >>> import torch, sll
        >>> sll.rank(torch.tensor([3.0, 1.0, 2.0, 2.05]), eps=0.1)
        tensor([3.0000, 0.0000, 1.2500, 1.7500])
        >>> sll.rank(torch.tensor([3.0, 1.0, 2.0, 2.05]), eps=0.1, descending=True, forward="hard")
        tensor([0., 3., 2., 1.])
    """
    width, linear = _checked(x, eps, forward, "sort")
    _check_dim(x, dim)
    if not isinstance(descending, bool):
        raise TypeError(
            f"descending must be True or False, got {shown(descending)}; True gives rank 0 to the largest entry"
        )
    rows = x.movedim(dim, -1)
    soft = ranks(*in_units(rows.to(compute_dtype(x.dtype)), width, pairs))
    soft = (x.shape[dim] - 1 - soft if descending else soft).to(x.dtype)
    if not linear:
        places = rows.detach().argsort(dim=-1, descending=descending, stable=True).argsort(-1)
        soft = hard_forward(places.to(x.dtype), soft)
    return soft.movedim(-1, dim)


@one_node
def topk_mask(x: Tensor, k: int, dim: int = -1, eps: OneEps = 1e-3, *, forward: Forward | None = None) -> Tensor:
    """Soft k-hot of the `k` largest entries along `dim`: ``argmin ||m - x / eps||^2`` over ``0 <= m <= 1, sum m = k``.

    This is the Euclidean projection on the capped simplex, ``clamp(x / eps - tau, 0, 1)``. It is exactly k-hot when
    the k-th largest entry leads the next by `eps` or more; two entries that compete for the last place share it like
    ``heaviside(x1 - x2, eps)``; for ``k = 1`` it is `argmax`. For the smallest: ``topk_mask(-x, k)``.

    Args:
        x: floating-point tensor with at least one dimension.
        k: how many to choose, from 0 to ``x.shape[dim]``.
        dim: the dimension to choose along; it may be empty.
        eps: how close entries have to be to share, in the units of `x`.
        forward: ``"linear"``, or ``"hard"`` for the k-hot of `torch.topk` with the gradient of the projection.

    Returns:
        A tensor of the shape and dtype of `x` that sums to `k` along `dim`. Where the boundary lies between entries
        that are infinite or NaN: the hard k-hot, without a gradient.

    Raises:
        TypeError, ValueError, IndexError: naming the argument that is not as described.

    Source: Blondel, Fujino & Ueda, "Large-scale Multiclass SVM Training via Euclidean Projection onto the Simplex",
    ICPR 2014; Amos, Koltun & Kolter, "The Limited Multi-Label Projection Layer", 2019 (the entropic sibling).

    Example:
        >>> import torch, sll
        >>> sll.topk_mask(torch.tensor([1.0, 3.0, 2.0, 1.95]), k=2, eps=0.1)
        tensor([0.0000, 1.0000, 0.7500, 0.2500])
    """
    width, linear = _checked(x, eps, forward, "topk")
    _check_dim(x, dim)
    n = x.shape[dim]
    if isinstance(k, bool) or not hasattr(k, "__index__") or isinstance(k, Tensor):
        raise TypeError(f"k must be an int, got {shown(k)}; int(k) makes it one")
    k = int(k)
    if not 0 <= k <= n:
        remedy = f"k=min(k, {n}) takes all there are" if k > n else "k counts the entries to choose"
        raise ValueError(f"k must be between 0 and the {n} entries along dim {dim}, got {k}; {remedy}")
    return _largest(x, k, dim, width, linear, lambda z: from_last(z, k))
