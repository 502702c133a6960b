"""Single-pass kernels on the CPU, compiled by numba (``pip install numba``).

A step is a dozen stock PyTorch ops, each of which moves the whole tensor through memory. Here it is one loop forward
(x in, value and mask out) and one backward (g and mask in, dx out): as many bytes as a copy moves, and the mask.
`ramp.py` and `blend.py` compute the same with stock ops and are what these are tested against: masks bit for bit,
values to 1 ulp.

Nothing is imported or compiled before it is needed; numba keeps what it has compiled beside this file, or in the
user's cache folder. Several threads are used where torch uses several, except in a forked process and where two
threads ask at once: numba's thread pool outlives neither.
"""

from __future__ import annotations

import functools
import os
import threading
from types import ModuleType
from typing import Any

import torch
from torch import Tensor

LEAST = 4096
"""Elements: below it calling stock ops is as fast."""
LONGEST = 1024
PARALLEL = 1 << 18
"""Elements from which on a second thread pays."""
DTYPES = (torch.float32, torch.float64)


@functools.cache
def available() -> bool:
    """Whether numba is installed and works here. It is imported to find out: ask last."""
    try:
        from . import loops  # noqa: F401
    except Exception:  # of which kind is numba's affair: without it there are the stock ops
        return False
    return True


@functools.cache
def _loops() -> ModuleType:
    """The module, without the import machinery at every call."""
    from . import loops

    return loops


def suits(x: Tensor, least: int = LEAST) -> bool:
    """Whether the kernels can read `x` and its results can stand for what PyTorch would compute."""
    return (
        dense(x)
        and x.dtype in DTYPES
        and x.numel() >= least
        and torch._C._len_torch_dispatch_stack() == 0
        and not torch._C._get_tracing_state()
        and available()
    )


def dense(x: Tensor) -> bool:
    """Whether what lies in the CPU's memory are the numbers of `x`."""
    known = type(x) is Tensor or type(x) is torch.nn.Parameter
    return known and x.device.type == "cpu" and x.layout == torch.strided and not x.is_neg() and not batched(x)


def batched(x: Tensor) -> bool:
    """Whether `vmap`, new or old, hides a dimension of `x`."""
    functorch = torch._C._functorch
    return functorch.is_functorch_wrapped_tensor(x) or functorch.is_legacy_batchedtensor(x)


def step(kind: str, x: Tensor, numbers: tuple[float, ...], eps: float, linear: bool) -> tuple[Tensor, Tensor]:
    """The value of a step and the mask of the elements in its band; `kind` and `numbers` as in `ramp.Jump`."""
    x = _dense(x.detach())
    value, mask = torch.empty_like(x), torch.empty_like(x, dtype=torch.bool)
    given = _numbers(x.dtype, *numbers, eps, 0.5 / eps, 0.5)
    _run(kind, x.numel(), _flat(x), _flat(value), _flat(mask), given, linear)
    return value, mask


def scale(g: Tensor, mask: Tensor, slope: float) -> Tensor:
    """``where(mask, g * slope, 0)``"""
    g, mask = g.detach(), _dense(mask)  # (a hook of saved tensors may return any layout)
    if g.stride() != mask.stride():
        g = torch.empty_like(mask, dtype=g.dtype).copy_(g)
    out = torch.empty_like(mask, dtype=g.dtype)
    _run("scale", g.numel(), _flat(g), _flat(out), _flat(mask), _numbers(g.dtype, slope, 0.0))
    return out


def pick(mask: Tensor, a: Tensor, b: Tensor) -> Tensor:
    """``torch.where(mask, a, b)``, which takes up to twenty times as long of large tensors and masks without order."""
    if a.dtype == b.dtype == torch.bool and mask.numel() >= LEAST:
        return (a & mask) | (b & mask.logical_not())
    if a.dtype != b.dtype or (torch.is_grad_enabled() and (a.requires_grad or b.requires_grad)):
        return torch.where(mask, a, b)
    if not dense(mask) or not mask.is_contiguous() or not suits(a if a.numel() > b.numel() else b):
        return torch.where(mask, a, b)
    for x in (a, b):  # what strides other results have is for torch to say
        whole = x.shape == mask.shape and x.is_contiguous()
        if not dense(x) or not (whole or (x.numel() == 1 and x.dim() <= mask.dim())):
            return torch.where(mask, a, b)
    mask, a, b = mask.detach(), a.detach(), b.detach()
    value = torch.empty_like(mask, dtype=a.dtype)
    one, other = a.numel() == 1, b.numel() == 1
    _run("pick", mask.numel(), *map(_flat, (mask, a, b, value)), one, other)
    return value


def project(z: Tensor, g: Tensor, k: int, half: float | Tensor, scale: float | Tensor) -> Tensor | None:
    """`g` less its mean over the contenders of the first `k` of each row, by `scale`; None if `z` and `g` do not suit.
    There is no NaN. (Of longer rows stock ops are as fast, of float64 they are more exact.)
    """
    if z.shape[-1] > LONGEST or z.dtype != torch.float32 or g.requires_grad or not dense(g) or not suits(z):
        return None
    z, g = z.detach().contiguous(), g.contiguous()
    out = torch.empty_like(z)
    _run("project", z.numel(), *map(_flat, (z, g, out)), z.shape[-1], k, float(half), float(scale))
    return out


def blend_by_mask(offset: Tensor, taken: Tensor, below: Tensor, above: Tensor, ties: bool) -> Tensor:
    """The value of `blend.blend_by_mask`; all tensors of one shape, or one element."""
    offset, taken, low, high = (t.detach().contiguous() for t in (offset, taken, below, above))
    value = torch.empty_like(offset)
    arrays = map(_flat, (offset, taken, low, high, value))
    one, other = low.numel() == 1, high.numel() == 1
    _run("blend_by_mask", offset.numel(), *arrays, _numbers(offset.dtype, 0.5, 0.0), ties, one, other)
    return value


def blend_by_mask_backward(
    g: Tensor, offset: Tensor, taken: Tensor, below: Tensor, above: Tensor, wanted: tuple[bool, bool]
) -> tuple[Tensor, Tensor | None, Tensor | None]:
    """Gradients of the offset, and if they are wanted of what is below and of what is above."""
    g, offset, taken, low, high = (t.detach().contiguous() for t in (g, offset, taken, below, above))
    of_offset = torch.empty_like(g)
    of_below, of_above = (torch.empty_like(g) if want else g.new_empty(1) for want in wanted)
    arrays = map(_flat, (g, offset, taken, low, high, of_offset, of_below, of_above))
    one, other = low.numel() == 1, high.numel() == 1
    _run("blend_by_mask_backward", g.numel(), *arrays, _numbers(g.dtype, 0.5, 0.0), one, other, *wanted)
    return of_offset, of_below if wanted[0] else None, of_above if wanted[1] else None


# --- tensors as flat arrays ----------------------------------------------------------------------------------------


def _dense(x: Tensor) -> Tensor:
    """`x`, or a copy with the strides that elementwise ops of PyTorch give their results."""
    return x if x.is_contiguous() or _is_dense(x) else torch.empty_like(x).copy_(x)


def _is_dense(x: Tensor) -> bool:
    """Whether its elements fill one piece of memory, in whatever order."""
    expected = 1
    for stride, size in sorted(zip(x.stride(), x.shape)):
        if size > 1:
            if stride != expected:
                return False
            expected *= size
    return True


def _flat(x: Tensor) -> Any:
    """The elements of a dense tensor in the order in which they lie in memory. (Asked for `data_ptr`, a tensor that
    shares memory with a lazy clone is copied.)
    """
    offset = x.storage_offset() * x.element_size()
    return _loops().flat(torch._C._data_address(x) + offset, x.numel(), _TYPES[x.dtype])  # type: ignore[attr-defined]


_TYPES = {torch.float32: "=f4", torch.float64: "=f8", torch.bool: "|b1"}


@functools.lru_cache(maxsize=256)
def _numbers(dtype: torch.dtype, *values: float) -> Any:
    """Numbers in the dtype of the tensors: PyTorch, too, rounds a number to it before it computes."""
    return torch.tensor(values, dtype=dtype, device="cpu").numpy()


# --- one thread or several -----------------------------------------------------------------------------------------

_ONE_AT_A_TIME = threading.Lock()
_PROCESS: list[int] = []
"""The process that has started numba's threads."""


def _run(kind: str, many: int, *given: Any) -> None:
    loops = _loops()
    threads = torch.get_num_threads() if many >= PARALLEL else 1
    if threads > 1 and _PROCESS in ([], [os.getpid()]) and _ONE_AT_A_TIME.acquire(blocking=False):
        try:
            _PROCESS[:] = [os.getpid()]
            loops.use_threads(threads)
            loops.compiled(kind, True)(*given)
        finally:
            _ONE_AT_A_TIME.release()
    else:
        loops.compiled(kind, False)(*given)
