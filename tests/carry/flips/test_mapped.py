"""Elementwise functions of what carries flips: layouts, dtypes and shapes are the program's."""

from __future__ import annotations

import pytest
import torch

import sll


@pytest.mark.usefixtures("loops_everywhere")
def test_strides_of_where():
    for make in (
        lambda: torch.linspace(-1, 1, 5000).view(-1, 4).t(),
        lambda: torch.randn(2, 8, 20, 20).contiguous(memory_format=torch.channels_last),
    ):
        h = make().requires_grad_()
        with sll.linearize(0.5, forward="hard"):
            y = torch.where(h > 0, h, 2 * h)
        assert y.stride() == torch.where(h > 0, h, 2 * h).stride()
