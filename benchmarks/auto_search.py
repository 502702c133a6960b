"""How ``eps="auto"`` was found: variants of it, on four of the tasks of `evidence/tasks.py`.

    python benchmarks/auto_search.py               # about six minutes

Deployed score on the *validation* split, mean ± standard deviation of two seeds that no other table shows, at the best
of the task's three learning rates. (The test split is for `benchmarks/evidence`.)
"""

from __future__ import annotations

import argparse
import statistics
import sys
import warnings
from pathlib import Path
from typing import Any

import torch
from rich.console import Console
from rich.progress import track
from rich.table import Table

import sll
from sll.auto import Auto

sys.path.insert(0, str(Path(__file__).parent / "evidence"))
from tasks import TASKS
from training import epochs

SEEDS = (100, 101)
ORDER = ("sign", "quantized", "f1", "vq")


def variant(**constants: float) -> Auto:
    """`Auto` without memory, and with other constants."""
    changed = Auto(steps=0)
    vars(changed).update(constants)
    return changed


ST = "straight-through"
STEPS = {"round": 0.5}
VARIANTS: dict[str, tuple[Any, str, tuple[str, ...]]] = {
    # name: eps, forward, tasks
    '"auto"': ("auto", ST, ORDER),
    "auto, window 1": (variant(), ST, ORDER),
    'auto, window 1, forward="hard"': (variant(), "hard", ORDER),
    'auto, window 1, forward="linear"': (variant(), "linear", ORDER),
    "a share: Coverage(0.25)": ({"default": sll.Coverage(0.25), **STEPS}, ST, ("sign", "f1", "vq")),
    "a share: Coverage(0.5)": ({"default": sll.Coverage(0.5), **STEPS}, ST, ("sign", "f1", "vq")),
    "a share: Coverage(0.75)": ({"default": sll.Coverage(0.75), **STEPS}, ST, ("sign", "f1", "vq")),
    "a width: 0.3": (0.3, ST, ORDER),
    "a width: 1": (1.0, ST, ORDER),
    "a width: 3": (3.0, ST, ORDER),
    "auto, at least 10 %": (variant(LEAST=0.1), ST, ("sign", "f1")),
    "auto, up to 100 %": (variant(MOST=1.0), ST, ("sign", "f1")),
    "auto, window 3": (variant(WINDOW=3.0), ST, ("sign", "f1")),
}


def train(name: str, eps: Any, forward: Any, lr: float, seed: int) -> float:
    task = TASKS[name]
    *_, model = epochs(task, sll.linearize(eps, forward=forward), lr, seed)
    with torch.no_grad():
        return task.shown(task.score(model, task.data(0).validation))


def best(name: str, scores: dict[float, list[float]]) -> str:
    sign = 1 if TASKS[name].higher_is_shown else -1
    lr = max(scores, key=lambda lr: sign * statistics.mean(scores[lr]))
    return f"{statistics.mean(scores[lr]):.1f} ± {statistics.stdev(scores[lr]):.1f}"


def main() -> None:
    argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0]).parse_args()
    torch.set_num_threads(1)
    warnings.simplefilter("ignore", sll.LostGradientWarning)
    scores: dict[tuple[str, str], dict[float, list[float]]] = {}
    jobs = [(v, n, lr, s) for v in VARIANTS for n in VARIANTS[v][2] for lr in TASKS[n].lrs for s in SEEDS]
    for name, task, lr, seed in track(jobs, "training"):
        eps, forward, _ = VARIANTS[name]
        scores.setdefault((name, task), {}).setdefault(lr, []).append(train(task, eps, forward, lr, seed))
    table = Table(title="Deployed score, validation split")
    for column in ("eps", *(f"{TASKS[n].title}\n{TASKS[n].score_name}" for n in ORDER)):
        table.add_column(column, justify="left" if column == "eps" else "right", no_wrap=True)
    for name in VARIANTS:
        table.add_row(name, *(best(n, scores[name, n]) if (name, n) in scores else "–" for n in ORDER))
    Console(width=170).print(table)


if __name__ == "__main__":
    main()
