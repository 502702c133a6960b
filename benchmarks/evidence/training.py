"""Training of a plain program in a region, for experiments outside the protocol of `run.py`."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager
from typing import Any

import torch
from tasks import Task
from torch import nn


def epochs(
    task: Task,
    region: AbstractContextManager[Any],
    lr: float,
    seed: int,
    after_step: Callable[[], None] = lambda: None,
) -> Iterator[nn.Module]:
    """The model after each epoch: Adam, and a cosine decay per epoch."""
    torch.manual_seed(seed)
    model, data = task.program.model(), task.data(0)
    optimizer = torch.optim.Adam(model.parameters(), lr)
    schedule = torch.optim.lr_scheduler.CosineAnnealingLR(optimizer, task.epochs)
    for _ in range(task.epochs):
        for rows in torch.randperm(len(data.train.y)).split(task.batch):
            with region:
                loss = task.program.loss(model, data.train.rows(rows))
            optimizer.zero_grad()
            loss.backward()
            optimizer.step()
            after_step()
        schedule.step()
        yield model
