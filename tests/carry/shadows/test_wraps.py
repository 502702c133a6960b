"""Jumps that the program takes back. Independent: the plain program's gradient, and that of a width of half a step."""

from __future__ import annotations

import gc
import math
import threading
import weakref

import hypothesis.strategies as st
import pytest
import torch
from hypothesis import given, settings
from torch import Tensor

import sll

PI = math.pi
TABLE = torch.linspace(-2, 3, 64, dtype=torch.float64) ** 3


def gradients(f, *operands, region=None, **options):
    leaves = [x.detach().clone().requires_grad_() for x in operands]
    if region is None:
        y = f(*leaves)
    else:
        with region:
            y = f(*leaves)
    return y.detach(), torch.autograd.grad(y, leaves, weights(y), allow_unused=True, materialize_grads=True, **options)


def weights(y):
    return torch.linspace(0.5, 1.7, y.numel(), dtype=y.dtype).reshape(y.shape)


def auto():
    return sll.linearize("auto", on_lost="ignore")


def same(f, *operands, region=None, of=None):
    """In a region with "auto", `f` has its own bits, and the gradients that it has without (or in `of`)."""
    value, found = gradients(f, *operands, region=region or auto())
    plain, wanted = gradients(f, *operands, region=of)
    assert torch.equal(value, plain)
    for a, b in zip(found, wanted):
        assert torch.equal(a, b), (a, b)
    return found


def numbers(*shape, scale=4.0, seed=0, dtype=torch.float64):
    return torch.randn(shape, generator=torch.Generator().manual_seed(seed), dtype=torch.float64).mul(scale).to(dtype)


# --- a jump that is taken back has no ramp ---------------------------------------------------------------------------


def in_place(d):
    d = d.clone()
    d -= 3.0 * torch.round(d / 3.0)
    return d


def in_place_by_method(d):
    return (d * 1.0).sub_(torch.floor(d).mul(1.0))


def by_hand(d):
    n = torch.round(d / 3)
    shift = -3 * n
    return (d + shift) * d


def unwrapped(d):
    k = torch.round(torch.diff(d) / (2 * PI))
    return d - 2 * PI * torch.cat((torch.zeros(1, dtype=d.dtype), k.cumsum(0)))


def unwrapped_by_remainder(d):
    step = torch.diff(d)
    correction = torch.remainder(step + PI, 2 * PI) - PI - step
    return d + torch.cat((torch.zeros(1, dtype=d.dtype), correction.cumsum(0)))


def parts(d):
    d = d.view(2, -1)
    n = d.floor()
    return d[0] - n[0] + (d[1] - n[1]) * d[0]


KNOTS = torch.tensor([-9.0, -4.0, -1.5, -1.0, 0.2, 0.9, 3.0, 4.5, 9.0], dtype=torch.float64)
HEIGHTS = KNOTS.sin() * 3


def interpolated(d, knots=KNOTS, heights=HEIGHTS):
    """As `numpy.interp`."""
    i = torch.searchsorted(knots, d).clamp(1, len(knots) - 1)
    t = (d - knots[i - 1]) / (knots[i] - knots[i - 1])
    return heights[i - 1] + t * (heights[i] - heights[i - 1])


def interpolated_from_below(d):
    i = torch.bucketize(d, KNOTS, right=True).sub(1).clamp(0, len(KNOTS) - 2)
    slope = HEIGHTS.diff() / KNOTS.diff()
    return HEIGHTS.take(i) + slope.index_select(0, i) * -(KNOTS.gather(0, i) - d)


WRAPS = {
    "round": lambda d: d - 3.0 * torch.round(d / 3.0),
    "round, the other way": lambda d: 3.0 * torch.round(d / 3.0) - d,
    "round, negative": lambda d: d + -3.0 * torch.round(d / 3.0),
    "floor": lambda d: d - 3.0 * torch.floor(d / 3.0 + 0.5),
    "ceil": lambda d: d.ceil() - d,
    "trunc": lambda d: (d - d.trunc()) ** 2,
    "div": lambda d: d - torch.div(d, 0.7, rounding_mode="floor") * 0.7,
    "tensor as a box": lambda d: (
        d - torch.tensor(3.0, dtype=d.dtype) * torch.round(d / torch.tensor(3.0, dtype=d.dtype))
    ),
    "reciprocal": lambda d: d - 3.0 * torch.round(d * (1 / 3.0)),
    "twice": lambda d: (d - d.round()) * (d - d.round()),
    "one rounding, two uses": lambda d: (lambda n: (d - n) * d + (d - n).cos())(d.round()),
    "again": lambda d: (lambda r: r - r.round())(d * 3 - (d * 3).floor()),
    "in place": in_place,
    "in place, by a method": in_place_by_method,
    "added": by_hand,
    "moved": lambda d: (d.view(2, -1).t() - d.view(2, -1).round().t()) ** 2,
    "parts": parts,
    "float of an integer": lambda d: d - d.long().to(d.dtype),
    "integer": lambda d: (d - d.long()) * d,
    "small integers": lambda d: d - d.round().to(torch.int8) * 1.0,
    "unwrapped": unwrapped,
    "unwrapped by remainder": unwrapped_by_remainder,
    "remainder": lambda d: torch.remainder(d + PI, 2 * PI) - PI,
    "percent": lambda d: (d % 1.0).cos(),
    "fmod": lambda d: torch.fmod(d, 1.5) ** 2,
    "frac": lambda d: torch.frac(d) * 3,
    "triangle": lambda d: (d % 2 - 1).abs(),
    "interpolation": lambda d: (lambda n: torch.lerp(TABLE[n.long() + 20], TABLE[n.long() + 21], d - n))(d.floor()),
    "interpolation, between knots": interpolated,
    "interpolation, from below": interpolated_from_below,
    "interpolation, integers": lambda d: (lambda i: TABLE[i + 20] * (i + 1 - d) + TABLE[i + 21] * (d - i))(d.long()),
}


@pytest.mark.parametrize("name", WRAPS)
def test_no_ramp(name):
    for seed in range(3):
        found = same(WRAPS[name], numbers(12, seed=seed))
        assert found[0].any()


@pytest.mark.parametrize("dtype", [torch.float32, torch.float16, torch.bfloat16], ids=str)
def test_other_types(dtype):
    for name in ("round", "in place", "remainder", "float of an integer", "moved"):
        same(WRAPS[name], numbers(12, dtype=dtype))


@pytest.mark.parametrize("name", WRAPS)
def test_with_a_trace(name):
    same(WRAPS[name], numbers(12), region=sll.linearize("auto", on_lost="ignore", trace=True))


def test_floor_division():
    """Without a region torch has no derivative of it."""
    value, (found,) = gradients(lambda d: d - d // 0.7 * 0.7, numbers(12), region=auto())
    assert torch.equal(found, weights(value))


def test_learned_knots_and_heights():
    found = same(interpolated, numbers(12), KNOTS, HEIGHTS)
    assert all(x.any() for x in found)


def test_interpolation_goes_on_when_its_width_is_kept():
    region = auto()
    for seed in range(15):
        same(interpolated, numbers(12, seed=seed), region=region)


def floor_of_knots(d):
    """A quantizer, and how far it is from what it quantized."""
    q = KNOTS[torch.searchsorted(KNOTS, d) - 1]
    return q * q.detach() + (d - q) ** 2 / 4


def bins(d):
    i = torch.searchsorted(KNOTS, d)
    return HEIGHTS[i] * HEIGHTS[i - 1]


@pytest.mark.parametrize("f", [floor_of_knots, bins], ids=lambda f: f.__name__)
def test_what_is_no_interpolation_keeps_its_ramp(f):
    x, memory = numbers(12), sll.Auto(steps=1)
    region = sll.linearize(memory, on_lost="ignore")
    (_, (first,)), (_, (found,)) = gradients(f, x, region=region), gradients(f, x, region=region)
    fixed = sll.linearize(*memory.remembered.values(), forward="straight-through", on_lost="ignore")
    _, (wanted,) = gradients(f, x, region=fixed)
    torch.testing.assert_close(found, wanted)
    torch.testing.assert_close(first, wanted)
    plain = gradients(f, x)[1][0] if f is floor_of_knots else torch.zeros_like(x)
    assert (found - plain).abs().max() > 0.1


def test_a_learned_box():
    same(lambda d, box: d - box * torch.round(d / box), numbers(12), torch.tensor(2.5, dtype=torch.float64))


@settings(max_examples=60, deadline=None)
@given(st.data())
def test_moves_and_factors(data):
    """The same moves of both sides, and any factors."""
    shape = data.draw(st.sampled_from([(12,), (3, 4), (2, 3, 2), (1,), (), (0, 3)]))
    moves = [lambda t: t.flip(0), lambda t: t.reshape(-1), lambda t: t[..., :2], lambda t: t.unsqueeze(0), torch.clone]
    chosen = data.draw(st.lists(st.sampled_from(moves), max_size=3)) if shape else []
    box = data.draw(st.floats(0.3, 5.0))

    def f(d):
        n = torch.round(d / box) * box
        for move in chosen:
            d, n = move(d), move(n)
        return (d - n) * d

    same(f, numbers(*shape))


def test_second_derivatives_and_second_backward():
    x = numbers(6).requires_grad_()
    f = lambda d: ((d - 2 * torch.round(d / 2)) ** 3).sum()
    with auto():
        y = f(x)
    first = torch.autograd.grad(y, x, create_graph=True, retain_graph=True)[0]
    again = torch.autograd.grad(y, x, retain_graph=True)[0]
    second = torch.autograd.grad(first.sum(), x)[0]
    wanted = torch.autograd.grad(f(x), x, create_graph=True)[0]
    assert torch.equal(first, wanted) and torch.equal(again, wanted)
    assert torch.equal(second, torch.autograd.grad(wanted.sum(), x)[0])


def test_many_gradients_at_once():
    x = numbers(4).requires_grad_()
    f = lambda d: (d - d.round()) * d
    with auto():
        y = f(x)
    rows = torch.eye(4, dtype=x.dtype)
    found = torch.autograd.grad(y, x, rows, is_grads_batched=True)[0]
    assert torch.equal(found, torch.autograd.grad(f(x), x, rows, is_grads_batched=True)[0])


def test_a_report_says_why():
    x = numbers(6).requires_grad_()
    with sll.linearize("auto", trace=True) as region:
        y = x - x.round()
        (y % 1 + y).sum().backward()
    rows = region.report().rows
    assert [row.status for row in rows] == ["no gradient arrives"] * 2
    assert "subtracts" in rows[0].verdict and "sawtooth" in rows[1].verdict


# --- what is no such program is as it was ----------------------------------------------------------------------------


def sigma_delta(x):
    error, out = torch.zeros((), dtype=x.dtype), []
    for value in x:
        u = value + error
        q = torch.round(u)
        error = u - q
        out.append(q)
    return torch.stack(out)


def residual(x):
    first = torch.round(x)
    return first + torch.round((x - first) * 8) / 8


STEPS = {
    "round": torch.round,
    "quantizer": lambda x: torch.round(x / 0.25).clamp(-8, 7) * 0.25,
    "sigma delta": sigma_delta,
    "residual": residual,
    "rounded, and its error": lambda x: (lambda q: q + (x - q) ** 2)(x.round()),
    "fake quantization, and its error": lambda x: (lambda q: q + (x - q) ** 2)(x.round().to(torch.int8).to(x.dtype)),
    "of a neighbour": lambda x: x[1:] - x[:-1].round(),
    "of others": lambda x: x.flip(0) - x.round(),
    "added": lambda x: x + torch.round(x),
    "of something else": lambda x: x.sin() - x.round(),
    "index": lambda x: TABLE[x.round().long() + 30],
    "index of a cast": lambda x: TABLE[x.long() + 30],
}


@pytest.mark.parametrize("name", STEPS)
def test_a_ramp(name):
    found = same(STEPS[name], numbers(12), of=sll.linearize(0.5, forward="straight-through", on_lost="ignore"))
    assert found[0].any()


QUANTIZERS = {
    "percent": lambda x: x - x % 0.5,
    "frac": lambda x: x - torch.frac(x),
    "fmod": lambda x: x - torch.fmod(x, 0.5),
    "negative": lambda x: torch.frac(x) - x,
    "floor of floor": lambda x: (x - x % 1) * 2,
}


@pytest.mark.parametrize("name", QUANTIZERS)
def test_a_number_without_its_sawtooth_is_rounded(name):
    """Straight-through: as if the rounded number were the number."""
    found = gradients(QUANTIZERS[name], numbers(12), region=auto())
    factor = {"negative": -1.0, "floor of floor": 2.0}.get(name, 1.0)
    assert torch.equal(found[1][0], factor * weights(found[0]))


def test_a_width_of_ones_own_is_the_formula():
    x = torch.tensor([0.45, 1.2], dtype=torch.float64)
    with_ramp = gradients(lambda d: d - d.round(), x, region=sll.linearize(0.1, forward="straight-through"))[1][0]
    assert with_ramp.tolist() == pytest.approx([0.5 * (1 - 5), 1.7])


# --- how long a line is looked at ------------------------------------------------------------------------------------


def test_a_line_that_takes_back_does_so_at_each_call():
    region = auto()
    for seed in range(50):
        same(WRAPS["round"], numbers(6, seed=seed), region=region)


def test_a_line_that_never_takes_back_is_no_longer_looked_at():
    region, x = auto(), numbers(6).requires_grad_()

    def carried():
        with region:
            return getattr(torch.round(x) * 0.3, "_sll", None)

    def many():
        return [carried() is not None for _ in range(40)]

    looked_at = many()
    assert looked_at[0] and not looked_at[-1]


@pytest.mark.parametrize("name", ["round", "percent", "integer"])
def test_a_line_that_takes_back_later_is_found_out(name):
    """A branch of a program that is taken after many steps."""
    jump, region, found = (
        {"round": torch.round, "percent": lambda d: d % 1.0, "integer": lambda d: d.long()},
        auto(),
        [],
    )
    for step in range(80):
        x = numbers(5, seed=step).requires_grad_()
        with region:
            n = jump[name](x)
            y = x - n if step >= 40 else n * 1.5
        found.append(torch.autograd.grad(y.sum(), x)[0].sum().item())
    assert found[60:] == [5.0] * 20


def test_a_number_without_its_sawtooth_is_rounded_at_each_call():
    region = auto()
    for seed in range(50):
        value, (found,) = gradients(QUANTIZERS["percent"], numbers(6, seed=seed), region=region)
        assert torch.equal(found, weights(value))


# --- where plain autograd is not all there is ------------------------------------------------------------------------

EVERYWHERE = {**WRAPS, **STEPS, **QUANTIZERS}


def loss(f):
    return lambda d: (lambda y: (y * weights(y)).sum())(f(d))


def over_rows(f, d, dim=0):
    d = d.movedim(0, dim).clone().requires_grad_()
    y = torch.vmap(loss(f), in_dims=dim)(d)
    return torch.autograd.grad(y.sum(), d)[0].movedim(dim, 0)


TRANSFORMED = {
    "grad": lambda f, d: torch.stack([torch.func.grad(loss(f))(row) for row in d]),
    "vmap of grad": lambda f, d: torch.vmap(torch.func.grad(loss(f)))(d),
    "grad of vmap": lambda f, d: torch.func.grad(lambda d: torch.vmap(loss(f))(d).sum())(d),
    "vmap": over_rows,
    "vmap over columns": lambda f, d: over_rows(f, d, 1),
    "jacrev": lambda f, d: torch.stack([torch.func.jacrev(loss(f))(row) for row in d]),
}


@pytest.mark.parametrize("way", TRANSFORMED)
@pytest.mark.parametrize("name", EVERYWHERE)
def test_in_transforms(name, way):
    f, rows = EVERYWHERE[name], numbers(2, 12, seed=3)
    with auto():
        found = TRANSFORMED[way](f, rows)
    for row, one in zip(rows, found):
        torch.testing.assert_close(one, gradients(f, row, region=auto())[1][0], rtol=1e-12, atol=1e-12)


@pytest.mark.parametrize("name", ["round", "remainder", "in place", "interpolation"])
def test_second_derivatives_in_transforms(name):
    f, x = loss(lambda d: WRAPS[name](d) ** 2), numbers(4)
    plain = torch.func.hessian(f)(x)
    with auto():
        torch.testing.assert_close(torch.func.jacrev(torch.func.jacrev(f))(x), plain, rtol=1e-12, atol=1e-12)
        rows = torch.vmap(torch.func.grad(lambda d: torch.func.grad(f)(d).sum()))(x.expand(2, 4))
    torch.testing.assert_close(rows[1], plain.sum(0), rtol=1e-12, atol=1e-12)


def all_of(names):
    return lambda *each: [EVERYWHERE[name](d) for name, d in zip(names, each)]


def in_compiled_code(names, dtype=torch.float64, backend="aot_eager"):
    torch._dynamo.reset()
    f, auto_of_one_step, found = all_of(names), sll.Auto(steps=1), []
    compiled = sll.compile(f, auto_of_one_step, on_lost="ignore", backend=backend, fullgraph=True)
    for run in (compiled, auto()(f)):
        for step in range(2):
            each = [numbers(12, seed=step, dtype=dtype).requires_grad_() for _ in names]
            out = run(*each)
        found.append((out, torch.autograd.grad(sum((y * weights(y)).sum() for y in out), each)))
    for name, y, want_y, g, want in zip(names, found[0][0], found[1][0], found[0][1], found[1][1]):
        assert torch.equal(y, want_y), name
        torch.testing.assert_close(g, want, rtol=1e-5 if dtype is torch.float32 else 1e-12, atol=1e-5, msg=name)


COMPILED = [
    "round",
    "in place",
    "parts",
    "percent",
    "integer",
    "interpolation, between knots",
    "residual",
    "floor of floor",
]
needs_new_dynamo = pytest.mark.skipif(torch.__version__ < (2, 10), reason="older Dynamo does not trace these modes")


@needs_new_dynamo
def test_in_compiled_code():
    in_compiled_code(COMPILED)


@needs_new_dynamo
@pytest.mark.slow
def test_all_in_compiled_code():
    in_compiled_code(list(EVERYWHERE))


@needs_new_dynamo
@pytest.mark.slow
def test_in_compiled_kernels():
    in_compiled_code(["round", "parts", "percent", "integer"], torch.float32, backend="inductor")


@needs_new_dynamo
def test_a_branch_that_is_compiled_later_is_looked_at():
    @torch.compile(backend="aot_eager")
    def f(d, back):
        return d - d.round() if back else d.round() * 1.5

    region = auto()
    torch._dynamo.reset()
    for seed in range(45):
        gradients(lambda d: f(d, False), numbers(6, seed=seed), region=region)
    _, (found,) = gradients(lambda d: f(d, True), numbers(6), region=region)
    assert torch.equal(found, weights(found))


def test_in_threads():
    region, wrong = auto(), []

    def work(seed):
        try:
            for i in range(20):
                same(WRAPS["twice"], numbers(8, seed=seed + i), region=region)
        except AssertionError as error:
            wrong.append(error)

    threads = [threading.Thread(target=work, args=(100 * i,)) for i in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert not wrong


@pytest.mark.parametrize(
    "name", ["round", "one rounding, two uses", "interpolation", "interpolation, integers", "percent"]
)
def test_no_cycle_keeps_tensors_alive(name):
    region, refs = auto(), []
    gc.collect()
    gc.disable()
    try:
        for seed in range(5):
            x = numbers(12, seed=seed).requires_grad_()
            with region:
                y = WRAPS[name](x).sum()
            y.backward()
            refs += [weakref.ref(x), weakref.ref(y)]
            del x, y
        assert not any(ref() is not None for ref in refs)
    finally:
        gc.enable()


def test_nothing_is_left_on_results():
    x = numbers(6).requires_grad_()
    with auto():
        y: Tensor = x - x.round()
        n = x.round() * 0.3
    assert getattr(y, "_sll", None) is None and getattr(n, "_sll", None) is None
