"""What a mask selects: sums and means of elements and rows see the mask; everything else says what it loses."""

from __future__ import annotations

import pytest
import torch
import torch.nn.functional as F
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import nn

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


# --- rows that a mask selects, read and written at their places: the same gradient as with the mask itself ------------

HALF = 0.25
SCORES = torch.tensor([0.3, -0.2, 0.05, 0.7, -0.04, -0.9, 0.11])
C = torch.tensor([1.0, 2.0, 3.0, 4.0, 5.0, 6.0, 7.0])
CODES = torch.tensor([0, 1, 1, 2, 2, 0, 1])
TABLE, OLD, BOXES = (torch.linspace(a, b, 21).sin().reshape(7, 3) * 2 for a, b in ((0, 9), (2, 31), (3, 50)))


def at(m):
    return torch.where(m)[0]


def written(o, index, value):
    o = o.clone()
    o[index] = value
    return o


def less(o, index, c):
    o = o.clone()
    o[index] -= c
    return o


def chosen(m, a, b=0.0):
    """`torch.where`, which has no selection."""
    a, b = torch.as_tensor(a), torch.as_tensor(b)
    rank = max(a.dim(), b.dim())
    return torch.where(m.reshape(-1, *[1] * (rank - 1)), a, b)


def several(m):
    """Rows that several elements select."""
    return torch.stack([m, m & (SCORES > 0.2), ~m & (SCORES < -0.5)], 1)


AT_PLACES = {
    # places, however they are found
    "nonzero column": (lambda x, m: less(OLD, m.nonzero()[:, 0], 0.5), lambda x, m: chosen(m, OLD - 0.5, OLD)),
    "nonzero as tuple": (lambda x, m: less(OLD, m.nonzero(as_tuple=True), 0.5), lambda x, m: chosen(m, OLD - 0.5, OLD)),
    "where": (lambda x, m: less(OLD, torch.where(m), 0.5), lambda x, m: chosen(m, OLD - 0.5, OLD)),
    "squeezed": (lambda x, m: less(OLD, m.nonzero().squeeze(1), 0.5), lambda x, m: chosen(m, OLD - 0.5, OLD)),
    "flattened": (lambda x, m: less(OLD, m.nonzero().flatten(), 0.5), lambda x, m: chosen(m, OLD - 0.5, OLD)),
    "argwhere": (lambda x, m: less(OLD, torch.argwhere(m).view(-1), 0.5), lambda x, m: chosen(m, OLD - 0.5, OLD)),
    "negative": (lambda x, m: less(OLD, at(m) - 7, 0.5), lambda x, m: chosen(m, OLD - 0.5, OLD)),
    "of integers": (lambda x, m: less(OLD, at(m.long()), 0.5), lambda x, m: chosen(m, OLD - 0.5, OLD)),
    # writes
    "a number": (lambda x, m: written(OLD, at(m), 0.5), lambda x, m: chosen(m, torch.full_like(OLD, 0.5), OLD)),
    "rows": (lambda x, m: written(OLD, at(m), TABLE[m]), lambda x, m: chosen(m, TABLE, OLD)),
    "what is decided": (lambda x, m: written(OLD, at(m), x[m, None] * TABLE[m]),
                        lambda x, m: chosen(m, x[:, None] * TABLE, OLD)),
    "index_put": (lambda x, m: OLD.index_put((m,), torch.tensor(0.5), True), lambda x, m: chosen(m, OLD + 0.5, OLD)),
    "index_put_": (lambda x, m: OLD.clone().index_put_(torch.where(m), TABLE[m], True),
                   lambda x, m: chosen(m, OLD + TABLE, OLD)),
    "index_add": (lambda x, m: OLD.index_add(0, at(m), TABLE[m], alpha=2),
                  lambda x, m: chosen(m, OLD + 2 * TABLE, OLD)),
    "index_add_": (lambda x, m: OLD.clone().index_add_(0, at(m), torch.ones_like(TABLE[m])),
                   lambda x, m: chosen(m, OLD + 1, OLD)),
    "index_add, columns": (lambda x, m: OLD.T.index_add(1, at(m), TABLE.T[:, m]).T,
                           lambda x, m: chosen(m, OLD + TABLE, OLD)),
    "index_copy_": (lambda x, m: OLD.clone().index_copy_(0, at(m), TABLE[at(m)]), lambda x, m: chosen(m, TABLE, OLD)),
    "index_fill": (lambda x, m: OLD.index_fill(0, at(m), 2.0), lambda x, m: chosen(m, torch.full_like(OLD, 2.0), OLD)),
    "scatter": (lambda x, m: C.scatter(0, at(m), x[m]), lambda x, m: torch.where(m, x, C)),
    "scatter a number": (lambda x, m: C.scatter(0, at(m), 0.5), lambda x, m: torch.where(m, 0.5, C)),
    "scatter_add_": (lambda x, m: C.clone().scatter_add_(0, at(m), x[m]), lambda x, m: torch.where(m, C + x, C)),
    "put": (lambda x, m: C.put(at(m), x[m]), lambda x, m: torch.where(m, x, C)),
    "masked_scatter": (lambda x, m: C.masked_scatter(m, x[m].exp()), lambda x, m: torch.where(m, x.exp(), C)),
    "one column": (lambda x, m: written(OLD, (m, 0), 0.5),
                   lambda x, m: written(OLD, (slice(None), 0), torch.where(m, 0.5, OLD[:, 0]))),
    "two columns": (lambda x, m: written(OLD, (at(m), slice(2)), 0.5),
                    lambda x, m: written(OLD, (slice(None), slice(2)), chosen(m, torch.tensor([[0.5]]), OLD[:, :2]))),
    "last dimension": (lambda x, m: written(OLD.T, (..., m), TABLE.T[:, m]).T, lambda x, m: chosen(m, TABLE, OLD)),
    "flags": (lambda x, m: written(torch.zeros(7, dtype=torch.bool), at(m), True).float() * C,
              lambda x, m: m.float() * C),
    "counts": (lambda x, m: torch.zeros(7, dtype=torch.long).index_add_(0, at(m), torch.ones_like(at(m))) * C,
               lambda x, m: m.long() * C),
    "several for a row": (lambda x, m: written(C, several(m).nonzero()[:, 0], 2.0),
                          lambda x, m: torch.where(several(m).any(1), 2.0, C)),
    "added several times": (lambda x, m: C.index_add(0, several(m).nonzero()[:, 0], TABLE[several(m)]),
                            lambda x, m: C + torch.where(several(m), TABLE, 0).sum(1)),
    # reads
    "index_select": (lambda x, m: TABLE.index_select(0, at(m)).sum(0), lambda x, m: chosen(m, TABLE).sum(0)),
    "index_select, columns": (lambda x, m: TABLE.T.index_select(1, at(m)).square().sum(1),
                              lambda x, m: chosen(m, TABLE * TABLE).sum(0)),
    "gather": (lambda x, m: x.gather(0, at(m)).sum(), lambda x, m: chosen(m, x).sum()),
    "take": (lambda x, m: C.take(at(m)).mean(), lambda x, m: (C * m).sum() / m.sum()),
    "embedding": (lambda x, m: F.embedding(at(m), TABLE).sum(0), lambda x, m: chosen(m, TABLE).sum(0)),
    "beside a number": (lambda x, m: TABLE[m, 0].sum(), lambda x, m: chosen(m, TABLE[:, 0]).sum()),
    "behind a slice": (lambda x, m: TABLE.T[:, m].square().sum(1), lambda x, m: chosen(m, TABLE * TABLE).sum(0)),
    "beside None": (lambda x, m: TABLE[None, at(m)].reshape(-1, 3).sum(0), lambda x, m: chosen(m, TABLE).sum(0)),
    "sum of places": (lambda x, m: at(m).sum().float(), lambda x, m: (torch.arange(7) * m).sum().float()),
    "both places": (lambda x, m: TABLE[(m[:, None] & (TABLE > 0)).nonzero(as_tuple=True)].sum(),
                    lambda x, m: torch.where(m[:, None] & (TABLE > 0), TABLE, 0.0).sum()),
    "best of each row": (lambda x, m: C[(TABLE * x[:, None])[m].argmax(1)].sum(),
                         lambda x, m: chosen(m, C[(TABLE * x[:, None]).argmax(1)]).sum()),
    "boxes that are kept": (lambda x, m: (BOXES[at(m), :2][:, 1] * BOXES[at(m), 2]).sum(),
                            lambda x, m: chosen(m, BOXES[:, 1] * BOXES[:, 2]).sum()),
    # functions of rows
    "joined": (lambda x, m: torch.cat([TABLE[m], OLD[m]], -1).square().sum(0),
               lambda x, m: chosen(m, torch.cat([TABLE, OLD], -1) ** 2).sum(0)),
    "split": (lambda x, m: TABLE[m].split([1, 2], -1)[1].square().sum(),
              lambda x, m: chosen(m, TABLE[:, 1:] ** 2).sum()),
    "turned": (lambda x, m: TABLE[m].T.reshape(3, 1, -1).square().sum(), lambda x, m: chosen(m, TABLE**2).sum()),
    "softmax": (lambda x, m: TABLE[m].softmax(-1).square().sum(0),
                lambda x, m: chosen(m, TABLE.softmax(-1) ** 2).sum(0)),
    "layer_norm": (lambda x, m: F.layer_norm(TABLE[m], (3,)).pow(3).sum(),
                   lambda x, m: chosen(m, F.layer_norm(TABLE, (3,)) ** 3).sum()),
    "another mask": (lambda x, m: torch.where(TABLE[m] > 0, TABLE[m], 0.0).sum(),
                     lambda x, m: chosen(m, torch.where(TABLE > 0, TABLE, 0.0)).sum()),
    "counted": (lambda x, m: torch.bincount(CODES[m], minlength=3) * C[:3],
                lambda x, m: (m[:, None] * F.one_hot(CODES)).sum(0) * C[:3]),
    # decisions on what is selected
    "rounded": (lambda x, m: (x[m] * 3).round().sum(), lambda x, m: chosen(m, (x * 3).round()).sum()),
    "compared": (lambda x, m: (x[m] > 0.2).sum().float(), lambda x, m: chosen(m, (x > 0.2).float()).sum()),
    "sign": (lambda x, m: (x[m] - 0.2).sign().sum(), lambda x, m: chosen(m, (x - 0.2).sign()).sum()),
    "written back": (lambda x, m: written(x, m, (x[m] * 3).round()), lambda x, m: torch.where(m, (x * 3).round(), x)),
    "labels": (lambda x, m: C[(TABLE * x[:, None]).argmax(1)[m]].sum(),
               lambda x, m: chosen(m, C[(TABLE * x[:, None]).argmax(1)]).sum()),
}  # fmt: skip


def gradients(f, x, eps=HALF, on_lost="error"):
    x = x.clone().requires_grad_()
    with sll.linearize(eps, forward="straight-through", on_lost=on_lost):
        out = f(x, x > 0)
    y = out.float().reshape(-1)
    return out.detach(), torch.autograd.grad((y * torch.linspace(1, 2, y.numel())).sum(), x)[0]


@pytest.mark.parametrize("name", AT_PLACES)
def test_places_are_the_mask(name):
    program, spelled = AT_PLACES[name]
    (value, found), (_, wanted) = gradients(program, SCORES), gradients(spelled, SCORES)
    assert torch.equal(value, program(SCORES, SCORES > 0)) and value.dtype == program(SCORES, SCORES > 0).dtype
    assert wanted.any()
    torch.testing.assert_close(found, wanted)


NOT_FOLLOWED = {
    "first place": lambda x, m: C[at(m)[0]],
    "shape": lambda x, m: C[at(m)].sum() / at(m).shape[0],
    "two selections": lambda x, m: C[m][TABLE[m][:, 0] > 0].sum(),
    "another mask": lambda x, m: written(C, at(m), C[x < 0.06]).sum(),
    "written elsewhere": lambda x, m: written(C, slice(0, 4), C[m]).sum(),
    "into a selection": lambda x, m: written(C[m], 0, 5.0).sum(),
    "one for each": lambda x, m: written(C, at(m), C[:4]).sum(),
    "a row for each": lambda x, m: (C[m] * C[:4]).sum(),
    "over the rows": lambda x, m: TABLE[m].softmax(0).square().sum(),
    "a place in each": lambda x, m: TABLE.gather(0, m.nonzero().expand(-1, 3)).sum(),
}


@pytest.mark.parametrize("name", NOT_FOLLOWED)
def test_what_is_not_followed_is_reported(name):
    x = SCORES.clone().requires_grad_()
    with sll.linearize(HALF, forward="straight-through", on_lost="ignore") as region:
        value = NOT_FOLLOWED[name](x, x > 0)
    assert region.report().lost
    assert torch.equal(value, NOT_FOLLOWED[name](SCORES, SCORES > 0))


@settings(max_examples=60, deadline=None)
@given(
    st.lists(st.floats(-1, 1, width=32), max_size=6),
    st.integers(0, 3),
    st.booleans(),
    st.sampled_from([torch.float32, torch.float64]),
)
def test_any_rows(values, columns, add, dtype):
    """None, one, all; of no columns; ties at the boundary; infinite numbers in what is left out."""
    n = len(values)
    x, rows = torch.tensor(values, dtype=dtype), torch.arange(n * columns, dtype=dtype).reshape(n, columns) - 3
    rows[:, :1] = rows[:, :1] / (x[:, None] > -0.5)  # (infinite, or NaN, where it is far outside)
    old = torch.ones(n, columns, dtype=dtype)

    def by_places(x, m):
        i = m.nonzero().squeeze(1)
        return old.index_add(0, i, rows[i]) if add else old.index_copy(0, i, rows[i])

    def by_mask(x, m):
        return torch.where(m[:, None], old + rows if add else rows, old)

    (value, found), (_, wanted) = gradients(by_places, x, 0.1), gradients(by_mask, x, 0.1)
    assert torch.equal(value, by_places(x, x > 0))
    torch.testing.assert_close(found, wanted)


# --- a mixture of experts --------------------------------------------------------------------------------------------


class Mixture(nn.Module):
    """Two of three experts for each token, as Mixtral dispatches them; `dense`: all, and a mask."""

    def __init__(self, dispatch):
        super().__init__()
        torch.manual_seed(0)
        self.gate = nn.Linear(4, 3, bias=False)
        self.gates, self.ups, self.downs = (nn.ModuleList(nn.Linear(4, 4) for _ in range(3)) for _ in range(3))
        self.dispatch = dispatch

    def expert(self, e, x):
        return self.downs[e](F.silu(self.gates[e](x)) * self.ups[e](x))

    def forward(self, x):
        weights, which = self.gate(x).softmax(-1).topk(2, -1)
        return self.dispatch(self, x, weights / weights.sum(-1, keepdim=True), which)


def mixtral(model, x, weights, which):
    out, masks = torch.zeros_like(x), F.one_hot(which, 3).permute(2, 1, 0)
    for e in range(3):
        place, token = torch.where(masks[e])
        rows = model.expert(e, x[None, token].reshape(-1, 4)) * weights[token, place, None]
        out.index_add_(0, token, rows.to(x.dtype))
    return out


def dense(model, x, weights, which):
    out, masks = torch.zeros_like(x), F.one_hot(which, 3).bool()
    for e in range(3):
        for k in range(2):
            out = out + torch.where(masks[:, k, e, None], model.expert(e, x) * weights[:, k, None], 0.0)
    return out


def compared(model, x, weights, which):
    out = torch.zeros_like(x)
    for e in range(3):
        token, place = torch.where(which == e)
        out[token] += model.expert(e, x[token]) * weights[token, place, None]
    return out


def compared_dense(model, x, weights, which):
    out = torch.zeros_like(x)
    for e in range(3):
        mask, before = which == e, out
        for k in range(2):  # (what is written to one row twice stays as it was written last)
            out = torch.where(mask[:, k, None], before + model.expert(e, x) * weights[:, k, None], out)
    return out


@pytest.mark.parametrize("pair", [(mixtral, dense), (compared, compared_dense)], ids=lambda pair: pair[0].__name__)
@pytest.mark.parametrize("forward", ["straight-through", "hard"])
def test_mixture_of_experts(pair, forward):
    found, plain = [], []
    for dispatch in pair:
        model, x = Mixture(dispatch), torch.linspace(-3, 3, 48).sin().reshape(12, 4).requires_grad_()
        target = x.detach().roll(1, 0)
        with sll.linearize(0.05, forward=forward, on_lost="error"):
            y = model(x)
        found.append(torch.autograd.grad((y * target).sum(), [x, *model.parameters()]))
        assert torch.equal(y, model(x))
        plain.append(torch.autograd.grad((model(x) * target).sum(), model.gate.weight)[0])
    for a, b in zip(*found):
        torch.testing.assert_close(a, b)
    assert (found[0][1] - plain[0]).abs().sum() > 0.01  # (what the selection has, and plain autograd has not)


NAMED = {
    "gather": lambda x, m: torch.gather(input=x, dim=0, index=at(m)).sum(),
    "index_select": lambda x, m: torch.index_select(input=TABLE, dim=0, index=at(m)).sum(),
    "embedding": lambda x, m: F.embedding(input=at(m), weight=TABLE).sum(),
    "sum": lambda x, m: torch.sum(input=TABLE[m]),
    "softmax": lambda x, m: F.softmax(input=TABLE[m], dim=-1).square().sum(),
    "index_add": lambda x, m: torch.index_add(input=OLD, dim=0, index=at(m), source=TABLE[m]),
    "index_put": lambda x, m: OLD.index_put(indices=(m,), values=torch.tensor(1.0)),
    "where": lambda x, m: torch.where(condition=TABLE[m] > 1, input=TABLE[m], other=-TABLE[m]).sum(),
    "a list": lambda x, m: TABLE[[at(m), at(m) * 0]].sum(),
    "a list written to": lambda x, m: written(OLD, [at(m), at(m) * 0], 5.0),
    "linear": lambda x, m: F.linear(input=TABLE[m], weight=TABLE[:2]).sum(),
    "cat": lambda x, m: torch.cat(tensors=[TABLE[m], TABLE[m]], dim=-1).sum(),
    "out": lambda x, m: torch.add(TABLE[m], 1.0, out=torch.empty(4, 3)).sum(),
}


@pytest.mark.parametrize("name", NAMED)
def test_named_arguments_and_lists(name):
    """Followed or reported, and never an error."""
    x = SCORES.clone().requires_grad_()
    with sll.linearize(HALF, forward="straight-through", on_lost="ignore") as region:
        y = NAMED[name](x, x > 0)
    assert torch.equal(y, NAMED[name](SCORES, SCORES > 0))
    assert region.report().lost or torch.autograd.grad(y.square().sum(), x)[0][[1, 4]].any()


@pytest.mark.parametrize("numbers", [
    lambda x: (x > 0.2).long() + 2 * (x > 0.04).long(), lambda x: (x * 4).round().long() + 4,
    lambda x: torch.stack([x, -x, x * 2], 1).argmax(1), lambda x: (x > 0.05).long(),
])  # fmt: skip
def test_functions_of_decided_numbers_that_were_selected(numbers):
    """They carry what they are made of, and the mask: neither was asked for the other."""

    def selected(x, m):
        codes = numbers(x)[m]
        return (codes * 2 - 3).abs().sum() + (codes >= 1).sum() + codes.clamp(0, 2).float().square().sum()

    def spelled(x, m):
        codes = numbers(x)
        each = (codes * 2 - 3).abs() + (codes >= 1).long() + codes.clamp(0, 2).float().square()
        return torch.where(m, each, 0.0).sum()

    (value, found), (_, wanted) = gradients(selected, SCORES), gradients(spelled, SCORES)
    assert torch.equal(value, selected(SCORES, SCORES > 0))
    torch.testing.assert_close(found, wanted)
