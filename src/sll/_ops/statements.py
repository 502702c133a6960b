"""What a line of the program does with an answer, read from its source: whether it is only told to somebody."""

from __future__ import annotations

import ast
import functools
import linecache
import os
import sysconfig
from collections.abc import Iterator

from .callsite import frame, frames, is_ours

_LOGS = {
    "print", "log", "debug", "info", "warning", "error", "exception", "critical", "log_dict", "log_metric",
    "log_metrics", "add_scalar", "add_scalars",
}  # fmt: skip


def only_told() -> bool:
    """Whether what is asked for just now is only told: an ``assert``, an ``if`` that raises or warns, a line for a log.
    Functions that return the answer are looked at from where they are called.
    """
    user, outside = frame(), False
    for at in frames():
        if not is_ours(at.f_code.co_filename):
            kind = _kinds(at.f_code.co_filename).get(at.f_lineno)
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
    for node in ast.walk(tree):
        for asked, kind in _asked(node):
            for line in range(asked.lineno, (asked.end_lineno or asked.lineno) + 1):
                found[line] = kind
    return found


def _asked(node: ast.AST) -> Iterator[tuple[ast.expr, str]]:
    """What a statement asks, and what for."""
    guards = isinstance(node, ast.If) and (_only_tells(node.body) or _only_tells(node.orelse))
    if isinstance(node, ast.Assert) or (isinstance(node, ast.If) and guards):
        yield node.test, "told"
    elif isinstance(node, ast.Expr) and _tells(node):
        yield node.value, "told"
    elif isinstance(node, ast.Return) and node.value is not None:
        yield node.value, "returned"


def _only_tells(body: list[ast.stmt]) -> bool:
    return bool(body) and all(isinstance(line, (ast.Raise, ast.Assert)) or _tells(line) for line in body)


def _tells(line: ast.stmt) -> bool:
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
