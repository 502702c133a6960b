"""Elementwise programs of one variable, written as plain hard PyTorch. The oracle tests run them unedited.

Each is a function of a tensor `x` (shape (n,)) and returns a float tensor of the same shape. Their pieces are
constant or affine, and for the points the tests choose at most one decision boundary lies in a window of width 2 eps.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor

Program = Callable[[Tensor], Tensor]


class Row(NamedTuple):
    """A program, and what is true of it alone."""

    program: Program
    scale: float = 1.0
    """What it multiplies its input by, before it decides."""
    constant: bool = False
    """It has the same value everywhere."""
    product: bool = False
    """Two decisions that do not know of each other are in one band: a product of two ramps has a mixed derivative."""
    ties: bool = True
    """Its boundaries are numbers that it computes exactly."""
    fine: bool = False
    """Its boundaries are closer to each other than most bands are wide."""
    single: bool = False
    """It computes in float32 whatever its operands are."""
    batchable: bool = True
    """Under vmap it runs without a region. Not so: sizes that are data, writes of batched values into plain buffers."""
    compiled: bool = True
    """Dynamo shows all of it to a torch function mode (docs/compatibility.md has what it does not)."""
    unspecified: str = ""
    """What of its local gradient is not written down."""


ROWS: dict[str, Row] = {}
PROGRAMS: dict[str, Program] = {}


def program(scale, **facts):
    def add(fn):
        programs(scale, **{fn.__name__: Row(fn, **facts)})
        return fn

    return add


def programs(scale=1.0, **rows):
    for name, row in rows.items():
        assert name not in ROWS
        row = row if isinstance(row, Row) else Row(row)
        ROWS[name] = row._replace(scale=scale)
        PROGRAMS[name] = row.program


def table(x, n=16):
    return torch.linspace(-3, 5, n, dtype=x.dtype, device=x.device) ** 2


# One op ----------------------------------------------------------------------------------------------------------
programs(
    sign=torch.sign,
    sign_method=lambda x: x.sign(),
    sgn=torch.sgn,
    round=torch.round,
    round_decimals=Row(lambda x: torch.round(x, decimals=1), fine=True),
    floor=torch.floor,
    ceil=torch.ceil,
    trunc=torch.trunc,
    fix=torch.fix,
    frac=lambda x: torch.frac(x) - x,
    heaviside=lambda x: torch.heaviside(x, x.new_tensor(0.25)),
    hardshrink=lambda x: torch.sign(F.hardshrink(x, 0.7)),
    threshold=lambda x: torch.sign(F.threshold(x, 0.3, -2.0)),
    gt=lambda x: (x > 0.3).to(x.dtype),
    ge=lambda x: (x >= 0.3).to(x.dtype),
    lt=lambda x: (x < 0.3).to(x.dtype),
    le=lambda x: (x <= -0.3).to(x.dtype),
    reflected_gt=lambda x: (0.3 > x).to(x.dtype),
    greater_equal=lambda x: torch.greater_equal(x, 0.1).to(x.dtype),
    isclose=lambda x: torch.isclose(x, torch.full_like(x, 0.5), rtol=0.0, atol=0.25).to(x.dtype),
    signbit=lambda x: torch.signbit(x).to(x.dtype),
    floor_divide=lambda x: x // 0.7,
    floor_divide_negative=lambda x: x // -0.7,
    floor_divide_function=lambda x: torch.floor_divide(x, 0.7),
    div_floor=lambda x: torch.div(x, 0.7, rounding_mode="floor"),
    div_trunc=lambda x: torch.div(x, 0.7, rounding_mode="trunc"),
    remainder=lambda x: x % 0.7 - x,
    remainder_negative=lambda x: torch.remainder(x, -0.7) - x,
    fmod=lambda x: torch.fmod(x, 0.7) - x,
    long=lambda x: x.long().to(x.dtype),
    to_int8=lambda x: x.to(torch.int8).to(x.dtype),
    type_int=lambda x: x.type(torch.int32).to(x.dtype),
    copysign=lambda x: torch.copysign(torch.full_like(x, 2.0), x),
)

# Two and more ----------------------------------------------------------------------------------------------------
programs(
    headline=lambda x: torch.round(torch.sign(x) * 10),
    sign_scale_round_clamp=lambda x: torch.clamp(torch.round(torch.sign(x) * 2.6), -2, 2).to(torch.int8).to(x.dtype),
    and_where=lambda x: torch.where((x > -0.5) & (x < 0.5), x.new_tensor(2.0), x.new_tensor(-1.0)),
    or_where=lambda x: torch.where((x > 0.5) | (x < -0.5), x.new_tensor(2.0), x.new_tensor(-1.0)),
    xor=lambda x: ((x > 0.5) ^ (x > -0.5)).to(x.dtype),
    logical=lambda x: torch.logical_and(x > -0.5, torch.logical_not(x > 0.5)).to(x.dtype),
    logical_xor=lambda x: torch.logical_xor(x > 0.5, x < 1.1).to(x.dtype),
    never=Row(lambda x: ((x > 0.2) & ~(x > 0.2)).to(x.dtype), constant=True),
    always=Row(lambda x: ((x > 0.2) | (x <= 0.2)).to(x.dtype), constant=True),
    never_flipped=Row(lambda x: ((x > 0.2) & (0.2 > x)).to(x.dtype), constant=True),
    nested_threshold=lambda x: ((x > 0).to(x.dtype) > 0.5).to(x.dtype),
    nested_twice=lambda x: (((x > 0.4).to(x.dtype) * 2 - 1 > 0).to(x.dtype) > 0.5).to(x.dtype),
    sign_then_compare=lambda x: (torch.sign(x) > 0.5).to(x.dtype) - (torch.sign(x) < -0.5).to(x.dtype),
    same_source_logic=Row(lambda x: ((torch.sign(x) > 0) & ~(torch.sign(x) > 0.5)).to(x.dtype), constant=True),
    round_table=lambda x: table(x)[torch.round(x).long() + 5],
    one_hot=Row(lambda x: F.one_hot(torch.round(x).long() + 5, 12).to(x.dtype) @ table(x, 12), batchable=False),
    one_hot_sum=Row(
        lambda x: (F.one_hot(torch.round(x).long() + 5, 12) * torch.arange(12)).sum(-1).to(x.dtype), batchable=False
    ),
    table_of_table=lambda x: table(x)[torch.tensor([3, 1, 0, 2, 7, 5, 4, 6, 9, 8, 11, 10])[torch.round(x).long() + 5]],
    two_d_table=lambda x: table(x).reshape(4, 4)[(x > 0.2).long(), torch.clamp(torch.floor(x) + 1, 0, 3).long()],
    mod_sign=lambda x: torch.sign(x % 1.0 - 0.35),
    # 1.2 % 0.8 misses 0.4 by one rounding: no tie
    mod_compare=Row(lambda x: ((x % 0.8) > 0.4).to(x.dtype), ties=False),
    shift=lambda x: (torch.round(x).int().abs() << 2).to(x.dtype),
    int_equality=lambda x: (torch.round(x).long() == 1).to(x.dtype),
    int_inequality=lambda x: (torch.floor(x).int() != 0).to(x.dtype) * 3,
    float_equality=lambda x: (torch.round(x) == 1).to(x.dtype),
    where_where=lambda x: torch.where(x > 1, 3.0, torch.where(x > 0, 2.0, torch.where(x > -1, 1.0, 0.0))).to(x.dtype),
    # two Python numbers make a float32
    where_then_round=Row(lambda x: torch.round(torch.where(x > 0.3, 2.4, -1.7).to(x.dtype)), single=True),
    where_then_long=lambda x: table(x)[torch.where(x > 0.3, x.new_tensor(7.0), x.new_tensor(2.0)).long()],
    masked_fill=lambda x: torch.sign(x).masked_fill(x > 1.2, 5.0),
    masked_fill_both=lambda x: torch.ones_like(x).masked_fill(x > 0.2, 4.0).masked_fill(x < -0.6, -3.0),
    bool_times_float=lambda x: (x > 0.3) * x.new_tensor(2.5),
    bool_plus_bool=lambda x: ((x > 0.3).int() + (x > -0.8).int()).to(x.dtype),
    bool_times_bool=lambda x: ((x > 0.3).int() * (x < 0.9).int()).to(x.dtype),
    int_minus=lambda x: (5 - torch.round(x).int()).to(x.dtype),
    minimum=lambda x: torch.minimum(torch.floor(x).int(), torch.tensor(1)).to(x.dtype),
    maximum_of_masks=lambda x: torch.maximum((x > 0.3).int(), (x < -0.3).int()).to(x.dtype),
    square_of_int=lambda x: (torch.round(x).int() ** 2).to(x.dtype),
    bool_cast=lambda x: torch.round(x).bool().to(x.dtype),
    round_exp=lambda x: torch.round(torch.exp(torch.sign(x)) * 3),
    relu_of_sign=lambda x: torch.round(F.relu(torch.sign(x)) * 3 - 0.2),
    abs_sign=lambda x: torch.round((torch.sign(x) + 2.2).abs()),
    sign_of_product=lambda x: torch.sign((x > 0.4).to(x.dtype) - 0.5),
    round_of_ceil=lambda x: torch.round(torch.ceil(x) * 0.7),
    ternary=lambda x: (x > 0.5).to(x.dtype) - (x < -0.5).to(x.dtype),
    hysteresis_free_rule=lambda x: torch.where(x > 1.0, 1.0, torch.where(x < 0.2, -1.0, 0.0)).to(x.dtype),
    any_pair=lambda x: torch.stack([x > 0.4, x < -0.4]).any(0).to(x.dtype),
    all_pair=lambda x: torch.stack([x > -0.4, x < 0.4]).all(0).to(x.dtype),
    vote=lambda x: (torch.stack([x > -0.8, x > 0.1, x > 0.9]).sum(0) >= 2).to(x.dtype),
    vote_equal=lambda x: (torch.stack([x > -0.8, x > 0.1, x > 0.9]).sum(0) == 2).to(x.dtype),
    count_mean=lambda x: torch.stack([x > -0.8, x > 0.1, x > 0.9]).sum(0) / x.new_tensor(3.0),
    count_nonzero=lambda x: torch.stack([x > -0.8, x > 0.1]).count_nonzero(0).to(x.dtype),
    prod_of_masks=lambda x: torch.stack([x > -0.8, x < 0.1]).prod(0).to(x.dtype),
    cumsum_masks=lambda x: torch.stack([x > -0.8, x > 0.1, x > 0.9]).cumsum(0)[1].to(x.dtype),
)


# Scaled inputs --------------------------------------------------------------------------------------------------
programs(
    37.0,
    round_negative_decimals=lambda x: torch.round(x * 37, decimals=-1),
)
programs(
    4.0,
    quantize_int8=lambda x: torch.clamp(torch.round(x / 0.25), -8, 7).to(torch.int8).to(x.dtype) * 0.25,
)
programs(
    1 / 0.3,
    quantize_zero_point=lambda x: (torch.clamp(torch.round(x / 0.3) + 3, 0, 7).to(torch.uint8).to(x.dtype) - 3) * 0.3,
)
programs(
    3.0,
    dequantize_by_type_as=lambda x: torch.round(x * 3).int().type_as(x) / 3,
    cast_table=lambda x: table(x)[(x * 3).int() + 8],
    floor_div_int=lambda x: (torch.floor(x * 3).long() // 2).to(x.dtype),
    int_clamp=lambda x: torch.clamp(torch.round(x * 3).int(), min=-2, max=3).to(x.dtype),
)
programs(
    2.0,
    floor_long_table=lambda x: table(x)[torch.floor(x * 2).long() + 8],
    index_select=lambda x: torch.index_select(table(x), 0, torch.floor(x * 2).long() + 8),
    gather=lambda x: table(x).gather(0, torch.round(x * 2).long() + 8),
    take=lambda x: torch.take(table(x), torch.round(x * 2).long() + 8),
    take_along_dim=lambda x: torch.take_along_dim(table(x), torch.round(x * 2).long() + 8, 0),
    embedding=lambda x: F.embedding(torch.round(x * 2).long() + 8, table(x)[:, None])[..., 0],
    floor_mod_int=lambda x: (torch.floor(x * 2).long() % 3).to(x.dtype),
    parity=lambda x: (torch.floor(x * 2).long() & 1).to(x.dtype),
    int_compare=lambda x: (torch.round(x * 2).long() >= 1).to(x.dtype),
    true_divide=lambda x: torch.round(x * 2).int() / x.new_tensor(4.0),
    trunc_of_floor=lambda x: torch.trunc(torch.floor(x * 2) / 3),
)


@program(1.0)
def in_place_chain(x):
    y = x.clone()
    y.sign_().mul_(10).round_()
    return y


@program(1.0)
def in_place_logic(x):
    m = x > -0.5
    m &= x < 0.5
    m.logical_not_()
    return m.to(x.dtype)


@program(1.0, batchable=False)
def write_at_mask(x):
    y = torch.full_like(x, 2.0)
    y[x > 0.3] = -1.0
    y[x < -0.9] = 4.0
    return y


@program(1.0, batchable=False)
def write_masks_into_buffer(x):
    votes = torch.zeros(3, x.numel(), dtype=torch.bool)
    votes[0] = x > 0.3
    votes[2] = x < -0.3
    return votes.sum(0).to(x.dtype)


@program(1.0, batchable=False)
def out_argument(x):
    mask = torch.empty(x.shape, dtype=torch.bool)
    torch.gt(x, 0.3, out=mask)
    return mask.to(x.dtype)


@program(1.0)
def shape_round_trip(x):
    m = (x > 0.3).reshape(-1, 1).expand(-1, 2).t().flip(1).roll(1, 1).roll(-1, 1).flip(1)
    return torch.cat([m[:1], ~m[1:]]).to(x.dtype)[0]


@program(1.0)
def split_stack(x):
    a, b = (x > 0.3).unsqueeze(0).repeat(4, 1).chunk(2)
    return (torch.stack([a[0], ~b[1]]).unbind(0)[1] ^ (x > 9)).to(x.dtype)


@program(2.0)
def permuted_ints(x):
    q = torch.round(x * 2).int().view(1, -1, 1).permute(2, 0, 1).contiguous().squeeze()
    return q.reshape(x.shape).to(x.dtype) / 2


@program(1.0, compiled=False)
def padded(x):
    return F.pad((x > 0.3).int(), (1, 1), value=1)[1:-1].to(x.dtype)


@program(1.0, constant=True, unspecified="what a mask shifts in a source is not written down")
def masked_scatter_one(x):
    return (
        torch.zeros_like(x)
        .unsqueeze(1)
        .expand(-1, 1)
        .masked_scatter((x > 5).unsqueeze(1), x.new_ones(x.numel()))
        .squeeze(1)
    )


@program(1.0)
def rule_system(x):
    warm, hot = x > 0.3, x > 1.1
    level = torch.where(hot, 2, torch.where(warm, 1, 0))
    return table(x)[level * 3 + 1] * (level != 1)


@program(4.0)
def fizz(x):
    n = torch.floor(x * 4).long()
    return torch.where(n % 3 == 0, 1.0, torch.where(n % 2 == 0, 0.5, 0.0)).to(x.dtype)


@program(1.0)
def digitize(x):
    edges = torch.tensor([-1.3, -0.2, 0.45, 1.7], dtype=x.dtype)
    return (x[:, None] > edges).sum(1).to(x.dtype)


@program(1.0)
def rounding_up_half(x):
    return torch.floor(x + 0.5) + torch.where(torch.frac(x.abs()) > 0.25, 1, 0)


# Choice and order: x among fixed numbers ----------------------------------------------------------------------------
def pool(x):
    others = torch.tensor([-1.3, -0.2, 0.45, 1.7], dtype=x.dtype, device=x.device)
    return torch.cat([x[:, None], others.expand(x.numel(), 4)], 1)


def labels(x):
    return torch.tensor([2.0, -1.0, 0.5, 7.0, 4.0], dtype=x.dtype, device=x.device)


def rows(x):
    return torch.arange(x.numel(), device=x.device)


programs(
    argmax=lambda x: pool(x).argmax(-1).to(x.dtype),
    argmax_keepdim=lambda x: pool(x).argmax(1, keepdim=True).squeeze(1).to(x.dtype),
    argmax_table=lambda x: labels(x)[pool(x).argmax(-1)],
    argmin_table=lambda x: labels(x)[torch.argmin(pool(x), dim=1)],
    max_indices=lambda x: labels(x)[pool(x).max(dim=1).indices],
    min_indices=lambda x: labels(x)[torch.min(pool(x), 1, keepdim=True)[1]].squeeze(1),
    argmax_equal=lambda x: (pool(x).argmax(-1) == 0).to(x.dtype),
    argmax_not_equal=lambda x: (pool(x).argmax(-1) != 4).to(x.dtype),
    argmax_less=lambda x: (pool(x).argmin(-1) < 1).to(x.dtype),
    argmax_one_hot=Row(lambda x: F.one_hot(pool(x).argmax(-1), 5).to(x.dtype) @ labels(x), batchable=False),
    argmax_gather=lambda x: labels(x).expand(x.numel(), 5).gather(1, pool(x).argmax(1, keepdim=True)).squeeze(1),
    argmax_take_along_dim=lambda x: torch.take_along_dim(
        labels(x).expand(x.numel(), 5), pool(x).argmax(1, keepdim=True), 1
    ).squeeze(1),
    argmax_index_select=lambda x: labels(x).index_select(0, pool(x).argmax(1)),
    argmax_take=lambda x: labels(x).take(pool(x).argmin(1)),
    argmax_embedding=lambda x: F.embedding(pool(x).argmin(1), labels(x)[:, None] * labels(x)).sum(1),
    argmax_rows=lambda x: labels(x).expand(x.numel(), 5)[rows(x), pool(x).argmax(1)],
    argmax_arithmetic=lambda x: ((pool(x).argmax(1) * 3 + 1) % 7 - 2).abs().to(x.dtype),
    argmax_where=lambda x: torch.where(pool(x).argmax(1) > 2, 2.0, -1.0).to(x.dtype),
    argmax_masked_fill=lambda x: torch.ones_like(x).masked_fill(pool(x).argmin(1) == 1, 3.0),
    argmax_where_index=lambda x: labels(x)[torch.where(x > 0.1, pool(x).argmax(1), pool(x).argmin(1))],
    argmax_of_argmax=lambda x: labels(x)[labels(x).argsort()[pool(x).argmax(1)]],
    argmax_twice=Row(
        lambda x: ((pool(x).argmax(1) == 0) & (pool(x).argmax(1) == 4)).to(x.dtype), constant=True, product=True
    ),
    argmax_either=Row(
        lambda x: ((pool(x).argmax(1) == 0) | (pool(x).argmax(1) == 4)).to(x.dtype), constant=True, product=True
    ),
    argmax_and_mask=lambda x: ((pool(x).argmax(1) == 0) & (x < 2.2)).to(x.dtype),
    argmax_plus_argmin=lambda x: (pool(x).argmax(1) * 10 + pool(x).argmin(1)).to(x.dtype),
    argmax_minus_round=lambda x: (pool(x).argmax(1) - torch.round(x).long()).to(x.dtype),
    argmax_float_compare=lambda x: (pool(x).argmax(1).to(x.dtype) * 2 - 1 > 2.5).to(x.dtype),
    argmax_float_round=lambda x: torch.round(labels(x)[pool(x).argmax(1)] * 0.7),
    argmax_stack=lambda x: torch.stack([pool(x).argmax(1), pool(x).argmin(1)], 1)[:, 0].to(x.dtype),
    argmax_cat=lambda x: labels(x)[torch.cat([pool(x).argmax(1), pool(x).argmin(1)])[: x.numel()]],
    argmax_shape=lambda x: labels(x)[pool(x).argmax(1).reshape(-1, 1).expand(-1, 2).t().flip(0)[1]],
    argmax_select=lambda x: labels(x)[pool(x).argmax(1)[rows(x).flip(0)].flip(0)],
    argmax_votes=lambda x: (torch.stack([pool(x).argmax(1), pool(x).argmin(1)]) == 0).sum(0).to(x.dtype),
    sort_places=lambda x: (pool(x).sort(1).indices == 0).to(x.dtype) @ labels(x),
    sort_lookup=lambda x: labels(x)[pool(x).sort(1).indices] @ (labels(x) ** 2),
    sort_gather=lambda x: labels(x).expand(x.numel(), 5).gather(1, pool(x).argsort(1, descending=True))[:, 1],
    sort_stable=lambda x: labels(x)[torch.sort(pool(x), dim=1, stable=True)[1]][:, 2],
    sort_transposed=lambda x: labels(x)[pool(x).t().argsort(0)][3],
    sort_cumsum=lambda x: labels(x)[pool(x).argsort(1)].cumsum(1)[:, 1],
    rank=lambda x: pool(x).argsort(1).argsort(1)[:, 0].to(x.dtype),
    rank_table=lambda x: (
        labels(x)[pool(x).argsort(-1).argsort(-1)].sum(1) + labels(x)[pool(x).argsort(-1).argsort(-1)][:, 0]
    ),
    rank_compare=lambda x: (pool(x).argsort(1).argsort(1) < 2).to(x.dtype) @ labels(x),
    topk_lookup=lambda x: labels(x)[pool(x).topk(3, 1).indices].sum(1),
    topk_smallest=lambda x: labels(x)[pool(x).topk(2, 1, largest=False)[1]] @ labels(x)[:2],
    topk_unsorted=lambda x: labels(x)[torch.topk(pool(x), 2, dim=1, sorted=False).indices].sum(1),
    topk_mask=lambda x: (
        torch.zeros(x.numel(), 5, dtype=x.dtype).scatter(1, pool(x).topk(2, 1).indices, 1.0) @ labels(x)
    ),
    topk_contains=lambda x: (pool(x).topk(3, 1).indices == 0).any(1).to(x.dtype),
    topk_lacks=lambda x: (pool(x).topk(3, 1).indices != 0).all(1).to(x.dtype),
    topk_one_hot=Row(
        lambda x: F.one_hot(pool(x).topk(3, 1).indices, 5).sum(1).to(x.dtype) @ labels(x), batchable=False
    ),
    kthvalue=lambda x: labels(x)[pool(x).kthvalue(2, 1).indices],
    median=lambda x: labels(x)[pool(x).median(1).indices],
    nanmedian=lambda x: labels(x)[pool(x).nanmedian(1, keepdim=True).indices.squeeze(1)],
    scatter=lambda x: torch.zeros(x.numel(), 5, dtype=x.dtype).scatter(1, pool(x).argmax(1, True), 2.0) @ labels(x),
    scatter_source=lambda x: torch.ones(x.numel(), 5, dtype=x.dtype).scatter(
        1, pool(x).argsort(1), labels(x).expand(x.numel(), 5)
    )[:, 0],
    scatter_add=lambda x: torch.zeros(x.numel(), 5, dtype=x.dtype).scatter_add(
        1, pool(x).argsort(1), labels(x).expand(x.numel(), 5)
    )[:, 0],
    searchsorted=lambda x: torch.searchsorted(pool(x)[0, 1:].contiguous(), x).to(x.dtype),
    searchsorted_right=lambda x: labels(x)[torch.searchsorted(pool(x)[0, 1:].contiguous(), x, right=True)],
    bucketize=lambda x: labels(x)[torch.bucketize(x, pool(x)[0, 1:].contiguous())],
    bucketize_int32=lambda x: (torch.bucketize(x, pool(x)[0, 1:].contiguous(), out_int32=True) == 2).to(x.dtype),
    bucketize_discrete=lambda x: torch.bucketize(torch.round(x).long(), torch.tensor([-1, 1])).to(x.dtype),
)


@program(1.0, batchable=False)
def scatter_in_place(x):
    mask = torch.zeros(x.numel(), 5, dtype=torch.bool)
    mask.scatter_(1, pool(x).topk(2, 1).indices, True)
    return torch.where(mask, labels(x), 0.0).sum(1)


@program(1.0, batchable=False)
def write_at_argmax(x):
    y = torch.zeros(x.numel(), 5, dtype=x.dtype)
    y[rows(x), pool(x).argmax(1)] = 3.0
    return y @ labels(x)


@program(1.0, batchable=False)
def count_at_argmax(x):
    y = torch.zeros(x.numel(), 5, dtype=torch.int32)
    y[rows(x), pool(x).argmin(1)] = 3
    y.index_put_((rows(x), pool(x).argmax(1)), torch.ones(x.numel(), dtype=torch.int32), accumulate=True)
    return y.to(x.dtype) @ labels(x)


@program(1.0)
def rank_by_scatter(x):
    order = pool(x).argsort(1)
    rank = torch.empty_like(order)
    rank.scatter_(1, order, torch.arange(5).expand(x.numel(), 5))
    return labels(x)[rank][:, 0] + rank[:, 2]


@program(1.0, batchable=False)
def selection_sum(x):
    """Per row: what a mask selects, reduced straight away."""
    p = pool(x)
    return torch.stack([labels(x)[row > 0.1].sum() for row in p])


@program(1.0)
def histogram(x):
    return torch.stack([torch.histc(v, 4, -2.0, 2.4) for v in x]) @ labels(x)[:4]


@program(
    1.0,
    batchable=False,
    compiled=False,
    unspecified="how a selection of a certain number shares is not written down",
)
def first_in_ranking(x):
    """Position of the first of two relevant ones in the ranking, by nonzero."""
    relevant = torch.tensor([True, False, True, False, False])[pool(x).argsort(1, descending=True)]
    return torch.stack([row.nonzero()[0, 0] for row in relevant]).to(x.dtype)
