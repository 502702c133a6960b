"""`sll.rank`, `sll.topk_mask` and the matrix behind every order, against dense references."""

from __future__ import annotations

import hypothesis.strategies as st
import pytest
import torch
from hypothesis import given, settings
from torch.func import grad, hessian, jacfwd, jacrev, vmap

import sll
from sll._ops.order import Order, capped_simplex, close

DTYPES = [torch.float64, torch.float32, torch.float16, torch.bfloat16]


def dense_rank(x, eps):
    """The definition: sum over j of heaviside_eps(x_i - x_j), without the diagonal."""
    return sll.heaviside(x[..., :, None] - x[..., None, :], eps).sum(-1) - 0.5


def by_bisection(z, k):
    """Projection on ``0 <= m <= 1, sum m = k``: the threshold found by bisection."""
    low, high = z.amin(-1, keepdim=True) - 2, z.amax(-1, keepdim=True) + 2
    for _ in range(100):  # from 1e9 down to 1e-21
        middle = (low + high) / 2
        over = (z - middle).clamp(0, 1).sum(-1, keepdim=True) > k
        low, high = torch.where(over, middle, low), torch.where(over, high, middle)
    return (z - high).clamp(0, 1)


@st.composite
def rows(draw, least=1, most=9):
    """A tensor of any shape, often with ties, and one of its dimensions."""
    shape = draw(st.lists(st.integers(1, 3), max_size=2))
    dim = draw(st.integers(0, len(shape)))
    shape.insert(dim, draw(st.integers(least, most)))
    x = torch.randn(shape, generator=torch.Generator().manual_seed(draw(st.integers(0, 999))), dtype=torch.float64)
    x = torch.round(x, decimals=draw(st.sampled_from([0, 1, 8])))
    return x, dim if draw(st.booleans()) else dim - len(shape)


EPS = st.sampled_from([1e-7, 0.0137, 0.337, 2.03, 1e3])  # no multiples of the ties' distances: slopes jump there


@settings(max_examples=80, deadline=None)
@given(rows(least=0), EPS, st.booleans())
def test_rank_is_its_definition(case, eps, descending):
    x, dim = case
    x = x.requires_grad_()
    got = sll.rank(x, dim, eps, descending)
    rows = (-x if descending else x).movedim(dim, -1)
    want = dense_rank(rows, eps).movedim(-1, dim)
    torch.testing.assert_close(got, want, rtol=0, atol=1e-9)
    g = torch.randn(x.shape, generator=torch.Generator().manual_seed(1), dtype=x.dtype)
    if x.numel():
        slopes = [torch.autograd.grad(y, x, g)[0] * eps for y in (got, want)]
        torch.testing.assert_close(*slopes, rtol=0, atol=1e-9)
    places = rows.detach().argsort(dim=-1, stable=True).argsort(-1).movedim(-1, dim)
    assert torch.equal(sll.rank(x, dim, eps, descending, forward="hard").detach(), places.double()) or descending


@pytest.mark.parametrize("n", [300, 3000])
def test_rank_of_long_rows(n):
    generator = torch.Generator().manual_seed(n)
    for eps in (1e-6, 1e-3, 0.1, 100.0):
        x = torch.randn(n, generator=generator, dtype=torch.float64).requires_grad_()
        g = torch.randn(n, generator=generator, dtype=torch.float64)
        got, want = sll.rank(x, eps=eps), dense_rank(x, eps)
        torch.testing.assert_close(got, want, rtol=0, atol=1e-9)
        (a,), (b,) = (torch.autograd.grad(y, x, g) for y in (got, want))
        torch.testing.assert_close(a * eps, b * eps, rtol=0, atol=1e-9)


@settings(max_examples=80, deadline=None)
@given(rows(), EPS, st.data())
def test_topk_mask_is_the_projection(case, eps, data):
    x, dim = case
    k = data.draw(st.integers(0, x.shape[dim]))
    got = sll.topk_mask(x, k, dim, eps)
    rows = x.movedim(dim, -1)
    last = rows.sort(-1, descending=True).values[..., max(k - 1, 0)].unsqueeze(-1)
    torch.testing.assert_close(got, by_bisection((rows - last) / eps, k).movedim(-1, dim), rtol=0, atol=1e-9)
    hard = torch.zeros_like(x).scatter(dim, x.topk(k, dim).indices, 1)
    assert torch.equal(sll.topk_mask(x, k, dim, eps, forward="hard"), hard)
    if k == 1:
        torch.testing.assert_close(got, sll.argmax(x, dim, eps))


@pytest.mark.parametrize("function", [lambda x: sll.rank(x, eps=0.7), lambda x: sll.topk_mask(x, 3, eps=0.7)])
def test_derivatives(function):
    x = torch.randn(3, 6, generator=torch.Generator().manual_seed(0), dtype=torch.float64).requires_grad_()
    assert torch.autograd.gradcheck(function, x, check_forward_ad=True, check_batched_grad=True)
    assert torch.autograd.gradgradcheck(lambda x: function(x) * x, x)
    d = x.detach()
    torch.testing.assert_close(vmap(function)(d), function(d))
    torch.testing.assert_close(vmap(function, in_dims=1, out_dims=1)(d.T.contiguous()), function(d).T)
    torch.testing.assert_close(vmap(vmap(function))(d[None].expand(2, 3, 6)), function(d)[None].expand(2, 3, 6))
    reverse = vmap(jacrev(function))(d)
    torch.testing.assert_close(vmap(jacfwd(function))(d), reverse)
    weights = torch.arange(6.0, dtype=torch.float64)
    torch.testing.assert_close(vmap(grad(lambda r: function(r) @ weights))(d), weights @ reverse)
    assert not hessian(lambda r: function(r) @ weights)(d[0]).any()


@pytest.mark.parametrize("dtype", DTYPES, ids=str)
def test_dtypes(dtype):
    x = torch.tensor([[0.5, 0.25, 1.0, 0.75], [3.0, -2.0, 0.0, 0.125]], dtype=dtype, requires_grad=True)
    for eps in (0.375, 8.0):
        for f in (lambda x, eps=eps: sll.rank(x, 1, eps), lambda x, eps=eps: sll.topk_mask(x, 2, 1, eps)):
            want = f(x.detach().double())
            torch.testing.assert_close(f(x), want.to(dtype))
            assert f(x).dtype == torch.autograd.grad(f(x)[0, 0], x)[0].dtype == dtype


def test_special_values():
    inf, nan = float("inf"), float("nan")
    x = torch.tensor([[1.0, inf, -inf, 1.05, nan], [inf, inf, 0.0, 2.0, -inf]], requires_grad=True)
    rank = sll.rank(x, eps=0.1)
    torch.testing.assert_close(rank, torch.tensor([[1.25, 3.5, 0, 1.75, 3.5], [3.5, 3.5, 1, 2, 0]]))
    (g,) = torch.autograd.grad(rank, x, torch.arange(10.0).reshape(2, 5))
    torch.testing.assert_close(g[0], torch.tensor([-15.0, 0, 0, 15.0, 0])) and not g[1].any()
    assert sll.topk_mask(x[1], 3).tolist() == [1, 1, 0, 1, 0] and sll.topk_mask(x[1], 1).sum() == 1
    (g,) = torch.autograd.grad((sll.topk_mask(x, 2, eps=0.1) * torch.arange(5.0)).sum(), x)
    assert g.isfinite().all()


LARGE = {
    "outlier": ([1.0, 1.0, torch.finfo(torch.float32).min], 0.1, [1.5, 1.5, 0.0]),
    "far outlier": ([-1e30, 1.0, 1.0005], 1e-3, [0, 1.25, 1.75]),
    "outside the band by an ulp": ([10000.0, 10000.0009765625], 5e-4, [0.0, 1.0]),
    "large": ([20000.0, 20000.001953125], 1e-3, [0.0, 1.0]),
    "infinite neighbours": ([float("inf"), 1.0, 1.0, -float("inf")], 1e38, [3, 1.5, 1.5, 0]),
}


@pytest.mark.parametrize("name", LARGE)
def test_rank_of_large_numbers(name):
    values, eps, want = LARGE[name]
    torch.testing.assert_close(sll.rank(torch.tensor(values), eps=eps), torch.tensor(want), rtol=0, atol=2e-2)


def test_rank_far_from_zero():
    x = torch.rand(3000, generator=torch.Generator().manual_seed(0), dtype=torch.float64) + 1e9
    torch.testing.assert_close(sll.rank(x), dense_rank(x, 1e-3), rtol=0, atol=1e-9)


def test_shares_far_from_zero():
    """Ties and shares of large numbers: distances are taken before they are divided by eps."""
    for x in (torch.full((40,), 20000.0), torch.full((40,), 1e36), torch.full((40,), 1e14, dtype=torch.float64)):
        torch.testing.assert_close(sll.topk_mask(x, 1), torch.full_like(x, 1 / 40))
    x = torch.tensor([999.9995727539062, 999.999267578125, 999.997802734375, 999.99951171875, 999.9993286132812])
    torch.testing.assert_close(sll.topk_mask(x, 1), sll.argmax(x))
    y = torch.tensor([20000.0, 20000.0, 19997.0], requires_grad=True)
    for pick in (lambda y: torch.topk(y, 1).indices, lambda y: y.argmax(), lambda y: y.argsort(descending=True)[0]):
        with sll.linearize(1e-3):
            out = torch.tensor([1.0, 2.0, 7.0])[pick(y)].sum()
        (g,) = torch.autograd.grad(out, y)
        assert g.abs().tolist() == pytest.approx([500, 500, 0])


def test_what_is_not_finite_stays_in_its_band():
    x = torch.tensor([0.0, 1.0, 1.05, 2.0, 2.05], requires_grad=True)
    (g,) = torch.autograd.grad(sll.rank(x, eps=0.1).sqrt().sum(), x)
    assert g.isfinite().all() and g[1:].all()
    (g,) = torch.autograd.grad(sll.rank(x, eps=0.1), x, torch.tensor([float("inf"), 1, 2, float("nan"), 3]))
    assert g[0] == 0 and g[3:].isnan().all()
    torch.testing.assert_close(g[1:3], torch.tensor([-5.0, 5.0]))


def test_topk_mask_where_there_is_no_distance():
    """NaN and infinity at the boundary: torch's choice, whatever else is in the batch."""
    inf, nan = float("inf"), float("nan")
    for row, k in (([1.0, -inf, -inf, -inf], 2), ([inf, 1, inf, inf, -1.5, 2.5], 1), ([nan, nan, 1.0], 1)):
        x = torch.tensor(row)
        hard = torch.zeros_like(x).scatter(0, x.topk(k).indices, 1)
        assert torch.equal(sll.topk_mask(x, k), hard)
        for batch in (sll.topk_mask(torch.stack([x, torch.ones_like(x)]), k)[0],
                      vmap(lambda v, k=k: sll.topk_mask(v, k))(x[None])[0]):  # fmt: skip
            assert batch.sum() == k and ((batch == 0) | (batch == 1)).all()
        assert torch.equal(vmap(lambda v, k=k: sll.topk_mask(v, k, forward="hard"))(x[None])[0], hard)
    x = torch.tensor([nan, 1.0, 0.9999])  # the boundary is between finite numbers
    for got in (sll.topk_mask(x, 2), sll.topk_mask(torch.stack([x, torch.ones(3)]), 2)[0],
                vmap(lambda v: sll.topk_mask(v, 2))(x[None])[0]):  # fmt: skip
        torch.testing.assert_close(got, torch.tensor([1.0, 0.55, 0.45]), atol=1e-3, rtol=0)


@pytest.mark.skipif(torch.__version__ < (2, 10), reason="older Dynamo")
@pytest.mark.parametrize("forward", ["linear", "hard"])
def test_compiles(forward):
    x = torch.randn(3, 7, generator=torch.Generator().manual_seed(0), dtype=torch.float64).requires_grad_()
    for f in (
        lambda x: sll.rank(x, 0, 0.3, forward=forward),
        lambda x: sll.topk_mask(x, 3, 1, 0.3, forward=forward),
        lambda x: sll.argmax(x, 1, 0.3, forward=forward),
    ):
        torch._dynamo.reset()
        y, z = torch.compile(f, fullgraph=True, backend="aot_eager")(x), f(x)
        torch.testing.assert_close(y, z)
        g = torch.arange(21.0, dtype=torch.float64).reshape(3, 7)
        torch.testing.assert_close(torch.autograd.grad(y, x, g), torch.autograd.grad(z, x, g))


def test_shapes_at_the_edge():
    x = torch.zeros(0, 3, requires_grad=True)
    assert sll.rank(x).shape == sll.rank(x, 0).shape == sll.topk_mask(x, 2).shape == (0, 3)
    assert sll.topk_mask(x, 0, 0).shape == (0, 3)
    assert sll.rank(torch.zeros(1)).tolist() == [0] and sll.topk_mask(torch.zeros(1), 1).tolist() == [1]
    y = torch.randn(5, requires_grad=True)
    for k in (0, 5):
        mask = sll.topk_mask(y, k)
        assert mask.tolist() == [k / 5] * 5 and not torch.autograd.grad(mask.sum(), y)[0].any()


@pytest.mark.parametrize(
    ("call", "error", "says"),
    [
        (lambda: sll.rank(torch.tensor(1.0)), ValueError, "at least one dimension"),
        (lambda: sll.rank(torch.arange(3)), TypeError, "floating point"),
        (lambda: sll.rank(torch.ones(3), 1), IndexError, "dim must be between -1 and 0"),
        (lambda: sll.rank(torch.ones(3), 0.5), TypeError, "dim must be one int, got 0.5"),
        (lambda: sll.rank(torch.ones(3), eps=0), ValueError, "eps must be positive"),
        (lambda: sll.rank(torch.ones(3), eps=1e-46), ValueError, "eps must be a normal number in"),
        (lambda: sll.rank(torch.ones(3), descending="no"), TypeError, "descending must be True or False"),
        (lambda: sll.rank(torch.ones(3) * 1j), TypeError, "x must be real"),
        (lambda: sll.rank([1.0]), TypeError, "x must be a tensor"),
        (lambda: sll.rank(torch.ones(3), forward="soft"), ValueError, "forward must be one of"),
        (lambda: sll.topk_mask(torch.ones(3), 4), ValueError, "k must be between 0 and the 3 entries"),
        (lambda: sll.topk_mask(torch.ones(3), -1), ValueError, "got -1"),
        (lambda: sll.topk_mask(torch.ones(3), 1.0), TypeError, "k must be an int, got 1.0"),
        (lambda: sll.topk_mask(torch.ones(3), True), TypeError, "k must be an int"),
    ],
)
def test_errors_name_the_argument(call, error, says):
    with pytest.raises(error, match=says):
        call()


# --- the matrix behind every order ------------------------------------------------------------------------------------


def matrix(z):
    """(n, n): weight of sorted element j at place i, from the windows."""
    order = Order(z, torch.arange(z.shape[-1]).expand(z.shape), 1.0, close(z, 1.0, z.shape[-1]))
    size = (*z.shape, z.shape[-1])
    by_rows = torch.zeros(size, dtype=z.dtype).scatter_add(-1, order.elements(), order.rows)
    columns = torch.zeros(size, dtype=z.dtype).scatter_add(
        -1, order.neighbours().expand_as(order.rows), order.columns()
    )
    return by_rows, columns.mT


@settings(max_examples=60, deadline=None)
@given(rows(least=2, most=12), st.sampled_from([0.03, 0.4, 3.0, 50.0]))
def test_orders_are_differences_of_projections(case, scale):
    x, dim = case
    z = (x.movedim(dim, -1) * scale).sort(-1, descending=True).values
    n = z.shape[-1]
    want = torch.stack([by_bisection(z, i) for i in range(n + 1)], -2).diff(dim=-2)
    by_rows, columns = matrix(z)
    for got in (by_rows, columns):
        torch.testing.assert_close(got, want, rtol=0, atol=1e-9)
    torch.testing.assert_close(by_rows.sum(-1), torch.ones_like(z))
    torch.testing.assert_close(by_rows.sum(-2), torch.ones_like(z))


def test_pairs_are_adjacent_swaps():
    """Where bands hold pairs only: weight 1/2 - g / (2 eps) of changing places (here eps is 1)."""
    z = torch.tensor([5.0, 4.4, 2.0, 0.0, -0.9])
    swap = [0.2, 0.0, 0.0, 0.05]
    want = torch.eye(5)
    for i, s in enumerate(swap):
        want[i, i] -= s
        want[i + 1, i + 1] -= s
        want[i, i + 1] = want[i + 1, i] = s
    torch.testing.assert_close(matrix(z)[0], want)


@pytest.mark.parametrize("scale", [0.5, 2.0, 10.0])
def test_orders_are_continuous(scale):
    """Along a path on which elements change places, the lookup ``values[x.argsort()]`` never jumps."""
    a, b = (torch.randn(7, generator=torch.Generator().manual_seed(s), dtype=torch.float64) for s in (0, 1))
    t = torch.linspace(0, 1, 20_001, dtype=torch.float64)[:, None]
    x = ((a + (b - a) * t) * scale).requires_grad_()
    values = torch.tensor([3.0, -1.0, 4.0, 1.0, -5.0, 9.0, 2.0], dtype=torch.float64)
    with sll.linearize(1.0):
        y = values[x.argsort(1)]
    assert (y[1:] - y[:-1]).abs().max() < 20 * float((b - a).abs().max()) * scale / 20_000 * 7


def test_wide_rows_stay_small():
    """An order of many elements that are all equal: windows are cut, memory is bounded."""
    x = torch.zeros(200_000, requires_grad=True)
    with sll.linearize(0.1, forward="hard"):
        order = x.argsort()
        assert order._sll[0].values.numel() < 2**23
        y = torch.arange(200_000.0)[order]
    assert torch.equal(y.detach(), torch.arange(200_000.0)[x.detach().argsort()])
    assert torch.autograd.grad(y.sum(), x)[0].isfinite().all()


def test_capped_simplex_at_its_ends():
    z = torch.tensor([[3.0, 2.0, 1.0]], requires_grad=True)
    for k in (0, 3):
        m = capped_simplex(z, k, 0.1)
        assert m.tolist() == [[k / 3] * 3] and not torch.autograd.grad(m.sum(), z)[0].any()
