"""The rules of the oracle *local* for what is looked up, selected, taken or written at a decided place.

Called as those of `local_rules` are.
"""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from local_shadows import (
    NAN,
    PARTS,
    ROWS,
    Shadow,
    alike,
    as_tensor,
    centred,
    discrete,
    finite,
    named,
    nonzero,
    shadow,
    with_gradient,
)  # fmt: skip

# --- lookups and selections (L9, L11) --------------------------------------------------------------------------------


class Lookup:
    """Who is looked up by whom: the table, the indices, how an index lies in the result, how far it may go."""

    def __init__(self, name: str, args: Any, kwargs: Any) -> None:
        names = {
            "gather": ("input", "dim", "index"), "take_along_dim": ("input", "index", "dim"),
            "take": ("input", "index"), "index_select": ("input", "dim", "index"), "embedding": ("index", "weight"),
            "one_hot": ("index", "num_classes"), "scatter": ("input", "dim", "index", "src"),
            "scatter_add": ("input", "dim", "index", "src"), "index_add": ("input", "dim", "index", "source"),
            "index_fill": ("input", "dim", "index", "value"), "index_copy": ("input", "dim", "index", "source"),
        }  # fmt: skip
        given = {{"indices": "index"}.get(k, k): v for k, v in named(args, kwargs, *names[name]).items()}
        if name == "embedding" and "input" in given:
            given["index"] = given.pop("input")
        self.index, self.given = given["index"], given
        self.table = given.get("weight" if name == "embedding" else "input")
        along = name in ("gather", "take_along_dim", "index_select") or name.startswith(("scatter", "index_"))
        dim = given.get("dim") if along else None
        if name == "one_hot":
            self.limit = given.get("num_classes", -1)
        elif name == "embedding":
            self.limit = self.table.shape[0]
        else:
            self.limit = self.table.numel() if dim is None else self.table.shape[dim]
        rows = name in ("index_select", "index_add", "index_fill", "index_copy")
        after = self.table.dim() - dim % self.table.dim() - 1 if rows else int(name in ("embedding", "one_hot"))
        self.place = lambda part, x: part.reshape((*part.shape, *[1] * after))


def lookup(ref: Any, name: str, func: Any, args: Any, kwargs: Any) -> Any:
    found = Lookup(name, args, kwargs)
    if name == "one_hot" and found.limit == -1:
        found.limit = int(found.index.max()) + 1
        args, kwargs = (found.index, found.limit), {}
    if ref.get(found.index) is None:
        return func(*args, **kwargs) if found.table is None else from_table(ref, found.table, func, args, kwargs)
    out = looked_up(ref, func, args, kwargs, found.table, [found.index], found.place, lambda _: found.limit)
    if name == "one_hot":  # as a mask it knows its other value
        return ref.put(out, shadow(out, ref.get(out).total(out), (1 - out).double()))
    return out


def from_table(ref: Any, table: Tensor, func: Any, args: Any, kwargs: Any) -> Any:
    """With plain indices elements only move."""
    return ref.moved("lookup", func, args, kwargs, only=table) if ref.get(table) is not None else func(*args, **kwargs)


def looked_up(ref: Any, func: Any, args: Any, kwargs: Any, table: Any, indices: Any, place: Any, limit: Any) -> Any:
    fresh = lambda *args, **kwargs: func(*args, **kwargs).clone()  # (with an index of no dimensions it is a view)
    out = ref.through(fresh, args, kwargs, place, indices, limit)
    if ref.get(table) is not None:
        moved = ref.get(ref.moved("lookup", func, args, kwargs, only=table))
        mine = ref.get(out)
        hard, out = out.detach().double(), out.clone()
        return ref.put(out, ref.several(out, mine.total(hard) + moved.total(hard), [mine, moved], False))
    return out


def basic(x: Tensor, index: Any) -> tuple[Tensor, dict[int, Tensor]]:
    """`x` after everything in the index but tensors, and the dimensions that the tensors stand for."""
    parts = list(index) if isinstance(index, (tuple, list)) else [index]
    used = sum(i.dim() if isinstance(i, Tensor) and i.dtype == torch.bool else i is not None and i is not ...
               for i in parts)  # fmt: skip
    if not any(i is ... for i in parts):
        parts.append(...)
    at = next(k for k, i in enumerate(parts) if i is ...)
    parts[at : at + 1] = [slice(None)] * (x.dim() - int(used))
    tensors, plain, dim = {}, [], 0
    for i in parts:
        for each in i.nonzero(as_tuple=True) if isinstance(i, Tensor) and i.dtype == torch.bool else [i]:
            each = torch.tensor(each) if isinstance(each, list) else each
            if isinstance(each, Tensor):
                tensors[dim] = each
            plain.append(slice(None) if isinstance(each, Tensor) else each)
            dim += not isinstance(each, int)
    return x[tuple(plain)], tensors


def getitem(ref: Any, name: str, func: Any, args: Any, kwargs: Any) -> Any:
    x, index = args
    parts = index if isinstance(index, tuple) else (index,)
    decided = [i for i in parts if ref.get(i) is not None]
    if not decided:
        out = from_table(ref, x, func, args, kwargs)
        return out
    if any(i.dtype == torch.bool for i in decided):
        return selection(ref, x, index, func(x, index)) if len(parts) == 1 else func(x, index)
    table, tensors = basic(x, index)
    block = torch.broadcast_tensors(*tensors.values())[0].dim()
    first, together = min(tensors), max(tensors) - min(tensors) + 1 == len(tensors)
    after = table.dim() - len(tensors) - (first if together else 0)
    sizes = {id(i): table.shape[d] for d, i in tensors.items()}

    def place(part: Tensor, i: Tensor) -> Tensor:
        return part.reshape((*[1] * (block - i.dim()), *part.shape, *[1] * after))

    return looked_up(ref, func, args, kwargs, x, decided, place, lambda i: sizes[id(i)])


def selection(ref: Any, x: Tensor, mask: Tensor, out: Tensor) -> Tensor:
    weight = ref.get(mask).s
    weight = weight.reshape(*weight.shape, *[1] * (x.dim() - mask.dim())).expand(x.shape)
    ref.selected[id(out)] = (out, x, mask, weight)
    return out


def masked_select(ref: Any, name: str, func: Any, args: Any, kwargs: Any) -> Any:
    x, mask = args
    if ref.get(mask) is None:
        return from_table(ref, x, func, args, kwargs)
    x, wide_mask = torch.broadcast_tensors(x, mask)
    return selection(ref, x, wide_mask, func(x, mask))


# --- where (L4, L6) --------------------------------------------------------------------------------------------------


def where(ref: Any, name: str, func: Any, args: Any, kwargs: Any) -> Any:
    if name == "masked_fill":
        x, mask, value = (named(args, kwargs, "input", "mask", "value")[k] for k in ("input", "mask", "value"))
        mask, a, b = mask, value, x
    else:
        given = named(args, kwargs, "condition", "input", "other")
        if len(given) == 1:
            return func(*args, **kwargs)
        mask, a, b = (given[k] for k in ("condition", "input", "other"))
        if func is Tensor.where:
            mask, a = a, mask
    hard = func(*args, **kwargs)
    if not discrete(hard) or hard.dtype == torch.bool:
        return NotImplemented
    a, b = (as_tensor(v, hard).to(hard.dtype) if ref.get(v) is None else v for v in (a, b))
    infos = [shadow(v) if ref.get(v) is None else ref.get(v) for v in (a, b)]
    infos = alike(*infos)
    m = mask.expand(hard.shape)

    def taken(part: str) -> Tensor:
        parts = [getattr(info, part) for info in infos]
        if part in ROWS:
            return torch.where(m.unsqueeze(-1), *(p.expand(*hard.shape, p.shape[-1]) for p in parts))
        return torch.where(m, *parts)

    found = Shadow(*(taken(part) for part in PARTS))
    if ref.get(mask) is None:
        return ref.put(hard, found)
    left = torch.where(m, b, a).double()
    rises = ref.get(mask).s.expand(hard.shape) * torch.where(m, -1.0, 1.0)
    turned = shadow(hard, (left - hard) * rises, left, u=0.0)
    if all(ref.get(v) is None for v in (a, b)):
        return ref.put(hard, turned)
    if found.t.shape[-1]:
        return ref.put(hard, ref.several(hard, found.total(hard) + turned.s, [found, turned], False))
    c, w = torch.cat([found.c, left.unsqueeze(-1)], -1), torch.cat([found.w, rises.unsqueeze(-1)], -1)
    return ref.put(hard, shadow(hard, found.s, found.alt, c, w, found.r, u=0.0))


# --- writes at an index (L10) ----------------------------------------------------------------------------------------


def index_put(ref: Any, name: str, func: Any, args: Any, kwargs: Any) -> Any:
    given = named(args, kwargs, "input", "indices", "values", "accumulate")
    x, index, src = given["input"], given["indices"], given["values"]
    if func is None:
        func, args = torch.index_put, (x, list(basic_indices(x, index)), src)
        return written(ref, func, args, {}, x, src, False, getitem, Tensor.__getitem__, (index,), index)
    return written(ref, func, args, kwargs, x, src, bool(given.get("accumulate")), getitem, Tensor.__getitem__,
                   (tuple(index),), index)  # fmt: skip


def basic_indices(x: Tensor, index: Any) -> Any:
    """Index tensors for ``x[index]`` where some parts are numbers or slices."""
    flat = torch.arange(x.numel()).reshape(x.shape)[index]
    return torch.unravel_index(flat, x.shape)


def scatter(ref: Any, name: str, func: Any, args: Any, kwargs: Any) -> Any:
    found = Lookup(name, args, kwargs)
    given, x = found.given, found.table
    src = next((given[key] for key in ("src", "source", "value") if key in given), None)
    dim = given["dim"]
    if name == "scatter" and inverts(ref, x, dim, found.index, src):
        return ref.put_ranks(found.index, func(*args, **kwargs))
    if name.startswith("scatter"):
        if isinstance(src, Tensor) and src.dim():
            src = src[tuple(slice(n) for n in found.index.shape)]
        return written(ref, func, args, kwargs, x, src, name == "scatter_add", lookup, torch.gather,
                       (dim, found.index), found.index)  # fmt: skip
    return written(ref, func, args, kwargs, x, src, name == "index_add", lookup, torch.index_select,
                   (dim, found.index), found.index)  # fmt: skip


def inverts(ref: Any, x: Tensor, dim: int, index: Tensor, src: Any) -> bool:
    """Whether the places of an order are written where its elements are: these are ranks, then."""
    if id(index) not in ref.orders or not isinstance(src, Tensor) or not x.shape == index.shape == src.shape:
        return False
    places = torch.arange(x.shape[dim]).reshape(-1, *[1] * (x.dim() - dim % x.dim() - 1))
    return discrete(x) and ref.orders[id(index)][2] == dim % x.dim() and bool((src == places).all())


def written(
    ref: Any, func: Any, args: Any, kwargs: Any, x: Tensor, src: Any, adds: bool, rule: Any, look: Any, at: Any,
    index: Any,
) -> Any:  # fmt: skip
    """Write `src` where `look` would read: at the places of a table of places, looked up by candidates, too."""
    hard = func(*args, **kwargs)
    decided = [i for i in (index if isinstance(index, (tuple, list)) else [index]) if ref.get(i) is not None]
    places = torch.arange(x.numel()).reshape(x.shape)
    there = look(places, *at)
    soft_src = ref.real(as_tensor(src, x)).double().expand(there.shape)
    soft = ref.real(x).double().reshape(-1).index_put((there,), soft_src, accumulate=adds)
    if not decided:
        if not discrete(hard):
            return hard
        return ref.put(hard, shadow(hard, centred(soft).reshape(x.shape)))
    known = ref.get(rule(ref, look.__name__.strip("_") if look is not Tensor.__getitem__ else "__getitem__", look,
                         (places, *at), {}))  # fmt: skip
    old = x.detach().double().reshape(-1)
    if there.numel() == x.numel() == there.unique().numel():
        old = torch.zeros_like(old)  # all of it is written: what stood there does not matter
    value = soft_src.detach()

    def difference(to: Tensor, weight: Tensor) -> Tensor:
        jump = finite(value if adds else value - old[to]) * weight
        return torch.zeros_like(old).index_put((to,), jump, accumulate=True)

    total = torch.zeros_like(old)
    for k in range(known.c.shape[-1]):
        total = total + difference(known.c[..., k].long(), known.w[..., k]) - difference(there, known.w[..., k])
    alt = torch.where(known.alt.isnan(), there.double(), known.alt)
    weight = known.s / nonzero(alt - there)
    total = total + difference(alt.long(), weight) - difference(there, weight)
    total = total.reshape(x.shape)
    if discrete(hard):
        hot = isinstance(src, (int, float)) and src == 1 and not x.any()
        alt = 1 - hard.double() if hot else NAN
        return ref.put(hard, shadow(hard, total + centred(soft).reshape(x.shape), alt, u=float(hot)))
    return with_gradient(hard, total)


def unravel_index(ref: Any, name: str, func: Any, args: Any, kwargs: Any) -> Any:
    given = named(args, kwargs, "indices", "shape")
    at = lambda d: lambda index: torch.unravel_index(index, given["shape"])[d]
    return tuple(ref.through(at(d), (given["indices"],), {}) for d in range(len(given["shape"])))


PLACES = [
    ("unravel_index", unravel_index),
    ("gather take take_along_dim index_select embedding one_hot", lookup),
    ("__getitem__", getitem),
    ("masked_select", masked_select),
    ("where masked_fill", where),
    ("index_put", index_put),
    ("scatter scatter_add index_add index_fill index_copy", scatter),
]
