"""Programs that decide in Python, and the line integral over them: shared by `test_paths.py` and `benchmarks/paths.py`.

A program takes two floats in one tensor. It is written as if there were no gradients: nothing in it knows of a region.
"""

from __future__ import annotations

import functools
from collections.abc import Callable
from typing import NamedTuple

import torch
from torch import Tensor, nn
from torch.overrides import TorchFunctionMode


class Program(NamedTuple):
    run: Callable[[Tensor], Tensor]
    start: tuple[float, float] = (-0.55, 0.13)
    end: tuple[float, float] = (1.57, 1.2)


def elif_chain(x):
    if x[0] > 0.3:
        return 2 * x[1] + x[0]
    elif x[1] > 0.61:
        return x[0] ** 2
    return x[0] * x[1]


def early_return(x):
    for i in range(6):
        if x[0] * i > 1.7:
            return x[1] * i + 1
    return x[1]


def while_with_break(x):
    v, k = x[0], 0
    while v > 0.1:
        v, k = v * 0.6, k + 1
        if v * v > 0.52:
            break
    return v + k * x[1]


def recursion(x, depth=0):
    if depth > 6 or x[0] * 0.7**depth < 0.35:
        return x[1] * depth
    return 0.5 * x[0] + recursion(x, depth + 1)


def int_and_range(x):
    total = x[1] * 0
    for i in range(int(5 * x[0])):
        total = total + x[1] * (i + 1)
    return total


def list_index(x):
    table = [1.0, 3.0, -2.0, 7.0, 5.0]
    return table[torch.round(2.5 * x[0] + 0.8).long().clamp(0, 4)] * x[1]


def hysteresis(x):
    on, total = False, x[0] * 0
    for level in (0.6, -0.4, 1.1, 0.3, -0.8):
        signal = x[0] * level
        if on:
            on = not bool(signal < -0.31)
        elif signal > 0.27:
            on = True
        if on:
            total = total + x[1] * level
    return total


def two_tensors(x):
    if x[0] > x[1]:
        return x[0] * 3 - x[1]
    return x[1] * 2


def asked_twice(x):
    a = x[1] * 2 if x[0] > 0.3 else x[1] * 5
    return a * 3 if x[0] > 0.3 else a * 7


def nested_functions(x):
    calls = []

    def step(v):
        calls.append(1)
        if v > 0.4:
            return v - 0.25
        return v * 1.5

    v = x[0]
    for _ in range(3):
        v = step(v) if v > -0.2 else v + 0.1 * x[1]
    return v * x[1] + len(calls)


class Gate(nn.Module):
    """Counts how often it was open."""

    def __init__(self):
        super().__init__()
        self.weight = nn.Parameter(torch.tensor([1.5, -0.4], dtype=torch.float64))
        self.opened = 0

    def forward(self, x):
        if self.weight @ x > 0.7:
            self.opened += 1
            return x[0] * x[1] + 1
        return x.sum() * 0.5


def a_module(x):
    gate = Gate()
    first = gate(x)
    return first + gate(x * 0.6) * gate.opened


def numbers(x):
    count = int((torch.stack([x[0] - 0.2, x[0] - 0.65, x[1] - 0.6]) > 0).sum())
    return x[1] * torch.floor(3 * x[0]).item() + count * x[0] + (x[1] > 0.95).item() * 2.0


def mask_and_if(x):
    mask = x[0] > 0.3
    y = torch.where(mask, x[1], 4.0) if mask else torch.where(mask, 5.0, x[1] * 7)
    return y + 2 * mask.double()


PROGRAMS = {
    run.__name__: Program(run)
    for run in (
        elif_chain, early_return, while_with_break, recursion, int_and_range, list_index, hysteresis, asked_twice,
        nested_functions, a_module, numbers, mask_and_if,
    )
}  # fmt: skip
PROGRAMS["two_tensors"] = Program(two_tensors, (-0.5, 0.9), (1.6, 0.3))


class _Answers(TorchFunctionMode):
    """What the plain program decides."""

    def __init__(self):
        super().__init__()
        self.seen = []

    def __torch_function__(self, func, types, args=(), kwargs=None):
        out = func(*args, **(kwargs or {}))
        if isinstance(out, (bool, int)):
            self.seen.append(out)
        elif isinstance(out, Tensor) and not out.is_floating_point():
            self.seen.append(tuple(out.reshape(-1).tolist()))
        return out


def answers(run, x):
    with torch.no_grad(), _Answers() as mode:
        run(x)
    return mode.seen


def integral(region, program, cells=150, fine=16, near=3, depth=7):
    """The line integral of the gradient in `region`, and what the plain program changes by. Cells in which the plain
    program decides otherwise are divided, with those next to them; there Simpson's rule, halved where it is not enough.
    """
    start, end = (torch.tensor(x, dtype=torch.float64) for x in (program.start, program.end))
    along, run = end - start, region(program.run)
    seen = [answers(program.run, start + i / cells * along) for i in range(cells + 1)]
    rough = {j for i in range(cells) if seen[i] != seen[i + 1] for j in range(i - near, i + near + 1)}

    @functools.cache
    def rate(t):
        x = (start + t * along).requires_grad_()
        y = run(x)
        (slope,) = torch.autograd.grad(y, x) if y.requires_grad else (torch.zeros(2),)
        return float(slope.double() @ along)

    def simpson(a, b):
        return (b - a) / 6 * (rate(a) + 4 * rate((a + b) / 2) + rate(b))

    def halved(a, b, whole, left):
        middle = (a + b) / 2
        below, above = simpson(a, middle), simpson(middle, b)
        if not left or abs(below + above - whole) < 1e-6:
            return below + above
        return halved(a, middle, below, left - 1) + halved(middle, b, above, left - 1)

    edges = [i / cells for i in range(cells)]
    edges += [(i + k / fine) / cells for i in rough if 0 <= i < cells for k in range(1, fine)]
    edges = [*sorted(edges), 1.0]
    total = sum(halved(a, b, simpson(a, b), depth) for a, b in zip(edges, edges[1:]))
    return total, float(program.run(end) - program.run(start))
