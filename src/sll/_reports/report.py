"""What a region has to say, as a table: in a terminal, as text, as HTML."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, Literal

from .._ops.callsite import CallSite, relative, short
from .rows import EpsUsed, Followed, Row
from .tables import as_html, as_text

if TYPE_CHECKING:
    from matplotlib.figure import Figure
    from rich.console import Console, ConsoleOptions, RenderResult
    from rich.table import Table

_APPROXIMATE = {
    "flips": "flips were too many to follow and count with their local gradient. A smaller eps opens fewer",
    "joint": "decisions are in their band together with one that they depend on, or one about an equal number: each "
    "counts by itself. A smaller eps opens fewer",
    "ties": "numbers are exactly at the boundary, as what relu or clamp cut off is: half of the jump is seen. Decide "
    "on what was cut",
    "terms": "integers are made of decisions of different weight that are too many to tell apart, or whose weights are "
    "not known: the integers next to them were taken",
    "blend": "elements of floats are in a band, in which decisions have met: only their blend is known here. Count "
    "bools or integers",
    "outcomes": "elements have several decisions in their band, which are more than are kept together",
    "places": "elements are of several places of one order, which do not change one by one. Sums, any, all and matrix "
    "products of them know that",
    "views": "elements are written to, of which somebody has a view: it shows what is decided there, without a "
    "gradient. Take views after the write",
    "again": "elements are chosen among, of which an open decision has masked some: the choice sees what the mask "
    'leaves. Use topk or a ranking, or forward="hard"',
    "wraps": "integers wrapped around, of which the sum was followed. Add them as int64",
    "equal": "elements are compared of which the largest are equal, and were decided: their gradient is torch's. Write "
    'mask.any(), or use forward="hard"',
}


@dataclass(frozen=True)
class Report:
    """What happened in a region, all that was run in it so far: calls per call site.

    ``print(report)`` and ``rich.print(report)`` show it as a table, notebooks as HTML.
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
    """Elements, or flips, whose gradient is not exactly that of the forward mode; `why` says what the case is."""

    flips: dict[CallSite, Followed] = field(default_factory=dict)
    """With ``linearize(..., paths=N)``: the answers that Python was given and that might be others."""

    cut: dict[CallSite, int] = field(default_factory=dict)
    """Calls that decide under `torch.no_grad`, or detach what is decided: gradients end there for the program says so.
    With ``linearize(..., see_through=True)`` they go on. And calls that decide in a `torch.autograd.Function`, under
    its name: what counts is the derivative that it has.
    """
    left: dict[CallSite, int] = field(default_factory=dict)
    """Masks and indices that nothing in the region used, and that were there when it ended: then they carry nothing.
    (Of the first ten times.)
    """
    why: dict[CallSite, str] = field(default_factory=dict)
    """Of call sites in `approximate`: ``"flips"``, ``"terms"``, ``"blend"``, ``"outcomes"``, ``"places"``, ``"again"``,
    ``"equal"``, ``"views"``, ``"wraps"``, ``"joint"`` or ``"ties"``.
    """

    def to_dict(self) -> dict[str, Any]:
        """All of it as plain dicts, lists, strings and numbers, for JSON."""

        def listed(of: dict[CallSite, Any], name: str = "") -> list[dict[str, Any]]:
            return [{**site._asdict(), **({name: x} if name else x._asdict())} for site, x in of.items()]

        return {
            "traced": self.traced,
            "rows": [row.to_dict() for row in self.rows],
            "lost": listed(self.lost, "calls"),
            "infinite_jumps": listed(self.infinite_jumps, "elements"),
            "approximate": listed(self.approximate, "flips"),
            "cut": listed(self.cut, "calls"),
            "left": listed(self.left, "tensors"),
            "eps": listed(self.eps),
            "flips": listed(self.flips),
        }

    def to_pandas(self) -> Any:
        """A `pandas.DataFrame`, one line per row.

        Raises ValueError if nothing was traced, ImportError without pandas.
        """
        if not self.traced:
            raise ValueError("to_pandas() needs a traced region: sll.linearize(..., trace=True)")
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
        from .picture import draw

        return draw(self.rows, self.traced)

    def __str__(self) -> str:
        rows = self._lines()
        table = ["", *as_text(_COLUMNS, rows, _NUMBERS), ""] if self.traced or rows else []
        return "\n".join([self._title(), *table, *self._notes()])

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
        return as_html(self._title(), _COLUMNS, self._lines(), self._notes())

    def _title(self) -> str:
        if not self.traced:
            return "Lost gradients, and widths that a policy chose. With trace=True: every call site."
        made = [row for row in self.rows if row.kind == "decides"]
        reached = sum(bool(row.grad_in) for row in made)
        return f"{len(made)} call site{'s' * (len(made) != 1)} decide{'s' * (len(made) == 1)}; gradients pass {reached}"

    def _notes(self) -> list[str]:
        notes = [f"{short(row.site)}: {row.verdict}" for row in self.rows if row.status in _TELL or row.doubt]
        notes += [f"{short(row.site)}: {row.verdict}" for row in flip_rows(self.flips)]
        notes += [
            f"{short(site)}: {n} elements in the band whose outcomes do not differ by a finite amount: hard value, no "
            "gradient"
            for site, n in self.infinite_jumps.items()
        ]
        notes += [
            f"{short(site)}: approximate; {n} {_APPROXIMATE[self.why.get(site, 'flips')]}"
            for site, n in self.approximate.items()
        ]
        notes += [
            f"{short(site)}: decides without gradients in {n} calls, or is detached; see_through=True looks through. "
            "(A torch.autograd.Function keeps its own derivative.)"
            for site, n in self.cut.items()
        ]
        notes += [
            f"{short(site)}: masks or indices that the region did not use were there when it ended ({n}). Outside they "
            "have no gradient. Use them inside."
            for site, n in self.left.items()
        ]
        if not self.lost and not self.left:
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
        rows += [Row(site, "cut", calls, 0) for site, calls in self.cut.items()]
        rows += flip_rows(self.flips)
        blank = ("", "")
        said = {"lost": "gradients end", "cut": "leaves autograd", "flip": "ran again"}
        return [(*_cells(r)[:3], *blank, _cells(r)[5], *blank, "", said.get(r.kind, "")) for r in rows]


def flip_rows(flips: dict[CallSite, Followed]) -> list[Row]:
    """A row for each line at which Python asked for what was open."""
    return [
        Row(site, "flip", of.open, of.open, of.run, weight=of.weight, difference=of.difference)
        for site, of in flips.items()
    ]


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
        f"{relative(row.site.file)}:{row.site.line}",
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


def _norm(x: float | None) -> str:
    return "-" if x is None else f"{x:.3g}"


def _between(ends: tuple[float, float] | None) -> str:
    if ends is None:
        return ""
    low, high = (f"{x:.3g}" for x in ends)
    return low if low == high else f"{low} … {high}"
