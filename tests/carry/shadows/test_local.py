"""Oracle 3: ``forward="straight-through"`` shows the plain program's bits and has the local gradients of
`local_reference`, which knows nothing of the engine.
"""

from __future__ import annotations

import functools
from contextlib import nullcontext

import hypothesis.strategies as st
import pytest
import torch
from hypothesis import assume, given, settings

import local_programs
import programs
import sll
from inputs import INTEGER, OPS, tensors
from local_reference import gradient, gradient_in
from oracles import plain, same_bits

DTYPES = [torch.float64, torch.float32, torch.float16, torch.bfloat16]
WIDTHS = {
    torch.float64: [0.0517, 0.2113, 0.5, "auto"],
    torch.float32: [0.2113, "auto"],
    torch.float16: [0.0517, "auto"],
    torch.bfloat16: [0.2113, 0.5],
}
UNITS = {torch.float64: 1e-9, torch.float32: 1e-4, torch.float16: 4e-3, torch.bfloat16: 3.2e-2}  # halves: four ulp


def in_region(f, operands, eps, up=None):
    eps = sll.Auto(steps=0) if eps == "auto" else eps  # (what it remembers: test_auto.py)
    return gradient_in(sll.linearize(eps, forward="straight-through", on_lost="ignore"), f, operands, up)


def close(got, want, unit):
    """Beside its own size each gradient may have that of others: what cancels was rounded before. Where all of them
    cancel, nothing of that size is left: numbers of size 1 were rounded.
    """
    assert got.dtype == want.dtype and got.shape == want.shape
    least = max(torch.finfo(got.dtype).tiny, 4 * torch.finfo(torch.float64).eps)
    got, want = got.double(), want.double()
    finite = want.isfinite()
    size = want[finite].abs().max() if finite.any() else 0.0
    wrong = finite & ~((got - want).abs() <= unit * (want.abs() + 0.2 * size) + least)
    where = [tuple(at) for at in wrong.nonzero()[:5].tolist()]
    assert not wrong.any(), [(at, got[at].item(), want[at].item()) for at in where]


def agree(f, operands, eps, context="", only=None, unit=0.0):
    """Values bit for bit, gradients as the reference has them (`only`: where it says). Returns those of the region."""
    operands = [x.detach() for x in operands]
    want = plain(lambda *_: f(*operands), None)
    up = 0.5 + torch.arange(want.numel()).reshape(want.shape).remainder(9) / 8
    value, found = in_region(f, operands, eps, up)
    assert same_bits(value, want) and (value.stride() == want.stride() or not want.numel()), context
    shown, expected = gradient(f, operands, eps, up)
    assert torch.equal(shown.nan_to_num(7.0), want.nan_to_num(7.0))  # the reference runs the program as it is
    unit = max(unit, *(UNITS[x.dtype] for x in (*operands, want) if x.is_floating_point()))
    for x, a, b in zip(operands, found, expected):
        a, b = (a, b) if only is None else (torch.where(only, g, 0) for g in (a, b))
        try:
            close(a, b, unit)
        except AssertionError as error:
            raise AssertionError(f"{context} eps={eps} {x.dtype}: {error}") from None
    return found


# --- the suite's programs of one variable ----------------------------------------------------------------------------


def points(dtype, wide):
    """All over the place. In wide bands not halfway between two boundaries: which of them is nearest is not defined."""
    x = torch.linspace(-2.37, 2.41, 23, dtype=torch.float64) * 1.0137 + 0.0031
    x = (x if wide else torch.cat([x, torch.tensor([0.0, 0.5, -0.5, 1.5, 0.3, 1.0], dtype=torch.float64)])).to(dtype)
    for scale in (1, 2, 3, 4, 1 / 0.3, 10, 3.7, 1 / 0.7, 1 / 0.8):
        halves = x.double() * scale * 2
        x = x[(halves - halves.round()).abs() > 0.02] if wide else x
    return x


@pytest.mark.parametrize("dtype", DTYPES, ids=lambda d: str(d).removeprefix("torch."))
@pytest.mark.parametrize("name", programs.PROGRAMS)
def test_programs(name, dtype):
    row = programs.ROWS[name]
    if row.unspecified:
        pytest.skip(row.unspecified)
    for eps in WIDTHS[dtype]:
        wide = eps in (0.5, "auto") or row.fine
        unit = UNITS[torch.float32] if row.single else 0.0
        agree(row.program, [points(dtype, wide)], eps, name, unit=unit)


# --- programs of several variables -----------------------------------------------------------------------------------


@pytest.mark.parametrize("dtype", DTYPES, ids=lambda d: str(d).removeprefix("torch."))
@pytest.mark.parametrize("name", local_programs.PROGRAMS)
def test_programs_of_several_variables(name, dtype):
    row = local_programs.ROWS[name]
    for seed, eps in enumerate(WIDTHS[dtype][:1] if row.slow else WIDTHS[dtype]):
        if eps == "auto" and row.takes_back:
            operands = local_programs.operands(name, dtype, seed)
            for a, b in zip(
                in_region(row.program, operands, eps)[1], gradient_in(nullcontext(), row.program, operands)[1]
            ):
                assert b.any() and torch.equal(a, b)
        else:
            agree(row.program, local_programs.operands(name, dtype, seed), eps, name)


def test_the_programs_have_gradients_to_compare():
    """Zeros agree with everything."""
    for name, row in local_programs.ROWS.items():
        zero = set(range(len(row.shapes)))
        for seed in range(3):
            found = gradient(row.program, local_programs.operands(name, torch.float64, seed), "auto")[1]
            zero -= {i for i, g in enumerate(found) if g.any()}
            if not zero:
                break
        assert not zero, name


# --- any shapes, strides, dtypes and values --------------------------------------------------------------------------

WIDE = [1e-3, 0.11, 0.27]
FLOATS = {name: op for name, op in OPS.items() if op.one}
COUNTED = {name: op for name, op in INTEGER.items() if op.one}


def everywhere(op, x, eps, name):
    f = op.run
    try:
        y = plain(f, x.clone())
    except (RuntimeError, IndexError) as error:
        with pytest.raises(type(error)), sll.linearize(eps, forward="straight-through", on_lost="ignore"):
            f(x.detach().clone().requires_grad_())
        return
    with sll.linearize(eps, forward="straight-through", on_lost="ignore"):
        shown = f(x.detach().requires_grad_())
    assert same_bits(shown, y) and (shown.stride() == y.stride() or not y.numel())
    numbers = f if y.is_floating_point() else lambda x: f(x).to(torch.float64)
    agree(numbers, [x], eps, name, x.isfinite() if op.continuous else None)


@pytest.mark.parametrize("name", FLOATS)
@settings(max_examples=10, deadline=None)
@given(x=tensors(), eps=st.sampled_from(WIDE))
def test_ops(name, x, eps):
    op = FLOATS[name]
    if op.ratio:
        assume(bool(((x.abs() > 0.05) & (x.abs() < 100)).all()))
    if op.steps:
        assume(x.dtype in (torch.float64, torch.float32) or not bool((x.abs() > 100).any()))
        eps = min(eps, 0.04) if op.fine else eps  # bands that touch: who is in one is a matter of rounding
    everywhere(op, x, eps, name)


@pytest.mark.parametrize("name", COUNTED)
@settings(max_examples=10, deadline=None)
@given(x=tensors(finite=True), eps=st.sampled_from(WIDE))
def test_integer_ops(name, x, eps):
    everywhere(COUNTED[name], x, eps, name)


BOTH = {
    "gt": lambda x, y: (x > y).to(x.dtype), "where": lambda x, y: torch.where(x > y, x, y),
    "and": lambda x, y: ((x > 0.25) & (y <= 0.25)) * x, "remainder": lambda x, y: torch.remainder(x, y.abs() + 0.6),
    "floor_divide": lambda x, y: torch.floor_divide(x, y.abs() + 0.6), "copysign": torch.copysign,
    "ints": lambda x, y: torch.round(x).int() * torch.floor(y).int() + (x > y).int() * 1.5,
    "lookup": lambda x, y: y[(x > 0.25).long().clamp(max=y.shape[0] - 1)] if y.dim() and y.shape[0] else x,
}  # fmt: skip


@pytest.mark.parametrize("name", BOTH)
@settings(max_examples=8, deadline=None)
@given(x=tensors([torch.float64, torch.float32], finite=True), seed=st.integers(0, 9), eps=st.sampled_from(WIDE))
def test_ops_of_two(name, x, seed, eps):
    y = torch.randn(x.shape, generator=torch.Generator().manual_seed(seed), dtype=torch.float64).to(x.dtype)
    agree(BOTH[name], [x, y], eps, name)
    if x.dim() > 1 and name != "lookup":
        agree(BOTH[name], [x, y[:1]], eps, name)


# --- loops -----------------------------------------------------------------------------------------------------------


def counted(x, steps):
    n = torch.zeros(len(x), dtype=torch.long)
    for k in range(steps):
        n = n + (x > k / steps)
    return n


def stocked(x, steps):
    n = (x * 5).round().long()
    for k in range(steps):
        n = torch.where(n < k % 3, n + 5, n - 1)
    return n


LOOPS = {
    "counted": counted,
    "in place": lambda x, steps: sum(((x > k / steps).long() for k in range(steps)), torch.zeros(len(x)).long()),
    "stocked": stocked,
    "clamped": lambda x, steps: functools.reduce(
        lambda n, k: (n + 1).clamp(max=20) - 1, range(steps), (x * 5).round().long()
    ),
    "moved": lambda x, steps: functools.reduce(lambda n, k: n.roll(1), range(steps), (x * 5).round().long()),
    "masks": lambda x, steps: functools.reduce(lambda m, k: m & (x < 3 + k), range(steps), x > 0),
    "stacked": lambda x, steps: functools.reduce(
        lambda n, k: torch.stack([n, (x > k / steps).long()]).sum(0), range(steps), (x * 5).round().long()
    ),
}


@pytest.mark.parametrize("trace", [False, pytest.param(True, marks=pytest.mark.slow)])
@pytest.mark.parametrize("name", LOOPS)
def test_long_loops_of_masks_and_integers(name, trace):
    """What waits for each other is bounded, as Python's stack is; what is told apart does not double at each step."""
    x = (torch.randn(6, generator=torch.Generator().manual_seed(0), dtype=torch.float64) * 2).requires_grad_()
    with sll.linearize(0.5, forward="straight-through", trace=trace):
        y = LOOPS[name](x, 300)
        z = y.double()
    assert torch.equal(y, LOOPS[name](x.detach(), 300))
    (g,) = torch.autograd.grad(z.sum(), x)
    if name == "counted":
        d = x.detach() - torch.arange(300, dtype=torch.float64)[:, None] / 300
        torch.testing.assert_close(g, (d.abs() <= 0.5).double().sum(0))
