"""What the program itself cuts: `torch.no_grad` and `detach`, seen through and reported."""

from __future__ import annotations

import copy
import os
import sysconfig
import threading
import warnings

import pytest
import torch
import torch.nn.functional as F
from torch import nn
from torch.utils.checkpoint import checkpoint

import sll

MODES = ("linear", "hard", "straight-through")
EPS = 0.1


def x_in_band():
    return torch.tensor([-0.3, 0.02, 0.4, -0.05], requires_grad=True)


def gradient(f, forward, **options):
    """Of the sum of what `f` returns; None if it has no graph."""
    x = x_in_band()
    with sll.linearize(EPS, forward=forward, **options):
        y = f(x)
    return torch.autograd.grad(y.sum(), x)[0] if y.requires_grad else None


def decide(x):
    return (x.sigmoid() > 0.5).float() * torch.arange(1.0, 5.0)


def under_no_grad(x):
    with torch.no_grad():
        return decide(x)


@torch.no_grad()
def decorated(x):
    return decide(x)


def switched(x):
    before = torch.is_grad_enabled()
    torch.set_grad_enabled(False)
    y = decide(x)
    torch.set_grad_enabled(before)
    return y


def written(x):
    with torch.no_grad():
        out = torch.zeros(4)
        out[1:] = decide(x)[1:]
        row = out[:1]
        row += decide(x)[:1]
        return out


def half_inside(x):
    m = x.sigmoid() > 0.5
    with torch.no_grad():
        return m.float() * torch.arange(1.0, 5.0)


BLOCKS = {f.__name__: f for f in (under_no_grad, decorated, switched, written, half_inside)}


@pytest.mark.parametrize("forward", MODES)
@pytest.mark.parametrize("name", BLOCKS)
def test_sees_through_blocks_entered_inside(name, forward):
    """The same gradient as that of the program without the block."""
    want = gradient(decide, forward)
    assert want.all()
    for see_through in (True, {"no_grad"}):
        torch.testing.assert_close(gradient(BLOCKS[name], forward, see_through=see_through, on_lost="error"), want)
    assert gradient(BLOCKS[name], forward, on_lost="ignore") is None
    assert gradient(BLOCKS[name], forward, see_through={"detach"}, on_lost="ignore") is None


@pytest.mark.parametrize("forward", MODES)
def test_not_through_blocks_around(forward):
    x = x_in_band()
    with torch.no_grad(), sll.linearize(EPS, forward=forward, see_through=True):
        assert not decide(x).requires_grad
    inner = sll.linearize(EPS, forward=forward, see_through=True)
    with sll.linearize(EPS, forward=forward), torch.no_grad(), inner:
        assert not decide(x).requires_grad


def in_a_package(source):
    """The function `f`, as if it were installed."""
    found = {"torch": torch}
    exec(compile(source, os.path.join(sysconfig.get_paths()["purelib"], "some", "package.py"), "exec"), found)
    return found["f"]


CUTS = {
    "mask": lambda x: (x > 0).detach().float(),
    "in place": lambda x: (x > 0).detach_().float(),
    "a package's float": in_a_package("def f(x):\n    return (x > 0).float().detach()"),
    "a package's sum": in_a_package("def f(x):\n    return ((x > 0).float() * 2).detach() / 2"),
}


@pytest.mark.parametrize("forward", MODES)
@pytest.mark.parametrize("name", CUTS)
def test_sees_through_detach_of_decisions(name, forward):
    want = gradient(lambda x: (x > 0).float(), forward)
    assert want.any()
    for see_through in (True, {"detach"}):
        torch.testing.assert_close(gradient(CUTS[name], forward, see_through=see_through, on_lost="error"), want)


@pytest.mark.parametrize("forward", MODES)
def test_a_float_that_the_program_detaches_stays_detached(forward):
    """So an average over steps does not keep their graphs."""
    x, average = x_in_band(), torch.zeros(4)
    region = sll.linearize(EPS, forward=forward, see_through=True)
    for _ in range(3):
        with region:
            y = (x > 0).float()
            average = 0.9 * average + 0.1 * y.detach()
            loss = y.sum() - average.sum()
        loss.backward()
    assert not average.requires_grad


@pytest.mark.parametrize("forward", MODES)
def test_detach_of_what_is_not_decided_stays(forward):
    x = x_in_band()
    with sll.linearize(EPS, forward=forward, see_through=True):
        y = x.sigmoid()
        assert not y.detach().requires_grad and not torch.detach(y).requires_grad
        assert not y.detach_().requires_grad


@pytest.mark.parametrize("eps", [EPS, "auto"])
@pytest.mark.parametrize("forward", ["hard", "straight-through"])
def test_a_straight_through_estimator_keeps_its_slope(forward, eps):
    """One's own, and with local gradients that of a package."""
    theirs = in_a_package("def f(x):\n    return x + (torch.round(x) - x).detach()")
    for program in [lambda x: x + (torch.round(x) - x).detach(), theirs][: 1 + (forward == "straight-through")]:
        x = x_in_band()
        with sll.linearize(eps, forward=forward, see_through=True):
            y = program(x)
        torch.testing.assert_close(torch.autograd.grad(y.sum(), x)[0], torch.ones(4))


def test_numbers_of_results_are_as_ever():
    x = x_in_band()
    with sll.linearize(EPS, forward="hard", see_through=True, on_lost="ignore"):
        with torch.no_grad():
            assert not torch.is_grad_enabled()
            y = decide(x)
            assert y.numpy().tolist() == y.tolist() == [0.0, 2.0, 3.0, 0.0] and y[1].item() == 2.0
        assert torch.is_grad_enabled()
        assert y.detach().cpu().numpy().tolist() == [0.0, 2.0, 3.0, 0.0]
        assert not copy.deepcopy(y).requires_grad


class Steps(nn.Module):
    """A layer that keeps averages of its own, as normalization, quantizers and codebooks do."""

    def __init__(self):
        super().__init__()
        self.layer, self.norm = nn.Linear(4, 4), nn.BatchNorm1d(4)
        for name in ("mean", "moved", "copied"):
            self.register_buffer(name, torch.zeros(4))
        self.register_buffer("count", torch.zeros((), dtype=torch.int64))

    def forward(self, x):
        y = self.norm(self.layer(x))
        with torch.no_grad():
            self.mean.mul_(0.9).add_(y.mean(0), alpha=0.1)
            self.moved.lerp_((y > 0).float().mean(0), 0.1)
            self.copied.copy_(0.5 * self.copied + (y > 0).float().mean(0))
            self.count += 1
        return y


def train(optimizer, **options):
    torch.manual_seed(0)
    net = Steps()
    average = [p.detach().clone() for p in net.parameters()]
    opt = optimizer(net.parameters())
    region = sll.linearize(EPS, forward="straight-through", on_lost="ignore", **options)
    with region:
        for _ in range(3):
            opt.zero_grad()
            (net(torch.randn(8, 4)) > 0).float().mean().backward()
            opt.step()
            with torch.no_grad():
                for old, p in zip(average, net.parameters()):
                    old.mul_(0.9).add_(p, alpha=0.1)
        kept = [*net.buffers(), *average, *(x for state in opt.state.values() for x in state.values())]
        assert all(x.is_leaf and not x.requires_grad for x in kept if isinstance(x, torch.Tensor))
        assert all("_sll" not in p.__dict__ for p in net.parameters())
    return [*net.state_dict().values(), *average]


OPTIMIZERS = {
    "sgd": lambda p: torch.optim.SGD(p, 0.1, momentum=0.9, weight_decay=0.1),
    "adam": lambda p: torch.optim.Adam(p, 0.1, weight_decay=0.1, amsgrad=True),
    "adamw foreach": lambda p: torch.optim.AdamW(p, 0.1, foreach=True),
    "rmsprop": lambda p: torch.optim.RMSprop(p, 0.1, momentum=0.5, centered=True),
}


@pytest.mark.parametrize("name", OPTIMIZERS)
def test_what_training_writes_is_as_ever(name):
    for a, b in zip(train(OPTIMIZERS[name]), train(OPTIMIZERS[name], see_through=True)):
        assert torch.equal(a, b)


def depth(x):
    todo, seen = [x.grad_fn], set()
    while todo:
        node = todo.pop()
        if node is not None and node not in seen:
            seen.add(node)
            todo += [below for below, _ in node.next_functions]
    return len(seen)


def test_averages_do_not_grow():
    """Also those that are made anew in every step, of an input that has a graph."""
    mean, sizes, counts = torch.zeros(4), [], torch.zeros(4, dtype=torch.int64)
    with sll.linearize(EPS, forward="straight-through", see_through=True):
        for _ in range(4):
            x = x_in_band()
            with torch.no_grad():
                mean = 0.9 * mean + 0.1 * decide(x)
                counts = counts + (x > 0)
            (mean.sum() + counts.float().sum() + x.sum()).backward()
            sizes.append((depth(mean), depth(counts.float())))
    assert len(set(sizes[1:])) == 1


@pytest.mark.parametrize("forward", MODES)
def test_in_reports_checkpoints_and_threads(forward):
    want = gradient(decide, forward)
    torch.testing.assert_close(gradient(under_no_grad, forward, see_through=True, trace=True), want)
    again = lambda x: checkpoint(under_no_grad, x * 1.0, use_reentrant=False)
    torch.testing.assert_close(gradient(again, forward, see_through=True), want)
    found = []
    thread = threading.Thread(target=lambda: found.append(gradient(under_no_grad, forward, see_through=True)))
    thread.start()
    thread.join()
    torch.testing.assert_close(found[0], want)


@pytest.mark.parametrize("forward", MODES)
def test_in_compiled_code(forward):
    """Eager mode does these calls."""
    compiled = torch.compile(under_no_grad, backend="aot_eager")
    torch.testing.assert_close(gradient(compiled, forward, see_through=True), gradient(decide, forward))
    compiled = torch.compile(lambda x: (x > 0).detach().float(), backend="aot_eager")
    want = gradient(lambda x: (x > 0).float(), forward)
    torch.testing.assert_close(gradient(compiled, forward, see_through=True), want)


class Rounds(torch.autograd.Function):
    """A function with a backward of its own."""

    @staticmethod
    def forward(ctx, x):
        with torch.no_grad():
            return torch.round(x)

    @staticmethod
    def backward(ctx, g):
        return 7 * g


@pytest.mark.parametrize("forward", MODES)
def test_functions_keep_their_own_backward(forward):
    torch.testing.assert_close(gradient(Rounds.apply, forward, see_through=True), torch.full((4,), 7.0))


# --- reported --------------------------------------------------------------------------------------------------------


def said(f, **options):
    """The warnings of three steps, and the report."""
    with warnings.catch_warnings(record=True) as seen:
        warnings.simplefilter("always")
        with sll.linearize(EPS, **options) as region:
            for _ in range(3):
                f(x_in_band())
    return [w for w in seen if issubclass(w.category, sll.LostGradientWarning)], region.report()


USED = {
    "loss": lambda x: x.sum() * under_no_grad(x).mean(),
    "later": lambda x: x.sum() + 1 - under_no_grad(x).mean(),
    "index": lambda x: x[chosen(x)].sum(),
    "written": lambda x: x * written(x),
    "float": lambda x: x * torch.no_grad()(torch.trapz)(decide(x)),
    "where": lambda x: torch.where(under_no_grad(x) > 1, x, 0),
    "in block": lambda x: x * half_inside(x),
    "detached": lambda x: x * (x > 0).detach(),
}


@torch.no_grad()
def chosen(x):
    return x.argmax()


@pytest.mark.parametrize("forward", MODES)
@pytest.mark.parametrize("name", USED)
def test_used_with_gradients_is_said_once(name, forward):
    lost, report = said(USED[name], forward=forward)
    assert len(lost) == 1 and lost[0].filename == __file__ and "see_through" in str(lost[0].message)
    calls = 6 if name == "written" else 3  # (it decides twice)
    assert list(report.cut.values()) == [calls]
    assert "see_through" in str(report) and report.to_dict()["cut"][0]["calls"] == calls
    lost, _ = said(USED[name], forward=forward, see_through=True)
    assert lost == []


@pytest.mark.parametrize("forward", MODES)
def test_error_at_the_use(forward):
    with (
        pytest.raises(sll.LostGradientError, match="see_through"),
        sll.linearize(EPS, forward=forward, on_lost="error"),
    ):
        USED["loss"](x_in_band())


def logged(x):
    with torch.no_grad():
        hits = (x > 0).float().mean()
        total = 0.9 * hits + 0.1
    return [hits.item(), float(total), f"{total:.2f}", bool(hits > 0.5), str(hits)]


QUIET = {
    "logged": logged,
    "statistics": lambda x: x * torch.no_grad()(lambda: x.std())(),
    "target": lambda x: F.mse_loss(x, x.detach().round()),
    "teacher": lambda x: F.cross_entropy(x[None], torch.no_grad()(nn.Linear(4, 4))(x.detach())[None].argmax(1)),
    "estimator": lambda x: x + (x.clamp(0, 1) - x).detach(),
    "detached first": lambda x: x * torch.no_grad()(lambda: x.detach() > 0)(),
    "averages": lambda x: x * (1 + torch.no_grad()(lambda m: m.lerp_(decide(x), 0.1))(torch.zeros(4))),
    "like": lambda x: x + torch.zeros_like(under_no_grad(x)),
}


@pytest.mark.parametrize("forward", MODES)
@pytest.mark.parametrize("name", QUIET)
def test_quiet(name, forward):
    assert said(QUIET[name], forward=forward)[0] == []


@pytest.mark.parametrize("forward", MODES)
def test_parameters_decide_without_a_word(forward):
    """A mask of weights that is made under `no_grad` is meant to be fixed: nothing looks through it."""
    p = nn.Parameter(torch.tensor([-0.5, 0.05]))

    def prune(x):
        with torch.no_grad():
            mask = (p.abs() > 0.1).float()
            p.copy_(torch.sign(p) * p.abs())
        return (p * mask).sum() + x.sum()

    for see_through in (False, True):
        lost, report = said(prune, forward=forward, see_through=see_through)
        assert lost == [] and not report.cut and "_sll" not in p.__dict__


def test_inference_mode_is_a_row():
    def f(x):
        with torch.inference_mode():
            return (x > 0).float()

    for see_through in (False, True):
        lost, report = said(f, see_through=see_through)
        assert lost == [] and list(report.cut.values()) == [3]


def test_marks_end_with_the_region():
    x = x_in_band()
    with sll.linearize(EPS):
        y = under_no_grad(x)
        assert "_sll" in y.__dict__
    assert "_sll" not in y.__dict__


@pytest.mark.parametrize("value", ["no_grad", 1, {"nograd"}, ["no_grad", 2]])
def test_what_see_through_takes(value):
    with pytest.raises((TypeError, ValueError), match="see_through must be"):
        sll.linearize(EPS, see_through=value)


@pytest.mark.parametrize("forward", ["linear", "hard"])
def test_a_decided_float_that_is_detached_is_a_row(forward):
    """An estimator of the program's own, ``x + (q - x).detach()``. What our definitions detach is none."""
    x = torch.tensor([0.51, 1.0, 2.0], requires_grad=True)
    with sll.linearize(0.02, forward=forward) as region:
        torch.round(x).mode()
        assert not region.report().cut
        y = x + (torch.round(x) - x).detach()
    assert y.requires_grad and [site.op for site in region.report().cut] == ["detach"]


STEPS = {
    "masks": lambda x: (((x > 0) & (x < 0.5)).long().sum() * 3).float(),
    "where": lambda x: torch.where(x > 0, x, -x).round(),
    "counts": lambda x: ((x > 0).sum() > 1).float() + torch.tensor([1, 0, 1, 1]).eq(x > 0).sum(),
    "one_hot": lambda x: F.one_hot((x[None] / 5).argmax(1), 4) * torch.arange(1.0, 5.0),
    "cast": lambda x: (x * 10).long().clamp(0, 3).to(x) + (x > 0).to(x.dtype),
}


@pytest.mark.parametrize("forward", MODES)
@pytest.mark.parametrize("name", STEPS)
def test_what_is_seen_through_is_what_runs_without_the_block(name, forward):
    f = STEPS[name]

    def blocked(x):
        with torch.no_grad():
            return f(x)

    plain, through = gradient(f, forward), gradient(blocked, forward, see_through=True)
    assert torch.equal(plain, through) and plain.any()


def test_what_is_seen_through_takes_the_rules_of_few_steps():
    x = x_in_band()
    with sll.linearize(EPS, forward="straight-through", see_through=True):
        with torch.no_grad():
            m = (x > 0) & (x < 0.5)
            n = m.sum()
        assert m._sll[0].exact is n._sll[0].exact is torch.float32
