"""Independent oracles for gradients (the derivative of a program, found without the library).

Box oracle: for an elementwise program of one variable the derivative inside a region is ``(f(x + eps) - f(x - eps)) /
(2 eps)`` of the hard program `f`.

Line-integral oracle: for any program and any path whose end points lie outside all bands, the integral of the
gradient along the path is the difference of the hard program's values at the ends. Nothing that is wrong in between
can hide from it.
"""

from __future__ import annotations

import functools
import warnings
from collections.abc import Callable
from typing import Any

import torch
from numpy.polynomial.legendre import leggauss
from torch import Tensor

import sll

Program = Callable[[Tensor], Tensor]


def leaf(*values: float, dtype: torch.dtype | None = None) -> Tensor:
    return torch.tensor(values, dtype=dtype, requires_grad=True)


def grads(y: Tensor, *inputs: Tensor) -> list:
    """The gradients of the sum as lists of numbers, zeros where there are none; of one input its own."""
    found = torch.autograd.grad(y.sum(), inputs, allow_unused=True, retain_graph=True)
    out = [[0.0] * x.numel() if g is None else g.tolist() for x, g in zip(inputs, found)]
    return out[0] if len(out) == 1 else out


def slope() -> float:
    """Of a sign at 0, in whatever regions this is."""
    x = torch.zeros(1, requires_grad=True)
    y = torch.sign(x)
    if not y.requires_grad or y.grad_fn.name() == "SignBackward0":
        return 0.0
    return torch.autograd.grad(y.sum(), x)[0].item()


def same_bits(a: Any, b: Any) -> bool:
    """Equal values, NaNs and signed zeros included, and equal types and layout."""
    if isinstance(a, (tuple, list)):
        return len(a) == len(b) and all(same_bits(x, y) for x, y in zip(a, b))
    assert type(a) is torch.Tensor
    assert (a.shape, a.dtype, a.device) == (b.shape, b.dtype, b.device)
    if a.is_floating_point():
        a, b = a.detach(), b.detach()
        return bool(((a == b) & (a.signbit() == b.signbit()) | (a.isnan() & b.isnan())).all())
    return torch.equal(a, b)


INTS = {torch.float32: torch.int32, torch.float64: torch.int64}


def ulps(a: Tensor, b: Tensor) -> Tensor:
    """How many floats apart; equal numbers (0 and -0) and two NaNs are not."""
    bits = INTS[a.dtype]
    apart = (a.view(bits) - b.view(bits)).abs()
    return torch.where((a == b) | (a.isnan() & b.isnan()), 0, apart)


def plain(f: Program, x: Tensor) -> Tensor:
    with torch.no_grad():
        return f(x)


def region_gradient(f: Program, x: Tensor, eps: float, forward: str) -> tuple[Tensor, Tensor]:
    """Value and derivative of an elementwise program in a region; a lost gradient is an error."""
    x = x.detach().clone().requires_grad_()
    with warnings.catch_warnings():
        warnings.simplefilter("error", sll.LostGradientWarning)
        with sll.linearize(eps, forward=forward):
            y = f(x)
    if not y.requires_grad:  # the program is constant, and says so
        return y, torch.zeros_like(x)
    (g,) = torch.autograd.grad(y.sum(), x)
    return y.detach(), g


def like_a_trace(
    f: Callable[..., Tensor], *start: Tensor, eps: float = 0.5, forward: str = "linear"
) -> tuple[Tensor, ...]:
    """Values and gradients of a region are those of a traced one, which takes no short cuts."""
    found = []
    for trace in (False, True):
        inputs = [x.detach().clone().requires_grad_(x.is_floating_point()) for x in start]
        with sll.linearize(eps, forward=forward, trace=trace, on_lost="ignore"):
            y = f(*inputs)
        wrt = [x for x in inputs if x.requires_grad]
        found.append((y.detach(), *torch.autograd.grad(y.sum(), wrt, allow_unused=True)))
    for a, b in zip(*found):
        torch.testing.assert_close(a, b, rtol=1e-5, atol=1e-6)
    assert any(g is not None and g.any() for g in found[0][1:])
    return found[0]


def hard_gradient(f: Program, x: Tensor, eps: float = 0.1) -> Tensor:
    """Of a program that returns a number, with ``forward="hard"``."""
    x = x.clone().requires_grad_()
    with sll.linearize(eps, forward="hard"):
        y = f(x)
    return torch.autograd.grad(y, x)[0]


LOW, HIGH = -2.53, 2.57  # where jumps are looked for


@functools.cache  # of the same program in every mode, and by other tests
def jumps(f: Program, dtype: torch.dtype, n: int = 20_001) -> tuple[Tensor, Tensor]:
    """Positions and heights of all jumps of an elementwise program with constant pieces, found by scanning and
    bisection.

    Bisection ends at two neighbouring numbers of `dtype`; the position is the mean of the two, in float64.
    """
    grid = torch.linspace(LOW, HIGH, n, dtype=torch.float64).to(dtype).unique()
    values = plain(f, grid).double()
    at = (values[1:] != values[:-1]).nonzero().squeeze(1)
    left, right = grid[at], grid[at + 1]
    start, height = values[at], values[at + 1] - values[at]
    for _ in range(64):
        middle = ((left.double() + right.double()) / 2).to(dtype)
        lower = plain(f, middle).double() == start
        left, right = torch.where(lower, middle, left), torch.where(lower, right, middle)
    return (left.double() + right.double()) / 2, height


def box_points(positions: Tensor, eps: float, dtype: torch.dtype, seed: int = 0) -> Tensor:
    """Points around every jump (inside the band, near its edges, outside) and random ones."""
    offsets = torch.tensor([-2.0, -1.1, -0.9, -0.5, -0.01, 0.01, 0.5, 0.9, 1.1, 2.0], dtype=torch.float64) * eps
    near = (positions[:, None] + offsets).reshape(-1)
    anywhere = torch.rand(40, generator=torch.Generator().manual_seed(seed), dtype=torch.float64) * 5 - 2.5
    return torch.cat([near, anywhere]).to(dtype)


def box_derivative(
    x: Tensor, positions: Tensor, heights: Tensor, eps: float, scale: float = 1.0
) -> tuple[Tensor, Tensor]:
    """The box oracle at `x`, and a mask of the points at which rounding cannot move a jump in or out of the window.

    Numbers up to 2.6 are 2 ulp apart; scaling rounds the op's input by as much again.
    """
    distance = (x.double()[:, None] - positions).abs()
    inside = distance <= eps
    certain = ((distance - eps).abs() > rounding(x.dtype, scale) + 0.02 * eps).all(1)
    certain &= (x > LOW + 1.1 * eps) & (x < HIGH - 1.1 * eps)
    return (inside * heights).sum(1) / (2 * eps), certain


def rounding(dtype: torch.dtype, scale: float) -> float:
    return torch.finfo(dtype).eps * (3.0 if scale == 1.0 else 6.0)


def too_coarse(positions: Tensor, eps: float, dtype: torch.dtype, scale: float) -> bool:
    """Whether numbers of `dtype` cannot resolve the band, or the bands of neighbouring jumps touch."""
    dense = len(positions) > 1 and float((positions[1:] - positions[:-1]).min()) < 2.2 * eps
    return dense or rounding(dtype, scale) > 0.4 * eps


def line_integral(f: Program, a: Tensor, b: Tensor, times: Tensor, weights: Tensor, eps: float, forward: str) -> float:
    """Integral of ``grad f_eps . (b - a)`` along the segment from `a` to `b`, one sample at a time, for a scalar
    program.
    """
    total = 0.0
    for t, w in zip(times.tolist(), weights.tolist()):
        x = (a + (b - a) * t).requires_grad_()
        with sll.linearize(eps, forward=forward):
            y = f(x)
        (g,) = torch.autograd.grad(y, x)
        total += w * float((g * (b - a)).sum())
    return total


def gauss_between(breaks: Tensor, points: int = 3) -> tuple[Tensor, Tensor]:
    """Nodes and weights of the Gauss rule of so many points on every interval between the breakpoints in [0, 1]."""
    breaks = torch.cat([breaks.new_tensor([0.0, 1.0]), breaks[(breaks > 0) & (breaks < 1)]]).unique()
    left, width = breaks[:-1], breaks[1:] - breaks[:-1]
    nodes, weights = (torch.as_tensor(t / 2, dtype=breaks.dtype) for t in leggauss(points))  # on [-1/2, 1/2]
    nodes = nodes + 0.5
    return (left[:, None] + width[:, None] * nodes).reshape(-1), (width[:, None] * weights).reshape(-1)


def band_crossings(start: Tensor, end: Tensor, threshold: float, eps: float) -> Tensor:
    """Times at which a coordinate that moves linearly from `start` to `end` crosses the edges and the middle of its
    band.
    """
    edges = torch.tensor([threshold - eps, threshold, threshold + eps], dtype=start.dtype)
    return ((edges - start[:, None]) / (end - start)[:, None]).reshape(-1)


def pair_crossings(a: Tensor, b: Tensor, eps: float) -> Tensor:
    """Times at which the difference of two entries of a row crosses the edges and the middle of its band."""
    i, j = torch.triu_indices(a.shape[-1], a.shape[-1], 1)
    start, end = (x[..., i] - x[..., j] for x in (a, b))
    edges = torch.tensor([-eps, 0.0, eps], dtype=a.dtype)
    return ((edges - start[..., None]) / (end - start)[..., None]).reshape(-1)


def integral(
    f: Program, a: Tensor, b: Tensor, eps: float, forward: str, parts: int = 1, points: int = 3
) -> tuple[float, float]:
    """Line integral of a program that orders, and what it should be.

    `parts`: how often to divide the intervals between band crossings (with three entries in each other's band there are
    corners inside them; benchmarks/acceptance.py halves them). `points`: how many in each; every one is a region.
    """
    breaks = torch.cat([a.new_tensor([0.0, 1.0]), pair_crossings(a, b, eps)])
    breaks = breaks[(breaks >= 0) & (breaks <= 1)].unique()
    shares = torch.arange(parts, dtype=a.dtype) / parts
    breaks = (breaks[:-1, None] + breaks.diff()[:, None] * shares).reshape(-1)
    times, weights = gauss_between(breaks, points)
    return line_integral(f, a, b, times, weights, eps, forward), float(f(b) - f(a))


def _along(f: Program, a: Tensor, b: Tensor, t: Tensor, eps: float, forward: str) -> tuple[Tensor, Tensor]:
    """Values and slopes of a batched program at the points ``a + (b - a) t``."""
    x = (a + (b - a) * t.reshape(-1, *[1] * a.dim())).requires_grad_()
    with sll.linearize(eps, forward=forward):
        y = f(x)
    (g,) = torch.autograd.grad(y.sum(), x)
    return y.detach(), (g * (b - a)).flatten(1).sum(1)


def jittered_integral(
    f: Program, a: Tensor, b: Tensor, eps: float, forward: str, n: int = 40_000, seed: int = 0
) -> float:
    """Line integral of a program that maps (n, *a.shape) to (n,), by stratified sampling."""
    jitter = torch.rand(n, generator=torch.Generator().manual_seed(seed), dtype=a.dtype)
    t = (torch.arange(n, dtype=a.dtype) + jitter) / n
    return float(_along(f, a, b, t, eps, forward)[1].mean())


def adaptive_integral(f: Program, a: Tensor, b: Tensor, eps: float, tolerance: float = 1e-6, rounds: int = 26) -> float:
    """Line integral in ``forward="linear"``, refined where the trapezoid of the slopes and the change of the value
    disagree.

    Nested decisions make sub-bands of width eps**2 and less, which sampling misses. The values only say where to look
    closer; what is added up is the gradient.
    """
    t = torch.linspace(0, 1, 2001, dtype=a.dtype)
    y, g = _along(f, a, b, t, eps, "linear")
    left, right, y0, y1, g0, g1 = t[:-1], t[1:], y[:-1], y[1:], g[:-1], g[1:]
    total = 0.0
    for _ in range(rounds):
        area = (g0 + g1) / 2 * (right - left)
        rough = (y1 - y0 - area).abs() > tolerance * (right - left).clamp(min=1e-6) + 1e-9
        total += float(area[~rough].sum())
        if not rough.any():
            break
        left, right, y0, y1, g0, g1 = (v[rough] for v in (left, right, y0, y1, g0, g1))
        middle = (left + right) / 2
        y, g = _along(f, a, b, middle, eps, "linear")
        left, right = torch.cat([left, middle]), torch.cat([middle, right])
        y0, y1 = torch.cat([y0, y]), torch.cat([y, y1])
        g0, g1 = torch.cat([g0, g]), torch.cat([g, g1])
    else:
        total += float(((g0 + g1) / 2 * (right - left)).sum())
    return total
