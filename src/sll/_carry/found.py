"""Values that a sort, a topk, a maximum or a median found: they remember which place of which row each stands at.

Which of two values of a row is larger is then known, and comparing them is no decision. Comparing the tensor with one
of its values, ``x >= x.topk(k).values[..., -1:]``, asks which elements are among the first so many.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, replace
from typing import Any

import torch
from torch import Tensor

from .._ops.env import tracked
from .._ops.order import traced
from .._rules.index import op_name
from .interface import Carried, Region, attach, held, unchanged, version_of
from .rules import Call, spelled


@dataclass(eq=False)
class Sorted(Carried):
    """What such values carry. It is not a linearization, and `carrier` skips it.

    `dim`: the sorted dimension of `source`, None if that was flattened. `places`: numbers of the places in all rows,
    `n` each, where the largest (or smallest) stands first.
    """

    source: Tensor
    version: int
    dim: int | None
    largest: bool
    places: Callable[[], Tensor]

    @property
    def n(self) -> int:
        return self.source.numel() if self.dim is None else self.source.shape[self.dim]

    def moved(self, places: Callable[[], Tensor]) -> Sorted:
        return replace(self, places=places)

    def found_in(self, x: Any) -> bool:
        """Whether `x` is the source, or another differentiable view of the same numbers."""
        a, b = x, self.source
        if not isinstance(a, Tensor) or not unchanged(a, self.version) or not unchanged(b, self.version):
            return False
        return _same_numbers(a, b, self.dim is None or b.dim() == 1)

    def by_row(self, full: Tensor) -> Tensor:
        """A tensor of the shape of the source, one row of the sorted dimension after the other."""
        if self.dim is None or self.source.dim() == 1:
            return full.reshape(1, -1)
        return full.movedim(self.dim, -1).reshape(-1, self.n)


def _same_numbers(a: Tensor, b: Tensor, in_any_shape: bool) -> bool:
    if a is b:
        return True
    if torch._C._functorch.is_functorch_wrapped_tensor(a) or a.layout != torch.strided or a.device.type == "meta":
        return False
    related = a._base is b or b._base is a or a._base is not None and a._base is b._base
    if not related or a.requires_grad != b.requires_grad or a._base is not None and a.grad_fn is None:
        return False
    if a.data_ptr() != b.data_ptr() or a.dtype != b.dtype:
        return False
    if in_any_shape:
        return a.numel() == b.numel() and a.is_contiguous() and b.is_contiguous()
    return a.shape == b.shape and a.stride() == b.stride()


def sorted_places(x: Any) -> Sorted | None:
    return held(x, Sorted)


def mark(
    region: Region, out: Any, x: Tensor, dim: int | None, largest: bool, place: Any = None, in_order: bool = True
) -> Any:
    """`out` (or its values) are found in `x`: all of a row, the first few (`in_order` or not), or the one at `place`,
    a number or one for each row.
    """
    values: Tensor = out if isinstance(out, Tensor) else out.values
    if held(values, Carried) is not None or x.numel() == 0:
        return out

    def places() -> Tensor:
        if dim is None or x.dim() == 0:
            return torch.zeros(values.shape, dtype=torch.int64, device=x.device) + (place or 0)
        rows = torch.arange(x.numel(), device=x.device).reshape(-1, x.shape[dim])
        if place is not None:
            return (rows[:, 0] + torch.as_tensor(place, device=x.device).reshape(-1)).reshape(values.shape)
        last = values.movedim(dim, -1)
        found = rows[:, : last.shape[-1]].reshape(last.shape)
        if not in_order:
            found = found.gather(-1, last.detach().argsort(dim=-1, descending=largest).argsort(-1))
        return found.movedim(-1, dim)

    attach(region, values, Sorted(x, version_of(x), None if x.dim() == 0 else dim, largest, places))
    return out


def middle(name: str, x: Tensor, dim: int | None) -> Any:
    """The place of the `median` (NaN, if there is one) or `nanmedian` of each row, in ascending order."""
    many = x.numel() if dim is None or not x.dim() else x.shape[dim]
    if name == "median" and traced(x):
        return (many - 1) // 2  # under vmap nobody can look for NaN
    nan = x.detach().isnan()
    valid = many - (nan.sum() if dim is None or not x.dim() else nan.movedim(dim, -1).sum(-1))
    place = ((valid - 1) // 2).clamp(min=0)
    return torch.where(valid < many, many - 1, place) if name == "median" else place


@spelled
def best_value(region: Region, call: Call, x: Tensor, dim: Any = None, keepdim: bool = False) -> Any:
    """``amax``, ``amin``, and `max` and `min` of all: continuous. The value is remembered as the first in order."""
    out, largest = call(), op_name(call.func)[-3:] == "max"
    if isinstance(dim, (tuple, list)):
        if 1 < len(dim) < x.dim():
            return out
        dim = dim[0] if len(dim) == 1 else None
    if not tracked(x):
        return out
    known = sorted_places(x)
    if known is None or x.dim() != 1:
        return mark(region, out, x, None if x.dim() == 1 and out.dim() == 0 else dim, largest, 0)
    first = known.largest == largest  # of sorted values, ``x.topk(k).values.min()``, the first or the last of those
    places = known.places().reshape(-1)
    return attach(region, out, known.moved(lambda: (places.amin() if first else places.amax()).reshape(out.shape)))


def place_in_rows(known: Sorted, x: Tensor, threshold: Tensor) -> Tensor | None:
    """The place that `threshold` has in each row of `x`; None if it is not one value of each row, its own."""
    if not threshold.numel() or not traced(threshold) and bool(threshold.isnan().any()):
        return None
    if torch.broadcast_shapes(x.shape, threshold.shape) != x.shape:  # type: ignore[no-untyped-call]
        return None
    rows = known.by_row(known.places().expand(x.shape))
    places = rows - torch.arange(rows.shape[0], device=rows.device).unsqueeze(-1) * known.n
    own = (places == places[:, :1]) & (places >= 0) & (places < known.n)
    return places[:, 0] if bool(own.all()) else None
