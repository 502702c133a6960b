"""What became of one call site: the data of a report."""

from __future__ import annotations

import math
from dataclasses import dataclass, fields
from typing import Any, NamedTuple

from .._ops.callsite import CallSite, short

BEYOND = 1.25
"""A band that is so many times the largest distance is too wide. ("auto" may take one of the largest distance.)"""
GROWS = 1e3
"""From the last decision of a loop to its first, this is an explosion."""


class EpsUsed(NamedTuple):
    """The half-widths that a policy chose at one call site."""

    calls: int
    smallest: float
    largest: float


class Followed(NamedTuple):
    """Answers that Python was given at one call site of a function with ``paths=N``, and that might be others."""

    open: int
    """How many were open."""
    run: int
    """For how many of them the function ran again."""
    weight: float
    """The largest weight of one that ran: with ``forward="linear"`` the probability of its path, otherwise how many
    open answers it stands for.
    """
    difference: float
    """The largest norm of what the result changed by."""


@dataclass(frozen=True)
class Row:
    """What became of one call site, all its calls together. Lengths are in the units of the op's input.

    Attributes:
        site: the line and the torch function.
        kind: ``"decides"``; ``"follows"`` (an earlier decision decides here as well, as in ``round(10 * sign(x))``);
            ``"flip"`` (Python asked, and the function with ``paths=N`` ran again);
            ``"hard"`` (a discrete function that was not linearized); ``"lost"`` (consumes a decision without passing
            its gradient on); ``"told"`` (the same, only to raise or to log); ``"cut"`` (the program itself leaves
            autograd: ``detach``, ``item`` of a float).
        calls: how often the program called it (inside `vmap`, once for the batch; what a checkpoint runs again counts
            again).
        elements: decisions made, or elements concerned, in all calls. Where one depends on an earlier decision
            (a spike on the membrane that the last spike reset), it is made for either outcome, and counts twice.
        in_band: how many of them were in the band.
        eps: the smallest and the largest half-width used.
        distance: the smallest and the largest signed distance of an input to its nearest decision boundary. For
            choices and orders, how far two entries are apart.
        reach: the half-widths that hold the nearest element (exact ties aside), a tenth of them, and half of them.
        limit: the widest band there can be: half a step for ``round``, `inf` where there is one boundary.
        grad_out: norm of the gradients that arrived at the decision in backward: what the loss would change by if it
            fell on the other side, to first order. None if none has arrived.
        grad_in: norm of the gradients that the band passed on to the op's input; None if none.
        lost: for ``"lost"`` and ``"cut"``, the call sites of the decisions whose gradients end here.
        grows: how much more arrives at the first call of a step than at the last one, at most; 1 if there is one.
        measured: False if some of the gradients could not be seen, inside transforms of `torch.func`.
        weight, difference: of a ``"flip"``, see `Followed`; `elements` are the open answers, `in_band` those that ran.
        why: for ``"hard"``, ``"lost"`` and ``"cut"``, the reason, and what to write instead; for ``"decides"``, why
            nothing arrives, if nothing does.
    """

    site: CallSite
    kind: str
    calls: int
    elements: int
    in_band: int = 0
    eps: tuple[float, float] | None = None
    distance: tuple[float, float] | None = None
    reach: tuple[float, float, float] | None = None
    limit: float = math.inf
    grad_out: float | None = None
    grad_in: float | None = None
    lost: tuple[CallSite, ...] = ()
    why: str = ""
    grows: float = 1.0
    measured: bool = True
    weight: float | None = None
    difference: float | None = None

    @property
    def share(self) -> float:
        """``in_band / elements``; 0 if there are no elements."""
        return self.in_band / self.elements if self.elements else 0.0

    @property
    def covered(self) -> bool:
        """Whether the band reaches well beyond everything that was seen: then nothing is ever decided for good."""
        if self.kind != "decides" or self.limit < math.inf or self.elements < 2 or not (self.eps and self.distance):
            return False
        largest = max(map(abs, self.distance))
        alike = self.reach is None or self.reach[1] > largest / 2  # (no width would open some of them)
        return self.eps[0] > BEYOND * largest > 0 and not alike

    @property
    def status(self) -> str:
        """In two or three words: do gradients pass here?"""
        if self.kind == "lost":
            return "LOST here" if self.in_band else "would be lost"
        if self.kind == "flip":
            return "ran again" if self.in_band else "did not run"
        if self.kind == "follows":
            return "passes it on" if self.in_band or not self.elements else "decided before"
        if self.kind != "decides":
            return {"hard": "not linearized", "cut": "leaves autograd", "told": "only told"}[self.kind]
        if not self.elements:
            return "no elements"
        if not self.in_band or (self.grad_out and not self.grad_in):
            return "out of reach"
        if self.grad_in:
            return "gets gradients"
        return "no gradient arrives" if self.measured else "not measured"

    @property
    def verdict(self) -> str:
        """In a sentence: do gradients pass here, and if not, why not, and what helps."""
        if self.status == "passes it on":
            return "passes an earlier decision on"
        if self.kind == "flip":
            of = f"{self.in_band} of {self.elements} open answers were run"
            told = f", with weights up to {self.weight:.3g}; the result changes by up to {self.difference:.3g}"
            return of + (told if self.in_band else "")
        if self.kind == "follows":
            return "nothing is open here any more: for each element the earlier decisions lead to the same result"
        if self.kind == "lost":
            source = ", ".join(map(short, self.lost))
            said = f"ends the gradient{' of ' + source if source else ''}. {self.why[:1].upper()}{self.why[1:]}"
            return said if self.in_band else f"{said} (Nothing was in its band so far: nothing is lost yet.)"
        if self.kind == "told":
            return "asks for what is decided only to raise or to log: no gradient is missed"
        if self.kind == "hard":
            return f"not linearized: {self.why}"
        if self.kind == "cut":
            source = ", ".join(map(short, self.lost))
            return f"leaves autograd: {self.why}{', and with it ' + source if source else ''}"
        if not self.elements:
            return "no elements"
        widths = [] if self.eps is None else list(dict.fromkeys(f"±{width:.3g}" for width in self.eps))
        band = " … ".join(widths) or "its band"
        if not self.in_band:
            return f"none of {self.elements} decisions is within {band} of its boundary; {self._reached_by()}"
        within = f"{self.in_band} of {self.elements} decisions within {band} of their boundary"
        if self.grad_out and not self.grad_in:
            return f"{within}, but what arrives for them is zero or cancels out; {self._reached_by()}"
        if not self.grad_in and not self.measured:
            return f"{within}; gradients inside torch.func are not measured"
        if not self.grad_in:
            return f"{within}, but no gradient arrives: {self.why or 'backward has not run'}"
        return f"gets gradients: {within}{self.doubt}"

    @property
    def doubt(self) -> str:
        """Why it may train badly though gradients pass; empty if nothing speaks for that."""
        said = ""
        if self.covered and self.distance and self.reach:
            largest = max(map(abs, self.distance))
            said += (
                f"; the band covers all that was seen (no distance above {largest:.3g}), so no decision ever leaves "
            )
            said += f"it; eps={_up(min(2 * self.reach[2], largest))} or less lets some"
        if self.grows > GROWS:
            said += f"; gradients grow {self.grows:.0e}-fold from the last call of a step to the first (feedback); "
            said += 'a wider band or forward="hard" stops that'
        return said

    def _reached_by(self) -> str:
        if self.reach is None:
            return "all are exactly on it, or not finite"
        now = 0.0 if self.eps is None else self.eps[1]
        widths = zip(self.reach, ("the nearest", "a tenth", "half of them"))
        told = [f"eps={_up(min(r, self.limit))} reaches {what}" for r, what in widths if min(r, self.limit) > now]
        return (
            ", ".join([told[0], *(text.replace(" reaches", "") for text in told[1:])]) if told else "wider is in vain"
        )

    def to_dict(self) -> dict[str, Any]:
        """Plain lists, strings and numbers; None instead of `inf` and NaN."""
        own = {x.name: _finite(getattr(self, x.name)) for x in fields(self) if x.name not in ("site", "lost")}
        told = {"share": self.share, "covered": self.covered, "status": self.status, "verdict": self.verdict}
        return {**self.site._asdict(), **own, **told, "lost": [site._asdict() for site in self.lost]}


def _finite(x: Any) -> Any:
    """For JSON, which has neither tuples, nor infinite numbers."""
    if isinstance(x, tuple):
        return [_finite(item) for item in x]
    return None if isinstance(x, float) and not math.isfinite(x) else x


def _up(x: float) -> str:
    """Two digits, rounded up: a width that is wide enough."""
    if not math.isfinite(x) or x <= 0:
        return f"{x:g}"
    unit = 10.0 ** (math.floor(math.log10(x)) - 1)
    return f"{math.ceil(x / unit - 1e-9) * unit:.2g}"


def _ended(x: str) -> str:
    return x if x[-1] in ".)" else f"{x}."
