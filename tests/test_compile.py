"""Rules are traceable: programs compile with ``fullgraph=True`` and agree with eager in value and gradient.

Smoke level: the programs below, the region outside and inside the compiled function. What does not compile is listed.
"""

from __future__ import annotations

import pytest
import torch

import sll
from programs import PROGRAMS

pytestmark = pytest.mark.skipif(torch.__version__ < (2, 10), reason="older Dynamo does not trace these modes")

# F.pad and F.embedding never reach a torch function mode under Dynamo, so a discrete operand loses its linearization
# there.
NOT_SEEN_BY_DYNAMO = {"padded", "embedding"}
SAMPLE = [
    "headline", "quantize_int8", "and_where", "floor_long_table", "mod_sign", "nested_threshold", "in_place_chain",
    "write_at_mask", "one_hot", "vote", "cumsum_masks", "rule_system", "split_stack", "shape_round_trip",
    "floor_divide", "masked_fill_both", "permuted_ints",
    "floor_div_int",
]  # fmt: skip


def gradients(f, x0):
    x = x0.clone().requires_grad_()
    y = f(x)
    return y.detach(), torch.autograd.grad(y.sum(), x)[0]


@pytest.mark.parametrize("forward", ["linear", "hard"])
@pytest.mark.parametrize("name", SAMPLE)
def test_region_outside(name, forward):
    torch._dynamo.reset()
    f = PROGRAMS[name]
    x = torch.linspace(-2.4, 2.4, 97, dtype=torch.float64)
    compiled = torch.compile(lambda x: f(x), fullgraph=True, backend="aot_eager")
    with sll.linearize(0.1, forward=forward):
        torch.testing.assert_close(gradients(compiled, x), gradients(f, x), rtol=1e-9, atol=1e-9)


@pytest.mark.parametrize("name", ["headline", "quantize_int8", "and_where", "floor_long_table"])
def test_region_inside_and_as_decorator(name):
    torch._dynamo.reset()
    f = PROGRAMS[name]
    x = torch.linspace(-2.4, 2.4, 97, dtype=torch.float64)
    region = sll.linearize(0.1)

    def inside(x):
        with sll.linearize(0.1):
            return f(x)

    def prebuilt(x):
        with region:
            return f(x)

    want = gradients(inside, x)
    for g in (inside, prebuilt, sll.enable(eps=0.1)(f)):
        got = gradients(torch.compile(g, fullgraph=True, backend="aot_eager"), x)
        torch.testing.assert_close(got, want, rtol=1e-9, atol=1e-9)


def test_nested_regions():
    torch._dynamo.reset()

    def f(x):
        with sll.linearize(0.5):
            a = torch.sign(x)
            with sll.linearize(0.25, exclude=["sign"]):
                b, c = torch.round(x + 0.5), torch.sign(x)
            with sll.hard():
                d = torch.sign(x)
        return a.sum() + 10 * b.sum() + 100 * c.sum() + 1000 * d.sum()

    x = torch.zeros(2)
    want = gradients(f, x)
    assert want[1].tolist() == [22, 22]
    torch.testing.assert_close(gradients(torch.compile(f, fullgraph=True, backend="aot_eager"), x), want)


def test_eps_is_guarded():
    torch._dynamo.reset()
    compiled = torch.compile(lambda x: torch.sign(x), fullgraph=True, backend="aot_eager")
    x = torch.zeros(3)
    slopes = []
    for eps in (0.5, 0.25, 0.5, 0.125):
        with sll.linearize(eps):
            slopes.append(gradients(compiled, x)[1][0].item())
    assert slopes == [2, 4, 2, 8]
    y = x.clone().requires_grad_()
    assert not torch.autograd.grad(compiled(y).sum(), y)[0].any()
