"""How much Python a step in a region is: calls made by `sll`, which no other load of the machine changes.

What takes the time of a small program is Python, so this is what makes it slow, and a table to look at before
`benchmarks/perf`. A number that gets smaller is to be written down here; one that grows has to be worth it.
"""

from __future__ import annotations

import sys
from pathlib import Path

import pytest

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


def calls_of_sll(step) -> int:
    """Python and C functions that files of `sll` call, in one step of many."""
    for _ in range(40):  # "auto" has measured and looked, and what is remembered is
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
