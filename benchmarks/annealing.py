"""Does `Anneal` close the gap between the program that is trained and the one that is deployed?

    python benchmarks/annealing.py                 # about three minutes; draws docs/img/annealing.png

With ``forward="linear"`` training sees ramps, deployment sees jumps: a model may come to rely on what lies inside the
bands. Three programs of `evidence/tasks.py` are trained in wide bands, in narrow ones, and in bands that go from wide
to narrow. After each epoch both scores are taken on the validation split: in the region, and of the plain program.
"""

from __future__ import annotations

import argparse
import statistics
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any, NamedTuple

import torch
from matplotlib.figure import Figure
from rich.console import Console
from rich.progress import track
from rich.table import Table

import sll

sys.path.insert(0, str(Path(__file__).parent / "evidence"))
from tasks import TASKS, Task
from training import epochs

SEEDS = (0, 1, 2, 3, 4)
RATES = {"sign": 1e-2, "vq": 1e-2, "topk": 3e-2}
"""Of each task: the middle or the larger of its three learning rates, the same for all three policies."""

POLICIES: dict[str, Callable[[int], Any]] = {
    "wide: Coverage(0.9)": lambda steps: sll.Coverage(0.9),
    "narrow: Coverage(0.02)": lambda steps: sll.Coverage(0.02),
    "Anneal(Coverage(0.9), Coverage(0.02))": lambda steps: sll.Anneal(sll.Coverage(0.9), sll.Coverage(0.02), steps),
}
COLOURS = ("#D55E00", "#0072B2", "#009E73")  # Okabe and Ito


class Run(NamedTuple):
    in_region: list[float]
    deployed: list[float]


def train(task: Task, make: Callable[[int], Any], seed: int) -> Run:
    data = task.data(0)
    eps = make(task.epochs * -(-len(data.train.y) // task.batch))
    region = sll.linearize(eps, forward="linear")
    run = Run([], [])
    after_step = eps.step if isinstance(eps, sll.Anneal) else lambda: None
    for model in epochs(task, region, RATES[task.name], seed, after_step):
        with region:
            output = task.program.output(model, data.validation)
        run.in_region.append(task.measure(output.detach(), data.validation))
        with torch.no_grad():
            run.deployed.append(task.score(model, data.validation))
    return run


def show(values: list[float]) -> str:
    return f"{statistics.mean(values):.1f} ± {statistics.stdev(values):.1f}"


def main() -> None:
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--figure", type=Path, default=Path("docs/img/annealing.png"))
    path = parser.parse_args().figure
    torch.set_num_threads(1)
    jobs = [(name, policy, seed) for name in RATES for policy in POLICIES for seed in SEEDS]
    runs: dict[tuple[str, str], list[Run]] = {}
    for name, policy, seed in track(jobs, "training"):
        runs.setdefault((name, policy), []).append(train(TASKS[name], POLICIES[policy], seed))

    table = Table(title=f"After training, validation split (mean ± std of {len(SEEDS)} seeds)")
    for column in ("program", "eps", "in the region", "deployed", "gap"):
        table.add_column(column, justify="left" if column in ("program", "eps") else "right")
    for (name, policy), found in runs.items():
        task = TASKS[name]
        inside, outside = ([task.shown(getattr(r, which)[-1]) for r in found] for which in Run._fields)
        gap = [abs(a - b) for a, b in zip(inside, outside)]
        table.add_row(f"{task.title}, {task.score_name}", policy, show(inside), show(outside), show(gap))
    Console(width=150).print(table)

    with sll.plot.style():
        draw(runs, path)


def draw(runs: dict[tuple[str, str], list[Run]], path: Path) -> None:
    """A panel for each program."""
    figure = Figure(figsize=(8.2, 3.2))
    figure.suptitle(
        'forward="linear": score in the region (dashed) and of the deployed program (solid), mean of seeds', fontsize=9
    )
    for panel, name in zip(figure.subplots(1, len(RATES)), RATES):
        task = TASKS[name]
        for policy, colour in zip(POLICIES, COLOURS):
            for which, style in (("in_region", "--"), ("deployed", "-")):
                curves = [[task.shown(score) for score in getattr(run, which)] for run in runs[name, policy]]
                mean = [statistics.mean(scores) for scores in zip(*curves)]
                label = policy if which == "deployed" else None
                panel.plot(range(1, len(mean) + 1), mean, style, color=colour, label=label, linewidth=1.8)
        panel.set_title(task.title)
        panel.set_xlabel("epoch")
        panel.set_ylabel(task.score_name + (" (higher is better)" if task.higher_is_shown else " (lower is better)"))
        panel.grid(alpha=0.3)
        if name == "vq":
            panel.set_yscale("log")
    handles, labels = panel.get_legend_handles_labels()
    figure.legend(handles, labels, loc="outside lower center", ncols=3, frameon=False)
    path.parent.mkdir(parents=True, exist_ok=True)
    figure.savefig(path)


if __name__ == "__main__":
    main()
