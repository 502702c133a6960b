"""The derivative of a choice is the same, whoever computes it: lists, NumPy or torch."""

from __future__ import annotations

import math

import pytest
import torch
from hypothesis import assume, given, settings
from hypothesis import strategies as st

from sll._ops import projections
from sll._ops.projections import Projection

SPECIAL = [math.nan, math.inf, -math.inf, -1e30, 1e30]


@st.composite
def choices(draw):
    """Scores with ties, some not finite; a gradient; and how many are chosen, of the largest or the smallest."""
    shape = draw(st.sampled_from([(2,), (7,), (3, 5), (1, 2, 4), (4, 31), (2, 64)]))
    generator = torch.Generator().manual_seed(draw(st.integers(0, 999)))
    dtype = draw(st.sampled_from([torch.float32, torch.float64]))
    x, g = torch.randn(2, *shape, generator=generator, dtype=dtype)
    if draw(st.booleans()):
        x = (4 * x).round() / 4
    for special in draw(st.lists(st.sampled_from(SPECIAL), max_size=2)):
        x.view(-1)[draw(st.integers(0, x.numel() - 1))] = special
    return x, g, draw(st.integers(1, shape[-1])), draw(st.booleans())


def each_way(compute):
    """What `compute` returns in lists, with NumPy, and with torch alone."""
    found = []
    with pytest.MonkeyPatch.context() as patch:
        for short, few in ((128, 4096), (0, 4096), (0, 0)):
            patch.setattr(projections, "SHORT", short)
            patch.setattr(projections, "FEW", few)
            found.append(compute())
    return found


@settings(deadline=None)
@given(choices(), st.sampled_from([1e-3, 0.2613, 1.0327, 3.7, 200.0]), st.booleans())
def test_the_gradient(choice, half, subset):
    """Scores tie, but none is exactly at the end of its band: there the gradient is one of two."""
    x, g, k, largest = choice
    ordered = subset or k > 1  # (the first of a row is never chosen by an order)
    lists, arrays, tensors = each_way(lambda: Projection(k, -1, largest, half, ordered).gradient(x, g))
    assert lists.dtype == x.dtype and lists.shape == x.shape
    for other in (arrays, tensors):
        torch.testing.assert_close(lists, other, rtol=1e-5, atol=1e-5 / half)


@pytest.mark.parametrize("k", [1, 2, 3])
@pytest.mark.parametrize("far", [-1e30, 1e17])
def test_scores_that_are_larger_than_bands_can_tell(k, far):
    """Fewer are left than are chosen, the others have been masked out with a large number: these are equal."""
    x = torch.tensor([[1.0, far, far, far], [far, far, 0.5, 0.25]], dtype=torch.float64)
    g = torch.arange(8.0, dtype=torch.float64).reshape(2, 4)
    found = each_way(lambda: Projection(k, -1, True, 0.5, ordered=True).gradient(x, g))
    for other in found[1:]:
        torch.testing.assert_close(found[0], other)


@settings(deadline=None)
@given(choices(), st.booleans())
def test_the_width(choice, subset):
    """A policy is shown the same distances."""
    x, g, k, largest = choice
    assume(x.isfinite().all())
    seen = []

    def half(sample):
        seen.append(torch.as_tensor(sample(), dtype=torch.float64).abs().sort().values)
        return 1.0

    each_way(lambda: Projection(k if subset else 1, -1, largest, half, subset).gradient(x, g))
    for other in seen[1:]:
        torch.testing.assert_close(seen[0], other, rtol=1e-5, atol=1e-5, equal_nan=True)


@pytest.mark.parametrize("k", [1, 3])
def test_who_differentiates_the_gradient_gets_a_graph(k):
    x, g = torch.randn(2, 3, 7, generator=torch.Generator().manual_seed(0), dtype=torch.float64)
    by = Projection(k, -1, True, 1.0, ordered=True)
    g.requires_grad_()
    found = by.gradient(x, g)
    torch.testing.assert_close(found, by.gradient(x, g.detach()))
    (back,) = torch.autograd.grad(found, g, torch.ones_like(g))
    torch.testing.assert_close(back, by.gradient(x, torch.ones_like(g)))  # it is symmetric
    many = torch.randn(4, 3, 7, generator=torch.Generator().manual_seed(1), dtype=torch.float64)
    torch.testing.assert_close(
        torch.func.vmap(lambda g: by.gradient(x, g))(many), torch.stack([by.gradient(x, g) for g in many])
    )


@settings(deadline=None)
@given(choices(), st.sampled_from([1e-3, 0.25, 3.7, 200.0]))
def test_of_a_soft_choice_it_is_that_of_a_softmax(choice, scale):
    x, g, _, largest = choice
    got = Projection(1, -1, largest, scale, soft=True).gradient(x, g)
    rows = (x if largest else -x).double().requires_grad_()
    best = rows.detach().amax(-1, keepdim=True)
    z = torch.where(best.isfinite(), rows, 0) / scale
    (want,) = torch.autograd.grad(z.softmax(-1), rows, g.double())
    want = want if largest else -want
    torch.testing.assert_close(got.double(), want, rtol=1e-4, atol=1e-4 / scale)  # (1e30 / scale is rounded)
