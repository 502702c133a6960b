"""What a region refuses: what compiled code and reentrant checkpoints would lose without a word."""

from __future__ import annotations

import sys
from collections.abc import Callable, Iterable
from pathlib import Path
from types import FrameType
from typing import Any

import torch
from torch import Tensor

from .._carry.interface import Func, tensors
from .._carry.outcomes.registry import DECIDES_BY_NAME, DISCRETE
from .._ops.callsite import call_site
from .._ops.env import tracked
from .._rules.index import ASKS, names_of, op_name, op_of
from . import checkpoint
from .threads import THREAD

__all__ = [
    "DETACHES",
    "EAGER",
    "break_the_graph",
    "decides",
    "in_a_function",
    "refuse_reentrant",
]

EAGER = "Without fullgraph=True eager mode does this call."
DETACHES: set[Any] = {Tensor.detach, torch.detach, Tensor.detach_, torch.detach_}
_DETACHES = {func.__name__ for func in DETACHES}
_TAKES_A_FUNCTION = {"register_hook", "register_post_accumulate_grad_hook"}
"""And calls it later."""


_MAY_DECIDE = {"to", "type", "type_as", "max", "min", "median", "nanmedian", "true_divide", "divide", "div"}


def decides(func: Callable[..., Any], out: Any) -> bool:
    """Whether a call of one of `DISCRETE` was a decision, and not a cast to another float or a mere maximum (`div` with
    a rounding mode aside).
    """
    if func.__name__ in _MAY_DECIDE:
        return not isinstance(out, Tensor) or not out.is_floating_point()
    return True


def break_the_graph(region: Any, func: Func, args: tuple[Any, ...], kwargs: dict[str, Any]) -> bool:
    """While compiling: leave to eager mode what no rule can do in a graph, whatever the function is. True if no rule is
    to be asked.

    Written without generators, and what is asked often is asked once: Dynamo takes milliseconds for every frame.
    """
    name = func.__name__
    if name not in _TAKES_A_FUNCTION:
        for x in args:
            if callable(x) and not isinstance(x, (Tensor, type)):
                # torch.utils.checkpoint, torch.cond: Dynamo traces what they call without the mode that is at work.
                if _torch_compiles():
                    return True
                torch._dynamo.graph_break(msg=f"sll: compiled code does not take a region into {name}. {EAGER}")
    carries = _may_carry(args) or bool(kwargs and _may_carry(kwargs.values()))
    cut = not torch.is_grad_enabled()
    if region.through and (cut or name in _DETACHES) and (carries or any(map(tracked, tensors(args, kwargs)))):
        torch._dynamo.graph_break(msg=f"sll: compiled code does not follow what the program itself cuts. {EAGER}")
    if cut:
        return False
    flips = not region.engine.compiles and (carries or _may_decide(func, args, kwargs))
    if (carries or flips or name in DECIDES_BY_NAME) and checkpoint.around_compilation():
        torch._dynamo.graph_break(msg=f"sll: compiled code does not take a region into a checkpoint. {EAGER}")
    if flips:
        torch._dynamo.graph_break(msg=f'sll: compiled code does not carry the flips of forward="hard". {EAGER}')
    if carries or name in DECIDES_BY_NAME:
        if region.trace is not None:
            torch._dynamo.graph_break(msg=f"sll: trace=True watches decisions in eager mode. {EAGER}")
        if torch._C._are_functorch_transforms_active():
            torch._dynamo.graph_break(
                msg=f"sll: compiled code does not take a region into torch.func transforms. {EAGER}"
            )
    if carries and any(map(region.engine.selected, tensors(args, kwargs))):
        region.lose(op_name(func), (), "what a mask selected is not followed in compiled code.")
    return False


def _torch_compiles() -> bool:
    """Whether eager code called `torch.cond` or a loop, which torch compiles on its own. When that runs, the region is
    asked again.
    """
    frame = torch._dynamo.symbolic_convert.InstructionTranslator.current_tx().output.root_tx.f_code
    return frame.co_name.endswith("_op_wrapper") and frame.co_filename.startswith(_HIGHER_ORDER)


_torch_compiles._dynamo_marked_constant = True  # type: ignore[attr-defined]
"""It runs while Dynamo traces. (So torch._dynamo.assume_constant_result says, which takes a second to import.)"""

_HIGHER_ORDER = str(Path(torch.__file__).parent / "_higher_order_ops")
_REMEMBERED = {"amax", "amin", "__rfloordiv__", "__rmod__", *(name.rpartition(".")[2] for name in names_of("defined"))}
"""They decide nothing in the graph, but what eager mode makes of them, or of their results, may be a decision."""
_CASTS = {"to", "type", "type_as"}
_QUOTIENTS = {"div", "div_", "divide", "divide_"}


def _may_decide(func: Func, args: tuple[Any, ...], kwargs: dict[str, Any]) -> bool:
    """Whether a function that decides is called with a float that autograd follows."""
    name = func.__name__
    if name not in DECIDES_BY_NAME and name not in _REMEMBERED:
        return False
    if not any(map(tracked, tensors(args, kwargs))):
        return False
    if name in _QUOTIENTS:
        return kwargs.get("rounding_mode") is not None
    return name not in _CASTS or decides(func, func(*args, **kwargs))


def refuse_reentrant(region: Any, func: Func, args: tuple[Any, ...], out: Any) -> None:
    """A decision under `torch.no_grad` is the plain one. Not so in the first run of a reentrant checkpoint: there
    the region has no gradients, and the second run has no region.
    """
    operands, engine = tensors(args, {}), region.engine
    deciding = func in DISCRETE and any(x.is_floating_point() for x in operands) and decides(func, out)
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
    at: FrameType | None = sys._getframe(1)
    while at is not None and at.f_code is not _APPLY:
        at = at.f_back
    cls = None if at is None else at.f_locals["cls"]
    return None if cls is None or cls.__module__.startswith("torch.") else cls.__name__


_APPLY = torch.autograd.Function.apply.__func__.__code__  # type: ignore[attr-defined]


def _may_carry(operands: Iterable[Any]) -> bool:
    """A quick look, taken at every call of a function that has no rule."""
    for x in operands:
        if isinstance(x, (tuple, list)):
            if any(isinstance(item, Tensor) and getattr(item, "_sll", None) is not None for item in x):
                return True
        elif isinstance(x, Tensor) and getattr(x, "_sll", None) is not None:
            return True
    return False
