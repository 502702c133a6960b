"""Looks for discrete functions of torch by sampling, and at what a region makes of them.

Every function of `torch`, `F`, `special`, `linalg`, `fft` and every method of `Tensor` is called with a handful of
arguments, along a path. A result that changes where autograd's gradient does not say so *jumps*. What jumps, and what
changes if a mask or an index changes that goes in, has a gradient in a region, or is counted as lost.
"""

from __future__ import annotations

import math
import warnings
from collections.abc import Callable, Iterator
from typing import Any, NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor
from torch.utils._pytree import tree_leaves

import sll

SPACES = {"torch": torch, "F": F, "special": torch.special, "linalg": torch.linalg, "fft": torch.fft, "Tensor": Tensor}
STEPS = 48


class Case(NamedTuple):
    """A function, its arguments at the two ends of a path, and options."""

    name: str
    func: Callable[..., Any]
    start: tuple[Any, ...]
    end: tuple[Any, ...]
    options: dict[str, Any] = {}

    def at(self, t: float) -> tuple[Any, ...]:
        between = lambda a, b: torch.lerp(a, b, t) if isinstance(a, Tensor) and a.is_floating_point() else a
        return tuple(map(between, self.start, self.end))

    def call(self, args: tuple[Any, ...]) -> list[Tensor]:
        """The tensors that it returns; what is written to is a copy."""
        torch.manual_seed(0)
        in_place = self.name.endswith("_")
        args = tuple(x.clone() if in_place and isinstance(x, Tensor) and i == 0 else x for i, x in enumerate(args))
        return [x for x in tree_leaves(self.func(*args, **self.options)) if isinstance(x, Tensor)]


def functions() -> Iterator[tuple[str, Callable[..., Any]]]:
    """Public ones, with their names."""
    seen, names = set(), set()
    for space, namespace in SPACES.items():
        for name in sorted(dir(namespace)):
            func = getattr(namespace, name, None)
            private = name.startswith("_") and not (space == "Tensor" and name.startswith("__"))
            if private or not callable(func) or isinstance(func, type) or name in UNSAFE or id(func) in seen:
                continue
            if space != "Tensor" and not _of_torch(func):
                continue
            if space == "Tensor" and (name in names or name.endswith("_") and name.rstrip("_") in names):
                continue  # one row has them all
            if name.endswith("_") and name[:-1] in names:
                continue
            seen.add(id(func))
            names.add(name)
            yield f"{space}.{name}", func


def _of_torch(func: Any) -> bool:
    return type(func).__name__ in ("builtin_function_or_method", "function") and func not in UNSAFE


UNSAFE = set(
    """
    set_ resize_ resize_as_ resize_as_sparse_ sparse_resize_ sparse_resize_and_clear_ share_memory_ backward
    register_hook register_post_accumulate_grad_hook requires_grad_ retain_grad set_default_dtype set_num_threads
    set_num_interop_threads set_default_device set_default_tensor_type set_deterministic_debug_mode set_flush_denormal
    set_float32_matmul_precision set_grad_enabled set_printoptions set_rng_state set_warn_always seed manual_seed
    use_deterministic_algorithms autocast_increment_nesting autocast_decrement_nesting set_autocast_enabled
    set_anomaly_enabled init_num_threads load save compile import_ir_module from_file storage_type __class__ __new__
    __init__ __init_subclass__ __subclasshook__ __reduce__ __reduce_ex__ __setstate__ __setattr__ __delattr__
    __getattribute__ __torch_function__ __torch_dispatch__ __deepcopy__ __dlpack__ __array__ __array_wrap__ __dir__
    __repr__ __str__ __format__ __sizeof__ __hash__ __cuda_array_interface__ is_grad_enabled fork wait
    has_torch_function has_torch_function_unary has_torch_function_variadic handle_torch_function
    boolean_dispatch assert_never _assert cond while_loop vmap module_load rename rename_ refine_names align_as align_to
    lobpcg
    """.split()
)

# --- arguments ---

_G = torch.Generator()


def _x(*shape: int, low: float = -1.9, high: float = 1.9) -> tuple[Tensor, Tensor]:
    """The ends of a path."""
    a, b = torch.rand(2, *shape, generator=_G, dtype=torch.float64) * (high - low) + low
    return a, b


def arguments() -> list[tuple[Any, ...]]:
    """Lists of arguments, the tensors as pairs: where the path starts, and where it ends."""
    _G.manual_seed(1)
    v, w, s, n = _x(5), _x(5), _x(3, 3), _x(1, 2, 4, 4)
    p, q = _x(5, low=0.1, high=0.9), _x(3, 3, low=0.1, high=0.9)
    return [
        (v,), (p,), (s,), (v, w), (p, p), (v, 0.7), (v, 2), (0.7, v), (s, _x(3, 3)), (v, w, _x(5)), (p, 0.2, 0.9),
        (s, 1), (s, 0, 1), (q,), (_x(2, 3, 4),), (n, 2), (_x(1, 2, 8), 2), (n,), (_x(1, 1, 4, 4, 4), 2),
        (n, _x(1, 3, 3, 2, low=-0.9, high=0.9)),
    ]  # fmt: skip


def with_options() -> Iterator[Case]:
    """Functions of which the options decide."""
    _G.manual_seed(2)
    v, s, image, volume = _x(6), _x(3, 4), _x(1, 2, 4, 4), _x(1, 1, 4, 4, 4)
    grid, zero = _x(1, 3, 3, 2, low=-0.9, high=0.9), torch.tensor(1, dtype=torch.int32)
    scale = (torch.tensor([0.2], dtype=torch.float32), torch.tensor([0.3], dtype=torch.float32))
    half, channels = _single(v), _single(s)
    inputs: list[tuple[str, Callable[..., Any], tuple[Any, ...], dict[str, Any]]] = [
        ("torch.div", torch.div, (v, 0.4), {"rounding_mode": "floor"}),
        ("torch.round", torch.round, (v,), {"decimals": 1}),
        ("F.grid_sample", F.grid_sample, (image, grid), {"mode": "nearest", "align_corners": False}),
        ("F.grid_sample", F.grid_sample, (image, grid), {"mode": "nearest", "padding_mode": "border"}),
        *(("F.max_pool1d", F.max_pool1d, (_x(1, 2, 8), 3, 2), {"return_indices": True}) for _ in range(1)),
        ("F.max_pool2d", F.max_pool2d, (image, 2, 1), {"return_indices": True}),
        ("F.max_pool3d", F.max_pool3d, (volume, 2), {"return_indices": True}),
        ("F.adaptive_max_pool1d", F.adaptive_max_pool1d, (_x(1, 2, 8), 3), {"return_indices": True}),
        ("F.adaptive_max_pool2d", F.adaptive_max_pool2d, (image, 3), {"return_indices": True}),
        ("F.adaptive_max_pool3d", F.adaptive_max_pool3d, (volume, 2), {"return_indices": True}),
        ("torch.cummax", torch.cummax, (s, 1), {}),
        ("torch.cummin", torch.cummin, (s, 0), {}),
        ("torch.mode", torch.mode, (s, 1), {}),
        ("torch.unique", torch.unique, (v,), {"return_inverse": True}),
        ("torch.topk", torch.topk, (v, 2), {}),
        ("torch.kthvalue", torch.kthvalue, (v, 2), {}),
        ("torch.bucketize", torch.bucketize, (v, torch.tensor([-1.0, 0.0, 1.0], dtype=torch.float64)), {}),
        ("torch.frexp", torch.frexp, (_x(5, low=0.3, high=5.0),), {}),
        ("torch.histc", torch.histc, (v, 4, -2, 2), {}),
        ("torch.histogram", torch.histogram, (v, 4), {"range": (-2.0, 2.0)}),
        ("torch.histogramdd", torch.histogramdd, (_x(5, 2), [3, 2]), {"range": [-2.0, 2.0, -2.0, 2.0]}),
        ("torch.fake_quantize_per_tensor_affine", torch.fake_quantize_per_tensor_affine, (half, 0.2, 1, -8, 7), {}),
        (
            "torch.fake_quantize_per_tensor_affine", torch.fake_quantize_per_tensor_affine,
            (half, scale, zero, -8, 7), {},
        ),
        (
            "torch.fake_quantize_per_channel_affine", torch.fake_quantize_per_channel_affine,
            (channels, torch.tensor([0.2, 0.3, 0.4]), torch.tensor([0, 1, 2], dtype=torch.int32), 0, -8, 7), {},
        ),
        (
            "torch._fake_quantize_learnable_per_tensor_affine", torch._fake_quantize_learnable_per_tensor_affine,
            (half, scale, torch.tensor([0.0]), -8, 7, 1.0), {},
        ),
    ]  # fmt: skip
    for name, func, args, options in inputs:
        yield _case(name, func, args, options)


def _single(path: tuple[Tensor, Tensor]) -> tuple[Tensor, Tensor]:
    return path[0].float(), path[1].float()


def _case(name: str, func: Callable[..., Any], args: tuple[Any, ...], options: dict[str, Any]) -> Case:
    ends = [x if isinstance(x, tuple) and isinstance(x[0], Tensor) else (x, x) for x in args]
    return Case(name, func, tuple(a for a, _ in ends), tuple(b for _, b in ends), options)


def cases() -> Iterator[Case]:
    """Of all functions."""
    yield from with_options()
    for name, func in functions():
        for args in arguments():
            yield _case(name, func, args, {})


# --- plain ---


def _leaves(args: tuple[Any, ...]) -> tuple[tuple[Any, ...], list[Tensor]]:
    floats: Callable[[Any], bool] = lambda x: isinstance(x, Tensor) and x.is_floating_point()
    fresh = tuple(x.clone().requires_grad_() if floats(x) else x for x in args)
    return fresh, [x for x in fresh if floats(x)]


def _weights(x: Tensor) -> Tensor:
    return torch.cos(torch.arange(1, x.numel() + 1, dtype=torch.float64)).reshape(x.shape)


def _total(x: Tensor) -> Tensor:
    """A number of which all elements of `x` are a part."""
    return (x.to(torch.float64) * _weights(x)).sum()


def _results(parts: list[Tensor]) -> list[tuple[int, Tensor]]:
    return [
        (k, x) for k, x in enumerate(parts) if not x.is_complex() and x.layout is torch.strided and not x.is_quantized
    ]


def jumping(case: Case) -> dict[int, float]:
    """The results that jump, by their numbers, and when: found in the three roughest steps by bisection."""
    found: dict[int, float] = {}
    with torch.no_grad():
        totals = lambda t: {k: float(_total(x)) for k, x in _results(case.call(case.at(t)))}
        path = [totals(i / STEPS) for i in range(STEPS + 1)]
        for k in path[0]:
            values = torch.tensor([at.get(k, math.nan) for at in path])
            rough = torch.diff(torch.diff(values)).abs()
            if not values.isfinite().all() or not rough.any():
                continue
            for i in torch.topk(rough, 3).indices.tolist():
                if (at := _jump(lambda t: totals(t).get(k, math.nan), i / STEPS, (i + 2) / STEPS)) is not None:  # noqa: B023
                    found.setdefault(k, at)
    return found


def _jump(f: Callable[[float], float], low: float, high: float) -> float | None:
    """Where `f` jumps; None if it does not, or has a pole."""
    first, last = f(low), f(high)
    size = most = 0.0
    for _ in range(36):
        middle = (low + high) / 2
        value = f(middle)
        if size < most / 16:
            return None
        if abs(value - first) > abs(last - value):
            high, last = middle, value
        else:
            low, first = middle, value
        size, most = abs(last - first), max(most, size)
    return low if 1e-6 * max(1.0, abs(first)) < size < 1e6 and size > 0.2 * most else None


# --- in a region ---

MODES = ("straight-through", "hard", "linear")


def becomes(case: Case, result: int, t: float, forward: str) -> str:
    """What a region makes of a result that jumps at `t`: "followed", "reported" or "nothing"."""
    if forward == "straight-through":
        _, slope, lost = _along(case, result, t, forward)
        jumps = slope is not None and abs(slope - (_along(case, result, t, None)[1] or 0.0)) > 1e-6
        return "followed" if jumps else "reported" if lost else "nothing"
    plain = lambda t: _along(case, result, t, None)[0]
    width = next((w for w in (0.01, 0.02, 0.04, 0.08) if all(_clear(case, result, t + s * w) for s in (-1, 1))), 0.08)
    low, high = max(0.0, t - width), min(1.0, t + width)
    found = [_along(case, result, low + (high - low) * (i + 0.5) / MANY, forward) for i in range(MANY)]
    area, want = (high - low) * sum(slope or 0.0 for _, slope, _ in found) / MANY, plain(high) - plain(low)
    if abs(area - want) < 0.2 * max(abs(want), abs(plain(t + 1e-9) - plain(t - 1e-9))):
        return "followed"
    return "reported" if any(lost for _, _, lost in found) else "nothing"


EPS = 4e-3
MANY = 100
"""Points around a jump."""


def _clear(case: Case, result: int, t: float) -> bool:
    if not 0 <= t <= 1:
        return False
    return _along(case, result, t, "linear")[0] == _along(case, result, t, None)[0]


def _along(case: Case, result: int, t: float, forward: str | None) -> tuple[float, float | None, bool]:
    """A result at one point of the path: its value, its slope along the path, and whether something was lost."""
    args, floats = _leaves(case.at(t))
    if forward is None:
        try:
            y, lost = _total(case.call(args)[result]), False
        except RuntimeError:  # torch has no derivative
            return float(_total(case.call(case.at(t))[result])), None, False
    else:
        with sll.linearize(EPS, forward=forward, on_lost="ignore") as region:
            y = _total(case.call(args)[result])
        report = region.report()
        lost = bool(report.lost or report.approximate)
    if not y.requires_grad:
        return float(y), None, lost
    try:
        found = torch.autograd.grad(y, floats, allow_unused=True)
    except RuntimeError:  # torch has no derivative
        return float(y), None, lost
    ways = [b - a for a, b in zip(case.start, case.end) if isinstance(a, Tensor) and a.is_floating_point()]
    return float(y), float(sum((g * way).sum() for g, way in zip(found, ways) if g is not None)), lost


# --- what goes in ---


class Passing(NamedTuple):
    """A function, and arguments of which one is made by a decision, at two points with one decision between them."""

    name: str
    func: Callable[..., Any]
    arguments: Callable[[Tensor], tuple[Any, ...]]
    options: dict[str, Any] = {}

    def call(self, x: Tensor) -> Tensor:
        torch.manual_seed(0)
        parts = [y for y in tree_leaves(self.func(*self.arguments(x), **self.options)) if isinstance(y, Tensor)]
        return sum((_total(y) for _, y in _results(parts)), torch.zeros((), dtype=torch.float64))


def decided_arguments() -> list[Callable[[Tensor], tuple[Any, ...]]]:
    """Arguments with a mask or an index, made of six numbers."""
    mask, index = lambda x: x > 0, lambda x: (x > 0).long()
    v, w, table = lambda: V.clone(), lambda: W.clone(), lambda: TABLE.clone()
    where, at = lambda: torch.tensor([True, False, True, True, False, False]), lambda: torch.tensor([1, 0, 0, 1, 2, 3])
    return [
        lambda x: (mask(x),), lambda x: (index(x),), lambda x: (mask(x).view(2, 3),), lambda x: (index(x).view(2, 3),),
        lambda x: (mask(x), v()), lambda x: (v(), mask(x)), lambda x: (index(x), v()), lambda x: (v(), index(x)),
        lambda x: (mask(x), v(), w()), lambda x: (v(), mask(x), 0.5), lambda x: (v(), mask(x), w()),
        lambda x: (v(), 0, index(x)), lambda x: (v(), 0, index(x), w()), lambda x: (v(), 0, index(x), 0.5),
        lambda x: (index(x).view(2, 3), table()), lambda x: (index(x), 2), lambda x: (mask(x), 0),
        lambda x: (index(x), 0), lambda x: (mask(x), where()), lambda x: (where(), mask(x)), lambda x: (index(x), at()),
        lambda x: (at(), index(x)), lambda x: (table(), index(x)[1:5]), lambda x: (v(), index(x), w()),
        lambda x: (v(), (index(x),), w()), lambda x: (v(), 0, index(x), w(), "sum"),
        lambda x: (v(), 0, index(x), w(), "amax"), lambda x: ([mask(x), where()],),
        lambda x: (index(x).view(2, 3), torch.ones(3, dtype=torch.int64)),
    ]  # fmt: skip


V, W = torch.randn(2, 6, generator=torch.Generator().manual_seed(3), dtype=torch.float64)
TABLE = torch.randn(4, 3, generator=torch.Generator().manual_seed(4), dtype=torch.float64)


def passing() -> Iterator[Passing]:
    for name, func in functions():
        for arguments in decided_arguments():
            yield Passing(name, func, arguments)


AT = torch.tensor([0.9, -0.8, 2e-4, 1.0, -0.7, 0.6], dtype=torch.float64)
THERE = torch.tensor([0.9, -0.8, -2e-4, 1.0, -0.7, 0.6], dtype=torch.float64)


def matters(case: Passing) -> bool:
    """Whether the result is another if the decision is. (Deprecated ways to call a function raise.)"""
    with torch.no_grad(), warnings.catch_warnings():
        warnings.simplefilter("error")
        here, there = case.call(AT), case.call(THERE)
    return bool(here.isfinite() & there.isfinite() & ((here - there).abs() > 1e-9))


def passes(case: Passing, forward: str) -> str:
    """What becomes of the decision in a region: "followed", "reported" or "nothing"."""
    x = AT.clone().requires_grad_()
    with sll.linearize(EPS, forward=forward, on_lost="ignore") as region:
        y = case.call(x)
    g = torch.autograd.grad(y, x, allow_unused=True)[0] if y.requires_grad else None
    if g is not None and g[2] != 0:
        return "followed"
    report = region.report()
    return "reported" if report.lost or report.approximate or report.infinite_jumps else "nothing"
