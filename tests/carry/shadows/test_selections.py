"""What a mask selects: sums and means of elements and rows see the mask; everything else says what it loses."""

from __future__ import annotations

import pytest
import torch
import torch.nn.functional as F

import sll
from local_slopes import T, worked_out

EPS = 0.2
V = torch.tensor([3.0, 10.0, -2.0, 5.0], dtype=torch.float64)
ROWS = V[:, None] * torch.tensor([1.0, 2.0], dtype=torch.float64)
X = [0.1, 0.6, -0.05, -0.9]


def region(on_lost="error"):
    return sll.linearize(EPS, forward="straight-through", on_lost=on_lost)


def m_of(x):
    return (x > 0).to(x.dtype)


SAME = {
    "sum": (lambda x: x[x > 0].square().sum(), lambda x: (x.square() * m_of(x)).sum()),
    "mean": (lambda x: (x * V)[x > 0].mean(), lambda x: (x * V * m_of(x)).sum() / m_of(x).sum()),
    "masked_select": (lambda x: (x * V).masked_select(x > 0).sum(), lambda x: (x * V * m_of(x)).sum()),
    "of a plain tensor": (lambda x: V[x > 0].sum(), lambda x: (V * m_of(x)).sum()),
    "rows": (lambda x: ROWS[x > 0].mean(1).sum(), lambda x: (ROWS.mean(1) * m_of(x)).sum()),
    "columns": (lambda x: ROWS[x > 0][:, 1:].sum(), lambda x: (ROWS[:, 1] * m_of(x)).sum()),
    "rows at once": (lambda x: ROWS[x > 0].sum(0) @ ROWS[0], lambda x: (ROWS * m_of(x)[:, None]).sum(0) @ ROWS[0]),
    "mean over both": (lambda x: ROWS[x > 0].mean(), lambda x: (ROWS.mean(1) * m_of(x)).sum() / m_of(x).sum()),
    "keepdim": (lambda x: ROWS[x > 0].sum(0, keepdim=True), lambda x: (ROWS * m_of(x)[:, None]).sum(0, keepdim=True)),
    "difference of two": (lambda x: (x[x > 0] - V[0 < x]).abs().sum(), lambda x: ((x - V).abs() * m_of(x)).sum()),
    "loss": (lambda x: F.mse_loss(x[x > 0], V[x > 0]), lambda x: ((x - V).square() * m_of(x)).sum() / m_of(x).sum()),
    "summed loss": (lambda x: F.l1_loss(x[x > 0], V[x > 0], reduction="sum"),
                    lambda x: ((x - V).abs() * m_of(x)).sum()),
    "nonzero": (lambda x: V[(x > 0).nonzero(as_tuple=True)].sum(), lambda x: (V * m_of(x)).sum()),
    "nonzero column": (lambda x: V[(x > 0).nonzero()[:, 0]].sum(), lambda x: (V * m_of(x)).sum()),
    "squeezed": (lambda x: V[(x > 0).nonzero().squeeze(1)].mean(), lambda x: (V * m_of(x)).sum() / m_of(x).sum()),
    "where": (lambda x: V[torch.where(x > 0)].sum(), lambda x: (V * m_of(x)).sum()),
    "integers": (lambda x: torch.arange(4)[x > 0].sum().to(x.dtype), lambda x: (torch.arange(4) * m_of(x)).sum()),
    "written back": (lambda x: written_back(x), lambda x: torch.where(x > 0, x * 2, x).sum()),
}  # fmt: skip


def written_back(x):
    y, mask = x * 1, x > 0
    y[mask] = x[mask] * 2
    return y.sum()


@pytest.mark.parametrize("name", SAME)
def test_a_selection_is_a_product_with_the_mask(name):
    found = []
    for f in SAME[name]:
        x = torch.tensor(X, dtype=torch.float64, requires_grad=True)
        with region():
            y = f(x)
        found.append((y.detach(), *torch.autograd.grad(y.sum(), x)))
    for got, want in zip(*found):
        torch.testing.assert_close(got, want)
    assert found[0][1].any()


NOT = {
    "sorted": lambda s: s.sort().values.sum(), "largest": lambda s: s.max(), "in order": lambda s: s.cumsum(0).sum(),
    "over rows": lambda s: s.softmax(0).square().sum(), "with others": lambda s: (s * torch.ones(2).double()).sum(),
    "first": lambda s: s[0], "shape": lambda s: s.shape[0], "numel": lambda s: s.numel(), "len": lambda s: len(s),
}  # fmt: skip


@pytest.mark.parametrize("name", NOT)
def test_everything_else_is_lost_if_the_mask_is_open(name):
    x = torch.tensor(X, dtype=torch.float64, requires_grad=True)
    with region(), pytest.raises(sll.LostGradientError):
        NOT[name](x[x > 0])
    far = torch.tensor([1.0, -1.0, 2.0, -3.0], dtype=torch.float64, requires_grad=True)
    with region():
        got = NOT[name](far[far > 0])
    assert got == NOT[name](far[far > 0])


UNDEFINED = {
    "logarithm": lambda x: x[x > 0].log().sum(),
    "probability": lambda x: F.binary_cross_entropy(x[x > 0], torch.ones(2, dtype=x.dtype)),
    "index out of range": lambda x: torch.arange(2.0)[torch.where(x.detach() > 0, 1, 99)[x > 0]].sum() + x.sum(),
    "division by zero": lambda x: (7 // torch.where(x.detach() > 0, 1, 0)[x > 0]).sum() + x.sum(),
}


@pytest.mark.parametrize("name", UNDEFINED)
def test_what_was_left_out_may_be_anything(name):
    x = torch.tensor(X, dtype=torch.float64, requires_grad=True)
    (g_plain,) = torch.autograd.grad(UNDEFINED[name](x), x)
    with region("ignore"):
        y = UNDEFINED[name](x)
    (g,) = torch.autograd.grad(y, x)
    assert torch.equal(y, UNDEFINED[name](x)) and g.isfinite().all()
    assert torch.equal(g[[1, 3]], g_plain[[1, 3]])  # decided


@pytest.mark.parametrize("f", [
    lambda i: V[:i], lambda i: V[i:], lambda i: V.narrow(0, i, 1), lambda i: V.select(0, i),
    lambda i: V.split([i, 4 - i]),
])  # fmt: skip
def test_bounds_and_sizes_are_lost(f):
    x = torch.tensor([0.5, 0.53, 0.0, 0.1], requires_grad=True)
    with region(), pytest.raises(sll.LostGradientError, match="no derivative"):
        f(x.argmax())


# --- worked out by hand --------------------------------------------------------------------------------------------

RULES = [
    ("selected sum", lambda x: T[:3][torch.stack([x, x * 0 + 1, x * 0 - 1]) > 0].sum(), 0.1, 2 * 5),
    ("selected mean", lambda x: T[:3][torch.stack([x, x * 0 + 1, x * 0 - 1]) > 0].mean(), 0.1, 2 * (5 - 3) / 2),
    (
        "mean of selected squares",
        lambda x: (T[:3][torch.stack([x, x * 0 + 1, x * 0 - 1]) > 0] ** 2).mean(),
        0.1,
        2 * (25 - 13) / 2,
    ),
]


@pytest.mark.parametrize(("f", "values", "wanted"), [row[1:] for row in RULES], ids=[row[0] for row in RULES])
def test_rule(f, values, wanted):
    worked_out(f, values, wanted)


# --- what is written back to where it was selected -------------------------------------------------------------------

INPUTS = torch.linspace(-2, 2, 27, dtype=torch.float64).reshape(9, 3).sin()
FIRST = torch.linspace(-1, 1, 12, dtype=torch.float64).reshape(3, 4)
SECOND = torch.linspace(1, 2, 8, dtype=torch.float64).reshape(4, 2)


def minus(x, m):
    x[m] -= 0.5
    return x


def times(x, m):
    x[m] *= x[m]
    return x


def step_by_step(x, m):
    part = x[m]
    part.clamp_(0, 0.5)
    part.mul_(2).add_(1)
    x[m] = part
    return x


def twice(x, m):
    x[m] -= 0.5
    x[m] *= 2
    return x


def expert(x, m):
    out = torch.zeros(9, 2, dtype=x.dtype)
    out[m] += torch.relu(INPUTS[m] @ FIRST) @ SECOND
    return out


def layers(x, m):
    out = torch.ones(9, 2, dtype=x.dtype)
    out[m] = F.linear(F.linear(INPUTS[m], FIRST.t(), FIRST[0]).relu_(), SECOND.t())
    return out


WRITTEN_BACK = {
    minus: lambda x, m: torch.where(m, x - 0.5, x),
    times: lambda x, m: torch.where(m, x * x, x),
    step_by_step: lambda x, m: torch.where(m, x.clamp(0, 0.5) * 2 + 1, x),
    twice: lambda x, m: torch.where(m, torch.where(m, x - 0.5, x) * 2, torch.where(m, x - 0.5, x)),
    expert: lambda x, m: torch.where(m[:, None], torch.relu(INPUTS @ FIRST) @ SECOND, 0.0),
    layers: lambda x, m: torch.where(
        m[:, None], F.linear(F.linear(INPUTS, FIRST.t(), FIRST[0]).relu(), SECOND.t()), 1.0
    ),
}


@pytest.mark.parametrize("program", WRITTEN_BACK, ids=lambda f: f.__name__)
@pytest.mark.parametrize("eps", [0.3, "auto"])
def test_what_is_written_back_is_where(program, eps):
    """Independent: `torch.where`, which has no selection."""

    def gradients(f):
        x = torch.linspace(-1, 1, 9, dtype=torch.float64).requires_grad_()
        at = torch.tensor(0.1, dtype=torch.float64, requires_grad=True)
        with sll.linearize(eps, forward="straight-through", on_lost="error"):
            y = f(x * 1.0, x.detach() > at)
        return y.detach(), torch.autograd.grad((y * y.detach().cos()).sum(), [x, at], allow_unused=True)

    (value, found), (wanted_value, wanted) = gradients(program), gradients(WRITTEN_BACK[program])
    torch.testing.assert_close(value, wanted_value)
    assert found[1] is not None and found[1].abs() > 1e-3
    for a, b in zip(found, wanted):
        assert (a is None) == (b is None)
        torch.testing.assert_close(a, b)


def test_products_of_several_selections_are_reported():
    at = torch.tensor(0.1, dtype=torch.float64, requires_grad=True)
    with sll.linearize(0.3, forward="straight-through", on_lost="ignore") as region:
        part = INPUTS[INPUTS[:, 0] > at]
        (part.t() @ part).sum()
    assert region.report().lost
