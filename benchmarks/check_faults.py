"""What `sll.check` says: ``python benchmarks/check_faults.py [programs | faults | two] …``.

`programs`  the 185 programs of `tests/programs.py`, "linear" and "hard": verdict `right` (`programs:hard` for one mode)
`faults`    20 programs with a gradient that is wrong on purpose: never `right`
`two`       a simulator and a classifier whose band of 1 is too wide: `wrong here`, by name of the line
"""

from __future__ import annotations

import collections
import linecache
import sys
import time
import warnings
from collections.abc import Callable
from pathlib import Path
from typing import Any, NamedTuple

import torch
from torch import Tensor

import sll

sys.path.insert(0, str(Path(__file__).parent.parent / "tests"))
from programs import PROGRAMS

Y = torch.rand(30, generator=torch.Generator().manual_seed(0), dtype=torch.float64) * 4 - 2
"""What the programs take."""
HEIGHTS = torch.rand(30, generator=torch.Generator().manual_seed(1), dtype=torch.float64) + 0.5
EPS = 0.01


def loss_of(program: Callable[[Tensor], Tensor]) -> Callable[[Tensor], Tensor]:
    """Each element counts by another weight."""
    return lambda x: (program(x) * HEIGHTS[: len(x)]).sum()


# --- a gradient that is wrong on purpose -----------------------------------------------------------------------------


class Fault(NamedTuple):
    """A program, and a region in which its gradient is wrong."""

    program: Callable[[Tensor], Tensor]
    forward: Any = "linear"
    eps: Any = EPS


class _Backward(torch.autograd.Function):
    """Nothing forward; backward another gradient."""

    @staticmethod
    def forward(ctx: Any, x: Tensor, change: Callable[[Tensor], Tensor]) -> Tensor:
        ctx.change = change
        return x.clone()

    @staticmethod
    def backward(ctx: Any, *grads: Tensor) -> Any:
        return ctx.change(grads[0]), None


def changed(x: Tensor, change: Callable[[Tensor], Tensor]) -> Tensor:
    return _Backward.apply(x, change)  # type: ignore[no-any-return, no-untyped-call]


class _Clipped(torch.autograd.Function):
    """A straight-through estimator whose window is fixed, far from where the program decides."""

    @staticmethod
    def forward(ctx: Any, x: Tensor) -> Tensor:
        ctx.save_for_backward(x)
        return (x > 0.3).to(x.dtype)

    @staticmethod
    def backward(ctx: Any, *grads: Tensor) -> Any:
        (x,) = ctx.saved_tensors
        return grads[0] * ((x - 1.5).abs() < 0.1) * 5


def by_number(x: Tensor) -> Tensor:
    return torch.stack([v * 0 + (2.0 if float(v) > 0.3 else -1.0) for v in x])


def by_numpy(x: Tensor) -> Tensor:
    return x * 0 + torch.from_numpy((x.detach().numpy() > 0.3).astype("float64"))


def under_no_grad(x: Tensor) -> Tensor:
    with torch.no_grad():
        mask = x > 0.3
    return torch.where(mask, x + 1.0, -x)


def of_integers(x: Tensor) -> Tensor:
    level = torch.tensor([int(v) for v in torch.round(3 * x)])
    return x * 0.1 + level


def excited(x: Tensor) -> Tensor:
    """Every spike makes the next more likely."""
    v = x
    for i in range(12):
        s = (v > 0.5).to(x.dtype)
        v = 0.9 * v + 0.7 * s - 0.25 + 0.02 * i
    return v


FAULTS = {
    "a detach": Fault(lambda x: torch.where((x > 0.3).detach(), x + 1.0, -x)),
    "a mask made under no_grad": Fault(under_no_grad),
    "a copy of the data": Fault(lambda x: (x.data > 0.3) * 2.0 + 0.1 * x),
    "half of the slope": Fault(lambda x: torch.round(changed(x, lambda g: 0.5 * g))),
    "twice the slope": Fault(lambda x: (changed(x, lambda g: 2 * g) > 0.3) * 1.0),
    "a wrong sign": Fault(lambda x: torch.sign(changed(x, torch.neg))),
    "a wrong sign of one of two": Fault(lambda x: torch.sign(changed(x, torch.neg) - 0.7) + 2.0 * (x > -0.4)),
    "a lost branch": Fault(lambda x: torch.where(x > 0.3, (3 * torch.floor(2 * x)).detach(), x)),
    "a lost `if`": Fault(by_number),
    "a mask through NumPy": Fault(by_numpy),
    "integers of Python": Fault(of_integers),
    "a mask into a custom function": Fault(lambda x: changed((x > 0.3).to(x.dtype), torch.zeros_like) * 2.0 + 0.1 * x),
    "a wrong index": Fault(lambda x: (changed(x, lambda g: g.roll(1)) > 0.3) * 1.0),
    "elements in reverse": Fault(lambda x: torch.round(changed(x, lambda g: g.flip(0)))),
    "a sum for a mean": Fault(lambda x: changed(torch.sign(x), lambda g: g * len(g)) / len(x)),
    "a frozen band": Fault(_Clipped.apply),
    "a gradient clipped": Fault(lambda x: torch.sign(changed(x, lambda g: g.clamp(-1, 1)))),
    "a gradient where nothing changes": Fault(lambda x: changed(x * 0 + (x > 9) * 1.0, lambda g: g) + _leak(x)),
    "a narrow band in front of a wide step": Fault(lambda x: torch.round(10 * torch.sign(x)), "straight-through"),
    "a feedback explosion": Fault(excited, "straight-through", 0.003),
}


def _leak(x: Tensor) -> Tensor:
    return x - x.detach()


# --- two programs whose band is too wide -----------------------------------------------------------------------------

DAYS = 20


def inventory(s: Tensor, S: Tensor) -> Tensor:
    """An (s, S) policy: where the stock is below `s`, it is filled up to `S`. The mean cost of a day."""
    demand = torch.rand(DAYS, generator=torch.Generator().manual_seed(0)) * 20
    stock, cost = torch.tensor(40.0), torch.zeros(())
    for day in range(DAYS):
        stock = stock - demand[day]
        order = stock < s  # the line
        stock = torch.where(order, S, stock)
        cost = cost + 0.5 * torch.relu(stock) + 4.0 * torch.relu(-stock) + 10.0 * order.float()
    return cost / DAYS


_G = torch.Generator().manual_seed(1)
FEATURES = torch.randn(200, 3, generator=_G)
LABELS = (FEATURES @ torch.tensor([1.0, -1.0, 0.5]) + 0.3 * torch.randn(200, generator=_G) > 0.8).float()


def classifier(weight: Tensor, threshold: Tensor) -> Tensor:
    """The F1 loss of probabilities above a threshold."""
    probability = torch.sigmoid(FEATURES @ weight)
    said = (probability > threshold).float()  # the line
    hits = (said * LABELS).sum()
    return 1 - 2 * hits / (said.sum() + LABELS.sum())


TWO: dict[str, tuple[Callable[..., Tensor], tuple[Tensor, ...], Any]] = {
    "inventory": (inventory, (torch.tensor(20.0), torch.tensor(60.0)), "straight-through"),
    "classifier": (classifier, (torch.tensor([3.0, -3.0, 1.5]), torch.tensor(0.6)), "linear"),
}


# --- printed ---------------------------------------------------------------------------------------------------------


def programs(*forwards: str) -> None:
    for forward in forwards or ("linear", "hard"):
        said: collections.Counter[str] = collections.Counter()
        begin = time.process_time()
        for name, program in PROGRAMS.items():
            found = sll.check(loss_of(program), Y[:24] * 1.25, eps=EPS, forward=forward)  # type: ignore[arg-type]
            said[found.verdict.partition(":")[0]] += 1
            if found.verdict != "right":
                of = ", ".join(f"{x.ratio:.3f} ± {x.error:.3f}, {x.why}" for x in found.arguments)
                print(f"    {forward}, {name}: {found.verdict} ({of})", flush=True)
        seconds = (time.process_time() - begin) / len(PROGRAMS)
        print(f"{forward}: {dict(said)}; {seconds:.2f} s each", flush=True)


def faults() -> None:
    wrong = 0
    for name, (program, forward, eps) in FAULTS.items():
        found = sll.check(loss_of(program), Y, eps=eps, forward=forward)
        wrong += found.verdict != "right"
        (x,) = found.arguments
        print(f"{name:40} {found.verdict}; ratio {x.ratio:.3g} ± {x.error:.2g}; {_lines(found)}", flush=True)
    print(f"{wrong} of {len(FAULTS)} are not called right")


def two() -> None:
    for name, (program, args, forward) in TWO.items():
        found = sll.check(program, *args, eps=1.0, forward=forward)
        print(f"{name}: {found}\n    {_lines(found)}\n", flush=True)


def _lines(found: sll.Check) -> str:
    lines = dict.fromkeys((site.file, site.line) for site in found.lines)
    return " | ".join(linecache.getline(*line).strip() for line in lines)


if __name__ == "__main__":
    warnings.simplefilter("ignore")
    for part in sys.argv[1:] or ("programs", "faults", "two"):
        print(f"== {part}", flush=True)
        name, *of = part.split(":")
        globals()[name](*of)
