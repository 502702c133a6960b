"""Regions under `torch.compile`: the values and gradients of eager mode, or an error, or a graph break.

A sample of the programs; `benchmarks/compile_programs.py` compiles all of them, with inductor.
"""

from __future__ import annotations

import contextlib
import copy
import io
import shutil
import warnings

import pytest
import torch
import torch.nn.functional as F
from torch import library, nn
from torch.utils.checkpoint import checkpoint

import sll
from compatibility import row
from programs import PROGRAMS

pytestmark = pytest.mark.skipif(torch.__version__ < (2, 10), reason="older Dynamo does not trace these modes")

AREA = "torch.compile"
BACKEND = "aot_eager"
SAMPLE = [
    "headline", "quantize_int8", "and_where", "floor_long_table", "mod_sign", "nested_threshold", "in_place_chain",
    "write_at_mask", "one_hot", "vote", "cumsum_masks", "rule_system", "split_stack", "shape_round_trip",
    "floor_divide", "masked_fill_both", "permuted_ints", "embedding", "argmax_embedding", "argmax_table", "sort_lookup",
    "floor_div_int", "topk_mask", "rank_table", "searchsorted",
]  # fmt: skip


REGIONS_INSIDE = ["headline", "quantize_int8", "and_where", "floor_long_table"]


@pytest.fixture(autouse=True)
def fresh_dynamo():
    torch._dynamo.reset()


def gradients(f, x0):
    x = x0.clone().requires_grad_()
    y = f(x)
    return y.detach(), torch.autograd.grad(y.sum(), x)[0]


def in_turn(name, programs):
    """All three ways for the first, then one each: a graph takes seconds."""
    i = list(programs).index(name)
    return {i % 3} if i else {0, 1, 2}


def line(n=97):
    return torch.linspace(-2.4, 2.4, n, dtype=torch.float64)


def equal(got, want):
    torch.testing.assert_close(got, want, rtol=1e-9, atol=1e-9)


@row(AREA, "region around the call of a compiled function, `fullgraph=True`", "works")
@pytest.mark.slow
@pytest.mark.parametrize("name", SAMPLE)
def test_region_outside(name):
    f = PROGRAMS[name]
    for forward in ("straight-through",) if SAMPLE.index(name) % 2 else ("straight-through", "linear"):
        torch._dynamo.reset()
        compiled = torch.compile(lambda x: f(x), fullgraph=True, backend=BACKEND)
        with sll.linearize(0.1, forward=forward):
            equal(gradients(compiled, line()), gradients(f, line()))


def test_another_version_of_dynamo_leaves_it_to_eager_mode(monkeypatch):
    """What is private to Dynamo may be gone: then the graph breaks where a region is on, and values are right."""
    from sll._mode import dynamo

    def gone():
        raise AttributeError("no current_tx")

    monkeypatch.setattr(dynamo, "_translator", gone)
    f = PROGRAMS["headline"]
    with sll.linearize(0.1):
        equal(gradients(torch.compile(lambda x: f(x), backend=BACKEND), line()), gradients(f, line()))
    with sll.linearize(0.1), pytest.raises(Exception, match="do not know how this version"):
        torch.compile(lambda x: f(x), backend=BACKEND, fullgraph=True)(line().requires_grad_())


@row(
    AREA,
    '`forward="hard"`: its flips are not compiled',
    "works",
    "what Dynamo captures runs in eager mode; `fullgraph=True` is refused",
)
@pytest.mark.slow
@pytest.mark.parametrize("name", SAMPLE[::3])
def test_hard_values_are_left_to_eager_mode(name):
    f = PROGRAMS[name]
    compiled = torch.compile(lambda x: f(x), backend=BACKEND)
    whole = torch.compile(lambda x: f(x), fullgraph=True, backend=BACKEND)
    with sll.linearize(0.1, forward="hard"):
        for _ in range(2):  # (also what is there already)
            got = gradients(compiled, line())
            equal(got, gradients(f, line()))
            assert torch.equal(got[0], f(line()))
        with pytest.raises(RuntimeError, match=r"programs.py:\d+: compiled code does not carry the flips of"):
            gradients(whole, line())


def test_hard_values_break_no_graph_without_a_decision():
    """Functions that decide nothing, or nothing here: without gradients, of integers, casts between floats."""

    def f(x, n):
        with torch.no_grad():
            m = x.detach() > 0
        return (x.to(torch.float64) / 2 * m).sin().sum() + n.clamp(0, 3).sum() * (n // 2).sum()

    n = torch.arange(5)
    with sll.linearize(0.1, forward="hard"):
        compiled = torch.compile(f, fullgraph=True, backend=BACKEND)
        equal(gradients(lambda x: compiled(x, n), line()), gradients(lambda x: f(x, n), line()))


@row(AREA, "region inside the compiled function, made there or before, and as its decorator, `fullgraph=True`", "works")
@pytest.mark.parametrize("name", REGIONS_INSIDE)
def test_region_inside_and_as_decorator(name):
    f = PROGRAMS[name]
    region = sll.linearize(0.1)

    def inside(x):
        with sll.linearize(0.1):
            return f(x)

    def prebuilt(x):
        with region:
            return f(x)

    want = gradients(inside, line())
    ways = in_turn(name, REGIONS_INSIDE)
    for g in (g for i, g in enumerate((inside, prebuilt, sll.enable(eps=0.1)(f))) if i in ways):
        equal(gradients(torch.compile(g, fullgraph=True, backend=BACKEND), line()), want)


def test_nested_regions():
    def f(x):
        with sll.linearize(0.5):
            a = torch.sign(x)
            with sll.linearize(0.25, exclude=["sign"]):
                b, c = torch.round(x + 0.5), torch.sign(x)
            with sll.hard():
                d = torch.sign(x)
        return a.sum() + 10 * b.sum() + 100 * c.sum() + 1000 * d.sum()

    x = torch.zeros(2)
    want = gradients(f, x)
    assert want[1].tolist() == [22, 22]
    torch.testing.assert_close(gradients(torch.compile(f, fullgraph=True, backend=BACKEND), x), want)


@row(AREA, "another `eps`, or none: compiled again, never stale (`sll.Anneal`: an input, not compiled again)", "works")
def test_eps_is_guarded():
    compiled = torch.compile(lambda x: torch.sign(x), fullgraph=True, backend=BACKEND)
    x = torch.zeros(3)
    slopes = []
    for eps in (0.5, 0.25, 0.5, 0.125):
        with sll.linearize(eps):
            slopes.append(gradients(compiled, x)[1][0].item())
    assert slopes == [2, 4, 2, 8]
    y = x.clone().requires_grad_()
    assert not torch.autograd.grad(compiled(y).sum(), y)[0].any()


@row(AREA, "`dynamic=True`, and other sizes", "works")
@pytest.mark.parametrize("name", ["headline", "one_hot", "topk_mask"])
def test_dynamic(name):
    f = PROGRAMS[name]
    compiled = torch.compile(lambda x: f(x), fullgraph=True, dynamic=True, backend=BACKEND)
    with sll.linearize(0.1):
        for n in (97, 31, 64):
            equal(gradients(compiled, line(n)), gradients(f, line(n)))


@row(AREA, "inductor, default mode", "works")
@pytest.mark.skipif(shutil.which("g++") is None, reason="inductor needs a C++ compiler")
def test_inductor():
    names = ["headline", "quantize_int8", "and_where", "one_hot", "argmax_table"]
    f = lambda x: torch.stack([PROGRAMS[name](x) for name in names])
    with sll.linearize(0.1):
        got = gradients(torch.compile(f, fullgraph=True), line())
        torch.testing.assert_close(got, gradients(f, line()), rtol=1e-6, atol=1e-6)


def one_hots(x):
    return F.one_hot(x.view(2, -1).argmax(1), x.numel() // 2) * 1.5


VECTORS = [None, 256]
"""The width of registers that inductor writes for: this machine's, or AVX2."""


@pytest.mark.slow
@pytest.mark.skipif(shutil.which("g++") is None, reason="inductor needs a C++ compiler")
@pytest.mark.parametrize("bits", VECTORS)
def test_inductor_shows_the_shares_of_a_choice(bits):
    x = torch.tensor([-0.5, 0, 0.15, 0.21, 0.44, 0.46, 0.88, 1.4])
    with torch._inductor.config.patch({"cpp.simdlen": bits}), sll.linearize(0.1, forward="linear"):
        compiled = torch.compile(one_hots, fullgraph=True)
        got, want = gradients(compiled, x), gradients(one_hots, x)
        hard = compiled(x), one_hots(x)  # (what autograd does not record is not linearized)
    torch.testing.assert_close(got, want)
    torch.testing.assert_close(got[0][0], torch.tensor([0, 0, 0.3, 1.2]))
    assert torch.equal(*hard)


@pytest.mark.slow
@pytest.mark.skipif(torch.__version__ < (2, 13), reason="not known of older versions")
@pytest.mark.skipif(shutil.which("g++") is None, reason="inductor needs a C++ compiler")
@pytest.mark.skipif("AVX512" not in torch.backends.cpu.get_cpu_capability(), reason="seen on CPUs with AVX512 only")
def test_inductor_still_miscompiles_a_mask_beside_integers():
    """Without us. Nothing that a region writes is known to meet it."""

    def f(w, i, a):
        i = torch.where(i >= 0, i, a.unsqueeze(-1))
        o = torch.zeros(2, 4).scatter_add(-1, i.clamp(0, 3), w) - 0.5
        h = (a.unsqueeze(-1) == torch.arange(4)).long()
        return torch.where(o.abs() < 0.5, o * 1.5 + 0.75, h * 1.5)

    w = torch.rand(2, 4, generator=torch.Generator().manual_seed(0))
    inputs = w, torch.tensor([[3, 2, 1, 0], [1, 2, 3, 0]]), torch.tensor([1, 2])
    with torch._inductor.config.patch({"cpp.simdlen": 256}):
        got = torch.compile(f)(*inputs)
    assert not torch.allclose(got, f(*inputs)), "PyTorch has mended this: remove this test"


@row(AREA, '`mode="max-autotune-no-cudagraphs"`', "works")
@pytest.mark.skipif(shutil.which("g++") is None, reason="inductor needs a C++ compiler")
def test_max_autotune():
    f = lambda x: torch.where(torch.round(x * 2) > 1, torch.sign(x) * x, x)
    with sll.linearize(0.1):
        got = gradients(torch.compile(f, fullgraph=True, mode="max-autotune-no-cudagraphs"), line())
        torch.testing.assert_close(got, gradients(f, line()), rtol=1e-6, atol=1e-6)


# --- what does not fit into a graph --------------------------------------------------------------------------------


def table(x, rows=3):
    return torch.arange(float(x.shape[0]) * rows, dtype=x.dtype).view(x.shape[0], rows)


FOLLOWED_IN_EAGER_MODE = {
    "sum of x[mask]": lambda x: (x * x)[x * 1.5 > 0.1].sum() * 2,
    "nonzero": lambda x: x.flatten()[(x > 0.1).flatten().nonzero().squeeze(1)].sum(),
    "median as threshold": lambda x: ((x > x.median()).double() * x * x).sum(),
    "k-th value as threshold": lambda x: ((x > x.kthvalue(2, 1, keepdim=True).values).double() * x * x).sum(),
    "topk as threshold": lambda x: ((x >= x.topk(2, 1).values[:, -1:]).double() * x * x).sum(),
    "maximum as threshold": lambda x: ((x >= x.amax(1, keepdim=True)).double() * x * x).sum(),
    "sorted neighbours": lambda x: (lambda s: (s[:, :-1] > s[:, 1:]).double().sum() + s.sum())(x.sort(1).values),
    "a number": lambda x: x.sum() * int((x > 0).sum()),
    "a branch": lambda x: x.sum() * 2 if bool((x > 0).any()) else x.sum(),
}
IN_THE_GRAPH = {
    "sum of x[mask]": FOLLOWED_IN_EAGER_MODE["sum of x[mask]"],
    "written through a view": lambda x: (lambda m: (m[0].logical_not_(), (m.double() * x).sum())[1])(x > 0.1),
    "maximum": lambda x: ((x - x.max(1, keepdim=True).values).exp() * torch.sign(x)).sum(),
    "equal to the maximum": lambda x: ((x == x.max(1, keepdim=True).values).double() * x * x).sum(),
    "sorted values": lambda x: (torch.round(x.sort(1).values * 3) * torch.arange(4.0, dtype=x.dtype)).sum(),
    "ranks": lambda x: (x.argsort(1).argsort(1).double() * table(x, 4)).sum(),
    "embedding": lambda x: F.embedding((x > 0.1).long(), table(x)).sum(),
    "chunks": lambda x: sum((c.double() * i).sum() for i, c in enumerate((x > 0.1).chunk(2, 1), 1)),
    "torch.embedding": lambda x: torch.embedding(table(x), (x > 0.1).long()).sum(),
}


def block():
    x = torch.linspace(-1, 1, 12, dtype=torch.float64).view(3, 4).flip(1)
    return x * torch.tensor([[1.0], [0.3], [2.0]], dtype=torch.float64)


def compiled_three_ways(f, region, **options):
    def inside(x):
        with region:
            return f(x)

    compiled = torch.compile(f, backend=BACKEND, **options)

    def outside(x):
        with region:
            return compiled(x)

    yield inside, torch.compile(inside, backend=BACKEND, **options)
    yield inside, outside
    yield inside, torch.compile(region(f), backend=BACKEND, **options)


def agrees_with_eager(f, ways, decides=True, **options):
    """In some of the three ways; if it `decides`, the gradient is another than the plain program's."""
    for i, (eager, compiled) in enumerate(compiled_three_ways(f, sll.linearize(0.3), **options)):
        if i not in ways:
            continue
        torch._dynamo.reset()
        want = gradients(eager, block())
        if decides:
            assert not torch.equal(want[1], gradients(lambda x: f(x) + 0 * x.sum(), block())[1])
        equal(gradients(compiled, block()), want)


@row(
    AREA,
    "what needs data: `x[mask]`, `nonzero`, thresholds found by sorting, `.item()`, `if`",
    "works",
    "with a graph break; `fullgraph=True` refuses it, with a message that names the call",
)
@pytest.mark.parametrize("name", FOLLOWED_IN_EAGER_MODE)
def test_graph_breaks(name):
    f = FOLLOWED_IN_EAGER_MODE[name]
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", sll.LostGradientWarning)  # those of eager mode, which test_lost.py counts
        # Three of them have no gradient to keep.
        ways = in_turn(name, FOLLOWED_IN_EAGER_MODE)
        agrees_with_eager(f, ways, decides=name not in ("a number", "a branch", "sorted neighbours"))


THRESHOLDS = ["median as threshold", "k-th value as threshold", "topk as threshold", "maximum as threshold"]
"""They are elements of their row. With `"linear"` it is data which."""


@row(
    AREA,
    "a threshold that is an element of its row, `x >= x.topk(k).values[..., -1:]`",
    "works",
    'with `fullgraph=True` in `"straight-through"`',
)
@pytest.mark.parametrize("name", THRESHOLDS)
def test_thresholds_of_their_row(name):
    f, region = FOLLOWED_IN_EAGER_MODE[name], sll.linearize(0.3, forward="straight-through")
    eager, compiled = next(compiled_three_ways(f, region, fullgraph=True))
    want = gradients(eager, block())
    assert not torch.equal(want[1], gradients(lambda x: f(x) + 0 * x.sum(), block())[1])
    equal(gradients(compiled, block()), want)


@pytest.mark.parametrize("name", [*THRESHOLDS, "nonzero", "sorted neighbours"])
def test_what_needs_numbers_is_named(name):
    _, compiled = next(compiled_three_ways(FOLLOWED_IN_EAGER_MODE[name], sll.linearize(0.3), fullgraph=True))
    with pytest.raises(RuntimeError, match=r"test_compile.py:\d+: what \w+ decides depends on numbers"):
        gradients(compiled, block())


@pytest.mark.parametrize("name", IN_THE_GRAPH)
def test_no_graph_breaks(name):
    ways = in_turn(name, IN_THE_GRAPH)
    agrees_with_eager(IN_THE_GRAPH[name], ways, decides=name != "equal to the maximum", fullgraph=True)


def test_a_loss_that_is_intended_stays_in_the_graph():
    f = lambda x: x.sum() * (x > 0).sum().clone().detach() + (x * x)[x > 0.1].sum()
    eager, compiled = next(compiled_three_ways(f, sll.linearize(0.3, on_lost="ignore"), fullgraph=True))
    assert gradients(compiled, block())[0].isfinite()


@row(AREA, "graph breaks of the user's own in a region", "works")
@pytest.mark.parametrize("where", range(3))
def test_graph_breaks_of_the_users_own(where):
    def f(x):
        y = torch.round(x * 1.5)
        mask = y > 0.1
        torch._dynamo.graph_break()
        z = torch.where(mask, x * x, x)
        torch._dynamo.graph_break()
        return z.sum() * 2

    eager, compiled = list(compiled_three_ways(f, sll.linearize(0.3)))[where]
    for _ in range(2):
        equal(gradients(compiled, block()), gradients(eager, block()))


PAST_DYNAMO = {
    "F.pad": lambda m: F.pad(m.int(), (1, 1)).double(),
    "iteration": lambda m: torch.stack([row.double() * i for i, row in enumerate(m, 1)]),
    "abs()": lambda m: abs(m.int()).double(),
    ".T": lambda m: m.T.double(),
    ".mT": lambda m: m.mT.double(),
    ".mH": lambda m: m.mH.double(),
    ".real": lambda m: m.real.double(),
}


@row(AREA, "a bool or integer decision in `F.pad`, `for row in mask`, unpacking, `abs(mask)`, `mask.T`", "works")
@pytest.mark.parametrize("forward", ["straight-through", "linear", "hard"])
@pytest.mark.parametrize("name", PAST_DYNAMO)
def test_what_dynamo_shows_to_no_mode(name, forward):
    def f(x):
        y = PAST_DYNAMO[name](x > 0.1)
        return (y * torch.arange(1.0, y.numel() + 1, dtype=y.dtype).view(y.shape)).sum()

    for i, (eager, compiled) in enumerate(compiled_three_ways(f, sll.linearize(0.3, forward=forward))):
        if i in in_turn(name, PAST_DYNAMO):
            torch._dynamo.reset()
            want = gradients(eager, block())
            assert want[1].any()
            equal(gradients(compiled, block()), want)


@pytest.mark.parametrize("forward", ["straight-through", "linear", "hard"])
def test_writes_between_two_decisions(forward):
    def f(x):
        s = x * 1
        first = s > 0
        s.mul_(-1)
        return (first & ~(s > 0)).double()

    with sll.linearize(0.1, forward=forward):
        want = gradients(f, line())
        assert want[1].any()
        equal(gradients(torch.compile(f, backend=BACKEND), line()), want)


@pytest.mark.parametrize("broken", [False, True])
@pytest.mark.parametrize("forward", ["straight-through", "linear"])
def test_what_a_region_that_was_made_elsewhere_returns_is_plain(forward, broken):
    region = sll.linearize(0.1, forward=forward)

    def step(before, x):
        with region:
            m = x > 0
            if broken:
                torch._dynamo.graph_break()
            return torch.where(before, 2.0, 1.0), m

    x = torch.tensor([0.02], requires_grad=True)
    for run in (step, torch.compile(step, backend=BACKEND)):
        mask = run(torch.tensor([True]), x)[1]
        assert not run(mask, x)[0].requires_grad


@row(AREA, "decisions that a compiled function returns", "works", "they end with the region, like others")
@pytest.mark.parametrize("forward", ["linear", "straight-through", "hard"])
def test_what_compiled_functions_return_ends_with_the_region(forward):
    region = sll.linearize(0.5, forward=forward)
    x = torch.linspace(-1, 1, 9).requires_grad_()
    compiled = torch.compile(lambda x: x > 0, fullgraph=forward != "hard", backend=BACKEND)
    grad = lambda m: torch.autograd.grad(torch.where(m, x * x, x).sum(), x)[0]
    with region:
        want, got = grad(x > 0), grad(compiled(x))
        mask = compiled(x)
    torch.testing.assert_close(got, want)
    with sll.linearize(0.5, forward=forward):
        hard = grad(mask)
    torch.testing.assert_close(hard, torch.where(x > 0, 2 * x, 1.0).detach())
    buffer = io.BytesIO()
    torch.save(mask, buffer)
    assert b"sll" not in buffer.getvalue().replace(b"_sll", b"")
    assert copy.deepcopy(mask).equal(mask)


def several(x):
    q = torch.round(2 * x)
    m = q > 1
    count = torch.zeros_like(x)
    for shift in (0.1, 0.2, 0.3):
        count = count + (x > shift).to(x.dtype)
    return q, m, count, torch.where(m, x, q).sum()


def test_a_region_in_compiled_code_returns_what_the_program_returns():
    """And not what its results carry, which would have to be written for nobody."""
    returned = []

    def counting(graph, inputs):
        returned.append(len(graph.graph.output_node().args[0]))
        return graph.forward

    x = line().requires_grad_()
    torch.compile(several, fullgraph=True, backend=counting)(x)
    torch.compile(sll.enable(eps=0.3)(several), fullgraph=True, backend=counting)(x)
    found = torch.compile(sll.linearize(0.2)(several), fullgraph=True, backend=counting)(x)
    assert returned == [4, 4, 4]
    with sll.linearize(0.2):  # those of the other region are numbers here
        assert not torch.where(found[1], 1.0, 0.0).requires_grad


@pytest.mark.parametrize("around", [sll.linearize(0.3), sll.hard()], ids=["a region", "a hard block"])
def test_decisions_of_a_compiled_region_go_on_in_what_is_around(around):
    def f(x):
        with sll.linearize(0.2):
            return x > 0.1

    for device in (contextlib.nullcontext(), torch.device("cpu")):
        with device, around:
            for g in (f, sll.enable(eps=0.2)(lambda x: x > 0.1)):
                compiled = torch.compile(g, backend=BACKEND)
                made = [compiled(line().requires_grad_()), g(line().requires_grad_())]
                with sll.linearize(0.3):
                    got, want = (torch.where(m, 3.0, 1.0) for m in made)
                assert want.requires_grad and torch.equal(got, want)


def test_masks_of_one_call_are_plain_in_the_next():
    """However much is made to carry something after them, and although the region is the same."""

    @sll.enable(eps=0.1)
    def step(x, before):
        mask = x > 0
        count = sum((x > 0.01 * k).to(x.dtype) for k in range(5))
        return mask, (mask & before).to(x.dtype) + count

    gradient = []
    for f in (step, torch.compile(step, fullgraph=True, backend=BACKEND)):
        x = torch.full((3,), 0.01, dtype=torch.float64, requires_grad=True)
        mask, _ = f(x, torch.ones(3, dtype=torch.bool))
        y = torch.full((3,), 0.05, dtype=torch.float64, requires_grad=True)
        out = f(y, mask)[1]
        gradient.append(torch.cat([out.detach(), *torch.autograd.grad(out.sum(), y)]))
        assert getattr(mask, "_sll", None) is None
    torch.testing.assert_close(*gradient)


WRITES = {
    "fill_": lambda m: m.fill_(True),
    "zero_": lambda m: m.zero_(),
    "copy_": lambda m: m.copy_(torch.ones_like(m)),
    "logical_or_": lambda m: m.logical_or_(torch.ones_like(m)),
}


@pytest.mark.parametrize("name", WRITES)
def test_a_mask_that_is_written_over(name):
    def f(x):
        m = x > 0.1
        WRITES[name](m)
        return torch.where(m, x * x, x)

    with sll.linearize(0.2):
        equal(gradients(torch.compile(f, backend=BACKEND), line()), gradients(f, line()))


@pytest.mark.parametrize("forward", ["linear", "straight-through", "hard"])
@pytest.mark.parametrize("broken", [False, True])
def test_decisions_go_on_where_a_region_in_compiled_code_goes_on(broken, forward):
    """After a graph break, and after an error in it."""

    def f(x, fails=False):
        m = x > 0.1
        if broken:
            torch._dynamo.graph_break()
        if fails:
            raise ArithmeticError
        return torch.where(m, x * x, x)

    for g in (sll.linearize(0.2, forward=forward)(f), sll.enable(eps=0.2, forward=forward)(f)):
        compiled = torch.compile(g, backend=BACKEND)
        for _ in range(2):
            equal(gradients(compiled, line()), gradients(g, line()))
            with pytest.raises(ArithmeticError):
                compiled(line().requires_grad_(), True)
        outside = torch.compile(lambda x: (x > 0.1, x.round()), backend=BACKEND)
        with sll.linearize(0.2, forward=forward):
            equal(gradients(lambda x, m=outside: torch.where(m(x)[0], x * x, x), line()), gradients(g, line()))


@row(
    AREA,
    "`torch.utils.checkpoint` in a compiled function in a region",
    "works",
    "with `fullgraph=True` and `use_reentrant=True`",
)
def test_checkpoint():
    def f(x, reentrant=False):
        return checkpoint(
            lambda x: torch.where(torch.round(x * 2) > 0.5, x * x, torch.sign(x)), x, use_reentrant=reentrant
        )

    agrees_with_eager(f, {0, 1, 2}, fullgraph=True)
    torch._dynamo.reset()
    reentrant = torch.compile(lambda x: f(x, True), backend=BACKEND)
    for forward in ("straight-through", "hard"):
        with sll.linearize(0.3, forward=forward):
            equal(gradients(reentrant, block()), gradients(f, block()))


TRANSFORMS = {
    "grad": lambda f, x: torch.func.grad(lambda r: f(r).sum())(x),
    "vmap": lambda f, x: torch.func.vmap(f)(x),
    "vjp": lambda f, x: torch.func.vjp(f, x)[1](torch.ones_like(x))[0],
    "jvp": lambda f, x: torch.func.jvp(f, (x,), (torch.ones_like(x),))[1],
    "vmap of grad": lambda f, x: torch.func.vmap(torch.func.grad(lambda r: f(r).sum()))(x),
}


@row(
    AREA,
    "`torch.func` transforms called in compiled code in a region",
    "works",
    "with a graph break; `fullgraph=True` is refused. `vmap(compiled)` and the like: no break",
)
@pytest.mark.parametrize("name", TRANSFORMS)
def test_transforms_in_compiled_code(name):
    f = lambda x: TRANSFORMS[name](lambda r: torch.where(torch.round(r * 2) > 0.5, r * r, torch.sign(r)) * r, x).sum()
    agrees_with_eager(f, in_turn(name, TRANSFORMS))
    torch._dynamo.reset()
    _, compiled = next(compiled_three_ways(f, sll.linearize(0.3), fullgraph=True))
    with pytest.raises(Exception, match="sll: compiled code does not take a region into torch.func"):
        gradients(compiled, block())


@row(AREA, "`torch.cond`", "works", "with `fullgraph=True`; a condition in its band needs numbers")
def test_cond():
    f = lambda x: torch.cond(x.sum() > 0, torch.round, torch.sign, (x,)).sum()
    agrees_with_eager(f, {0, 1, 2}, fullgraph=True)


@row(
    "export and deployment",
    "TorchScript (`torch.jit.script`, `torch.jit.trace`) functions called in a region",
    "does not work",
    "no torch function mode sees what they call: the gradient is the plain program's, **silently**",
)
def test_torchscript_is_not_seen():
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # it is deprecated
        scripted = torch.jit.trace(lambda x: torch.round(x * 2), torch.ones(3))
    x = torch.zeros(3, requires_grad=True)
    with sll.linearize(0.5):
        y = scripted(x)
    assert not torch.autograd.grad(y.sum(), x)[0].any()  # if this fails, correct the table


@row(AREA, "a compiled `nn.Module` trained in a region, parameters updated in place", "works")
def test_training():
    class Net(nn.Module):
        def __init__(self):
            super().__init__()
            self.first, self.last = nn.Linear(4, 16), nn.Linear(16, 2)

        def forward(self, x):
            return self.last(torch.sign(self.first(x)))

    torch.manual_seed(0)
    x, net = torch.randn(32, 4), Net()
    twin = copy.deepcopy(net)
    compiled = torch.compile(twin, backend=BACKEND)
    for model, parameters in ((net, net.parameters()), (compiled, twin.parameters())):
        optimizer = torch.optim.SGD(parameters, 0.1)
        region = sll.linearize(sll.Auto(steps=2))
        for _ in range(4):
            optimizer.zero_grad()
            with region:
                model(x).square().mean().backward()
            optimizer.step()
    for a, b in zip(net.parameters(), twin.parameters()):
        torch.testing.assert_close(a, b)
    assert net.state_dict().keys() == twin.state_dict().keys()


QUANTIZED = {
    "compared": lambda q, y: (q == 1).to(y.dtype),
    "looked up": lambda q, y: y[q.long() + 2],
}


@pytest.mark.parametrize("name", QUANTIZED)
def test_integers_across_a_graph_break(name):
    def f(x):
        q = (2 * x).round().clamp(-1, 2).to(torch.int8)
        torch._dynamo.graph_break()
        return QUANTIZED[name](q, torch.linspace(1, 3, x.numel(), dtype=x.dtype))

    with sll.linearize(0.2):
        equal(gradients(torch.compile(f, backend=BACKEND), line()), gradients(f, line()))


DYNAMIC = {
    "decimals": lambda x: x.round(decimals=1),
    "quantizer": lambda x: x.round().clamp(-1, 2).int() * 1.5,
    "count": lambda x: ((x > 0.1) & (x < 0.5)).sum() * x,
    "sign": lambda x: (torch.sign(x) > 0.2).sum() * x,
}


@pytest.mark.parametrize("f", DYNAMIC.values(), ids=DYNAMIC)
def test_dynamic_shapes(f):
    with sll.linearize(0.2):
        equal(gradients(torch.compile(f, backend=BACKEND, dynamic=True), line()), gradients(f, line()))


@pytest.mark.parametrize("forward", ["hard", "straight-through"])
def test_hard_values_after_a_write(forward):
    """Gradients count both decisions as one there (docs/limits.md)."""

    def f(x):
        w = x * 1.0
        before = w > 0.1
        w.mul_(-2.0)
        return (before & (w > 0.1)).to(x.dtype)

    with sll.linearize(0.2, forward=forward):
        assert torch.equal(torch.compile(f, backend=BACKEND)(line().requires_grad_()).detach(), f(line()))


def test_a_rule_of_the_users(rules_as_they_were):
    from sll._carry.boundaries import offset_at
    from sll._carry.outcomes.decisions import decided_at
    from sll._carry.outcomes.sources import Step, source

    name = "::".join(("sll_test", "multiples"))

    def kernel(x: torch.Tensor, step: float) -> torch.Tensor:
        return torch.floor(x / step) * step

    multiples = library.custom_op(name, kernel, mutates_args=())
    multiples.register_fake(lambda x, step: torch.empty_like(x))

    @source("multiples", torch.ops.sll_test.multiples.default, boundaries="multiples of `step`")
    def rule(eps, x, step):
        n = (x.detach() / step).round()
        return Step(decided_at(offset_at(x - n * step, eps, step / 2)), (n - 1) * step, n * step)

    with sll.linearize(0.05):
        got, want = (
            gradients(g, line())
            for g in (torch.compile(lambda x: multiples(x, 0.25), backend=BACKEND), lambda x: multiples(x, 0.25))
        )
        equal(got, want)
        assert want[1].count_nonzero() > 10
