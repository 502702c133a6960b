"""Where decisions are made, one source at a time."""

from __future__ import annotations

import pytest
import torch

from oracles import like_a_trace


@pytest.mark.usefixtures("loops_everywhere")
@pytest.mark.parametrize(
    "f",
    [
        lambda p: (torch.arange(8) > p).float(),
        lambda p: (p < torch.arange(8)).double(),
        lambda p: torch.where(torch.arange(8) > p, 1.0, torch.zeros(8)),
        lambda p: torch.arange(8.0)[None] * (torch.arange(8)[None] <= p[..., None]),
        lambda p: (torch.arange(8) > p).sum() * 1.0,
        lambda p: torch.arange(8.0).masked_fill((torch.arange(8) > p) & (torch.arange(8) < p + 3), 2.0),
    ],
)
def test_integers_compared_with_a_learned_number(f):
    like_a_trace(f, torch.tensor(3.2))
