"""The house is in order: imports run one way and in no circle, files and functions are short, one place asks whether
code is compiled, and tests stand where the source stands.
"""

from __future__ import annotations

import ast
import functools
from pathlib import Path
from typing import NamedTuple

import pytest

import sll

SOURCE = Path(sll.__file__).parent
ENGINE = sorted(path for path in SOURCE.rglob("*.py") if "tools" not in path.parts and "_reports" not in path.parts)
LAYERS = (
    "_ops",
    "_reports",
    "policies",
    "auto",
    "eps",
    "_rules",
    "_carry",
    "_mode",
    "paths",
    "programs",
    "region",
    "_checks",
    "checking",
    "testing",
    "decorators",
    "tools",
)
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
    assert {name for name in users if name.split(".")[0] != "tools"} <= {"_public", "__main__", "plot"}


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


def test_no_rule_asks_whether_code_is_compiled():
    asking = {relative(path) for path in ENGINE if asks_whether_compiling(path)}
    assert {name for name in asking if not name.startswith("_mode/")} == set()


def test_every_folder_explains_itself():
    for folder in {path.parent for path in SOURCE.rglob("*.py")}:
        readme = folder / "README.md"
        assert readme.exists(), f"{readme} is missing"
        assert readme.read_text(encoding="utf-8").count("\n") <= 40, f"{readme} is longer than 40 lines"


# --- tests mirror the source -----------------------------------------------------------------------------------------

TESTS = Path(__file__).parent
MIRRORED = ("_carry", "_mode", "_ops", "_rules")
"""A reader who changes `_carry/shadows/lookups.py` finds `tests/carry/shadows/test_lookups.py`. What several engines do
stands in `tests/carry`; oracles over all programs, and what users see in every mode, in `tests` itself.
"""
ELSEWHERE = {
    "_mode/capture.py": "test_compiled.py",
    "_mode/dynamo.py": "test_compile.py",
    "_mode/running.py": "test_compiled.py",
    "_carry/flips/calls.py": "test_hard_forward.py",
    "_carry/flips/lookups.py": "carry/test_lookups.py",
    "_carry/flips/moving.py": "carry/test_shape.py",
    "_carry/flips/passing.py": "carry/test_passed.py",
    "_carry/flips/primitives.py": "carry/flips/test_engine.py",
    "_carry/outcomes/engine.py": "test_lost.py",
    "_carry/boundaries.py": "carry/test_passed.py",
    "_carry/found.py": "carry/test_choices.py",
    "_carry/outcomes/mixtures.py": "test_box_oracle.py",
    "_carry/outcomes/orders.py": "carry/test_choices.py",
    "_carry/outcomes/passed.py": "carry/test_passed.py",
    "_carry/flips/questions.py": "test_paths.py",
    "_carry/outcomes/questions.py": "test_paths.py",
    "_carry/shadows/questions.py": "test_paths.py",
    "_mode/journal.py": "test_paths.py",
    "_mode/results.py": "test_paths.py",
    "_mode/runs.py": "test_paths.py",
    "_mode/surroundings.py": "test_paths.py",
    "_ops/origins.py": "test_paths.py",
    "_carry/shadows/linear.py": "carry/shadows/test_choices.py",
    "_carry/shadows/orders.py": "carry/shadows/test_choices.py",
    "_carry/shadows/picked.py": "carry/shadows/test_choices.py",
    "_carry/shadows/differences.py": "carry/shadows/test_elementwise.py",
    "_carry/shadows/quotients.py": "carry/test_quotients.py",
    "_carry/shadows/shadow.py": "carry/shadows/test_local.py",
    "_carry/shadows/shape.py": "carry/shadows/test_local.py",
    "_mode/branches.py": "mode/test_mode.py",
    "_mode/guards.py": "test_compile.py",
    "_mode/notes.py": "test_lost.py",
    "_mode/places.py": "test_auto.py",
    "_mode/tracing.py": "test_report.py",
    "_mode/watching.py": "test_report.py",
    "_ops/apply.py": "test_compile_values.py",
    "_ops/band.py": "ops/test_ramp.py",
    "_ops/callsite.py": "test_lost.py",
    "_ops/dtypes.py": "test_amp.py",
    "_ops/loops.py": "ops/test_fused.py",
    "_ops/measured.py": "test_auto.py",
    "_ops/openness.py": "test_lost.py",
    "_ops/options.py": "test_errors.py",
    "_ops/saving.py": "mode/test_checkpoint.py",
    "_rules/widths.py": "test_policy.py",
    "_ops/ranks.py": "test_distributed.py",
}
"""Files without a test file of their own name, and what tests them instead."""
ORACLES = {f"carry/shadows/test_{name}.py" for name in ("contexts", "explicit", "limits", "local")}
ORACLES |= {"test_probe.py"}
"""What holds all of `_carry/shadows`: the oracles of local gradients, and wherever a region may stand; and what holds
all of the table.
"""


class House(NamedTuple):
    """Paths below `sll` and below `tests`."""

    sources: set[str]
    tests: set[str]
    elsewhere: dict[str, str]
    oracles: set[str]


def mirror(source):
    """The test file of a source file: ``_ops/ramp.py`` has ``ops/test_ramp.py``."""
    folder, _, name = source.rpartition("/")
    return f"{folder.removeprefix('_')}/test_{name}"


def of_every_engine(source):
    """The tests that ``_carry/shadows/shape.py`` has together with ``_carry/outcomes/shape.py``."""
    engine, _, name = source.rpartition("/")
    return f"carry/test_{name}" if engine.startswith("_carry/") else mirror(source)


def out_of_place(house):
    """What a reader does not find where it should be, and lines that are stale."""
    found = []
    for source in house.sources:
        if mirror(source) not in house.tests and source not in house.elsewhere:
            found.append(f"{source}: there is no tests/{mirror(source)}, and no line in ELSEWHERE")
    for source, test in house.elsewhere.items():
        if source not in house.sources:
            found.append(f"ELSEWHERE: {source} is gone")
        elif mirror(source) in house.tests:
            found.append(f"ELSEWHERE: {source} has tests/{mirror(source)}")
        if test not in house.tests:
            found.append(f"ELSEWHERE: {source} has its tests in {test}, which is gone")
    known = {f(source) for source in house.sources for f in (mirror, of_every_engine)} | house.oracles
    folders = tuple(f"{folder.removeprefix('_')}/" for folder in MIRRORED)
    for test in house.tests:
        if test.startswith(folders) and test not in known:
            found.append(f"tests/{test}: no file of sll is called so")
    found += [f"ORACLES: {test} is gone" for test in house.oracles - house.tests]
    return sorted(found)


def test_tests_mirror_the_source():
    sources = [path for folder in MIRRORED for path in (SOURCE / folder).rglob("*.py") if path.name != "__init__.py"]
    tests = {path.relative_to(TESTS).as_posix() for path in TESTS.rglob("test_*.py")}
    assert out_of_place(House({relative(path) for path in sources}, tests, ELSEWHERE, ORACLES)) == []


@pytest.mark.parametrize(
    ("change", "said"),
    [
        (lambda house: house.sources.add("_ops/new.py"), "_ops/new.py: there is no tests/ops/test_new.py"),
        (lambda house: house.sources.remove("_ops/loops.py"), "ELSEWHERE: _ops/loops.py is gone"),
        (lambda house: house.sources.remove("_ops/fused.py"), "tests/ops/test_fused.py: no file"),
        (lambda house: house.tests.add("ops/test_loops.py"), "ELSEWHERE: _ops/loops.py has tests/ops/test_loops.py"),
        (lambda house: house.tests.add("carry/test_fused.py"), "tests/carry/test_fused.py: no file"),
        (lambda house: house.tests.remove("carry/flips/test_shape.py"), "_carry/flips/shape.py: there is no"),
        (lambda house: house.elsewhere.update({"_ops/loops.py": "test_x.py"}), "in test_x.py, which is gone"),
        (lambda house: house.oracles.add("carry/test_all.py"), "ORACLES: carry/test_all.py is gone"),
    ],
)
def test_what_is_out_of_place_is_said(change, said):
    house = House(
        {"_ops/fused.py", "_ops/loops.py", "_carry/flips/shape.py"},
        {
            "ops/test_fused.py",
            "carry/flips/test_shape.py",
            "carry/test_shape.py",
            "carry/test_local.py",
            "test_lost.py",
        },
        {"_ops/loops.py": "ops/test_fused.py"},
        {"carry/test_local.py"},
    )
    assert out_of_place(house) == []
    change(house)
    (found,) = out_of_place(house)
    assert said in found
