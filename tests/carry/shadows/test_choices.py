"""Choices in a region of local gradients have the gradients of the explicit functions, exactly."""

from __future__ import annotations

import gc
import math
from unittest import mock

import pytest
import torch
import torch.nn.functional as F

import sll
from local_slopes import T, scores, worked_out
from sll._carry.shadows import orders, picked
from sll._carry.shadows.shadow import Weights

HOSTS = {
    "argmax": (lambda x: F.one_hot(x.argmax(-1), x.shape[-1]).to(x.dtype), lambda x, h: sll.argmax(x, -1, eps=h)),
    "argmin": (lambda x: F.one_hot(x.argmin(-1), x.shape[-1]).to(x.dtype), lambda x, h: sll.argmax(-x, -1, eps=h)),
    "max": (lambda x: F.one_hot(x.max(-1, keepdim=True)[1].squeeze(-1), x.shape[-1]).to(x.dtype),
            lambda x, h: sll.argmax(x, -1, eps=h)),
    "flat": (lambda x: F.one_hot(x.argmax(), x.numel()).to(x.dtype), lambda x, h: sll.argmax(x.reshape(-1), -1, eps=h)),
    "topk": (lambda x: torch.zeros_like(x).scatter(-1, x.topk(2, -1).indices, 1.0),
             lambda x, h: sll.topk_mask(x, 2, eps=h)),
    "topk of the smallest": (lambda x: torch.zeros_like(x).scatter(-1, x.topk(2, -1, largest=False)[1], 1.0),
                             lambda x, h: sll.topk_mask(-x, 2, eps=h)),
    "topk one by one": (lambda x: F.one_hot(x.topk(2, -1).indices, x.shape[-1]).sum(-2).to(x.dtype),
                        lambda x, h: sll.topk_mask(x, 2, eps=h)),
    "topk unsorted": (lambda x: F.one_hot(x.topk(2, -1, sorted=False).indices, x.shape[-1]).sum(-2).to(x.dtype),
                      lambda x, h: sll.topk_mask(x, 2, eps=h)),
    "rank": (lambda x: x.argsort(-1).argsort(-1).to(x.dtype), lambda x, h: sll.rank(x, eps=h)),
    "rank downwards": (lambda x: x.argsort(-1, descending=True).argsort(-1).to(x.dtype),
                       lambda x, h: sll.rank(-x, eps=h)),
}  # fmt: skip


def gradient(f, x, up):
    y = f(x)
    assert y.shape == up.shape
    return torch.autograd.grad(y, x, up)[0] if y.requires_grad else torch.zeros_like(x)


@pytest.mark.parametrize("eps", [0.01, 0.3, 2.0, 100.0])
@pytest.mark.parametrize("name", HOSTS)
def test_gradients_are_those_of_the_explicit_functions(name, eps):
    program, explicit = HOSTS[name]
    generator = torch.Generator().manual_seed(0)
    for n in (3, 5, 33):
        x = torch.randn(7, n, generator=generator, dtype=torch.float64)
        x[5] = (2 * x[5]).round()
        x.requires_grad_()
        up = torch.randn(explicit(x, eps).shape, generator=generator, dtype=torch.float64)
        with sll.linearize(eps, forward="straight-through"):
            got = gradient(program, x, up)
        torch.testing.assert_close(got, gradient(lambda x: explicit(x, eps), x, up), rtol=1e-9, atol=1e-9)


@pytest.mark.parametrize("name", ["argmax", "topk", "rank"])
@pytest.mark.parametrize("special", [math.nan, math.inf, -math.inf])
def test_what_has_no_distance_has_no_contenders(name, special):
    program, explicit = HOSTS[name]
    x = torch.tensor([[0.1, special, 0.2, 0.15], [special, special, special, special], [0.1, 0.2, 0.3, 0.25]])
    x, up = x.double().requires_grad_(), torch.arange(12.0, dtype=torch.float64).reshape(3, 4).square()
    with sll.linearize(0.5, forward="straight-through"):
        got = gradient(program, x, up)
    torch.testing.assert_close(got, gradient(lambda x: explicit(x, 0.5), x, up))
    assert got.isfinite().all() and got[2].any()


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16, torch.float32])
def test_half_precision(dtype):
    x = torch.tensor([[0.5, 0.75, 0.25]], dtype=dtype, requires_grad=True)
    with sll.linearize(1.0, forward="straight-through"):
        y = F.one_hot(x.argmax(-1), 3).to(dtype)
    (g,) = torch.autograd.grad(y, x, torch.tensor([[1.0, 2.0, 6.0]], dtype=dtype))
    assert g.dtype == dtype and g.tolist() == [[-2, -1, 3]]


@pytest.mark.parametrize("shape", [(0,), (1,), (2, 0), (3, 1), ()])
def test_nothing_to_choose(shape):
    x = torch.zeros(shape, requires_grad=True)
    with sll.linearize(1.0, forward="straight-through", on_lost="error"):
        if x.numel():
            x.argmax(-1), x.max(-1), x.median(-1)
        x.sort(-1), x.topk(0, -1), x.argsort(-1).argsort(-1)


@pytest.mark.parametrize("k", [1, 2, 3])
def test_all_flags_of_one_choice_are_exclusive(k):
    """`any` over places is the sum: what moves from one place to another stays in."""
    x = torch.tensor([0.5, 0.3, 0.44, 0.4], dtype=torch.float64, requires_grad=True)  # (no share is just 1)
    (want,) = torch.autograd.grad(sll.topk_mask(x, k, eps=0.2)[2], x)
    for flag in (lambda i: (i == 2).any(), lambda i: ~(i != 2).all(), lambda i: (i == 2).sum() > 0):
        with sll.linearize(0.2, forward="straight-through"):
            for index in (x.topk(k).indices, x.argsort(descending=True)[:k]):
                (got,) = torch.autograd.grad(flag(index).double(), x)
                torch.testing.assert_close(got, want)


def test_flags_of_several_choices_are_not():
    x = torch.tensor([[0.5, 0.4], [0.3, 0.2]], dtype=torch.float64, requires_grad=True)
    with sll.linearize(1.0, forward="straight-through"):
        y = (x.argmax(1) == 0).all().double() + (x.argmax(1) == 1).any().double()
    assert y == 1
    # 1 - (1 - 0)(1 - 0) and 1 * 1: both flags count, with slopes 1 and -1 each
    (g,) = torch.autograd.grad(y, x)
    assert g.abs().max() < 1e-12


@pytest.mark.parametrize("name", ["kthvalue", "median", "nanmedian"])
@pytest.mark.parametrize("keepdim", [False, True])
def test_one_place_of_an_order(name, keepdim):
    x = torch.tensor([[0.1, 0.5, 0.35], [0.9, 0.0, 2.0]], dtype=torch.float64, requires_grad=True)
    value = torch.tensor([1.0, 10.0, 100.0], dtype=torch.float64)
    with sll.linearize(0.2, forward="straight-through"):
        found = x.kthvalue(2, 1, keepdim) if name == "kthvalue" else getattr(x, name)(1, keepdim)
        middle = value[found.indices].reshape(2)
        places = value[x.argsort(1)][:, 1]
    assert torch.equal(middle, places)
    for y in (middle, places):
        (g,) = torch.autograd.grad(y.sum(), x, retain_graph=True)
        # 0.35 and 0.5 change places: slope 1/(2 eps), from 100 to 10
        torch.testing.assert_close(g, torch.tensor([[0, 225.0, -225.0], [0, 0, 0]], dtype=torch.float64))


@pytest.mark.parametrize("index", [
    lambda x: torch.empty(4, dtype=torch.int64).scatter_(0, x.argsort(), torch.arange(4)),
    lambda x: x.unique(return_inverse=True)[1], lambda x: x.argsort().argsort(), lambda x: x.sort()[1].sort()[1]
])  # fmt: skip
def test_ranks_as_numbers_and_as_labels(index):
    """As a number by pairs; as an index, by the place that an element takes."""
    x = torch.tensor([0.5, 0.3, 0.35, 2.0], dtype=torch.float64, requires_grad=True)
    value = torch.tensor([1.0, 10.0, 100.0, 0.0], dtype=torch.float64)
    with sll.linearize(0.1, forward="straight-through"):
        ranks = index(x)
        number, label = ranks.double(), value[ranks]
    assert ranks.tolist() == [2, 0, 1, 3]
    up = torch.tensor([1.0, 2.0, 3.0, 4.0], dtype=torch.float64)
    (want,) = torch.autograd.grad(sll.rank(x, eps=0.1), x, up)
    torch.testing.assert_close(torch.autograd.grad(number, x, up)[0], want)
    # elements 1 and 2 trade the places 0 and 1
    (g,) = torch.autograd.grad(label, x, up)
    torch.testing.assert_close(g, torch.tensor([0, -45.0, 45.0, 0], dtype=torch.float64))


CHOICES = [name for name in HOSTS if name.split()[0] in ("argmax", "argmin", "max", "flat")]


@pytest.mark.parametrize("dtype", [torch.float64, torch.float32, torch.float16])
@pytest.mark.parametrize("name", CHOICES)
def test_with_auto_gradients_are_those_of_a_softmax(name, dtype):
    """Of scores in units of the width: measured in the first steps, when that is found in backward, and then kept."""
    program, sign = HOSTS[name][0], -1 if name == "argmin" else 1
    eps = sll.Auto(steps=3)
    region, generator, medians = sll.linearize(eps), torch.Generator().manual_seed(0), []
    for step in range(6):
        x = torch.randn(7, 5, generator=generator).to(dtype).requires_grad_()
        rows = sign * (x.reshape(-1) if name == "flat" else x).double()
        best = rows.detach().topk(2).values
        medians += [(best[..., 0] - best[..., 1]).reshape(-1).median()] if step < 3 else []
        scale = 3 * torch.stack(medians).median()
        up = torch.randn(rows.shape, generator=generator).to(dtype)
        with region:
            got = gradient(program, x, up)
        want = torch.autograd.grad((rows / scale).softmax(-1), x, up.double())[0]
        torch.testing.assert_close(got, want, rtol=1e-2 if dtype == torch.float16 else 1e-4, atol=1e-4)
    assert list(eps.remembered.values()) == [pytest.approx(float(scale), rel=1e-4)]


def warmed(program, *operands, up=1.0, steps=3):
    """The gradients with a width that is kept, and that width."""
    eps = sll.Auto(steps=1)
    region = sll.linearize(eps)
    for _ in range(steps):
        with region:
            y = program(*operands)
        found = torch.autograd.grad(y, operands, up * torch.ones_like(y))
    (scale,) = eps.remembered.values()
    return found, scale


def test_with_auto_a_codebook_has_the_gradient_of_what_was_read_and_of_all_words():
    z, words = torch.randn(6, 3, requires_grad=True), torch.randn(5, 3, requires_grad=True)
    up = torch.randn(6, 3)
    found, scale = warmed(lambda z, words: words[(z @ words.t()).argmax(-1)], z, words, up=up)
    scores = z @ words.t()
    hot, soft = F.one_hot(scores.argmax(-1), 5).float(), (scores / scale).softmax(-1)
    want = torch.autograd.grad(hot @ words + (soft - soft.detach()) @ words.detach(), (z, words), up)
    for got, wanted in zip(found, want):
        torch.testing.assert_close(got, wanted, rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize("special", [math.nan, math.inf, -math.inf])
def test_with_auto_what_has_no_distance_has_no_gradient(special):
    x = torch.tensor([[0.1, special, 0.2, 0.15], [special] * 4, [0.1, 0.2, 0.3, 0.25], [0.3, 0.1, 0.2, 0.0]])
    x, up = x.double(), torch.arange(16.0, dtype=torch.float64).reshape(4, 4).square()
    (g,), scale = warmed(HOSTS["argmax"][0], x.requires_grad_(), up=up)
    rows = torch.where(x.isfinite(), x, -math.inf).detach()
    rows[1] = 0
    rows.requires_grad_()
    (want,) = torch.autograd.grad((rows / scale).softmax(-1), rows, up)
    want[1] = 0
    if special != -math.inf:
        want[0] = 0
    torch.testing.assert_close(g, want)


def test_with_auto_results_may_be_written_to():
    x = torch.randn(4, 3, requires_grad=True)

    def program(x):
        y = F.one_hot(x.argmax(-1), 3).float()
        y.mul_(2)
        return y

    up = torch.randn(4, 3)
    (g,), scale = warmed(program, x, up=up)
    (want,) = torch.autograd.grad(2 * (x / scale).softmax(-1), x, up)
    torch.testing.assert_close(g, want)


@pytest.mark.parametrize("forward", ["hard", "linear"])
def test_only_local_gradients_have_a_softmax(forward):
    x, up = torch.randn(6, 4, dtype=torch.float64).requires_grad_(), torch.randn(6, 4, dtype=torch.float64)
    eps = sll.Auto(steps=1)
    region = sll.linearize(eps, forward=forward)
    for _ in range(3):
        with region:
            y = F.one_hot(x.argmax(-1), 4).double()
        (got,) = torch.autograd.grad(y, x, up)
    (scale,) = eps.remembered.values()
    (want,) = torch.autograd.grad(sll.argmax(x, -1, eps=scale), x, up)
    if forward == "linear":
        torch.testing.assert_close(got, want)
    assert ((got != 0).sum() < got.numel()) == ((want != 0).sum() < want.numel())


def test_scores_may_be_overwritten():
    x = torch.tensor([0.5, 0.4, 0.1], requires_grad=True)
    with sll.linearize(1.0, forward="straight-through", on_lost="error"):
        y = x * 1
        best, order = y.argmax(), y.argsort().argsort()
        y.mul_(-1)
        out = F.one_hot(best, 3).float() + order
    (g,) = torch.autograd.grad(out[0], x)
    (want,) = torch.autograd.grad(sll.argmax(x, eps=1.0)[0] + sll.rank(x, eps=1.0)[0], x)
    torch.testing.assert_close(g, want)


# --- worked out by hand --------------------------------------------------------------------------------------------

RULES = [
    ("argmax", lambda x: T[scores(x).argmax()], 0.1, 2 * (5 - 1)),
    ("labels", lambda x: (scores(x).argmax() * 3 + 1).double(), 0.1, 2 * (1 - 4)),
    ("a label", lambda x: (scores(x).argmax() == 1).double(), 0.1, -2),
    ("decided", lambda x: T[scores(x).argmax()], 0.3, 0),
    ("sort", lambda x: T[scores(x).argsort(descending=True)][0], 0.1, 2 * (5 - 1)),
    ("topk", lambda x: T[scores(x).topk(1).indices].sum(), 0.1, 2 * (5 - 1)),
    ("a set does not change", lambda x: T[scores(x).topk(2).indices].sum(), 0.1, 0),
    ("rank", lambda x: scores(x).argsort().argsort()[0].double(), 0.1, 2),
    ("median", lambda x: T[torch.stack([x, x * 0, x * 0 + 5]).median(0).indices], 0.1, 2 * (5 - 1)),
]


@pytest.mark.parametrize(("f", "values", "wanted"), [row[1:] for row in RULES], ids=[row[0] for row in RULES])
def test_rule(f, values, wanted):
    worked_out(f, values, wanted)


# --- choosing again among what a first choice left ----------------------------------------------------------------

MASKED = {
    "masked_fill": lambda x: x.masked_fill(torch.arange(3) == x.argmax(), -9.0),
    "where": lambda x: torch.where(torch.arange(3) == x.argmax(), -math.inf, x),
    "scatter": lambda x: x.scatter(0, x.argmax(0, keepdim=True), -9.0),
    "topk": lambda x: x.scatter(0, x.topk(1).indices, -9.0),
    "written": lambda x: torch.index_put(x, (x.argmax(0, keepdim=True),), torch.tensor(-9.0).double()),
}
SECOND = {
    "max": lambda z: z.max(), "amax": lambda z: z.amax(0), "row": lambda z: z[None].max(1).values,
    "sort": lambda z: z.sort().values[2], "topk": lambda z: z.topk(2).values[0],
    "kth": lambda z: z.kthvalue(3).values,
}  # fmt: skip


def again(program, at):
    x = torch.tensor(at, dtype=torch.float64, requires_grad=True)
    with sll.linearize(0.1, forward="straight-through", on_lost="error") as region:
        y = program(x)
    return torch.autograd.grad(y.sum(), x)[0].tolist(), sum(region.report().approximate.values())


@pytest.mark.parametrize("masked", MASKED)
@pytest.mark.parametrize("second", SECOND)
def test_the_second_best_is_continuous(masked, second):
    found, _ = again(lambda x: SECOND[second](MASKED[masked](x)), [1.0, 0.98, 0.5])
    assert found == [0, 1, 0]


@pytest.mark.parametrize("masked", MASKED)
def test_where_the_second_best_stands_is_approximate(masked):
    for at, told in (([1.0, 0.98, 0.5], True), ([1.0, 0.7, 0.5], False)):
        for index in (torch.argmax, lambda z: z.topk(1).indices, torch.argsort):
            assert bool(again(lambda x, index=index: T[index(MASKED[masked](x))], at)[1]) == told


@pytest.mark.parametrize("program", [
    lambda x: torch.where(x > 0.95, -9.0, x).max(), lambda x: torch.where(x > 0.95, -9.0, x).argmax().double() + x,
    lambda x: x.masked_fill(F.one_hot(x.argmax(), 3).bool(), -9.0).amax(),
])  # fmt: skip
def test_a_choice_among_what_a_decision_masked_is_approximate(program):
    assert again(program, [1.0, 0.98, 0.5])[1]


def test_nothing_is_said_where_the_mask_is_sure():
    assert again(lambda x: torch.where(x > 0.3, -9.0, x).max() + 0 * x, [1.0, 0.98, 0.5])[1] == 0
    assert again(lambda x: torch.where(torch.tensor([True, False, False]), -9.0, x).max(), [1.0, 0.98, 0.5])[1] == 0


def test_what_was_there_before_a_write_still_decides():
    x = torch.tensor([0.02, 0.05, 0.92], dtype=torch.float64, requires_grad=True)
    for program in (
        lambda x: x.scatter(0, x.argmax(0, keepdim=True), 9.0) > 0,
        lambda x: torch.scatter(x, 0, x.topk(1).indices, torch.tensor([9.0]).double()) > 0,
    ):
        with sll.linearize(0.1, forward="straight-through"):
            y = program(x).double().sum()
        assert torch.autograd.grad(y, x)[0].tolist() == [5, 5, 0]


# --- shares of all elements, and in windows --------------------------------------------------------------------------

TABLE = torch.linspace(-1, 2, 21, dtype=torch.float64).reshape(7, 3).sin()
OTHER = torch.linspace(-3, 3, 35, dtype=torch.float64).reshape(5, 7).cos()
READ = {
    "gather, topk": lambda x: OTHER.gather(-1, x.topk(3).indices),
    "gather, topk, smallest": lambda x: OTHER.gather(-1, x.topk(2, largest=False).indices),
    "gather, topk, unsorted": lambda x: OTHER.gather(-1, x.topk(4, sorted=False).indices),
    "gather, another dimension": lambda x: OTHER.gather(0, x.topk(2, 0).indices),
    "gather, fewer rows": lambda x: OTHER.gather(-1, x[:2].topk(2).indices),
    "rows": lambda x: TABLE[x.topk(2).indices],
    "one_hot": lambda x: F.one_hot(x.topk(3).indices, 7) * OTHER.unsqueeze(1),
    "labels": lambda x: (x.topk(3).indices.unsqueeze(-1) == torch.arange(7)).any(1).double(),
    "numbers": lambda x: x.topk(3).indices.double(),
    "scatter": lambda x: OTHER.scatter(-1, x.topk(2).indices, OTHER[:, :2] * 2),
    "scatter_add": lambda x: OTHER.scatter_add(-1, x.topk(2).indices, OTHER[:, 3:5]),
    "part of an order": lambda x: OTHER.gather(-1, x.argsort(-1)[:, 1:3]),
    "one place of an order": lambda x: OTHER.gather(-1, x.argsort(-1, descending=True)[:, :1]),
    "part of a part": lambda x: OTHER.gather(-1, x.argsort(-1)[:, 1:6].flip(-1)[:, :2]),
    "last of all": lambda x: OTHER.reshape(-1)[x.reshape(-1).argsort()[-9:]],
    "one of all, of each row": lambda x: OTHER[0][x.argsort(-1)[:, 2]],
    "part of the ranks": lambda x: OTHER.gather(-1, x.argsort(-1).argsort(-1)[:, 2:4]),
    "part of columns": lambda x: OTHER.gather(0, x.argsort(0)[3:]),
    "order as numbers": lambda x: x.argsort(0).double() ** 2,
    "ranks": lambda x: (x.argsort(-1).argsort(-1) > 3).double(),
    "ranks in a table": lambda x: TABLE[x.argsort(0).argsort(0).clamp(max=4)],
    "function of ranks": lambda x: ((x.argsort(-1).argsort(-1) * 2 + 1) % 3 == 0).double(),
    "function of ranks, floats": lambda x: torch.where(x.argsort(-1).argsort(-1) // 3 == 1, OTHER, -OTHER),
    "ranks below a number of the program": lambda x: torch.where(x.argsort(0).argsort(0) < torch.tensor(2), OTHER, 0.0),
    "masks at an order": lambda x: (OTHER > 0).gather(-1, x.argsort(-1)).double(),
    "masks at places of an order": lambda x: (OTHER[1] > 0)[x.topk(3).indices].cumsum(-1).double(),
    "function of an order, moved": lambda x: (x.argsort(0) % 2 == 0).t().flatten()[3:30].double(),
    "an order in other rows": lambda x: OTHER[1:].gather(-1, x.argsort(-1)[1:]),
    "negative": lambda x: TABLE[x.topk(2, 0).indices - 5],
    "beyond the end": lambda x: TABLE[(x.argsort(0)[:2] + 3).clamp(max=4)],
    "writes to places of an order": lambda x: OTHER[0].scatter(0, (x[1] / 4).argsort()[:3], 2.0),
    "writes numbers to places of an order": lambda x: OTHER[0].scatter(
        0, (x[1] / 4).argsort()[:3].flip(0), OTHER[1, :3]
    ),
    "adds to places of an order": lambda x: OTHER[0].scatter_add(0, (x[1] / 4).argsort()[4:].flip(0), OTHER[1, :3]),
    "writes to ranks": lambda x: OTHER[0].scatter(0, (x[1] / 4).argsort().argsort()[2:5], OTHER[1, :3]),
    "mask of places of an order": lambda x: (OTHER[0] > 9).scatter(0, (x[2] / 4).argsort()[:3], True).double(),
    "one in many": lambda x: OTHER.flatten()[x.flatten().kthvalue(17).indices] * OTHER,
    "two in many": lambda x: OTHER.flatten()[x.flatten().topk(2).indices],
    "ranks, descending": lambda x: OTHER.gather(-1, x.argsort(-1).argsort(-1, descending=True)[:, :2]),
    "kthvalue": lambda x: OTHER.gather(-1, x.kthvalue(3, -1, True).indices),
    "kthvalue of columns": lambda x: TABLE[x.kthvalue(2, 0).indices],
    "median": lambda x: OTHER.gather(-1, x.median(-1, True).indices),
}


@pytest.mark.parametrize("name", READ)
@pytest.mark.parametrize("eps", [0.05, 0.4, 2.0, "auto"])
def test_what_an_index_reads_is_that_of_shares_and_of_windows(name, eps):
    """What an index passes back is worked out in backward. Independent: by the shares of all elements, where they are
    few, and by windows around each place.
    """
    x = torch.randn(5, 7, generator=torch.Generator().manual_seed(3), dtype=torch.float64)

    def gradient(most, reading):
        leaf = x.clone().requires_grad_()
        with (
            mock.patch.object(picked, "MAX_SHARES", most),
            mock.patch.object(orders, "MAX_SHARES", most),
            mock.patch.object(Weights, "reading", reading),
        ):
            with sll.linearize(eps, forward="straight-through"):
                y = READ[name](leaf)
            weights = torch.linspace(0.5, 2, y.numel(), dtype=y.dtype).reshape(y.shape).cos()
            return y.detach(), torch.autograd.grad(y, leaf, weights)[0]

    value, found = gradient(2**22, Weights.reading)
    for most in (2**22, 0):
        again, wanted = gradient(most, lambda self: None)
        assert torch.equal(value, again) and torch.equal(value, READ[name](x))
        torch.testing.assert_close(found, wanted)
    assert found.any() or eps == 0.05


@pytest.mark.parametrize("half", [0.01, 0.3, 5.0])
@pytest.mark.parametrize("k", [1, 200, 390])
def test_one_place_among_many(k, half):
    """Those who are far are left out, who is asked first does not matter, and equal numbers have equal shares."""
    x = torch.randn(400, generator=torch.Generator().manual_seed(1), dtype=torch.float64)
    table, x = torch.linspace(-1, 1, 400).double().cos(), ((20 * x).round() / 20).requires_grad_()
    found, parts = [], {
        "r": lambda i: table[i],
        "w": lambda i: torch.zeros_like(table).scatter(0, i, table[:1]) @ table,
    }  # fmt: skip
    for order in ("rw", "wr"):
        with sll.linearize(half, forward="straight-through"):
            i = x.kthvalue(k, keepdim=True).indices
            y = {name: parts[name](i) for name in order}
        for name in order:
            (y[name],) = torch.autograd.grad(y[name].sum(), x, retain_graph=True)
        found.append(y)
    below, with_it = (sll.topk_mask(-x, n, eps=half) if n else 0 * x for n in (k - 1, k))
    (wanted,) = torch.autograd.grad((with_it - below) @ table, x)
    for y in found:
        torch.testing.assert_close(y["r"], wanted)
        torch.testing.assert_close(y["w"], wanted * table[0])


def test_shares_of_rows_that_are_not_finite():
    x = torch.tensor([[1.0, 1.1, float("-inf"), 1.2], [float("inf"), 0.0, 0.1, float("nan")]], requires_grad=True)
    v = torch.tensor([[1.0, 2.0, 3.0, 4.0], [5.0, 6.0, 7.0, float("inf")]])
    with sll.linearize(0.5, forward="straight-through"):
        y = v.gather(-1, x.topk(2).indices)
    found = torch.autograd.grad(y[:, 0].sum() + y[0, 1], x)[0]
    assert found.isfinite().all() and found[0, [0, 1, 3]].all() and not found[0, 2] and not found[1].any()


def test_the_place_of_equal_decided_floats_is_reported():
    z = torch.tensor([[0.1, 0.2]], requires_grad=True)
    for place in (lambda m: m.argmax(1), lambda m: torch.max(m, 1).indices, lambda m: (-m).argmin(1)):
        with sll.linearize(0.3, forward="straight-through", on_lost="ignore") as region:
            place((z > 0).float())
        assert "equal" in str(region.report().why)
    with sll.linearize(0.3, forward="straight-through") as region:
        torch.sign(z * torch.tensor([[1.0, -1.0]])).argmax(1)  # one of them is the largest
    assert not region.report().why


@pytest.mark.parametrize("join", [torch.cat, torch.stack, lambda parts: torch.cat(parts).clone()[None]])
def test_equal_decided_floats_that_were_joined_are_reported(join):
    """A choice among a joined mask was not known as one among decided floats."""
    for equal in (True, False):
        x = torch.tensor([-0.1, 0.05, 0.6 if equal else -0.6, -0.02], requires_grad=True)
        with sll.linearize(0.2, forward="straight-through", on_lost="error") as region:
            join([x[:2] > 0, x[2:] > 0]).float().argmax()
        assert bool(region.report().approximate) == equal


LOOKUPS = {
    "topk": lambda x: x[x.topk(2)[1]],
    "topk, gather": lambda x: x.gather(0, x.topk(2)[1]),
    "topk, a table": lambda x: torch.arange(6.0)[x.topk(2)[1]],
    "topk, one hot": lambda x: F.one_hot(x.topk(2)[1], 6).to(x.dtype) * x,
    "topk, written": lambda x: torch.zeros_like(x).scatter(0, x.topk(2)[1], x[:2]),
    "kthvalue": lambda x: x.gather(0, x.kthvalue(2, keepdim=True)[1]),
    "median": lambda x: x.gather(0, x.median(0, keepdim=True)[1]),
    "argsort": lambda x: x[x.argsort()],
    "some of argsort": lambda x: x[x.argsort()[:2]],
    "rank": lambda x: x[x.argsort().argsort()],
    "argmax": lambda x: x[x.argmax()],
}


@pytest.mark.parametrize("forward", ["straight-through", "linear"])
@pytest.mark.parametrize("eps", ["auto", 0.5])
@pytest.mark.parametrize("name", LOOKUPS)
def test_no_step_keeps_tensors_alive(name, eps, forward):
    """Without the cyclic garbage collector, which knows nothing of GPU memory."""
    region = sll.linearize(eps, forward=forward, on_lost="ignore")

    def alive():
        return sum(type(o) is torch.Tensor for o in gc.get_objects())

    def step():
        x = torch.tensor([0.3, -1.0, 0.7, 0.1, 1.2, -0.4], requires_grad=True)
        with region:
            y = LOOKUPS[name](x).sum()
        y.backward()

    for _ in range(3):
        step()
    gc.collect()
    gc.disable()
    try:
        before = alive()
        for _ in range(5):
            step()
        assert alive() <= before + 2
    finally:
        gc.enable()
