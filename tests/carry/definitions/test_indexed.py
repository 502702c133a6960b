"""What takes a decided index or mask."""

from __future__ import annotations

import pytest
import torch
import torch.nn.functional as F

import sll
from defined import MODES, gradient, hold_the_line_integral, path, same_as_without, weighed

_G = torch.Generator().manual_seed(5)
TABLE = torch.randn(9, 3, generator=_G, dtype=torch.float64)
SCORES = torch.randn(4, 5, generator=_G, dtype=torch.float64)
Q, K, V = torch.randn(3, 1, 4, 2, generator=_G, dtype=torch.float64)
COLUMN, ONES = TABLE[:5, 0].contiguous(), torch.ones(8, dtype=torch.float64)


def whole(x):
    return torch.round(x + 3).long()


def among(x, reduce):
    return weighed((-ONES if reduce == "amax" else ONES).scatter_reduce(0, whole(x), COLUMN, reduce))


PROGRAMS = {
    "cross_entropy": (lambda x: F.cross_entropy(SCORES, x.argmax(1)), (4, 5)),
    "cross_entropy, weighted": (lambda x: F.cross_entropy(SCORES, x.argmax(1), weight=ONES[:5].cumsum(0)), (4, 5)),
    "nll_loss": (lambda x: F.nll_loss(SCORES, whole(x) - 1, reduction="sum"), (4,)),
    "embedding_bag": (lambda x: weighed(F.embedding_bag(whole(x), TABLE)), (2, 3)),
    "embedding_bag, max": (lambda x: weighed(F.embedding_bag(whole(x), TABLE, mode="max")), (2, 3)),
    "isin": (lambda x: weighed(torch.isin(whole(x), torch.tensor([1, 3, 4]))), (5,)),
    "isin, inverted": (lambda x: weighed(torch.isin(whole(x), torch.tensor([1, 3]), invert=True)), (5,)),
    **{
        f"scatter_reduce, {reduce}": (lambda x, reduce=reduce: among(x, reduce), (5,))
        for reduce in ("sum", "prod", "amax", "amin")
    },
    "attention": (lambda x: weighed(F.scaled_dot_product_attention(Q, K, V, attn_mask=x > -1.5)), (4, 4)),
}


@pytest.mark.parametrize("name", PROGRAMS)
def test_line_integral(name):
    hold_the_line_integral(*PROGRAMS[name])


@pytest.mark.parametrize("name", PROGRAMS)
def test_local_gradients(name):
    """In wide bands something is open: it has a gradient, and nothing is lost."""
    program, shape = PROGRAMS[name]
    g, lost = gradient(program, path(*shape)[0], 0.3)
    assert g.any() and lost == []


@pytest.mark.parametrize("func", [
    lambda x: F.cross_entropy(SCORES, x.argmax(1)), lambda x: F.nll_loss(SCORES, x.argmax(1), reduction="none"),
    lambda x: F.embedding_bag(x.argmax(1).view(2, 2), TABLE), lambda x: torch.isin(x.argmax(1), torch.tensor([1, 3])),
    lambda x: torch.ones(5, dtype=torch.float64).scatter_reduce(0, x.argmax(1), COLUMN[:4], "mean"),
    lambda x: F.scaled_dot_product_attention(Q, K, V, attn_mask=x[:, :4] > -1.5),
])  # fmt: skip
def test_values_are_those_of_torch(func):
    assert same_as_without(func, path(4, 5)[0].requires_grad_())


@pytest.mark.parametrize("forward", MODES)
def test_a_target_that_is_open_has_the_difference_of_the_losses(forward):
    """Two classes in the band of each other: half the difference between the two losses, over the width."""
    logits = torch.tensor([[0.3, -0.2, 0.9]], dtype=torch.float64)
    g, lost = gradient(
        lambda q: F.cross_entropy(logits, q.argmax(1)), torch.tensor([[0.0, 0.01, -9.0]]).double(), 0.1, forward
    )
    change = F.cross_entropy(logits, torch.tensor([1])) - F.cross_entropy(logits, torch.tensor([0]))
    change = float(change)
    assert lost == [] and g[0].tolist() == pytest.approx([-change / 0.2, change / 0.2, 0])


def test_what_is_not_written_down_is_reported():
    program = lambda x: F.cross_entropy(SCORES, x.argmax(1), label_smoothing=0.1)
    at = torch.zeros(4, 5, dtype=torch.float64)
    assert [gradient(program, at, 0.1, forward)[1] for forward in MODES] == [["cross_entropy"], [], ["cross_entropy"]]


@pytest.mark.parametrize("forward", MODES)
def test_of_rounded_numbers_it_is_decided_whether_they_are_among_others(forward):
    x = torch.tensor([-0.52, 0.1, 0.49, 1.52, 2.6], dtype=torch.float64)
    found, lost = gradient(lambda x: torch.isin(x.round(), torch.tensor([0.0, 2.0])).double().sum(), x, 0.1, forward)
    want, _ = gradient(lambda x: ((x.round() == 0) | (x.round() == 2)).double().sum(), x, 0.1, forward)
    assert lost == [] and want.any()
    torch.testing.assert_close(found, want)


@pytest.mark.parametrize("forward", ["linear", "hard", "straight-through"])
@pytest.mark.parametrize("program", [lambda m: -m.long(), lambda m: m.long() + 3, lambda m: m.long() - 4])
def test_take_along_dim_counts_on_beyond_the_ends(forward, program):
    x, table = torch.tensor([-1.0, 0.04, 2.0], requires_grad=True), torch.tensor([1.0, 2.0, 4.0])
    want = torch.take_along_dim(table, program(x.detach() > 0), 0)
    with sll.linearize(0.01, forward=forward, on_lost="ignore"):
        got = torch.take_along_dim(table, program(x > 0), 0)
    assert torch.equal(got, want)
