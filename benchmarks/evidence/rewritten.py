"""The first eight programs as they have to be rewritten without `sll`: every discrete decision is a call of `Ops`.

Booleans become products, lookups become matrix products with a one-hot row, metrics are written out again. Parameters
and their names are those of the plain program, so that what was trained is deployed with ``load_state_dict``. With
`HARD` operations they are the plain programs: `check` compares them.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from functools import partial

import further_rewritten
import tasks
import torch
import torch.nn.functional as F
from suite import TASKS
from tasks import Data, Program
from torch import Tensor, nn

Map = Callable[[Tensor], Tensor]


@dataclass(frozen=True)
class Ops:
    heaviside: Map
    """1 where x > 0, else 0."""
    sign: Map
    round: Map
    argmax: Map
    """One-hot, over the last dimension."""
    topk: Callable[[Tensor, int], Tensor]
    """1 at the k largest of a vector, else 0."""
    rank: Map
    """1 for the smallest of a vector, up to its length."""
    quantize: Callable[[Tensor, Tensor], tuple[Tensor, Tensor | float]] | None = None
    """The nearest words, and what else the loss needs; None: by `argmax`."""


def hard_argmax(scores: Tensor) -> Tensor:
    return F.one_hot(scores.argmax(-1), scores.shape[-1]).to(scores.dtype)


def hard_topk(scores: Tensor, k: int) -> Tensor:
    return torch.zeros_like(scores).scatter(-1, scores.topk(k).indices, 1.0)


def hard_rank(x: Tensor) -> Tensor:
    return x.argsort().argsort().to(x.dtype) + 1


def hard_heaviside(x: Tensor) -> Tensor:
    return (x > 0).to(x.dtype)


HARD = Ops(hard_heaviside, torch.sign, torch.round, hard_argmax, hard_topk, hard_rank)


class SignNet(tasks.SignNet):
    def __init__(self, ops: Ops) -> None:
        super().__init__()
        self.ops = ops

    def forward(self, pixels: Tensor) -> Tensor:
        x = self.ops.sign(self.first(pixels))
        x = self.ops.sign(self.second(x))
        return self.last(x)


class TernaryLinear(nn.Linear):
    def __init__(self, inputs: int, outputs: int, ops: Ops) -> None:
        super().__init__(inputs, outputs)
        self.ops = ops

    def forward(self, x: Tensor) -> Tensor:
        step = 1.5 * self.weight.abs().mean()
        weight = step * self.ops.round(torch.clamp(self.weight / step, -1, 1))
        return F.linear(x, weight, self.bias)


class QuantizedNet(nn.Module):
    def __init__(self, ops: Ops) -> None:
        super().__init__()
        self.ops = ops
        self.first = TernaryLinear(64, 128, ops)
        self.second = TernaryLinear(128, 128, ops)
        self.last = TernaryLinear(128, 10, ops)

    def forward(self, pixels: Tensor) -> Tensor:
        x = torch.round(torch.clamp(3 * pixels, 0, 3))  # of the data: nothing to learn before it
        x = self.ops.round(torch.clamp(self.first(x), 0, 3))
        x = self.ops.round(torch.clamp(self.second(x), 0, 3))
        return self.last(x)


class SpikingNet(tasks.SpikingNet):
    def __init__(self, ops: Ops) -> None:
        super().__init__()
        self.ops = ops

    def forward(self, pixels: Tensor) -> Tensor:
        current = self.first(pixels)
        membrane = torch.zeros(len(pixels), 64)
        out = total = torch.zeros(len(pixels), 10)
        for _ in range(self.steps):
            membrane = self.leak * membrane + current
            spike = self.ops.heaviside(membrane - 1)
            membrane = membrane - spike
            out = self.leak * out + self.last(spike)
            total = total + out
        return total / self.steps


class Autoencoder(tasks.Autoencoder):
    def __init__(self, ops: Ops) -> None:
        super().__init__()
        self.ops = ops

    def code(self, pixels: Tensor) -> tuple[Tensor, Tensor | float]:
        z = self.encoder(pixels).unflatten(1, (8, 4))
        if self.ops.quantize is not None:
            return self.ops.quantize(z, self.codebook)
        return self.ops.argmax(-torch.cdist(z, self.codebook)) @ self.codebook, 0.0

    def forward(self, pixels: Tensor) -> Tensor:
        return self.decoder(self.code(pixels)[0].flatten(1))


def autoencoder_loss(model: nn.Module, data: Data) -> Tensor:
    words, more = model.code(data.x)
    return F.mse_loss(model.decoder(words.flatten(1)), data.x) + more


def f1_loss(ops: Ops, model: nn.Module, data: Data) -> Tensor:
    decided = ops.heaviside(model(data.x))
    return 1 - 2 * (decided * data.y).sum() / (decided.sum() + data.y.sum())


def ranks_of_data(y: Tensor) -> Tensor:
    """Equal targets share the mean of their ranks."""
    return (y[:, None] > y).sum(1) + ((y[:, None] == y).sum(1) + 1) / 2


def spearman_loss(ops: Ops, model: nn.Module, data: Data) -> Tensor:
    ours, theirs = ops.rank(model(data.x)), ranks_of_data(data.y)
    ours, theirs = ours - ours.mean(), theirs - theirs.mean()
    spread = ours.square().mean().sqrt() * theirs.square().mean().sqrt()
    return 1 - (ours * theirs).mean() / (spread + 1e-6)


class Thermostat(tasks.Thermostat):
    def __init__(self, ops: Ops) -> None:
        super().__init__()
        self.ops = ops

    def forward(self, weather: Tensor, house: Tensor) -> Tensor:
        outdoor, price = weather.unbind(-1)
        loss, power = house.unbind(-1)
        hour = torch.arange(outdoor.shape[1])
        day = (hour >= 6) & (hour <= 22)
        setback = self.ops.heaviside(price - self.price) * self.setback
        low = torch.where(day, self.low[1], self.low[0]) - setback
        high = torch.where(day, self.high[1], self.high[0]) - setback

        inside = torch.full_like(loss, 2.0)
        on = torch.zeros(len(house))
        cost = torch.zeros(len(house))
        for step in range(outdoor.shape[1]):
            before = on
            cold = self.ops.heaviside(low[:, step] - inside)
            hot = self.ops.heaviside(inside - high[:, step])
            on = (on + cold - on * cold) * (1 - hot)
            inside = inside + loss * (outdoor[:, step] - inside) + power * on
            wanted = 5.0 if 7 <= step <= 22 else 2.0
            discomfort = torch.relu(wanted - inside).square() + torch.relu(inside - wanted - 2).square()
            switched = on + before - 2 * on * before
            cost = cost + 0.1 * power * price[:, step] * on + 0.5 * discomfort + 0.5 * switched
        return cost


class PixelChoice(tasks.PixelChoice):
    def __init__(self, ops: Ops) -> None:
        super().__init__()
        self.ops = ops

    def forward(self, pixels: Tensor) -> Tensor:
        mask = self.ops.topk(self.scores, self.k)
        return self.last(torch.relu(self.hidden(pixels * mask)))


def program(name: str, ops: Ops) -> Program:
    """The rewritten program of a task."""
    plain = TASKS[name].program
    networks = {
        "sign": SignNet,
        "quantized": QuantizedNet,
        "spiking": SpikingNet,
        "topk": PixelChoice,
        "controller": Thermostat,
        **further_rewritten.MODELS,
    }
    if name in networks:
        return Program(partial(networks[name], ops), plain.output, plain.loss)
    if name == "vq":
        return Program(partial(Autoencoder, ops), plain.output, autoencoder_loss)
    loss = partial({"f1": f1_loss, "rank": spearman_loss, **further_rewritten.LOSSES}[name], ops)
    return Program(plain.model, loss, loss)


def check(seeds: int = 3) -> dict[str, float]:
    """The largest difference between plain and rewritten hard programs, relative to the largest output, per task."""
    worst = {}
    for name, task in TASKS.items():
        found = []
        for seed in range(seeds):
            torch.manual_seed(seed)
            plain = task.program.model()
            by_hand = program(name, HARD)
            other = by_hand.model()
            other.load_state_dict(plain.state_dict())
            batch = task.data(0).train.rows(torch.randperm(len(task.data(0).train.y))[: task.batch])
            with torch.no_grad():
                for ours, theirs in ((by_hand.output, task.program.output), (by_hand.loss, task.program.loss)):
                    a, b = ours(other, batch), theirs(plain, batch)
                    found.append(((a - b).abs().max() / b.abs().max()).item())
        worst[name] = max(found)
    return worst
