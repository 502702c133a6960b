"""Rows of `docs/compatibility.md`: each is a mark on the test that shows it.

    python -m pytest tests --compatibility docs/compatibility.md

writes the table anew from the marks of the tests that passed; the suite checks that it is up to date.
"""

from __future__ import annotations

from collections.abc import Iterable
from typing import Literal, NamedTuple

import pytest

AREAS = (
    "torch.compile",
    "torch.func, forward mode",
    "higher order",
    "mixed precision",
    "activation checkpointing",
    "distributed",
    "threads, workers, asyncio",
    "export and deployment",
    "training loops",
)
BEGIN = "<!-- written by: python -m pytest tests --compatibility docs/compatibility.md -->"
END = "<!-- end -->"


class Row(NamedTuple):
    area: str
    what: str
    verdict: Literal["works", "refused", "does not work"]
    note: str = ""


def row(area: str, what: str, verdict: str, note: str = "") -> pytest.MarkDecorator:
    assert area in AREAS and verdict in ("works", "refused", "does not work")
    return pytest.mark.compatibility(area, what, verdict, note)


def rows_of(item: pytest.Item) -> list[Row]:
    return [Row(*mark.args) for mark in item.iter_markers("compatibility")]


def table(found: Iterable[tuple[Row, str]]) -> str:
    """Markdown, from rows and the tests that show them."""
    tests: dict[Row, list[str]] = {}
    for entry, test in found:
        if test not in tests.setdefault(entry, []):
            tests[entry].append(test)
    lines = ["| area | what | verdict | test |", "|---|---|---|---|"]
    for area in AREAS:
        for entry in sorted(entry for entry in tests if entry.area == area):
            verdict = entry.verdict + (f": {entry.note}" if entry.note else "")
            shown = ", ".join(f"`{test}`" for test in sorted(tests[entry]))
            lines.append(f"| {area} | {entry.what} | {verdict} | {shown} |")
    return "\n".join(lines)


def replaced(text: str, new: str) -> str:
    head, rest = text.split(BEGIN)
    return f"{head}{BEGIN}\n{new}\n{END}{rest.split(END)[1]}"


def current(text: str) -> str:
    return text.split(BEGIN)[1].split(END)[0].strip()
