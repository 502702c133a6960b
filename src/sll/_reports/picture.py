"""The picture of a report, and the look of all pictures."""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import PurePath
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure


COLORS: dict[str, str] = {
    "plain": "#000000",
    "straight_through": "#E69F00",
    "sigmoid": "#CC79A7",
    "linear": "#009E73",
    "hard": "#0072B2",
    "auto": "#D55E00",
    "other": "#56B4E9",
}
"""One colour per method, of those by Okabe and Ito, which the colour-blind can tell apart. ``linear``, ``hard`` and
``auto`` are sll's, ``plain`` is the program as it is."""


LINES: dict[str, Any] = {
    "plain": ":",
    "straight_through": "--",
    "sigmoid": "-.",
    "linear": "-",
    "hard": (0, (6, 2)),
    "auto": "-",
    "other": (0, (1, 1, 4, 1)),
}
"""A line style for each key of `COLORS`, for print without colours."""


_INK, _GRID = "#222222", "#DDDDDD"
_STYLE: dict[str, Any] = {
    "figure.dpi": 110,
    "figure.constrained_layout.use": True,
    "axes.edgecolor": _INK,
    "axes.labelcolor": _INK,
    "axes.titlecolor": _INK,
    "axes.titlesize": 10,
    "axes.titlelocation": "left",
    "axes.labelsize": 9,
    "axes.grid": True,
    "axes.axisbelow": True,
    "axes.spines.top": False,
    "axes.spines.right": False,
    "grid.color": _GRID,
    "grid.linewidth": 0.6,
    "text.color": _INK,
    "xtick.color": _INK,
    "ytick.color": _INK,
    "xtick.labelsize": 8,
    "ytick.labelsize": 8,
    "font.size": 9,
    "legend.fontsize": 8,
    "legend.framealpha": 0.9,
    "legend.edgecolor": _GRID,
    "lines.linewidth": 1.6,
}


def _matplotlib() -> Any:
    try:
        import matplotlib
        import matplotlib.figure
        import matplotlib.style
        import matplotlib.ticker
    except ImportError as missing:
        raise ImportError("sll.plot needs matplotlib: pip install matplotlib") from missing
    return matplotlib


@contextmanager
def style() -> Iterator[None]:
    """A block in which matplotlib draws as the pictures of the documentation are drawn: dark on white, a light grid.

    It starts from matplotlib's defaults, so that pictures look the same whatever the user's own settings are, and puts
    those back at its end.

    Raises:
        ImportError: matplotlib is missing.

    Example:
        >>> import sll
        >>> from matplotlib.figure import Figure
        >>> with sll.plot.style():
        ...     figure = Figure(figsize=(4, 3))
        ...     line = figure.subplots().plot([0, 1], color=sll.plot.COLORS["auto"], linestyle=sll.plot.LINES["auto"])
    """
    matplotlib = _matplotlib()
    with matplotlib.rc_context():
        matplotlib.style.use("default")
        matplotlib.rcParams.update(_STYLE)
        yield


def _figure(width: float, height: float) -> Figure:
    figure: Figure = _matplotlib().figure.Figure(figsize=(width, height))
    return figure


_MARKS = {
    "follows": ("o", "other", "follows an earlier decision"),
    "hard": ("s", "plain", "hard: not linearized"),
    "lost": ("X", "auto", "lost: a gradient ends here"),
    "cut": ("D", "sigmoid", "cut: the program leaves autograd"),
    "told": ("D", "plain", "asked only to raise or to log"),
}
"""Of the kinds of rows that have no band: marker, colour and words."""


def draw(rows: Sequence[Any], traced: bool) -> Figure:
    """The picture of the rows; see `sll.plot.report`."""
    if not rows:
        raise ValueError(
            "report has no rows to draw: "
            + (
                "no discrete function ran in the region; run the program in it before region.report()"
                if traced
                else "its region was not traced; make it with linearize(..., trace=True)"
            )
        )
    with style():
        figure = _figure(8.2, 1.5 + 0.3 * max(len(rows), 3))
        shares, gradients = figure.subplots(1, 2, sharey=True, width_ratios=(5, 4))
        _draw_shares(shares, rows)
        _draw_gradients(figure, gradients, rows)
        shares.set_yticks(range(len(rows)), _labels(rows))
        shares.set_ylim(max(len(rows), 3) - 0.4, -0.6)
        figure.draw_without_rendering()
    return figure


def _labels(rows: Sequence[Any]) -> list[str]:
    """File names without their folders, with the innermost folder where two files have one name."""
    files = {row.site.file for row in rows}
    names = Counter(PurePath(file).name for file in files)
    labels = []
    for row in rows:
        parts = PurePath(row.site.file).parts
        name = "/".join(parts[-2:]) if names[parts[-1]] > 1 else parts[-1]
        if len(name) > 30:
            name = "…" + name[-29:]
        labels.append(f"{name}:{row.site.line} ({row.site.op})")
    return labels


def _draw_shares(axes: Axes, rows: Sequence[Any]) -> None:
    for at, row in enumerate(rows):
        if row.kind == "decides":
            axes.barh(at, row.share, color=COLORS["linear"], height=0.62)
            words = f"{row.share:.0%}" if row.share == 0 or row.share >= 0.01 else "< 1%"
            if row.eps is not None:
                low, high = row.eps
                words += f", eps {low:.3g}" if f"{low:.3g}" == f"{high:.3g}" else f", eps {low:.3g} to {high:.3g}"
            if not row.in_band and row.reach is not None:
                words += f"; the nearest is {row.reach[0]:.2g} away"
        else:
            marker, color, words = _MARKS[row.kind]
            axes.plot(0.02, at, marker, color=COLORS[color], markersize=6)
            if row.kind == "lost" and row.lost:
                words += f" (of {len(row.lost)} decision{'s' * (len(row.lost) > 1)})"
            if row.kind == "lost" and not row.in_band:
                words = "ends gradients; none in a band so far"
        start = row.share if row.kind == "decides" else 0.04
        axes.annotate(words, (start, at), (4, 0), textcoords="offset points", va="center", fontsize=8)
    axes.set_xlim(0, 1.4)
    axes.set_xticks([0, 0.25, 0.5, 0.75, 1], ["0", "25", "50", "75", "100"])
    axes.set(title="inputs in the band", xlabel="share of the elements, %")
    axes.grid(axis="y", visible=False)


def _draw_gradients(figure: Figure, axes: Axes, rows: Sequence[Any]) -> None:
    arrived = [(at, row.grad_out) for at, row in enumerate(rows) if row.grad_out is not None]
    passed = [(at, row.grad_in) for at, row in enumerate(rows) if row.grad_in is not None]
    axes.set(title="gradients", xlabel="norm of the gradient")
    axes.grid(axis="y", visible=False)
    axes.tick_params(axis="y", length=0)
    if not arrived and not passed:
        axes.set_xticks([])
        none = "no gradient has arrived: backward has not run,\nor the loss depends on no decision"
        axes.annotate(none, (0.5, 0.5), xycoords="axes fraction", ha="center", va="center")
        return
    positive = [g for _, g in arrived + passed if math.isfinite(g) and g > 0] or [1.0]
    least, most = min(positive), max(positive)
    if most < 30 * least:  # at least one power of ten is inside, or the axis would have no number
        least, most = least / math.sqrt(30 * least / most), most * math.sqrt(30 * least / most)
    axes.set_xscale("log")
    axes.xaxis.set_minor_formatter(_matplotlib().ticker.NullFormatter())
    zero = least / 10 ** max(0.4, 0.12 * math.log10(most / least))

    def place(g: float) -> float:
        return g if g > 0 and math.isfinite(g) else zero

    into = dict(passed)
    for at, g in arrived:
        if at in into:
            axes.plot([place(g), place(into[at])], [at, at], color=_GRID, linewidth=2, zorder=1)
    for found, color, inside, size, label in (
        (arrived, COLORS["hard"], "white", 7, "arrived at the decision"),
        (passed, COLORS["auto"], COLORS["auto"], 4, "passed on to its input"),
    ):
        lines, norms = [at for at, _ in found], [place(g) for _, g in found]
        axes.plot(norms, lines, "o", color=color, markerfacecolor=inside, markersize=size, label=label)
    for at, words in dict.fromkeys((at, f"{g:g}") for at, g in arrived + passed if not (g > 0 and math.isfinite(g))):
        axes.annotate(words, (zero, at), (-7, 0), textcoords="offset points", ha="right", va="center", fontsize=8)
    for at, row in enumerate(rows):
        if row.kind == "decides" and row.grad_out is None:
            axes.annotate("none arrived", (zero, at), ha="left", va="center", fontsize=8, color="#666666")
    width = most / zero
    axes.set_xlim(zero / width**0.06, most * width**0.06)
    figure.legend(loc="outside lower right", ncols=2, frameon=False)
