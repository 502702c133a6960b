"""Metrics that compute under `torch.no_grad`: the line integral of the gradient, seen through, is the difference of the
metric.
"""

from __future__ import annotations

import pytest
import torch
import torch.nn.functional as F
import torchmetrics.classification as modular
import torchmetrics.functional.classification as metrics
from torch import Tensor

import sll
from oracles import band_crossings, gauss_between, pair_crossings

EPS = 0.004
BINARY, MULTI, MANY = torch.tensor([0, 1, 1, 0, 1]), torch.tensor([0, 1, 1]), torch.tensor([[0, 1], [1, 0], [1, 1]])


def weighted(curves) -> Tensor:
    """A number that knows about every point of a curve."""
    return sum((y.nan_to_num(0.0) * torch.arange(1, len(y) + 1)).sum() for y in curves)


def in_two_updates(metric, target):
    def f(x: Tensor) -> Tensor:
        found = metric()
        for half in (slice(0, 2), slice(2, None)):
            found.update(x[half], target[half])
        return found.compute()

    return f


BY_ORDER = {
    "auroc": lambda x: metrics.binary_auroc(x, BINARY),
    "average precision": lambda x: metrics.binary_average_precision(x, BINARY),
    "roc": lambda x: weighted(metrics.binary_roc(x, BINARY)[:2]),
    "precision-recall": lambda x: weighted(metrics.binary_precision_recall_curve(x, BINARY)[:2]),
    "multiclass": lambda x: metrics.multiclass_auroc(x, MULTI, num_classes=2),
    "multilabel": lambda x: metrics.multilabel_average_precision(x, MANY, num_labels=2),
    "modular": in_two_updates(modular.BinaryAUROC, BINARY),
}
BINNED = {
    "auroc": lambda x: metrics.binary_auroc(x, BINARY, thresholds=5),
    "average precision": lambda x: metrics.binary_average_precision(x, BINARY, thresholds=5),
    "multilabel": lambda x: metrics.multilabel_auroc(x, MANY, num_labels=2, thresholds=5),
    "multiclass": lambda x: metrics.multiclass_auroc(x, MULTI, num_classes=2, thresholds=5),
    "calibration": lambda x: metrics.binary_calibration_error(x, BINARY, n_bins=4, norm="l2"),
    "modular": in_two_updates(lambda: modular.BinaryAveragePrecision(thresholds=5), BINARY),
}
THRESHOLDS = (0.25, 0.5, 0.75)


LABELS = {"multiclass": F.one_hot(MULTI, 2), "multilabel": MANY}


def path(name: str) -> tuple[Tensor, Tensor]:
    """From some order of the scores to one that puts first what is to be found. None is in a band."""
    labels = LABELS.get(name, BINARY)
    values = torch.linspace(0.07, 0.93, labels.numel(), dtype=torch.float64)
    values = torch.where((values - 0.5).abs() < 0.01, 0.53, values)
    first = values[torch.randperm(len(values), generator=torch.Generator().manual_seed(4))]
    last = values[labels.reshape(-1).argsort(stable=True).argsort()]
    return first.reshape(labels.shape), last.reshape(labels.shape)


def integral(f, name: str, breaks: Tensor, forward: str) -> tuple[float, float]:
    a, b = path(name)
    total = 0.0
    for t, w in zip(*map(Tensor.tolist, gauss_between(breaks[(breaks >= 0) & (breaks <= 1)], points=2))):
        x = (a + (b - a) * t).requires_grad_()
        with sll.linearize(EPS, forward=forward, see_through=True, on_lost="ignore"):
            y = f(x)
        (g,) = torch.autograd.grad(y, x)
        total += w * float((g * (b - a)).sum())
    return total, float(f(b) - f(a))


TOLERANCE = {"linear": 1e-3, "hard": 0.03}


@pytest.mark.parametrize("forward", ["linear", "hard"])
@pytest.mark.parametrize("name", BY_ORDER)
def test_curves_of_all_scores(name, forward):
    a, b = path(name)
    rows = (a.T, b.T) if a.dim() == 2 else (a[None], b[None])
    got, want = integral(BY_ORDER[name], name, pair_crossings(*rows, EPS), forward)
    assert abs(want) > 0.01 and got == pytest.approx(want, rel=TOLERANCE[forward])


@pytest.mark.parametrize("forward", ["linear", "hard"])
@pytest.mark.parametrize("name", BINNED)
def test_binned_curves(name, forward):
    a, b = path(name)
    breaks = torch.cat([band_crossings(a.reshape(-1), b.reshape(-1), edge, EPS) for edge in THRESHOLDS])
    got, want = integral(BINNED[name], name, breaks, forward)
    assert abs(want) > 0.01 and got == pytest.approx(want, rel=TOLERANCE[forward])


@pytest.mark.parametrize(
    "metric", [*BY_ORDER.values(), *BINNED.values()], ids=[*BY_ORDER, *(f"binned {n}" for n in BINNED)]
)
def test_straight_through_has_a_gradient(metric):
    """Better ranks of what is positive, and the same values as without a region."""
    name = next(n for n, f in (*BY_ORDER.items(), *BINNED.items()) if f is metric)
    by_order = metric in BY_ORDER.values()
    x = path(name)[0].clone().requires_grad_()
    with sll.linearize(0.3, forward="straight-through", see_through=True, on_lost="ignore"):
        y = metric(x)
    (g,) = torch.autograd.grad(y, x)
    assert torch.equal(y.detach(), metric(x.detach())) and g.isfinite().all() and g.any()
    if name == "auroc" and by_order:
        assert (g[BINARY == 1] >= 0).all() and (g[BINARY == 0] <= 0).all()


def test_an_empty_bin_has_no_part_in_the_gradient():
    """The mean of what is put into it is 0 / 0."""
    for forward in ("linear", "hard", "straight-through"):
        x = torch.tensor([0.5, 0.45, 2.5], requires_grad=True)
        with sll.linearize(0.01, forward=forward):
            i = x.long()
            n = torch.bincount(i, minlength=4)
            s = torch.zeros(4).scatter_add(0, i, x)
            y = torch.where(n > 0, s / n, 0.0).sum()
        assert torch.autograd.grad(y, x)[0].tolist() == pytest.approx([0.5, 0.5, 1.0])
