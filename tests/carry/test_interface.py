"""What a region asks of any engine: results keep nothing alive, and feedback costs as many steps as it has."""

from __future__ import annotations

import gc
import weakref

import pytest
import torch

import sll


@pytest.mark.usefixtures("loops_everywhere")
@pytest.mark.parametrize("forward", ["linear", "hard", "straight-through"])
@pytest.mark.parametrize(
    "f",
    [
        torch.sign,
        torch.round,
        torch.trunc,
        lambda x: x > 0,
        lambda x: (x > 0).float(),
        lambda x: torch.where((x > 0) & (x < 1), x, 0.0),
        lambda x: torch.where(torch.sign(x) > 0, x, 0.0),
        lambda x: torch.round(x).long(),
        lambda x: x.long().float(),
    ],
)
def test_no_cycles_keep_memory(f, forward):
    gc.collect()
    gc.disable()
    try:
        with sll.linearize(0.1, forward=forward):
            x = torch.randn(50, requires_grad=True) * 2
            y = f(x)
            made = weakref.ref(x.untyped_storage()), weakref.ref(x)
            del x, y
        assert made[1]() is None
    finally:
        gc.enable()
