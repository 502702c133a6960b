"""Elements that move take their outcomes along; what is filled in decides nothing."""

from __future__ import annotations

import pytest
import torch
import torch.nn.functional as F

import sll
from oracles import grads, leaf


def test_padding_decides_nothing():
    x, a = leaf(3.0), torch.ones(3, requires_grad=True)
    with sll.linearize(0.5):
        y = torch.where(F.pad(torch.sign(x), (1, 1), value=5.0) > 0, a, 0 * a)
        patches = F.unfold(torch.sign(x).reshape(1, 1, 1, 1), 3, padding=1)
        b = torch.ones_like(patches, requires_grad=True)
        z = torch.where(patches > 0.5, b, 0 * b)
    assert grads(y, a) == [1, 1, 1]
    assert torch.autograd.grad(z.sum(), b)[0].flatten().tolist() == [0, 0, 0, 0, 1, 0, 0, 0, 0]


@pytest.mark.parametrize("move", ["unsqueeze_", "t_", "squeeze_", "transpose_"])
def test_masks_that_are_moved_in_place_keep_their_decisions(move):
    args = {"unsqueeze_": (0,), "t_": (), "squeeze_": (), "transpose_": (0, 1)}[move]
    x = torch.tensor([[0.01], [0.5]], requires_grad=True)
    with sll.linearize(0.1):
        m = x > 0
        getattr(m, move)(*args)
        out = m.float()
    torch.testing.assert_close(out.flatten(), torch.tensor([0.55, 1.0]))
    torch.testing.assert_close(torch.autograd.grad(out.sum(), x)[0], torch.tensor([[5.0], [0.0]]))
