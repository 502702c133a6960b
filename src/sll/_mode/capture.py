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
import re
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from types import CodeType, FunctionType
from typing import Any

import torch
from torch import Tensor, fx
from torch._subclasses.fake_tensor import DataDependentOutputException
from torch.utils.checkpoint import CheckpointPolicy

from .._carry.shadows.shadow import Shadow, carry, shadow
from .._ops.callsite import CallSite, is_internal
from ..auto import Auto
from . import cuts
from .guards import EAGER
from .threads import IDLE, THREAD, stack

__all__ = ["NeedsNumbers", "around", "capturing"]

_COMPARES = {"gt", "lt", "ge", "le", "eq", "ne", "__gt__", "__lt__", "__ge__", "__le__", "__eq__", "__ne__"}
"""Computed again in backward: inductor reads and writes the bools one by one."""
Backend = Callable[..., Callable[..., Any]]


def around(region: Any, backend: Backend) -> Backend:
    """A backend for Dynamo: `backend`, for graphs in the region."""

    def compiled(graph: fx.GraphModule, inputs: Sequence[Any], **options: Any) -> Callable[..., Any]:
        return _Captured(region, graph, functools.partial(backend, **options) if options else backend, inputs)

    return compiled


class _Captured:
    """One graph of Dynamo, compiled once for each choice of inputs that carry a decision."""

    def __init__(self, region: Any, graph: fx.GraphModule, backend: Backend, inputs: Sequence[Any]) -> None:
        self.region, self.graph, self.backend = region, graph, backend
        self.results = _results(graph)
        for node in graph.graph.nodes:
            if getattr(node.target, "__name__", node.target) in _COMPARES:
                node.meta.update(recompute=CheckpointPolicy.PREFER_RECOMPUTE, ac_graph_id=0)
        self.leave = [i for i, x in enumerate(self.results) if _is_discrete(x)]
        self.enter = [i for i, x in enumerate(_inputs(graph)) if _is_discrete(x)]
        self.ends: dict[int, CallSite] = {}
        """Results that carry something for which no tensor stands, and where they come from."""
        self.compiled: dict[Any, Callable[..., Any]] = {(): self._compile((), inputs)}

    def __call__(self, *args: Any) -> Any:
        given = tuple(i for i in self.enter if shadow(args[i]) is not None) if THREAD.entered else ()
        for i in self.enter if THREAD.marks else ():
            cuts.left(self.region, args[i])
        shadows = [own.value() for i in given if (own := shadow(args[i])) is not None]
        known = (given, *(x.shape for x in args if isinstance(x, Tensor))) if given else ()
        with torch._C.DisableTorchFunction():  # (the region has seen to what is in there)
            if known not in self.compiled:
                self.compiled[known] = self._compile(given, (*args, *shadows))
            out = self.compiled[known](*args, *shadows)
        many = len(self.results)
        for i, value in zip(self.leave, out[many:] if THREAD.entered else ()):
            if i in self.ends:
                cuts.leave(self.region, out[i], self.ends[i])
            elif value.requires_grad:
                carry(self.region, out[i], Shadow.of(value))
        return out[:many]

    def _compile(self, given: Sequence[int], inputs: Sequence[Any]) -> Callable[..., Any]:
        """`given`: the inputs that carry something. Their shadows come after the inputs; then what others hold."""
        held = [*_widths(self.region), *_attributes(self.graph)]
        graph, names = fx.Graph(), [node.name for node in _inputs(self.graph)]
        placed = [graph.placeholder(name) for name in (*names, *(f"shadow_of_{names[i]}" for i in given))]
        for node, x in zip(placed, _inputs(self.graph)):
            node.meta = dict(x.meta)
        also = [graph.get_attr(f"held_{i}") for i in range(len(held))]
        call = graph.call_function(_plain(functools.partial(self._run, given, held)), (*placed, *also))
        results = [graph.call_function(operator.getitem, (call, i)) for i in range(len(self.results) + len(self.leave))]
        for node, x in zip(results, self.results):
            node.meta = dict(x.meta) if isinstance(x, fx.Node) else {}
        graph.output(tuple(results))
        module = fx.GraphModule({f"held_{i}": getattr(*where) for i, where in enumerate(held)}, graph)
        module.meta = dict(self.graph.meta)
        return self.backend(module, list(inputs))

    def _run(self, given: Sequence[int], held: Sequence[tuple[Any, str]], *args: Any) -> tuple[Any, ...]:
        """What AOTAutograd traces."""
        many = len(_inputs(self.graph))
        inputs, shadows, also = args[:many], args[many : many + len(given)], args[many + len(given) :]
        with capturing(self.region), _replaced(held, also):
            for i, value in zip(given, shadows):
                carry(self.region, inputs[i], Shadow.of(value))
            out = _Lines(self.graph).run(*inputs, enable_io_processing=False)
            return (*out, *(self._leaves(i, out[i]) for i in self.leave))

    def _leaves(self, i: int, x: Tensor) -> Tensor:
        """What stands for a result in what follows; nothing, if it carries nothing, or more than a number."""
        own = shadow(x) if torch.is_grad_enabled() else None
        if type(own) is Shadow and own.terms is None:
            return own.value()
        if own is not None or (torch.is_grad_enabled() and self.region.carrier_of(x).decided(x)):
            file, line = _line(self.results[i].meta.get("stack_trace") or "") or ("compiled code", 0)
            self.ends[i] = CallSite(file, line, self.results[i].name)
        return x.new_empty(0, dtype=torch.float32)


def _plain(run: Callable[..., Any]) -> Callable[..., Any]:
    """A function with a name, as a graph wants it."""

    def in_the_region(*args: Any) -> Any:
        return run(*args)

    return in_the_region


def _widths(region: Any) -> list[tuple[Any, str]]:
    """Tensors that policies hold, such as the width of `Anneal`: policy and name."""
    policies = [policy for policy in region.policies() if not isinstance(policy, Auto)]
    return [(policy, name) for policy in policies for name, x in vars(policy).items() if isinstance(x, Tensor)]


def _attributes(graph: fx.GraphModule) -> list[tuple[Any, str]]:
    """Tensors that a graph holds."""
    found = [(module, {**module._parameters, **module._buffers}) for module in graph.modules()]
    return [(module, name) for module, tensors in found for name, x in tensors.items() if x is not None]


def _results(graph: fx.GraphModule) -> list[Any]:
    """Of Dynamo's graphs there are several, in a tuple."""
    return list(next(iter(reversed(graph.graph.nodes))).args[0])


def _inputs(graph: fx.GraphModule) -> list[fx.Node]:
    return [node for node in graph.graph.nodes if node.op == "placeholder"]


def _is_discrete(node: Any) -> bool:
    x = node.meta.get("example_value") if isinstance(node, fx.Node) else None
    return isinstance(x, Tensor) and not x.is_floating_point() and not x.is_complex()


@contextmanager
def capturing(region: Any) -> Iterator[None]:
    """In the region, with the rules of eager mode, whatever this thread has entered."""
    state, idle, flag = dict(THREAD.__dict__), IDLE.region, torch.compiler._is_compiling_flag
    modes = [torch._C._pop_torch_function_stack() for _ in stack()]
    THREAD.__dict__.clear()
    THREAD.__init__()  # type: ignore[misc]
    torch.compiler._is_compiling_flag = False
    try:
        with torch._C._EnableTorchFunction(), region:
            yield
    finally:
        torch.compiler._is_compiling_flag = flag
        for mode in reversed(modes):
            torch._C._push_on_torch_function_stack(mode)
        THREAD.__dict__.clear()
        THREAD.__dict__.update(state)
        IDLE.region = idle


@contextmanager
def _replaced(held: Sequence[tuple[Any, str]], tensors: Sequence[Tensor]) -> Iterator[None]:
    """Who holds tensors holds these for a moment."""
    spaces = [_space(owner, name) for owner, name in held]
    kept = [space[name] for space, (_, name) in zip(spaces, held)]
    try:
        for space, (_, name), x in zip(spaces, held, tensors):
            space[name] = x
        yield
    finally:
        for space, (_, name), x in zip(spaces, held, kept):
            space[name] = x


def _space(owner: Any, name: str) -> dict[str, Any]:
    spaces = (owner._parameters, owner._buffers) if isinstance(owner, torch.nn.Module) else (vars(owner),)
    return next(space for space in spaces if name in space)


class _Lines(fx.Interpreter):
    """Runs each node as if its line of the program had called it: so widths are kept, and losses reported, by line."""

    def run_node(self, n: fx.Node) -> Any:
        at = _line(n.meta.get("stack_trace") or "")
        if "sym_size" in str(n.target) and _only_checked(n):
            with torch._C.DisableTorchFunction():
                return super().run_node(n)
        try:
            return super().run_node(n) if at is None else _at(*at)(functools.partial(super().run_node, n))
        except RuntimeError as error:
            from torch.fx.experimental.symbolic_shapes import GuardOnDataDependentSymNode  # (sympy takes a second)

            if not isinstance(error, GuardOnDataDependentSymNode):
                raise
            needs = NeedsNumbers(n.target, at)
            raise needs from error


def _only_checked(n: fx.Node) -> bool:
    """Whether Dynamo wrote it, for itself."""
    return all("assert" in str(user.target) or _only_checked(user) for user in n.users)


class NeedsNumbers(DataDependentOutputException):
    """For Dynamo, a reason to break the graph; with ``fullgraph=True`` an error."""

    def __init__(self, func: Any, at: tuple[str, int] | None) -> None:
        super().__init__(func)
        self.at = at

    def __str__(self) -> str:
        where = "" if self.at is None else f"{self.at[0]}:{self.at[1]}: "
        name = getattr(self.func, "__name__", self.func)
        return f"{where}what {name} decides depends on numbers that no graph has. {EAGER}"


_LINE = re.compile(r'^\s*File "(.+)", line (\d+)', re.MULTILINE)


def _line(trace: str) -> tuple[str, int] | None:
    """The innermost that is neither ours nor torch's."""
    found = [(file, int(line)) for file, line in _LINE.findall(trace) if not is_internal(file)]
    return found[-1] if found else None


def _call(run: Callable[[], Any]) -> Any:
    return run()


@functools.lru_cache(maxsize=10_000)
def _at(file: str, line: int) -> Callable[[Callable[[], Any]], Any]:
    """Calls what it is given, from that line."""
    code: CodeType = _call.__code__.replace(co_filename=file, co_firstlineno=line - 1)
    return FunctionType(code, {"__builtins__": __builtins__, "__name__": "compiled"})
