"""The loops of numba against stock ops: values, layouts, threads and processes."""

from __future__ import annotations

import math
import multiprocessing
import sys
import threading

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

import sll
from oracles import INTS, ulps
from sll._ops import fused, ramp
from sll._ops.projections import _interval
from steps import HARD, JUMPS, QUANTIZERS, edges

pytestmark = pytest.mark.usefixtures("loops_everywhere")


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
@pytest.mark.parametrize("eps", [1e-3, 0.1, 0.3, 0.5])
@pytest.mark.parametrize("jump", JUMPS + QUANTIZERS, ids=str)
@pytest.mark.parametrize("many", [1, 2])
def test_loops_compute_what_stock_ops_compute(jump, eps, dtype, many, monkeypatch):
    monkeypatch.setattr(fused, "PARALLEL", 0 if many > 1 else 1 << 60)
    threads = torch.get_num_threads()
    torch.set_num_threads(many)
    try:
        x = edges(dtype, eps)
        for threshold in (0.0, 0.5) if jump.kind == "boundary" else (0.0,):
            constants = jump.constants if jump.kind == "quantize" else ()
            if jump.kind == "boundary":
                constants = (threshold, *jump.constants)
            for linear in (True, False):
                value, inside = ramp._step(x.clone(), threshold, jump, eps, linear)
                got, mask = fused.step(jump.kind, x, constants, eps, linear)
                assert torch.equal(mask, inside)
                assert ulps(got, value).max() <= (1 if linear else 0)
                if not linear and jump.kind in HARD:  # the sign of zero, too
                    assert torch.equal(got.view(INTS[dtype]), HARD[jump.kind](x).view(INTS[dtype]))
            g = torch.where(inside, torch.randn_like(x), math.inf)
            slope = 3.7
            assert torch.equal(fused.scale(g, inside, slope), torch.where(inside, g * slope, 0))
    finally:
        torch.set_num_threads(threads)


@settings(max_examples=60, deadline=None)
@given(
    st.lists(st.integers(0, 5), max_size=4),
    st.permutations(range(5)),
    st.sampled_from(["plain", "strided", "expanded", "offset"]),
    st.sampled_from([torch.sign, torch.round, torch.floor, lambda x: (x > 0.3).to(x.dtype)]),
    st.sampled_from([torch.float32, torch.float64]),
)
def test_layouts(shape, order, how, f, dtype):
    x = torch.randn(shape, dtype=dtype)
    if how == "strided" and shape:
        x = torch.randn([2 * shape[0] + 1, *shape[1:]], dtype=dtype)[1::2]
    elif how == "expanded":
        x = torch.randn([1, *shape], dtype=dtype).expand(3, *shape)
    elif how == "offset":
        x = torch.randn(x.numel() + 3, dtype=dtype)[3:].reshape(shape)
    x = x.permute([i for i in order if i < x.dim()]) if x.dim() else x
    x = x.detach().requires_grad_()
    g = torch.randn(x.shape, dtype=dtype).mT if x.dim() > 1 and x.shape[-1] == x.shape[-2] else torch.randn_like(x)
    results = []
    for least in (1, 1 << 60):
        fused.LEAST = least
        with sll.linearize(0.2):
            y = f(x)
        results.append((y.detach(), *torch.autograd.grad(y, x, g)))
    (y, dx), (y2, dx2) = results
    hard = f(x.detach())
    for i, size in enumerate(y.shape):  # (a step along a dimension of one is no step)
        assert size < 2 or not y.numel() or y.stride(i) == y2.stride(i) == hard.stride(i)
    torch.testing.assert_close(y, y2, rtol=1e-6, atol=1e-7)
    assert torch.equal(dx, dx2)


INT8 = torch.int8


def test_tensors_can_be_resized_afterwards():
    x = torch.randn(5000, requires_grad=True)
    with sll.linearize(0.1):
        y = torch.round(x)
    y.sum().backward()
    for t in (x.detach(), y.detach(), x.grad):
        assert t.untyped_storage().resizable()


def test_another_default_device(monkeypatch):
    monkeypatch.setattr(fused, "LEAST", 4096)
    for n in (8, 5000):
        x = torch.randn(n, requires_grad=True)
        one = torch.ones(n)
        with torch.device("meta"), sll.linearize(0.1):
            for y in (
                torch.sign(x),
                (x > 0).float(),
                torch.where(x > 0, one, 0.0),
                x.round().clamp(-2, 2).to(INT8).float(),
            ):
                assert y.device.type == "cpu"
                torch.autograd.grad(y.sum(), x)


def test_numba_that_does_not_work(monkeypatch):
    fused.available.cache_clear()
    monkeypatch.setitem(sys.modules, "sll._ops.loops", None)  # an import raises
    monkeypatch.delattr(sll._ops, "loops", raising=False)
    try:
        x = torch.randn(5000, requires_grad=True)
        assert not fused.available()
        torch.autograd.grad(sll.sign(x, 0.1).sum(), x)
    finally:
        fused.available.cache_clear()


# --- torch.where -----------------------------------------------------------------------------------------------------

SHAPES = [((4096,), (4096,), (4096,)), ((64, 128), (128,), (64, 1)), ((5000, 1), (1, 3), (5000, 3)), ((5000,), (), ())]
SHAPES += [((5000,), (1,), ()), ((1, 8, 700), (8, 1, 1), (3, 1, 1, 1)), ((5000,), (5000,), ()), ((4096, 0), (1,), (1,))]
BITS = {torch.float32: torch.int32, torch.float64: torch.int64, torch.float16: torch.int16}


@pytest.mark.parametrize("loops", [True, False])
@pytest.mark.parametrize("dtype", [*BITS, torch.bool, torch.int64])
@pytest.mark.parametrize("shapes", SHAPES)
def test_pick_is_where(shapes, dtype, loops, monkeypatch):
    monkeypatch.setattr(fused, "available", lambda: loops)
    draw = torch.Generator().manual_seed(0)
    dense = torch.rand(shapes[0], generator=draw) > 0.5
    a, b = (torch.randn(s, generator=draw).mul(3).to(dtype) for s in shapes[1:])
    if dtype in BITS and a.numel() > 100:
        a.view(-1)[:4] = torch.tensor([math.inf, -math.inf, math.nan, -0.0], dtype=dtype)
    for mask in (dense, dense.transpose(0, -1).contiguous().transpose(0, -1), dense[..., :1].expand(dense.shape)):
        leaves = [x.clone().requires_grad_(dtype in BITS) for x in (a, b)]
        got, want = fused.pick(mask, *leaves), torch.where(mask, *leaves)
        ints = BITS.get(dtype, dtype)
        assert got.dtype == want.dtype and torch.equal(got.detach().view(ints), want.detach().view(ints))
        if dtype not in (torch.float32, torch.float64):
            continue
        g = torch.randn(want.shape, generator=draw, dtype=dtype)
        g.view(-1)[:2] = math.inf  # one sum of infinities is as good as another
        for x, y in zip(torch.autograd.grad(got, leaves, g), torch.autograd.grad(want, leaves, g)):
            torch.testing.assert_close(x, y, rtol=1e-4, atol=1e-4, equal_nan=True)


def test_pick_twice_differentiable():
    mask, x = torch.rand(5000) > 0.5, torch.randn(5000, requires_grad=True)
    (once,) = torch.autograd.grad(fused.pick(mask, x**3, x**2).sum(), x, create_graph=True)
    (twice,) = torch.autograd.grad(once.sum(), x)
    torch.testing.assert_close(twice, torch.where(mask, 6 * x.detach(), torch.tensor(2.0)))


def test_pick_under_transforms():
    mask, a = torch.rand(5000) > 0.5, torch.randn(5000)
    assert torch.equal(torch.func.grad(lambda a: fused.pick(mask, a, -a).sum())(a), torch.where(mask, 1.0, -1.0))
    assert torch.equal(torch.func.jvp(lambda a: fused.pick(mask, a, -a), (a,), (a,))[1], torch.where(mask, a, -a))
    batch = torch.stack([mask, ~mask])
    want = torch.where(batch, a, -a)
    assert torch.equal(torch.func.vmap(lambda m: fused.pick(m, a, -a))(batch), want)


# --- threads and processes -----------------------------------------------------------------------------------------


def test_threads(monkeypatch):
    monkeypatch.setattr(fused, "PARALLEL", 0)
    x = torch.linspace(-2, 2, 100_003)
    want = fused.step("round", x, (), 0.1, True)
    failed = []

    def work():
        for _ in range(30):
            value, mask = fused.step("round", x, (), 0.1, True)
            if not torch.equal(value, want[0]) or not torch.equal(mask, want[1]):
                failed.append(value)

    threads = torch.get_num_threads()
    torch.set_num_threads(2)
    try:
        workers = [threading.Thread(target=work) for _ in range(4)]
        for worker in workers:
            worker.start()
        for worker in workers:
            worker.join()
    finally:
        torch.set_num_threads(threads)
    assert not failed


def _in_child(results):
    torch.set_num_threads(2)
    results.put(float(fused.step("round", torch.linspace(-2, 2, 1000), (), 0.1, True)[0].sum()))


@pytest.mark.skipif("fork" not in multiprocessing.get_all_start_methods(), reason="no fork here")
@pytest.mark.filterwarnings("ignore::DeprecationWarning")
def test_a_forked_process_uses_no_threads_of_its_parent(monkeypatch):
    monkeypatch.setattr(fused, "PARALLEL", 0)
    fork = multiprocessing.get_context("fork")
    threads = torch.get_num_threads()
    torch.set_num_threads(2)
    try:
        want = float(fused.step("round", torch.linspace(-2, 2, 1000), (), 0.1, True)[0].sum())
        results = fork.Queue()
        child = fork.Process(target=_in_child, args=(results,))
        child.start()
        assert results.get(timeout=60) == want
        child.join(60)
        assert child.exitcode == 0
    finally:
        torch.set_num_threads(threads)


@pytest.mark.parametrize("many", [1, 2])
@pytest.mark.parametrize("half", [1e-3, 0.05, 0.5, 3.0, 100.0])
@pytest.mark.parametrize("scores", ["spread", "ties", "infinite"])
@pytest.mark.parametrize("n", [8, 64, 1000])
def test_subsets_are_those_that_python_finds(n, scores, half, many, monkeypatch):
    monkeypatch.setattr(fused, "PARALLEL", 0 if many > 1 else 1 << 60)
    generator = torch.Generator().manual_seed(n)
    x, g = torch.randn(2, -(-4096 // n), n, generator=generator)
    if scores == "ties":
        x = (2 * x).round()
    if scores == "infinite":
        x[::3, ::3], x[1::3, ::2], x[2::9, 0] = math.inf, -math.inf, math.inf
    for k in (2, 5, n - 1):
        got = fused.project(x, g, k, half, -half)
        for row, above, out in zip(x[:24].tolist(), g.tolist(), got.tolist()):
            line = sorted(row, reverse=True)
            a, b = (0, 0)
            if abs(line[k - 1]) < math.inf and abs(line[k]) < math.inf:
                sure, finite = line.count(math.inf), [score for score in line if abs(score) < math.inf]
                a, b = (sure + at for at in _interval(finite, k - sure, half))
            inside = [i for i, score in enumerate(row) if b - a > 1 and line[b - 1] <= score <= line[a]]
            mean = sum(above[i] for i in inside) / max(len(inside), 1)
            want = [(mean - above[i]) / half if i in inside else 0.0 for i in range(n)]
            assert out == pytest.approx(want, rel=1e-4, abs=1e-5 / half)


def test_what_the_loops_of_subsets_are_not_for():
    x, g = torch.randn(2, 64, 64)
    assert fused.project(x, g, 2, 1.0, 1.0) is not None
    assert fused.project(x, g.clone().requires_grad_(), 2, 1.0, 1.0) is None
    assert fused.project(x.double(), g.double(), 2, 1.0, 1.0) is None
    assert fused.project(x.reshape(2, -1), g.reshape(2, -1), 2, 1.0, 1.0) is None
