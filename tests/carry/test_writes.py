"""Writes into tensors after they were used: a program that writes in place, and its twin that does not, are the same.

Whatever PyTorch itself allows (autograd refuses a write into what backward needs) is allowed in a region.
"""

from __future__ import annotations

import warnings

import pytest
import torch
from hypothesis import HealthCheck, assume, given, settings
from hypothesis import strategies as st
from torch import library

import sll
from oracles import grads, leaf

MODES = ["linear", "hard", "straight-through"]

USES = {  # of a mask, and of the float that it was computed from
    "float": lambda m, v: v - m.float(),
    "cast": lambda m, v: v - m.to(v.dtype) * 0.5,
    "product": lambda m, v: v * m,
    "sum": lambda m, v: v + m,
    "and": lambda m, v: v + (m & (v > -0.2)).float(),
    "xor": lambda m, v: v - 0.3 * (m ^ (v > 0.1)).float(),
    "integers": lambda m, v: v - m.long().float(),
    "count": lambda m, v: v + m.sum() * 0.01,
    "condition": lambda m, v: torch.where(m.clone(), v - 1, v),
    "lookup": lambda m, v: v - torch.tensor([0.1, 0.7])[m.long()],
    "equal": lambda m, v: v - (m == (v > 0.3)).float(),
    "all": lambda m, v: v - (m | (v < -1)).all().float(),
}
WRITES = {  # in place, and not
    "not": (lambda m, v: m.logical_not_(), lambda m, v: ~m),
    "or": (lambda m, v: m.logical_or_(v > 0.2), lambda m, v: m | (v > 0.2)),
    "xor": (lambda m, v: m.__ixor__(v > 0.0), lambda m, v: m ^ (v > 0.0)),
    "fill": (lambda m, v: m.fill_(True), lambda m, v: torch.ones_like(m)),
    "copy": (lambda m, v: m.copy_(v > 0.3), lambda m, v: v > 0.3),
    "out": (lambda m, v: torch.gt(v, 0.3, out=m), lambda m, v: v > 0.3),
}


def loop(x, uses, writes, in_place):
    v, out = torch.zeros_like(x[0]), 0
    for t in range(len(x)):
        v = 0.9 * v + x[t]
        m = v > 0.4
        before, after = uses[t % len(uses)]
        v = USES[before](m, v)
        write = WRITES[writes[t % len(writes)]]
        if in_place:
            write[0](m, v)
        else:
            m = write[1](m, v)
        v = USES[after](m, v)
        out = out + (t + 1) * v
    return out.sum()


def results(f, x0):
    x = x0.clone().requires_grad_()
    y = f(x)
    return y.detach(), *torch.autograd.grad(y, x)


@given(
    uses=st.lists(st.tuples(st.sampled_from(list(USES)), st.sampled_from(list(USES))), min_size=1, max_size=3),
    writes=st.lists(st.sampled_from(list(WRITES)), min_size=1, max_size=3),
    steps=st.integers(1, 3),
    n=st.sampled_from([1, 5, 37]),
    seed=st.integers(0, 20),
    eps=st.sampled_from([0.3, 0.05, "auto"]),
    forward=st.sampled_from(MODES),
)
@settings(max_examples=150, deadline=None, suppress_health_check=[HealthCheck.filter_too_much])
def test_masks_that_are_written_to(uses, writes, steps, n, seed, eps, forward):
    x = torch.randn(steps, n, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)
    with sll.linearize(eps, forward=forward, on_lost="ignore"):
        want = results(lambda x: loop(x, uses, writes, False), x)
    try:
        results(lambda x: loop(x, uses, writes, True) + 0 * x.sum(), x)
    except RuntimeError:  # PyTorch itself does not allow it
        assume(False)
    with sll.linearize(eps, forward=forward, on_lost="ignore"):
        got = results(lambda x: loop(x, uses, writes, True), x)
    torch.testing.assert_close(got, want)


def carrying(x, write):
    s = (x[0] > 0.4).float()
    u = x[1] + s
    s = s.mul_(2) if write else s * 2
    return (u > 0.1).float() * x[2] + s


def buffer(x, write):
    b = torch.zeros_like(x[0])
    u = (x[0] > 0.4).float() + b
    b = b.add_(1) if write else b + 1
    return ((u - 0.5 + x[1]) > 0.1).float() * x[2] + b * x[3]


def without_gradients(x, write):
    b = torch.zeros_like(x[0])
    u = x[1] - (x[0] > 0.4).float() * 0.5 + b
    with torch.no_grad():
        b = b.add_(1) if write else b + 1
    return (u > 0.1).float() * x[2] + b * x[3]


def through_a_view(x, write):
    b = torch.zeros_like(x[0])
    u = (x[0] > 0.4).float() + b
    if write:
        b[1:].view(-1)[::2].fill_(1)
    else:
        b = torch.tensor([0.0] + [1.0, 0.0] * 20)[: len(b)].to(b.dtype)
    return ((u - 0.5 + x[1]) > 0.1).float() * x[2] + b * x[3]


def twice(x, write):
    s = (x[0] > 0.4).to(x.dtype)  # (what is written in float32 is rounded, and so is what a flip changes in it)
    u, w = x[1] + s, x[2] - s
    s = s.mul_(2) if write else s * 2
    z = u + s
    s = s.add_(x[3]) if write else s + x[3]
    return (u > 0.1).float() * x[2] + (w > 0.1).float() * x[1] + (z > 0.2).float() * x[3] + s


def joined(x, write):
    s = (x[0] > 0.4).float()
    u = torch.cat([s, x[1]])
    s = s.mul_(2) if write else s * 2
    return (u > x[2].repeat(2)).float() * 3 + torch.cat([s, s])


def sides(x, write):
    m, b = x[0] > 0.4, torch.zeros_like(x[0])
    u = torch.where(m, b, 1.0)
    b = b.add_(1) if write else b + 1
    return (u > x[1]).float() * x[2] + b * x[3]


def integers(x, write):
    k = (x[0] > 0.4).long() + (x[1] > 0.1).long()
    u = x[2] * k
    k = k.add_(1) if write else k + 1
    return (u > 0.1).float() * x[2] + k * x[3]


def itself(x, write):
    v = x[0] * (x[1] > 0).float()
    w = v * 1.0
    u = v + 0.1
    if write:
        v.mul_(0.9).add_(x[2])
    else:
        v = v * 0.9 + x[2]
    return (u > 0.2).float() * x[3] + (v > 0.1).float() * x[2] + (w > 0.3).float()


def an_exact_tie(x, write):
    at = torch.cat([x[0, :3] * 0, x[0, 3:]])
    m = at >= 0
    y = torch.where(m.clone(), x[1], x[2])
    k = m.float()
    m = m.logical_not_() if write else ~m
    return y + k * x[2] + m * x[3]


PROGRAMS = [carrying, buffer, without_gradients, through_a_view, twice, joined, sides, integers, itself, an_exact_tie]


@pytest.mark.parametrize("n", [37, 5000])
@pytest.mark.parametrize("forward", MODES)
@pytest.mark.parametrize("f", PROGRAMS)
def test_operands_that_are_written_to(f, forward, n):
    """Between the use of an operand and the decision that depends on it."""
    x = torch.randn(4, n, generator=torch.Generator().manual_seed(0), dtype=torch.float64)
    if f is through_a_view:
        x = x[:, :37]
    with sll.linearize(0.3, forward=forward):
        want = results(lambda x: f(x, False).sum(), x)
        got = results(lambda x: f(x, True).sum(), x)
    torch.testing.assert_close(got, want)
    assert not torch.equal(want[1], results(lambda x: f(x, False).sum() + 0 * x.sum(), x)[1])


def test_a_generator_that_is_suspended():
    """Nobody sees what is written while it is."""

    @sll.enable(eps=0.3)
    def decide(x, b):
        u = (x[0] > 0.4).float() + b
        yield
        yield ((u - 0.5 + x[1]) > 0.1).float() * x[2]

    def run(x, write):
        b = torch.zeros_like(x[0])
        steps = decide(x, b)
        next(steps)
        if write:
            b.add_(1)
        return next(steps).sum()

    x = torch.randn(4, 50, generator=torch.Generator().manual_seed(0))
    torch.testing.assert_close(results(lambda x: run(x, True), x), results(lambda x: run(x, False), x))


@pytest.mark.parametrize("forward", MODES)
def test_writes_that_count_as_no_version(forward):
    """By way of `.data`, twice: each promise has what was there when it was made."""

    def f(x, write):
        b = torch.zeros_like(x[0])
        s, found = (x[0] > 0.4).float(), []
        for step in range(3):
            found.append(s + b)
            if write:
                b.data.add_(0.5)
            else:
                b = torch.full_like(b, (step + 1) * 0.5)
        return sum((u - 0.3 + x[1] > 0.1).float() * x[2] for u in found)

    x = torch.randn(4, 50, generator=torch.Generator().manual_seed(0))
    with sll.linearize(0.3, forward=forward, on_lost="error"):
        want, got = (results(lambda x, write=write: f(x, write).sum(), x) for write in (False, True))
    torch.testing.assert_close(got, want)


def test_one_copy_for_all_who_wait():
    """A buffer that is added in many places, and written to once."""
    copies = []

    class Counting(torch.overrides.TorchFunctionMode):
        def __torch_function__(self, func, types, args=(), kwargs=None):
            if func is torch.Tensor.clone:
                copies.append(args[0])
            return func(*args, **(kwargs or {}))

    x = torch.linspace(-1, 1, 50, requires_grad=True)
    b = torch.zeros(50)
    with Counting(), sll.linearize(0.3):
        s = (x > 0).float()
        kept = [s + b for _ in range(10)]
        del copies[:]
        b.add_(1)
        assert len(copies) <= 2  # (one more is what the rule of in-place functions may make)
        (kept[3] > 0.5).float().sum().backward()
    assert x.grad.any()


def test_memory_that_was_freed():
    """Sharded training frees the memory of parameters, and fills it again."""
    x, w = torch.linspace(-0.3, 0.4, 7, requires_grad=True), torch.full((7,), 0.5)

    def program(write):
        u = (x > 0).float() + w
        if write:
            w.untyped_storage().resize_(0)
            w.untyped_storage().resize_(28)
            w.fill_(7.0)
        return (u > 1).float().sum()

    with sll.linearize(0.3, on_lost="error"):
        want, got = (torch.autograd.grad(program(write), x)[0] for write in (False, True))
    assert want.any() and torch.equal(got, want)


def test_a_write_in_a_transform():
    def program(x, write):
        spike = (x > 0.4).float()
        potential = spike + x * 0.5
        if write:
            spike.mul_(2)
        return ((potential > 0.3).float() * x).sum()

    x = torch.linspace(-0.3, 0.4, 7)
    with sll.linearize(1e-3, on_lost="error"):
        want, got = (torch.func.grad(program)(x, write) for write in (False, True))
    assert want.abs().max() > 10 and torch.equal(got, want)


GIVEN = {  # what becomes outcomes, and how it is written to
    "where": (lambda v: (torch.where(v > 0.3, v * 0.6 - 0.1, v), v), lambda v: v.add_(1)),
    "where, through .data": (lambda v: (torch.where(v > 0.3, v * 0.6 - 0.1, v), v), lambda v: v.data.add_(1)),
    "where, at a mask": (lambda v: (torch.where(v > 0.3, v * 0.6 - 0.1, v), v), lambda v: v.__setitem__(v > 0.2, 7.0)),
    "where, by a mask": (lambda v: (torch.where(v > 0.3, v * 0.6, v), v), lambda v: v.mul_((v > 0.31).double())),
    "where, through a view": (lambda v: (torch.where(v > 0.3, v * 0.6, v), v[3:]), lambda v: v.zero_()),
    "masked_fill": (lambda v: (v.masked_fill(v > 0.3, 0.1), v), lambda v: v.mul_(3)),
    "a view": (lambda v: (torch.where(v > 0.3, v * 0.6 - 0.1, v).view(-1, 3).T.reshape(-1), v), lambda v: v.add_(1)),
    "a part": (lambda v: (torch.where(v > 0.3, v * 0.6 - 0.1, v)[3:], v), lambda v: v.add_(1)),
    "numbers": (lambda v: (torch.where(v > 0.3, n := torch.arange(v.numel()) % 5, n + 2), n), lambda n: n.add_(1)),
    "expanded": (lambda v: (torch.where(v > 0.3, (a := v[:1] * 1).expand(v.shape[0]), v), a), lambda a: a.add_(1)),
}


@pytest.mark.parametrize("forward", MODES)
@pytest.mark.parametrize("name", GIVEN)
def test_outcomes_are_what_they_were_when_asked_for_again(name, forward):
    """A decision on a chosen number works its outcomes out. They were the program's own tensors then, and changed when
    those were written to: wrong gradients, and in "linear" wrong values far from any boundary.
    """
    choose, write_to = GIVEN[name]

    def f(x, write):
        chosen, target = choose(x * 1)
        chosen = chosen.double()
        asked = (chosen > 0.25).double() + torch.floor(chosen * 4)
        if write:
            write_to(target)
        return (asked + 3 * (chosen > 0.28).double() + torch.round(chosen * 3.3 + 0.01)).sum()

    x = torch.rand(600, generator=torch.Generator().manual_seed(0), dtype=torch.float64) * 0.8 + 0.05
    with sll.linearize(0.02, forward=forward):
        (want, slope), (got, found) = (results(lambda x, write=write: f(x, write), x) for write in (False, True))
    assert slope.count_nonzero() > 10
    assert torch.equal(got, want)
    torch.testing.assert_close(found, slope)


@pytest.mark.parametrize("forward", MODES)
def test_what_was_chosen_may_be_written_to(forward):
    """`where` keeps neither of its operands for backward, of which one has outcomes here."""

    def f(x, write):
        v = torch.sign(x) * 0.3 + x
        u = torch.where(x > 0.2, v, x)
        if write:
            v.add_(1)
        return u.sum()

    x = torch.linspace(-0.4, 0.4, 9, dtype=torch.float64)
    with sll.linearize(0.2, forward=forward):
        want, got = (results(lambda x, write=write: f(x, write), x) for write in (False, True))
    torch.testing.assert_close(got, want)


@pytest.mark.parametrize("forward", MODES)
@pytest.mark.parametrize("carries", [False, True])
def test_outcomes_that_were_written_to_unseen(carries, forward):
    x = torch.linspace(-0.4, 0.4, 9, dtype=torch.float64, requires_grad=True)
    with sll.linearize(0.2, forward=forward, on_lost="error"):
        i = (x > 10).long() if carries else torch.zeros(9, dtype=torch.long)
        j = i + 2
        k = torch.where(x > 0, j, i)
        with torch._C.DisableTorchFunction():
            i.add_(5)
            j.add_(5)
        (g,) = torch.autograd.grad((k * k).to(x.dtype).sum(), x)
    assert g.count_nonzero() >= 3
    torch.testing.assert_close(g[g != 0], torch.full_like(g[g != 0], 10.0))


@pytest.mark.parametrize("forward", MODES)
def test_outcomes_in_a_transform_are_what_they_were(forward):
    def program(x, write):
        v = x * 1.0
        u = torch.where(v > 0, v * 0.5 - 0.1, v)
        asked = (u > 0.05).to(x.dtype)
        if write:
            v.add_(1)
        return (asked + (u > 0.02).to(x.dtype) * 2).sum()

    x = torch.linspace(-0.4, 0.4, 9, dtype=torch.float64)
    with sll.linearize(0.2, forward=forward, on_lost="error"):
        want, got = (torch.func.grad(lambda x, write=write: program(x, write))(x) for write in (False, True))
    assert want.count_nonzero() >= 3
    torch.testing.assert_close(got, want)


def _torch_writes(x):
    x.logical_not_() if x.dtype == torch.bool else x.mul_(3)
    return x.double() * 2


def _numpy_writes(x):
    numbers = x.numpy()
    numbers[...] = ~numbers if numbers.dtype == bool else numbers * 3
    return x.double() * 2


_LIBRARY = library.Library("sll_writes", "DEF")
for _name, _written in (("by_torch", _torch_writes), ("by_numpy", _numpy_writes)):
    _LIBRARY.define(f"{_name}(Tensor x) -> Tensor")  # (they say nothing of what they do to x)
    _LIBRARY.impl(_name, _written, "CPU")


with warnings.catch_warnings():
    warnings.simplefilter("ignore", DeprecationWarning)  # of TorchScript as a whole
    scripted = torch.jit.trace(lambda x: x.mul_(3), torch.ones(4))


HEIGHTS = torch.tensor([1.0, 10.0, 100.0, 1000.0], dtype=torch.float64)
AROUND = torch.tensor([-0.5, 0.05, -0.02, 0.5], dtype=torch.float64)


@pytest.mark.filterwarnings("ignore:There is a performance drop")
@pytest.mark.parametrize("dtype", [torch.bool, torch.int64])
@pytest.mark.parametrize("name", ["by_torch", "by_numpy"])
@pytest.mark.parametrize("forward", MODES)
def test_a_custom_op_that_does_not_say_that_it_writes(forward, name, dtype):
    """To what carries a decision: "hard" runs it in each flip, the others say that the gradient ends there."""

    def f(x, op):
        m = (x > 0).to(dtype)
        out = op(m)
        return (out * HEIGHTS).sum() + (m.double() * HEIGHTS).sum() * 1e4

    def spelled_out(m):
        written = ~m if dtype == torch.bool else m * 3
        return written, written.double() * 2

    def wanted(x):
        m, out = spelled_out((x > 0).to(dtype))
        return (out * HEIGHTS).sum() + (m.double() * HEIGHTS).sum() * 1e4

    op = getattr(torch.ops.sll_writes, name)
    x = AROUND.clone().requires_grad_()
    with sll.linearize(0.1, forward=forward, on_lost="ignore") as region:
        got = f(x, op)
    assert torch.equal(got.detach(), wanted(AROUND))
    if forward == "hard":
        with sll.linearize(0.1, forward=forward):
            want = wanted(x)
        torch.testing.assert_close(*(torch.autograd.grad(y, x)[0] for y in (got, want)))
        assert not region.report().lost
    else:
        assert not got.requires_grad
        assert sum(region.report().lost.values()) == 1


@pytest.mark.parametrize("forward", MODES)
def test_torchscript_that_writes_to_what_was_compared(forward):
    def f(x, write):
        v = x * 1
        m = v > 0
        v = scripted(v) if write else v * 3
        return torch.where(m, HEIGHTS, -HEIGHTS).sum() + (v * HEIGHTS).sum()

    with sll.linearize(0.1, forward=forward):
        want = results(lambda x: f(x, False), AROUND)
        got = results(lambda x: f(x, True), AROUND)
    torch.testing.assert_close(got, want)
    assert want[1][1] > 100


@pytest.mark.parametrize("forward", MODES)
def test_torchscript_that_writes_to_what_carries_a_decision(forward):
    """No region sees it: the decision ends, which is said where the tensor is used."""
    x = AROUND.clone().requires_grad_()
    with sll.linearize(0.1, forward=forward, on_lost="error"):
        k = (x > 0).long()
        scripted(k)
        assert k.shape == (4,)
        with pytest.raises(RuntimeError, match="something wrote to it that the region cannot see"):
            k.double()
    with sll.linearize(0.1, forward=forward, on_lost="ignore") as region:
        k = (x > 0).long()
        scripted(k)
        assert torch.equal(k.double(), (AROUND > 0).double() * 3)
    assert sum(region.report().lost.values()) == 1


@pytest.mark.parametrize("forward", ["linear", "hard"])
def test_write_at_a_mask_knows_the_decisions_of_the_target(forward):
    x = leaf(-0.445, dtype=torch.float64)
    with sll.linearize(0.02, forward=forward):
        s = torch.sign(x + 0.45)
        y = s.clone()
        y[s > 0.7] = -0.4
    assert grads(y, x) == pytest.approx([15.0])


@pytest.mark.parametrize("forward", ["straight-through", "hard", "linear"])
def test_one_more_at_a_number(forward):
    """``h[i] += 1`` is a lookup, a sum and a write."""

    def program(x):
        h = torch.zeros(4, dtype=x.dtype)
        h[x.long()] += 1
        return (h * torch.arange(4) ** 2).sum()

    x = torch.tensor(1.98, dtype=torch.float64, requires_grad=True)
    with sll.linearize(0.1, forward=forward, on_lost="error"):
        program(x).backward()
    torch.testing.assert_close(x.grad, torch.tensor((4 - 1) / 0.2, dtype=torch.float64))


@pytest.mark.parametrize("forward", ["straight-through", "hard", "linear"])
@pytest.mark.parametrize("name", ["scatter_add", "index_add", "index_put", "index_put, looked up", "sqrt", "bincount"])
def test_an_infinite_gradient_where_nothing_is_written(name, forward):
    """A bin that is empty has a mean of 0 / 0. No element comes near it."""

    def program(x):
        i = x.long()
        n, zeros = torch.bincount(i, minlength=4), torch.zeros(4, dtype=x.dtype)
        sums = {
            "scatter_add": lambda: zeros.scatter_add(0, i, x),
            "index_add": lambda: zeros.index_add(0, i, x),
            "bincount": lambda: torch.bincount(i, x.detach(), minlength=4).sqrt() + zeros.index_add(0, i, x),
        }
        s = sums.get(name, lambda: zeros.index_put((i,), x, accumulate=True))()
        if name == "sqrt":
            return s.sqrt().sum()
        return (s / n)[i].sum() if "looked" in name else torch.where(n > 0, s / n, 0.0).sum()

    x = torch.tensor([0.5, 0.45, 2.5], dtype=torch.float64, requires_grad=True)
    (want,) = torch.autograd.grad(program(x), x)
    with sll.linearize(0.01, forward=forward, on_lost="error"):
        (found,) = torch.autograd.grad(program(x), x)
    torch.testing.assert_close(found, want)
    assert want.isfinite().all()


# --- who has a view ------------------------------------------------------------------------------------------------


def _each_row(x):
    mask = torch.zeros(2, 3, dtype=torch.bool)
    for i in range(2):
        mask[i] = x > 0
    mask[0] &= x > 0.1
    return mask


def _numbers(x, view):
    count = torch.zeros(3, dtype=torch.int64)
    seen = view(count)
    count[1:] = (x > 0)[1:].long()
    return seen, count.add_(x > 0)


@pytest.mark.parametrize("forward", ["straight-through", "hard", "linear"])
def test_a_first_write_is_told_of_where_somebody_has_a_view(forward):
    views = {
        "none": (lambda x: _numbers(x, lambda count: None), []), "rows": (_each_row, []),
        "a view": (lambda x: _numbers(x, lambda count: count.view(3, 1)), ["views"]),
        "NumPy": (lambda x: _numbers(x, lambda count: count.numpy()), ["views"]),
        "a copy": (lambda x: _numbers(x, lambda count: count[[0, 1]]), []),
    }  # fmt: skip
    for name, (program, why) in views.items():
        x = torch.tensor([0.02, 0.5, -0.03], requires_grad=True)
        with sll.linearize(0.1, forward=forward, on_lost="error") as region:
            program(x)
        assert list(region.report().why.values()) == why, name
