"""What can be read where: the one place that asks in which environment the program runs."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, ExitStack, contextmanager
from typing import Any

import torch
from torch import Tensor


def outside_of_transforms() -> AbstractContextManager[Any]:
    """Leaves those of `torch.func` for a moment. (torch 2.6 imports sympy for it, which takes a second.)"""
    from torch._functorch.pyfunctorch import temporarily_clear_interpreter_stack

    return temporarily_clear_interpreter_stack()  # type: ignore[no-any-return, no-untyped-call, unused-ignore]


@contextmanager
def at_level(level: int) -> Iterator[None]:
    """Leaves the transforms of `torch.func` that are further in than so many, for a moment."""
    from torch._functorch.pyfunctorch import temporarily_pop_interpreter_stack

    functorch: Any = torch._C._functorch
    with ExitStack() as left:
        while (top := functorch.peek_interpreter_stack()) is not None and top.level() > level:
            left.enter_context(temporarily_pop_interpreter_stack())  # type: ignore[no-untyped-call, unused-ignore]
        yield


def level_of(x: Tensor) -> int:
    """By how many transforms `x` is wrapped, at most."""
    return max(torch._C._functorch.maybe_get_level(x), 0)


def unwrapped(x: Tensor) -> Tensor:
    """What transforms of `torch.func` wrap: inside vmap, the whole batch."""
    while torch._C._functorch.is_functorch_wrapped_tensor(x):
        x = torch._C._functorch.get_unwrapped(x)
    return x


def readable(x: Tensor) -> Tensor | None:
    """`x` to read numbers from, `unwrapped`; None where there are none (meta tensors, somebody traces or fakes)."""
    x = unwrapped(x)
    if x.device.type == "meta" or dispatched():
        return None
    with outside_of_transforms():
        return x.detach()


def free_to_read(x: Tensor) -> bool:
    """Whether reading a number costs nothing."""
    if type(x) is not Tensor or x.device.type != "cpu" or dispatched():
        return False
    return not torch._C._functorch.is_functorch_wrapped_tensor(x)


def infinite(x: Any) -> bool:
    """Whether `x` is a number, and infinite or none at all."""
    if isinstance(x, Tensor):  # reading a number on another device would wait for it
        if x.dim() or not x.is_floating_point() or x.device.type != "cpu" or dispatched():
            return False
        return not torch._C._functorch.is_functorch_wrapped_tensor(x) and not math.isfinite(x.detach())
    return isinstance(x, float) and not math.isfinite(x)


dispatched: Callable[[], int] = torch._C._len_torch_dispatch_stack
"""How many trace or fake tensors. If somebody does, nothing is read, and nothing made now may be kept."""


def tracked(x: Any) -> bool:
    """Whether autograd follows `x`: it requires grad, or carries a forward-mode tangent."""
    if not isinstance(x, Tensor) or not x.is_floating_point():
        return False
    if x.requires_grad:
        return x.layout == torch.strided
    functorch = torch._C._functorch
    if functorch.is_functorch_wrapped_tensor(x) and tracked(functorch.get_unwrapped(x)):
        return True  # vmap inside grad
    forward = torch.autograd.forward_ad
    return forward._current_level >= 0 and forward.unpack_dual(x).tangent is not None  # type: ignore[no-untyped-call]


def recorded(x: Any) -> Tensor | None:
    """`x`, or what transforms of `torch.func` wrap as `x`: the tensor that autograd's graph knows, if it does."""
    while isinstance(x, Tensor) and not x.requires_grad:
        x = torch._C._functorch.get_unwrapped(x) if torch._C._functorch.is_functorch_wrapped_tensor(x) else None
    return x if isinstance(x, Tensor) else None


def hook(x: Tensor, arrives: Callable[[Tensor], Tensor | None]) -> None:
    """Shows `arrives` the gradient of `x`, in each transform that it is in."""
    if x.requires_grad:
        x.register_hook(arrives)  # type: ignore[no-untyped-call]
    if torch._C._functorch.is_functorch_wrapped_tensor(x):
        hook(torch._C._functorch.get_unwrapped(x), arrives)


def plain() -> bool:
    """Whether plain autograd records, and nothing else is on: what training loops do."""
    busy = _forward._current_level >= 0 or _transforms() or HOOKS is None
    return _records() and not (busy or dispatched() or _inference()) and HOOKS(True) is None  # type: ignore[misc]


_records, _inference = torch.is_grad_enabled, torch.is_inference_mode_enabled
_transforms = torch._C._are_functorch_transforms_active
_forward = torch.autograd.forward_ad
HOOKS: Callable[[bool], Any] | None = getattr(torch._C._autograd, "_top_saved_tensors_default_hooks", None)
"""What has a hand in what autograd saves, a checkpoint for one. (Older torch does not tell.)"""


def eager() -> bool:
    """Whether plain autograd is all there is: nobody transforms, traces, differentiates forward or forbids
    gradients.
    """
    busy = _forward._current_level >= 0 or _transforms()
    return not (busy or dispatched() or _inference())
