"""Every snippet of both READMEs runs, the two are in step, and the operator table is complete."""

from __future__ import annotations

import re
import subprocess
import sys
from pathlib import Path

import pytest
import torch

import sll

ROOT = Path(__file__).parent.parent
READMES = ["README.md", "README.zh-CN.md"]
TOURS = ["docs/tour.md", "docs/zh/tour.md"]


def blocks(name, language="python"):
    return re.findall(rf"```{language}\n(.*?)```", (ROOT / name).read_text(encoding="utf-8"), re.DOTALL)


@pytest.mark.parametrize("name", ["README.md", "docs/tour.md"])  # the Chinese ones have the same, see below
def test_snippets_run(name):
    namespace: dict = {}
    assert len(blocks(name)) >= 3
    for i, block in enumerate(blocks(name)):
        exec(compile(block, f"{name} block {i}", "exec"), namespace)


@pytest.mark.parametrize("name", READMES)
def test_readmes_are_short_and_show_a_picture_first(name):
    text = (ROOT / name).read_text(encoding="utf-8")
    words = len(re.findall(r"[\u4e00-\u9fff]{2}|[^\s\u4e00-\u9fff]+", text))  # two characters are about a word
    assert words <= 1200 and text.count("\n") <= 170
    assert "![" in text[:400]


@pytest.mark.parametrize("name", TOURS)
def test_what_snippets_print(name, capsys):
    """The output that a README shows is the output."""
    text = (ROOT / name).read_text(encoding="utf-8")
    shown = re.findall(r"```python\n((?:(?!```).)*)```\n+```text\n(.*?)```", text, re.DOTALL)
    assert shown
    for code, output in shown:
        exec(compile(code, "program.py", "exec"), {"torch": torch, "sll": sll})
        assert capsys.readouterr().out.rstrip() == output.rstrip()


def without_comments(code):
    return re.sub(r'(#.*|""".*?""")', "", code)


@pytest.mark.parametrize("names", [READMES, TOURS])
def test_both_languages_are_in_step(names):
    english, chinese = (
        [without_comments(b) for b in blocks(name)] + [without_comments(b) for b in blocks(name, "sh")]
        for name in names
    )
    assert english == chinese
    headings = [re.findall(r"^#+ ", (ROOT / name).read_text(encoding="utf-8"), re.MULTILINE) for name in names]
    assert headings[0] == headings[1]


def test_operator_table_names_every_op():
    lines = (ROOT / "docs/operators.md").read_text(encoding="utf-8").splitlines()
    cells = [cell for line in lines if line.startswith("|") for cell in line.split("|")]
    named = {op for cell in cells for op in re.findall(r"`(\w+)`", cell)}
    assert set(sll.OPS) <= named, set(sll.OPS) - named


@pytest.mark.slow
def test_demo_runs(tmp_path):
    """The demo's quick mode, from another directory: one seed, two epochs."""
    done = subprocess.run(
        [sys.executable, "-m", "sll", "demo", "--quick"], capture_output=True, text=True, cwd=tmp_path
    )
    assert done.returncode == 0, done.stderr
    assert "sign network" in done.stdout
