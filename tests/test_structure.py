"""The house is in order: imports run one way and in no circle, files and functions are short, one place asks whether
code is compiled, and every torch function has one row.
"""

from __future__ import annotations

import ast
import functools
from pathlib import Path

import pytest

import sll

SOURCE = Path(sll.__file__).parent
ENGINE = sorted(path for path in SOURCE.rglob("*.py") if "tools" not in path.parts and "_reports" not in path.parts)
LAYERS = ("_ops", "_reports", "eps", "_rules", "_carry", "_mode", "region", "decorators", "tools")
"""Each imports only from itself and from those before it. Other files are above them all."""
MOST_LINES = 420
MOST_LINES_OF_A_FUNCTION = 40
"""Without its docstring."""


def relative(path):
    return path.relative_to(SOURCE).as_posix()


@functools.cache
def tree(path):
    return ast.parse(path.read_text(encoding="utf-8"))


def module(path):
    parts = path.relative_to(SOURCE).with_suffix("").parts
    return ".".join(parts[:-1] if parts[-1] == "__init__" else parts)


MODULES = {module(path): path for path in SOURCE.rglob("*.py")}


def imported(name):
    """The modules of `sll` that a module imports, for types and inside functions as well."""
    path = MODULES[name]
    package = name.split(".") if path.name == "__init__.py" else name.split(".")[:-1]
    package = [part for part in package if part]
    for node in ast.walk(tree(path)):
        if isinstance(node, ast.ImportFrom):
            base = (node.module or "").split(".") if node.module else []
            if node.level:
                base = package[: len(package) - node.level + 1] + base
            elif base[:1] == ["sll"]:
                base = base[1:]
            else:
                continue
            for alias in node.names:
                full = ".".join([*base, alias.name])
                yield full if full in MODULES else ".".join(base)
        elif isinstance(node, ast.Import):
            yield from (alias.name.removeprefix("sll").strip(".") for alias in node.names if alias.name[:3] == "sll")


IMPORTS = {name: set(imported(name)) - {name} for name in MODULES}


def circle():
    """Modules that import each other, whatever the way; [] if there are none."""
    open_ = {name: set(of) for name, of in IMPORTS.items()}
    while done := [name for name, of in open_.items() if not of & open_.keys()]:
        for name in done:
            del open_[name]
    return sorted(open_)


def test_no_circle():
    ours = {name for name in circle() if not name.startswith("tools")}  # the command line and the demo use it all
    assert not ours


def layer(name):
    first = name.split(".")[0]
    return LAYERS.index(first) if first in LAYERS else len(LAYERS)


def test_imports_run_one_way():
    up = [(name, other) for name, of in IMPORTS.items() for other in of if layer(other) > layer(name)]
    assert not [pair for pair in up if pair[0].split(".")[0] != "tools"]


def test_nothing_below_imports_the_tools():
    users = {name for name, of in IMPORTS.items() if any(other.split(".")[0] == "tools" for other in of)}
    assert {name for name in users if name.split(".")[0] != "tools"} <= {"", "__main__", "plot"}


@pytest.mark.parametrize("path", ENGINE, ids=relative)
def test_sizes(path):
    lines = path.read_text(encoding="utf-8").count("\n")
    assert lines <= MOST_LINES
    long = {node.name: length(node) for node in ast.walk(tree(path)) if isinstance(node, ast.FunctionDef)}
    assert not {name: many for name, many in long.items() if many > MOST_LINES_OF_A_FUNCTION}


def length(function):
    first = function.body[0]
    documented = isinstance(first, ast.Expr) and isinstance(first.value, ast.Constant)
    return function.end_lineno - function.lineno + 1 - (first.end_lineno - first.lineno + 1 if documented else 0)


def asks_whether_compiling(path):
    for node in ast.walk(tree(path)):
        name = getattr(node, "attr", getattr(node, "id", getattr(node, "name", "")))
        if name in ("is_compiling", "is_dynamo_compiling"):
            return True
    return False


def test_one_place_asks_whether_code_is_compiled():
    asking = {relative(path) for path in ENGINE if asks_whether_compiling(path)}
    assert {name for name in asking if not name.startswith("_mode/")} == {"_ops/env.py"}


def test_every_folder_explains_itself():
    for folder in {path.parent for path in SOURCE.rglob("*.py")}:
        readme = folder / "README.md"
        assert readme.exists(), f"{readme} is missing"
        assert readme.read_text(encoding="utf-8").count("\n") <= 40, f"{readme} is longer than 40 lines"
