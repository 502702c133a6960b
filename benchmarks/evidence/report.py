"""The table, on the console and in Markdown, and the figure."""

from __future__ import annotations

import math
import statistics
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from matplotlib.figure import Figure  # without pyplot: draws with Agg, and needs no display
from methods import AUTO, find
from rich.console import Console
from rich.table import Table
from scipy.stats import rankdata
from suite import HELD_BACK, TASKS

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

    def rank(self, method: str, tasks: Sequence[str]) -> float | None:
        """The mean over those of `tasks` to which it applies."""
        found = [ranks[method] for ranks in map(self.ranked, tasks) if method in ranks]
        return statistics.mean(found) if found else None

    @property
    def shown(self) -> list[str]:
        return [name for name in self.tasks if name not in HELD_BACK]

    @property
    def held_back(self) -> list[str]:
        return [name for name in self.tasks if name in HELD_BACK]

    def best(self, task: str) -> str:
        return max((name for name in self.methods if task in self.cells[name]), key=lambda n: self.cells[n][task].mean)

    def diverged(self, method: str) -> float:
        row = self.cells[method].values()
        return sum(c.diverged for c in row) / sum(c.runs for c in row)

    def gap(self, method: str, task: str) -> float | None:
        gaps = self.cells[method].get(task)
        return statistics.mean(gaps.gaps) if gaps is not None and gaps.gaps else None

    def best_other(self, task: str) -> str | None:
        """Of all methods with derivatives but `AUTO`."""
        names = [name for name, row in self.cells.items() if name != AUTO and task in row]
        names = [name for name in names if find(name).search is None and self.cells[name][task].scores]
        return max(names, key=lambda name: self.cells[name][task].mean) if names else None

    def lead_of_auto(self, task: str) -> Lead | None:
        """Over the best other method, seed by seed (they share their data)."""
        best, own = self.best_other(task), self.cells.get(AUTO, {}).get(task)
        if best is None or own is None or not own.scores:
            return None
        other = self.cells[best][task]
        leads = [a - b for a, b in zip(own.scores, other.scores)]
        error = statistics.stdev(leads) / math.sqrt(len(leads)) if len(leads) > 1 else math.nan
        return Lead(best, statistics.mean(leads), error, abs(other.mean))


@dataclass(frozen=True)
class Lead:
    """Of `AUTO` over the best other method of a task."""

    other: str
    mean: float
    error: float
    """The standard error of the mean."""
    score: float
    """What the other reaches."""

    @property
    def behind(self) -> bool:
        """By more than two standard errors, and by more than 1 % of the score."""
        return self.mean < -2 * self.error and self.mean < -0.01 * self.score

    def __str__(self) -> str:
        text = f"{self.mean:+.1f} ± {self.error:.1f}"
        return f"{text} (behind)" if self.behind else text


def summarise(finals: Finals) -> Summary:
    return Summary({method: {task: cell(runs) for task, runs in row.items()} for method, row in finals.items()})


# --- text ---

READING = """\
Scores of the deployed plain program on the test split, mean ± standard deviation over the seeds. **Bold**: the best. \
Lead: of sll auto over the best other method with derivatives, mean of the differences per seed ± their standard \
error, positive is better; *behind*: by more than two standard errors and 1 % of the score. Rank: mean over the tasks \
a method applies to, among the methods that apply there; searches without derivatives have none. No decision about \
`"auto"` has seen the tasks that are held back. Diverged: share of runs that met a non-finite number, or ended no \
better than they began."""


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


def score_rows(summary: Summary) -> tuple[list[str], list[list[str]]]:
    """A row for each task, a column for each method."""
    header = ["task", *summary.methods, f"lead of {AUTO}"]
    rows = []
    for name in (*summary.shown, *summary.held_back):
        task, lead = TASKS[name], summary.lead_of_auto(name)
        arrow = "↑" if task.higher_is_shown else "↓"
        title = f"{task.title}, {task.score_name} {arrow}" + " (held back)" * (name in HELD_BACK)
        cells = [show_cell(summary, method, name) for method in summary.methods]
        rows.append([title, *cells, "–" if lead is None else str(lead)])
    for title, tasks in (("mean rank", summary.shown), ("mean rank, held back", summary.held_back)):
        if tasks:
            rows.append([title, *(show(summary.rank(method, tasks), ".1f") for method in summary.methods), ""])
    rows.append(["rewritten", *(find(method).what for method in summary.methods), ""])
    rows.append(["diverged", *(f"{summary.diverged(method):.0%}" for method in summary.methods), ""])
    return header, rows


def gap_rows(summary: Summary) -> tuple[list[str], list[list[str]]]:
    return ["task", *summary.methods], [
        [TASKS[task].title, *(show(summary.gap(method, task), "+.1f") for method in summary.methods)]
        for task in summary.tasks
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
    lines = [header, ["---"] + ["---:"] * (len(header) - 1), *rows]
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
    columns = min(3, len(summary.tasks))
    rows = -(-len(summary.tasks) // columns)
    # As wide as a page: with 110 dots an inch its letters are read at their size.
    figure = Figure(figsize=(8.2, 0.5 + rows * (0.7 + 0.18 * len(summary.methods))), layout="constrained")
    figure.suptitle("Test scores of the deployed programs (dots: seeds, bars: means; right is better)", fontsize=10)
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
            panel.scatter(shown, [y] * len(shown), s=12, color=colour(method), edgecolor="#00000055", linewidth=0.5)
            panel.plot([statistics.mean(shown)] * 2, [y - 0.35, y + 0.35], color=colour(method), linewidth=3)
        panel.set_title(task.title, fontsize=9)
        panel.set_xlabel(task.score_name, fontsize=8)
        panel.tick_params(labelsize=8)
        panel.grid(axis="x", alpha=0.3)
        if not task.higher_is_shown:
            panel.invert_xaxis()
    panels[0].set_yticks(range(len(summary.methods)), summary.methods)
    panels[0].invert_yaxis()
    path.parent.mkdir(parents=True, exist_ok=True)
    figure.savefig(path, dpi=110)
