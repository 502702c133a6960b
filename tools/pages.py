"""Writes the pages of the documentation that are made from the code, and the output shown below code in others.

    python tools/pages.py           # writes what has changed
    python tools/pages.py --check   # writes nothing; exits with 1 and names the pages that are stale

- `docs/operators.md` from the registry of rules;
- `docs/gallery.md` from `examples/*.py`, `docs/gallery-compared.md` from `benchmarks/gallery`;
- `docs/api/command-line.md` from the command line itself;
- the ``text`` blocks of `docs/index.md`: what the Python block above each prints; those of `docs/zh/index.md` are the
  same.
"""

from __future__ import annotations

import argparse
import ast
import contextlib
import inspect
import io
import os
import re
import sys
import warnings
from collections.abc import Callable, Iterable
from functools import partial
from pathlib import Path
from types import ModuleType
from typing import Any

import torch

import sll
from sll._carry.definitions.rule import written_down
from sll._carry.outcomes import (
    RULES,
    choosing,
    elementwise,
    lookups,
    orders,
    passed,
    reductions,
    selections,
    shape,
    sources,
    where,
    writes,
)
from sll._rules.index import LEFT_ALONE, REMEDIES, SOURCES, spellings
from sll._rules.table import ROWS
from sll.auto import MEDIANS
from sll.policies import kind_of

ROOT = Path(__file__).parent.parent
DOCS = ROOT / "docs"
WRITTEN = "<!-- written by: python tools/pages.py -->\n"


# --- docs/operators.md ---------------------------------------------------------------------------------------------

FAMILIES = {
    "Comparisons": "gt ge lt le isclose",
    "Steps at zero or at a threshold": "sign signbit heaviside angle copysign hardshrink threshold",
    "Steps at integers": "round floor ceil trunc frac cast",
    "Division with a remainder": "floor_divide div remainder fmod",
    "Choices": "argmax argmin",
    "Subsets and orders": "topk sort kthvalue median unique",
    "Bins": "searchsorted histc",
}
"""Headings, and the names below them. A source that is in none of them is an error."""

_MEASURED = "{:g} times the median distance in the first steps"
WIDTHS = {
    "comparison": _MEASURED.format(MEDIANS["comparison"]),
    "step": "half a step",
    "remainder": 'none: its own slope (`"linear"`, `"hard"`: a quarter of a step)',
    "choice": f"{MEDIANS['choice']:g} times the median of how far the best leads the next, in the first steps",
    "subset": _MEASURED.format(MEDIANS["subset"]),
    "order": _MEASURED.format(MEDIANS["order"]),
}
"""What `"auto"` gives to each kind of decision."""

SYMBOLS = {
    "__add__": "+",
    "__sub__": "-",
    "__mul__": "*",
    "__truediv__": "/",
    "__floordiv__": "//",
    "__mod__": "%",
    "__pow__": "**",
    "__matmul__": "@",
    "__and__": "&",
    "__or__": "|",
    "__xor__": "^",
    "__invert__": "~",
    "__lshift__": "<<",
    "__rshift__": ">>",
    "__neg__": "-x",
    "__pos__": "+x",
    "__abs__": "abs(x)",
    "__eq__": "==",
    "__ne__": "!=",
    "__gt__": ">",
    "__ge__": ">=",
    "__lt__": "<",
    "__le__": "<=",
    "__getitem__": "table[index]",
    "__setitem__": "x[index] = value",
    "__iter__": "for row in x",
}


def rule_of(handler: Any) -> Any:
    """The function that was registered, below the wrappers of `registry.register`; None for the in-place forms."""
    while hasattr(handler, "__code__") and handler.__closure__:
        inner = inspect.getclosurevars(handler).nonlocals
        if "twin" in inner:
            return None
        following = inner.get("step") or inner.get("rule")
        if following is None:
            break
        handler = following
    return handler


def name_of(func: Any) -> str | None:
    """How the page calls a function of torch; None for what it need not name (``__radd__``, `_threshold`)."""
    name = getattr(func, "__name__", "")
    if name == "__get__":
        return f".{func.__self__.__name__}"
    if name.startswith("__"):
        return SYMBOLS.get(name)
    return None if name.startswith("_") else name


def functions_by_rule() -> dict[Any, list[str]]:
    """Rule -> the names of the functions it is registered for."""
    found: dict[Any, set[str]] = {}
    for func, handler in RULES.items():
        rule, name = rule_of(handler), name_of(func)
        if rule is not None and name is not None:
            found.setdefault(rule, set()).add(name)
    return {rule: sorted(names, key=lambda n: (not n[0].isalpha(), n)) for rule, names in found.items()}


def functions_by_op() -> dict[str, list[str]]:
    """Name in ``sll.OPS`` -> the names of its functions."""
    found: dict[str, set[str]] = {op: set() for op in SOURCES}
    for row in ROWS:
        if row.op and row.family != "reflected":
            funcs = [func for name in row.names.split() for func in spellings(name)]
            found[row.op].update(name for func in funcs if (name := name_of(func)) is not None)
    return {op: sorted(names, key=lambda n: (not n[0].isalpha(), n)) for op, names in found.items()}


def code(names: Iterable[str]) -> str:
    return " ".join(f"`{name}`" for name in names)


def paragraphs(doc: str | None) -> str:
    return inspect.cleandoc(doc).strip() if doc else ""


def one_line(doc: str | None) -> str:
    return " ".join(paragraphs(doc).split())


def link(module: ModuleType) -> str:
    path = Path(str(module.__file__)).resolve().relative_to(ROOT).as_posix()
    return f"[`{path}`](../{path})"


def operators() -> str:
    missing = set(SOURCES) - {op for ops in FAMILIES.values() for op in ops.split()}
    if missing:
        raise SystemExit(f"tools/pages.py: FAMILIES names no family for {', '.join(sorted(missing))}")
    spelled = functions_by_op()
    version = ".".join(torch.__version__.split(".")[:2])
    lines = [
        "# Operators",
        "",
        WRITTEN,
        f"What a region does with each torch function, from the registry of rules, with PyTorch {version}.",
        "Functions, methods, operators, reflected operators, in-place forms (`round_`, `+=`) and `out=` share a rule; "
        "the tables name the functions once.",
        "",
        "![A program of several ops in a region](figures/op-program.png)",
        "",
        "## What is linearized",
        "",
        "The name in the first column is the one for `only=`, `exclude=` and `eps={…}`; `sll.OPS` lists them, and "
        '`sll ops` prints this table. The last column is the half-width of the band with `eps="auto"`.',
        "",
    ]
    for family, ops in FAMILIES.items():
        lines += [f"### {family}", "", '| name | functions | decision boundary | `"auto"` |', "|---|---|---|---|"]
        for op in ops.split():
            boundary = re.sub(r"\|([^|]+)\|", r"abs(\1)", SOURCES[op])  # a bar would end the cell
            lines.append(f"| `{op}` | {code(spelled[op])} | {boundary} | {WIDTHS[kind_of(op)]} |")
        lines.append("")
    lines += [
        f"The rules: {link(sources)}, {link(choosing)}, {link(orders)}, {link(passed)}.",
        "",
        paragraphs(choosing.__doc__),
        "",
    ]

    lines += [
        "## What passes a derivative on",
        "",
        "These make no decisions. They carry those of their operands further, file by file.",
        "",
        'The words below are those of `forward="linear"`, which runs on both outcomes. With `"straight-through"` the '
        "same functions are done to shadows ([how](forward-modes.md#what-is-local-about-straight-through)). "
        'With `"hard"` each runs again in every flip.',
        "",
    ]
    by_rule = functions_by_rule()
    for title, module in (
        ("Element by element", elementwise),
        ("What a mask chooses", where),
        ("Shapes", shape),
        ("Reductions and matrix products", reductions),
        ("Lookups", lookups),
        ("Writes", writes),
        ("Selections", selections),
    ):
        lines += [f"### {title}", "", f"{link(module)}. {paragraphs(module.__doc__)}", ""]
        rules = [rule for rule in by_rule if inspect.getmodule(rule) is module]
        for rule in sorted(rules, key=lambda rule: rule.__code__.co_firstlineno):
            doc = one_line(rule.__doc__)
            lines.append(f"- {code(by_rule[rule])}" + (f": {doc}" if doc else ""))
        lines.append("")

    lines += [
        "## What is made of others",
        "",
        "These are written down in terms of the functions above, once for every forward mode. Their decisions count as "
        "`round`, `argmax` …, with the widths of those. Values are those of the function itself.",
        "",
    ]
    names_in: dict[ModuleType, list[str]] = {}
    for name, definition in written_down().items():
        names_in.setdefault(sys.modules[definition.__module__], []).append(name)
    lines += [f"- {code(names)}: {link(module)}. {one_line(module.__doc__)}" for module, names in names_in.items()]
    lines += [
        "",
        "## What the probe finds",
        "",
        "`pytest tests/test_probe.py` calls every function of `torch`, `torch.nn.functional`, `special`, "
        "`linalg`, `fft` and every method of `Tensor` along a path, and gives it decided masks and indices. What jumps "
        "there is followed or reported in each forward mode. The functions of the next section, and these, are not:",
        "",
        "| functions | why |",
        "|---|---|",
        *(f"| {code(names.split())} | {reason} |" for reason, names in excused().items()),
        "",
        "## What is left alone",
        "",
        "Discrete functions of floats that a region runs as they are, with the reason. Those that are named above as "
        "well (`==`, `isnan`, `nonzero` …) pass on what an operand carries, and make no decisions of their own. The "
        "gradient of a decision ends where its bool or integer goes into a function without a rule. That is reported.",
        "",
        "| functions | why |",
        "|---|---|",
    ]
    reasons: dict[str, list[str]] = {}
    for name, reason in LEFT_ALONE.items():
        reasons.setdefault(reason, []).append(SYMBOLS.get(name, name))
    lines += [f"| {code(names)} | {reason} |" for reason, names in reasons.items()]
    lines += ["", "## What to write instead", "", "| where a gradient ends | what a warning says |", "|---|---|"]
    remedies: dict[str, list[str]] = {}
    for name, remedy in REMEDIES.items():
        remedies.setdefault(remedy, []).append(name)
    lines += [f"| {code(names)} | {remedy} |" for remedy, names in remedies.items()]
    return "\n".join(lines) + "\n"


def excused() -> dict[str, str]:
    """Reason -> names, as the probe has them."""
    code = ast.parse((ROOT / "tests" / "test_probe.py").read_text(encoding="utf-8"))
    assigned = [node for node in code.body if isinstance(node, ast.Assign)]
    (found,) = (node.value for node in assigned if ast.unparse(node.targets[0]) == "EXCUSED")
    return dict(ast.literal_eval(found))


# --- docs/gallery.md -----------------------------------------------------------------------------------------------

GALLERY = """
    quantization binary_network spiking_network metrics ranking vector_quantization feature_selection controller
    thermostat knapsack decision_tree
""".split()
"""The order of the page; scripts that are not named here come last."""


def _scripts(folder: Path) -> list[Path]:
    order = lambda path: (GALLERY.index(path.stem) if path.stem in GALLERY else len(GALLERY), path.stem)
    return sorted((path for path in folder.glob("*.py") if path.stem[0] != "_"), key=order)


def _title_and_text(code: str) -> tuple[str, str]:
    title, _, text = (ast.get_docstring(ast.parse(code)) or "").partition("\n")
    return title.strip().rstrip("."), _as_markdown(text)


def gallery() -> str:
    """A grid of thumbnails, and below it each script of `examples/`, whole, with its figure and what it prints."""
    lines = [
        "# Gallery",
        "",
        WRITTEN,
        "Each entry is a whole script: the program as it is deployed, its data, a training loop with the region, and "
        "a figure. Copy it and run it; it takes some seconds. `sll.hard()` is the same loop without a gradient of "
        "decisions. [Gallery, compared](gallery-compared.md) has the alternatives to each, tuned alike, with their "
        "scores.",
        "",
        '<div class="gallery" markdown>',
    ]
    entries = []
    for path in _scripts(ROOT / "examples"):
        code = path.read_text(encoding="utf-8")
        title, text = _title_and_text(code)
        figure = f"figures/gallery/{path.stem}.png"
        body = code.split('"""\n', 1)[1].lstrip("\n")
        printed = (DOCS / "figures" / "gallery" / f"{path.stem}.txt").read_text(encoding="utf-8")
        name = path.stem.replace("_", " ").capitalize()
        lines.append(f"[![{title}]({figure})<br>{name}](#{name.lower().replace(' ', '-')})")
        entries += [f"## {name}", "", f"{title}.", "", text, "", f"![{title}]({figure})", ""]
        entries += [f"`examples/{path.name}` prints:", "", "```text", printed.rstrip(), "```", ""]
        entries += ["<!-- not run: the tests run the file -->", "```python", body.rstrip(), "```", ""]
    return "\n".join([*lines, "</div>", "", *entries])


def gallery_compared() -> str:
    """What the scripts of `benchmarks/gallery` say that they found, and the tables that they printed."""
    lines = [
        "# Gallery, compared",
        "",
        WRITTEN,
        "The programs of the [gallery](gallery.md) beside the plain program and what one would write by hand. Learning "
        "rates were chosen on a validation split, with the same budget for all (`--tune` prints the choice). Scores "
        "are those of the deployed program.",
        "",
    ]
    for path in _scripts(ROOT / "benchmarks" / "gallery"):
        _, text = _title_and_text(path.read_text(encoding="utf-8"))
        printed = (path.parent / "results" / f"{path.stem}.txt").read_text(encoding="utf-8")
        table = printed[: printed.index("┘") + 1]
        lines += [f"## {path.stem.replace('_', ' ').capitalize()}", "", text.split("\n\n")[-1], ""]
        lines += [f"`python benchmarks/gallery/{path.name}` prints:", "", "```text", table, "```", ""]
    return "\n".join(lines)


def _as_markdown(text: str) -> str:
    """A docstring's text. Its indented commands are dropped: how to run it stands below."""
    kept = [p for p in text.strip().split("\n\n") if not all(line.startswith("    ") for line in p.splitlines())]
    return "\n\n".join(kept)


# --- docs/api/command-line.md --------------------------------------------------------------------------------------


def command_line() -> str:
    import typer.main

    from sll.tools.cli import app

    main = typer.main.get_command(app)
    lines = [
        "# Command line",
        "",
        WRITTEN,
        '`pip install -e ".[cli]"` installs the command `sll`, the same as `python -m sll`; `sll demo` needs '
        '`".[demo]"`. What follows is what `--help` says.',
        "",
        _help(main.epilog),
        "",
    ]
    lines += _command("sll", main)
    for name, command in main.commands.items():  # type: ignore[attr-defined]
        if not command.hidden:
            lines += _command(f"sll {name}", command)
    return "\n".join(lines).rstrip() + "\n"


def _command(name: str, command: Any) -> list[str]:
    lines = [f"## {name}", "", _help(command.help), ""]
    rows = []
    for parameter in command.params:
        option = parameter.param_type_name == "option"
        if getattr(parameter, "hidden", False) or parameter.name == "help":
            continue
        names = [*parameter.opts, *parameter.secondary_opts] if option else [parameter.name.upper()]
        default = parameter.default
        unsaid = default in (None, False, "") or isinstance(default, (list, tuple)) or callable(default)
        help = " ".join(_help(parameter.help).split()).replace("|", "\\|")
        rows.append(f"| {code(names)} | {help} | {'' if unsaid else f'`{default}`'} |")
    if rows:
        lines += ["| | | default |", "|---|---|---|", *rows, ""]
    return lines


def _help(text: str | None) -> str:
    """The help texts are written in Markdown."""
    return inspect.cleandoc(text or "").replace("\b\n", "")


# --- what code prints ----------------------------------------------------------------------------------------------

WITH_OUTPUT = {"index.md": "digits.py"}
"""Pages whose ``text`` blocks are the output of the Python block before, and the file that reports call it."""
TRANSLATED = {"zh/index.md": "index.md"}
"""Pages that have the ``text`` blocks of another."""

BLOCK = re.compile(r"^```(python|text)\n(.*?)^```$", re.DOTALL | re.MULTILINE)


def run(code: str, line: int, file: str, namespace: dict[str, Any]) -> str:
    """Run a block as lines `line` and following of `file`; what it prints."""
    printed = io.StringIO()
    with contextlib.redirect_stdout(printed):
        exec(compile("\n" * line + code, os.path.join(os.getcwd(), file), "exec"), namespace)
    return "\n".join(text.rstrip() for text in printed.getvalue().splitlines()).strip("\n") + "\n"


def with_output(page: str) -> str:
    """The page, each ``text`` block written anew."""
    namespace: dict[str, Any] = {"__name__": "__main__"}
    line, printed = 0, ""

    def replace(found: re.Match[str]) -> str:
        nonlocal line, printed
        language, block = found.groups()
        if language == "text":
            return f"```text\n{printed}```"
        printed = run(block, line, WITH_OUTPUT[page], namespace)
        line += block.count("\n") + 1
        return found[0]

    return BLOCK.sub(replace, (DOCS / page).read_text(encoding="utf-8"))


def translated(page: str) -> str:
    """The page, with the ``text`` blocks of the one it is a translation of."""
    original = (DOCS / TRANSLATED[page]).read_text(encoding="utf-8")
    blocks = iter([found[0] for found in BLOCK.finditer(original) if found[1] == "text"])
    text = (DOCS / page).read_text(encoding="utf-8")
    return BLOCK.sub(lambda found: next(blocks) if found[1] == "text" else found[0], text)


# --- all -----------------------------------------------------------------------------------------------------------

PAGES: dict[str, Callable[[], str]] = {
    "operators.md": operators,
    "gallery.md": gallery,
    "gallery-compared.md": gallery_compared,
    "api/command-line.md": command_line,
}


def of_this_torch(page: str) -> bool:
    """Whether the page would be the same if it were written with the torch of `constraints.txt`."""
    pinned = (ROOT / "constraints.txt").read_text(encoding="utf-8").splitlines()
    return page != "operators.md" or f"torch=={torch.__version__.split('+')[0]}" in pinned


def without_numbers(text: str) -> str:
    """What must not change when a page is written on another machine: words, and how many numbers there are."""
    return re.sub(r"[\s─]+", " ", re.sub(r"[-−±]?\d[\d.]*(e[-+]?\d+)?", "#", text))


def stale(page: str, new: str) -> bool:
    path = DOCS / page
    if not path.exists():
        return True
    old = path.read_text(encoding="utf-8")
    return without_numbers(old) != without_numbers(new) if page in WITH_OUTPUT else old != new


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--check", action="store_true", help="write nothing; exit with 1 if a page is stale")
    parser.add_argument("page", nargs="*", help="such as operators.md; all if none is named")
    options = parser.parse_args()
    torch.set_num_threads(1)
    warnings.simplefilter("ignore", sll.LostGradientWarning)
    makers: dict[str, Callable[[], str]] = dict(PAGES)
    makers |= {page: partial(with_output, page) for page in WITH_OUTPUT}
    makers |= {page: partial(translated, page) for page in TRANSLATED}
    old = []
    for page in options.page or makers:
        if not of_this_torch(page):
            print(
                f"docs/{page} is written with the torch of constraints.txt, this is {torch.__version__}: left as it is"
            )
            continue
        new = makers[page]()
        if not options.check and (stale(page, new) or page not in WITH_OUTPUT or options.page):
            (DOCS / page).write_text(new, encoding="utf-8")
            print(f"docs/{page}")
        elif stale(page, new):
            old.append(page)
            print(f"stale: docs/{page}; run: python tools/pages.py", file=sys.stderr)
    return 1 if old else 0


if __name__ == "__main__":
    sys.exit(main())
