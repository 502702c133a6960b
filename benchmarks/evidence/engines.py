"""Do two versions of `sll` train equally well on the eight tasks? ``python benchmarks/evidence/engines.py``

    git worktree add --detach ../old f52436e                    # the engine that was before
    python benchmarks/evidence/engines.py --source old=../old/src new=src
    python benchmarks/evidence/engines.py --source old=../old/src          # one version now, …
    python benchmarks/evidence/engines.py --source new=src                 # … the other one later
    python benchmarks/evidence/engines.py                                  # only the table

A source is the ``src`` folder of a checkout. Each version runs in a process of its own, one at a time; with two sources
they take turns. Both train the unedited program under ``"auto"``, at the learning rate that ``results.jsonl`` chose on
other seeds. A seed is the same initial weights, batches and split for both. Scores are those of ``run.py``: of the
deployed plain program, on test. What was run before is not repeated, unless it failed.

A version is *worse* on a task if the mean of the paired differences is below minus two of its standard errors, or if a
run of it fails. Of two equal versions chance alone calls one worse on some task in more than one case of five. The exit
status is 0 if every task has all its pairs and none is worse, or if there is nothing to compare yet.
"""

from __future__ import annotations

import argparse
import hashlib
import json
import math
import multiprocessing
import statistics
import sys
import time
from collections.abc import Iterable, Sequence
from concurrent.futures import ProcessPoolExecutor
from contextlib import ExitStack
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import run
import torch
from methods import AUTO, find
from rich.console import Console
from rich.table import Table
from tasks import TASKS, Task

Key = tuple[str, str, int]
"""Label, task, seed."""
WORSE, UNFINISHED = "[bold]worse[/bold]", "unfinished"


# --- running ---


def fingerprint(source: Path) -> str:
    """Of all that a version consists of."""
    files = sorted((source / "sll").rglob("*.py"))
    if not files:
        raise SystemExit(f"{source} has no package `sll`: the `src` folder of a checkout is asked for")
    digest = hashlib.sha256()
    for file in files:
        digest.update(f"{file.relative_to(source)}\n".encode() + file.read_bytes())
    return digest.hexdigest()[:12]


def imported() -> str:
    import sll

    return sll.__file__


def start_worker(source: Path) -> ProcessPoolExecutor:
    """A process in which ``import sll`` is that version."""
    pool = ProcessPoolExecutor(1, multiprocessing.get_context("spawn"), run._start_worker, (str(source),))
    found = pool.submit(imported).result()
    if not Path(found).resolve().is_relative_to(source):
        raise SystemExit(f"expected sll of {source}, found {found}")
    return pool


class Runs:
    """One JSON object per run, appended as they come; of two with one key the later counts."""

    def __init__(self, path: Path) -> None:
        self.path = path
        self.found: dict[Key, run.Result] = {}
        if path.exists():
            for line in path.read_text().splitlines():
                record = json.loads(line)
                self.found[record["label"], record["task"], record["seed"]] = record

    def add(self, record: run.Result) -> None:
        self.found[record["label"], record["task"], record["seed"]] = record
        with self.path.open("a") as file:
            file.write(json.dumps(record) + "\n")

    def forget(self, label: str) -> None:
        self.found = {key: record for key, record in self.found.items() if key[0] != label}
        self.path.write_text("".join(json.dumps(record) + "\n" for record in self.found.values()))

    @property
    def labels(self) -> list[str]:
        return list(dict.fromkeys(label for label, _, _ in self.found))

    def refuse_others(self, label: str, source: str, quick: bool) -> None:
        """Two versions under one label would be neither."""
        known = {(record["source"], record["quick"]) for key, record in self.found.items() if key[0] == label}
        for other, other_quick in known - {(source, quick)}:
            what = f"source {other}{', --quick' * other_quick}, not {source}{', --quick' * quick}"
            raise SystemExit(f"{self.path.name} has runs of {label!r} with {what}: take another label, or --fresh")


@dataclass(frozen=True)
class Setting:
    lr: float
    seconds: float
    """Mean time of a training with `AUTO`, as ``results.jsonl`` knows it."""


def settings(results: run.Results, runs: Runs) -> dict[str, Setting]:
    """Of each task. A learning rate that was run with stays, whatever ``results.jsonl`` says later."""
    choice = run.choose(find(AUTO), list(TASKS), results, quick=False)
    used = {task: record["lr"] for (_, task, _), record in runs.found.items()}
    known: dict[str, list[float]] = {}
    for job, result in results.found.items():
        if job.method == AUTO and not job.quick and "seconds" in result:
            known.setdefault(job.task, []).append(result["seconds"])
    return {task: Setting(used.get(task, choice.lrs[task]), statistics.mean(known[task])) for task in TASKS}


def execute(sources: dict[str, Path], names: Iterable[str], seeds: int, quick: bool, runs: Runs) -> None:
    """What is not there yet: the fastest tasks first, the versions in turns."""
    known = settings(run.Results(run.HERE / "results.jsonl"), runs)
    jobs = [
        (label, run.Job(task, AUTO, None, known[task].lr, seed, quick))
        for task in sorted(names, key=lambda task: known[task].seconds)
        for seed in range(seeds)
        for label in sources
    ]
    todo = [(label, job) for label, job in jobs if "error" in runs.found.get((label, job.task, job.seed), {"error": 0})]
    of = {label: fingerprint(source) for label, source in sources.items()}
    for label in sources:
        runs.refuse_others(label, of[label], quick)
    print(f"{len(todo)} runs of {len(jobs)} to do", flush=True)
    with ExitStack() as stack:
        workers = {label: stack.enter_context(start_worker(sources[label])) for label in {label for label, _ in todo}}
        for count, (label, job) in enumerate(todo, 1):
            result = workers[label].submit(run.train, job).result()
            runs.add({"label": label, "source": of[label], "torch": torch.__version__, **job._asdict(), **result})
            said = result.get("error") or f"{TASKS[job.task].shown(result['test']):.2f} in {result['seconds']:.1f} s"
            print(f"{time.strftime('%X')} {count}/{len(todo)} {label} {job.task} seed {job.seed}: {said}", flush=True)


# --- comparing ---


def mean_and_error(numbers: Sequence[float]) -> tuple[float, float]:
    """The mean and its standard error."""
    error = statistics.stdev(numbers) / math.sqrt(len(numbers)) if len(numbers) > 1 else math.nan
    return statistics.mean(numbers), error


@dataclass(frozen=True)
class Paired:
    """Two versions on a task."""

    differences: list[float]
    """Score of the second minus score of the first, higher is better; of the seeds that both have."""
    failed: int
    """Runs of the second that ended with an error or a score that is not finite."""
    wanted: int

    @property
    def verdict(self) -> str:
        if self.failed:
            return WORSE
        if len(self.differences) < max(2, self.wanted):
            return UNFINISHED
        mean, error = mean_and_error(self.differences)
        if mean < -2 * error:
            return WORSE
        return "better" if mean > 2 * error else "not worse"


def failed(record: run.Result) -> bool:
    return "error" in record or not math.isfinite(record["test"])


def paired(first: dict[int, run.Result], second: dict[int, run.Result], wanted: int) -> Paired:
    good = [seed for seed in first if seed in second and not failed(first[seed]) and not failed(second[seed])]
    for seed in good:
        a, b = first[seed], second[seed]
        same = math.isclose(a["untrained"], b["untrained"], rel_tol=1e-4)  # the same weights on the same rows
        if not same or a["lr"] != b["lr"] or a["quick"] != b["quick"]:
            raise SystemExit(f"seed {seed} of {a['task']!r} is not the same training for {a['label']} and {b['label']}")
    differences = [second[seed]["test"] - first[seed]["test"] for seed in good]
    return Paired(differences, sum(map(failed, second.values())), wanted)


def written(numbers: tuple[float, float]) -> str:
    return f"{numbers[0]:.2f} ± {numbers[1]:.2f}"


def version_cells(task: Task, records: Iterable[run.Result]) -> list[str]:
    """Score and time."""
    good = [record for record in records if not failed(record)]
    if not good:
        return ["–", "–"]
    mean, error = mean_and_error([record["test"] for record in good])
    return [written((task.shown(mean), error)), f"{statistics.median(record['seconds'] for record in good):.2f} s"]


def difference_cells(pair: Paired) -> list[str]:
    note = f", {pair.failed} failed" if pair.failed else ""
    if not pair.differences:
        return ["–", "–", f"0{note}", pair.verdict]
    mean, error = numbers = mean_and_error(pair.differences)
    ratio = f"{mean / error:+.1f}" if error > 0 else "–"
    return [written(numbers), ratio, f"{len(pair.differences)}{note}", pair.verdict]


def compare(runs: Runs, names: Sequence[str], baseline: str, seeds: int) -> tuple[Table, list[str]]:
    """The table, and each verdict in it."""
    labels = [baseline, *(label for label in runs.labels if label != baseline)]
    table = Table(title="Scores of the deployed programs ± standard errors; a difference above 0 is better")
    table.add_column("task")
    for label in labels:
        table.add_column(label, justify="right")
        table.add_column("median time", justify="right")
    for label in labels[1:]:
        for header in (f"{label} - {baseline}", "in standard errors", "pairs", "verdict"):
            table.add_column(header, justify="right")
    verdicts: list[str] = []
    for name in names:
        found: dict[str, dict[int, Any]] = {
            label: {seed: runs.found[label, name, seed] for seed in range(seeds) if (label, name, seed) in runs.found}
            for label in labels
        }
        row = [f"{name} ({TASKS[name].score_name})"]
        for label in labels:
            row += version_cells(TASKS[name], found[label].values())
        for label in labels[1:]:
            pair = paired(found[baseline], found[label], seeds)
            row += difference_cells(pair)
            verdicts.append(pair.verdict)
        table.add_row(*row)
    return table, verdicts


def labelled(text: str) -> tuple[str, Path]:
    label, separator, path = text.partition("=")
    if not separator or not label:
        raise argparse.ArgumentTypeError(f"{text!r} is not LABEL=PATH")
    return label, Path(path).resolve()


def main() -> None:
    parser = argparse.ArgumentParser(
        "benchmarks/evidence/engines.py", description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--source", nargs="+", type=labelled, default=[], metavar="LABEL=PATH")
    parser.add_argument("--seeds", type=int, default=16, help="how many")
    parser.add_argument("--tasks", nargs="+", choices=TASKS, default=list(TASKS), metavar="TASK")
    parser.add_argument("--baseline", default="old", help="the label that others are compared with")
    parser.add_argument("--fresh", action="store_true", help="forget all that was run for these labels")
    parser.add_argument("--quick", action="store_true", help="a tenth of the epochs: only to see that it runs")
    parser.add_argument("--results", type=Path, help="engines.jsonl beside this file; with --quick results-quick.jsonl")
    options = parser.parse_args()
    sources = dict(options.source)
    runs = Runs(options.results or run.HERE / ("results-quick.jsonl" if options.quick else "engines.jsonl"))
    if options.fresh:
        for label in sources:
            runs.forget(label)
    if sources:
        execute(sources, options.tasks, options.seeds, options.quick, runs)
    table, verdicts = compare(runs, options.tasks, options.baseline, options.seeds)
    Console(width=200, highlight=False).print(table)
    sys.exit(WORSE in verdicts or UNFINISHED in verdicts)


if __name__ == "__main__":
    main()
