"""``"auto"``: a width that is measured where the program decides, and remembered."""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import Any, TypeAlias

import torch
from torch import Tensor

from ._ops.env import outside_of_transforms, readable
from ._ops.measured import Distances, Line, Pool, Sides
from ._ops.options import shown
from ._ops.ranks import agreed
from ._ops.samples import numpy_is_there
from .policies import Call, quantile

__all__ = ["AUTO", "Auto"]

Place: TypeAlias = "tuple[str, int, str, int]"
"""File, line, kind of decision, and how many of this line came before in the step."""


def _numbers(d: Tensor) -> Any:
    """As an array, if NumPy is there: on every way the same sums, to the last bit."""
    d = d.double().cpu()
    return d.numpy() if numpy_is_there() else d


MEDIANS = {"comparison": 2.0, "subset": 3.0, "order": 3.0, "choice": 3.0}
"""Half-widths are so many medians of the distances. Wider bands cost spikes, narrower ones subsets."""


class Auto:
    """What ``eps="auto"`` stands for: a width for each decision of the program, measured once and kept.

    *Comparisons*: twice the median distance in the first `steps` training steps at this line; *subsets, orders*: three
    times. (Three medians of normal distances are twice their root mean square; outliers have no say, and units none.)
    Where *data* meet a boundary that is learned, that is divided by the fourth root of how many decisions of a step
    meet each of its numbers: what is far from a threshold says nothing of where it should be.
    Decisions of a line share their width, as the steps of a loop do, unless their scales differ by more than two: then
    layers that share a line have their own. It is kept from then on, for a window that followed the scores as they
    grow would never let a decision be made for good. A step is what happens between entering the region, or a backward
    pass in it, and the next.
    *Steps* (`round`, casts): the whole step, so that backward a quantizer is the straight-through estimator.
    Where a program takes the jump back (``d - L * torch.round(d / L)``, a periodic box), its own slope is left alone.
    Where what a comparison decides between meets at its boundary (``where(x > 0, x, 0.1 * x)``, ``x * (x > 0)``, a
    maximum by `where`), nothing jumps. The gradients that arrive in the measured steps tell, and it has no ramp.
    *Remainders* keep their own slope, as wrapped angles want it; ``x - x % s`` is a step. (With ``forward="linear"``
    and ``"hard"`` they have half of the whole step.)
    *Choices* (`argmax`, `argmin`): three times the median of how far the best leads the next in these steps, kept as
    well. With ``forward="straight-through"`` the gradient is that of ``softmax(x / eps)``: all candidates share.

    Calls that tell nothing (all ties, all equal) do not count, NaN and inf are left out, and a first step whose scores
    are far smaller than later ones (a head that starts at zero) is forgotten. Compiled code runs its first steps in
    eager mode, to measure. ``sll.sign(x, eps="auto")``, with the word and without a region, has nothing to remember
    with: it takes the window ``|d| <= 1`` if that holds from 2 % to 75 % of the inputs.

    In a distributed program all ranks keep the widths that rank 0 has measured.

    The memory lives in this object: make the region once, before the loop. ``linearize("auto")`` makes an object of
    its own; pass one to save it, or to share it between regions.

    Args:
        steps: how many steps are measured. With 0 nothing is remembered.

    Raises:
        TypeError, ValueError: if `steps` is not as described.

    Example:
        >>> import torch, sll
        >>> x = torch.tensor([-3.0, -1.0, 1.0, 3.0], requires_grad=True)
        >>> eps = sll.Auto(steps=1)
        >>> region = sll.linearize(eps)
        >>> for scale in (1, 100):  # the second step has the width of the first
        ...     with region:
        ...         torch.sign(scale * x).sum().backward()
        >>> list(eps.remembered.values())
        [2.0]
    """

    WHOLE = SOFT = True
    WINDOW, LEAST, MOST = 1.0, 0.02, 0.75
    """Without a memory: the classic window ``|d| <= 1``, where it holds such a share of the distances."""

    def __init__(self, steps: int = 10) -> None:
        if isinstance(steps, bool) or not isinstance(steps, int):
            raise TypeError(f"steps must be a number of training steps (int), got {shown(steps)}")
        if steps < 0:
            raise ValueError(f"steps must be a number of training steps, got {steps}; with 0 nothing is remembered")
        self.steps = steps
        self.kept: dict[Place, float] = {}
        self.measures = steps > 0
        """Whether compiled code is to wait for its steps."""
        self._steps_of: dict[int, int] = {}
        self.meeting: set[tuple[str, int, str]] = set()
        """Lines at which what a comparison decides between meets at the boundary: they need no ramp."""
        self._lines: dict[tuple[str, int, str], Line] = {}
        self._sides: dict[tuple[str, int, str], Sides] = {}

    # --- public ---

    @property
    def remembered(self) -> dict[Place, float]:
        """The half-widths that are kept, by file, line, kind of decision and occurrence in a step."""
        return {
            place: self.kept.get(place, pool.half)
            for line, known in self._lines.items()
            for place, pool in (((*line, nth), known.pools[at]) for nth, at in known.of.items())
            if place in self.kept or pool.told(self.steps)
        }

    def reset(self) -> None:
        """Forget all: the next steps are measured again (data of another scale, another model)."""
        self.kept = {}
        self.measures = self.steps > 0
        for known in (self._steps_of, self.meeting, self._lines, self._sides):
            known.clear()

    def look(self) -> bool:
        """Whether compiled code is to wait for its steps: not if eager mode has measured them."""
        if self.kept and not self._steps_of:
            self.measures = False
        return self.measures

    def measured_by(self, graph: Any) -> None:
        """One of the graphs that are to be compiled has run in eager mode, to measure."""
        many = self._steps_of[id(graph)] = self._steps_of.get(id(graph), 0) + 1
        self.measures = many < self.steps

    def settle(self) -> None:
        """What the steps so far have told is kept, for a graph that is compiled now."""
        for line, known in self._lines.items():
            for nth, at in known.of.items():
                if (*line, nth) not in self.kept and known.pools[at].told(self.steps - 1):  # (the last is not over)
                    self._keep((*line, nth), known.pools[at])

    def state_dict(self) -> dict[str, Any]:
        """What `load_state_dict` needs to go on from here: numbers, strings, tuples and dicts of them."""
        measured = {line: known.state() for line, known in self._lines.items()}
        sides = {line: dict(known.of) for line, known in self._sides.items()}
        return {"kept": dict(self.kept), "measured": measured, "meeting": list(self.meeting), "sides": sides}

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Go on where `state_dict` was taken. Raises KeyError if `state` is something else."""
        if not {"kept", "measured"} <= set(state):
            raise KeyError(
                "state must be what Auto.state_dict() returned, with the entries 'kept' and 'measured', got one with "
                f"the entries {list(state)}; is it the state of something else, or of all, such as a checkpoint?"
            )
        self.kept = dict(state["kept"])
        self.measures = self.steps > 0 and not self.kept
        self._lines = {line: Line.load(known) for line, known in state["measured"].items()}
        self.meeting = set(state.get("meeting", ()))
        self._sides = {line: Sides.load(of) for line, of in state.get("sides", {}).items()}

    def half_width(self, call: Call, /) -> float | Tensor:
        known = self._known(call)
        if known is not None:
            return known
        if call.place is not None:
            d = readable(call.make())
            if d is not None:
                with outside_of_transforms():
                    d = _numbers(d)
                return self._measure(call.place, d, call.learned)
            half = self._measured(call.place)
            if half is not None:
                return half
        if call.kind == "choice":
            return MEDIANS["choice"] * quantile(call.distances, 0.5)
        least, most = (quantile(call.distances, share) for share in (self.LEAST, self.MOST))
        if isinstance(least, Tensor) and isinstance(most, Tensor):
            return torch.full_like(least, self.WINDOW).clamp(least, most)
        return min(max(self.WINDOW, float(least)), float(most))

    def __repr__(self) -> str:
        return '"auto"' if self.steps == 10 else f"sll.Auto(steps={self.steps})"

    # --- memory ---

    @property
    def measured_once(self) -> set[tuple[str, int, str]]:
        """The lines that were measured, if all was measured in one step."""
        once = not any(pool.steps for line in self._lines.values() for pool in line.pools)
        return set(self._lines) if once else set()

    def _known(self, call: Call) -> float | None:
        """What needs no distances."""
        if call.limit < math.inf and call.kind in ("step", "remainder"):
            return call.limit / 2 if call.kind == "remainder" else call.limit
        return None if call.place is None else self.kept.get(call.place)

    def _measured(self, place: Place) -> float | None:
        """What is known where nothing can be read: the width of the decision, or of the last one at its line."""
        line = self._lines.get(place[:3])
        return None if line is None or not line.pools else line.pools[line.of.get(place[3], -1)].half

    def _measure(self, place: Place, d: Any, learned: int = 0) -> float:
        """The width for these distances and those before, in a tensor or (faster) an array of float64."""
        d = abs(d).reshape(-1)
        d = d[(d > 0) & (d < math.inf)]
        found = Distances(0)
        if len(d):
            d = d[d.argsort()]
            found = Distances(len(d), *map(float, (d[(len(d) - 1) // 2], d[0], d[-1])))
        line = self._lines.setdefault(place[:3], Line(MEDIANS.get(place[2], 3.0)))
        pool = line.add(place[3], found, self.steps, learned)
        if pool is None:
            return self.WINDOW
        if pool.kept is not None:
            self._keep(place, pool)
        return self.kept.get(place, pool.half)

    def _keep(self, place: Place, pool: Pool) -> None:
        """The width at this place from now on, and whether a comparison there needs a ramp."""
        sides = self._sides.get(place[:3])
        self.kept[place], meet = agreed(place, (pool.half, sides is not None and sides.meet))
        if meet:
            self.meeting.add(place[:3])

    def arrived(self, place: Place, gradient: Tensor, distance: Tensor, half: float | None = None) -> bool:
        """In backward of a comparison that is measured: whether the sides that it decides between meet."""
        line, sides = self._lines.get(place[:3]), self._sides.setdefault(place[:3], Sides())
        if line is not None and place[3] in line.of:
            sides.add(place[3], gradient, distance, half or line.pools[line.of[place[3]]].half)
        return sides.meet

    def __getstate__(self) -> dict[str, Any]:
        return {"steps": self.steps, **self.state_dict()}

    def __setstate__(self, state: dict[str, Any]) -> None:
        self.__init__(state["steps"])  # type: ignore[misc]
        self.load_state_dict(state)


AUTO = Auto(steps=0)
"""Of what has no line of its own: it remembers nothing."""
