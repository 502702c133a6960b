"""The table of `docs/compatibility.md` is what the marks of the tests say."""

from __future__ import annotations

from pathlib import Path

import compatibility

PAGE = Path(__file__).parent.parent / "docs" / "compatibility.md"


def test_the_table_is_up_to_date(collected_rows):
    assert compatibility.current(PAGE.read_text()) == compatibility.table(collected_rows).strip(), (
        "run: python -m pytest tests --compatibility docs/compatibility.md"
    )


def test_the_table_is_made_of_marks():
    works = compatibility.Row("torch.func, forward mode", "this", "works", "with a note")
    refused = compatibility.Row("torch.compile", "that", "refused")
    text = compatibility.table(
        [(works, "test_a.py::test_b"), (refused, "test_c.py::test_d"), (works, "test_a.py::test_b")]
    )
    assert text.splitlines()[2:] == [
        "| torch.compile | that | refused | `test_c.py::test_d` |",
        "| torch.func, forward mode | this | works: with a note | `test_a.py::test_b` |",
    ]
    page = f"before\n{compatibility.BEGIN}\nold\n{compatibility.END}\nafter\n"
    assert compatibility.current(compatibility.replaced(page, text)) == text
    assert compatibility.replaced(page, text).startswith("before\n") and page.endswith("after\n")
