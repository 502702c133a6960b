"""Weights of a choice are worked out when somebody asks for them."""

from __future__ import annotations

import pytest
import torch

import sll
from inputs import V

EPS = 0.01


@pytest.mark.parametrize("choose", [lambda y: y.argmax(), lambda y: y.topk(1).indices, lambda y: y.argsort()])
def test_input_modified_before_the_index_is_used(choose):
    """The weights are worked out when they are asked for: if the input is gone by then, that is said."""
    x = torch.tensor([0.525, 0.53, 0.0], requires_grad=True)
    with sll.linearize(EPS) as region:
        y = x * 1
        index = choose(y)
        y.mul_(-1)
        with pytest.warns(sll.LostGradientWarning):
            out = V[index]
    assert torch.equal(out.detach(), V[choose(x.detach())])
    assert sum(region.report().lost.values()) == 1
