"""Quiet where quiet is right: an answer that only guards an exception, or goes to a log, is not missed."""

from __future__ import annotations

import logging
import warnings

import pytest
import torch
import torchmetrics.functional.classification as metrics
from torch.distributions import Bernoulli, Categorical, Normal

import sll

MODES = ("linear", "hard", "straight-through")


def raises(x):
    if (x > 3).any():
        raise ValueError("too large")


def raises_of_two(x):
    if x.dim() == 1 and not (
        torch.all((x >= 0) * (x <= 1))
    ):  # fmt: skip
        raise ValueError("no probability")


def raises_else(x):
    if (x < 3).all():
        x = x + 1
    else:
        raise ValueError("too large")


def asserts(x):
    assert not (x > 3).any(), "too large"


def is_valid(x):
    return bool((x < 3).all())


def asks_a_function(x):
    if not is_valid(x):
        raise ValueError("too large")


def warns(x):
    if (x > 3).any():
        warnings.warn("large", stacklevel=2)


def prints(x):
    print("large:", (x > 3).sum().item())


def logs(x):
    logging.getLogger("test").info("%d large", int((x > 3).sum()))


def torch_asserts(x):
    torch._assert((x < 3).all(), "too large")


def decides(x):
    if (x > 3).any():
        x = x / 2
    return x


def decides_and_warns(x):
    if (x > 3).any():
        warnings.warn("large", stacklevel=2)
        x = x / 2


def counts(x):
    return (x > 3).sum().item()


def keeps(x):
    many = counts(x)
    assert many >= 0
    return x * many


def adds(x):
    many = 0
    many += (x > 3).sum().item()
    assert many >= 0


def asserts_later(x):
    many = counts(x)
    assert many >= 0


def raises_later(x):
    large = (x > 3).sum()
    bad = bool(large > 3)
    message = f"{large.item()} are too large"
    if bad:
        raise ValueError(message)


def as_package_checks(x):
    """As torchmetrics looks at labels."""
    for labels, name in ((x.long(), "preds"),):
        many = len(torch.unique(labels, dim=None))
        if many > 3:
            raise RuntimeError(f"Detected more unique values in `{name}` than expected, {many}")


QUIET = (
    raises, raises_else, asserts, asks_a_function, warns, prints, logs, torch_asserts,
    asserts_later, raises_later, as_package_checks,
    lambda x: raises_of_two((x - 2.96) / 2),
    lambda x: Normal(x, x - 2.9, validate_args=True),
    lambda x: Bernoulli(x / 4, validate_args=True).log_prob(torch.ones(3)),
    lambda x: Categorical((x - 2.96)[None].clamp(0), validate_args=True),
)  # fmt: skip
LOUD = (decides, decides_and_warns, counts, keeps, adds)


def said(f, forward):
    x = torch.tensor([2.97, 2.99, 2.98], requires_grad=True)
    with warnings.catch_warnings(record=True) as seen:
        warnings.simplefilter("always")
        with sll.linearize(0.05, forward=forward) as region:
            f(x)
    return [w for w in seen if w.category is sll.LostGradientWarning], region.report()


@pytest.mark.parametrize("forward", MODES)
@pytest.mark.parametrize("f", QUIET)
def test_a_row_and_no_warning(f, forward):
    lost, report = said(f, forward)
    assert lost == [] and report.lost


@pytest.mark.parametrize("forward", MODES)
@pytest.mark.parametrize("f", LOUD)
def test_a_warning(f, forward):
    lost, report = said(f, forward)
    assert len(lost) == len(report.lost) == 1


TARGET = torch.tensor([0, 1, 1])


@pytest.mark.parametrize("forward", MODES)
@pytest.mark.parametrize("name", ["binary_accuracy", "binary_f1_score", "binary_specificity"])
def test_packages_that_look_at_their_input(name, forward):
    """torchmetrics asks whether these are probabilities. Its count of hits got the gradient."""
    metric = getattr(metrics, name)
    lost, report = said(lambda x: metric(torch.cat([x - 2.48, x - 2])[1:4], TARGET), forward)
    assert lost == [] and [site.op for site in report.lost] == ["bool"]


@pytest.mark.parametrize("forward", MODES)
def test_packages_that_lose_it_all(forward):
    """Said at the end of the region, or before backward."""
    from torchmetrics.utilities.compute import normalize_logits_if_needed

    lost, report = said(lambda x: normalize_logits_if_needed(x - 1.98, "sigmoid"), forward)
    assert len(lost) == 1 and "torchmetrics" in lost[0].filename and len(report.lost) == 1
    x = torch.tensor([0.99, 1.01], requires_grad=True)
    with sll.linearize(0.05, forward=forward):
        y = normalize_logits_if_needed(x, "sigmoid")
        with pytest.warns(sll.LostGradientWarning):
            y.sum().backward()


@pytest.mark.parametrize("forward", MODES)
@pytest.mark.parametrize("f", [metrics.binary_auroc, metrics.binary_calibration_error])
def test_packages_that_decide_without_gradients(f, forward):
    """That they looked at their input before is not why nothing has a gradient: the block is said in its place."""
    lost, report = said(lambda x: f(x - 2.02, TARGET), forward)
    assert len(lost) == len(report.cut) == 1
    assert "decides there without gradients, and" in str(lost[0].message) and "see_through=True" in str(lost[0].message)
    assert f"{__file__.rpartition('/')[2]}:" in str(lost[0].message)


@pytest.mark.parametrize("forward", MODES)
def test_a_block_whose_package_asked_nothing_waits_for_its_use(forward):
    """A metric that is only logged, without a look at its input: no word."""
    lost, report = said(lambda x: metrics.binary_auroc((x - 2).sigmoid(), TARGET, validate_args=False), forward)
    assert lost == [] and len(report.cut) == 1


def test_errors_do_not_wait():
    from torchmetrics.utilities.compute import normalize_logits_if_needed

    x = torch.tensor([0.99, 1.01], requires_grad=True)
    with pytest.raises(sll.LostGradientError), sll.linearize(0.05, on_lost="error"):
        normalize_logits_if_needed(x, "sigmoid")


def test_code_without_source():
    """Nobody knows what it is for, so it is said."""
    space = {}
    exec("def f(x):\n    assert (x > 3).any() or True", space)
    lost, _ = said(space["f"], "straight-through")
    assert len(lost) == 1


@pytest.mark.parametrize("forward", MODES)
@pytest.mark.parametrize("many", [8, 100])
@pytest.mark.parametrize("name", ["binary_auroc", "binary_average_precision"])
def test_packages_that_look_at_what_they_computed(name, many, forward):
    """torchmetrics asks whether there are positives at all, under no_grad. The curve has the gradient."""
    metric = getattr(metrics, name)
    x = torch.linspace(0.1, 0.9, many, dtype=torch.float64).requires_grad_()
    target = (torch.arange(many) % 3 == 1).long()
    with warnings.catch_warnings(record=True) as said:
        warnings.simplefilter("always")
        with sll.linearize(1.6 / many, forward=forward, see_through=True) as region:
            y = metric(x, target)
            y.backward()
    assert x.grad.any() and region.report().lost
    assert [str(w.message) for w in said if w.category is sll.LostGradientWarning] == []


def test_who_looks_at_gradients_wants_them():
    """It is printed what becomes of them, not the answer."""
    x = torch.tensor([0.3, 0.7, 1.2], requires_grad=True)
    print(found := sll.explain(lambda x: (x > 0.5).sum().item() + 0 * x.sum(), x))
    assert [row.site.op for row in found.report.rows if row.kind == "lost"] == ["item"]
