"""Following a program on request: ``linearize(..., trace=True)``.

A traced region gives every decision a `Watch`. It rides on the half-width, because whoever makes a decision asks for
one: a fixed width is then a `Watched`, a float like any other, and a policy's `Width` has it as an attribute. Without
tracing there is nothing to ride on, and nothing is paid.

A watch notes how far the inputs are from their boundaries and how many are in the band, and hooks the two tensors
between which the slope of the band is: the offset (or the weights), where gradients arrive, and the distance (or the
input), to which they are passed.
"""

from __future__ import annotations

import itertools
import math
import threading
from collections.abc import Iterable
from typing import Any, cast

import torch
from torch import Tensor

from .._ops.callsite import CallSite, short
from .._ops.dtypes import exact_dtype
from .._ops.env import readable
from .._ops.openness import asking, behind
from .._ops.samples import places
from .._ops.statements import only_told
from .._reports.rows import Row

KEPT = 4096
"""Distances remembered per call site."""


class _Site:
    """What is known of one call site: a `Row` in the making."""

    def __init__(self, site: CallSite, kind: str) -> None:
        self.site = site
        self.kind = kind
        self.calls = self.elements = self.in_band = 0
        self.eps: tuple[float, float] | None = None
        self.distance: tuple[float, float] | None = None
        self.limit = 0.0
        self.grad_out: float | None = None
        self.grad_in: float | None = None
        self.lost: dict[CallSite, None] = {}
        self.why = self.keeps_slope = ""
        self.grows = 1.0
        self.measured = True
        self.first_call = -1
        self.last_call: dict[int, int] = {}  # by thread
        self.nearest = math.inf
        self.sample = torch.empty(0, dtype=torch.float64)
        self.sampled = 0
        self.latest: tuple[int, float] = (-1, 0.0)

    def row(self) -> Row:
        known = {name: x for name, x in vars(self).items() if name in Row.__dataclass_fields__}
        known.update(limit=self.limit or math.inf, lost=tuple(self.lost))
        if self.sampled and math.isfinite(self.nearest):
            tenth, half = (float(self.sample.quantile(share)) for share in (0.1, 0.5))
            known["reach"] = (self.nearest, max(tenth, self.nearest), max(half, self.nearest))
        return Row(**known)

    def arrives(self, call: int, norm: float) -> None:
        """Backward comes by with so much: at the last call of a step first."""
        if self.latest[1] == 0 or call > self.latest[0]:
            self.latest = call, norm
        elif math.isfinite(norm):
            self.grows = max(self.grows, norm / self.latest[1])
            self.latest = call, self.latest[1]


class Trace:
    """The call sites of a region."""

    has_inner = False
    """Whether other regions were entered inside the traced one: they decide there."""

    def __init__(self) -> None:
        self._sites: dict[tuple[CallSite, str], _Site] = {}
        self.lock = threading.RLock()
        self._numbers = itertools.count()
        self._thread = threading.local()

    def __reduce__(self) -> Any:
        return Trace, ()  # a copy of a region starts a trace of its own

    def begin(self) -> None:
        """The program calls a torch function. (What rules call on its behalf is not another call.)"""
        self._thread.call = next(self._numbers)
        self._thread.decided = False

    def decided(self) -> bool:
        """Whether the call made a decision."""
        return bool(self._thread.decided)

    def watch(self, site: CallSite) -> Watch:
        self._thread.decided = True
        return Watch(self, site, self._call())

    def _call(self) -> int:
        return getattr(self._thread, "call", -1)

    def at(self, site: CallSite, kind: str, call: int) -> _Site:
        with self.lock:
            found = self._sites.get((site, kind))
            if found is None:
                found = self._sites[site, kind] = _Site(site, kind)
            thread = threading.get_ident()
            if found.last_call.get(thread) != call:
                found.first_call = call if found.calls == 0 else min(call, found.first_call)
                found.last_call[thread] = call
                found.calls += 1
            return found

    def note(self, site: CallSite, kind: str, elements: int, why: str = "") -> _Site:
        if site.file.startswith("<frozen "):
            return _Site(site, kind)  # a module of torch's that is imported just now
        with self.lock:
            found = self.at(site, kind, self._call())
            found.elements += elements
            found.why = why
        return found

    def lose(self, site: CallSite, origins: Iterable[Tensor], elements: int, in_band: int, why: str) -> None:
        found = self.note(site, "told" if only_told() else "lost", elements, why)
        self.ends(found, origins)
        with self.lock:
            found.in_band += in_band

    def ends(self, row: _Site, origins: Iterable[Tensor]) -> None:
        """The gradients of the decisions from which `origins` were computed end there."""
        with self.lock:
            row.lost.update(dict.fromkeys(_decided_at(origins)))

    def rows(self) -> tuple[Row, ...]:
        """In the order in which the program came by. Where a call of one line decides and another passes earlier
        decisions on, the line decides, if any of its own decisions is open.
        """
        with self.lock:
            sites = sorted(self._sites.values(), key=lambda found: found.first_call)  # choices are worked out late
        ran = any(found.grad_out is not None for found in sites)
        for found in sites:
            if found.kind == "decides":
                ends = [other.site for other in sites if found.site in other.lost]
                found.why = found.keeps_slope or _why_nothing_arrives(ends, ran)
        rows = [found.row() for found in sites]
        passes = {row.site for row in rows if row.kind == "follows" and row.in_band}
        rows = [row for row in rows if row.kind != "decides" or row.in_band or row.site not in passes]
        decides = {row.site for row in rows if row.kind == "decides"}
        return tuple(row for row in rows if row.status != "passes it on" or row.site not in decides)


def _why_nothing_arrives(ends: list[CallSite], ran: bool) -> str:
    if ends:
        return f"it ends at {', '.join(map(short, ends))}"
    if ran:
        return "the loss does not depend on them, or an equal decision made before gets it"
    return "backward has not run, or the loss depends on no decision"


class Watch:
    """What one call of a discrete op tells its trace."""

    def __init__(self, trace: Trace, site: CallSite, call: int) -> None:
        self._trace = trace
        self._site = site
        self._call = call
        self._measured = self._counted = False

    def _row(self) -> _Site:
        return self._trace.at(self._site, "decides", self._call)

    def offset(
        self,
        distance: Tensor,
        offset: Tensor,
        half: float | Tensor,
        limit: float | Tensor,
        true_distance: Tensor | None = None,
    ) -> None:
        """A decision for each element: their signed distances, offsets, half-width, and the widest there can be.

        `true_distance`: where the boundary from which `distance` is measured is none (``trunc`` does not jump at 0).
        """
        self.measure(distance if true_distance is None else true_distance, half, limit)
        self._hook(distance, "grad_in")
        self.arrives(offset)

    def measure(self, distance: Tensor, half: float | Tensor, limit: float | Tensor) -> None:
        """The numbers of `offset`, without its hooks."""
        row, shown = self._row(), distance.detach()
        d = readable(shown)
        if d is not None:
            mask = readable(shown.abs() <= half)  # inside vmap each has its own half-width
            inside = 0 if mask is None else int(mask.sum())
            with self._trace.lock:
                row.elements += d.numel()
                row.in_band += inside
                _widths(row, half, limit)
                _distances(row, d)

    def scores(self, z: Tensor, distances: Tensor, half: float | Tensor) -> Tensor:
        """Scores among which something is chosen, and how far the decisions are from changing. Returns the scores to
        go on with.
        """
        row, d = self._row(), None if self._measured else readable(distances)
        if d is not None:
            self._measured = True
            with self._trace.lock:
                _widths(row, half, math.inf)
                _distances(row, d)
        return self.enters(z)

    def enters(self, x: Tensor) -> Tensor:
        """An input of the decision. Returns the input to go on with."""
        if x.requires_grad:
            x = x.view_as(x)  # or the hook would see what else the program does with its tensor
        self._hook(x, "grad_in")
        return x

    def weights(self, weights: Tensor, each: bool = False) -> Tensor:
        """What came of the scores: weights of contenders, the last dimension, or of each element by itself."""
        w = readable(weights)
        if w is not None:
            self.count((w > 0) & (w < 1) if each else w.amax(-1) < 1)
        self.arrives(weights)
        return weights

    def count(self, undecided: Tensor) -> None:
        """A mask with an element for each decision: those in the band. (Weights may be worked out in several ways.)"""
        row, mask = self._row(), None if self._counted else readable(undecided)
        if mask is not None:
            self._counted = True
            many = int(mask.sum())
            with self._trace.lock:
                row.elements += mask.numel()
                row.in_band += many

    def keeps_slope(self, elements: int, why: str) -> None:
        """So many more decisions have no ramp, for the program has a slope of its own there."""
        row = self._row()
        with self._trace.lock:
            row.elements += elements
            row.in_band += elements
            row.keeps_slope = why

    def arrives(self, x: Tensor) -> None:
        """`x` is what the decision passes gradients on from."""
        self._hook(x, "grad_out")
        if x.grad_fn is not None:
            cast(Any, x.grad_fn).metadata[_MADE_AT] = self._site

    def _hook(self, x: Tensor, what: str) -> None:
        """Notes the norm of the gradients of `x`, all together."""
        row = self._row()
        if torch._C._functorch.is_functorch_wrapped_tensor(x):
            row.measured = False
        if not x.requires_grad or torch._C._functorch.is_functorch_wrapped_tensor(x):
            return
        lock = self._trace.lock
        exact = exact_dtype(x)

        def hook(g: Tensor) -> None:
            if asking() or torch._C._functorch.is_functorch_wrapped_tensor(g):
                return
            norm = float(torch.linalg.vector_norm(g.detach().to(exact), dtype=exact))
            with lock:
                setattr(row, what, math.hypot(getattr(row, what) or 0.0, norm))
                if what == "grad_out":
                    row.arrives(self._call, norm)

        x.register_hook(hook)  # type: ignore[no-untyped-call]


_MADE_AT = "sll: decision made at"


def _decided_at(tensors: Iterable[Tensor]) -> list[CallSite]:
    """The call sites of the decisions from which these were computed."""
    return list(behind([x.grad_fn for x in tensors], lambda node: node.metadata.get(_MADE_AT)))


def _widths(row: _Site, half: float | Tensor, limit: float | Tensor) -> None:
    low = high = half
    if isinstance(half, Tensor):
        plain = readable(half)
        if plain is None or not plain.numel():
            return
        low, high = float(plain.min()), float(plain.max())
    low, high = float(low), float(high)
    row.eps = (low, high) if row.eps is None else (min(row.eps[0], low), max(row.eps[1], high))
    if isinstance(limit, Tensor):
        widest = readable(limit)
        limit = float(widest.max()) if widest is not None and widest.numel() else math.inf
    row.limit = max(row.limit, limit)


def _distances(row: _Site, d: Tensor) -> None:
    d = d[d.isfinite()]
    if not d.numel():
        return
    low, high = float(d.min()), float(d.max())
    row.distance = (low, high) if row.distance is None else (min(row.distance[0], low), max(row.distance[1], high))
    size = d.abs()
    size = size[size > 0]
    if not size.numel():
        return
    row.nearest = min(row.nearest, float(size.min()))
    old, new = row.sampled, size.numel()
    row.sampled = old + new
    # Calls have as much weight in the sample as they have elements.
    keep = round(KEPT * new / (old + new)) if old + new > KEPT else new
    fresh = _some(size, keep).to("cpu", torch.float64)
    row.sample = torch.cat([_some(row.sample, min(old, KEPT - fresh.numel())), fresh])


def _some(x: Tensor, many: int) -> Tensor:
    n = x.numel()
    return x if n <= many else x[places(many, n, x.device)]
