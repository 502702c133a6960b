"""`torch.func`, forward mode and higher derivatives, on every program of the oracle suite: as `torch.autograd.grad`."""

from __future__ import annotations

import pytest
import torch
from torch import nn
from torch.autograd import forward_ad
from torch.func import functional_call, grad, grad_and_value, hessian, jacfwd, jacrev, jvp, linearize, vjp, vmap

import sll
from compatibility import row
from oracles import grads, leaf
from programs import PROGRAMS, ROWS

EPS = 0.1
FUNC, HIGHER = "torch.func, forward mode", "higher order"


def points():
    anywhere = torch.linspace(-2.4, 2.4, 7, dtype=torch.float64) * 1.013 + 0.0031
    return torch.cat([anywhere, torch.tensor([0.02, 0.32, 0.52, -0.48, 1.03], dtype=torch.float64)])


def programs(f):
    return pytest.mark.parametrize("forward", ["linear", "hard"])(pytest.mark.parametrize("name", PROGRAMS)(f))


def programs_of_all_modes(f):
    """Local gradients have tests of their own, in carry/shadows: here every fourth program."""
    cases = [(name, forward) for name in PROGRAMS for forward in ("linear", "hard")]
    cases += [(name, "straight-through") for name in list(PROGRAMS)[::4]]
    return pytest.mark.parametrize(("name", "forward"), cases)(f)


class Case:
    """A program in a region: as a function that enters it, and its gradient by autograd."""

    def __init__(self, name, forward):
        self.f = PROGRAMS[name]
        self.forward = forward
        self.x = points()
        x = self.x.clone().requires_grad_()
        y = self(x)
        self.want = torch.autograd.grad(y.sum(), x)[0] if y.requires_grad else torch.zeros_like(self.x)

    def region(self):
        return sll.linearize(EPS, forward=self.forward, on_lost="ignore")

    def __call__(self, x):
        with self.region():
            return self.f(x)

    def equal(self, got):
        torch.testing.assert_close(got.detach(), self.want, rtol=1e-9, atol=1e-9)


@row(FUNC, "`grad`, `vjp`, `jvp`, `jacrev`, `jacfwd`, `linearize`; region inside or around", "works")
@programs_of_all_modes
def test_transforms(name, forward):
    case = Case(name, forward)
    x, ones = case.x, torch.ones_like(case.x)
    case.equal(grad(lambda x: case(x).sum())(x))
    with case.region():
        case.equal(grad(lambda x: case.f(x).sum())(x))
    case.equal(vjp(case, x)[1](ones)[0])
    case.equal(jvp(case, (x,), (ones,))[1])
    case.equal(jacrev(case)(x).diagonal())
    case.equal(jacfwd(case)(x).diagonal())


@row(FUNC, "forward-mode AD (`torch.autograd.forward_ad`)", "works")
@programs_of_all_modes
def test_forward_mode(name, forward):
    case = Case(name, forward)
    with forward_ad.dual_level():
        tangent = forward_ad.unpack_dual(case(forward_ad.make_dual(case.x, torch.ones_like(case.x)))).tangent
    case.equal(torch.zeros_like(case.x) if tangent is None else tangent)


@row(
    FUNC,
    "`vmap`, `vmap(grad)`; region inside or around",
    "works",
    "what raises under `vmap` without a region still does",
)
@programs_of_all_modes
def test_vmap(name, forward):
    case = Case(name, forward)
    if not ROWS[name].batchable:
        with pytest.raises(RuntimeError):
            vmap(grad(lambda x: case.f(x[None]).sum()))(case.x)
        return
    case.equal(vmap(grad(lambda x: case(x[None]).sum()))(case.x))
    with case.region():
        case.equal(vmap(grad(lambda x: case.f(x[None]).sum()))(case.x))


@row(HIGHER, "double backward, `create_graph=True`, `hessian`", "works", "no curvature in the band of one decision")
@programs
def test_no_curvature(name, forward):
    case = Case(name, forward)
    x = case.x.clone().requires_grad_()
    y = case(x)
    if not y.requires_grad:
        return
    (g,) = torch.autograd.grad(y.sum(), x, create_graph=True)
    case.equal(g)
    second = torch.autograd.grad(g.sum(), x, allow_unused=True)[0] if g.requires_grad else None
    matrix = hessian(lambda x: case(x).sum())(case.x)
    if not ROWS[name].product:
        assert second is None or not second.any()
        assert not matrix.any()
    elif second is not None:
        torch.testing.assert_close(matrix.diagonal(), second)


def test_products_of_decisions_have_mixed_derivatives():
    f = lambda x: ((x[0] > 0) & (x[1] > 0)).double()
    x = torch.tensor([0.1, -0.2], dtype=torch.float64)
    with sll.linearize(0.5):
        assert hessian(f)(x).tolist() == [[0.0, 1.0], [1.0, 0.0]]


@row(HIGHER, "gradient penalties: the gradient of a gradient's norm", "works")
def test_gradient_penalty():
    torch.manual_seed(0)
    net = nn.Sequential(nn.Linear(4, 8), nn.Tanh(), nn.Linear(8, 1)).double()
    x = torch.randn(16, 4, dtype=torch.float64, requires_grad=True)

    def penalty():
        with sll.linearize(0.7):
            y = torch.round(net(x) * 3)
            (g,) = torch.autograd.grad(y.sum(), x, create_graph=True)
            return g.square().sum(1).mean()

    found = torch.autograd.grad(penalty(), list(net.parameters()), allow_unused=True)
    for p, g in zip(net.parameters(), found):
        for i in range(min(p.numel(), 3)):
            flat, h = p.data.view(-1), 1e-6
            before = flat[i].item()
            ends = []
            for step in (h, -h):
                flat[i] = before + step
                ends.append(penalty().item())
            flat[i] = before
            want = (ends[0] - ends[1]) / (2 * h)
            assert (0.0 if g is None else g.view(-1)[i].item()) == pytest.approx(want, abs=1e-4)


@row(FUNC, "`functional_call`, per-sample gradients, ensembles (`stack_module_state`)", "works")
def test_per_sample_gradients_and_ensembles():
    class Sign(nn.Module):
        def forward(self, x):
            return torch.sign(x)

    torch.manual_seed(0)
    nets = [nn.Sequential(nn.Linear(4, 8), Sign(), nn.Linear(8, 1)).double() for _ in range(3)]
    x = torch.randn(5, 4, dtype=torch.float64)

    def loss(params, x):
        with sll.linearize(0.4):
            return functional_call(nets[0], params, (x,)).square().sum()

    params = dict(nets[0].named_parameters())
    each = vmap(grad(loss), (None, 0))({name: p.detach() for name, p in params.items()}, x)
    for i, row_ in enumerate(x):
        want = torch.autograd.grad(loss(params, row_), list(params.values()))
        torch.testing.assert_close([g[i] for g in each.values()], list(want))

    stacked, _ = torch.func.stack_module_state(nets)
    all_of_them = vmap(grad_and_value(loss), (0, None))({name: p.detach() for name, p in stacked.items()}, x)[0]
    for i, net in enumerate(nets):
        own = dict(net.named_parameters())
        want = torch.autograd.grad(loss(own, x), list(own.values()))
        torch.testing.assert_close([g[i] for g in all_of_them.values()], list(want))


@row(
    FUNC,
    "a mask or an index that goes into `vmap` as an argument",
    "works",
    'with `"straight-through"`; in the other modes its decision is lost, and reported. Close over it, or pass a float',
)
def test_decisions_into_vmap_are_reported():
    x = torch.linspace(-1, 1, 8, dtype=torch.float64).requires_grad_()
    with sll.linearize(0.3, on_lost="error"):
        mask, v = (x > 0).view(2, 4), x.view(2, 4)
        for f in (lambda m, v: m.double() * v, lambda m, v: torch.where(m, v, -v), lambda m, v: (m & m).sum() * v):
            with pytest.raises(sll.LostGradientError, match="made outside of vmap"):
                vmap(f)(mask, v)
        closed = vmap(lambda v: (mask[0].double() * v).sum())(v)
        floats = vmap(lambda m, v: (m * v).sum())(mask.double(), v)
    assert closed.requires_grad and floats.requires_grad


@row(
    FUNC,
    "a mask or an index that `vmap` returns",
    "works",
    'with `"straight-through"`; in the other modes its decision ends there, and that is reported. Return a float',
)
def test_decisions_out_of_vmap_end_there():
    x = torch.linspace(-1, 1, 8).requires_grad_()
    with sll.linearize(0.3, on_lost="ignore") as region:
        inside = vmap(lambda r: (r > 0) & (r < 1))(x)
        assert not region.report().lost
        assert not inside.float().requires_grad  # if this fails, correct the table
        assert [site.op for site in region.report().lost] == ["float"]
        assert vmap(lambda r: (r > 0).float())(x).requires_grad


def test_func_linearize():
    x = points()
    with sll.linearize(EPS):
        value, tangent_of = linearize(lambda x: torch.round(x * 2), x)
    case_x = x.clone().requires_grad_()
    with sll.linearize(EPS):
        y = torch.round(case_x * 2)
    torch.testing.assert_close(value, y.detach())
    torch.testing.assert_close(tangent_of(torch.ones_like(x)), torch.autograd.grad(y.sum(), case_x)[0])


def test_vmap_inside_and_outside_of_grad():
    x = leaf(0.1, 0.2)
    with sll.linearize(0.5):
        y = torch.vmap(torch.sign)(x)
        z = torch.vmap(lambda v: torch.where(v > 0, v, 0.0))(x)
        per_sample = torch.vmap(torch.func.grad(lambda v: torch.where(v > 0, v, 0.0)))(x.detach())
        filled = torch.vmap(torch.func.grad(lambda v: v.masked_fill(v > 5, float("-inf"))))(x.detach())
        tangent = torch.func.jvp(lambda v: v // 0.7, (torch.tensor([0.75]),), (torch.ones(1),))[1]
    assert grads(y, x) == [2, 2]
    torch.testing.assert_close(torch.tensor(grads(z, x)), 0.5 + 2 * x.detach())
    torch.testing.assert_close(per_sample, 0.5 + 2 * x.detach())
    assert filled.tolist() == [1, 1]
    torch.testing.assert_close(tangent, torch.tensor([1 / 0.7]))


@pytest.mark.parametrize("forward", ["straight-through", "linear", "hard"])
@pytest.mark.parametrize("f", [lambda x: x.argsort().argsort() * x.detach(), lambda x: x.sort().values.sign()])
def test_orders_of_a_row_whose_width_is_measured(f, forward):
    x = torch.tensor([0.3, -1.0, 0.2, 2.0, 0.7])
    region, leaf = sll.linearize("auto", forward=forward), x.clone().requires_grad_()
    with region:
        transformed = torch.func.grad(lambda x: f(x).sum())(x)
        (plain,) = torch.autograd.grad(f(leaf).sum(), leaf)
    torch.testing.assert_close(transformed, plain)
    assert plain.any()


@pytest.mark.parametrize("forward", ["straight-through", "linear", "hard"])
def test_a_batch_of_gradients(forward):
    """``is_grads_batched=True``, which `jacobian(vectorize=True)` passes: backward runs under `vmap`."""
    for name in list(PROGRAMS)[::2]:
        x = points().requires_grad_()
        with sll.linearize(EPS, forward=forward, on_lost="ignore"):
            out = PROGRAMS[name](x)
        if not out.requires_grad or not out.numel():
            continue
        some = torch.eye(out.numel(), dtype=out.dtype)[:4].reshape(-1, *out.shape)
        (batched,) = torch.autograd.grad(out, x, some, is_grads_batched=True, retain_graph=True)
        rows = [torch.autograd.grad(out, x, g, retain_graph=True)[0] for g in some]
        torch.testing.assert_close(batched, torch.stack(rows), msg=lambda text, name=name: f"{name}: {text}")
