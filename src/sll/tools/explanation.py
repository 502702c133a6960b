"""`explain`: run a program once as it is and once in a region, and say in words what became of its decisions."""

from __future__ import annotations

import html
import math
from collections.abc import Callable
from dataclasses import asdict, dataclass
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor

from .._ops.callsite import short
from .._ops.options import RegionForward, SeeThrough
from .._reports.report import Report, _norm
from .._reports.rows import Row, _ended, _finite, _up
from .._reports.tables import as_text
from ..checking import Check, check_program
from ..eps import Eps
from ..programs import Program, total, whole
from ..region import hard, linearize

if TYPE_CHECKING:
    from rich.text import Text


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
    checked: Check | None = None
    """With ``check=True``: is the gradient right? See `check`."""

    def sections(self) -> list[tuple[str, list[str]]]:
        """Headings and sentences: the decisions that get gradients, those out of reach, those lost, …"""
        of: dict[str, list[str]] = {heading: [] for heading in _HEADINGS.values()}
        for row in self.report.rows:
            if row.status in _HEADINGS:
                said = row.verdict.removeprefix("gets gradients: ") if row.kind not in ("hard", "cut") else row.why
                of[_HEADINGS[row.status]].append(_ended(f"{short(row.site)}: {said}"))
        return [(heading, sentences) for heading, sentences in of.items() if sentences]

    def advice(self) -> list[str]:
        """What to do next."""
        said = []
        far = [row for row in self.report.rows if row.kind == "decides" and row.elements and not row.in_band]
        if far and _wide_enough(far):
            said.append(f'eps="auto" finds a width for each call; or name one: eps={_wide_enough(far)}.')
        asked = sum(row.in_band for row in self.report.rows if row.kind == "lost" and row.site.op in _ASKED)
        if 0 < asked < _MANY_PATHS:
            said.append(
                f"Decorate the function with paths={asked + 1}: it runs again for each answer that Python was given."
            )
        elif asked:
            said.append(
                f"Decorate the function with paths={_MANY_PATHS}: it runs again for some of the {asked} answers that "
                "Python was given. A narrow eps of your own leaves fewer open."
            )
        if any(row.status == "LOST here" for row in self.report.rows):
            said.append('Run with on_lost="error" to be stopped at the first line that loses a gradient.')
        if self.report.cut:
            said.append("The program itself cuts gradients: see_through=True looks through that.")
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
        lines = [self._summary(), "", *self._gradients()]
        if self.refused:
            lines.append(f"(without a region PyTorch raises: {self.refused})")
        for heading, sentences in self.sections():
            lines += ["", heading, *(f"  {sentence}" for sentence in sentences)]
        advice = self.advice()
        if advice:
            lines += ["", "Next", *(f"  {sentence}" for sentence in advice)]
        if self.checked is not None:
            lines += ["", "Against the hard program", *(f"  {line}" for line in self.checked.table())]
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
        rows = [(f"{x.name} {list(x.shape)}", _norm(x.hard), _norm(x.linearized)) for x in self.inputs]
        return as_text(("norm of the gradient", "no region", "region"), rows, ("no region", "region"))

    def __rich__(self) -> Text:
        from rich.text import Text

        text = Text(str(self))
        text.highlight_words(
            [self._summary(), *(f"\n{heading}\n" for heading in (*_HEADINGS.values(), "Next"))], "bold"
        )
        return text

    def _repr_html_(self) -> str:
        return f"<pre>{html.escape(str(self))}</pre>{self.report._repr_html_()}"

    def to_dict(self) -> dict[str, Any]:
        """All of it as plain dicts, lists, strings and numbers, for JSON."""
        return {
            "region": self.region,
            "inputs": [{name: _finite(value) for name, value in asdict(x).items()} for x in self.inputs],
            "refused": self.refused,
            "inner": self.inner,
            "sections": dict(self.sections()),
            "advice": self.advice(),
            "report": self.report.to_dict(),
            "check": None if self.checked is None else self.checked.to_dict(),
        }


_MANY_PATHS = 16
"""Runs that are suggested at most."""
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
    "only told": "Asked only to raise or to log",
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
    see_through: SeeThrough = False,
    check: bool = False,
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
            parameters named `eps`, `forward`, `paths`, `see_through` or `check`, wrap it.
        args: what it takes. If no tensor or parameter involved requires grad, all floating-point tensors among the
            arguments are made to.
        eps: whatever `linearize` takes; the default is its own, ``"auto"``.
        forward: as for `linearize`.
        paths: as for `linearize`: how often the function may run, to follow what Python asks.
        see_through: as for `linearize`: whether to look through `torch.no_grad` and ``detach()`` of the program.
        check: whether to hold the gradient against the hard program as well, as `sll.check` does with the sum of all
            outputs. The program runs some hundred times more, and must not call backward itself.
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
    program = Program(fn, args, kwargs, "sll.explain")
    region = linearize(eps, forward=forward, on_lost="ignore", trace=True, paths=paths, see_through=see_through)
    refused = ""
    try:
        without = _norms(program, hard())
    except (RuntimeError, NotImplementedError) as error:
        if not any(said in str(error) for said in _REFUSALS):
            raise
        without, refused = {}, str(error).splitlines()[0]
    inside = _norms(program, region)
    inputs = tuple(InputGradient(name, program.shapes[name], without.get(name), norm) for name, norm in inside.items())
    inner = region.trace is not None and region.trace.has_inner
    checked = check_program(program, linearize(eps, forward=forward, paths=paths), whole) if check else None
    return Explanation(repr(region), inputs, region.report(), refused, inner, checked)


_REFUSALS = ("derivative for", "does not require grad", "not implemented for autograd")
"""How PyTorch says that it cannot differentiate a discrete program."""


def _norms(program: Program, region: linearize | hard) -> dict[str, float | None]:
    """Norms of the gradients, by name."""
    with torch.inference_mode(False), program.as_it_was(), torch.enable_grad():
        args, kwargs, inputs = program.copies()
        inputs.update(program.leaves)

        def loss(out: Any) -> Tensor | None:
            done = any(x.grad is not None for x in inputs.values())  # (the program has called backward itself)
            return None if done else total(out)

        whole = program.run(args, kwargs, loss, region)
        grads = [x.grad for x in inputs.values()]
        if whole is not None and inputs:
            grads = list(torch.autograd.grad(whole, list(inputs.values()), allow_unused=True))
        return {name: None if g is None else float(_wide(g).norm()) for name, g in zip(inputs, grads)}


def _wide(x: Tensor) -> Tensor:
    x = x.detach().cpu()
    return x.abs().double() if x.is_complex() else x.to_dense().double() if x.layout != torch.strided else x.double()
