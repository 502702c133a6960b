"""Runs a graph that Dynamo has captured, in the regions that its nodes were made in."""

from __future__ import annotations

import functools
import re
from collections.abc import Callable, Sequence
from types import CodeType, FunctionType
from typing import Any

import torch
from torch import fx
from torch._subclasses.fake_tensor import DataDependentOutputException
from torch.utils.checkpoint import checkpoint

from .._ops.callsite import is_internal
from .guards import EAGER

REGIONS = "sll"
"""Where the regions are in the meta of a node, outermost first: `Inside`, or a place in the stack around the graph."""


def regions_of(entries: Sequence[Any], on: Sequence[Any]) -> list[tuple[Any, Any]]:
    """Those that the meta of a node has, each with its region. (Other modes are traced by Dynamo.)"""
    found = [(entry, on[entry] if isinstance(entry, int) else entry.region) for entry in entries]
    return [(entry, region) for entry, region in found if hasattr(region, "settings")]


class Runs(fx.Interpreter):
    """Runs each node in its regions, as if its line of the program had called it: so widths are kept, and losses
    reported, by line.
    """

    def __init__(self, graph: fx.GraphModule, on: Sequence[Any], in_place: bool = False) -> None:
        super().__init__(graph)
        self._modes, self._in_place = on, in_place
        self._entered: list[tuple[Any, Any]] = regions_of(range(len(on)), on) if in_place else []

    def __enter__(self) -> Runs:
        self._be_in(range(len(self._modes)))
        return self

    def __exit__(self, *exc: Any) -> None:
        self._be_in(range(len(self._modes)) if self._in_place else ())

    @property
    def innermost(self) -> Any:
        return self._entered[-1][1] if self._entered else None

    def _be_in(self, entries: Sequence[Any]) -> None:
        regions, same = regions_of(entries, self._modes), 0
        while same < min(len(regions), len(self._entered)) and regions[same] == self._entered[same]:
            same += 1
        while len(self._entered) > same:
            entry, region = self._entered.pop()
            if self._in_place and isinstance(entry, int):
                torch._C._pop_torch_function_stack()
            else:
                region.__exit__(None, None, None)
        for entry, region in regions[same:]:
            if self._in_place and isinstance(entry, int):
                torch._C._push_on_torch_function_stack(region)
            else:
                region.__enter__()
            self._entered.append((entry, region))

    def run_node(self, n: fx.Node) -> Any:
        if n.op != "placeholder" and n.op != "get_attr" and (regions := n.meta.get(REGIONS)) is not None:
            self._be_in(regions)
        at = line_of(n)
        if "sym_size" in str(n.target) and _only_checked(n):
            with torch._C.DisableTorchFunction():
                return super().run_node(n)
        try:
            return super().run_node(n) if at is None else _at(*at)(functools.partial(super().run_node, n))
        except (RuntimeError, DataDependentOutputException) as error:
            from torch.fx.experimental.symbolic_shapes import GuardOnDataDependentSymNode  # (sympy takes a second)

            if not isinstance(error, (GuardOnDataDependentSymNode, DataDependentOutputException)):
                raise
            needs = NeedsNumbers(n.target, at)
            raise needs from error

    def call_function(self, target: Any, args: tuple[Any, ...], kwargs: dict[str, Any]) -> Any:
        if self._in_place and target is torch.ops.higher_order.tag_activation_checkpoint:
            target, kwargs = checkpoint, {**kwargs, "use_reentrant": False}
        return super().call_function(target, args, kwargs)


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


def line_of(node: fx.Node) -> tuple[str, int] | None:
    """The innermost that is neither ours nor torch's."""
    lines = _LINE.findall(node.meta.get("stack_trace") or "")
    found = [(file, int(line)) for file, line in lines if not is_internal(file)]
    return found[-1] if found else None


def _call(run: Callable[[], Any]) -> Any:
    return run()


@functools.lru_cache(maxsize=10_000)
def _at(file: str, line: int) -> Callable[[Callable[[], Any]], Any]:
    """Calls what it is given, from that line."""
    code: CodeType = _call.__code__.replace(co_filename=file, co_firstlineno=line - 1)
    return FunctionType(code, {"__builtins__": __builtins__, "__name__": "compiled"})
