"""Train three discrete programs on real data: as they are, rewritten by hand, and as they are in a region.

    sll demo            # a minute on two cores; nothing is downloaded
    sll demo --quick    # a few seconds: one seed, two epochs

The programs are a network with sign activations and one with 2-bit weights and activations, both on scikit-learn's
handwritten digits, and a linear classifier of the breast-cancer data that maximises torchmetrics' F1 score itself.
All scores are those of the deployed program: hard decisions, outside any region, without gradients.

Needs scikit-learn, torchmetrics, matplotlib and rich: ``pip install rich typer matplotlib scikit-learn torchmetrics``.
"""

from __future__ import annotations

import math
import statistics
import time
from collections.abc import Callable, Sequence
from contextlib import AbstractContextManager, nullcontext
from pathlib import Path
from typing import Any, NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor, nn

import sll

from .._reports.picture import COLORS, style

try:
    from matplotlib.figure import Figure  # without pyplot: draws with Agg, and needs no display
    from rich.console import Console
    from rich.progress import track
    from rich.table import Table
    from sklearn.datasets import load_breast_cancer, load_digits  # type: ignore[import-untyped]
    from sklearn.model_selection import train_test_split  # type: ignore[import-untyped]
    from torchmetrics.functional.classification import binary_f1_score

    from .console import print_json
except ImportError as error:
    raise ImportError(
        f"the demo needs {error.name}: pip install rich typer matplotlib scikit-learn torchmetrics", name=error.name
    ) from error

Loss = Callable[[Tensor, Tensor], Tensor]
SEEDS = (0, 1, 2)


# --- 1. The programs, as they are deployed: no line of them knows of sll. ---


class SignNet(nn.Module):
    """64-128-128-10 with sign activations."""

    def __init__(self) -> None:
        super().__init__()
        self.first = nn.Linear(64, 128)
        self.second = nn.Linear(128, 128)
        self.last = nn.Linear(128, 10)

    def forward(self, pixels: Tensor) -> Tensor:
        x = torch.sign(self.first(pixels))
        x = torch.sign(self.second(x))
        logits: Tensor = self.last(x)
        return logits


class TwoBitLinear(nn.Linear):
    """A linear layer whose weights are one of four values: -2, -1, 0 or 1 steps."""

    def forward(self, x: Tensor) -> Tensor:
        step = 1.5 * self.weight.abs().mean()
        weight = step * torch.round(torch.clamp(self.weight / step, -2, 1))
        return F.linear(x, weight, self.bias)


class TwoBitNet(nn.Module):
    """64-128-128-10 with 2-bit weights and 2-bit activations (0, 1, 2 or 3)."""

    layer: type[nn.Linear] = TwoBitLinear

    def __init__(self) -> None:
        super().__init__()
        self.first, self.second, self.last = self.layer(64, 128), self.layer(128, 128), self.layer(128, 10)

    def forward(self, pixels: Tensor) -> Tensor:
        x = torch.round(torch.clamp(3 * pixels, 0, 3))
        x = torch.round(torch.clamp(self.first(x), 0, 3))
        x = torch.round(torch.clamp(self.second(x), 0, 3))
        logits: Tensor = self.last(x)
        return logits


class Classifier(nn.Linear):
    """A linear score; its sign is the decision."""

    def __init__(self) -> None:
        super().__init__(30, 1)

    def forward(self, features: Tensor) -> Tensor:
        return super().forward(features).squeeze(1)


def f1_loss(scores: Tensor, target: Tensor) -> Tensor:
    """What shall be small: one minus the F1 score of the hard decisions, counted by torchmetrics."""
    return 1 - binary_f1_score((scores > 0).long(), target, validate_args=False)


# --- 2. The same programs rewritten by hand: hard values forward, a slope of one's choice backward. ---


def sign_ste(x: Tensor) -> Tensor:
    """Clipped: the slope of hardtanh(x / 0.25), on the validation split the best of five widths and of no clipping."""
    ramp = F.hardtanh(x / 0.25)
    return ramp + (torch.sign(x) - ramp).detach()


def round_ste(x: Tensor) -> Tensor:
    """Used on clamped values: on the validation split better than on all values, and no worse than before the clamp."""
    return x + (torch.round(x) - x).detach()


class SignNetSTE(SignNet):
    def forward(self, pixels: Tensor) -> Tensor:
        x = sign_ste(self.first(pixels))
        x = sign_ste(self.second(x))
        logits: Tensor = self.last(x)
        return logits


class TwoBitLinearSTE(TwoBitLinear):
    def forward(self, x: Tensor) -> Tensor:
        step = 1.5 * self.weight.abs().mean()
        weight = step * round_ste(torch.clamp(self.weight / step, -2, 1))
        return F.linear(x, weight, self.bias)


class TwoBitNetSTE(TwoBitNet):
    layer = TwoBitLinearSTE

    def forward(self, pixels: Tensor) -> Tensor:
        x = round_ste(torch.clamp(3 * pixels, 0, 3))
        x = round_ste(torch.clamp(self.first(x), 0, 3))
        x = round_ste(torch.clamp(self.second(x), 0, 3))
        logits: Tensor = self.last(x)
        return logits


def f1_loss_ste(scores: Tensor, target: Tensor) -> Tensor:
    """The metric has to be rewritten, too: torchmetrics counts bools and integers, through which no estimator passes.

    Clipped to a band of half-width 0.5, the best of five on the validation split.
    """
    ramp = torch.clamp(0.5 + scores / (2 * 0.5), 0, 1)
    decided = ramp + ((scores > 0).float() - ramp).detach()
    return 1 - 2 * (decided * target).sum() / (decided.sum() + target.sum())


# --- 3. The data, split once: 60 % to train, 20 % to choose widths and learning rates, 20 % for the table. ---


class Data(NamedTuple):
    x: Tensor
    y: Tensor


def split(x: Tensor, y: Tensor) -> tuple[Data, Data]:
    """To train, and for the table."""
    train, rest = train_test_split(torch.arange(len(y)), test_size=0.4, random_state=0, stratify=y)
    _, test = train_test_split(rest, test_size=0.5, random_state=0, stratify=y[rest])
    return Data(x[train], y[train]), Data(x[test], y[test])


def digits() -> tuple[Data, Data]:
    """1797 images of 8 x 8 pixels."""
    bunch = load_digits()
    return split(torch.tensor(bunch.data / 16, dtype=torch.float32), torch.tensor(bunch.target))


def breast_cancer() -> tuple[Data, Data]:
    """569 tumours, 30 features, standardised on the training split; the positive class is malignant."""
    bunch = load_breast_cancer()
    train, test = split(torch.tensor(bunch.data, dtype=torch.float32), torch.tensor(1 - bunch.target))
    mean, std = train.x.mean(0), train.x.std(0)
    return Data((train.x - mean) / std, train.y), Data((test.x - mean) / std, test.y)


# --- 4. The tasks, and what is compared ---


class Program(NamedTuple):
    model: Callable[[], nn.Module]
    loss: Loss


class Task(NamedTuple):
    """All that its methods share, initial weights and the order of batches aside: those are in the seed.

    The learning rate is the best on the validation split, or within noise of it, for the estimator and for sll alike.
    """

    name: str
    score_name: str
    score: Callable[[Tensor, Tensor], float]
    data: Callable[[], tuple[Data, Data]]
    program: Program
    by_hand: Program
    epochs: int
    batch: int
    lr: float


class Method(NamedTuple):
    edited: str
    by_hand: bool
    region: Callable[[], AbstractContextManager[Any]]


METHODS = {
    "plain": Method("nothing", False, nullcontext),
    "by hand": Method("nets, F1", True, nullcontext),
    "sll auto": Method("nothing", False, lambda: sll.linearize("auto")),
}


def accuracy(logits: Tensor, target: Tensor) -> float:
    return (logits.argmax(1) == target).float().mean().item()


def f1(scores: Tensor, target: Tensor) -> float:
    return 1 - f1_loss(scores, target).item()


TASKS = [
    Task("sign network", "accuracy", accuracy, digits, Program(SignNet, F.cross_entropy),
         Program(SignNetSTE, F.cross_entropy), epochs=30, batch=64, lr=1e-2),
    Task("2-bit network", "accuracy", accuracy, digits, Program(TwoBitNet, F.cross_entropy),
         Program(TwoBitNetSTE, F.cross_entropy), epochs=30, batch=64, lr=1e-2),
    Task("direct F1", "F1 score", f1, breast_cancer, Program(Classifier, f1_loss),
         Program(Classifier, f1_loss_ste), epochs=100, batch=1000, lr=3e-2),
]  # fmt: skip


# --- 5. Training, the same for all ---


class Run(NamedTuple):
    test: float
    """Score of the deployed program, in percent."""
    seconds: float


def train(task: Task, method: Method, seed: int, epochs: int) -> Run:
    torch.manual_seed(seed)
    program, ((x, y), test) = task.by_hand if method.by_hand else task.program, task.data()
    model, region = program.model(), method.region()
    optimizer = torch.optim.Adam(model.parameters(), task.lr)
    schedule = torch.optim.lr_scheduler.CosineAnnealingLR(optimizer, epochs)
    start = time.perf_counter()
    for _ in range(epochs):
        for batch in torch.split(torch.randperm(len(y)), task.batch):
            with region:
                loss = program.loss(model(x[batch]), y[batch])
            optimizer.zero_grad()
            if loss.requires_grad:  # the plain F1 score does not: there is no path from it to the weights
                loss.backward()  # type: ignore[no-untyped-call]
            optimizer.step()
        schedule.step()
    seconds = time.perf_counter() - start
    deployed = task.program.model()
    deployed.load_state_dict(model.state_dict())
    with torch.no_grad():
        return Run(100 * task.score(deployed(test.x), test.y), seconds)


Results = dict[str, dict[str, list[Run]]]
"""Method, then task, then one run per seed."""


def run_all(tasks: Sequence[Task], seeds: Sequence[int], quick: bool) -> Results:
    results: Results = {name: {task.name: [] for task in tasks} for name in METHODS}
    jobs = [(task, seed, name) for task in tasks for seed in seeds for name in METHODS]  # (taking turns)
    for task, seed, name in track(jobs, "training", console=Console(stderr=True)):  # stdout is for the results
        results[name][task.name].append(train(task, METHODS[name], seed, 2 if quick else task.epochs))
    return results


# --- 6. What came out ---


def table(tasks: Sequence[Task], results: Results) -> Table:
    (plain, *_) = results.values()
    found = Table(
        title=f"Test scores of the deployed programs, % (seeds: {len(plain[tasks[0].name])})",
        caption="By hand: straight-through estimators, windows tuned. sll auto: the plain program in a region.",
    )
    found.add_column("method", no_wrap=True)
    found.add_column("you edit", no_wrap=True)
    for task in tasks:
        found.add_column(f"{task.name}\n{task.score_name}", justify="right", no_wrap=True)
    found.add_column("time of\ntraining", justify="right", no_wrap=True)
    for name, runs in results.items():
        times = [run.seconds / own.seconds for task in tasks for run, own in zip(runs[task.name], plain[task.name])]
        slower = math.exp(statistics.mean(map(math.log, times)))
        found.add_row(name, METHODS[name].edited, *(_mean(runs[task.name]) for task in tasks), f"{slower:.1f} x")
    return found


def _mean(runs: list[Run]) -> str:
    scores = [run.test for run in runs]
    spread = f" ± {statistics.stdev(scores):.1f}" if len(scores) > 1 else ""
    return f"{statistics.mean(scores):.1f}{spread}"


def picture(steps: int = 100) -> Figure:
    """A program, its values, its gradients, and what they are worth to a network of signs on the digits."""

    def program(x: Tensor) -> Tensor:
        return torch.where(x > 0.5, torch.round(2 * x), torch.sign(x + 0.7))

    x = (-1.5 + 3 * (torch.arange(800) + 0.5) / 800).requires_grad_()  # (none is a decision boundary)
    with sll.linearize(0.12, forward="linear"):
        y = program(x)
    (gradient,) = torch.autograd.grad(y.sum(), x)
    with style():
        figure = Figure(figsize=(8.2, 3.1))
        values, slopes, training = figure.subplots(1, 3)
    at = x.detach()
    for axes, name, plain, inside in (
        (values, "values", program(at), y.detach()),
        (slopes, "gradient", torch.zeros_like(at), gradient),
    ):
        axes.plot(at, plain, color=COLORS["plain"], linestyle=":", label="as it is")
        axes.plot(at, inside, color=COLORS["auto"], label="in a region")
        axes.set(title=name, xlabel="x")
        axes.legend(loc="upper left")
    slopes.set_ylim(-0.5, 13)
    training.plot(_readme(sll.hard(), steps), color=COLORS["plain"], linestyle=":", label="as it is")
    training.plot(_readme(sll.linearize("auto"), steps), color=COLORS["auto"], label="in a region")
    training.set(title="training a network of signs", xlabel="step", ylabel="test accuracy, %", ylim=(0, 100))
    training.legend(loc="center right")
    return figure


def _readme(region: AbstractContextManager[Any], steps: int) -> list[float]:
    """The README's first snippet: the accuracy of the deployed program after each step."""
    x, y = map(torch.tensor, load_digits(return_X_y=True))
    x = x.float() / 8 - 1
    torch.manual_seed(0)
    a, b = nn.Linear(64, 128), nn.Linear(128, 10)

    def network(x: Tensor) -> Tensor:
        return torch.sign(x @ a.weight.sign().T) @ b.weight.sign().T / 8

    optimizer = torch.optim.Adam([a.weight, b.weight], 0.01)
    scores = []
    for _ in range(steps):
        with region:
            loss = F.cross_entropy(network(x[:1200]), y[:1200])
        if loss.requires_grad:
            optimizer.zero_grad()
            loss.backward()  # type: ignore[no-untyped-call]
            optimizer.step()
        with torch.no_grad():
            scores.append(100 * accuracy(network(x[1200:]), y[1200:]))
    return scores


def main(quick: bool = False, path: Path = Path("out/demo.png"), as_json: bool = False) -> None:
    """Train, print the table, draw the README's picture to `path`. `quick` only shows that it runs."""
    start = time.perf_counter()
    seeds = SEEDS[:1] if quick else SEEDS
    results = run_all(TASKS, seeds, quick)
    path.parent.mkdir(parents=True, exist_ok=True)
    picture(2 if quick else 100).savefig(path)
    seconds = time.perf_counter() - start
    if not as_json:
        console = Console(highlight=False)
        console.print(table(TASKS, results))
        console.print(f"The README's picture: [bold]{path}[/bold] ({seconds:.0f} s in all)", soft_wrap=True)
        return
    tasks = [_of_task(task, results) for task in TASKS]
    print_json({"seeds": seeds, "quick": quick, "tasks": tasks, "figure": str(path), "seconds": seconds})


def _of_task(task: Task, results: Results) -> dict[str, Any]:
    methods = [
        {"name": name, "edited": METHODS[name].edited, **dict(zip(Run._fields, map(list, zip(*runs[task.name]))))}
        for name, runs in results.items()
    ]
    return {"name": task.name, "score": task.score_name, "methods": methods}
