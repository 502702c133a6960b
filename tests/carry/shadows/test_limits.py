"""What an engine that carries outcomes cannot do, or has to copy operands for: exact hand formulas of local gradients.

The windows here are written out by hand, as a surrogate of a specialist would be.
"""

from __future__ import annotations

import pytest
import snntorch
import torch
import torch.nn.functional as F
from torch import library
from torchmetrics.functional import f1_score, jaccard_index
from torchmetrics.functional.classification import binary_accuracy, multiclass_accuracy

import sll
from local_reference import gradient

EPS = 0.3
LIBRARY = library.Library("local_limits", "DEF")
LIBRARY.define("scribble(Tensor x) -> Tensor")  # it writes, and does not say so


@library.impl(LIBRARY, "scribble", "CompositeExplicitAutograd")
def scribble(x):
    x.detach().mul_(3.0)
    return x.new_zeros(())


class Window(torch.autograd.Function):
    """``x > 0`` as a float, with the clipped straight-through estimator."""

    @staticmethod
    def forward(ctx, x):
        ctx.save_for_backward(x.abs() <= EPS)
        return (x > 0).to(x.dtype)

    @staticmethod
    def backward(ctx, g):
        return torch.where(ctx.saved_tensors[0], g / (2 * EPS), 0.0)


step = Window.apply


def tensors(*shapes, seed=0, scale=0.4):
    generator = torch.Generator().manual_seed(seed)
    return [scale * torch.randn(shape, generator=generator, dtype=torch.float64) for shape in shapes]


def gradients(f, operands):
    leaves = [x.clone().requires_grad_() for x in operands]
    y = f(*leaves)
    return torch.autograd.grad(y.sum(), leaves, allow_unused=True, materialize_grads=True)


def check(program, by_hand, operands):
    """The program in a region, and in the reference: as it is written by hand with windows."""
    want = gradients(by_hand, operands)
    assert any(g.any() for g in want)
    with sll.linearize(EPS, forward="straight-through", on_lost="ignore"):
        y = program(*operands)  # (plain: nothing here is followed)
        found = gradients(program, operands)
    assert torch.equal(y, by_hand(*operands).to(y.dtype))
    for got in (gradient(program, operands, EPS)[1], found):
        torch.testing.assert_close(tuple(got), tuple(want), rtol=1e-9, atol=1e-9)


def product(x):
    y = step(x[:, 0])
    for column in x.unbind(1)[1:]:
        y = y * step(column)
    return y


def either(x):
    return 1 - product(-x)


@pytest.mark.parametrize("columns", [2, 5, 9])
@pytest.mark.parametrize("name", ["and", "or", "all", "any", "prod", "where"])
def test_any_number_of_decisions_of_an_element(name, columns):
    def chain(x):
        m = x[:, 0] > 0
        for column in x.unbind(1)[1:]:
            m = m & (column > 0) if name == "and" else m | (column > 0)
        return m.double()

    (x,) = tensors((40, columns), scale=0.2)
    x = x + (0.15 if name in ("and", "all", "prod", "where") else -0.15)
    programs = {
        "and": (chain, product), "or": (chain, either), "all": (lambda x: (x > 0).all(1).double(), product),
        "any": (lambda x: (x > 0).any(1).double(), either), "prod": (lambda x: (x > 0).prod(1).double(), product),
        "where": (lambda x: torch.where((x > 0).all(1), 3.0, -1.0), lambda x: 4.0 * product(x) - 1),
    }  # fmt: skip
    check(*programs[name], [x])


def test_decisions_on_sums_of_floats():
    def program(x, w, decide):
        votes = decide(x)
        buffer = torch.zeros(3, 6, dtype=x.dtype)
        buffer[1:] = decide(votes.mean(0, keepdim=True) - 0.4)
        return decide(votes @ w - 0.5) + decide(votes.sum(1, keepdim=True) - 2.9) + decide(buffer.sum() - 5)

    hard = lambda x: (x > 0).to(x.dtype)
    check(lambda x, w: program(x, w, hard), lambda x, w: program(x, w, step), tensors((5, 6), (6, 3)))


def test_a_loop_that_decides_again_on_what_it_left_alone():
    def program(x):
        for t in range(8):
            x = torch.where(x > 0.1 * t, x, x + 0.1)
        return x

    def by_hand(x):
        for t in range(8):
            m = step(x - 0.1 * t)
            x = torch.where(x > 0.1 * t, x, x + 0.1) + (m - m.detach()) * -0.1
        return x

    with torch.no_grad():
        (x,) = tensors((50,))
    check(program, by_hand, [x])


def test_hysteresis():
    def program(out, low, gap):
        on, inside, total = torch.zeros(7, dtype=torch.bool), torch.zeros(7, dtype=torch.float64), 0.0
        for _ in range(24):
            on = (on | (inside < low)) & ~(inside > low + gap)
            inside = inside + 0.1 * (out - inside) + 0.5 * on.double()
            total = total + on * inside
        return total

    def by_hand(out, low, gap):
        on, inside, total = torch.zeros(7, dtype=torch.float64), torch.zeros(7, dtype=torch.float64), 0.0
        for _ in range(24):
            cold = step(low - inside)
            on = (1 - (1 - on) * (1 - cold)) * (1 - step(inside - (low + gap)))
            inside = inside + 0.1 * (out - inside) + 0.5 * on
            total = total + on * inside
        return total

    out, low, gap = tensors((7,), (), ())
    check(program, by_hand, [out, low, gap.abs() + 0.6])


@pytest.mark.parametrize("reset", ["zero", "subtract", "where", "cut"])
def test_spiking_layer(reset):
    def program(x, w, fire):
        v, total = torch.zeros(3, 4, dtype=x.dtype), 0.0
        for _ in range(10):
            v = 0.9 * v + x @ w
            spike = fire(v - 0.5)
            gone = spike.detach() if reset == "cut" else spike
            v = v - 0.5 * gone if reset in ("subtract", "cut") else v * (1 - gone)
            total = total + spike
        return total

    def masks(x, w):
        v, total = torch.zeros(3, 4, dtype=x.dtype), 0
        for _ in range(10):
            v = 0.9 * v + x @ w
            fired = v - 0.5 > 0
            v = torch.where(fired, 0.0, v)
            total = total + fired.long()
        return total.double()

    hard = masks if reset == "where" else lambda x, w: program(x, w, lambda v: (v > 0).to(v.dtype))
    check(hard, lambda x, w: program(x, w, step), tensors((3, 5), (5, 4), scale=0.5))


def test_inventory():
    def program(demand, s, up_to):
        stock, cost = up_to, 0.0
        for d in demand:
            stock = stock - d
            order = stock < s
            cost = cost + 2.0 * order + 0.1 * F.relu(stock) + 3 * F.relu(-stock)
            stock = torch.where(order, up_to, stock)
        return cost

    def by_hand(demand, s, up_to):
        stock, cost = up_to, 0.0
        for d in demand:
            stock = stock - d
            order = step(s - stock)
            cost = cost + 2.0 * order + 0.1 * F.relu(stock) + 3 * F.relu(-stock)
            stock = stock + order * (up_to - stock)
        return cost

    (demand,) = tensors((30,))
    operands = [demand.abs(), torch.tensor(0.5).double(), torch.tensor(1.7).double()]
    check(program, by_hand, operands)


def test_weighted_bits():
    (x,) = tensors((6, 8))
    weights = 2.0 ** torch.arange(8, dtype=torch.float64)
    check(lambda x: ((x > 0).long() * 2 ** torch.arange(8)).sum(1).double(), lambda x: step(x) @ weights, [x])
    check(lambda x: ((x > 0) * weights).sum(1), lambda x: step(x) @ weights, [x])


def test_repeated_questions():
    (x,) = tensors((60,))
    check(lambda x: ((x > 0) & (x > 0)).double(), lambda x: step(x) * step(x), [x])
    check(lambda x: ((x > 0) | (x > 0)).double(), lambda x: 1 - (1 - step(x)) * (1 - step(x)), [x])

    def same(x):
        m = x > 0
        return (m & m).double() + 2.0 * (m | m) + 4.0 * (m ^ m) + 8.0 * torch.logical_and(m, m)

    check(same, lambda x: 11 * step(x), [x])


def test_the_same_mask_in_place():
    def program(x):
        m = x > 0
        m &= m
        k = x < 0.1
        k |= k
        return m.double() - k.double()

    (x,) = tensors((60,))
    with sll.linearize(EPS, forward="straight-through"):
        (g,) = gradients(program, [x])
    want = ((x.abs() <= EPS).double() + ((x - 0.1).abs() <= EPS)) / (2 * EPS)
    torch.testing.assert_close(g, want)
    torch.testing.assert_close(gradient(program, [x], EPS)[1][0], want)


def test_maxima_of_ties():
    """Equals share the gradient of a maximum, as torch has it."""
    x = torch.tensor([[0.1, 0.2, -0.9], [-0.1, -0.2, -0.15]], dtype=torch.float64)

    def floats(x):
        return torch.maximum((x[0] > 0).double(), (x[1] > 0).double()) + (x > 0).double().amax(1).sum()

    def by_hand(x):
        return torch.maximum(step(x[0]), step(x[1])) + step(x).amax(1).sum()

    check(floats, by_hand, [x])
    check(lambda x: (x > 0).long().amax(1).double(), lambda x: step(x).amax(1), [x])


@pytest.mark.parametrize("seed", range(3))
def test_counts(seed):
    (x,) = tensors((6, 7), seed=seed)
    check(lambda x: (x > 0).sum(1).double() / 7.0, lambda x: step(x).mean(1), [x])
    check(lambda x: ((x > 0).sum(0) * (x > 0.1).sum(0)).double(), lambda x: step(x).sum(0) * step(x - 0.1).sum(0), [x])
    check(lambda x: (x > 0).count_nonzero().double() + (x > 0).int().cumsum(1).double().sum(),
          lambda x: step(x).sum() + step(x).cumsum(1).sum(), [x])  # fmt: skip
    # A comparison of a count: a ramp between neighbouring integers.
    ramp = lambda n: torch.where(n.detach() == 4, 1.0, 0.0) + torch.where(
        (n.detach() == 3) | (n.detach() == 4), n - n.detach(), 0.0) + (n.detach() > 4)  # fmt: skip
    check(lambda x: ((x > 0).sum(1) >= 4).double(), lambda x: ramp(step(x).sum(1)), [x])


# --- writes between a decision and its use ---------------------------------------------------------------------------

WRITES = {
    "in place": lambda t: t.mul_(3.0),
    "item": lambda t: t.__setitem__(0, 7.0),
    "copy": lambda t: t.copy_(torch.full_like(t, -2.0)),
    "data": lambda t: t.data.mul_(3.0),
    "detach": lambda t: t.detach().zero_(),
    "numpy": lambda t: t.detach().numpy().fill(5.0),
    "view": lambda t: t[1:].neg_(),
    "custom op": lambda t: torch.ops.local_limits.scribble(t),
    "foreach": lambda t: torch._foreach_mul_([t.detach()], 2.0),
    "random": lambda t: t.detach().uniform_(-9, 9),
}


@pytest.mark.parametrize("write", WRITES)
def test_writes_to_what_was_compared(write):
    (x,) = tensors((9,))

    def program(x):
        y = x * 1.0
        m, n, r = y > 0, torch.floor(y * 5).long(), (y * 2).sign()
        WRITES[write](y)
        return torch.where(m, 5.0, 2.0) + n.double() + r

    def by_hand(x):
        off = x.detach() * 5 - (x.detach() * 5).round()
        floor = torch.where(off.abs() <= EPS, x * 5 / (2 * EPS), 0.0)
        return 3 * step(x) + floor + 2 * step(2 * x)

    with sll.linearize(EPS, forward="straight-through"):
        (g,) = gradients(program, [x])
    (want,) = gradients(by_hand, [x])
    torch.testing.assert_close(g, want)


@pytest.mark.parametrize("write", WRITES)
def test_writes_to_tables_and_branches(write):
    x, a, b, t = tensors((9,), (9,), (9,), (12,))

    def program(x):
        table, left, right = t.clone(), a.clone(), b.clone()
        n = torch.round(x * 4).long() + 5
        n.clamp_(0, 11)
        y = table[n] + torch.where(x > 0, left, right) + table.gather(0, n)
        for each in (table, left, right):
            WRITES[write](each)
        return y

    def by_hand(x):
        n = torch.round(x * 4) + 5
        frac = x * 4 - (x * 4).floor() - 0.5
        other = (2 * (x * 4).floor() + 1 - torch.round(x * 4) + 5).clamp(0, 11).long()
        slope = (t[other] - t[n.clamp(0, 11).long()]) / (other - n.clamp(0, 11)).where(other != n.clamp(0, 11), 1.0)
        inside = (frac.abs() <= EPS) & (n >= 0) & (n <= 11)
        return inside * slope * 2 * 4 / (2 * EPS) + (x.abs() <= EPS) * (a - b) / (2 * EPS)

    with sll.linearize(EPS, forward="straight-through"):
        (g,) = gradients(program, [x])
    torch.testing.assert_close(g, by_hand(x))


def test_writes_to_masks_and_counts():
    """A mask that is written to is another: what was done with it stays done."""
    (x,) = tensors((9,))

    def program(x):
        m = x > 0
        y = m.double() * 3
        m.logical_not_()
        z = m.double()
        m.zero_()
        return y + z + m.double()

    check(program, lambda x: 3 * step(x) + (1 - step(x)), [x])


# --- other people's programs -----------------------------------------------------------------------------------------


def agree(program, operands, eps=EPS):
    expected = gradient(program, operands, eps)
    with sll.linearize(eps, forward="straight-through", on_lost="ignore"):
        leaves = [x.clone().requires_grad_() for x in operands]
        y = program(*leaves)
    assert torch.equal(y, expected[0])
    got = torch.autograd.grad(y.sum(), leaves, allow_unused=True, materialize_grads=True)
    assert any(g.any() for g in expected[1])
    torch.testing.assert_close(got, tuple(expected[1]), rtol=1e-4, atol=1e-5)


TARGETS = torch.arange(16) % 3
METRICS = {
    "accuracy": lambda x: binary_accuracy(x[:, 0].sigmoid(), TARGETS % 2, validate_args=False),
    "accuracy of classes": lambda x: multiclass_accuracy(x, TARGETS, 3, average="micro", validate_args=False),
    "f1": lambda x: f1_score(x[:, 0].sigmoid(), TARGETS % 2, task="binary", validate_args=False),
    "jaccard": lambda x: jaccard_index(x[:, 1].sigmoid(), TARGETS % 2, task="binary", validate_args=False),
}


@pytest.mark.parametrize("name", METRICS)
def test_torchmetrics(name):
    (x,) = tensors((16, 3), scale=0.6)
    agree(METRICS[name], [x])


@pytest.mark.parametrize("mechanism", ["subtract", "zero"])
def test_snntorch(mechanism):
    (x,) = tensors((4, 5), scale=0.9)
    heaviside = lambda x: (x > 0).to(x.dtype)

    def program(x):
        layer = snntorch.Leaky(beta=0.8, threshold=0.7, reset_mechanism=mechanism, spike_grad=heaviside)
        membrane, total = layer.init_leaky().to(x.dtype), 0.0
        for _ in range(5):
            spike, membrane = layer(x, membrane)
            total = total + spike + 0.1 * membrane
        return total

    agree(program, [x])
