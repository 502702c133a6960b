"""A region around what Dynamo has captured: the plain program, as a graph.

Dynamo sees no rule. `around` is a backend for it: the graph that it is given becomes one call, which enters the region
and runs the graph node by node, and that goes to the user's backend. There AOTAutograd traces that call, the eager
rules run once, and what they do is a graph like any other.

A policy's tensors (the width of `Anneal`) are inputs of that graph. A bool or an integer that carries a decision out of
it has its shadow as one more result; what the next graph is given, after a break, carries it again.
"""

from __future__ import annotations

import functools
import operator
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from typing import Any, TypeAlias

import torch
from torch import Tensor, fx
from torch.utils.checkpoint import CheckpointPolicy

from .._carry import outcomes, shadows
from .._carry.interface import Again
from .._carry.outcomes.registry import DECIDES_BY_NAME
from .._ops.callsite import CallSite, LostGradientError
from .._ops.env import tracked
from ..auto import Auto
from ..policies import Anneal
from . import cuts
from .guards import EAGER, decides
from .operators import discrete
from .running import REGIONS, NeedsNumbers, Runs, line_of, regions_of
from .threads import IDLE, THREAD, leave, stack

_COMPARES = {"gt", "lt", "ge", "le", "eq", "ne", "__gt__", "__lt__", "__ge__", "__le__", "__eq__", "__ne__"}
"""Computed again in backward: inductor reads and writes the bools one by one."""
_NO_LINE = "compiled code", 0
Backend = Callable[..., Callable[..., Any]]
Given: TypeAlias = "Sequence[tuple[int, Again]]"
"""The inputs that carry something, by their number, and what lets them carry it again."""
Held: TypeAlias = "Sequence[tuple[dict[str, Any], str]]"
"""Where tensors are that a policy or a module holds."""


def around(backend: Backend, whole: bool, on: Sequence[Any]) -> Backend:
    """A backend for Dynamo: `backend`, for graphs in regions. `whole`: what does not fit into a graph is an error.
    `on`: the modes around what is compiled.
    """

    def compiled(graph: fx.GraphModule, inputs: Sequence[Any], **options: Any) -> Callable[..., Any]:
        how = functools.partial(backend, **options) if options else backend
        return _Captured(graph, how, inputs, whole, on)

    compiled.around = True  # type: ignore[attr-defined]
    return compiled


class _Captured:
    """One graph of Dynamo, compiled once for each choice of inputs that carry a decision."""

    def __init__(
        self, graph: fx.GraphModule, backend: Backend, inputs: Sequence[Any], whole: bool, on: Sequence[Any]
    ) -> None:
        self.graph, self.backend, self.whole = graph, backend, whole
        self.results = _results(graph)
        for node in graph.graph.nodes:
            if getattr(node.target, "__name__", node.target) in _COMPARES:
                node.meta.update(recompute=CheckpointPolicy.PREFER_RECOMPUTE, ac_graph_id=0)
        self.last: tuple[Any, ...] | None = next(iter(reversed(graph.graph.nodes))).meta.get(REGIONS)
        """What is on at its end; None if that is what is on at its beginning."""
        self.leave = [i for i, x in enumerate(self.results) if _is_discrete(x) and self.last != ()]
        self.enter = [i for i, x in enumerate(_inputs(graph)) if _is_discrete(x)]
        self.inside = _entered(graph)
        """Regions that it enters itself."""
        self.again: dict[int, Again] = {}
        """Results that carry something for which a tensor stands, and what lets them carry it again."""
        self.ends: dict[int, CallSite] = {}
        """Results that carry something for which no tensor stands, and where they come from."""
        self.compiled: dict[Any, Callable[..., Any] | NeedsNumbers] = {}
        self.failed: Exception | None = None
        """To be raised where the program calls this: what a backend raises gets wrapped."""
        self.alive: list[Any] = []
        """What is known by its id."""
        asked, alive, measures = _known(self._all(on))
        needs = next((region for region in self._all(on) if not _compiles(region)), None)
        if needs is not None:
            self.failed = _not_whole(graph, needs) if whole else None
        elif not measures:
            self.alive += alive
            self._compile(((), asked), (), inputs, on)

    def __call__(self, *args: Any) -> Any:
        if self.failed is not None:
            raise self.failed.with_traceback(None)
        on = stack()
        regions = self._all(on)
        for i in self.enter if THREAD.marks and regions else ():
            cuts.left(regions[-1], args[i])
        asked, alive, measures = _known(regions)
        if measures and torch.is_grad_enabled():
            for auto in measures:
                auto.measured_by(self)
            return self._in_eager_mode(on, args)
        found = [(i, _number(args[i])) for i, x in enumerate(args) if on and _carries(x)]
        if any(number is None for _, number in found) or not all(map(_compiles, regions)):
            return self._in_eager_mode(on, args)
        given = tuple((i, number[1]) for i, number in found if number is not None)
        numbers = [number[0] for _, number in found if number is not None]
        known: tuple[Any, ...] = (given, asked)
        with torch._C.DisableTorchFunction():  # (the region has seen to what is in there)
            if known not in self.compiled:
                known = (*known, *(x.shape if isinstance(x, Tensor) else x for x in args))
            if known not in self.compiled:
                self.alive += alive
                self._compile(known, given, (*args, *numbers), on)
            compiled = self.compiled[known]
            out = () if isinstance(compiled, NeedsNumbers) else compiled(*args, *numbers)
        if isinstance(compiled, NeedsNumbers):
            return self._in_eager_mode(on, args)
        self._carry_on(out, on)
        if len(self._at_end(on)) < len(regions_of(range(len(on)), on)) and not THREAD.entered:
            leave()
        return out[: len(self.results)]

    def _in_eager_mode(self, on: Sequence[Any], args: Sequence[Any]) -> Any:
        """Where a memory measures, or rules need numbers. Decisions come and go as in any code of the program."""
        with Runs(self.graph, on, in_place=True) as run:
            return run.run(*args, enable_io_processing=False)

    def _all(self, on: Sequence[Any]) -> list[Any]:
        return [region for _, region in regions_of([*range(len(on)), *self.inside], on)]

    def _at_end(self, on: Sequence[Any]) -> list[tuple[Any, Any]]:
        return regions_of(range(len(on)) if self.last is None else self.last, on)

    def _carry_on(self, out: Sequence[Any], on: Sequence[Any]) -> None:
        """What leaves the graph carries what it carried inside, if a region is on."""
        if last := self._at_end(on):
            for i, value in zip(self.leave, out[len(self.results) :]):
                if i in self.ends:
                    cuts.leave(last[-1][1], out[i], self.ends[i])
                elif value.requires_grad:
                    self.again[i](last[-1][1], out[i], value)

    def _compile(self, known: Any, given: Given, inputs: Sequence[Any], on: Sequence[Any]) -> None:
        """What stands for what inputs carry comes after these; then what others hold."""
        for policy in (policy for region in self._all(on) for policy in region.policies()):
            if isinstance(policy, Auto):
                policy.settle()
        held = [*_widths(self._all(on)), *_attributes(self.graph)]
        graph, names = fx.Graph(), [node.name for node in _inputs(self.graph)]
        placed = [graph.placeholder(name) for name in (*names, *(f"carried_by_{names[i]}" for i, _ in given))]
        for node, x in zip(placed, _inputs(self.graph)):
            node.meta = dict(x.meta)
        also = [graph.get_attr(f"held_{i}") for i in range(len(held))]

        def in_the_region(*args: Any) -> Any:
            return self._run(on, given, held, *args)

        call = graph.call_function(in_the_region, (*placed, *also))
        results = [graph.call_function(operator.getitem, (call, i)) for i in range(len(self.results) + len(self.leave))]
        for node, x in zip(results, self.results):
            node.meta = dict(x.meta) if isinstance(x, fx.Node) else {}
        graph.output(tuple(results))
        module = fx.GraphModule({f"held_{i}": of[name] for i, (of, name) in enumerate(held)}, graph)
        module.meta = dict(self.graph.meta)
        try:
            self.compiled[known] = self.backend(module, list(inputs))
        except LostGradientError as error:
            self.failed = error
        except NeedsNumbers as error:
            self.compiled[known] = error
            if self.whole:
                self.failed = RuntimeError(str(error))

    def _run(self, on: Sequence[Any], given: Given, held: Held, *args: Any) -> Any:
        """What AOTAutograd traces."""
        many = len(_inputs(self.graph))
        inputs, numbers, also = args[:many], args[many : many + len(given)], args[many + len(given) :]
        with capturing(), _replaced(held, also), Runs(self.graph, on) as run:
            for (i, again), number in zip(given, numbers):
                again(run.innermost, inputs[i], number)
            out = run.run(*inputs, enable_io_processing=False)
            return (*out, *(self._leaves(i, out[i]) for i in self.leave))

    def _leaves(self, i: int, x: Tensor) -> Tensor:
        """What stands for a result in what follows; nothing, if it carries nothing, or more than a number."""
        if not torch.is_grad_enabled() or not _carries(x):
            pass
        elif (found := _number(x)) is not None:
            number, self.again[i] = found
            return number
        else:
            file, line = line_of(self.results[i]) or _NO_LINE
            self.ends[i] = CallSite(file, line, self.results[i].name)
        return x.new_empty(0, dtype=torch.float32)


def _compiles(region: Any) -> bool:
    """Whether a graph is all that its rules need. If not, what Dynamo captures runs in eager mode."""
    return region.trace is None and region.engine.compiles


def _not_whole(graph: fx.GraphModule, region: Any) -> RuntimeError | None:
    """Why a region that needs numbers cannot have the whole graph: the first call that decides."""
    for node in graph.graph.nodes:
        if _decides(node):
            file, line = line_of(node) or _NO_LINE
            what = 'carry the flips of forward="hard"' if region.trace is None else "show trace=True its decisions"
            return RuntimeError(f"{file}:{line}: compiled code does not {what}. {EAGER}")
    return None


def _decides(node: fx.Node) -> bool:
    """Whether it is a call that decides, of a float that autograd follows."""
    name, out = getattr(node.target, "__name__", node.target), node.meta.get("example_value")
    operands = [x.meta.get("example_value") for x in node.all_input_nodes]
    if name not in DECIDES_BY_NAME or not any(isinstance(x, Tensor) and tracked(x) for x in operands):
        return False
    return decides(str(name), node.kwargs, out)


def _carries(x: Any) -> bool:
    """Whether it carries something that goes on. (`Cut` tells only that it does not.)"""
    pair = getattr(x, "_sll", None) if isinstance(x, Tensor) else None
    if pair is None or isinstance(pair[0], cuts.Cut):
        return False
    return (pair[1] is None or pair[1] == x._version) and not pair[0].over()


def _number(x: Tensor) -> tuple[Tensor, Again] | None:
    """What stands for all that a bool or an integer carries."""
    return next((engine.number(x) for engine in (shadows.ENGINE, outcomes.ENGINE) if engine.decided(x)), None)


def _known(regions: Sequence[Any]) -> tuple[Any, list[Any], list[Auto]]:
    """What policies know, to compare; what has to stay alive for that; and memories that have not measured yet."""
    policies = [policy for region in regions for policy in region.policies()]
    alive = [policy.kept if isinstance(policy, Auto) else policy for policy in policies]
    asked = tuple((id(x), () if x is not policy else _numbers(x)) for x, policy in zip(alive, policies))
    return asked, alive, [policy for policy in policies if isinstance(policy, Auto) and policy.measures]


def _numbers(policy: Any) -> tuple[Any, ...]:
    """What a policy of the program's own knows. (The width of `Anneal` is a tensor.)"""
    known = () if isinstance(policy, Anneal) else (bool, int, float, str, type(None))
    return tuple((name, x) for name, x in vars(policy).items() if isinstance(x, known))


def _entered(graph: fx.GraphModule) -> list[Any]:
    """By the graph itself, in order."""
    found = [entry for node in graph.graph.nodes for entry in node.meta.get(REGIONS, ()) if not isinstance(entry, int)]
    return list({id(entry): entry for entry in found}.values())


def _widths(regions: Sequence[Any]) -> Held:
    """Tensors that policies hold, such as the width of `Anneal`."""
    known = [vars(policy) for region in regions for policy in region.policies() if not isinstance(policy, Auto)]
    return [(of, name) for of in known for name, x in of.items() if isinstance(x, Tensor)]


def _attributes(graph: fx.GraphModule) -> Held:
    """Tensors that a graph holds."""
    known: list[dict[str, Any]] = [of for module in graph.modules() for of in (module._parameters, module._buffers)]
    return [(of, name) for of in known for name, x in of.items() if x is not None]


def _results(graph: fx.GraphModule) -> list[Any]:
    """Of Dynamo's graphs there are several, in a tuple."""
    return list(next(iter(reversed(graph.graph.nodes))).args[0])


def _inputs(graph: fx.GraphModule) -> list[fx.Node]:
    return [node for node in graph.graph.nodes if node.op == "placeholder"]


def _is_discrete(node: Any) -> bool:
    x = node.meta.get("example_value") if isinstance(node, fx.Node) else None
    return isinstance(x, Tensor) and discrete(x)


@contextmanager
def capturing() -> Iterator[None]:
    """With the rules of eager mode, whatever this thread has entered."""
    state, idle, flag = dict(THREAD.__dict__), IDLE.region, torch.compiler._is_compiling_flag
    modes = [torch._C._pop_torch_function_stack() for _ in stack()]
    THREAD.__dict__.clear()
    THREAD.__init__()  # type: ignore[misc]
    torch.compiler._is_compiling_flag = False
    try:
        with torch._C._EnableTorchFunction():
            yield
    finally:
        torch.compiler._is_compiling_flag = flag
        for mode in reversed(modes):
            torch._C._push_on_torch_function_stack(mode)
        THREAD.__dict__.clear()
        THREAD.__dict__.update(state)
        IDLE.region = idle


@contextmanager
def _replaced(held: Held, tensors: Sequence[Tensor]) -> Iterator[None]:
    """Who holds tensors holds these for a moment."""
    kept = [of[name] for of, name in held]
    try:
        for (of, name), x in zip(held, tensors):
            of[name] = x
        yield
    finally:
        for (of, name), x in zip(held, kept):
            of[name] = x
