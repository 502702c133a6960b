"""Oracle 3, *local*: what ``forward="straight-through"`` has to compute, by hand-written rules, slowly.

Nothing here comes from the library. A mode looks at every torch call of a program, runs it as it is, and keeps beside
each bool or integer element what a change of it would do (`Shadow`). Functions are differentiated by running them
again: at the other value, at the neighbouring integers, at each candidate. All of that is in float64, but for the
distances to boundaries, which have the program's precision (float32 for the half types), so that both agree about who
is in a band.

Shadows belong to storage, not to tensors: views need no rule, and writes through them reach everybody.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor
from torch.overrides import TorchFunctionMode

from local_places import PLACES, index_put
from local_rules import DECISIONS
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
    flat_tensors,
    nonzero,
    replaced,
    shadow,
    slope_at,
    stacked,
    value_at,
    with_gradient,
)  # fmt: skip


def gradient(f: Callable[..., Tensor], operands: list[Tensor], eps: float | str, up: Tensor | None = None) -> Any:
    """The value of ``f(*operands)``, and the local gradients of ``(f * up).sum()`` (zeros where there are none)."""
    return gradient_in(Local(eps), f, operands, up)


def gradient_in(mode: Any, f: Callable[..., Tensor], operands: list[Tensor], up: Tensor | None = None) -> Any:
    """The same, with the gradients of autograd in a mode: that of the reference, or a region."""
    leaves = [x.detach().requires_grad_() for x in operands]
    with mode:
        y = f(*leaves)
    if not y.requires_grad:
        return y, [torch.zeros_like(x) for x in operands]
    up = torch.ones_like(y) if up is None else up
    found = torch.autograd.grad(y, leaves, up.to(y.dtype), allow_unused=True)
    return y.detach(), [torch.zeros_like(x) if g is None else g for x, g in zip(operands, found)]


# --- the mode --------------------------------------------------------------------------------------------------------

INPLACE = {f"__i{op}__": op for op in "add sub mul truediv floordiv mod pow and or xor lshift rshift".split()}
SWAPPED = {f"__r{op}__": f"__{op}__" for op in "floordiv mod".split()}
ALIASES = {
    "greater": "gt", "greater_equal": "ge", "less": "lt", "less_equal": "le", "not_equal": "ne", "sgn": "sign",
    "fix": "trunc", "special_round": "round", "floordiv": "floor_divide", "mod": "remainder", "divide": "div",
    "absolute": "abs", "clip": "clamp", "negative": "neg", "truediv": "div", "true_divide": "div",
}  # fmt: skip
MOVES = set(
    "clone contiguous reshape flatten ravel flip fliplr flipud rot90 roll repeat repeat_interleave tile pad tril triu "
    "diag diagflat diag_embed cat stack concat concatenate hstack vstack column_stack dstack block_diag meshgrid "
    "cartesian_prod combinations broadcast_tensors".split()
)
VIEWS = set(
    "view view_as reshape_as expand expand_as broadcast_to t transpose permute movedim moveaxis swapaxes swapdims "
    "squeeze unsqueeze select narrow chunk split unbind diagonal unfold unflatten __get__ tensor_split hsplit "
    "vsplit atleast_1d atleast_2d atleast_3d".split()
)
LINEAR = set(
    "sum mean nansum cumsum diff trace prod cumprod matmul mm bmm mv dot inner outer einsum tensordot linear amax amin "
    "trapezoid kron".split()
)
LOST = set(
    "nonzero argwhere nonzero_static masked_scatter detach item tolist numpy is_nonzero __bool__ __len__ __repr__ size "
    "dim stride data_ptr numel element_size untyped_storage equal allclose zeros_like ones_like empty_like full_like "
    "rand_like randn_like new_zeros new_ones new_full new_empty new_tensor zero_ fill_ is_floating_point "
    "requires_grad_ backward unique".split()
)
KEEPS_ALT = {"clamp", "clamp_min", "clamp_max", "neg", "abs", "add", "sub", "mul", "rsub", "minimum", "maximum"}
WHOLE_ONLY = {"add", "sub", "mul", "rsub"}
LINEAR_IN = set(
    "add sub mul rsub neg positive div to type type_as float double half bfloat16 long int short byte char".split()
)


BY_ONES = LINEAR_IN - {"mul", "div"} | {"abs", "clamp", "clamp_min", "clamp_max", "maximum", "minimum", "fmax", "fmin",
                                        "where", "masked_fill"}  # fmt: skip
COUNTS = {"sum", "nansum", "cumsum", "diff", "trace"}
"""Where each decision changes the operands by one at most, it changes the result by one at most."""


def is_linear(name: str, args: Any, kwargs: Any, x: Tensor, hard: Tensor) -> bool:
    """Whether a function is linear in its operand `x`, whose type may change only to that of other numbers."""
    others = [y for y in (*args, *kwargs.values()) if y is not x]
    if name == "div" and (kwargs.get("rounding_mode") is not None or args[0] is not x):
        return False
    squared = name == "mul" and not others
    return name in LINEAR_IN and hard.dtype != torch.bool and not squared


@dataclass
class Local(TorchFunctionMode):
    eps: float | str
    stored: dict[int, tuple[Tensor, int, Shadow]] = field(default_factory=dict)
    orders: dict[int, tuple[Tensor, Tensor, int, Tensor]] = field(default_factory=dict)
    selected: dict[int, tuple[Tensor, Tensor, Tensor, Tensor]] = field(default_factory=dict)
    saws: dict[int, tuple[Tensor, Tensor]] = field(default_factory=dict)
    """A remainder and its operand, of "auto"."""
    choices: int = 0

    def __post_init__(self) -> None:
        super().__init__()

    # shadows of storages

    def get(self, x: Any) -> Shadow | None:
        if not isinstance(x, Tensor) or x.layout != torch.strided:
            return None
        found = self.stored.get(x.untyped_storage()._cdata)
        if found is None or found[1] != x._version or found[0].dtype != x.dtype:
            return None  # nothing known, or somebody else wrote to it
        at = self.places(x)
        return found[2].map(lambda part: part[at])

    def put(self, x: Tensor, new: Shadow | None) -> Tensor:
        key, at = x.untyped_storage()._cdata, self.places(x)
        old = self.stored.get(key)
        if new is None:
            return x
        many = x.untyped_storage().nbytes() // x.element_size()
        base = shadow(x.new_zeros(many)) if old is None else old[2]
        base, new = alike(base, new)
        flat = Shadow(*(getattr(base, n).index_put((at,), getattr(new, n)) for n in PARTS))
        self.stored[key] = (x, x._version, flat)
        return x

    def places(self, x: Tensor) -> Tensor:
        many = x.untyped_storage().nbytes() // x.element_size()
        return torch.arange(many).as_strided(x.shape, x.stride(), x.storage_offset())

    # calls

    def __torch_function__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        kwargs = dict(kwargs or {})
        name = getattr(func, "__name__", "")
        if not torch.is_grad_enabled() or name in LOST or name == "__get__":
            return func(*args, **kwargs)
        if name in SWAPPED:
            args, name, func = args[::-1], SWAPPED[name], getattr(torch, ALIASES[SWAPPED[name].strip("_")])
        if name in ("__setitem__", "copy_"):
            return self.write(name, *args, **kwargs)
        out = kwargs.pop("out", None)
        inplace = name in INPLACE or name.endswith("_") and not name.endswith("__")
        if inplace and isinstance(args[0], Tensor):
            write, out = func, args[0]
            func = lambda x, *rest, **named: write(x.clone(), *rest, **named)
            name = INPLACE.get(name, name.removesuffix("_"))
        name = ALIASES.get(name.strip("_"), name.strip("_")) if name != "__getitem__" else name
        result = self.call(name, func, args, kwargs)
        if out is None:
            return result
        return self.written(out, result)

    def written(self, out: Tensor, result: Tensor) -> Tensor:
        """`result` in the place of `out`."""
        info = self.get(result)
        if out.is_floating_point() and discrete(result) and info is not None:
            result, info = self.call("to", torch.Tensor.to, (result, out.dtype), {}), None
        if out.shape != result.shape and out.numel() == 0:
            out.resize_(result.shape)
        previous = self.get(out)
        out.copy_(result)
        if info is None and (previous is not None or not out.is_floating_point()):
            info = shadow(out)
        if info is not None:
            key = out.untyped_storage()._cdata
            if key in self.stored and previous is None:  # the rest of it is as stale
                del self.stored[key]
            self.put(out, info.map(lambda part: part.expand(*out.shape, *part.shape[result.dim() :])))
        return out

    def call(self, name: str, func: Any, args: Any, kwargs: Any) -> Any:
        tensors = list(flat_tensors((args, kwargs)))
        known = [x for x in tensors if discrete(x) and self.get(x) is not None]
        if name in ("sub", "rsub"):  # a number without its sawtooth is rounded, and has the ramp of a whole step
            made_of = [self.saws[id(x)][1] if id(x) in self.saws else None for x in args]
            args = [x.detach() if any(y is z for z in args) else x for x, y in zip(args, made_of)]
        if any(id(x) in self.selected for x in tensors):
            return self.of_selection(name, func, args, kwargs)
        if not known and not any(x.requires_grad for x in tensors):
            return func(*args, **kwargs)
        if name in MOVES | VIEWS:
            return self.moved(name, func, args, kwargs)
        for names, rule in (*DECISIONS, *PLACES):
            if name in names.split():
                result = rule(self, name, func, args, kwargs)
                if result is not NotImplemented:
                    return result
        if known and name in LINEAR:
            return self.linear(func, args, kwargs)
        if known:
            return self.through(func, args, kwargs, name=name)
        return self.remembered(name, func, args, kwargs)

    # rules that hold for many functions

    def through(
        self, func: Any, args: Any, kwargs: Any, place: Any = None, only: Any = None, limit: Any = None, name: str = ""
    ) -> Any:
        """Elementwise functions and lookups (L5, L6, L9): run again at the other values of each operand.

        `place` tells how what belongs to an operand's element lies in the result; `limit`, how far an index may go.
        """
        hard = func(*args, **kwargs)
        if not isinstance(hard, Tensor) or any(hard is x for x in flat_tensors(args)):
            return hard
        among = flat_tensors((args, kwargs)) if only is None else only
        operands = {id(x): x for x in among if discrete(x) and self.get(x) is not None}
        at_hard = value_at(func, args, kwargs, {}).expand(hard.shape)
        parts = [self.changed(x, func, args, kwargs, hard, at_hard, place, limit, name) for x in operands.values()]
        if not parts:
            return hard
        total = sum(part.total(at_hard) for part in parts)
        if not discrete(hard):
            return with_gradient(hard, total)
        if hard.dtype == torch.bool:
            return self.put(hard, shadow(hard, total, o=parts[0].o if len(parts) == 1 else NAN))
        chosen = any(discrete(x) and x.dtype == torch.bool for x in operands.values()) and name in (
            "where",
            "masked_fill",
        )
        ones = name in BY_ONES and not chosen and all(map(self.by_ones, operands.values()))
        if len(parts) > 1 or parts[0].v.shape[-1]:
            return self.put(hard, self.several(hard, total, parts, ones))
        parts[0].u = torch.full(hard.shape, float(ones), dtype=torch.float64)
        return self.put(hard, parts[0])

    def by_ones(self, x: Tensor) -> bool:
        """Whether each decision changes `x` by one at most."""
        info = self.get(x)
        assert info is not None
        return x.dtype == torch.bool or bool((info.u == 1).all()) and not info.w.shape[-1]

    def several(self, hard: Tensor, total: Tensor, parts: list[Shadow], ones: bool) -> Shadow:
        """What an integer carries that the decisions of all parts make. Linear functions pass on the `total`."""
        flips = [part.flips(hard) for part in parts]
        c, w = (torch.cat([each[i] for each in flips], -1) for i in (0, 1))
        if ones:
            return shadow(hard, total, t=c, v=w)
        r = total - ((c - hard.detach().double().unsqueeze(-1)) * w).sum(-1)
        return shadow(hard, c=c, w=w, r=r, u=0.0)

    def changed(
        self, x: Tensor, func: Any, args: Any, kwargs: Any, hard: Tensor, at_hard: Tensor, place: Any, limit: Any,
        name: str,
    ) -> Shadow:  # fmt: skip
        """What the result carries because of one operand.

        A function that is linear in it has its derivative; any other, the difference to the other value. Where that is
        not known, a float has the derivative of the function of floats; an integer, and what is looked up, the
        difference between both neighbours (0 has none below: counts); a bool, a ramp between those.
        """
        info, n = self.get(x), x.detach().double()
        assert info is not None

        def shaped(part: Tensor) -> Tensor:
            return (part if place is None else place(part, x)).expand(hard.shape)

        def other(value: Tensor) -> Tensor:
            value = torch.where(value.isnan(), n, value)
            if limit is not None:
                many = limit(x)
                value = torch.where(n < 0, value.clamp(-many, -1), value.clamp(0, many - 1))
            value = value_at(func, args, kwargs, {id(x): value}).expand(hard.shape)
            return torch.where((value - at_hard).isfinite(), value, at_hard)

        alt, unknown = other(info.alt), shaped(info.alt).isnan()
        slope, linear = (alt - at_hard) / shaped(nonzero(info.alt - n)), is_linear(name, args, kwargs, x, hard)
        if linear and x.dtype != torch.bool:
            slope = other(n + 1) - at_hard
        elif unknown.any() and place is None and not discrete(hard):
            slope = torch.where(unknown, slope_at(func, args, kwargs, x, hard.shape), slope)
        elif unknown.any():
            low = torch.where(n == 0, n, n - 1)
            apart = 1.0 if hard.dtype == torch.bool else shaped(n + 1 - low)
            slope = torch.where(unknown, (other(n + 1) - other(low)) / apart, slope)
        many, terms = range(info.c.shape[-1]), range(info.t.shape[-1])
        c, w = [other(info.c[..., k]) for k in many], [shaped(info.w[..., k]) for k in many]
        t, v = [other(info.t[..., k]) for k in terms], [shaped(info.v[..., k]) for k in terms]
        alt = torch.where(unknown, NAN, alt)
        r = slope * shaped(info.r) if linear else 0.0 * at_hard
        parts = [stacked(each, hard) for each in (c, w, t, v)]
        return shadow(hard, slope * shaped(info.s), alt, *parts[:2], r, shaped(info.o), 0.0, *parts[2:])

    def linear(self, func: Any, args: Any, kwargs: Any) -> Any:
        """Sums and products (L7), run on the shadows."""
        hard = func(*args, **kwargs)
        named = {key: value for key, value in kwargs.items() if key != "dtype"}
        args = [x for x in args if not isinstance(x, torch.dtype)]
        soft = func(*replaced(args, self.real), **replaced(named, self.real))
        if not discrete(hard):
            return self.result(hard, soft)
        operands = {id(x): x for x in flat_tensors((args, named)) if discrete(x) and self.get(x) is not None}
        ones = getattr(func, "__name__", "") in COUNTS and all(map(self.by_ones, operands.values()))
        parts = [self.each(x, func, args, named, hard) for x in operands.values()]
        return self.put(hard, self.several(hard, centred(soft.double()), parts, ones))

    def each(self, x: Tensor, func: Any, args: Any, kwargs: Any, hard: Tensor) -> Shadow:
        """The function with one decision of one element of `x` the other way, for all of those."""
        values, weights = self.get(x).flips(x)
        found = []
        for e in range(x.numel()):
            for k in range(values.shape[-1]):
                there = x.detach().reshape(-1).clone()
                there[e] = values.reshape(x.numel(), -1)[e, k].detach()
                put = lambda y, there=there: there.reshape(x.shape) if y is x else y
                c = func(*replaced(args, put), **replaced(kwargs, put)).double()
                found.append((c, weights.reshape(x.numel(), -1)[e, k]))
        if not found or not hard.numel():
            return shadow(hard)
        c = torch.stack([each[0] for each in found], -1)
        w = torch.stack([each[1] for each in found]).expand(c.shape)
        changed = (c != hard.detach().double().unsqueeze(-1)).int()  # (all others would be run again for nothing)
        order = changed.argsort(dim=-1, descending=True, stable=True)[..., : int(changed.sum(-1).max())]
        return shadow(hard, c=c.gather(-1, order), w=w.gather(-1, order))

    def result(self, hard: Tensor, soft: Tensor) -> Tensor:
        more = centred(soft.double())
        return self.put(hard, shadow(hard, more)) if discrete(hard) else with_gradient(hard, more)

    def real(self, x: Any) -> Any:
        """A number with the gradient of a discrete one."""
        if not isinstance(x, Tensor):
            return x
        info = self.get(x) if discrete(x) else None
        return x.double() if info is None else x.double() + info.total(x)

    def moved(self, name: str, func: Any, args: Any, kwargs: Any, only: Tensor | None = None) -> Any:
        """Functions that only move elements, run on the places of those. `only`: the rest are indices."""
        among = flat_tensors((args, kwargs)) if only is None else [only]
        known = {id(x): x for x in among if self.get(x) is not None}
        out = func(*args, **kwargs)
        outs = list(flat_tensors([out]))
        if not known or name in VIEWS or all(self.get(x) is not None for x in outs):
            return out
        if any(x.is_floating_point() for x in outs) and any(discrete(x) for x in known.values()):
            cast = lambda x: self.call("to", torch.Tensor.to, (x, outs[0].dtype), {}) if id(x) in known else x
            return func(*replaced(args, cast), **replaced(kwargs, cast))
        start, ids, rows = 1, {}, []
        counts = any(self.get(x).v.shape[-1] for x in known.values())  # beside others a count is no count
        ones = not counts or all(map(self.by_ones, known.values()))
        for x in known.values():
            ids[id(x)] = torch.arange(start, start + x.numel()).reshape(x.shape)
            start += x.numel()
            info = self.get(x) if ones else self.several(x, self.get(x).total(x), [self.get(x)], False)
            rows.append(info if x.dim() else info.map(lambda part: part.unsqueeze(0)))
        named = {**kwargs, "value": 0} if name == "pad" else kwargs
        plain = args[:3] if name == "pad" else args

        def swap(x: Any) -> Any:
            if isinstance(x, Tensor) and (only is None or id(x) in ids):
                return ids.get(id(x), torch.zeros(x.shape, dtype=torch.int64))
            return x

        found = list(flat_tensors([func(*replaced(plain, swap), **replaced(named, swap))]))
        rows = alike(shadow(torch.zeros(1, dtype=torch.float64)), *rows)
        parts = {}
        for n in PARTS:
            each = [getattr(info, n) for info in rows]
            parts[n] = torch.cat([part.flatten(0, -2 if n in ROWS else -1) for part in each])
        for x, at in zip(outs, found):
            self.put(x, shadow(x, **{n: part[at] for n, part in parts.items()}))
        return out

    def remembered(self, name: str, func: Any, args: Any, kwargs: Any) -> Any:
        """Floats: as they are. Where one came from a rounding op, its other value comes along (L4)."""
        out = func(*args, **kwargs)
        known = [x for x in flat_tensors((args, kwargs)) if self.get(x) is not None]
        if len(known) != 1 or name not in KEEPS_ALT or not isinstance(out, Tensor):
            return out
        others = [x for x in (*args, *kwargs.values()) if x is not known[0]]
        if name in WHOLE_ONLY and not all(isinstance(x, (int, float)) and x == int(x) for x in others):
            return out
        info = self.get(known[0])
        assert info is not None
        ones = 0.0 if name == "mul" else info.u
        return self.put(out, shadow(out, 0.0, value_at(func, args, kwargs, {id(known[0]): info.alt}), u=ones))

    # choices

    def owners(self, many: int) -> Tensor:
        """Numbers for so many choices."""
        self.choices += many
        return torch.arange(self.choices - many, self.choices).double()

    def rows_own(self, index: Tensor, dim: int) -> Tensor:
        """The places of a row are one choice."""
        many = index.numel() // max(index.shape[dim], 1)
        shape = [1 if d == dim else n for d, n in enumerate(index.shape)]
        return self.owners(many).reshape(shape).expand(index.shape)

    def put_ranks(self, order: Tensor, ranks: Tensor) -> Tensor:
        """`ranks` say where `order` has put each element: places to choose from, and numbers."""
        _, weights, dim, numbers = self.orders[id(order)]
        w = weights.transpose(-1, -2).movedim(-2, dim)
        c = torch.arange(w.shape[-1]).double().expand(w.shape)
        r = numbers - ((c - ranks.double().unsqueeze(-1)) * w).sum(-1)
        return self.put(ranks, shadow(ranks, c=c, w=w, r=r, o=self.rows_own(ranks, dim)))

    # writes

    def write(self, name: str, x: Tensor, *rest: Any, **kwargs: Any) -> Any:
        if name == "copy_":
            value = rest[0]
            if not discrete(x) or not isinstance(value, Tensor):
                return self.written(x, value.expand(x.shape))
            if not discrete(value):
                value = self.call("to", torch.Tensor.to, (value, x.dtype), {})
            return self.written(x, value.expand(x.shape))
        index, value = rest
        if isinstance(value, Tensor) and value.is_floating_point() and discrete(x):
            value = self.call("to", torch.Tensor.to, (value, x.dtype), {})
        parts = index if isinstance(index, tuple) else (index,)
        decided = [i for i in parts if self.get(i) is not None]
        if len(decided) == 1 and decided[0].dtype == torch.bool and len(parts) == 1:
            mask = index.reshape(*index.shape, *[1] * (x.dim() - index.dim()))
            if id(value) in self.selected and self.selected[id(value)][2] is index:
                value = self.selected[id(value)][1]
            self.written(x, self.call("where", torch.where, (mask, as_tensor(value, x), x), {}))
            return None
        if decided:
            self.written(x, index_put(self, "setitem", None, (x, parts, as_tensor(value, x)), {}))
            return None
        info = self.get(value)
        if not discrete(x):
            if info is not None and discrete(value):
                value = self.call("to", torch.Tensor.to, (value, x.dtype), {})
            x[index] = value
            return None
        fresh, old, at = x.clone(), self.get(x), torch.arange(x.numel()).reshape(x.shape)[index]
        fresh[index] = value
        old = shadow(x) if old is None else old
        new = shadow(fresh[index]) if info is None else info
        old, new = alike(old, new)
        parts_ = []
        for n in PARTS:
            a, b = getattr(old, n), getattr(new, n)
            more = a.shape[x.dim() :]
            b = b.expand(*at.shape, *more)
            flat = a.reshape(x.numel(), *more).index_put((at.reshape(-1),), b.reshape(at.numel(), *more))
            parts_.append(flat.reshape(a.shape))
        self.put(fresh, Shadow(*parts_))
        self.written(x, fresh)
        return None

    # selections (L11)

    def of_selection(self, name: str, func: Any, args: Any, kwargs: Any) -> Any:
        """Elementwise functions of what a mask selected, and sum or mean of that."""
        out = func(*args, **kwargs)
        first = next(x for x in flat_tensors((args, kwargs)) if id(x) in self.selected)
        _, full, mask, weight = self.selected[id(first)]
        whole = lambda x: self.selected[id(x)][1] if isinstance(x, Tensor) and id(x) in self.selected else x
        if name in ("sum", "mean"):
            if len(args) + len(kwargs) > 1:
                return out
            wide = full.detach().double()
            jump = wide if name == "sum" else (wide - out.detach().double()) / max(int(mask.sum()), 1)
            return with_gradient(out, (finite(jump) * weight).sum())
        others = [x for x in flat_tensors((args, kwargs)) if x.dim() and id(x) not in self.selected]
        same = all(self.selected[id(x)][2] is mask for x in flat_tensors((args, kwargs)) if id(x) in self.selected)
        if others or not same or not isinstance(out, Tensor) or out.shape != first.shape:
            return out
        self.selected[id(out)] = (out, func(*replaced(args, whole), **replaced(kwargs, whole)), mask, weight)
        return out

    # widths

    def width(self, kind: str, distances: Tensor, limit: float = math.inf) -> float:
        """The half-width. Of "auto" what the documentation says: whole steps, three medians of leads, else a share."""
        if self.eps != "auto":
            return min(float(self.eps), limit)
        if kind in ("step", "remainder") and limit < math.inf:
            return limit
        d = distances.detach().abs().double()
        d = d[(d > 0) & d.isfinite()].sort().values
        assert distances.numel() <= 1024, "the policy would look at a sample"

        def holds(share: float) -> float:
            return float(d[max(math.ceil(len(d) * share - 1e-6) - 1, 0)]) * (1 + 4e-7) if len(d) else 1.0

        if kind == "choice":
            return 3 * holds(0.5)
        return min(max(1.0, holds(0.02)), holds(0.75), limit)
