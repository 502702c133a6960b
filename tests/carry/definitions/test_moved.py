"""Functions that are others in a row: the values of torch, and the gradient of what was moved."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

import sll

MODES = ("straight-through", "hard", "linear")
COMPOSED = {
    "meshgrid ij": lambda m: torch.stack(torch.meshgrid(m, m[:2], indexing="ij")),
    "meshgrid xy": lambda m: torch.stack(torch.meshgrid(m, m[:2], m[1:], indexing="xy")),
    "meshgrid, a list": lambda m: torch.stack(torch.meshgrid([m, m], indexing="ij")),
    "cartesian_prod": lambda m: torch.cartesian_prod(m, m[:2]),
    "cartesian_prod of one": lambda m: torch.cartesian_prod(m),
    "combinations": lambda m: torch.combinations(m),
    "combinations with replacement": lambda m: torch.combinations(m, 3, with_replacement=True),
    "block_diag": lambda m: torch.block_diag(m[None], m[:2, None], m[0]),
    "fill_diagonal_": lambda m: m.reshape(-1, 1).repeat(1, 3).fill_diagonal_(1),
    "fill_diagonal_, wrapped": lambda m: m.reshape(-1, 1).repeat(3, 2).fill_diagonal_(0, wrap=True),
    "put": lambda m: torch.zeros_like(m).reshape(-1, 1).put(torch.arange(2), m[1:3]),
    "put_": lambda m: m.clone().put_(torch.tensor([0, 1]), m[1:3]),
    "put, added": lambda m: torch.zeros_like(m).put(torch.tensor([0, 0, 1]), m[:3], accumulate=True),
}
KINDS = {"mask": lambda x: x > 0, "integers": lambda x: (3 * x).round().long()}


def slope(program, x, forward, eps):
    x = x.clone().requires_grad_()
    with sll.linearize(eps, forward=forward, on_lost="error"):
        y = program(x)
        weights = torch.arange(1.0, y.numel() + 1).double().reshape(y.shape)
        return y.detach(), torch.autograd.grad((y.double() * weights).sum() + 0 * x.sum(), x)[0]


@pytest.mark.parametrize("forward", MODES)
@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("name", COMPOSED)
def test_what_is_moved_has_the_difference_of_the_hard_program(name, kind, forward):
    if (name, kind) == ("put, added", "mask"):
        pytest.skip("torch does not add bools")
    make, eps = (lambda x: COMPOSED[name](KINDS[kind](x))), 0.05
    for place in range(4):
        x = torch.tensor([0.6, -0.7, 0.35, -0.3]).double()
        x[place] = 0.01 if kind == "mask" else 0.505
        plain = make(x)
        weights = torch.arange(1.0, plain.numel() + 1).double().reshape(plain.shape)
        moved = lambda v, x=x, place=place: x.index_fill(0, torch.tensor(place), v)
        total = lambda v, weights=weights, moved=moved: (make(moved(v)).double() * weights).sum()
        middle = 0.0 if kind == "mask" else 0.5
        want = (total(middle + eps) - total(middle - eps)) / (2 * eps)
        value, found = slope(make, x, forward, eps * (1 if kind == "mask" else 3))
        assert value.dtype == plain.dtype and value.shape == plain.shape
        if forward != "linear":
            assert torch.equal(value, plain)
        assert found[place].item() == pytest.approx(want.item())


@settings(max_examples=30, deadline=None)
@given(st.lists(st.integers(0, 3), min_size=1, max_size=3), st.sampled_from(["ij", "xy"]))
def test_grids_of_any_shape(sizes, indexing):
    parts = [torch.linspace(-1, 1, n).double() for n in sizes]
    plain = torch.meshgrid(*(x > 0 for x in parts), indexing=indexing)
    for forward in MODES:
        with sll.linearize(0.1, forward=forward):
            found = torch.meshgrid(*(x.clone().requires_grad_() > 0 for x in parts), indexing=indexing)
        assert all(torch.equal(a, b) for a, b in zip(found, plain)) and len(found) == len(plain)


EPS = 0.1
MADE = {
    "of a tensor": lambda m: torch.tensor(m),
    "shared": lambda m: torch.as_tensor(m, dtype=torch.int64),
    "asarray": lambda m: torch.asarray(m),
    "by keyword": lambda m: torch.as_tensor(data=m),
    "like another": lambda m: torch.zeros(1, dtype=torch.int16).new_tensor(m),
    "a list": lambda m: torch.tensor([m[1], m[0], 1]),
    "lists in a list": lambda m: torch.tensor([[m[0], 0], [True, m[1]]], dtype=torch.float64),
}


@pytest.mark.filterwarnings("ignore:To copy construct:UserWarning")
@pytest.mark.parametrize("forward", MODES)
@pytest.mark.parametrize("name", MADE)
def test_values_and_gradients(name, forward):
    def total(x):
        made = MADE[name](x > 0)
        return made, (made.double() * torch.arange(1.0, made.numel() + 1).reshape(made.shape)).sum()

    x = torch.tensor([0.02, -0.03], dtype=torch.float64)
    want = torch.tensor([total(x + s)[1] - total(x - s)[1] for s in EPS * torch.eye(2)]) / (2 * EPS)
    plain, leaf = total(x)[0], x.clone().requires_grad_()
    with sll.linearize(EPS, forward=forward, on_lost="error"):
        made, out = total(leaf)
    assert made.dtype == plain.dtype and made.shape == plain.shape
    if forward != "linear":
        assert torch.equal(made.detach(), plain)
    torch.testing.assert_close(torch.autograd.grad(out, leaf)[0].float(), want.float())


@pytest.mark.parametrize("forward", MODES)
def test_floats_are_cut_as_by_torch(forward):
    x = torch.tensor([0.02], requires_grad=True)
    with sll.linearize(EPS, forward=forward):
        assert not torch.as_tensor([torch.round(x)[0]]).requires_grad
        assert not torch.as_tensor(np.array([1.0])).requires_grad
        leaf = torch.tensor([(x > 0)[0]], dtype=torch.float32, requires_grad=True)
    assert leaf.is_leaf and leaf.requires_grad
