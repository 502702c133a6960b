"""Steps in one pass: the loops of numba against stock ops, and both against what a region did before it had them."""

from __future__ import annotations

import gc
import math
import multiprocessing
import threading
import weakref

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

import sll
from sll import fused, kernels, sites
from sll.kernels import Jump

numba = pytest.importorskip("numba")

BOUNDARIES = [
    Jump("boundary", *numbers)
    for numbers in [
        (0.0, 1.0, 0.0, 0.0),  # >
        (0.0, 1.0, 1.0, 0.0),  # >=
        (1.0, 0.0, 0.0, 0.0),  # <
        (1.0, 0.0, 1.0, 0.0),  # <=
        (1.0, 0.0, 1.0, 1.0),  # not >
        (1.0, 0.0, 0.0, 1.0),  # not >=
        (0.0, 1.0, 1.0, 1.0),  # not <
        (0.0, 1.0, 0.0, 1.0),  # not <=
        (-1.0, 1.0, 0.0, 0.0),  # sign
        (0.0, 1.0, 0.5, 0.0),  # heaviside
        (0.0, 1.0, 7.0, 0.0),
    ]
]
QUANTIZERS = [Jump("quantize", -3.0, 2.0, zero, nan) for zero, nan in ((0.0, 5.0), (-0.0, math.nan))]
QUANTIZERS.append(Jump("quantize", -math.inf, 7.0, -0.0, math.nan))
JUMPS = BOUNDARIES + [Jump(kind) for kind in ("round", "floor", "ceil", "trunc")]
INTS = {torch.float32: torch.int32, torch.float64: torch.int64}
HARD = {"round": torch.round, "floor": torch.floor, "ceil": torch.ceil, "trunc": torch.trunc}


@pytest.fixture(autouse=True)
def small(monkeypatch):
    """Loops from the first element on, one thread or several."""
    monkeypatch.setattr(fused, "LEAST", 1)


def edges(dtype, eps):
    """Where things go wrong: at boundaries, at both ends of bands and one rounding error beside them; numbers that are
    large, tiny, or none.
    """
    at = torch.tensor([0.0, 0.5, -0.5, 1.0, -1.0, 1.5, 2.5, -2.5, 7.0], dtype=torch.float64)
    at = torch.cat([at, at + eps, at - eps]).to(dtype)
    up, down = (torch.nextafter(at, torch.tensor(side, dtype=dtype)) for side in (math.inf, -math.inf))
    odd = [-0.0, 1e-45, -1e-45, 1e-310, 2.0**22 + 0.5, 2.0**23 + 1, 2.0**24 + 2, -(2.0**23) - 1, 2.0**52 + 1, 3e38]
    odd += [-3e38, math.inf, -math.inf, math.nan]
    some = torch.randn(512, generator=torch.Generator().manual_seed(0), dtype=torch.float64) * 3
    return torch.cat([at, up, down, torch.tensor(odd, dtype=dtype), some.to(dtype)])


def ulps(a, b):
    """How many floats apart; equal numbers (0 and -0) and two NaNs are not."""
    bits = INTS[a.dtype]
    apart = (a.view(bits) - b.view(bits)).abs()
    return torch.where((a == b) | (a.isnan() & b.isnan()), 0, apart)


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
            numbers = jump[1:] if jump.kind == "quantize" else ()
            if jump.kind == "boundary":
                numbers = (threshold, *jump[1:])
            for linear in (True, False):
                value, inside = kernels._step(x.clone(), threshold, jump, eps, linear)
                got, mask = fused.step(jump.kind, x, numbers, eps, linear)
                assert torch.equal(mask, inside)
                assert ulps(got, value).max() <= (1 if linear else 0)
                if not linear and jump.kind in HARD:  # the sign of zero, too
                    assert torch.equal(got.view(INTS[dtype]), HARD[jump.kind](x).view(INTS[dtype]))
            g = torch.where(inside, torch.randn_like(x), math.inf)
            slope = 3.7
            assert torch.equal(fused.scale(g, inside, slope), torch.where(inside, g * slope, 0))
    finally:
        torch.set_num_threads(threads)


@pytest.mark.parametrize("loops", [True, False])
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
@pytest.mark.parametrize("eps", [1e-3, 0.1, 0.5])
@pytest.mark.parametrize("jump", JUMPS, ids=str)
def test_one_pass_is_the_blend_of_two_outcomes(jump, eps, dtype, loops, monkeypatch):
    """`ramp` against `band_offset` and `blend`, which everything else is made of."""
    monkeypatch.setattr(fused, "available", lambda: loops)
    x = edges(dtype, eps).requires_grad_()
    g = torch.randn(x.shape, dtype=dtype, generator=torch.Generator().manual_seed(1))
    threshold = 0.5 if jump.kind == "boundary" else 0.0
    if jump.kind == "boundary":
        d = x - threshold
        below, above = (torch.full_like(x, side).detach() for side in (jump.below, jump.above))
        hard = torch.where(d > 0, above, torch.where(d < 0, below, torch.where(d == 0, jump.at_tie, jump.at_nan)))
    else:
        n = x.detach().floor() if jump.kind == "round" else x.detach().round()
        d = (x - n) - (0.5 if jump.kind == "round" else 0.0)
        hard = HARD[jump.kind](x.detach())
        low = {"round": n, "floor": n - 1, "ceil": n, "trunc": n - (n > 0).to(dtype)}[jump.kind]
        below, above = low, low + 1
        if jump.kind == "trunc":
            above = torch.where(n == 0, below, above)
    for forward in ("linear", "hard"):
        want = kernels.blend(kernels.band_offset(d, eps), below, above, hard.to(dtype).detach(), forward)
        got = kernels.ramp(x, jump, eps, forward, threshold)
        zero_at_tie = jump.kind == "trunc"  # where nothing jumps the hard value keeps its sign
        distance = ulps(got.detach(), want.detach())
        near = torch.finfo(dtype).eps * 2 * (1 + want.detach().abs())
        assert ((distance <= 1) | ((got - want).abs() <= near)).all(), (x[distance > 1], got[distance > 1])
        assert zero_at_tie or torch.equal(got.isnan(), want.isnan())
        (dx,) = torch.autograd.grad(got, x, g)
        (dw,) = torch.autograd.grad(want, x, g)
        # One rounding error beside a band the two may differ in which element is in it; nowhere else.
        edge = (d.detach().abs() - eps).abs() <= 4 * torch.finfo(dtype).eps * (1 + x.detach().abs())
        torch.testing.assert_close(dx[~edge], dw[~edge], rtol=1e-5 if dtype == torch.float32 else 1e-14, atol=0)


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


@pytest.mark.parametrize("loops", [True, False])
@pytest.mark.parametrize("eps", [0.1, 0.5, "auto"])
@pytest.mark.parametrize("forward", ["linear", "hard", "straight-through"])
@pytest.mark.parametrize(
    "f",
    [
        lambda z: z.round().clamp(-7, 7).to(INT8).to(z.dtype),
        lambda z: torch.clip(torch.round(z), min=-3, max=2).char().float() * 2 + z,
        lambda z: z.round().clamp_min(0).clamp_max(4).byte().double(),
        lambda z: (z.round().clamp(-7, 7).to(INT8) * 3).to(torch.float32),
        lambda z: z.round().clamp(-7, 7).to(INT8)[3:].float(),
        lambda z: torch.where(z.round().clamp(-7, 7).to(INT8) == 2, 5.0, z),
        lambda z: torch.tensor([1.0, 4.0, -2.0, 0.5])[z.round().clamp(0, 3).long()],
        lambda z: (z.round().clamp(-7, 7).to(INT8).float() > 1.5).float(),
        lambda z: z.round().clamp(-7, 7.5).to(INT8).float(),
        lambda z: z.round().clamp(-7, 300).to(torch.int16).to(torch.float32),
        lambda z: z.round().clamp(-7, 7).to(INT8).sum().float(),
        lambda z: (z.round().clamp(-7, 7) + 1).to(INT8).float(),
    ],
)
def test_quantizers_are_what_the_outcomes_say(f, forward, eps, loops, monkeypatch):
    """A trace asks for outcomes everywhere: it takes none of the short cuts."""
    monkeypatch.setattr(fused, "available", lambda: loops)
    some = torch.randn(300, generator=torch.Generator().manual_seed(0)) * 4
    start = torch.cat([some, torch.tensor([3.5, 7.5, -7.5, -7.4, 7.45, 7.2, 2.5, -0.2, 0.0, 100.0, -100.0])])
    results = []
    for trace in (False, True):
        z = start.clone().requires_grad_()
        with sll.linearize(eps, forward=forward, trace=trace, on_lost="ignore"):
            y = f(z)
        g = torch.randn(y.shape, dtype=y.dtype, generator=torch.Generator().manual_seed(1))
        results.append((y.detach(), torch.autograd.grad(y, z, g)[0]))
    (y, dz), (want, dw) = results
    assert torch.equal(y, want) if forward != "linear" else ulps(y, want).max() <= 1
    torch.testing.assert_close(dz, dw, rtol=1e-6, atol=1e-6)
    assert forward == "linear" or torch.equal(y, f(start))


def test_a_quantizer_after_a_write():
    x = torch.randn(500, requires_grad=True)
    with sll.linearize(0.1):
        want = x.round().clamp(-2, 2).to(INT8).float()
        for write in ("the input", "the float", "the integers"):
            z = x.clone()
            y = z.round().clamp(-2, 2)
            q = y.to(INT8)
            if write == "the input":
                z.add_(1)
            elif write == "the float":
                y.detach().add_(1)
            else:
                q = q.clone()
                q.add_(0)
            got = q.float()
            torch.testing.assert_close(got, want)
            for a, b in zip(torch.autograd.grad(got.sum(), x), torch.autograd.grad(want.sum(), x, retain_graph=True)):
                torch.testing.assert_close(a, b)


def test_saves_a_mask_and_nothing_else():
    saved = []
    x = torch.randn(5000, requires_grad=True)
    t = torch.tensor(0.5, requires_grad=True)
    with torch.autograd.graph.saved_tensors_hooks(lambda t: saved.append((t.dtype, t.numel())) or t, lambda t: t):
        for f in (torch.sign, torch.round, lambda x: (x > 0.2).float(), lambda x: (~(t >= x)).double()):
            with sll.linearize(0.1):
                f(x)
    assert saved == [(torch.bool, 5000)] * 4


@pytest.mark.parametrize("loops", [True, False])
def test_derivatives_of_derivatives_and_batches(loops, monkeypatch):
    monkeypatch.setattr(fused, "available", lambda: loops)
    x = torch.linspace(-1.93, 2.01, 40, dtype=torch.float64).requires_grad_()
    t = torch.tensor(0.3, dtype=torch.float64, requires_grad=True)
    for f in (lambda x, t: sll.threshold(x, t, 0.2) * x, lambda x, t: sll.round(x, 0.2) * x * t):
        assert torch.autograd.gradcheck(f, (x, t), check_batched_grad=True)
        assert torch.autograd.gradgradcheck(f, (x, t), check_batched_grad=True)


def test_gradient_of_a_learned_threshold_has_its_shape():
    x = torch.randn(100, requires_grad=True)
    for shape in ((), (1,), (1, 1), (100,), (3, 1)):
        t = torch.zeros(shape, requires_grad=True)
        with sll.linearize(0.5):
            y = (x > t).float()
        dx, dt = torch.autograd.grad(y.sum(), (x, t))
        assert dt.shape == t.shape
        torch.testing.assert_close(dt.sum(), -dx.sum())


# --- distances that wait -------------------------------------------------------------------------------------------


def wanted(x):
    with sll.linearize(0.5):
        m = x > 0
        return torch.where(m, 3.0, -1.0), torch.autograd.grad(torch.where(m, 3.0, -1.0).sum(), x)[0]


WRITES = {
    "add_": lambda v: v.add_(1),
    "+=": lambda v: v.__iadd__(1),
    "v[0] =": lambda v: v.__setitem__(0, 5.0),
    "view": lambda v: v.view(-1)[2:].zero_(),
    "detach": lambda v: v.detach().mul_(3),
    "data": lambda v: v.data.mul_(3),
    "data =": lambda v: setattr(v, "data", torch.ones(9)),
    "no_grad": torch.no_grad()(lambda v: v.clamp_(min=0.1)),
    "out=": lambda v: torch.add(v.detach(), 1, out=v.detach()),
    "foreach": torch.no_grad()(lambda v: torch._foreach_add_([v], 1)),
    "inplace=True": lambda v: torch.nn.functional.relu(v, inplace=True),
    "inplace": lambda v: torch.nn.functional.hardtanh(v, 0.0, 0.1, True),
    "numpy": lambda v: np.add(v.detach().numpy(), 1, out=v.detach().numpy()),
    "sign_": lambda v: v.sign_(),
    "init": lambda v: torch.nn.init.normal_(v.detach()),
}


@pytest.mark.parametrize("where", ["in the region", "in the block that is hard", "in a region inside"])
@pytest.mark.parametrize("name", WRITES)
def test_a_write_after_the_decision_changes_nothing(name, where):
    x = torch.linspace(-1, 1, 9).requires_grad_()
    value, gradient = wanted(x)
    inner = {"in the block that is hard": sll.hard(), "in a region inside": sll.linearize(0.1)}.get(where)
    with sll.linearize(0.5):
        v = x.clone()
        m = v > 0
        y = torch.floor(v)
        if inner is None:
            WRITES[name](v)
        else:
            with inner:
                WRITES[name](v)
        z = torch.where(m, 3.0, -1.0)
        again = y > -0.5
        w = again.float()
    torch.testing.assert_close(z, value)
    torch.testing.assert_close(torch.autograd.grad(z.sum(), x, retain_graph=True)[0], gradient)
    with sll.linearize(0.5):
        unwritten = (torch.floor(x) > -0.5).float()
    torch.testing.assert_close(torch.autograd.grad(w.sum(), x)[0], torch.autograd.grad(unwritten.sum(), x)[0])


def test_a_float_made_of_a_mask_after_a_write_is_that_of_the_mask():
    x = torch.linspace(-1, 1, 5001).requires_grad_()
    with sll.linearize(0.5):
        v = x.clone()
        m = v > 0.1
        v.add_(10)
        y = m.float()
    (dx,) = torch.autograd.grad(y.sum(), x)
    with sll.linearize(0.5):
        want = (x > 0.1).float()
    torch.testing.assert_close(y, want)
    torch.testing.assert_close(dx, torch.autograd.grad(want.sum(), x)[0])


def test_infinite_thresholds_after_a_write():
    x = torch.tensor([math.inf, -math.inf, 1.0, math.nan]).requires_grad_()
    for t in (math.inf, -math.inf, torch.tensor(math.inf), torch.tensor([math.inf, -math.inf, 1.0, 1.0])):
        for compare in (torch.ge, torch.le, torch.gt, torch.lt):
            with sll.linearize(0.5, forward="hard"):
                v = x.clone()
                m = compare(v, t)
                v.mul_(2)
                assert torch.equal(m.float(), compare(x.detach(), t).float())
                assert torch.equal((~m).float(), 1 - compare(x.detach(), t).float())


def test_nothing_waits_for_ever():
    x = torch.randn(10, requires_grad=True)
    with sll.linearize(0.1):
        for _ in range(2000):
            v = x + 1
            m = v > 0
        del m, v
        gc.collect()
        sites._sweep()
        assert sum(map(len, sites._WAITING.by_storage.values())) == 0


@pytest.mark.parametrize("forward", ["linear", "hard", "straight-through"])
@pytest.mark.parametrize(
    "f",
    [
        torch.sign,
        torch.round,
        torch.trunc,
        lambda x: x > 0,
        lambda x: (x > 0).float(),
        lambda x: torch.where((x > 0) & (x < 1), x, 0.0),
        lambda x: torch.where(torch.sign(x) > 0, x, 0.0),
        lambda x: torch.round(x).long(),
        lambda x: x.long().float(),
    ],
)
def test_no_cycles_keep_memory(f, forward):
    gc.collect()
    gc.disable()
    try:
        with sll.linearize(0.1, forward=forward):
            x = torch.randn(50, requires_grad=True) * 2
            y = f(x)
            made = weakref.ref(x.untyped_storage()), weakref.ref(x)
            del x, y
        assert made[1]() is None
    finally:
        gc.enable()


def test_a_decision_asked_for_without_gradients_still_has_one():
    x = torch.linspace(-1, 1, 9).requires_grad_()
    with sll.linearize(0.5, on_lost="ignore"):
        m = x > 0
        with torch.no_grad():
            m.nonzero()
        with sll.hard():
            m.nonzero()
        y = torch.where(m, 3.0, -1.0)
    assert torch.autograd.grad(y.sum(), x)[0].any()


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
