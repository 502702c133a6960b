"""Choose two of thirty measurements and learn to diagnose with them, at once: `topk` of learned scores.

Each measurement of a tumour costs time, so the deployed program takes two, the same for everybody. Which ones is
`scores.topk(2).indices`, and an index has no gradient: trained as it is, the program keeps the two it began with.
People filter the features beforehand, each by itself (SelectKBest), or relax the choice by hand. In a region of sll the
program as it stands learns what to look at: features that are neighbours in the order of scores trade places.

    python benchmarks/gallery/feature_selection.py [--quick] [--figure out/feature_selection.png]

Breast-cancer data of scikit-learn: 569 tumours, 30 measurements, many of them variants of each other. sll is within the
noise of the filter, of Gumbel noise and of a straight-through choice, with nothing rewritten. It is not ahead of them.
Noise explores, which sll cannot: Gumbel agrees with itself most across seeds (see the figure). And "auto" is not
reliable here. On the seeds 10 to 15, which chose the rates, it was hardly better than no gradient. Its band follows the
scores (the last lines of the output), and what is far behind learns nothing. A wide band is safer.
"""

from __future__ import annotations

import itertools
import statistics
from contextlib import AbstractContextManager, nullcontext
from pathlib import Path
from typing import NamedTuple

import torch
import torch.nn.functional as F
from _common import draw_curves, run, save, show, spread
from matplotlib.figure import Figure
from sklearn.datasets import load_breast_cancer
from sklearn.feature_selection import SelectKBest, f_classif
from sklearn.model_selection import train_test_split
from torch import Tensor, nn

import sll
import sll.plot

FEATURES, CHOSEN = 30, 2


class Data(NamedTuple):
    x: Tensor
    y: Tensor


# --- 1. The program as it is deployed ---


class Network(nn.Module):
    """Sees two features, the same of every tumour."""

    def __init__(self, width: float, data: Data) -> None:
        super().__init__()
        self.scores = nn.Parameter(0.1 * torch.randn(FEATURES))
        self.hidden, self.last = nn.Linear(FEATURES, 16), nn.Linear(16, 2)
        self.width = width  # of what is written by hand below; means nothing here

    def mask(self) -> Tensor:
        chosen = self.scores.topk(CHOSEN).indices
        return torch.zeros(FEATURES).scatter(0, chosen, 1.0)

    def forward(self, x: Tensor) -> Tensor:
        return self.last(torch.relu(self.hidden(x * self.mask())))


# --- 2. What people write instead ---


class Filtered(Network):
    """scikit-learn chooses beforehand, by the F statistic of each feature."""

    def __init__(self, width: float, data: Data) -> None:
        super().__init__(width, data)
        chosen = SelectKBest(f_classif, k=CHOSEN).fit(data.x.numpy(), data.y.numpy()).get_support()
        with torch.no_grad():
            self.scores += 10 * torch.tensor(chosen)


class StraightThrough(Network):
    """The hard choice, with the slope of a window around the threshold between chosen and not."""

    def mask(self) -> Tensor:
        best = self.scores.topk(CHOSEN + 1).values
        ramp = (0.5 + (self.scores - best[-2:].mean()) / (2 * self.width)).clamp(0, 1)
        return ramp + (super().mask() - ramp).detach()


class Gumbel(Network):
    """Noise on the scores, hard values, slope of a relaxed top k (Xie and Ermon 2019) of temperature `width`."""

    def mask(self) -> Tensor:
        if not self.training:
            return super().mask()
        noisy = self.scores - torch.empty(FEATURES).exponential_().log()
        hard = torch.zeros(FEATURES).scatter(0, noisy.topk(CHOSEN).indices, 1.0)
        soft, left = torch.zeros(FEATURES), noisy / self.width
        for _ in range(CHOSEN):
            once = F.softmax(left, 0)
            soft, left = soft + once, left + (1 - once).clamp(min=1e-6).log()
        return soft + (hard - soft).detach()


# --- 3. The data ---


def tumours(seed: int) -> list[Data]:
    """Half to train, a fifth to choose learning rates and widths, the rest to test: another split for each seed."""
    bunch = load_breast_cancer()
    x, y = torch.tensor(bunch.data, dtype=torch.float32), torch.tensor(bunch.target)
    train, rest = train_test_split(torch.arange(len(y)), test_size=0.5, random_state=seed, stratify=y)
    validation, test = train_test_split(rest, test_size=0.6, random_state=seed, stratify=y[rest])
    mean, std = x[train].mean(0), x[train].std(0)
    return [Data((x[rows] - mean) / std, y[rows]) for rows in (train, validation, test)]


# --- 4. Methods. Each chose among RATES (and WIDTHS, if it has one) by its mean validation accuracy: see `--tune`. ---

RATES, WIDTHS = (0.01, 0.03, 0.1), (0.3, 1.0, 3.0)


class Method(NamedTuple):
    network: type[Network]
    rate: float
    width: float | None
    color: str
    rewritten: str
    region: str | None = None

    def enter(self, width: float) -> AbstractContextManager[object]:
        if self.region is None:
            return nullcontext()
        return sll.linearize("auto") if self.region == "auto" else sll.linearize(width, forward="hard")


METHODS = {
    "plain": Method(Network, 0.01, None, "plain", "nothing"),
    "SelectKBest": Method(Filtered, 0.01, None, "other", "a second step"),
    "Gumbel top-k": Method(Gumbel, 0.1, 1.0, "sigmoid", "the choice"),
    "straight-through": Method(StraightThrough, 0.1, 3.0, "straight_through", "the choice"),
    "sll, eps tuned": Method(Network, 0.1, 1.0, "hard", "nothing", "hard"),
    "sll": Method(Network, 0.01, None, "auto", "nothing", "auto"),
}


class Run(NamedTuple):
    curve: list[float]  # validation accuracy of the deployed program, in percent, at every tenth of the training
    test: float
    mask: Tensor


def train(method: Method, rate: float, width: float | None, seed: int, steps: int) -> Run:
    """Adam on the whole training split. Scores are those of the hard program, outside any region."""
    data, validation, test = tumours(seed)
    torch.manual_seed(seed)
    network = method.network(width or 1.0, data)
    region = method.enter(width or 1.0)
    optimizer = torch.optim.Adam(network.parameters(), rate)

    @torch.no_grad()
    def accuracy(on: Data) -> float:
        deployed = Network(1.0, data)
        deployed.load_state_dict(network.state_dict())
        return 100 * (deployed(on.x).argmax(1) == on.y).float().mean().item()

    curve = [accuracy(validation)]
    for step in range(1, steps + 1):
        with region:
            loss = F.cross_entropy(network(data.x), data.y)
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        if step % (steps // 10) == 0:
            curve.append(accuracy(validation))
    return Run(curve, accuracy(test), Network.mask(network).detach())


def tune() -> None:
    """Print the mean validation accuracy over seeds 10 to 15 of all settings. METHODS has the best."""
    for name, method in METHODS.items():
        scores = {}
        for rate, width in itertools.product(RATES, WIDTHS if method.width else (None,)):
            runs = [train(method, rate, width, seed, 150).curve[-1] for seed in range(10, 16)]
            scores[rate, width] = round(statistics.mean(runs), 1)
        print(name, scores)


# --- 5. What came out ---


def draw(runs: dict[str, list[Run]], path: Path) -> None:
    """Deployed accuracy during training, and how often which feature was chosen."""
    with sll.plot.style():
        figure = Figure(figsize=(9, 3.6), dpi=110)
        left, right = figure.subplots(1, 2, width_ratios=(1, 1.2))
        curves = {name: torch.tensor([of.curve for of in found]) for name, found in runs.items()}
        draw_curves(left, curves, {name: method.color for name, method in METHODS.items()}, range(0, 101, 10))
        left.set(xlabel="training done (%)", ylabel="deployed validation accuracy (%)")
        left.legend(loc="lower right")
        often = torch.stack([torch.stack([run.mask for run in runs[name]]).mean(0) for name in METHODS])
        image = right.imshow(100 * often, cmap="Greys", aspect="auto", vmin=0, vmax=100)
        right.set(yticks=range(len(METHODS)), yticklabels=list(METHODS), title="chosen features")
        right.set(xticks=[4.5, 14.5, 24.5], xticklabels=["means", "standard errors", "worst values"])
        right.vlines([9.5, 19.5], -0.5, len(METHODS) - 0.5, color="#666666", linewidth=0.8)
        right.grid(False)
        figure.colorbar(image, ax=right, label="chosen in % of the seeds")
        save(figure, path)


def main(quick: bool = False, figure: Path = Path("out/feature_selection.png")) -> dict[str, list[float]]:
    """Test accuracy of the deployed programs in percent, one per seed, for each method."""
    seeds, steps = (range(3), 40) if quick else (range(6), 150)
    runs = {name: [train(m, m.rate, m.width, seed, steps) for seed in seeds] for name, m in METHODS.items()}
    scores = {name: [of.test for of in found] for name, found in runs.items()}
    rows = {name: (spread(of), METHODS[name].rewritten) for name, of in scores.items()}
    console = show(f"Test scores, mean ± std of {len(seeds)} seeds", ("accuracy, %", "rewritten"), rows)
    draw(runs, figure)

    data = tumours(0)[0]
    torch.manual_seed(0)
    network = Network(1.0, data)
    with sll.linearize("auto") as region:
        F.cross_entropy(network(data.x), data.y).backward()
    half_width = max(used.largest for used in region.report().eps.values())
    reached = int((network.scores.grad != 0).sum())
    console.print(
        f'"auto" at the start: a half-width of {half_width:.2f}, {reached} of {FEATURES} scores get a gradient'
    )
    return scores


if __name__ == "__main__":
    run(__file__, __doc__, main, "three seeds, 40 steps", tune)
