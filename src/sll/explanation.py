"""`explain`: run a program once as it is and once in a region, and say in words what became of its decisions."""

from __future__ import annotations

import html
import inspect
import random
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor, nn

from ._options import RegionForward, shown
from .policy import Eps
from .region import linearize
from .report import Report, Row, _short, _up

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
                of[_HEADINGS[row.status]].append(f"{_short(row.site)}: {said}.".replace("..", "."))
        return [(heading, sentences) for heading, sentences in of.items() if sentences]

    def advice(self) -> list[str]:
        """What to do next."""
        said = []
        far = [row for row in self.report.rows if row.kind == "decides" and row.elements and not row.in_band]
        if far:
            said.append(f'eps="auto" finds a width for each call; or name one: eps={_wide_enough(far)}.')
        if any(row.status == "LOST here" for row in self.report.rows):
            said.append('Run with on_lost="error" to be stopped at the first line that loses a gradient.')
        if self.inputs and not any(x.linearized for x in self.inputs):
            said.append("No input gets a gradient in this region.")
        if self.inner:
            said.append(
                "The program enters a region of its own (@sll.enable?), in both runs, and that decides there: explain "
                "the function inside it, or give that region trace=True and print its report."
            )
        elif not self.report.rows:
            said.append("No discrete function was called: a region changes nothing here.")
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
            f"{name:<{width}}  {_number(x.hard):>10}  {_number(x.linearized):>10}"
            for name, x in zip(names, self.inputs)
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
            table.add_row(f"{x.name} {list(x.shape)}", _number(x.hard), _number(x.linearized))
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
                {"name": x.name, "shape": list(x.shape), "hard": x.hard, "linearized": x.linearized}
                for x in self.inputs
            ],
            "refused": self.refused,
            "inner": self.inner,
            "sections": dict(self.sections()),
            "advice": self.advice(),
            "report": self.report.to_dict(),
        }


_HEADINGS = {
    "gets gradients": "Get gradients",
    "passes it on": "Pass earlier decisions on",
    "out of reach": "Out of reach of their band",
    "no gradient arrives": "In their band, but no gradient arrives",
    "LOST here": "Lost",
    "would be lost": "Ends a gradient, once a decision is in its band",
    "not linearized": "Not linearized",
    "leaves autograd": "The program leaves autograd by itself",
}


def _wide_enough(rows: list[Row]) -> str:
    widths: dict[str, float] = {}
    for row in rows:
        if row.reach is not None:
            widths[row.site.op] = max(widths.get(row.site.op, 0.0), min(row.reach[1], row.limit))
    if len(widths) == 1:
        return _up(*widths.values())
    return "{" + ", ".join(['"default": "auto"', *(f'"{op}": {_up(eps)}' for op, eps in widths.items())]) + "}"


def _number(x: float | None) -> str:
    return "-" if x is None else f"{x:.3g}"


# --- running it --------------------------------------------------------------------------------------------------


def explain(
    fn: Callable[..., Any], /, *args: Any, eps: Eps = 1e-3, forward: RegionForward | None = None, **kwargs: Any
) -> Explanation:
    """Where do the gradients of this program die, and what does a region do about it?

    Runs ``fn(*args, **kwargs)`` twice, once as it is and once in ``sll.linearize(eps, forward=forward, trace=True)``,
    each time differentiates the sum of all its outputs, and compares. Both runs start from the same state of the random
    number generators of torch and Python. Arguments are copied, buffers and gradients of modules restored afterwards.

    Args:
        fn: a function, a module, or a function that refers to modules (``lambda: loss(model(x), y)``). If it takes
            parameters named `eps` or `forward`, wrap it.
        *args: what it takes, by position or by name. If no tensor or parameter involved requires grad, all
            floating-point tensors among the arguments are made to.
        eps: half-width of the band, in the units of each op's input, or whatever `linearize` takes.
        forward: as for `linearize`.

    Returns:
        An `Explanation`: ``print`` it; ``.report.rows`` has the figures.

    Raises:
        TypeError: if `fn` is not callable.
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
    leaves = _leaves(fn)
    given = dict(_named(fn, args, kwargs))
    if not any(x.requires_grad for x in (*leaves.values(), *given.values())):
        wanted = [name for name, x in given.items() if x.is_floating_point()]
    else:
        wanted = [name for name, x in given.items() if x.requires_grad]
    region = linearize(eps, forward=forward, on_lost="ignore", trace=True)
    modules = _modules(fn)
    refused = ""
    try:
        hard = _gradients(fn, args, kwargs, leaves, wanted, modules, None)
    except NotImplementedError as error:
        hard, refused = {}, str(error)
    except RuntimeError as error:  # "derivative for aten::floor_divide is not implemented"
        if "derivative for" not in str(error):
            raise
        hard, refused = {}, str(error)
    soft = _gradients(fn, args, kwargs, leaves, wanted, modules, region)
    shapes = {name: tuple(x.shape) for name, x in (*given.items(), *leaves.items())}
    inputs = tuple(InputGradient(name, shapes[name], hard.get(name), soft[name]) for name in soft)
    inner = region.trace is not None and region.trace.has_inner
    return Explanation(repr(region), inputs, region.report(), refused, inner)


def _gradients(
    fn: Callable[..., Any],
    args: tuple[Any, ...],
    kwargs: dict[str, Any],
    leaves: dict[str, Tensor],
    wanted: list[str],
    modules: list[nn.Module],
    region: linearize | None,
) -> dict[str, float | None]:
    """Norms, by name."""
    copies: dict[str, Tensor] = {}

    def copy(name: str, x: Any) -> Any:
        if isinstance(x, Tensor):
            copies[name] = x.detach().clone().requires_grad_(name in wanted)
            return copies[name]
        if isinstance(x, dict):
            return {key: copy(f"{name}[{key!r}]", item) for key, item in x.items()}
        if type(x) in (tuple, list):
            return type(x)(copy(f"{name}[{i}]", item) for i, item in enumerate(x))
        return x

    names = _names(fn, len(args))
    args = tuple(copy(name, x) for name, x in zip(names, args))
    kwargs = {name: copy(name, x) for name, x in kwargs.items()}
    inputs = {**{name: copies[name] for name in wanted}, **leaves}
    with _as_it_was(modules, list(leaves.values())), torch.enable_grad():
        if region is None:
            total = _total(fn(*args, **kwargs))
        else:
            with region:
                total = _total(fn(*args, **kwargs))
        found: list[Tensor | None] = [None] * len(inputs)
        if total is not None and inputs:
            found = list(torch.autograd.grad(total, list(inputs.values()), allow_unused=True))
        # A program may have called backward itself.
        grads = [x.grad if g is None else g for x, g in zip(inputs.values(), found)]
        return {name: None if g is None else float(g.detach().float().norm()) for name, g in zip(inputs, grads)}


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
    elif isinstance(x, dict):
        for item in x.values():
            yield from _tensors(item)
    elif isinstance(x, (tuple, list)):
        for item in x:
            yield from _tensors(item)


@contextmanager
def _as_it_was(modules: list[nn.Module], leaves: list[Tensor]) -> Iterator[None]:
    """Random numbers, buffers and gradients are the same afterwards as before."""
    grads = [x.grad for x in leaves]
    buffers = [(buffer, buffer.detach().clone()) for module in modules for buffer in module.buffers()]
    state = random.getstate()
    for x in leaves:
        x.grad = None
    try:
        with torch.random.fork_rng():
            yield
    finally:
        random.setstate(state)
        for x, grad in zip(leaves, grads):
            x.grad = grad
        with torch.no_grad():
            for buffer, before in buffers:
                buffer.copy_(before)


# --- what a program depends on -----------------------------------------------------------------------------------


def _referred_to(fn: Any) -> dict[str, Any]:
    """What a function gets at by name, besides its arguments."""
    while hasattr(fn, "__wrapped__") or (hasattr(fn, "func") and hasattr(fn, "keywords")):
        fn = fn.__wrapped__ if hasattr(fn, "__wrapped__") else fn.func
    found: dict[str, Any] = {}
    owner = getattr(fn, "__self__", None)
    if isinstance(fn, nn.Module):
        found[""] = fn
    elif isinstance(owner, nn.Module):
        found[""] = owner
    fn = getattr(fn, "__func__", fn)
    if inspect.isfunction(fn):
        seen = inspect.getclosurevars(fn)
        found.update(seen.globals)
        found.update(seen.nonlocals)
    return found


def _modules(fn: Any) -> list[nn.Module]:
    return [x for x in _referred_to(fn).values() if isinstance(x, nn.Module)]


def _leaves(fn: Any) -> dict[str, Tensor]:
    """Parameters, and tensors that require grad, by name."""
    found: dict[str, Tensor] = {}
    for name, x in _referred_to(fn).items():
        if isinstance(x, nn.Module):
            for inner, parameter in x.named_parameters():
                if parameter.requires_grad:
                    found[f"{name}.{inner}".lstrip(".")] = parameter
        elif isinstance(x, Tensor) and x.requires_grad and x.is_leaf:
            found[name] = x
    return found


def _names(fn: Any, many: int) -> list[str]:
    """The names of the first `many` parameters."""
    try:
        signature = inspect.signature(fn.forward if isinstance(fn, nn.Module) else fn)
    except (TypeError, ValueError):
        return [f"args[{i}]" for i in range(many)]
    names = []
    for p in signature.parameters.values():
        if p.kind in (p.POSITIONAL_ONLY, p.POSITIONAL_OR_KEYWORD):
            names.append(p.name)
        else:
            break
    return [*names[:many], *(f"args[{i}]" for i in range(len(names), many))]


def _named(fn: Any, args: tuple[Any, ...], kwargs: dict[str, Any]) -> Iterator[tuple[str, Tensor]]:
    """The tensors among the arguments, by the names `_gradients` gives them."""

    def walk(name: str, x: Any) -> Iterator[tuple[str, Tensor]]:
        if isinstance(x, Tensor):
            yield name, x
        elif isinstance(x, dict):
            for key, item in x.items():
                yield from walk(f"{name}[{key!r}]", item)
        elif type(x) in (tuple, list):
            for i, item in enumerate(x):
                yield from walk(f"{name}[{i}]", item)

    for name, x in zip(_names(fn, len(args)), args):
        yield from walk(name, x)
    for name, x in kwargs.items():
        yield from walk(name, x)
