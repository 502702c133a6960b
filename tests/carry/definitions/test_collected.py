"""Tensors of decisions: what torch returns, with the gradient of what was put together."""

from __future__ import annotations

import numpy as np
import pytest
import torch

import sll
from defined import MODES

EPS = 0.1
MADE = {
    "of a tensor": lambda m: torch.tensor(m),
    "shared": lambda m: torch.as_tensor(m, dtype=torch.int64),
    "asarray": lambda m: torch.asarray(m),
    "by keyword": lambda m: torch.as_tensor(data=m),
    "like another": lambda m: torch.zeros(1, dtype=torch.int16).new_tensor(m),
    "a list": lambda m: torch.tensor([m[1], m[0], 1]),
    "lists in a list": lambda m: torch.tensor([[m[0], 0], [True, m[1]]], dtype=torch.float64),
}


@pytest.mark.filterwarnings("ignore:To copy construct:UserWarning")
@pytest.mark.parametrize("forward", MODES)
@pytest.mark.parametrize("name", MADE)
def test_values_and_gradients(name, forward):
    def total(x):
        made = MADE[name](x > 0)
        return made, (made.double() * torch.arange(1.0, made.numel() + 1).reshape(made.shape)).sum()

    x = torch.tensor([0.02, -0.03], dtype=torch.float64)
    want = torch.tensor([total(x + s)[1] - total(x - s)[1] for s in EPS * torch.eye(2)]) / (2 * EPS)
    plain, leaf = total(x)[0], x.clone().requires_grad_()
    with sll.linearize(EPS, forward=forward, on_lost="error"):
        made, out = total(leaf)
    assert made.dtype == plain.dtype and made.shape == plain.shape
    if forward != "linear":
        assert torch.equal(made.detach(), plain)
    torch.testing.assert_close(torch.autograd.grad(out, leaf)[0].float(), want.float())


@pytest.mark.parametrize("forward", MODES)
def test_floats_are_cut_as_by_torch(forward):
    x = torch.tensor([0.02], requires_grad=True)
    with sll.linearize(EPS, forward=forward):
        assert not torch.as_tensor([torch.round(x)[0]]).requires_grad
        assert not torch.as_tensor(np.array([1.0])).requires_grad
        leaf = torch.tensor([(x > 0)[0]], dtype=torch.float32, requires_grad=True)
    assert leaf.is_leaf and leaf.requires_grad
