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


def blocks(name, language="python"):
    return re.findall(rf"```{language}\n(.*?)```", (ROOT / name).read_text(encoding="utf-8"), re.DOTALL)


def test_snippets_run():  # those of the Chinese one are the same, see below
    namespace: dict = {}
    assert len(blocks("README.md")) >= 6
    for i, block in enumerate(blocks("README.md")):
        exec(compile(block, f"README.md block {i}", "exec"), namespace)


@pytest.mark.parametrize("name", READMES)
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


def test_readmes_are_in_step():
    english, chinese = (
        [without_comments(b) for b in blocks(name)] + [without_comments(b) for b in blocks(name, "sh")]
        for name in READMES
    )
    assert english == chinese
    headings = [re.findall(r"^#+ ", (ROOT / name).read_text(encoding="utf-8"), re.MULTILINE) for name in READMES]
    assert headings[0] == headings[1]


@pytest.mark.parametrize("name", READMES)
def test_operator_table_names_every_op(name):
    table = [
        line.split("|")[1] for line in (ROOT / name).read_text(encoding="utf-8").splitlines() if line.startswith("|")
    ]
    named = {op for cell in table for op in re.findall(r"`(\w+)`", cell)}
    assert set(sll.OPS) <= named, set(sll.OPS) - named


def test_demo_runs(tmp_path):
    """The demo's quick mode, from another directory: one seed, two epochs."""
    done = subprocess.run(
        [sys.executable, "-m", "sll", "demo", "--quick"], capture_output=True, text=True, cwd=tmp_path
    )
    assert done.returncode == 0, done.stderr
    assert "sign network" in done.stdout
