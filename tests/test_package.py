"""The package: what is built installs into an environment that has torch and nothing else of ours, and works there."""

from __future__ import annotations

import os
import re
import subprocess
import sys
import sysconfig
import tarfile
import zipfile
from pathlib import Path

import pytest

import sll

ROOT = Path(__file__).parent.parent


def run(*command, **options):
    done = subprocess.run(list(map(str, command)), capture_output=True, text=True, **options)
    assert done.returncode == 0, done.stdout + done.stderr
    return done.stdout


@pytest.fixture(scope="module")
def dist(tmp_path_factory):
    """Wheel and sdist, built with what is installed: no index is asked."""
    pytest.importorskip("build")
    pytest.importorskip("hatchling")
    out = tmp_path_factory.mktemp("dist")
    run(sys.executable, "-m", "build", "--no-isolation", "--outdir", out, ROOT)  # the wheel from the sdist
    return next(out.glob("*.whl")), next(out.glob("*.tar.gz"))


@pytest.fixture(scope="module")
def environment(dist, tmp_path_factory):
    """A new environment with the wheel, and the torch of this one."""
    where = tmp_path_factory.mktemp("environment")
    run(sys.executable, "-m", "venv", "--without-pip", where)
    python = where / "bin" / "python"
    site = Path(run(python, "-c", "import sysconfig; print(sysconfig.get_paths()['purelib'])").strip())
    run(sys.executable, "-m", "pip", "--python", python, "install", "--no-index", "--no-deps", dist[0])
    before = sorted(path.name for path in site.iterdir())
    (site / "torch_of_the_tests.pth").write_text(sysconfig.get_paths()["purelib"] + "\n")
    clean = {name: value for name, value in os.environ.items() if name != "PYTHONPATH"}
    return where, before, {"cwd": where, "env": clean}


@pytest.mark.slow
def test_what_is_in_it(dist):
    wheel, sdist = dist
    names = zipfile.ZipFile(wheel).namelist()
    ours = {path.relative_to(ROOT / "src").as_posix() for path in (ROOT / "src").rglob("*.py")}
    assert ours <= set(names) and "sll/py.typed" in names
    assert {name.split("/")[0] for name in names} == {"sll", f"sll_core-{sll.__version__}.dist-info"}
    with tarfile.open(sdist) as archive:
        inside = {name.partition("/")[2] for name in archive.getnames()}
    assert {"pyproject.toml", "LICENSE", "README.md", "CHANGELOG.md", "tests/test_package.py"} <= inside
    assert not any(part in name for name in inside for part in ("__pycache__", ".venv", "site/"))


@pytest.mark.slow
def test_the_index_can_show_it(dist):
    pytest.importorskip("twine")
    assert "PASSED" in run(sys.executable, "-m", "twine", "check", "--strict", *dist)
    metadata = zipfile.ZipFile(dist[0]).read(f"sll_core-{sll.__version__}.dist-info/METADATA").decode()
    required = re.findall(r"^Requires-Dist: (?!.*extra ==)(.*)$", metadata, re.MULTILINE)
    assert [re.split(r"\W", name)[0] for name in required] == ["torch"]


@pytest.mark.slow
def test_the_index_knows_where_the_project_is(tmp_path):
    """Built by the release workflow: README's own links are addresses, and each leads to a file of the repository."""
    pytest.importorskip("hatchling")
    place = {"SLL_REPOSITORY": "https://example.org/us/sll", "SLL_REF": "v3"}
    build = ("-m", "hatchling", "build", "-t", "wheel", "-d", tmp_path)
    run(sys.executable, *build, cwd=ROOT, env={**os.environ, **place})
    (wheel,) = tmp_path.glob("*.whl")
    metadata = zipfile.ZipFile(wheel).read(f"sll_core-{sll.__version__}.dist-info/METADATA").decode()
    assert "Project-URL: Source, https://example.org/us/sll\n" in metadata
    readme = re.sub(r"^```.*?^```", "", metadata.partition("\n\n")[2], flags=re.DOTALL | re.MULTILINE)
    links = re.findall(r"\]\(([^)]+)\)", readme)
    ours = [re.fullmatch(r"https://example.org/us/sll/(blob|raw)/v3/([^#]*)(#.*)?", link) for link in links]
    assert len(ours) > 10 and all(found and (ROOT / found[2]).is_file() for found in ours), links


@pytest.mark.slow
def test_it_works_where_only_torch_is(environment):
    where, installed, options = environment
    assert [name for name in installed if name[:3] == "sll"] == ["sll", f"sll_core-{sll.__version__}.dist-info"]
    assert run(where / "bin" / "sll", "--version", **options) == f"sll {sll.__version__}\n"
    program = (
        "import sll, torch; x = torch.zeros(1, requires_grad=True); sll.sign(x, 0.5).backward(); print(x.grad.item())"
    )
    assert run(where / "bin" / "python", "-c", program, **options) == "2.0\n"
    file = run(where / "bin" / "python", "-c", "import sll; print(sll.__file__)", **options)
    assert file.startswith(str(where))


def test_versions_agree():
    """The version has one place; what repeats it is in step."""
    assert f"version: {sll.__version__}\n" in (ROOT / "CITATION.cff").read_text(encoding="utf-8")
    assert f"({sll.__version__})" in (ROOT / "CHANGELOG.md").read_text(encoding="utf-8")


def test_the_workflow_runs_what_ci_runs():
    ours = re.findall(r"^make (.*)$", (ROOT / ".ci" / "run").read_text(encoding="utf-8"), re.MULTILINE)
    workflow = (ROOT / ".github" / "workflows" / "ci.yml").read_text(encoding="utf-8")
    (targets,) = re.findall(r"target: \[(.*)\]", workflow)
    assert targets.split(", ") == ours and "make ${{ matrix.target }}" in workflow
