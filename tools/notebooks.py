"""Make and run the notebooks of the documentation: each ``docs/notebooks/NAME.py`` becomes ``NAME.ipynb``.

    python tools/notebooks.py                  # all of them, a minute or two; outputs and figures are stored
    python tools/notebooks.py ten-minutes      # one

The scripts are in jupytext's percent format. Needs ``pip install jupytext nbclient ipykernel``.
"""

from __future__ import annotations

import argparse
import re
from pathlib import Path
from typing import Any

import jupytext
import nbclient
import nbformat

ROOT = Path(__file__).resolve().parent.parent
NOTEBOOKS = ROOT / "docs" / "notebooks"
FIRST = """
import sys
import torch
sys.path.insert(0, "src")
torch.set_num_threads(1)
%config InlineBackend.print_figure_kwargs = {"bbox_inches": "tight", "dpi": 80}
"""


def made(script: Path) -> Any:
    """The notebook of a script, without outputs; the same every time."""
    notebook = jupytext.read(script)
    notebook.metadata = {"kernelspec": {"display_name": "Python 3", "language": "python", "name": "python3"}}
    for i, cell in enumerate(notebook.cells):
        cell["id"] = f"cell-{i}"
    return notebook


def run(notebook: Any) -> Any:
    """`notebook` with its outputs. Raises nbclient.exceptions.CellExecutionError if a cell does."""
    notebook.cells.insert(0, nbformat.v4.new_code_cell(FIRST))
    nbclient.NotebookClient(notebook, timeout=300, resources={"metadata": {"path": str(ROOT)}}).execute()
    del notebook.cells[0]
    for i, cell in enumerate(cell for cell in notebook.cells if cell.cell_type == "code"):
        cell.execution_count, cell.metadata = i + 1, {}
        for output in cell.outputs:
            if "execution_count" in output:
                output["execution_count"] = i + 1
            _without_this_run(output)
    return notebook


def _without_this_run(output: Any) -> None:
    """Kernels number their temporary files. What has HTML has no need of its `repr`."""
    data = output.get("data", {})
    if "text/html" in data:
        del data["text/plain"]
    for kind, text in data.items():
        if kind.startswith("text/"):
            data[kind] = re.sub(r"/tmp/ipykernel_\d+/\d+\.py", "notebook", text)


def main() -> None:
    parser = argparse.ArgumentParser(description=(__doc__ or "").split("\n")[0])
    parser.add_argument("name", nargs="*", help="such as ten-minutes; all if none is named")
    for name in parser.parse_args().name or sorted(path.stem for path in NOTEBOOKS.glob("*.py")):
        notebook = run(made(NOTEBOOKS / f"{name}.py"))
        jupytext.write(notebook, NOTEBOOKS / f"{name}.ipynb")
        print(f"docs/notebooks/{name}.ipynb")


if __name__ == "__main__":
    main()
