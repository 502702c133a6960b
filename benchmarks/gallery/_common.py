"""The data that several comparisons train on."""

from __future__ import annotations

import torch
from sklearn.datasets import load_digits
from sklearn.model_selection import train_test_split
from torch import Tensor


def digits() -> list[tuple[Tensor, Tensor]]:
    """1797 images of 8 x 8 pixels: 60 % to train, 20 % to choose learning rates, 20 % for the table."""
    x, y = (torch.tensor(a) for a in load_digits(return_X_y=True))
    first, rest = train_test_split(torch.arange(len(y)), test_size=0.4, random_state=0, stratify=y)
    second, third = train_test_split(rest, test_size=0.5, random_state=0, stratify=y[rest])
    return [(x[index].float() / 16, y[index]) for index in (first, second, third)]
