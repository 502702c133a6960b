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
import torch
before = set(sys.modules)
start = time.process_time()
import sll
seconds = time.process_time() - start
print(json.dumps([seconds, sorted({name.split(".")[0] for name in set(sys.modules) - before})]))
"""


@pytest.fixture(scope="module")
def imports(tmp_path_factory):
    """Three fresh processes; the first one writes the bytecode that an installation has."""
    cache = str(tmp_path_factory.mktemp("bytecode"))
    environment = {**os.environ, "PYTHONPYCACHEPREFIX": cache, "PYTHONDONTWRITEBYTECODE": ""}
    runs = [
        subprocess.run([sys.executable, "-c", PROGRAM], env=environment, capture_output=True, text=True, check=True)
        for _ in range(3)
    ]
    return [json.loads(run.stdout) for run in runs]


def test_it_takes_less_than_50_ms_beside_torch(imports):
    assert min(seconds for seconds, _ in imports) < 0.05


def test_it_imports_nothing_but_itself_and_the_standard_library(imports):
    for _, names in imports:
        assert "sll" in names and set(names) - {"sll", "torch"} <= sys.stdlib_module_names
