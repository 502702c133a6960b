"""Custom operators, which packages register: ``torch.ops.torchao.quantize_affine``.

To a region such a call is one call. Where the operator is made of others (`CompositeImplicitAutograd`), its kernel
runs in the region. Where it is not, and makes integers of floats that autograd follows, their gradient ends there.
"""

from __future__ import annotations

import functools
from typing import Any

import torch
from torch import Tensor, library

from .._carry.interface import Func, tensors
from .._ops.env import tracked
from .._rules.index import OPERATORS, op_name

_WHY = "a region does not see into this operator. Register its rule, or write it with functions of torch."


def foreign(func: Func) -> bool:
    """Whether `func` is an operator that is not PyTorch's own."""
    return type(func) in OPERATORS and _name(func).partition("::")[0] not in ("aten", "prim", "prims", "higher_order")


def _name(operator: Any) -> str:
    name: str = getattr(operator, "_qualified_op_name", None) or operator._schema.name
    return name


def decides(func: Func, out: Any) -> bool:
    """Whether it is one, and made something discrete. (What it is given has a graph.)"""
    return foreign(func) and any(map(discrete, tensors((out,), {})))


def discrete(x: Tensor) -> bool:
    return not x.is_floating_point() and not x.is_complex()


def run(region: Any, func: Func, args: tuple[Any, ...], kwargs: dict[str, Any]) -> Any:
    """A call of an operator, with gradients on. NotImplemented if there is nothing to do."""
    if not foreign(func):
        return NotImplemented
    operands = tensors(args, kwargs)
    carried = any(region.carrier_of(x).carried(x) for x in operands)
    if not carried and not any(map(tracked, operands)):
        return NotImplemented
    kernel = _made_of_others(func, args, kwargs, operands[0].device.type)
    if kernel is not None:
        return region.within(kernel.call_boxed, torch._C._dispatch_keys(operands[0]), *args, **kwargs)
    if carried:
        return NotImplemented  # (the engine reports it)
    out = func(*args, **kwargs)
    if decides(func, out):
        region.lose(op_name(func), [], _WHY, undecided=lambda: True, origins=operands)
    return out


def _made_of_others(func: Any, args: tuple[Any, ...], kwargs: dict[str, Any], device: str) -> Any:
    """What it runs, if that is a function of others and not a kernel of its own. None if that is not known."""
    overload = getattr(func, "_overloadname", None)
    if overload is None:
        overload = torch._C._jit_resolve_packet(_name(func), *args, **kwargs)
    return _kernel(getattr(func, "overloadpacket", func), overload, torch._C._dispatch_key_for_device(device))


@functools.cache
def _kernel(packet: Any, overload: str, backend: str) -> Any:
    name = getattr(packet, overload).name()
    has = functools.partial(torch._C._dispatch_has_kernel_for_dispatch_key, name)
    own = any(map(has, (backend, f"Autograd{backend}", "Autograd")))
    if own or not has("CompositeImplicitAutograd") or not hasattr(library, "get_kernel"):  # (torch before 2.9)
        return None
    return library.get_kernel(name, f"Autograd{backend}")
