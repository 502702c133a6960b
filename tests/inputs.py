"""Inputs: what hypothesis makes up, with single ops to run on it, and a path on which elements change places."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, NamedTuple

import hypothesis.strategies as st
import torch
import torch.nn.functional as F
from torch import Tensor

V = torch.tensor([1.0, 10.0, 100.0], dtype=torch.float64)
START = torch.tensor([0.50, 0.53, 0.0], dtype=torch.float64)  # on the way to END element 0 overtakes element 1
END = torch.tensor([0.56, 0.53, 0.0], dtype=torch.float64)

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


class Op(NamedTuple):
    """A function of one tensor, and what is true of it alone."""

    run: Callable[[Tensor], Any]
    one: bool = True
    """One tensor comes out, with a place for each number that went in or for all of them: gradients can be compared."""
    ratio: bool = False
    """The number is a divisor: beside 0 many boundaries lie within one rounding of each other."""
    steps: bool = False
    """It divides by a fixed number: large numbers of a half are further apart than the steps."""
    fine: bool = False
    """Its steps are finer than most bands are wide."""
    continuous: bool = False
    """It has a gradient of its own: what that is at NaN and infinity is not defined."""
    flat: bool = False
    """It has none: at NaN and infinity there is no gradient."""


OPS = {
    "sign": Op(torch.sign, flat=True),
    "sgn": Op(torch.sgn, flat=True),
    "round": Op(torch.round, flat=True),
    "round1": Op(lambda x: torch.round(x, decimals=1), steps=True, fine=True),
    "floor": Op(torch.floor, flat=True),
    "ceil": Op(torch.ceil, flat=True),
    "trunc": Op(torch.trunc, flat=True),
    "frac": Op(torch.frac, continuous=True),
    "heaviside": Op(lambda x: torch.heaviside(x, x.new_tensor(0.25)), flat=True),
    "hardshrink": Op(F.hardshrink, continuous=True),
    "threshold": Op(lambda x: F.threshold(x, 0.3, -1.0), continuous=True),
    "angle": Op(torch.angle, flat=True),
    "signbit": Op(torch.signbit),
    "copysign": Op(lambda x: torch.copysign(x.new_tensor(2.0), x), continuous=True),
    "isclose": Op(lambda x: torch.isclose(x, x.new_tensor(0.5), atol=0.2)),
    "gt": Op(lambda x: x > 0.3),
    "ge": Op(lambda x: x >= 0.5),
    "lt": Op(lambda x: 0.3 < x),
    "le": Op(lambda x: x <= 0),
    "eq": Op(lambda x: torch.round(x) == 1),
    "ne": Op(lambda x: torch.sign(x) != 0),
    "bool": Op(lambda x: torch.round(x).bool()),
    "floordiv": Op(lambda x: x // 0.7, steps=True),
    "rfloordiv": Op(lambda x: 2.0 // x, ratio=True),
    "mod": Op(lambda x: x % -0.7, steps=True, continuous=True),
    "rmod": Op(lambda x: 2.0 % x, ratio=True, continuous=True),
    "fmod": Op(lambda x: torch.fmod(x, 0.7), steps=True, continuous=True),
    "div_trunc": Op(lambda x: torch.div(x, 0.7, rounding_mode="trunc"), steps=True),
    "div_self": Op(lambda x: torch.div(x, x, rounding_mode="floor")),
    "mod_self": Op(lambda x: torch.remainder(x, x), continuous=True),
    "where": Op(lambda x: torch.where(x > 0, x, -x)),
    "where_inf": Op(lambda x: torch.where(x > 0.3, float("-inf"), x)),
    "masked_fill": Op(lambda x: x.masked_fill(x < 0, float("nan"))),
    "mul": Op(lambda x: (x > 0) * x),
    "rsub": Op(lambda x: 1 - (x > 0).int()),
    "clamp": Op(lambda x: torch.round(x * 3).clamp(-2, 2)),
    "logic": Op(lambda x: (x > 0) & ~(x > 1) | (x < -1) ^ (x == 0.5)),
    "sum": Op(lambda x: (x > 0).sum()),
    "sum0": Op(lambda x: (x > 0).sum(0) if x.dim() else x > 0),
    "mean": Op(lambda x: (x > 0).float().mean()),
    "sum_float": Op(lambda x: (x > 0).sum(dtype=torch.float32)),
    "prod": Op(lambda x: (x > 0).prod()),
    "any": Op(lambda x: (x > 0).any()),
    "all": Op(lambda x: (x > 0).all(-1, keepdim=True) if x.dim() else (x > 0).all()),
    "count_nonzero": Op(lambda x: (x > 0).count_nonzero()),
    "share": Op(lambda x: (x > 0).sum() / max(x.numel(), 1)),
    "vote": Op(lambda x: (x > 0).sum() > 2),
    "shape": Op(lambda x: (x > 0).reshape(-1).flip(0).unsqueeze(0).expand(2, -1).t().contiguous()),
    "cat": Op(lambda x: torch.cat([(x > 0).reshape(-1), (x < 1).reshape(-1)])),
    "stack": Op(lambda x: torch.stack([torch.sign(x), x])),
    "split": Op(lambda x: (x.reshape(-1) > 0).split(2) if x.numel() else (x,), one=False),
    "tril": Op(lambda x: torch.sign(x).reshape(-1, 1).tril()),
}

INTEGER = {  # casts of NaN and infinity are undefined in torch itself
    "long": Op(lambda x: x.long()),
    "int8": Op(lambda x: x.to(torch.int8)),
    "type": Op(lambda x: x.type(torch.int16)),
    "quantize": Op(lambda x: (x / 0.3).round().int()),
    "one_hot": Op(lambda x: F.one_hot(x.round().long() + 150, 400)),
    "table": Op(lambda x: torch.arange(400.0)[x.floor().long() + 150]),
    "bincount": Op(lambda x: torch.bincount(x.reshape(-1).round().long() + 150), one=False),
    "shift": Op(lambda x: x.long() << 1),
    "parity": Op(lambda x: x.floor().long() % 2),
}
