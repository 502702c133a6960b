"""Elementwise functions of what carries flips: layouts, dtypes and shapes are the program's."""

from __future__ import annotations

import pytest
import torch

import sll
from oracles import plain


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


def test_strides_of_hard_results():
    z = torch.zeros(2, 3, 4)
    x = torch.randn(4, 3, 2).permute(2, 1, 0)
    for f in (lambda x: z.masked_fill(x > 0, 1.0), lambda x: torch.where(x > 0, z, x)):
        with sll.linearize(0.1, forward="hard"):
            y = f(x.clone().requires_grad_())
        assert y.stride() == plain(f, x).stride()


@pytest.mark.parametrize("dtype", [torch.bool, torch.int64, torch.float32])
@pytest.mark.parametrize(
    "other", [True, 2, 2.5, torch.zeros(()), torch.zeros(3, dtype=torch.float64), torch.ones(2, 3)]
)
def test_choosing_where_the_answer_is_known_has_the_dtype_and_shape_of_where(dtype, other):
    """On the side of a decision on which another one is known."""
    x = torch.tensor([-0.01, 0.0, 0.4], requires_grad=True)
    given = torch.ones(3).to(dtype)
    with sll.linearize(0.1, forward="hard", on_lost="ignore"):
        m = x > 0
        for a, b in ((given, other), (other, given)):
            got, want = torch.where(m & (x > 0), a, b), torch.where((x > 0).detach(), a, b)
            assert got.dtype == want.dtype and torch.equal(got, want)
