"""How much Python a step in a region is: calls made by `sll`, which no other load of the machine changes.

What takes the time of a small program is Python, so this is what makes it slow, and a table to look at before
`benchmarks/perf`. A number that gets smaller is to be written down here; one that grows has to be worth it.
"""

from __future__ import annotations

import sys
from pathlib import Path

import pytest
import torch

import sll

CALLS = {
    # program of 64 numbers: "auto", fixed eps
    "sign": (69, 57),
    "round": (63, 53),
    "floor": (63, 53),
    "ceil": (63, 53),
    "trunc": (61, 51),
    "heaviside": (71, 63),
    "x > 0 to float": (96, 84),
    "long() and back": (102, 96),
    "mask for a log": (79, 63),
    "mask that indexes": (111, 95),
    "where": (133, 121),
    "masked_fill": (126, 114),
    "and, or, not": (430, 394),
    "count compared": (185, 173),
    "quantizer with int8": (170, 160),
    "table lookup": (194, 184),
    "remainder": (54, 61),
    "hardshrink": (67, 59),
    "argmax -> one_hot": (135, 167),
    "top-k mask": (174, 166),
    "vector quantization": (177, 179),
    "Spearman": (367, 358),
}
ROOM = 1.04
"""Versions of Python and PyTorch differ by a call or two."""


def calls_of_sll(step, before=40) -> int:
    """Python and C functions that files of `sll` call, in one step of many."""
    for _ in range(before):  # "auto" has measured and looked, and what is remembered is
        step()
    folder, found = str(Path(sll.__file__).parent), 0

    def count(frame, event, arg):  # (of a C function the frame is that of who calls it)
        nonlocal found
        found += event in ("call", "c_call") and frame.f_code.co_filename.startswith(folder)

    sys.setprofile(count)
    try:
        step()
    finally:
        sys.setprofile(None)
    return found


@pytest.mark.parametrize("name", CALLS)
def test_a_step_makes_no_more_calls_than_before(perf, name):
    from small import AUTO, FIXED, contest
    from small_programs import programs_of

    small = next(program for program in programs_of(64) if program.name == name)
    regions = contest(small, name).regions
    found = tuple(calls_of_sll(regions[row]) for row in (AUTO, FIXED))
    most = tuple(ROOM * limit for limit in CALLS[name])
    assert found[0] <= most[0] and found[1] <= most[1], f"{name}: {found} calls, {CALLS[name]} before"


# --- loops with discrete steps ----------------------------------------------------------------------------------------


def rounds_and_chooses(x, table, steps):
    for _ in range(steps):
        n = torch.floor(x)
        x = torch.where(n > 0, x - 0.1 * n, x + 0.2) * 0.9
    return x


def looks_up(x, table, steps):
    for _ in range(steps):
        x = x * 0.9 + table[(x * 3).long().clamp(0, 15)]
    return x


def remembers(x, table, steps):
    low, high = table[0], table[1]
    on = torch.zeros_like(x, dtype=torch.bool)
    for _ in range(steps):
        on = (on | (x < low)) & ~(x > high)
        x = x * 0.9 + 0.3 * on.float()
    return x


def interpolates(x, table, steps):
    for _ in range(steps):
        i, f = x.floor().long(), x - x.floor()
        x = x * 0.5 + table[i] * (1 - f) + table[i + 1] * f
    return x


def counts(x, table, steps):
    for _ in range(steps):
        x = x * 0.9 + torch.bincount((x * 3).long().clamp(0, 15), minlength=16).float() @ table
    return x


def bins(x, table, steps):
    for _ in range(steps):
        x = x * 0.9 + torch.histc(x, 16, 0.0, 4.0) @ table
    return x


LOOPS = {
    # a step: "auto", fixed eps
    rounds_and_chooses: (453, 248),
    looks_up: (246, 222),
    remembers: (379, 355),
    interpolates: (950, 456),
    counts: (340, 319),
    bins: (218, 145),
}


@pytest.mark.parametrize("program", LOOPS, ids=lambda program: program.__name__)
def test_a_step_of_a_loop_makes_no_more_calls_than_before_however_many_there_are(program):
    found = []
    for region in (sll.linearize("auto"), sll.linearize(0.5, forward="straight-through")):
        x = torch.linspace(0.03, 3.9, 64, requires_grad=True)
        table = torch.linspace(-0.01, 0.01, 16, requires_grad=True)

        def step(many, region=region, x=x, table=table):
            with region:
                loss = program(x, table, many).sum()
            loss.backward()

        # (Of the calls of a line that takes no jump back "auto" looks at every 16th.)
        short, long = (calls_of_sll(lambda many=many: step(many), 12) for many in (16, 48))
        assert long <= ROOM * 3 * short, "the later steps of a loop make more calls"
        found.append((long - short) / 32)
    most = tuple(ROOM * limit for limit in LOOPS[program])
    assert found[0] <= most[0] and found[1] <= most[1], f"{program.__name__}: {found} calls, {LOOPS[program]} before"
