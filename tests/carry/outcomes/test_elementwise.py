"""Functions of both outcomes, element by element."""

from __future__ import annotations

import pytest
import torch
import torch.nn.functional as F

import sll
from oracles import grads, leaf, like_a_trace


def test_integer_division_by_the_outcome_not_taken():
    x = leaf(0.9, 2.3)
    with sll.linearize(0.01):
        y = 7 // torch.round(x).int() + torch.tensor([7, 7]) % torch.round(x).int()
    assert y.tolist() == [7, 4]


def test_inplace_flags_and_binary_max():
    def slope(f):
        x = leaf(0.01)
        with sll.linearize(0.1):
            y = f(torch.sign(x) * 10)
        return grads(y, x)[0]

    assert slope(lambda s: torch.round(F.relu(s + 10, inplace=True))) == pytest.approx(100)
    assert slope(lambda s: torch.round(torch.max(s, torch.tensor(-20.0)))) == pytest.approx(100)
    x = leaf(0.35)
    with sll.linearize(0.5):
        h = x * 1
        out = F.threshold(h, 0.1, 20.0, inplace=True)
    assert out is h and h.item() == pytest.approx(20 + 0.75 * (0.35 - 20))


INT8 = torch.int8


@pytest.mark.usefixtures("loops_everywhere")
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


@pytest.mark.usefixtures("loops_everywhere")
@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
def test_half_masks_become_floats_of_full_precision(dtype):
    x = torch.linspace(-1, 1, 300).to(dtype)
    value, _ = like_a_trace(lambda x: (x > 0.011).float(), x, eps=1.0)
    assert (value != value.to(dtype).float()).any()


def test_casts_of_masks():
    x = leaf(-1.0, 0.001, 2.0)
    with sll.linearize(0.01):
        m = (x > 0).long()
        y = m @ torch.tensor([1, 10, 100])
        z = torch.bincount(m, minlength=2)
    assert y.item() == 110 and z.tolist() == [1, 2]
    with sll.linearize(0.01):
        m = (x > 0).long()
        y = (m @ torch.tensor([1, 10, 100])).float()
        z = torch.bincount(m, minlength=2).float()
    assert grads(y, x) == [0, 500, 0]
    assert grads(z[0], x) == [0, -50, 0] and grads(z[1], x) == [0, 50, 0]


def test_a_cast_of_what_no_longer_carries_is_a_source():
    x = leaf(0.25)
    with sll.linearize(0.5):
        t = torch.sign(x) * 10
        s = t * 0.1
        t.add_(1)
        y = (s * 3 + 0.6).long().float()
    assert grads(y, x)[0] != 0
