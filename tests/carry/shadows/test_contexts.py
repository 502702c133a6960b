"""Local gradients wherever a region may stand: nested, left by an exception, in threads, under ``torch.func``, in
forward mode, twice backward, in checkpoints, under autocast. The reference has none of these: it runs beside.
"""

from __future__ import annotations

import threading
from concurrent.futures import ThreadPoolExecutor

import pytest
import torch
from torch.autograd import forward_ad
from torch.func import functional_call, grad, hessian, jacfwd, jacrev, jvp, vjp, vmap
from torch.utils.checkpoint import checkpoint

import sll
from local_programs import PROGRAMS, ROWS, operands
from local_reference import Local, gradient

EPS = 0.2113
SOME = [
    "five_decisions", "learned_thresholds", "branches_of_branches", "broadcast_masks", "masked_forms", "weighted_bits",
    "int8_quantizer", "learned_scale", "quantized_matmul", "levels", "counts_decide", "choice_of_rows", "decision_tree",
    "gate_top_two", "ranks_and_places", "chain_of_lookups",
]  # fmt: skip


def region(eps=EPS):
    return sll.linearize(eps, forward="straight-through", on_lost="ignore")


def inside(f, *xs):
    leaves = [x.detach().clone().requires_grad_() for x in xs]
    with region():
        y = f(*leaves)
    return torch.autograd.grad(y.sum(), leaves, allow_unused=True, materialize_grads=True)


def case(name):
    xs = operands(name, torch.float64, 1)
    want = gradient(PROGRAMS[name], xs, EPS)[1]
    assert any(g.any() for g in want)
    return PROGRAMS[name], tuple(xs), tuple(want)


def equal(got, want):
    torch.testing.assert_close(tuple(got), tuple(want), rtol=1e-6, atol=1e-6)


# --- regions in regions ----------------------------------------------------------------------------------------------


def test_each_decision_has_the_width_of_its_own_region():
    x = torch.tensor([0.05, -0.15, 0.3], dtype=torch.float64, requires_grad=True)
    with region(0.1):
        m = x > 0
        with region(0.4):
            n = x > 0.02
            y = (m & n).double() + torch.where(m, 2.0, 0.0)
        z = y + (m | n).double() * 3
    (g,) = torch.autograd.grad(z.sum(), x)
    slope_m, slope_n = ((x.abs() <= 0.1) / 0.2).detach(), (((x - 0.02).abs() <= 0.4) / 0.8).detach()
    a, b = (x > 0).double().detach(), (x > 0.02).double().detach()
    want = slope_m * (b + 2 + 3 * (1 - b)) + slope_n * (a + 3 * (1 - a))
    torch.testing.assert_close(g, want)


@pytest.mark.parametrize("outer", ["linear", "hard", "straight-through"])
def test_inside_regions_of_other_modes(outer):
    f, xs, want = case("branches_of_branches")
    with sll.linearize(0.05, forward=outer, on_lost="ignore"):
        equal(inside(f, *xs), want)
    with region(), sll.linearize(0.05, forward=outer, on_lost="ignore"):
        pass
    equal(inside(f, *xs), want)


def test_hard_inside():
    x = torch.tensor([0.05], dtype=torch.float64, requires_grad=True)
    with region(0.1):
        m = x > 0
        with sll.hard():
            closed = torch.sign(x)
        y = m.double() + closed
    assert torch.autograd.grad(y.sum(), x)[0].tolist() == [5.0]


def test_an_exception_leaves_one_region_only():
    x = torch.tensor([0.05], dtype=torch.float64, requires_grad=True)
    with region(0.1):
        m = x > 0
        with pytest.raises(ZeroDivisionError), region(0.4):
            n = x > 0.01
            raise ZeroDivisionError
        y = (m & n).double() + torch.sign(x)
    assert not torch.sign(x).requires_grad or torch.autograd.grad(torch.sign(x).sum(), x)[0] == 0
    torch.testing.assert_close(torch.autograd.grad(y.sum(), x)[0].item(), 1 / 0.2 + 1 / 0.8 + 2 / 0.2)


def test_an_error_of_the_program_is_the_programs():
    x = torch.randn(4, dtype=torch.float64, requires_grad=True)
    with region():
        with pytest.raises(IndexError):
            torch.arange(3.0)[torch.round(x * 0).long() + 7]
        y = (x > 0).double()
    equal(torch.autograd.grad(y.sum(), x), gradient(lambda x: (x > 0).double(), [x], EPS)[1])


def test_what_leaves_the_region_is_plain():
    x = torch.tensor([0.05], dtype=torch.float64, requires_grad=True)
    with region():
        m = x > 0
        y = m.double()
    assert type(m) is torch.Tensor and type(y) is torch.Tensor
    assert not m.double().requires_grad
    assert torch.autograd.grad(y.sum(), x)[0].any()


# --- threads ---------------------------------------------------------------------------------------------------------


def test_threads():
    names = SOME[:4] * 2
    barrier = threading.Barrier(len(names))

    def work(name):
        f, xs, want = case(name)
        barrier.wait()
        for _ in range(5):
            equal(inside(f, *xs), want)
        return name

    with ThreadPoolExecutor(len(names)) as pool:
        assert list(pool.map(work, names)) == names


def test_backward_in_another_thread():
    f, xs, want = case("branches_of_branches")
    leaves = [x.clone().requires_grad_() for x in xs]
    with region():
        y = f(*leaves).sum()
    thread = threading.Thread(target=y.backward)
    thread.start()
    thread.join()
    equal([x.grad for x in leaves], want)


# --- transforms ------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("around", [False, True])
@pytest.mark.parametrize("name", SOME)
def test_transforms(name, around):
    f, xs, want = case(name)

    def summed(*xs):
        if around:
            return f(*xs).sum()
        with region():
            return f(*xs).sum()

    numbers = tuple(range(len(xs)))
    tangents = tuple(torch.linspace(-1, 2, x.numel(), dtype=x.dtype).reshape(x.shape) for x in xs)
    along = sum((g * t).sum() for g, t in zip(want, tangents))
    with region() if around else torch.enable_grad():
        equal(grad(summed, numbers)(*xs), want)
        equal(vjp(summed, *xs)[1](torch.ones((), dtype=torch.float64).to(summed(*xs).dtype)), want)
        equal([jvp(summed, xs, tangents)[1].double()], [along])
        equal(jacrev(summed, numbers)(*xs), want)
        equal(jacfwd(summed, numbers)(*xs), want)
        with forward_ad.dual_level():
            out = summed(*(forward_ad.make_dual(x, t) for x, t in zip(xs, tangents)))
            equal([forward_ad.unpack_dual(out).tangent.double()], [along])


@pytest.mark.parametrize("around", [False, True])
@pytest.mark.parametrize("name", [name for name in SOME if ROWS[name].batchable])
def test_vmap(name, around):
    f, _, _ = case(name)
    samples = [operands(name, torch.float64, seed) for seed in range(3)]
    wants = [gradient(f, xs, EPS)[1] for xs in samples]
    batched = [torch.stack(each) for each in zip(*samples)]

    def summed(*xs):
        if around:
            return f(*xs).sum()
        with region():
            return f(*xs).sum()

    with region() if around else torch.enable_grad():
        found = vmap(grad(summed, tuple(range(len(batched)))))(*batched)
    equal(found, [torch.stack(each) for each in zip(*wants)])


def test_functional_call():
    layer = torch.nn.Linear(4, 3).double()
    x = torch.randn(5, 4, dtype=torch.float64)

    def loss(weight, bias):
        with region():
            return (functional_call(layer, {"weight": weight, "bias": bias}, (x,)) > 0.1).double().square().mean()

    parameters = (layer.weight.detach(), layer.bias.detach())
    plain = lambda w, b: (torch.nn.functional.linear(x, w, b) > 0.1).double().square().mean()
    equal(grad(loss, (0, 1))(*parameters), gradient(plain, list(parameters), EPS)[1])


# --- twice -----------------------------------------------------------------------------------------------------------


def test_double_backward():
    """The slope of a decision does not bend, but what it chooses between does."""
    x = torch.tensor([0.05, -0.1, 0.9], dtype=torch.float64, requires_grad=True)
    a = torch.tensor([2.0, 3.0, 5.0], dtype=torch.float64, requires_grad=True)
    with region():
        y = torch.where(x > 0, a**3, a) + (x > 0) * a**2
    gx, ga = torch.autograd.grad(y.sum(), (x, a), create_graph=True)
    open_ = (x.abs() <= EPS).detach() / (2 * EPS)
    torch.testing.assert_close(gx.detach(), open_ * (a**3 - a + a**2).detach())
    gxx, gxa = torch.autograd.grad(gx.sum(), (x, a), retain_graph=True, allow_unused=True, materialize_grads=True)
    torch.testing.assert_close(gxa, open_ * (3 * a**2 - 1 + 2 * a).detach())
    assert not gxx.any()
    gaa = torch.autograd.grad(ga.sum(), a, retain_graph=True)[0]
    torch.testing.assert_close(gaa, torch.where(x > 0, 6 * a + 2, 0.0).detach())


def test_hessian():
    x = torch.tensor([0.05, -0.1], dtype=torch.float64)
    with region():
        found = hessian(lambda x: (torch.sign(x) * x.square()).sum())(x)
    inside_ = torch.tensor([1.0, 1.0]).double() / EPS  # slope of sign
    torch.testing.assert_close(found, torch.diag(2 * torch.sign(x) + 2 * inside_ * 2 * x))


def test_gradient_of_a_quantizers_gradient():
    x = torch.linspace(-1, 1, 9, dtype=torch.float64, requires_grad=True)
    with sll.linearize(0.5, forward="straight-through"):
        y = (torch.round(x * 4) / 4 * x).sum()
        (g,) = torch.autograd.grad(y, x, create_graph=True)
    torch.testing.assert_close(g.detach(), (torch.round(x * 4) / 4 + x).detach())
    torch.testing.assert_close(torch.autograd.grad(g.sum(), x)[0], torch.full_like(x, 2.0))


# --- checkpoints, autocast -------------------------------------------------------------------------------------------


@pytest.mark.parametrize("name", SOME)
def test_checkpoint(name):
    f, xs, want = case(name)
    equal(inside(lambda *xs: checkpoint(f, *xs, use_reentrant=False), *xs), want)


def test_masks_cross_checkpoints():
    def program(x, y, run):
        m, n = x > 0.1, torch.round(y).long()
        z = run(lambda m, y: torch.where(m, y * y, y) * (n > 0), m, y)
        k = run(lambda z: z > 0.2, z)
        return k.double() * y + run(lambda k: (k & m).double(), k)

    xs = operands("five_decisions", torch.float64)
    want = gradient(lambda x, y: program(x, y, lambda f, *args: f(*args)), xs, EPS)[1]
    equal(inside(lambda x, y: program(x, y, lambda f, *a: checkpoint(f, *a, use_reentrant=False)), *xs), want)


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16])
def test_autocast(dtype):
    def program(x, w):
        h = torch.round((torch.sign(x) * 0.5 + x) @ w * 4) / 4
        h = torch.where(h > 0.3, h, 0.1 * h) @ w.t()
        return torch.where(h.argmax(1, keepdim=True) == 1, h * 2, h) + (h > 0.1).sum(1, keepdim=True)

    xs = [x.float() for x in operands("layers_of_signs", torch.float64)]
    results = []
    for mode in (region(), Local(EPS)):
        leaves = [x.clone().requires_grad_() for x in xs]
        with torch.autocast("cpu", dtype), mode:
            y = program(*leaves)
        results.append((y, torch.autograd.grad(y.float().sum(), leaves)))
    (y, found), (shown, want) = results
    assert torch.equal(y, shown) and y.dtype == shown.dtype
    assert all(g.any() for g in want)
    for a, b in zip(found, want):
        torch.testing.assert_close(
            a, b, rtol=4 * torch.finfo(dtype).eps, atol=4 * torch.finfo(dtype).eps * b.abs().max()
        )
