"""Train a network of signs: every weight and every activation is -1 or +1.

The problem: a binary network is 32 times smaller than one of floats, and multiplies by comparing bits. But `sign` is
flat: no gradient reaches a weight, and only the normalisation layers learn. The usual way out is to replace `sign` by a
straight-through estimator in a copy of the program (Hubara et al. 2016), with a window outside which gradients are cut.

Here `BinaryNetwork` is trained as it is: two calls of torch.sign, and nothing in it knows of sll. The window that
`"auto"` finds is much like that of the estimator, so expect a tie; what differs is what had to be rewritten.

    python benchmarks/gallery/binary_network.py           # about ten seconds; the data come with scikit-learn
    python benchmarks/gallery/binary_network.py --quick
"""

from __future__ import annotations

from collections.abc import Callable
from contextlib import AbstractContextManager, nullcontext
from pathlib import Path
from typing import NamedTuple

import torch
import torch.nn.functional as F
from _common import draw_curves, run, save, show, spread, train_on_digits, tune_rates
from matplotlib.figure import Figure
from torch import Tensor, nn

import sll
import sll.plot

# --- 1. The program, as it is deployed ---


class BinaryLinear(nn.Linear):
    """Binary weights. The floats behind them (latent weights) exist for training only."""

    def forward(self, x: Tensor) -> Tensor:
        return F.linear(x, self.binary(self.weight))

    def binary(self, x: Tensor) -> Tensor:
        return torch.sign(x)


class BinaryNetwork(nn.Module):
    """64-128-128-10. Binary layers between normalisations, which on a chip are one integer threshold per unit."""

    def __init__(self, layer: type[BinaryLinear] = BinaryLinear) -> None:
        super().__init__()
        self.layers = nn.ModuleList(layer(a, b, bias=False) for a, b in ((64, 128), (128, 128), (128, 10)))
        self.norms = nn.ModuleList(nn.BatchNorm1d(width) for width in (128, 128, 10))

    def forward(self, pixels: Tensor) -> Tensor:
        x = self.norms[0](self.layers[0](pixels))
        for layer, norm in zip(self.layers[1:], self.norms[1:]):
            x = norm(layer(layer.binary(x)))
        return x


# --- 2. Rewritten by hand for training ---


class StraightThroughLinear(BinaryLinear):
    """Forward the sign, backward the identity within [-1, 1] and nothing outside."""

    def binary(self, x: Tensor) -> Tensor:
        ramp = F.hardtanh(x)
        return ramp + (torch.sign(x) - ramp).detach()


# --- 3. Methods: each with the best of RATES on the validation split, mean of seeds 10, 11, 12 (see `--tune`) ---

RATES = (0.003, 0.01, 0.03, 0.1)
PLAIN, STE, SLL = "plain", "straight-through, clipped", 'sll, "auto"'


class Method(NamedTuple):
    layer: type[BinaryLinear]
    region: Callable[[], AbstractContextManager[object]]
    rate: float
    look: str
    rewritten: str


METHODS = {
    PLAIN: Method(BinaryLinear, nullcontext, 0.1, "plain", "nothing"),
    STE: Method(StraightThroughLinear, nullcontext, 0.03, "straight_through", "every sign"),
    SLL: Method(BinaryLinear, lambda: sll.linearize("auto"), 0.01, "auto", "nothing"),
}


def train(method: Method, rate: float, seed: int, epochs: int = 20) -> tuple[list[float], float, BinaryNetwork]:
    """Accuracy of the binary program, in percent: on the validation split after each epoch, and on the test split."""
    torch.manual_seed(seed)
    network, deployed = BinaryNetwork(method.layer), BinaryNetwork().eval()
    curve, test = train_on_digits(network, deployed, method.region(), rate, epochs, 128)
    return curve, test, deployed


# --- 4. What came out ---


def draw(curves: dict[str, Tensor], before: Tensor, after: Tensor, path: Path) -> None:
    with sll.plot.style():
        figure = Figure(figsize=(9, 3.6), dpi=110)
        left, *right = figure.subplots(1, 3, width_ratios=(2, 1, 1))
        draw_curves(left, curves, {name: method.look for name, method in METHODS.items()})
        left.set(xlabel="epoch", ylabel="accuracy, %", title="The binary network, validation split", ylim=(0, 100))
        left.legend(loc="center right")
        for axes, weights, title in zip(right, (before, after), ("Weights of 16 units", "… after training (sll)")):
            tiles = F.pad(torch.sign(weights[:16]).reshape(4, 4, 8, 8), (1, 1, 1, 1))
            axes.imshow(tiles.permute(0, 2, 1, 3).reshape(40, 40), cmap="PuOr", vmin=-1.5, vmax=1.5)
            axes.set(title=title, xticks=[], yticks=[], xlabel="purple +1, orange −1")
            axes.grid(False)
        save(figure, path)


def main(quick: bool = False, figure: Path = Path("out/binary_network.png")) -> dict[str, list[float]]:
    """Test accuracies of the binary network in percent, per method, one for each seed."""
    seeds, epochs = ((0, 1), 4) if quick else ((0, 1, 2), 20)
    runs = {name: [train(m, m.rate, seed, epochs) for seed in seeds] for name, m in METHODS.items()}
    scores = {name: [test for _, test, _ in found] for name, found in runs.items()}
    rows = {name: (spread(found), METHODS[name].rewritten) for name, found in scores.items()}
    console = show(f"Binary network, digits: test accuracy, %, {len(seeds)} seeds", ("accuracy", "rewritten"), rows)
    torch.manual_seed(seeds[0])
    before, after = BinaryNetwork(), runs[SLL][0][2]
    draw(
        {name: torch.tensor([curve for curve, *_ in found]) for name, found in runs.items()},
        *(network.layers[0].weight.detach() for network in (before, after)),
        figure,
    )
    console.print(f"figure: {figure}", soft_wrap=True)
    return scores


def tune() -> None:
    tune_rates(METHODS, RATES, lambda method, rate, seed: train(method, rate, seed)[0][-1], (10, 11, 12))


if __name__ == "__main__":
    run(__file__, __doc__, main, "two seeds, four epochs", tune)
