"""Programs that choose, order and select inside a region: what users write, one case for each thing that went wrong."""

from __future__ import annotations

import pytest
import torch
import torch.nn.functional as F
from torch.func import grad, vmap

import sll
from oracles import band_crossings, gauss_between, line_integral, plain
from test_hard_forward import same_bits
from test_order_line_integral import integral

V = torch.tensor([1.0, 10.0, 100.0], dtype=torch.float64)
EPS = 0.01
START = torch.tensor([0.50, 0.53, 0.0], dtype=torch.float64)  # on the way to END element 0 overtakes element 1
END = torch.tensor([0.56, 0.53, 0.0], dtype=torch.float64)


def one_hot(i):
    return F.one_hot(i, 3).double()


OVERTAKES = {
    "argmax": lambda x: V[x.argmax()],
    "max": lambda x: V[x.max(0).indices],
    "topk": lambda x: V[x.topk(2).indices] @ V[:2],
    "sort": lambda x: V[x.sort(descending=True).indices] @ V,
    "kthvalue": lambda x: V[x.kthvalue(2).indices],
    "median": lambda x: V[x.median(0).indices],
    "beside -inf": lambda x: V[x.masked_fill(torch.tensor([False, False, True]), -torch.inf).argsort()] @ V,
    "nanmedian beside nan": lambda x: V[torch.cat([x, x.new_tensor([torch.nan])]).nanmedian(0).indices.clamp(max=2)],
    "rank": lambda x: (x.argsort().argsort() * V).sum(),
    "rank descending": lambda x: (x.argsort(descending=True).argsort(descending=True) * V).sum(),
    "rank by sort": lambda x: (x.sort().indices.sort().indices * V).sum(),
    "rank by scatter": lambda x: (torch.zeros(3).long().scatter(0, x.argsort(), torch.arange(3)) * V).sum(),
    "rank by searchsorted": lambda x: (torch.searchsorted(x.sort().values, x) * V).sum(),
    "rank by searchsorted right": lambda x: (torch.searchsorted(x.sort().values, x, right=True) * V).sum(),
    "rank by unique": lambda x: (x.unique(return_inverse=True)[1] * V).sum(),
    "rank by comparison": lambda x: ((x[:, None] > x).sum(1) * V).sum(),
    "winner": lambda x: ((x >= x.max()) * V).sum(),
    "winner by amax": lambda x: ((x >= x.amax(0, keepdim=True)) * V).sum(),
    "losers": lambda x: ((x < x.max(0, keepdim=True).values) * V).sum(),
    "k winners": lambda x: ((x >= x.topk(1).values[-1]) * V).sum(),
    "k winners turned round": lambda x: ((x.topk(1).values <= x) * V).sum(),
    "all but the last": lambda x: ((x > x.kthvalue(2).values) * V).sum(),
    "at most the median": lambda x: ((x <= x.median()) * V).sum(),
    "above the sorted": lambda x: ((x > x.sort().values[1]) * V).sum(),
    "above the sorted descending": lambda x: ((x > x.sort(descending=True).values[1:2]) * V).sum(),
    "weight of the winner": lambda x: torch.where(x >= x.max(), V, -V).sum(),
    "write at": lambda x: torch.zeros(3).double().index_put((x.argmax(),), V[2]) @ V,
    "unravel": lambda x: (torch.unravel_index(x.argmax(), (3, 1))[0] * V).sum(),
    "winners by the smallest of the best": lambda x: ((x >= x.topk(2).values.min()) * V.flip(0)).sum() + x.argmax(),
    "winner, cloned": lambda x: ((x >= x.topk(1).values[-1:].clone().expand(3)) * V).sum(),
    "winner, split": lambda x: ((x >= x.topk(2).values.split(1)[0]) * V).sum(),
    "winner of a view": lambda x: ((x.view(1, -1) >= x.view(1, -1).flatten().max()) * V).sum(),
    "rank by searchsorted, batched": lambda x: (torch.searchsorted(x[None].sort(1).values, x[None]) * V).sum(),
    "rank by searchsorted, sorter": lambda x: (torch.searchsorted(x, x, sorter=x.argsort()) * V).sum(),
    "batched winner": lambda x: ((x[None] >= x[None].amax(1, keepdim=True)) * V).sum(),
}


@pytest.mark.parametrize("forward", ["linear", "hard"])
@pytest.mark.parametrize("name", OVERTAKES)
def test_one_overtakes_the_other(name, forward):
    """Line integral over the band in which two elements change places; nothing is lost."""
    with sll.linearize(EPS, on_lost="error"):
        OVERTAKES[name](START.clone().requires_grad_())
    got, want = integral(OVERTAKES[name], START, END, EPS, forward)
    assert want != 0
    assert got == pytest.approx(want, rel=1e-6)


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
    "chain": lambda x: (lambda a: a[a > 0.2])((x * 1)[x < 0.53]).sum(),
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
    if name == "chain":
        start, end = (x - torch.tensor([0, 0.4, 0.0]) for x in (start, end))
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


def test_a_detached_alias_is_not_the_source():
    x = torch.tensor([0.5, 0.55, 0.0], dtype=torch.float64, requires_grad=True)
    for alias in (x.detach(), x.data, x.detach().clone()):
        with sll.linearize(0.1):
            y = (alias >= x.max()).double() @ V
            z = (alias >= x.max() + 0).double() @ V
        torch.testing.assert_close(*(torch.autograd.grad(t, x)[0] for t in (y, z)))


def ones_at(index):
    def write(x):
        y = torch.zeros(3, 3, dtype=x.dtype)
        y[index(x)] = 1.0
        return y

    return write


def one_or(x, other):
    return torch.where(x.detach() > 0.5, 1, other)


SAME_BITS = {
    "labels out of range": lambda x: F.cross_entropy(torch.eye(3)[x > 0.5], one_or(x, -1)[x > 0.5]),
    "index out of range": lambda x: torch.ones(2)[one_or(x, 99)[x > 0.5]],
    "division by zero": lambda x: 7 // one_or(x, 0)[x > 0.5],
    "probabilities": lambda x: F.binary_cross_entropy((x * 2 - 1)[x > 0.5].clamp(max=1), torch.ones(3)[x > 0.5]),
    "0-dim": lambda x: ones_at(lambda x: x.argmax())(x),
    "after a number": ones_at(lambda x: (0, x.argmax())),
    "after a slice": ones_at(lambda x: (slice(None), x.argmax())),
    "after ...": ones_at(lambda x: (..., x.argmin())),
    "after None": ones_at(lambda x: (None, x.argmin())),
    "beside a list": ones_at(lambda x: ([0, 1], x.topk(2).indices)),
    "beside a range": ones_at(lambda x: (range(2), x.topk(2).indices)),
    "mask after a number": ones_at(lambda x: (0, x > 0.5)),
    "mask after a slice": ones_at(lambda x: (slice(None), x > 0.5)),
    "beyond the end": lambda x: torch.zeros(3).index_fill(0, (x * 2.4).round().long(), 1.0),
    "negative": lambda x: torch.zeros(3).index_fill(0, -1 - (x * 2.4).round().long(), 1.0),
    "scatter at the end": lambda x: torch.zeros(3).scatter_add(0, (x * 2.4).round().long(), torch.ones(3)),
    "add": lambda x: torch.zeros(3).index_add(0, x.argsort(), torch.ones(3), alpha=2),
    "copy": lambda x: torch.zeros(3, 2).index_copy(0, x.argsort(), torch.rand(3, 2, generator=torch.manual_seed(0))),
    "take_along_dim flat": lambda x: torch.take_along_dim(x[None], x[None].argsort(1)),
    "take_along_dim argmax": lambda x: torch.take_along_dim(x[None], x[None].argmax(1, keepdim=True)),
    "0-dim table": lambda x: x.sum().index_select(0, x.argsort()[:1] * 0),
    "empty scatter": lambda x: torch.zeros(3, 0).scatter(0, x.argsort()[:, None][:, :0], 1.0),
    "max norm": lambda x: F.embedding(x.argmax(0, keepdim=True), torch.full((3, 2), 5.0), max_norm=1.0),
    "kept": lambda x: x[x > 0.5],
    "values": lambda x: tuple(x.topk(2)),
    "no winner": lambda x: ((x > x.max()), (x >= x.min())),
    "median": lambda x: tuple(x.median(0)),
    "histogram": lambda x: torch.histc(x, 5),
    "sorted search": lambda x: torch.searchsorted(x.sort().values, x, out_int32=True),
    "compared with another": lambda x: (x >= (x * 2).max(), x[None] >= x.topk(2).values[:, None]),
    "unravel": lambda x: torch.unravel_index(x.argsort(), (2, 2)),
}


@pytest.mark.parametrize("eps", [1e-6, 0.05, 10.0])
@pytest.mark.parametrize("name", SAME_BITS)
def test_hard_forward_is_the_plain_program(name, eps):
    f = SAME_BITS[name]
    for values in ([0.5, 0.52, 0.0], [0.5, 0.5, 0.5], [0.9, 0.1, 0.3], [0.2, 0.7, 0.7]):
        x = torch.tensor(values)
        want = plain(f, x)
        with sll.linearize(eps, forward="hard", on_lost="ignore"):
            got = f(x.clone().requires_grad_())
        assert same_bits(got, want), (values, got, want)


def test_embedding_rescales_what_the_hard_program_looks_up():
    table = torch.full((3, 2), 5.0)
    with sll.linearize(0.1, forward="hard"):
        x = torch.tensor([0.5, 0.52, 0.0], requires_grad=True)
        F.embedding(x.argmax(0, keepdim=True), table, max_norm=1.0)
    assert (table[[0, 2]] == 5).all() and (table[1] < 5).all()


@pytest.mark.parametrize(
    "f",
    [
        lambda x: V.gather(0, x.argmax(0, keepdim=True)).sum(),
        lambda x: (V[x.argsort()] * V).sum(),
        lambda x: (x.topk(2).indices == 1).any() * x.sum(),
        lambda x: ((x >= x.max()) * V).sum(),
        lambda x: (x.argsort().argsort() * V).sum(),
    ],
)
def test_vmap_of_grad(f):
    x = torch.stack([START, torch.tensor([0.525, 0.53, 0.0], dtype=torch.float64)])
    with sll.linearize(EPS):
        rows = torch.stack([grad(f)(row) for row in x])
        torch.testing.assert_close(vmap(grad(f))(x), rows)
    assert rows[1].any()


@pytest.mark.parametrize(
    "f",
    [
        lambda x, i: V[:i], lambda x, i: V[i:], lambda x, i: V.narrow(0, i, 1),
        lambda x, i: V.select(0, i), lambda x, i: torch.isin(i, torch.tensor([1])), lambda x, i: V.split([i, 3 - i]),
    ],
)  # fmt: skip
def test_bounds_and_offsets_are_reported(f):
    x = torch.tensor([0.525, 0.53, 0.0], requires_grad=True)
    with sll.linearize(EPS) as region, pytest.warns(sll.LostGradientWarning):
        f(x, x.argmax())
    assert sum(region.report().lost.values()) >= 1


def test_types_and_what_is_left():
    x = torch.randn(4, 5, requires_grad=True)
    with sll.linearize(0.5):
        results = [x.sort(1), x.topk(2, 1), x.max(1), x.min(0), x.kthvalue(2, 1), x.median(1)]
        others = [x.argmax(1), x.argsort(0), x[x > 0], (x > 0).nonzero(), x >= x.amax(1, keepdim=True), x.amax(1)]
        assert all(hasattr(t, "_sll") for t in others)
    for result, f in zip(results, ("sort", "topk", "max", "min", "kthvalue", "median")):
        assert type(result) is getattr(torch.return_types, f)
        assert type(result.indices) is torch.Tensor and result.indices.dtype == torch.int64
        others.extend(result)
    assert not any(vars(t) for t in others)


def test_switched_off():
    x = torch.tensor([0.525, 0.53, 0.0], requires_grad=True)
    with sll.linearize(EPS, exclude=("argmax", "sort", "topk", "searchsorted")):
        for index in (x.argmax(), x.argsort(), x.topk(2).indices, torch.bucketize(x, torch.tensor([0.53]))):
            assert not vars(index)
    with sll.linearize(EPS), torch.no_grad():
        assert not vars(x.argmax()) and not vars(x.sort().values)
    with sll.linearize({"default": EPS, "argmax": 1.0}):
        assert vars(x.argmax())["_sll"][0].weights.max() < 0.6


def vector_quantization(x):
    codebook = torch.linspace(-1, 1, 24).reshape(8, 3)
    index = torch.cdist(x, codebook).argmin(-1)
    return index, codebook[index], F.one_hot(index, 8), F.embedding(index, codebook), torch.bincount(index, minlength=8)


def nearest_vote(x):
    nearest = torch.cdist(x, torch.linspace(-1, 1, 30).reshape(10, 3)).topk(3, largest=False)
    votes = F.one_hot((torch.arange(10) % 4)[nearest.indices], 4).sum(1)
    return nearest.values, nearest.indices, votes, votes.argmax(1), votes / 3


def sparse_activation(x):
    kept = torch.zeros_like(x).scatter(1, x.abs().topk(1, 1).indices, 1.0)
    size = x.abs()
    return x * kept, x * (size >= size.topk(2, 1).values[:, -1:]), x[size > size.median(1, keepdim=True).values]


@pytest.mark.parametrize("program", [vector_quantization, nearest_vote, sparse_activation])
@pytest.mark.parametrize("eps", [0.01, 1.0])
def test_hard_forward_of_programs(program, eps):
    x = torch.round(torch.randn(40, 3, generator=torch.Generator().manual_seed(0)), decimals=1)
    want = plain(program, x)
    with sll.linearize(eps, forward="hard", on_lost="ignore"):
        got = program(x.clone().requires_grad_())
    assert same_bits(got, want)


@pytest.mark.parametrize("choose", [lambda y: y.argmax(), lambda y: y.topk(1).indices, lambda y: y.argsort()])
def test_input_modified_before_the_index_is_used(choose):
    """The weights are worked out when they are asked for: if the input is gone by then, that is said."""
    x = torch.tensor([0.525, 0.53, 0.0], requires_grad=True)
    with sll.linearize(EPS) as region:
        y = x * 1
        index = choose(y)
        y.mul_(-1)
        with pytest.warns(sll.LostGradientWarning):
            out = V[index]
    assert torch.equal(out.detach(), V[choose(x.detach())])
    assert sum(region.report().lost.values()) == 1


LOOKUPS = {
    "[]": lambda table, i: table[i],
    "index_select": lambda table, i: table.index_select(0, i),
    "gather": lambda table, i: table.gather(0, i),
    "take_along_dim": lambda table, i: table.take_along_dim(i, 0),
    "take": lambda table, i: table.take(i),
}


@pytest.mark.parametrize("index", ["chosen", "rounded"])
@pytest.mark.parametrize("name", LOOKUPS)
def test_a_table_that_carries_decisions_is_looked_up_by_every_function(name, index):
    """At an index that carries others: the mask goes on, and is no more than its values there and here."""
    x = torch.tensor([0.29, 0.31, -0.35], dtype=torch.float64)
    y = torch.tensor([-0.02, 0.04, 0.5], dtype=torch.float64)

    def results(look):
        a, b = (t.clone().requires_grad_() for t in (x, y))
        with sll.linearize(0.1, forward="linear"):
            i = a.argmax().reshape(1) if index == "chosen" else torch.round(a * 5).long().clamp(0, 2)
            out = (look(b > 0, i).double() * torch.tensor([1.0, 10.0, 100.0])[: len(i)]).sum()
        return out.detach(), *torch.autograd.grad(out, (a, b))

    def spelled_out(table, i):
        return (i.unsqueeze(-1) == torch.arange(3)).double() @ table.double()

    for got, want in zip(results(LOOKUPS[name]), results(spelled_out)):
        torch.testing.assert_close(got, want, check_dtype=False)


def test_a_looked_up_number_that_is_open_is_compared_with_what_it_may_be():
    """3 or 0 with equal weights is more than 0 with a weight of 1/2; its expectation, a count, would be surely."""
    y = torch.tensor([0.0, 1.0], dtype=torch.float64, requires_grad=True)
    scores = torch.tensor([1.0, 0.0], dtype=torch.float64, requires_grad=True)
    with sll.linearize(0.1, forward="linear"):
        table = (y > -0.05).long() * 3
        more = (table[scores.argmax()] > 0).double()
    torch.testing.assert_close(more.detach(), torch.tensor(0.75, dtype=torch.float64))
    torch.testing.assert_close(torch.autograd.grad(more, y)[0], torch.tensor([5.0, 0.0], dtype=torch.float64))


def test_a_source_that_is_longer_than_its_index_is_scattered_in_part():
    y = torch.tensor([[0.02, -0.03], [5.0, 5.0]], dtype=torch.float64, requires_grad=True)
    with sll.linearize(0.1, forward="linear"):
        out = torch.zeros(1, 2, dtype=torch.long).scatter_add(1, torch.tensor([[1, 0]]), (y > 0).long()).double()
    torch.testing.assert_close(out.detach(), torch.tensor([[0.35, 0.6]], dtype=torch.float64))
    grad = torch.autograd.grad(out.sum(), y)[0]
    torch.testing.assert_close(grad, torch.tensor([[5.0, 5.0], [0.0, 0.0]], dtype=torch.float64))
