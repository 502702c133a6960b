"""``forward="hard"`` is bit-identical, and so is ``forward="linear"`` outside the bands, on inputs that hypothesis
makes up.
"""

from __future__ import annotations

import hypothesis.strategies as st
import pytest
import torch
import torch.nn.functional as F
from hypothesis import given, settings

import sll
from oracles import plain
from programs import PROGRAMS

SPECIAL = [
    0.0,
    -0.0,
    0.5,
    -0.5,
    1.0,
    -1.5,
    2.5,
    0.3,
    1e-45,
    -1e-40,
    1e-8,
    3e4,
    -7e4,
    float("inf"),
    float("-inf"),
    float("nan"),
]
DTYPES = [torch.float64, torch.float32, torch.float16, torch.bfloat16]


@st.composite
def tensors(draw, dtypes=DTYPES, finite=False, max_dims=3):
    """Any shape (0-dim and empty included), strides (transposed, expanded, strided views) and values, ties and
    special ones.
    """
    shape = draw(st.lists(st.integers(0, 4), max_size=max_dims))
    n = 1
    for size in shape:
        n *= size
    special = [v for v in SPECIAL if abs(v) < 100] if finite else SPECIAL
    number = st.one_of(st.sampled_from(special), st.floats(-3, 3, width=32))
    x = torch.tensor(draw(st.lists(number, min_size=n, max_size=n)), dtype=draw(st.sampled_from(dtypes))).reshape(shape)
    layout = draw(st.sampled_from(["contiguous", "transposed", "expanded", "strided"]))
    if layout == "transposed" and x.dim() >= 2:
        x = x.transpose(0, 1)
    elif layout == "expanded":
        x = x.unsqueeze(0).expand(2, *x.shape)
    elif layout == "strided":
        x = torch.stack([x, x + 1], -1)[..., 0]
    return x


def same_bits(a, b):
    """Equal values, NaNs and signed zeros included, and equal types and layout."""
    if isinstance(a, (tuple, list)):
        return len(a) == len(b) and all(same_bits(x, y) for x, y in zip(a, b))
    assert type(a) is torch.Tensor
    assert (a.shape, a.dtype, a.device) == (b.shape, b.dtype, b.device)
    if a.is_floating_point():
        a, b = a.detach(), b.detach()
        return bool(((a == b) & (a.signbit() == b.signbit()) | (a.isnan() & b.isnan())).all())
    return torch.equal(a, b)


OPS = {
    "sign": torch.sign, "sgn": torch.sgn, "round": torch.round, "round1": lambda x: torch.round(x, decimals=1),
    "floor": torch.floor, "ceil": torch.ceil, "trunc": torch.trunc, "frac": torch.frac, "heaviside": lambda x:
    torch.heaviside(x, x.new_tensor(0.25)), "hardshrink": F.hardshrink, "threshold": lambda x: F.threshold(x, 0.3,
    -1.0), "angle": torch.angle, "signbit": torch.signbit, "copysign": lambda x: torch.copysign(x.new_tensor(2.0), x),
    "isclose": lambda x: torch.isclose(x,
    x.new_tensor(0.5), atol=0.2), "gt": lambda x: x > 0.3, "ge": lambda x: x >= 0.5, "lt": lambda x: 0.3 < x, "le":
    lambda x: x <= 0,
    "eq": lambda x: torch.round(x) == 1, "ne": lambda x: torch.sign(x) != 0, "bool": lambda x: torch.round(x).bool(),
    "floordiv": lambda x: x // 0.7, "rfloordiv": lambda x: 2.0 // x, "mod": lambda x: x % -0.7, "rmod": lambda x: 2.0
    % x, "fmod": lambda x: torch.fmod(x, 0.7), "div_trunc": lambda x: torch.div(x, 0.7, rounding_mode="trunc"),
    "div_self": lambda x: torch.div(x, x, rounding_mode="floor"), "mod_self": lambda x: torch.remainder(x, x),
    "where": lambda x: torch.where(x > 0, x, -x), "where_inf": lambda x: torch.where(x > 0.3, float("-inf"), x),
    "masked_fill": lambda x: x.masked_fill(x < 0, float("nan")), "mul": lambda x: (x > 0) * x, "rsub": lambda x: 1 -
    (x > 0).int(), "clamp": lambda x: torch.round(x * 3).clamp(-2, 2), "logic": lambda x: (x > 0) & ~(x > 1) | (x <
    -1) ^ (x == 0.5), "sum": lambda x: (x > 0).sum(), "sum0": lambda x: (x > 0).sum(0) if x.dim() else x > 0, "mean":
    lambda x: (x > 0).float().mean(), "sum_float": lambda x: (x > 0).sum(dtype=torch.float32), "prod": lambda x: (x >
    0).prod(), "any": lambda x: (x > 0).any(), "all": lambda x: (x > 0).all(-1, keepdim=True) if x.dim() else (x >
    0).all(), "count_nonzero": lambda x: (x > 0).count_nonzero(), "share": lambda x: (x > 0).sum() / max(x.numel(),
    1), "vote": lambda x: (x > 0).sum() > 2, "shape": lambda x: (x > 0).reshape(-1).flip(0).unsqueeze(0).expand(2,
    -1).t().contiguous(), "cat": lambda x: torch.cat([(x > 0).reshape(-1), (x < 1).reshape(-1)]), "stack": lambda x:
    torch.stack([torch.sign(x), x]), "split": lambda x: (x.reshape(-1) > 0).split(2) if x.numel() else (x,), "tril":
    lambda x: torch.sign(x).reshape(-1, 1).tril(),
}  # fmt: skip
INTEGER = {  # casts of NaN and infinity are undefined in torch itself
    "long": lambda x: x.long(), "int8": lambda x: x.to(torch.int8), "type": lambda x: x.type(torch.int16), "quantize":
    lambda x: (x / 0.3).round().int(), "one_hot": lambda x: F.one_hot(x.round().long() + 150, 400), "table": lambda x:
    torch.arange(400.0)[x.floor().long() + 150], "bincount": lambda x: torch.bincount(x.reshape(-1).round().long() +
    150), "shift": lambda x: x.long() << 1, "parity": lambda x: x.floor().long() % 2,
}  # fmt: skip


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
    check(OPS[name], x, eps, "hard")
    check(OPS[name], x, eps, "linear")


@pytest.mark.parametrize("name", INTEGER)
@settings(max_examples=25, deadline=None)
@given(x=tensors(finite=True), eps=st.sampled_from([1e-3, 0.1, 0.5, 4.0]))
def test_integer_ops(name, x, eps):
    check(INTEGER[name], x, eps, "hard")
    check(INTEGER[name], x, eps, "linear")


@pytest.mark.parametrize("forward", ["linear", "hard"])
@pytest.mark.parametrize("name", OPS)
def test_special_values(name, forward):
    """NaN and infinity: the hard value; no NaN in a gradient whose element is finite, and none at all where the value
    is NaN.
    """
    x = torch.tensor(SPECIAL, dtype=torch.float64)
    f = OPS[name]
    leaf = x.clone().requires_grad_()
    with sll.linearize(1e-3, forward=forward):
        y = f(leaf)
    if forward == "hard":
        assert same_bits(y, plain(f, x))
    if isinstance(y, torch.Tensor) and y.requires_grad and y.dim() == 1 and y.numel() == x.numel():
        (g,) = torch.autograd.grad(y.nan_to_num(0, 0, 0).sum(), leaf)
        assert not g[:13].isnan().any(), g
        if name in ("sign", "sgn", "round", "floor", "ceil", "trunc", "heaviside", "angle"):
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
