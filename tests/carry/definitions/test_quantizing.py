"""Fake quantization is rounding, in every mode, with torch's own values."""

from __future__ import annotations

import pytest
import torch

import sll
from defined import MODES, clear_path, exact_integral, same_as_without

ZERO = torch.tensor(1, dtype=torch.int32)
ZEROS = torch.tensor([0, 1, -2], dtype=torch.int32)
WEIGHTS = torch.cos(torch.arange(12.0))
QUANTIZERS = {
    "fixed": lambda x: torch.fake_quantize_per_tensor_affine(x, 0.3, 1, -4, 3),
    "of the largest": lambda x: torch.fake_quantize_per_tensor_affine(x, x.abs().max() / 3, ZERO, -4, 3),
    "channels": lambda x: torch.fake_quantize_per_channel_affine(
        x.view(3, 4), x.view(3, 4).abs().amax(1) / 3, ZEROS, 0, -4, 3
    ),
    "learned": lambda x: torch._fake_quantize_learnable_per_tensor_affine(
        x, x.abs().mean().reshape(1) / 3, x[:1] * 2, -4, 3, 1.0
    ),
    "learned channels": lambda x: torch._fake_quantize_learnable_per_channel_affine(
        x.view(3, 4), x.view(3, 4).abs().mean(1) / 3, x[:3] * 2, 0, -4, 3, 1.0
    ),
}
DOUBLE = ("fixed", "of the largest", "channels")
"""The learned ones take only single precision."""


@pytest.mark.parametrize("name", QUANTIZERS)
def test_values_are_those_of_torch(name):
    x = torch.linspace(-1.71, 1.77, 12).requires_grad_()
    assert same_as_without(QUANTIZERS[name], x)


LONG = ("channels", "of the largest")


@pytest.mark.parametrize("name", [pytest.param(n, marks=[pytest.mark.slow] * (n in LONG)) for n in QUANTIZERS])
def test_line_integral(name):
    program = lambda x: (QUANTIZERS[name](x.float()).reshape(-1) * WEIGHTS).sum().double()
    a, b = clear_path(program, (12,), 0.02, low=0.3)
    got, want = exact_integral(program, a, b, 0.02)
    assert got == pytest.approx(want, abs=2e-3)


@pytest.mark.parametrize("name", QUANTIZERS)
def test_a_band_of_half_a_step_is_the_straight_through_estimator(name):
    """With the gradient that the clamp cuts, as torch's own; of the scale what its formula says."""
    x = torch.linspace(-1.31, 1.37, 12).requires_grad_()
    with sll.linearize():
        (g,) = torch.autograd.grad(QUANTIZERS[name](x).sum(), x)
    assert (g != 0).sum() >= 6


def test_the_slope_is_that_of_the_region_and_not_torch_s():
    x = torch.tensor([0.16, 0.29], requires_grad=True)
    for forward in MODES:
        with sll.linearize(0.1, forward=forward):  # in steps
            (g,) = torch.autograd.grad(torch.fake_quantize_per_tensor_affine(x, 0.3, 0, -4, 3).sum(), x)
        assert g.tolist() == pytest.approx([5.0, 0.0], rel=1e-5)


def test_the_gradient_of_a_learned_scale_has_its_factor():
    x, found = torch.linspace(-1, 1, 9), []
    for factor in (1.0, 0.25):
        scale, zero = torch.tensor([0.3], requires_grad=True), torch.tensor([0.0], requires_grad=True)
        with sll.linearize():
            y = torch._fake_quantize_learnable_per_tensor_affine(x, scale, zero, -4, 3, factor)
        found.append(torch.autograd.grad((y * x).sum(), scale)[0].item())
    assert found[1] == pytest.approx(found[0] / 4) and found[0] != 0


@pytest.mark.parametrize(
    "make", ["FakeQuantize", "FusedMovingAvgObsFakeQuantize", "default_per_channel_weight_fake_quant"]
)
def test_modules_observe_once(make):
    quantization = torch.ao.quantization
    first, second = getattr(quantization, make)(), getattr(quantization, make)()
    x = torch.randn(4, 6, generator=torch.Generator().manual_seed(0), requires_grad=True)
    plain = second(x.detach())
    with sll.linearize() as region:
        y = first(x)
    assert torch.equal(y, plain) and torch.equal(first.scale, second.scale)
    assert torch.autograd.grad(y.sum(), x)[0].mean() > 0.9 and not region.report().lost
