"""Compress a photograph: an autoencoder whose code is two words from a codebook of sixteen, one byte for 4 x 4 pixels.

The problem: the nearest word is found by `argmin` and fetched by a lookup. No gradient passes from the picture back to
the encoder, nor from the encoder to words that are not in use. The usual remedy (VQ-VAE, van den Oord et al. 2017)
copies the gradient of the word onto the encoder's output, as if the two were equal, and adds two losses that make them
so: one pulls words to outputs, one outputs to words, with a weight to choose.

Here `Autoencoder` and its one loss, the squared error, are plain PyTorch; nothing in them knows of sll. It uses more of
the words, and is as good as the remedy: a few tenths of a decibel better, which is within the noise of three seeds.

    python benchmarks/gallery/vector_quantization.py  # about ten seconds; nothing is downloaded
    python benchmarks/gallery/vector_quantization.py --quick
"""

from __future__ import annotations

import math
from collections.abc import Callable
from contextlib import AbstractContextManager, nullcontext
from functools import cache
from pathlib import Path
from statistics import mean
from typing import NamedTuple

import torch
import torch.nn.functional as F
from _common import run, save, show, spread, tune_rates
from matplotlib.figure import Figure
from sklearn.datasets import load_sample_image
from torch import Tensor, nn

import sll
import sll.plot

# --- 1. The program, as it is deployed ---


class Autoencoder(nn.Module):
    """A patch of 48 numbers becomes two words of four numbers each, from a codebook of 16."""

    def __init__(self) -> None:
        super().__init__()
        self.encoder = nn.Sequential(nn.Linear(48, 64), nn.ReLU(), nn.Linear(64, 8), nn.Unflatten(1, (2, 4)))
        self.codebook = nn.Parameter(0.5 * torch.randn(16, 4))
        self.decoder = nn.Sequential(nn.Flatten(), nn.Linear(8, 64), nn.ReLU(), nn.Linear(64, 48))

    def forward(self, patches: Tensor) -> Tensor:
        index = torch.cdist(self.encoder(patches), self.codebook).argmin(-1)  # what is stored
        return self.decoder(self.codebook[index])

    def loss(self, patches: Tensor) -> Tensor:
        return F.mse_loss(self(patches), patches)


# --- 2. Rewritten by hand for training ---


class StraightThrough(Autoencoder):
    """The copied gradient, with the codebook loss and the commitment loss at its usual weight of 1/4."""

    def loss(self, patches: Tensor) -> Tensor:
        z = self.encoder(patches)
        words = self.codebook[torch.cdist(z, self.codebook).argmin(-1)]
        decoded = self.decoder(z + (words - z).detach())
        codebook, commitment = F.mse_loss(words, z.detach()), F.mse_loss(z, words.detach())
        return F.mse_loss(decoded, patches) + codebook + commitment / 4


# --- 3. Methods: each with the best of RATES on the validation split, mean of seeds 10, 11, 12 (see `--tune`) ---

RATES = (0.003, 0.01, 0.03, 0.1)
PLAIN, STE, SLL = "plain", "straight-through + 2 losses", 'sll, "auto"'


class Method(NamedTuple):
    model: type[Autoencoder]
    region: Callable[[], AbstractContextManager[object]]
    rate: float
    rewritten: str


METHODS = {
    PLAIN: Method(Autoencoder, nullcontext, 0.03, "nothing"),
    STE: Method(StraightThrough, nullcontext, 0.01, "model and loss"),
    SLL: Method(Autoencoder, lambda: sll.linearize("auto"), 0.01, "nothing"),
}

HIGH, WIDE = 53, 80
"""The photograph in patches."""


@cache
def photograph() -> Tensor:
    """A flower, at half its size: (4240, 48), patches of 4 x 4 pixels and 3 colours between 0 and 1."""
    pixels = torch.tensor(load_sample_image("flower.jpg")).permute(2, 0, 1).float() / 255
    pixels = F.avg_pool2d(pixels[:, : 8 * HIGH], 2)
    return pixels.reshape(3, HIGH, 4, WIDE, 4).permute(1, 3, 0, 2, 4).reshape(-1, 48)


def pixels_of(patches: Tensor) -> Tensor:
    """Back to (height, width, 3)."""
    return patches.reshape(HIGH, WIDE, 3, 4, 4).permute(0, 3, 1, 4, 2).reshape(4 * HIGH, 4 * WIDE, 3).clamp(0, 1)


def psnr(model: Autoencoder, patches: Tensor) -> float:
    """Peak signal-to-noise ratio in decibels: 10 is ten times less squared error."""
    with torch.no_grad():
        return -10 * math.log10(model.loss(patches).item())


def words_in_use(model: Autoencoder) -> int:
    return len(torch.cdist(model.encoder(photograph()), model.codebook).argmin(-1).unique())


def train(method: Method, rate: float, seed: int, steps: int = 300) -> tuple[list[float], float, Autoencoder]:
    """PSNR of the hard autoencoder: on the validation split now and then, and on the test split at the end."""
    order = torch.randperm(HIGH * WIDE, generator=torch.Generator().manual_seed(0))
    x, validation, test = (photograph()[index] for index in order.split([2540, 850, 850]))
    torch.manual_seed(seed)
    model, deployed = method.model(), Autoencoder()
    region = method.region()
    optimizer = torch.optim.Adam(model.parameters(), rate)
    schedule = torch.optim.lr_scheduler.CosineAnnealingLR(optimizer, steps)
    curve = []
    for step in range(steps):
        batch = torch.randint(len(x), (128,))
        with region:
            loss = model.loss(x[batch])
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        schedule.step()
        if step % 10 == 9:
            deployed.load_state_dict(model.state_dict())
            curve.append(psnr(deployed, validation))
    return curve, psnr(deployed, test), deployed


# --- 4. What came out ---


def draw(models: dict[str, Autoencoder], path: Path) -> None:
    with sll.plot.style(), torch.no_grad():
        figure = Figure(figsize=(9, 2.8), dpi=110)
        shown = {"original\n48 bytes per patch": photograph()}
        for name, model in models.items():
            shown[f"{name}\n1 byte per patch, {psnr(model, photograph()):.1f} dB"] = model(photograph())
        for axes, (title, patches) in zip(figure.subplots(1, 4), shown.items()):
            axes.imshow(pixels_of(patches)[:, 54:266], interpolation="nearest")
            axes.set_title(title)
            axes.set_axis_off()
        save(figure, path)


def main(quick: bool = False, figure: Path = Path("out/vector_quantization.png")) -> dict[str, list[float]]:
    """PSNR in decibels on the test patches, per method, one for each seed."""
    seeds, steps = ((0, 1), 80) if quick else ((0, 1, 2), 300)
    runs = {name: [train(m, m.rate, seed, steps) for seed in seeds] for name, m in METHODS.items()}
    scores = {name: [test for _, test, _ in found] for name, found in runs.items()}
    words = {name: mean(words_in_use(model) for *_, model in found) for name, found in runs.items()}
    rows = {
        name: (spread(found), f"{words[name]:.1f} of 16", METHODS[name].rewritten) for name, found in scores.items()
    }
    title = f"Test patches of a photograph, {len(seeds)} seeds"
    console = show(title, ("PSNR, dB", "words in use", "rewritten"), rows)
    draw({name: found[0][2] for name, found in runs.items()}, figure)
    gradients = sll.explain(Autoencoder().loss, photograph(), eps="auto")
    console.print("No gradient without a region:", ", ".join(of.name for of in gradients.inputs if not of.hard))
    for row in gradients.report.rows:
        if row.kind == "decides":
            console.print(
                f"It passes line {row.site.line} ({row.site.op}): {row.share:.0%} of the choices are in the band."
            )
    console.print(f"figure: {figure}", soft_wrap=True)
    return scores


def tune() -> None:
    tune_rates(METHODS, RATES, lambda method, rate, seed: train(method, rate, seed)[0][-1], (10, 11, 12))


if __name__ == "__main__":
    run(__file__, __doc__, main, "two seeds, eighty steps", tune)
