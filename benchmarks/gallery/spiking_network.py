"""Train snnTorch's neurons as they are: spikes are `(membrane > 1).float()`, and there is no surrogate to choose.

The problem: a leaky integrate-and-fire neuron fires or does not, so its gradient is zero. Every library for spiking
networks therefore comes with a shelf of surrogate gradients, one of which has to be chosen and given to each neuron.

Here the neurons are snnTorch's own, unmodified, with `surrogate_disable=True`: its plain hard spike. Images become
spikes by rate coding, ten steps long. Training is that of snnTorch's tutorial 5: cross-entropy of the output
membranes at each step; what is scored is which output neuron fires most often.

A tie with the library's surrogates. Not always, though: trained on spike *counts*, few output neurons come near enough
to their threshold for the window of `"auto"`. It is left at 80 ± 4 % then, where surrogates with long tails reach 93 %
and a fixed width of 2 does, too (`--tune --counts` prints these).

    python benchmarks/gallery/spiking_network.py           # about ten seconds; the data come with scikit-learn
    python benchmarks/gallery/spiking_network.py --quick
"""

from __future__ import annotations

from collections.abc import Callable
from contextlib import AbstractContextManager, nullcontext
from pathlib import Path
from typing import Any, NamedTuple

import snntorch
import torch
import torch.nn.functional as F
from _common import digits, draw_curves, run, save, show, spread, tune_rates
from matplotlib.figure import Figure
from snntorch import spikegen, surrogate
from torch import Tensor, nn

import sll
import sll.plot

# --- 1. The program, as it is deployed ---

STEPS = 10


class SpikingNetwork(nn.Module):
    """64-32-10 leaky integrate-and-fire neurons of snnTorch."""

    def __init__(self, spike_grad: Callable[[Tensor], Tensor] | None = None) -> None:
        super().__init__()
        neuron: dict[str, Any] = {"beta": 0.9, "spike_grad": spike_grad, "surrogate_disable": spike_grad is None}
        self.hidden, self.hidden_neurons = nn.Linear(64, 32), snntorch.Leaky(**neuron)
        self.last, self.last_neurons = nn.Linear(32, 10), snntorch.Leaky(**neuron)

    def forward(self, spikes: Tensor) -> tuple[Tensor, Tensor]:
        """Input spikes (steps, images, 64) -> output spikes and membranes, each (steps, images, 10)."""
        hidden, last = self.hidden_neurons.reset_mem(), self.last_neurons.reset_mem()
        fired, membranes = [], []
        for x in spikes:
            x, hidden = self.hidden_neurons(self.hidden(x), hidden)
            x, last = self.last_neurons(self.last(x), last)
            fired.append(x)
            membranes.append(last)
        return torch.stack(fired), torch.stack(membranes)


# --- 2. Methods: each with the best of RATES on the validation split, mean of seeds 10, 11, 12 (see `--tune`) ---

RATES = (0.003, 0.01, 0.03, 0.1)
PLAIN, ATAN, FAST, WIDE, SLL = "plain", "snnTorch, arctan", "snnTorch, fast sigmoid", 'sll, 2, "hard"', 'sll, "auto"'


class Method(NamedTuple):
    spike_grad: Callable[[Tensor], Tensor] | None
    region: Callable[[], AbstractContextManager[object]]
    rate: float
    look: str
    rewritten: str


METHODS = {
    PLAIN: Method(None, nullcontext, 0.1, "plain", "nothing"),
    ATAN: Method(surrogate.atan(), nullcontext, 0.03, "straight_through", "every neuron"),  # its default
    FAST: Method(surrogate.fast_sigmoid(), nullcontext, 0.03, "sigmoid", "every neuron"),  # that of its tutorials
    # the best of 0.5, 1 and 2 on the validation split, when trained on counts
    WIDE: Method(None, lambda: sll.linearize(2.0, forward="hard"), 0.01, "hard", "nothing"),
    SLL: Method(None, lambda: sll.linearize("auto"), 0.03, "auto", "nothing"),
}


def train(
    method: Method, rate: float, seed: int, epochs: int = 8, counts: bool = False
) -> tuple[list[float], float, SpikingNetwork]:
    """Accuracy of the hard network, in percent: on the validation split after each epoch, and on the test split."""
    torch.manual_seed(seed)
    (x, y), *others = digits()
    validation, test = ((spikegen.rate(images, STEPS), labels) for images, labels in others)
    network, deployed = SpikingNetwork(method.spike_grad), SpikingNetwork()
    region = method.region()
    optimizer = torch.optim.Adam(network.parameters(), rate)

    def accuracy(spikes: Tensor, labels: Tensor) -> float:
        deployed.load_state_dict(network.state_dict())
        with torch.no_grad():
            fired, _ = deployed(spikes)
        return 100 * (fired.sum(0).argmax(1) == labels).float().mean().item()

    curve = [accuracy(*validation)]
    for _ in range(epochs):
        for batch in torch.randperm(len(y)).split(180):
            with region:
                fired, membranes = network(spikegen.rate(x[batch], STEPS))
                if counts:
                    loss = F.cross_entropy(fired.sum(0), y[batch])
                else:
                    loss = F.cross_entropy(membranes.flatten(0, 1), y[batch].repeat(STEPS))
            optimizer.zero_grad()
            if loss.requires_grad:  # plain spike counts have no gradient at all
                loss.backward()
            optimizer.step()
        curve.append(accuracy(*validation))
    return curve, accuracy(*test), deployed


# --- 3. What came out ---


def draw(curves: dict[str, Tensor], network: SpikingNetwork, path: Path) -> None:
    with sll.plot.style():
        figure = Figure(figsize=(9, 3.6), dpi=110)
        left, right = figure.subplots(1, 2)
        draw_curves(left, curves, {name: method.look for name, method in METHODS.items()})
        left.set(xlabel="epoch", ylabel="accuracy, %", title="The spiking network, validation split", ylim=(0, 100))
        left.legend(loc="lower right")
        torch.manual_seed(0)
        x, y = digits()[2]
        with torch.no_grad():
            fired, _ = network(spikegen.rate(x, STEPS))
        shown = [int((y == digit).nonzero()[0]) for digit in range(10)]
        times, images, neurons = fired[:, shown].nonzero(as_tuple=True)
        right.scatter(images + 0.08 * times - 0.36, neurons, s=40, marker="|", color=sll.plot.COLORS["auto"])
        right.set(
            xticks=range(10), yticks=range(10), xlabel="digit in the image (ten steps each)", ylabel="output neuron"
        )
        right.set_title("Spikes for ten test images (sll)")
        save(figure, path)


def main(quick: bool = False, figure: Path = Path("out/spiking_network.png")) -> dict[str, list[float]]:
    """Test accuracies of the hard spiking network in percent, per method, one for each seed."""
    seeds, epochs = ((0, 1), 2) if quick else ((0, 1, 2), 8)
    runs = {name: [train(m, m.rate, seed, epochs) for seed in seeds] for name, m in METHODS.items()}
    scores = {name: [test for _, test, _ in found] for name, found in runs.items()}
    rows = {name: (spread(found), METHODS[name].rewritten) for name, found in scores.items()}
    console = show(f"Spiking network, digits: test accuracy, %, {len(seeds)} seeds", ("accuracy", "changed"), rows)
    draw({name: torch.tensor([c for c, *_ in found]) for name, found in runs.items()}, runs[SLL][0][2], figure)
    x, _ = digits()[0]
    gradients = sll.explain(SpikingNetwork(), spikegen.rate(x[:100], STEPS), eps="auto")
    for row in gradients.report.rows:
        if row.kind == "decides":
            console.print(
                f"{Path(row.site.file).name}, line {row.site.line}: {row.share:.0%} of the spikes are in the band."
            )
        if row.kind == "cut":
            console.print(
                f"{Path(row.site.file).name}, line {row.site.line}: the reset is {row.why}, by snnTorch itself."
            )
    console.print(f"figure: {figure}", soft_wrap=True)
    return scores


def tune(counts: bool) -> None:
    def score(method: Method, rate: float, seed: int) -> float:
        return train(method, rate, seed, counts=counts)[0][-1]

    tune_rates(METHODS, RATES, score, (10, 11, 12))


if __name__ == "__main__":
    run(__file__, __doc__, main, "two seeds, two epochs", tune, counts="train on the counts of output spikes")
