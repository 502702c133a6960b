"""Local gradients with windows that are written out by hand, as a surrogate of a specialist would be."""

from __future__ import annotations

import torch

import sll
from local_reference import gradient

EPS = 0.3


class Window(torch.autograd.Function):
    """``x > 0`` as a float, with the clipped straight-through estimator."""

    @staticmethod
    def forward(ctx, x):
        ctx.save_for_backward(x.abs() <= EPS)
        return (x > 0).to(x.dtype)

    @staticmethod
    def backward(ctx, g):
        return torch.where(ctx.saved_tensors[0], g / (2 * EPS), 0.0)


step = Window.apply


def tensors(*shapes, seed=0, scale=0.4):
    generator = torch.Generator().manual_seed(seed)
    return [scale * torch.randn(shape, generator=generator, dtype=torch.float64) for shape in shapes]


def gradients(f, operands):
    leaves = [x.clone().requires_grad_() for x in operands]
    y = f(*leaves)
    return torch.autograd.grad(y.sum(), leaves, allow_unused=True, materialize_grads=True)


def check(program, by_hand, operands):
    """The program in a region, and in the reference: as it is written by hand with windows."""
    want = gradients(by_hand, operands)
    assert any(g.any() for g in want)
    with sll.linearize(EPS, forward="straight-through", on_lost="ignore"):
        y = program(*operands)  # (plain: nothing here is followed)
        found = gradients(program, operands)
    assert torch.equal(y, by_hand(*operands).to(y.dtype))
    for got in (gradient(program, operands, EPS)[1], found):
        torch.testing.assert_close(tuple(got), tuple(want), rtol=1e-9, atol=1e-9)
