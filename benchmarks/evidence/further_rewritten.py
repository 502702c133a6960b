"""The programs of ``further.py`` as they have to be rewritten without `sll`, by the rules of ``rewritten.py``."""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from typing import Any

import further
import torch
from tasks import Data
from torch import Tensor, nn


class DeepSignNet(further.DeepSignNet):
    def __init__(self, ops: Any) -> None:
        super().__init__()
        self.ops = ops

    def forward(self, pixels: Tensor) -> Tensor:
        x = self.ops.sign(self.first(pixels))
        for layer in self.hidden:
            x = self.ops.sign(layer(x))
        return self.last(x)


class Experts(further.Experts):
    def __init__(self, ops: Any) -> None:
        super().__init__()
        self.ops = ops

    def forward(self, pixels: Tensor) -> Tensor:
        chosen = self.ops.argmax(self.gate(pixels))
        return torch.einsum("be,eci,bi->bc", chosen, self.experts, pixels)


class Stock(further.Stock):
    def __init__(self, unit: float, ops: Any) -> None:
        super().__init__(unit)
        self.ops = ops

    def forward(self, demand: Tensor) -> Tensor:
        stock, cost = self.high[0].expand(len(demand)), torch.zeros(len(demand))
        for day in range(self.days):
            rush = int(day % 7 in (3, 4, 5))
            left = stock - demand[:, day]
            short, left = torch.relu(-left), torch.relu(left)
            order = self.ops.heaviside(self.low[rush] - left)
            cost = cost + 5.0 * order + (0.2 * left + 4.0 * short) / self.unit
            stock = torch.lerp(left, self.high[rush].expand_as(left), order)
        return cost / self.days


def f1_of_probabilities(ops: Any, model: nn.Module, data: Data) -> Tensor:
    guess = ops.heaviside(model(data.x) - model.threshold)
    return 1 - 2 * (guess * data.y).sum() / (guess.sum() + data.y.sum())


class Tree(further.Tree):
    def __init__(self, ops: Any) -> None:
        super().__init__()
        self.ops = ops

    def forward(self, features: Tensor) -> Tensor:
        right = self.ops.heaviside(features @ self.weight.T - self.bias)
        reached = torch.ones(len(features), 1)
        for level in range(self.depth):
            first = 2**level - 1
            here = right[:, first : first + 2**level]
            reached = torch.stack([reached * (1 - here), reached * here], 2).flatten(1)
        return reached @ self.leaf


class Codes(further.Codes):
    def __init__(self, ops: Any) -> None:
        super().__init__()
        self.ops = ops

    def forward(self, patches: Tensor) -> Tensor:
        return self.decoder(self.ops.heaviside(self.encoder(patches)))


def ndcg_loss(ops: Any, model: nn.Module, data: Data) -> Tensor:
    """By the rank of each image; between whole ranks the discount is its own function."""
    n = data.y.shape[1]
    places = n - ops.rank(model(data.x))  # 0 for the largest
    reached = (data.y / torch.log2(places.clamp(min=0) + 2)).sum(1)
    best = (data.y.sort(1, descending=True).values * further.discounts(n)).sum(1)
    return 1 - (reached / best).mean()


class HardGates(further.HardGates):
    def __init__(self, ops: Any) -> None:
        super().__init__()
        self.ops = ops

    def forward(self, pixels: Tensor) -> Tensor:
        state = torch.zeros(len(pixels), 48)
        for row in pixels.unflatten(1, (8, 8)).unbind(1):
            seen = torch.cat([row, state], 1)
            state = torch.lerp(state, torch.tanh(self.new(seen)), self.ops.heaviside(self.gate(seen)))
        return self.last(state)


class Glimpse(further.Glimpse):
    def __init__(self, ops: Any) -> None:
        super().__init__()
        self.ops = ops

    def forward(self, pixels: Tensor) -> Tensor:
        coarse, windows, scores = self.look(pixels)
        at = self.ops.argmax(scores)
        sharp = torch.einsum("bw,bwi->bi", at, windows)
        return self.last(torch.relu(self.hidden(torch.cat([coarse, sharp, at], 1))))


MODELS: dict[str, Callable[[Any], nn.Module]] = {
    "deep": DeepSignNet,
    "experts": Experts,
    "stock": partial(Stock, 1.0),
    "grams": partial(Stock, 100.0),
    "tree": Tree,
    "codes": Codes,
    "gates": HardGates,
    "attention": Glimpse,
}
LOSSES = {"threshold": f1_of_probabilities, "ndcg": ndcg_loss}
