"""Learning to rank: the NDCG that you report is the loss, sorted by `argsort` as it is deployed.

You have queries, documents with grades, and a model whose scores sort them. What counts is the NDCG of the first five.
It depends on the scores through their order alone, so its gradient is zero; people train a stand-in, over pairs of
documents (RankNet, LambdaRank) or over whole lists (ListNet). In a region of sll the sort itself passes a gradient on:
neighbours in the order trade places.

    python benchmarks/gallery/ranking.py [--quick] [--figure out/ranking.png]

The data are generated: 30 queries to train, 30 to choose learning rates, 100 to test. Each has 16 documents with grades
0 to 4. The model is linear, and cannot get everything right. Test scores are torchmetrics' NDCG, whose code is
unmodified. It can be trained on as well, query by query: the end of the script compares the two gradients. The result
is a tie with the best stand-ins, within the noise of the seeds, without writing a loss.
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
from torch import Tensor, nn
from torchmetrics.retrieval import RetrievalNormalizedDCG

import sll
import sll.plot

TOP, DOCUMENTS = 5, 16

# --- 1. The program as it is deployed: sort by score, add up the grades of the first five at a discount ---

DISCOUNT = (torch.arange(DOCUMENTS) < TOP) / torch.log2(torch.arange(DOCUMENTS) + 2.0)


def ideal(grades: Tensor) -> Tensor:
    return (grades.sort(1, descending=True).values * DISCOUNT).sum(1)


def ndcg_loss(scores: Tensor, grades: Tensor) -> Tensor:
    """Scores and grades are (queries, documents)."""
    order = scores.argsort(1, descending=True)
    return 1 - ((grades.gather(1, order) * DISCOUNT).sum(1) / ideal(grades)).mean()


def torchmetrics_loss(scores: Tensor, grades: Tensor) -> Tensor:
    query = torch.arange(len(grades)).unsqueeze(1).expand_as(grades)
    return 1 - RetrievalNormalizedDCG(top_k=TOP)(scores, grades, indexes=query)


# --- 2. What people write instead ---


def differences(x: Tensor) -> Tensor:
    return x.unsqueeze(2) - x.unsqueeze(1)


def ranknet(scores: Tensor, grades: Tensor) -> Tensor:
    """Pairwise: whichever document has the better grade shall have the better score (Burges et al. 2005)."""
    better = differences(grades) > 0
    return F.softplus(-differences(scores))[better].mean()


def lambdarank(scores: Tensor, grades: Tensor) -> Tensor:
    """Pairwise, weighted by what the NDCG would gain if the two traded places (Burges et al. 2006)."""
    place = scores.detach().argsort(1, descending=True).argsort(1)
    gain = differences(grades).clamp(min=0) * differences(DISCOUNT[place]).abs() / ideal(grades)[:, None, None]
    return (gain * F.softplus(-differences(scores))).sum() / len(scores)


def listnet(scores: Tensor, grades: Tensor) -> Tensor:
    """Listwise: a cross-entropy between two softmaxes (Cao et al. 2007)."""
    return -(F.softmax(grades.float(), 1) * F.log_softmax(scores, 1)).sum(1).mean()


def straight_through(scores: Tensor, grades: Tensor) -> Tensor:
    """The NDCG again, its places counted by comparing all pairs: hard values, the slope of a window of width 1."""
    behind = differences(-scores)
    ramp = (0.5 + behind / 2).clamp(0, 1)
    place = (ramp + ((behind > 0).float() - ramp).detach()).sum(2)  # counts from 0
    discount = (place < TOP) / torch.log2(place + 2)
    return 1 - ((grades * discount).sum(1) / ideal(grades)).mean()


# --- 3. The data ---


class Data(NamedTuple):
    x: Tensor
    grades: Tensor


def search(seed: int) -> list[Data]:
    """Documents match a query more or less, and among those that match quality counts; some queries are easy."""
    noise = torch.Generator().manual_seed(seed)
    sizes = [30, 30, 100]
    x = torch.randn(sum(sizes), DOCUMENTS, 8, generator=noise)
    match, quality = x[..., 0] + x[..., 1] - 0.5 * x[..., 2], x[..., 3] - x[..., 4] + 0.5 * x[..., 5]
    worth = match + match.relu() * quality + 0.7 * torch.randn(x.shape[:2], generator=noise)
    grades = torch.bucketize(worth + torch.randn(len(x), 1, generator=noise), torch.tensor([0.0, 1.5, 3.0, 4.5]))
    grades[:, 0].clamp_(min=1)  # something is relevant to each query
    return [Data(x[queries], grades[queries]) for queries in torch.arange(len(x)).split(sizes)]


# --- 4. Methods. Each chose among RATES by its mean validation score over seeds 10 to 15: see `--tune`. ---

RATES = (0.01, 0.03, 0.1, 0.3)


class Method(NamedTuple):
    loss: Callable[[Tensor, Tensor], Tensor]
    rate: float
    color: str
    rewritten: str
    region: Callable[[], AbstractContextManager[object]] = nullcontext


METHODS = {
    "plain": Method(ndcg_loss, 0.01, "plain", "nothing"),
    "RankNet": Method(ranknet, 0.01, "other", "the loss"),
    "LambdaRank": Method(lambdarank, 0.1, "sigmoid", "the loss"),
    "ListNet": Method(listnet, 0.1, "hard", "the loss"),
    "straight-through": Method(straight_through, 0.1, "straight_through", "the NDCG, without a sort"),
    "sll": Method(ndcg_loss, 0.03, "auto", "nothing", lambda: sll.linearize("auto")),
}


class Run(NamedTuple):
    curve: list[float]  # validation NDCG of the deployed program, in percent, at every tenth of the training
    test: float
    model: nn.Module


def make() -> nn.Module:
    return nn.Sequential(nn.Linear(8, 1, bias=False), nn.Flatten(1))


def train(method: Method, rate: float, seed: int, steps: int) -> Run:
    """Adam on all queries at once. Scores are those of the hard program, outside any region."""
    data, validation, test = search(seed)
    torch.manual_seed(seed)
    model = make()
    region = method.region()
    optimizer = torch.optim.Adam(model.parameters(), rate)

    @torch.no_grad()
    def percent(on: Data, loss: Callable[[Tensor, Tensor], Tensor]) -> float:
        return 100 * (1 - loss(model(on.x), on.grades).item())

    curve = [percent(validation, ndcg_loss)]
    for step in range(1, steps + 1):
        with region:
            loss = method.loss(model(data.x), data.grades)
        optimizer.zero_grad()
        if loss.requires_grad:  # the plain NDCG does not: no path leads from it to the scores
            loss.backward()
        optimizer.step()
        if step % (steps // 10) == 0:
            curve.append(percent(validation, ndcg_loss))
    return Run(curve, percent(test, torchmetrics_loss), model)


def tune() -> None:
    """Print the mean validation score of each method and rate. METHODS has the best."""
    for name, method in METHODS.items():
        runs = {rate: [train(method, rate, seed, 100).curve[-1] for seed in range(10, 16)] for rate in RATES}
        print(name, {rate: round(statistics.mean(scores), 1) for rate, scores in runs.items()})


# --- 5. What came out ---


def draw(runs: dict[str, list[Run]], path: Path) -> None:
    """Deployed NDCG during training, and what twelve queries of the test split show first."""
    with sll.plot.style():
        figure = Figure(figsize=(9, 3.6), dpi=110)
        panels = figure.subplots(1, 3, width_ratios=(2, 1.2, 1.2))
        curves = {name: torch.tensor([of.curve for of in found]) for name, found in runs.items()}
        draw_curves(panels[0], curves, {name: method.color for name, method in METHODS.items()}, range(0, 101, 10))
        panels[0].set(xlabel="training done (%)", ylabel=f"deployed validation NDCG@{TOP} (%)", ylim=(None, 100))
        panels[0].legend()
        test = search(0)[2]
        for panel, name in zip(panels[1:], ("plain", "sll")):
            with torch.no_grad():
                order = runs[name][0].model(test.x).argsort(1, descending=True)
            image = panel.imshow(test.grades.gather(1, order)[:12], cmap="cividis", aspect="auto")
            panel.axvline(TOP - 0.5, color="white", linestyle="--")
            panel.set(title=f"sorted by {name}", xlabel="place", xticks=range(0, 16, 5), xticklabels=range(1, 17, 5))
            panel.set(ylabel="query" if name == "plain" else None, yticks=[])
            panel.grid(False)
        figure.colorbar(image, ax=panels[1:], label="grade", ticks=range(5))
        save(figure, path)


def main(quick: bool = False, figure: Path = Path("out/ranking.png")) -> dict[str, list[float]]:
    """Test NDCG of the deployed programs in percent, one per seed, for each method."""
    seeds, steps = (range(2), 40) if quick else (range(5), 100)
    runs = {name: [train(method, method.rate, seed, steps) for seed in seeds] for name, method in METHODS.items()}
    scores = {name: [of.test for of in found] for name, found in runs.items()}
    rows = {name: (spread(of), METHODS[name].rewritten) for name, of in scores.items()}
    console = show(f"Test scores, mean ± std of {len(seeds)} seeds", (f"NDCG@{TOP}, %", "rewritten"), rows)
    draw(runs, figure)

    torch.manual_seed(0)
    data, model = search(0)[0], make()
    gradients = []
    for loss in (ndcg_loss, torchmetrics_loss):
        with sll.linearize("auto"):
            gradients.append(torch.autograd.grad(loss(model(data.x), data.grades), model[0].weight)[0])
    console.print(
        f"Cosine of the program's gradient and that of torchmetrics' NDCG: {F.cosine_similarity(*gradients).item():.4f}"
    )
    return scores


if __name__ == "__main__":
    run(__file__, __doc__, main, "two seeds, 40 steps", tune)
