"""Pictures: what linearization does to a function, and what a region did to a program.

Every function returns a `matplotlib.figure.Figure` on white, made without pyplot: it needs no display, and
``figure.savefig("name.png")`` writes it. Curves are what `sll` computes, never formulas. matplotlib comes with
``pip install matplotlib`` and is imported when a picture is drawn, not before.
"""

from __future__ import annotations

import math
import numbers
import os
from collections.abc import Callable, Sequence
from contextlib import AbstractContextManager
from typing import TYPE_CHECKING, Any, NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor

from .. import region
from .._ops.options import RegionForward, one_of, shown
from .._reports.picture import _INK, COLORS, LINES, _figure, style
from .._reports.report import Report

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

__all__ = ["compare", "op", "report"]


Function = Callable[[Tensor], Tensor]


# --- what is drawn -------------------------------------------------------------------------------------------------


def _between(low: float, high: float, points: int, device: str | None = "cpu") -> Tensor:
    """The middles of `points` equal intervals: a number that is round enough to be a decision boundary is not one."""
    at = (torch.arange(points, dtype=torch.float64, device=device) + 0.5) / points
    return (low + (high - low) * at).to(torch.get_default_dtype())


def _plain(fn: Function, x: Tensor) -> Tensor:
    """The hard program, also if the caller is in a region: what records no gradient runs as it is."""
    with torch.no_grad():
        return fn(x.clone()).to(x.dtype)  # the program may work in place


def _in_region(fn: Function, x: Tensor, eps: float, forward: RegionForward = "linear") -> tuple[Tensor, Tensor]:
    """Value and derivative of an elementwise function in a region."""
    return _derived(fn, x, region.linearize(eps, forward=forward))


def _derived(fn: Function, x: Tensor, within: AbstractContextManager[Any]) -> tuple[Tensor, Tensor]:
    """Value and derivative."""
    with torch.enable_grad():
        x = x.detach().clone().requires_grad_()
        with within:
            y = fn(x.clone()).to(x.dtype)
        slope = torch.zeros_like(x)  # of a constant
        if y.requires_grad:
            (slope,) = torch.autograd.grad(y.sum(), x, materialize_grads=True)
    return y.detach(), slope


def _box(fn: Function, x: Tensor, eps: float) -> Tensor:
    """``(f(x + eps) - f(x - eps)) / (2 eps)`` of the hard program."""
    return (_plain(fn, x + eps) - _plain(fn, x - eps)) / (2 * eps)


def _band(axes: Axes, center: float, eps: float, label: str | None = None) -> None:
    axes.axvspan(center - eps, center + eps, color=COLORS["other"], alpha=0.18, linewidth=0, label=label)


# --- six panels ----------------------------------------------------------------------------------------------------


def compare(path: str | os.PathLike[str] | None = None, *, quick: bool = False) -> Figure:
    """What linearization does, in six panels: values, gradients, bands, widths, and what it is worth in training.

    The last panel trains a small network with sign activations on two interleaved spirals (1024 generated points, 4
    seeds) in four ways: as it is, with a straight-through estimator (clipped at 1), with the gradient of a sigmoid, and
    in ``sll.linearize("auto")``. Each method has the learning rate of three that is best for it on validation points;
    the curves are accuracies of the deployed hard program on test points, mean and standard deviation over the seeds.
    This takes about ten seconds. It is one small task: what is ahead of what on eight others is in
    ``docs/training-tasks.md``.

    Args:
        path: where to write the picture, if anywhere; the suffix says in which format.
        quick: train with one seed, one learning rate and a fifth of the steps.

    Returns:
        The figure, 12 x 7 inches.

    Raises:
        ImportError: matplotlib is missing.

    Example:
        >>> import sll
        >>> figure = sll.plot.compare(quick=True)
        >>> len(figure.axes)
        6
    """
    with style(), torch.inference_mode(False):
        figure = _figure(12, 7)
        (values, slopes, steps), (zoom, widths, training) = figure.subplots(2, 3)
        _draw_sign(values, slopes)
        _draw_round(steps, zoom)
        _draw_widths(widths)
        _draw_training(training, _trained(quick))
        figure.draw_without_rendering()
        if path is not None:
            figure.savefig(path)
    return figure


def _draw_sign(values: Axes, slopes: Axes, eps: float = 0.25) -> None:
    x = _between(-1, 1, 800)
    curves = [
        ("hard sign", "plain", *_derived(torch.sign, x, region.hard())),
        ("tanh(x / eps)", "sigmoid", *_derived(lambda x: torch.tanh(x / eps), x, region.hard())),
        (f"sll, eps = {eps}", "linear", *_in_region(torch.sign, x, eps)),
    ]
    for axes, which in ((values, 2), (slopes, 3)):
        _band(axes, 0, eps, "band, |x| <= eps")
        for curve in curves:
            axes.plot(x, curve[which], color=COLORS[curve[1]], linestyle=LINES[curve[1]], label=curve[0])
        axes.set_xlabel("x")
    values.set(title="1  sign: value", ylabel="value")
    slopes.set(title="2  sign: gradient", ylabel="d value / d x", ylim=(-0.2, 1.75 / eps))
    values.legend(loc="upper left")
    slopes.legend(loc="upper right")


def _draw_round(steps: Axes, zoom: Axes, eps: float = 0.15) -> None:
    x = _between(-2, 2, 1600)
    for n in range(-2, 2):
        _band(steps, n + 0.5, eps, "bands" if n == -2 else None)
    steps.plot(x, _plain(torch.round, x), color=COLORS["plain"], linestyle=":", label="hard round")
    steps.plot(x, _in_region(torch.round, x, eps)[0], color=COLORS["linear"], label=f"sll, eps = {eps}")
    steps.set(title="3  round: a ramp at each half-integer", xlabel="x", ylabel="value", xticks=range(-2, 3))
    steps.legend(loc="upper left")

    d = _between(-2.2 * eps, 2.2 * eps, 800)
    value, slope = _in_region(torch.round, d + 0.5, eps)
    _band(zoom, 0, eps)
    zoom.plot(d, _plain(torch.round, d + 0.5), color=COLORS["plain"], linestyle=":", label="hard round")
    zoom.plot(d, value, color=COLORS["linear"], label="sll")
    for edge, name, side in ((-eps, " -eps", "left"), (eps, "+eps ", "right")):
        zoom.axvline(edge, color=COLORS["hard"], linestyle=(0, (4, 2)), linewidth=1)
        zoom.annotate(name, (edge, -0.15), ha=side, va="center", color=COLORS["hard"])
    middle = slope[len(d) // 2].item()
    zoom.annotate(
        f"slope {middle:.3g}\n= 1 / (2 eps)",
        (0.0, 0.5),
        (eps * 1.15, 0.42),
        va="center",
        arrowprops={"arrowstyle": "->", "color": _INK},
    )
    zoom.set(title="4  one band of round, enlarged", xlabel="d: distance of x to the boundary 0.5", ylabel="value")
    zoom.set(ylim=(-0.25, 1.15), yticks=[0, 0.5, 1])
    zoom.legend(loc="upper left")


def _draw_widths(axes: Axes) -> None:
    x = _between(-0.8, 0.8, 1600)
    looks = (("auto", "-."), ("straight_through", "--"), ("linear", "-"), ("hard", (0, (5, 1, 1, 1))))
    for eps, (color, line) in zip((0.5, 0.25, 0.1, 0.02), looks):
        value, slope = _in_region(torch.sign, x, eps)
        axes.plot(
            x, value, color=COLORS[color], linestyle=line, label=f"eps = {eps:g}: slope {slope[len(x) // 2].item():.3g}"
        )
    axes.set(title="5  sign: narrower bands, steeper ramps", xlabel="x", ylabel="value")
    axes.legend(loc="upper left")


class _Curve(NamedTuple):
    color: str
    name: str
    steps: list[int]
    accuracy: Tensor
    """Of seeds and steps, in percent."""
    rate: float


def _draw_training(axes: Axes, curves: Sequence[_Curve]) -> None:
    for color, name, steps, accuracy, rate in curves:
        mean = accuracy.mean(0)
        label = f"{name}: {mean[-1].item():.1f}"
        if len(accuracy) > 1:
            spread = accuracy.std(0)
            label += f" ± {spread[-1].item():.1f}"
            axes.fill_between(steps, mean - spread, mean + spread, color=COLORS[color], alpha=0.15, linewidth=0)
        axes.plot(steps, mean, color=COLORS[color], linestyle=LINES[color], label=f"{label} (rate {rate:g})")
    seeds = f"{len(curves[0].accuracy)} seeds" if len(curves[0].accuracy) > 1 else "1 seed"
    axes.set(title=f"6  a sign network, trained ({seeds})", xlabel="step", ylabel="accuracy when deployed, %")
    axes.set_ylim(40, 101)
    axes.legend(loc="lower right")


# --- the task of the last panel ---


def _spirals(n: int, generator: torch.Generator) -> tuple[Tensor, Tensor]:
    """Points on two interleaved spirals of one and a half turns, with noise, and on which they are."""
    label = torch.arange(n, device="cpu") % 2
    radius = 2 * torch.rand(n, generator=generator, device="cpu").sqrt()
    angle = torch.pi * (1.5 * radius + label)
    points = torch.stack([radius * angle.cos(), radius * angle.sin()], 1)
    return points + 0.1 * torch.randn(n, 2, generator=generator, device="cpu"), label


def _network(generator: torch.Generator, sizes: Sequence[int] = (2, 64, 64, 2)) -> list[Tensor]:
    """Weights and biases as `torch.nn.Linear` draws them."""
    found = []
    for inputs, outputs in zip(sizes, sizes[1:]):
        for shape in ((inputs, outputs), (outputs,)):
            drawn = (2 * torch.rand(shape, generator=generator, device="cpu") - 1) * inputs**-0.5
            found.append(drawn.requires_grad_())
    return found


def _logits(network: Sequence[Tensor], x: Tensor, activation: Function) -> Tensor:
    *hidden, weight, bias = network
    for w, b in zip(hidden[::2], hidden[1::2]):
        x = activation(x @ w + b)
    return x @ weight + bias


def _surrogate(soft: Function) -> Function:
    """The value of sign, the gradient of `soft`: what one writes by hand."""

    def activation(x: Tensor) -> Tensor:
        value = soft(x)
        return value + (torch.sign(x) - value).detach()

    return activation


_WAYS: tuple[tuple[str, str, Function, Callable[[], AbstractContextManager[Any]]], ...] = (
    ("plain", "as it is", torch.sign, region.hard),
    ("straight_through", "straight-through", _surrogate(F.hardtanh), region.hard),
    ("sigmoid", "sigmoid's gradient", _surrogate(torch.tanh), region.hard),
    ("auto", 'sll, "auto"', torch.sign, lambda: region.linearize("auto")),
)


def _trained(quick: bool) -> list[_Curve]:
    seeds, rates, steps = ((0,), (3e-2,), 20) if quick else (range(4), (3e-3, 1e-2, 3e-2), 100)
    found = []
    for color, name, activation, enter in _WAYS:
        tried = [(rate, [_run(seed, rate, steps, activation, enter) for seed in seeds]) for rate in rates]
        rate, runs = max(tried, key=lambda one: sum(validation for _, validation, _ in one[1]))
        accuracy = torch.tensor([run[2] for run in runs], device="cpu")
        found.append(_Curve(color, name, runs[0][0], accuracy, rate))
    return found


def _run(
    seed: int, rate: float, steps: int, activation: Function, enter: Callable[[], AbstractContextManager[Any]]
) -> tuple[list[int], float, list[float]]:
    """Steps; accuracies of the deployed program in percent: on validation points at the end, on test points after the
    steps.
    """
    generator = torch.Generator().manual_seed(seed)
    (x, y), validation, test = (_spirals(1024, generator) for _ in range(3))
    with torch.enable_grad():
        network = _network(generator)
        optimizer, around = torch.optim.Adam(network, rate), enter()
        at, scores = [], []
        for step in range(steps + 1):
            if step % 5 == 0:
                at.append(step)
                scores.append(_accuracy(network, *test))
            if step == steps:
                break
            batch = slice(step % 4 * 256, step % 4 * 256 + 256)
            with around:
                loss = F.cross_entropy(_logits(network, x[batch], activation), y[batch])
            optimizer.zero_grad()
            loss.backward()  # type: ignore[no-untyped-call]
            optimizer.step()
    return at, _accuracy(network, *validation), scores


def _accuracy(network: Sequence[Tensor], x: Tensor, y: Tensor) -> float:
    with torch.no_grad():
        return 100 * (_logits(network, x, torch.sign).argmax(1) == y).float().mean().item()


# --- one function --------------------------------------------------------------------------------------------------


def op(
    fn: Callable[[Tensor], Tensor],
    *,
    eps: float = 0.25,
    forward: RegionForward = "linear",
    low: float = -2.0,
    high: float = 2.0,
    points: int = 800,
    scale: float = 1.0,
) -> Figure:
    """Any elementwise program, as it is and in a region, and its gradient against the box oracle.

    The oracle, drawn as dots, is ``(f(x + eps) - f(x - eps)) / (2 eps)`` of the hard program: what the gradient has to
    be if nobody knew how it is computed. Dots on the line are agreement, to the largest difference that the legend
    names. The two are the same function for programs whose values are constant, or linear, between their jumps and
    whose decisions do not meet. They differ where

    - several boundaries lie in one band and one decision depends on another (sll takes decisions as independent, the
      oracle knows what they do together),
    - a decision is multiplied with something that changes in the band, as in ``x * torch.sign(x)``,
    - the band is narrower than `eps`, because steps of size ``s`` have at most the half-width ``s / 2``,
    - a decision is taken on something that moves faster or slower than ``x``: see `scale`.

    Args:
        fn: takes a tensor of shape ``(points,)`` and the default dtype, and returns one of the same shape (bool or
            integer ones are drawn as numbers). It is called a few times, in and outside a region, between ``low -
            eps / scale`` and ``high + eps / scale``.
        eps: half-width of the band, a positive float in the units of the op's input.
        forward: ``"linear"``, ``"hard"`` or ``"straight-through"``, as for `sll.linearize`.
        low: where the range to draw begins.
        high: where it ends.
        points: how many points to draw, in the middles of as many equal intervals; at least 10.
        scale: how much the input of the decisions moves when ``x`` moves by one: 3 for ``sign(3 * x)``. The window of
            the oracle is ``eps / scale``.

    Returns:
        The figure: values above, gradients below.

    Raises:
        ImportError: matplotlib is missing.
        TypeError, ValueError: naming the argument that is not as described, or because `fn` is not elementwise.

    Example:
        >>> import torch, sll
        >>> figure = sll.plot.op(lambda x: torch.round(2 * torch.sign(x)), eps=0.1)
        >>> [axes.get_ylabel() for axes in figure.axes]
        ['value', 'd value / d x']
    """
    if not callable(fn):
        raise TypeError(f"fn must be a function of one tensor such as torch.round, got {shown(fn)}")
    for name, number in (("eps", eps), ("low", low), ("high", high), ("scale", scale)):
        if isinstance(number, bool) or not isinstance(number, numbers.Real):
            remedy = '; the oracle needs one width, not a policy such as "auto"' if name == "eps" else ""
            raise TypeError(f"{name} must be a number, got {shown(number)}{remedy}")
        if not math.isfinite(number) or (name in ("eps", "scale") and number <= 0):
            raise ValueError(f"{name} must be {'positive and ' * (name in ('eps', 'scale'))}finite, got {number!r}")
    if low >= high:
        raise ValueError(f"low must be less than high, got low={low!r} and high={high!r}; exchange them")
    if isinstance(points, bool) or not isinstance(points, int):
        raise TypeError(f"points must be an int, got {shown(points)}")
    if points < 10:
        raise ValueError(f"points must be at least 10, got {points!r}; the default is 800")
    one_of(forward, "forward", ("linear", "hard", "straight-through"))
    with torch.inference_mode(False):
        x = _between(low, high, points, device=None)
        _check_elementwise(fn, x)
        plain = _plain(fn, x).cpu()
        value, slope = (curve.cpu() for curve in _in_region(fn, x, float(eps), forward))
        some = torch.arange(points // 160, points, max(1, points // 80), device="cpu")
        oracle = _box(fn, x[some.to(x.device)], eps / scale).cpu()
        x = x.cpu()
    off = (slope[some] - oracle).abs()
    off = off[off.isfinite()]
    difference = f"largest difference {off.max().item():.1g}" if len(off) else "nowhere finite"

    with style():
        figure = _figure(6.4, 5)
        values, slopes = figure.subplots(2, 1, sharex=True)
        # Dots, because a line would invent what lies between the two sides of a jump.
        size = 2.5 if forward == "linear" else 5
        values.plot(x, plain, ".", color=COLORS["plain"], markersize=size, label="hard program")
        color = {"linear": "linear", "hard": "hard", "straight-through": "auto"}[forward]
        name = f'in a region, eps = {eps:g}, forward="{forward}"'
        values.plot(x, value, color=COLORS[color], label=name)
        slopes.plot(x, slope, color=COLORS[color], label="gradient in the region")
        slopes.plot(
            x[some],
            oracle,
            "o",
            color=COLORS["auto" if color != "auto" else "hard"],
            markerfacecolor="none",
            markersize=4.5,
            label=f"box oracle of the hard program, {difference}",
        )
        values.set(ylabel="value")
        slopes.set(ylabel="d value / d x", xlabel="x")
        for axes in (values, slopes):
            axes.legend(loc="lower left", bbox_to_anchor=(0, 1.01), ncols=2, frameon=False, borderaxespad=0)
        figure.suptitle(_name_of(fn), x=0.02, ha="left", fontsize=10)
        figure.draw_without_rendering()
    return figure


def _name_of(fn: Any) -> str:
    name = getattr(fn, "__name__", type(fn).__name__)
    return "a program of one variable" if name == "<lambda>" else str(name)


def _check_elementwise(fn: Function, x: Tensor) -> None:
    with torch.no_grad():
        y, part = fn(x.clone()), fn(x[1::2].clone())
    if not isinstance(y, Tensor):
        raise TypeError(f"fn must return a tensor, got {shown(y)}; torch.as_tensor(y) makes one")
    if y.is_complex():
        raise TypeError(f"fn must return real numbers, got {y.dtype}; draw its .real, .imag or .abs()")
    if y.shape != x.shape:
        raise ValueError(
            f"fn must be elementwise: it made a tensor of shape {tuple(y.shape)} from one of shape {tuple(x.shape)}; "
            "draw what it does to one number, with the other arguments held fixed"
        )
    same = part.shape == y[1::2].shape and torch.isclose(
        part.double(), y[1::2].double(), rtol=1e-3, atol=1e-5, equal_nan=True
    )
    if same is False or same.double().mean() < 0.98:  # rounding may move a few points over a boundary
        raise ValueError(
            "fn must be elementwise and the same at every call: its values at half of the points changed when the other"
            " half was left out; draw what it does to one number, with the other arguments and the seed held fixed"
        )


def report(report: Report) -> Figure:
    """A traced report as a picture: one line per call site, in the order in which the program came by.

    Left: the share of the inputs that were in the band, and the half-width. A call site without a band has a mark that
    says why: it passes an earlier decision on, is hard, or ends a gradient. Right: the norm of the gradient that
    arrived at the decision, and of the one that the band passed on to its input, on a logarithmic scale; zeros are
    at its left end. No circles mean no backward pass.

    Args:
        report: what `region.report()` returned for a region made with ``trace=True``.

    Returns:
        The figure; its height grows with the number of rows.

    Raises:
        ImportError: matplotlib is missing.
        TypeError: `report` is something else.
        ValueError: the report has no rows, because the region was not traced or saw no decision.
    """
    if not isinstance(report, Report):
        raise TypeError(
            f"report must be what region.report() returns, got {shown(report)}; of an explanation draw its .report"
        )
    return report.plot()
