"""Programs of several variables for the oracle *local*: pipelines, loops, metrics, trees, choices, as people write.

Each is a function of float tensors of the shapes named, and returns a float tensor. Nothing in them is differentiated
by hand: the tests run them plain, in a region and in the reference.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor


class Row(NamedTuple):
    """A program, the shapes of its operands, and what is true of it alone."""

    program: Callable[..., Tensor]
    shapes: tuple[tuple[int, ...], ...]
    slow: bool = False
    """Some hundred calls: one width in each dtype does."""
    takes_back: bool = False
    """Rounded numbers are subtracted from what they are made of: "auto" leaves the plain program's gradient."""
    batchable: bool = True
    """Under vmap it runs without a region. (Writes of batched values into plain buffers do not.)"""


ROWS: dict[str, Row] = {}
PROGRAMS: dict[str, Callable[..., Tensor]] = {}


def local(*shapes, **facts):
    def add(f):
        assert f.__name__ not in ROWS
        ROWS[f.__name__], PROGRAMS[f.__name__] = Row(f, shapes, **facts), f
        return f

    return add


def operands(name: str, dtype: torch.dtype, seed: int = 0) -> list[Tensor]:
    generator = torch.Generator().manual_seed(seed)
    return [torch.randn(shape, generator=generator, dtype=torch.float64).to(dtype) for shape in ROWS[name].shapes]


# --- masks -----------------------------------------------------------------------------------------------------------


@local((6, 5), (6, 5))
def five_decisions(x, y):
    return ((x > 0.1) & (y > -0.2) & (x < 1.5) & (y.flip(0) < 1.2) & (x.flip(1) > -1) & (y > x - 1)).to(x.dtype) * y


@local((4, 8))
def seven_of_a_row(x):
    return (x > -0.5).all(1).to(x.dtype) + (x > 1.2).any(1).to(x.dtype) * 2 - (x.flip(0) > 0).all(0).sum().to(x.dtype)


@local((6, 5), (5,))
def learned_thresholds(x, t):
    return torch.where(x > t, x * x, -x) + (x <= t + 0.3).to(x.dtype) * t


@local((6, 5), (6, 5))
def branches_of_branches(x, y):
    inner = torch.where(y > 0.2, x * 2, y * y)
    return torch.where((x > 0) ^ (y < -0.1), inner, torch.where(x < -0.4, y, x * y))


@local((6, 5), (6, 1))
def broadcast_masks(x, y):
    m = (x > 0.1) | (y > 0.3)
    return (m * x).sum(0) + m.to(x.dtype).mean(1).sum() + (m & (y < 1)).sum(1).to(x.dtype).mean()


@local((6, 5))
def same_mask_again(x):
    m = x > 0.2
    return (m & m).to(x.dtype) + (m | m) * x + (m ^ m).to(x.dtype) + (m == m) * x


@local((6, 5))
def repeated_questions(x):
    return ((x > 0.2) & (x > 0.2)).to(x.dtype) + ((x > 0.2) | (x > 0.2)).to(x.dtype) * x


@local((6, 5), (6, 5))
def masked_forms(x, y):
    m = torch.logical_or(x > 0.3, torch.logical_not(y > 0.1))
    return x.masked_fill(m, 0.5) + y.where(m, x) + torch.masked_fill(y, x.lt(0), -1.0)


@local((5, 4), (5, 4))
def masked_losses(x, y):
    valid = y > -0.3
    loss = (x - y).square()
    return loss[valid].mean() + loss[valid].sum() * 0.1 + (x * valid).sum() / valid.sum().clamp(min=1)


@local((5, 4), (5, 4))
def weighted_masks(x, y):
    return ((x > 0) * 2.5 + (y > 0) * (x > 0.5) * 1.5 - (x < y).to(x.dtype) * y).cumsum(1)


@local((3, 4, 5))
def mask_shapes(x):
    m = (x > 0.1).permute(2, 0, 1).reshape(5, 12)
    m = torch.cat([m[:2], ~m[2:]]).t().contiguous().view(3, 4, 5).transpose(0, 2)
    return m.to(x.dtype).sum((0, 1)) + F.pad(m[0], (1, 0), value=True).flip(1).roll(1, 0).to(x.dtype).sum()


@local((6, 5))
def triangles_of_masks(x):
    m = (x[:5] > 0).tril() | (x[1:] < 0.5).triu(1)
    return (torch.stack([m, m.t()]).sum(0) * x[:5]).sum(1)


# --- bits, integers, quantizers --------------------------------------------------------------------------------------


@local((5, 8))
def weighted_bits(x):
    bits = (x > 0).long()
    return ((bits * 2 ** torch.arange(8)).sum(1).to(x.dtype) / 255) ** 2


@local((5, 3))
def shifted_bits(x):
    code = (x[:, 0] > 0).int() << 2 | (x[:, 1] > 0.1).int() << 1 | (x[:, 2] > -0.1).int()
    return code.to(x.dtype)


@local((5, 4))
def codes_in_many_ways(x):
    b = (x > 0.1).long()
    code, table = (b * 2 ** torch.arange(4)).sum(1), torch.arange(16).to(x.dtype).sub(6).square()
    other = b[:, 0] | b[:, 1] << 1 | b[:, 2] << 2
    asked = (code == 5).to(x.dtype) + (code // 3 > 1) * 2 + (code % 3 == 1) * 3 + (code.unsqueeze(1) < 7).squeeze(1)
    asked = asked + F.embedding(other, table.view(4, 4)[:, :2].reshape(8, 1)).sum(1) + (code ^ other > 3) * x[:, 0]
    return asked + table[code] + F.one_hot(
        code, 16).to(x.dtype) @ table + torch.maximum(code, other + 2) % 5  # fmt: skip


@local((5, 4), (5, 4))
def weighted_votes(x, y):
    votes, weights = torch.sign(x).long(), torch.tensor([3, 1, 4, 2])
    ballot = (votes * weights).sum(1)
    level = torch.round(y * 2).long()
    return ((ballot > 1).to(x.dtype) * y[:, 0] + (votes.sum(1) > 0) + (level @ weights > 2) * x[:, 1]
            + ((level * 2).cumsum(1) >= 3).sum(1) + (level.prod(1) > 2) + (level.sum(1) > 1) * y[:, 1])  # fmt: skip


@local((5, 4), (5, 3))
def codes_of_counts_and_choices(x, y):
    count, place = (x > 0).sum(1), y.argmax(1)
    code = count * 3 + place
    table = torch.arange(15).to(x.dtype).sub(7).square()
    again = torch.stack([code, place * 4, count + (y[:, 0] > 0.2)], 1)
    return table[code] + (again.sum(1) % 7 == 3) + (again[:, 1:] > 2).sum(1) + (count % 3 == 1) * x[:, 0] + (
        torch.where(y[:, 1] > 0, code, count) // 2 > 2)  # fmt: skip


@local((4, 6))
def codes_in_buffers(x):
    codes = torch.zeros(3, 6, dtype=torch.int64)
    for k, row in enumerate(x):
        codes[k % 3] |= (row > 0.1).long() << k
    codes[:, 0] += 2 * (x[:3, 1] > 0)
    return (codes % 3 == 1).to(x.dtype) @ torch.arange(6).to(x.dtype) + torch.tensor([0, 2, 5, 1]).repeat(4)[codes].sum(
        1
    )


@local((6, 5), takes_back=True)
def int8_quantizer(x):
    scale = 0.25
    return (torch.clamp(torch.round(x / scale), -8, 7).to(torch.int8).to(x.dtype) * scale - x).square()


@local((6, 5), (5,))
def learned_scale(x, log_scale):
    scale = log_scale.exp() + 0.1
    return torch.round(x / scale).clamp(-4, 3) * scale


@local((6, 5))
def zero_point(x):
    q = torch.round(x / 0.3).add(8).clamp(0, 15).to(torch.uint8)
    return (q.to(x.dtype) - 8) * 0.3


@local((6, 4), (4, 3))
def quantized_matmul(x, w):
    a = torch.round(x * 4).clamp(-7, 7).to(torch.int32)
    b = torch.round(w * 4).clamp(-7, 7).to(torch.int32)
    return (a @ b).to(x.dtype) / 16


@local((6, 4), (4, 3))
def quantize_then_again(x, w):
    return torch.round(torch.round(x * 3) / 3 @ w * 2) / 2


@local((6, 5), takes_back=True)
def stochastic_free_dither(x):
    steps = torch.floor(x * 4 + torch.linspace(0, 0.9, 5, dtype=x.dtype))
    return (steps.long() % 3).to(x.dtype) + (steps / 4 - x).abs()


@local((6, 5), (6, 5))
def remainders(x, y):
    return x % 0.7 + torch.fmod(y, 0.6) + torch.frac(x * 2) * y + x // 0.5 + torch.div(y, 0.4, rounding_mode="trunc")


@local((6, 5))
def raw_casts(x):
    i = (x * 3).long()
    return (i * i).to(x.dtype) - (i.abs() % 2).to(x.dtype) + torch.tensor([2.0, -1, 5, 3, 0, 1, 7]).to(x.dtype)[
        i.clamp(-3, 3) + 3]  # fmt: skip


@local((6, 5), (6, 5))
def integer_pairs(x, y):
    a, b = torch.round(x * 2).int(), torch.floor(y * 2).int()
    return torch.maximum(a, b).to(x.dtype) + (a * b).to(x.dtype) + (a >= b).to(x.dtype) + (a == b).to(x.dtype)


@local((6, 5))
def levels(x):
    level = torch.where(x > 1, 3, torch.where(x > 0.2, 2, torch.where(x > -0.7, 1, 0)))
    return torch.tensor([1.0, -2.0, 4.0, 0.5], dtype=x.dtype)[level] * (level != 1) + level.to(x.dtype).mean()


@local((7, 6))
def signs_and_parts(x):
    return torch.sign(x).sum(1) * torch.copysign(x[:, 0], x[:, 1]) + F.hardshrink(x, 0.4).sum(1) + torch.angle(x)[:, 2]


# --- sums of floats, decided again -----------------------------------------------------------------------------------


@local((6, 5))
def mean_then_decide(x):
    return torch.sign((x > 0).to(x.dtype).mean(1) - 0.5) * torch.round(torch.sign(x).sum(1) * 0.4)


@local((6, 5), (5, 4))
def layers_of_signs(x, w):
    return torch.sign(torch.sign(torch.sign(x) @ w) @ w.t() + 0.1) @ w


@local((6, 5))
def buffers_of_floats(x):
    buffer = torch.zeros(3, 6, 5, dtype=x.dtype)
    buffer[0] = torch.round(x * 2)
    buffer[1, 2:] = torch.sign(x[2:])
    buffer[2].copy_((x > 0.3).to(x.dtype))
    return (buffer.sum(0) > 1.5).to(x.dtype) + torch.floor(buffer.mean(0) * 3)


@local((6, 5), (6,))
def counts_decide(x, y):
    count = (x > 0).sum(1)
    return torch.where(count > 2, y * y, -y) + (count == 3) * y + count.clamp(1, 4).to(x.dtype) / 3


@local((6, 5))
def extremes(x):
    n = torch.round(x).long()
    return n.amax(1).to(x.dtype) + n.min().to(x.dtype) + (x > 0.4).amax(1).to(x.dtype) + n.max(0).values.sum()


# --- loops -----------------------------------------------------------------------------------------------------------


@local((6, 8), (8, 4), slow=True)
def spiking_with_reset(x, w):
    current, v, total = x @ w * 0.6, torch.zeros(6, 4, dtype=x.dtype), 0.0
    for _ in range(6):
        v = 0.9 * v + current
        spike = (v > 1).to(x.dtype)
        v = v * (1 - spike)
        total = total + spike
    return total


@local((6, 8), (8, 4), slow=True)
def spiking_subtracts(x, w):
    v, spikes = torch.zeros(6, 4, dtype=x.dtype), []
    for t in range(5):
        v = 0.8 * v + x.roll(t, 1) @ w * 0.5
        fired = v >= 0.7
        v = torch.where(fired, v - 0.7, v)
        spikes.append(fired)
    return torch.stack(spikes).to(x.dtype).mean(0)


@local((4,), (3,), slow=True)
def thermostat(outside, limits):
    low, high = limits[0], limits[0] + limits[1].abs() + 0.5
    inside, on, cost = torch.zeros_like(outside), torch.zeros(4, dtype=torch.bool), 0.0
    for _ in range(12):
        on = (on | (inside < low)) & ~(inside > high)
        inside = inside + 0.1 * (outside - inside) + 0.4 * on
        cost = cost + on + (inside - limits[2]).square()
    return cost


@local((10,), (2,), slow=True)
def inventory(demand, policy):
    s, up_to = policy[0].abs(), policy[0].abs() + policy[1].abs() + 1
    stock, cost = up_to, 0.0
    for d in demand.abs():
        stock = stock - d
        order = stock < s
        cost = cost + order * 2.0 + F.relu(stock) * 0.1 + F.relu(-stock) * 3
        stock = torch.where(order, up_to, stock)
    return cost


@local((5,), slow=True)
def left_alone(x):
    """Decides again on what it left alone."""
    for _ in range(8):
        x = torch.where(x > 0.5, x, x + 0.1 * (x < 0).to(x.dtype) + 0.03)
    return x


@local((12,))
def state_machine(x):
    state = torch.zeros((), dtype=torch.int64)
    table = torch.tensor([[0, 1], [2, 1], [0, 2]])
    seen = []
    for step in x:
        state = table[state, (step > 0.1).long()]
        seen.append(state)
    return torch.stack(seen).to(x.dtype)


# --- metrics ---------------------------------------------------------------------------------------------------------


@local((20,))
def f1_by_hand(x):
    target = torch.arange(20) % 3 == 0
    predicted = x > 0.1
    hits = (predicted & target).sum()
    return 2 * hits / (predicted.sum() + target.sum())


@local((20,))
def confusion(x):
    target = torch.arange(20) % 2
    counts = torch.bincount(target * 2 + (x > 0).long(), minlength=4).reshape(2, 2)
    return counts.diagonal().to(x.dtype) / counts.sum(1)


@local((12, 3))
def accuracy_of_classes(x):
    return (x.argmax(1) == torch.arange(12) % 3).to(x.dtype).mean()


@local((6, 5))
def top_k_accuracy(x):
    hit = (x.topk(2, 1).indices == (torch.arange(6) % 5)[:, None]).any(1)
    return hit.to(x.dtype).mean()


@local((8,), (8,))
def overlap(x, y):
    a, b = x > 0, y > 0.2
    return (a & b).sum() / (a | b).sum().clamp(min=1)


@local((9,))
def histograms(x):
    bins = torch.bucketize(x, torch.tensor([-1.0, -0.2, 0.3, 1.1], dtype=x.dtype))
    counts = F.one_hot(bins, 5).sum(0)
    return counts.to(x.dtype).square() + torch.histc(x, 5, -2.0, 2.0)


# --- choices, lookups, orders ----------------------------------------------------------------------------------------


@local((6, 2))
def decision_tree(x):
    left = x[:, 0] > 0.1
    right = torch.where(left, x[:, 1] > 0.5, x[:, 1] > -0.4)
    return torch.tensor([1.0, -2.0, 0.5, 3.0], dtype=x.dtype)[left.long() * 2 + right.long()]


@local((6, 4), (3,), (3,))
def oblivious_tree(x, t, leaves):
    bits = x[:, :3] > t
    leaf = (bits.long() * torch.tensor([4, 2, 1])).sum(1)
    return (torch.arange(8) == leaf[:, None]).to(x.dtype) @ torch.cat([leaves, leaves * 2, leaves[:2]])


@local((6, 3), (4, 3))
def vector_quantizer(x, codes):
    nearest = torch.cdist(x, codes).argmin(1) if x.dtype in (torch.float32, torch.float64) else (
        (x[:, None] - codes).square().sum(-1).argmin(1))  # fmt: skip
    return codes[nearest] + F.embedding(nearest, codes.flip(1)) + F.one_hot(nearest, 4).to(x.dtype) @ codes


@local((5, 4), (4, 3))
def choice_of_rows(x, table):
    i = x.argmax(1)
    return table[i].sum(1) + table.index_select(0, i)[:, 0] + table[i, i % 3] + (i * 2 - 1).to(x.dtype)


@local((5, 4), (5, 4), batchable=False)
def gate_top_two(x, y):
    gates = torch.zeros_like(x).scatter(1, x.topk(2, 1).indices, 1.0)
    return (gates * y).sum(1) + y.gather(1, x.topk(2, 1).indices).sum(1)


@local((5, 4))
def one_hot_gate(x):
    return (F.one_hot(x.view(5, 4).argmax(1), 4) * torch.arange(1, 5)).sum(1).to(x.dtype) * x.sum(1)


@local((4, 5), (5,))
def ranks_and_places(x, gains):
    ranks = x.argsort(1).argsort(1)
    return (ranks.to(x.dtype) * gains).sum(1) + gains[x.argsort(1, descending=True)][:, 0]


@local((4, 5))
def spearman_like(x):
    ranks = x.argsort(1).argsort(1).to(x.dtype)
    target = torch.arange(5, dtype=x.dtype)
    return 1 - 6 * (ranks - target).square().sum(1) / 120


@local((4, 5))
def ranking_gain(x):
    order = torch.sort(x, 1, descending=True).indices
    relevance = torch.tensor([3, 0, 2, 1, 0])
    return (relevance[order] / torch.arange(2, 7).to(x.dtype).log2()).sum(1)


@local((4, 5), (4, 5))
def middle_of_the_row(x, y):
    return y.gather(1, x.median(1, keepdim=True).indices).squeeze(1) + y.take_along_dim(
        x.kthvalue(2, 1, keepdim=True).indices, 1).squeeze(1)  # fmt: skip


@local((3, 4), (4, 4))
def beam_of_two(x, step):
    scores, best = x.topk(2, 1)
    after = scores.unsqueeze(-1) + step[best]
    total, flat = after.flatten(1).topk(2, 1)
    return total.sum(1) + (flat % 4).to(x.dtype).sum(1) + step[best.gather(1, flat // 4), flat % 4].sum(1)


@local((5,), (4, 4))
def chain_of_lookups(x, table):
    i = torch.floor(x + 2).long().clamp(0, 3)
    j = torch.tensor([2, 0, 3, 1])[i]
    return table[i, j] + table[j].sum(1) + (j > i).to(x.dtype)


@local((6,), (4,))
def learned_edges(x, steps):
    edges = (steps.abs() + 0.1).cumsum(0) - 1.5
    return torch.tensor([1.0, 4.0, -2.0, 3.0, 0.0], dtype=x.dtype)[torch.searchsorted(edges, x)]


@local((4, 3))
def writes_at_choices(x):
    out = 0.5 * x
    out[torch.arange(4), x.argmax(1)] = 2.0
    counts = torch.zeros(3, dtype=torch.int64).index_add(0, x.argmin(1), torch.ones(4, dtype=torch.int64))
    return out * x + counts.to(x.dtype)


@local((6, 5))
def writes_of_masks(x):
    m = torch.zeros(6, 5, dtype=torch.bool)
    m[::2] = x[::2] > 0
    m[:, 1] |= x[:, 1] < 0.3
    m[0].logical_not_()
    y = x.clone()
    y[m] = 2.0
    return y + m.sum(0)


@local((6, 5))
def ints_in_place(x):
    n = torch.round(x * 2).int()
    n += (x > 0).int()
    n[n > 3] = 3
    n.clamp_(min=-2).mul_(2)
    return n.to(x.dtype)


# --- more about counts, ranks and places -----------------------------------------------------------------------------


@local((6, 5))
def masks_beside_bools(x):
    m = x > 0.1
    return (
        (m | False).to(x.dtype) * x + (m & True).to(x.dtype) + (m | True) * x + torch.where(m, x < 0.5, x.flip(0) > 0)
    )


@local((6, 5))
def filled_integers(x):
    n = torch.round(x).long().clamp(0, 3).masked_fill(x > 0.1, 4)
    return torch.tensor([2.0, -1.0, 5.0, 3.0, 0.5], dtype=x.dtype)[n] + torch.round(x * 2).int().masked_fill(x < 0, 7)


@local((6, 5))
def counts_and_quotients(x):
    count, level = (x > 0.1).sum(1), torch.round(x[:, 0] * 2).long()
    ratios = count.to(x.dtype) / (level.abs() + 1) + level.to(x.dtype) / (count + 1) + x[:, 1] / (count + 1)
    return ratios + count**2 + (count % 2) * 3 + torch.where(count > 1, count, -count) + torch.count_nonzero(level)


@local((6, 5))
def integers_against_floats(x):
    return (torch.round(x * 2).long() > x).to(x.dtype) + ((x > 0.1).sum(1) > x[:, 0]).to(x.dtype).mean() * x


@local((6, 5))
def nonzero_after_rounding(x):
    return torch.count_nonzero(torch.round(x), 1).to(x.dtype) + torch.count_nonzero(x > 0.2).to(x.dtype)


@local((6, 5))
def ranks_in_many_ways(x):
    ranks, gains = x.argsort(1).argsort(1), torch.tensor([2.0, -1.0, 5.0, 3.0, 0.5], dtype=x.dtype)
    numbers = (ranks + 1) * 2 * x + ranks.t().flip(0).t() * x + ranks[:, :2].sum(1, keepdim=True)
    return numbers + gains[ranks] * x + torch.where(ranks < 2, x, -x * x) + (ranks**2).to(x.dtype) + x / (ranks + 1)


@local((6, 5))
def places_asked_about(x):
    best = x.topk(2, 1).indices
    either = ((best == 1) | (best == 3)).any(1)
    each = (best.unsqueeze(-1) == torch.arange(5)).any(1)
    return (
        either[:, None].to(x.dtype)
        + each * x
        + (best == 1).any()
        + (x.argmax(1) == 2).any()
        + (best != 2).all(1)[:, None]
    )


@local((6, 5))
def places_unravelled(x):
    row, column = torch.unravel_index(x.argmax(), x.shape)
    return torch.arange(6).to(x.dtype).square()[row] + (column * 3).to(x.dtype) + x[row, column]


@local((6, 5))
def selections_written_back(x):
    m = x > 0.3
    y = x.clone()
    y[m] = x[m] * 2 + 1
    return y * x
