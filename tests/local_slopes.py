"""Slopes of lookups and of writes at an index, with local gradients. A lost gradient is an error."""

from __future__ import annotations

import torch

import sll

EPS = 0.2
TABLE = torch.tensor([2.0, -1.0, 5.0, 0.5, 7.0], dtype=torch.float64)


def region(eps=EPS, **more):
    return sll.linearize(eps, forward="straight-through", on_lost="error", **more)


def slope(f, x, eps=EPS):
    with region(eps):
        y = f(x)
    return torch.autograd.grad(y, x, torch.ones_like(y))[0]
