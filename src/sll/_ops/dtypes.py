"""The dtypes in which distances, offsets and expectations are computed."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

FULL = (torch.float32, torch.float64)
HALF = (torch.float16, torch.bfloat16)
NARROW = (torch.int8, torch.uint8, torch.int16)
"""Integers that programs let wrap around."""


def compute_dtype(*dtypes: torch.dtype) -> torch.dtype:
    """The dtype in which distances and offsets are computed: float64 if any is float64, float32 for everything else.

    In bfloat16 a distance has 8 bits, fewer than the number of steps in a useful band.
    """
    return torch.float64 if torch.float64 in dtypes else torch.float32


def exact_dtype(x: Tensor) -> torch.dtype:
    """The float that holds integers exactly up to 2**53, where the device has it."""
    return torch.float32 if x.device.type == "mps" else torch.float64


def wide(x: Any, *other: Any) -> list[Any]:
    """One operand or two: tensors in the dtype of the distance, numbers rounded as torch rounds them to compare."""
    common = torch.result_type(x, *other) if other else x.dtype
    common = common if common.is_floating_point else torch.float32
    to = compute_dtype(common)
    narrow = common in HALF
    out: list[Any] = []
    for value in (x, *other):
        if isinstance(value, Tensor):
            out.append(value if value.dtype == common == to else value.to(common).to(to))
        else:
            out.append(torch.tensor(value, dtype=common).item() if narrow else value)
    return out
