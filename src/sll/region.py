"""The region: what users enter, and what the rules of decisions ask."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Iterable, Mapping
from typing import Any, TypeVar, cast

import torch
from torch import Tensor

from ._carry import outcomes, shadows
from ._carry.interface import OUTSIDE, Engine, tensors
from ._mode import checkpoint, cuts, operators, vmap
from ._mode.decorating import around_module, decorate
from ._mode.mode import Mode
from ._mode.notes import Lost, Paths, Widths
from ._mode.places import Places, made_here
from ._mode.runs import numbers_first
from ._mode.threads import THREAD
from ._mode.watching import Trace
from ._ops.callsite import CallSite, call_site
from ._ops.options import (
    OnLost,
    RegionForward,
    SeeThrough,
    generator_or_none,
    looks_through,
    one_of,
    shown,
    whole_paths,
)
from ._reports.report import Report, flip_rows
from ._rules.index import MIRRORED, OP_OF, OPERATORS, chosen_ops
from ._rules.widths import Watched, Width
from .auto import Auto
from .eps import Eps, widths
from .paths import rerunning
from .policies import Policy

Fn = TypeVar("Fn", bound=Callable[..., Any])

ENGINES: dict[str, Engine] = {"linear": outcomes.ENGINE, "straight-through": shadows.ENGINE}
"""What carries the decisions of each forward mode that is in use."""


def engine_of(mode: str) -> Engine:
    """Flips are imported when somebody wants them: most regions train."""
    if mode not in ENGINES:
        from ._carry import flips

        ENGINES[mode] = flips.ENGINE
        flips.ENGINE.always.update(OUTSIDE)
    return ENGINES[mode]


_LOOKS_BACK = 10
"""Ends of a region with masks or indices that it did not use: in a loop they are the same at each step."""
FORMULA = 1e-3
"""The half-width for looking at gradients."""


class linearize(Mode):
    """A region in which discrete PyTorch operations have a derivative.

    Inside, each jump at a decision boundary is a straight ramp over ``|d| <= eps``, where ``d`` is the distance to
    the boundary in the units of the op's input, with slope ``jump / (2 eps)``. Outside the band every op is the
    original one, bit for bit. Calls are linearized exactly where autograd would record them; under `torch.no_grad`
    the program is the plain one.

    The ramp is the discrete function averaged over a window,
    ``f_eps(x) = 1/(2 eps) * integral of f(x + u) for u in [-eps, eps]``, so for one decision ``f_eps'(x) = (f(x +
    eps) - f(x - eps)) / (2 eps)``, and ``f_eps -> f`` as ``eps -> 0``.

    Use it as a context manager, which yields the region, or as a decorator of functions, methods, modules, generators
    and async functions. One object can be used again and again, nested (the innermost region decides) and from several
    threads.

    Args:
        eps: ``"auto"``, which finds a half-width for each line of the program and keeps it (see `sll.Auto`); or the
            half-width of the band, a positive float in the units of the op's input; or a policy (`sll.Coverage`,
            `sll.Anneal`, any `sll.Policy`); or a mapping from op name to one of these with a ``"default"`` entry, e.g.
            ``{"default": "auto", "round": 0.5}``. The default is ``"auto"``; with ``forward="linear"`` or ``"hard"``,
            which are for looking at gradients, it is 1e-3.
        forward: what is shown in the band, and what gradients mean. ``"straight-through"``: values are the original
            program's, bit for bit; gradients are local, the chain rule with the slope of each decision at the value
            shown. ``"hard"``: the same values; the gradient of each open decision is its slope times (the result with
            that one decision the other way - the result). ``"linear"``: values follow the ramp; gradients are the
            derivative of one continuous function. What ``where(m, a, b)`` or ``table[index]`` takes gets the whole
            gradient, as it does without a region; with ``"linear"`` both sides share it by weight. The default is
            ``"straight-through"`` where ``"auto"`` occurs in `eps`, and ``"linear"`` for a width of your own.
        only: names of ops to linearize; all others run as they are. ``sll.OPS`` lists the names. ``gt`` and ``lt`` go
            together, as do ``ge`` and ``le``: where the right side is an `nn.Parameter`, Python calls the other one.
        exclude: names of ops not to linearize.
        on_lost: what to do when a decision inside its band reaches a function that cannot pass a gradient on:
            ``"warn"`` once per call site with `LostGradientWarning`, ``"error"`` (`LostGradientError`) or
            ``"ignore"``.
        trace: note for each call site what became of its decisions, for `report`. To find out, not to train: it
            reads numbers from the device, works out masks that nobody asks for, and breaks the graph of compiled code.
        paths: how often a decorated function may run, to give gradients to what Python asks: ``if``, ``while``,
            ``int()``, ``.item()``, indices of lists. 1 runs it once, and reports that they end there. A ``with`` block
            cannot run again, so it takes 1 only.
        see_through: whether to look through what the program itself cuts: `torch.no_grad` blocks and decorators that
            are entered in the region (``"no_grad"``), and ``detach()`` of what is decided (``"detach"``). ``True`` is
            both; a set names one. Metrics compute so. What is written to parameters, buffers and averages stays as it
            is. Without it such decisions are rows of the report, and warned about where they are used.
        generator: of the random numbers that choose which answers are run, where `paths` is less than all. The
            default is one of the region's own, with the seed 0.

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

    _infinite: Counter[CallSite]
    _approximate: Counter[CallSite]
    _cut: Counter[CallSite]
    _left: Counter[CallSite]

    def __init__(
        self,
        eps: Eps | None = None,
        *,
        forward: RegionForward | None = None,
        only: Iterable[str] | None = None,
        exclude: Iterable[str] | None = None,
        on_lost: OnLost = "warn",
        trace: bool = False,
        paths: int = 1,
        see_through: SeeThrough = False,
        generator: torch.Generator | None = None,
    ) -> None:
        super().__init__()
        if self.put_off(eps, forward, only, exclude, on_lost, trace, paths, see_through, generator):
            return
        self.through = looks_through(see_through)
        eps = (FORMULA if forward in ("linear", "hard") else "auto") if eps is None else eps
        self._eps, self._eps_of = widths(eps, OP_OF)
        self.memories = tuple(policy for policy in self.policies() if isinstance(policy, Auto))
        if forward is None:
            forward = "straight-through" if self.memories else "linear"
        if isinstance(eps, str):
            made_here(cast(Auto, self._eps))
        self.mode = one_of(forward, "forward", ("linear", "hard", "straight-through"))
        self.linear = forward == "linear"
        self._given = dict(eps) if isinstance(eps, Mapping) else eps
        self._ops = chosen_ops(only, exclude)
        self._eps_of = {**{MIRRORED[op]: eps for op, eps in self._eps_of.items() if op in MIRRORED}, **self._eps_of}
        self._lost = Lost(one_of(on_lost, "on_lost", ("ignore", "warn", "error")))
        if not isinstance(trace, bool):
            raise TypeError(f"trace must be True or False, got {shown(trace)}; region.report() has what was traced")
        self.trace = Trace() if trace else None
        self.paths = whole_paths(paths)
        engine = cuts.engine_for(self.through, engine_of(self.mode))
        self.engine = numbers_first(engine) if self.paths > 1 else engine
        self._generator = generator_or_none(generator)
        self._for_compiled_code("" if only is exclude is None else f"{sorted(self._ops)}")
        self._nothing_noted()

    def _nothing_noted(self) -> None:
        self._widths, self.followed = Widths(), Paths()
        self._infinite, self._approximate, self._cut, self._left = Counter(), Counter(), Counter(), Counter()
        self._why: dict[CallSite, str] = {}
        self.looks_back = _LOOKS_BACK
        self._places = Places(self._widths)
        found = {} if self.trace else {op: self._eps_of.get(op, self._eps) for op in self._ops}
        self.fixed = {op: eps for op, eps in found.items() if isinstance(eps, float)}

    def _for_compiled_code(self, ops: str) -> None:
        alike = [eps if isinstance(eps, float) else type(eps).__name__ for eps in (self._eps, *self._eps_of.values())]
        self.settings = f"{self.mode} {[*self._eps_of]} {alike} {ops} {self._lost.on_lost} {sorted(self.through)}"

    # --- public ---

    @property
    def eps(self) -> Eps:
        """The half-width given. Read-only: another width is another region."""
        return self._given

    @property
    def forward(self) -> str:
        """``"linear"``, ``"hard"`` or ``"straight-through"``. Read-only."""
        return self.mode

    def __call__(self, fn: Fn) -> Fn:
        if isinstance(fn, torch.nn.Module):
            return cast(Fn, around_module(fn, self))
        return cast(Fn, decorate(self, fn, None if self.paths == 1 else rerunning))

    def __repr__(self) -> str:
        paths = f", paths={self.paths}" if self.paths > 1 else ""
        return f"sll.linearize(eps={self.eps!r}, forward={self.forward!r}{paths})"

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
        flips = dict(self.followed.of)
        rows = () if self.trace is None else (*self.trace.rows(), *flip_rows(flips))
        lost, infinite, approximate = dict(self._lost.calls), dict(self._infinite), dict(self._approximate)
        cut, left = dict(self._cut), dict(self._left)
        traced, widths = self.trace is not None, self._widths.summary()
        return Report(lost, infinite, widths, rows, traced, approximate, flips, cut, left, dict(self._why))

    def state_dict(self) -> dict[str, Any]:
        """What its policies remember (`sll.Auto` widths, `sll.Anneal` steps), to go on with after a restart.

        Example:
            >>> import torch, sll
            >>> x = torch.tensor([-3.0, -1.0, 1.0, 3.0], requires_grad=True)
            >>> region = sll.linearize("auto")
            >>> with region:
            ...     torch.sign(x).sum().backward()
            >>> restarted = sll.linearize("auto")
            >>> restarted.load_state_dict(region.state_dict())
        """
        return {"policies": [policy.state_dict() for policy in self._remember()]}

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Go on where `state_dict` was taken. Raises ValueError if it is of another region."""
        policies, states = self._remember(), state.get("policies") or ()
        if len(states) != len(policies):
            raise ValueError(
                f"state must be what state_dict() of a region with {len(policies)} policies returned, got the entries "
                f"{list(state)} with {len(states)}; make the region with the same eps, and pass its own part"
            )
        for policy, known in zip(policies, states):
            policy.load_state_dict(known)

    def _remember(self) -> list[Any]:
        return [policy for policy in self.policies() if hasattr(policy, "state_dict")]

    # --- what rules ask ---

    def eps_for(self, op: str, called: str = "") -> float | Width:
        eps = self._eps_of.get(op, self._eps)
        watch: Any = None if self.trace is None else self.trace.watch(call_site(called or op))
        if not isinstance(eps, float):
            return self._places.at(op, eps, called or op).width(watch)
        if watch is None:
            return eps
        eps = Watched(eps)
        eps.watch = watch
        return eps

    def policies(self) -> list[Policy]:
        return [eps for eps in (self._eps, *self._eps_of.values()) if not isinstance(eps, float)]

    def linearizes(self, op: str) -> bool:
        return op in self._ops

    def call(self, func: Callable[..., Any], *args: Any, **kwargs: Any) -> Any:
        return self.dispatch(func, args, kwargs)

    def within(self, fn: Callable[..., Any], *args: Any, **kwargs: Any) -> Any:
        at_work, cut = THREAD.at_work, THREAD.cut
        THREAD.at_work = None
        torch._C._push_on_torch_function_stack(self)  # (torch hides a mode while it handles a call)
        try:
            return fn(*args, **kwargs)
        finally:
            torch._C._pop_torch_function_stack()
            THREAD.at_work = at_work
            if THREAD.cut is not cut:  # (`fn` has a block without gradients of its own, which is over)
                THREAD.cut = cut
                THREAD.look()

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
        if THREAD.runs and THREAD.runs[-1].again and not self.linear:
            return  # what is lost in a flip has no gradient
        carried = [(x, self.carrier_of(x)) for x in tensors]
        if self.trace is not None:
            flows = [*origins, *(t for x, engine in carried for t in engine.flows(x))]
            elements = sum(x.numel() for x, _ in carried) or 1
            in_band = sum(engine.undecided(x) for x, engine in carried) if undecided is None else int(undecided())
            self.trace.lose(call_site(op), flows, elements, in_band, why)
        self._lost.add(op, undecided or (lambda: any(engine.in_band(x) for x, engine in carried)), why)

    def count_cut(self, site: CallSite) -> None:
        """Something is decided there where the program itself leaves autograd, or detached."""
        self._cut[site] += 1

    def leave_behind(self, unused: list[Tensor]) -> None:
        self.looks_back -= 1
        with torch._C.DisableTorchFunction():
            many = sum(not x.is_floating_point() for x in unused)
        if many:
            self._left[call_site("with")] += many

    def drop(self, site: CallSite, why: str) -> None:
        """What was decided or asked for there gets no gradient."""
        self._lost.add(site.op, lambda: True, why, site)

    def draw(self, many: int) -> list[int]:
        """So many numbers in random order."""
        if self._generator is None:
            self._generator = torch.Generator()
            self._generator.manual_seed(0)
        found: list[int] = torch.randperm(many, generator=self._generator, device=self._generator.device).tolist()
        return found

    def carrier_of(self, x: Tensor) -> Engine:
        """The engine of this region or, if it knows nothing of `x`, that of the region in which `x` was decided."""
        return next((engine for engine in (self.engine, *ENGINES.values()) if engine.carried(x)), self.engine)

    def count_infinite(self, op: str, many: int) -> None:
        if many:
            self._infinite[call_site(op)] += many

    def approximate(self, op: str, many: int, why: str) -> None:
        site = call_site(op)
        self._approximate[site] += many
        self._why[site] = why

    # --- the mode ---

    def dispatch(self, func: Callable[..., Any], args: tuple[Any, ...], kwargs: dict[str, Any]) -> Any:
        if not torch.is_grad_enabled() or torch.is_inference_mode_enabled():
            return cuts.unrecorded(self, func, args, kwargs)
        if checkpoint.hooked() and (self.selecting() or func in self.engine.rules):
            checkpoint.note(THREAD.regions, (*args, *kwargs.values()))
        if torch._C._are_functorch_transforms_active():
            return vmap.handled(self, func, args, kwargs, self._ruled)
        return self._ruled(func, args, kwargs)

    def _ruled(self, func: Callable[..., Any], args: tuple[Any, ...], kwargs: dict[str, Any]) -> Any:
        engine = self.engine
        if not THREAD.alone:
            engine = self._engine_of(func, tensors(args, kwargs))
        func = func if type(func) not in OPERATORS else engine.twin(func)
        rule = engine.rules.get(func)
        if rule is None and (out := operators.run(self, func, args, kwargs)) is not NotImplemented:
            return out
        if rule is None or self.linear or self.selecting():  # (linear ones note where floats meet)
            if func in cuts.SEEN and (out := cuts.detach(self, func, args, kwargs)) is not NotImplemented:
                return out
            return engine.dispatch(self, func, args, kwargs)
        return rule(self, func, args, kwargs)

    def _engine_of(self, func: Callable[..., Any], operands: list[Tensor]) -> Engine:
        """What was decided in a region around this one, with another forward mode, is carried on as it was there."""
        carried = [x for x in operands if getattr(x, "_sll", None) is not None]
        decided: Callable[[Engine, Tensor], bool] = lambda engine, x: engine.decided(x) or engine.selected(x)
        found = [engine for engine in set(ENGINES.values()) if any(decided(engine, x) for x in carried)]
        if len(found) == 1:
            return found[0]
        own = type(self.engine)
        foreign = [x for engine in found if type(engine) is not own for x in carried if decided(engine, x)]
        if foreign:
            why = "it was decided in a region with another forward=; take one in both."
            self.lose(func.__name__, foreign, why)
        return self.engine


class hard(Mode):
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


for _engine in ENGINES.values():
    _engine.always.update(OUTSIDE)
