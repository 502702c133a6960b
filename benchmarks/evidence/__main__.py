"""Compares `sll` with what people use today, on eighteen discrete programs: ``python benchmarks/evidence``.

    python benchmarks/evidence                                  # everything; what was computed before is not repeated
    python benchmarks/evidence --quick                          # minutes: only to see that it runs
    python benchmarks/evidence --tasks vq topk --methods "sll auto" --fresh
    python benchmarks/evidence --methods "plain hard" "sll(eps=[0.1, 0.3, 1.0], forward='hard')"
    python benchmarks/evidence --oracle                         # at the best learning rate of each, chosen on test
    python benchmarks/evidence --check                          # are the rewritten programs the same programs?

``out/evidence.png`` is the figure of the documentation. All scores are those of the deployed plain program: hard
decisions, outside any region, without gradients. The protocol is in ``run.py``.
"""

from __future__ import annotations

import argparse
from pathlib import Path

import report
import rewritten
import run
import torch
from methods import METHODS, find
from rich.console import Console
from suite import TASKS

TOLERANCE = 1e-6


def check(console: Console) -> bool:
    worst = rewritten.check()
    for name, difference in worst.items():
        verdict = "same" if difference <= TOLERANCE else "[bold]differs[/bold]"
        console.print(f"{name:12} {verdict}, largest relative difference {difference:.1e}")
    return max(worst.values()) <= TOLERANCE


def main() -> None:
    parser = argparse.ArgumentParser(
        "benchmarks/evidence", description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--tasks", nargs="+", choices=TASKS, default=list(TASKS), metavar="TASK")
    parser.add_argument("--methods", nargs="+", default=list(METHODS), metavar="METHOD")
    parser.add_argument("--seeds", nargs="+", type=int, default=list(run.FINAL), help="final seeds")
    parser.add_argument("--workers", type=int, default=2)
    parser.add_argument("--quick", action="store_true", help="a tenth of the epochs, one pair, one seed to tune on")
    parser.add_argument("--fresh", action="store_true", help="forget what was computed for these tasks and methods")
    parser.add_argument("--results", type=Path, default=run.HERE / "results.jsonl")
    parser.add_argument(
        "--out", type=Path, default=Path("out"), help="for the table and the figure (docs/img/evidence.png)"
    )
    parser.add_argument("--oracle", action="store_true", help="at the learning rates that do best on test")
    parser.add_argument("--check", action="store_true", help="compare plain and rewritten programs, and stop")
    options = parser.parse_args()
    torch.set_num_threads(1)  # matrices this small gain nothing from a second thread
    console = Console(width=200, highlight=False)
    if options.check:
        raise SystemExit(not check(console))

    for name in options.methods:
        find(name)  # complains now rather than in an hour
    results = run.Results(options.results)
    if options.fresh:
        results.forget(options.tasks, options.methods, options.quick)
    finals = run.run(
        options.tasks, options.methods, options.seeds, results, options.workers, options.quick, options.oracle
    )
    summary = report.summarise(finals)
    report.print_tables(summary, console)
    console.print(report.READING.replace("**", ""))
    options.out.mkdir(parents=True, exist_ok=True)
    table, figure = (options.out / f"evidence{'-oracle' * options.oracle}.{end}" for end in ("md", "png"))
    table.write_text(report.markdown(summary))
    report.draw(summary, figure)
    console.print(f"Table: [bold]{table}[/bold], figure: [bold]{figure}[/bold]")


if __name__ == "__main__":
    main()
