"""The notebooks: they are made of their scripts, what they show is stored, and they run."""

from __future__ import annotations

import importlib.util
import sys
from pathlib import Path

import pytest

pytest.importorskip("jupytext")
pytest.importorskip("nbclient")
pytest.importorskip("ipykernel")

ROOT = Path(__file__).parent.parent
SCRIPTS = sorted((ROOT / "docs" / "notebooks").glob("*.py"))
EACH = pytest.mark.parametrize("script", SCRIPTS, ids=lambda path: path.stem)

spec = importlib.util.spec_from_file_location("notebooks", ROOT / "tools" / "notebooks.py")
assert spec is not None and spec.loader is not None
notebooks = importlib.util.module_from_spec(spec)
sys.modules["notebooks"] = notebooks
spec.loader.exec_module(notebooks)


def stored(script):
    return notebooks.jupytext.read(script.with_suffix(".ipynb"))


def kinds(notebook):
    return [
        [(out.output_type, *sorted(out.get("data", ()))) for out in cell.get("outputs", ())] for cell in notebook.cells
    ]


@EACH
def test_it_is_made_of_its_script(script):
    made, found = notebooks.made(script), stored(script)
    same = [(cell.cell_type, cell.source) for cell in made.cells] == [
        (cell.cell_type, cell.source) for cell in found.cells
    ]
    assert same, f"run: python tools/notebooks.py {script.stem}"


@EACH
def test_it_shows_figures_and_reports(script):
    """Each has a figure and a report or an explanation in HTML, and nothing on stderr."""
    shown = {kind for outputs in kinds(stored(script)) for output in outputs for kind in output}
    assert {"image/png", "text/html"} <= shown and not {"error", "stream"} & shown


def test_both_languages_have_the_same_code():
    english, chinese = (stored(path) for path in SCRIPTS if path.stem.startswith("ten-minutes"))
    code = [
        [cell.source.split("  #")[0] for cell in one.cells if cell.cell_type == "code"] for one in (english, chinese)
    ]
    assert code[0] == code[1]


@pytest.mark.slow
@EACH
@pytest.mark.filterwarnings("ignore")
def test_it_runs_and_shows_the_same(script):
    again = notebooks.run(notebooks.made(script))
    assert kinds(again) == kinds(stored(script))
