"""Compiled code takes formulas of its own (few operations, not few passes): the values are those of eager mode."""

from __future__ import annotations

import pytest
import torch

import sll

pytestmark = pytest.mark.skipif(torch.__version__ < (2, 10), reason="older Dynamo does not trace these modes")

INF, NAN = float("inf"), float("nan")
SPECIAL = [
    0.0, -0.0, 0.1, -0.1, 0.5, -0.5, 1.5, 2.5, -2.5, 0.45, 0.55, 0.3, 1e-40, 3.4e38, -3.4e38, 7e7, INF, -INF, NAN,
]  # fmt: skip
MODES = ["linear", "hard", "straight-through"]
EPS = 0.1


@pytest.fixture(autouse=True)
def fresh_dynamo():
    torch._dynamo.reset()


def special(dtype=torch.float32):
    some = torch.randn(60, generator=torch.Generator().manual_seed(0), dtype=dtype)
    edges = torch.tensor([EPS, -EPS, 0.5 + EPS, 0.5 - EPS, 1.0 + EPS], dtype=dtype)
    around = torch.cat([edges, torch.nextafter(edges, edges * 2), torch.nextafter(edges, edges * 0)])
    return torch.cat([some, torch.tensor(SPECIAL, dtype=dtype), around])


STEPS = {
    "sign": torch.sign,
    "round": torch.round,
    "floor": torch.floor,
    "ceil": torch.ceil,
    "trunc": torch.trunc,
    "heaviside": lambda x: torch.heaviside(x, x.new_tensor(0.5)),
    "x > number": lambda x: (x > 0.3).to(x.dtype),
    "x >= number": lambda x: (x >= 0.3).to(x.dtype),
    "x < number": lambda x: (x < 0.3).float(),
    "x <= infinity": lambda x: (x <= INF).float(),
    "not (x > number)": lambda x: (~(x > 0.3)).to(x.dtype),
    "number < x": lambda x: (0.3 < x).float(),
    "quantizer": lambda x: x.round().clamp(-2, 3).to(torch.int8).to(x.dtype),
    "quantizer in steps": lambda x: (x * 4).round().clamp(-8, 7).to(torch.int8).float() / 4,
    "where": lambda x: torch.where(x > 0.3, x * 2, x - 1),
    "where of two": lambda x: torch.where((x > -0.3) & (x <= 0.5), x * 2, x - 1),
    "where of either": lambda x: torch.where((x > 0.5) | (x < -0.5), x * 2, x - 1),
    "where of one alone": lambda x: torch.where((x > 0.5) ^ (x < -0.5), x * 2, x - 1),
    "where of three": lambda x: torch.where((x > -1) & (x < 1) & ~(x == 5) & (x.abs() > 0.3), x.sin(), x - 1),
    "masked_fill": lambda x: x.masked_fill(x < 0.3, 0.7),
    # (where the edges of two bands meet, rounding decides)
    "a spike and its reset": lambda x: (x[:-15] - (x[:-15] > 0.3).float() > 0.25).float() + (x[:-15] > 0.3).float(),
    "written to afterwards": lambda x: _written(x),
}


def _written(x):
    z = x.clone()
    m, r = z > 0.3, z.round()
    z.mul_(3)
    return m.to(z.dtype) + r.clamp(-2, 2).to(torch.int8).to(z.dtype) + z


def both(f, inputs, forward):
    def results(g):
        leaves = [x.clone().requires_grad_() for x in inputs]
        with sll.linearize(EPS, forward=forward):
            y = g(*leaves)
        weights = torch.linspace(1, 2, y.numel(), dtype=y.dtype).reshape(y.shape)
        return y.detach(), *torch.autograd.grad(y, leaves, weights, allow_unused=True)

    torch._dynamo.reset()
    compiled = torch.compile(lambda *a: f(*a), fullgraph=forward != "hard", backend="aot_eager")
    return results(compiled), results(f)  # (of the flips of "hard" nothing is compiled)


def close(got, want):
    for a, b in zip(got, want):
        tolerance = {torch.float32: 1e-6, torch.float64: 1e-12}[b.dtype]
        torch.testing.assert_close(a, b, rtol=tolerance, atol=tolerance, equal_nan=True)


def modes(name):
    """Each takes a second; of what matters most there are several."""
    i = list(STEPS).index(name)
    return ["straight-through", *["linear"] * (i % 2), *["hard"] * (i % 5 == 2)]


@pytest.mark.slow
@pytest.mark.parametrize("name, forward", [(name, forward) for name in STEPS for forward in modes(name)])
def test_special_values(name, forward):
    dtype = torch.float64 if forward == "hard" else torch.float32
    got, want = both(STEPS[name], [special(dtype)], forward)
    close(got, want)
    hard = STEPS[name](special(dtype))
    if forward != "linear":
        assert torch.equal(got[0].nan_to_num(7.0), hard.nan_to_num(7.0))


def sides(x):
    """Both finite: which of two infinities was taken nobody can see."""
    bounded = x.clamp(-9, 9)
    return bounded * 2, bounded - 1


@pytest.mark.parametrize("forward", MODES)
def test_thresholds_that_are_tensors(forward):
    compare, other = {  # (each takes two seconds)
        "linear": (torch.gt, torch.le),
        "hard": (torch.ge, torch.lt),
        "straight-through": (torch.le, torch.ge),
    }[forward]

    def f(x, t):
        out = []
        for mask in (compare(x, t), other(x, t)):
            out += [mask.to(x.dtype), torch.where(mask, *sides(x))]
        out.append(torch.where((x >= t) & (x > 0), *sides(x)))
        return torch.cat(out)

    x = special(torch.float64)
    threshold = torch.stack([x, x.flip(0)]) if forward == "hard" else x.new_tensor(INF)
    close(*both(f, [x, threshold], forward))


@pytest.mark.parametrize("forward", MODES)
def test_exactly_hard_outside_the_band(forward):
    """Also one rounding error outside of it, for widths whose reciprocals are not exact."""
    for eps in {"linear": (0.1, 7e-5), "hard": (0.3, 1e-3), "straight-through": (0.049, 0.1)}[forward]:
        edge = torch.tensor(eps)
        x = torch.stack([torch.nextafter(edge, torch.tensor(1.0)), edge * 1.001, edge * 2]).requires_grad_()
        x = torch.cat([x, -x])

        def f(x):
            return torch.stack([(x > 0).float(), torch.sign(x), torch.where(x > 0, 3.0, -4.0 + 0 * x)])

        with sll.linearize(eps, forward=forward):
            assert torch.equal(torch.compile(f, backend="aot_eager")(x), f(x.detach()))


def kept(f, *inputs, forward):
    """The tensors that compiled code keeps for backward."""
    seen = []
    compiled = torch.compile(f, fullgraph=True)
    with sll.linearize(EPS, forward=forward), torch.autograd.graph.saved_tensors_hooks(seen.append, lambda _: None):
        compiled(*inputs)
    return [(x.dtype, x.numel()) for x in seen if isinstance(x, torch.Tensor) and not any(x is y for y in inputs)]


@pytest.mark.skipif("not torch._inductor.cpp_builder.get_cpp_compiler()", reason="inductor needs a C++ compiler")
@pytest.mark.slow
def test_no_bool_is_kept_for_backward():  # in programs of this size: what is kept the compiler decides
    """Inductor writes and reads bools one at a time: a pipeline was 20 times as slow."""
    x, y = (torch.randn(5000, requires_grad=True) for _ in range(2))
    a = torch.tensor(0.3, requires_grad=True)
    masks = lambda x, y, a: torch.where((x > a) & (y < a), x * y, x - y).mean()
    quantizer = lambda x, y, a: ((x / a).round().clamp(-7, 7).to(torch.int8).to(x.dtype) * a * y).sum()
    product = lambda x, y, a: ((x > y).float() * (x >= a).float()).sum()
    for f in (masks, quantizer, product):
        found = kept(f, x, y, a, forward="straight-through")
        assert all(dtype != torch.bool for dtype, _ in found), found


@pytest.mark.parametrize("forward", MODES)
def test_branches_at_equal_infinities_share_as_in_eager_mode(forward):
    """``>`` and ``>=`` may be one decision."""
    x = torch.tensor([INF, INF, -INF, -INF, 0.25, 0.25], requires_grad=True)
    t = torch.tensor([INF, 0.25, -INF, 0.25, 0.25, 0.3])
    z = torch.ones(5, 6, requires_grad=True)

    def f(x, z, t):
        with sll.linearize(0.3, forward=forward, on_lost="ignore"):
            masks = [x > t, x >= t, (x > t) | (x >= t), (x >= t) | (x > t), (x < t) & (x <= t)]
            return torch.stack([torch.where(m, 3 * row, 2 * row * row) for m, row in zip(masks, z.unbind())])

    def found(f):
        out = f(x, z, t)
        return [out.detach(), *torch.autograd.grad(out.sum(), (x, z))]

    for one, other in zip(found(f), found(torch.compile(f, backend="aot_eager", fullgraph=forward != "hard"))):
        torch.testing.assert_close(one, other)
