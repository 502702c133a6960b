"""``forward="straight-through"``: values of the plain program; what it takes gets the gradient it gets without a
region, and decisions have their slopes on top.
"""

from __future__ import annotations

import math
import warnings

import pytest
import torch
import torch.nn.functional as F

import sll
from oracles import same_bits
from programs import PROGRAMS
from sll._carry.shadows import sources
from sll._carry.shadows.engine import ENGINE
from sll._ops.measured import Sides

EPS = 0.2


def region(forward="straight-through", eps=EPS):
    return sll.linearize(eps, forward=forward, on_lost="ignore")


@pytest.mark.parametrize("dtype", [torch.float64, torch.float16])
@pytest.mark.parametrize("name", PROGRAMS)
def test_values_are_the_plain_programs(name, dtype):
    f = PROGRAMS[name]
    x = torch.linspace(-2.4, 2.4, 97, dtype=dtype)
    with region():
        got = f(x.clone().requires_grad_())
    assert same_bits(got, f(x))


@pytest.mark.skipif(torch.__version__ < (2, 10), reason="older Dynamo does not trace these modes")
@pytest.mark.parametrize("name", ["and_where", "masked_fill_both", "rule_system", "one_hot", "floor_long_table"])
def test_compiled(name):
    torch._dynamo.reset()
    f = PROGRAMS[name]
    compiled = torch.compile(lambda x: f(x), fullgraph=True, backend="aot_eager")
    x = torch.linspace(-2.4, 2.4, 97, dtype=torch.float64, requires_grad=True)
    with region():
        a, b = compiled(x), f(x)
        torch.testing.assert_close(a, b, rtol=0, atol=0)
        torch.testing.assert_close(
            torch.autograd.grad(a.sum(), x), torch.autograd.grad(b.sum(), x), rtol=1e-9, atol=1e-9
        )


def test_transforms_and_second_derivatives():
    a = torch.tensor([2.0, 3.0], dtype=torch.float64)
    x = torch.tensor([0.1, -0.05], dtype=torch.float64)

    def f(x, a):
        return torch.where(x > 0, a**2, -a).sum()

    with region():
        gx, ga = torch.func.grad(f, (0, 1))(x, a)
        _, tangent = torch.func.jvp(f, (x, a), (torch.ones(2).double(), torch.ones(2).double()))
        curvature = torch.func.hessian(f, 1)(x, a)
    torch.testing.assert_close(ga, torch.tensor([4.0, -1.0]).double())
    torch.testing.assert_close(gx, (a**2 + a) / (2 * EPS))
    torch.testing.assert_close(tangent, (gx + ga).sum())
    torch.testing.assert_close(curvature, torch.diag(torch.tensor([2.0, 0.0])).double())


# --- the quick rules: what training loops call most takes fewer steps, and gives the same ---

QUICK = {
    **{op: lambda x, y, op=op: getattr(torch, op)(x) for op in ("sign", "round", "floor", "ceil", "trunc", "frac")},
    "heaviside": lambda x, y: torch.heaviside(x, torch.tensor(0.25, dtype=x.dtype)),
    "remainder": lambda x, y: x % 0.75,
    "hardshrink": lambda x, y: F.hardshrink(x, 0.5),
    "threshold": lambda x, y: torch.threshold(x, 0.5, -2.0),
    "gt": lambda x, y: (x > 0.5).to(x.dtype),
    "le": lambda x, y: (x <= 0).to(x.dtype),
    "reflected": lambda x, y: (1 >= x).to(x.dtype),
    "of two": lambda x, y: (x < y).to(x.dtype) + 2 * (x >= y).to(x.dtype),
    "another type": lambda x, y: (x > 0).double() + (x > 0).half().to(x.dtype),
    "mask as an integer": lambda x, y: ((x > 0).long() == 1).to(x.dtype) + (x > 0).int() * y,
    "integers compared": lambda x, y: (
        ((x > 0).long() == (y > 0).long().detach()).to(x.dtype) + (x.round().long() > 1) * y + (2 != x.long()) * x
    ),
    "integers compared, broadcast": lambda x, y: ((x > 0).int() != torch.tensor([[0], [1]])).to(x.dtype).sum(0),
    "integer arithmetic": lambda x, y: whole(
        x, lambda n, m, k: ((2 - n) * 3 + (n + k) - n * k + m - (-m) + 4 * m - m * n) * y
    ),
    "integers by floats": lambda x, y: whole(
        x, lambda n, m, k: 2.5 * n - y * m + (0.5 - n) + (m - 1.5) * (-0.0 * m) + n.int() * 0.5 + (k - m) * y
    ),
    "integers of another type": lambda x, y: whole(
        x, lambda n, m, k: (n.to(torch.int8) - 100) * y + (m.to(torch.uint8) > 2) * y + (n.int() - m) * y
    ),
    "large integers": lambda x, y: whole(
        x,
        lambda n, m, k: (
            (n * (1 << 40) + m) * y
            + (n * (1 << 40) - m + k).to(x.dtype)
            + (m * (1 << 62)) * y
            + torch.minimum(n * (1 << 40) + 1, m) * y
            + (x > 0).sum() * (1 << 30)
            + n.to(torch.int8) * 100
        ),
    ),
    "the other side of arithmetic": lambda x, y: whole(
        x, lambda n, m, k: (2 * n - 1 > k) * y + ((m - k + 1).minimum(k) == 1) * y + (n - n == 0) * y + (n + n > 1) * y
    ),
    "minimum, clamp, abs": lambda x, y: whole(
        x,
        lambda n, m, k: n.minimum(k) * y + torch.maximum(m, k) * y + n.clamp(-1, 1) + m.abs() + torch.minimum(n, m) * y,
    ),
    "bits": lambda x, y: whole(
        x, lambda n, m, k: (m & 1) * y + (k ^ n.clamp(0, 3)) * y + (~m) * y + m.logical_not() * y
    ),
    "integers and floats compared": lambda x, y: whole(
        x, lambda n, m, k: (n < y) * y + (y <= m) * y + (m > y.detach()) * y + (1.5 >= n) * y + (y[3] > m) * y
    ),
    "of two integers": lambda x, y: whole(
        x, lambda n, m, k: (n > m) * y + (m >= k) * y + (k < n) * y + (m == n) * y + (k != m) * y + (m <= k[:1]) * y
    ),
    "integers chosen": lambda x, y: whole(
        x,
        lambda n, m, k: (
            torch.where(x > y, m, k) * y
            + torch.where(x > y, n, m) * y
            + torch.where(k > 0, n, m) * y
            + torch.where(x > y, 3, k) * y
            + torch.where(k > 0, n, 2) * y
            + torch.where(x > 0, k, 5) * y
        ),
    ),
    "integers chosen, again": lambda x, y: whole(
        x,
        lambda n, m, k: (
            (torch.where(x > y, m, k).minimum(k) > 1) * y
            + (torch.where(k > 0, n, 2) > k) * y
            + (torch.where(x > 0, k, 5) > 1) * y
            + m.masked_fill(x > y, 2) * y
            + k.masked_fill(x > y, 2) * y
        ),
    ),
    "integers chosen, of several types": lambda x, y: whole(
        x,
        lambda n, m, k: (
            torch.where(x > y, m > 1, n) * y
            + (torch.where(k > 0, n, m) > 1) * y
            + (torch.where(k > 0, m > 1, n) > 0) * y
            + torch.where(x > y, k > 1, m > 1) * y
            + torch.where(k > 0, n.to(torch.int8), 1) * y
            + torch.where(x > y, m, 1.5) * y
        ),
    ),
    "integers, broadcast": lambda x, y: whole(
        x,
        lambda n, m, k: (
            (n + torch.tensor([[0], [2]])).sum(0) * y
            + (m[:1] * k) * y
            + torch.where(x[:1] > 0, m, n[:1].expand(len(x))) * y
            + torch.where(x.reshape(-1, 1)[:3] > 0, m, k).sum(0) * y
        ),
    ),
    "integers moved": lambda x, y: whole(
        x,
        lambda n, m, k: (
            n.reshape(-1, 1).squeeze() * y
            + (m.view(1, -1).expand(2, -1).sum(0) > 2) * y
            + (n.unsqueeze(0).t().flatten() > k) * y
            + m[0].expand(len(x)).to(x.dtype)
            + (x > 0).long().reshape(1, -1)[0] * y
        ),
    ),
    "rows of a table": lambda x, y: whole(
        x,
        lambda n, m, k: (
            (y[20:26][n.clamp(-5, 5)] + y[4:7][m.clamp(0, 2)] + x[:12].reshape(6, 2)[n.clamp(-6, 5)].sum(1))
            + y.detach()[:6][n.reshape(-1, 1).clamp(-6, 4)].squeeze(1)
            + y[:6].clone()[n.int().clamp(-6, 4)]
            + y[:8][k]
        ),
    ),
    "at the ends of a table": lambda x, y: at_the_ends(x.nan_to_num(0.1), y),
    "casts": lambda x, y: (
        x.round().clamp(-7, 7).to(torch.int8).to(x.dtype) * y
        + x.floor().short() * y
        + x.ceil().int().to(x.dtype) * y
        + (x / 0.3).round().clamp(-3, 3).char().double().to(x.dtype)
        + x.trunc().long().float().to(x.dtype)
    ),
    "whole numbers written to": lambda x, y: written_after(x.nan_to_num(0.1).clamp(-4, 4).round(), y),
    "integers without dimensions": lambda x, y: whole(
        x,
        lambda n, m, k: (
            (m[2] - 1 > 0) * y
            + torch.minimum(m[3], k[3]) * y
            + (n[5] < y[5]).to(x.dtype) * y
            + torch.where(x[2] > 0, m[2], m[3]) * y
        ),
    ),
    "empty integers": lambda x, y: whole(
        x, lambda n, m, k: y + torch.where(x[:0] > 0, m[:0] - 1, k[:0]).sum() + (n[:0] > y[:0]).sum()
    ),
    "integers written to": lambda x, y: whole(x, lambda n, m, k: between(n, m, k, y)),
    "mask as an integer, again": lambda x, y: (
        lambda n: (
            (n == y.detach().long()) * y
            + (n.reshape(-1, 1).squeeze(1) * 3 - 1 != 2) * y
            + torch.minimum(n, 1 - n) * y
            + ((n - 1).abs() > 0) * y
        )
    )((x > 0).long()),
    "counts as floats": lambda x, y: whole(
        x, lambda n, m, k: 2 * m[:2].float().sum().to(x.dtype) * y + (3 * (x > 0).sum() - (y > 0).sum().squeeze()) * y
    ),
    "long": lambda x, y: x.long().to(x.dtype) * y,
    "codes of bits": lambda x, y: (
        lambda b, c: (
            (b + 2 * c == 1) * y
            + waves(y)[:8][b + 4 * (x > 1) + 2 * c]
            + (2 * b - c).to(x.dtype) * y
            + ((b << 1 | c) % 3 > 0) * y
            + (torch.minimum(2 * b, 3 * c) > 1) * y
            + F.one_hot(3 * b - c + 1, 5).to(x.dtype) @ y[:5]
        )
    )((x > 0).long(), (y > 0.2).long()),
    "codes of several types": lambda x, y: (
        ((x > 0).int() * 2 + (y > 0.2).long() > 2) * y
        + ((x > 0) * torch.arange(len(x)).remainder(5) + x.round().clamp(-4, 4).nan_to_num(0.0).long() == 3) * y
        + waves(y)[:9][(torch.sign(x.nan_to_num(0.1)).long() * 3 + torch.sign(y).long() + 4)]
        + ((x > 0).to(torch.uint8) * 200 + (y > 0.2).to(torch.uint8) * 100 > 50) * y
    ),
    "codes chosen and moved": lambda x, y: whole(
        x,
        lambda n, m, k: (
            (torch.where(x > y, m, k) % 3 == 1) * y
            + (torch.where(k > 0, 2 * m, n) // 2 > 0) * y
            + (torch.where(k > 0, m, n).reshape(1, -1).squeeze(0) % 2 == 1) * y
            + ((3 * m - n).view(-1, 1).flatten() % 4 == 1) * y
            + (m.masked_fill(k > 1, 2) * 2 + n).to(x.dtype)
            + ((n == 1).long() * 2 + m).unsqueeze(-1).expand(-1, 2).sum(-1).remainder(5).to(x.dtype)
        ),
    ),
    "codes of counts of a row": lambda x, y: (
        lambda m, b, k: (
            (torch.where(k > 0, m, b) % 2 == 1) * y
            + (torch.where(y > 0.1, m, b) % 2 == 1) * y
            + (torch.where(k > 0, m, 2 * b) == 2) * y
            + (m.reshape(1, -1).squeeze(0) + b) % 2 * y
            + ((m - b).reshape(-1, 1).squeeze(1) * 2 == 2) * y
            + (torch.maximum(m, 2 * b) * 3 % 4 == 2) * y
            + (3 * b).reshape(5, 19).sum(0).remainder(4).sum() * y
        )
    )((x.unsqueeze(1) > torch.tensor([0.1, -0.9, 1.1])).sum(1), (y > 0.2).long(), torch.arange(len(x)) % 4),
    "codes of counts": lambda x, y: whole(
        x,
        lambda n, m, k: (
            ((m + (y > 0) - n * 2) % 3 == 1) * y
            + ((m - 1) * 3 > 2) * y
            + ((m * m) % 5 > 1) * y
            + (m.clamp(1, 3) + m.maximum(k) == 4) * y
            + (m + (x > 0).sum() > 40) * y
            + (m & 1).to(x.dtype)
            + ((m + 1).int() * 3 == 9) * y
            + (m - m % 2) * y
        ),
    ),
    "where": lambda x, y: torch.where(x > 0, x * y, y),
    "where of numbers": lambda x, y: torch.where(x > 0, 3.0, -1.0).to(x.dtype) + torch.where(x > y, x, 7.0),
    "where, infinite": lambda x, y: torch.where(x > 0, torch.full_like(x, math.inf), x),
    "where, broadcast": lambda x, y: torch.where(x.reshape(-1, 1) > 0, x, y[:1]).sum(0),
    "masked_fill": lambda x, y: (x * y).masked_fill(x > 0, 2.0),
    "masked_fill, infinite": lambda x, y: y.masked_fill(x > 0, -math.inf).exp(),
    "not": lambda x, y: (~(x > 0)).to(x.dtype),
    "and": lambda x, y: ((x > 0) & (y < 0.2)).to(x.dtype),
    "or": lambda x, y: ((x > 0) | (y < 0.2)).to(x.dtype),
    "xor": lambda x, y: ((x > 0) ^ (y < 0.2)).to(x.dtype),
    "eq, ne": lambda x, y: ((x > 0) == (y < 0.2)).to(x.dtype) + 3 * ((x > 1) != (y < 0.2)).to(x.dtype),
    "the same mask": lambda x, y: (lambda m: (m & m).to(x.dtype) + (m ^ m) * y + (m != m) * x)(x > 0),
    "a fixed mask": lambda x, y: ((x > 0) & (y.detach() > 0)).to(x.dtype) + ((y.detach() > 0) | (x > 1)) * y,
    "mask by float": lambda x, y: (x > 0) * y + y * (x < 1) - (x > 2).int() + (2.0 - (x > 0.5).long()).to(x.dtype),
    "mask by mask": lambda x, y: ((x > 0) * (y > 0)).to(x.dtype) + ((x > 0).long() + (y > 0).long()).to(x.dtype),
    "count": lambda x, y: of_counts(x, y, lambda n: (n > 1, n >= 2, n < 1, n <= 2)),
    "count at its least": lambda x, y: of_counts(x, y, lambda n: (n > 0, n >= 0, n < 0, n <= 0, n > -1, n >= 1)),
    "count, reflected": lambda x, y: of_counts(x, y, lambda n: (2 > n, 1 <= n, n == 2, n != 1)),
    "count, other operands": lambda x, y: of_counts(x, y, lambda n: (n > y, n >= n.detach(), n > 1.5, n < True)),
    "sum": lambda x, y: (x > 0).sum() * y + (y < 0).sum(0).to(x.dtype),
    "selected": lambda x, y: y[x > 0].sum() + x.detach()[x > 0].mean(),
    "argmax": lambda x, y: F.one_hot(x.view(5, 19).argmax(-1), 19).to(x.dtype).view(-1) * y,
    "argmin of few": lambda x, y: F.one_hot(waves(y)[:20].view(2, 10).argmin(-1), 10).to(x.dtype),
    "rows at argmin": lambda x, y: y[:19][x.view(5, 19).argmin(-1)] + x[:5],
    "top-k mask": lambda x, y: torch.zeros(5, 19, dtype=x.dtype).scatter(-1, x.view(5, 19).topk(3).indices, 1.0),
    "top-k of few": lambda x, y: torch.zeros(20, dtype=x.dtype).scatter(-1, waves(y)[:20].topk(4).indices, 2.0),
    "sorted by": lambda x, y: (lambda i: y[i] + x[i[:]])(x.argsort()),
    "ranks": lambda x, y: x.argsort().argsort().to(x.dtype) * y,
    "ranks written": lambda x, y: ranks_written(x.argsort(), torch.arange(len(x))).to(x.dtype) * y,
    "ranks written twice": lambda x, y: (lambda i: mean_ranks(y, ranks_written(i, torch.arange(len(i)) + 1)))(
        waves(y).argsort()
    ),
    "written to between": lambda x, y: (lambda z: (lambda m: (z.mul_(3), m.to(z.dtype) * y)[1])(z > 0.5))(x * 2),
    "mask written to": lambda x, y: (lambda m: (m.logical_and_(y < 0), m.to(x.dtype))[1])(x > 0),
}


def waves(y):
    """Distinct numbers in some order."""
    return torch.sin(7 * y) + y


def ranks_written(order, places):
    found = torch.empty(len(order), dtype=torch.int32)
    found[order[: len(order)]] = places.int()
    return found


def mean_ranks(y, ranks):
    """Of equal numbers the same, as torchmetrics computes it."""
    values, inverse, counts = torch.unique(waves(y), return_inverse=True, return_counts=True)
    sums = torch.zeros(len(values), dtype=torch.int32)
    sums.scatter_add_(0, inverse, ranks)
    return (sums / counts)[inverse]


def of_counts(x, y, ask):
    n = torch.stack([x > 0, y > 0, x < 1]).sum(0)
    return sum((k + 1) * answer.to(x.dtype) for k, answer in enumerate(ask(n)))


def whole(x, f):
    """Of integers whose other side is known, of counts, and of data."""
    n, m = x.round().clamp(-5, 5).nan_to_num(0.0).long(), torch.stack([x > 0, x > -1, x > 1, x < 0.2]).sum(0)
    return f(x.clamp(-4, 5).round().long(), m, (torch.arange(len(x)) % 4)) + f(n, m - 1, m.detach() - 1)


def between(n, m, k, y):
    """What is made of them before they are written to, and used after that."""
    n, m, k, mask = n + 0, m + 0, k.clone(), n > 1
    made = n * k, m - k, torch.minimum(m, k), torch.where(mask, m, k), m > k, n < y, mask * 2, n == k, m.reshape(-1, 1)
    for written in (n, m, k):
        written.mul_(2)
    mask.logical_not_()
    return sum(x.squeeze() * y for x in made)


def at_the_ends(x, y):
    infinite = torch.tensor([0, math.inf, -math.inf, math.nan], dtype=x.dtype)
    return (
        y[20:22][x.round().clamp(0, 1).long()]
        + y[20:24][(x > 0).long()]
        + y[30:33][x.clamp(-3, 2).long()]
        + y[20:22][x.floor().clamp(-1, 0).long()]
        + y[:1][x.round().clamp(0, 0).long()]
        + infinite[x.ceil().clamp(-4, 3).long()] * y
    )


def written_after(q, y):
    n = (q + 4).long()
    q.mul_(2)
    return n.to(y.dtype) * y + y[20:29][n]


SPECIAL = [0.0, -0.0, 0.2, -0.2, 0.5, 0.3, 0.7, 0.75, 1.0, -1.0, 1.5, -1.5, 1e-40, -1e-40, 3e38, math.inf, -math.inf]


def operands(dtype):
    x = torch.tensor([*SPECIAL, math.nan], dtype=dtype)
    near = torch.stack([x.nextafter(x + 1), x.nextafter(x - 1)]).reshape(-1)
    x = torch.cat([x, near, torch.linspace(-2.4, 2.4, 41, dtype=dtype)])
    return x, torch.linspace(1.1, -1.3, len(x), dtype=dtype)


def of_both(f, dtype, eps):
    x, y = (v.requires_grad_() for v in operands(dtype))
    with region(eps=eps):
        out = f(x, y)
    up = torch.linspace(0.5, 1.5, out.numel(), dtype=dtype).reshape(out.shape)
    return out.detach(), *torch.autograd.grad(out, (x, y), up, allow_unused=True)


@pytest.mark.filterwarnings("ignore::sll.LostGradientWarning")
@pytest.mark.parametrize("eps", [0.2, 0.5, 7e-5, "auto"])
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
@pytest.mark.parametrize("name", QUICK)
def test_quick_rules_give_what_the_others_give(name, dtype, eps, monkeypatch):
    monkeypatch.setattr(Sides, "meet", False)  # (those without eager code look for no kinks)
    got = of_both(QUICK[name], dtype, eps)
    monkeypatch.setattr(type(ENGINE), "quick", {})
    monkeypatch.setattr(type(ENGINE), "quick_on", {})
    monkeypatch.setattr(sources, "eager", lambda: False)
    want = of_both(QUICK[name], dtype, eps)
    assert same_bits(got[0], want[0]) and same_bits(got[0], QUICK[name](*operands(dtype)))
    for a, b in zip(got[1:], want[1:]):
        torch.testing.assert_close(
            a, b, rtol=4 * torch.finfo(dtype).eps, atol=4 * torch.finfo(dtype).eps, equal_nan=True
        )


def test_quick_rules_are_taken(monkeypatch):
    """The test above compares two ways: here neither may be the other."""
    called, taken = [], set()

    def note(rule):
        def noted(region, func, args):
            called.append(rule(region, func, args))
            if called[-1] is not NotImplemented:
                taken.add(func)
            return called[-1]

        return noted

    for table in ("quick", "quick_on"):
        rules = getattr(ENGINE, table).items()
        monkeypatch.setattr(type(ENGINE), table, {func: note(rule) for func, rule in rules})
    for name, f in QUICK.items():
        called.clear()
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            of_both(f, torch.float64, EPS)
        assert any(out is not NotImplemented for out in called), name
    assert {
        torch.Tensor.__getitem__,
        torch.Tensor.__setitem__,
        torch.Tensor.scatter_add_,
        torch.Tensor.scatter,
    } <= taken


MOVED = {
    "expanded": lambda n: n[:, :1].expand(3, 4),
    "expanded at once": lambda n: n.unsqueeze(0).expand(2, -1, -1),
    "transposed": lambda n: n.t(),
    "reshaped": lambda n: n.t().reshape(6, 2),
    "a cast": lambda n: n.long(),
}


@pytest.mark.parametrize("name", MOVED)
def test_floats_of_moved_masks_are_tensors_of_their_own(name):
    x = torch.linspace(-1, 1, 12).reshape(3, 4).requires_grad_()
    with region(eps=1.0):
        mask = MOVED[name](x > 0)
        first, again = mask.float(), mask.float()
        plain = MOVED[name](x.detach() > 0).float()
        assert first.stride() == plain.stride() and same_bits(first, plain)
        first.add_(1)  # (also where several elements of the mask are one)
        assert same_bits(again, plain) and same_bits(mask.float(), plain)
    assert torch.autograd.grad(first.sum() + again.sum(), x)[0].any()


@pytest.mark.parametrize("what", ["requires no grad", "no_grad", "half", "only", "trace", "subclass", "integers"])
def test_quick_rules_are_for_ordinary_tensors(what, monkeypatch):
    x = torch.linspace(-1, 1, 9, dtype=torch.float16 if what == "half" else torch.float32)
    x = x.as_subclass(Named) if what == "subclass" else x.long() if what == "integers" else x
    x = x if what in ("requires no grad", "integers") else x.requires_grad_()
    found = []
    monkeypatch.setattr(sources, "_step", lambda *args: found.append("step"))
    monkeypatch.setattr(sources, "_compare", lambda *args: found.append("compare"))
    options = {"only": ["floor"]} if what == "only" else {"trace": True} if what == "trace" else {}
    with sll.linearize(EPS, forward="straight-through", **options), torch.set_grad_enabled(what != "no_grad"):
        out = torch.sign(x), x > 0
    assert found == [] and all(y is not None for y in out)


class Named(torch.Tensor):
    pass


def test_who_selects_in_an_inner_region_is_followed_in_the_outer_one():
    x = torch.tensor([-0.1, 0.1, 2.0], requires_grad=True)
    outer = region()
    for _ in range(2):  # (the second time nothing is left of the first)
        assert not outer.selecting()
        with outer:
            with region():
                chosen = x.detach()[x > 0]
            assert outer.selecting()  # (it is on in this thread)
            mean = chosen.mean()
        (slope,) = torch.autograd.grad(mean, x)
        taken = torch.tensor([0.1, 2.0])
        torch.testing.assert_close(slope, torch.tensor([-0.1 - 1.05, 0.1 - 1.05, 0.0]) / 2 * 2.5)
        assert mean == taken.mean()
