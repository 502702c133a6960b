"""Whole programs: pipelines of decisions and the same by hand, straight-through; networks without a decision."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from typing import Any

import torch
import torch.nn.functional as F
from competitors import clipped_function
from torch import Tensor, nn

STEPS = 20
LEVELS = 127


def unit_step(x: Tensor) -> Tensor:
    return (x > 0).to(x.dtype)


def straight_through_step(x: Tensor) -> Tensor:
    return x + (unit_step(x) - x).detach()


_clipped_step = clipped_function(unit_step, 1.0)


def clipped_step(x: Tensor) -> Tensor:
    return _clipped_step.apply(x)


# --- a mask pipeline ---


def masks(x: Tensor, y: Tensor, a: Tensor, b: Tensor) -> Tensor:
    return torch.where((x > a) & (y < b), x * y, x - y).mean()


def masks_by_hand(step: Callable[[Tensor], Tensor]) -> Callable[..., Tensor]:
    def by_hand(x: Tensor, y: Tensor, a: Tensor, b: Tensor) -> Tensor:
        mask = step(x - a) * step(b - y)
        return (mask * (x * y) + (1 - mask) * (x - y)).mean()

    return by_hand


def mask_inputs(n: int, device: str) -> tuple[Tensor, ...]:
    generator = torch.Generator().manual_seed(0)
    x, y = (torch.randn(n, generator=generator).to(device).requires_grad_() for _ in range(2))
    return (
        x,
        y,
        torch.tensor(0.2, device=device, requires_grad=True),
        torch.tensor(0.3, device=device, requires_grad=True),
    )


# --- a quantizer ---


def quantizer(x: Tensor, scale: Tensor) -> Tensor:
    q = torch.round(x / scale).clamp(-LEVELS, LEVELS).to(torch.int8)
    return q.to(x.dtype) * scale


def quantizer_straight_through(x: Tensor, scale: Tensor) -> Tensor:
    """In floating point throughout: no gradient passes an int8."""
    z = x / scale
    return (z + (torch.round(z) - z).detach()).clamp(-LEVELS, LEVELS) * scale


_clipped_round = clipped_function(torch.round, float(LEVELS))


def quantizer_clipped(x: Tensor, scale: Tensor) -> Tensor:
    return _clipped_round.apply(x / scale).clamp(-LEVELS, LEVELS) * scale


def quantizer_inputs(n: int, device: str) -> tuple[Tensor, ...]:
    x = torch.randn(n, generator=torch.Generator().manual_seed(0)).to(device).requires_grad_()
    return x, torch.tensor(4 / LEVELS, device=device, requires_grad=True)


# --- a spiking layer ---


def spiking(fires: Callable[[Tensor], Tensor], detached: bool) -> Callable[..., Tensor]:
    """Leaky neurons that subtract from the membrane when they fire. snnTorch detaches that reset, SpikingJelly can."""

    def layer(current: Tensor) -> Tensor:
        membrane = torch.zeros_like(current[0])
        count = torch.zeros_like(current[0])
        for now in current.unbind():
            membrane = 0.9 * membrane + now
            spike = fires(membrane)
            membrane = membrane - (spike.detach() if detached else spike)
            count = count + spike
        return count

    return layer


def fires(membrane: Tensor) -> Tensor:
    return (membrane > 1).to(membrane.dtype)


def spiking_by_hand(step: Callable[[Tensor], Tensor], detached: bool) -> Callable[..., Tensor]:
    return spiking(lambda membrane: step(membrane - 1), detached)


def spiking_inputs(n: int, device: str) -> tuple[Tensor, ...]:
    generator = torch.Generator().manual_seed(0)
    return ((0.5 * torch.randn(STEPS, n // STEPS, generator=generator)).to(device).requires_grad_(),)


@dataclass(frozen=True)
class Pipeline:
    name: str
    plain: Callable[..., Tensor]
    straight_through: Callable[..., Tensor]
    clipped: Callable[..., Tensor]
    inputs: Callable[[int, str], tuple[Tensor, ...]]
    slow_to_compile: bool = False


PIPELINES = (
    Pipeline("masks", masks, masks_by_hand(straight_through_step), masks_by_hand(clipped_step), mask_inputs),
    Pipeline("quantizer", quantizer, quantizer_straight_through, quantizer_clipped, quantizer_inputs),
    *(
        Pipeline(
            name,
            spiking(fires, detached),
            spiking_by_hand(straight_through_step, detached),
            spiking_by_hand(clipped_step, detached),
            spiking_inputs,
            slow_to_compile=not detached,
        )
        for name, detached in (("spiking layer", False), ("spiking layer, reset detached", True))
    ),
)


# --- networks without a decision ---


class Block(nn.Module):
    """Two convolutions and a shortcut (He et al. 2016)."""

    def __init__(self, inside: int, out: int, stride: int) -> None:
        super().__init__()
        self.body = nn.Sequential(
            nn.Conv2d(inside, out, 3, stride, 1, bias=False), nn.BatchNorm2d(out), nn.ReLU(),
            nn.Conv2d(out, out, 3, 1, 1, bias=False), nn.BatchNorm2d(out),
        )  # fmt: skip
        same = stride == 1 and inside == out
        self.shortcut = (
            nn.Identity() if same else nn.Sequential(nn.Conv2d(inside, out, 1, stride, bias=False), nn.BatchNorm2d(out))
        )

    def forward(self, x: Tensor) -> Tensor:
        return F.relu(self.body(x) + self.shortcut(x))


def resnet18() -> nn.Module:
    """Of the layers of ResNet-18, with the stem for small images."""
    stages = ((64, 64, 1), (64, 128, 2), (128, 256, 2), (256, 512, 2))
    blocks = [b for inside, out, stride in stages for b in (Block(inside, out, stride), Block(out, out, 1))]
    stem = (nn.Conv2d(3, 64, 3, 1, 1, bias=False), nn.BatchNorm2d(64), nn.ReLU())
    return nn.Sequential(*stem, *blocks, nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(512, 10))


def transformer(layers: int, width: int) -> nn.Module:
    layer = nn.TransformerEncoderLayer(width, width // 32, 4 * width, dropout=0.0, batch_first=True)
    return nn.TransformerEncoder(layer, layers, enable_nested_tensor=False)


def training_step(network: Callable[[], nn.Module], shape: tuple[int, ...], device: str) -> Callable[[], Any]:
    """Forward, backward, and a step of SGD with a rate of zero: every step does the same."""
    torch.manual_seed(0)
    model = network().to(device)
    optimizer = torch.optim.SGD(model.parameters(), lr=0.0)
    x = torch.randn(shape, device=device)

    def step() -> None:
        optimizer.zero_grad()
        model(x).square().mean().backward()
        optimizer.step()

    return step


SMALL_NETWORK = "Transformer, 2 layers, d = 128, 8 x 64"
NETWORKS = {
    SMALL_NETWORK: (partial(transformer, 2, 128), (8, 64, 128)),
    "Transformer, 4 layers, d = 256, 8 x 64": (partial(transformer, 4, 256), (8, 64, 256)),
    "ResNet-18, 4 x 3 x 32 x 32": (resnet18, (4, 3, 32, 32)),
}
