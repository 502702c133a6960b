"""Where elements meet: any function runs again in each flip."""

from __future__ import annotations

import pytest
import torch

from oracles import hard_gradient

X = torch.tensor([-0.05, 0.02, 0.5, -0.7], dtype=torch.float64)
MEET = {
    "count": lambda m: (m.sum() > 1).double() * 3,
    "square of a count": lambda m: m.sum().double().square(),
    "any": lambda m: m[:2].any().double(),
    "all": lambda m: m[:3].all().double(),
    "f1": lambda m: 2 * (m & T).sum() / (m.sum() + T.sum()),
    "bins": lambda m: (torch.bincount(m.long() + 1, minlength=4).double() * torch.arange(4.0)).square().sum(),
    "selected": lambda m: torch.tensor([1.0, 4.0, 2.0, 3.0])[m].double().mean(),
    "places": lambda m: m.nonzero().sum().double(),
    "scattered": lambda m: torch.zeros(3).double().scatter_add(0, m.long() + 1, torch.ones(4).double()).prod(),
    "sorted": lambda m: (m.long() * 3 + torch.arange(4)).sort().values.double() @ torch.arange(4.0).double(),
}
T = torch.tensor([True, False, True, True])


@pytest.mark.parametrize("name", MEET)
def test_each_flip_changes_the_whole_result(name):
    f, hard = MEET[name], X > 0
    want = torch.zeros(4, dtype=torch.float64)
    for i in (0, 1):
        other = hard.clone()
        other[i] = ~other[i]
        want[i] = (f(other) - f(hard)) / 0.2 * (1 if not hard[i] else -1)
    torch.testing.assert_close(hard_gradient(lambda x: f(x > 0), X), want)
