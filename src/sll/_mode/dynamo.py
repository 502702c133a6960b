"""What regions do while Dynamo traces: nothing but say where they are on, so that it captures the plain program.

Around a function that is compiled, inside one, or as its decorator, a region is a mode on Dynamo's symbolic stack. The
first call that it is shown there runs `meet`, at trace time. It puts a variable into the place of the mode that lets
calls pass, has the nodes of the graph marked with the regions that they are made in, and wraps the backend in
`capture.around`. There the rules run, while AOTAutograd traces.

This file has all that is private to Dynamo. There is no public way to the compilation that is going on.
"""

from __future__ import annotations

import functools
import inspect
from collections.abc import Callable
from pathlib import Path
from typing import Any, TypeVar, cast

import torch
from torch.compiler import is_dynamo_compiling

from . import checkpoint
from .capture import around
from .guards import NO_CHECKPOINTS, skip
from .running import REGIONS

_NO_TRANSFORMS = "sll: compiled code does not take a region into torch.func transforms. Eager mode does this call."


class Inside:
    """A region that compiled code enters, once."""

    def __init__(self, region: Any) -> None:
        self.region = region


class _Watch:
    """Marks nodes as they are made. (`fx` calls it through the module that owns the graph.)"""

    _erase_node_hooks = None

    def __init__(self, tx: Any) -> None:
        self.state = tx.symbolic_torch_function_state
        self.now: tuple[Any, ...] | None = None
        """What is on for the call that modes are shown now: they are taken from the stack meanwhile."""
        self._create_node_hooks = [self.note]
        self._depth = 0

    def note(self, node: torch.fx.Node) -> None:
        node.meta[REGIONS] = self.on() if self.now is None else self.now

    def begin(self, var: Any) -> None:
        """A call is shown to the mode of `var`. Those around it are shown it next."""
        if self.now is None:
            self.now = self.on(var)
        self._depth += 1

    def end(self) -> None:
        self._depth -= 1
        if not self._depth:
            self.now = None

    def on(self, *more: Any) -> tuple[Any, ...]:
        """The regions on the stack, outermost first: the place in the stack of one that is around what is compiled."""
        found = (_entry(var) for var in (*self.state.mode_stack, *more))
        return tuple(entry for entry in found if entry is not None)


def _entry(var: Any) -> Any:
    from torch._dynamo.source import TorchFunctionModeStackSource

    if isinstance(var.source, TorchFunctionModeStackSource):
        return var.source.ind
    return getattr(var, "inside", None)


def _translator() -> Any:
    return torch._dynamo.symbolic_convert.InstructionTranslator.current_tx()


def _watch(tx: Any) -> _Watch:
    """Of the graph that is made now. The first one wraps the backend."""
    graph, output = tx.output.graph, tx.output
    if not isinstance(graph.owning_module, _Watch):
        graph.owning_module = _Watch(tx)
        if not hasattr(output.compiler_fn, "around"):
            output.compiler_fn = around(output.compiler_fn, tx.one_graph, output.torch_function_mode_stack)
    watch: _Watch = graph.owning_module
    return watch


def torch_compiles() -> bool:
    """Whether eager code called `torch.cond` or a loop, which torch compiles on its own. When that runs, the region is
    asked again.
    """
    try:
        code = _translator().output.root_tx.f_code
    except AttributeError:  # `meet` says what is missing
        return False
    return bool(code.co_name.endswith("_op_wrapper") and code.co_filename.startswith(_HIGHER_ORDER))


_HIGHER_ORDER = str(Path(torch.__file__).parent / "_higher_order_ops")


def meet() -> str:
    """A region is shown its first call. Returns why the graph has to break there, if it has to."""
    try:
        return _meet()
    except (AttributeError, ImportError) as missing:  # what is private may be gone
        return f"sll: regions do not know how this version of PyTorch compiles ({missing}). Eager mode does this call."


def _meet() -> str:
    tx = _translator()
    state = tx.symbolic_torch_function_state
    if torch._C._are_functorch_transforms_active():
        return _NO_TRANSFORMS
    if checkpoint.around_compilation():
        return NO_CHECKPOINTS
    var = state.cur_mode.realize()
    _guard(tx, var)
    if _entry(var) is None and tx.output.current_tracer.parent is not None:
        return "sll: a region in what another function is given to call is not compiled. Eager mode does it."
    region = _region(tx, var)
    if region is None:
        return "sll: a region that compiled code makes takes numbers and strings. Make it before. Eager mode does this."
    state.cur_mode = _variable()(region, var)
    _watch(tx).begin(state.cur_mode)
    return ""


def _guard(tx: Any, var: Any) -> None:
    """What Dynamo reads, it compares: with other settings there is another graph."""
    if var.source is None:
        return
    var.var_getattr(tx, "settings").as_python_constant()
    for memory in var.value.memories:
        memory.look()
    for memory in var.var_getattr(tx, "memories").unpack_var_sequence(tx):
        memory.var_getattr(tx, "measures").as_python_constant()


def met() -> None:
    """That call is done."""
    _watch(_translator()).end()


def _region(tx: Any, var: Any) -> Any:
    """The object for a variable of Dynamo; one that compiled code makes is made here. None if that is not possible."""
    if var.mutation_type is None or var.source is not None:
        return var.value
    found = [_constant(tx, x) for x in var.var_getattr(tx, "arguments").unpack_var_sequence(tx)]
    kind = var.python_type()
    return None if _Unknown in found else kind(**dict(zip(inspect.signature(kind).parameters, found)))


class _Unknown:
    """Stands for what is known when the code runs."""


def _constant(tx: Any, var: Any) -> Any:
    var = var.realize()
    if type(var).__name__ == "SymNodeVariable":
        return var.evaluate_expr(tx.output)
    if var.is_python_constant():
        return var.as_python_constant()
    return _Unknown if var.source is None else getattr(var, "value", _Unknown)


Fn = TypeVar("Fn", bound=Callable[..., Any])
_ONE_NODE: dict[str, Callable[..., Any]] = {}


def one_node(fn: Fn) -> Fn:
    """The function, as one node of Dynamo's graph. Its formulas are traced by AOTAutograd."""
    name = fn.__name__
    _ONE_NODE[name] = fn
    skip(fn)  # (where it is called in eager mode)

    @functools.wraps(fn)
    def wrapper(*args: Any, **kwargs: Any) -> Any:
        if is_dynamo_compiling():
            _allow(name)
        return fn(*args, **kwargs)

    return cast(Fn, wrapper)


def _allow(name: str) -> None:
    torch._dynamo.allow_in_graph(_ONE_NODE[name])  # type: ignore[no-untyped-call]


@functools.cache
def _variable() -> Any:
    from torch._dynamo.exc import unimplemented
    from torch._dynamo.variables.torch_function import TorchFunctionModeVariable

    class RegionVariable(TorchFunctionModeVariable):
        """A region that is on: calls pass."""

        def __init__(self, region: Any, of: Any) -> None:
            super().__init__(region, source=of.source)
            self.of = of
            self.inside = None if isinstance(_entry(of), int) else Inside(region)

        def call_torch_function(self, tx: Any, fn: Any, types: Any, args: Any, kwargs: Any) -> Any:
            if torch._C._are_functorch_transforms_active():
                unimplemented(gb_type=_NO_TRANSFORMS, context="", explanation=_NO_TRANSFORMS, hints=[])
            watch = _watch(tx)
            watch.begin(self)
            name = getattr(getattr(fn, "fn", None), "__name__", "")
            try:
                if args and name and vars(torch.Tensor).get(name) == fn.fn:  # (its `super()` cannot be traced)
                    return args[0].call_method(tx, name, list(args[1:]), kwargs)
                return fn.call_function(tx, list(args), kwargs)
            finally:
                watch.end()

        def reconstruct(self, codegen: Any) -> None:
            codegen(self.of)

    return RegionVariable


for _at_trace_time in (torch_compiles, meet, met, _allow):
    vars(_at_trace_time)["_dynamo_marked_constant"] = True
"""So says torch._dynamo.assume_constant_result, which takes a second to import."""
