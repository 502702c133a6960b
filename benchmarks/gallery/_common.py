"""What the comparisons share: data, tables, figures, and how they are called."""

from __future__ import annotations

import argparse
import statistics
from collections.abc import Callable, Mapping, Sequence
from contextlib import AbstractContextManager
from pathlib import Path
from typing import Any

import torch
import torch.nn.functional as F
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from rich.console import Console
from rich.table import Table
from sklearn.datasets import load_digits
from sklearn.model_selection import train_test_split
from torch import Tensor, nn

import sll
import sll.plot


def digits() -> list[tuple[Tensor, Tensor]]:
    """1797 images of 8 x 8 pixels: 60 % to train, 20 % to choose learning rates, 20 % for the table."""
    x, y = (torch.tensor(a) for a in load_digits(return_X_y=True))
    first, rest = train_test_split(torch.arange(len(y)), test_size=0.4, random_state=0, stratify=y)
    second, third = train_test_split(rest, test_size=0.5, random_state=0, stratify=y[rest])
    return [(x[index].float() / 16, y[index]) for index in (first, second, third)]


def train_on_digits(
    network: nn.Module,
    deployed: nn.Module,
    region: AbstractContextManager[object],
    rate: float,
    epochs: int,
    batch: int,
) -> tuple[list[float], float]:
    """Accuracy of the deployed program, in percent: on the validation split after each epoch, and on the test split."""
    (x, y), validation, test = digits()
    optimizer = torch.optim.Adam(network.parameters(), rate)
    schedule = torch.optim.lr_scheduler.CosineAnnealingLR(optimizer, epochs)

    def accuracy(images: Tensor, labels: Tensor) -> float:
        deployed.load_state_dict(network.state_dict())
        with torch.no_grad():
            return 100 * (deployed(images).argmax(1) == labels).float().mean().item()

    curve = [accuracy(*validation)]
    for _ in range(epochs):
        for some in torch.randperm(len(y)).split(batch):
            with region:
                loss = F.cross_entropy(network(x[some]), y[some])
            optimizer.zero_grad()
            loss.backward()
            optimizer.step()
        schedule.step()
        curve.append(accuracy(*validation))
    return curve, accuracy(*test)


# --- what came out ---


def spread(scores: Sequence[float], digits: int = 1) -> str:
    """Mean and standard deviation over the seeds."""
    return f"{statistics.mean(scores):.{digits}f} ± {statistics.stdev(scores):.{digits}f}"


def show(title: str, columns: Sequence[str], rows: Mapping[str, Sequence[str]]) -> Console:
    """Print a table with a row for each method."""
    table = Table("method", *columns, title=title)
    for name, cells in rows.items():
        table.add_row(name, *cells)
    console = Console(highlight=False)
    console.print(table)
    return console


def look(key: str) -> dict[str, Any]:
    return {"color": sll.plot.COLORS[key], "linestyle": sll.plot.LINES[key]}


def draw_curves(axes: Axes, curves: Mapping[str, Tensor], looks: Mapping[str, str], at: Any = None) -> None:
    """The mean over the seeds, and from the least to the most of them; (seeds, points) each."""
    for name, curve in curves.items():
        points = range(curve.shape[1]) if at is None else at
        axes.plot(points, curve.mean(0), label=name, **look(looks[name]))
        color = sll.plot.COLORS[looks[name]]
        axes.fill_between(points, curve.amin(0), curve.amax(0), color=color, alpha=0.1, linewidth=0)


def save(figure: Figure, path: Path) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    figure.savefig(path)


# --- the command line ---


def tune_rates(
    methods: Mapping[str, Any], rates: Sequence[float], score: Callable[[Any, float, int], float], seeds: Sequence[int]
) -> None:
    """Print the validation scores of all methods and rates. METHODS has the best."""
    for name, method in methods.items():
        for rate in rates:
            print(f"{name}, rate {rate}: {spread([score(method, rate, seed) for seed in seeds], 2)}", flush=True)


def run(
    file: str,
    doc: str | None,
    main: Callable[[bool, Path], object],
    quick: str,
    tune: Callable[..., None] | None = None,
    **flags: str,
) -> None:
    """The script `file`. `quick` says what is less then; `flags` are those of `tune`, with their help."""
    torch.set_num_threads(1)
    parser = argparse.ArgumentParser(description=(doc or "").split("\n")[0])
    parser.add_argument("--quick", action="store_true", help=quick)
    if tune is not None:
        parser.add_argument("--tune", action="store_true", help="print the validation scores that chose the settings")
    for flag, meaning in flags.items():
        parser.add_argument(f"--{flag}", action="store_true", help=f"with --tune: {meaning}")
    default = Path(f"out/{Path(file).stem}.png")
    parser.add_argument("--figure", type=Path, default=default, help="where to save the figure")
    options = parser.parse_args()
    if tune is not None and options.tune:
        tune(**{flag: getattr(options, flag) for flag in flags})
    else:
        main(options.quick, options.figure)
