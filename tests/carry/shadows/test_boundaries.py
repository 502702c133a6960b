"""`searchsorted` and `bucketize`: slopes worked out by hand."""

from __future__ import annotations

import pytest
import torch

from local_slopes import T, worked_out

RULES = [
    ("bucketize", lambda x: T[torch.bucketize(x, torch.tensor([0.0, 1, 3]).double())], 0.9, 2 * (4 - 1)),
    ("bins no wider than half", lambda x: torch.bucketize(x, torch.tensor([0, 0.2]).double()).double(), 0.05, 5),
    ("learned edges", lambda x, y: T[torch.searchsorted(torch.stack([y, y + 2]), x)], (0.1, 0.0), (-8, 8)),
]


@pytest.mark.parametrize(("f", "values", "wanted"), [row[1:] for row in RULES], ids=[row[0] for row in RULES])
def test_rule(f, values, wanted):
    worked_out(f, values, wanted)
