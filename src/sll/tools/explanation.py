"""`explain`: run a program once as it is and once in a region, and say in words what became of its decisions."""

from __future__ import annotations

import copy
import functools
import html
import inspect
import math
import random
import sys
from collections.abc import Callable, Iterator, Mapping
from contextlib import AbstractContextManager, contextmanager, nullcontext, suppress
from dataclasses import dataclass, fields, is_dataclass
from types import FunctionType, ModuleType
from typing import TYPE_CHECKING, Any, cast

import torch
from torch import Tensor, nn

from .._mode.surroundings import NOT_OURS, named
from .._ops.callsite import short
from .._ops.options import RegionForward, shown
from .._reports.report import Report, _norm
from .._reports.rows import Row, _finite, _up
from ..eps import Eps
from ..region import hard, linearize

if TYPE_CHECKING:
    from rich.console import Group

__all__ = ["Explanation", "InputGradient", "explain"]


@dataclass(frozen=True)
class InputGradient:
    """Norms of the gradients of the sum of all outputs with respect to one input or parameter; None if the outputs do
    not depend on it.
    """

    name: str
    shape: tuple[int, ...]
    hard: float | None
    """Without a region."""
    linearized: float | None
    """In the region."""


@dataclass(frozen=True)
class Explanation:
    """What `explain` found. ``print(explanation)`` says it in words; `report` has the figures."""

    region: str
    """The region it was run in, as code."""
    inputs: tuple[InputGradient, ...]
    report: Report
    refused: str = ""
    """What PyTorch said where it cannot differentiate the program without a region."""
    inner: bool = False
    """Whether the program enters regions of its own: what they decide is in their reports."""

    def sections(self) -> list[tuple[str, list[str]]]:
        """Headings and sentences: the decisions that get gradients, those out of reach, those lost, …"""
        of: dict[str, list[str]] = {heading: [] for heading in _HEADINGS.values()}
        for row in self.report.rows:
            if row.status in _HEADINGS:
                said = row.verdict.removeprefix("gets gradients: ") if row.kind not in ("hard", "cut") else row.why
                of[_HEADINGS[row.status]].append(f"{short(row.site)}: {said}{'' if said[-1] in '.)' else '.'}")
        return [(heading, sentences) for heading, sentences in of.items() if sentences]

    def advice(self) -> list[str]:
        """What to do next."""
        said = []
        far = [row for row in self.report.rows if row.kind == "decides" and row.elements and not row.in_band]
        if far and _wide_enough(far):
            said.append(f'eps="auto" finds a width for each call; or name one: eps={_wide_enough(far)}.')
        asked = sum(row.in_band for row in self.report.rows if row.kind == "lost" and row.site.op in _ASKED)
        if asked:
            said.append(
                f"Decorate the function with paths={asked + 1}: it runs again for each answer that Python was given."
            )
        if any(row.status == "LOST here" for row in self.report.rows):
            said.append('Run with on_lost="error" to be stopped at the first line that loses a gradient.')
        dead = [x.name for x in self.inputs if not x.linearized]
        if dead:
            some = ", ".join(dead[:6]) + (", …" if len(dead) > 6 else "")
            said.append(f"{len(dead)} of {len(self.inputs)} inputs and parameters get no gradient: {some}.")
        if self.inner:
            said.append(
                "The program enters a region of its own (@sll.enable?), in both runs, and that decides there: explain "
                "the function inside it, or give that region trace=True and print its report."
            )
        elif not self.report.rows:
            said.append(
                "No discrete function was called where gradients are recorded (not so under torch.no_grad()), or "
                "nobody used what it chose: a region changes nothing here."
            )
        return said

    def __str__(self) -> str:
        lines = [self._summary(), "", *self._gradients(), *self._refusal()]
        for heading, sentences in self.sections():
            lines += ["", heading, *(f"  {sentence}" for sentence in sentences)]
        advice = self.advice()
        if advice:
            lines += ["", "Next", *(f"  {sentence}" for sentence in advice)]
        return "\n".join(lines)

    def _summary(self) -> str:
        made = [row for row in self.report.rows if row.kind == "decides"]
        reached = sum(bool(row.grad_in) for row in made)
        lost = sum(row.status == "LOST here" for row in self.report.rows)
        return (
            f"{len(made)} call site{'s' * (len(made) != 1)} decide{'s' * (len(made) == 1)}; "
            f"{reached} get{'s' * (reached == 1)} gradients in {self.region}"
            + (f"; {lost} line{'s' * (lost != 1)} lose{'s' * (lost == 1)} them." if lost else ".")
        )

    def _gradients(self) -> list[str]:
        names = [f"{x.name} {list(x.shape)}" for x in self.inputs]
        width = max([len("norm of the gradient"), *map(len, names)])
        lines = [f"{'norm of the gradient':<{width}}  {'no region':>10}  {'region':>10}"]
        return lines + [
            f"{name:<{width}}  {_norm(x.hard):>10}  {_norm(x.linearized):>10}" for name, x in zip(names, self.inputs)
        ]

    def _refusal(self) -> list[str]:
        return [f"(without a region PyTorch raises: {self.refused})"] if self.refused else []

    def __rich__(self) -> Group:
        from rich.console import Group
        from rich.table import Table
        from rich.text import Text

        table = Table("norm of the gradient", "no region", "region", box=None)
        for column in table.columns[1:]:
            column.justify = "right"
        for x in self.inputs:
            table.add_row(f"{x.name} {list(x.shape)}", _norm(x.hard), _norm(x.linearized))
        parts: list[Any] = [Text(self._summary(), style="bold"), Text(), table, *map(Text, self._refusal())]
        advice = [("Next", self.advice())] if self.advice() else []
        for heading, sentences in [*self.sections(), *advice]:
            parts += [Text(), Text(heading, style="bold"), *(Text(f"  {sentence}") for sentence in sentences)]
        return Group(*parts)

    def _repr_html_(self) -> str:
        return f"<pre>{html.escape(str(self))}</pre>{self.report._repr_html_()}"

    def to_dict(self) -> dict[str, Any]:
        """All of it as plain dicts, lists, strings and numbers, for JSON."""
        return {
            "region": self.region,
            "inputs": [
                {
                    "name": x.name,
                    "shape": list(x.shape),
                    "hard": _finite(x.hard),
                    "linearized": _finite(x.linearized),
                }
                for x in self.inputs
            ],
            "refused": self.refused,
            "inner": self.inner,
            "sections": dict(self.sections()),
            "advice": self.advice(),
            "report": self.report.to_dict(),
        }


_ASKED = ("bool", "item", "tolist", "int", "float", "index")
_HEADINGS = {
    "gets gradients": "Get gradients",
    "ran again": "Python asked, and the function ran again",
    "did not run": "Python asked, and no run was left for it",
    "passes it on": "Pass earlier decisions on",
    "out of reach": "Out of reach of their band",
    "no gradient arrives": "In their band, but no gradient arrives",
    "not measured": "In their band",
    "decided before": "Decided before",
    "LOST here": "Lost",
    "would be lost": "Ends a gradient, once a decision is in its band",
    "not linearized": "Not linearized",
    "leaves autograd": "The program leaves autograd by itself",
}


def _wide_enough(rows: list[Row]) -> str:
    widths: dict[str, float] = {}
    for row in rows:
        if row.reach is not None and math.isfinite(row.reach[1]):
            widths[row.site.op] = max(widths.get(row.site.op, 0.0), min(row.reach[1], row.limit))
    if not widths:
        return ""
    if len(widths) == 1:
        return _up(*widths.values())
    return "{" + ", ".join(['"default": "auto"', *(f'"{op}": {_up(eps)}' for op, eps in widths.items())]) + "}"


# --- running it --------------------------------------------------------------------------------------------------


def explain(
    fn: Callable[..., Any],
    /,
    *args: Any,
    eps: Eps | None = None,
    forward: RegionForward | None = None,
    paths: int = 1,
    **kwargs: Any,
) -> Explanation:
    """Where do the gradients of this program die, and what does a region do about it?

    Runs ``fn(*args, **kwargs)`` twice, once as it is and once in ``sll.linearize(eps, forward=forward, trace=True)``,
    each time differentiates the sum of all its outputs (unless the program calls backward itself), and compares.

    Both runs start alike: the program gets copies of its arguments, and the parameters, buffers, gradients and tensors
    that it refers to, and the random numbers of torch, Python and NumPy, are afterwards as they were before. What else
    it changes (files, counters, optimizers) is changed twice.

    Args:
        fn: a function, a module, or a function that refers to modules (``lambda: loss(model(x), y)``). If it takes
            parameters named `eps`, `forward` or `paths`, wrap it.
        args: what it takes. If no tensor or parameter involved requires grad, all floating-point tensors among the
            arguments are made to.
        eps: whatever `linearize` takes; the default is its own, ``"auto"``.
        forward: as for `linearize`.
        paths: as for `linearize`: how often the function may run, to follow what Python asks.
        kwargs: what it takes by name.

    Returns:
        An `Explanation`: ``print`` it; ``.report.rows`` has the figures.

    Raises:
        TypeError: if `fn` is not callable, or returns a generator or a coroutine instead of running.
        Exception: whatever `fn` raises.

    Example:
        >>> import torch, sll
        >>> def program(x):
        ...     return torch.where(x > 0.5, torch.round(4 * x), 0.0)
        >>> x = torch.tensor([0.1, 0.42, 0.51])
        >>> found = sll.explain(program, x, eps=0.02)
        >>> [(row.site.op, row.in_band) for row in found.report.rows]
        [('gt', 1), ('round', 0)]
        >>> (of_x,) = found.inputs
        >>> of_x.hard, round(of_x.linearized)
        (0.0, 50)
    """
    if not callable(fn):
        raise TypeError(
            f"fn must be the program, a function or a module, got {shown(fn)}; pass its arguments after it: "
            "sll.explain(program, x)"
        )
    region = linearize(eps, forward=forward, on_lost="ignore", trace=True, paths=paths)
    program = _Program(fn, args, kwargs)
    refused = ""
    try:
        without = program.gradients(hard())
    except (RuntimeError, NotImplementedError) as error:
        if not any(said in str(error) for said in _REFUSALS):
            raise
        without, refused = {}, str(error).splitlines()[0]
    inside = program.gradients(region)
    inputs = tuple(InputGradient(name, program.shapes[name], without.get(name), norm) for name, norm in inside.items())
    inner = region.trace is not None and region.trace.has_inner
    return Explanation(repr(region), inputs, region.report(), refused, inner)


_REFUSALS = ("derivative for", "does not require grad", "not implemented for autograd")
"""How PyTorch says that it cannot differentiate a discrete program."""


class _Program:
    """A function with its arguments, and what else it depends on."""

    def __init__(self, fn: Callable[..., Any], args: tuple[Any, ...], kwargs: dict[str, Any]) -> None:
        self.fn = fn
        self.args = dict(zip(_names(fn, len(args)), args))
        self.kwargs = kwargs
        found = _Found()
        for name, x in (*self.args.items(), *kwargs.items()):
            found.look(name, x)
        self.given = dict(found.tensors)
        found.look("", fn)
        self.modules, self.generators = found.modules, found.generators
        own = {id(x) for x in self.given.values()}
        self.kept = {name: x for name, x in found.tensors.items() if id(x) not in own}
        """Tensors that it refers to."""
        self.leaves = {name: x for name, x in self.kept.items() if x.requires_grad and x.is_leaf}
        for prefix, module in found.modules.items():
            for inner, parameter in module.named_parameters():
                if parameter.requires_grad and not any(parameter is x for x in self.leaves.values()):
                    name = f"{prefix}.{inner}".lstrip(".")
                    while name in self.given or name in self.leaves:
                        name = f"{name} (parameter)"
                    self.leaves[name] = parameter
        self.wanted = {name for name, x in self.given.items() if x.requires_grad}
        if not self.wanted and not self.leaves:
            self.wanted = {name for name, x in self.given.items() if x.is_floating_point()}
        self.shapes = {name: tuple(x.shape) for name, x in (*self.given.items(), *self.leaves.items())}

    def gradients(self, region: AbstractContextManager[Any]) -> dict[str, float | None]:
        """Norms of the gradients, by name."""
        with torch.inference_mode(False), self._as_it_was(), torch.enable_grad():
            args, kwargs, inputs = self._copies()
            inputs.update(self.leaves)
            again = isinstance(region, linearize) and region.paths > 1
            with nullcontext() if again else region:
                out = (region(self.fn) if again else self.fn)(*args, **kwargs)  # type: ignore[operator]
                if inspect.isgenerator(out) or inspect.iscoroutine(out) or inspect.isasyncgen(out):
                    raise TypeError(
                        f"fn must run when it is called, got one that returns a {type(out).__name__}; pass a function "
                        "that runs it to its end, such as lambda *args: list(fn(*args))"
                    )
                done = any(x.grad is not None for x in inputs.values())
                total = None if done else _total(out)
            grads = [x.grad for x in inputs.values()]
            if total is not None and inputs:
                grads = list(torch.autograd.grad(total, list(inputs.values()), allow_unused=True))
            return {name: None if g is None else float(_wide(g).norm()) for name, g in zip(inputs, grads)}

    def _copies(self) -> tuple[list[Any], dict[str, Any], dict[str, Tensor]]:
        """Arguments to run with, and the leaves among them that want gradients."""
        leaves: dict[str, Tensor] = {}
        memo: dict[int, Any] = {id(x): x for x in (*self.modules.values(), *self.generators)}
        memo.update((id(x), x) for x in self.kept.values())
        for name, x in self.given.items():
            leaf = x.detach().clone().requires_grad_(name in self.wanted)
            if isinstance(x, nn.Parameter):
                leaf = nn.Parameter(leaf.detach(), name in self.wanted)
            if name in self.wanted:
                leaves[name] = leaf
            # The program gets no leaf, because it may write into its argument.
            memo[id(x)] = leaf if isinstance(x, nn.Parameter) or not leaf.requires_grad else leaf.clone()

        def copied(x: Any) -> Any:
            try:
                return copy.deepcopy(x, memo)
            except Exception:  # an open file, a lock: the program gets the thing itself
                return x

        args = [copied(x) for x in self.args.values()]
        return args, {name: copied(x) for name, x in self.kwargs.items()}, leaves

    @contextmanager
    def _as_it_was(self) -> Iterator[None]:
        """Random numbers, parameters, buffers and gradients are the same afterwards as before."""
        owned = [module for parent in self.modules.values() for module in parent.modules()]
        slots = [(names, dict(names)) for module in owned for names in (module._buffers, module._parameters)]
        tensors = {id(x): x for _, before in slots for x in before.values() if x is not None}
        tensors.update((id(x), x) for x in (*self.kept.values(), *self.leaves.values()))
        values = [(x, x.detach().clone(), x._version, x.grad) for x in tensors.values() if not x.is_inference()]
        for x, _, _, _ in values:
            if x.is_leaf:
                x.grad = None
        state, generators = random.getstate(), [(g, g.get_state()) for g in self.generators]
        numpy = sys.modules.get("numpy")
        drawn = numpy.random.get_state() if numpy is not None else None
        try:
            with torch.random.fork_rng():
                yield
        finally:
            random.setstate(state)
            if numpy is not None:
                numpy.random.set_state(drawn)
            for generator, before in generators:
                generator.set_state(before)
            for names, entries in slots:
                names.clear()
                names.update(cast(Any, entries))
            with torch.no_grad():
                for x, value, version, grad in values:
                    # (Batch norm writes into its buffers without counting.)
                    if x._version != version or not torch.equal(x, value):
                        x.detach().copy_(value)
                    if x.is_leaf:
                        x.grad = grad


def _wide(x: Tensor) -> Tensor:
    x = x.detach().cpu()
    return x.abs().double() if x.is_complex() else x.to_dense().double() if x.layout != torch.strided else x.double()


def _total(out: Any) -> Tensor | None:
    """The sum of all that comes out. In a region masks and integers count, too."""
    parts = [x.abs() if x.is_complex() else x if x.dtype == torch.float64 else x.float() for x in _tensors(out)]
    sums = [part.sum() for part in parts]
    sums = [s for s in sums if s.requires_grad]
    if not sums:
        return None
    return torch.stack([s.double() if s.device.type == "cpu" else s.cpu().double() for s in sums]).sum()


def _tensors(x: Any) -> Iterator[Tensor]:
    if isinstance(x, Tensor):
        yield x
    elif isinstance(x, Mapping):
        for item in x.values():
            yield from _tensors(item)
    elif isinstance(x, (tuple, list)):
        for item in x:
            yield from _tensors(item)
    elif is_dataclass(x) and not isinstance(x, type):
        for item in fields(x):
            yield from _tensors(getattr(x, item.name))


# --- what a program depends on -----------------------------------------------------------------------------------

_DEPTH = 6


class _Found:
    """Modules, tensors and random generators in what a function gets at: by name, the outermost first."""

    def __init__(self) -> None:
        self.modules: dict[str, nn.Module] = {}
        self.tensors: dict[str, Tensor] = {}
        self.generators: list[torch.Generator] = []
        self._seen: dict[int, Any] = {}

    def look(self, name: str, x: Any, depth: int = 0) -> None:
        if depth > _DEPTH or id(x) in self._seen or isinstance(x, (str, bytes, int, float, complex, type, ModuleType)):
            return
        self._seen[id(x)] = x
        if isinstance(x, Tensor):
            self.tensors[_unused(name, self.tensors)] = x
        elif isinstance(x, nn.Module):
            self.modules[_unused(name, self.modules)] = x
        elif isinstance(x, torch.Generator):
            self.generators.append(x)
        elif isinstance(x, functools.partial):
            self.look(name, x.func, depth + 1)
            for i, item in enumerate(x.args):
                self.look(f"{name}.args[{i}]".lstrip("."), item, depth + 1)
            self._each(x.keywords, "{1}", name, depth)
        elif inspect.ismethod(x):
            self.look("", x.__self__, depth + 1)
            self.look(name, x.__func__, depth + 1)
        elif inspect.isfunction(x):
            self._each(_referred_to(x), "{1}", name, depth)
        elif isinstance(x, Mapping):
            self._each(x, "{0}[{1!r}]", name, depth)
        elif isinstance(x, (tuple, list, set, frozenset)):
            self._each(dict(enumerate(x)), "{0}[{1}]", name, depth)
        elif hasattr(x, "__dict__") and type(x).__module__.split(".")[0] not in NOT_OURS:
            self._each(vars(x), "{0}.{1}", name, depth)
            if callable(x) and inspect.isfunction(type(x).__call__):
                self.look(name, type(x).__call__, depth + 1)

    def _each(self, items: Mapping[Any, Any], form: str, name: str, depth: int) -> None:
        for key, item in list(items.items()):
            self.look(form.format(name, key).lstrip("."), item, depth + 1)


def _unused(name: str, taken: Mapping[str, Any]) -> str:
    while name in taken:
        name += "'"
    return name


def _referred_to(fn: FunctionType) -> dict[str, Any]:
    """What a function gets at by name: its closure, its defaults, and globals that its code names."""
    found: dict[str, Any] = {}
    for name in filter(fn.__globals__.__contains__, named(fn.__code__)):
        x = fn.__globals__[name]
        ours = not inspect.isfunction(x) or (x.__module__ or "").split(".")[0] not in NOT_OURS
        if ours:
            found[name] = x
    for name, cell in zip(fn.__code__.co_freevars, fn.__closure__ or ()):
        with suppress(ValueError):  # not filled yet
            found[name] = cell.cell_contents
    for i, x in enumerate(fn.__defaults__ or ()):
        found.setdefault(f"defaults[{i}]", x)
    found.update({name: x for name, x in (fn.__kwdefaults__ or {}).items() if name not in found})
    return found


def _names(fn: Any, many: int) -> list[str]:
    """The names of the first `many` parameters."""
    try:
        signature = inspect.signature(fn.forward if isinstance(fn, nn.Module) else fn)
    except (TypeError, ValueError):
        return [f"args[{i}]" for i in range(many)]
    names: list[str] = []
    rest = "args"
    for p in signature.parameters.values():
        if p.kind is p.VAR_POSITIONAL:
            rest = p.name
        elif p.kind is not p.KEYWORD_ONLY and p.kind is not p.VAR_KEYWORD:
            names.append(p.name)
    return [*names[:many], *(f"{rest}[{i}]" for i in range(many - len(names)))]
