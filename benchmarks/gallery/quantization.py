"""Train the integer network that you deploy: 2-bit codes, and for each layer two steps that are learned.

The problem: a network has to run on a chip that multiplies small integers. Weights become one of four codes, so do
activations, and each layer has two steps, which say what a code is worth. Training all that (quantization-aware
training) usually takes a second program that pretends: floats that look quantized, a straight-through estimator, and
for the steps a gradient that somebody derived (LSQ, learned step size quantization).

Here the integer program itself is trained. `IntegerLinear` is plain PyTorch, its casts to int8 included; nothing in it
knows of sll. The gradient that sll finds is that of LSQ, so this is a tie, with a layer less to write.

The products are summed in float32, where whole numbers are exact. `codes.int() @ weights.int().T` has the same values,
and in a region with `"auto"` the same gradients.

    python benchmarks/gallery/quantization.py           # about ten seconds; the data come with scikit-learn
    python benchmarks/gallery/quantization.py --quick
"""

from __future__ import annotations

from collections.abc import Callable
from contextlib import AbstractContextManager, nullcontext
from pathlib import Path
from typing import NamedTuple

import torch
import torch.nn.functional as F
from _common import digits, draw_curves, run, save, show, spread, train_on_digits, tune_rates
from matplotlib.figure import Figure
from torch import Tensor, nn

import sll
import sll.plot

# --- 1. The program, as it is deployed ---


class IntegerLinear(nn.Linear):
    """2-bit activations (0 … 3) times 2-bit weights (-2 … 1). A code is worth one step."""

    def __init__(self, inputs: int, outputs: int) -> None:
        super().__init__(inputs, outputs)
        self.weight_step = nn.Parameter(2 * self.weight.detach().abs().mean())
        self.step = nn.Parameter(torch.tensor(0.5))

    def forward(self, x: Tensor) -> Tensor:
        codes = torch.round(torch.clamp(x / self.step, 0, 3)).to(torch.uint8)
        weights = torch.round(torch.clamp(self.weight / self.weight_step, -2, 1)).to(torch.int8)
        sums = codes.float() @ weights.float().T  # whole numbers, exact in float32
        return sums * (self.step * self.weight_step) + self.bias


class Network(nn.Sequential):
    """64-64-64-10: 8832 weights in 2.2 kB. It needs no ReLU: there are no codes below zero."""

    def __init__(self, layer: type[IntegerLinear] = IntegerLinear) -> None:
        super().__init__(layer(64, 64), layer(64, 64), layer(64, 10))


# --- 2. The layer rewritten by hand for training ---


def round_ste(x: Tensor) -> Tensor:
    return x + (torch.round(x) - x).detach()


class LearnedSteps(IntegerLinear):
    """LSQ (Esser et al. 2020). The factor that it gives to the gradients of the steps makes no difference to Adam."""

    def forward(self, x: Tensor) -> Tensor:
        x = self.step * round_ste(torch.clamp(x / self.step, 0, 3))
        weight = self.weight_step * round_ste(torch.clamp(self.weight / self.weight_step, -2, 1))
        return F.linear(x, weight, self.bias)


# --- 3. Methods: each with the best of RATES on the validation split, mean of seeds 10, 11, 12 (see `--tune`) ---

RATES = (0.003, 0.01, 0.03)
PLAIN, LSQ, SLL = "plain", "straight-through (LSQ)", 'sll, "auto"'


class Method(NamedTuple):
    layer: type[IntegerLinear]
    region: Callable[[], AbstractContextManager[object]]
    rate: float
    look: str
    rewritten: str


METHODS = {
    PLAIN: Method(IntegerLinear, nullcontext, 0.01, "plain", "nothing"),
    LSQ: Method(LearnedSteps, nullcontext, 0.01, "straight_through", "the layer"),
    SLL: Method(IntegerLinear, lambda: sll.linearize("auto"), 0.01, "auto", "nothing"),
}


def train(method: Method, rate: float, seed: int, epochs: int = 15) -> tuple[list[float], float, Network]:
    """Accuracy of the integer program, in percent: on the validation split after each epoch, and on the test split."""
    torch.manual_seed(seed)
    network, deployed = Network(method.layer), Network()
    curve, test = train_on_digits(network, deployed, method.region(), rate, epochs, 64)
    return curve, test, deployed


def gradient(method: Method) -> Tensor:
    """Of all parameters of the untrained network, at once."""
    x, y = digits()[0]
    torch.manual_seed(0)
    network = Network(method.layer)
    with method.region():
        loss = F.cross_entropy(network(x), y)
    return torch.cat([g.flatten() for g in torch.autograd.grad(loss, list(network.parameters()))])


# --- 4. What came out ---


def draw(curves: dict[str, Tensor], layer: IntegerLinear, path: Path) -> None:
    with sll.plot.style():
        figure = Figure(figsize=(9, 3.6), dpi=110)
        left, right = figure.subplots(1, 2)
        draw_curves(left, curves, {name: method.look for name, method in METHODS.items()})
        left.set(xlabel="epoch", ylabel="accuracy, %", title="The integer network, validation split", ylim=(0, 100))
        left.legend(loc="center right")
        weights = (layer.weight / layer.weight_step).detach()
        for code, look, hatch in zip(
            (-2, -1, 0, 1), ("sigmoid", "hard", "other", "straight_through"), ("xx", "//", "", "..")
        ):
            stored = weights[torch.clamp(torch.round(weights), -2, 1) == code]
            color = sll.plot.COLORS[look]
            right.hist(
                stored, bins=50, range=(-3, 2), color=color, hatch=hatch, edgecolor="white", label=f"code {code}"
            )
        right.set(xlabel="weight, in learned steps", ylabel="count", title="Second layer after training (sll)")
        right.legend()
        save(figure, path)


def main(quick: bool = False, figure: Path = Path("out/quantization.png")) -> dict[str, list[float]]:
    """Test accuracies of the integer network in percent, per method, one for each seed."""
    seeds, epochs = ((0, 1), 2) if quick else ((0, 1, 2), 15)
    runs = {name: [train(m, m.rate, seed, epochs) for seed in seeds] for name, m in METHODS.items()}
    scores = {name: [test for _, test, _ in found] for name, found in runs.items()}
    rows = {name: (spread(found), METHODS[name].rewritten) for name, found in scores.items()}
    console = show(f"2-bit network, digits: test accuracy, %, {len(seeds)} seeds", ("accuracy", "rewritten"), rows)
    theirs, ours = gradient(METHODS[LSQ]), gradient(METHODS[SLL])
    apart = ((theirs - ours).abs().max() / theirs.abs().max()).item()
    console.print(f"The gradients of sll and LSQ differ by {apart:.0e} of the largest: rounding errors.")
    draw({name: torch.tensor([c for c, *_ in found]) for name, found in runs.items()}, runs[SLL][0][2][1], figure)
    console.print(f"figure: {figure}", soft_wrap=True)
    return scores


def tune() -> None:
    tune_rates(METHODS, RATES, lambda method, rate, seed: train(method, rate, seed)[0][-1], (10, 11, 12))


if __name__ == "__main__":
    run(__file__, __doc__, main, "two seeds, two epochs", tune)
