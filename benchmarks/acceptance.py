"""Prints the figures behind the README's claims: ``python benchmarks/acceptance.py [part …]``.

All seeds are fixed. The oracles and the programs are those of ``tests/``; here every case is measured and
shown, none is dropped.
"""

from __future__ import annotations

import argparse
import gc
import subprocess
import sys
import tempfile
import threading
import warnings
import weakref
from pathlib import Path

import torch
from rich.console import Console
from rich.table import Table

import sll

sys.path.insert(0, str(Path(__file__).parent.parent / "tests"))
import oracles
from layers import leaky_integrate_and_fire, random_path, snntorch_leaky
from programs import PROGRAMS, ROWS

MODES = ("linear", "hard")
console = Console(width=120)


def headline() -> None:
    for forward in MODES:
        x = torch.tensor([-1.0, 0.0, 1.0], requires_grad=True)
        with sll.linearize(eps=1e-2, forward=forward):
            y = torch.sign(x)
            z = torch.round(y * 10)
            z.sum().backward()
        console.print(f"forward={forward}: z == {z.int().tolist()}, x.grad == {x.grad.int().tolist()}")


def box() -> None:
    """Every program, dtype and mode against the box oracle; halves leave out what they do not resolve."""
    cases = {
        torch.float64: (1e-3, 1e-9),
        torch.float32: (1e-2, 1e-4),
        torch.float16: (0.04, 1e-2),
        torch.bfloat16: (0.12, 4e-2),
    }
    table = Table("dtype", "eps", "tolerance", "programs", "points x modes", "mismatches", "largest relative error")
    for dtype, (eps, tolerance) in cases.items():
        programs = points = mismatches = 0
        worst = 0.0
        for name, f in PROGRAMS.items():
            width = eps / ROWS[name].scale
            try:
                positions, heights = oracles.jumps(f, dtype)
            except RuntimeError:
                continue  # torch has no such kernel in half precision
            if oracles.too_coarse(positions, width, dtype, ROWS[name].scale):
                continue
            programs += 1
            x = oracles.box_points(positions, width, dtype)
            want, certain = oracles.box_derivative(x, positions, heights, width, ROWS[name].scale)
            unit = float(heights.abs().max()) / (2 * width) if len(heights) else 1.0
            for forward in MODES:
                _, got = oracles.region_gradient(f, x, eps, forward)
                error = (got.double() - want).abs()[certain] / unit
                points += int(certain.sum())
                mismatches += int((error > tolerance).sum())
                worst = max(worst, float(error.max()))
        table.add_row(str(dtype), str(eps), str(tolerance), str(programs), str(points), str(mismatches), f"{worst:.1e}")
    console.print(table)


def line() -> None:
    """Third-party metrics, snnTorch's neuron, and spiking layers with the reset in the graph."""
    from test_line_integral import METRICS, metric_case

    table = Table(
        "torchmetrics functional, 3 random paths", "f(b) - f(a)", "linear: relative error", "hard: relative error"
    )
    eps = 1e-2
    for name, metric in METRICS.items():
        wants, errors = [], dict.fromkeys(MODES, 0.0)
        for seed in range(3):
            target, a, b = metric_case(seed, eps=eps)
            times, weights = oracles.gauss_between(oracles.band_crossings(a, b, 0.5, eps))

            def f(p, metric=metric, target=target):
                return metric(p, target)

            want = float(f(b) - f(a))
            wants.append(want)
            for mode in MODES:
                got = oracles.line_integral(f, a, b, times, weights, eps, mode)
                errors[mode] = max(errors[mode], abs(got - want) / abs(want))
        table.add_row(
            f"binary_{name}", " ".join(f"{w:+.3f}" for w in wants), *(f"{100 * errors[m]:.4f} %" for m in MODES)
        )
    console.print(table)

    table = Table(
        "spiking layer, 20 steps, 3 neurons, 8 random paths",
        "eps",
        "mode",
        "quadrature",
        "spikes f(b) - f(a)",
        "error: rms / rms",
    )
    layers = {
        "snntorch.Leaky, reset none": lambda seed: snntorch_leaky(seed=seed),
        "reset in the graph, subtract": lambda seed: leaky_integrate_and_fire("subtract", seed=seed),
        "reset in the graph, zero": lambda seed: leaky_integrate_and_fire("zero", seed=seed),
    }
    for name, make in layers.items():
        for eps in (1e-2, 1e-3):
            for mode in MODES:
                adaptive = mode == "linear" and "graph" in name
                errors, wants = [], []
                for seed in range(8):
                    f = make(seed)
                    a, b = random_path(f, seed, eps)
                    wants.append(float((f(b[None]) - f(a[None])).sum()))
                    got = (
                        oracles.adaptive_integral(f, a, b, eps)
                        if adaptive
                        else oracles.jittered_integral(f, a, b, eps, mode, n=60_000, seed=seed)
                    )
                    errors.append(got - wants[-1])
                rms = (torch.tensor(errors).square().mean() / torch.tensor(wants).square().mean()).sqrt()
                table.add_row(
                    name, f"{eps:g}", mode, "adaptive" if adaptive else "60000 samples",
                    " ".join(f"{w:+.0f}" for w in wants), f"{100 * rms:.3f} %",
                )  # fmt: skip
    console.print(table)


def order() -> None:
    """Third-party metrics that choose and order; three random paths each."""
    import test_order_line_integral as cases

    table = Table(
        "torchmetrics functional, 3 random paths", "f(b) - f(a)", "linear: relative error", "hard: relative error"
    )
    for name in cases.METRICS:
        wants, errors = [], dict.fromkeys(MODES, 0.0)
        for seed in range(3):
            f, a, b = cases.case(name, seed)
            want = float(f(b) - f(a))
            wants.append(want)
            if want == 0:
                continue
            for mode in MODES:
                got, _ = oracles.integral(f, a, b, cases.EPS, mode, parts=2)
                errors[mode] = max(errors[mode], abs(got - want) / abs(want))
        table.add_row(name, " ".join(f"{w:+.3f}" for w in wants), *(f"{100 * errors[m]:.4f} %" for m in MODES))
    console.print(table)
    f, a, b = cases.case("precision", 1)
    for parts in (1, 4, 16):
        got, want = oracles.integral(f, a, b, cases.EPS, "linear", parts)
        error = 100 * abs(got - want) / abs(want)
        console.print(
            f"precision at 4, linear, intervals divided by {parts}: {error:.4f} % (what is left is quadrature)"
        )


def hard() -> None:
    """``forward="hard"`` is bit-identical, and types stay what they are."""
    generator = torch.Generator().manual_seed(0)
    runs = different = 0
    for dtype in (torch.float64, torch.float32, torch.float16, torch.bfloat16):
        for f in PROGRAMS.values():
            for _ in range(5):
                x = (torch.rand(500, generator=generator, dtype=torch.float64) * 5 - 2.5).to(dtype)
                x[::5] = (x[::5] * 4).round() / 4  # ties
                try:
                    want = oracles.plain(f, x.clone())
                except RuntimeError:
                    continue  # torch has no such kernel in half precision
                with sll.linearize(0.1, forward="hard"):
                    got = f(x.clone().requires_grad_())
                runs += 1
                different += not (torch.equal(got, want) and got.dtype == want.dtype and type(got) is torch.Tensor)
    console.print(f"forward=hard: {runs} runs of {len(PROGRAMS)} programs in 4 dtypes, {different} not bit-identical")


def flips() -> None:
    """Simulations with feedback: the line integral of "hard" and its standard error, eight random paths each."""
    from simulations import SIMULATIONS, measured

    table = Table("simulation", "eps", "f(b) - f(a)", "off by, in standard errors", "all together")
    for name in SIMULATIONS:
        for eps in (1e-2, 3e-3):
            cases = [measured(name, seed, eps, 20_000) for seed in range(8)]
            got, error, want = torch.tensor(cases, dtype=torch.float64).T
            table.add_row(
                name, f"{eps:g}", " ".join(f"{w:+.1f}" for w in want.tolist()),
                " ".join(f"{z:+.1f}" for z in ((got - want) / error).tolist()),
                f"{float((got - want).sum() / error.square().sum().sqrt()):+.1f}",
            )  # fmt: skip
    console.print(table)


def left_behind() -> None:
    """What a region leaves behind."""
    from test_region import ids

    before = ids()
    x = torch.linspace(-1, 1, 9, requires_grad=True)
    try:
        with sll.linearize(0.5):
            mask = x > 0
            count = mask.sum()
            raise KeyError
    except KeyError:
        pass
    changed = sum(before[k] != v for k, v in ids().items())
    console.print(f"overridable functions whose id changed: {changed} of {len(before)}")
    left = vars(mask) | vars(count)
    console.print(f"x > 0 after the region: requires_grad={(x > 0).requires_grad}, attributes left on results: {left}")

    with tempfile.TemporaryDirectory() as folder:
        torch.save({"mask": mask, "count": count}, f"{folder}/saved.pt")
        path = f"{folder}/saved.pt"
        code = f"import sys, torch; sys.modules['sll'] = None; print(torch.load({path!r}, weights_only=True))"
        loaded = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True).stdout.strip()
        console.print("loaded without sll:", loaded)

    def once():
        y = torch.linspace(-1, 1, 64, requires_grad=True)
        with sll.linearize(0.5, forward="hard"):
            m = (y > 0) & (torch.round(y * 3).long() == 1)
            z = torch.where(m, y, -y).sum() + m.sum() / 3
        z.backward()
        return [weakref.ref(t) for t in (y, m, z)]

    refs = [r for _ in range(1000) for r in once()]
    gc.collect()
    console.print(f"tensors alive after 1000 regions: {sum(r() is not None for r in refs)} of {len(refs)}")

    wrong, barrier = [], threading.Barrier(8)

    def work(eps):
        for _ in range(50):
            barrier.wait()
            with sll.linearize(eps):
                t = torch.zeros(1, requires_grad=True)
                barrier.wait()
                (g,) = torch.autograd.grad(torch.sign(t).sum(), t)
            if abs(g.item() * eps - 1) > 1e-6:
                wrong.append(eps)

    threads = [threading.Thread(target=work, args=(0.5**i,)) for i in range(8)]
    [t.start() for t in threads]
    [t.join() for t in threads]
    console.print(f"8 threads x 50 regions, each with its own eps: {len(wrong)} wrong slopes")


PARTS = {
    "headline": headline, "box": box, "line": line, "order": order, "hard": hard, "flips": flips, "left": left_behind,
}  # fmt: skip

if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("parts", nargs="*", default=list(PARTS), metavar="part", help=f"any of {', '.join(PARTS)}")
    warnings.simplefilter("error", sll.LostGradientWarning)
    for part in parser.parse_args().parts:
        console.rule(part)
        PARTS[part]()
