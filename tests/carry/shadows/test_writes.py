"""Writes between a decision and its use, in the formulas of windows by hand."""

from __future__ import annotations

import pytest
import torch
from torch import library

import sll
from local_by_hand import EPS, check, gradients, step, tensors
from local_slopes import T, worked_out

LIBRARY = library.Library("local_limits", "DEF")
LIBRARY.define("scribble(Tensor x) -> Tensor")  # it writes, and does not say so


@library.impl(LIBRARY, "scribble", "CompositeExplicitAutograd")
def scribble(x):
    x.detach().mul_(3.0)
    return x.new_zeros(())


WRITES = {
    "in place": lambda t: t.mul_(3.0),
    "item": lambda t: t.__setitem__(0, 7.0),
    "copy": lambda t: t.copy_(torch.full_like(t, -2.0)),
    "data": lambda t: t.data.mul_(3.0),
    "detach": lambda t: t.detach().zero_(),
    "numpy": lambda t: t.detach().numpy().fill(5.0),
    "view": lambda t: t[1:].neg_(),
    "custom op": lambda t: torch.ops.local_limits.scribble(t),
    "foreach": lambda t: torch._foreach_mul_([t.detach()], 2.0),
    "random": lambda t: t.detach().uniform_(-9, 9),
}


@pytest.mark.parametrize("write", WRITES)
def test_writes_to_what_was_compared(write):
    (x,) = tensors((9,))

    def program(x):
        y = x * 1.0
        m, n, r = y > 0, torch.floor(y * 5).long(), (y * 2).sign()
        WRITES[write](y)
        return torch.where(m, 5.0, 2.0) + n.double() + r

    def by_hand(x):
        off = x.detach() * 5 - (x.detach() * 5).round()
        floor = torch.where(off.abs() <= EPS, x * 5 / (2 * EPS), 0.0)
        return 3 * step(x) + floor + 2 * step(2 * x)

    with sll.linearize(EPS, forward="straight-through"):
        (g,) = gradients(program, [x])
    (want,) = gradients(by_hand, [x])
    torch.testing.assert_close(g, want)


@pytest.mark.parametrize("write", WRITES)
def test_writes_to_tables_and_branches(write):
    x, a, b, t = tensors((9,), (9,), (9,), (12,))

    def program(x):
        table, left, right = t.clone(), a.clone(), b.clone()
        n = torch.round(x * 4).long() + 5
        n.clamp_(0, 11)
        y = table[n] + torch.where(x > 0, left, right) + table.gather(0, n)
        for each in (table, left, right):
            WRITES[write](each)
        return y

    def by_hand(x):
        n = torch.round(x * 4) + 5
        frac = x * 4 - (x * 4).floor() - 0.5
        other = (2 * (x * 4).floor() + 1 - torch.round(x * 4) + 5).clamp(0, 11).long()
        slope = (t[other] - t[n.clamp(0, 11).long()]) / (other - n.clamp(0, 11)).where(other != n.clamp(0, 11), 1.0)
        inside = (frac.abs() <= EPS) & (n >= 0) & (n <= 11)
        return inside * slope * 2 * 4 / (2 * EPS) + (x.abs() <= EPS) * (a - b) / (2 * EPS)

    with sll.linearize(EPS, forward="straight-through"):
        (g,) = gradients(program, [x])
    torch.testing.assert_close(g, by_hand(x))


def test_writes_to_masks_and_counts():
    """A mask that is written to is another: what was done with it stays done."""
    (x,) = tensors((9,))

    def program(x):
        m = x > 0
        y = m.double() * 3
        m.logical_not_()
        z = m.double()
        m.zero_()
        return y + z + m.double()

    check(program, lambda x: 3 * step(x) + (1 - step(x)), [x])


# --- worked out by hand --------------------------------------------------------------------------------------------

RULES = [
    (
        "copied into a buffer",
        lambda x, y: torch.zeros(2).double().copy_(torch.stack([x > 0, y > 0])) @ T[:2],
        (0.1, 0.1),
        (10, 2),
    ),
]


@pytest.mark.parametrize(("f", "values", "wanted"), [row[1:] for row in RULES], ids=[row[0] for row in RULES])
def test_rule(f, values, wanted):
    worked_out(f, values, wanted)
