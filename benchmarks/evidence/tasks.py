"""Eight plain hard PyTorch programs, with their data. Nothing here knows of `sll`, and nothing is edited for a method.

A task is a model, what it puts out (``output``), what training makes small (``loss``) and what the table shows
(``score``, higher is better). All are small: a plain training run takes less than half a second on one thread.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass
from functools import cache
from typing import NamedTuple

import torch
import torch.nn.functional as F
from sklearn.datasets import load_breast_cancer, load_diabetes, load_digits
from sklearn.model_selection import train_test_split
from torch import Tensor, nn
from torchmetrics.functional import spearman_corrcoef
from torchmetrics.functional.classification import binary_f1_score


class Data(NamedTuple):
    x: Tensor
    y: Tensor

    def rows(self, index: Tensor) -> Data:
        return Data(self.x[index], self.y[index])


class Splits(NamedTuple):
    train: Data
    validation: Data
    test: Data


def split(data: Data, seed: int, shares: tuple[float, float, float] = (0.6, 0.2, 0.2), stratify: bool = True) -> Splits:
    """One split per seed: a single small test split would decide which of two equal methods looks better."""
    _, validation, test = shares
    label = data.y if stratify else None
    train, rest = train_test_split(
        torch.arange(len(data.y)), test_size=validation + test, random_state=seed, stratify=label
    )
    label = data.y[rest] if stratify else None
    middle, last = train_test_split(rest, test_size=test / (validation + test), random_state=seed, stratify=label)
    return Splits(data.rows(train), data.rows(middle), data.rows(last))


def standardised(splits: Splits) -> Splits:
    mean, std = splits.train.x.mean(0), splits.train.x.std(0)
    return Splits(*(Data((x - mean) / std, y) for x, y in splits))


@cache
def digits(seed: int) -> Splits:
    """1797 images of 8 x 8 pixels."""
    bunch = load_digits()
    return split(Data(torch.tensor(bunch.data / 16, dtype=torch.float32), torch.tensor(bunch.target)), seed)


Model = Callable[[], nn.Module]
Output = Callable[[nn.Module, Data], Tensor]


@dataclass(frozen=True)
class Program:
    """What is trained. ``output`` is all that a method may change; what is made of it is the same for everybody."""

    model: Model
    output: Output
    loss: Output


@dataclass(frozen=True)
class Task:
    name: str
    title: str
    score_name: str
    data: Callable[[int], Splits]
    """Of a seed."""
    program: Program
    measure: Callable[[Tensor, Data], float]
    """Score of an output, higher is better."""
    epochs: int
    batch: int
    lrs: tuple[float, float, float]
    higher_is_shown: bool = True
    """False: the score is the negative of what a table shows."""

    def score(self, model: nn.Module, data: Data) -> float:
        return self.measure(self.program.output(model, data), data)

    def shown(self, score: float) -> float:
        return score if self.higher_is_shown else -score


# --- what most programs share: logits, cross-entropy, accuracy; or an output that is the loss itself ---


def forward(model: nn.Module, data: Data) -> Tensor:
    return model(data.x)


def cross_entropy(model: nn.Module, data: Data) -> Tensor:
    return F.cross_entropy(model(data.x), data.y)


def accuracy(logits: Tensor, data: Data) -> float:
    return 100 * (logits.argmax(1) == data.y).float().mean().item()


def percent_left(loss: Tensor, data: Data) -> float:
    """For losses that are one minus a score."""
    return 100 * (1 - loss.item())


# --- 1. sign activations ---


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
        return self.last(x)


# --- 2. ternary weights, 2-bit activations ---


class TernaryLinear(nn.Linear):
    """A linear layer whose weights are -1, 0 or 1 steps."""

    def forward(self, x: Tensor) -> Tensor:
        step = 1.5 * self.weight.abs().mean()
        weight = step * torch.round(torch.clamp(self.weight / step, -1, 1))
        return F.linear(x, weight, self.bias)


class QuantizedNet(nn.Module):
    """64-128-128-10 with ternary weights and 2-bit activations (0, 1, 2 or 3)."""

    def __init__(self) -> None:
        super().__init__()
        self.first = TernaryLinear(64, 128)
        self.second = TernaryLinear(128, 128)
        self.last = TernaryLinear(128, 10)

    def forward(self, pixels: Tensor) -> Tensor:
        x = torch.round(torch.clamp(3 * pixels, 0, 3))
        x = torch.round(torch.clamp(self.first(x), 0, 3))
        x = torch.round(torch.clamp(self.second(x), 0, 3))
        return self.last(x)


# --- 3. spiking neurons ---


class SpikingNet(nn.Module):
    """64 leaky integrate-and-fire neurons, 20 steps of constant input; the reset subtracts what a spike took.

    The class scores are the membranes of ten neurons that integrate the spikes and never fire, averaged over time.
    """

    steps = 20
    leak = 0.9

    def __init__(self) -> None:
        super().__init__()
        self.first = nn.Linear(64, 64)
        self.last = nn.Linear(64, 10)

    def forward(self, pixels: Tensor) -> Tensor:
        current = self.first(pixels)
        membrane = torch.zeros(len(pixels), 64)
        out = total = torch.zeros(len(pixels), 10)
        for _ in range(self.steps):
            membrane = self.leak * membrane + current
            spike = (membrane > 1).float()
            membrane = membrane - spike
            out = self.leak * out + self.last(spike)
            total = total + out
        return total / self.steps


# --- 4. vector quantization ---


class Autoencoder(nn.Module):
    """The code of an image is 8 words of 4 numbers from a codebook of 16."""

    def __init__(self) -> None:
        super().__init__()
        self.encoder = nn.Sequential(nn.Linear(64, 64), nn.ReLU(), nn.Linear(64, 32))
        self.codebook = nn.Parameter(0.5 * torch.randn(16, 4))
        self.decoder = nn.Sequential(nn.Linear(32, 64), nn.ReLU(), nn.Linear(64, 64))

    def forward(self, pixels: Tensor) -> Tensor:
        z = self.encoder(pixels).unflatten(1, (8, 4))
        index = torch.cdist(z, self.codebook).argmin(-1)
        return self.decoder(self.codebook[index].flatten(1))


def reconstruction_error(model: nn.Module, data: Data) -> Tensor:
    return F.mse_loss(model(data.x), data.x)


# --- 5. the F1 score itself ---


class Classifier(nn.Module):
    """Scores of a tumour; positive means malignant."""

    def __init__(self) -> None:
        super().__init__()
        self.hidden = nn.Linear(30, 16)
        self.last = nn.Linear(16, 1)

    def forward(self, features: Tensor) -> Tensor:
        return self.last(torch.relu(self.hidden(features))).squeeze(1)


def f1_loss(model: nn.Module, data: Data) -> Tensor:
    # validate_args would ask which values occur among the decisions: a question without a gradient, for any method
    return 1 - binary_f1_score((model(data.x) > 0).long(), data.y, validate_args=False)


@cache
def tumours(seed: int) -> Splits:
    """The 357 benign tumours of the breast-cancer data and 48 malignant ones: 12 %."""
    bunch = load_breast_cancer()
    y = torch.tensor(1 - bunch.target)
    keep = torch.cat([(y == 0).nonzero().flatten(), (y == 1).nonzero().flatten()[:48]])
    data = Data(torch.tensor(bunch.data, dtype=torch.float32), y).rows(keep)
    return standardised(split(data, seed, (0.5, 0.25, 0.25)))


# --- 6. a rank correlation itself ---


class Regressor(nn.Module):
    """10-32-1; only the order of its predictions matters."""

    def __init__(self) -> None:
        super().__init__()
        self.hidden = nn.Linear(10, 32)
        self.last = nn.Linear(32, 1)

    def forward(self, features: Tensor) -> Tensor:
        return self.last(torch.tanh(self.hidden(features))).squeeze(1)


def spearman_loss(model: nn.Module, data: Data) -> Tensor:
    return 1 - spearman_corrcoef(model(data.x), data.y)


@cache
def diabetes(seed: int) -> Splits:
    """442 patients, 10 features, the progress of their illness after a year."""
    bunch = load_diabetes(scaled=False)
    x, y = torch.tensor(bunch.data, dtype=torch.float32), torch.tensor(bunch.target, dtype=torch.float32)
    return standardised(split(Data(x, y), seed, stratify=False))


# --- 7. a thermostat in a simulator ---


class Thermostat(nn.Module):
    """A heater with hysteresis: other limits by day than by night, lower ones while electricity is expensive.

    What is learned is the four limits (degrees above 15), from which price on (cents) they are lowered, and by how
    much. The initial guess is a sensible one, jittered by the seed.
    """

    def __init__(self) -> None:
        super().__init__()
        self.low = nn.Parameter(torch.tensor([2.0, 4.0]) + 0.5 * torch.randn(2))  # by night, by day
        self.high = nn.Parameter(torch.tensor([4.0, 6.0]) + 0.5 * torch.randn(2))
        self.price = nn.Parameter(torch.tensor(3.0) + 0.5 * torch.randn(()))
        self.setback = nn.Parameter(torch.tensor(0.5) + 0.2 * torch.randn(()))

    def forward(self, weather: Tensor, house: Tensor) -> Tensor:
        """Cost of a day, in steps of an hour, for each scenario: electricity, discomfort, and wear of the switch.

        `weather` has the outdoor temperature and the price at each step, `house` its loss and power per step.
        """
        outdoor, price = weather.unbind(-1)
        loss, power = house.unbind(-1)
        hour = torch.arange(outdoor.shape[1])
        day = (hour >= 6) & (hour <= 22)
        setback = torch.where(price > self.price, self.setback, 0.0)
        low = torch.where(day, self.low[1], self.low[0]) - setback
        high = torch.where(day, self.high[1], self.high[0]) - setback

        inside = torch.full_like(loss, 2.0)
        on = torch.zeros(len(house), dtype=torch.bool)
        cost = torch.zeros(len(house))
        for step in range(outdoor.shape[1]):
            before = on
            on = (on | (inside < low[:, step])) & ~(inside > high[:, step])
            inside = inside + loss * (outdoor[:, step] - inside) + power * on
            wanted = 5.0 if 7 <= step <= 22 else 2.0
            discomfort = torch.relu(wanted - inside).square() + torch.relu(inside - wanted - 2).square()
            cost = cost + 0.1 * power * price[:, step] * on + 0.5 * discomfort + 0.5 * (on != before)
        return cost


def mean_cost(model: nn.Module, data: Data) -> Tensor:
    return model(data.x, data.y).mean()


@cache
def days(seed: int) -> Splits:
    """Days of winter, each with a house: 16 to train, 32 to validate, 64 to test."""
    noise = torch.Generator().manual_seed(seed)
    count = 16 + 32 + 64
    hour = torch.arange(24.0)
    mean = -12 + 4 * torch.randn(count, 1, generator=noise)
    swing = 2 + 3 * torch.rand(count, 1, generator=noise)
    gusts = 0.4 * torch.randn(count, 24, generator=noise).cumsum(1)
    outdoor = mean - swing * torch.cos((hour - 3) * math.pi / 12) + gusts
    peaks = torch.exp(-((hour - 8) ** 2) / 4) + torch.exp(-((hour - 18) ** 2) / 6)
    price = 2 + 2 * peaks * (0.7 + 0.6 * torch.rand(count, 1, generator=noise))
    price = price + 0.2 * torch.randn(count, 24, generator=noise)
    loss = 0.05 + 0.05 * torch.rand(count, generator=noise)
    power = 3 + 2 * torch.rand(count, generator=noise)
    data = Data(torch.stack([outdoor, price], -1), torch.stack([loss, power], -1))
    return Splits(*(data.rows(index) for index in torch.arange(count).split([16, 32, 64])))


# --- 8. choosing pixels ---


class PixelChoice(nn.Module):
    """Sees 8 of 64 pixels, the same of every image; which ones is learned."""

    k = 8

    def __init__(self) -> None:
        super().__init__()
        self.scores = nn.Parameter(0.1 * torch.randn(64))
        self.hidden = nn.Linear(64, 64)
        self.last = nn.Linear(64, 10)

    def forward(self, pixels: Tensor) -> Tensor:
        chosen = self.scores.topk(self.k).indices
        mask = torch.zeros(64).scatter(0, chosen, 1.0)
        return self.last(torch.relu(self.hidden(pixels * mask)))


TASKS: dict[str, Task] = {
    task.name: task
    for task in (
        Task(
            "sign",
            "sign activations",
            "accuracy, %",
            digits,
            Program(SignNet, forward, cross_entropy),
            accuracy,
            epochs=30,
            batch=64,
            lrs=(3e-3, 1e-2, 3e-2),
        ),
        Task(
            "quantized",
            "ternary weights",
            "accuracy, %",
            digits,
            Program(QuantizedNet, forward, cross_entropy),
            accuracy,
            epochs=20,
            batch=64,
            lrs=(1e-3, 3e-3, 1e-2),
        ),
        Task(
            "spiking",
            "spiking neurons",
            "accuracy, %",
            digits,
            Program(SpikingNet, forward, cross_entropy),
            accuracy,
            epochs=12,
            batch=256,
            lrs=(1e-2, 3e-2, 1e-1),
        ),
        Task(
            "vq",
            "vector quantization",
            "1000 x squared error",
            digits,
            Program(Autoencoder, reconstruction_error, reconstruction_error),
            lambda loss, data: -1000 * loss.item(),
            epochs=60,
            batch=128,
            lrs=(1e-3, 3e-3, 1e-2),
            higher_is_shown=False,
        ),
        Task(
            "f1",
            "direct F1",
            "F1 score, %",
            tumours,
            Program(Classifier, f1_loss, f1_loss),
            percent_left,
            epochs=150,
            batch=1000,
            lrs=(3e-3, 1e-2, 3e-2),
        ),
        Task(
            "rank",
            "direct rank correlation",
            "Spearman x 100",
            diabetes,
            Program(Regressor, spearman_loss, spearman_loss),
            percent_left,
            epochs=60,
            batch=64,
            lrs=(1e-3, 3e-3, 1e-2),
        ),
        Task(
            "controller",
            "thermostat",
            "cost of a day",
            days,
            Program(Thermostat, mean_cost, mean_cost),
            lambda cost, data: -cost.item(),
            epochs=30,
            batch=1000,
            lrs=(3e-2, 1e-1, 3e-1),
            higher_is_shown=False,
        ),
        Task(
            "topk",
            "choosing pixels",
            "accuracy, %",
            digits,
            Program(PixelChoice, forward, cross_entropy),
            accuracy,
            epochs=30,
            batch=64,
            lrs=(3e-3, 1e-2, 3e-2),
        ),
    )
}
