"""Where the program itself leaves autograd in a region: `torch.no_grad`, and `detach`.

`torch.no_grad` calls `torch._C._set_grad_enabled`, which the mode sees. So a block that was entered in the region is
told from one around it, and from what runs without gradients on its own account (`torch.autograd.Function`).

With ``see_through=`` calls in such a block are recorded if an operand has a graph, or carries a decision. Parameters
have none there: what optimizers and averages of weights do stays as it is, and so do floats that were there before and
are written to. Without, what comes of such operands is marked (`Cut`), and the mark says so where it is used.
"""

from __future__ import annotations

import itertools
from collections.abc import Callable, Iterable
from copy import copy
from functools import partial
from pathlib import Path
from typing import Any

import torch
from torch import Tensor
from torch.nn import Parameter

from .._carry import rows
from .._carry.interface import Engine, Func, Mark, held, tensors
from .._carry.outcomes.registry import DISCRETE
from .._ops.callsite import CallSite, call_site, frame, frames, is_internal, short
from .._ops.openness import behind, of_a_region
from .._ops.statements import in_package, users_line
from .._rules.index import ASKS, SOURCES, op_name, op_of, writes_to_first
from . import operators
from .guards import DETACHES, decides, in_a_function, not_compiled, refuse_reentrant
from .threads import THREAD
from .tracing import traced

REMEDY = "sll.linearize(..., see_through=True) looks through torch.no_grad() and detach()."
EXPORTS: set[Any] = {Tensor.numpy, Tensor.__array__}
"""They refuse what has a graph."""
SEEN = DETACHES | EXPORTS
"""What a region that sees through is asked about, whatever the operand is."""


def engine_for(through: frozenset[str], engine: Engine) -> Engine:
    """`engine`, for a region that looks through these."""
    if not through:
        return engine
    found = copy(engine)
    found.always = engine.always | SEEN
    return found


class Block:
    """A block without gradients that the program has entered in a region."""

    def __init__(self) -> None:
        self.site = call_site("no_grad")
        self.step = THREAD.step


class Cut(Mark):
    """Says of a tensor that it was computed from something that has a graph, and has none."""

    says = "decides there without gradients"
    remedy = REMEDY

    def __init__(self, site: CallSite, decision: CallSite | None) -> None:
        self.site = site
        """Where it was cut."""
        self.decision = decision
        """Where something was decided on the way. None if nothing was."""

    def miss(self, region: Any, user: CallSite) -> None:
        """It is used there, where gradients are recorded."""
        why = f"{short(self.decision or self.site)} {self.says}, and {short(user)} uses it. {self.remedy}"
        region.drop(self.site, why)

    def met(self, region: Any, func: Func, x: Tensor, out: Any) -> None:
        """If the result has a graph, that is where what was cut is missed."""
        if func in ASKS or func.__name__.endswith("_as"):
            return
        results = tensors(out)
        used = any(y.requires_grad or region.engine.carried(y) for y in results)
        if self.decision is None or used:
            x._sll = None  # type: ignore[attr-defined]
        if self.decision is not None and used:
            self.miss(region, call_site(op_name(func)))
        elif self.decision is not None:
            for y in results:
                _carry(region, y, self)


class Left(Cut):
    """Says of a bool or an integer that compiled code decided it, and has no tensor that stands for its decision."""

    says = "decides in compiled code, which ends there"
    remedy = (
        "Pass a float (mask.float(), table[index]), or have no graph break there: fullgraph=True says where one is."
    )


def leave(region: Any, x: Tensor, site: CallSite) -> None:
    """`x` comes from compiled code, in which `site` decided it."""
    _carry(region, x, Left(site, site))


def left(region: Any, x: Tensor) -> None:
    """`x` gets into compiled code."""
    cut = held(x, Cut)
    if cut is not None and cut.decision is not None:
        cut.miss(region, call_site("compiled code"))


def switched(region: Any, func: Func, args: tuple[Any, ...], kwargs: dict[str, Any]) -> Any:
    """``torch._C._set_grad_enabled``, which is what blocks and decorators call."""
    was = torch.is_grad_enabled()
    out = func(*args, **kwargs)
    if THREAD.entered and was != torch.is_grad_enabled():
        THREAD.cut = Block() if was else None
        THREAD.look()
    return out


def passes(region: Any, func: Func, args: tuple[Any, ...], kwargs: Any) -> bool:
    """A quick look at a call in a block: whether it has nothing to do with gradients. Optimizers call little else."""
    if len(THREAD.entered) != 1 or region.trace is not None or THREAD.runs or "no_grad" in region.through:
        return False
    by_name = kwargs.values() if kwargs else ()
    return func is not torch._C._set_grad_enabled and not _makes(func) and not _flows(args) and not _flows(by_name)


def unrecorded(region: Any, func: Func, args: tuple[Any, ...], kwargs: dict[str, Any]) -> Any:
    """A call while gradients are off."""
    if THREAD.cut is not None and "no_grad" in region.through and not torch.is_inference_mode_enabled():
        return _through(region, func, args, kwargs)
    if THREAD.cut is None:
        in_a_function(region, func, args, kwargs)
    out = func(*args, **kwargs)
    refuse_reentrant(region, func, args, kwargs, out)
    if THREAD.cut is not None or torch.is_inference_mode_enabled():
        if THREAD.cut is not None and _makes(func):
            THREAD.seen[out] = THREAD.cut
        _mark(region, func, args, kwargs, out)
    return out


not_compiled(unrecorded)
_FACTORIES = ("zeros", "ones", "full", "empty", "new_")


def _makes(func: Func) -> bool:
    """Whether it makes a tensor that is there to be written to."""
    return func.__name__.startswith(_FACTORIES)


# --- seen through ------------------------------------------------------------------------------------------------


def _through(region: Any, func: Func, args: tuple[Any, ...], kwargs: dict[str, Any]) -> Any:
    """As if gradients were on, if an operand has a graph."""
    if func in EXPORTS:
        return func(args[0].detach(), *args[1:], **kwargs)
    if func in ASKS and func not in DETACHES:
        return func(*args, **kwargs)
    operands = tensors(args, kwargs)
    if any(x.is_floating_point() and not _own(x) for x in _written(func, args, kwargs)):
        out = func(*args, **kwargs)
        _mark(region, func, args, kwargs, out)
        return out
    if not _flows(operands) and not any(map(_own, operands)):
        out = func(*args, **kwargs)
    else:
        args, kwargs = _fixed(args), dict(zip(kwargs, _fixed(kwargs.values()))) if kwargs else kwargs
        with torch.enable_grad():
            out = traced(region, func, args, kwargs)
        fed(region, operands, out)
    for x in tensors(out):
        if x._base is None and not any(x is y for y in operands) or not x.is_floating_point():
            THREAD.seen[x] = THREAD.cut
    return out


def _flows(operands: Iterable[Any]) -> bool:
    """Whether one of them has a graph, or carries something."""
    for x in operands:
        if isinstance(x, Tensor):
            if getattr(x, "_sll", None) is not None or (x.requires_grad and not isinstance(x, Parameter)):
                return True
        elif isinstance(x, (tuple, list)) and _flows(x):
            return True
    return False


def _written(func: Func, args: tuple[Any, ...], kwargs: dict[str, Any]) -> list[Tensor]:
    """What the function says that it writes to."""
    writes = writes_to_first(func.__name__) or kwargs.get("inplace")
    return tensors(args[:1] if writes else (), kwargs.get("out")) if writes or "out" in kwargs else []


def _own(x: Tensor) -> bool:
    """Whether it was made in this block."""
    return THREAD.seen.get(x if x._base is None else x._base) is THREAD.cut


def _fixed(operands: Iterable[Any]) -> tuple[Any, ...]:
    """Without the graphs of parameters, and of what was made in an earlier step: averages go on for ever."""
    return tuple(
        _plain(x) if isinstance(x, Tensor) else type(x)(_fixed(x)) if type(x) in (tuple, list) else x for x in operands
    )


def _plain(x: Tensor) -> Tensor:
    block = THREAD.seen.get(x)
    if block is not None and block.step != THREAD.step and not x.is_floating_point():
        x._sll = None  # type: ignore[attr-defined]
        return x
    return x.detach() if isinstance(x, Parameter) or block is not None and block.step != THREAD.step else x


def detach(region: Any, func: Func, args: tuple[Any, ...], kwargs: dict[str, Any]) -> Any:
    """One of `SEEN`, with gradients on. NotImplemented if there is nothing to see."""
    x = args[0] if args else kwargs["input"]
    if func in EXPORTS:
        hidden = region.through and x.is_floating_point() and (x in THREAD.seen or _from_decision(x))
        return func(x.detach(), *args[1:], **kwargs) if hidden else NotImplemented
    decided = region.engine.decided(x)
    if "detach" in region.through:
        if not decided and not _cut_in_a_package(x):
            return _kept(region, x, _from_decision(x, 200))
        return x if func.__name__ == "detach_" else region.call(Tensor.view, x, x.shape)
    if not decided:
        return _kept(region, x, region.engine.carried(x))
    out, site = func(*args, **kwargs), call_site(op_name(func))
    _carry(region, out, Cut(site, site))
    region.count_cut(site)
    return out


def _kept(region: Any, x: Tensor, from_decision: bool) -> Any:
    """The program detaches a float and means it. If it comes from a decision, that is a row."""
    if from_decision and x.requires_grad and not _in_a_definition():
        region.count_cut(call_site("detach"))
    return NotImplemented


def _in_a_definition() -> bool:
    """Whether it is ours that runs in the place of a function."""
    files = (at.f_code.co_filename for at in frames())
    return any(file.startswith(_DEFINITIONS) for file in itertools.takewhile(is_internal, files))


_DEFINITIONS = str(Path(__file__).parents[1] / "_carry" / "definitions")


def _cut_in_a_package(x: Tensor) -> bool:
    """Whether a float that comes from a decision is detached by code that nobody edits. Who detaches one in the program
    means it (an average), and who detaches a difference as well: ``x + (q - x).detach()`` is an estimator.
    """
    if not in_package(frame().f_code.co_filename) or (x.grad_fn is not None and x.grad_fn.name() == "SubBackward0"):
        return False
    return _from_decision(x)


def fed(region: Any, operands: list[Tensor], out: Any) -> None:
    """A call may have made a float with the gradient of a decision. What the same line of the program has lost in an
    installed package is not missed, then.
    """
    results = tensors(out) if THREAD.waiting else []
    if not any(x.requires_grad for x in results):
        return
    if any(map(region.engine.carried, operands)) or any(_from_decision(x, 200) for x in results):
        _settle()


def _settle(*say: Callable[[], None]) -> None:
    """What waits to be said of this line of the program gives way to `say`."""
    line = users_line()
    others = [waiting for waiting in THREAD.waiting if waiting[0] != line]
    gone = len(others) < len(THREAD.waiting)
    THREAD.waiting = others + [(line, warn) for warn in say if gone]


def _from_decision(x: Tensor, most: int = 10_000) -> bool:
    """Whether its graph has a node that only regions make, among so many."""
    return any(behind([x.grad_fn], of_a_region, most))


# --- marked ------------------------------------------------------------------------------------------------------


def _mark(region: Any, func: Func, args: tuple[Any, ...], kwargs: dict[str, Any], out: Any) -> None:
    """Results of what has a graph say that they have none."""
    if func in ASKS and func not in DETACHES:
        return
    found = None
    for x in tensors(args, kwargs):
        cut = _cut_of(region, func, x)
        if cut is not None and (found is None or found.decision is None):
            found = cut
    if found is None or (found.decision is None and func in DETACHES):  # (on purpose: nothing was decided yet)
        return
    op = op_of(func)
    deciding = func in DISCRETE and decides(func.__name__, kwargs, out) and (op not in SOURCES or region.linearizes(op))
    if found.decision is None and (deciding or operators.decides(func, out)):
        found = Cut(found.site, call_site(op_name(func)))
        region.count_cut(found.decision)
        if THREAD.waiting:  # (a package asked about its input before: that is not why there is no gradient)
            _settle(partial(found.miss, region, CallSite(*users_line(), "call")))
    written = _written(func, args, kwargs)
    for x in (*tensors(out), *written):  # (what was there before and is written to keeps statistics)
        if _own(x) or held(x, Cut) or not any(x is y for y in written):
            _carry(region, x, found)


def _cut_of(region: Any, func: Func, x: Tensor) -> Cut | None:
    """What is known of an operand."""
    if (cut := held(x, Cut)) is not None:
        return cut
    engine = region.carrier_of(x)
    if not engine.carried(x) and (not x.requires_grad or isinstance(x, Parameter)):
        return None
    here = call_site(op_name(func))
    decided = engine.decided(x) or _from_decision(x, 200)
    if decided:
        region.count_cut(here)
    return Cut(here if THREAD.cut is None else THREAD.cut.site, here if decided else None)


def _carry(region: Any, x: Tensor, cut: Cut) -> None:
    if not x.requires_grad and not x.is_inference():  # (PyTorch lets none of those into a graph)
        region.mark(x, cut)


def met(region: Any, func: Func, known: list[Tensor], out: Any) -> None:
    """A call has operands that are marked, or floats come out of it while warnings wait."""
    if torch.is_grad_enabled():
        for x in known:
            if (mark := held(x, Mark)) is not None:
                mark.met(region, func, x, out)
        rows.met(region, known, out)
        fed(region, known, out)
