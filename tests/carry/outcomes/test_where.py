"""What a mask chooses between: outcomes, infinities, complex numbers."""

from __future__ import annotations

import pytest
import torch

import sll


@pytest.mark.usefixtures("loops_everywhere")
def test_masked_fill_refuses_what_torch_refuses():
    x = torch.randn(5000, requires_grad=True)
    with sll.linearize(0.1), pytest.raises(RuntimeError, match="0-dimensional"):
        x.masked_fill(x > 0, torch.tensor([1.0]))
