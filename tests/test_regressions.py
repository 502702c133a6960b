"""Programs that once had a wrong gradient, lost one silently, or raised inside a region only."""

from __future__ import annotations

import asyncio
import warnings

import numpy as np
import pytest
import torch
import torch.nn.functional as F

import sll
from oracles import band_crossings, gauss_between, grads, jittered_integral, leaf, line_integral, plain


@pytest.mark.parametrize("forward", ["linear", "hard"])
def test_masked_scatter_outside_the_band(forward):
    x, s = leaf(5.0, -5.0, 5.0), leaf(10.0, 20.0, 30.0)
    with sll.linearize(0.5, forward=forward):
        y = torch.zeros(3).masked_scatter(x > 0, s)
        z = torch.zeros(3)
        z[x > 0] = s[:2]
    assert y.tolist() == z.tolist() == [10, 0, 20]
    assert grads(y, s) == grads(z, s) == [1, 1, 0]


@pytest.mark.parametrize("forward", ["linear", "hard"])
def test_masked_scatter_shifts_what_follows(forward):
    """Line integral: a mask element that flips moves every source element behind it."""
    source = torch.tensor([1.0, 4.0, -2.0, 8.0, 3.0], dtype=torch.float64)
    weights = torch.tensor([1.0, -2.0, 0.5, 3.0, 1.5], dtype=torch.float64)

    def f(x):
        return torch.zeros(5, dtype=x.dtype).masked_scatter(x > 0, source) @ weights

    a = torch.tensor([-1.0, 1.0, -0.7, 1.0, -0.9], dtype=torch.float64)
    b = torch.tensor([1.0, -0.5, 0.8, 0.9, 0.3], dtype=torch.float64)  # no two bands are crossed at once
    times, share = gauss_between(band_crossings(a, b, 0.0, 0.02))
    assert line_integral(f, a, b, times, share, 0.02, forward) == pytest.approx(float(f(b) - f(a)), rel=0.02)


def test_complex_results_keep_autograd():
    x, a = leaf(0.05, -5.0), torch.tensor([1j, 2j], requires_grad=True)
    with sll.linearize(0.1):
        y = torch.where(x > 0, a, a * 2)
        z = (x > 0) * a
        n = (x > 0).sum() * a
    for out in (y, z, n):
        assert out.requires_grad and out.dtype == a.dtype
    assert torch.autograd.grad(y.imag.sum(), x, retain_graph=True)[0].tolist() == [-5.0, 0.0]
    torch.testing.assert_close(y.imag, torch.tensor([0.75 + 0.25 * 2, 4.0]))


def test_vmap_inside_and_outside_of_grad():
    x = leaf(0.1, 0.2)
    with sll.linearize(0.5):
        y = torch.vmap(torch.sign)(x)
        z = torch.vmap(lambda v: torch.where(v > 0, v, 0.0))(x)
        per_sample = torch.vmap(torch.func.grad(lambda v: torch.where(v > 0, v, 0.0)))(x.detach())
        filled = torch.vmap(torch.func.grad(lambda v: v.masked_fill(v > 5, float("-inf"))))(x.detach())
        tangent = torch.func.jvp(lambda v: v // 0.7, (torch.tensor([0.75]),), (torch.ones(1),))[1]
    assert grads(y, x) == [2, 2]
    torch.testing.assert_close(torch.tensor(grads(z, x)), 0.5 + 2 * x.detach())
    torch.testing.assert_close(per_sample, 0.5 + 2 * x.detach())
    assert filled.tolist() == [1, 1]
    torch.testing.assert_close(tangent, torch.tensor([1 / 0.7]))


@pytest.mark.parametrize("forward", ["linear", "hard"])
def test_division_by_the_outcome_not_taken(forward):
    x, b = leaf(0.8), leaf(2.0)
    with sll.linearize(0.01, forward=forward):
        y = b / torch.round(x).int()
        z = torch.log((x > 0).float() * b + 0 * b) + b / (x > 0)
    assert y.item() == 2 and grads(y, b) == [1]
    assert torch.tensor(grads(z, b, x)).isfinite().all()


def test_infinite_outcomes_take_the_right_side():
    x, z = leaf(5.0, -5.0), leaf(1.0, 2.0)
    a, b = leaf(float("nan")), leaf(1.0)
    p, q = leaf(float("inf")), leaf(float("inf"))
    with sll.linearize(0.5):
        y = z.masked_fill(x > 0, float("nan"))
        u = torch.where(leaf(5.0) > 0, a, b)
        v = torch.where(leaf(-5.0) > 0, p, q)
    assert grads(y, z) == [0, 1]
    assert grads(u, a, b) == [[1], [0]]
    assert grads(v, p, q) == [[0], [1]]


def test_padding_decides_nothing():
    x, a = leaf(3.0), torch.ones(3, requires_grad=True)
    with sll.linearize(0.5):
        y = torch.where(F.pad(torch.sign(x), (1, 1), value=5.0) > 0, a, 0 * a)
        patches = F.unfold(torch.sign(x).reshape(1, 1, 1, 1), 3, padding=1)
        b = torch.ones_like(patches, requires_grad=True)
        z = torch.where(patches > 0.5, b, 0 * b)
    assert grads(y, a) == [1, 1, 1]
    assert torch.autograd.grad(z.sum(), b)[0].flatten().tolist() == [0, 0, 0, 0, 1, 0, 0, 0, 0]


def test_an_index_may_change_after_the_lookup():
    x, k, row = leaf(0.1, 0.2, 0.3), torch.tensor(0), [0]
    with sll.linearize(0.5):
        m = x > 0
        out = []
        for i in range(3):
            out.append(m[k].float())
            out.append(m[row].float())
            if i < 2:
                k += 1
                row[0] += 1
    for i, y in enumerate(out):
        assert [g != 0 for g in grads(y, x)] == [j == i // 2 for j in range(3)]


@pytest.mark.parametrize(
    "f",
    [
        lambda x: F.hardshrink(F.threshold(x, 0.1, 7.0), 0.5),
        lambda x: torch.round(F.threshold(x, 0.1, 7.0)),
        lambda x: F.threshold(x, 0.1, 7.0) % 2.0,
        lambda x: torch.fmod(x, 0.7) % 0.3,
        lambda x: torch.frac(x % 0.7 * 5),
    ],
)
def test_nested_steps_are_bit_identical_outside_the_band(f):
    x = torch.cat([torch.randn(2000, generator=torch.Generator().manual_seed(0)), torch.tensor([float("nan"), -0.0])])
    with sll.linearize(1e-7):
        y = f(x.clone().requires_grad_())
    want = plain(f, x)
    assert torch.equal(y.isnan(), want.isnan())
    assert (y.detach() != want)[~want.isnan()].sum() <= 1  # one element may really lie within 1e-7 of a boundary


SAME_PLACE = {
    "reshape": lambda m: m.reshape(m.shape),
    "view": lambda m: m.view(m.shape),
    "slice": lambda m: m[:],
    "ellipsis": lambda m: m[...],
    "flatten": lambda m: m.flatten(),
    "contiguous": lambda m: m.contiguous(),
    "clone": lambda m: m.clone(),
    "expand": lambda m: m.expand(m.shape),
    "to": lambda m: m.to(torch.bool),
    "squeeze": lambda m: m.squeeze(),
}


@pytest.mark.parametrize("name", SAME_PLACE)
def test_the_same_decision_is_recognised_after(name):
    x = leaf(0.1, -0.2)
    with sll.linearize(0.5):
        m = x > 0
        y = (m & ~SAME_PLACE[name](m)).float()
    assert not y.any() and not any(grads(y, x))


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


def test_a_remainder_of_a_remainder():
    """Four sources in a row on one decision: the box oracle."""

    def f(x):
        half = torch.round(torch.floor(x + 0.9) * 2.6)
        return (torch.floor(x + 0.9) + half % 1.9).long().to(x.dtype)

    x = torch.tensor([0.1 + 0.012], dtype=torch.float64, requires_grad=True)
    want = (plain(f, x.detach() + 0.02) - plain(f, x.detach() - 0.02)) / 0.04
    for forward in ("linear", "hard"):
        with sll.linearize(0.02, forward=forward):
            y = f(x)
        assert want.item() != 0 and grads(y, x) == pytest.approx(want.tolist())


def test_a_number_written_at_a_mask_keeps_its_digits():
    with sll.linearize(0.1, forward="hard"):
        y = torch.zeros(2, dtype=torch.float64)
        y[leaf(1.0, -1.0) > 0] = 0.7
    assert y.tolist() == [0.7, 0.0]


def test_integer_division_by_the_outcome_not_taken():
    x = leaf(0.9, 2.3)
    with sll.linearize(0.01):
        y = 7 // torch.round(x).int() + torch.tensor([7, 7]) % torch.round(x).int()
    assert y.tolist() == [7, 4]


def test_zero_is_zero():
    x = leaf(0.1)
    with sll.linearize(0.5):
        y = ((x > 0) & (x <= 0.0)).float()
    assert y.item() == 0 and grads(y, x) == [0]


@pytest.mark.parametrize("forward", ["linear", "hard"])
def test_write_at_a_mask_knows_the_decisions_of_the_target(forward):
    x = leaf(-0.445, dtype=torch.float64)
    with sll.linearize(0.02, forward=forward):
        s = torch.sign(x + 0.45)
        y = s.clone()
        y[s > 0.7] = -0.4
    assert grads(y, x) == pytest.approx([15.0])


def test_large_numbers_are_no_ties():
    x = leaf(2.0**23, 2.0**23 + 2)
    with sll.linearize(0.01):
        y = torch.round(x)
    assert grads(y, x) == grads(sll.round(x, 0.01), x) == [0, 0]


def test_the_width_of_a_band_moves_with_the_divisor():
    for f in (lambda x, m: x % m, lambda x, m: x // m, torch.fmod):
        x, m = leaf(0.9, 1.3, dtype=torch.float64), leaf(0.6, 0.7, dtype=torch.float64)
        with sll.linearize(0.5):
            assert torch.autograd.gradcheck(f, (x, m))


def test_a_cast_of_what_no_longer_carries_is_a_source():
    x = leaf(0.25)
    with sll.linearize(0.5):
        t = torch.sign(x) * 10
        s = t * 0.1
        t.add_(1)
        y = (s * 3 + 0.6).long().float()
    assert grads(y, x)[0] != 0


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


def test_integer_buffers_are_not_rounded():
    t = torch.tensor([16777217, 7])
    with sll.linearize(0.5, forward="hard"):
        t[leaf(-5.0, 5.0) > 0] = 2.5
    assert t.tolist() == [16777217, 2]


def test_writes_of_floats_into_integers_are_casts():
    x = leaf(1.1, 0.7)
    with sll.linearize(0.5):
        a, b = torch.zeros(2, dtype=torch.long), torch.zeros(2, dtype=torch.long)
        a.copy_(x)
        b[:] = x
        y = (a + b).float()
    assert a.tolist() == b.tolist() == [1, 0]
    assert grads(y, x) == [2, 2]


def in_band():
    return leaf(0.001, 1.0) > 0


SILENT = {
    "pad_sequence": lambda m: torch.nn.utils.rnn.pad_sequence([m, m]),
    "meshgrid": lambda m: torch.meshgrid([m, m], indexing="ij"),
    "fill": lambda m: torch.zeros(2, dtype=torch.bool).fill_(m[0]),
    "full_like": lambda m: torch.full_like(torch.zeros(2), m[0]),
    "contains": lambda m: True in m,
    "equal": lambda m: torch.equal(m, torch.tensor([True, True])),
    "count_index": lambda m: torch.arange(5.0)[m.sum()],
}


@pytest.mark.parametrize("name", SILENT)
def test_losses_that_were_silent(name):
    with pytest.warns(sll.LostGradientWarning), sll.linearize(0.01):
        SILENT[name](in_band())


SPELLINGS = {
    "reshape": lambda x: torch.reshape(input=x > 0, shape=(2, 1)),
    "squeeze": lambda x: torch.squeeze(input=x > 0),
    "sum": lambda x: torch.sum(input=x > 0, dim=0),
    "where": lambda x: torch.where(condition=x > 0, input=x, other=x),
    "gt": lambda x: torch.gt(input=x, other=0),
    "gather": lambda x: torch.gather(input=torch.arange(3.0), dim=0, index=torch.round(x).long()),
    "unsqueeze_": lambda x: (x > 0).unsqueeze_(0),
    "t_": lambda x: (x > 0).reshape(1, 2).t_(),
    "squeeze_": lambda x: (x > 0).reshape(1, 2).squeeze_(),
    "type": lambda x: (x > 0).type(),
    "none": lambda x: (x > 0) == None,  # noqa: E711
    "any_axis": lambda x: (x > 0).reshape(1, 2).any(axis=1),
    "all_keepdims": lambda x: torch.all((x > 0).reshape(1, 2), axis=0, keepdim=True),
    "index_select_axis": lambda x: torch.index_select(torch.arange(3.0), index=torch.round(x).long(), dim=0),
    "out_none": lambda x: torch.gt(x, 0, out=None),
    "count_other": lambda x: (x > 0).sum().gt(other=1),
    "count_input": lambda x: torch.gt(input=(x > 0).sum(), other=1),
    "count_not": lambda x: torch.logical_not(input=(x > 0).sum()),
    "numpy_index": lambda x: (x > 0)[np.array([0, 1])] & (x > 0)[np.array([0, 1])],
    "mixed_index": lambda x: torch.arange(9.0).reshape(3, 3)[torch.round(x).long(), np.array([0, 1])],
    "list_index": lambda x: torch.arange(9.0).reshape(3, 3)[torch.round(x).long(), [0, 1]],
    "range_index": lambda x: torch.arange(9.0).reshape(3, 3)[range(2), torch.round(x).long()],
    "atleast": lambda x: torch.atleast_1d(x[0] > 0, x[1] > 5)[1],
    "gather_0d": lambda x: torch.gather(torch.tensor(5.0), 0, torch.round(x[0] * 0).long()),
    "empty_source": lambda x: torch.zeros(2).masked_scatter((x > 0) & ~(x > 0), torch.zeros(0)),
    "broadcast": lambda x: torch.broadcast_tensors(x > 0, torch.zeros(3, 2))[0],
    "as_tensor": lambda x: torch.as_tensor(x > 0),
    "sum_to_size": lambda x: (x > 0).sum_to_size(1),
    "reversed": lambda x: reversed(x > 0),
    "cat_out": lambda x: torch.cat([x > 0, x > 5], out=torch.empty(4, dtype=torch.bool)),
    "is_view": lambda x: (x > 0)._is_view(),
}


@pytest.mark.parametrize("forward", ["linear", "hard"])
@pytest.mark.parametrize("name", SPELLINGS)
def test_spellings(name, forward):
    f, x = SPELLINGS[name], leaf(0.9, 1.2)
    want = plain(f, x.detach())
    with sll.linearize(0.01, forward=forward, on_lost="error"):
        got = f(x)
    assert type(got) is type(want)
    assert torch.equal(got, want) if isinstance(want, torch.Tensor) else got == want
    if isinstance(want, torch.Tensor):
        assert got.shape == want.shape and got.stride() == want.stride()


def test_cat_with_out_carries():
    x = leaf(0.001, 1.0)
    with sll.linearize(0.01):
        both = torch.cat([x > 0, x > 5], out=torch.empty(4, dtype=torch.bool))
        y = both.float()
    assert grads(y, x) == [50, 0]


def test_rows_written_at_a_mask():
    x, rows, row = leaf(5.0, 5.0, -5.0, 5.0, -5.0), torch.arange(9.0).reshape(3, 3), torch.tensor([1.0, 2.0, 3.0])
    want = torch.zeros(5, 3)
    want[x.detach() > 0] = row
    for value in (row, row[None], row.expand(3, 3)):
        with sll.linearize(0.5):
            y = torch.zeros(5, 3)
            y[x > 0] = value
        assert torch.equal(y, want)
    with sll.linearize(0.5):
        y = torch.zeros(5, 3)
        y[x > 0] = rows
    assert torch.equal(y[[0, 1, 3]], rows)


WRONG = {
    "bool_plus_float": lambda m: m.__iadd__(1.5),
    "int_times_float": lambda m: m.int().mul_(leaf(1.5)),
    "mask_shape": lambda m: torch.zeros(3).__setitem__(m, 1.0),
    "row_count": lambda m: torch.zeros(2).__setitem__(m, torch.zeros(7)),
}


@pytest.mark.parametrize("name", WRONG)
def test_what_raises_outside_raises_inside(name):
    with pytest.raises((RuntimeError, IndexError)) as outside:
        WRONG[name](torch.tensor([True, True]))
    with pytest.raises(outside.type), sll.linearize(0.5, on_lost="ignore"):
        WRONG[name](leaf(1.0, 2.0) > 0)


def test_sparse_passes_through():
    x = torch.eye(2).to_sparse().requires_grad_()
    with sll.linearize(0.5):
        assert torch.equal(torch.sign(x).to_dense(), torch.eye(2))


def test_athrow_reaches_the_async_generator():
    log = []

    @sll.enable(eps=0.5)
    async def stream():
        x = leaf(0.0)
        try:
            yield 1
        except KeyError:
            log.append("caught")
            yield grads(torch.sign(x), x)
        finally:
            log.append(grads(torch.sign(x), x))

    async def main():
        g = stream()
        assert await g.__anext__() == 1
        assert await g.athrow(KeyError()) == [2.0]
        await g.aclose()

    asyncio.run(main())
    assert log == ["caught", [2.0]]


def test_patch_inside_a_region_that_ends_first():
    x = leaf(0.0)
    with pytest.raises(RuntimeError, match="Call unpatch"), sll.linearize(1.0):
        sll.patch(0.5)
        m = x > 0
    assert grads(torch.sign(x), x) == [0] and not vars(m)
    with pytest.raises(RuntimeError, match="without patch"):
        sll.unpatch()


def test_strides_of_hard_results():
    z = torch.zeros(2, 3, 4)
    x = torch.randn(4, 3, 2).permute(2, 1, 0)
    for f in (lambda x: z.masked_fill(x > 0, 1.0), lambda x: torch.where(x > 0, z, x)):
        with sll.linearize(0.1, forward="hard"):
            y = f(x.clone().requires_grad_())
        assert y.stride() == plain(f, x).stride()


def test_nothing_is_said_where_nothing_is_lost():
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        with sll.linearize(0.5):
            m = in_band()
            assert m.type() == "torch.BoolTensor" and torch.typename(m) == "torch.BoolTensor"


def test_a_selection_whose_count_is_certain_does_not_fail_for_what_it_leaves():
    x = torch.tensor([-1.0, 0.04, 0.05, 2.0], requires_grad=True)
    k = torch.tensor([2, 0, 3, 4])
    with sll.linearize(0.1) as region, pytest.warns(sll.LostGradientWarning, match="not selected"):
        out = 12 // k[x > 0.045]
    assert out.tolist() == [4, 3] and len(region.report().lost) == 1
    with sll.linearize(0.1), pytest.raises(RuntimeError, match="ZeroDivisionError"):
        12 // (k * 0)[x > 0.045]


@pytest.mark.parametrize("forward", ["linear", "hard"])
def test_bits_make_a_code_that_is_looked_up(forward):
    """The bits' joint outcomes are kept through a short sum; the window of one decision is the box oracle's."""
    table = torch.tensor([0.0, 3, 1, 4, 1, 5, 9, 2], dtype=torch.float64)
    x = torch.tensor([[2.0, -3.0, 0.1], [-2.0, 0.3, 5.0]], dtype=torch.float64, requires_grad=True)
    with sll.linearize(1.0, forward=forward) as region:
        code = ((x > 0).long() * 2 ** torch.arange(3)).sum(-1)
        looked_up = table[code]
        by_equality = (table * (code.unsqueeze(-1) == torch.arange(8))).sum(-1)
    assert region.report().lost == {}
    assert code.dtype == torch.int64 and code.tolist() == [5, 6]
    if forward == "linear":  # codes 1 or 5; 4 or 6
        assert looked_up.tolist() == [pytest.approx(0.45 * 3 + 0.55 * 5), pytest.approx(0.35 * 1 + 0.65 * 9)]
    gradient = torch.autograd.grad(looked_up.sum(), x, retain_graph=True)[0]
    assert gradient.tolist() == [[0, 0, pytest.approx((5 - 3) / 2)], [0, pytest.approx((9 - 1) / 2), 0]]
    assert torch.allclose(gradient, torch.autograd.grad(by_equality.sum(), x)[0])


@pytest.mark.parametrize("shift", [-1e-4, 0.1, 0.5])
def test_what_a_count_may_be_adds_up_to_one(shift):
    x = torch.full((5,), shift, dtype=torch.float64, requires_grad=True)
    with sll.linearize(1.0):
        count = (x > 0).sum()
        equal = torch.stack([(count == k).double() for k in range(6)])
        least = torch.stack([(count >= k).double() for k in range(7)])
        more = torch.stack([(count > k).double() for k in range(6)])
    assert float(equal.sum()) == pytest.approx(1) and torch.equal(more, least[1:])
    assert (least.diff() <= 0).all() and least[0] == 1 and least[-1] == 0
    assert torch.allclose(least[:-1] - least[1:], equal)


def test_a_count_is_continuous_where_many_are_open_at_once():
    values = []
    for shift in (-1e-4, 1e-4):
        with sll.linearize(1.0):
            count = (torch.full((5,), shift, dtype=torch.float64, requires_grad=True) > 0).sum()
            values.append(torch.stack([(count == 5).double(), (count >= 4).double(), (count > 2).double()]))
    assert torch.allclose(*values, atol=1e-2)


def test_which_values_a_weighted_sum_takes_is_not_guessed():
    x = torch.full((5,), 0.1, requires_grad=True)
    with sll.linearize(1.0, on_lost="ignore") as region:
        code = ((x > 0).long() * 2 ** torch.arange(5)).sum(-1)
        equal, looked_up, next_one = code == 3, torch.arange(32.0)[code], (code + 1).float()
    assert not equal and looked_up == 31 and next_one.requires_grad
    assert {site.op for site in region.report().lost} == {"eq", "getitem"}


@pytest.mark.parametrize("name", ["gt", "ge", "lt", "le"])
def test_python_asks_a_parameter_first(name):
    compare = {"gt": lambda a, b: a > b, "ge": lambda a, b: a >= b, "lt": lambda a, b: a < b, "le": lambda a, b: a <= b}
    x, threshold = torch.tensor([0.1]), torch.nn.Parameter(torch.zeros(1))
    for options in ({"eps": 0.5, "only": [name]}, {"eps": {"default": 1e-6, name: 0.5}}):
        with sll.linearize(**options):
            (slope,) = torch.autograd.grad(compare[name](x, threshold).float(), threshold)
        assert slope.abs().tolist() == [1]
    with sll.linearize(0.5, exclude=[name]):
        assert not compare[name](x, threshold).float().requires_grad
    both = {"default": 1e-6, "gt": 0.5, "lt": 0.25}
    with sll.linearize(both):
        y = torch.zeros(1, requires_grad=True)
        assert torch.autograd.grad((y < 0.1).float(), y)[0] == -2 and torch.autograd.grad((y > 0.1).float(), y)[0] == 1


@pytest.mark.parametrize("move", ["unsqueeze_", "t_", "squeeze_", "transpose_"])
def test_masks_that_are_moved_in_place_keep_their_decisions(move):
    args = {"unsqueeze_": (0,), "t_": (), "squeeze_": (), "transpose_": (0, 1)}[move]
    x = torch.tensor([[0.01], [0.5]], requires_grad=True)
    with sll.linearize(0.1):
        m = x > 0
        getattr(m, move)(*args)
        out = m.float()
    torch.testing.assert_close(out.flatten(), torch.tensor([0.55, 1.0]))
    torch.testing.assert_close(torch.autograd.grad(out.sum(), x)[0], torch.tensor([[5.0], [0.0]]))


def test_inference_mode_is_plain_whatever_else_is_on():
    x = torch.tensor([0.01], requires_grad=True)
    with sll.linearize(0.1), torch.inference_mode(), torch.enable_grad():
        assert (x > 0).float().item() == 1.0


OF_MANY = {
    "times": lambda n, x, y: n * 2.0,
    "float": lambda n, x, y: n.double(),
    "compared": lambda n, x, y: (n > 1).double(),
    "plus": lambda n, x, y: (n + 1).double(),
    "looked up": lambda n, x, y: torch.arange(20.0, dtype=torch.float64)[n] ** 2,
    "condition": lambda n, x, y: torch.where(n > 1, 1.0, 0.0).double(),
    "squared": lambda n, x, y: (n * n).double(),
    "with another": lambda n, x, y: (n * (x > 0).long()).double(),
    "with a third": lambda n, x, y: ((n + (y > 0.01).long()) > 2).double(),
}


@pytest.mark.parametrize("forward", ["linear", "hard"])
@pytest.mark.parametrize("name", OF_MANY)
def test_integers_of_more_decisions_than_are_kept(name, forward):
    """A float of several decisions that is made an integer has a decision for each of its outcomes. Most functions of
    such integers had no gradient, without a word.
    """

    def f(points):
        x, y, z = points.unbind(-1)
        u = ((x > 0).double() * 0.7 + (y > 0).double() * 1.4) * 1.0 + z * 0.9
        return OF_MANY[name](u.long(), x, y)

    a = torch.tensor([-0.5, -0.4, 0.3], dtype=torch.float64)
    b = torch.tensor([0.45, 0.7, 1.7], dtype=torch.float64)
    want = float(f(b) - f(a))
    assert abs(want) >= 1
    assert jittered_integral(f, a, b, 0.01, forward, n=20_000) == pytest.approx(want, rel=0.01)
    for t in (0.36, 0.52, 0.6):  # numbers of no dimension take other paths
        x = (a + (b - a) * t).requires_grad_()
        with sll.linearize(0.02, forward=forward):
            alone, together = torch.autograd.grad(f(x), x)[0], torch.autograd.grad(f(x[None]).sum(), x)[0]
        torch.testing.assert_close(alone, together)


@pytest.mark.parametrize("forward", ["linear", "hard", "straight-through"])
def test_learned_boundaries_that_a_decided_value_passes(forward):
    """They had no gradient, without a word: like the comparisons written out."""
    v = torch.tensor([0.7, 1.05, 2.02, 3.0], dtype=torch.float64, requires_grad=True)
    cuts = torch.tensor([-0.95, 1.9, 2.97], dtype=torch.float64, requires_grad=True)
    weights = torch.tensor([1.0, 2.0, 3.0, 4.0], dtype=torch.float64)
    found = []
    for f in (
        lambda s: torch.bucketize(s, cuts),
        lambda s: torch.bucketize(s * 1.0, cuts),
        lambda s: torch.searchsorted(cuts, s),
        lambda s: (s[:, None] > cuts).sum(1),
    ):
        with sll.linearize(0.2, forward=forward):
            score = (v > 2).int() * 2 + (v > 1).int()
            found.append(torch.autograd.grad((f(score.double()) * weights).sum(), [v, cuts], allow_unused=True))
    for got in found[:3]:
        assert got[1] is not None and got[1].any()
        if forward == "linear":
            torch.testing.assert_close(got, found[3])


def _added(masks):
    n = 0
    for mask in masks:
        n = n + mask.int()
    return n


def _chosen(masks):
    n = torch.zeros(masks[0].shape, dtype=torch.long)
    for mask in masks:
        n = torch.where(mask, n + 1, n)
    return n


def _in_place(masks):
    n = torch.zeros(masks[0].shape, dtype=torch.long)
    for mask in masks:
        n += mask
    return n


CHAINS = {
    "sum": lambda masks: sum(m.int() for m in masks),
    "n + mask": _added,
    "where": _chosen,
    "n += mask": _in_place,
}


@pytest.mark.parametrize("forward", ["linear", "hard", "straight-through"])
@pytest.mark.parametrize("many", [4, 5, 6, 8, 11])
@pytest.mark.parametrize("count", CHAINS.values(), ids=CHAINS)
def test_masks_that_are_counted_one_by_one(count, many, forward):
    """From five on, "hard" and "straight-through" kept one decision of those that were open, without a word."""
    x = torch.linspace(-0.4, 0.6, 3 * many, dtype=torch.float64).reshape(many, 3)[torch.randperm(many)]
    x.requires_grad_()
    found, compared = [], []
    for counted in (count, lambda masks: torch.stack(masks).sum(0)):
        with sll.linearize(1.0, forward=forward) as region:
            n = counted([row > 0 for row in x])
            found.append(torch.autograd.grad(n.double().sum(), x, retain_graph=True)[0])
            compared.append(torch.autograd.grad((n >= (many + 1) // 2).double().sum(), x)[0])
        assert not region.report().lost
    torch.testing.assert_close(found[0], torch.full_like(x, 0.5))
    torch.testing.assert_close(found[0], found[1])
    if forward == "linear":
        if many > 8:
            assert compared[0].any(0).all()
    else:  # no single flip changes a vote that is not close
        lead = n - (many + 1) // 2
        assert torch.equal(compared[0].any(0), (lead == 0) | (lead == -1))


@pytest.mark.parametrize("forward", ["hard", "straight-through"])
def test_codes_of_many_bits_are_looked_up(forward):
    """A code is no count, and one open bit is followed exactly by "hard". Of a sum "straight-through" knows no other
    side: locally it is a number, with neighbours.
    """
    eps, table = 0.01, torch.randn(64, dtype=torch.float64, generator=torch.Generator().manual_seed(0))
    x = torch.full((6, 6), 0.5, dtype=torch.float64) - torch.eye(6, dtype=torch.float64) * 0.503
    x.requires_grad_()
    with sll.linearize(eps, forward=forward) as region:
        code = sum((bits > 0).long() * 2**i for i, bits in enumerate(x))
        (got,) = torch.autograd.grad(table[code].sum(), x)
    assert not region.report().lost
    codes = [63 - 2**i for i in range(6)]
    if forward == "hard":
        change = [table[63] - table[n] for n in codes]
    else:
        change = [2**i * (table[n + 1] - table[n - 1]) / 2 for i, n in enumerate(codes)]
    torch.testing.assert_close(got, torch.diag(torch.stack(change)) / (2 * eps))


COUNTED = {
    "cast": lambda x, b, n: (n * ~b).double(),
    "times a float mask": lambda x, b, n: n * (~b).double(),
    "where": lambda x, b, n: torch.where(b, 2, n).double(),
    "where of floats": lambda x, b, n: torch.where(b, x, n),
    "plus": lambda x, b, n: (n + b).double(),
    "times a float": lambda x, b, n: torch.where(b, 0, n) * x,
    "divided": lambda x, b, n: n / (1 + b.long()),
    "mean": lambda x, b, n: (n * ~b).double().mean(1, keepdim=True),
    "masked_fill": lambda x, b, n: n.expand_as(b).clone().masked_fill(b, 2).double(),
    "exp": lambda x, b, n: torch.exp(n * ~b * 0.3),
    "joined": lambda x, b, n: torch.cat([n * ~b, n * ~b], 1).double(),
    "maximum": lambda x, b, n: torch.maximum(n * ~b, b.long()).double(),
    "cumsum": lambda x, b, n: (b.cumsum(1) * ~b).double(),
}


@pytest.mark.parametrize("name", COUNTED)
def test_counts_in_one_outcome_of_a_mask_show_their_expectation(name):
    """Outside the band of the mask the hard count was shown: values jumped at the edges of the band. (Joined, the
    gradient of the count was lost, too.)
    """
    at = torch.linspace(0, 1, 4001, dtype=torch.float64)[:, None]
    x = torch.tensor([-0.12, -0.172, -0.4], dtype=torch.float64) + at * torch.tensor([0.0, 0.0, 0.4])
    x.requires_grad_()
    with sll.linearize(0.04):
        b = x > -0.188
        y = COUNTED[name](x, b, b.sum(1, keepdim=True)).double()
    (g,) = torch.autograd.grad(y.sum(), x)
    assert (y[1:] - y[:-1]).abs().max() < 0.02  # the steepest of these ramps rise by 0.0025 from one to the next
    rise = (y[-1] - y[0]).sum().detach()
    torch.testing.assert_close(g[:, 2].sum() * 1e-4, rise, atol=5e-3, rtol=0.0)
    assert g[:, 1].any()


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


@pytest.mark.parametrize("forward", ["hard", "straight-through"])
@pytest.mark.parametrize("one", [False, True], ids=["all", "one number"])
def test_the_negative_bit(one, forward):
    """The kernels read memory, where the numbers of such a view have the other sign."""
    n = 2 * sll._ops.fused.LEAST
    x = torch.linspace(-1, 1, n).requires_grad_()
    w = torch._neg_view(torch.linspace(0.3, 0.4, 1 if one else n))[0 if one else slice(None)]
    assert w.is_neg()
    a = torch.ones(n, requires_grad=True)
    for f in (
        lambda w: torch.where(x > 0, w, a * x),
        lambda w: torch.where(x > w, a * x, w),
        lambda w: torch.where((x > 0) & (x < 0.5), w, a * x),
        lambda w: (a * x).masked_fill(x > 0, w) if one else torch.where(x > w, 1.0, a),
    ):
        with sll.linearize(0.1, forward=forward):
            got, want = f(w), f(w.resolve_neg())
        assert torch.equal(got, f(w)) and torch.equal(got, want)
        assert all(map(torch.equal, torch.autograd.grad(got.sum(), [x, a]), torch.autograd.grad(want.sum(), [x, a])))
    with sll.linearize(0.1, forward=forward):
        y = torch.sign(x)
    (got,) = torch.autograd.grad(y, x, torch._neg_view(torch.ones(n)))
    assert (got <= 0).all() and got.any()


@pytest.mark.parametrize("forward", ["linear", "hard", "straight-through"])
@pytest.mark.parametrize("clamps", [False, True])
def test_rounded_after_many_decisions(clamps, forward):
    """Clamped before it became an integer, in "linear" it had no gradient, without a word."""
    a, b, c = v = [torch.tensor(t, dtype=torch.float64, requires_grad=True) for t in (1.0, 0.095, 2.0)]
    with sll.linearize(0.04, forward=forward):
        m = torch.where(a > 0, b, c)
        n = torch.where(b > m * 0.5 + 0.47, b * 1.3, m)
        q = torch.round(n * 2 + 0.3)
        y = (q.clamp(-3, 3) if clamps else q).long().double()
    found = torch.autograd.grad(y, v, allow_unused=True)
    assert found[1].item() == pytest.approx(25)  # 2 n + 0.3 is 0.01 from 1/2, one step is 1 high and 0.08 wide


def test_a_mask_copied_to_itself():
    x = leaf(0.02, 1.0)
    with sll.linearize(0.05):
        mask = x > 0
        assert mask.copy_(mask) is mask
        y = mask.float()
    assert grads(y, x) == [10, 0]


LISTED = {
    "permute": lambda y: y.permute([1, 0]) * 2,
    "flip": lambda y: y.flip([0]) * 2,
    "roll": lambda y: torch.roll(y, [1], [0]) * 2,
    "cast": lambda y: y.permute([1, 0]).double() * 2,
    "channels last": lambda y: y[None, None].contiguous(memory_format=torch.channels_last) * 2,
}


@pytest.mark.parametrize("forward", ["linear", "hard", "straight-through"])
@pytest.mark.parametrize("name", LISTED)
def test_a_choice_moved_by_what_is_given_as_a_list(name, forward):
    """It did not recognise itself, and the recursion had no end: einops and vector-quantize-pytorch pass lists."""
    table = torch.arange(12.0).reshape(6, 2)
    x = torch.linspace(-1, 1, 18).reshape(3, 6).requires_grad_()
    with sll.linearize(1.0, forward=forward):
        got = LISTED[name](table[x.argmax(-1)])
        want = table[x.argmax(-1)] * 2
    assert got.sum().item() == pytest.approx(want.sum().item())
    assert grads(got, x)[0] == pytest.approx(grads(want, x)[0])


TIED = {
    "index": lambda x: torch.floor(x)[0].long(),
    "reshape": lambda x: torch.floor(x).reshape(1, 1).long(),
    "arithmetic": lambda x: (torch.floor(x)[0] * 3).long(),
    "lookup": lambda x: torch.arange(20.0)[(torch.floor(x) * 3)[0].long()],
    "comparison": lambda x: (torch.floor(x).view(1, 1) > 2.5).float(),
    "remainder": lambda x: ((x + 1) % 4)[0] < 0.5,
    "flip": lambda x: torch.where(torch.ceil(x).flip(0) > 3.5, 1.0, 2.0),
    "sign": lambda x: torch.sign(x - 3).unsqueeze(0).long(),
    "residual": lambda x: torch.remainder(
        torch.arange(4), torch.div(256, (x + 1) % 4 + 1, rounding_mode="floor")[:, None]
    ),
}


@pytest.mark.parametrize("forward", ["linear", "hard", "straight-through"])
@pytest.mark.parametrize("name", TIED)
def test_a_tie_that_was_moved_shows_its_hard_side(name, forward):
    """In "linear" it showed the other one."""
    x = leaf(3.0)
    with sll.linearize(0.01, forward=forward):
        got = TIED[name](x)
    assert torch.equal(got, TIED[name](x))


GUARDED = {
    "masked_fill": lambda v, m: (v * m).sum() / m.sum().masked_fill(m.sum() == 0, 1),
    "plus": lambda v, m: (v * m).sum() / (m.sum() + (m.sum() == 0)),
    "where": lambda v, m: (v * m).sum() / torch.where(m.sum() == 0, 1, m.sum()),
    "where afterwards": lambda v, m: torch.where(m.any(), (v * m).sum() / m.sum(), 0.0),
    "clamp": lambda v, m: (v * m).sum() / m.sum().clamp(min=1),
}


@pytest.mark.parametrize("eps, forward", [("auto", None), (0.01, "straight-through"), (0.01, "hard"), (0.01, "linear")])
@pytest.mark.parametrize("name", GUARDED)
def test_division_by_a_count_that_the_program_guards(name, eps, forward):
    """The count is zero, and the program divides by something else: the gradient was NaN."""
    x = leaf(-0.005, -1.0)
    with sll.linearize(eps, forward=forward):
        y = GUARDED[name](torch.tensor([2.0, 5.0]), x > 0)
    (g,) = torch.autograd.grad(y, x)
    assert y.isfinite() and g.isfinite().all()
    if name != "where afterwards":  # 0 / 0 is no outcome: the decision has no gradient there
        assert g[0] > 0


@pytest.mark.parametrize("forward", ["linear", "hard", "straight-through"])
def test_integer_division_by_a_count_that_the_program_guards(forward):
    """The side that is not taken raised."""
    x = leaf(-1.0, -2.0)
    with sll.linearize(3.0, forward=forward, on_lost="ignore"):
        n = (x > 0).sum()
        safe = torch.where(n == 0, 1, n)
        found = [6 // safe, 6 % safe, torch.div(6, safe, rounding_mode="floor")]
    assert [t.item() for t in found] == [6, 0, 6]


@pytest.mark.parametrize("forward", ["linear", "hard", "straight-through"])
def test_a_selection_of_a_single_number(forward):
    x = torch.tensor(-1.0, requires_grad=True)
    with sll.linearize(0.01, forward=forward):
        y = x.clone()
        y[y > 0] = y[y > 0] * 2
        none = x[x > 0] * 2
    assert y.item() == -1 and none.shape == (0,)


@pytest.mark.parametrize("forward, rounds", [("linear", 2), ("linear", 3), ("linear", 5), ("hard", 2)])
def test_a_question_asked_again_of_what_was_left_alone_is_the_same(forward, rounds):
    """The answers were taken for independent, and the gradient at the boundary was 2, 3 … times too large."""

    def f(v, rounds):
        for _ in range(rounds):
            v = torch.where(v > 0.3, v * 0.6 - 0.1, v)
        return v

    x = torch.linspace(0.2, 0.36, 33, dtype=torch.float64).requires_grad_()  # what was lowered once is below 0.12
    found = []
    for n in (1, rounds):
        with sll.linearize(0.02, forward=forward):
            found.append(torch.autograd.grad(f(x, n).sum(), x)[0])
    assert found[0].abs().max() > 1
    if forward == "linear":  # in "hard" each answer is a flip of its own; the integral is right all the same
        torch.testing.assert_close(found[1], found[0])
    a, b = torch.tensor([0.1], dtype=torch.float64), torch.tensor([1.5], dtype=torch.float64)
    want = float(f(b, rounds) - f(a, rounds))
    got = jittered_integral(lambda x: f(x, rounds).sum(-1), a, b, 0.02, forward)
    # (a flip counts where it is open: the jump changes with x, and its mean over half a band is not that over all)
    assert got == pytest.approx(want, abs=1e-3 if forward == "linear" else 5e-3)


@pytest.mark.parametrize("dtype", [torch.bool, torch.int64, torch.float32])
@pytest.mark.parametrize(
    "other", [True, 2, 2.5, torch.zeros(()), torch.zeros(3, dtype=torch.float64), torch.ones(2, 3)]
)
def test_choosing_where_the_answer_is_known_has_the_dtype_and_shape_of_where(dtype, other):
    """On the side of a decision on which another one is known."""
    x = torch.tensor([-0.01, 0.0, 0.4], requires_grad=True)
    given = torch.ones(3).to(dtype)
    with sll.linearize(0.1, forward="hard", on_lost="ignore"):
        m = x > 0
        for a, b in ((given, other), (other, given)):
            got, want = torch.where(m & (x > 0), a, b), torch.where((x > 0).detach(), a, b)
            assert got.dtype == want.dtype and torch.equal(got, want)
