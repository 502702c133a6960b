"""Casts of what carries outcomes."""

from __future__ import annotations

import pytest
import torch

import sll
from oracles import like_a_trace

INT8 = torch.int8


@pytest.mark.usefixtures("loops_everywhere")
def test_a_quantizer_after_a_write():
    x = torch.randn(500, requires_grad=True)
    with sll.linearize(0.1):
        want = x.round().clamp(-2, 2).to(INT8).float()
        for write in ("the input", "the float", "the integers"):
            z = x.clone()
            y = z.round().clamp(-2, 2)
            q = y.to(INT8)
            if write == "the input":
                z.add_(1)
            elif write == "the float":
                y.detach().add_(1)
            else:
                q = q.clone()
                q.add_(0)
            got = q.float()
            torch.testing.assert_close(got, want)
            for a, b in zip(torch.autograd.grad(got.sum(), x), torch.autograd.grad(want.sum(), x, retain_graph=True)):
                torch.testing.assert_close(a, b)


@pytest.mark.usefixtures("loops_everywhere")
@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
def test_half_masks_become_floats_of_full_precision(dtype):
    x = torch.linspace(-1, 1, 300).to(dtype)
    value, _ = like_a_trace(lambda x: (x > 0.011).float(), x, eps=1.0)
    assert (value != value.to(dtype).float()).any()
