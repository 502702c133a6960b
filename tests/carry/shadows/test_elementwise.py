"""What a mask chooses gets the gradient of what it takes; factors see each other as the program takes them."""

from __future__ import annotations

import pytest
import torch
import torch.nn.functional as F

import sll
from local_slopes import count, worked_out


def test_the_program_writes_to_the_other_operand():
    """Shadows are computed when they are asked for, from operands as they were."""
    x = torch.tensor([-0.3, 0.04, -0.02], requires_grad=True)
    for write in (lambda flag, other: flag | other, lambda flag, other: other ^ flag, lambda flag, other: flag & other):
        found = []
        for late in (False, True):
            seen = torch.tensor([False, True, False])
            with sll.linearize(0.1, forward="straight-through"):
                y = write(x > 0, seen)
                if late:
                    seen.logical_not_()
                found.append(torch.autograd.grad(y.float().sum(), x)[0])
        assert found[0].any() and torch.equal(*found)
    w = torch.tensor([2.0, 3.0, 5.0])
    with sll.linearize(0.1, forward="straight-through"):
        y = (x > 0) * w
        w.fill_(7.0)
        (g,) = torch.autograd.grad(y.sum(), x)
    torch.testing.assert_close(g, torch.tensor([0.0, 15.0, 25.0]))


EPS = 0.2


def region(forward="straight-through", eps=EPS):
    return sll.linearize(eps, forward=forward, on_lost="ignore")


WHERE = {
    "where": lambda m, a, b: torch.where(m, a, b),
    "masked_fill": lambda m, a, b: a.masked_fill(~m, 0.0) + b.masked_fill(m, 0.0),
    "products": lambda m, a, b: m.to(a.dtype) * a + (~m).to(a.dtype) * b,
    "product with a bool": lambda m, a, b: m * a + ~m * b,
}


@pytest.mark.parametrize("name", WHERE)
def test_branches_have_the_plain_gradient_and_the_boundary_has_the_slope(name):
    x = torch.tensor([-1.0, -0.1, 0.05, 0.15, 1.0], dtype=torch.float64, requires_grad=True)
    a, b = (torch.linspace(v, v + 2, 5, dtype=torch.float64).requires_grad_() for v in (1.0, -3.0))
    up = torch.arange(1.0, 6.0, dtype=torch.float64)
    want = torch.autograd.grad((WHERE[name](x > 0, a, b) * up).sum(), (a, b))
    with region():
        got = torch.autograd.grad((WHERE[name](x > 0, a, b) * up).sum(), (a, b, x))
    assert all(torch.equal(u, v) for u, v in zip(got, want))
    inside = x.detach().abs() <= EPS
    torch.testing.assert_close(got[2], torch.where(inside, up * (a - b).detach() / (2 * EPS), 0.0))


def test_what_is_taken_gets_the_gradient():
    x, a = torch.tensor([0.1], requires_grad=True), torch.tensor([3.0], requires_grad=True)
    share = {}
    for forward in ("hard", "straight-through"):
        with region(forward):
            share[forward] = torch.autograd.grad(torch.where(x > 0, a, 0.0).sum(), a)[0].item()
    assert share == {"hard": 1.0, "straight-through": 1.0}


TAKEN = {
    "one-hot mask": lambda s, a, b: torch.where(F.one_hot(s.argmax(1), 4).bool(), a, b),
    "index is a label": lambda s, a, b: torch.where(s.argmax(1)[:, None] == torch.arange(4), a, b),
    "index below": lambda s, a, b: torch.where((s.argmax(1) < 2)[:, None], a, b),
    "ranks below": lambda s, a, b: torch.where(s.argsort(1).argsort(1) < 2, a, b),
    "masked_fill by index": lambda s, a, b: a.masked_fill(s.argmax(1)[:, None] == 1, 0.0) + b,
    "threshold of the row": lambda s, a, b: torch.where(s >= s.topk(2, 1).values[:, -1:], a, b),
    "a count": lambda s, a, b: torch.where((s > 0.5).sum(0) > 3, a, b),
    "all": lambda s, a, b: torch.where((s > 0.2).all(0), a, b),
    "any": lambda s, a, b: torch.where((s > 0.9).any(1, keepdim=True), a, b),
    "five decisions": lambda s, a, b: torch.where(
        (s > 0.1) & (s.flip(0) > 0.05) & (s.flip(1) > 0.1) & (s.roll(1, 0) > 0) & (s.roll(1, 1) > 0), a, b
    ),
    "table of bools": lambda s, a, b: torch.where(torch.tensor([True, False, True, False])[s.argmax(1)][:, None], a, b),
    "count of bools as index": lambda s, a, b: torch.stack([a, b])[(s > 0.5).long(), torch.arange(6)[:, None], 0],
    "a decision on a decision": lambda s, a, b: torch.where(torch.where(s > 0.5, s, s - 0.3) > 0.45, a, b),
    "shapes": lambda s, a, b: torch.where((s > 0.5).T.reshape(4, 6).T.flip(1), a, b),
}


@pytest.mark.parametrize("eps", [0.05, 0.4, "auto"])
@pytest.mark.parametrize("equal", [False, True])
@pytest.mark.parametrize("name", TAKEN)
def test_who_is_taken_does_not_depend_on_who_is_likely(name, equal, eps):
    """Index masks are rarely likely, and equal branches (a table of zeros) cannot tell by their values."""
    generator = torch.Generator().manual_seed(1)
    s = torch.rand(6, 4, generator=generator, dtype=torch.float64, requires_grad=True)
    a, b = ((torch.zeros if equal else torch.rand)(6, 4, dtype=torch.float64).requires_grad_() for _ in range(2))
    up = torch.rand(6, 4, generator=generator, dtype=torch.float64)
    want = torch.autograd.grad((TAKEN[name](s, a, b) * up).sum(), (a, b), allow_unused=True)
    with region(eps=eps):
        got = torch.autograd.grad((TAKEN[name](s, a, b) * up).sum(), (a, b), allow_unused=True)
    for u, v in zip(got, want):
        torch.testing.assert_close(u, v, rtol=1e-12, atol=1e-12)


@pytest.mark.parametrize("kind", ["elementwise", "matmul", "float matmul", "einsum"])
def test_each_factor_of_a_product_sees_the_other_as_the_program_takes_it(kind):
    product = {
        "elementwise": lambda a, b: (a.int() * b.int()).double(),
        "matmul": lambda a, b: (a.int()[None] @ b.int()[:, None]).double(),
        "float matmul": lambda a, b: a[None] @ b[:, None],
        "einsum": lambda a, b: torch.einsum("i,i->", a.long(), b.long()).double(),
    }[kind]
    a = torch.tensor([0.6], dtype=torch.float64, requires_grad=True)
    b = torch.tensor([1.3], dtype=torch.float64, requires_grad=True)
    with sll.linearize("auto"):
        out = product(torch.round(a), torch.round(b)).sum()
    assert out == 1 and torch.autograd.grad(out, (a, b)) == (pytest.approx(1), pytest.approx(1))


def test_a_float_factor_sees_the_integer_that_the_program_takes():
    a = torch.tensor([0.6, 1.8], dtype=torch.float64, requires_grad=True)
    scale = torch.tensor(3.0, dtype=torch.float64, requires_grad=True)
    with sll.linearize("auto"):
        out = torch.round(a).int().sum() * scale
    assert out == 9 and torch.autograd.grad(out, (scale, a))[0] == 3


# --- worked out by hand --------------------------------------------------------------------------------------------

RULES = [
    ("where", lambda x: torch.where(x > 0, 3.0, -1.0), 0.1, 8),
    ("where takes", lambda x: torch.where(x > 0, x * 3, x), 0.1, 3 + 0.2 * 2),
    ("no infinite jump", lambda x: torch.where(x > 0, 3.0, float("inf")), 0.1, 0),
    ("masked_fill", lambda x: (x * 0 + 2).masked_fill(x > 0, 7.0), 0.1, 10),
    ("not", lambda x: (~(x > 0)).double(), 0.1, -2),
    ("the same mask", lambda x: (lambda m: (m & m).double() + 10 * (m ^ m).double())(x > 0), 0.1, 2),
    ("the question again", lambda x: ((x > 0) & (x > 0)).double(), 0.1, 4),
    ("square", lambda x: (torch.round(x).long() ** 2).double(), 1.4, 2 * (4 - 1)),
    ("parity", lambda x: (torch.floor(x).long() & 1).double(), 2.1, 2 * (0 - 1)),
    ("comparison of an integer", lambda x: (torch.round(x).long() >= 2).double(), 1.4, 2),
    ("other integers too far", lambda x: (torch.round(x).long() >= 3).double(), 1.4, 0),
    ("and", lambda x, y: ((x > 0) & (y > 0)).double(), (0.1, -0.1), (0, 2)),
    ("or", lambda x, y: ((x > 0) | (y > 0)).double(), (0.1, -0.1), (2, 0)),
    ("xor", lambda x, y: ((x > 0) ^ (y > 0)).double(), (0.1, -0.1), (2, -2)),
    ("product", lambda x, y: (torch.round(x).int() * torch.round(y).int()).double(), (1.4, 2.6), (6, 2)),
    ("mask and float", lambda x, y: (x > 0) * y**2, (0.1, 3.0), (18, 6)),
    ("count", lambda x, y: count(x, y).double() / 3, (0.1, -0.1), (2 / 3, 2 / 3)),
    ("count squared", lambda x, y: (count(x, y) ** 2).double(), (0.1, -0.1), (4, 4)),
    ("count reaches", lambda x, y: (count(x, y) >= 1).double(), (-0.1, -0.1), (2, 2)),
    ("count has reached", lambda x, y: (count(x, y) >= 1).double(), (0.1, -0.1), (2, 2)),
    ("count is beyond", lambda x, y: (count(x, y) >= 1).double(), (0.1, 0.1), (0, 0)),
    ("count is", lambda x, y: (count(x, y) == 1).double(), (0.1, -0.1), (0, 0)),
    (
        "where of where",
        lambda x, y: torch.where((x > 0) & (y > 0), 5.0, torch.where(x > 0, 1.0, 0.0)),
        (0.1, -0.1),
        (2, 8),
    ),
    ("a sum of masks is a mask", lambda x, y: ((x > 0) + (y > 0)).double(), (0.1, -0.1), (2, 0)),
    ("a sum of masks that both hold", lambda x, y: ((x > 0) + (y > 0)).double() * 3, (0.1, 0.1), (0, 0)),
    ("a mask and itself", lambda x: (lambda m: (m + m).double() * 3)(x > 0), 0.1, 6),
    ("a mask and a fixed one", lambda x: ((x > 0) + torch.tensor([True, False])).double().sum(), 0.1, 2),
    ("a product by a sum", lambda x: (lambda m: (m * (m + m)).double())(x > 0), 0.1, 4),
    ("a mask as a number", lambda x, y: (x > 0) + y * (y > 0).int(), (0.1, 3.0), (2, 1)),
]


@pytest.mark.parametrize(("f", "values", "wanted"), [row[1:] for row in RULES], ids=[row[0] for row in RULES])
def test_rule(f, values, wanted):
    worked_out(f, values, wanted)


ASKED = {
    "==": lambda f: f == 1,
    "== 0": lambda f: ~(f == 0),
    "== ones": lambda f: f == torch.ones(3),
    "!=": lambda f: torch.ne(f, 0),
    "bool": lambda f: f.bool(),
    "to(bool)": lambda f: f.to(torch.bool),
    "logical_not": lambda f: ~f.logical_not(),
    "count_nonzero": lambda f: f.count_nonzero(),
    "moved": lambda f: f.clone().double().reshape(-1, 1) == 1,
    "== 2": lambda f: f == 2,
}


@pytest.mark.parametrize("eps", [0.1, "auto"])
@pytest.mark.parametrize("mask", [lambda x: x > 0, lambda x: (x > 0) & (x < 5), lambda x: ~(x <= 0)])
@pytest.mark.parametrize("name", ASKED)
def test_whether_a_mask_that_became_a_float_is_a_number(name, mask, eps):
    """It is decided by the mask: the same as asking that."""
    results = []
    for f in (lambda m: ASKED[name](m.float()), lambda m: m if name != "== 2" else m * 0 == 2):
        x = torch.tensor([0.02, -0.03, 0.9], requires_grad=True)
        with sll.linearize(eps, forward="straight-through", on_lost="error"):
            y = (f(mask(x)) * 1.0).sum()
        results.append((y, torch.autograd.grad(y, x)[0]))
    (y, g), (want, slope) = results
    assert y == want and torch.allclose(g, slope) and (name == "== 2" or g.any())


WRITTEN = {"filled": torch.no_grad()(lambda f: f.fill_(5)), "data": lambda f: f.data.mul_(3)}


@pytest.mark.parametrize("name", WRITTEN)
def test_what_is_no_mask_any_more_is_not_asked_as_one(name):
    x = torch.tensor([0.02, -0.03, 0.9], requires_grad=True)
    with sll.linearize(0.1, forward="straight-through"):
        f = (x > 0).float()
        WRITTEN[name](f)
        found = f == 1
        assert getattr(found, "_sll", None) is None
    assert torch.equal(found, f == 1)
