"""Line-integral oracle on third-party code and on hand-written layers, unedited."""

from __future__ import annotations

import pytest
import torch
import torchmetrics.functional.classification as metrics

import sll
from layers import leaky_integrate_and_fire, random_path, snntorch_leaky
from oracles import adaptive_integral, band_crossings, gauss_between, jittered_integral, line_integral

METRICS = {
    "accuracy": metrics.binary_accuracy,
    "f1": metrics.binary_f1_score,
    "jaccard": metrics.binary_jaccard_index,
    "matthews": metrics.binary_matthews_corrcoef,
    "precision": metrics.binary_precision,
    "recall": metrics.binary_recall,
    "specificity": metrics.binary_specificity,
}


def metric_case(seed, n=48, eps=1e-2):
    """Random scores at both ends of the path, all of them outside the band around 1/2, and targets they are
    correlated with.
    """
    g = torch.Generator().manual_seed(seed)
    target = (torch.rand(n, generator=g) < 0.4).long()

    def scores(shift):
        p = torch.sigmoid(torch.randn(n, generator=g, dtype=torch.float64) + shift * (target - 0.5))
        return torch.where((p - 0.5).abs() < 2 * eps, p + 4 * eps, p)

    return target, scores(0.0), scores(3.0)


@pytest.mark.parametrize("forward", ["linear", "hard"])
@pytest.mark.parametrize("name", METRICS)
def test_torchmetrics(name, forward):
    eps = 1e-2
    target, a, b = metric_case(0, n=32, eps=eps)

    def f(p):
        return METRICS[name](p, target)

    times, weights = gauss_between(band_crossings(a, b, 0.5, eps), points=2)
    got = line_integral(f, a, b, times, weights, eps, forward)
    want = float(f(b) - f(a))
    assert abs(want) > 0.05  # the path changes the metric
    assert got == pytest.approx(want, rel=1e-5 if forward == "linear" else 0.02)


@pytest.mark.parametrize("forward", ["linear", "hard"])
def test_snntorch_leaky(forward):
    """`spike_grad` is the hard comparison; the reset is detached by snnTorch and stays so."""
    f = snntorch_leaky()
    a, b = random_path(f, seed=0, eps=1e-2)
    want = float((f(b[None]) - f(a[None])).sum())
    assert abs(want) >= 5
    assert jittered_integral(f, a, b, 1e-2, forward) == pytest.approx(want, rel=0.02)


@pytest.mark.parametrize("reset", ["subtract", "zero"])
def test_reset_in_the_graph_linear(reset):
    """Spikes depend on spikes: exact in linear mode, because value and gradient belong to one continuous function."""
    f = leaky_integrate_and_fire(reset=reset)
    a, b = random_path(f, seed=1, eps=1e-2)
    want = float((f(b[None]) - f(a[None])).sum())
    assert abs(want) >= 5
    assert adaptive_integral(f, a, b, 1e-2) == pytest.approx(want, rel=1e-3)


@pytest.mark.parametrize("reset", ["subtract", "zero"])
def test_reset_in_the_graph_hard(reset):
    """In hard mode the decisions along one path are correlated; following them jointly leaves an error of order eps."""
    errors, wants = [], []
    for seed in range(4):
        f = leaky_integrate_and_fire(reset=reset, seed=seed)
        a, b = random_path(f, seed=seed, eps=1e-3)
        wants.append(float((f(b[None]) - f(a[None])).sum()))
        errors.append(jittered_integral(f, a, b, 1e-3, "hard", seed=seed) - wants[-1])
    relative = (torch.tensor(errors).square().mean() / torch.tensor(wants).square().mean()).sqrt()
    assert relative < 0.05  # benchmarks/acceptance.py states the figure


def test_detached_stays_detached():
    x = torch.tensor([0.0, 0.5], requires_grad=True)
    with sll.linearize(0.1):
        s = (x > 0).float()
        y = torch.round(s.detach() * 3) + (x > 0).detach() * 1.0
    assert not y.requires_grad
