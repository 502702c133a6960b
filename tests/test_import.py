"""What ``import sll`` costs, and what it brings along."""

from __future__ import annotations

import json
import os
import subprocess
import sys

import pytest
import torch

pytestmark = pytest.mark.skipif(torch.__version__ < (2, 10), reason="its torch.utils.checkpoint imports sympy")

PROGRAM = """
import json, sys, time
start = time.process_time()
import torch
before, between = set(sys.modules), time.process_time()
import sll
share = (time.process_time() - between) / (between - start)
print(json.dumps([share, sorted({name.split(".")[0] for name in set(sys.modules) - before})]))
"""


@pytest.fixture(scope="module")
def imports(tmp_path_factory):
    """Fresh processes; the first one writes the bytecode that an installation has."""
    cache = str(tmp_path_factory.mktemp("bytecode"))
    environment = {**os.environ, "PYTHONPYCACHEPREFIX": cache, "PYTHONDONTWRITEBYTECODE": ""}
    runs = [
        subprocess.run([sys.executable, "-c", PROGRAM], env=environment, capture_output=True, text=True, check=True)
        for _ in range(3)
    ]
    return [json.loads(run.stdout) for run in runs]


def test_it_takes_little_beside_torch(imports):
    """About 6 %: 60 to 80 ms of CPU, as fast as the machine is at the moment, which torch's own import tells. That is
    two of the three engines; flips are imported when a region wants them.
    """
    assert min(share for share, names in imports) < 0.08


def test_flips_are_not_imported_before_they_are_wanted():
    known = "print('sll._carry.flips' in sys.modules)"
    program = f"import sys, sll; {known}; sll.linearize(forward='hard'); {known}"
    found = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=True)
    assert found.stdout.split() == ["False", "True"]


def test_it_imports_nothing_but_itself_and_the_standard_library(imports):
    for _, names in imports:
        assert "sll" in names and set(names) - {"sll", "torch"} <= sys.stdlib_module_names
