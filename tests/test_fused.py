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
from sll._carry.outcomes import writes_seen
from sll._ops import band, bits, blend, fused, ramp
from sll._ops.ramp import Jump

INF, NAN = math.inf, math.nan

numba = pytest.importorskip("numba")

BOUNDARIES = [
    Jump("boundary", *constants)
    for constants in [
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
QUANTIZERS = [Jump("quantize", -3.0, 2.0, 0.0, 5.0), Jump("quantize", -math.inf, 7.0, 0.0, math.nan)]
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
        soft = blend.blend(band.band_offset(d, eps), below, above, hard.to(dtype).detach())
        want = soft if forward == "linear" else band.hard_forward(hard.to(dtype).detach(), soft)
        got = ramp.ramp(x, jump, eps, forward, threshold)
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


@pytest.mark.parametrize("dtype", [torch.int8, torch.uint8, torch.int32, torch.int64])
@pytest.mark.parametrize("forward", ["linear", "hard", "straight-through"])
@pytest.mark.parametrize("reach", [3.0, 100.0, 300.0, INF, NAN])
def test_a_quantizer_that_clamps_first(forward, dtype, reach):
    """Rounded numbers that all fit into the integers are a step as well; others take the general path."""
    start = torch.randn(5000, generator=torch.Generator().manual_seed(0)).clamp(-3, 3)
    start[:2] = torch.tensor([reach, 2.5])
    results = []
    for trace in (False, True):
        x = start.clone().requires_grad_()
        with sll.linearize(0.1, forward=forward, trace=trace, on_lost="ignore"):
            q = torch.round(x.abs() if dtype == torch.uint8 else x).to(dtype)
            y = q.float() * 0.5 + (q == 1).float() + (q + 1 > 2).float()
        assert q.dtype == dtype
        results.append((q, y.detach(), torch.autograd.grad(y.sum(), x)[0]))
    (q, y, dx), (p, w, dw) = results
    some = slice(0 if math.isfinite(reach) and reach < 127 else 1, None)  # what becomes of others is for C to say
    assert torch.equal(q[some], p[some])
    torch.testing.assert_close(y[some], w[some])
    torch.testing.assert_close(dx[some], dw[some])


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
    "overload": torch.no_grad()(lambda v: torch.ops.aten.add_.Tensor(v.data, 5.0)),
    "packet": torch.no_grad()(lambda v: torch.ops.aten.add_(v.data, 5.0)),
    "embedding": lambda v: torch.nn.functional.embedding(torch.tensor([3]), v.data.view(-1, 1), max_norm=0.01),
    "batch_norm": lambda v: torch.nn.functional.batch_norm(
        torch.randn(4, 9), v.data, torch.ones(9), training=True, momentum=1.0
    ),
    "inference": torch.inference_mode()(lambda v: v.data.add_(5.0)),
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


READS = {
    "relu": torch.relu,
    "F.relu": torch.nn.functional.relu,
    "inplace=False": lambda v: torch.nn.functional.hardtanh(v, inplace=False),
    "dropout": lambda v: torch.nn.functional.dropout(v, 0.5, True),
    "out=None": lambda v: torch.add(v, 1, out=None),
    "normalize": lambda v: torch.nn.functional.normalize(v, dim=0),
    "method": lambda v: v.add(1),
    "operator": lambda v: v + 1,
    "overload": lambda v: torch.ops.aten.add.Tensor(v, 5.0),
    "packet": lambda v: torch.ops.aten.mul(v, v),
}
TWINS = {
    "F.relu": WRITES["inplace=True"],
    "inplace=False": WRITES["inplace"],
    "out=None": WRITES["out="],
    "overload": WRITES["overload"],
    "packet": WRITES["packet"],
}


@pytest.mark.parametrize("name", READS)
def test_what_is_only_read_is_not_copied(name):
    x = torch.linspace(-1, 1, 9).requires_grad_()
    with sll.linearize(0.5):
        v = x.clone()
        key = v.untyped_storage()._cdata  # (asked for later, it would be given to somebody who may write)
        m = v > 0
        for _ in range(2):  # what is known of a function may be remembered
            READS[name](v)
            assert key in writes_seen._WAITING.by_storage
        if name in TWINS:
            TWINS[name](v)
            assert key not in writes_seen._WAITING.by_storage
    assert m.any()


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
        writes_seen._sweep()
        assert sum(map(len, writes_seen._WAITING.by_storage.values())) == 0


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


# --- what was wrong once -------------------------------------------------------------------------------------------


def like_a_trace(f, *start, eps=0.5, forward="linear"):
    """Values and gradients of a region are those of a traced one, which takes no short cuts."""
    found = []
    for trace in (False, True):
        inputs = [x.detach().clone().requires_grad_(x.is_floating_point()) for x in start]
        with sll.linearize(eps, forward=forward, trace=trace, on_lost="ignore"):
            y = f(*inputs)
        wrt = [x for x in inputs if x.requires_grad]
        found.append((y.detach(), *torch.autograd.grad(y.sum(), wrt, allow_unused=True)))
    for a, b in zip(*found):
        torch.testing.assert_close(a, b, rtol=1e-5, atol=1e-6)
    assert any(g is not None and g.any() for g in found[0][1:])
    return found[0]


@pytest.mark.parametrize(
    "f",
    [
        lambda p: (torch.arange(8) > p).float(),
        lambda p: (p < torch.arange(8)).double(),
        lambda p: torch.where(torch.arange(8) > p, 1.0, torch.zeros(8)),
        lambda p: torch.arange(8.0)[None] * (torch.arange(8)[None] <= p[..., None]),
        lambda p: (torch.arange(8) > p).sum() * 1.0,
        lambda p: torch.arange(8.0).masked_fill((torch.arange(8) > p) & (torch.arange(8) < p + 3), 2.0),
    ],
)
def test_integers_compared_with_a_learned_number(f):
    like_a_trace(f, torch.tensor(3.2))


def test_masks_of_equal_decisions_that_show_different_things():
    x = torch.tensor([0.0, math.nan, 1.0], requires_grad=True)
    with sll.linearize(0.1, forward="hard"):
        for m in ((x >= 0) & (x > 0), (x > 0) | (x >= 0), (x > 0) | ~(x <= 0), (x < 0) | (x <= 0), (0 < x) | (x >= 0)):
            assert torch.equal(m.float(), m.detach().float())


@pytest.mark.parametrize("n", [8, 5000])
@pytest.mark.parametrize("forward", ["linear", "hard"])
def test_equal_branches_share_by_weight(n, forward, monkeypatch):
    monkeypatch.setattr(fused, "LEAST", 4096)
    x = torch.full((n,), 0.05, requires_grad=True)
    a, b = (torch.zeros(n, requires_grad=True) for _ in range(2))
    with sll.linearize(0.1, forward=forward):
        y = torch.where(x > 0, a, b)
    da, db = torch.autograd.grad(y.sum(), (a, b))
    want = (0.75, 0.25) if forward == "linear" else (1.0, 0.0)  # values as the program takes them
    torch.testing.assert_close((da[0], db[0]), tuple(map(torch.tensor, want)))


def test_a_constant_that_was_chosen_makes_no_decision():
    for n in (8, 5000):
        x = torch.full((n,), -5.0, requires_grad=True)
        a = torch.full((n,), 9.0, requires_grad=True)
        with sll.linearize(0.2):
            assert (torch.where(x > 0, a, 0.0) > -0.06).float()[0] == 1
            assert torch.where(x > 0, a, 0.45).round()[0] == 0
            assert (a.masked_fill(~(x > 0), 0.0) > -0.06).float()[0] == 1


def test_second_derivatives_of_where(monkeypatch):
    found = []
    for least in (1, 1 << 60):
        monkeypatch.setattr(fused, "LEAST", least)
        x = torch.full((8,), 0.05, dtype=torch.float64, requires_grad=True)
        a = torch.full((8,), 3.0, dtype=torch.float64, requires_grad=True)
        for mask in (lambda x: (x > 0) & (x > 0.02), lambda x: x > 0):
            with sll.linearize(0.1):
                y = torch.where(mask(x), a * x, a * a)
            (g,) = torch.autograd.grad(y.sum(), x, create_graph=True)
            found.append(torch.stack(torch.autograd.grad(g.sum(), (x, a))))
    torch.testing.assert_close(found[:2], found[2:])


@pytest.mark.parametrize("least", [1, 1 << 60])
@pytest.mark.parametrize("forward", ["linear", "hard"])
def test_ties_of_compound_masks(least, forward, monkeypatch):
    """The hard value, and the gradient of the ramp: a decision that is made changes neither."""
    monkeypatch.setattr(fused, "LEAST", least)
    for decided in (lambda x, y: x > 0, lambda x, y: (x > 0) & (y > -5), lambda x, y: (x > 0) | (y > 5)):
        x = torch.zeros(3, requires_grad=True)
        y = torch.full((3,), 0.05, requires_grad=True)
        a, b = torch.full((3,), 3.0, requires_grad=True), torch.ones(3, requires_grad=True)
        with sll.linearize(0.1, forward=forward):
            z = torch.where(decided(x, y), a, b)
        assert z.tolist() == [1.0] * 3
        da, db, dx = torch.autograd.grad(z.sum(), (a, b, x))
        want = (0.5, 0.5, 10.0) if forward == "linear" else (0.0, 1.0, 10.0)
        torch.testing.assert_close((da[0], db[0], dx[0]), tuple(map(torch.tensor, want)))


NESTED = {
    "a decision that ties with itself on one side": lambda x, y, z: (
        (torch.where(x > 0, y, z) >= y).double() * z <= 0.5
    ).double(),
    "and further decisions": lambda x, y, z: (
        (x > 0).double()
        - (((torch.where(x > 0, y, z) >= y).double() * z <= 0.5) ^ (torch.where(x > 0, y, z) > 0)).double() * x
    ),
    "and": lambda x, y, z: ((x >= 0) & (y > 0)).double(),
    "or, chosen": lambda x, y, z: torch.where((x > 0) | (y > 0), z, y),
    "three values": lambda x, y, z: (torch.sign(x).long() * (y > 0).long()).double() * z,
    "three values, summed": lambda x, y, z: (torch.sign(x).long() * (y > 0).long()).sum() * z,
    "three values, compared": lambda x, y, z: torch.where(torch.sign(x).long() + (y > 0).long() > 0, z, y),
    "three values, filled": lambda x, y, z: z.masked_fill(torch.sign(x).long() + (y > 0).long() > 0, 0.25),
}


@pytest.mark.parametrize("forward", ["linear", "hard", "straight-through"])
@pytest.mark.parametrize("f", NESTED.values(), ids=NESTED)
def test_large_tensors_have_what_small_ones_have(f, forward, monkeypatch):
    """Ties of outer and inner decisions included."""
    grid = torch.tensor([-0.7, -0.063, 0.0, 0.1, 0.249, 0.5], dtype=torch.float64)
    found = []
    for least in (1, 1 << 60):
        monkeypatch.setattr(fused, "LEAST", least)
        x, y, z = (t.flatten().clone().requires_grad_() for t in torch.meshgrid(grid, grid, grid, indexing="ij"))
        with sll.linearize(0.4, forward=forward):
            out = f(x, y, z)
        gradients = torch.autograd.grad(out.sum(), (x, y, z), allow_unused=True)
        found.append([out.detach(), *(torch.zeros(x.shape) if g is None else g for g in gradients)])
    for large, small in zip(*found):
        torch.testing.assert_close(large, small, check_dtype=False)


def test_the_order_of_two_decisions_does_not_matter_at_ties():
    """A decision that ties takes its hard side, whether it stands first or last; the other one is blended as ever."""
    x, y = torch.zeros(3, requires_grad=True), torch.full((3,), 0.05, requires_grad=True)
    for f in (lambda a, b: a & b, lambda a, b: b & a):
        with sll.linearize(0.2):
            at_tie, not_taken = f(x >= 0, y > 0), f(x > 0, y > 0)
            found = (
                at_tie.float(),
                torch.where(at_tie, 8.0, 0.0) / 8,
                not_taken.float(),
                torch.where(not_taken, 1.0, 0.0),
            )
        for value, want in zip(found, (0.625, 0.625, 0.0, 0.0)):
            torch.testing.assert_close(value.detach(), torch.full((3,), want))


@pytest.mark.parametrize("least", [1, 1 << 60])
@pytest.mark.parametrize("forward", ["linear", "hard"])
def test_two_open_decisions(least, forward, monkeypatch):
    """ "hard": each alone, the other as the program takes it. "linear": the derivative of the product of two ramps."""
    monkeypatch.setattr(fused, "LEAST", least)
    x, y = (torch.tensor([0.05, -0.03], dtype=torch.float64, requires_grad=True) for _ in range(2))
    with sll.linearize(0.1, forward=forward):
        z = torch.where((x > 0) & (y > 0.01), 5.0, torch.ones(2, dtype=torch.float64))
    got = torch.stack(torch.autograd.grad(z.sum(), (x, y)))
    if forward == "hard":
        other = torch.stack([y > 0.01, x > 0]).double()
    else:
        other = torch.stack([y.detach() - 0.01, x.detach()]) / 0.2 + 0.5
    torch.testing.assert_close(got, 4 / 0.2 * other)
    assert got.any()


def test_masked_fill_refuses_what_torch_refuses():
    x = torch.randn(5000, requires_grad=True)
    with sll.linearize(0.1), pytest.raises(RuntimeError, match="0-dimensional"):
        x.masked_fill(x > 0, torch.tensor([1.0]))


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
def test_half_masks_become_floats_of_full_precision(dtype):
    x = torch.linspace(-1, 1, 300).to(dtype)
    value, _ = like_a_trace(lambda x: (x > 0.011).float(), x, eps=1.0)
    assert (value != value.to(dtype).float()).any()


def test_a_mask_that_is_written_to_afterwards():
    x = torch.linspace(-1, 1, 5000).requires_grad_()
    with sll.linearize(0.1):
        m = x > 0
        y = torch.where(m, torch.ones(5000), torch.zeros(5000))
        m &= False
    assert torch.autograd.grad(y.sum(), x)[0].any()


def test_memory_that_numpy_writes_to():
    for first in (True, False):
        array = np.linspace(-1, 1, 8).astype(np.float32)
        seen, p = torch.from_numpy(array), torch.zeros((), requires_grad=True)
        if not first:
            seen = torch.linspace(-1, 1, 8)
            array = seen.numpy()
        with sll.linearize(0.5):
            m = seen > p
            array[:] = 100.0
            y = m.float()
        assert torch.autograd.grad(y.sum(), p)[0] == -4.0 and 0 < y[3] < 0.5


def test_tensors_can_be_resized_afterwards():
    x = torch.randn(5000, requires_grad=True)
    with sll.linearize(0.1):
        y = torch.round(x)
    y.sum().backward()
    for t in (x.detach(), y.detach(), x.grad):
        assert t.untyped_storage().resizable()


def test_writes_by_a_hook_of_backward():
    x = torch.linspace(-1, 1, 8).requires_grad_()

    def step(p):
        p.data.add_(5)

    x.register_post_accumulate_grad_hook(step)
    with sll.linearize(0.5):
        m = x > 0
        (x * 1).sum().backward()
        y = m.float()
    x.grad = None
    assert 0 < y[3] < 0.5
    y.sum().backward()
    assert x.grad.sum() == 4


def test_writes_while_a_generator_is_suspended():
    for write in (lambda x: x.add_(5), lambda x: x.data.add_(5)):
        x = torch.linspace(-1, 1, 8).requires_grad_()

        @sll.enable(eps=0.5)
        def steps(x=x):
            m = x > 0
            yield None
            yield m.float()

        run = steps()
        next(run)
        with torch.no_grad():
            write(x)
        y = next(run)
        assert 0 < y[3] < 0.5 and torch.autograd.grad(y.sum(), x)[0].sum() == 4


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


def test_strides_of_where():
    for make in (
        lambda: torch.linspace(-1, 1, 5000).view(-1, 4).t(),
        lambda: torch.randn(2, 8, 20, 20).contiguous(memory_format=torch.channels_last),
    ):
        h = make().requires_grad_()
        with sll.linearize(0.5, forward="hard"):
            y = torch.where(h > 0, h, 2 * h)
        assert y.stride() == torch.where(h > 0, h, 2 * h).stride()


def test_dispatch_modes_that_look():
    from torch.utils.flop_counter import FlopCounterMode

    x = torch.linspace(-1, 1, 8).requires_grad_()
    with sll.linearize(0.5), FlopCounterMode(display=False):
        m = x > 0
        x.data.add_(5)
        y = m.float()
    assert 0 < y[3] < 0.5


def test_saved_masks_of_any_layout():
    hooks = torch.autograd.graph.saved_tensors_hooks
    x = torch.randn(5000, requires_grad=True)
    gradients = []
    for context in (
        hooks(lambda t: torch.stack([t, torch.zeros_like(t)], -1), lambda p: p[..., 0]),
        hooks(lambda t: t, lambda t: t),
    ):
        with sll.linearize(0.5), context:
            y = torch.sign(x)
        gradients.append(torch.autograd.grad(y.sum(), x)[0])
    assert torch.equal(*gradients)


def test_a_weight_compared_at_every_step_collects_nothing():
    w = torch.randn(8, requires_grad=True)
    for _ in range(1000):
        with sll.linearize(0.5):
            torch.sign(w)
    assert len(writes_seen._WAITING.by_storage[w.untyped_storage()._cdata]) < 100


def test_zero_of_either_sign():
    x = torch.zeros(5, requires_grad=True)
    for values in (0.0, -0.0, 0.0):
        with sll.linearize(0.1, forward="hard"):
            y = torch.heaviside(x, torch.tensor(values))
        assert torch.equal(torch.signbit(y), torch.full((5,), math.copysign(1, values) < 0))


def test_numba_that_does_not_work(monkeypatch):
    import sys

    fused.available.cache_clear()
    monkeypatch.setitem(sys.modules, "sll._ops.loops", None)  # an import raises
    monkeypatch.delattr(sll._ops, "loops", raising=False)
    try:
        x = torch.randn(5000, requires_grad=True)
        assert not fused.available()
        torch.autograd.grad(sll.sign(x, 0.1).sum(), x)
    finally:
        fused.available.cache_clear()


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
        a.view(-1)[:4] = torch.tensor([INF, -INF, NAN, -0.0], dtype=dtype)
    for mask in (dense, dense.transpose(0, -1).contiguous().transpose(0, -1), dense[..., :1].expand(dense.shape)):
        leaves = [x.clone().requires_grad_(dtype in BITS) for x in (a, b)]
        got, want = bits.pick(mask, *leaves), torch.where(mask, *leaves)
        ints = BITS.get(dtype, dtype)
        assert got.dtype == want.dtype and torch.equal(got.detach().view(ints), want.detach().view(ints))
        if dtype not in (torch.float32, torch.float64):
            continue
        g = torch.randn(want.shape, generator=draw, dtype=dtype)
        g.view(-1)[:2] = INF  # one sum of infinities is as good as another
        for x, y in zip(torch.autograd.grad(got, leaves, g), torch.autograd.grad(want, leaves, g)):
            torch.testing.assert_close(x, y, rtol=1e-4, atol=1e-4, equal_nan=True)


def test_pick_twice_differentiable():
    mask, x = torch.rand(5000) > 0.5, torch.randn(5000, requires_grad=True)
    (once,) = torch.autograd.grad(bits.pick(mask, x**3, x**2).sum(), x, create_graph=True)
    (twice,) = torch.autograd.grad(once.sum(), x)
    torch.testing.assert_close(twice, torch.where(mask, 6 * x.detach(), torch.tensor(2.0)))


def test_pick_under_transforms():
    mask, a = torch.rand(5000) > 0.5, torch.randn(5000)
    assert torch.equal(torch.func.grad(lambda a: bits.pick(mask, a, -a).sum())(a), torch.where(mask, 1.0, -1.0))
    assert torch.equal(torch.func.jvp(lambda a: bits.pick(mask, a, -a), (a,), (a,))[1], torch.where(mask, a, -a))
    batch = torch.stack([mask, ~mask])
    want = torch.where(batch, a, -a)
    assert torch.equal(torch.func.vmap(lambda m: bits.pick(m, a, -a))(batch), want)


# --- decisions that depend on decisions ------------------------------------------------------------------------------


def _feedback(compare):
    def program(x, threshold):
        membrane = torch.zeros_like(x[0])
        total = torch.zeros_like(x[0])
        for now in x.unbind():
            membrane = 0.9 * membrane + now
            spike = compare(membrane, threshold)
            membrane = torch.where(spike, membrane - 0.7, membrane + 0.1 * spike.to(x.dtype))
            total = total + spike.to(x.dtype) * now
        return total

    return program


@pytest.mark.parametrize("n", [7, 5000])
@pytest.mark.parametrize("forward", ["hard", "straight-through"])
@pytest.mark.parametrize("compare", [torch.gt, torch.le, lambda a, b: ~(a > b), lambda a, b: b >= a])
def test_feedback_in_one_pass_is_feedback(compare, forward, n, monkeypatch):
    generator = torch.Generator().manual_seed(3)
    x = torch.randn(8, n, generator=generator, dtype=torch.float64).mul_(2).round_().div_(2)  # (with ties)
    x = torch.cat([x, torch.randn(6, n, generator=generator, dtype=torch.float64)]).requires_grad_()
    threshold = torch.tensor(0.5, dtype=torch.float64, requires_grad=True)
    found = []
    for loops in (True, False):
        if not loops:
            monkeypatch.setattr(blend._Blend, "_at_once", lambda *_: None)
        with sll.linearize(0.3, forward=forward):
            y = _feedback(compare)(x, threshold)
        found.append([y.detach(), *torch.autograd.grad(y.sum(), (x, threshold))])
    assert torch.equal(found[0][0], _feedback(compare)(x.detach(), threshold.detach()))
    assert found[0][1].abs().sum() > 0
    for one, other in zip(*found):
        torch.testing.assert_close(one, other, atol=1e-9, rtol=1e-9)
