"""Where decisions are made, in every engine."""

from __future__ import annotations

import pytest
import torch

import sll
from oracles import grads, plain


def test_a_remainder_of_a_remainder():
    """Four sources in a row on one decision: the box oracle."""

    def f(x):
        half = torch.round(torch.floor(x + 0.9) * 2.6)
        return (torch.floor(x + 0.9) + half % 1.9).long().to(x.dtype)

    x = torch.tensor([0.1 + 0.012], dtype=torch.float64, requires_grad=True)
    want = (plain(f, x.detach() + 0.02) - plain(f, x.detach() - 0.02)) / 0.04
    for forward in ("linear", "hard"):
        with sll.linearize(0.02, forward=forward):
            y = f(x)
        assert want.item() != 0 and grads(y, x) == pytest.approx(want.tolist())
