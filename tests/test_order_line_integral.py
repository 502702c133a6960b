"""Line-integral oracle on programs that choose and order, third-party code unedited."""

from __future__ import annotations

import pytest
import torch
import torchmetrics.functional.classification as metrics
import torchmetrics.functional.regression as regression
import torchmetrics.functional.retrieval as retrieval

import sll
from oracles import integral

EPS = 1e-2
CLASSES = 4


def apart(shape, generator, eps, scale=1.0):
    """Random entries, those of a row at least 2 eps apart from each other."""
    rows = []
    for _ in range(shape[0] if len(shape) > 1 else 1):
        while True:
            row = torch.rand(shape[-1], generator=generator, dtype=torch.float64) * scale
            if row.sort().values.diff().min() > 2 * eps:
                rows.append(row)
                break
    return torch.stack(rows).reshape(shape)


MULTICLASS = {
    "accuracy_micro": lambda p, t: metrics.multiclass_accuracy(p, t, CLASSES, average="micro"),
    "accuracy_macro": lambda p, t: metrics.multiclass_accuracy(p, t, CLASSES, average="macro"),
    "accuracy_top2": lambda p, t: metrics.multiclass_accuracy(p, t, CLASSES, average="micro", top_k=2),
    "accuracy_top2_macro": lambda p, t: metrics.multiclass_accuracy(p, t, CLASSES, average="macro", top_k=2),
    "f1_macro": lambda p, t: metrics.multiclass_f1_score(p, t, CLASSES, average="macro"),
    "f1_weighted": lambda p, t: metrics.multiclass_f1_score(p, t, CLASSES, average="weighted"),
    "jaccard": lambda p, t: metrics.multiclass_jaccard_index(p, t, CLASSES),
    "confusion_matrix_diagonal": lambda p, t: metrics.multiclass_confusion_matrix(p, t, CLASSES)[3, 3].double(),
    "confusion_matrix_entry": lambda p, t: metrics.multiclass_confusion_matrix(p, t, CLASSES)[2, 0].double(),
    "confusion_matrix_normalized": lambda p, t: metrics.multiclass_confusion_matrix(p, t, CLASSES, normalize="true")[
        0, 0
    ].double(),
    "cohen_kappa": lambda p, t: metrics.multiclass_cohen_kappa(p, t, CLASSES),
    "matthews": lambda p, t: metrics.multiclass_matthews_corrcoef(p, t, CLASSES),
}


def multiclass_case(seed, n=12):
    g = torch.Generator().manual_seed(seed)
    target = torch.arange(n) % CLASSES
    a = apart((n, CLASSES), g, EPS)
    b = apart((n, CLASSES), g, EPS) + 0.6 * torch.nn.functional.one_hot(target, CLASSES)
    return target, a, b


RANKING = {
    "spearman": lambda p, t: regression.spearman_corrcoef(p, t),
    "kendall": lambda p, t: regression.kendall_rank_corrcoef(p, t),
    "kendall_a": lambda p, t: regression.kendall_rank_corrcoef(p, t, variant="a"),
}
RETRIEVAL = {
    "precision": lambda p, t: retrieval.retrieval_precision(p, t, top_k=4),
    "recall": lambda p, t: retrieval.retrieval_recall(p, t, top_k=4),
    "hit_rate": lambda p, t: retrieval.retrieval_hit_rate(p, t, top_k=2),
    "fall_out": lambda p, t: retrieval.retrieval_fall_out(p, t, top_k=4),
    "r_precision": lambda p, t: retrieval.retrieval_r_precision(p, t),
    "ndcg": lambda p, t: retrieval.retrieval_normalized_dcg(p, t),
    "ndcg_top": lambda p, t: retrieval.retrieval_normalized_dcg(p, t, top_k=4),
    "average_precision": lambda p, t: retrieval.retrieval_average_precision(p, t),
    "reciprocal_rank": lambda p, t: retrieval.retrieval_reciprocal_rank(p, t),
}


def ranking_case(seed, n=10, eps=EPS):
    """Scores that end up ordered like the target (float) or with the relevant documents (the largest three) first."""
    g = torch.Generator().manual_seed(seed)
    target = torch.rand(n, generator=g, dtype=torch.float64)
    while True:
        a, b = (apart((n,), g, eps, 0.9) + 0.05 for _ in range(2))
        b = 0.3 * b + 0.7 * target
        if b.sort().values.diff().min() > 2 * eps:
            return target, a, b


METRICS = {**MULTICLASS, **RANKING, **RETRIEVAL}


def case(name, seed):
    """A metric as a function of the scores, and both ends of a path."""
    if name in MULTICLASS:
        target, a, b = multiclass_case(seed)
    else:  # Kendall's tau counts pairs of pairs, in loops
        target, a, b = ranking_case(seed, 5 if name.startswith("kendall") else 10)
    if name in RETRIEVAL:
        target = target >= target.sort().values[-3]
    return lambda p: METRICS[name](p, target), a, b


@pytest.mark.parametrize("forward", ["linear", "hard"])
@pytest.mark.parametrize("name", METRICS)
def test_metrics(name, forward):
    f, a, b = case(name, 0)
    smooth = name in MULTICLASS  # on this path never three of a row in one band: no corners inside the intervals
    # There the slope of a flip is the same throughout an interval, and that of products of ramps a polynomial.
    points = {"hard": 1, "linear": 2}[forward] if smooth else 3
    got, want = integral(f, a, b, EPS, forward, points=points)
    assert abs(want) > 0.05
    assert got == pytest.approx(want, rel=1e-5 if smooth and forward == "linear" else 0.03)


@pytest.mark.parametrize("forward", ["linear", "hard"])
@pytest.mark.parametrize("seed", [1, 5])
def test_places_of_a_ranking_are_not_independent(seed, forward):
    """The labels at two places count as one sum: a document that leaves the first place goes to the second."""
    f, a, b = case("hit_rate", seed)
    got, want = integral(f, a, b, EPS, forward)
    assert want == 1
    assert got == pytest.approx(want, rel=0.03)


@pytest.mark.parametrize("forward", ["linear", "hard", "straight-through"])
@pytest.mark.parametrize("grades", [[0, 1, 0, 3, 0, 5, 1], [0, 1, 0, 1, 0, 1, 1]], ids=["grades", "labels"])
@pytest.mark.parametrize("best", [lambda x: x.topk(2).indices, lambda x: x.argsort(descending=True)[:2]])
def test_sums_over_places_that_are_exchanged_do_not_change(best, grades, forward):
    x = torch.tensor([0.1, 0.105, 0.5, 0.608, 0.9, 0.905, 0.205], dtype=torch.float64, requires_grad=True)
    grades = torch.tensor(grades)

    def f(x):
        return (grades[best(x)].sum() >= grades[-2]).double() * 3 + (best(x).sum() > 8).double()

    with sll.linearize(EPS, forward=forward):
        y = f(x)
    assert y == f(x.detach()) == 4
    (g,) = torch.autograd.grad(y, x)
    assert torch.equal(g, torch.zeros_like(x))


@pytest.mark.parametrize("forward", ["linear", "hard", "straight-through"])
def test_sums_over_ranks_know_that_no_two_are_equal(forward):
    x = torch.tensor([0.1, 0.1041, 0.107, 0.5], dtype=torch.float64, requires_grad=True)
    with sll.linearize(EPS, forward=forward):
        y = (x.argsort().argsort()[:2].sum() >= 1).double()
    assert y == 1  # 0 + 1 at least
    (g,) = torch.autograd.grad(y, x)
    # Locally a sum is a number, which could be 0: two pairs may be exchanged with the third.
    want = torch.tensor([1.0, 1.0, -2.0, 0.0]).double() / (2 * EPS) if forward == "straight-through" else g * 0
    torch.testing.assert_close(g, want)


@pytest.mark.parametrize("name", METRICS)
def test_hard_forward_is_bit_identical(name):
    """Third-party code at points where many decisions are in their band, with ties."""
    for seed in range(8):
        f, a, _ = case(name, seed)
        x = torch.round(a, decimals=1 if seed % 2 else 2)
        want = f(x)
        with sll.linearize(0.1, forward="hard", on_lost="ignore"):
            got = f(x.clone().requires_grad_())
        assert type(got) is type(want) and got.dtype == want.dtype
        assert torch.equal(got.nan_to_num(7), want.nan_to_num(7)), (got, want)
