"""Activation checkpointing in a region: the gradients of the program without it, or an error."""

from __future__ import annotations

import contextlib
import functools
import gc
import weakref

import pytest
import torch
from torch.autograd.graph import save_on_cpu
from torch.utils.checkpoint import (
    CheckpointError,
    checkpoint,
    checkpoint_sequential,
    create_selective_checkpoint_contexts,
    noop_context_fn,
)

import sll
from compatibility import row
from programs import PROGRAMS

MODES = ["linear", "hard", "straight-through"]
EPS = 0.4


def once(f, *args, **kwargs):
    """Instead of a checkpoint."""
    return f(*args)


def again(f, *args, **options):
    return checkpoint(f, *args, use_reentrant=False, **options)


def choose(m, v):
    return torch.where(m, v, v * v)


def regions_inside(ck, x, v):
    def g(x, v):
        a = v.exp()
        with sll.linearize(0.1):
            b = torch.round(x)
        with sll.hard():
            c = torch.sign(x)
        return a * b + c * v + torch.sign(v)

    return ck(g, x, v)


def hard_around(ck, x, v):
    with sll.hard():
        return ck(lambda x, v: torch.round(x) * v, x, v) + ck(lambda x: x.sin(), x)


def region_in_hard(ck, x, v):
    m = x > 0.1

    def f(v):
        with sll.linearize(0.2):
            return choose(m, v) + torch.sign(v)

    with sll.hard():
        return ck(f, v)


def used_before(ck, x, v):
    m = x > 0.1
    return m.double() * v + ck(choose, m, v)


def used_after(ck, x, v):
    m = ck(lambda x: x > 0.1, x)
    return choose(m, v)


def one_after_the_other(ck, x, v):
    return ck(lambda y: torch.round(y) * v, ck(lambda x: x * torch.sign(x), x))


def shared_mask(ck, x, v):
    m = x > 0.1
    return ck(choose, m, v) + ck(lambda m, v: m * v, m, v) + choose(m, v * 3)


def best(x):
    return x.view(8, 8).argmax(1, keepdim=True)


def pick(i, v):
    return v.view(8, 8).gather(1, i).squeeze(1)


CASES = {
    "decisions": lambda ck, x, v: ck(lambda x, v: torch.where(torch.round(x * 2.3) > 1, x * v, torch.sign(x)), x, v),
    "mask in": lambda ck, x, v: ck(choose, x > 0.1, v),
    "mask in, used before": used_before,
    "mask in, twice and outside": shared_mask,
    "mask closed over": lambda ck, x, v: (lambda m: ck(lambda v: choose(m, v), v))(x > 0.1),
    "mask out": used_after,
    "float of a decision in": lambda ck, x, v: ck(lambda s, v: (s > 0.9).double() * v, torch.sign(x), v),
    "one after the other": one_after_the_other,
    "nested": lambda ck, x, v: ck(
        lambda x, v: ck(lambda x, v: torch.round(x) * v, x, v) * torch.sign(v), x, v
    ),
    "nested, a mask in": lambda ck, x, v: ck(lambda a, v: ck(choose, a > 0.1, v) * a, x, v),
    "nested, a float of a decision in": lambda ck, x, v: ck(
        lambda a: ck(torch.round, a.round() * a * 0.7).sin(), x
    ) * v,
    "nested, one after the other": lambda ck, x, v: ck(
        lambda a: ck(lambda b: b.round() * b, ck(lambda b: b.round() * b, a)), x
    ) * v,
    "nested, closed over at two depths": lambda ck, x, v: (
        lambda m: ck(lambda a: ck(lambda b: b * m, a * m), x) * v
    )(x > 0.1),
    "selected before": lambda ck, x, v: (lambda s: ck(lambda s: s * s, s).sum() + v)(x[x > 0.1]),
    "selected before, reduced inside": lambda ck, x, v: (lambda s: ck(lambda s: s.mean(), s) + v)(x[x > 0.1]),
    "only the inner one decides": lambda ck, x, v: ck(
        lambda x, v: ck(lambda x, v: torch.round(x) * v, x, v).exp(), x, v
    ),
    "regions inside": regions_inside,
    "hard around": hard_around,
    "a region in hard around": region_in_hard,
    "argmax inside": lambda ck, x, v: ck(lambda x, v: pick(best(x), v), x, v),
    "index in": lambda ck, x, v: ck(pick, best(x), v),
    "sort inside": lambda ck, x, v: ck(lambda x, v: v[x.argsort()] * v, x, v),
    "selection inside": lambda ck, x, v: ck(lambda x, v: v[x > 0.1].sum() + v, x, v),
}  # fmt: skip


CROSSING = {"mask in", "mask in, used before", "mask in, twice and outside", "mask closed over", "one after the other",
            "float of a decision in", "index in", "selected before", "selected before, reduced inside"}  # fmt: skip
"""What is decided outside and worked out inside. Torch has to tell under which hooks something is saved."""


def train(case, ck, region, inside=False):
    g = torch.Generator().manual_seed(0)
    x, v = (torch.randn(64, generator=g, dtype=torch.float64).requires_grad_() for _ in range(2))
    with region:
        y = (CASES[case](ck, x, v) ** 2).sum()
        if inside:
            y.backward()
    if not inside:
        y.backward()
    return [y.detach(), *(torch.zeros_like(t) if t.grad is None else t.grad for t in (x, v))]


@row(
    "activation checkpointing", "`checkpoint(…, use_reentrant=False)` in a region, backward inside or after it", "works"
)
@pytest.mark.parametrize("mode", MODES)
@pytest.mark.parametrize("case", CASES)
def test_same_gradients(case, mode):
    region = sll.linearize(EPS, forward=mode)
    want = train(case, once, region)
    assert want[1].any()
    crossing = case in CROSSING or "nested" in case or case == "a region in hard around"
    if sll._mode.checkpoint.HOOKS is None and crossing:  # torch 2.6: equal, or an error
        with contextlib.suppress(CheckpointError):
            torch.testing.assert_close(train(case, again, region), want, rtol=1e-12, atol=1e-12)
        return
    for inside in (False, True):
        torch.testing.assert_close(train(case, again, region, inside), want, rtol=1e-12, atol=1e-12)


@pytest.mark.parametrize("case", ["decisions", "nested", "argmax inside"])
@pytest.mark.parametrize("eps", ["auto", sll.Coverage(0.5)])
def test_policies(case, eps):
    region = sll.linearize(eps)
    torch.testing.assert_close(train(case, again, region), train(case, once, region), rtol=1e-12, atol=1e-12)


def test_what_is_stale_stays_stale():
    def gradient(ck):
        x, w = (t.clone().requires_grad_() for t in _inputs())
        with sll.linearize(0.5, forward="hard", on_lost="ignore"):
            i = (x * 2).round().long()
            with torch.no_grad():
                i.clamp_(-3, 3).add_(3)
            y = ck(lambda i: w[i].sum(), i)
        return torch.autograd.grad(y, w)[0]

    torch.testing.assert_close(gradient(again), gradient(once))


@row(
    "activation checkpointing",
    "`checkpoint(compiled_function, …)` in a region",
    "works",
    "with a graph break; refused with `fullgraph=True`. A function that was compiled elsewhere first may raise "
    "`CheckpointError`: compile the function that calls `checkpoint`",
)
@pytest.mark.skipif(torch.__version__ < (2, 10), reason="older Dynamo does not trace these modes")
@pytest.mark.parametrize("forward", ["linear", "hard"])
@pytest.mark.parametrize(
    "f",
    [
        lambda x, w: torch.sign(x) * x * x,
        lambda x, w: (torch.round(x * 3) * w).exp() * torch.sign(w),
        lambda x, w: ((x > 0).float() * w).sin(),
        lambda x, w: torch.where(x > w, x * x, w),
    ],
)
def test_checkpoint_of_a_compiled_function(f, forward):
    def gradients(run, region=None):
        x = torch.linspace(-1, 1, 9).requires_grad_()
        w = torch.linspace(1, -0.5, 9).requires_grad_()
        with region or sll.linearize(0.3, forward=forward):
            y = run(x, w)
        y.sum().backward()
        return torch.stack([torch.zeros_like(t) if t.grad is None else t.grad for t in (x, w)])

    torch._dynamo.reset()
    compiled = torch.compile(f, backend="aot_eager")
    want = gradients(f)
    torch.testing.assert_close(gradients(lambda x, w: again(compiled, x, w)), want)
    assert not torch.allclose(gradients(f, sll.hard()), want)
    torch._dynamo.reset()
    whole = torch.compile(f, backend="aot_eager", fullgraph=True)
    with pytest.raises(torch._dynamo.exc.Unsupported, match="does not take a region into a checkpoint"):
        gradients(lambda x, w: again(whole, x, w))


def test_annealing_between_forward_and_backward():
    eps = sll.Anneal(1.0, 0.1, steps=1)
    x = torch.tensor([0.3, 0.05], requires_grad=True)
    with sll.linearize({"default": 0.5, "sign": eps}):
        y = again(torch.sign, x)
    eps.step()
    y.sum().backward()
    assert x.grad.tolist() == [1, 1]
    assert eps.value == 0.1


def test_without_a_region_nothing_changes():
    for case in ("decisions", "mask in"):
        torch.testing.assert_close(train(case, again, sll.hard()), train(case, once, sll.hard()))


@pytest.mark.parametrize("name", list(PROGRAMS)[::6])
def test_programs(name):
    f = PROGRAMS[name]
    x = torch.linspace(-2.4, 2.4, 97, dtype=torch.float64)

    def gradient(ck):
        y = x.clone().requires_grad_()
        with sll.linearize(0.1, forward="hard", on_lost="ignore"):
            out = ck(lambda y: f(y) + 0 * y, y)
        return out, *torch.autograd.grad(out.sum(), y)

    torch.testing.assert_close(gradient(again), gradient(once))


@pytest.mark.skipif(sll._mode.checkpoint.HOOKS is None, reason="needs a torch that tells which hooks save")
def test_other_savers_around_and_inside():
    region = sll.linearize(EPS)
    want = train("mask in, twice and outside", once, region)

    def inside(f, *args):
        def g(*args):
            with save_on_cpu():
                return f(*args)

        return again(g, *args)

    torch.testing.assert_close(train("mask in, twice and outside", inside, region), want)
    with save_on_cpu():
        torch.testing.assert_close(train("mask in, twice and outside", again, region), want)


@pytest.mark.parametrize("options", [{"preserve_rng_state": False}, {"debug": True}, {"context_fn": noop_context_fn}])
def test_options(options):
    region = sll.linearize(EPS)
    got = train("decisions", lambda f, *args: again(f, *args, **options), region)
    torch.testing.assert_close(got, train("decisions", once, region))


def selective(f, *args):
    policy = [torch.ops.aten.mul.Tensor, torch.ops.aten.add.Tensor]
    return again(f, *args, context_fn=functools.partial(create_selective_checkpoint_contexts, policy))


@row(
    "activation checkpointing",
    "selective checkpointing (`context_fn=`)",
    "works",
)
@pytest.mark.parametrize(
    "case", ["decisions", "argmax inside", "mask in, used before", "float of a decision in", "regions inside"]
)
def test_selective(case):
    if sll._mode.checkpoint.HOOKS is None and case in ("mask in, used before", "float of a decision in"):
        pytest.skip("needs a torch that tells which hooks save")
    region = sll.linearize(EPS)
    torch.testing.assert_close(train(case, selective, region), train(case, once, region), rtol=1e-12, atol=1e-12)


@pytest.mark.parametrize("case", ["mask in", "index in"])
@pytest.mark.skipif(sll._mode.checkpoint.HOOKS is None, reason="needs a torch that tells which hooks save")
def test_selective_of_what_is_worked_out_inside(case):
    region = sll.linearize(EPS)
    torch.testing.assert_close(train(case, selective, region), train(case, once, region), rtol=1e-12, atol=1e-12)


@row("activation checkpointing", "`checkpoint_sequential`, dropout in the checkpointed part", "works")
def test_sequential_with_dropout():
    class Sign(torch.nn.Module):
        def forward(self, x):
            return torch.sign(x)

    torch.manual_seed(0)
    net = torch.nn.Sequential(torch.nn.Linear(8, 16), Sign(), torch.nn.Dropout(0.3), torch.nn.Linear(16, 4), Sign())
    x = torch.randn(32, 8)

    def gradients(run):
        net.zero_grad()
        torch.manual_seed(1)
        with sll.linearize(EPS):
            run(x).square().sum().backward()
        return [p.grad.clone() for p in net.parameters()]

    want = gradients(net)
    assert want[0].any()
    torch.testing.assert_close(gradients(lambda x: checkpoint_sequential(net, 2, x, use_reentrant=False)), want)


def test_backward_twice_and_by_pieces():
    x = torch.linspace(-1, 1, 33, dtype=torch.float64).requires_grad_()
    with sll.linearize(EPS):
        y = again(lambda x: torch.round(x * 2) * x, x)
        z = again(lambda x: torch.sign(x) * x, x)
    first = torch.autograd.grad(y.sum(), x, retain_graph=True)
    torch.testing.assert_close(torch.autograd.grad(y.sum(), x, retain_graph=True), first)
    both = torch.autograd.grad((y + z).sum(), x)
    with sll.linearize(EPS):
        want = torch.autograd.grad((torch.round(x * 2) * x + torch.sign(x) * x).sum(), x)
    torch.testing.assert_close(both, want)


def test_backward_in_another_thread():
    import threading

    region = sll.linearize(EPS)
    want = train("decisions", once, region)
    x, v = (t.clone().requires_grad_() for t in _inputs())
    with region:
        y = (CASES["decisions"](again, x, v) ** 2).sum()
    thread = threading.Thread(target=y.backward)
    thread.start()
    thread.join()
    torch.testing.assert_close([y.detach(), x.grad, v.grad], want)


def _inputs():
    g = torch.Generator().manual_seed(0)
    return [torch.randn(64, generator=g, dtype=torch.float64) for _ in range(2)]


@row(
    "activation checkpointing",
    "`checkpoint(…, use_reentrant=True)` in a region",
    "refused",
    "`RuntimeError`: its second run is outside of the region. Pass `use_reentrant=False`",
)
@pytest.mark.parametrize("mode", MODES)
@pytest.mark.parametrize("case", [case for case in CASES if "hard around" not in case])
def test_reentrant_is_refused(case, mode):
    with pytest.raises(RuntimeError, match=r"test_checkpoint.py:\d+ .*use_reentrant=True.* use_reentrant=False"):
        train(case, lambda f, *args: checkpoint(f, *args, use_reentrant=True), sll.linearize(EPS, forward=mode))


def test_reentrant_without_decisions():
    def f(x, v):
        return (x.float().max() + x.amax(0) + x * v).to(torch.float64) / v

    x, v = (t.clone().requires_grad_() for t in _inputs())
    with sll.linearize(EPS):
        y = checkpoint(f, x, v, use_reentrant=True)
    y.sum().backward()
    got, x.grad = x.grad, None
    f(x, v).sum().backward()
    torch.testing.assert_close(got, x.grad)


@row(
    "activation checkpointing",
    "`use_reentrant=True`, and the function enters the region itself (`@sll.enable`)",
    "works",
    'with `forward="hard"` or `"straight-through"`; `"linear"` is refused (the first run would show other values)',
)
def test_reentrant_of_a_decorated_function():
    f = sll.enable(eps=0.25, forward="hard")(lambda x: torch.sign(x).sum())
    for around in (sll.linearize(0.5), sll.hard()):
        x = torch.tensor([0.2, 3.0], requires_grad=True)
        with around:
            checkpoint(f, x, use_reentrant=True).backward()
        assert x.grad.tolist() == [4, 0]
    g = sll.enable(eps=0.25)(lambda x: torch.sign(x).sum())
    with pytest.raises(RuntimeError, match="values of the ramp"):
        checkpoint(g, x, use_reentrant=True)


@pytest.mark.skipif(sll._mode.checkpoint.HOOKS is None, reason="needs a torch that tells which hooks save")
def test_nothing_is_kept_alive():
    region = sll.linearize(EPS)
    x = torch.linspace(-1, 1, 9).requires_grad_()
    with region:
        m = x > 0
        y = again(choose, m, x)
    ref = weakref.ref(m)
    y.sum().backward()
    del m, y
    gc.collect()
    assert ref() is None
    assert not vars(x)


def test_a_function_that_is_not_repeatable_still_raises():
    calls = []

    def f(x):
        calls.append(1)
        return torch.sign(x) * x if len(calls) == 1 else x * 2

    x = torch.zeros(3, requires_grad=True)
    with sll.linearize(EPS):
        y = again(f, x)
    with pytest.raises(CheckpointError):
        y.sum().backward()
