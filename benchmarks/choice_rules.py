"""Which gradient of a choice trains: ``python benchmarks/choice_rules.py [--quick]``, about half an hour on one core.

Values are always hard; only what goes backward differs. But for the first rule of choices and the uniform one, a scale
of the scores is measured in the first ten steps and kept. *Lead*: how far the last that is taken leads the first that
is not. *Middle*: how far the scores are from the middle between those two. Twelve seeds that no other table of the
documentation shows, trained side by side in stacked tensors, each with its own data, scale and order of batches (an
unedited program has one scale for all). A rule has the learning rate at which it does best on the test split. Results
are kept in `choice_rules.jsonl`, and what is there is not run again.
"""

from __future__ import annotations

import argparse
import contextlib
import json
import math
import sys
from dataclasses import dataclass, field
from pathlib import Path

import torch
import torch.nn.functional as F
from rich.console import Console
from rich.table import Table
from torch import Tensor

import sll

sys.path.append(str(Path(__file__).parent / "evidence"))
from tasks import digits

RESULTS = Path(__file__).with_suffix(".jsonl")
SEEDS = range(1000, 1012)
MEASURED = 10


# --- rules ------------------------------------------------------------------------------------------------------------


@dataclass
class Rule:
    kernel: str
    factor: float = 1.0
    of: str = "lead"
    squares: dict[tuple[int, ...], list[Tensor]] = field(default_factory=dict)

    @property
    def name(self) -> str:
        return self.kernel if self.kernel in ENDS else f"{self.kernel}, {self.factor:g} x {self.of}"

    def region(self):
        return sll.linearize("auto") if self.kernel == UNEDITED else contextlib.nullcontext()

    def __call__(self, x: Tensor, k: int) -> Tensor:
        """1 for the `k` largest of each row, (seeds, …, n)."""
        if self.kernel == UNEDITED and k == 1:
            return F.one_hot(x.argmax(-1), x.shape[-1]).to(x.dtype)
        hard = torch.zeros_like(x).scatter(-1, x.topk(k).indices, 1.0)
        if self.kernel == UNEDITED or not torch.is_grad_enabled():
            return hard
        soft = self.soft(x, k)
        return hard + (soft - soft.detach())

    def soft(self, x: Tensor, k: int) -> Tensor:
        best = x.detach().topk(k + 1).values
        lead, middle = best[..., k - 1] - best[..., k], best[..., k - 1 :].mean(-1, keepdim=True)
        if self.kernel == MEDIAN_LEAD:
            return sparse(x / seedwise(64 * lead.flatten(1).median(1).values, x), k)
        distance = lead if self.of == "lead" else x.detach() - middle
        scale = self.factor * seedwise(self.kept(distance), x)
        z = x / scale
        if self.kernel == UNIFORM:
            return z - z.mean(-1, keepdim=True)
        if self.kernel == "softmax":
            return k * z.softmax(-1)
        if self.kernel == "softmax of distances":  # of how far scores are from the middle
            w = k * (-(x.detach() - middle).abs() / scale).softmax(-1)
            return w * (z - (w * z).sum(-1, keepdim=True) / k)
        return sparse(z, k)

    def kept(self, distance: Tensor) -> Tensor:
        """The root mean square of each seed, over the first steps."""
        found = self.squares.setdefault(distance.shape[2:], [])
        if len(found) < MEASURED:
            found.append(distance.square().flatten(1).mean(1))
        return torch.stack(found).mean(0).sqrt()


def sparse(z: Tensor, k: int) -> Tensor:
    return sll.topk_mask(z, k, eps=1.0, forward="linear")


def seedwise(of_seeds: Tensor, x: Tensor) -> Tensor:
    return of_seeds.clamp(min=1e-12).view(-1, *[1] * (x.dim() - 1))


MEDIAN_LEAD = "projection, 64 x median lead of each call"
UNIFORM, UNEDITED = "every candidate the same", 'unedited, sll.linearize("auto")'
ENDS = (MEDIAN_LEAD, UNIFORM, UNEDITED)
"""Rules without a scale to tell."""


def rules(k: int) -> list[Rule]:
    if k == 1:
        scales = [Rule("projection", 2), *(Rule("softmax", factor) for factor in (1, 2, 4))]
        return [Rule(MEDIAN_LEAD), *scales, Rule("softmax of distances", 1, "middle"), Rule(UNIFORM), Rule(UNEDITED)]
    scales = [Rule("softmax", 1, "middle"), *(Rule("softmax of distances", c, "middle") for c in (0.5, 1))]
    return [*scales, Rule(UNIFORM), Rule(UNEDITED)]


# --- tasks ------------------------------------------------------------------------------------------------------------


class Runs:
    """One run for each seed and learning rate, stacked: the first dimension of everything."""

    def __init__(self, seeds: range, rates: tuple[float, ...]) -> None:
        self.seeds, self.rates = seeds, rates

    def stack(self, make) -> Tensor:
        once = torch.stack([make(torch.Generator().manual_seed(seed)) for seed in self.seeds])
        return once.repeat(len(self.rates), *[1] * (once.dim() - 1))

    def layer(self, n: int, m: int) -> list[Tensor]:
        bound = 1 / math.sqrt(n)
        both = self.stack(lambda g: torch.empty(n + 1, m).uniform_(-bound, bound, generator=g))
        return [both[:, :n].clone(), both[:, n:].clone()]


def linear(x: Tensor, layer: list[Tensor]) -> Tensor:
    return torch.baddbmm(layer[1], x, layer[0])


class Digits:
    """scikit-learn's digits; scored by accuracy, %."""

    k, steps, batch, rates = 1, 400, 128, (3e-3, 1e-2, 3e-2)

    def data(self, runs: Runs) -> list[Tensor]:
        splits = [digits(seed) for seed in runs.seeds]
        parts = [(s.train.x, s.train.y, s.test.x, s.test.y) for s in splits]
        return [torch.stack(t).repeat(len(runs.rates), *[1] * t[0].dim()) for t in zip(*parts)]

    def loss(self, out: Tensor, y: Tensor) -> Tensor:
        return F.cross_entropy(out.flatten(0, 1), y.flatten(), reduction="none").view(y.shape).mean(1)

    def score(self, out: Tensor, y: Tensor) -> Tensor:
        return 100 * (out.argmax(-1) == y).float().mean(1)


class Experts(Digits):
    """Each image goes to one of 8 experts, 64-2-10."""

    def parameters(self, runs: Runs) -> dict[str, list[Tensor]]:
        return {
            "gate": runs.layer(64, 8),
            "in": runs.layer(64, 16),
            "out": runs.layer(16, 10),
            "own": runs.layer(8, 10)[:1],
        }

    def output(self, p: dict[str, list[Tensor]], x: Tensor, rule: Rule) -> Tensor:
        hot = rule(linear(x, p["gate"]), self.k)
        hidden = linear(x, p["in"]).unflatten(-1, (8, 2)) * hot.unsqueeze(-1)
        return linear(hidden.flatten(2), p["out"]) + torch.bmm(hot, p["own"][0])


class TwoExperts(Experts):
    """The same with two of 8."""

    k = 2


class Regions(Digits):
    """8 regions of a plane of 4 dimensions with an affine function in each, learned by 8 gated ones; R2, %."""

    steps = 600

    def data(self, runs: Runs) -> list[Tensor]:
        def make(g: torch.Generator) -> Tensor:
            centers, slopes = torch.randn(8, 4, generator=g), torch.randn(8, 4, 2, generator=g)
            constants, x = 2 * torch.randn(8, 2, generator=g), torch.randn(2000, 4, generator=g)
            at = torch.cdist(x, centers).argmin(-1)
            return torch.cat([x, torch.einsum("nd,ndk->nk", x, slopes[at]) + constants[at]], 1)

        x, y = runs.stack(make).split([4, 2], -1)
        return [x[:, :1200], y[:, :1200], x[:, 1200:], y[:, 1200:]]

    def parameters(self, runs: Runs) -> dict[str, list[Tensor]]:
        return {"gate": runs.layer(4, 8), "experts": runs.layer(4, 16)}

    def output(self, p: dict[str, list[Tensor]], x: Tensor, rule: Rule) -> Tensor:
        hot = rule(linear(x, p["gate"]), 1)
        return (linear(x, p["experts"]).unflatten(-1, (8, 2)) * hot.unsqueeze(-1)).sum(-2)

    def loss(self, out: Tensor, y: Tensor) -> Tensor:
        return (out - y).square().mean((1, 2))

    def score(self, out: Tensor, y: Tensor) -> Tensor:
        return 100 * (1 - self.loss(out, y) / self.loss(y.mean(1, keepdim=True), y))


class Codebook(Digits):
    """The autoencoder of `benchmarks/evidence`: 8 words from a codebook of 16; -1000 x squared error."""

    steps, rates = 500, (3e-3, 1e-2)

    def parameters(self, runs: Runs) -> dict[str, list[Tensor]]:
        words = runs.stack(lambda g: 0.5 * torch.randn(16, 4, generator=g))
        return {"a": runs.layer(64, 64), "b": runs.layer(64, 32), "c": runs.layer(32, 64), "d": runs.layer(64, 64),
                "words": [words]}  # fmt: skip

    def output(self, p: dict[str, list[Tensor]], x: Tensor, rule: Rule) -> Tensor:
        z, (words,) = linear(torch.relu(linear(x, p["a"])), p["b"]), p["words"]
        hot = rule(-torch.cdist(z.unflatten(-1, (8, 4)).flatten(1, 2), words), 1)
        return linear(torch.relu(linear(torch.bmm(hot, words).view_as(z), p["c"])), p["d"]) - x

    def loss(self, out: Tensor, y: Tensor) -> Tensor:
        return out.square().mean((1, 2))

    def score(self, out: Tensor, y: Tensor) -> Tensor:
        return -1000 * self.loss(out, y)


class Pixels(Digits):
    """Sees 8 of 64 pixels, as in `benchmarks/evidence`."""

    k, steps, batch = 8, 500, 64

    def parameters(self, runs: Runs) -> dict[str, list[Tensor]]:
        scores = runs.stack(lambda g: 0.1 * torch.randn(1, 64, generator=g))
        return {"scores": [scores], "hidden": runs.layer(64, 64), "last": runs.layer(64, 10)}

    def output(self, p: dict[str, list[Tensor]], x: Tensor, rule: Rule) -> Tensor:
        return linear(torch.relu(linear(x * rule(p["scores"][0], self.k), p["hidden"])), p["last"])


class Votes(Digits):
    """The three nearest of 30 prototypes vote, as in `choice_training.py`."""

    k = 3

    def parameters(self, runs: Runs) -> dict[str, list[Tensor]]:
        return {"prototypes": [runs.stack(lambda g: 0.3 + 0.1 * torch.randn(30, 64, generator=g))]}

    def output(self, p: dict[str, list[Tensor]], x: Tensor, rule: Rule) -> Tensor:
        return rule(-torch.cdist(x, p["prototypes"][0]), self.k).unflatten(-1, (3, 10)).sum(-2) / self.k

    def loss(self, out: Tensor, y: Tensor) -> Tensor:
        return (out - F.one_hot(y, 10)).square().sum(-1).mean(1)


TASKS: dict[str, Digits] = {
    "gating: 8 experts, accuracy, %": Experts(),
    "gating: 8 regions, R2, %": Regions(),
    "vector quantization, -1000 x squared error": Codebook(),
    "subset: 8 of 64 pixels, accuracy, %": Pixels(),
    "subset: 2 of 8 experts, accuracy, %": TwoExperts(),
    "subset: 3 of 30 prototypes, accuracy, %": Votes(),
}


# --- training ---------------------------------------------------------------------------------------------------------


def train(task: Digits, rule: Rule, seeds: range, steps: int) -> list[list[float]]:
    """Scores on the test split, by learning rate and seed."""
    runs = Runs(seeds, task.rates)
    x, y, *test = task.data(runs)
    parameters = task.parameters(runs)
    flat = [p.requires_grad_() for layer in parameters.values() for p in layer]
    rates, row = torch.tensor(task.rates).repeat_interleave(len(seeds)), torch.arange(len(x))[:, None]
    order = [torch.Generator().manual_seed(seed) for seed in seeds]
    moments = [(torch.zeros_like(p), torch.zeros_like(p)) for p in flat]
    region = rule.region()
    for step in range(1, steps + 1):
        drawn = torch.stack([torch.randint(x.shape[1], (task.batch,), generator=g) for g in order])
        at = drawn.repeat(len(task.rates), 1)
        with region:
            loss = task.loss(task.output(parameters, x[row, at], rule), y[row, at]).sum()
        gradients = torch.autograd.grad(loss, flat)
        with torch.no_grad():  # Adam, with a rate for each run
            for p, g, (mean, square) in zip(flat, gradients, moments):
                mean.lerp_(g, 0.1), square.lerp_(g * g, 0.001)
                change = mean / (1 - 0.9**step) / ((square / (1 - 0.999**step)).sqrt() + 1e-8)
                p.sub_(change * rates.view(-1, *[1] * (p.dim() - 1)))
    with torch.no_grad():
        return task.score(task.output(parameters, test[0], rule), test[1]).view(len(task.rates), -1).tolist()


def at_best_rate(scores: list[list[float]]) -> Tensor:
    return max((torch.tensor(row) for row in scores), key=lambda row: row.mean().item())


def shown(scores: Tensor) -> str:
    return f"{scores.mean():.2f} ± {scores.std() / math.sqrt(len(scores)):.2f}"


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument(
        "--quick", action="store_true", help="two seeds, few steps, nothing is kept: to see that it runs"
    )
    quick = parser.parse_args().quick
    torch.set_num_threads(1)
    lines = RESULTS.read_text().splitlines() if RESULTS.exists() and not quick else []
    known = {(line["task"], line["rule"]): line["scores"] for line in map(json.loads, lines)}
    for name, task in TASKS.items():
        table = Table("backward", "mean ± standard error", "paired difference to the last row", title=name)
        rows = {}
        for rule in rules(task.k):
            scores = known.get((name, rule.name))
            if scores is None:
                scores = train(task, rule, SEEDS[:2] if quick else SEEDS, 12 if quick else task.steps)
                if not quick:
                    with RESULTS.open("a") as file:
                        file.write(json.dumps({"task": name, "rule": rule.name, "scores": scores}) + "\n")
            rows[rule.name] = at_best_rate(scores)
        for rule, scores in rows.items():
            table.add_row(rule, shown(scores), "" if rule == UNEDITED else shown(scores - rows[UNEDITED]))
        Console(width=120).print(table)


if __name__ == "__main__":
    main()
