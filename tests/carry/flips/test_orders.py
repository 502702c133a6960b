"""Programs that choose, order and select show their own values."""

from __future__ import annotations

import pytest
import torch
import torch.nn.functional as F

import sll
from oracles import plain, same_bits


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


@pytest.mark.parametrize("best", [
    lambda n: n.amax(1), lambda n: n.max(1).values, lambda n: n.t().amax(0), lambda n: -(-n).amin(1),
    lambda n: torch.stack([row.max() for row in n]),
])  # fmt: skip
def test_maxima_of_integers(best):
    """The last bit comes: 8 after 4. In the first row it does not matter."""
    x = torch.tensor([[0.5, 0.02, 0.5, -0.5], [0.5, 0.6, 0.7, -0.01]], dtype=torch.float64, requires_grad=True)
    with sll.linearize(0.1, forward="hard", on_lost="error"):
        y = best((x > 0) * torch.tensor([1, 2, 4, 8])).double().sum()
    assert torch.autograd.grad(y, x)[0].tolist() == [[0] * 4, [0, 0, 0, pytest.approx((8 - 4) * 5)]]
