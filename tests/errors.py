"""Cases of `docs/errors.md`: every error and warning of the library, the program that triggers it, and what to write
instead.

    python -m pytest tests/test_errors.py --errors docs/errors.md

writes the page anew; the suite checks that it is up to date, that the programs to write instead work, and that no
``raise``, no warning and no lost gradient of `src/sll` is without a case.

To add a case, write it into `CASES`. Programs run as ``your_code.py``, with `torch`, `F`, `sll` and `x` at hand.
"""

from __future__ import annotations

import ast
import contextlib
import functools
import linecache
import re
import sys
import textwrap
import traceback
import warnings
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from types import FrameType
from typing import Any, NamedTuple
from unittest import mock

import torch
import torch.nn.functional as F

import sll
from sll._mode.threads import THREAD

SOURCE = Path(sll.__file__).parent
COMMANDS = {"__main__.py", "cli.py", "console.py", "demo.py", "doctor.py", "explaining.py", "inputs.py", "ops.py"}
ELSEWHERE = COMMANDS | {"picture.py", "plot.py", "ranks.py"}
"""What they say is tested with them. (`ranks.py` takes two processes, see `test_distributed.py`.)"""

ARGUMENTS = "Arguments of a region"
LOST = "Lost gradients: masks and counts"
INDICES = "Lost gradients: indices, positions and writes"
SELECTED = "Lost gradients: the elements that a mask selects"
LOCAL = 'Lost gradients with forward="straight-through"'
FLIPS = 'Lost gradients with forward="hard"'
PATHS = "Python control flow: `paths=N`"
THREADS = "Regions, generators and tasks"
TORCH = "torch.compile, torch.func and checkpoints"
POLICIES = "Policies"
FUNCTIONS = "Explicit functions"
REPORTS = "Reports"
ITS_OWN = "What PyTorch says"

GROUPS = {
    ARGUMENTS: "",
    LOST: 'These are warnings with `on_lost="warn"`, the default, and errors with `on_lost="error"`. They are said '
    "once for each line of your code, and only if an element really is in its band: outside of it there is no gradient "
    "to lose. `region.report().lost` counts all calls.",
    INDICES: "",
    SELECTED: "`x[mask]` keeps its derivative through elementwise functions, `sum` and `mean`. For everything else the "
    "question is how many elements there are, and in the band that is open.",
    LOCAL: 'This is the mode of `"auto"`. Bools, integers and indices carry a shadow; what has no rule for it ends it.',
    FLIPS: "Every function runs again in each flip, so little is lost here.",
    PATHS: "A decorated function with `paths=N` runs again where Python asks for what is open. "
    "[Python control flow](../control-flow.md) has the rest.",
    THREADS: "",
    TORCH: "With `fullgraph=True` Dynamo raises, and wraps the message in a page of its own: only the part about the "
    "region is shown here. Without `fullgraph=True` there is no error.",
    POLICIES: "",
    FUNCTIONS: "",
    REPORTS: "",
    ITS_OWN: "These messages are PyTorch's own; a region is what brings them about.",
}


@dataclass(frozen=True)
class Case:
    group: str
    title: str
    """In the words of who meets it."""
    code: str
    says: str
    """What it means and what to do."""
    instead: str = ""
    """Runs without a word. Where it calls ``backward()``, `x` gets a gradient."""
    missing: str = ""
    """A package that is not installed."""
    compiles: bool = False
    recent: bool = False
    """Older PyTorch says nothing there."""


class Outcome(NamedTuple):
    said: str
    """As Python shows it."""
    through: frozenset[tuple[str, int]]
    """The lines of the library that were at work: file and line."""


# --- running ---------------------------------------------------------------------------------------------------------

YOURS = "your_code.py"
X = (-1.0, 0.04, 0.05, 2.0)


@functools.cache
def outcome(case: Case) -> Outcome:
    """What a case has to say. AssertionError if nothing."""
    found = _run(case.code, case.missing, case.compiles)[0]
    assert found, f"{case.title!r} says nothing"
    assert len(found) == 1, [each.said for each in found]
    return found[0]


def run_instead(case: Case) -> tuple[list[Outcome], torch.Tensor | None]:
    """What the mended program says (nothing, one hopes), and the gradient of `x`."""
    found, x = _run(case.instead, case.missing, case.compiles)
    return found, x.grad


def _run(code: str, missing: str, compiles: bool) -> tuple[list[Outcome], torch.Tensor]:
    x = torch.tensor(X, requires_grad=True)
    names: dict[str, Any] = {"__name__": "__main__", "torch": torch, "F": F, "sll": sll, "x": x}
    linecache.cache[YOURS] = (len(code), None, code.splitlines(keepends=True), YOURS)
    found: list[Outcome] = []

    def show(message: Any, category: type[Warning], filename: str, lineno: int, *_: Any) -> None:
        frames = [frame for frame in _outwards(sys._getframe(1)) if frame.f_code.co_filename != warnings.__file__]
        if _ours(frames[0].f_code.co_filename):
            said = f"{Path(filename).name}:{lineno}: {category.__name__}: {message}"
            found.append(Outcome(_steady(said), _lines((f.f_code.co_filename, f.f_lineno) for f in frames)))

    with contextlib.ExitStack() as stack:
        stack.enter_context(warnings.catch_warnings())
        warnings.simplefilter("always")
        stack.enter_context(mock.patch.object(warnings, "showwarning", show))
        if missing:
            stack.enter_context(mock.patch.dict(sys.modules, {missing: None}))
        stack.callback(_leave_everything)
        if compiles:
            torch._dynamo.reset()
            stack.callback(torch._dynamo.reset)
        try:
            exec(compile(textwrap.dedent(code), YOURS, "exec"), names)
        except Exception as error:
            places = [(f.filename, f.lineno or 0) for f in traceback.extract_tb(error.__traceback__)]
            places += [(f.filename, f.lineno or 0) for f in getattr(error, "real_stack", None) or ()]
            found.append(Outcome(_steady(f"{type(error).__name__}: {_first_part(error)}"), _lines(places)))
    return found, x


def _outwards(frame: FrameType | None) -> Iterator[FrameType]:
    while frame is not None:
        yield frame
        frame = frame.f_back


def _leave_everything() -> None:
    for mode in reversed(torch.overrides._get_current_function_mode_stack()):
        mode.__exit__(None, None, None)
    while THREAD.patched:
        THREAD.patched.pop()


def _ours(filename: str) -> bool:
    return Path(filename).is_relative_to(SOURCE)


def _lines(places: Iterator[tuple[str, int]] | list[tuple[str, int]]) -> frozenset[tuple[str, int]]:
    return frozenset((str(Path(file).relative_to(SOURCE)), line) for file, line in places if _ours(file))


def _first_part(error: Exception) -> str:
    """What PyTorch adds is a page of its own, and another one in the next version."""
    said = str(error)
    if isinstance(error, torch.utils.checkpoint.CheckpointError):
        said = said.splitlines()[0]
    if type(error).__module__.startswith("torch._dynamo"):
        ours = re.search(r"sll: [^\n`]*", said)
        said = ours[0].strip() if ours else said.splitlines()[0]
    return said


def _steady(said: str) -> str:
    said = re.sub(r"0x[0-9a-f]{6,}", "0x...", said)
    assert str(SOURCE.parent) not in said, said
    return said


# --- what there is to say --------------------------------------------------------------------------------------------


class Site(NamedTuple):
    """A place in the source that says something."""

    file: str
    first: int
    last: int
    source: str

    def hit(self, by: Outcome) -> bool:
        return any(file == self.file and self.first <= line <= self.last for file, line in by.through)

    def __str__(self) -> str:
        return f"src/sll/{self.file}:{self.first}: {self.source}"


SAYING = {"warn", "warn_explicit", "graph_break", "lose", "lost"}
"""Functions that say something (`lose` and `lost` give the reason for which a gradient ends)."""


@functools.cache
def sites() -> list[Site]:
    return [
        site
        for path in sorted(SOURCE.rglob("*.py"))
        if path.name not in ELSEWHERE
        for site in sites_of(path.read_text(encoding="utf-8"), str(path.relative_to(SOURCE)))
    ]


def sites_of(text: str, file: str) -> list[Site]:
    """Raises and calls of `SAYING`. Not: what is raised again, abstract methods, the protocol of ``__getattr__``."""
    lines = text.splitlines()
    found: list[Site] = []

    def visit(node: ast.AST, function: str) -> None:
        if isinstance(node, (ast.FunctionDef, ast.AsyncFunctionDef)):
            function = node.name
        named = ""
        if isinstance(node, ast.Raise) and node.exc is not None and not isinstance(node.exc, ast.Name):
            named = _name(node.exc)
            if named == "AttributeError" and function == "__getattr__":
                named = ""
        elif isinstance(node, ast.Call) and _name(node) in SAYING:
            named = _name(node)
            if {named, function} <= {"lose", "lost"}:  # passes a reason on
                named = ""
        if named:
            assert isinstance(node, (ast.Raise, ast.Call)) and node.end_lineno is not None
            source = " ".join(line.strip() for line in lines[node.lineno - 1 : node.end_lineno])
            found.append(Site(file, node.lineno, node.end_lineno, source))
        for child in ast.iter_child_nodes(node):
            visit(child, function)

    visit(ast.parse(text), "")
    return found


def _name(node: ast.AST) -> str:
    """What is called, or raised."""
    called = node.func if isinstance(node, ast.Call) else node
    return called.attr if isinstance(called, ast.Attribute) else getattr(called, "id", "?")


# --- the page --------------------------------------------------------------------------------------------------------

HEAD = f"""\
# Errors and warnings

Every error and every warning of `sll` (the command line, the demo and the plots aside), with a program that triggers
it, what it means, and what to write instead. The page is written by
`python -m pytest tests/test_errors.py --errors docs/errors.md`, which runs all programs on it; the suite fails where it
is not up to date, and where something the library can say is missing here.

The programs start with

```python
import torch
import torch.nn.functional as F
import sll

x = torch.tensor({list(X)}, requires_grad=True)
```

so with `eps=0.1` two of the four elements are inside the band around 0. Messages are wrapped to fit the page.
"""


def pages() -> dict[str, str]:
    """The index, and a page for each group, by their paths in `docs`."""
    made = {"errors.md": f"{HEAD}\n{contents()}"}
    for group, about in GROUPS.items():
        parts = [f"# {group}\n", "[All errors and warnings](../errors.md)\n", *([f"{about}\n"] if about else [])]
        made[path_of(group)] = "\n".join([*parts, *(section(case) for case in CASES if case.group == group)])
    return made


def write(index: Path) -> None:
    for name, text in pages().items():
        (index.parent / name).parent.mkdir(exist_ok=True)
        (index.parent / name).write_text(text, encoding="utf-8")


def path_of(group: str) -> str:
    return f"errors/{anchor(group)}.md"


def contents() -> str:
    lines = []
    for group in GROUPS:
        titles = [case.title for case in CASES if case.group == group]
        lines += [f"\n## [{group}]({path_of(group)})\n", *(f"- [{t}]({path_of(group)}#{anchor(t)})" for t in titles)]
    return "\n".join(lines) + "\n"


def anchor(title: str) -> str:
    """As GitHub and MkDocs make them."""
    return re.sub(r"[^\w\- ]", "", title.lower()).replace(" ", "-")


def section(case: Case) -> str:
    said = "\n".join(
        textwrap.fill(line, 110, break_long_words=False, break_on_hyphens=False)
        for line in outcome(case).said.splitlines()
    )
    parts = [f"## {case.title}", f"```python\n{case.code.strip()}\n```", f"```text\n{said}\n```", case.says]
    if case.instead:
        parts.append(f"Instead:\n\n```python\n{case.instead.strip()}\n```")
    return "\n\n".join(parts) + "\n"


def sections(text: str) -> dict[str, str]:
    """Those of a page, by title."""
    parts = re.split(r"^(?=## )", text, flags=re.MULTILINE)[1:]
    return {part.splitlines()[0].removeprefix("## "): part.rstrip() + "\n" for part in parts}


# --- the cases -------------------------------------------------------------------------------------------------------

CASES: list[Case] = [
    # --- arguments of a region ---
    Case(
        ARGUMENTS,
        "The width is zero or negative",
        "region = sll.linearize(eps=0)",
        'A band needs a width. If you do not know which, `"auto"` finds one for each call; to see the plain '
        "program, leave the region away or use `sll.hard()`.",
        'region = sll.linearize("auto")',
    ),
    Case(
        ARGUMENTS,
        "The width is a tensor",
        "region = sll.linearize(eps=x.detach().std())",
        "The width is a number, or a policy that is asked at each call. It has no gradient of its own.",
        "region = sll.linearize(eps=x.detach().std().item())",
    ),
    Case(
        ARGUMENTS,
        "`sll.linearize` without parentheses as a decorator",
        """
@sll.linearize
def program(x):
    return torch.sign(x)
""",
        "Without parentheses the function is taken for the width. `@sll.enable` takes both forms.",
        """
@sll.enable
def program(x):
    return torch.sign(x)
""",
    ),
    Case(
        ARGUMENTS,
        "The width is a string from a configuration file",
        'region = sll.linearize(eps="0.1")',
        'The only string that is a width is `"auto"`.',
        'region = sll.linearize(eps=float("0.1"))',
    ),
    Case(
        ARGUMENTS,
        "A policy's class in the place of a policy",
        "region = sll.linearize(sll.Coverage)",
        "A policy is an object: `sll.Coverage(0.5)` holds half of the inputs in the band.",
        "region = sll.linearize(sll.Coverage(0.5))",
    ),
    Case(
        ARGUMENTS,
        "Widths for some ops, and none for the others",
        'region = sll.linearize({"round": 0.5})',
        "A mapping says what holds for the ops that it does not name. If they are not to be linearized at all, "
        "name those that are with `only=`.",
        'region = sll.linearize({"default": "auto", "round": 0.5})',
    ),
    Case(
        ARGUMENTS,
        "An op that does not exist",
        'region = sll.linearize(exclude=["argmux"])',
        "`only=`, `exclude=` and the keys of `eps=` take the names in `sll.OPS`.",
        'region = sll.linearize(exclude=["argmax"])',
    ),
    Case(
        ARGUMENTS,
        "An op that goes by another name",
        'region = sll.linearize(only=["argsort"])',
        "Functions that share their decision boundaries share a name: [Operators](../operators.md) has them all.",
        'region = sll.linearize(only=["sort"])',
    ),
    Case(
        ARGUMENTS,
        "A rule for a function that torch does not have",
        """
from sll._carry.outcomes.elementwise import elementwise
from sll._carry.outcomes.registry import register

register(elementwise, "erfcxx")
""",
        "`register` finds functions by their names in `torch`, `torch.Tensor`, `torch.nn.functional`, `torch.special` "
        "and `torch.linalg`. A rule for a function of your own takes the function.",
        """
from sll._carry.outcomes.elementwise import elementwise
from sll._carry.outcomes.registry import register

register(elementwise, "erfcx")
""",
    ),
    Case(
        ARGUMENTS,
        "A rule for a function that has one",
        """
from sll._carry.outcomes.elementwise import elementwise
from sll._carry.outcomes.registry import register

register(elementwise, "exp")
""",
        "A function has one rule. `docs/operators.md` names all functions that have one.",
        """
from sll._carry.outcomes.elementwise import elementwise
from sll._carry.outcomes.registry import register

register(elementwise, "i1e")
""",
    ),
    Case(
        ARGUMENTS,
        "A source under a name that is taken",
        """
from sll._carry.outcomes.boundaries import boundary_at
from sll._carry.outcomes.sources import Step, source

@source("sign", boundaries="0")
def sign(eps, input):
    return Step(boundary_at(input, 0.0, eps), -1.0, 1.0)
""",
        "Names in `sll.OPS` and functions of torch have one source each. Give an op of your own a name of its own.",
    ),
    Case(
        ARGUMENTS,
        "A source under the name of another one",
        """
from sll._carry.outcomes.sources import source

source("cast", torch.ops.aten.fix.default, boundaries="integers")(lambda eps, x: None)
""",
        "Casts are decisions of the region's own, so `cast` is taken. A source that was refused leaves nothing behind.",
    ),
    Case(
        ARGUMENTS,
        "One name in the place of a set in `see_through`",
        'region = sll.linearize(see_through="no_grad")',
        "`True` stands for both. For one of them write a set.",
        'region = sll.linearize(see_through={"no_grad"})',
    ),
    Case(
        ARGUMENTS,
        "An op that is wanted and excluded",
        'region = sll.linearize(only=["round", "gt"], exclude=["round"])',
        "It is one or the other. To linearize everything but `round`, leave `only=` out.",
        'region = sll.linearize(only=["gt"])',
    ),
    Case(
        ARGUMENTS,
        "One op name in the place of a collection",
        'region = sll.linearize(only="round")',
        "A string is a collection of letters, so it is refused rather than read as one.",
        'region = sll.linearize(only=["round"])',
    ),
    Case(
        ARGUMENTS,
        "A function in the place of an op name",
        "region = sll.linearize(only=[torch.round])",
        "Ops go by name, because one name stands for all spellings: `torch.round`, `x.round()`, `x.round_()`.",
        'region = sll.linearize(only=["round"])',
    ),
    Case(
        ARGUMENTS,
        "A forward mode or an `on_lost` that does not exist",
        'region = sll.linearize(0.1, forward="straight_through")',
        "The same check holds for `on_lost=`.",
        'region = sll.linearize(0.1, forward="straight-through")',
    ),
    Case(
        ARGUMENTS,
        "`trace=` a file",
        'region = sll.linearize(0.1, trace="trace.txt")',
        "Tracing is on or off. What it found is in `region.report()`, after backward.",
        """
with sll.linearize(0.1, trace=True) as region:
    torch.sign(x).sum().backward()
text = str(region.report())
""",
    ),
    # --- paths ---
    Case(
        PATHS,
        "`paths` is no number of runs",
        "region = sll.linearize(eps=0.1, paths=0)",
        "The first run counts: 1 runs a function once, 16 lets it run 15 times more.",
        "region = sll.linearize(eps=0.1, paths=16)",
    ),
    Case(
        PATHS,
        "`generator` is a seed",
        "region = sll.linearize(eps=0.1, paths=16, generator=7)",
        "It chooses which answers are run where `paths` is less than all. Without it the region has one of its own.",
        "region = sll.linearize(eps=0.1, paths=16, generator=torch.Generator().manual_seed(7))",
    ),
    Case(
        PATHS,
        "A `with` block with `paths`",
        """
with sll.linearize(eps=0.1, paths=16):
    y = 2 * x if x.mean() > 0.25 else x
""",
        "Python cannot run a block again. It can call a function again.",
        """
@sll.enable(eps=0.1, paths=16)
def program(x):
    return 2 * x if x.mean() > 0.25 else x

program(x).sum().backward()
""",
    ),
    Case(
        PATHS,
        "A generator with `paths`",
        """
@sll.enable(eps=0.1, paths=16)
def program(x):
    yield 2 * x if x.mean() > 0.25 else x
""",
        "What a generator has yielded cannot be taken back. Decorate what it calls.",
        """
@sll.enable(eps=0.1, paths=16)
def step(x):
    return 2 * x if x.mean() > 0.25 else x

def program(x):
    yield step(x)

next(program(x)).sum().backward()
""",
    ),
    Case(
        PATHS,
        "More paths than `paths`",
        """
@sll.enable(eps=0.5, forward="linear", paths=2)
def program(x):
    y = x.sum()
    for v in x:
        y = y * 2 if v > 0.1 else y + v
    return y

program(x)
""",
        '`forward="linear"` needs all paths. A narrower band opens fewer. `"hard"` runs once for each open answer.',
        """
@sll.enable(eps=0.5, forward="hard", paths=2)
def program(x):
    y = x.sum()
    for v in x:
        y = y * 2 if v > 0.1 else y + v
    return y

program(x).backward()
""",
    ),
    Case(
        PATHS,
        "The path not taken fails",
        """
@sll.enable(eps=0.5, forward="linear", paths=4)
def program(x):
    if x[1] > 0.1:
        raise ValueError("too large")
    return x.sum()

program(x)
""",
        '`forward="linear"` needs the result of every path that is open. With `"hard"` such a path is dropped, with a '
        "warning.",
        """
@sll.enable(eps=0.5, forward="hard", paths=4, on_lost="ignore")
def program(x):
    if x[1] > 0.1:
        raise ValueError("too large")
    return x.sum()

program(x).backward()
""",
    ),
    Case(
        PATHS,
        "Something that cannot be undone",
        """
@sll.enable(eps=0.5, forward="hard", paths=4)
def step(x):
    loss = x.sum() if x[1] > 0.1 else x.mean()
    loss.backward()

step(x)
""",
        "The function runs again from the same state. What a run has passed on to gradients cannot be taken back.",
        """
@sll.enable(eps=0.5, forward="hard", paths=4)
def loss(x):
    return x.sum() if x[1] > 0.1 else x.mean()

loss(x).backward()
""",
    ),
    Case(
        PATHS,
        "The function does not do the same again",
        """
class Counter:
    __slots__ = ("calls",)

counter = Counter()
counter.calls = 0

@sll.enable(eps=0.5, forward="hard", paths=4)
def program(x):
    counter.calls += 1
    if counter.calls > 1 and x[2] > 0.1:
        return x.mean()
    return x.sum() if x[1] > 0.1 else x.max()

program(x)
""",
        "Arguments, closures, globals and attributes are put back before a run. What is out of sight is not: an "
        "object with `__slots__` or a file.",
        """
class Counter:
    calls = 0

counter = Counter()

@sll.enable(eps=0.5, forward="hard", paths=4)
def program(x):
    counter.calls += 1
    if counter.calls > 1 and x[2] > 0.1:
        return x.mean()
    return x.sum() if x[1] > 0.1 else x.max()

program(x).backward()
""",
    ),
    Case(
        PATHS,
        "An object is returned",
        """
class Result:
    def __init__(self, loss):
        self.loss = loss

@sll.enable(eps=0.5, forward="hard", paths=4)
def program(x):
    return Result(x.sum() if x[1] > 0.1 else x.mean())

program(x)
""",
        "The results of several runs become one. That is known for tensors and numbers, in tuples, lists and dicts.",
        """
@sll.enable(eps=0.5, forward="hard", paths=4)
def program(x):
    return {"loss": x.sum() if x[1] > 0.1 else x.mean()}

program(x)["loss"].backward()
""",
    ),
    Case(
        PATHS,
        "A Python float is returned",
        """
@sll.enable(eps=0.5, forward="hard", paths=4)
def program(x):
    return 1.0 if x[1] > 0.1 else 2.0

program(x)
""",
        "A number of Python has no gradient. Integers and bools are those of the first run, without a warning.",
        """
@sll.enable(eps=0.5, forward="hard", paths=4)
def program(x):
    return x.new_tensor(1.0) if x[1] > 0.1 else x.new_tensor(2.0)

program(x).backward()
""",
    ),
    # --- lost: masks and counts ---
    Case(
        LOST,
        "A decorated function that returns a mask or an index",
        """
@sll.enable(eps=0.1, on_lost="error")
def gate(x):
    return x > 0

y = torch.where(gate(x), x, -x).sum()
""",
        "The region ends where the function does. Decorate the function that uses the mask, or return a float.",
        """
@sll.enable(eps=0.1, on_lost="error")
def gate(x):
    return (x > 0).float()

y = (gate(x) * x).sum()
""",
    ),
    Case(
        LOST,
        "A mask reached `.item()`",
        """
with sll.linearize(eps=0.1):
    accuracy = (x > 0).sum().item() / len(x)
""",
        "A Python number has no derivative. Keep the tensor. If the number is for a log only, compute it under "
        "`torch.no_grad()` or after the region.",
        """
with sll.linearize(eps=0.1):
    accuracy = (x > 0).sum() / len(x)
    accuracy.backward()
""",
    ),
    Case(
        LOST,
        "A decision reached `if`",
        """
with sll.linearize(eps=0.1):
    if x.mean() > 0.25:
        y = 2 * x
""",
        "Python takes one branch and never computes the other, so there is nothing to have a slope between. A function "
        "with [`paths`](../control-flow.md) runs the other as well.",
        """
@sll.enable(eps=0.1, paths=2)
def program(x):
    return 2 * x if x.mean() > 0.25 else x

program(x).sum().backward()
""",
    ),
    Case(
        LOST,
        "A decision under `torch.no_grad()` became a part of the loss",
        """
with sll.linearize(eps=0.1, forward="hard"):
    with torch.no_grad():
        hits = (x.sigmoid() > 0.5).float().mean()
    loss = x.square().sum() - hits
loss.backward()
""",
        "Metrics compute so. With [`see_through`](../see-through.md) the region looks through the block. A result that "
        "is only logged says nothing.",
        """
with sll.linearize(eps=0.1, forward="hard", see_through=True):
    with torch.no_grad():
        hits = (x.sigmoid() > 0.5).float().mean()
    loss = x.square().sum() - hits
loss.backward()
""",
    ),
    Case(
        LOST,
        "A decision was detached, and used",
        """
with sll.linearize(eps=0.1, forward="hard"):
    y = x * (x > 0).detach()
""",
        "Without a region `detach()` of a mask does nothing. Leave it away, or pass `see_through=True`.",
        """
with sll.linearize(eps=0.1, forward="hard", see_through=True):
    y = x * (x > 0).detach()
y.sum().backward()
""",
    ),
    Case(
        LOST,
        "A package asks for numbers, and its result has no other gradient",
        """
from torchmetrics.utilities.compute import normalize_logits_if_needed

with sll.linearize(eps=0.1, forward="hard"):
    p = normalize_logits_if_needed(x[1:3], "sigmoid")
""",
        "Here torchmetrics takes numbers outside of [0, 1] for logits. Normalize them yourself. Where the call gets a "
        "gradient all the same, this is a row of the report and no warning. So is an `if` that only raises.",
        """
from torchmetrics.utilities.compute import normalize_logits_if_needed

with sll.linearize(eps=0.1, forward="hard"):
    p = normalize_logits_if_needed(x[1:3].sigmoid(), None)
p.sum().backward()
""",
    ),
    Case(
        LOST,
        "The same as an error",
        """
with sll.linearize(eps=0.1, on_lost="error"):
    hits = (x > 0).tolist()
""",
        'With `on_lost="error"` the traceback and the message lead to the line where the gradient ends: the way '
        "to find it in code that is not yours.",
        """
with sll.linearize(eps=0.1, on_lost="ignore") as region:
    hits = (x > 0).tolist()
lost = region.report().lost  # the lines, all the same
""",
    ),
    Case(
        LOST,
        "A function without a rule",
        """
with sll.linearize(eps=0.1):
    y = torch.special.erfcx(torch.round(x + 0.5).long())
""",
        "[Operators](../operators.md) lists the functions that carry decisions on: `erfc` does, for one. Float "
        "functions of `.float()` always do.",
        """
with sll.linearize(eps=0.1):
    n = torch.round(x + 0.5).long()
    y = torch.exp(n * n) * torch.erfc(n)
    y.sum().backward()
""",
    ),
    Case(
        LOST,
        "Floor division, and other integer functions of a count",
        """
with sll.linearize(eps=0.5):
    triples = (x > 0).sum() // 3
""",
        "A count is known by its expectation. It can be added, multiplied and compared. Whatever else "
        "is to be done with it goes into a table. (As a float it would lie on the boundaries of `floor`.)",
        """
triples_of = torch.arange(5) // 3
with sll.linearize(eps=0.5):
    triples = (triples_of * ((x > 0).sum() == torch.arange(5))).sum()
    triples.float().backward()
""",
    ),
    Case(
        LOST,
        "A count among boundaries",
        """
with sll.linearize(eps=0.1):
    grade = torch.bucketize((x > 0).sum(), torch.tensor([1, 2, 3]))
""",
        "Of a float, `bucketize` and `searchsorted` have a derivative; of a count, comparisons have one.",
        """
with sll.linearize(eps=0.1):
    grade = ((x > 0).sum().unsqueeze(-1) > torch.tensor([1, 2, 3])).sum(-1)
    grade.float().backward()
""",
    ),
    Case(
        LOST,
        "A whole number that Python takes from a float",
        """
with sll.linearize(eps=0.1):
    steps = int(torch.round(x[0] + 0.45))
""",
        "`int()`, `float()`, `bool()` and `.item()` of a rounded float end a decision, as those of an integer do.",
        """
with sll.linearize(eps=0.1):
    steps = torch.round(x[0] + 0.45)
    steps.backward()
""",
    ),
    Case(
        LOST,
        "Equality of a sum of floats",
        """
with sll.linearize(eps=0.1):
    both = (x > 0).float().sum() == 2
""",
        'With `forward="linear"` a sum of floats shows the blend of its decisions. Count bools.',
        """
with sll.linearize(eps=0.1):
    both = (x > 0).sum() == 2
    both.float().backward()
""",
    ),
    Case(
        LOST,
        "The largest of many decided integers",
        """
with sll.linearize(eps=0.1):
    level = torch.round(x.repeat(4) + 0.5).long().max()
""",
        "Up to four are compared one after the other. Of more the largest is not known.",
        """
with sll.linearize(eps=0.1):
    level = torch.round(x.repeat(4) + 0.5).max()
    level.backward()
""",
    ),
    Case(
        LOST,
        "The largest of decided integers",
        """
with sll.linearize(eps=0.1):
    level = torch.round(x[:3] + 0.5).long().max(0).values
""",
        "Which of several integers is largest is decided a second time, and no window average sees that. Take the "
        "largest of the floats, then decide.",
        """
with sll.linearize(eps=0.1):
    level = torch.round(x[:3] + 0.5).max(0).values
    level.backward()
""",
    ),
    Case(
        LOST,
        "`argmax` of decided integers",
        """
with sll.linearize(eps=0.1):
    first = (x > 0).int().argmax()
""",
        "As above: choose among floats. The first element that a mask selects is one that no selected one precedes.",
        """
with sll.linearize(eps=0.1):
    mask = x > 0
    first = mask & (mask.cumsum(0) == 1)  # a one-hot of the first True
    (first * torch.arange(4.0)).sum().backward()
""",
    ),
    Case(
        LOST,
        "The bits of a mask",
        """
with sll.linearize(eps=0.1):
    flags = (x > 0).view(torch.uint8)
""",
        "`view(dtype)` reads memory as something else; `to(dtype)` converts, and has a derivative.",
        """
with sll.linearize(eps=0.1):
    flags = (x > 0).to(torch.uint8)
    flags.sum().float().backward()
""",
    ),
    Case(
        LOST,
        "A decided mask goes into `vmap` as an argument",
        """
with sll.linearize(eps=0.1):
    mask = x > 0
    y = torch.func.vmap(lambda m, v: torch.where(m, v, 0.0))(mask, x)
""",
        "`vmap` hands its function new tensors, which carry nothing. Close over the mask, make it inside, or pass "
        "a float.",
        """
with sll.linearize(eps=0.1):
    y = torch.func.vmap(lambda v: torch.where(v > 0, v, 0.0))(x)
    y.sum().backward()
""",
    ),
    Case(
        LOST,
        "`vmap` returns a decided mask",
        """
with sll.linearize(eps=0.1):
    mask = torch.func.vmap(lambda v: v > 0)(x)
    y = torch.where(mask, x, 0.0)
""",
        "`vmap` returns plain tensors. What the function makes floats of has its gradient.",
        """
with sll.linearize(eps=0.1):
    mask = torch.func.vmap(lambda v: (v > 0).float())(x)
    (mask * x).sum().backward()
""",
    ),
    Case(
        LOST,
        "`vmap` returns a mask that was made outside",
        """
with sll.linearize(eps=0.1):
    mask = x > 0
    masks = torch.func.vmap(lambda v: mask)(torch.ones(2))
    y = torch.where(masks, x, 0.0)
""",
        "`vmap` expands what its function did not make, and nobody is told. Floats keep their gradient.",
        """
with sll.linearize(eps=0.1):
    mask = x > 0
    masks = torch.func.vmap(lambda v: mask.float())(torch.ones(2))
    (masks * x).sum().backward()
""",
    ),
    Case(
        LOST,
        "A custom operator makes integers",
        """
from torch import library

@library.custom_op("your_library::steps", mutates_args=())
def steps(x: torch.Tensor) -> torch.Tensor:
    return torch.round(x * 10).long()

with sll.linearize(eps=0.1):
    n = steps(x)
""",
        "A region sees into operators that are made of others (`CompositeImplicitAutograd`), and into no others. "
        "[Adding a rule](../adding-a-rule.md) says how an operator gets one.",
        """
with sll.linearize(eps=0.1):
    n = torch.round(x * 10).long()
    n.float().sum().backward()
""",
    ),
    Case(
        LOST,
        "A large sparse tensor has decided places",
        """
with sll.linearize(eps=0.1):
    places = (x > 0).long() * 3_000_000
    table = torch.sparse_coo_tensor(places[None], torch.ones(4), (3_000_001,), check_invariants=False)
""",
        "Each number is followed to each place. That is done for up to 4 million pairs of both.",
        """
with sll.linearize(eps=0.1):
    places = (x > 0).long()
    table = torch.sparse_coo_tensor(places[None], torch.ones(4), (2,), check_invariants=False)
    (table.to_dense() @ torch.arange(2.0)).backward()
""",
    ),
    # --- lost: indices ---
    Case(
        INDICES,
        "What was read at a decided index is written to too late",
        """
with sll.linearize(eps=0.1):
    y = torch.zeros(4)
    row = y[x[:3].argmax()]
    y[0] = 1.0
    row += 1
""",
        "To PyTorch `row` is a view of `y`. A region writes it back, which is right only if nobody wrote to `y` since.",
        """
with sll.linearize(eps=0.1):
    y = torch.zeros(4)
    y[0] = 1.0
    y[x[:3].argmax()] += 1
y[1].backward()
""",
    ),
    Case(
        INDICES,
        "Learned boundaries, and an index that was chosen passes them",
        """
boundaries = torch.tensor([0.5, 1.5], requires_grad=True)
scores = torch.stack([x[1], x[2], x[0]])
with sll.linearize(eps=0.1):
    passed = torch.bucketize(scores.argmax(0), boundaries)
""",
        "What is chosen keeps its derivative, the boundaries get none. Write the comparisons out.",
        """
boundaries = torch.tensor([0.5, 1.5], requires_grad=True)
scores = torch.stack([x[1], x[2], x[0]])
with sll.linearize(eps=0.1):
    passed = (scores.argmax(0).unsqueeze(-1) > boundaries).sum(-1)
    passed.float().backward()
""",
    ),
    Case(
        INDICES,
        "A count is used as an index",
        """
table = torch.tensor([0.0, 1.0, 4.0, 9.0, 16.0])
with sll.linearize(eps=0.1):
    value = table[(x > 0).sum()]
""",
        "An index needs positions and their weights. A count is known by its expectation; where it equals a "
        "number, though, has a derivative.",
        """
table = torch.tensor([0.0, 1.0, 4.0, 9.0, 16.0])
with sll.linearize(eps=0.1):
    value = (table * ((x > 0).sum() == torch.arange(5))).sum()
    value.backward()
""",
    ),
    Case(
        INDICES,
        "An index is made of many bits",
        """
table = torch.arange(32.0)
with sll.linearize(eps=0.1):
    bits = x.repeat(2)[:5] > 0
    value = table[(bits * 2 ** torch.arange(5)).sum()]
""",
        "A count changes by one with each decision, so that its expectation says which integers it may be. A sum of "
        "weighted decisions does not. Over up to four bits `sum` keeps their joint outcomes. With more of them, fold "
        "the table instead.",
        """
table = torch.arange(32.0)
with sll.linearize(eps=0.1):
    bits = x.repeat(2)[:5] > 0
    for bit in bits.unbind():
        table = torch.where(bit, table[1::2], table[::2])
    table.sum().backward()
""",
    ),
    Case(
        INDICES,
        "A code of many bits is compared",
        """
with sll.linearize(eps=0.1):
    bits = x.repeat(2)[:5] > 0
    hit = (bits * 2 ** torch.arange(5)).sum() == 14
""",
        "As above. Compare the bits themselves.",
        """
with sll.linearize(eps=0.1):
    bits = x.repeat(2)[:5] > 0
    hit = (bits == torch.tensor([False, True, True, True, False])).all()
    hit.float().backward()
""",
    ),
    Case(
        INDICES,
        "Values are added up at counts",
        """
with sll.linearize(eps=0.1):
    total = torch.zeros(5).index_add(0, (x > 0).cumsum(0), torch.ones(4))
""",
        "As above, with the equality as weights.",
        """
with sll.linearize(eps=0.1):
    places = (x > 0).cumsum(0).unsqueeze(-1) == torch.arange(5)
    total = (places * torch.ones(4, 1)).sum(0)
    total[1].backward()
""",
    ),
    Case(
        INDICES,
        "A slice ends at a count",
        """
values = torch.arange(4.0)
with sll.linearize(eps=0.1):
    head = values[: (x > 0).sum()].sum()
""",
        "How long a slice is, is a Python number. A mask of positions has a derivative.",
        """
values = torch.arange(4.0)
with sll.linearize(eps=0.1):
    head = (values * (torch.arange(4) < (x > 0).sum())).sum()
    head.backward()
""",
    ),
    Case(
        INDICES,
        "A decision is used as an offset",
        """
values = torch.arange(4.0)
with sll.linearize(eps=0.1):
    pair = values.narrow(0, torch.round(x[1] + 0.5).long(), 2)
""",
        "As above: sizes and offsets are Python numbers.",
        """
values = torch.arange(4.0)
with sll.linearize(eps=0.1):
    start = torch.round(x[1] + 0.5).long()
    pair = values[start + torch.arange(2)]
    pair.sum().backward()
""",
    ),
    Case(
        INDICES,
        "A decision says how often rows are repeated",
        """
values = torch.arange(4.0)
with sll.linearize(eps=0.1, forward="hard"):
    longer = values.repeat_interleave((x > 0).long())
""",
        "How long the result is, is no number with a derivative. Products with a mask have one.",
        """
values = torch.arange(4.0)
with sll.linearize(eps=0.1, forward="hard"):
    total = (values * (x > 0).long()).sum()
    total.backward()
""",
    ),
    Case(
        INDICES,
        "A mask beside another index",
        """
table = torch.rand(4, 3)
with sll.linearize(eps=0.1):
    column = table[x > 0, 0]
""",
        "A mask is followed by itself: take the other index first.",
        """
table = torch.ones(4, 3)
with sll.linearize(eps=0.1):
    column = table[:, 0][x > 0]
    column.sum().backward()
""",
    ),
    Case(
        INDICES,
        "An index beside `True`",
        """
table = torch.arange(4.0)
with sll.linearize(eps=0.1):
    row = table[True, torch.round(x[1] + 0.5).long()]
""",
        "`True` as an index adds a dimension; `unsqueeze` does the same.",
        """
table = torch.arange(4.0)
with sll.linearize(eps=0.1):
    row = table[torch.round(x[1] + 0.5).long()].unsqueeze(0)
    row.sum().backward()
""",
    ),
    Case(
        INDICES,
        "A chosen index is padded",
        """
values = torch.arange(4.0)
with sll.linearize(eps=0.1):
    order = F.pad(x.argsort(), (1, 0))
    sorted_values = values[order]
""",
        "The weights of an index belong to the positions it was chosen from; a constant beside it has none.",
        """
values = torch.arange(4.0)
with sll.linearize(eps=0.1):
    sorted_values = F.pad(values[x.argsort()], (1, 0))
    sorted_values[2].backward()
""",
    ),
    Case(
        INDICES,
        "An index into a single number",
        """
value = torch.tensor(5.0)
with sll.linearize(eps=0.1):
    y = value.index_select(0, (x[1:2] < 0).long())
""",
        "A 0-dim tensor has one entry, so there is nothing that the index decides.",
        """
value = torch.tensor([5.0, 6.0])
with sll.linearize(eps=0.1):
    y = value.index_select(0, (x[1:2] < 0).long())
    y.sum().backward()
""",
    ),
    Case(
        INDICES,
        "`unique` of numbers that are equal",
        """
with sll.linearize(eps=0.1):
    values, places = torch.cat([x, x]).unique(return_inverse=True)
""",
        "The place of a number among distinct numbers is its rank. Equal numbers share one place, and no window "
        "average sees whether two numbers are equal. `sll.rank` counts all that are smaller, and equals share.",
        """
places = sll.rank(torch.cat([x, x]), eps=0.1)
places[1].backward()
""",
    ),
    Case(
        INDICES,
        "A write at two decided indices",
        """
board = torch.zeros(3, 3)
with sll.linearize(eps=0.1):
    row, column = (x[1:3] > 0).long()
    board[row, column] = 1.0
""",
        "A write knows one decided index. Two become one in a tensor that is flat, or a pair of masks.",
        """
board = torch.zeros(3, 3)
with sll.linearize(eps=0.1):
    row, column = (x[1:3] > 0).long()
    here = (row == torch.arange(3))[:, None] & (column == torch.arange(3))
    board = torch.where(here, 1.0, board)
    board[1, 1].backward()
""",
    ),
    Case(
        INDICES,
        "`scatter` with `reduce=`",
        """
with sll.linearize(eps=0.1):
    total = torch.zeros(3).scatter(0, (x > 0).long(), 1.0, reduce="add")
""",
        "PyTorch's `scatter` with `reduce=` has no derivative with respect to what is scattered either.",
        """
with sll.linearize(eps=0.1):
    total = torch.zeros(3).scatter_add(0, (x > 0).long(), torch.ones(4))
    total[1].backward()
""",
    ),
    Case(
        INDICES,
        "A write into a view that is not contiguous",
        """
seen = torch.zeros(1, 2, 3, 4, dtype=torch.bool).to(memory_format=torch.channels_last)
with sll.linearize(eps=0.1):
    first = seen[0, 0, 0]
    first |= x > 0
""",
        "A view of integers or bools passes decisions on to the whole if the whole lies in memory in order. A "
        "write through the tensor itself always does.",
        """
seen = torch.zeros(1, 2, 3, 4, dtype=torch.bool).to(memory_format=torch.channels_last)
with sll.linearize(eps=0.1):
    seen[0, 0, 0] = seen[0, 0, 0] | (x > 0)
    seen.sum().float().backward()
""",
    ),
    Case(
        INDICES,
        "`masked_scatter` of integers",
        """
with sll.linearize(eps=0.1):
    y = torch.zeros(4, dtype=torch.long).masked_scatter(x > 0, torch.arange(4))
""",
        "An element that the mask takes or leaves shifts everything behind it, which needs values between the "
        "integers.",
        """
with sll.linearize(eps=0.1):
    y = torch.zeros(4).masked_scatter(x > 0, torch.arange(4.0))
    y[3].backward()
""",
    ),
    Case(
        INDICES,
        "`masked_scatter` of nothing",
        """
with sll.linearize(eps=0.1):
    y = x.masked_scatter(x > 2.05, torch.zeros(0))
""",
        "The mask selects nothing, and is close to selecting something: what would stand there nobody has said.",
        """
with sll.linearize(eps=0.1):
    torch.where(x > 2.05, 0.0, x).sum().backward()
""",
    ),
    Case(
        LOST,
        "One `vmap` uses what another returns",
        """
with sll.linearize(eps=0.1):
    y = torch.vmap(lambda v: torch.vmap(lambda a: a > 0)(v).float())(x[None])
""",
        "What a mask carries ends with the transform. Make it a float inside.",
        """
with sll.linearize(eps=0.1):
    torch.vmap(lambda v: torch.vmap(lambda a: (a > 0).float())(v))(x[None]).sum().backward()
""",
    ),
    Case(
        LOST,
        "An operator of another library",
        """
from torch import library


@library.custom_op("demo::positive", mutates_args=())
def positive(x: torch.Tensor) -> torch.Tensor:
    return x > 0


with sll.linearize(eps=0.1):
    mask = positive(x)
""",
        "A region does not know where its decisions are. [A rule](../adding-a-rule.md) tells it.",
        """
with sll.linearize(eps=0.1):
    (x > 0).float().sum().backward()
""",
    ),
    Case(
        LOST,
        "Something else done with a sparse or quantized tensor",
        """
with sll.linearize(eps=0.1):
    places = (x > 0).long()[None]
    table = torch.sparse_coo_tensor(places, torch.ones(4), (2,), check_invariants=True)
    y = (2 * table).to_dense()
""",
        "What such a tensor carries is handed out by `to_dense()`, `dequantize()` and `int_repr()`.",
        """
with sll.linearize(eps=0.1):
    places = (x > 0).long()[None]
    table = torch.sparse_coo_tensor(places, torch.ones(4), (2,), check_invariants=True)
    (2 * table.to_dense())[1].backward()
""",
    ),
    Case(
        INDICES,
        "A sparse tensor with many places",
        """
with sll.linearize(eps=0.1):
    places = (x > 0).long()[None]
    table = torch.sparse_coo_tensor(places, torch.ones(4), (2**25,), check_invariants=True)
""",
        "In a smaller one each place has its gradient.",
        """
with sll.linearize(eps=0.1):
    places = (x > 0).long()[None]
    torch.sparse_coo_tensor(places, torch.ones(4), (2,), check_invariants=True).to_dense()[1].backward()
""",
    ),
    Case(
        LOST,
        "A mask in a custom autograd function",
        """
class Masked(torch.autograd.Function):
    @staticmethod
    def forward(ctx, x, mask):
        return x * mask

    @staticmethod
    def backward(ctx, g):
        return g, None

with sll.linearize(eps=0.1):
    y = Masked.apply(x, x > 0)
""",
        "Its backward has a gradient for floats only. Give it the mask as a float, with a gradient in `backward`, or "
        "write the function with torch functions.",
        """
with sll.linearize(eps=0.1):
    (x * (x > 0)).sum().backward()
""",
    ),
    Case(
        LOST,
        "How many numbers there are",
        """
with sll.linearize(eps=0.1):
    values, counts = torch.unique(torch.round(x + 0.5).long(), return_counts=True)
""",
        "A number that no element is any more leaves the result. Count all that there may be.",
        """
with sll.linearize(eps=0.1):
    F.one_hot(torch.round(x + 0.5).long() + 2, 6).sum(0).float().square().sum().backward()
""",
    ),
    # --- lost: one forward mode ---
    Case(
        LOCAL,
        "Whether a float that was made of a mask is equal to a number",
        """
with sll.linearize(0.1, forward="straight-through", on_lost="error"):
    y = (2 * (x > 0).float() - 1 == 1).float().sum()
""",
        "Ask the mask, or an integer that was made of it. (Counts, means and multiples of a mask are followed.)",
        """
with sll.linearize(0.1, forward="straight-through", on_lost="error"):
    y = (2 * (x > 0).long() - 1 == 1).float().sum()
y.backward()
""",
    ),
    Case(
        LOCAL,
        "The median of integers",
        """
with sll.linearize(eps=0.1, forward="straight-through"):
    middle = torch.round(x + 0.5).long().median()
""",
        "Take the median of the floats, and round that.",
        """
with sll.linearize(eps=0.1, forward="straight-through"):
    torch.round(x.median() + 0.5).backward()
""",
    ),
    Case(
        LOCAL,
        "Widths that are decided",
        """
with sll.linearize(eps=0.1, forward="straight-through"):
    area = torch.trapezoid(torch.arange(1.0, len(x) + 1), torch.round(x + 0.5).long())
""",
        "The rule follows what is summed. Write the sum with the widths as floats.",
        """
with sll.linearize(eps=0.1, forward="straight-through"):
    widths = torch.round(x + 0.5).diff()
    (widths * (torch.arange(1.0, len(x)) + 0.5)).sum().backward()
""",
    ),
    Case(
        LOCAL,
        "No rule for a function",
        """
with sll.linearize(eps=0.1, forward="straight-through"):
    y = torch.special.erfcx(torch.round(x + 0.5).long())
""",
        "Write it with functions that have one, such as `erfc`, or with float functions of `.float()`.",
        """
with sll.linearize(eps=0.1, forward="straight-through"):
    n = torch.round(x + 0.5).long()
    y = torch.exp(n * n) * torch.erfc(n)
    y.sum().backward()
""",
    ),
    Case(
        LOCAL,
        "The place of the largest integer",
        """
with sll.linearize(eps=0.1, forward="straight-through"):
    first = (x > 0).long().argmax()
""",
        "Which of several integers is largest is decided a second time. Choose among the floats.",
        """
table = torch.tensor([1.0, 4.0, 9.0, 16.0])
with sll.linearize(eps=0.1, forward="straight-through"):
    best = table[x[:3].argmax()]
    best.backward()
""",
    ),
    Case(
        LOCAL,
        "Boundaries and what passes them are both decided",
        """
boundaries = torch.tensor([0.5, 1.5], requires_grad=True)
scores = torch.stack([x[1], x[2], x[0]])
with sll.linearize(eps=0.1, forward="straight-through"):
    passed = torch.bucketize(scores.argmax(0), boundaries)
""",
        "The boundaries would need a gradient of their own. Let all positions pass them, and look the answer up.",
        """
boundaries = torch.tensor([0.5, 1.5], requires_grad=True)
scores = torch.stack([x[1], x[2], x[0]])
with sll.linearize(eps=0.1, forward="straight-through"):
    passed = torch.bucketize(torch.arange(3.0), boundaries)[scores.argmax(0)]
    passed.float().backward()
""",
    ),
    Case(
        LOCAL,
        "Equal numbers in `unique`",
        """
with sll.linearize(eps=0.1, forward="straight-through"):
    levels, place = torch.unique(x.repeat(2), return_inverse=True)
""",
        "Equal numbers have no places of their own. `sll.rank` gives them one.",
        """
place = sll.rank(x.repeat(2), eps=0.1, forward="hard")
(place * torch.arange(8)).sum().backward()
""",
    ),
    Case(
        LOCAL,
        "`x[mask].max()`",
        """
with sll.linearize(eps=0.1, forward="straight-through"):
    largest = x[x > 0].max()
""",
        'A selection has no place for what was left out. Fill it in, or use `forward="hard"`.',
        """
with sll.linearize(eps=0.1, forward="straight-through"):
    largest = torch.where(x > 0, x, -9.0).max()
    largest.backward()
""",
    ),
    Case(
        LOCAL,
        "`x[flag, i]`",
        """
with sll.linearize(eps=0.1, forward="straight-through"):
    taken = (2 * x)[x[1] > 0, 3]
""",
        "Whether anything is taken has no derivative. Multiply by the flag.",
        """
with sll.linearize(eps=0.1, forward="straight-through"):
    taken = (2 * x)[3] * (x[1] > 0)
    taken.sum().backward()
""",
    ),
    Case(
        LOCAL,
        "A write where a flag and an index say so",
        """
with sll.linearize(eps=0.1, forward="straight-through"):
    y = torch.zeros(4)
    y[x[1] > 0, 3] = 1.0
""",
        "`torch.where` says the same, and has a derivative.",
        """
with sll.linearize(eps=0.1, forward="straight-through"):
    y = torch.where((x[1] > 0) & (torch.arange(4) == 3), 1.0, torch.zeros(4))
    y.sum().backward()
""",
    ),
    Case(
        LOCAL,
        "`scatter` that adds",
        """
with sll.linearize(eps=0.1, forward="straight-through"):
    total = torch.zeros(3).scatter(0, (x > 0).long(), 1.0, reduce="add")
""",
        "PyTorch's `scatter` with `reduce=` has no derivative. `scatter_add` has one.",
        """
with sll.linearize(eps=0.1, forward="straight-through"):
    total = torch.zeros(3).scatter_add(0, (x > 0).long(), torch.ones(4))
    total[1].backward()
""",
    ),
    Case(
        LOCAL,
        "A slice that a count ends",
        """
values = torch.arange(4.0)
with sll.linearize(eps=0.1, forward="straight-through"):
    head = values[: (x > 0).sum()].sum()
""",
        "How long a slice is, is a Python number. A mask of positions has a derivative.",
        """
values = torch.arange(4.0)
with sll.linearize(eps=0.1, forward="straight-through"):
    head = (values * (torch.arange(4) < (x > 0).sum())).sum()
    head.backward()
""",
    ),
    Case(
        LOCAL,
        "The bits of an integer",
        """
with sll.linearize(eps=0.1, forward="straight-through"):
    parts = (x > 0).long().view(torch.int32)
""",
        "A conversion has a derivative, a look at the bits has none.",
        """
with sll.linearize(eps=0.1, forward="straight-through"):
    parts = (x > 0).long().to(torch.int32)
    parts.sum().float().backward()
""",
    ),
    Case(
        LOCAL,
        "A write into a view of what does not lie in order",
        """
seen = torch.zeros(1, 2, 3, 4, dtype=torch.bool).to(memory_format=torch.channels_last)
with sll.linearize(eps=0.1, forward="straight-through"):
    first = seen[0, 0, 0]
    first |= x > 0
""",
        "Make it contiguous first, or write through the tensor itself (`seen[0, 0, 0] = x > 0`).",
        """
seen = torch.zeros(1, 2, 3, 4, dtype=torch.bool).to(memory_format=torch.channels_last)
with sll.linearize(eps=0.1, forward="straight-through"):
    seen = seen.contiguous()
    first = seen[0, 0, 0]
    first |= x > 0
    seen.sum().float().backward()
""",
    ),
    Case(
        LOCAL,
        "`masked_scatter` among integers",
        """
with sll.linearize(eps=0.1, forward="straight-through"):
    y = torch.zeros(4, dtype=torch.long).masked_scatter(x > 0, torch.arange(4))
""",
        "Scatter floats, and convert afterwards.",
        """
with sll.linearize(eps=0.1, forward="straight-through"):
    y = torch.zeros(4).masked_scatter(x > 0, torch.arange(4.0))
    y[3].backward()
""",
    ),
    Case(
        LOCAL,
        "Two regions with different modes meet in one call",
        """
with sll.linearize(eps=0.1):
    outer = x > 0
    with sll.linearize(eps=0.1, forward="straight-through"):
        inner = x > 0.02
        both = outer & inner
""",
        "What was decided outside is carried on as it was there, but not together with what was decided inside. Take "
        "one mode for both.",
        """
with sll.linearize(eps=0.1, forward="straight-through"):
    outer = x > 0
    with sll.linearize(eps=0.2, forward="straight-through"):
        inner = x > 0.02
        both = outer & inner
        both.sum().float().backward()
""",
    ),
    Case(
        FLIPS,
        "A function that writes, and has no rule",
        """
with sll.linearize(eps=0.1, forward="hard"):
    levels = (x > 0).long().unsqueeze(0)
    levels.addr_(torch.tensor([1]), torch.arange(len(x)))
""",
        "It cannot run again in each flip, because it writes. The same is said where too many decisions are open.",
        """
with sll.linearize(eps=0.1, forward="hard"):
    levels = (x > 0).long().unsqueeze(0)
    levels += torch.outer(torch.tensor([1]), torch.arange(len(x)))
    levels.sum().float().backward()
""",
    ),
    Case(
        FLIPS,
        "A function that returns no tensor",
        """
with sll.linearize(eps=0.1, forward="hard"):
    same = torch.equal(x > 0, x > 1)
""",
        "A Python bool has no derivative. Compare element by element.",
        """
with sll.linearize(eps=0.1, forward="hard"):
    same = ((x > 0) == (x > 1)).sum()
    same.float().backward()
""",
    ),
    Case(
        FLIPS,
        "A write into a view of a tensor that is not contiguous",
        """
seen = torch.zeros(1, 2, 3, 4, dtype=torch.bool).to(memory_format=torch.channels_last)
with sll.linearize(eps=0.1, forward="hard"):
    first = seen[0, 0, 0]
    first |= x > 0
""",
        "Write through the tensor itself.",
        """
seen = torch.zeros(1, 2, 3, 4, dtype=torch.bool).to(memory_format=torch.channels_last)
with sll.linearize(eps=0.1, forward="hard"):
    seen[0, 0, 0] = seen[0, 0, 0] | (x > 0)
    seen.sum().float().backward()
""",
    ),
    Case(
        TORCH,
        "`sll.compile` with an option of eager mode",
        """
compiled = sll.compile(torch.sign, eps=0.1, trace=True)
""",
        "A trace reads numbers, and paths run a function again; a graph has neither. Use a region in eager mode.",
        """
region = sll.linearize(eps=0.1, trace=True)
with region:
    torch.sign(x).sum().backward()
""",
    ),
    Case(
        TORCH,
        '`sll.compile` with `forward="hard"`',
        """
compiled = sll.compile(torch.sign, eps=0.1, forward="hard")
""",
        "How many flips are open is data. Use a region in eager mode.",
        """
run = sll.linearize(eps=0.1, forward="hard")(torch.sign)
run(x).sum().backward()
""",
    ),
    Case(
        TORCH,
        "`sll.compile` of something else",
        """
compiled = sll.compile(0.1)
""",
        "The function comes first. As a decorator it takes its options by name.",
        """
@sll.compile(eps=0.1, backend="aot_eager")
def program(x):
    return torch.sign(x)
""",
    ),
    Case(
        TORCH,
        "`sll.compile`, `fullgraph=True`, and what needs numbers",
        """
@sll.compile(eps=0.1, forward="straight-through", backend="aot_eager", fullgraph=True)
def program(x):
    return torch.mode(x).indices

y = program(x)
""",
        "Whether two numbers are equal is data. Leave `fullgraph=True` away.",
        """
@sll.compile(eps=0.1, forward="straight-through", backend="aot_eager")
def program(x):
    return torch.mode(x).indices

program(x)
""",
        compiles=True,
    ),
    Case(
        TORCH,
        '`sll.compile` with `on_lost="error"`',
        """
@sll.compile(eps=0.1, forward="straight-through", backend="aot_eager", on_lost="error")
def program(x):
    return torch.vander((x > 0).int(), 2)[:, 0] * x

y = program(x)
""",
        "It is said when the function is compiled, whether an element is in its band or not. Pass floats.",
        """
@sll.compile(eps=0.1, forward="straight-through", backend="aot_eager", on_lost="error")
def program(x):
    return (x > 0).to(x.dtype) * x

program(x).sum().backward()
""",
        compiles=True,
    ),
    Case(
        TORCH,
        "`sll.compile`: an index that crosses a graph break",
        """
@sll.compile(eps=0.1, forward="straight-through", backend="aot_eager")
def program(x):
    i = x.argmax()
    torch._dynamo.graph_break()
    return torch.arange(10.0)[i] * x

y = program(x)
""",
        "A chosen index stands for many weights. No tensor carries them out of the graph. Look up before the break.",
        """
@sll.compile(eps=0.1, forward="straight-through", backend="aot_eager")
def program(x):
    found = torch.arange(10.0)[x.argmax()]
    torch._dynamo.graph_break()
    return found * x

program(x).sum().backward()
""",
        compiles=True,
    ),
    Case(
        TORCH,
        '`forward="hard"` in compiled code with `fullgraph=True`',
        """
@torch.compile(backend="aot_eager", fullgraph=True)
def program(x):
    return torch.where(x > 0, x, 2.0)

with sll.linearize(eps=0.1, forward="hard"):
    y = program(x)
""",
        "How many decisions are open is data, and compiled code does not carry it. Leave `fullgraph=True` away, or "
        "take another mode.",
        """
@torch.compile(backend="aot_eager")
def program(x):
    return torch.where(x > 0, x, 2.0)

with sll.linearize(eps=0.1, forward="hard"):
    y = program(x)
y.sum().backward()
""",
        compiles=True,
    ),
    Case(
        LOCAL,
        "`masked_scatter` from nothing",
        """
with sll.linearize(eps=0.1, forward="straight-through"):
    y = x.masked_scatter(x > 2.05, torch.zeros(0))
""",
        "The mask is close to selecting something. What would stand there nobody has said.",
        """
with sll.linearize(eps=0.1, forward="straight-through"):
    torch.where(x > 2.05, 0.0, x).sum().backward()
""",
    ),
    Case(
        FLIPS,
        "A call that fails with the decision the other way",
        """
with sll.linearize(eps=0.1, forward="hard"):
    y = x[x > 0] + torch.tensor([1.0, 2.0, 3.0])
""",
        "With one element fewer the shapes do not fit. Masks of the whole always fit.",
        """
with sll.linearize(eps=0.1, forward="hard"):
    y = (x + torch.tensor([0.0, 1.0, 2.0, 3.0])) * (x > 0)
    y.sum().backward()
""",
    ),
    Case(
        FLIPS,
        "How many elements `x[mask]` has",
        """
with sll.linearize(eps=0.1, forward="hard"):
    chosen = x[x > 0]
    mean = chosen.sum() / len(chosen)
""",
        "A length is a Python number. `mean` runs again in each flip.",
        """
with sll.linearize(eps=0.1, forward="hard"):
    mean = x[x > 0].mean()
    mean.backward()
""",
    ),
    Case(
        FLIPS,
        "A sorter that orders something else",
        """
with sll.linearize(eps=0.1, forward="hard"):
    order = (-x).argsort()
    place = torch.searchsorted(x, torch.tensor([0.045]), sorter=order)
""",
        "The boundaries move with their own order. What another order does to them is not known.",
        """
with sll.linearize(eps=0.1, forward="hard"):
    order = x.argsort()
    place = torch.searchsorted(x, torch.tensor([0.045]), sorter=order)
    place.float().sum().backward()
""",
    ),
    Case(
        FLIPS,
        "An operator that writes to a float of a decision",
        """
with sll.linearize(eps=0.1, forward="hard"):
    y = torch.sign(x)
    torch.ops.aten.polygamma_(y, 1)
""",
        "What is written there in each flip is not known. Functions of `torch` do know.",
        """
with sll.linearize(eps=0.1, forward="hard"):
    y = torch.relu(torch.sign(x))
    y.sum().backward()
""",
    ),
    Case(
        LOCAL,
        "A mask was written to where the region does not see it",
        """
with sll.linearize(eps=0.1, forward="straight-through"):
    mask = x > 0
    with torch._C.DisableTorchFunction():
        mask.logical_not_()
    y = mask.float()
""",
        "What the mask stands for is not known any more. A clone that is written to leaves it alone.",
        """
with sll.linearize(eps=0.1, forward="straight-through"):
    mask = x > 0
    other = mask.clone()
    with torch._C.DisableTorchFunction():
        other.logical_not_()
    mask.float().sum().backward()
""",
    ),
    # --- lost: selections ---
    Case(
        SELECTED,
        "`len(x[mask])`",
        """
with sll.linearize(eps=0.1):
    chosen = x[x > 0]
    mean = chosen.sum() / len(chosen)
""",
        "The number of selected elements is a Python number. `mask.sum()` is the same with a derivative.",
        """
with sll.linearize(eps=0.1):
    mask = x > 0
    mean = x[mask].sum() / mask.sum()
    mean.backward()
""",
    ),
    Case(
        SELECTED,
        "`x[mask].max()` and `x[mask].std()`",
        """
with sll.linearize(eps=0.1):
    smallest = x[x > 0].min()
""",
        "Functions of all selected elements together, other than `sum` and `mean`, need to know which they are.",
        """
with sll.linearize(eps=0.1):
    smallest = torch.where(x > 0, x, 100.0).min()
    smallest.backward()
""",
    ),
    Case(
        SELECTED,
        "`x[mask]` meets a tensor that was selected otherwise",
        """
weights = torch.tensor([0.5, 0.3, 0.2])
with sll.linearize(eps=0.1):
    y = (x[x > 0] * weights).sum()
""",
        "There are three weights, and none for the element that would be selected on the other side of its "
        "boundary. Weights for all elements, selected with the same mask, have one.",
        """
weights = torch.tensor([0.1, 0.5, 0.3, 0.2])
with sll.linearize(eps=0.1):
    mask = x > 0
    y = (x[mask] * weights[mask]).sum()
    y.backward()
""",
    ),
    Case(
        SELECTED,
        "`x[mask]` meets a row of as many numbers",
        """
weights = torch.tensor([[0.5, 0.3]])
with sll.linearize(eps=0.1):
    y = (x[x > 0.047] * weights).sum()
""",
        "As above. A dimension of size 1 in front hides it until the function is tried on all elements that may "
        "be selected.",
        """
weights = torch.tensor([0.1, 0.2, 0.5, 0.3])
with sll.linearize(eps=0.1):
    mask = x > 0.047
    y = (x[mask] * weights[mask]).sum()
    y.backward()
""",
    ),
    Case(
        SELECTED,
        "The mask protects a loss from what it does not take",
        """
with sll.linearize(eps=0.1):
    p = x - 0.047
    valid = (p > 0) & (p < 1)
    loss = F.binary_cross_entropy(p[valid], torch.ones(4)[valid])
""",
        "An element in the band that is not selected would be on the other side of its boundary, so the loss is "
        "tried on it as well. Here it is no probability.",
        """
with sll.linearize(eps=0.1):
    p = x - 0.047
    valid = (p > 0) & (p < 1)
    loss = F.binary_cross_entropy(p.clamp(0.001, 0.999)[valid], torch.ones(4)[valid])
    loss.backward()
""",
    ),
    Case(
        SELECTED,
        'A loss of selected elements with `reduction="none"`',
        """
target = torch.ones(4)
with sll.linearize(eps=0.1):
    mask = x > 0
    worst = F.mse_loss(x[mask], target[mask], reduction="none")
""",
        "Losses that end in a mean or a sum are followed. One loss for each selected element is as long as the "
        "selection.",
        """
target = torch.ones(4)
with sll.linearize(eps=0.1):
    mask = x > 0
    each = F.mse_loss(x, target, reduction="none")[mask]
    each.mean().backward()
""",
    ),
    Case(
        SELECTED,
        "A loss of selected elements with weights",
        """
target = torch.ones(4)
with sll.linearize(eps=0.1):
    mask = x > 0
    loss = F.binary_cross_entropy_with_logits(x[mask], target[mask], weight=torch.ones(4)[mask])
""",
        "With `weight=`, or with the old `size_average=` and `reduce=`, take the loss of everything, then the mask.",
        """
target = torch.ones(4)
with sll.linearize(eps=0.1):
    mask = x > 0
    each = F.binary_cross_entropy_with_logits(x, target, weight=torch.ones(4), reduction="none")
    each[mask].mean().backward()
""",
    ),
    # --- regions, generators and tasks ---
    Case(
        THREADS,
        "A region decorates a module whose `forward` was replaced",
        """
net = torch.nn.Linear(4, 1)
net.forward = torch.round
sll.linearize("auto")(net)
""",
        "Copies of a module in a region call the forward of its class. Decorate the function that you put there.",
        """
net = torch.nn.Linear(4, 1)
net.forward = sll.linearize("auto")(torch.round)
net(x).sum().backward()
""",
    ),
    Case(
        THREADS,
        "A region decorates a class",
        """
@sll.linearize(eps=0.1)
class Net(torch.nn.Module):
    def forward(self, x):
        return torch.sign(x)
""",
        "Which of its methods is to run in the region? Decorate that.",
        """
class Net(torch.nn.Module):
    @sll.linearize(eps=0.1)
    def forward(self, x):
        return torch.sign(x)
""",
    ),
    Case(
        THREADS,
        "A region is called with a tensor",
        "y = sll.linearize(eps=0.1)(x)",
        "A region is a context manager and a decorator. For one function of one tensor there are `sll.sign(x)`, "
        "`sll.round(x)` and so on.",
        """
with sll.linearize(eps=0.1):
    y = torch.sign(x)
""",
    ),
    Case(
        THREADS,
        "`unpatch` without `patch`",
        "sll.unpatch()",
        "`patch` switches a region on for the thread that calls it; `unpatch` switches it off, once.",
        """
sll.patch(eps=0.1)
sll.unpatch()
""",
    ),
    Case(
        THREADS,
        "`unpatch` inside another region",
        """
sll.patch(eps=0.1)
with sll.linearize(eps=0.5):
    sll.unpatch()
""",
        "Regions end in the reverse order of their beginning.",
        """
sll.patch(eps=0.1)
with sll.linearize(eps=0.5):
    pass
sll.unpatch()
""",
    ),
    Case(
        THREADS,
        "`patch` inside a region that ends first",
        """
with sll.linearize(eps=0.5):
    sll.patch(eps=0.1)
""",
        "What was patched is off when the region around it ends. Two asyncio tasks with a `with` block around an "
        "`await` get this message too: a block does not see that its task is suspended.",
        """
import asyncio

@sll.enable(eps=0.1)
async def step():
    await asyncio.sleep(0)

asyncio.run(step())
""",
    ),
    Case(
        THREADS,
        "A generator suspends a region",
        """
def batches():
    with sll.linearize(eps=0.1):
        yield x

steps = batches()
next(steps)
with torch.device("cpu"):
    next(steps, None)
""",
        "The region is entered when the generator starts and left inside a block (here `with torch.device`) that "
        "was entered in the meantime. A decorated generator leaves its region at every `yield`.",
        """
@sll.enable(eps=0.1)
def batches():
    yield x

steps = batches()
next(steps)
with torch.device("cpu"):
    next(steps, None)
""",
    ),
    # --- torch.compile, torch.func, checkpoints ---
    Case(
        TORCH,
        "`checkpoint` with `use_reentrant=True` in a region",
        """
from torch.utils.checkpoint import checkpoint

with sll.linearize(eps=0.1):
    y = checkpoint(torch.sign, x, use_reentrant=True)
""",
        "The reentrant variant runs the function first without gradients, and again during backward, when the "
        "region is over.",
        """
from torch.utils.checkpoint import checkpoint

with sll.linearize(eps=0.1):
    y = checkpoint(torch.sign, x, use_reentrant=False)
y.sum().backward()
""",
    ),
    Case(
        TORCH,
        "`checkpoint` with `use_reentrant=True` of a decorated function",
        """
from torch.utils.checkpoint import checkpoint

@sll.enable(eps=0.1)
def block(x):
    return torch.sign(x)

y = checkpoint(block, x, use_reentrant=True)
""",
        "The function enters its region both times, but the first time without gradients, and there a region "
        "shows the plain program: values of the ramp would be missing.",
        """
from torch.utils.checkpoint import checkpoint

@sll.enable(eps=0.1, forward="hard")
def block(x):
    return torch.sign(x)

y = checkpoint(block, x, use_reentrant=True)
y.sum().backward()
""",
    ),
    Case(
        TORCH,
        "`fullgraph=True`, and a compiled function is checkpointed in a region",
        """
from torch.utils.checkpoint import checkpoint

block = torch.compile(torch.sign, backend="aot_eager", fullgraph=True)
with sll.linearize(eps=0.1):
    y = checkpoint(block, x, use_reentrant=False)
""",
        "The second run of a checkpoint has to find the region again, and from inside compiled code nothing is "
        "seen of the checkpoint. Without `fullgraph=True` the graph breaks there.",
        """
from torch.utils.checkpoint import checkpoint

block = torch.compile(torch.sign, backend="aot_eager")
with sll.linearize(eps=0.1):
    y = checkpoint(block, x, use_reentrant=False)
y.sum().backward()
""",
        compiles=True,
    ),
    Case(
        TORCH,
        "`fullgraph=True`, and `torch.func` in a region",
        """
@torch.compile(backend="eager", fullgraph=True)
def program(x):
    return torch.func.grad(lambda v: torch.sign(v).sum())(x)

with sll.linearize(eps=0.1):
    g = program(x)
""",
        "Eager mode takes a region into transforms. A transform of a compiled function, `torch.func.grad(compiled)`, "
        "needs no break.",
        compiles=True,
    ),
    Case(
        TORCH,
        "`fullgraph=True`, and `trace=True`",
        """
@torch.compile(backend="eager", fullgraph=True)
def program(x):
    return torch.sign(x).sum()

with sll.linearize(eps=0.1, trace=True):
    y = program(x)
""",
        "Tracing reads numbers at every decision. Trace the program before it is compiled.",
        """
def program(x):
    return torch.sign(x).sum()

with sll.linearize(eps=0.1, trace=True):
    y = program(x)
y.backward()
""",
        compiles=True,
    ),
    # --- policies ---
    Case(
        POLICIES,
        "A share in percent",
        "region = sll.linearize(sll.Coverage(50))",
        "`Coverage` takes the share of the inputs that the band holds, above 0 and up to 1.",
        "region = sll.linearize(sll.Coverage(0.5))",
    ),
    Case(
        POLICIES,
        '`"auto"` that is made anew at each step',
        """
for step in range(4):
    with sll.linearize("auto"):
        torch.sign(x + step).sum().backward()
""",
        "The widths are kept in the region. Make it once, before the loop.",
        """
region = sll.linearize("auto")
for step in range(4):
    with region:
        torch.sign(x + step).sum().backward()
""",
    ),
    Case(
        POLICIES,
        "Steps that are no number",
        "eps = sll.Auto(steps=2.5)",
        "`steps` counts the training steps that are measured.",
        "eps = sll.Auto(steps=10)",
    ),
    Case(
        POLICIES,
        "A negative number of steps",
        "eps = sll.Auto(steps=-1)",
        "With `steps=0` each call is measured, and nothing remembered.",
        "eps = sll.Auto(steps=0)",
    ),
    Case(
        POLICIES,
        'The state of something else, loaded into `"auto"`',
        """
eps = sll.Auto()
eps.load_state_dict({"epoch": 3, "eps": {"kept": {}, "measured": {}}})
""",
        "Load the part of the checkpoint that `eps.state_dict()` returned.",
        """
eps = sll.Auto()
eps.load_state_dict({"epoch": 3, "eps": {"kept": {}, "measured": {}}}["eps"])
""",
    ),
    Case(
        POLICIES,
        "The state of something else, loaded into a region",
        """
region = sll.linearize("auto")
state = region.state_dict()
region.load_state_dict({"epoch": 3, "region": state})
""",
        "Load the part of the checkpoint that `region.state_dict()` returned.",
        """
region = sll.linearize("auto")
state = region.state_dict()
region.load_state_dict({"epoch": 3, "region": state}["region"])
""",
    ),
    Case(
        POLICIES,
        'Annealing from `"auto"`',
        'eps = sll.Anneal("auto", 0.01, steps=1000)',
        "Between a policy and a number there is nothing. Anneal a width, or the share of a `sll.Coverage`.",
        "eps = sll.Anneal(1.0, 0.01, steps=1000)",
    ),
    Case(
        POLICIES,
        "Annealing from a share to a width",
        "eps = sll.Anneal(sll.Coverage(0.5), 0.01, steps=1000)",
        "Anneal from a width to a width, or from a share to a share.",
        "eps = sll.Anneal(sll.Coverage(0.5), sll.Coverage(0.01), steps=1000)",
    ),
    Case(
        POLICIES,
        "A number of steps that is not whole",
        "eps = sll.Anneal(1.0, 0.01, steps=1e3)",
        "`steps` counts the calls of `eps.step()`.",
        "eps = sll.Anneal(1.0, 0.01, steps=1000)",
    ),
    Case(
        POLICIES,
        "No steps",
        "eps = sll.Anneal(1.0, 0.01, steps=0)",
        "Annealing takes at least one call of `eps.step()`.",
        "eps = sll.Anneal(1.0, 0.01, steps=1)",
    ),
    Case(
        POLICIES,
        "A kind of annealing that does not exist",
        'eps = sll.Anneal(1.0, 0.01, steps=1000, kind="exponential")',
        'Equal factors, which others call exponential, are `"geometric"` here.',
        'eps = sll.Anneal(1.0, 0.01, steps=1000, kind="geometric")',
    ),
    Case(
        POLICIES,
        "The state of something else",
        """
eps = sll.Anneal(1.0, 0.01, steps=1000)
eps.load_state_dict({"epoch": 3, "eps": {"done": 300}})
""",
        "Load the part of the checkpoint that `eps.state_dict()` returned.",
        """
eps = sll.Anneal(1.0, 0.01, steps=1000)
eps.load_state_dict({"epoch": 3, "eps": {"done": 300}}["eps"])
""",
    ),
    Case(
        POLICIES,
        "A state that was edited",
        """
eps = sll.Anneal(1.0, 0.01, steps=1000)
eps.load_state_dict({"done": 0.3})
""",
        '`"done"` is the number of steps done, not their share.',
        """
eps = sll.Anneal(1.0, 0.01, steps=1000)
eps.load_state_dict({"done": 300})
""",
    ),
    Case(
        POLICIES,
        "A policy returns one width for each input",
        """
class Spread:
    def half_width(self, call):
        return 2 * call.distances

with sll.linearize(Spread()):
    torch.sign(x).sum().backward()
""",
        "A call has one half-width. `call.distances` is a sorted sample of the distances to choose it by.",
        """
class Spread:
    def half_width(self, call):
        return 2 * call.distances.median()

with sll.linearize(Spread()):
    torch.sign(x).sum().backward()
""",
    ),
    Case(
        POLICIES,
        "A policy returns infinity, NaN or zero",
        """
class Widest:
    def half_width(self, call):
        return call.distances.max()

with sll.linearize(Widest()):
    torch.sign(x * torch.tensor([1, 0, 1, 1])).sum().backward()
""",
        "Inputs exactly on a boundary, and those that are not finite, stand at the end of `call.distances` as `inf`.",
        """
class Widest:
    def half_width(self, call):
        d = call.distances[call.distances.isfinite()]
        return d.max() if len(d) else 1.0

with sll.linearize(Widest()):
    torch.sign(x * torch.tensor([1, 0, 1, 1])).sum().backward()
""",
    ),
    # --- explicit functions ---
    Case(
        FUNCTIONS,
        "A number in the place of a tensor",
        "y = sll.sign(0.5)",
        "The explicit functions take tensors, as torch's do.",
        "y = sll.sign(torch.tensor(0.5))",
    ),
    Case(
        FUNCTIONS,
        "Integers",
        "y = sll.round(torch.tensor([1, 2]))",
        "Integers cannot be near a boundary by less than one, and have no gradient.",
        "y = sll.round(torch.tensor([1, 2]).float())",
    ),
    Case(
        FUNCTIONS,
        "Complex numbers",
        "y = sll.sign(torch.tensor([1j]))",
        "A decision needs an order.",
        "y = sll.sign(torch.tensor([1j]).abs())",
    ),
    Case(
        FUNCTIONS,
        '`forward="straight-through"`',
        'y = sll.sign(x, eps=0.1, forward="straight-through")',
        "The third mode of a region says what a `where` or a lookup does with its gradient. A function by itself "
        'is the same with `"hard"`.',
        """
y = sll.sign(x, eps=0.1, forward="hard")
y.sum().backward()
""",
    ),
    Case(
        FUNCTIONS,
        "A width too small for the dtype",
        "y = sll.sign(x, eps=1e-40)",
        "`1 / eps` has to be a number in the dtype in which the band is computed: float32, or float64 for float64 "
        "inputs.",
        "y = sll.sign(x.double(), eps=1e-40)",
    ),
    Case(
        FUNCTIONS,
        "A threshold that is no number",
        'y = sll.threshold(x, "0.5")',
        "A threshold may be a number or a tensor, and a tensor may require grad.",
        "y = sll.threshold(x, 0.5)",
    ),
    Case(
        FUNCTIONS,
        "The width in the place of the dimension",
        "y = sll.argmax(x, 0.1)",
        "`argmax`, `argmin`, `rank` and `topk_mask` take the dimension before `eps`: pass `eps` by name.",
        """
y = sll.argmax(x, eps=0.1)
""",
    ),
    Case(
        FUNCTIONS,
        "A dimension that does not exist",
        "y = sll.argmax(x, dim=1)",
        "As in torch, dimensions count from 0, or from the end with -1.",
        "y = sll.argmax(x, dim=0)",
    ),
    Case(
        FUNCTIONS,
        "A choice among the entries of a 0-dim tensor",
        "y = sll.argmax(x.mean())",
        "A single number has nothing to choose from. Perhaps a reduction went too far.",
        "y = sll.argmax(x.mean().reshape(1))",
    ),
    Case(
        FUNCTIONS,
        "A choice among nothing",
        "y = sll.argmax(torch.zeros(3, 0))",
        "There is no largest of no entries; torch raises an `IndexError` there.",
        "y = sll.argmax(torch.zeros(3, 0), dim=0)",
    ),
    Case(
        FUNCTIONS,
        "A direction that is no bool",
        'y = sll.rank(x, descending="yes")',
        "`descending` comes after `eps`: pass it by name.",
        "y = sll.rank(x, descending=True)",
    ),
    Case(
        FUNCTIONS,
        "A `k` that is not whole",
        "y = sll.topk_mask(x, k=0.5 * len(x))",
        "`k` counts entries.",
        "y = sll.topk_mask(x, k=len(x) // 2)",
    ),
    Case(
        FUNCTIONS,
        "More than there are",
        "y = sll.topk_mask(x, k=5)",
        "`k` may be 0 and all, not more.",
        "y = sll.topk_mask(x, k=min(5, len(x)))",
    ),
    # --- reports ---
    Case(
        REPORTS,
        "A table of nothing",
        """
with sll.linearize(eps=0.1) as region:
    torch.sign(x).sum().backward()
table = region.report().to_pandas()
""",
        "Without `trace=True` a region notes losses and the widths of policies, not what became of each decision.",
        """
with sll.linearize(eps=0.1, trace=True) as region:
    torch.sign(x).sum().backward()
table = region.report().to_dict()
""",
    ),
    Case(
        REPORTS,
        "A table without pandas",
        """
with sll.linearize(eps=0.1, trace=True) as region:
    torch.sign(x).sum().backward()
table = region.report().to_pandas()
""",
        "`sll` itself needs PyTorch only. `to_dict()` has the same figures.",
        """
with sll.linearize(eps=0.1, trace=True) as region:
    torch.sign(x).sum().backward()
table = region.report().to_dict()["rows"]
""",
        missing="pandas",
    ),
    Case(
        REPORTS,
        "`explain` of a result",
        """
def program(x):
    return torch.sign(x)

found = sll.explain(program(x))
""",
        "`explain` runs the program itself, once without and once in a region: give it the function, then its "
        "arguments.",
        """
def program(x):
    return torch.sign(x)

found = sll.explain(program, x, eps=0.1)
""",
    ),
    Case(
        REPORTS,
        "`explain` of a generator",
        """
def steps(x):
    for part in x:
        yield torch.sign(part)

found = sll.explain(steps, x)
""",
        "Calling a generator or an async function runs nothing yet.",
        """
def steps(x):
    for part in x:
        yield torch.sign(part)

found = sll.explain(lambda x: list(steps(x)), x, eps=0.1)
""",
    ),
    Case(
        REPORTS,
        "`check` of a result",
        """
def program(x):
    return torch.sign(x).sum()

found = sll.check(program(x))
""",
        "`check` runs the program itself, many times: give it the function, then its arguments.",
        """
def program(x):
    return torch.sign(x).sum()

found = sll.check(program, x, eps=0.1, directions=2)
""",
    ),
    Case(
        REPORTS,
        "`check` with one direction",
        """
found = sll.check(lambda x: torch.sign(x).sum(), x, directions=1)
""",
        "How sure a ratio is shows from how it differs between directions.",
        """
found = sll.check(lambda x: torch.sign(x).sum(), x, eps=0.1, directions=2)
""",
    ),
    Case(
        REPORTS,
        "`check` of many numbers",
        """
found = sll.check(torch.sign, x)
""",
        "One number has one gradient: sum what comes out.",
        """
found = sll.check(lambda x: torch.sign(x).sum(), x, eps=0.1, directions=2)
""",
    ),
    Case(
        REPORTS,
        "`check` with nothing to move",
        """
found = sll.check(lambda n: torch.sign(n).float().sum(), torch.tensor([1, 2]))
""",
        "Integers cannot be moved a little.",
        """
found = sll.check(lambda x: torch.sign(x).sum(), torch.tensor([1.0, 2.0]), eps=0.1, directions=2)
""",
    ),
    Case(
        REPORTS,
        "`check` of a NaN",
        """
found = sll.check(lambda x: (x / 0).sum(), torch.zeros(3))
""",
        "Where the program returns NaN or infinity there is nothing to compare. Check it elsewhere.",
        """
found = sll.check(lambda x: torch.sign(x).sum(), torch.zeros(3), eps=0.1, directions=2)
""",
    ),
    Case(
        REPORTS,
        "`check` of no elements",
        """
found = sll.check(lambda x: torch.sign(x).sum(), torch.zeros(0))
""",
        "There is nothing to move.",
        """
found = sll.check(lambda x: torch.sign(x).sum(), torch.zeros(3), eps=0.1, directions=2)
""",
    ),
    Case(
        REPORTS,
        "`check` of narrow bands, with few runs",
        """
x = torch.linspace(-1, 1, 40, dtype=torch.float64)
found = sll.check(lambda x: torch.round(37 * x).sum(), x, path_to=x + 1, eps=1e-4, runs=200)
""",
        "Where bands are narrow it takes more runs to find all jumps.",
        """
x = torch.linspace(-1, 1, 40, dtype=torch.float64)
found = sll.check(lambda x: torch.round(3 * x).sum(), x, path_to=x + 1, eps=0.01)
""",
    ),
    Case(
        REPORTS,
        "`check` with `params` that are none",
        """
weight = torch.ones(3, requires_grad=True)
found = sll.check(lambda: torch.sign(weight).sum(), params=weight)
""",
        "A tensor by itself looks like many: write a list.",
        """
weight = torch.ones(3, requires_grad=True)
found = sll.check(lambda: torch.sign(weight).sum(), params=[weight], eps=0.1, directions=2)
""",
    ),
    Case(
        REPORTS,
        "A path to elsewhere",
        """
found = sll.check(lambda x: torch.sign(x).sum(), torch.zeros(3), path_to=torch.ones(2))
""",
        "A path ends at arguments like those at its start.",
        """
found = sll.check(lambda x: torch.sign(x).sum(), torch.zeros(3) - 1, path_to=torch.ones(3), eps=0.1)
""",
    ),
    Case(
        REPORTS,
        "A gradient that is asserted, and wrong",
        """
from sll.testing import assert_gradient

assert_gradient(lambda x: torch.sign(x.detach()).sum() + 0 * x.sum(), torch.linspace(-1, 1, 20), eps=0.1, directions=2)
""",
        "The message is what `sll.check` prints.",
        """
from sll.testing import assert_gradient

assert_gradient(lambda x: torch.sign(x).sum(), torch.linspace(-1, 1, 20), eps=0.1, directions=2)
""",
    ),
    # --- what torch says ---
    Case(
        ITS_OWN,
        "`element 0 of tensors does not require grad` after a region",
        """
with sll.linearize(eps=0.1, on_lost="ignore"):
    hits = torch.tensor((x > 0).tolist())
    hits.float().mean().backward()
""",
        'Every gradient was lost on the way. `on_lost="error"` raises at the line where, `region.report().lost` '
        "lists all such lines. If it lists none, look at `region.report().cut`, or for inputs that do not require "
        "grad.",
        """
with sll.linearize(eps=0.1):
    (x > 0).float().mean().backward()
""",
    ),
    Case(
        ITS_OWN,
        "`element 0 of tensors does not require grad`: the decision left the region",
        """
with sll.linearize(eps=0.1):
    mask = x > 0
mask.float().mean().backward()
""",
        "Masks and indices are plain ones after the region. What is to be used outside becomes a float inside.",
        """
with sll.linearize(eps=0.1):
    share = (x > 0).float().mean()
share.backward()
""",
    ),
    Case(
        ITS_OWN,
        "`element 0 of tensors does not require grad`: the program computes without gradients",
        """
@torch.no_grad()
def metric(x):  # torchmetrics' modules and curves do so
    return (x > 0).float().mean()

with sll.linearize(eps=0.1):
    loss = 1 - metric(x)
loss.backward()
""",
        "`region.report().cut` lists the lines that decide there. `see_through=True` looks through `torch.no_grad()` "
        "and `detach()` of what is decided.",
        """
@torch.no_grad()
def metric(x):
    return (x > 0).float().mean()

with sll.linearize(eps=0.1, see_through=True):
    loss = 1 - metric(x)
loss.backward()
""",
    ),
    Case(
        ITS_OWN,
        "`Can't call numpy() on Tensor that requires grad`",
        """
with sll.linearize(eps=0.1):
    hits = (x > 0).float().numpy()
""",
        "Outside a region the float of a mask has no gradient, and inside it has one. For a log, detach.",
        """
with sll.linearize(eps=0.1):
    hits = (x > 0).float().detach().numpy()
""",
    ),
    Case(
        ITS_OWN,
        "`Trying to backward through the graph a second time`: a running count",
        """
seen = torch.zeros(4)
for step in range(2):
    with sll.linearize(eps=0.1):
        seen = seen + (x > 0).float()
        (seen * x).sum().backward()
""",
        "A buffer that adds up masks has no graph outside of a region, and in a region it leads back to the steps "
        "before. Detach what is kept from step to step.",
        """
seen = torch.zeros(4)
for step in range(2):
    with sll.linearize(eps=0.1):
        seen = seen.detach() + (x > 0).float()
        (seen * x).sum().backward()
""",
    ),
    Case(
        ITS_OWN,
        "`Data-dependent branching`: an `if` with `fullgraph=True`",
        """
@torch.compile(backend="eager", fullgraph=True)
def program(x):
    return 2 * x if x.mean() > 0 else x

with sll.linearize(eps=0.1):
    y = program(x)
""",
        "Dynamo says this without a region as well. Write `torch.where(x.mean() > 0, 2 * x, x)`.",
        compiles=True,
    ),
]
