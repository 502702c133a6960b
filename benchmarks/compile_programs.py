"""Every program of the oracle suite, compiled: values and gradients against eager mode.

    python benchmarks/compile_programs.py                                   # inductor, forward="linear"
    python benchmarks/compile_programs.py --forward hard --backend aot_eager
    python benchmarks/compile_programs.py --eps auto --backend aot_eager --every 6
    python benchmarks/compile_programs.py --mode max-autotune-no-cudagraphs --every 10
    python benchmarks/compile_programs.py --way compile --forward straight-through --dtype float32

``fullgraph=True``, several programs in one compiled function (that saves time); programs that are refused as a full
graph are compiled with graph breaks, each on its own. Prints the largest difference, absolute or relative to eager.
"""

from __future__ import annotations

import argparse
import sys
import time
import warnings
from collections.abc import Callable, Sequence
from pathlib import Path

import torch
from rich.console import Console
from rich.progress import track
from torch import Tensor

import sll

sys.path.insert(0, str(Path(__file__).parent.parent / "tests"))
from programs import PROGRAMS, ROWS

Program = Callable[[Tensor], Tensor]


def results(
    functions: Sequence[Program], run: Callable[..., Sequence[Tensor]], dtype: torch.dtype = torch.float64
) -> list[Tensor]:
    """Value and gradient of each; each has an input of its own, so that one backward pass tells them apart."""
    points = torch.linspace(-2.4, 2.4, 97, dtype=dtype) + 0.0031  # on no edge: rounding decides there
    inputs = [points.clone().requires_grad_() for _ in functions]
    outputs = run(functions, inputs)
    total = torch.stack([y.sum().to(dtype) for y in outputs]).sum()
    gradients = torch.autograd.grad(total, inputs, allow_unused=True) if total.requires_grad else [None] * len(inputs)
    found = []
    for x, y, g in zip(inputs, outputs, gradients):
        found += [y.detach(), torch.zeros_like(x) if g is None else g]
    return found


def width(text: str) -> sll.Policy | float | str:
    """What ``--eps`` names: a number, a share of the decisions (``30%``), or ``auto``."""
    if text == "auto":
        return text
    return sll.Coverage(float(text[:-1]) / 100) if text.endswith("%") else float(text)


def difference(a: Sequence[Tensor], b: Sequence[Tensor]) -> float:
    return max(float(((p - q).abs() / q.abs().clamp(min=1)).max()) for p, q in zip(a, b))


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--backend", default="inductor")
    parser.add_argument("--mode", default=None)
    parser.add_argument("--forward", default="linear", choices=("linear", "hard", "straight-through"))
    parser.add_argument("--eps", type=width, default=0.1, help="a number, a share of the decisions (30%%), or auto")
    parser.add_argument("--every", type=int, default=1, help="take each so-many-th program")
    parser.add_argument("--way", default="inside", choices=("inside", "compile"), help="region inside, or sll.compile")
    parser.add_argument("--dtype", default="float64", choices=("float32", "float64"))
    parser.add_argument("--dynamic", action="store_true", help="compile for all sizes")
    parser.add_argument("--together", type=int, default=12, help="programs in one compiled function")
    options = parser.parse_args()
    warnings.simplefilter("ignore")
    console = Console()

    def run(functions: Sequence[Program], inputs: Sequence[Tensor]) -> list[Tensor]:
        with sll.linearize(options.eps, forward=options.forward):
            return [f(x) for f, x in zip(functions, inputs)]

    def plain(functions: Sequence[Program], inputs: Sequence[Tensor]) -> list[Tensor]:
        return [f(x) for f, x in zip(functions, inputs)]

    def compiled(fullgraph: bool) -> Callable[..., Sequence[Tensor]]:
        torch._dynamo.reset()
        if options.way == "compile":
            return sll.compile(plain, options.eps, forward=options.forward, fullgraph=fullgraph, **how)
        return torch.compile(run, fullgraph=fullgraph, **how)

    def measured(names: Sequence[str], run: Callable[..., Sequence[Tensor]]) -> list[Tensor]:
        return results([PROGRAMS[name] for name in names], run, getattr(torch, options.dtype))

    how = {"backend": options.backend, "mode": options.mode, "dynamic": options.dynamic or None}
    start = time.perf_counter()
    names = list(PROGRAMS)[:: options.every]
    groups = [names[i : i + options.together] for i in range(0, len(names), options.together)]
    worst: dict[str, float] = {}
    broken: list[str] = []
    failed: dict[str, str] = {}
    for group in track(groups, "compiling"):
        try:
            want = measured(group, run)
            got = measured(group, compiled(True))
            for i, name in enumerate(group):
                worst[name] = difference(got[2 * i : 2 * i + 2], want[2 * i : 2 * i + 2])
        except Exception:  # which one was it?
            for name in group:
                want = measured([name], run)
                try:
                    try:
                        worst[name] = difference(measured([name], compiled(True)), want)
                    except (torch._dynamo.exc.Unsupported, RuntimeError):
                        worst[name] = difference(measured([name], compiled(False)), want)
                        broken.append(name)
                except Exception as error:
                    failed[name] = " ".join(f"{type(error).__name__}: {error}".split())[:300]

    bound = 1e-12 if options.dtype == "float64" else 1e-6
    equal = [name for name, d in worst.items() if d <= bound]
    console.print(
        f"backend={options.backend}, mode={options.mode}, dynamic={options.dynamic}, {options.forward}, "
        f"eps={options.eps}, {options.dtype}, {options.way}"
    )
    largest = max((worst[name] for name in equal), default=0.0)
    console.print(f"{len(equal)} of {len(names)} agree with eager mode to {bound:g}; largest difference {largest:.1e}")
    console.print(f"refused with fullgraph=True, equal with graph breaks: {', '.join(broken) or 'none'}")
    console.print(f"different: {', '.join(f'{n} ({worst[n]:.1g})' for n in worst if n not in equal) or 'none'}")
    for name, error in failed.items():
        console.print(f"fails: {name}: {error}", markup=False)
    console.print(f"{time.perf_counter() - start:.0f} s")
    raise SystemExit(bool(failed or [name for name in set(worst) - set(equal) if ROWS[name].compiled]))


if __name__ == "__main__":
    main()
