"""The rules of the oracle *local* for what decides: steps, comparisons, casts, counts, choices and orders.

A rule is called as ``rule(ref, name, func, args, kwargs)``, with the mode for the rest of what it knows, and may return
NotImplemented: the general rules of the mode apply then.
"""

from __future__ import annotations

import math
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor

from local_shadows import (
    NAN,
    centred,
    discrete,
    finite,
    named,
    nonzero,
    shadow,
    tracked,
    value_at,
    with_gradient,
)  # fmt: skip

OWN = {"frac", "hardshrink", "threshold", "angle", "copysign"}
"""Float ops with a gradient of their own, beside that of the jump. (Of a remainder torch does not always know it.)"""


def wide(*operands: Any) -> list[Tensor]:
    """In the precision of distances: the program's, float32 for half types."""
    floats = [x for x in operands if isinstance(x, Tensor) and x.is_floating_point()]
    dtypes = {x.dtype for x in floats if x.dim()} or {x.dtype for x in floats}
    common = next(d for d in (torch.float64, torch.float32, torch.float16, torch.bfloat16) if d in dtypes)
    to = common if common in (torch.float64, torch.float32) else torch.float32
    return [(x if isinstance(x, Tensor) else torch.tensor(x, dtype=torch.float64)).to(common).to(to) for x in operands]


def offset(d: Tensor, h: Any, *operands: Tensor) -> Tensor:
    """``d / (2 h)`` on the closed band ``|d| <= h``, else 0 without a gradient; centred."""
    h = torch.as_tensor(h, dtype=torch.float64 if not isinstance(h, Tensor) else h.dtype)
    inside = (d.detach().abs() <= h.detach().to(d.dtype)) & d.isfinite()  # (two without dimensions would be promoted)
    for x in operands:
        inside = inside & x.isfinite()
    d, h = torch.where(inside, d, 0.0).double(), torch.where(inside, h, 1.0).double()
    return centred(d / (2 * h))


# --- steps (L1) ------------------------------------------------------------------------------------------------------


def toward_zero(n: Tensor) -> tuple[Tensor, Tensor]:
    return torch.where(n > 0, n - 1, n), torch.where(n < 0, n + 1, n)


def float_step(ref: Any, name: str, func: Any, args: Any, kwargs: Any) -> Any:
    operands = args[::-1] if name in ("rfloordiv", "rmod") else args
    name = {"rfloordiv": "floor_divide", "rmod": "remainder"}.get(name, name)
    if not any(tracked(x) for x in (*args, *kwargs.values())):
        return NotImplemented
    if name == "div" and kwargs.get("rounding_mode") is None:
        return NotImplemented
    divisor = operands[1] if len(operands) > 1 else kwargs.get("other")
    with torch.set_grad_enabled(name in OWN):
        out = func(*args, **kwargs)
    if name in ("floor_divide", "div", "remainder", "fmod"):
        found = at_multiples(ref, name, kwargs.get("rounding_mode"), operands[0], divisor)
    elif name in ("round", "floor", "ceil", "trunc", "frac"):
        found = at_integers(ref, name, operands[0], int(kwargs.get("decimals", 0)))
    else:
        found = at_zero(ref, name, operands, kwargs)
    if found is None:
        return out
    q, below, above = found
    if name in ("remainder", "fmod"):
        a, m = wide(operands[0], divisor)
        ratio = a.detach().double() / m.detach().double()  # (a quotient of denormals is no zero)
        times = ratio.floor() if name == "remainder" else ratio.trunc()
        out = with_gradient(out, finite(a - times * m).double())
    if ref.eps == "auto" and name in ("remainder", "fmod", "frac"):  # a sawtooth keeps its own slope
        ref.saws[id(out)] = out, operands[0]
        return out
    out = with_gradient(out, finite((above - below).detach().double()) * q)
    if name == "sign":
        ref.put(out, shadow(out, 0.0, -out.detach().double(), u=0.0))
    elif name not in OWN and name != "heaviside" and not kwargs.get("decimals"):
        ref.put(out, shadow(out, 0.0, (below + above - out.detach()).double()))
    return out


def at_zero(ref: Any, name: str, operands: Any, kwargs: Any) -> Any:
    first = operands[0]
    if name == "copysign":
        if not tracked(operands[1]):
            return None
        size, d = wide(first, operands[1])
        size = size.abs()
        return offset(d, ref.width("comparison", d), d), -size, size
    (x,) = wide(first)
    if name in ("sign", "heaviside", "angle"):
        below, above = {"sign": (-1.0, 1.0), "heaviside": (0.0, 1.0), "angle": (math.pi, 0.0)}[name]
        return offset(x, ref.width("comparison", x), x), *torch.tensor([below, above], dtype=torch.float64)
    if name == "hardshrink":
        d = x.abs() - named(operands, kwargs, "input", "lambd").get("lambd", 0.5)
        return offset(d, ref.width("comparison", d), x), torch.zeros_like(x), x
    arguments = named(operands, kwargs, "input", "threshold", "value")
    x, t = wide(first, arguments["threshold"])
    return offset(x - t, ref.width("comparison", x - t), x), torch.full_like(x, arguments["value"]), x


def at_integers(ref: Any, name: str, x: Tensor, decimals: int) -> Any:
    (x,) = wide(x)
    v = x.detach()
    if name == "round" and decimals:
        unit = lambda n: n / 10.0**decimals if decimals > 0 else n * 10.0**-decimals
        lower = (v * 10.0**decimals if decimals > 0 else v / 10.0**-decimals).floor()
        d, limit, below, above = x - unit(lower + 0.5), 0.5 * 10.0**-decimals, unit(lower), unit(lower + 1)
    elif name == "round":
        d, limit, below, above = (x - v.floor()) - 0.5, 0.5, v.floor(), v.floor() + 1
    else:
        n = v.round()
        d, limit = x - n, 0.5
        below, above = (n - 1, n) if name == "floor" else (n, n + 1) if name == "ceil" else toward_zero(n)
    kind = "remainder" if name == "frac" else "step"
    if name == "frac":
        below, above = v - below, v - above
    return offset(d, ref.width(kind, d, limit), x), below, above


def at_multiples(ref: Any, name: str, mode: str | None, x: Any, m: Any) -> Any:
    """Boundaries at ``n m``, in the units of `x`; the half-width ``min(eps, |m| / 2)`` moves with `m`."""
    if not isinstance(m, Tensor) and m == 0:
        return None
    x, m = wide(x, m)
    n = (x.detach() / m.detach()).round()
    valid = n.isfinite() & x.isfinite() & m.isfinite() & (m != 0)
    n, safe = torch.where(valid, n, 0.0), torch.where(valid, m, 1.0)
    d = (x - n * safe) * safe.detach().sign()
    kind = "remainder" if name in ("remainder", "fmod") else "step"
    h = torch.minimum(safe.abs() / 2, safe.detach().abs() * 0.5 if ref.eps == "auto" else safe.new_tensor(ref.eps))
    q = offset(torch.where(valid, d, NAN), h)
    below, above = (n - 1, n) if name in ("floor_divide", "remainder") or mode == "floor" else toward_zero(n)
    if kind == "remainder":
        below, above = x - below * safe, x - above * safe
    return q, below, above


# --- comparisons (L2, L12) -------------------------------------------------------------------------------------------


def comparison(ref: Any, name: str, func: Any, args: Any, kwargs: Any) -> Any:
    operands = [*args, *kwargs.values()]
    carried = any(discrete(x) and ref.get(x) is not None for x in operands)
    floats = any(tracked(x) for x in operands)
    if not floats:
        return NotImplemented
    out = ref.through(func, args, kwargs) if carried else func(*args, **kwargs)
    known = ref.get(out)
    more: Any = 0.0 if known is None else known.s
    if name == "isclose":
        a, b = wide(*operands[:2])
        d = kwargs.get("atol", 1e-8) + kwargs.get("rtol", 1e-5) * b.abs() - (a - b).abs()
        sign = 1
    elif name == "signbit":
        (d,), sign = wide(operands[0]), -1
    else:
        a, b = wide(*operands[:2])
        d, sign = a - b, {"gt": 1, "ge": 1, "lt": -1, "le": -1}[name]
    return ref.put(out, shadow(out, more + sign * offset(d, ref.width("comparison", d))))


def equality(ref: Any, name: str, func: Any, args: Any, kwargs: Any) -> Any:
    """Of what came straight from a rounding op; of other floats there is no gradient."""
    rounded = [x for x in args if tracked(x) and ref.get(x) is not None]
    carried = any(discrete(x) and ref.get(x) is not None for x in args)
    if not rounded:
        return NotImplemented if carried else func(*args, **kwargs)
    out = ref.through(func, args, kwargs) if carried else func(*args, **kwargs)
    known = ref.get(out)
    more: Any = 0.0 if known is None else known.s
    for x in {id(x): x for x in rounded}.values():
        alt, n = ref.get(x).alt, x.detach().double()
        alt = torch.where(alt.isnan(), n, alt)
        jump = value_at(func, args, kwargs, {id(x): alt}) - value_at(func, args, kwargs, {})
        more = more + jump / nonzero(alt - n) * centred(torch.where(x.isfinite(), x, 0.0).double())
    return ref.put(out, shadow(out, more))


# --- casts (L3, L4) --------------------------------------------------------------------------------------------------


def cast(ref: Any, name: str, func: Any, args: Any, kwargs: Any) -> Any:
    x = args[0]
    if discrete(x):
        return NotImplemented
    out = func(*args, **kwargs)
    if not tracked(x) or not discrete(out):
        return out
    if out.dtype == torch.bool:
        return equality(ref, "ne", torch.ne, (x, 0), {})
    (value,) = wide(x)
    fixed = value.detach()
    whole, memory = fixed == fixed.trunc(), ref.get(x)
    nearest = fixed.sign() * fixed.abs().round().clamp(min=1)  # integer but 0
    d = value - nearest
    q = offset(d, ref.width("step", d, 0.5))
    s = torch.where(whole & fixed.isfinite(), centred(torch.where(fixed.isfinite(), value, 0.0).double()), q)
    passed = fixed.abs() >= nearest.abs()
    alt = torch.where(passed, nearest - fixed.sign(), nearest).double()
    beside = torch.where(fixed == 0, 1.0, fixed - fixed.sign()).double()
    known = beside if memory is None else memory.alt.trunc()
    ones = 1.0 if memory is None else memory.u
    return ref.put(out, shadow(out, s, torch.where(whole, known, alt), u=ones))


# --- logic and counts (L7) -------------------------------------------------------------------------------------------


def over(x: Tensor, reduce: Any, dim: Any, keepdim: bool) -> Tensor:
    dims = range(x.dim()) if dim is None else [dim] if isinstance(dim, int) else dim
    for d in sorted((d % max(x.dim(), 1) for d in dims), reverse=True):
        x = reduce(x, d, keepdim=True) if x.shape[d] or reduce in (Tensor.sum, Tensor.prod) else x.sum(d, keepdim=True)
    if keepdim:
        return x
    return x.squeeze(tuple(dims)) if x.dim() else x


def any_all(ref: Any, name: str, func: Any, args: Any, kwargs: Any) -> Any:
    x = args[0]
    if not discrete(x) or name in ("amax", "amin", "max", "min") and x.dtype != torch.bool:
        return NotImplemented
    given = named(args, kwargs, "input", "dim", "keepdim")
    dim, keepdim = given.get("dim"), bool(given.get("keepdim", False))
    hard, flags = func(*args, **kwargs), x if x.dtype == torch.bool else ref.call("ne", torch.ne, (x, 0), {})
    every = name in ("all", "amin", "min")
    m = 1 - ref.real(flags) if every else ref.real(flags)
    known = ref.get(flags)
    found = 1 - over(1 - m, Tensor.prod, dim, keepdim)
    if known is not None:  # places of one choice exclude each other
        first, last = (over(known.o, reduce, dim, keepdim) for reduce in (Tensor.amin, Tensor.amax))
        found = torch.where(first == last, over(m, Tensor.sum, dim, keepdim), found)
    return ref.result(hard, 1 - found if every else found)


def count_nonzero(ref: Any, name: str, func: Any, args: Any, kwargs: Any) -> Any:
    dim = named(args, kwargs, "input", "dim").get("dim")
    x = args[0] if args[0].dtype == torch.bool else ref.call("ne", torch.ne, (args[0], 0), {})
    return ref.call("sum", torch.sum, (x,) if dim is None else (x, dim), {})


def bincount(ref: Any, name: str, func: Any, args: Any, kwargs: Any) -> Any:
    given = named(args, kwargs, "input", "weights", "minlength")
    hard = func(*args, **kwargs)
    hot = ref.real(ref.call("one_hot", F.one_hot, (args[0].long(), len(hard)), {}))
    if args[0].dtype != torch.int64:
        hot = ref.real(ref.call("one_hot", F.one_hot, (ref.call("long", Tensor.long, (args[0],), {}), len(hard)), {}))
    weights = given.get("weights")
    return ref.result(hard, hot.sum(0) if weights is None else (hot * weights.double().unsqueeze(-1)).sum(0))


# --- choices and orders (L8) -----------------------------------------------------------------------------------------


def projection(z: Tensor, k: int) -> Tensor:
    """Of rows of numbers on ``{0 <= m <= 1, sum m = k}``, by bisection; differentiable."""
    if k <= 0 or k >= z.shape[-1]:
        return torch.full_like(z, float(k > 0))
    fixed = z.detach()
    low, high = fixed.amin(-1, keepdim=True) - 2, fixed.amax(-1, keepdim=True) + 1
    for _ in range(90):
        middle = (low + high) / 2
        over = (fixed - middle).clamp(0, 1).sum(-1, keepdim=True) > k
        low, high = torch.where(over, middle, low), torch.where(over, high, middle)
    m = (fixed - (low + high) / 2).clamp(0, 1)
    some = (m > 1e-9) & (m < 1 - 1e-9)
    mean = torch.where(some, z, 0.0).sum(-1, keepdim=True) / some.sum(-1, keepdim=True).clamp(min=1)
    return m + torch.where(some, centred(z - mean), 0.0)


def rows_of(x: Tensor, dim: int, largest: bool) -> Tensor:
    rows = (x.reshape(1) if x.dim() == 0 else x.movedim(dim, -1)).double()
    rows = torch.where(rows.isnan(), math.inf, rows)
    return rows if largest else -rows


def in_units(rows: Tensor, h: float) -> Tensor:
    """Infinite entries are in or out: each far from all others."""
    far = torch.arange(rows.shape[-1]) * 4 + 1e6
    z = rows / h
    return torch.where(z.isfinite(), z, torch.where(z > 0, far, -far).to(z.dtype))


def leads(rows: Tensor) -> Tensor:
    best = rows.detach().reshape(-1, rows.shape[-1]).topk(2, -1).values
    return best[:, 0] - best[:, 1]


def pairs(rows: Tensor) -> Tensor:
    """The pairs whose distances "auto" looks at: multiples of golden ratios, rows shared out."""
    n, rows = rows.shape[-1], rows.detach().reshape(-1, rows.shape[-1])
    assert len(rows) <= 128
    k = torch.arange(max(1, min(n * (n - 1) // 2, 1024 // max(len(rows), 1))))
    first, apart = (k * 0.6180339887498949 * n).long() % n, 1 + (k * 0.7548776662466927 * (n - 1)).long() % (n - 1)
    return (rows[:, first] - rows[:, (first + apart) % n]).reshape(-1)


def weigh_best(ref: Any, x: Tensor, index: Tensor, dim: int | None, keepdim: bool, largest: bool) -> None:
    flat = x.reshape(-1) if dim is None else x
    rows = rows_of(flat, -1 if dim is None else dim, largest)
    n = rows.shape[-1]
    if n < 2 or not x.numel():
        return
    h = ref.width("choice", leads(rows))
    best = rows.detach().amax(-1, keepdim=True)
    if ref.eps == "auto":
        w = centred((torch.where(best.isfinite(), rows, 0) / h).softmax(-1))
    else:
        z = torch.where(best.isfinite(), in_units(rows, h), -4.0 * torch.arange(n))
        w = centred(projection(z, 1))
    if keepdim and x.dim():
        w = w.reshape(*[1] * x.dim(), n) if dim is None else w.unsqueeze(dim if dim >= 0 else dim - 1)
    w = w.reshape(*index.shape, n)
    own = ref.owners(index.numel()).reshape(index.shape)
    ref.put(index, shadow(index, c=torch.arange(n).double().expand(w.shape), w=w, o=own))


def argmax(ref: Any, name: str, func: Any, args: Any, kwargs: Any) -> Any:
    given = named(args, kwargs, "input", "dim", "keepdim")
    x, dim, keepdim = given["input"], given.get("dim"), bool(given.get("keepdim", False))
    out = func(*args, **kwargs)
    if tracked(x):
        weigh_best(ref, x, out, dim, keepdim, name == "argmax")
    return out


def extremum(ref: Any, name: str, func: Any, args: Any, kwargs: Any) -> Any:
    """``max(x, dim)``; ``max(a, b)`` is elementwise, ``max(x)`` a reduction."""
    given = named(args, kwargs, "input", "dim", "keepdim")
    x, dim = given["input"], given.get("dim")
    if isinstance(dim, Tensor) or "other" in given:
        return ref.call(name + "imum", func, args, kwargs)
    if dim is None:
        if not discrete(x):
            return func(*args, **kwargs)
        return NotImplemented if x.dtype == torch.bool else ref.linear(getattr(torch, "a" + name), args, kwargs)
    out = func(*args, **kwargs)
    if tracked(x):
        weigh_best(ref, x, out.indices, dim, bool(given.get("keepdim", False)), name == "max")
    elif ref.get(x) is not None:
        ref.result(out.values, getattr(ref.real(x), name)(dim, bool(given.get("keepdim", False))).values)
    return out


def places_of(rows: Tensor, ks: range) -> Tensor:
    """``P``: which element stands at the place `i`, for each in `ks`; (..., places, elements)."""
    first = [projection(rows, k) for k in range(ks.start, ks.stop + 1)]
    return centred(torch.stack([b - a for a, b in zip(first, first[1:])], -2))


def order(ref: Any, name: str, func: Any, args: Any, kwargs: Any) -> Any:
    out = func(*args, **kwargs)
    names = {"topk": ("input", "k", "dim", "largest", "sorted"), "kthvalue": ("input", "k", "dim", "keepdim")}
    usual = ("input", "dim", "descending") if "sort" in name else ("input", "dim", "keepdim")
    given = named(args, kwargs, *names.get(name, usual))
    x, index = given["input"], out if isinstance(out, Tensor) else out.indices
    dim = given.get("dim", -1)
    if id(x) in ref.orders and name in ("sort", "argsort"):
        assert ref.orders[id(x)][2] == dim % x.dim() and not given.get("descending")
        ref.put_ranks(x, index)
        return out
    if not tracked(x) or dim is None or x.dim() == 0 or x.numel() == 0 or x.shape[dim] < 2:
        return out
    n, dim = x.shape[dim], dim % x.dim()
    rows = rows_of(x, dim, bool(given.get("largest" if name == "topk" else "descending", name == "topk")))
    if name == "topk":
        k = int(given["k"])
        h, ks = ref.width("subset", subset(rows, k)), range(k)
    else:
        h, ks = ref.width("order", pairs(rows)), range(n)
    w = places_of(in_units(rows, h), ks)
    if name in ("kthvalue", "median", "nanmedian"):
        at = int(given["k"]) - 1 if name == "kthvalue" else (n - 1) // 2
        w = w[..., at, :].reshape(*index.shape, n)
    elif name == "topk" and not given.get("sorted", True):  # places by the element that stands there
        ordered = rows.detach().sort(-1, descending=True).indices
        chosen = index.movedim(dim, -1)
        at = (ordered.unsqueeze(-2) == chosen.unsqueeze(-1)).int().argmax(-1).clamp(max=k - 1)  # (equals)
        w = w.gather(-2, at.unsqueeze(-1).expand(*at.shape, n)).movedim(-2, dim)
    else:
        if "sort" in name:
            ref.orders[id(index)] = (index, w, dim, numbers_of(-rows, h).movedim(-1, dim))
        w = w.movedim(-2, dim)
    own = NAN if name in ("kthvalue", "median", "nanmedian") else ref.rows_own(index, dim)
    ref.put(index, shadow(index, c=torch.arange(n).double().expand(w.shape), w=w, o=own))
    return out


def numbers_of(rows: Tensor, h: float) -> Tensor:
    """The ranks as numbers: how many are smaller, one ramp for each pair (``sll.rank``)."""
    d = rows.unsqueeze(-1) - rows.unsqueeze(-2)
    return offset(d, h).sum(-1)


def subset(rows: Tensor, k: int) -> Tensor:
    if k >= rows.shape[-1]:
        return pairs(rows)
    rows = rows.detach().reshape(-1, rows.shape[-1])
    best = rows.topk(k + 1, -1).values
    return (rows - (best[:, k - 1 : k] + best[:, k:]) / 2).reshape(-1)


def searchsorted(ref: Any, name: str, func: Any, args: Any, kwargs: Any) -> Any:
    """The count of boundaries passed: a decision at the nearest, its band not beyond the middle to the next."""
    first, second = ("sorted_sequence", "input") if name == "searchsorted" else ("input", "boundaries")
    given = named(args, kwargs, first, second)
    edges, x = given["sorted_sequence" if name == "searchsorted" else "boundaries"], given["input"]
    if not tracked(x) and not tracked(edges):
        return NotImplemented
    hard = func(*args, **kwargs)
    edges, x = wide(edges, x)
    many = edges.shape[-1]
    if not many or not hard.numel():
        return hard
    edges = edges.expand(*x.shape[:-1], many) if edges.dim() > 1 else edges
    each = edges.unsqueeze(-2) if edges.dim() > 1 else edges
    apart = (x.unsqueeze(-1) - each).detach().abs()
    count = hard.long()
    gaps = torch.where(apart.isnan(), math.inf, apart)
    upper = gaps.gather(-1, count.clamp(max=many - 1).unsqueeze(-1)).squeeze(-1)
    lower = gaps.gather(-1, (count - 1).clamp(min=0).unsqueeze(-1)).squeeze(-1)
    nearest = torch.where((count == many) | (count > 0) & (lower <= upper), count - 1, count)
    at = each.expand(apart.shape).gather(-1, nearest.unsqueeze(-1)).squeeze(-1)
    below, above = ((each < at.unsqueeze(-1)).sum(-1), (each <= at.unsqueeze(-1)).sum(-1))
    to_others = (each - at.unsqueeze(-1)).abs()  # (the width moves with the edges)
    limit = torch.where(to_others > 0, to_others, math.inf).amin(-1) / 2
    d = x - at
    h = limit.clamp(max=ref.width("step", d))
    s = (above - below) * offset(d, h)
    return ref.put(hard, shadow(hard, s, torch.where(hard == above, below, above).double(), u=0.0))


def histc(ref: Any, name: str, func: Any, args: Any, kwargs: Any) -> Any:
    given = named(args, kwargs, "input", "bins", "min", "max")
    x, bins, low, high = (given.get(key, value) for key, value in (("input", 0), ("bins", 100), ("min", 0), ("max", 0)))
    hard = func(*args, **kwargs)
    if not tracked(x):
        return NotImplemented
    data = low == high
    low, high = (float(x.detach().min()), float(x.detach().max())) if data else (low, high)
    edges = torch.linspace(low, high, bins + 1, dtype=wide(x)[0].dtype)
    place = searchsorted(ref, "searchsorted", torch.searchsorted, (edges, wide(x)[0].reshape(-1)), {"right": True})
    if data:
        place = ref.call("clamp", torch.clamp, (place, 1, bins), {})
    hot = ref.real(ref.call("one_hot", F.one_hot, (place, bins + 2), {}))
    return with_gradient(hard, centred(hot.sum(0)[1:-1]))


DECISIONS = [
    (
        "sign round floor ceil trunc frac heaviside hardshrink threshold angle copysign remainder fmod floor_divide "
        "div rfloordiv rmod",
        float_step,
    ),
    ("gt ge lt le isclose signbit", comparison),
    ("eq ne", equality),
    ("long int short char byte to type type_as bool", cast),
    ("any all amax amin max min", any_all),
    ("count_nonzero", count_nonzero),
    ("bincount", bincount),
    ("argmax argmin", argmax),
    ("max min", extremum),
    ("topk sort argsort kthvalue median nanmedian", order),
    ("searchsorted bucketize", searchsorted),
    ("histc", histc),
]
