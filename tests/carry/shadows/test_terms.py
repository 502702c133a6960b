"""Integers that several decisions make: each decision changes what the others leave, as ``forward="hard"`` has it."""

from __future__ import annotations

import hypothesis.strategies as st
import pytest
import torch
import torch.nn.functional as F
from hypothesis import given, settings

import sll
from local_slopes import worked_out
from sll._carry.shadows import terms
from sll._carry.shadows.shadow import Shadow, shadow

EPS = 0.1
POWERS = 2 ** torch.arange(4)
TABLE = torch.randn(16, 3, dtype=torch.float64, generator=torch.Generator().manual_seed(0))
NUMBERS = torch.randint(0, 16, (16,), generator=torch.Generator().manual_seed(0))
AT = torch.tensor([[0.02, -0.9, 0.8, -0.5], [0.5, -0.03, 0.6, -0.7], [0.5, 0.6, 0.07, 0.7], [-0.5, 0.6, 0.7, -0.01]])
"""One open decision in each row."""


def found(f, at, forward="straight-through", approximate=False):
    x = at.double().requires_grad_()
    with sll.linearize(EPS, forward=forward, on_lost="error") as region:
        y = f(x).double()
        up = torch.arange(1.0, y.numel() + 1, dtype=torch.float64).reshape(y.shape)
    assert bool(region.report().approximate) == approximate
    return torch.autograd.grad(y, x, up)[0] if y.requires_grad else torch.zeros_like(x)


def loop(x):
    code = 0
    for k, bit in enumerate((x > 0).unbind(-1)):
        code = code + (bit << k)
    return code


def in_place(x):
    code = torch.zeros(len(x), dtype=torch.int64)
    for k, bit in enumerate((x > 0).long().unbind(-1)):
        code |= bit << k
    return code


def machine(x):
    state = torch.zeros(len(x), dtype=torch.int64)
    for bit in (x > 0).long().unbind(-1):
        state = torch.stack([NUMBERS, NUMBERS.flip(0)], -1)[state, bit]
    return state


def held(x):
    bits = (x > 0).long()
    places = torch.stack([bits[:, 0] * 3, bits[:, 1] * 5, bits[:, 2] * 2 + 1], -1)
    return places.gather(1, bits[:, 3:] * 2).squeeze(1) + bits[:, 1] * 8


def kept_in_a_buffer(x):
    code, rows = loop(x), torch.zeros(3, len(x), dtype=torch.int64)
    rows[1] = code
    rows[2, :2] = 3
    return rows.sum(0) % 16


CODES = {
    "sum": lambda x: ((x > 0).long() * POWERS).sum(-1),
    "sum of a mask": lambda x: (POWERS * (x > 0)).sum(-1, keepdim=True).squeeze(-1),
    "matmul": lambda x: (x > 0).long() @ POWERS,
    "matrices": lambda x: ((x > 0).long() @ torch.stack([POWERS, POWERS.flip(0)], 1))[:, 1],
    "einsum": lambda x: torch.einsum("nk,k->n", (x > 0).long(), POWERS),
    "adds": lambda x: (lambda b: b[:, 0] + 2 * b[:, 1] + 4 * b[:, 2] + 8 * b[:, 3])((x > 0).long()),
    "ors": lambda x: (lambda b: b[:, 0] | b[:, 1] << 1 | b[:, 2] << 2 | b[:, 3] << 3)((x > 0).int()),
    "subtracts": lambda x: 15 - ((x > 0).long() * POWERS).sum(-1),
    "loop": loop,
    "in place": in_place,
    "bytes": lambda x: ((x > 0).to(torch.uint8) * POWERS.to(torch.uint8)).sum(-1).to(torch.uint8),
    "cumsum": lambda x: ((x > 0) * POWERS).cumsum(-1)[:, -1],
    "prod": lambda x: ((x > 0) + 1).prod(-1) - 1,
    "of counts": lambda x: 4 * (x[:, :2] > 0).sum(-1) + (x[:, 2:] > 0).sum(-1),
    "of signs": lambda x: (torch.sign(x).long() * POWERS).sum(-1) // 2 + 7,
    "of rounding": lambda x: (torch.round(x + 0.5).long().clamp(0, 1) * POWERS).sum(-1),
    "of choices": lambda x: torch.stack([x[:, :2], -x[:, :2]]).argmax(0) @ POWERS[:2] + 4 * (x[:, 2] > 0),
    "stacked": lambda x: torch.stack([loop(x[:, :2]), 4 * loop(x[:, 2:])]).sum(0),
    "joined": lambda x: torch.cat([loop(x[:, :2]), loop(x[:, 2:])])[: len(x)],
    "padded": lambda x: F.pad(loop(x), (1, 1), value=5)[1:-1],
    "moved": lambda x: loop(x).flip(0).view(2, 2).t().reshape(-1),
    "entries": lambda x: NUMBERS[loop(x)],
    "state machine": machine,
    "held": held,
    "buffer": kept_in_a_buffer,
    "chosen": lambda x: torch.where(x[:, 0] > 0, 2 * loop(x[:, 1:]), 3),
    "masked": lambda x: loop(x).masked_fill(torch.arange(len(x)) == 1, 7),
    "largest": lambda x: ((x > 0) * POWERS).amax(-1),
    "of remainders": lambda x: (loop(x) % 3) * 4 + (x[:, 3] > 0),
    "of itself": lambda x: (lambda n: n - n % 4 + (n ^ 3) % 3)(loop(x)),
    "squared": lambda x: (lambda n: n * n % 16)(loop(x)),
}
ASKED = {
    "value": lambda n: n.double(),
    "eq": lambda n: n == 5,
    "less": lambda n: n < 6,
    "against a float": lambda n: n >= 4.5,
    "halves": lambda n: n // 2,
    "remainder": lambda n: n % 3 == 1,
    "row": lambda n: TABLE[n],
    "embedding": lambda n: F.embedding(n.long(), TABLE),
    "index_select": lambda n: TABLE.index_select(0, n),
    "take": lambda n: TABLE.view(-1).take(n.long() * 3),
    "gather": lambda n: TABLE.t().gather(1, n.long().expand(3, -1)),
    "other dimension": lambda n: TABLE.t()[:, n.long()],
    "one_hot": lambda n: F.one_hot(n.long(), 16).double() @ TABLE,
    "equal to each": lambda n: (n.unsqueeze(-1) == torch.arange(16)).double() @ TABLE,
    "float": lambda n: torch.sqrt(n + 1) + 6 / (n + 1),
    "where": lambda n: torch.where(torch.arange(4) > 1, n, -n) > 3,
    "write": lambda n: torch.zeros(4, 16, dtype=torch.float64).scatter(1, n.long().unsqueeze(1), 1.0) @ TABLE,
    "any": lambda n: (n == 5).any() * TABLE[0] + (n != 3).all() * TABLE[1],
    "again": lambda n: NUMBERS[n.long()] % 5 < 2,
    "bits": lambda n: (n >> 1 & 1) * TABLE[0, 0] + (n & 4),
}


@pytest.mark.parametrize("asked", ASKED)
@pytest.mark.parametrize("code", CODES)
def test_one_open_decision_as_hard_has_it(code, asked):
    if asked == "index_select" and code == "bytes":
        pytest.skip("torch has no such index")
    if asked in ("row", "other dimension") and code == "bytes":
        pytest.skip("bytes are masks there")
    program = lambda x: ASKED[asked](CODES[code](x))
    if (code, asked) == ("largest", "value"):
        pytest.skip("as a number it has the local gradient of the maximum")
    torch.testing.assert_close(found(program, AT), found(program, AT, "hard"), rtol=1e-5, atol=1e-5)


def test_the_codes_are_open():
    for name, code in CODES.items():
        assert found(lambda x, code=code: TABLE[code(x).long()], AT).any(), name


# --- any programs ----------------------------------------------------------------------------------------------------

COMBINED = [
    lambda a, b: a + b, lambda a, b: a - b, lambda a, b: a * b, lambda a, b: a | b, lambda a, b: a ^ b,
    lambda a, b: a & b, lambda a, b: a // (b.abs() + 1), lambda a, b: a % (b.abs() + 2), torch.maximum, torch.minimum,
    lambda a, b: torch.where(torch.arange(4) % 2 == 0, a, b), lambda a, b: torch.stack([a, b]).sum(0),
    lambda a, b: a * 3 - (b << 1), lambda a, b: a + 2 * (b > 3), lambda a, b: a - 3 * (b % 3 == 1),
    lambda a, b: NUMBERS[a.clamp(0, 15)] + b, lambda a, b: torch.stack([a, b], -1) @ torch.tensor([2, -3]),
]  # fmt: skip
LAST = [
    lambda n: n > 3, lambda n: n == 2, lambda n: n % 4 == 1, lambda n: n // 3, lambda n: TABLE[n.clamp(0, 15)],
    lambda n: F.one_hot(n % 8, 8).double().cumsum(-1), lambda n: n.abs().double(), lambda n: n.sum() % 5 < 2,
]  # fmt: skip


@settings(max_examples=150, deadline=None)
@given(
    steps=st.lists(st.tuples(st.sampled_from(COMBINED), st.integers(0, 9), st.integers(0, 9)), min_size=1, max_size=5),
    last=st.sampled_from(LAST), seed=st.integers(0, 999),
)  # fmt: skip
def test_any_program_with_one_open_decision_as_hard_has_it(steps, last, seed):
    """Each input goes into one leaf only, and each value into one step: no decision meets itself."""
    generator = torch.Generator().manual_seed(seed)
    at = torch.randn(4, 6, dtype=torch.float64, generator=generator)
    at = torch.where(at.abs() < 0.2, at.sign() * 0.7, at)
    at.view(-1)[torch.randint(24, (1,), generator=generator)] = 0.03

    def program(x):
        values = [(column > 0).long() * (2 + k) for k, column in enumerate(x.unbind(1))]
        for combined, i, j in steps:
            if len(values) > 1:
                a = values.pop(i % len(values))
                values.append(combined(a, values.pop(j % len(values))))
        return last(values[-1])

    torch.testing.assert_close(found(program, at), found(program, at, "hard"), rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize("asked", ["less", "remainder", "row", "one_hot", "again"])
def test_the_integral_along_a_line_is_the_change(asked):
    """One bit after the other."""
    program = lambda x: ASKED[asked](CODES["sum"](x)).double().sum()
    start, end = torch.tensor([[-0.4, -0.8, 1.2, -1.6]]).double(), torch.tensor([[1.6, 1.2, -0.8, 0.4]]).double()
    steps = 4000
    t = ((torch.arange(steps) + 0.5) / steps).double().unsqueeze(1)
    along = (start + t * (end - start)).requires_grad_()
    with sll.linearize(EPS, forward="straight-through", on_lost="error"):
        y = program(along)
    total = (torch.autograd.grad(y, along)[0] * (end - start)).sum() / steps
    assert total == pytest.approx((program(end) - program(start)).item(), abs=0.02)


def test_bits_in_a_band_side_by_side():
    """Each is a decision of its own, the others as the program takes them."""
    x = torch.tensor([0.02, -0.03, 0.8, 0.01], dtype=torch.float64)
    code = 1 + 4 + 8
    table = TABLE[:, 0]
    wanted = [(table[code] - table[n]) * sign * 5 for n, sign in ((12, 1), (15, -1), (9, 0), (5, 1))]
    torch.testing.assert_close(found(lambda x: table[CODES["sum"](x)], x), torch.stack(wanted))


# --- slopes worked out -----------------------------------------------------------------------------------------------


@pytest.mark.parametrize("f, at, wanted", [
    (lambda x, y: ((x > 0) + 2 * (y > 0)) == 1, (0.1, -0.1), (2, -2)),
    (lambda x, y: ((x > 0) + 2 * (y > 0)) >= 2, (0.1, 0.1), (0, 2)),
    (lambda x, y: (4 * (x > 0) - 2 * (y > 0)).square(), (0.1, 0.1), (2 * (4 - 4), 2 * (4 - 16))),
    (lambda x, y: (torch.round(x).long() * 3 + torch.round(y).long()) % 4, (0.6, 1.6), (2 * (1 - 2), 2 * (1 - 0))),
    (lambda x, y: 10 // (1 + (x > 0) + 2 * (y > 0)), (0.1, -0.1), (2 * (5 - 10), 2 * (2 - 5))),
    (lambda x, y: (torch.sign(x).long() + 3 * (y > 0).long()) == 2, (0.1, 0.1), (-2, 0)),
    (lambda x, y: (torch.sign(x).long() + 3 * (y > 0).long()) == 2, (-0.1, 0.1), (-2, 2)),
])  # fmt: skip
def test_worked_out(f, at, wanted):
    worked_out(lambda *x: f(*x).double(), at, wanted)


# --- counts, caps, writes --------------------------------------------------------------------------------------------


@pytest.mark.parametrize("count", [
    lambda m: m.sum(), lambda m: m.long().sum(-1), lambda m: m.sum().view(1), lambda m: m.long()[0] + m[1],
    lambda m: 3 - m.sum(), lambda m: m.sum().int(), lambda m: torch.stack([m.sum(), m[:2].sum()]).sum(),
    lambda m: torch.stack([m[0], m[1], m[2]]).long().sum(), lambda m: m.cumsum(0)[-1] - m[0].long(),
])  # fmt: skip
def test_what_counts_by_ones_looks_at_no_single_decision(count):
    x = torch.tensor([0.1, -0.1, 0.3], requires_grad=True)
    with sll.linearize(0.5, forward="straight-through"):
        carried = shadow(count(x > 0))
        assert type(carried) is Shadow and carried.by_ones and not carried.knows_other()
        n = count(x > 0)
        assert shadow(n * 2 > 3) is not None and isinstance(shadow(n * 2), terms.Terms)


def test_too_many_terms_are_a_row_of_the_report(monkeypatch):
    program = lambda x: TABLE[CODES["sum"](x)]
    exact = found(program, AT)
    monkeypatch.setattr(terms, "MAX_ELEMENTS", 15)
    near = found(program, AT, approximate=True)
    assert not torch.allclose(near, exact)
    code = CODES["sum"](AT)
    slope = (
        (TABLE[(code + 1).clamp(max=15)] - TABLE[(code - 1).clamp(min=0)]) * torch.arange(1.0, 13).view(4, 3) / 2 * 5
    )
    slope = slope * torch.where(code == 0, 2, 1).unsqueeze(1)
    torch.testing.assert_close(near, slope.sum(1, keepdim=True) * POWERS * (AT.abs() < EPS))
    assert not found(lambda x: CODES["sum"](x).double(), AT).equal(torch.zeros(4, 4))  # (nobody asked for terms)
    assert found(lambda x: TABLE[(x > 0).sum(-1)], AT).any()  # (a count has none)


def test_a_row_says_what_is_approximate(monkeypatch):
    monkeypatch.setattr(terms, "MAX_ELEMENTS", 1)
    x = AT.clone().requires_grad_()
    with sll.linearize(EPS, forward="straight-through") as region:
        TABLE[CODES["sum"](x)].sum()
    ((site, many),) = region.report().approximate.items()
    assert (site.op, many) == ("terms", 4) and "of different weight" in str(region.report())


@pytest.mark.parametrize("write", [
    lambda m, bits, powers, code: m.logical_not_(), lambda m, bits, powers, code: code.zero_(),
    lambda m, bits, powers, code: code.add_(1),
])  # fmt: skip
def test_writes_after_the_sum_change_nothing(write):
    def program(x):
        m = x > 0
        bits, powers = m.long(), POWERS.clone()
        code = (bits * powers).sum(-1)
        picked = code + 0
        write(m, bits, powers, code)
        return TABLE[picked]

    torch.testing.assert_close(found(program, AT), found(lambda x: TABLE[CODES["sum"](x)], AT))


def test_what_is_filled_in_is_no_decision():
    """The number that fills is no place either."""
    padded = lambda x: TABLE[F.pad(loop(x), (2, 1), value=3)]
    torch.testing.assert_close(found(padded, AT), found(padded, AT, "hard"))
    places = lambda x: TABLE[F.pad(x.argmax(1), (2, 1), value=3)]
    by_hand = lambda x: torch.cat([TABLE[[3, 3]], TABLE[x.argmax(1)], TABLE[[3]]])
    torch.testing.assert_close(found(places, AT - AT.detach() * 0.97), found(by_hand, AT - AT.detach() * 0.97))


@pytest.mark.parametrize("empty", [
    lambda n: n.sum(), lambda n: n.cumsum(0), lambda n: n.prod(), lambda n: torch.stack([n, n * 2]), lambda n: n @ n,
])  # fmt: skip
def test_nothing_is_made_of_no_decisions(empty):
    x = torch.zeros(0, requires_grad=True)
    with sll.linearize(EPS, forward="straight-through", on_lost="error") as region:
        y = (empty((x > 0).long() * 3) == 1).double().sum()
    assert y in (0, 1) and not region.report().approximate


def test_what_was_written_to_is_said():
    def program(x):
        places = NUMBERS[torch.round(x[:, :2] + 0.5).long()]
        code = places.sum(-1)
        places.zero_()
        return code > 8

    found(program, AT, approximate=True)


def test_long_rows_of_lookups_are_read_at_once():
    """A thousand bits."""
    x = torch.linspace(-1, 1, 1001, dtype=torch.float64)
    weights = torch.arange(1001) % 7 + 2
    table = torch.randn(int(weights.sum()) + 1, dtype=torch.float64, generator=torch.Generator().manual_seed(0))
    code = int(weights[x > 0].sum())
    got = found(lambda x: table[((x > 0) * weights).sum()], x)
    flipped = torch.where(x > 0, code - weights, code + weights)
    wanted = (table[flipped] - table[code]) * torch.where(x > 0, -5, 5) * (x.abs() <= EPS)
    torch.testing.assert_close(got, wanted)


@pytest.mark.parametrize("steps", [20, 40])
def test_loops_that_put_bits_beside_each_other(steps):
    """What fills up their rows is no term; and after 64 functions there is a row of the report."""

    def program(x):
        code = torch.zeros((), dtype=torch.int64)
        for bit in (x > 0).long():
            code = torch.stack([code, 3 * bit]).sum(0)
        return code % 7 == 2

    x = torch.linspace(-1, 1, steps)
    if steps == 20:
        assert found(program, x).any()
        torch.testing.assert_close(found(program, x), found(program, x, "hard"), rtol=1e-5, atol=1e-5)
    else:
        found(program, x, approximate=True)


# --- what one decision makes changes together ----------------------------------------------------------------------

SQUARES = torch.arange(80) ** 2
OF_ONE = {
    "stock and sold": lambda x: (lambda stock: stock - stock.clamp(max=6) == 19)(torch.where(x < 0, 25, 4)),
    "looked up": lambda x: (lambda stock: SQUARES[stock - stock.clamp(max=6)])(torch.where(x < 0, 25, 4)),
    "product": lambda x: (lambda stock: stock * (stock - 3))(torch.where(x < 0, 25, 4)),
    "compared": lambda x: (lambda stock: stock.clamp(max=6) < stock)(torch.where(x < 0, 25, 4)),
    "a mask twice": lambda x: (lambda mask: SQUARES[mask * 5 + mask * 3])(x < 0),
    "an integer": lambda x: (lambda n: SQUARES[n - n % 4 + n // 3])((x * 10).long() + 8),
    "in place": lambda x: (lambda n: n.mul_(n + 1))(torch.where(x < 0, 25, 4)),
}


@pytest.mark.parametrize("name", OF_ONE)
def test_what_is_made_of_one_decision_changes_together(name):
    at = torch.tensor([[0.02, -0.01, 0.08], [0.5, -0.7, 0.098]]).double()
    torch.testing.assert_close(found(OF_ONE[name], at), found(OF_ONE[name], at, "hard"))


def test_a_write_to_what_is_made_does_not_matter():
    def program(x):
        stock = torch.where(x < 0, 25, 4)
        left = stock.clamp(max=6)
        gone = stock - left
        stock.zero_()
        left.add_(1)
        return SQUARES[gone]

    torch.testing.assert_close(found(program, AT), found(program, AT, "hard"))


def put(a, b):
    out = a.clone()
    out[..., :1] = b[..., :1]
    return out


PUTS = {
    "cat": lambda *each: torch.cat(each, 0),
    "stack": lambda *each: torch.stack(each, -1),
    "block_diag": lambda *each: torch.block_diag(*each),
    "put": put,
}


@pytest.mark.parametrize("name", PUTS)
@settings(deadline=None, max_examples=15)
@given(shape=st.lists(st.integers(0, 3), min_size=1, max_size=2), seed=st.integers(0, 99), fixed=st.booleans())
def test_terms_go_where_their_elements_go(name, shape, seed, fixed):
    """As if each decision were put there on its own."""
    g = torch.Generator().manual_seed(seed)
    many = [2, 3]
    each = [
        (torch.rand(*shape, k, generator=g, dtype=torch.float64), torch.randint(-3, 4, (*shape, k), generator=g))
        for k in many
    ]
    operands = [torch.randint(0, 5, shape, generator=g) for _ in many]
    for x, parts in zip(operands[: 1 if fixed else 2], each):
        own = Shadow(x.double())
        own.terms = lambda parts=parts: parts
        x._sll = own, x._version
    got = terms.joined(PUTS[name], operands)()
    zeros = [torch.zeros(*shape, 0, dtype=t.dtype) for t in each[1]]
    each = [each[0], zeros if fixed else each[1]]
    widest = max(parts[1].shape[-1] for parts in each)
    for i in (0, 1):
        wide = [F.pad(parts[i], (0, widest - parts[i].shape[-1])).unbind(-1) for parts in each]
        want = torch.stack([PUTS[name](*columns) for columns in zip(*wide)], -1)
        assert torch.equal(got[i], want)
