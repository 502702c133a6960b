"""The user's program at other values: as it is, in the region, and with its decisions seen."""

from __future__ import annotations

import math
import random
import sys
from collections.abc import Callable, Iterable, Mapping
from typing import Any, NamedTuple

import torch
from torch import Tensor

from .._mode.watching import Trace, Watch
from .._ops.callsite import CallSite, call_site
from .._rules.widths import Width
from ..policies import Call, kind_of
from ..programs import Program
from ..region import linearize

Values = Mapping[str, Tensor]


class Unusable(ValueError):
    """The program has no number there: it raised, or returned NaN or infinity."""


class Spent(Unusable):
    """There were as many runs as there may be."""


class Runs:
    """Of one program. Each starts from the same state and, with the same `seed`, draws the same random numbers."""

    many = 0
    """So many there were."""

    def __init__(
        self, program: Program, put: Callable[[], None], moved: Values, loss: Callable[[Any], Any], most: int
    ) -> None:
        self.program, self.put, self.loss, self.most = program, put, loss, most
        self.base = {name: x.detach().clone() for name, x in moved.items()}
        self.leaves = {name: x for name, x in moved.items() if name not in program.given}
        """What is moved, and is no argument: it is written to."""

    def hard(self, values: Values, seed: int) -> float:
        """The value of the program itself."""
        with torch.no_grad():
            args, kwargs, _ = self._prepared(values, seed)
            return finite(float(self.program.run(args, kwargs, self.loss)), "what fn returns")

    def inside(self, region: linearize, values: Values, seed: int) -> tuple[float, dict[str, Tensor]]:
        """Value and gradients in the region."""
        with torch.enable_grad():
            args, kwargs, inputs = self._prepared(values, seed)
            inputs = {name: x for name, x in {**inputs, **self.leaves}.items() if name in self.base}
            loss = self.program.run(args, kwargs, self.loss, region)
            value = finite(float(loss.detach()), "what fn returns in the region")
            found: Iterable[Tensor | None] = [None] * len(inputs)
            if loss.requires_grad:
                found = torch.autograd.grad(loss, list(inputs.values()), allow_unused=True)
        grads = {name: torch.zeros_like(x) if g is None else g for (name, x), g in zip(inputs.items(), found)}
        return value, grads

    def _prepared(self, values: Values, seed: int) -> Any:
        if self.many >= self.most:
            raise Spent(f"{self.most} runs were not enough; raise runs=, or lower directions= or points=")
        self.many += 1
        self.put()
        with torch.no_grad():
            for name, x in self.leaves.items():
                x.copy_(values.get(name, self.base[name]))
        _seed(seed)
        return self.program.copies({**self.base, **values})


def finite(x: float, what: str) -> float:
    """`x`, if it is a number."""
    if not math.isfinite(x):
        raise Unusable(f"{what} is {x}, so there is nothing to compare; check fn at other arguments")
    return x


def _seed(seed: int) -> None:
    """As `torch.manual_seed`, which formats the stack each time for devices that are not in use."""
    torch.default_generator.manual_seed(seed)
    if torch.cuda.is_initialized():  # type: ignore[no-untyped-call]
        torch.cuda.manual_seed_all(seed)
    random.seed(seed)
    numpy = sys.modules.get("numpy")
    if numpy is not None:
        numpy.random.seed(seed % 2**32)


# --- decisions seen --------------------------------------------------------------------------------------------------


class Decided(NamedTuple):
    """The decisions of one call, by element: how far they are from their boundary, and how wide the band is."""

    site: CallSite
    distance: Tensor
    half: Tensor


class _Eye(Watch):
    def measure(self, distance: Tensor, half: float | Tensor, limit: float | Tensor) -> None:
        self._see(distance, half)
        super().measure(distance, half, limit)

    def scores(self, z: Tensor, distances: Tensor, half: float | Tensor) -> Tensor:
        self._see(distances, half)
        return super().scores(z, distances, half)

    def _see(self, distance: Tensor, half: float | Tensor) -> None:
        d = distance.detach().to("cpu", torch.float64)
        widths = torch.as_tensor(half, dtype=torch.float64).detach().cpu().broadcast_to(d.shape)
        assert isinstance(self._trace, _Seen)
        self._trace.decided_so_far.append(Decided(self._site, d.flatten(), widths.flatten()))


class _Seen(Trace):
    def __init__(self) -> None:
        super().__init__()
        self.decided_so_far: list[Decided] = []

    def watch(self, site: CallSite) -> Watch:
        self._thread.decided = True
        return _Eye(self, site, self._call())


def seeing(**options: Any) -> tuple[linearize, list[Decided]]:
    """A region with a trace, and the list that its decisions come into."""
    region = linearize(**options, trace=True, on_lost="ignore")
    region.trace = seen = _Seen()
    return region, seen.decided_so_far


# --- one line with another band --------------------------------------------------------------------------------------


class Narrowed(linearize):
    """A region in which the band of one line is so many times as wide."""

    def __init__(self, line: tuple[str, int], times: float, **options: Any) -> None:
        super().__init__(**options, on_lost="ignore")
        self._line, self._times = line, times
        self.fixed = {}  # each call is asked for its line

    def eps_for(self, op: str, called: str = "") -> float | Width:
        eps = super().eps_for(op, called)
        if call_site(op)[:2] != self._line:
            return eps
        if isinstance(eps, Width):
            return Width(_Times(eps, self._times), kind_of(op))
        return type(eps)(eps * self._times)


class _Times:
    """A policy that answers so many times what a width does."""

    def __init__(self, width: Width, times: float) -> None:
        self._width, self._times, self.SOFT = width, times, width.soft

    def half_width(self, call: Call, /) -> float | Tensor:
        return self._width.at(call.make, call.limit) * self._times
