"""Programs that choose, order and select inside a region: what users write, one case for each thing that went wrong."""

from __future__ import annotations

import pytest
import torch
import torch.nn.functional as F

import sll
from inputs import END, START, V
from oracles import integral

EPS = 0.01


def one_hot(i):
    return F.one_hot(i, 3).double()


OVERTAKES = {
    "argmax": lambda x: V[x.argmax()],
    "max": lambda x: V[x.max(0).indices],
    "topk": lambda x: V[x.topk(2).indices] @ V[:2],
    "sort": lambda x: V[x.sort(descending=True).indices] @ V,
    "kthvalue": lambda x: V[x.kthvalue(2).indices],
    "median": lambda x: V[x.median(0).indices],
    "beside -inf": lambda x: V[x.masked_fill(torch.tensor([False, False, True]), -torch.inf).argsort()] @ V,
    "nanmedian beside nan": lambda x: V[torch.cat([x, x.new_tensor([torch.nan])]).nanmedian(0).indices.clamp(max=2)],
    "rank": lambda x: (x.argsort().argsort() * V).sum(),
    "rank descending": lambda x: (x.argsort(descending=True).argsort(descending=True) * V).sum(),
    "rank by sort": lambda x: (x.sort().indices.sort().indices * V).sum(),
    "rank by scatter": lambda x: (torch.zeros(3).long().scatter(0, x.argsort(), torch.arange(3)) * V).sum(),
    "rank by searchsorted": lambda x: (torch.searchsorted(x.sort().values, x) * V).sum(),
    "rank by searchsorted right": lambda x: (torch.searchsorted(x.sort().values, x, right=True) * V).sum(),
    "rank by unique": lambda x: (x.unique(return_inverse=True)[1] * V).sum(),
    "rank by comparison": lambda x: ((x[:, None] > x).sum(1) * V).sum(),
    "winner": lambda x: ((x >= x.max()) * V).sum(),
    "winner by amax": lambda x: ((x >= x.amax(0, keepdim=True)) * V).sum(),
    "losers": lambda x: ((x < x.max(0, keepdim=True).values) * V).sum(),
    "k winners": lambda x: ((x >= x.topk(1).values[-1]) * V).sum(),
    "k winners turned round": lambda x: ((x.topk(1).values <= x) * V).sum(),
    "all but the last": lambda x: ((x > x.kthvalue(2).values) * V).sum(),
    "at most the median": lambda x: ((x <= x.median()) * V).sum(),
    "above the sorted": lambda x: ((x > x.sort().values[1]) * V).sum(),
    "above the sorted descending": lambda x: ((x > x.sort(descending=True).values[1:2]) * V).sum(),
    "weight of the winner": lambda x: torch.where(x >= x.max(), V, -V).sum(),
    "write at": lambda x: torch.zeros(3).double().index_put((x.argmax(),), V[2]) @ V,
    "unravel": lambda x: (torch.unravel_index(x.argmax(), (3, 1))[0] * V).sum(),
    "winners by the smallest of the best": lambda x: ((x >= x.topk(2).values.min()) * V.flip(0)).sum() + x.argmax(),
    "winner, cloned": lambda x: ((x >= x.topk(1).values[-1:].clone().expand(3)) * V).sum(),
    "winner, split": lambda x: ((x >= x.topk(2).values.split(1)[0]) * V).sum(),
    "winner of a view": lambda x: ((x.view(1, -1) >= x.view(1, -1).flatten().max()) * V).sum(),
    "rank by searchsorted, batched": lambda x: (torch.searchsorted(x[None].sort(1).values, x[None]) * V).sum(),
    "rank by searchsorted, sorter": lambda x: (torch.searchsorted(x, x, sorter=x.argsort()) * V).sum(),
    "batched winner": lambda x: ((x[None] >= x[None].amax(1, keepdim=True)) * V).sum(),
}


@pytest.mark.parametrize("forward", ["linear", "hard"])
@pytest.mark.parametrize("name", OVERTAKES)
def test_one_overtakes_the_other(name, forward):
    """Line integral over the band in which two elements change places; nothing is lost."""
    with sll.linearize(EPS, on_lost="error"):
        OVERTAKES[name](START.clone().requires_grad_())
    got, want = integral(OVERTAKES[name], START, END, EPS, forward)
    assert want != 0
    assert got == pytest.approx(want, rel=1e-6)
