"""Lookups in a table of five numbers, spelled in many ways, and indices that are decided."""

from __future__ import annotations

import torch
import torch.nn.functional as F

TABLE = torch.tensor([2.0, -1.0, 5.0, 0.5, 7.0], dtype=torch.float64)

LOOKUPS = {
    "getitem": lambda t, i: t[i],
    "getitem with others": lambda t, i: t.expand(3, 5)[:, i][1],
    "after a number": lambda t, i: t.expand(3, 5)[2, i],
    "after ...": lambda t, i: t.expand(2, 3, 5)[..., i][1, 1],
    "after None": lambda t, i: t[None, i][0],
    "before a slice": lambda t, i: t[:, None].expand(5, 3)[i, 1:][:, 0],
    "two indices": lambda t, i: t.expand(5, 5)[torch.arange(i.numel()), i],
    "two indices apart": lambda t, i: t[:, None].expand(3, 5, 4)[torch.arange(3)[:, None], i, 2:].mean((0, 2)),
    "two that broadcast": lambda t, i: t.expand(3, 5)[torch.arange(3)[:, None], i][2],
    "negative": lambda t, i: t[i - 5],
    "a 0-dim index": lambda t, i: torch.stack([t[k] for k in i]),
    "a 0-dim index after a slice": lambda t, i: torch.stack([t.expand(3, 5)[:, k] for k in i], 1)[0],
    "index_select": lambda t, i: t.index_select(0, i),
    "index_select of columns": lambda t, i: t.expand(3, 5).index_select(1, i)[0],
    "gather": lambda t, i: t.gather(0, i),
    "gather of rows": lambda t, i: t.expand(i.numel(), 5).gather(1, i[:, None]).squeeze(1),
    "take": lambda t, i: t.take(i),
    "take_along_dim": lambda t, i: torch.take_along_dim(t, i, 0),
    "take_along_dim flat": lambda t, i: torch.take_along_dim(t, i),
    "embedding": lambda t, i: F.embedding(i, t[:, None]).squeeze(1),
    "one_hot": lambda t, i: F.one_hot(i, 5).to(t.dtype) @ t,
    "where of labels": lambda t, i: ((i[:, None] == torch.arange(5)) * t).sum(1),
}
INDICES = {
    "round": lambda x: torch.round(x).long(),
    "floor": lambda x: torch.floor(x).int().long(),
    "count": lambda x: (x[:, None] > torch.arange(1.0, 5)).sum(1),
    "argmax": lambda x: (-(x[:, None] - torch.arange(5.0)).square()).argmax(1),
    "argsort": lambda x: (x[:, None] - torch.arange(5.0)).abs().argsort(1)[:, 0],
}
