"""What a line of the program does with an answer, read from its source: whether it is only told to somebody."""

from __future__ import annotations

import ast
import functools
import linecache
import os
import sysconfig
from collections.abc import Iterator

from .callsite import frame, frames, is_ours, looks_into

_LOGS = {
    "print", "log", "debug", "info", "warning", "error", "exception", "critical", "log_dict", "log_metric",
    "log_metrics", "add_scalar", "add_scalars",
}  # fmt: skip


_PARTS = {"<lambda>", "<genexpr>", "<listcomp>", "<setcomp>", "<dictcomp>"}
"""Code that stands within an expression: what it returns is for the rest of that."""


def only_told() -> bool:
    """Whether what is asked for just now is only told: an ``assert``, an ``if`` that raises or warns, a line for a log.
    Functions that return the answer are looked at from where they are called.
    """
    user, outside = frame(), False
    for at in frames():
        if outside and looks_into(at.f_code.co_filename):
            return False
        if not is_ours(at.f_code.co_filename):
            kind = _kinds(at.f_code.co_filename).get(at.f_lineno)
            if at.f_code.co_name in _PARTS:  # (the line may be that of a call which it is given to)
                kind = "returned"
            outside = outside or at is user
            if kind == "told" or (outside and kind != "returned"):
                return kind == "told"
    return False


@functools.lru_cache(maxsize=256)
def _kinds(file: str) -> dict[int, str]:
    """Of lines."""
    try:
        tree = ast.parse("".join(linecache.getlines(file)))
    except (SyntaxError, ValueError):
        return {}
    found: dict[int, str] = {}
    functions = []
    for node in ast.walk(tree):
        if isinstance(node, (ast.FunctionDef, ast.AsyncFunctionDef)):
            functions.append(node)
        for asked, kind in _asked(node):
            found.update(dict.fromkeys(_lines(asked), kind))
    for function in functions:
        _add_variables(function, found)
    return found


def _lines(node: ast.expr | ast.stmt) -> range:
    return range(node.lineno, (node.end_lineno or node.lineno) + 1)


def _add_variables(function: ast.AST, found: dict[int, str]) -> None:
    """What is assigned to a variable is only told where all that is read of it is."""
    reads: dict[str, set[int]] = {}
    given: dict[str, list[ast.expr]] = {}
    for node in ast.walk(function):
        if isinstance(node, ast.Name) and isinstance(node.ctx, ast.Load):
            reads.setdefault(node.id, set()).add(node.lineno)
        elif isinstance(node, ast.Assign) and len(node.targets) == 1 and isinstance(node.targets[0], ast.Name):
            given.setdefault(node.targets[0].id, []).append(node.value)
        elif isinstance(node, ast.AugAssign) and isinstance(node.target, ast.Name):
            reads.setdefault(node.target.id, set()).add(node.lineno)
        elif isinstance(node, (ast.Global, ast.Nonlocal, ast.ClassDef)):  # (who else reads it?)
            return
    while told := [name for name in given if name in reads and all(found.get(at) == "told" for at in reads[name])]:
        for name in told:
            for value in given.pop(name):
                found.update(dict.fromkeys(_lines(value), "told"))


def _asked(node: ast.AST) -> Iterator[tuple[ast.expr | ast.stmt, str]]:
    """What a statement asks, and what for."""
    guards = isinstance(node, ast.If) and (_only_tells(node.body) or _only_tells(node.orelse))
    if isinstance(node, ast.Assert) or (isinstance(node, ast.If) and guards):
        yield node.test, "told"
    elif isinstance(node, ast.Raise) or _tells(node):
        yield node, "told"  # type: ignore[misc]
    elif isinstance(node, ast.Return) and node.value is not None:
        yield node.value, "returned"


def _only_tells(body: list[ast.stmt]) -> bool:
    return bool(body) and all(isinstance(line, (ast.Raise, ast.Assert)) or _tells(line) for line in body)


def _tells(line: ast.AST) -> bool:
    """Whether it is a call that logs or warns."""
    if not isinstance(line, ast.Expr) or not isinstance(line.value, ast.Call):
        return False
    called = line.value.func
    name = called.attr if isinstance(called, ast.Attribute) else called.id if isinstance(called, ast.Name) else ""
    return name in _LOGS or "warn" in name


@functools.lru_cache(maxsize=4096)
def in_package(file: str) -> bool:
    """Whether it is a file of an installed package, which nobody edits."""
    paths = sysconfig.get_paths()
    return file.startswith(tuple(paths[name] + os.sep for name in ("purelib", "platlib", "stdlib", "platstdlib")))


def users_line() -> tuple[str, int]:
    """The line that called into installed packages."""
    at = frame()
    while at.f_back is not None and in_package(at.f_code.co_filename):
        at = at.f_back
    return at.f_code.co_filename, at.f_lineno
