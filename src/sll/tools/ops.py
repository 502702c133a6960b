"""`sll ops`: what is linearized, and what is left alone."""

from __future__ import annotations

from rich.console import Console
from rich.table import Table
from rich.text import Text

from .._rules.index import LEFT_ALONE, SOURCES
from .console import print_json


def ops(as_json: bool) -> None:
    if as_json:
        linearized = [{"name": name, "boundaries": SOURCES[name]} for name in sorted(SOURCES)]
        left = [{"name": name, "reason": LEFT_ALONE[name]} for name in sorted(LEFT_ALONE)]
        print_json({"linearized": linearized, "left_alone": left})
        return
    table = Table(title="Linearized")
    table.add_column("name", no_wrap=True)
    table.add_column("decision boundaries")
    for name in sorted(SOURCES):
        table.add_row(name, Text(SOURCES[name].replace("`", "")))
    console = Console(highlight=False)
    console.print(table)
    reasons: dict[str, list[str]] = {}
    for name, reason in LEFT_ALONE.items():
        reasons.setdefault(reason, []).append(name)
    table = Table(title="Left alone", show_lines=True)
    table.add_column("functions", ratio=1)
    table.add_column("why", ratio=1)
    for reason, names in reasons.items():
        table.add_row(" ".join(sorted(names)), Text(reason))
    console.print(table)
