"""What the oracle *local* keeps beside each element, and small things that its rules share."""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor

NAN = float("nan")


def discrete(x: Any) -> bool:
    return isinstance(x, Tensor) and not x.is_floating_point() and not x.is_complex()


def tracked(x: Any) -> bool:
    return isinstance(x, Tensor) and x.is_floating_point() and x.requires_grad


# --- what an element carries -----------------------------------------------------------------------------------------


@dataclass
class Shadow:
    """Beside each element of a bool or integer tensor (or of a float that an op rounded, which has `alt` only).

    `s` has the value 0 and the gradient of the element; `alt` is its other value, NaN if it is not known. `r` is what
    only functions that are linear pass on (a rank is another function as a number than as an index). `o` numbers the
    choice that the element is a place of, NaN if there is none. A choice has candidates `c` with weights `w` (value 0,
    gradient of the weight) in one more dimension; so has a number that several decisions make: what it is with one of
    them the other way. `u` is 1 where each decision changes the number by one at most. Such a count is decided
    about between the integers next to it; what it is with one decision the other way is in `t`, the weight of that in
    `v`.
    """

    s: Tensor
    alt: Tensor
    r: Tensor
    o: Tensor
    c: Tensor
    w: Tensor
    u: Tensor
    t: Tensor
    v: Tensor

    def map(self, f: Callable[[Tensor], Tensor]) -> Shadow:
        """`f` on each part."""
        return Shadow(*(f(getattr(self, name)) for name in PARTS))

    def total(self, hard: Tensor) -> Tensor:
        """The gradient of the value."""
        return self.s + self.r + ((self.c - hard.detach().double().unsqueeze(-1)) * self.w).sum(-1)

    def flips(self, hard: Tensor) -> tuple[Tensor, Tensor]:
        """What the element is with one decision the other way, and the weights of that."""
        n = hard.detach().double()
        known = ~self.alt.isnan() & (self.alt != n)
        alt = torch.where(known, self.alt, n)
        one = torch.where(known, self.s, 0.0) / nonzero(alt - n)
        return torch.cat([self.c, self.t, alt.unsqueeze(-1)], -1), torch.cat([self.w, self.v, one.unsqueeze(-1)], -1)


def alike(*infos: Shadow) -> list[Shadow]:
    """With as many candidates each."""
    c, t = (max(getattr(info, name).shape[-1] for info in infos) for name in "ct")
    width = {"c": c, "w": c, "t": t, "v": t}
    return [
        Shadow(*(pad(getattr(info, n), width[n]) if n in width else getattr(info, n) for n in PARTS)) for info in infos
    ]


PARTS = ("s", "alt", "r", "o", "c", "w", "u", "t", "v")
ROWS = "cwtv"


def shadow(
    like: Tensor, s: Any = 0.0, alt: Any = NAN, c: Tensor | None = None, w: Tensor | None = None, r: Any = 0.0,
    o: Any = NAN, u: Any = 1.0, t: Tensor | None = None, v: Tensor | None = None,
) -> Shadow:  # fmt: skip
    def full(x: Any) -> Tensor:
        return x.expand(like.shape) if isinstance(x, Tensor) else torch.full(like.shape, x, dtype=torch.float64)

    if like.dtype == torch.bool:
        alt = 1 - like.double()
    none = torch.zeros(*like.shape, 0, dtype=torch.float64)
    return Shadow(full(s), full(alt), full(r), full(o), *(none if x is None else x for x in (c, w)), full(u),
                  *(none if x is None else x for x in (t, v)))  # fmt: skip


def centred(x: Tensor) -> Tensor:
    """Value 0, gradient of `x`."""
    return x - x.detach()


class _Attach(torch.autograd.Function):
    """A float as it is, with one more gradient."""

    @staticmethod
    def forward(ctx: Any, hard: Tensor, more: Tensor) -> Tensor:
        return hard.clone()

    @staticmethod
    def backward(ctx: Any, g: Tensor) -> Any:
        return g, g.double()


def with_gradient(hard: Tensor, more: Tensor) -> Tensor:
    return _Attach.apply(hard, more) if more.requires_grad else hard


# --- small things ----------------------------------------------------------------------------------------------------


def flat_tensors(x: Any) -> Any:
    if isinstance(x, Tensor):
        yield x
    elif isinstance(x, (list, tuple)):
        for each in x:
            yield from flat_tensors(each)
    elif isinstance(x, dict):
        yield from flat_tensors(list(x.values()))


def replaced(x: Any, f: Callable[[Any], Any]) -> Any:
    if isinstance(x, dict):
        return {key: replaced(value, f) for key, value in x.items()}
    if isinstance(x, (list, tuple)) and not isinstance(x, torch.Size):
        return type(x)([replaced(each, f) for each in x])
    return f(x)


def value_at(func: Any, args: Any, kwargs: Any, other: dict[int, Tensor]) -> Tensor:
    """`func` in float64, with other values for some operands."""

    def swap(x: Any) -> Any:
        if not isinstance(x, Tensor):
            return x
        if id(x) in other:
            return other[id(x)].to(torch.bool if x.dtype == torch.bool else torch.int64 if discrete(x) else x.dtype)
        return x.detach().double() if x.is_floating_point() else x

    with torch.no_grad():
        return func(*replaced(args, swap), **replaced(kwargs, swap)).double()


def slope_at(func: Any, args: Any, kwargs: Any, x: Tensor, shape: Any) -> Tensor:
    """The derivative of an elementwise `func` of floats by the operand `x`, at the values that the program has."""
    with torch.enable_grad():
        at = x.detach().double().expand(shape).clone().requires_grad_()

        def swap(y: Any) -> Any:
            return at if y is x else y.detach().double() if isinstance(y, Tensor) and y.is_floating_point() else y

        out = func(*replaced(args, swap), **replaced(kwargs, swap))
        found = torch.autograd.grad(out.sum(), at, allow_unused=True)[0] if out.requires_grad else None
    return torch.zeros(shape, dtype=torch.float64) if found is None else found


def finite(x: Tensor) -> Tensor:
    return torch.where(x.isfinite(), x, 0.0)


def nonzero(x: Tensor) -> Tensor:
    """For a difference that divides: what has none counts for nothing."""
    return torch.where((x == 0) | x.isnan(), math.inf, x)


def pad(x: Tensor, width: int) -> Tensor:
    return F.pad(x, (0, width - x.shape[-1]))


def stacked(parts: list[Tensor], like: Tensor) -> Tensor:
    return torch.stack(parts, -1) if parts else torch.zeros(*like.shape, 0, dtype=torch.float64)


def as_tensor(value: Any, like: Tensor) -> Tensor:
    return value if isinstance(value, Tensor) else torch.tensor(value, dtype=like.dtype)


def named(args: Any, kwargs: Any, *names: str) -> dict[str, Any]:
    """The arguments of a call by name."""
    return {**dict(zip(names, args)), **kwargs}
