"""Looks for discrete functions of torch by sampling, and at what a region makes of them.

Every function of `torch`, `F`, `special`, `linalg`, `fft` and every method of `Tensor` is called with a handful of
arguments, along a path. A result that changes where autograd's gradient does not say so *jumps*. What jumps, and what
changes if a mask or an index changes that goes in, has a gradient in a region, or is counted as lost.
"""

from __future__ import annotations

import itertools
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


def _numbers(parts: list[Tensor]) -> list[Tensor]:
    return [x.detach().double().reshape(-1) for x in parts if not x.is_complex() and x.layout is torch.strided]


def _leaves(args: tuple[Any, ...]) -> tuple[tuple[Any, ...], list[Tensor]]:
    floats: Callable[[Any], bool] = lambda x: isinstance(x, Tensor) and x.is_floating_point()
    fresh = tuple(x.clone().requires_grad_() if floats(x) else x for x in args)
    return fresh, [x for x in fresh if floats(x)]


class Along(NamedTuple):
    """What a result does along the path: values at each step, and the gradient times the direction of the path."""

    values: Tensor
    slopes: Tensor


def _weights(x: Tensor) -> Tensor:
    return torch.cos(torch.arange(1, x.numel() + 1, dtype=torch.float64)).reshape(x.shape)


def _total(x: Tensor) -> Tensor:
    """A number of which all elements of `x` are a part."""
    return (x.to(torch.float64) * _weights(x)).sum()


def _slope(y: Tensor, floats: list[Tensor], case: Case) -> float:
    """Along the path."""
    if not y.requires_grad:
        return 0.0
    found = torch.autograd.grad(y, floats, allow_unused=True, retain_graph=True)
    ways = [b - a for a, b in zip(case.start, case.end) if isinstance(a, Tensor) and a.is_floating_point()]
    return float(sum((g * way).sum() for g, way in zip(found, ways) if g is not None))


def follow(case: Case, steps: int, offset: float = 0.0, region: Callable[[], Any] | None = None) -> dict[int, Along]:
    """Each result along the path, by its number, in regions that `region` makes."""
    values: dict[int, list[float]] = {}
    slopes: dict[int, list[float]] = {}
    for i in range(steps + 1):
        args, floats = _leaves(case.at(min(1.0, (i + offset) / steps)))
        if region is None:
            totals = [(k, _total(x)) for k, x in _results(case.call(args))]
        else:
            with region():
                totals = [(k, _total(x)) for k, x in _results(case.call(args))]
        for k, total in totals:
            values.setdefault(k, []).append(float(total.detach()))
            slopes.setdefault(k, []).append(_slope(total, floats, case))
    many = {k for k, found in values.items() if len(found) == steps + 1}
    return {k: Along(torch.tensor(values[k]), torch.tensor(slopes[k])) for k in many}


def _results(parts: list[Tensor]) -> list[tuple[int, Tensor]]:
    return [(k, x) for k, x in enumerate(parts) if not x.is_complex() and x.layout is torch.strided and not x.is_quantized]


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
