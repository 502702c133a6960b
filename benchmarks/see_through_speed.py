"""What `see_through=True` costs: torchmetrics that compute under `torch.no_grad()`, and a network without such a block.

    OMP_NUM_THREADS=1 python benchmarks/see_through_speed.py

Forward and backward, the minimum of CPU time over rounds in which all took turns, so a busy machine does not matter.
Prints the tables of docs/performance.md.
"""

from __future__ import annotations

import contextlib
import time
import warnings
from collections.abc import Callable
from functools import partial
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torchmetrics.functional import classification as metrics

import sll

NAMES = ("binary_auroc", "binary_average_precision", "binary_calibration_error")
REGIONS = ({}, {"see_through": {"no_grad"}}, {"see_through": True})


def minima(runs: list[Callable[[], None]], rounds: int) -> list[float]:
    """Seconds of each, after the steps in which "auto" measures."""
    for run in runs * 15:
        run()
    best = [float("inf")] * len(runs)
    for _ in range(rounds):
        for i, run in enumerate(runs):
            start = time.thread_time()
            run()
            best[i] = min(best[i], time.thread_time() - start)
    return best


def step(region: contextlib.AbstractContextManager[Any], loss: Callable[[], Tensor]) -> Callable[[], None]:
    def run() -> None:
        with region:
            found = loss()
        if found.requires_grad:
            found.backward()

    return run


def by_hand(scores: Tensor, labels: Tensor) -> Tensor:
    """The area under the curve as the share of pairs in the right order, with a straight-through estimator."""
    apart = scores[labels == 1][:, None] - scores[labels == 0]
    ramp = (apart / 0.2 + 0.5).clamp(0, 1)
    return (ramp + ((apart > 0).float() - ramp).detach()).mean()


def of_metrics(many: int) -> None:
    scores, labels = torch.rand(many, requires_grad=True), (torch.rand(many) < 0.4).long()
    print(f"\n| {many} scores | without a region, ms | `see_through=True`, ms | ratio |\n|---|---:|---:|---:|")
    for name in NAMES:
        loss = partial(getattr(metrics, name), scores, labels, validate_args=False)
        regions = (contextlib.nullcontext(), sll.linearize("auto", see_through=True))
        plain, seen = minima([step(region, loss) for region in regions], 25)
        print(f"| `{name}` | {1e3 * plain:.2f} | {1e3 * seen:.2f} | {seen / plain:.0f} |")
    (pairs,) = minima([step(contextlib.nullcontext(), lambda: by_hand(scores, labels))], 25)
    print(f"| all pairs by hand, straight-through | {1e3 * pairs:.2f} | – | – |")


def of_a_network() -> None:
    net = nn.Sequential(nn.Linear(64, 128), nn.BatchNorm1d(128), nn.ReLU(), nn.Linear(128, 10))
    x, labels = torch.randn(256, 64), torch.randint(0, 10, (256,))

    def loss() -> Tensor:
        return F.cross_entropy(net(x).sign() * net(x), labels)

    times = minima([step(sll.linearize("auto", **options), loss) for options in REGIONS], 100)
    print("\nA network without such a block, relative to no `see_through`:", *(f"{t / times[0]:.2f}" for t in times))


if __name__ == "__main__":
    warnings.simplefilter("ignore", sll.LostGradientWarning)
    torch.manual_seed(0)
    torch.set_num_threads(1)
    of_metrics(64)
    of_metrics(1000)
    of_a_network()
