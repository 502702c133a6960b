"""Train three discrete programs on real data: as they are, rewritten by hand, and unedited inside ``sll``.

    python examples/demo.py            # about a minute on two cores; nothing is downloaded
    python examples/demo.py --quick    # a few seconds: one seed, a few epochs

The programs are a network of sign activations, a network with 2-bit weights and activations (both on scikit-learn's handwritten
digits), and a linear classifier that maximises torchmetrics' F1 score itself (on the breast-cancer data). Every score is the one of the
*deployed* program: hard decisions, no region, no gradients.
"""

from __future__ import annotations

import argparse
import statistics
import time
from collections.abc import Callable
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass
from pathlib import Path
from typing import Any, NamedTuple

import torch
import torch.nn.functional as F
from matplotlib.figure import Figure  # without pyplot: draws with Agg, and needs no display
from rich import box
from rich.console import Console
from rich.markup import escape
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeElapsedColumn
from rich.table import Table
from sklearn.datasets import load_breast_cancer, load_digits
from sklearn.model_selection import train_test_split
from torch import Tensor, nn
from torchmetrics.functional.classification import binary_f1_score

import sll

Loss = Callable[[Tensor, Tensor], Tensor]


# --- 1. The programs, as they are deployed. No line of them knows of sll or of straight-through estimators. ---


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


class TwoBitLinear(nn.Linear):
    """A linear layer whose weights are one of four values: -2, -1, 0 or 1 steps."""

    def forward(self, x: Tensor) -> Tensor:
        step = 1.5 * self.weight.abs().mean()
        weight = step * torch.clamp(torch.round(self.weight / step), -2, 1)
        return F.linear(x, weight, self.bias)


class TwoBitNet(nn.Module):
    """64-128-128-10 with 2-bit weights and 2-bit activations (0, 1, 2 or 3)."""

    def __init__(self) -> None:
        super().__init__()
        self.first = TwoBitLinear(64, 128)
        self.second = TwoBitLinear(128, 128)
        self.last = TwoBitLinear(128, 10)

    def forward(self, pixels: Tensor) -> Tensor:
        x = torch.clamp(torch.round(3 * pixels), 0, 3)
        x = torch.clamp(torch.round(self.first(x)), 0, 3)
        x = torch.clamp(torch.round(self.second(x)), 0, 3)
        return self.last(x)


class Classifier(nn.Linear):
    """A linear score; its sign is the decision."""

    def __init__(self) -> None:
        super().__init__(30, 1)

    def forward(self, features: Tensor) -> Tensor:
        return super().forward(features).squeeze(1)


def f1_loss(scores: Tensor, target: Tensor) -> Tensor:
    """What shall be small: one minus the F1 score of the hard decisions, counted by torchmetrics."""
    # validate_args=False: the validation asks for the unique values of the decisions, a question without a gradient, and
    # sll would rightly warn that the gradient ends there.
    return 1 - binary_f1_score((scores > 0).long(), target, validate_args=False)


# --- 2. The same programs rewritten by hand with straight-through estimators: hard value forward, a chosen slope backward. ---


def sign_ste(x: Tensor) -> Tensor:
    """Clipped: the slope of hardtanh(2 x). Without clipping, and with other widths, it was worse or equal on the validation split."""
    ramp = F.hardtanh(x / 0.5)
    return ramp + (torch.sign(x) - ramp).detach()


def round_ste(x: Tensor) -> Tensor:
    return x + (torch.round(x) - x).detach()


class SignNetSTE(SignNet):
    def forward(self, pixels: Tensor) -> Tensor:
        x = sign_ste(self.first(pixels))
        x = sign_ste(self.second(x))
        return self.last(x)


class TwoBitLinearSTE(TwoBitLinear):
    def forward(self, x: Tensor) -> Tensor:
        step = 1.5 * self.weight.abs().mean()
        weight = step * torch.clamp(round_ste(self.weight / step), -2, 1)
        return F.linear(x, weight, self.bias)


class TwoBitNetSTE(TwoBitNet):
    def __init__(self) -> None:
        super().__init__()
        self.first = TwoBitLinearSTE(64, 128)
        self.second = TwoBitLinearSTE(128, 128)
        self.last = TwoBitLinearSTE(128, 10)

    def forward(self, pixels: Tensor) -> Tensor:
        x = torch.clamp(round_ste(3 * pixels), 0, 3)
        x = torch.clamp(round_ste(self.first(x)), 0, 3)
        x = torch.clamp(round_ste(self.second(x)), 0, 3)
        return self.last(x)


def f1_loss_ste(scores: Tensor, target: Tensor) -> Tensor:
    """The metric has to be rewritten, too: torchmetrics counts bools and integers, through which no estimator passes."""
    ramp = torch.clamp(0.5 + scores / (2 * 0.25), 0, 1)
    decided = ramp + ((scores > 0).float() - ramp).detach()
    return 1 - 2 * (decided * target).sum() / (decided.sum() + target.sum())


def cross_entropy_loss(scores: Tensor, target: Tensor) -> Tensor:
    """For scale only: not the F1 score, but what one would minimise in its place."""
    return F.binary_cross_entropy_with_logits(scores, target.float())
