"""What a case is: third-party code as a function of one tensor, and how both ends of its path are drawn."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import torch
from torch import Tensor

__all__ = ["CASES", "Case", "Draw", "add", "images", "normal", "rows", "seeded", "spread"]

Draw = Callable[[torch.Generator], Tensor]


@dataclass(frozen=True)
class Case:
    library: str
    name: str
    f: Callable[[Tensor], Tensor]
    """From a float64 tensor to one number, by the library's code as it is."""
    draw: Draw
    """One end of a path."""
    see_through: bool = False
    """The library cuts its gradients itself."""
    eps: float = 0.02


CASES: dict[str, Case] = {}


def add(library: str, draw: Draw, functions: dict[str, Callable[[Tensor], Tensor]], **options: object) -> None:
    """Cases of a library that are drawn alike."""
    for name, f in functions.items():
        key = f"{library}: {name}"
        assert key not in CASES, f"{key} is there twice"
        CASES[key] = Case(library, name, f, draw, **options)  # type: ignore[arg-type]


def seeded(seed: int) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


def spread(n: int, low: float = 0.0, high: float = 1.0) -> Draw:
    """Numbers in random order, about equally far from each other. (Not equally: two ends are mixed, and exact ties lie
    in every band.)
    """
    return lambda g: (
        low
        + (high - low)
        * (torch.randperm(n, generator=g) + 0.3 + 0.4 * torch.rand(n, generator=g, dtype=torch.float64))
        / n
    )


def rows(n: int, k: int) -> Draw:
    """Rows of such numbers."""
    return lambda g: torch.stack([spread(k)(g) for _ in range(n)])


def normal(*shape: int, scale: float = 1.0) -> Draw:
    return lambda g: torch.randn(*shape, generator=g, dtype=torch.float64) * scale


def images(*shape: int) -> Draw:
    """Pixels that are about equally far from each other."""
    size = int(torch.Size(shape).numel())
    return lambda g: spread(size)(g).reshape(shape)
