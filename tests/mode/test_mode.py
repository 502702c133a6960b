"""Each torch call of the program comes by: what is passed on at once, and what is not."""

from __future__ import annotations

import torch

import sll


def test_inference_mode_is_plain_whatever_else_is_on():
    x = torch.tensor([0.01], requires_grad=True)
    with sll.linearize(0.1), torch.inference_mode(), torch.enable_grad():
        assert (x > 0).float().item() == 1.0
