"""Steps that are computed in one pass, and numbers at which they go wrong: for `ramp`, and for the loops of `fused`."""

from __future__ import annotations

import math

import torch

from sll._ops.ramp import Jump

BOUNDARIES = [
    Jump("boundary", *constants)
    for constants in [
        (0.0, 1.0, 0.0, 0.0),  # >
        (0.0, 1.0, 1.0, 0.0),  # >=
        (1.0, 0.0, 0.0, 0.0),  # <
        (1.0, 0.0, 1.0, 0.0),  # <=
        (1.0, 0.0, 1.0, 1.0),  # not >
        (1.0, 0.0, 0.0, 1.0),  # not >=
        (0.0, 1.0, 1.0, 1.0),  # not <
        (0.0, 1.0, 0.0, 1.0),  # not <=
        (-1.0, 1.0, 0.0, 0.0),  # sign
        (0.0, 1.0, 0.5, 0.0),  # heaviside
        (0.0, 1.0, 7.0, 0.0),
    ]
]
QUANTIZERS = [Jump("quantize", -3.0, 2.0, 0.0, 5.0), Jump("quantize", -math.inf, 7.0, 0.0, math.nan)]
JUMPS = BOUNDARIES + [Jump(kind) for kind in ("round", "floor", "ceil", "trunc")]
HARD = {"round": torch.round, "floor": torch.floor, "ceil": torch.ceil, "trunc": torch.trunc}


def edges(dtype, eps):
    """Where things go wrong: at boundaries, at both ends of bands and one rounding error beside them; numbers that are
    large, tiny, or none.
    """
    at = torch.tensor([0.0, 0.5, -0.5, 1.0, -1.0, 1.5, 2.5, -2.5, 7.0], dtype=torch.float64)
    at = torch.cat([at, at + eps, at - eps]).to(dtype)
    up, down = (torch.nextafter(at, torch.tensor(side, dtype=dtype)) for side in (math.inf, -math.inf))
    odd = [-0.0, 1e-45, -1e-45, 1e-310, 2.0**22 + 0.5, 2.0**23 + 1, 2.0**24 + 2, -(2.0**23) - 1, 2.0**52 + 1, 3e38]
    odd += [-3e38, math.inf, -math.inf, math.nan]
    some = torch.randn(512, generator=torch.Generator().manual_seed(0), dtype=torch.float64) * 3
    return torch.cat([at, up, down, torch.tensor(odd, dtype=dtype), some.to(dtype)])
