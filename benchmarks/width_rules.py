"""Which width should `"auto"` keep? Five tasks of `benchmarks/evidence`, paired seeds, unedited programs.

    python benchmarks/width_rules.py                # what is missing is trained, then the table
    python benchmarks/width_rules.py --seeds 48     # more pairs

Each rule looks at the distances of a line in the first ten steps, all of its decisions together, and keeps what it
makes of them. Learning rates are those of `benchmarks/evidence/engines.jsonl`. A seed is the same initial weights,
batches and split for all rules. Scores are of the deployed plain program, on test.
"""

from __future__ import annotations

import argparse
import json
import math
import statistics
import sys
import warnings
from collections import defaultdict
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import torch
from rich.console import Console
from rich.table import Table

sys.path.insert(0, str(Path(__file__).parent / "evidence"))

import run
from tasks import TASKS

import sll

HERE = Path(__file__).parent
FILE = HERE / "width_rules.jsonl"
NAMES = ("sign", "spiking", "f1", "controller", "topk")
FIRST_SEED, SEEDS, STEPS = 30, 24, 10
BASE = "window"


def window(d: Any) -> float:
    """The rule before: 1 where that holds 2 to 75 % of the distances, else twice their root mean square."""
    return 1.0 if 0.02 <= (d <= 1).mean() <= 0.75 else 2 * math.sqrt((d * d).mean())


def medians(times: float) -> Callable[[Any], float]:
    return lambda d: times * float(np.median(d))


def rms(times: float) -> Callable[[Any], float]:
    return lambda d: times * math.sqrt((d * d).mean())


RULES: dict[str, Callable[[Any], float]] = {
    BASE: window,
    **{f"{times:g} x median": medians(times) for times in (1, 1.5, 2, 2.5, 3, 4)},
    **{f"{times:g} x rms": rms(times) for times in (1.4, 2)},
}


class Rule(sll.Auto):
    """`sll.Auto` with another rule, and without pools."""

    def __init__(self, rule: Callable[[Any], float]) -> None:
        super().__init__(STEPS)
        self.rule = rule
        self.seen: dict[Any, list[Any]] = defaultdict(list)
        self.calls: dict[Any, int] = defaultdict(int)

    def _measure(self, place: Any, d: Any) -> float:
        line, nth = place[:3], place[3]
        d = np.abs(np.asarray(d)).reshape(-1)
        self.calls[line] += nth == 0
        if self.calls[line] <= STEPS:
            self.seen[line].append(d[(d > 0) & (d < math.inf)])
        known = np.concatenate(self.seen[line])
        half = float(self.rule(known)) if len(known) else 1.0
        if self.calls[line] > STEPS:
            self.kept[place] = half
        return half


def train(name: str, rule: str, seed: int, rate: float) -> float:
    task = TASKS[name]
    splits = task.data(seed)
    torch.manual_seed(seed)
    model = task.program.model()
    order = torch.Generator().manual_seed(seed)
    batches = [
        splits.train.rows(rows)
        for _ in range(task.epochs)
        for rows in torch.randperm(len(splits.train.y), generator=order).split(task.batch)
    ]
    region = sll.linearize(sll.Auto() if rule == "auto" else Rule(RULES[rule]), on_lost="ignore")
    run._descend(task.program.loss, model, lambda: region, batches, rate)
    return run.deployed_score(task, model, splits.test)


def read() -> dict[tuple[str, str, int], float]:
    lines = FILE.read_text().splitlines() if FILE.exists() else []
    return {(r["task"], r["rule"], r["seed"]): r["score"] for r in map(json.loads, lines)}


def main() -> None:
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--seeds", type=int, default=SEEDS)
    parser.add_argument("--rules", nargs="*", default=[*RULES, "auto"])
    parser.add_argument("--tasks", nargs="*", default=NAMES)
    parser.add_argument("--first", type=int, default=FIRST_SEED)
    options = parser.parse_args()
    warnings.simplefilter("ignore")
    known = (HERE / "evidence" / "engines.jsonl").read_text().splitlines()
    rates = {r["task"]: r["lr"] for r in map(json.loads, known)}
    scores = read()
    for seed in range(options.first, options.first + options.seeds):
        for name in options.tasks:
            for rule in options.rules:
                if (name, rule, seed) not in scores:
                    score = scores[name, rule, seed] = train(name, rule, seed, rates[name])
                    with FILE.open("a") as file:
                        file.write(json.dumps({"task": name, "rule": rule, "seed": seed, "score": score}) + "\n")
    title = f"Score minus that of {BASE!r}, mean and standard error of paired seeds (how many)"
    table = Table("task", BASE, *(rule for rule in options.rules if rule != BASE), title=title)
    for name in options.tasks:
        base = {seed: score for (task, rule, seed), score in scores.items() if (task, rule) == (name, BASE)}
        row = [f"{statistics.mean(base.values()):.2f}"]
        for rule in options.rules:
            paired = [s - base[k] for (t, r, k), s in scores.items() if (t, r) == (name, rule) and k in base]
            if rule != BASE:
                spread = statistics.stdev(paired) / math.sqrt(len(paired)) if len(paired) > 1 else math.nan
                row.append(f"{statistics.mean(paired):+.2f} ± {spread:.2f} ({len(paired)})" if paired else "-")
        table.add_row(name, *row)
    Console(width=150).print(table)


if __name__ == "__main__":
    main()
