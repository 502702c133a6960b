"""Cells as a table, in text and in HTML."""

from __future__ import annotations

import html
from collections.abc import Collection, Iterable, Sequence

Cells = Sequence[str]


def as_text(head: Cells, rows: Iterable[Cells], right: Collection[str]) -> list[str]:
    """Lines. Columns with a name in `right` are numbers, which end below each other."""
    rows = list(rows)
    widths = [max(map(len, column)) for column in zip(head, *rows)]

    def line(cells: Cells) -> str:
        aligned = (c.rjust(n) if name in right else c.ljust(n) for c, n, name in zip(cells, widths, head))
        return f"  {'   '.join(aligned)}".rstrip()

    return [line(head), " " + "─" * (sum(widths) + 3 * len(widths) - 1), *map(line, rows)]


def as_html(title: str, head: Cells, rows: Iterable[Cells], notes: Iterable[str]) -> str:
    def row(cells: Cells, tag: str) -> str:
        return "<tr>" + "".join(f"<{tag}>{html.escape(cell)}</{tag}>" for cell in cells) + "</tr>"

    body = "".join(row(cells, "td") for cells in rows)
    items = "".join(f"<li>{html.escape(note)}</li>" for note in notes)
    return (
        f"<div><b>{html.escape(title)}</b><table><thead>{row(head, 'th')}</thead>"
        f"<tbody>{body}</tbody></table><ul>{items}</ul></div>"
    )
