"""The rule that a definition makes, wherever a region may stand."""

from __future__ import annotations

import warnings

import pytest
import torch
import torch.nn.functional as F

import sll
from defined import MODES, gradient, weighed
from sll._carry.definitions.rule import rules
from sll._rules.index import names_of, spellings


def quantized(x):
    return torch.fake_quantize_per_tensor_affine(x, 0.3, 0, -4, 3)


def slopes(*regions):
    x = torch.tensor([0.16, 0.29, -0.44], requires_grad=True)
    for region in regions:
        region.__enter__()
    y = quantized(x)
    for region in reversed(regions):
        region.__exit__(None, None, None)
    return torch.autograd.grad(y.sum(), x)[0].tolist()


def test_every_function_of_the_family_is_written_down():
    assert set(names_of("defined")) <= set(rules(None))
    assert all(spellings(name) for name in rules(None))


@pytest.mark.parametrize("forward", MODES)
def test_in_other_regions_and_traced(forward):
    alone = slopes(sll.linearize(0.1, forward=forward))
    assert alone == pytest.approx([5, 0, 5], rel=1e-5)
    for other in MODES:
        assert slopes(sll.linearize(3.0, forward=other), sll.linearize(0.1, forward=forward)) == alone
    traced = sll.linearize(0.1, forward=forward, trace=True)
    assert slopes(traced) == alone
    (row,) = traced.report().rows
    assert row.site.op == "round" and row.site.file == __file__ and row.in_band == 2


def test_left_out_or_without_gradients_it_is_the_function():
    x = torch.tensor([0.16, 0.29], requires_grad=True)
    with sll.linearize(0.1, exclude=["round"]):
        assert torch.equal(quantized(x), quantized(x.detach()))
    with sll.linearize(0.1, forward="linear"), torch.no_grad():
        assert torch.equal(quantized(x), quantized(x.detach()))
    with sll.linearize(0.1, forward="linear"), sll.hard():
        assert torch.equal(quantized(x), quantized(x.detach()))


@pytest.mark.skipif(torch.__version__ < (2, 10), reason="older Dynamo does not trace these modes")
@pytest.mark.parametrize("forward", MODES)
def test_in_compiled_code(forward):
    torch._dynamo.reset()
    x = torch.tensor([0.16, 0.29, -0.44], requires_grad=True)
    for fn in (quantized, lambda x: F.cross_entropy(x.view(1, 3), (x * 4).view(1, 3).argmax(1))):
        program = sll.enable(eps=0.1, forward=forward)(fn)
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            (plain,) = torch.autograd.grad(program(x).sum(), x)
            (found,) = torch.autograd.grad(torch.compile(program, backend="aot_eager")(x).sum(), x)
        torch.testing.assert_close(found, plain)


def test_arguments_that_a_definition_is_not_for():
    """Another mode, a float mask: torch's own gradient, and nothing is lost."""
    image, grid = torch.randn(1, 1, 3, 3), torch.full((1, 2, 2, 2), 0.1, dtype=torch.float64)
    g, lost = gradient(lambda x: weighed(F.grid_sample(image.double(), x, align_corners=False)), grid, 0.1)
    assert g.any() and lost == []


@pytest.mark.parametrize("forward", MODES)
@pytest.mark.parametrize(
    "function",
    [
        lambda x: torch.histogram(x, torch.tensor([0.0, 0.3, 1.0], dtype=x.dtype)).hist,
        lambda x: torch.bincount((x > 0.3).long(), minlength=2),
    ],
)
def test_a_block_that_the_region_sees_through_goes_on_after_it(function, forward):
    x = torch.tensor([0.16, 0.29, 0.44], dtype=torch.float64, requires_grad=True)
    with sll.linearize(0.1, forward=forward, see_through=True), torch.no_grad():
        found = function(x)
        after = torch.round(x + 0.25)
        weighted = (found.to(x.dtype) * torch.tensor([1.0, 3.0], dtype=x.dtype)).sum()
    slope, later = (torch.autograd.grad(y.sum(), x)[0] for y in (weighted, after))
    assert slope.tolist() == pytest.approx([0, 10, 0]) and later.tolist() == pytest.approx([5, 5, 0])
