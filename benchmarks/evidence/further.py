"""Ten more plain hard PyTorch programs, the last two of which no decision about `"auto"` has seen.

They follow the rules of ``tasks.py``: nothing here knows of `sll`, and nothing is edited for a method.
"""

from __future__ import annotations

import math
from functools import cache, partial

import torch
import torch.nn.functional as F
from sklearn.datasets import load_digits, load_sample_images
from tasks import (
    Data,
    Program,
    Splits,
    Task,
    accuracy,
    cross_entropy,
    diabetes,
    digits,
    forward,
    percent_left,
    tumours,
)
from torch import Tensor, nn

# --- 9. more sign layers, fewer units ---


class DeepSignNet(nn.Module):
    """64-32-32-32-32-10 with sign activations."""

    def __init__(self) -> None:
        super().__init__()
        self.first = nn.Linear(64, 32)
        self.hidden = nn.ModuleList(nn.Linear(32, 32) for _ in range(3))
        self.last = nn.Linear(32, 10)

    def forward(self, pixels: Tensor) -> Tensor:
        x = torch.sign(self.first(pixels))
        for layer in self.hidden:
            x = torch.sign(layer(x))
        return self.last(x)


# --- 10. a mixture of experts ---


class Experts(nn.Module):
    """Each image has the logits of one of eight linear classifiers of its 64 pixels."""

    def __init__(self) -> None:
        super().__init__()
        self.gate = nn.Linear(64, 8)
        self.experts = nn.Parameter(torch.randn(8, 10, 64) / 8)

    def forward(self, pixels: Tensor) -> Tensor:
        chosen = self.gate(pixels).argmax(-1)
        return torch.einsum("bci,bi->bc", self.experts[chosen], pixels)


# --- 11. and 12. an inventory, in two units ---


class Stock(nn.Module):
    """When less than ``low`` is left it is filled up to ``high``, other limits before a weekend than in the week."""

    days = 28

    def __init__(self, unit: float) -> None:
        super().__init__()
        self.unit = unit
        self.low = nn.Parameter(unit * (torch.tensor([2.0, 2.0]) + torch.rand(2)))
        self.high = nn.Parameter(unit * (torch.tensor([12.0, 12.0]) + torch.rand(2)))

    def forward(self, demand: Tensor) -> Tensor:
        """Cost of a day, of each path of `demand` (paths, days): orders, what is kept, and what is missing."""
        stock, cost = self.high[0].expand(len(demand)), torch.zeros(len(demand))
        for day in range(self.days):
            rush = int(day % 7 in (3, 4, 5))
            left = stock - demand[:, day]
            short = torch.where(left < 0, -left, 0.0)
            left = torch.where(left < 0, 0.0, left)
            order = left < self.low[rush]
            cost = cost + 5.0 * order + (0.2 * left + 4.0 * short) / self.unit
            stock = torch.where(order, self.high[rush], left)
        return cost / self.days


@cache
def demands(seed: int, unit: float) -> Splits:
    """Paths of four weeks, more on three days of each: 64 to train, 128 to validate, 512 to test."""
    noise = torch.Generator().manual_seed(seed)
    mean = torch.tensor([5.0, 5.0, 5.0, 5.0, 11.0, 11.0, 11.0]).repeat(4)
    wanted = unit * torch.poisson(mean.expand(64 + 128 + 512, -1), generator=noise)
    return Splits(*(Data(part, part) for part in wanted.split([64, 128, 512])))


def cost_of_a_day(model: nn.Module, data: Data) -> Tensor:
    return model(data.x).mean()


def minus(loss: Tensor, data: Data) -> float:
    return -loss.item()


def stock(name: str, title: str, unit: float) -> Task:
    return Task(
        name,
        title,
        "cost of a day",
        lambda seed: demands(seed, unit),
        Program(partial(Stock, unit), cost_of_a_day, cost_of_a_day),
        minus,
        epochs=200,
        batch=1000,
        lrs=(3e-2 * unit, 1e-1 * unit, 3e-1 * unit),
        higher_is_shown=False,
    )


# --- 13. probabilities with a learned threshold ---


class Probabilities(nn.Module):
    """A tumour is malignant where the probability is above a threshold that is learned as well."""

    def __init__(self) -> None:
        super().__init__()
        self.logit = nn.Linear(30, 1)
        self.threshold = nn.Parameter(torch.tensor(0.5))

    def forward(self, features: Tensor) -> Tensor:
        return torch.sigmoid(self.logit(features)).squeeze(1)


def f1_of_probabilities(model: nn.Module, data: Data) -> Tensor:
    guess = model(data.x) > model.threshold
    return 1 - 2 * (guess & (data.y == 1)).sum() / (guess.sum() + (data.y == 1).sum())


# --- 14. a decision tree ---


class Tree(nn.Module):
    """Three questions about weighted features, which lead to one of eight numbers."""

    depth = 3

    def __init__(self) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.randn(2**self.depth - 1, 10) / math.sqrt(10))
        self.bias = nn.Parameter(0.1 * torch.randn(2**self.depth - 1))
        self.leaf = nn.Parameter(0.3 * torch.randn(2**self.depth))

    def forward(self, features: Tensor) -> Tensor:
        node = torch.zeros(len(features), dtype=torch.long)
        for _ in range(self.depth):
            right = (self.weight[node] * features).sum(1) > self.bias[node]
            node = 2 * node + 1 + right
        return self.leaf[node - (2**self.depth - 1)]


@cache
def progress(seed: int) -> Splits:
    """The diabetes data, with a standardised target."""
    splits = diabetes(seed)
    mean, std = splits.train.y.mean(), splits.train.y.std()
    return Splits(*(Data(x, (y - mean) / std) for x, y in splits))


def squared_error(model: nn.Module, data: Data) -> Tensor:
    return F.mse_loss(model(data.x), data.y)


def explained(predicted: Tensor, data: Data) -> float:
    return 100 * (1 - F.mse_loss(predicted, data.y) / data.y.var(correction=0)).item()


# --- 15. binary codes of patches of photographs ---


class Codes(nn.Module):
    """A patch of 8 x 8 pixels is 24 bits."""

    def __init__(self) -> None:
        super().__init__()
        self.encoder = nn.Sequential(nn.Linear(64, 64), nn.ReLU(), nn.Linear(64, 24))
        self.decoder = nn.Linear(24, 64)

    def forward(self, patches: Tensor) -> Tensor:
        return self.decoder((self.encoder(patches) > 0).float())


@cache
def patches(seed: int) -> Splits:
    """Of two photographs, in grey, without their means: 2000 to train, 1000 to validate, 1000 to test."""
    noise = torch.Generator().manual_seed(seed)
    found = []
    for image in load_sample_images().images:
        grey = torch.tensor(image / 255, dtype=torch.float32).mean(2)
        cut = grey.unfold(0, 8, 8).unfold(1, 8, 8).reshape(-1, 64)
        found.append(cut[torch.randperm(len(cut), generator=noise)[:2000]])
    x = torch.cat(found)[torch.randperm(4000, generator=noise)]
    x = x - x.mean(1, keepdim=True)
    x = x / x.std()
    return Splits(*(Data(part, part) for part in x.split([2000, 1000, 1000])))


def error_of_patches(model: nn.Module, data: Data) -> Tensor:
    return F.mse_loss(model(data.x), data.x)


# --- 16. a loss of ranks in lists: NDCG ---


class Scorer(nn.Module):
    """The score of an image; in a list, images of higher digits are to come first."""

    def __init__(self) -> None:
        super().__init__()
        self.hidden = nn.Linear(64, 16)
        self.last = nn.Linear(16, 1)

    def forward(self, pixels: Tensor) -> Tensor:
        return self.last(torch.relu(self.hidden(pixels))).squeeze(-1)


def discounts(n: int) -> Tensor:
    return 1 / torch.log2(torch.arange(n) + 2.0)


def ndcg_loss(model: nn.Module, data: Data) -> Tensor:
    """`data.y`: the gains of each list, (lists, images)."""
    order = model(data.x).argsort(1, descending=True)
    reached = (data.y.gather(1, order) * discounts(data.y.shape[1])).sum(1)
    best = (data.y.sort(1, descending=True).values * discounts(data.y.shape[1])).sum(1)
    return 1 - (reached / best).mean()


@cache
def lists(seed: int) -> Splits:
    """Lists of ten images; half of the pixels of each are hidden by noise, so that nobody reaches 100."""
    bunch = load_digits()
    x, y = torch.tensor(bunch.data / 16, dtype=torch.float32), torch.tensor(bunch.target)
    noise = torch.Generator().manual_seed(seed)
    x = x + 0.4 * torch.randn(x.shape, generator=noise)
    kept = torch.randperm(len(y), generator=noise)[:1790].view(-1, 10)
    gains = 2.0 ** (y[kept] / 2) - 1
    order = torch.arange(len(kept)).split([100, 39, 40])
    return Splits(*(Data(x[kept[rows]], gains[rows]) for rows in order))


# --- held back 1. hard gates over the rows of a digit ---


class HardGates(nn.Module):
    """A recurrent network over eight rows of eight pixels; a gate takes the new state of a unit, or keeps the old."""

    def __init__(self) -> None:
        super().__init__()
        self.gate = nn.Linear(8 + 48, 48)
        self.new = nn.Linear(8 + 48, 48)
        self.last = nn.Linear(48, 10)

    def forward(self, pixels: Tensor) -> Tensor:
        state = torch.zeros(len(pixels), 48)
        for row in pixels.unflatten(1, (8, 8)).unbind(1):
            seen = torch.cat([row, state], 1)
            state = torch.where(self.gate(seen) > 0, torch.tanh(self.new(seen)), state)
        return self.last(state)


# --- held back 2. hard attention ---


class Glimpse(nn.Module):
    """Sees an image in 16 blocks of 2 x 2, and then one of nine windows of 4 x 4 pixels of it sharply."""

    def __init__(self) -> None:
        super().__init__()
        self.where = nn.Sequential(nn.Linear(16, 32), nn.ReLU(), nn.Linear(32, 9))
        self.hidden = nn.Linear(4 + 16 + 9, 48)
        self.last = nn.Linear(48, 10)

    def look(self, pixels: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """What it sees of the whole: very coarse, and of the windows; and scores of these."""
        image = pixels.unflatten(1, (1, 8, 8))
        windows = F.unfold(image, 4, stride=2).transpose(1, 2)
        return F.avg_pool2d(image, 4).flatten(1), windows, self.where(F.avg_pool2d(image, 2).flatten(1))

    def forward(self, pixels: Tensor) -> Tensor:
        coarse, windows, scores = self.look(pixels)
        at = scores.argmax(1)
        sharp = windows[torch.arange(len(at)), at]
        seen = torch.cat([coarse, sharp, F.one_hot(at, 9).float()], 1)
        return self.last(torch.relu(self.hidden(seen)))


HELD_BACK = ("gates", "attention")

FURTHER: dict[str, Task] = {
    task.name: task
    for task in (
        Task(
            "deep",
            "four sign layers",
            "accuracy, %",
            digits,
            Program(DeepSignNet, forward, cross_entropy),
            accuracy,
            epochs=30,
            batch=64,
            lrs=(3e-3, 1e-2, 3e-2),
        ),
        Task(
            "experts",
            "a mixture of experts",
            "accuracy, %",
            digits,
            Program(Experts, forward, cross_entropy),
            accuracy,
            epochs=20,
            batch=64,
            lrs=(3e-3, 1e-2, 3e-2),
        ),
        stock("stock", "inventory, in pieces", 1.0),
        stock("grams", "inventory, in hundredths", 100.0),
        Task(
            "threshold",
            "F1 of probabilities",
            "F1 score, %",
            tumours,
            Program(Probabilities, f1_of_probabilities, f1_of_probabilities),
            percent_left,
            epochs=150,
            batch=1000,
            lrs=(3e-3, 1e-2, 3e-2),
        ),
        Task(
            "tree",
            "a decision tree",
            "explained variance, %",
            progress,
            Program(Tree, forward, squared_error),
            explained,
            epochs=60,
            batch=64,
            lrs=(3e-3, 1e-2, 3e-2),
        ),
        Task(
            "codes",
            "binary codes",
            "1000 x squared error",
            patches,
            Program(Codes, error_of_patches, error_of_patches),
            lambda loss, data: -1000 * loss.item(),
            epochs=25,
            batch=128,
            lrs=(3e-3, 1e-2, 3e-2),
            higher_is_shown=False,
        ),
        Task(
            "ndcg",
            "direct NDCG",
            "NDCG, %",
            lists,
            Program(Scorer, ndcg_loss, ndcg_loss),
            percent_left,
            epochs=40,
            batch=25,
            lrs=(3e-3, 1e-2, 3e-2),
        ),
        Task(
            "gates",
            "hard gates",
            "accuracy, %",
            digits,
            Program(HardGates, forward, cross_entropy),
            accuracy,
            epochs=15,
            batch=128,
            lrs=(3e-3, 1e-2, 3e-2),
        ),
        Task(
            "attention",
            "hard attention",
            "accuracy, %",
            digits,
            Program(Glimpse, forward, cross_entropy),
            accuracy,
            epochs=30,
            batch=64,
            lrs=(3e-3, 1e-2, 3e-2),
        ),
    )
}
