"""The region: a `TorchFunctionMode` that looks every torch call up in the rule registry.

`linearize` is the mode and the public object at once, because that is what `torch.compile` traces: entered outside
the compiled function, inside it, or created beforehand.
"""

from __future__ import annotations

import functools
import inspect
import math
import threading
import weakref
from collections import Counter
from collections.abc import Callable, Iterable, Mapping
from typing import Any, TypeVar, cast, overload

import torch
from torch import Tensor
from torch.compiler import is_compiling, is_dynamo_compiling
from torch.overrides import TorchFunctionMode

from . import checkpoint
from ._carry import flips
from ._options import OnLost, RegionForward, one_of, op_names, shown
from .linearization import (
    Carrier,
    Choice,
    Expectation,
    Outcomes,
    Selection,
    carrier,
    choice,
    decisions,
    discrete_carrier,
    resolved,
    selection,
    uncertain,
    undecided,
)
from .policy import AUTO, Eps, Policy, Watched, Width, kind_of, widths
from .report import CallSite, Lost, Report, Widths, call_site, unwrapped
from .rules import NO_GRADIENT_TO_LOSE, REMEDIES, RULES, SOURCES, selections
from .rules.registry import ALWAYS, BY_NAME, DECIDES_BY_NAME, DISCRETE, LEFT_ALONE, op_name, tracked, written
from .sites import READS, may_write, settle, settle_all, settle_hooked
from .trace import Trace, Watch

__all__ = ["Report", "enable", "hard", "linearize", "patch", "unpatch"]

Fn = TypeVar("Fn", bound=Callable[..., Any])


class _Entered:
    """An entered region or hard block."""

    def __init__(self, mode: _Mode, in_reentrant: bool) -> None:
        self.mode = mode
        self.live: dict[int, weakref.ref[Tensor]] = {}
        """The tensors that carry something, by their id (and some that are gone)."""
        self._sweep_at = 256
        self.in_reentrant = in_reentrant
        """Entered by a function that `torch.utils.checkpoint` runs without gradients, and that will enter it again."""

    def keep(self, x: Tensor) -> None:
        self.live[id(x)] = weakref.ref(x)
        if len(self.live) >= self._sweep_at:
            self.adopt({})

    def adopt(self, live: dict[int, weakref.ref[Tensor]]) -> None:
        self.live.update(live)
        if len(self.live) >= self._sweep_at:
            self.live = {key: ref for key, ref in self.live.items() if ref() is not None}
            self._sweep_at = max(256, 2 * len(self.live))


class _Thread(threading.local):
    """What this thread has entered."""

    def __init__(self) -> None:
        self.at_work: _Mode | None = None
        """The region that is handling a call: those around it let everything pass."""
        self.entered: list[_Entered] = []
        """Innermost last. (torch hides a mode while it handles a call.)"""
        self.alone = False
        """One region is entered, and it does not watch: what it passes on reaches no other."""
        self.made: list[Tensor] | None = None
        """In a region of compiled code that nothing is around: the tensors that were made to carry something."""

    def look(self) -> None:
        self.alone = len(self.entered) == 1 and self.entered[0].mode.trace is None

    def regions(self) -> list[_Mode]:
        """All that are on; at least the one that is handling a call, which compiled code may have entered."""
        found = [entered.mode for entered in self.entered]
        return found if self.at_work is None or found else [self.at_work]


_THREAD = _Thread()


class _Mode(TorchFunctionMode):
    """A region or a hard block: what is innermost decides, what is around it lets calls pass."""

    _selects = False
    trace: Trace | None = None

    def dispatch(self, func: Callable[..., Any], args: tuple[Any, ...], kwargs: dict[str, Any]) -> Any:
        raise NotImplementedError

    def __torch_function__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        # What an ordinary network calls comes no further than this: it is to cost next to nothing.
        if not is_dynamo_compiling() and func not in ALWAYS and _THREAD.alone:
            for x in (*args, *kwargs.values()) if kwargs else args:
                if isinstance(x, Tensor):
                    if getattr(x, "_sll", None) is not None:
                        break
                elif isinstance(x, (tuple, list, slice)) and _holds(x):
                    break
            else:
                if not _transformed():
                    if (kwargs or func not in READS) and may_write(func, kwargs):
                        settle((*args, *kwargs.values()) if kwargs else args)
                    return func(*args, **kwargs) if kwargs else func(*args)
        if _THREAD.at_work is not None:
            return func(*args, **(kwargs or {}))
        if func in _OUTSIDE_THE_RULES:
            return _OUTSIDE_THE_RULES[func](self, func, args, kwargs or {})
        _THREAD.at_work = self
        try:
            if not is_compiling() and may_write(func, kwargs):
                settle((*args, *kwargs.values()) if kwargs else args)
            handle = self.dispatch if self.trace is None else self._traced
            return handle(func, args, kwargs or {})
        finally:
            _THREAD.at_work = None

    def _traced(self, func: Callable[..., Any], args: tuple[Any, ...], kwargs: dict[str, Any]) -> Any:
        raise NotImplementedError

    def __enter__(self) -> Any:
        if is_compiling():
            _begin_in_compiled_code()
        else:
            recording = torch.is_grad_enabled()
            if recording and _THREAD.entered and checkpoint.hooked():
                checkpoint.note(_THREAD.regions, ())
            _THREAD.made = None  # (left by an exception)
            _THREAD.entered.append(_Entered(self, not recording and checkpoint.in_reentrant()))
            _THREAD.look()
        return super().__enter__()  # type: ignore[no-untyped-call]

    def __exit__(self, *exc: Any) -> None:
        known = not is_compiling() and any(entered.mode is self for entered in _THREAD.entered)
        if is_compiling() or (not known and _innermost() is self):  # entered by compiled code
            super().__exit__(*exc)  # type: ignore[no-untyped-call]
            _end_in_compiled_code()
            return
        inside = 0
        while isinstance(mode := _innermost(), _Mode) and mode is not self:
            mode._leave()
            inside += 1
        if mode is not self:
            raise RuntimeError(
                f"{self!r} is left before {mode!r}, which was entered after it: leave that first. In a generator or a "
                "coroutine a with block stays on while it is suspended; decorate it with @sll.enable(...) instead"
            )
        self._leave()
        _PATCHED.regions = [region for region in _PATCHED.regions if _entered(region)]
        if inside and exc[0] is None:
            raise RuntimeError(
                f"{self!r} ended while a region inside it was still on; that is off now. Call unpatch() before the "
                "end; if two tasks or generators took turns, decorate them with @sll.enable(...) instead of with"
            )

    def policies(self) -> list[Policy]:
        """What chooses its widths."""
        return []

    def adopt(self, x: Tensor) -> bool:
        """`x` carries something: the region takes it back at its end. False if nobody will tell it when that is."""
        if is_compiling():
            if _THREAD.made is not None:
                _THREAD.made.append(x)
            return False
        self._selects = self._selects or selection(x) is not None
        if not _THREAD.entered:  # entered by compiled code, and left there
            return False
        _THREAD.entered[-1].adopt({id(x): weakref.ref(x)})
        return True

    def keep(self, x: Tensor) -> None:
        """`adopt`, for flips: eager code, and nothing to ask."""
        if _THREAD.entered:
            _THREAD.entered[-1].keep(x)

    def entered(self) -> bool:
        """In this thread."""
        return self is _THREAD.at_work or _entered(self)

    def outermost(self) -> _Mode:
        """The region or block at whose end decisions end. (torch hides a mode while it handles a call.)"""
        return next(iter(_around()), self)

    def _leave(self) -> None:
        TorchFunctionMode.__exit__(self, None, None, None)  # type: ignore[no-untyped-call]
        live = _THREAD.entered.pop().live
        _THREAD.look()
        if _THREAD.entered:  # still inside an outer region: its decisions may go on
            _THREAD.entered[-1].adopt(live)
        else:
            _take_carriers(live)


def _around() -> list[_Mode]:
    """The regions and blocks that torch knows to be on, outermost first."""
    stack = torch.overrides._get_current_function_mode_stack()  # type: ignore[no-untyped-call]
    return [mode for mode in stack if isinstance(mode, _Mode)]


def _begin_in_compiled_code() -> None:
    if not _around():
        _THREAD.made = []


def _end_in_compiled_code() -> None:
    """What the region returns is plain, as after an eager one. So the compiler need not write out what it carried."""
    if _THREAD.made is not None and not _around():
        for x in _THREAD.made:
            x._sll = None  # type: ignore[attr-defined]
        _THREAD.made = None


def _not_compiled_on_their_own() -> None:
    """After a graph break the rest of a region runs in eager mode, and Dynamo would compile each of these calls as a
    function of its own, in which `is_compiling` is true. Traced as a part of the user's function they still are.
    """
    dynamo = torch._C._dynamo.eval_frame
    if hasattr(dynamo, "set_code_exec_strategy"):
        skip = dynamo._FrameExecStrategy(dynamo._FrameAction.SKIP, dynamo._FrameAction.SKIP)
        for method in (_Mode.__torch_function__, _Mode.__enter__, _Mode.__exit__, linearize.__enter__):
            dynamo.set_code_exec_strategy(method.__code__, skip)


class _Patched(threading.local):
    def __init__(self) -> None:
        self.regions: list[linearize] = []


_PATCHED = _Patched()


def _innermost() -> Any:
    return torch.overrides._get_current_function_mode()  # type: ignore[no-untyped-call]


def _entered(region: _Mode) -> bool:
    return any(mode is region for mode in torch.overrides._get_current_function_mode_stack())  # type: ignore[no-untyped-call]


def _take_carriers(live: dict[int, weakref.ref[Tensor]]) -> None:
    """Leave plain tensors behind."""
    for ref in live.values():
        tensor = ref()
        if tensor is not None:
            tensor.__dict__.pop("_sll", None)


_MIRRORED = {"gt": "lt", "lt": "gt", "ge": "le", "le": "ge"}
"""Python asks a subclass first: ``x > parameter`` is the call ``parameter < x``. So these names go together."""


def _with_mirrored(ops: frozenset[str]) -> frozenset[str]:
    return ops | {_MIRRORED[op] for op in ops if op in _MIRRORED}


class linearize(_Mode):
    """A region in which discrete PyTorch operations have a derivative.

    Inside, each jump at a decision boundary is a straight ramp over ``|d| <= eps``, where ``d`` is the distance to
    the boundary in the units of the op's input, with slope ``jump / (2 eps)``. Outside the band every op is the
    original one, bit for bit. Calls are linearized exactly where autograd would record them; under `torch.no_grad`
    the program is the plain one.

    The ramp is the discrete function averaged over a window,
    ``f_eps(x) = 1/(2 eps) * integral of f(x + u) for u in [-eps, eps]``, so for one decision ``f_eps'(x) = (f(x +
    eps) - f(x - eps)) / (2 eps)``, and ``f_eps -> f`` as ``eps -> 0``.

    Use it as a context manager, which yields the region, or as a decorator of functions, methods, generators and
    async functions. One object can be used again and again, nested (the innermost region decides) and from several
    threads.

    Args:
        eps: half-width of the band, a positive float in the units of the op's input (the default is for looking at
            gradients; to train, start with ``"auto"``); or ``"auto"``, which finds one for each call; or a policy
            (`sll.Coverage`, `sll.Anneal`, any `sll.Policy`); or a mapping from op name to one of these with a
            ``"default"`` entry, e.g. ``{"default": "auto", "round": 0.5}``.
        forward: ``"linear"`` (values follow the ramp inside the band), ``"hard"`` (every value is the original
            program's, bit for bit; only gradients change, to those of ``"linear"`` where at most one decision that an
            element depends on is in its band) or ``"straight-through"`` (values
            as with ``"hard"``; of ``where(m, a, b)`` or ``table[index]`` what the program takes gets the gradient, as
            it does without a region, and what it leaves gets none; decisions have the same slopes). The default is
            ``"linear"``; where ``"auto"`` occurs in `eps`, ``"straight-through"``.
        only: names of ops to linearize; all others run as they are. ``sll.OPS`` lists the names. ``gt`` and ``lt`` go
            together, as do ``ge`` and ``le``: where the right side is an `nn.Parameter`, Python calls the other one.
        exclude: names of ops not to linearize.
        on_lost: what to do when a decision inside its band reaches a function that cannot pass a gradient on:
            ``"warn"`` once per call site with `LostGradientWarning`, ``"error"`` (`LostGradientError`) or
            ``"ignore"``.
        trace: note for each call site what became of its decisions, for `report`. To find out, not to train: it
            reads numbers from the device, works out masks that nobody asks for, and breaks the graph of compiled code.

    Raises:
        TypeError, ValueError: naming the argument that is not as described.

    Example:
        >>> import torch, sll
        >>> x = torch.tensor([-1.0, 0.0, 1.0], requires_grad=True)
        >>> with sll.linearize(eps=1e-2):
        ...     y = torch.sign(x)
        ...     z = torch.round(y * 10)
        ...     z.sum().backward()
        >>> z.tolist(), x.grad.tolist()
        ([-10.0, 0.0, 10.0], [0.0, 1000.0, 0.0])
    """

    def __init__(
        self,
        eps: Eps = 1e-3,
        *,
        forward: RegionForward | None = None,
        only: Iterable[str] | None = None,
        exclude: Iterable[str] | None = None,
        on_lost: OnLost = "warn",
        trace: bool = False,
    ) -> None:
        super().__init__()
        self._eps, self._eps_of = widths(eps, SOURCES)
        if forward is None:
            auto = self._eps is AUTO or AUTO in self._eps_of.values()
            forward = "straight-through" if auto else "linear"
        self.mode = one_of(forward, "forward", ("linear", "hard", "straight-through"))
        self.linear = forward == "linear"
        self._given = dict(eps) if isinstance(eps, Mapping) else eps
        ops = frozenset(SOURCES) if only is None else _with_mirrored(op_names(only, "only", SOURCES))
        if exclude is not None:
            left_out = op_names(exclude, "exclude", SOURCES)
            both = sorted(ops & left_out) if only is not None else ()
            if both:
                raise ValueError(
                    f"only= and exclude= both name {both[0]!r}; take it out of one of them (gt and lt, ge and le count "
                    "as one: Python may call either)"
                )
            ops = ops - _with_mirrored(left_out)
        self._ops = ops
        self._eps_of = {**{_MIRRORED[op]: eps for op, eps in self._eps_of.items() if op in _MIRRORED}, **self._eps_of}
        self._lost = Lost(one_of(on_lost, "on_lost", ("ignore", "warn", "error")))
        self._infinite: Counter[CallSite] = Counter()
        self._approximate: Counter[CallSite] = Counter()
        self._widths = Widths()
        if not isinstance(trace, bool):
            raise TypeError(f"trace must be True or False, got {shown(trace)}; region.report() has what was traced")
        self.trace = Trace() if trace else None

    # --- public ---

    @property
    def eps(self) -> Eps:
        """The half-width given. Read-only: another width is another region."""
        return self._given

    @property
    def forward(self) -> str:
        """``"linear"``, ``"hard"`` or ``"straight-through"``. Read-only."""
        return self.mode

    def __enter__(self) -> linearize:
        if not is_compiling():
            for around in _THREAD.entered:
                if around.mode.trace is not None:
                    around.mode.trace.has_inner = True
        super().__enter__()
        return self

    def __call__(self, fn: Fn) -> Fn:
        return cast(Fn, _decorate(self, fn))

    def __repr__(self) -> str:
        return f"sll.linearize(eps={self.eps!r}, forward={self.forward!r})"

    def report(self) -> Report:
        """What was lost so far, and what eps a policy chose, per call site; with ``trace=True`` what became of every
        decision. It holds what was run until now: ask again after backward.

        Example:
            >>> import torch, sll
            >>> x = torch.tensor([-1.0, 0.05, 1.0], requires_grad=True)
            >>> with sll.linearize(eps=0.1, trace=True) as region:
            ...     torch.sign(x).sum().backward()
            >>> (row,) = region.report().rows
            >>> row.site.op, row.elements, row.in_band, row.status
            ('sign', 3, 1, 'gets gradients')
        """
        rows = () if self.trace is None else self.trace.rows()
        return Report(
            dict(self._lost.calls),
            dict(self._infinite),
            self._widths.summary(),
            rows,
            self.trace is not None,
            dict(self._approximate),
        )

    # --- what rules ask ---

    def eps_for(self, op: str) -> float | Width:
        eps = self._eps_of.get(op, self._eps)
        if isinstance(eps, float) and self.trace is None:
            return eps
        if is_compiling():
            return eps if isinstance(eps, float) else Width(eps, kind_of(op))
        site = call_site(op)
        watch = None if self.trace is None else self.trace.watch(site)
        if isinstance(eps, float):
            eps = Watched(eps)
            eps.watch = cast(Watch, watch)
            return eps
        return Width(eps, kind_of(op), lambda half: self._widths.add(site, half), watch)

    def policies(self) -> list[Policy]:
        return [eps for eps in (self._eps, *self._eps_of.values()) if not isinstance(eps, float)]

    def linearizes(self, op: str) -> bool:
        return op in self._ops

    def call(self, func: Callable[..., Any], *args: Any, **kwargs: Any) -> Any:
        """Run `func` as if the program had called it in the region."""
        return self.dispatch(func, args, kwargs)

    def lose(
        self,
        op: str,
        tensors: Iterable[Tensor],
        why: str,
        *,
        undecided: Callable[[], bool] | None = None,
        origins: Iterable[Tensor] = (),
    ) -> None:
        """Count that the linearization of `tensors` ends at `op`; warn or raise if an element was in its band
        (`undecided` tells, where no tensor carries it yet, and `origins` are what its gradient would flow to).
        """
        if is_compiling():
            if self._lost.on_lost != "ignore":  # eager mode knows more, and says what there is to say
                torch._dynamo.graph_break(
                    msg=f"sll: the gradient of a decision may end at {op}: {why} {_EAGER} "
                    'With on_lost="ignore" it stays in the graph, without that gradient.'
                )
            return
        tensors = list(tensors)
        if self.trace is not None:
            flows = [*origins, *(t for x in tensors for t in _differentiable(x))]
            elements = sum(x.numel() for x in tensors) or 1
            in_band = sum(map(_undecided, tensors)) if undecided is None else int(undecided())
            self.trace.lose(call_site(op), flows, elements, in_band, why)
        self._lost.add(op, undecided or (lambda: any(_in_band(x) for x in tensors)), why)

    def approximate(self, op: str, flips: int) -> None:
        """Count flips that are not followed any further."""
        self._approximate[call_site(op)] += flips

    def count_infinite_jumps(self, func: Callable[..., Any], operands: Iterable[Any], tree: Outcomes) -> None:
        if is_compiling() or not any(_infinite(x) for x in operands):
            return
        jump = tree.above.detach() - tree.below.detach()
        undecided = tree.decision.undecided() & ~jump.isfinite()
        if torch._C._functorch.is_functorch_wrapped_tensor(undecided):
            return  # inside vmap there is no number to read
        count = int(undecided.sum())
        if count:
            self._infinite[call_site(op_name(func))] += count

    # --- the mode ---

    def dispatch(self, func: Callable[..., Any], args: tuple[Any, ...], kwargs: dict[str, Any]) -> Any:
        compiling = is_compiling()
        recording = torch.is_grad_enabled() and (compiling or not torch.is_inference_mode_enabled())
        if compiling:
            self._break_the_graph(func, args, kwargs)
        elif recording:
            if checkpoint.hooked() and (func in RULES or self._selects):
                checkpoint.note(_THREAD.regions, (*args, *kwargs.values()))
            if self._selects and _selected(args, kwargs):
                found: Any = selections.rule_for(func)
                if found is not None:
                    return found(self, func, args, kwargs)
            if torch._C._are_functorch_transforms_active() and (outside := _decided_outside_of_vmap(args, kwargs)):
                self.lose(op_name(func), outside, "it was made outside of vmap; make it inside, or pass a float.")
        if recording and not compiling and self.mode == "hard":
            return flips.dispatch(self, func, args, kwargs)
        rule = BY_NAME.get(func.__name__) if compiling else RULES.get(func)
        if rule is not None:
            if recording:
                return rule(self, func, args, kwargs)
            out = func(*args, **kwargs)
            if not compiling and (func in DISCRETE or _may_carry(args)):
                self._refuse_reentrant(func, args, out)
            return out
        if _may_carry(args) or (kwargs and _may_carry(kwargs.values())):
            lost = [x for x in _tensors(args, kwargs) if discrete_carrier(x)]
            silent = func.__name__ in _ASKS_BY_NAME if compiling else func in NO_GRADIENT_TO_LOSE
            asked = silent and all(x is args[0] for x in lost)
            if lost and not asked and recording:
                self.lose(op_name(func), lost, REMEDIES.get(op_name(func), _NO_RULE))
        out = func(*args, **kwargs)
        if compiling and args and func.__name__[-1:] == "_" and func.__name__[-2:] != "__":
            written(args[0])
        return out

    def _traced(self, func: Callable[..., Any], args: tuple[Any, ...], kwargs: dict[str, Any]) -> Any:
        """`dispatch`, noted by the trace."""
        trace = self.trace
        if trace is None or is_compiling() or not torch.is_grad_enabled():
            return self.dispatch(func, args, kwargs)
        trace.begin()
        operands = _tensors(args, kwargs)
        # Asked beforehand, because the function may be in place.
        followed, recorded = any(carrier(x) is not None for x in operands), any(map(tracked, operands))
        size = max((x.numel() for x in operands), default=0)
        flows = [t for x in operands if discrete_carrier(x) for t in _differentiable(x)] if func in _CUTS else []
        out = self.dispatch(func, args, kwargs)
        name = op_name(func)
        if func in _CUTS:
            if recorded or (flows and name in ("detach", "__get__", ".data")):
                row = trace.note(call_site(name), "cut", size, _CUTS[func])
                trace.ends(row, flows)
        elif func in DISCRETE or name == "bool" and isinstance(out, Tensor):
            by_mode = name in ("div", "divide") and kwargs.get("rounding_mode") is not None
            if trace.decided() or not (by_mode or _decides(func, out)):
                return out
            if followed:
                row = trace.note(call_site(name), "follows", size)
                # What became an ordinary tensor passes on what reaches it.
                row.in_band += _undecided(out) if carrier(out) is not None else size
            elif not any(x.is_floating_point() for x in operands):
                return out
            elif not recorded:
                trace.note(call_site(name), "hard", size, "its input does not require grad")
            elif isinstance(out, Tensor) and out.dtype == torch.bool and name in ("bool", "to", "type", "type_as"):
                trace.note(call_site(name), "hard", size, "x != 0 has no boundary that a window average sees")
            else:
                trace.note(call_site(name), "hard", size, "left out by only= or exclude=, or nothing to decide")
        elif recorded and not followed and name in LEFT_ALONE and name not in _GUARDS and not _has_float(out):
            trace.note(call_site(name), "hard", size, LEFT_ALONE[name])
        return out

    def _break_the_graph(self, func: Callable[..., Any], args: tuple[Any, ...], kwargs: dict[str, Any]) -> None:
        """While compiling: leave to eager mode what no rule can do in a graph, whatever the function is.

        Written without generators, and what is asked often is asked once: Dynamo takes milliseconds for every frame.
        """
        name = func.__name__
        if name not in _TAKES_A_FUNCTION:
            for x in args:
                if callable(x) and not isinstance(x, (Tensor, type)):
                    # torch.utils.checkpoint, torch.cond: Dynamo traces what they call without the mode that is at work.
                    torch._dynamo.graph_break(msg=f"sll: compiled code does not take a region into {name}. {_EAGER}")
        if not torch.is_grad_enabled():
            return
        carries = _may_carry(args)
        if carries or name in DECIDES_BY_NAME:
            if checkpoint.around_compilation():
                torch._dynamo.graph_break(msg=f"sll: compiled code does not take a region into a checkpoint. {_EAGER}")
            if self.trace is not None:
                torch._dynamo.graph_break(msg=f"sll: trace=True watches decisions in eager mode. {_EAGER}")
            if torch._C._are_functorch_transforms_active():
                torch._dynamo.graph_break(
                    msg=f"sll: compiled code does not take a region into torch.func transforms. {_EAGER}"
                )
        if (carries or (kwargs and _may_carry(kwargs.values()))) and _selected(args, kwargs):
            self.lose(op_name(func), (), "what a mask selected is not followed in compiled code.")

    def _refuse_reentrant(self, func: Callable[..., Any], args: tuple[Any, ...], out: Any) -> None:
        """A decision under `torch.no_grad` is the plain one. Not so in the first run of a reentrant checkpoint: there
        the region has no gradients, and the second run has no region.
        """
        tensors = _tensors(args, {})
        decides = func in DISCRETE and any(x.is_floating_point() for x in tensors) and _decides(func, out)
        follows = any(discrete_carrier(x) or selection(x) is not None or flips.carries(x) for x in tensors)
        if not decides and not follows:
            return
        own = bool(_THREAD.entered) and _THREAD.entered[-1].in_reentrant
        if not checkpoint.in_reentrant() or (own and not self.linear):
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


def _decided_outside_of_vmap(args: tuple[Any, ...], kwargs: dict[str, Any]) -> list[Tensor]:
    """Discrete operands that carry something which their batched selves do not."""
    functorch = torch._C._functorch
    found = []
    for x in _tensors(args, kwargs):
        if not x.is_floating_point() and carrier(x) is None and functorch.is_batchedtensor(x):
            x = unwrapped(x)
            if discrete_carrier(x):
                found.append(x)
    return found


_EAGER = "Without fullgraph=True eager mode does this call."
_NO_RULE = "no rule carries a decision through it. Write it with float functions of x.float(): those have a derivative."
_TAKES_A_FUNCTION = {"register_hook", "register_post_accumulate_grad_hook"}
"""And calls it later."""


_MAY_DECIDE = {"to", "type", "type_as", "max", "min", "median", "nanmedian", "true_divide", "divide", "div"}


def _decides(func: Callable[..., Any], out: Any) -> bool:
    """Whether a call of one of `DISCRETE` was a decision, and not a cast to another float or a mere maximum (`div` with
    a rounding mode aside).
    """
    if func.__name__ in _MAY_DECIDE:
        return not isinstance(out, Tensor) or not out.is_floating_point()
    return True


def _selected(args: tuple[Any, ...], kwargs: dict[str, Any]) -> bool:
    for x in _tensors(args, kwargs):  # noqa: SIM110 (Dynamo traces it at every call that carries something)
        if selection(x) is not None:
            return True
    return False


def _holds(x: Any) -> bool:
    """Whether a tensor that may carry something is in a tuple, a list or a slice, however deep."""
    for item in (x.start, x.stop, x.step) if isinstance(x, slice) else x:
        if isinstance(item, Tensor):
            if getattr(item, "_sll", None) is not None:
                return True
        elif isinstance(item, (tuple, list, slice)) and _holds(item):
            return True
    return False


def _may_carry(operands: Iterable[Any]) -> bool:
    """A quick look, taken at every call of a function that has no rule."""
    for x in operands:
        if isinstance(x, (tuple, list)):
            if any(isinstance(item, Tensor) and getattr(item, "_sll", None) is not None for item in x):
                return True
        elif isinstance(x, Tensor) and getattr(x, "_sll", None) is not None:
            return True
    return False


_ASKS_BY_NAME = {func.__name__ for func in NO_GRADIENT_TO_LOSE}


def _infinite(x: Any) -> bool:
    if isinstance(x, Tensor):  # reading a number on another device would wait for it
        if x.dim() or not x.is_floating_point() or x.device.type != "cpu":
            return False
        return not torch._C._functorch.is_functorch_wrapped_tensor(x) and not math.isfinite(x.detach())
    return isinstance(x, float) and not math.isfinite(x)


def _tensors(args: tuple[Any, ...], kwargs: dict[str, Any]) -> list[Tensor]:
    """The tensors among the arguments of a call, in lists and tuples as well."""
    found = []
    for x in (*args, *kwargs.values()) if kwargs else args:
        if isinstance(x, Tensor):
            found.append(x)
        elif isinstance(x, (tuple, list)):
            found.extend(item for item in x if isinstance(item, Tensor))
    return found


def _in_band(x: Tensor) -> bool:
    found = carrier(x)
    if isinstance(found, Expectation):
        return _any(uncertain(found, x))
    picked = selection(x)
    if picked is not None:
        return _any(picked.weights != 1)
    chosen = choice(x)
    if chosen is not None:
        return _any(~chosen.decided())
    return any(_any(d.undecided()) for d in decisions(x))


def _undecided(x: Tensor) -> int:
    """How many elements are in their band."""
    picked = selection(x)
    mask = picked.weights != 1 if picked is not None else undecided(x)
    if mask is None:
        return 0
    mask = unwrapped(mask)
    return int(mask.sum()) if mask.numel() != 1 else int(mask) * x.numel()


def _differentiable(x: Tensor) -> list[Tensor]:
    """What the gradient of a discrete `x` would flow to."""
    found = resolved(x)
    if isinstance(found, Expectation):
        return [found.value]
    if isinstance(found, (Choice, Selection)):
        return [found.weights]
    return [d.offset() for d in decisions(x)]


def _has_float(out: Any) -> bool:
    parts = out if isinstance(out, (tuple, list)) else (out,)
    return any(isinstance(x, Tensor) and (x.is_floating_point() or x.is_complex()) for x in parts)


_GUARDS = {"isnan", "isinf", "isfinite", "isposinf", "isneginf", "isreal", "equal", "allclose"}
"""These ask whether all is well, and decide nothing."""

_CUTS: dict[Any, str] = {
    **dict.fromkeys((torch.Tensor.detach, torch.detach, torch.Tensor.data.__get__), "detached"),  # type: ignore[attr-defined]
    **{
        func: REMEDIES[name.strip("_")]
        for name in ("item", "tolist", "numpy", "__bool__", "__int__", "__float__", "__array__")
        for func in (getattr(torch.Tensor, name),)
    },
}
"""How a program leaves autograd, with or without a region."""


def _any(mask: Tensor) -> bool:
    return bool(unwrapped(mask).any())


def _plain(region: _Mode, func: Callable[..., Any], args: tuple[Any, ...], kwargs: dict[str, Any]) -> Any:
    """Pickling and deep copies see the plain tensor, whatever the grad mode."""
    x, *rest = args
    if "_sll" not in x.__dict__:
        return func(*args, **kwargs)
    alias = x.detach().requires_grad_(x.requires_grad)
    alias.__dict__.update({name: value for name, value in x.__dict__.items() if name != "_sll"})
    return func(alias, *rest, **kwargs)


def _backward(region: _Mode, func: Callable[..., Any], args: tuple[Any, ...], kwargs: dict[str, Any]) -> Any:
    """Backward may run the user's code again (hooks, activation checkpointing), which may enter regions of its own."""
    settle_hooked()
    return func(*args, **kwargs)


_OUTSIDE_THE_RULES: dict[Any, Callable[..., Any]] = {
    torch.Tensor.__reduce_ex__: _plain,
    torch.Tensor.__deepcopy__: _plain,
    torch.Tensor.backward: _backward,
    torch.autograd.backward: _backward,
    torch.autograd.grad: _backward,
}


ALWAYS.update(_OUTSIDE_THE_RULES)
_transformed = torch._C._are_functorch_transforms_active


class hard(_Mode):
    """Inside a region, a block in which the original ops run: nothing is linearized, and results carry nothing.

    Example:
        >>> import torch, sll
        >>> x = torch.tensor([0.0], requires_grad=True)
        >>> with sll.linearize(eps=1e-2):
        ...     with sll.hard():
        ...         y = torch.sign(x)
        >>> torch.autograd.grad(y.sum(), x)
        (tensor([0.]),)
    """

    def dispatch(self, func: Callable[..., Any], args: tuple[Any, ...], kwargs: dict[str, Any]) -> Any:
        return func(*args, **kwargs)


_not_compiled_on_their_own()


# --- decorators --------------------------------------------------------------------------------------------------


def _decorate(region: linearize, fn: Any) -> Any:
    if isinstance(fn, (classmethod, staticmethod)):
        return type(fn)(_decorate(region, fn.__func__))
    if inspect.isclass(fn) or not callable(fn):
        raise TypeError(
            f"linearize() decorates functions and methods, got {shown(fn)}; "
            + (
                "decorate a method of it, such as forward"
                if inspect.isclass(fn)
                else "to run code in a region write `with sll.linearize(...):`"
            )
        )
    if inspect.isasyncgenfunction(fn):

        @functools.wraps(fn)
        async def wrapper(*args: Any, **kwargs: Any) -> Any:
            steps = _Suspended(region)
            stream = fn(*args, **kwargs)
            step, value = stream.asend, None
            while True:
                try:
                    item = await _Steps(steps, step(value))
                except StopAsyncIteration:
                    return
                try:
                    step, value = stream.asend, (yield item)
                except GeneratorExit:
                    await _Steps(steps, stream.aclose())
                    raise
                except BaseException as error:
                    step, value = stream.athrow, error

    elif inspect.iscoroutinefunction(fn):

        @functools.wraps(fn)
        async def wrapper(*args: Any, **kwargs: Any) -> Any:
            return await _Steps(_Suspended(region), fn(*args, **kwargs))

    elif inspect.isgeneratorfunction(fn):

        @functools.wraps(fn)
        def wrapper(*args: Any, **kwargs: Any) -> Any:
            return (yield from _drive(_Suspended(region), fn(*args, **kwargs)))

    else:

        @functools.wraps(fn)
        def wrapper(*args: Any, **kwargs: Any) -> Any:
            if not is_compiling():
                with region:
                    return fn(*args, **kwargs)
            _begin_in_compiled_code()  # Dynamo enters a region that exists already without calling its `__enter__`
            with region:
                out = fn(*args, **kwargs)
            _end_in_compiled_code()
            return out

    return wrapper


class _Suspended:
    """A region that is left at every ``yield`` or ``await`` and entered again: what tensors carried comes back with
    it.
    """

    def __init__(self, region: linearize) -> None:
        self.region = region
        self._carried: list[tuple[weakref.ref[Tensor], Carrier]] = []

    def __enter__(self) -> None:
        self.region.__enter__()
        for ref, found in self._carried:
            tensor = ref()
            if tensor is not None:
                tensor._sll = found  # type: ignore[attr-defined]
                self.region.adopt(tensor)

    def __exit__(self, *exc: Any) -> None:
        settle_all()  # nobody sees writes while it is suspended
        self._carried = []
        for ref in _THREAD.entered[-1].live.values():
            tensor = ref()
            found = None if tensor is None else tensor.__dict__.get("_sll")
            if found is not None:
                self._carried.append((ref, found))
        self.region.__exit__(*exc)


def _drive(steps: _Suspended, generator: Any) -> Any:
    """``yield from generator``, with the region on while the generator runs and off while it is suspended."""
    send, value = generator.send, None
    while True:
        try:
            with steps:
                item = send(value)
        except StopIteration as stop:
            return stop.value
        try:
            value = yield item
            send = generator.send
        except GeneratorExit:
            with steps:
                generator.close()
            raise
        except BaseException as error:
            send, value = generator.throw, error


class _Steps:
    """An awaitable that runs another one step by step."""

    def __init__(self, steps: _Suspended, awaitable: Any) -> None:
        self._steps, self._awaitable = steps, awaitable

    def __await__(self) -> Any:
        return _drive(self._steps, self._awaitable if hasattr(self._awaitable, "send") else self._awaitable.__await__())


@overload
def enable(fn: Fn, /) -> Fn: ...
@overload
def enable(
    fn: None = None,
    /,
    *,
    eps: Eps = ...,
    forward: RegionForward | None = ...,
    only: Iterable[str] | None = ...,
    exclude: Iterable[str] | None = ...,
    on_lost: OnLost = ...,
    trace: bool = ...,
) -> Callable[[Fn], Fn]: ...
def enable(fn: Any = None, /, **options: Any) -> Any:
    """Decorator: the function runs in a region. ``@sll.enable``, ``@sll.enable(eps=0.1)``; options as for `linearize`.

    Example:
        >>> import torch, sll
        >>> @sll.enable(eps=0.5, forward="hard")
        ... def quantize(x):
        ...     return torch.round(x)
        >>> x = torch.tensor([0.2, 1.4], requires_grad=True)
        >>> quantize(x).sum().backward()
        >>> x.grad
        tensor([1., 1.])
    """
    if fn is not None and not callable(fn):
        raise TypeError(f"enable takes its options by name, got {fn!r}; write @sll.enable(eps={fn!r})")
    region = linearize(**options)
    return region if fn is None else region(fn)


def patch(eps: Eps = 1e-3, **options: Any) -> linearize:
    """Switch a region on until `unpatch`, across notebook cells. No torch attribute is replaced: it is the mode of
    `linearize`.

    Options as for `linearize`. Patching again replaces the region that is on.

    Example:
        >>> import torch, sll
        >>> region = sll.patch(eps=1e-2)
        >>> x = torch.zeros(1, requires_grad=True)
        >>> torch.sign(x).backward()
        >>> sll.unpatch()
        >>> x.grad
        tensor([100.])
    """
    region = linearize(eps, **options)
    if _PATCHED.regions:
        unpatch()
    region.__enter__()
    _PATCHED.regions.append(region)
    return region


def unpatch() -> None:
    """Switch off what `patch` switched on in this thread. Raises RuntimeError if nothing is on, or if it is called
    inside a region that was entered after `patch`.
    """
    if not _PATCHED.regions:
        raise RuntimeError(
            "unpatch() without patch(): no region was switched on in this thread, or it is off already; "
            "call sll.patch() first"
        )
    if _innermost() is not _PATCHED.regions[-1]:
        raise RuntimeError(f"unpatch() inside {_innermost()!r}, which was entered after patch(); leave that first")
    _PATCHED.regions.pop().__exit__(None, None, None)
