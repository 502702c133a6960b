"""What a mask selects, in every engine."""

from __future__ import annotations

import pytest
import torch
import torch.nn.functional as F

import sll
from inputs import END, START, V
from oracles import band_crossings, gauss_between, grads, leaf, line_integral

SELECTED_NOTHING = {
    "times": lambda x, y: (y[x < 0] * 2).sum() + y.sum(),
    "exp": lambda x, y: y[x < 0].exp().sum() + y.sum(),
    "two-dimensional": lambda x, y: F.relu(y.reshape(4, 1)[x < 0]).sum() + y.sum(),
    "masked_select": lambda x, y: (y.masked_select(x < 0) * y.sum()).sum() + y.sum(),
    "loss": lambda x, y: F.mse_loss(y[x < 0], x[x < 0], reduction="sum") + y.sum(),
    "read and written": lambda x, y: _written(y, x < 0, lambda f, b: f[b] * 2),
    "written": lambda x, y: _written(y, x < 0, lambda f, b: torch.zeros(0)),
    "in place": lambda x, y: _written(y, x < 0, lambda f, b: f[b].mul_(2)),
    "scattered": lambda x, y: y.masked_scatter(x < 0, torch.zeros(0)).sum(),
}


def _written(y, mask, value):
    f = y * 1.0
    f[mask] = value(f, mask)
    return f.sum()


@pytest.mark.parametrize("forward", ["linear", "hard", "straight-through"])
@pytest.mark.parametrize("name", SELECTED_NOTHING)
def test_a_mask_that_selects_nothing(name, forward):
    """It raised, and a write of nothing took the gradient of the whole tensor away."""
    x, y = leaf(1.0, 1.0, 1.0, 1.0), leaf(1.0, 2.0, 3.0, 4.0)
    with sll.linearize(0.05, forward=forward):
        out = SELECTED_NOTHING[name](x, y)
    assert out.item() == 10
    assert grads(out, y) == [1, 1, 1, 1]


@pytest.mark.parametrize("forward", ["linear", "hard"])
@pytest.mark.parametrize("how", [torch.Tensor.mul_, torch.Tensor.__imul__])
def test_what_a_mask_selects_is_modified_in_place(how, forward):
    """``z[mask] *= 2`` wrote back as if a mask element that flips would shift all that follow."""
    values = [0.02, 1.0, 1.0, 1.0, -1.0, 1.0], [10.0, 20.0, 30.0, 40.0, 50.0, 60.0]
    found = []
    for doubled in (lambda z, m: how(z[m], 2), lambda z, m: z[m] * 2):
        x, y = (leaf(*v) for v in values)
        with sll.linearize(0.05, forward=forward) as region:
            z, mask = y * 1.0, x > 0
            z[mask] = doubled(z, mask)
        assert not region.report().lost
        found.append((z.tolist(), grads(z, x, y)))
    assert found[0] == found[1]
    assert found[0][1][0] == pytest.approx([100, 0, 0, 0, 0, 0])


@pytest.mark.parametrize("forward", ["linear", "hard", "straight-through"])
def test_a_selection_of_a_single_number(forward):
    x = torch.tensor(-1.0, requires_grad=True)
    with sll.linearize(0.01, forward=forward):
        y = x.clone()
        y[y > 0] = y[y > 0] * 2
        none = x[x > 0] * 2
    assert y.item() == -1 and none.shape == (0,)


EPS = 0.01
LOWER = torch.tensor([0, 0.4, 0.0])  # for a mask that selects what is less: element 1 is always in it

SELECTIONS = {
    "sum": lambda x: x[x > 0.53].sum(),
    "mean": lambda x: (x[x > 0.53] * 3).mean(),
    "masked_select": lambda x: (x * V).masked_select(x > 0.53).sum(),
    "rows": lambda x: (V[:, None] * V)[x > 0.53].mean(1).sum(),
    "columns": lambda x: (V[:, None] * V)[x > 0.53][:, 1:].sum(),
    "loss": lambda x: F.mse_loss(x[x > 0.53], V[x > 0.53], reduction="sum"),
    "mean loss": lambda x: F.l1_loss(x[x > 0.53], V[x > 0.53]),
    "cross entropy": lambda x: F.cross_entropy((V[:, None] / 50 * V)[x > 0.53], torch.tensor([0, 1, 2])[x > 0.53]),
    "difference": lambda x: (x[x > 0.53] - V[0.53 < x]).abs().sum(),
    "chain": lambda x: (lambda a: a[a > 0.2])((x - LOWER)[x - LOWER < 0.53]).sum(),
    "nonzero": lambda x: V[(x > 0.53).nonzero(as_tuple=True)].sum(),
    "nonzero column": lambda x: V[(x > 0.53).nonzero()[:, 0]].sum(),
    "logarithm": lambda x: (x[x > 0.53] - 0.53).log().exp().sum() * 0 + x[x > 0.53].log().sum(),
    "not": lambda x: V[~(x > 0.53)].sum() - x[~(x > 0.53)].sum(),
    "squeezed": lambda x: V[(x > 0.53).nonzero().squeeze(1)].mean(),
}


@pytest.mark.parametrize("forward", ["linear", "hard"])
@pytest.mark.parametrize("name", SELECTIONS)
def test_selections(name, forward):
    """An element comes into the selection; another is in it all the time."""
    start, end = START + torch.tensor([0, 0.2, 0.0]), END + torch.tensor([0, 0.2, 0.0])
    f = SELECTIONS[name]
    with sll.linearize(EPS, on_lost="error"):
        f(torch.tensor([0.531, 0.73, 0.0], dtype=torch.float64, requires_grad=True))
    times, weights = gauss_between(band_crossings(start, end + 1e-9, 0.53, EPS))
    got, want = line_integral(f, start, end, times, weights, EPS, forward), float(f(end) - f(start))
    assert want != 0
    assert got == pytest.approx(want, rel=0.03)


@pytest.mark.parametrize("forward", ["linear", "hard"])
def test_writing_a_selection_back(forward):
    x = torch.tensor([0.5, 0.531, 0.9], dtype=torch.float64, requires_grad=True)
    with sll.linearize(EPS, forward=forward, on_lost="error"):
        mask = x > 0.53
        y = x * 1
        y[mask] = x[mask] * 2
        z = torch.where(mask, x * 2, x)
    got, want = (torch.autograd.grad(t @ V, x, retain_graph=True)[0] for t in (y, z))
    assert want[1] > 100
    torch.testing.assert_close(got, want)
    torch.testing.assert_close(y, z)


UNSEEN = {
    "log": (lambda x: x[x > 0].log().sum(), [0.5, 0.0, 2.0], [2.0, 0.0, 0.5]),
    "sqrt": (lambda x: x[x > 0].sqrt().sum(), [0.25, -0.05, 1.0], [1.0, 0.0, 0.5]),
    "divide": (lambda x: (1 / x[x > 0]).sum(), [0.5, 0.0, 1.0], [-4.0, 0.0, -1.0]),
    "mean": (lambda x: torch.masked_select(x, x > 0).log().mean(), [0.5, -0.01, 1.0], None),
    "write": (lambda x: (lambda y, m: y.masked_scatter(m, x[m].log()))(x * 0, x > 0).sum(), [0.5, 0.0, 2.0], None),
    "probability": (lambda x: F.binary_cross_entropy(x[x > 0], x.new_ones(3)[x > 0]), [0.5, -0.05, 0.9], None),
}


@pytest.mark.parametrize("forward", ["linear", "hard"])
@pytest.mark.parametrize("name", UNSEEN)
def test_what_a_mask_keeps_away_is_not_seen(name, forward):
    """An element in the band that is not selected: its infinity reaches neither value nor gradient."""
    f, values, want = UNSEEN[name]
    x = torch.tensor(values, dtype=torch.float64, requires_grad=True)
    with sll.linearize(0.1, forward=forward, on_lost="ignore"):
        y = f(x)
    (g,) = torch.autograd.grad(y, x)
    assert y.isfinite() and g.isfinite().all(), g
    if want is not None:
        torch.testing.assert_close(g, torch.tensor(want, dtype=torch.float64))


@pytest.mark.parametrize("forward", ["linear", "hard", "straight-through"])
def test_numbers_selected_by_a_mask_that_is_certain(forward):
    """Of the same decision: ``codes[codes >= 0]`` drops what is to be ignored, in the confusion matrices of metrics."""
    x = torch.tensor([-0.3, 0.02, 0.4, -0.05], requires_grad=True)
    with sll.linearize(0.1, forward=forward, on_lost="error"):
        codes = (x > 0).long() + 2 * torch.tensor([0, 1, 1, 0])
        both = [torch.bincount(n, minlength=4).float() @ torch.arange(4.0) for n in (codes[codes >= 0], codes)]
        both.append(torch.masked_select(codes, codes >= 0).float().sum())
    got, want, selected = (torch.autograd.grad(y, x, retain_graph=True)[0] for y in both)
    torch.testing.assert_close(got, want)
    torch.testing.assert_close(selected, want)
    assert want.tolist() == pytest.approx([0.0, 5.0, 0.0, 5.0])


SCORES = torch.tensor([0.3, -0.2, 0.05, 0.7, -0.04, -0.9, 0.11])
ROWS = torch.linspace(0, 9, 21).sin().reshape(7, 3)


def _set(x, index, value):
    x = x.clone()
    x[index] = value
    return x


SPELLED = {
    "a number": (lambda x, m: _set(ROWS, torch.where(m)[0], 0.5), lambda x, m: torch.where(m[:, None], 0.5, ROWS)),
    "one column": (lambda x, m: _set(ROWS, (m.nonzero()[:, 0], 1), 0.5)[:, 1],
                   lambda x, m: torch.where(m, 0.5, ROWS[:, 1])),
    "flags": (lambda x, m: _set(torch.zeros(7), torch.where(m)[0], True), lambda x, m: m.float()),
    "as many ones": (lambda x, m: ROWS.index_add(0, torch.where(m)[0], torch.ones_like(ROWS[m])),
                     lambda x, m: torch.where(m[:, None], ROWS + 1, ROWS)),
    "rounded": (lambda x, m: (x[m] * 3).round().sum(), lambda x, m: torch.where(m, (x * 3).round(), 0.0).sum()),
    "compared": (lambda x, m: (x[m] > 0.2).sum().float(), lambda x, m: (m & (x > 0.2)).sum().float()),
    "sign": (lambda x, m: (x[m] - 0.2).sign().mean(),
             lambda x, m: torch.where(m, (x - 0.2).sign(), 0.0).sum() / m.sum()),
    "best of each row": (lambda x, m: SCORES[(ROWS * x[:, None])[m].argmax(1)].sum(),
                         lambda x, m: torch.where(m, SCORES[(ROWS * x[:, None]).argmax(1)], 0.0).sum()),
    "decided twice": (lambda x, m: ((x[m] > 0.2).float() * 2 - 0.9).sign().sum(),
                      lambda x, m: torch.where(m, ((x > 0.2).float() * 2 - 0.9).sign(), 0.0).sum()),
    "written back": (lambda x, m: _set(x, m, (x[m] * 3).round()), lambda x, m: torch.where(m, (x * 3).round(), x)),
}  # fmt: skip


@pytest.mark.parametrize("forward", ["hard", "straight-through"])
@pytest.mark.parametrize("name", SPELLED)
def test_decisions_and_places_of_a_selection(name, forward):
    """Independent: the same program with `torch.where`, which has no selection. There was no gradient, and no word."""
    found = []
    for program in SPELLED[name]:
        x = SCORES.clone().requires_grad_()
        with sll.linearize(0.25, forward=forward, on_lost="error"):
            y = program(x, x > 0)
        found.append(torch.autograd.grad((y * torch.linspace(1, 2, y.numel()).reshape(y.shape)).sum(), x)[0])
        assert torch.equal(y, program(SCORES, SCORES > 0)) or program is SPELLED[name][1]
    assert found[1].any()
    torch.testing.assert_close(*found)
