"""How long training takes in a region, and with what people write by hand, side by side.

    python benchmarks/training_time.py                               # about six minutes
    python benchmarks/training_time.py --write docs/performance.md   # and its table goes into the page

The programs and methods are those of ``benchmarks/evidence``: eight small programs, whole trainings, with one thread.
In every round all methods take turns; a ratio is one of a single round.
"""

from __future__ import annotations

import argparse
import statistics
import sys
from pathlib import Path

import torch
from rich.console import Console
from rich.progress import track

sys.path.insert(0, str(Path(__file__).parent / "evidence"))
from methods import AUTO, PLAIN, find
from run import Job, train
from tasks import TASKS

METHODS = (PLAIN, "straight-through", "clipped straight-through", "gumbel", "snntorch") + (
    "softtorch straight-through",
    "sll fixed 1e-2",
    AUTO,
)
NOT_EDITED = (PLAIN, "sll fixed 1e-2", AUTO)
BEGIN, END = "<!-- written by: python benchmarks/training_time.py --write docs/performance.md -->", "<!-- end -->"


def seconds(task: str, method: str) -> float:
    job = Job(task, method, find(method).configs[0], TASKS[task].lrs[1], seed=0)
    result = train(job)
    if "error" in result:
        raise RuntimeError(f"{method} on {task}: {result['error']}")
    return float(result["seconds"])


def measure(rounds: int, console: Console) -> dict[str, dict[str, list[float]]]:
    """Method -> task -> seconds of each round."""
    found: dict[str, dict[str, list[float]]] = {method: {} for method in METHODS}
    for task in TASKS:
        methods = [method for method in METHODS if find(method).applies(task)]
        for method in methods:
            seconds(task, method)  # warms up
        for _ in track(range(rounds), task, console=console, disable=not console.is_terminal):
            for method in methods:
                found[method].setdefault(task, []).append(seconds(task, method))
    return found


def markdown(found: dict[str, dict[str, list[float]]], rounds: int) -> str:
    titles = [TASKS[task].title for task in TASKS]
    lines = [
        f"torch {torch.__version__}, CPU, one thread, {rounds} rounds; medians of the ratios to plain hard training "
        "in the same round, in brackets the quartiles. Plain training learns nothing there. The mean is geometric.",
        "",
        f"| method | {' | '.join(titles)} | mean |",
        "|---|" + "---:|" * (len(titles) + 1),
    ]
    for method in METHODS:
        cells, medians = [], []
        for task in TASKS:
            if task not in found[method]:
                cells.append("–")
                continue
            ratios = [mine / plain for mine, plain in zip(found[method][task], found[PLAIN][task])]
            low, middle, high = statistics.quantiles(ratios, n=4)
            medians.append(middle)
            cells.append("1" if method == PLAIN else f"{middle:.1f} ({low:.1f} … {high:.1f})")
        name = method if method in NOT_EDITED else f"{method}, rewritten"
        lines.append(f"| {name} | {' | '.join(cells)} | {statistics.geometric_mean(medians):.1f} |")
    return "\n".join(lines)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--write", type=Path, help="a page to put the table into")
    options = parser.parse_args()
    torch.set_num_threads(1)
    console = Console(highlight=False)
    table = markdown(measure(options.rounds, console), options.rounds)
    console.print(table, soft_wrap=True, markup=False)
    if options.write is not None:
        page = options.write.read_text()
        if BEGIN not in page or END not in page:
            raise SystemExit(f"{options.write} has no place for it: {BEGIN} … {END}")
        before, rest = page.split(BEGIN, 1)
        options.write.write_text(f"{before}{BEGIN}\n\n{table}\n\n{END}{rest.split(END, 1)[1]}")


if __name__ == "__main__":
    main()
