"""The `TorchFunctionMode` that regions and hard blocks are: each torch call of the program comes by here.

A call that decides nothing, of operands that carry nothing, is passed on. Any other goes to the region's `Engine`.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, TypeVar
from weakref import ref

import torch
from torch import Tensor
from torch.compiler import is_dynamo_compiling
from torch.overrides import TorchFunctionMode

from .._carry.interface import OUTSIDE, Engine, Mark, tensors
from .._ops.env import eager, plain, tracked
from .._ops.surrogates import ordinary
from .._rules.index import ASIDE, ASKS, OPERATORS, op_name
from . import checkpoint, cuts, operators
from .branches import BRANCHES
from .dynamo import meet, met, torch_compiles
from .guards import skip
from .notes import warn_now
from .runs import heard
from .threads import IDLE, THREAD, Entered, innermost, leave, release, stack
from .tracing import traced
from .vmap import returned, views


def _plain(region: Mode, func: Callable[..., Any], args: tuple[Any, ...], kwargs: dict[str, Any]) -> Any:
    """Pickling and deep copies see the plain tensor, whatever the grad mode. Where a region sees through what the
    program cuts, that is what the program thinks it copies, without its graph.
    """
    x, *rest = args
    graph = not region.through or x.is_leaf
    if "_sll" not in x.__dict__ and graph:
        return func(*args, **kwargs)
    alias = x.detach().requires_grad_(x.requires_grad and graph)
    alias.__dict__.update({name: value for name, value in x.__dict__.items() if name != "_sll"})
    return func(alias, *rest, **kwargs)


def _backward(region: Mode, func: Callable[..., Any], args: tuple[Any, ...], kwargs: dict[str, Any]) -> Any:
    """Backward may run the user's code again (hooks, activation checkpointing), which may enter regions of its own."""
    warn_now()
    THREAD.step += 1
    for entered in THREAD.entered:  # the next step begins
        entered.counts.clear()
    return func(*args, **kwargs)


def _longer(region: Mode, func: Callable[..., Any], args: tuple[Any, ...], kwargs: dict[str, Any]) -> Any:
    """torch cannot write to memory that was made longer while a lazy clone shared it: it is to be the tensor's own."""
    if args and ordinary(args[0]) and eager():
        args[0].data_ptr()
    return region._handled(func, args, kwargs, _held((*args, *kwargs.values())))


OUTSIDE.update(
    {
        Tensor.resize_: _longer,
        Tensor.__reduce_ex__: _plain,
        Tensor.__deepcopy__: _plain,
        Tensor.backward: _backward,
        torch.autograd.backward: _backward,
        torch.autograd.grad: _backward,
        torch._C._set_grad_enabled: cuts.switched,
        **BRANCHES,
    }
)

M = TypeVar("M", bound="Mode")

_transformed = torch._C._are_functorch_transforms_active
_push, _pop = torch._C._push_on_torch_function_stack, torch._C._pop_torch_function_stack


class Mode(TorchFunctionMode):
    """A region or a hard block: what is innermost decides, what is around it lets calls pass. What rules may ask of it
    is described in `_carry.interface.Region`.
    """

    trace: Any = None
    linear: bool | None = None
    """Whether values follow the ramp. None: nothing is linearized."""
    engine = Engine()
    through: frozenset[str] = frozenset()
    """What a region looks through of what the program itself cuts: ``see_through=``."""
    arguments: tuple[Any, ...] = ()
    """What it was made with, by compiled code."""
    settings = ""
    """All that rules depend on, but for what policies know."""
    memories: tuple[Any, ...] = ()
    """Those of its policies that measure first."""
    looks_back = 0
    """So many of its next ends are looked at: what was decided and not used?"""
    paths = 1
    """So many runs of a decorated function, to follow what Python asks."""

    def __init__(self) -> None:
        super().__init__()
        self.passing: set[Any] = set()
        """Functions that pass, where nothing carries anything yet: they decide nothing."""

    def dispatch(self, func: Callable[..., Any], args: tuple[Any, ...], kwargs: dict[str, Any]) -> Any:
        """Runs what is not passed on."""
        return func(*args, **kwargs)

    def __torch_function__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        """What an ordinary network calls comes no further than the first lines: it is to cost next to nothing."""
        if is_dynamo_compiling():
            return self._while_dynamo_traces(func, args, kwargs or {})
        if func in self.passing and IDLE.region is self:
            if self.paths == 1 or (answer := heard(self, func, args, kwargs)) is NotImplemented:
                return func(*args, **kwargs) if kwargs else func(*args)
            return answer
        if func in ASIDE:
            return func(*args, **kwargs) if kwargs else func(*args)
        if THREAD.alone:
            engine, passes = self.engine, func in self.passing
            if self.paths > 1 and (answer := heard(self, func, args, kwargs)) is not NotImplemented:
                return answer
            quick = engine.quick[func] if func in engine.quick else None
            if quick is not None and not kwargs and (not THREAD.selects or not _held(args)) and plain():
                out = quick(self, func, args)  # type: ignore[arg-type]
                if out is not NotImplemented:
                    return out
            known = _held((*args, *kwargs.values()) if kwargs else args)
            if not THREAD.alone:
                return self._among_others(func, args, kwargs or {})
            if type(func) in OPERATORS and operators.foreign(func := engine.twin(func)):
                return self._handled(func, args, kwargs or {}, known)
            if not known and not _transformed():
                always = func in engine.always
                if not (always or passes or quick or type(func) in OPERATORS):
                    self.passing.add(func)
                if not always or func in engine.rules and not any(map(tracked, tensors(args, kwargs))) and plain():
                    return func(*args, **kwargs) if kwargs else func(*args)
            quick = engine.quick_on.get(func) if known and not (kwargs or THREAD.selects or THREAD.marks) else None
            if known and quick is not None and plain():
                links = engine.links(known)
                out = quick(self, func, args)  # type: ignore[arg-type]
                if out is not NotImplemented:
                    if getattr(out, "_sll", None) is not None:
                        engine.link(out, links)
                    return out
            if func not in OUTSIDE:
                return self._handled(func, args, kwargs or {}, known)
        return self._among_others(func, args, kwargs or {})

    def put_off(self, *arguments: Any) -> bool:
        """Whether compiled code makes it: then it is made with these where its first call is met."""
        self.arguments = arguments
        return is_dynamo_compiling()

    def _while_dynamo_traces(self, func: Any, args: tuple[Any, ...], kwargs: dict[str, Any]) -> Any:
        if torch_compiles():
            return func(*args, **kwargs)
        if why := meet():
            torch._dynamo.graph_break(msg=why)
        try:
            return func(*args, **kwargs)
        finally:
            met()

    def _handled(self, func: Any, args: tuple[Any, ...], kwargs: dict[str, Any], known: list[Tensor]) -> Any:
        """By a rule. `known`: the operands that carry something."""
        known = self._not_written(func, known) if known else known
        links = self.engine.links(known)
        out = self.dispatch(func, args, kwargs) if self.trace is None else traced(self, func, args, kwargs)
        _seen(known)
        if THREAD.marks and self.linear is not None:
            cuts.met(self, func, known, out)
        self.engine.link(out, links)
        return out

    def _not_written(self, func: Any, known: list[Tensor]) -> list[Tensor]:
        """What is as it was. Of the others, if they are discrete, is told, and what they carried is forgotten:
        something wrote to them that passes no region.
        """
        stale = [x for x in known if _stale(x)]
        if not stale:
            return known
        for x in stale:
            if not x.is_floating_point() and func not in ASKS:
                x._sll = None  # type: ignore[attr-defined]
                self.lose(op_name(func), [], _UNSEEN, undecided=lambda: True)
        return [x for x in known if not any(x is other for other in stale)]

    def lose(self, op: str, tensors: Any, why: str, *, undecided: Any = None, origins: Any = ()) -> None:
        """Count a loss, where somebody counts."""

    def leave_behind(self, unused: list[Tensor]) -> None:
        """Count what was decided and not used, where somebody counts."""

    def _among_others(self, func: Any, args: tuple[Any, ...], kwargs: dict[str, Any]) -> Any:
        """Where regions are nested, one is traced, or gradients are off."""
        if THREAD.cut is not None and cuts.passes(self, func, args, kwargs):
            return func(*args, **kwargs)
        if THREAD.at_work is not None:
            return func(*args, **kwargs)
        THREAD.at_work = self
        try:
            if (answer := heard(self, func, args, kwargs)) is not NotImplemented:
                return answer
            if func not in OUTSIDE:
                views(self, func, args, kwargs)
                return self._handled(func, args, kwargs, _held((*args, *kwargs.values())))
        finally:
            THREAD.at_work = None
        return OUTSIDE[func](self, func, args, kwargs)

    def __enter__(self: M) -> M:
        if is_dynamo_compiling():
            super().__enter__()  # type: ignore[no-untyped-call]
            return self
        if self.paths > 1:
            raise RuntimeError(
                f"{self!r} runs code again, and a with block cannot be run again; put the code into a function, and "
                f"decorate it with @sll.enable(..., paths={self.paths})"
            )
        return self.enter()

    def enter(self: M) -> M:
        """In eager code, where what is in it may run again."""
        own, recording, counts = THREAD.__dict__, torch.is_grad_enabled(), {}
        entered = own["entered"]
        if entered:
            self._enter_inside(entered, recording)
            counts = self.counted()  # entered again, inside itself: it is the same step
        else:
            own["step"] += 1
            own["adrift"].clear()
        entered.append(Entered(self, own["cut"], not recording and checkpoint.in_reentrant(), counts))
        own["cut"] = None
        THREAD.look()
        _push(self)
        return self

    def _enter_inside(self, entered: list[Entered], recording: bool) -> None:
        if recording and checkpoint.hooked():
            checkpoint.note(THREAD.regions, ())
        for around in entered:
            if around.mode.trace is not None:
                around.mode.trace.has_inner = True

    def __exit__(self, *exc: Any) -> None:
        if is_dynamo_compiling():
            super().__exit__(*exc)  # type: ignore[no-untyped-call]
            return
        entered = THREAD.entered
        if entered and entered[-1].mode is self and innermost() is self:
            self._leave()
        else:
            self._leave_out_of_order(exc)

    def _leave_out_of_order(self, exc: tuple[Any, ...]) -> None:
        """Entered by compiled code, or with regions inside that are still on."""
        known = any(entered.mode is self for entered in THREAD.entered)
        if not known and innermost() is self:  # entered by compiled code
            super().__exit__(*exc)  # type: ignore[no-untyped-call]
            leave()
            return
        inside = 0
        while isinstance(mode := innermost(), Mode) and mode is not self:
            mode._leave()
            inside += 1
        if mode is not self:
            raise RuntimeError(
                f"{self!r} is left before {mode!r}, which was entered after it: leave that first. In a generator or a "
                "coroutine a with block stays on while it is suspended; decorate it with @sll.enable(...) instead"
            )
        self._leave()
        if inside and exc[0] is None:
            raise RuntimeError(
                f"{self!r} ended while a region inside it was still on; that is off now. Call unpatch() before the "
                "end; if two tasks or generators took turns, decorate them with @sll.enable(...) instead of with"
            )

    def selecting(self) -> bool:
        return THREAD.selects

    def select(self) -> None:
        THREAD.selects = True

    def mark(self, x: Tensor, mark: Mark | None) -> None:
        if mark is not None and self.adopt(x):
            x._sll = mark, None  # type: ignore[attr-defined]
        THREAD.marks = True

    def policies(self) -> list[Any]:
        """What chooses its widths."""
        return []

    def counted(self) -> dict[Any, int]:
        """How often each line of the program has decided in this step."""
        return next((entered.counts for entered in reversed(THREAD.entered) if entered.mode is self), {})

    def count_from(self, counts: dict[Any, int]) -> None:
        """Go on from there, in what was entered last."""
        THREAD.entered[-1].counts = counts

    def adopt(self, x: Tensor) -> bool:
        entered = THREAD.entered
        if not entered:  # entered by compiled code, and left there
            THREAD.adrift.append(ref(x))
            return False
        IDLE.region = None
        top = entered[-1]
        top.live.append(ref(x))
        if len(top.live) >= top.sweep_at:
            top.sweep()
        return True

    def entered(self) -> bool:
        """On, or handling a call just now: then torch hides it."""
        on = (THREAD.at_work, *stack(), *(entered.mode for entered in THREAD.entered))
        return any(mode is self for mode in on)

    def step(self) -> int:
        return THREAD.step

    def outermost(self) -> Mode:
        """The region or block at whose end decisions end. (torch hides a mode while it handles a call.)"""
        return next((mode for mode in stack() if isinstance(mode, Mode)), self)

    def _leave(self) -> None:
        _pop()
        own = THREAD.__dict__  # (in fewer steps than attributes of a thread)
        entered: list[Entered] = own["entered"]
        left = entered.pop()
        live, own["cut"] = left.live, left.cut
        if entered:  # still inside an outer region: its decisions may go on
            entered[-1].adopt(live)
        else:
            unused = release(live)
            if unused and self.looks_back:
                self.leave_behind(unused)
            own["selects"] = own["marks"] = False
            if own["waiting"]:
                warn_now()
        THREAD.look()
        if own["patched"]:
            THREAD.patched = [region for region in THREAD.patched if region.entered()]


_UNSEEN = "something wrote to it that the region cannot see (TorchScript, another thread). Clone it before that."


def _stale(x: Tensor) -> bool:
    """Whether `x` was written to since it carries what it carries."""
    pair = x._sll  # type: ignore[attr-defined]
    return pair is not None and pair[1] not in (x._version, None)


def _seen(known: list[Tensor]) -> None:
    """The region saw what wrote to them: they carry nothing, if the rule did not see to it."""
    for x in known:
        if _stale(x):
            x._sll = None  # type: ignore[attr-defined]


def _held(items: Any) -> list[Tensor]:
    """What may carry something in a tuple, a list or a slice, however deep."""
    found: list[Tensor] = []
    for x in items:
        if getattr(x, "_sll", None) is not None:
            found.append(x)
        elif type(x) is Tensor:
            if x._base is not None and getattr(x._base, "_sll", None) is not None:
                returned(x, x._base)
        elif isinstance(x, (tuple, list)):
            found += _held(x)
        elif type(x) is slice:
            found += _held((x.start, x.stop, x.step))
    return found


# After a graph break the rest of a region runs in eager mode, and Dynamo would compile each of these as a function
# of its own. As a part of the user's function they still are traced.
for _method in (Mode.__torch_function__, Mode._among_others, Mode.__enter__, Mode.enter, Mode.__exit__):
    skip(_method)
