"""``forward="hard"`` is bit-identical, and so is ``forward="linear"`` outside the bands, on inputs that hypothesis
makes up.
"""

from __future__ import annotations

import hypothesis.strategies as st
import pytest
import torch
from hypothesis import given, settings

import sll
from inputs import INTEGER, OPS, SPECIAL, tensors
from oracles import plain, same_bits
from programs import PROGRAMS


def check(f, x, eps, forward):
    try:
        want = plain(f, x.clone())
    except (RuntimeError, IndexError) as error:
        with pytest.raises(type(error)), sll.linearize(eps, forward=forward):
            f(x.detach().clone().requires_grad_())
        return
    leaf = x.detach().clone().requires_grad_()
    with sll.linearize(eps, forward=forward):
        got = f(leaf)
    if forward == "hard":
        assert same_bits(got, want)
    for y in got if isinstance(got, (tuple, list)) else [got]:
        if y.requires_grad and y.numel():
            (g,) = torch.autograd.grad(y.sum(), leaf, allow_unused=True)
            assert g is None or g.dtype == x.dtype and g.shape == x.shape


@pytest.mark.parametrize("name", OPS)
@settings(max_examples=25, deadline=None)
@given(x=tensors(), eps=st.sampled_from([1e-3, 0.1, 0.5, 4.0]))
def test_ops(name, x, eps):
    check(OPS[name].run, x, eps, "hard")
    check(OPS[name].run, x, eps, "linear")


@pytest.mark.parametrize("name", INTEGER)
@settings(max_examples=25, deadline=None)
@given(x=tensors(finite=True), eps=st.sampled_from([1e-3, 0.1, 0.5, 4.0]))
def test_integer_ops(name, x, eps):
    check(INTEGER[name].run, x, eps, "hard")
    check(INTEGER[name].run, x, eps, "linear")


@pytest.mark.parametrize("forward", ["linear", "hard"])
@pytest.mark.parametrize("name", OPS)
def test_special_values(name, forward):
    """NaN and infinity: the hard value; no NaN in a gradient whose element is finite, and none at all where the value
    is NaN.
    """
    x = torch.tensor(SPECIAL, dtype=torch.float64)
    f = OPS[name].run
    leaf = x.clone().requires_grad_()
    with sll.linearize(1e-3, forward=forward):
        y = f(leaf)
    if forward == "hard":
        assert same_bits(y, plain(f, x))
    if isinstance(y, torch.Tensor) and y.requires_grad and y.dim() == 1 and y.numel() == x.numel():
        (g,) = torch.autograd.grad(y.nan_to_num(0, 0, 0).sum(), leaf)
        assert not g[:13].isnan().any(), g
        if OPS[name].flat:
            assert not g[13:].any()


@pytest.mark.parametrize("number", [float, torch.tensor], ids=["float", "tensor"])
@pytest.mark.parametrize("forward", ["linear", "hard", "straight-through"])
def test_what_is_not_taken_does_not_leak(forward, number):
    """An inf or NaN in the outcome not taken reaches neither value nor gradient; in the band it has no finite jump."""
    x = torch.tensor([-1.0, 0.001, 1.0], requires_grad=True)
    with sll.linearize(0.01, forward=forward) as region:
        y = x.masked_fill(x > 0, number(float("-inf")))
        z = torch.where(x > 0, x, number(float("nan")))
        s = torch.softmax(torch.where(x > -5, x, float("-inf")), 0)
    assert y.tolist() == [-1, float("-inf"), float("-inf")]
    assert torch.autograd.grad(y[0], x, retain_graph=True)[0].tolist() == [1, 0, 0]
    assert torch.autograd.grad(y.nan_to_num(0, 0, 0).sum(), x)[0].tolist() == [1, 0, 0]
    assert z[1:].tolist() == x[1:].tolist() and z[0].isnan()
    assert torch.autograd.grad(z[1:].sum(), x)[0].tolist() == [0, 1, 1]
    assert torch.autograd.grad(s[0], x)[0].isfinite().all()
    counts = region.report().infinite_jumps
    assert sum(counts.values()) == 2 and all(site.file == __file__ for site in counts)


@pytest.mark.parametrize("name", PROGRAMS)
def test_programs_float32(name):
    x = torch.cat([torch.linspace(-2.6, 2.6, 301), torch.arange(-2.5, 2.6, 0.25)])
    check(PROGRAMS[name], x, 0.05, "hard")
