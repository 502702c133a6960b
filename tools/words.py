"""Print how long the pages are: words, words of prose, lines, and the share of sentences of more than 25 words.

    python tools/words.py                # README and all of docs
    python tools/words.py README.md      # some pages
    python tools/words.py --long         # and the sentences that are too long

Prose is what is no code and no table. Code, tables, formulas, pictures and link targets are no sentences. Two Chinese
characters count as a word.
"""

from __future__ import annotations

import argparse
import os
import re
from pathlib import Path
from typing import NamedTuple

ROOT = Path(__file__).resolve().parent.parent
LONG = 25


class Page(NamedTuple):
    words: int
    prose: int
    lines: int
    sentences: list[str]

    @property
    def long(self) -> list[str]:
        return [sentence for sentence in self.sentences if words(sentence) > LONG]

    @property
    def share(self) -> float:
        return len(self.long) / max(1, len(self.sentences))


def words(text: str) -> int:
    return len(re.findall(r"[\u4e00-\u9fff]{1,2}|[^\s\u4e00-\u9fff]*[^\W_\u4e00-\u9fff][^\s\u4e00-\u9fff]*", text))


def prose(text: str) -> str:
    text = re.sub(r"^```.*?^```", "", text, flags=re.DOTALL | re.MULTILINE)
    return re.sub(r"^\|.*$", "", text, flags=re.MULTILINE)


def sentences(text: str) -> list[str]:
    text = re.sub(r"^```.*?^```", "", text, flags=re.DOTALL | re.MULTILINE)
    text = re.sub(r"\$\$.*?\$\$", "", text, flags=re.DOTALL)
    text = re.sub(r"<!--.*?-->", "", text, flags=re.DOTALL)
    text = re.sub(r"!\[[^\]]*\]\([^)]*\)", "", text)
    text = re.sub(r"\[([^\]]*)\]\([^)]*\)", r"\1", text)
    text = re.sub(r"`[^`\n]*`(\s+`[^`\n]*`)*", "code", text)  # one thing, however long, and so is a list of names
    blocks: list[str] = []
    for line in text.splitlines():
        bare = line.strip()
        if bare.startswith(("|", "#")) or not bare:
            blocks.append("")
        elif re.match(r"([-*]|\d+\.) ", bare) or not blocks or not blocks[-1]:
            blocks.append(re.sub(r"^([-*]|\d+\.) ", "", bare))
        else:
            blocks[-1] += " " + bare
    found = [part.strip() for block in blocks for part in re.split(r"(?<=[.!?:])\s+|(?<=[。！？：；])", block)]
    return [part for part in found if words(part) > 1]


def page(path: Path) -> Page:
    text = path.read_text(encoding="utf-8")
    return Page(words(text), words(prose(text)), text.count("\n"), sentences(text))


def main() -> None:
    parser = argparse.ArgumentParser(description=(__doc__ or "").split("\n")[0])
    parser.add_argument("pages", nargs="*", type=Path)
    parser.add_argument("--long", action="store_true", help="print the sentences that are too long")
    options = parser.parse_args()
    paths = options.pages or [*sorted(ROOT.glob("README*.md")), *sorted((ROOT / "docs").rglob("*.md"))]
    print(f"{'page':<64}{'words':>7}{'prose':>7}{'lines':>7}{'sentences':>11}{'over 25 words':>15}")
    for path in paths:
        found = page(path)
        name = os.path.relpath(path, ROOT)
        print(
            f"{name:<64}{found.words:>7}{found.prose:>7}{found.lines:>7}{len(found.sentences):>11}{found.share:>14.0%}"
        )
        for sentence in found.long if options.long else ():
            print(f"    {words(sentence)}: {sentence}")


if __name__ == "__main__":
    main()
