"""Train a decision tree end to end: which feature each node asks for, and the threshold it compares it with.

The problem: decision trees are grown greedily, one split after the other, each as if it were the last. Where two
features say something only together (a checkerboard), no first split looks better than another, and the tree splits on
noise. All splits should be trained at once, for the loss of the whole tree; but `x[:, feature] > threshold` with
`feature = scores.argmax()` has no gradient.

`Trees` below is plain hard PyTorch, and nothing in it knows of sll. Gradients do get stuck in trees. So sixteen starts
are trained side by side, and the one with the best training accuracy is kept, for all methods alike. On the
checkerboard the greedy tree stays at chance, and sll is as good as a straight-through program written by hand. On a
real data set, 178 wines, the differences are within the noise.

    python benchmarks/gallery/decision_tree.py           # about ten seconds; nothing is downloaded
    python benchmarks/gallery/decision_tree.py --quick
"""

from __future__ import annotations

from collections.abc import Callable
from contextlib import AbstractContextManager, nullcontext
from pathlib import Path
from statistics import mean
from typing import Any, NamedTuple

import torch
import torch.nn.functional as F
from _common import run, save, show, spread
from matplotlib.figure import Figure
from sklearn.datasets import load_wine
from sklearn.model_selection import train_test_split
from sklearn.tree import DecisionTreeClassifier
from torch import Tensor, nn

import sll
import sll.plot

# --- 1. The program, as it is deployed ---


class Trees(nn.Module):
    """Trees of depth two, side by side: node 0 is the root, 1 and 2 its children; four leaves with class scores."""

    path = torch.tensor([[0, 1], [0, 1], [0, 2], [0, 2]])  # the nodes on the way to each leaf,
    turn = torch.tensor([[False, False], [False, True], [True, False], [True, True]])  # and where it turns right

    def __init__(self, features: int, classes: int, starts: int = 16) -> None:
        super().__init__()
        self.scores = nn.Parameter(0.1 * torch.randn(starts, 3, features))
        self.threshold = nn.Parameter(0.3 * torch.randn(starts, 3))
        self.leaves = nn.Parameter(0.1 * torch.randn(starts, 4, classes))

    def forward(self, x: Tensor) -> Tensor:
        """(rows, features) -> class scores, (rows, starts, classes)."""
        feature = self.scores.argmax(-1)
        right = x[:, feature] > self.threshold
        reached = (right[..., self.path] == self.turn).all(-1)
        return torch.einsum("nsl,slc->nsc", reached.float(), self.leaves)


# --- 2. Rewritten by hand for training ---


class StraightThroughTrees(Trees):
    """As in GradTree (Marton et al. 2024): hard values; backward a softmax over features, and a sigmoid per split."""

    def forward(self, x: Tensor) -> Tensor:
        soft = self.scores.softmax(-1)
        chosen = soft + (F.one_hot(self.scores.argmax(-1), soft.shape[-1]) - soft).detach()
        distance = torch.einsum("nf,skf->nsk", x, chosen) - self.threshold
        soft = torch.sigmoid(distance)
        right = (soft + ((distance > 0).float() - soft).detach())[..., self.path]
        reached = torch.where(self.turn, right, 1 - right).prod(-1)
        return torch.einsum("nsl,slc->nsc", reached, self.leaves)


# --- 3. Methods: each with the best of RATES on the validation splits, mean of data and of seeds 10 … 13 (`--tune`) ---

RATES = (0.01, 0.03, 0.1)
GREEDY, PLAIN, STE, SLL = "greedy (scikit-learn)", "plain", "straight-through", 'sll, "auto"'


class Method(NamedTuple):
    model: type[Trees]
    region: Callable[[], AbstractContextManager[object]]
    rate: float
    look: str
    rewritten: str


METHODS = {
    PLAIN: Method(Trees, nullcontext, 0.03, "plain", "nothing"),
    STE: Method(StraightThroughTrees, nullcontext, 0.03, "straight_through", "the tree"),
    SLL: Method(Trees, lambda: sll.linearize("auto"), 0.03, "auto", "nothing"),
}

Splits = list[tuple[Tensor, Tensor]]


def checkerboard(seed: int) -> Splits:
    """Two features that say something only together, six that say nothing, and 5 % wrong labels."""
    noise = torch.Generator().manual_seed(seed)
    x = 4 * torch.rand(1000, 8, generator=noise) - 2
    y = ((x[:, 0] > 0) ^ (x[:, 1] > 0) ^ (torch.rand(1000, generator=noise) < 0.05)).long()
    return list(zip(x.split([400, 200, 400]), y.split([400, 200, 400])))


def wines(seed: int) -> Splits:
    """178 wines, 13 features, 3 growers: 60 % to train, 20 % to choose learning rates, 20 % for the table."""
    x, y = (torch.tensor(a) for a in load_wine(return_X_y=True))
    first, rest = train_test_split(torch.arange(len(y)), test_size=0.4, random_state=seed, stratify=y)
    second, third = train_test_split(rest, test_size=0.5, random_state=seed, stratify=y[rest])
    x = (x - x[first].mean(0)) / x[first].std(0)
    return [(x[index].float(), y[index]) for index in (first, second, third)]


DATA = {"checkerboard": checkerboard, "wines": wines}


class Run(NamedTuple):
    validation: float
    test: float
    model: Any
    start: int = 0


def grow(splits: Splits) -> Run:
    (x, y), validation, test = splits
    tree = DecisionTreeClassifier(max_depth=2, random_state=0).fit(x, y)
    return Run(100 * tree.score(*validation), 100 * tree.score(*test), tree)


def train(method: Method, rate: float, splits: Splits, seed: int, steps: int = 80) -> Run:
    """Accuracy of the hard tree, in percent."""
    (x, y), *others = splits
    torch.manual_seed(seed)
    trees = method.model(x.shape[1], int(y.max()) + 1)
    deployed = Trees(x.shape[1], int(y.max()) + 1)
    region = method.region()
    optimizer = torch.optim.Adam(trees.parameters(), rate)
    for _ in range(steps):
        with region:
            scores = trees(x)
            loss = F.cross_entropy(scores.flatten(0, 1), y.repeat_interleave(scores.shape[1])) * scores.shape[1]
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
    deployed.load_state_dict(trees.state_dict())
    with torch.no_grad():
        of_starts = [100 * (deployed(a).argmax(-1) == b[:, None]).float().mean(0) for a, b in splits]
    best = int(of_starts[0].argmax())
    return Run(of_starts[1][best].item(), of_starts[2][best].item(), deployed, best)


# --- 4. What came out ---


def draw(scores: dict[str, dict[str, list[float]]], greedy: Run, ours: Run, path: Path) -> None:
    x, y = checkerboard(0)[2]
    with torch.no_grad():
        predictions = torch.tensor(greedy.model.predict(x)), ours.model(x)[:, ours.start].argmax(-1)
    feature = ours.model.scores.argmax(-1)[ours.start].tolist()
    threshold = ours.model.threshold[ours.start].tolist()
    with sll.plot.style():
        figure = Figure(figsize=(9, 3.6), dpi=110)
        *maps, dots = figure.subplots(1, 3)
        for axes, predicted, name in zip(maps, predictions, ("Greedy tree", "sll")):
            for value, look, marker in ((0, "hard", "o"), (1, "straight_through", "^")):
                at = x[predicted == value]
                axes.scatter(at[:, 0], at[:, 1], s=9, c=sll.plot.COLORS[look], marker=marker, label=f"class {value}")
            accuracy = 100 * (predicted == y).float().mean()
            axes.set(xlabel="feature 0", title=f"{name} predicts: {accuracy:.0f} % right", aspect="equal")
        spans = (-2, 2), (-2, threshold[0]), (threshold[0], 2)  # children split what is on their side of the root
        for node, (f, t, span) in enumerate(zip(feature, threshold, spans)):
            if f < 2:  # a line in the plane of the first two features
                maps[1].plot(
                    *(((t, t), span) if f == 0 else (span, (t, t))), color="black", linestyle="--" if node else "-"
                )
        maps[0].set(ylabel="feature 1")
        maps[0].legend(loc="upper right")
        for row, (name, found) in enumerate(scores.items()):
            for data, marker, shift in (("checkerboard", "s", -0.12), ("wines", "o", 0.12)):
                color = sll.plot.COLORS[METHODS[name].look if name in METHODS else "other"]
                dots.plot(found[data], [row + shift] * len(found[data]), marker, color=color, alpha=0.7)
        dots.plot([], [], "ks", label="checkerboard")
        dots.plot([], [], "ko", label="wines")
        dots.legend(loc="lower left")
        dots.set(
            yticks=range(len(scores)), yticklabels=[name.replace(" (", "\n(") for name in scores], ylim=(3.5, -0.5)
        )
        dots.set(xlabel="accuracy, %", title="Test splits, a dot per seed", xlim=(40, 102))
        save(figure, path)


def main(quick: bool = False, figure: Path = Path("out/decision_tree.png")) -> dict[str, list[float]]:
    """Test accuracies in percent, one for each seed, by "method, data"."""
    seeds, steps = ((0, 1), 50) if quick else ((0, 1, 2, 3), 80)
    runs: dict[str, dict[str, list[Run]]] = {name: {data: [] for data in DATA} for name in (GREEDY, *METHODS)}
    for data, make in DATA.items():
        for seed in seeds:
            runs[GREEDY][data].append(grow(make(seed)))
            for name, method in METHODS.items():
                runs[name][data].append(train(method, method.rate, make(seed), seed, steps))
    scores = {name: {data: [run.test for run in found] for data, found in of.items()} for name, of in runs.items()}
    rewritten = {name: METHODS[name].rewritten if name in METHODS else "–" for name in scores}
    rows = {name: (*map(spread, of.values()), rewritten[name]) for name, of in scores.items()}
    console = show(f"Trees of depth 2: test accuracy, %, {len(seeds)} seeds", (*DATA, "rewritten"), rows)
    draw(scores, runs[GREEDY]["checkerboard"][0], runs[SLL]["checkerboard"][0], figure)
    x, _ = checkerboard(0)[0]
    gradients = sll.explain(Trees(x.shape[1], 2), x, eps="auto")
    console.print("No gradient without a region:", ", ".join(of.name for of in gradients.inputs if not of.hard))
    for row in gradients.report.rows:
        if row.kind == "decides":
            console.print(
                f"It passes line {row.site.line} ({row.site.op}): {row.share:.0%} of the decisions are in the band."
            )
    console.print(f"figure: {figure}", soft_wrap=True)
    return {f"{name}, {data}": found for name, of in scores.items() for data, found in of.items()}


def tune() -> None:
    for name, method in METHODS.items():
        for rate in RATES:
            found = [train(method, rate, make(s), s).validation for make in DATA.values() for s in (10, 11, 12, 13)]
            print(f"{name}, rate {rate}: {mean(found[:4]):.1f} and {mean(found[4:]):.1f}, mean {mean(found):.2f}")


if __name__ == "__main__":
    run(__file__, __doc__, main, "two seeds, fifty steps", tune)
