"""The same numbers, rounded twice: an interpolation has the plain program's gradient, however it is spelled."""

from __future__ import annotations

import threading

import hypothesis.strategies as st
import pytest
import torch
from hypothesis import given, settings

import sll

N = 16
STEP = 0.7
PROGRAMS = {}


def program(f):
    PROGRAMS[f.__name__] = f
    return f


def between(i, f, table):
    return table[i] * (1 - f) + table[i + 1] * f


@program
def floor_twice(x, table):
    return between(x.floor().long(), x - x.floor(), table)


@program
def fraction_first(x, table):
    f = x - torch.floor(x)
    return between(torch.floor(x).int(), f, table)


@program
def cast_and_floor(x, table):
    return between(x.long(), x - x.floor(), table)


@program
def cast_and_frac(x, table):
    return between(x.long(), x.frac(), table)


@program
def floor_and_remainder(x, table):
    return between(x.floor().long(), x % 1, table)


@program
def floor_and_ceil(x, table):
    low, high = x.floor(), x.ceil()
    w = x - low
    return table[low.long()] * (1 - w) + table[high.long()] * w


@program
def scaled_each_time(x, table):
    return between((x * 1.5).floor().long(), x * 1.5 - (x * 1.5).floor(), table)


@program
def quotient_and_remainder(x, table):
    return between((x // STEP).long(), (x % STEP) / STEP, table)


@program
def clamped_integers(x, table):
    i = x.floor().long().clamp(1, N - 3)
    return between(i, x - i, table)


@program
def clamped_floats(x, table):
    i = x.floor().clamp(min=1, max=N - 3)
    return between(i.long(), x - i, table)


@program
def bilinear_weights(x, table):
    """The sampler of many spatial transformers."""
    low = torch.floor(x).long()
    high = low + 1
    low, high = torch.clamp(low, 0, N - 1), torch.clamp(high, 0, N - 1)
    return table[low] * (high.to(x.dtype) - x) + table[high] * (x - low.to(x.dtype))


@program
def at_most(x, table):
    i = torch.minimum(x.floor().long(), torch.tensor(N - 2))
    return between(i, x - i, table)


@program
def around_a_circle(x, table):
    h = x % 6
    return between(h.floor().long() % 6, h - h.floor(), table)


@program
def of_two_dimensions(x, table):
    image = table[:, None] * table[None, :]
    at = torch.stack([x, x.flip(0) * 0.9], -1)
    i, f = at.floor().long(), at - at.floor()
    a, b, u, v = i[..., 0], i[..., 1], f[..., 0], f[..., 1]
    top = image[a, b] * (1 - v) + image[a, b + 1] * v
    return top * (1 - u) + (image[a + 1, b] * (1 - v) + image[a + 1, b + 1] * v) * u


@program
def sectors_of_a_wheel(x, table):
    """One table, of what the fraction makes."""
    h = x % 6
    f = h - h.floor()
    of = torch.stack([torch.ones_like(f), 1 - f, torch.zeros_like(f), torch.zeros_like(f), f, torch.ones_like(f)], -1)
    return of.gather(-1, h.floor().long().unsqueeze(-1)).squeeze(-1)


@program
def eased(x, table):
    f = x - x.floor()
    return between(x.floor().long(), f * f * (3 - 2 * f), table)


@program
def part_of_the_rows(x, table):
    return between(x.floor().long()[::2], (x - x.floor())[::2], table)


@program
def cubic(x, table):
    i = x.floor().clamp(1, N - 3).long()
    t = x - i
    a, b, c, d = (table[i + k] for k in (-1, 0, 1, 2))
    return b + (c - a) * t / 2 + (2 * a - 5 * b + 4 * c - d) * t**2 / 2 + (3 * (b - c) + d - a) * t**3 / 2


def gradient(f, x, region=None):
    x, table = x.detach().requires_grad_(), torch.linspace(-2, 3, 24, dtype=x.dtype).sin()
    if region is None:
        y = f(x, table)
    else:
        with region:
            y = f(x, table)
    return torch.autograd.grad(y.square().sum(), x)[0]


@pytest.mark.parametrize("name", PROGRAMS)
def test_interpolations_have_their_own_gradient(name):
    """In every step, also where no more is looked at."""
    generator, region = torch.Generator().manual_seed(0), sll.linearize("auto", on_lost="error")
    for _ in range(40):
        x = torch.rand(30, generator=generator, dtype=torch.float64) * 9 + 0.1
        assert torch.equal(gradient(PROGRAMS[name], x, region), gradient(PROGRAMS[name], x))


@settings(deadline=None, max_examples=60)
@given(
    st.sampled_from(sorted(PROGRAMS)),
    st.sampled_from([torch.float32, torch.float64]),
    st.sampled_from([(0,), (1,), (7,), (3, 4)]),
    st.integers(0, 2**16),
    st.booleans(),
)
def test_of_any_shape(name, dtype, shape, seed, strided):
    x = torch.rand(*shape[:-1], 2 * shape[-1], generator=torch.Generator().manual_seed(seed), dtype=dtype) * 9 + 0.1
    x = x[..., ::2] if strided else x[..., : shape[-1]].contiguous()
    f = PROGRAMS[name]
    assert torch.equal(gradient(f, x, sll.linearize("auto")), gradient(f, x))


def of_rows(f, x):
    table = torch.linspace(-2, 3, 24, dtype=x.dtype).sin()
    return lambda way: way(lambda row: f(row, table).square().sum())(x)


@pytest.mark.parametrize("name", PROGRAMS)
def test_in_transforms(name):
    x = torch.rand(2, 12, generator=torch.Generator().manual_seed(0), dtype=torch.float64) * 9 + 0.1
    with sll.linearize("auto", on_lost="error"):
        found = of_rows(PROGRAMS[name], x)(lambda f: torch.vmap(torch.func.grad(f)))
        leaf = x.clone().requires_grad_()
        of_rows(PROGRAMS[name], leaf)(torch.vmap).sum().backward()
    plain = torch.stack([gradient(PROGRAMS[name], row) for row in x])
    torch.testing.assert_close(found, plain, rtol=1e-12, atol=1e-12)
    torch.testing.assert_close(leaf.grad, plain, rtol=1e-12, atol=1e-12)


@pytest.mark.slow
@pytest.mark.skipif(torch.__version__ < (2, 10), reason="older Dynamo does not trace these modes")
def test_in_compiled_code():
    """What is computed anew each time is not known to be the same there."""
    torch._dynamo.reset()
    programs = [f for name, f in PROGRAMS.items() if name != "scaled_each_time"]
    x = torch.rand(12, generator=torch.Generator().manual_seed(0), dtype=torch.float64) * 9 + 0.1
    each = [x.clone().requires_grad_() for _ in programs]
    table = torch.linspace(-2, 3, 24, dtype=x.dtype).sin()
    run = sll.compile(lambda *each: [f(x, table) for f, x in zip(programs, each)], sll.Auto(1), backend="aot_eager")
    for _ in range(2):
        found = torch.autograd.grad(sum(y.square().sum() for y in run(*each)), each)
    for f, g in zip(programs, found):
        torch.testing.assert_close(g, gradient(f, x), rtol=1e-12, atol=1e-12, msg=f.__name__)


def test_other_numbers_are_another_account():
    """A lookup of one tensor keeps its ramp, whatever happens to another; and so does one in the next step."""

    def program(x, y, table):
        f = y - y.floor()
        return table[x.floor().long()] + f

    table = torch.linspace(0, 1, 12, dtype=torch.float64) ** 2
    x, y = torch.rand(20, dtype=torch.float64) * 9, torch.rand(20, dtype=torch.float64) * 9
    region = sll.linearize("auto")
    for _ in range(3):
        a, b = x.clone().requires_grad_(), y.clone().requires_grad_()
        with region:
            out = program(a, b, table)
        out.sum().backward()
        assert (a.grad != 0).sum() > 15 and torch.equal(b.grad, torch.ones(20, dtype=torch.float64))
        with region:  # another step, the same numbers
            c = x.clone().requires_grad_()
            table[c.floor().long()].sum().backward()
        assert torch.equal(c.grad, a.grad)


def test_other_boundaries_are_another_account():
    """Whole numbers halfway are no floors: a codebook that is looked up by rounding keeps its ramp."""
    table = torch.linspace(0, 1, 12, dtype=torch.float64) ** 2
    x = (torch.rand(20, dtype=torch.float64) * 9).requires_grad_()
    with sll.linearize("auto"):
        (table[x.round().long()] + 0 * (x - x.floor())).sum().backward()
    assert (x.grad != 0).sum() > 15


def test_threads_do_not_share_accounts():
    """What one thread takes back is no matter of another."""
    table, found = torch.linspace(0, 1, 12, dtype=torch.float64) ** 2, {}
    x = torch.rand(20, dtype=torch.float64) * 9
    ready = threading.Barrier(2)

    def run(takes):
        y = x.clone().requires_grad_()
        with sll.linearize("auto"):
            i = y.floor().long()
            ready.wait(10)
            out = between(i, y - y.floor(), table) if takes else table[i] + table[i + 1]
            ready.wait(10)
        found[takes] = torch.autograd.grad(out.sum(), y)[0]

    threads = [threading.Thread(target=run, args=(takes,)) for takes in (True, False)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    y = x.clone().requires_grad_()
    (plain,) = torch.autograd.grad(between(y.detach().long(), y - y.floor(), table).sum(), y)
    assert torch.equal(found[True], plain) and (found[False] != 0).sum() > 15


UNRELATED = {
    "not read": lambda x, t: (t[x.floor().long()] + 0 * x, x.frac())[0],
    "added": lambda x, t: t[x.floor().long()] + 0.1 * (x % 1),
    "subtracted elsewhere": lambda x, t: t[x.floor().long()] + (x - x.ceil()),
    "asked": lambda x, t: (x.floor().long() == 3).double() + 0.1 * x.frac(),
}


@pytest.mark.parametrize("name", UNRELATED)
def test_a_lookup_beside_an_unrelated_sawtooth_keeps_its_ramp(name):
    """What reads one table makes a jump, whatever else the program does with the fraction."""
    x = torch.linspace(0.1, 8.8, 30, dtype=torch.float64)
    with_it = gradient(UNRELATED[name], x, sll.linearize("auto"))
    without = gradient(UNRELATED[name], x)
    assert (with_it != without).sum() >= 7
