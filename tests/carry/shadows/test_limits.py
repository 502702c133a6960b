"""What an engine that carries outcomes cannot do, or has to copy operands for: exact hand formulas of local gradients.

The windows here are written out by hand, as a surrogate of a specialist would be.
"""

from __future__ import annotations

import pytest
import snntorch
import torch
import torch.nn.functional as F
from torchmetrics.functional import f1_score, jaccard_index
from torchmetrics.functional.classification import binary_accuracy, multiclass_accuracy

import sll
from local_by_hand import EPS, check, gradients, step, tensors
from local_reference import gradient


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
