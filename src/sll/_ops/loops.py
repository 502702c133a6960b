"""The loops of `fused`, compiled by numba. Only `fused` imports this, and only where numba is installed.

Each does for one element what `ramp.py` and `blend.py` do with stock ops, in the same order of operations. `given` has
the numbers in the dtype of the tensors, so that nothing is computed in a wider one. Selections are written without
early exits: these loops become vector instructions.
"""

from __future__ import annotations

import functools
import types
from collections.abc import Callable
from typing import Any

import numba
import numpy as np
from numba import prange


def _boundary(x: Any, value: Any, mask: Any, given: Any, linear: bool) -> None:
    """From `below` to `above` at `threshold`."""
    threshold, below, above, at_tie, at_nan = given[0], given[1], given[2], given[3], given[4]
    eps, per_unit, half = given[5], given[6], given[7]
    middle, jump = below * half + above * half, above - below
    for i in prange(x.size):
        distance = x[i] - threshold
        inside = abs(distance) <= eps
        mask[i] = inside
        above_or_nan = above if x[i] > threshold else at_nan
        not_tie = below if x[i] < threshold else above_or_nan
        hard = at_tie if x[i] == threshold else not_tie
        ramp = min(max(distance * per_unit, -half), half) * jump + middle
        value[i] = ramp if linear and inside and distance != 0 else hard


def _at_integers(nearest: Any, whole: Any, shift: int, up: int) -> Any:
    """``whole(x)``, which jumps at every ``n + shift / 2``, from ``n + (up - 1) / 2`` to one more."""

    def loop(x: Any, value: Any, mask: Any, given: Any, linear: bool) -> None:
        eps, per_unit, half = given[0], given[1], given[2]
        at = half if shift else half - half
        middle = half if up else -half
        for i in prange(x.size):
            n = nearest(x[i])
            distance = (x[i] - n) - at
            inside = abs(distance) <= eps
            mask[i] = inside
            ramp = (min(max(distance * per_unit, -half), half) + middle) + n
            value[i] = ramp if linear and inside and distance != 0 else whole(x[i])

    return loop


def _trunc(x: Any, value: Any, mask: Any, given: Any, linear: bool) -> None:
    """From n - 1 to n at n > 0, from n to n + 1 at n < 0; at 0 there is no jump."""
    eps, per_unit, half = given[0], given[1], given[2]
    for i in prange(x.size):
        n = np.rint(x[i])
        distance = x[i] - n
        inside = (abs(distance) <= eps) & (n != 0)
        mask[i] = inside
        ramp = (min(max(distance * per_unit, -half), half) + (-half if n > 0 else half)) + n
        value[i] = ramp if linear and inside and distance != 0 else np.trunc(x[i])


def _quantize(x: Any, value: Any, mask: Any, given: Any, linear: bool) -> None:
    """`round`, clamped to whole numbers, as it is after a detour through integers (which have no -0)."""
    low, high, nothing, at_nan = given[0], given[1], given[2], given[3]
    eps, per_unit, half = given[4], given[5], given[6]
    for i in prange(x.size):
        n = np.floor(x[i])
        distance = (x[i] - n) - half
        inside = (abs(distance) <= eps) & (n >= low) & (n < high)
        mask[i] = inside
        ramp = (min(max(distance * per_unit, -half), half) + half) + n
        hard = min(max(np.rint(x[i]), low), high) + nothing
        shown = ramp if linear and inside and distance != 0 else hard
        value[i] = shown if x[i] == x[i] else at_nan


def _scale(g: Any, out: Any, mask: Any, given: Any) -> None:
    slope, nothing = given[0], given[1]
    for i in prange(g.size):
        out[i] = g[i] * slope if mask[i] else nothing


def _blend_by_mask(
    offset: Any, taken: Any, below: Any, above: Any, value: Any, given: Any, ties: bool, one: bool, other: bool
) -> None:
    """``below + weight * (above - below)``. `one`: `below` is one number for all; `other`: `above` is."""
    half = given[0]
    for i in prange(offset.size):
        low = below[0] if one else below[i]
        high = above[0] if other else above[i]
        height = high - low
        inside = (abs(offset[i]) < half) & (ties | (offset[i] != 0)) & (abs(height) < np.inf)
        mixed = low * half + high * half + offset[i] * height
        hard = high if taken[i] else low
        value[i] = mixed if inside else hard


def _blend_by_mask_backward(
    g: Any,
    offset: Any,
    taken: Any,
    below: Any,
    above: Any,
    of_offset: Any,
    of_below: Any,
    of_above: Any,
    given: Any,
    one: bool,
    other: bool,
    wants_below: bool,
    wants_above: bool,
) -> None:
    half, nothing = given[0], given[1]
    for i in prange(g.size):
        low = below[0] if one else below[i]
        high = above[0] if other else above[i]
        height = high - low
        finite = abs(height) < np.inf
        of_offset[i] = g[i] * height if finite & (height != 0) else nothing
        decided = half if taken[i] else -half
        share = (offset[i] if finite else decided) + half
        if wants_above:
            of_above[i] = g[i] * share if share > 0 else nothing
        if wants_below:
            of_below[i] = g[i] * (half + half - share) if share < half + half else nothing


def _pick(mask: Any, a: Any, b: Any, value: Any, one: bool, other: bool) -> None:
    """`one`: `a` is one number for all; `other`: `b` is."""
    for i in prange(mask.size):
        yes = a[0] if one else a[i]
        no = b[0] if other else b[i]
        value[i] = yes if mask[i] else no


def _project(z: Any, g: Any, out: Any, n: int, k: int, half: float, scale: float) -> None:
    """Rows of `n` without NaN: `g` less its mean over the contenders of the first `k`, by `scale`, see `projections`.
    Newton's method finds the threshold, kept between `low` and `high`.
    """
    per_half = 1 / half
    for row in prange(z.size // n):
        begin, end, low, high, sure, out_for_sure = row * n, row * n + n, np.inf, -np.inf, 0, 0
        for i in range(begin, end):
            sure, out_for_sure = sure + (z[i] == np.inf), out_for_sure + (z[i] == -np.inf)
            finite = abs(z[i]) < np.inf
            low, high = min(low, z[i] if finite else low), max(high, z[i] if finite else high)
        open_ = sure < k < n - out_for_sure
        low -= half
        tau, inside, mean = high - half if k == 1 else 0.5 * low + 0.5 * high, 0, 0.0
        for _ in range(200 if open_ else 0):
            total, moving = 0.0, 0
            for i in range(begin, end):
                share = (z[i] - tau) * per_half
                total += min(max(share, 0.0), 1.0)
                moving += (share > -_TIE) & (share < 1 + _TIE)
            if abs(total - k) <= 1e-14 * n:
                break
            low, high = (tau, high) if total > k else (low, tau)
            step = tau + (total - k) * half / max(moving, 1)
            tau = step if low < step < high and moving else 0.5 * low + 0.5 * high
        for i in range(begin, end):
            share = (z[i] - tau) * per_half
            out[i] = open_ and (share > _TIE) & (share < 1 - _TIE)
            inside += out[i] > 0
            mean += g[i] if out[i] else 0.0
        mean /= max(inside, 1)
        for i in range(begin, end):
            out[i] = (g[i] - mean) / scale if out[i] else 0.0


_TIE = 1e-12
"""What shares are rounded by, at most."""


KERNELS: dict[str, Any] = {"pick": _pick, "project": _project}
KERNELS |= {"blend_by_mask": _blend_by_mask, "blend_by_mask_backward": _blend_by_mask_backward}
KERNELS |= {"boundary": _boundary, "round": _at_integers(np.floor, np.rint, 1, 1), "trunc": _trunc}
KERNELS |= {"floor": _at_integers(np.rint, np.floor, 0, 0), "ceil": _at_integers(np.rint, np.ceil, 0, 1)}
KERNELS |= {"quantize": _quantize, "scale": _scale}


@functools.cache
def compiled(kind: str, parallel: bool) -> Callable[..., None]:
    """Compiled at the first call with arrays of a dtype, and kept on disk."""
    kernel: Any = KERNELS[kind]
    if parallel:  # under another name: what is kept on disk is found by it
        name = f"{kernel.__name__}_parallel"
        kernel = types.FunctionType(kernel.__code__, kernel.__globals__, name, None, kernel.__closure__)
        kernel.__qualname__ = name
    options: dict[str, Any] = {"nogil": True, "error_model": "numpy", "parallel": parallel}
    if kind == "project":  # (sums in any order: in half the time)
        options["fastmath"] = {"reassoc"}
    try:
        found: Any = numba.njit(cache=True, **options)(kernel)
    except RuntimeError:  # no folder to write to
        found = numba.njit(**options)(kernel)
    return found  # type: ignore[no-any-return]


class _Memory:
    """NumPy makes an array of it."""

    __slots__ = ("__array_interface__",)


def flat(address: int, size: int, dtype: str) -> Any:
    """The numbers at an address. (`Tensor.numpy` would leave its mark: the storage could no longer be resized.)"""
    memory: Any = _Memory()
    memory.__array_interface__ = {"version": 3, "data": (address, False), "shape": (size,), "typestr": dtype}
    return np.asarray(memory)


def use_threads(many: int) -> None:
    """At most `many`, of those that there are."""
    numba.set_num_threads(min(many, numba.config.NUMBA_NUM_THREADS))  # type: ignore[attr-defined]
