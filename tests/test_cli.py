"""The command line: what goes to stdout, what to stderr, and with which code it ends."""

from __future__ import annotations

import json
import math
import subprocess
import sys
from pathlib import Path

import numpy
import pytest
import torch
from matplotlib.figure import Figure
from typer.testing import CliRunner

import sll
from sll.__main__ import main
from sll._rules.index import LEFT_ALONE, SOURCES
from sll.tools import cli, doctor, inputs

PROGRAM = """
import torch
from torch import nn


def scaled(x, factor=1.0, reduction="sum"):
    print("hello from the program")
    return getattr(torch.round(factor * x), reduction)()


def wrong(x):
    return reshaped(torch.sign(x))


def reshaped(x):
    return x.view(7, 7)


def with_eps(x, eps, forward):
    return torch.sign(x) * eps * forward


class Net(nn.Module):
    def __init__(self):
        super().__init__()
        self.layer = nn.Linear(3, 4)

    def forward(self, x):
        return torch.sign(self.layer(x))

    def twice(self, x):
        return self(x) * 2


class Sized(nn.Module):
    def __init__(self, size):
        super().__init__()


class Raises:
    def __init__(self):
        raise OSError("no such device")


net = Net()
number = 3


def lost(x):
    return torch.sign(x).detach().sum() + 0 * x.sum()


def undefined(x):
    return (torch.round(x) / 0).sum() * 0
"""


def run(*args):
    return CliRunner().invoke(cli.app, list(map(str, args)), prog_name="sll")


@pytest.fixture
def here(tmp_path, monkeypatch):
    """An empty working directory with a program in it; what is imported from there is forgotten again."""
    (tmp_path / "program.py").write_text(PROGRAM)
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(sys, "path", sys.path[:])
    before = set(sys.modules)
    yield tmp_path
    for name in set(sys.modules) - before:
        if str(getattr(sys.modules[name], "__file__", "")).startswith(str(tmp_path)):
            del sys.modules[name]


def test_version():
    done = run("--version")
    assert (done.exit_code, done.stdout) == (0, f"sll {sll.__version__}\n")


@pytest.mark.parametrize("command", ["", "demo", "compare", "explain", "ops", "doctor"])
def test_help_teaches(command):
    done = run(*command.split(), "--help")
    assert done.exit_code == 0
    assert "Exit codes: 0 done, 1 something failed while it ran, 2 called in a wrong way." in done.stdout
    assert command == "ops" or f"sll {command or 'doctor'}" in done.stdout  # an example
    assert ("--json" in done.stdout) == ("JSON keys:" in done.stdout)


def test_called_in_a_wrong_way():
    for args in (["nonsense"], ["ops", "--nonsense"], ["explain"], ["explain", "math:floor", "--seed", "one"]):
        done = run(*args)
        assert done.exit_code == 2 and done.stdout == "" and "Usage: sll" in done.stderr


# --- inputs ----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "text, value",
    [
        ("linspace(-1, 1, 5)", torch.linspace(-1, 1, 5)),
        ("arange(4)", torch.arange(4)),
        ("zeros(2, 3)", torch.zeros(2, 3)),
        ("ones((2, 3), dtype=float64)", torch.ones(2, 3, dtype=torch.float64)),
        ("full((2,), -0.5)", torch.full((2,), -0.5)),
        ("[[1.0, -2.0]]", torch.tensor([[1.0, -2.0]])),
        ("[1, 2]", torch.tensor([1, 2])),
        ("[True, False]", torch.tensor([True, False])),
        ("0.5", 0.5),
        ("-3", -3),
        ("True", True),
        ("None", None),
        ("mean", "mean"),
        ("'two words'", "two words"),
    ],
)
def test_input(text, value):
    found = inputs.read_input(text)
    assert type(found) is type(value)
    if isinstance(value, torch.Tensor):
        assert found.dtype == value.dtype and torch.equal(found, value)
    else:
        assert found == value


@pytest.mark.parametrize("name", ["randn(2, 3)", "rand(2, 3)", "randint(0, 9, (2, 3))"])
def test_random_input(name):
    torch.manual_seed(1)
    first = inputs.read_input(name)
    torch.manual_seed(1)
    assert first.shape == (2, 3) and torch.equal(first, inputs.read_input(name))


def test_input_files(tmp_path):
    x = torch.randn(3, 2)
    torch.save(x, tmp_path / "x.pt")
    numpy.save(tmp_path / "x.npy", x.numpy())
    assert torch.equal(inputs.read_input(str(tmp_path / "x.pt")), x)
    assert torch.equal(inputs.read_input(str(tmp_path / "x.npy")), x)


@pytest.mark.parametrize(
    "text, said",
    [
        ("randn(3", "is not one of randn(8, 3)"),
        ("", "is not one of randn(8, 3)"),
        ("rndn(3)", "calls rndn; known are randn"),
        ("randn", "lacks its arguments"),
        ("randn('a')", "is refused by torch.randn"),
        ("zeros(2, dtype=complex64)", "dtype=complex64; known are float64"),
        ("zeros(**{})", "**"),
        ("[[1.0, 2.0], [3.0]]", "not a rectangular list"),
        ("['a']", "not a rectangular list"),
        ("{'a': 1}", "holds a dict"),
        ("__import__('os').getcwd()", "calls __import__('os').getcwd"),
        ("zeros(len('abc'))", "holds \"len('abc')\""),
        ("x + 1", "holds 'x + 1'"),
        ("absent.pt", "names a file that is not there"),
        ("absent.npy", "names a file that is not there"),
        ("text.pt", "cannot be read with torch.load"),
        ("text.npy", "cannot be read as an array"),
    ],
)
def test_bad_input(here, text, said):
    (here / "text.pt").write_text("text")
    (here / "text.npy").write_text("text")
    done = run("explain", "program:scaled", "--input", text)
    assert done.exit_code == 2 and done.stdout == ""
    assert done.stderr.startswith(f"error: --input {text!r} ") and said in done.stderr


def test_nothing_in_a_file_is_run(here):
    class Harmful:
        def __reduce__(self):
            return Path.touch, (here / "harm",)

    torch.save(Harmful(), here / "x.pt")
    done = run("explain", "program:scaled", "--input", "x.pt")
    assert done.exit_code == 2 and "weights_only" in done.stderr and not (here / "harm").exists()


# --- explain ---------------------------------------------------------------------------------------------------------


def explained(*args):
    done = run("explain", *args, "--json")
    assert done.exit_code == 0, done.stderr
    return json.loads(done.stdout)


def test_explain_json(here):
    done = run("explain", "program:scaled", "-i", "[0.45, 0.5, 0.9]", "-i", "factor=1.0", "--eps", "0.1", "--json")
    found = json.loads(done.stdout)  # nothing else is there
    assert "hello from the program" in done.stderr
    documented = run("explain", "--help").stdout.partition("JSON keys:")[2]
    assert {"target", "seed", "inputs", "report"} <= set(found) and all(key in documented for key in found)
    assert (found["target"], found["seed"]) == ("program:scaled", 0)
    (x,) = found["inputs"]
    assert (x["name"], x["shape"], x["hard"]) == ("x", [3], 0.0)
    assert math.isclose(x["linearized"], math.sqrt(2) * 5, rel_tol=1e-4)  # two in the band, with slope 1 / (2 eps)
    (row,) = found["report"]["rows"]
    line = 1 + PROGRAM.splitlines().index("    return getattr(torch.round(factor * x), reduction)()")
    assert (row["file"], row["line"], row["op"]) == (str(here / "program.py"), line, "round")
    assert (row["elements"], row["in_band"]) == (3, 2)


def test_explain_in_words(here):
    done = run("explain", "program.py:scaled", "--input", "[0.45, 0.5, 0.9]", "--eps", "0.1", "--table")
    assert done.exit_code == 0 and done.stderr == ""
    assert "hello from the program" in done.stdout and "program.py:8 (round): 2 of 3" in done.stdout
    assert done.stdout.count("program.py:8") == 2  # in words and in the table


def test_explain_can_check(here):
    args = ("explain", "program.py:scaled", "--input", "linspace(-3, 3, 40)", "--eps", "0.05", "--check")
    done = run(*args)
    assert done.exit_code == 0
    _, _, checked = done.stdout.partition("Against the hard program\n")
    assert checked.lstrip().startswith("right — sll.linearize(eps=0.05, forward='linear')")
    found = json.loads(run(*args, "--json").stdout)["check"]
    assert (found["verdict"], found["arguments"][0]["name"]) == ("right", "x")
    assert 100 < found["runs"] < 10_000
    assert explained("program.py:scaled", "--input", "ones(4)", "--eps", "0.1")["check"] is None


def test_explain_checks_what_is_wrong(here):
    found = explained("program.py:lost", "--input", "linspace(-3, 3, 40)", "--eps", "0.05", "--check")["check"]
    line = 1 + PROGRAM.splitlines().index("    return torch.sign(x).detach().sum() + 0 * x.sum()")
    assert (found["verdict"], found["lines"][0]["line"]) == ("wrong here", line)


def test_explain_cannot_check(here):
    done = run("explain", "program.py:undefined", "--input", "ones(4)", "--eps", "0.05", "--check")
    assert done.exit_code == 1
    assert "fn cannot be checked here: what fn returns in the region is nan" in done.stderr


def test_seed(here):
    args = ("program.py:Net", "--input", "randn(64, 3)", "--eps", "auto")
    first, again, other = explained(*args), explained(*args), explained(*args, "--seed", 1)
    assert first["inputs"] == again["inputs"] != other["inputs"]
    assert {x["name"] for x in first["inputs"]} == {"layer.weight", "layer.bias"}


@pytest.mark.parametrize("name", ["Net", "net", "net.twice", "net.forward"])
def test_explain_modules(here, name):
    found = explained(f"program:{name}", "--input", "randn(64, 3)", "--eps", 0.5)
    assert all(x["hard"] == 0 and x["linearized"] > 0 for x in found["inputs"])


def test_explain_arguments_with_our_names(here):
    found = explained("program:with_eps", "-i", "zeros(4)", "-i", "eps=2.0", "-i", "forward=3.0", "--eps", 0.1)
    assert found["region"] == "sll.linearize(eps=0.1, forward='linear')"
    assert math.isclose(
        found["inputs"][0]["linearized"], 2 * 2 * 3 / 0.1, rel_tol=1e-5
    )  # sqrt(4) * eps * forward / 0.1


def test_explain_forward(here):
    found = explained("program:scaled", "--input", "ones(4)", "--eps", "0.1", "--forward", "straight-through")
    assert found["region"] == "sll.linearize(eps=0.1, forward='straight-through')"


def test_explain_a_function_of_torch():
    (row,) = explained("torch:round", "--input", "linspace(-2, 2, 41)", "--eps", "0.1")["report"]["rows"]
    assert (row["file"], row["line"], row["op"]) == ("<torch:round>", 1, "round")


def test_explain_follows_python_and_looks_through(here):
    (here / "asks.py").write_text(
        "import torch\n\n\ndef asks(x):\n    return x * 2 if x > 1.0 else x * 5\n\n\n"
        "def cuts(x):\n    with torch.no_grad():\n        y = (x > 1.0).float()\n    return y.sum()\n"
    )
    once = explained("asks.py:asks", "-i", "full((), 1.02)", "--eps", "0.1", "--forward", "hard")
    again = explained("asks.py:asks", "-i", "full((), 1.02)", "--eps", "0.1", "--forward", "hard", "--paths", "4")
    assert again["inputs"][0]["linearized"] != once["inputs"][0]["linearized"] and again["report"]["flips"]
    dead = explained("asks.py:cuts", "-i", "[1.02, 3.0]", "--eps", "0.1")
    seen = explained("asks.py:cuts", "-i", "[1.02, 3.0]", "--eps", "0.1", "--see-through")
    assert not dead["inputs"][0]["linearized"] and seen["inputs"][0]["linearized"] > 0


def test_explain_the_demo():
    """Its programs are programs like any other, although they are in our package."""
    rows = explained("sll.tools.demo:SignNet", "--input", "rand(8, 64)", "--eps", "0.5")["report"]["rows"]
    assert [Path(row["file"]).name for row in rows] == ["demo.py", "demo.py"]


def test_explain_plot(here):
    done = run("explain", "program:scaled", "--input", "randn(9)", "--eps", "0.3", "--plot", "made/report.png")
    assert done.exit_code == 0 and "figure: made/report.png" in done.stderr
    assert (here / "made" / "report.png").read_bytes().startswith(b"\x89PNG")


@pytest.mark.parametrize(
    "args, said",
    [
        (["program"], "TARGET must be module:function or path/to/file.py:function, got 'program'"),
        ([":scaled"], "TARGET must be module:function"),
        (["absent:scaled"], "there is no module absent. Run sll in the directory it is in"),
        (["absent.inner:scaled"], "there is no module absent."),
        (["absent.py:scaled"], "there is no file absent.py"),
        (["program:scale"], "program has no 'scale'; close to it: scaled"),
        (["program:number"], "cannot be called, it is of type int"),
        (["program:Sized"], "cannot be made without arguments (missing a required argument: 'size')"),
        (["program:scaled"], "do not fit scaled(x, factor=1.0, reduction='sum'): missing a required argument: 'x'"),
        (["program:scaled", "-i", "1", "-i", "size=2"], "unexpected keyword argument 'size'"),
        (["program:scaled", "-i", "x=1", "-i", "x=2"], "x is given twice"),
        (["program:net"], "do not fit forward(x)"),
        (["program:scaled", "--eps", "wide"], "--eps must be"),
        (["program:scaled", "--eps", "-1"], "--eps must be positive"),
        (["program:scaled", "--forward", "soft"], "--forward must be one of 'linear'"),
        (["program:scaled", "--plot", "report.txt2"], "--plot report.txt2: the name must end in the format"),
        (["program:scaled", "--plot", "folder.png"], "is a directory"),
        (["program:scaled", "--plot", "program.py/report.png"], "cannot be made"),
    ],
)
def test_explain_called_in_a_wrong_way(here, args, said):
    (here / "folder.png").mkdir()
    done = run("explain", *args)
    assert done.exit_code == 2 and done.stdout == ""
    assert done.stderr.startswith("error: ") and said in done.stderr and done.stderr.count("\n") == 1


@pytest.mark.parametrize(
    "target, file, said",
    [
        ("program:wrong", "program.py:16", "RuntimeError: shape '[7, 7]' is invalid for input of size 8"),
        ("program:Raises", "program.py:42", "OSError: no such device"),
        ("imports:f", "imports.py:1", "ModuleNotFoundError: No module named 'nothing_like_it'"),
        ("divides.py:f", "divides.py:2", "ZeroDivisionError"),
        ("leaves:f", "leaves.py:1", "SystemExit: 3"),
        ("syntax:f", "syntax.py:1", "SyntaxError: invalid syntax"),
    ],
)
def test_the_program_raises(here, target, file, said):
    (here / "imports.py").write_text("import nothing_like_it")
    (here / "divides.py").write_text("x = 0\n1 / x\n")
    (here / "leaves.py").write_text("import sys; sys.exit(3)")
    (here / "syntax.py").write_text("def f(:\n")
    done = run("explain", target, "--input", "randn(8)")
    assert done.exit_code == 1 and done.stdout == ""
    assert f"raised at {here / file}" in done.stderr and said in done.stderr and "--traceback" in done.stderr
    assert done.stderr.count("\n") == 3


def test_traceback_ends_at_the_users_line(here):
    done = run("explain", "program:wrong", "--input", "randn(8)", "--traceback")
    assert done.exit_code == 1 and done.stdout == ""
    places = [line.split(", in ")[1] for line in done.stderr.splitlines() if line.startswith("  File ")]
    assert places == ["wrong", "reshaped"]
    assert done.stderr.endswith("RuntimeError: shape '[7, 7]' is invalid for input of size 8\n")


# --- ops -------------------------------------------------------------------------------------------------------------


def test_ops():
    found = json.loads(run("ops", "--json").stdout)
    assert {row["name"]: row["boundaries"] for row in found["linearized"]} == SOURCES
    assert {row["name"]: row["reason"] for row in found["left_alone"]} == LEFT_ALONE
    words = run("ops").stdout.split()
    assert set(SOURCES) | set(LEFT_ALONE) <= set(words)


# --- doctor ----------------------------------------------------------------------------------------------------------


def examined(*args):
    done = run("doctor", "--json", *args)
    return done.exit_code, json.loads(done.stdout)


def test_doctor():
    code, found = examined()
    assert code == 0 and found["ok"] is True
    keys = ["ok", "versions", "devices", "accelerations", "checks", "function_modes", "known_problems"]
    assert list(found) == keys
    assert found["versions"]["sll"] == sll.__version__ and found["versions"]["torch"] == torch.__version__
    checks = {check["name"]: check for check in found["checks"] if check["device"] in ("", "cpu")}
    assert checks["gradient"]["status"] == checks["deterministic"]["status"] == "passed"
    compiled = checks["gradient, compiled (aot_eager)"]["status"]
    assert compiled == ("passed" if doctor._COMPILES else "skipped")
    assert not torch.are_deterministic_algorithms_enabled()


@pytest.fixture
def without_compiling(monkeypatch):
    monkeypatch.setattr(doctor, "_COMPILES", False)


def test_doctor_with_an_old_torch(without_compiling):
    code, found = examined()
    assert code == 0
    assert [check["status"] for check in found["checks"] if "compiled" in check["name"]] == ["skipped"] * len(
        found["devices"]
    )
    assert "PyTorch 2.10 or later" in found["known_problems"][0]
    assert "PyTorch 2.10 or later" in " ".join(run("doctor").stdout.split())


def test_doctor_finds_a_wrong_gradient(without_compiling, monkeypatch):
    monkeypatch.setattr(doctor, "_discrete", lambda x: torch.sign(x).sum())
    code, found = examined()
    assert code == 1 and found["ok"] is False
    failed = [check for check in found["checks"] if check["status"] == "failed"]
    assert {check["name"] for check in failed} == {"gradient"}
    assert failed[0]["detail"] == "the gradient is [0.0, 100.0, 0.0], not [0.0, 1000.0, 0.0]"
    shown = run("doctor")
    assert shown.exit_code == 1 and "failed" in shown.stdout and "all checks passed" not in shown.stdout


def test_doctor_survives_a_check_that_raises(without_compiling, monkeypatch):
    def raises(x):
        raise RuntimeError("no kernel image\nis available")

    monkeypatch.setattr(doctor, "_discrete", raises)
    code, found = examined()
    assert code == 1
    assert "RuntimeError: no kernel image" in [check["detail"] for check in found["checks"]]


def test_doctor_names_modes_of_others(without_compiling):
    with torch.device("cpu"):
        code, found = examined()
    assert code == 0 and found["function_modes"] == ["torch.utils._device.DeviceContext"]


# --- demo and compare ------------------------------------------------------------------------------------------------


def test_demo(tmp_path, monkeypatch):
    """One of its tasks; `test_readme` runs them all."""
    from sll.tools import demo

    monkeypatch.setattr(demo, "TASKS", demo.TASKS[2:])
    done = run("demo", "--quick", "--json", "-o", tmp_path / "new" / "picture.png")
    assert done.exit_code == 0, done.stderr
    found = json.loads(done.stdout)
    assert list(found) == ["seeds", "quick", "tasks", "figure", "seconds"] and found["seeds"] == [0]
    assert [task["name"] for task in found["tasks"]] == ["direct F1"]
    for task in found["tasks"]:
        assert [method["name"] for method in task["methods"]] == ["plain", "by hand", "sll auto"]
        for method in task["methods"]:
            assert len(method["test"]) == len(method["seconds"]) == 1 and 0 <= method["test"][0] <= 100
    assert (tmp_path / "new" / "picture.png").stat().st_size > 10_000


def test_demo_needs_its_extra(monkeypatch):
    monkeypatch.delitem(sys.modules, "sll.tools.demo", raising=False)
    monkeypatch.delattr(sll.tools, "demo", raising=False)
    monkeypatch.setitem(sys.modules, "torchmetrics.functional.classification", None)
    done = run("demo")
    assert (
        done.exit_code == 1
        and "pip install rich typer matplotlib scikit-learn torchmetrics" in done.stderr
        and done.stdout == ""
    )


def test_compare(here, monkeypatch):
    asked = []

    def compare(*, quick):
        asked.append(quick)
        return Figure()

    monkeypatch.setattr(sll.plot, "compare", compare)
    done = run("compare", "--quick", "-o", "made/six.svg")
    assert done.exit_code == 0 and done.stdout == "figure: made/six.svg\n" and asked == [True]
    assert "<svg" in (here / "made" / "six.svg").read_text()
    done = run("compare", "-o", "six.doc")
    assert done.exit_code == 2 and asked == [True] and "--output six.doc" in done.stderr


def test_compare_needs_matplotlib(here, monkeypatch):
    monkeypatch.setitem(sys.modules, "matplotlib.backend_bases", None)
    done = run("compare")
    assert done.exit_code == 1 and "pip install matplotlib" in done.stderr


# --- the process -----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("missing", ["typer", "rich.console"])
def test_without_its_extra(monkeypatch, capsys, missing):
    ours = ("sll.tools.cli", "sll.tools.console")
    for name in [name for name in sys.modules if name in ours or name.startswith(missing)]:
        monkeypatch.delitem(sys.modules, name)
    for name in ours:
        monkeypatch.delattr(sll.tools, name.rpartition(".")[2])
    monkeypatch.setitem(sys.modules, missing, None)
    with pytest.raises(SystemExit) as stopped:
        main()
    assert stopped.value.code == 1
    written = capsys.readouterr()
    assert written.out == "" and written.err.endswith(": pip install rich typer matplotlib\n")


@pytest.mark.parametrize("args", ["--version", "--help", "explain --help", "", "nonsense", "ops --nonsense", "explain"])
def test_help_and_wrong_calls_do_not_wait_for_torch(args):
    """They take 0.1 to 0.2 seconds of CPU, which is what typer takes; torch alone takes one or more."""
    program = f"""
import runpy, sys
sys.argv = ["sll", *{args.split()!r}]
try:
    runpy.run_module("sll", run_name="__main__")
except SystemExit as ended:
    sys.exit(f"{{ended.code}}, torch: {{'torch' in sys.modules}}")
"""
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True)
    code = 0 if args == "--version" or "--help" in args else 2
    assert done.stderr.endswith(f"{code}, torch: False\n"), done.stderr


def test_process(here):
    """From another directory, into pipes: the exit code arrives, and there are no colours."""
    command = [sys.executable, "-m", "sll", "explain", "program:wrong", "-i", "randn(8)", "--traceback", "--json"]
    done = subprocess.run(command, capture_output=True, text=True, cwd=here)
    assert done.returncode == 1 and done.stdout == "" and "\x1b" not in done.stderr
    assert done.stderr.startswith("Traceback (most recent call last):\n  File ")
