"""``torch.where`` by bits: the values and gradients of ``torch.where``."""

from __future__ import annotations

import math

import pytest
import torch

from sll._ops import bits, fused

pytestmark = pytest.mark.usefixtures("loops_everywhere")

INF, NAN = math.inf, math.nan

SHAPES = [((4096,), (4096,), (4096,)), ((64, 128), (128,), (64, 1)), ((5000, 1), (1, 3), (5000, 3)), ((5000,), (), ())]
SHAPES += [((5000,), (1,), ()), ((1, 8, 700), (8, 1, 1), (3, 1, 1, 1)), ((5000,), (5000,), ()), ((4096, 0), (1,), (1,))]
BITS = {torch.float32: torch.int32, torch.float64: torch.int64, torch.float16: torch.int16}


@pytest.mark.parametrize("loops", [True, False])
@pytest.mark.parametrize("dtype", [*BITS, torch.bool, torch.int64])
@pytest.mark.parametrize("shapes", SHAPES)
def test_pick_is_where(shapes, dtype, loops, monkeypatch):
    monkeypatch.setattr(fused, "available", lambda: loops)
    draw = torch.Generator().manual_seed(0)
    dense = torch.rand(shapes[0], generator=draw) > 0.5
    a, b = (torch.randn(s, generator=draw).mul(3).to(dtype) for s in shapes[1:])
    if dtype in BITS and a.numel() > 100:
        a.view(-1)[:4] = torch.tensor([INF, -INF, NAN, -0.0], dtype=dtype)
    for mask in (dense, dense.transpose(0, -1).contiguous().transpose(0, -1), dense[..., :1].expand(dense.shape)):
        leaves = [x.clone().requires_grad_(dtype in BITS) for x in (a, b)]
        got, want = bits.pick(mask, *leaves), torch.where(mask, *leaves)
        ints = BITS.get(dtype, dtype)
        assert got.dtype == want.dtype and torch.equal(got.detach().view(ints), want.detach().view(ints))
        if dtype not in (torch.float32, torch.float64):
            continue
        g = torch.randn(want.shape, generator=draw, dtype=dtype)
        g.view(-1)[:2] = INF  # one sum of infinities is as good as another
        for x, y in zip(torch.autograd.grad(got, leaves, g), torch.autograd.grad(want, leaves, g)):
            torch.testing.assert_close(x, y, rtol=1e-4, atol=1e-4, equal_nan=True)


def test_pick_twice_differentiable():
    mask, x = torch.rand(5000) > 0.5, torch.randn(5000, requires_grad=True)
    (once,) = torch.autograd.grad(bits.pick(mask, x**3, x**2).sum(), x, create_graph=True)
    (twice,) = torch.autograd.grad(once.sum(), x)
    torch.testing.assert_close(twice, torch.where(mask, 6 * x.detach(), torch.tensor(2.0)))


def test_pick_under_transforms():
    mask, a = torch.rand(5000) > 0.5, torch.randn(5000)
    assert torch.equal(torch.func.grad(lambda a: bits.pick(mask, a, -a).sum())(a), torch.where(mask, 1.0, -1.0))
    assert torch.equal(torch.func.jvp(lambda a: bits.pick(mask, a, -a), (a,), (a,))[1], torch.where(mask, a, -a))
    batch = torch.stack([mask, ~mask])
    want = torch.where(batch, a, -a)
    assert torch.equal(torch.func.vmap(lambda m: bits.pick(m, a, -a))(batch), want)
