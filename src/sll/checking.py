"""`check`: the region's gradient against the hard program itself."""

from __future__ import annotations

import math
import sys
from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import asdict, dataclass
from typing import Any, TypeVar

import torch
from torch import Tensor, nn

from ._checks.around import Around, to_blame
from ._checks.runs import Runs, Unusable
from ._checks.verdicts import Compared, compared
from ._ops.callsite import CallSite, short
from ._ops.options import RegionForward, shown
from ._reports.report import Report
from ._reports.rows import _ended, _finite
from ._reports.tables import as_html, as_text
from .auto import Auto
from .eps import Eps
from .programs import Found, Program
from .region import linearize

__all__ = ["Check", "Compared", "check"]


@dataclass(frozen=True)
class Check:
    """What `check` found: ``print`` it.

    Attributes:
        region: the region that was checked, as code.
        verdict: ``"right"``, ``"right on average"``, ``"wrong here"`` or ``"cannot tell: …"`` with the reason.
        arguments: a `Compared` for each argument and parameter, or one for the path.
        lines: with ``"wrong here"``, the lines of the program that lose the gradient or whose band makes it wrong,
            as far as that can be found.
        report: the region's, with a row for each line that decides.
        runs: how often the program ran.
    """

    region: str
    verdict: str
    arguments: tuple[Compared, ...]
    lines: tuple[CallSite, ...]
    report: Report
    runs: int = 0

    @property
    def right(self) -> bool:
        """Whether the verdict is ``"right"`` or ``"right on average"``."""
        return self.verdict in ("right", "right on average")

    def __str__(self) -> str:
        return "\n".join([*self.table(), "", *self.notes()])

    def table(self) -> list[str]:
        """The verdict, the reasons, and a line of figures for each argument."""
        lines = as_text(_COLUMNS, map(_cells, self.arguments), _COLUMNS[1:-1])
        return [self._headline(), *self._reasons(), "", *lines]

    def _reasons(self) -> list[str]:
        return [f"{x.name}: {x.why}." for x in self.arguments if x.why]

    def _headline(self) -> str:
        at = f", because of {' and '.join(map(short, self.lines))}" if self.lines else ""
        return f"{self.verdict}{at} — {self.region}"

    def notes(self) -> list[str]:
        """What becomes of the decisions of each line, in sentences."""
        many = f"The program ran {self.runs:,} times. Lower directions=, points= or runs= for fewer."
        return [*(_ended(f"{short(row.site)}: {row.verdict}") for row in self.report.rows), many]

    def _repr_html_(self) -> str:
        notes = [*self._reasons(), *self.notes()]
        return as_html(self._headline(), _COLUMNS, map(_cells, self.arguments), notes)

    def to_dict(self) -> dict[str, Any]:
        """All of it as plain dicts, lists, strings and numbers, for JSON."""
        arguments = [{key: _finite(value) for key, value in asdict(x).items()} for x in self.arguments]
        lines = [site._asdict() for site in self.lines]
        found = {"region": self.region, "verdict": self.verdict, "arguments": arguments, "lines": lines}
        return {**found, "runs": self.runs, "notes": self.notes(), "report": self.report.to_dict()}


_COLUMNS = ("argument", "ratio", "cosine", "same sign", "within", "program", "gradient", "verdict")


def _cells(x: Compared) -> tuple[str, ...]:
    figures = (
        (x.ratio, f"{x.ratio:.3g} ± {x.error:.2g}"),
        (x.cosine, f"{x.cosine:.3f}"),
        (x.signs, f"{100 * x.signs:.0f} %"),
        (x.step, f"±{x.step:.2g}"),
        (x.hard, f"{x.hard:.3g}"),
        (x.region, f"{x.region:.3g}"),
    )
    told = [text if math.isfinite(of) and x.verdict != "no effect" else "" for of, text in figures]
    return (f"{x.name} {list(x.shape)}", *told, x.verdict)


T = TypeVar("T")
AGAIN = 3
"""So often directions are taken."""


# --- checking --------------------------------------------------------------------------------------------------------


def check(
    fn: Callable[..., Any],
    /,
    *args: Any,
    eps: Eps | None = None,
    forward: RegionForward | None = None,
    params: nn.Module | Iterable[Tensor] | Mapping[str, Tensor] | None = None,
    path_to: Any = None,
    directions: int = 8,
    points: int = 12,
    runs: int = 10_000,
    seed: int = 0,
    paths: int = 1,
    **kwargs: Any,
) -> Check:
    """Is the gradient of this program in a region right, here?

    Changes the arguments along straight lines, and compares what the *hard* program changes with what the region's
    gradient says, integrated along the same stretch. Stretches are as long as it takes to change some decisions, and a
    few bands long at least; `Compared.step` says how long. Both sides are averaged over a window that moves along
    the stretch.

    - ``"right"``: along each line both agree to 10 %.
    - ``"right on average"``: together they do to 25 %, each for itself not.
    - ``"wrong here"``: they differ by more than chance explains. `Check.lines` names the lines of the program.
    - ``"cannot tell: …"``: too noisy, nothing in its band, the program raises …

    With `path_to` it is one path, from the arguments to there: the integral of the gradient must be the difference of
    the program's values, if both ends lie outside of all bands.

    The program runs some hundred times, where bands are narrow some thousand times: `Check.runs`. Each time it draws
    the same random numbers along a line, and others along the next. Parameters, buffers, gradients and random numbers
    are afterwards as they were.

    Args:
        fn: a function, a module, or a function that refers to modules. It returns one floating-point number. If it
            takes parameters with the names of these options, wrap it.
        args: what it takes. Those that require grad are checked; if nothing does, all floating-point tensors.
        eps: whatever `linearize` takes; the default is its own, ``"auto"``. (Widths of ``"auto"`` are measured at the
            arguments first.)
        forward: as for `linearize`.
        params: a module, tensors, or tensors by name: only their gradients are checked, beside those of arguments that
            require grad. The default is all parameters that `fn` refers to.
        path_to: where the path ends: a tensor for a function of one argument, else a tuple with one entry for each
            argument; None leaves an argument where it is.
        directions: along how many lines each argument is moved: that of the gradient, random signs of all elements, and
            single elements.
        points: at how many points of a stretch the gradient is taken; more are taken around jumps.
        runs: the program runs no more than so often to measure, and half as often again to find out which line is to
            blame. Each argument has its share.
        seed: for the directions, the points and the program.
        paths: as for `linearize`.
        kwargs: what `fn` takes by name.

    Returns:
        A `Check`.

    Raises:
        TypeError: if `fn` is not callable or does not return one floating-point number, if nothing can be moved, or an
            option is not as described.
        ValueError: if `path_to` does not fit the arguments, if all that can be moved has no elements, or `fn` returns
            NaN or infinity at its arguments.
        Exception: whatever `fn` raises at its arguments.

    Example:
        >>> import torch, sll
        >>> def inside(x):
        ...     return ((x > 0.3) & (x < 0.8)).float().mean()
        >>> x = torch.linspace(0, 1, 50)
        >>> sll.check(inside, x, eps=0.01).verdict
        'right'
        >>> sll.check(lambda x: inside(x.detach()) + 0 * x.sum(), x, eps=0.01).verdict
        'wrong here'
    """
    program = Program(fn, args, kwargs, "sll.check")
    given = (("directions", directions, 2), ("points", points, 4), ("runs", runs, 100), ("seed", seed, 0))
    for name, value, least in given:
        if isinstance(value, bool) or not isinstance(value, int) or value < least:
            raise TypeError(f"{name} must be an integer, at least {least}, got {shown(value)}")
    region = linearize(eps, forward=forward, paths=paths)
    return check_program(program, region, _scalar, params, path_to, directions, points, runs, seed)


def check_program(
    program: Program,
    region: linearize,
    loss: Callable[[Any], Tensor],
    params: Any = None,
    path_to: Any = None,
    directions: int = 8,
    points: int = 12,
    most: int = 10_000,
    seed: int = 0,
) -> Check:
    """`check`, of what `loss` makes of the program's result."""
    options = {"eps": _with_memory(region.eps), "forward": region.forward, "paths": region.paths}
    policies: list[Any] = [policy for policy in region.policies() if hasattr(policy, "state_dict")]
    states = [(policy, policy.state_dict()) for policy in policies]
    with torch.inference_mode(False), program.as_it_was() as put:
        runs = Runs(program, put, _moved(program, params), loss, most)
        try:
            return _measured(Around(runs, options, points, seed), region, path_to, directions)
        finally:
            for policy, state in states:
                policy.load_state_dict(state)


def _measured(around: Around, region: linearize, path_to: Any, directions: int) -> Check:
    runs, seed, most = around.runs, around.seed, around.runs.most
    for _ in range(_steps(around.region)):
        _told(lambda: runs.inside(around.region, {}, seed))
    if _told(lambda: runs.hard({}, seed)) != runs.hard({}, seed):
        why = "fn returns different values for the same arguments: draw its random numbers with torch, which has a seed"
        return Check(repr(region), f"cannot tell: {why}", (), (), around.region.report(), runs.many)
    if path_to is not None:
        ends = _ends(runs, path_to)
        around.wide = {"path": _told(lambda: around.path(ends, 3))}
    else:
        for k, name in enumerate(runs.base, 1):
            runs.most = most * k // len(runs.base)
            _until_told(around, name, directions)
    arguments = [_compared(around, name) for name in around.wide]
    runs.most = sys.maxsize
    report = around.report()
    runs.most = runs.many + most // 2
    wrong = next((x.name for x in arguments if x.verdict == "wrong here"), None)
    lines = [] if wrong is None else to_blame(around, [*around.wide[wrong], *around.close.get(wrong, [])], report)
    reached = any(m.reached for measured in around.wide.values() for m in measured)
    return Check(repr(region), _verdict(arguments, reached), tuple(arguments), tuple(lines), report, runs.many)


def _told(run: Callable[[], T]) -> T:
    """What cannot be measured at all is an error."""
    try:
        return run()
    except Unusable as error:
        raise ValueError(f"fn cannot be checked here: {error}").with_traceback(error.__traceback__) from None


def _until_told(around: Around, name: str, directions: int) -> None:
    """More directions, and more points along them, where chance may be the reason."""
    for again in range(AGAIN):
        around.measure(name, directions, again)
        if around.wide[name] and _compared(around, name).verdict == "wrong here":
            around.repeat(name)
        if _compared(around, name).verdict not in ("cannot tell", "right on average") or name in around.failed:
            break


def _compared(around: Around, name: str) -> Compared:
    shape = tuple(around.runs.base[name].shape) if name in around.runs.base else ()
    return compared(name, shape, around.wide[name], around.close.get(name, []), around.failed.get(name, ""))


def _verdict(arguments: list[Compared], reached: bool) -> str:
    found = [x.verdict for x in arguments]
    if "wrong here" in found:
        return "wrong here"
    for x in arguments:
        if x.verdict == "cannot tell":
            return f"cannot tell: {x.name}: {x.why}"
    if not reached:
        why = "no decision is in its band, or comes into it near these arguments; check others, or a wider band"
        return f"cannot tell: {why}"
    return "right on average" if "right on average" in found else "right"


def _scalar(out: Any) -> Tensor:
    if isinstance(out, Tensor) and out.numel() == 1 and out.is_floating_point():
        return out.reshape(())
    what = shown(out)
    if isinstance(out, Tensor):
        what = f"a tensor of shape {tuple(out.shape)} and type {out.dtype}"
    raise TypeError(
        f"fn must return one floating-point number, got {what}; check a function that does, such as "
        "lambda *args: fn(*args).float().sum()"
    )


def _with_memory(eps: Eps) -> Eps:
    """The regions of a check share the widths of ``"auto"``."""
    auto = Auto()
    if isinstance(eps, Mapping):
        return {op: auto if isinstance(width, str) else width for op, width in eps.items()}
    return auto if isinstance(eps, str) else eps


def _steps(region: linearize) -> int:
    """After so many steps widths are kept; and one shows whether the program runs."""
    return 1 + max((policy.steps for policy in region.policies() if isinstance(policy, Auto)), default=0)


def _moved(program: Program, params: Any) -> dict[str, Tensor]:
    if params is None:
        found = {name: x for name, x in program.given.items() if name in program.wanted} | program.leaves
    else:
        found = {name: x for name, x in program.given.items() if x.requires_grad}
        given = params.named_parameters() if isinstance(params, nn.Module) else _named(params)
        for name, x in given:
            if not isinstance(x, Tensor):
                raise TypeError(
                    f"params must be a module, tensors such as [weight, bias], or tensors by name, got {shown(params)}"
                )
            if x.requires_grad and x.is_leaf:
                found[name] = x
    empty = [f"{name} {list(x.shape)}" for name, x in found.items() if not x.numel()]
    if empty and len(empty) == len(found):
        raise ValueError(
            f"{', '.join(empty)} has no elements, so there is nothing to move; pass a tensor that has some"
        )
    found = {name: x for name, x in found.items() if x.numel()}
    if not found:
        raise TypeError(
            "there is nothing to move: fn has no floating-point tensor among its arguments, and no parameter that "
            "requires grad; pass params="
        )
    return found


def _named(params: Any) -> Iterator[tuple[str, Any]]:
    if isinstance(params, Mapping):
        yield from params.items()
    elif isinstance(params, Iterable) and not isinstance(params, Tensor):
        for i, x in enumerate(params):
            yield (x if isinstance(x, tuple) else (f"params[{i}]", x))
    else:
        yield "params", None


def _ends(runs: Runs, path_to: Any) -> dict[str, Tensor]:
    """Where the path ends, by the name of what is moved."""
    args = runs.program.args
    ends = path_to if isinstance(path_to, tuple) and len(args) != 1 else (path_to,)
    found = Found()
    for name, end in zip(args, ends):
        found.look(name, end)
    moved = {name: x for name, x in found.tensors.items() if name in runs.base}
    like = all(x.shape == runs.base[name].shape for name, x in moved.items())
    if not moved or not like or len(ends) != len(args):
        shapes = ", ".join(f"{name} {list(x.shape)}" for name, x in runs.base.items())
        raise ValueError(
            f"path_to must be where the arguments end, shaped as they are ({shapes}), got {shown(path_to)}; a tuple "
            "has an entry for each argument, and None leaves one where it is"
        )
    return {name: x.detach().to(runs.base[name]) for name, x in moved.items()}
