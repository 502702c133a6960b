"""Train three discrete programs on real data: as they are, rewritten by hand, and as they are inside ``sll``.

    sll demo            # a minute or two on two cores; nothing is downloaded
    sll demo --quick    # a few seconds: one seed, two epochs

The programs are a network with sign activations and one with 2-bit weights and activations, both on scikit-learn's
handwritten digits, and a linear classifier of the breast-cancer data that maximises torchmetrics' F1 score itself.
All scores are those of the deployed program: hard decisions, outside any region, without gradients.

Needs scikit-learn, torchmetrics, matplotlib and rich: ``pip install rich typer matplotlib scikit-learn torchmetrics``.
"""

from __future__ import annotations

import json
import statistics
import time
from collections.abc import Callable, Sequence
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any, NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor, nn

import sll

try:
    from matplotlib.figure import Figure  # without pyplot: draws with Agg, and needs no display
    from rich.console import Console
    from rich.progress import Progress, TimeElapsedColumn
    from rich.table import Table
    from sklearn.datasets import load_breast_cancer, load_digits  # type: ignore[import-untyped]
    from sklearn.model_selection import train_test_split  # type: ignore[import-untyped]
    from torchmetrics.functional.classification import binary_f1_score
except ImportError as error:
    raise ImportError(
        f"the demo needs {error.name}: pip install rich typer matplotlib scikit-learn torchmetrics", name=error.name
    ) from error

Loss = Callable[[Tensor, Tensor], Tensor]
Score = Callable[[Tensor, Tensor], float]

SEEDS = (0, 1, 2)

PLAIN = "plain hard"
STE = "straight-through"
LINEAR = "sll, linear"
HARD = "sll, hard"
AUTO = "sll, auto"
SMOOTH = "cross-entropy"

WHAT_IS_REWRITTEN = {
    PLAIN: "nothing",
    STE: "nets and F1",
    LINEAR: "nothing",
    HARD: "nothing",
    AUTO: "nothing",
    SMOOTH: "the loss",
}

# Colours of Okabe and Ito, which the colour-blind can tell apart. The thick line shows where two methods coincide.
STYLES: dict[str, dict[str, Any]] = {
    PLAIN: {"color": "#000000", "linestyle": ":", "linewidth": 2},
    STE: {"color": "#E69F00", "linestyle": "-", "linewidth": 4},
    LINEAR: {"color": "#009E73", "linestyle": "-", "linewidth": 1.5},
    HARD: {"color": "#0072B2", "linestyle": "--", "linewidth": 1.5},
    AUTO: {"color": "#D55E00", "linestyle": "-", "linewidth": 1.5},
    SMOOTH: {"color": "#CC79A7", "linestyle": "-.", "linewidth": 1.5},
}


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

    def __init__(self) -> None:
        super().__init__()
        self.first = TwoBitLinear(64, 128)
        self.second = TwoBitLinear(128, 128)
        self.last = TwoBitLinear(128, 10)

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
    # validate_args asks which values occur among the decisions, a question that has no gradient. sll would rightly say
    # so in a LostGradientWarning, but the score needs no gradient from there.
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
    def __init__(self) -> None:
        super().__init__()
        self.first = TwoBitLinearSTE(64, 128)
        self.second = TwoBitLinearSTE(128, 128)
        self.last = TwoBitLinearSTE(128, 10)

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


def smooth_loss(scores: Tensor, target: Tensor) -> Tensor:
    """For scale: not the F1 score, but what one would minimise in its place."""
    return F.binary_cross_entropy_with_logits(scores, target.float())


# --- 3. The data, split once: 60 % to train, 20 % to choose eps, widths and learning rates, 20 % for the table. ---


class Data(NamedTuple):
    x: Tensor
    y: Tensor


class Splits(NamedTuple):
    train: Data
    validation: Data
    test: Data


def split(x: Tensor, y: Tensor) -> Splits:
    train, rest = train_test_split(torch.arange(len(y)), test_size=0.4, random_state=0, stratify=y)
    validation, test = train_test_split(rest, test_size=0.5, random_state=0, stratify=y[rest])
    return Splits(*(Data(x[index], y[index]) for index in (train, validation, test)))


def digits() -> Splits:
    """1797 images of 8 x 8 pixels."""
    bunch = load_digits()
    return split(torch.tensor(bunch.data / 16, dtype=torch.float32), torch.tensor(bunch.target))


def breast_cancer() -> Splits:
    """569 tumours, 30 features, standardised on the training split; the positive class is malignant."""
    bunch = load_breast_cancer()
    splits = split(torch.tensor(bunch.data, dtype=torch.float32), torch.tensor(1 - bunch.target))
    mean, std = splits.train.x.mean(0), splits.train.x.std(0)
    return Splits(*(Data((x - mean) / std, y) for x, y in splits))


# --- 4. The tasks, and what is compared ---


class Program(NamedTuple):
    model: Callable[[], nn.Module]
    loss: Loss


class Method(NamedTuple):
    program: Program
    region: Callable[[], AbstractContextManager[Any]]


@dataclass(frozen=True)
class Task:
    """Its methods share the data, initial weights, order of batches, optimizer, learning rate and number of epochs."""

    name: str
    score_name: str
    score: Score
    data: Splits
    program: Program
    by_hand: Program
    epochs: int
    batch: int
    lr: float
    eps: float
    eps_reason: str
    """May name ``{share}``: the share of training values inside the band before training."""
    decided: tuple[str, ...] = ()
    """The modules whose outputs meet a jump at zero, for ``{share}``."""
    for_scale: Program | None = None

    def methods(self) -> dict[str, Method]:
        """The program as it is, rewritten by hand, and as it is in a region."""
        found = {
            PLAIN: Method(self.program, nullcontext),
            STE: Method(self.by_hand, nullcontext),
            LINEAR: Method(self.program, lambda: sll.linearize(self.eps, forward="linear")),
            HARD: Method(self.program, lambda: sll.linearize(self.eps, forward="hard")),
            AUTO: Method(self.program, lambda: sll.linearize("auto")),
        }
        return found if self.for_scale is None else {**found, SMOOTH: Method(self.for_scale, nullcontext)}


def accuracy(logits: Tensor, target: Tensor) -> float:
    return (logits.argmax(1) == target).float().mean().item()


def f1(scores: Tensor, target: Tensor) -> float:
    return 1 - f1_loss(scores, target).item()


def make_tasks() -> list[Task]:
    """The three tasks. What was to be chosen is the best on the validation split, over eight seeds that no table shows.

    That is eps, the widths of the estimators (same grid) and one learning rate per task, which is the best, or within
    noise of it, for the estimator and for sll alike. (The plain sign network gains one point from a smaller one.)
    """
    images, tumours = digits(), breast_cancer()
    return [
        Task(
            name="sign network",
            score_name="accuracy",
            score=accuracy,
            data=images,
            program=Program(SignNet, F.cross_entropy),
            by_hand=Program(SignNetSTE, F.cross_entropy),
            epochs=30,
            batch=64,
            lr=1e-2,
            eps=0.25,
            eps_reason="the best of 0.01, 0.1, 0.25, 0.5, 1 and 2 on the validation split: {share:.0%} of the "
            "pre-activations lie in that band (before training, on the training split).",
            decided=("first", "second"),
        ),
        Task(
            name="2-bit network",
            score_name="accuracy",
            score=accuracy,
            data=images,
            program=Program(TwoBitNet, F.cross_entropy),
            by_hand=Program(TwoBitNetSTE, F.cross_entropy),
            epochs=30,
            batch=64,
            lr=1e-2,
            eps=0.5,
            eps_reason="half a step, the widest band that round has, so all values lie in one; 0.05, 0.1, 0.25 and 0.4 "
            'were worse on the validation split with "hard". (At 1/2, "linear" trains without any rounding.)',
        ),
        Task(
            name="direct F1",
            score_name="F1 score",
            score=f1,
            data=tumours,
            program=Program(Classifier, f1_loss),
            by_hand=Program(Classifier, f1_loss_ste),
            epochs=100,
            batch=len(tumours.train.y),
            lr=3e-2,
            eps=0.5,
            eps_reason="the best of 0.1, 0.25, 0.5, 1 and 2 on the validation split: {share:.0%} of the scores lie in "
            "that band (before training, on the training split).",
            decided=("",),
            for_scale=Program(Classifier, smooth_loss),
        ),
    ]


def share_in_band(task: Task) -> float:
    """Share of the values at a jump that lie within eps of it, before training, on the training split."""
    torch.manual_seed(SEEDS[0])
    model = task.program.model()
    seen: list[Tensor] = []
    for name in task.decided:
        model.get_submodule(name).register_forward_hook(lambda module, args, output: seen.append(output.flatten()))
    with torch.no_grad():
        model(task.data.train.x)
    return (torch.cat(seen).abs() <= task.eps).float().mean().item()


# --- 5. Training, the same for all; only `method.region` differs between a plain run and one with sll. ---


class Run(NamedTuple):
    validation: list[float]
    """Score of the deployed program after each epoch, in percent."""
    test: float


def train(task: Task, method: Method, seed: int, epochs: int, tick: Callable[[], None]) -> Run:
    torch.manual_seed(seed)
    model, deployed = method.program.model(), task.program.model()
    x, y = task.data.train
    region = method.region()
    optimizer = torch.optim.Adam(model.parameters(), task.lr)
    schedule = torch.optim.lr_scheduler.CosineAnnealingLR(optimizer, epochs)

    def score_of(data: Data) -> float:
        deployed.load_state_dict(model.state_dict())
        with torch.no_grad():
            return 100 * task.score(deployed(data.x), data.y)

    validation = []
    for _ in range(epochs):
        for batch in torch.split(torch.randperm(len(y)), task.batch):
            with region:
                loss = method.program.loss(model(x[batch]), y[batch])
            optimizer.zero_grad()
            if loss.requires_grad:  # the plain F1 score does not: there is no path from it to the weights
                loss.backward()  # type: ignore[no-untyped-call]
            optimizer.step()
        schedule.step()
        validation.append(score_of(task.data.validation))
        tick()
    return Run(validation, score_of(task.data.test))


Results = dict[str, dict[str, list[Run]]]
"""Task name, then method name, then one run per seed."""


def run_all(tasks: list[Task], seeds: Sequence[int], quick: bool) -> Results:
    results: Results = {task.name: {name: [] for name in task.methods()} for task in tasks}
    columns = (*Progress.get_default_columns(), TimeElapsedColumn())
    with Progress(*columns, console=Console(stderr=True)) as progress:  # stdout is for the results
        bar = progress.add_task("training", total=len(seeds) * sum(len(methods) for methods in results.values()))
        for task in tasks:
            epochs = 2 if quick else task.epochs
            for name, method in task.methods().items():
                progress.update(bar, description=f"{task.name}: {name}")
                for seed in seeds:
                    tick = partial(progress.advance, bar, 1 / epochs)
                    results[task.name][name].append(train(task, method, seed, epochs, tick))
        progress.update(bar, description="trained")
    return results


# --- 6. What came out ---


def mean_and_std(runs: list[Run]) -> str:
    scores = [run.test for run in runs]
    spread = f" ± {statistics.stdev(scores):.1f}" if len(scores) > 1 else ""
    return f"{statistics.mean(scores):.1f}{spread}"


def show_table(tasks: list[Task], results: Results, console: Console) -> None:
    seeds = len(results[tasks[0].name][PLAIN])
    table = Table(title=f"Test scores of the deployed programs, % (mean ± std, seeds: {seeds})")
    table.add_column("method", no_wrap=True)
    table.add_column("rewritten")
    for task in tasks:
        table.add_column(f"{task.name}\n{task.score_name}", justify="right", no_wrap=True)
    for name, rewritten in WHAT_IS_REWRITTEN.items():
        runs = [results[task.name].get(name) for task in tasks]
        table.add_row(name, rewritten, *("–" if run is None else mean_and_std(run) for run in runs))
    console.print(table)


def draw(tasks: list[Task], results: Results, path: Path) -> None:
    """Validation curves of the deployed programs: mean over the seeds, and a band from the worst to the best."""
    figure = Figure(figsize=(13, 4.8), layout="constrained")
    figure.suptitle("Scores of the deployed programs during training (line: mean over seeds, band: worst to best)")
    panels = figure.subplots(1, len(tasks), squeeze=False)[0]
    for panel, task in zip(panels, tasks):
        for name, runs in results[task.name].items():
            curves = torch.tensor([run.validation for run in runs])
            epoch = range(1, curves.shape[1] + 1)
            color = STYLES[name]["color"]
            panel.fill_between(epoch, curves.amin(0), curves.amax(0), color=color, alpha=0.2, linewidth=0)
            panel.plot(epoch, curves.mean(0), label=name, **STYLES[name])
        panel.set_title(task.name)
        panel.set_xlabel("epoch")
        panel.set_ylabel(f"deployed validation {task.score_name} (%)")
        panel.set_ylim(top=100)
        panel.grid(alpha=0.3)
    handles, labels = panels[-1].get_legend_handles_labels()
    figure.legend(handles, labels, loc="outside lower center", ncols=len(labels), frameon=False)
    path.parent.mkdir(parents=True, exist_ok=True)
    figure.savefig(path, dpi=150)


READING = """\
All sll rows train the unedited programs; "linear" and "hard" say which values training sees inside the band, whose \
width was tuned; "auto" finds a width by itself, at the learning rate that was tuned for the others. "hard" \
has the gradient of the straight-through estimator of that width: these two rows differ by rounding, and in what \
somebody had to write. "cross-entropy" is a smooth stand-in for F1, for scale."""


def reason_for_eps(task: Task) -> str:
    return task.eps_reason.format(share=share_in_band(task)) if task.decided else task.eps_reason


def to_dict(tasks: list[Task], results: Results) -> list[dict[str, Any]]:
    """What `sll demo --json` prints under ``"tasks"``: scores in percent, one per seed, and per epoch for curves."""
    return [
        {
            "name": task.name,
            "score": task.score_name,
            "eps": task.eps,
            "eps_reason": reason_for_eps(task),
            "methods": [
                {
                    "name": name,
                    "rewritten": WHAT_IS_REWRITTEN[name],
                    "test": [run.test for run in runs],
                    "validation": [run.validation for run in runs],
                }
                for name, runs in results[task.name].items()
            ],
        }
        for task in tasks
    ]


def main(quick: bool = False, path: Path = Path("out/demo.png"), as_json: bool = False) -> None:
    """Train, print the table, draw the curves to `path`. `quick` only shows that it runs: one seed, two epochs."""
    start = time.perf_counter()
    seeds, tasks = SEEDS[:1] if quick else SEEDS, make_tasks()
    results = run_all(tasks, seeds, quick)
    draw(tasks, results, path)
    seconds = time.perf_counter() - start
    if as_json:
        found = {"seeds": seeds, "quick": quick, "tasks": to_dict(tasks, results)}
        print(json.dumps({**found, "figure": str(path), "seconds": seconds}, indent=2))
        return
    console = Console(highlight=False)
    show_table(tasks, results, console)
    console.print(READING)
    for task in tasks:
        console.print(f"[bold]{task.name}[/bold]: eps = {task.eps}, {reason_for_eps(task)}")
    console.print(f"Curves on the validation split: [bold]{path}[/bold] ({seconds:.0f} s in all)", soft_wrap=True)
