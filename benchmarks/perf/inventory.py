"""An (s, S) inventory: when the stock falls below s, it is filled up to S. Stock and demand are whole, over 40 days."""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor

DAYS = 40
MEAN_DEMAND = 7.0
ORDER, KEEP, MISS, EMPTY = 12.0, 0.5, 4.0, 3.0
"""Costs: of an order, of a piece that is kept for a day, of one that is missing, of a day on which some are missing."""


def inventory(low: Tensor, high: Tensor, demand: Tensor) -> Tensor:
    """Cost of each path; `demand` is (days, paths), whole numbers. The program that nobody edits."""
    full = high.round().long()
    stock = full.expand(demand.shape[1])
    cost = torch.zeros(demand.shape[1])
    for wanted in demand:
        order = stock < low
        stock = torch.where(order, full, stock)
        missed = wanted > stock
        sold = torch.minimum(stock, wanted)
        stock = stock - sold
        cost = cost + ORDER * order + KEEP * stock + MISS * (wanted - sold) + EMPTY * missed
    return cost


def inventory_by_hand(round: Callable[[Tensor], Tensor], step: Callable[[Tensor], Tensor]) -> Callable[..., Tensor]:
    """In floating point throughout; the comparison of two whole numbers has its window between them."""

    def by_hand(low: Tensor, high: Tensor, demand: Tensor) -> Tensor:
        full = round(high)
        stock = full.expand(demand.shape[1])
        cost = torch.zeros(demand.shape[1])
        for wanted in demand.to(low.dtype):
            order = step(low - stock)
            stock = torch.lerp(stock, full, order)
            missed = step(wanted - stock - 0.5)
            sold = torch.minimum(stock, wanted)
            stock = stock - sold
            cost = cost + ORDER * order + KEEP * stock + MISS * (wanted - sold) + EMPTY * missed
        return cost

    return by_hand


def inventory_inputs(paths: int) -> tuple[Tensor, ...]:
    mean = torch.full((DAYS, paths), MEAN_DEMAND)
    demand = torch.poisson(mean, generator=torch.Generator().manual_seed(0)).long()
    return torch.tensor(8.3, requires_grad=True), torch.tensor(25.2, requires_grad=True), demand
