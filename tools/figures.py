"""Draw the figures of the documentation.

    python tools/figures.py                  # all of docs/figures, about half a minute
    python tools/figures.py --only window    # one of them; --list names them all
    python tools/figures.py --gallery        # run examples/*.py, for docs/figures/gallery (a minute)
    python tools/figures.py --compared       # run benchmarks/gallery, for its results (a few minutes)

Every curve is computed by running `sll` and torch. Seeds are fixed, so the same versions draw the same pictures.
"""

from __future__ import annotations

import argparse
import io
import os
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import torch
import torch.nn.functional as F
from matplotlib.figure import Figure
from PIL import Image  # matplotlib writes PNG with it
from torch import Tensor, nn

import sll
from sll._reports.picture import COLORS
from sll.tools import demo

ROOT = Path(__file__).resolve().parent.parent
SHADES = (COLORS["hard"], COLORS["auto"], COLORS["linear"], COLORS["straight_through"])
WIDTH = 8.2
"""Inches: with 110 dots for each, letters of 8 points are 10 pixels high on a page of 750."""
STYLES = ("-", "--", "-.", (0, (1, 1)))


def run(fn: Callable[[Tensor], Tensor], x: Tensor, eps: float, forward: str = "linear") -> tuple[Tensor, Tensor]:
    """Value and derivative of an elementwise program in a region."""
    x = x.detach().clone().requires_grad_()
    with sll.linearize(eps, forward=forward):
        y = fn(x).to(x.dtype)
    return y.detach(), torch.autograd.grad(y.sum(), x)[0]


def between(low: float, high: float, points: int = 800) -> Tensor:
    """The middles of equal intervals, which are no decision boundaries."""
    return low + (high - low) * (torch.arange(points) + 0.5) / points


def window() -> Figure:
    """The ramp is the hard function averaged over a window."""
    eps = 0.25
    figure = Figure(figsize=(WIDTH, 3.6))
    left, right = figure.subplots(1, 2, sharey=True)
    x = between(-0.25, 1.25)
    offsets = between(-eps, eps, 4000)
    averages = torch.round(x[:, None] + offsets).mean(1)

    left.plot(x, torch.round(x), color=COLORS["plain"], linestyle=":", label="hard round")
    for at, color in zip((0.1, 0.4, 0.65), SHADES):
        average = torch.round(at + offsets).mean().item()
        left.axvspan(
            at - eps,
            at + eps,
            0.02 + 0.05 * SHADES.index(color),
            0.06 + 0.05 * SHADES.index(color),
            color=color,
            alpha=0.6,
        )
        left.plot([at, at], [-0.28, average], color=color, linewidth=1, linestyle="--")
        left.plot(at, average, "o", color=color, label=f"window around {at}: average {average:.2f}")
    left.set(title="a window of width 2 eps slides over the hard function", xlabel="x", ylabel="value")
    left.set_ylim(-0.35, 1.75)
    left.set_yticks([0, 0.5, 1])
    left.legend(loc="upper left")

    right.plot(x, torch.round(x), color=COLORS["plain"], linestyle=":", label="hard round")
    right.plot(x, run(torch.round, x, eps)[0], color=COLORS["linear"], label=f"sll, eps = {eps}")
    right.plot(
        x[::32],
        averages[::32],
        "o",
        color=COLORS["auto"],
        markerfacecolor="none",
        label="average of 4000 values in the window",
    )
    right.set(title="its averages are the ramp", xlabel="x")
    right.legend(loc="upper left")
    return figure


def outcomes() -> Figure:
    """Two outcomes and a weight: how round(10 * sign(x)) composes."""
    eps = 0.1
    program = lambda x: torch.round(10 * torch.sign(x))
    figure = Figure(figsize=(WIDTH, 6))
    places = figure.add_gridspec(2, 2)
    weights, both, blended = (figure.add_subplot(at) for at in (places[0, 0], places[0, 1], places[1, :]))
    x = between(-0.16, 0.16, 2000)
    w, _ = run(lambda x: (x > 0).float(), x, eps)
    below, above = program(torch.tensor([-1.0, 1.0]))

    weights.plot(x, w, color=COLORS["linear"], label="w: of the outcome above 0")
    weights.plot(x, 1 - w, color=COLORS["hard"], linestyle="--", label="1 - w: of the outcome below 0")
    weights.set(title="1  sign decides: two outcomes, a weight", ylabel="weight", ylim=(-0.1, 1.6), yticks=[0, 0.5, 1])

    both.plot(x, above.expand_as(x), color=COLORS["linear"], label=f"outcome above: round(10 * 1) = {above:g}")
    both.plot(
        x, below.expand_as(x), color=COLORS["hard"], linestyle="--", label=f"outcome below: round(10 * -1) = {below:g}"
    )
    both.set(title="2  what follows runs on both outcomes", ylabel="value", ylim=(-12.5, 24), yticks=[-10, 0, 10])

    value, slope = run(program, x, eps)
    ramp = x.clone().requires_grad_()
    rounded = torch.round(10 * sll.sign(ramp, eps))
    (flat,) = torch.autograd.grad(rounded.sum(), ramp)
    blended.plot(x, program(x), color=COLORS["plain"], linestyle=":", label="hard program")
    blended.plot(x, value, color=COLORS["linear"], label=f"in the region: slope {slope.max():g} = 10 / eps")
    blended.plot(
        x,
        rounded.detach(),
        color=COLORS["auto"],
        linewidth=1,
        label=f"not this: round(10 * ramp), slope {flat.max():g}",
    )
    blended.set(title="3  below + w * (above - below)", ylabel="value", ylim=(-12.5, 24), yticks=[-10, 0, 10])
    for axes in (weights, both, blended):
        axes.axvspan(-eps, eps, color=COLORS["other"], alpha=0.18, linewidth=0)
        axes.set_xlabel(f"x (band: |x| <= {eps})")
        axes.legend(loc="upper left")
    return figure


def argmax() -> Figure:
    """argmax as sparsemax, on three scores."""
    eps = 0.5
    figure = Figure(figsize=(WIDTH, 3.6))
    soft, hard = figure.subplots(1, 2, sharey=True)
    second = between(-1, 1.2)
    scores = torch.stack([torch.zeros_like(second), second, torch.full_like(second, 0.2)], 1)
    for axes, forward, title in (
        (soft, "linear", f"sll.argmax, eps = {eps}: entries within eps share"),
        (hard, "hard", "the hard argmax: one takes all"),
    ):
        weights = sll.argmax(scores, eps=eps, forward=forward)
        for i, name in enumerate(("first score = 0", "second score, rising", "third score = 0.2")):
            axes.plot(second, weights[:, i], color=SHADES[i], linestyle=STYLES[i], label=f"weight of the {name}")
        axes.set(title=title, xlabel="second score", ylim=(-0.05, 1.5), yticks=[0, 0.5, 1])
        axes.legend(loc="upper left")
    soft.set_ylabel("weight")
    return figure


def order() -> Figure:
    """The weights of a sorted order: four scores, one of which moves through the others."""
    eps = 0.4

    def places(moving: Tensor) -> Tensor:
        """Row i: of whom is place i of the sorted order; the moving score is the last of the four."""
        scores = torch.cat([torch.tensor([0.0, 1.0, 2.0]), moving.reshape(1)]).requires_grad_()
        with sll.linearize(eps):
            return F.one_hot(scores.argsort(), 4).float().detach()

    figure = Figure(figsize=(WIDTH, 3.6))
    lines, matrix = figure.subplots(1, 2, width_ratios=(5, 3))
    at = between(-0.7, 2.7, 340)
    weights = torch.stack([places(moving)[:, 3] for moving in at])
    for place in range(4):
        lines.plot(at, weights[:, place], color=SHADES[place], linestyle=STYLES[place], label=f"place {place}")
    for other in range(3):
        lines.axvspan(other - eps, other + eps, color=COLORS["other"], alpha=0.18, linewidth=0)
    lines.set(
        title=f"places of a score that moves past 0, 1 and 2 (eps = {eps})", xlabel="the moving score", ylabel="weight"
    )
    lines.set_ylim(-0.05, 1.3)
    lines.set_yticks([0, 0.5, 1])
    lines.legend(loc="upper left", ncols=4)

    here = 1.2
    shown = places(torch.tensor(here))
    matrix.imshow(shown, cmap="Greys", vmin=0, vmax=2.4)
    for i in range(4):
        for j in range(4):
            matrix.annotate(f"{shown[i, j]:.2f}", (j, i), ha="center", va="center", color="#222222")
    matrix.set(title=f"all weights, with it at {here}", xlabel="score", ylabel="place")
    matrix.set_xticks(range(4), ["0", "1", "2", f"{here}"])
    matrix.set_yticks(range(4))
    matrix.grid(visible=False)
    return figure


def forward_modes() -> Figure:
    """A `where` in the three modes: value and gradient."""
    eps = 0.5
    program = lambda x: torch.where(x > 0, 1 + x / 2, -x)
    figure = Figure(figsize=(WIDTH, 5))
    rows = figure.subplots(2, 3, sharex=True, sharey="row")
    x = between(-1.5, 1.5)
    modes = (("linear", "linear"), ("hard", "hard"), ("straight-through", "auto"))
    for (value, slope), (forward, color) in zip(rows.T, modes):
        y, gradient = run(program, x, eps, forward)
        value.plot(x, y, color=COLORS[color], label="in the region")
        some = x[::24]
        value.plot(some, program(some), ".", color=COLORS["plain"], markersize=4, label="hard program")
        slope.plot(x, gradient, color=COLORS[color])
        value.set_title(f'forward="{forward}"')
        value.legend(loc="upper left")
        slope.set_xlabel(f"x (band: |x| <= {eps})")
        for axes in (value, slope):
            axes.axvspan(-eps, eps, color=COLORS["other"], alpha=0.18, linewidth=0)
    rows[0, 0].set(ylabel="where(x > 0, 1 + x / 2, -x)", ylim=(-0.15, 2.6))
    rows[1, 0].set_ylabel("d value / d x")
    return figure


def several(x: Tensor) -> Tensor:
    """A program of several ops."""
    level = torch.round(2 * torch.sign(x - 0.5)).long()
    table = torch.tensor([1.0, 0.0, 2.0, -1.0, 3.0])
    return torch.where(x > -0.5, table[level + 2], torch.floor(x))


def several_ops() -> Figure:
    figure = sll.plot.op(several, eps=0.2)
    figure.suptitle(
        "where(x > -0.5, table[round(2 * sign(x - 0.5)).long() + 2], floor(x))", x=0.02, ha="left", fontsize=10
    )
    return figure


def remainder() -> Figure:
    figure = sll.plot.op(lambda x: x % 1, eps=0.1)
    figure.suptitle("x % 1", x=0.02, ha="left", fontsize=10)
    return figure


def dependent_ops() -> Figure:
    """Two decisions about one number, in one band: where the region and the oracle differ."""
    figure = sll.plot.op(lambda x: torch.where(x > -1, 1.0, torch.floor(x)), eps=0.2)
    figure.suptitle("where(x > -1, 1, floor(x)): both decide at x = -1", x=0.02, ha="left", fontsize=10)
    return figure


class Network(nn.Module):
    """Sign activations, a rounded layer, a choice, a threshold that nothing comes near, and a count for a log."""

    def __init__(self) -> None:
        super().__init__()
        torch.manual_seed(0)
        self.first, self.second, self.last = nn.Linear(16, 32), nn.Linear(32, 32), nn.Linear(32, 4)

    def forward(self, x: Tensor) -> Tensor:
        x = torch.sign(self.first(x))
        y = self.second(x)
        y = torch.where(y > 5, 2 * y, y)
        best = F.one_hot(y.topk(8).indices, 32).sum(1)
        y = torch.round(2 * y) / 2 + best
        self.active = (y > 0.75).sum().item()
        return self.last(y)


def report() -> Figure:
    """Where gradients come from in a small network."""
    network = Network()
    x = torch.randn(64, 16, generator=torch.Generator().manual_seed(0))
    with sll.linearize(0.25, trace=True, on_lost="ignore") as region:
        F.cross_entropy(network(x), torch.arange(64) % 4).backward()
    return sll.plot.report(region.report())


FIGURES: dict[str, Callable[[], Figure]] = {
    "first": demo.picture,
    "window": window,
    "outcomes": outcomes,
    "argmax": argmax,
    "order": order,
    "forward-modes": forward_modes,
    "op-sign": lambda: sll.plot.op(torch.sign),
    "op-round": lambda: sll.plot.op(torch.round),
    "op-floor": lambda: sll.plot.op(torch.floor),
    "op-remainder": remainder,
    "op-program": several_ops,
    "op-dependent": dependent_ops,
    "report": report,
}
"""By the names of their files in docs/figures."""


def save(figure: Figure, path: Path) -> None:
    """As a PNG of 110 dots per inch on white."""
    drawn = io.BytesIO()
    figure.savefig(drawn, format="png", dpi=110, facecolor="white", transparent=False)
    path.parent.mkdir(parents=True, exist_ok=True)
    with Image.open(drawn) as image:
        _write(image, path)


def _write(image: Image.Image, path: Path) -> None:
    image.convert("RGB").save(path, optimize=True)


def gallery(out: Path) -> None:
    """Run the examples where they may leave a figure each, and keep what they print beside it."""
    out.mkdir(parents=True, exist_ok=True)
    for script in sorted((ROOT / "examples").glob("*.py")):
        path = out.resolve() / f"{script.stem}.png"
        environment = {**os.environ, "MPLBACKEND": "agg"}
        done = subprocess.run(
            [sys.executable, str(script)], check=True, stdout=subprocess.PIPE, text=True, env=environment, cwd=out
        )
        path.with_suffix(".txt").write_text(done.stdout, encoding="utf-8")
        with Image.open(path) as image:
            image.load()
        _write(image, path)
        print(path)


def compared(out: Path) -> None:
    """Run what compares the examples with their alternatives, and keep what it prints."""
    for script in sorted((ROOT / "benchmarks" / "gallery").glob("[!_]*.py")):
        command = [sys.executable, str(script), "--figure", str(out / "compared" / f"{script.stem}.png")]
        environment = {**os.environ, "COLUMNS": "110", "NO_COLOR": "1"}
        done = subprocess.run(command, check=True, stdout=subprocess.PIPE, text=True, env=environment)
        printed = [line.rstrip() for line in done.stdout.splitlines() if not line.startswith("figure:")]
        path = script.parent / "results" / f"{script.stem}.txt"
        path.write_text("\n".join(printed).strip("\n") + "\n", encoding="utf-8")
        print(path)


def main() -> None:
    parser = argparse.ArgumentParser(description=(__doc__ or "").split("\n")[0])
    parser.add_argument("--only", action="append", choices=FIGURES, metavar="NAME", help="draw this one (repeatable)")
    parser.add_argument(
        "--out", type=Path, default=ROOT / "docs" / "figures", help="the folder (default: docs/figures)"
    )
    parser.add_argument("--gallery", action="store_true", help="run examples/*.py, for OUT/gallery")
    parser.add_argument("--compared", action="store_true", help="run benchmarks/gallery, for its results")
    parser.add_argument("--list", action="store_true", help="print the names and end")
    options = parser.parse_args()
    if options.list:
        print("\n".join(FIGURES))
        return
    for name in options.only or ([] if options.gallery or options.compared else FIGURES):
        path = options.out / f"{name}.png"
        with sll.plot.style():
            save(FIGURES[name](), path)
        print(path)
    if options.gallery:
        gallery(options.out / "gallery")
    if options.compared:
        compared(ROOT / "out")


if __name__ == "__main__":
    main()
