"""The ops, and the ways to give them a derivative that are compared."""

from __future__ import annotations

import importlib.util
import math
import sys
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from types import ModuleType
from typing import Any

import torch
from torch import Tensor
from torch.autograd import Function

import sll

WIDTH = 0.1
"""Half-width of bands, temperature, softness: one for all."""
WINDOW = {"round": 4.0, "floor": 4.0}
"""Where a clipped straight-through estimator passes the gradient on: ``abs(x) <= 1``, of steps the range of a
quantizer."""

Call = Callable[..., Tensor]

HARD = "hard op, forward only"
COPY = "copy of the same bytes"
IDIOM = "straight-through idiom"
CLIPPED = "clipped straight-through"
RECOMPUTED = "clipped straight-through, saves x"
SMOOTH = "tanh / sigmoid"
SOFTTORCH = "SoftTorch"
PUBLISHED = "published 0.1.5"
REGIONS = {
    "region, linear": (WIDTH, "linear"),
    "region, hard": (WIDTH, "hard"),
    "region, auto": ("auto", None),
}
FUNCTIONS = {
    "function, linear": (WIDTH, "linear"),
    "function, hard": (WIDTH, "hard"),
    "function, auto": ("auto", None),
}


def load(name: str) -> ModuleType | None:
    try:
        return importlib.import_module(name)
    except ImportError:
        return None


def load_published() -> ModuleType | None:
    """The published package under a name of its own, in the same process: it is to be measured in the same rounds.

    ``make evidence`` installs it.
    """
    folder = Path(__file__).parent.parent / "evidence" / "published" / "sll"
    if not folder.exists():
        return None
    spec = importlib.util.spec_from_file_location(
        "published_sll", folder / "__init__.py", submodule_search_locations=[str(folder)]
    )
    assert spec is not None and spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    sys.modules["published_sll"] = module
    spec.loader.exec_module(module)
    return module


@dataclass(frozen=True)
class Op:
    """A discrete op of ``inputs = (x, *parameters)``, as each competitor writes it."""

    name: str
    text: str
    hard: Call
    """What users write, and what runs in a region."""
    step: Call
    """The op as a function of `line`."""
    smooth: Call
    """A relaxation of `step` with tanh or a sigmoid."""
    function: Callable[..., Tensor]
    """Of sll: (*inputs, eps=, forward=)."""
    line: Call = lambda x: x
    """What a straight-through estimator takes the derivative of."""
    softtorch: Callable[..., Tensor] | None = None
    """(module, suffix, mode, *inputs)"""
    published: Callable[..., Tensor] | None = None
    """(module, *inputs)"""
    published_region: bool = False
    parameters: tuple[float, ...] = field(default=())
    """Learned numbers behind `x`."""

    def inputs(self, n: int, device: str) -> tuple[Tensor, ...]:
        generator = torch.Generator().manual_seed(0)
        x = (2 * torch.randn(n, generator=generator)).to(device).requires_grad_()
        return x, *(torch.tensor(value, device=device, requires_grad=True) for value in self.parameters)


def _soft_round(x: Tensor) -> Tensor:
    """Differentiable soft quantization (Gong et al. 2019)."""
    low = x.detach().floor()
    return low + 0.5 + torch.tanh((x - low - 0.5) / (2 * WIDTH)) * (0.5 / math.tanh(0.25 / WIDTH))


def _unit_step(x: Tensor) -> Tensor:
    return (x > 0).to(x.dtype)


def _sigmoid(x: Tensor) -> Tensor:
    return torch.sigmoid(x / WIDTH)


def _soft(name: str) -> Callable[..., Tensor]:
    def call(module: Any, suffix: str, mode: str, *inputs: Tensor) -> Tensor:
        return getattr(module, name + suffix)(*inputs, softness=WIDTH, mode=mode)

    return call


def _heaviside(x: Tensor) -> Tensor:
    return torch.heaviside(x, x.new_full((), 0.5))


# Looked up when they are called: the published package replaces them in its regions.


def _sign(x: Tensor) -> Tensor:
    return torch.sign(x)


def _round(x: Tensor) -> Tensor:
    return torch.round(x)


def _floor(x: Tensor) -> Tensor:
    return torch.floor(x)


def _old(name: str) -> Callable[..., Tensor]:
    return lambda module, *inputs: getattr(module, name)(*inputs, eps=WIDTH)


def _greater_than_zero(module: Any, suffix: str, mode: str, x: Tensor) -> Tensor:
    return getattr(module, "greater" + suffix)(x, x.new_zeros(()), softness=WIDTH, mode=mode)


OPS = (
    Op("sign", "torch.sign(x)", _sign, _sign, lambda x: torch.tanh(x / WIDTH), sll.sign,
       softtorch=_soft("sign"), published=_old("sign"), published_region=True),
    Op("heaviside", "torch.heaviside(x, half)", _heaviside, _heaviside, _sigmoid, sll.heaviside,
       softtorch=_soft("heaviside"), published=_old("heaviside"), published_region=True),
    Op("threshold", "(x > t).to(x.dtype), t learned", lambda x, t: (x > t).to(x.dtype), _unit_step, _sigmoid,
       sll.threshold, line=lambda x, t: x - t, softtorch=_soft("greater"), published=_old("threshold"),
       parameters=(0.5,)),
    Op("x > 0", "(x > 0).to(x.dtype)", _unit_step, _unit_step, _sigmoid, sll.threshold,
       softtorch=_greater_than_zero, published=_old("threshold")),
    Op("round", "torch.round(x)", _round, _round, _soft_round, sll.round,
       softtorch=_soft("round"), published=_old("round"), published_region=True),
    Op("floor", "torch.floor(x)", _floor, _floor, lambda x: _soft_round(x - 0.5), sll.floor,
       published=_old("floor"), published_region=True),
)  # fmt: skip


def idiom(op: Op) -> Call:
    def straight_through(*inputs: Tensor) -> Tensor:
        line = op.line(*inputs)
        return line + (op.step(line) - line).detach()

    return straight_through


def clipped_function(step: Call, window: float) -> type[Function]:
    """Saves a bool mask."""

    class ClippedStraightThrough(Function):
        @staticmethod
        def forward(ctx: Any, x: Tensor) -> Tensor:
            ctx.save_for_backward(x.abs() <= window)
            return step(x)

        @staticmethod
        def backward(ctx: Any, g: Tensor) -> Tensor:
            (inside,) = ctx.saved_tensors
            return g * inside

    return ClippedStraightThrough


def recomputed_function(step: Call, window: float) -> type[Function]:
    """Saves its input, and looks again: that takes no memory where the input is alive anyway."""

    class ClippedStraightThrough(Function):
        @staticmethod
        def forward(ctx: Any, x: Tensor) -> Tensor:
            ctx.save_for_backward(x)
            return step(x)

        @staticmethod
        def backward(ctx: Any, g: Tensor) -> Tensor:
            (x,) = ctx.saved_tensors
            return g * (x.abs() <= window)

    return ClippedStraightThrough


def clipped(op: Op, make: Callable[[Call, float], type[Function]] = clipped_function) -> Call:
    function = make(op.step, WINDOW.get(op.name, 1.0))
    return lambda *inputs: function.apply(op.line(*inputs))


class Copy(Function):
    @staticmethod
    def forward(ctx: Any, x: Tensor) -> Tensor:
        return torch.empty_like(x).copy_(x)

    @staticmethod
    def backward(ctx: Any, g: Tensor) -> Tensor:
        return torch.empty_like(g).copy_(g)


def in_region(call: Call, eps: Any, forward: str | None, module: Any = sll) -> Call:
    region = sll.linearize(eps, forward=forward) if module is sll else None

    def inside(*inputs: Tensor) -> Tensor:
        with region if region is not None else module.linearize(eps):
            return call(*inputs)

    return inside


def decorated(call: Call, eps: Any, forward: str | None) -> Call:
    return sll.linearize(eps, forward=forward)(call)


def sll_function(op: Op, eps: Any, forward: str | None) -> Call:
    return lambda *inputs: op.function(*inputs, eps=eps, forward=forward)


def competitors(op: Op, softtorch: ModuleType | None, published: ModuleType | None) -> dict[str, Call]:
    """Everything that has a derivative, by name; the straight-through idiom comes first, the floor second."""
    calls: dict[str, Call] = {
        IDIOM: idiom(op),
        COPY: lambda x, *_: Copy.apply(x),
        CLIPPED: clipped(op),
        RECOMPUTED: clipped(op, recomputed_function),
        SMOOTH: lambda *inputs: op.smooth(op.line(*inputs)),
    }
    calls |= {name: in_region(op.hard, *options) for name, options in REGIONS.items()}
    calls |= {name: sll_function(op, *options) for name, options in FUNCTIONS.items()}
    if softtorch is not None and (soft := op.softtorch) is not None:
        for mode in ("smooth", "c0"):
            for suffix in ("", "_st"):
                calls[f"{SOFTTORCH} {mode}{', straight-through' if suffix else ''}"] = (
                    lambda *inputs, mode=mode, suffix=suffix: soft(softtorch, suffix, mode, *inputs)
                )
    if published is not None and (old := op.published) is not None:
        if op.published_region:
            calls[f"{PUBLISHED}, region"] = in_region(op.hard, WIDTH, None, published)
        calls[f"{PUBLISHED}, function"] = lambda *inputs: old(published, *inputs)
    return calls
