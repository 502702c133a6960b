"""What `"auto"` promises: nothing to tune, whatever the units.

    python benchmarks/auto_checks.py

*Classifier*: logistic regression on scikit-learn's breast cancer data with an F1 loss on `p > t`, the threshold `t`
learned, on probabilities; the same with torchmetrics' `binary_fbeta_score`. Fixed widths and `"auto"`, five seeds.
*Inventory*: a policy (s, S) of 40 days and 256 paths with a mean demand of 7, from three starts, against the best of a
grid. *Units*: the same inventory with its numbers times 1e-3 and 1e3. *Hysteresis*: two limits between which a state
is kept, and a cost of each change: a battery, a trigger over a noisy signal, a trading rule; against a grid.
"""

from __future__ import annotations

import argparse
import warnings
from collections.abc import Callable

import torch
from rich.console import Console
from rich.table import Table
from sklearn.datasets import load_breast_cancer
from torch import Tensor

import sll

SEEDS = 5
WIDTHS = (0.05, 0.1, 0.2, 0.3, 0.4, 0.7, 1.0)


# --- a classifier on probabilities, with a learned threshold ---------------------------------------------------


def _data(seed: int) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    x, y = load_breast_cancer(return_X_y=True)
    x, y = torch.tensor(x, dtype=torch.float32), torch.tensor(1 - y)
    x = (x - x.mean(0)) / x.std(0)
    order = torch.randperm(len(x), generator=torch.Generator().manual_seed(seed))
    few = order[:300][(y[order[:300]] == 0) | (torch.arange(300) % 3 == 0)]  # one in six is ill
    return x[few], y[few], x[order[300:]], y[order[300:]]


def f1(p: Tensor, t: Tensor, y: Tensor) -> Tensor:
    guess = p > t
    hit = (guess & (y == 1)).sum()
    return 2 * hit / (guess.sum() + (y == 1).sum())


def fbeta(p: Tensor, t: Tensor, y: Tensor) -> Tensor:
    from torchmetrics.functional.classification import binary_fbeta_score

    return binary_fbeta_score((p - t + 0.5).clamp(0, 1), y, beta=2.0)


def classifier(score: Callable[..., Tensor], eps: float | str, seed: int) -> tuple[float, float]:
    """The score on held-out data, and the threshold."""
    x, y, x_test, y_test = _data(seed)
    torch.manual_seed(seed)
    model = torch.nn.Linear(x.shape[1], 1)
    t = torch.tensor(0.5, requires_grad=True)
    optimizer = torch.optim.Adam([*model.parameters(), t], 0.02)
    region = sll.linearize(eps, forward="straight-through", on_lost="ignore")
    for _ in range(300):
        optimizer.zero_grad()
        with region:
            loss = -score(model(x).squeeze(1).sigmoid(), t, y)
        loss.backward()  # type: ignore[no-untyped-call]
        optimizer.step()
    with torch.no_grad():
        return float(score(model(x_test).squeeze(1).sigmoid(), t, y_test)), float(t)


def classifiers(console: Console) -> None:
    table = Table("eps", *(f"{name}: score (threshold)" for name in ("F1", "torchmetrics F2")), title="Classifier")
    for eps in ("auto", *WIDTHS):
        row = []
        for score in (f1, fbeta):
            found = torch.tensor([classifier(score, eps, seed) for seed in range(SEEDS)])
            mean, least = found[:, 0].mean(), found[:, 0].min()
            row.append(f"{mean:.3f}, at least {least:.3f} ({found[:, 1].min():.2f} … {found[:, 1].max():.2f})")
        table.add_row(str(eps), *row)
    console.print(table)


# --- an inventory policy -------------------------------------------------------------------------------------


def cost(low: Tensor, high: Tensor, demand: Tensor, unit: float) -> Tensor:
    """Of a day: an order 5 and 1 a piece, holding .2 a piece, shortage 4 a piece; numbers in a `unit` of pieces."""
    stock, total = high.expand(demand.shape[1]), torch.zeros(demand.shape[1])
    for wanted in demand:
        left = stock - wanted
        short = torch.where(left < 0, -left, 0.0)
        left = torch.where(left < 0, 0.0, left)
        order = left < low
        total = total + order * (5.0 + (high - left) / unit) + (0.2 * left + 4.0 * short) / unit
        stock = torch.where(order, high, left)
    return total.mean() / len(demand)


def demands(seed: int, unit: float) -> Tensor:
    return torch.poisson(torch.full((40, 256), 7.0), generator=torch.Generator().manual_seed(seed)) * unit


def tuned(eps: float | str, start: tuple[float, float], unit: float) -> tuple[float, list[float]]:
    p = (torch.tensor(start) * unit).requires_grad_()
    optimizer = torch.optim.Adam([p], 0.2 * unit)
    region = sll.linearize(eps, forward="straight-through", on_lost="ignore")
    for step in range(300):
        optimizer.zero_grad()
        demand = demands(step, unit)
        with region:
            loss = cost(p[0], p[1], demand, unit)
        loss.backward()  # type: ignore[no-untyped-call]
        optimizer.step()
    with torch.no_grad():
        found = torch.stack([cost(p[0], p[1], demands(1000 + i, unit), unit) for i in range(8)])
    return float(found.mean()), (p.detach() / unit).tolist()


def grid() -> tuple[float, tuple[int, int]]:
    held = [demands(1000 + i, 1.0) for i in range(8)]
    found = {
        (low, high): float(
            torch.stack([cost(torch.tensor(low + 0.5), torch.tensor(float(high)), d, 1.0) for d in held]).mean()
        )
        for low in range(0, 20, 2)
        for high in range(low + 2, 40, 2)
    }
    best = min(found, key=lambda at: found[at])
    return found[best], best


def inventories(console: Console) -> None:
    best, at = grid()
    table = Table(
        "start (s, S)", "unit", '"auto": cost, (s, S)', "eps=1", title=f"Inventory; best of the grid {best:.2f} at {at}"
    )
    for start in ((2.0, 8.0), (10.0, 35.0), (0.5, 20.0)):
        for unit in (1.0, 1e-3, 1e3):
            cells = []
            for eps in ("auto", 1.0):
                found, policy = tuned(eps, start, unit)
                cells.append(f"{found:.2f} ({found / best - 1:+.0%}), ({policy[0]:.1f}, {policy[1]:.1f})")
            table.add_row(str(start), f"{unit:g}", *cells)
    console.print(table)


# --- rules with hysteresis: limits are learned, a state is kept between them, and each change costs -------------


def noise(seed: int, paths: int, keeps: float) -> Tensor:
    """Of 48 steps, each with `keeps` of the last."""
    steps = torch.randn(48, paths, generator=torch.Generator().manual_seed(seed))
    found = [steps[0]]
    for step in steps[1:]:
        found.append(keeps * found[-1] + step)
    return torch.stack(found)


def battery(low: Tensor, high: Tensor, seed: int, paths: int) -> Tensor:
    """Charges below a price, until it is above another one."""
    hour = torch.arange(48.0)[:, None]
    prices = 5 + 2 * torch.sin(hour * torch.pi / 12) + 0.6 * noise(seed, paths, 0.7)
    on, level, cost = torch.zeros(paths, dtype=torch.bool), torch.full((paths,), 2.0), torch.zeros(paths)
    for price in prices:
        before = on
        on = (on | (price < low)) & ~(price > high)
        after = (level + torch.where(on, 1.0, -1.0)).clamp(0, 6)
        flow, level = after - level, after
        cost = cost + price * torch.where(flow > 0, flow * 1.1, flow * 0.95) + 0.3 * (on != before)
    return (cost - 4 * level).mean() / 10


def trigger(low: Tensor, high: Tensor, seed: int, paths: int) -> Tensor:
    """Says whether a signal is 0 or 1."""
    random = torch.Generator().manual_seed(seed)
    truth = (torch.rand(48, paths, generator=random) < 0.08).cumsum(0) % 2 == 1
    signal = truth + 0.5 * torch.randn(48, paths, generator=random)
    on, cost = torch.zeros(paths, dtype=torch.bool), torch.zeros(paths)
    for seen, true in zip(signal, truth):
        before = on
        on = (on | (seen > high)) & ~(seen < low)
        cost = cost + (on != true) + 0.2 * (on != before)
    return cost.mean() / 48


def trader(low: Tensor, high: Tensor, seed: int, paths: int) -> Tensor:
    """Buys below, sells above."""
    prices = 0.5 * noise(seed, paths, 0.85)
    held, gain = torch.zeros(paths, dtype=torch.bool), torch.zeros(paths)
    for price, later in zip(prices, prices[1:]):
        before = held
        held = torch.where(held, ~(price > high), price < low)
        gain = gain + held * (later - price) - 0.15 * (held != before)
    return -gain.mean()


RULES: tuple[tuple[Callable[..., Tensor], tuple[tuple[float, float], ...], float], ...] = (
    (battery, ((2.0, 8.0), (4.5, 5.5)), 0.1),
    (trigger, ((-0.5, 1.5), (0.5, 0.6)), 0.05),
    (trader, ((-1.5, 1.5), (-0.2, 0.0)), 0.05),
)


def found_by(
    rule: Callable[..., Tensor], eps: float | str, start: tuple[float, float], seed: int, rate: float
) -> float:
    limits = torch.tensor(start, requires_grad=True)
    optimizer, region = torch.optim.Adam([limits], rate), sll.linearize(eps, forward="straight-through")
    for step in range(100):
        optimizer.zero_grad()
        with region:
            loss = rule(*limits, 1000 * (seed + 1) + step, 32)
        loss.backward()  # type: ignore[no-untyped-call]
        optimizer.step()
    with torch.no_grad():
        return float(rule(*limits, 0, 512))


@torch.no_grad()
def hysteresis(console: Console) -> None:
    table = Table("rule", "start", "at the start", "eps=auto", "eps=2", "eps=0.3", "best of a grid", title="Hysteresis")
    for rule, starts, rate in RULES:
        span = torch.linspace(*(min(starts)[0], max(high for _, high in starts)), 13)
        best = min(float(rule(low, high, 0, 512)) for low in span for high in span if low < high)
        for start in starts:
            cells = [f"{float(rule(*torch.tensor(start), 0, 512)):.3f}"]
            for eps in ("auto", 2.0, 0.3):
                with torch.enable_grad():
                    found = torch.tensor([found_by(rule, eps, start, seed, rate) for seed in range(3)])
                cells.append(f"{found.mean():.3f} ± {found.std():.3f}")
            table.add_row(rule.__name__, str(start), *cells, f"{best:.3f}")
    console.print(table)


def main() -> None:
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("only", nargs="*", default=["classifier", "inventory", "hysteresis"])
    options = parser.parse_args()
    console = Console(width=130)
    warnings.simplefilter("ignore", UserWarning)
    if "classifier" in options.only:
        classifiers(console)
    if "inventory" in options.only:
        inventories(console)
    if "hysteresis" in options.only:
        hysteresis(console)


if __name__ == "__main__":
    main()
