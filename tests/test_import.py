"""What ``import sll`` costs, and what it brings along."""

from __future__ import annotations

import json
import os
import subprocess
import sys

import pytest
import torch

import sll

new = pytest.mark.skipif(torch.__version__ < (2, 10), reason="its torch.utils.checkpoint imports sympy")

PROGRAM = """
import gc, json, sys, time
gc.disable()  # (by chance one import or the other has to look through all that torch made)
start = time.process_time()
import torch
before, between = set(sys.modules), time.process_time()
import sll
lazy = "sll.region" not in sys.modules
class Made(torch.overrides.TorchFunctionMode):
    names = []
    def __torch_function__(self, fn, types, args=(), kwargs=None):
        found = fn(*args, **kwargs or {})
        if isinstance(found, torch.Tensor):
            self.names.append(fn.__name__)
        return found
with Made():
    sll.linearize
share = (time.process_time() - between) / (between - start)
brought = sorted({name.split(".")[0] for name in set(sys.modules) - before})
flips = ["sll._carry.flips" in sys.modules]
sll.linearize(forward="hard")
flips.append("sll._carry.flips" in sys.modules)
import sll.__main__
command = sorted({"typer", "rich", "matplotlib", "pandas"} & set(sys.modules))
found = {"share": share, "brought": brought, "flips": flips, "command": command, "lazy": lazy, "made": Made.names}
print(json.dumps(found))
"""


@pytest.fixture(scope="module")
def imports(tmp_path_factory):
    """Fresh processes; the first one writes the bytecode that an installation has, and is not timed."""
    cache = str(tmp_path_factory.mktemp("bytecode"))
    environment = {**os.environ, "PYTHONPYCACHEPREFIX": cache, "PYTHONDONTWRITEBYTECODE": ""}
    runs = [
        subprocess.run([sys.executable, "-c", PROGRAM], env=environment, capture_output=True, text=True, check=True)
        for _ in range(3)
    ]
    return [json.loads(run.stdout) for run in runs]


@new
def test_it_takes_little_beside_torch(imports):
    """About 4 %, 30 to 45 ms of CPU, as fast as the machine is now, which torch's own import tells. That is two
    of the three engines; flips are imported when a region wants them.
    """
    assert min(found["share"] for found in imports[1:]) < 0.08


def test_flips_are_not_imported_before_they_are_wanted(imports):
    for found in imports:
        assert found["flips"] == [False, True]


@new
def test_it_imports_nothing_but_itself_and_the_standard_library(imports):
    for found in imports:
        names = set(found["brought"])
        assert "sll" in names and names - {"sll", "torch"} <= sys.stdlib_module_names


def test_the_first_name_brings_the_rest(imports):
    """Wherever that is: no tensor is made, which a device or a mode of the moment would have a say in."""
    for found in imports:
        assert found["lazy"] and found["made"] == []


def test_modules_come_in_any_order():
    """An engine that is imported first still sees the blocks without gradients, which the region tells it of."""
    program = """
import warnings
import torch
import sll._carry.flips
import sll
x = torch.zeros(1, requires_grad=True)
with warnings.catch_warnings(record=True) as said, sll.linearize(0.1, forward="hard"):
    with torch.no_grad():
        hits = (x.sigmoid() > 0.5).float()
    loss = x + hits
print(len(said))
"""
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=True)
    assert done.stdout == "1\n"


def test_names_of_the_package():
    """`sll` has what it says it has, by every spelling; another name is an error with a name."""
    assert set(sll.__all__) <= set(dir(sll)) and all(hasattr(sll, name) for name in sll.__all__)
    namespace: dict = {}
    exec("from sll import *", namespace)
    assert {name: namespace[name] for name in sll.__all__} == {name: getattr(sll, name) for name in sll.__all__}
    with pytest.raises(AttributeError, match="module 'sll' has no attribute 'rond'"):
        sll.rond  # noqa: B018


@pytest.mark.slow
def test_types(tmp_path):
    """A checker knows the public names, and no others."""
    api = pytest.importorskip("mypy.api")
    (tmp_path / "program.py").write_text("import sll\nreveal_type(sll.rank)\nreveal_type(sll.OPS)\nsll.rond\n")
    found, _, code = api.run(["--strict", "--no-incremental", "--follow-imports=silent", str(tmp_path / "program.py")])
    assert code == 1 and 'Module has no attribute "rond"' in found and "Any" not in found
    assert "Tensor" in found and "str, ...]" in found


def test_the_command_needs_only_torch(imports):
    """What makes it pretty is imported when it runs, so that it can say what is missing."""
    for found in imports:
        assert found["command"] == []
