"""Reductions of bools: whether all is well is asked at once, and worked out when somebody uses it."""

from __future__ import annotations

import hypothesis.strategies as st
import pytest
import torch
from hypothesis import given, settings

import sll

EPS = 0.5


def probability(x, name, dim):
    """Of elements that are independent."""
    p = (x / (2 * EPS) + 0.5).clamp(0, 1)
    q = p if name == "all" else 1 - p
    for d in sorted({d % x.dim() for d in (range(x.dim()) if dim is None else [dim])}, reverse=True) if x.dim() else ():
        q = q.prod(d)
    return q if name == "all" else 1 - q


@settings(deadline=None, max_examples=40)
@given(
    shape=st.lists(st.integers(0, 3), max_size=3),
    name=st.sampled_from(["all", "any"]),
    reduced=st.booleans(),
    last=st.booleans(),
    seed=st.integers(0, 99),
)
def test_all_and_any_are_products_of_weights(shape, name, reduced, last, seed):
    x = torch.rand(shape, dtype=torch.float64, generator=torch.Generator().manual_seed(seed)) * 2 - 1
    dim = (-1 if last else 0) if reduced and shape else None
    a, b = x.clone().requires_grad_(), x.clone().requires_grad_()
    with sll.linearize(EPS, forward="linear"):
        mask = a > 0
        y = getattr(mask, name)() if dim is None else getattr(mask, name)(dim)
        mask.logical_not_()  # (what is worked out later is about what was there)
        y = y.double()
    want = probability(b, name, dim)
    torch.testing.assert_close(y, want)
    if want.requires_grad and x.numel():
        got, want = (torch.autograd.grad(out.sum(), leaf)[0] for out, leaf in ((y, a), (want, b)))
        torch.testing.assert_close(got, want)


@pytest.mark.parametrize("name", ["all", "any"])
def test_nobody_works_out_what_is_only_asked(name, monkeypatch):
    from sll._carry.outcomes import reductions

    x = torch.tensor([0.1, -0.2, 2.0], requires_grad=True)
    with sll.linearize(EPS, forward="linear", on_lost="ignore") as region:
        monkeypatch.setattr(reductions, "expect", lambda *_: pytest.fail("worked out"))
        assert bool(getattr(x > 0, name)()) == (name == "any")
    assert sum(region.report().lost.values()) == 1
