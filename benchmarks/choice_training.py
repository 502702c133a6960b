"""Two programs that choose, trained on scikit-learn's digits: ``python benchmarks/choice_training.py [--quick]``.

*Prototypes*: the three nearest of 30 prototypes vote for a class. *Vector quantization*: an autoencoder whose code is 8
words from a codebook of 16, written with `argmin` and ``codebook[index]``.

Both are plain hard PyTorch and never edited for `sll`. Every method gets the same budget: six configurations
(learning rates, widths), chosen by the *deployed* score on a validation split, mean of two seeds; then five other
seeds, scored on a test split.
"""

from __future__ import annotations

import argparse
import contextlib
import itertools
import statistics
import time

import torch
import torch.nn.functional as F
from rich.console import Console
from rich.table import Table
from sklearn.datasets import load_digits
from torch import nn

import sll

console = Console(width=120)


def digits():
    x, y = load_digits(return_X_y=True)
    order = torch.randperm(len(y), generator=torch.Generator().manual_seed(0))
    x, y = torch.tensor(x, dtype=torch.float32)[order] / 16, torch.tensor(y)[order]
    return (x[:1000], y[:1000]), (x[1000:1300], y[1000:1300]), (x[1300:], y[1300:])


# --- the programs, plain hard PyTorch ---------------------------------------------------------------------------------


class Prototypes(nn.Module):
    """Class scores: the share of the votes of the nearest prototypes."""

    metric, better = "test accuracy, %", max

    def __init__(self, neighbours=3):
        super().__init__()
        self.prototypes = nn.Parameter(0.3 + 0.1 * torch.randn(30, 64))
        self.register_buffer("labels", torch.arange(30) % 10)
        self.neighbours = neighbours

    def forward(self, x):
        nearest = torch.cdist(x, self.prototypes).topk(self.neighbours, largest=False).indices
        return F.one_hot(self.labels[nearest], 10).sum(1) / self.neighbours

    def loss(self, x, y):
        return (self(x) - F.one_hot(y, 10)).square().sum(1).mean()

    def score(self, x, y):
        return 100 * (self(x).argmax(1) == y).float().mean().item()


class Autoencoder(nn.Module):
    """8 code words of 4 numbers each."""

    metric, better = "test error, 1000 x squared error per pixel", min

    def __init__(self):
        super().__init__()
        self.encoder = nn.Sequential(nn.Linear(64, 64), nn.ReLU(), nn.Linear(64, 32))
        self.codebook = nn.Parameter(0.5 * torch.randn(16, 4))
        self.decoder = nn.Sequential(nn.Linear(32, 64), nn.ReLU(), nn.Linear(64, 64))

    def forward(self, x):
        z = self.encoder(x).unflatten(1, (8, 4))
        index = torch.cdist(z, self.codebook).argmin(-1)
        return self.decoder(self.codebook[index].flatten(1))

    def loss(self, x, y):
        return F.mse_loss(self(x), x)

    def score(self, x, y):
        return 1000 * F.mse_loss(self(x), x).item()


# --- the same, rewritten with the straight-through trick ------------------------------------------------------------


class SoftVotes(Prototypes):
    """Hard votes forward, backward those of a softmax over all prototypes."""

    def __init__(self, temperature):
        super().__init__()
        self.temperature = temperature

    def loss(self, x, y):
        soft = (-torch.cdist(x, self.prototypes) / self.temperature).softmax(1) @ F.one_hot(self.labels, 10).float()
        votes = self(x) + soft - soft.detach()
        return (votes - F.one_hot(y, 10)).square().sum(1).mean()


class StraightThrough(Autoencoder):
    """van den Oord, Vinyals & Kavukcuoglu 2017: copied gradient, codebook and commitment losses."""

    def __init__(self, commitment):
        super().__init__()
        self.commitment = commitment

    def loss(self, x, y):
        z = self.encoder(x).unflatten(1, (8, 4))
        words = self.codebook[torch.cdist(z, self.codebook).argmin(-1)]
        recon = self.decoder((z + (words - z).detach()).flatten(1))
        return (
            F.mse_loss(recon, x)
            + F.mse_loss(words, z.detach()) * 0.25
            + F.mse_loss(z, words.detach()) * 0.25 * self.commitment
        )


# --- training ---------------------------------------------------------------------------------------------------------


def train(make, seed, rate, region, steps):
    (x, y), *_ = digits()
    torch.manual_seed(seed)
    model = make()
    optimizer = torch.optim.Adam(model.parameters(), rate)
    for _ in range(steps):
        batch = torch.randint(len(x), (128,))
        with region() if region else contextlib.nullcontext():
            loss = model.loss(x[batch], y[batch])
        if loss.requires_grad:  # the plain program of votes has no gradient at all
            optimizer.zero_grad()
            loss.backward()
            optimizer.step()
    return model.eval()


def configurations(task):
    """Method -> six (description, program, learning rate, region)."""
    base, rewritten, options, widths = {
        "prototypes": (
            Prototypes, SoftVotes, (0.3, 1.0, 3.0), {"linear": (0.3, 1.0, 3.0), "hard": (0.3, 1.0, 3.0)},
        ),
        "vector quantization": (
            Autoencoder, StraightThrough, (0.1, 0.25, 1.0), {"linear": (0.03, 0.1, 0.3), "hard": (0.3, 1.0, 3.0)},
        ),
    }[task]  # fmt: skip
    rates = (3e-3, 1e-2)
    methods = {
        "plain hard": [(f"lr {r:g}", base, r, None) for r in (1e-3, 2e-3, 3e-3, 5e-3, 1e-2, 3e-2)],
        "straight-through": [
            (f"lr {r:g}, {o:g}", lambda o=o: rewritten(o), r, None) for r, o in itertools.product(rates, options)
        ],
    }
    for forward in ("linear", "hard"):
        methods[f"sll, {forward}"] = [
            (f"lr {r:g}, eps {w:g}", base, r, lambda w=w, forward=forward: sll.linearize(w, forward=forward))
            for r, w in itertools.product(rates, widths[forward])
        ]
    return base, methods


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--quick", action="store_true", help="one seed, few steps: only to see that it runs")
    quick = parser.parse_args().quick
    tuning, testing, steps = ([100], [0], 20) if quick else ([100, 101], [0, 1, 2, 3, 4], 1000)
    _, validation, test = digits()
    for task in ("prototypes", "vector quantization"):
        base, methods = configurations(task)
        table = Table("method", "configuration chosen", base.metric, "seconds per run", title=task)
        for method, options in methods.items():

            def tuned(option):
                _, make, rate, region = option
                models = [train(make, seed, rate, region, steps) for seed in tuning]
                return statistics.mean(model.score(*validation) for model in models)

            name, make, rate, region = base.better(options, key=tuned)
            start = time.perf_counter()
            scores = [train(make, seed, rate, region, steps).score(*test) for seed in testing]
            seconds = (time.perf_counter() - start) / len(testing)
            spread = statistics.stdev(scores) if len(scores) > 1 else 0.0
            table.add_row(method, name, f"{statistics.mean(scores):.1f} ± {spread:.1f}", f"{seconds:.1f}")
        console.print(table)


if __name__ == "__main__":
    main()
