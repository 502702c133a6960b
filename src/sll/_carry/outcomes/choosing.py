"""Sources that choose: argmax, argmin, max, min. Values keep torch's own gradient; *indices* carry a `Choice` of
positions, with the weights of `sll.order`. And what all functions that choose positions have in common.
"""

from __future__ import annotations

import functools
from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor

from ..._ops.dtypes import compute_dtype
from ..._ops.env import tracked
from ..._ops.order import capped_simplex, most_neighbours, traced
from ..._ops.samples import lead, leads
from ..._ops.surrogates import alias
from ..._rules.index import op_name
from ..._rules.widths import Width, in_units, watched
from ..found import best_value, mark
from ..interface import Region, Rule, attach, version_of
from ..rules import Call, spelled
from .carriers import Chain, Choice, discrete_carrier
from .elementwise import elementwise
from .later import as_now
from .trees import original


def chooses(op: str, *, of_integers: Any = None) -> Callable[[Callable[..., Any]], Rule]:
    """The rule of the functions with this op, which choose positions along one dimension of their first operand.

    The decorated function is called as ``rule(region, call, …)``, see `spelled`, when its first operand is a float that
    autograd follows; otherwise the original runs. A discrete operand that carries something is lost, unless
    `of_integers` knows what becomes of it.
    """

    def decorate(rule: Callable[..., Any]) -> Rule:
        @spelled
        @functools.wraps(rule)
        def handler(region: Region, call: Call, input: Tensor, *args: Any, **kwargs: Any) -> Any:
            if discrete_carrier(input):
                found = None if of_integers is None else of_integers(region, call, input, *args, **kwargs)
                if found is not None:
                    return found
                region.lose(op_name(call.func), [input], _DISCRETE)
            if not tracked(input) or not region.linearizes(op):
                return call()
            return rule(region, call, input, *args, **kwargs)

        return handler

    return decorate


_DISCRETE = (
    "of integers, which is largest, or equal to others, has no derivative here. Choose among the scores, or use "
    'forward="hard".'
)


def chosen(x: Tensor, hard: Tensor, weigh: Callable[[Tensor, Tensor], Choice]) -> Choice | Chain:
    """What the positions `hard`, chosen in `x`, carry: what ``weigh(x, hard)`` works out when somebody asks. (Most
    indices are never asked for.)
    """
    if traced(x):
        return weigh(x, hard)
    now = as_now(x), alias(hard)

    def make() -> Choice:
        with torch.enable_grad(), torch._C.DisableTorchFunction():  # outside the rules, whoever asks
            return weigh(*now)

    return Chain(make)


def _with_indices(region: Region, out: Any, found: Choice | Chain) -> Any:
    """`out`, a ``torch.return_types``, with what its indices carry."""
    attach(region, out.indices, found)
    return out


def _scores(x: Tensor, dim: int, largest: bool) -> Tensor:
    """``± x`` in the dtype of distances, the dimension last. NaN is the largest number, as in `torch.sort`."""
    rows = (x.reshape(1) if x.dim() == 0 else x.movedim(dim, -1)).to(compute_dtype(x.dtype))
    rows = torch.where(rows.isnan(), float("inf"), rows)
    return rows if largest else -rows


# --- one position ------------------------------------------------------------------------------------------------


def _best(region: Region, x: Tensor, hard: Tensor, dim: int | None, keepdim: bool, op: str) -> Choice | Chain | None:
    """`hard` is the position of the largest (op "argmax") or smallest entry: sparsemax weights."""
    n = x.numel() if dim is None or x.dim() == 0 else x.shape[dim]
    if n < 2:
        return None
    eps = region.eps_for(op)
    key = ("choice", op, x, version_of(x), None if dim is None else dim % x.dim(), eps, keepdim)
    largest = op == "argmax"
    return chosen(x, hard, lambda x, hard: _weigh_best(key, x, hard, dim, largest, eps))


CONTENDERS = 32
"""How many entries may share a choice whose number is not known while tracing: a lookup costs that many rows of its
table."""


def _weigh_best(
    key: tuple[Any, ...], x: Tensor, hard: Tensor, dim: int | None, largest: bool, width: float | Width
) -> Choice:
    rows = x.reshape(-1) if dim is None else x.movedim(dim, -1)
    z, eps = in_units(_scores(rows, -1, largest), width, leads, lead)
    n = z.shape[-1]
    scores = z.detach()
    best = scores.amax(-1, keepdim=True)
    if traced(z):
        many = min(n, CONTENDERS)
    else:
        most = int((best - scores < eps).sum(-1).max()) if scores.numel() else 1
        many = min(n, max(2, min(most, 2 * most_neighbours(z[..., 0]))))
    index = scores.topk(many, -1).indices
    place = hard.reshape(z.shape[:-1]).unsqueeze(-1)
    if many < n:  # of more equal entries than are looked at, torch may take another
        last = torch.where((index == place).any(-1, keepdim=True), index[..., -1:], place)
        index = torch.cat([index[..., :-1], last], -1)
    finite = best.isfinite() & ~rows.isnan().any(-1, keepdim=True)
    apart = torch.arange(0, -many, -1, device=z.device) * (2 * eps)
    top = torch.where(finite, z.gather(-1, index), apart.to(z.dtype))
    weights = watched(width, capped_simplex(top, 1, eps))
    # Without a finite best there is no distance: the hard position, decided.
    values = torch.where(finite, index, place)
    ties = top.detach()[..., 0] == top.detach()[..., 1]
    shape = (*hard.shape, many)
    return Choice(key, values.reshape(shape), weights.reshape(shape), ties.reshape(*hard.shape, 1))


def _position(op: str) -> Rule:
    @chooses(op)
    def rule(region: Region, call: Call, input: Tensor, dim: int | None = None, keepdim: bool = False) -> Any:
        hard = original(call)
        return attach(region, hard, _best(region, input, hard, dim, keepdim, op))

    return rule


argmax, argmin = _position("argmax"), _position("argmin")


@spelled
def extremum(region: Region, call: Call, x: Tensor, dim: Any = None, keepdim: bool = False, **other: Any) -> Any:
    """``torch.max(a, b)`` is `maximum`; ``max(a, dim)`` has values and indices; ``max(a)`` is continuous."""
    func, args, kwargs = call.func, call.args, call.keywords
    if isinstance(dim, Tensor) or other:
        return elementwise(region, func, args, kwargs)
    if discrete_carrier(x) and dim is None:
        return region.call(torch.amax if op_name(func) == "max" else torch.amin, x)
    if discrete_carrier(x):
        region.lose(op_name(func), [x], _DISCRETE)
    op = "arg" + op_name(func)
    if not tracked(x) or not region.linearizes(op):
        return func(*args, **kwargs)
    if dim is None:
        return best_value(region, func, args, kwargs)
    out = func(*args, **kwargs)
    found = _best(region, x, out.indices, dim, keepdim, op)
    out = out if found is None else _with_indices(region, out, found)
    return mark(region, out, x, dim, op == "argmax", 0)
