"""What a traced region notes of each call: ``linearize(..., trace=True)``."""

from __future__ import annotations

import os
from typing import Any

import torch
from torch import Tensor

from .._carry.interface import Func, tensors
from .._carry.outcomes.registry import DISCRETE
from .._ops.callsite import call_site, frames, is_ours
from .._ops.env import tracked
from .._rules.index import LEFT_ALONE, NAMED, REMEDIES, op_name
from .guards import decides
from .operators import discrete


def traced(region: Any, func: Func, args: tuple[Any, ...], kwargs: dict[str, Any]) -> Any:
    """`dispatch`, noted by the trace."""
    trace, engine = region.trace, region.engine
    if trace is None or not torch.is_grad_enabled() or _defined():
        return region.dispatch(func, args, kwargs)
    trace.begin()
    operands = tensors(args, kwargs)
    # Asked beforehand, because the function may be in place.
    followed, recorded = any(map(engine.carried, operands)), any(map(tracked, operands))
    size = max((x.numel() for x in operands), default=0)
    flows = [t for x in operands if engine.decided(x) for t in engine.flows(x)] if func in _CUTS else []
    out = region.dispatch(func, args, kwargs)
    name = op_name(func)
    if func in _CUTS:
        if recorded or (flows and name in ("detach", "__get__", ".data")):
            row = trace.note(call_site(name), "cut", size, _CUTS[func])
            trace.ends(row, flows)
    elif func in DISCRETE or name == "bool" and isinstance(out, Tensor):
        if not decides(func.__name__, kwargs, out):
            return out
        if trace.decided():
            again = engine.undecided(out) if followed and engine.again else 0
            if again:
                trace.note(call_site(name), "follows", size).in_band += again
        elif followed:
            row = trace.note(call_site(name), "follows", size)
            # What became an ordinary tensor passes on what reaches it.
            row.in_band += engine.undecided(out) if engine.carried(out) else size
        elif not any(x.is_floating_point() for x in operands):
            return out
        elif not recorded:
            trace.note(call_site(name), "hard", size, "its input does not require grad")
        elif isinstance(out, Tensor) and out.dtype == torch.bool and name in ("bool", "to", "type", "type_as"):
            trace.note(call_site(name), "hard", size, "x != 0 has no boundary that a window average sees")
        else:
            trace.note(call_site(name), "hard", size, "left out by only= or exclude=, or nothing to decide")
    elif recorded and not followed and name in _HARD and all(map(discrete, tensors((out,), {}))):
        trace.note(call_site(name), "hard", size, LEFT_ALONE[name])
    return out


def _defined() -> bool:
    """Whether a definition of ours makes the call, in the place of what the program called."""
    return is_ours(next(file for at in frames() if not (file := at.f_code.co_filename).startswith(_HERE)))


_HERE = os.path.dirname(__file__)
_HARD = LEFT_ALONE.keys() - NAMED["guards"]

_CUTS: dict[Any, str] = {
    **dict.fromkeys((torch.Tensor.detach, torch.detach, torch.Tensor.data.__get__), "detached"),  # type: ignore[attr-defined]
    **{
        func: REMEDIES[name.strip("_")]
        for name in ("item", "tolist", "numpy", "__bool__", "__int__", "__float__", "__array__")
        for func in (getattr(torch.Tensor, name),)
    },
}
"""How a program leaves autograd, with or without a region."""
