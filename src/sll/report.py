"""What a region has to say: which gradients it could not keep, which widths were used and, traced, what became of each
decision.
"""

from __future__ import annotations

import html
import math
import os
import sys
import sysconfig
import warnings
from collections import Counter
from collections.abc import Callable
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass, field
from types import FrameType
from typing import TYPE_CHECKING, Any, Literal, NamedTuple

import torch
from torch import Tensor

if TYPE_CHECKING:
    from matplotlib.figure import Figure
    from rich.console import Console, ConsoleOptions, RenderResult
    from rich.table import Table

__all__ = ["CallSite", "EpsUsed", "LostGradientError", "LostGradientWarning", "Report", "Row", "call_site"]


class LostGradientWarning(UserWarning):
    """A decision inside its band reached a function through which its linearization cannot follow."""


class LostGradientError(RuntimeError):
    """The same as `LostGradientWarning`, raised with ``on_lost="error"``."""


class CallSite(NamedTuple):
    """The line of the program at which something happened, and the torch function it called there."""

    file: str
    line: int
    op: str

    def __str__(self) -> str:
        return f"{self.file}:{self.line} ({self.op})"


_OURS = os.path.dirname(os.path.abspath(__file__)) + os.sep
_DEMO = os.path.join(_OURS, "demo.py")  # a program like any other
_TORCH = os.path.dirname(os.path.abspath(torch.__file__)) + os.sep


def is_internal(file: str) -> bool:
    """Whether `file` is a part of ours or of torch, where no user looks for a mistake."""
    return file.startswith((_OURS, _TORCH)) and file != _DEMO


def call_site(op: str) -> CallSite:
    """The line a user can change."""
    frame = _frame()
    return CallSite(frame.f_code.co_filename, frame.f_lineno, op)


def _frame() -> FrameType:
    """The innermost that is neither ours nor torch's."""
    frame = sys._getframe(1)
    while frame.f_back is not None and is_internal(frame.f_code.co_filename):
        frame = frame.f_back
    return frame


class EpsUsed(NamedTuple):
    """The half-widths that a policy chose at one call site."""

    calls: int
    smallest: float
    largest: float


@dataclass(frozen=True)
class Row:
    """What became of one call site, all its calls together. Lengths are in the units of the op's input.

    Attributes:
        site: the line and the torch function.
        kind: ``"decides"``; ``"follows"`` (an earlier decision decides here as well, as in ``round(10 * sign(x))``);
            ``"hard"`` (a discrete function that was not linearized); ``"lost"`` (consumes a decision without passing
            its gradient on); ``"cut"`` (the program itself leaves autograd: ``detach``, ``item`` of a float).
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
        measured: False if some of the gradients could not be seen, inside transforms of `torch.func`.
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
    measured: bool = True

    @property
    def share(self) -> float:
        """``in_band / elements``; 0 if there are no elements."""
        return self.in_band / self.elements if self.elements else 0.0

    @property
    def status(self) -> str:
        """In two or three words: do gradients pass here?"""
        if self.kind == "lost":
            return "LOST here" if self.in_band else "would be lost"
        if self.kind == "follows":
            return "passes it on" if self.in_band or not self.elements else "decided before"
        if self.kind != "decides":
            return {"hard": "not linearized", "cut": "leaves autograd"}[self.kind]
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
        if self.kind == "follows":
            return "nothing is open here any more: for each element the earlier decisions lead to the same result"
        if self.kind == "lost":
            source = ", ".join(map(short, self.lost))
            said = f"ends the gradient{' of ' + source if source else ''}. {_sentence(self.why)}"
            return said if self.in_band else f"{said} (Nothing was in its band so far: nothing is lost yet.)"
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
        return f"gets gradients: {within}"

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
        return {
            "file": self.site.file,
            "line": self.site.line,
            "op": self.site.op,
            "kind": self.kind,
            "calls": self.calls,
            "elements": self.elements,
            "in_band": self.in_band,
            "share": self.share,
            "eps": _plain(self.eps),
            "distance": _plain(self.distance),
            "reach": _plain(self.reach),
            "limit": _plain(self.limit),
            "grad_out": _plain(self.grad_out),
            "grad_in": _plain(self.grad_in),
            "measured": self.measured,
            "lost": [{"file": site.file, "line": site.line, "op": site.op} for site in self.lost],
            "why": self.why,
            "status": self.status,
            "verdict": self.verdict,
        }


def _plain(x: Any) -> Any:
    if isinstance(x, tuple):
        return [_plain(item) for item in x]
    return x if x is None or math.isfinite(x) else None


def _up(x: float) -> str:
    """Two digits, rounded up: a width that is wide enough."""
    if not math.isfinite(x) or x <= 0:
        return f"{x:g}"
    unit = 10.0 ** (math.floor(math.log10(x)) - 1)
    return f"{math.ceil(x / unit - 1e-9) * unit:.2g}"


def short(site: CallSite) -> str:
    return f"{_relative(site.file)}:{site.line} ({site.op})"


def _relative(file: str) -> str:
    """A path as a reader looks for it: from the working directory, or from where packages are installed."""
    for start in (os.getcwd(), sysconfig.get_paths()["purelib"]):
        if file.startswith(start + os.sep):
            file = file[len(start) + 1 :]
            break
    return file if len(file) <= 60 else os.sep.join(["…", *file.split(os.sep)[-3:]])[-60:]


@dataclass(frozen=True)
class Report:
    """What happened in a region, all that was run in it so far: calls per call site.

    ``print(report)`` and ``rich.print(report)`` show it as a table (as plain text without rich), notebooks as HTML.
    """

    lost: dict[CallSite, int]
    """A linearized bool or integer reached a function through which its gradient cannot follow."""
    infinite_jumps: dict[CallSite, int]
    """Elements in the band whose two outcomes do not differ by a finite amount: hard value, no gradient."""
    eps: dict[CallSite, EpsUsed]
    """The half-widths that a policy chose, for results that were used. A fixed eps is not noted, nor what is
    compiled.
    """
    rows: tuple[Row, ...] = field(default=())
    """With ``linearize(..., trace=True)``, one for each call site, in the order in which the program came by. Gradient
    norms are there once backward has run.
    """
    traced: bool = False
    approximate: dict[CallSite, int] = field(default_factory=dict)
    """With ``forward="hard"``: flips that were too many to follow, and count with their local gradient."""

    def to_dict(self) -> dict[str, Any]:
        """All of it as plain dicts, lists, strings and numbers, for JSON."""

        def listed(counts: dict[CallSite, Any], name: str) -> list[dict[str, Any]]:
            return [{"file": s.file, "line": s.line, "op": s.op, name: n} for s, n in counts.items()]

        return {
            "traced": self.traced,
            "rows": [row.to_dict() for row in self.rows],
            "lost": listed(self.lost, "calls"),
            "infinite_jumps": listed(self.infinite_jumps, "elements"),
            "approximate": listed(self.approximate, "flips"),
            "eps": [{"file": s.file, "line": s.line, "op": s.op, **used._asdict()} for s, used in self.eps.items()],
        }

    def to_pandas(self) -> Any:
        """A `pandas.DataFrame`, one line per row.

        Raises ValueError if nothing was traced, ImportError without pandas.
        """
        self._need_rows("to_pandas()")
        try:
            import pandas  # type: ignore[import-untyped]
        except ImportError:
            raise ImportError("Report.to_pandas() needs pandas: pip install pandas; to_dict() does without") from None
        columns = list(Row(CallSite("", 0, ""), "decides", 0, 0).to_dict())
        return pandas.DataFrame([row.to_dict() for row in self.rows], columns=columns)

    def plot(self) -> Figure:
        """A picture of the rows, a `matplotlib.figure.Figure`; see `sll.plot.report`. Raises ValueError if nothing was
        traced, ImportError without matplotlib.
        """
        from . import plot

        return plot.report(self)

    def _need_rows(self, what: str) -> None:
        if not self.traced:
            raise ValueError(f"{what} needs a traced region: sll.linearize(..., trace=True)")

    def __str__(self) -> str:
        try:
            from rich.console import Console
        except ImportError:
            return self._text()
        console = Console(file=_Nowhere(), width=200, record=True, force_jupyter=False, color_system=None)  # type: ignore[arg-type]
        console.print(self, soft_wrap=True)
        return "\n".join(line.rstrip() for line in console.export_text().splitlines()).strip("\n")

    def __rich_console__(self, console: Console, options: ConsoleOptions) -> RenderResult:
        from rich.text import Text

        yield Text(self._title(), style="bold")
        table = self._table(())
        for i in range(1, len(_LEAVE_OUT) + 1):  # a narrow terminal shows less
            if console.measure(table, options=options.update(max_width=1000)).maximum <= options.max_width:
                break
            table = self._table(_LEAVE_OUT[:i])
        if self.traced or table.row_count:
            yield table
        yield from map(Text, self._notes())

    def _table(self, without: tuple[str, ...]) -> Table:
        from rich import box
        from rich.table import Table
        from rich.text import Text

        shown = [i for i, name in enumerate(_COLUMNS) if name not in without]
        table = Table(box=box.SIMPLE_HEAD, padding=(0, 1))
        for i in shown:
            name = _COLUMNS[i]
            fold: Literal["fold", "ellipsis"] = "fold" if name == "line" else "ellipsis"
            table.add_column(
                name,
                justify="right" if name in _NUMBERS else "left",
                no_wrap=name != "line",
                overflow=fold,
                min_width=16 if name == "line" else None,
            )
        colours = {"gets gradients": "green", "passes it on": "green", "LOST here": "red", "out of reach": "yellow"}
        for cells in self._lines():
            table.add_row(*[Text(cells[i], style=colours.get(cells[i], "")) for i in shown])
        return table

    def _repr_html_(self) -> str:
        head = "".join(f"<th>{name}</th>" for name in _COLUMNS)
        body = "".join(
            "<tr>" + "".join(f"<td>{html.escape(cell)}</td>" for cell in row) + "</tr>" for row in self._lines()
        )
        notes = "".join(f"<li>{html.escape(note)}</li>" for note in self._notes())
        return (
            f"<div><b>{html.escape(self._title())}</b>"
            f"<table><thead><tr>{head}</tr></thead><tbody>{body}</tbody></table><ul>{notes}</ul></div>"
        )

    def _text(self) -> str:
        lines = [_COLUMNS, *self._lines()]
        widths = [max(len(line[i]) for line in lines) for i in range(len(_COLUMNS))]
        table = ["  ".join(cell.ljust(width) for cell, width in zip(line, widths)).rstrip() for line in lines]
        return "\n".join([self._title(), "", *table, "", *self._notes()])

    def _title(self) -> str:
        if not self.traced:
            return "Lost gradients, and widths that a policy chose. With trace=True: every call site."
        made = [row for row in self.rows if row.kind == "decides"]
        reached = sum(bool(row.grad_in) for row in made)
        return f"{len(made)} call site{'s' * (len(made) != 1)} decide{'s' * (len(made) == 1)}; gradients pass {reached}"

    def _notes(self) -> list[str]:
        notes = [f"{short(row.site)}: {row.verdict}" for row in self.rows if row.status in _TELL]
        notes += [
            f"{short(site)}: {n} elements in the band whose outcomes do not differ by a finite amount: hard value, no "
            "gradient"
            for site, n in self.infinite_jumps.items()
        ]
        notes += [
            f"{short(site)}: approximate; {n} flips were too many to follow and count with their local gradient. "
            "A smaller eps opens fewer"
            for site, n in self.approximate.items()
        ]
        if not self.lost:
            notes.append(
                "No decision's gradient was lost."
                if self.traced
                else "No mask or index ended where a gradient cannot follow. Whether gradients passed is not known: "
                "trace=True tells."
            )
        if self.traced and any(row.kind == "decides" for row in self.rows):
            notes.append(
                "distance: of inputs to their decision boundary; arrived, passed on: norms of the gradients at the "
                "decisions and behind their bands"
            )
        return notes

    def _lines(self) -> list[tuple[str, ...]]:
        if self.traced:
            return [_cells(row) for row in self.rows]
        rows = [Row(s, "decides", e.calls, 0, eps=(e.smallest, e.largest)) for s, e in self.eps.items()]
        rows += [Row(site, "lost", calls, 0) for site, calls in self.lost.items()]
        blank = ("", "")
        return [(*_cells(r)[:3], *blank, _cells(r)[5], *blank, "", "gradients end" * (r.kind == "lost")) for r in rows]


_COLUMNS = ("line", "op", "calls", "elements", "in band", "eps", "distance", "arrived", "passed on", "")
_NUMBERS = _COLUMNS[2:9]
_TELL = {
    "LOST here",
    "would be lost",
    "out of reach",
    "not linearized",
    "no gradient arrives",
    "decided before",
    "not measured",
    "leaves autograd",
}
"""What is told in a sentence below the table."""
_LEAVE_OUT = ("distance", "calls", "eps", "arrived", "elements")
"""Columns that a narrow terminal goes without, in this order."""


def _cells(row: Row) -> tuple[str, ...]:
    decides = row.kind == "decides"
    return (
        f"{_relative(row.site.file)}:{row.site.line}",
        row.site.op,
        str(row.calls),
        str(row.elements),
        f"{100 * row.share:.3g} %" if decides and row.elements else "",
        _between(row.eps),
        _between(row.distance),
        _norm(row.grad_out) if decides else "",
        _norm(row.grad_in) if decides else "",
        row.status,
    )


def _sentence(x: str) -> str:
    return x[:1].upper() + x[1:]


def _norm(x: float | None) -> str:
    return "-" if x is None else f"{x:.3g}"


def _between(ends: tuple[float, float] | None) -> str:
    if ends is None:
        return ""
    low, high = (f"{x:.3g}" for x in ends)
    return low if low == high else f"{low} … {high}"


class _Nowhere:
    """A file that keeps nothing: rich records what it prints."""

    def write(self, text: str) -> int:
        return len(text)

    def flush(self) -> None:
        pass


def outside_of_transforms() -> AbstractContextManager[Any]:
    """Leaves those of `torch.func` for a moment. (torch 2.6 imports sympy for it, which takes a second.)"""
    from torch._functorch.pyfunctorch import temporarily_clear_interpreter_stack

    return temporarily_clear_interpreter_stack()  # type: ignore[no-any-return, no-untyped-call, unused-ignore]


def unwrapped(x: Tensor) -> Tensor:
    """What transforms of `torch.func` wrap: inside vmap, the whole batch."""
    while torch._C._functorch.is_functorch_wrapped_tensor(x):
        x = torch._C._functorch.get_unwrapped(x)
    return x


def numbers(x: Tensor) -> Tensor | None:
    """`x` to read numbers from, `unwrapped`; None where there are none (meta tensors, somebody traces or fakes)."""
    x = unwrapped(x)
    if x.device.type == "meta" or torch._C._len_torch_dispatch_stack() > 0:
        return None
    with outside_of_transforms():
        return x.detach()


class Widths:
    """Collects half-widths per call site. Those on another device are compared there, and read when somebody asks."""

    def __init__(self) -> None:
        self._used: dict[CallSite, tuple[int, Any, Any]] = {}

    def add(self, site: CallSite, half: float | Tensor) -> None:
        low = high = half
        if isinstance(half, Tensor):
            found = numbers(half)
            if found is None:
                return
            half = found
            with outside_of_transforms():  # or the result would belong to the transform, and end with it
                low, high = half.amin(), half.amax()
        calls, lowest, highest = self._used.get(site, (0, low, high))
        with outside_of_transforms() if isinstance(half, Tensor) else nullcontext():
            self._used[site] = (calls + 1, _first(lowest, low, torch.minimum), _first(highest, high, torch.maximum))

    def summary(self) -> dict[CallSite, EpsUsed]:
        return {site: EpsUsed(calls, float(low), float(high)) for site, (calls, low, high) in self._used.items()}


def _first(a: Any, b: Any, order: Callable[[Tensor, Tensor], Tensor]) -> Any:
    """The smaller or the larger."""
    if isinstance(a, Tensor) or isinstance(b, Tensor):
        at = a.device if isinstance(a, Tensor) else b.device
        return order(torch.as_tensor(a, device=at), torch.as_tensor(b, device=at))
    return min(a, b) if order is torch.minimum else max(a, b)


class Lost:
    """Counts lost linearizations per call site, and warns or raises once per call site."""

    def __init__(self, on_lost: str) -> None:
        self.on_lost = on_lost
        self.calls: Counter[CallSite] = Counter()
        self._said: set[CallSite] = set()

    def add(self, op: str, undecided: object, why: str) -> None:
        """`undecided` is a thunk: reading it synchronises with the device, so it is only called when somebody
        listens.
        """
        site = call_site(op)
        self.calls[site] += 1
        if self.on_lost == "ignore" or site in self._said or not undecided():  # type: ignore[operator]
            return
        self._said.add(site)
        message = f"the gradient of a decision inside its band ends at {op}: {why}"
        if self.on_lost == "error":
            raise LostGradientError(f"{site.file}:{site.line}: {message}")
        warnings.warn_explicit(
            message + ' Pass on_lost="ignore" to linearize() if that is intended.',
            LostGradientWarning,
            site.file,
            site.line,
            # Python's memory of what was said at which line: also when every step of a loop makes its own region.
            registry=_frame().f_globals.setdefault("__warningregistry__", {}),
        )
