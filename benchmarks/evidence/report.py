"""The table, on the console and in Markdown, and the figure."""

from __future__ import annotations

import math
import statistics
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from matplotlib.figure import Figure  # without pyplot: draws with Agg, and needs no display
from methods import AUTO, PLAIN, find
from rich.console import Console
from rich.table import Table
from scipy.stats import rankdata
from tasks import TASKS

Result = dict[str, Any]
Finals = dict[str, dict[str, list[Result]]]
"""Method, then task, then one result per seed."""

# Colours of Okabe and Ito, which the colour-blind can tell apart; the first prefix that fits.
COLOURS = {
    "plain": "#000000",
    "straight": "#E69F00",
    "clipped": "#E69F00",
    "sigmoid": "#CC79A7",
    "gumbel": "#CC79A7",
    "snntorch": "#F0E442",
    "softtorch": "#56B4E9",
    "published": "#D55E00",
    AUTO: "#009E73",
    "sll": "#0072B2",
    "": "#999999",
}


@dataclass(frozen=True)
class Cell:
    """A method on a task."""

    scores: list[float]
    """Test scores, higher is better; empty if a seed failed."""
    error: str | None
    diverged: int
    runs: int
    gaps: list[float]
    seconds: list[float]

    @property
    def mean(self) -> float:
        return statistics.mean(self.scores) if self.scores else -math.inf

    @property
    def std(self) -> float:
        return statistics.stdev(self.scores) if len(self.scores) > 1 else 0.0


def cell(results: list[Result]) -> Cell:
    errors = [result["error"] for result in results if "error" in result]
    good = [result for result in results if "error" not in result]
    return Cell(
        scores=[] if errors else [result["test"] for result in good],
        error=errors[0] if errors else None,
        diverged=sum(result["diverged"] for result in good) + len(errors),
        runs=len(results),
        gaps=[result["in_training"] - result["validation"] for result in good],
        seconds=[result["seconds"] for result in good],
    )


@dataclass(frozen=True)
class Summary:
    cells: dict[str, dict[str, Cell]]
    """Method, then task."""

    @property
    def methods(self) -> list[str]:
        return list(self.cells)

    @property
    def tasks(self) -> list[str]:
        return [name for name in TASKS if any(name in row for row in self.cells.values())]

    def ranked(self, task: str) -> dict[str, float]:
        """Rank of each method on a task, 1 is best; searches without derivatives are for scale and have none."""
        names = [name for name, row in self.cells.items() if task in row and find(name).search is None]
        ranks = rankdata([-self.cells[name][task].mean for name in names])
        return dict(zip(names, ranks.tolist()))

    def rank(self, method: str) -> float | None:
        found = [ranks[method] for ranks in map(self.ranked, self.tasks) if method in ranks]
        return statistics.mean(found) if found else None

    def best(self, task: str) -> str:
        return max((name for name in self.methods if task in self.cells[name]), key=lambda n: self.cells[n][task].mean)

    def diverged(self, method: str) -> float:
        row = self.cells[method].values()
        return sum(c.diverged for c in row) / sum(c.runs for c in row)

    def slowdown(self, method: str) -> float | None:
        """Geometric mean over the tasks of the time relative to plain hard training."""
        plain = self.cells.get(PLAIN, {})
        ratios = [
            statistics.mean(c.seconds) / statistics.mean(plain[task].seconds)
            for task, c in self.cells[method].items()
            if c.seconds and task in plain and plain[task].seconds
        ]
        return statistics.geometric_mean(ratios) if ratios else None

    def gap(self, method: str, task: str) -> float | None:
        gaps = self.cells[method].get(task)
        return statistics.mean(gaps.gaps) if gaps is not None and gaps.gaps else None

    def best_other(self, task: str) -> Cell | None:
        """Of all methods but `AUTO`."""
        others = [row[task] for name, row in self.cells.items() if name != AUTO and task in row]
        return max(others, key=lambda c: c.mean) if others and task in self.cells.get(AUTO, {}) else None

    def auto_keeps_up(self, task: str) -> bool | None:
        """Whether `AUTO` is at most one standard deviation (of the best other method) behind that method."""
        best = self.best_other(task)
        return None if best is None else self.cells[AUTO][task].mean >= best.mean - best.std

    def lead_of_auto(self, task: str) -> str:
        """Over the best other method, seed by seed (they share their data): mean ± standard error."""
        best = self.best_other(task)
        if best is None or not best.scores or not self.cells[AUTO][task].scores:
            return "–"
        leads = [a - b for a, b in zip(self.cells[AUTO][task].scores, best.scores)]
        error = statistics.stdev(leads) / math.sqrt(len(leads)) if len(leads) > 1 else math.nan
        return f"{statistics.mean(leads):+.1f} ± {error:.1f}"


def summarise(finals: Finals) -> Summary:
    return Summary({method: {task: cell(runs) for task, runs in row.items()} for method, row in finals.items()})


# --- text ---

READING = """\
Scores of the deployed plain program on the test split, mean ± standard deviation over the seeds. **Bold**: the best. \
Rank: mean over the tasks a method applies to, among the methods that apply there; searches without derivatives have \
none. Diverged: share of runs that met a non-finite number, or ended no better than they began. Time: of a training \
run relative to plain hard training, geometric mean over the tasks. Within one std: of the best other method. Lead: \
over the best other method, positive is better, mean of the differences per seed ± their standard error."""


def show_cell(summary: Summary, method: str, task: str) -> str:
    found = summary.cells[method].get(task)
    if found is None:
        return "–"
    if found.error is not None:
        return "fails"
    text = f"{TASKS[task].shown(found.mean):.1f} ± {found.std:.1f}"
    return f"**{text}**" if method == summary.best(task) else text


def show(value: float | None, form: str) -> str:
    return "–" if value is None else format(value, form)


BREAK = "\n"
"""Between the name of a task and that of its score, on the console."""


def score_rows(summary: Summary) -> tuple[list[str], list[list[str]]]:
    header = ["method", "rewritten"]
    for name in summary.tasks:
        task = TASKS[name]
        arrow = "↑" if task.higher_is_shown else "↓"
        header.append(f"{task.title}, {task.score_name} {arrow}".replace(", ", BREAK, 1))
    header += ["rank", "diverged", "time"]
    rows = [
        [
            method,
            find(method).what,
            *(show_cell(summary, method, task) for task in summary.tasks),
            show(summary.rank(method), ".1f"),
            f"{summary.diverged(method):.0%}",
            show(summary.slowdown(method), ".1f"),
        ]
        for method in summary.methods
    ]
    if AUTO in summary.cells:
        kept = {True: "yes", False: "no", None: "–"}
        answers = [kept[summary.auto_keeps_up(task)] for task in summary.tasks]
        rows.append([f"{AUTO} within one std", "", *answers, "", "", ""])
        rows.append([f"lead of {AUTO}, seed by seed", "", *map(summary.lead_of_auto, summary.tasks), "", "", ""])
    return header, rows


def gap_rows(summary: Summary) -> tuple[list[str], list[list[str]]]:
    header = ["method", *(TASKS[task].title for task in summary.tasks)]
    return header, [
        [method, *(show(summary.gap(method, task), "+.1f") for task in summary.tasks)] for method in summary.methods
    ]


def failures(summary: Summary) -> list[str]:
    return [
        f"{method} fails on {TASKS[task].title}: {found.error}"
        for method, row in summary.cells.items()
        for task, found in row.items()
        if found.error is not None
    ]


GAP_TITLE = "Score as trained minus score as deployed (validation split, higher score is better)"


def markdown_table(header: Sequence[str], rows: Sequence[Sequence[str]]) -> str:
    lines = [[name.replace(BREAK, ", ") for name in header], ["---"] + ["---:"] * (len(header) - 1), *rows]
    return "\n".join("| " + " | ".join(line) + " |" for line in lines) + "\n"


def markdown(summary: Summary) -> str:
    parts = [markdown_table(*score_rows(summary)), READING, GAP_TITLE + ":", markdown_table(*gap_rows(summary))]
    parts += ["\n".join(f"- {line}" for line in failures(summary))] if failures(summary) else []
    return "\n\n".join(part.strip() for part in parts) + "\n"


def print_tables(summary: Summary, console: Console) -> None:
    for title, (header, rows) in (("Deployed", score_rows(summary)), (GAP_TITLE, gap_rows(summary))):
        table = Table(title=title, show_lines=False)
        for i, name in enumerate(header):
            table.add_column(name, justify="left" if i == 0 else "right")
        for row in rows:
            bold = (f"[bold]{text[2:-2]}[/bold]" if text.startswith("**") else text for text in row)
            table.add_row(*bold)
        console.print(table)
    for line in failures(summary):
        console.print(line, markup=False)


# --- figure ---


def colour(method: str) -> str:
    return next(c for prefix, c in COLOURS.items() if method.startswith(prefix))


def draw(summary: Summary, path: Path) -> None:
    """One panel per task: every seed a dot, the mean a bar; to the right is always better."""
    columns = min(4, len(summary.tasks))
    rows = -(-len(summary.tasks) // columns)
    figure = Figure(figsize=(15, 0.6 + rows * (0.9 + 0.26 * len(summary.methods))), layout="constrained")
    figure.suptitle("Test scores of the deployed programs (dots: seeds, bars: means; right is better)")
    panels = figure.subplots(rows, columns, sharey=True, squeeze=False).flatten()
    for panel in panels[len(summary.tasks) :]:
        panel.set_visible(False)
    for panel, name in zip(panels, summary.tasks):
        task = TASKS[name]
        for y, method in enumerate(summary.methods):
            found = summary.cells[method].get(name)
            if found is None or not found.scores:
                panel.annotate(
                    "fails" if found else "–", (0.5, y), xycoords=("axes fraction", "data"), ha="center", va="center"
                )
                continue
            shown = [task.shown(score) for score in found.scores]
            panel.scatter(shown, [y] * len(shown), s=18, color=colour(method), edgecolor="#00000055", linewidth=0.5)
            panel.plot([statistics.mean(shown)] * 2, [y - 0.35, y + 0.35], color=colour(method), linewidth=3)
        panel.set_title(task.title)
        panel.set_xlabel(task.score_name)
        panel.grid(axis="x", alpha=0.3)
        if not task.higher_is_shown:
            panel.invert_xaxis()
    panels[0].set_yticks(range(len(summary.methods)), summary.methods)
    panels[0].invert_yaxis()
    path.parent.mkdir(parents=True, exist_ok=True)
    figure.savefig(path, dpi=130)
