"""The figures for people: tables on the terminal, and the measured part of docs/performance-measured.md."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from competitors import OPS
from figures import Figure, Results, number
from rich.console import Console
from rich.table import Table
from timing import spread

BEGIN = "<!-- written by: python benchmarks/perf --write docs/performance-measured.md -->"
END = "<!-- end -->"

READING = (
    "Medians over rounds in which all took turns, and in brackets the quartiles of the ratios of single rounds. "
    "Less is better, except for other libraries. ✓ and ✗: the median reaches the target, or not; ~: the limit lies "
    "within the quartiles. Best … worst median: of all figures that have the target."
)


def grid(figures: list[Figure]) -> tuple[list[str], list[tuple[str, dict[str, Figure]]]]:
    columns = list(dict.fromkeys(figure.column for figure in figures))
    rows: dict[str, dict[str, Figure]] = {}
    for figure in figures:
        rows.setdefault(figure.row, {})[figure.column] = figure
    return columns, list(rows.items())


def cell(figure: Figure | None) -> str:
    if figure is None:
        return ""
    return str(figure) + {True: " ✓", False: " ✗", None: ""}[figure.reached] + "~" * figure.close


LISTED = ("program", "region", "times as long", "limit", "reached", "µs", "µs by hand", "fastest by hand")


def line(figure: Figure) -> tuple[str, ...]:
    """A row below `LISTED`."""
    limit = "" if figure.target is None else str(figure.target)
    reached = {True: "yes", False: "NO", None: ""}[figure.reached] + " (close)" * figure.close
    ours, hand = (
        (number(1e6 * spread(seconds)[0]) if seconds else "")
        for seconds in (figure.seconds, [t / ratio for t, ratio in zip(figure.seconds, figure.samples)])
    )
    return figure.row, figure.column, str(figure), limit, reached, ours, hand, figure.base


def summary(results: Results) -> list[tuple[str, ...]]:
    """Rows below `SUMMARY`, counted."""
    rows = []
    for target, figures in results.verdicts():
        values = sorted((figure.median for figure in figures), reverse=target.at_least)
        reached = sum(bool(figure.reached) for figure in figures)
        verdict = "reached" if reached == len(figures) else "not reached" if reached == 0 else "partly reached"
        span = f"{number(values[0])} … {number(values[-1])}"
        rows.append(
            (
                target.text,
                str(target),
                span,
                f"{reached} of {len(figures)}",
                str(sum(f.close for f in figures)),
                verdict,
            )
        )
    return rows


SUMMARY = ("target", "limit", "best … worst median", "figures that reach it", "limit within the quartiles", "verdict")


def facts_line(facts: dict[str, Any]) -> str:
    shown = {key: value for key, value in facts.items() if value not in (None, False)}
    shown["threads"] = " and ".join(map(str, facts["threads"]))
    return "; ".join(f"{key} {value}" if value is not True else key for key, value in shown.items())


def show(results: Results, facts: dict[str, Any], console: Console) -> None:
    console.print(facts_line(facts))
    for name in results.tables():
        if name in results.listed:
            table = Table(*LISTED, title=name, caption=results.captions.get(name))
            for figure in results.worst_first(name):
                table.add_row(*line(figure), style={True: "green", False: "red", None: ""}[figure.reached])
            console.print(table)
            continue
        columns, rows = grid(results.of(name))
        table = Table("", *columns, title=name, caption=results.captions.get(name))
        for row, cells in rows:
            shown = [cell(cells.get(column)) for column in columns]
            table.add_row(row, *(f"[green]{c}[/]" if "✓" in c else f"[red]{c}[/]" if "✗" in c else c for c in shown))
        console.print(table)
    table = Table(*SUMMARY, title="Targets")
    for verdict in summary(results):
        table.add_row(*verdict)
    console.print(table)
    for note in results.notes:
        console.print(f"Note: {note}", markup=False)
    console.print(READING)
    console.print(results.verdict())


def _row(cells: list[str]) -> str:
    return "| " + " | ".join(cell.replace("|", "\\|") for cell in cells) + " |"


def markdown(results: Results, facts: dict[str, Any]) -> str:
    lines = [f"One run: {facts_line(facts)}.", "", READING, ""]
    lines += [_row(list(SUMMARY)), "|---|---:|---:|---:|---:|---|"]
    lines += [_row(list(verdict)) for verdict in summary(results)]
    for name in results.tables():
        columns, rows = grid(results.of(name))
        lines += ["", f"## {name}", "", results.captions.get(name, ""), ""]
        if name in results.listed:
            lines += [_row(list(LISTED)), "|---|---|" + "---:|" * (len(LISTED) - 3) + "---|"]
            lines += [_row(list(line(figure))) for figure in results.worst_first(name)]
            continue
        lines += [_row(["", *columns]), "|---|" + "---:|" * len(columns)]
        lines += [_row([row, *(cell(cells.get(column)) for column in columns)]) for row, cells in rows]
    if any(figure.column in {op.name for op in OPS} for figure in results.figures):
        lines += ["", "The ops: " + ", ".join(f"{op.name} is `{op.text}`" for op in OPS) + "."]
    if results.notes:
        lines += ["", *(f"- {note}" for note in results.notes)]
    return "\n".join(lines)


def replaced(page: str, measured: str) -> str:
    """The page, with the part between the two comments written anew."""
    if page.count(BEGIN) != 1 or END not in page.split(BEGIN)[1]:
        raise SystemExit(f"the page needs the lines\n{BEGIN}\n{END}\nwhere the figures belong")
    before, rest = page.split(BEGIN)
    return f"{before}{BEGIN}\n\n{measured}\n\n{END}{rest.split(END, 1)[1]}"


def write(path: Path, results: Results, facts: dict[str, Any]) -> None:
    path.write_text(replaced(path.read_text(encoding="utf-8"), markdown(results, facts)), encoding="utf-8")
