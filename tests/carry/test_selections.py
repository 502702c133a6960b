"""What a mask selects, in every engine."""

from __future__ import annotations

import pytest
import torch
import torch.nn.functional as F

import sll
from oracles import grads, leaf

SELECTED_NOTHING = {
    "times": lambda x, y: (y[x < 0] * 2).sum() + y.sum(),
    "exp": lambda x, y: y[x < 0].exp().sum() + y.sum(),
    "two-dimensional": lambda x, y: F.relu(y.reshape(4, 1)[x < 0]).sum() + y.sum(),
    "masked_select": lambda x, y: (y.masked_select(x < 0) * y.sum()).sum() + y.sum(),
    "loss": lambda x, y: F.mse_loss(y[x < 0], x[x < 0], reduction="sum") + y.sum(),
    "read and written": lambda x, y: _written(y, x < 0, lambda f, b: f[b] * 2),
    "written": lambda x, y: _written(y, x < 0, lambda f, b: torch.zeros(0)),
    "in place": lambda x, y: _written(y, x < 0, lambda f, b: f[b].mul_(2)),
    "scattered": lambda x, y: y.masked_scatter(x < 0, torch.zeros(0)).sum(),
}


def _written(y, mask, value):
    f = y * 1.0
    f[mask] = value(f, mask)
    return f.sum()


@pytest.mark.parametrize("forward", ["linear", "hard", "straight-through"])
@pytest.mark.parametrize("name", SELECTED_NOTHING)
def test_a_mask_that_selects_nothing(name, forward):
    """It raised, and a write of nothing took the gradient of the whole tensor away."""
    x, y = leaf(1.0, 1.0, 1.0, 1.0), leaf(1.0, 2.0, 3.0, 4.0)
    with sll.linearize(0.05, forward=forward):
        out = SELECTED_NOTHING[name](x, y)
    assert out.item() == 10
    assert grads(out, y) == [1, 1, 1, 1]


@pytest.mark.parametrize("forward", ["linear", "hard"])
@pytest.mark.parametrize("how", [torch.Tensor.mul_, torch.Tensor.__imul__])
def test_what_a_mask_selects_is_modified_in_place(how, forward):
    """``z[mask] *= 2`` wrote back as if a mask element that flips would shift all that follow."""
    values = [0.02, 1.0, 1.0, 1.0, -1.0, 1.0], [10.0, 20.0, 30.0, 40.0, 50.0, 60.0]
    found = []
    for doubled in (lambda z, m: how(z[m], 2), lambda z, m: z[m] * 2):
        x, y = (leaf(*v) for v in values)
        with sll.linearize(0.05, forward=forward) as region:
            z, mask = y * 1.0, x > 0
            z[mask] = doubled(z, mask)
        assert not region.report().lost
        found.append((z.tolist(), grads(z, x, y)))
    assert found[0] == found[1]
    assert found[0][1][0] == pytest.approx([100, 0, 0, 0, 0, 0])


@pytest.mark.parametrize("forward", ["linear", "hard", "straight-through"])
def test_a_selection_of_a_single_number(forward):
    x = torch.tensor(-1.0, requires_grad=True)
    with sll.linearize(0.01, forward=forward):
        y = x.clone()
        y[y > 0] = y[y > 0] * 2
        none = x[x > 0] * 2
    assert y.item() == -1 and none.shape == (0,)
