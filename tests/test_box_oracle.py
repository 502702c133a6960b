"""Every elementwise program against the box oracle, in both forward modes and all float dtypes."""

from __future__ import annotations

import pytest
import torch

import sll
from oracles import box_derivative, box_points, jumps, plain, region_gradient, too_coarse
from programs import PROGRAMS, ROWS


@pytest.mark.parametrize("forward", ["linear", "hard"])
@pytest.mark.parametrize("name", PROGRAMS)
def test_float64(name, forward):
    row, eps = ROWS[name], 1e-3
    f, width = row.program, eps / row.scale
    positions, heights = jumps(f, torch.float64)
    x = box_points(positions, width, torch.float64)
    want, certain = box_derivative(x, positions, heights, width)
    value, got = region_gradient(f, x, eps, forward)
    torch.testing.assert_close(
        got[certain], want[certain], rtol=1e-9, atol=1e-9 * float(heights.abs().max()) / eps if len(heights) else 0
    )
    assert certain.sum() > 0.7 * len(x)
    assert (certain & (want != 0)).sum() >= 3 * len(positions) and (len(positions) == 0) == row.constant
    outside = certain & (want == 0)
    assert torch.equal(value[outside], plain(f, x)[outside])
    if forward == "hard":
        assert torch.equal(value, plain(f, x))


LOW = {torch.float32: (1e-2, 1e-4), torch.float16: (0.04, 1e-2), torch.bfloat16: (0.12, 4e-2)}


@pytest.mark.parametrize("dtype", LOW, ids=str)
@pytest.mark.parametrize("forward", ["linear", "hard"])
@pytest.mark.parametrize("name", PROGRAMS)
def test_low_precision(name, forward, dtype):
    row, (eps, rtol) = ROWS[name], LOW[dtype]
    f, width = row.program, eps / row.scale
    try:
        positions, heights = jumps(f, dtype)
    except RuntimeError as error:
        assert "not implemented for" in str(error)
        pytest.skip(str(error))
    if too_coarse(positions, width, dtype, row.scale):
        pytest.skip(f"{dtype} does not resolve the bands of this program")
    x = box_points(positions, width, dtype)
    want, certain = box_derivative(x, positions, heights, width, row.scale)
    assert (certain & (want != 0)).sum() >= 3 * len(positions) and (len(positions) or row.constant)
    value, got = region_gradient(f, x, eps, forward)
    unit = float(heights.abs().max()) / (2 * width) if len(heights) else 0
    torch.testing.assert_close(got[certain].double(), want[certain], rtol=rtol, atol=rtol * unit)
    assert got.dtype == dtype
    if forward == "hard":
        assert torch.equal(value, plain(f, x)) and value.dtype == plain(f, x).dtype


@pytest.mark.parametrize("forward", ["linear", "hard"])
@pytest.mark.parametrize("name", sorted(name for name, row in ROWS.items() if row.ties))
def test_ties_keep_the_hard_value_and_have_the_slope(name, forward):
    """At exact boundaries (multiples of 1/4 contain most of them) the value is the hard program's."""
    f = PROGRAMS[name]
    x = torch.arange(-2.5, 2.51, 0.25, dtype=torch.float64)
    value, _ = region_gradient(f, x, 1e-3, forward)
    ties_only = (plain(f, x + 1e-9) == plain(f, x)) | (plain(f, x - 1e-9) == plain(f, x))
    torch.testing.assert_close(value[ties_only], plain(f, x)[ties_only], rtol=0, atol=0)


@pytest.mark.parametrize(
    ("op", "at", "slope"),
    [
        (torch.sign, 0.0, 100.0),
        (torch.round, 2.5, 50.0),
        (torch.floor, 3.0, 50.0),
        (torch.ceil, 3.0, 50.0),
        (torch.trunc, -2.0, 50.0),
        (torch.trunc, 0.0, 0.0),
        (lambda x: (torch.relu(x) > 0).double(), -1.0, 0.0),
        (lambda x: (x > 0).double(), 0.0, 50.0),
        (lambda x: (x <= 0).double(), 0.0, -50.0),
        (lambda x: x % 2, 4.0, 1 - 2 * 50.0),
        (lambda x: torch.heaviside(x, x.new_tensor(0.75)), 0.0, 50.0),
    ],
)
@pytest.mark.parametrize("forward", ["linear", "hard"])
def test_slope_at_a_tie(op, at, slope, forward):
    x = torch.tensor([at], dtype=torch.float64, requires_grad=True)
    with sll.linearize(1e-2, forward=forward):
        y = op(x)
    assert torch.equal(y, plain(op, x))
    torch.testing.assert_close(torch.autograd.grad(y.sum(), x)[0], torch.tensor([slope], dtype=torch.float64))


@pytest.mark.parametrize("offset", [1.0, -1.0])
def test_band_is_closed(offset):
    eps = 0.25
    x = torch.tensor([offset * eps, offset * eps * (1 + 1e-15 * 4)], dtype=torch.float64, requires_grad=True)
    with sll.linearize(eps):
        y = torch.sign(x)
    assert torch.equal(y, torch.sign(x.detach()))
    assert torch.autograd.grad(y.sum(), x)[0].tolist() == [4.0, 0.0]


@pytest.mark.parametrize("eps", [0.5, 0.7, 100.0])
@pytest.mark.parametrize("op", [torch.round, torch.floor, torch.ceil])
def test_wide_bands_of_steps_do_not_overlap(op, eps):
    """At half a step the ramps join: the backward pass is the identity, and with a hard forward this is the straight-
    through estimator.
    """
    x = torch.linspace(-3, 3, 1001, dtype=torch.float64, requires_grad=True)
    with sll.linearize(eps, forward="hard"):
        y = op(x)
    assert torch.equal(y, op(x.detach()))
    assert torch.equal(torch.autograd.grad(y.sum(), x)[0], torch.ones_like(x))
