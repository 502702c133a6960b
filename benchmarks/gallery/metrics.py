"""Maximise the score you report: F1 and IoU (Jaccard) of unmodified torchmetrics, on imbalanced data.

You report the F1 score of a rare class, or the IoU of a small object. Cross-entropy maximises neither: where positives
are rare and hard to tell, the best calibrated answer is "never". The score itself counts hard decisions, so its
gradient is zero. Inside a region of sll the score, torchmetrics code included, has one.

    python benchmarks/gallery/metrics.py [--quick] [--figure out/metrics.png]

Two tasks. Which diabetes patients will be among the sickest 15 %: F1, scikit-learn's data, a linear model. Which pixels
of a noisy picture belong to small discs: IoU, generated data, 3 % of the pixels, two convolutions. Cross-entropy is
trained longer, and with its threshold tuned. Against it the direct IoU wins clearly, and the direct F1 is a tie within
the noise of a small data set. Against the smooth score and the straight-through estimator both are ties. Those work as
well, but each score has to be written again by hand.
"""

from __future__ import annotations

import statistics
from collections.abc import Callable
from contextlib import AbstractContextManager, nullcontext
from pathlib import Path
from typing import NamedTuple

import torch
import torch.nn.functional as F
from _common import draw_curves, run, save, show, spread
from matplotlib.figure import Figure
from sklearn.datasets import load_diabetes
from sklearn.model_selection import train_test_split
from torch import Tensor, nn
from torchmetrics.functional.classification import binary_f1_score, binary_jaccard_index

import sll
import sll.plot

Loss = Callable[[Tensor, Tensor], Tensor]

# --- 1. The programs as they are deployed: a score above 0 is a "yes", and torchmetrics counts ---


def f1_loss(scores: Tensor, target: Tensor) -> Tensor:
    # validate_args would ask which values occur among the decisions: a question without a gradient.
    return 1 - binary_f1_score((scores > 0).long(), target, validate_args=False)


def iou_loss(scores: Tensor, target: Tensor) -> Tensor:
    return 1 - binary_jaccard_index((scores > 0).long(), target, validate_args=False)


def linear() -> nn.Module:
    return nn.Sequential(nn.Linear(10, 1), nn.Flatten(0))


def convolutions() -> nn.Module:
    return nn.Sequential(nn.Conv2d(1, 4, 5, padding=2), nn.ReLU(), nn.Conv2d(4, 1, 3, padding=1), nn.Flatten(0, 1))


# --- 2. The data: to train, to choose learning rates, to test. One split (one set of pictures) per seed. ---


class Data(NamedTuple):
    x: Tensor
    y: Tensor


def patients(seed: int) -> list[Data]:
    bunch = load_diabetes()
    x, progress = torch.tensor(21 * bunch.data, dtype=torch.float32), torch.tensor(bunch.target)  # unit variance
    y = (progress > progress.quantile(0.85)).long()
    train, rest = train_test_split(torch.arange(len(y)), test_size=0.5, random_state=seed, stratify=y)
    validation, test = train_test_split(rest, test_size=0.5, random_state=seed, stratify=y[rest])
    return [Data(x[rows], y[rows]) for rows in (train, validation, test)]


def pictures(seed: int) -> list[Data]:
    """Of 24 x 24 pixels with two discs of radius 1 to 2.5 and noise: 8 to train, 16 to validate, 32 to test."""
    noise = torch.Generator().manual_seed(seed)
    count = 8 + 16 + 32
    center, radius = 24 * torch.rand(count, 2, 2, 1, 1, generator=noise), torch.rand(count, 2, 1, 1, generator=noise)
    pixel = torch.stack(torch.meshgrid(torch.arange(24.0), torch.arange(24.0), indexing="ij"))
    y = ((pixel - center).norm(dim=2) < 1 + 1.5 * radius).any(1)
    x = y + 0.6 * torch.randn(count, 24, 24, generator=noise)
    return [Data(x[rows].unsqueeze(1), y[rows].long()) for rows in torch.arange(count).split([8, 16, 32])]


# --- 3. What people write instead: another loss, or the score again, with floats in the place of its counts. ---


def cross_entropy(scores: Tensor, target: Tensor) -> Tensor:
    return F.binary_cross_entropy_with_logits(scores, target.float())


def straight_through(scores: Tensor) -> Tensor:
    """Hard values, the slope of a window |score| <= 1."""
    ramp = (0.5 + scores / 2).clamp(0, 1)
    return ramp + ((scores > 0).float() - ramp).detach()


def by_hand(decide: Callable[[Tensor], Tensor]) -> dict[str, Loss]:
    """The two scores, written again for floats."""

    def f1(scores: Tensor, target: Tensor) -> Tensor:
        yes = decide(scores)
        return 1 - 2 * (yes * target).sum() / (yes.sum() + target.sum())

    def iou(scores: Tensor, target: Tensor) -> Tensor:
        yes = decide(scores)
        both = (yes * target).sum()
        return 1 - both / (yes.sum() + target.sum() - both)

    return {"F1": f1, "IoU": iou}


def tuned_threshold(scores: Tensor, target: Tensor) -> Tensor:
    """The best of 100 thresholds on the training split; F1 = 2 IoU / (1 + IoU), so it is the same one for both."""
    thresholds = scores.quantile(torch.linspace(0.5, 1, 101)[:100])
    yes = scores.flatten() > thresholds.unsqueeze(1)
    return thresholds[((yes & (target.flatten() == 1)).sum(1) / (yes.sum(1) + target.sum())).argmax()]


# --- 4. Methods. Each chose among RATES by its mean validation score over seeds 10 to 15: see `--tune`. ---
# Cross-entropy gets three times the steps of the others: on the pictures it needs them, and they do not.

RATES = (0.01, 0.03, 0.1)


class Method(NamedTuple):
    loss: dict[str, Loss]
    rate: dict[str, float]
    color: str
    rewritten: str
    region: Callable[[], AbstractContextManager[object]] = nullcontext
    tune_threshold: bool = False
    longer: int = 1


class Task(NamedTuple):
    data: Callable[[int], list[Data]]
    model: Callable[[], nn.Module]
    loss: Loss


TASKS = {"F1": Task(patients, linear, f1_loss), "IoU": Task(pictures, convolutions, iou_loss)}
SCORE: dict[str, Loss] = {name: task.loss for name, task in TASKS.items()}
ENTROPY: dict[str, Loss] = {"F1": cross_entropy, "IoU": cross_entropy}


METHODS = {
    "plain": Method(SCORE, {"F1": 0.01, "IoU": 0.01}, "plain", "nothing"),
    "cross-entropy": Method(ENTROPY, {"F1": 0.01, "IoU": 0.03}, "other", "loss", longer=3),
    "cross-entropy, threshold tuned": Method(
        ENTROPY, {"F1": 0.1, "IoU": 0.01}, "hard", "loss", tune_threshold=True, longer=3
    ),
    "smooth score": Method(by_hand(torch.sigmoid), {"F1": 0.03, "IoU": 0.01}, "sigmoid", "each score"),
    "straight-through": Method(by_hand(straight_through), {"F1": 0.01, "IoU": 0.01}, "straight_through", "each score"),
    "sll": Method(SCORE, {"F1": 0.01, "IoU": 0.1}, "auto", "nothing", lambda: sll.linearize("auto")),
}


class Run(NamedTuple):
    curve: list[float]  # validation score of the deployed program, in percent, at every tenth of the training
    test: float
    decided: Tensor  # what the trained program says about the test split


def train(task: str, method: Method, rate: float, seed: int, steps: int) -> Run:
    """Adam on the whole training split. Scores are those of the hard program, outside any region."""
    data, validation, test = TASKS[task].data(seed)
    torch.manual_seed(seed)
    model = TASKS[task].model()
    region = method.region()
    optimizer = torch.optim.Adam(model.parameters(), rate)

    @torch.no_grad()
    def scores_of(on: Data) -> Tensor:
        scores = model(on.x)
        return scores - tuned_threshold(model(data.x), data.y) if method.tune_threshold else scores

    def percent(on: Data) -> float:
        return 100 * (1 - SCORE[task](scores_of(on), on.y).item())

    curve = [percent(validation)]
    steps *= method.longer
    for step in range(1, steps + 1):
        with region:
            loss = method.loss[task](model(data.x), data.y)
        optimizer.zero_grad()
        if loss.requires_grad:  # the plain score does not: no path leads from it to the weights
            loss.backward()
        optimizer.step()
        if step % (steps // 10) == 0:
            curve.append(percent(validation))
    return Run(curve, percent(test), scores_of(test) > 0)


def tune() -> None:
    """Print the mean validation score of each method and rate. METHODS has the best."""
    for task in TASKS:
        for name, method in METHODS.items():
            runs = {rate: [train(task, method, rate, seed, 100).curve[-1] for seed in range(10, 16)] for rate in RATES}
            print(task, name, {rate: round(statistics.mean(scores), 1) for rate, scores in runs.items()})


# --- 5. What came out ---


def draw(runs: dict[str, dict[str, list[Run]]], path: Path) -> None:
    with sll.plot.style():
        figure = Figure(figsize=(9, 3.6), dpi=110)
        panels = figure.subplots(1, 4, width_ratios=(3, 3, 2, 2))
        for panel, task in zip(panels, TASKS):
            curves = {name: torch.tensor([of.curve for of in found]) for name, found in runs[task].items()}
            draw_curves(panel, curves, {name: method.color for name, method in METHODS.items()}, range(0, 101, 10))
            panel.set(
                title=f"deployed {task}", xlabel="training done (%)", ylabel=f"validation {task} (%)", ylim=(0, None)
            )
        picture = pictures(0)[2]
        for panel, name in zip(panels[2:], ("cross-entropy, threshold tuned", "sll")):
            panel.imshow(picture.x[0, 0], cmap="gray_r")
            found = runs["IoU"][name][0].decided[0]
            panel.scatter(*found.nonzero().T.flip(0), s=7, color=sll.plot.COLORS["auto"])
            panel.contour(picture.y[0], [0.5], colors=sll.plot.COLORS["hard"], linewidths=1.5)
            panel.set(
                title="dots: found by\n" + name.replace(", threshold", ",\nthreshold"),
                xlabel="blue: truth",
                xticks=[],
                yticks=[],
            )
            panel.grid(False)
        handles, labels = panels[0].get_legend_handles_labels()
        figure.legend(handles, labels, loc="outside lower center", ncols=6, frameon=False)
        save(figure, path)


def main(quick: bool = False, figure: Path = Path("out/metrics.png")) -> dict[str, list[float]]:
    """Test scores of the deployed programs in percent, one per seed, for each ``"task: method"``."""
    seeds, steps = (range(2), 50) if quick else (range(4), 100)
    runs = {
        task: {name: [train(task, m, m.rate[task], seed, steps) for seed in seeds] for name, m in METHODS.items()}
        for task in TASKS
    }
    scores = {f"{task}: {name}": [of.test for of in runs[task][name]] for task in TASKS for name in METHODS}
    rows = {
        name: (*(spread(scores[f"{task}: {name}"]) for task in TASKS), method.rewritten)
        for name, method in METHODS.items()
    }
    show(f"Test scores, mean ± std of {len(seeds)} seeds", ("F1, %", "IoU, %", "rewritten"), rows)
    draw(runs, figure)
    return scores


if __name__ == "__main__":
    run(__file__, __doc__, main, "two seeds, 50 steps", tune)
