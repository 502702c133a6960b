"""Elementwise programs of one variable, written as plain hard PyTorch. The oracle tests run them unedited.

Each is a function of a tensor `x` (shape (n,)) and returns a float tensor of the same shape. Their pieces are
constant or affine, and for the points the tests choose at most one decision boundary lies in a window of width 2 eps.
"""

from __future__ import annotations

import torch
import torch.nn.functional as F

PROGRAMS = {}
SCALE = {}


def program(scale):
    def add(fn):
        programs(scale, **{fn.__name__: fn})
        return fn

    return add


def programs(scale=1.0, **fns):
    for name, fn in fns.items():
        assert name not in PROGRAMS
        PROGRAMS[name] = fn
        SCALE[name] = scale


def table(x, n=16):
    return torch.linspace(-3, 5, n, dtype=x.dtype, device=x.device) ** 2


# One op ----------------------------------------------------------------------------------------------------------
programs(
    sign=torch.sign,
    sign_method=lambda x: x.sign(),
    sgn=torch.sgn,
    round=torch.round,
    round_decimals=lambda x: torch.round(x, decimals=1),
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
    never=lambda x: ((x > 0.2) & ~(x > 0.2)).to(x.dtype),
    always=lambda x: ((x > 0.2) | (x <= 0.2)).to(x.dtype),
    never_flipped=lambda x: ((x > 0.2) & (0.2 > x)).to(x.dtype),
    nested_threshold=lambda x: ((x > 0).to(x.dtype) > 0.5).to(x.dtype),
    nested_twice=lambda x: (((x > 0.4).to(x.dtype) * 2 - 1 > 0).to(x.dtype) > 0.5).to(x.dtype),
    sign_then_compare=lambda x: (torch.sign(x) > 0.5).to(x.dtype) - (torch.sign(x) < -0.5).to(x.dtype),
    same_source_logic=lambda x: ((torch.sign(x) > 0) & ~(torch.sign(x) > 0.5)).to(x.dtype),
    round_table=lambda x: table(x)[torch.round(x).long() + 5],
    one_hot=lambda x: F.one_hot(torch.round(x).long() + 5, 12).to(x.dtype) @ table(x, 12),
    one_hot_sum=lambda x: (F.one_hot(torch.round(x).long() + 5, 12) * torch.arange(12)).sum(-1).to(x.dtype),
    table_of_table=lambda x: table(x)[torch.tensor([3, 1, 0, 2, 7, 5, 4, 6, 9, 8, 11, 10])[torch.round(x).long() + 5]],
    two_d_table=lambda x: table(x).reshape(4, 4)[(x > 0.2).long(), torch.clamp(torch.floor(x) + 1, 0, 3).long()],
    mod_sign=lambda x: torch.sign(x % 1.0 - 0.35),
    mod_compare=lambda x: ((x % 0.8) > 0.4).to(x.dtype),
    shift=lambda x: (torch.round(x).int().abs() << 2).to(x.dtype),
    int_equality=lambda x: (torch.round(x).long() == 1).to(x.dtype),
    int_inequality=lambda x: (torch.floor(x).int() != 0).to(x.dtype) * 3,
    float_equality=lambda x: (torch.round(x) == 1).to(x.dtype),
    where_where=lambda x: torch.where(x > 1, 3.0, torch.where(x > 0, 2.0, torch.where(x > -1, 1.0, 0.0))).to(x.dtype),
    where_then_round=lambda x: torch.round(torch.where(x > 0.3, 2.4, -1.7).to(x.dtype)),
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


@program(1.0)
def write_at_mask(x):
    y = torch.full_like(x, 2.0)
    y[x > 0.3] = -1.0
    y[x < -0.9] = 4.0
    return y


@program(1.0)
def write_masks_into_buffer(x):
    votes = torch.zeros(3, x.numel(), dtype=torch.bool)
    votes[0] = x > 0.3
    votes[2] = x < -0.3
    return votes.sum(0).to(x.dtype)


@program(1.0)
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


@program(1.0)
def padded(x):
    return F.pad((x > 0.3).int(), (1, 1), value=1)[1:-1].to(x.dtype)


@program(1.0)
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
