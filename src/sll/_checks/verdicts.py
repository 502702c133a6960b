"""From stretches along many lines: ratio, cosine, signs, their errors, and a verdict."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Literal, TypeAlias

import torch
from torch import Tensor

from .windows import Measured

Verdict: TypeAlias = Literal["right", "right on average", "wrong here", "cannot tell", "no effect"]

EXACT, ABOUT = 0.1, 0.25
"""Off by so much the gradient still counts as right, and as right on average."""
SURE = 4.0
"""Standard errors."""
MANY = 3.0
"""So many times the scatter of its jumps a stretch goes up and down, if they are five or more."""
EXPLODES = 4.0
"""A right gradient goes up and down no more than the program, and this is so many times more."""


@dataclass(frozen=True)
class Compared:
    """What the region's gradient says of one argument, and what the hard program does.

    Attributes:
        name, shape: of the argument or parameter. Of a path, ``"path"``.
        verdict: ``"right"``, ``"right on average"``, ``"wrong here"``, ``"cannot tell"``, or ``"no effect"`` (neither
            the program nor the gradient changes).
        why: the figures that the verdict follows from, where they are others than `ratio`, and what to do.
        ratio: the region's change divided by the program's, by least squares over all directions; NaN where the program
            goes up as much as it goes down, or stays where it is.
        error: the standard error of `ratio`.
        cosine: of the changes along all directions; NaN without a ratio, or if one of the two does not change.
        signs: the share of the directions in which both have the same sign.
        directions: along how many directions it was measured.
        step: how far to either side, in the units of the argument (the median).
        hard, region: root mean squares of the changes over `step`, in the units of the result.
    """

    name: str
    shape: tuple[int, ...]
    verdict: Verdict
    why: str
    ratio: float
    error: float
    cosine: float
    signs: float
    directions: int
    step: float
    hard: float
    region: float


def compared(name: str, shape: tuple[int, ...], wide: list[Measured], close: list[Measured], failed: str) -> Compared:
    """`wide`: stretches many bands long. `close`: those in which few decisions change, where bands are wider."""
    if not wide:
        nan = math.nan
        return Compared(name, shape, "cannot tell", failed, nan, nan, nan, nan, 0, nan, nan, nan)
    hard, region = _both(wide)
    size, other = hard.square().sum(), region.square().sum()
    verdict, why = _judged(wide, close)
    told = hard.abs() > 0.05 * hard.abs().max()
    ratio = float((hard * region).sum() / size) if _has_ratio(wide) else math.nan
    return Compared(
        name,
        shape,
        verdict,
        why,
        ratio=ratio,
        error=_error(wide) if ratio == ratio else math.nan,
        cosine=ratio * float((size / other).sqrt()) if other else math.nan,
        signs=float((hard.sign() == region.sign())[told].double().mean()) if told.any() else math.nan,
        directions=len(wide),
        step=float(torch.tensor([m.half for m in wide]).median()),
        hard=float((size / len(wide)).sqrt()),
        region=float((other / len(wide)).sqrt()),
    )


def _both(of: list[Measured]) -> tuple[Tensor, Tensor]:
    first, second = _twice(of)
    return torch.tensor([m.hard for m in of], dtype=torch.float64), (first + second) / 2


def _twice(of: list[Measured]) -> tuple[Tensor, Tensor]:
    """What the region says, at some points and at others."""
    found = [[m.region for m in of], [(m.twin or m).region for m in of]]
    first, second = torch.tensor(found, dtype=torch.float64)
    return first, second


def _certain(of: list[Measured], than: Tensor | float = 0.0) -> tuple[float, float]:
    """The sum of the squares of what the region says beyond `than`, and its standard error. Chance cancels: it is
    another at other points.
    """
    first, second = _twice(of)
    squares, apart = (first - than) * (second - than), (first - second).square()
    error = (squares.clamp(0) * apart + apart.square() / 4).sum().sqrt()
    return float(squares.sum()), float(error)


def _noise(of: list[Measured]) -> Tensor:
    return torch.tensor([math.hypot(m.noise, m.rounding) for m in of], dtype=torch.float64)


def _error(of: list[Measured]) -> float:
    """Standard error of the ratio, from leaving out one direction at a time, and from the choice of points."""
    hard, region = _both(of)
    of_points = float((hard * _noise(of)).norm() / hard.square().sum())
    told = _telling(of)
    many = int(told.sum())
    if many < 2:
        return of_points
    size, product = hard[told].square(), (hard * region)[told]
    without = (product.sum() - product) / (size.sum() - size)
    return math.hypot(float(((many - 1) / many * (without - without.mean()).square().sum()).sqrt()), of_points)


def _telling(of: list[Measured]) -> Tensor:
    """The directions along which the program changes."""
    return torch.tensor([abs(m.hard) > 8 * m.rounding for m in of])


def _has_ratio(of: list[Measured]) -> bool:
    """Whether the program does not go up as much as it goes down."""
    size, swing = sum(m.hard**2 for m in of), sum(m.swing for m in of)
    return swing > _nothing(of) and math.sqrt(len(of) * size) >= 0.02 * swing


def _nothing(of: list[Measured]) -> float:
    """What goes up and down by no more does not change."""
    return 64 * len(of) * max(m.rounding for m in of)


def _judged(wide: list[Measured], close: list[Measured]) -> tuple[Verdict, str]:
    hard, region = _both(wide)
    swing, other = sum(m.swing for m in wide), sum(m.region_swing for m in wide)
    if max(swing, other) <= _nothing(wide):
        return "no effect", ""
    if swing <= _nothing(wide):
        return _of_nothing(wide, region, float(_noise(wide).square().sum()), other)
    if max(float(hard.abs().max()), float(region.abs().max())) <= 8 * max(m.rounding for m in wide):
        return "cannot tell", "what changes is as small as rounding; use float64"
    if all(sum(m.region_swing - m.spike for m in of) > EXPLODES * swing for of in (wide, [m.twin or m for m in wide])):
        much = f"it adds up to {other / swing:.3g} times what the program changes"
        return "wrong here", f'the gradient explodes: {much}; take forward="hard", or a wider band'
    far = _far_off([m for m in close if m.swing > MANY * m.shot])
    if far:
        return "wrong here", far
    return _by_ratio(wide) if _has_ratio(wide) else _by_swing(wide)


def _of_nothing(wide: list[Measured], region: Tensor, noise: float, swing: float) -> tuple[Verdict, str]:
    """The program does not change."""
    size, error = _certain(wide)
    left = math.sqrt(len(region) * max(0.0, size)) / swing
    why = f"the program does not change, and of what the gradient goes up and down {100 * left:.2g} % are left"
    if left < 0.4:
        return "right" if left <= EXACT else "right on average", why
    if size > 4 * noise and size > SURE * error:
        return "wrong here", why
    return "cannot tell", f"{why}, which may be chance; {_MORE}"


def _by_ratio(wide: list[Measured]) -> tuple[Verdict, str]:
    hard, region = _both(wide)
    size = float(hard.square().sum())
    ratio, error = float((hard * region).sum()) / size, _error(wide)
    noise = float(_noise(wide).square().sum()) / size
    off = float((region - hard).square().sum()) / size
    beyond = math.sqrt(max(0.0, off - noise))
    if abs(ratio - 1) > max(ABOUT, SURE * error):
        return "wrong here", f"the gradient says {ratio:.3g} times what the program does"
    if beyond > 0.75 and off > (1 + SURE / math.sqrt(len(wide))) * noise:
        square, doubt = (x / size for x in _certain(wide, hard))
        if square > max(0.75**2, SURE * doubt):
            return "wrong here", f"along single directions the gradient is off by {100 * math.sqrt(square):.0f} %"
        return "cannot tell", f"along single directions the gradient scatters by {100 * beyond:.0f} %; {_MORE}"
    if error > ABOUT / 2:
        return "cannot tell", f"too noisy: the ratio is {ratio:.2g} ± {error:.1g}; {_MORE}"
    if noise > 0.25:
        return "cannot tell", f"along single directions the error is {100 * math.sqrt(noise):.0f} %; {_MORE}"
    if int(_telling(wide).sum()) < 2:
        return "cannot tell", f"the program changes along one of {len(wide)} directions; raise directions="
    if abs(ratio - 1) <= EXACT and beyond <= EXACT:
        return "right", ""
    if abs(ratio - 1) <= ABOUT:
        return "right on average", f"along single directions the gradient is off by {100 * beyond:.0f} %"
    return "cannot tell", f"the ratio is {ratio:.2g} ± {error:.1g}; {_MORE}"


_MORE = "raise directions=, points= or runs="


def _by_swing(wide: list[Measured]) -> tuple[Verdict, str]:
    """The program goes up as much as it goes down."""
    hard, region = _both(wide)
    swing = sum(m.swing for m in wide) / math.sqrt(len(wide))
    off, noise = (float(x.norm()) / swing for x in (region - hard, _noise(wide)))
    why = f"the program goes up as much as down, and the gradient is off by {off:.1%} ± {noise:.1%} of that"
    if off <= EXACT / 2:
        return "right", why
    if off > max(ABOUT, SURE * noise):
        return "wrong here", why
    return "cannot tell", f"{why}; {_MORE}"


def _far_off(close: list[Measured]) -> str:
    """Where the bands are wider than what the program does nearby, the gradient may say nothing about that.

    The jumps of a short stretch are few, and the same ones along all directions. They scatter as if they fell anywhere:
    that is the error of what is compared.
    """
    if not close:
        return ""
    hard, region = _both(close)
    size = float(region.square().sum())
    if not size:
        return ""
    says = float((hard * region).sum()) / size
    shot = torch.tensor([m.shot**2 + m.noise**2 for m in close], dtype=torch.float64)
    error = math.sqrt(len(close) * float((region.square() * shot).sum())) / size
    if abs(says - 1) > max(0.6, SURE * error):
        step = sorted(m.half for m in close)[len(close) // 2]
        return f"within ±{step:.2g} the program changes by {says:.2g} ± {error:.1g} times what the gradient says"
    return ""
