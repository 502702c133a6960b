"""Inputs: what hypothesis makes up, with single ops to run on it, and a path on which elements change places."""

from __future__ import annotations

import hypothesis.strategies as st
import torch
import torch.nn.functional as F

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
