"""What a region refuses: what compiled code and reentrant checkpoints would lose without a word."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor

from .._carry.interface import Func, tensors
from .._carry.outcomes.registry import DISCRETE
from .._ops.callsite import call_site, frames
from .._ops.env import tracked
from .._rules.index import ASKS, NAMED, op_name, op_of
from . import checkpoint
from .threads import THREAD

NO_CHECKPOINTS = "sll: compiled code does not take a region into a checkpoint. Eager mode does this call."
EAGER = "Without fullgraph=True eager mode does this call."
DETACHES: set[Any] = {Tensor.detach, torch.detach, Tensor.detach_, torch.detach_}


def decides(name: str, kwargs: Mapping[str, Any], out: Any) -> bool:
    """Whether a call of one of `DISCRETE` was a decision, and not a cast to another float, a division or a maximum."""
    if name not in NAMED["may_decide"] or kwargs.get("rounding_mode") is not None:
        return True
    return not isinstance(out, Tensor) or not out.is_floating_point()


def refuse_reentrant(region: Any, func: Func, args: tuple[Any, ...], kwargs: dict[str, Any], out: Any) -> None:
    """A decision under `torch.no_grad` is the plain one. Not so in the first run of a reentrant checkpoint: there
    the region has no gradients, and the second run has no region.
    """
    operands, engine = tensors(args, kwargs), region.engine
    deciding = func in DISCRETE and any(x.is_floating_point() for x in operands) and decides(func.__name__, kwargs, out)
    if not deciding and not any(engine.decided(x) or engine.selected(x) for x in operands):
        return
    own = bool(THREAD.entered) and THREAD.entered[-1].in_reentrant
    if not checkpoint.in_reentrant() or (own and not region.linear):
        return  # (a region entered by the function itself is entered again)
    site = call_site(op_name(func))
    if own:
        raise RuntimeError(
            f"{site}: torch.utils.checkpoint(use_reentrant=True) runs this first without gradients, where "
            'forward="linear" cannot show the values of the ramp; take forward="hard", or use_reentrant=False'
        )
    raise RuntimeError(
        f"{site}: torch.utils.checkpoint(use_reentrant=True) runs this again outside of the region; pass "
        'use_reentrant=False, or decorate the checkpointed function with @sll.enable(..., forward="hard")'
    )


def in_a_function(region: Any, func: Func, args: tuple[Any, ...], kwargs: dict[str, Any]) -> None:
    """What a `torch.autograd.Function` reads and decides in `forward`: it has a derivative by floats only, its own."""
    if func in ASKS:
        return
    operands = tensors(args, kwargs)
    decided = [x for x in operands if region.carrier_of(x).decided(x)]
    deciding = func in DISCRETE and any(x.is_floating_point() and tracked(x) for x in operands)
    if not (decided or deciding) or (name := _function_at_work()) is None:
        return
    if decided:
        region.lose(name, decided, "a torch.autograd.Function has no derivative by it. Pass mask.float().")
    if deciding and region.linearizes(op_of(func)):
        region.count_cut(call_site(name))


def _function_at_work() -> str | None:
    """The name of the `torch.autograd.Function` of which `forward` runs. (Compiled code is one, of torch.)"""
    at = next((at for at in frames() if at.f_code is _APPLY), None)
    cls = None if at is None else at.f_locals["cls"]
    return None if cls is None or cls.__module__.startswith("torch.") else cls.__name__


_APPLY = torch.autograd.Function.apply.__func__.__code__  # type: ignore[attr-defined]


def not_compiled(fn: Any) -> None:
    """Neither this function, nor what it calls."""
    fn._torchdynamo_disable = True  # where compiled code calls it: so torch.compiler.disable marks functions
    skip(fn)


def skip(fn: Any) -> None:
    dynamo = torch._C._dynamo.eval_frame
    if hasattr(dynamo, "set_code_exec_strategy"):
        skip = dynamo._FrameExecStrategy(dynamo._FrameAction.SKIP, dynamo._FrameAction.SKIP)
        dynamo.set_code_exec_strategy(fn.__code__, skip)
