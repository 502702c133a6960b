"""The comparison table of the README: every cell is measured. ``python benchmarks/evidence/comparison.py``

*Forward error* and *gradient* are measured here, on ``x -> mean of heaviside(x)`` for 10 000 standard normal numbers
and 20 straight paths; the rest is taken from ``results.jsonl``, which ``python benchmarks/evidence`` writes.
"""

from __future__ import annotations

import math
import statistics
from collections.abc import Callable

import methods
import report
import run
import torch
from rich.console import Console
from rich.table import Table
from suite import TASKS
from torch import Tensor

import sll

Program = Callable[[Tensor], Tensor]


def shown(name: str, config: object) -> Program:
    """The step function as the method has it."""
    if name == methods.PLAIN:
        return lambda x: (x > 0).to(x.dtype)
    if name == methods.AUTO:
        region = sll.linearize("auto")

        def program(x: Tensor) -> Tensor:
            with region:
                return (x > 0).to(x.dtype)

        return program
    make = methods.METHODS[name].ops
    assert make is not None
    return make(config, 0).heaviside


def forward_error(f: Program) -> float:
    """Mean distance to the hard step."""
    x = torch.randn(10_000, generator=torch.Generator().manual_seed(0), dtype=torch.float64)
    return (f(x).detach() - (x > 0).double()).abs().mean().item()


def gradient_error(f: Program) -> list[float]:
    """``|integral of the gradient along a path - change of the hard program| / |change|``, for each path."""
    errors = []
    for seed in range(20):
        generator = torch.Generator().manual_seed(seed)
        a, b = (torch.randn(10_000, generator=generator, dtype=torch.float64) for _ in range(2))
        b = b + 1  # so that something changes
        total, steps = 0.0, 200
        for k in range(steps):
            x = (a + (k + 0.5) / steps * (b - a)).requires_grad_()
            y = f(x).mean()
            if y.requires_grad:
                total += (torch.autograd.grad(y, x)[0] * (b - a)).sum().item() / steps
        want = ((b > 0).double().mean() - (a > 0).double().mean()).item()
        errors.append(abs(total - want) / abs(want))
    return errors


def compared(results: run.Results) -> dict[str, methods.Method]:
    """The methods with derivatives that have been tuned on all tasks to which they apply."""

    def tuned(method: methods.Method) -> bool:
        jobs = (job for task in TASKS if method.applies(task) for job in run.tuning_jobs(task, method, quick=False))
        return all(job in results for job in jobs)

    return {name: method for name, method in methods.METHODS.items() if method.search is None and tuned(method)}


def grid_share(name: str, found: dict[str, methods.Method], results: run.Results) -> float:
    """Share of the tuning grid, all tasks together, whose deployed score loses at most a tenth of what the best method
    gains over the worst on that task.
    """
    good = total = 0
    for task in TASKS:
        scores: dict[str, list[float]] = {}
        for method in found.values():
            if not method.applies(task):
                continue
            scores[method.name] = list(run.tuning_scores(task, method, results, quick=False).values())
        best = {method: max(found) for method, found in scores.items()}
        top, bottom = max(best.values()), min(v for v in best.values() if v > -math.inf)
        if name in scores:
            good += sum(score >= top - 0.1 * (top - bottom) for score in scores[name])
            total += len(scores[name])
    return good / total


def main() -> None:
    results = run.Results(run.HERE / "results.jsonl")
    found = compared(results)
    names = [methods.PLAIN, "straight-through", "clipped straight-through", "sigmoid", "gumbel", methods.AUTO]
    finals: report.Finals = {}
    configs: dict[str, object] = {}
    for name, method in found.items():
        known = [task for task in TASKS if method.applies(task)]
        choice = run.choose(method, known, results, quick=False)
        configs[name] = choice.config
        finals[name] = {
            task: [results[run.Job(task, name, choice.config, choice.lrs[task], seed)] for seed in run.FINAL]
            for task in known
        }
    summary = report.summarise(finals)
    header = [
        "method",
        "rewritten",
        "forward error",
        "gradient error",
        "tuning: share of the grid that works",
        "stability: runs that diverged",
        "left over: score lost in deployment",
        f"mean rank of {len(summary.shown)} tasks",
    ]
    rows = []
    for name in names:
        f = shown(name, configs[name])
        errors = gradient_error(f)
        lost = []
        for task, cell in summary.cells[name].items():
            # in units of what the best method gains over the worst on that task
            means = [row[task].mean for row in summary.cells.values() if task in row]
            spread = max(means) - min(m for m in means if m > -math.inf)
            lost.append(max(0.0, statistics.mean(cell.gaps)) / spread if cell.gaps else math.nan)
        rows.append(
            [
                name,
                methods.find(name).what,
                f"{forward_error(f):.3f}",
                f"{100 * statistics.mean(errors):.1f} ± {100 * statistics.stdev(errors):.1f} %",
                f"{grid_share(name, found, results):.0%}",
                f"{summary.diverged(name):.0%}",
                f"{statistics.mean(lost):.0%}",
                f"{summary.rank(name, summary.shown):.1f}",
            ]
        )
    table = Table(title="Every cell measured")
    for i, column in enumerate(header):
        table.add_column(column, justify="left" if i < 2 else "right")
    for row in rows:
        table.add_row(*row)
    Console(width=170).print(table)
    print(report.markdown_table(header, rows))


if __name__ == "__main__":
    main()
