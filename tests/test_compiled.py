"""`sll.compile`: the region runs while AOTAutograd traces what Dynamo captured. Values and gradients are eager ones."""

from __future__ import annotations

import warnings
from collections import Counter

import pytest
import torch
import torch._dynamo.testing
import torch.nn.functional as F
from torch import nn

import sll
from compatibility import row
from programs import PROGRAMS

pytestmark = pytest.mark.skipif(torch.__version__ < (2, 10), reason="older Dynamo does not trace these modes")

AREA = "torch.compile"
BACKEND = "aot_eager"


@pytest.fixture(autouse=True)
def fresh_dynamo():
    torch._dynamo.reset()


def line(n=97, dtype=torch.float64):
    return torch.linspace(-2.4, 2.4, n, dtype=dtype) + 0.0031


def both(f, x, eps=0.3, forward="straight-through", **how):
    """Value and gradient, compiled and in eager mode."""
    found = []
    how = {"backend": BACKEND, "fullgraph": True, **how}
    for run in (sll.compile(f, eps, forward=forward, **how), sll.linearize(eps, forward=forward)(f)):
        leaf = x.clone().requires_grad_()
        y = run(leaf)
        found.append((y.detach(), torch.autograd.grad(y.sum(), leaf)[0]))
    return found


def agree(f, x=None, **how):
    (y, g), (want_y, want_g) = both(f, line() if x is None else x, **how)
    assert torch.equal(y, want_y)
    torch.testing.assert_close(g, want_g, rtol=1e-9, atol=1e-9)
    assert want_g.count_nonzero() > 0


def weights(x):
    return torch.linspace(-1.0, 2.0, x.numel(), dtype=x.dtype).reshape(x.shape)


HIDDEN = {
    "pad": lambda m: F.pad(m, (1, 2))[2:-1],
    "loop": lambda m: torch.stack([row.float() for row in m]),
    "unpacked": lambda m: torch.stack([*m]),
    "abs": lambda m: abs(m.int()),
    "T": lambda m: m.reshape(2, -1).T.reshape(-1),
    "mT": lambda m: m.reshape(2, -1).mT.reshape(-1),
    "real": lambda m: m.int().real,
    "flip": lambda m: m.flip(0),
}


@row(AREA, "`sll.compile`: a mask in `F.pad`, `for row in mask`, unpacking, `abs`, `.T`, `.mT`", "works")
@pytest.mark.parametrize("forward", ("straight-through", "linear"))
@pytest.mark.parametrize("name", HIDDEN)
def test_what_dynamo_shows_to_no_mode_keeps_its_gradient(name, forward):
    def f(x):
        m = HIDDEN[name](x > 0.1).to(x.dtype)
        return m * weights(m)

    agree(f, torch.linspace(-1.0, 1.0, 24, dtype=torch.float64), forward=forward)


@row(AREA, "`sll.compile`, `fullgraph=True`", "works")
@pytest.mark.parametrize("forward", ("straight-through", "linear"))
@pytest.mark.parametrize("name", ("split_stack", "and_where", "quantize_int8", "one_hot", "cumsum_masks"))
def test_programs(name, forward):
    agree(PROGRAMS[name], forward=forward)


@row(
    AREA,
    "`sll.compile`: graph breaks of the user's own",
    "works",
    'with `"straight-through"`, masks carry their gradient across',
)
def test_graph_breaks_of_the_users_own_carry_decisions():
    def f(x):
        m = x > 0
        torch._dynamo.graph_break()
        n = m & (x < 1)
        torch._dynamo.graph_break()
        return torch.where(n, x * x, -x)

    agree(f, fullgraph=False)


def test_what_runs_in_eager_mode_between_graphs_is_in_the_region():
    @torch.compiler.disable
    def eager(x):
        return torch.round(x)

    agree(lambda x: torch.sign(eager(x * 3) + 0.1), fullgraph=False)


@row(AREA, "`sll.compile` of an `nn.Module`, trained in place", "works")
def test_modules_train_in_place():
    class Net(nn.Module):
        def __init__(self):
            super().__init__()
            self.one, self.two = nn.Linear(8, 16), nn.Linear(16, 1)
            self.register_buffer("seen", torch.zeros(()))

        def forward(self, x):
            self.seen += 1
            return self.two((self.one(x) > 0).float())

    def train(net):
        x = torch.randn(64, 8, generator=torch.Generator().manual_seed(1))
        optimizer = torch.optim.SGD(net.parameters(), 0.05)
        losses = []
        for _ in range(5):
            loss = (net(x) - x.sum(1, keepdim=True)).square().mean()
            optimizer.zero_grad()
            loss.backward()
            optimizer.step()
            losses.append(loss.item())
        return losses

    torch.manual_seed(0)
    net = Net()
    state = {name: x.clone() for name, x in net.state_dict().items()}
    compiled = sll.compile(net, 1.0, forward="straight-through", backend=BACKEND, fullgraph=True)
    assert isinstance(compiled, Net) and compiled.one is net.one
    got = train(compiled)
    assert net.seen == 5
    net.load_state_dict(state)
    want = train(sll.linearize(1.0, forward="straight-through")(net))
    torch.testing.assert_close(got, want)
    assert got[-1] < got[0]


def test_methods():
    class Net:
        scale = 3.0

        @sll.compile(eps=0.3, forward="straight-through", backend=BACKEND)
        def run(self, x):
            return torch.round(self.scale * x)

    x = line().requires_grad_()
    (g,) = torch.autograd.grad(Net().run(x).sum(), x)
    with sll.linearize(0.3, forward="straight-through"):
        (want,) = torch.autograd.grad(torch.round(3.0 * x).sum(), x)
    assert torch.equal(g, want) and want.count_nonzero() > 0


def compilations(run, *args):
    torch._dynamo.utils.counters.clear()
    out = run(*args)
    return out, torch._dynamo.utils.counters["stats"].get("unique_graphs", 0)


def gradient(f, x):
    return torch.autograd.grad(f(x).sum(), x)[0]


@row(AREA, "`sll.compile` with `sll.Anneal`", "works", "the width is an input of the graph")
def test_anneal_is_never_stale_and_compiles_once():
    eps, x = sll.Anneal(1.0, 0.1, steps=3), line().requires_grad_()
    compiled = sll.compile(torch.sign, eps, forward="straight-through", backend=BACKEND)
    many = []
    for _ in range(4):
        g, new = compilations(gradient, compiled, x)
        many.append(new)
        torch.testing.assert_close(g, (x.detach().abs() <= eps.value).double() / eps.value, rtol=1e-6, atol=0.0)
        eps.step()
    assert many == [1, 0, 0, 0]


@row(AREA, '`sll.compile` with `"auto"`', "works", "its first 10 steps measure in eager mode")
def test_auto_measures_in_eager_mode_and_is_compiled_with_what_it_keeps():
    def f(x):
        for _ in range(3):
            x = x * 0.9 + (x > 0.3).to(x.dtype)
        return x

    autos = [sll.Auto(steps=3), sll.Auto(steps=3)]
    compiled = sll.compile(f, autos[0], backend=BACKEND, fullgraph=True)
    region, many = sll.linearize(autos[1]), []
    torch.manual_seed(0)
    for step in range(6):
        x = (torch.randn(200, dtype=torch.float64) * (1 + step % 2)).requires_grad_()
        g, new = compilations(gradient, compiled, x)
        many.append(new)
        with region:
            assert torch.equal(g, gradient(f, x))
    assert many == [1, 0, 0, 1, 0, 0]  # (Dynamo captures the graph, which runs in eager mode; then all is compiled)
    assert autos[0].remembered == {place: autos[1].remembered[place] for place in autos[0].remembered}
    autos[0].reset()
    assert compilations(gradient, compiled, x)[1] == 0


def test_policies_of_the_users_own():
    class Held:
        def __init__(self):
            self.factor = 1.0
            self.width = torch.tensor(0.5)

        def half_width(self, call):
            return self.width * self.factor

    eps, x = Held(), line().requires_grad_()
    backend = torch._dynamo.testing.CompileCounterWithBackend(BACKEND)
    compiled = sll.compile(torch.sign, eps, forward="straight-through", backend=backend)
    for width, factor, many in ((0.5, 1.0, 1), (0.25, 1.0, 1), (0.25, 2.0, 2)):
        eps.width.fill_(width)
        eps.factor = factor
        g = gradient(compiled, x)
        half = width * factor
        assert backend.frame_count == many
        torch.testing.assert_close(g, (x.detach().abs() <= half).double() / half)


def test_band_edges_ties_and_what_is_not_finite():
    x = torch.tensor([-0.5, 0.5, 0.0, -0.0, float("nan"), float("inf"), -float("inf"), 0.25], dtype=torch.float64)
    for f in (torch.sign, torch.round, lambda x: (x >= 0).to(x.dtype), lambda x: torch.where(x > 0, x * x, x)):
        for forward in ("straight-through", "linear"):
            (y, g), (want_y, want_g) = both(f, x, 0.5, forward)
            torch.testing.assert_close(y, want_y, rtol=0, atol=0, equal_nan=True)
            torch.testing.assert_close(g, want_g, rtol=0, atol=0, equal_nan=True)


@row(AREA, "`sll.compile`, `dynamic=True`", "works")
def test_dynamic_shapes_are_compiled_once():
    f = lambda x: torch.where(x > 0, x * x, x).round()
    compiled = sll.compile(f, 0.3, forward="straight-through", backend=BACKEND, fullgraph=True, dynamic=True)
    many = []
    for n in (50, 60, 70):
        x = line(n).requires_grad_()
        g, new = compilations(gradient, compiled, x)
        many.append(new)
        with sll.linearize(0.3, forward="straight-through"):
            torch.testing.assert_close(g, gradient(f, x), rtol=1e-12, atol=0.0)
    assert many == [1, 0, 0]


def test_what_is_lost_is_said_when_it_is_compiled():
    f = lambda x: torch.vander((x > 0).int(), 2)[:, 0] * x
    compiled = sll.compile(f, 0.3, forward="straight-through", backend=BACKEND, fullgraph=True)
    with warnings.catch_warnings(record=True) as said:
        warnings.simplefilter("always")
        gradient(compiled, line().requires_grad_())
    (warning,) = [w for w in said if issubclass(w.category, sll.LostGradientWarning)]
    assert "may end at vander" in str(warning.message) and warning.filename == __file__
    assert compiled.region.report().lost
    torch._dynamo.reset()
    with pytest.raises(sll.LostGradientError, match="may end at vander"):
        sll.compile(f, 0.3, forward="straight-through", backend=BACKEND, on_lost="error")(line().requires_grad_())


def test_calls_in_other_regions_and_without_gradients():
    compiled = sll.compile(torch.sign, 0.3, forward="straight-through", backend=BACKEND)
    x = line().requires_grad_()
    want = (x.detach().abs() <= 0.3).double() / 0.3
    with sll.linearize(1.0):
        torch.testing.assert_close(gradient(compiled, x), want)
    with torch.no_grad():
        assert torch.equal(compiled(x), torch.sign(x))
    inside = torch.compile(lambda x: compiled(x) * 2, backend=BACKEND, fullgraph=True)
    torch.testing.assert_close(gradient(inside, x), 2 * want)


@pytest.mark.parametrize("options", ({"trace": True}, {"paths": 2}, {"generator": None}))
def test_options_of_eager_mode_are_refused(options):
    with pytest.raises(TypeError, match="is for eager mode"):
        sll.compile(torch.sign, **options)


@row(AREA, '`sll.compile(forward="hard")`', "refused", "take a region in eager mode")
def test_hard_and_what_is_no_function_are_refused():
    with pytest.raises(ValueError, match="how many flips are open is data"):
        sll.compile(torch.sign, forward="hard")
    with pytest.raises(TypeError, match=r"takes a function, a method or an nn.Module, got 3"):
        sll.compile(3)


@pytest.mark.parametrize(
    "name",
    ("argmax_table", "topk_mask", "rank_compare", "sort_places", "median")
    + (pytest.param("selection_sum", marks=pytest.mark.slow),),
)
def test_choices_and_orders(name):
    agree(PROGRAMS[name], eps=0.1)


@row(
    AREA,
    "`sll.compile`: what needs data",
    "works",
    "with a graph break; `fullgraph=True` refuses it, with a message that names the line",
)
def test_what_needs_numbers_is_left_to_eager_mode():
    agree(PROGRAMS["rank_by_scatter"], eps=0.1, fullgraph=False)
    torch._dynamo.reset()
    compiled = sll.compile(
        PROGRAMS["rank_by_scatter"], 0.1, forward="straight-through", backend=BACKEND, fullgraph=True
    )
    with pytest.raises(RuntimeError, match=r"programs.py:\d+: what scatter_ decides depends on numbers"):
        compiled(line().requires_grad_())


@pytest.mark.parametrize("forward", ("straight-through", "linear"))
def test_writes_between_decisions(forward):
    def f(x):
        x = x * 1
        a = x > 0.2
        x.mul_(-1)
        b = x > 0.2
        return a.to(x.dtype) + 3 * b.to(x.dtype)

    agree(f, forward=forward)


@row(AREA, "`sll.compile`: `torch.autocast` inside", "works")
def test_autocast():
    def f(x):
        with torch.autocast("cpu", torch.bfloat16):
            y = x.reshape(-1, 8) @ torch.ones(8, 8, dtype=x.dtype)
            return torch.round(y) * (x.reshape(-1, 8) > 0)

    x = torch.linspace(-1.0, 1.0, 64)
    (y, g), (want_y, want_g) = both(f, x)
    assert torch.equal(y, want_y)
    torch.testing.assert_close(g, want_g, rtol=2e-2, atol=2e-2)


@row(AREA, "`sll.compile`: `torch.utils.checkpoint` inside, `fullgraph=True`", "works")
def test_checkpoints_in_the_graph():
    def block(x):
        return torch.where(torch.round(2 * x) > 1, torch.sign(x) * x, x)

    agree(lambda x: torch.utils.checkpoint.checkpoint(block, block(x) + 0.1, use_reentrant=False))


@row(AREA, "`sll.compile` with `see_through=True`", "works")
def test_seen_through():
    def f(x):
        with torch.no_grad():
            m = (x > 0).to(x.dtype)
        return m * x

    found = []
    for run in (
        sll.compile(f, 0.3, forward="straight-through", backend=BACKEND, see_through=True),
        sll.linearize(0.3, forward="straight-through", see_through=True)(f),
    ):
        found.append(gradient(run, line().requires_grad_()))
    assert torch.equal(*found) and (found[0] != (line() > 0)).any()


def test_methods_that_torch_writes_in_python_break_no_graph():
    agree(lambda x: torch.round(3 * x).unflatten(0, (1, -1)) * (x > 0.1).unflatten(0, (1, -1)))


def test_gradients_accumulate():
    compiled = sll.compile(lambda x: torch.round(3 * x), 0.2, forward="straight-through", backend=BACKEND)
    x = line().requires_grad_()
    for _ in range(2):
        compiled(x).sum().backward()
    assert torch.equal(x.grad, 2 * gradient(lambda x: sll.round(3 * x, eps=0.2, forward="hard"), x))


@pytest.mark.parametrize("forward", ("straight-through", "linear"))
def test_what_cannot_cross_a_graph_break_is_said_where_it_is_used(forward):
    def f(x, used):
        i = (x.reshape(-1, 2) * 1).argmax(-1)
        torch._dynamo.graph_break()
        return (weights(x)[i] if used else x[::2]) * x[::2]

    for used in (False, True):
        torch._dynamo.reset()
        compiled = sll.compile(f, 0.3, forward=forward, backend=BACKEND)
        with warnings.catch_warnings(record=True) as said:
            warnings.simplefilter("always")
            compiled(line(98).requires_grad_(), used)
        said = [str(w.message) for w in said if issubclass(w.category, sll.LostGradientWarning)]
        assert len(said) == used
        assert not used or "decides in compiled code, which ends there" in said[0]


class Rounds(torch.nn.Module):
    def __init__(self):
        super().__init__()
        self.layer = torch.nn.Linear(4, 4)

    def forward(self, x):
        return torch.round(self.layer(x))


def test_many_layers_of_one_class():
    """More than Dynamo compiles one piece of code for."""
    many = torch._dynamo.config.recompile_limit + 2
    layers = [Rounds() for _ in range(many)]
    x = torch.randn(2, 4, generator=torch.Generator().manual_seed(0))
    for layer in layers:
        out = sll.compile(layer, 0.5, forward="straight-through", backend=BACKEND, fullgraph=True)(x)
        (g,) = torch.autograd.grad(out.sum(), layer.layer.weight)
        torch.testing.assert_close(g, x.sum(0).expand(4, 4))


def nodes_of(f, *operands):
    """How often each function is called, forward and backward."""
    from functorch.compile import make_boxed_func
    from torch._dynamo.backends.common import aot_autograd

    found = Counter()

    def keep(graph, _):
        found.update(node.target.__name__.split(".")[0] for node in graph.graph.nodes if node.op == "call_function")
        return make_boxed_func(graph.forward)

    backend = aot_autograd(fw_compiler=keep, bw_compiler=keep)
    sll.compile(f, 0.5, forward="straight-through", backend=backend, fullgraph=True)(*operands).sum().backward()
    return found - Counter(dict.fromkeys(("detach", "clone", "scalar_tensor"), 999))


def test_kernels_have_little_to_compute():
    """What inductor does one number after the other, and what only a second derivative would need, is in no graph."""
    x, y = line().requires_grad_(), line().flip(0).requires_grad_()
    a, b, scale = (torch.tensor(t, dtype=x.dtype, requires_grad=True) for t in (0.2, 0.3, 0.03))
    masks = nodes_of(lambda x, y, a, b: torch.where((x > a) & (y < b), x * y, x - y).mean(), x, y, a, b)
    quantizer = nodes_of(lambda x, s: torch.round(x / s).clamp(-127, 127).to(torch.int8).to(x.dtype) * s, x, scale)
    assert not {"nan_to_num", "isnan", "isfinite", "floor"} & {*masks, *quantizer}
    assert masks.total() <= 43 and quantizer.total() <= 23, (masks.total(), quantizer.total())
