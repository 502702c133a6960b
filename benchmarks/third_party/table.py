"""What was found, as Markdown: ``python benchmarks/third_party --table`` writes it into `docs/third-party.md`."""

from __future__ import annotations

import json
import statistics
from collections import Counter
from pathlib import Path
from typing import Any

RESULTS = Path(__file__).parent / "results.jsonl"
PAGE = Path(__file__).parents[2] / "docs" / "third-party.md"
START, END = "<!-- results -->", "<!-- end -->"
KINDS = {
    "linear": ("exact", "reported", "wrong", "raises"),
    "hard": ("exact", "reported", "wrong", "raises"),
    "straight-through": ("gradient", "flat", "reported", "silent", "raises"),
}

Found = dict[str, Any]


def written() -> str:
    """Writes the tables into the page, and returns them."""
    found = [json.loads(line) for line in RESULTS.read_text().splitlines()]
    tables = "\n\n".join([*(_libraries(found, mode) for mode in KINDS), _times(found), _against_us(found)])
    page = PAGE.read_text()
    before, after = page[: page.index(START) + len(START)], page[page.index(END) :]
    PAGE.write_text(f"{before}\n\n{tables}\n\n{after}")
    return tables


def _by_library(found: list[Found]) -> dict[str, list[Found]]:
    libraries = sorted({one["case"].partition(":")[0] for one in found})
    groups = {name: [one for one in found if one["case"].startswith(f"{name}:")] for name in libraries}
    return {**groups, "**all**": found}


def _libraries(found: list[Found], mode: str) -> str:
    kinds = KINDS[mode]
    rows = [f'`"{mode}"`:\n', f"| library | cases | {' | '.join(kinds)} |", f"|---|---:|{'---:|' * len(kinds)}"]
    for name, group in _by_library(found).items():
        counts = Counter(one[mode]["kind"] for one in group)
        rows.append(f"| {name} | {len(group)} | {' | '.join(str(counts[kind]) for kind in kinds)} |")
    return "\n".join(rows)


def _times(found: list[Found]) -> str:
    rows = ["Time of an evaluation relative to plain code, median (largest):\n"]
    rows += [f"| library | {' | '.join(KINDS)} |", f"|---|{'---:|' * len(KINDS)}"]
    for name, group in _by_library(found).items():
        times = [[one[mode]["time"] for one in group if one[mode]["time"] == one[mode]["time"]] for mode in KINDS]
        cells = [f"{statistics.median(t):.1f} ({max(t):.0f})" if t else "" for t in times]
        rows.append(f"| {name} | {' | '.join(cells)} |")
    return "\n".join(rows)


def _against_us(found: list[Found]) -> str:
    """Each case that is not what it should be, by name."""
    rows = [
        "Against us, by name:\n",
        "| case | mode | found | ratio | what the report says |",
        "|---|---|---|---:|---|",
    ]
    for one in found:
        for mode in KINDS:
            kind, ratio, note = one[mode]["kind"], one[mode]["ratio"], one[mode]["note"].replace("|", "/")
            if kind not in ("exact", "gradient"):
                shown = "" if ratio != ratio else f"{ratio:.3f}"
                rows.append(f"| {one['case']} | {mode} | {kind} | {shown} | {note} |")
    return "\n".join(rows)
